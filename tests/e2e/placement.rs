//! On which shard tenants are, by a policy: new ones are placed as they come, others are moved by a checked plan, and shards come
//! and go.

use std::path::Path;

use portolan_tests::node::{self, Node, run};
use portolan_tests::until;
use portolan_tests::upstream::Upstream;
use tempfile::TempDir;

use super::shards::{ask, token};

const ORDERS: &str = "CREATE TABLE orders (tenant text NOT NULL, id integer NOT NULL, total text, \
    PRIMARY KEY (tenant, id)) STRICT;\n";

/// A node of region `here` with the shards `s1` and `s2`, whose rules lead to `s1`.
fn folder(place: &Path, upstream: &Upstream) -> TempDir {
    let folder = node::folder(&format!(
        "[node]\nname = \"one\"\nregion = \"here\"\nthreads = 1\n[listen]\npublic = [\"127.0.0.1:0\"]\n\
         [policies]\ninstances = 100\n[control]\nsqlite = {:?}\n",
        place.join("control.db")
    ));
    let mut shared = format!(
        "[tenants]\nsources = [{{ header = \"x-tenant\" }}]\nknown_only = true\n[region.here.pool.web]\nendpoints = [\"{}\"]\n\
         [table.orders]\ntenant = \"tenant\"\nkey = [\"tenant\", \"id\"]\n",
        upstream.address
    );
    for shard in ["s1", "s2"] {
        let file = place.join(format!("{shard}.db"));
        shared +=
            &format!("[shard.{shard}]\nprimary = \"here\"\n[shard.{shard}.store.here]\nsqlite = {file:?}\n");
    }
    std::fs::write(folder.path().join("conf.d/all.toml"), shared).unwrap();
    let migrations = folder.path().join("migrations/sqlite");
    std::fs::create_dir_all(&migrations).unwrap();
    std::fs::write(migrations.join("0001_create_orders.sql"), ORDERS).unwrap();
    folder
}

async fn says(folder: &Path, arguments: &[&str]) -> (i32, String) {
    let output = run(folder, arguments).await;
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), text.into_owned())
}

#[track_caller]
fn told((code, text): (i32, String), wanted: i32, says: &str) -> String {
    assert!(code == wanted && text.contains(says), "{code}, expected {wanted}: {says}\n{text}");
    text
}

/// Who is to be placed how, and who there is.
fn write(folder: &Path, policy: &str, tenants: &[&str]) {
    let mut text = format!(
        "[placement]\nkey = \"000102030405060708090a0b0c0d0e0f\"\n{policy}\n\
         rule = [{{ ranges = [{{ last = \"ffffffffffffffff\", shard = \"s1\" }}] }}]\n"
    );
    tenants.iter().for_each(|tenant| text += &format!("[tenant.{tenant}]\n"));
    std::fs::write(folder.join("conf.d/placement.toml"), text).unwrap();
}

