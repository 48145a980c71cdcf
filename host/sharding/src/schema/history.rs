//! What a database went through, and how that compares with the folder.

use std::fmt;

use portolan_changelog::{Maintenance, Row, Value};
use portolan_core::ids::ShardName;

use super::folder::{Migration, Migrations};
use super::{Error, Shard};
use crate::defaults::MIGRATION_STATEMENT;

/// A migration that has begun in a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// When it began, in microseconds of the database's clock.
    pub began_us: u64,
    /// The SHA-256 of the file that was run.
    pub checksum: String,
    /// The version that it took back.
    pub compensates: Option<u64>,
    /// When it was done; none when it is half done.
    pub finished_us: Option<u64>,
    /// How it came to be there.
    pub how: How,
    /// `backfill`, `contract` or `expand`.
    pub kind: String,
    /// The file's name, without number and ending.
    pub name: String,
    /// How many of its statements are done.
    pub statements: u64,
    /// Its number.
    pub version: u64,
}

/// How a migration came to be in a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// The database was so when it was adopted.
    Adopted,
    /// A backfill of another copy: its rows come by the log.
    Log,
    /// It was run.
    Ran,
}

/// Where a database and the folder do not agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// The file has changed since it was applied.
    Changed {
        /// The checksum of what was applied.
        applied: String,
        /// The checksum of the file.
        file: String,
        /// Which.
        version: u64,
    },
    /// It was applied, and the folder does not have it.
    Missing {
        /// The name that it had.
        name: String,
        /// Which.
        version: u64,
    },
    /// Numbers before it are not applied.
    Order {
        /// Which.
        version: u64,
    },
}

/// A migration that has begun and has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HalfDone {
    /// Indexes that are unfinished, of this migration or another: the next run makes those of this one again.
    pub invalid_indexes: Vec<String>,
    /// Of how many.
    pub of: u64,
    /// How many of its statements are done.
    pub statements: u64,
    /// Which.
    pub version: u64,
}

/// A shard's schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The version that was declared last: what gateways run with.
    pub declared: u64,
    /// What is half done.
    pub half_done: Option<HalfDone>,
    /// Where the database and the folder do not agree.
    pub mismatches: Vec<Mismatch>,
    /// Versions that are to come.
    pub pending: Vec<u64>,
    /// Which shard.
    pub shard: ShardName,
    /// The last version that is done.
    pub version: u64,
}

impl How {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Adopted => "adopted",
            Self::Log => "log",
            Self::Ran => "ran",
        }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed { applied, file, version } => write!(
                f,
                "{version:04} was applied as sha256 {}, and its file is {} now: put the file back as it was, and write what \
                 is to change as a new migration",
                short(applied),
                short(file)
            ),
            Self::Missing { name, version } => write!(
                f,
                "{version:04}_{name} was applied, and its file is not there: put it back, or take the folder that this shard \
                 was migrated with"
            ),
            Self::Order { version } => write!(f, "{version:04} was applied, and a number before it was not"),
        }
    }
}

fn short(checksum: &str) -> &str {
    checksum.get(..12).unwrap_or(checksum)
}

/// All migrations that have begun, in order.
pub(crate) async fn read(maintenance: &mut Maintenance) -> Result<Vec<Applied>, Error> {
    let sql = "SELECT version, name, checksum, kind, compensates, how, statements, began_us, finished_us \
        FROM portolan_schema ORDER BY version";
    let rows = maintenance.query(sql, &[]).await?;
    Ok(rows.iter().map(applied).collect::<Result<_, _>>()?)
}

fn applied(row: &Row) -> Result<Applied, portolan_changelog::Error> {
    let how = match row.text(5)?.as_str() {
        "adopted" => How::Adopted,
        "log" => How::Log,
        _ => How::Ran,
    };
    Ok(Applied {
        began_us: row.number(7)?,
        checksum: row.text(2)?,
        compensates: row.number_or_null(4)?,
        finished_us: row.number_or_null(8)?,
        how,
        kind: row.text(3)?,
        name: row.text(1)?,
        statements: row.number(6)?,
        version: row.number(0)?,
    })
}

