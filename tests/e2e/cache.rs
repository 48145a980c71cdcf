//! The cache of a node: what the public suite of tests for HTTP caches says of it, and how operators take responses back.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use bytes::Bytes;
use http::Request;
use portolan_tests::client::{self, Client};
use portolan_tests::node::{Node, good};
use portolan_tests::until;
use portolan_tests::upstream::Upstream;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::one_region;

/// Prints which kind each test of the suite is of, but for those of browsers.
const KINDS: &str = "
    const suites = (await import(process.argv[1] + '/tests/index.mjs')).default
    suites.push((await import(process.argv[1] + '/tests/surrogate-control.mjs')).default)
    const kinds = {}
    for (const test of suites.flatMap(suite => suite.tests)) {
      if (!test.browser_only) kinds[test.id] = test.kind || 'required'
    }
    console.log(JSON.stringify(kinds))
";

fn suite() -> PathBuf {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("target/tools/http-cache-tests");
    assert!(tools.is_dir(), "run `cargo xtask test` once: it installs http-cache-tests under target/tools");
    tools.join("node_modules/http-cache-tests")
}

/// The suite's own origin, and its port.
async fn origin(suite: &Path, folder: &Path) -> (Child, u16) {
    let mut command = Command::new("node");
    command.arg("server/server.mjs").current_dir(suite).stdin(Stdio::null()).stdout(Stdio::piped());
    command.env("npm_config_protocol", "http").env("npm_config_port", "0");
    command.env("npm_config_pidfile", folder.join("origin.pid"));
    let mut origin = command.kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(origin.stdout.take().unwrap()).lines();
    let line = lines.next_line().await.unwrap().unwrap();
    let port = line.trim_end_matches('/').rsplit(':').next().unwrap().parse().unwrap();
    (origin, port)
}

