//! What others see of this region's shards: which are open, under which leases, and how they stand.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use portolan_changelog::{Lease, Store};
use portolan_core::breaker::Breaker;
use portolan_core::ids::ShardName;
use portolan_core::log::Epoch;
use portolan_core::loss::Admission;
use portolan_core::tenant_table::Tables;
use portolan_core::time::Moment;
use portolan_foundation::shutdown::Shutdown;
use portolan_foundation::task;
use serde::Serialize;
use tokio::sync::{Notify, Semaphore, watch};

use crate::config::{Intent, Limits};
use crate::copies::{Copies, Freshness};
use crate::data::{self, Catalogue};
use crate::exposure::{self, Exposure};
use crate::keeper::{self, Intended, Others};
use crate::newest::Newest;
use crate::room::Room;
use crate::space::{Fullness, Space};

/// The shards of this region. Clones share them.
#[derive(Clone, Debug)]
pub struct Shards(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    cells: ArcSwap<BTreeMap<ShardName, Arc<Cell>>>,
    /// Who knows how fresh copies are; nobody while none are followed.
    copies: ArcSwapOption<Arc<dyn Copies>>,
    intent: watch::Sender<Option<Intent>>,
    limits: Limits,
    /// Bytes of contents and answers in memory.
    node_bytes: Arc<Semaphore>,
    space: Arc<dyn Space>,
}

/// What is known of one shard. Written by its keeper alone, but for the breaker and the places of requests.
#[derive(Debug)]
pub(crate) struct Cell {
    /// The last epoch that was held here.
    begun: AtomicU64,
    /// How its database answered requests lately.
    pub(crate) breaker: Breaker,
    /// What of it may be lost with this region.
    pub(crate) exposure: Exposure,
    /// How full its place is.
    pub(crate) fullness: Fullness,
    /// The lease, while there is one.
    pub(crate) lease: ArcSwapOption<Lease>,
    /// The lease that was last held, with when it ended.
    led: ArcSwapOption<Lease>,
    /// Where its log is, for applications that write beside the gateway.
    pub(crate) newest: Newest,
    /// Has its keeper look at once.
    pub(crate) nudge: Notify,
    /// The database, once it is open.
    pub(crate) open: ArcSwapOption<Open>,
    pub(crate) report: Mutex<ShardReport>,
    /// The places of requests.
    pub(crate) room: Arc<Room>,
}

/// An open database.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) catalogue: Arc<Catalogue>,
    /// The version of the tenants' schema that this was read from.
    pub(crate) schema: u64,
    pub(crate) store: Store,
    pub(crate) tables: Tables,
}

/// What a region is to a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It writes it, while it has the lease.
    Primary,
    /// It keeps a copy.
    Replica,
}

/// How a shard stands in this region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShardReport {
    /// The lease that is meant.
    pub epoch: u64,
    /// How old what no other region has received may be, in milliseconds: what would be lost with this one. Absent where this region does
    /// not write it, or no other keeps it.
    pub exposed_ms: Option<u64>,
    /// Has its database been silent or gone too often, so that requests are refused at once?
    pub failing: bool,
    /// How many passes of its keeper in a row did not do what they are for.
    pub failures: u32,
    /// Is its place so full that writes are refused?
    pub full: bool,
    /// How long the lease still lasts, in milliseconds; absent when this region has none.
    pub lease_ms: Option<u64>,
    /// Its name.
    pub name: ShardName,
    /// Are writes refused or slowed, because it is exposed for longer than it may be?
    pub past_max_loss: bool,
    /// What is wrong, if anything, and what to do.
    pub problem: Option<String>,
    /// What this region is to it.
    pub role: Role,
    /// The version of the tenants' schema; absent until it is open.
    pub schema: Option<u64>,
    /// Writes that no other region had received in time, since this node started.
    pub unconfirmed: u64,
    /// How much of its place is used, in percent, where that is known.
    pub used_percent: Option<u8>,
}

impl Shards {
    /// Shards of nothing, until [`Self::follow`], on disks that `space` knows.
    #[must_use]
    pub fn new(limits: Limits, space: Arc<dyn Space>) -> Self {
        Self(Arc::new(Inner {
            cells: ArcSwap::default(),
            copies: ArcSwapOption::empty(),
            intent: watch::Sender::new(None),
            limits,
            node_bytes: Arc::new(Semaphore::new(limits.node_bytes)),
            space,
        }))
    }

