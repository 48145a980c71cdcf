//! Planned switchovers: for how long nobody writes, while all is well and while messages are lost.

use super::*;

/// Moves shard 0 to the second region. Gives for how many milliseconds nobody wrote it until it was written there, at most at once.
fn pause(seed: u64, shape: Shape) -> u64 {
    let mut world = world(seed, shape);
    let (shard, region) = (world.shards[0].clone(), world.regions[1].name.clone());
    let proposal = Proposal::Promote { shard, region };
    let said = std::time::Duration::from_mins(10);
    let word = Word::new("ann", "a switchover", world.time(0).unix_ms, said).unwrap();
    let force = vec![Force { proposal, accept_loss_rows: None, word }];
    world.say(Intents { force, ..Intents::default() });
    let (mut pause, mut since) = (0, None);
    let deadline = world.now + 120 * SECOND;
    while world.writers(0) != [1] {
        assert!(world.now < deadline, "seed {seed}: {}", told(&world));
        let begun = world.now;
        world.run_until(begun + 10 * MS);
        match world.writers(0).len() {
            0 => pause = pause.max(world.now - *since.get_or_insert(begun)),
            _ => since = None,
        }
    }
    sound(&world);
    let record = world.store.promotion(&world.shards[0]).unwrap();
    assert_eq!((record.kind, &record.to), (Kind::Switchover, &world.regions[1].name), "seed {seed}");
    pause / MS
}

/// Two seconds, and what keepers of databases sleep between two looks, which in production are woken.
#[test]
fn writers_wait_for_a_planned_switchover_as_long_as_is_said() {
    let mut pauses: Vec<u64> = (400..440).map(|seed| pause(seed, calm(3))).collect();
    pauses.sort_unstable();
    eprintln!("all is well: {pauses:?} ms");
    assert!(pauses[20] <= 2_000 && pauses[39] <= 2_700, "{pauses:?}");
}

/// What is lost is said again: nothing waits for a timer of half a minute.
#[test]
fn lost_messages_cost_a_planned_switchover_seconds() {
    let lossy = || Shape { loss: 5, slow_store: true, ..calm(3) };
    let mut pauses: Vec<u64> = (440..500).map(|seed| pause(seed, lossy())).collect();
    pauses.sort_unstable();
    eprintln!("messages are lost: {pauses:?} ms");
    assert!(pauses[59] <= 15_000, "{pauses:?}");
}
