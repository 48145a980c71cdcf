//! A shard's database in memory: its rows, its log, and what it knows of others. What it decides is decided by the models that the databases
//! stand on; what is here is what SQL does there, each method one transaction.

use std::collections::{BTreeMap, BTreeSet};

use portolan_changelog::model::gate::{Ground, Image, Plan, RowState};
use portolan_changelog::model::peer::Extent;
use portolan_changelog::model::reader;
use portolan_changelog::model::retention::{Log as Trimming, Piece};
use portolan_changelog::{
    Batch, Change, Closed, Copying, Counts, Cut, Error, Fence, Horizon, Known, Lineage, Member, Peer,
    Progress, Record, Report, Retention, RowChange, RowId, Sweep, Through,
};
use portolan_core::ids::{RegionName, TenantName};
use portolan_core::log::{Epoch, Identity, Placement, Position, Version};

use super::Variant;

/// Records of one closed piece of a log.
const PIECE_RECORDS: usize = 12;
/// What a record takes of a log.
const RECORD_BYTES: u64 = 100;

/// A row, or the tombstone of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) image: Option<String>,
    pub(super) round: u64,
    pub(super) state: RowState,
}

/// A transaction that has not ended.
#[derive(Clone, Debug)]
pub(super) struct Open {
    epoch: Epoch,
    records: Vec<Record>,
}

/// How rows are being copied.
#[derive(Clone, Debug)]
pub(super) struct Copy {
    pub(super) clean: bool,
    pub(super) copying: Copying,
    pub(super) others: Vec<Cut>,
    /// None: they are to be, from whoever is the primary.
    pub(super) source: Option<RegionName>,
}

/// What a database holds.
#[derive(Clone, Debug)]
pub(super) struct Database {
    pub(super) copy: Option<Copy>,
    /// Its history may have been cut, when the control store was at this epoch.
    pub(super) cut: Option<Epoch>,
    pub(super) fence: Fence,
    pub(super) gone: BTreeSet<RowId>,
    pub(super) identity: Identity,
    /// Versions that were lost to others, with their rows.
    pub(super) ledger: BTreeMap<(RowId, Version), Option<String>>,
    pub(super) lineage: Lineage,
    pub(super) log: BTreeMap<Position, Record>,
    next: u64,
    open: BTreeMap<u64, Open>,
    pub(super) own: RegionName,
    pub(super) parked: BTreeMap<(RowId, Version), Record>,
    pub(super) peers: BTreeMap<RegionName, Peer>,
    pub(super) progress: BTreeMap<RegionName, Progress>,
    pub(super) round: u64,
    pub(super) rows: BTreeMap<RowId, Row>,
    sequence: u64,
    pub(super) staged: BTreeMap<RegionName, Vec<Record>>,
    pub(super) stale: BTreeMap<RowId, Version>,
    pub(super) tail: BTreeMap<RegionName, BTreeMap<Position, Batch>>,
    pub(super) trimmed: Position,
    /// Deletions that are known no more, of rows that their source did not have either.
    pub(super) vanished: BTreeMap<RowId, Version>,
}

impl Database {
    pub(super) fn new(own: RegionName) -> Self {
        let identity =
            Identity { system: own.as_str().to_owned(), timeline: 1, incarnation: "first".to_owned() };
        Self {
            copy: None,
            cut: None,
            fence: Fence::default(),
            gone: BTreeSet::new(),
            identity,
            ledger: BTreeMap::new(),
            lineage: Lineage::default(),
            log: BTreeMap::new(),
            next: 1,
            open: BTreeMap::new(),
            own,
            parked: BTreeMap::new(),
            peers: BTreeMap::new(),
            progress: BTreeMap::new(),
            round: 0,
            rows: BTreeMap::new(),
            sequence: 0,
            staged: BTreeMap::new(),
            stale: BTreeMap::new(),
            tail: BTreeMap::new(),
            trimmed: Position::START,
            vanished: BTreeMap::new(),
        }
    }

    /// Which log this is.
    pub(super) fn identity(&self) -> Result<Identity, Error> {
        if self.cut.is_some() { Err(Closed::Cut.into()) } else { Ok(self.identity.clone()) }
    }

