//! A shard whose engine replicates and fences itself: portolan sends requests where it is written, and follows it when it fails over.

use bytes::Bytes;
use http::{Method, Request};
use portolan_test_postgres::Cluster;
use portolan_tests::client::{Answer, Client};
use portolan_tests::node::{self, Node, run};
use portolan_tests::until;
use portolan_tests::upstream::Upstream;
use serde_json::{Value, json};

use super::good;
use super::shards::{ask, read, says, token};

const REGIONS: [&str; 2] = ["eu", "us"];

/// What an application is told of where a request is.
async fn sent(node: &Node, method: Method) -> (Answer, Value) {
    let mut client = Client::connect(node.public(), "shop.test").await.unwrap();
    let request = Request::builder().method(method).uri("/orders").header("x-tenant", "acme");
    let answer = client.send(request, Bytes::new()).await.unwrap();
    let told = read(&answer);
    (answer, told)
}

/// The region of the application that a request came to, and as what.
async fn reached(node: &Node, method: Method) -> (String, String, String) {
    let (_, told) = sent(node, method).await;
    let field = |name: &str| told["headers"][name].as_str().unwrap_or("-").to_owned();
    (told["name"].as_str().unwrap_or("-").to_owned(), field("portolan-role"), field("portolan-epoch"))
}

async fn external(node: &Node) -> Value {
    let shards: Value = node.ask("GET", "/api/v1/shards", Value::Null).await.unwrap();
    shards["items"][0]["external"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_replicates_itself_is_followed() {
    let place = tempfile::tempdir().unwrap();
    let certs = place.path().join("certs");
    let made =
        run(place.path(), &[&["pki", "trial", certs.to_str().unwrap()], REGIONS.as_slice()].concat()).await;
    assert!(made.status.success(), "{made:?}");
    let eu = Cluster::start().await;
    eu.admin("CREATE ROLE watch LOGIN; GRANT pg_monitor TO watch").await;
    eu.admin("CREATE DATABASE shop").await;
    let us = Cluster::standby_of(&eu).await;
    let applications = [Upstream::start("in-eu").await, Upstream::start("in-us").await];
    let addresses = [eu.url("watch", "shop"), us.url("watch", "shop")];
    let share = async |nodes: &[Node]| {
        let mut text = "[tenants]\nsources = [{ header = \"x-tenant\" }]\n\
            [shard.s1]\nprimary = \"eu\"\nreplication = \"external\"\n"
            .to_owned();
        for (at, region) in REGIONS.iter().enumerate() {
            text.push_str(&format!(
                "[shard.s1.store.{region}]\nexternal = {{ address = {:?} }}\n[region.{region}]\n",
                addresses[at]
            ));
            if let Some(node) = nodes.get(at) {
                text.push_str(&format!("gateways = [\"{}\"]\n", node.listener(1)));
            }
            let endpoint = applications[at].address;
            text.push_str(&format!("[region.{region}.pool.web]\nendpoints = [\"{endpoint}\"]\n"));
        }
        text
    };
    let folder = |region: &str| {
        node::folder(&format!(
            "[node]\nname = \"{region}\"\nregion = \"{region}\"\nthreads = 1\n\
             [listen]\npublic = [\"127.0.0.1:0\"]\npeer = [\"127.0.0.1:0\"]\n[policies]\ninstances = 100\n\
             [peer]\ncert = {:?}\nkey = {:?}\nca = [{:?}]\n[control]\nsqlite = {:?}\n",
            certs.join(format!("{region}.crt")),
            certs.join(format!("{region}.key")),
            certs.join("ca.crt"),
            place.path().join("control.db")
        ))
    };
    let apply = async |nodes: &[Node]| {
        let folder = folder("eu");
        std::fs::write(folder.path().join("conf.d/all.toml"), share(nodes).await).unwrap();
        let (code, text) = says(folder.path(), &["apply"]).await;
        assert_eq!(code, 0, "{text}");
    };
    apply(&[]).await;
    let nodes = [Node::start_in(folder("eu")).await, Node::start_in(folder("us")).await];
    apply(&nodes).await;

    // What changes something goes where the engine takes it, and what reads stays where it is asked.
    until("requests are sent", async || {
        reached(&nodes[1], Method::POST).await == ("in-eu".to_owned(), "primary".to_owned(), "1".to_owned())
    })
    .await;
    assert_eq!(reached(&nodes[1], Method::GET).await.0, "in-us");
    assert_eq!(reached(&nodes[1], Method::GET).await.1, "replica");
    until("both engines are seen", async || {
        let (here, there) = (external(&nodes[0]).await, external(&nodes[1]).await);
        here["writes"] == true && there["writes"] == false && there["behind_ms"].is_u64()
    })
    .await;
    let list = good(nodes[1].folder(), &["shard", "list"]).await;
    assert!(list.contains("its engine's copy here is"), "{list}");
    let metrics = nodes[1].ask_plain("GET", "/api/v1/metrics", Value::Null).await.unwrap().text();
    assert!(metrics.contains("portolan_external_writes{shard=\"s1\"} 0"), "{metrics}");

    // Its rows are nobody's here.
    let acme = token(nodes[0].folder(), "acme").await;
    let refused = ask(&nodes[0], &acme, Method::GET, "/-/data/orders", Value::Null).await;
    assert_eq!(
        (refused.status.as_u16(), read(&refused)["code"].as_str()),
        (501, Some("external")),
        "{}",
        refused.text()
    );
    for command in
        [&["shard", "move", "acme", "--to", "s1"][..], &["backup", "--to", "kept", "--shard", "s1"]]
    {
        let (code, text) = says(nodes[0].folder(), command).await;
        assert!(code != 0 && text.contains("replicates itself"), "{text}");
    }

    // It fails over by itself, and requests follow.
    eu.down();
    us.admin("SELECT pg_promote()").await;
    for node in &nodes {
        until("requests follow", async || {
            reached(node, Method::POST).await == ("in-us".to_owned(), "primary".to_owned(), "2".to_owned())
        })
        .await;
    }
    until("the engine that is gone is told", async || {
        external(&nodes[0]).await["problem"].as_str().is_some_and(|problem| problem.contains("the engine"))
    })
    .await;
    let lease: Value = nodes[0].ask("GET", "/api/v1/objects/lease/s1", json!(null)).await.unwrap();
    assert_eq!(lease["body"], json!({ "epoch": 2, "primary": "us" }));
}
