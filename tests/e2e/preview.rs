//! A signed header has one request decided by a version that no slot runs: who gets it, how far it reaches, when it ends.

use std::path::Path;

use http::Request;
use portolan_tests::client::{Answer, Client};
use portolan_tests::guests::{Guest, responding};
use portolan_tests::node::{self, Node, run};
use portolan_tests::until;
use serde_json::{Value, json};

/// Plans where the configuration has two characters, and with no other.
const CHOOSY: Guest<'static> = Guest {
    plan: "(if (i32.ne (local.get $length) (i32.const 2)) (then (unreachable))) (call $always (call $answer))",
    decide: None,
    more: "",
};
/// Some 1,500,000 units of fuel: most of what a call may take.
const SPINS: &str = "(local $left i32) (local.set $left (i32.const 250000))
    (loop $again (local.set $left (i32.sub (local.get $left) (i32.const 1))) (br_if $again (local.get $left))) (i32.const 0)";

async fn says(folder: &Path, arguments: &[&str]) -> (i32, String) {
    let output = run(folder, arguments).await;
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), text.into_owned())
}

/// Pushes a version of `mine` for `acme`; gives its digest.
async fn push(folder: &Path, component: &[u8]) -> String {
    std::fs::write(folder.join("pushed.wasm"), component).unwrap();
    let push = ["plugin", "push", "mine", "pushed.wasm", "--tenant", "acme", "--json"];
    let (code, text) = says(folder, &push).await;
    assert_eq!(code, 0, "{text}");
    serde_json::from_str::<Value>(&text).unwrap()["version"].as_str().unwrap().to_owned()
}

async fn apply(folder: &Path, version: &str, config: &str) {
    let text = format!(
        "[expose]\ndecision = true\n[tenants]\nsources = [{{ host_suffix = \".apps.test\" }}]\n\
         [region.here.pool.web]\nendpoints = [\"127.0.0.1:9\"]\n[tenant.globex]\n[tenant.acme.budget]\n\
         fuel_burst = 30000000\nfuel_per_second = 1\n[tenant.acme.policy]\nuse = \"mine\"\nversion = \"{version}\"\n{config}"
    );
    std::fs::write(folder.join("conf.d/all.toml"), text).unwrap();
    let (code, text) = says(folder, &["apply"]).await;
    assert_eq!(code, 0, "{text}");
}

/// A node whose tenant `acme` runs one version.
async fn node(component: &[u8]) -> (Node, String) {
    let folder = node::folder(
        "[node]\nname = \"one\"\nregion = \"here\"\nthreads = 1\n[listen]\npublic = [\"127.0.0.1:0\"]\n\
         [policies]\ninstances = 100\n[control]\nsqlite = \"control.db\"\n",
    );
    std::fs::write(
        folder.path().join("conf.d/all.toml"),
        "[region.here.pool.web]\nendpoints = [\"127.0.0.1:9\"]\n[tenant.acme]\n",
    )
    .unwrap();
    let (code, text) = says(folder.path(), &["apply"]).await;
    assert_eq!(code, 0, "{text}");
    let version = push(folder.path(), component).await;
    apply(folder.path(), &version, "").await;
    (Node::start_in(folder).await, version)
}

async fn word(node: &Node, slot: &str, version: &str, more: &[&str]) -> String {
    let output = run(node.folder(), &[&["token", "preview", slot, version][..], more].concat()).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

async fn ask(node: &Node, host: &str, word: Option<&str>) -> Answer {
    let mut client = Client::connect(node.public(), host).await.unwrap();
    let request =
        word.into_iter().fold(Request::get("/"), |request, word| request.header("portolan-preview", word));
    client.send(request, bytes::Bytes::new()).await.unwrap()
}

#[tokio::test]
async fn one_request_is_decided_by_a_version_that_nothing_runs() {
    let (node, stable) = node(&responding("stable")).await;
    let better = push(node.folder(), &responding("better")).await;
    let short = better.get(..12).unwrap();
    let generation = node.generation().await;
    let word = word(&node, "tenant.acme", &format!("mine@{short}"), &["--for", "5m"]).await;
    let answer = ask(&node, "acme.apps.test", Some(&word)).await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "better"));
    assert_eq!(answer.header("portolan-preview"), format!("mine@{better}; slot=tenant.acme; answered"));
    assert_eq!(answer.header("portolan-policy-version"), short);
    assert_eq!(answer.header("cache-control"), "private, no-store");
    // Others notice nothing, and nothing was swapped.
    let usual = ask(&node, "acme.apps.test", None).await;
    assert_eq!((usual.text().as_str(), usual.header("portolan-preview")), ("stable", ""));
    assert_eq!(node.generation().await, generation);
    // It is for one tenant, and a changed word is for nobody.
    for (host, word) in
        [("globex.apps.test", word.clone()), ("acme.apps.test", word.replace(short, "000000000000"))]
    {
        let refused = ask(&node, host, Some(&word)).await;
        assert_eq!(
            (refused.status.as_u16(), refused.header("content-type")),
            (403, "application/problem+json")
        );
        assert!(refused.text().contains("preview-refused"), "{}", refused.text());
    }
    let ended = self::word(&node, "tenant.acme", &better, &["--for", "1s"]).await;
    until("the word's end", async || ask(&node, "acme.apps.test", Some(&ended)).await.status == 403).await;

    // A node that has not planned it yet says when to come again, and nobody waits.
    let node = node.restarted(&[]).await;
    let soon = ask(&node, "acme.apps.test", Some(&word)).await;
    assert_eq!((soon.status.as_u16(), soon.header("retry-after")), (503, "1"), "{}", soon.text());
    until("the version is planned", async || {
        ask(&node, "acme.apps.test", Some(&word)).await.text() == "better"
    })
    .await;

    // A version that is no more decides nothing, whoever has a word for it.
    let (code, text) =
        says(node.folder(), &["plugin", "remove", &format!("mine@{better}"), "--tenant", "acme"]).await;
    assert_eq!(code, 0, "{text}");
    until("the version's end", async || ask(&node, "acme.apps.test", Some(&word)).await.status == 403).await;
    let (code, text) = says(node.folder(), &["token", "preview", "tenant.acme", &better]).await;
    assert!(code > 0 && text.contains("the store has no version"), "{text}");
    assert_eq!(
        ask(&node, "acme.apps.test", None).await.header("portolan-policy-version"),
        stable.get(..12).unwrap()
    );
}

