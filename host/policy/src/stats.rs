//! What the engine counts, as plain numbers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::confine::Confinement;

/// A number that only counts up, or up and down.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn subtract(&self, count: u64) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters of one engine.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) busy: Counter,
    pub(crate) cache_hits: Counter,
    pub(crate) cache_rejects: Counter,
    pub(crate) compiles: Counter,
    pub(crate) impure: Counter,
    pub(crate) log_lines_dropped: Counter,
    pub(crate) out_of_range: Counter,
    pub(crate) overruns: Counter,
    pub(crate) plans: Counter,
    pub(crate) purity_checks: Counter,
    pub(crate) refused: Counter,
    pub(crate) stores: Counter,
    pub(crate) traps: Counter,
    pub(crate) versions: Counter,
}

/// One live store, as long as this lives.
#[derive(Debug)]
pub(crate) struct Live(Arc<Counters>);

impl Live {
    pub(crate) fn count(counters: &Arc<Counters>) -> Self {
        counters.stores.add(1);
        Self(Arc::clone(counters))
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.0
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.stores.subtract(1);
    }
}

/// The state of an engine at one moment. Numbers without another unit count since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Questions that found their share of the thread used up, or no free instance.
    pub busy: u64,
    /// Why there is no compile cache, if one was asked for and there is none.
    pub cache_off: Option<String>,
    /// Versions whose code came from the cache.
    pub cache_hits: u64,
    /// Cache entries that were damaged or not ours, and were made again.
    pub cache_rejects: u64,
    /// What held the last child that compiled; none before the first, and where nobody compiles in a child.
    pub compiler_held_by: Option<Confinement>,
    /// Compilations.
    pub compiles: u64,
    /// Warm instances that had to leave for others.
    pub evictions: u64,
    /// Deciders that were found to answer differently when asked again.
    pub impure: u64,
    /// Lines of guests that were dropped.
    pub log_lines_dropped: u64,
    /// Answers that their rule does not have.
    pub out_of_range: u64,
    /// Calls that ran past their fuel or deadline.
    pub overruns: u64,
    /// Calls of `plan`.
    pub plans: u64,
    /// Instance slots that the address space gave.
    pub pool_slots: u32,
    /// Calls that were repeated to see whether the policy is pure.
    pub purity_checks: u64,
    /// Refusals, whatever the stage.
    pub refused: u64,
    /// Stores alive now, warm and running.
    pub stores: u64,
    /// Calls that trapped.
    pub traps: u64,
    /// Versions alive now.
    pub versions: u64,
    /// Bytes of the memories of warm instances now.
    pub warm_bytes: u64,
    /// Warm instances now.
    pub warm_instances: u64,
}
