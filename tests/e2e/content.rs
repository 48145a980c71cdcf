//! Content through a running node: from a configuration and a token to versions, shares and feeds that only their tenant sees.

use std::path::Path;

use bytes::Bytes;
use http::Request;
use portolan_test_postgres::Cluster;
use portolan_tests::client::{Answer, Client};
use portolan_tests::node::Node;
use portolan_tests::upstream::Upstream;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::shards::{folder, open, read, token};
use crate::{good, says};

mod regions;

/// A word that stands in contents, and nowhere else on the disk.
const CANARY: &[u8] = b"a-canary-that-nobody-may-read";

async fn send(node: &Node, token: &str, request: http::request::Builder, body: impl Into<Bytes>) -> Answer {
    let mut client = Client::connect(node.public(), "shop.test").await.unwrap();
    client.send(request.header("authorization", format!("Bearer {token}")), body.into()).await.unwrap()
}

/// Bytes that nothing compresses, the same for the same seed.
fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..size).map(|_| next()).collect()
}

fn set_up(place: &Path, upstream: &Upstream, store: &str) -> TempDir {
    let folder = folder(place, upstream, store);
    let first = folder.path().join("portolan.toml");
    let text = std::fs::read_to_string(&first).unwrap();
    std::fs::write(first, format!("{text}[content]\nstore = \"packs\"\nkeyring = \"keys\"\n")).unwrap();
    folder
}

async fn start(folder: TempDir) -> Node {
    for arguments in [&["apply"][..], &["migrate", "apply"]] {
        good(folder.path(), arguments).await;
    }
    let node = Node::start_in(folder).await;
    open(&node, 1).await;
    node
}

/// Does any file below a folder have these bytes?
fn stands_in(folder: &Path, bytes: &[u8]) -> bool {
    std::fs::read_dir(folder).unwrap().map(Result::unwrap).any(|entry| {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            return stands_in(&entry.path(), bytes);
        }
        // A node's sockets have no bytes to be read.
        kind.is_file()
            && std::fs::read(entry.path()).unwrap().windows(bytes.len()).any(|window| window == bytes)
    })
}

