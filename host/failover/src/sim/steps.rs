//! What happens at each step, and what becomes of what agents want.

use super::world::{MS, SECOND, WINDOW, What, World};
use super::{Variant, checks};
use crate::agent::{Effect, Event, TICK, Word};
use crate::counter::{Outcome, Reason};
use crate::evidence;
use crate::lease::Entry;
use crate::matrix::Path;
use crate::promotion::{Done, Sealed, Work};
use crate::store::{Answer, Key, Request, Table, Transaction, Value};
use portolan_core::log::{Epoch, Position};

/// One step.
pub(super) fn step(world: &mut World, what: What) {
    match what {
        What::Agent(region, event) => {
            if !waits(world, region, || What::Agent(region, event.clone())) {
                handle(world, region, *event);
            }
        }
        What::Tick(region) => {
            let left = world.regions[region].stopped_until.saturating_sub(world.now);
            let us = u64::try_from(TICK.as_micros()).unwrap();
            world.after(left.max(us), What::Tick(region));
            if left == 0 && world.regions[region].up {
                handle(world, region, Event::Tick);
            }
        }
        What::Probe(region) => probe(world, region),
        What::Store { region, boot, number, request } => store(world, (region, boot, number), &request),
        What::Heard { to, report, words } => {
            if !waits(world, to, || What::Heard { to, report: report.clone(), words: words.clone() }) {
                handle(world, to, Event::Heard(report, words));
            }
        }
        What::Keep(region) => keep(world, region),
        What::Extend { region, shard, reading_us, epoch } => {
            if waits(world, region, || What::Extend { region, shard, reading_us, epoch }) {
                return;
            }
            let moment = world.time(region).moment;
            let permit = world.permit(region, shard).filter(|permit| permit.epoch.0 == epoch);
            if let Some(deadline_us) = permit.and_then(|permit| permit.deadline_us(reading_us, moment))
                && world.regions[region].database_up
            {
                world.regions[region].copies[shard].extend(epoch, deadline_us);
            }
        }
        What::Replicate(region) => {
            world.after(200 * MS, What::Replicate(region));
            replicate(world, region);
        }
        What::Client(shard) => client(world, shard),
        What::Write { region, shard, epoch } => write(world, region, shard, epoch),
        What::Work { region, boot, shard, number, work } => {
            let again = || What::Work { region, boot, shard, number, work: work.clone() };
            if world.regions[region].boot == boot && !waits(world, region, again) {
                self::work(world, region, shard, number, &work);
            }
        }
        What::Fault => super::faults::draw(world),
        What::Do(fault) => super::faults::befall(world, &fault),
    }
}

/// Is it for a gateway that is not there, or that is stopped? Then it comes later, or never.
fn waits(world: &mut World, region: usize, again: impl FnOnce() -> What) -> bool {
    if !world.regions[region].up {
        return true;
    }
    let left = world.regions[region].stopped_until.saturating_sub(world.now);
    if left > 0 {
        world.after(left, again());
    }
    left > 0
}

fn handle(world: &mut World, region: usize, event: Event) {
    let now = world.time(region);
    let before = world.regions[region].agent.holder().until();
    let answered = match &event {
        Event::Stored(number, Answer::Committed(_)) => {
            let boot = world.regions[region].boot;
            world.seen.renewals.remove(&(region, boot, *number)).map(|(sent, ttl)| (sent, Some(ttl)))
        }
        Event::Acknowledged { .. } => world.seen.rounds.get(&region).map(|sent| (*sent, None)),
        _ => None,
    };
    let effects = world.regions[region].agent.handle(event, now);
    let there = &mut world.regions[region];
    if there.agent.holder().until() != before
        && let Some((sent, ttl)) = answered
    {
        there.renewed_us = there.renewed_us.max(sent);
        let time = ttl.map(|ttl: std::time::Duration| ttl.saturating_sub(world.timers.lease.margin));
        there.late_until = time.map(|time| now.moment.plus(time));
    }
    for effect in effects {
        carry_out(world, region, effect);
    }
}

