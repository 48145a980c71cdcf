//! Epochs as a database in memory keeps them: sealing, beginning, hearing of them, and the tails of others' logs.

use portolan_changelog::model::copying::{Mending, is_whole, mending};
use portolan_changelog::model::learning::{Bearing, Hearing, Past};
use portolan_changelog::model::lineage::Reached;
use portolan_changelog::{Batch, Copying, Counts, Cut, Error, Learned, Lineage, Record, RowId, Sealed, Term};
use portolan_core::ids::RegionName;
use portolan_core::log::{Epoch, Identity, Position};

use super::database::{Copy, Database, change, next};

impl Database {
    pub(super) fn is_whole(&self) -> bool {
        let led = self.lineage.terms().iter().any(|term| term.region == self.own);
        is_whole(self.copy.is_some() || self.cut.is_some(), led, !self.progress.is_empty())
    }

    /// Nothing of an earlier epoch is written any more. Says how far it had come.
    pub(super) fn seal(&mut self, epoch: Epoch) -> Result<Sealed, Error> {
        let before = self.fence.epoch;
        self.fence = self.fence.seal(epoch)?;
        self.end_writers();
        Ok(Sealed { before, heads: self.heads(), terms: self.lineage.terms().to_vec() })
    }

    /// The lease is over here.
    pub(super) fn demote(&mut self) {
        self.fence.deadline_us = 0;
        self.end_writers();
    }

    /// An epoch begins here.
    pub(super) fn begin_epoch(&mut self, epoch: Epoch, deadline_us: u64) -> Result<(), Error> {
        let fence = self.fence.begin(epoch, deadline_us)?;
        if self.copy.is_some() {
            return Err(Error::Partial("rows are missing".to_owned()));
        }
        if !self.stale.is_empty() {
            return Err(Error::Partial("rows are not put right yet".to_owned()));
        }
        self.end_writers();
        if self.cut.is_some() {
            self.renew_identity();
        }
        let over = self.lineage.epoch();
        let term = Term { epoch, region: self.own.clone(), over, cuts: self.heads() };
        self.lineage = self.lineage.clone().with([term])?;
        self.fence = fence;
        Ok(())
    }

    /// What is here is the shard's, whatever is missing.
    pub(super) fn take_as_whole(&mut self) {
        self.copy = None;
        self.gone.clear();
        self.stale.clear();
    }

    /// Hears of epochs.
    pub(super) fn learn(&mut self, terms: &[Term]) -> Result<Learned, Error> {
        let before = self.lineage.clone();
        let after = before.clone().with(terms.iter().cloned())?;
        let news = before.news(terms);
        let mut learned = Learned::default();
        if news.is_empty() {
            return Ok(learned);
        }
        self.end_writers();
        self.fence = self.fence.knows(after.epoch());
        self.lineage = after.clone();
        let own = self.own.clone();
        let hearing =
            Hearing { own: &own, before: &before, after: &after, news: &news, cut: self.cut.is_some() };
        match hearing.bearing() {
            Bearing::Nothing => return Ok(learned),
            Bearing::Anew(why) => learned.anew = Some(why),
            Bearing::Logs => {
                for log in self.heads() {
                    learned.anew = match hearing.past(&log) {
                        Past::Nothing => None,
                        Past::Anew(why) => Some(why),
                        Past::After(cut) => self.strand(&log, cut, &hearing, &mut learned),
                    };
                    if learned.anew.is_some() {
                        break;
                    }
                }
            }
        }
        if learned.anew.is_some() {
            self.forget_place();
        }
        Ok(learned)
    }

