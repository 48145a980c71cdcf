//! The rules of traffic: somebody always answers, nobody gets more than it can take, and what comes back comes back slowly.

use std::collections::BTreeMap;

use portolan_core::ids::RegionName;

use super::{Decision, Rule, Ruling, fit, operator};
use crate::defaults::{PANIC_PERCENT, RAMP};
use crate::picture::{Picture, Removal, Shift};
use crate::proposal::{Origin, Proposal};

/// Settles the traffic plan: what is wanted of each region, and for the others that they serve themselves again.
pub(super) fn settle(
    picture: &Picture,
    wanted: &BTreeMap<RegionName, (Origin, RegionName, u8)>,
    holds: bool,
    decision: &mut Decision,
) {
    for (region, (origin, target, percent)) in wanted {
        let (target, percent) = (target.clone(), *percent);
        let proposal = Proposal::Shift { region: region.clone(), target: target.clone(), percent };
        if let Err((rule, why)) = shift(picture, (*origin, region, &target, percent), decision) {
            decision.bar(&proposal, rule, why);
        }
    }
    // Nobody speaks of it any more: it comes back, unless all is to stay as it is.
    let back: Vec<RegionName> =
        picture.shifts.keys().filter(|region| !holds && !wanted.contains_key(*region)).cloned().collect();
    for region in back {
        let proposal = Proposal::Shift { region: region.clone(), target: region.clone(), percent: 0 };
        if let Err(why) = operator(picture, Origin::Policy) {
            decision.bar(&proposal, Rule::Operator, why);
        } else if picture.regions.get(&region).is_some_and(|there| there.answers) && !picture.is_gone(&region)
        {
            come_back(picture, &region, 0, decision);
        }
    }
}

fn come_back(picture: &Picture, region: &RegionName, wanted: u8, decision: &mut Decision) {
    let Some(shift) = decision.shifts.get(region).cloned() else { return };
    let percent = ramp(picture, region, shift.percent, wanted);
    if percent == 0 {
        decision.shifts.remove(region);
    } else if percent != shift.percent {
        decision.shifts.insert(region.clone(), Shift { percent, since_ms: picture.now_ms, ..shift });
    }
}

fn shift(
    picture: &Picture,
    (origin, region, target, percent): (Origin, &RegionName, &RegionName, u8),
    decision: &mut Decision,
) -> Result<(), (Rule, String)> {
    let overrides = |rule| picture.intents.overrides(rule);
    operator(picture, origin).map_err(|why| (Rule::Operator, why))?;
    if percent > 100 || region == target || !picture.regions.contains_key(region) {
        let why =
            format!("{percent} % of `{region}` to `{target}` is no shift: 0 to 100 %, between two regions");
        return Err((Rule::AnswersStay, why));
    }
    fit(picture, target).map_err(|why| (Rule::AnswersStay, why))?;
    let is_out = |name: &RegionName| decision.shifts.get(name).is_some_and(|shift| shift.percent >= 100);
    if is_out(target) {
        let why = format!("`{target}` answers nothing itself: traffic of `{region}` would go nowhere");
        return Err((Rule::AnswersStay, why));
    }
    let now = decision.shifts.get(region).cloned();
    let current = now.as_ref().map_or(0, |shift| shift.percent);
    if percent < current {
        come_back(picture, region, percent, decision);
        return Ok(());
    }
    let stepped = if overrides(Rule::Capacity) { percent } else { ramp(picture, region, current, percent) };
    let fits = match capacity(picture, decision, region, target, stepped) {
        Ok(()) => stepped,
        Err(_) if overrides(Rule::Capacity) => stepped,
        Err((fits, why)) => {
            let proposal =
                Proposal::Shift { region: region.clone(), target: target.clone(), percent: stepped };
            decision.bar(&proposal, Rule::Capacity, why);
            fits
        }
    };
    if fits == 0 || now.as_ref().is_some_and(|now| now.target == *target && now.percent >= fits) {
        return Ok(());
    }
    let removes = fits >= 100 && current < 100;
    if removes
        && let Err(why) = answers_stay(picture, decision, region, target)
        && !overrides(Rule::AnswersStay)
    {
        return Err((Rule::AnswersStay, why));
    }
    if removes {
        decision.removals.push(Removal { region: region.clone(), at_ms: picture.now_ms });
    }
    decision
        .shifts
        .insert(region.clone(), Shift { target: target.clone(), percent: fits, since_ms: picture.now_ms });
    Ok(())
}

