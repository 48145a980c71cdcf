//! Tenants that are not where the rules say. Ten millions of them take less than 64 bytes each.
//!
//! A big table that is never changed is shared by all directories that stand on it; each has a small list of its own with what
//! differs. When that list grows long, both become a new table.

use std::sync::Arc;

use hashbrown::HashTable;

use super::{Access, Place, Placement, ShardIndex, TenantHash};

/// Changes that stand beside the table. Copying them is what one change costs: 160 KB at most.
const CHANGES_MAX: usize = 4096;

/// Tenants with a place of their own.
#[derive(Clone, Debug, Default)]
pub struct Exceptions {
    /// Sorted by hash; `None` for a tenant that is left to the rules although the table has it.
    changes: Arc<Vec<(TenantHash, Option<Place>)>>,
    count: usize,
    table: Arc<HashTable<Entry>>,
}

/// 24 bytes, and one of the table: the hash in halves keeps the alignment at eight.
#[derive(Clone, Copy, Debug)]
struct Entry {
    high: u64,
    low: u64,
    placement: Placement,
    shard: ShardIndex,
    access: Access,
}

impl Exceptions {
    /// All at once; of a tenant that comes twice, the last counts.
    #[must_use]
    pub fn from_all(all: impl ExactSizeIterator<Item = (TenantHash, Place)>) -> Self {
        let mut table = HashTable::with_capacity(all.len());
        for (hash, place) in all {
            insert(&mut table, Entry::new(hash, place));
        }
        Self { changes: Arc::default(), count: table.len(), table: Arc::new(table) }
    }

    /// Where a tenant is, if it has an exception.
    #[must_use]
    pub fn get(&self, hash: TenantHash) -> Option<Place> {
        if !self.changes.is_empty()
            && let Ok(at) = self.changes.binary_search_by_key(&hash, |(hash, _)| *hash)
        {
            return self.changes.get(at)?.1;
        }
        self.table.find(hash.point(), |entry| entry.is(hash)).map(Entry::place)
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (TenantHash, Place)> {
        let changed = self.changes.iter().filter_map(|(hash, place)| Some((*hash, (*place)?)));
        let untouched =
            |hash: &TenantHash| self.changes.binary_search_by_key(hash, |(hash, _)| *hash).is_err();
        let listed = self.table.iter().map(|entry| (entry.hash(), entry.place()));
        listed.filter(move |(hash, _)| untouched(hash)).chain(changed)
    }

    /// With one tenant changed.
    #[must_use]
    pub fn with(&self, hash: TenantHash, place: Option<Place>) -> Self {
        let count = self.count + usize::from(place.is_some()) - usize::from(self.get(hash).is_some());
        let mut changes = Vec::with_capacity(self.changes.len() + 1);
        changes.extend_from_slice(&self.changes);
        match changes.binary_search_by_key(&hash, |(hash, _)| *hash) {
            Ok(at) => {
                if let Some(change) = changes.get_mut(at) {
                    change.1 = place;
                }
            }
            Err(at) => changes.insert(at, (hash, place)),
        }
        if changes.len() <= CHANGES_MAX {
            return Self { changes: Arc::new(changes), count, table: Arc::clone(&self.table) };
        }
        let mut table = HashTable::clone(&self.table);
        for (hash, place) in changes {
            match place {
                Some(place) => insert(&mut table, Entry::new(hash, place)),
                None => {
                    if let Ok(found) = table.find_entry(hash.point(), |entry| entry.is(hash)) {
                        found.remove();
                    }
                }
            }
        }
        Self { changes: Arc::default(), count, table: Arc::new(table) }
    }

    /// How many tenants have one.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Has none?
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The shards that they name; some more than once.
    pub fn shards(&self) -> impl Iterator<Item = ShardIndex> {
        let changed = self.changes.iter().filter_map(|(_, place)| place.as_ref()).map(|place| place.shard);
        self.table.iter().map(|entry| entry.shard).chain(changed)
    }

    /// Bytes that they take, but for the list of changes.
    #[must_use]
    pub fn table_bytes(&self) -> usize {
        self.table.allocation_size()
    }
}

impl PartialEq for Exceptions {
    /// Do they say the same of every tenant, however it is kept?
    fn eq(&self, other: &Self) -> bool {
        self.count == other.count && self.iter().all(|(hash, place)| other.get(hash) == Some(place))
    }
}

impl Entry {
    #[expect(clippy::cast_possible_truncation, reason = "the lower half is what is wanted")]
    const fn new(hash: TenantHash, place: Place) -> Self {
        let Place { access, placement, shard } = place;
        Self { high: hash.point(), low: hash.0 as u64, placement, shard, access }
    }

    #[expect(clippy::cast_possible_truncation, reason = "the lower half is what is wanted")]
    const fn is(&self, hash: TenantHash) -> bool {
        self.high == hash.point() && self.low == hash.0 as u64
    }

    const fn hash(&self) -> TenantHash {
        TenantHash(((self.high as u128) << 64) | self.low as u128)
    }

    const fn place(&self) -> Place {
        Place { access: self.access, placement: self.placement, shard: self.shard }
    }
}

fn insert(table: &mut HashTable<Entry>, new: Entry) {
    // The keyed hash is as good as any that could be made of it.
    let same = |entry: &Entry| entry.high == new.high && entry.low == new.low;
    match table.entry(new.high, same, |entry| entry.high) {
        hashbrown::hash_table::Entry::Occupied(mut found) => *found.get_mut() = new,
        hashbrown::hash_table::Entry::Vacant(free) => {
            free.insert(new);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten million tenants fit; so do as many as make the table grow, when half of it is free.
    #[test]
    fn ten_million_exceptions_take_less_than_64_bytes_each() {
        let bytes_each = |count: usize| {
            let table: HashTable<Entry> = HashTable::with_capacity(count);
            assert!(table.capacity() >= count);
            table.allocation_size() as f64 / count as f64
        };
        assert!(bytes_each(10_000_000) < 64.0, "{}", bytes_each(10_000_000));
        // A table of 2^24 places is full at seven eighths.
        let grown = (1 << 24) / 8 * 7 + 1;
        assert!(bytes_each(grown) < 64.0, "{}", bytes_each(grown));
        assert_eq!(size_of::<Entry>(), 24);
    }

    /// A look-up compares a few entries however many there are: it is a look into a table by hash, and a binary search beside it.
    #[test]
    fn a_look_up_compares_a_few_entries() {
        use std::cell::Cell;
        const KEY: super::super::HashKey = super::super::HashKey::new([7; 16]);
        let name = |number: u32| crate::ids::TenantName::new(&format!("t{number}")).unwrap();
        let place = Place { access: Access::Open, placement: Placement(1), shard: ShardIndex(0) };
        let all: Vec<_> = (0..100_000).map(|number| (KEY.of(&name(number)), place)).collect();
        let exceptions = Exceptions::from_all(all.iter().copied());
        let mut most = 0;
        for (hash, _) in all.iter().step_by(97) {
            let compared = Cell::new(0);
            let found = exceptions.table.find(hash.point(), |entry| {
                compared.set(compared.get() + 1);
                entry.is(*hash)
            });
            assert!(found.is_some());
            most = most.max(compared.get());
        }
        assert!(most <= 8, "{most} entries were compared");
    }
}
