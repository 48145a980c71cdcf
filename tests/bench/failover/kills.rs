//! The region that writes is killed.

use std::sync::Arc;
use std::time::Duration;

use portolan_foundation::random;
use portolan_tests::clients::{Clients, Dice};
use portolan_tests::history::judge;
use portolan_tests::regions::{HOME, Loss, REGIONS, SHARDS, World, at};
use portolan_tests::until;

use crate::{Figures, note, quantiles};

/// The regions that may take over.
const OTHERS: [&str; 2] = ["ap", "eu"];
/// Writes of each shard before the kill.
const SOME: usize = 100;

/// What one kill came to.
struct Kill {
    first_read: Duration,
    first_write: Duration,
    /// What was told at the promotion and counted later, of each shard.
    told: Vec<Loss>,
    /// What the databases have past the cut, of each shard.
    lost: Vec<u64>,
    counted: Vec<Option<u64>>,
}

pub(crate) async fn measure(profile: &'static str, kills: usize, figures: &mut Figures) {
    let mut done = Vec::new();
    for number in 1..=kills {
        let kill = Box::pin(kill(profile)).await;
        eprintln!(
            "{profile} {number} of {kills}: read after {:.2?}, written after {:.2?}, lost {:?}, told {:?}",
            kill.first_read, kill.first_write, kill.lost, kill.told
        );
        done.push(kill);
    }
    quantiles(figures, &format!("{profile}.first_read"), done.iter().map(|kill| kill.first_read).collect());
    quantiles(figures, &format!("{profile}.first_write"), done.iter().map(|kill| kill.first_write).collect());
    let lost: Vec<u64> = done.iter().flat_map(|kill| kill.lost.clone()).collect();
    let told: Vec<Loss> = done.iter().flat_map(|kill| kill.told.clone()).collect();
    let counted: Vec<Option<u64>> = done.iter().flat_map(|kill| kill.counted.clone()).collect();
    note(figures, &format!("{profile}.rows_lost.sum"), lost.iter().sum::<u64>() as f64);
    note(
        figures,
        &format!("{profile}.rows_lost.most"),
        lost.iter().max().copied().unwrap_or_default() as f64,
    );
    let reported = counted.iter().flatten().sum::<u64>();
    note(figures, &format!("{profile}.rows_reported_lost.sum"), reported as f64);
    let outside = lost.iter().zip(told.iter().zip(&counted));
    let outside = outside.filter(|(lost, (told, counted))| !told.holds(**lost) || **counted != Some(**lost));
    note(figures, &format!("{profile}.losses_not_as_told"), outside.count() as f64);
}

async fn kill(profile: &'static str) -> Kill {
    let mut world = World::start_with_failover(profile).await;
    let (tenants, tokens) = world.tenants().await;
    let clients = Arc::new(Clients::new(Arc::clone(&world.fronts), tenants, tokens));
    let running = clients.start(&mut Dice::new(random::u64()));
    for shard in SHARDS {
        until("writes", async || clients.history.of_shard(shard) > SOME).await;
    }
    let (home, died) = (at(HOME), clients.history.now());
    world.kill_region(home).await;
    let leaders = world.led(&SHARDS, &OTHERS).await;
    let mut told = Vec::new();
    for (shard, leader) in SHARDS.iter().zip(&leaders) {
        let written = async || clients.history.operations().first_write(shard, died, home).is_some();
        until("writes elsewhere", written).await;
        until("what is lost is told", async || world.loss(*leader, shard).await.is_some()).await;
        told.push(world.loss(*leader, shard).await.unwrap());
    }
    let operations = clients.history.operations();
    let writes = SHARDS.iter().filter_map(|shard| operations.first_write(shard, died, home));
    let first_write = writes.max().unwrap() - died;
    let first_read = operations.first_read(died, home).unwrap() - died;

    world.revive_region(home).await;
    for (shard, leader) in SHARDS.iter().zip(&leaders) {
        let counted = async || world.loss(*leader, shard).await.is_some_and(|loss| loss.exact.is_some());
        until("what is lost is counted", counted).await;
    }
    clients.bell.begin();
    for client in running {
        client.await.unwrap();
    }
    let found = world.alike().await;
    let problems = judge(&clients.history.operations(), &found).problems();
    assert!(problems.is_empty(), "{problems}{}", world.logs());
    let (mut lost, mut counted) = (Vec::new(), Vec::new());
    for (shard, leader) in SHARDS.iter().zip(&leaders) {
        lost.push(world.stranded(shard).await);
        counted.push(world.loss(*leader, shard).await.and_then(|loss| loss.exact));
        assert_ne!(REGIONS[*leader], HOME);
    }
    Kill { first_read, first_write, told, lost, counted }
}
