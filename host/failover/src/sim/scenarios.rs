//! Incidents that have happened, by their names, and what must come of them here.

mod restarts;

use super::faults::{Fault, befall, heal, links};
use super::policy::Rogue;
use super::world::{MS, SECOND, Shape, World};
use super::{Variant, rest, told};
use crate::counter::State;
use crate::intent::{Force, Intents, Lost, Word};
use crate::matrix::{Path, Verdict, cell};
use crate::policies::Native;
use crate::promotion::Kind;
use crate::proposal::Proposal;
use crate::timers::Profile;

/// The region that writes shard 0 at first.
const HOME: usize = 0;

fn calm(regions: usize) -> Shape {
    let policy = Rogue::Native(Native::Conservative);
    Shape {
        regions,
        shards: 3,
        policy,
        failsafe: false,
        profile: Profile::Default,
        loss: 0,
        slow_store: false,
    }
}

/// A world that has run for a while, with all well.
fn world(seed: u64, shape: Shape) -> World {
    let mut world = World::new(seed, shape, Variant::None);
    world.run(20);
    for shard in 0..world.shards.len() {
        assert_eq!(world.writers(shard), [shard % world.regions.len()], "{}", told(&world));
    }
    world
}

fn sound(world: &World) {
    assert!(world.violations.is_empty(), "{}\n{}", told(world), world.violations.join("\n"));
}

/// All is healed: everything must hold.
fn healed(world: &mut World) {
    heal(world);
    rest(world);
    sound(world);
}

fn epoch(world: &World, shard: usize) -> u64 {
    world.store.ownership(&world.shards[shard]).unwrap().epoch.0
}

fn verdict(world: &World, by: usize, of: usize) -> Verdict {
    let seat = world.members.seat(&world.regions[of].name).unwrap();
    world.regions[by].agent.matrix().verdict(seat, world.time(by).moment)
}

/// 43 seconds of partition, and a primary that had rows nobody else had: they are told as an interval, counted when it is back, and nothing goes back by
/// itself.
#[test]
fn github_2018() {
    let mut world = world(1, calm(3));
    let cut = links(&world, HOME);
    befall(&mut world, &Fault::Cut(cut.clone()));
    world.run(43);
    sound(&world);
    let writers = world.writers(0);
    assert!(writers.len() == 1 && writers != [HOME], "{}", told(&world));
    let told_loss =
        world.store.promotion(&world.shards[0]).unwrap().past.last().unwrap().loss.clone().unwrap();
    assert!(told_loss.exact.is_none() && told_loss.at_most.is_some(), "{told_loss}");
    befall(&mut world, &Fault::Mend(cut));
    world.run(150);
    sound(&world);
    assert_eq!(world.writers(0), writers, "it does not go back by itself");
    let past = world.store.promotion(&world.shards[0]).unwrap().past.last().unwrap().clone();
    let loss = past.loss.unwrap();
    assert!(loss.exact.is_some_and(|rows| rows > 0 && told_loss.holds(rows)), "{loss} after {told_loss}");
    healed(&mut world);
}

/// Every region loses every other: whoever sees all dead doubts itself, keeps what it has, and moves nothing.
#[test]
fn facebook_2021() {
    let mut world = world(2, calm(5));
    let epochs: Vec<u64> = (0..3).map(|shard| epoch(&world, shard)).collect();
    let all: Vec<(usize, usize)> = (0..5).flat_map(|region| links(&world, region)).collect();
    befall(&mut world, &Fault::Cut(all));
    world.run(300);
    sound(&world);
    for region in 0..5 {
        assert!(world.regions[region].agent.shifts().is_empty(), "traffic stays where it was");
        assert_eq!(verdict(&world, region, (region + 1) % 5), Verdict::Unknown);
    }
    healed(&mut world);
    assert_eq!((0..3).map(|shard| epoch(&world, shard)).collect::<Vec<_>>(), epochs);
}

/// The gateways of a region are stopped while applications go on writing to its database: the fence in the database ends that before anybody else begins.
#[test]
fn patroni_2188() {
    let mut world = world(3, calm(3));
    // Shard 1 has direct writers, and is written in region 1.
    befall(&mut world, &Fault::Stop(1, 60 * SECOND));
    let before = world.regions[1].copies[1].rows();
    world.run(3);
    let during = world.regions[1].copies[1].rows();
    assert!(during > before, "direct writers go on");
    world.run(27);
    sound(&world);
    let after = world.regions[1].copies[1].rows();
    let writers = world.writers(1);
    assert!(writers.len() == 1 && writers != [1], "{}", told(&world));
    world.run(10);
    assert_eq!(world.regions[1].copies[1].rows(), after, "the fence has stopped them");
    healed(&mut world);
    let past = world.store.promotion(&world.shards[1]).unwrap().past.last().unwrap().clone();
    assert_eq!(past.loss.unwrap().at_most, None, "nothing bounds what direct writers write");
}

