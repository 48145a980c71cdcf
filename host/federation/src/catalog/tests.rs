//! Any interleaving of writers, readers, collectors and crashes, with deletions that land late: no chunk that a version has is lost.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::defaults::{LEASE_MS, QUARANTINE_MS};
use crate::pack::Coding;

fn chunk(number: u8) -> ChunkId {
    ChunkId([number; 32])
}

fn slot(number: u8) -> Slot {
    Slot { id: chunk(number), at: 0, sealed_bytes: 100, bytes: 100, coding: Coding::Raw }
}

/// What is on disk and in the database, and what runs meanwhile.
struct World {
    now_ms: u64,
    packs: BTreeMap<PackId, Vec<Slot>>,
    marks: BTreeSet<PackId>,
    versions: Vec<Vec<ChunkId>>,
    catalog: Catalog,
    /// Actions that were begun and are not done; the flag says whether whoever began them is still there to be told.
    flying: Vec<(Action, bool)>,
    /// What a writer was promised or wrote, and wants to commit.
    wanted: Vec<ChunkId>,
    written: u64,
    broken: bool,
}

impl World {
    fn new(broken: bool) -> Self {
        Self {
            now_ms: 0,
            packs: BTreeMap::new(),
            marks: BTreeSet::new(),
            versions: Vec::new(),
            catalog: Catalog::new(0),
            flying: Vec::new(),
            wanted: Vec::new(),
            written: 0,
            broken,
        }
    }

    fn write(&mut self, slots: Vec<Slot>) {
        self.written += 1;
        let name = PackId(*blake3::hash(&self.written.to_le_bytes()).as_bytes());
        self.packs.insert(name, slots.clone());
        self.catalog.add(name, slots, self.now_ms).unwrap();
    }

    /// A writer asks for what it wants, sends what is missing, and waits for its commit.
    fn send(&mut self, numbers: &[u8]) {
        let ids: Vec<ChunkId> = numbers.iter().map(|number| chunk(*number)).collect();
        let here = self.catalog.have(&ids, self.now_ms);
        let missing: Vec<Slot> =
            numbers.iter().zip(here).filter(|(_, here)| !here).map(|(number, _)| slot(*number)).collect();
        if !missing.is_empty() {
            self.write(missing);
        }
        self.wanted = ids;
    }

    fn commit(&mut self) {
        let wanted = std::mem::take(&mut self.wanted);
        if !wanted.is_empty() && self.catalog.commit(&wanted).is_ok() {
            self.versions.push(wanted);
        }
    }

    fn collect(&mut self) {
        for action in self.catalog.collect(self.now_ms) {
            match action {
                Action::Repack { keep, .. } => self.write(keep),
                action if self.broken => {
                    // A collector that deletes at once instead of leaving a mark.
                    let (Action::Mark(pack) | Action::Delete(pack)) = action else { continue };
                    self.flying.push((Action::Delete(pack), true));
                }
                action => self.flying.push((action, true)),
            }
        }
        self.flying.truncate(16);
    }

    fn land(&mut self, which: usize) {
        if self.flying.is_empty() {
            return;
        }
        let (action, told) = self.flying.swap_remove(which % self.flying.len());
        match action {
            Action::Mark(pack) => {
                self.marks.insert(pack);
                if told {
                    self.catalog.marked(&pack);
                }
            }
            Action::Delete(pack) => {
                self.packs.remove(&pack);
                self.marks.remove(&pack);
                if told {
                    self.catalog.deleted(&pack);
                }
            }
            Action::Repack { .. } => {}
        }
    }

    /// All memory is lost; what was begun may still land.
    fn crash(&mut self) {
        self.flying.iter_mut().for_each(|(_, told)| *told = false);
        self.wanted.clear();
        self.catalog = Catalog::new(self.now_ms);
        self.versions.iter().for_each(|version| self.catalog.refer(version));
        let there = self.packs.clone();
        let (marked, plain): (Vec<_>, Vec<_>) =
            there.into_iter().partition(|(name, _)| self.marks.contains(name));
        let mut needed = Vec::new();
        for (name, slots) in plain {
            self.catalog.load(name, slots, false);
        }
        for (name, slots) in marked {
            needed.extend(self.catalog.load(name, slots, true));
        }
        if !needed.is_empty() {
            self.write(needed);
        }
        self.marks.retain(|name| self.packs.contains_key(name));
    }

