//! `portolan purge`: takes cached responses back.

use portolan_admin::purges::PurgeRequest;
use serde_json::Value;

use crate::cli::Purge;
use crate::client::Client;
use crate::print;

/// Does what is asked.
///
/// # Errors
/// When no node answers, or it has no cache.
pub(crate) fn run(command: &Purge) -> anyhow::Result<()> {
    let Purge { urls, all, hard, prefixes, sites, tags, tenant, target } = command;
    let asked = PurgeRequest {
        all: *all,
        hard: *hard,
        prefixes: prefixes.clone(),
        sites: sites.clone(),
        tags: tags.clone(),
        tenant: tenant.clone(),
        urls: urls.clone(),
    };
    let done: Value = Client::open(target)?.post("/api/v1/cache/purge", &asked)?;
    let number = |name: &str| done.get(name).and_then(Value::as_u64).unwrap_or_default();
    print(&format!("taken back on this node: {} (purge {})", number("targets"), number("epoch")))
}
