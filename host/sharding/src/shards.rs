//! What others see of this region's shards: which are open, under which leases, and how they stand.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use portolan_changelog::{Lease, Store};
use portolan_core::ids::ShardName;
use portolan_core::log::Epoch;
use portolan_core::tenant_table::Tables;
use portolan_core::time::Moment;
use portolan_foundation::shutdown::Shutdown;
use serde::Serialize;
use tokio::sync::{Semaphore, watch};

use crate::config::Intent;
use crate::data::Catalogue;
use crate::defaults;
use crate::keeper::{self, Intended};

/// The shards of this region. Clones share them.
#[derive(Clone, Debug)]
pub struct Shards(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    cells: ArcSwap<BTreeMap<ShardName, Arc<Cell>>>,
    intent: watch::Sender<Option<Intent>>,
}

/// What is known of one shard. Written by its keeper alone.
#[derive(Debug)]
pub(crate) struct Cell {
    /// The lease, while there is one.
    pub(crate) lease: ArcSwapOption<Lease>,
    /// The database, once it is open.
    pub(crate) open: ArcSwapOption<Open>,
    pub(crate) report: Mutex<ShardReport>,
    /// Turns of requests.
    pub(crate) turns: Semaphore,
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
    /// How long the lease still lasts, in milliseconds; absent when this region has none.
    pub lease_ms: Option<u64>,
    /// Its name.
    pub name: ShardName,
    /// What is wrong, if anything, and what to do.
    pub problem: Option<String>,
    /// What this region is to it.
    pub role: Role,
    /// The version of the tenants' schema; absent until it is open.
    pub schema: Option<u64>,
}

impl Shards {
    /// Shards of nothing, until [`Self::follow`].
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Inner { cells: ArcSwap::default(), intent: watch::Sender::new(None) }))
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
    pub async fn run(self, intended: Arc<dyn Intended>, shutdown: Shutdown) {
        let mut intents = self.0.intent.subscribe();
        let mut keepers: BTreeMap<ShardName, keeper::Handle> = BTreeMap::new();
        loop {
            let intent = intents.borrow_and_update().clone();
            if let Some(intent) = intent {
                keepers.retain(|name, _| intent.shards.contains_key(name));
                for (name, kept) in &intent.shards {
                    let task = keeper::Task {
                        kept: kept.clone(),
                        region: intent.region.clone(),
                        tables: intent.tables.clone(),
                    };
                    match keepers.get(name) {
                        Some(keeper) => keeper.follow(task),
                        None => {
                            let keeper = keeper::start(name.clone(), task, Arc::clone(&intended), &shutdown);
                            keepers.insert(name.clone(), keeper);
                        }
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

    /// How they stand.
    #[must_use]
    pub fn reports(&self, now: Moment) -> Vec<ShardReport> {
        self.0.cells.load().values().map(|cell| cell.report(now)).collect()
    }

    /// A shard's database and the epoch under which this region writes it now; none while it does not.
    #[must_use]
    pub fn written(&self, name: &ShardName, now: Moment) -> Option<(Store, Epoch)> {
        let cell = self.cell(name)?;
        let lease = cell.lease(now)?;
        let open = cell.open.load_full()?;
        Some((open.store.clone(), lease.epoch))
    }

    pub(crate) fn cell(&self, name: &ShardName) -> Option<Arc<Cell>> {
        self.0.cells.load().get(name).cloned()
    }
}

impl Default for Shards {
    fn default() -> Self {
        Self::new()
    }
}

impl Cell {
    pub(crate) fn new(name: ShardName, role: Role, epoch: Epoch) -> Self {
        let report = ShardReport {
            epoch: epoch.0,
            lease_ms: None,
            name,
            problem: Some("it is being opened".to_owned()),
            role,
            schema: None,
        };
        Self {
            lease: ArcSwapOption::empty(),
            open: ArcSwapOption::empty(),
            report: Mutex::new(report),
            turns: Semaphore::new(defaults::REQUESTS_MAX),
        }
    }

    /// The lease, if it still lasts.
    pub(crate) fn lease(&self, now: Moment) -> Option<Lease> {
        self.lease.load().as_deref().copied().filter(|lease| lease.allows(now))
    }

    pub(crate) fn note(&self, change: impl FnOnce(&mut ShardReport)) {
        change(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn report(&self, now: Moment) -> ShardReport {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let left = self.lease(now).map(|lease| lease.until.since(now));
        report.lease_ms = left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        report
    }
}
