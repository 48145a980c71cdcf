//! Moves of tenants over a node in memory: what is asked, who may, and what an operation tells.

use async_trait::async_trait;
use http::StatusCode;
use portolan_core::ids::{ShardName, TenantName};
use serde_json::{Value, json};

use super::Bench;
use super::twin::Twin;
use crate::backend::{MoveOrder, Moves, Ordered};
use crate::problem::{Code, Problem};
use crate::{Role, Settings};

#[async_trait]
impl Moves for Twin {
    async fn order(&self, order: MoveOrder) -> Result<Ordered, Problem> {
        if order.to.as_ref().is_some_and(|to| to.as_str() == "far") {
            return Err(Problem::new(Code::Conflict, "ask a node elsewhere"));
        }
        let told = json!({ "tenant": order.tenant, "to": order.to, "undo": order.undo, "pause_ms": 12 });
        if order.dry_run {
            return Ok(Ordered::Looked(told));
        }
        Ok(Ordered::Ready(Box::new(|progress| {
            progress.stage("copy");
            progress.note("2 rows");
            progress.succeed(told);
        })))
    }

    async fn moves(&self) -> Result<Vec<Value>, Problem> {
        Ok(vec![json!({ "tenant": "acme", "step": "copying" })])
    }

    async fn tenants_on(
        &self,
        _: &ShardName,
        after: Option<&TenantName>,
        max: usize,
    ) -> Result<Vec<TenantName>, Problem> {
        let all = ["acme", "bolt", "corp"].map(|name| TenantName::new(name).unwrap());
        Ok(all.into_iter().filter(|tenant| after.is_none_or(|after| tenant > after)).take(max).collect())
    }
}

#[tokio::test]
async fn a_move_is_an_operation() {
    let bench = Bench::new(Settings::default());
    let path = "/api/v1/tenants/acme/moves";
    let looked = bench.admin("POST", path, json!({ "to": "b", "dry_run": true })).await;
    assert_eq!((looked.status, &looked.body["to"]), (StatusCode::OK, &json!("b")));
    let begun = bench.admin("POST", path, json!({ "to": "b" })).await;
    assert_eq!((begun.status, &begun.body["kind"]), (StatusCode::ACCEPTED, &json!("move")));
    let ended = bench.admin("GET", begun.header("location"), Value::Null).await;
    assert_eq!((&ended.body["state"], &ended.body["result"]["pause_ms"]), (&json!("succeeded"), &json!(12)));
    assert_eq!(ended.body["stages"][0]["detail"], "2 rows");
    let undone = bench.admin("POST", path, json!({ "undo": true, "dry_run": true })).await;
    assert_eq!((undone.status, &undone.body["undo"]), (StatusCode::OK, &json!(true)));
    for (body, status, code) in [
        (json!({}), StatusCode::BAD_REQUEST, "invalid"),
        (json!({ "to": "no name" }), StatusCode::BAD_REQUEST, "invalid"),
        (json!({ "to": "b", "fast": true }), StatusCode::BAD_REQUEST, "invalid"),
        (json!({ "to": "far" }), StatusCode::CONFLICT, "conflict"),
    ] {
        let refused = bench.admin("POST", path, body).await;
        assert_eq!((refused.status, refused.code()), (status, code), "{refused:?}");
    }
    let bad = bench.admin("POST", "/api/v1/tenants/a%20b/moves", json!({ "to": "b" })).await;
    assert_eq!(bad.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn tenants_of_a_shard_are_listed_in_pages_and_moved_by_operators_alone() {
    let bench = Bench::new(Settings::default());
    let path = "/api/v1/shards/a/tenants?limit=2";
    let first = bench.admin("GET", path, Value::Null).await;
    assert_eq!(first.body["items"], json!(["acme", "bolt"]));
    let next = format!("{path}&cursor={}", first.body["next"].as_str().unwrap());
    let second = bench.admin("GET", &next, Value::Null).await;
    assert_eq!((&second.body["items"], &second.body["next"]), (&json!(["corp"]), &Value::Null));
    let listed = bench.admin("GET", "/api/v1/moves", Value::Null).await;
    assert_eq!(listed.body["items"][0]["step"], "copying");
    for (role, tenant, status) in [
        (Role::Operator, None, StatusCode::OK),
        (Role::Auditor, None, StatusCode::FORBIDDEN),
        (Role::TenantAdmin, Some("acme"), StatusCode::FORBIDDEN),
    ] {
        let token = bench.token(role, tenant).await;
        let body = json!({ "to": "b", "dry_run": true });
        let answer = bench.with(&token, "POST", "/api/v1/tenants/acme/moves", body).await;
        assert_eq!(answer.status, status, "{role}");
    }
}
