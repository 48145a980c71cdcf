//! A node with shards of orders, as the parts of the benchmark need it.

use std::path::Path;

use bytes::Bytes;
use http::{Method, Request};
use portolan_tests::client::{Answer, Client};
use portolan_tests::node::{self, Node, run};
use portolan_tests::until;
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const SQLITE: &str = "CREATE TABLE orders (tenant text NOT NULL, id integer NOT NULL, customer integer, total text, \
    note text, PRIMARY KEY (tenant, id)) STRICT;\n";
pub(crate) const POSTGRES: &str = "CREATE TABLE orders (tenant text NOT NULL, id bigint NOT NULL, customer bigint, \
    total numeric(12, 2), note text, PRIMARY KEY (tenant, id));\n";

/// A folder of a node whose shards have these stores.
pub(crate) fn folder(place: &Path, stores: &[(String, String)], more: &str) -> TempDir {
    let folder = node::folder(&format!(
        "[node]\nname = \"one\"\nregion = \"here\"\nthreads = 1\n[listen]\npublic = [\"127.0.0.1:0\"]\n\
         [policies]\ninstances = 100\n[control]\nsqlite = {:?}\n",
        place.join("control.db")
    ));
    let mut shared = "[tenants]\nsources = [{ header = \"x-tenant\" }]\n[region.here.pool.web]\nendpoints = [\"127.0.0.1:9\"]\n\
                      [table.orders]\ntenant = \"tenant\"\nkey = [\"tenant\", \"id\"]\n"
        .to_owned();
    for (name, store) in stores {
        shared.push_str(&format!("[shard.{name}]\nprimary = \"here\"\n[shard.{name}.store.here]\n{store}\n"));
    }
    shared.push_str(more);
    std::fs::write(folder.path().join("conf.d/all.toml"), shared).unwrap();
    for (engine, sql) in [("sqlite", SQLITE), ("postgres", POSTGRES)] {
        let migrations = folder.path().join("migrations").join(engine);
        std::fs::create_dir_all(&migrations).unwrap();
        std::fs::write(migrations.join("0001_create_orders.sql"), sql).unwrap();
    }
    folder
}

/// The node at work, with its tables made and its shards open.
pub(crate) async fn start(folder: TempDir) -> Node {
    for arguments in [&["apply"][..], &["migrate", "apply"]] {
        let output = run(folder.path(), arguments).await;
        assert!(output.status.success(), "{output:?}");
    }
    let node = Node::start_in(folder).await;
    until("the shards are open", async || {
        let status = node.status().await;
        let shards = status["shards"].as_array().cloned().unwrap_or_default();
        shards.iter().all(|shard| shard["problem"].is_null() && shard["lease_ms"].is_u64())
    })
    .await;
    node
}

/// A token of an application of a tenant.
pub(crate) async fn token(folder: &Path, tenant: &str) -> String {
    let output = run(folder, &["token", "create", tenant, "--role", "tenant-app", "--tenant", tenant]).await;
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// One request on a connection that is kept.
pub(crate) async fn ask(
    client: &mut Client,
    token: &str,
    method: Method,
    path: &str,
    body: &Value,
) -> Answer {
    let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    let request = request.header("authorization", format!("Bearer {token}"));
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    client.send(request, body).await.unwrap()
}

/// How the configuration names a database of a cluster.
pub(crate) fn postgres(cluster: &portolan_test_postgres::Cluster, database: &str) -> String {
    let [owner, writer, applier] = ["own", "app", "put"].map(|role| cluster.url(role, database));
    format!("postgres = {{ owner = {owner:?}, writer = {writer:?}, applier = {applier:?} }}")
}
