//! Failover policies through the engine's door: what they may see and say, what becomes of those that misbehave, and of what runs when the
//! next one is refused.

use std::time::Duration;

use portolan_core::failover::{PROPOSALS_MAX, Picture, Proposed};

use super::guests::proposing;
use super::*;
use crate::vectors::{Scene, Vector};

const PROMOTE: &str = "(call $promote (global.get $a) (global.get $us))";

/// `eu` is down, and `us` could take the shard `a` over.
fn picture() -> Arc<Picture> {
    let scene: Scene = serde_json::from_str(
        r#"{"local": "us", "regions": {"ap": {}, "eu": {"verdict": "down", "down_ms": 9000}, "us": {}},
            "shards": {"a": {"primary": "eu", "replicas": [{"region": "us"}]}}}"#,
    )
    .unwrap();
    Arc::new(scene.picture().unwrap())
}

fn spec(component: Vec<u8>) -> FailoverSpec {
    FailoverSpec { config: "{}".into(), policy: name("tested"), source: Ok(Source::bytes(component)) }
}

/// One that waits: this build of the host's functions is hardly optimised.
fn patient() -> Engine {
    let mut config = config(None);
    (config.limits.propose_deadline, config.limits.propose_wall_max) =
        (Duration::from_secs(10), Duration::from_secs(60));
    Engine::new(config).unwrap()
}

fn asked(engine: &Engine, body: &str) -> Result<(Vec<Proposed>, u64), Unanswered> {
    Failover::load(engine, &spec(proposing(body))).unwrap().propose(&picture())
}

#[test]
fn what_is_proposed_comes_back_in_its_order_and_the_same_each_time() {
    let engine = engine();
    let all = "(call $shift (global.get $eu) (global.get $us) (i32.const 50)) (call $hold) (call $read-only (global.get $a))
        (call $drain (global.get $ap)) (call $promote (global.get $a) (global.get $us))";
    let (proposed, fuel) = asked(&engine, all).unwrap();
    let told: Vec<String> = proposed.iter().map(ToString::to_string).collect();
    assert_eq!(told, ["shift 50 % of eu to us", "hold", "read-only a", "drain ap", "promote a in us"]);
    assert!(fuel > 0);
    assert_eq!(asked(&engine, all).unwrap(), (proposed, fuel));
    // A shard `b` and a region `sa` there are not.
    let unknown = "(call $read-only (global.get $b)) (call $drain (global.get $sa)) (call $shift (global.get $eu) (global.get $us) (i32.const 101))";
    assert_eq!(asked(&engine, unknown).unwrap().0, []);
}

#[test]
fn whatever_goes_wrong_is_a_trap_an_overrun_or_garbage() {
    let engine = engine();
    for (body, kind, says) in [
        ("(unreachable)", "trap", "unreachable"),
        ("(call $hold_ (i32.const 0x7fff0000))", "trap", "out of bounds"),
        ("(loop $again (br $again))", "overrun", ""),
        // Fuel buys much of what the host does: the deadline stops it.
        ("(loop $again (call $drain (global.get $sa)) (br $again))", "overrun", ""),
        ("(drop (memory.grow (i32.const 60000))) (unreachable)", "overrun", "more memory"),
        ("(call $refuse)", "garbage", "tight (code 4)"),
        ("(call $promote (global.get $a) (global.get $us)) (call $refuse)", "garbage", "tight"),
    ] {
        misbehaves(&engine, body, kind, says);
    }
    let flood = format!(
        "(local $left i32) (local.set $left (i32.const {}))
         (loop $again (call $hold) (local.set $left (i32.sub (local.get $left) (i32.const 1))) (br_if $again (local.get $left)))",
        PROPOSALS_MAX + 1
    );
    misbehaves(&patient(), &flood, "garbage", "none of them is taken");
    assert_eq!(engine.stats().stores, 0, "every store is gone");
    assert_eq!(asked(&engine, PROMOTE).unwrap().0.len(), 1);
}

