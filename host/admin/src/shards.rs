//! Which shards there are, how they stand on the node that is asked, and where a tenant is: `/shards`, `/tenants/{tenant}/place`.

use axum::extract::State;
use portolan_core::ids::TenantName;
use serde_json::Value;
use utoipa_axum::routes;

use crate::api::Api;
use crate::caller::{Caller, Scope};
use crate::extract::Names;
use crate::page::Page;
use crate::problem::Problem;
use crate::routes::{Access, Routes};

pub(crate) fn add(routes: Routes) -> Routes {
    routes
        .add(Access::Read(Scope::StatusRead), routes!(list_shards))
        .add(Access::Read(Scope::TenantRead), routes!(get_tenant_place))
}

/// Lists the shards: who writes each, who keeps copies, and how it stands in the region that is asked.
#[utoipa::path(get, path = "/api/v1/shards", tag = "shards",
    responses((status = 200, description = "Shards, by name", body = Page<Object>)))]
async fn list_shards(State(api): State<Api>) -> Result<axum::Json<Page<Value>>, Problem> {
    Ok(axum::Json(Page { items: api.backends().node.shards()?, next: None }))
}

/// Shows on which shard a tenant's rows are, and who writes it.
#[utoipa::path(get, path = "/api/v1/tenants/{tenant}/place", tag = "shards", params(("tenant" = String, Path)),
    responses((status = 200, description = "Its place", body = Object)))]
async fn get_tenant_place(
    State(api): State<Api>,
    caller: Caller,
    Names(tenant): Names<String>,
) -> Result<axum::Json<Value>, Problem> {
    let tenant = TenantName::new(&tenant).ok().filter(|tenant| caller.sees(Some(tenant)));
    let tenant = tenant.ok_or_else(|| Problem::not_found("such a tenant of yours"))?;
    let place = api.backends().node.place(&tenant)?;
    place.map(axum::Json).ok_or_else(|| Problem::not_found("a shard that has the tenant"))
}
