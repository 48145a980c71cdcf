//! The gate: which of two versions of a row stays, and what becomes of the other.
//!
//! A row is the highest version that was ever seen of it, placement before version, so that the order in which changes
//! arrive and how often does not matter. What loses without having been known to the winner is a conflict, and is kept.

use std::collections::{BTreeMap, HashMap};

use portolan_core::ids::TenantName;
use portolan_core::log::{Placement, Version};

use super::record::{Change, Record, RowChange, RowId};

/// What a database knows of a row, or of one that was deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowState {
    /// Whose it is.
    pub tenant: Option<TenantName>,
    /// The tenant's placement when it was written.
    pub placement: Placement,
    /// Its version.
    pub version: Version,
    /// The version that this one replaced.
    pub replaces: Option<Version>,
    /// Is this a tombstone?
    pub deleted: bool,
}

/// What the gate says of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was applied before.
    Duplicate,
    /// Its tenant has moved away since.
    Forgotten,
    /// What is there stays.
    Loses {
        /// The winner did not know of it.
        conflict: bool,
    },
    /// It waits.
    Park(Why),
    /// It takes the row's place.
    Wins {
        /// It did not know what it replaces.
        conflict: bool,
    },
}

/// Why a change waits, beside the others.
#[derive(Clone, Debug, PartialEq, Eq, Copy)]
pub enum Why {
    /// Its version is further in the future than clocks differ.
    Ahead,
    /// The row belongs to another tenant.
    Tenant,
}

impl Why {
    /// In words.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Ahead => "its version is from the future: look at the clocks of both databases",
            Self::Tenant => "its key belongs to another tenant's row",
        }
    }
}

/// Judges a change of a row by what is there. `forgotten` is the placement before which the tenant has been forgotten.
#[must_use]
pub fn judge(
    there: Option<&RowState>,
    forgotten: Placement,
    record: &Record,
    change: &RowChange,
    now_us: u64,
) -> Verdict {
    if record.placement < forgotten {
        return Verdict::Forgotten;
    }
    if change.version.is_ahead(now_us) {
        return Verdict::Park(Why::Ahead);
    }
    let Some(there) = there else { return Verdict::Wins { conflict: false } };
    match (record.placement, &change.version).cmp(&(there.placement, &there.version)) {
        std::cmp::Ordering::Equal => Verdict::Duplicate,
        std::cmp::Ordering::Less => {
            let known = knows(&there.version, there.replaces.as_ref(), &change.version);
            Verdict::Loses { conflict: !known && record.placement == there.placement }
        }
        std::cmp::Ordering::Greater if !there.deleted && there.tenant != record.tenant => {
            Verdict::Park(Why::Tenant)
        }
        std::cmp::Ordering::Greater => {
            let known = knows(&change.version, change.replaces.as_ref(), &there.version);
            Verdict::Wins { conflict: !known && record.placement == there.placement }
        }
    }
}

/// Does the history of `version`, which replaced `replaces`, surely hold `earlier`? One lease writes one history, so
/// within an epoch the lower is always an ancestor of the higher. Epoch 0 is no lease.
fn knows(version: &Version, replaces: Option<&Version>, earlier: &Version) -> bool {
    let same_lease = |a: &Version| a.epoch == earlier.epoch && a.epoch.0 != 0;
    same_lease(version)
        || replaces.is_some_and(|known| known == earlier || same_lease(known) && known >= earlier)
}

/// What a database knows that bears on some records.
#[derive(Clone, Debug, Default)]
pub struct Ground {
    /// The rows that the records name.
    pub rows: HashMap<RowId, RowState>,
    /// Before which placement the records' tenants have been forgotten.
    pub forgotten: HashMap<TenantName, Placement>,
}

/// What is to be done to a database: first what is forgotten goes, then losers are kept, then rows are written.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Tenants of whom all that is older than a placement goes.
    pub forgets: BTreeMap<TenantName, Placement>,
    /// Losers to keep.
    pub conflicts: Vec<Conflict>,
    /// How many changes are dropped, because their tenant has moved away since.
    pub forgotten: u64,
    /// Changes that wait.
    pub parked: Vec<(Record, Why)>,
    /// The rows' new states, each with its whole row or none.
    pub writes: BTreeMap<RowId, Write>,
}

