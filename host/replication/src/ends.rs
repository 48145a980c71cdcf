//! What both ends of a feed stand on: a log that is read, and a copy that is written. A shard's database is both ([`Store`]); simulations
//! have their own.

use std::future::Future;

use portolan_changelog::{
    Applied, Batch, Copying, Counts, Cut, Error, Horizon, Learned, Limits, Progress, Record, RowId, Sealed,
    Store, Term, Wakes,
};
use portolan_core::ids::RegionName;
use portolan_core::log::{Epoch, Identity, Position};

use crate::defaults::SEAL_PATIENCE;
use crate::wire::Has;

/// A shard's log and rows, as a source has them.
pub trait Log: Send + Sync {
    /// Which log it is.
    fn identity(&self) -> impl Future<Output = Result<Identity, Error>> + Send;
    /// The version of the tenants' schema.
    fn schema(&self) -> impl Future<Output = Result<u64, Error>> + Send;
    /// A position such that every row shows what lies before it.
    fn settled(&self) -> impl Future<Output = Result<Position, Error>> + Send;
    /// A follower begins after a position: what comes after it is kept for it.
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
    /// Up to where all followers have applied it.
    fn kept(&self) -> impl Future<Output = Result<Option<Position>, Error>> + Send;
    /// Has a region lost its place in this log, so that it cannot be told what was written here?
    fn has_lost(&self, follower: &RegionName) -> impl Future<Output = Result<bool, Error>> + Send;
    /// A follower says over its link what it has received for good. Known at once, and written down by [`Self::acknowledged`] now and then.
    fn heard(&self, _follower: &RegionName, _identity: &Identity, _received: Position) {}
    /// A follower's link has ended.
    fn unheard(&self, _follower: &RegionName) {}
    /// Is the record at a position of this log the one that was written then?
    fn has_written(&self, at: Position, at_us: u64) -> impl Future<Output = Result<bool, Error>> + Send;
    /// Wakes who reads it when somebody waits for what is there; none where nobody does.
    fn wakes(&self) -> Option<Wakes> {
        None
    }
    /// Up to where it has been trimmed.
    fn trimmed(&self) -> impl Future<Output = Result<Position, Error>> + Send;
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
    /// Rows by their names.
    fn named(&self, ids: &[RowId]) -> impl Future<Output = Result<Vec<Record>, Error>> + Send;
    /// The epochs that are known to have begun.
    fn terms(&self) -> impl Future<Output = Result<Vec<Term>, Error>> + Send;
    /// How far each region's log has come here, its own included.
    fn heads(&self) -> impl Future<Output = Result<Vec<Cut>, Error>> + Send;
    /// What has come here of another region's log, after a position.
    fn tail(
        &self,
        of: &RegionName,
        identity: &Identity,
        after: Position,
    ) -> impl Future<Output = Result<Batch, Error>> + Send;
    /// From here on nothing of an earlier epoch is written, or taken without being known to count.
    fn seal(&self, epoch: Epoch) -> impl Future<Output = Result<Sealed, Error>> + Send;
}

/// A shard's copy, as a follower has it.
pub trait Replica: Send + Sync {
    /// Are all rows here?
    fn is_whole(&self) -> impl Future<Output = Result<bool, Error>> + Send;
    /// All rows are here and may be read: this region writes as a member from now on.
    fn join(&self) -> impl Future<Output = Result<(), Error>> + Send;
    /// Can a region not be told any more what was written here?
    fn has_lost(&self, follower: &RegionName) -> impl Future<Output = Result<bool, Error>> + Send;
    /// All rows are to be copied anew. Returns whether that was noted.
    fn begin_anew(&self) -> impl Future<Output = Result<bool, Error>> + Send;
    /// How far a region's log has been applied.
    fn progress(&self, source: &RegionName) -> impl Future<Output = Result<Option<Progress>, Error>> + Send;
    /// How far each region's log has come here, its own included.
    fn heads(&self) -> impl Future<Output = Result<Vec<Cut>, Error>> + Send;
    /// Begins to follow a region's log after a position.
    fn follow(
        &self,
        source: &RegionName,
        identity: &Identity,
        at: Position,
    ) -> impl Future<Output = Result<(), Error>> + Send;
    /// How far a region's rows have been copied, while they are.
    fn copying(&self, source: &RegionName) -> impl Future<Output = Result<Option<Copying>, Error>> + Send;
    /// Begins to copy rows anew, of this log, and to follow it from a position when they are there, others' from theirs.
    fn begin_copy(
        &self,
        source: &RegionName,
        identity: &Identity,
        from: Position,
        others: &[Cut],
    ) -> impl Future<Output = Result<(), Error>> + Send;
    /// Takes the rows that come after one, or the last.
    fn copy(
        &self,
        source: &RegionName,
        after: Option<&RowId>,
        records: &[Record],
        ends: bool,
    ) -> impl Future<Output = Result<(), Error>> + Send;
    /// Applies what comes next of a log, as far as it counts; `keeps` it for other copies.
    fn apply(
        &self,
        source: &RegionName,
        batch: &Batch,
        keeps: bool,
    ) -> impl Future<Output = Result<Applied, Error>> + Send;
    /// The same where an epoch is to begin, and kept: what is of an epoch that is over, and whose cut nobody has told, counts.
    fn apply_before_epoch(
        &self,
        source: &RegionName,
        batch: &Batch,
    ) -> impl Future<Output = Result<Applied, Error>> + Send;
    /// Tries again what waits alone; gives how many still do.
    fn retry(&self) -> impl Future<Output = Result<u64, Error>> + Send;
    /// Hears of epochs.
    fn learn(&self, terms: &[Term]) -> impl Future<Output = Result<Learned, Error>> + Send;
    /// What was there when the last epoch that is known began, and is not here. None while the last that is known is an earlier one than this.
    fn lacks(&self, epoch: Epoch) -> impl Future<Output = Result<Option<Vec<Cut>>, Error>> + Send;
    /// Rows that were taken past a cut, some of them.
    fn stale(&self) -> impl Future<Output = Result<Vec<RowId>, Error>> + Send;
    /// Puts such rows right with the primary's.
    fn mend(&self, ids: &[RowId], records: &[Record]) -> impl Future<Output = Result<Counts, Error>> + Send;
    /// Nobody asks for what came of a log up to here.
    fn trim_tail(
        &self,
        source: &RegionName,
        through: Position,
    ) -> impl Future<Output = Result<(), Error>> + Send;
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

