//! What a policy may answer, and whose answer it is.

use portolan_core::ids::{RegionName, ShardName};
use serde::{Deserialize, Serialize};

/// One thing that somebody wants. A policy names no epoch, no lease and no time: those are the host's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "do")]
pub enum Proposal {
    /// Every shard that a region writes goes elsewhere, in an orderly way.
    Drain {
        /// The region.
        region: RegionName,
    },
    /// Nothing is changed.
    Hold,
    /// A shard is written in another region.
    Promote {
        /// The shard.
        shard: ShardName,
        /// The region.
        region: RegionName,
    },
    /// Nobody writes a shard; reads go on.
    ReadOnly {
        /// The shard.
        shard: ShardName,
    },
    /// A part of a region's traffic goes to another. No primary moves.
    Shift {
        /// Whose traffic.
        region: RegionName,
        /// Where it goes.
        target: RegionName,
        /// How much of it, in percent.
        percent: u8,
    },
}

/// Who wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// A person, who may do more often what a policy may do rarely.
    Operator,
    /// A policy.
    Policy,
}

impl std::fmt::Display for Proposal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Drain { region } => write!(f, "drain `{region}`"),
            Self::Hold => f.write_str("hold"),
            Self::Promote { shard, region } => write!(f, "promote `{region}` for shard `{shard}`"),
            Self::ReadOnly { shard } => write!(f, "read only: shard `{shard}`"),
            Self::Shift { region, target, percent } => {
                write!(f, "shift {percent} % of `{region}` to `{target}`")
            }
        }
    }
}
