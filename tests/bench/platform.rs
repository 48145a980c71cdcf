//! What the platform costs: how long a change takes until every node runs it, a push until it serves, thousands of tenants'
//! own policies on one node, and what a hostile tenant does to its neighbour. Everything goes through public doors: the
//! program, its files, its sockets, its command line. Prints one JSON object; `cargo xtask bench platform` makes a table
//! of it.
//!
//! `cargo bench --bench platform -- many` measures that part alone, and `small` shrinks all numbers, for a try.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_precision_loss,
    clippy::indexing_slicing,
    reason = "a measurement that cannot be made is to fail, and its figures are far below 2^52"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use portolan_core::decide::{Call, Decide};
use portolan_core::facts::{Facts, RegionFacts, Verdict};
use portolan_core::ids::{PolicyName, PoolName, RegionName, TenantName};
use portolan_core::plan::RuleId;
use portolan_foundation::{clock, task};
use portolan_policy::{Compile, Config, Engine, Limits, Slot, SlotSpec, Slots, Source, Terms};
use portolan_tests::client::Client;
use portolan_tests::etcd::Cluster;
use portolan_tests::guests::{Guest, with_section};
use portolan_tests::node::{self, Node};
use portolan_tests::upstream::Upstream;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

const NODES: usize = 3;
/// Tenants of one file, so that no change is too large for a store.
const FILL: usize = 1_000;
/// How long a node with thousands of policies may take to start.
const LONG: Duration = Duration::from_secs(600);
/// Some 1,500,000 units of fuel: most of what a call may take.
const SPINS: &str = "(local $left i32) (local.set $left (i32.const 250000))
    (loop $again (local.set $left (i32.sub (local.get $left) (i32.const 1))) (br_if $again (local.get $left))) (i32.const 0)";
const GROWS: &str =
    "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) (unreachable)";
const FLOODS: &str = "(local $left i32) (local.set $left (i32.const 1000))
    (loop $again (call $line (i32.const 1) (i32.const 0) (i32.const 4))
        (local.set $left (i32.sub (local.get $left) (i32.const 1))) (br_if $again (local.get $left))) (i32.const 0)";

type Figures = Map<String, Value>;

/// How much of everything.
struct Size {
    changes: usize,
    changes_many: usize,
    hot: usize,
    neighbour: Duration,
    policies: Vec<usize>,
    pushes: usize,
    tenants: usize,
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|text| !text.starts_with('-')).collect();
    let small = arguments.iter().any(|argument| argument == "small");
    let size = if small {
        Size {
            changes: 10,
            changes_many: 3,
            hot: 50,
            neighbour: Duration::from_secs(3),
            policies: vec![50, 100],
            pushes: 2,
            tenants: 100,
        }
    } else {
        Size {
            changes: 200,
            changes_many: 30,
            hot: 1_000,
            neighbour: Duration::from_secs(20),
            policies: vec![1_000, 10_000],
            pushes: 10,
            tenants: 10_000,
        }
    };
    let wanted = |name: &str| {
        let mut parts = arguments.iter().filter(|argument| *argument != "small").peekable();
        parts.peek().is_none() || parts.any(|part| part == name)
    };
    let mut figures = Map::new();
    if wanted("generation") {
        let place = tempfile::tempdir().unwrap();
        let text = format!("[control]\nsqlite = {:?}\n", place.path().join("control.db"));
        generations("sqlite", &text, &size, &mut figures).await;
        let cluster = Cluster::start(3);
        let text = format!("[control.etcd]\nendpoints = {:?}\n", cluster.endpoints());
        generations("etcd", &text, &size, &mut figures).await;
    }
    if wanted("push") {
        pushes(&size, &mut figures).await;
    }
    if wanted("many") {
        for count in &size.policies {
            many(*count, &mut figures).await;
        }
        hot(size.hot, &mut figures);
    }
    if wanted("neighbour") {
        neighbours(&size, &mut figures).await;
    }
    println!("{}", json!({ "bench": "platform", "figures": figures }));
}

fn note(figures: &mut Figures, name: &str, figure: f64) {
    eprintln!("{name:56} {figure:>12.2}");
    figures.insert(name.to_owned(), json!(figure));
}

/// Numbers up to ten minutes of microseconds.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).unwrap()
}

/// The quantiles of a histogram, divided.
fn quantiles(figures: &mut Figures, name: &str, unit: &str, histogram: &Histogram<u64>, divisor: f64) {
    for (quantile, end) in [(0.5, "p50"), (0.99, "p99")] {
        note(
            figures,
            &format!("{name}.{end}_{unit}"),
            histogram.value_at_quantile(quantile) as f64 / divisor,
        );
    }
}

