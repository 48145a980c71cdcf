//! Tenants see their own side, and nobody else's.

use http::StatusCode;
use serde_json::{Value, json};

use super::{Answer, Bench, own};
use crate::{Role, Settings};

#[tokio::test]
async fn a_tenant_reads_its_own_side_and_no_other() {
    let bench = Bench::new(Settings::default());
    let token = bench.token(Role::TenantDev, Some("acme")).await;
    for side in ["log", "quota", "refusals", "usage"] {
        let own = bench.with(&token, "GET", &format!("/api/v1/tenants/acme/{side}"), Value::Null).await;
        assert_eq!(own.status, StatusCode::OK, "{own:?}");
        for other in ["globex", "nobody", "a%20b"] {
            let path = format!("/api/v1/tenants/{other}/{side}");
            let answer = bench.with(&token, "GET", &path, Value::Null).await;
            assert_eq!(answer.status, StatusCode::NOT_FOUND, "whether it exists is not told: {answer:?}");
        }
    }
    let usage = bench.with(&token, "GET", "/api/v1/tenants/acme/usage?since_ms=5", Value::Null).await;
    assert_eq!(usage.body["items"], json!([{ "from_ms": 5, "tenant": "acme" }]));
    let all = bench.with(&token, "GET", "/api/v1/usage", Value::Null).await;
    assert_eq!(all.status, StatusCode::FORBIDDEN);
    let auditor = bench.token(Role::Auditor, None).await;
    let all = bench.with(&auditor, "GET", "/api/v1/usage", Value::Null).await;
    assert_eq!(all.body["items"].as_array().map(Vec::len), Some(2), "{all:?}");
}

fn told(answer: &Answer) -> (u16, &str) {
    (answer.status.as_u16(), answer.code())
}

