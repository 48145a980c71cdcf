//! Comparisons of copies over a node in memory.

use async_trait::async_trait;
use http::StatusCode;
use serde_json::json;

use super::Bench;
use super::twin::Twin;
use crate::backend::{AuditOrder, Audits};
use crate::operations::Progress;
use crate::problem::{Code, Problem};
use crate::{Role, Settings};

#[async_trait]
impl Audits for Twin {
    async fn audit(&self, order: AuditOrder) -> Result<Box<dyn FnOnce(Progress) + Send>, Problem> {
        if order.shard.as_str() == "far" {
            return Err(Problem::new(Code::Conflict, "ask a node elsewhere"));
        }
        let told = json!({ "shard": order.shard, "table": order.table, "tenant": order.tenant, "repair": order.repair });
        Ok(Box::new(|progress| {
            progress.stage("notes");
            progress.succeed(told);
        }))
    }
}

#[tokio::test]
async fn a_copy_is_compared_as_an_operation() {
    let bench = Bench::new(Settings::default());
    let asked = json!({ "repair": true, "table": "notes", "tenant": "acme" });
    let begun = bench.admin("POST", "/api/v1/shards/s1/audit", asked).await;
    assert_eq!(begun.status, StatusCode::ACCEPTED, "{:?}", begun.body);
    let id = begun.body["id"].as_str().unwrap();
    let done = bench.admin("GET", &format!("/api/v1/operations/{id}"), json!(null)).await;
    let wanted = json!({ "shard": "s1", "table": "notes", "tenant": "acme", "repair": true });
    assert_eq!((&done.body["state"], &done.body["result"]), (&json!("succeeded"), &wanted));
    for (path, body, status) in [
        ("/api/v1/shards/far/audit", json!({}), StatusCode::CONFLICT),
        ("/api/v1/shards/s1/audit", json!({ "table": "no table" }), StatusCode::BAD_REQUEST),
        ("/api/v1/shards/s1/audit", json!({ "tenant": "No Tenant" }), StatusCode::BAD_REQUEST),
        ("/api/v1/shards/s1/audit", json!({ "mend": true }), StatusCode::BAD_REQUEST),
    ] {
        let refused = bench.admin("POST", path, body).await;
        assert_eq!(refused.status, status, "{:?}", refused.body);
    }
    let acme = bench.token(Role::TenantAdmin, Some("acme")).await;
    let refused = bench.with(&acme, "POST", "/api/v1/shards/s1/audit", json!({})).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
}
