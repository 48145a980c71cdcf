//! What a region is to keep, and what requests to it may take.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::time::Duration;

use portolan_changelog::Engine;
use portolan_core::ids::{RegionName, ShardName};
use portolan_core::log::Epoch;
use portolan_core::loss::LossLimit;
use portolan_core::tenant_table::Tables;
use portolan_core::topology::BreakerLimits;

use crate::defaults;

/// The shards of this region, and what is in them.
#[derive(Clone, Debug, PartialEq)]
pub struct Intent {
    /// This region.
    pub region: RegionName,
    /// Those that it keeps.
    pub shards: BTreeMap<ShardName, Kept>,
    /// The tenants' tables, as every shard has them.
    pub tables: Tables,
}

/// A shard of this region.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// Where it is.
    pub engine: Engine,
    /// The lease under which it is written.
    pub epoch: Epoch,
    /// How much of it may be lost with the region that writes it; no matter how much when absent.
    pub loss: Option<LossLimit>,
    /// How full its place may be.
    pub marks: Watermarks,
    /// The other regions that keep it.
    pub others: BTreeSet<RegionName>,
    /// The epoch begins with the rows that are there, whatever is missing among them.
    pub partial: bool,
    /// The region that writes it.
    pub primary: RegionName,
}

/// When a shard is too full to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// From here on writes are refused, in percent of what may be used.
    pub high_percent: u8,
    /// From here down they are taken again.
    pub low_percent: u8,
    /// What the database may take. Without it, a file may take its disk, and a database of PostgreSQL is not looked at: its disk
    /// is on another machine.
    pub max_bytes: Option<NonZeroU64>,
}

/// What requests for tenants' rows may take of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Writes at one shard that wait for other regions, or are about to.
    pub awaiting: usize,
    /// When a shard counts as failing.
    pub breaker: BreakerLimits,
    /// Bytes of contents and answers in memory, of all requests.
    pub node_bytes: usize,
    /// Of those at one shard.
    pub shard_bytes: usize,
    /// How long one statement may take.
    pub statement: Duration,
    /// Of the writes that wait for other regions, those of one tenant.
    pub tenant_awaiting: usize,
    /// Of the bytes at one shard, those of one tenant.
    pub tenant_bytes: usize,
    /// Requests of one tenant that wait for the database or are in it.
    pub tenant_turns: usize,
    /// Requests of one tenant in the database.
    pub tenant_work: usize,
    /// How long all statements of a request may take.
    pub transaction: Duration,
    /// How long a request waits for its turn.
    pub turn: Duration,
    /// Requests in one shard's database.
    pub turns: usize,
}

impl Default for Watermarks {
    fn default() -> Self {
        Self {
            high_percent: defaults::DISK_HIGH_PERCENT,
            low_percent: defaults::DISK_LOW_PERCENT,
            max_bytes: None,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            awaiting: defaults::AWAITING_MAX,
            breaker: defaults::BREAKER,
            node_bytes: defaults::NODE_BYTES_MAX,
            shard_bytes: defaults::SHARD_BYTES_MAX,
            statement: portolan_changelog::defaults::STATEMENT_TIMEOUT,
            tenant_awaiting: defaults::TENANT_AWAITING_MAX,
            tenant_bytes: defaults::TENANT_BYTES_MAX,
            tenant_turns: defaults::TENANT_REQUESTS_MAX,
            tenant_work: defaults::TENANT_WORK_MAX,
            transaction: defaults::TRANSACTION,
            turn: defaults::TURN,
            turns: defaults::REQUESTS_MAX,
        }
    }
}
