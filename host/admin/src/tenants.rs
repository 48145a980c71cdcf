//! What a tenant sees of its own policy on the node that is asked, and what everybody used there.

use axum::extract::State;
use portolan_core::ids::TenantName;
use serde::Deserialize;
use serde_json::Value;
use utoipa::IntoParams;
use utoipa_axum::routes;

use crate::api::Api;
use crate::backend::TenantSide;
use crate::caller::{Caller, Scope};
use crate::extract::{Names, Parameters};
use crate::page::Page;
use crate::problem::Problem;
use crate::routes::{Access, Routes};

pub(crate) fn add(routes: Routes) -> Routes {
    routes
        .add(Access::Read(Scope::TenantRead), routes!(get_tenant_log))
        .add(Access::Read(Scope::TenantRead), routes!(get_tenant_quota))
        .add(Access::Read(Scope::TenantRead), routes!(get_tenant_refusals))
        .add(Access::Read(Scope::TenantRead), routes!(get_tenant_usage))
        .add(Access::Read(Scope::UsageRead), routes!(export_usage))
}

#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Since {
    /// Only from the hour of this time on, in milliseconds since 1970-01-01T00:00:00Z.
    since_ms: Option<u64>,
    /// A row for each hour and tenant.
    by_hour: Option<bool>,
}

/// Shows what a tenant's policy wrote, and where it failed, by the functions' own names.
#[utoipa::path(get, path = "/api/v1/tenants/{tenant}/log", tag = "tenants", params(("tenant" = String, Path)),
    responses((status = 200, description = "Lines and faults, oldest first", body = Object)))]
async fn get_tenant_log(
    State(api): State<Api>,
    caller: Caller,
    Names(tenant): Names<String>,
) -> Result<axum::Json<Value>, Problem> {
    side(&api, &caller, &tenant, TenantSide::Log)
}

/// Shows what a tenant's policy may use on the node, what is left of it, and whether the tenant is demoted; and how many versions of
/// plugins it has and may have.
#[utoipa::path(get, path = "/api/v1/tenants/{tenant}/quota", tag = "tenants", params(("tenant" = String, Path)),
    responses((status = 200, description = "Its budget and what it cost", body = Object)))]
async fn get_tenant_quota(
    State(api): State<Api>,
    caller: Caller,
    Names(tenant): Names<String>,
) -> Result<axum::Json<Value>, Problem> {
    let axum::Json(mut told) = side(&api, &caller, &tenant, TenantSide::Quota)?;
    let versions = api.backends().plugins.quota(&own(&caller, &tenant)?).await;
    if let (Some(told), Some(versions)) = (told.as_object_mut(), versions) {
        told.insert("versions".to_owned(), versions);
    }
    Ok(axum::Json(told))
}

/// Shows why what a tenant wanted was refused.
#[utoipa::path(get, path = "/api/v1/tenants/{tenant}/refusals", tag = "tenants", params(("tenant" = String, Path)),
    responses((status = 200, description = "Refusals, oldest first", body = Object)))]
async fn get_tenant_refusals(
    State(api): State<Api>,
    caller: Caller,
    Names(tenant): Names<String>,
) -> Result<axum::Json<Value>, Problem> {
    side(&api, &caller, &tenant, TenantSide::Refusals)
}

/// Shows what a tenant used on the node: requests, bytes and guest work.
#[utoipa::path(get, path = "/api/v1/tenants/{tenant}/usage", tag = "tenants",
    params(("tenant" = String, Path), Since),
    responses((status = 200, description = "Rows", body = Page<Object>)))]
async fn get_tenant_usage(
    State(api): State<Api>,
    caller: Caller,
    Names(tenant): Names<String>,
    Parameters(since): Parameters<Since>,
) -> Result<axum::Json<Page<Value>>, Problem> {
    let tenant = own(&caller, &tenant)?;
    let mut items = used(&api, &since).await?;
    items.retain(|row| row.get("tenant").and_then(Value::as_str) == Some(tenant.as_str()));
    Ok(axum::Json(Page { items, next: None }))
}

/// Exports what everybody used on the node, by tenant.
#[utoipa::path(get, path = "/api/v1/usage", tag = "tenants", params(Since),
    responses((status = 200, description = "Rows", body = Page<Object>)))]
async fn export_usage(
    State(api): State<Api>,
    Parameters(since): Parameters<Since>,
) -> Result<axum::Json<Page<Value>>, Problem> {
    Ok(axum::Json(Page { items: used(&api, &since).await?, next: None }))
}

async fn used(api: &Api, since: &Since) -> Result<Vec<Value>, Problem> {
    let (since_ms, by_hour) = (since.since_ms.unwrap_or(0), since.by_hour.unwrap_or(false));
    // Whole numbers are described with 63 bits; what is beyond is no time either.
    if i64::try_from(since_ms).is_err() {
        return Err(Problem::invalid("`since_ms` is beyond all times"));
    }
    api.backends().node.usage(since_ms, by_hour).await
}

fn side(api: &Api, caller: &Caller, tenant: &str, side: TenantSide) -> Result<axum::Json<Value>, Problem> {
    let tenant = own(caller, tenant)?;
    let found = api.backends().node.tenant(&tenant, side)?;
    found.map(axum::Json).ok_or_else(missing)
}

/// The tenant, if the caller may see it. Whoever may not is not told whether there is one.
fn own(caller: &Caller, tenant: &str) -> Result<TenantName, Problem> {
    let tenant = TenantName::new(tenant).map_err(|_| missing())?;
    if caller.sees(Some(&tenant)) { Ok(tenant) } else { Err(missing()) }
}

fn missing() -> Problem {
    Problem::not_found("such tenant with a policy on this node: `portolan status` shows them")
}
