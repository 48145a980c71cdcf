//! All objects at one generation. Made only by applying entries in order, so that every node has the same.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use portolan_core::ids::Digest;

use crate::change::{Change, Draft, Edit, Expect, Wish, digest};
use crate::defaults::OBJECTS_MAX;
use crate::error::{Conflict, Damaged, Error};
use crate::object::{Key, Object, check_body};

/// All objects at one generation. `Default` is the empty store, generation 0.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    pub(crate) generation: u64,
    /// The digest of the entry that made it.
    pub(crate) head: Digest,
    pub(crate) made_at_ms: u64,
    pub(crate) objects: BTreeMap<Key, Arc<Object>>,
}

impl Default for State {
    fn default() -> Self {
        Self { generation: 0, head: Digest([0; 32]), made_at_ms: 0, objects: BTreeMap::new() }
    }
}

impl State {
    /// Its number.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// The digest of the entry that made it; zeros for the empty store.
    #[must_use]
    pub const fn head(&self) -> Digest {
        self.head
    }

    /// When the entry that made it was written, in milliseconds since 1970, by its author's machine; 0 when that is not known.
    #[must_use]
    pub const fn made_at_ms(&self) -> u64 {
        self.made_at_ms
    }

    /// An object.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&Arc<Object>> {
        self.objects.get(key)
    }

    /// All objects, by key.
    pub fn objects(&self) -> impl Iterator<Item = (&Key, &Arc<Object>)> {
        self.objects.iter()
    }

    /// The objects of one kind, by their names.
    pub fn of_kind(&self, kind: &str) -> impl Iterator<Item = (&Key, &Arc<Object>)> {
        let first = Key::first_of(kind);
        self.objects.range(first..).take_while(move |(key, _)| key.kind() == kind)
    }

    /// The state after a draft, were it granted now: for checks before it is committed. The revision of what it changes
    /// is the next generation.
    ///
    /// # Errors
    /// As [`State::grant`].
    pub fn after(&self, draft: &Draft) -> Result<Self, Error> {
        let mut next = self.clone();
        next.generation = self.generation.saturating_add(1);
        next.edit(self.grant(draft)?);
        Ok(next)
    }

    /// Turns wishes into edits, leaving out those that are fulfilled already.
    ///
    /// # Errors
    /// The first conflict, or an object that no store takes.
    pub(crate) fn grant(&self, draft: &Draft) -> Result<Vec<Edit>, Error> {
        let mut edits = Vec::new();
        let mut count = self.objects.len();
        for wish in &draft.wishes {
            let there = self.objects.get(&wish.key);
            self.check(wish)?;
            match (&wish.body, there) {
                (Some(body), Some(there)) if there.body == *body && there.managed_by == wish.manager => {}
                (Some(body), there) => {
                    check_body(body).map_err(|reason| Error::Object { key: wish.key.clone(), reason })?;
                    count += usize::from(there.is_none());
                    edits.push(Edit::Put {
                        body: body.clone(),
                        key: wish.key.clone(),
                        managed_by: wish.manager.clone(),
                    });
                }
                (None, Some(_)) => {
                    count -= 1;
                    edits.push(Edit::Delete { key: wish.key.clone() });
                }
                (None, None) => {}
            }
        }
        if count > OBJECTS_MAX {
            return Err(Error::TooMany(count));
        }
        Ok(edits)
    }

    fn check(&self, wish: &Wish) -> Result<(), Conflict> {
        let there = self.objects.get(&wish.key);
        let key = || wish.key.clone();
        let revision = there.map(|object| object.revision);
        match (wish.expect, revision) {
            (Expect::Absent, Some(revision)) => return Err(Conflict::Present { key: key(), revision }),
            (Expect::Revision(expected), revision) if revision != Some(expected) => {
                return Err(Conflict::Stale { key: key(), revision, expected });
            }
            _ => {}
        }
        match there {
            Some(there) if there.managed_by != wish.manager && !wish.take_over => {
                Err(Conflict::Managed { key: key(), manager: there.managed_by.clone() })
            }
            _ => Ok(()),
        }
    }

    /// The state after the next entry.
    ///
    /// # Errors
    /// [`Damaged`] when the entry does not follow this state: then the store is not the one that it was.
    pub(crate) fn apply(&mut self, generation: u64, entry: &[u8]) -> Result<Change, Damaged> {
        let damaged = |reason: &str| Damaged { generation, reason: reason.to_owned() };
        let change = Change::decode(generation, entry)?;
        if generation != self.generation.saturating_add(1) || change.generation != generation {
            return Err(damaged("is out of order"));
        }
        if change.previous != self.head.to_string() {
            return Err(damaged("does not follow from the one before it: the store has another history"));
        }
        self.generation = generation;
        self.head = digest(entry);
        self.made_at_ms = change.at_ms;
        self.edit(change.edits.clone());
        Ok(change)
    }

    fn edit(&mut self, edits: Vec<Edit>) {
        for edit in edits {
            match edit {
                Edit::Delete { key } => {
                    self.objects.remove(&key);
                }
                Edit::Put { body, key, managed_by } => {
                    let object = Arc::new(Object { body, managed_by, revision: self.generation });
                    match self.objects.entry(key) {
                        Entry::Occupied(mut place) => _ = place.insert(object),
                        Entry::Vacant(place) => _ = place.insert(object),
                    }
                }
            }
        }
    }
}
