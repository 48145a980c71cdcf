//! Reading SQLite: what lies in a column counts, and it must be of the column's declared type.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use datafusion::arrow::datatypes::SchemaRef;
use futures_util::TryStreamExt as _;
use portolan_core::tenant_table::TenantTable;
use portolan_foundation::clock;
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteConnectOptions, SqlitePool, SqlitePoolOptions, SqliteRow};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Row as _, Sqlite, TypeInfo as _, ValueRef as _};

use super::batch::{Cell, Odd, Rows, day, decimal, moment};
use super::{Batches, Failed, Held};
use crate::catalogue::{Column, Found};
use crate::defaults::{
    CONNECT_TIMEOUT, DECIMAL_DIGITS, DECIMAL_SCALE, SQLITE_INSTRUCTIONS, STATEMENTS_PER_SHARD_MAX,
};
use crate::error::Error;
use crate::fragment::sql::Statement;
use crate::fragment::{Node, Value};
use crate::kind::Kind;
use crate::world::World;

pub(super) async fn connect(path: &Path) -> Result<SqlitePool, String> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .read_only(true)
        .pragma("query_only", "ON")
        .busy_timeout(CONNECT_TIMEOUT)
        .disable_statement_logging();
    let pool = SqlitePoolOptions::new()
        .max_connections(u32::try_from(STATEMENTS_PER_SHARD_MAX).unwrap_or(u32::MAX))
        .min_connections(0)
        .acquire_timeout(CONNECT_TIMEOUT)
        .connect_with(options);
    pool.await.map_err(|error| super::brief(&error))
}

pub(super) async fn columns(pool: &SqlitePool, tables: &[TenantTable]) -> Result<Found, String> {
    let mut found = Found::new();
    for table in tables {
        let sql = "SELECT name, type, \"notnull\" = 0 AND pk = 0 FROM pragma_table_xinfo($1) WHERE hidden <> 1 ORDER BY cid";
        let rows = sqlx::query::<Sqlite>(sql).bind(table.name.as_str().to_owned()).fetch_all(pool).await;
        for row in rows.map_err(|error| super::brief(&error))? {
            let text = |at: usize| row.try_get::<String, _>(at).map_err(|error| super::brief(&error));
            let nullable = row.try_get_unchecked::<i64, _>(2).map_err(|error| super::brief(&error))? == 1;
            let column = Column { name: text(0)?, kind: kind(&text(1)?), collation: String::new(), nullable };
            found.entry(table.name.as_str().to_owned()).or_default().push(column);
        }
    }
    Ok(found)
}

/// What a declared type means: PostgreSQL's names, and then what SQLite itself makes of a name.
fn kind(declared: &str) -> Kind {
    let (name, digits) = declared.split_once('(').unwrap_or((declared, ""));
    let name = name.trim().to_ascii_uppercase();
    let holds = |words: &[&str]| words.iter().any(|word| name.contains(word));
    match name.as_str() {
        "BOOL" | "BOOLEAN" => Kind::Boolean,
        "BYTEA" => Kind::Bytes,
        "DATE" => Kind::Date,
        "DATETIME" | "TIMESTAMP" | "TIMESTAMP WITHOUT TIME ZONE" => Kind::Local,
        "TIMESTAMPTZ" | "TIMESTAMP WITH TIME ZONE" => Kind::Moment,
        "INT2" | "SMALLINT" => Kind::Int16,
        "INT4" => Kind::Int32,
        "JSON" | "JSONB" => Kind::Opaque,
        "DECIMAL" | "NUMERIC" => declared_decimal(digits),
        "UUID" => Kind::Uuid,
        _ if holds(&["INT"]) => Kind::Int64,
        _ if holds(&["CHAR", "CLOB", "TEXT"]) => Kind::Text,
        _ if holds(&["BLOB"]) => Kind::Bytes,
        _ if holds(&["REAL", "FLOA", "DOUB"]) => Kind::Float64,
        _ => Kind::Opaque,
    }
}

fn declared_decimal(digits: &str) -> Kind {
    let digits = digits.trim_end_matches(')');
    let (digits, scale) = digits.split_once(',').unwrap_or((digits, "0"));
    match (digits.trim().parse::<u8>(), scale.trim().parse::<i8>()) {
        (Ok(digits), Ok(scale))
            if (1..=DECIMAL_DIGITS).contains(&digits) && scale >= 0 && scale.unsigned_abs() <= digits =>
        {
            Kind::Decimal(digits, scale)
        }
        _ => Kind::Decimal(DECIMAL_DIGITS, DECIMAL_SCALE),
    }
}

fn query<'q>(statement: &Statement) -> Query<'q, Sqlite, SqliteArguments> {
    let mut query = sqlx::query::<Sqlite>(AssertSqlSafe(statement.text.clone())).persistent(false);
    for value in &statement.values {
        query = match value {
            Value::Boolean(truth) => query.bind(*truth),
            Value::Integer(number) => query.bind(*number),
            Value::Text(_, text) => query.bind(text.clone()),
        };
    }
    query
}

/// Ends a statement when nobody waits for it: its thread would go on to the next row, however far that is.
struct Waited(Arc<AtomicBool>);

