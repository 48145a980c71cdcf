//! Logs within bounds: what everybody has applied goes, and who follows this region's shards is told.
//!
//! Only what must be kept is kept for a follower, and only so long: past the bounds it loses its place and begins anew.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use portolan_changelog::{Follower, Retention, Slot};
use portolan_core::ids::{RegionName, ShardName};
use portolan_foundation::shutdown::Shutdown;
use portolan_sharding::Store;
use serde_json::{Value, json};

use super::shards::Shards;

/// From one trim to the next.
const EVERY: Duration = Duration::from_secs(5);
/// How often a trim is repeated at once that has left something: others have their turn then.
const ROUNDS: usize = 20;

/// Who follows which shard, and from which slot its log is shipped, as each shard's database has it.
#[derive(Clone, Debug, Default)]
pub(super) struct Peers(Arc<ArcSwap<BTreeMap<ShardName, Known>>>);

/// What is known of one shard.
#[derive(Clone, Debug, Default)]
struct Known {
    followers: Vec<Follower>,
    slot: Option<Slot>,
}

impl Peers {
    /// Those of a shard, for people.
    pub(super) fn shown(&self, shard: &ShardName) -> Vec<Value> {
        let peers = self.0.load();
        let show = |follower: &Follower| {
            let peer = &follower.peer;
            json!({
                "region": peer.name, "applied": peer.applied.to_string(), "received": peer.received.to_string(),
                "behind_bytes": follower.behind_bytes, "needs_snapshot": peer.needs_snapshot_us.is_some(),
            })
        };
        peers.get(shard).map_or_else(Vec::new, |known| known.followers.iter().map(show).collect())
    }

    /// The slot from which a shard's log is shipped, for people; nothing where triggers write into it.
    pub(super) fn slot(&self, shard: &ShardName) -> Option<Value> {
        let known = self.0.load();
        let slot = known.get(shard)?.slot.as_ref()?;
        Some(json!({
            "name": slot.name, "active": slot.active, "retained_bytes": slot.retained_bytes, "left_bytes": slot.left_bytes,
            "behind_seconds": seconds(slot),
        }))
    }

    /// As Prometheus reads it.
    pub(super) fn metrics(&self, text: &mut String) {
        let peers = self.0.load();
        slot_metrics(&peers, text);
        if peers.values().all(|known| known.followers.is_empty()) {
            return;
        }
        type Gauge = (&'static str, &'static str, fn(&Follower) -> u64);
        let gauges: [Gauge; 2] = [
            ("behind_bytes", "About how many bytes of the log the follower has not applied.", |follower| {
                follower.behind_bytes
            }),
            ("needs_snapshot", "Has the follower lost its place in the log?", |follower| {
                u64::from(follower.peer.needs_snapshot_us.is_some())
            }),
        ];
        for (name, help, value) in gauges {
            text.push_str(&format!(
                "# HELP portolan_follower_{name} {help}\n# TYPE portolan_follower_{name} gauge\n"
            ));
            for (shard, known) in peers.iter() {
                for follower in &known.followers {
                    let region = &follower.peer.name;
                    text.push_str(&format!(
                        "portolan_follower_{name}{{shard=\"{shard}\",region=\"{region}\"}} {}\n",
                        value(follower)
                    ));
                }
            }
        }
    }
}

/// A slot that nobody reads keeps its server's write-ahead log: alarm on its age and on what it retains.
fn slot_metrics(known: &BTreeMap<ShardName, Known>, text: &mut String) {
    let slots: Vec<_> =
        known.iter().filter_map(|(shard, known)| Some((shard, known.slot.as_ref()?))).collect();
    if slots.is_empty() {
        return;
    }
    type Gauge = (&'static str, &'static str, fn(&Slot) -> String);
    let gauges: [Gauge; 3] = [
        ("active", "Does a gateway ship the shard's log?", |slot| u8::from(slot.active).to_string()),
        ("behind_seconds", "How old what is not shipped yet may be.", |slot| seconds(slot).to_string()),
        ("retained_bytes", "Bytes of the write-ahead log that the server keeps for the slot.", |slot| {
            slot.retained_bytes.to_string()
        }),
    ];
    for (name, help, value) in gauges {
        text.push_str(&format!("# HELP portolan_slot_{name} {help}\n# TYPE portolan_slot_{name} gauge\n"));
        for (shard, slot) in &slots {
            text.push_str(&format!("portolan_slot_{name}{{shard=\"{shard}\"}} {}\n", value(slot)));
        }
    }
}

fn seconds(slot: &Slot) -> f64 {
    Duration::from_micros(slot.behind_us).as_secs_f64()
}

/// Keeps the logs of the shards that are open here within bounds, until shutdown.
///
/// What wakes it: time. What it reads: the shards' logs and their peers. What it writes: the same. What fails is told once, and tried again.
pub(super) async fn run(shards: Shards, peers: Peers, shutdown: Shutdown) {
    let mut failed = BTreeMap::new();
    loop {
        let mut known = BTreeMap::new();
        for name in shards.names() {
            let Some((store, _)) = shards.open(&name) else { continue };
            match trim(&name, &store, &shards.followers_of(&name)).await {
                Ok(there) => {
                    failed.remove(&name);
                    known.insert(name, there);
                }
                Err(error) => {
                    let why = error.to_string();
                    if failed.insert(name.clone(), why.clone()) != Some(why) {
                        tracing::warn!(shard = %name, "the log is not trimmed: {error}");
                    }
                }
            }
        }
        peers.0.store(Arc::new(known));
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = shutdown.begun() => return,
        }
    }
}

async fn trim(
    name: &ShardName,
    store: &Store,
    followers: &[RegionName],
) -> Result<Known, portolan_changelog::Error> {
    for peer in store.peers().await? {
        // A region that keeps no copy any more holds nothing.
        if !followers.contains(&peer.peer.name) && store.drop_peer(&peer.peer.name).await? {
            tracing::info!(shard = %name, region = %peer.peer.name, "nothing is kept for it any more");
        }
    }
    for _ in 0..ROUNDS {
        let trimmed = store.trim(&Retention::default()).await?;
        for region in &trimmed.marked {
            tracing::warn!(shard = %name, %region, "it is too far behind, and must begin its copy anew");
        }
        if !trimmed.more {
            break;
        }
    }
    Ok(Known { followers: store.peers().await?, slot: store.slot().await? })
}
