//! All shards of a run: the canary first, then the others beside each other.

use std::future::Future;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use portolan_changelog::Purpose;
use portolan_core::ids::ShardName;
use portolan_core::tenant_table::Tables;

use super::folder::Migrations;
use super::gate::{self, Seen, Waits};
use super::history::{self, How, Status};
use super::plan::{self, ShardPlan};
use super::run::Run;
use super::{Error, Shard, Watch};
use crate::defaults::{MIGRATION_LOCKS, MIGRATION_STATEMENT, MIGRATIONS_BESIDE};

/// The shards that one run migrates, and what it must know of the others.
#[derive(Clone, Copy, Debug)]
pub struct Fleet<'a> {
    /// Copies of shards that this run does not reach, as they were last heard of.
    pub elsewhere: &'a [Seen],
    /// The folder.
    pub migrations: &'a Migrations,
    /// The copies that are migrated.
    pub shards: &'a [Shard],
    /// The declared tables, as they are at the last version.
    pub tables: &'a Tables,
}

/// How a run goes.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many shards are migrated beside each other, after the canary.
    pub beside: NonZeroUsize,
    /// The shard that goes first; else the first that is given.
    pub canary: Option<ShardName>,
    /// How long locks are waited for at each try, and left to others after it.
    pub locks: Vec<Duration>,
    /// How long a statement may take.
    pub statement: Duration,
    /// The last version that is wanted; else all.
    pub through: Option<u64>,
}

impl Default for Options {
    /// All that is pending, with the crate's limits.
    fn default() -> Self {
        Self {
            beside: NonZeroUsize::new(MIGRATIONS_BESIDE).unwrap_or(NonZeroUsize::MIN),
            canary: None,
            locks: MIGRATION_LOCKS.to_vec(),
            statement: MIGRATION_STATEMENT,
            through: None,
        }
    }
}

/// What became of a run.
#[derive(Debug)]
pub struct Report {
    /// Each shard, the canary first.
    pub shards: Vec<ShardReport>,
    /// The contraction before which the run ended.
    pub waits: Option<Waits>,
}

/// What became of a shard.
#[derive(Debug)]
pub struct ShardReport {
    /// Was it begun? It is not when the canary failed.
    pub begun: bool,
    /// Why it did not come as far as the run went.
    pub error: Option<Error>,
    /// What was applied.
    pub ran: Vec<u64>,
    /// Which shard.
    pub shard: ShardName,
}

impl Report {
    /// Did every shard come as far as was wanted?
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.waits.is_none() && self.shards.iter().all(|shard| shard.begun && shard.error.is_none())
    }
}

