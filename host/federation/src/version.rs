//! Versions of an item: what each writer had seen, which of them are heads, and which head is shown.
//!
//! A version has a *dot* of its own (who wrote it, and how many that was of theirs) and a *context*: all dots that led to it. That is a dotted
//! version vector (Preguiça et al., "Dotted Version Vectors", 2010) with exceptions: a writer may have seen a region's third version without its second.
//! An actor is a region in one incarnation, so that a region which lost its numbers never gives one twice.
//! Heads are the versions that no other has seen. They are the same whatever the order in which versions came.
//!
//! Clocks decide nothing but which of several heads is shown; versions from too far in the future are refused ([`Hlc::hear`]).

use std::collections::{BTreeMap, BTreeSet};

use portolan_core::ids::RegionName;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::defaults::{ACTORS_MAX, CLOCK_DRIFT_MAX_MS, DOTS_MAX, HEADS_MAX, PARENTS_MAX, VERSION_BYTES_MAX};
use crate::id::{ItemId, Namer, Root, VersionId};

/// Who writes: a region, from one loss of its numbers to the next.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Actor {
    /// The region.
    pub region: RegionName,
    /// Its membership incarnation, which only rises.
    pub incarnation: u64,
}

/// One version among all of an item.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Dot {
    /// Who wrote it.
    pub actor: Actor,
    /// How many versions of this item that actor had written with it; 1 for the first.
    pub counter: u64,
}

/// A set of dots: for each actor all up to a number, and single ones beyond.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Context {
    vector: BTreeMap<Actor, u64>,
    cloud: BTreeSet<Dot>,
}

impl Context {
    /// Whether a dot is in it.
    #[must_use]
    pub fn contains(&self, dot: &Dot) -> bool {
        self.upto(&dot.actor) >= dot.counter || self.cloud.contains(dot)
    }

    /// Adds a dot.
    pub fn add(&mut self, dot: Dot) {
        if !self.contains(&dot) {
            self.cloud.insert(dot);
            self.compact();
        }
    }

    /// Adds all dots of another context.
    pub fn join(&mut self, other: &Self) {
        for (actor, counter) in &other.vector {
            let mine = self.vector.entry(actor.clone()).or_default();
            *mine = (*mine).max(*counter);
        }
        self.cloud.extend(other.cloud.iter().cloned());
        self.compact();
    }

    fn upto(&self, actor: &Actor) -> u64 {
        self.vector.get(actor).copied().unwrap_or(0)
    }

    /// The highest number of an actor that is in it.
    fn highest(&self, actor: &Actor) -> u64 {
        let single = self.cloud.iter().filter(|dot| dot.actor == *actor).map(|dot| dot.counter).max();
        self.upto(actor).max(single.unwrap_or(0))
    }

    /// Single dots that follow the vector go into it. The cloud is ordered, so that one look at each is enough.
    fn compact(&mut self) {
        for dot in std::mem::take(&mut self.cloud) {
            let upto = self.upto(&dot.actor);
            if dot.counter == upto + 1 {
                self.vector.insert(dot.actor, dot.counter);
            } else if dot.counter > upto {
                self.cloud.insert(dot);
            }
        }
    }

    fn is_sound(&self) -> bool {
        let lone = |dot: &Dot| dot.counter > self.upto(&dot.actor).saturating_add(1);
        self.vector.len() <= ACTORS_MAX
            && self.cloud.len() <= DOTS_MAX
            && self.vector.values().all(|counter| (1..u64::MAX).contains(counter))
            && self.cloud.iter().all(|dot| lone(dot) && dot.counter < u64::MAX)
    }
}

/// A hybrid logical clock's time (Kulkarni et al., 2014): never earlier than what was heard, near the wall clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Hlc {
    /// Milliseconds since 1970.
    pub ms: u64,
    /// Tells apart what happened within one of them.
    pub count: u32,
}

impl Hlc {
    /// The time of something that happens now, after all that was heard.
    #[must_use]
    pub fn tick(self, now_ms: u64) -> Self {
        if now_ms > self.ms {
            return Self { ms: now_ms, count: 0 };
        }
        match self.count.checked_add(1) {
            Some(count) => Self { ms: self.ms, count },
            None => Self { ms: self.ms + 1, count: 0 },
        }
    }

    /// The clock after another's time was heard.
    ///
    /// # Errors
    /// When that is more than [`CLOCK_DRIFT_MAX_MS`] ahead: its writer would win every tie until then.
    pub fn hear(self, other: Self, now_ms: u64) -> Result<Self, Error> {
        if other.ms > now_ms.saturating_add(CLOCK_DRIFT_MAX_MS) {
            return Err(Error::Drift { ahead_ms: other.ms - now_ms });
        }
        Ok(self.max(other))
    }
}

/// How contents of an item may be merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// Not at all.
    Binary,
    /// An object of JSON, field by field.
    Json,
    /// Lines of UTF-8.
    Text,
}

/// One version of an item.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Version {
    /// Of which item.
    pub item: ItemId,
    /// Its place among all versions.
    pub dot: Dot,
    /// What had been seen when it was written, without itself.
    pub seen: Context,
    /// The heads that it replaces.
    pub parents: Vec<VersionId>,
    /// When; for ties and for people.
    pub at: Hlc,
    /// How it may be merged.
    pub kind: Kind,
    /// The content; none when the item was deleted (a tombstone).
    pub content: Option<Root>,
}

