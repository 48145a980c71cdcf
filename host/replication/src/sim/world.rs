//! The world of one seed: regions with their databases and gateways, the control store, clients, and what befalls them.

use std::cell::Cell as Local;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use portolan_changelog::RowId;
use portolan_core::ids::RegionName;
use portolan_core::log::{Epoch, Version};
use portolan_core::time::Moment;
use portolan_foundation::{clock, random};
use turmoil::Sim;

use super::Variant;
use super::checks;
use super::clients::Clients;
use super::control::Control;
use super::ends::Store;
use super::faults::Faults;
use super::node::Region;
use super::random::Random;

/// How much time goes by with one step.
const TICK: Duration = Duration::from_millis(10);
/// The least that a word between regions takes, and the most, unless a link is slow.
const LATENCY_MS: (u64, u64) = (1, 60);
/// Steps in which things go wrong, at least and at most.
const STEPS: (u64, u64) = (800, 2_000);
/// Steps in which clients go on when all is healed.
const STEPS_AFTER: u64 = 100;
/// Steps that regions have to come to rest when nothing happens any more.
const STEPS_QUIET: u64 = 12_000;
/// From one look at what must hold to the next.
const STEPS_LOOK: u64 = 25;
/// The databases' clocks at the beginning, in microseconds.
const CLOCK_US: u64 = 1_000_000_000_000;
/// Lines of a trace that are kept.
const TRACE_MAX: usize = 200_000;

const REGIONS: [&str; 5] = ["ap", "eu", "sa", "uk", "us"];

thread_local! {
    static NOW_US: Local<u64> = const { Local::new(0) };
}

/// What all regions share, and those that look on.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) batch_records: usize,
    pub(super) control: Mutex<Control>,
    /// Databases are put back, too.
    pub(super) hard: bool,
    pub(super) history: Mutex<History>,
    pub(super) page_rows: usize,
    skews_us: BTreeMap<RegionName, i64>,
    trace: Mutex<Vec<String>>,
    pub(super) variant: Variant,
    violations: Mutex<Vec<String>>,
}

/// An epoch that has begun.
#[derive(Clone, Debug)]
pub(super) struct Promotion {
    pub(super) epoch: Epoch,
    pub(super) region: RegionName,
    /// All other regions were reached, and nothing was left with them.
    pub(super) whole: bool,
}

/// A write that a client was told is done.
#[derive(Clone, Debug)]
pub(super) struct Write {
    /// It may be gone: an epoch began without it.
    pub(super) lost: bool,
    pub(super) id: RowId,
    pub(super) region: RegionName,
    /// The database that had it was put back to before it.
    pub(super) taken_back: bool,
    pub(super) token: portolan_core::log::Position,
    pub(super) version: Version,
    /// When the client was told.
    pub(super) told: Moment,
}

/// What was done.
#[derive(Debug, Default)]
pub(super) struct History {
    /// A database was put back since the last promotion: what it alone had is told by nobody.
    pub(super) put_back: bool,
    pub(super) promotions: Vec<Promotion>,
    /// Tombstones that were swept somewhere, each row's highest.
    pub(super) swept: BTreeMap<RowId, Version>,
    pub(super) writes: Vec<Write>,
    /// What versions of rows are.
    pub(super) images: BTreeMap<(RowId, Version), Option<String>>,
}

/// How a seed ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) trace: Vec<String>,
    pub(super) violations: Vec<String>,
}

pub(super) struct World<'a> {
    pub(super) random: Random,
    pub(super) regions: Vec<Region>,
    pub(super) shared: Arc<Shared>,
    pub(super) sim: Sim<'a>,
    pub(super) step: u64,
}

impl Shared {
    pub(super) fn clock_us(&self, region: &RegionName) -> u64 {
        let skew_us = self.skews_us.get(region).copied().unwrap_or_default();
        (CLOCK_US + clock::now().0).saturating_add_signed(skew_us)
    }

    pub(super) fn trace(&self, what: impl FnOnce() -> String) {
        let mut trace = self.trace.lock().unwrap();
        if trace.len() < TRACE_MAX {
            trace.push(format!("{:>9.3} {}", clock::now().0 as f64 / 1e6, what()));
        }
    }

    pub(super) fn violated(&self, what: String) {
        self.trace(|| format!("VIOLATED: {what}"));
        self.violations.lock().unwrap().push(what);
    }

    pub(super) fn is_violated(&self) -> bool {
        !self.violations.lock().unwrap().is_empty()
    }

    /// An epoch has begun. What clients were told is done must be there, if all regions were reached.
    pub(super) fn promoted(&self, promotion: Promotion, store: &Store) {
        let mut history = self.history.lock().unwrap();
        let History { writes, swept, .. } = &mut *history;
        // Where databases are put back, an epoch may begin with a row whose deletion all had and had forgotten: the deletion is lost then,
        // as any write may be, and the row is there again.
        if self.hard && !promotion.whole {
            swept.retain(|id, swept| {
                store.with(|database| {
                    database.rows.get(id).is_none_or(|row| row.state.deleted || row.state.version >= *swept)
                })
            });
        }
        let mut missing = Vec::new();
        for write in writes.iter_mut().filter(|write| !write.lost) {
            let here = store.with(|database| {
                database.rows.get(&write.id).is_some_and(|row| row.state.version >= write.version)
            });
            if !here && swept.get(&write.id).is_none_or(|swept| *swept < write.version) {
                write.lost = true;
                if !write.taken_back {
                    missing.push(format!("{} of {}", write.version.v, write.id.key));
                }
            }
        }
        history.promotions.push(promotion.clone());
        let whole = promotion.whole && !std::mem::take(&mut history.put_back);
        drop(history);
        if whole && !missing.is_empty() {
            let Promotion { epoch, region, .. } = promotion;
            self.violated(format!(
                "epoch {epoch} began in `{region}` with all regions reached, and without {missing:?}"
            ));
        }
    }
}

