//! How the node stands, and all nodes: `/status`, `/nodes`, `/metrics`.

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::header::CONTENT_TYPE;
use serde_json::Value;
use utoipa_axum::routes;

use crate::api::Api;
use crate::caller::Scope;
use crate::page::Page;
use crate::problem::Problem;
use crate::routes::{Access, Routes};

pub(crate) fn add(routes: Routes) -> Routes {
    routes
        .add(Access::Read(Scope::StatusRead), routes!(get_status))
        .add(Access::Read(Scope::StatusRead), routes!(list_nodes))
        .add(Access::Read(Scope::StatusRead), routes!(get_metrics))
}

/// Shows how the node stands that is asked: what is wanted, what runs, what is wrong.
#[utoipa::path(get, path = "/api/v1/status", tag = "nodes",
    responses((status = 200, description = "How it stands", body = Object)))]
async fn get_status(State(api): State<Api>) -> Result<axum::Json<Value>, Problem> {
    api.backends().node.status().map(axum::Json)
}

/// Lists the nodes that follow the same control store, with the generation that each runs.
#[utoipa::path(get, path = "/api/v1/nodes", tag = "nodes",
    responses((status = 200, description = "Nodes", body = Page<Object>)))]
async fn list_nodes(State(api): State<Api>) -> Result<axum::Json<Page<Value>>, Problem> {
    Ok(axum::Json(Page { items: api.backends().node.nodes()?, next: None }))
}

/// Shows what the node counts, as Prometheus reads it.
#[utoipa::path(get, path = "/api/v1/metrics", tag = "nodes",
    responses((status = 200, description = "Counters and gauges", body = String, content_type = "text/plain")))]
async fn get_metrics(State(api): State<Api>) -> Result<Response, Problem> {
    use std::fmt::Write as _;
    let mut text = api.backends().node.metrics()?;
    for (name, help, value) in api.counts() {
        let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
        // Writing to a string cannot fail.
        writeln!(
            text,
            "# HELP portolan_{name} {help}\n# TYPE portolan_{name} {kind}\nportolan_{name} {value}"
        )
        .ok();
    }
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}
