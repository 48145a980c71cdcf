//! Tombstones of the shards that are open here: those that nothing older can come after any more go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use portolan_core::ids::{RegionName, ShardName};
use portolan_core::time::Moment;
use portolan_foundation::clock;
use portolan_foundation::shutdown::Shutdown;
use portolan_replication::Sweeping;

use super::shards::Shards;

/// From one step to the next. Tombstones take space and harm nobody: there is no hurry.
const EVERY: Duration = Duration::from_secs(15);

/// How the sweeps of shards stand.
#[derive(Clone, Debug, Default)]
pub(super) struct Sweeps(Arc<ArcSwap<BTreeMap<ShardName, Stand>>>);

/// How one stands.
#[derive(Clone, Debug, Default)]
struct Stand {
    /// How many tombstones went since the node started.
    gone: u64,
    /// Since when tombstones have been waiting for these regions.
    waiting: Option<(Moment, Vec<RegionName>)>,
}

impl Sweeps {
    /// As Prometheus reads it.
    pub(super) fn metrics(&self, text: &mut String, now: Moment) {
        let stands = self.0.load();
        if stands.is_empty() {
            return;
        }
        let waits =
            |stand: &Stand| stand.waiting.as_ref().map_or(0.0, |(since, _)| now.since(*since).as_secs_f64());
        type Gauge<'a> = (&'static str, &'static str, &'static str, &'a dyn Fn(&Stand) -> f64);
        let gauges: [Gauge<'_>; 2] = [
            (
                "portolan_tombstones_swept_total",
                "counter",
                "Tombstones that went, because nothing older can come any more.",
                &|stand| stand.gone as f64,
            ),
            (
                "portolan_tombstones_waiting_seconds",
                "gauge",
                "How long tombstones have been waiting for other regions' word.",
                &waits,
            ),
        ];
        for (name, kind, help, value) in gauges {
            text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
            for (shard, stand) in stands.iter() {
                text.push_str(&format!("{name}{{shard=\"{shard}\"}} {}\n", value(stand)));
            }
        }
    }

    /// For whom tombstones of a shard wait.
    pub(super) fn waiting(&self, shard: &ShardName) -> Vec<RegionName> {
        let stands = self.0.load();
        let waiting = stands.get(shard).and_then(|stand| stand.waiting.as_ref());
        waiting.map_or_else(Vec::new, |(_, regions)| regions.clone())
    }
}

/// Sweeps until shutdown.
///
/// What wakes it: time. What it reads: the shards' tombstones, and what other regions say of themselves. What it writes: the same databases.
/// What fails is told once, and tried again.
pub(super) async fn run(shards: Shards, sweeps: Sweeps, shutdown: Shutdown) {
    let mut rounds: BTreeMap<ShardName, Sweeping> = BTreeMap::new();
    let mut failed: BTreeMap<ShardName, String> = BTreeMap::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = shutdown.begun() => return,
        }
        let names = shards.names();
        rounds.retain(|name, _| names.contains(name));
        let (before, mut stands) = (sweeps.0.load_full(), BTreeMap::new());
        for name in names {
            let Some((store, _)) = shards.open(&name) else { continue };
            let others = shards.ways(&name);
            let mut stand = before.get(&name).cloned().unwrap_or_default();
            // Where others keep it and cannot be reached from here, nothing is known of them.
            let reachable = others.len() + 1 == shards.followers_of(&name).len();
            if reachable {
                let swept = tokio::select! {
                    swept = rounds.entry(name.clone()).or_default().step(&name, &store, &others) => swept,
                    () = shutdown.begun() => return,
                };
                match swept {
                    Ok(swept) => {
                        failed.remove(&name);
                        stand.gone += swept.gone;
                        let since = stand.waiting.take().map_or_else(clock::now, |(since, _)| since);
                        stand.waiting = (!swept.waiting.is_empty()).then_some((since, swept.waiting));
                    }
                    Err(error) => {
                        let why = error.to_string();
                        if failed.insert(name.clone(), why.clone()) != Some(why) {
                            tracing::warn!(shard = %name, "tombstones are not swept: {error}");
                        }
                    }
                }
            }
            stands.insert(name, stand);
        }
        sweeps.0.store(Arc::new(stands));
    }
}