/// Rule 8: Some region goes on answering: where traffic goes is a region that answers itself; regions that stay have at least half of all capacity; and in one
/// window no more regions are taken out than leave a majority.
///
/// # Errors
/// Why not.
pub fn answers_stay(
    picture: &Picture,
    decision: &Decision,
    region: &RegionName,
    target: &RegionName,
) -> Ruling {
    let out = |name: &RegionName| {
        name == region || decision.shifts.get(name).is_some_and(|shift| shift.percent >= 100)
    };
    let onto = decision.shifts.iter().find(|(_, shift)| shift.target == *region && shift.percent >= 100);
    if out(target) || onto.is_some() {
        let whose = onto.map_or(region, |(from, _)| from);
        return Err(format!("traffic of `{whose}` would go nowhere: send it elsewhere first"));
    }
    let all: u64 = picture.regions.values().map(|there| there.capacity).fold(0, u64::saturating_add);
    let left: u64 = picture
        .regions
        .iter()
        .filter(|(name, _)| !out(name))
        .map(|(_, there)| there.capacity)
        .fold(0, u64::saturating_add);
    if left.saturating_mul(100) < all.saturating_mul(PANIC_PERCENT)
        || !picture.regions.keys().any(|name| !out(name))
    {
        return Err(format!(
            "without `{region}` less than {PANIC_PERCENT} % of all capacity would be left: so much does not fail at once, and it stays in service"
        ));
    }
    let budget = picture.regions.len().saturating_sub(1) / 2;
    let recent = |removal: &&Removal| {
        picture.now_ms.saturating_sub(removal.at_ms) < picture.limits.removal_window_ms
            && removal.region != *region
    };
    let lately =
        picture.removals.iter().chain(&decision.removals).filter(recent).map(|removal| &removal.region);
    // Those that are out for longer count as long as they are.
    let still = decision
        .shifts
        .iter()
        .filter(|(name, shift)| shift.percent >= 100 && *name != region)
        .map(|(name, _)| name);
    let mut removed: Vec<&RegionName> = lately.chain(still).collect();
    removed.sort();
    removed.dedup();
    if removed.len() >= budget {
        return Err(format!(
            "{} of {} regions were taken out of service within {} ms, and no more are before a person looks",
            removed.len(),
            picture.regions.len(),
            picture.limits.removal_window_ms
        ));
    }
    Ok(())
}

/// Rule 9: A region gets no more than its capacity with headroom; what does not fit is shed where it comes from, and does not take the next region down.
///
/// # Errors
/// How much fits, in percent, and why not more.
pub fn capacity(
    picture: &Picture,
    decision: &Decision,
    region: &RegionName,
    target: &RegionName,
    percent: u8,
) -> Result<(), (u8, String)> {
    let others = decision.shifts.iter().filter(|(from, shift)| *from != region && shift.target == *target);
    let extra: u64 =
        others.map(|(from, shift)| picture.load_part(from, shift.percent)).fold(0, u64::saturating_add);
    let there = picture.regions.get(target);
    let usable = there
        .map_or(0, |there| there.capacity.saturating_mul(u64::from(picture.limits.headroom_percent)) / 100);
    let spare = usable.saturating_sub(there.map_or(0, |there| there.load)).saturating_sub(extra);
    if picture.load_part(region, percent) <= spare {
        return Ok(());
    }
    let fits = (0..percent).rev().find(|percent| picture.load_part(region, *percent) <= spare).unwrap_or(0);
    Err((
        fits,
        format!(
            "`{target}` has room for {spare} requests per second, and {percent} % of `{region}` is {}: {fits} % go there and the rest is shed",
            picture.load_part(region, percent)
        ),
    ))
}

/// Rule 9: How much of a region's traffic goes elsewhere by now, on the way from one share to another: away by the steps of the ramp, or at once when the region
/// is gone; back by the same steps of what it gets again, each after a while in which it answered.
#[must_use]
pub fn ramp(picture: &Picture, region: &RegionName, current: u8, wanted: u8) -> u8 {
    let (current, wanted) = (current.min(100), wanted.min(100));
    let since = picture.shifts.get(region).map_or(0, |shift| shift.since_ms);
    let rested = picture.now_ms.saturating_sub(since) >= picture.limits.ramp_step_ms;
    let step = |share: u8| RAMP.into_iter().find(|step| *step > share).unwrap_or(100);
    if wanted > current {
        let gone = picture.regions.get(region).is_none_or(|there| there.verdict.is_down())
            || picture.is_gone(region);
        return match (gone, rested) {
            (true, _) => wanted,
            (false, true) => step(current).min(wanted),
            (false, false) => current,
        };
    }
    if wanted < current && rested {
        100_u8.saturating_sub(step(100_u8.saturating_sub(current))).max(wanted)
    } else {
        current
    }
}
