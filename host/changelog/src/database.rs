//! Connections of both engines behind one face: statements, values, transactions that never outlive their owner.
//!
//! Statements are written once. What the engines say differently is a word in braces, which [`Dialect`] replaces; tables are
//! written as SQLite names them, `portolan_log`, and are `portolan.log` in PostgreSQL.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgDatabaseError, PgRow};
use sqlx::sqlite::{SqlitePool, SqliteRow};
use sqlx::{
    AssertSqlSafe, Column as _, Connection as _, Postgres, Row as _, Sqlite, TypeInfo as _, ValueRef as _,
};
use tokio::time::{Instant, timeout};

use crate::defaults::{ANSWER_TIMEOUT, BEGIN_AGAIN, SQLITE_LOOK_STEPS};
use crate::error::Error;
use crate::login::Login;
use crate::rejection::Rejection;

/// A value that goes to a database or comes from it.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Bytes.
    Blob(Vec<u8>),
    /// Truth, of PostgreSQL.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Nothing.
    Null,
    /// A fraction.
    Real(f64),
    /// Text, and in PostgreSQL all that is cast to it.
    Text(String),
}

/// One row of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Row(pub Vec<Value>);

/// How a shard's database is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// PostgreSQL's.
    Postgres,
    /// SQLite's.
    Sqlite,
}

/// SQLite's clock in microseconds, from milliseconds: also for old libraries of direct writers.
pub(crate) const SQLITE_NOW: &str =
    "(CAST((julianday('now') - 2440587.5) * 86400000.0 + 0.5 AS INTEGER) * 1000)";

/// Connections of one role, which all wait as long for answers.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    engine: PoolOf,
    patience: Duration,
}

#[derive(Clone, Debug)]
enum PoolOf {
    Postgres(Arc<Login>),
    Sqlite(SqlitePool),
}

/// A connection in use. One that is dropped within a statement or a transaction is closed, so that the database rolls it
/// back, and never goes back among the others.
#[derive(Debug)]
pub(crate) struct Session {
    connection: Connection,
    within: bool,
    transaction: bool,
    /// What it was told holds for its use alone: it is closed after it.
    once: bool,
    /// How long an answer is waited for.
    patience: Duration,
    /// Told to SQLite, which has no limit of time of its own: nobody waits for the answer any more.
    given_up: Arc<AtomicBool>,
}

