//! The API over an in-memory twin of a node: who may what, what is told when not, and what a hostile caller gets.

mod access;
mod audits;
mod changing;
mod conflicts;
mod failovers;
mod identity;
mod live;
mod moves;
mod purges;
mod rollouts;
mod tenants;
mod twin;

use std::sync::Arc;

use axum::body::Body;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use portolan_core::ids::TenantName;
use serde_json::{Value, json};
use tower_service::Service as _;

use crate::authentic::Peer;
use crate::backend::Backends;
use crate::events::Events;
use crate::tests::twin::Twin;
use crate::{Api, Role, Settings};

/// An API over a twin.
pub(super) struct Bench {
    pub(super) api: Api,
    pub(super) router: crate::Router,
    pub(in crate::tests) twin: Arc<Twin>,
}

/// What was answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Value,
}

impl Answer {
    pub(super) fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

pub(super) fn own() -> Peer {
    Peer::Unix { own: true, user: "root (uid 0)".to_owned() }
}

pub(super) fn tcp() -> Peer {
    Peer::Tcp { local: "127.0.0.1:9180".parse().unwrap(), names: Vec::new() }
}

impl Bench {
    pub(super) fn new(settings: Settings) -> Self {
        let twin = Arc::new(Twin::default());
        let backends = Backends {
            audits: Arc::clone(&twin) as _,
            conflicts: Arc::clone(&twin) as _,
            failovers: Arc::clone(&twin) as _,
            intent: Arc::clone(&twin) as _,
            moves: Arc::clone(&twin) as _,
            node: Arc::clone(&twin) as _,
            plugins: Arc::new(crate::plugins::NoPlugins),
            purges: Arc::clone(&twin) as _,
            rollouts: Arc::clone(&twin) as _,
        };
        let api = Api::new(backends, Events::default(), settings);
        Self { router: crate::Router::new(api.clone()), api, twin }
    }

    /// Sends a request as it is.
    pub(super) async fn send(&self, peer: Peer, request: Request<Body>) -> http::Response<Body> {
        let mut request = request;
        request.extensions_mut().insert(peer);
        self.router.inner().call(request).await.unwrap()
    }

    /// Sends a request with JSON and reads the answer.
    pub(super) async fn ask(
        &self,
        peer: Peer,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            request = request.header("host", "localhost");
        }
        if !body.is_null() && !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let response = self.send(peer, request.body(body).unwrap()).await;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Answer { status: parts.status, headers: parts.headers, body }
    }

    /// The same as the machine's own.
    pub(super) async fn admin(&self, method: &str, path: &str, body: Value) -> Answer {
        self.ask(own(), method, path, &[], &body).await
    }

    /// Makes a token, and gives the value of the header.
    pub(super) async fn token(&self, role: Role, tenant: Option<&str>) -> String {
        let wanted = json!({ "name": role.as_str(), "role": role, "tenant": tenant });
        let made = self.admin("POST", "/api/v1/tokens", wanted).await;
        assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
        format!("Bearer {}", made.body["token"].as_str().unwrap())
    }

    /// Asks with a token.
    pub(super) async fn with(&self, token: &str, method: &str, path: &str, body: Value) -> Answer {
        self.ask(tcp(), method, path, &[("authorization", token)], &body).await
    }
}

pub(super) fn tenant(name: &str) -> TenantName {
    TenantName::new(name).unwrap()
}

/// The description is what others build on: a change of it is seen in a review. `INSTA_UPDATE=always` writes a new one.
#[test]
fn the_description_is_as_it_was() {
    insta::assert_snapshot!("openapi", crate::openapi().to_pretty_json().unwrap());
}

#[test]
fn each_operation_is_described() {
    let description: Value = serde_json::to_value(crate::openapi()).unwrap();
    assert_eq!(description["openapi"], "3.1.0");
    let mut ids = std::collections::BTreeSet::new();
    for (path, item) in description["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let at = format!("{method} {path}");
            assert!(operation["summary"].is_string(), "{at} has no summary");
            assert!(ids.insert(operation["operationId"].to_string()), "{at} has another's id");
            // An explanation changes nothing, and an upload is named by its content.
            let without = ["post /api/v1/explain", "post /api/v1/plugins/{name}/versions"];
            let changes = matches!(method.as_str(), "post" | "put" | "patch" | "delete")
                && !without.contains(&at.as_str());
            let keys = operation["parameters"].as_array().into_iter().flatten();
            let has_key = keys.clone().any(|parameter| parameter["name"] == "Idempotency-Key");
            assert_eq!(has_key, changes, "{at}");
        }
    }
}
