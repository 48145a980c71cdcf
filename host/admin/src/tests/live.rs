//! Streams: going on after an absence, what was missed, places, and whose events are heard.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use super::{Bench, own, tcp, tenant};
use crate::defaults::{EVENTS_MAX, STREAM_BEAT, STREAMS_OF_ONE_MAX};
use crate::{Code, Problem, Role, Settings};

async fn open(bench: &Bench, path: &str, headers: &[(&str, &str)]) -> http::Response<Body> {
    let mut request = Request::get(path).header("host", "localhost");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let peer = if headers.iter().any(|(name, _)| *name == "authorization") { tcp() } else { own() };
    bench.send(peer, request.body(Body::empty()).unwrap()).await
}

/// Reads a stream to its end.
async fn all(bench: &Bench, path: &str, headers: &[(&str, &str)]) -> String {
    let response = open(bench, path, headers).await;
    assert_eq!(response.status(), StatusCode::OK);
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// The next piece of a stream.
async fn piece(response: &mut http::Response<Body>) -> Option<String> {
    let frame = response.body_mut().frame().await?.unwrap();
    Some(String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap())
}

fn ids(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.strip_prefix("id: ")).collect()
}

#[tokio::test]
async fn whoever_comes_again_goes_on_and_is_told_what_it_missed() {
    let bench = Bench::new(Settings::default());
    for number in 0..5 {
        bench.api.events().tell("test", None, json!({ "number": number }));
    }
    let text = all(&bench, "/api/v1/events?no_wait=true", &[]).await;
    let seen = ids(&text);
    assert!(seen.len() == 5 && text.contains("event: test\ndata: {") && !text.contains("dropped"), "{text}");
    let text = all(&bench, "/api/v1/events?no_wait=true", &[("last-event-id", seen[2])]).await;
    assert_eq!(ids(&text), seen[3..]);
    for _ in 0..EVENTS_MAX {
        bench.api.events().tell("more", None, json!({}));
    }
    let text =
        all(&bench, "/api/v1/events?no_wait=true&types=none,test", &[("last-event-id", seen[2])]).await;
    assert!(text.contains("event: dropped\ndata: {\"events\":2}"), "{text}");
    let text = all(&bench, "/api/v1/events?no_wait=true", &[("last-event-id", "0123456789abcdef-3")]).await;
    assert!(text.contains("started anew") && ids(&text).len() == EVENTS_MAX, "an id of another life");
    bench.api.events().tell("large", None, json!({ "x": "y".repeat(100_000) }));
    let text = all(&bench, "/api/v1/events?no_wait=true&types=large", &[]).await;
    assert!(text.contains("left_out") && text.len() < 1_000, "{text}");
}

