//! The control store is lost.

use http::Request;
use portolan_tests::regions::{REGIONS, SHARDS, at};
use portolan_tests::until;
use tokio::time::Instant;

use super::{OTHERS, Play, QUICK};

/// Without its voters nobody has permission to write for longer than a lease, and copies are read on. When they are back so are writes, and nothing is
/// lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_control_store_regions_read_on() {
    let mut play = Play::start().await;
    let lost = play.clients.history.now();
    for region in 0..REGIONS.len() {
        play.world.kill_voter(region);
    }
    play.say("no voter lives");
    for region in REGIONS {
        until("nobody writes", async || {
            let mut writes = false;
            for shard in SHARDS {
                writes |= play.world.is_led(shard, at(region)).await;
            }
            !writes && play.world.failover(at(region)).await["control"] == false
        })
        .await;
    }
    play.say("nobody writes");
    let stopped = play.clients.history.now();
    play.reads_go_on(&OTHERS, stopped).await;
    // Who wants what nobody can answer is told so at once.
    for (region, wanted) in OTHERS.into_iter().zip(["primary", "max-staleness=0"]) {
        let asked = Instant::now();
        let read = Request::get("/-/data/orders").header("portolan-consistency", wanted);
        let refused = play.rows(region, read, "").await;
        assert_eq!(refused.status, 503, "{wanted} in {region}: {}", refused.text());
        assert!(
            !refused.header("retry-after").is_empty() && asked.elapsed() < QUICK,
            "{:?}",
            asked.elapsed()
        );
    }
    let operations = play.clients.history.operations();
    let since = operations.writes.iter().filter(|write| write.invoked > stopped);
    assert!(since.clone().all(|write| !write.is_acknowledged()), "writes are done without a lease");
    let refused = since.count();

    for region in 0..REGIONS.len() {
        play.world.revive_voter(region);
    }
    play.world.led(&SHARDS, &REGIONS).await;
    play.go_on().await;
    play.say(&format!("writes go on; {refused} were not done from {lost:?} on"));
    let found = play.end().await;
    let lost = &found.ledger;
    assert!(lost.values.is_empty() && lost.deletions.is_empty(), "{lost:?}\n{}", play.world.logs());
}
