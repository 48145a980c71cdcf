//! Writes that wait for other regions, and shards of which only so much may be lost: over both engines, with followers that are
//! heard here, at another node, or nowhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use portolan_changelog::{Engine, Store};
use portolan_core::ids::ShardName;
use portolan_core::log::Position;
use portolan_core::loss::{Admission, Durability, LossLimit, PastMaxLoss};
use portolan_foundation::endpoint::Positions as _;
use portolan_foundation::task;
use portolan_test_postgres::Cluster;

use super::world::{World, postgres, region};
use crate::{Limits, Watermarks};

/// Followers that receive all that there is, until they are dropped.
struct Followers(Arc<AtomicBool>);

impl Followers {
    /// Heard at the node that answers requests.
    fn here(store: &Store, regions: &[&'static str]) -> Self {
        Self::start(store, regions, true)
    }

    /// Heard at another node of the region: the database alone tells.
    fn at_another_node(store: &Store, regions: &[&'static str]) -> Self {
        Self::start(store, regions, false)
    }

    fn start(store: &Store, regions: &[&'static str], heard: bool) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (store, regions, ends) = (store.clone(), regions.to_vec(), Arc::clone(&over));
        task::spawn("a replica", async move {
            let identity = store.identity().await.unwrap();
            while !ends.load(Ordering::Relaxed) {
                let tip = store.tip().await.unwrap();
                for region in regions.iter().map(|name| region(name)) {
                    if heard {
                        store.heard(&region, &identity, tip);
                    } else {
                        store.peer_acknowledges(&region, &identity, tip, tip).await.unwrap();
                    }
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        Self(over)
    }
}

impl Drop for Followers {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

async fn begin(store: &Store, regions: &[&str]) {
    let identity = store.identity().await.unwrap();
    for name in regions {
        store.begin_peer(&region(name), &identity, Position::START).await.unwrap();
    }
}

fn note(id: u32) -> String {
    format!(r#"{{"id": {id}, "body": "note {id}"}}"#)
}

async fn a_write_is_done_when_others_have_it(engine: Engine) {
    let world = World::new(Limits::default());
    world.keep("a", engine.clone(), Watermarks::default()).await;
    let store = world.keep_elsewhere("a", &["ap", "us"], None, Durability::OneRegion).await;
    begin(&store, &["ap", "us"]).await;
    let other = Store::open(&engine, region("eu")).await.unwrap();
    {
        let _following = Followers::here(&store, &["us"]);
        let written = world.check("a", "POST /notes", &note(1), 201, "").await;
        assert!(written.header("portolan-token").starts_with("v1;a="));
        let list = r#"[{"do": "insert", "table": "notes", "values": {"id": 2}}, {"do": "get", "table": "notes", "key": 1}]"#;
        world.check("a", "POST /", list, 200, "note 1").await;
    }
    {
        let _following = Followers::at_another_node(&other, &["us"]);
        world.check("a", "POST /notes", &note(3), 201, "").await;
    }
    // Of four that keep it, one with the primary is no majority.
    world.keep_elsewhere("a", &["ap", "sa", "us"], None, Durability::Majority).await;
    {
        let _following = Followers::here(&store, &["ap"]);
        let _other = Followers::at_another_node(&other, &["us"]);
        world.check("a", "PATCH /notes/3", r#"{"body": "seen"}"#, 204, "").await;
    }
    store.unheard(&region("ap"));
    let _following = Followers::at_another_node(&other, &["us"]);
    let begun = tokio::time::Instant::now();
    let unconfirmed = world.check("a", "POST /notes", &note(4), 500, "unconfirmed").await;
    assert!(begun.elapsed() >= crate::defaults::CONFIRM_WAIT, "{unconfirmed:?}");
    let token = unconfirmed.header("portolan-token");
    assert!(token.starts_with("v1;a=") && unconfirmed.text.contains(token), "{unconfirmed:?}");
    assert!(
        unconfirmed.text.contains("Do not write it again") && unconfirmed.header("retry-after").is_empty()
    );
    assert_eq!(world.until("a", |_| true).await.unconfirmed, 1);
    // It is there, and reads and what changes nothing wait for nobody.
    world.check("a", &format!("GET /notes/4 | portolan-token: {token}"), "", 200, "note 4").await;
    world.check("a", "DELETE /notes?id=eq.99", "", 204, "").await;
}

async fn a_shard_is_written_only_while_little_would_be_lost(engine: Engine) {
    let world = World::new(Limits::default());
    world.keep("a", engine, Watermarks::default()).await;
    let name = ShardName::new("a").unwrap();
    let limit = |past| Some(LossLimit { max: Duration::from_secs(1), past });
    // Nobody has ever followed it.
    let store = world.keep_elsewhere("a", &["us"], limit(PastMaxLoss::Refuse), Durability::Local).await;
    world.check("a", "POST /notes", &note(1), 201, "").await;
    let report = world.until("a", |report| report.past_max_loss).await;
    assert!(report.exposed_ms.is_some_and(|exposed| exposed >= 1_000), "{report:?}");
    let refused = world.check("a", "POST /notes", &note(2), 503, "past-max-loss").await;
    assert!(!refused.header("retry-after").is_empty() && refused.text.contains("nothing was written"));
    assert_eq!(world.service.admits(&name), Admission::Refuse);
    world.check("a", "GET /notes/1", "", 200, "note 1").await;
    begin(&store, &["us"]).await;
    // It copies rows: it has none yet.
    world.check("a", "DELETE /notes/1", "", 503, "past-max-loss").await;
    let following = Followers::here(&store, &["us"]);
    world.until("a", |report| !report.past_max_loss).await;
    world.check("a", "POST /notes", &note(2), 201, "").await;
    drop(following);
    world.keep_elsewhere("a", &["us"], limit(PastMaxLoss::Slow), Durability::Local).await;
    world.check("a", "POST /notes", &note(3), 201, "").await;
    world.until("a", |report| report.past_max_loss).await;
    let Admission::Slow(delay) = world.service.admits(&name) else {
        panic!("{:?}", world.service.admits(&name))
    };
    let begun = tokio::time::Instant::now();
    world.check("a", "POST /notes", &note(4), 201, "").await;
    assert!(begun.elapsed() >= delay);
    // Nobody else keeps it any more.
    world.keep_elsewhere("a", &[], None, Durability::Local).await;
    world.until("a", |report| report.exposed_ms.is_none() && !report.past_max_loss).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_wait_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    a_write_is_done_when_others_have_it(Engine::Sqlite(folder.path().join("a.db"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_wait_on_postgres() {
    let cluster = Cluster::start().await;
    a_write_is_done_when_others_have_it(postgres(&cluster, "a").await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_is_bounded_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    a_shard_is_written_only_while_little_would_be_lost(Engine::Sqlite(folder.path().join("a.db"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_is_bounded_on_postgres() {
    let cluster = Cluster::start().await;
    a_shard_is_written_only_while_little_would_be_lost(postgres(&cluster, "a").await).await;
}

/// Writes that wait for others have places of their own, and take none from who does not wait.
#[tokio::test]
async fn places_of_those_who_wait_are_bounded() {
    let world = World::new(Limits { tenant_awaiting: 1, ..Limits::default() });
    world.keep("a", world.sqlite("a"), Watermarks::default()).await;
    let store = world.keep_elsewhere("a", &["us"], None, Durability::OneRegion).await;
    begin(&store, &["us"]).await;
    let one = note(1);
    let first = world.send("a", "acme", "POST /notes", &one);
    let others = async {
        // The first is at work or waits, until somebody has it.
        while world.send("a", "acme", "GET /notes/1", "").await.status != 200 {}
        world.check("a", "POST /notes", &note(2), 429, "tenant-busy").await;
        world.check("a", "GET /notes/1", "", 200, "note 1").await;
        Followers::here(&store, &["us"])
    };
    let (first, _following) = tokio::join!(first, others);
    assert_eq!(first.status, 201, "{first:?}");
    world.check("a", "POST /notes", &note(2), 201, "").await;
}
