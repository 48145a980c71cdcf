//! Copies of other regions' shards: which feeds this node follows, and to whom it gives what it writes.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::time::Duration;

use portolan_core::ids::{RegionName, ShardName};
use portolan_core::log::Epoch;
use portolan_foundation::shutdown::Shutdown;
use portolan_foundation::tls::PeerIdentity;
use portolan_foundation::{clock, task};
use portolan_replication::{FeedReport, Feeds, Followed, Refused, Sources, What, listen};
use portolan_sharding::{Freshness, Store};
use tokio::net::TcpListener;

use super::contents::Contents;
use super::duties::Duties;
use super::failover::{Failover, Speaker};
use super::listen::tcp;
use super::shards::Shards;
use crate::config::Config;

/// How many epochs a shard may be ahead of what this node knows.
const EPOCHS_AHEAD: u64 = 16;
/// From one look at which copies are open to the next.
const LOOK: Duration = Duration::from_millis(500);

/// Shards that this region keeps, and where others do; and where all other regions are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Copies(BTreeMap<ShardName, Others>, BTreeMap<RegionName, Other>);

/// Another region, whichever shards it keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Other {
    /// Where its gateways are.
    addresses: Vec<String>,
    /// Bytes a second that are taken of it, where there is a bound.
    rate: Option<NonZeroU64>,
}

/// The other regions that keep a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Others {
    /// Where their gateways are.
    addresses: BTreeMap<RegionName, Vec<String>>,
    epoch: Epoch,
    leads: bool,
    primary: RegionName,
    /// Bytes a second that are taken of each, where there is a bound.
    rates: BTreeMap<RegionName, NonZeroU64>,
    weight: NonZeroU32,
}

/// How fresh copies are, by the feeds that they follow, here or on another node.
#[derive(Debug)]
struct ByFeeds(Feeds, Duties);

/// Which regions may have which shards that this one has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Followers(BTreeMap<ShardName, Vec<RegionName>>);

impl Copies {
    pub(super) fn of(config: &Config) -> Self {
        let here = config.shards.iter().filter(|(_, shard)| shard.stores.contains_key(&config.local));
        let addresses = |region: &RegionName| {
            let region = config.regions.get(region);
            region
                .map_or_else(Vec::new, |region| region.replication.iter().map(|at| at.text.clone()).collect())
        };
        let rates = config.regions.iter();
        let rates: BTreeMap<RegionName, NonZeroU64> =
            rates.filter_map(|(name, region)| Some((name.clone(), region.replication_rate?))).collect();
        let copies = here.map(|(name, shard)| {
            let others = shard.stores.keys().filter(|region| **region != config.local);
            let addresses = others.map(|region| (region.clone(), addresses(region))).collect();
            let leads = shard.primary == config.local;
            let (primary, rates, weight) = (shard.primary.clone(), rates.clone(), shard.weight);
            (name.clone(), Others { addresses, epoch: shard.epoch, leads, primary, rates, weight })
        });
        let others = config.regions.iter().filter(|(name, _)| **name != config.local);
        let others = others.map(|(name, region)| {
            (name.clone(), Other { addresses: addresses(name), rate: region.replication_rate })
        });
        Self(copies.collect(), others.collect())
    }

    /// Where a region's gateways are, whichever shards it keeps, and how fast its bytes may come; none of no other region.
    pub(super) fn other(&self, region: &RegionName) -> Option<(Vec<String>, Option<NonZeroU64>)> {
        let other = self.1.get(region)?;
        Some((other.addresses.clone(), other.rate))
    }

    /// The region that writes a shard, and where its gateways are; none when that is this one.
    pub(super) fn primary(&self, shard: &ShardName) -> Option<(RegionName, Vec<String>)> {
        let others = self.0.get(shard)?;
        let addresses = others.addresses.get(&others.primary)?;
        Some((others.primary.clone(), addresses.clone()))
    }

    /// How fast a region's bytes of a shard may come, and what part of that is the shard's.
    pub(super) fn pace(
        &self,
        shard: &ShardName,
        region: &RegionName,
    ) -> Option<(Option<NonZeroU64>, NonZeroU32)> {
        let others = self.0.get(shard)?;
        Some((others.rates.get(region).copied(), others.weight))
    }

