//! What failover keeps in the control store: entries with revisions, changed by transactions that compare and set.
//!
//! The store itself is somebody else's: here is only what is asked of it, and [`Table`], which answers as a store has to. What a majority of its voters
//! did not take did not happen. Its own timers decide nothing: not how long a lease lasts, nor who holds it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use portolan_core::ids::{RegionName, ShardName};
use serde::{Deserialize, Serialize};

use crate::lease::{Entry, Ownership};
use crate::promotion::Record;

/// The number of the store's last change of an entry; 0 where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

/// The name of an entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Key {
    /// The lease of a region: it lives.
    Lease(RegionName),
    /// Who writes a shard.
    Ownership(ShardName),
    /// When regions failed, so that two of them are not taken over from at a time.
    Pace,
    /// The present or last promotion of a shard.
    Promotion(ShardName),
}

/// What all names of entries begin with.
pub const PREFIX: &str = "failover/";

/// A name that no entry has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no entry of failover: another program, or a newer one, has written it")]
pub struct NoKey(pub String);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lease(region) => write!(f, "{PREFIX}lease/{region}"),
            Self::Ownership(shard) => write!(f, "{PREFIX}shard/{shard}"),
            Self::Pace => write!(f, "{PREFIX}pace"),
            Self::Promotion(shard) => write!(f, "{PREFIX}promotion/{shard}"),
        }
    }
}

impl FromStr for Key {
    type Err = NoKey;

    fn from_str(text: &str) -> Result<Self, NoKey> {
        let none = || NoKey(text.to_owned());
        let rest = text.strip_prefix(PREFIX).ok_or_else(none)?;
        let shard = |name: &str| ShardName::new(name).map_err(|_| none());
        match rest.split_once('/') {
            Some(("lease", name)) => RegionName::new(name).map(Self::Lease).map_err(|_| none()),
            Some(("promotion", name)) => shard(name).map(Self::Promotion),
            Some(("shard", name)) => shard(name).map(Self::Ownership),
            None if rest == "pace" => Ok(Self::Pace),
            _ => Err(none()),
        }
    }
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Value {
    /// Of a region's lease.
    Lease(Entry),
    /// Of who writes a shard.
    Ownership(Ownership),
    /// Of regions that failed.
    Pace(Vec<Failure>),
    /// Of a promotion.
    Promotion(Box<Record>),
}

/// A region from which shards were taken over automatically.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Which one.
    pub region: RegionName,
    /// When the first of its shards was, in milliseconds since 1970.
    pub at_ms: u64,
}

/// A change: it is made as a whole where all revisions are as expected, else not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    /// Entries, and the revisions at which they must be.
    pub expect: Vec<(Key, Revision)>,
    /// Entries, and what they are to say.
    pub put: Vec<(Key, Value)>,
}

/// What the store is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A change.
    Commit(Transaction),
    /// All entries of failover, as they are at one revision.
    Scan,
}

/// What it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is not reached, or has no majority. What was asked may have been done all the same.
    Away,
    /// The change is made: all of its entries are at this revision.
    Committed(Revision),
    /// An entry is not as expected: nothing was changed.
    Conflict,
    /// All entries.
    Entries(Table),
}

/// Entries with their revisions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    entries: BTreeMap<Key, (Revision, Value)>,
    last: Revision,
}

impl Transaction {
    /// One entry, changed.
    #[must_use]
    pub fn one(key: Key, at: Revision, value: Value) -> Self {
        Self { expect: vec![(key.clone(), at)], put: vec![(key, value)] }
    }

    /// Both, or neither.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.expect.extend(other.expect);
        self.put.extend(other.put);
        self
    }
}

