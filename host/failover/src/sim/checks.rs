//! What must hold, at each step and at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use portolan_core::ids::RegionName;

use super::world::{MAX_ROWS, MS, SECOND, WINDOW, World};
use crate::evidence::Bundle;
use crate::lease::Title;
use crate::picture::Shift;
use crate::promotion::{Kind, Past, Record, Step};
use crate::store::{Key, Table, Transaction, Value};

/// By how much a database's clock steps back at once, and what rounding makes of clocks that run differently.
const STEP_BACK_US: u64 = 320 * MS;
/// Rows that a primary may have written between the last word of a copy that counts and the end of its lease.
const MEANWHILE_ROWS: u64 = 400;
/// By how much wall clocks may be apart, twice.
const WALL_US: u64 = 62 * SECOND;

/// What was seen of a world, by somebody who sees everything.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Renewals that are under way: when they were sent, and for how long they are.
    pub(super) renewals: BTreeMap<(usize, u32, u64), (u64, Duration)>,
    /// When regions were last asked to acknowledge.
    pub(super) rounds: BTreeMap<usize, u64>,
    pub(super) stepped_back: BTreeMap<usize, u64>,
    /// The last epoch that wrote, and where.
    writes: Vec<(u64, usize)>,
    /// Rows of the log that each epoch left, by shard.
    left: Vec<BTreeMap<u64, u64>>,
    /// Rows that each epoch began with, by shard.
    begun: Vec<BTreeMap<u64, u64>>,
    /// Automatic failovers: when, of which shard, from where.
    moves: Vec<(u64, usize, RegionName)>,
    /// Promotions as they were last told.
    told: BTreeMap<(usize, u64), Past>,
    pub(super) failovers: usize,
    pub(super) switchovers: usize,
    pub(super) rows: u64,
    pub(super) decisions: usize,
    pub(super) unbounded: usize,
    pub(super) lost_rows: u64,
}

impl Seen {
    pub(super) fn new(shards: usize) -> Self {
        Self {
            writes: vec![(0, 0); shards],
            left: vec![BTreeMap::new(); shards],
            begun: vec![BTreeMap::new(); shards],
            ..Self::default()
        }
    }

    /// Promotions, as they were last told.
    pub(super) fn told(&self) -> impl Iterator<Item = &Past> {
        self.told.values()
    }
}

/// A row was written.
pub(super) fn wrote(world: &mut World, region: usize, shard: usize, epoch: u64) {
    let (now, rows) = (world.now, world.regions[region].copies[shard].rows());
    world.seen.rows += 1;
    let (last, at) = world.seen.writes[shard];
    if epoch < last || epoch == last && at != region {
        world.violated(format!(
            "s{shard} was written in epoch {epoch} by {region}, after epoch {last} by {at}"
        ));
    }
    world.seen.writes[shard] = (epoch, region);
    world.seen.left[shard].insert(epoch, rows);
    let time = world.timers.lease.ttl - world.timers.lease.margin;
    let end = world.regions[region].renewed_us + u64::try_from(time.as_micros()).unwrap();
    let recently = world.seen.stepped_back.get(&region).is_some_and(|at| now - at < 30 * SECOND);
    let bound = if recently { 3 * STEP_BACK_US } else { 20 * MS };
    if now > end + bound {
        world.violated(format!("{region} wrote s{shard} {} ms after its lease was over", (now - end) / MS));
    }
}

/// An epoch began in a region's database.
pub(super) fn began(world: &mut World, region: usize, shard: usize, epoch: u64) {
    let rows = world.regions[region].copies[shard].rows();
    world.note(|| format!("{region} begins epoch {epoch} of s{shard} with {rows} rows"));
    world.seen.left[shard].entry(epoch).or_insert(rows);
    world.seen.begun[shard].entry(epoch).or_insert(rows);
    for other in (0..world.regions.len()).filter(|other| *other != region).collect::<Vec<_>>() {
        let (copy, clock) = (&world.regions[other].copies[shard], world.database_clock(other));
        if copy.fence < epoch && clock < copy.deadline_us {
            let left = (copy.deadline_us - clock) / MS;
            world.violated(format!(
                "epoch {epoch} of s{shard} began in {region} while {other} could write for {left} ms"
            ));
        }
    }
}