    /// Where the other regions' gateways are that keep a shard.
    pub(super) fn sources(&self, shard: &ShardName) -> BTreeMap<RegionName, Vec<String>> {
        self.0.get(shard).map_or_else(BTreeMap::new, |others| others.addresses.clone())
    }

    /// The databases of the shards that are open and that other regions keep, too.
    fn open(&self, shards: &Shards) -> BTreeMap<ShardName, Store> {
        let shared = self.0.iter().filter(|(_, others)| !others.addresses.is_empty());
        shared.filter_map(|(name, _)| Some((name.clone(), shards.open(name)?.0))).collect()
    }

    /// The feeds of these shards: of each other region that keeps one.
    fn feeds(&self, held: &BTreeMap<ShardName, Store>) -> BTreeMap<(ShardName, RegionName), Followed> {
        let mut feeds = BTreeMap::new();
        for (name, others) in &self.0 {
            let Some(store) = held.get(name) else { continue };
            // What comes is kept for third regions, where there are any.
            let keeps = others.addresses.len() > 1;
            for (region, addresses) in &others.addresses {
                let (addresses, primary) =
                    (addresses.clone(), (*region == others.primary).then_some(others.epoch));
                let (leads, store) = (others.leads, store.clone());
                let (rate, weight) = (others.rates.get(region).copied(), others.weight);
                let followed = Followed { addresses, keeps, leads, primary, rate, store, weight };
                feeds.insert((name.clone(), region.clone()), followed);
            }
        }
        feeds
    }
}

impl Followers {
    /// Regions that keep a shard; none when this one does not.
    pub(super) fn of_shard(&self, shard: &ShardName) -> Vec<RegionName> {
        self.0.get(shard).cloned().unwrap_or_default()
    }

    pub(super) fn of(config: &Config) -> Self {
        let here = config.shards.iter().filter(|(_, shard)| shard.stores.contains_key(&config.local));
        let followers = here.map(|(name, shard)| (name.clone(), shard.stores.keys().cloned().collect()));
        Self(followers.collect())
    }
}

/// The sockets that other regions reach this node's logs at.
///
/// # Errors
/// When an address cannot be listened on.
pub(super) fn bind(config: &Config) -> anyhow::Result<Vec<TcpListener>> {
    config.listen.replication.iter().map(|address| tcp(*address, "replication")).collect()
}

/// Follows what there is to follow, and answers who follows this region, until shutdown.
pub(super) fn start(
    listeners: Vec<TcpListener>,
    identity: Option<PeerIdentity>,
    (node, region): (&str, &RegionName),
    (shards, failover, contents): (&Shards, &Failover, &Contents),
    shutdown: &Shutdown,
) {
    let Some(identity) = identity else { return };
    for listener in listeners {
        let (identity, sources, shutdown) = (identity.clone(), Arc::new(shards.clone()), shutdown.clone());
        let speaker = Arc::new(Speaker {
            contents: contents.clone(),
            failover: failover.clone(),
            shards: shards.clone(),
        });
        task::spawn("replication", async move {
            if let Err(error) = listen(listener, identity, (sources, speaker), shutdown).await {
                tracing::error!("nobody can follow this region's shards: {error}");
            }
        });
    }
    let (feeds, duties) =
        (Feeds::new(identity, region.clone(), Arc::new(shards.clone()), shutdown.clone()), Duties::new(node));
    shards.follow_with(feeds.clone(), duties.clone());
    shards.read_copies(Arc::new(ByFeeds(feeds.clone(), duties.clone())));
    task::spawn("replication-feeds", keep(feeds, duties, shards.clone(), shutdown.clone()));
}

/// Has the feeds of open copies followed that no other node of the region follows.
///
/// What wakes it: time. What it reads: the shards and their copies. What it writes: which feeds there are, and who follows them. Nothing here
/// fails; feeds retry by themselves.
async fn keep(feeds: Feeds, duties: Duties, shards: Shards, shutdown: Shutdown) {
    loop {
        let copies = shards.copies();
        let held = duties.renew(copies.open(&shards), &feeds).await;
        feeds.follow(copies.feeds(&held));
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = shutdown.begun() => return duties.give_up().await,
        }
    }
}

