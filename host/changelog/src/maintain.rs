//! The owner's connection for migrations of the tenants' schema: changes of tables, and backfills of their rows.
//!
//! Whatever changes, no row is written past the log. A transaction that changes the *schema* refuses to change rows of captured
//! tables, and has their triggers whole again before it commits, so that no writer meets a table without them. One that
//! changes *rows* is a writer as any other: the fence must be open, and the log tells it.

use std::time::Duration;

use portolan_core::tenant_table::{Identifier, Tables};

use crate::adopt;
use crate::database::{Dialect, Row, Session, Value};
use crate::defaults::{ANSWER_TIMEOUT, LOCK_TIMEOUT};
use crate::error::Error;
use crate::store::{Role, Store, captured};

/// The lock of whoever migrates: "schema" as a number.
const MIGRATION_LOCK: i64 = 0x7363_6865_6d61;

/// What a transaction of a migration is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It changes rows of all tenants, as a writer: the fence must be open.
    Rows,
    /// It changes tables, and no rows of those that are captured.
    Schema,
}

/// A connection of the owner's for one caller, closed after it. What was not committed was never there.
#[derive(Debug)]
pub struct Maintenance {
    purpose: Option<Purpose>,
    session: Session,
    store: Store,
    /// References that lead nowhere, before the transaction; SQLite's alone.
    dangling: u64,
}

impl Store {
    /// Is this a database of PostgreSQL? If not, it is a file of SQLite.
    #[must_use]
    pub fn is_postgres(&self) -> bool {
        self.dialect() == Dialect::Postgres
    }

    /// A connection for migrations, whose statements may take so long.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn maintenance(&self, statement: Duration) -> Result<Maintenance, Error> {
        let mut session = self.pool(Role::Owner).acquire().await?;
        session.keep(statement.saturating_add(ANSWER_TIMEOUT));
        if session.dialect() == Dialect::Postgres {
            let sql = format!("SET statement_timeout = {}", milliseconds(statement));
            session.execute(&sql, &[]).await?;
        }
        let mut maintenance = Maintenance { purpose: None, session, store: self.clone(), dangling: 0 };
        maintenance.lock_timeout(LOCK_TIMEOUT).await?;
        Ok(maintenance)
    }

    /// Those of the tables that are not there.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn missing(&self, tables: &Tables) -> Result<Vec<Identifier>, Error> {
        let mut session = self.acquire(Role::Owner).await?;
        let mut missing = Vec::new();
        for table in tables.iter() {
            if !exists(&mut session, table.name.as_str()).await? {
                missing.push(table.name.clone());
            }
        }
        Ok(missing)
    }

    /// The version of the tenants' schema that was declared last.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn schema(&self) -> Result<u64, Error> {
        self.acquire(Role::Keeper).await?.one("SELECT schema FROM portolan_fence", &[]).await?.number(0)
    }
}

impl Maintenance {
    /// Is this a database of PostgreSQL? If not, it is a file of SQLite.
    #[must_use]
    pub const fn is_postgres(&self) -> bool {
        matches!(self.session.dialect(), Dialect::Postgres)
    }

