//! Following and copying, as a database in memory does it.

use std::collections::BTreeMap;

use portolan_changelog::model::copying::{Told, Way, is_lost, told, way};
use portolan_changelog::model::progress::Admission;
use portolan_changelog::{Applied, Batch, Copying, Counts, Cut, Error, Peer, Progress, Record, RowId};
use portolan_core::ids::RegionName;
use portolan_core::log::{Identity, Placement, Position, Version};

use super::database::{Copy, Database, change};

/// Records of one batch that is no fault of its sender.
const BATCH_RECORDS_MAX: usize = 1_000;

impl Database {
    /// Begins to follow a log after a position.
    pub(super) fn follow(&mut self, source: &RegionName, identity: &Identity, at: Position) {
        self.staged.remove(source);
        self.progress.insert(source.clone(), Progress::start(identity.clone(), at));
    }

    /// Applies a batch as far as it counts. `begins`: an epoch is to begin here.
    pub(super) fn apply(
        &mut self,
        source: &RegionName,
        batch: &Batch,
        (keeps, begins): (bool, bool),
        now_us: u64,
    ) -> Result<Applied, Error> {
        batch.check(BATCH_RECORDS_MAX)?;
        if self.copy.is_some() {
            return Err(Error::Busy("rows are being copied, and come first".to_owned()));
        }
        let before = self.progress.get(source).cloned();
        let admission = before.as_ref().map_or(Admission::Other, |before| before.admit(batch));
        let (Some(before), Admission::Apply | Admission::Finish | Admission::Stage) = (before, admission)
        else {
            return Ok(match admission {
                Admission::Duplicate => Applied::Duplicate,
                Admission::Gap(position) => Applied::Gap(position),
                _ => Applied::Other,
            });
        };
        let mut counts = Counts::default();
        let staging = admission == Admission::Stage;
        let mut due = if staging { Vec::new() } else { self.staged.get(source).cloned().unwrap_or_default() };
        due.extend(batch.records.iter().filter(|_| !staging).cloned());
        if self.is_written(&due) {
            return Err(Error::Busy("others write the same rows".to_owned()));
        }
        let (lineage, fence) = self.sieve(begins);
        let sifted = lineage.sift((source, &batch.identity), &due, fence);
        let sifted = sifted.map_err(|ended| Error::Sealed { ended, sealed: fence })?;
        let count = sifted.count;
        let stranded: Vec<Record> = sifted.stranded.iter().map(|(record, _)| (*record).clone()).collect();
        counts.stranded = stranded.len() as u64;
        for change in stranded.iter().filter_map(change) {
            self.keep(&change.id, &change.version, change.row.clone());
        }
        if staging {
            self.staged.entry(source.clone()).or_default().extend(batch.records.iter().cloned());
        } else {
            self.staged.remove(source);
            self.absorb(&count, now_us, &mut counts);
        }
        if keeps || begins {
            let tail = self.tail.entry(source.clone()).or_default();
            tail.entry(batch.through).or_insert_with(|| batch.clone());
        }
        self.progress.insert(source.clone(), before.with(batch));
        Ok(if staging { Applied::Staged } else { Applied::Done(counts) })
    }

    /// Tries again what waits. Gives how many still do.
    pub(super) fn retry(&mut self, now_us: u64) -> u64 {
        let waiting: Vec<Record> = std::mem::take(&mut self.parked).into_values().collect();
        self.absorb(&waiting, now_us, &mut Counts::default());
        self.parked.len() as u64
    }

    pub(super) fn copying(&self, source: &RegionName) -> Option<Copying> {
        let copy = self.copy.as_ref().filter(|copy| copy.source.as_ref() == Some(source));
        copy.map(|copy| copy.copying.clone())
    }

