//! `portolan sync` in words.

use clap::{Args, Subcommand};

use super::Target;

/// What can be asked of replication.
#[derive(Debug, Subcommand)]
pub(crate) enum Sync {
    /// Tell how this region's copies of other regions' shards stand: how far behind they are, what waits, what is wrong.
    Status(Status),
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}
