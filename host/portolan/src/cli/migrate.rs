//! `portolan migrate` in words.

use clap::{Args, Subcommand};

use super::ConfigFile;

/// What can be done with the tenants' schema.
#[derive(Debug, Subcommand)]
pub(crate) enum Migrate {
    /// Show which versions each shard of this region has, and what is wrong with them.
    Status(Look),
    /// Show what `apply` would run, and which locks that would take.
    Plan(Plan),
    /// Run what is pending: on one shard first, then on the others.
    Apply(Apply),
    /// Run the migration that compensates a version.
    Rollback(Rollback),
}

/// Which shards.
#[derive(Debug, Args)]
pub(crate) struct Fleet {
    #[command(flatten)]
    pub(crate) file: ConfigFile,
    /// Only these shards; all of this region when absent.
    #[arg(long = "shard", value_name = "SHARD")]
    pub(crate) shards: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Look {
    #[command(flatten)]
    pub(crate) fleet: Fleet,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Plan {
    #[command(flatten)]
    pub(crate) fleet: Fleet,
    /// Do not try the statements: the locks that they take are not shown then.
    #[arg(long)]
    pub(crate) no_try: bool,
}

/// How a run goes.
#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) fleet: Fleet,
    /// How many shards are migrated beside each other, after the first.
    #[arg(long, value_name = "N")]
    pub(crate) beside: Option<std::num::NonZeroUsize>,
    /// The shard that goes first.
    #[arg(long, value_name = "SHARD")]
    pub(crate) canary: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Apply {
    #[command(flatten)]
    pub(crate) run: Run,
    /// The last version that is wanted; all when absent.
    #[arg(long, value_name = "VERSION")]
    pub(crate) through: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct Rollback {
    /// The version that is compensated.
    pub(crate) version: u64,
    #[command(flatten)]
    pub(crate) run: Run,
}
