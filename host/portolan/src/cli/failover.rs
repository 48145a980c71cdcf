//! `portolan failover` in words.

use clap::{Args, Subcommand};

use super::Target;

/// What can be asked of failover, and said to it.
#[derive(Debug, Subcommand)]
pub(crate) enum Failover {
    /// Show what is believed of regions, who writes which shard, and what is under way.
    Status(Status),
    /// Say what would happen if a region died now: who would be promoted, what would be lost, how long it would take.
    Forecast(Forecast),
    /// Go through a region's death with nothing changed: the forecast, and this node's recorded traffic decided again as if the region were down. Fails
    /// when a shard would be without a writer, or a request without an answer.
    Drill(Drill),
    /// Have shards written in another region, in an orderly way and without loss.
    Switch(Switch),
    /// Have shards written in another region although theirs is gone. What is lost is told.
    Force(Force),
    /// Have shards written at their home again, in an orderly way and without loss.
    Return(Return),
    /// Have nothing changed automatically for a while.
    Freeze(Holding),
    /// Take back what was said of a region, or everything.
    Thaw(Thaw),
    /// Have all shards leave a region in an orderly way; it takes none for a while.
    Drain(OfRegion),
    /// Somebody works at a region for a while: whatever is seen of it, nothing follows.
    Maintenance(OfRegion),
    /// Declare a region lost: its leases are not waited for. It must not write any more.
    Lost(LostRegion),
    /// Have some rules not bar for a while, by their names.
    BreakGlass(BreakGlass),
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print JSON, with what each region sees of each.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Forecast {
    /// The region; each of them when absent.
    pub(crate) region: Option<String>,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Drill {
    /// The region.
    pub(crate) region: String,
    /// How much of the recorded traffic, such as `1h`; nothing is recorded without `[recordings]`.
    #[arg(long, default_value = "1h", value_parser = humantime::parse_duration)]
    pub(crate) since: std::time::Duration,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which shards.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Which {
    /// The shards.
    pub(crate) shards: Vec<String>,
    /// All of them.
    #[arg(long)]
    pub(crate) all: bool,
}

/// Why, and whether it is waited for.
#[derive(Debug, Args)]
pub(crate) struct How {
    /// Why, for whoever reads the log of changes.
    #[arg(long, default_value = "")]
    pub(crate) why: String,
    /// Do not wait until it is done.
    #[arg(long)]
    pub(crate) no_wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Switch {
    #[command(flatten)]
    pub(crate) which: Which,
    /// The region.
    #[arg(long)]
    pub(crate) to: String,
    #[command(flatten)]
    pub(crate) how: How,
    #[command(flatten)]
    pub(crate) target: Target,
}

#[derive(Debug, Args)]
pub(crate) struct Force {
    /// The shards.
    #[arg(required = true)]
    pub(crate) shards: Vec<String>,
    /// The region.
    #[arg(long)]
    pub(crate) to: String,
    /// Why, for whoever reads the log of changes.
    #[arg(long)]
    pub(crate) why: String,
    /// Rows that may be lost, where that is more than the shard's `max_loss`.
    #[arg(long)]
    pub(crate) accept_loss: Option<u64>,
    /// Do not wait until it is done.
    #[arg(long)]
    pub(crate) no_wait: bool,
    #[command(flatten)]
    pub(crate) target: Target,
}

#[derive(Debug, Args)]
pub(crate) struct Return {
    #[command(flatten)]
    pub(crate) which: Which,
    #[command(flatten)]
    pub(crate) how: How,
    #[command(flatten)]
    pub(crate) target: Target,
}

#[derive(Debug, Args)]
pub(crate) struct Holding {
    /// How long it holds, such as `2h`.
    #[arg(long = "for", value_parser = humantime::parse_duration)]
    pub(crate) time: Option<std::time::Duration>,
    /// Why, for whoever reads the log of changes.
    #[arg(long, default_value = "")]
    pub(crate) why: String,
    #[command(flatten)]
    pub(crate) target: Target,
}

#[derive(Debug, Args)]
pub(crate) struct Thaw {
    /// The region; everything when absent.
    pub(crate) region: Option<String>,
    #[command(flatten)]
    pub(crate) target: Target,
}

#[derive(Debug, Args)]
pub(crate) struct OfRegion {
    /// The region.
    pub(crate) region: String,
    #[command(flatten)]
    pub(crate) holding: Holding,
}

#[derive(Debug, Args)]
pub(crate) struct LostRegion {
    /// The region.
    pub(crate) region: String,
    /// Its name once more, for somebody who is sure.
    #[arg(long = "type")]
    pub(crate) typed: String,
    #[command(flatten)]
    pub(crate) holding: Holding,
}

#[derive(Debug, Args)]
pub(crate) struct BreakGlass {
    /// The rules that do not bar.
    #[arg(required = true)]
    pub(crate) rules: Vec<String>,
    #[command(flatten)]
    pub(crate) holding: Holding,
}
