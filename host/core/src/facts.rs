//! What a policy may know: an immutable picture of one moment, and a note of which parts a plan looked at.
//!
//! A plan depends on exactly the facts that it read. When none of them changed, there is no reason to plan again.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{PoolName, RegionName, ResidencyName};

/// What the node believes of a region. An open set: numbers that a policy does not know mean "unknown".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Verdict {
    /// No evidence yet.
    #[default]
    Unknown = 0,
    /// Answers probes.
    Healthy = 1,
    /// Missed some probes, not yet enough to be called down.
    Suspect = 2,
    /// Missed enough probes in a row.
    Down = 3,
    /// Asked to leave by its operator; finishes what it has.
    Draining = 4,
}

impl Verdict {
    /// The verdict for a stored number; unknown numbers are [`Verdict::Unknown`].
    #[must_use]
    pub const fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Healthy,
            2 => Self::Suspect,
            3 => Self::Down,
            4 => Self::Draining,
            _ => Self::Unknown,
        }
    }

    /// May new requests be sent there? Suspicion alone does not move traffic.
    #[must_use]
    pub const fn takes_requests(self) -> bool {
        !matches!(self, Self::Down | Self::Draining)
    }

    /// The word for people and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Suspect => "suspect",
            Self::Down => "down",
            Self::Draining => "draining",
        }
    }
}

/// One region as a policy may see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegionFacts {
    /// The pools that exist there, by name.
    pub pools: BTreeSet<PoolName>,
    /// The node's verdict when the picture was taken.
    pub verdict: Verdict,
}

/// One picture. Build it whole, then share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The region of the node that plans.
    pub local: RegionName,
    /// Round-trip time in microseconds from the first region to the second, as far as known. The taker of the
    /// picture rounds it coarsely, so that jitter does not cause plans.
    pub latency_us: BTreeMap<(RegionName, RegionName), u32>,
    /// Milliseconds since 1970-01-01T00:00:00Z when the picture was taken. Reading it creates no dependency: a plan
    /// is not made again because time passed.
    pub now_ms: u64,
    /// All regions, by name.
    pub regions: BTreeMap<RegionName, RegionFacts>,
    /// The regions that each residency class allows.
    pub residencies: BTreeMap<ResidencyName, BTreeSet<RegionName>>,
    /// A number for policies that want reproducible variety; the same for every node of one configuration.
    pub seed: u64,
}

/// One question that a policy can ask of [`Facts`]. Names are kept as asked, known or not, because a region that does
/// not exist yet is a dependency too.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fact {
    /// Round-trip time from the first region to the second.
    LatencyUs(String, String),
    /// The local region.
    Local,
    /// The pools of a region.
    Pools(String),
    /// All regions.
    Regions,
    /// All residency classes.
    Residencies,
    /// The regions that a residency class allows.
    ResidencyRegions(String),
    /// The verdict of a region.
    Verdict(String),
}

/// The answer to a [`Fact`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FactValue {
    /// Names in order.
    Names(Vec<String>),
    /// A number, or none where the fact is not known.
    Number(Option<u64>),
}

impl Facts {
    /// Answers one question. A name that does not exist has no pools, no regions, no latency and verdict 0.
    #[must_use]
    pub fn read(&self, fact: &Fact) -> FactValue {
        fn names<'a, T: AsRef<str> + 'a>(all: impl IntoIterator<Item = &'a T>) -> FactValue {
            FactValue::Names(all.into_iter().map(|name| name.as_ref().to_owned()).collect())
        }
        match fact {
            Fact::LatencyUs(from, to) => FactValue::Number(self.latency(from, to).map(u64::from)),
            Fact::Local => names([&self.local]),
            Fact::Pools(region) => names(self.regions.get(region.as_str()).iter().flat_map(|r| &r.pools)),
            Fact::Regions => names(self.regions.keys()),
            Fact::Residencies => names(self.residencies.keys()),
            Fact::ResidencyRegions(class) => {
                names(self.residencies.get(class.as_str()).into_iter().flatten())
            }
            Fact::Verdict(region) => {
                FactValue::Number(Some(self.regions.get(region.as_str()).map_or(0, |r| r.verdict as u64)))
            }
        }
    }

    fn latency(&self, from: &str, to: &str) -> Option<u32> {
        let key = (RegionName::new(from).ok()?, RegionName::new(to).ok()?);
        self.latency_us.get(&key).copied()
    }
}

/// What a plan read, with the answers it got.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reads(BTreeMap<Fact, FactValue>);

impl Reads {
    /// Answers a question and remembers that it was asked.
    pub fn read(&mut self, facts: &Facts, fact: Fact) -> FactValue {
        let value = facts.read(&fact);
        self.0.insert(fact, value.clone());
        value
    }

    /// Would every question be answered the same today? Then the plan need not be made again.
    #[must_use]
    pub fn hold(&self, facts: &Facts) -> bool {
        self.0.iter().all(|(fact, value)| facts.read(fact) == *value)
    }

    /// The questions whose answers changed, for logs.
    pub fn changed<'a>(&'a self, facts: &'a Facts) -> impl Iterator<Item = &'a Fact> {
        self.0.iter().filter(|(fact, value)| facts.read(fact) != **value).map(|(fact, _)| fact)
    }

    /// How many questions were asked.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Was nothing asked?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> RegionName {
        RegionName::new(text).unwrap()
    }

    fn facts() -> Facts {
        let pools = BTreeSet::from([PoolName::new("app").unwrap()]);
        Facts {
            local: name("eu"),
            latency_us: BTreeMap::from([((name("eu"), name("us")), 80_000)]),
            now_ms: 1,
            regions: BTreeMap::from([
                (name("eu"), RegionFacts { pools: pools.clone(), verdict: Verdict::Healthy }),
                (name("us"), RegionFacts { pools, verdict: Verdict::Healthy }),
            ]),
            residencies: BTreeMap::new(),
            seed: 7,
        }
    }

    #[test]
    fn only_a_change_of_what_was_read_breaks_a_plan() {
        let before = facts();
        let mut reads = Reads::default();
        assert_eq!(reads.read(&before, Fact::Verdict("us".into())), FactValue::Number(Some(1)));
        assert_eq!(reads.read(&before, Fact::Pools("us".into())), FactValue::Names(vec!["app".into()]));

        let mut after = before.clone();
        after.now_ms = 2;
        after.latency_us.clear();
        after.regions.get_mut("eu").unwrap().verdict = Verdict::Down;
        assert!(reads.hold(&after));

        after.regions.get_mut("us").unwrap().verdict = Verdict::Down;
        assert!(!reads.hold(&after));
        assert_eq!(reads.changed(&after).collect::<Vec<_>>(), [&Fact::Verdict("us".into())]);
    }

    #[test]
    fn a_region_that_does_not_exist_yet_is_a_dependency() {
        let mut reads = Reads::default();
        assert_eq!(reads.read(&facts(), Fact::Verdict("ap".into())), FactValue::Number(Some(0)));
        let mut later = facts();
        later.regions.insert(name("ap"), RegionFacts { verdict: Verdict::Healthy, ..RegionFacts::default() });
        assert!(!reads.hold(&later));
    }
}
