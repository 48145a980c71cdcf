//! Putting a shard back into an empty database: as a follower would, up to the moment that is wanted.

use portolan_changelog::defaults::RETRY_MAX;
use portolan_changelog::{Applied, Batch, Lost, Record, Store};
use portolan_core::ids::{ShardName, TenantName};
use portolan_core::log::{Epoch, Placement, Position};
use portolan_core::tenant_table::Tables;

use super::{Error, Opened, ShardPart, rows_file, shard_file, verify};
use crate::defaults::{BACKUP_ROWS, MIGRATIONS_MAX};
use crate::schema::{self, Copy, Fleet, Migrations, Options, Seen, Shard};

/// As what the backup's log is followed.
const SOURCE: &str = "backup";

/// How far the log is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// All of it.
    End,
    /// Up to and with this position.
    Position(Position),
    /// What was written at or before this moment of the database's clock, in microseconds since 1970.
    Time(u64),
}

/// What is put where.
#[derive(Clone, Copy, Debug)]
pub struct Putting<'a> {
    /// An epoch that somebody knows already: the new one is above it.
    pub above: Epoch,
    /// A backup, and those that go on from it.
    pub backups: &'a [Opened],
    /// The shard.
    pub shard: &'a ShardName,
    /// Its database, which has nothing yet.
    pub store: &'a Store,
    /// The declared tables.
    pub tables: &'a Tables,
    /// How far.
    pub until: Until,
}

/// What was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Put {
    /// The epoch that begins.
    pub epoch: Epoch,
    /// Changes that the database did not take; they wait there.
    pub parked: u64,
    /// Records of the log that were applied.
    pub records: u64,
    /// Rows that were put, with tombstones.
    pub rows: u64,
    /// How far the log was applied.
    pub through: Position,
}

/// Puts a shard back. Afterwards the database is closed, in an epoch above all that the backup knows.
///
/// # Errors
/// When the database has something already, does not take what is put, or what is wanted is not in the backups.
pub async fn put(putting: Putting<'_>) -> Result<Put, Error> {
    let Putting { backups, shard, store, until, .. } = putting;
    let first = backups.first().ok_or_else(|| Error::Refused("name a backup".to_owned()))?;
    let mut before = None;
    for backup in backups {
        verify::follows(before, backup)?;
        before = Some(backup);
    }
    let last = backups.last().unwrap_or(first);
    let (part, last_part) = (part(first, shard)?, part(last, shard)?);
    reaches(part, last_part, until)?;
    if !store.is_empty().await? {
        return Err(Error::Refused(format!(
            "the database of shard `{shard}` is not empty: name one that is, or drop it"
        )));
    }
    let migrations = Migrations::load(&last.path("migrations")).map_err(|problems| {
        Error::Refused(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    })?;
    let made = Made { migrations: &migrations, putting, adopted: part.adopted };
    made.tables_at(part.head.schema).await?;
    let rows = state(first, shard, part, store).await?;
    store.follow(SOURCE, &part.head.identity, part.head.position).await?;
    let (records, through) = replay(&made, backups, part).await?;
    store.unfollow(SOURCE).await?;
    if until == Until::End {
        made.tables_at(last_part.schema).await?;
    }
    let parked = retry_parked(store).await?;
    let known = [store.fence().await?.epoch, through.epoch, part.head.epoch, putting.above];
    let epoch = Epoch(known.into_iter().max().unwrap_or_default().0 + 1);
    // A deadline that is over: it is written once a region has been given the lease, and who is given this one need wait for nobody.
    store.begin_epoch(epoch, 1).await?;
    Ok(Put { epoch, parked, records, rows, through })
}

/// Tries what waits again, as long as that brings anything: rows that others refer to may have come after them. Returns how many
/// changes still wait.
async fn retry_parked(store: &Store) -> Result<u64, Error> {
    let (mut waiting, mut in_vain) = (store.count_parked(None).await?, 0);
    // Each try takes the oldest; those that fail go behind all others.
    while waiting > 0 && in_vain <= waiting / RETRY_MAX as u64 {
        store.retry_parked().await?;
        let left = store.count_parked(None).await?;
        in_vain = if left < waiting { 0 } else { in_vain + 1 };
        waiting = left;
    }
    Ok(waiting)
}

pub(super) fn part<'a>(backup: &'a Opened, shard: &ShardName) -> Result<&'a ShardPart, Error> {
    let part = backup.manifest().shards.get(shard);
    part.ok_or_else(|| Error::Refused(format!("backup {} has no shard `{shard}`", backup.manifest().id)))
}

/// Is what is wanted between the beginning and the end of the backups?
pub(super) fn reaches(first: &ShardPart, last: &ShardPart, until: Until) -> Result<(), Error> {
    let (good, has) = match until {
        Until::End => return Ok(()),
        Until::Position(wanted) => {
            let (from, to) = (first.head.position, last.through);
            ((from..=to).contains(&wanted), format!("positions {from} to {to}"))
        }
        Until::Time(wanted) => {
            let (from, to) = (first.head.at_us, last.until_us);
            ((from..=to).contains(&wanted), format!("moments {from} to {to}, in microseconds since 1970"))
        }
    };
    if good {
        Ok(())
    } else {
        Err(Error::Refused(format!("the backups have {has}: name a moment between them")))
    }
}