    /// Keeps what was taken of a log past its cut. Says why it cannot, if it cannot.
    fn strand(
        &mut self,
        log: &Cut,
        cut: Position,
        hearing: &Hearing<'_>,
        learned: &mut Learned,
    ) -> Option<String> {
        let mut at = cut;
        while at < log.at {
            let records = if log.region == self.own {
                (at >= self.trimmed)
                    .then(|| self.log.range(next(at)..).map(|(_, record)| record.clone()).collect())
            } else {
                let batch = self.kept(&log.region, at).filter(|batch| batch.identity == log.identity);
                batch.map(|batch| batch.records)
            };
            let records: Vec<Record> = match records {
                None => {
                    return Some(format!("what came of `{}` after {at} is not kept any more", log.region));
                }
                Some(records) => records,
            };
            let Some(last) = records.last() else { break };
            at = last.position;
            let stranded = match hearing.stranded((&log.region, &log.identity, log.at), &records) {
                Ok(stranded) => stranded,
                Err(forgotten) => return Some(forgotten.to_string()),
            };
            learned.stranded += stranded.len() as u64;
            for (record, _) in stranded {
                let Some(change) = change(record) else { continue };
                let (id, version) = (&change.id, &change.version);
                self.keep(id, version, change.row.clone());
                self.parked.remove(&(id.clone(), version.clone()));
                // Several logs may have written the row past their cuts: what counts is whether that which is here is one of those.
                let is_here = self.rows.get(id).is_some_and(|row| row.state.version == *version);
                if is_here || !self.stale.contains_key(id) {
                    self.stale.insert(id.clone(), version.clone());
                }
            }
        }
        None
    }

    /// Rows are missing, and nothing is known of how far others' logs have come.
    pub(super) fn forget_place(&mut self) {
        self.forget_logs();
        let identity = Identity { system: String::new(), timeline: 0, incarnation: String::new() };
        let copying = Copying { after: None, from: Position::START, identity, rows: 0 };
        self.copy = Some(Copy { clean: false, copying, others: Vec::new(), source: None });
    }

    pub(super) fn forget_logs(&mut self) {
        self.progress.clear();
        self.staged.clear();
        self.gone.clear();
        self.tail.clear();
        self.copy = None;
    }

    /// All rows are to come anew, unless this is the primary.
    pub(super) fn begin_anew(&mut self) -> bool {
        if self.lineage.terms().last().is_some_and(|term| term.region == self.own) {
            return false;
        }
        self.forget_place();
        true
    }

    /// What is kept of a log after a position.
    fn kept(&self, of: &RegionName, after: Position) -> Option<Batch> {
        let batch = self.tail.get(of)?.range(next(after)..).next()?.1;
        if batch.after > after {
            return None;
        }
        let records = batch.records.iter().filter(|record| record.position > after).cloned().collect();
        Some(Batch { after, records, ..batch.clone() })
    }

    /// What came of another's log after a position, as far as it is applied.
    pub(super) fn tail_of(
        &self,
        of: &RegionName,
        identity: &Identity,
        after: Position,
        at_us: u64,
    ) -> Result<Batch, Error> {
        let there = self.progress.get(of).filter(|progress| progress.identity == *identity);
        let through = there.map_or(Position::START, |progress| progress.applied);
        if after == through {
            let identity = identity.clone();
            return Ok(Batch { identity, after, through, at_us, ends: true, records: Vec::new() });
        }
        let trimmed = || Error::Trimmed { after, through };
        let batch = self.kept(of, after).ok_or_else(trimmed)?;
        if batch.through > through || batch.identity != *identity {
            return Err(trimmed());
        }
        Ok(batch)
    }

    /// Puts rows right that were taken past a cut.
    pub(super) fn mend(&mut self, ids: &[RowId], records: &[Record], now_us: u64) -> Counts {
        let mut counts = Counts::default();
        let mut above = Vec::new();
        for id in ids {
            let record = records.iter().find(|record| change(record).is_some_and(|change| change.id == *id));
            let stale = self.stale.remove(id);
            let here = self.rows.get(id).map(|row| row.state.version.clone());
            match (mending(stale.as_ref().map(|stale| (stale, here.as_ref())), record.is_some()), record) {
                (Mending::Put, Some(record)) => {
                    self.rows.remove(id);
                    self.absorb(std::slice::from_ref(record), u64::MAX / 2, &mut counts);
                }
                (Mending::Gate, Some(record)) => above.push(record.clone()),
                (Mending::Goes, _) => drop(self.rows.remove(id)),
                _ => {}
            }
        }
        self.absorb(&above, now_us, &mut counts);
        counts
    }

    /// Is what lies at a position of another region's log here?
    pub(super) fn reached(&self, wanted: Position) -> Option<Reached> {
        self.lineage.reached(&self.own, &self.followed(), wanted)
    }

    /// What decides of the records of a log, and the fence that it knows.
    pub(super) fn sieve(&self, before_epoch: bool) -> (&Lineage, Epoch) {
        (&self.lineage, if before_epoch { Epoch(0) } else { self.fence.epoch })
    }
}
