//! Changes: what a caller must have seen, what is done once, what a tenant may, and how lists go on.

use std::sync::atomic::Ordering;

use http::StatusCode;
use serde_json::{Value, json};

use super::{Bench, own, tcp};
use crate::{Role, Settings};

const REGION: &str = "/api/v1/objects/region/eu";

fn told(answer: &super::Answer) -> (u16, &str) {
    (answer.status.as_u16(), answer.code())
}

#[tokio::test]
async fn a_change_says_what_it_saw() {
    let bench = Bench::new(Settings::default());
    let put =
        async |headers: &[(&str, &str)], body: Value| bench.ask(own(), "PUT", REGION, headers, &body).await;
    let (one, two) =
        (json!({ "gateways": ["a:1"] }), json!({ "gateways": ["b:1"], "x": { "y": 1, "z": 2 } }));
    assert_eq!(told(&put(&[], one.clone()).await), (428, "precondition-required"));
    assert_eq!(told(&put(&[("if-match", "*")], one.clone()).await), (412, "precondition-failed"));
    assert_eq!(told(&put(&[("if-match", "42")], one.clone()).await), (400, "invalid"));
    assert_eq!(
        told(&put(&[("if-match", "\"1\""), ("if-none-match", "*")], one.clone()).await),
        (400, "invalid")
    );
    let dry =
        bench.ask(own(), "PUT", &format!("{REGION}?dry_run=true"), &[("if-none-match", "*")], &one).await;
    assert_eq!((dry.status, &dry.body["dry_run"]), (StatusCode::OK, &json!(true)));
    let made = put(&[("if-none-match", "*")], one.clone()).await;
    assert_eq!((made.status, made.header("etag")), (StatusCode::OK, "\"1\""), "{made:?}");
    assert_eq!(made.body["undo"], "portolan revert 0");
    assert_eq!(told(&put(&[("if-none-match", "*")], one.clone()).await), (412, "precondition-failed"));
    let there = bench.admin("GET", REGION, Value::Null).await;
    assert_eq!((there.header("etag"), &there.body["body"]), ("\"1\"", &one));
    assert_eq!(put(&[("if-match", "\"1\"")], two).await.header("etag"), "\"2\"");
    let stale = put(&[("if-match", "\"1\"")], one).await;
    assert_eq!(
        (told(&stale), stale.header("etag"), &stale.body["current"]),
        ((412, "precondition-failed"), "\"2\"", &json!("\"2\""))
    );

    let patch = json!({ "gateways": null, "x": { "y": null, "w": [1] } });
    let patched = bench
        .ask(
            own(),
            "PATCH",
            REGION,
            &[("if-match", "\"2\""), ("content-type", "application/merge-patch+json")],
            &patch,
        )
        .await;
    assert_eq!(patched.status, StatusCode::OK, "{patched:?}");
    assert_eq!(
        bench.admin("GET", REGION, Value::Null).await.body["body"],
        json!({ "x": { "z": 2, "w": [1] } })
    );
    let gone = bench.ask(own(), "DELETE", REGION, &[("if-match", "\"3\"")], &Value::Null).await;
    assert_eq!((gone.status, gone.header("etag")), (StatusCode::OK, ""));
    assert_eq!(told(&bench.admin("GET", REGION, Value::Null).await), (404, "not-found"));
    assert_eq!(
        told(&bench.ask(own(), "DELETE", REGION, &[("if-match", "*")], &Value::Null).await),
        (404, "not-found")
    );
}

#[tokio::test]
async fn what_a_file_manages_is_changed_there_or_taken_over() {
    let bench = Bench::new(Settings::default());
    bench.twin.put("region", "eu", json!({}), "file:conf.d/eu.toml");
    let seen = [("if-match", "\"1\"")];
    let refused = bench.ask(own(), "PUT", REGION, &seen, &json!({ "a": 1 })).await;
    assert_eq!(told(&refused), (409, "managed-elsewhere"));
    assert!(refused.body["detail"].as_str().unwrap().contains("conf.d/eu.toml"), "{refused:?}");
    let taken = bench.ask(own(), "PUT", &format!("{REGION}?detach=true"), &seen, &json!({ "a": 1 })).await;
    assert_eq!(taken.status, StatusCode::OK);
    for kind in ["token", "version", "rollout", "freeze", "disable"] {
        let path = format!("/api/v1/objects/{kind}/x");
        let answer = bench.ask(own(), "PUT", &path, &[("if-none-match", "*")], &json!({})).await;
        assert_eq!(told(&answer), (409, "managed-elsewhere"), "{kind}");
        let wishes = json!({ "wishes": [{ "kind": kind, "name": "x", "body": {} }] });
        let answer = bench.admin("POST", "/api/v1/changes", wishes).await;
        assert_eq!(told(&answer), (409, "managed-elsewhere"), "{kind}");
    }
}

