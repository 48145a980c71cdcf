//! `portolan dns` in words.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{ConfigFile, Target};

/// What can be asked of names.
#[derive(Debug, Subcommand)]
pub(crate) enum Dns {
    /// Show how a node tells names: the plan, and how the servers are that are kept up to date.
    Status(Status),
    /// Print the zones of the node's last plan as zone files, for servers that take no updates.
    Export(Export),
    /// Have a server of `[dns] push` or `[dns] cloud` take the node's last plan, whatever stands there; after that it follows by itself.
    Adopt(Adopt),
    /// Make the key that zones are signed with (DNSSEC), and print what the parent zone has to say of it.
    Key(Key),
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    /// This zone alone.
    pub(crate) zone: Option<String>,
    #[command(flatten)]
    pub(crate) file: ConfigFile,
}

#[derive(Debug, Args)]
pub(crate) struct Adopt {
    /// The server, as `[dns] push` names it, or PROVIDER/ID of a zone of `[dns] cloud`.
    pub(crate) server: String,
    #[command(flatten)]
    pub(crate) file: ConfigFile,
}

#[derive(Debug, Args)]
pub(crate) struct Key {
    /// The file; one that is there is read.
    pub(crate) file: PathBuf,
    /// The zones that it is for.
    #[arg(required = true)]
    pub(crate) zones: Vec<String>,
}