    /// From here on it is another log.
    pub(super) fn renew_identity(&mut self) {
        self.cut = None;
        self.identity.incarnation = format!("{:016x}", portolan_foundation::random::u64());
    }

    /// Has a follower lost its place in this log?
    pub(super) fn has_lost(&self, follower: &RegionName) -> bool {
        let peer = self.peers.get(follower);
        peer.is_some_and(|peer| peer.needs_snapshot_us.is_some() && peer.identity == self.identity)
    }

    pub(super) fn tip(&self) -> Position {
        self.log.last_key_value().map_or(self.trimmed, |(last, _)| *last)
    }

    /// The lowest number that a transaction may still have whose records are not there yet.
    fn lowest(&self) -> u64 {
        self.open.first_key_value().map_or(self.next, |(open, _)| *open)
    }

    pub(super) fn settled(&self) -> Position {
        let lowest = self.lowest();
        let last = self.log.keys().rev().find(|at| at.transaction < lowest);
        last.copied().unwrap_or(self.trimmed)
    }

    pub(super) fn horizon(&self, at_us: u64) -> Horizon {
        let waiting = self.log.keys().filter(|at| at.transaction >= self.lowest()).count();
        let closed = self.fence.deadline_us <= at_us;
        // Nobody asks how long: what waits was written when it was, and counts as long as its transaction is open.
        let oldest = self.log.values().filter(|record| record.position.transaction >= self.lowest());
        let waiting_us = oldest.map(|record| at_us.saturating_sub(record.at_us)).max().unwrap_or(0);
        let transactions = self.open.len() as u64;
        Horizon { waiting: waiting as u64, waiting_us, closed, at_us, transactions }
    }

    pub(super) fn extent(&self) -> Result<Extent, Error> {
        let (identity, trimmed) = (self.identity()?, self.trimmed);
        Ok(Extent { identity, trimmed, end: self.tip().max(self.settled()) })
    }

    /// How far others' logs have come, and this one unless it may have been cut.
    pub(super) fn heads(&self) -> Vec<Cut> {
        let mut heads = self.followed();
        if let Ok(identity) = self.identity() {
            heads.push(Cut { region: self.own.clone(), identity, at: self.tip() });
        }
        heads
    }

    pub(super) fn followed(&self) -> Vec<Cut> {
        let cut = |(region, progress): (&RegionName, &Progress)| Cut {
            region: region.clone(),
            identity: progress.identity.clone(),
            at: progress.applied,
        };
        self.progress.iter().map(cut).collect()
    }

    /// Begins a transaction, if the fence lets it.
    pub(super) fn begin(&mut self, now_us: u64) -> Result<u64, Closed> {
        if self.cut.is_some() {
            return Err(Closed::Cut);
        }
        self.fence.check(self.fence.epoch, now_us)?;
        let number = self.next;
        self.next += 1;
        self.open.insert(number, Open { epoch: self.fence.epoch, records: Vec::new() });
        Ok(number)
    }

    /// Writes a row, or deletes it, unless another transaction has it. Gives what it wrote.
    pub(super) fn write(
        &mut self,
        number: u64,
        id: &RowId,
        (tenant, row): (&TenantName, Option<String>),
        now_us: u64,
    ) -> Option<Record> {
        let held = |open: &Open| open.records.iter().any(|record| named(record) == Some(id));
        if self.open.iter().any(|(other, open)| *other != number && held(open)) || self.stale.contains_key(id)
        {
            return None;
        }
        let here = self.rows.get(id).map(|row| (row.state.version.clone(), row.state.deleted));
        let open = self.open.get_mut(&number)?;
        let earlier = open.records.iter().rev().find(|record| named(record) == Some(id));
        let before =
            earlier.and_then(change).map(|change| (change.version.clone(), change.row.is_none())).or(here);
        if row.is_none() && before.as_ref().is_none_or(|(_, deleted)| *deleted) {
            return None;
        }
        let before = before.map(|(version, _)| version);
        self.sequence += 1;
        let version = Version::after(before.as_ref(), open.epoch, now_us, self.own.clone());
        let record = Record {
            position: Position { epoch: open.epoch, transaction: number, sequence: self.sequence },
            at_us: now_us,
            tenant: Some(tenant.clone()),
            placement: Placement(0),
            schema: 1,
            change: Change::Row(RowChange { id: id.clone(), row, version, replaces: before, marks: None }),
        };
        open.records.push(record.clone());
        Some(record)
    }

