//! The log in a file of SQLite, for processes of one machine. Entries are on disk when they are acknowledged.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions as _, Row as _, SqliteConnection};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::defaults::{ANSWER_TIMEOUT, REPORT_TTL, SQLITE_BUSY, SQLITE_POLL};
use crate::engine::Appended;
use crate::error::Away;
use crate::register::{Register, Registers, Swap};

/// Connections of one process: writes wait for each other anyway.
const CONNECTIONS_MAX: u32 = 2;

#[derive(Clone, Debug)]
pub(crate) struct Sqlite {
    /// Device and number of the file that is open.
    identity: (u64, u64),
    path: PathBuf,
    pool: SqlitePool,
}

#[derive(Debug)]
pub(crate) struct Watcher {
    connection: SqliteConnection,
    file: (PathBuf, (u64, u64)),
    ticks: tokio::time::Interval,
    version: i64,
}

impl Sqlite {
    pub(crate) async fn open(path: &Path, fresh: bool) -> Result<Self, Away> {
        let at = |error: &dyn std::fmt::Display| Away(format!("open {}: {error}", path.display()));
        let pool = SqlitePoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .acquire_timeout(ANSWER_TIMEOUT)
            .connect_with(options(path).create_if_missing(fresh))
            .await
            .map_err(|error| at(&error))?;
        let migrations = [
            (1, "create log", include_str!("../../../migrations/control/0001_create_log.sql")),
            (2, "create register", include_str!("../../../migrations/control/0002_create_register.sql")),
        ];
        let migration = |(version, name, sql): (i64, &'static str, &'static str)| {
            Migration::new(version, name.into(), MigrationType::Simple, sqlx::SqlStr::from_static(sql), false)
        };
        let migrator = Migrator::with_migrations(migrations.iter().copied().map(migration).collect());
        migrator.run(&pool).await.map_err(|error| match error {
            MigrateError::VersionMissing(step) => at(&format!(
                "a newer portolan has changed its tables (step {step}, and this program knows {}): start that version on this \
                 node; to go back to this one, put a copy of the file from before in its place",
                migrations.len()
            )),
            error => at(&error),
        })?;
        let identity = identity(path).map_err(|error| at(&error))?;
        Ok(Self { identity, path: path.to_owned(), pool })
    }

    pub(crate) async fn append(&self, generation: u64, entry: &[u8]) -> Result<Appended, Away> {
        let number = number(generation)?;
        // One statement is one transaction: the number is free, and the one before it is there.
        let insert = sqlx::query(
            "INSERT INTO change (generation, entry) SELECT ?1, ?2 \
             WHERE ?1 = 1 OR EXISTS (SELECT 1 FROM change WHERE generation = ?1 - 1) \
             ON CONFLICT DO NOTHING",
        );
        let done = within(insert.bind(number).bind(entry).execute(&self.pool)).await?;
        Ok(if done.rows_affected() == 1 { Appended::Done } else { Appended::Taken })
    }

    pub(crate) async fn entries(&self, after: u64, max: usize) -> Result<Vec<(u64, Vec<u8>)>, Away> {
        let select = sqlx::query(
            "SELECT generation, entry FROM change WHERE generation > ? ORDER BY generation LIMIT ?",
        );
        let max = i64::try_from(max).unwrap_or(i64::MAX);
        let rows = within(select.bind(number(after)?).bind(max).fetch_all(&self.pool)).await?;
        rows.iter()
            .map(|row| {
                let generation: i64 = row.try_get(0).map_err(|error| away(&error))?;
                let entry: Vec<u8> = row.try_get(1).map_err(|error| away(&error))?;
                Ok((u64::try_from(generation).unwrap_or(0), entry))
            })
            .collect()
    }

    pub(crate) async fn registers(&self, after: u64) -> Result<Registers, Away> {
        let select = sqlx::query(
            "SELECT name, revision, value FROM register WHERE revision > ? ORDER BY revision, name",
        );
        let rows = within(select.bind(number(after)?).fetch_all(&self.pool)).await?;
        let register = |row: &sqlx::sqlite::SqliteRow| {
            let revision: i64 = row.try_get(1)?;
            let revision = u64::try_from(revision).unwrap_or(0);
            Ok(Register { name: row.try_get(0)?, revision, value: row.try_get(2)? })
        };
        let changed = rows.iter().map(register).collect::<Result<Vec<_>, sqlx::Error>>();
        let changed = changed.map_err(|error| away(&error))?;
        // Whoever writes is alone, so that nothing below the last one is still to come.
        let revision = changed.last().map_or(after, |last| last.revision);
        Ok(Registers { changed, revision })
    }

