//! Guests written as text, so that the engine is tested without any guest toolchain. A guest is the body of a core
//! module over a prelude that imports the contract and has an allocator that never frees.

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

const PRELUDE: &str = r#"
  (import "portolan:policy/facts@0.1.0" "verdict" (func $verdict (param i32 i32) (result i32)))
  (import "portolan:policy/facts@0.1.0" "now-ms" (func $now_ms (result i64)))
  (import "portolan:policy/routing-answers@0.1.0" "respond" (func $respond (param i32 i32 i32 i32 i32 i32)))
  (import "portolan:policy/routing-answers@0.1.0" "forward" (func $forward (param i32 i32 i32 i32 i32)))
  (import "portolan:policy/draft@0.1.0" "split" (func $split (param i32 i32 i32 i32 i32 i32 i32)))
  (import "portolan:policy/draft@0.1.0" "dynamic" (func $dynamic (param i32 i32 i32 i32 i32 i32 i32)))
  (import "portolan:policy/log@0.1.0" "line" (func $line (param i32 i32 i32)))
  (memory (export "memory") 1)
  (global $heap (mut i32) (i32.const 16384))
  (global $calls (mut i32) (i32.const 0))
  (data (i32.const 0) "here eu web tenant text/plain")
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
    (global.set $heap (i32.add (local.get $at) (local.get 3)))
    (local.get $at))
  ;; The number of an answer `respond(200, "text/plain", "here")`.
  (func $answer (result i32)
    (call $respond (i32.const 200) (i32.const 19) (i32.const 10) (i32.const 0) (i32.const 4) (i32.const 1024))
    (i32.load (i32.const 1028)))
  ;; One rule that always takes the answer.
  (func $always (param $answer i32)
    (i32.store (i32.const 2048) (local.get $answer))
    (i32.store (i32.const 2052) (i32.const 1))
    (call $split (i32.const 0) (i32.const 0) (i32.const 2048) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 1024)))
  ;; One dynamic rule over three answers that needs `tenant`.
  (func $ask
    (i32.store (i32.const 3072) (call $answer))
    (i32.store (i32.const 3076) (call $answer))
    (i32.store (i32.const 3080) (call $answer))
    (i32.store (i32.const 3088) (i32.const 12))
    (i32.store (i32.const 3092) (i32.const 6))
    (call $dynamic (i32.const 0) (i32.const 0) (i32.const 3088) (i32.const 1) (i32.const 3072) (i32.const 3) (i32.const 1024)))
  ;; The result `ok` of `plan` and `start`.
  (func $ok (result i32) (i32.store8 (i32.const 4096) (i32.const 0)) (i32.const 4096))
"#;

/// What a guest does when it is asked.
#[derive(Clone, Copy)]
pub(super) struct Guest {
    /// The body of `plan`, before its `ok`.
    pub(super) plan: &'static str,
    /// The body of `decide`, which leaves an i32; none for a guest that only plans.
    pub(super) decide: Option<&'static str>,
    /// Anything else in the module.
    pub(super) more: &'static str,
}

impl Guest {
    pub(super) const fn planning(plan: &'static str) -> Self {
        Self { plan, decide: None, more: "" }
    }

    pub(super) const fn deciding(decide: &'static str) -> Self {
        Self { plan: "(call $ask)", decide: Some(decide), more: "" }
    }

    pub(super) fn component(self) -> Vec<u8> {
        let decider = self.decide.map_or_else(String::new, |decide| {
            format!(
                r#"(func (export "portolan:policy/decider@0.1.0#start") (param i32 i32 i32 i32) (result i32) (call $ok))
                   (func (export "portolan:policy/decider@0.1.0#decide")
                     (param $rule i32) (param $now i64) (param $seed i64) (param $values i32) (param $count i32) (result i32)
                     {decide})"#
            )
        });
        let text = format!(
            r#"(module {PRELUDE}
                (func (export "portolan:policy/planner@0.1.0#plan") (param $config i32) (param $length i32) (result i32)
                  {} (call $ok))
                {decider} {})"#,
            self.plan, self.more
        );
        componentize(&text, if self.decide.is_some() { "routing" } else { "routing-plan" })
    }
}

/// Makes a component of a core module's text.
pub(super) fn componentize(text: &str, world: &str) -> Vec<u8> {
    let mut module = wat::parse_str(text).expect("the guest's text is right");
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path("../../wit/policy/v0.1").expect("the contract parses");
    let world = resolve.select_world(&[package], Some(world)).expect("the world is there");
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, false)
        .expect("the metadata fits");
    let mut encoder = ComponentEncoder::default();
    encoder.module(&module).expect("the module fits its world").encode().expect("the component comes about")
}

/// Adds a custom section to a component.
pub(super) fn with_section(mut component: Vec<u8>, name: &str, data: &[u8]) -> Vec<u8> {
    let mut body = leb(name.len());
    body.extend(name.as_bytes());
    body.extend(data);
    component.push(0);
    component.extend(leb(body.len()));
    component.extend(body);
    component
}

fn leb(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(number & 0x7f).expect("seven bits");
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}
