//! `portolan shard` in words.

use clap::{Args, Subcommand};

use super::moving::{Merge, Move, Moves, Split};
use super::{ConfigFile, Target};

/// What can be asked of shards.
#[derive(Debug, Subcommand)]
pub(crate) enum Shard {
    /// List the shards, who writes each, and how they stand in the region of the node that is asked.
    List(List),
    /// Tell on which shard a tenant's rows are.
    Locate(Locate),
    /// Look at a database that is there already, say what stands against taking it over, and do it.
    Adopt(Adopt),
    /// Begin a new epoch: the region that writes the shard gets a new lease, or another region becomes its primary.
    Promote(Promote),
    /// Ask the policy of placement what it would move and which rules it would have. Without a policy, propose rules that share the
    /// tenants evenly among the shards that take any.
    Plan(Plan),
    /// Go one step: make a checked plan of the policy and leave it in the control store for those who move tenants; when its tenants
    /// have moved, make its rules hold.
    Rebalance(Rebalance),
    /// Add a shard, when its databases answer, are empty, and have the schema that the others have.
    Add(Add),
    /// Take a shard away that is drained, and that no tenant, rule or plan is about any more.
    Remove(Remove),
    /// Place no new tenants on a shard, or place them there again.
    Drain(Drain),
    /// Move a tenant to another shard while it is written, or back. Ask a node of the region that writes the shard on which it is.
    Move(Move),
    /// List the moves that are under way, and the rows that shards keep of tenants that have moved.
    Moves(Moves),
    /// Move some of a shard's tenants to another, and have the rules of placement send new ones there.
    Split(Split),
    /// Move all of a shard's tenants to another, and have the rules of placement send new ones there.
    Merge(Merge),
}

#[derive(Debug, Args)]
pub(crate) struct Adopt {
    /// The shard, as the configuration names it.
    pub(crate) shard: String,
    #[command(flatten)]
    pub(crate) file: ConfigFile,
    /// The last migration whose work the database has already.
    #[arg(long, value_name = "VERSION")]
    pub(crate) baseline: Option<u64>,
    /// Take it over, where nothing stands against it. Without this, nothing is changed.
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Locate {
    /// The tenant.
    pub(crate) tenant: String,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Promote {
    /// The shard.
    pub(crate) shard: String,
    /// The region that writes it from now on; the present one when absent.
    #[arg(long, value_name = "REGION")]
    pub(crate) to: Option<String>,
    /// Begin with the rows that the region has, whatever is missing among them: when no region has all, and waiting brings none. What
    /// others have beyond them is kept as stranded.
    #[arg(long, requires = "to")]
    pub(crate) partial: bool,
    #[command(flatten)]
    pub(crate) target: Target,
}

#[derive(Debug, Args)]
pub(crate) struct Plan {
    #[command(flatten)]
    pub(crate) file: ConfigFile,
    /// How many tenants may move; that of `[placement]` when absent.
    #[arg(long, value_name = "N")]
    pub(crate) max_moves: Option<u32>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Rebalance {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Show what would be left for the movers, and change nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// How many tenants may move; that of `[placement]` when absent.
    #[arg(long, value_name = "N")]
    pub(crate) max_moves: Option<u32>,
    /// Forget the plan that is under way. Tenants that have moved stay where they are.
    #[arg(long, conflicts_with_all = ["dry_run", "max_moves"])]
    pub(crate) forget: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Add {
    /// The shard.
    pub(crate) shard: String,
    /// A file with what `[shard.NAME]` would hold: `primary`, `residency`, `capacity`, `[store.REGION]`.
    #[arg(long, value_name = "FILE")]
    pub(crate) from: std::path::PathBuf,
    /// Add it although its schema is not that of the others, and place nobody there until `portolan shard drain --undo`.
    #[arg(long)]
    pub(crate) drained: bool,
    #[command(flatten)]
    pub(crate) target: Target,
}

#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// The shard.
    pub(crate) shard: String,
    #[command(flatten)]
    pub(crate) target: Target,
}

#[derive(Debug, Args)]
pub(crate) struct Drain {
    /// The shard.
    pub(crate) shard: String,
    /// Place new tenants there again.
    #[arg(long)]
    pub(crate) undo: bool,
    #[command(flatten)]
    pub(crate) target: Target,
}
