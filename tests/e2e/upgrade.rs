//! A node goes on from what an older portolan left on disk, and refuses what a newer one did.
//!
//! `fixtures/recorded-0.1` is the folder of a node as portolan 0.1.0 left it: its own file, a control store of six generations with
//! its components, its state folder with the last generations, the record of an upload and an hour of usage. It was recorded with
//! `portolan apply`, `plugin push`, `rollout pin`, `token create`, requests and SIGTERM, and is never written again: what comes
//! later has to read it.

use std::path::{Path, PathBuf};

use portolan_tests::client;
use portolan_tests::node::{self, Node};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{good, says};

/// The version that the recorded slot is pinned to answers so.
const SAYS: &str = "recorded";

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/recorded-0.1")
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to)
        } else {
            _ = std::fs::copy(entry.path(), &to).unwrap()
        }
    }
}

/// The recorded folder, where a program may write. Usage is kept for weeks: what was used then was used in this hour.
fn recorded() -> TempDir {
    let folder = node::folder("");
    copy(&fixture(), folder.path());
    // No clone keeps names that begin with a dot from being forgotten by some tool or other.
    std::fs::rename(folder.path().join("state"), folder.path().join(".portolan")).unwrap();
    let hour = portolan_foundation::clock::unix_ms() / 3_600_000;
    let used = folder.path().join(".portolan/usage");
    let file = std::fs::read_dir(&used).unwrap().next().unwrap().unwrap().path();
    let mut counted: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    counted["hour"] = json!(hour);
    std::fs::write(used.join(format!("{hour:010}.json")), counted.to_string()).unwrap();
    std::fs::remove_file(file).unwrap();
    folder
}

async fn serves(node: &Node) {
    let answer = client::get(node.public(), "any.apps.test", "/").await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, SAYS));
}

#[tokio::test]
async fn a_node_starts_from_what_0_1_left_with_its_store_and_without() {
    let node = Node::start_in(recorded()).await;
    serves(&node).await;
    let status = node.status().await;
    let control = &status["control"];
    assert_eq!(
        (&control["running"], &control["health"]["is"]),
        (&json!(6), &json!("connected")),
        "{control}"
    );
    // All that was written then is read: the log, rollouts, versions, tokens, uploads, usage.
    let own = node.folder();
    let log = good(own, &["audit", "--verify"]).await;
    assert!(log.contains('6'), "{log}");
    let rollout = good(own, &["rollout", "status", "operator", "--json"]).await;
    let rollout: Value = serde_json::from_str(&rollout).unwrap();
    assert_eq!((&rollout[0]["pinned"], &rollout[0]["plugin"]), (&json!(true), &json!("mine")), "{rollout}");
    for (command, has) in [
        (vec!["plugin", "versions"], "mine"),
        (vec!["plugin", "uploads"], "mine"),
        (vec!["token", "list"], "recorded-token"),
        (vec!["generations"], "by rollout"),
        (vec!["usage", "export"], ",any,"),
    ] {
        let text = good(own, &command).await;
        assert!(text.contains(has), "{command:?}: {text}");
    }
    // And written to.
    std::fs::write(own.join("conf.d/more.toml"), "[tenant.later]\n").unwrap();
    good(own, &["apply"]).await;
    assert_eq!(node.ask("GET", "/api/v1/generations/7", Value::Null).await.unwrap()["generation"], 7);

    // The same without the store, from the node's own disk.
    let folder = recorded();
    std::fs::remove_dir_all(folder.path().join("store")).unwrap();
    let node = Node::start_in(folder).await;
    serves(&node).await;
    let control = node.status().await["control"].clone();
    assert_eq!((&control["running"], &control["health"]["is"]), (&json!(6), &json!("away")), "{control}");
}

#[tokio::test]
async fn what_a_newer_portolan_left_is_refused_with_what_to_do() {
    let folder = recorded();
    let newer =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/control/newer/00000000000000000003.json");
    // The number is in the name alone: the form is found to be unknown before anything else is read.
    let generations = folder.path().join(".portolan/generations");
    std::fs::copy(newer, generations.join("00000000000000000007.json")).unwrap();
    // With its store, a node needs nothing of its own disk.
    let node = Node::start_in(folder).await;
    serves(&node).await;
    drop(node);

    let folder = recorded();
    let newer =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/control/newer/00000000000000000003.json");
    std::fs::copy(newer, folder.path().join(".portolan/generations/00000000000000000007.json")).unwrap();
    std::fs::remove_dir_all(folder.path().join("store")).unwrap();
    let (code, text) = says(folder.path(), &["serve"]).await;
    assert_ne!(code, 0);
    for part in ["is of format 2", "this program reads 1", "a newer portolan wrote it", "Start that version"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    // One of the ways out that it names.
    let node = Node::start_within(folder, &["--generation", "6"], portolan_tests::PATIENCE).await;
    serves(&node).await;
}
