//! Plans of DNS answers: each has a number, minted before anybody is told of it, and is taken only on the number before it.
//!
//! A writer that was delayed finds a higher number and stops; it never decides again from what it knew. What is live is never thrown away, no
//! plan is empty, and a plan is named by its content, so that the same again is no news.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use portolan_core::ids::{Digest, RegionName};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::defaults::{DNS_TTL_MAX_S, DNS_TTL_MIN_S, PLAN_INTERVAL, SOA_MINIMUM_MAX_S};

/// The number of a plan. Rises by one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Number(pub u64);

/// Which regions answer for which name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// For how long resolvers may keep an answer, in seconds.
    pub ttl_s: u32,
    /// For how long they may keep that there is none.
    pub soa_minimum_s: u32,
    /// The regions of each name.
    pub answers: BTreeMap<String, BTreeSet<RegionName>>,
}

/// Why a plan is not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// A name without an answer.
    #[error("no region would answer for `{0}`: the plan before stays")]
    Empty(String),
    /// No names at all.
    #[error("the plan has no names: the plan before stays")]
    Nothing,
    /// Resolvers would keep that there is nothing for too long.
    #[error("a SOA minimum of {0} s lets one mistake last: at most {SOA_MINIMUM_MAX_S} s")]
    Minimum(u32),
    /// One plan comes too soon after another.
    #[error("the last plan was made {0:?} ago: one in {PLAN_INTERVAL:?}")]
    Soon(Duration),
    /// A time for which answers are kept that is too short or too long.
    #[error("a TTL of {0} s: {DNS_TTL_MIN_S} to {DNS_TTL_MAX_S} s")]
    Ttl(u32),
}

/// What a server keeps: the plan that is live, with its number beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Zone {
    live: Option<(Number, Plan)>,
}

/// What a server says to an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is done, or was before.
    Done,
    /// Another number is live than the update requires: nothing was changed.
    Stale(Number),
}

/// Whoever carries plans to a server.
#[derive(Clone, Debug)]
pub struct Enactor {
    /// The number that it believes to be live there.
    believed: Number,
    /// It has seen a number higher than its own plan's, and writes nothing more of that plan.
    stopped: bool,
}

/// An update of a server: all of it, or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// The number that must be live.
    pub requires: Number,
    /// The number that it gives.
    pub number: Number,
    /// The plan.
    pub plan: Plan,
}

impl Plan {
    /// May it become live, so long after the one before?
    ///
    /// # Errors
    /// [`Unfit`] says why not.
    pub fn check(&self, since_last: Option<Duration>) -> Result<(), Unfit> {
        if self.answers.is_empty() {
            return Err(Unfit::Nothing);
        }
        if let Some((name, _)) = self.answers.iter().find(|(_, regions)| regions.is_empty()) {
            return Err(Unfit::Empty(name.clone()));
        }
        if !(DNS_TTL_MIN_S..=DNS_TTL_MAX_S).contains(&self.ttl_s) {
            return Err(Unfit::Ttl(self.ttl_s));
        }
        if self.soa_minimum_s > SOA_MINIMUM_MAX_S {
            return Err(Unfit::Minimum(self.soa_minimum_s));
        }
        match since_last.filter(|since| *since < PLAN_INTERVAL) {
            Some(since) => Err(Unfit::Soon(since)),
            None => Ok(()),
        }
    }

    /// The name of its content.
    ///
    /// # Errors
    /// When it cannot be written down.
    pub fn digest(&self) -> Result<Digest, serde_json::Error> {
        Ok(Digest(Sha256::digest(serde_json::to_vec(self)?).into()))
    }
}

/// For how long an answer may be kept: until what it rests on could change, within bounds.
#[must_use]
pub fn ttl_s(until_change: Duration) -> u32 {
    u32::try_from(until_change.as_secs()).unwrap_or(u32::MAX).clamp(DNS_TTL_MIN_S, DNS_TTL_MAX_S)
}

/// Plans that may be forgotten: those below the live one, but for the one before it, which is what one goes back to.
#[must_use]
pub fn forgettable(kept: &BTreeSet<Number>, live: Number) -> BTreeSet<Number> {
    let before = kept.range(..live).next_back().copied();
    kept.range(..live).copied().filter(|number| Some(*number) != before).collect()
}

impl Zone {
    /// The number that is live.
    #[must_use]
    pub fn number(&self) -> Number {
        self.live.as_ref().map_or(Number(0), |(number, _)| *number)
    }

    /// The plan that is live. What was once there is never taken away, whatever becomes of those who wrote it.
    #[must_use]
    pub fn plan(&self) -> Option<&Plan> {
        self.live.as_ref().map(|(_, plan)| plan)
    }

