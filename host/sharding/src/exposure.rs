//! How long a shard is exposed: since when it has records that no other region has received, and what that means for its writes.
//!
//! A look finds since when; until the next look, everything that has been written after it may be unreceived too. So what is told between
//! looks is a bound, and a database that does not answer looks is exposed ever longer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use portolan_changelog::{Error, Store};
use portolan_core::ids::RegionName;
use portolan_core::loss::{Admission, LossLimit};
use portolan_core::time::Moment;
use portolan_foundation::shutdown::Shutdown;
use portolan_foundation::{clock, task};
use tokio::time::timeout;

use crate::config::Kept;
use crate::defaults::{EXPOSURE_LOOK, EXPOSURE_LOOK_MAX, EXPOSURE_PART};
use crate::shards::{Cell, Shards};

/// How long one shard is exposed, and how long it may be.
#[derive(Debug, Default)]
pub(crate) struct Exposure {
    /// When the last look began; 0 before the first.
    looked: AtomicU64,
    looking: AtomicBool,
    /// Since when there may be records that no other region has; 0 while that is nobody's to know here.
    since: AtomicU64,
    terms: ArcSwap<Terms>,
    /// Writes that were answered as unconfirmed.
    unconfirmed: AtomicU64,
}

/// Who keeps the shard besides this region, and how long it may be exposed.
#[derive(Debug, Default)]
pub(crate) struct Terms {
    pub(crate) limit: Option<LossLimit>,
    pub(crate) others: BTreeSet<RegionName>,
}

impl Exposure {
    /// From now on the shard is kept so.
    pub(crate) fn follow(&self, kept: &Kept) {
        self.terms.store(Arc::new(Terms { limit: kept.loss, others: kept.others.clone() }));
    }

    pub(crate) fn terms(&self) -> Arc<Terms> {
        self.terms.load_full()
    }

    /// For how long the shard may be exposed now; none while this region does not write it, or no other keeps it.
    pub(crate) fn exposed(&self, now: Moment) -> Option<Duration> {
        let since = self.since.load(Ordering::Relaxed);
        (since > 0).then(|| now.since(Moment(since)))
    }

    /// What becomes of a write now.
    pub(crate) fn admit(&self, now: Moment) -> Admission {
        match (self.terms.load().limit, self.exposed(now)) {
            (Some(limit), Some(exposed)) => limit.admit(exposed),
            _ => Admission::Pass,
        }
    }

    pub(crate) fn unconfirmed(&self) -> u64 {
        self.unconfirmed.load(Ordering::Relaxed)
    }

    pub(crate) fn count_unconfirmed(&self) {
        self.unconfirmed.fetch_add(1, Ordering::Relaxed);
    }

    /// Is it time for a look? Then it begins, and nobody else looks meanwhile.
    fn begins(&self, now: Moment) -> bool {
        let every = self.terms.load().limit.map_or(EXPOSURE_LOOK_MAX, |limit| {
            (limit.max / EXPOSURE_PART).clamp(EXPOSURE_LOOK, EXPOSURE_LOOK_MAX)
        });
        let looked = self.looked.load(Ordering::Relaxed);
        let due = looked == 0 || now.since(Moment(looked)) >= every;
        if !due || self.looking.swap(true, Ordering::Relaxed) {
            return false;
        }
        self.looked.store(now.0.max(1), Ordering::Relaxed);
        // Looks that never succeed expose it as well.
        let _begun = self.since.compare_exchange(0, now.0.max(1), Ordering::Relaxed, Ordering::Relaxed);
        true
    }

    /// A look that began at a moment ends, and found for how long it was exposed then; nothing when it failed.
    fn ends(&self, begun: Moment, found: Option<Duration>) {
        if let Some(exposed) = found {
            let exposed = u64::try_from(exposed.as_micros()).unwrap_or(u64::MAX);
            self.since.store(begun.0.saturating_sub(exposed).max(1), Ordering::Relaxed);
        }
        self.looking.store(false, Ordering::Relaxed);
    }

