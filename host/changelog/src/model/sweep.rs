//! When a tombstone may go: what a member must have heard of the others before it forgets that a row was deleted.
//!
//! A tombstone bars older changes of its row. So it goes only when no older change can come any more: every other member has
//! applied the deletion, so that what it writes from then on is newer, and all that each of them wrote *before* it
//! said so has been applied here. No age says that, and no majority.
//!
//! A member sweeps in rounds. It stamps tombstones with the number of the round in which they come, begins the next, and notes what it
//! knew then: a [`Mark`]. Others [`Report`] what they have applied and how far their own logs go, and [`Sweep`] says when all
//! tombstones of the rounds before the mark may go. It is decided by each member alone, of its own tombstones.
//!
//! What waits bars too. A member where a *deletion* is parked does not know it, whatever its positions say: it holds
//! back its word. And a tombstone over a row of which any change is parked stays where that is so ([`crate::Store::sweep`]).

use std::collections::{BTreeMap, BTreeSet};

use portolan_core::ids::RegionName;
use portolan_core::log::{Identity, Position};
use serde::{Deserialize, Serialize};

/// How far through whose logs a member has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Known(pub BTreeMap<RegionName, Through>);

/// How far through one log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Through {
    /// Which log. Positions of another mean nothing.
    pub identity: Identity,
    /// All up to here.
    pub position: Position,
}

/// A member of the platform; one that comes back after its place was lost is another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Member {
    /// Its region.
    pub region: RegionName,
    /// Under which incarnation of its membership.
    pub incarnation: u64,
}

/// What a member says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Who.
    pub member: Member,
    /// What it has applied of others' logs. What it has only received is not among it.
    pub applied: Known,
    /// What it has written itself. Read *after* what it has applied.
    pub written: Through,
    /// A deletion waits there, which its positions count as applied.
    pub holds: bool,
}

/// What a member knew when a round of its tombstones ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Tombstones of earlier rounds are meant.
    pub round: u64,
    /// Where the deletions that made them lie: at or before these positions, its own log among them.
    pub known: Known,
}

/// One round's way to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sweep {
    mark: Mark,
    /// Who has not said yet that it has applied all that was known.
    waiting: BTreeSet<Member>,
    /// What the others had written when they said so.
    owed: Known,
}

impl Known {
    /// Is all of the other among this?
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        other.0.iter().all(|(region, through)| self.reaches(region, through))
    }

    fn reaches(&self, region: &RegionName, through: &Through) -> bool {
        // Who has written nothing need not be followed.
        through.position == Position::START
            || self
                .0
                .get(region)
                .is_some_and(|own| own.identity == through.identity && own.position >= through.position)
    }
}

impl Sweep {
    /// Begins with a mark, and with all members but the one whose mark it is. A member counts from before it copies its first row
    /// until it is dropped, and its log is unfollowed, everywhere; whenever members change, begin anew.
    #[must_use]
    pub fn begin(mark: Mark, others: impl IntoIterator<Item = Member>) -> Self {
        Self { mark, waiting: others.into_iter().collect(), owed: Known::default() }
    }

    /// Hears a member's report. It does not matter when it was made: one that comes late says less, and what it says is still so.
    pub fn hear(&mut self, report: &Report) {
        let region = &report.member.region;
        // Nobody needs to be told what it wrote itself.
        let others = self.mark.known.0.iter().filter(|(origin, _)| *origin != region);
        let knows = others.into_iter().all(|(origin, through)| report.applied.reaches(origin, through));
        if knows && !report.holds && self.waiting.remove(&report.member) {
            self.owed.0.insert(region.clone(), report.written.clone());
        }
    }

    /// May the tombstones of all rounds before the mark go, when so much of the others' logs has been applied here?
    #[must_use]
    pub fn may_go(&self, applied: &Known) -> bool {
        self.waiting.is_empty() && applied.covers(&self.owed)
    }

    /// The mark that it began with.
    #[must_use]
    pub const fn mark(&self) -> &Mark {
        &self.mark
    }

    /// Who has not said yet that it has applied all that was known: whom a sweep waits for.
    pub fn waiting(&self) -> impl Iterator<Item = &Member> {
        self.waiting.iter()
    }
}
