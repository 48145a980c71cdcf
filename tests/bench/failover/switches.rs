//! Shards are switched to another region and home again.

use std::sync::Arc;
use std::time::Duration;

use portolan_foundation::random;
use portolan_tests::clients::{Clients, Dice};
use portolan_tests::node::good;
use portolan_tests::regions::{HOME, SHARDS, World, at};
use portolan_tests::until;

use crate::{Figures, note, quantiles};

/// Writes of each shard before each switchover, and after it.
const SOME: usize = 100;

pub(crate) async fn measure(rounds: usize, figures: &mut Figures) {
    let world = World::start_with_failover("default").await;
    let (tenants, tokens) = world.tenants().await;
    let clients = Arc::new(Clients::new(Arc::clone(&world.fronts), tenants, tokens));
    let running = clients.start(&mut Dice::new(random::u64()));
    let more = async || {
        let before = SHARDS.map(|shard| clients.history.of_shard(shard));
        for (shard, before) in SHARDS.iter().zip(before) {
            until("writes", async || clients.history.of_shard(shard) > before + SOME).await;
        }
    };
    more().await;
    let mut pauses: Vec<Duration> = Vec::new();
    for number in 1..=rounds {
        for to in ["eu", HOME] {
            let from = clients.history.now();
            good(world.folder_of(at("eu")), &["failover", "switch", "--all", "--to", to]).await;
            more().await;
            let operations = clients.history.operations();
            let took: Vec<Duration> = SHARDS.iter().map(|shard| operations.pause(shard, from)).collect();
            eprintln!("switchover {number} of {rounds} to {to}: writes waited for {took:.2?}");
            pauses.extend(took);
        }
    }
    clients.bell.begin();
    for client in running {
        client.await.unwrap();
    }
    let found = world.alike().await;
    let lost = found.ledger.values.len() + found.ledger.deletions.len();
    note(figures, "planned.rows_lost", lost as f64);
    note(figures, "planned.pause.longest_s", pauses.iter().max().copied().unwrap_or_default().as_secs_f64());
    quantiles(figures, "planned.pause", pauses);
}
