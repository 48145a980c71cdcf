//! What lost and is kept: `/shards/{shard}/conflicts`. Entries hold rows, so that who may read data reads them, and a tenant's caller
//! sees its own alone.

use std::fmt;

use async_trait::async_trait;
use axum::extract::State;
use portolan_core::ids::{ShardName, TenantName};
use serde::Deserialize;
use serde_json::Value;
use utoipa::IntoParams;
use utoipa_axum::routes;

use crate::api::Api;
use crate::caller::{Caller, Scope};
use crate::extract::{Names, Parameters};
use crate::page::{self, Page};
use crate::problem::Problem;
use crate::routes::{Access, Routes};

/// Who knows what is kept of conflicts. The binary implements it over the shards of its region.
#[async_trait]
pub trait Conflicts: fmt::Debug + Send + Sync {
    /// Entries of a shard's ledger, by the time at which they were found, each with a `cursor`.
    ///
    /// # Errors
    /// When the shard is not kept here, or the cursor is none.
    async fn conflicts(&self, wanted: WantedConflicts) -> Result<Vec<Value>, Problem>;

    /// One entry; none when there is no such.
    ///
    /// # Errors
    /// As [`Self::conflicts`].
    async fn conflict(&self, shard: &ShardName, id: &str) -> Result<Option<Value>, Problem>;

    /// Writes what lost back, as a new version.
    ///
    /// # Errors
    /// When the shard is not written here, or the row cannot be written now.
    async fn restore(&self, shard: &ShardName, id: &str) -> Result<Value, Problem>;
}

/// Which entries are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedConflicts {
    /// Those after the entry of this cursor.
    pub after: Option<String>,
    /// At most so many.
    pub max: usize,
    /// The shard.
    pub shard: ShardName,
    /// Those found then or later, in microseconds since 1970.
    pub since_us: u64,
    /// Those of this table.
    pub table: Option<String>,
    /// Those of this tenant.
    pub tenant: Option<TenantName>,
}

/// Which part of a ledger.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Filter {
    /// Where the page begins: `next` of the page before it.
    #[param(max_length = 1024)]
    cursor: Option<String>,
    /// How many items at most.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u16>,
    /// Those found at this time or later, in microseconds since 1970.
    since_us: Option<u64>,
    /// Those of this table.
    table: Option<String>,
    /// Those of this tenant.
    tenant: Option<String>,
}

pub(crate) fn add(routes: Routes) -> Routes {
    routes
        .add(Access::Read(Scope::DataRead), routes!(list_conflicts))
        .add(Access::Read(Scope::DataRead), routes!(show_conflict))
        .add(Access::Write(Scope::DataWrite), routes!(restore_conflict))
}

/// Lists what lost without having been known to what won, with both images and the rule. Ask a node of a region that keeps the shard.
#[utoipa::path(get, path = "/api/v1/shards/{shard}/conflicts", tag = "shards", params(("shard" = String, Path), Filter),
    responses((status = 200, description = "Entries, by the time at which they were found", body = Page<Object>)))]
async fn list_conflicts(
    State(api): State<Api>,
    caller: Caller,
    Names(shard): Names<String>,
    Parameters(filter): Parameters<Filter>,
) -> Result<axum::Json<Page<Value>>, Problem> {
    let (limit, after) = (page::limit(filter.limit)?, page::place(filter.cursor.as_deref())?);
    let tenant = filter.tenant.as_deref().map(TenantName::new).transpose();
    let tenant = tenant.map_err(|error| Problem::invalid(error.to_string()))?;
    let tenant = match (&caller.tenant, tenant) {
        (Some(own), Some(named)) if *own != named => {
            return Ok(axum::Json(Page { items: Vec::new(), next: None }));
        }
        (own, named) => own.clone().or(named),
    };
    let since_us = filter.since_us.unwrap_or_default();
    let wanted = WantedConflicts {
        after,
        max: limit + 1,
        shard: named(&shard)?,
        since_us,
        table: filter.table,
        tenant,
    };
    let found = api.backends().conflicts.conflicts(wanted).await?;
    let place = |entry: &Value| entry.get("cursor").and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(axum::Json(Page::of(found, limit, place)))
}

/// Shows one entry.
#[utoipa::path(get, path = "/api/v1/shards/{shard}/conflicts/{conflict}", tag = "shards",
    params(("shard" = String, Path), ("conflict" = String, Path)),
    responses((status = 200, description = "The entry", body = Object)))]
async fn show_conflict(
    State(api): State<Api>,
    caller: Caller,
    Names((shard, conflict)): Names<(String, String)>,
) -> Result<axum::Json<Value>, Problem> {
    find(&api, &caller, &named(&shard)?, &conflict).await.map(axum::Json)
}

/// Writes what lost back, as a new version, in an ordinary transaction of its tenant. Ask a node of the region that writes the shard.
#[utoipa::path(post, path = "/api/v1/shards/{shard}/conflicts/{conflict}/restore", tag = "shards",
    params(("shard" = String, Path), ("conflict" = String, Path)),
    responses((status = 200, description = "Where its record lies; `null` when the row is so already", body = Object)))]
async fn restore_conflict(
    State(api): State<Api>,
    caller: Caller,
    Names((shard, conflict)): Names<(String, String)>,
) -> Result<axum::Json<Value>, Problem> {
    let shard = named(&shard)?;
    find(&api, &caller, &shard, &conflict).await?;
    api.backends().conflicts.restore(&shard, &conflict).await.map(axum::Json)
}

/// An entry that the caller may see.
async fn find(api: &Api, caller: &Caller, shard: &ShardName, conflict: &str) -> Result<Value, Problem> {
    let entry = api.backends().conflicts.conflict(shard, conflict).await?;
    let theirs = |entry: &Value| {
        let tenant = entry.get("tenant").and_then(Value::as_str);
        caller.tenant.as_ref().is_none_or(|own| tenant == Some(own.as_str()))
    };
    entry
        .filter(theirs)
        .ok_or_else(|| Problem::not_found(format!("shard `{shard}` keeps no conflict `{conflict}`")))
}

fn named(shard: &str) -> Result<ShardName, Problem> {
    ShardName::new(shard).map_err(|error| Problem::invalid(error.to_string()))
}
