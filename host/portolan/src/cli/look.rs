//! What looks at a node, in words: `portolan status`, `events`, `tail`, `explain`, `usage`.

use std::net::IpAddr;

use clap::{Args, Subcommand, ValueEnum};

use super::{ConfigFile, Target};

#[derive(Debug, Args)]
pub(crate) struct Events {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Go on as they come.
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only of these types, with commas between.
    #[arg(long)]
    pub(crate) types: Option<String>,
    /// Only of this tenant.
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    /// Only after the event of this id.
    #[arg(long)]
    pub(crate) after: Option<String>,
    /// Print one JSON object a line.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Tail {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Only of this tenant.
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    /// Only with this status, or of this class, such as 404 or 5xx.
    #[arg(long)]
    pub(crate) status: Option<String>,
    /// Only with this method.
    #[arg(long)]
    pub(crate) method: Option<String>,
    /// Only decided by this policy.
    #[arg(long)]
    pub(crate) policy: Option<String>,
    /// Only with paths that begin so.
    #[arg(long)]
    pub(crate) path: Option<String>,
    /// Of a thousand requests that fit, so many.
    #[arg(long)]
    pub(crate) permille: Option<u32>,
    /// End after so many.
    #[arg(short, long)]
    pub(crate) number: Option<u64>,
    /// Print one JSON object a line.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// How a comparison is told.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Told {
    /// End with 2 when more than so many of a thousand decisions would differ.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub(crate) limit: u32,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Print Markdown.
    #[arg(long, conflicts_with = "json")]
    pub(crate) markdown: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// Such as GET.
    #[arg(required_unless_present = "id")]
    pub(crate) method: Option<String>,
    /// Such as http://acme.apps.example.com/orders.
    #[arg(required_unless_present = "id")]
    pub(crate) url: Option<String>,
    /// A decision that was kept, by the id in its response's `portolan-decision`.
    #[arg(long, conflicts_with_all = ["method", "url", "at"])]
    pub(crate) id: Option<String>,
    /// As things stood then: RFC 3339, such as 2026-01-31T12:00:00Z, or so long ago, such as `2h`. Needs recordings.
    #[arg(long)]
    pub(crate) at: Option<String>,
    /// A header field, `Name: value`.
    #[arg(short = 'H', long = "header")]
    pub(crate) headers: Vec<String>,
    /// From where the request comes.
    #[arg(long)]
    pub(crate) client: Option<IpAddr>,
    /// Assume this tenant.
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    /// Assume that this region is nearest to the client.
    #[arg(long)]
    pub(crate) region: Option<String>,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// One tenant on one node.
#[derive(Debug, Args)]
pub(crate) struct TenantView {
    /// The tenant.
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Usage {
    /// Requests, bytes and guest work of each tenant on this node, from its own folder; up to a few seconds ago.
    Export {
        #[command(flatten)]
        file: ConfigFile,
        /// Only so far back, such as `24h`, in whole hours; all that is kept (35 days) when absent.
        #[arg(long, value_parser = humantime::parse_duration)]
        since: Option<std::time::Duration>,
        /// How it is written.
        #[arg(long, value_enum, default_value_t = UsageFormat::Csv)]
        format: UsageFormat,
        /// A row for each hour and tenant.
        #[arg(long)]
        by_hour: bool,
    },
}

/// How an export is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum UsageFormat {
    /// Comma-separated values, with a first line of names.
    Csv,
    /// One object.
    Json,
}
