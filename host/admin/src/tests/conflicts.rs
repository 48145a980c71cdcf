//! Conflicts over a node in memory: who sees which, and who writes what lost back.

use async_trait::async_trait;
use http::StatusCode;
use portolan_core::ids::ShardName;
use serde_json::{Value, json};

use super::Bench;
use super::twin::Twin;
use crate::backend::{Conflicts, WantedConflicts};
use crate::problem::Problem;
use crate::{Role, Settings};

fn entries() -> Vec<Value> {
    let entry =
        |id: &str, tenant: &str| json!({ "conflict": id, "tenant": tenant, "cursor": id, "row": "{}" });
    vec![entry("a1", "acme"), entry("b2", "bolt"), entry("c3", "acme")]
}

#[async_trait]
impl Conflicts for Twin {
    async fn conflicts(&self, wanted: WantedConflicts) -> Result<Vec<Value>, Problem> {
        let fits = |entry: &Value| {
            let tenant = wanted.tenant.as_ref().is_none_or(|tenant| entry["tenant"] == tenant.as_str());
            tenant
                && wanted.after.as_ref().is_none_or(|after| entry["cursor"].as_str() > Some(after.as_str()))
        };
        Ok(entries().into_iter().filter(fits).take(wanted.max).collect())
    }

    async fn conflict(&self, _: &ShardName, id: &str) -> Result<Option<Value>, Problem> {
        Ok(entries().into_iter().find(|entry| entry["conflict"] == id))
    }

    async fn restore(&self, _: &ShardName, id: &str) -> Result<Value, Problem> {
        Ok(json!({ "conflict": id, "position": "1.2.3" }))
    }
}

#[tokio::test]
async fn a_tenant_sees_and_restores_its_own_alone() {
    let bench = Bench::new(Settings::default());
    let path = "/api/v1/shards/s1/conflicts";
    let all = bench.admin("GET", path, Value::Null).await;
    assert_eq!((all.status, all.body["items"].as_array().unwrap().len()), (StatusCode::OK, 3));
    let page = bench.admin("GET", &format!("{path}?limit=2"), Value::Null).await;
    let next = page.body["next"].as_str().unwrap().to_owned();
    let rest = bench.admin("GET", &format!("{path}?cursor={next}"), Value::Null).await;
    assert_eq!(rest.body["items"], json!([entries()[2]]));

    let acme = bench.token(Role::TenantApp, Some("acme")).await;
    let own = bench.with(&acme, "GET", path, Value::Null).await;
    assert_eq!(own.body["items"], json!([entries()[0], entries()[2]]));
    let foreign = bench.with(&acme, "GET", &format!("{path}?tenant=bolt"), Value::Null).await;
    assert_eq!(foreign.body["items"], json!([]));
    for (id, status) in [("a1", StatusCode::OK), ("b2", StatusCode::NOT_FOUND), ("zz", StatusCode::NOT_FOUND)]
    {
        let shown = bench.with(&acme, "GET", &format!("{path}/{id}"), Value::Null).await;
        assert_eq!(shown.status, status, "{id}");
        let restored = bench.with(&acme, "POST", &format!("{path}/{id}/restore"), Value::Null).await;
        assert_eq!(restored.status, status, "{id}");
    }
}