fn folder(name: &str, control: &str) -> TempDir {
    node::folder(&format!(
        "[node]\nname = \"{name}\"\nregion = \"here\"\nthreads = 1\n[listen]\npublic = [\"127.0.0.1:0\"]\n\
         [policies]\ninstances = 100\n{control}"
    ))
}

/// Applies what lies in a folder; gives the generation.
async fn apply(folder: &Path) -> u64 {
    let begun = Instant::now();
    loop {
        let output = node::run(folder, &["apply", "--json"]).await;
        if output.status.success() {
            let told: Value = serde_json::from_slice(&output.stdout).unwrap();
            return told["generation"].as_u64().unwrap();
        }
        // A cluster that has just begun elects first.
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(begun.elapsed() < Duration::from_secs(30), "{text}");
    }
}

/// Waits until a node runs a generation; gives how long after the change's time it did, in milliseconds.
async fn applied(node: &Node, generation: u64) -> u64 {
    loop {
        let control = node.status().await["control"].clone();
        if control["running"].as_u64() >= Some(generation) {
            return control["applied_after_ms"].as_u64().unwrap();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// From a change's own time until the last node runs it: nodes tell it themselves.
async fn generations(name: &str, control: &str, size: &Size, figures: &mut Figures) {
    let first = folder("node-0", control);
    let conf_d = first.path().join("conf.d");
    std::fs::write(conf_d.join("all.toml"), "[region.here.pool.web]\nendpoints = [\"127.0.0.1:9\"]\n")
        .unwrap();
    apply(first.path()).await;
    let mut nodes = vec![Node::start_in(first).await];
    for number in 1..NODES {
        nodes.push(Node::start_in(folder(&format!("node-{number}"), control)).await);
    }
    let few = changes(&nodes, size.changes).await;
    quantiles(figures, &format!("generation.{name}"), "ms", &few, 1.0);
    let conf_d = nodes[0].folder().join("conf.d");
    for start in (0..size.tenants).step_by(FILL) {
        let names = start..(start + FILL).min(size.tenants);
        let text: String = names.map(|number| format!("[tenant.t{number}]\n")).collect();
        std::fs::write(conf_d.join(format!("tenants-{start}.toml")), text).unwrap();
        let generation = apply(nodes[0].folder()).await;
        for node in &nodes {
            applied(node, generation).await;
        }
    }
    let many = changes(&nodes, size.changes_many).await;
    quantiles(figures, &format!("generation.{name}.with_tenants"), "ms", &many, 1.0);
}

async fn changes(nodes: &[Node], changes: usize) -> Histogram<u64> {
    let mut histogram = histogram();
    for number in 0..changes {
        // What differs is small, and each node has to look at all of it.
        let text = format!("[limits]\nbody_bytes = {}\n", 1_000_000 + number);
        std::fs::write(nodes[0].folder().join("conf.d/limits.toml"), text).unwrap();
        let generation = apply(nodes[0].folder()).await;
        for node in nodes {
            histogram.saturating_record(applied(node, generation).await.max(1));
        }
    }
    histogram
}

fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("target")
}

/// From the start of `plugin push` and `apply` until three processes serve the version. A new component is compiled by the
/// command and by each node; one that the nodes have run before comes from their caches.
async fn pushes(size: &Size, figures: &mut Figures) {
    let place = tempfile::tempdir().unwrap();
    let control = format!("[control]\nsqlite = {:?}\n", place.path().join("control.db"));
    let first = folder("node-0", &control);
    let region = "[region.here.pool.a]\nendpoints = [\"127.0.0.1:9\"]\n";
    std::fs::write(first.path().join("conf.d/all.toml"), region).unwrap();
    apply(first.path()).await;
    let mut nodes = vec![Node::start_in(first).await];
    for number in 1..NODES {
        nodes.push(Node::start_in(folder(&format!("node-{number}"), &control)).await);
    }
    let rust = target().join("policies/dynamic-example.wasm");
    let javascript = target().join("guests/javascript.wasm");
    for (name, path, config) in [("rust", rust, r#"{ pools = ["a"] }"#), ("javascript", javascript, "{}")] {
        let component = std::fs::read(&path).expect("`cargo xtask bench` builds it");
        let (mut fresh, mut cached) = (histogram(), histogram());
        for round in 0..size.pushes {
            let one = with_section(component.clone(), "round", format!("{name}-{round}").as_bytes());
            fresh.saturating_record(push(&nodes, name, &one, config).await);
            // Away from it, and back to it.
            let other = with_section(component.clone(), "round", b"other");
            push(&nodes, name, &other, config).await;
            cached.saturating_record(push(&nodes, name, &one, config).await);
        }
        quantiles(figures, &format!("push.{name}.new"), "ms", &fresh, 1_000.0);
        quantiles(figures, &format!("push.{name}.cached"), "ms", &cached, 1_000.0);
    }
}

/// Pushes a component and puts it to work; gives the microseconds until all nodes run it.
async fn push(nodes: &[Node], name: &str, component: &[u8], config: &str) -> u64 {
    let folder = nodes[0].folder();
    std::fs::write(folder.join("pushed.wasm"), component).unwrap();
    let begun = Instant::now();
    let output = node::run(folder, &["plugin", "push", name, "pushed.wasm", "--json"]).await;
    let told: Value = serde_json::from_slice(&output.stdout).expect("the push is taken");
    let version = told["version"].as_str().unwrap().to_owned();
    let policy = format!("[policy]\nuse = \"{name}\"\nversion = \"{version}\"\nconfig = {config}\n");
    std::fs::write(folder.join("conf.d/policy.toml"), policy).unwrap();
    apply(folder).await;
    for node in nodes {
        loop {
            let slot = node.status().await["configuration"]["slots"][0].clone();
            assert!(slot["refused"].is_null(), "{slot}");
            if slot["running"]["version"]["digest"] == version.as_str() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    u64::try_from(begun.elapsed().as_micros()).unwrap()
}

/// A small guest that is like no other: its own data, hence its own code, hash and artefact.
fn distinct(number: usize) -> Vec<u8> {
    let more = format!("(data (i32.const 9000) \"variant-{number:06}\")");
    let guest = Guest { plan: "(call $ask)", decide: Some("(i32.const 1)"), more: &more };
    guest.component()
}

fn many_text(count: usize) -> String {
    let slots: String =
        (0..count).map(|number| format!("[tenant.t{number}.policy]\nuse = \"t{number}\"\n")).collect();
    format!(
        "[node]\nregion = \"here\"\nthreads = 2\n[listen]\npublic = [\"127.0.0.1:0\"]\n[log]\nlevel = \"warn\"\n\
         [region.here.pool.web]\nendpoints = [\"127.0.0.1:9\"]\n\
         [tenants]\nsources = [{{ host_suffix = \".apps.test\" }}]\n{slots}"
    )
}

/// So many tenants on one node, each with a component of its own.
async fn many(count: usize, figures: &mut Figures) {
    let idle = Node::start(&many_text(0)).await;
    let idle_bytes = idle.resident_bytes();
    drop(idle);
    let folder = node::folder(&many_text(count));
    let begun = Instant::now();
    warm(folder.path(), count);
    eprintln!("{count} components were made and compiled in {:.1} s", begun.elapsed().as_secs_f64());
    let begun = Instant::now();
    let node = Node::start_within(folder, &[], LONG).await;
    let start_s = begun.elapsed().as_secs_f64();
    let status = node.status().await;
    let slots = status["configuration"]["slots"].as_array().unwrap();
    let running = slots.iter().filter(|slot| !slot["running"].is_null()).count();
    assert_eq!(running, count, "{:?}", slots.iter().find(|slot| slot["running"].is_null()));
    assert_eq!(status["engine"]["compiles"], 0, "all came from the cache");
    let planned = node.resident_bytes().saturating_sub(idle_bytes);
    // Each is asked once over HTTP, so that its memory is that of a policy at work.
    let latencies = ask_round(&node, count, 1).await;
    let asked = node.resident_bytes().saturating_sub(idle_bytes);
    note(figures, &format!("many.{count}.start_s"), start_s);
    note(figures, &format!("many.{count}.start_s_per_1000"), start_s * 1_000.0 / count as f64);
    note(figures, &format!("many.{count}.kib_each"), planned as f64 / 1_024.0 / count as f64);
    note(figures, &format!("many.{count}.kib_each_asked"), asked as f64 / 1_024.0 / count as f64);
    quantiles(figures, &format!("many.{count}.first_request"), "us", &latencies, 1.0);
    let again = ask_round(&node, count.min(1_000), 10).await;
    quantiles(figures, &format!("many.{count}.request_hot"), "us", &again, 1.0);
}

/// Writes the components, and fills the node's compile cache as an earlier start would have.
fn warm(folder: &Path, count: usize) {
    let engine = Engine::new(Config {
        cache_bytes_max: portolan_policy::defaults::CACHE_BYTES_MAX,
        cache_dir: Some(folder.join(".portolan/cache")),
        compile: Compile::InProcess,
        data_threads: NonZeroUsize::MIN,
        limits: Limits::standard(),
        pool_slots: NonZeroU32::new(64).unwrap(),
    })
    .unwrap();
    for number in 0..count {
        let component = distinct(number);
        engine.load(&component).expect("a good component");
        std::fs::write(folder.join(format!("policies/t{number}.wasm")), component).unwrap();
    }
}

/// One request for each of so many tenants, some rounds, over one connection; microseconds each.
async fn ask_round(node: &Node, tenants: usize, rounds: usize) -> Histogram<u64> {
    let mut histogram = histogram();
    let mut client = Client::connect(node.public(), "").await.unwrap();
    for round in 0..rounds {
        for step in 0..tenants {
            let tenant = (step * 7_919 + round) % tenants;
            client.host(&format!("t{tenant}.apps.test"));
            let begun = Instant::now();
            let answer = client.get("/").await.unwrap();
            histogram.saturating_record(u64::try_from(begun.elapsed().as_micros()).unwrap());
            assert_eq!(answer.text(), "here");
        }
    }
    histogram
}

/// One decision, with so many tenants asked in turn: the engine alone, as a data thread sees it.
fn hot(count: usize, figures: &mut Figures) {
    let mut limits = Limits::standard();
    // A measurement asks without pause, which no share of a thread allows.
    limits.guest_share_percent = 100;
    limits.tenant_share_percent = 100;
    for (name, resident_bytes) in [("fresh", limits.resident_bytes), ("warm", 0)] {
        limits.resident_bytes = resident_bytes;
        let engine = Engine::new(Config {
            cache_bytes_max: 0,
            cache_dir: None,
            compile: Compile::InProcess,
            data_threads: NonZeroUsize::MIN,
            limits: limits.clone(),
            pool_slots: NonZeroU32::new(10_000).unwrap(),
        })
        .unwrap();
        let region =
            RegionFacts { pools: BTreeSet::from([PoolName::new("web").unwrap()]), verdict: Verdict::Healthy };
        let here = RegionName::new("here").unwrap();
        let facts = Arc::new(Facts {
            local: here.clone(),
            latency_us: BTreeMap::new(),
            now_ms: 0,
            regions: BTreeMap::from([(here, region)]),
            residencies: BTreeMap::new(),
            seed: 1,
        });
        let spec = |number: usize| SlotSpec {
            candidate: None,
            config: "{}".into(),
            dynamic_granted: false,
            policy: PolicyName::new("measured").unwrap(),
            slot: Slot::Tenant(TenantName::new(&format!("t{number}")).unwrap()),
            source: Ok(Source::bytes(distinct(number))),
            terms: Terms::default(),
        };
        let specs: Vec<SlotSpec> = (0..count).map(spec).collect();
        let result = Slots::new(engine).reconcile(&specs, &facts, clock::now());
        let deciders: Vec<Arc<dyn Decide>> =
            result.policies.tenants.values().map(|lane| Arc::clone(&lane.stable.decider)).collect();
        assert_eq!(deciders.len(), count);
        let mut histogram = histogram();
        let values = [Some("acme")];
        for round in 0..count * 20 {
            let place = (round * 7_919) % count;
            let call = Call { rule: RuleId(0), now_ms: 1, seed: 2, values: &values, among: 3 };
            let begun = Instant::now();
            deciders[place].decide(&call).unwrap();
            let took = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
            // The first time each is asked its instance is made.
            if round >= count {
                histogram.saturating_record(took);
            }
        }
        quantiles(figures, &format!("hot.{count}.decide_{name}"), "ns", &histogram, 1.0);
    }
}

/// A neighbour's latency beside nobody, beside tenants that behave, and beside tenants that do not, at the same rate of
/// requests.
async fn neighbours(size: &Size, figures: &mut Figures) {
    let upstream = Upstream::start("web").await;
    let hostile = ["loops", "grows", "traps", "floods", "spin0", "spin1", "spin2", "spin3", "spin4", "spin5"];
    for (beside, is_hostile) in [("nobody", false), ("good_tenants", false), ("hostile_tenants", true)] {
        let slots: String = hostile
            .iter()
            .chain(["calm"].iter())
            .map(|name| format!("[tenant.{name}.policy]\nuse = \"{name}\"\n"))
            .collect();
        let text = format!(
            "[node]\nregion = \"here\"\nthreads = 1\n[listen]\npublic = [\"127.0.0.1:0\"]\n[log]\nlevel = \"warn\"\n\
             [region.here.pool.web]\nendpoints = [\"{}\"]\n[policies]\ninstances = 200\n\
             [tenants]\nsources = [{{ host_suffix = \".apps.test\" }}]\n{slots}",
            upstream.address
        );
        let folder = node::folder(&text);
        for name in hostile.into_iter().chain(["calm"]) {
            let body = match name {
                _ if !is_hostile => "(i32.const 0)",
                "loops" => "(loop $again (br $again)) (i32.const 0)",
                "grows" => GROWS,
                "traps" => "(unreachable)",
                "floods" => FLOODS,
                "calm" => "(i32.const 0)",
                _ => SPINS,
            };
            let component = Guest::deciding(body).component();
            std::fs::write(folder.path().join(format!("policies/{name}.wasm")), component).unwrap();
        }
        let node = Node::start_in(folder).await;
        let end = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        if beside != "nobody" {
            for name in hostile {
                pace(&node, name, &end, &sent);
            }
            if is_hostile {
                flood_of_uploads(node.folder(), &end);
            }
        }
        let (latencies, failures) = neighbour(&node, size.neighbour).await;
        end.store(true, Ordering::Relaxed);
        quantiles(figures, &format!("neighbour.beside_{beside}"), "us", &latencies, 1.0);
        note(figures, &format!("neighbour.beside_{beside}.failures"), failures as f64);
        let status = node.status().await;
        let share = |key: &str| {
            let shares = status["thread_shares"].as_array().unwrap();
            shares.iter().map(|share| share[key].as_f64().unwrap()).fold(0.0, f64::max)
        };
        note(
            figures,
            &format!("neighbour.beside_{beside}.guest_share_max_percent"),
            share("permille_max") / 10.0,
        );
        eprintln!("{} requests of others", sent.load(Ordering::Relaxed));
    }
}

/// A tenant's requests at a steady pace, each after the answer to the last.
fn pace(node: &Node, tenant: &str, end: &Arc<AtomicBool>, sent: &Arc<AtomicU64>) {
    let (address, host) = (node.public(), format!("{tenant}.apps.test"));
    let (end, sent) = (Arc::clone(end), Arc::clone(sent));
    task::spawn("pace", async move {
        let Ok(mut client) = Client::connect(address, &host).await else { return };
        let mut ticks = tokio::time::interval(Duration::from_millis(5));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !end.load(Ordering::Relaxed) {
            ticks.tick().await;
            if client.get("/").await.is_err() {
                return;
            }
            sent.fetch_add(1, Ordering::Relaxed);
        }
    });
}

/// A thousand new components of one tenant, as fast as a disk takes them.
fn flood_of_uploads(folder: &Path, end: &Arc<AtomicBool>) {
    let (policies, end) = (folder.join("policies"), Arc::clone(end));
    // A thread of its own, which ends by itself: nobody waits for it.
    drop(std::thread::spawn(move || {
        for number in 0..1_000 {
            let partial = policies.join("floods.partial");
            let more = format!("(data (i32.const 9000) \"upload-{number:06}\")");
            let component = Guest { plan: "(call $ask)", decide: Some(FLOODS), more: &more }.component();
            let written = std::fs::write(&partial, component)
                .and_then(|()| std::fs::rename(&partial, policies.join("floods.wasm")));
            if written.is_err() || end.load(Ordering::Relaxed) {
                return;
            }
        }
    }));
}

/// The neighbour's own requests for a while; microseconds each, and how many failed.
async fn neighbour(node: &Node, time: Duration) -> (Histogram<u64>, u64) {
    let (mut histogram, mut failures) = (histogram(), 0);
    let mut client = Client::connect(node.public(), "calm.apps.test").await.unwrap();
    let mut ticks = tokio::time::interval(Duration::from_millis(2));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let all = Instant::now();
    while all.elapsed() < time {
        ticks.tick().await;
        let begun = Instant::now();
        let good = client.get("/").await.is_ok_and(|answer| answer.status == 200);
        histogram.saturating_record(u64::try_from(begun.elapsed().as_micros()).unwrap());
        failures += u64::from(!good);
    }
    (histogram, failures)
}