/// What makes the tables as they were.
struct Made<'a> {
    adopted: bool,
    migrations: &'a Migrations,
    putting: Putting<'a>,
}

impl Made<'_> {
    /// Brings the tenants' schema to a version. Backfills are not run: their rows are in the backup.
    async fn tables_at(&self, version: u64) -> Result<(), Error> {
        let Putting { shard, store, tables, .. } = self.putting;
        if self.adopted && store.schema().await? < version {
            return Err(Error::Refused(format!(
                "shard `{shard}` was adopted, so that no migration makes its first tables: make them as they were, note them with \
                 `portolan shard adopt {shard} --baseline {version} --yes`, and restore again"
            )));
        }
        let copy = Shard { copy: Copy::Replica, name: shard.clone(), store: store.clone() };
        let elsewhere = [Seen { region: store.origin().clone(), shard: shard.clone(), version }];
        let fleet = Fleet { elsewhere: &elsewhere, migrations: self.migrations, shards: &[copy], tables };
        let options = Options { through: Some(version), ..Options::default() };
        // A contraction is a run of its own.
        for _ in 0..MIGRATIONS_MAX {
            let before = store.schema().await?;
            if before >= version {
                break;
            }
            let report = fleet.apply(&options, &Silent).await?;
            if let Some(error) = report.shards.into_iter().find_map(|shard| shard.error) {
                return Err(error.into());
            }
            if store.schema().await? == before {
                return Err(Error::Refused(format!("the migrations do not come to version {version:04}")));
            }
        }
        // Tables that were there already are read, not made.
        if store.shape().is_empty() {
            store.recall(tables).await?;
        }
        Ok(())
    }
}

struct Silent;

impl schema::Watch for Silent {
    fn event(&self, _: &ShardName, _: &schema::Event) -> std::ops::ControlFlow<()> {
        std::ops::ControlFlow::Continue(())
    }
}

/// The rows of the first backup, and what is kept beside them.
async fn state(backup: &Opened, shard: &ShardName, part: &ShardPart, store: &Store) -> Result<u64, Error> {
    let mut count = 0;
    let tables = part.tables.iter().map(|table| rows_file(shard, table));
    for file in tables.chain([shard_file(shard, "parked")]) {
        let Some(mut lines) = backup.lines(&file)? else { continue };
        loop {
            let records: Vec<Record> = lines.some(BACKUP_ROWS)?;
            if records.is_empty() {
                break;
            }
            store.merge(&records).await?;
            count += records.len() as u64;
        }
    }
    if let Some(mut lines) = backup.lines(&shard_file(shard, "losers"))? {
        loop {
            let losers: Vec<Lost> = lines.some(BACKUP_ROWS)?;
            if losers.is_empty() {
                break;
            }
            store.keep_losers(&losers).await?;
        }
    }
    if let Some(mut lines) = backup.lines(&shard_file(shard, "placements"))? {
        while let Some((tenant, placement, away)) = lines.read::<(TenantName, Placement, bool)>()? {
            store.place(&tenant, placement, away).await?;
        }
    }
    Ok(count)
}

/// Applies the logs, as far as is wanted. Returns how many records, and through which.
async fn replay(made: &Made<'_>, backups: &[Opened], part: &ShardPart) -> Result<(u64, Position), Error> {
    let Putting { shard, store, until, .. } = made.putting;
    let (mut count, mut through, mut schema) = (0, part.head.position, part.head.schema);
    for backup in backups {
        let Some(mut lines) = backup.lines(&shard_file(shard, "log"))? else { continue };
        while let Some(batch) = lines.read::<Batch>()? {
            let whole = batch.records.len();
            let batch = cut(batch, until);
            if !batch.records.is_empty() {
                let needs = batch.records.iter().map(|record| record.schema).max().unwrap_or(schema);
                if needs > schema {
                    made.tables_at(needs).await?;
                    schema = needs;
                }
                match store.apply(SOURCE, &batch).await? {
                    Applied::Done(_) | Applied::Duplicate | Applied::Staged => {}
                    Applied::Gap(_) | Applied::Other => {
                        return Err(Error::Bad {
                            place: backup.path(&shard_file(shard, "log")).display().to_string(),
                            why: format!("does not go on after {through}: `portolan verify` says more"),
                        });
                    }
                }
                (count, through) = (count + batch.records.len() as u64, batch.through);
            }
            if batch.records.len() < whole {
                return Ok((count, through));
            }
        }
    }
    Ok((count, through))
}

/// What of a batch is wanted: transactions as a whole, up to the first that is not.
pub(super) fn cut(mut batch: Batch, until: Until) -> Batch {
    let wanted = |record: &Record| match until {
        Until::End => true,
        Until::Position(last) => record.position <= last,
        Until::Time(last_us) => record.at_us <= last_us,
    };
    let Some(first) = batch.records.iter().find(|record| !wanted(record)).map(|record| record.position)
    else {
        return batch;
    };
    batch.records.retain(|record| record.position < first && !record.position.same_transaction(first));
    batch.through = batch.records.last().map_or(batch.after, |last| last.position);
    batch.ends = true;
    batch
}
