//! Tenants' rows through a running node: from a configuration, migrations and a token to rows that only their tenant sees.

use std::path::Path;

use bytes::Bytes;
use http::{Method, Request};
use portolan_test_postgres::Cluster;
use portolan_tests::client::{Answer, Client};
use portolan_tests::node::{self, Node, run};
use portolan_tests::until;
use portolan_tests::upstream::Upstream;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub(crate) const SQLITE: &str = "CREATE TABLE orders (tenant text NOT NULL, id integer NOT NULL, total text, \
    placed_at text, PRIMARY KEY (tenant, id)) STRICT;\n";
pub(crate) const POSTGRES: &str = "CREATE TABLE orders (tenant text NOT NULL, id bigint NOT NULL, total numeric(12, 2), \
    placed_at timestamptz, PRIMARY KEY (tenant, id));\n";

/// A folder of a node of region `here`, whose intent is kept in a control store.
pub(crate) fn folder(place: &Path, upstream: &Upstream, store: &str) -> TempDir {
    let folder = node::folder(&format!(
        "[node]\nname = \"one\"\nregion = \"here\"\nthreads = 1\n\
         [listen]\npublic = [\"127.0.0.1:0\"]\n[policies]\ninstances = 100\n[control]\nsqlite = {:?}\n",
        place.join("control.db")
    ));
    let shared = format!(
        "[tenants]\nsources = [{{ header = \"x-tenant\" }}]\n[region.here.pool.web]\nendpoints = [\"{}\"]\n\
         [shard.s1]\nprimary = \"here\"\n[shard.s1.store.here]\n{store}\n\
         [table.orders]\ntenant = \"tenant\"\nkey = [\"tenant\", \"id\"]\n",
        upstream.address
    );
    std::fs::write(folder.path().join("conf.d/all.toml"), shared).unwrap();
    for (engine, sql) in [("sqlite", SQLITE), ("postgres", POSTGRES)] {
        let migrations = folder.path().join("migrations").join(engine);
        std::fs::create_dir_all(&migrations).unwrap();
        std::fs::write(migrations.join("0001_create_orders.sql"), sql).unwrap();
    }
    folder
}

pub(crate) async fn says(folder: &Path, arguments: &[&str]) -> (i32, String) {
    let output = run(folder, arguments).await;
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), text.into_owned())
}

