//! `portolan sync` in words.

use clap::{Args, Subcommand};

use super::Target;

/// What can be asked of replication.
#[derive(Debug, Subcommand)]
pub(crate) enum Sync {
    /// Tell how this region's copies of other regions' shards stand: how far behind they are, what waits, what is wrong.
    Status(Status),
    /// Compare this region's copy of a shard with its primary, while both are used, and name the rows that differ.
    Audit(Compare),
    /// The same, and put right what differs with what the primary has.
    Repair(Compare),
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Compare {
    /// The shard.
    pub(crate) shard: String,
    /// Compare this table alone.
    #[arg(long)]
    pub(crate) table: Option<String>,
    /// Compare this tenant's rows alone.
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}
