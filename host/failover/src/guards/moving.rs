//! The rules of who takes a shard over, when, and how often.

use portolan_core::ids::{RegionName, ShardName};

use super::Ruling;
use crate::matrix::Verdict;
use crate::picture::{Picture, Shard};
use crate::promotion::{Kind, Past};
use crate::proposal::{Origin, Proposal};
use crate::store::Failure;

/// A day, in milliseconds.
const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

/// Rule 5: The candidate is known by a word that is not much older than the loss, has not missed more than may be lost, and is the most advanced of those that
/// could. Of a planned switchover the last rows are waited for, so only its copy must be whole.
///
/// # Errors
/// Why not.
pub fn lag_gate(picture: &Picture, name: &ShardName, to: &RegionName, kind: Kind) -> Ruling {
    let Some(shard) = picture.shards.get(name) else { return Err(format!("there is no shard `{name}`")) };
    let Some(replica) = shard.replicas.get(to) else { return copied(name, shard, to) };
    copied(name, shard, to)?;
    if replica.epoch != shard.epoch {
        return Err(format!(
            "the copy of shard `{name}` in `{to}` knows epoch {} and not {}: it would lose what was written since",
            replica.epoch, shard.epoch
        ));
    }
    if kind != Kind::Failover || shard.primary == *to {
        return Ok(());
    }
    let well_ago = picture.regions.get(&shard.primary).and_then(|region| region.well_ago_ms);
    let oldest = well_ago.unwrap_or(0).saturating_add(picture.limits.lag_age_ms);
    if replica.ago_ms > oldest {
        let well = well_ago.map_or_else(
            || "no region that is there has seen the primary well since it started".to_owned(),
            |ago| format!("the primary was well {ago} ms ago"),
        );
        let heard = match replica.ago_ms {
            u64::MAX => "has never heard of its primary, as far as it knows".to_owned(),
            ago => format!("heard of its primary {ago} ms ago"),
        };
        return Err(format!(
            "the copy of shard `{name}` in `{to}` {heard}, and {well}: nobody knows what it lacks, and no bound of loss holds; a person may break the \
             glass of rule `lag-gate`"
        ));
    }
    let accepted = accepted(picture, name, to);
    let (max, behind_rows) =
        (shard.max_loss, replica.behind_rows.max(shard.head_rows.saturating_sub(replica.rows)));
    if accepted.is_none()
        && (behind_rows > max.rows || replica.behind_bytes > max.bytes || replica.behind_ms > max.ms)
    {
        return Err(format!(
            "`{to}` lacks {behind_rows} rows ({} bytes, {} ms) of shard `{name}`, and at most {} ({} bytes, {} ms) may be lost: the shard stays read only; \
             `portolan failover force --accept-loss ROWS` is a person's to say",
            replica.behind_bytes, replica.behind_ms, max.rows, max.bytes, max.ms
        ));
    }
    if let Some(rows) = accepted.filter(|rows| behind_rows > *rows) {
        return Err(format!(
            "`{to}` lacks {behind_rows} rows of shard `{name}`, and {rows} were accepted as lost"
        ));
    }
    let further = |other: &&RegionName| {
        shard.replicas.get(*other).is_some_and(|other| other.position > replica.position)
    };
    let candidates = picture.candidates(shard);
    match candidates.iter().find(further) {
        Some(other) if accepted.is_none() => {
            Err(format!("`{other}` has more of shard `{name}` than `{to}`: promote `{other}`"))
        }
        _ => Ok(()),
    }
}

/// Rule 5, of what nobody overrides: whoever is to write a shard has a whole copy of it.
///
/// # Errors
/// Why not.
pub fn copied(name: &ShardName, shard: &Shard, to: &RegionName) -> Ruling {
    match shard.replicas.get(to) {
        None => Err(format!(
            "`{to}` has told nothing of a copy of shard `{name}`: promote a region that keeps one"
        )),
        Some(replica) if !replica.whole => {
            Err(format!("the copy of shard `{name}` in `{to}` is not whole: wait until its rows are copied"))
        }
        Some(_) => Ok(()),
    }
}

/// How many rows a person accepts to lose by this very move.
fn accepted(picture: &Picture, name: &ShardName, to: &RegionName) -> Option<u64> {
    let this = |proposal: &Proposal| matches!(proposal, Proposal::Promote { shard, region } if shard == name && region == to);
    picture
        .intents
        .force
        .iter()
        .filter(|force| this(&force.proposal))
        .find_map(|force| force.accept_loss_rows)
}

/// Rule 6: A region must be down for a while, and failovers have a rate: of each shard, and of all, where the shards of one region that fails count once. A
/// person may do more.
///
/// # Errors
/// Why not.
pub fn anti_flap(picture: &Picture, name: &ShardName, kind: Kind, origin: Origin) -> Ruling {
    if origin == Origin::Operator {
        return Ok(());
    }
    let Some(shard) = picture.shards.get(name) else { return Err(format!("there is no shard `{name}`")) };
    let limits = &picture.limits;
    if kind == Kind::Failover && !shard.void && !picture.is_gone(&shard.primary) {
        return Err(format!(
            "`{}` is down for less than {} ms, or is worked at: what ends by itself sooner costs less than a failover",
            shard.primary, limits.outage_ms
        ));
    }
    rate(picture, name)
}

