//! Decisions that were recorded are explained, decided again, and compared: the same policy says the same, and one that does
//! not is caught.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::Request;
use portolan_core::attribute::{Attribute, Attributes, Value};
use portolan_core::balance::splitmix;
use portolan_core::decide::{FailRule, ask};
use portolan_core::facts::{Facts, RegionFacts, Verdict};
use portolan_core::ids::{Generation, PolicyName, PoolName, RegionName};
use portolan_core::lane::Slot;
use portolan_core::recording::{Binding, DecisionId, Outcome, Picture, Recorded, SlotDecision};
use portolan_core::snapshot::Policy;
use portolan_foundation::random;
use portolan_policy::{Again, Compile, Config, Engine, Limits, Replay, Replayed};
use portolan_tests::client::Client;
use portolan_tests::guests::{Guest, responding};
use portolan_tests::node::{self, Node};
use portolan_tests::until;
use portolan_tests::upstream::Upstream;
use serde_json::Value as Json;

use crate::one_region;

const RECORD_ALL: &str = "[recordings]\nsample_permille = 1000\n";

fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("target")
}

/// An engine for deciding again. Compiled code is kept beside the guests: large ones take their time.
fn engine() -> Engine {
    // A Python policy is larger than what every operator takes.
    let mut limits = Limits::standard();
    limits.component_bytes_max = 64 << 20;
    limits.decide_memory_bytes_max = limits.plan_memory_bytes_max;
    let config = Config {
        cache_bytes_max: 1 << 30,
        cache_dir: Some(target().join("guests/compiled")),
        compile: Compile::InProcess,
        data_threads: NonZeroUsize::MIN,
        limits,
        pool_slots: NonZeroU32::MIN,
    };
    Engine::new(config.for_replay(NonZeroUsize::new(2).unwrap())).unwrap()
}

fn facts() -> Arc<Facts> {
    let name = |text: &str| RegionName::new(text).unwrap();
    let pools: BTreeSet<_> = ["a", "b", "c"].map(|pool| PoolName::new(pool).unwrap()).into();
    let region = |verdict| RegionFacts { pools: pools.clone(), verdict };
    Arc::new(Facts {
        local: name("eu"),
        latency_us: BTreeMap::from([((name("eu"), name("us")), 80_000), ((name("eu"), name("ap")), 200_000)]),
        now_ms: 1_700_000_000_000,
        regions: BTreeMap::from([
            (name("eu"), region(Verdict::Healthy)),
            (name("us"), region(Verdict::Healthy)),
            (name("ap"), region(Verdict::Suspect)),
        ]),
        residencies: BTreeMap::from([("eu-only".parse().unwrap(), BTreeSet::from([name("eu")]))]),
        seed: 11,
    })
}

/// A request drawn from a seed.
struct Drawn(BTreeMap<Attribute, String>);

impl Drawn {
    fn new(mut word: u64) -> Self {
        let mut draw = |texts: &[&str]| {
            word = splitmix(word);
            let text = texts[usize::try_from(word % texts.len() as u64).unwrap()];
            (!text.is_empty()).then(|| text.to_owned())
        };
        let users: Vec<String> = (0..50).map(|user| format!("user-{user}")).collect();
        let mut users: Vec<&str> = users.iter().map(String::as_str).collect();
        users.push("");
        let all = [
            ("host", draw(&["acme.apps.test", "b.test", "c.test"])),
            ("path", draw(&["/", "/orders", "/orders/7", "/admin/users", "/api/v1/x"])),
            ("method", draw(&["GET", "POST", "PUT"])),
            ("scheme", draw(&["http", "https"])),
            ("tenant", draw(&["acme", "globex", "initech", ""])),
            ("tenant.residency", draw(&["eu-only", "", ""])),
            ("client.country", draw(&["DE", "US", "JP", ""])),
            ("client.region", draw(&["eu", "us", "ap", ""])),
            ("client.ip", draw(&["10.0.0.1", "192.0.2.7", "2001:db8::1"])),
            ("region", Some("eu".to_owned())),
            ("header:x-user", draw(&users)),
            ("header:x-canary", draw(&["1", "", ""])),
            ("cookie:session", draw(&users)),
        ];
        let named = |(name, text): (&str, Option<String>)| Some((Attribute::parse(name).unwrap(), text?));
        Self(all.into_iter().filter_map(named).collect())
    }
}

