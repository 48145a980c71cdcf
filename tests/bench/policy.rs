//! What policies cost: the native table, `decide` in three languages, warm and fresh, and ten thousand policies on one node.
//! Prints one JSON object; `cargo xtask bench policy` makes a table of it.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_precision_loss,
    clippy::indexing_slicing,
    reason = "a measurement that cannot be made is to fail, and its figures are far below 2^52"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use hdrhistogram::Histogram;
use portolan_core::attribute::{Attribute, Attributes, Value};
use portolan_core::decide::{Call, Decide};
use portolan_core::facts::{Facts, RegionFacts, Verdict};
use portolan_core::ids::{PolicyName, PoolName, RegionName, TenantName};
use portolan_core::plan::{ConditionText, Draft, Limits as PlanLimits, RuleId};
use portolan_core::table::Table;
use portolan_foundation::clock;
use portolan_policy::{
    Account, Budget, Compile, Config, Decider, Engine, Limits, Log, Slot, SlotSpec, Slots, Source, Start,
    Terms, Tier,
};
use portolan_tests::guests::Guest;
use serde_json::{Map, json};

/// Calls of one measurement, in batches that a clock can tell apart.
const BATCHES: usize = 4_000;
const BATCH: usize = 50;
const POLICIES: usize = 10_000;
/// A measurement asks without pause, and pushes more often than a tenant may.
const GENEROUS: Budget = Budget {
    fuel_burst: 1 << 40,
    fuel_per_second: 1 << 40,
    plan_burst: 1_000,
    plan_fuel_per_minute: 1 << 40,
    ..portolan_policy::defaults::TENANT_BUDGET
};

fn main() {
    // `cargo bench --bench policy -- decide.c` measures that alone, for profilers.
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let wanted = |name: &str| only.as_ref().is_none_or(|only| name.starts_with(only.as_str()));
    let mut figures = Map::new();
    if wanted("table") {
        tables(&mut figures);
    }
    for (name, component) in
        [("rust", bundled("dynamic-example")), ("c", guest("c")), ("javascript", guest("javascript"))]
    {
        if wanted(&format!("decide.{name}")) {
            decides(name, &component, &mut figures);
        }
    }
    if wanted("contract") {
        contract(&mut figures);
    }
    if wanted("many") {
        many(&mut figures);
    }
    println!("{}", json!({ "bench": "policy", "figures": figures }));
}

fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("target")
}

fn bundled(name: &str) -> Vec<u8> {
    std::fs::read(target().join(format!("policies/{name}.wasm"))).expect("`cargo xtask setup` builds it")
}

fn guest(name: &str) -> Vec<u8> {
    std::fs::read(target().join(format!("guests/{name}.wasm"))).expect("`cargo xtask guests` builds it")
}

fn facts() -> Facts {
    let pools = ["a", "b", "c"].map(|name| PoolName::new(name).unwrap());
    let region = RegionFacts { pools: BTreeSet::from(pools), verdict: Verdict::Healthy };
    Facts {
        local: RegionName::new("here").unwrap(),
        latency_us: BTreeMap::new(),
        now_ms: 0,
        regions: BTreeMap::from([(RegionName::new("here").unwrap(), region)]),
        residencies: BTreeMap::new(),
        seed: 1,
    }
}

fn engine(data_threads: usize) -> Engine {
    let mut limits = Limits::standard();
    // A measurement asks without pause, which no share of a thread allows.
    limits.guest_share_percent = 100;
    limits.tenant_share_percent = 100;
    Engine::new(Config {
        cache_bytes_max: 0,
        cache_dir: None,
        compile: Compile::InProcess,
        data_threads: NonZeroUsize::new(data_threads).unwrap(),
        limits,
        pool_slots: NonZeroU32::new(20_000).unwrap(),
    })
    .unwrap()
}

