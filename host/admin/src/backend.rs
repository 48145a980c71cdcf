//! What handlers stand on: plain data, and traits that the binary implements over the real thing and tests in memory.
//!
//! Whoever adds a group of routes adds a trait of its own here or beside its handlers, and a field to [`Backends`].

use std::fmt::Debug;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use portolan_core::ids::TenantName;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use utoipa::ToSchema;

pub use crate::audits::{AuditOrder, Audits};
pub use crate::conflicts::{Conflicts, WantedConflicts};
pub use crate::failovers::{Failovers, SaidWord, Say, Word};
pub use crate::moves::{MoveOrder, Moves, Ordered};
use crate::plugins::Plugins;
pub use crate::previews::{Preview, PreviewOrder};
use crate::problem::Problem;
pub use crate::purges::{PurgeOrder, Purged, Purges};
pub use crate::rollouts::{
    Order, Rollout, RolloutCommand, RolloutDone, RolloutLimits, Rollouts, StartRollout, Which,
};

/// All that handlers stand on.
#[derive(Clone, Debug)]
pub struct Backends {
    /// Copies that are compared.
    pub audits: Arc<dyn Audits>,
    /// What lost and is kept.
    pub conflicts: Arc<dyn Conflicts>,
    /// What becomes of regions that fail.
    pub failovers: Arc<dyn Failovers>,
    /// What is intended.
    pub intent: Arc<dyn Intent>,
    /// Tenants that move between shards.
    pub moves: Arc<dyn Moves>,
    /// The node that is asked.
    pub node: Arc<dyn Node>,
    /// Versions of plugins.
    pub plugins: Arc<dyn Plugins>,
    /// Cached responses.
    pub purges: Arc<dyn Purges>,
    /// What is rolled out.
    pub rollouts: Arc<dyn Rollouts>,
}

/// What an object says.
pub type Body = Map<String, Value>;

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// Its kind, such as `region`.
    #[schema(pattern = "^[!-.0-~]{1,200}$")]
    pub kind: String,
    /// Its name within the kind.
    #[schema(pattern = "^[!-.0-~]{1,200}$")]
    pub name: String,
}

/// An object of intent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Object {
    /// Its kind, such as `region`.
    pub kind: String,
    /// Its name within the kind.
    pub name: String,
    /// What it says.
    #[schema(value_type = Object)]
    pub body: Body,
    /// `api`, or `file:` and the file that `portolan apply` read it from.
    pub managed_by: String,
    /// The generation that changed it last; its ETag.
    pub revision: u64,
}

/// Which objects to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectFilter {
    /// Only of this kind.
    pub kind: Option<String>,
    /// Only this one of the kind.
    pub name: Option<String>,
    /// Only managed by `api`, or by `file`.
    pub managed_by: Option<String>,
}

/// What is wanted of one object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Wish {
    /// Its kind.
    #[schema(pattern = "^[!-.0-~]{1,200}$")]
    pub kind: String,
    /// Its name.
    #[schema(pattern = "^[!-.0-~]{1,200}$")]
    pub name: String,
    /// What it is to say; absent for an object that is to be gone.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub body: Option<Body>,
    /// The revision that it must have; 0 when it must not be there; anything when absent.
    #[serde(default)]
    pub if_revision: Option<u64>,
    /// Takes it over from the file that manages it.
    #[serde(default)]
    pub take_over: bool,
}

/// A change that someone proposes, all of it or nothing.
#[derive(Clone, Debug)]
pub struct Proposal {
    /// Who, for the log.
    pub author: String,
    /// Only shows what would change.
    pub dry_run: bool,
    /// The generation that it must follow, when it matters.
    pub generation: Option<u64>,
    /// Why.
    pub message: String,
    /// By which way.
    pub source: &'static str,
    /// Whose caller proposes it: tenants' changes wait for each other, the platform's wait for none of them.
    pub tenant: Option<TenantName>,
    /// What.
    pub wishes: Vec<Wish>,
}

/// Files whose objects are to be as they say.
#[derive(Clone, Debug)]
pub struct Application {
    /// Who, for the log.
    pub author: String,
    /// Only shows what would change.
    pub dry_run: bool,
    /// The files.
    pub files: Vec<File>,
    /// Leaves objects alone whose files are gone.
    pub keep: bool,
    /// Why.
    pub message: String,
    /// Also takes over what the API manages.
    pub take_over: bool,
}

/// A file, as text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Its name, such as `conf.d/regions.toml`; objects remember it.
    #[schema(pattern = "^[!-~]{1,200}$")]
    pub name: String,
    /// What it says, in TOML.
    pub text: String,
}

/// Going back to a generation.
#[derive(Clone, Debug)]
pub struct Reversion {
    /// Who, for the log.
    pub author: String,
    /// Only shows what would change.
    pub dry_run: bool,
    /// Which.
    pub generation: u64,
    /// Why.
    pub message: String,
}