/// Notes a migration; one that has ended has all of its statements done.
pub(crate) async fn note(
    maintenance: &mut Maintenance,
    migration: &Migration,
    how: How,
    finished: bool,
) -> Result<(), Error> {
    let script = migration.script(maintenance.is_postgres());
    let (checksum, statements) =
        script.map_or(("", 0), |script| (script.checksum.as_str(), script.statements.len() as u64));
    let args: [Value; 7] = [
        migration.version.into(),
        migration.name.as_str().into(),
        checksum.into(),
        migration.kind.as_str().into(),
        how.as_str().into(),
        (if finished { statements } else { 0 }).into(),
        migration.compensates.unwrap_or_default().into(),
    ];
    let end = if finished { "{now}" } else { "NULL" };
    let sql = format!(
        "INSERT INTO portolan_schema (version, name, checksum, kind, how, statements, compensates, began_us, finished_us) \
         VALUES ($1, $2, $3, $4, $5, $6, nullif($7, 0), {{now}}, {end})"
    );
    maintenance.run(&sql, &args).await?;
    Ok(())
}

/// So many statements of a migration are done.
pub(crate) async fn progress(
    maintenance: &mut Maintenance,
    version: u64,
    statements: u64,
) -> Result<(), Error> {
    let sql = "UPDATE portolan_schema SET statements = $2 WHERE version = $1";
    maintenance.run(sql, &[version.into(), statements.into()]).await?;
    Ok(())
}

/// A migration that has begun is done.
pub(crate) async fn finish(maintenance: &mut Maintenance, version: u64, how: How) -> Result<(), Error> {
    let sql =
        "UPDATE portolan_schema SET finished_us = {now}, how = $2 WHERE version = $1 AND finished_us IS NULL";
    maintenance.run(sql, &[version.into(), how.as_str().into()]).await?;
    Ok(())
}

/// The last version that is done.
pub(crate) fn version(history: &[Applied]) -> u64 {
    history
        .iter()
        .filter(|applied| applied.finished_us.is_some())
        .map(|applied| applied.version)
        .max()
        .unwrap_or(0)
}

/// Where a history and the folder do not agree.
pub(crate) fn compare(migrations: &Migrations, history: &[Applied], postgres: bool) -> Vec<Mismatch> {
    let mut mismatches = Vec::new();
    for (expected, applied) in (1..).zip(history) {
        let version = applied.version;
        let file =
            migrations.find(version).and_then(|migration| Some((migration, migration.script(postgres)?)));
        match file {
            None => mismatches.push(Mismatch::Missing { name: applied.name.clone(), version }),
            Some((_, script)) if script.checksum != applied.checksum => {
                let (applied, file) = (applied.checksum.clone(), script.checksum.clone());
                mismatches.push(Mismatch::Changed { applied, file, version });
            }
            Some((migration, _)) if migration.name != applied.name => {
                mismatches.push(Mismatch::Missing { name: applied.name.clone(), version });
            }
            Some(_) => {}
        }
        if version != expected {
            mismatches.push(Mismatch::Order { version });
        }
    }
    mismatches
}

/// What is to be said of a shard.
pub(crate) async fn status(shard: &Shard, migrations: &Migrations) -> Result<Status, Error> {
    let mut maintenance = shard.store.maintenance(MIGRATION_STATEMENT).await?;
    let history = read(&mut maintenance).await?;
    let postgres = maintenance.is_postgres();
    let version = version(&history);
    let half_done = match history.iter().find(|applied| applied.finished_us.is_none()) {
        None => None,
        Some(half) => {
            let script = migrations.find(half.version).and_then(|migration| migration.script(postgres));
            Some(HalfDone {
                invalid_indexes: invalid_indexes(&mut maintenance).await?,
                of: script.map_or(0, |script| script.statements.len() as u64),
                statements: half.statements,
                version: half.version,
            })
        }
    };
    Ok(Status {
        declared: shard.store.schema().await?,
        half_done,
        mismatches: compare(migrations, &history, postgres),
        pending: migrations
            .iter()
            .map(|migration| migration.version)
            .filter(|next| *next > version)
            .collect(),
        shard: shard.name.clone(),
        version,
    })
}

/// Indexes of PostgreSQL that were left unfinished.
async fn invalid_indexes(maintenance: &mut Maintenance) -> Result<Vec<String>, Error> {
    if !maintenance.is_postgres() {
        return Ok(Vec::new());
    }
    let sql = "SELECT c.relname::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid \
        WHERE NOT i.indisvalid AND c.relnamespace = 'public'::regnamespace ORDER BY 1";
    let rows = maintenance.fetch(sql, &[]).await?;
    Ok(rows.iter().map(|row| row.text(0)).collect::<Result<_, _>>()?)
}