impl Attributes for Drawn {
    fn value(&self, attribute: &Attribute) -> Value<'_> {
        self.0.get(attribute).map_or(Value::Absent, |text| Value::Text(text))
    }
    fn client_ip(&self) -> IpAddr {
        self.0[&Attribute::ClientIp].parse().unwrap()
    }
}

/// Has a policy decide drawn requests, and keeps that as a node would: as text.
fn record(policy: &Arc<Policy>, count: u64, seed: u64) -> (Vec<Vec<u8>>, Arc<Binding>) {
    let binding = Arc::new(Binding {
        name: "bound".into(),
        slot: Slot::Operator,
        policy: policy.name.clone(),
        digest: policy.digest,
        config: Arc::clone(&policy.config),
        facts: Arc::clone(&policy.facts),
        on_fail: policy.on_fail,
    });
    let one = |number: u64| {
        let word = splitmix(seed.wrapping_add(number));
        let (request, at_ms) = (Drawn::new(word), 1_700_000_000_000 + number);
        let asked = ask(&policy.table, &*policy.decider, &request, word, at_ms);
        let mut said = SlotDecision::of(policy, Slot::Operator, asked.as_ref());
        said.binding = binding.name.clone();
        let recorded = Recorded {
            id: DecisionId { at_ms, number },
            generation: Generation(1),
            picture: Picture::take(&request, policy.table.attributes(), at_ms, word),
            slots: vec![said],
            outcome: Outcome::default(),
        };
        serde_json::to_vec(&recorded).unwrap()
    };
    ((0..count).map(one).collect(), binding)
}

/// Decides a recording again with a component, on an engine of its own, as after a restart.
fn again(recording: &[Vec<u8>], binding: &Arc<Binding>, component: &[u8]) -> Replayed {
    let engine = engine();
    let version = engine.load(component).unwrap();
    let replay = Replay {
        base: Again { version: None, config: None },
        candidate: Again { version: Some(version), config: None },
        engine,
        policy: binding.policy.clone(),
        threads: NonZeroUsize::new(2).unwrap(),
    };
    let fed = replay.run(|feed| -> Result<(), Infallible> {
        for text in recording {
            feed.put(serde_json::from_slice(text).unwrap(), |_| Some(Arc::clone(binding)));
        }
        Ok(())
    });
    fed.unwrap_or_else(|never| match never {})
}

fn policy(name: &str, component: &[u8], config: &str) -> Arc<Policy> {
    let engine = engine();
    let version = engine.load(component).unwrap();
    engine
        .policy(&version, &PolicyName::new(name).unwrap(), &config.into(), &facts(), FailRule::Previous)
        .unwrap()
}

