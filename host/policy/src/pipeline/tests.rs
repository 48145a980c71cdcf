//! Uploads through all stages: what each refuses, and what is told meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use portolan_core::facts::{RegionFacts, Verdict};
use portolan_core::ids::{PoolName, ResidencyName, TenantName};

use super::*;
use crate::section::{SCHEMA_SECTION, VECTORS_SECTION, with_section};
use crate::tests::guests::{Guest, componentize};
use crate::{Compile, Config, Limits, SigningKey};

const HELLO: Guest<'static> = Guest::planning("(call $always (call $answer))");
/// Sends everything to the pool `web` of `eu`.
const TO_EU: Guest<'static> = Guest::planning(
    "(call $forward (i32.const 5) (i32.const 2) (i32.const 8) (i32.const 3) (i32.const 1024)) (call $always (i32.load (i32.const 1028)))",
);

fn engine(compile: Compile) -> Engine {
    Engine::new(Config {
        cache_bytes_max: 0,
        cache_dir: None,
        compile,
        data_threads: NonZeroUsize::MIN,
        // What runs without end has used up its fuel before, however slow the machine.
        limits: Limits { start_deadline: Duration::from_mins(1), ..Limits::standard() },
        pool_slots: NonZeroU32::new(16).unwrap(),
    })
    .unwrap()
}

fn region(name: &str) -> RegionName {
    RegionName::new(name).unwrap()
}

fn facts() -> Arc<Facts> {
    let web =
        || RegionFacts { pools: BTreeSet::from([PoolName::new("web").unwrap()]), verdict: Verdict::Healthy };
    let class = ResidencyName::new("states").unwrap();
    Arc::new(Facts {
        local: region("eu"),
        latency_us: BTreeMap::new(),
        now_ms: 1_000,
        regions: BTreeMap::from([(region("eu"), web()), (region("us"), web())]),
        residencies: BTreeMap::from([(class, BTreeSet::from([region("us")]))]),
        seed: 7,
    })
}

fn trial(config: &str, residency: Option<&str>) -> TrialSlot {
    TrialSlot {
        config: config.into(),
        facts: facts(),
        made_up: false,
        scope: Scope {
            residency: residency.map(|class| ResidencyName::new(class).unwrap()),
            ..Scope::default()
        },
        slot: Slot::Operator,
        tier: Tier::Operator,
    }
}

/// Everything that surrounds a candidate, to be bent.
struct Case {
    approved: bool,
    bound: Vec<Bound>,
    declared: Option<Digest>,
    owner: Slot,
    trials: Vec<TrialSlot>,
    trust: Trust,
}

fn plain() -> Case {
    Case {
        approved: false,
        bound: Vec::new(),
        declared: None,
        owner: Slot::Operator,
        trials: vec![trial("{}", None)],
        trust: Trust::default(),
    }
}

/// What became of it, and the stages that were told, with how each ended.
fn examine(
    engine: &Engine,
    bytes: &[u8],
    case: &Case,
) -> (Result<Examined, Refused>, Vec<(String, StepState)>) {
    let name = PolicyName::new("mine").unwrap();
    let candidate = Candidate {
        approved: case.approved,
        bound: &case.bound,
        bytes,
        declared: case.declared,
        detached: None,
        name: &name,
        owner: &case.owner,
        trials: &case.trials,
        trust: &case.trust,
    };
    let mut steps = Vec::new();
    let result = engine.examine(&candidate, &mut |step| {
        if step.state != StepState::Running {
            assert_eq!(step.fix.is_some(), step.state == StepState::Refused, "{step:?}");
            steps.push((step.stage, step.state));
        }
    });
    (result, steps)
}

#[track_caller]
fn refused(engine: &Engine, bytes: &[u8], case: &Case, stage: Stage, says: &str) {
    let (result, steps) = examine(engine, bytes, case);
    let refused = result.map(drop).unwrap_err();
    assert_eq!(refused.stage, stage, "{refused}");
    assert!(refused.to_string().contains(says) && !refused.fix.is_empty(), "{refused}");
    let (last, state) = steps.last().unwrap();
    assert_eq!(
        (last.as_str(), *state),
        (stage.as_str(), StepState::Refused),
        "the last that is told is the one that refuses"
    );
    assert!(steps.iter().rev().skip(1).all(|(_, state)| *state != StepState::Refused));
}

