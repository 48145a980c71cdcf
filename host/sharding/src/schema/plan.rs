//! What a run would do at a shard, and what it would lock.

use std::collections::BTreeSet;

use portolan_changelog::{Maintenance, Purpose};
use portolan_core::ids::ShardName;

use super::folder::{Kind, Migration, Migrations};
use super::history;
use super::{Error, Shard};
use crate::defaults::TRIAL;

/// What a shard has before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardPlan {
    /// Which shard.
    pub shard: ShardName,
    /// Migrations that are to come, in order.
    pub steps: Vec<Step>,
    /// The last version that is done.
    pub version: u64,
}

/// A migration that is to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What it is for.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// Its statements.
    pub statements: Vec<Planned>,
    /// Is it run in one transaction?
    pub transaction: bool,
    /// Its number.
    pub version: u64,
}

/// A statement that is to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Its line.
    pub line: u64,
    /// What it locks.
    pub locks: Locks,
    /// The statement.
    pub text: String,
}

/// What a statement locks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Locks {
    /// SQLite's: the whole file, against all who write, until the migration ends. Readers go on.
    File,
    /// Locks of tables that were there before, until the migration ends, as they were seen when it was tried.
    Held(Vec<Lock>),
    /// Nobody knows: it was not tried.
    Untried(String),
}

/// A lock of a table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lock {
    /// As PostgreSQL names it: `AccessExclusiveLock` keeps everybody away, `ShareLock` those who write.
    pub mode: String,
    /// The table.
    pub table: String,
}

/// Looks what a shard has before it.
pub(crate) async fn plan(shard: &Shard, migrations: &Migrations, try_it: bool) -> Result<ShardPlan, Error> {
    let mut connection = shard.store.maintenance(TRIAL).await?;
    let postgres = connection.is_postgres();
    let history = history::read(&mut connection).await?;
    let mismatches = history::compare(migrations, &history, postgres);
    if !mismatches.is_empty() {
        return Err(Error::Mismatch(mismatches));
    }
    let version = history::version(&history);
    let mut trial = Trial::begin(&mut connection, postgres, try_it).await?;
    let mut steps = Vec::new();
    for migration in migrations.iter().filter(|migration| migration.version > version) {
        steps.push(step(migration, postgres, &mut trial).await?);
    }
    trial.end().await?;
    Ok(ShardPlan { shard: shard.name.clone(), steps, version })
}

async fn step(migration: &Migration, postgres: bool, trial: &mut Trial<'_>) -> Result<Step, Error> {
    let script =
        migration.script(postgres).ok_or(Error::Engine(if postgres { "postgres" } else { "sqlite" }))?;
    let mut statements = Vec::new();
    for statement in &script.statements {
        let locks = match migration.kind {
            _ if !postgres => Locks::File,
            Kind::Backfill { .. } => {
                Locks::Untried("it locks the rows that it changes, for each statement".to_owned())
            }
            _ if !script.transaction => {
                Locks::Untried("it cannot be tried: it runs outside transactions".to_owned())
            }
            _ => trial.locks(&statement.text).await?,
        };
        statements.push(Planned { line: statement.line, locks, text: statement.text.clone() });
    }
    Ok(Step {
        kind: migration.kind,
        name: migration.name.clone(),
        statements,
        transaction: script.transaction && !matches!(migration.kind, Kind::Backfill { .. }),
        version: migration.version,
    })
}

/// A transaction that is rolled back.
struct Trial<'a> {
    connection: &'a mut Maintenance,
    held: BTreeSet<Lock>,
    /// Why nothing is tried, or not any more.
    over: Option<String>,
    /// The tables that were there before.
    tables: BTreeSet<String>,
}

impl<'a> Trial<'a> {
    async fn begin(connection: &'a mut Maintenance, postgres: bool, try_it: bool) -> Result<Self, Error> {
        let mut trial = Self { connection, held: BTreeSet::new(), over: None, tables: BTreeSet::new() };
        if !postgres || !try_it {
            trial.over = Some("it was not tried".to_owned());
            return Ok(trial);
        }
        trial.connection.lock_timeout(TRIAL).await?;
        trial.connection.begin(Purpose::Schema).await?;
        let sql = "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')";
        for row in trial.connection.fetch(sql, &[]).await? {
            trial.tables.insert(row.text(0)?);
        }
        Ok(trial)
    }

    /// Runs a statement, and sees which locks have come.
    async fn locks(&mut self, sql: &str) -> Result<Locks, Error> {
        if let Some(why) = &self.over {
            return Ok(Locks::Untried(why.clone()));
        }
        if let Err(error) = self.connection.execute(sql, &[]).await {
            self.over = Some("a statement before it failed when it was tried".to_owned());
            return Ok(Locks::Untried(format!("it failed when it was tried: {error}")));
        }
        let sql = "SELECT l.mode, c.relname::text FROM pg_locks l JOIN pg_class c ON c.oid = l.relation \
            WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.granted \
            AND c.relnamespace = 'public'::regnamespace";
        let mut new = Vec::new();
        for row in self.connection.fetch(sql, &[]).await? {
            let lock = Lock { mode: row.text(0)?, table: row.text(1)? };
            if self.tables.contains(&lock.table) && self.held.insert(lock.clone()) {
                new.push(lock);
            }
        }
        new.sort();
        Ok(Locks::Held(new))
    }

    async fn end(self) -> Result<(), Error> {
        Ok(self.connection.rollback().await?)
    }
}
