//! Words by which one request is decided by a version that no slot runs: `/previews`, by slot. Whoever makes a tenant's policies
//! gets them for its own slot, the platform's people for each.

use axum::extract::State;
use portolan_core::ids::TenantName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::routes;

use crate::api::Api;
use crate::caller::{Caller, Scope};
use crate::defaults::{PREVIEW_TIME, PREVIEW_TIME_MAX};
use crate::extract::{Json, Names};
use crate::problem::{Code, Problem};
use crate::rollouts::{mine, tenant_of};
use crate::routes::{Access, Routes};

/// A version to look at.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PreviewRequest {
    /// How long the word holds, in seconds; ten minutes when absent.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 3_600)]
    expires_in_s: Option<u32>,
    /// In the operator's slot, only for requests of this tenant.
    #[serde(default)]
    #[schema(max_length = 63)]
    tenant: Option<String>,
    /// `PLUGIN@VERSION`, or `VERSION` of the plugin that the slot runs, with the SHA-256 or its first digits.
    #[schema(max_length = 200)]
    version: String,
}

/// A word, and what it is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Preview {
    /// Until when it holds, in milliseconds since 1970. It cannot be taken back; but a version that is removed decides nothing.
    pub expires_at_ms: u64,
    /// The header that requests bring it in.
    pub header: String,
    /// The plugin.
    pub plugin: String,
    /// The slot that it decides in.
    pub slot: String,
    /// The only tenant whose requests may bring it; those of all when absent.
    pub tenant: Option<String>,
    /// The version's whole SHA-256.
    pub version: String,
    /// The word.
    pub word: String,
}

/// What somebody wants to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreviewOrder {
    /// Until when, in milliseconds since 1970.
    pub expires_at_ms: u64,
    /// Where: `operator`, or `tenant.NAME`.
    pub slot: String,
    /// Only for requests of this tenant.
    pub tenant: Option<TenantName>,
    /// `PLUGIN@VERSION`, or `VERSION`.
    pub version: String,
}

pub(crate) fn add(routes: Routes) -> Routes {
    routes.add(Access::Write(Scope::PreviewWrite), routes!(make_preview))
}

/// Makes a word by which requests are decided by a version that no slot runs, after it was planned for the slot on the node that is
/// asked. Nothing of intent changes.
#[utoipa::path(post, path = "/api/v1/previews/{slot}", tag = "rollouts", request_body = PreviewRequest,
    params(("slot" = String, Path, description = "`operator`, or `tenant.NAME`", pattern = "^[!-.0-~]{1,200}$")),
    responses((status = 200, description = "The word", body = Preview)))]
async fn make_preview(
    State(api): State<Api>,
    caller: Caller,
    Names(slot): Names<String>,
    Json(asked): Json<PreviewRequest>,
) -> Result<axum::Json<Preview>, Problem> {
    mine(&caller, &slot)?;
    let PreviewRequest { expires_in_s, tenant, version } = asked;
    let time_s = expires_in_s.map_or(PREVIEW_TIME.as_secs(), u64::from);
    if !(1..=PREVIEW_TIME_MAX.as_secs()).contains(&time_s) {
        let detail = format!("a word holds for 1 to {} seconds", PREVIEW_TIME_MAX.as_secs());
        return Err(Problem::invalid(&*detail).at("/expires_in_s", detail.clone()));
    }
    if version.chars().count() > 200 {
        return Err(Problem::invalid("`version` has more than 200 characters"));
    }
    let of_slot = tenant_of(&slot);
    let tenant = tenant.as_deref().map(TenantName::new).transpose();
    let tenant =
        tenant.map_err(|error| Problem::invalid(error.to_string()).at("/tenant", error.to_string()))?;
    if let (Some(own), Some(other)) = (&of_slot, &tenant)
        && own != other
    {
        let detail = format!("the slot {slot} decides its own tenant's requests alone");
        return Err(Problem::new(Code::Conflict, &*detail).at("/tenant", detail.clone()));
    }
    let expires_at_ms = portolan_foundation::clock::unix_ms().saturating_add(time_s * 1_000);
    let tenant = of_slot.or(tenant);
    let order = PreviewOrder { expires_at_ms, slot, tenant, version };
    let made = api.backends().node.preview(order).await?;
    let data = serde_json::json!({
        "by": caller.author(), "expires_at_ms": made.expires_at_ms, "plugin": made.plugin, "slot": made.slot,
        "version": made.version,
    });
    // The word itself is told to nobody else.
    api.events().tell("preview", tenant_of(&made.slot), data);
    Ok(axum::Json(made))
}