#[tokio::test]
async fn a_tenant_is_made_once_with_all_that_it_claims() {
    let bench = Bench::new(Settings::default());
    let make = async |wanted: &Value| bench.admin("POST", "/api/v1/tenants", wanted.clone()).await;
    let claims = json!([{ "kind": "email", "value": "Ada@Shop.example" }, { "kind": "domain", "value": "shop.example" }]);
    let acme =
        json!({ "name": "acme", "residency": "eu", "location": "eu-west", "shard": "s1", "claims": claims });
    let made = make(&acme).await;
    assert_eq!((made.status, &made.body["changed"]), (StatusCode::CREATED, &json!(true)), "{made:?}");
    let id = made.body["id"].as_str().unwrap().to_owned();
    assert!(id.parse::<portolan_core::ids::TenantId>().is_ok(), "{id}");
    let again = make(&acme).await;
    assert_eq!((again.status, again.body["id"].as_str()), (StatusCode::OK, Some(id.as_str())), "{again:?}");
    for (part, other) in [("residency", json!("us")), ("location", Value::Null), ("shard", json!("s2"))] {
        let mut wanted = acme.clone();
        wanted[part] = other;
        assert_eq!(told(&make(&wanted).await), (409, "conflict"), "{part}");
    }
    let place = bench.admin("GET", "/api/v1/objects/place/acme", Value::Null).await;
    assert_eq!(place.body["body"], json!({ "placement": 1, "shard": "s1" }));

    // A second claimer gets nothing at all.
    let taken = json!({ "name": "globex", "claims": [{ "kind": "domain", "value": "globex.example" },
        { "kind": "email", "value": " ada@SHOP.example" }] });
    let refused = make(&taken).await;
    assert_eq!(
        (told(&refused), &refused.body["errors"][0]["pointer"]),
        ((409, "conflict"), &json!("/claims/1"))
    );
    for path in ["/api/v1/objects/tenant/globex", "/api/v1/claims/domain/globex.example"] {
        assert_eq!(bench.admin("GET", path, Value::Null).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    // Without a name it is called by its number.
    let unnamed = make(&json!({})).await;
    assert_eq!(
        (unnamed.status, &unnamed.body["name"]),
        (StatusCode::CREATED, &unnamed.body["id"]),
        "{unnamed:?}"
    );
    assert_eq!(told(&make(&json!({ "name": "No" })).await), (400, "invalid"));
}

#[tokio::test]
async fn claims_are_found_listed_and_given_up() {
    let bench = Bench::new(Settings::default());
    for name in ["acme", "globex"] {
        assert_eq!(
            bench.admin("POST", "/api/v1/tenants", json!({ "name": name })).await.status,
            StatusCode::CREATED
        );
    }
    let claim = json!({ "kind": "email", "value": "ada@shop.example" });
    let add = async |tenant: &str| {
        bench.admin("POST", &format!("/api/v1/tenants/{tenant}/claims"), claim.clone()).await
    };
    assert_eq!(add("acme").await.status, StatusCode::OK);
    assert_eq!(add("acme").await.body["changed"], json!(false));
    assert_eq!(told(&add("globex").await), (409, "conflict"));
    assert_eq!(told(&add("nobody").await), (404, "not-found"));
    let found = "/api/v1/claims/email/ADA%40shop.example";
    let answer = bench.admin("GET", found, Value::Null).await;
    assert_eq!(answer.body, json!({ "kind": "email", "shown": "a…@shop.example", "tenant": "acme" }));
    let listed = bench.admin("GET", "/api/v1/tenants/acme/claims?limit=1", Value::Null).await;
    assert_eq!(listed.body["items"].as_array().map(Vec::len), Some(1), "{listed:?}");
    // A tenant sees its own alone, and makes none by itself.
    let (mine, other) = (
        bench.token(Role::TenantAdmin, Some("acme")).await,
        bench.token(Role::TenantAdmin, Some("globex")).await,
    );
    assert_eq!(bench.with(&mine, "GET", found, Value::Null).await.status, StatusCode::OK);
    assert_eq!(bench.with(&other, "GET", found, Value::Null).await.status, StatusCode::NOT_FOUND);
    assert_eq!(told(&bench.with(&mine, "DELETE", found, Value::Null).await), (403, "forbidden"));
    let (path, new) = ("/api/v1/objects/claim/email:00", [("if-none-match", "*")]);
    let forged = bench.ask(own(), "PUT", path, &new, &json!({ "tenant": "globex" })).await;
    assert_eq!(forged.code(), "managed-elsewhere", "{forged:?}");
    assert_eq!(bench.admin("DELETE", found, Value::Null).await.status, StatusCode::OK);
    assert_eq!(add("globex").await.status, StatusCode::OK, "what was given up is free");
}

#[tokio::test]
async fn a_suspension_is_made_and_taken_back() {
    let bench = Bench::new(Settings::default());
    let (path, standing) = ("/api/v1/tenants/acme/suspension", "/api/v1/objects/standing/acme");
    for changed in [true, false] {
        let answer = bench.admin("PUT", path, Value::Null).await;
        assert_eq!((answer.status, &answer.body["changed"]), (StatusCode::OK, &json!(changed)), "{answer:?}");
    }
    assert_eq!(bench.admin("GET", standing, Value::Null).await.body["body"]["is"], "suspended");
    let own = bench.token(Role::TenantAdmin, Some("acme")).await;
    assert_eq!(told(&bench.with(&own, "DELETE", path, Value::Null).await), (403, "forbidden"));
    assert_eq!(bench.admin("DELETE", path, Value::Null).await.status, StatusCode::OK);
    assert_eq!(bench.admin("GET", standing, Value::Null).await.status, StatusCode::NOT_FOUND);
    // Who was erased is not served again, and its name is not given away.
    bench.twin.put("standing", "acme", json!({ "is": "erased" }), "api");
    for (method, path, body) in [
        ("PUT", path, Value::Null),
        ("DELETE", path, Value::Null),
        ("POST", "/api/v1/tenants", json!({ "name": "acme" })),
        ("POST", "/api/v1/tenants/acme/claims", json!({ "kind": "handle", "value": "a" })),
    ] {
        assert_eq!(told(&bench.admin(method, path, body).await), (409, "conflict"), "{method} {path}");
    }
}

#[tokio::test]
async fn an_erasure_bars_the_tenant_and_lists_what_is_left() {
    let bench = Bench::new(Settings::default());
    let claims = json!([{ "kind": "handle", "value": "ada" }]);
    let acme = json!({ "name": "acme", "shard": "s1", "claims": claims });
    assert_eq!(bench.admin("POST", "/api/v1/tenants", acme).await.status, StatusCode::CREATED);
    bench.twin.put("shard", "s1", json!({ "primary": "eu", "store": { "eu": {}, "us": {} } }), "api");
    bench.twin.put("version", "acme:router@00", json!({}), "api");
    bench.twin.put("version", "other:router@00", json!({}), "api");
    let (own, other) =
        (bench.token(Role::TenantApp, Some("acme")).await, bench.token(Role::Auditor, None).await);
    let path = "/api/v1/tenants/acme/erasure";
    assert_eq!(told(&bench.admin("POST", path, json!({ "confirm": "acne" })).await), (400, "invalid"));
    assert_eq!(told(&bench.with(&own, "POST", path, json!({ "confirm": "acme" })).await), (403, "forbidden"));
    let begun = bench.admin("POST", path, json!({ "confirm": "acme" })).await;
    assert_eq!(begun.status, StatusCode::ACCEPTED, "{begun:?}");
    let erasure = &begun.body["erasure"];
    assert_eq!(erasure["pending"], json!(["node/twin", "shard/s1/eu", "shard/s1/us"]), "{erasure}");
    let gone = json!({ "claim": 1, "place": 1, "tenant": 1, "token": 1, "version": 1 });
    assert_eq!(
        (&erasure["receipts"][0]["part"], &erasure["receipts"][0]["counts"]),
        (&json!("control"), &gone)
    );
    assert_eq!(bench.admin("POST", path, json!({ "confirm": "acme" })).await.body["id"], begun.body["id"]);
    for gone in ["tenant/acme", "place/acme", "version/acme:router@00"] {
        let path = format!("/api/v1/objects/{gone}");
        assert_eq!(bench.admin("GET", &path, Value::Null).await.status, StatusCode::NOT_FOUND, "{gone}");
    }
    let stays = bench.with(&other, "GET", "/api/v1/objects/version/other:router@00", Value::Null).await;
    assert_eq!(stays.status, StatusCode::OK, "{stays:?}");
    assert_eq!(
        told(&bench.with(&own, "GET", "/api/v1/objects", Value::Null).await),
        (401, "unauthenticated")
    );
    assert_eq!(
        bench.admin("GET", "/api/v1/objects/standing/acme", Value::Null).await.body["body"]["is"],
        "erased"
    );
}

#[test]
fn each_receipt_stands_on_the_one_before_it() {
    let erasure = |first: u64| {
        let mut erasure = crate::Erasure {
            began_at_ms: 1,
            by: "me".to_owned(),
            done_at_ms: None,
            pending: vec!["shard/a/eu".to_owned()],
            receipts: Vec::new(),
            tenant: super::tenant("acme"),
        };
        erasure.done("control", json!({ "token": first }), None, 2);
        erasure.done("shard/a/eu", json!({ "rows": 3 }), Some("compact/a/eu".to_owned()), 3);
        assert_eq!(
            (erasure.pending.as_slice(), erasure.done_at_ms),
            (&["compact/a/eu".to_owned()][..], None)
        );
        erasure.done("compact/a/eu", json!({}), None, 4);
        assert_eq!((erasure.pending.len(), erasure.done_at_ms), (0, Some(4)));
        erasure.receipts
    };
    let (one, other) = (erasure(1), erasure(2));
    assert!(one.iter().zip(&other).all(|(one, other)| one.digest != other.digest));
}