fn carry_out(world: &mut World, region: usize, effect: Effect) {
    match effect {
        Effect::Store(number, request) => {
            let boot = world.regions[region].boot;
            if let Request::Commit(change) = &request {
                let own = Key::Lease(world.regions[region].name.clone());
                let lease = change.put.iter().find(|(key, _)| *key == own).map(|(_, value)| value);
                if let Some(Value::Lease(Entry { ttl_ms, .. })) = lease {
                    let ttl = std::time::Duration::from_millis(*ttl_ms);
                    world.seen.renewals.insert((region, boot, number), (world.now, ttl));
                }
            }
            let delay = world.store_delay();
            world.after(delay, What::Store { region, boot, number, request: Box::new(request) });
        }
        Effect::Plan(picture) => {
            let answer = world.shape.policy.answer(&picture, &mut world.random);
            let delay = world.random.between(1, 20) * MS;
            world.after(delay, What::Agent(region, Box::new(Event::Planned(picture, answer))));
        }
        Effect::Evidence(bundle) => {
            let chain = world.regions[region].chain;
            checks::decided(world, &bundle);
            match evidence::verify(std::slice::from_ref(&*bundle), chain) {
                Ok(chain) => world.regions[region].chain = chain,
                Err(error) => world.violated(format!("{error}")),
            }
            let there = &mut world.regions[region];
            there.bundles.push(*bundle);
            if there.bundles.len() > 8 {
                there.bundles.remove(0);
            }
        }
        Effect::Send(report, words) => {
            for to in (0..world.regions.len()).filter(|to| *to != region) {
                let secure = !world.regions[region].expired && !world.regions[to].expired;
                let lost = world.random.percent(world.shape.loss);
                if world.goes(region, to) && secure && !lost && !world.is_stopped(region) {
                    let old = world.faulty && world.random.percent(1);
                    let delay = if old { 60 * SECOND } else { world.delay() };
                    world.after(delay, What::Heard { to, report: report.clone(), words: words.clone() });
                }
            }
        }
        Effect::Work(shard, number, work) => {
            let shard = world.shards.iter().position(|name| *name == shard).unwrap();
            let (boot, delay) = (world.regions[region].boot, world.random.between(20, 250) * MS);
            world.after(delay, What::Work { region, boot, shard, number, work });
        }
        Effect::Traffic(shifts) => checks::traffic(world, region, &shifts),
        Effect::ReadOnly(_) => {}
        Effect::AskAll(round) => {
            world.seen.rounds.insert(region, world.now);
            let name = world.regions[region].name.clone();
            for to in (0..world.regions.len())
                .filter(|to| *to != region && world.goes(region, *to))
                .collect::<Vec<_>>()
            {
                let delay = world.delay();
                let asked = Event::AskedToAcknowledge {
                    region: name.clone(),
                    incarnation: round.incarnation,
                    number: round.number,
                };
                world.after(delay, What::Agent(to, Box::new(asked)));
            }
        }
        Effect::Acknowledge { region: asker, number, yes } => {
            let to = world.regions.iter().position(|there| there.name == asker).unwrap();
            if world.goes(region, to) {
                let (delay, name) = (world.delay(), world.regions[region].name.clone());
                world.after(
                    delay,
                    What::Agent(to, Box::new(Event::Acknowledged { region: name, number, yes })),
                );
            }
        }
    }
}

fn probe(world: &mut World, region: usize) {
    let us = u64::try_from(world.timers.probe.interval.as_micros()).unwrap();
    let jitter = world.random.between(us * 9 / 10, us * 11 / 10);
    world.after(jitter, What::Probe(region));
    if !world.regions[region].up || world.is_stopped(region) {
        return;
    }
    let timeout = u64::try_from(world.timers.probe.timeout.as_micros()).unwrap();
    for to in (0..world.regions.len()).filter(|to| *to != region) {
        for path in [Path::Ingress, Path::Peer] {
            let outcome = world.probe(region, to, path);
            let delay = if matches!(outcome, Outcome::Failed(_)) { timeout } else { world.delay() };
            let name = world.regions[to].name.clone();
            world.after(delay, What::Agent(region, Box::new(Event::Probed(name, path, outcome))));
        }
    }
}

