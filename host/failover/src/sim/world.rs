//! A world: regions with gateways, databases and voters, a network between them, clients, and true time, which nobody in it knows.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use portolan_core::ids::{RegionName, ShardName};
use portolan_core::log::Epoch;
use portolan_core::time::Moment;

use super::database::Copy;
use super::policy::Rogue;
use super::random::Random;
use super::{Variant, checks};
use crate::agent::{Agent, Capacity, Event, Now, Setup, Shard, Word};
use crate::counter::Outcome;
use crate::intent::Intents;
use crate::lease::Permit;
use crate::matrix::{Path, Report};
use crate::members::Members;
use crate::picture::MaxLoss;
use crate::promotion::Work;
use crate::store::{Answer, Request, Table};
use crate::timers::{Profile, Timers};

pub(super) const MS: u64 = 1_000;
pub(super) const SECOND: u64 = 1_000 * MS;
/// When the world begins, by a wall clock that is right.
const UNIX_MS: u64 = 1_900_000_000_000;
/// Rows that a primary of a shard without direct writers has beyond what others have received.
pub(super) const WINDOW: u64 = 50;
/// Rows that an automatic promotion may lose.
pub(super) const MAX_ROWS: u64 = 50;

/// Something that happens.
#[derive(Clone, Debug)]
pub(super) enum What {
    /// To a region's gateway.
    Agent(usize, Box<Event>),
    Tick(usize),
    Probe(usize),
    /// A region asks the store.
    Store {
        region: usize,
        boot: u32,
        number: u64,
        request: Box<Request>,
    },
    /// A report arrives.
    Heard {
        to: usize,
        report: Box<Report>,
        words: Vec<Word>,
    },
    /// The keepers of a region look after its fences.
    Keep(usize),
    Extend {
        region: usize,
        shard: usize,
        reading_us: u64,
        epoch: u64,
    },
    Replicate(usize),
    Client(usize),
    Write {
        region: usize,
        shard: usize,
        epoch: u64,
    },
    Work {
        region: usize,
        boot: u32,
        shard: usize,
        number: u64,
        work: Work,
    },
    Fault,
    Do(super::faults::Fault),
}

#[derive(Clone, Debug)]
struct Scheduled {
    at: u64,
    order: u64,
    what: What,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// A region.
#[derive(Debug)]
pub(super) struct Region {
    pub(super) name: RegionName,
    pub(super) agent: Agent,
    pub(super) boot: u32,
    /// Its gateways run.
    pub(super) up: bool,
    /// They are stopped until then, and do not know it.
    pub(super) stopped_until: u64,
    pub(super) database_up: bool,
    pub(super) voter_up: bool,
    pub(super) ingress_up: bool,
    /// It answers no probe, and goes on with its work.
    pub(super) deaf: bool,
    /// Its probes fail, whatever they probe.
    pub(super) sick: bool,
    /// Its certificate has expired.
    pub(super) expired: bool,
    /// Its replicas take nothing.
    pub(super) stalled: bool,
    ppm: i64,
    base_us: u64,
    /// By how much its wall clock is wrong, in milliseconds.
    pub(super) wall_ms: i64,
    /// By how much its databases' clock is wrong, in microseconds.
    pub(super) database_us: i64,
    pub(super) copies: Vec<Copy>,
    /// The moment by true time at which the last renewal was sent that was acknowledged.
    pub(super) renewed_us: u64,
    /// Where the lease is counted from the answer.
    pub(super) late_until: Option<Moment>,
    pub(super) bundles: Vec<crate::evidence::Bundle>,
    pub(super) chain: crate::evidence::Chain,
}

/// What is drawn of a world.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) regions: usize,
    pub(super) shards: usize,
    pub(super) policy: Rogue,
    pub(super) failsafe: bool,
    pub(super) profile: Profile,
    /// In percent.
    pub(super) loss: u64,
    pub(super) slow_store: bool,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) variant: Variant,
    pub(super) shape: Shape,
    pub(super) random: Random,
    pub(super) now: u64,
    queue: BinaryHeap<Scheduled>,
    order: u64,
    pub(super) regions: Vec<Region>,
    pub(super) shards: Vec<ShardName>,
    pub(super) timers: Timers,
    pub(super) members: Members,
    pub(super) store: Table,
    pub(super) forks: BTreeMap<usize, Table>,
    /// Whether messages go from one to another.
    pub(super) cut: BTreeSet<(usize, usize)>,
    /// Regions that do not reach the store.
    pub(super) away: BTreeSet<usize>,
    pub(super) faulty: bool,
    pub(super) intents: Intents,
    pub(super) seen: checks::Seen,
    pub(super) violations: Vec<String>,
    pub(super) trace: Vec<String>,
    pub(super) steps: u64,
}

