//! What befalls a world, and how it ends.

use super::world::{MS, SECOND, What, World};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// A region's certificate expires, or all do.
    Expire(Vec<usize>),
    Renew(Vec<usize>),
    /// Gateways crash, and start again.
    Crash(usize),
    Start(usize),
    /// A whole region goes: gateways, databases, its voter.
    Die(usize),
    Revive(usize),
    /// Gateways are stopped; their databases go on.
    Stop(usize, u64),
    /// Messages from one to another are lost.
    Cut(Vec<(usize, usize)>),
    Mend(Vec<(usize, usize)>),
    /// Regions do not reach the store.
    Away(Vec<usize>),
    Reach(Vec<usize>),
    /// Probes of a region fail for a fault of its own.
    Sicken(usize),
    Recover(usize),
    /// A region answers no probe, and goes on with its work.
    Deafen(usize),
    Hear(usize),
    /// Clients do not reach a region.
    Close(usize),
    Open(usize),
    /// A region's copies take nothing.
    Stall(usize),
    Flow(usize),
    Wall(usize, i64),
    DatabaseClock(usize, i64),
    /// Operators drain a region for a while.
    Drain(usize),
    /// A region's databases are silent; its gateways go on.
    Mute(usize),
    Speak(usize),
}

/// Links of a region to all others, both ways.
pub(super) fn links(world: &World, region: usize) -> Vec<(usize, usize)> {
    (0..world.regions.len())
        .filter(|other| *other != region)
        .flat_map(|other| [(region, other), (other, region)])
        .collect()
}

pub(super) fn draw(world: &mut World) {
    if !world.faulty {
        return;
    }
    let next = world.random.between(2, 25) * SECOND;
    world.after(next, What::Fault);
    let regions = world.regions.len();
    let (one, other) = (world.random.index(regions), world.random.index(regions));
    let time = world.random.between(1, 60) * SECOND;
    let (fault, end) = match world.random.below(21) {
        0 => (Fault::Crash(one), Some((time / 4, Fault::Start(one)))),
        1 | 2 => (Fault::Die(one), Some((time * 2, Fault::Revive(one)))),
        3 | 4 => (Fault::Stop(one, time), None),
        5 => (
            Fault::Cut(vec![(one, other), (other, one)]),
            Some((time, Fault::Mend(vec![(one, other), (other, one)]))),
        ),
        6 => (Fault::Cut(vec![(one, other)]), Some((time, Fault::Mend(vec![(one, other)])))),
        7 | 8 => {
            let links = links(world, one);
            (Fault::Cut(links.clone()), Some((43 * SECOND, Fault::Mend(links))))
        }
        9 => {
            let out = (0..regions).filter(|to| *to != one).map(|to| (one, to)).collect::<Vec<_>>();
            (Fault::Cut(out.clone()), Some((time, Fault::Mend(out))))
        }
        10 => (Fault::Away(vec![one]), Some((time, Fault::Reach(vec![one])))),
        11 => {
            let all: Vec<usize> = (0..regions).collect();
            (Fault::Away(all.clone()), Some((time / 2, Fault::Reach(all))))
        }
        12 => (Fault::Sicken(one), Some((time, Fault::Recover(one)))),
        13 => {
            let who: Vec<usize> = if world.random.percent(50) { vec![one] } else { (0..regions).collect() };
            (Fault::Expire(who.clone()), Some((time, Fault::Renew(who))))
        }
        14 => (Fault::Stall(one), Some((time * 3, Fault::Flow(one)))),
        15 => {
            let ms = i64::try_from(world.random.below(60_001)).unwrap() - 30_000;
            (Fault::Wall(one, ms), None)
        }
        // Back by a third of a second at most: what two margins cover, and a daemon steps.
        16 => {
            (Fault::DatabaseClock(one, i64::try_from(world.random.below(5_300_001)).unwrap() - 300_000), None)
        }
        19 => (Fault::Mute(one), Some((time * 2, Fault::Speak(one)))),
        17 | 18 => (Fault::Deafen(one), Some((time, Fault::Hear(one)))),
        _ if world.random.percent(50) => (Fault::Close(one), Some((time, Fault::Open(one)))),
        _ => (Fault::Drain(one), None),
    };
    befall(world, &fault);
    if let Some((after, end)) = end {
        world.after(after, What::Do(end));
    }
}

pub(super) fn befall(world: &mut World, fault: &Fault) {
    world.note(|| format!("{fault:?}"));
    let now = world.now;
    match fault {
        Fault::Expire(who) => who.iter().for_each(|at| world.regions[*at].expired = true),
        Fault::Renew(who) => who.iter().for_each(|at| world.regions[*at].expired = false),
        Fault::Crash(at) => world.regions[*at].up = false,
        Fault::Start(at) => {
            if !world.regions[*at].up {
                world.start(*at);
            }
        }
        Fault::Die(at) => {
            let there = &mut world.regions[*at];
            (there.up, there.database_up, there.voter_up) = (false, false, false);
        }
        Fault::Revive(at) => {
            let there = &mut world.regions[*at];
            (there.database_up, there.voter_up) = (true, true);
            befall(world, &Fault::Start(*at));
        }
        Fault::Stop(at, us) => world.regions[*at].stopped_until = now + us,
        Fault::Cut(links) => world.cut.extend(links.iter().filter(|(from, to)| from != to)),
        Fault::Mend(links) => world.cut.retain(|link| !links.contains(link)),
        Fault::Away(who) => world.away.extend(who),
        Fault::Reach(who) => world.away.retain(|at| !who.contains(at)),
        Fault::Sicken(at) => world.regions[*at].sick = true,
        Fault::Recover(at) => world.regions[*at].sick = false,
        Fault::Deafen(at) => world.regions[*at].deaf = true,
        Fault::Hear(at) => world.regions[*at].deaf = false,
        Fault::Close(at) => world.regions[*at].ingress_up = false,
        Fault::Open(at) => world.regions[*at].ingress_up = true,
        Fault::Stall(at) => world.regions[*at].stalled = true,
        Fault::Flow(at) => world.regions[*at].stalled = false,
        Fault::Mute(at) => world.regions[*at].database_up = false,
        Fault::Speak(at) => world.regions[*at].database_up = true,
        Fault::Wall(at, ms) => world.regions[*at].wall_ms = *ms,
        Fault::DatabaseClock(at, us) => {
            world.regions[*at].database_us += us;
            if *us < 0 {
                world.seen.stepped_back.insert(*at, now);
            }
        }
        Fault::Drain(at) => {
            let word = crate::intent::Word::new(
                "ann",
                "patches",
                world.time(*at).unix_ms,
                std::time::Duration::from_secs(30),
            );
            let mut intents = world.intents.clone();
            intents.drains =
                std::collections::BTreeMap::from([(world.regions[*at].name.clone(), word.unwrap())]);
            world.say(intents);
        }
    }
}

/// All of it ends.
pub(super) fn heal(world: &mut World) {
    world.note(|| "all is healed".to_owned());
    (world.faulty, world.shape.slow_store) = (false, false);
    world.cut.clear();
    world.away.clear();
    world.say(crate::intent::Intents::default());
    for at in 0..world.regions.len() {
        let now = world.now;
        let there = &mut world.regions[at];
        (there.database_up, there.voter_up, there.ingress_up) = (true, true, true);
        (there.sick, there.deaf, there.expired, there.stalled) = (false, false, false, false);
        there.stopped_until = there.stopped_until.min(now + 100 * MS);
        befall(world, &Fault::Start(at));
    }
}