fn store(world: &mut World, (region, boot, number): (usize, u32, u64), request: &Request) {
    let majority = world.has_majority(region);
    if majority {
        world.forks.remove(&region);
    } else if world.variant != Variant::MinorityDecides || !world.regions[region].voter_up {
        return;
    }
    let fork = (!majority).then_some(region);
    let mut table = match fork {
        Some(region) => world.forks.get(&region).cloned().unwrap_or_else(|| world.store.clone()),
        None => std::mem::take(&mut world.store),
    };
    let answer = match request {
        Request::Scan => Answer::Entries(scanned(world, region, &table)),
        Request::Commit(change) => commit(world, region, &mut table, change),
    };
    match fork {
        Some(region) => drop(world.forks.insert(region, table)),
        None => world.store = table,
    }
    let is_news = fork.is_none() && matches!(answer, Answer::Committed(_));
    world.answer(region, boot, number, answer);
    if is_news {
        tell(world);
    }
}

/// Whoever follows the store is told that it has changed, most of the time.
fn tell(world: &mut World) {
    for to in 0..world.regions.len() {
        if world.has_majority(to) && !world.random.percent(10) {
            let delay = world.store_delay();
            world.after(delay, What::Agent(to, Box::new(Event::Changed)));
        }
    }
}

fn scanned(world: &World, region: usize, table: &Table) -> Table {
    let mut table = table.clone();
    if world.variant == Variant::NoWait {
        for other in
            world.regions.iter().enumerate().filter(|(at, _)| *at != region).map(|(_, there)| &there.name)
        {
            if let Some(entry) = table.lease(other).cloned() {
                table.forge(&Key::Lease(other.clone()), Value::Lease(Entry { ttl_ms: 0, ..entry }));
            }
        }
    }
    table
}

fn commit(world: &mut World, region: usize, table: &mut Table, change: &Transaction) -> Answer {
    let mut change = change.clone();
    if world.variant == Variant::EpochReused {
        for (_, value) in &mut change.put {
            if let Value::Ownership(owned) = value {
                owned.epoch = Epoch(owned.epoch.0.saturating_sub(1).max(1));
            }
        }
    }
    let before = table.clone();
    match table.commit(&change) {
        Ok(revision) => {
            checks::committed(world, region, &before, &change);
            Answer::Committed(revision)
        }
        Err(_) => Answer::Conflict,
    }
}

fn keep(world: &mut World, region: usize) {
    world.after(700 * MS, What::Keep(region));
    if !world.regions[region].up || world.is_stopped(region) {
        return;
    }
    let reachable = world.regions[region].database_up;
    let outcome = if reachable { Outcome::Ok } else { Outcome::Failed(Reason::Refused) };
    let name = world.regions[region].name.clone();
    handle(world, region, Event::Probed(name, Path::Database, outcome));
    for shard in
        (0..world.shards.len()).filter(|shard| reachable && world.keeps(region, *shard)).collect::<Vec<_>>()
    {
        if let Some(permit) = world.permit(region, shard) {
            let late = world.faulty && world.random.percent(2);
            let delay = if late { 4 * SECOND } else { world.random.between(1, 30) * MS };
            let (reading_us, epoch) = (world.database_clock(region), permit.epoch.0);
            world.after(delay, What::Extend { region, shard, reading_us, epoch });
        }
        let owned = world.regions[region].agent.table().ownership(&world.shards[shard]);
        let primary = owned.is_none_or(|owned| owned.primary == world.regions[region].name);
        let copy = &world.regions[region].copies[shard];
        let (rows, head) = (copy.rows(), copy.head.max(copy.rows()));
        let behind = if head > rows { (world.now - copy.written_us) / MS } else { 0 };
        let word = Word {
            shard: world.shards[shard].clone(),
            epoch: Epoch(copy.term),
            position: Position::new(copy.spans.last().map_or(0, |(epoch, _)| *epoch), rows, 0),
            rows,
            head_rows: head,
            behind_bytes: (head - rows) * 100,
            behind_ms: behind,
            silent_ms: if primary { 0 } else { (world.now - copy.heard_us) / MS },
            well: None,
            whole: true,
        };
        handle(world, region, Event::Word(word));
    }
}

