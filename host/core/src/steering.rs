//! Which region a request goes to first, of those that its decision names: priority levels with overprovisioning and a panic
//! threshold, the traffic plan of failover, regional circuit breakers and ramps. Pure: time and the request's hash are arguments.
//!
//! The decision's regions are priority levels, in their order. A level takes `healthy percent × 1.4` of the traffic, at most all
//! of it, and what it cannot take spills over to the next (Envoy, "Priority levels"). Which requests spill is a matter of their
//! hash, so that a share that moves takes only its own requests along. While all levels together cannot take everything, those
//! below the panic threshold are used whatever probes say of them (Envoy, "Panic threshold"). No level is ever left out: the
//! order has them all, the last resort last.
//!
//! Nothing here knows residency or bounds: levels are made of regions that are allowed already.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use smallvec::SmallVec;

use crate::breaker::{Admission, Breaker};
use crate::ids::{RegionName, ShardName};
use crate::log::Epoch;
use crate::time::Moment;
use crate::topology::BreakerLimits;

/// How much more than its share a level is taken to bear, in percent (Envoy's default overprovisioning factor, 1.4).
pub const OVERPROVISIONING_PERCENT: u32 = 140;
/// All of the traffic, in hundredths of a percent.
pub const WHOLE: u32 = 10_000;
/// A region that begins a ramp gets this much at once, in percent: enough to be measured.
const RAMP_BEGINS_PERCENT: u64 = 5;

/// What steering goes by, of the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// When the breaker of a region opens.
    pub breaker: BreakerLimits,
    /// Below so much health a level panics while no other can take its traffic, in percent; 0 for never.
    pub panic_percent: u32,
    /// How long a region that recovered takes until it has all of its traffic again.
    pub ramp: Duration,
}

/// The part of a region's traffic that goes to another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detour {
    /// How much, in percent.
    pub percent: u8,
    /// Where.
    pub target: RegionName,
}

/// What failover wants of gateways.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Shards that are handed over in an orderly way just now, with the epoch that is over: who writes them waits for the news of the next.
    pub changing: BTreeMap<ShardName, Epoch>,
    /// Whose traffic goes elsewhere.
    pub detours: BTreeMap<RegionName, Detour>,
    /// Regions that take nothing as long as there are others.
    pub out: BTreeSet<RegionName>,
    /// Shards that nobody may write now.
    pub unwritten: BTreeSet<ShardName>,
}

/// The place where the traffic plan hangs: failover writes, any thread reads. It outlives generations.
#[derive(Debug, Default)]
pub struct Steering(ArcSwap<Traffic>);

/// One region of a decision, as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// How many of its endpoints can take requests, in percent.
    pub healthy: u32,
    /// How much of what comes to it it is to have, in percent: less while traffic is moved away from it or ramps up.
    pub share: u32,
}

/// How traffic falls on levels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loads {
    /// The parts of [`WHOLE`] of each level; together all of it.
    pub parts: SmallVec<[u32; 8]>,
    /// Which of them are used whatever probes say.
    pub panics: SmallVec<[bool; 8]>,
}

/// What is known of forwarding to one pool of a region: a breaker, and a ramp once it has closed again.
#[derive(Debug, Default)]
pub struct Gate {
    breaker: Breaker,
    /// When it closed last, in microseconds; 0 for never.
    closed_at: AtomicU64,
}

/// A place taken by [`Gate::start`].
#[derive(Debug)]
#[must_use = "give the place back with Gate::finish"]
pub struct Pass {
    probe: bool,
}

/// What forwarding came to, as a gate counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarded {
    /// The link failed, or the region's own gateway answered 502, 503 or 504.
    Failed,
    /// It says nothing of the region: the client went away, or its content broke off.
    Neutral,
    /// Something of the region answered.
    Served,
}

impl Traffic {
    /// How much of its traffic a region keeps, in percent.
    #[must_use]
    pub fn share(&self, region: &RegionName) -> u32 {
        match self.detours.get(region) {
            Some(detour) => 100_u32.saturating_sub(detour.percent.into()),
            None if self.out.contains(region) => 0,
            None => 100,
        }
    }

    /// Where moved traffic of a region goes, if any is moved.
    #[must_use]
    pub fn target(&self, region: &RegionName) -> Option<&RegionName> {
        self.detours.get(region).filter(|detour| detour.percent > 0).map(|detour| &detour.target)
    }
}

impl Steering {
    /// The present plan; not to be kept over a wait.
    #[must_use]
    pub fn load(&self) -> Guard<Arc<Traffic>> {
        self.0.load()
    }

