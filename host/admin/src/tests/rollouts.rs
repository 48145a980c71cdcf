//! Rollouts over a node in memory: who may ask for what, and how it is told.

use async_trait::async_trait;
use http::StatusCode;
use serde_json::{Map, json};

use super::twin::Twin;
use super::{Bench, own};
use crate::backend::{Order, Rollout, RolloutCommand, RolloutDone, Rollouts};
use crate::problem::{Code, Problem};
use crate::{Role, Settings};

#[async_trait]
impl Rollouts for Twin {
    async fn rollouts(&self, slot: Option<&str>) -> Result<Vec<Rollout>, Problem> {
        let known = ["operator", "tenant.acme", "tenant.other"];
        let known = known.iter().filter(|known| slot.is_none_or(|slot| slot == **known));
        let stands = Map::from_iter([("phase".to_owned(), json!("canary"))]);
        Ok(known
            .map(|slot| Rollout { slot: (*slot).to_owned(), revision: 7, stands: stands.clone() })
            .collect())
    }

    async fn order(&self, order: Order) -> Result<RolloutDone, Problem> {
        if order.if_revision.is_some_and(|seen| seen != 7) {
            return Err(Problem::new(Code::PreconditionFailed, "it has changed: look again"));
        }
        let version = match order.command {
            RolloutCommand::Start(start) => Some(start.version),
            RolloutCommand::Pin(which) => Some(which.version),
            _ => None,
        };
        Ok(RolloutDone {
            candidate: version,
            dry_run: order.dry_run,
            generation: 8,
            id: "r-1".to_owned(),
            notes: vec![order.author, order.message],
            percent: 10,
            phase: "canary".to_owned(),
            pinned: false,
            plugin: "mine".to_owned(),
            slot: order.slot,
            stable: None,
            undo: vec!["portolan rollout abort operator".to_owned()],
        })
    }
}

#[tokio::test]
async fn a_slot_is_looked_at_and_ordered_about() {
    let bench = Bench::new(Settings::default());
    let found = bench.ask(own(), "GET", "/api/v1/rollouts/operator", &[], &json!(null)).await;
    assert_eq!((found.status, found.header("etag")), (StatusCode::OK, "\"7\""));
    let page = bench.ask(own(), "GET", "/api/v1/rollouts?limit=2", &[], &json!(null)).await;
    assert_eq!(page.body["items"].as_array().unwrap().len(), 2);
    let start = json!({ "version": "mine@abcdef", "percent": 10, "message": "try it" });
    let path = "/api/v1/rollouts/operator";
    let done = bench.ask(own(), "POST", path, &[("if-match", "\"7\"")], &start).await;
    assert_eq!(
        (done.status, &done.body["candidate"]),
        (StatusCode::OK, &json!("mine@abcdef")),
        "{:?}",
        done.body
    );
    assert_eq!(done.body["notes"], json!(["root (uid 0)", "try it"]));
    let stale = bench.ask(own(), "POST", path, &[("if-match", "\"6\"")], &start).await;
    assert_eq!((stale.status, stale.code()), (StatusCode::PRECONDITION_FAILED, "precondition-failed"));
    let both = json!({ "full": true, "percent": 5 });
    let both = bench.ask(own(), "POST", "/api/v1/rollouts/operator/promote", &[], &both).await;
    assert_eq!(both.status, StatusCode::CONFLICT);
    for nothing in ["/api/v1/rollouts/op", "/api/v1/rollouts/tenant.", "/api/v1/rollouts/tenant.A"] {
        assert_eq!(bench.ask(own(), "GET", nothing, &[], &json!(null)).await.status, StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn a_tenant_rolls_out_in_its_own_slot_alone() {
    let bench = Bench::new(Settings::default());
    bench.twin.put("tenant", "acme", json!({}), "api");
    let token = bench.token(Role::TenantAdmin, Some("acme")).await;
    let page = bench.with(&token, "GET", "/api/v1/rollouts", json!(null)).await;
    assert_eq!(page.body["items"].as_array().unwrap().len(), 1);
    assert_eq!(page.body["items"][0]["slot"], "tenant.acme");
    for (slot, status) in [("tenant.acme", 200), ("tenant.other", 404), ("operator", 404)] {
        let path = format!("/api/v1/rollouts/{slot}/abort");
        assert_eq!(bench.with(&token, "POST", &path, json!({})).await.status.as_u16(), status, "{slot}");
    }
}