/// What became of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// It says another thing.
    Changed,
    /// It is new.
    Created,
    /// It is gone.
    Deleted,
    /// It says the same and is managed by another.
    TakenOver,
}

/// How an object differs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Difference {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// What became of it.
    pub is: Kind,
    /// Who manages it now; who did, when it is gone.
    pub managed_by: String,
    /// Who managed it before, when another did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub was_managed_by: Option<String>,
    /// What differs within it, part by part.
    pub parts: Vec<Part>,
}

/// How a part of an object differs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Part {
    /// Where, as a JSON pointer.
    pub pointer: String,
    /// What was there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub old: Option<Value>,
    /// What is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub new: Option<Value>,
}

/// What became of a proposal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Outcome {
    /// The newest generation: the one that was made, or the one that is as wished already.
    pub generation: u64,
    /// Was a generation made?
    pub changed: bool,
    /// Was it only shown?
    pub dry_run: bool,
    /// What differs.
    pub differences: Vec<Difference>,
    /// The command that takes it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<String>,
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Change {
    /// The generation that it made.
    pub generation: u64,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// By whom.
    pub author: String,
    /// By which way: `api`, `apply`, `push`, `revert`, `rollout`.
    pub source: String,
    /// Why.
    pub message: String,
    /// What.
    pub edits: Vec<Edit>,
    /// The SHA-256 of this entry.
    pub digest: String,
    /// The SHA-256 of the entry before it; zeros for the first.
    pub previous: String,
}

/// What became of one object in a change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Edit {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// What it says since; absent when it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub body: Option<Body>,
    /// Who manages it since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed_by: Option<String>,
}

/// How far the log was walked through, and what was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Verification {
    /// Does each entry name the digest of the one before it, without a gap?
    pub whole: bool,
    /// Entries that were looked at.
    pub entries: u64,
    /// The last good generation.
    pub generation: u64,
    /// The digest of its entry: write it down, and what came before it cannot be changed unnoticed.
    pub head: String,
    /// The first entry that does not follow, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken: Option<Broken>,
    /// More entries follow: go on from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// An entry of the log that does not follow from those before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Broken {
    /// Its number.
    pub generation: u64,
    /// What is wrong with it.
    pub reason: String,
}

/// What is intended: objects, and the log of their changes.
#[async_trait]
pub trait Intent: Debug + Send + Sync {
    /// The newest generation that is known here.
    ///
    /// # Errors
    /// [`Code::NoStore`](crate::Code::NoStore) without a control store; so do all others.
    fn generation(&self) -> Result<u64, Problem>;

    /// One object.
    ///
    /// # Errors
    /// As [`Intent::generation`].
    fn object(&self, key: &Key) -> Result<Option<Object>, Problem>;

    /// Objects after a key, by key.
    ///
    /// # Errors
    /// As [`Intent::generation`].
    fn objects(&self, filter: &ObjectFilter, after: Option<&Key>, max: usize)
    -> Result<Vec<Object>, Problem>;

    /// Makes a change, after it was checked by what a node would run.
    ///
    /// # Errors
    /// What stands against it.
    async fn propose(&self, proposal: Proposal) -> Result<Outcome, Problem>;

    /// Makes a change of files.
    ///
    /// # Errors
    /// What stands against it, with places in the files.
    async fn apply(&self, application: Application) -> Result<Outcome, Problem>;

    /// Makes a change that says what an earlier generation said.
    ///
    /// # Errors
    /// What stands against it.
    async fn revert(&self, reversion: Reversion) -> Result<Outcome, Problem>;

    /// Entries of the log after a generation, in order, at most so many.
    ///
    /// # Errors
    /// When the store is away.
    async fn changes(&self, after: u64, max: usize) -> Result<Vec<Change>, Problem>;

    /// Walks through the log, from the beginning or from an entry whose digest the caller knows.
    ///
    /// # Errors
    /// When the store is away.
    async fn verify(&self, from: Option<(u64, String)>) -> Result<Verification, Problem>;
}

/// A request to think through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// Such as `GET`.
    pub method: String,
    /// With authority, such as `http://acme.apps.example.com/orders`.
    pub url: String,
    /// Header fields: names and values.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// From where it comes.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub client: Option<IpAddr>,
    /// Assume this tenant.
    #[serde(default)]
    pub tenant: Option<String>,
    /// Assume that this region is nearest to the client.
    #[serde(default)]
    pub near: Option<String>,
}

/// What a tenant looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TenantSide {
    /// What its policy wrote, and where it failed.
    Log,
    /// What it may use.
    Quota,
    /// What was refused.
    Refusals,
}

