//! Hot: everything that changes while requests are in flight. A bad change leaves what runs alone, and says why.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use portolan_foundation::shutdown::Shutdown;
use portolan_foundation::task;
use portolan_tests::client::{self, Client};
use portolan_tests::guests::{Guest, responding};
use portolan_tests::node::{self, Node};
use portolan_tests::until;
use portolan_tests::upstream::Upstream;
use rustix::process::Signal;

use crate::one_region;

const POLICY: &str = "[policy]\nuse = \"mine\"\n";

async fn with_policy(upstream: &Upstream, component: &[u8], more: &str) -> Node {
    let folder = node::folder(&one_region(&[upstream], &format!("{more}{POLICY}")));
    std::fs::write(folder.path().join("policies/mine.wasm"), component).unwrap();
    Node::start_in(folder).await
}

#[tokio::test]
async fn a_policy_file_that_changes_takes_effect() {
    let upstream = Upstream::start("web").await;
    let node = with_policy(&upstream, &responding("one"), "").await;
    assert_eq!(client::get(node.public(), "a", "/").await.unwrap().text(), "one");
    node.write("policies/mine.wasm", responding("two"));
    node.after(1).await;
    let answer = client::get(node.public(), "a", "/").await.unwrap();
    assert_eq!((answer.text().as_str(), answer.header("portolan-generation")), ("two", "2"));
}

#[tokio::test]
async fn a_bad_policy_leaves_the_good_one_and_status_says_why() {
    let upstream = Upstream::start("web").await;
    let node = with_policy(&upstream, &responding("good"), "").await;
    let bad = [
        (b"not a component".to_vec(), "not WebAssembly"),
        (Guest::planning("(unreachable)").component(), "unreachable"),
        (Guest::planning("(loop $again (br $again))").component(), "fuel"),
    ];
    for (component, why) in bad {
        node.write("policies/mine.wasm", component);
        until(why, async || {
            node.status()
                .await
                .pointer("/configuration/slots/0/refused/reason")
                .is_some_and(|reason| reason.to_string().contains(why))
        })
        .await;
        assert_eq!(client::get(node.public(), "a", "/").await.unwrap().text(), "good");
        let output = node::run(node.folder(), &["status"]).await;
        assert_eq!(output.status.code(), Some(2), "what runs differs from what is wanted");
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(shown.contains("REFUSED") && shown.contains(why), "{shown}");
    }
    assert_eq!(node.generation().await, 1, "nothing was swapped");
    node.write("policies/mine.wasm", responding("better"));
    node.after(1).await;
    assert_eq!(client::get(node.public(), "a", "/").await.unwrap().text(), "better");
    assert_eq!(node::run(node.folder(), &["status"]).await.status.code(), Some(0));
}

#[tokio::test]
async fn a_bad_configuration_leaves_the_good_one_and_sighup_reads_again() {
    let upstream = Upstream::start("web").await;
    let text = one_region(&[&upstream], "");
    let node = Node::start(&text).await;
    node.write("portolan.toml", text.replace("region = \"here\"", "region = \"her\""));
    until("the problem", async || {
        let status = node.status().await;
        status["configuration"]["problems"]
            .to_string()
            .contains("there is no region `her` (did you mean `here`?)")
    })
    .await;
    assert_eq!(client::get(node.public(), "a", "/").await.unwrap().status, 200);
    node.write("portolan.toml", &text);
    node.signal(Signal::HUP);
    until("no problem", async || node.status().await["configuration"]["problems"] == serde_json::json!([]))
        .await;

    // A pool that is added is there, without a restart; a listener is told to need one.
    let more = text.replace("127.0.0.1:0\"", "127.0.0.1:0\", \"127.0.0.1:1\"");
    node.write("portolan.toml", format!("{more}[region.here.pool.late]\nendpoints = [\"127.0.0.1:9\"]\n"));
    until("the new pool", async || {
        node.status().await["regions"][0]["pools"].as_array().is_some_and(|pools| pools.len() == 2)
    })
    .await;
    assert_eq!(node.status().await["configuration"]["restart_needed"], serde_json::json!(["listen"]));
    // It stays needed whatever else changes, until the setting is back.
    let generation = node.generation().await;
    node.write("conf.d/later.toml", "[tenant.later]\n");
    node.after(generation).await;
    assert_eq!(node.status().await["configuration"]["restart_needed"], serde_json::json!(["listen"]));
    node.write("portolan.toml", &text);
    until("no restart", async || {
        node.status().await["configuration"]["restart_needed"] == serde_json::json!([])
    })
    .await;
}

