//! What the cache counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// What has been done since the start, and what is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Answers that came for another client's question.
    pub collapsed: u64,
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// Resources that were not written to disk because too many waited.
    pub disk_dropped: u64,
    /// Answers that were fresh, or stale with leave.
    pub hits: u64,
    /// Bytes in memory.
    pub memory_bytes: u64,
    /// Resources in memory.
    pub memory_resources: u64,
    /// Requests for which nothing was stored.
    pub misses: u64,
    /// Purges, of any size.
    pub purges: u64,
    /// Questions to origins that are open.
    pub questions: u64,
    /// Answers that were not stored, because they may not be.
    pub refused: u64,
    /// Stored responses that stood in for an origin that failed.
    pub stood_in: u64,
    /// Responses that were stored.
    pub stored: u64,
    /// Stored responses that an origin confirmed.
    pub validated: u64,
}

/// Counters that many threads add to.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) collapsed: Counter,
    pub(crate) hits: Counter,
    pub(crate) misses: Counter,
    pub(crate) purges: Counter,
    pub(crate) refused: Counter,
    pub(crate) stood_in: Counter,
    pub(crate) stored: Counter,
    pub(crate) validated: Counter,
}

/// One of them.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