    /// This region does not write the shard, or no other keeps it.
    fn forget(&self) {
        self.since.store(0, Ordering::Relaxed);
        self.looked.store(0, Ordering::Relaxed);
    }
}

/// Watches for how long shards are exposed, until shutdown.
///
/// What wakes it: time. What it reads: shards' logs and their peers. What it writes: for how long each is exposed. A look that fails leaves
/// what was known, which is exposed for longer with time.
pub(crate) async fn watch(shards: Shards, shutdown: Shutdown) {
    loop {
        for cell in shards.cells() {
            let now = clock::now();
            let open = cell.open.load_full().filter(|_| cell.lease(now).is_some());
            let terms = cell.exposure.terms();
            match open {
                Some(open) if !terms.others.is_empty() => {
                    if cell.exposure.begins(now) {
                        task::spawn("look at what may be lost", look(cell, open.store.clone(), terms, now));
                    }
                }
                _ => cell.exposure.forget(),
            }
        }
        tokio::select! {
            () = tokio::time::sleep(EXPOSURE_LOOK) => {}
            () = shutdown.begun() => return,
        }
    }
}

async fn look(cell: Arc<Cell>, store: Store, terms: Arc<Terms>, begun: Moment) {
    let silent = || Err(Error::Away("no answer".to_owned()));
    let looked = timeout(EXPOSURE_LOOK_MAX, store.look_at_exposure(&terms.others)).await;
    let found = looked.unwrap_or_else(|_| silent());
    if let Err(error) = &found {
        tracing::debug!(shard = %cell.name(), "what may be lost was not looked at: {error}");
    }
    cell.exposure.ends(begun, found.ok().map(|look| look.exposed()));
}

#[cfg(test)]
mod tests {
    use portolan_changelog::Engine;
    use portolan_core::ids::RegionName;
    use portolan_core::log::Epoch;
    use portolan_core::loss::PastMaxLoss;

    use super::*;
    use crate::Watermarks;

    fn kept(max_s: u64) -> Kept {
        let region = |name| RegionName::new(name).unwrap();
        Kept {
            engine: Engine::Sqlite("a.db".into()),
            epoch: Epoch(1),
            loss: Some(LossLimit { max: Duration::from_secs(max_s), past: PastMaxLoss::Refuse }),
            marks: Watermarks::default(),
            others: [region("us")].into(),
            partial: false,
            primary: region("eu"),
        }
    }

    #[test]
    fn what_is_not_known_to_be_received_is_exposed() {
        let exposure = Exposure::default();
        exposure.follow(&kept(10));
        let at = |seconds: u64| Moment(seconds * 1_000_000);
        assert_eq!((exposure.exposed(at(50)), exposure.admit(at(50))), (None, Admission::Pass));
        assert!(exposure.begins(at(50)) && !exposure.begins(at(55)), "one look at a time");
        // None has succeeded yet.
        assert_eq!(
            (exposure.exposed(at(60)), exposure.admit(at(60))),
            (Some(Duration::from_secs(10)), Admission::Pass)
        );
        assert_eq!(exposure.admit(at(61)), Admission::Refuse);
        exposure.ends(at(50), None);
        assert_eq!(exposure.admit(at(61)), Admission::Refuse);
        assert!(exposure.begins(at(61)));
        exposure.ends(at(61), Some(Duration::ZERO));
        assert_eq!(exposure.admit(at(61)), Admission::Pass);
        // The oldest record that nobody has was written four seconds before the look.
        assert!(!exposure.begins(at(61)) && exposure.begins(at(64)));
        exposure.ends(at(64), Some(Duration::from_secs(4)));
        assert_eq!(exposure.exposed(at(65)), Some(Duration::from_secs(5)));
        exposure.forget();
        assert_eq!(exposure.admit(at(900)), Admission::Pass);
    }
}
