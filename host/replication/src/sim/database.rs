//! A shard's database in memory: its rows, its log, and what it knows of others. What it decides is decided by the models that the databases
//! stand on; what is here is what SQL does there, each method one transaction.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use portolan_changelog::model::gate::{Ground, Image, Plan, RowState};
use portolan_changelog::model::peer::Extent;
use portolan_changelog::model::reader;
use portolan_changelog::model::retention::{Log as Trimming, Piece};
use portolan_changelog::{
    Batch, Change, Closed, Copying, Counts, Cut, Error, Fence, Horizon, Lineage, Peer, Progress, Record,
    Retention, RowChange, RowId,
};
use portolan_core::ids::RegionName;
use portolan_core::log::{Epoch, Identity, Position, Version};
use portolan_core::tenant_table::ConflictRule;

use super::Variant;
use super::writing::{Open, STOCK, merged};

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
    /// Versions that were lost to others, with their rows: where columns are merged, one may have several.
    pub(super) ledger: BTreeMap<(RowId, Version), BTreeSet<Option<String>>>,
    pub(super) lineage: Lineage,
    pub(super) log: BTreeMap<Position, Record>,
    pub(super) next: u64,
    pub(super) open: BTreeMap<u64, Open>,
    pub(super) own: RegionName,
    pub(super) parked: BTreeMap<(RowId, Version), Record>,
    pub(super) peers: BTreeMap<RegionName, Peer>,
    pub(super) progress: BTreeMap<RegionName, Progress>,
    pub(super) round: u64,
    pub(super) rows: BTreeMap<RowId, Row>,
    rules: HashMap<String, ConflictRule>,
    pub(super) sequence: u64,
    pub(super) staged: BTreeMap<RegionName, Vec<Record>>,
    pub(super) stale: BTreeMap<RowId, Version>,
    pub(super) tail: BTreeMap<RegionName, BTreeMap<Position, Batch>>,
    pub(super) trimmed: Position,
    pub(super) variant: Variant,
    /// Deletions that are known no more, of rows that their source did not have either.
    pub(super) vanished: BTreeMap<RowId, Version>,
}

impl Database {
    pub(super) fn new(own: RegionName, variant: Variant) -> Self {
        let identity =
            Identity { system: own.as_str().to_owned(), timeline: 1, incarnation: "first".to_owned() };
        let rule = if variant == Variant::RuleIgnored { ConflictRule::LastWriterWins } else { merged() };
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
            rules: HashMap::from([(STOCK.to_owned(), rule)]),
            sequence: 0,
            staged: BTreeMap::new(),
            stale: BTreeMap::new(),
            tail: BTreeMap::new(),
            trimmed: Position::START,
            variant,
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

    /// Under which this region is a member from now on.
    pub(super) fn incarnation(&self, now_us: u64) -> u64 {
        if self.variant == Variant::IncarnationKept { 1 } else { now_us }
    }

    /// Has a follower lost its place in this log?
    pub(super) fn has_lost(&self, follower: &RegionName) -> bool {
        let peer = self.peers.get(follower);
        peer.is_some_and(|peer| peer.needs_snapshot_us.is_some() && peer.identity == self.identity)
    }

    pub(super) fn tip(&self) -> Position {
        self.log.last_key_value().map_or(self.trimmed, |(last, _)| *last)
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
        let mut ground = Ground { rules: self.rules.clone(), ..Ground::default() };
        for id in &names {
            if let Some(row) = self.rows.get(*id) {
                ground.rows.insert((*id).clone(), row.state.clone());
                let image = row.image.clone().filter(|_| self.rules.contains_key(&id.table));
                ground.images.extend(image.map(|image| ((*id).clone(), image)));
            }
        }
        let plan = Plan::make(&mut ground, records.iter().chain(&waiting), now_us);
        let keeps = self.variant != Variant::LoserDropped;
        for conflict in plan.conflicts.iter().filter(|_| keeps) {
            let row = match &conflict.loser {
                Image::Is(row) => row.clone(),
                Image::There => self.rows.get(&conflict.id).and_then(|row| row.image.clone()),
            };
            self.keep(&conflict.id, &conflict.lost, row);
        }
        if self.variant == Variant::Echo {
            plan.writes.values().for_each(|write| self.tell(&write.record));
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

    /// Tells others of what another wrote, which nobody is to do.
    fn tell(&mut self, record: &Record) {
        (self.next, self.sequence) = (self.next + 1, self.sequence + 1);
        let at = Position { epoch: self.fence.epoch, transaction: self.next - 1, sequence: self.sequence };
        self.log.insert(at, Record { position: at, ..record.clone() });
    }

    /// Keeps a version that was lost.
    pub(super) fn keep(&mut self, id: &RowId, version: &Version, row: Option<String>) {
        self.ledger.entry((id.clone(), version.clone())).or_default().insert(row);
    }

    /// Rows and tombstones after one, each with what waits for it.
    pub(super) fn page(&self, after: Option<&RowId>, max: usize) -> Vec<Record> {
        let later = |id: &RowId| after.is_none_or(|after| id > after);
        let rows: Vec<(&RowId, &Row)> = self.rows.iter().filter(|(id, _)| later(id)).take(max).collect();
        let end = rows.last().map(|(id, _)| (*id).clone());
        let mut page: Vec<Record> = rows.into_iter().map(|(id, row)| copied(id, row)).collect();
        if self.variant != Variant::WaitingLeft {
            let spanned = |id: &RowId| later(id) && end.as_ref().is_none_or(|end| id <= end);
            let waits = self.parked.iter().filter(|((id, _), _)| spanned(id));
            page.extend(waits.map(|(_, record)| record.clone()));
            page.sort_by(|one, other| named(one).cmp(&named(other)));
        }
        page
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

    /// Is the record at a position the one that was written then?
    pub(super) fn has_written(&self, at: Position, at_us: u64) -> bool {
        let known = at == Position::START || at_us == 0 || at <= self.trimmed;
        known || self.log.get(&at).is_some_and(|record| record.at_us == at_us)
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
