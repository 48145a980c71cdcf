//! Rollouts: `/rollouts`, by slot. What a command makes of a slot is said by [`portolan_core::rollout`]; here is who may ask for it.

use std::fmt::Debug;

use async_trait::async_trait;
use axum::extract::{FromRequestParts, State};
use axum::response::{IntoResponse as _, Response};
use http::header::IF_MATCH;
use http::request::Parts;
use portolan_core::ids::TenantName;
use portolan_core::lane::Affinity;
use portolan_core::rollout::Limits;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;

use crate::api::Api;
use crate::caller::{Caller, Scope};
use crate::extract::{Json, Names, Parameters};
use crate::objects::message;
use crate::page::{self, Page, Paging};
use crate::problem::{Code, Problem};
use crate::revision::{self, Seen, seen};
use crate::routes::{Access, Routes};

/// How a slot stands.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Rollout {
    /// `operator`, or `tenant.NAME`.
    pub slot: String,
    /// The generation that changed it last; its ETag.
    pub revision: u64,
    /// What runs, what is on trial, what is known of it, and what was done.
    #[schema(value_type = Object)]
    pub stands: Map<String, Value>,
}

/// What a command did.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RolloutDone {
    /// The version on trial, while one is.
    pub candidate: Option<String>,
    /// Was it only shown?
    pub dry_run: bool,
    /// The generation that it made.
    pub generation: u64,
    /// The rollout's id.
    pub id: String,
    /// What is worth knowing besides.
    pub notes: Vec<String>,
    /// The candidate's part as a canary; 0 for a shadow.
    pub percent: u32,
    /// `shadow`, `canary`, `paused`, `promoted` or `aborted`.
    pub phase: String,
    /// May nothing else be rolled out?
    pub pinned: bool,
    /// Of which plugin the versions are.
    pub plugin: String,
    /// The slot.
    pub slot: String,
    /// The version that runs for all; none for the plugin's own file.
    pub stable: Option<String>,
    /// The commands that take it back, in order.
    pub undo: Vec<String>,
}

/// Someone's command.
#[derive(Clone, Debug)]
pub struct Order {
    /// Who, for the log.
    pub author: String,
    /// What.
    pub command: RolloutCommand,
    /// Only shows what would change.
    pub dry_run: bool,
    /// The revision that the slot's object must have; 0 when it must not be there.
    pub if_revision: Option<u64>,
    /// Why.
    pub message: String,
    /// Where.
    pub slot: String,
}

/// What can be asked of a slot.
#[derive(Clone, Debug)]
pub enum RolloutCommand {
    /// Drops the candidate.
    Abort,
    /// Takes the candidate off all requests.
    Pause,
    /// Runs a version for all, and refuses others.
    Pin(Which),
    /// Gives the candidate another part.
    Promote {
        /// All requests.
        full: bool,
        /// So many of a hundred.
        percent: Option<u32>,
    },
    /// Lets the candidate have its part again.
    Resume,
    /// Runs what ran before, or a version.
    Rollback(Option<Which>),
    /// Puts a candidate beside what runs.
    Start(StartRollout),
    /// Lets others be rolled out again.
    Unpin,
}

/// A version, and its configuration.
#[derive(Clone, Debug)]
pub struct Which {
    /// `PLUGIN@VERSION`, `VERSION`, or `file`.
    pub version: String,
    /// A configuration of its own.
    pub config: Option<Map<String, Value>>,
}

/// A new rollout.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StartRollout {
    /// `PLUGIN@VERSION`, with the SHA-256 or its first digits.
    #[schema(max_length = 200)]
    pub version: String,
    /// What keeps to one side: tenants in the operator's slot, clients in a tenant's when absent.
    #[serde(default)]
    #[schema(value_type = Option<String>, pattern = "^(client|region|tenant)$")]
    pub affinity: Option<Affinity>,
    /// A configuration of its own; the slot's when absent.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub config: Option<Map<String, Value>>,
    /// When it has to go.
    #[serde(default)]
    pub limits: RolloutLimits,
    /// Why.
    #[serde(default)]
    #[schema(max_length = 1024)]
    pub message: String,
    /// The candidate's part as a canary; 0 for a shadow.
    #[serde(default)]
    #[schema(maximum = 99)]
    pub percent: u32,
}

/// What a candidate may do wrong; absent ones are the usual.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RolloutLimits {
    /// Of a thousand comparable answers, how many may differ; all when absent.
    #[schema(maximum = 1_000)]
    pub divergence_permille: Option<u32>,
    /// Before so many decisions there is no verdict.
    #[schema(maximum = 1_000_000_000)]
    pub min_decisions: Option<u32>,
    /// Of a thousand decisions, how many may run past their fuel or deadline.
    #[schema(maximum = 1_000)]
    pub overruns_permille: Option<u32>,
    /// Within how many microseconds 99 of 100 decisions have to come; any time when absent.
    #[schema(maximum = 1_000_000_000)]
    pub p99_us: Option<u32>,
    /// Of a thousand decisions, how many may fail otherwise.
    #[schema(maximum = 1_000)]
    pub traps_permille: Option<u32>,
}

