//! The control store: several nodes follow one store of intent; what is applied reaches all of them, and what is wrong
//! reaches none.

use std::path::Path;

use portolan_tests::client;
use portolan_tests::etcd::Cluster;
use portolan_tests::guests::responding;
use portolan_tests::node::{self, Node, run};
use portolan_tests::upstream::Upstream;
use portolan_tests::{PATIENCE, until};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

/// A folder of a node whose intent is elsewhere.
fn folder(name: &str, control: &str) -> TempDir {
    node::folder(&format!(
        "[node]\nname = \"{name}\"\nregion = \"here\"\nthreads = 1\n[listen]\npublic = [\"127.0.0.1:0\"]\n\
         [policies]\ninstances = 100\n{control}"
    ))
}

fn sqlite(place: &TempDir) -> String {
    format!("[control]\nsqlite = {:?}\n", place.path().join("control.db"))
}

fn etcd(cluster: &Cluster) -> String {
    format!("[control.etcd]\nendpoints = {:?}\n", cluster.endpoints())
}

/// What all nodes share: one pool, and what comes with it.
fn write(folder: &Path, upstream: &Upstream, more: &str) {
    let text = format!(
        "[expose]\ndecision = true\n[region.here.pool.web]\nendpoints = [\"{}\"]\n{more}",
        upstream.address
    );
    std::fs::write(folder.join("conf.d/all.toml"), text).unwrap();
}

/// Runs a command in a folder; gives its exit code and all that it said.
async fn says(folder: &Path, arguments: &[&str]) -> (i32, String) {
    let output = run(folder, arguments).await;
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), text.into_owned())
}

/// Applies, and gives the generation.
async fn apply(folder: &Path) -> u64 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (code, text) = says(folder, &["apply", "--json"]).await;
        if code == 0 {
            return serde_json::from_str::<Value>(&text).unwrap()["generation"].as_u64().unwrap();
        }
        // A cluster that has just begun elects first.
        let electing = text.contains("does not answer") || text.contains("went away");
        assert!(electing && Instant::now() < deadline, "{text}");
    }
}

async fn control(node: &Node) -> Value {
    node.status().await["control"].clone()
}

async fn runs(node: &Node, generation: u64) {
    until("the generation", async || control(node).await["running"] == generation).await;
}

#[tokio::test]
async fn what_is_applied_reaches_every_node_and_what_is_wrong_none() {
    let (place, upstream) = (tempfile::tempdir().unwrap(), Upstream::start("web").await);
    let one = folder("one", &sqlite(&place));
    let (code, text) = says(one.path(), &["serve"]).await;
    assert!(code == 1 && text.contains("`portolan apply` puts conf.d into it"), "{text}");
    write(one.path(), &upstream, "");
    let (code, text) = says(one.path(), &["apply", "--dry-run"]).await;
    assert!(code == 2 && text.contains("+ region/here (the file conf.d/all.toml)"), "{text}");
    assert_eq!(apply(one.path()).await, 1);
    assert_eq!(apply(one.path()).await, 1, "nothing has changed");
    let one = Node::start_in(one).await;
    let two = Node::start_in(folder("two", &sqlite(&place))).await;
    for node in [&one, &two] {
        assert_eq!(client::get(node.public(), "a", "/").await.unwrap().status, 200);
    }

    // A change reaches both; each tells which generation it runs.
    let policy = "[policy]\nuse = \"weighted\"\nconfig = { shares = [{ pool = \"web\", percent = 100 }] }\n";
    write(one.folder(), &upstream, policy);
    assert_eq!(apply(one.folder()).await, 2);
    for node in [&one, &two] {
        runs(node, 2).await;
        let answer = client::get(node.public(), "a", "/").await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.header("portolan-policy")), (200, "weighted"));
    }

    until("the reports", async || {
        let nodes = one.status().await["nodes"].clone();
        nodes
            .as_array()
            .is_some_and(|nodes| nodes.len() == 2 && nodes.iter().all(|node| node["running"] == 2))
    })
    .await;
    let (_, text) = says(one.folder(), &["status"]).await;
    assert!(text.contains("two            in here: portolan 0.1.0, generation 2\n"), "{text}");
    let metrics = one.ask_plain("GET", "/api/v1/metrics", Value::Null).await.unwrap().text();
    assert!(metrics.contains("portolan_control_running 2\n"), "{metrics}");
    assert!(metrics.contains("portolan_control_connected 1\n"), "{metrics}");

    // What no node could run is refused before it is made, with the object that is wrong.
    for (more, says_so) in [
        ("[tenant.acme]\nresidency = \"nowhere\"\n", "there is no residency class `nowhere`"),
        ("[tenant.acme]\nresidency = \"nowhere\"\n", "conf.d/all.toml:6:13"),
        ("[listen]\npublic = []\n", "`listen` is each node's own"),
        ("[tenant.acme", "all.toml"),
        ("[tenent.acme]\n", "`tenent` is each node's own"),
    ] {
        write(one.folder(), &upstream, more);
        let (code, text) = says(one.folder(), &["apply"]).await;
        assert!(code == 3 && text.contains(says_so), "{text}");
    }
    write(one.folder(), &upstream, "[tenant.acme]\n");
    one.write("conf.d/twice.toml", "[tenant.acme]\n");
    let (code, text) = says(one.folder(), &["apply"]).await;
    assert!(code == 3 && text.contains("`tenant/acme` is in conf.d/all.toml already"), "{text}");
    assert_eq!(control(&two).await["wanted"], 2);

    // What a file no longer says is gone; going back is a generation of its own.
    std::fs::remove_file(one.folder().join("conf.d/twice.toml")).unwrap();
    assert_eq!(apply(one.folder()).await, 3);
    let (code, text) = says(one.folder(), &["revert", "2", "-m", "acme must wait"]).await;
    assert!(
        code == 0 && text.contains("- tenant/acme") && text.contains("undo: portolan revert 3"),
        "{text}"
    );
    runs(&two, 4).await;
    let answer = client::get(two.public(), "a", "/").await.unwrap();
    assert_eq!(answer.header("portolan-policy"), "weighted");
    let (_, text) = says(one.folder(), &["generations", "-n", "2"]).await;
    assert!(text.contains("by revert: acme must wait") && text.lines().count() == 4, "{text}");
    let (code, text) = says(one.folder(), &["revert", "9"]).await;
    assert!(code == 4 && text.contains("there is no generation 9: the newest is 4"), "{text}");
    let (code, text) = says(one.folder(), &["validate"]).await;
    assert!(code == 0 && text.contains("is good"), "{text}");
}

