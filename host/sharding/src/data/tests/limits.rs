//! What one request may take.

use super::place::{Place, check, send};
use crate::defaults::{CONTENT_BYTES_MAX, QUERY_BYTES_MAX, WRITE_ROWS_MAX};

pub(super) async fn answers_and_writes_are_bounded(place: Place) {
    let door = place.door("acme").await;
    // Ten rows of a megabyte do not fit one answer: the page ends early, and goes on.
    let large = "x".repeat(1024 * 1024);
    for at in 0..10 {
        check(&door, "POST /tags", &format!(r#"{{"id": "{at}", "label": "{large}"}}"#), 201, "").await;
    }
    let (mut request, mut sizes) = ("GET /tags".to_owned(), Vec::new());
    loop {
        let page = send(&door, &[&request], "").await;
        assert!(page.text.len() < 9 * 1024 * 1024);
        sizes.push(page.json().as_array().unwrap().len());
        let Some(link) = page.header("link").strip_prefix("</-/data") else { break };
        request = format!("GET {}", link.split('>').next().unwrap());
    }
    assert_eq!(sizes, [7, 3]);
    check(&door, "GET /tags?order=label", "", 422, "~too long to go on after").await;
    check(
        &door,
        "PATCH /tags?all=true | Prefer: return=representation",
        r#"{"extra": "y"}"#,
        422,
        "~answer-too-large",
    )
    .await;
    check(&door, "GET /tags?extra=eq.y&select=id", "", 200, "[]").await;
    check(&door, "PATCH /tags?all=true", r#"{"extra": "y"}"#, 204, "").await;
    let gets = [r#"{"do": "get", "table": "tags", "query": "limit=5"}"#; 2].join(",");
    let told = send(&door, &["POST /"], &format!("[{gets}]")).await;
    assert_eq!(told.json()[1]["rows"].as_array().unwrap().len(), 2, "both share one answer's bytes");
    check(&door, "DELETE /tags?all=true", "", 204, "").await;

    let rows = |count: u64| -> String {
        let rows: Vec<String> = (0..count).map(|at| format!(r#"{{"id": "{at}"}}"#)).collect();
        format!("[{}]", rows.join(","))
    };
    check(&door, "POST /tags", &rows(WRITE_ROWS_MAX + 1), 413, "~too-many").await;
    check(&door, "POST /tags", &rows(WRITE_ROWS_MAX), 201, "").await;
    check(&door, "POST /tags", r#"{"id": "more"}"#, 201, "").await;
    check(&door, "DELETE /tags?all=true", "", 413, "~too-many").await;
    check(&door, "GET /tags?select=id&limit=1000&id=gt.9999", "", 200, r#"[{"id":"more"}]"#).await;
    let twice = format!(
        r#"[{{"do": "upsert", "table": "tags", "values": {0}}}, {{"do": "upsert", "table": "tags", "values": {0}}}]"#,
        rows(600)
    );
    check(&door, "POST /", &twice, 413, "~too-many").await;
    check(&door, "DELETE /tags?id=neq.more", "", 204, "").await;

    check(&door, "POST /tags", &" ".repeat(CONTENT_BYTES_MAX + 1), 413, "~too-large").await;
    check(&door, "GET /tags", "x", 413, "~too-large").await;
    check(&door, &format!("GET /tags?id=eq.{}", "x".repeat(QUERY_BYTES_MAX)), "", 413, "~too-large").await;
    check(&door, &format!("GET /tags/{}", "x".repeat(QUERY_BYTES_MAX)), "", 413, "~too-large").await;
    check(&door, &format!("GET /tags?{}", vec!["id=eq.x"; 60].join("&")), "", 400, "~at most 50").await;
    check(&door, &format!("GET /tags?id=like.{}", "*x".repeat(9)), "", 400, "~at most 8").await;
    check(&door, &format!("GET /tags?select={}", vec!["id"; 300].join(",")), "", 400, "~at most 200").await;
    let deep = format!("{}id.eq.x{}", "or(".repeat(9), ")".repeat(9));
    check(&door, &format!("GET /tags?and=({deep})"), "", 400, "~deep").await;
}