/// Nanoseconds per call at p50 and p99 of batches.
fn measure(mut call: impl FnMut()) -> (f64, f64) {
    let mut histogram = histogram();
    for _ in 0..BATCHES / 10 {
        call();
    }
    for _ in 0..BATCHES {
        let begun = Instant::now();
        for _ in 0..BATCH {
            call();
        }
        histogram.saturating_record(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    let at = |quantile| histogram.value_at_quantile(quantile) as f64 / BATCH as f64;
    (at(0.5), at(0.99))
}

/// Nanoseconds up to a minute.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).unwrap()
}

fn note(figures: &mut Map<String, serde_json::Value>, name: &str, (p50, p99): (f64, f64)) {
    figures.insert(format!("{name}.p50_ns"), json!(p50.round()));
    figures.insert(format!("{name}.p99_ns"), json!(p99.round()));
    eprintln!("{name:44} p50 {p50:>9.0} ns   p99 {p99:>9.0} ns");
}

struct Request;

impl Attributes for Request {
    fn value(&self, attribute: &Attribute) -> Value<'_> {
        match attribute {
            Attribute::Path => Value::Text("/shop/cart"),
            Attribute::Tenant => Value::Text("acme"),
            Attribute::Header(_) => Value::Text("1"),
            Attribute::Host => Value::Text("acme.apps.example.com"),
            _ => Value::Absent,
        }
    }

    fn client_ip(&self) -> IpAddr {
        IpAddr::from([10, 0, 0, 1])
    }
}

fn tables(figures: &mut Map<String, serde_json::Value>) {
    let when = |attribute: &str, test: &str, value: String| ConditionText {
        attribute: attribute.to_owned(),
        test: test.to_owned(),
        value,
    };
    for rules in [3, 100, 10_000] {
        let mut draft = Draft::new(Arc::new(facts()), PlanLimits::STANDARD);
        let answers: Vec<u32> =
            ["a", "b", "c"].iter().map(|pool| draft.forward("here", pool).unwrap().0).collect();
        // The rules before the last each ask for another tenant and path: the last one decides.
        for number in 1..rules {
            let conditions = [
                when("tenant", "is", format!("tenant-{number}")),
                when("path", "prefix", format!("/p{number}")),
            ];
            draft.split(&conditions, &[(answers[0], 1)], &[]).unwrap();
        }
        let last =
            [when("path", "prefix", "/shop".to_owned()), when("header:x-canary", "is", "1".to_owned())];
        draft.split(&last, &[(answers[1], 9), (answers[2], 1)], &[answers[0]]).unwrap();
        let table = Table::compile(draft.finish().unwrap().0);
        let mut seed = 0;
        let figure = measure(|| {
            seed += 1;
            let rule = table.find(black_box(&Request)).unwrap();
            black_box(table.candidates(rule, &Request, seed));
        });
        note(figures, &format!("table.{rules}_rules"), figure);
    }
}

