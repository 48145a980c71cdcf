//! What happens on a node by itself is told to whoever listens: demotions, refused uploads, what becomes of rollouts, the store.

use std::path::Path;

use portolan_tests::client::Client;
use portolan_tests::guests::{Guest, with_section};
use portolan_tests::node::{self, Node};
use portolan_tests::until;
use serde_json::{Value, json};

use crate::{good, says};

/// Some 1,500,000 units of fuel: most of what a call may take.
const SPINS: &str = "(local $left i32) (local.set $left (i32.const 250000))
    (loop $again (local.set $left (i32.sub (local.get $left) (i32.const 1))) (br_if $again (local.get $left))) (i32.const 0)";
/// Traps whenever it is asked.
const TRAPS: Guest<'static> = Guest::deciding("(unreachable)");

async fn push(folder: &Path, component: &[u8]) -> String {
    std::fs::write(folder.join("pushed.wasm"), component).unwrap();
    let text = good(folder, &["plugin", "push", "mine", "pushed.wasm", "--json"]).await;
    serde_json::from_str::<Value>(&text).unwrap()["version"].as_str().unwrap().to_owned()
}

/// What is told of one type until now, the newest last.
async fn told(node: &Node, kind: &str) -> Vec<Value> {
    let text = good(node.folder(), &["events", "--types", kind, "--json"]).await;
    let frames = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    frames.map(|frame| frame["data"].clone()).collect()
}

/// Waits until something of this type is told that has these values.
async fn hears(node: &Node, kind: &str, wanted: Value) -> Value {
    let found = std::cell::RefCell::new(Value::Null);
    until(&format!("{kind} {wanted}"), async || {
        let fits = |event: &Value| {
            wanted.as_object().unwrap().iter().all(|(name, value)| event["data"][name] == *value)
        };
        let event = told(node, kind).await.into_iter().rfind(fits);
        event.map(|event| found.replace(event)).is_some()
    })
    .await;
    found.into_inner()
}

