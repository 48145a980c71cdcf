//! What both ends of a feed stand on: a log that is read, and a copy that is written. A shard's database is both ([`Store`]); simulations
//! have their own.

use std::future::Future;

use portolan_changelog::{Applied, Batch, Copying, Error, Horizon, Limits, Progress, Record, RowId, Store};
use portolan_core::ids::RegionName;
use portolan_core::log::{Epoch, Identity, Position};

use crate::wire::Has;

/// A shard's log and rows, as a source has them.
pub trait Log: Send + Sync {
    /// Which log it is.
    fn identity(&self) -> impl Future<Output = Result<Identity, Error>> + Send;
    /// The version of the tenants' schema.
    fn schema(&self) -> impl Future<Output = Result<u64, Error>> + Send;
    /// A position such that every row shows what lies before it.
    fn settled(&self) -> impl Future<Output = Result<Position, Error>> + Send;
    /// A follower begins after a settled position: what comes after it is kept for it.
    fn begins(
        &self,
        follower: &RegionName,
        identity: &Identity,
        at: Position,
    ) -> impl Future<Output = Result<(), Error>> + Send;
    /// Is what a follower that has begun will ask for still kept?
    fn keeps(
        &self,
        follower: &RegionName,
        identity: &Identity,
    ) -> impl Future<Output = Result<bool, Error>> + Send;
    /// A follower has received and applied as much: what is kept for it comes after that.
    fn acknowledged(
        &self,
        follower: &RegionName,
        identity: &Identity,
        has: Has,
    ) -> impl Future<Output = Result<(), Error>> + Send;
    /// What comes after a position.
    fn read(&self, after: Position) -> impl Future<Output = Result<Batch, Error>> + Send;
    /// What readers wait for.
    fn horizon(&self) -> impl Future<Output = Result<Horizon, Error>> + Send;
    /// Rows after one, in the order of their tables and keys; none when no more come.
    fn rows(
        &self,
        after: Option<&RowId>,
        max: usize,
    ) -> impl Future<Output = Result<Vec<Record>, Error>> + Send;
}

/// A shard's copy, as a follower has it.
pub trait Replica: Send + Sync {
    /// How far a region's log has been applied.
    fn progress(&self, source: &RegionName) -> impl Future<Output = Result<Option<Progress>, Error>> + Send;
    /// How far a region's rows have been copied, while they are.
    fn copying(&self, source: &RegionName) -> impl Future<Output = Result<Option<Copying>, Error>> + Send;
    /// Begins to copy rows anew, of this log, and to follow it from a position when they are there.
    fn begin_copy(
        &self,
        source: &RegionName,
        identity: &Identity,
        from: Position,
    ) -> impl Future<Output = Result<(), Error>> + Send;
    /// Takes the rows that come after one, or the last.
    fn copy(
        &self,
        source: &RegionName,
        after: Option<&RowId>,
        records: &[Record],
        ends: bool,
    ) -> impl Future<Output = Result<(), Error>> + Send;
    /// Applies what comes next of a log, unless a later epoch than this has been seen here.
    fn apply(
        &self,
        source: &RegionName,
        epoch: Epoch,
        batch: &Batch,
    ) -> impl Future<Output = Result<Applied, Error>> + Send;
    /// Tries again what waits alone; gives how many still do.
    fn retry(&self) -> impl Future<Output = Result<u64, Error>> + Send;
}

impl Log for Store {
    async fn identity(&self) -> Result<Identity, Error> {
        Self::identity(self).await
    }

    async fn schema(&self) -> Result<u64, Error> {
        Self::schema(self).await
    }

    async fn settled(&self) -> Result<Position, Error> {
        Self::settled(self).await
    }

    async fn begins(&self, follower: &RegionName, identity: &Identity, at: Position) -> Result<(), Error> {
        self.begin_peer(follower, identity, at).await
    }

    async fn keeps(&self, follower: &RegionName, identity: &Identity) -> Result<bool, Error> {
        let peers = self.peers().await?;
        Ok(peers.iter().any(|there| there.peer.name == *follower && there.peer.holds(identity)))
    }

    async fn acknowledged(&self, follower: &RegionName, identity: &Identity, has: Has) -> Result<(), Error> {
        self.peer_acknowledges(follower, identity, has.received, has.applied).await
    }

    async fn read(&self, after: Position) -> Result<Batch, Error> {
        Self::read(self, after, Limits::default()).await
    }

    async fn horizon(&self) -> Result<Horizon, Error> {
        Self::horizon(self).await
    }

    async fn rows(&self, after: Option<&RowId>, max: usize) -> Result<Vec<Record>, Error> {
        Self::rows(self, None, after, max).await
    }
}

impl Replica for Store {
    async fn progress(&self, source: &RegionName) -> Result<Option<Progress>, Error> {
        Self::progress(self, source.as_str()).await
    }

    async fn copying(&self, source: &RegionName) -> Result<Option<Copying>, Error> {
        Self::copying(self, source).await
    }

    async fn begin_copy(
        &self,
        source: &RegionName,
        identity: &Identity,
        from: Position,
    ) -> Result<(), Error> {
        Self::begin_copy(self, source, identity, from).await
    }

    async fn copy(
        &self,
        source: &RegionName,
        after: Option<&RowId>,
        records: &[Record],
        ends: bool,
    ) -> Result<(), Error> {
        Self::copy(self, source, after, records, ends).await.map(drop)
    }

    async fn apply(&self, source: &RegionName, epoch: Epoch, batch: &Batch) -> Result<Applied, Error> {
        Self::apply_under(self, source.as_str(), epoch, batch).await
    }

    async fn retry(&self) -> Result<u64, Error> {
        self.retry_parked().await
    }
}
