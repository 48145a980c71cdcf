//! A simulation of failover: whole worlds of regions, each decided by a seed. What decides in them is what decides in production: the agents and all
//! that they are made of. Around them are a network, a control store, databases with fences, clocks that are wrong, clients, and whatever may befall.
//!
//! After each step it is looked at what must hold; a seed that fails is printed with what led to it, and does the same again. Variants that are broken on
//! purpose, from outside of the state machines, must be caught. `PORTOLAN_SIM_FROM` and `PORTOLAN_SIM_SEEDS` say which seeds run, `PORTOLAN_SIM_LINES` how much
//! of a trace is printed.

mod checks;
mod database;
mod faults;
mod policy;
mod random;
mod scenarios;
mod steps;
mod world;

use self::policy::Rogue;
use self::random::Random;
use self::world::{SECOND, Shape, What, World};
use crate::policies::Native;
use crate::timers::Profile;

/// Seeds that a test runs of itself.
const SEEDS: u64 = 120;
/// Within how many seeds a variant that is broken must be caught.
const CAUGHT_WITHIN: u64 = 240;
/// How long faults befall a world, in seconds.
const FAULTY_S: u64 = 240;
/// How long after the last fault each shard is written again, in seconds: a lease, a promotion, and gateways that start.
const REST_S: u64 = 45;

/// What is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    /// An acquisition takes the epoch that was.
    EpochReused,
    /// The lease counts from when the answer came.
    LeaseFromAnswer,
    /// Whoever reaches no majority of the store is answered all the same.
    MinorityDecides,
    /// Copies that lag are promoted too.
    NoLagGate,
    /// A challenger does not wait.
    NoWait,
    /// Nothing.
    None,
}

#[expect(clippy::disallowed_methods, reason = "a test has no configuration: who runs it says which seeds")]
fn asked(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// The last lines of a trace, or as many as somebody asks for.
fn told(world: &World) -> String {
    let lines = asked("PORTOLAN_SIM_LINES").map_or(60, |lines| usize::try_from(lines).unwrap());
    world.trace[world.trace.len().saturating_sub(lines)..].join("\n")
}

fn shape(seed: u64) -> Shape {
    let mut random = Random::new(seed ^ 0x5eed);
    Shape {
        regions: usize::try_from(random.between(3, 5)).unwrap(),
        shards: 3,
        policy: Rogue::draw(&mut random),
        failsafe: random.percent(25),
        profile: if random.percent(30) { Profile::Fast } else { Profile::Default },
        loss: *[0, 0, 1, 5].get(random.index(4)).unwrap(),
        slow_store: random.percent(40),
    }
}

/// Runs one world.
fn run(seed: u64, variant: Variant) -> World {
    let mut shape = shape(seed);
    if variant != Variant::None {
        shape.policy = Rogue::Native(Native::Conservative);
        shape.slow_store |= variant == Variant::LeaseFromAnswer;
    }
    let mut world = World::new(seed, shape, variant);
    if variant == Variant::NoLagGate {
        let word = crate::intent::Word::new(
            "ann",
            "a drill",
            world.time(0).unix_ms,
            std::time::Duration::from_hours(1),
        )
        .unwrap();
        let glass = crate::intent::BrokenGlass::new([crate::guards::Rule::LagGate], word).unwrap();
        world.intents.broken_glass = Some(glass);
        world.say(world.intents.clone());
        world.shape.policy = Rogue::PromoteEverything;
        // One region's copies fall behind before anything else befalls.
        world.run(10);
        faults::befall(&mut world, &faults::Fault::Stall(1));
        world.run(60);
    }
    world.run(20);
    world.faulty = true;
    world.after(SECOND, What::Fault);
    world.run(FAULTY_S);
    faults::heal(&mut world);
    rest(&mut world);
    world
}

/// Waits until each shard is written again, and looks at everything.
fn rest(world: &mut World) {
    let settled = |world: &World| (0..world.shards.len()).all(|shard| world.writers(shard).len() == 1);
    // Regions that are back count what they had, and then all is looked at.
    for least_s in [0, 10] {
        world.run(least_s);
        let mut left_s = REST_S;
        while world.violations.is_empty() && left_s > 0 && !settled(world) {
            world.run(1);
            left_s -= 1;
        }
    }
    if world.violations.is_empty() {
        checks::end(world);
    }
}

#[test]
fn seeds() {
    let from = asked("PORTOLAN_SIM_FROM").unwrap_or(1);
    let count = asked("PORTOLAN_SIM_SEEDS").unwrap_or(SEEDS);
    let (mut steps, mut rows, mut failovers, mut switchovers, mut decisions, mut lost, mut unbounded) =
        (0, 0, 0, 0, 0, 0, 0);
    for seed in from..from + count {
        let world = run(seed, Variant::None);
        assert!(
            world.violations.is_empty(),
            "{}\nseed {seed} ({:?}): {}\nrun it again with `PORTOLAN_SIM_FROM={seed} PORTOLAN_SIM_SEEDS=1 cargo test -p portolan-failover sim::seeds`",
            told(&world),
            world.shape,
            world.violations.join("\n")
        );
        if (seed + 1 - from).is_multiple_of(100) {
            eprintln!("{} of {count} seeds", seed + 1 - from);
        }
        steps += world.steps;
        rows += world.seen.rows;
        failovers += world.seen.failovers;
        switchovers += world.seen.switchovers;
        decisions += world.seen.decisions;
        lost += world.seen.lost_rows;
        unbounded += world.seen.unbounded;
    }
    eprintln!(
        "seeds {from} to {}: {steps} steps, {rows} rows, {failovers} failovers ({unbounded} without a bound), {switchovers} switchovers, {decisions} \
         decisions, {lost} rows lost and told",
        from + count - 1
    );
    assert!(
        count < SEEDS || failovers > 0 && switchovers > 0 && lost > 0,
        "the worlds are too quiet to prove anything"
    );
}

#[test]
fn a_seed_does_the_same_again() {
    for seed in 1..=3 {
        let (once, again) = (run(seed, Variant::None), run(seed, Variant::None));
        assert_eq!((once.steps, once.trace), (again.steps, again.trace), "seed {seed}");
    }
}

/// Runs seeds until one is caught.
fn caught(variant: Variant) {
    let most = asked("PORTOLAN_SIM_SEEDS").unwrap_or(CAUGHT_WITHIN);
    let caught =
        (1..=most).find_map(|seed| run(seed, variant).violations.first().map(|what| (seed, what.clone())));
    let (seed, what) = caught.unwrap_or_else(|| panic!("{variant:?} is not caught within {most} seeds"));
    eprintln!("{variant:?} is caught by seed {seed}: {what}");
}

#[test]
fn a_challenger_that_does_not_wait_is_caught() {
    caught(Variant::NoWait);
}

#[test]
fn a_lease_that_counts_from_the_answer_is_caught() {
    caught(Variant::LeaseFromAnswer);
}

#[test]
fn a_missing_lag_gate_is_caught() {
    caught(Variant::NoLagGate);
}

#[test]
fn a_minority_that_decides_is_caught() {
    caught(Variant::MinorityDecides);
}

#[test]
fn an_epoch_that_is_used_again_is_caught() {
    caught(Variant::EpochReused);
}