/// The node that is asked.
#[async_trait]
pub trait Node: Debug + Send + Sync {
    /// How it stands.
    ///
    /// # Errors
    /// When no node runs here.
    fn status(&self) -> Result<Value, Problem>;

    /// What it counts, as Prometheus reads it.
    ///
    /// # Errors
    /// When no node runs here.
    fn metrics(&self) -> Result<String, Problem>;

    /// Does it take requests? While it drains it does not.
    fn is_ready(&self) -> bool;

    /// All nodes that follow the same control store.
    ///
    /// # Errors
    /// When no node runs here.
    fn nodes(&self) -> Result<Vec<Value>, Problem>;

    /// The shards that are intended, and how each stands in the node's region.
    ///
    /// # Errors
    /// When no node runs here.
    fn shards(&self) -> Result<Vec<Value>, Problem>;

    /// Where a tenant's rows are; none when no shard has them.
    ///
    /// # Errors
    /// When no node runs here.
    fn place(&self, tenant: &TenantName) -> Result<Option<Value>, Problem>;

    /// Thinks a request through.
    ///
    /// # Errors
    /// When no node runs here, or the request cannot be thought through.
    async fn explain(&self, question: Question) -> Result<Value, Problem>;

    /// One side of a tenant's policy; none where it has none.
    ///
    /// # Errors
    /// When no node runs here.
    fn tenant(&self, tenant: &TenantName, side: TenantSide) -> Result<Option<Value>, Problem>;

    /// What everybody used since then, by tenant, or by hour and tenant: a row each.
    ///
    /// # Errors
    /// When no node runs here, or its folder does not read.
    async fn usage(&self, since_ms: u64, by_hour: bool) -> Result<Vec<Value>, Problem>;

    /// The newest decisions that are kept, the newest first.
    ///
    /// # Errors
    /// When no node runs here, or the filter means nothing.
    async fn decisions(&self, wanted: DecisionFilter) -> Result<Vec<Value>, Problem> {
        _ = wanted;
        Err(nothing_kept())
    }

    /// A decision that is kept, as this tenant may see it, or the platform's people.
    ///
    /// # Errors
    /// When there is none of that id.
    async fn decision(&self, id: String, tenant: Option<TenantName>) -> Result<Value, Problem> {
        _ = (id, tenant);
        Err(nothing_kept())
    }

    /// A word by which requests are decided by a version that no slot runs; the version is planned before.
    ///
    /// # Errors
    /// When no node runs here, there is no such version, or it is refused in the slot.
    async fn preview(&self, order: PreviewOrder) -> Result<Preview, Problem> {
        _ = order;
        Err(Problem::new(crate::Code::NotFound, "no node runs here: start one, and ask it"))
    }

    /// What is kept of decisions.
    ///
    /// # Errors
    /// When no node runs here.
    fn recordings(&self) -> Result<Value, Problem> {
        Err(nothing_kept())
    }

    /// Begins to listen to requests.
    ///
    /// # Errors
    /// When no node runs here, or too many listen.
    fn tail(&self, filter: TailFilter) -> Result<Tail, Problem>;
}

fn nothing_kept() -> Problem {
    Problem::new(
        crate::Code::NotFound,
        "no node runs here: start one, and ask it, or read its recordings with `portolan recordings`",
    )
}

/// Which decisions to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DecisionFilter {
    /// Only those before the one of this id.
    pub before: Option<String>,
    /// Who asks, when it is a tenant: it is told of its own only.
    pub caller: Option<TenantName>,
    /// How many at most.
    pub max: usize,
    /// Only those in which this policy had a part.
    pub policy: Option<String>,
    /// Only with this status, or of its hundred.
    pub status: Option<u16>,
    /// Only this tenant's.
    pub tenant: Option<String>,
}

/// Which requests to hear of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TailFilter {
    /// Only of this tenant.
    pub tenant: Option<String>,
    /// Only with this status, or of this class: `404`, `5xx`.
    pub status: Option<String>,
    /// Only with this method.
    pub method: Option<String>,
    /// Only decided by this policy.
    pub policy: Option<String>,
    /// Only with paths that begin so.
    pub path: Option<String>,
    /// Of a thousand requests that fit, so many.
    pub permille: u32,
}

/// Requests as they end.
#[derive(Debug)]
pub struct Tail {
    /// One line each, as in the access log.
    pub lines: mpsc::Receiver<Value>,
    /// Whoever drops it listens no more.
    pub place: Box<dyn std::any::Any + Send>,
    /// What was not told, until now.
    pub untold: Arc<dyn Untold>,
}

/// Counts of what a listener was not told.
pub trait Untold: Debug + Send + Sync {
    /// Requests that fitted and were left out by the sampling rate.
    fn sampled(&self) -> u64;
    /// Requests that fitted and found no place in the queue.
    fn dropped(&self) -> u64;
}
