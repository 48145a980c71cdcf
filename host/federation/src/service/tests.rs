//! The service over a database of SQLite and a folder of packs, through its own door.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_TYPE, ETAG, RANGE};
use portolan_changelog::{Engine, Store};
use portolan_core::log::Epoch;
use portolan_foundation::clock;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::tests::noise;

mod regions;
mod tenants;

#[derive(Debug)]
struct One {
    lease: Lease,
    store: Store,
}

impl Homes for One {
    fn admits(&self, _tenant: &TenantName, region: &RegionName) -> bool {
        region.as_str() != "far"
    }

    fn followed(&self) -> Vec<Followed> {
        Vec::new()
    }

    fn keepers(&self, _shard: &ShardName) -> Vec<RegionName> {
        vec![RegionName::new("here").unwrap()]
    }

    fn leased(&self, _shard: &ShardName) -> Option<(Store, Lease)> {
        Some((self.store.clone(), self.lease))
    }

    fn placed(&self, tenant: &TenantName) -> Option<Placed> {
        let region = |name: &str| RegionName::new(name).unwrap();
        // Where these are kept, the first may not be.
        let other = if tenant.as_str() == "afar" { "far" } else { "near" };
        let regions = vec![region("here"), region(other)];
        Some(Placed { primary: region("here"), regions, shard: ShardName::new("s1").unwrap() })
    }

    fn regions(&self) -> Vec<RegionName> {
        ["far", "here", "near"].map(|name| RegionName::new(name).unwrap()).to_vec()
    }

    fn shards(&self) -> Vec<ShardName> {
        vec![ShardName::new("s1").unwrap()]
    }
}

#[derive(Debug)]
struct Nobody;

impl Authenticate for Nobody {
    fn token(&self, _text: &str) -> Result<Access, Unauthentic> {
        Err(Unauthentic("nobody".to_owned()))
    }
}

struct Set {
    folder: TempDir,
    service: Service,
}

async fn set_up() -> Set {
    let folder = tempfile::tempdir().unwrap();
    let local = RegionName::new("here").unwrap();
    let engine = Engine::Sqlite(folder.path().join("s1.db"));
    let store = Store::open(&engine, local.clone()).await.unwrap();
    let hour = Duration::from_secs(3_600);
    let deadline_us = store.clock().await.unwrap() + 3_600_000_000;
    store.begin_epoch(Epoch(1), deadline_us).await.unwrap();
    let lease = Lease::granted(Epoch(1), clock::now(), hour, Duration::ZERO);
    let places = Places::local(&folder.path().join("packs"), folder.path().join("keys")).unwrap();
    let homes = Arc::new(One { lease, store });
    let runtime = tokio::runtime::Handle::current();
    Set { folder, service: Service::new(homes, &places, local, Arc::new(Nobody), runtime) }
}

impl Set {
    fn desk(&self, tenant: &str) -> Desk {
        let shard = ShardName::new("s1").unwrap();
        let leased = self.service.shared.homes.leased(&shard).unwrap();
        Desk::new(Arc::clone(&self.service.shared), TenantName::new(tenant).unwrap(), shard, leased)
    }

    async fn send(
        &self,
        tenant: &str,
        request: http::request::Builder,
        body: Vec<u8>,
    ) -> (Response<()>, Vec<u8>) {
        let work = Work {
            epoch: Epoch(1),
            shard: ShardName::new("s1").unwrap(),
            tenant: TenantName::new(tenant).unwrap(),
        };
        let response = self.service.answer(work, request.body(whole(body)).unwrap()).await;
        let (parts, body) = response.into_parts();
        let content = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes().to_vec();
        (Response::from_parts(parts, ()), content)
    }

    async fn ask(&self, method: &str, path: &str, body: Vec<u8>) -> (u16, Value) {
        self.ask_as("acme", method, path, body).await
    }

    async fn ask_as(&self, tenant: &str, method: &str, path: &str, body: Vec<u8>) -> (u16, Value) {
        let uri = format!("{CONTENT_PATH}{path}");
        let (response, content) = self.send(tenant, Request::builder().method(method).uri(uri), body).await;
        (response.status().as_u16(), serde_json::from_slice(&content).unwrap_or(Value::Null))
    }

    async fn put(&self, path: &str, media: &str, body: Vec<u8>) -> (u16, Value) {
        let request = Request::put(format!("{CONTENT_PATH}{path}")).header(CONTENT_TYPE, media);
        let (response, content) = self.send("acme", request, body).await;
        (response.status().as_u16(), serde_json::from_slice(&content).unwrap())
    }

