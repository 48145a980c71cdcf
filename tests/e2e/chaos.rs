//! Chaos: regions with real databases, whose gateways and databases are killed, whose lines are cut, slow and silent, and whose shards
//! change hands, while clients everywhere write and read. At last all copies are alike, and by the clients' own histories nothing that was
//! acknowledged is gone without a trace, and nobody saw less than their token names.
//!
//! `PORTOLAN_CHAOS_SEED` repeats the faults of a run; it is printed by each. What the clients and the machine make of them differs.

mod clients;
mod disk;
mod history;
mod net;
mod world;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use portolan_foundation::{random, task};
use portolan_tests::line::{Passage, Weather};
use portolan_tests::until;
use tokio::time::Instant;

use self::clients::{Clients, Dice};
use self::history::{Row, named};
use self::world::{Databases, LEASE, REGIONS, SHARDS, World, at};
use super::good;
use super::shards::token;

const TENANTS: usize = 4;
/// How long faults come before a region is cut off.
const STORM: Duration = Duration::from_secs(6);
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
    let (tenants, tokens) = tenants(&world).await;
    say("three regions follow each other");
    let clients = Arc::new(Clients::new(Arc::clone(&world.fronts), tenants, tokens));
    let mut running = Vec::new();
    for tenant in 0..clients.tenants.len() {
        for region in [tenant % REGIONS.len(), (tenant + 1) % REGIONS.len()] {
            running.push(task::spawn("writer", Arc::clone(&clients).write(tenant, region, dice.fork())));
        }
        running.push(task::spawn("reader", Arc::clone(&clients).read(dice.fork())));
    }
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
        "{acknowledged} writes were acknowledged, {unknown} are unknown, {reads} reads with tokens were answered"
    ));
    say(&format!("refused were {:?}", clients.history.refusals()));
    let rows = alike(&world, &say).await;
    judge(&world, &clients, &rows).await;
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
                world.weather_of_requests(region, other, weather);
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

/// Tenants of both shards, with their tokens.
async fn tenants(world: &World) -> (Vec<String>, Vec<String>) {
    let (mut names, mut tokens) = (Vec::new(), Vec::new());
    let mut lack = [TENANTS / SHARDS.len(); SHARDS.len()];
    for number in 0.. {
        let name = format!("t{number}");
        let located = good(world.folder_of(0), &["shard", "locate", &name]).await;
        let shard = SHARDS.iter().position(|shard| located.contains(&format!("shard {shard},"))).unwrap();
        if lack[shard] > 0 {
            lack[shard] -= 1;
            tokens.push(token(world.folder_of(0), &name).await);
            names.push(name);
        }
        if lack == [0; SHARDS.len()] {
            break;
        }
    }
    (names, tokens)
}

async fn kill(world: &mut World, region: usize, dice: &mut Dice) -> String {
    world.kill(region);
    tokio::time::sleep(dice.millis(0, 500)).await;
    world.restart(region).await;
    format!("the gateway of {} was killed", REGIONS[region])
}

async fn kill_database(world: &World, region: usize, dice: &mut Dice) -> String {
    world.kill_database(region);
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

/// Waits until all copies follow and are alike. Gives all rows, each with the write whose value it has.
async fn alike(world: &World, say: &dyn Fn(&str)) -> BTreeMap<Row, usize> {
    until("all copies follow without a problem", async || world.all_follow().await).await;
    say("all follow");
    let mut rows = BTreeMap::new();
    for shard in SHARDS {
        let same = async || {
            let first = world.rows(0, shard).await;
            world.rows(1, shard).await == first && world.rows(2, shard).await == first
        };
        let waited = tokio::time::timeout(portolan_tests::PATIENCE, async {
            while !same().await {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        if waited.await.is_err() {
            differ(world, shard).await;
        }
        for row in world.rows(0, shard).await {
            let fields: Vec<&str> = row.split(' ').collect();
            rows.insert((fields[0].to_owned(), fields[1].parse().unwrap()), named(fields[2]));
        }
    }
    rows
}

async fn differ(world: &World, shard: &str) {
    let first = world.rows(0, shard).await;
    let mut told = String::new();
    for (region, name) in REGIONS.iter().enumerate().skip(1) {
        let there = world.rows(region, shard).await;
        let (only, lacks): (Vec<_>, Vec<_>) = (
            there.iter().filter(|row| !first.contains(row)).collect(),
            first.iter().filter(|row| !there.contains(row)).collect(),
        );
        told += &format!("{shard} in {name}, beside {}: has {only:?}, lacks {lacks:?}\n", REGIONS[0]);
    }
    for (region, name) in REGIONS.iter().enumerate() {
        told += &format!("{name}:\n{}\n", world.log(region));
    }
    assert!(told.is_empty(), "copies differ:\n{told}");
}

async fn judge(world: &World, clients: &Clients, rows: &BTreeMap<Row, usize>) {
    let history = &clients.history;
    let stale = history.stale();
    assert!(stale.is_empty(), "reads that saw less than their token names:\n{}", stale.join("\n"));
    // What lies past a cut is noted once a copy has heard of it.
    let deadline = Instant::now() + portolan_tests::PATIENCE / 3;
    let (ledger, lost) = loop {
        let ledger = world.ledger().await;
        let lost = history.lost(rows, &ledger);
        if lost.is_empty() || Instant::now() > deadline {
            break (ledger, lost);
        }
    };
    let logs = || {
        REGIONS
            .iter()
            .enumerate()
            .map(|(region, name)| format!("{name}:\n{}", world.log(region)))
            .collect::<String>()
    };
    assert!(lost.is_empty(), "acknowledged, and nowhere:\n{}\n{}", lost.join("\n"), logs());
    let refused = history.refused(rows, &ledger);
    assert!(refused.is_empty(), "refused, and written:\n{}", refused.join("\n"));
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