#[tokio::test]
async fn who_makes_a_tenants_policies_gets_words_for_its_slot_alone() {
    let (node, _) = node(&responding("stable")).await;
    let better = push(node.folder(), &responding("better")).await;
    let token = async |name: &str, role: &str, tenant: Option<&str>| {
        let wanted = json!({ "name": name, "role": role, "tenant": tenant });
        let made = node.ask("POST", "/api/v1/tokens", wanted).await.unwrap();
        format!("Bearer {}", made["token"].as_str().unwrap())
    };
    let (dev, auditor) =
        (token("dev", "tenant-dev", Some("acme")).await, token("auditor", "auditor", None).await);
    let order = async |token: &str, slot: &str, body: Value| {
        let path = format!("/api/v1/previews/{slot}");
        node.ask_with("POST", &path, &[("authorization", token)], body).await.unwrap()
    };
    let wanted = json!({ "version": better });
    for (token, slot, body, status, says) in [
        (&dev, "tenant.acme", wanted.clone(), 200, "\"word\""),
        (&dev, "tenant.globex", wanted.clone(), 404, "no slot that you may see"),
        (&dev, "operator", wanted.clone(), 404, "no slot that you may see"),
        (&auditor, "tenant.acme", wanted.clone(), 403, "preview:write"),
        (
            &dev,
            "tenant.acme",
            json!({ "version": better, "tenant": "globex" }),
            409,
            "its own tenant's requests alone",
        ),
        (&dev, "tenant.acme", json!({ "version": better, "expires_in_s": 3_601 }), 400, "1 to 3600 seconds"),
        (
            &dev,
            "tenant.acme",
            json!({ "version": "other@abcdefabcdef" }),
            409,
            "runs the plugin mine, not other",
        ),
        (&dev, "tenant.acme", json!({ "version": "abcdefabcdef" }), 404, "has no version"),
    ] {
        let answer = order(token, slot, body).await;
        assert_eq!(answer.status.as_u16(), status, "{slot}: {}", answer.text());
        assert!(answer.text().contains(says), "{slot}: {}", answer.text());
    }
    // It is told to whoever listens, without the word.
    let (_, events) = says(node.folder(), &["events", "--types", "preview", "--json"]).await;
    assert!(events.contains("tenant/acme: dev [token ") && events.contains(&better), "{events}");
    assert!(!events.contains("p1:preview"), "{events}");
}

#[tokio::test]
async fn a_version_that_is_refused_or_eats_its_budget_hurts_its_own_tenant_alone() {
    let (node, stable) = node(&responding("stable")).await;
    let choosy = push(node.folder(), &CHOOSY.component()).await;
    let spins = push(node.folder(), &Guest::deciding(SPINS).component()).await;
    // With the slot's configuration of today it does not plan.
    apply(node.folder(), &stable, "[tenant.acme.policy.config]\na = 1\n").await;
    until("the configuration", async || {
        node.status().await["configuration"]["slots"].to_string().contains("\"a\":1")
            || says(node.folder(), &["token", "preview", "tenant.acme", &choosy])
                .await
                .1
                .contains("refused at plan")
    })
    .await;
    let (code, text) = says(node.folder(), &["token", "preview", "tenant.acme", &choosy]).await;
    assert!(code > 0 && text.contains("refused at plan") && text.contains("unreachable"), "{code} {text}");

    // What its decisions cost is the tenant's: when that is used up, its table answers, and others are asked as ever.
    let word = word(&node, "tenant.acme", &spins, &[]).await;
    until("the budget's end", async || {
        assert_eq!(ask(&node, "acme.apps.test", Some(&word)).await.text(), "here");
        let quota = node.ask("GET", "/api/v1/tenants/acme/quota", Value::Null).await.unwrap();
        quota["budget"]["demoted"] == true && quota["cost"]["calls"].as_u64() > Some(5)
    })
    .await;
    assert_eq!(ask(&node, "acme.apps.test", None).await.text(), "stable");
}
