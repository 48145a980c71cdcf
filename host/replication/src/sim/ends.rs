//! A database in memory as both ends of a feed know it. Each call takes a moment, and then happens at once.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use portolan_changelog::{
    Applied, Batch, Copying, Counts, Cut, Error, Horizon, Learned, Peer, PeerRefused, Progress, Record,
    RowId, Sealed, Term,
};
use portolan_core::ids::RegionName;
use portolan_core::log::{Epoch, Identity, Position};
use portolan_foundation::random;

use super::Variant;
use super::database::Database;
use super::world::Shared;
use crate::ends::{Log, Replica};
use crate::wire::Has;

/// One of so many calls waits.
const WAITS: u64 = 3;
/// How long at most, in milliseconds.
const WAIT_MS_MAX: u64 = 8;

/// A region's database. Clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Store {
    database: Arc<Mutex<Database>>,
    own: RegionName,
    pub(super) shared: Arc<Shared>,
}

impl Store {
    pub(super) fn new(own: RegionName, shared: Arc<Shared>) -> Self {
        Self { database: Arc::new(Mutex::new(Database::new(own.clone()))), own, shared }
    }

    /// Does something to the database, at once.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut Database) -> T) -> T {
        act(&mut self.database.lock().unwrap())
    }

    /// The database's clock.
    pub(super) fn now_us(&self) -> u64 {
        self.shared.clock_us(&self.own)
    }

    /// The same, once the call has come to the database.
    async fn at<T>(&self, act: impl FnOnce(&mut Database, u64) -> T) -> T {
        if random::u64().is_multiple_of(WAITS) {
            tokio::time::sleep(Duration::from_millis(1 + random::u64() % WAIT_MS_MAX)).await;
        }
        let now_us = self.now_us();
        self.with(|database| act(database, now_us))
    }

    fn trace(&self, what: impl FnOnce() -> String) {
        self.shared.trace(|| format!("{}: {}", self.own, what()));
    }

    fn applied(&self, source: &RegionName, batch: &Batch, done: &Result<Applied, Error>) {
        self.trace(|| {
            let done = match done {
                Ok(done) => format!("{done:?}"),
                Err(error) => error.to_string(),
            };
            format!("`{source}` {} to {}: {done}", batch.after, batch.through)
        });
    }
}

impl Log for Store {
    async fn identity(&self) -> Result<Identity, Error> {
        self.at(|database, _| database.identity()).await
    }

    async fn schema(&self) -> Result<u64, Error> {
        Ok(1)
    }

    async fn settled(&self) -> Result<Position, Error> {
        self.at(|database, _| Ok(database.settled())).await
    }

    async fn begins(&self, follower: &RegionName, identity: &Identity, at: Position) -> Result<(), Error> {
        self.at(|database, now_us| {
            let peer = Peer::begin(&database.extent()?, follower, identity, at, now_us)?;
            database.peers.insert(follower.clone(), peer);
            Ok(())
        })
        .await
    }

    async fn keeps(&self, follower: &RegionName, identity: &Identity) -> Result<bool, Error> {
        self.at(|database, _| Ok(database.peers.get(follower).is_some_and(|peer| peer.holds(identity)))).await
    }

    async fn acknowledged(&self, follower: &RegionName, identity: &Identity, has: Has) -> Result<(), Error> {
        self.at(|database, now_us| {
            let log = database.extent()?;
            let unknown = || PeerRefused::Unknown { peer: follower.clone() };
            let peer = database.peers.get(follower).ok_or_else(unknown)?;
            let peer = peer.acknowledge(&log, identity, (has.received, has.applied), now_us)?;
            database.peers.insert(follower.clone(), peer);
            Ok(())
        })
        .await
    }

    async fn kept(&self) -> Result<Option<Position>, Error> {
        self.at(|database, _| {
            let holding = database.peers.values().filter(|peer| peer.needs_snapshot_us.is_none());
            Ok(holding.map(|peer| peer.applied).min())
        })
        .await
    }

    async fn has_lost(&self, follower: &RegionName) -> Result<bool, Error> {
        self.at(|database, _| Ok(database.has_lost(follower))).await
    }

    async fn trimmed(&self) -> Result<Position, Error> {
        self.at(|database, _| Ok(database.trimmed)).await
    }

    async fn read(&self, after: Position) -> Result<Batch, Error> {
        let (max, variant) = (self.shared.batch_records, self.shared.variant);
        self.at(|database, now_us| database.read(after, max, variant, now_us)).await
    }

    async fn has_written(&self, at: Position, at_us: u64) -> Result<bool, Error> {
        self.at(|database, _| Ok(database.has_written(at, at_us))).await
    }

    async fn horizon(&self) -> Result<Horizon, Error> {
        self.at(|database, now_us| Ok(database.horizon(now_us))).await
    }

    async fn rows(&self, after: Option<&RowId>, max: usize) -> Result<Vec<Record>, Error> {
        let max = max.min(self.shared.page_rows);
        self.at(|database, _| Ok(database.page(after, max))).await
    }

