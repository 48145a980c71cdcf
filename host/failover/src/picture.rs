//! What policies decide from, and guards after them: the world of one moment, in plain words and numbers. Nothing else goes into a decision, so that one
//! that is kept can be made again.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use portolan_core::ids::{RegionName, ShardName};
use portolan_core::log::{Epoch, Position};
use serde::{Deserialize, Serialize};

use crate::counter::State;
use crate::defaults::HEADROOM_PERCENT;
use crate::intent::Intents;
use crate::matrix::{Path, Verdict};
use crate::promotion::{Kind, Past};
use crate::store::Failure;
use crate::timers::Timers;

/// A region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// What is believed of it.
    pub verdict: Verdict,
    /// Has it told lately that it is there, without doubting itself? Where few regions are left the verdict of those that are is `unknown`, because too
    /// few report; this is not.
    pub answers: bool,
    /// Do its databases answer it, as it says itself? An orderly move out of a region asks its databases.
    pub database: bool,
    /// For how long it has been down, in milliseconds; 0 when it is not.
    pub down_ms: u64,
    /// How long ago it was last believed to be well, in milliseconds; none when never.
    pub well_ago_ms: Option<u64>,
    /// Requests per second that it can take.
    pub capacity: u64,
    /// Those that come to it by themselves.
    pub load: u64,
}

/// How a region looks from another, or from itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sight {
    /// Which region.
    pub region: RegionName,
    /// From which one.
    pub vantage: RegionName,
    /// Over each path of which something is known.
    pub cells: BTreeMap<Path, State>,
}

/// A copy of a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// The last epoch that it knows to have begun.
    pub epoch: Epoch,
    /// How far it has come.
    pub position: Position,
    /// How many rows of the log that is.
    pub rows: u64,
    /// Rows that it knew to be missing when it said so.
    pub behind_rows: u64,
    /// Bytes.
    pub behind_bytes: u64,
    /// How old what it lacks was, in milliseconds.
    pub behind_ms: u64,
    /// How long ago that was so, in milliseconds: how old its word is, and for how long it had not heard of the primary then.
    pub ago_ms: u64,
    /// Does it have all rows of some moment, and not only some?
    pub whole: bool,
}

/// How much of a shard may be lost by an automatic promotion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaxLoss {
    /// Rows.
    pub rows: u64,
    /// Bytes.
    pub bytes: u64,
    /// Milliseconds.
    pub ms: u64,
    /// The primary takes no write while more rows than this have not been received by another region; none where it does, or where applications
    /// write past its gateways. It bounds what a failover reports.
    pub window_rows: Option<u64>,
}

/// A shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// The epoch that is.
    pub epoch: Epoch,
    /// Who writes it.
    pub primary: RegionName,
    /// Is that over, by the lease that it cites?
    pub void: bool,
    /// Where it is written when all is well.
    pub home: RegionName,
    /// Its copies, by region; also the primary's, where it is known.
    pub replicas: BTreeMap<RegionName, Replica>,
    /// Regions that its residency class allows; none when it has no class.
    pub allowed: Option<BTreeSet<RegionName>>,
    /// How much of it may be lost.
    pub max_loss: MaxLoss,
    /// The most rows that its log is known to have.
    pub head_rows: u64,
    /// The promotion that is under way.
    pub running: Option<Kind>,
    /// Promotions that moved it.
    pub past: Vec<Past>,
}

/// Traffic of a region that goes elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shift {
    /// Where.
    pub target: RegionName,
    /// How much, in percent.
    pub percent: u8,
    /// Since when it is that much, in milliseconds since 1970.
    pub since_ms: u64,
}

/// A region that was taken out of service altogether.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removal {
    /// Which one.
    pub region: RegionName,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
}

/// What guards hold everybody to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// How long a region must be down before anything is promoted.
    pub outage_ms: u64,
    /// How much older than the loss a replica's word may be.
    pub lag_age_ms: u64,
    /// From one automatic failover to the next.
    pub interval_ms: u64,
    /// Automatic failovers of one day.
    pub per_day: u32,
    /// The window in which removals are counted.
    pub removal_window_ms: u64,
    /// Between two steps of a ramp.
    pub ramp_step_ms: u64,
    /// How much of a capacity may be used after a shift, in percent.
    pub headroom_percent: u32,
    /// May a shard go home by itself?
    pub failback: bool,
}

