//! What a node tells of itself: plain data, written by the reconciler and the admin listener, read by `portolan status`.

use super::break_glass::BreakGlass;
use super::contents::Content;
use super::geography::TableStatus;
use super::intent::Control;
use super::rollouts::RolloutStatus;
use super::tenancy::Standing;
use portolan_control::NodeReport;
use portolan_policy::{PlacementReport, SlotReport, Stats, ThreadShare};
use portolan_sharding::ShardReport;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What the reconciler knows after each pass.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Reconciled {
    /// How long after the change of the control store that runs was written it took effect here, in milliseconds. Of
    /// another machine's clock, so good to its skew; none where no change came since the start.
    pub(crate) applied_after_ms: Option<u64>,
    /// What is held or taken away by hand.
    pub(crate) break_glass: BreakGlass,
    /// The files that the running configuration came from.
    pub(crate) files: Vec<String>,
    /// The table of where addresses are on earth; none where none was read.
    pub(crate) geography: Option<TableStatus>,
    /// When the running configuration took effect, in milliseconds since 1970-01-01T00:00:00Z.
    pub(crate) loaded_at_ms: u64,
    /// What is wrong with what is on disk now, one line each; then an earlier configuration runs.
    pub(crate) problems: Vec<String>,
    /// The generation of the control store that runs; 0 without one.
    pub(crate) running: u64,
    /// Settings that changed on disk and take effect at the next start.
    pub(crate) restart_needed: Vec<&'static str>,
    /// The slots of policies.
    pub(crate) slots: Vec<SlotReport>,
    /// What the node fetches before it says that it is ready; nothing once it was.
    pub(crate) waits_for: Option<String>,
}

/// Everything, as the admin API's `/status` tells it.
#[derive(Debug, Serialize)]
pub(crate) struct Status<'s> {
    pub(crate) version: &'static str,
    pub(crate) pid: u32,
    pub(crate) region: String,
    pub(crate) generation: u64,
    pub(crate) uptime_s: u64,
    /// Where the admin API listens on TCP.
    pub(crate) admin: Option<String>,
    pub(crate) draining: bool,
    pub(crate) listeners: Vec<String>,
    pub(crate) connections: usize,
    pub(crate) task_panics: u64,
    pub(crate) configuration: &'s Reconciled,
    /// How it stands with the control store; none when files say what is intended.
    pub(crate) control: Option<Control>,
    /// All nodes that follow the same control store.
    pub(crate) nodes: Vec<NodeReport>,
    /// What is on trial in this node's slots.
    pub(crate) rollouts: Vec<RolloutStatus>,
    pub(crate) engine: Stats,
    /// How much of each data thread guests take.
    pub(crate) thread_shares: Vec<ThreadShare>,
    /// How tenants stand with their budgets, now: those that were demoted, and those that used most.
    pub(crate) tenants: Vec<Standing>,
    /// What is kept of decisions.
    pub(crate) recordings: portolan_recorder::Stats,
    /// The policy that places tenants; none where none was ever named.
    pub(crate) placement: Option<PlacementReport>,
    /// The shards that this region keeps.
    pub(crate) shards: Vec<ShardReport>,
    /// How tenants' content stands here; none where the configuration has none.
    pub(crate) content: Option<Content>,
    pub(crate) regions: Vec<RegionStatus>,
    pub(crate) certificates: Vec<Value>,
    /// How names are told; none where none are managed.
    pub(crate) dns: Option<Value>,
    /// Whose this gateway is for other regions, and how long they believe it.
    pub(crate) identity: Option<Value>,
}

/// One region as this node sees it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RegionStatus {
    pub(crate) name: String,
    pub(crate) local: bool,
    pub(crate) verdict: String,
    pub(crate) latency_us: Option<u32>,
    /// How much of the traffic that is meant for it goes there now, in percent: less while it ramps up or its traffic is moved.
    pub(crate) share_percent: u32,
    /// Where the moved part goes.
    pub(crate) moved_to: Option<String>,
    /// Pools whose requests are not forwarded there, because that failed.
    pub(crate) broken: Vec<String>,
    pub(crate) pools: Vec<PoolStatus>,
}

/// One pool.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PoolStatus {
    pub(crate) name: String,
    pub(crate) endpoints: Vec<EndpointStatus>,
}

/// One endpoint.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct EndpointStatus {
    pub(crate) address: String,
    pub(crate) up: bool,
    pub(crate) broken: bool,
    pub(crate) in_flight: u32,
}
