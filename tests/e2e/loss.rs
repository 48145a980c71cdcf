//! What may be lost with a region: writes that wait for another one, and a shard that is written only while little would be lost.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::{Method, Request};
use portolan_tests::client::{Answer, Client};
use portolan_tests::node::{self, Node, run};
use portolan_tests::until;
use portolan_tests::upstream::Upstream;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::shards::{SQLITE, ask, open, read, says, token};

const REGIONS: [&str; 2] = ["eu", "us"];

/// Two regions with one shard, written in `eu`.
struct World {
    place: TempDir,
    upstream: Upstream,
}

impl World {
    async fn new() -> Self {
        let (place, upstream) = (tempfile::tempdir().unwrap(), Upstream::start("web").await);
        let certs = place.path().join("certs");
        let made =
            run(place.path(), &[&["pki", "trial", certs.to_str().unwrap()], REGIONS.as_slice()].concat())
                .await;
        assert!(made.status.success(), "{made:?}");
        Self { place, upstream }
    }

    fn folder(&self, region: &str) -> TempDir {
        let certs = self.place.path().join("certs");
        let folder = node::folder(&format!(
            "[node]\nname = \"{region}\"\nregion = \"{region}\"\nthreads = 1\n\
             [listen]\npublic = [\"127.0.0.1:0\"]\npeer = [\"127.0.0.1:0\"]\nreplication = [\"127.0.0.1:0\"]\n\
             [policies]\ninstances = 100\n[peer]\ncert = {:?}\nkey = {:?}\nca = [{:?}]\n[control]\nsqlite = {:?}\n",
            certs.join(format!("{region}.crt")),
            certs.join(format!("{region}.key")),
            certs.join("ca.crt"),
            self.place.path().join("control.db")
        ));
        let migrations = folder.path().join("migrations/sqlite");
        std::fs::create_dir_all(&migrations).unwrap();
        std::fs::write(migrations.join("0001_create_orders.sql"), SQLITE).unwrap();
        folder
    }

    /// Shares what these regions keep, with what is said of the shard and of its table.
    async fn share(
        &self,
        regions: &[&str],
        shard: &str,
        table: &str,
        source: Option<&Node>,
    ) -> (i32, String) {
        let mut text = format!(
            "[tenants]\nsources = [{{ header = \"x-tenant\" }}]\n[shard.s1]\nprimary = \"eu\"\n{shard}\
             [table.orders]\ntenant = \"tenant\"\nkey = [\"tenant\", \"id\"]\n{table}"
        );
        for region in regions {
            let file = self.place.path().join(format!("{region}.db"));
            text.push_str(&format!("[shard.s1.store.{region}]\nsqlite = {file:?}\n"));
        }
        for region in REGIONS {
            text.push_str(&format!("[region.{region}]\n"));
            if let Some(node) = source.filter(|_| region == "eu") {
                let (peer, replication) = (node.listener(1), node.listener(2));
                text.push_str(&format!("gateways = [\"{peer}\"]\nreplication = [\"{replication}\"]\n"));
            }
            text.push_str(&format!(
                "[region.{region}.pool.web]\nendpoints = [\"{}\"]\n",
                self.upstream.address
            ));
        }
        let folder = self.folder("eu");
        std::fs::write(folder.path().join("conf.d/all.toml"), text).unwrap();
        says(folder.path(), &["apply"]).await
    }

    async fn start(&self, region: &str) -> Node {
        let folder = self.folder(region);
        let (code, text) = says(folder.path(), &["migrate", "apply"]).await;
        assert_eq!(code, 0, "{text}");
        Node::start_in(folder).await
    }
}

async fn write(node: &Node, acme: &str, id: u64) -> Answer {
    ask(node, acme, Method::POST, "/-/data/orders", json!({ "id": id, "total": "1.50" })).await
}

/// Writes one after the other, from a number on, until one is done.
async fn written(node: &Node, acme: &str, from: u64) {
    let next = AtomicU64::new(from);
    until("a write is confirmed", async || {
        write(node, acme, next.fetch_add(1, Ordering::Relaxed)).await.status == 201
    })
    .await;
}

