//! One policy with two faces: values as a list, and values in one piece. Whichever is asked, the answers are the same.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;

/// Mixes all that a question has into one number. Both faces find their values and leave the rest to these.
const MIX: &str = "
    (global $state (mut i32) (i32.const 0))
    (func $mix (param $byte i32)
      (global.set $state (i32.mul (i32.xor (global.get $state) (local.get $byte)) (i32.const 0x01000193))))
    (func $mix_text (param $at i32) (param $left i32)
      (call $mix (local.get $left))
      (block $done (loop $next
        (br_if $done (i32.eqz (local.get $left)))
        (call $mix (i32.load8_u (local.get $at)))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (local.set $left (i32.sub (local.get $left) (i32.const 1)))
        (br $next))))
    (func $begin (param $rule i32) (param $now i64) (param $seed i64) (param $count i32)
      (global.set $state (i32.const 0x811c9dc5))
      (call $mix (local.get $rule))
      (call $mix (i32.wrap_i64 (local.get $now)))
      (call $mix (i32.wrap_i64 (local.get $seed)))
      (call $mix (local.get $count)))
    ;; Gives the memory back, so that no call depends on those before it.
    (func $end (result i32)
      (global.set $heap (i32.const 16384))
      (i32.rem_u (global.get $state) (i32.const 3)))";

const LISTED: &str = "
    (call $begin (local.get $rule) (local.get $now) (local.get $seed) (local.get $count))
    (block $done (loop $next
      (br_if $done (i32.eqz (local.get $count)))
      (if (i32.load8_u (local.get $values))
        (then (call $mix_text (i32.load offset=4 (local.get $values)) (i32.load offset=8 (local.get $values))))
        (else (call $mix (i32.const 0x10000))))
      (local.set $values (i32.add (local.get $values) (i32.const 12)))
      (local.set $count (i32.sub (local.get $count) (i32.const 1)))
      (br $next)))
    (call $end)";

const PACKED: &str = "
    (local $entry i32)
    (local.set $count (i32.load align=1 (local.get $values)))
    (call $begin (local.get $rule) (local.get $now) (local.get $seed) (local.get $count))
    (local.set $entry (i32.add (local.get $values) (i32.const 4)))
    (block $done (loop $next
      (br_if $done (i32.eqz (local.get $count)))
      (if (i32.load align=1 (local.get $entry))
        (then (call $mix_text
          (i32.add (local.get $values) (i32.load align=1 (local.get $entry)))
          (i32.load offset=4 align=1 (local.get $entry))))
        (else (call $mix (i32.const 0x10000))))
      (local.set $entry (i32.add (local.get $entry) (i32.const 8)))
      (local.set $count (i32.sub (local.get $count) (i32.const 1)))
      (br $next)))
    (call $end)";

const GUEST: Guest<'static> = Guest { more: MIX, ..Guest::deciding(LISTED) };

/// What the guest should say.
fn expected(call: &Call<'_>) -> u32 {
    let mix = |state: u32, word: u32| (state ^ word).wrapping_mul(0x0100_0193);
    let count = u32::try_from(call.values.len()).unwrap();
    let mut state =
        [call.rule.0, call.now_ms as u32, call.seed as u32, count].into_iter().fold(0x811c_9dc5, mix);
    for value in call.values {
        state = match value {
            Some(text) => text.bytes().map(u32::from).fold(mix(state, text.len() as u32), mix),
            None => mix(state, 0x10000),
        };
    }
    state % 3
}

fn generous() -> Engine {
    let mut config = config(None);
    config.limits.guest_share_percent = 100;
    config.limits.tenant_share_percent = 100;
    // So that each call to a component with both faces asks both.
    config.limits.purity_check_every = NonZeroU32::MIN;
    Engine::new(config).unwrap()
}

fn decider_of(engine: &Engine, component: &[u8], tier: Tier) -> Arc<Decider> {
    let version = engine.load(component).unwrap();
    let planned = engine.plan(&version, "{}", Arc::new(facts()), &log()).unwrap();
    let start =
        Start { account: &Account::unbounded(), config: "{}", log: &log(), memo: &planned.plan.memo, tier };
    engine.decider(&version, start).unwrap()
}

#[test]
fn both_faces_give_the_same_answers() {
    let engine = generous();
    let packed = Guest { decide: Some(PACKED), ..GUEST };
    let components = [GUEST.component(), packed.packed(), GUEST.with_both(PACKED)];
    // A tenant's small guest gets a fresh instance for each call, the operator's a warm one.
    let tiers = [Tier::Operator, Tier::Tenant { granted: false }];
    let deciders: Vec<Arc<Decider>> = components
        .iter()
        .flat_map(|component| tiers.map(|tier| decider_of(&engine, component, tier)))
        .collect();
    let questions = (any::<u32>(), any::<u64>(), any::<u64>(), vec(option::of(".{0,40}"), 0..24));
    proptest!(ProptestConfig::with_cases(256), |((rule, now_ms, seed, values) in questions)| {
        let values: Vec<Option<&str>> = values.iter().map(Option::as_deref).collect();
        let call = Call { rule: RuleId(rule), now_ms, seed, values: &values, among: 3 };
        for decider in &deciders {
            prop_assert_eq!(decider.decide(&call), Ok(expected(&call)));
        }
    });
    for decider in &deciders {
        let stats = decider.stats();
        assert!(!stats.impure && stats.fresh == (stats.purity_checks == 0), "{stats:?}");
    }
}

#[test]
fn faces_that_differ_are_found() {
    let engine = generous();
    let component = Guest::deciding("(i32.const 1)").with_both("(i32.const 2)");
    let decider = decider_of(&engine, &component, Tier::Operator);
    let said = decider.decide(&call(&[None]));
    assert_eq!((said, decider.stats().impure), (Ok(1), true), "the other face was asked the same");
    assert_eq!(decider.decide(&call(&[None])), Ok(2), "from here on, a fresh instance of the usual face");
}

#[test]
fn a_packed_face_is_held_to_its_type_and_its_memory() {
    let wrong = r#"(component
        (instance $i) (export "portolan:policy/packed-decider@0.1.0" (instance $i)))"#;
    refused(generous().load(&wat::parse_str(wrong).unwrap()), Stage::Exports, "`decide` is missing");
    // One page holds no text of two, and the guest's allocator does not ask.
    let engine = generous();
    let decider = decider_of(&engine, &Guest::deciding("(i32.const 0)").packed(), Tier::Operator);
    let long = "x".repeat(128 * 1024);
    assert_eq!(decider.decide(&call(&[Some(&long)])), Err(Undecided::Trapped));
    assert_eq!(decider.decide(&call(&[Some("short")])), Ok(0));
}
