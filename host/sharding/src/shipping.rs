//! Ships the log of a shard whose records come out of PostgreSQL's write-ahead log, for as long as the shard is open here.
//!
//! What wakes it: the slot, and time. What it reads: the slot. What it writes: the shard's log. On failure it says why, once, and begins again after
//! a pause, from what is in the log. Of a region's nodes one ships at a time; the others wait until it is gone.

use portolan_changelog::Store;
use portolan_core::backoff::full_jitter;
use portolan_core::ids::ShardName;
use portolan_foundation::shutdown::Shutdown;
use portolan_foundation::{clock, random, task};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::defaults::{RELEASE, RETRY_MAX, RETRY_MIN, SLOT_BYTES_MAX};

/// A log that is being shipped. It ends with this.
#[derive(Debug)]
pub(crate) struct Shipping {
    end: Shutdown,
    running: Option<JoinHandle<Option<()>>>,
}

impl Shipping {
    /// Starts; none where triggers write into the log themselves.
    pub(crate) fn start(shard: &ShardName, store: &Store, shutdown: &Shutdown) -> Option<Self> {
        store.ships().then(|| {
            let end = shutdown.child();
            let running = task::spawn("ship a log", run(shard.clone(), store.clone(), end.clone()));
            Self { end, running: Some(running) }
        })
    }

    /// Ends, and nobody will ship it: the server keeps nothing for it any more.
    pub(crate) async fn release(mut self, shard: &ShardName, store: &Store) {
        self.end.begin();
        if let Some(running) = self.running.take() {
            // It has nothing to tell.
            drop(running.await);
        }
        match timeout(RELEASE, store.give_up_slot()).await {
            Ok(Ok(())) => tracing::info!(%shard, "its log is not shipped any more"),
            Ok(Err(error)) => left(shard, &error.to_string()),
            Err(_) => left(shard, "the database does not answer in time"),
        }
    }
}

fn left(shard: &ShardName, why: &str) {
    tracing::error!(
        %shard,
        "its slot is left behind, and keeps the server's write-ahead log: {why}; drop it by `SELECT pg_drop_replication_slot(slot_name) FROM \
         pg_replication_slots WHERE slot_name LIKE 'portolan_%' AND database = current_database()`"
    );
}

impl Drop for Shipping {
    fn drop(&mut self) {
        self.end.begin();
    }
}

async fn run(shard: ShardName, store: Store, end: Shutdown) {
    let (mut failures, mut told) = (0_u32, String::new());
    loop {
        let begun = clock::now();
        tokio::select! {
            shipped = Box::pin(store.ship()) => {
                let Err(error) = shipped else { return };
                let why = error.to_string();
                if why != told {
                    tracing::warn!(%shard, "its log is not shipped: {why}");
                    told = why;
                }
                // What went well for a while has failed once.
                let went_well = clock::now().since(begun) > RETRY_MAX;
                failures = if went_well { 1 } else { failures.saturating_add(1) };
                give_way(&shard, &store).await;
            }
            () = end.begun() => return,
        }
        tokio::select! {
            () = tokio::time::sleep(full_jitter(failures, RETRY_MIN, RETRY_MAX, random::u64())) => {}
            () = end.begun() => return,
        }
    }
}

/// The server's disk comes before what it keeps for a log that cannot be shipped.
async fn give_way(shard: &ShardName, store: &Store) {
    if store.bound_slot(SLOT_BYTES_MAX).await.is_ok_and(|given_up| given_up) {
        tracing::error!(
            %shard,
            "its slot is given up, because the server kept more than {SLOT_BYTES_MAX} bytes for it; copies in other regions begin anew once it can be \
             shipped"
        );
    }
}
