//! Sweeping in a simulated region: its database's tombstones, and the rounds that its gateway keeps with those of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use portolan_changelog::{Error, Known, Mark, Member, Report, Round, RowId, Sweep, Swept, Through};
use portolan_core::ids::RegionName;
use portolan_core::log::{Position, Version};

use super::Variant;
use super::database::{Database, Row, change};
use super::ends::Store;
use super::node::{Region, Way, shard};
use crate::sweeping::{Sweeping, Tombstones};

/// From one step of a sweep to the next.
const STEP: Duration = Duration::from_millis(400);

impl Database {
    /// What is known here of all logs.
    pub(super) fn known(&self) -> Result<Known, Error> {
        let mut known = self.applied();
        known.0.insert(self.own.clone(), Through { identity: self.identity()?, position: self.tip() });
        Ok(known)
    }

    fn applied(&self) -> Known {
        let followed = self.followed().into_iter();
        Known(
            followed.map(|cut| (cut.region, Through { identity: cut.identity, position: cut.at })).collect(),
        )
    }

    /// What it says of itself to others.
    pub(super) fn report(&self, incarnation: u64) -> Result<Report, Error> {
        let holds = self.parked.values().filter_map(change).any(|change| change.row.is_none());
        let member = Member { region: self.own.clone(), incarnation };
        let written = Through { identity: self.identity()?, position: self.tip() };
        Ok(Report { member, applied: self.applied(), written, holds })
    }

    /// Takes tombstones of earlier rounds away, those older than `before_us`. Gives those that count, as far as is known.
    pub(super) fn sweep(&mut self, sweep: &Sweep, before_us: u64) -> Vec<(RowId, Version)> {
        let round = sweep.mark().round;
        let parked: BTreeSet<RowId> = self.parked.keys().map(|(id, _)| id.clone()).collect();
        let goes = |id: &RowId, row: &Row| {
            row.state.deleted && row.round < round && row.state.version.v < before_us && !parked.contains(id)
        };
        let gone: Vec<(RowId, Version)> = self
            .rows
            .iter()
            .filter(|(id, row)| goes(id, row))
            .map(|(id, row)| (id.clone(), row.state.version.clone()))
            .collect();
        for (id, _) in &gone {
            self.rows.remove(id);
        }
        gone.into_iter().filter(|(id, _)| !self.stale.contains_key(id)).collect()
    }
}

impl Tombstones for Store {
    async fn is_complete(&self) -> Result<bool, Error> {
        self.at(|database, _| Ok(database.is_whole())).await
    }

    async fn has_tombstones(&self) -> Result<bool, Error> {
        self.at(|database, _| Ok(database.rows.values().any(|row| row.state.deleted))).await
    }

    async fn begin_round(&self) -> Result<Round, Error> {
        self.at(|database, _| {
            database.round += 1;
            Ok(Round { number: database.round, after: 0 })
        })
        .await
    }

    async fn mark(&self, round: &Round) -> Result<Option<Mark>, Error> {
        // A transaction stamps its tombstones when it commits: those of earlier rounds are all there.
        self.at(|database, _| Ok(Some(Mark { round: round.number, known: database.known()? }))).await
    }

    async fn known(&self) -> Result<Known, Error> {
        let mut known = self.at(|database, _| database.known()).await?;
        if self.shared.variant == Variant::SweepUnowed {
            let all = Position::new(u64::MAX, u64::MAX, u64::MAX);
            known.0.values_mut().for_each(|through| through.position = all);
        }
        Ok(known)
    }

    async fn report(&self) -> Result<Report, Error> {
        self.at(|database, _| database.report(database.fence.member)).await
    }

    async fn sweep(&self, sweep: &Sweep) -> Result<Swept, Error> {
        if !sweep.may_go(&Tombstones::known(self).await?) {
            return Err(Error::Busy("older changes may still come: sweep later".to_owned()));
        }
        // Whoever writes the row next here is above it by this clock; whoever does elsewhere has the tombstone, or a later epoch.
        let gone = self.at(|database, now_us| database.sweep(sweep, now_us)).await;
        let tombstones = gone.len() as u64;
        self.shared.swept(self.own(), gone);
        Ok(Swept { more: false, tombstones })
    }
}

impl Region {
    /// Sweeps, as a gateway does.
    pub(super) async fn sweep(&self) {
        let mut sweeping = Sweeping::default();
        let mut ways: BTreeMap<RegionName, Way> =
            self.others.iter().map(|other| (other.clone(), Way(other.clone()))).collect();
        if self.store.shared.variant == Variant::MemberUnheard {
            ways.pop_last();
        }
        loop {
            tokio::time::sleep(STEP).await;
            if let Err(error) = sweeping.step(&shard(), &self.store, &ways).await {
                self.store.shared.trace(|| format!("{}: tombstones are not swept: {error}", self.name));
            }
        }
    }
}
