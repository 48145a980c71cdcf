//! The gateways of a region are not scheduled any more, and its database goes on taking what applications write past them.

use std::sync::Arc;
use std::time::Duration;

use portolan_foundation::task;
use portolan_tests::clients::Clients;
use portolan_tests::history::{Outcome, Write, value};
use portolan_tests::node::good;
use portolan_tests::regions::{HOME, SHARDS, at};
use portolan_tests::until;
use sqlx::{AssertSqlSafe, Executor as _, PgConnection};

use super::Play;

/// From one row of an application to its next.
const PACE: Duration = Duration::from_millis(20);
/// Ids of applications: no client of the gateways has them.
const FIRST: u64 = 1_000_000;

/// An application that knows no gateway writes rows of a tenant, until the bell.
async fn application(clients: Arc<Clients>, mut store: PgConnection, tenant: usize, region: usize) {
    let name = clients.tenants[tenant].clone();
    store.execute(AssertSqlSafe(format!("SET portolan.tenant = '{name}'"))).await.unwrap();
    for id in FIRST.. {
        if clients.bell.is_begun() {
            return;
        }
        let write = clients.history.begins((name.clone(), id), region, None, false);
        let sql =
            format!("INSERT INTO orders (tenant, id, note) VALUES ('{name}', {id}, '{}')", value(write));
        let outcome = match store.execute(AssertSqlSafe(sql)).await {
            Ok(_) => Outcome::Acknowledged(String::new()),
            Err(sqlx::Error::Database(error)) => Outcome::Refused(error.to_string()),
            // Whoever ends its connections is a demotion: it goes on with another.
            Err(error) => {
                clients.history.ends(write, Outcome::Unknown);
                eprintln!("an application's connection has ended: {error}");
                return;
            }
        };
        clients.history.ends(write, outcome);
        tokio::time::sleep(PACE).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_database_stops_writers_when_every_gateway_hangs() {
    let mut play = Play::start().await;
    let home = at(HOME);
    for tenant in 0..play.clients.tenants.len() {
        let name = &play.clients.tenants[tenant];
        let located = good(play.world.folder_of(0), &["shard", "locate", name]).await;
        let shard = SHARDS.iter().find(|shard| located.contains(&format!("shard {shard},"))).unwrap();
        let store = play.world.cluster(home).connect("app", shard).await;
        let clients = Arc::clone(&play.clients);
        play.running.push(task::spawn("application", application(clients, store, tenant, home)));
    }
    let direct = |write: &&Write| write.row.1 >= FIRST && write.is_acknowledged();
    let history = |play: &Play| play.clients.history.operations();
    until("applications write", async || history(&play).writes.iter().filter(direct).count() > 40).await;
    let stopped = play.clients.history.now();
    play.world.stop(home);
    play.say("every gateway of the region that writes is stopped");
    until("applications write on", async || {
        history(&play).writes.iter().filter(direct).any(|write| write.invoked > stopped)
    })
    .await;
    let told = play.taken_over().await;
    play.go_on().await;
    // The database refuses, with nobody there to tell it.
    let opened: Vec<Duration> =
        SHARDS.iter().map(|shard| history(&play).first_write(shard, stopped, home).unwrap()).collect();
    let last = history(&play).writes.iter().filter(direct).map(|write| write.invoked).max().unwrap();
    play.say(&format!(
        "applications wrote until {last:?}, others from {opened:?} on; it was stopped at {stopped:?}"
    ));
    assert!(opened.iter().all(|opened| last < *opened), "{last:?} {opened:?}");
    for (shard, (leader, _)) in SHARDS.iter().zip(&told) {
        let (old, new) = (play.world.written(home, shard).await, play.world.written(*leader, shard).await);
        let (epoch, (_, last)) = old.last_key_value().unwrap();
        let (next, (first, _)) = new.iter().find(|(next, _)| *next > epoch).unwrap();
        assert!(last < first, "{shard}: epoch {epoch} was written at {last}, epoch {next} at {first}");
    }

    play.world.go_on(home);
    play.say("they go on");
    play.counted(&told).await;
    play.go_on().await;
    let found = play.end().await;
    play.loss_is_as_told(&told, &found).await;
}