impl Drop for Waited {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

pub(super) async fn read(
    pool: &SqlitePool,
    statement: &Statement,
    schema: SchemaRef,
    world: &World,
    batches: &Batches,
) -> Result<(), Failed> {
    let mut held = Held::new(pool.acquire().await?);
    let waited = Waited(Arc::new(AtomicBool::new(true)));
    let (watched, deadline) = (Arc::clone(&waited.0), world.deadline);
    held.connection.lock_handle().await?.set_progress_handler(SQLITE_INSTRUCTIONS, move || {
        watched.load(Ordering::Relaxed) && clock::now() < deadline
    });
    let timed = |error: sqlx::Error| {
        if clock::now() < world.deadline {
            error.into()
        } else {
            Failed::Own(Error::Time(world.limits.time_ms))
        }
    };
    let mut rows = Rows::new(&statement.kinds, schema, world, batches)?;
    let mut answer = query(statement).fetch(&mut *held.connection);
    while let Some(row) = answer.try_next().await.map_err(timed)? {
        for (at, kind) in statement.kinds.iter().enumerate() {
            take(&row, at, *kind, &mut rows).map_err(|Odd(why)| Failed::Shard(why))?;
        }
        if !rows.end_row().await? {
            return Ok(());
        }
    }
    drop(answer);
    rows.flush().await?;
    held.connection.lock_handle().await?.remove_progress_handler();
    held.clean = true;
    Ok(())
}

fn take(row: &SqliteRow, at: usize, kind: Kind, rows: &mut Rows<'_>) -> Result<(), Odd> {
    let odd = |error: sqlx::Error| Odd(error.to_string());
    let raw = row.try_get_raw(at).map_err(odd)?;
    if raw.is_null() {
        return rows.put(at, &Cell::Null);
    }
    let class = raw.type_info().name().to_owned();
    let wrong =
        || Odd(format!("column {} of the answer holds a {class} that cannot be kept as {kind:?}", at + 1));
    match class.as_str() {
        "BLOB" => {
            let bytes: &[u8] = row.try_get_unchecked(at).map_err(odd)?;
            if kind == Kind::Bytes { rows.put(at, &Cell::Bytes(bytes)) } else { Err(wrong()) }
        }
        "INTEGER" | "BOOLEAN" => {
            let number: i64 = row.try_get_unchecked(at).map_err(odd)?;
            rows.put(at, &of_integer(kind, number).ok_or_else(wrong)?)
        }
        "REAL" => {
            let number: f64 = row.try_get_unchecked(at).map_err(odd)?;
            rows.put(at, &of_fraction(kind, number).ok_or_else(wrong)?)
        }
        _ => {
            let text: &str = row.try_get_unchecked(at).map_err(odd)?;
            rows.put(at, &of_text(kind, text).ok_or_else(wrong)?)
        }
    }
}

fn of_integer<'a>(kind: Kind, number: i64) -> Option<Cell<'a>> {
    Some(match kind {
        Kind::Boolean if matches!(number, 0 | 1) => Cell::Boolean(number == 1),
        Kind::Decimal(_, scale) => {
            Cell::Decimal(i128::from(number).checked_mul(10_i128.checked_pow(scale.unsigned_abs().into())?)?)
        }
        // SQLite keeps a whole number for a fraction that is one.
        Kind::Float64 => Cell::Float64(number as f64),
        Kind::Int16 | Kind::Int32 | Kind::Int64 => Cell::Integer(number),
        _ => return None,
    })
}

fn of_fraction<'a>(kind: Kind, number: f64) -> Option<Cell<'a>> {
    Some(match kind {
        // The shortest text that is this fraction is what was written, up to fifteen digits.
        Kind::Decimal(_, scale) => Cell::Decimal(decimal(&format!("{number}"), scale)?),
        Kind::Float64 => Cell::Float64(number),
        _ => return None,
    })
}

fn of_text(kind: Kind, text: &str) -> Option<Cell<'_>> {
    Some(match kind {
        Kind::Date => Cell::Days(day(text)?),
        Kind::Decimal(_, scale) => Cell::Decimal(decimal(text, scale)?),
        Kind::Local | Kind::Moment => Cell::Moment(moment(text)?),
        Kind::Opaque | Kind::Text | Kind::Uuid => Cell::Text(text),
        _ => return None,
    })
}

/// Only of a whole table, whose highest number of a row is found at once. SQLite foresees nothing else.
pub(super) async fn foresee(pool: &SqlitePool, node: &Node) -> Result<Option<u64>, Failed> {
    let table = match node {
        Node::Pick { input, .. } => match input.as_ref() {
            Node::Scan(table) => table,
            _ => return Ok(None),
        },
        Node::Scan(table) => table,
        _ => return Ok(None),
    };
    let sql = format!("SELECT coalesce(max(rowid), 0) FROM \"{}\"", table.name);
    // A table without numbers of rows has none to ask for.
    let row = sqlx::query::<Sqlite>(AssertSqlSafe(sql)).persistent(false).fetch_one(pool).await;
    Ok(row
        .ok()
        .and_then(|row| row.try_get_unchecked::<i64, _>(0).ok())
        .and_then(|rows| u64::try_from(rows).ok()))
}
