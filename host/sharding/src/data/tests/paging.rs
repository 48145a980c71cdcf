//! Pages: each row once, in one order, under ties and NULLs.

use super::place::{Place, send};

/// Follows the links, and gives all ids in their order.
async fn ids(door: &crate::data::Door, query: &str) -> Vec<i64> {
    let (mut request, mut ids) = (format!("GET /notes?{query}"), Vec::new());
    loop {
        let page = send(door, &[&request], "").await;
        assert_eq!(page.status.as_u16(), 200, "{request} {page:?}");
        ids.extend(page.json().as_array().unwrap().iter().map(|row| row["id"].as_i64().unwrap()));
        let Some(link) = page.header("link").strip_prefix("</-/data") else { return ids };
        request = format!("GET {}", link.strip_suffix(">; rel=\"next\"").unwrap());
        assert!(ids.len() < 100, "{request}");
    }
}

pub(super) async fn pages_visit_each_row_once(place: Place) {
    let door = place.door("acme").await;
    let rows: Vec<String> = (0..23)
        .map(|at: i32| {
            let or_null = |value: String, step: i32| if at % step == 0 { "null".to_owned() } else { value };
            format!(
                r#"{{"id": {at}, "title": "t{at}", "rank": {}, "body": {}, "done": {}, "ratio": {}, "amount": {}, "at": {}, "uid": {}, "data": {}}}"#,
                or_null((at % 4).to_string(), 3),
                or_null(format!("\"b{}\"", at % 2), 5),
                at % 2 == 0,
                or_null(format!("{}", f64::from(at % 3) / 3.0), 4),
                or_null(format!("\"{}.5\"", at % 3), 4),
                or_null(format!("\"2026-01-0{}T00:00:00Z\"", at % 3 + 1), 6),
                or_null(format!("\"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1{}\"", at % 4), 7),
                or_null(format!("\"AP{}=\"", if at % 2 == 0 { '8' } else { 'w' }), 7),
            )
        })
        .collect();
    let made = send(&door, &["POST /notes"], &format!("[{}]", rows.join(","))).await;
    assert_eq!(made.status.as_u16(), 201, "{made:?}");
    for order in [
        "id.desc",
        "rank",
        "rank.desc",
        "rank.nullsfirst",
        "rank.desc.nullslast",
        "done",
        "done.desc,id.desc",
        "body,rank.desc",
        "body.desc.nullslast,ratio.nullsfirst",
        "ratio",
        "ratio.desc",
        "amount",
        "at",
        "at.desc",
        "uid",
        "data.desc",
        "day",
        "title.desc",
    ] {
        let whole = ids(&door, &format!("order={order}&limit=1000")).await;
        let mut sorted = whole.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..23).collect::<Vec<_>>(), "{order}");
        for limit in [1, 4, 23] {
            let paged = ids(&door, &format!("limit={limit}&order={order}")).await;
            assert_eq!(paged, whole, "{order} {limit}");
        }
    }
    // Filters and columns go along.
    assert_eq!(
        ids(&door, "select=id&or=(rank.eq.1,rank.is.null)&title=neq.t5&limit=3&order=rank").await,
        ids(&door, "select=id&or=(rank.eq.1,rank.is.null)&title=neq.t5&limit=900&order=rank").await
    );
    // A cursor of another order is none of this one.
    let page = send(&door, &["GET /notes?order=rank&limit=1"], "").await;
    let cursor = page.header("link").split("after=").nth(1).unwrap().split('>').next().unwrap().to_owned();
    for query in ["order=rank.desc", "order=body", ""] {
        let told = send(&door, &[&format!("GET /notes?{query}&after={cursor}")], "").await;
        assert_eq!(told.code(), "bad-cursor");
    }
}