    async fn named(&self, ids: &[RowId]) -> Result<Vec<Record>, Error> {
        self.at(|database, _| Ok(database.named(ids))).await
    }

    async fn terms(&self) -> Result<Vec<Term>, Error> {
        self.at(|database, _| Ok(database.lineage.terms().to_vec())).await
    }

    async fn heads(&self) -> Result<Vec<Cut>, Error> {
        self.at(|database, _| Ok(database.heads())).await
    }

    async fn tail(&self, of: &RegionName, identity: &Identity, after: Position) -> Result<Batch, Error> {
        self.at(|database, now_us| database.tail_of(of, identity, after, now_us)).await
    }

    async fn seal(&self, epoch: Epoch) -> Result<Sealed, Error> {
        let sealed = self.at(|database, _| database.seal(epoch)).await;
        self.trace(|| format!("seals {epoch}: {}", sealed.is_ok()));
        sealed
    }
}

impl Replica for Store {
    async fn is_whole(&self) -> Result<bool, Error> {
        self.at(|database, _| Ok(database.is_whole())).await
    }

    async fn begin_anew(&self) -> Result<bool, Error> {
        let begun = self.at(|database, _| database.begin_anew()).await;
        self.trace(|| format!("begins anew: {begun}"));
        Ok(begun)
    }

    async fn progress(&self, source: &RegionName) -> Result<Option<Progress>, Error> {
        self.at(|database, _| Ok(database.progress.get(source).cloned())).await
    }

    async fn heads(&self) -> Result<Vec<Cut>, Error> {
        Log::heads(self).await
    }

    async fn join(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn has_lost(&self, follower: &RegionName) -> Result<bool, Error> {
        self.at(|database, _| Ok(database.has_lost(follower))).await
    }

    async fn follow(&self, source: &RegionName, identity: &Identity, at: Position) -> Result<(), Error> {
        self.at(|database, _| database.follow(source, identity, at)).await;
        self.trace(|| format!("follows {identity} of `{source}` from {at}"));
        Ok(())
    }

    async fn copying(&self, source: &RegionName) -> Result<Option<Copying>, Error> {
        self.at(|database, _| Ok(database.copying(source))).await
    }

    async fn begin_copy(
        &self,
        source: &RegionName,
        identity: &Identity,
        from: Position,
        others: &[Cut],
    ) -> Result<(), Error> {
        self.at(|database, now_us| database.begin_copy(source, identity, (from, others), now_us)).await?;
        self.trace(|| format!("copies the rows of `{source}`, whose log it follows from {from}"));
        Ok(())
    }

    async fn copy(
        &self,
        source: &RegionName,
        after: Option<&RowId>,
        records: &[Record],
        ends: bool,
    ) -> Result<(), Error> {
        let done = self.at(|database, now_us| database.copy(source, after, records, ends, now_us)).await;
        let ended = if ends { ", the last" } else { "" };
        self.trace(|| format!("copies {} rows of `{source}`{ended}: {}", records.len(), done.is_ok()));
        done
    }

    async fn apply(&self, source: &RegionName, batch: &Batch, keeps: bool) -> Result<Applied, Error> {
        let done = self.at(|database, now_us| database.apply(source, batch, (keeps, false), now_us)).await;
        self.applied(source, batch, &done);
        done
    }

    async fn apply_before_epoch(&self, source: &RegionName, batch: &Batch) -> Result<Applied, Error> {
        let done = self.at(|database, now_us| database.apply(source, batch, (true, true), now_us)).await;
        self.applied(source, batch, &done);
        done
    }

    async fn retry(&self) -> Result<u64, Error> {
        Ok(self.at(Database::retry).await)
    }

    async fn learn(&self, terms: &[Term]) -> Result<Learned, Error> {
        let learned = self.at(|database, _| database.learn(terms)).await;
        if let Ok(learned) = &learned
            && *learned != Learned::default()
        {
            self.trace(|| format!("hears of epochs: {learned:?}"));
        }
        learned
    }

    async fn lacks(&self, epoch: Epoch) -> Result<Option<Vec<Cut>>, Error> {
        let untold = self.shared.variant == Variant::EpochUntold;
        self.at(|database, _| {
            let told = untold || database.lineage.epoch() >= epoch;
            Ok(told.then(|| {
                if untold { Vec::new() } else { database.lineage.lacks(&database.own, &database.heads()) }
            }))
        })
        .await
    }

    async fn stale(&self) -> Result<Vec<RowId>, Error> {
        self.at(|database, _| Ok(database.stale.keys().cloned().collect())).await
    }

    async fn mend(&self, ids: &[RowId], records: &[Record]) -> Result<Counts, Error> {
        let counts = self.at(|database, now_us| database.mend(ids, records, now_us)).await;
        self.trace(|| format!("puts {} rows right", ids.len()));
        Ok(counts)
    }

    async fn trim_tail(&self, source: &RegionName, through: Position) -> Result<(), Error> {
        self.at(|database, _| database.trim_tail(source, through)).await;
        Ok(())
    }
}