pub(crate) async fn token(folder: &Path, tenant: &str) -> String {
    let output = run(folder, &["token", "create", tenant, "--role", "tenant-app", "--tenant", tenant]).await;
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

pub(crate) async fn ask(node: &Node, token: &str, method: Method, path: &str, body: Value) -> Answer {
    let mut client = Client::connect(node.public(), "shop.test").await.unwrap();
    let mut request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    if !token.is_empty() {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    client.send(request, body).await.unwrap()
}

pub(crate) fn read(answer: &Answer) -> Value {
    serde_json::from_str(&answer.text()).unwrap_or_else(|_| json!({ "text": answer.text() }))
}

/// Waits until the node holds the shard's lease.
pub(crate) async fn open(node: &Node, epoch: u64) {
    until("the shard is open", async || {
        let status = node.status().await;
        let shard = &status["shards"][0];
        shard["problem"].is_null() && shard["epoch"] == epoch && shard["lease_ms"].is_u64()
    })
    .await;
}

async fn rows_of_tenants(store: &str) {
    let (place, upstream) = (tempfile::tempdir().unwrap(), Upstream::start("web").await);
    let folder = folder(place.path(), &upstream, store);
    assert_eq!(says(folder.path(), &["apply"]).await.0, 0);
    let (code, text) = says(folder.path(), &["migrate", "plan"]).await;
    assert!(
        code == 2 && text.contains("0001 create_orders") && text.contains("CREATE TABLE orders"),
        "{text}"
    );
    let (code, text) = says(folder.path(), &["migrate", "apply"]).await;
    assert!(code == 0 && text.contains("shard s1: ran 0001"), "{text}");
    assert_eq!(says(folder.path(), &["migrate", "status"]).await.0, 0);
    let node = Node::start_in(folder).await;
    open(&node, 1).await;
    let (acme, globex) = (token(node.folder(), "acme").await, token(node.folder(), "globex").await);

    let order = json!({ "id": 7, "total": "12.50", "placed_at": "2026-05-01T10:00:00Z" });
    let written = ask(&node, &acme, Method::POST, "/-/data/orders", order).await;
    assert_eq!(written.status, 201, "{}", written.text());
    assert!(written.header("portolan-token").starts_with("v1;s1=1."), "{}", written.header("portolan-token"));
    let seen = ask(&node, &acme, Method::GET, "/-/data/orders?id=eq.7", Value::Null).await;
    assert_eq!(read(&seen)[0]["total"], "12.50");
    assert!(read(&seen)[0].get("tenant").is_none(), "{}", seen.text());
    // Another tenant has the same keys, and sees its own rows alone.
    let none = ask(&node, &globex, Method::GET, "/-/data/orders/7", Value::Null).await;
    assert_eq!(none.status, 404, "{}", none.text());
    let own = ask(&node, &globex, Method::POST, "/-/data/orders", json!({ "id": 7, "total": "1.00" })).await;
    assert_eq!(own.status, 201, "{}", own.text());
    let gone = ask(&node, &globex, Method::DELETE, "/-/data/orders?all=true", Value::Null).await;
    assert!(gone.status.is_success(), "{}", gone.text());
    assert_eq!(ask(&node, &acme, Method::GET, "/-/data/orders/7", Value::Null).await.status, 200);

    // Bad input has clear answers.
    for (token, method, path, body, status, code) in [
        ("", Method::GET, "/-/data/orders", Value::Null, 401, "unauthentic"),
        ("ptl_x", Method::GET, "/-/data/orders", Value::Null, 401, "unauthentic"),
        (&acme, Method::GET, "/-/data/order", Value::Null, 404, "unknown-table"),
        (&acme, Method::POST, "/-/data/orders", json!({ "id": "seven" }), 422, "wrong-type"),
        (&acme, Method::POST, "/-/data/orders", json!({ "id": 8, "tenant": "globex" }), 422, "other-tenant"),
        (&acme, Method::POST, "/-/data/orders", json!({ "id": 7 }), 409, "unique-violation"),
        (&acme, Method::PUT, "/-/data", json!({}), 405, "method-not-allowed"),
    ] {
        let answer = ask(&node, token, method, path, body).await;
        let told = format!("{path}: {}", answer.text());
        assert_eq!(answer.status, status, "{told}");
        assert_eq!(read(&answer)["code"], code, "{told}");
    }
    let mut stream = TcpStream::connect(node.public()).await.unwrap();
    let gigabyte = format!(
        "POST /-/data/orders HTTP/1.1\r\nhost: shop.test\r\nauthorization: Bearer {acme}\r\n\
         content-type: application/json\r\ncontent-length: 1000000000\r\nexpect: 100-continue\r\n\r\n"
    );
    stream.write_all(gigabyte.as_bytes()).await.unwrap();
    let mut refused = String::new();
    while !refused.contains("\"code\":\"too-large\"") {
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece).await.unwrap();
        assert!(count > 0, "{refused}");
        refused.push_str(std::str::from_utf8(&piece[..count]).unwrap());
    }
    assert!(refused.starts_with("HTTP/1.1 413"), "{refused}");

    // Applications are told where their tenant's rows are.
    let mut client = Client::connect(node.public(), "shop.test").await.unwrap();
    let told = client.send(Request::post("/any").header("x-tenant", "acme"), Bytes::new()).await.unwrap();
    let fields = read(&told);
    assert_eq!(fields["headers"]["portolan-shard"], "s1", "{fields}");
    assert_eq!(fields["headers"]["portolan-role"], "primary", "{fields}");
    let (code, text) = says(node.folder(), &["shard", "list"]).await;
    let stands = text.contains("s1: written in here in epoch 1") && text.contains("; open here");
    assert!(code == 0 && stands, "{text}");
    let (code, text) = says(node.folder(), &["shard", "locate", "acme"]).await;
    assert!(code == 0 && text.contains("tenant acme: shard s1, written in here (by rule, open)"), "{text}");

    let metrics = node.ask_plain("GET", "/api/v1/metrics", Value::Null).await.unwrap().text();
    assert!(metrics.contains("portolan_shard_open{shard=\"s1\"} 1\n"), "{metrics}");

    // A new epoch, and the rows are still there.
    let (code, text) = says(node.folder(), &["shard", "promote", "s1"]).await;
    assert!(code == 0 && text.contains("epoch 2 begins in here"), "{text}");
    open(&node, 2).await;
    let patched = ask(&node, &acme, Method::PATCH, "/-/data/orders/7", json!({ "total": "13.00" })).await;
    assert!(patched.status.is_success(), "{}", patched.text());
    assert!(patched.header("portolan-token").starts_with("v1;s1=2."), "{}", patched.header("portolan-token"));
    let node = node.restarted(&[]).await;
    open(&node, 2).await;
    let seen = ask(&node, &acme, Method::GET, "/-/data/orders/7", Value::Null).await;
    assert_eq!(read(&seen)["total"], "13.00", "{}", seen.text());
}

#[tokio::test]
async fn a_file_of_sqlite_serves_tenants() {
    rows_of_tenants("sqlite = \"s1.db\"").await;
}

#[tokio::test]
async fn a_database_of_postgresql_serves_tenants() {
    let cluster = Cluster::start().await;
    cluster.admin("CREATE DATABASE shop OWNER own").await;
    let [owner, writer, applier] = ["own", "app", "put"].map(|role| cluster.url(role, "shop"));
    rows_of_tenants(&format!(
        "postgres = {{ owner = {owner:?}, writer = {writer:?}, applier = {applier:?} }}"
    ))
    .await;
}

/// What a node of one of two regions has of its own: they share a control store and know each other by certificates.
pub(crate) fn own(place: &Path, region: &str) -> String {
    let certs = place.join("certs");
    format!(
        "[node]\nname = \"{region}\"\nregion = \"{region}\"\nthreads = 1\n\
         [listen]\npublic = [\"127.0.0.1:0\"]\npeer = [\"127.0.0.1:0\"]\nreplication = [\"127.0.0.1:0\"]\n[policies]\ninstances = 100\n\
         [peer]\ncert = {:?}\nkey = {:?}\nca = [{:?}]\n[control]\nsqlite = {:?}\n",
        certs.join(format!("{region}.crt")),
        certs.join(format!("{region}.key")),
        certs.join("ca.crt"),
        place.join("control.db")
    )
}

/// A node of a region, with the tenants' schema in its database.
pub(crate) async fn node_of(place: &Path, region: &str) -> Node {
    node_by(&own(place, region)).await
}

/// A node by its own part of the configuration.
pub(crate) async fn node_by(own: &str) -> Node {
    let folder = node::folder(own);
    let migrations = folder.path().join("migrations/sqlite");
    std::fs::create_dir_all(&migrations).unwrap();
    std::fs::write(migrations.join("0001_create_orders.sql"), SQLITE).unwrap();
    let (code, text) = says(folder.path(), &["migrate", "apply"]).await;
    assert_eq!(code, 0, "{text}");
    Node::start_in(folder).await
}

/// What both regions share, with the gateways that are known by now.
pub(crate) async fn share(place: &Path, upstream: &Upstream, gateways: [Option<&Node>; 2]) {
    let mut text = "[tenants]\nsources = [{ header = \"x-tenant\" }]\n[shard.s1]\nprimary = \"eu\"\n\
         [table.orders]\ntenant = \"tenant\"\nkey = [\"tenant\", \"id\"]\n"
        .to_owned();
    for (region, gateway) in ["eu", "us"].iter().zip(gateways) {
        let file = place.join(format!("{region}.db"));
        text.push_str(&format!("[shard.s1.store.{region}]\nsqlite = {file:?}\n[region.{region}]\n"));
        if let Some(node) = gateway {
            let (peer, replication) = (node.listener(1), node.listener(2));
            text.push_str(&format!("gateways = [\"{peer}\"]\nreplication = [\"{replication}\"]\n"));
        }
        text.push_str(&format!("[region.{region}.pool.web]\nendpoints = [\"{}\"]\n", upstream.address));
    }
    let folder = node::folder(&own(place, "eu"));
    std::fs::write(folder.path().join("conf.d/all.toml"), text).unwrap();
    let (code, text) = says(folder.path(), &["apply"]).await;
    assert_eq!(code, 0, "{text}");
}

#[tokio::test]
async fn any_region_takes_a_write_and_only_one_writes_it() {
    let (place, upstream) = (tempfile::tempdir().unwrap(), Upstream::start("web").await);
    let certs = place.path().join("certs");
    let made = run(place.path(), &["pki", "trial", certs.to_str().unwrap(), "eu", "us"]).await;
    assert!(made.status.success(), "{made:?}");
    share(place.path(), &upstream, [None, None]).await;
    let (eu, us) = (node_of(place.path(), "eu").await, node_of(place.path(), "us").await);
    share(place.path(), &upstream, [Some(&eu), Some(&us)]).await;
    open(&eu, 1).await;
    let acme = token(eu.folder(), "acme").await;
    let write = async |node: &Node, id: u64| {
        ask(node, &acme, Method::POST, "/-/data/orders", json!({ "id": id })).await
    };
    until("the region without the lease hands writes on", async || write(&us, 1).await.status == 201).await;
    let seen = ask(&us, &acme, Method::GET, "/-/data/orders/1", Value::Null).await;
    assert_eq!((seen.status.as_u16(), &read(&seen)["id"]), (200, &1.into()), "{}", seen.text());
    assert!(write(&us, 2).await.header("portolan-token").starts_with("v1;s1=1."));

    until("the other region has a copy", async || {
        let (code, text) = says(us.folder(), &["sync", "audit", "s1"]).await;
        code == 0 && text.contains("this copy is as in eu")
    })
    .await;
    // The lease goes to the other region, once the old one cannot last any more.
    let (code, text) = says(us.folder(), &["shard", "promote", "s1", "--to", "us"]).await;
    assert!(code == 0 && text.contains("epoch 2 begins in us"), "{text}");
    until("the old primary gives way", async || eu.status().await["shards"][0]["role"] == "replica").await;
    assert!(eu.status().await["shards"][0]["lease_ms"].is_null());
    let script = "import sqlite3, sys; store = sqlite3.connect(sys.argv[1]); store.execute('PRAGMA recursive_triggers=ON'); \
                  store.execute(\"INSERT INTO orders (tenant, id) VALUES ('acme', 99)\"); store.commit()";
    let direct =
        std::process::Command::new("python3").args(["-c", script]).arg(place.path().join("eu.db")).output();
    let direct = direct.unwrap();
    let said = String::from_utf8_lossy(&direct.stderr);
    assert!(!direct.status.success() && said.contains("portolan:"), "{said}");
    open(&us, 2).await;
    for (node, id) in [(&us, 3), (&eu, 4)] {
        until("writes go on", async || write(node, id).await.status == 201).await;
    }
    let seen = ask(&eu, &acme, Method::GET, "/-/data/orders", Value::Null).await;
    let ids: Vec<Value> = read(&seen).as_array().unwrap().iter().map(|row| row["id"].clone()).collect();
    assert_eq!(ids, [1, 2, 3, 4]);
}
