//! Taking cached responses back over a node in memory.

use async_trait::async_trait;
use http::StatusCode;
use serde_json::json;

use super::Bench;
use super::twin::Twin;
use crate::problem::Problem;
use crate::purges::{PurgeOrder, Purged, Purges};
use crate::{Role, Settings};

#[async_trait]
impl Purges for Twin {
    async fn purge(&self, order: PurgeOrder) -> Result<Purged, Problem> {
        if order.tenant.as_ref().map(|tenant| tenant.as_str()) != Some("acme") {
            return Err(Problem::not_found("a cache of that tenant"));
        }
        let targets = order.prefixes.len()
            + order.sites.len()
            + order.tags.len()
            + order.urls.len()
            + usize::from(order.all);
        Ok(Purged { epoch: if order.hard { 2 } else { 1 }, targets })
    }
}

#[tokio::test]
async fn responses_are_taken_back_by_name_within_a_tenant() {
    let bench = Bench::new(Settings::default());
    let path = "/api/v1/cache/purge";
    let asked = json!({ "tenant": "acme", "tags": ["a"], "urls": ["http://x/y"], "prefixes": ["x/z/"], "hard": true });
    let done = bench.admin("POST", path, asked).await;
    assert_eq!(
        (done.status, &done.body["targets"], &done.body["epoch"]),
        (StatusCode::OK, &json!(3), &json!(2))
    );
    for wrong in [
        json!({ "tenant": "acme" }),
        json!({ "tenant": "acme", "prefixes": ["x/no-slash"] }),
        json!({ "tenant": "acme", "tags": [""] }),
        json!({ "tenant": "No Tenant", "all": true }),
        json!({ "tenant": "acme", "tags": vec!["t"; 1_001] }),
    ] {
        let refused = bench.admin("POST", path, wrong).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{:?}", refused.body);
    }
    let acme = bench.token(Role::TenantAdmin, Some("acme")).await;
    assert_eq!(bench.with(&acme, "POST", path, json!({ "all": true })).await.status, StatusCode::OK);
    let refused = bench.with(&acme, "POST", path, json!({ "all": true, "tenant": "other" })).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    let app = bench.token(Role::TenantApp, Some("acme")).await;
    assert_eq!(bench.with(&app, "POST", path, json!({ "all": true })).await.status, StatusCode::FORBIDDEN);
}