/// Rule 6: The rate alone: as it was when a promotion was decided, it must be when the lease is taken.
///
/// # Errors
/// Why not.
pub fn rate(picture: &Picture, name: &ShardName) -> Ruling {
    let Some(shard) = picture.shards.get(name) else { return Err(format!("there is no shard `{name}`")) };
    let limits = &picture.limits;
    let automatic = |past: &&Past| past.automatic && past.kind != Kind::Reclaim;
    let ago = |past: &Past| picture.now_ms.saturating_sub(past.at_ms);
    let of_shard: Vec<&Past> = shard.past.iter().filter(automatic).collect();
    if let Some(last) = of_shard.iter().map(|past| ago(past)).min().filter(|ago| *ago < limits.interval_ms) {
        return Err(format!(
            "shard `{name}` was promoted {last} ms ago, and again after {} ms at the earliest: `portolan failover force` if it cannot wait",
            limits.interval_ms
        ));
    }
    // The shards of one region that fails are one failover.
    let since = |failure: &&Failure| picture.now_ms.saturating_sub(failure.at_ms);
    let recent = |failure: &&Failure| since(failure) < limits.interval_ms;
    if picture.failures.iter().filter(recent).any(|failure| failure.region == shard.primary) {
        return Ok(());
    }
    if let Some(other) = picture.failures.iter().find(recent) {
        return Err(format!(
            "shards left `{}` {} ms ago, and another region's do after {} ms at the earliest: somebody should look why two fail",
            other.region,
            since(&other),
            limits.interval_ms
        ));
    }
    let today = picture.failures.iter().filter(|failure| since(failure) < DAY_MS).count();
    if today >= usize::try_from(limits.per_day).unwrap_or(usize::MAX) {
        return Err(format!(
            "{today} failovers within a day are what is done without a person: look why, then `portolan failover force`"
        ));
    }
    Ok(())
}

/// A failover that begins, among those of the last day; none where it is one of a region whose shards are being taken over already.
#[must_use]
pub fn failed(
    failures: &[Failure],
    region: &RegionName,
    now_ms: u64,
    interval_ms: u64,
) -> Option<Vec<Failure>> {
    let since = |failure: &Failure| now_ms.saturating_sub(failure.at_ms);
    if failures.iter().any(|failure| failure.region == *region && since(failure) < interval_ms) {
        return None;
    }
    let mut next: Vec<Failure> = failures.iter().filter(|failure| since(failure) < DAY_MS).cloned().collect();
    next.push(Failure { region: region.clone(), at_ms: now_ms });
    Some(next)
}

/// Rule 7: A shard whose primary works goes elsewhere only because an operator drains the region, or because the region cannot do its work and its databases
/// still answer, so that nothing is lost; home it goes by
/// itself only where that is configured.
///
/// # Errors
/// Why not.
pub fn no_failback(
    picture: &Picture,
    name: &ShardName,
    to: &RegionName,
    kind: Kind,
    origin: Origin,
) -> Ruling {
    let Some(shard) = picture.shards.get(name) else { return Err(format!("there is no shard `{name}`")) };
    let drained = picture.intents.drains.contains_key(&shard.primary);
    if kind != Kind::Switchover || origin == Origin::Operator || drained {
        return Ok(());
    }
    let sick = picture
        .regions
        .get(&shard.primary)
        .is_some_and(|region| region.verdict == Verdict::Gray && region.database);
    let home = picture.limits.failback && *to == shard.home;
    if sick || home {
        return Ok(());
    }
    Err(format!(
        "`{}` writes shard `{name}` and works: a planned switchover is an operator's to ask for, with `portolan failover return`",
        shard.primary
    ))
}

/// Rule 11: Data do not leave the regions that their residency class allows, also not in a disaster.
///
/// # Errors
/// Why not.
pub fn residency(shard: &Shard, to: &RegionName) -> Ruling {
    if shard.allows(to) {
        return Ok(());
    }
    Err(format!(
        "the shard's residency class does not allow `{to}`: give the class another region, and a copy there, before it is needed"
    ))
}

/// Rule 12: While an operator has frozen everything, nothing is changed that no operator asks for.
///
/// # Errors
/// Why not.
pub fn operator(picture: &Picture, origin: Origin) -> Ruling {
    match &picture.intents.freeze {
        Some(word) if origin == Origin::Policy => Err(format!(
            "`{}` has frozen failover ({}): `portolan failover freeze --undo`, or wait until it ends",
            word.by, word.why
        )),
        _ => Ok(()),
    }
}
