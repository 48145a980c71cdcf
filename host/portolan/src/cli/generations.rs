//! What is intended, in words: `portolan validate`, `apply`, `generations`, `revert`, `audit`.

use clap::Args;

use super::{ConfigFile, Target};

#[derive(Debug, Args)]
pub(crate) struct Validate {
    #[command(flatten)]
    pub(crate) file: ConfigFile,
    /// Only the files: compile and plan nothing.
    #[arg(long)]
    pub(crate) no_policies: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Apply {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Only show what would change.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Leave objects alone whose files are gone.
    #[arg(long)]
    pub(crate) keep: bool,
    /// Also take over objects that the admin API manages.
    #[arg(long)]
    pub(crate) take_over: bool,
    /// Why, for the log of changes.
    #[arg(short, long, default_value = "")]
    pub(crate) message: String,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Generations {
    #[command(flatten)]
    pub(crate) target: Target,
    /// How many.
    #[arg(short, long, default_value_t = 20)]
    pub(crate) number: u64,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Revert {
    /// The generation.
    pub(crate) generation: u64,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Only show what would change.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Why, for the log of changes.
    #[arg(short, long, default_value = "")]
    pub(crate) message: String,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Audit {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Walk through the whole log, and check that each entry names the digest of the one before it.
    #[arg(long)]
    pub(crate) verify: bool,
    /// Only changes by authors in whose name this text is.
    #[arg(long)]
    pub(crate) author: Option<String>,
    /// Only changes that came by this way: api, apply, push, revert, rollout, token.
    #[arg(long)]
    pub(crate) source: Option<String>,
    /// Only changes of this object, KIND/NAME, or of this kind.
    #[arg(long)]
    pub(crate) object: Option<String>,
    /// How many.
    #[arg(short, long, default_value_t = 20)]
    pub(crate) number: u64,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}
