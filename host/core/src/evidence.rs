//! What is counted of the two policies of a rollout, and what is made of it: a verdict rests on numbers, never on a feeling.
//!
//! A [`Trial`] is a cell: data threads write it, whoever judges reads it as plain [`Evidence`], which adds up over nodes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::decide::{Said, Undecided};
use crate::lane::Side;
use crate::recording::{Class, Counts as Classes};

/// Buckets of latencies: one below 128 ns, then four for each doubling, up to two seconds.
const BUCKETS: usize = 1 + 24 * 4;
/// The exponent of the first doubling.
const FIRST_OCTAVE: u32 = 7;

/// Two policies under observation, for one step of one rollout on one node.
#[derive(Debug, Default)]
pub struct Trial {
    candidate: Tally,
    classes: [AtomicU64; Class::ALL.len()],
    dropped: AtomicU64,
    stable: Tally,
    stopped: AtomicBool,
}

/// One policy's counters.
#[derive(Debug)]
struct Tally {
    broken: AtomicU64,
    busy: AtomicU64,
    decisions: AtomicU64,
    latency: [AtomicU64; BUCKETS],
    out_of_range: AtomicU64,
    overruns: AtomicU64,
    traps: AtomicU64,
    unreadable: AtomicU64,
}

/// What was counted of both, and of their answers side by side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The policy on trial.
    pub candidate: Counts,
    /// Its answers beside the stable policy's, while it is a shadow.
    pub compared: Compared,
    /// The policy that answers for all others.
    pub stable: Counts,
}

/// What was counted of one policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Requests that found its breaker open after earlier failures.
    pub broken: u64,
    /// Requests that found no time or instance left for it: nobody's fault.
    pub busy: u64,
    /// Requests that it was asked about, by table or by call.
    pub decisions: u64,
    /// How long deciding took.
    pub latency: Latency,
    /// Answers that their rule does not have.
    pub out_of_range: u64,
    /// Calls past their fuel or deadline.
    pub overruns: u64,
    /// Calls that trapped.
    pub traps: u64,
    /// Requests whose declared values are no text.
    pub unreadable: u64,
}

/// Answers of a shadow beside those that were given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Compared {
    /// How many of each class.
    #[serde(flatten)]
    pub classes: Classes,
    /// Requests that found no place in the queue.
    pub dropped: u64,
}

/// A histogram: the upper bound of each bucket that is not empty, in nanoseconds, with its count, smallest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Latency(Vec<(u64, u64)>);

impl Trial {
    /// Counts one decision of a policy.
    pub fn count(&self, side: Side, said: Said, took: Duration) {
        let tally = self.tally(side);
        tally.decisions.fetch_add(1, Ordering::Relaxed);
        let bucket = bucket(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        tally.latency.get(bucket).into_iter().for_each(|count| _ = count.fetch_add(1, Ordering::Relaxed));
        let why = match said {
            Said::Index(_) | Said::Table => return,
            Said::NotText => &tally.unreadable,
            Said::Undecided(Undecided::Broken | Undecided::Empty) => &tally.broken,
            Said::Undecided(Undecided::Busy | Undecided::Demoted) => &tally.busy,
            Said::Undecided(Undecided::Overrun) => &tally.overruns,
            Said::Undecided(Undecided::OutOfRange) => &tally.out_of_range,
            Said::Undecided(Undecided::Trapped) => &tally.traps,
        };
        why.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one comparison of a shadow's answer.
    pub fn count_compared(&self, class: Class) {
        let count = self.classes.get(class as usize);
        count.into_iter().for_each(|count| _ = count.fetch_add(1, Ordering::Relaxed));
    }

    /// Counts requests that found no place in the shadow's queue.
    pub fn count_dropped(&self, number: u64) {
        self.dropped.fetch_add(number, Ordering::Relaxed);
    }

    /// Takes the candidate off all requests to come, whatever a lane says, until the end of the trial.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    /// Was the candidate taken off?
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// What was counted until now.
    #[must_use]
    pub fn read(&self) -> Evidence {
        let class =
            |class: Class| self.classes.get(class as usize).map_or(0, |count| count.load(Ordering::Relaxed));
        let classes =
            Class::ALL.into_iter().fold(Classes::default(), |classes, each| classes.set(each, class(each)));
        Evidence {
            candidate: self.candidate.read(),
            compared: Compared { classes, dropped: self.dropped.load(Ordering::Relaxed) },
            stable: self.stable.read(),
        }
    }

    const fn tally(&self, side: Side) -> &Tally {
        match side {
            Side::Candidate => &self.candidate,
            Side::Stable => &self.stable,
        }
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            broken: AtomicU64::default(),
            busy: AtomicU64::default(),
            decisions: AtomicU64::default(),
            latency: std::array::from_fn(|_| AtomicU64::default()),
            out_of_range: AtomicU64::default(),
            overruns: AtomicU64::default(),
            traps: AtomicU64::default(),
            unreadable: AtomicU64::default(),
        }
    }
}

impl Tally {
    fn read(&self) -> Counts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let buckets = self.latency.iter().enumerate().map(|(at, count)| (upper_ns(at), read(count)));
        Counts {
            broken: read(&self.broken),
            busy: read(&self.busy),
            decisions: read(&self.decisions),
            latency: Latency(buckets.filter(|(_, count)| *count > 0).collect()),
            out_of_range: read(&self.out_of_range),
            overruns: read(&self.overruns),
            traps: read(&self.traps),
            unreadable: read(&self.unreadable),
        }
    }
}