fn decider(engine: &Engine, component: &[u8], tier: Tier) -> Arc<Decider> {
    let version = engine.load(component).unwrap();
    let log = Log::new(PolicyName::new("measured").unwrap(), 10);
    let config = if version.schema().is_some() { r#"{"pools":["a","b","c"]}"# } else { "{}" };
    let planned = engine.plan(&version, config, Arc::new(facts()), &log).unwrap();
    let account = Account::unbounded();
    let start = Start { account: &account, config, log: &log, memo: &planned.plan.memo, tier };
    engine.decider(&version, start).unwrap()
}

fn decides(name: &str, component: &[u8], figures: &mut Map<String, serde_json::Value>) {
    let engine = engine(1);
    let warm = decider(&engine, component, Tier::Operator);
    let header = Some("user-4711-0123456");
    for headers in [0, 1, 8, 30] {
        let mut values = vec![Some("/shop/cart"), Some("acme")];
        values.extend(std::iter::repeat_n(header, headers));
        let call = Call { rule: RuleId(0), now_ms: 1, seed: 2, values: &values, among: 3 };
        let figure = measure(|| {
            black_box(warm.decide(black_box(&call)).unwrap());
        });
        note(figures, &format!("decide.{name}.warm.{headers}_headers"), figure);
    }
    // A fresh instance each time, as small tenants' guests get; the others are shown for comparison.
    let mut limits = Limits::standard();
    limits.resident_bytes = 64 << 20;
    limits.guest_share_percent = 100;
    limits.tenant_share_percent = 100;
    let mut config = engine.config().clone();
    config.limits = limits;
    config.pool_slots = NonZeroU32::new(16).unwrap();
    let fresh = decider(&Engine::new(config).unwrap(), component, Tier::Tenant { granted: true });
    let values = [Some("/shop/cart"), Some("acme"), header];
    let call = Call { rule: RuleId(0), now_ms: 1, seed: 2, values: &values, among: 3 };
    let mut histogram = histogram();
    for _ in 0..5_000 {
        let begun = Instant::now();
        black_box(fresh.decide(&call).unwrap());
        histogram.saturating_record(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    assert!(fresh.stats().fresh, "each call has an instance of its own");
    let at = |quantile| histogram.value_at_quantile(quantile) as f64;
    note(figures, &format!("decide.{name}.fresh.1_headers"), (at(0.5), at(0.99)));
}

/// What the contract itself costs: values by number and size, memos, and draft calls.
fn contract(figures: &mut Map<String, serde_json::Value>) {
    let engine = engine(1);
    for (name, component) in [("rust", bundled("dynamic-example")), ("c", guest("c"))] {
        let warm = decider(&engine, &component, Tier::Operator);
        for (count, bytes) in [1, 3, 8, 16].into_iter().flat_map(|count| [(count, 16), (count, 1_024)]) {
            let text = "v".repeat(bytes);
            let values = vec![Some(text.as_str()); count];
            let call = Call { rule: RuleId(0), now_ms: 1, seed: 2, values: &values, among: 3 };
            let figure = measure(|| {
                black_box(warm.decide(black_box(&call)).unwrap());
            });
            note(figures, &format!("contract.{name}.{count}_values_of_{bytes}"), figure);
        }
    }
    // A memo is handed over when an instance starts; what a fresh instance costs with it.
    let version = engine.load(&guest("c")).unwrap();
    let log = Log::new(PolicyName::new("measured").unwrap(), 10);
    for bytes in [0, 4 << 10, 64 << 10] {
        let memo = vec![7; bytes];
        let account = Account::unbounded();
        let start = Start {
            account: &account,
            config: "{}",
            log: &log,
            memo: &memo,
            tier: Tier::Tenant { granted: true },
        };
        let fresh = engine.decider(&version, start).unwrap();
        let values = [Some("/shop/cart"), Some("acme"), Some("user-4711")];
        let call = Call { rule: RuleId(0), now_ms: 1, seed: 2, values: &values, among: 3 };
        assert!(fresh.stats().fresh, "each call has an instance of its own");
        let figure = measure(|| {
            black_box(fresh.decide(black_box(&call)).unwrap());
        });
        note(figures, &format!("contract.fresh.memo_of_{bytes}"), figure);
    }
    const CALLS: &str = "(local $left i32) (local.set $left (i32.const 10000))
        (loop $again (global.set $heap (i32.const 16384)) (drop (call $answer))
            (local.set $left (i32.sub (local.get $left) (i32.const 1))) (br_if $again (local.get $left)))
        (call $always (i32.const 0))";
    let version = engine.load(&Guest::planning(CALLS).component()).unwrap();
    let facts = Arc::new(facts());
    let mut plans = histogram();
    for _ in 0..200 {
        let begun = Instant::now();
        black_box(engine.plan(&version, "{}", Arc::clone(&facts), &log).unwrap());
        plans.saturating_record(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    let at = |quantile| plans.value_at_quantile(quantile) as f64;
    note(figures, "contract.plan_of_10000_calls", (at(0.5), at(0.99)));
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Ten thousand tenants with a policy each, a fifth in JavaScript, with configurations of their own.
fn many(figures: &mut Map<String, serde_json::Value>) {
    for threads in [2, 16] {
        let engine = engine(threads);
        let idle = resident_kib();
        let sources = [
            ("rust", Source::bytes(bundled("dynamic-example"))),
            ("javascript", Source::bytes(guest("javascript"))),
        ];
        let spec = |number: usize, change: usize| {
            let (_, source) = &sources[usize::from(number % 5 == 4)];
            let config = if number % 5 == 4 {
                format!("{{\"tenant\":{number},\"change\":{change}}}")
            } else {
                format!("{{\"pools\":[\"a\",\"b\",\"c\"],\"user_header\":\"x-user-{number}-{change}\"}}")
            };
            SlotSpec {
                candidate: None,
                config: config.into(),
                dynamic_granted: true,
                policy: PolicyName::new("measured").unwrap(),
                slot: Slot::Tenant(TenantName::new(&format!("tenant-{number}")).unwrap()),
                source: Ok(source.clone()),
                terms: Terms { budget: Some(GENEROUS), ..Terms::default() },
            }
        };
        let mut specs: Vec<SlotSpec> = (0..POLICIES).map(|number| spec(number, 0)).collect();
        let facts = Arc::new(facts());
        let mut slots = Slots::new(engine.clone());
        let begun = Instant::now();
        let result = slots.reconcile(&specs, &facts, clock::now());
        let all_s = begun.elapsed().as_secs_f64();
        assert_eq!(result.policies.tenants.len(), POLICIES, "{:?}", result.events.first());
        let deciders: Vec<Arc<dyn Decide>> =
            result.policies.tenants.values().map(|lane| Arc::clone(&lane.stable.decider)).collect();
        let asked = ask_all(&deciders, threads);
        note(figures, &format!("many.{threads}_threads.decide"), asked);
        let resident_mib = resident_kib().saturating_sub(idle) as f64 / 1_024.0;
        eprintln!(
            "{POLICIES} policies, {threads} threads: {resident_mib:.0} MiB above idle, planned in {all_s:.1} s"
        );
        figures.insert(format!("many.{threads}_threads.resident_mib"), json!(resident_mib.round()));
        figures.insert(format!("many.{threads}_threads.plan_all_s"), json!(all_s));
        if threads == 2 {
            figures.insert("many.resident_mib".to_owned(), json!(resident_mib.round()));
            let mut pushes = histogram();
            let before = resident_kib();
            for change in 1..=100 {
                let number = change * 97 % POLICIES / 5 * 5;
                specs[number] = spec(number, change);
                let begun = Instant::now();
                let result = slots.reconcile(&specs, &facts, clock::now());
                pushes.saturating_record(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX));
                assert!(result.changed && result.plan_calls == 1);
            }
            let push_ms = pushes.value_at_quantile(0.5) as f64 / 1_000.0;
            let push_kib = resident_kib().saturating_sub(before) as f64 / 100.0;
            eprintln!("one policy's push: {push_ms:.1} ms, {push_kib:.0} KiB");
            figures.insert("many.push_ms".to_owned(), json!(push_ms));
            figures.insert("many.push_kib".to_owned(), json!(push_kib));
        }
    }
}

/// Asks policies in a scattered order from several threads; nanoseconds per call.
fn ask_all(deciders: &[Arc<dyn Decide>], threads: usize) -> (f64, f64) {
    let histograms: Vec<Histogram<u64>> = std::thread::scope(|scope| {
        let ask = |thread: usize| {
            let mut histogram = histogram();
            let values = [Some("/shop/cart"), Some("acme"), Some("user-4711")];
            for round in 0..POLICIES {
                let place = (round * 7_919 + thread * 104_729) % deciders.len();
                let call = Call { rule: RuleId(0), now_ms: 1, seed: 2, values: &values, among: 3 };
                let begun = Instant::now();
                let decided = deciders[place].decide(&call);
                let took = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
                if decided.is_ok() {
                    histogram.saturating_record(took);
                }
            }
            histogram
        };
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || ask(thread))).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut all = histogram();
    histograms.iter().for_each(|histogram| all.add(histogram).unwrap());
    (all.value_at_quantile(0.5) as f64, all.value_at_quantile(0.99) as f64)
}