impl World {
    pub(super) fn new(seed: u64, shape: Shape, variant: Variant) -> Self {
        let mut random = Random::new(seed);
        let name = |at: usize| RegionName::new(["ap", "eu", "me", "sa", "us"][at]).unwrap();
        let members = Members::new((0..shape.regions).map(name)).unwrap();
        let mut timers = shape.profile.timers();
        timers.lease.failsafe = shape.failsafe;
        timers.check().unwrap();
        let shards: Vec<ShardName> =
            (0..shape.shards).map(|at| ShardName::new(&format!("s{at}")).unwrap()).collect();
        let regions = (0..shape.regions).map(|at| Region {
            name: name(at),
            agent: Agent::new(setup(at, 1, &members, &shards, &timers, variant)).unwrap(),
            boot: 1,
            up: true,
            stopped_until: 0,
            database_up: true,
            voter_up: true,
            ingress_up: true,
            deaf: false,
            sick: false,
            expired: false,
            stalled: false,
            ppm: i64::try_from(random.below(401)).unwrap() - 200,
            base_us: random.below(1_000 * SECOND),
            wall_ms: i64::try_from(random.below(4_001)).unwrap() - 2_000,
            database_us: i64::try_from(random.below(2_000_001)).unwrap() - 1_000_000,
            copies: vec![Copy::default(); shape.shards],
            renewed_us: 0,
            late_until: None,
            bundles: Vec::new(),
            chain: crate::evidence::Chain::default(),
        });
        let regions: Vec<Region> = regions.collect();
        let mut world = Self {
            variant,
            random,
            now: 0,
            queue: BinaryHeap::new(),
            order: 0,
            regions,
            shards,
            timers,
            members,
            store: Table::default(),
            forks: BTreeMap::new(),
            cut: BTreeSet::new(),
            away: BTreeSet::new(),
            faulty: false,
            intents: Intents::default(),
            seen: checks::Seen::new(shape.shards),
            violations: Vec::new(),
            trace: Vec::new(),
            steps: 0,
            shape,
        };
        for at in 0..world.regions.len() {
            for what in [What::Tick(at), What::Probe(at), What::Keep(at), What::Replicate(at)] {
                let after = world.random.below(100 * MS);
                world.after(after, what);
            }
        }
        for shard in 0..world.shards.len() {
            world.after(shard as u64 * 7 * MS, What::Client(shard));
        }
        world
    }

    pub(super) fn after(&mut self, us: u64, what: What) {
        self.order += 1;
        self.queue.push(Scheduled { at: self.now + us, order: self.order, what });
    }

    pub(super) fn note(&mut self, line: impl FnOnce() -> String) {
        let line = line();
        self.trace.push(format!("{:9.3} {line}", self.now as f64 / 1e6));
    }

    pub(super) fn violated(&mut self, what: String) {
        self.note(|| format!("VIOLATED {what}"));
        if self.violations.len() < 20 {
            self.violations.push(what);
        }
    }

    /// Runs until a moment, or until something is violated.
    pub(super) fn run_until(&mut self, end_us: u64) {
        while self.violations.is_empty() && self.queue.peek().is_some_and(|next| next.at <= end_us) {
            let Scheduled { at, what, .. } = self.queue.pop().unwrap();
            self.now = at;
            self.steps += 1;
            super::steps::step(self, what);
        }
        self.now = self.now.max(end_us);
    }

    pub(super) fn run(&mut self, seconds: u64) {
        self.run_until(self.now + seconds * SECOND);
    }

    /// A region's time.
    pub(super) fn time(&self, region: usize) -> Now {
        let there = &self.regions[region];
        let run = i128::from(self.now) * (1_000_000 + i128::from(there.ppm)) / 1_000_000;
        let moment = Moment(there.base_us + u64::try_from(run).unwrap());
        Now { moment, unix_ms: (UNIX_MS + self.now / MS).saturating_add_signed(there.wall_ms) }
    }

    /// The clock of its databases.
    pub(super) fn database_clock(&self, region: usize) -> u64 {
        (UNIX_MS * MS + self.now).saturating_add_signed(self.regions[region].database_us)
    }

    pub(super) fn is_stopped(&self, region: usize) -> bool {
        self.now < self.regions[region].stopped_until
    }

    /// Do messages go from a region to another?
    pub(super) fn goes(&self, from: usize, to: usize) -> bool {
        from == to || !self.cut.contains(&(from, to))
    }

    pub(super) fn reaches(&self, from: usize, to: usize) -> bool {
        self.goes(from, to) && self.goes(to, from)
    }

    pub(super) fn has_majority(&self, region: usize) -> bool {
        let voters = self.regions.iter().enumerate();
        let reached = voters.filter(|(at, there)| there.voter_up && self.reaches(region, *at)).count();
        reached * 2 > self.regions.len() && !self.away.contains(&region)
    }

    pub(super) fn delay(&mut self) -> u64 {
        let most = if self.random.percent(3) { 400 } else { 60 };
        self.random.between(5, most) * MS
    }

    pub(super) fn store_delay(&mut self) -> u64 {
        let slow = if self.shape.slow_store { 30 } else { 3 * u64::from(self.faulty) };
        let most = if self.random.percent(slow) { 1_800 } else { 40 };
        self.random.between(2, most) * MS
    }

