//! What becomes of regions that fail: `/failover`. Everything that is said here holds for a while, and is an entry of the log.

use std::fmt;

use async_trait::async_trait;
use axum::extract::State;
use portolan_core::ids::{RegionName, ShardName};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;

use crate::api::Api;
use crate::caller::{Caller, Scope};
use crate::extract::{Json, Parameters};
use crate::problem::Problem;
use crate::routes::{Access, Routes};

/// Who knows how regions stand, and is told what operators want. The binary implements it.
#[async_trait]
pub trait Failovers: fmt::Debug + Send + Sync {
    /// How it stands.
    ///
    /// # Errors
    /// When no node runs here, or people decide alone.
    fn status(&self) -> Result<Value, Problem>;

    /// What would happen if a region died now; of each when none is named.
    ///
    /// # Errors
    /// As [`Self::status`].
    fn forecast(&self, region: Option<RegionName>) -> Result<Value, Problem>;

    /// Takes an operator's word. Gives what holds from now on.
    ///
    /// # Errors
    /// As [`Self::status`], and when it is refused.
    async fn say(&self, word: SaidWord) -> Result<Value, Problem>;
}

/// What an operator can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Say {
    /// Some rules do not bar for a while.
    BreakGlass,
    /// Shards leave a region in an orderly way, and it takes none.
    Drain,
    /// A shard is written elsewhere, also where its region is gone.
    Force,
    /// Nothing is changed automatically.
    Freeze,
    /// A region is gone for good, or will not write again.
    Lost,
    /// Somebody works at a region: whatever is seen of it, nothing follows.
    Maintenance,
    /// A shard goes back to where it is written when all is well.
    Return,
    /// A shard is written elsewhere, in an orderly way and without loss.
    Switch,
    /// What was said of a region, or of all, holds no longer.
    Thaw,
}

/// An operator's word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Word {
    /// What is said.
    pub say: Say,
    /// Rows that may be lost, where that is more than the shard's limit.
    #[serde(default)]
    pub accept_loss_rows: Option<u64>,
    /// The region that it is about, or where shards go to.
    #[serde(default)]
    pub region: Option<String>,
    /// Rules that do not bar, by name.
    #[serde(default)]
    #[schema(max_items = 13)]
    pub rules: Vec<String>,
    /// How long it holds, in seconds.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 604_800)]
    pub seconds: Option<u64>,
    /// The shards that it is about; all that it can be about when there are none.
    #[serde(default)]
    #[schema(max_items = 10_000)]
    pub shards: Vec<String>,
    /// The region's name once more, where it is declared lost.
    #[serde(default)]
    pub typed: Option<String>,
    /// Why, for whoever reads the log.
    #[serde(default)]
    #[schema(max_length = 1024)]
    pub why: String,
}

/// A word that was read, and who says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SaidWord {
    /// Who.
    pub author: String,
    /// The region.
    pub region: Option<RegionName>,
    /// The shards.
    pub shards: Vec<ShardName>,
    /// As it was said.
    pub word: Word,
}

/// Of which region.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Of {
    /// The region that dies; each of them when absent.
    region: Option<String>,
}

pub(crate) fn add(routes: Routes) -> Routes {
    routes
        .add(Access::Read(Scope::StatusRead), routes!(show_failover))
        .add(Access::Read(Scope::StatusRead), routes!(show_forecast))
        .add(Access::Write(Scope::FailoverWrite), routes!(say_of_failover))
}

/// Shows what is believed of regions, who writes which shard, and what is under way.
#[utoipa::path(get, path = "/api/v1/failover", tag = "failover",
    responses((status = 200, description = "How it stands, as the node that is asked knows it", body = Object)))]
async fn show_failover(State(api): State<Api>) -> Result<axum::Json<Value>, Problem> {
    api.backends().failovers.status().map(axum::Json)
}

/// Says what would happen if a region died now: who would be promoted, what would be lost, how long it would take, what would stand in the way.
#[utoipa::path(get, path = "/api/v1/failover/forecast", tag = "failover", params(Of),
    responses((status = 200, description = "A forecast for each region", body = Object)))]
async fn show_forecast(
    State(api): State<Api>,
    Parameters(of): Parameters<Of>,
) -> Result<axum::Json<Value>, Problem> {
    let region = of.region.as_deref().map(region).transpose()?;
    api.backends().failovers.forecast(region).map(axum::Json)
}

/// Takes an operator's word: a move, a freeze, a drain. It holds in all regions, and ends by itself.
#[utoipa::path(post, path = "/api/v1/failover", tag = "failover", request_body = Word,
    responses((status = 200, description = "What holds from now on", body = Object)))]
async fn say_of_failover(
    State(api): State<Api>,
    caller: Caller,
    Json(word): Json<Word>,
) -> Result<axum::Json<Value>, Problem> {
    let shards = word.shards.iter().map(|name| {
        ShardName::new(name)
            .map_err(|error| Problem::invalid(error.to_string()).at("/shards", error.to_string()))
    });
    let shards = shards.collect::<Result<_, _>>()?;
    let region = word.region.as_deref().map(region).transpose()?;
    let said = SaidWord { author: caller.name.clone(), region, shards, word };
    api.backends().failovers.say(said).await.map(axum::Json)
}

fn region(name: &str) -> Result<RegionName, Problem> {
    RegionName::new(name)
        .map_err(|error| Problem::invalid(error.to_string()).at("/region", error.to_string()))
}