impl From<RolloutLimits> for Limits {
    fn from(limits: RolloutLimits) -> Self {
        let usual = Self::default();
        Self {
            divergence_permille: limits.divergence_permille.or(usual.divergence_permille),
            min_decisions: limits.min_decisions.map_or(usual.min_decisions, u64::from),
            overruns_permille: limits.overruns_permille.unwrap_or(usual.overruns_permille),
            p99_us: limits.p99_us.map(u64::from).or(usual.p99_us),
            traps_permille: limits.traps_permille.unwrap_or(usual.traps_permille),
        }
    }
}

/// Another part for the candidate.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PromoteRequest {
    /// All requests, from wherever it stands.
    #[serde(default)]
    full: bool,
    /// Why.
    #[serde(default)]
    #[schema(max_length = 1024)]
    message: String,
    /// So many of a hundred requests; the next step when absent.
    #[serde(default)]
    #[schema(maximum = 99)]
    percent: Option<u32>,
}

/// A version that is to run for all.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PinRequest {
    /// A configuration of its own; the slot's when absent.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    config: Option<Map<String, Value>>,
    /// Why.
    #[serde(default)]
    #[schema(max_length = 1024)]
    message: String,
    /// `PLUGIN@VERSION`, `VERSION`, or `file`.
    #[schema(max_length = 200)]
    version: String,
}

/// Where to go back to.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RollbackRequest {
    /// A configuration of its own; the slot's when absent.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    config: Option<Map<String, Value>>,
    /// Why.
    #[serde(default)]
    #[schema(max_length = 1024)]
    message: String,
    /// `PLUGIN@VERSION`, `VERSION`, or `file`; what ran before when absent.
    #[serde(default)]
    #[schema(max_length = 200)]
    to: Option<String>,
}

/// Why.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Because {
    /// Why.
    #[serde(default)]
    #[schema(max_length = 1024)]
    message: String,
}

/// How a command is meant.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Meant {
    /// Check everything and show what would change; change nothing.
    #[serde(default)]
    dry_run: bool,
}

/// What the binary does about rollouts.
#[async_trait]
pub trait Rollouts: Debug + Send + Sync {
    /// How slots stand, by their names; all that have rollouts, or one.
    ///
    /// # Errors
    /// [`Code::NoStore`] without a control store, or when it is away.
    async fn rollouts(&self, slot: Option<&str>) -> Result<Vec<Rollout>, Problem>;

    /// Carries out a command.
    ///
    /// # Errors
    /// What stands against it.
    async fn order(&self, order: Order) -> Result<RolloutDone, Problem>;
}

pub(crate) fn add(routes: Routes) -> Routes {
    routes
        .add(Access::Read(Scope::RolloutRead), routes!(list_rollouts))
        .add(Access::Read(Scope::RolloutRead), routes!(get_rollout))
        .add(Access::Write(Scope::RolloutWrite), routes!(start_rollout))
        .add(Access::Write(Scope::RolloutWrite), routes!(promote_rollout))
        .add(Access::Write(Scope::RolloutWrite), routes!(pause_rollout))
        .add(Access::Write(Scope::RolloutWrite), routes!(resume_rollout))
        .add(Access::Write(Scope::RolloutWrite), routes!(abort_rollout))
        .add(Access::Write(Scope::RolloutWrite), routes!(rollback_rollout))
        .add(Access::Write(Scope::RolloutWrite), routes!(pin_rollout))
        .add(Access::Write(Scope::RolloutWrite), routes!(unpin_rollout))
}

/// Lists slots with rollouts, and how they stand.
#[utoipa::path(get, path = "/api/v1/rollouts", tag = "rollouts", params(Paging),
    responses((status = 200, description = "Slots", body = Page<Rollout>)))]
async fn list_rollouts(
    State(api): State<Api>,
    caller: Caller,
    Parameters(paging): Parameters<Paging>,
) -> Result<axum::Json<Page<Rollout>>, Problem> {
    let limit = page::limit(paging.limit)?;
    let after = page::place(paging.cursor.as_deref())?;
    // A tenant's caller knows its own slot alone.
    let own = caller.tenant.as_ref().map(|tenant| format!("tenant.{tenant}"));
    let mut items = api.backends().rollouts.rollouts(own.as_deref()).await?;
    items.retain(|item| after.as_deref().is_none_or(|after| item.slot.as_str() > after));
    items.truncate(limit + 1);
    Ok(axum::Json(Page::of(items, limit, |item| item.slot.clone())))
}

