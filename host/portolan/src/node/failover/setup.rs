//! From the configuration to what a node's part in failover is made with.

use std::collections::BTreeMap;
use std::time::Duration;

use portolan_core::ids::{PolicyName, RegionName, ShardName};
use portolan_failover::agent::{Capacity, Setup, Shard};
use portolan_failover::members::Members;
use portolan_failover::picture::MaxLoss;
use portolan_failover::timers::{Profile, Timers};
use portolan_foundation::clock;
use portolan_sharding::Engine;

use crate::config::{Config, FailoverPolicy};

/// How much of a shard may be lost by an automatic failover where nothing is said of it: more wants somebody who decides so.
const LOSS_MAX: Duration = Duration::from_secs(5);

/// Requests per second of a region of which nothing is said: more than any has.
const CAPACITY: u64 = 1_000_000_000;

/// How another region is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Way {
    /// Its gateways' links, `host:port`.
    pub(super) gateways: Vec<String>,
    /// Its public way in, with who vouches for it.
    pub(super) ingress: Option<(http::Uri, Option<std::path::PathBuf>)>,
    /// Where its nodes are told words.
    pub(super) words: Vec<String>,
}

/// What is meant, by the configuration.
#[derive(Clone, Debug)]
pub(super) struct Meant {
    pub(super) policy: FailoverPolicy,
    pub(super) setup: Setup,
    pub(super) ways: BTreeMap<RegionName, Way>,
}

impl Meant {
    /// Of a configuration; none where people decide.
    pub(super) fn of(config: &Config) -> Option<Self> {
        let failover = config.failover.as_ref()?;
        let members = Members::new(config.regions.keys().cloned());
        let members =
            members.inspect_err(|error| tracing::error!("nobody decides of regions: {error}")).ok()?;
        let shards = config.shards.iter().map(|(name, shard)| {
            let allowed = config.directory.shards().iter().find(|there| there.name == *name);
            let class = allowed.and_then(|there| there.residency.as_ref());
            let shard = Shard {
                begun: (shard.epoch, shard.primary.clone()),
                exact: shard.stores.values().all(|engine| matches!(engine, Engine::Sqlite(_))),
                home: shard.home.clone(),
                regions: shard.stores.keys().cloned().collect(),
                // A class that nobody declares is nowhere.
                allowed: class.map(|class| config.residencies.get(class).cloned().unwrap_or_default()),
                max_loss: MaxLoss {
                    rows: u64::MAX,
                    bytes: u64::MAX,
                    ms: millis(shard.loss.map_or(LOSS_MAX, |loss| loss.max)),
                    window_rows: None,
                },
            };
            (name.clone(), shard)
        });
        let (policy, version) = match &failover.policy {
            FailoverPolicy::Native(name) => ((*name).to_owned(), None),
            FailoverPolicy::Component(slot) => (PolicyName::as_str(&slot.name).to_owned(), slot.version),
        };
        let capacity = |(name, region): (&RegionName, &crate::config::RegionConfig)| {
            let capacity = region.capacity.map_or(CAPACITY, std::num::NonZeroU64::get);
            (name.clone(), Capacity { capacity, load: 0 })
        };
        let setup = Setup {
            members,
            own: config.local.clone(),
            // Seconds of the wall clock rise with each start.
            boot: u32::try_from(clock::unix_ms() / 1_000).unwrap_or(u32::MAX),
            timers: timers(failover.fast, failover.failsafe),
            shards: shards.collect(),
            capacities: config.regions.iter().map(capacity).collect(),
            failback: failover.failback,
            policy,
            version,
        };
        let others = config.regions.iter().filter(|(name, _)| **name != config.local);
        let ways = others.map(|(name, region)| {
            let text = |all: &[crate::config::Authority]| all.iter().map(|at| at.text.clone()).collect();
            let way = Way {
                gateways: text(&region.gateways),
                ingress: region.ingress.clone(),
                words: text(&region.replication),
            };
            (name.clone(), way)
        });
        Some(Self { policy: failover.policy.clone(), setup, ways: ways.collect() })
    }

    /// Is an agent of this one well made for the other? What the store of intent says of who writes is no part of it.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let (ours, theirs) = (&self.setup, &other.setup);
        let shard = |shard: &Shard| {
            (shard.home.clone(), shard.regions.clone(), shard.allowed.clone(), shard.max_loss)
        };
        let shards = |setup: &Setup| -> BTreeMap<ShardName, _> {
            setup.shards.iter().map(|(name, there)| (name.clone(), shard(there))).collect()
        };
        self.policy == other.policy
            && self.ways == other.ways
            && ours.timers == theirs.timers
            && ours.capacities == theirs.capacities
            && ours.failback == theirs.failback
            && ours.version == theirs.version
            && ours.members == theirs.members
            && shards(ours) == shards(theirs)
    }
}

fn timers(fast: bool, failsafe: bool) -> Timers {
    let profile = if fast { Profile::Fast } else { Profile::Default };
    let mut timers = profile.timers();
    timers.lease.failsafe = failsafe;
    timers
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
