//! Where a shard's log is after somebody wrote past the gateway: one reader at work, whoever many want to know.
//!
//! Who asks needs a read that *begins* after it asked: the one that is under way may have looked before the asker's write was
//! there. So all that ask during one read share the next.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use portolan_core::log::Position;
use portolan_foundation::task;
use tokio::sync::watch;

use crate::shards::Cell;

/// Reads of a log's newest record, by number.
#[derive(Debug)]
pub(crate) struct Newest {
    reads: Mutex<Reads>,
    /// The number of the last read that ended, and what it found.
    told: watch::Sender<(u64, Option<Position>)>,
}

#[derive(Debug, Default)]
struct Reads {
    begun: u64,
    /// Is somebody at it?
    running: bool,
    wanted: u64,
}

impl Default for Newest {
    fn default() -> Self {
        Self { reads: Mutex::default(), told: watch::Sender::new((0, None)) }
    }
}

impl Newest {
    /// How many reads have ended.
    #[cfg(test)]
    pub(crate) fn count(&self) -> u64 {
        self.told.borrow().0
    }

    /// The number of the read to wait for, and whether somebody must begin to read.
    fn want(&self) -> (u64, bool) {
        let mut reads = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
        reads.wanted = reads.begun + 1;
        let idle = !std::mem::replace(&mut reads.running, true);
        (reads.wanted, idle)
    }

    /// The number of the next read, if anybody wants one.
    fn next(&self) -> Option<u64> {
        let mut reads = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
        reads.running = reads.wanted > reads.begun;
        reads.begun = reads.wanted;
        reads.running.then_some(reads.begun)
    }
}

/// The newest record of a shard's log, by a read that begins after this was called.
pub(crate) fn after_now(cell: &Arc<Cell>) -> impl Future<Output = Option<Position>> + Send + use<> {
    let mut told = cell.newest.told.subscribe();
    let (wanted, idle) = cell.newest.want();
    if idle {
        task::spawn("read where a log is", read(Arc::clone(cell)));
    }
    async move { told.wait_for(|(read, _)| *read >= wanted).await.ok().and_then(|told| told.1) }
}

/// Reads as long as somebody wants it.
async fn read(cell: Arc<Cell>) {
    while let Some(read) = cell.newest.next() {
        let position = match cell.open.load_full() {
            Some(open) => open.store.tip().await.ok(),
            None => None,
        };
        cell.newest.told.send_replace((read, position));
    }
}
