//! Taking a backup of a shard, while it is written.

use std::time::Duration;

use portolan_changelog::{Limits, Snapshot, Store};
use portolan_core::ids::{ShardName, TenantName};
use portolan_core::log::{Identity, Position};

use super::{Error, Folder, ShardPart, rows_file, shard_file};
use crate::defaults::{BACKUP_LOOK, BACKUP_ROWS, BACKUP_SETTLE, MIGRATION_STATEMENT};
use crate::schema::{How, history};

/// From where a shard is taken.
#[derive(Clone, Copy, Debug)]
pub enum From<'a> {
    /// From where another backup of it ends.
    Since(&'a ShardPart),
    /// All that it has.
    Whole,
}

/// What is taken.
#[derive(Clone, Copy, Debug)]
pub struct Taking<'a> {
    /// From where.
    pub from: From<'a>,
    /// The shard.
    pub shard: &'a ShardName,
    /// Its database, with its tables declared.
    pub store: &'a Store,
    /// One tenant alone: its rows as they are now, without a log.
    pub tenant: Option<&'a TenantName>,
}

/// Writes what a backup has of a shard into its folder.
///
/// # Errors
/// When the database does not answer or its log is not the one that is gone on with, or the disk does not take it.
pub async fn take(taking: Taking<'_>, folder: &mut Folder) -> Result<ShardPart, Error> {
    let Taking { from, shard, store, tenant } = taking;
    let mut maintenance = store.maintenance(MIGRATION_STATEMENT).await?;
    let history = history::read(&mut maintenance).await?;
    drop(maintenance);
    let adopted = history.iter().any(|applied| applied.how == How::Adopted);
    let head = match from {
        From::Whole => {
            let mut snapshot = store.snapshot().await?;
            state(&mut snapshot, taking, folder).await?;
            snapshot.head().clone()
        }
        From::Since(before) => {
            follows(store, before).await?;
            before.head.clone()
        }
    };
    let after = match from {
        From::Since(before) => before.through,
        From::Whole => head.position,
    };
    let (mut until_us, mut tip, mut through) = (head.at_us, head.tip, after);
    if tenant.is_none() {
        (until_us, tip) = (store.clock().await?, store.tip().await?);
        through = log(store, shard, folder, &head.identity, (after, tip)).await?;
        if through < tip {
            // Somebody's transaction is open, and hides what was committed beside it.
            until_us = match from {
                From::Since(before) => before.until_us,
                From::Whole => head.at_us,
            };
        }
    }
    let tables = store.shape().into_iter().map(|(table, _)| table.name.to_string()).collect();
    let schema = store.schema().await?;
    Ok(ShardPart { adopted, head, schema, tables, through, tip, until_us })
}

/// One state: rows, losers, changes that wait, placements.
async fn state(snapshot: &mut Snapshot, taking: Taking<'_>, folder: &mut Folder) -> Result<(), Error> {
    let Taking { shard, store, tenant, .. } = taking;
    for (table, _) in store.shape() {
        if tenant.is_some() && table.tenant.is_none() {
            continue;
        }
        let name = rows_file(shard, table.name.as_str());
        let mut sheet = folder.sheet(&name)?;
        let mut after = Some(String::new());
        while let Some(key) = after {
            let page = snapshot.rows(table.name.as_str(), tenant, &key, BACKUP_ROWS).await?;
            page.records.iter().try_for_each(|record| sheet.line(record))?;
            after = page.next;
        }
        folder.close(&name, sheet)?;
    }
    let name = shard_file(shard, "losers");
    let (mut sheet, mut skip) = (folder.sheet(&name)?, 0);
    loop {
        let losers = snapshot.losers(tenant, skip, BACKUP_ROWS).await?;
        losers.iter().try_for_each(|loser| sheet.line(loser))?;
        skip += losers.len();
        if losers.len() < BACKUP_ROWS {
            break;
        }
    }
    folder.close(&name, sheet)?;
    let name = shard_file(shard, "parked");
    let (mut sheet, mut skip) = (folder.sheet(&name)?, 0);
    loop {
        let parked = snapshot.parked(tenant, skip, BACKUP_ROWS).await?;
        parked.iter().try_for_each(|record| sheet.line(record))?;
        skip += parked.len();
        if parked.len() < BACKUP_ROWS {
            break;
        }
    }
    folder.close(&name, sheet)?;
    let name = shard_file(shard, "placements");
    let mut sheet = folder.sheet(&name)?;
    snapshot.placements(tenant).await?.iter().try_for_each(|place| sheet.line(place))?;
    folder.close(&name, sheet)?;
    Ok(())
}

/// Is the log the one that the other backup ends in, with nothing missing between?
async fn follows(store: &Store, before: &ShardPart) -> Result<(), Error> {
    let identity = store.identity().await?;
    if identity != before.head.identity {
        return Err(Error::Refused(format!(
            "its log is {identity} now, and the backup is of {}: take a whole backup",
            before.head.identity
        )));
    }
    if before.tip != Position::START && !store.has_record(before.tip).await? {
        return Err(Error::Refused(
            "its log does not reach back to that backup any more: take a whole backup".to_owned(),
        ));
    }
    Ok(())
}

/// The log from one position up to what was its newest record.
async fn log(
    store: &Store,
    shard: &ShardName,
    folder: &mut Folder,
    identity: &Identity,
    (mut after, tip): (Position, Position),
) -> Result<Position, Error> {
    let name = shard_file(shard, "log");
    let mut sheet = folder.sheet(&name)?;
    let (mut whole, mut waited) = (true, Duration::ZERO);
    while after < tip || !whole {
        let batch = store.read(after, Limits::default()).await?;
        if batch.identity != *identity {
            let why = "its log has become another while it was read: take the backup again";
            return Err(Error::Refused(why.to_owned()));
        }
        if batch.records.is_empty() {
            // What does not settle is for the next backup.
            if waited >= BACKUP_SETTLE {
                break;
            }
            tokio::time::sleep(BACKUP_LOOK).await;
            waited += BACKUP_LOOK;
            continue;
        }
        (after, whole) = (batch.through, batch.ends);
        sheet.line(&batch)?;
    }
    folder.close(&name, sheet)?;
    Ok(after)
}
