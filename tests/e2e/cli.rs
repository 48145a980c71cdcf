//! The command line: what it prints, and with what it ends.

use std::path::Path;
use std::process::Output;

use portolan_tests::guests::responding;
use portolan_tests::node::{self, Node, run};
use portolan_tests::upstream::Upstream;
use serde_json::Value;

use crate::one_region;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn ends(output: &Output, code: i32, says: &str) {
    let all = text(&output.stdout) + &text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{all}");
    assert!(all.contains(says), "`{says}` is missing in\n{all}");
}

#[tokio::test]
async fn exit_codes_are_as_promised() {
    let folder = tempfile::tempdir().unwrap();
    ends(&run(folder.path(), &["version"]).await, 0, "portolan 0.1.0");
    ends(&run(folder.path(), &["--help"]).await, 0, "Usage");
    ends(&run(folder.path(), &["serve", "--nonsense"]).await, 64, "--nonsense");
    ends(&run(folder.path(), &["nonsense"]).await, 64, "nonsense");
    ends(&run(folder.path(), &["serve"]).await, 1, "portolan init");
    ends(&run(folder.path(), &["status", "--socket", "none.sock"]).await, 1, "is it running?");
    ends(&run(folder.path(), &["policies"]).await, 0, "nearest-region");
    ends(&run(folder.path(), &["completions", "bash"]).await, 0, "_portolan");
    ends(&run(folder.path(), &["man", "man"]).await, 0, "");
    assert!(folder.path().join("man/portolan-serve.1").is_file());
    let schema: Value = serde_json::from_slice(&run(folder.path(), &["schema"]).await.stdout).unwrap();
    assert_eq!(schema["properties"]["node"]["$ref"], "#/$defs/RawNode");
}

#[tokio::test]
async fn init_writes_a_configuration_that_is_good_and_keeps_one_that_is_there() {
    let folder = tempfile::tempdir().unwrap();
    ends(&run(folder.path(), &["init"]).await, 0, "portolan serve");
    ends(&run(folder.path(), &["validate"]).await, 0, "is good");
    ends(&run(folder.path(), &["init"]).await, 1, "--force");
    ends(&run(folder.path(), &["init", "sub/folder"]).await, 0, "--config sub/folder/portolan.toml");
}

#[tokio::test]
async fn validate_tells_every_problem_where_it_is_and_refused_policies() {
    let folder = node::folder(
        "[node]\nregion = \"a\"\n[listen]\npublik = []\n[region.a.pool.web]\nendpoints = [\"x\"]\n",
    );
    let output = run(folder.path(), &["validate"]).await;
    ends(&output, 1, "did you mean `public`?");
    ends(&output, 1, "portolan.toml:4:1");
    let json: Value =
        serde_json::from_slice(&run(folder.path(), &["validate", "--json"]).await.stdout).unwrap();
    assert_eq!((&json["ok"], json["problems"].as_array().map(Vec::len)), (&Value::Bool(false), Some(1)));

    let upstream = Upstream::start("web").await;
    let folder = node::folder(&one_region(
        &[&upstream],
        "[policy]\nuse = \"nearest-region\"\nconfig = { pol = \"web\" }\n",
    ));
    ends(&run(folder.path(), &["validate"]).await, 1, "operator: config: ");
    ends(&run(folder.path(), &["validate", "--no-policies"]).await, 0, "is good");
    ends(&run(folder.path(), &["serve"]).await, 1, "the operator's policy is refused");
}

#[tokio::test]
async fn explain_shows_each_step_and_why_a_target_was_rejected() {
    let upstream = Upstream::start("web").await;
    let more = "[region.away.pool.web]\nendpoints = [\"127.0.0.1:9\"]\n[residency.only-away]\nregions = [\"away\"]\n\
                [tenants]\nsources = [{ header = \"x-tenant\" }]\n[tenant.acme]\nresidency = \"only-away\"\n\
                [policy]\nuse = \"nearest-region\"\nconfig = { pool = \"web\" }\n";
    let node = Node::start(&one_region(&[&upstream], more)).await;
    let output =
        run(node.folder(), &["explain", "GET", "http://shop.test/cart", "-H", "x-tenant: acme"]).await;
    ends(&output, 0, "tenant: acme, residency class only-away");
    ends(&output, 0, "rule 0 (near-away): client.region is away: no");
    ends(&output, 0, "- forward to web in here (nearest-region): rejected");
    ends(&output, 0, "=> forward to web in away");
    let arguments =
        ["explain", "GET", "http://shop.test/", "--tenant", "other", "--region", "away", "--json"];
    let json: Value = serde_json::from_slice(&run(node.folder(), &arguments).await.stdout).unwrap();
    assert_eq!(json["policies"][0]["rule"], "near-away");
    ends(&run(node.folder(), &["explain", "GET", "not a url"]).await, 1, "URL");
}

#[tokio::test]
async fn plugin_check_loads_and_plans_and_says_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("good.wasm"), responding("hello")).unwrap();
    std::fs::write(folder.path().join("bad.wasm"), "nothing").unwrap();
    ends(&run(folder.path(), &["plugin", "check", "good.wasm"]).await, 0, "2 rules, 2 answers");
    ends(&run(folder.path(), &["plugin", "check", "bad.wasm"]).await, 1, "refused at screen");
    let json = run(folder.path(), &["plugin", "check", "good.wasm", "--json"]).await;
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&json["ok"], &json["plan"]["rules"]), (&Value::Bool(true), &2.into()));
}

#[tokio::test]
async fn plugin_new_makes_a_crate_whose_native_test_passes() {
    let folder = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let sdk = root.join("plugins/sdk/rust").display().to_string();
    ends(
        &run(folder.path(), &["plugin", "new", "my-policy", "--sdk", &sdk]).await,
        0,
        "portolan plugin build",
    );
    ends(&run(folder.path(), &["plugin", "new", "my-policy", "--sdk", &sdk]).await, 1, "is there already");
    ends(&run(folder.path(), &["plugin", "new", "My Policy"]).await, 1, "not a name");
    let cargo = tokio::process::Command::new("cargo")
        .current_dir(folder.path().join("my-policy"))
        .args(["test", "--quiet"])
        .env("CARGO_TARGET_DIR", root.join("target/plugins-native"))
        .output()
        .await
        .unwrap();
    assert!(cargo.status.success(), "{}", text(&cargo.stderr));
    ends(&run(folder.path(), &["plugin", "wit", "wit"]).await, 0, "portolan:policy@0.1.0");
    assert!(folder.path().join("wit/routing.wit").is_file());
}

#[tokio::test]
async fn the_demo_keeps_its_promises_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = tokio::process::Command::new(node::program());
    command.args(["demo", "--json", "--exit-after", "25s"]).env("TMPDIR", folder.path()).kill_on_drop(true);
    let output = command.output().await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{}\n{}", text(&output.stdout), text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object and nothing else");
    assert_eq!(report["ok"], true);
    let names: Vec<&str> =
        report["phases"].as_array().unwrap().iter().filter_map(|phase| phase["name"].as_str()).collect();
    assert_eq!(names, ["steady", "swap", "residency", "shards", "kill", "return"]);
    assert!(report["phases"].as_array().unwrap().iter().all(|phase| phase["failures"] == 0));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "no file is left");
}