    /// From now on the region keeps these.
    pub fn follow(&self, intent: Intent) {
        self.0.intent.send_if_modified(|now| {
            let changed = now.as_ref() != Some(&intent);
            *now = Some(intent);
            changed
        });
    }

    /// Keeps the shards until shutdown.
    ///
    /// What wakes it: another intent. What it reads: that. What it writes: a keeper for each shard. Nothing here fails;
    /// keepers retry by themselves.
    pub async fn run(self, intended: Arc<dyn Intended>, others: Arc<dyn Others>, shutdown: Shutdown) {
        task::spawn("watch what may be lost", exposure::watch(self.clone(), shutdown.clone()));
        let mut intents = self.0.intent.subscribe();
        let mut keepers: BTreeMap<ShardName, keeper::Handle> = BTreeMap::new();
        loop {
            let intent = intents.borrow_and_update().clone();
            if let Some(intent) = intent {
                let gone = keepers.extract_if(.., |name, _| !intent.shards.contains_key(name));
                gone.for_each(|(_, keeper)| keeper.leave());
                for (name, kept) in &intent.shards {
                    let task = keeper::Task {
                        kept: kept.clone(),
                        region: intent.region.clone(),
                        tables: intent.tables.clone(),
                    };
                    match keepers.get(name) {
                        Some(keeper) => keeper.follow(task),
                        None => {
                            let around = keeper::Around {
                                intended: Arc::clone(&intended),
                                others: Arc::clone(&others),
                                space: Arc::clone(&self.0.space),
                            };
                            let cell = self.cell_of(name, &task);
                            let keeper = keeper::start(cell, task, around, &shutdown);
                            keepers.insert(name.clone(), keeper);
                        }
                    }
                    if let Some(keeper) = keepers.get(name) {
                        keeper.cell().exposure.follow(kept);
                    }
                }
                let cells = keepers.iter().map(|(name, keeper)| (name.clone(), Arc::clone(keeper.cell())));
                self.0.cells.store(Arc::new(cells.collect()));
            }
            tokio::select! {
                // Cancel-safe: a change that was not seen is still marked.
                changed = intents.changed() => if changed.is_err() { return },
                () = shutdown.begun() => return,
            }
        }
    }

    /// From now on copies are read, as fresh as these say that they are.
    pub fn read_copies(&self, copies: Arc<dyn Copies>) {
        self.0.copies.store(Some(Arc::new(copies)));
    }

    /// How fresh this region's copy of a shard is; none while it may not be read.
    #[must_use]
    pub fn freshness(&self, name: &ShardName) -> Option<Freshness> {
        self.0.copies.load().as_ref()?.freshness(name)
    }

    /// Is what a path names a table that all members write, as far as this region's database knows?
    pub(crate) fn is_of_members(&self, name: &ShardName, path: &str) -> bool {
        let open = self.cell(name).and_then(|cell| cell.open.load_full());
        open.is_some_and(|open| data::is_of_members(&open.catalogue, path))
    }

    /// How they stand.
    #[must_use]
    pub fn reports(&self, now: Moment) -> Vec<ShardReport> {
        self.0.cells.load().values().map(|cell| cell.report(now)).collect()
    }

    /// A shard's database and the epoch under which this region writes it now; none while it does not.
    #[must_use]
    pub fn written(&self, name: &ShardName, now: Moment) -> Option<(Store, Epoch)> {
        self.leased(name, now).map(|(store, lease)| (store, lease.epoch))
    }

    /// A shard's database and lease, while this region writes it.
    #[must_use]
    pub fn leased(&self, name: &ShardName, now: Moment) -> Option<(Store, Lease)> {
        let cell = self.cell(name)?;
        let lease = cell.lease(now)?;
        let open = cell.open.load_full()?;
        Some((open.store.clone(), lease))
    }

    /// A shard's database with the tables that it was opened with; none while it is not open.
    #[must_use]
    pub fn open(&self, name: &ShardName) -> Option<(Store, Tables)> {
        let open = self.cell(name)?.open.load_full()?;
        Some((open.store.clone(), open.tables.clone()))
    }