async fn content_of_tenants(store: &str) {
    let (place, upstream) = (tempfile::tempdir().unwrap(), Upstream::start("web").await);
    let node = start(set_up(place.path(), &upstream, store)).await;
    let (acme, globex) = (token(node.folder(), "acme").await, token(node.folder(), "globex").await);
    let path = "/-/content/items/docs/logo.png";
    let mut first = noise(1, 2_000_000);
    first.extend(CANARY);

    let written =
        send(&node, &acme, Request::put(path).header("content-type", "image/png"), first.clone()).await;
    assert_eq!(written.status, 201, "{}", written.text());
    let one = read(&written);
    let whole = send(&node, &acme, Request::get(path), "").await;
    assert_eq!((whole.status.as_u16(), whole.header("content-type")), (200, "image/png"));
    assert_eq!(whole.body, first);
    let tag = whole.header("etag").to_owned();
    let known = send(&node, &acme, Request::get(path).header("if-none-match", &tag), "").await;
    assert_eq!((known.status.as_u16(), known.body.len()), (304, 0));
    let part = send(&node, &acme, Request::get(path).header("range", "bytes=70000-300000"), "").await;
    assert_eq!(part.status, 206);
    assert_eq!(part.body, first[70_000..=300_000]);
    assert_eq!(part.header("content-range"), format!("bytes 70000-300000/{}", first.len()));
    let beyond = send(&node, &acme, Request::get(path).header("range", "bytes=9999999-"), "").await;
    assert_eq!(beyond.status, 416);

    // Another tenant has the same names and sees nothing of it, by whatever name.
    let root = one["root"].as_str().unwrap();
    let immutable = send(&node, &acme, Request::get(format!("/-/content/c/{root}")), "").await;
    assert!(immutable.status == 200 && immutable.header("cache-control").contains("immutable"));
    for path in [path, &format!("/-/content/c/{root}"), "/-/content/items/docs/logo.png/versions"] {
        assert_eq!(send(&node, &globex, Request::get(path), "").await.status, 404, "{path}");
    }
    let own = send(&node, &globex, Request::put(path), first.clone()).await;
    assert!(own.status == 201 && read(&own)["root"] != one["root"], "equal contents have other names");

    // A lost update is refused, and a conflict is kept.
    let changed = [&first[..1_000_000], b"more", &first[1_000_000..]].concat();
    let stale = send(&node, &acme, Request::put(path).header("if-match", "\"00\""), changed.clone()).await;
    assert_eq!(stale.status, 412, "{}", stale.text());
    let media = |path: &str| Request::put(path).header("content-type", "image/png");
    let two = read(&send(&node, &acme, media(path).header("if-match", &tag), changed.clone()).await);
    let base = one["version"].as_str().unwrap();
    let beside = send(&node, &acme, media(&format!("{path}?base={base}")), noise(2, 1_000)).await;
    assert_eq!(read(&beside)["conflict"], true, "{}", beside.text());
    let open_heads = read(&send(&node, &acme, Request::get(format!("{path}/conflicts")), "").await);
    let heads: Vec<&Value> =
        open_heads["heads"].as_array().unwrap().iter().map(|head| &head["version"]).collect();
    assert_eq!(heads.len(), 2);
    let keep = json!({ "keep": two["version"], "heads": heads }).to_string();
    let resolved = send(&node, &acme, Request::post(format!("{path}/conflicts")), keep).await;
    assert_eq!(resolved.status, 200, "{}", resolved.text());
    assert_eq!(send(&node, &acme, Request::get(path), "").await.body, changed);

    let feed = read(&send(&node, &acme, Request::get("/-/content/changes?since=0"), "").await);
    assert_eq!(feed["changes"].as_array().unwrap().len(), 4, "{feed}");
    assert!(!stands_in(&node.folder().join("packs"), CANARY), "packs are sealed");

    refuses(&node, &acme).await;
    by_command_line(&node, &acme).await;
    waits_for_changes(&node, &acme).await;
    shares_between_tenants(&node, &acme, &globex).await;

    // Another process finds all of it, also what was on its way.
    let announced = json!({ "site": "docs", "name": "late", "bytes": 1_000_000 }).to_string();
    let upload = read(&send(&node, &acme, Request::post("/-/content/uploads"), announced).await);
    let upload = format!("/-/content/uploads/{}", upload["upload"].as_str().unwrap());
    let late = noise(4, 1_000_000);
    let half = Request::patch(&upload).header("upload-offset", "0");
    assert_eq!(send(&node, &acme, half, late[..600_000].to_vec()).await.status, 204);
    let node = node.restarted(&[]).await;
    open(&node, 1).await;
    assert_eq!(send(&node, &acme, Request::get(path), "").await.body, changed);
    let state = send(&node, &acme, Request::head(&upload), "").await;
    assert_eq!(state.header("upload-offset"), "600000");
    let rest = Request::patch(&upload).header("upload-offset", "600000");
    assert_eq!(send(&node, &acme, rest, late[600_000..].to_vec()).await.status, 201);
    assert_eq!(send(&node, &acme, Request::get("/-/content/items/docs/late"), "").await.body, late);
    drop(upstream);
}