    /// Hangs up another plan; `true` when it differs from the one before.
    pub fn publish(&self, traffic: Traffic) -> bool {
        let differs = **self.0.load() != traffic;
        if differs {
            self.0.store(Arc::new(traffic));
        }
        differs
    }
}

impl Loads {
    /// Spreads traffic over levels, the most wanted first (Envoy, "Priority levels" and "Panic threshold"; in hundredths of a
    /// percent instead of percents, so that rounding moves less).
    #[must_use]
    pub fn of(levels: &[Level], panic_percent: u32) -> Self {
        let bears = |level: &Level| {
            let healthy = level.healthy.min(100) * OVERPROVISIONING_PERCENT;
            healthy.min(WHOLE) * level.share.min(100) / 100
        };
        let total = levels.iter().map(bears).sum::<u32>().min(WHOLE);
        let mut left = WHOLE;
        let mut parts: SmallVec<[u32; 8]> = levels
            .iter()
            .map(|level| {
                // Multiplied before it is divided: at most 10^8.
                let part = (bears(level) * WHOLE).checked_div(total).unwrap_or(0).min(left);
                left -= part;
                part
            })
            .collect();
        // What rounding left goes to the first level that takes anything; without one, to the first.
        let first = parts.iter().position(|part| *part > 0).unwrap_or(0);
        parts.get_mut(first).into_iter().for_each(|part| *part += left);
        let panics = levels.iter().map(|level| total < WHOLE && level.healthy < panic_percent).collect();
        Self { parts, panics }
    }

    /// The levels in the order in which a request of this hash tries them: its own, then the others as wanted, those that take
    /// nothing last. All of them, each once.
    #[must_use]
    pub fn order(&self, hash: u64) -> SmallVec<[usize; 8]> {
        let point = u32::try_from(hash % u64::from(WHOLE)).unwrap_or(0);
        let mut end = 0;
        let own = self.parts.iter().position(|part| {
            end += part;
            point < end
        });
        let takes = |wanted: bool| {
            let all = self.parts.iter().enumerate();
            all.filter(move |(_, part)| (**part > 0) == wanted).map(|(level, _)| level)
        };
        let rest = takes(true).chain(takes(false)).filter(|level| Some(*level) != own);
        own.into_iter().chain(rest).collect()
    }
}

impl Gate {
    /// Takes a place for one attempt; none while the breaker is open, but for its single probe. The caller gives the place back
    /// exactly once.
    pub fn start(&self, now: Moment) -> Option<Pass> {
        match self.breaker.admit(now) {
            Admission::Closed => Some(Pass { probe: false }),
            Admission::Probe => Some(Pass { probe: true }),
            Admission::Refused => None,
        }
    }

    /// Ends an attempt. `true` when this opened the breaker.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the place is given back, so that it cannot be given twice"
    )]
    pub fn finish(&self, pass: Pass, forwarded: Forwarded, limits: &BreakerLimits, now: Moment) -> bool {
        match forwarded {
            Forwarded::Failed => self.breaker.fail(pass.probe, limits, now),
            Forwarded::Neutral => {
                self.breaker.abandon(pass.probe);
                false
            }
            Forwarded::Served => {
                self.breaker.succeed(pass.probe);
                if pass.probe {
                    self.closed_at.store(now.0.max(1), Ordering::Relaxed);
                }
                false
            }
        }
    }

    /// Would an attempt be admitted? Takes nothing.
    #[must_use]
    pub fn admits(&self, now: Moment) -> bool {
        self.breaker.admits(now)
    }

    /// Is its breaker open or half open?
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.breaker.is_open()
    }

    /// How much of its traffic it lets pass, in percent: none while open, all for the probe, a ramp after it.
    #[must_use]
    pub fn share(&self, ramp: Duration, now: Moment) -> u32 {
        if self.breaker.admits(now) { ramped(self.closed_at.load(Ordering::Relaxed), ramp, now) } else { 0 }
    }
}

/// The percent that a linear ramp has come to; `begun` in microseconds, 0 for one that never began.
#[must_use]
pub fn ramped(begun: u64, ramp: Duration, now: Moment) -> u32 {
    let (passed, whole) = (now.since(Moment(begun)).as_millis(), ramp.as_millis());
    if begun == 0 || passed >= whole {
        return 100;
    }
    let steps = u128::from(100 - RAMP_BEGINS_PERCENT);
    let percent = u128::from(RAMP_BEGINS_PERCENT) + steps * passed / whole;
    u32::try_from(percent).unwrap_or(100).min(100)
}

#[cfg(test)]
mod tests;
