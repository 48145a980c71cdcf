//! Tenants see their own side, and nobody else's.

use http::StatusCode;
use serde_json::{Value, json};

use super::Bench;
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