    /// Begins to copy rows of this log.
    pub(super) fn begin_copy(
        &mut self,
        source: &RegionName,
        identity: &Identity,
        (from, others): (Position, &[Cut]),
        now_us: u64,
    ) -> Result<(), Error> {
        let copied = self.copy.as_ref().is_some_and(|copy| {
            copy.source.as_ref() == Some(source) && copy.copying.identity == *identity && copy.clean
        });
        let followed = self.progress.get(source).is_some_and(|progress| progress.identity == *identity);
        self.forget_logs();
        let log = self.identity().ok();
        match told(&self.own, log.as_ref(), (self.trimmed, self.tip()), others) {
            Told::All => {}
            Told::Nothing => {
                self.trimmed = self.tip();
                self.log.clear();
                self.renew_identity();
            }
            Told::Through(at) => {
                let peer = Peer::begin(&self.extent()?, source, &self.identity, at, now_us)?;
                self.peers.insert(source.clone(), peer);
            }
        }
        let copying = Copying { after: None, from, identity: identity.clone(), rows: 0 };
        self.copy = Some(Copy {
            clean: copied || followed,
            copying,
            others: others.to_vec(),
            source: Some(source.clone()),
        });
        Ok(())
    }

    /// Takes a page of rows, or the last.
    pub(super) fn copy(
        &mut self,
        source: &RegionName,
        after: Option<&RowId>,
        records: &[Record],
        ends: bool,
        now_us: u64,
    ) -> Result<(), Error> {
        let begun = self.copy.clone().filter(|copy| copy.source.as_ref() == Some(source));
        let Some(begun) = begun.filter(|copy| copy.copying.after.as_ref() == after) else {
            return Err(Error::Busy("the copy has not begun, or come to another row".to_owned()));
        };
        let live = self.rows.values().filter(|row| !row.state.deleted).count() as u64;
        if ends && records.is_empty() && begun.copying.rows == 0 && !begun.clean && live > 0 {
            return Err(Error::Empty { rows: live, source_region: source.clone() });
        }
        let last = records.iter().rev().find_map(|record| change(record).map(|change| change.id.clone()));
        let through = if ends { None } else { last.clone().or_else(|| begun.copying.after.clone()) };
        self.make_way((begun.copying.after.as_ref(), through.as_ref()), records, begun.clean);
        self.absorb(records, now_us, &mut Counts::default());
        if ends {
            for id in std::mem::take(&mut self.gone) {
                let bars = self.parked.keys().any(|(parked, _)| *parked == id);
                let deleted = self.rows.get(&id).is_some_and(|row| row.state.deleted);
                if !(deleted && bars)
                    && let Some(row) = self.rows.remove(&id)
                    && deleted
                {
                    self.vanished.insert(id, row.state.version);
                }
            }
            self.retry(now_us);
            self.copy = None;
            self.stale.clear();
            for Cut { region, identity, at } in begun.others {
                if region != *source && region != self.own {
                    self.follow(&region, &identity, at);
                }
            }
            self.follow(source, &begun.copying.identity, begun.copying.from);
        } else if let (Some(last), Some(copy)) = (last, &mut self.copy) {
            copy.copying.after = Some(last);
            copy.copying.rows += records.len() as u64;
        }
        Ok(())
    }

    /// What is here between two rows and is not on the page, or is there in a lower version.
    fn make_way(
        &mut self,
        (after, through): (Option<&RowId>, Option<&RowId>),
        records: &[Record],
        clean: bool,
    ) {
        let page: BTreeMap<&RowId, (Placement, &Version)> = records
            .iter()
            .filter_map(|record| {
                change(record).map(|change| (&change.id, (record.placement, &change.version)))
            })
            .collect();
        let spanned =
            |id: &RowId| after.is_none_or(|after| id > after) && through.is_none_or(|through| id <= through);
        let mut ways = Vec::new();
        for (id, row) in self.rows.iter().filter(|(id, _)| spanned(id)) {
            let here = (row.state.placement, &row.state.version);
            ways.push((id.clone(), row.clone(), way(here, page.get(id).copied())));
        }
        for (id, row, way) in ways {
            match way {
                Way::Gone => drop(self.gone.insert(id.clone())),
                Way::Lower => drop(self.rows.remove(&id)),
                Way::Stays => {}
            }
            if is_lost(way, row.state.deleted, clean) {
                self.keep(&id, &row.state.version, row.image);
            }
        }
    }

    /// Nobody asks for what came of a log up to here.
    pub(super) fn trim_tail(&mut self, source: &RegionName, through: Position) {
        if let Some(tail) = self.tail.get_mut(source) {
            tail.retain(|at, _| *at > through);
        }
    }
}
