//! `portolan rollout` in words.

use clap::{Args, Subcommand, ValueEnum};

use super::Target;

#[derive(Debug, Subcommand)]
pub(crate) enum Rollouts {
    /// Put a version beside the one that runs: as a shadow first, which is asked and never heard, or as a canary.
    Start(RolloutStart),
    /// Show what runs, what is on trial, and what is known of it. Ends with 2 when a verdict took a version back.
    Status {
        /// `operator`, or `tenant.NAME`; all when absent.
        slot: Option<String>,
        #[command(flatten)]
        target: Target,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Give the version on trial more: from shadow to a canary of 10 percent, from canary to all requests.
    Promote {
        #[command(flatten)]
        change: RolloutChange,
        /// So many of a hundred requests instead; 0 makes it a shadow.
        #[arg(long)]
        percent: Option<u32>,
        /// All requests, from wherever it stands.
        #[arg(long, conflicts_with = "percent")]
        full: bool,
    },
    /// Take the version on trial off all requests, and keep it ready.
    Pause(RolloutChange),
    /// Let it have its part again.
    Resume(RolloutChange),
    /// Drop the version on trial.
    Abort(RolloutChange),
    /// Run what ran before, at once and everywhere; this is a rollout of its own.
    Rollback {
        #[command(flatten)]
        change: RolloutChange,
        /// Run this version instead: `PLUGIN@VERSION`, `VERSION`, or `file` for the plugin's own file.
        #[arg(long)]
        to: Option<String>,
        /// The configuration that it is to have, a JSON object; the slot's own when absent.
        #[arg(long, requires = "to")]
        policy_config: Option<String>,
    },
    /// Run a version at once and everywhere, and refuse rollouts until it is unpinned.
    Pin {
        #[command(flatten)]
        change: RolloutChange,
        /// `PLUGIN@VERSION`, `VERSION`, or `file` for the plugin's own file.
        version: String,
        /// The configuration that it is to have, a JSON object; the slot's own when absent.
        #[arg(long)]
        policy_config: Option<String>,
    },
    /// Allow rollouts again.
    Unpin(RolloutChange),
}

/// What every change of a rollout takes.
#[derive(Debug, Args)]
pub(crate) struct RolloutChange {
    /// `operator`, or `tenant.NAME`.
    pub(crate) slot: String,
    /// Only show what would change.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Why, for the log of changes.
    #[arg(short, long, default_value = "")]
    pub(crate) message: String,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RolloutStart {
    #[command(flatten)]
    pub(crate) change: RolloutChange,
    /// `PLUGIN@VERSION`, with the SHA-256 or its first digits.
    pub(crate) version: String,
    /// Ask it after the response, and only compare: the usual beginning.
    #[arg(long, conflicts_with = "canary")]
    pub(crate) shadow: bool,
    /// Let it answer so many of a hundred requests.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub(crate) canary: Option<u32>,
    /// What keeps to one side of a canary: tenants in the operator's slot, clients in a tenant's when absent.
    #[arg(long, value_enum)]
    pub(crate) affinity: Option<RolloutAffinity>,
    /// Decisions before any verdict.
    #[arg(long)]
    pub(crate) min_decisions: Option<u64>,
    /// Decisions that may fail: traps, answers that do not exist, an open breaker; such as 0.1%.
    #[arg(long, value_parser = crate::rollout::permille)]
    pub(crate) max_traps: Option<u32>,
    /// Decisions that may run past their fuel or deadline, such as 0.5%.
    #[arg(long, value_parser = crate::rollout::permille)]
    pub(crate) max_overruns: Option<u32>,
    /// Answers of a shadow that may differ from those given, such as 2%; all when absent.
    #[arg(long, value_parser = crate::rollout::permille)]
    pub(crate) max_divergence: Option<u32>,
    /// Time within which 99 of 100 decisions have to come, such as 200us; any when absent.
    #[arg(long, value_parser = humantime::parse_duration)]
    pub(crate) max_p99: Option<std::time::Duration>,
    /// The configuration that it is to have, a JSON object; the slot's own when absent.
    #[arg(long)]
    pub(crate) policy_config: Option<String>,
}

/// What keeps to one side of a canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RolloutAffinity {
    /// A client's address.
    Client,
    /// The region that takes the request in.
    Region,
    /// A tenant.
    Tenant,
}

impl From<RolloutAffinity> for portolan_core::lane::Affinity {
    fn from(affinity: RolloutAffinity) -> Self {
        match affinity {
            RolloutAffinity::Client => Self::Client,
            RolloutAffinity::Region => Self::Region,
            RolloutAffinity::Tenant => Self::Tenant,
        }
    }
}