#[tokio::test]
async fn settings_of_the_data_plane_change_without_a_restart() {
    let upstream = Upstream::start("web").await;
    let text = one_region(&[&upstream], "");
    let node = Node::start(&format!("{text}[log]\naccess = \"access.log\"\n")).await;
    let lines = |name: &str| {
        let text = std::fs::read_to_string(node.folder().join(name)).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<serde_json::Value>>()
    };
    let ask = async |body: &'static [u8]| {
        let mut client = Client::connect(node.public(), "a").await.unwrap();
        let request = Request::post("/count").header("x-forwarded-for", "192.0.2.7");
        client.send(request, Bytes::from_static(body)).await.unwrap()
    };
    assert_eq!(ask(b"four").await.status, 200);
    until("a line", async || lines("access.log").len() == 1).await;
    assert_eq!(lines("access.log")[0]["client"], "127.0.0.1");

    // Rotation: the log follows its name.
    std::fs::rename(node.folder().join("access.log"), node.folder().join("access.log.1")).unwrap();
    ask(b"four").await;
    until("a line in the new file", async || lines("access.log").len() == 1).await;
    assert_eq!(lines("access.log.1").len(), 1, "the old file is left alone");

    let text = text.replace("decision = true", "decision = false");
    node.write(
        "portolan.toml",
        format!(
            "{text}[log]\naccess = \"other.log\"\nlevel = \"debug\"\n[limits]\nbody_bytes = 3\n[trust]\nproxies = [\"127.0.0.0/8\"]\n"
        ),
    );
    // Each data thread takes them over at its own time.
    let row = AtomicUsize::new(0);
    until("the new settings on all threads", async || {
        let (refused, taken) = (ask(b"four").await, ask(b"two").await);
        let new =
            refused.status == 413 && taken.status == 200 && taken.header("portolan-generation").is_empty();
        row.store(if new { row.load(Ordering::Relaxed) + 1 } else { 0 }, Ordering::Relaxed);
        row.load(Ordering::Relaxed) > 10
    })
    .await;
    until("lines in the other file", async || lines("other.log").len() > 1).await;
    assert_eq!(lines("other.log").last().unwrap()["client"], "192.0.2.7", "the proxy is trusted now");
    let configuration = node.status().await["configuration"].clone();
    assert_eq!(configuration["restart_needed"], serde_json::json!([]));
    until("more is told", async || node.log().contains("DEBUG")).await;

    // What cannot be opened changes nothing, and is told until it can.
    node.write("portolan.toml", format!("{text}[log]\naccess = \"absent/folder.log\"\n"));
    until("the problem", async || {
        node.status().await["configuration"]["problems"].to_string().contains("absent/folder.log")
    })
    .await;
    assert_eq!(ask(b"four").await.status, 413, "the old limit goes on");
    std::fs::create_dir(node.folder().join("absent")).unwrap();
    node.signal(Signal::HUP);
    until("the limit is gone", async || ask(b"four").await.status == 200).await;
    assert_eq!(node.status().await["configuration"]["problems"], serde_json::json!([]));
    node.write("portolan.toml", format!("{text}[log]\nlevel = \"warn,mine=loud\"\n"));
    until("the bad level", async || {
        node.status().await["configuration"]["problems"].to_string().contains("log filter")
    })
    .await;
}