#[derive(Debug)]
enum Connection {
    Postgres(PoolConnection<Postgres>),
    Sqlite(PoolConnection<Sqlite>),
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<u64> for Value {
    /// Numbers that no database holds become its largest, which no log reaches.
    fn from(number: u64) -> Self {
        Self::Int(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl Row {
    /// The value of a column, by its place.
    #[must_use]
    pub fn value(&self, at: usize) -> &Value {
        self.0.get(at).unwrap_or(&Value::Null)
    }

    /// A text of a column, by its place.
    ///
    /// # Errors
    /// [`Error::Damaged`] when it is none.
    pub fn text(&self, at: usize) -> Result<String, Error> {
        self.text_or_null(at)?.ok_or_else(|| odd(at, self))
    }

    /// A text of a column that may be NULL.
    ///
    /// # Errors
    /// As [`Self::text`].
    pub fn text_or_null(&self, at: usize) -> Result<Option<String>, Error> {
        match self.value(at) {
            Value::Null => Ok(None),
            Value::Text(text) => Ok(Some(text.clone())),
            _ => Err(odd(at, self)),
        }
    }

    /// Bytes of a column, by its place.
    ///
    /// # Errors
    /// As [`Self::text`].
    pub fn blob(&self, at: usize) -> Result<Vec<u8>, Error> {
        match self.value(at) {
            Value::Blob(bytes) => Ok(bytes.clone()),
            _ => Err(odd(at, self)),
        }
    }

    /// A whole number of a column, or truth, by its place.
    ///
    /// # Errors
    /// As [`Self::text`].
    pub fn number(&self, at: usize) -> Result<u64, Error> {
        self.number_or_null(at)?.ok_or_else(|| odd(at, self))
    }

    /// A whole number of a column that may be NULL.
    ///
    /// # Errors
    /// As [`Self::text`].
    pub fn number_or_null(&self, at: usize) -> Result<Option<u64>, Error> {
        match self.value(at) {
            Value::Bool(value) => Ok(Some(u64::from(*value))),
            Value::Int(number) => u64::try_from(*number).map(Some).map_err(|_| odd(at, self)),
            Value::Null => Ok(None),
            _ => Err(odd(at, self)),
        }
    }
}

fn odd(at: usize, row: &Row) -> Error {
    Error::Damaged(format!("column {at} of an answer is {:?}", row.value(at)))
}

impl Dialect {
    pub(crate) fn sql(self, text: &str) -> String {
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        match self {
            Self::Postgres => text
                .replace("portolan_", "portolan.")
                .replace("{now}", "portolan.now_us()")
                .replace("{began}", "portolan.seen_us()")
                .replace("{horizon}", "portolan.horizon()")
                .replace("{row_bytes}", "bytes")
                // One partition is looked into for a record, not all.
                .replace("{piece}", ", piece")
                .replace("{same_piece}", "AND s.piece = fit.piece")
                .replace("{each}", "jsonb_array_elements($1::jsonb) each (value)")
                .replace("{lock}", "FOR UPDATE"),
            Self::Sqlite => text
                .replace("{now}", SQLITE_NOW)
                .replace("{began}", SQLITE_NOW)
                .replace("{horizon}", "(SELECT tx FROM portolan_fence)")
                // The record's header tells it.
                .replace("{row_bytes}", "coalesce(octet_length(row), 0)")
                .replace("{piece}", "")
                .replace("{same_piece}", "")
                .replace("{each}", "json_each($1) each")
                .replace("{lock}", ""),
        }
    }
}

impl Pool {
    pub(crate) fn postgres(login: Arc<Login>, patience: Duration) -> Self {
        Self { engine: PoolOf::Postgres(login), patience }
    }

    pub(crate) const fn sqlite(pool: SqlitePool) -> Self {
        Self { engine: PoolOf::Sqlite(pool), patience: ANSWER_TIMEOUT }
    }

    pub(crate) fn waits(self, patience: Duration) -> Self {
        Self { patience, engine: self.engine }
    }

    pub(crate) const fn dialect(&self) -> Dialect {
        match self.engine {
            PoolOf::Postgres(_) => Dialect::Postgres,
            PoolOf::Sqlite(_) => Dialect::Sqlite,
        }
    }

    /// The door of PostgreSQL, if it is one.
    pub(crate) const fn login(&self) -> Option<&Arc<Login>> {
        match &self.engine {
            PoolOf::Postgres(login) => Some(login),
            PoolOf::Sqlite(_) => None,
        }
    }

    pub(crate) async fn acquire(&self) -> Result<Session, Error> {
        let given_up = Arc::new(AtomicBool::new(false));
        let connection = match &self.engine {
            PoolOf::Postgres(login) => Connection::Postgres(login.acquire().await?),
            PoolOf::Sqlite(pool) => {
                let mut connection = pool.acquire().await.map_err(|error| Error::of(&error))?;
                let looked_at = Arc::clone(&given_up);
                let mut handle = connection.lock_handle().await.map_err(|error| Error::of(&error))?;
                handle.set_progress_handler(SQLITE_LOOK_STEPS, move || !looked_at.load(Ordering::Relaxed));
                drop(handle);
                Connection::Sqlite(connection)
            }
        };
        let (once, patience) = (false, self.patience);
        Ok(Session { connection, within: false, transaction: false, once, patience, given_up })
    }

    /// A transaction that writes. In SQLite it is alone from its start.
    pub(crate) async fn begin(&self) -> Result<Session, Error> {
        self.begin_with(false, &[]).await
    }

    /// A transaction that reads one state.
    pub(crate) async fn snapshot(&self) -> Result<Session, Error> {
        self.begin_with(true, &[]).await
    }

    /// A transaction that reads one state, or that writes, with settings of PostgreSQL's that hold within it: one way there and back.
    pub(crate) async fn begin_with(&self, reads: bool, settings: &[(&str, &str)]) -> Result<Session, Error> {
        let begun = Instant::now();
        loop {
            let mut session = self.acquire().await?;
            let done = match (self.dialect(), reads) {
                (Dialect::Postgres, _) => session.run_all(&begin(reads, settings)).await,
                (Dialect::Sqlite, true) => session.execute("BEGIN", &[]).await.map(drop),
                (Dialect::Sqlite, false) => session.execute("BEGIN IMMEDIATE", &[]).await.map(drop),
            };
            // Several statements may have been done in part: such a connection is not used again.
            session.transaction = done.is_ok() || self.dialect() == Dialect::Postgres;
            match done {
                Ok(()) => return Ok(session),
                // It was dead when it was taken: nothing has been done, and another may live.
                Err(Error::Away(_))
                    if self.dialect() == Dialect::Postgres && begun.elapsed() < BEGIN_AGAIN => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// A transaction's beginning in PostgreSQL.
fn begin(reads: bool, settings: &[(&str, &str)]) -> String {
    let mut text = if reads { "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY" } else { "BEGIN" }.to_owned();
    let quoted = |text: &str| text.replace('\'', "''").replace('\\', "\\\\");
    let set = |(name, value): &(&str, &str)| format!("set_config('{name}', E'{}', true)", quoted(value));
    if !settings.is_empty() {
        text.push_str("; SELECT ");
        text.push_str(&settings.iter().map(set).collect::<Vec<_>>().join(", "));
    }
    text
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.within {
            self.given_up.store(true, Ordering::Relaxed);
        }
        if self.within || self.transaction || self.once {
            match &mut self.connection {
                Connection::Postgres(connection) => connection.close_on_drop(),
                Connection::Sqlite(connection) => connection.close_on_drop(),
            }
        }
    }
}

impl Session {
    pub(crate) const fn dialect(&self) -> Dialect {
        match self.connection {
            Connection::Postgres(_) => Dialect::Postgres,
            Connection::Sqlite(_) => Dialect::Sqlite,
        }
    }

    /// From here on this connection is its owner's alone, waits so long for answers, and is closed after it.
    pub(crate) const fn keep(&mut self, patience: Duration) {
        (self.once, self.patience) = (true, patience);
    }

    /// From here on it waits so long for answers.
    pub(crate) const fn waits(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// From here on this connection is its owner's alone, and is closed after it.
    pub(crate) const fn keep_alone(&mut self) {
        self.once = true;
    }

    /// Runs a statement as it stands, and says how many rows it touched.
    pub(crate) async fn execute(&mut self, sql: &str, args: &[Value]) -> Result<u64, Error> {
        self.within = true;
        let Ok(done) = timeout(self.patience, self.connection.execute(sql, args)).await else {
            return Err(self.late());
        };
        self.within = false;
        done
    }

    /// Runs several statements as they stand, without values.
    pub(crate) async fn run_all(&mut self, sql: &str) -> Result<(), Error> {
        self.within = true;
        let Ok(done) = timeout(self.patience, self.connection.run_all(sql)).await else {
            return Err(self.late());
        };
        self.within = false;
        done
    }

    /// Runs a query as it stands.
    pub(crate) async fn fetch(&mut self, sql: &str, args: &[Value]) -> Result<Vec<Row>, Error> {
        self.within = true;
        let Ok(rows) = timeout(self.patience, self.connection.fetch(sql, args)).await else {
            return Err(self.late());
        };
        self.within = false;
        rows
    }

    /// No answer came in time. PostgreSQL ends statements earlier by itself, so that one that is silent is away; in SQLite the
    /// statement was too much.
    fn late(&self) -> Error {
        let why = format!("no answer within {:?}", self.patience);
        match self.dialect() {
            Dialect::Postgres => Error::Away(why),
            Dialect::Sqlite => Error::Busy(why),
        }
    }

    /// Runs a statement of both engines.
    pub(crate) async fn run(&mut self, text: &str, args: &[Value]) -> Result<u64, Error> {
        let sql = self.dialect().sql(text);
        self.execute(&sql, args).await
    }

    /// Runs a query of both engines.
    pub(crate) async fn query(&mut self, text: &str, args: &[Value]) -> Result<Vec<Row>, Error> {
        let sql = self.dialect().sql(text);
        self.fetch(&sql, args).await
    }

    /// Runs a query that has one answer.
    pub(crate) async fn one(&mut self, text: &str, args: &[Value]) -> Result<Row, Error> {
        let rows = self.query(text, args).await?;
        rows.into_iter().next().ok_or_else(|| Error::Damaged(format!("no answer to: {text}")))
    }

    /// Runs statements of which either all are done or none.
    pub(crate) async fn attempt(&mut self, sql: &str, args: &[Value]) -> Result<u64, Error> {
        self.execute("SAVEPOINT portolan_attempt", &[]).await?;
        match self.execute(sql, args).await {
            Ok(done) => {
                self.execute("RELEASE portolan_attempt", &[]).await?;
                Ok(done)
            }
            Err(error) => {
                self.execute("ROLLBACK TO portolan_attempt", &[]).await?;
                self.execute("RELEASE portolan_attempt", &[]).await?;
                Err(error)
            }
        }
    }

    /// Ends a transaction without a trace.
    pub(crate) async fn rollback(mut self) -> Result<(), Error> {
        self.execute("ROLLBACK", &[]).await?;
        self.transaction = false;
        Ok(())
    }

    /// Runs a last query of PostgreSQL's without values and commits, in one way there and back. When the database does not say that it did,
    /// nobody knows.
    pub(crate) async fn commit_after(mut self, last: &str) -> Result<Vec<Row>, Error> {
        self.within = true;
        let done = timeout(self.patience, self.connection.fetch_all(&format!("{last}; COMMIT"))).await;
        let done = done.unwrap_or_else(|_| Err(self.late()));
        match done {
            Ok(rows) => {
                (self.within, self.transaction) = (false, false);
                rows.map_err(|error| {
                    Error::Unknown(format!("it is written, and nobody knows where: {error}"))
                })
            }
            Err(Error::Away(why)) => Err(Error::Unknown(why)),
            Err(error) => Err(error),
        }
    }

    /// Commits. When the database does not say that it did, nobody knows.
    pub(crate) async fn commit(mut self) -> Result<(), Error> {
        match self.execute("COMMIT", &[]).await {
            Ok(_) => {
                self.transaction = false;
                Ok(())
            }
            Err(Error::Away(why)) => Err(Error::Unknown(why)),
            Err(error) => Err(error),
        }
    }
}

/// Binds values to a query of either engine, whose types have nothing in common.
macro_rules! bind {
    ($query:expr, $args:expr) => {{
        let mut query = $query;
        for value in $args {
            query = match value {
                Value::Blob(bytes) => query.bind(bytes.clone()),
                Value::Bool(value) => query.bind(*value),
                Value::Int(number) => query.bind(*number),
                Value::Null => query.bind(None::<String>),
                Value::Real(number) => query.bind(*number),
                Value::Text(text) => query.bind(text.clone()),
            };
        }
        query
    }};
}

impl Connection {
    async fn execute(&mut self, sql: &str, args: &[Value]) -> Result<u64, Error> {
        let kept = self.keeps(sql);
        self.refresh(kept).await?;
        let sql = AssertSqlSafe(sql.to_owned());
        let done = match self {
            Self::Postgres(connection) => {
                let query = bind!(sqlx::query::<Postgres>(sql).persistent(kept), args);
                query.execute(&mut **connection).await.map(|done| done.rows_affected())
            }
            Self::Sqlite(connection) => {
                let query = bind!(sqlx::query::<Sqlite>(sql).persistent(kept), args);
                query.execute(&mut **connection).await.map(|done| done.rows_affected())
            }
        };
        match done {
            Ok(done) => Ok(done),
            Err(error) => Err(self.failed(&error).await),
        }
    }

    async fn run_all(&mut self, sql: &str) -> Result<(), Error> {
        let sql = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        let done = match self {
            Self::Postgres(connection) => sql.execute(&mut **connection).await.map(drop),
            Self::Sqlite(connection) => sql.execute(&mut **connection).await.map(drop),
        };
        match done {
            Ok(()) => Ok(()),
            Err(error) => Err(self.failed(&error).await),
        }
    }

    /// The rows of several statements of PostgreSQL's. That one cannot be read is told apart: the statements were done.
    async fn fetch_all(&mut self, sql: &str) -> Result<Result<Vec<Row>, Error>, Error> {
        let sql = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        let rows = match self {
            Self::Postgres(connection) => {
                sql.fetch_all(&mut **connection).await.map(|rows| rows.iter().map(of_postgres).collect())
            }
            Self::Sqlite(connection) => {
                sql.fetch_all(&mut **connection).await.map(|rows| rows.iter().map(of_sqlite).collect())
            }
        };
        match rows {
            Ok(rows) => Ok(rows),
            Err(error) => Err(self.failed(&error).await),
        }
    }

    async fn fetch(&mut self, sql: &str, args: &[Value]) -> Result<Vec<Row>, Error> {
        let kept = self.keeps(sql);
        self.refresh(kept).await?;
        let sql = AssertSqlSafe(sql.to_owned());
        let rows = match self {
            Self::Postgres(connection) => {
                let query = bind!(sqlx::query::<Postgres>(sql).persistent(kept), args);
                let rows = query.fetch_all(&mut **connection).await;
                rows.map(|rows| rows.iter().map(of_postgres).collect())
            }
            Self::Sqlite(connection) => {
                let query = bind!(sqlx::query::<Sqlite>(sql).persistent(kept), args);
                let rows = query.fetch_all(&mut **connection).await;
                rows.map(|rows| rows.iter().map(of_sqlite).collect())
            }
        };
        match rows {
            Ok(rows) => rows,
            Err(error) => Err(self.failed(&error).await),
        }
    }

    /// Is a statement kept prepared? In SQLite, sqlx trusts that one has as many columns as when it was prepared, and fails badly
    /// when a migration has made them more.
    fn keeps(&self, sql: &str) -> bool {
        match self {
            Self::Postgres(_) => true,
            Self::Sqlite(_) => !sql.contains('*'),
        }
    }

    /// Has SQLite look at the schema before it prepares such a statement: what it remembers may be old.
    async fn refresh(&mut self, kept: bool) -> Result<(), Error> {
        if let (Self::Sqlite(connection), false) = (self, kept) {
            let look = sqlx::query::<Sqlite>("SELECT 1 FROM sqlite_schema LIMIT 1");
            look.execute(&mut **connection).await.map_err(|error| Error::of(&error))?;
        }
        Ok(())
    }

    /// PostgreSQL refuses a statement that was prepared before a migration changed its columns: it is prepared anew then.
    async fn failed(&mut self, error: &sqlx::Error) -> Error {
        let database = error.as_database_error();
        let database = database.and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
        let stale = database.is_some_and(|error| error.routine() == Some("RevalidateCachedQuery"));
        match self {
            Self::Postgres(connection) if stale => match connection.clear_cached_statements().await {
                Ok(()) => Error::Busy("the columns have changed: try again".to_owned()),
                Err(error) => Error::of(&error),
            },
            _ => Error::of(error),
        }
    }
}

fn of_postgres(row: &PgRow) -> Result<Row, Error> {
    let value = |at: usize| -> Result<Value, sqlx::Error> {
        let raw = row.try_get_raw(at)?;
        if raw.is_null() {
            return Ok(Value::Null);
        }
        let kind = raw.type_info().name().to_owned();
        Ok(match kind.as_str() {
            "BOOL" => Value::Bool(row.try_get(at)?),
            "BYTEA" => Value::Blob(row.try_get(at)?),
            "FLOAT4" => Value::Real(f64::from(row.try_get::<f32, _>(at)?)),
            "FLOAT8" => Value::Real(row.try_get(at)?),
            "INT2" => Value::Int(i64::from(row.try_get::<i16, _>(at)?)),
            "INT4" => Value::Int(i64::from(row.try_get::<i32, _>(at)?)),
            "INT8" => Value::Int(row.try_get(at)?),
            _ => Value::Text(row.try_get(at)?),
        })
    };
    let values = (0..row.columns().len()).map(value).collect::<Result<_, _>>();
    values
        .map(Row)
        .map_err(|error| Error::Rejected(Box::new(Rejection::other(format!("{error}: cast it to text")))))
}

fn of_sqlite(row: &SqliteRow) -> Result<Row, Error> {
    let value = |column: &sqlx::sqlite::SqliteColumn| -> Result<Value, sqlx::Error> {
        let at = column.ordinal();
        let raw = row.try_get_raw(at)?;
        if raw.is_null() {
            return Ok(Value::Null);
        }
        let kind = raw.type_info().name().to_owned();
        // What lies there counts, not what the column was declared as.
        Ok(match kind.as_str() {
            "BLOB" => Value::Blob(row.try_get_unchecked(at)?),
            "INTEGER" | "BOOLEAN" => Value::Int(row.try_get_unchecked(at)?),
            "REAL" => Value::Real(row.try_get_unchecked(at)?),
            _ => Value::Text(row.try_get_unchecked(at)?),
        })
    };
    let values = row.columns().iter().map(value).collect::<Result<_, _>>();
    values.map(Row).map_err(|error| Error::Damaged(error.to_string()))
}
