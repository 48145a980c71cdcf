//! What would happen if a region died now: who would be promoted, what would be lost, how long it would take, and what would stand in its way.

use std::collections::BTreeMap;
use std::time::Duration;

use portolan_core::ids::{RegionName, ShardName};
use serde::{Deserialize, Serialize};

use crate::defaults::PROMOTE_EXPECTED;
use crate::guards::{Bar, judge};
use crate::matrix::Verdict;
use crate::picture::Picture;
use crate::proposal::Proposal;
use crate::timers::Timers;

/// One shard, if its region died now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prospect {
    /// Who would be promoted; nobody where it would be read only.
    pub to: Option<RegionName>,
    /// Rows that would be lost, as far as is known.
    pub loss_rows: u64,
    /// The most that a failover would report; none where nothing bounds it.
    pub loss_rows_max: Option<u64>,
    /// How old the oldest of them would be, in milliseconds.
    pub loss_ms: u64,
    /// How long writes would be refused, in milliseconds; none where nobody would be promoted.
    pub time_ms: Option<u64>,
}

/// All of a region's shards, if it died now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forecast {
    /// The region.
    pub region: RegionName,
    /// Its shards.
    pub shards: BTreeMap<ShardName, Prospect>,
    /// Where its traffic would go.
    pub traffic_to: Option<RegionName>,
    /// How much of it would fit there, in percent.
    pub traffic_percent: u8,
    /// What the other regions could take beside what they have, to what the region has, in percent.
    pub spare_percent: u64,
    /// What would be barred, and why.
    pub barred: Vec<Bar>,
}

/// What would happen if a region died now, by a policy.
#[must_use]
pub fn forecast(
    picture: &Picture,
    region: &RegionName,
    timers: &Timers,
    policy: impl FnOnce(&Picture) -> Vec<Proposal>,
) -> Forecast {
    let dead = without(picture, region);
    let decision = judge(&dead, &policy(&dead));
    let expected = timers.expiry().max(timers.detection() + timers.pace.outage) + PROMOTE_EXPECTED;
    let written = picture.shards.iter().filter(|(_, shard)| shard.primary == *region);
    let prospect = |(name, shard): (&ShardName, &crate::picture::Shard)| {
        let to = decision.moves.iter().find(|there| there.shard == *name).map(|there| there.to.clone());
        let best = to.as_ref().or_else(|| shard.replicas.keys().find(|other| *other != region));
        let replica = best.and_then(|best| shard.replicas.get(best));
        let rows = replica.map_or(shard.head_rows, |replica| {
            replica.behind_rows.max(shard.head_rows.saturating_sub(replica.rows))
        });
        let prospect = Prospect {
            loss_rows: rows,
            loss_rows_max: shard.max_loss.window_rows.map(|window| window.max(rows)),
            loss_ms: replica.map_or(u64::MAX, |replica| replica.behind_ms.max(replica.ago_ms)),
            time_ms: to.is_some().then(|| millis(expected)),
            to,
        };
        (name.clone(), prospect)
    };
    let shards = written.map(prospect).collect();
    let spare: u64 = picture
        .regions
        .keys()
        .filter(|other| *other != region)
        .map(|other| picture.spare(other))
        .fold(0, u64::saturating_add);
    let load = picture.load_part(region, 100);
    let shift = decision.shifts.get(region);
    Forecast {
        region: region.clone(),
        shards,
        traffic_to: shift.map(|shift| shift.target.clone()),
        traffic_percent: shift.map_or(0, |shift| shift.percent),
        spare_percent: spare.saturating_mul(100).checked_div(load).unwrap_or(u64::MAX),
        barred: decision.barred,
    }
}

/// The picture as it would be once everybody knows that the region is gone. Nobody has frozen anything in it that does not hold now.
fn without(picture: &Picture, region: &RegionName) -> Picture {
    let mut dead = picture.clone();
    let others = u8::try_from(picture.regions.len().saturating_sub(1)).unwrap_or(u8::MAX);
    let outage_ms = picture.limits.outage_ms;
    if let Some(there) = dead.regions.get_mut(region) {
        there.verdict = Verdict::Down { of: others, k: others };
        (there.answers, there.down_ms) = (false, outage_ms);
        there.well_ago_ms = Some(outage_ms);
    }
    dead
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
