//! What the API offers, request by request.

use portolan_changelog::Lease;
use portolan_core::log::{Epoch, Placement};
use portolan_core::time::Moment;

use super::place::{Place, check, send};
use crate::data::{Code, Door, Fault, need, openapi};

const FULL: &str = "Prefer: return=representation";

pub(super) async fn rows_come_and_go(place: Place) {
    let door = place.door("acme").await;
    let select = "?select=id,title,rank,done";
    for (request, content, status, wanted) in [
        ("POST /notes", r#"{"id": 1, "title": "one"}"#, 201, ""),
        (
            "POST /notes?select=id,title,rank,done | Prefer: return=representation",
            r#"[{"id": 2, "title": "two", "rank": 5}]"#,
            201,
            r#"[{"id":2,"title":"two","rank":5,"done":false}]"#,
        ),
        (
            "POST /notes?select=id | Prefer: return=representation",
            r#"{"id": 3, "title": "three", "tenant": "acme"}"#,
            201,
            r#"{"id":3}"#,
        ),
        (
            "GET /notes?select=id,title,rank,done",
            "",
            200,
            r#"[{"id":1,"title":"one","rank":null,"done":false},{"id":2,"title":"two","rank":5,"done":false},{"id":3,"title":"three","rank":null,"done":false}]"#,
        ),
        (
            "GET /notes?select=id,rank&order=rank",
            "",
            200,
            r#"[{"id":2,"rank":5},{"id":1,"rank":null},{"id":3,"rank":null}]"#,
        ),
        ("GET /notes?select=id&order=rank.desc,title.asc", "", 200, r#"[{"id":1},{"id":3},{"id":2}]"#),
        ("GET /notes?select=id&order=rank.nullsfirst,id.desc", "", 200, r#"[{"id":3},{"id":1},{"id":2}]"#),
        (
            "GET /notes?select=id::text&title=like.t*&or=(rank.gt.4,rank.is.null)",
            "",
            200,
            r#"[{"id":"2"},{"id":"3"}]"#,
        ),
        ("GET /notes?select=id&id=in.(3,1,9)&limit=1", "", 200, r#"[{"id":1}]"#),
        ("GET /notes?limit=0", "", 200, "[]"),
        ("HEAD /notes/2", "", 200, ""),
        (
            "PATCH /notes/2?select=rank | Prefer: return=representation",
            r#"{"rank": 6, "id": 2}"#,
            200,
            r#"{"rank":6}"#,
        ),
        ("PATCH /notes?rank=is.null", r#"{"rank": 7}"#, 204, ""),
        ("PATCH /notes?select=id&rank=eq.99 | Prefer: return=representation", r#"{"rank": 7}"#, 200, "[]"),
        (
            "PUT /notes/2?select=id,rank | Prefer: return=representation",
            r#"{"title": "zwei"}"#,
            200,
            r#"{"id":2,"rank":null}"#,
        ),
        ("PUT /notes/4", r#"{"title": "four"}"#, 201, ""),
        ("PUT /notes/4", r#"{"title": "4", "id": 4}"#, 204, ""),
        (
            "POST /notes | Prefer: resolution=merge-duplicates",
            r#"[{"id": 4, "title": "4", "body": "x"}, {"id": 5, "title": "5"}]"#,
            204,
            "",
        ),
        ("POST /notes | Prefer: resolution=ignore-duplicates", r#"[{"id": 4, "title": "gone"}]"#, 204, ""),
        ("GET /notes/4?select=title,body", "", 200, r#"{"title":"4","body":"x"}"#),
        ("DELETE /notes/4?select=title | Prefer: return=representation", "", 200, r#"{"title":"4"}"#),
        ("DELETE /notes/4", "", 404, "~not-found"),
        ("DELETE /notes?id=gte.3", "", 204, ""),
        ("GET /notes?select=id,title", "", 200, r#"[{"id":1,"title":"one"},{"id":2,"title":"zwei"}]"#),
        ("POST /lines", r#"[{"note": 1, "no": "a,/é", "words": "hello"}, {"note": 1, "no": ""}]"#, 201, ""),
        ("GET /lines/1,a%2C%2F%C3%A9?select=words,size", "", 200, r#"{"words":"hello","size":5}"#),
        ("GET /lines/1,", "", 200, r#"{"note":1,"no":"","words":null,"size":null}"#),
        ("GET /plans?name=eq.paid", "", 200, r#"[{"id":2,"name":"paid"}]"#),
        ("DELETE /lines?all=true", "", 204, ""),
        ("DELETE /notes?all=true", "", 204, ""),
    ] {
        check(&door, request, content, status, wanted).await;
    }
    let made = send(&door, &["POST /lines"], "[]").await;
    assert_eq!((made.status.as_u16(), made.header("portolan-count")), (201, "0"));
    send(&door, &["POST /notes"], r#"{"id": 1, "title": "one"}"#).await;
    let made = send(&door, &["POST /lines", FULL], r#"{"note": 1, "no": "a,/"}"#).await;
    assert_eq!(made.header("location"), "/-/data/lines/1,a%2C%2F");
    assert!(made.header("portolan-token").starts_with("v1;eu-1=1."), "{made:?}");
    let put = send(&door, &["PUT /lines/1,b"], "{}").await;
    assert_eq!(put.header("location"), "/-/data/lines/1,b");
    let read = send(&door, &[&format!("GET /notes{select}"), "Prefer: count=exact"], "").await;
    assert_eq!((read.header("portolan-count"), read.header("portolan-token")), ("1", ""));
    assert_eq!(read.header("preference-applied"), "count=exact");
}

pub(super) async fn a_key_may_be_a_rows_only_column(place: Place) {
    let door = place.door("acme").await;
    check(&door, "POST /tags | Prefer: resolution=merge-duplicates", r#"{"id": "a"}"#, 204, "").await;
    check(&door, "POST /tags | Prefer: resolution=merge-duplicates", r#"{"id": "a"}"#, 204, "").await;
    // One row of each tenant, without a key of its own.
    check(&door, "POST /settings", r#"{"theme": "dark"}"#, 201, "").await;
    check(&door, "POST /settings", r#"{"theme": "light"}"#, 409, "~unique-violation").await;
    check(&door, "POST /settings | Prefer: resolution=merge-duplicates", r#"{"theme": "light"}"#, 204, "")
        .await;
    check(&door, "PATCH /settings?all=true", r#"{"theme": "grey"}"#, 204, "").await;
    check(&door, "GET /settings", "", 200, r#"[{"theme":"grey"}]"#).await;
    check(&door, "GET /settings/x", "", 400, "~has one row of each tenant").await;
}

pub(super) async fn values_are_what_they_were(place: Place) {
    let door = place.door("acme").await;
    let mut at = 0;
    for (column, sent, told) in [
        ("rank", "-9007199254740993", "-9007199254740993"),
        ("rank", "\"-9223372036854775808\"", "-9223372036854775808"),
        ("amount", "\"12345.6789\"", "\"12345.6789\""),
        ("amount", "-0.001", "\"-0.001\""),
        ("amount", "1e3", "\"1000\""),
        ("ratio", "0.1", "0.1"),
        ("ratio", "1.7976931348623157e308", "1.7976931348623157e+308"),
        ("ratio", "5", "5.0"),
        ("at", "\"2026-11-26T20:15:40.5+01:00\"", "\"2026-11-26T19:15:40.500000Z\""),
        ("at", "\"0001-01-01T00:00:00Z\"", "\"0001-01-01T00:00:00.000000Z\""),
        ("seen", "\"2026-11-26 20:15\"", "\"2026-11-26T20:15:00.000000\""),
        ("day", "\"2024-02-29\"", "\"2024-02-29\""),
        ("data", "\"AP8Q\"", "\"AP8Q\""),
        ("data", "\"\"", "\"\""),
        ("uid", "\"A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11\"", "\"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11\""),
        ("done", "true", "true"),
        ("body", "\"ünï\\n\\\"'; DROP TABLE notes --\"", "\"ünï\\n\\\"'; DROP TABLE notes --\""),
        ("body", "\"007\"", "\"007\""),
        ("body", "null", "null"),
        ("small", "-2147483648", "-2147483648"),
    ] {
        at += 1;
        let content = format!(r#"{{"id": {at}, "title": "{at}", "{column}": {sent}}}"#);
        let request = format!("POST /notes?select={column} | {FULL}");
        check(&door, &request, &content, 201, &format!(r#"{{"{column}":{told}}}"#)).await;
        check(
            &door,
            &format!("GET /notes/{at}?select={column}"),
            "",
            200,
            &format!(r#"{{"{column}":{told}}}"#),
        )
        .await;
        if told != "null" {
            let value = crate::data::percent::encode(
                told.trim_matches('"').replace("\\n", "\n").replace("\\\"", "\"").as_str(),
            );
            let found = send(&door, &[&format!("GET /notes?select=id&{column}=eq.{value}")], "").await;
            assert!(found.text.contains(&format!("\"id\":{at}}}")), "{column} {value} {found:?}");
        }
    }
    for (doc, same) in [
        (r#"{"a":[1,{"b":null}]}"#, true),
        ("[1,\"x\"]", true),
        ("\"x\"", true),
        ("true", true),
        ("null", true),
    ] {
        at += 1;
        let content = format!(r#"{{"id": {at}, "title": "{at}", "doc": {doc}}}"#);
        let told = send(&door, &["POST /notes?select=doc", FULL], &content).await;
        let doc: serde_json::Value = serde_json::from_str(doc).unwrap();
        assert_eq!(told.json()["doc"] == doc, same, "{told:?}");
    }
    let wrong = [
        ("rank", "1.5"),
        ("rank", "\"x\""),
        ("rank", "9223372036854775808"),
        ("rank", "true"),
        ("small", "2147483648"),
        ("done", "1"),
        ("done", "\"true \""),
        ("amount", "\"1,5\""),
        ("amount", "\"NaN\""),
        ("ratio", "\"x\""),
        ("ratio", "1e999"),
        ("at", "\"2026-11-26\""),
        ("at", "\"2026-11-26T20:15:40\""),
        ("at", "5"),
        ("seen", "\"2026-11-26T20:15:40Z\""),
        ("day", "\"2023-02-29\""),
        ("data", "\"?\""),
        ("data", "5"),
        ("uid", "\"x\""),
        ("body", "5"),
        ("body", "{}"),
        ("body", "\"\\u0000\""),
        ("doc", "{\"a\": \"\\u0000\"}"),
    ];
    for (column, sent) in wrong {
        let content =
            format!(r#"[{{"id": 99, "title": "99"}}, {{"id": 98, "title": "98", "{column}": {sent}}}]"#);
        let told = send(&door, &["POST /notes"], &content).await;
        assert_eq!(
            (told.status.as_u16(), told.code().as_str()),
            (422, "wrong-type"),
            "{column} {sent} {told:?}"
        );
        let fault = &told.json()["errors"][0];
        assert_eq!((&fault["table"], &fault["column"]), (&"notes".into(), &column.into()));
        assert_eq!(fault["pointer"], format!("/1/{column}"));
        assert!(fault["expected"].is_string());
    }
    check(&door, "GET /notes/99", "", 404, "~not-found").await;
    // What SQLite cannot keep it does not take.
    let long =
        send(&door, &["POST /notes"], r#"{"id": 99, "title": "99", "amount": "1234567890123456.5"}"#).await;
    assert_eq!(long.status.as_u16(), if place.is_sqlite() { 422 } else { 201 });
}

pub(super) async fn problems_say_what_is_wrong(place: Place) {
    let door = place.door("acme").await;
    check(&door, "POST /notes", r#"[{"id": 1, "title": "one"}, {"id": 2, "title": "two"}]"#, 201, "").await;
    check(&door, "POST /lines", r#"{"note": 1, "no": "a"}"#, 201, "").await;
    for (request, content, status, wanted) in [
        ("GET /note", "", 404, "~did you mean `notes`?"),
        ("GET /portolan_log", "", 404, "~unknown-table"),
        ("GET /notes?titel=eq.5", "", 422, "~did you mean `title`?"),
        ("GET /notes?select=titel", "", 422, "~unknown-column"),
        ("GET /notes?order=titel", "", 422, "~unknown-column"),
        ("GET /notes?order=doc", "", 400, "~no order"),
        ("GET /notes?order=id.up", "", 400, "~bad-request"),
        ("GET /notes?rank=eq.x", "", 422, "~wrong-type"),
        ("GET /notes?rank=is.true", "", 400, "~bad-filter"),
        ("GET /notes?rank=like.5*", "", 400, "~bad-filter"),
        ("GET /notes?doc=eq.5", "", 400, "~bad-filter"),
        ("GET /notes?rank=5", "", 400, "~wants an operator"),
        ("GET /notes?limit=1001", "", 400, "~from 0 to 1000"),
        ("GET /notes?limit=1&limit=2", "", 400, "~twice"),
        ("GET /notes?offset=5", "", 400, "~rel=\\\"next\\\""),
        ("GET /notes?after=eyJ9", "", 400, "~bad-cursor"),
        ("GET /notes?x=%zz", "", 400, "~percent"),
        ("GET /notes?all=true", "", 400, "~bad-request"),
        ("GET /notes/x", "", 422, "~wrong-type"),
        ("GET /notes/1,2", "", 400, "~a key of `notes` is id"),
        ("GET /notes/1/2", "", 404, "~not-found"),
        ("GET /notes/1?rank=eq.5", "", 400, "~select"),
        ("POST /notes/1", "{}", 405, "~DELETE, GET, HEAD, PATCH, PUT"),
        ("OPTIONS /notes", "", 405, "~method-not-allowed"),
        ("POST /notes | Content-Type: text/csv", "a,b", 415, "~unsupported-type"),
        ("POST /notes", "", 400, "~bad-content"),
        ("POST /notes", "[1]", 400, "~bad-content"),
        ("POST /notes", r#"{"id": 1, "id": 2}"#, 400, "~twice"),
        ("POST /notes", r#"{"id": 3}"#, 422, "~`title` of `notes` is missing"),
        ("POST /notes", r#"{"id": 3, "title": null}"#, 422, "~missing-value"),
        ("POST /notes", r#"{"id": 3, "title": "x", "titel": 5}"#, 422, "~did you mean `title`?"),
        ("POST /notes", r#"{"id": 3, "title": "x", "tenant": "bolt"}"#, 422, "~other-tenant"),
        ("POST /notes", r#"{"id": 3, "title": "x", "tenant": 5}"#, 422, "~other-tenant"),
        ("POST /notes", r#"{"id": 1, "title": "x"}"#, 409, "~unique-violation"),
        ("POST /notes", r#"{"id": 3, "title": "one"}"#, 409, "~unique-violation"),
        ("POST /notes", r#"{"id": 3, "title": "x", "rank": 1000}"#, 422, "~\"constraint\":\"rank_small\""),
        ("POST /lines", r#"{"note": 9, "no": "a"}"#, 409, "~foreign-key-violation"),
        ("POST /lines", r#"{"note": 1, "no": "b", "size": 5}"#, 422, "~not-writable"),
        ("DELETE /notes/1", "", 409, "~foreign-key-violation"),
        ("PATCH /notes/1", "{}", 400, "~nothing would be changed"),
        ("PATCH /notes/1", r#"{"id": 5}"#, 422, "~not-writable"),
        ("PATCH /notes?id=eq.1", r#"{"id": 1, "rank": 5}"#, 422, "~does not change"),
        ("PATCH /notes", r#"{"rank": 5}"#, 400, "~filter-required"),
        ("DELETE /notes", "", 400, "~all=true"),
        ("DELETE /notes?all=true&limit=5", "", 400, "~bad-request"),
        ("PATCH /notes/9", r#"{"rank": 5}"#, 404, "~not-found"),
        ("PUT /notes/9", r#"{"id": 8, "title": "x"}"#, 422, "~the key says another"),
        ("POST /plans", r#"{"id": 3}"#, 403, "~read-only-table"),
        ("DELETE /plans?all=true", "", 403, "~read-only-table"),
        ("POST /", "{}", 400, "~bad-content"),
    ] {
        check(&door, request, content, status, wanted).await;
        let fields: Vec<&str> = request.split(" | ").collect();
        let told = send(&door, &fields, content).await;
        assert_eq!(told.header("content-type"), "application/problem+json");
        assert_eq!(told.json()["type"], format!("urn:portolan:problem:{}", told.code()));
        assert!(!told.text.contains("title_once: "), "{told:?}");
    }
    let told = send(&door, &["POST /notes"], r#"[{"id": 3, "title": "3"}, {"id": 4, "title": "one"}]"#).await;
    assert_eq!(told.json()["errors"][0]["pointer"], "/1", "{told:?}");
    check(&door, "GET /notes/3", "", 404, "~not-found").await;
    let allow = send(&door, &["PUT /notes"], "").await;
    assert_eq!(allow.header("allow"), "DELETE, GET, HEAD, PATCH, POST");
}

pub(super) async fn etags_hold_writers_to_what_they_saw(place: Place) {
    let door = place.door("acme").await;
    let made = send(&door, &["POST /notes", FULL], r#"{"id": 1, "title": "one", "ratio": 0.1}"#).await;
    let read = send(&door, &["GET /notes/1"], "").await;
    let etag = read.header("etag").to_owned();
    assert!(etag.len() > 20 && made.header("etag") == etag, "{made:?} {read:?}");
    let (matches, none) = (format!("If-Match: {etag}"), format!("If-None-Match: \"x\", W/{etag}"));
    let same = send(&door, &["GET /notes/1", &none], "").await;
    assert_eq!((same.status.as_u16(), same.text.as_str(), same.header("etag")), (304, "", etag.as_str()));
    for (request, content, status) in [
        (["PATCH /notes/1", "If-Match: \"x\""], r#"{"rank": 1}"#, 412),
        (["PATCH /notes/1", matches.as_str()], r#"{"rank": 1}"#, 204),
        (["PATCH /notes/1", matches.as_str()], r#"{"rank": 2}"#, 412),
        (["DELETE /notes/1", matches.as_str()], "", 412),
        (["PUT /notes/1", matches.as_str()], r#"{"title": "x"}"#, 412),
        (["PUT /notes/1", "If-None-Match: *"], r#"{"title": "x"}"#, 412),
        (["PUT /notes/2", "If-Match: *"], r#"{"title": "x"}"#, 412),
        (["PUT /notes/2", "If-None-Match: *"], r#"{"title": "x"}"#, 201),
        (["DELETE /notes/9", "If-Match: *"], "", 412),
        (["DELETE /notes/1", "If-Match: nonsense"], "", 400),
        (["DELETE /notes?id=eq.1", "If-Match: *"], "", 400),
        (["POST /notes", "If-Match: *"], r#"{"id": 7, "title": "x"}"#, 400),
        (["DELETE /notes/1", "If-Match: *"], "", 204),
    ] {
        let told = send(&door, &request, content).await;
        assert_eq!(told.status.as_u16(), status, "{request:?} {told:?}");
    }
}

pub(super) async fn transactions_are_whole(place: Place) {
    let door = place.door("acme").await;
    let told = send(&door, &["POST /"], r#"[
        {"do": "insert", "table": "notes", "values": [{"id": 1, "title": "one"}, {"id": 2, "title": "two"}]},
        {"do": "put", "table": "notes", "key": 3, "values": {"title": "three"}, "if_none_match": "*"},
        {"do": "upsert", "table": "notes", "values": {"id": 1, "title": "one", "rank": 5}},
        {"do": "update", "table": "notes", "query": "id=lte.2&select=id,rank", "values": {"rank": 6}, "return": "representation"},
        {"do": "insert", "table": "lines", "values": {"note": 3, "no": "a"}},
        {"do": "get", "table": "lines", "key": [3, "a"]},
        {"do": "delete", "table": "notes", "key": "2"},
        {"do": "get", "table": "notes", "query": "select=id&order=id.desc"}
    ]"#).await;
    assert_eq!(told.status.as_u16(), 200, "{told:?}");
    assert!(told.header("portolan-token").starts_with("v1;eu-1="));
    let results = told.json();
    let statuses: Vec<u64> =
        results.as_array().unwrap().iter().map(|result| result["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [201, 201, 200, 200, 201, 200, 200, 200]);
    let mut updated: Vec<String> =
        results[3]["rows"].as_array().unwrap().iter().map(ToString::to_string).collect();
    updated.sort_unstable();
    assert_eq!(updated, [r#"{"id":1,"rank":6}"#, r#"{"id":2,"rank":6}"#]);
    assert_eq!(results[7]["rows"].to_string(), r#"[{"id":3},{"id":1}]"#);
    // One that fails is named, and takes the others back.
    for (last, status, code, pointer) in [
        (r#"{"do": "update", "table": "notes", "key": 9, "values": {"rank": 1}}"#, 404, "not-found", "/1"),
        (
            r#"{"do": "update", "table": "notes", "key": 1, "values": {"rank": "x"}}"#,
            422,
            "wrong-type",
            "/1/values/rank",
        ),
        (
            r#"{"do": "insert", "table": "notes", "values": [{"id": 8, "title": "8"}, {"id": 1, "title": "1"}]}"#,
            409,
            "unique-violation",
            "/1/values/1",
        ),
        (
            r#"{"do": "delete", "table": "notes", "key": 1, "if_match": "\"x\""}"#,
            412,
            "precondition-failed",
            "/1",
        ),
        (r#"{"do": "delete", "table": "notes"}"#, 400, "filter-required", "/1"),
        (r#"{"do": "delete", "table": "notes", "key": 1, "values": {}}"#, 400, "bad-content", "/1"),
        (r#"{"do": "get", "table": "notes", "key": null}"#, 404, "not-found", "/1"),
        (r#"{"do": "get", "table": "nots"}"#, 404, "unknown-table", "/1"),
    ] {
        let first = r#"{"do": "insert", "table": "notes", "values": {"id": 7, "title": "seven"}}"#;
        let told = send(&door, &["POST /"], &format!("[{first}, {last}]")).await;
        if last.contains("null") {
            // Nothing is no key.
            assert_eq!(told.status.as_u16(), 200, "{told:?}");
            send(&door, &["DELETE /notes/7"], "").await;
            continue;
        }
        assert_eq!((told.status.as_u16(), told.code().as_str()), (status, code), "{last} {told:?}");
        assert_eq!(
            (&told.json()["operation"], &told.json()["errors"][0]["pointer"]),
            (&1.into(), &pointer.into()),
            "{told:?}"
        );
        check(&door, "GET /notes/7", "", 404, "~not-found").await;
    }
    let many = vec![r#"{"do": "get", "table": "notes"}"#; 101].join(",");
    check(&door, "POST /", &format!("[{many}]"), 413, "~too-many").await;
}

pub(super) async fn the_fence_is_told(place: Place) {
    let door = place.door("acme").await;
    let post = r#"{"id": 1, "title": "one"}"#;
    let replica = Door { lease: None, ..door.clone() };
    check(&replica, "POST /notes", post, 421, "~elsewhere").await;
    check(&replica, "GET /notes", "", 200, "[]").await;
    let late = Door { lease: Some(Lease { epoch: Epoch(1), until: Moment(0) }), ..door.clone() };
    check(&late, "POST /notes", post, 421, "~elsewhere").await;
    check(&late, "GET /notes", "", 503, "~busy").await;
    let soon = std::time::Duration::from_secs(5);
    door.store.hold(&door.tenant, "move-1", soon * 60, soon).await.unwrap();
    let held = send(&door, &["POST /notes"], post).await;
    assert_eq!((held.status.as_u16(), held.code().as_str(), held.header("retry-after")), (503, "held", "1"));
    door.store.place(&door.tenant, Placement(1), true).await.unwrap();
    check(&door, "POST /notes", post, 421, "~elsewhere").await;
    door.store.place(&door.tenant, Placement(2), false).await.unwrap();
    // The lease runs out while it is committed.
    let calls = std::sync::atomic::AtomicU64::new(0);
    let clock = || Moment(calls.fetch_add(1_000, std::sync::atomic::Ordering::Relaxed));
    let request = http::Request::post("/notes").body(bytes::Bytes::from_static(post.as_bytes())).unwrap();
    let unknown = crate::data::answer(&door, request, &clock).await;
    assert_eq!(unknown.status(), 500);
    assert!(String::from_utf8_lossy(unknown.body()).contains("outcome-unknown"));
    door.store.demote(Epoch(1), std::time::Duration::from_secs(5)).await.unwrap();
    check(&door, "POST /notes", r#"{"id": 2, "title": "two"}"#, 421, "~elsewhere").await;
}

pub(super) async fn the_catalogue_is_described(place: Place) {
    let door = place.door("acme").await;
    let told = send(&door, &["GET /openapi.json"], "").await;
    assert_eq!(told.json(), openapi(&door.catalogue));
    assert_eq!(send(&door, &["GET /"], "").await.text, told.text);
    let notes = &told.json()["components"]["schemas"]["notes.new"];
    assert_eq!(notes["required"], serde_json::json!(["id", "title"]));
    assert!(notes["properties"]["tenant"].is_null() && !told.text.contains("\"tenant\""));
    assert_eq!(notes["properties"]["rank"]["type"], serde_json::json!(["integer", "string", "null"]));
    assert!(told.json()["paths"]["/plans"]["post"].is_null());
}

#[test]
fn requests_say_what_they_need() {
    use http::Method;
    for (method, path, writes, content) in [
        (Method::GET, "", false, false),
        (Method::GET, "/notes/5", false, false),
        (Method::HEAD, "/notes", false, false),
        (Method::POST, "/", true, true),
        (Method::PATCH, "/notes", true, true),
        (Method::DELETE, "/notes/1", true, false),
    ] {
        let need = need(&method, path).unwrap();
        assert_eq!((need.writes, need.content_bytes_max > 0), (writes, content), "{method} {path}");
    }
    for (method, path, code) in [
        (Method::PUT, "/notes", Code::MethodNotAllowed),
        (Method::POST, "/openapi.json", Code::MethodNotAllowed),
        (Method::GET, "/a/b/c", Code::NotFound),
    ] {
        assert_eq!(need(&method, path).unwrap_err().code, code);
    }
    let fault = Fault { pointer: Some("/a".to_owned()), ..Fault::default() };
    assert_eq!(
        crate::data::Problem::new(Code::WrongType, "x").with(fault).under("/1").errors[0].pointer.as_deref(),
        Some("/1/a")
    );
}
