//! Taking cached responses back: `/cache/purge`.

use std::fmt;

use async_trait::async_trait;
use axum::extract::State;
use portolan_core::ids::TenantName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::routes;

use crate::api::Api;
use crate::caller::{Caller, Scope};
use crate::extract::Json;
use crate::problem::Problem;
use crate::routes::{Access, Routes};

/// What one order takes back at most.
const TARGETS_MAX: usize = 1_000;
/// Bytes of one name at most.
const NAME_BYTES_MAX: usize = 8_192;

/// Who has a cache. The binary implements it.
#[async_trait]
pub trait Purges: fmt::Debug + Send + Sync {
    /// Takes responses back. When it returns, none of them is given by this node any more.
    ///
    /// # Errors
    /// When the node has no cache, or cannot write the order down.
    async fn purge(&self, order: PurgeOrder) -> Result<Purged, Problem>;
}

/// What is taken back, within one tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PurgeOrder {
    /// All of the tenant.
    pub all: bool,
    /// Nothing of it is given any more; else it is stale, and asked about.
    pub hard: bool,
    /// Sites, and the folders below which paths lie.
    pub prefixes: Vec<(String, String)>,
    /// Hosts, with their ports if they have one.
    pub sites: Vec<String>,
    /// Tags that origins gave.
    pub tags: Vec<String>,
    /// Whose; responses of no tenant when absent.
    pub tenant: Option<TenantName>,
    /// Sites, and paths with their queries.
    pub urls: Vec<(String, String)>,
}

/// What is to be taken back.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PurgeRequest {
    /// All of the tenant.
    #[serde(default)]
    pub all: bool,
    /// Give nothing of it any more. Without this it is stale: asked about before it is given, and kept for an origin that fails, where that
    /// allows it.
    #[serde(default)]
    pub hard: bool,
    /// Folders, such as `shop.example/images/`: all below them.
    #[serde(default)]
    pub prefixes: Vec<String>,
    /// Hosts, with their ports if they have one.
    #[serde(default)]
    pub sites: Vec<String>,
    /// Tags that origins gave, in `Surrogate-Key` or `Cache-Tag`.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Whose; responses of no tenant when absent.
    #[serde(default)]
    pub tenant: Option<String>,
    /// URLs, such as `shop.example/a?b`: all variants of them.
    #[serde(default)]
    pub urls: Vec<String>,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Purged {
    /// The number of the purge on this node: what was asked for before is taken back.
    pub epoch: u64,
    /// How many names were taken back.
    pub targets: usize,
}

pub(crate) fn add(routes: Routes) -> Routes {
    routes.add(Access::Write(Scope::CachePurge), routes!(purge_cache))
}

/// Takes cached responses of a tenant back, by URL, folder, site or tag, or all of them. Each takes the same time, however much it is. When the
/// answer comes, the node that is asked gives none of them any more, nor one that was on its way.
#[utoipa::path(post, path = "/api/v1/cache/purge", tag = "cache", request_body = PurgeRequest,
    responses((status = 200, description = "They are taken back", body = Purged)))]
async fn purge_cache(
    State(api): State<Api>,
    caller: Caller,
    Json(asked): Json<PurgeRequest>,
) -> Result<axum::Json<Purged>, Problem> {
    let order = asked.order(&caller)?;
    api.backends().purges.purge(order).await.map(axum::Json)
}

impl PurgeRequest {
    fn order(self, caller: &Caller) -> Result<PurgeOrder, Problem> {
        let Self { all, hard, prefixes, sites, tags, tenant, urls } = self;
        let named = prefixes.len() + sites.len() + tags.len() + urls.len();
        if named > TARGETS_MAX {
            let told = format!(
                "{named} names are more than {TARGETS_MAX}: send several orders, or tag what belongs together"
            );
            return Err(Problem::invalid(told));
        }
        if named == 0 && !all {
            return Err(Problem::invalid(
                "nothing is named: give `urls`, `prefixes`, `sites` or `tags`, or say `all`",
            ));
        }
        let names = prefixes.iter().chain(&sites).chain(&tags).chain(&urls);
        if let Some(name) = names.clone().find(|name| name.is_empty() || name.len() > NAME_BYTES_MAX) {
            let told = format!("a name has {} bytes: 1 to {NAME_BYTES_MAX} are taken", name.len());
            return Err(Problem::invalid(told));
        }
        let tenant = tenant.as_deref().map(TenantName::new).transpose();
        let tenant =
            tenant.map_err(|error| Problem::invalid(error.to_string()).at("/tenant", error.to_string()))?;
        if caller.tenant.is_some() && tenant.is_some() && tenant != caller.tenant {
            return Err(
                Problem::invalid("the tenant is another than yours").at("/tenant", "name your own, or none")
            );
        }
        let mut folders = Vec::new();
        for prefix in &prefixes {
            if !prefix.ends_with('/') {
                let told = format!("`{prefix}` is no folder");
                return Err(Problem::invalid(told).at("/prefixes", "write it with a slash at its end"));
            }
            folders.push(place(prefix));
        }
        Ok(PurgeOrder {
            all,
            hard,
            prefixes: folders,
            sites,
            tags,
            tenant: caller.tenant.clone().or(tenant),
            urls: urls.iter().map(|url| place(url)).collect(),
        })
    }
}

/// Site and path of a URL, with or without its scheme.
fn place(url: &str) -> (String, String) {
    let bare = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).unwrap_or(url);
    let (site, path) = bare.find('/').and_then(|place| bare.split_at_checked(place)).unwrap_or((bare, "/"));
    (site.to_owned(), path.to_owned())
}