impl Table {
    /// An entry.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&Value> {
        self.entries.get(key).map(|(_, value)| value)
    }

    /// The revision of an entry.
    #[must_use]
    pub fn revision(&self, key: &Key) -> Revision {
        self.entries.get(key).map_or(Revision(0), |(revision, _)| *revision)
    }

    /// All entries, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, Revision, &Value)> {
        self.entries.iter().map(|(key, (revision, value))| (key, *revision, value))
    }

    /// A region's lease.
    #[must_use]
    pub fn lease(&self, region: &RegionName) -> Option<&Entry> {
        match self.get(&Key::Lease(region.clone())) {
            Some(Value::Lease(entry)) => Some(entry),
            _ => None,
        }
    }

    /// Who writes a shard.
    #[must_use]
    pub fn ownership(&self, shard: &ShardName) -> Option<&Ownership> {
        match self.get(&Key::Ownership(shard.clone())) {
            Some(Value::Ownership(ownership)) => Some(ownership),
            _ => None,
        }
    }

    /// A shard's present or last promotion.
    #[must_use]
    pub fn promotion(&self, shard: &ShardName) -> Option<&Record> {
        match self.get(&Key::Promotion(shard.clone())) {
            Some(Value::Promotion(record)) => Some(record),
            _ => None,
        }
    }

    /// Regions that failed lately.
    #[must_use]
    pub fn pace(&self) -> &[Failure] {
        match self.get(&Key::Pace) {
            Some(Value::Pace(failures)) => failures,
            _ => &[],
        }
    }

    /// Takes over an entry as a store has it, unless it is known in a later revision.
    pub fn take_over(&mut self, key: Key, revision: Revision, value: Value) {
        self.last = self.last.max(revision);
        if self.revision(&key) < revision {
            self.entries.insert(key, (revision, value));
        }
    }

    /// Has an entry say something else, behind everybody's back.
    #[cfg(test)]
    pub(crate) fn forge(&mut self, key: &Key, value: Value) {
        self.entries.get_mut(key).into_iter().for_each(|(_, there)| *there = value.clone());
    }

    /// The revision at which this was.
    #[must_use]
    pub const fn last(&self) -> Revision {
        self.last
    }

    /// Notes a change that the store has made.
    pub fn learn(&mut self, change: &Transaction, at: Revision) {
        for (key, value) in &change.put {
            if self.revision(key) < at {
                self.entries.insert(key.clone(), (at, value.clone()));
            }
        }
        self.last = self.last.max(at);
    }

    /// Makes a change, or none. An entry that was put back says what it said before, and has another revision all the same.
    ///
    /// # Errors
    /// The key of an entry that is not as expected.
    pub fn commit(&mut self, change: &Transaction) -> Result<Revision, Key> {
        if let Some((key, _)) = change.expect.iter().find(|(key, at)| self.revision(key) != *at) {
            return Err(key.clone());
        }
        self.last.0 += 1;
        for (key, value) in &change.put {
            self.entries.insert(key.clone(), (self.last, value.clone()));
        }
        Ok(self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_names_and_the_newest_of_each_counts() {
        let (eu, s1) = (RegionName::new("eu").unwrap(), ShardName::new("s1").unwrap());
        let keys = [Key::Lease(eu), Key::Ownership(s1.clone()), Key::Pace, Key::Promotion(s1)];
        for (key, name) in keys.into_iter().zip([
            "failover/lease/eu",
            "failover/shard/s1",
            "failover/pace",
            "failover/promotion/s1",
        ]) {
            assert_eq!(key.to_string(), name);
            assert_eq!(name.parse(), Ok(key));
        }
        for wrong in ["", "failover/", "failover/lease/", "failover/shard/S 1", "failover/pace/a", "lease/eu"]
        {
            assert_eq!(wrong.parse::<Key>(), Err(NoKey(wrong.to_owned())));
        }
        let failed = |at_ms| Value::Pace(vec![Failure { region: RegionName::new("us").unwrap(), at_ms }]);
        let mut table = Table::default();
        for (revision, at_ms) in [(7, 70), (5, 50), (7, 71)] {
            table.take_over(Key::Pace, Revision(revision), failed(at_ms));
        }
        assert_eq!((table.revision(&Key::Pace), table.pace()[0].at_ms), (Revision(7), 70));
    }
}