/// Shows a slot: what runs, what is on trial, what all nodes counted, and the verdict on it.
#[utoipa::path(get, path = "/api/v1/rollouts/{slot}", tag = "rollouts",
    params(("slot" = String, Path, description = "`operator`, or `tenant.NAME`", pattern = "^[!-.0-~]{1,200}$")),
    responses((status = 200, description = "The slot", body = Rollout,
        headers(("ETag" = String, description = "Its revision")))))]
async fn get_rollout(
    State(api): State<Api>,
    caller: Caller,
    Names(slot): Names<String>,
) -> Result<Response, Problem> {
    mine(&caller, &slot)?;
    let found = api.backends().rollouts.rollouts(Some(&slot)).await?;
    let found = found.into_iter().next().ok_or_else(|| Problem::not_found(format!("rollout in {slot}")))?;
    Ok((revision::header(found.revision), axum::Json(found)).into_response())
}

/// Puts a version beside the one that runs: as a shadow, which is asked and never heard, or as a canary.
#[utoipa::path(post, path = "/api/v1/rollouts/{slot}", tag = "rollouts", request_body = StartRollout,
    params(Meant, ("slot" = String, Path, description = "`operator`, or `tenant.NAME`", pattern = "^[!-.0-~]{1,200}$"),
        ("If-Match" = Option<String>, Header, description = "The ETag of the slot, if it matters")),
    responses((status = 200, description = "What it did", body = RolloutDone)))]
async fn start_rollout(
    asking: Asking,
    Json(start): Json<StartRollout>,
) -> Result<axum::Json<RolloutDone>, Problem> {
    let why = start.message.clone();
    asking.carry_out(&why, RolloutCommand::Start(start)).await
}

/// Gives the version on trial another part: the next one, so many of a hundred requests, or all.
#[utoipa::path(post, path = "/api/v1/rollouts/{slot}/promote", tag = "rollouts", request_body = PromoteRequest,
    params(Meant, ("slot" = String, Path, description = "`operator`, or `tenant.NAME`", pattern = "^[!-.0-~]{1,200}$"),
        ("If-Match" = Option<String>, Header, description = "The ETag of the slot, if it matters")),
    responses((status = 200, description = "What it did", body = RolloutDone)))]
async fn promote_rollout(
    asking: Asking,
    Json(PromoteRequest { full, message: why, percent }): Json<PromoteRequest>,
) -> Result<axum::Json<RolloutDone>, Problem> {
    if full && percent.is_some() {
        let detail = "say `full` or `percent`, not both";
        return Err(Problem::new(Code::Conflict, detail).at("/percent", detail));
    }
    asking.carry_out(&why, RolloutCommand::Promote { full, percent }).await
}

/// Takes the version on trial off all requests, and keeps it ready.
#[utoipa::path(post, path = "/api/v1/rollouts/{slot}/pause", tag = "rollouts", request_body = Because,
    params(Meant, ("slot" = String, Path, description = "`operator`, or `tenant.NAME`", pattern = "^[!-.0-~]{1,200}$"),
        ("If-Match" = Option<String>, Header, description = "The ETag of the slot, if it matters")),
    responses((status = 200, description = "What it did", body = RolloutDone)))]
async fn pause_rollout(asking: Asking, Json(why): Json<Because>) -> Result<axum::Json<RolloutDone>, Problem> {
    asking.carry_out(&why.message, RolloutCommand::Pause).await
}

/// Lets the version on trial have its part again.
#[utoipa::path(post, path = "/api/v1/rollouts/{slot}/resume", tag = "rollouts", request_body = Because,
    params(Meant, ("slot" = String, Path, description = "`operator`, or `tenant.NAME`", pattern = "^[!-.0-~]{1,200}$"),
        ("If-Match" = Option<String>, Header, description = "The ETag of the slot, if it matters")),
    responses((status = 200, description = "What it did", body = RolloutDone)))]
async fn resume_rollout(
    asking: Asking,
    Json(why): Json<Because>,
) -> Result<axum::Json<RolloutDone>, Problem> {
    asking.carry_out(&why.message, RolloutCommand::Resume).await
}

/// Drops the version on trial.
#[utoipa::path(post, path = "/api/v1/rollouts/{slot}/abort", tag = "rollouts", request_body = Because,
    params(Meant, ("slot" = String, Path, description = "`operator`, or `tenant.NAME`", pattern = "^[!-.0-~]{1,200}$"),
        ("If-Match" = Option<String>, Header, description = "The ETag of the slot, if it matters")),
    responses((status = 200, description = "What it did", body = RolloutDone)))]
async fn abort_rollout(asking: Asking, Json(why): Json<Because>) -> Result<axum::Json<RolloutDone>, Problem> {
    asking.carry_out(&why.message, RolloutCommand::Abort).await
}