/// A request of an application that may change something.
async fn application(node: &Node, method: &str) -> Answer {
    let mut client = Client::connect(node.public(), "shop.test").await.unwrap();
    client
        .send(Request::builder().method(method).uri("/cart").header("x-tenant", "acme"), Bytes::new())
        .await
        .unwrap()
}

/// What the shard would lose, as its primary tells.
async fn exposed(node: &Node) -> Value {
    let (_, text) = says(node.folder(), &["sync", "status", "--json"]).await;
    let told: Value = serde_json::from_str(&text).unwrap_or_default();
    told["exposed"][0].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_wait_for_another_region_and_end_without_one() {
    let world = World::new().await;
    // A shard that no other region keeps begins at once.
    let (code, text) = world.share(&["eu"], "", "", None).await;
    assert_eq!(code, 0, "{text}");
    let durable = "durability = \"one-region\"\n";
    let (code, text) = world.share(&["eu"], "", durable, None).await;
    assert!(code != 0 && text.contains("none keeps shard `s1`"), "{text}");
    let eu = world.start("eu").await;
    open(&eu, 1).await;
    let acme = token(eu.folder(), "acme").await;
    assert_eq!(write(&eu, &acme, 1).await.status, 201);
    let bounded = "max_loss = \"3s\"\npast_max_loss = \"refuse\"\n";
    let (code, text) = world.share(&REGIONS, bounded, durable, Some(&eu)).await;
    assert_eq!(code, 0, "{text}");

    let us = world.start("us").await;
    // Until the copy is there, writes are refused, or written and not confirmed.
    written(&eu, &acme, 2).await;
    let told = exposed(&eu).await;
    assert!(told["past_max_loss"] == false && told["exposed_ms"].as_u64() <= Some(3_000), "{told}");
    assert_eq!(application(&eu, "POST").await.status, 200);

    us.signal(Signal::KILL);
    let unconfirmed = write(&eu, &acme, 1_000).await;
    assert_eq!((unconfirmed.status.as_u16(), &read(&unconfirmed)["code"]), (500, &json!("unconfirmed")));
    assert_eq!(read(&unconfirmed)["token"], unconfirmed.header("portolan-token"));
    let refused = write(&eu, &acme, 1_001).await;
    assert_eq!(
        (refused.status.as_u16(), &read(&refused)["code"]),
        (503, &json!("past-max-loss")),
        "{}",
        refused.text()
    );
    let refused = application(&eu, "POST").await;
    assert!(refused.status == 503 && refused.text().contains("past-max-loss"), "{}", refused.text());
    assert!(!refused.header("retry-after").is_empty());
    // What is there is read, and what changes nothing goes on.
    let there = ask(&eu, &acme, Method::GET, "/-/data/orders/1000", Value::Null).await;
    assert_eq!((there.status.as_u16(), application(&eu, "GET").await.status.as_u16()), (200, 200));
    let told = exposed(&eu).await;
    assert!(told["past_max_loss"] == true && told["unconfirmed"].as_u64() >= Some(1), "{told}");
    let metrics = eu.ask_plain("GET", "/api/v1/metrics", Value::Null).await.unwrap().text();
    assert!(metrics.contains("portolan_shard_past_max_loss{shard=\"s1\"} 1"), "{metrics}");

    // It comes back, takes what was not confirmed, and writes go on.
    let us = us.restarted(&[]).await;
    written(&eu, &acme, 2_000).await;
    until("the copy has it", async || {
        let mut client = Client::connect(us.public(), "shop.test").await.unwrap();
        let request = Request::get("/-/data/orders/1000").header("authorization", format!("Bearer {acme}"));
        let answer =
            client.send(request.header("portolan-consistency", "local"), Bytes::new()).await.unwrap();
        answer.status == 200 && !answer.header("portolan-staleness").is_empty()
    })
    .await;
    assert_eq!(application(&eu, "POST").await.status, 200);
}
