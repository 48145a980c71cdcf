//! Databases that are gone: their requests end at once, and nobody else's do.

use std::time::Duration;

use portolan_core::topology::BreakerLimits;
use portolan_test_postgres::Cluster;

use super::world::{PATIENCE, World, postgres};
use crate::{Limits, Watermarks};

#[tokio::test]
async fn a_shard_that_fails_is_left_alone_and_asked_again() {
    let cluster = Cluster::start().await;
    let pause = Duration::from_millis(700);
    let breaker = BreakerLimits { failures: 3, pause_min: pause, pause_max: pause };
    let world = World::new(Limits { breaker, ..Limits::default() });
    world.keep("a", postgres(&cluster, "a").await, Watermarks::default()).await;
    world.keep("b", world.sqlite("b"), Watermarks::default()).await;
    world.check("a", "POST /notes", r#"{"id": 1, "body": "one"}"#, 201, "").await;
    cluster.down();
    // What is at fault with the request says nothing of the shard.
    for _ in 0..4 {
        world.check("a", "GET /missing", "", 404, "unknown-table").await;
    }
    let mut codes = Vec::new();
    while codes.last().is_none_or(|code| code != "failing") {
        let answer = world.send("a", "acme", "GET /notes", "").await;
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(!answer.header("retry-after").is_empty(), "{answer:?}");
        codes.push(answer.code());
    }
    assert_eq!(codes, ["unavailable", "unavailable", "unavailable", "failing"]);
    assert!(world.until("a", |report| report.failing).await.lease_ms.is_some());
    world.check("b", "POST /notes", r#"{"id": 1}"#, 201, "").await;
    assert!(!world.until("b", |_| true).await.failing);
    cluster.up().await;
    // One of those that ask is let through when the pause is over, and finds it well.
    let asking = async {
        loop {
            let answer = world.send("a", "acme", "GET /notes/1", "").await;
            if answer.status == 200 {
                return answer;
            }
            assert_eq!(answer.status, 503, "{answer:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let answer = tokio::time::timeout(PATIENCE, asking).await.unwrap();
    assert!(answer.text.contains("one"), "{answer:?}");
    world.until("a", |report| !report.failing).await;
}