    pub(crate) async fn swap(&self, swap: &Swap) -> Result<Option<u64>, Away> {
        within(Box::pin(self.swap_within(swap))).await
    }

    async fn swap_within(&self, swap: &Swap) -> Result<Option<u64>, sqlx::Error> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        for (name, expected) in &swap.expect {
            let select = sqlx::query_scalar("SELECT revision FROM register WHERE name = ?");
            let revision: Option<i64> = select.bind(name).fetch_optional(&mut *transaction).await?;
            if u64::try_from(revision.unwrap_or(0)).ok() != Some(*expected) {
                transaction.rollback().await?;
                return Ok(None);
            }
        }
        let next = sqlx::query_scalar("UPDATE register_revision SET last = last + 1 RETURNING last");
        let next: i64 = next.fetch_one(&mut *transaction).await?;
        for (name, value) in &swap.put {
            let upsert = sqlx::query(
                "INSERT INTO register (name, revision, value) VALUES (?, ?, ?) \
                 ON CONFLICT (name) DO UPDATE SET revision = excluded.revision, value = excluded.value",
            );
            upsert.bind(name).bind(next).bind(value).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(u64::try_from(next).ok())
    }

    pub(crate) async fn watch(&self) -> Result<Watcher, Away> {
        let mut connection = within(options(&self.path).connect()).await?;
        let version = version(&mut connection).await?;
        let mut ticks = interval(SQLITE_POLL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Watcher { connection, file: (self.path.clone(), self.identity), ticks, version })
    }

    pub(crate) async fn report(&self, node: &str, at_ms: u64, report: &[u8]) -> Result<(), Away> {
        let upsert = sqlx::query(
            "INSERT INTO node (name, at_ms, report) VALUES (?, ?, ?) \
             ON CONFLICT (name) DO UPDATE SET at_ms = excluded.at_ms, report = excluded.report",
        );
        within(upsert.bind(node).bind(number(at_ms)?).bind(report).execute(&self.pool)).await?;
        Ok(())
    }

    pub(crate) async fn reports(&self, now_ms: u64) -> Result<Vec<(String, Vec<u8>)>, Away> {
        let ttl = u64::try_from(REPORT_TTL.as_millis()).unwrap_or(u64::MAX);
        let select = sqlx::query("SELECT name, report FROM node WHERE at_ms > ? ORDER BY name");
        let since = number(now_ms.saturating_sub(ttl))?;
        let rows = within(select.bind(since).fetch_all(&self.pool)).await?;
        rows.iter()
            .map(|row| {
                let name: String = row.try_get(0).map_err(|error| away(&error))?;
                Ok((name, row.try_get(1).map_err(|error| away(&error))?))
            })
            .collect()
    }
}

impl Watcher {
    pub(crate) async fn changed(&mut self) -> Result<(), Away> {
        loop {
            self.ticks.tick().await;
            // A file that was replaced goes on under this process's hands, and nobody else sees it.
            if identity(&self.file.0).ok() != Some(self.file.1) {
                return Err(Away(format!("{} was moved or replaced", self.file.0.display())));
            }
            let version = version(&mut self.connection).await?;
            if version != self.version {
                self.version = version;
                return Ok(());
            }
        }
    }
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(SQLITE_BUSY)
        .disable_statement_logging()
}

/// Changes when any other connection has committed.
async fn version(connection: &mut SqliteConnection) -> Result<i64, Away> {
    let row = within(sqlx::query("PRAGMA data_version").fetch_one(connection)).await?;
    row.try_get(0).map_err(|error| away(&error))
}

fn identity(path: &Path) -> std::io::Result<(u64, u64)> {
    std::fs::metadata(path).map(|meta| (meta.dev(), meta.ino()))
}

fn number(number: u64) -> Result<i64, Away> {
    i64::try_from(number).map_err(|_| Away(format!("{number} is no number that SQLite holds")))
}

fn away(error: &sqlx::Error) -> Away {
    Away(error.to_string())
}

async fn within<T>(answer: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, Away> {
    match timeout(ANSWER_TIMEOUT, answer).await {
        Ok(answer) => answer.map_err(|error| away(&error)),
        Err(_) => Err(Away(format!("no answer within {ANSWER_TIMEOUT:?}"))),
    }
}