    async fn get(&self, path: &str) -> Vec<u8> {
        let (response, content) =
            self.send("acme", Request::get(format!("{CONTENT_PATH}{path}")), Vec::new()).await;
        assert_eq!(response.status(), 200, "{}", String::from_utf8_lossy(&content));
        content
    }
}

#[tokio::test]
async fn contents_of_all_sizes_come_back_and_are_no_text_on_the_disk() {
    let set = set_up().await;
    let marker = b"a-word-that-is-nowhere-else";
    for (name, size) in [("none", 0), ("small", 100), ("chunk", 40_000), ("many", 3_000_000)] {
        let mut bytes = noise(7, size);
        bytes.extend(marker);
        let path = format!("/items/docs/{name}");
        let (status, told) = set.put(&path, "application/octet-stream", bytes.clone()).await;
        assert_eq!(status, 201, "{told}");
        assert_eq!(set.get(&path).await, bytes, "{name}");
        assert_eq!(set.get(&format!("/c/{}", told["root"].as_str().unwrap())).await, bytes);
        let (status, again) = set.put(&path, "application/octet-stream", bytes).await;
        assert_eq!((status, &again["version"]), (200, &told["version"]), "the same again is no version");
    }
    let request =
        Request::get(format!("{CONTENT_PATH}/items/docs/many")).header(RANGE, "bytes=1000000-1999999");
    let (response, content) = set.send("acme", request, Vec::new()).await;
    assert_eq!((response.status().as_u16(), &content[..]), (206, &noise(7, 3_000_000)[1_000_000..2_000_000]));
    assert!(response.headers().contains_key(ETAG));
    // Another tenant finds nothing by the same names.
    let (response, _) =
        set.send("globex", Request::get(format!("{CONTENT_PATH}/items/docs/many")), Vec::new()).await;
    assert_eq!(response.status(), 404);
    let mut folders = vec![set.folder.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                let bytes = std::fs::read(entry.path()).unwrap();
                assert!(!bytes.windows(marker.len()).any(|window| window == marker), "{:?}", entry.path());
            }
        }
    }
}

#[tokio::test]
async fn versions_are_kept_compared_and_deleted() {
    let set = set_up().await;
    let first = noise(1, 1_000_000);
    let mut second = first.clone();
    second[500_000] ^= 1;
    let (_, one) = set.put("/items/docs/a", "image/png", first.clone()).await;
    let (status, two) = set.put("/items/docs/a", "image/png", second.clone()).await;
    assert_eq!(status, 200);
    let (of, to) = (one["version"].as_str().unwrap(), two["version"].as_str().unwrap());
    assert_eq!(set.get(&format!("/items/docs/a?version={of}")).await, first);
    let (_, diff) = set.ask("GET", &format!("/items/docs/a/diff?from={of}&to={to}"), Vec::new()).await;
    let place = &diff["changed"][0];
    let (at, bytes) = (place["at"].as_u64().unwrap(), place["bytes"].as_u64().unwrap());
    assert!(at <= 500_000 && 500_000 < at + bytes && bytes < 300_000, "{diff}");
    assert_eq!(set.ask("DELETE", "/items/docs/a", Vec::new()).await.0, 204);
    assert_eq!(set.ask("GET", "/items/docs/a", Vec::new()).await.0, 404);
    assert_eq!(set.ask("DELETE", "/items/docs/a", Vec::new()).await.0, 404);
    assert_eq!(set.ask("GET", "/items/docs", Vec::new()).await.1["items"], json!([]));
    let (_, log) = set.ask("GET", "/items/docs/a/versions", Vec::new()).await;
    let deleted: Vec<bool> =
        log["versions"].as_array().unwrap().iter().map(|one| one["deleted"] == true).collect();
    assert_eq!(deleted, [true, false, false]);
    assert_eq!(set.get(&format!("/items/docs/a?version={to}")).await, second);
    let (_, changes) = set.ask("GET", "/changes?since=1", Vec::new()).await;
    assert_eq!((changes["changes"].as_array().unwrap().len(), &changes["next"]), (2, &json!(3)));
    let (_, none) = set.ask("GET", "/changes?since=3&wait=1", Vec::new()).await;
    assert_eq!(none["changes"], json!([]));
}