impl Evidence {
    /// Adds what another node counted.
    pub fn add(&mut self, other: &Self) {
        self.candidate = self.candidate.merge(&other.candidate, u64::saturating_add);
        self.stable = self.stable.merge(&other.stable, u64::saturating_add);
        self.compared = self.compared.merge(&other.compared, u64::saturating_add);
    }

    /// What came after an earlier reading.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            candidate: self.candidate.merge(&earlier.candidate, u64::saturating_sub),
            compared: self.compared.merge(&earlier.compared, u64::saturating_sub),
            stable: self.stable.merge(&earlier.stable, u64::saturating_sub),
        }
    }
}

impl Counts {
    /// Decisions that it was given the time for.
    #[must_use]
    pub const fn asked(&self) -> u64 {
        self.decisions.saturating_sub(self.busy)
    }

    /// Decisions that the policy owed and did not give, deadlines aside.
    #[must_use]
    pub const fn failed(&self) -> u64 {
        self.traps
            .saturating_add(self.out_of_range)
            .saturating_add(self.broken)
            .saturating_add(self.unreadable)
    }

    fn merge(&self, other: &Self, with: fn(u64, u64) -> u64) -> Self {
        Self {
            broken: with(self.broken, other.broken),
            busy: with(self.busy, other.busy),
            decisions: with(self.decisions, other.decisions),
            latency: self.latency.merge(&other.latency, with),
            out_of_range: with(self.out_of_range, other.out_of_range),
            overruns: with(self.overruns, other.overruns),
            traps: with(self.traps, other.traps),
            unreadable: with(self.unreadable, other.unreadable),
        }
    }
}

impl Compared {
    fn merge(&self, other: &Self, with: fn(u64, u64) -> u64) -> Self {
        Self { classes: self.classes.with(&other.classes, with), dropped: with(self.dropped, other.dropped) }
    }
}

impl Latency {
    /// The time within which so many thousandths of all decisions came, in nanoseconds; at most a quarter more than the truth. None
    /// without decisions.
    #[must_use]
    pub fn quantile_ns(&self, permille: u32) -> Option<u64> {
        let total = self.0.iter().fold(0, |total: u64, (_, count)| total.saturating_add(*count));
        let rank = (u128::from(total) * u128::from(permille.min(1_000))).div_ceil(1_000).max(1);
        let mut seen = 0_u128;
        self.0.iter().find_map(|(upper, count)| {
            seen += u128::from(*count);
            (seen >= rank).then_some(*upper)
        })
    }

