//! The gate: which of two versions of a row stays, and what becomes of the other.
//!
//! A row is the highest version that was ever seen of it, placement before what the table's rule says, so that the order in which
//! changes arrive and how often does not matter. What loses without having been known to the winner is a conflict, and is kept.
//! Where columns are merged, a row is what all versions of its placement make together.

use std::collections::{BTreeMap, HashMap};

use portolan_core::ids::TenantName;
use portolan_core::log::{Placement, Version};
use portolan_core::tenant_table::ConflictRule;

use super::history::{History, compare};
use super::kind::ConflictKind;
use super::lineage::is_leased;
use super::merge::{Side, merge};
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
    /// What the table's rule must know beside the row.
    pub marks: Option<String>,
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
    /// Both are merged.
    Merges,
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
    /// What it says beside its row is not what its table's rule needs.
    Marks,
    /// The row belongs to another tenant.
    Tenant,
}

impl Why {
    /// The kind of conflict.
    #[must_use]
    pub const fn kind(self) -> ConflictKind {
        match self {
            Self::Ahead | Self::Marks => ConflictKind::ApplyError,
            Self::Tenant => ConflictKind::UpdatePkeyExists,
        }
    }

    /// In words.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Marks => {
                "what it says beside its row cannot be read: look at both regions' versions of portolan"
            }
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
    rule: &ConflictRule,
    record: &Record,
    change: &RowChange,
    now_us: u64,
) -> Verdict {
    if record.placement < forgotten {
        return Verdict::Forgotten;
    }
    // Whoever holds a lease writes alone: a clock of its own that is wrong harms nobody, and what it wrote is not to wait for others' clocks.
    if !is_leased(record) && change.version.is_ahead(now_us) {
        return Verdict::Park(Why::Ahead);
    }
    let Some(there) = there else { return Verdict::Wins { conflict: false } };
    let same_place = record.placement == there.placement;
    let others = !there.deleted && there.tenant != record.tenant;
    if same_place && matches!(rule, ConflictRule::Columns { .. }) {
        return if others { Verdict::Park(Why::Tenant) } else { Verdict::Merges };
    }
    let history = |marks: Option<&str>, version| match rule {
        ConflictRule::FirstWins | ConflictRule::HomeWins => History::parse(marks, version),
        ConflictRule::Columns { .. } | ConflictRule::LastWriterWins | ConflictRule::Policy { .. } => {
            Ok(History::default())
        }
    };
    let own = history(there.marks.as_deref(), &there.version).unwrap_or_default();
    let Ok(came) = history(change.marks.as_deref(), &change.version) else {
        return Verdict::Park(Why::Marks);
    };
    let by_rule = || compare(rule, (&change.version, &came), (&there.version, &own));
    let path = *rule == ConflictRule::FirstWins;
    match record.placement.cmp(&there.placement).then_with(by_rule) {
        std::cmp::Ordering::Equal => Verdict::Duplicate,
        std::cmp::Ordering::Less => {
            let known = knows(&there.version, there.replaces.as_ref(), &change.version);
            let known = known || path && own.holds(&change.version);
            Verdict::Loses { conflict: !known && same_place }
        }
        std::cmp::Ordering::Greater if others => Verdict::Park(Why::Tenant),
        std::cmp::Ordering::Greater => {
            let known = knows(&change.version, change.replaces.as_ref(), &there.version);
            let known = known || path && came.holds(&there.version);
            Verdict::Wins { conflict: !known && same_place }
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
    /// The rows themselves, of tables whose columns are merged.
    pub images: HashMap<RowId, String>,
    /// The rows that the records name.
    pub rows: HashMap<RowId, RowState>,
    /// The rules of tables, unless the last writer wins.
    pub rules: HashMap<String, ConflictRule>,
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
    /// What met what.
    pub kind: ConflictKind,
    /// The version that lost.
    pub lost: Version,
    /// What lost.
    pub loser: Image,
    /// The tenant's placement when the loser was written.
    pub placement: Placement,
    /// By which rule.
    pub rule: &'static str,
    /// Whose it is.
    pub tenant: Option<TenantName>,
    /// What stays.
    pub winner: Image,
    /// The version that won.
    pub won: Version,
}

/// An image of a row, for who looks at a conflict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Image {
    /// This row, or none for a deletion.
    Is(Option<String>),
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
        let rule = ground.rules.get(&change.id.table).unwrap_or(&ConflictRule::LastWriterWins);
        let verdict = judge(there, forgotten.unwrap_or_default(), rule, record, change, now_us);
        match verdict {
            Verdict::Duplicate => {}
            Verdict::Forgotten => self.forgotten += 1,
            Verdict::Park(why) => self.parked.push((record.clone(), why)),
            Verdict::Loses { conflict } | Verdict::Wins { conflict } => {
                let wins = matches!(verdict, Verdict::Wins { .. });
                if let (true, Some(there)) = (conflict, there) {
                    self.note(there, record, change, rule.word(), wins);
                }
                if wins {
                    let by_history = matches!(rule, ConflictRule::FirstWins | ConflictRule::HomeWins);
                    let marks = match there.filter(|_| by_history) {
                        // The judge has read both.
                        Some(there) => {
                            let of_there = (&there.version, there.marks.as_deref());
                            let marks = History::over(change.marks.as_deref(), &change.version, of_there);
                            marks.unwrap_or_else(|_| change.marks.clone())
                        }
                        None => change.marks.clone(),
                    };
                    self.put(ground, record, change, (change.row.clone(), marks, change.version.clone()));
                }
            }
            Verdict::Merges => self.merge(ground, record, change),
        }
    }

    /// Whole rows: one of both stays.
    fn note(
        &mut self,
        there: &RowState,
        record: &Record,
        change: &RowChange,
        rule: &'static str,
        wins: bool,
    ) {
        let earlier = self.writes.get(&change.id);
        let own = earlier.map_or(Image::There, |write| Image::Is(write.row.clone()));
        let (came, is) = (Image::Is(change.row.clone()), &there.version);
        let kind = ConflictKind::of(change.row.is_none(), change.replaces.is_none(), there.deleted);
        let id = change.id.clone();
        self.conflicts.push(if wins {
            Conflict {
                id,
                kind,
                lost: is.clone(),
                loser: own,
                placement: there.placement,
                rule,
                tenant: there.tenant.clone(),
                winner: came,
                won: change.version.clone(),
            }
        } else {
            Conflict {
                id,
                kind,
                lost: change.version.clone(),
                loser: came,
                placement: record.placement,
                rule,
                tenant: record.tenant.clone(),
                winner: own,
                won: is.clone(),
            }
        });
    }

    /// Columns: what came is merged into what is there.
    fn merge(&mut self, ground: &mut Ground, record: &Record, change: &RowChange) {
        let (Some(there), Some(rule)) = (ground.rows.get(&change.id), ground.rules.get(&change.id.table))
        else {
            return;
        };
        let word = rule.word();
        let earlier = self.writes.get(&change.id).map(|write| write.row.clone());
        let row = earlier.unwrap_or_else(|| ground.images.get(&change.id).cloned());
        if row.is_none() && !there.deleted {
            // Something took the row away behind the log's back: what comes is all that is known of it.
            let marks = change.marks.clone();
            self.put(ground, record, change, (change.row.clone(), marks, change.version.clone()));
            return;
        }
        let own = Side::read(row.clone(), there.marks.as_deref(), &there.version, rule);
        let came = Side::read(change.row.clone(), change.marks.as_deref(), &change.version, rule);
        let merged = own.and_then(|own| came.and_then(|came| merge(&own, &came)));
        let marked = merged.and_then(|merged| Ok((merged.marks.print()?, merged)));
        let Ok((marks, merged)) = marked else {
            self.parked.push((record.clone(), Why::Marks));
            return;
        };
        let newer = change.version > there.version;
        let won = if newer { &change.version } else { &there.version };
        let conflict = |kind, lost: &Version, loser: Option<String>, tenant: &Option<TenantName>| Conflict {
            id: change.id.clone(),
            kind,
            lost: lost.clone(),
            loser: Image::Is(loser),
            placement: record.placement,
            rule: word,
            tenant: tenant.clone(),
            winner: Image::Is(merged.row.clone()),
            won: won.clone(),
        };
        let lost = merged.there_loses.map(|kind| conflict(kind, &there.version, row, &there.tenant));
        self.conflicts.extend(lost);
        let lost = merged.came_loses;
        let lost = lost.map(|kind| conflict(kind, &change.version, change.row.clone(), &record.tenant));
        self.conflicts.extend(lost);
        if merged.changes {
            let version = won.clone();
            self.put(ground, record, change, (merged.row, Some(marks), version));
        }
    }

    /// The row is this from now on. One that was merged has the higher version of both, and what that one replaced.
    fn put(
        &mut self,
        ground: &mut Ground,
        record: &Record,
        change: &RowChange,
        (row, marks, version): (Option<String>, Option<String>, Version),
    ) {
        let there = ground.rows.get(&change.id);
        let own = there.filter(|there| there.version == version && version != change.version);
        // Tombstones of one key may be of two tenants; all regions take the same.
        let tenant = own.filter(|_| row.is_none()).map_or(&record.tenant, |own| &own.tenant).clone();
        let state = RowState {
            tenant,
            placement: record.placement,
            version,
            replaces: own.map_or_else(|| change.replaces.clone(), |own| own.replaces.clone()),
            deleted: row.is_none(),
            marks,
        };
        ground.rows.insert(change.id.clone(), state.clone());
        let write = Write { record: record.clone(), row, state };
        self.writes.insert(change.id.clone(), write);
    }
}