    /// Commits, if the fence still lets it. Gives what is written.
    pub(super) fn commit(&mut self, number: u64, now_us: u64) -> Option<Vec<Record>> {
        let open = self.open.remove(&number)?;
        if self.cut.is_some() || self.fence.check(open.epoch, now_us).is_err() {
            return None;
        }
        for record in &open.records {
            let Some(change) = change(record) else { continue };
            let state = RowState {
                tenant: record.tenant.clone(),
                placement: record.placement,
                version: change.version.clone(),
                replaces: change.replaces.clone(),
                deleted: change.row.is_none(),
                marks: None,
            };
            let row = Row { image: change.row.clone(), round: self.round, state };
            self.rows.insert(change.id.clone(), row);
            self.log.insert(record.position, record.clone());
        }
        Some(open.records)
    }

    /// Nobody's transaction goes on: a gateway has gone, or a lease.
    pub(super) fn end_writers(&mut self) {
        self.open.clear();
    }

    /// What comes after a position.
    pub(super) fn read(
        &self,
        after: Position,
        max: usize,
        variant: Variant,
        at_us: u64,
    ) -> Result<Batch, Error> {
        let identity = self.identity()?;
        if after < self.trimmed {
            return Err(Error::Trimmed { after, through: self.trimmed });
        }
        if variant == Variant::SequenceCursor {
            return Ok(self.read_by_sequence(identity, after, max, at_us));
        }
        let due: Vec<&Record> =
            self.log.range(next(after)..).map(|(_, record)| record).take(max + 1).collect();
        let ends = |at: usize| {
            due.get(at + 1).is_none_or(|other| !other.position.same_transaction(due[at].position))
        };
        let seen: Vec<(Position, bool)> =
            due.iter().take(max).enumerate().map(|(at, record)| (record.position, ends(at))).collect();
        let (count, ends) = reader::cut(&seen, self.lowest());
        let records: Vec<Record> = due.into_iter().take(count).cloned().collect();
        let through = records.last().map_or(after, |last| last.position);
        Ok(Batch { identity, after, through, at_us, ends, records })
    }

    /// As a reader would that knows nothing of transactions that commit late.
    fn read_by_sequence(&self, identity: Identity, after: Position, max: usize, at_us: u64) -> Batch {
        let mut records: Vec<Record> = self
            .log
            .values()
            .filter(|record| {
                (record.position.epoch, record.position.sequence) > (after.epoch, after.sequence)
            })
            .cloned()
            .collect();
        records.sort_by_key(|record| (record.position.epoch, record.position.sequence));
        // Batches are in order by themselves: what would not be passes for read.
        let mut last = after;
        records.retain(|record| {
            let rises = record.position > last;
            last = last.max(record.position);
            rises
        });
        records.truncate(max);
        let through = records.last().map_or(after, |last| last.position);
        Batch { identity, after, through, at_us, ends: true, records }
    }

    /// Lets records through the gate.
    pub(super) fn absorb(&mut self, records: &[Record], now_us: u64, counts: &mut Counts) {
        let names: BTreeSet<&RowId> = records.iter().filter_map(named).collect();
        let waiting: Vec<Record> = self
            .parked
            .values()
            .filter(|parked| named(parked).is_some_and(|id| names.contains(id)))
            .cloned()
            .collect();
        let mut ground = Ground::default();
        for id in &names {
            if let Some(row) = self.rows.get(*id) {
                ground.rows.insert((*id).clone(), row.state.clone());
            }
        }
        let plan = Plan::make(&mut ground, records.iter().chain(&waiting), now_us);
        for conflict in &plan.conflicts {
            let row = match &conflict.loser {
                Image::Is(row) => row.clone(),
                Image::There => self.rows.get(&conflict.id).and_then(|row| row.image.clone()),
            };
            self.keep(&conflict.id, &conflict.lost, row);
        }
        for (id, write) in plan.writes {
            counts.written += 1;
            self.rows.insert(id, Row { image: write.row, round: self.round, state: write.state });
        }
        for record in &waiting {
            self.parked.remove(&name(record));
        }
        for (record, _) in plan.parked {
            counts.parked += u64::from(!waiting.contains(&record));
            self.parked.insert(name(&record), record);
        }
        counts.conflicts += plan.conflicts.len() as u64;
    }

