//! Which copies this node follows other regions' logs into: of a region's nodes one does for each shard, and the others know from it how
//! fresh the copy is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use portolan_changelog::Duty;
use portolan_core::ids::{RegionName, ShardName};
use portolan_core::log::Position;
use portolan_core::time::Moment;
use portolan_foundation::clock;
use portolan_replication::Feeds;
use portolan_sharding::{Freshness, Store};
use serde::{Deserialize, Serialize};

/// From one time that a duty is renewed, or another's word is read, to the next.
const EVERY: Duration = Duration::from_secs(1);
/// How long a duty lasts: for so long nobody follows when a node dies.
const TTL: Duration = Duration::from_secs(4);
/// How long a database may take to answer before this node goes by what it knew.
const PATIENCE: Duration = Duration::from_secs(1);

/// The duties of a node. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Duties {
    known: Arc<ArcSwap<BTreeMap<ShardName, Known>>>,
    node: Arc<str>,
}

/// A duty, and when it was read.
#[derive(Clone, Debug)]
struct Known {
    at: Moment,
    duty: Duty,
    store: Store,
}

/// What a node that follows says of a copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Word {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    applied: Option<Position>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    behind_ms: Option<u64>,
    lag_ms: u64,
    #[serde(default)]
    silent_ms: u64,
    /// Whose log that is of.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    source: Option<RegionName>,
}

/// How far a copy has followed another region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Followed {
    /// What has been applied of its log.
    pub(super) applied: Option<Position>,
    /// How far behind that is, in milliseconds; it grows while the region is not heard.
    pub(super) lag_ms: u64,
    /// Since when it is not heard, in milliseconds.
    pub(super) silent_ms: u64,
}

impl Duties {
    pub(super) fn new(node: &str) -> Self {
        Self { known: Arc::default(), node: node.into() }
    }

    /// Renews those that are due. Returns the shards whose logs this node follows.
    pub(super) async fn renew(
        &self,
        copies: BTreeMap<ShardName, Store>,
        feeds: &Feeds,
    ) -> BTreeMap<ShardName, Store> {
        let (before, now) = (self.known.load_full(), clock::now());
        let asked = copies.into_iter().map(|(shard, store)| {
            let known = before.get(&shard).filter(|known| known.store.is(&store)).cloned();
            let note = word(&shard, feeds, now);
            async move {
                let due = known.as_ref().is_none_or(|known| now.since(known.at) >= EVERY);
                if !due {
                    return Some((shard, known?));
                }
                let taken = tokio::time::timeout(PATIENCE, store.take_duty(&self.node, TTL, &note)).await;
                match taken {
                    Ok(Ok(duty)) => {
                        if known.is_none_or(|known| known.duty.held != duty.held) {
                            let (node, held) = (&duty.node, duty.held);
                            tracing::info!(%shard, %node, held, "who follows other regions into this copy");
                        }
                        Some((shard, Known { at: now, duty, store }))
                    }
                    // Without its database nothing is followed either way.
                    Ok(Err(error)) => {
                        tracing::debug!(%shard, "no duty: {error}");
                        Some((shard, known?))
                    }
                    Err(_) => Some((shard, known?)),
                }
            }
        });
        let known: BTreeMap<ShardName, Known> =
            futures_util::future::join_all(asked).await.into_iter().flatten().collect();
        self.known.store(Arc::new(known));
        self.held()
    }

    /// The copies that this node follows other regions into.
    pub(super) fn held(&self) -> BTreeMap<ShardName, Store> {
        let known = self.known.load();
        let held = known.iter().filter(|(_, known)| known.duty.held);
        held.map(|(shard, known)| (shard.clone(), known.store.clone())).collect()
    }

    /// Gives all up.
    pub(super) async fn give_up(&self) {
        let known = self.known.swap(Arc::default());
        let held = known.iter().filter(|(_, known)| known.duty.held);
        let given_up = held.map(|(shard, known)| async move {
            let done = tokio::time::timeout(PATIENCE, known.store.leave_duty(&self.node)).await;
            if !matches!(done, Ok(Ok(()))) {
                tracing::debug!(%shard, "it ends by itself");
            }
        });
        futures_util::future::join_all(given_up).await;
    }

    /// Which other node follows other regions into a copy.
    pub(super) fn other(&self, shard: &ShardName) -> Option<String> {
        let known = self.known.load();
        known.get(shard).filter(|known| !known.duty.held).map(|known| known.duty.node.clone())
    }

    /// How far another node has followed a copy's primary or, where this one has not heard of it since it started, whoever followed before.
    pub(super) fn followed(&self, shard: &ShardName, primary: &RegionName, now: Moment) -> Option<Followed> {
        let all = self.known.load();
        let known = all.get(shard)?;
        let word: Word = serde_json::from_str(&known.duty.note).ok()?;
        // What was said before this node started may be of a region that led earlier.
        let same = word.source.as_ref().map_or(!known.duty.held, |source| source == primary);
        // What was said a while ago was so then.
        let since = known.duty.age.saturating_add(now.since(known.at));
        let since_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        same.then(|| Followed {
            applied: word.applied,
            lag_ms: word.lag_ms.saturating_add(since_ms),
            silent_ms: word.silent_ms.saturating_add(since_ms),
        })
    }

    /// How fresh a copy is by what another node says of it; none where this node follows, or the other says that some rows must not be read.
    pub(super) fn freshness(&self, shard: &ShardName, now: Moment) -> Option<Freshness> {
        let all = self.known.load();
        let known = all.get(shard).filter(|known| !known.duty.held)?;
        let word: Word = serde_json::from_str(&known.duty.note).ok()?;
        let since = known.duty.age.saturating_add(now.since(known.at));
        let behind = Duration::from_millis(word.behind_ms?).saturating_add(since);
        Some(Freshness { applied: word.applied, behind })
    }
}

/// What this node says of a copy that it follows into.
fn word(shard: &ShardName, feeds: &Feeds, now: Moment) -> String {
    let word = feeds.report(shard, now).and_then(|report| {
        let silent_ms = report.silent_ms.unwrap_or_default();
        let (applied, behind_ms) = (report.applied, report.behind_ms);
        let source = Some(report.source);
        let word = Word { applied, behind_ms, lag_ms: report.lag_ms?, silent_ms, source };
        serde_json::to_string(&word).ok()
    });
    word.unwrap_or_default()
}