    /// Takes the place of the one who migrates this database, until the connection ends, and waits for it as for a lock. Returns
    /// whether it came free. SQLite has one writer at a time: whoever migrates it looks again within each transaction.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn alone(&mut self) -> Result<bool, Error> {
        if self.session.dialect() == Dialect::Sqlite {
            return Ok(true);
        }
        match self.session.execute(&format!("SELECT pg_advisory_lock({MIGRATION_LOCK})"), &[]).await {
            Err(Error::Busy(_)) => Ok(false),
            done => done.map(|_| true),
        }
    }

    /// From here on, statements wait so long for others' locks.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn lock_timeout(&mut self, lock: Duration) -> Result<(), Error> {
        let sql = match self.session.dialect() {
            Dialect::Postgres => format!("SET lock_timeout = {}", milliseconds(lock)),
            Dialect::Sqlite => format!("PRAGMA busy_timeout = {}", milliseconds(lock)),
        };
        self.session.execute(&sql, &[]).await.map(drop)
    }

    /// Begins a transaction. In SQLite it is alone from its start.
    ///
    /// # Errors
    /// [`Error::Busy`] when others stand in the way.
    pub async fn begin(&mut self, purpose: Purpose) -> Result<(), Error> {
        self.purpose = Some(purpose);
        match self.session.dialect() {
            Dialect::Postgres => {
                self.session.execute("BEGIN", &[]).await?;
                // It sees rows of all tenants: a table that is made anew would lose what it does not see.
                let mut settings = vec!["portolan.maintenance"];
                settings.extend((purpose == Purpose::Schema).then_some("portolan.migrating"));
                for setting in settings {
                    let sql = format!("SELECT set_config('{setting}', 'on', true)");
                    self.session.execute(&sql, &[]).await?;
                }
                Ok(())
            }
            Dialect::Sqlite => {
                // A table that is rebuilt is dropped: what refers to it must not be deleted along. References are counted
                // before the commit instead, as SQLite's makers advise.
                let keys = if purpose == Purpose::Schema { "OFF" } else { "ON" };
                self.session.execute(&format!("PRAGMA foreign_keys = {keys}"), &[]).await?;
                self.session.execute("BEGIN IMMEDIATE", &[]).await?;
                if purpose == Purpose::Rows {
                    return self.session.run("UPDATE portolan_fence SET tx = tx + 1", &[]).await.map(drop);
                }
                self.dangling = dangling(&mut self.session).await?.0;
                guard(&mut self.session).await
            }
        }
    }

    /// Commits. After a change of the schema, those of these tables that were captured are, as they are now.
    ///
    /// # Errors
    /// [`Error::Table`] when a captured table is no longer as it is declared, or references lead nowhere now: roll back.
    /// [`Error::Unknown`] when the answer was lost.
    ///
    /// # Cancel safety
    /// Not cancel-safe: when it is dropped, nobody knows whether the transaction is written.
    pub async fn commit(&mut self, tables: &Tables) -> Result<(), Error> {
        if self.purpose == Some(Purpose::Schema) {
            self.recapture(tables).await?;
            let (after, table) = dangling(&mut self.session).await?;
            if after > self.dangling {
                let reason = "has rows that refer to rows that are not there; see PRAGMA foreign_key_check";
                return Err(Error::Table { table, reason: reason.to_owned() });
            }
        }
        self.purpose = None;
        match self.session.execute("COMMIT", &[]).await {
            Err(Error::Away(why)) => Err(Error::Unknown(why)),
            done => done.map(drop),
        }
    }

    /// Ends the transaction without a trace, if one has begun.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn rollback(&mut self) -> Result<(), Error> {
        self.purpose = None;
        match self.session.execute("ROLLBACK", &[]).await {
            // None has begun, or the database has ended it.
            Err(Error::Rejected(_)) => Ok(()),
            done => done.map(drop),
        }
    }

    /// Runs one statement as it stands, and says how many rows it touched.
    ///
    /// # Errors
    /// [`Error::Busy`] when others hold locks, [`Error::Closed`] when the fence is, [`Error::Rejected`] when the database
    /// refuses.
    pub async fn execute(&mut self, sql: &str, args: &[Value]) -> Result<u64, Error> {
        self.session.execute(sql, args).await
    }

    /// Runs a query as it stands.
    ///
    /// # Errors
    /// As [`Self::execute`].
    pub async fn fetch(&mut self, sql: &str, args: &[Value]) -> Result<Vec<Row>, Error> {
        self.session.fetch(sql, args).await
    }

    /// Runs a statement on portolan's own tables, in words of both engines: `portolan_schema`, `{now}`.
    ///
    /// # Errors
    /// As [`Self::execute`].
    pub async fn run(&mut self, text: &str, args: &[Value]) -> Result<u64, Error> {
        self.session.run(text, args).await
    }

    /// Runs a query on portolan's own tables, in words of both engines.
    ///
    /// # Errors
    /// As [`Self::execute`].
    pub async fn query(&mut self, text: &str, args: &[Value]) -> Result<Vec<Row>, Error> {
        self.session.query(text, args).await
    }

    /// Captures the tables again that were. One that was made anew may have rows without versions.
    async fn recapture(&mut self, tables: &Tables) -> Result<(), Error> {
        let session = &mut self.session;
        let same = match session.dialect() {
            Dialect::Postgres => {
                session.execute("SELECT set_config('portolan.migrating', 'off', true)", &[]).await?;
                Vec::new()
            }
            Dialect::Sqlite => unguard(session).await?,
        };
        let before = captured(session).await?;
        for table in tables.iter() {
            let name = table.name.as_str();
            if !before.contains(name) || !exists(session, name).await? {
                continue;
            }
            let table = self.store.find(session, table).await?;
            if self.store.capture(session, &table).await? && !same.iter().any(|same| same == name) {
                adopt::begin(session, name).await?;
            }
        }
        if session.dialect() == Dialect::Sqlite {
            for name in before.iter().filter(|name| tables.find(name).is_none()) {
                restore(session, name).await?;
            }
        }
        Ok(())
    }
}

