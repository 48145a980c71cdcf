//! Candidates that start again while the primary is dead: what their copies' databases know outlives them, and what they have not seen others tell.

use super::*;

/// A world whose third region lags so far that only the second can take shard 0 over.
fn one_candidate(seed: u64) -> World {
    let mut world = world(seed, calm(3));
    befall(&mut world, &Fault::Stall(2));
    world.run(20);
    sound(&world);
    world
}

/// The only candidate starts again just after the primary has died. It has never seen that one well; the third region has, and tells it. Its copy knows
/// when it heard of the primary.
#[test]
fn a_candidate_that_starts_again_takes_over() {
    for seed in 0..20 {
        let mut world = one_candidate(100 + seed);
        befall(&mut world, &Fault::Die(HOME));
        world.run(1);
        befall(&mut world, &Fault::Crash(1));
        world.run(1);
        befall(&mut world, &Fault::Start(1));
        world.run(60);
        sound(&world);
        assert_eq!(world.writers(0), [1], "seed {seed}: {}", told(&world));
        let past = world.store.promotion(&world.shards[0]).unwrap().past.last().unwrap().clone();
        assert!(past.loss.as_ref().is_some_and(|loss| loss.at_most.is_some()), "seed {seed}: {past:?}");
        befall(&mut world, &Fault::Flow(2));
        healed(&mut world);
    }
}

/// One whose copy was cut off while the primary went on writing is no candidate, also when it starts again after the primary's death: the shard stays
/// unwritten.
#[test]
fn a_candidate_that_heard_nothing_for_long_does_not() {
    for seed in 0..20 {
        let mut world = one_candidate(200 + seed);
        befall(&mut world, &Fault::Stall(1));
        world.run(30);
        befall(&mut world, &Fault::Die(HOME));
        world.run(1);
        befall(&mut world, &Fault::Crash(1));
        world.run(1);
        befall(&mut world, &Fault::Start(1));
        world.run(60);
        sound(&world);
        assert_eq!(world.writers(0), [0_usize; 0], "seed {seed}: {}", told(&world));
        for region in [1, 2] {
            befall(&mut world, &Fault::Flow(region));
        }
        befall(&mut world, &Fault::Revive(HOME));
        healed(&mut world);
    }
}

/// All that are left have started again since: nobody knows how long the primary went on, so that no bound of loss holds, and a person decides.
#[test]
fn where_nobody_has_seen_the_primary_well_a_person_decides() {
    let mut world = one_candidate(300);
    befall(&mut world, &Fault::Die(HOME));
    for region in [1, 2] {
        befall(&mut world, &Fault::Crash(region));
    }
    world.run(5);
    for region in [1, 2] {
        befall(&mut world, &Fault::Start(region));
    }
    world.run(60);
    sound(&world);
    assert_eq!(world.writers(0), [0_usize; 0], "{}", told(&world));
    befall(&mut world, &Fault::Flow(2));
    befall(&mut world, &Fault::Revive(HOME));
    healed(&mut world);
}
