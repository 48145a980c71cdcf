//! Putting one tenant back, into a shard that others use: as a move from a disk.
//!
//! The tenant is placed away while its rows come, so that nobody writes it meanwhile; what comes is stamped with a placement above
//! all that was there, and told in the shard's log, so that replicas take it too.

use portolan_changelog::defaults::RETRY_MAX;
use portolan_changelog::{Batch, Change, Record, Stamp, Store};
use portolan_core::ids::{ShardName, TenantName};
use portolan_core::log::Placement;

use super::put::{cut, part, reaches};
use super::{Error, Opened, Until, rows_file, shard_file, verify};
use crate::defaults::BACKUP_ROWS;

/// What is put where.
#[derive(Clone, Copy, Debug)]
pub struct PutTenant<'a> {
    /// A backup, and those that go on from it.
    pub backups: &'a [Opened],
    /// The shard that the tenant was on.
    pub from: &'a ShardName,
    /// What it has here now goes.
    pub replace: bool,
    /// The database that it is put into, which is written under its region's lease.
    pub store: &'a Store,
    /// Who.
    pub tenant: &'a TenantName,
    /// How far.
    pub until: Until,
}

/// What was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenantPut {
    /// Its placement from here on, which the directory is to say.
    pub placement: Placement,
    /// Rows that it has.
    pub rows: u64,
}

/// Puts a tenant back.
///
/// # Errors
/// When it has rows there and they are not to be replaced, when it is moving, when the shard has no lease, or what is wanted is not
/// in the backups. After a failure the tenant is barred there until this has gone well; it may be repeated with `replace`.
pub async fn put_tenant(putting: PutTenant<'_>) -> Result<TenantPut, Error> {
    let PutTenant { backups, from, replace, store, tenant, until } = putting;
    let first = backups.first().ok_or_else(|| Error::Refused("name a backup".to_owned()))?;
    let mut before = None;
    for backup in backups {
        verify::follows(before, backup)?;
        before = Some(backup);
    }
    let part = part(first, from)?;
    reaches(part, self::part(backups.last().unwrap_or(first), from)?, until)?;
    if !store.moves(Some(tenant)).await?.is_empty() {
        return Err(Error::Refused(format!("tenant `{tenant}` is moving: wait for its end, or undo it")));
    }
    let there = store.count_rows(tenant).await?;
    if there > 0 && !replace {
        let why = format!("tenant `{tenant}` has {there} rows there: `--replace` takes them away first");
        return Err(Error::Refused(why));
    }
    let forgotten = Placement(store.tenant(tenant).await?.placement.0 + 1);
    store.place(tenant, forgotten, true).await?;
    store.forget(tenant, forgotten).await?;
    let (between, placement) = (Placement(forgotten.0 + 1), Placement(forgotten.0 + 2));
    store.place(tenant, between, true).await?;
    let stamp = Stamp { lease: store.fence().await?.epoch, placement: between, source: part.head.epoch };
    let files = part.tables.iter().map(|table| rows_file(from, table));
    for file in files.chain([shard_file(from, "parked")]) {
        let Some(mut lines) = first.lines(&file)? else { continue };
        loop {
            let records: Vec<Record> = lines.some(BACKUP_ROWS)?;
            if records.is_empty() {
                break;
            }
            take(store, tenant, records, &stamp).await?;
        }
    }
    for backup in backups {
        let Some(mut lines) = backup.lines(&shard_file(from, "log"))? else { continue };
        let mut waiting: Vec<Record> = Vec::new();
        while let Some(batch) = lines.read::<Batch>()? {
            let whole = batch.records.len();
            let batch = cut(batch, until);
            let cut = batch.records.len() < whole;
            let last = batch.records.last().map(|last| last.position);
            // The end of a transaction that is not wanted as a whole: its beginning is not, either.
            if last.is_none() && cut {
                break;
            }
            waiting.extend(batch.records.into_iter().filter(|record| record.tenant.as_ref() == Some(tenant)));
            let open = |record: &Record| {
                !batch.ends && last.is_some_and(|last| last.same_transaction(record.position))
            };
            let (later, now) = waiting.into_iter().partition(open);
            waiting = later;
            take(store, tenant, now, &stamp).await?;
            if cut {
                break;
            }
        }
    }
    let (mut left, mut in_vain) = (store.count_parked(Some(tenant)).await?, 0);
    while left > 0 && in_vain <= left / RETRY_MAX as u64 {
        store.take_in_parked(tenant, &stamp).await?;
        let now = store.count_parked(Some(tenant)).await?;
        in_vain = if now < left { 0 } else { in_vain + 1 };
        left = now;
    }
    if let Some(why) = store.why_parked(tenant).await? {
        return Err(Error::Refused(format!("the shard does not take all of tenant `{tenant}`: {why}")));
    }
    store.place(tenant, placement, false).await?;
    Ok(TenantPut { placement, rows: store.count_rows(tenant).await? })
}

async fn take(store: &Store, tenant: &TenantName, records: Vec<Record>, stamp: &Stamp) -> Result<(), Error> {
    let own: Vec<Record> =
        records.into_iter().filter(|record| record.tenant.as_ref() == Some(tenant)).collect();
    if own.iter().any(|record| record.change == Change::Forget) {
        let why = format!(
            "tenant `{tenant}` had left that shard by then: name an earlier moment, or the shard that it went to"
        );
        return Err(Error::Refused(why));
    }
    if !own.is_empty() {
        store.take_in(tenant, &own, stamp).await?;
    }
    Ok(())
}