/// Runs what ran before, at once and on every node; this is a rollout of its own.
#[utoipa::path(post, path = "/api/v1/rollouts/{slot}/rollback", tag = "rollouts", request_body = RollbackRequest,
    params(Meant, ("slot" = String, Path, description = "`operator`, or `tenant.NAME`", pattern = "^[!-.0-~]{1,200}$"),
        ("If-Match" = Option<String>, Header, description = "The ETag of the slot, if it matters")),
    responses((status = 200, description = "What it did", body = RolloutDone)))]
async fn rollback_rollout(
    asking: Asking,
    Json(RollbackRequest { config, message: why, to }): Json<RollbackRequest>,
) -> Result<axum::Json<RolloutDone>, Problem> {
    if config.is_some() && to.is_none() {
        let detail = "a configuration goes with a version: say `to`";
        return Err(Problem::new(Code::Conflict, detail).at("/to", detail));
    }
    let to = to.map(|version| Which { version, config });
    asking.carry_out(&why, RolloutCommand::Rollback(to)).await
}

/// Runs a version at once and on every node, and refuses rollouts until it is unpinned.
#[utoipa::path(post, path = "/api/v1/rollouts/{slot}/pin", tag = "rollouts", request_body = PinRequest,
    params(Meant, ("slot" = String, Path, description = "`operator`, or `tenant.NAME`", pattern = "^[!-.0-~]{1,200}$"),
        ("If-Match" = Option<String>, Header, description = "The ETag of the slot, if it matters")),
    responses((status = 200, description = "What it did", body = RolloutDone)))]
async fn pin_rollout(
    asking: Asking,
    Json(PinRequest { config, message: why, version }): Json<PinRequest>,
) -> Result<axum::Json<RolloutDone>, Problem> {
    let command = RolloutCommand::Pin(Which { version, config });
    asking.carry_out(&why, command).await
}

/// Allows rollouts again.
#[utoipa::path(post, path = "/api/v1/rollouts/{slot}/unpin", tag = "rollouts", request_body = Because,
    params(Meant, ("slot" = String, Path, description = "`operator`, or `tenant.NAME`", pattern = "^[!-.0-~]{1,200}$"),
        ("If-Match" = Option<String>, Header, description = "The ETag of the slot, if it matters")),
    responses((status = 200, description = "What it did", body = RolloutDone)))]
async fn unpin_rollout(asking: Asking, Json(why): Json<Because>) -> Result<axum::Json<RolloutDone>, Problem> {
    asking.carry_out(&why.message, RolloutCommand::Unpin).await
}

/// Who asks for something in a slot, and what it says of how it is meant. What is asked for is in the content.
struct Asking {
    api: Api,
    caller: Caller,
    if_revision: Option<u64>,
    meant: Meant,
    slot: String,
}

impl FromRequestParts<Api> for Asking {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let caller = <Caller as FromRequestParts<Api>>::from_request_parts(parts, api).await?;
        let Names(slot) = Names::<String>::from_request_parts(parts, api).await?;
        let Parameters(meant) = Parameters::<Meant>::from_request_parts(parts, api).await?;
        mine(&caller, &slot)?;
        // In an emergency nobody has to look first; whoever has looked may say so.
        let if_revision = match parts.headers.get(IF_MATCH) {
            None => None,
            Some(_) => match seen(&parts.headers)? {
                Seen::Revision(revision) => Some(revision),
                Seen::Any => None,
                Seen::Nothing => Some(0),
            },
        };
        Ok(Self { api: api.clone(), caller, if_revision, meant, slot })
    }
}

impl Asking {
    /// Carries a command out. Each node tells of it when the store has it, whoever asked for it.
    async fn carry_out(self, why: &str, command: RolloutCommand) -> Result<axum::Json<RolloutDone>, Problem> {
        let order = Order {
            author: self.caller.author(),
            command,
            dry_run: self.meant.dry_run,
            if_revision: self.if_revision,
            message: message(why)?,
            slot: self.slot,
        };
        Ok(axum::Json(self.api.backends().rollouts.order(order).await?))
    }
}

/// A tenant's caller knows its own slot alone.
pub(crate) fn mine(caller: &Caller, slot: &str) -> Result<(), Problem> {
    let tenant = tenant_of(slot);
    let is_slot = slot == "operator" || tenant.is_some();
    if is_slot && caller.sees(tenant.as_ref()) {
        Ok(())
    } else {
        let detail = format!("`{slot}` is no slot that you may see: it is `operator`, or `tenant.NAME`");
        Err(Problem::new(Code::NotFound, detail))
    }
}

pub(crate) fn tenant_of(slot: &str) -> Option<TenantName> {
    TenantName::new(slot.strip_prefix("tenant.")?).ok()
}