#[test]
fn stages_come_in_their_order_and_each_is_told() {
    let (result, steps) = examine(&engine(Compile::InProcess), &HELLO.component(), &plain());
    let examined = result.unwrap();
    assert!(examined.gained.is_empty() && examined.vectors.is_empty());
    let told: Vec<&str> = steps.iter().map(|(stage, _)| stage.as_str()).collect();
    let order = "size digest screen contract imports exports schema capabilities signature compile link instantiate vectors config plan check";
    assert_eq!(told.join(" "), order);
    let skipped: Vec<&str> = steps
        .iter()
        .filter(|(_, state)| *state == StepState::Skipped)
        .map(|(stage, _)| stage.as_str())
        .collect();
    assert_eq!(skipped, ["schema", "vectors"]);
}

#[test]
fn each_stage_refuses_what_is_its_own() {
    let engine = engine(Compile::InProcess);
    let hello = HELLO.component();
    let text = |text: &str| wat::parse_str(text).unwrap();
    refused(&engine, &vec![0; 9 << 20], &plain(), Stage::Size, "are allowed");
    let declared = Case { declared: Some(Digest([7; 32])), ..plain() };
    refused(&engine, &hello, &declared, Stage::Digest, "was declared");
    refused(&engine, b"text", &plain(), Stage::Screen, "not WebAssembly");
    let version = text(r#"(component (import "portolan:policy/facts@0.7.0" (instance)))"#);
    refused(&engine, &version, &plain(), Stage::Contract, "this host knows 0.1");
    let import = r#"(component (import "portolan:policy/draft@0.1.0" (instance (export "memo" (func (param "bytes" string) (result u32))))))"#;
    let both = "`memo` is func(bytes: string) -> u32, and should be func(bytes: list<u8>) -> result<_, record { code: u32, message: string }>";
    refused(&engine, &text(import), &plain(), Stage::Imports, both);
    refused(&engine, &text("(component)"), &plain(), Stage::Exports, "exports nothing");
    refused(&engine, &with_section(&hello, SCHEMA_SECTION, b"[]"), &plain(), Stage::Schema, "not usable");
    let less = Bound {
        imports: vec!["portolan:policy/facts@0.1.0".to_owned()],
        slot: Slot::Operator,
        version: Digest([1; 32]),
    };
    let bound = Case { bound: vec![less], ..plain() };
    refused(&engine, &hello, &bound, Stage::Capabilities, "portolan:policy/log");
    let approved = Case { approved: true, ..bound };
    assert!(
        examine(&engine, &hello, &approved).0.unwrap().gained.contains(&"portolan:policy/log".to_owned())
    );
    let demanding = Case { trust: Trust { operator_verified: true, ..Trust::default() }, ..plain() };
    refused(&engine, &hello, &demanding, Stage::Signature, "not signed");
    let strangers = SigningKey::generate().unwrap().embed(&hello);
    refused(&engine, &strangers, &demanding, Stage::Signature, "not trusted here");
    let spins = Guest { more: "(func $f (loop $again (br $again))) (start $f)", ..HELLO }.component();
    refused(&engine, &spins, &plain(), Stage::Instantiate, "fuel");
    let strict = with_section(&hello, SCHEMA_SECTION, br#"{"required": ["pool"]}"#);
    refused(&engine, &strict, &plain(), Stage::Config, "\"pool\" is a required property");
    refused(&engine, &Guest::planning("(unreachable)").component(), &plain(), Stage::Plan, "unreachable");
    let resident = Case { trials: vec![trial("{}", Some("states"))], ..plain() };
    refused(&engine, &TO_EU.component(), &resident, Stage::Check, "residency class `states`");
    refused(&engine, &unwilling(), &plain(), Stage::Start, "`start` failed");
}

/// A decider that will not start.
fn unwilling() -> Vec<u8> {
    let text = r#"(module
        (import "portolan:policy/routing-answers@0.1.0" "next" (func $next (result i32)))
        (import "portolan:policy/draft@0.1.0" "dynamic" (func $dynamic (param i32 i32 i32 i32 i32 i32 i32)))
        (memory (export "memory") 1)
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 8192))
        (func (export "portolan:policy/planner@0.1.0#plan") (param i32 i32) (result i32)
          (i32.store (i32.const 64) (call $next))
          (call $dynamic (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 1024))
          (i32.const 4096))
        (func (export "portolan:policy/decider@0.1.0#start") (param i32 i32 i32 i32) (result i32) (unreachable))
        (func (export "portolan:policy/decider@0.1.0#decide") (param i32 i64 i64 i32 i32) (result i32) (i32.const 0)))"#;
    componentize(text, "routing")
}

#[test]
fn a_compiler_that_fails_refuses_at_its_stage() {
    let broken = engine(Compile::Child { program: "/bin/false".into(), args: Vec::new() });
    refused(&broken, &HELLO.component(), &plain(), Stage::Compile, "the compiler");
}