    /// Keeps a version that was lost.
    pub(super) fn keep(&mut self, id: &RowId, version: &Version, row: Option<String>) {
        self.ledger.entry((id.clone(), version.clone())).or_insert(row);
    }

    /// Does an open transaction write one of these rows?
    pub(super) fn is_written(&self, records: &[Record]) -> bool {
        let written = self.open.values().flat_map(|open| &open.records).filter_map(named);
        let names: BTreeSet<&RowId> = records.iter().filter_map(named).collect();
        written.into_iter().any(|id| names.contains(id))
    }

    /// Rows and tombstones after one.
    pub(super) fn page(&self, after: Option<&RowId>, max: usize) -> Vec<Record> {
        let all = self.rows.iter().filter(|(id, _)| after.is_none_or(|after| *id > after));
        all.take(max).map(|(id, row)| copied(id, row)).collect()
    }

    pub(super) fn named(&self, ids: &[RowId]) -> Vec<Record> {
        ids.iter().filter_map(|id| Some(copied(id, self.rows.get(id)?))).collect()
    }

    /// Takes away what of the log nobody needs.
    pub(super) fn trim(&mut self, limits: &Retention, now_us: u64) -> Result<(), Error> {
        let identity = self.identity()?;
        let all: Vec<(Position, u64)> = self.log.iter().map(|(at, record)| (*at, record.at_us)).collect();
        let piece = |records: &[(Position, u64)]| {
            let (first, (last, newest_us)) = (records.first()?.0.sequence, *records.last()?);
            Some(Piece { first, last, bytes: records.len() as u64 * RECORD_BYTES, newest_us })
        };
        let chunks = all.chunks_exact(PIECE_RECORDS);
        let open = piece(chunks.remainder());
        let closed = chunks.filter_map(piece).collect();
        let log = Trimming { identity, closed, open, settled: self.settled(), read_since_us: None, now_us };
        let peers: Vec<Peer> = self.peers.values().cloned().collect();
        let cut = log.cut(&peers, limits);
        for name in &cut.marks {
            if let Some(peer) = self.peers.get_mut(name) {
                peer.needs_snapshot_us = Some(now_us);
            }
        }
        if let Some(through) = cut.through {
            self.trimmed = self.trimmed.max(through);
            self.log = self.log.split_off(&next(through));
        }
        Ok(())
    }

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

    /// Is the record at a position the one that was written then?
    pub(super) fn has_written(&self, at: Position, at_us: u64) -> bool {
        let known = at == Position::START || at_us == 0 || at <= self.trimmed;
        known || self.log.get(&at).is_some_and(|record| record.at_us == at_us)
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

/// The position that comes next after one.
pub(super) fn next(at: Position) -> Position {
    Position { sequence: at.sequence + 1, ..at }
}

pub(super) fn change(record: &Record) -> Option<&RowChange> {
    match &record.change {
        Change::Row(change) => Some(change),
        Change::Forget => None,
    }
}

pub(super) fn named(record: &Record) -> Option<&RowId> {
    change(record).map(|change| &change.id)
}

/// Row and version.
fn name(record: &Record) -> (RowId, Version) {
    let change = change(record).unwrap();
    (change.id.clone(), change.version.clone())
}

/// A row as it is now.
fn copied(id: &RowId, row: &Row) -> Record {
    let state = &row.state;
    let change = RowChange {
        id: id.clone(),
        row: row.image.clone(),
        version: state.version.clone(),
        replaces: state.replaces.clone(),
        marks: state.marks.clone(),
    };
    Record {
        position: Position::START,
        at_us: 0,
        tenant: state.tenant.clone(),
        placement: state.placement,
        schema: 1,
        change: Change::Row(change),
    }
}