#[track_caller]
fn misbehaves(engine: &Engine, body: &str, kind: &str, says: &str) {
    let unanswered = asked(engine, body).unwrap_err();
    let found = match &unanswered {
        Unanswered::Garbage(_) => "garbage",
        Unanswered::Overrun(_) => "overrun",
        Unanswered::Trap(_) => "trap",
        Unanswered::Unavailable(_) => "unavailable",
    };
    assert!(found == kind && unanswered.to_string().contains(says), "{body}: {unanswered}");
}

#[test]
fn ten_thousand_shards_are_looked_through_with_the_usual_fuel_and_memory() {
    let mut many = (*picture()).clone();
    let one = many.shards["a"].clone();
    let shard = |number: u32| portolan_core::ids::ShardName::new(&format!("s{number:05}")).unwrap();
    many.shards = (0..10_000).map(|number| (shard(number), one.clone())).collect();
    let engine = patient();
    // Each page of a thousand shards is asked for, and forgotten.
    let text = r#"(module
        (import "portolan:policy/failover-facts@0.1.0" "shards" (func $shards (param i32 i32 i32 i32)))
        (import "portolan:policy/failover-answers@0.1.0" "hold" (func $hold (param i32)))
        (memory (export "memory") 64)
        (global $heap (mut i32) (i32.const 16384))
        (global $seen (mut i32) (i32.const 0))
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
          (local $at i32)
          (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
          (global.set $heap (i32.add (local.get $at) (local.get 3)))
          (local.get $at))
        (func (export "portolan:policy/proposer@0.1.0#propose") (param i32 i32) (result i32)
          (local $last i32) (local $length i32) (local $count i32)
          (loop $again
            (call $shards (local.get $last) (local.get $length) (i32.const -1) (i32.const 2048))
            (local.set $count (i32.load (i32.const 2052)))
            (if (local.get $count) (then
              (global.set $seen (i32.add (global.get $seen) (local.get $count)))
              ;; The name of the last record, of 56 bytes each, goes where it is not written over.
              (local.set $last (i32.sub (i32.add (i32.load (i32.const 2048)) (i32.mul (local.get $count) (i32.const 56))) (i32.const 56)))
              (local.set $length (i32.load offset=4 (local.get $last)))
              (memory.copy (i32.const 1024) (i32.load (local.get $last)) (local.get $length))
              (local.set $last (i32.const 1024))
              (global.set $heap (i32.const 16384))
              (br $again))))
          (if (i32.eq (global.get $seen) (i32.const 10000)) (then (call $hold (i32.const 2048))))
          (i32.store8 (i32.const 4096) (i32.const 0))
          (i32.const 4096)))"#;
    let policy = Failover::load(&engine, &spec(componentize(text, "failover"))).unwrap();
    let (proposed, _) = policy.propose(&Arc::new(many)).unwrap();
    assert_eq!(proposed, [Proposed::Hold]);
}

#[test]
fn facts_and_answers_are_for_propose_alone_and_worlds_do_not_mix() {
    let engine = engine();
    refused(Failover::load(&engine, &spec(HELLO.component())), Stage::Exports, "exports no proposer");
    let version = engine.load(&proposing(PROMOTE)).unwrap();
    assert!(version.about().proposer && !version.about().planner);
    refused(engine.plan(&version, "{}", Arc::new(facts()), &log()), Stage::Plan, "when regions fail");
    // A proposer that would route requests, too.
    let both = r#"(module
        (import "portolan:policy/routing-answers@0.1.0" "next" (func $next (result i32)))
        (memory (export "memory") 1)
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
        (func (export "portolan:policy/proposer@0.1.0#propose") (param i32 i32) (result i32) (drop (call $next)) (i32.const 0)))"#;
    let world = "import portolan:policy/routing-answers@0.1.0; export portolan:policy/proposer@0.1.0;";
    refused(engine.load(&guests::componentize_within(both, world)), Stage::Imports, "a failover policy");
}

