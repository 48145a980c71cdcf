//! `portolan policy` in words: break glass.

use clap::{Args, Subcommand};

use super::ConfigFile;

/// What all break-glass commands have.
#[derive(Debug, Args)]
pub(crate) struct Glass {
    #[command(flatten)]
    pub(crate) file: ConfigFile,
    /// On all nodes, by the control store; on this node alone when absent.
    #[arg(long)]
    pub(crate) everywhere: bool,
    /// Why, for status and the log of changes.
    #[arg(short, long, default_value = "")]
    pub(crate) message: String,
}

/// Whose policies.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Whom {
    /// Those of all tenants.
    #[arg(long)]
    pub(crate) all_tenants: bool,
    /// Those of this tenant; may be given several times.
    #[arg(long)]
    pub(crate) tenant: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Policy {
    /// Hold every slot at the version and configuration that it has. Plans still follow health and latency.
    Freeze {
        #[command(flatten)]
        glass: Glass,
        /// Make no new plans at all.
        #[arg(long)]
        hard: bool,
    },
    /// End a freeze.
    Thaw {
        #[command(flatten)]
        glass: Glass,
    },
    /// Serve tenants as if they had no policies of their own.
    Disable {
        #[command(flatten)]
        whom: Whom,
        #[command(flatten)]
        glass: Glass,
    },
    /// Give tenants their policies back.
    Enable {
        #[command(flatten)]
        whom: Whom,
        #[command(flatten)]
        glass: Glass,
    },
}
