//! Rollouts: several nodes on one store, a version on trial, and clients who notice nothing, whatever it does.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use portolan_foundation::task;
use portolan_tests::client::Client;
use portolan_tests::guests::{Guest, responding, with_section};
use portolan_tests::node::{self, Node, run};
use portolan_tests::until;
use portolan_tests::upstream::Upstream;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Tenants that ask: enough to tell that a part of them is on trial.
const TENANTS: usize = 40;
/// A good policy: one dynamic rule, whose answers all are 200.
const GOOD: Guest<'static> = Guest::deciding("(i32.const 1)");
/// Traps on one request in sixteen, by the request's own number: a pure function all the same.
const TRAPS: Guest<'static> = Guest::deciding(
    "(if (i64.eqz (i64.and (local.get $seed) (i64.const 15))) (then (unreachable))) (i32.const 1)",
);
/// Never ends on one request in sixteen.
const SLOW: Guest<'static> = Guest::deciding(
    "(if (i64.eqz (i64.and (local.get $seed) (i64.const 15))) (then (loop $again (br $again)))) (i32.const 1)",
);
/// Plans with the configuration of the slot, and with no other.
const BROKEN: Guest<'static> = Guest {
    plan: "(if (i32.ne (local.get $length) (i32.const 2)) (then (unreachable))) (call $ask)",
    ..GOOD
};

/// Nodes that follow one store.
struct Cluster {
    nodes: Vec<Node>,
    place: TempDir,
    _upstream: Upstream,
    /// The digests of the versions that were pushed, by their names.
    versions: BTreeMap<&'static str, String>,
}

fn folder(name: &str, place: &Path) -> TempDir {
    node::folder(&format!(
        "[node]\nname = \"{name}\"\nregion = \"here\"\nthreads = 1\n[listen]\npublic = [\"127.0.0.1:0\"]\n\
         [policies]\ninstances = 100\n[control]\nsqlite = {:?}\n",
        place.join("store/control.db")
    ))
}

/// Runs a command in a folder; gives its exit code and all that it said.
async fn says(folder: &Path, arguments: &[&str]) -> (i32, String) {
    let output = run(folder, arguments).await;
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), text.into_owned())
}

impl Cluster {
    /// Starts nodes whose operator's slot is pinned to `good`, with all other versions pushed.
    async fn start(names: &[&str]) -> Self {
        let (place, upstream) = (tempfile::tempdir().unwrap(), Upstream::start("web").await);
        std::fs::create_dir(place.path().join("store")).unwrap();
        let mut folders: Vec<TempDir> = names.iter().map(|name| folder(name, place.path())).collect();
        let first = folders[0].path();
        let text = format!(
            "[expose]\ndecision = true\n[tenants]\nsources = [{{ host_suffix = \".apps.test\" }}]\n\
             [region.here.pool.web]\nendpoints = [\"{}\"]\n[policy]\nuse = \"mine\"\n",
            upstream.address
        );
        std::fs::write(first.join("conf.d/all.toml"), text).unwrap();
        let (code, text) = says(first, &["apply"]).await;
        assert_eq!(code, 0, "{text}");
        let mut versions = BTreeMap::new();
        let components = [
            ("good", GOOD.component()),
            ("better", with_section(GOOD.component(), "note", b"better")),
            ("traps", TRAPS.component()),
            ("slow", SLOW.component()),
            ("broken", BROKEN.component()),
            ("other", responding("other")),
        ];
        for (name, component) in components {
            std::fs::write(first.join("pushed.wasm"), component).unwrap();
            let (code, text) = says(first, &["plugin", "push", "mine", "pushed.wasm", "--json"]).await;
            assert_eq!(code, 0, "{text}");
            let told: Value = serde_json::from_str(&text).unwrap();
            versions.insert(name, told["version"].as_str().unwrap().to_owned());
        }
        let pinned = format!("mine@{}", versions["good"]);
        let (code, text) = says(first, &["rollout", "pin", "operator", &pinned]).await;
        assert!(code == 0 && text.contains("undo: portolan rollout unpin operator && portolan rollout rollback operator --to mine@file"), "{text}");
        let mut nodes = Vec::new();
        for folder in folders.drain(..) {
            nodes.push(Node::start_in(folder).await);
        }
        Self { nodes, place, _upstream: upstream, versions }
    }