    /// Takes an update whole, or not at all.
    pub fn update(&mut self, update: &Update) -> Reply {
        let live = self.number();
        if live == update.number && self.plan() == Some(&update.plan) {
            return Reply::Done;
        }
        if live != update.requires || update.number <= live || update.plan.check(None).is_err() {
            return Reply::Stale(live);
        }
        self.live = Some((update.number, update.plan.clone()));
        Reply::Done
    }
}

impl Enactor {
    /// One that believes a number to be live.
    #[must_use]
    pub const fn new(believed: Number) -> Self {
        Self { believed, stopped: false }
    }

    /// The update for a plan; none where a later one is live already.
    #[must_use]
    pub fn update(&self, number: Number, plan: &Plan) -> Option<Update> {
        let after = number > self.believed && !self.stopped;
        after.then(|| Update { requires: self.believed, number, plan: plan.clone() })
    }

    /// Takes the server's answer. Gives whether the plan may be tried again, on the number that is there: not where that is later than the plan's own.
    pub fn answered(&mut self, number: Number, reply: Reply) -> bool {
        match reply {
            Reply::Done => {
                self.believed = number;
                false
            }
            Reply::Stale(live) => {
                self.believed = live;
                self.stopped = live > number;
                !self.stopped
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(regions: &[&str]) -> Plan {
        let regions = regions.iter().map(|name| RegionName::new(name).unwrap()).collect();
        Plan { ttl_s: 30, soa_minimum_s: 30, answers: BTreeMap::from([("gw.example".to_owned(), regions)]) }
    }

    #[test]
    fn plans_have_bounds() {
        assert_eq!(plan(&["eu"]).check(None), Ok(()));
        assert_eq!(plan(&[]).check(None), Err(Unfit::Empty("gw.example".to_owned())));
        assert_eq!(Plan { answers: BTreeMap::new(), ..plan(&[]) }.check(None), Err(Unfit::Nothing));
        for ttl_s in [0, 4, 301] {
            assert_eq!(Plan { ttl_s, ..plan(&["eu"]) }.check(None), Err(Unfit::Ttl(ttl_s)));
        }
        assert_eq!(Plan { soa_minimum_s: 300, ..plan(&["eu"]) }.check(None), Err(Unfit::Minimum(300)));
        let soon = Duration::from_millis(999);
        assert_eq!(plan(&["eu"]).check(Some(soon)), Err(Unfit::Soon(soon)));
        assert_eq!([0, 4, 30, 4_000].map(|seconds| ttl_s(Duration::from_secs(seconds))), [5, 5, 30, 300]);
        assert_ne!(plan(&["eu"]).digest().unwrap(), plan(&["us"]).digest().unwrap());
    }

    /// Two writers, of which one is delayed with an old plan: it overwrites nothing, and its clean-up takes nothing live away.
    #[test]
    fn aws_2025_enactor() {
        let mut zone = Zone::default();
        let (mut slow, mut quick) = (Enactor::new(Number(0)), Enactor::new(Number(0)));
        // The slow one has made its update out of plan 1, and is stopped before it sends it.
        let delayed = slow.update(Number(1), &plan(&["eu"])).unwrap();
        for number in 1..=7 {
            let update = quick.update(Number(number), &plan(&["eu", "us"])).unwrap();
            let reply = zone.update(&update);
            quick.answered(Number(number), reply);
            assert_eq!(reply, Reply::Done);
        }
        let reply = zone.update(&delayed);
        assert_eq!(reply, Reply::Stale(Number(7)));
        assert!(
            !slow.answered(Number(1), reply),
            "it stops, and does not try its old plan on the new number"
        );
        assert_eq!(slow.update(Number(1), &plan(&["eu"])), None);
        // Whoever cleans up keeps what is live and what one goes back to.
        let kept = (1..=7).map(Number).collect();
        assert_eq!(forgettable(&kept, zone.number()), (1..=5).map(Number).collect());
        // Nothing makes the answer empty.
        let empty = Update { requires: Number(7), number: Number(8), plan: plan(&[]) };
        assert_eq!(zone.update(&empty), Reply::Stale(Number(7)));
        assert_eq!(zone.plan(), Some(&plan(&["eu", "us"])));
    }

    #[test]
    fn of_two_writers_one_wins_and_the_other_decides_again() {
        let mut zone = Zone::default();
        let (mut one, mut other) = (Enactor::new(Number(0)), Enactor::new(Number(0)));
        let (first, second) = (
            one.update(Number(1), &plan(&["eu"])).unwrap(),
            other.update(Number(2), &plan(&["us"])).unwrap(),
        );
        let reply = zone.update(&first);
        assert!(!one.answered(Number(1), reply));
        let reply = zone.update(&second);
        assert!(
            other.answered(Number(2), reply),
            "its plan is later: it goes on from the number that is there"
        );
        assert_eq!(zone.update(&other.update(Number(2), &plan(&["us"])).unwrap()), Reply::Done);
        assert_eq!(zone.update(&first), Reply::Stale(Number(2)));
        assert_eq!(zone.update(&second), Reply::Done, "the same again is no news");
    }
}