    /// Permission to write, as a region's gateway counts it.
    pub(super) fn permit(&self, region: usize, shard: usize) -> Option<Permit> {
        let there = &self.regions[region];
        let permit = there.agent.permit(&self.shards[shard], self.time(region).moment)?;
        match (self.variant, there.late_until) {
            (Variant::LeaseFromAnswer, Some(until)) => {
                Some(Permit { until: until.max(permit.until), ..permit })
            }
            _ => Some(permit),
        }
    }

    pub(super) fn is_direct(shard: usize) -> bool {
        shard % 2 == 1
    }

    /// Copies of a shard: of the second shard not in every region.
    pub(super) fn keeps(&self, region: usize, shard: usize) -> bool {
        keeps(region, shard, self.regions.len())
    }

    /// A gateway starts, and knows nothing.
    pub(super) fn start(&mut self, region: usize) {
        let boot = self.regions[region].boot + 1;
        let setup = setup(region, boot, &self.members, &self.shards, &self.timers, self.variant);
        let intents = self.intents.clone();
        let there = &mut self.regions[region];
        (there.boot, there.up, there.late_until) = (boot, true, None);
        there.agent = Agent::new(setup).unwrap();
        (there.bundles, there.chain) = (Vec::new(), crate::evidence::Chain::default());
        self.after(0, What::Agent(region, Box::new(Event::Intents(intents))));
    }

    pub(super) fn say(&mut self, intents: Intents) {
        self.intents = intents.clone();
        for region in 0..self.regions.len() {
            self.after(0, What::Agent(region, Box::new(Event::Intents(intents.clone()))));
        }
    }

    /// What a probe of one region by another comes to.
    pub(super) fn probe(&mut self, from: usize, to: usize, path: Path) -> Outcome {
        use crate::counter::Reason::Timeout;
        let there = &self.regions[to];
        let works = there.up
            && !self.is_stopped(to)
            && self.reaches(from, to)
            && !self.regions[from].sick
            && !there.deaf;
        let works = works && (path == Path::Peer || there.ingress_up);
        if works && path == Path::Peer && (there.expired || self.regions[from].expired) {
            return Outcome::Identity;
        }
        // It is asked again within its time.
        let lost = self.random.percent(self.shape.loss) && self.random.percent(self.shape.loss);
        if works && !lost { Outcome::Ok } else { Outcome::Failed(Timeout) }
    }

    /// Who takes writes of a shard now.
    pub(super) fn writers(&self, shard: usize) -> Vec<usize> {
        let takes = |region: &usize| {
            let there = &self.regions[*region];
            let copy = &there.copies[shard];
            let permit = there.agent.takes_writes(&self.shards[shard], self.time(*region).moment);
            there.up
                && !self.is_stopped(*region)
                && there.database_up
                && permit.is_some_and(|permit| {
                    copy.fence == permit.epoch.0 && self.database_clock(*region) < copy.deadline_us
                })
        };
        (0..self.regions.len()).filter(takes).collect()
    }

    pub(super) fn answer(&mut self, region: usize, boot: u32, number: u64, answer: Answer) {
        if self.regions[region].boot == boot {
            let delay = self.store_delay();
            self.after(delay, What::Agent(region, Box::new(Event::Stored(number, answer))));
        }
    }
}

fn keeps(region: usize, shard: usize, regions: usize) -> bool {
    let home = shard % regions;
    regions == 3 || (region + regions - home) % regions < 3 || shard.is_multiple_of(2)
}

fn setup(
    own: usize,
    boot: u32,
    members: &Members,
    names: &[ShardName],
    timers: &Timers,
    variant: Variant,
) -> Setup {
    let all = members.names();
    let shard = |(at, name): (usize, &ShardName)| {
        let window_rows = (!World::is_direct(at)).then_some(WINDOW);
        let max_loss = MaxLoss { rows: MAX_ROWS, bytes: u64::MAX, ms: 5_000, window_rows };
        let kept: BTreeSet<RegionName> = all
            .iter()
            .enumerate()
            .filter(|(region, _)| keeps(*region, at, all.len()))
            .map(|(_, name)| name.clone())
            .collect();
        // The third shard may not leave all of the regions that keep it.
        let allowed =
            (at == 2).then(|| kept.iter().filter(|name| **name != all[all.len() - 1]).cloned().collect());
        let home = all[at % all.len()].clone();
        let begun = (Epoch(1), home.clone());
        (name.clone(), Shard { begun, exact: true, home, regions: kept, allowed, max_loss })
    };
    let mut timers = timers.clone();
    if variant == Variant::NoWait {
        timers.lease.drift = std::time::Duration::ZERO;
    }
    Setup {
        members: members.clone(),
        own: all[own].clone(),
        boot,
        timers,
        shards: names.iter().enumerate().map(shard).collect(),
        capacities: all.iter().map(|name| (name.clone(), Capacity { capacity: 1_000, load: 300 })).collect(),
        failback: false,
        policy: "conservative".to_owned(),
        version: None,
    }
}
