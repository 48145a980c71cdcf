//! `portolan token` in words.

use clap::Subcommand;

use super::{ConfigFile, Target};

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Make a token, and print it once.
    Create {
        /// What people call it.
        name: String,
        /// What its holder is: admin, auditor, operator, tenant-admin or tenant-dev.
        #[arg(long)]
        role: String,
        /// Whose it is, for a tenant's roles.
        #[arg(long)]
        tenant: Option<String>,
        /// What its holder may, when that is less than the role; can be given several times.
        #[arg(long = "scope")]
        scopes: Vec<String>,
        /// When it ends, such as `12h`; after 90 days when absent.
        #[arg(long, value_parser = humantime::parse_duration)]
        expires_in: Option<std::time::Duration>,
        #[command(flatten)]
        target: Target,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// A word for the request header `portolan-debug`: the response then tells the decision's id.
    Debug {
        /// Only for requests of this tenant.
        #[arg(long)]
        tenant: Option<String>,
        /// How long it holds; at most a day.
        #[arg(long = "for", default_value = "1h", value_parser = humantime::parse_duration)]
        time: std::time::Duration,
        #[command(flatten)]
        file: ConfigFile,
    },
    /// A word for the request header `portolan-preview`: a version that no slot runs then decides that request alone.
    Preview {
        /// `operator`, or `tenant.NAME`.
        slot: String,
        /// `PLUGIN@VERSION`, or `VERSION`, as `portolan plugin versions` lists them.
        version: String,
        /// In the operator's slot, only for requests of this tenant.
        #[arg(long)]
        tenant: Option<String>,
        /// How long it holds; at most an hour.
        #[arg(long = "for", default_value = "10m", value_parser = humantime::parse_duration)]
        time: std::time::Duration,
        #[command(flatten)]
        target: Target,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List tokens, with when each was last used on the node that is asked.
    List {
        #[command(flatten)]
        target: Target,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Revoke a token: nobody gets in by it any more, on any node.
    Revoke {
        /// Its id.
        id: String,
        #[command(flatten)]
        target: Target,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}