/// The store took a change.
pub(super) fn committed(world: &mut World, region: usize, before: &Table, change: &Transaction) {
    for (key, value) in &change.put {
        match (key, value) {
            (Key::Ownership(name), Value::Ownership(next)) => {
                let was = before.ownership(name);
                let raised = next.epoch.0 == was.map_or(0, |was| was.epoch.0) + 1;
                let given_up = was.is_some_and(|was| {
                    next.title != Title::Owned && was.epoch == next.epoch && was.primary == next.primary
                });
                if !raised && !given_up {
                    world.violated(format!("{name} went from {was:?} to {next:?}"));
                }
            }
            (Key::Lease(name), Value::Lease(next)) => {
                let was = before.lease(name);
                let incarnation = was.map_or(0, |was| was.incarnation.0);
                if next.incarnation.0 < incarnation || next.incarnation.0 > incarnation + 1 {
                    world.violated(format!("the lease of {name} went from {was:?} to {next:?}"));
                }
            }
            (Key::Promotion(_), Value::Promotion(record)) => promoted(world, region, before, record),
            _ => {}
        }
    }
}

fn promoted(world: &mut World, region: usize, before: &Table, record: &Record) {
    let shard = world.shards.iter().position(|name| *name == record.shard).unwrap();
    for past in &record.past {
        world.seen.told.insert((shard, past.number), past.clone());
    }
    let was = before.promotion(&record.shard).filter(|was| was.number == record.number);
    let at = was.map(|was| was.step);
    if at == Some(record.step) {
        return;
    }
    let (number, kind, from, to, step) =
        (record.number, record.kind, record.from.clone(), record.to.clone(), record.step);
    let aborted = record.aborted.clone().unwrap_or_default();
    world.note(|| format!("s{shard} promotion {number} ({kind:?}, {from} to {to}): {step:?} {aborted}"));
    if at.is_some_and(|at| at > record.step) {
        world.violated(format!(
            "promotion {} of s{shard} went back from {at:?} to {:?}",
            record.number, record.step
        ));
    }
    if record.step == Step::Leased {
        match record.kind {
            Kind::Failover => failover(world, region, shard, record),
            Kind::Switchover => world.seen.switchovers += 1,
            Kind::Reclaim => {}
        }
    }
}

fn failover(world: &mut World, region: usize, shard: usize, record: &Record) {
    let now = world.now;
    world.seen.failovers += 1;
    if record.to == record.from
        || world.seen.moves.iter().any(|(_, at, from)| {
            *at == shard
                && *from == record.from
                && record.to == world.regions[region].name
                && !record.automatic
        })
    {
        return;
    }
    let allowed = world.regions[region]
        .agent
        .picture(world.time(region))
        .shards
        .get(&record.shard)
        .is_none_or(|shard| shard.allows(&record.to));
    if !allowed {
        world.violated(format!("s{shard} went to {}, which its residency class does not allow", record.to));
    }
    if !record.automatic {
        return;
    }
    let interval = u64::try_from(world.timers.pace.interval.as_micros()).unwrap().saturating_sub(WALL_US);
    let resumed =
        record.past.iter().rev().nth(1).is_some_and(|past| past.to == record.to && past.from == record.from);
    let again = world.seen.moves.iter().find(|(at, there, from)| {
        now - at < interval && (*there == shard && !resumed || *from != record.from)
    });
    if let Some((at, there, from)) = again.cloned() {
        world.violated(format!(
            "s{shard} left {} {} s after s{there} had left {from}: promotions have a rate",
            record.from,
            (now - at) / SECOND
        ));
    }
    world.seen.moves.push((now, shard, record.from.clone()));
    // What the candidate has by itself, whatever others will give it.
    let has = world.regions[region].copies[shard].rows();
    let left = world.seen.left[shard].values().next_back().copied().unwrap_or(0);
    let bound = MAX_ROWS + WINDOW + MEANWHILE_ROWS;
    if left.saturating_sub(has) > bound && !World::is_direct(shard) && !resumed {
        world.violated(format!(
            "s{shard} went to {} which lacks {} rows, at most {bound} may be",
            record.to,
            left - has
        ));
    }
}