#[tokio::test]
async fn writers_that_did_not_know_each_other_lose_nothing() {
    let set = set_up().await;
    let text = |lines: [&str; 3]| lines.map(|line| format!("{line}\n")).concat().into_bytes();
    let (_, base) = set.put("/items/docs/t", "text/plain", text(["a", "b", "c"])).await;
    let base = base["version"].as_str().unwrap().to_owned();
    set.put("/items/docs/t", "text/plain", text(["A", "b", "c"])).await;
    let (_, merged) =
        set.put(&format!("/items/docs/t?base={base}"), "text/plain", text(["a", "b", "C"])).await;
    assert_eq!(merged["conflict"], false, "{merged}");
    assert_eq!(set.get("/items/docs/t").await, text(["A", "b", "C"]));

    // The same line twice, and bytes that nobody can merge.
    let (_, beside) =
        set.put(&format!("/items/docs/t?base={base}"), "text/plain", text(["x", "b", "c"])).await;
    assert_eq!(beside["conflict"], true);
    let (_, open) = set.ask("GET", "/items/docs/t/conflicts", Vec::new()).await;
    let heads: Vec<&str> =
        open["heads"].as_array().unwrap().iter().map(|head| head["version"].as_str().unwrap()).collect();
    assert_eq!((&open["conflict"], heads.len()), (&json!(true), 2));
    let keep = |keep: &str, heads: &[&str]| json!({ "keep": keep, "heads": heads }).to_string().into_bytes();
    let stale = set.ask("POST", "/items/docs/t/conflicts", keep(heads[0], &heads[..1])).await;
    assert_eq!(stale.0, 412, "{}", stale.1);
    let done =
        set.ask("POST", "/items/docs/t/conflicts", keep(beside["version"].as_str().unwrap(), &heads)).await;
    assert_eq!(done.0, 200, "{}", done.1);
    assert_eq!(set.get("/items/docs/t").await, text(["x", "b", "c"]));
    assert_eq!(set.ask("POST", "/items/docs/t/conflicts", keep(heads[0], &heads)).await.0, 404);
}

#[tokio::test]
async fn uploads_go_on_where_they_were() {
    let set = set_up().await;
    let bytes = noise(3, 1_500_000);
    let announced = json!({ "site": "docs", "name": "big", "bytes": bytes.len() }).to_string();
    let (status, told) = set.ask("POST", "/uploads", announced.into_bytes()).await;
    assert_eq!(status, 201, "{told}");
    let path = format!("{CONTENT_PATH}/uploads/{}", told["upload"].as_str().unwrap());
    let mut at = 0;
    for size in [10, 700_000, 1, 799_689] {
        let part = bytes[at..at + size].to_vec();
        let wrong = Request::patch(&path).header("upload-offset", (at + 1).to_string());
        assert_eq!(set.send("acme", wrong, part.clone()).await.0.status(), 409);
        let right = Request::patch(&path).header("upload-offset", at.to_string());
        let (response, content) = set.send("acme", right, part).await;
        at += size;
        assert_eq!(response.status().as_u16(), 204, "{}", String::from_utf8_lossy(&content));
        let (response, _) = set.send("acme", Request::head(&path), Vec::new()).await;
        assert_eq!(response.headers()["upload-offset"], at.to_string().as_str());
    }
    let too_much = Request::patch(&path).header("upload-offset", at.to_string());
    assert_eq!(set.send("acme", too_much, vec![0; 301]).await.0.status(), 413);
    let last = Request::patch(&path).header("upload-offset", at.to_string());
    let (response, _) = set.send("acme", last, bytes[at..].to_vec()).await;
    assert_eq!(response.status(), 201);
    assert_eq!(set.get("/items/docs/big").await, bytes);
    assert_eq!(
        set.ask("GET", &format!("/uploads/{}", told["upload"].as_str().unwrap()), Vec::new()).await.0,
        404
    );
}