    async fn kept(&self) -> Result<Option<Position>, Error> {
        self.peers_have().await
    }

    async fn has_lost(&self, follower: &RegionName) -> Result<bool, Error> {
        Self::has_lost(self, follower).await
    }

    fn heard(&self, follower: &RegionName, identity: &Identity, received: Position) {
        Self::heard(self, follower, identity, received);
    }

    fn unheard(&self, follower: &RegionName) {
        Self::unheard(self, follower);
    }

    fn wakes(&self) -> Option<Wakes> {
        Some(Self::wakes(self))
    }

    async fn trimmed(&self) -> Result<Position, Error> {
        Self::trimmed(self).await
    }

    async fn read(&self, after: Position) -> Result<Batch, Error> {
        Self::read(self, after, Limits::default()).await
    }

    async fn has_written(&self, at: Position, at_us: u64) -> Result<bool, Error> {
        Self::has_written(self, at, at_us).await
    }

    async fn horizon(&self) -> Result<Horizon, Error> {
        Self::horizon(self).await
    }

    async fn rows(&self, after: Option<&RowId>, max: usize) -> Result<Vec<Record>, Error> {
        Self::rows(self, None, after, max).await
    }

    async fn named(&self, ids: &[RowId]) -> Result<Vec<Record>, Error> {
        self.records_named(ids).await
    }

    async fn terms(&self) -> Result<Vec<Term>, Error> {
        Ok(self.lineage().await?.terms().to_vec())
    }

    async fn heads(&self) -> Result<Vec<Cut>, Error> {
        Self::heads(self).await
    }

    async fn tail(&self, of: &RegionName, identity: &Identity, after: Position) -> Result<Batch, Error> {
        Self::tail(self, of, identity, after).await
    }

    async fn seal(&self, epoch: Epoch) -> Result<Sealed, Error> {
        self.seal_epoch(epoch, SEAL_PATIENCE).await
    }
}

impl Replica for Store {
    async fn is_whole(&self) -> Result<bool, Error> {
        self.is_complete().await
    }

    async fn has_lost(&self, follower: &RegionName) -> Result<bool, Error> {
        Self::has_lost(self, follower).await
    }

    async fn join(&self) -> Result<(), Error> {
        Self::join(self).await
    }

    async fn begin_anew(&self) -> Result<bool, Error> {
        Self::begin_anew(self).await
    }

    async fn progress(&self, source: &RegionName) -> Result<Option<Progress>, Error> {
        Self::progress(self, source.as_str()).await
    }

    async fn heads(&self) -> Result<Vec<Cut>, Error> {
        Self::heads(self).await
    }

    async fn follow(&self, source: &RegionName, identity: &Identity, at: Position) -> Result<(), Error> {
        Self::follow(self, source.as_str(), identity, at).await
    }

    async fn copying(&self, source: &RegionName) -> Result<Option<Copying>, Error> {
        Self::copying(self, source).await
    }

    async fn begin_copy(
        &self,
        source: &RegionName,
        identity: &Identity,
        from: Position,
        others: &[Cut],
    ) -> Result<(), Error> {
        Self::begin_copy(self, source, identity, from, others).await
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

    async fn apply(&self, source: &RegionName, batch: &Batch, keeps: bool) -> Result<Applied, Error> {
        self.apply_under(source, batch, keeps).await
    }

    async fn apply_before_epoch(&self, source: &RegionName, batch: &Batch) -> Result<Applied, Error> {
        Self::apply_before_epoch(self, source, batch).await
    }

    async fn retry(&self) -> Result<u64, Error> {
        self.retry_parked().await
    }

    async fn learn(&self, terms: &[Term]) -> Result<Learned, Error> {
        Self::learn(self, terms).await
    }

    async fn lacks(&self, epoch: Epoch) -> Result<Option<Vec<Cut>>, Error> {
        Self::lacks(self, epoch).await
    }

    async fn stale(&self) -> Result<Vec<RowId>, Error> {
        Self::stale(self).await
    }

    async fn mend(&self, ids: &[RowId], records: &[Record]) -> Result<Counts, Error> {
        Self::mend(self, ids, records).await
    }

    async fn trim_tail(&self, source: &RegionName, through: Position) -> Result<(), Error> {
        Self::trim_tail(self, source, through).await
    }
}