/// All certificates expire at once: regions that cannot prove who they are are not dead.
#[test]
fn expired_certificates() {
    let mut world = world(4, calm(3));
    befall(&mut world, &Fault::Expire(vec![0, 1, 2]));
    world.run(180);
    sound(&world);
    assert_eq!(world.seen.failovers, 0, "{}", told(&world));
    for shard in 0..3 {
        assert_eq!(world.writers(shard), [shard], "each goes on writing");
    }
    let (seat, now) = (world.members.seat(&world.regions[1].name).unwrap(), world.time(0).moment);
    let seen = cell(&world.regions[0].agent.matrix().row(now), seat, Path::Peer);
    assert_eq!(seen.state, State::Identity);
    assert!((0..3).all(|region| world.regions[region].agent.shifts().is_empty()));
    healed(&mut world);
}

/// Policies that answer anything, everything or nothing, while regions fail.
#[test]
fn rogue_policy() {
    for (seed, policy) in
        (50..).zip([Rogue::Empty, Rogue::FlipFlop, Rogue::PromoteEverything, Rogue::Random, Rogue::Trap])
    {
        let mut world = world(seed, Shape { policy, ..calm(5) });
        befall(&mut world, &Fault::Die(1));
        world.run(60);
        befall(&mut world, &Fault::Close(2));
        world.run(60);
        sound(&world);
        let automatic =
            world.seen.told().filter(|past| past.automatic && past.kind == Kind::Failover).count();
        assert!(automatic <= 3, "{policy:?}: {automatic}");
        if policy == Rogue::Trap {
            assert!(automatic > 0, "the built-in policy answers in its place: {}", told(&world));
        }
        befall(&mut world, &Fault::Revive(1));
        healed(&mut world);
    }
}

/// A machine is suspended for longer than its lease, and clocks are set: what wakes up does not write.
#[test]
fn clock_jump() {
    let mut world = world(6, calm(3));
    befall(&mut world, &Fault::Stop(HOME, 40 * SECOND));
    world.run(39);
    let mut late = 0;
    for _ in 0..60 {
        world.run_until(world.now + 100 * MS);
        late += usize::from(world.writers(0) == [HOME]);
    }
    assert_eq!(late, 0, "it has not written again: {}", told(&world));
    for (region, ms) in [(0, -30_000), (1, 30_000), (2, 3_600_000)] {
        befall(&mut world, &Fault::Wall(region, ms));
        befall(&mut world, &Fault::DatabaseClock(region, if ms < 0 { -300_000 } else { 60_000_000 }));
    }
    world.run(60);
    sound(&world);
    for region in 0..3 {
        befall(&mut world, &Fault::Wall(region, 0));
    }
    healed(&mut world);
    assert_eq!(world.seen.failovers, 1, "{}", told(&world));
}

/// Clients do not reach a region that its peers reach: its shards leave it in order, and nothing is lost. A policy that is careful leaves them.
#[test]
fn gray_failure() {
    for (policy, moves) in [(Native::Conservative, false), (Native::Fast, true)] {
        let mut world = world(7, Shape { policy: Rogue::Native(policy), ..calm(3) });
        befall(&mut world, &Fault::Close(HOME));
        world.run(40);
        sound(&world);
        assert_eq!(verdict(&world, 1, HOME), Verdict::Gray);
        assert_eq!(world.writers(0) != [HOME], moves, "{policy:?}: {}", told(&world));
        assert_eq!((world.seen.failovers, world.seen.switchovers), (0, usize::from(moves)));
        healed(&mut world);
        assert_eq!(world.seen.lost_rows, 0);
    }
}

/// The databases of a region die, and its gateways do not. The region leaves its shards, and another has them; what is back goes on with others.
#[test]
fn databases_alone() {
    let mut world = world(16, calm(3));
    befall(&mut world, &Fault::Mute(HOME));
    world.run(40);
    sound(&world);
    let writers = world.writers(0);
    assert!(writers.len() == 1 && writers != [HOME], "{}", told(&world));
    assert_eq!(world.seen.failovers, 1, "{}", told(&world));
    befall(&mut world, &Fault::Speak(HOME));
    world.run(60);
    assert_eq!(world.writers(0), writers, "it does not go back by itself");
    healed(&mut world);
    // Where nobody could take it over, nobody leaves it.
    let mut alone = self::world(17, calm(3));
    for other in [1, 2] {
        befall(&mut alone, &Fault::Mute(other));
    }
    alone.run(60);
    befall(&mut alone, &Fault::Mute(HOME));
    alone.run(60);
    sound(&alone);
    assert_eq!(epoch(&alone, 0), 1, "{}", told(&alone));
    healed(&mut alone);
}

