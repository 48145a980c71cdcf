//! What policies cost: the native table, `decide` in three languages, warm, cold and fresh, and ten thousand policies on one node.
//! Prints one JSON object; `cargo xtask bench policy` makes a table of it.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_precision_loss,
    clippy::indexing_slicing,
    reason = "a measurement that cannot be made is to fail, and its figures are far below 2^52"
)]

mod measure;

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

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

use measure::{ROUNDS, Series, histogram, note, quantiles, record};

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
    if wanted("cold") {
        cold(&mut figures);
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
    // Nor may it end because other work on the machine held its thread up.
    limits.decide_deadline = Duration::from_secs(1);
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
    let mut series = Series::default();
    let tables = [3, 100, 10_000].map(|rules| {
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
        (rules, Table::compile(draft.finish().unwrap().0))
    });
    let mut seed = 0;
    for (rules, table) in (0..ROUNDS).flat_map(|_| &tables) {
        series.measure(format!("table.{rules}_rules"), || {
            seed += 1;
            let rule = table.find(black_box(&Request)).unwrap();
            black_box(table.candidates(rule, &Request, seed));
        });
    }
    series.note(figures);
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

const fn call<'a>(values: &'a [Option<&'a str>]) -> Call<'a> {
    Call { rule: RuleId(0), now_ms: 1, seed: 2, values, among: 3 }
}

const HEADER: Option<&str> = Some("user-4711-0123456");
const VALUES: [Option<&str>; 3] = [Some("/shop/cart"), Some("acme"), HEADER];

fn decides(name: &str, component: &[u8], figures: &mut Map<String, serde_json::Value>) {
    let engine = engine(2);
    let warm = decider(&engine, component, Tier::Operator);
    let mut series = Series::default();
    for headers in (0..ROUNDS).flat_map(|_| [0, 1, 8, 30]) {
        let mut values = VALUES[..2].to_vec();
        values.extend(std::iter::repeat_n(HEADER, headers));
        let call = call(&values);
        series.measure(format!("decide.{name}.warm.{headers}_headers"), || {
            black_box(warm.decide(black_box(&call)).unwrap());
        });
    }
    for _ in 0..ROUNDS {
        series.add(format!("decide.{name}.warm.2_threads"), &both(&warm));
    }
    series.note(figures);
    // A fresh instance each time, as small tenants' guests get; the others are shown for comparison.
    let mut config = engine.config().clone();
    config.limits.resident_bytes = 64 << 20;
    config.pool_slots = NonZeroU32::new(16).unwrap();
    let fresh = decider(&Engine::new(config).unwrap(), component, Tier::Tenant { granted: true });
    let mut histogram = histogram();
    for _ in 0..5_000 {
        let begun = Instant::now();
        black_box(fresh.decide(&call(&VALUES)).unwrap());
        record(&mut histogram, begun);
    }
    assert!(fresh.stats().fresh, "each call has an instance of its own");
    note(figures, &format!("decide.{name}.fresh.1_headers"), quantiles(&histogram));
}

/// One round of two threads that ask the same policy; who is done first goes on until the other is.
fn both(warm: &Decider) -> Histogram<u64> {
    let (barrier, done) = (Barrier::new(2), AtomicUsize::new(0));
    let ask = || {
        let mut call = || _ = black_box(warm.decide(black_box(&call(&VALUES))).unwrap());
        barrier.wait();
        let round = measure::round(&mut call);
        done.fetch_add(1, Ordering::Relaxed);
        while done.load(Ordering::Relaxed) < 2 {
            call();
        }
        round
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(ask);
        let mut round = ask();
        round.add(other.join().unwrap()).unwrap();
        round
    })
}

/// Ten thousand warm instances in a scattered order: what the processor's caches do not hold.
fn cold(figures: &mut Map<String, serde_json::Value>) {
    let mut config = engine(1).config().clone();
    config.limits.operator_reserve_percent = 100;
    config.limits.warm_bytes_max = usize::MAX / 100;
    config.limits.warm_instances_max = POLICIES;
    let engine = Engine::new(config).unwrap();
    let component = guest("c");
    let deciders: Vec<Arc<Decider>> =
        (0..POLICIES).map(|_| decider(&engine, &component, Tier::Operator)).collect();
    let mut place = 0;
    let mut next = || {
        place = (place + 7_919) % deciders.len();
        black_box(deciders[place].decide(black_box(&call(&VALUES))).unwrap());
    };
    deciders.iter().for_each(|_| next());
    let mut series = Series::default();
    for _ in 0..ROUNDS {
        series.measure("decide.c.cold.1_headers", &mut next);
    }
    let warm = engine.stats().warm_instances;
    assert_eq!(warm, POLICIES as u64, "all stay warm");
    series.note(figures);
}

/// What the contract itself costs: values by number and size, memos, and draft calls.
fn contract(figures: &mut Map<String, serde_json::Value>) {
    let engine = engine(1);
    let mut series = Series::default();
    for (name, component) in [("rust", bundled("dynamic-example")), ("c", guest("c"))] {
        let warm = decider(&engine, &component, Tier::Operator);
        for (count, bytes) in
            (0..ROUNDS).flat_map(|_| [1, 3, 8, 16]).flat_map(|count| [(count, 16), (count, 1_024)])
        {
            let text = "v".repeat(bytes);
            let values = vec![Some(text.as_str()); count];
            let call = call(&values);
            series.measure(format!("contract.{name}.{count}_values_of_{bytes}"), || {
                black_box(warm.decide(black_box(&call)).unwrap());
            });
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
        assert!(fresh.stats().fresh, "each call has an instance of its own");
        for _ in 0..ROUNDS {
            series.measure(format!("contract.fresh.memo_of_{bytes}"), || {
                black_box(fresh.decide(black_box(&call(&VALUES))).unwrap());
            });
        }
    }
    series.note(figures);
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
        record(&mut plans, begun);
    }
    note(figures, "contract.plan_of_10000_calls", quantiles(&plans));
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
            for round in 0..POLICIES {
                let place = (round * 7_919 + thread * 104_729) % deciders.len();
                let begun = Instant::now();
                if deciders[place].decide(&call(&VALUES)).is_ok() {
                    record(&mut histogram, begun);
                }
            }
            histogram
        };
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || ask(thread))).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut all = histogram();
    histograms.iter().for_each(|histogram| all.add(histogram).unwrap());
    quantiles(&all)
}