#[tokio::test]
async fn news_come_at_once_and_a_tenant_hears_its_own() {
    let bench = Bench::new(Settings::default());
    let token = bench.token(Role::TenantDev, Some("acme")).await;
    let mut stream = open(&bench, "/api/v1/events?types=a,b,c,d", &[("authorization", &token)]).await;
    assert_eq!(piece(&mut stream).await.unwrap(), ": alive\n\n");
    bench.api.events().tell("a", None, json!({}));
    bench.api.events().tell("b", Some(tenant("rival")), json!({}));
    bench.api.events().tell("c", Some(tenant("acme")), json!({}));
    let text = loop {
        let text = piece(&mut stream).await.unwrap();
        if text != ": alive\n\n" {
            break text;
        }
    };
    assert!(text.contains("event: c\n") && ids(&text).len() == 1, "{text}");
    let answer = open(&bench, "/api/v1/events?tenant=rival", &[("authorization", &token)]).await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_with_its_token() {
    let bench = Bench::new(Settings::default());
    let token = bench.token(Role::Operator, None).await;
    let mut stream = open(&bench, "/api/v1/events?types=none", &[("authorization", &token)]).await;
    for _ in 0..3 {
        assert_eq!(piece(&mut stream).await.unwrap(), ": alive\n\n");
    }
    let id = token.strip_prefix("Bearer ptl_").unwrap().split('_').next().unwrap().to_owned();
    let gone = bench.admin("DELETE", &format!("/api/v1/tokens/{id}"), Value::Null).await;
    assert_eq!(gone.status, StatusCode::OK);
    let begun = tokio::time::Instant::now();
    while piece(&mut stream).await.is_some() {}
    assert!(begun.elapsed() <= STREAM_BEAT + Duration::from_secs(1));
    assert_eq!(
        bench.with(&token, "GET", "/api/v1/status", Value::Null).await.status,
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test]
async fn one_caller_takes_so_many_places_and_gives_them_back() {
    let bench = Bench::new(Settings::default());
    let token = bench.token(Role::TenantDev, Some("acme")).await;
    let mut held = Vec::new();
    for _ in 0..STREAMS_OF_ONE_MAX {
        let stream = open(&bench, "/api/v1/events", &[("authorization", &token)]).await;
        assert_eq!(stream.status(), StatusCode::OK);
        held.push(stream);
    }
    let more = open(&bench, "/api/v1/events", &[("authorization", &token)]).await;
    assert_eq!(more.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(more.headers()["retry-after"], "1");
    assert_eq!(open(&bench, "/api/v1/events", &[]).await.status(), StatusCode::OK, "others are not kept out");
    held.pop();
    assert_eq!(open(&bench, "/api/v1/events", &[("authorization", &token)]).await.status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn the_tail_says_what_it_left_out() {
    let bench = Bench::new(Settings::default());
    let mut stream = open(&bench, "/api/v1/tail?status=5xx&permille=100", &[]).await;
    assert_eq!(piece(&mut stream).await.unwrap(), ": alive\n\n");
    let sender = bench.twin.lines.lock().unwrap().clone().unwrap();
    sender.send(json!({ "status": 500 })).await.unwrap();
    bench.twin.counts.sampled.store(9, Ordering::Relaxed);
    bench.twin.counts.dropped.store(3, Ordering::Relaxed);
    let mut text = String::new();
    while !text.contains("event: dropped") || !text.contains("event: request") {
        text.push_str(&piece(&mut stream).await.unwrap());
    }
    assert!(text.contains("event: request\ndata: {\"status\":500}\n\n"), "{text}");
    assert!(text.contains("event: sampled\ndata: {\"in_all\":9,\"requests\":9}\n\n"), "{text}");
    assert!(text.contains("event: dropped\ndata: {\"in_all\":3,\"requests\":3}\n\n"), "{text}");
    for path in ["/api/v1/tail?status=6xx", "/api/v1/tail?status=5x", "/api/v1/tail?permille=0"] {
        assert_eq!(open(&bench, path, &[]).await.status(), StatusCode::BAD_REQUEST, "{path}");
    }
}

#[tokio::test]
async fn an_operation_is_followed_to_its_end() {
    let bench = Bench::new(Settings::default());
    let caller = |name: &str| crate::Caller {
        id: name.to_owned(),
        name: name.to_owned(),
        role: Role::TenantDev,
        scopes: Role::TenantDev.scopes(),
        tenant: Some(tenant(name)),
        way: crate::Way::Token,
        until_ms: None,
    };
    let progress = bench.api.operations().begin("upload", &caller("acme")).unwrap();
    progress.stage("screen");
    progress.note("12 KiB");
    progress.stage("compile");
    let path = format!("/api/v1/operations/{}", progress.id());
    let mut stream = open(&bench, &format!("{path}/events"), &[]).await;
    let first = piece(&mut stream).await.unwrap();
    assert!(first.contains("\"compile\"") && first.contains("12 KiB"), "{first}");
    let acme = bench.token(Role::TenantDev, Some("acme")).await;
    let rival = bench.token(Role::TenantDev, Some("rival")).await;
    assert_eq!(bench.with(&acme, "GET", &path, Value::Null).await.status, StatusCode::OK);
    assert_eq!(bench.with(&rival, "GET", &path, Value::Null).await.status, StatusCode::NOT_FOUND);
    assert_eq!(bench.with(&rival, "GET", "/api/v1/operations", Value::Null).await.body["items"], json!([]));
    progress.fail(Problem::new(Code::Refused, "it traps"));
    let mut last = String::new();
    while let Some(text) = piece(&mut stream).await {
        last = text;
    }
    assert!(last.contains("\"state\":\"failed\"") && last.contains("it traps"), "{last}");
    // Whoever begins too many waits; what is dropped has failed.
    let many: Vec<_> = (0..8).map(|_| bench.api.operations().begin("x", &caller("acme")).unwrap()).collect();
    assert_eq!(bench.api.operations().begin("x", &caller("acme")).unwrap_err().code, Code::TooMany);
    assert!(bench.api.operations().begin("x", &caller("rival")).is_ok());
    drop(many);
    let list = bench.with(&acme, "GET", "/api/v1/operations?limit=3", Value::Null).await;
    assert_eq!(list.body["items"][0]["state"], "failed");
    assert!(list.body["next"].is_string());
}

#[tokio::test]
async fn a_flood_of_refusals_does_not_drive_out_what_matters() {
    let bench = Bench::new(Settings::default());
    bench.api.events().tell("matters", None, json!({}));
    for _ in 0..2_000 {
        bench.ask(tcp(), "GET", "/api/v1/status", &[("authorization", "Bearer ptl_x")], &Value::Null).await;
    }
    let text = all(&bench, "/api/v1/events?no_wait=true", &[]).await;
    assert!(text.contains("event: matters") && text.contains("event: access-denied"), "{text}");
    assert!(
        bench.api.counts().iter().any(|(name, _, value)| *name == "admin_denied_total" && *value == 2_000)
    );
}
