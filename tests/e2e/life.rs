//! The life of a tenant and of its rows: made, suspended, backed up, put back onto an empty machine, erased.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::{Method, Request};
use portolan_test_postgres::Cluster;
use portolan_tests::client::Client;
use portolan_tests::node::Node;
use portolan_tests::until;
use portolan_tests::upstream::Upstream;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::shards::{ask, folder, open, read, token};
use crate::{good, says};

const MARKER: &str = "a-word-that-is-nowhere-else";

/// The status of a tenant's request to its application.
async fn visit(node: &Node, tenant: &str) -> (u16, Value) {
    let mut client = Client::connect(node.public(), "shop.test").await.unwrap();
    let request = Request::get(format!("/{MARKER}")).header("x-tenant", tenant);
    let answer = client.send(request, Bytes::new()).await.unwrap();
    (answer.status.as_u16(), read(&answer))
}

async fn set_up(folder: TempDir) -> (Node, String) {
    for arguments in [&["apply"][..], &["migrate", "apply"]] {
        good(folder.path(), arguments).await;
    }
    let node = Node::start_in(folder).await;
    open(&node, 1).await;
    let made =
        good(node.folder(), &["tenant", "create", "acme", "--claim", "email=Ada.Lovelace@shop.test"]).await;
    assert!(made.contains("is made in generation"), "{made}");
    let again =
        good(node.folder(), &["tenant", "create", "acme", "--claim", "email=ada.lovelace@SHOP.test"]).await;
    assert!(again.contains("as it is wanted"), "{again}");
    let acme = token(node.folder(), "acme").await;
    (node, acme)
}

async fn put(node: &Node, token: &str, id: u64, total: &str) -> u16 {
    let order = json!({ "id": id, "total": total });
    ask(node, token, Method::POST, "/-/data/orders", order).await.status.as_u16()
}

async fn totals(node: &Node, token: &str) -> Vec<Value> {
    let seen = ask(node, token, Method::GET, "/-/data/orders", Value::Null).await;
    let told = read(&seen);
    assert!(told.is_array(), "{told}");
    told.as_array().unwrap().iter().map(|row| row["total"].clone()).collect()
}

#[tokio::test]
async fn a_tenant_is_suspended_everywhere_and_served_again() {
    let (place, upstream) = (tempfile::tempdir().unwrap(), Upstream::start("web").await);
    let (node, acme) = set_up(folder(place.path(), &upstream, "sqlite = \"s1.db\"")).await;
    assert_eq!(
        good(node.folder(), &["tenant", "claim", "find", "email=ada.lovelace@shop.test"]).await.trim(),
        "acme"
    );
    let (code, text) =
        says(node.folder(), &["tenant", "create", "globex", "--claim", "email=ada.lovelace@shop.test"]).await;
    assert!(code == 5 && text.contains("claimed by tenant `acme`"), "{code} {text}");
    assert_eq!(put(&node, &acme, 1, "1.00").await, 201);
    good(node.folder(), &["tenant", "suspend", "acme", "-m", "unpaid"]).await;
    until("the tenant is refused", async || visit(&node, "acme").await.0 == 403).await;
    let (_, told) = visit(&node, "acme").await;
    assert_eq!(told["type"], "urn:portolan:problem:suspended", "{told}");
    let refused = ask(&node, &acme, Method::GET, "/-/data/orders", Value::Null).await;
    assert_eq!((refused.status.as_u16(), &read(&refused)["code"]), (403, &json!("suspended")));
    assert_eq!(visit(&node, "globex").await.0, 200);
    // Applying files again does not bring it back.
    good(node.folder(), &["apply"]).await;
    assert_eq!(visit(&node, "acme").await.0, 403);
    good(node.folder(), &["tenant", "resume", "acme"]).await;
    until("the tenant is served", async || visit(&node, "acme").await.0 == 200).await;
    assert_eq!(totals(&node, &acme).await, ["1.00"]);
}