/// A region that dies takes no traffic, and gets it back once it is well, step by step, without anybody's word.
#[test]
fn traffic_comes_back() {
    let mut world = world(18, calm(3));
    let shifted = |world: &World| world.regions[1].agent.shifts().contains_key(&world.regions[HOME].name);
    befall(&mut world, &Fault::Die(HOME));
    world.run(40);
    assert!(shifted(&world), "{}", told(&world));
    befall(&mut world, &Fault::Revive(HOME));
    world.run(360);
    sound(&world);
    assert!(!shifted(&world), "{:?}", world.regions[1].agent.shifts());
    healed(&mut world);
}

/// One hears the other and is not heard. Of two regions that is a partition; of one to all it is a region that is gone.
#[test]
fn asymmetric_partition() {
    let mut between = world(8, calm(3));
    befall(&mut between, &Fault::Cut(vec![(0, 1)]));
    between.run(120);
    sound(&between);
    assert_eq!((between.seen.failovers, verdict(&between, 2, 0)), (0, Verdict::Partitioned));
    healed(&mut between);
    let mut deaf = world(9, calm(3));
    befall(&mut deaf, &Fault::Cut(vec![(1, 0), (2, 0)]));
    deaf.run(40);
    sound(&deaf);
    assert_ne!(deaf.writers(0), [HOME], "{}", told(&deaf));
    healed(&mut deaf);
}

/// The control store is lost. Writing ends with the lease, and begins in the same epoch; with the failsafe rule it goes on, while all regions answer.
#[test]
fn control_store_loss() {
    for failsafe in [false, true] {
        let mut world = world(10, Shape { failsafe, ..calm(3) });
        let epochs: Vec<u64> = (0..3).map(|shard| epoch(&world, shard)).collect();
        befall(&mut world, &Fault::Away(vec![0, 1, 2]));
        world.run(60);
        sound(&world);
        for shard in 0..3 {
            assert_eq!(!world.writers(shard).is_empty(), failsafe, "failsafe {failsafe}: {}", told(&world));
        }
        if failsafe {
            befall(&mut world, &Fault::Die(2));
            world.run(12);
            assert!(world.writers(0).is_empty(), "not all answer: {}", told(&world));
            befall(&mut world, &Fault::Revive(2));
        }
        healed(&mut world);
        // With the third region dead its own shard may have been taken over.
        let same = if failsafe { 2 } else { 3 };
        assert_eq!((0..same).map(|shard| epoch(&world, shard)).collect::<Vec<_>>(), epochs[..same]);
    }
}

/// A region that comes and goes is left once, and stays down longer each time.
#[test]
fn flapping() {
    let mut world = world(11, calm(3));
    let cut = links(&world, HOME);
    for _ in 0..20 {
        befall(&mut world, &Fault::Cut(cut.clone()));
        world.run(20);
        befall(&mut world, &Fault::Mend(cut.clone()));
        world.run(20);
        sound(&world);
    }
    let of_first = world.seen.told().filter(|past| past.kind == Kind::Failover && past.automatic).count();
    assert!(of_first <= 2, "{}", told(&world));
    assert!(verdict(&world, 1, HOME).is_down(), "it is held down");
    healed(&mut world);
}

/// An operator drains a region: nothing is lost, and writes pause for less than two seconds.
#[test]
fn planned_switchover() {
    let mut pauses = Vec::new();
    for seed in 20..40 {
        let mut world = world(seed, calm(3));
        befall(&mut world, &Fault::Drain(HOME));
        let mut pause = 0;
        for _ in 0..300 {
            world.run_until(world.now + 100 * MS);
            pause += u64::from(world.writers(0).is_empty()) * 100;
        }
        sound(&world);
        assert_ne!(world.writers(0), [HOME], "{}", told(&world));
        pauses.push(pause);
        assert!(pause <= 2_000, "{pause} ms: {}", told(&world));
        healed(&mut world);
        assert_eq!((world.seen.failovers, world.seen.lost_rows), (0, 0), "{}", told(&world));
    }
    pauses.sort_unstable();
    eprintln!("pauses of planned switchovers, in ms: {pauses:?}");
}

