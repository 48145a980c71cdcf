//! Resolvers through the engine's door: what they answer, what becomes of those that misbehave, and of what runs when the next one is
//! refused.

use portolan_core::plan::Refusal;

use super::guests::{proposing, resolving};
use super::*;
use crate::defaults::MERGED_BYTES_MAX;

const RIGHT: &str = "(call $ok (local.get $right) (local.get $right_bytes))";

fn spec(component: Vec<u8>) -> ResolverSpec {
    ResolverSpec { policy: name("tested"), source: Ok(Source::bytes(component)) }
}

fn asked(engine: &Engine, body: &str) -> Result<Result<Vec<u8>, Refusal>, Unanswered> {
    Resolver::load(engine, &spec(resolving(body))).unwrap().resolve(b"base", b"left", b"right")
}

#[test]
fn a_resolver_answers_with_bytes_or_says_no() {
    let engine = engine();
    assert_eq!(asked(&engine, RIGHT).unwrap().unwrap(), b"right");
    assert_eq!(
        asked(&engine, "(call $ok (local.get $base) (local.get $base_bytes))").unwrap().unwrap(),
        b"base"
    );
    let said = asked(&engine, "(call $no)").unwrap().unwrap_err();
    assert_eq!((said.code, said.message.as_str()), (4, "never"));
    assert_eq!(engine.stats().stores, 0, "every store is gone");
}

#[test]
fn one_that_misbehaves_gives_no_answer() {
    let engine = engine();
    let more = format!(
        "(drop (memory.grow (i32.const 256))) (call $ok (i32.const 0) (i32.const {}))",
        MERGED_BYTES_MAX + 1
    );
    for (body, says) in [
        ("(unreachable)", "trapped"),
        ("(loop $again (br $again)) (i32.const 0)", "used up"),
        ("(call $ok (i32.const 0x7fff0000) (i32.const 9))", "trapped"),
        (more.as_str(), "bytes"),
    ] {
        let unanswered = asked(&engine, body).unwrap_err().to_string();
        assert!(unanswered.contains(says), "{body}: {unanswered}");
    }
    assert_eq!(asked(&engine, RIGHT).unwrap().unwrap(), b"right");
}

#[test]
fn worlds_do_not_mix() {
    let engine = engine();
    refused(Resolver::load(&engine, &spec(HELLO.component())), Stage::Exports, "exports no resolver");
    refused(Resolver::load(&engine, &spec(proposing("(call $hold)"))), Stage::Exports, "exports no resolver");
    let version = engine.load(&resolving(RIGHT)).unwrap();
    assert!(version.about().resolver && !version.about().planner);
    refused(engine.plan(&version, "{}", Arc::new(facts()), &log()), Stage::Plan, "merges versions");
}

#[test]
fn one_that_is_refused_leaves_the_one_before() {
    let mut slots = ResolverSlots::new(engine());
    let (now, key) = (portolan_foundation::clock::now(), (name("tested"), None));
    let follow = |slots: &mut ResolverSlots, spec| slots.follow(&BTreeMap::from([(key.clone(), spec)]), now);
    follow(&mut slots, spec(resolving(RIGHT)));
    let first = slots.resolver(&key.0, None).unwrap().version();
    follow(&mut slots, spec(HELLO.component()));
    assert_eq!(slots.resolver(&key.0, None).unwrap().version(), first);
    assert_eq!(slots.refused()[0].1.stage, Stage::Exports);
    follow(&mut slots, spec(resolving("(call $no)")));
    assert!(slots.resolver(&key.0, None).unwrap().version() != first && slots.refused().is_empty());
    slots.follow(&BTreeMap::new(), now);
    assert!(slots.resolver(&key.0, None).is_none());
}
