//! Made-up pictures, calm ones and by seeds.

use std::collections::BTreeMap;

use portolan_core::ids::{RegionName, ShardName};
use portolan_core::log::{Epoch, Position};
use portolan_failover::intent::{Intents, Lost, Word};
use portolan_failover::matrix::Verdict;
use portolan_failover::picture::{Limits, MaxLoss, Picture, Region, Removal, Replica, Shard, Shift};
use portolan_failover::promotion::Kind;
use portolan_failover::store::Failure;
use portolan_failover::timers::Profile;

pub(super) const NOW_MS: u64 = 1_900_000_000_000;
const NAMES: [&str; 5] = ["ap", "eu", "me", "sa", "us"];

pub(super) fn region(name: &str) -> RegionName {
    RegionName::new(name).unwrap()
}

pub(super) fn shard(name: &str) -> ShardName {
    ShardName::new(name).unwrap()
}

fn word() -> Word {
    Word::new("ann", "a drill", NOW_MS, std::time::Duration::from_mins(10)).unwrap()
}

/// Five regions that are well; `eu` writes `a` and `b`, and all others have all of both.
pub(super) fn calm() -> Picture {
    let well = Region {
        verdict: Verdict::Healthy,
        answers: true,
        database: true,
        down_ms: 0,
        well_ago_ms: Some(0),
        capacity: 1_000,
        load: 300,
    };
    let replica = Replica {
        epoch: Epoch(3),
        position: Position::new(3, 1_000, 0),
        rows: 1_000,
        behind_rows: 0,
        behind_bytes: 0,
        behind_ms: 0,
        ago_ms: 500,
        whole: true,
    };
    let one = Shard {
        epoch: Epoch(3),
        primary: region("eu"),
        void: false,
        home: region("eu"),
        replicas: ["ap", "me", "sa", "us"].map(|name| (region(name), replica.clone())).into(),
        allowed: None,
        max_loss: MaxLoss { rows: 50, bytes: 1_000, ms: 5_000, window_rows: None },
        head_rows: 1_000,
        running: None,
        past: Vec::new(),
    };
    Picture {
        now_ms: NOW_MS,
        local: region("us"),
        control: true,
        regions: NAMES.map(|name| (region(name), well.clone())).into(),
        sights: Vec::new(),
        shards: BTreeMap::from([(shard("a"), one.clone()), (shard("b"), one)]),
        failures: Vec::new(),
        shifts: BTreeMap::new(),
        removals: Vec::new(),
        intents: Intents::default(),
        limits: Limits::of(&Profile::Default.timers(), false),
    }
}

/// A region of it is gone.
pub(super) fn without(mut picture: Picture, name: &str) -> Picture {
    let gone = picture.regions.get_mut(name).unwrap();
    (gone.verdict, gone.answers, gone.database) = (Verdict::Down { of: 4, k: 4 }, false, false);
    (gone.down_ms, gone.well_ago_ms) = (10_000, Some(14_000));
    picture
}

/// Numbers by a seed (xorshift).
pub(super) struct Random(u64);

impl Random {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Below a bound.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound.max(1)
    }

    /// In so many of a hundred cases.
    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn name(&mut self) -> RegionName {
        region(NAMES[usize::try_from(self.below(5)).unwrap()])
    }
}

/// Any picture that agents can make, and some that they hardly do.
pub(super) fn random(seed: u64) -> Picture {
    let mut random = Random::new(seed);
    let mut picture = calm();
    picture.now_ms += random.below(1_000_000);
    picture.control = random.chance(80);
    for there in picture.regions.values_mut() {
        there.verdict = match random.below(10) {
            0..3 => Verdict::Down { of: 4, k: 3 },
            3 => Verdict::Gray,
            4 => Verdict::Partitioned,
            5 => Verdict::Suspect,
            6 => Verdict::Unknown,
            _ => Verdict::Healthy,
        };
        there.answers = random.chance(if there.verdict.is_down() { 10 } else { 90 });
        there.database = random.chance(80);
        there.down_ms = if there.verdict.is_down() { random.below(6_000) } else { 0 };
        there.well_ago_ms = random.chance(90).then(|| random.below(20_000));
        there.capacity = random.below(3_000);
        there.load = if random.chance(10) { 0 } else { random.below(1_500) };
    }
    picture.shards.clear();
    for number in 0..random.below(40) {
        picture.shards.insert(shard(&format!("s{number}")), any_shard(&mut random));
    }
    for _ in 0..random.below(3) {
        let (from, target) = (random.name(), random.name());
        let percent = u8::try_from(random.below(101)).unwrap();
        if from != target {
            picture.shifts.insert(from, Shift { target, percent, since_ms: NOW_MS });
        }
    }
    for name in NAMES.map(region) {
        match random.below(20) {
            0 => drop(picture.intents.drains.insert(name, word())),
            1 => drop(picture.intents.maintenance.insert(name, word())),
            2 => {
                let lost = Lost::new(name.clone(), name.as_str(), word()).unwrap();
                picture.intents.lost.insert(name, lost);
            }
            3 => picture.failures.push(Failure { region: name, at_ms: NOW_MS - random.below(1_000_000) }),
            4 => picture.removals.push(Removal { region: name, at_ms: NOW_MS - random.below(1_000_000) }),
            _ => {}
        }
    }
    picture.intents.freeze = random.chance(5).then(word);
    picture
}

fn any_shard(random: &mut Random) -> Shard {
    let mut one = calm().shards.into_values().next().unwrap();
    (one.primary, one.home, one.void) = (random.name(), random.name(), random.chance(15));
    one.replicas.clear();
    for _ in 0..random.below(6) {
        let rows = 1_000 - random.below(4) * 40;
        let replica = Replica {
            epoch: Epoch(if random.chance(90) { 3 } else { 2 }),
            position: Position::new(3, rows, random.below(2)),
            rows,
            behind_rows: random.below(80),
            behind_bytes: random.below(1_500),
            behind_ms: random.below(7_000),
            ago_ms: random.below(20_000),
            whole: random.chance(85),
        };
        one.replicas.insert(random.name(), replica);
    }
    one.allowed = random.chance(30).then(|| (0..4).map(|_| random.name()).collect());
    one.max_loss.rows = if random.chance(30) { u64::MAX } else { random.below(80) };
    one.running = random.chance(10).then_some(Kind::Failover);
    one
}
