//! The node's cache: opened with it, and what it counts.

use anyhow::Context as _;
use portolan_cache::{Cache, Counts};

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
