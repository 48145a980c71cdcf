//! Writes that are done only once other regions have received them.
//!
//! A write of a table that asks for it waits after its commit, without a connection or a turn, until enough of the other regions that
//! keep the shard have said that they have received its last record. It asks for what the tables want that the request names; what
//! the database's own triggers write besides does not count. On PostgreSQL the log is read up to the oldest open transaction, so that one
//! that stays open holds confirmations back.
//!
//! # What is not promised
//! A write that is not confirmed in time *is* written here: nobody takes it back, and it goes to the other regions when they come. Writers
//! that go past the gateway wait for nobody.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, Response};
use portolan_changelog::Store;
use portolan_changelog::defaults::RECEIPTS_LOOK;
use portolan_core::ids::RegionName;
use portolan_core::log::Position;
use portolan_core::loss::Durability;
use portolan_foundation::clock;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use crate::defaults::CONFIRM_WAIT;
use crate::refuse;
use crate::route::TOKEN;
use crate::shards::Cell;

/// What an answer waits for before it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Awaited {
    pub(crate) durability: Durability,
    /// The last record of what was written.
    pub(crate) position: Position,
}

/// Gives an answer once what it waits for is there, or says that it is not.
pub(crate) async fn confirmed(cell: &Cell, store: &Store, answer: Response<Bytes>) -> Response<Bytes> {
    let Some(awaited) = answer.extensions().get::<Awaited>().copied() else { return answer };
    let terms = cell.exposure.terms();
    if received(store, &terms.others, awaited, CONFIRM_WAIT).await {
        return answer;
    }
    cell.exposure.count_unconfirmed();
    tracing::debug!(shard = %cell.name(), position = %awaited.position, "a write was not confirmed in time");
    let token = answer.headers().get(TOKEN);
    let problem = refuse::unconfirmed(awaited.durability, token.and_then(|token| token.to_str().ok()));
    let mut response = problem.response();
    response.headers_mut().extend(token.map(|token| (HeaderName::from_static(TOKEN), token.clone())));
    response
}

/// Waits until enough of these regions have received what lies at a position, for so long. Says whether they have.
pub(crate) async fn received(
    store: &Store,
    others: &BTreeSet<RegionName>,
    awaited: Awaited,
    patience: Duration,
) -> bool {
    let mut watching = store.watch_receipts();
    store.wake_readers();
    let mut look = interval_at(Instant::now() + RECEIPTS_LOOK, RECEIPTS_LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let waited = timeout(patience, async {
        while !awaited.durability.is_met(others, &watching.now().0, awaited.position) {
            tokio::select! {
                // Both are cancel-safe.
                () = watching.changed() => {}
                _ = look.tick() => {
                    if let Err(error) = store.look_at_receipts(clock::now()).await {
                        tracing::debug!("what others have received was not looked at: {error}");
                    }
                }
            }
        }
    });
    waited.await.is_ok()
}