/// Backs up a node twice, and puts both onto an empty machine.
async fn comes_back(store: &str, empty: impl AsyncFnOnce()) {
    let (place, upstream) = (tempfile::tempdir().unwrap(), Upstream::start("web").await);
    let (node, acme) = set_up(folder(place.path(), &upstream, store)).await;
    assert_eq!(put(&node, &acme, 1, "1.00").await, 201);
    let [first, more, alone] =
        ["first", "more", "alone"].map(|name| place.path().join(name).display().to_string());
    let secret = place.path().join("backup.key").display().to_string();
    let told = good(node.folder(), &["backup-key", &secret]).await;
    let public = told.split_whitespace().last().unwrap().to_owned();
    let told = good(node.folder(), &["backup", "--to", &first, "--keys", &public]).await;
    assert!(told.contains("sealed: portolan.toml"), "{told}");
    assert!(told.contains("shard s1: 1 rows"), "{told}");
    assert_eq!(put(&node, &acme, 2, "2.00").await, 201);
    good(node.folder(), &["backup", "--to", &more, "--since", &first]).await;
    good(node.folder(), &["backup", "--to", &alone, "--tenant", "acme"]).await;
    let told = good(node.folder(), &["verify", &first, &more]).await;
    assert!(told.contains("shard s1: can be put back"), "{told}");
    let (code, text) = says(node.folder(), &["restore", &first]).await;
    assert!(code == 1 && text.contains("not empty"), "{code} {text}");

    // One tenant alone, while the node serves.
    let gone = ask(&node, &acme, Method::DELETE, "/-/data/orders?all=true", Value::Null).await;
    assert!(gone.status.is_success(), "{}", gone.text());
    let (code, text) = says(node.folder(), &["restore", &alone, "--tenant", "acme"]).await;
    assert_eq!(code, 0, "{text}");
    until("the tenant has its rows", async || {
        let seen = ask(&node, &acme, Method::GET, "/-/data/orders", Value::Null).await;
        seen.status == 200 && read(&seen).as_array().is_some_and(|rows| rows.len() == 2)
    })
    .await;
    until("and is written again", async || put(&node, &acme, 3, "3.00").await == 201).await;

    // The node's own files come back by the private key alone.
    let (keys, sealed) =
        (place.path().join("keys"), std::fs::read(place.path().join("first/keys.hpke")).unwrap());
    assert!(!sealed.windows(6).any(|bytes| bytes == b"listen"), "it is sealed");
    let to = keys.display().to_string();
    good(node.folder(), &["backup-key", &format!("{secret}.other")]).await;
    let (code, text) =
        says(node.folder(), &["restore", &first, "--keys-to", &to, "--identity", &format!("{secret}.other")])
            .await;
    assert!(code == 1 && text.contains("sealed for another key") && !keys.exists(), "{code} {text}");
    good(node.folder(), &["restore", &first, &more, "--keys-to", &to, "--identity", &secret]).await;
    let same = |path: &Path| std::fs::read(path.join("portolan.toml")).unwrap();
    assert_eq!(same(&keys), same(node.folder()));
    let (code, text) =
        says(node.folder(), &["restore", &alone, "--keys-to", &to, "--identity", &secret]).await;
    assert!(code == 1 && text.contains("taken without --keys"), "{code} {text}");

    drop(node);
    empty().await;
    let machine = tempfile::tempdir().unwrap();
    let other = folder(machine.path(), &upstream, store);
    std::fs::remove_dir_all(other.path().join("conf.d")).unwrap();
    let told = good(other.path(), &["restore", &first, &more]).await;
    assert!(told.contains("epoch 2 begins"), "{told}");
    let node = Node::start_in(other).await;
    open(&node, 2).await;
    // What clients had, tokens too, is there as it was.
    assert_eq!(totals(&node, &acme).await, ["1.00", "2.00"]);
    let written = ask(&node, &acme, Method::POST, "/-/data/orders", json!({ "id": 9 })).await;
    assert!(written.header("portolan-token").starts_with("v1;s1=2."), "{}", written.text());
    assert_eq!(
        good(node.folder(), &["tenant", "claim", "find", "email=ada.lovelace@shop.test"]).await.trim(),
        "acme"
    );
}

#[tokio::test]
async fn a_file_of_sqlite_comes_back_on_an_empty_machine() {
    comes_back("sqlite = \"s1.db\"", async || {}).await;
}

#[tokio::test]
async fn a_database_of_postgresql_comes_back_on_an_empty_machine() {
    let cluster = Cluster::start().await;
    cluster.admin("CREATE DATABASE shop OWNER own").await;
    let [owner, writer, applier] = ["own", "app", "put"].map(|role| cluster.url(role, "shop"));
    let store = format!("postgres = {{ owner = {owner:?}, writer = {writer:?}, applier = {applier:?} }}");
    comes_back(&store, async || {
        cluster.admin("DROP DATABASE shop WITH (FORCE)").await;
        cluster.admin("CREATE DATABASE shop OWNER own").await;
    })
    .await;
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path))
        } else if path.is_file() {
            all.push(path)
        }
    }
    all
}

#[tokio::test]
async fn nothing_is_left_of_an_erased_tenant() {
    let (place, upstream) = (tempfile::tempdir().unwrap(), Upstream::start("web").await);
    let folder = folder(place.path(), &upstream, "sqlite = \"s1.db\"");
    let (node, acme) = set_up(folder).await;
    let globex = token(node.folder(), "globex").await;
    assert_eq!(put(&node, &globex, 1, "7.00").await, 201);
    for (id, total) in [(1, MARKER), (2, MARKER)] {
        assert_eq!(put(&node, &acme, id, total).await, 201);
    }
    let gone = ask(&node, &acme, Method::DELETE, "/-/data/orders/2", Value::Null).await;
    assert!(gone.status.is_success(), "{}", gone.text());
    let (code, text) = says(node.folder(), &["tenant", "erase", "acme", "--confirm", "globex"]).await;
    assert!(code != 0 && text.contains("`acme`"), "{text}");
    let told = good(node.folder(), &["tenant", "erase", "acme", "--confirm", "acme"]).await;
    for part in ["control: ", "shard/s1/here: ", "compact/s1/here: ", "node/one: ", "tenant acme is erased"] {
        assert!(told.contains(part), "{part} is not in {told}");
    }
    // A second time it shows the same receipts.
    let again = good(node.folder(), &["tenant", "erase", "acme", "--confirm", "acme"]).await;
    assert_eq!(again, told);
    assert_eq!(totals(&node, &globex).await, ["7.00"]);
    until("its token is none", async || put(&node, &acme, 3, "x").await == 401).await;
    assert_eq!(visit(&node, "acme").await.0, 403);
    let (code, text) = says(node.folder(), &["tenant", "create", "acme"]).await;
    assert!(code == 5 && text.contains("was erased"), "{code} {text}");
    let free =
        good(node.folder(), &["tenant", "create", "initech", "--claim", "email=ada.lovelace@shop.test"])
            .await;
    assert!(free.contains("is made"), "{free}");
    for file in [files(node.folder()), files(place.path())].concat() {
        let bytes = std::fs::read(&file).unwrap();
        for word in [MARKER, "lovelace"] {
            let found = bytes.windows(word.len()).any(|window| window == word.as_bytes());
            // The node's own log is what its operator keeps.
            assert!(!found || file.ends_with("log"), "{} has {word}", file.display());
        }
    }
}