#[tokio::test]
async fn without_its_store_a_node_serves_on_starts_again_and_goes_back() {
    let (place, upstream) = (tempfile::tempdir().unwrap(), Upstream::start("web").await);
    let text = sqlite(&place).replace("control.db", "store/control.db");
    let (store, away) = (place.path().join("store"), place.path().join("away"));
    std::fs::create_dir(&store).unwrap();
    let own = folder("one", &text);
    write(own.path(), &upstream, "");
    apply(own.path()).await;
    let node = Node::start_in(own).await;
    write(node.folder(), &upstream, "[tenant.acme]\n");
    apply(node.folder()).await;
    runs(&node, 2).await;
    until("the generation on disk", async || {
        node.folder().join(format!(".portolan/generations/{:020}.json", 2)).is_file()
    })
    .await;
    std::fs::rename(&store, &away).unwrap();
    until("the loss", async || control(&node).await["health"]["is"] == "away").await;
    assert_eq!(client::get(node.public(), "a", "/").await.unwrap().status, 200);
    let (code, text) = says(node.folder(), &["status"]).await;
    assert!(code == 2 && text.contains("generation 2 runs; LOST"), "{text}");
    let (code, text) = says(node.folder(), &["apply"]).await;
    assert!(code == 1 && text.contains("does not answer"), "{text}");

    // It also starts without the store, and with a generation of the past.
    let node = node.restarted(&[]).await;
    assert_eq!(client::get(node.public(), "a", "/").await.unwrap().status, 200);
    assert_eq!(control(&node).await["running"], 2);
    let node = node.restarted(&["--generation", "1"]).await;
    assert_eq!(
        control(&node).await,
        json!({ "applied_after_ms": null, "health": null, "running": 1, "wanted": 1 })
    );
    let (_, text) = says(node.folder(), &["status"]).await;
    assert!(text.contains("PINNED"), "{text}");

    // When the store is back it goes on from there.
    let node = node.restarted(&[]).await;
    std::fs::rename(&away, &store).unwrap();
    until("the return", async || control(&node).await["health"]["is"] == "connected").await;
    write(node.folder(), &upstream, "");
    apply(node.folder()).await;
    runs(&node, 3).await;
}

#[tokio::test]
async fn three_nodes_follow_one_etcd_of_which_a_member_dies() {
    let (mut cluster, upstream) = (Cluster::start(3), Upstream::start("web").await);
    let folders = ["one", "two", "three"].map(|name| folder(name, &etcd(&cluster)));
    write(folders[0].path(), &upstream, "");
    apply(folders[0].path()).await;
    let mut nodes = Vec::new();
    for folder in folders {
        nodes.push(Node::start_in(folder).await);
    }
    cluster.kill(0);
    for tenant in 0..5 {
        write(nodes[0].folder(), &upstream, &format!("[tenant.t{tenant}]\n"));
        let generation = apply(nodes[0].folder()).await;
        for node in &nodes {
            runs(node, generation).await;
            assert_eq!(client::get(node.public(), "a", "/").await.unwrap().status, 200);
        }
    }
    cluster.revive(0);
    cluster.kill(1);
    write(nodes[0].folder(), &upstream, "");
    let generation = apply(nodes[0].folder()).await;
    for node in &nodes {
        runs(node, generation).await;
    }
}

