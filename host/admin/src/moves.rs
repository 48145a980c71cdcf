//! Tenants that move from one shard to another: `/tenants/{tenant}/moves`, `/moves`, and who is on a shard, `/shards/{shard}/tenants`.

use std::fmt;

use async_trait::async_trait;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use portolan_core::ids::{ShardName, TenantName};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::routes;

use crate::api::Api;
use crate::caller::{Caller, Scope};
use crate::extract::{Json, Names, Parameters};
use crate::operations::{Operation, Progress};
use crate::page::{self, Page, Paging};
use crate::problem::Problem;
use crate::routes::{Access, Routes};

/// Who carries moves out. The binary implements it over the shards of its region.
#[async_trait]
pub trait Moves: fmt::Debug + Send + Sync {
    /// Looks whether a tenant can be moved so, and makes ready for it.
    ///
    /// # Errors
    /// What stands against it, and [`Code::NoStore`](crate::Code::NoStore) without a control store.
    async fn order(&self, order: MoveOrder) -> Result<Ordered, Problem>;

    /// The moves that are under way or whose source still keeps the tenant's rows, as far as this region knows.
    ///
    /// # Errors
    /// When a database does not answer.
    async fn moves(&self) -> Result<Vec<Value>, Problem>;

    /// Tenants that have rows on a shard, after one, by name, up to so many.
    ///
    /// # Errors
    /// When the shard is not written here.
    async fn tenants_on(
        &self,
        shard: &ShardName,
        after: Option<&TenantName>,
        max: usize,
    ) -> Result<Vec<TenantName>, Problem>;
}

/// Who is to be moved, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoveOrder {
    /// Who wants it.
    pub author: String,
    /// Only look whether it can be done.
    pub dry_run: bool,
    /// The tenant.
    pub tenant: TenantName,
    /// The shard; when a move is undone, the one that still keeps the tenant's rows is found without it.
    pub to: Option<ShardName>,
    /// Go back to a shard that still keeps the tenant's rows.
    pub undo: bool,
}

/// What was made of an order.
pub enum Ordered {
    /// It was only to be looked at: what was found.
    Looked(Value),
    /// It can begin, and tells an operation how it goes.
    Ready(Box<dyn FnOnce(Progress) + Send>),
}

impl fmt::Debug for Ordered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Looked(found) => f.debug_tuple("Looked").field(found).finish(),
            Self::Ready(_) => f.write_str("Ready(..)"),
        }
    }
}

/// Where a tenant is to be moved.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct MoveRequest {
    /// Only look whether it can be done.
    #[serde(default)]
    dry_run: bool,
    /// The shard; not needed to undo a move.
    to: Option<String>,
    /// Go back to the shard that still keeps the tenant's rows.
    #[serde(default)]
    undo: bool,
}

pub(crate) fn add(routes: Routes) -> Routes {
    routes
        .add(Access::Write(Scope::ShardMove), routes!(move_tenant))
        .add(Access::Read(Scope::StatusRead), routes!(list_moves))
        .add(Access::Read(Scope::StatusRead), routes!(list_shard_tenants))
}

/// Moves a tenant to another shard while it is written. Ask a node of the region that writes the shard on which the tenant is. The
/// answer is an operation, whose stages tell how it goes and whose result has the pause; with `dry_run`, what was found.
#[utoipa::path(post, path = "/api/v1/tenants/{tenant}/moves", tag = "shards", params(("tenant" = String, Path)),
    request_body = MoveRequest,
    responses((status = 200, description = "What was found; nothing is done", body = Object),
        (status = 202, description = "It moves", body = Operation)))]
async fn move_tenant(
    State(api): State<Api>,
    caller: Caller,
    Names(tenant): Names<String>,
    Json(asked): Json<MoveRequest>,
) -> Result<Response, Problem> {
    let MoveRequest { dry_run, to, undo } = asked;
    let to = to.as_deref().map(ShardName::new).transpose();
    let to =
        to.map_err(|error| Problem::invalid("this is no name of a shard").at("/to", error.to_string()))?;
    if to.is_none() && !undo {
        return Err(Problem::invalid("say where to: `to` is the name of a shard").at("/to", "is not there"));
    }
    let tenant = TenantName::new(&tenant).map_err(|error| Problem::invalid(error.to_string()))?;
    let order = MoveOrder { author: caller.author(), dry_run, tenant, to, undo };
    match api.backends().moves.order(order).await? {
        Ordered::Looked(found) => Ok(axum::Json(found).into_response()),
        Ordered::Ready(start) => {
            let progress = api.operations().begin("move", &caller)?;
            let response = progress.accepted();
            start(progress);
            Ok(response)
        }
    }
}

/// Lists moves of tenants that are under way, or whose source still keeps the tenant's rows, as far as the region of the node
/// that is asked knows.
#[utoipa::path(get, path = "/api/v1/moves", tag = "shards",
    responses((status = 200, description = "Moves, by tenant", body = Page<Object>)))]
async fn list_moves(State(api): State<Api>) -> Result<axum::Json<Page<Value>>, Problem> {
    Ok(axum::Json(Page { items: api.backends().moves.moves().await?, next: None }))
}

/// Lists the tenants that have rows on a shard. Ask a node of the region that writes it.
#[utoipa::path(get, path = "/api/v1/shards/{shard}/tenants", tag = "shards", params(("shard" = String, Path), Paging),
    responses((status = 200, description = "Tenants, by name", body = Page<String>)))]
async fn list_shard_tenants(
    State(api): State<Api>,
    Names(shard): Names<String>,
    Parameters(paging): Parameters<Paging>,
) -> Result<axum::Json<Page<String>>, Problem> {
    let (limit, after) = (page::limit(paging.limit)?, page::place(paging.cursor.as_deref())?);
    let after = after.as_deref().map(TenantName::new).transpose();
    let after = after.map_err(|_| Problem::invalid("this cursor is of another list"))?;
    let shard = ShardName::new(&shard).map_err(|error| Problem::invalid(error.to_string()))?;
    let found = api.backends().moves.tenants_on(&shard, after.as_ref(), limit + 1).await?;
    let items = found.iter().map(ToString::to_string).collect();
    Ok(axum::Json(Page::of(items, limit, String::clone)))
}