    /// Has a shard's keeper look at once: what it asks leave of has something else to say.
    pub fn look_again(&self, name: &ShardName) {
        if let Some(cell) = self.cell(name) {
            cell.nudge.notify_one();
        }
    }

    /// Is an epoch meant to be this region's, and not begun here yet? One whose lease has run out has begun.
    pub(crate) fn is_to_begin(&self, cell: &Cell, name: &ShardName, epoch: Epoch) -> bool {
        let intent = self.0.intent.borrow();
        let kept = intent.as_ref().and_then(|intent| Some((intent.shards.get(name)?, &intent.region)));
        let meant = kept.is_some_and(|(kept, region)| kept.epoch == epoch && kept.primary == *region);
        meant && cell.open.load().is_some() && cell.begun.load(Ordering::Relaxed) < epoch.0
    }

    pub(crate) fn cell(&self, name: &ShardName) -> Option<Arc<Cell>> {
        self.0.cells.load().get(name).cloned()
    }

    pub(crate) fn cells(&self) -> Vec<Arc<Cell>> {
        self.0.cells.load().values().cloned().collect()
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.0.limits
    }

    fn cell_of(&self, name: &ShardName, task: &keeper::Task) -> Arc<Cell> {
        let room = Room::new(self.0.limits, Arc::clone(&self.0.node_bytes));
        Arc::new(Cell::new(name.clone(), task.role(), task.kept.epoch, room))
    }
}

impl Cell {
    pub(crate) fn new(name: ShardName, role: Role, epoch: Epoch, room: Room) -> Self {
        let report = ShardReport {
            epoch: epoch.0,
            exposed_ms: None,
            failing: false,
            failures: 0,
            full: false,
            lease_ms: None,
            name,
            past_max_loss: false,
            problem: Some("it is being opened".to_owned()),
            role,
            schema: None,
            unconfirmed: 0,
            used_percent: None,
        };
        Self {
            begun: AtomicU64::new(0),
            breaker: Breaker::default(),
            exposure: Exposure::default(),
            fullness: Fullness::default(),
            lease: ArcSwapOption::empty(),
            led: ArcSwapOption::empty(),
            newest: Newest::default(),
            nudge: Notify::new(),
            open: ArcSwapOption::empty(),
            report: Mutex::new(report),
            room: Arc::new(room),
        }
    }

    /// The lease, if it still lasts.
    pub(crate) fn lease(&self, now: Moment) -> Option<Lease> {
        self.lease.load().as_deref().copied().filter(|lease| lease.allows(now))
    }

    /// From now on there is this lease.
    pub(crate) fn hold(&self, lease: Lease) {
        self.begun.fetch_max(lease.epoch.0, Ordering::Relaxed);
        self.lease.store(Some(Arc::new(lease)));
    }

    /// The lease is over.
    pub(crate) fn end_lease(&self, now: Moment) {
        if let Some(lease) = self.lease.swap(None) {
            self.led.store(Some(Arc::new(Lease { until: lease.until.min(now), ..*lease })));
        }
    }

    /// The lease is over, and what it was held of is not what is here.
    pub(crate) fn drop_lease(&self) {
        self.lease.store(None);
        self.led.store(None);
    }

    /// How old what is here may be, once the lease of an epoch is over that nobody has followed yet, as far as is known here: somebody may have written
    /// elsewhere since.
    pub(crate) fn outlived(&self, epoch: Epoch, now: Moment) -> Option<Freshness> {
        let last = self.lease.load_full().or_else(|| self.led.load_full())?;
        let over = last.epoch == epoch && !last.allows(now);
        over.then(|| Freshness { applied: None, behind: now.since(last.until) })
    }

    pub(crate) fn name(&self) -> ShardName {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).name.clone()
    }

    pub(crate) fn note(&self, change: impl FnOnce(&mut ShardReport)) {
        change(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn report(&self, now: Moment) -> ShardReport {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let left = self.lease(now).map(|lease| lease.until.since(now));
        report.lease_ms = left.map(milliseconds);
        report.exposed_ms = self.exposure.exposed(now).map(milliseconds);
        report.past_max_loss = self.exposure.admit(now) != Admission::Pass;
        report.unconfirmed = self.exposure.unconfirmed();
        report.failing = self.breaker.is_open();
        report.full = self.fullness.is_full();
        report.used_percent = self.fullness.used_percent();
        report
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