#[tokio::test]
async fn a_node_tells_of_rollouts_refusals_demotions_and_its_store() {
    let folder = node::folder(
        "[node]\nname = \"one\"\nregion = \"here\"\nthreads = 1\n[listen]\npublic = [\"127.0.0.1:0\"]\n\
         [policies]\ninstances = 100\n[control]\nsqlite = \"store/control.db\"\n",
    );
    std::fs::create_dir(folder.path().join("store")).unwrap();
    std::fs::write(folder.path().join("policies/spins.wasm"), Guest::deciding(SPINS).component()).unwrap();
    let text = "[tenants]\nsources = [{ host_suffix = \".apps.test\" }]\n[region.here.pool.web]\nendpoints = [\"127.0.0.1:9\"]\n\
                [policy]\nuse = \"mine\"\n[tenant.acme.budget]\nfuel_burst = 10000000\nfuel_per_second = 1\n\
                [tenant.acme.policy]\nuse = \"spins\"\n";
    std::fs::write(folder.path().join("conf.d/all.toml"), text).unwrap();
    let passes = Guest::deciding("(i32.const 1)");
    std::fs::write(folder.path().join("policies/mine.wasm"), passes.component()).unwrap();
    good(folder.path(), &["apply"]).await;
    let own = folder.path();
    let (first, second) = (
        push(own, &passes.component()).await,
        push(own, &with_section(passes.component(), "note", b"two")).await,
    );
    let traps = push(own, &TRAPS.component()).await;
    good(own, &["rollout", "pin", "operator", &format!("mine@{first}")]).await;
    good(own, &["rollout", "unpin", "operator"]).await;
    let node = Node::start_in(folder).await;
    let own = node.folder();

    // What was done before the node began is no news; what is done from now on is told with who and why.
    let version = format!("mine@{second}");
    let started =
        good(own, &["rollout", "start", "operator", &version, "--canary", "10", "-m", "try it", "--json"])
            .await;
    let id = serde_json::from_str::<Value>(&started).unwrap()["id"].clone();
    let event = hears(&node, "rollout", json!({ "what": "start", "id": id })).await;
    let data = &event["data"];
    assert_eq!(
        (&data["slot"], &data["phase"], &data["percent"]),
        (&json!("operator"), &json!("canary"), &json!(10))
    );
    assert_eq!(
        (&data["message"], &data["candidate"], &data["stable"]),
        (&json!("try it"), &json!(second), &json!(first))
    );
    assert_eq!((event["tenant"].is_null(), data["plugin"].as_str()), (true, Some("mine")));
    good(own, &["rollout", "pause", "operator"]).await;
    hears(&node, "rollout", json!({ "what": "pause", "phase": "paused", "id": id })).await;
    good(own, &["rollout", "promote", "operator", "--full"]).await;
    hears(&node, "rollout", json!({ "what": "promote", "phase": "promoted", "stable": second })).await;
    good(own, &["rollout", "rollback", "operator", "-m", "worse"]).await;
    hears(&node, "rollout", json!({ "what": "rollback", "message": "worse", "stable": first })).await;
    assert_eq!(told(&node, "rollout").await.len(), 4, "each is told once");

    // A verdict says on what grounds, and the node that acted on it says so at once.
    good(
        own,
        &[
            "rollout",
            "start",
            "operator",
            &format!("mine@{traps}"),
            "--canary",
            "99",
            "--min-decisions",
            "20",
            "--affinity",
            "client",
        ],
    )
    .await;
    let asked = async |host: &str| {
        let mut client = Client::connect(node.public(), host).await.unwrap();
        client.get("/").await.unwrap()
    };
    until("the verdict", async || {
        for _ in 0..30 {
            assert_eq!(asked("any.apps.test").await.status, 200);
        }
        let status: Value =
            serde_json::from_str(&says(own, &["rollout", "status", "--json"]).await.1).unwrap();
        status[0]["phase"] == "aborted"
    })
    .await;
    let off = hears(&node, "rollout-taken-off", json!({ "slot": "operator" })).await;
    assert!(off["data"]["reason"].as_str().unwrap().contains("decisions failed"), "{off}");
    let aborted = hears(&node, "rollout", json!({ "what": "abort", "by": "node one" })).await;
    assert!(aborted["data"]["grounds"].as_str().unwrap().contains("decisions failed"), "{aborted}");

    std::fs::write(own.join("bad.wasm"), b"no component").unwrap();
    let (code, _) = says(own, &["plugin", "push", "mine", "bad.wasm", "--tenant", "acme"]).await;
    assert_eq!(code, 1);
    let refused = hears(&node, "upload-refused", json!({ "plugin": "mine", "stage": "screen" })).await;
    assert_eq!(refused["tenant"], "acme");
    assert!(refused["data"]["reason"].as_str().unwrap().contains("not WebAssembly"), "{refused}");

    // The operator's slot is emptied, so that the tenant's is asked.
    let text = text.replace("[policy]\nuse = \"mine\"\n", "");
    std::fs::write(own.join("conf.d/all.toml"), text).unwrap();
    good(own, &["apply"]).await;
    until("the demotion", async || {
        asked("acme.apps.test").await;
        !told(&node, "tenant-demoted").await.is_empty()
    })
    .await;
    let demoted = told(&node, "tenant-demoted").await.remove(0);
    assert_eq!((&demoted["tenant"], &demoted["data"]["fuel_burst"]), (&json!("acme"), &json!(10_000_000)));

    std::fs::rename(own.join("store"), own.join("away")).unwrap();
    let lost = hears(&node, "store-lost", json!({})).await;
    assert!(!lost["data"]["reason"].as_str().unwrap().is_empty(), "{lost}");
    std::fs::rename(own.join("away"), own.join("store")).unwrap();
    let back = hears(&node, "store-regained", json!({})).await;
    assert!(back["data"]["after_ms"].as_u64() > Some(0), "{back}");
    // People read a line each.
    let text = good(own, &["events", "--types", "store-lost,tenant-demoted"]).await;
    assert!(text.lines().count() == 2 && text.contains("tenant-demoted [acme]"), "{text}");
}