#[tokio::test]
async fn a_share_is_offered_accepted_followed_and_ended() {
    let set = set_up().await;
    for name in ["news%2F1", "news%2F2", "old%2F1"] {
        set.put(&format!("/items/source/{name}"), "text/plain", format!("{name}\n").into_bytes()).await;
    }
    let offer = json!({
        "source_site": "source", "target_site": "target", "scope": "collection", "scope_ref": "news/",
        "mode": "fork_follow", "direction": "push", "denied_regions": ["near"],
    });
    let (status, share) = set.ask("POST", "/shares", offer.to_string().into_bytes()).await;
    assert_eq!((status, &share["status"]), (201, &json!("offered")), "{share}");
    assert_eq!(set.ask("POST", "/shares", offer.to_string().into_bytes()).await.0, 409);
    let path = format!("/shares/{}", share["share"].as_str().unwrap());
    assert_eq!(set.ask("POST", &format!("{path}/sync"), Vec::new()).await.0, 403, "nobody has accepted it");
    assert_eq!(set.ask("POST", &format!("{path}/accept"), Vec::new()).await.1["status"], "accepted");
    let (_, preview) = set.ask("GET", &format!("{path}/preview"), Vec::new()).await;
    assert_eq!(preview["items"], 2, "{preview}");
    let why: Vec<&Value> =
        preview["regions"].as_array().unwrap().iter().map(|one| &one["violates"]).collect();
    assert_eq!(why, [&json!("residency"), &Value::Null, &json!("denied-region")]);

    let (_, ran) = set.ask("POST", &format!("{path}/sync"), Vec::new()).await;
    assert_eq!(ran["written"], 2, "{ran}");
    assert_eq!(set.get("/items/target/news%2F1").await, b"news%2F1\n");
    assert_eq!(set.ask("POST", &format!("{path}/sync"), Vec::new()).await.1["unchanged"], 2);
    // The target's own edit stays beside what comes.
    set.put("/items/target/news%2F1", "text/plain", b"own\nnews%2F1\n".to_vec()).await;
    set.put("/items/source/news%2F1", "text/plain", b"news%2F1\nnext\n".to_vec()).await;
    set.ask("POST", &format!("{path}/sync"), Vec::new()).await;
    assert_eq!(set.get("/items/target/news%2F1").await, b"own\nnews%2F1\nnext\n");

    assert_eq!(set.ask("POST", &format!("{path}/revoke"), Vec::new()).await.1["status"], "revoked");
    assert_eq!(set.ask("POST", &format!("{path}/accept"), Vec::new()).await.0, 409);
    assert_eq!(set.ask("POST", &format!("{path}/sync"), Vec::new()).await.0, 403);
}

#[tokio::test]
async fn what_nothing_uses_goes_and_what_is_used_stays() {
    let set = set_up().await;
    let (kept, dropped) = (noise(1, 200_000), noise(2, 200_000));
    set.put("/items/docs/a", "image/png", kept.clone()).await;
    let announced = json!({ "site": "docs", "name": "b", "bytes": 400_000 }).to_string();
    let (_, told) = set.ask("POST", "/uploads", announced.into_bytes()).await;
    let path = format!("{CONTENT_PATH}/uploads/{}", told["upload"].as_str().unwrap());
    let part = [dropped.clone(), noise(5, 150_000)].concat();
    set.send("acme", Request::patch(&path).header("upload-offset", "0"), part).await;
    let packs = || std::fs::read_dir(set.folder.path().join("packs/acme/pack")).unwrap().count();
    assert_eq!(packs(), 2);
    let (desk, mut now_ms) = (set.desk("acme"), clock::unix_ms());
    let beyond = crate::defaults::LEASE_MS + 1;
    for (ahead, left) in [(0, 2), (beyond, 2), (crate::defaults::QUARANTINE_MS, 1), (beyond, 1)] {
        now_ms += ahead;
        collect::collect(&desk, now_ms).await.unwrap();
        assert_eq!(packs(), left);
    }
    assert_eq!(set.get("/items/docs/a").await, kept);
    // What was collected is written anew when it comes again.
    let (status, told) = set.put("/items/docs/b", "image/png", dropped.clone()).await;
    assert_eq!(status, 201, "{told}");
    assert_eq!(set.get("/items/docs/b").await, dropped);
}

#[tokio::test]
async fn a_stream_of_changes_begins_where_its_reader_was_and_goes_on() {
    let set = set_up().await;
    for name in ["a", "b"] {
        set.put(&format!("/items/docs/{name}"), "text/plain", name.as_bytes().to_vec()).await;
    }
    let (shard, tenant) = (ShardName::new("s1").unwrap(), TenantName::new("acme").unwrap());
    let request = Request::get(format!("{CONTENT_PATH}/changes"))
        .header("accept", "text/event-stream")
        .header("last-event-id", "1");
    let work = Work { epoch: Epoch(1), shard, tenant };
    let mut body = set.service.answer(work, request.body(whole("")).unwrap()).await.into_body();
    let mut next = async || {
        let frame = http_body_util::BodyExt::frame(&mut body).await.unwrap().unwrap();
        String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
    };
    let first = next().await;
    assert!(
        first.starts_with("id: 2\nevent: version\ndata: {") && first.contains("\"subject\":\"b\""),
        "{first}"
    );
    set.put("/items/docs/c", "text/plain", b"c".to_vec()).await;
    assert!(next().await.starts_with("id: 3\n"));
}

