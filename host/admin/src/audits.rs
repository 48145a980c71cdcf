//! Comparing a region's copy of a shard with its primary: `/shards/{shard}/audit`.

use std::fmt;

use async_trait::async_trait;
use axum::extract::State;
use axum::response::Response;
use portolan_core::ids::{ShardName, TenantName};
use portolan_core::tenant_table::Identifier;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use crate::api::Api;
use crate::caller::{Caller, Scope};
use crate::extract::{Json, Names};
use crate::operations::{Operation, Progress};
use crate::problem::Problem;
use crate::routes::{Access, Routes};

/// Who compares copies. The binary implements it over the shards of its region.
#[async_trait]
pub trait Audits: fmt::Debug + Send + Sync {
    /// Looks whether a shard's copy can be compared here, and makes ready for it.
    ///
    /// # Errors
    /// When this region has no copy of the shard, or writes it.
    async fn audit(&self, order: AuditOrder) -> Result<Box<dyn FnOnce(Progress) + Send>, Problem>;
}

/// What is to be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditOrder {
    /// Put right what differs.
    pub repair: bool,
    /// The shard.
    pub shard: ShardName,
    /// One table; all when there is none.
    pub table: Option<Identifier>,
    /// One tenant; all when there is none.
    pub tenant: Option<TenantName>,
}

/// What is to be compared.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AuditRequest {
    /// Put right what differs, with what the primary has.
    #[serde(default)]
    repair: bool,
    /// One table.
    table: Option<String>,
    /// One tenant.
    tenant: Option<String>,
}

pub(crate) fn add(routes: Routes) -> Routes {
    routes.add(Access::Write(Scope::ShardRepair), routes!(audit_shard))
}

/// Compares a region's copy of a shard with its primary, while both are used, and puts right what differs if it is to. Ask a node of the
/// region that keeps the copy. The answer is an operation; its result names the rows that differed.
#[utoipa::path(post, path = "/api/v1/shards/{shard}/audit", tag = "shards", params(("shard" = String, Path)),
    request_body = AuditRequest, responses((status = 202, description = "It is compared", body = Operation)))]
async fn audit_shard(
    State(api): State<Api>,
    caller: Caller,
    Names(shard): Names<String>,
    Json(asked): Json<AuditRequest>,
) -> Result<Response, Problem> {
    let invalid = |error: &dyn fmt::Display| Problem::invalid(error.to_string());
    let table = asked.table.as_deref().map(Identifier::new).transpose();
    let tenant = asked.tenant.as_deref().map(TenantName::new).transpose();
    let order = AuditOrder {
        repair: asked.repair,
        shard: ShardName::new(&shard).map_err(|error| invalid(&error))?,
        table: table.map_err(|error| invalid(&error).at("/table", error.to_string()))?,
        tenant: tenant.map_err(|error| invalid(&error).at("/tenant", error.to_string()))?,
    };
    let start = api.backends().audits.audit(order).await?;
    let progress = api.operations().begin("audit", &caller)?;
    let response = progress.accepted();
    start(progress);
    Ok(response)
}