async fn output(command: &mut Command) -> Value {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let from = text.find('{');
    assert!(from.is_some(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(text.get(from.unwrap()..).unwrap()).unwrap()
}

/// <https://cache-tests.fyi>, with the settings that its tests presume: heuristics, cookies, and what stands in for a broken origin.
#[tokio::test]
async fn the_public_suite_for_caches_passes() {
    let (suite, folder) = (suite(), tempfile::tempdir().unwrap());
    let (_origin, port) = origin(&suite, folder.path()).await;
    let text = format!(
        "[node]\nregion = \"here\"\n[listen]\npublic = [\"127.0.0.1:0\"]\n[region.here.pool.web]\nendpoints = [\"127.0.0.1:{port}\"]\n\
         breaker = {{ failures = 0 }}\n[cache]\npools = [\"web\"]\ncookies = true\nheuristic_percent = 10\n\
         stale_if_error = \"1m\"\n"
    );
    let node = Node::start(&text).await;
    let kinds =
        output(Command::new("node").args(["--input-type=module", "-e", KINDS, "--"]).arg(&suite)).await;
    let mut asked = Command::new("node");
    asked.args(["--no-warnings", "cli.mjs"]).current_dir(&suite);
    asked.env("npm_config_base", format!("http://{}", node.public())).env("npm_package_config_id", "");
    let results = output(&mut asked).await;
    let (mut passed, mut failed) = (std::collections::BTreeMap::new(), Vec::new());
    for (id, kind) in kinds.as_object().unwrap() {
        let kind = kind.as_str().unwrap();
        if results[id] == true {
            *passed.entry(kind).or_insert(0) += 1;
        } else if kind != "check" {
            failed.push(format!("{kind} {id}: {}", results[id]));
        }
    }
    failed.sort();
    println!("passed: {passed:?}, failed:\n{}", failed.join("\n"));
    assert!(
        passed["required"] >= REQUIRED_MIN && passed["optimal"] >= OPTIMAL_MIN,
        "{passed:?}: {failed:#?}"
    );
}

/// Of 165 tests of this version of the suite.
const REQUIRED_MIN: i32 = 155;
/// Of 95; five store parts, most of them with a Content-Range that is not their content's.
const OPTIMAL_MIN: i32 = 85;

/// Asks a node for a path of a cacheable application.
async fn ask(node: &Node, path: &str) -> (String, Value) {
    let answer = client::get(node.public(), "a.example", path).await.unwrap();
    assert_eq!(answer.status, 200);
    (answer.header("cache-status").to_owned(), serde_json::from_slice(&answer.body).unwrap_or(Value::Null))
}

#[tokio::test]
async fn nothing_is_kept_that_its_origin_does_not_want_kept() {
    let upstream = Upstream::start("web").await;
    let node = Node::start(&one_region(&[&upstream], "[cache]\npools = [\"web\"]\n")).await;
    for _ in 0..2 {
        let (status, _) = ask(&node, "/x").await;
        assert_eq!(status, "portolan; fwd=uri-miss; detail=no-lifetime");
    }
    assert_eq!(upstream.requests(), 2);
    let mut client = Client::connect(node.public(), "a.example").await.unwrap();
    let request = Request::get("/x").header("cache-control", "only-if-cached");
    assert_eq!(client.send(request, Bytes::new()).await.unwrap().status, 504);
    let metrics = node.ask_plain("GET", "/api/v1/metrics", Value::Null).await.unwrap().text();
    assert!(metrics.contains("portolan_cache_total{what=\"refused\"} 2"), "{metrics}");
}

#[tokio::test]
async fn what_is_kept_is_taken_back() {
    let upstream = Upstream::start("web").await;
    let node = Node::start(&one_region(&[&upstream], "[cache]\npools = [\"web\"]\n")).await;
    let path = "/cacheable/x";
    let kept = async |node: &Node| {
        let before = upstream.requests();
        let (status, told) = ask(node, path).await;
        assert_eq!(told["name"], "web");
        (status, upstream.requests() == before)
    };
    assert_eq!(kept(&node).await, ("portolan; fwd=uri-miss; stored".to_owned(), false));
    until("it is stored", async || kept(&node).await.1).await;
    let said = good(node.folder(), &["purge", "http://a.example/cacheable/x"]).await;
    assert!(said.starts_with("taken back on this node: 1 "), "{said}");
    assert!(!kept(&node).await.1, "asked again");
    for order in [
        json!({ "tags": ["web"], "hard": true }),
        json!({ "prefixes": ["a.example/cacheable/"] }),
        json!({ "sites": ["A.example"] }),
        json!({ "all": true }),
    ] {
        until("it is stored", async || kept(&node).await.1).await;
        let done = node.ask("POST", "/api/v1/cache/purge", order.clone()).await.unwrap();
        assert_eq!(done["targets"], 1);
        assert!(!kept(&node).await.1, "{order}");
    }
    assert!(good(node.folder(), &["events", "--types", "cache-purged"]).await.contains("cache-purged"));
}

/// Asks for large contents until a node is killed in the midst of it. Each line of a content is the number of the question that the
/// application answered: whatever a later node gives has one number, or was not whole when its client was told that it ended.
#[tokio::test]
async fn a_killed_node_never_gives_a_mixture() {
    const KILLS: u64 = 12;
    const LINES: u64 = 20_000;
    let upstream = Upstream::start("web").await;
    let more = "[cache]\npools = [\"web\"]\ndisk_bytes = 8000000\n";
    let mut node = Node::start(&one_region(&[&upstream], more)).await;
    let mut whole = 0;
    for kill in 0..KILLS {
        let address = node.public();
        let asking = (0..6).map(|start| async move {
            let mut whole = 0;
            for round in 0..50 {
                let path = format!("/cacheable/lines/{LINES}/{}", (start + round) % 7);
                let Ok(answer) = client::get(address, "a.example", &path).await else { break };
                let text = answer.text();
                let first = text.lines().next().unwrap();
                assert!(text.lines().all(|line| line == first), "{path} is a mixture");
                assert_eq!(text.lines().count() as u64, LINES);
                whole += 1;
            }
            whole
        });
        let killing = async {
            tokio::time::sleep(std::time::Duration::from_millis(20 + 37 * kill)).await;
            node.signal(rustix::process::Signal::KILL);
        };
        let (counts, ()) = tokio::join!(futures_util::future::join_all(asking), killing);
        whole += counts.into_iter().sum::<u64>();
        node = node.restarted(&[]).await;
    }
    println!("{whole} whole contents, {} questions", upstream.requests());
    assert!(whole > upstream.requests(), "some came from the cache");
}
