//! Shards move in an orderly way.

use http::Request;
use portolan_tests::node::good;
use portolan_tests::regions::{HOME, SHARDS, at};
use portolan_tests::until;
use serde_json::Value;

use super::{OTHERS, Play};

/// What a command says as JSON.
async fn told(play: &Play, arguments: &[&str]) -> Value {
    let text = good(play.world.folder_of(at("eu")), &[&["failover"], arguments, &["--json"]].concat()).await;
    serde_json::from_str(&text).unwrap()
}

/// Switches under load, there and back; gives nothing up, and says for how long writes waited.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn switches_lose_nothing() {
    let mut play = Play::start().await;
    let eu = play.world.folder_of(at("eu")).to_owned();
    // What would happen is known before, and nothing happens by asking.
    until("it is known who would take over", async || {
        let forecast = told(&play, &["forecast", HOME]).await;
        SHARDS.iter().all(|shard| {
            let there = &forecast["forecasts"][0]["shards"][shard];
            let to = there["to"].as_str().unwrap_or_default();
            OTHERS.contains(&to) && there["time_ms"].is_u64() && there["loss_ms"].is_u64()
        })
    })
    .await;
    let drill = told(&play, &["drill", HOME]).await;
    assert_eq!(drill["forecasts"][0]["region"], HOME, "{drill}");
    let text = good(&eu, &["failover", "freeze", "--for", "1h", "--why", "a test"]).await;
    assert!(text.contains("portolan failover thaw"), "{text}");
    assert_eq!(told(&play, &["status"]).await["shards"]["s1"]["primary"], HOME);

    for (arguments, to) in [(&["switch", "--all", "--to", "eu"][..], "eu"), (&["return", "--all"], HOME)] {
        // An operator's word counts also while everything is frozen.
        let from = play.clients.history.now();
        let text = good(&eu, &[&["failover"], arguments, &["--why", "a test"]].concat()).await;
        for shard in SHARDS {
            assert!(text.contains(&format!("shard {shard} is written in {to}")), "{text}");
        }
        assert!(text.matches("lost: nothing").count() == SHARDS.len(), "{text}");
        for shard in SHARDS {
            play.world.leads(shard, to).await;
        }
        play.go_on().await;
        let operations = play.clients.history.operations();
        for shard in SHARDS {
            let pause = operations.pause(shard, from);
            play.say(&format!("{shard} is written in {to}; its writes waited for {pause:?} at most"));
        }
    }
    a_drained_region_serves_what_it_keeps(&play).await;
    good(&eu, &["failover", "thaw"]).await;
    let found = play.end().await;
    let lost = &found.ledger;
    assert!(lost.values.is_empty() && lost.deletions.is_empty(), "{lost:?}\n{}", play.world.logs());
}

/// A region that is drained gets no new requests of applications, also those that come in there, and its copies go on answering who asks them.
async fn a_drained_region_serves_what_it_keeps(play: &Play) {
    for region in OTHERS {
        assert_eq!(play.application(region).await, region, "who came is served where it came in");
    }
    good(play.world.folder_of(at("eu")), &["failover", "drain", "ap", "--why", "a test"]).await;
    until("its requests go elsewhere", async || play.application("ap").await != "ap").await;
    let before = play.clients.history.now();
    for region in OTHERS {
        assert_ne!(play.application(region).await, "ap");
    }
    let local = Request::get("/-/data/orders").header("portolan-consistency", "local");
    let rows = play.rows("ap", local, "").await;
    assert_eq!(rows.status, 200, "{}", rows.text());
    assert!(!rows.header("portolan-staleness").is_empty(), "its own copy answers");
    play.reads_go_on(&["ap"], before).await;
    play.say("a region is drained, and reads of its copies go on");
}
