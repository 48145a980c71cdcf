//! Who writes a shard: a region, in an epoch, under an incarnation of its lease.

use portolan_core::ids::{RegionName, ShardName};
use portolan_core::log::Epoch;
use serde::{Deserialize, Serialize};

use super::{Entry, Incarnation};
use crate::store::{Key, Revision, Table, Transaction, Value};

/// Does its region still want a shard?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Title {
    /// Its database is silent: none of the region's gateways writes it any more, as soon as it hears of that.
    Leaving,
    /// It writes it.
    Owned,
    /// It has stopped, and everything that it wrote is told: whoever comes next need not wait.
    Released,
}

/// Who writes a shard, as the control store has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ownership {
    /// In which epoch. Rises by one with each acquisition, also by the same region.
    pub epoch: Epoch,
    /// The region.
    pub primary: RegionName,
    /// Under which incarnation of its lease.
    pub incarnation: Incarnation,
    /// Does it still want it?
    pub title: Title,
}

/// Why a shard is not acquired.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stands {
    /// Epochs are numbers that end.
    #[error("there is no epoch after {0}")]
    Exhausted(Epoch),
    /// Another region holds it.
    #[error("`{0}` holds it: wait until its lease is over, or have it release the shard")]
    Held(RegionName),
    /// The region that wants it holds no lease.
    #[error("`{0}` holds no lease itself: does it reach the control store?")]
    NoLease(RegionName),
}

impl Ownership {
    /// Is it over, by the lease that it cites? Once it is, it stays so: an incarnation that was broken or given back never holds again. Of a lease
    /// that nobody knows nothing follows.
    #[must_use]
    pub fn is_void(&self, lease: Option<&Entry>) -> bool {
        self.title == Title::Released || lease.is_some_and(|lease| !lease.holds(self.incarnation))
    }
}

/// The epoch of an acquisition. Nobody but the host makes one, and no policy sees a way to.
///
/// # Errors
/// [`Stands::Exhausted`].
pub fn mint(before: Epoch) -> Result<Epoch, Stands> {
    before.0.checked_add(1).map(Epoch).ok_or(Stands::Exhausted(before))
}

/// Acquires a shard, of which an epoch was the last, for a region that holds its lease at a revision. `broken` is what the same transaction breaks.
///
/// # Errors
/// [`Stands`] when it is not to be had.
pub fn acquire(
    table: &Table,
    (shard, last): (&ShardName, Epoch),
    (by, incarnation, revision): (&RegionName, Incarnation, Revision),
    broken: Option<&RegionName>,
) -> Result<(Transaction, Ownership), Stands> {
    let key = Key::Ownership(shard.clone());
    let before = table.ownership(shard);
    if !table.lease(by).is_some_and(|lease| lease.holds(incarnation)) {
        return Err(Stands::NoLease(by.clone()));
    }
    let mut change = Transaction::default();
    if let Some(before) = before {
        let void = before.is_void(table.lease(&before.primary));
        let again = before.primary == *by && before.incarnation == incarnation;
        if !void && !again && broken != Some(&before.primary) {
            return Err(Stands::Held(before.primary.clone()));
        }
    }
    let epoch = mint(before.map_or(last, |before| before.epoch))?;
    let next = Ownership { epoch, primary: by.clone(), incarnation, title: Title::Owned };
    change.expect.push((Key::Lease(by.clone()), revision));
    change.expect.push((key.clone(), table.revision(&key)));
    change.put.push((key, Value::Ownership(next.clone())));
    Ok((change, next))
}

/// Gives one shard back. The region has stopped writing it, in its databases too.
#[must_use]
pub fn release(table: &Table, shard: &ShardName, by: &RegionName, epoch: Epoch) -> Option<Transaction> {
    retitle(table, shard, by, epoch, Title::Released)
}

/// Says whether the region still wants a shard.
#[must_use]
pub fn retitle(
    table: &Table,
    shard: &ShardName,
    by: &RegionName,
    epoch: Epoch,
    title: Title,
) -> Option<Transaction> {
    let key = Key::Ownership(shard.clone());
    let owned = table.ownership(shard).filter(|owned| owned.primary == *by && owned.epoch == epoch)?;
    let next = Ownership { title, ..owned.clone() };
    Some(Transaction::one(key.clone(), table.revision(&key), Value::Ownership(next)))
}