/// Makes the triggers again that a table had: others still declare it. If its columns have changed, they refuse all writes.
async fn restore(session: &mut Session, table: &str) -> Result<(), Error> {
    if !exists(session, table).await? {
        return Ok(());
    }
    let sql = "SELECT made FROM portolan_declared WHERE table_name = $1";
    let made = session.one(sql, &[table.into()]).await?.text(0)?;
    session.execute(&made, &[]).await.map(drop)
}

async fn exists(session: &mut Session, table: &str) -> Result<bool, Error> {
    let sql = match session.dialect() {
        Dialect::Postgres => "SELECT 1 WHERE to_regclass('public.' || quote_ident($1)) IS NOT NULL",
        Dialect::Sqlite => "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = $1",
    };
    Ok(!session.fetch(sql, &[table.into()]).await?.is_empty())
}

/// How many references lead nowhere, and from which table some do. PostgreSQL has none.
async fn dangling(session: &mut Session) -> Result<(u64, String), Error> {
    if session.dialect() == Dialect::Postgres {
        return Ok((0, String::new()));
    }
    let sql = "SELECT count(*), coalesce(max(\"table\"), '') FROM pragma_foreign_key_check";
    let row = session.one(sql, &[]).await?;
    Ok((row.number(0)?, row.text(1)?))
}

const EVENTS: [&str; 3] = ["insert", "update", "delete"];

/// Takes the triggers of captured tables away, because they name columns that may go, and refuses all changes of rows.
async fn guard(session: &mut Session) -> Result<(), Error> {
    for table in captured(session).await? {
        if !exists(session, &table).await? {
            continue;
        }
        for statement in crate::sqlite::release(&table) {
            session.execute(&statement, &[]).await?;
        }
        for event in EVENTS {
            let sql = format!(
                "CREATE TRIGGER \"portolan_guard_{event}_{table}\" BEFORE {event} ON \"{table}\" BEGIN \
                 SELECT RAISE(ABORT, 'portolan: a migration that is no backfill changes rows of {table}'); END"
            );
            session.execute(&sql, &[]).await?;
        }
    }
    Ok(())
}

/// Takes the guards away, and says on which tables all of them still were: those were not made anew.
async fn unguard(session: &mut Session) -> Result<Vec<String>, Error> {
    let sql =
        "SELECT name, tbl_name FROM sqlite_schema WHERE type = 'trigger' AND name GLOB 'portolan_guard_*'";
    let mut there = Vec::new();
    for row in session.fetch(sql, &[]).await? {
        let (name, table) = (row.text(0)?, row.text(1)?);
        session.execute(&format!("DROP TRIGGER \"{name}\""), &[]).await?;
        there.push((name, table));
    }
    let whole = |table: &String| {
        EVENTS.iter().all(|event| {
            let name = format!("portolan_guard_{event}_{table}");
            there.iter().any(|(guard, on)| *guard == name && on == table)
        })
    };
    Ok(captured(session).await?.into_iter().filter(|table| whole(table)).collect())
}

/// 0 would mean for ever.
fn milliseconds(time: Duration) -> u128 {
    time.as_millis().clamp(1, i32::MAX.unsigned_abs().into())
}