impl Version {
    /// Its name.
    ///
    /// # Errors
    /// Never for what [`Version::read`] passes.
    pub fn id(&self, namer: &Namer) -> Result<VersionId, Error> {
        Ok(namer.version(&self.bytes()?))
    }

    /// The form in which it is named, sent and kept.
    ///
    /// # Errors
    /// When it is larger than [`VERSION_BYTES_MAX`].
    pub fn bytes(&self) -> Result<Vec<u8>, Error> {
        let bytes = postcard::to_allocvec(self).map_err(|_| Error::Malformed("a version"))?;
        if bytes.len() > VERSION_BYTES_MAX {
            return Err(Error::limit("bytes of a version's record", VERSION_BYTES_MAX));
        }
        Ok(bytes)
    }

    /// Reads what a peer says.
    ///
    /// # Errors
    /// When it is of another form, beyond a limit, or has seen itself.
    pub fn read(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > VERSION_BYTES_MAX {
            return Err(Error::limit("bytes of a version's record", VERSION_BYTES_MAX));
        }
        let version: Self = postcard::from_bytes(bytes).map_err(|_| Error::Malformed("a version"))?;
        if version.bytes()? != bytes {
            return Err(Error::Malformed("a version"));
        }
        version.check()?;
        Ok(version)
    }

    /// Whether it was written by somebody who had seen `other`.
    #[must_use]
    pub fn follows(&self, other: &Self) -> bool {
        self.seen.contains(&other.dot)
    }

    fn check(&self) -> Result<(), Error> {
        let numbered = (1..u64::MAX).contains(&self.dot.counter);
        let sound = numbered && self.seen.is_sound() && !self.seen.contains(&self.dot);
        if sound && self.parents.len() <= PARENTS_MAX {
            Ok(())
        } else {
            Err(Error::Malformed("what a version has seen"))
        }
    }
}

/// Which of an edit and a deletion that did not know each other is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EditOrDelete {
    /// The deletion.
    Delete,
    /// The edit: nobody's work disappears because somebody else tidied up.
    #[default]
    Edit,
}

/// What became of a version that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It stands beside heads that did not know it.
    Beside,
    /// It replaces all heads.
    Forward,
    /// It was here, or had been replaced already.
    Known,
}

/// An item's heads: the versions that no other has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heads {
    versions: BTreeMap<Dot, Version>,
}

impl Heads {
    /// Takes a version, whatever came before it and however often.
    ///
    /// # Errors
    /// When it is of another item, contradicts a head's dot, or more than [`HEADS_MAX`] heads would stand.
    pub fn put(&mut self, version: Version) -> Result<Put, Error> {
        version.check()?;
        if self.versions.values().any(|head| head.item != version.item) {
            return Err(Error::Malformed("a version of another item"));
        }
        if let Some(known) = self.versions.get(&version.dot) {
            return if *known == version { Ok(Put::Known) } else { Err(Error::Corrupt("a version")) };
        }
        if self.versions.values().any(|head| head.follows(&version)) {
            return Ok(Put::Known);
        }
        let stays = self.versions.values().filter(|head| !version.follows(head)).count();
        if stays >= HEADS_MAX {
            return Err(Error::limit("open heads of an item", HEADS_MAX));
        }
        self.versions.retain(|_, head| !version.follows(head));
        self.versions.insert(version.dot.clone(), version);
        Ok(if stays == 0 { Put::Forward } else { Put::Beside })
    }

    /// The heads, in the same order everywhere.
    pub fn iter(&self) -> impl Iterator<Item = &Version> {
        self.versions.values()
    }

    /// All that led to the heads, with them.
    #[must_use]
    pub fn context(&self) -> Context {
        let mut context = Context::default();
        for head in self.iter() {
            context.join(&head.seen);
            context.add(head.dot.clone());
        }
        context
    }

    /// Whether heads have different contents. Equal contents are no conflict, whoever wrote them.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        let mut contents = self.iter().map(|head| head.content);
        let first = contents.next();
        contents.any(|content| Some(content) != first)
    }

    /// The head that is shown: the same in every region that has the same heads.
    #[must_use]
    pub fn winner(&self, rule: EditOrDelete) -> Option<&Version> {
        let preferred = |head: &Version| (rule == EditOrDelete::Edit) == head.content.is_some();
        self.iter().max_by_key(|head| (preferred(head), head.at, &head.dot))
    }

    /// The next version of whoever has seen all heads: an edit, a deletion or a merge.
    ///
    /// `known` is what that actor has given numbers for and heard of, also of replaced versions, so that no number is given twice.
    ///
    /// # Errors
    /// When a name cannot be made of a head.
    pub fn next(&self, draft: Draft, known: &Context, namer: &Namer) -> Result<Version, Error> {
        let seen = self.context();
        let counter = known.highest(&draft.actor).max(seen.highest(&draft.actor)) + 1;
        let parents = self.iter().map(|head| head.id(namer)).collect::<Result<_, _>>()?;
        let Draft { item, actor, at, kind, content } = draft;
        Ok(Version { item, dot: Dot { actor, counter }, seen, parents, at, kind, content })
    }
}

/// What a writer says of a new version.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Of which item.
    pub item: ItemId,
    /// Who writes.
    pub actor: Actor,
    /// When.
    pub at: Hlc,
    /// How it may be merged.
    pub kind: Kind,
    /// The content; none deletes the item.
    pub content: Option<Root>,
}

#[cfg(test)]
mod tests;