/// A version is pushed once and runs on every node; whatever happens to files, a node runs those bytes or says why not.
#[tokio::test]
async fn a_pushed_version_runs_on_every_node() {
    let (place, upstream) = (tempfile::tempdir().unwrap(), Upstream::start("web").await);
    let own = folder("one", &sqlite(&place));
    std::fs::write(own.path().join("first.wasm"), responding("first")).unwrap();
    std::fs::write(own.path().join("second.wasm"), responding("second")).unwrap();
    std::fs::write(own.path().join("broken.wasm"), b"no component").unwrap();
    let (code, text) = says(own.path(), &["plugin", "push", "mine", "broken.wasm"]).await;
    assert!(code == 1 && text.contains("refused at screen"), "{text}");
    let mut versions = Vec::new();
    for file in ["first.wasm", "second.wasm"] {
        let (code, text) = says(own.path(), &["plugin", "push", "mine", file, "--json"]).await;
        let told: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((code, &told["new"]), (0, &json!(true)), "{text}");
        versions.push(told["version"].as_str().unwrap().to_owned());
    }
    let (_, text) = says(own.path(), &["plugin", "push", "mine", "first.wasm", "--json"]).await;
    let told: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&told["new"], &told["generation"]),
        (&json!(false), &json!(1)),
        "pushed once is known since then"
    );
    let (_, text) = says(own.path(), &["plugin", "versions", "mine"]).await;
    assert!(text.lines().count() == 2 && versions.iter().all(|version| text.contains(version)), "{text}");

    let policy = |version: &str| format!("[policy]\nuse = \"mine\"\nversion = \"{version}\"\n");
    write(own.path(), &upstream, &policy(&"ab".repeat(32)));
    let (code, text) = says(own.path(), &["apply"]).await;
    assert!(code == 3 && text.contains("the store has no version abababababab of mine"), "{text}");
    write(own.path(), &upstream, &policy("latest"));
    let (code, text) = says(own.path(), &["apply"]).await;
    assert!(code == 3 && text.contains("this is no version"), "{text}");
    write(own.path(), &upstream, &policy(&versions[0]));
    let generation = apply(own.path()).await;

    // A file of the same name in a node's own folder changes nothing.
    let one = Node::start_in(own).await;
    let two = folder("two", &sqlite(&place));
    std::fs::write(two.path().join("policies/mine.wasm"), responding("another")).unwrap();
    let two = Node::start_in(two).await;
    for node in [&one, &two] {
        runs(node, generation).await;
        assert_eq!(client::get(node.public(), "a", "/").await.unwrap().text(), "first");
    }
    write(one.folder(), &upstream, &policy(&versions[1]));
    let generation = apply(one.folder()).await;
    for node in [&one, &two] {
        runs(node, generation).await;
        assert_eq!(client::get(node.public(), "a", "/").await.unwrap().text(), "second");
    }

    // With its own copy a node starts though the shared place is away; a copy that is broken is fetched anew.
    let (shared, away) = (place.path().join("components"), place.path().join("away"));
    std::fs::rename(&shared, &away).unwrap();
    let two = two.restarted(&[]).await;
    assert_eq!(client::get(two.public(), "a", "/").await.unwrap().text(), "second");
    std::fs::rename(&away, &shared).unwrap();
    let copy = two.folder().join(format!(".portolan/components/{}.wasm", versions[1]));
    std::fs::write(&copy, b"broken").unwrap();
    let two = two.restarted(&[]).await;
    assert_eq!(client::get(two.public(), "a", "/").await.unwrap().text(), "second");

    // A node that cannot fetch what is wanted keeps what it runs, and says so.
    std::fs::write(shared.join(format!("{}.wasm", versions[0])), b"other bytes").unwrap();
    std::fs::remove_file(two.folder().join(format!(".portolan/components/{}.wasm", versions[0]))).unwrap();
    write(one.folder(), &upstream, &policy(&versions[0]));
    let generation = apply(one.folder()).await;
    runs(&one, generation).await;
    until("the problem", async || {
        two.status()
            .await
            .to_string()
            .contains("the shared place holds other bytes under the name of component")
    })
    .await;
    assert_eq!(client::get(two.public(), "a", "/").await.unwrap().text(), "second");
    assert_eq!(control(&two).await["running"], generation - 1);
    until("the other node hears of it", async || {
        one.status().await["nodes"].to_string().contains("operator: the policy is refused")
    })
    .await;
    // Pushed again it is right again, and taken over without anybody's hand.
    std::fs::remove_file(shared.join(format!("{}.wasm", versions[0]))).unwrap();
    let (code, text) = says(one.folder(), &["plugin", "push", "mine", "first.wasm"]).await;
    assert!(code == 0 && text.contains("(known already)"), "{text}");
    runs(&two, generation).await;
    assert_eq!(client::get(two.public(), "a", "/").await.unwrap().text(), "first");
}
