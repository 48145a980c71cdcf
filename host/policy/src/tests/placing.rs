//! Sharding policies through the engine's door: what they may see and say, and what becomes of those that misbehave.

use portolan_core::directory::{Directory, Exceptions, HashKey, Range, Rule, Shard, ShardIndex};
use portolan_core::ids::{ResidencyName, ShardName};
use portolan_core::log::Epoch;
use portolan_core::placement::{Known, Limits as Moving, Picture};

use super::*;

/// A component of the world `sharding`. Its texts lie at the beginning of its memory, its answers at 4096.
fn guest(place: &str, rebalance: &str) -> Vec<u8> {
    let text = format!(
        r#"(module
        (import "portolan:policy/sharding-facts@0.1.0" "shard-tenants" (func $tenants (param i32 i32) (result i64)))
        (import "portolan:policy/sharding-answers@0.1.0" "relocate" (func $relocate (param i32 i32 i32 i32 i32 i32 i32)))
        (memory (export "memory") 1)
        (global $heap (mut i32) (i32.const 16384))
        (data (i32.const 0) "bdz tight acme move")
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
          (local $at i32)
          (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
          (global.set $heap (i32.add (local.get $at) (local.get 3)))
          (local.get $at))
        ;; The answer `ok(some(text))`.
        (func $say (param $at i32) (param $length i32)
          (i32.store8 (i32.const 4096) (i32.const 0))
          (i32.store8 (i32.const 4100) (i32.const 1))
          (i32.store (i32.const 4104) (local.get $at))
          (i32.store (i32.const 4108) (local.get $length)))
        ;; The answer `err` with code 4 and the text `tight`.
        (func $refuse
          (i32.store8 (i32.const 4096) (i32.const 1))
          (i32.store (i32.const 4100) (i32.const 4))
          (i32.store (i32.const 4104) (i32.const 4))
          (i32.store (i32.const 4108) (i32.const 5)))
        ;; Moves `acme` to the shard at this place.
        (func $move (param $shard i32)
          (call $relocate (i32.const 10) (i32.const 4) (local.get $shard) (i32.const 1) (i32.const 15) (i32.const 4) (i32.const 2048)))
        (func (export "portolan:policy/placer@0.1.0#place") (param i32 i32 i32 i32) (result i32) {place} (i32.const 4096))
        (func (export "portolan:policy/placer@0.1.0#rebalance") (param i32 i32) (result i32) {rebalance} (i32.const 4096)))"#
    );
    componentize(&text, "sharding")
}

const TO_B: &str = "(call $say (i32.const 0) (i32.const 1))";
const NOTHING: &str = "";

/// Shards `a` and `b`, the drained `d` and the tenant `acme` on `a`.
fn picture() -> Arc<Picture> {
    let shard = |name: &str| Shard {
        name: ShardName::new(name).unwrap(),
        epoch: Epoch(1),
        external: false,
        primary: RegionName::new("eu").unwrap(),
        replicas: BTreeSet::new(),
        residency: None::<ResidencyName>,
        takes_new: name != "d",
    };
    let rule = Rule {
        location: None,
        ranges: vec![Range { last: u64::MAX, shard: ShardIndex(0) }],
        residency: None,
    };
    let shards = vec![shard("a"), shard("b"), shard("d")];
    let key = HashKey::new([7; 16]);
    let directory = Directory::new(key, shards, vec![rule], Exceptions::default(), &BTreeMap::new()).unwrap();
    let tenants = BTreeMap::from([(TenantName::new("acme").unwrap(), Known::default())]);
    Arc::new(Picture::new(Arc::new(directory), tenants, BTreeMap::new(), BTreeMap::new()))
}

fn spec(component: Vec<u8>) -> PlacementSpec {
    PlacementSpec { config: "{}".into(), policy: name("tested"), source: Ok(Source::bytes(component)) }
}

fn placer(engine: &Engine, place: &str, rebalance: &str) -> Placer {
    Placer::load(engine, &spec(guest(place, rebalance))).unwrap()
}

fn place(placer: &Placer) -> Result<Option<ShardIndex>, Refused> {
    placer.place(&picture(), &Arc::new(facts()), (&TenantName::new("new").unwrap(), &Known::default()))
}

fn rebalance(placer: &Placer) -> Result<Proposed, Refused> {
    placer.rebalance(&picture(), &Arc::new(facts()), Moving { line_permille_max: 100, moves_max: 10 })
}

#[test]
fn a_tenant_goes_where_the_policy_says_or_where_the_rules_do() {
    let engine = engine();
    assert_eq!(place(&placer(&engine, TO_B, NOTHING)), Ok(Some(ShardIndex(1))));
    assert_eq!(place(&placer(&engine, NOTHING, NOTHING)), Ok(None));
    // A fact: `b` has no tenant.
    let asks = "(if (i64.eqz (call $tenants (i32.const 0) (i32.const 1))) (then (call $say (i32.const 0) (i32.const 1))))";
    assert_eq!(place(&placer(&engine, asks, NOTHING)), Ok(Some(ShardIndex(1))));
}