/// Bad input has clear answers.
async fn refuses(node: &Node, acme: &str) {
    for (token, method, path, body, status, code) in [
        ("ptl_x", "GET", "/items/docs/logo.png", "", 401, "unauthentic"),
        (acme, "GET", "/items/docs/none", "", 404, "not-found"),
        (acme, "GET", "/items/DOCS/none", "", 400, "bad-request"),
        (acme, "GET", "/items/docs?limit=0", "", 400, "bad-request"),
        (acme, "POST", "/items/docs/logo.png", "", 405, "method-not-allowed"),
        (acme, "POST", "/uploads", "{", 400, "bad-content"),
        (acme, "POST", "/uploads", r#"{"site":"docs","name":"x","bytes":99999999999999}"#, 413, "too-large"),
        (
            acme,
            "POST",
            "/shares",
            r#"{"source_site":"docs","target_site":"docs","scope":"all","mode":"mirror","direction":"push"}"#,
            400,
            "bad-request",
        ),
        (acme, "POST", "/shares/zz/revoke", "", 404, "not-found"),
    ] {
        let request = Request::builder().method(method).uri(format!("/-/content{path}"));
        let answer = send(node, token, request, body.to_owned()).await;
        let told = read(&answer);
        assert_eq!(
            (answer.status.as_u16(), &told["code"]),
            (status, &json!(code)),
            "{method} {path}: {told}"
        );
    }
}

async fn by_command_line(node: &Node, acme: &str) {
    let (file, back) = (node.folder().join("in.bin"), node.folder().join("out.bin"));
    let bytes = noise(3, 9_000_000);
    std::fs::write(&file, &bytes).unwrap();
    let (file, back) = (file.display().to_string(), back.display().to_string());
    let url = format!("http://{}", node.public());
    let cli = |words: &[&str]| -> Vec<String> {
        let head = ["content", "--url", &url, "--token", acme];
        head.iter().chain(words).map(|word| (*word).to_owned()).collect()
    };
    let run = async |words: &[&str]| {
        let all = cli(words);
        good(node.folder(), &all.iter().map(String::as_str).collect::<Vec<_>>()).await
    };
    assert!(run(&["put", "media/film", &file]).await.contains("version "));
    run(&["get", "media/film", "-o", &back]).await;
    assert_eq!(std::fs::read(&back).unwrap(), bytes);
    assert!(run(&["ls", "media"]).await.contains("9000000"));
    assert!(run(&["log", "media/film"]).await.contains("shown"));
    let share: Value =
        serde_json::from_str(&run(&["share", "offer", "media", "mirror", "--deny", "far"]).await).unwrap();
    let share = share["share"].as_str().unwrap();
    run(&["share", "accept", share]).await;
    let preview: Value = serde_json::from_str(&run(&["share", "preview", share]).await).unwrap();
    assert_eq!((&preview["items"], &preview["bytes"]), (&json!(1), &json!(9_000_000)));
    assert!(run(&["share", "sync", share]).await.contains("\"written\": 1"));
    assert!(run(&["verify", "mirror"]).await.contains("1 items are whole, 0 are not"));
    run(&["share", "revoke", share]).await;
    let sync = cli(&["share", "sync", share]);
    let (code, text) = says(node.folder(), &sync.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert!(code == 6 && text.contains("status"), "{code} {text}");
    let none = cli(&["get", "media/none"]);
    assert_eq!(says(node.folder(), &none.iter().map(String::as_str).collect::<Vec<_>>()).await.0, 4);
}

/// What one tenant offers the other accepts, has and loses.
async fn shares_between_tenants(node: &Node, acme: &str, globex: &str) {
    let post = async |token: &str, path: &str, body: String| {
        let answer = send(node, token, Request::post(format!("/-/content{path}")), body).await;
        (answer.status.as_u16(), read(&answer))
    };
    send(node, acme, Request::put("/-/content/items/offered/a"), "for both").await;
    let offer = json!({ "source_site": "offered", "target_tenant": "globex", "scope": "all", "mode": "mirror", "direction": "pull" });
    let (status, share) = post(acme, "/shares", offer.to_string()).await;
    assert_eq!(status, 201, "{share}");
    let share = format!("/shares/{}", share["share"].as_str().unwrap());
    let taken = post(globex, &format!("{share}/accept?from=acme&site=partner"), String::new()).await;
    assert_eq!((taken.0, &taken.1["source_tenant"]), (200, &json!("acme")), "{}", taken.1);
    let (_, ran) = post(globex, &format!("{share}/sync"), String::new()).await;
    assert_eq!(ran["written"], 1, "{ran}");
    let path = "/-/content/items/partner/a";
    assert_eq!(send(node, globex, Request::get(path), "").await.body, "for both");
    assert_eq!(post(acme, &format!("{share}/revoke"), String::new()).await.0, 200);
    assert_eq!(send(node, globex, Request::get(path), "").await.status, 404);
}

async fn waits_for_changes(node: &Node, acme: &str) {
    let now =
        read(&send(node, acme, Request::get("/-/content/changes?limit=1000"), "").await)["next"].clone();
    let waiting = send(node, acme, Request::get(format!("/-/content/changes?since={now}&wait=30")), "");
    let writing = send(node, acme, Request::put("/-/content/items/docs/new"), "new");
    let (woken, _) = tokio::join!(waiting, writing);
    assert_eq!(read(&woken)["changes"][0]["subject"], "new", "{}", woken.text());
}

#[tokio::test]
async fn content_of_tenants_on_sqlite() {
    content_of_tenants("sqlite = \"s1.db\"").await;
}

#[tokio::test]
async fn content_of_tenants_on_postgres() {
    let cluster = Cluster::start().await;
    cluster.admin("CREATE DATABASE shop OWNER own").await;
    let [owner, writer, applier] = ["own", "app", "put"].map(|role| cluster.url(role, "shop"));
    content_of_tenants(&format!(
        "postgres = {{ owner = {owner:?}, writer = {writer:?}, applier = {applier:?} }}"
    ))
    .await;
}

#[tokio::test]
async fn keys_beside_what_they_open_are_refused() {
    let (place, upstream) = (tempfile::tempdir().unwrap(), Upstream::start("web").await);
    let folder = set_up(place.path(), &upstream, "sqlite = \"s1.db\"");
    good(folder.path(), &["apply"]).await;
    let first = folder.path().join("portolan.toml");
    let text = std::fs::read_to_string(&first).unwrap();
    std::fs::write(&first, text.replace("keyring = \"keys\"", "keyring = \"packs/keys\"")).unwrap();
    let (code, told) = says(folder.path(), &["validate"]).await;
    assert!(code != 0 && told.contains("the keys lie within the folder of what they open"), "{code} {told}");
}
