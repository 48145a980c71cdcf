//! `portolan replica` and `portolan region` in words.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Target;

/// What can be asked of copies.
#[derive(Debug, Subcommand)]
pub(crate) enum Replica {
    /// Give this region a copy of a shard: look at its database, bring it to the shard's schema, have the rows copied and followed, compare
    /// them, and only then end. Runs in the region that gets the copy, beside its node.
    Add(Add),
    /// Take a region's copy of a shard away, unless it is the last, or the region writes the shard. Its database stays as it is.
    Remove(Remove),
}

/// What can be asked of regions.
#[derive(Debug, Subcommand)]
pub(crate) enum Region {
    /// Add a region.
    Add(AddRegion),
    /// Take a region away that keeps no shard.
    Remove(RemoveRegion),
}

#[derive(Debug, Args)]
pub(crate) struct Add {
    /// The shard.
    pub(crate) shard: String,
    /// The region: the one of the node that is asked.
    pub(crate) region: String,
    /// A file with what `[shard.NAME.store.REGION]` would hold, such as `sqlite = "…"` or `postgres = { … }`.
    #[arg(long, value_name = "FILE", conflicts_with = "sqlite", required_unless_present = "sqlite")]
    pub(crate) from: Option<PathBuf>,
    /// The file of an SQLite database.
    #[arg(long, value_name = "FILE")]
    pub(crate) sqlite: Option<PathBuf>,
    /// End when the copy is declared, and do not wait for its rows.
    #[arg(long)]
    pub(crate) no_wait: bool,
    #[command(flatten)]
    pub(crate) target: Target,
}

#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// The shard.
    pub(crate) shard: String,
    /// The region.
    pub(crate) region: String,
    #[command(flatten)]
    pub(crate) target: Target,
}

#[derive(Debug, Args)]
pub(crate) struct AddRegion {
    /// The region.
    pub(crate) region: String,
    /// A file with what `[region.NAME]` would hold: `gateways`, `replication`, `[pool.NAME]`.
    #[arg(long, value_name = "FILE")]
    pub(crate) from: PathBuf,
    #[command(flatten)]
    pub(crate) target: Target,
}

#[derive(Debug, Args)]
pub(crate) struct RemoveRegion {
    /// The region.
    pub(crate) region: String,
    #[command(flatten)]
    pub(crate) target: Target,
}
