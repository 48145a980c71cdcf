//! The engine through its public door, with guests that behave and guests that do not.

mod faces;
mod failing;
#[path = "../../../tests/fixtures/guests.rs"]
#[allow(unreachable_pub, dead_code, reason = "shared with the end-to-end tests")]
pub(crate) mod guests;
mod merging;
mod placing;
mod rollout;
mod tenants;

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use portolan_core::decide::{Call, Decide as _, Undecided};
use portolan_core::facts::{Facts, RegionFacts, Verdict};
use portolan_core::ids::{PolicyName, PoolName, RegionName, TenantName};
use portolan_core::plan::RuleId;
use portolan_core::time::Moment;

use self::guests::{Guest, componentize, with_section};
use crate::*;

const HELLO: Guest<'static> = Guest::planning("(call $always (call $answer))");

fn config(cache_dir: Option<&Path>) -> Config {
    Config {
        cache_bytes_max: 64 * 1024 * 1024,
        cache_dir: cache_dir.map(Path::to_owned),
        compile: Compile::InProcess,
        data_threads: NonZeroUsize::MIN,
        // On a slow machine as well, what is bounded by fuel ends by it.
        limits: Limits {
            plan_deadline: Duration::from_mins(1),
            start_deadline: Duration::from_mins(1),
            ..Limits::standard()
        },
        pool_slots: NonZeroU32::new(64).unwrap(),
    }
}

fn engine() -> Engine {
    Engine::new(config(None)).unwrap()
}

fn name(text: &str) -> PolicyName {
    PolicyName::new(text).unwrap()
}

fn log() -> Arc<Log> {
    Log::new(name("tested"), 50)
}

/// One region, `eu`, with the pool `web`.
fn facts() -> Facts {
    let region =
        RegionFacts { pools: BTreeSet::from([PoolName::new("web").unwrap()]), verdict: Verdict::Healthy };
    Facts {
        local: RegionName::new("eu").unwrap(),
        latency_us: BTreeMap::new(),
        now_ms: 1_000,
        regions: BTreeMap::from([(RegionName::new("eu").unwrap(), region)]),
        residencies: BTreeMap::new(),
        seed: 7,
    }
}

fn plan(engine: &Engine, guest: Guest<'_>) -> Result<Planned, Refused> {
    let version = engine.load(&guest.component())?;
    engine.plan(&version, "{}", Arc::new(facts()), &log())
}

fn decider(engine: &Engine, guest: Guest<'_>, tier: Tier) -> Arc<Decider> {
    let version = engine.load(&guest.component()).unwrap();
    let planned = engine.plan(&version, "{}", Arc::new(facts()), &log()).unwrap();
    let start =
        Start { account: &Account::unbounded(), config: "{}", log: &log(), memo: &planned.plan.memo, tier };
    engine.decider(&version, start).unwrap()
}