#[test]
fn golden_vectors_are_tried_before_a_version_takes_over() {
    let vectors = |expected: &str| {
        format!(
            r#"[{{"name": "one", "failover": {{"regions": {{"eu": {{"verdict": "down"}}, "us": {{}}}},
                "shards": {{"a": {{"primary": "eu"}}}}}}, "expect": {{"proposals": [{expected}]}}}},
                {{"name": "nobody there", "failover": {{}}, "expect": {{"refused": "there is no region"}}}}]"#
        )
    };
    let with =
        |expected: &str| with_section(proposing(PROMOTE), VECTORS_SECTION, vectors(expected).as_bytes());
    let mut slot = FailoverSlot::new(engine());
    let now = portolan_foundation::clock::now();
    slot.follow(None, now);
    assert!(slot.failover().is_none());
    slot.follow(Some(&spec(with("\"promote a in us\""))), now);
    let first = slot.failover().map(|policy| policy.version());
    assert!(first.is_some() && slot.report().refused.is_none(), "{:?}", slot.report());

    slot.follow(Some(&spec(with("\"hold\""))), now);
    assert_eq!(slot.report().version, first, "the one before goes on");
    let refused = slot.report().refused.unwrap();
    assert!(
        refused.stage == Stage::Vectors && refused.reason.contains("expected hold, got promote a in us"),
        "{refused}"
    );
    let away = Err(Refused::passing(Stage::Read, "away", "wait"));
    slot.follow(Some(&FailoverSpec { source: away, ..spec(Vec::new()) }), now);
    assert_eq!(slot.report().version, first);
    slot.follow(Some(&spec(proposing("(call $hold)"))), now);
    assert!(slot.report().version != first && slot.report().refused.is_none());
    slot.follow(None, now);
    assert!(slot.failover().is_none());
}

#[test]
fn a_vector_of_another_world_fails_and_says_so() {
    let engine = engine();
    let version = engine.load(&proposing(PROMOTE)).unwrap();
    let request: Vec<Vector> =
        vectors::read(r#"[{"name": "a request", "expect": {"answers": []}}]"#).unwrap();
    let tried = engine.try_vectors(&version, &request, &log()).unwrap();
    assert!(tried[0].problems[0].contains("when regions fail"), "{tried:?}");
    let outage: Vec<Vector> = vectors::read(
        r#"[{"name": "an outage", "failover": {"regions": {"eu": {}}}, "expect": {"proposals": []}}]"#,
    )
    .unwrap();
    let version = engine.load(&HELLO.component()).unwrap();
    let tried = engine.try_vectors(&version, &outage, &log()).unwrap();
    assert!(tried[0].problems[0].contains("no proposer"), "{tried:?}");
}

#[test]
fn an_upload_is_examined_with_its_vectors_and_planned_by_nobody() {
    let engine = engine();
    let component = with_section(
        proposing("(call $hold)"),
        VECTORS_SECTION,
        br#"[{"name": "still", "failover": {"regions": {"eu": {}}}, "expect": {"proposals": ["hold"]}}]"#,
    );
    let mut steps = Vec::new();
    let candidate = Candidate {
        approved: false,
        bound: &[],
        bytes: &component,
        declared: None,
        detached: None,
        name: &name("still"),
        owner: &Slot::Operator,
        trials: &[],
        trust: &Trust::default(),
    };
    let examined = engine.examine(&candidate, &mut |step| steps.push(step)).unwrap();
    assert_eq!(examined.vectors[0].proposed.as_deref(), Some(&["hold".to_owned()][..]));
    let plan = steps.iter().find(|step| step.stage == Stage::Plan.as_str()).unwrap();
    assert!(plan.state == StepState::Skipped && plan.detail.contains("when regions fail"), "{plan:?}");
}
