//! Migrations of the tenants' schema, shard by shard: what is pending, what it would lock, and how it is applied.
//!
//! Migrations are forward only: numbered files of an operator's folder ([`Migrations`]), which every copy of every shard goes
//! through in the same order. What a database went through is kept in it, with the checksums of the files; a file that has
//! changed since, or is gone, is refused. What went wrong is taken back by a migration that *compensates* it, with a number of
//! its own.
//!
//! # Kinds
//! An *expand* migration adds: whoever uses the schema before it goes on. A *contract* migration takes away what the schema before
//! used, so that it waits until every copy of every shard, in all regions, has the last version before it and runs with
//! it; a run never goes through an expansion and the contraction after it. A *backfill* changes rows.
//!
//! # Rows
//! Migrations run at primaries and at replicas, and rows travel by the log. So one rule keeps both apart. A migration that is no
//! backfill changes tables, everywhere, and is refused when it changes a row of a captured table: each copy would change it
//! anew, unseen by the log. (Tables that are not captured yet may be filled: what a migration puts into a table that it makes
//! must be the same at each run, as must be the defaults of new columns.) A backfill changes rows, as a writer that the log tells:
//! it runs where the shard is primary and its fence is open, each statement in a transaction of its own. At replicas it is
//! not run; its number is noted there once another copy of the shard is known to have it, and its rows come by the log. A statement
//! of a backfill must be fit to be run again: what a failover loses of the log, it loses of a backfill too.
//!
//! # Crashes
//! A migration's statements and the note that it was applied are one transaction. What PostgreSQL does outside of
//! transactions, and backfills, note first that they began and then each statement that is done; a run that follows goes on
//! there. An index that was left invalid is dropped and made again.
//!
//! # Capture
//! Triggers know a table's columns, so that they are made anew within the migration's own transaction: no writer meets a captured
//! table without them. After the last file of a shard, its tables are declared at that version. A table that a later
//! migration makes is left out until then.

mod fleet;
mod folder;
mod gate;
pub(crate) mod history;
mod plan;
mod rules;
mod run;
mod script;

use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::time::Duration;

use portolan_changelog::Store;
use portolan_core::ids::ShardName;

pub use fleet::{Fleet, Options, Report, ShardReport, baseline};
pub use folder::{Kind, Migration, Migrations, Problem, Script, Source};
pub use gate::{Behind, Seen, Waits};
pub use history::{Applied, HalfDone, How, Mismatch, Status};
pub use plan::{Lock, Locks, Planned, ShardPlan, Step};
pub use script::Statement;

/// A copy of a shard that this run can reach.
#[derive(Clone, Debug)]
pub struct Shard {
    /// Does the shard's primary lie here?
    pub copy: Copy,
    /// Its name.
    pub name: ShardName,
    /// Its database.
    pub store: Store,
}

/// What a database is to its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copy {
    /// It is written here.
    Primary,
    /// It follows.
    Replica,
}

/// What happened at a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A migration begins.
    Began {
        /// Its name.
        name: String,
        /// Its number.
        version: u64,
    },
    /// The shard's tables are declared at this version.
    Declared {
        /// Which.
        version: u64,
    },
    /// A migration is done.
    Finished {
        /// How.
        how: How,
        /// Its number.
        version: u64,
    },
    /// The statements of a migration and the note of it are about to be committed.
    Recorded {
        /// Its number.
        version: u64,
    },
    /// An index that was left unfinished was dropped: it is made again.
    Repaired {
        /// The index.
        index: String,
        /// Of which migration.
        version: u64,
    },
    /// Others hold locks: the migration is tried again.
    Retry {
        /// After this pause.
        pause: Duration,
        /// Its number.
        version: u64,
        /// The database's words.
        why: String,
    },
    /// A statement was run.
    Statement {
        /// Which, from 1.
        at: u64,
        /// Of how many.
        of: u64,
        /// Rows that it touched.
        rows: u64,
        /// Of which migration.
        version: u64,
    },
}

/// Who looks on, and may stop a run.
pub trait Watch: Send + Sync {
    /// Something happened. A break stops the run at this shard, here: what was not committed was never there, and the next run
    /// goes on.
    fn event(&self, shard: &ShardName, event: &Event) -> ControlFlow<()>;

    /// Lets others have their locks for a while.
    fn pause(&self, shard: &ShardName, span: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        let _ = shard;
        Box::pin(tokio::time::sleep(span))
    }
}

/// Why a shard was not migrated, or not as far as was wanted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A backfill cannot run here.
    #[error("backfill {version:04} {why}")]
    Backfill {
        /// Which.
        version: u64,
        /// Why, and what to do.
        why: String,
    },
    /// Others held locks each time it was tried.
    #[error(
        "migration {version:04} found no lock: {why}; end long transactions, or run again when there is less to do"
    )]
    Busy {
        /// Which.
        version: u64,
        /// The database's words.
        why: String,
    },
    /// A migration's statements went well, and what they made is refused; nothing of it is left.
    #[error("migration {version:04} is not kept: {source}")]
    Kept {
        /// The database's words, or what is wrong with a captured table.
        source: portolan_changelog::Error,
        /// Which.
        version: u64,
    },
    /// A migration would make what is there.
    #[error(
        "migration {version:04} makes the index `{index}`, which is there already: drop it, or name another"
    )]
    Index {
        /// The index.
        index: String,
        /// Which migration.
        version: u64,
    },
    /// The database does not agree with the folder.
    #[error("the database does not agree with the folder: {}", list(.0))]
    Mismatch(Vec<Mismatch>),
    /// The database has a schema of which it knows no migrations.
    #[error(
        "the database was declared at version {declared} and has no record of migrations: note a baseline first"
    )]
    NoRecord {
        /// The version.
        declared: u64,
    },
    /// There is nothing of this kind.
    #[error("{0}")]
    Nothing(String),
    /// The folder has nothing for this engine.
    #[error("the folder has no files in `{0}`, and this shard is one")]
    Engine(&'static str),
    /// Another run has this shard.
    #[error("another run migrates this shard: wait until it has ended")]
    Running,
    /// A statement failed; nothing of its transaction is left.
    #[error("{path}:{line}: {source}")]
    Statement {
        /// Of which line.
        line: u64,
        /// Of which file.
        path: String,
        /// The database's words.
        source: portolan_changelog::Error,
    },
    /// Who looks on stopped it.
    #[error("stopped; the next run goes on")]
    Stopped,
    /// The database, beside migrations' statements.
    #[error(transparent)]
    Store(#[from] portolan_changelog::Error),
}

fn list<T: ToString>(all: &[T]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
pub(crate) mod tests;