#[test]
fn a_hundred_thousand_decisions_are_made_again_without_a_difference() {
    let seed = random::u64();
    println!("seed {seed}");
    let bundled = |name: &str| target().join("policies").join(format!("{name}.wasm"));
    let guest = |name: &str| target().join("guests").join(format!("{name}.wasm"));
    let all = [
        (bundled("dynamic-example"), r#"{"pools":["a","b","c"]}"#, 20_000),
        (bundled("header-canary"), r#"{"canary":"b","stable":"a"}"#, 15_000),
        (bundled("nearest-region"), r#"{"pool":"a"}"#, 15_000),
        (bundled("residency"), r#"{"pool":"a"}"#, 15_000),
        (bundled("sticky-tenant"), r#"{"pool":"a"}"#, 15_000),
        (
            bundled("weighted"),
            r#"{"shares":[{"pool":"a","percent":70},{"pool":"b","percent":30}],"sticky":"cookie:session"}"#,
            15_000,
        ),
        (guest("c"), "{}", 5_000),
        (guest("javascript"), "{}", 5_000),
        (guest("python"), "{}", 5_000),
    ];
    let (mut total, mut answers) = (0, BTreeSet::new());
    for (path, config, count) in all {
        let component = std::fs::read(&path);
        let component = component
            .unwrap_or_else(|error| panic!("{}: {error}: `cargo xtask test` builds it", path.display()));
        let name = path.file_stem().unwrap().to_str().unwrap();
        let (recording, binding) = record(&policy(name, &component, config), count, seed);
        let Replayed { report, decisions, .. } = again(&recording, &binding, &component);
        assert_eq!(
            (report.counts.same, report.counts.total()),
            (count, count),
            "{name}, seed {seed}: {report:?}"
        );
        assert!(!report.impure && !report.exceeds(0), "{name}, seed {seed}");
        total += decisions;
        for text in recording.iter().take(1_000) {
            let recorded: Recorded = serde_json::from_slice(text).unwrap();
            answers.insert((name.to_owned(), recorded.slots[0].answer_text()));
        }
    }
    assert!(total >= 100_000, "{total}");
    assert!(answers.len() > 15, "not all the same: {answers:?}");
}

/// Counts its calls, and answers by the count: no function of what it is given.
const COUNTER: &str = "(global.set $calls (i32.add (global.get $calls) (i32.const 1)))
                       (i32.rem_u (global.get $calls) (i32.const 3))";

#[test]
fn a_policy_with_a_memory_is_caught_and_never_called_the_same() {
    let component = Guest::deciding(COUNTER).component();
    let (recording, binding) = record(&policy("counter", &component, "{}"), 5_000, 1);
    let Replayed { report, .. } = again(&recording, &binding, &component);
    assert!(report.impure, "{report:?}");
    assert_eq!((report.counts.same, report.counts.total()), (0, 5_000), "{report:?}");
    assert!(report.exceeds(1_000), "whatever the limit");
}

#[test]
fn what_a_candidate_needs_beyond_the_recording_is_not_comparable() {
    let path = target().join("policies/dynamic-example.wasm");
    let component = std::fs::read(path).unwrap();
    let config = r#"{"pools":["a","b"]}"#;
    let (recording, mut binding) = record(&policy("dynamic-example", &component, config), 500, 1);
    let other =
        Binding { config: r#"{"pools":["a","b"],"user_header":"x-other"}"#.into(), ..(*binding).clone() };
    binding = Arc::new(other);
    let Replayed { report, .. } = again(&recording, &binding, &component);
    assert_eq!((report.counts.not_comparable, report.counts.same), (500, 0), "{report:?}");
    assert_eq!(report.missing["header:x-other"], 500);
    let traps = Guest::deciding("(unreachable)").component();
    let Replayed { report, refusals, .. } = again(&recording, &binding, &traps);
    assert_eq!(report.counts.same, 0, "{report:?} {refusals:?}");
}

fn configured(upstream: &Upstream, more: &str) -> String {
    let mut text = one_region(&[upstream], more).replace("pool.web", "pool.a");
    text.push_str("[tenants]\nsources = [{ host_suffix = \".apps.test\" }]\n");
    for pool in ["b", "c"] {
        text.push_str(&format!("[region.here.pool.{pool}]\nendpoints = [\"{}\"]\n", upstream.address));
    }
    text
}

async fn cli(node: &Node, arguments: &[&str]) -> (i32, String) {
    let output = node::run(node.folder(), arguments).await;
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap_or(-1), text.into_owned())
}

async fn json(node: &Node, arguments: &[&str]) -> (i32, Json) {
    let output = node::run(node.folder(), arguments).await;
    let value = serde_json::from_slice(&output.stdout);
    assert!(value.is_ok(), "{value:?}: {}", String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap_or(-1), value.unwrap())
}

async fn send(node: &Node, count: u32, headers: &[(&str, &str)]) {
    for host in ["acme.apps.test", "globex.apps.test", "elsewhere.test"] {
        let mut client = Client::connect(node.public(), host).await.unwrap();
        for number in 0..count {
            let path = if number % 10 == 9 { "/admin/users" } else { "/orders/1" };
            let mut request = Request::get(path).header("x-user", format!("user-{number}"));
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            assert_eq!(client.send(request, bytes::Bytes::new()).await.unwrap().status, 200);
        }
    }
}

#[tokio::test]
async fn a_node_that_died_has_its_decisions_replayed_and_diffed() {
    let upstream = Upstream::start("web").await;
    let policy = "[policy]\nuse = \"dynamic-example\"\nconfig = { pools = [\"a\", \"b\", \"c\"] }\n";
    let node = Node::start(&configured(&upstream, &format!("{RECORD_ALL}{policy}"))).await;
    send(&node, 50, &[("authorization", "Bearer hunter2-secret")]).await;
    until("all are on disk", async || node.status().await["recordings"]["kept"] == 150).await;
    let (_, exported) = cli(&node, &["recordings", "export", "before.rec"]).await;
    until("the last are written", async || {
        cli(&node, &["recordings", "export", "before.rec"]).await.1.contains("150 decisions")
    })
    .await;
    assert!(exported.contains("decisions"), "{exported}");
    let node = node.restarted(&[]).await;
    send(&node, 10, &[]).await;
    until("the later ones are written", async || {
        cli(&node, &["recordings", "export", "all.rec"]).await.1.contains("180 decisions")
    })
    .await;

    for recording in [".portolan/recordings", "before.rec", "all.rec"] {
        let (code, told) = json(&node, &["replay", recording, "--policy", "dynamic-example", "--json"]).await;
        let expected = if recording == "before.rec" { 150 } else { 180 };
        assert_eq!((code, told["counts"]["same"].as_u64()), (0, Some(expected)), "{recording}: {told}");
        assert_eq!(told["counts"]["other-target"], 0);
    }
    let (code, told) = json(
        &node,
        &[
            "replay",
            "all.rec",
            "--policy",
            "dynamic-example",
            "--policy-config",
            "{\"pools\":[\"c\",\"b\",\"a\"]}",
            "--json",
        ],
    )
    .await;
    assert_eq!((code, told["exceeds-limit"].as_bool()), (2, Some(true)), "{told}");
    assert!(told["counts"]["other-target"].as_u64() > Some(50), "{told}");
    assert_eq!(told["tenants"]["acme"]["other-target"].as_u64().map(|count| count > 0), Some(true), "{told}");
    assert!(told["samples"]["other-target"].as_array().is_some_and(|ids| ids.len() == 10), "{told}");

    // Everything is turned away by the other version.
    node.write("closed.wasm", Guest::planning(CLOSED).component());
    let (code, text) =
        cli(&node, &["plugin", "diff", "dynamic-example", "closed.wasm", "--since", "1h", "--markdown"])
            .await;
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("| allow-to-reject | 180 |") && text.contains("| `/orders` |"), "{text}");
    let limit = ["plugin", "diff", "dynamic-example", "closed.wasm", "--since", "1h", "--limit", "1000"];
    assert_eq!(cli(&node, &limit).await.0, 0, "within the limit");
    let (code, text) = cli(&node, &["replay", "all.rec", "--policy", "weighted", "--as", "nobody"]).await;
    assert!(code == 1 && text.contains("no recorded decision is of this policy"), "{text}");

    let files: Vec<u8> = walk(&node.folder().join(".portolan"))
        .into_iter()
        .flat_map(|file| std::fs::read(file).unwrap_or_default())
        .collect();
    let holds = |text: &[u8]| files.windows(text.len()).any(|window| window == text);
    assert!(holds(b"user-7") && !holds(b"hunter2"), "what no policy looks at is not kept");
}

/// Answers 403 to everything.
const CLOSED: &str = "(call $respond (i32.const 403) (i32.const 19) (i32.const 10) (i32.const 0) (i32.const 4) (i32.const 1024))
                      (call $always (i32.load (i32.const 1028)))";

fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(walk(&path))
        } else if path.is_file() {
            files.push(path)
        }
    }
    files
}

#[tokio::test]
async fn whoever_has_a_word_is_told_the_id_and_may_ask_why() {
    let upstream = Upstream::start("web").await;
    let policy = "[policy]\nuse = \"mine\"\n";
    let recordings = "[recordings]\nsample_permille = 0\n";
    let folder = node::folder(&configured(&upstream, &format!("{recordings}{policy}")));
    std::fs::write(folder.path().join("policies/mine.wasm"), responding("one")).unwrap();
    let node = Node::start_in(folder).await;
    let word = |text: String| text.trim().to_owned();
    let (code, any) = cli(&node, &["token", "debug"]).await;
    assert_eq!(code, 0, "{any}");
    let (_, acme) = cli(&node, &["token", "debug", "--tenant", "acme", "--for", "5m"]).await;
    let (any, acme) = (word(any), word(acme));
    let mut ids = Vec::new();
    for (host, header, told) in [
        ("acme.apps.test", Some(&any), true),
        ("acme.apps.test", Some(&acme), true),
        ("globex.apps.test", Some(&acme), false),
        ("acme.apps.test", Some(&acme.replace("acme", "globex")), false),
        ("acme.apps.test", None, false),
    ] {
        let mut client = Client::connect(node.public(), host).await.unwrap();
        let mut request = Request::get("/orders");
        if let Some(word) = header {
            request = request.header("portolan-debug", word);
        }
        let answer = client.send(request, bytes::Bytes::new()).await.unwrap();
        let id = answer.headers.get("portolan-decision").map(|id| id.to_str().unwrap().to_owned());
        assert_eq!(id.is_some(), told, "{host} {header:?}");
        ids.extend(id);
    }
    let id = ids.remove(0);
    until("it is kept", async || node.status().await["recordings"]["kept"] == 2).await;
    node.write("policies/mine.wasm", responding("two"));
    node.after(1).await;
    let (code, text) = cli(&node, &["explain", "--id", &id]).await;
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("path: /orders") && text.contains("respond 200") && text.contains("=> 200"),
        "{text}"
    );
    assert!(text.contains("now, operator: mine") && text.contains("it was: other-target"), "{text}");
    let (code, text) = cli(&node, &["explain", "--id", "0000000000000000000000000000"]).await;
    assert!(code == 4 && text.contains("no decision"), "{code} {text}");
}