impl Fleet<'_> {
    /// How each shard stands; one that does not answer has its error.
    pub async fn status(&self) -> Vec<(ShardName, Result<Status, Error>)> {
        let mut all = Vec::new();
        for shard in self.shards {
            all.push((shard.name.clone(), history::status(shard, self.migrations).await));
        }
        all
    }

    /// What a run would do. With `try_it`, PostgreSQL runs the statements in a transaction that it rolls back, to see which
    /// locks they take: for that short time they are taken.
    ///
    /// # Errors
    /// When a shard does not answer, or does not agree with the folder.
    pub async fn plan(&self, try_it: bool) -> Result<Vec<ShardPlan>, Error> {
        let mut all = Vec::new();
        for shard in self.shards {
            all.push(plan::plan(shard, self.migrations, try_it).await?);
        }
        Ok(all)
    }

    /// Applies what is pending.
    ///
    /// # Errors
    /// [`Error::Nothing`] when the canary is none of the shards. What goes wrong at a shard is in the report.
    ///
    /// # Cancel safety
    /// Cancel-safe: a run that is dropped goes on with the next one, as after a crash.
    pub async fn apply(&self, options: &Options, watch: &dyn Watch) -> Result<Report, Error> {
        let last = self.migrations.last();
        let wanted = options.through.unwrap_or(last).min(last);
        let mut versions = Vec::new();
        for (shard, status) in self.status().await {
            versions.push((shard, status.ok().map(|status| status.version.min(status.declared))));
        }
        let goal = gate::goal(self.migrations, &versions, self.elsewhere, wanted);
        let place = |name: &ShardName| {
            let place = self.shards.iter().position(|shard| shard.name == *name);
            place.ok_or_else(|| Error::Nothing(format!("there is no shard `{name}` here to be the canary")))
        };
        let canary = options.canary.as_ref().map_or(Ok(0), place)?;
        let mut shards = Vec::new();
        for canary in self.shards.iter().skip(canary).take(1) {
            shards.push(self.one(canary, goal.through, options, watch).await);
        }
        let good = shards.iter().all(|shard| shard.error.is_none());
        let others = self.shards.iter().enumerate().filter(|(at, _)| *at != canary).map(|(_, shard)| shard);
        if good {
            let mut runs: Vec<Pin<Box<dyn Future<Output = ShardReport> + Send + '_>>> = Vec::new();
            for shard in others {
                runs.push(Box::pin(self.one(shard, goal.through, options, watch)));
            }
            shards.extend(stream::iter(runs).buffered(options.beside.get()).collect::<Vec<_>>().await);
        } else {
            shards.extend(others.map(|shard| ShardReport {
                begun: false,
                error: None,
                ran: Vec::new(),
                shard: shard.name.clone(),
            }));
        }
        Ok(Report { shards, waits: goal.waits })
    }

    /// Takes a version back: applies migrations up to the one that compensates it, which has a number of its own.
    ///
    /// # Errors
    /// [`Error::Nothing`] when no migration compensates it, or others would come along.
    pub async fn rollback(
        &self,
        version: u64,
        options: &Options,
        watch: &dyn Watch,
    ) -> Result<Report, Error> {
        let Some(compensation) = self.migrations.compensation(version) else {
            let next = self.migrations.last() + 1;
            return Err(Error::Nothing(format!(
                "no migration compensates {version:04}: write {next:04}_undo_it.sql with `-- portolan: compensates {version:04}`"
            )));
        };
        let between = self.migrations.iter().map(|migration| migration.version);
        let between = between.filter(|other| *other > version && *other < compensation.version);
        let applied = self.status().await.into_iter().filter_map(|(_, status)| status.ok());
        let reached = applied.map(|status| status.version).max().unwrap_or(0);
        if let Some(other) = between.into_iter().find(|other| *other > reached) {
            return Err(Error::Nothing(format!(
                "{other:04} comes before {:04}, which compensates {version:04}, and no shard has it yet: apply it first",
                compensation.version
            )));
        }
        let options = Options { through: Some(compensation.version), ..options.clone() };
        self.apply(&options, watch).await
    }

    async fn one(&self, shard: &Shard, through: u64, options: &Options, watch: &dyn Watch) -> ShardReport {
        let mut ran = Vec::new();
        let run = Run {
            elsewhere: self.elsewhere,
            locks: &options.locks,
            migrations: self.migrations,
            shard,
            statement: options.statement,
            tables: self.tables,
            through,
            watch,
        };
        let error = run.run(&mut ran).await.err();
        ShardReport { begun: true, error, ran, shard: shard.name.clone() }
    }
}

/// Notes that a database has all that migrations up to a version would make: it was so when it was adopted.
///
/// # Errors
/// [`Error::Nothing`] when the folder does not have the version, or the database has a record of migrations.
pub async fn baseline(shard: &Shard, migrations: &Migrations, version: u64) -> Result<(), Error> {
    if migrations.find(version).is_none() {
        return Err(Error::Nothing(format!("the folder has no {version:04}")));
    }
    let mut connection = shard.store.maintenance(MIGRATION_STATEMENT).await?;
    if !connection.alone().await? {
        return Err(Error::Running);
    }
    connection.begin(Purpose::Rows).await?;
    if !history::read(&mut connection).await?.is_empty() {
        connection.rollback().await?;
        return Err(Error::Nothing(
            "this database has a record of migrations: a baseline is its beginning".to_owned(),
        ));
    }
    for migration in migrations.iter().take_while(|migration| migration.version <= version) {
        history::note(&mut connection, migration, How::Adopted, true).await?;
    }
    Ok(connection.commit(&Tables::default()).await?)
}