fn present() -> Moment {
    Moment(
        turmoil::sim_elapsed()
            .map_or_else(|| NOW_US.get(), |elapsed| u64::try_from(elapsed.as_micros()).unwrap_or_default()),
    )
}

/// Runs a seed to its end.
pub(super) fn run(seed: u64, hard: bool, variant: Variant) -> Ended {
    random::seed(seed);
    NOW_US.set(0);
    clock::simulate(present);
    let mut random = Random::new(seed);
    let names: Vec<RegionName> = REGIONS[..usize::try_from(random.between(3, 5)).unwrap()]
        .iter()
        .map(|name| RegionName::new(name).unwrap())
        .collect();
    let skew_us = |random: &mut Random| {
        let most = super::SKEW_MAX.as_micros() as i64;
        random.below(2 * most as u64) as i64 - most
    };
    let shared = Arc::new(Shared {
        batch_records: random.between(2, 8) as usize,
        control: Mutex::new(Control::new(random.pick(&names).clone())),
        hard,
        history: Mutex::default(),
        page_rows: random.between(2, 9) as usize,
        skews_us: names.iter().map(|name| (name.clone(), skew_us(&mut random))).collect(),
        trace: Mutex::default(),
        variant,
        violations: Mutex::default(),
    });
    let mut sim = turmoil::Builder::new()
        .rng_seed(random.next())
        .tick_duration(TICK)
        .min_message_latency(Duration::from_millis(LATENCY_MS.0))
        .max_message_latency(Duration::from_millis(LATENCY_MS.1))
        .simulation_duration(Duration::from_hours(1))
        .tcp_capacity(1024)
        .build();
    let mut regions = Vec::new();
    for name in &names {
        let region = Region {
            cells: Arc::default(),
            name: name.clone(),
            others: names.iter().filter(|other| *other != name).cloned().collect(),
            store: Store::new(name.clone(), Arc::clone(&shared)),
        };
        regions.push(region.clone());
        sim.host(name.as_str(), move || region.clone().run());
    }
    let mut world = World { random, regions, shared, sim, step: 0 };
    world.live();
    // Databases outlive gateways; what is simulated ends before its clock.
    drop(world.sim);
    let trace = std::mem::take(&mut *world.shared.trace.lock().unwrap());
    let violations = std::mem::take(&mut *world.shared.violations.lock().unwrap());
    Ended { trace, violations }
}

impl World<'_> {
    fn live(&mut self) {
        let (mut clients, mut faults) = (Clients::default(), Faults::default());
        let steps = self.random.between(STEPS.0, STEPS.1);
        while self.step < steps && !self.shared.is_violated() {
            faults.befall(self);
            clients.act(self);
            self.turn();
        }
        faults.heal(self);
        let until = self.step + STEPS_AFTER;
        while self.step < until && !self.shared.is_violated() {
            clients.act(self);
            self.turn();
        }
        clients.end(self);
        let until = self.step + STEPS_QUIET;
        let mut last = Vec::new();
        while !self.shared.is_violated() {
            if self.step.is_multiple_of(STEPS_LOOK) {
                last = checks::restless(self);
                if last.is_empty() {
                    break;
                }
                faults.help(self);
            }
            if self.step > until {
                self.shared.violated(format!("no rest: {}", last.join("; ")));
            }
            faults.keep_house(self);
            self.turn();
        }
        if !self.shared.is_violated() {
            checks::end(self);
        }
    }

    /// One step of all.
    fn turn(&mut self) {
        let now_us = clock::now().0;
        if self.shared.control.lock().unwrap().turn(now_us) {
            let meant = self.shared.control.lock().unwrap().meant.clone();
            self.shared.trace(|| format!("epoch {} is given to `{}`", meant.epoch, meant.primary));
        }
        if let Err(error) = self.sim.step() {
            self.shared.violated(format!("a gateway ended: {error}"));
        }
        self.step += 1;
        NOW_US.set(self.step * u64::try_from(TICK.as_micros()).unwrap_or_default());
        if self.step.is_multiple_of(STEPS_LOOK) {
            checks::look(self);
        }
    }

    pub(super) fn region(&self, name: &RegionName) -> &Region {
        self.regions.iter().find(|region| region.name == *name).unwrap()
    }

    /// The region that writes the shard, if it has begun its epoch.
    pub(super) fn primary(&self) -> Option<&Region> {
        let meant = self.shared.control.lock().unwrap().meant.clone();
        let region = self.region(&meant.primary);
        let begun = region.store.with(|database| {
            database.fence.epoch == meant.epoch
                && database.lineage.epoch() == meant.epoch
                && database.cut.is_none()
        });
        begun.then_some(region)
    }

    pub(super) fn names(&self) -> BTreeSet<RegionName> {
        self.regions.iter().map(|region| region.name.clone()).collect()
    }
}
