//! Two tenants in one shard: neither sees, changes or notices the other, whatever it sends.

use super::place::{Place, check, other, send};

pub(super) async fn nothing_reaches_over(place: Place) {
    let acme = place.door("acme").await;
    let bolt = other(&acme, "bolt");
    let rows = |word: &str| {
        format!(
            r#"[{{"id": 1, "title": "{word} 1"}}, {{"id": 2, "title": "{word} 2"}}, {{"id": 3, "title": "{word} 3"}}]"#
        )
    };
    check(&acme, "POST /notes", &rows("acme"), 201, "").await;
    check(&bolt, "POST /notes", &rows("bolt"), 201, "").await;
    let before = send(&bolt, &["GET /notes"], "").await.text;
    let cursor = send(&bolt, &["GET /notes?limit=1"], "").await;
    let cursor = cursor.header("link").split("after=").nth(1).unwrap().split('>').next().unwrap().to_owned();
    let inject = [
        "' OR '1'='1",
        "1); DELETE FROM notes; --",
        "\" OR \"1\"=\"1",
        "bolt",
        "x' UNION SELECT * FROM notes --",
        "\\",
        "%",
        "$1",
        "${jndi}",
    ];
    let mut requests: Vec<(String, String)> = vec![
        (format!("GET /notes?after={cursor}"), String::new()),
        ("GET /notes?or=(id.gte.0,id.is.null)".into(), String::new()),
        ("GET /notes?not.and=(id.eq.99)".into(), String::new()),
        ("GET /notes?or=(tenant.eq.bolt,id.gt.0)".into(), String::new()),
        ("GET /notes?tenant=eq.bolt".into(), String::new()),
        ("GET /notes?tenant=in.(acme,bolt)".into(), String::new()),
        ("GET /notes?select=tenant,title".into(), String::new()),
        ("GET /notes?order=tenant".into(), String::new()),
        ("PATCH /notes?or=(id.gt.0,id.lte.0) | Prefer: return=representation".into(), r#"{"body": "seen"}"#.into()),
        ("PATCH /notes?all=true".into(), r#"{"tenant": "bolt", "body": "x"}"#.into()),
        ("PUT /notes/1".into(), r#"{"title": "acme 1"}"#.into()),
        ("POST /notes | Prefer: resolution=merge-duplicates".into(), r#"{"id": 1, "title": "acme 1", "tenant": "bolt"}"#.into()),
        ("POST /".into(), r#"[{"do": "get", "table": "notes"}, {"do": "update", "table": "notes", "query": "all=true", "values": {"body": "y"}}]"#.into()),
        ("DELETE /notes?all=true | Prefer: return=representation".into(), String::new()),
    ];
    for word in inject {
        let encoded = crate::data::percent::encode(word);
        let quoted = serde_json::to_string(word).unwrap();
        requests.extend([
            (format!("GET /notes?title=eq.{encoded}"), String::new()),
            (format!("GET /notes?title=like.{encoded}"), String::new()),
            (format!("GET /notes?title=ilike.*{encoded}*"), String::new()),
            (format!("GET /notes?title=in.({encoded})"), String::new()),
            (format!("GET /notes?or=(title.eq.{encoded})"), String::new()),
            (format!("GET /notes?{encoded}=eq.1"), String::new()),
            (format!("GET /notes?select={encoded}"), String::new()),
            (format!("GET /notes?order={encoded}"), String::new()),
            (format!("GET /notes?limit={encoded}"), String::new()),
            (format!("GET /{encoded}"), String::new()),
            (format!("GET /tags/{encoded}"), String::new()),
            (format!("PATCH /notes?title=neq.{encoded}"), format!(r#"{{"body": {quoted}}}"#)),
            ("POST /notes".into(), format!(r#"{{"id": 50, "title": "x", {quoted}: 1}}"#)),
            (
                "POST /tags | Prefer: resolution=merge-duplicates".into(),
                format!(r#"{{"id": {quoted}, "label": {quoted}}}"#),
            ),
            (format!("DELETE /tags/{encoded}"), String::new()),
        ]);
    }
    for (request, content) in &requests {
        let fields: Vec<&str> = request.split(" | ").collect();
        let told = send(&acme, &fields, content).await;
        assert!(told.status.as_u16() < 500, "{request} {told:?}");
        assert!(!told.text.contains("bolt 1") && !told.text.contains("bolt 2"), "{request} {told:?}");
    }
    assert_eq!(send(&bolt, &["GET /notes"], "").await.text, before);
    let own = send(&acme, &["GET /notes"], "").await.text;
    assert_eq!(own, "[]", "what the tenant deleted is its own");
}

pub(super) async fn a_key_of_another_tenant_is_neither_changed_nor_told(place: Place) {
    let acme = place.door("acme").await;
    let bolt = other(&acme, "bolt");
    check(&bolt, "POST /tags", r#"{"id": "secret", "label": "of bolt"}"#, 201, "").await;
    let post = r#"{"id": "secret", "label": "mine"}"#;
    for (request, content, status) in [
        ("GET /tags/secret", "", 404),
        ("PATCH /tags/secret", r#"{"label": "mine"}"#, 404),
        ("DELETE /tags/secret", "", 404),
        ("POST /tags", post, 409),
        ("POST /tags | Prefer: resolution=merge-duplicates", post, 409),
        ("POST /tags | Prefer: resolution=merge-duplicates, return=representation", post, 409),
        ("POST /tags | Prefer: resolution=ignore-duplicates", post, 409),
        ("POST /tags | Prefer: resolution=merge-duplicates", r#"{"id": "secret"}"#, 409),
        ("PUT /tags/secret", r#"{"label": "mine"}"#, 409),
        ("PUT /tags/secret | If-Match: *", r#"{"label": "mine"}"#, 412),
        ("PUT /tags/secret | If-None-Match: *", r#"{"label": "mine"}"#, 409),
    ] {
        check(&acme, request, content, status, "~").await;
        let fields: Vec<&str> = request.split(" | ").collect();
        let told = send(&acme, &fields, content).await;
        assert!(!told.text.contains("bolt"), "{told:?}");
    }
    check(&acme, "GET /tags", "", 200, "[]").await;
    check(&bolt, "GET /tags", "", 200, r#"[{"id":"secret","label":"of bolt","extra":null}]"#).await;
}
