//! The built-in policies.

use portolan_core::ids::RegionName;

use crate::matrix::Verdict;
use crate::picture::{Picture, Shard};
use crate::proposal::Proposal;

/// Promotes the most advanced copy of each shard whose region is gone, and sends the region's traffic to whoever has most room. A shard that no region can
/// take over is read only. A region of which nothing is said gets its traffic back.
#[must_use]
pub fn conservative(picture: &Picture) -> Vec<Proposal> {
    let mut proposals = promotions(picture, |_| false);
    proposals.extend(shifts(picture, |picture, region| {
        roomiest(picture, region).into_iter().map(|to| (to, 100)).collect()
    }));
    proposals
}

/// The same, and shards leave a region that answers and does not do its work.
#[must_use]
pub fn fast(picture: &Picture) -> Vec<Proposal> {
    let gray = |region: &RegionName| {
        picture.regions.get(region).is_some_and(|there| there.verdict == Verdict::Gray && there.database)
    };
    let mut proposals = promotions(picture, gray);
    proposals.extend(shifts(picture, |picture, region| {
        roomiest(picture, region).into_iter().map(|to| (to, 100)).collect()
    }));
    proposals
}

/// Changes nothing: what operators force, drain or declare lost is done all the same.
#[must_use]
pub fn manual(_: &Picture) -> Vec<Proposal> {
    vec![Proposal::Hold]
}

/// As [`conservative`], and a region's traffic goes elsewhere only as far as there is room.
#[must_use]
pub fn capacity_aware(picture: &Picture) -> Vec<Proposal> {
    let mut proposals = promotions(picture, |_| false);
    proposals.extend(shifts(picture, |picture, region| {
        let Some(to) = roomiest(picture, region) else { return Vec::new() };
        let (spare, load) = (picture.spare(&to), picture.load_part(region, 100));
        let held = picture.shifts.get(region).filter(|shift| shift.target == to);
        let spare = spare.saturating_add(held.map_or(0, |shift| picture.load_part(region, shift.percent)));
        let percent = spare.saturating_mul(100).checked_div(load).unwrap_or(100);
        vec![(to, u8::try_from(percent.min(100)).unwrap_or(100))]
    }));
    proposals
}

fn promotions(picture: &Picture, also: impl Fn(&RegionName) -> bool) -> Vec<Proposal> {
    let mut proposals = Vec::new();
    for (name, shard) in picture.shards.iter().filter(|(_, shard)| shard.running.is_none()) {
        let gone = shard.void || picture.is_gone(&shard.primary);
        if !gone && !also(&shard.primary) {
            continue;
        }
        match candidate(picture, shard) {
            Some(region) => proposals.push(Proposal::Promote { shard: name.clone(), region }),
            None if gone => proposals.push(Proposal::ReadOnly { shard: name.clone() }),
            None => {}
        }
    }
    proposals
}

/// The most advanced copy; its own region's before others where it is as far.
fn candidate(picture: &Picture, shard: &Shard) -> Option<RegionName> {
    let within = |region: &RegionName| {
        shard.replicas.get(region).is_some_and(|replica| {
            replica.behind_rows <= shard.max_loss.rows
                && replica.behind_bytes <= shard.max_loss.bytes
                && replica.behind_ms <= shard.max_loss.ms
        })
    };
    picture.candidates(shard).into_iter().next().filter(within)
}

fn shifts(
    picture: &Picture,
    share: impl Fn(&Picture, &RegionName) -> Vec<(RegionName, u8)>,
) -> Vec<Proposal> {
    let gone = picture
        .regions
        .keys()
        .filter(|region| picture.is_gone(region) || picture.intents.drains.contains_key(*region));
    let shift = |(region, (target, percent)): (&RegionName, (RegionName, u8))| Proposal::Shift {
        region: region.clone(),
        target,
        percent,
    };
    gone.flat_map(|region| share(picture, region).into_iter().map(move |share| (region, share)))
        .map(shift)
        .collect()
}

/// Whoever has most room; where traffic goes already it stays, as long as that region is fit.
fn roomiest(picture: &Picture, not: &RegionName) -> Option<RegionName> {
    let held = picture.shifts.get(not).map(|shift| shift.target.clone()).filter(|to| picture.is_fit(to));
    let fit = picture.regions.keys().filter(|region| *region != not && picture.is_fit(region));
    held.or_else(|| fit.max_by_key(|region| picture.spare(region)).cloned())
}
