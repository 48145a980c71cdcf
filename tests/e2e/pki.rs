//! Certificates of gateways: made, renewed and rotated while regions talk to each other.

use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use http::Method;
use portolan_tests::agent::Agent;
use portolan_tests::node::Node;
use portolan_tests::until;
use portolan_tests::upstream::Upstream;
use serde_json::{Value, json};

use super::good;
use super::shards::{ask, node_by, node_of, open, own, says, share, token};

/// From one write to the next.
const PAUSE: Duration = Duration::from_millis(5);

/// Waits until nodes believe so many authorities.
async fn believed(nodes: &[&Node], authorities: usize) {
    for node in nodes {
        until("the authorities are believed", async || {
            node.status().await["identity"]["authorities"] == authorities
        })
        .await;
    }
}

async fn not_after(node: &Node) -> i64 {
    node.status().await["identity"]["not_after"].as_i64().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn authorities_are_rotated_while_regions_talk() {
    let (place, upstream) = (tempfile::tempdir().unwrap(), Upstream::start("web").await);
    let pki = async |arguments: &[&str]| good(place.path(), &[&["pki"], arguments].concat()).await;
    let text = pki(&["init", "authority", "--domain", "gateways.test"]).await;
    assert!(text.contains("signs for spiffe://gateways.test"), "{text}");
    let (code, text) = says(place.path(), &["pki", "init", "authority"]).await;
    assert!(code != 0 && text.contains("portolan pki rotate"), "{text}");
    let (code, text) = says(place.path(), &["pki", "init", "other", "--domain", "Gateways"]).await;
    assert!(code != 0 && text.contains("no trust domain"), "{text}");
    pki(&["issue", "authority", "eu", "us", "--to", "certs", "--days", "10"]).await;
    let text = pki(&["show", "certs/eu.crt"]).await;
    assert!(text.starts_with("spiffe://gateways.test/region/eu/gateway/1: from "), "{text}");

    share(place.path(), &upstream, [None, None]).await;
    let (eu, us) = (node_of(place.path(), "eu").await, node_of(place.path(), "us").await);
    share(place.path(), &upstream, [Some(&eu), Some(&us)]).await;
    open(&eu, 1).await;
    let acme = token(eu.folder(), "acme").await;
    let (id, failed) = (std::cell::Cell::new(0), std::cell::RefCell::new(Vec::new()));
    let write = async || {
        id.set(id.get() + 1);
        ask(&us, &acme, Method::POST, "/-/data/orders", json!({ "id": id.get() })).await
    };
    until("the region without the lease hands writes on", async || write().await.status == 201).await;
    assert_eq!(eu.status().await["identity"]["id"], "spiffe://gateways.test/region/eu/gateway/1");

    // Not one of what goes on meanwhile fails.
    let (over, ended) = tokio::sync::oneshot::channel::<()>();
    let writing = async {
        let mut ended = pin!(ended);
        loop {
            let answer = write().await;
            if answer.status != 201 {
                failed.borrow_mut().push(format!("{}: {}", answer.status, answer.text()));
            }
            // Two processors are shared with the nodes.
            if tokio::time::timeout(PAUSE, ended.as_mut()).await.is_ok() {
                return;
            }
        }
    };
    let rotating = async {
        rotate(place.path(), &eu, &us).await;
        over.send(()).unwrap();
    };
    tokio::join!(writing, rotating);
    assert!(failed.borrow().is_empty(), "of {} writes failed {:?}", id.get(), failed.borrow());
}

/// One authority follows another, and a gateway is offered what nobody vouches for.
async fn rotate(place: &Path, eu: &Node, us: &Node) {
    let pki = async |arguments: &[&str]| good(place, &[&["pki"], arguments].concat()).await;
    let took = async |node: &Node, what: &str, before: i64| {
        until(what, async || not_after(node).await > before).await;
    };
    // A new authority is believed beside the old, then every gateway has a certificate of it, then the old is believed no more.
    let text = pki(&["rotate", "authority"]).await;
    assert!(text.contains("--finish"), "{text}");
    let authorities = || std::fs::copy(place.join("authority/ca.crt"), place.join("certs/ca.crt")).unwrap();
    authorities();
    believed(&[eu, us], 2).await;
    let (old, soon) = (not_after(eu).await, not_after(us).await);
    pki(&["issue", "authority", "us", "--to", "certs", "--days", "20"]).await;
    took(us, "one gateway has taken the new one", soon).await;
    assert_eq!(not_after(eu).await, old);
    pki(&["issue", "authority", "eu", "--to", "certs", "--days", "20"]).await;
    took(eu, "the other gateway has taken it", old).await;
    let text = pki(&["rotate", "authority", "--finish"]).await;
    assert!(text.contains("1 fewer than before"), "{text}");
    authorities();
    believed(&[eu, us], 1).await;
    let metrics = us.ask_plain("GET", "/api/v1/metrics", Value::Null).await.unwrap().text();
    assert!(metrics.contains("portolan_peer_certificate_not_after_seconds"), "{metrics}");

    // A gateway with another's certificates is a stranger, though its connections stood.
    pki(&["trial", "strangers", "us"]).await;
    let before = not_after(us).await;
    // Its own authorities stay as they are: a certificate that nobody vouches for is not taken.
    for file in ["us.crt", "us.key"] {
        std::fs::copy(place.join("strangers").join(file), place.join("certs").join(file)).unwrap();
    }
    until("the node says what is wrong", async || {
        let problems = us.status().await["configuration"]["problems"].to_string();
        problems.contains("portolan pki issue")
    })
    .await;
    assert_eq!(not_after(us).await, before, "what was good before stays");
}

/// Two regions whose gateways have no files: an agent of SPIFFE's Workload API says who they are, and says it anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_issues_what_gateways_show() {
    let (place, upstream) = (tempfile::tempdir().unwrap(), Upstream::start("web").await);
    let pki = async |arguments: &[&str]| good(place.path(), &[&["pki"], arguments].concat()).await;
    pki(&["init", "authority", "--domain", "gateways.test"]).await;
    pki(&["issue", "authority", "eu", "us", "--to", "certs", "--days", "10"]).await;
    let own = |region: &str, socket: &str| {
        let text = own(place.path(), region);
        let (before, rest) = text.split_once("[peer]\n").unwrap();
        let after = rest.split_once("\n[").map_or(String::new(), |(_, after)| format!("[{after}"));
        format!("{before}[peer]\nspiffe = {:?}\n{after}", place.path().join(socket))
    };
    let agent = |region: &str| {
        Agent::start(place.path().join("certs"), region, &place.path().join(format!("{region}.sock")))
    };
    let (agent_eu, _agent_us) = (agent("eu"), agent("us"));
    share(place.path(), &upstream, [None, None]).await;
    // Nobody is there.
    let folder = portolan_tests::node::folder(&own("eu", "nobody.sock"));
    let (code, text) = says(folder.path(), &["serve"]).await;
    assert!(code != 0 && text.contains("nobody.sock") && text.contains("gateway/NAME"), "{text}");
    let (eu, us) = (node_by(&own("eu", "eu.sock")).await, node_by(&own("us", "us.sock")).await);
    share(place.path(), &upstream, [Some(&eu), Some(&us)]).await;
    open(&eu, 1).await;
    let acme = token(eu.folder(), "acme").await;
    let id = std::cell::Cell::new(0);
    let written = async || {
        id.set(id.get() + 1);
        ask(&us, &acme, Method::POST, "/-/data/orders", json!({ "id": id.get() })).await.status == 201
    };
    until("the region without the lease hands writes on", async || written().await).await;
    assert_eq!(eu.status().await["identity"]["id"], "spiffe://gateways.test/region/eu/gateway/1");

    let before = not_after(&eu).await;
    pki(&["issue", "authority", "eu", "--to", "certs", "--days", "20"]).await;
    assert_eq!(not_after(&eu).await, before, "nothing is read from files");
    agent_eu.offer();
    until("the next identity is used", async || not_after(&eu).await > before).await;
    assert!(written().await);
    // An identity that is none leaves the last.
    drop(agent_eu);
    assert!(written().await, "while the agent is away the last identity stays");
}
