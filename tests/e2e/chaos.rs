//! Chaos: regions with real databases, whose gateways and databases are killed, whose lines are cut, slow and silent, and whose shards
//! change hands, while clients everywhere write and read. At last all copies are alike, and by the clients' own histories nothing that was
//! acknowledged is gone without a trace, and nobody saw less than their token names.
//!
//! `PORTOLAN_CHAOS_SEED` repeats the faults of a run; it is printed by each. What the clients and the machine make of them differs.

mod disk;
mod net;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use portolan_foundation::random;
use portolan_tests::clients::{Clients, Dice};
use portolan_tests::history::judge;
use portolan_tests::line::{Passage, Weather};
use portolan_tests::regions::{Databases, For, LEASE, REGIONS, SHARDS, World, at};
use portolan_tests::until;
use tokio::time::Instant;

/// How long faults come before a region is cut off.
const STORM: Duration = Duration::from_secs(8);
/// Writes that a shard takes after its region was cut off, before another is promoted.
const CUT_OFF: usize = 15;

/// Who writes which shard.
struct Primaries([usize; SHARDS.len()]);

async fn three_regions_under_faults(databases: Databases) {
    let seed = std::env::var_os("PORTOLAN_CHAOS_SEED");
    let seed = seed.map_or_else(random::u64, |seed| seed.to_str().unwrap().parse().unwrap());
    let begun = Instant::now();
    let say = |what: &str| eprintln!("{:6.2} {what}", begun.elapsed().as_secs_f64());
    eprintln!("PORTOLAN_CHAOS_SEED={seed}");
    let mut dice = Dice::new(seed);
    let mut world = World::start(databases).await;
    let (tenants, tokens) = world.tenants().await;
    say("three regions follow each other");
    let clients = Arc::new(Clients::new(Arc::clone(&world.fronts), tenants, tokens));
    let running = clients.start(&mut dice);
    let mut primaries = Primaries([at("us"); SHARDS.len()]);
    say(&promote(&world, &mut primaries, 0, at("eu"), at("ap")).await);
    let calm = Instant::now() + STORM;
    while Instant::now() < calm {
        say(&fault(&mut world, &mut primaries, &mut dice).await);
    }
    // A lease that nobody gives back takes its time to run out: once is enough.
    if databases == Databases::Files {
        say(&cut_off(&mut world, &clients, &mut primaries, &mut dice, &say).await);
    }
    world.heal();
    let before = clients.history.counts().0;
    until("writes go on", async || clients.history.counts().0 > before + 50).await;
    clients.bell.begin();
    for client in running {
        client.await.unwrap().unwrap();
    }
    let (acknowledged, unknown, reads) = clients.history.counts();
    say(&format!(
        "{acknowledged} writes were acknowledged, {unknown} are unknown, {reads} reads were answered"
    ));
    say(&format!("refused were {:?}", clients.history.refusals()));
    settled(&world, &clients).await;
    say("all is there");
    assert!(acknowledged > 100 && reads > 50, "too little was tried");
}

/// One fault, and what was done about it. Says what it was.
async fn fault(world: &mut World, primaries: &mut Primaries, dice: &mut Dice) -> String {
    let region = dice.below(REGIONS.len());
    let other = (region + 1 + dice.below(REGIONS.len() - 1)) % REGIONS.len();
    match dice.below(12) {
        0..=4 => {
            let weather = weather(dice);
            let requests = dice.below(3) == 0;
            if requests {
                world.weather_for(For::Requests, region, other, weather);
            } else {
                world.weather(region, other, weather);
            }
            tokio::time::sleep(dice.millis(50, 400)).await;
            let what = if requests { "requests" } else { "the log" };
            format!("{what} of {} for {}: {weather:?}", REGIONS[region], REGIONS[other])
        }
        5..=6 => kill(world, region, dice).await,
        7..=8 if world.is_postgres() => kill_database(world, region, dice).await,
        _ => {
            let shard = dice.below(SHARDS.len());
            promote(world, primaries, shard, region, other).await
        }
    }
}