#[tokio::test]
async fn what_does_not_fit_is_told_with_its_place() {
    let bench = Bench::new(Settings::default());
    let post = async |body: Value| bench.admin("POST", "/api/v1/changes", body).await;
    let pointer =
        |answer: &super::Answer| answer.body["errors"][0]["pointer"].as_str().unwrap_or("-").to_owned();
    let wrong = post(json!({ "wishes": [{ "kind": "a", "name": "b", "body": 7 }] })).await;
    assert_eq!((told(&wrong), &*pointer(&wrong)), ((400, "invalid"), "/wishes/0/body"));
    let wrong = post(json!({ "wishes": [{ "kind": "a", "name": "b", "bodi": {} }] })).await;
    assert_eq!((told(&wrong), &*pointer(&wrong)), ((400, "invalid"), "/wishes/0/bodi"));
    let wrong = post(json!({ "wishes": [{ "kind": "a", "name": "b/c", "body": {} }] })).await;
    assert_eq!((told(&wrong), &*pointer(&wrong)), ((400, "invalid"), "/wishes/0"));
    let twice = json!({ "kind": "a", "name": "b", "body": {} });
    let wrong = post(json!({ "wishes": [twice, twice] })).await;
    assert_eq!((told(&wrong), &*pointer(&wrong)), ((400, "invalid"), "/wishes/1"));
    assert_eq!(told(&post(json!({ "wishes": [] })).await), (400, "invalid"));
    let wrong = bench.admin("POST", "/api/v1/tokens", json!({ "name": "x", "role": "king" })).await;
    assert_eq!((told(&wrong), &*pointer(&wrong)), ((400, "invalid"), "/role"));
    assert_eq!(wrong.header("content-type"), "application/problem+json");
    let plain =
        bench.ask(own(), "POST", "/api/v1/changes", &[("content-type", "text/plain")], &json!({})).await;
    assert_eq!(told(&plain), (415, "unsupported-type"));
    for path in [
        "/api/v1/objects?limit=0",
        "/api/v1/objects?limit=501",
        "/api/v1/objects?limit=x",
        "/api/v1/objects?cursor=%00",
        "/api/v1/objects?nonsense=1",
        "/api/v1/objects/a/b%2Fc",
        "/api/v1/objects/a/b%00c",
        "/api/v1/generations/x",
        "/api/v1/audit/verification?cursor=MTox",
    ] {
        assert_eq!(told(&bench.admin("GET", path, Value::Null).await), (400, "invalid"), "{path}");
    }
    for path in ["/api/v1/objects/../../etc/passwd", "/api/v1/objects//", "/api/v1/generations/0"] {
        assert_eq!(bench.admin("GET", path, Value::Null).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    let large = json!({ "wishes": [], "message": "x".repeat(5 * 1024 * 1024) });
    assert_eq!(told(&post(large).await), (413, "too-large"));
    let deep = format!("{{\"wishes\":{}", "[".repeat(100_000));
    let request = http::Request::post("/api/v1/changes").header("content-type", "application/json");
    let answer = bench.send(own(), request.body(axum::body::Body::from(deep)).unwrap()).await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test(start_paused = true)]
async fn a_slow_content_is_not_waited_for() {
    let bench = Bench::new(Settings::default());
    let never = futures_util::stream::pending::<Result<bytes::Bytes, std::convert::Infallible>>();
    let request = http::Request::post("/api/v1/changes").header("content-type", "application/json");
    let answer = bench.send(own(), request.body(axum::body::Body::from_stream(never)).unwrap()).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_key_does_its_request_once() {
    let bench = Bench::new(Settings::default());
    let wishes = |name: &str| json!({ "wishes": [{ "kind": "settings", "name": name, "body": { "a": 1 } }] });
    let post = async |key: &str, body: &Value| {
        bench.ask(own(), "POST", "/api/v1/changes", &[("idempotency-key", key)], body).await
    };
    let first = post("one", &wishes("a")).await;
    let again = post("one", &wishes("a")).await;
    assert_eq!((first.status, &first.body), (again.status, &again.body));
    assert_eq!((first.header("idempotency-replayed"), again.header("idempotency-replayed")), ("", "true"));
    assert_eq!(told(&post("one", &wishes("b")).await), (422, "idempotency-reused"));
    assert_eq!(told(&post("", &wishes("b")).await), (400, "invalid"));
    assert_eq!(bench.twin.proposals.load(Ordering::Relaxed), 1);
    // Another caller's key is another key.
    let token = bench.token(Role::Operator, None).await;
    let headers = [("idempotency-key", "one"), ("authorization", &*token)];
    let other = bench.ask(tcp(), "POST", "/api/v1/changes", &headers, &wishes("b")).await;
    assert_eq!((other.status, other.header("idempotency-replayed")), (StatusCode::OK, ""));

    // While the first runs, the second is told so; a caller that goes away does not stop it.
    let gate = bench.twin.gate.lock().await;
    let before = bench.twin.proposals.load(Ordering::Relaxed);
    let content = wishes("c");
    let impatient = tokio::time::timeout(std::time::Duration::from_millis(200), async {
        bench.ask(own(), "POST", "/api/v1/changes", &[("idempotency-key", "two")], &content).await
    });
    assert!(impatient.await.is_err(), "it waits for the gate");
    let running = bench.ask(own(), "POST", "/api/v1/changes", &[("idempotency-key", "two")], &content).await;
    assert_eq!(told(&running), (409, "idempotency-running"));
    drop(gate);
    loop {
        let again =
            bench.ask(own(), "POST", "/api/v1/changes", &[("idempotency-key", "two")], &content).await;
        if again.status == StatusCode::OK {
            assert_eq!(again.header("idempotency-replayed"), "true");
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(bench.twin.proposals.load(Ordering::Relaxed), before + 1);
}

#[tokio::test]
async fn lists_go_on_where_they_ended() {
    let bench = Bench::new(Settings::default());
    for number in 0..25 {
        bench.twin.put("region", &format!("r{number:02}"), json!({}), "api");
    }
    let (mut names, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = bench.admin("GET", &format!("/api/v1/objects?limit=10{cursor}"), Value::Null).await;
        let items = page.body["items"].as_array().unwrap().clone();
        names.extend(items.iter().map(|item| item["name"].as_str().unwrap().to_owned()));
        match page.body["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(names, (0..25).map(|number| format!("r{number:02}")).collect::<Vec<_>>());
    let (mut generations, mut cursor) = (Vec::new(), String::new());
    loop {
        let page =
            bench.admin("GET", &format!("/api/v1/changes?limit=7&object=region{cursor}"), Value::Null).await;
        generations.extend(
            page.body["items"].as_array().unwrap().iter().map(|item| item["generation"].as_u64().unwrap()),
        );
        match page.body["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(generations, (1..=25).rev().collect::<Vec<_>>());
    let one = bench.admin("GET", "/api/v1/audit?object=region/r07", Value::Null).await;
    assert_eq!(one.body["items"].as_array().unwrap().len(), 1);
    assert_eq!(bench.admin("GET", "/api/v1/generations/8", Value::Null).await.body["generation"], 8);
    assert_eq!(bench.admin("GET", "/api/v1/audit/verification", Value::Null).await.body["whole"], true);
    bench.twin.inside.lock().unwrap().log[9].previous = "f".repeat(64);
    let broken = bench.admin("GET", "/api/v1/audit/verification", Value::Null).await;
    assert_eq!((&broken.body["whole"], &broken.body["broken"]["generation"]), (&json!(false), &json!(10)));
}

#[tokio::test]
async fn a_tenant_sees_and_changes_its_own_alone() {
    let bench = Bench::new(Settings::default());
    let body = json!({ "policy": { "use": "mine", "dynamic_granted": false }, "residency": "eu" });
    bench.twin.put("tenant", "acme", body.clone(), "api");
    bench.twin.put("tenant", "rival", body.clone(), "api");
    bench.twin.put("region", "eu", json!({ "secret": true }), "api");
    let token = bench.token(Role::TenantAdmin, Some("acme")).await;
    let rival = bench.token(Role::TenantAdmin, Some("rival")).await;
    let get = async |path: &str| bench.with(&token, "GET", path, Value::Null).await;
    let all = get("/api/v1/objects").await;
    assert_eq!(all.body["items"].as_array().unwrap().len(), 1);
    assert_eq!(all.body["items"][0]["name"], "acme");
    assert_eq!(get("/api/v1/objects?kind=region").await.body["items"], json!([]));
    // What is there and what is not are told in the same words.
    let (there, not) =
        (get("/api/v1/objects/tenant/rival").await, get("/api/v1/objects/tenant/nobody").await);
    assert_eq!(
        (there.status, there.body["detail"].as_str().unwrap().replace("rival", "nobody")),
        (not.status, not.body["detail"].as_str().unwrap().to_owned())
    );
    assert_eq!(get("/api/v1/objects/region/eu").await.status, StatusCode::NOT_FOUND);

    let patch = async |name: &str, seen: &str, patch: Value| {
        let path = format!("/api/v1/objects/tenant/{name}");
        bench.ask(tcp(), "PATCH", &path, &[("authorization", &token), ("if-match", seen)], &patch).await
    };
    assert_eq!(
        patch("acme", "\"1\"", json!({ "policy": { "config": { "a": 1 } } })).await.status,
        StatusCode::OK
    );
    let revision =
        bench.admin("GET", "/api/v1/objects/tenant/acme", Value::Null).await.header("etag").to_owned();
    for (change, pointer) in [
        (json!({ "residency": "us" }), "/residency"),
        (json!({ "residency": null }), "/residency"),
        (json!({ "policy": { "dynamic_granted": true } }), "/policy/dynamic_granted"),
        (json!({ "policy": { "limits": { "fuel": 9 } } }), "/policy/limits"),
        (json!({ "policy": 7 }), "/policy"),
        (json!({ "quota": {} }), "/quota"),
    ] {
        let answer = patch("acme", &revision, change).await;
        assert_eq!(
            (told(&answer), &answer.body["errors"][0]["pointer"]),
            ((403, "forbidden"), &json!(pointer))
        );
    }
    assert_eq!(told(&patch("rival", "*", json!({})).await), (404, "not-found"));
    assert_eq!(told(&patch("nobody", "*", json!({})).await), (404, "not-found"));
    let gone = bench
        .ask(
            tcp(),
            "DELETE",
            "/api/v1/objects/tenant/acme",
            &[("authorization", &token), ("if-match", "*")],
            &Value::Null,
        )
        .await;
    assert_eq!(told(&gone), (403, "forbidden"));
    assert_eq!(
        told(&bench.with(&token, "POST", "/api/v1/changes", json!({ "wishes": [] })).await),
        (403, "forbidden")
    );

    // The log, too: its own, and others without their names.
    let log = get("/api/v1/changes").await;
    let items = log.body["items"].as_array().unwrap();
    assert_eq!(items.len(), 2, "{log:?}");
    assert!(items[0]["author"].as_str().unwrap().starts_with("tenant/acme: tenant-admin [token "));
    assert_eq!(items[1]["author"], "the operator");
    let hidden = get("/api/v1/changes?object=region/eu").await;
    assert_eq!(hidden.body["items"], json!([]));
    assert_eq!(get("/api/v1/generations/2").await.status, StatusCode::NOT_FOUND);
    assert_eq!(get("/api/v1/status").await.status, StatusCode::FORBIDDEN);

    // Tokens: its own tenant's, of its tenant's roles.
    let list = get("/api/v1/tokens").await;
    let list = list.body["items"].as_array().unwrap();
    assert!(list.len() == 1 && list[0]["tenant"] == "acme" && list[0]["last_use_ms"].is_u64(), "{list:?}");
    for wanted in [
        json!({ "name": "x", "role": "admin" }),
        json!({ "name": "x", "role": "tenant-dev", "tenant": "rival" }),
        json!({ "name": "x", "role": "operator", "tenant": "acme" }),
    ] {
        assert_eq!(bench.with(&token, "POST", "/api/v1/tokens", wanted).await.status, StatusCode::FORBIDDEN);
    }
    let made =
        bench.with(&token, "POST", "/api/v1/tokens", json!({ "name": "ci", "role": "tenant-dev" })).await;
    assert_eq!((made.status, &made.body["about"]["tenant"]), (StatusCode::CREATED, &json!("acme")));
    let id = made.body["about"]["id"].as_str().unwrap();
    let theirs = bench.with(&rival, "DELETE", &format!("/api/v1/tokens/{id}"), Value::Null).await;
    let nobodys = bench.with(&rival, "DELETE", "/api/v1/tokens/0000000000000000", Value::Null).await;
    assert_eq!((theirs.status, &theirs.body), (StatusCode::NOT_FOUND, &nobodys.body));

    // Questions are about its own tenant, and answers leave out what is the operator's.
    let question = json!({ "method": "GET", "url": "http://a/", "tenant": "rival" });
    assert_eq!(bench.with(&token, "POST", "/api/v1/explain", question).await.status, StatusCode::FORBIDDEN);
    let answer =
        bench.with(&token, "POST", "/api/v1/explain", json!({ "method": "GET", "url": "http://a/" })).await;
    assert_eq!(
        answer.body,
        json!({ "tenant": "acme", "policies": [{ "slot": "tenant", "policy": "own" }], "candidates": [{ "action": "forward" }] })
    );
}