#[test]
fn nonsense_is_refused_with_the_reason_and_the_rules_stand() {
    let engine = engine();
    for (body, stage, says) in [
        ("(call $say (i32.const 1) (i32.const 1))", Stage::Check, "drained"),
        ("(call $say (i32.const 2) (i32.const 1))", Stage::Check, "no shard `z`"),
        ("(call $refuse)", Stage::Plan, "says no: tight (code 4)"),
        ("(unreachable)", Stage::Plan, "unreachable"),
        // By its fuel, or on a busy machine by its deadline.
        ("(loop $again (br $again))", Stage::Plan, "do less in `plan`"),
        ("(drop (memory.grow (i32.const 60000))) (unreachable)", Stage::Plan, "more memory than its limit"),
        ("(call $move (i32.const 0))", Stage::Plan, "only be used inside `rebalance`"),
    ] {
        refused(place(&placer(&engine, body, NOTHING)), stage, says);
    }
    assert_eq!(engine.stats().stores, 0, "every store is gone");
}

#[test]
fn a_plan_is_taken_as_a_whole_or_not_at_all() {
    let engine = engine();
    let plan = rebalance(&placer(&engine, NOTHING, "(call $move (i32.const 0))")).unwrap();
    let one = &plan.rebalancing.moves[0];
    assert_eq!(
        (one.tenant.as_str(), one.from.as_str(), one.to.as_str(), &*one.reason),
        ("acme", "a", "b", "move")
    );
    assert!(plan.fuel_used > 0);
    // What the host refuses changes nothing, and the policy goes on.
    assert!(
        rebalance(&placer(&engine, NOTHING, "(call $move (i32.const 1))")).unwrap().rebalancing.is_empty()
    );
    refused(
        rebalance(&placer(&engine, NOTHING, "(call $move (i32.const 0)) (call $refuse)")),
        Stage::Plan,
        "tight",
    );
    refused(
        rebalance(&placer(&engine, NOTHING, "(call $move (i32.const 0)) (unreachable)")),
        Stage::Plan,
        "unreachable",
    );
}

#[test]
fn a_policy_that_keeps_failing_is_left_alone() {
    let engine = engine();
    let placer = placer(&engine, "(unreachable)", NOTHING);
    let failures = engine.config().limits.breaker.failures;
    for _ in 0..failures {
        refused(place(&placer), Stage::Plan, "unreachable");
    }
    refused(place(&placer), Stage::Plan, "left alone");
}

#[test]
fn a_component_serves_the_slots_of_its_own_world_alone() {
    let engine = engine();
    refused(Placer::load(&engine, &spec(HELLO.component())), Stage::Exports, "exports no placer");
    let version = engine.load(&guest(TO_B, NOTHING)).unwrap();
    let facts = Arc::new(facts());
    refused(engine.plan(&version, "{}", facts, &log()), Stage::Plan, "places tenants");
    let foreign = r#"(module (import "portolan:policy/routing-answers@0.1.0" "next" (func $next (result i32)))
        (memory (export "memory") 1) (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
        (func (export "portolan:policy/planner@0.1.0#plan") (param i32 i32) (result i32) (drop (call $next)) (i32.const 0)))"#;
    engine.load(&componentize(foreign, "routing-plan")).unwrap();
}

#[test]
fn a_slot_keeps_what_runs_when_the_next_is_refused() {
    let mut slot = PlacementSlot::new(engine());
    let now = portolan_foundation::clock::now();
    slot.follow(None, now);
    assert!(slot.placer().is_none());
    let good = spec(guest(TO_B, NOTHING));
    slot.follow(Some(&good), now);
    let first = slot.placer().map(|placer| placer.version());
    assert!(first.is_some() && slot.report().refused.is_none());

    slot.follow(Some(&spec(HELLO.component())), now);
    assert_eq!(slot.placer().map(|placer| placer.version()), first, "the one before goes on");
    assert!(slot.report().refused.is_some_and(|refused| refused.stage == Stage::Exports));
    let away = Err(Refused::passing(Stage::Read, "away", "wait"));
    slot.follow(Some(&PlacementSpec { source: away, ..good.clone() }), now);
    assert_eq!(slot.placer().map(|placer| placer.version()), first);

    slot.follow(Some(&spec(guest(NOTHING, NOTHING))), now);
    assert!(
        slot.placer().is_some_and(|placer| Some(placer.version()) != first)
            && slot.report().refused.is_none()
    );
    slot.follow(None, now);
    assert!(slot.placer().is_none());
}