impl portolan_sharding::Copies for ByFeeds {
    fn freshness(&self, shard: &ShardName) -> Option<Freshness> {
        let now = clock::now();
        let Some(report) = self.0.report(shard, now) else { return self.1.freshness(shard, now) };
        Some(Freshness { applied: report.applied, behind: Duration::from_millis(report.behind_ms?) })
    }
}

impl Sources for Shards {
    fn source(&self, shard: &str, follower: &RegionName, what: &What) -> Result<Store, Refused> {
        let name = ShardName::new(shard).map_err(|error| Refused::Forbidden(error.to_string()))?;
        match self.followers().0.get(&name) {
            Some(regions) if regions.contains(follower) => {}
            Some(_) => return Err(Refused::Forbidden(format!("shard `{name}` has no copy in `{follower}`"))),
            None => return Err(Refused::Away(format!("shard `{name}` is not kept here"))),
        }
        match what {
            What::Rows { .. } | What::Named(_) | What::Compare(_) => {
                let written = self.written(&name).map(|(store, _)| store);
                return written
                    .ok_or_else(|| Refused::Away(format!("this node has no lease of shard `{name}` now")));
            }
            What::Seal(epoch) => {
                // This node may not have heard of the last ones yet; nobody gives out many at once.
                let unknown = || Refused::Away(format!("who writes shard `{name}` is not known here yet"));
                let (there, primary) = self.meant(&name).ok_or_else(unknown)?;
                let far = epoch.0 > there.0.saturating_add(EPOCHS_AHEAD);
                if there > *epoch || there == *epoch && primary != *follower || far {
                    let why = format!("epoch {there} of shard `{name}` is of `{primary}`, as is known here");
                    return Err(Refused::Forbidden(why));
                }
            }
            What::Log { .. } | What::Report | What::Tail { .. } => {}
        }
        let open = self.open(&name).map(|(store, _)| store);
        open.ok_or_else(|| Refused::Away(format!("this node has not opened shard `{name}` yet")))
    }
}

/// Writes how feeds stand, as Prometheus reads it.
pub(super) fn metrics(text: &mut String, feeds: &[FeedReport]) {
    type Gauge = (&'static str, &'static str, &'static str, fn(&FeedReport) -> Option<f64>);
    let gauges: [Gauge; 7] = [
        ("up", "gauge", "Is the source's log followed?", |feed| {
            Some(f64::from(u8::from(feed.problem.is_none())))
        }),
        ("lag_seconds", "gauge", "How far the copy is behind its source.", |feed| {
            feed.lag_ms.map(|lag| lag as f64 / 1e3)
        }),
        ("silent_seconds", "gauge", "Since when nothing has been heard of the source.", |feed| {
            feed.silent_ms.map(|silent| silent as f64 / 1e3)
        }),
        (
            "horizon_seconds",
            "gauge",
            "How long the source's oldest record has waited for an open transaction.",
            |feed| Some(feed.waiting_ms as f64 / 1e3),
        ),
        ("records_total", "counter", "Records that were applied.", |feed| Some(feed.records as f64)),
        ("bytes_total", "counter", "Bytes that came.", |feed| Some(feed.bytes as f64)),
        ("parked", "gauge", "Changes that wait alone.", |feed| Some(feed.parked as f64)),
    ];
    if feeds.is_empty() {
        return;
    }
    for (name, kind, help, value) in gauges {
        text.push_str(&format!(
            "# HELP portolan_replication_{name} {help}\n# TYPE portolan_replication_{name} {kind}\n"
        ));
        for feed in feeds {
            if let Some(value) = value(feed) {
                let (shard, source) = (&feed.shard, &feed.source);
                text.push_str(&format!(
                    "portolan_replication_{name}{{shard=\"{shard}\",source=\"{source}\"}} {value}\n"
                ));
            }
        }
    }
}
