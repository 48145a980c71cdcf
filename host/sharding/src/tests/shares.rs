//! One tenant leaves enough to the others: turns, connections, memory, time.

use std::time::Duration;

use bytes::Bytes;
use portolan_changelog::Store;
use portolan_foundation::endpoint::whole;
use portolan_test_postgres::Cluster;

use super::world::{World, postgres, region};
use crate::{Limits, Watermarks};

#[tokio::test]
async fn one_tenants_waiting_requests_leave_turns_to_others() {
    let cluster = Cluster::start().await;
    let limits = Limits { turn: Duration::from_millis(300), ..Limits::default() };
    let world = World::new(limits);
    let engine = postgres(&cluster, "a").await;
    world.keep("a", engine.clone(), Watermarks::default()).await;
    world.check("a", "POST /notes", r#"{"id": 1, "body": "one"}"#, 201, "").await;
    // Whoever migrates holds the row that the tenant wants.
    let owner = Store::open(&engine, region("eu")).await.unwrap();
    let mut lock = owner.maintain().await.unwrap();
    lock.execute("SELECT set_config('portolan.maintenance', 'on', true)", &[]).await.unwrap();
    lock.fetch("SELECT body FROM notes WHERE id = 1 FOR UPDATE", &[]).await.unwrap();
    let patch = || world.send("a", "acme", "PATCH /notes/1", r#"{"body": "two"}"#);
    let waiting =
        async { futures_util::future::join_all((0..limits.tenant_turns + 8).map(|_| patch())).await };
    let others = async {
        let mut served = 0;
        for _ in 0..20 {
            let answer = world.send("a", "bolt", "GET /notes", "").await;
            assert_eq!(answer.status, 200, "{answer:?}");
            served += 1;
        }
        served
    };
    let (waited, served) = tokio::join!(waiting, others);
    drop(lock);
    assert_eq!(served, 20);
    let codes: Vec<String> = waited.iter().map(|answer| answer.code()).collect();
    assert!(codes.iter().filter(|code| *code == "tenant-busy").count() >= 8, "{codes:?}");
    let busy = waited.iter().find(|answer| answer.code() == "tenant-busy").unwrap();
    assert!(busy.status == 429 && !busy.header("retry-after").is_empty(), "{busy:?}");
    world.check("a", "PATCH /notes/1", r#"{"body": "three"}"#, 204, "").await;
}

#[tokio::test]
async fn memory_is_shared_out() {
    // An answer counts three times while it is made, and once until it is sent.
    let row = 1_000_000;
    let limits = Limits {
        node_bytes: row * 25 / 2,
        shard_bytes: row * 17 / 2,
        tenant_bytes: row * 9 / 2,
        ..Limits::default()
    };
    let world = World::new(limits);
    let large = format!(r#"{{"id": 1, "body": "{}"}}"#, "x".repeat(row));
    for (shard, tenants) in [("a", ["acme", "bolt", "cash", "dove"]), ("b", ["acme", "bolt", "cash", "dove"])]
    {
        world.keep(shard, world.sqlite(shard), Watermarks::default()).await;
        for tenant in tenants {
            let answer = world.send(shard, tenant, "POST /notes", &large).await;
            assert_eq!(answer.status, 201, "{answer:?}");
        }
    }
    let mut unread = Vec::new();
    let mut hold = async |shard: &str, tenant: &str| {
        let answer = world.begin(shard, tenant, "GET /notes/1", whole(Bytes::new())).await;
        assert_eq!(answer.status(), 200, "{shard} {tenant}");
        unread.push(answer);
    };
    hold("a", "acme").await;
    hold("a", "acme").await;
    // The tenant has its share: of answers, and of contents.
    let busy = world.check("a", "GET /notes/1", "", 429, "tenant-busy").await;
    assert!(!busy.header("retry-after").is_empty());
    world.check("a", "POST /notes", &" ".repeat(row * 3), 429, "tenant-busy").await;
    for tenant in ["bolt", "cash"] {
        hold("a", tenant).await;
        hold("a", tenant).await;
    }
    // The shard has its share, and the other shard still answers.
    let dove = world.send("a", "dove", "GET /notes/1", "").await;
    assert_eq!((dove.status.as_u16(), dove.code().as_str()), (503, "overloaded"));
    for tenant in ["acme", "bolt"] {
        hold("b", tenant).await;
        hold("b", tenant).await;
    }
    let dove = world.send("b", "dove", "GET /notes/1", "").await;
    assert_eq!((dove.status.as_u16(), dove.code().as_str()), (503, "overloaded"), "the node has no more");
    drop(unread);
    for shard in ["a", "b"] {
        world.check(shard, "GET /notes/1", "", 200, "xxx").await;
    }
}

#[tokio::test]
async fn a_requests_statements_have_a_time_together() {
    let limits = Limits { transaction: Duration::from_millis(1), ..Limits::default() };
    let world = World::new(limits);
    world.keep("a", world.sqlite("a"), Watermarks::default()).await;
    let rows: Vec<String> = (0..1_000).map(|id| format!(r#"{{"id": {id}, "body": "x"}}"#)).collect();
    world.check("a", "POST /notes", &format!("[{}]", rows.join(",")), 503, "took longer").await;
    let generous = World::new(Limits::default());
    generous.keep("a", generous.sqlite("a"), Watermarks::default()).await;
    generous.check("a", "GET /notes", "", 200, "[]").await;
}