    fn merge(&self, other: &Self, with: fn(u64, u64) -> u64) -> Self {
        let of = |latency: &Self, upper| {
            latency.0.iter().find_map(|(at, count)| (*at == upper).then_some(*count)).unwrap_or(0)
        };
        let mut uppers: Vec<u64> = self.0.iter().chain(&other.0).map(|(upper, _)| *upper).collect();
        uppers.sort_unstable();
        uppers.dedup();
        // What another node sent is bounded as what this one counts.
        uppers.truncate(BUCKETS);
        let merged = uppers.into_iter().map(|upper| (upper, with(of(self, upper), of(other, upper))));
        Self(merged.filter(|(_, count)| *count > 0).collect())
    }
}

fn bucket(ns: u64) -> usize {
    let octave = ns.max(1).ilog2();
    let Some(above) = octave.checked_sub(FIRST_OCTAVE) else { return 0 };
    let quarter = (ns >> (octave - 2)) & 3;
    let place = 1 + u64::from(above) * 4 + quarter;
    usize::try_from(place).unwrap_or(usize::MAX).min(BUCKETS - 1)
}

/// The first time past a bucket.
fn upper_ns(bucket: usize) -> u64 {
    let Some(place) = bucket.checked_sub(1) else { return 1 << FIRST_OCTAVE };
    let (octave, quarter) = (place as u64 / 4 + u64::from(FIRST_OCTAVE), place as u64 % 4);
    (5 + quarter) << (octave - 2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_time_is_below_its_buckets_end_and_above_the_one_before(ns in 0_u64..2_000_000_000) {
            let at = bucket(ns);
            prop_assert!(ns < upper_ns(at), "{ns} in {at}");
            prop_assert!(at == 0 || ns >= upper_ns(at - 1), "{ns} in {at}");
            // At most a quarter of the bucket's beginning.
            prop_assert!(at == 0 || upper_ns(at) - upper_ns(at - 1) <= upper_ns(at - 1) / 4);
        }

        #[test]
        fn evidence_adds_up_and_takes_away(one in times(), other in times()) {
            let (first, second, both) = (trial(&one), trial(&other), trial(&[one.as_slice(), &other].concat()));
            let mut sum = first.clone();
            sum.add(&second);
            prop_assert_eq!(&sum, &both);
            prop_assert_eq!(both.since(&first), second);
        }

        #[test]
        fn quantiles_are_where_they_should_be(times in prop::collection::vec(0_u64..1_000_000_000, 1..200), permille in 1_u32..=1000) {
            let counted = trial(&times.iter().map(|ns| (*ns, 0)).collect::<Vec<_>>());
            let mut sorted = times;
            sorted.sort_unstable();
            let rank = (sorted.len() * permille as usize).div_ceil(1000).max(1);
            let truth = sorted[rank - 1];
            let told = counted.candidate.latency.quantile_ns(permille).unwrap();
            prop_assert!(told > truth && told <= (truth + truth / 4 + 1).max(128), "{told} for {truth}");
        }
    }

    fn times() -> impl Strategy<Value = Vec<(u64, u8)>> {
        prop::collection::vec((0_u64..3_000_000_000, 0_u8..20), 0..50)
    }

    /// Candidate's decisions with their times, and what came of them.
    fn trial(times: &[(u64, u8)]) -> Evidence {
        let trial = Trial::default();
        for (ns, what) in times {
            let took = Duration::from_nanos(*ns);
            let said = match what {
                1 => Said::Undecided(Undecided::Broken),
                2 => Said::Undecided(Undecided::Busy),
                3 => Said::Undecided(Undecided::OutOfRange),
                4 => Said::Undecided(Undecided::Overrun),
                5 => Said::Undecided(Undecided::Trapped),
                6 => Said::NotText,
                _ => Said::Index(0),
            };
            match what {
                7 => trial.count_dropped(3),
                8..=14 => trial.count_compared(Class::ALL[usize::from(what - 8)]),
                15 => trial.count(Side::Stable, Said::Table, took),
                _ => trial.count(Side::Candidate, said, took),
            }
        }
        trial.read()
    }

    #[test]
    fn nothing_counted_has_no_quantile() {
        assert_eq!(Latency::default().quantile_ns(990), None);
        let mut places = Class::ALL.map(|class| class as usize);
        places.sort_unstable();
        assert_eq!(places, [0, 1, 2, 3, 4, 5, 6]);
    }
}