/// Another region writes a shard. With all regions in reach nobody waits for a lease to run out: whoever is to write asks its copies once
/// before it waits for that.
async fn promote(world: &World, primaries: &mut Primaries, shard: usize, to: usize, by: usize) -> String {
    world.heal();
    until("all copies are in reach", async || world.all_follow().await).await;
    world.promote(SHARDS[shard], to, by).await;
    world.leads(SHARDS[shard], REGIONS[to]).await;
    primaries.0[shard] = to;
    format!("{} is written in {}", SHARDS[shard], REGIONS[to])
}

async fn kill(world: &mut World, region: usize, dice: &mut Dice) -> String {
    world.kill(region);
    tokio::time::sleep(dice.millis(0, 500)).await;
    world.restart(region).await;
    format!("the gateway of {} was killed", REGIONS[region])
}

async fn kill_database(world: &World, region: usize, dice: &mut Dice) -> String {
    world.kill_database(region).await;
    tokio::time::sleep(dice.millis(0, 500)).await;
    world.restart_database(region).await;
    format!("the databases of {} were killed", REGIONS[region])
}

fn weather(dice: &mut Dice) -> Weather {
    let fair = Weather::default();
    match dice.below(10) {
        0..=2 => fair,
        3..=4 => Weather { delay: dice.millis(20, 150), ..fair },
        5 => Weather { bytes_per_second: NonZeroU32::new(32 * 1024), ..fair },
        6..=7 => Weather { passage: Passage::Hole, ..fair },
        _ => Weather { passage: Passage::Reset, ..fair },
    }
}

/// A region that writes cannot be reached by the logs of others, and another is promoted that lacks the last writes.
async fn cut_off(
    world: &mut World,
    clients: &Clients,
    primaries: &mut Primaries,
    dice: &mut Dice,
    say: &dyn Fn(&str),
) -> String {
    let shard = dice.below(SHARDS.len());
    let (gone, next) = (primaries.0[shard], (primaries.0[shard] + 1 + dice.below(2)) % REGIONS.len());
    world.heal();
    let hole = Weather { passage: Passage::Hole, ..Weather::default() };
    for other in (0..REGIONS.len()).filter(|other| *other != gone) {
        world.weather(gone, other, hole);
        world.weather(other, gone, hole);
    }
    let before = clients.history.of_shard(SHARDS[shard]);
    until("some more writes", async || clients.history.of_shard(SHARDS[shard]) > before + CUT_OFF).await;
    world.promote(SHARDS[shard], next, next).await;
    // Until no lease can last any more, all but who is to write goes on to fail.
    let deadline = Instant::now() + LEASE;
    while !world.is_led(SHARDS[shard], next).await {
        assert!(Instant::now() < deadline, "{} does not begin:\n{}", REGIONS[next], world.log(next));
        let other = (next + 1 + dice.below(REGIONS.len() - 1)) % REGIONS.len();
        match dice.below(8) {
            0 => say(&kill(world, other, dice).await),
            _ if other != gone => {
                world.weather(next, other, weather(dice));
                world.weather(other, next, weather(dice));
            }
            _ => {}
        }
        tokio::time::sleep(dice.millis(50, 300)).await;
    }
    primaries.0[shard] = next;
    format!("{} was cut off, and {} is written in {}", REGIONS[gone], SHARDS[shard], REGIONS[next])
}

/// Waits until all copies are alike, and judges what clients did.
async fn settled(world: &World, clients: &Clients) {
    let mut found = world.alike().await;
    let operations = clients.history.operations();
    // What lies past a cut is noted once a copy has heard of it.
    let deadline = Instant::now() + portolan_tests::PATIENCE / 3;
    let problems = loop {
        let problems = judge(&operations, &found).problems();
        if problems.is_empty() || Instant::now() > deadline {
            break problems;
        }
        found.ledger = world.ledger().await;
    };
    assert!(problems.is_empty(), "{problems}{}", world.logs());
    let ledger = &found.ledger;
    eprintln!("{} values and {} deletions are in the ledgers", ledger.values.len(), ledger.deletions.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_regions_under_faults_on_sqlite() {
    three_regions_under_faults(Databases::Files).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_regions_under_faults_on_postgres() {
    three_regions_under_faults(Databases::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_regions_under_faults_on_decoded_logs() {
    three_regions_under_faults(Databases::PostgresDecoded).await;
}