#[test]
fn golden_vectors_are_tried_and_those_that_fail_are_told() {
    let engine = engine(Compile::InProcess);
    let with = |vectors: &str| with_section(&TO_EU.component(), VECTORS_SECTION, vectors.as_bytes());
    let world = r#""facts": {"local": "eu", "regions": {"eu": {"pools": ["web"], "verdict": "healthy"}}}"#;
    let good = format!(
        r##"[{{"name": "home", {world}, "request": {{"path": "/", "header:x": "1"}}, "expect": {{"answers": ["eu/web"], "rule": "#0"}}}},
            {{"name": "the same world", {world}, "expect": {{"answers": ["eu/web"]}}}}]"##
    );
    let (result, _) = examine(&engine, &with(&good), &plain());
    let tried = result.unwrap().vectors;
    assert!(tried.len() == 2 && tried.iter().all(|one| one.passed), "{tried:?}");
    for (vectors, says) in [
        (good.replace("[\"eu/web\"], \"rule\"", "[\"next\"], \"rule\""), "`home`: expected next, got eu/web"),
        (good.replace("#0", "#1"), "1 of 2 golden vectors fail"),
        (
            r#"[{"name": "no such region", "expect": {"answers": ["next"]}}]"#.to_owned(),
            "a plan without rules answers nothing",
        ),
        (good.replace("\"local\": \"eu\"", "\"local\": \"us\""), "none of the regions"),
        (good.replace("healthy", "sad"), "`sad` is no verdict"),
        (good.replace("header:x", "body"), "`body` is not known"),
        (good.replace("\"expect\"", "\"expects\""), "unknown field `expects`"),
        ("{".to_owned(), "do not read"),
        (
            format!("[{}]", vec![r#"{"name": "a", "expect": {"answers": ["next"]}}"#; 257].join(",")),
            "256 are allowed",
        ),
    ] {
        refused(&engine, &with(&vectors), &plain(), Stage::Vectors, says);
    }
}

#[test]
fn golden_vectors_reach_deciders() {
    let engine = engine(Compile::InProcess);
    let guest = Guest::deciding("(i32.const 1)").component();
    let vectors = br#"[{"name": "asks", "request": {"tenant": "acme"}, "seed": 3, "now_ms": 5, "expect": {"answers": ["respond 200", "respond 200", "respond 200"]}}]"#;
    let (result, _) = examine(&engine, &with_section(&guest, VECTORS_SECTION, vectors), &plain());
    assert_eq!(result.unwrap().vectors.len(), 1);
    let traps = Guest::deciding("(unreachable)").component();
    refused(
        &engine,
        &with_section(&traps, VECTORS_SECTION, vectors),
        &plain(),
        Stage::Vectors,
        "the decider gave no answer: the policy trapped",
    );
}

#[test]
fn a_tenants_upload_is_judged_by_the_tenants_rules() {
    let engine = engine(Compile::InProcess);
    let key = SigningKey::generate().unwrap();
    let tenant = TenantName::new("acme").unwrap();
    let trusted = crate::TrustedKey {
        name: "acme".to_owned(),
        public: key.public(),
        tenants: Some(BTreeSet::from([tenant.clone()])),
    };
    let trust = Trust { keys: vec![trusted], operator_verified: true, tenants_verified: true };
    let signed = key.embed(&HELLO.component());
    let of_tenant = Case { owner: Slot::Tenant(tenant), trust: trust.clone(), ..plain() };
    assert_eq!(examine(&engine, &signed, &of_tenant).0.unwrap().signature.key.as_deref(), Some("acme"));
    refused(&engine, &signed, &Case { trust, ..plain() }, Stage::Signature, "may not sign for operator");
}

#[test]
fn a_bad_signature_that_is_allowed_is_told_as_what_it_is() {
    let engine = engine(Compile::InProcess);
    let (hello, name, case) = (HELLO.component(), PolicyName::new("mine").unwrap(), plain());
    let strangers = SigningKey::generate().unwrap().embed(&hello);
    for (bytes, says) in
        [(&strangers, "none is demanded; the one there is bad: "), (&hello, "none, and none is demanded")]
    {
        let candidate = Candidate {
            approved: true,
            bound: &case.bound,
            bytes,
            declared: None,
            detached: None,
            name: &name,
            owner: &case.owner,
            trials: &case.trials,
            trust: &case.trust,
        };
        let mut told = Vec::new();
        let examined = engine.examine(&candidate, &mut |step| {
            if step.stage == Stage::Signature.as_str() && step.state == StepState::Passed {
                told.push(step.detail);
            }
        });
        examined.unwrap();
        assert!(told.len() == 1 && told[0].starts_with(says), "{told:?}");
    }
}
