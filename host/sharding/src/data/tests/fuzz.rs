//! Whatever is sent is answered, never as a fault of the host, and what is refused has changed nothing.

use bytes::Bytes;
use http::Request;
use portolan_core::time::Moment;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use super::place::{Place, send};
use crate::data::answer;

/// Requests that are tried on each engine.
const REQUESTS: usize = 600;

/// Words of the API and of SQL, and nonsense.
fn word() -> BoxedStrategy<String> {
    let known = [
        "notes",
        "tags",
        "lines",
        "settings",
        "plans",
        "id",
        "title",
        "rank",
        "doc",
        "tenant",
        "acme",
        "eq.",
        "in.(",
        "is.null",
        "and",
        "or",
        "not.",
        "select",
        "order",
        "limit",
        "after",
        "all=true",
        "(",
        ")",
        ",",
        ".",
        "=",
        "&",
        "?",
        "/",
        "1",
        "-5",
        "null",
        "true",
        "\"",
        "'",
        ";",
        "--",
        "%25",
        "%00",
        "%F0%9F%98%80",
        "99999999999999999999",
        "1e400",
        "{",
        "}",
        "[",
        "]",
        ":",
        "{\"id\": 1}",
        "\\u0000",
        "desc",
        "like.*a*",
        "gt.x",
        "::text",
        "[{\"do\": \"get\", \"table\": \"notes\"}]",
        "\"id\"",
        "\"title\"",
        "\"tenant\"",
        "\"do\"",
        "\"delete\"",
        "\"table\"",
        "\"query\"",
        "\"all=true\"",
        "\"notes\"",
        "\"values\"",
        "\"key\"",
    ];
    prop_oneof![8 => proptest::sample::select(known.map(str::to_owned).to_vec()), 1 => "[ -~]{0,3}", 1 => "\\PC{0,2}"].boxed()
}

fn words(most: usize) -> BoxedStrategy<String> {
    proptest::collection::vec(word(), 0..most).prop_map(|words| words.concat()).boxed()
}

/// A request of the right shape with something odd in it, or all odd.
fn request() -> BoxedStrategy<(String, String, String)> {
    let methods = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"].map(str::to_owned).to_vec();
    let path = prop_oneof![
        words(4).prop_map(|words| format!("/{words}")),
        (
            proptest::sample::select(vec!["notes", "tags", "lines", "settings", "plans", ""]),
            words(2),
            words(6)
        )
            .prop_map(|(table, key, query)| if key.is_empty() {
                format!("/{table}?{query}")
            } else {
                format!("/{table}/{key}?{query}")
            }),
        (
            proptest::sample::select(vec![
                "id", "title", "rank", "doc", "at", "uid", "data", "amount", "day", "no"
            ]),
            words(3)
        )
            .prop_map(|(column, value)| format!("/notes?{column}=eq.{value}")),
    ];
    let field = (proptest::sample::select(vec!["id", "title", "rank", "doc", "at", "amount", "tenant", "label"]), prop_oneof![
        4 => proptest::sample::select(vec!["1", "\"x\"", "null", "true", "{}", "[1]", "1e400", "\"\\ud800\"", "-0", "1.5", "\"2026-01-01T00:00:00Z\""])
            .prop_map(str::to_owned),
        1 => words(2),
    ]).prop_map(|(name, value)| format!("\"{name}\": {value}"));
    let content = prop_oneof![
        3 => proptest::collection::vec(field, 0..5).prop_map(|fields| format!("{{{}}}", fields.join(", "))),
        2 => words(8),
        1 => Just(String::new()),
    ];
    let odd = (proptest::sample::select(methods), path, content);
    prop_oneof![2 => odd, 1 => nearly_good()].boxed()
}

/// Requests that are often done.
fn nearly_good() -> impl Strategy<Value = (String, String, String)> {
    let methods = ["GET", "POST", "PUT", "PATCH", "DELETE"].map(str::to_owned).to_vec();
    let paths = [
        "/notes",
        "/notes/1",
        "/notes/7",
        "/notes?id=gt.1",
        "/notes?select=id,title",
        "/tags",
        "/tags/a",
        "/tags?all=true",
        "/settings",
        "/settings?all=true",
        "/lines",
        "/lines/1,a",
        "/plans",
        "/notes?order=doc",
        "/notes?limit=1&order=at.desc,data",
    ];
    let contents = [
        r#"{"id": 1, "title": "x"}"#,
        r#"{"title": "y", "rank": 5}"#,
        r#"[{"id": 3, "title": "3"}, {"id": 4, "title": "4"}]"#,
        r#"{"id": "a"}"#,
        r#"{"theme": "dark"}"#,
        r#"{"note": 1, "no": "a"}"#,
        r#"{"label": "l"}"#,
        "{}",
        "[]",
        r#"{"rank": 1000, "title": "z"}"#,
    ];
    let pick = |from: &[&str]| {
        proptest::sample::select(from.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
    };
    (proptest::sample::select(methods), pick(&paths), pick(&contents)).prop_map(|(method, path, content)| {
        let bare = method == "GET" || method == "DELETE";
        (method, path, if bare { String::new() } else { content })
    })
}

pub(super) async fn whatever_is_sent_is_answered(place: Place) {
    let door = place.door("acme").await;
    send(&door, &["POST /notes"], r#"[{"id": 1, "title": "one"}, {"id": 2, "title": "two"}]"#).await;
    let (strategy, mut runner) = (request(), TestRunner::deterministic());
    let (mut sent, mut refused) = (0, 0);
    let mut before = state(&door).await;
    while sent < REQUESTS {
        let (method, path, content) = strategy.new_tree(&mut runner).unwrap().current();
        let Ok(request) =
            Request::builder().method(method.as_str()).uri(&path).body(Bytes::from(content.clone()))
        else {
            continue;
        };
        sent += 1;
        let answer = answer(&door, request, &|| Moment(0)).await;
        let text = String::from_utf8_lossy(answer.body()).into_owned();
        assert!(answer.status().as_u16() < 500, "{method} {path} {content}\n{text}");
        // Every refusal has words of its own.
        assert!(!text.contains("\"code\":\"refused\""), "{method} {path} {content}\n{text}");
        if answer.status().as_u16() >= 400 {
            refused += 1;
            assert_eq!(answer.headers()["content-type"], "application/problem+json");
        }
        if method != "GET" && method != "HEAD" {
            let after = state(&door).await;
            assert!(answer.status().is_success() || after == before, "{method} {path} {content}\n{text}");
            before = after;
        }
    }
    assert!(refused > REQUESTS / 4 && refused < REQUESTS * 19 / 20, "{refused} of {REQUESTS} were refused");
}

/// All rows of the tenant, and how far its log is.
async fn state(door: &crate::data::Door) -> (Vec<String>, String) {
    let mut rows = Vec::new();
    for table in ["notes", "lines", "tags", "settings"] {
        rows.push(send(door, &[&format!("GET /{table}?limit=1000")], "").await.text);
    }
    (rows, door.store.tip().await.unwrap().to_string())
}