/// A row's new state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The change that it comes from.
    pub record: Record,
    /// The row; none when it is deleted.
    pub row: Option<String>,
    /// Its state.
    pub state: RowState,
}

/// A version that lost without having been known to the winner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Of which row.
    pub id: RowId,
    /// Whose it is.
    pub tenant: Option<TenantName>,
    /// The tenant's placement when the loser was written.
    pub placement: Placement,
    /// What lost.
    pub loser: Loser,
    /// The version that lost.
    pub lost: Version,
    /// The version that won.
    pub won: Version,
}

/// What lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loser {
    /// A change that came in, or an earlier one of the same batch: its row, or none for a deletion.
    Came(Option<String>),
    /// What was there before the batch: to be looked up.
    There,
}

impl Plan {
    /// Plans what records do. They are taken one after the other, and the ground moves with them.
    pub fn make<'a>(ground: &mut Ground, records: impl IntoIterator<Item = &'a Record>, now_us: u64) -> Self {
        let mut plan = Self::default();
        for record in records {
            match &record.change {
                Change::Forget => plan.forget(ground, record),
                Change::Row(change) => plan.change(ground, record, change, now_us),
            }
        }
        plan
    }

    fn forget(&mut self, ground: &mut Ground, record: &Record) {
        let Some(tenant) = &record.tenant else { return };
        let before = ground.forgotten.entry(tenant.clone()).or_default();
        if *before >= record.placement {
            return;
        }
        *before = record.placement;
        let stays =
            |state: &RowState| state.tenant.as_ref() != Some(tenant) || state.placement >= record.placement;
        ground.rows.retain(|_, state| stays(state));
        self.writes.retain(|_, write| stays(&write.state));
        self.conflicts.retain(|conflict| {
            conflict.tenant.as_ref() != Some(tenant) || conflict.placement >= record.placement
        });
        self.forgets.insert(tenant.clone(), record.placement);
    }

    fn change(&mut self, ground: &mut Ground, record: &Record, change: &RowChange, now_us: u64) {
        let there = ground.rows.get(&change.id);
        let forgotten = record.tenant.as_ref().and_then(|tenant| ground.forgotten.get(tenant).copied());
        match judge(there, forgotten.unwrap_or_default(), record, change, now_us) {
            Verdict::Duplicate => {}
            Verdict::Forgotten => self.forgotten += 1,
            Verdict::Loses { conflict } => {
                if let (true, Some(there)) = (conflict, there) {
                    self.conflicts.push(Conflict {
                        id: change.id.clone(),
                        tenant: record.tenant.clone(),
                        placement: record.placement,
                        loser: Loser::Came(change.row.clone()),
                        lost: change.version.clone(),
                        won: there.version.clone(),
                    });
                }
            }
            Verdict::Park(why) => self.parked.push((record.clone(), why)),
            Verdict::Wins { conflict } => {
                if let (true, Some(there)) = (conflict, there) {
                    let earlier = self.writes.get(&change.id);
                    self.conflicts.push(Conflict {
                        id: change.id.clone(),
                        tenant: there.tenant.clone(),
                        placement: there.placement,
                        loser: earlier.map_or(Loser::There, |write| Loser::Came(write.row.clone())),
                        lost: there.version.clone(),
                        won: change.version.clone(),
                    });
                }
                let state = RowState {
                    tenant: record.tenant.clone(),
                    placement: record.placement,
                    version: change.version.clone(),
                    replaces: change.replaces.clone(),
                    deleted: change.row.is_none(),
                };
                ground.rows.insert(change.id.clone(), state.clone());
                let write = Write { record: record.clone(), row: change.row.clone(), state };
                self.writes.insert(change.id.clone(), write);
            }
        }
    }
}
