//! `portolan geography` in words.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::ConfigFile;

/// What can be asked of where addresses are.
#[derive(Debug, Subcommand)]
pub(crate) enum Geography {
    /// Get a free table of which country addresses are in, over npm, and put it where `[geography] file` finds it.
    Install(Install),
    /// Show where addresses are, and which region is nearest to each.
    Locate(Locate),
}

#[derive(Debug, Args)]
pub(crate) struct Install {
    /// Where to; what `[geography] file` says when absent, else `countries.mmdb` beside the configuration.
    pub(crate) to: Option<PathBuf>,
    /// The package's version.
    #[arg(long, default_value = "latest")]
    pub(crate) version: String,
    #[command(flatten)]
    pub(crate) file: ConfigFile,
}

#[derive(Debug, Args)]
pub(crate) struct Locate {
    /// The addresses.
    #[arg(required = true)]
    pub(crate) addresses: Vec<IpAddr>,
    #[command(flatten)]
    pub(crate) file: ConfigFile,
}