/// The world of one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Picture {
    /// When, in milliseconds since 1970.
    pub now_ms: u64,
    /// Whose picture it is.
    pub local: RegionName,
    /// Has the control store answered lately, with a majority of its voters?
    pub control: bool,
    /// The regions.
    pub regions: BTreeMap<RegionName, Region>,
    /// The cells of the matrix, as those who report see them; none in a picture of one shard.
    #[serde(default)]
    pub sights: Vec<Sight>,
    /// The shards.
    pub shards: BTreeMap<ShardName, Shard>,
    /// Regions from which shards were taken over automatically within a day.
    pub failures: Vec<Failure>,
    /// The traffic plan that is.
    pub shifts: BTreeMap<RegionName, Shift>,
    /// Regions that were taken out of service lately.
    pub removals: Vec<Removal>,
    /// What operators say.
    pub intents: Intents,
    /// What guards hold everybody to.
    pub limits: Limits,
}

impl Limits {
    /// Those of some times.
    #[must_use]
    pub fn of(timers: &Timers, failback: bool) -> Self {
        let ms = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            outage_ms: ms(timers.pace.outage),
            lag_age_ms: ms(timers.pace.lag_age),
            interval_ms: ms(timers.pace.interval),
            per_day: timers.pace.per_day,
            removal_window_ms: ms(timers.pace.removal_window),
            ramp_step_ms: ms(timers.pace.ramp_step),
            headroom_percent: HEADROOM_PERCENT,
            failback,
        }
    }
}

impl Shard {
    /// May it be written in a region by its residency class?
    #[must_use]
    pub fn allows(&self, region: &RegionName) -> bool {
        self.allowed.as_ref().is_none_or(|allowed| allowed.contains(region))
    }
}

impl Picture {
    /// Is a region there, and fit to take something over?
    #[must_use]
    pub fn is_fit(&self, region: &RegionName) -> bool {
        let Some(there) = self.regions.get(region) else { return false };
        let busy = self.intents.drains.contains_key(region) || self.intents.maintenance.contains_key(region);
        let lost = self.intents.lost.contains_key(region);
        there.answers
            && !busy
            && !lost
            && !matches!(there.verdict, Verdict::Down { .. } | Verdict::Gray | Verdict::Partitioned)
    }

    /// Is a region gone: down for long enough, or declared lost? Not while somebody works at it.
    #[must_use]
    pub fn is_gone(&self, region: &RegionName) -> bool {
        if self.intents.lost.contains_key(region) {
            return true;
        }
        let down = self
            .regions
            .get(region)
            .is_some_and(|there| there.verdict.is_down() && there.down_ms >= self.limits.outage_ms);
        down && !self.intents.maintenance.contains_key(region)
    }

    /// Regions that could take a shard over, from the most advanced on; of equals, by name. The lag is not looked at.
    #[must_use]
    pub fn candidates(&self, shard: &Shard) -> Vec<RegionName> {
        let eligible = |(region, replica): &(&RegionName, &Replica)| {
            **region != shard.primary
                && replica.whole
                && replica.epoch == shard.epoch
                && shard.allows(region)
                && self.is_fit(region)
        };
        let mut eligible: Vec<_> = shard.replicas.iter().filter(eligible).collect();
        // The sort is stable, and regions come in the order of their names.
        eligible.sort_by_key(|(_, replica)| Reverse(replica.position));
        eligible.into_iter().map(|(region, _)| region.clone()).collect()
    }

    /// Requests per second that a region could take beside what it has, by the headroom.
    #[must_use]
    pub fn spare(&self, region: &RegionName) -> u64 {
        let Some(there) = self.regions.get(region) else { return 0 };
        let usable = there.capacity.saturating_mul(u64::from(self.limits.headroom_percent)) / 100;
        let shifted = self.shifts.iter().filter(|(_, shift)| shift.target == *region);
        let extra: u64 =
            shifted.map(|(from, shift)| self.load_part(from, shift.percent)).fold(0, u64::saturating_add);
        usable.saturating_sub(there.load).saturating_sub(extra)
    }

    /// A part of what comes to a region by itself.
    #[must_use]
    pub fn load_part(&self, region: &RegionName, percent: u8) -> u64 {
        let load = self.regions.get(region).map_or(0, |there| there.load);
        load.saturating_mul(u64::from(percent)) / 100
    }
}
