//! The node's cache: opened with it, what it counts, and how operators and tenants take responses back.

use anyhow::Context as _;
use async_trait::async_trait;
use portolan_admin::backend::{PurgeOrder, Purged, Purges};
use portolan_admin::{Code, Events, Problem};
use portolan_cache::{Cache, Counts, Epoch, Strength, Target};
use serde_json::json;

use crate::config::Config;

/// Opens the cache, where the configuration has one.
///
/// # Errors
/// When its folder cannot be used.
pub(super) fn open(config: &Config) -> anyhow::Result<Option<Cache>> {
    let Some(wanted) = &config.cache else { return Ok(None) };
    let help = || match &wanted.disk {
        Some(disk) => {
            format!(
                "open the cache in {}: give the node that folder, or `[cache] folder` another",
                disk.folder.display()
            )
        }
        None => "open the cache".to_owned(),
    };
    Cache::open(wanted.clone()).map(Some).with_context(help)
}

/// As Prometheus reads it.
pub(super) fn metrics(text: &mut String, cache: Option<&Cache>) {
    let Some(cache) = cache else { return };
    let Counts {
        collapsed,
        disk_bytes,
        disk_dropped,
        hits,
        memory_bytes,
        memory_resources,
        misses,
        purges,
        questions,
        refused,
        stood_in,
        stored,
        validated,
    } = cache.counts();
    text.push_str(
        "# HELP portolan_cache_total What the cache has done.\n# TYPE portolan_cache_total counter\n",
    );
    let counters = [
        ("collapsed", collapsed),
        ("disk_dropped", disk_dropped),
        ("hit", hits),
        ("miss", misses),
        ("purge", purges),
        ("refused", refused),
        ("stood_in", stood_in),
        ("stored", stored),
        ("validated", validated),
    ];
    for (what, count) in counters {
        text.push_str(&format!("portolan_cache_total{{what=\"{what}\"}} {count}\n"));
    }
    let gauges = [
        ("bytes{tier=\"disk\"}", "Bytes that the cache holds.", disk_bytes),
        ("bytes{tier=\"memory\"}", "", memory_bytes),
        ("resources", "Resources in memory.", memory_resources),
        ("questions", "Questions to origins that are open.", questions),
    ];
    for (name, help, value) in gauges {
        let bare = name.split('{').next().unwrap_or(name);
        if !help.is_empty() {
            text.push_str(&format!(
                "# HELP portolan_cache_{bare} {help}\n# TYPE portolan_cache_{bare} gauge\n"
            ));
        }
        text.push_str(&format!("portolan_cache_{name} {value}\n"));
    }
}

/// The cache as the admin API sees it.
#[derive(Debug)]
pub(super) struct Purger {
    pub(super) cache: Option<Cache>,
    pub(super) events: Events,
}

#[async_trait]
impl Purges for Purger {
    async fn purge(&self, order: PurgeOrder) -> Result<Purged, Problem> {
        let Some(cache) = &self.cache else {
            return Err(Problem::not_found("cache on this node: give it `[cache]`"));
        };
        let PurgeOrder { all, hard, prefixes, sites, tags, tenant, urls } = order;
        let strength = if hard { Strength::Hard } else { Strength::Soft };
        let targets: Vec<Target> = (all.then_some(Target::Tenant).into_iter())
            .chain(prefixes.into_iter().map(|(site, path)| Target::Prefix { site, path }))
            .chain(sites.into_iter().map(Target::Site))
            .chain(tags.into_iter().map(Target::Tag))
            .chain(urls.into_iter().map(|(site, path)| Target::Url { site, path }))
            .collect();
        let purged = cache.purge(tenant.as_ref(), &targets, strength).await;
        let Epoch(epoch) = purged.map_err(|error| {
            let told = format!(
                "write the purge down: {error}; it holds until the node ends: look at the cache's disk, and send it again"
            );
            Problem::new(Code::Unavailable, told)
        })?;
        let done = Purged { epoch, targets: targets.len() };
        self.events.tell(
            "cache-purged",
            tenant,
            json!({ "epoch": epoch, "hard": hard, "targets": done.targets }),
        );
        Ok(done)
    }
}