/// Any order of writers and collectors, of which some stop halfway: what a version has is always read.
#[tokio::test]
async fn no_order_of_writers_and_collectors_loses_anything() {
    for seed in 0..6_u64 {
        let set = set_up().await;
        let (desk, mut now_ms) = (set.desk("acme"), clock::unix_ms());
        let mut dice = portolan_core::balance::splitmix(seed);
        let mut kept = std::collections::BTreeMap::new();
        for step in 0..25_u64 {
            dice = portolan_core::balance::splitmix(dice);
            let number = dice >> 8 & 3;
            let path = format!("/items/docs/{}", dice >> 16 & 3);
            match dice & 7 {
                0..3 => {
                    // Contents that share chunks with others.
                    let bytes = [noise(number, 300_000), noise(step, 40_000)].concat();
                    let (status, told) = set.put(&path, "image/png", bytes.clone()).await;
                    assert!(status < 300, "seed {seed}, step {step}: {told}");
                    kept.insert(told["version"].as_str().unwrap().to_owned(), (path, bytes));
                }
                3 => {
                    let announced = json!({ "site": "docs", "name": "never", "bytes": 900_000 }).to_string();
                    let (_, told) = set.ask("POST", "/uploads", announced.into_bytes()).await;
                    let path = format!("{CONTENT_PATH}/uploads/{}", told["upload"].as_str().unwrap());
                    let part = [noise(number, 300_000), noise(step, 300_000)].concat();
                    set.send("acme", Request::patch(&path).header("upload-offset", "0"), part).await;
                }
                4 => drop(collect::decide(&desk, now_ms).await.unwrap()),
                5 => now_ms += crate::defaults::LEASE_MS / 2 + 1,
                _ => {
                    now_ms += crate::defaults::QUARANTINE_MS;
                    collect::collect(&desk, now_ms).await.unwrap();
                }
            }
        }
        for (version, (path, bytes)) in kept {
            assert_eq!(set.get(&format!("{path}?version={version}")).await, bytes, "seed {seed}");
        }
    }
}

#[tokio::test]
async fn bad_input_has_clear_answers() {
    let set = set_up().await;
    set.put("/items/docs/a", "text/plain", b"a".to_vec()).await;
    for (method, path, body, status, code) in [
        ("GET", "/items/docs/b", "", 404, "not-found"),
        ("GET", "/nothing", "", 404, "not-found"),
        ("GET", "/items/Docs/a", "", 400, "bad-request"),
        ("POST", "/items/docs/a", "", 405, "method-not-allowed"),
        ("GET", "/items/docs?limit=0", "", 400, "bad-request"),
        ("GET", "/items/docs/a/diff", "", 400, "bad-request"),
        ("GET", "/items/docs/a?version=zz", "", 404, "not-found"),
        ("PUT", "/items/docs/a?base=zz", "b", 404, "not-found"),
        ("GET", "/c/zz", "", 404, "not-found"),
        ("GET", "/changes?wait=999", "", 400, "bad-request"),
        ("POST", "/uploads", "{}", 400, "bad-content"),
        ("POST", "/uploads", r#"{"site":"docs","name":"b","bytes":99999999999999}"#, 413, "too-large"),
        ("PATCH", "/uploads/zz", "x", 400, "bad-request"),
        ("POST", "/shares", r#"{"source_site":"a"}"#, 400, "bad-content"),
        ("POST", "/shares/zz/accept", "", 404, "not-found"),
        ("POST", "/items/docs/a/conflicts", r#"{"keep":"zz","heads":[]}"#, 404, "not-found"),
    ] {
        let (found, told) = set.ask(method, path, body.as_bytes().to_vec()).await;
        assert_eq!((found, &told["code"]), (status, &json!(code)), "{method} {path}: {told}");
    }
    let kept = Request::put(format!("{CONTENT_PATH}/items/docs/a")).header("if-none-match", "*");
    assert_eq!(set.send("acme", kept, b"b".to_vec()).await.0.status(), 412);
    let other = Request::put(format!("{CONTENT_PATH}/items/docs/a")).header("if-match", "\"00\"");
    assert_eq!(set.send("acme", other, b"b".to_vec()).await.0.status(), 412);
    let media = Request::put(format!("{CONTENT_PATH}/items/docs/a")).header(CONTENT_TYPE, "text");
    assert_eq!(set.send("acme", media, b"b".to_vec()).await.0.status(), 400);
    let shard = ShardName::new("s1").unwrap();
    let work = Work { epoch: Epoch(2), shard, tenant: TenantName::new("acme").unwrap() };
    let request = Request::get(format!("{CONTENT_PATH}/items/docs")).body(whole("")).unwrap();
    let elsewhere = set.service.answer(work, request).await;
    assert_eq!(elsewhere.status(), 421, "another lease");
}