#[tokio::test]
async fn a_folder_that_comes_later_is_watched_from_then_on() {
    let upstream = Upstream::start("web").await;
    let folder = node::folder(&one_region(&[&upstream], ""));
    std::fs::remove_dir(folder.path().join("conf.d")).unwrap();
    let node = Node::start_in(folder).await;
    std::fs::create_dir(node.folder().join("conf.d")).unwrap();
    let mut generation = 1;
    for number in 0..5 {
        node.write(&format!("conf.d/{number}.toml"), format!("[tenant.t{number}]\n"));
        generation = node.after(generation).await;
    }
    // Another folder under the same name, as a deployment that replaces it leaves behind.
    std::fs::rename(node.folder().join("conf.d"), node.folder().join("old")).unwrap();
    std::fs::create_dir(node.folder().join("conf.d")).unwrap();
    generation = node.after(generation).await;
    node.write("conf.d/new.toml", "[tenant.new]\n");
    node.after(generation).await;
}

/// A thousand swaps under load. Each changes the answer; every answer names its generation, and no generation ever gives
/// two answers. Uploads and streams are in flight all the time, and memory comes back to where it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_swaps_under_load_fail_no_request() {
    const SWAPS: usize = 1_000;
    const SETTLED: usize = 100;
    let upstream = Upstream::start("web").await;
    let components: Vec<Vec<u8>> = (0..10).map(|number| responding(&format!("answer-{number}"))).collect();
    let node = with_policy(&upstream, &components[0], "").await;
    let stop = Shutdown::new();
    let seen: Arc<Mutex<BTreeMap<String, String>>> = Arc::default();
    let mut loads = Vec::new();
    for _ in 0..4 {
        loads.push(task::spawn("load", load(node.public(), Arc::clone(&seen), stop.clone())));
    }
    let uploads = task::spawn("uploads", uploads(node.public(), stop.clone()));
    let mut generation = 1;
    let mut settled = 0;
    for swap in 1..=SWAPS {
        node.write("policies/mine.wasm", &components[swap % components.len()]);
        generation = node.after(generation).await;
        if swap == SETTLED {
            settled = node.resident_bytes();
        }
    }
    stop.begin();
    let mut requests = 0;
    for load in loads {
        requests += load.await.unwrap().expect("no client panics");
    }
    let uploaded = uploads.await.unwrap().expect("no upload panics");
    assert!(requests as usize > SWAPS && uploaded > 10, "{requests} requests and {uploaded} uploads");
    assert!(seen.lock().unwrap().len() > SWAPS / 2, "most generations were seen at work");
    let grown = node.resident_bytes().saturating_sub(settled);
    assert!(grown < 24 << 20, "memory grew by {grown} bytes over {} swaps", SWAPS - SETTLED);
    let versions = node.status().await["engine"]["versions"].as_u64().unwrap();
    assert!(versions <= 2, "{versions} versions are still alive");
}

/// Asks until told to stop; gives the number of answers.
async fn load(address: SocketAddr, seen: Arc<Mutex<BTreeMap<String, String>>>, stop: Shutdown) -> u64 {
    let mut client = Client::connect(address, "a").await.unwrap();
    let mut count = 0;
    while !stop.is_begun() {
        let answer = client.get("/").await.unwrap();
        assert_eq!(answer.status, 200);
        let (generation, text) = (answer.header("portolan-generation").to_owned(), answer.text());
        let known = seen.lock().unwrap().entry(generation.clone()).or_insert_with(|| text.clone()).clone();
        assert_eq!(known, text, "generation {generation} gave two answers");
        count += 1;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    count
}

/// Uploads and streams, one after the other: swaps happen in the middle of them.
async fn uploads(address: SocketAddr, stop: Shutdown) -> u64 {
    let mut client = Client::connect(address, "a").await.unwrap();
    let mut count = 0;
    while !stop.is_begun() {
        let body = Bytes::from(vec![b'u'; 1 << 20]);
        let answer = client.send(Request::post("/count"), body).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "1048576"));
        // Twenty pieces, 20 ms apart: several swaps happen while they come.
        let answer = client.get("/trickle/20").await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 2_000));
        count += 1;
    }
    count
}
