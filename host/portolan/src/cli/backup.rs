//! `portolan backup`, `verify` and `restore` in words.

use std::path::PathBuf;

use clap::Args;

use super::ConfigFile;

#[derive(Debug, Args)]
pub(crate) struct Backup {
    /// The folder that is made; only its owner enters it.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) to: PathBuf,
    /// Go on from this backup: the logs since then, and no rows.
    #[arg(long, value_name = "FOLDER", conflicts_with = "tenant")]
    pub(crate) since: Option<PathBuf>,
    /// Only this shard; can be given several times. All that this region writes when absent.
    #[arg(long = "shard")]
    pub(crate) shards: Vec<String>,
    /// Only this tenant: its rows as they are now, and its objects.
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    /// The node's portolan.toml, certificates and keys, too, sealed for this key of `portolan backup-key`.
    #[arg(long, value_name = "PUBLIC_KEY", conflicts_with = "tenant")]
    pub(crate) keys: Option<String>,
    #[command(flatten)]
    pub(crate) file: ConfigFile,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// A backup, and those that go on from it, in their order.
    #[arg(required = true, value_name = "FOLDER")]
    pub(crate) folders: Vec<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// A backup, and those that go on from it, in their order.
    #[arg(required = true, value_name = "FOLDER")]
    pub(crate) folders: Vec<PathBuf>,
    /// The configuration of the node that gets it: its control store and its databases are to be empty.
    #[arg(long, value_name = "CONFIG", default_value = "portolan.toml", env = "PORTOLAN_CONFIG")]
    pub(crate) into: PathBuf,
    /// As it was at this moment (RFC 3339) or, of one shard, at this position (EPOCH.TRANSACTION.SEQUENCE); at the end when absent.
    #[arg(long, value_name = "TIME|POSITION")]
    pub(crate) at: Option<String>,
    /// Write the node's portolan.toml, certificates and keys into this folder, and nothing else.
    #[arg(long, value_name = "FOLDER", requires = "identity", conflicts_with_all = ["at", "shard", "tenant"])]
    pub(crate) keys_to: Option<PathBuf>,
    /// The file that `portolan backup-key` wrote, which opens them.
    #[arg(long, value_name = "FILE", requires = "keys_to")]
    pub(crate) identity: Option<PathBuf>,
    /// Only this shard, into an installation that is there; its database is to be empty. Of a tenant, the one that it was on.
    #[arg(long)]
    pub(crate) shard: Option<String>,
    /// Only this tenant, into the shard that it belongs on now, which a node writes.
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    /// Take away what the tenant has there now.
    #[arg(long, requires = "tenant")]
    pub(crate) replace: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}
