//! Decisions that the node has kept: `/decisions`, `/recordings`.

use axum::extract::State;
use serde::Deserialize;
use serde_json::Value;
use utoipa::IntoParams;
use utoipa_axum::routes;

use crate::api::Api;
use crate::backend::DecisionFilter;
use crate::caller::{Caller, Scope};
use crate::extract::{Names, Parameters, short};
use crate::page::{self, Page, Paging};
use crate::problem::{Code, Problem};
use crate::routes::{Access, Routes};

pub(crate) fn add(routes: Routes) -> Routes {
    routes
        .add(Access::Read(Scope::Explain), routes!(list_decisions))
        .add(Access::Read(Scope::Explain), routes!(get_decision))
        .add(Access::Read(Scope::StatusRead), routes!(get_recordings))
}

/// Which decisions.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Which {
    /// Only this tenant's.
    #[param(max_length = 63)]
    tenant: Option<String>,
    /// Only those in which this policy had a part.
    #[param(max_length = 63)]
    policy: Option<String>,
    /// Only with this status, or of its hundred: 5 for 500 to 599.
    #[param(minimum = 1, maximum = 999)]
    status: Option<u16>,
}

/// Lists the newest decisions that the node has in memory, the newest first. A tenant's caller is told of its own tenant's, and of
/// its own slot's part in them.
#[utoipa::path(get, path = "/api/v1/decisions", tag = "decisions", params(Which, Paging),
    responses((status = 200, description = "Decisions", body = Page<Object>)))]
async fn list_decisions(
    State(api): State<Api>,
    caller: Caller,
    Parameters(which): Parameters<Which>,
    Parameters(paging): Parameters<Paging>,
) -> Result<axum::Json<Page<Value>>, Problem> {
    short(&[("tenant", &which.tenant, 63), ("policy", &which.policy, 63)])?;
    if which.status.is_some_and(|status| !(1..=999).contains(&status)) {
        return Err(Problem::invalid("`status` is 1 to 999"));
    }
    let limit = page::limit(paging.limit)?;
    let before = page::place(paging.cursor.as_deref())?;
    if let Some(own) = &caller.tenant
        && which.tenant.as_deref().is_some_and(|tenant| tenant != own.as_str())
    {
        return Err(Problem::new(Code::Forbidden, "you may ask for your own tenant only"));
    }
    let wanted = DecisionFilter {
        before,
        caller: caller.tenant.clone(),
        max: limit + 1,
        policy: which.policy,
        status: which.status,
        tenant: which.tenant,
    };
    let items = api.backends().node.decisions(wanted).await?;
    let id = |decision: &Value| decision.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(axum::Json(Page::of(items, limit, id)))
}

/// Shows a decision that was kept, by the id in its response's `portolan-decision`, and what the policies that run now would say of it.
#[utoipa::path(get, path = "/api/v1/decisions/{id}", tag = "decisions",
    params(("id" = String, Path, description = "Its id", max_length = 64)),
    responses((status = 200, description = "The decision", body = Object)))]
async fn get_decision(
    State(api): State<Api>,
    caller: Caller,
    Names(id): Names<String>,
) -> Result<axum::Json<Value>, Problem> {
    Ok(axum::Json(api.backends().node.decision(id, caller.tenant).await?))
}

/// Shows what the node keeps of its decisions: counts, and segments on its disk.
#[utoipa::path(get, path = "/api/v1/recordings", tag = "decisions",
    responses((status = 200, description = "What is kept", body = Object)))]
async fn get_recordings(State(api): State<Api>, caller: Caller) -> Result<axum::Json<Value>, Problem> {
    if caller.tenant.is_some() {
        return Err(Problem::new(
            Code::Forbidden,
            "what a node keeps is its operator's: ask for `/decisions`",
        ));
    }
    api.backends().node.recordings().map(axum::Json)
}
