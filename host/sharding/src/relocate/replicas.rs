//! What a move brought is in another region, too, before the tenant is there alone.

use std::time::Duration;

use portolan_core::loss::Durability;

use super::{Error, Relocation, Replicas};
use crate::defaults::MOVE_REPLICAS_HELD;
use crate::durable::{Awaited, received};

impl Relocation<'_> {
    /// Waits until a replica of the target has received all that was copied, where it must. Says whether it had to.
    ///
    /// # Errors
    /// [`Error::Aborted`] when none has in time, with the regions that lag.
    pub(super) async fn replicated(&self) -> Result<bool, Error> {
        match &self.to.replicas {
            Some(replicas) => self.within_reach(replicas, replicas.patience).await.map(|()| true),
            None => Ok(false),
        }
    }

    /// The same, for what came last, while the tenant is held.
    ///
    /// # Errors
    /// As [`Self::replicated`].
    pub(super) async fn replicated_held(&self) -> Result<(), Error> {
        match &self.to.replicas {
            Some(replicas) => self.within_reach(replicas, MOVE_REPLICAS_HELD).await,
            None => Ok(()),
        }
    }

    async fn within_reach(&self, replicas: &Replicas, patience: Duration) -> Result<(), Error> {
        let store = &self.to.store;
        let position = store.tip().await?;
        let awaited = Awaited { durability: Durability::OneRegion, position };
        // What comes is written under this lease: where nothing is, there is nothing to wait for.
        if position.epoch < self.to.epoch || received(store, &replicas.regions, awaited, patience).await {
            return Ok(());
        }
        let known = store.watch_receipts().now().0;
        let lags = replicas.regions.iter().map(|region| match known.get(region) {
            Some(at) => format!("`{region}` has received {at}"),
            None => format!("`{region}` has received nothing"),
        });
        let lags: Vec<String> = lags.collect();
        Err(Error::Aborted(format!(
            "shard `{}` may lose only so much, and within {patience:?} no other region had received what came, which ends at {position}: {}; \
             see `portolan sync status` there, and move the tenant when a replica is up to date",
            self.to.shard,
            lags.join(", ")
        )))
    }
}