#[tokio::test]
async fn the_past_is_explained_by_what_ran_then() {
    let upstream = Upstream::start("web").await;
    let folder = node::folder(&configured(&upstream, &format!("{RECORD_ALL}[policy]\nuse = \"mine\"\n")));
    std::fs::write(folder.path().join("policies/mine.wasm"), Guest::planning(CLOSED).component()).unwrap();
    let node = Node::start_in(folder).await;
    until("what runs is written down", async || {
        cli(&node, &["recordings", "list", "--json"]).await.1.contains("begun_ms")
    })
    .await;
    let then = cli(&node, &["recordings", "list", "--json"]).await.1;
    let begun = serde_json::from_str::<Json>(&then).unwrap()[0]["begun_ms"].as_u64().unwrap();
    let written = begun + 1_500;
    until("time passes", async || portolan_foundation::clock::unix_ms() > written).await;
    node.write("policies/mine.wasm", responding("two"));
    node.after(1).await;
    let ago = portolan_foundation::clock::unix_ms() - (begun + 1_000);
    let explain = |at: String| {
        let node = &node;
        async move { cli(node, &["explain", "--at", &at, "GET", "http://acme.apps.test/orders"]).await }
    };
    let (code, text) = explain(format!("{ago}ms")).await;
    assert!(code == 0 && text.contains("respond 403") && text.contains("it knew: here healthy"), "{text}");
    until("the new one is written down", async || explain("0ms".to_owned()).await.1.contains("respond 200"))
        .await;
    let (code, text) = explain("9d".to_owned()).await;
    assert!(code == 1 && text.contains("nothing that is kept is as old"), "{text}");
}