/// A candidate that crashes at any step goes on from there when it is back, in the same epoch.
#[test]
fn a_promotion_is_resumed_after_a_crash_at_any_step() {
    use crate::promotion::Step;
    let steps = [
        Step::Decided,
        Step::Leased,
        Step::Sealed,
        Step::Fenced,
        Step::Opened,
        Step::Published,
        Step::Switched,
        Step::Planned,
        Step::Verified,
    ];
    for (seed, step) in (200..).zip(steps) {
        let mut world = world(seed, calm(3));
        befall(&mut world, &Fault::Die(HOME));
        let to = loop {
            let record = world.store.promotion(&world.shards[0]).unwrap();
            if record.kind == Kind::Failover && record.step >= step {
                break world.regions.iter().position(|there| there.name == record.to).unwrap();
            }
            assert!(world.now < 80 * SECOND, "{}", told(&world));
            world.run_until(world.now + 5 * MS);
        };
        befall(&mut world, &Fault::Crash(to));
        world.run(4);
        befall(&mut world, &Fault::Start(to));
        world.run(40);
        sound(&world);
        assert_eq!((world.writers(0), epoch(&world, 0)), (vec![to], 2), "{step:?}: {}", told(&world));
        befall(&mut world, &Fault::Revive(HOME));
        healed(&mut world);
    }
}

/// What a person says: a freeze holds whatever dies, and a region that is declared lost is taken over without waiting, with what is accepted as lost.
#[test]
fn operators_words() {
    let word = |world: &World, seconds| {
        Word::new("ann", "a drill", world.time(0).unix_ms, std::time::Duration::from_secs(seconds)).unwrap()
    };
    let mut frozen = world(12, calm(3));
    let freeze = Some(word(&frozen, 60));
    frozen.say(Intents { freeze, ..Intents::default() });
    frozen.run(1);
    befall(&mut frozen, &Fault::Die(HOME));
    frozen.run(50);
    assert_eq!((frozen.seen.failovers, frozen.writers(0)), (0, Vec::new()), "{}", told(&frozen));
    // It ends by itself.
    frozen.run(30);
    sound(&frozen);
    assert_eq!(frozen.writers(0).len(), 1, "{}", told(&frozen));
    befall(&mut frozen, &Fault::Revive(HOME));
    healed(&mut frozen);

    let mut lost = world(13, Shape { policy: Rogue::Native(Native::Manual), ..calm(3) });
    befall(&mut lost, &Fault::Die(HOME));
    lost.run(8);
    assert_eq!(lost.seen.failovers, 0, "people decide");
    let (home, shard) = (lost.regions[HOME].name.clone(), lost.shards[0].clone());
    let declared = Lost::new(home.clone(), home.as_str(), word(&lost, 30)).unwrap();
    let proposal = Proposal::Promote { shard, region: lost.regions[1].name.clone() };
    let force = vec![Force { proposal, accept_loss_rows: Some(50), word: word(&lost, 30) }];
    let mut intents = Intents { force, ..Intents::default() };
    intents.lost.insert(home, declared);
    lost.say(intents);
    lost.run(4);
    sound(&lost);
    assert_eq!(lost.writers(0), [1], "{}", told(&lost));
    assert!(lost.seen.told().any(|past| past.kind == Kind::Failover && !past.automatic));
    befall(&mut lost, &Fault::Revive(HOME));
    healed(&mut lost);
}

/// How long a region's shards are not written after it dies.
#[test]
fn a_region_that_dies_is_replaced_in_time() {
    for (profile, half, most) in [(Profile::Default, 12_000, 20_000), (Profile::Fast, 8_000, 13_000)] {
        let mut times = Vec::new();
        for seed in 60..80 {
            let mut world = world(seed, Shape { profile, ..calm(3) });
            let jitter = world.random.below(3_000);
            world.run_until(world.now + jitter * MS);
            befall(&mut world, &Fault::Die(HOME));
            let died = world.now;
            while world.writers(0).is_empty() && world.now < died + 60 * SECOND {
                world.run_until(world.now + 50 * MS);
            }
            sound(&world);
            times.push((world.now - died) / MS);
            befall(&mut world, &Fault::Revive(HOME));
            healed(&mut world);
        }
        times.sort_unstable();
        eprintln!("{profile:?}: writes go on after, in ms: {times:?}");
        assert!(times[10] <= half && *times.last().unwrap() <= most, "{profile:?}: {times:?}");
    }
}

/// Hours in which packets are lost, and single links for 43 seconds: nobody is taken for dead.
#[test]
fn no_false_failover() {
    for seed in 90..94 {
        let mut world = world(seed, Shape { loss: 5, ..calm(3 + usize::try_from(seed % 3).unwrap()) });
        let regions = world.regions.len();
        for _ in 0..30 {
            let (one, other) = (world.random.index(regions), world.random.index(regions));
            let cut = vec![(one, other), (other, one)];
            befall(&mut world, &Fault::Cut(cut.clone()));
            world.run(43);
            befall(&mut world, &Fault::Mend(cut));
            world.run(77);
        }
        sound(&world);
        assert_eq!(world.seen.failovers, 0, "seed {seed}: {}", told(&world));
        healed(&mut world);
    }
}