fn call<'a>(values: &'a [Option<&'a str>]) -> Call<'a> {
    Call { rule: RuleId(0), now_ms: 5, seed: 9, values, among: 3 }
}

/// The refusal's stage, and its text for `contains`.
#[track_caller]
fn refused<T>(result: Result<T, Refused>, stage: Stage, says: &str) {
    let Err(refused) = result else { panic!("not refused; expected {stage}: {says}") };
    assert_eq!(refused.stage, stage, "{refused}");
    assert!(refused.to_string().contains(says), "{refused}");
    assert!(!refused.fix.is_empty());
}

#[test]
fn a_plan_is_made_checked_and_charged() {
    let planned = plan(&engine(), HELLO).unwrap();
    assert_eq!((planned.plan.rules.len(), planned.plan.answers.len()), (1, 1));
    assert!(planned.fuel_used > 0);
    assert!(planned.reads.is_empty());
}

#[test]
fn the_same_inputs_give_the_same_plan_and_fuel() {
    let (one, other) = (plan(&engine(), HELLO).unwrap(), plan(&engine(), HELLO).unwrap());
    assert_eq!((one.plan, one.fuel_used), (other.plan, other.fuel_used));
}

#[test]
fn guests_that_misbehave_while_they_plan_are_refused_with_the_reason() {
    let engine = engine();
    let cases = [
        ("(unreachable)", "unreachable"),
        ("(loop $again (br $again))", "fuel"),
        (
            "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 64)) (i32.const -1)))) (unreachable)",
            "more memory than its limit",
        ),
        // A reference outside its memory.
        ("(call $line (i32.const 3) (i32.const 0x7fff0000) (i32.const 64))", "out of bounds"),
        // A string that is none.
        (
            "(i32.store8 (i32.const 512) (i32.const 255)) (call $line (i32.const 3) (i32.const 512) (i32.const 1))",
            "utf-8",
        ),
        // A list longer than the host takes.
        (
            "(drop (memory.grow (i32.const 100))) (call $line (i32.const 3) (i32.const 0) (i32.const 4194304))",
            "fuel",
        ),
    ];
    for (body, says) in cases {
        refused(plan(&engine, Guest::planning(body)), Stage::Plan, says);
    }
    assert_eq!(engine.stats().stores, 0, "every store is gone");
    plan(&engine, HELLO).unwrap();
}

#[test]
fn a_flood_of_draft_calls_ends_at_the_limit() {
    const MANY: &str = "(local $left i32) (local.set $left (i32.const 10000))
        (loop $again (global.set $heap (i32.const 16384)) (drop (call $answer)) (local.set $left (i32.sub (local.get $left) (i32.const 1)))
            (br_if $again (local.get $left)))
        (call $always (i32.const 0))";
    // Past the limit of answers each call is refused and costs nothing; the plan stands on what was taken.
    let planned = plan(&engine(), Guest::planning(MANY)).unwrap();
    assert!(planned.plan.answers.len() <= 4_096);
}

#[test]
fn a_flood_of_lines_is_cut() {
    const FLOOD: &str = "(local $left i32) (local.set $left (i32.const 100000))
        (loop $again (call $line (i32.const 1) (i32.const 0) (i32.const 4)) (local.set $left (i32.sub (local.get $left) (i32.const 1)))
            (br_if $again (local.get $left)))
        (call $always (call $answer))";
    let engine = engine();
    let version = engine.load(&Guest::planning(FLOOD).component()).unwrap();
    let log = log();
    engine.plan(&version, "{}", Arc::new(facts()), &log).unwrap();
    assert_eq!(log.lines().len() as u32, Limits::standard().log_lines_per_call);
    assert_eq!(log.dropped(), 100_000 - log.lines().len() as u64);
    assert_eq!(engine.stats().log_lines_dropped, log.dropped());
}

#[test]
fn bytes_that_are_no_policy_are_refused_before_they_are_compiled() {
    let engine = engine();
    let whole = HELLO.component();
    refused(engine.load(b""), Stage::Screen, "empty");
    refused(engine.load(b"#!/bin/sh"), Stage::Screen, "not WebAssembly");
    refused(engine.load(&whole[..whole.len() / 2]), Stage::Screen, "");
    refused(engine.load(&wat::parse_str("(module)").unwrap()), Stage::Screen, "core module");
    refused(engine.load(&vec![0; 100 * 1024 * 1024]), Stage::Size, "104857600 bytes");
    refused(engine.load(&wat::parse_str("(component)").unwrap()), Stage::Exports, "exports nothing");
    for seed in 0..64_usize {
        let mut damaged = whole.clone();
        let at = seed * 7_919 % damaged.len();
        damaged[at] ^= 0x55;
        // Whatever comes out, the engine stands.
        drop(engine.load(&damaged));
    }
    assert_eq!(engine.stats().versions, 0);
}

#[test]
fn imports_beyond_the_contract_are_refused_by_name() {
    let engine = engine();
    for (import, stage, says) in [
        ("wasi:cli/environment@0.2.0", Stage::Imports, "without WASI"),
        ("portolan:policy/facts@0.9.0", Stage::Contract, "this host knows 0.1"),
        ("portolan:policy/sharding-answers@0.1.0", Stage::Imports, "another kind of slot"),
        ("acme:net/sockets@1.0.0", Stage::Imports, "may import only"),
    ] {
        let text = format!(r#"(component (import "{import}" (instance)))"#);
        refused(engine.load(&wat::parse_str(text).unwrap()), stage, says);
    }
    let wrong_world = r#"(component (instance $i) (export "portolan:policy/resolver@0.1.0" (instance $i)))"#;
    refused(engine.load(&wat::parse_str(wrong_world).unwrap()), Stage::Exports, "`resolve` is missing");
    let wrong_shape = r#"(component (instance $i) (export "portolan:policy/planner@0.1.0" (instance $i)))"#;
    refused(engine.load(&wat::parse_str(wrong_shape).unwrap()), Stage::Exports, "`plan` is missing");
}

#[test]
fn components_made_to_exhaust_the_host_are_refused() {
    let engine = engine();
    let big_table = Guest { more: "(table 10000000 funcref)", ..HELLO };
    refused(engine.load(&big_table.component()), Stage::Screen, "table elements");
    let deep = format!("(component (type {}{}))", "(component (type ".repeat(80), "))".repeat(80));
    // Too deep for the text's own parser would be no test: build the nesting within its bounds.
    if let Ok(bytes) = wat::parse_str(deep) {
        refused(engine.load(&bytes), Stage::Screen, "nest");
    }
    let functions = "(func)".repeat(60_000);
    let many = componentize(
        &format!(
            r#"(module (memory (export "memory") 1) {functions}
                (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0))
                (func (export "portolan:policy/planner@0.1.0#plan") (param i32 i32) (result i32) (i32.const 0)))"#
        ),
        "routing-plan",
    );
    refused(engine.load(&many), Stage::Screen, "functions");
    let start = Guest { more: "(func $spin (loop $again (br $again))) (start $spin)", ..HELLO };
    refused(engine.load(&start.component()), Stage::Instantiate, "fuel");
}