    fn step(&mut self, (what, numbers, which): &(u8, Vec<u8>, usize)) {
        match what {
            0..=2 => self.send(numbers),
            3..=5 => self.commit(),
            6 if !self.versions.is_empty() => {
                let gone = self.versions.swap_remove(which % self.versions.len());
                self.catalog.release(&gone);
            }
            7 | 8 => self.collect(),
            9 | 10 => self.land(*which),
            11 => self.crash(),
            12 => self.now_ms += LEASE_MS / 3,
            13 => self.now_ms += LEASE_MS.max(QUARANTINE_MS) + 1,
            _ => {}
        }
    }

    /// Chunks of versions that cannot be read.
    fn lost(&self) -> Vec<ChunkId> {
        let there = |id: &ChunkId| {
            let location = self.catalog.locate(id);
            location.is_some_and(|found| {
                self.packs.get(&found.pack).is_some_and(|slots| slots.contains(&found.slot))
            })
        };
        self.versions.iter().flatten().filter(|id| !there(id)).copied().collect()
    }
}

fn steps() -> impl Strategy<Value = Vec<(u8, Vec<u8>, usize)>> {
    let step = (0_u8..14, prop::collection::vec(0_u8..12, 1..5), any::<usize>());
    prop::collection::vec(step, 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn no_reachable_chunk_is_lost(steps in steps()) {
        let mut world = World::new(false);
        for step in &steps {
            world.step(step);
            prop_assert_eq!(world.lost(), []);
        }
        // Without versions everything goes, whatever happened before.
        for gone in std::mem::take(&mut world.versions) {
            world.catalog.release(&gone);
        }
        for _ in 0..12 {
            world.now_ms += LEASE_MS.max(QUARANTINE_MS) + 1;
            world.collect();
            while !world.flying.is_empty() {
                world.land(0);
            }
        }
        // A mark that lands when its pack is gone stays until the next start.
        world.crash();
        prop_assert!(world.packs.is_empty() && world.marks.is_empty(), "{} packs stay", world.packs.len());
    }
}

/// The walk would find a collector without marks: its deletion lands after a crash, when something relies on the pack again.
#[test]
fn a_collector_without_marks_is_caught() {
    let long = (13, vec![0], 0);
    let mut world = World::new(true);
    let story = [(0, vec![1], 0), long.clone(), (7, vec![0], 0), long, (7, vec![0], 0), (11, vec![0], 0)];
    story.iter().for_each(|step| world.step(step));
    for step in [(0, vec![1], 0), (3, vec![0], 0), (9, vec![0], 0)] {
        world.step(&step);
    }
    assert_eq!(world.lost(), [chunk(1)]);
}

#[test]
fn a_promise_holds_as_long_as_it_says() {
    let mut catalog = Catalog::new(0);
    let pack = PackId([1; 32]);
    catalog.add(pack, vec![slot(1)], 0).unwrap();
    assert_eq!(catalog.have(&[chunk(1), chunk(2)], 1_000), [true, false]);
    assert_eq!(catalog.collect(LEASE_MS + 999), []);
    assert!(catalog.commit(&[chunk(1)]).is_ok());
    assert_eq!(catalog.commit(&[chunk(1), chunk(2)]), Err(vec![chunk(2)]));
    assert_eq!(catalog.collect(10 * LEASE_MS), []);
    catalog.release(&[chunk(1)]);
    assert_eq!(catalog.collect(10 * LEASE_MS), [], "in quarantine");
    assert!(catalog.locate(&chunk(1)).is_some(), "and still read");
    assert!(catalog.commit(&[chunk(1)]).is_ok());
    assert_eq!(catalog.collect(20 * LEASE_MS), [], "taken out again");
}
