//! `portolan conflicts` in words.

use clap::{Args, Subcommand};

use super::Target;

/// What can be asked of what lost.
#[derive(Debug, Subcommand)]
pub(crate) enum Conflicts {
    /// List what lost without having been known to what won, the oldest first. Ask a node of a region that keeps the shard.
    List(List),
    /// Show one entry, with both rows.
    Show(One),
    /// Write what lost back, as a new version. Ask a node of the region that writes the shard.
    Restore(One),
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// The shard.
    pub(crate) shard: String,
    #[command(flatten)]
    pub(crate) target: Target,
    /// This tenant's alone.
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    /// This table's alone.
    #[arg(long)]
    pub(crate) table: Option<String>,
    /// Print JSON, one entry a line.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct One {
    /// The shard.
    pub(crate) shard: String,
    /// The entry, as the list names it.
    pub(crate) conflict: String,
    #[command(flatten)]
    pub(crate) target: Target,
}
