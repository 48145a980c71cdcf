//! Hostile guests, as a tenant's policy: each is refused or contained with a reason, and everybody else is served.

use portolan_tests::client;
use portolan_tests::guests::{Guest, with_section};
use portolan_tests::node::{self, Node};
use portolan_tests::until;
use portolan_tests::upstream::Upstream;

use crate::one_region;

/// A name, the component, and what the report must say; one of several, which bars part.
type Attack = (&'static str, Vec<u8>, &'static str);

/// Of who takes too long: on a slow machine time ends before fuel does.
const LIMITS: &str = "fuel|ran past its deadline";

fn attacks() -> Vec<Attack> {
    let good = Guest::planning("(call $always (call $answer))");
    let whole = good.component();
    let text = |text: &str| wat::parse_str(text).unwrap();
    let deep = format!("{{\"not\":{}", "[".repeat(5_000));
    vec![
        ("a trap", Guest::planning("(unreachable)").component(), "unreachable"),
        ("an endless loop", Guest::planning("(loop $again (br $again))").component(), LIMITS),
        (
            "memory growth",
            Guest::planning("(loop $more (br_if $more (i32.ne (memory.grow (i32.const 64)) (i32.const -1)))) (unreachable)").component(),
            "more memory than its limit",
        ),
        ("a huge table", Guest { more: "(table 10000000 funcref)", ..good }.component(), "table elements"),
        ("a start function that spins", Guest { more: "(func $f (loop $again (br $again))) (start $f)", ..good }.component(), LIMITS),
        ("the wrong world", text(r#"(component (instance $i) (export "acme:x/y@1.0.0" (instance $i)))"#), "neither a planner nor a decider"),
        ("the wrong version", text(r#"(component (import "portolan:policy/facts@0.7.0" (instance)))"#), "this host knows 0.1"),
        ("a forbidden import", text(r#"(component (import "wasi:sockets/tcp@0.2.0" (instance)))"#), "without WASI"),
        ("a truncated file", whole[..whole.len() * 2 / 3].to_vec(), "ends too early"),
        ("a hundred megabytes", vec![0; 100 << 20], "bytes"),
        ("a schema that nests without end", with_section(whole, "portolan:config-schema", deep.as_bytes()), "not usable"),
        ("a core module", text("(module)"), "core module"),
        ("a text", b"export function plan() {}".to_vec(), "not WebAssembly"),
        ("nothing", Vec::new(), "empty"),
    ]
}

#[tokio::test]
async fn every_attack_is_refused_by_name_and_others_are_served() {
    let upstream = Upstream::start("web").await;
    let more = "[tenants]\nsources = [{ host_suffix = \".apps.test\" }]\n[tenant.evil.policy]\nuse = \"evil\"\n\
                [policy]\nuse = \"nearest-region\"\nconfig = { pool = \"web\" }\n";
    let folder = node::folder(&one_region(&[&upstream], more));
    std::fs::write(folder.path().join("policies/evil.wasm"), Guest::planning("(unreachable)").component())
        .unwrap();
    let node = Node::start_in(folder).await;
    for (name, component, why) in attacks() {
        node.write("policies/evil.wasm", component);
        until(name, async || {
            let refused = node.status().await["configuration"]["slots"][1]["refused"].to_string();
            why.split('|').any(|why| refused.contains(why))
        })
        .await;
        for host in ["good.apps.test", "evil.apps.test"] {
            let answer = client::get(node.public(), host, "/").await.unwrap();
            assert_eq!(answer.status, 200, "{name}: {host} is served");
        }
    }
    let status = node.status().await;
    assert_eq!(status["generation"], 1, "none of them changed what runs");
    assert_eq!((&status["task_panics"], &status["engine"]["stores"]), (&0.into(), &0.into()));
}

#[tokio::test]
async fn deciders_that_misbehave_are_contained_on_the_request_path() {
    let upstream = Upstream::start("web").await;
    let counts = "(global.set $calls (i32.add (global.get $calls) (i32.const 1))) (i32.rem_u (global.get $calls) (i32.const 3))";
    let flood = "(local $left i32) (local.set $left (i32.const 1000)) (loop $again (call $line (i32.const 1) (i32.const 0) (i32.const 4))
        (local.set $left (i32.sub (local.get $left) (i32.const 1))) (br_if $again (local.get $left))) (i32.const 0)";
    for (name, decide, field) in [
        ("a trap", "(unreachable)", "traps"),
        ("an endless loop", "(loop $again (br $again)) (i32.const 0)", "overruns"),
        ("an index out of range", "(i32.const 77)", "out_of_range"),
        ("state between calls", counts, "impure"),
        ("a flood of lines", flood, "calls"),
    ] {
        let folder = node::folder(&one_region(&[&upstream], "[policy]\nuse = \"mine\"\n"));
        std::fs::write(folder.path().join("policies/mine.wasm"), Guest::deciding(decide).component())
            .unwrap();
        let node = Node::start_in(folder).await;
        let mut client = client::Client::connect(node.public(), "a").await.unwrap();
        let deadline = tokio::time::Instant::now() + portolan_tests::PATIENCE;
        loop {
            for _ in 0..100 {
                assert_eq!(
                    client.get("/").await.unwrap().status,
                    200,
                    "{name}: the rule's first answer serves"
                );
            }
            let status = node.status().await;
            // Reports of slots are made when something is reconciled; the engine's counts are live.
            if field == "calls" || status["engine"][field].as_u64().is_some_and(|count| count > 0) {
                break;
            }
            assert!(tokio::time::Instant::now() < deadline, "{name} was not noticed: {status}");
        }
        assert_eq!(node.status().await["task_panics"], 0);
    }
}
