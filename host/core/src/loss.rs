//! What may be lost with a region: which writes wait for other regions, and what becomes of writes when those fall behind.
//!
//! A shard is *exposed* by the age of its oldest record that no other region has received: had its region gone just now, that
//! much would be lost. Regions are counted here, and time is an argument; who has received what is the callers' to know.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::RegionName;
use crate::log::Position;

/// How much of the time that a shard is exposed beyond its limit one write is delayed by: a tenth, so that who writes one thing after the
/// other feels little at first, and writes less and less.
const SLOW_PART: u32 = 10;
/// The longest such delay: applications and their users wait that long, and a request has time for more.
pub const SLOW_MAX: Duration = Duration::from_secs(2);

/// Who must have received a write before it is answered as done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// Nobody but the shard's primary.
    #[default]
    Local,
    /// One other region.
    OneRegion,
    /// So many others that they are, with the primary, a majority of the regions that keep the shard.
    Majority,
}

impl Durability {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::OneRegion => "one-region",
            Self::Majority => "majority",
        }
    }

    /// How many regions beside the primary must have it, where so many beside it keep the shard.
    #[must_use]
    pub const fn wanted(self, others: usize) -> usize {
        match self {
            Self::Local => 0,
            Self::OneRegion => 1,
            // Half of the others make a majority with the primary, whether they are even or odd; of none there is none to ask.
            Self::Majority => others.div_ceil(2),
        }
    }

    /// Have enough of the other regions that keep the shard received what lies at a position? What a region has of another lease says
    /// nothing: it may be of another log.
    #[must_use]
    pub fn is_met(
        self,
        others: &BTreeSet<RegionName>,
        received: &BTreeMap<RegionName, Position>,
        wanted: Position,
    ) -> bool {
        let has = |region: &&RegionName| received.get(*region).is_some_and(|has| covers(*has, wanted));
        others.iter().filter(has).count() >= self.wanted(others.len())
    }
}

/// Has whoever received a log so far received what lies at a position of it?
#[must_use]
pub fn covers(received: Position, wanted: Position) -> bool {
    received.epoch == wanted.epoch && received >= wanted
}

/// What becomes of writes once a shard is exposed for longer than it may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PastMaxLoss {
    /// They are refused.
    Refuse,
    /// They are delayed, the more the longer it is exposed.
    #[default]
    Slow,
}

/// How much of a shard may be lost with its region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LossLimit {
    /// How long it may be exposed.
    pub max: Duration,
    /// What becomes of writes beyond that.
    pub past: PastMaxLoss,
}

/// What becomes of one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It goes on.
    Pass,
    /// It is refused.
    Refuse,
    /// It goes on after a while.
    Slow(Duration),
}

impl LossLimit {
    /// What becomes of a write to a shard that is exposed for so long.
    #[must_use]
    pub fn admit(&self, exposed: Duration) -> Admission {
        let past = exposed.saturating_sub(self.max);
        match self.past {
            _ if past.is_zero() => Admission::Pass,
            PastMaxLoss::Refuse => Admission::Refuse,
            PastMaxLoss::Slow => Admission::Slow((past / SLOW_PART).min(SLOW_MAX)),
        }
    }
}

/// What is known of a shard's log and of who has received it, by one look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// When the oldest record was written that no other region has received, in microseconds of the database's clock; none when all have
    /// been received by one.
    pub oldest_us: Option<u64>,
    /// Was the log trimmed beyond what anybody has received? Then records are missing that were older than this.
    pub trimmed_age: Option<Duration>,
    /// The database's clock, in microseconds.
    pub now_us: u64,
}

