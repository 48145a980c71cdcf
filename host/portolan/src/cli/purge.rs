//! `portolan purge` in words.

use clap::Args;

use super::Target;

#[derive(Debug, Args)]
pub(crate) struct Purge {
    /// URLs, such as `shop.example/a?b`: all variants of them.
    pub(crate) urls: Vec<String>,
    /// Everything of the tenant.
    #[arg(long)]
    pub(crate) all: bool,
    /// Give nothing of it any more. Without this it is stale: asked about before it is given.
    #[arg(long)]
    pub(crate) hard: bool,
    /// Everything below a folder, such as `shop.example/images/`.
    #[arg(long = "prefix")]
    pub(crate) prefixes: Vec<String>,
    /// Everything of a host.
    #[arg(long = "site")]
    pub(crate) sites: Vec<String>,
    /// Everything with a tag that its origin gave.
    #[arg(long = "tag")]
    pub(crate) tags: Vec<String>,
    /// Whose; responses of no tenant when absent.
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    #[command(flatten)]
    pub(crate) target: Target,
}