/// A decision was made.
pub(super) fn decided(world: &mut World, bundle: &Bundle) {
    world.seen.decisions += 1;
    let moves = &bundle.decision.moves;
    let shards: BTreeSet<_> = moves.iter().map(|there| &there.shard).collect();
    if shards.len() != moves.len() {
        world.violated("one answer moves a shard twice".to_owned());
    }
    for there in moves {
        let shard = &bundle.picture.shards[&there.shard];
        if !shard.allows(&there.to) {
            world.violated(format!("{} would go where its residency class does not allow it", there.shard));
        }
    }
}

/// A region sends traffic so.
pub(super) fn traffic(world: &mut World, region: usize, shifts: &BTreeMap<RegionName, Shift>) {
    let out: BTreeSet<&RegionName> =
        shifts.iter().filter(|(_, shift)| shift.percent >= 100).map(|(name, _)| name).collect();
    let (regions, most) = (world.regions.len(), (world.regions.len() - 1) / 2);
    if out.len() >= regions || out.len() > most {
        world.violated(format!("{region} takes {} of {regions} regions out of service", out.len()));
    }
    if let Some((from, shift)) =
        shifts.iter().find(|(_, shift)| out.contains(&shift.target) && shift.percent >= 100)
    {
        world.violated(format!("{region} sends {from} to {}, which is out of service itself", shift.target));
    }
}

/// What must hold once all is healed and at rest.
pub(super) fn end(world: &mut World) {
    for shard in 0..world.shards.len() {
        let writers = world.writers(shard);
        if writers.len() != 1 {
            let name = &world.shards[shard];
            let region = |at: usize| {
                let (there, now) = (&world.regions[at], world.time(at).moment);
                let copy = &there.copies[shard];
                let (lease, permit) = (there.agent.holder(), there.agent.permit(name, now));
                let left_us = i128::from(copy.deadline_us) - i128::from(world.database_clock(at));
                format!(
                    "{}: up {} rows {} term {} fence {} for {left_us} us, lease {:?} {} permit {permit:?}, sees {:?}",
                    there.name,
                    there.up,
                    copy.rows(),
                    copy.term,
                    copy.fence,
                    lease.incarnation(),
                    lease.allows(now),
                    there.agent.table().ownership(name),
                )
            };
            let there: Vec<String> = (0..world.regions.len()).map(region).collect();
            let (owned, record) =
                (world.store.ownership(name).cloned(), world.store.promotion(name).cloned());
            world.violated(format!(
                "{} regions take writes of s{shard} after all is healed: {writers:?}; {owned:?}; {record:?}\n{}",
                writers.len(),
                there.join("\n")
            ));
        }
    }
    let told: Vec<((usize, u64), Past)> =
        world.seen.told.iter().map(|(key, past)| (*key, past.clone())).collect();
    for ((shard, number), past) in told {
        // What never began in a database lost nothing yet: whoever comes after it tells.
        let Some(begun) = world.seen.begun[shard].get(&past.epoch.0).copied() else { continue };
        let (Some(cut), Some(loss)) = (past.cut_rows, past.loss) else { continue };
        let left = world.seen.left[shard].range(..past.epoch.0).next_back().map_or(0, |(_, rows)| *rows);
        let real = left.saturating_sub(begun);
        world.seen.lost_rows += real;
        if past.kind == Kind::Failover && loss.at_most.is_none() {
            world.seen.unbounded += 1;
        }
        if !loss.holds(real) || past.kind == Kind::Failover && cut != begun {
            world.violated(format!(
                "promotion {number} of s{shard} ({:?}, epoch {}) lost {real} rows at {begun}, and told {loss:?} at {cut}",
                past.kind, past.epoch
            ));
        }
    }
}
