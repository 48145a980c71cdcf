//! People decide.

use std::time::Duration;

use http::Request;
use portolan_tests::node::{good, says};
use portolan_tests::regions::{HOME, SHARDS, at};
use portolan_tests::{PATIENCE, until};
use serde_json::Value;
use tokio::time::Instant;

use super::{OTHERS, Play, QUICK};

/// From one look to the next.
const LOOK: Duration = Duration::from_millis(250);

/// While failover is frozen a dead region's shards stay where they are, until somebody forces one elsewhere; and all go home when somebody says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_freeze_holds_a_force_moves_and_a_return_brings_home() {
    let mut play = Play::start().await;
    let (home, eu) = (at(HOME), play.world.folder_of(at("eu")).to_owned());
    good(&eu, &["failover", "freeze", "--for", "1h", "--why", "a test"]).await;
    until("all know that it is frozen", async || {
        let mut frozen = true;
        for region in OTHERS {
            frozen &= play.world.failover(at(region)).await["words"]["freeze"].is_object();
        }
        frozen
    })
    .await;
    play.world.kill_region(home).await;
    play.say("the region that writes is dead");
    for region in OTHERS {
        until("what is proposed is barred", async || {
            play.world.log(at(region)).contains("has frozen failover")
        })
        .await;
        let status = play.world.failover(at(region)).await;
        assert!(status["regions"][HOME]["verdict"].as_str().unwrap().starts_with("down"), "{status}");
        assert!(SHARDS.iter().all(|shard| status["shards"][shard]["primary"] == HOME), "{status}");
        nobody_writes(&play, region).await;
    }

    // Nobody is forced to lose more than was said, and nobody forces without a word.
    let (code, text) = says(&eu, &["failover", "force", "s1", "--to", "eu"]).await;
    assert!(code != 0 && text.contains("--why"), "{text}");
    let force = ["failover", "force", "s1", "--to", "eu", "--why", "it burns", "--accept-loss", "1000000"];
    let text = good(&eu, &force).await;
    assert!(text.contains("shard s1 is written in eu"), "{text}");
    play.world.leads("s1", "eu").await;
    let status = play.world.failover(at("eu")).await;
    assert_eq!(status["shards"]["s2"]["primary"], HOME, "nobody has said anything of it: {status}");
    good(&eu, &["failover", "thaw"]).await;
    let told = play.taken_over().await;
    play.go_on().await;

    play.world.revive_region(home).await;
    play.say("it is back");
    play.counted(&told).await;
    // What was down is believed to be well only after a minute, so that nothing flaps.
    let deadline = Instant::now() + 3 * PATIENCE;
    while play.world.failover(at("eu")).await["regions"][HOME]["verdict"] != "healthy" {
        assert!(Instant::now() < deadline, "it is not believed to be well:\n{}", play.world.logs());
        tokio::time::sleep(LOOK).await;
    }
    let text = good(&eu, &["failover", "return", "--all", "--why", "it is well"]).await;
    assert!(text.matches("lost: nothing").count() == SHARDS.len(), "{text}");
    play.say("all shards are at home");
    for shard in SHARDS {
        play.world.leads(shard, HOME).await;
    }
    play.go_on().await;
    let found = play.end().await;
    play.loss_is_as_told(&told, &found).await;
}

/// While nobody writes a tenant's shard, who writes is told to come again, at once, and who reads is answered.
async fn nobody_writes(play: &Play, region: &str) {
    let write =
        async || play.rows(region, Request::post("/-/data/orders"), r#"{"id": 1, "note": "x"}"#).await;
    until("its gateway knows that nobody writes", async || {
        let problem: Value = serde_json::from_slice(&write().await.body).unwrap_or_default();
        problem["type"] == "urn:portolan:problem:no-primary"
    })
    .await;
    let asked = Instant::now();
    let refused = write().await;
    assert_eq!(
        (refused.status.as_u16(), refused.header("retry-after"), refused.header("portolan-mode")),
        (503, "5", "read-only")
    );
    let application = play.ask(region, Request::post("/page"), "{}").await;
    assert_eq!((application.status.as_u16(), application.header("retry-after")), (503, "5"));
    assert_eq!(play.application(region).await, region, "who reads is served");
    for consistency in ["local", "max-staleness=3600"] {
        let read = Request::get("/-/data/orders").header("portolan-consistency", consistency);
        let rows = play.rows(region, read, "").await;
        assert_eq!(rows.status, 200, "{consistency}: {}", rows.text());
    }
    let read = Request::get("/-/data/orders").header("portolan-consistency", "primary");
    let refused = play.rows(region, read, "").await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(!refused.header("retry-after").is_empty());
    assert!(asked.elapsed() < QUICK, "nobody waits for what cannot come: {:?}", asked.elapsed());
}