fn replicate(world: &mut World, region: usize) {
    let there = &world.regions[region];
    if !there.up || world.is_stopped(region) || !there.database_up || there.stalled {
        return;
    }
    for shard in (0..world.shards.len()).filter(|shard| world.keeps(region, *shard)).collect::<Vec<_>>() {
        let owned = world.regions[region].agent.table().ownership(&world.shards[shard]);
        let Some(primary) = owned.map(|owned| owned.primary.clone()) else { continue };
        let source = world.regions.iter().position(|there| there.name == primary).unwrap();
        let from = &world.regions[source];
        let runs = from.up
            && !world.is_stopped(source)
            && from.database_up
            && !from.expired
            && !world.regions[region].expired;
        if source == region || !runs || !world.reaches(region, source) {
            continue;
        }
        let log = from.copies[shard].clone();
        let copy = &mut world.regions[region].copies[shard];
        copy.heard_us = world.now;
        let (taken, rows) = (copy.replicate(&log, 200), copy.rows());
        let (same, whose) = (copy.term == log.term, &mut world.regions[source].copies[shard]);
        if taken
            && same
            && let Some(received) = whose.received.get_mut(region)
        {
            *received = rows.max(*received);
        }
    }
}

fn client(world: &mut World, shard: usize) {
    let next = world.random.between(50, 150) * MS;
    world.after(next, What::Client(shard));
    let region = world.random.index(world.regions.len());
    // Whoever is asked sends it on to the primary, as far as it knows.
    let owned = world.regions[region].agent.table().ownership(&world.shards[shard]);
    let at = owned
        .and_then(|owned| world.regions.iter().position(|there| there.name == owned.primary))
        .unwrap_or(region);
    let takes = world.regions[at].agent.takes_writes(&world.shards[shard], world.time(at).moment);
    if takes.is_some() && world.regions[at].up && !world.is_stopped(at) && world.reaches(region, at) {
        let epoch = world.permit(at, shard).map_or(0, |permit| permit.epoch.0);
        // The gateway has looked at its lease, and is stopped before it writes.
        let late = world.faulty && world.random.percent(2);
        let delay =
            if late { world.random.between(1, 15) * SECOND } else { world.random.between(1, 20) * MS };
        world.after(delay, What::Write { region: at, shard, epoch });
    }
    if World::is_direct(shard) {
        for region in 0..world.regions.len() {
            let epoch = world.regions[region].copies[shard].fence;
            write(world, region, shard, epoch);
        }
    }
}

fn write(world: &mut World, region: usize, shard: usize, epoch: u64) {
    let (clock, now) = (world.database_clock(region), world.now);
    let there = &mut world.regions[region];
    let copy = &mut there.copies[shard];
    let received = copy.received.iter().max().copied().unwrap_or(0);
    let open = World::is_direct(shard) || copy.rows().saturating_sub(received) < WINDOW;
    if there.database_up && open && copy.write(epoch, clock, now) {
        checks::wrote(world, region, shard, epoch);
    }
}