impl Look {
    /// For how long the shard was exposed at the look.
    #[must_use]
    pub fn exposed(&self) -> Duration {
        let oldest = self.oldest_us.map_or(0, |oldest_us| self.now_us.saturating_sub(oldest_us));
        Duration::from_micros(oldest).max(self.trimmed_age.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn region(name: &str) -> RegionName {
        RegionName::new(name).unwrap()
    }

    fn others(count: usize) -> BTreeSet<RegionName> {
        (0..count).map(|number| region(&format!("r{number}"))).collect()
    }

    #[test]
    fn a_majority_counts_the_primary() {
        // Regions that keep it, the primary among them, and how many others make a majority with it.
        for (keep, majority) in [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (6, 3), (7, 3)] {
            let wanted = Durability::Majority.wanted(keep - 1);
            assert_eq!(wanted, majority, "of {keep}");
            assert!((wanted + 1) * 2 > keep && wanted * 2 <= keep, "of {keep}");
        }
        assert_eq!((Durability::Local.wanted(4), Durability::OneRegion.wanted(4)), (0, 1));
        assert!(Durability::Local < Durability::OneRegion && Durability::OneRegion < Durability::Majority);
    }

    #[test]
    fn a_write_is_confirmed_by_regions_that_keep_the_shard() {
        let at = |epoch, sequence| Position::new(epoch, 9, sequence);
        let wanted = at(3, 5);
        for (received, one, majority) in [
            (vec![], false, false),
            (vec![("r0", at(3, 4))], false, false),
            (vec![("r0", at(3, 5))], true, false),
            (vec![("r0", at(3, 7)), ("r3", at(3, 5))], true, true),
            // It keeps no copy, or not any more.
            (vec![("elsewhere", at(3, 9))], false, false),
            // Of a later lease, which may be of another log, and of an earlier one.
            (vec![("r0", at(4, 1)), ("r1", at(2, 9))], false, false),
        ] {
            let received: BTreeMap<_, _> =
                received.into_iter().map(|(name, at)| (region(name), at)).collect();
            let met = |durability: Durability| durability.is_met(&others(4), &received, wanted);
            assert_eq!(
                (met(Durability::OneRegion), met(Durability::Majority)),
                (one, majority),
                "{received:?}"
            );
            assert!(met(Durability::Local));
        }
    }

    #[test]
    fn writes_beyond_the_limit_are_refused_or_slowed() {
        let limit = |past| LossLimit { max: Duration::from_secs(10), past };
        for (exposed_ms, slow) in [
            (0, Admission::Pass),
            (10_000, Admission::Pass),
            (11_000, Admission::Slow(Duration::from_millis(100))),
            (20_000, Admission::Slow(Duration::from_secs(1))),
            (3_600_000, Admission::Slow(SLOW_MAX)),
        ] {
            let exposed = Duration::from_millis(exposed_ms);
            assert_eq!(limit(PastMaxLoss::Slow).admit(exposed), slow, "{exposed:?}");
            let refused = limit(PastMaxLoss::Refuse).admit(exposed) == Admission::Refuse;
            assert_eq!(refused, slow != Admission::Pass, "{exposed:?}");
        }
    }

    #[test]
    fn records_that_went_unreceived_count_as_old_as_they_must_have_been() {
        let hour = Duration::from_secs(3_600);
        let look = |oldest_us, trimmed_age| Look { oldest_us, trimmed_age, now_us: 10_000_000 }.exposed();
        assert_eq!(look(None, None), Duration::ZERO);
        assert_eq!(look(Some(4_000_000), None), Duration::from_secs(6));
        // The database's clock was set back.
        assert_eq!(look(Some(11_000_000), None), Duration::ZERO);
        assert_eq!(look(Some(4_000_000), Some(hour)), hour);
        assert_eq!(look(None, Some(hour)), hour);
    }

    proptest! {
        /// A follower that receives at some speed, and a link that is cut for a while: simulated second by second. The delay never falls
        /// while the follower is away, and writes pass again once it has caught up.
        #[test]
        fn writes_slow_while_a_link_is_cut_and_pass_afterwards(
            cut in 1_u64..120, lag_ms in 1_u64..3_000, max_s in 3_u64..20, refuses in any::<bool>(),
        ) {
            let past = if refuses { PastMaxLoss::Refuse } else { PastMaxLoss::Slow };
            let limit = LossLimit { max: Duration::from_secs(max_s), past };
            let second = 1_000_000_u64;
            let begun = 500 * second;
            let mut before = Duration::ZERO;
            for now in 0..cut {
                let look = Look { oldest_us: Some(begun), trimmed_age: None, now_us: begun + now * second };
                match limit.admit(look.exposed()) {
                    Admission::Pass => prop_assert!(now <= max_s && before.is_zero()),
                    Admission::Refuse => prop_assert!(refuses && now > max_s),
                    Admission::Slow(delay) => {
                        prop_assert!(!refuses && now > max_s && delay >= before && delay <= SLOW_MAX);
                        before = delay;
                    }
                }
            }
            // It follows again, as far behind as it was before the cut.
            let now_us = begun + cut * second;
            let look = Look { oldest_us: Some(now_us - lag_ms * 1_000), trimmed_age: None, now_us };
            prop_assert_eq!(limit.admit(look.exposed()), Admission::Pass);
        }

        #[test]
        fn more_regions_never_unmake_a_confirmation(
            keeps in 1_usize..7, has in proptest::collection::vec(0_u64..4, 0..7), more in 0_u64..4,
        ) {
            let at = |sequence| Position::new(1, 1, sequence);
            let mut received: BTreeMap<RegionName, Position> = BTreeMap::new();
            for (number, sequence) in has.into_iter().enumerate() {
                received.insert(region(&format!("r{number}")), at(sequence));
            }
            for durability in [Durability::Local, Durability::OneRegion, Durability::Majority] {
                let before = durability.is_met(&others(keeps), &received, at(2));
                let mut later = received.clone();
                let first = later.entry(region("r0")).or_insert(Position::START);
                *first = (*first).max(at(more));
                prop_assert!(!before || durability.is_met(&others(keeps), &later, at(2)));
            }
        }
    }
}