#[tokio::test]
async fn failures_are_kept_whatever_is_drawn_and_nothing_without_the_section() {
    let upstream = Upstream::start("web").await;
    let gone = "[region.here.pool.gone]\nendpoints = [\"127.0.0.1:1\"]\n[policy]\nuse = \"weighted\"\nconfig = { shares = [{ pool = \"gone\", percent = 100 }] }\n";
    let node =
        Node::start(&configured(&upstream, &format!("[recordings]\nsample_permille = 0\n{gone}"))).await;
    let mut client = Client::connect(node.public(), "a").await.unwrap();
    let status = client.get("/x").await.unwrap().status.as_u16();
    assert!(status == 502 || status == 503, "{status}");
    until("it is kept", async || node.status().await["recordings"]["kept"] == 1).await;

    let node = Node::start(&configured(
        &upstream,
        "[policy]\nuse = \"weighted\"\nconfig = { shares = [{ pool = \"a\", percent = 100 }] }\n",
    ))
    .await;
    send(&node, 3, &[]).await;
    let stats = node.status().await["recordings"].clone();
    assert_eq!((stats["on"].as_bool(), stats["kept"].as_u64()), (Some(false), Some(0)), "{stats}");
    assert!(!node.folder().join(".portolan/recordings").exists());
}
