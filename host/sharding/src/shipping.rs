//! Ships the log of a shard whose records come out of PostgreSQL's write-ahead log, for as long as the shard is open here.
//!
//! What wakes it: the slot, and time. What it reads: the slot. What it writes: the shard's log. On failure it says why, once, and begins again after
//! a pause, from what is in the log. Of a region's nodes one ships at a time; the others wait until it is gone.

use portolan_changelog::Store;
use portolan_core::backoff::full_jitter;
use portolan_core::ids::ShardName;
use portolan_foundation::shutdown::Shutdown;
use portolan_foundation::{random, task};

use crate::defaults::{RETRY_MAX, RETRY_MIN};

/// A log that is being shipped. It ends with this.
#[derive(Debug)]
pub(crate) struct Shipping(Shutdown);

impl Shipping {
    /// Starts; none where triggers write into the log themselves.
    pub(crate) fn start(shard: &ShardName, store: &Store, shutdown: &Shutdown) -> Option<Self> {
        store.ships().then(|| {
            let end = shutdown.child();
            task::spawn("ship a log", run(shard.clone(), store.clone(), end.clone()));
            Self(end)
        })
    }
}

impl Drop for Shipping {
    fn drop(&mut self) {
        self.0.begin();
    }
}

async fn run(shard: ShardName, store: Store, end: Shutdown) {
    let (mut failures, mut told) = (0_u32, String::new());
    loop {
        tokio::select! {
            shipped = Box::pin(store.ship()) => {
                let Err(error) = shipped else { return };
                let why = error.to_string();
                if why != told {
                    tracing::warn!(%shard, "its log is not shipped: {why}");
                    told = why;
                }
                failures = failures.saturating_add(1);
            }
            () = end.begun() => return,
        }
        tokio::select! {
            () = tokio::time::sleep(full_jitter(failures, RETRY_MIN, RETRY_MAX, random::u64())) => {}
            () = end.begun() => return,
        }
    }
}