fn work(world: &mut World, region: usize, shard: usize, number: u64, work: &Work) {
    if !world.regions[region].database_up {
        return;
    }
    let regions = world.regions.len();
    let done = match work {
        Work::Acquire => return,
        Work::Seal(epoch) => match seal(world, region, shard, *epoch) {
            Some(sealed) => Done::Sealed(sealed),
            None => return,
        },
        Work::Fence(epoch) => {
            let (reading_us, moment) = (world.database_clock(region), world.time(region).moment);
            let permit = world.permit(region, shard).filter(|permit| permit.epoch == *epoch);
            let Some(deadline_us) = permit.and_then(|permit| permit.deadline_us(reading_us, moment)) else {
                return;
            };
            if !world.regions[region].copies[shard].begin(epoch.0, deadline_us, regions) {
                return;
            }
            checks::began(world, region, shard, epoch.0);
            Done::Fenced { epoch: *epoch, rows: world.regions[region].copies[shard].begun }
        }
        Work::Open(epoch) => Done::Opened(*epoch),
        Work::Publish(epoch) => Done::Published(epoch.0),
        Work::Switch(_) => Done::Switched(Vec::new()),
        Work::Plan => Done::Planned(number),
        Work::Verify(_) => Done::Verified(world.regions[(region + 1) % regions].name.clone()),
        Work::Ramp(percent) => Done::Ramped(*percent),
        Work::Drain(epoch) => match drain(world, region, shard, epoch.0) {
            Some(rows) => Done::Drained(rows),
            None => return,
        },
        Work::Count { epoch, cut_rows } => {
            let rows = world.regions[region].copies[shard].count(epoch.0, *cut_rows);
            Done::Counted { number, rows }
        }
    };
    world.note(|| format!("{region} has done {work:?} of s{shard}"));
    let name = world.shards[shard].clone();
    handle(world, region, Event::Worked(name, number, done));
}

/// All copies that answer seal, and the candidate takes what the furthest of them has.
fn seal(world: &mut World, region: usize, shard: usize, epoch: Epoch) -> Option<Sealed> {
    let record = world.regions[region].agent.table().promotion(&world.shards[shard])?.clone();
    let from = world.regions.iter().position(|there| there.name == record.from)?;
    let mut missing = Vec::new();
    let mut with_primary = from == region;
    for other in (0..world.regions.len())
        .filter(|other| *other != region && world.keeps(*other, shard))
        .collect::<Vec<_>>()
    {
        let there = &world.regions[other];
        // A copy answers where its gateway does; the fence of one that does not ends by its deadline.
        let answers =
            there.up && there.database_up && !world.is_stopped(other) && world.reaches(region, other);
        let answers = answers && !there.expired && !world.regions[region].expired;
        if !answers || there.copies[shard].fence > epoch.0 {
            if other != from {
                missing.push(there.name.clone());
            }
            continue;
        }
        with_primary |= other == from;
        world.regions[other].copies[shard].seal(epoch.0);
        let log = world.regions[other].copies[shard].clone();
        let copy = &mut world.regions[region].copies[shard];
        if (log.term, log.rows()) > (copy.term, copy.rows()) {
            let head = copy.head.max(log.head);
            copy.follow(&log, u64::MAX);
            copy.head = head.max(copy.rows());
        }
    }
    let copy = &world.regions[region].copies[shard];
    let age_ms = (world.now - copy.written_us) / MS;
    Some(Sealed {
        epoch,
        rows: copy.rows(),
        head_rows: copy.head.max(copy.rows()),
        age_ms,
        missing,
        with_primary,
    })
}

/// The old primary stops, and the candidate takes the rest.
fn drain(world: &mut World, region: usize, shard: usize, epoch: u64) -> Option<u64> {
    let record = world.regions[region].agent.table().promotion(&world.shards[shard])?.clone();
    let to = world.regions.iter().position(|there| there.name == record.to)?;
    let copy = &mut world.regions[region].copies[shard];
    copy.close(epoch);
    let log = copy.clone();
    let there = &world.regions[to];
    if !there.up || world.is_stopped(to) || !there.database_up || !world.reaches(region, to) {
        return None;
    }
    let copy = &mut world.regions[to].copies[shard];
    (copy.replicate(&log, u64::MAX) && copy.rows() == log.rows()).then_some(log.rows())
}
