//! Leases when a database takes another's place, and when writers do not go.

use portolan_core::ids::ShardName;
use portolan_test_postgres::Cluster;
use tokio::time::Instant;

use super::world::{World, postgres};
use crate::defaults::RENEWAL;
use crate::{Limits, Role, Watermarks};

/// A keeper that is told of other leave does not wait for its next round.
#[tokio::test]
async fn other_leave_is_asked_for_at_once() {
    let world = World::new(Limits::default());
    world.keep("a", world.sqlite("a"), Watermarks::default()).await;
    let begun = Instant::now();
    world.lose("a");
    world.promote("a", 1, "eu");
    world.shards.look_again(&ShardName::new("a").unwrap());
    world.until("a", |report| report.lease_ms.is_some()).await;
    assert!(begun.elapsed() < RENEWAL / 2, "{:?}", begun.elapsed());
}

/// A standby of the region takes over while the keeper is at work.
#[tokio::test]
async fn a_promotion_within_the_region_wants_a_new_epoch() {
    let cluster = Cluster::start().await;
    let world = World::new(Limits::default());
    world.keep("a", postgres(&cluster, "a").await, Watermarks::default()).await;
    world.check("a", "POST /notes", r#"{"id": 1, "body": "one"}"#, 201, "").await;
    cluster.admin("CHECKPOINT").await;
    cluster.down();
    cluster.promote().await;
    let told = |report: &crate::ShardReport| {
        report.problem.as_ref().is_some_and(|problem| problem.contains("portolan shard promote"))
    };
    let report = world.until("a", told).await;
    assert_eq!((report.lease_ms, report.role), (None, Role::Primary));
    world.check("a", "GET /notes/1", "", 503, "unavailable").await;
    world.check("a", "POST /notes", r#"{"id": 2}"#, 503, "unavailable").await;
    // The server before may still be written by somebody: the next epoch waits for the last lease's end.
    world.promote("a", 2, "eu");
    let waits = |report: &crate::ShardReport| {
        report.problem.as_ref().is_some_and(|problem| problem.contains("epoch 2 begins in"))
    };
    world.until("a", waits).await;
    world.until("a", |report| report.lease_ms.is_some() && report.problem.is_none()).await;
    world.check("a", "POST /notes", r#"{"id": 2, "body": "two"}"#, 201, "").await;
    world.check("a", "GET /notes?select=body&order=id", "", 200, r#"[{"body":"one"},{"body":"two"}]"#).await;
}

/// A writer that no demotion can end stays inside, and the demotion is tried until it is gone.
#[tokio::test]
async fn a_demotion_is_tried_until_it_holds() {
    let cluster = Cluster::start().await;
    let world = World::new(Limits::default());
    world.keep("a", postgres(&cluster, "a").await, Watermarks::default()).await;
    let inside = "BEGIN; SELECT pg_advisory_xact_lock_shared(8101820099073958254)";
    let writer = cluster.hold("postgres", "a", inside).await;
    world.promote("a", 2, "us");
    let inside = |report: &crate::ShardReport| {
        report.problem.as_ref().is_some_and(|problem| problem.contains("still connected"))
    };
    // More than once: the fence is closed after the first try, and what it is for still does not hold.
    let report = world.until("a", |report| inside(report) && report.failures >= 2).await;
    assert_eq!(report.role, Role::Replica);
    drop(writer);
    world.until("a", |report| report.problem.is_none()).await;
}
