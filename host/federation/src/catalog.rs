//! Which pack has which chunk, what refers to it, and what may go.
//!
//! Pure: times are arguments, and what is to be done with objects comes out as [`Action`]s. Nothing of it is kept: after a crash it is filled again
//! from the packs that are there, their marks, and the contents of all versions.
//!
//! A pack goes in four steps. Nothing refers to it and nobody was promised anything of it: it is in *quarantine*, where reads and
//! commits still find it, and a commit takes it out. After [`QUARANTINE_MS`] it is *doomed*: nothing finds it any more, and a mark is
//! written beside it. When the mark is there, the pack is deleted, and then the mark. So a deletion that lands late, after a crash, hits a
//! pack that nobody has been promised since: what has a mark is found by nobody after a start, and what is still needed of it, because the mark
//! itself landed late, is copied into another pack first.
//!
//! Who is told that a chunk is here, or has written it, holds a lease on it for [`LEASE_MS`]. A commit looks again, so that a lease that ran out
//! costs a transfer and never a chunk. What is answered is about one tenant: it has a catalog of its own.

use std::collections::BTreeMap;

use crate::Error;
use crate::defaults::{LEASE_MS, QUARANTINE_MS, REPACK_PERCENT};
use crate::id::{ChunkId, PackId};
use crate::pack::Slot;

/// Where a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// The pack.
    pub pack: PackId,
    /// The place in it.
    pub slot: Slot,
}

/// What is to be done with objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Delete a pack, then its mark; [`Catalog::deleted`] is told when both are gone.
    Delete(PackId),
    /// Write a pack's mark; [`Catalog::marked`] is told when it is there.
    Mark(PackId),
    /// Copy what is left of a pack into another one, and [`Catalog::add`] that.
    Repack {
        /// The pack.
        pack: PackId,
        /// What is left of it.
        keep: Vec<Slot>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Live,
    Quarantined { since_ms: u64 },
    Doomed { marked: bool },
}

#[derive(Debug)]
struct Pack {
    slots: Vec<Slot>,
    state: State,
}

#[derive(Debug, Default)]
struct Chunk {
    location: Option<Location>,
    references: u64,
    leased_until_ms: u64,
}

/// A tenant's chunks in a region.
#[derive(Debug)]
pub struct Catalog {
    chunks: BTreeMap<ChunkId, Chunk>,
    packs: BTreeMap<PackId, Pack>,
    /// Before that nothing is collected: leases from before a restart are not known.
    collect_from_ms: u64,
}

impl Catalog {
    /// An empty catalog, of a store without packs or after a start: then [`Catalog::refer`] comes for each version, [`Catalog::load`] for each pack.
    #[must_use]
    pub const fn new(now_ms: u64) -> Self {
        let collect_from_ms = now_ms.saturating_add(LEASE_MS);
        Self { chunks: BTreeMap::new(), packs: BTreeMap::new(), collect_from_ms }
    }

    /// A version that was committed before this start.
    pub fn refer(&mut self, chunks: &[ChunkId]) {
        chunks.iter().for_each(|id| self.chunks.entry(*id).or_default().references += 1);
    }

    /// A pack that was there at this start: those without a mark first, then those with one. Returns what is still needed of it and nowhere
    /// else: that is to be copied into a pack of another name before anybody is answered. Whoever began to delete it before this start may
    /// still do so; then what was needed of it is in another one that has a mark, which nobody deletes.
    pub fn load(&mut self, pack: PackId, slots: Vec<Slot>, marked: bool) -> Vec<Slot> {
        if !marked {
            self.insert(pack, slots, State::Live);
            return Vec::new();
        }
        let needed = |slot: &&Slot| {
            self.chunks.get(&slot.id).is_some_and(|chunk| chunk.references > 0 && chunk.location.is_none())
        };
        let keep = slots.iter().filter(needed).copied().collect();
        self.insert(pack, slots, State::Doomed { marked: true });
        keep
    }

    /// A pack that was written just now. Its chunks are leased until their version is committed.
    ///
    /// # Errors
    /// When a pack of that name is about to be deleted: write it anew, sealed anew.
    pub fn add(&mut self, pack: PackId, slots: Vec<Slot>, now_ms: u64) -> Result<(), Error> {
        if let Some(known) = self.packs.get_mut(&pack) {
            if matches!(known.state, State::Doomed { .. }) {
                return Err(Error::Corrupt("a pack that is being deleted"));
            }
            known.state = State::Live;
        }
        let ids: Vec<ChunkId> = slots.iter().map(|slot| slot.id).collect();
        self.insert(pack, slots, State::Live);
        ids.iter().for_each(|id| self.lease(id, now_ms));
        Ok(())
    }