#[test]
fn a_configuration_is_checked_against_the_components_schema() {
    let schema = br#"{"type":"object","properties":{"percent":{"type":"integer","maximum":100}},"required":["percent"]}"#;
    let component = with_section(HELLO.component(), "portolan:config-schema", schema);
    let engine = engine();
    let version = engine.load(&component).unwrap();
    let plan = |config: &str| engine.plan(&version, config, Arc::new(facts()), &log());
    plan(r#"{"percent": 5}"#).unwrap();
    refused(plan("{}"), Stage::Config, "percent");
    refused(plan(r#"{"percent": 500}"#), Stage::Config, "maximum of 100");
    let nonsense = with_section(HELLO.component(), "portolan:config-schema", b"{");
    refused(engine.load(&nonsense), Stage::Schema, "not usable");
}

#[test]
fn a_decider_answers_with_what_it_declared() {
    // Index 1 when there is a tenant, 2 when there is none.
    const BY_TENANT: &str =
        "(if (result i32) (i32.load8_u (local.get $values)) (then (i32.const 1)) (else (i32.const 2)))";
    let engine = engine();
    let decider = decider(&engine, Guest::deciding(BY_TENANT), Tier::Operator);
    assert_eq!(decider.decide(&call(&[Some("acme")])), Ok(1));
    assert_eq!(decider.decide(&call(&[None])), Ok(2));
    let stats = decider.stats();
    assert_eq!((stats.calls, stats.warm_instances, stats.fresh), (2, 1, false));
    drop(decider);
    assert_eq!((engine.stats().warm_instances, engine.stats().stores), (0, 0), "nothing outlives a decider");
}

#[test]
fn failing_deciders_are_replaced_then_left_alone() {
    let mut config = config(None);
    // On a busy machine three overruns are more than a share of time.
    config.limits.guest_share_percent = 100;
    let engine = Engine::new(config).unwrap();
    for (body, how) in [
        ("(unreachable)", Undecided::Trapped),
        ("(loop $again (br $again)) (i32.const 0)", Undecided::Overrun),
        ("(i32.const 99)", Undecided::OutOfRange),
    ] {
        let decider = decider(&engine, Guest::deciding(body), Tier::Operator);
        for _ in 0..3 {
            assert_eq!(decider.decide(&call(&[None])), Err(how));
        }
        assert_eq!(decider.decide(&call(&[None])), Err(Undecided::Broken), "three in a row open the breaker");
        assert!(decider.stats().last_failure.is_some());
    }
}

#[test]
fn state_hidden_between_calls_is_found_and_taken_away() {
    const COUNTS: &str = "(global.set $calls (i32.add (global.get $calls) (i32.const 1)))
        (i32.rem_u (global.get $calls) (i32.const 3))";
    let mut config = config(None);
    config.limits.purity_check_every = NonZeroU32::new(4).unwrap();
    config.limits.guest_share_percent = 100;
    let engine = Engine::new(config).unwrap();
    let decider = decider(&engine, Guest::deciding(COUNTS), Tier::Operator);
    for _ in 0..200 {
        decider.decide(&call(&[None])).unwrap();
        if decider.stats().impure {
            break;
        }
    }
    assert!(decider.stats().impure && decider.stats().fresh);
    assert_eq!(decider.decide(&call(&[None])), Ok(1), "from here on, each call is its instance's first");
    assert_eq!(decider.decide(&call(&[None])), Ok(1));
}

#[test]
fn a_tenants_greedy_decider_runs_out_of_its_share_and_not_the_operators() {
    const SPINS: &str = "(local $left i32) (local.set $left (i32.const 200000))
        (loop $again (local.set $left (i32.sub (local.get $left) (i32.const 1))) (br_if $again (local.get $left))) (i32.const 0)";
    let engine = engine();
    let tenant = decider(&engine, Guest::deciding(SPINS), Tier::Tenant { granted: false });
    let outcomes: Vec<_> = (0..200).map(|_| tenant.decide(&call(&[None]))).collect();
    assert!(outcomes.contains(&Ok(0)) && outcomes.contains(&Err(Undecided::Busy)));
    let operator = decider(&engine, Guest::deciding("(i32.const 1)"), Tier::Operator);
    assert_eq!(operator.decide(&call(&[None])), Ok(1));
}

#[test]
fn warm_instances_stay_within_their_bound() {
    let mut config = config(None);
    config.limits.warm_instances_max = 8;
    config.limits.operator_reserve_percent = 50;
    config.limits.guest_share_percent = 100;
    config.limits.tenant_share_percent = 100;
    // So that tenants' instances are kept warm at all.
    config.limits.resident_bytes = 0;
    let engine = Engine::new(config).unwrap();
    let guest = Guest::deciding("(i32.const 1)");
    let deciders: Vec<_> =
        (0..20).map(|_| decider(&engine, guest, Tier::Tenant { granted: false })).collect();
    for decider in &deciders {
        assert_eq!(decider.decide(&call(&[None])), Ok(1));
    }
    let stats = engine.stats();
    assert!(stats.warm_instances <= 4, "{stats:?}");
    assert!(stats.evictions >= 16, "{stats:?}");
}

#[test]
fn compiled_code_comes_from_the_cache_and_a_damaged_entry_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let component = HELLO.component();
    let load = || {
        let engine = Engine::new(config(Some(folder.path()))).unwrap();
        let version = engine.load(&component).unwrap();
        engine.plan(&version, "{}", Arc::new(facts()), &log()).unwrap();
        let stats = engine.stats();
        (stats.compiles, stats.cache_hits, stats.cache_rejects)
    };
    assert_eq!(load(), (1, 0, 0));
    assert_eq!(load(), (0, 1, 0));
    let entry = std::fs::read_dir(folder.path()).unwrap().flatten();
    let entry =
        entry.map(|entry| entry.path()).find(|path| path.extension().is_some_and(|end| end == "artefact"));
    let entry = entry.unwrap();
    let mut bytes = std::fs::read(&entry).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&entry, bytes).unwrap();
    assert_eq!(load(), (1, 0, 1), "damaged code is compiled again");
    assert_eq!(load(), (0, 1, 0));
}

/// Sixty slots of instances and no more: a hundred deciders take turns.
#[test]
fn a_full_pool_makes_room() {
    let mut config = config(None);
    config.pool_slots = NonZeroU32::new(16).unwrap();
    config.limits.guest_share_percent = 100;
    let engine = Engine::new(config).unwrap();
    let guest = Guest::deciding("(i32.const 2)");
    let deciders: Vec<_> = (0..40).map(|_| decider(&engine, guest, Tier::Operator)).collect();
    for decider in deciders.iter().chain(&deciders) {
        assert_eq!(decider.decide(&call(&[None])), Ok(2));
    }
}

fn spec(slot: Slot, component: &[u8], config: &str) -> SlotSpec {
    SlotSpec {
        candidate: None,
        config: config.into(),
        dynamic_granted: false,
        policy: name("tested"),
        slot,
        source: Ok(Source::bytes(component)),
        terms: Terms::default(),
    }
}

#[test]
fn a_slot_keeps_what_runs_when_its_successor_is_refused() {
    let mut slots = Slots::new(engine());
    let facts = Arc::new(facts());
    let first = slots.reconcile(&[spec(Slot::Operator, &HELLO.component(), "{}")], &facts, Moment(1));
    assert!(first.changed);
    let running = Arc::clone(&first.policies.operator.unwrap().stable);

    let bad = Guest::planning("(unreachable)").component();
    let second = slots.reconcile(&[spec(Slot::Operator, &bad, "{}")], &facts, Moment(2));
    assert!(!second.changed);
    assert!(
        Arc::ptr_eq(&running, &second.policies.operator.as_ref().unwrap().stable),
        "the very same goes on"
    );
    assert!(matches!(second.events.as_slice(), [Event::Refused { kept: Some(_), .. }]));
    assert!(second.retry_at.is_some(), "a trap may pass");
    let report = slots.reports(Moment(2)).remove(0);
    assert!(report.refused.unwrap().reason.contains("unreachable"));
    assert_eq!(report.running.unwrap().version.digest, running.digest);

    let third = slots.reconcile(&[spec(Slot::Operator, &bad, "{}")], &facts, Moment(3));
    assert_eq!((third.plan_calls, third.events.len()), (0, 0), "it is not asked again at once, nor reported");
    let gone = slots.reconcile(&[], &facts, Moment(4));
    assert!(gone.changed && gone.policies.operator.is_none());
}

#[test]
fn only_a_plan_that_read_a_changed_fact_is_made_again() {
    // Reads the verdict on `eu` (at 5, 2 bytes) and drops it.
    const READS: &str = "(drop (call $verdict (i32.const 5) (i32.const 2))) (call $always (call $answer))";
    let reading = Guest::planning(READS).component();
    let tenant = |text: &str| Slot::Tenant(TenantName::new(text).unwrap());
    let specs = [spec(tenant("reads"), &reading, "{}"), spec(tenant("ignores"), &HELLO.component(), "{}")];
    let mut slots = Slots::new(engine());
    let before = facts();
    assert_eq!(slots.reconcile(&specs, &Arc::new(before.clone()), Moment(1)).plan_calls, 2);

    let mut later = before.clone();
    later.now_ms += 60_000;
    assert_eq!(slots.reconcile(&specs, &Arc::new(later), Moment(2)).plan_calls, 0, "time alone is no change");

    let mut down = before.clone();
    down.regions.values_mut().for_each(|region| region.verdict = Verdict::Down);
    let changed = slots.reconcile(&specs, &Arc::new(down.clone()), Moment(3));
    assert_eq!(changed.plan_calls, 1, "only the one that read it");
    assert!(!changed.changed, "its plan is the same, so nothing is swapped");
    assert_eq!(slots.reconcile(&specs, &Arc::new(down), Moment(4)).plan_calls, 0);

    // Facts that flap cause a bounded number of plans.
    let mut plans = 0;
    for flap in 0..200_u64 {
        let mut now = before.clone();
        if flap % 2 == 0 {
            now.regions.values_mut().for_each(|region| region.verdict = Verdict::Down);
        }
        plans += slots.reconcile(&specs, &Arc::new(now), Moment(5 + flap)).plan_calls;
    }
    assert!(plans <= 12, "{plans}");
}