    /// `portolan rollout ...` that must succeed; gives what `--json` tells.
    async fn rollout(&self, arguments: &[&str]) -> Value {
        let arguments = [&["rollout"], arguments, &["--json"]].concat();
        let (code, text) = says(self.nodes[0].folder(), &arguments).await;
        assert_eq!(code, 0, "{arguments:?}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// `portolan rollout ...` that must be refused with these words.
    async fn refused(&self, arguments: &[&str], because: &str) {
        let arguments = [&["rollout"], arguments].concat();
        let (code, text) = says(self.nodes[0].folder(), &arguments).await;
        assert!(code > 1 && text.contains(because), "{arguments:?}: {code} {text}");
    }

    /// Types the commands that a reply printed to take it back.
    async fn undo(&self, told: &Value) -> Value {
        let mut last = Value::Null;
        for line in told["undo"].as_array().unwrap() {
            let words: Vec<&str> = line.as_str().unwrap().split(' ').collect();
            assert_eq!(words[..2], ["portolan", "rollout"]);
            last = self.rollout(&words[2..]).await;
        }
        last
    }

    async fn status(&self) -> (i32, Value) {
        let (code, text) = says(self.nodes[0].folder(), &["rollout", "status", "operator", "--json"]).await;
        let views: Value = serde_json::from_str(&text).map_err(|_| text).unwrap();
        (code, views[0].clone())
    }

    fn version(&self, name: &str) -> String {
        format!("mine@{}", self.versions[name])
    }

    fn short(&self, name: &str) -> &str {
        self.versions[name].get(..12).unwrap()
    }

    /// Waits until every node answers every tenant by one version, and no rollout is live.
    async fn all_answer_by(&self, name: &str) {
        until(name, async || {
            for node in &self.nodes {
                if !sides(node)
                    .await
                    .iter()
                    .all(|(side, version)| side.is_empty() && version == self.short(name))
                {
                    return false;
                }
            }
            true
        })
        .await;
    }

    /// Waits until every node gives every tenant the same side; gives the sides, with so many on trial at least.
    async fn sides(&self, on_trial: impl Fn(usize) -> bool) -> Vec<String> {
        let found = RefCell::new(Vec::new());
        until("the sides", async || {
            let mut all = Vec::new();
            for node in &self.nodes {
                all.push(sides(node).await.into_iter().map(|(side, _)| side).collect::<Vec<_>>());
            }
            let first = all.swap_remove(0);
            let done = all.iter().all(|sides| *sides == first)
                && on_trial(first.iter().filter(|side| *side == "candidate").count());
            found.replace(first);
            done
        })
        .await;
        found.into_inner()
    }
}

/// Each tenant's side and version on a node; the side is empty where nothing is on trial.
async fn sides(node: &Node) -> Vec<(String, String)> {
    let mut sides = Vec::new();
    for tenant in 0..TENANTS {
        let mut client = Client::connect(node.public(), &format!("t{tenant}.apps.test")).await.unwrap();
        let answer = client.get("/").await.unwrap();
        assert_eq!(answer.status, 200);
        let field = |name| answer.header(name).to_owned();
        sides.push((field("portolan-policy-side"), field("portolan-policy-version")));
    }
    sides
}

/// Clients who ask all nodes without pause, until they are stopped.
struct Load {
    asked: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<Option<()>>>,
}

impl Load {
    fn on(nodes: &[Node]) -> Self {
        let mut load =
            Self { asked: Arc::default(), failed: Arc::default(), stop: Arc::default(), tasks: Vec::new() };
        for (number, node) in nodes.iter().enumerate() {
            // Others at each node: of so many, some are on trial, whatever is drawn.
            for tenant in number * 8..(number + 1) * 8 {
                let address = node.public();
                let (asked, failed, stop) =
                    (Arc::clone(&load.asked), Arc::clone(&load.failed), Arc::clone(&load.stop));
                load.tasks.push(task::spawn("load", async move {
                    let mut client = Client::connect(address, &format!("t{tenant}.apps.test")).await.unwrap();
                    while !stop.load(Ordering::Relaxed) {
                        let good = client.get("/").await.is_ok_and(|answer| answer.status == 200);
                        asked.fetch_add(1, Ordering::Relaxed);
                        failed.fetch_add(u64::from(!good), Ordering::Relaxed);
                        // Two processors are shared with the nodes.
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                }));
            }
        }
        load
    }

    /// Stops it; gives how many were asked, and how many of those failed.
    async fn end(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        (self.asked.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }
}

#[tokio::test]
async fn a_version_goes_from_canary_to_all_and_back_under_load() {
    let mut cluster = Cluster::start(&["one", "two", "three"]).await;
    cluster.all_answer_by("good").await;
    let (good, better) = (cluster.version("good"), cluster.version("better"));

    // What may not be is refused with what to do.
    cluster.refused(&["start", "operator", &better], "the slot is pinned to version").await;
    let told = cluster.rollout(&["unpin", "operator"]).await;
    assert_eq!(told["undo"], json!([format!("portolan rollout pin operator {good}")]));
    let pinned = cluster.undo(&told).await;
    assert_eq!((&pinned["pinned"], &pinned["stable"]), (&json!(true), &json!(cluster.versions["good"])));
    cluster.rollout(&["unpin", "operator"]).await;
    cluster
        .refused(
            &["start", "operator", "mine@abcdefabcdef"],
            "the store has no version `abcdefabcdef` of mine",
        )
        .await;
    cluster.refused(&["start", "operator", &good], "runs in this slot already").await;
    cluster.refused(&["start", "op", &better], "`op` is no slot that you may see").await;
    cluster
        .refused(
            &["start", "tenant.acme", &better],
            "no policy is configured in this slot: write `[tenant.acme.policy]`",
        )
        .await;
    cluster.refused(&["promote", "operator"], "nothing is on trial in this slot").await;
    let (code, _) =
        says(cluster.nodes[0].folder(), &["rollout", "start", "operator", &better, "--canary", "100"]).await;
    assert_eq!(code, 64);

    // A canary: a tenant has the same side everywhere, after a restart as well.
    let load = Load::on(&cluster.nodes[..2]);
    let started = cluster.rollout(&["start", "operator", &better, "--canary", "50", "-m", "try it"]).await;
    assert_eq!((&started["phase"], &started["percent"]), (&json!("canary"), &json!(50)));
    cluster.refused(&["start", "operator", &better], "is on trial in this slot (canary)").await;
    let half = cluster.sides(|on_trial| (8..=32).contains(&on_trial)).await;
    let last = cluster.nodes.pop().unwrap().restarted(&[]).await;
    cluster.nodes.push(last);
    assert_eq!(cluster.sides(|on_trial| on_trial > 0).await, half);
    let (_, explained) =
        says(cluster.nodes[0].folder(), &["explain", "GET", "http://t0.apps.test/", "--json"]).await;
    let explained: Value = serde_json::from_str(&explained).unwrap();
    assert_eq!(explained["policies"][0]["side"], half[0]);

    // Evidence of all nodes comes together.
    until("evidence of all nodes", async || {
        let (code, status) = cluster.status().await;
        code == 0
            && status["now"]["nodes"].as_array().is_some_and(|nodes| nodes.len() == 3)
            && status["now"]["candidate"]["decisions"].as_u64() > Some(0)
    })
    .await;
    let metrics = cluster.nodes[0].ask_plain("GET", "/api/v1/metrics", Value::Null).await.unwrap().text();
    let id = started["id"].as_str().unwrap();
    assert!(
        metrics.contains(&format!("portolan_rollout_weight{{slot=\"operator\",rollout=\"{id}\"}} 50")),
        "{metrics}"
    );
    assert!(metrics.contains("portolan_rollout_lanes 1"));

    // Paused and resumed, grown and shrunk, by the commands that each reply prints.
    let paused = cluster.rollout(&["pause", "operator"]).await;
    cluster.sides(|on_trial| on_trial == 0).await;
    cluster.undo(&paused).await;
    assert_eq!(cluster.sides(|on_trial| on_trial > 0).await, half);
    let grown = cluster.rollout(&["promote", "operator", "--percent", "90"]).await;
    let more = cluster.sides(|on_trial| on_trial > 25).await;
    assert!(
        half.iter().zip(&more).all(|(before, after)| before == "stable" || after == "candidate"),
        "nobody goes back"
    );
    cluster.undo(&grown).await;
    assert_eq!(cluster.sides(|on_trial| on_trial <= 32).await, half);

    // For all, and back at once.
    let promoted = cluster.rollout(&["promote", "operator", "--full"]).await;
    assert_eq!(promoted["undo"], json!([format!("portolan rollout rollback operator --to {good}")]));
    cluster.all_answer_by("better").await;
    let back = cluster.rollout(&["rollback", "operator", "-m", "not better at all"]).await;
    cluster.all_answer_by("good").await;
    assert_ne!(back["id"], promoted["id"], "a rollback is a rollout of its own");
    cluster.refused(&["rollback", "operator"], "it is rolled back already").await;
    cluster.undo(&back).await;
    cluster.all_answer_by("better").await;
    let (asked, failed) = load.end().await;
    assert!(asked > 100 && failed == 0, "{failed} of {asked} failed");

    // All of it is in the history, with its words.
    let (_, text) = says(cluster.nodes[0].folder(), &["rollout", "status"]).await;
    assert!(text.contains("rollback by") && text.contains("not better at all"), "{text}");
    let (_, text) = says(cluster.nodes[0].folder(), &["generations", "-n", "3"]).await;
    assert!(text.contains("by rollout"), "{text}");
}

#[tokio::test]
async fn a_shadow_says_whom_it_would_answer_otherwise() {
    let cluster = Cluster::start(&["one", "two"]).await;
    cluster.rollout(&["unpin", "operator"]).await;
    cluster.rollout(&["start", "operator", &cluster.version("other"), "--shadow"]).await;
    let asks = async |node: &Node, tenant: &str, path: &str| {
        let mut client = Client::connect(node.public(), &format!("{tenant}.apps.test")).await.unwrap();
        assert_eq!(client.get(path).await.unwrap().status, 200);
    };
    let seen = RefCell::new(Value::Null);
    // All nodes' together, by where requests went and whose they were.
    until("the differences of both nodes", async || {
        asks(&cluster.nodes[0], "t0", "/orders/1").await;
        asks(&cluster.nodes[1], "t1", "/orders/2").await;
        asks(&cluster.nodes[1], "t1", "/carts").await;
        let (code, status) = cluster.status().await;
        assert_eq!(code, 0, "{status}");
        let found = |pointer: &str| status.pointer(pointer).and_then(Value::as_u64) > Some(0);
        let all =
            found("/differences/tenants/t0/other-target") && found("/differences/tenants/t1/other-target");
        seen.replace(status);
        all
    })
    .await;
    let status = seen.into_inner();
    let differences = &status["differences"];
    let (total, of) = (&differences["counts"]["other-target"], |way: &str, name: &str| {
        differences[way][name]["other-target"].as_u64()
    });
    let routes = of("routes", "/orders").unwrap_or(0) + of("routes", "/carts").unwrap_or(0);
    assert_eq!(Some(routes), total.as_u64(), "{differences}");
    assert_eq!(of("regions", "here"), total.as_u64(), "{differences}");
    let (_, text) = says(cluster.nodes[0].folder(), &["rollout", "status"]).await;
    for line in ["differs by route /orders: ", "differs by tenant t1: ", "differs by region here: "] {
        assert!(text.contains(line), "{line}: {text}");
    }
    // Promoted to a canary it is no shadow, and nothing is told of one.
    cluster.rollout(&["promote", "operator", "--percent", "10"]).await;
    until("the end of the shadow", async || cluster.status().await.1.get("differences").is_none()).await;
}

#[tokio::test]
async fn a_bad_candidate_is_taken_back_by_itself_and_nobody_notices() {
    let cluster = Cluster::start(&["one", "two", "three"]).await;
    cluster.rollout(&["unpin", "operator"]).await;
    let load = Load::on(&cluster.nodes);
    let failed = ("traps", "decisions failed; 1 of 1000 may");
    for (name, grounds) in [
        ("traps", vec![failed]),
        // Its breaker opens soon, and what finds it open failed: which share is past its limit first is chance.
        ("slow", vec![("overruns", "ran past their limit of time"), failed]),
        ("broken", vec![("refused", "it cannot run: refused at plan")]),
    ] {
        let version = cluster.version(name);
        let mut start = vec!["start", "operator", &version, "--canary", "50", "--min-decisions", "60"];
        if name == "broken" {
            start.extend(["--policy-config", "{\"a\":1}"]);
        }
        cluster.rollout(&start).await;
        let seen = RefCell::new(Value::Null);
        until(name, async || {
            let (code, now) = cluster.status().await;
            let aborted = now["phase"] == "aborted";
            seen.replace(now);
            code == 2 && aborted
        })
        .await;
        let status = seen.into_inner();
        let sheet = &status["evidence"];
        assert_eq!(sheet["verdict"]["is"], "bad", "{status}");
        let reasons = sheet["verdict"]["reasons"].to_string();
        let is_ground = |(reason, _): &&(&str, &str)| reasons.contains(&format!("\"reason\":\"{reason}\""));
        let ground = grounds.iter().find(is_ground);
        assert!(ground.is_some(), "{reasons}");
        let (_, says_so) = ground.unwrap();
        assert!(sheet["limits"]["min_decisions"] == 60, "{sheet}");
        let entry = status["history"].as_array().unwrap().last().unwrap();
        assert_eq!(entry["what"], "abort");
        assert!(entry["author"].as_str().unwrap().starts_with("node "), "{entry}");
        if name != "broken" {
            assert!(sheet["candidate"]["decisions"].as_u64() >= Some(60), "{sheet}");
            assert!(!sheet["nodes"].as_array().unwrap().is_empty(), "{sheet}");
        }
        let (code, text) = says(cluster.nodes[0].folder(), &["rollout", "status"]).await;
        assert!(code == 2 && text.contains("ROLLED BACK") && text.contains(says_so), "{text}");
        cluster.all_answer_by("good").await;
    }
    let (asked, failed) = load.end().await;
    assert!(asked > 200 && failed == 0, "{failed} of {asked} failed");
    // One commit for each, however many nodes found it.
    let (_, status) = cluster.status().await;
    let aborts =
        status["history"].as_array().unwrap().iter().filter(|entry| entry["what"] == "abort").count();
    assert_eq!(aborts, 3, "{status}");
}

#[tokio::test]
async fn without_its_store_a_node_takes_a_bad_candidate_off_by_itself() {
    let cluster = Cluster::start(&["one"]).await;
    let node = &cluster.nodes[0];
    cluster.rollout(&["unpin", "operator"]).await;
    let version = cluster.version("traps");
    cluster.rollout(&["start", "operator", &version, "--canary", "99", "--min-decisions", "200"]).await;
    cluster.sides(|on_trial| on_trial > 0).await;
    let (store, away) = (cluster.place.path().join("store"), cluster.place.path().join("away"));
    std::fs::rename(&store, &away).unwrap();
    until("the loss", async || node.status().await["control"]["health"]["is"] == "away").await;
    let load = Load::on(&cluster.nodes);
    until("the verdict", async || {
        node.status().await["rollouts"][0]["stopped"]
            .as_str()
            .is_some_and(|reason| reason.contains("decisions failed"))
    })
    .await;
    cluster.sides(|on_trial| on_trial == 0).await;
    let (code, text) = says(node.folder(), &["status"]).await;
    assert!(code == 2 && text.contains("TAKEN OFF HERE"), "{text}");
    let (asked, failed) = load.end().await;
    assert!(asked > 100 && failed == 0, "{failed} of {asked} failed");

    // When the store is back it hears of it.
    std::fs::rename(&away, &store).unwrap();
    until("the abort", async || {
        let (code, text) = says(node.folder(), &["rollout", "status", "--json"]).await;
        code == 2 && text.contains("\"phase\": \"aborted\"")
    })
    .await;
    cluster.all_answer_by("good").await;
}
