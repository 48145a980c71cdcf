//! How this region's copies of content stand: what has come, how old what they show may be, and what is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portolan_core::ids::{RegionName, ShardName, TenantName};
use portolan_core::time::Moment;
use serde::{Deserialize, Serialize};

use crate::defaults::VAULTS_MAX;

/// How a copy of a shard's content stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyReport {
    /// Tenants that lack something.
    pub behind: u64,
    /// How old what is shown of the others may be, in milliseconds; none before the source has told what there is.
    pub behind_ms: Option<u64>,
    /// Bytes that came.
    pub bytes: u64,
    /// Changes that were taken.
    pub changes: u64,
    /// Chunks that came whole.
    pub chunks: u64,
    /// Chunks that came and were not what their names say.
    pub damaged: u64,
    /// Bytes of contents that came as differences to what was here.
    pub patched_bytes: u64,
    /// Why something does not come; none when all does.
    pub problem: Option<String>,
    /// The shard.
    pub shard: ShardName,
    /// The region that it follows.
    pub source: RegionName,
    /// Changes that were here alone when another region began to write: they are kept, and shown by nobody.
    pub stranded: u64,
    /// Tenants whose content may not be in this region.
    pub withheld: u64,
}

/// What a node has come across in its own packs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    /// Chunks that were damaged.
    pub found: u64,
    /// Of those, the ones that another region gave again.
    pub repaired: u64,
}

/// All copies of a node, and what it keeps itself.
#[derive(Debug, Default)]
pub(super) struct Copies {
    all: Mutex<BTreeMap<ShardName, Standing>>,
    found: AtomicU64,
    repaired: AtomicU64,
    /// The pack of each tenant that was looked at last.
    scrubbed: Mutex<BTreeMap<(ShardName, TenantName), String>>,
}

/// One copy.
#[derive(Debug)]
struct Standing {
    behind: BTreeSet<TenantName>,
    counts: Counts,
    fresh: BTreeSet<TenantName>,
    /// When the source was asked what there is, and told it whole.
    heard: Option<Moment>,
    problem: Option<String>,
    source: RegionName,
    withheld: u64,
}

/// What is counted of a copy since it has been followed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) bytes: u64,
    pub(super) changes: u64,
    pub(super) chunks: u64,
    pub(super) damaged: u64,
    pub(super) patched_bytes: u64,
    pub(super) stranded: u64,
}

impl Copies {
    /// A copy is followed from now on.
    pub(super) fn begin(&self, shard: &ShardName, source: &RegionName, stranded: u64) {
        let counts = Counts { stranded, ..Counts::default() };
        let standing = Standing {
            behind: BTreeSet::new(),
            counts,
            fresh: BTreeSet::new(),
            heard: None,
            problem: None,
            source: source.clone(),
            withheld: 0,
        };
        self.all().insert(shard.clone(), standing);
    }

    /// A copy is not followed any more.
    pub(super) fn end(&self, shard: &ShardName) {
        self.all().remove(shard);
    }

    /// The source has told what there is: who has all of it, and who lacks some.
    pub(super) fn heard(
        &self,
        shard: &ShardName,
        at: Moment,
        (fresh, behind): (BTreeSet<TenantName>, BTreeSet<TenantName>),
        withheld: u64,
    ) {
        self.change(shard, |standing| {
            standing.heard = Some(at);
            (standing.fresh, standing.behind, standing.withheld) = (fresh, behind, withheld);
            if standing.behind.is_empty() {
                standing.problem = None;
            }
        });
    }

    /// A tenant has all that there was when the source was last asked.
    pub(super) fn caught_up(&self, shard: &ShardName, tenant: &TenantName) {
        self.change(shard, |standing| {
            standing.behind.remove(tenant);
            standing.fresh.insert(tenant.clone());
        });
    }

    /// Something does not come.
    pub(super) fn fails(&self, shard: &ShardName, why: String) {
        self.change(shard, |standing| standing.problem = Some(why));
    }

    /// Counts what came.
    pub(super) fn count(&self, shard: &ShardName, count: impl FnOnce(&mut Counts)) {
        self.change(shard, |standing| count(&mut standing.counts));
    }

    /// How old what is here of a tenant may be; none where something may be missing.
    pub(super) fn behind(&self, shard: &ShardName, tenant: &TenantName, now: Moment) -> Option<Duration> {
        let all = self.all();
        let standing = all.get(shard).filter(|standing| standing.fresh.contains(tenant))?;
        standing.heard.map(|heard| now.since(heard))
    }

    /// How they stand.
    pub(super) fn reports(&self, now: Moment) -> Vec<CopyReport> {
        let millis = |heard: Moment| u64::try_from(now.since(heard).as_millis()).unwrap_or(u64::MAX);
        let report = |(shard, standing): (&ShardName, &Standing)| CopyReport {
            behind: standing.behind.len() as u64,
            behind_ms: standing.heard.map(millis),
            bytes: standing.counts.bytes,
            changes: standing.counts.changes,
            chunks: standing.counts.chunks,
            damaged: standing.counts.damaged,
            patched_bytes: standing.counts.patched_bytes,
            problem: standing.problem.clone(),
            shard: shard.clone(),
            source: standing.source.clone(),
            stranded: standing.counts.stranded,
            withheld: standing.withheld,
        };
        self.all().iter().map(report).collect()
    }

    /// A chunk is damaged in its pack.
    pub(super) fn found_damage(&self) {
        self.found.fetch_add(1, Ordering::Relaxed);
    }

    /// It is not any more.
    pub(super) fn repaired(&self) {
        self.repaired.fetch_add(1, Ordering::Relaxed);
    }

    /// What was damaged.
    pub(super) fn damage(&self) -> Damage {
        Damage { found: self.found.load(Ordering::Relaxed), repaired: self.repaired.load(Ordering::Relaxed) }
    }

    /// The pack of a tenant that was looked at last.
    pub(super) fn scrubbed(&self, shard: &ShardName, tenant: &TenantName) -> String {
        let scrubbed = self.scrubbed.lock().unwrap_or_else(PoisonError::into_inner);
        scrubbed.get(&(shard.clone(), tenant.clone())).cloned().unwrap_or_default()
    }

    /// The next pack that is looked at follows this one.
    pub(super) fn scrub_from(&self, shard: &ShardName, tenant: &TenantName, pack: String) {
        let mut scrubbed = self.scrubbed.lock().unwrap_or_else(PoisonError::into_inner);
        let place = (shard.clone(), tenant.clone());
        if pack.is_empty() {
            scrubbed.remove(&place);
        } else if scrubbed.len() < VAULTS_MAX || scrubbed.contains_key(&place) {
            scrubbed.insert(place, pack);
        }
    }

    fn change(&self, shard: &ShardName, change: impl FnOnce(&mut Standing)) {
        let mut all = self.all();
        if let Some(standing) = all.get_mut(shard) {
            change(standing);
        }
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<ShardName, Standing>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
