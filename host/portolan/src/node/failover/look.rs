//! How this node looks at other regions, and at its own copies.

use std::time::Duration;

use portolan_core::ids::{RegionName, ShardName};
use portolan_core::log::Position;
use portolan_failover::agent::{Event, Word};
use portolan_failover::counter::{Outcome, Reason};
use portolan_failover::matrix::Path;
use portolan_failover::timers::Probe;
use portolan_foundation::clock;
use portolan_foundation::shutdown::Shutdown;
use portolan_foundation::tls::PeerIdentity;
use portolan_proxy::reach::{self, Unreached};
use portolan_sharding::Store;
use tokio::sync::mpsc;

use super::setup::Way;
use crate::node::duties::Followed;
use crate::node::shards::Shards;

/// How long a database may take to say how it stands.
const PATIENCE: Duration = Duration::from_millis(900);

/// Looks at a region by the links of its gateways and by its public way in, until the end.
///
/// What wakes it: time. What it writes: events for the agent. What fails is an outcome.
pub(super) async fn look_at(
    region: RegionName,
    way: Way,
    (identity, probe): (PeerIdentity, Probe),
    inbox: mpsc::Sender<Event>,
    end: Shutdown,
) {
    loop {
        let peer = async {
            let looks = way.gateways.iter().map(|address| reach::gateway(&identity, &region, address));
            let looks = looks.map(|look| tokio::time::timeout(probe.timeout, look));
            best(futures_util::future::join_all(looks).await)
        };
        let ingress = async {
            let (uri, authorities) = way.ingress.as_ref()?;
            let look = reach::ingress(uri, authorities.as_deref());
            Some(best(vec![tokio::time::timeout(probe.timeout, look).await]))
        };
        let begun = clock::now();
        let (peer, ingress) = tokio::join!(peer, ingress);
        // Without a public way in that is named, the link stands for both.
        for (path, outcome) in [(Path::Peer, peer), (Path::Ingress, ingress.unwrap_or(peer))] {
            if inbox.send(Event::Probed(region.clone(), path, outcome)).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(probe.interval.saturating_sub(clock::now().since(begun))) => {}
            () = end.begun() => return,
        }
    }
}

/// A region is as well as the best of its gateways.
fn best(looks: Vec<Result<Result<(), Unreached>, tokio::time::error::Elapsed>>) -> Outcome {
    let outcomes = looks.into_iter().map(|look| match look {
        Ok(Ok(())) => Outcome::Ok,
        Ok(Err(Unreached::Identity(_))) => Outcome::Identity,
        Ok(Err(Unreached::Refused(_))) => Outcome::Failed(Reason::Refused),
        Ok(Err(Unreached::Status(_))) => Outcome::Failed(Reason::Status),
        Ok(Err(Unreached::Broken(_))) => Outcome::Failed(Reason::Other),
        Err(_) => Outcome::Failed(Reason::Timeout),
    });
    let rank = |outcome: &Outcome| match outcome {
        Outcome::Ok => 0,
        Outcome::Identity => 1,
        Outcome::Failed(_) => 2,
    };
    outcomes.min_by_key(rank).unwrap_or(Outcome::Failed(Reason::Other))
}

/// Says how this region's copies stand, and whether its databases answer, until the end.
///
/// What wakes it: time. What it reads: the copies' databases, and the feeds. What it writes: events for the agent.
pub(super) async fn look_here(
    region: RegionName,
    names: Vec<ShardName>,
    every: Duration,
    shards: Shards,
    inbox: mpsc::Sender<Event>,
    end: Shutdown,
) {
    loop {
        let words = names.iter().map(async |name| {
            let Some((store, _)) = shards.open(name) else { return Err(Reason::Other) };
            match tokio::time::timeout(PATIENCE, word(&shards, name, &store)).await {
                Ok(Ok(word)) => Ok(word),
                Ok(Err(error)) => {
                    tracing::debug!(shard = %name, "its copy does not say how it stands: {error}");
                    Err(Reason::Other)
                }
                Err(_) => Err(Reason::Timeout),
            }
        });
        let words = futures_util::future::join_all(words).await;
        let failed = words.iter().find_map(|word| word.as_ref().err().copied());
        for word in words.into_iter().flatten() {
            if inbox.send(Event::Word(word)).await.is_err() {
                return;
            }
        }
        if !names.is_empty() {
            let outcome = failed.map_or(Outcome::Ok, Outcome::Failed);
            drop(inbox.send(Event::Probed(region.clone(), Path::Database, outcome)).await);
        }
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = end.begun() => return,
        }
    }
}

/// How a copy stands.
async fn word(shards: &Shards, name: &ShardName, store: &Store) -> Result<Word, portolan_changelog::Error> {
    let epoch = store.lineage().await?.epoch();
    let primary = shards.meant(name).map(|(_, primary)| primary);
    let (position, behind_ms, silent_ms) = match primary {
        Some(primary) if primary == *store.origin() => (store.tip().await?, 0, 0),
        Some(primary) => match shards.follows(name, &primary) {
            Some(Followed { applied, lag_ms, silent_ms }) => {
                // What was noted a moment before its node ended has gone on until then.
                let there = store.progress(primary.as_str()).await?.map(|progress| progress.applied);
                // Its lag grows while the primary is not heard.
                (applied.max(there).unwrap_or(Position::START), lag_ms.saturating_sub(silent_ms), silent_ms)
            }
            // Of what it lacks that follows nobody, nothing is known.
            None => (Position::START, 0, u64::MAX),
        },
        None => (Position::START, 0, u64::MAX),
    };
    let whole = store.is_complete().await?;
    let rows = position.sequence;
    let (head_rows, behind_bytes) = (rows, 0);
    let shard = name.clone();
    Ok(Word {
        shard,
        epoch,
        position,
        rows,
        head_rows,
        behind_bytes,
        behind_ms,
        silent_ms,
        well: None,
        whole,
    })
}