const ACME: &str = "policy = \"pinned\"\nconfig = { tenants = { acme = \"s2\" } }";
const BOTH: &str = "policy = \"pinned\"\nconfig = { tenants = { acme = \"s2\", globex = \"s2\" } }";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_are_placed_and_moved_by_a_policy() {
    let (place, upstream) = (tempfile::tempdir().unwrap(), Upstream::start("web").await);
    let folder = folder(place.path(), &upstream);
    // Without a node, the command itself asks the policy.
    write(folder.path(), ACME, &["acme"]);
    told(says(folder.path(), &["apply"]).await, 0, "+ place/acme (the admin API)");
    told(says(folder.path(), &["migrate", "apply"]).await, 0, "shard s2: ran 0001");

    let node = Node::start_in(folder).await;
    let here = node.folder().to_owned();
    told(says(&here, &["shard", "locate", "acme"]).await, 0, "tenant acme: shard s2");
    // The node's own slot answers; who is not pinned is where the rules say.
    write(&here, ACME, &["acme", "globex"]);
    let text = told(says(&here, &["apply"]).await, 0, "+ tenant/globex");
    assert!(!text.contains("place/"), "{text}");
    told(says(&here, &["status"]).await, 0, "tenants are placed by pinned@");
    told(says(&here, &["shard", "plan"]).await, 0, "all tenants stand well");

    // A rule moves nobody: one that would lead a tenant away from its rows is refused.
    let file = here.join("conf.d/placement.toml");
    let rules = std::fs::read_to_string(&file).unwrap();
    let globex = token(&here, "globex").await;
    until("a row of globex's", async || {
        let order = serde_json::json!({ "id": 1, "total": "1.00" });
        ask(&node, &globex, http::Method::POST, "/-/data/orders", order).await.status == 201
    })
    .await;
    std::fs::write(&file, rules.replace("shard = \"s1\"", "shard = \"s2\"")).unwrap();
    let text = told(says(&here, &["apply"]).await, 3, "tenant `globex` would be looked for on shard `s2`");
    assert!(text.contains("portolan shard move globex --to s2"), "{text}");
    let gone = ask(&node, &globex, http::Method::DELETE, "/-/data/orders/1", serde_json::Value::Null).await;
    assert!(gone.status.is_success(), "{}", gone.text());

    // What is no policy of placement is refused, and what ran goes on.
    write(&here, "policy = \"nearest-region\"\nconfig = { pool = \"web\" }", &["acme", "globex"]);
    told(says(&here, &["apply"]).await, 3, "exports no placer");
    write(&here, "policy = \"pinned\"\nconfig = { tenant = {} }", &["acme", "globex"]);
    told(says(&here, &["apply"]).await, 3, "placement: config");

    // Another configuration takes over, and a plan is made, carried out and ended.
    write(&here, BOTH, &["acme", "globex"]);
    told(says(&here, &["apply"]).await, 0, "~ settings/placement");
    told(says(&here, &["shard", "plan"]).await, 2, "globex: s1 -> s2 (it is pinned there)");
    let json = told(says(&here, &["shard", "plan", "--json"]).await, 2, "\"line_permille\": 0");
    assert!(
        serde_json::from_str::<serde_json::Value>(&json).unwrap()["moves"][0]["tenant"] == "globex",
        "{json}"
    );
    told(says(&here, &["shard", "plan", "--max-moves", "0"]).await, 0, "all tenants stand well");
    told(says(&here, &["shard", "rebalance", "--dry-run"]).await, 2, "nothing was changed");
    told(says(&here, &["shard", "rebalance"]).await, 2, "portolan shard move globex --to s2");
    told(says(&here, &["shard", "rebalance"]).await, 2, "1 of 1 tenants are still to move");
    told(says(&here, &["shard", "remove", "s2"]).await, 1, "the plan of moves");
    let moved = "[place.globex]\nplacement = 1\nshard = \"s2\"\n";
    std::fs::write(here.join("conf.d/moved.toml"), moved).unwrap();
    told(says(&here, &["apply"]).await, 0, "+ place/globex");
    told(says(&here, &["shard", "rebalance"]).await, 0, "is done");
    told(says(&here, &["shard", "rebalance"]).await, 0, "all tenants stand well");

    // Rules, too: half of a line is five steps of a tenth.
    write(&here, "policy = \"jump-hash\"", &["acme", "globex"]);
    told(says(&here, &["apply"]).await, 0, "~ settings/placement");
    until("the node's slot has the new policy", async || {
        node.status().await["placement"]["policy"] == "jump-hash"
    })
    .await;
    told(says(&here, &["shard", "plan"]).await, 2, "then these rules hold");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_come_when_they_are_ready_and_go_when_nobody_needs_them() {
    let (place, upstream) = (tempfile::tempdir().unwrap(), Upstream::start("web").await);
    let folder = folder(place.path(), &upstream);
    write(folder.path(), ACME, &["acme", "globex"]);
    told(says(folder.path(), &["apply"]).await, 0, "+ shard/s1");
    told(says(folder.path(), &["migrate", "apply"]).await, 0, "shard s1: ran 0001");
    let (here, file) = (folder.path(), folder.path().join("s3.toml"));
    let shard =
        |database: &Path| format!("primary = \"here\"\ncapacity = 10\n[store.here]\nsqlite = {database:?}\n");
    let from = ["--from", "s3.toml"];
    let add = async |more: &[&str]| {
        let arguments: Vec<&str> = ["shard", "add", "s3"].iter().chain(&from).chain(more).copied().collect();
        says(here, &arguments).await
    };

    std::fs::write(&file, shard(&place.path().join("nowhere/s3.db"))).unwrap();
    told(add(&[]).await, 1, "is no folder");
    std::fs::write(&file, shard(&place.path().join("s3.db")) + "sqlit = 1\n").unwrap();
    told(add(&[]).await, 1, "does not fit the others");
    std::fs::write(&file, shard(&place.path().join("s3.db"))).unwrap();
    told(add(&[]).await, 1, "version 0000 of the schema, the others have 0001");
    told(add(&["--drained"]).await, 0, "shard s3 is there");
    told(add(&["--drained"]).await, 1, "already");
    told(says(here, &["migrate", "apply"]).await, 0, "shard s3: ran 0001");
    told(says(here, &["shard", "drain", "s3", "--undo"]).await, 0, "takes new tenants again");

    told(says(here, &["shard", "remove", "s1"]).await, 1, "1 rules of `[placement]` lead to it");
    told(says(here, &["shard", "remove", "s2"]).await, 1, "1 known tenants and 1 `[place.*]` are on it");
    told(says(here, &["shard", "remove", "s3"]).await, 1, "shard drain s3");
    told(says(here, &["shard", "drain", "s3"]).await, 0, "takes no new tenants");
    told(says(here, &["shard", "remove", "s3"]).await, 0, "is gone from the configuration");
    told(says(here, &["shard", "remove", "s3"]).await, 1, "there is no shard `s3`");
    // Its database has what the others have, and is as empty.
    told(add(&[]).await, 0, "shard s3 is there");
}