    /// Which chunks need not be sent. Each `true` is a promise for [`LEASE_MS`]. The caller has looked at who asks, and for which version.
    pub fn have(&mut self, ids: &[ChunkId], now_ms: u64) -> Vec<bool> {
        let mut answers = Vec::with_capacity(ids.len());
        for id in ids {
            let here = self.locate(id).is_some();
            if here {
                self.lease(id, now_ms);
            }
            answers.push(here);
        }
        answers
    }

    /// Where a chunk is. What is found may be read for [`QUARANTINE_MS`].
    #[must_use]
    pub fn locate(&self, id: &ChunkId) -> Option<Location> {
        self.chunks.get(id)?.location
    }

    /// A version refers to chunks from now on: in the transaction that commits it.
    ///
    /// # Errors
    /// Those that are not here: the version must not be committed until they are.
    pub fn commit(&mut self, ids: &[ChunkId]) -> Result<(), Vec<ChunkId>> {
        let missing: Vec<ChunkId> = ids.iter().filter(|id| self.locate(id).is_none()).copied().collect();
        if !missing.is_empty() {
            return Err(missing);
        }
        self.refer(ids);
        Ok(())
    }

    /// A version is gone.
    pub fn release(&mut self, ids: &[ChunkId]) {
        for id in ids {
            if let Some(chunk) = self.chunks.get_mut(id) {
                debug_assert!(chunk.references > 0, "released once for each commit");
                chunk.references = chunk.references.saturating_sub(1);
            }
        }
    }

    /// The next steps of collection. Whoever does them may stop at any of them, and ask again.
    pub fn collect(&mut self, now_ms: u64) -> Vec<Action> {
        if now_ms < self.collect_from_ms {
            return Vec::new();
        }
        let names: Vec<PackId> = self.packs.keys().copied().collect();
        names.into_iter().filter_map(|name| self.step(name, now_ms)).collect()
    }

    /// A pack's mark is there.
    pub fn marked(&mut self, pack: &PackId) {
        if let Some(Pack { state: State::Doomed { marked }, .. }) = self.packs.get_mut(pack) {
            *marked = true;
        }
    }

    /// A pack and its mark are gone.
    pub fn deleted(&mut self, pack: &PackId) {
        self.packs.remove(pack);
    }

    fn step(&mut self, name: PackId, now_ms: u64) -> Option<Action> {
        let pack = self.packs.get(&name)?;
        let used = |slot: &&Slot| {
            self.chunks.get(&slot.id).is_some_and(|chunk| {
                let wanted = chunk.references > 0 || chunk.leased_until_ms > now_ms;
                wanted && chunk.location.is_some_and(|location| location.pack == name)
            })
        };
        let keep: Vec<Slot> = pack.slots.iter().filter(used).copied().collect();
        let (state, action) = match pack.state {
            State::Live if keep.is_empty() => (State::Quarantined { since_ms: now_ms }, None),
            State::Live => {
                let bytes =
                    |slots: &[Slot]| slots.iter().map(|slot| u64::from(slot.sealed_bytes)).sum::<u64>();
                let worn = bytes(&keep) * 100 < bytes(&pack.slots) * REPACK_PERCENT;
                (State::Live, worn.then_some(Action::Repack { pack: name, keep }))
            }
            State::Quarantined { .. } if !keep.is_empty() => (State::Live, None),
            State::Quarantined { since_ms } if now_ms < since_ms.saturating_add(QUARANTINE_MS) => {
                return None;
            }
            State::Quarantined { .. } => {
                let slots = pack.slots.clone();
                self.forget(name, &slots);
                (State::Doomed { marked: false }, Some(Action::Mark(name)))
            }
            State::Doomed { marked: false } => (pack.state, Some(Action::Mark(name))),
            State::Doomed { marked: true } => (pack.state, Some(Action::Delete(name))),
        };
        if let Some(pack) = self.packs.get_mut(&name) {
            pack.state = state;
        }
        action
    }

    /// Nothing finds a pack's chunks there any more.
    fn forget(&mut self, name: PackId, slots: &[Slot]) {
        for slot in slots {
            if let Some(chunk) = self.chunks.get_mut(&slot.id)
                && chunk.location.is_some_and(|location| location.pack == name)
            {
                chunk.location = None;
                if chunk.references == 0 {
                    self.chunks.remove(&slot.id);
                }
            }
        }
    }

    /// The newest pack that has a chunk is where it is found, so that what was copied out of a worn pack leaves that one.
    fn insert(&mut self, pack: PackId, slots: Vec<Slot>, state: State) {
        if !matches!(state, State::Doomed { .. }) {
            for slot in &slots {
                self.chunks.entry(slot.id).or_default().location = Some(Location { pack, slot: *slot });
            }
        }
        self.packs.insert(pack, Pack { slots, state });
    }

    fn lease(&mut self, id: &ChunkId, now_ms: u64) {
        if let Some(chunk) = self.chunks.get_mut(id) {
            chunk.leased_until_ms = chunk.leased_until_ms.max(now_ms.saturating_add(LEASE_MS));
        }
    }
}

#[cfg(test)]
mod tests;
