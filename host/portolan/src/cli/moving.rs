//! `portolan shard move | moves | split | merge` in words.

use std::path::PathBuf;

use clap::Args;

use super::Target;

/// Move one tenant.
#[derive(Debug, Args)]
pub(crate) struct Move {
    /// The tenant.
    pub(crate) tenant: String,
    /// The shard where it is to be.
    #[arg(long, value_name = "SHARD", required_unless_present = "undo")]
    pub(crate) to: Option<String>,
    /// Go back to the shard that still keeps the tenant's rows from before its last move.
    #[arg(long)]
    pub(crate) undo: bool,
    /// Only look whether it can be moved.
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Look at moves.
#[derive(Debug, Args)]
pub(crate) struct Moves {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// How many tenants are moved.
#[derive(Debug, Args)]
pub(crate) struct Many {
    /// How many tenants move beside each other.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=4), value_name = "TENANTS")]
    pub(crate) beside: u8,
    /// Only show who would move, and what the rules of placement would be.
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Share a shard's tenants with another.
#[derive(Debug, Args)]
pub(crate) struct Split {
    /// The shard.
    pub(crate) shard: String,
    /// The shard that takes some of its tenants.
    #[arg(long, value_name = "SHARD")]
    pub(crate) to: String,
    /// Which part of the shard's hashes goes, from 0 to 1.
    #[arg(long, default_value_t = 0.5, conflicts_with = "tenants")]
    pub(crate) ratio: f64,
    /// A file with the tenants that go, one in a line, `-` for standard input. The rules of placement stay as they are.
    #[arg(long, value_name = "FILE")]
    pub(crate) tenants: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) many: Many,
}

/// Give all tenants of a shard to another.
#[derive(Debug, Args)]
pub(crate) struct Merge {
    /// The shard that is to be empty.
    pub(crate) shard: String,
    /// The shard that takes its tenants.
    #[arg(long, value_name = "SHARD")]
    pub(crate) into: String,
    #[command(flatten)]
    pub(crate) many: Many,
}
