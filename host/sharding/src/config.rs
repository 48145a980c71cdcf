//! What a region is to keep.

use std::collections::BTreeMap;

use portolan_changelog::Engine;
use portolan_core::ids::{RegionName, ShardName};
use portolan_core::log::Epoch;
use portolan_core::tenant_table::Tables;

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
    /// Does no other region keep it?
    pub alone: bool,
    /// Where it is.
    pub engine: Engine,
    /// The lease under which it is written.
    pub epoch: Epoch,
    /// The region that writes it.
    pub primary: RegionName,
}
