//! Made-up regions and shards, of which some fail, and a failover policy over them. Everything is well at first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use portolan_core::failover::{self, Detour, Intent, Picture, Region, Replica, Shard, Sight, Verdict};
use portolan_core::ids::ShardName;

use super::region_name;
use crate::draft::Refusal;
use crate::failing_host as host;
use crate::failover::{Failover, glue};

/// For how long a region is down that is down.
const DOWN_MS: u64 = 60_000;
/// Requests per second of a region of which nothing else is said.
const CAPACITY: u64 = 1_000;

/// Regions and shards as one node knows them.
#[derive(Clone, Debug)]
pub struct Outage(Picture);

impl Outage {
    /// Regions that are well, as seen from the first one.
    ///
    /// # Panics
    /// Without any region.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a test without regions is to fail")]
    pub fn new(regions: &[&str]) -> Self {
        let well = Region {
            answers: true,
            capacity: CAPACITY,
            database: true,
            down_ms: 0,
            intents: BTreeSet::new(),
            load: 0,
            verdict: Verdict::Healthy,
            well_ago_ms: Some(0),
        };
        Self(Picture {
            control: true,
            detours: BTreeMap::new(),
            failures: Vec::new(),
            frozen: false,
            limits: BTreeMap::from([("headroom-percent", 80), ("outage-ms", 3_000)]),
            local: region_name(regions.first().expect("a region")),
            now_ms: 1_800_000_000_000,
            regions: regions.iter().map(|name| (region_name(name), well.clone())).collect(),
            removals: Vec::new(),
            shards: BTreeMap::new(),
            sights: BTreeMap::new(),
        })
    }

    /// A shard with the region that writes it, and its replicas, the most advanced first, each with the rows that it lacks. No row
    /// may be lost.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a test that misspells a name is to fail")]
    pub fn shard(mut self, name: &str, primary: &str, replicas: &[(&str, u64)]) -> Self {
        let replica = |(region, behind_rows): &(&str, u64)| Replica {
            ago_ms: 0,
            behind_bytes: 0,
            behind_ms: 0,
            behind_rows: *behind_rows,
            current: true,
            region: region_name(region),
            rows: 1_000,
            whole: true,
        };
        let shard = Shard {
            allowed: None,
            home: region_name(primary),
            loss_bytes_max: u64::MAX,
            loss_ms_max: u64::MAX,
            loss_rows_max: 0,
            primary: region_name(primary),
            replicas: replicas.iter().map(replica).collect(),
            running: false,
            void: false,
        };
        self.0.shards.insert(ShardName::new(name).expect("a shard's name"), shard);
        self
    }

    /// So many rows of each shard may be lost.
    #[must_use]
    pub fn loss_rows(mut self, rows: u64) -> Self {
        self.0.shards.values_mut().for_each(|shard| shard.loss_rows_max = rows);
        self
    }

    /// A region is down, for as long as it takes.
    #[must_use]
    pub fn down(self, name: &str) -> Self {
        self.with(name, |region| {
            (region.answers, region.down_ms, region.verdict) = (false, DOWN_MS, Verdict::Down);
        })
    }

    /// A region is there, and does not do its work.
    #[must_use]
    pub fn gray(self, name: &str) -> Self {
        self.with(name, |region| region.verdict = Verdict::Gray)
    }

    /// An operator says that a region is drained.
    #[must_use]
    pub fn drained(self, name: &str) -> Self {
        self.with(name, |region| region.intents.extend([Intent::Drain]))
    }

    /// So many requests per second come to a region.
    #[must_use]
    pub fn load(self, name: &str, load: u64) -> Self {
        self.with(name, |region| region.load = load)
    }

    /// So much of a region's traffic goes to another already.
    #[must_use]
    pub fn detour(mut self, name: &str, target: &str, percent: u8) -> Self {
        let detour = Detour { percent, since_ms: 0, target: region_name(target) };
        self.0.detours.insert(region_name(name), detour);
        self
    }

    /// A region does not answer another over a path: `control`, `database`, `ingress`, `peer` or `replication`.
    ///
    /// # Panics
    /// For another path.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a test that misspells a path is to fail")]
    pub fn silent(mut self, name: &str, vantage: &str, path: &str) -> Self {
        let path = failover::PATHS.iter().find(|known| **known == path).expect("a path");
        let cells = self.0.sights.entry((region_name(name), region_name(vantage))).or_default();
        cells.insert(path, Sight::Down);
        self
    }

    /// Asks what is to be done, in words: `hold`, `promote SHARD in REGION`, `read-only SHARD`, `drain REGION`,
    /// `shift PERCENT % of REGION to TARGET`.
    ///
    /// # Errors
    /// The policy's refusal, or the gateway's of a flood.
    pub fn propose<P: Failover>(&self, config: &str) -> Result<Vec<String>, Refusal> {
        host::lend(failover::Answers::new(Arc::new(self.0.clone())));
        let said = glue::propose::<P>(config);
        let answers = host::take();
        said?;
        let answers = answers.ok_or_else(|| Refusal::value("the policy took its own answers"))?;
        let proposed =
            answers.finish().map_err(|refusal| Refusal { code: refusal.code, message: refusal.message })?;
        Ok(proposed.iter().map(ToString::to_string).collect())
    }

    #[expect(clippy::expect_used, reason = "a test that misspells a name is to fail")]
    fn with(mut self, name: &str, change: impl FnOnce(&mut Region)) -> Self {
        change(self.0.regions.get_mut(name).expect("a region of the outage"));
        self
    }
}
