//! Marks: what merging must know beside a row whose columns are merged.
//!
//! They are a state that only grows: [`Marks::join`] is commutative, associative and idempotent, so that regions which have seen the same
//! writes have the same marks, in whatever order and how often those came. Triggers keep them for local writes
//! (`crate::marks`), each record carries them whole.
//!
//! All that is written belongs to a *life* of the row, named by the moment at which it was inserted. A deletion ends all lives that
//! began before it, also those whose writes it has not seen: nothing of them comes back. Rows that regions inserted without
//! knowing of each other are lives beside each other, and their columns are merged.

use std::collections::BTreeMap;

use portolan_core::log::Version;
use portolan_core::tenant_table::{ColumnRule, ConflictRule};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The columns of a row, each as it is written in its image.
pub type Columns = BTreeMap<String, Box<RawValue>>;

/// The mark of a row's columns that nobody has changed since one write of the row; no column has this name.
pub const ROW: &str = "*";

/// The marks of a row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    /// Lives that began until then are over.
    pub dead: Option<u64>,
    /// The newest write of each region that is in this state.
    #[serde(default)]
    pub seen: BTreeMap<String, u64>,
    /// Who wrote a column last; [`ROW`] stands for those that are not here.
    #[serde(default)]
    pub at: BTreeMap<String, Stamp>,
    /// What each region has added to a counter in each life, by `LIFE/REGION`: by which of its writes, and the sum. What was there
    /// before it was a counter is nobody's, `LIFE/`.
    #[serde(default)]
    pub counts: BTreeMap<String, BTreeMap<String, (u64, i64)>>,
    /// The elements that were ever in a set, by their JSON.
    #[serde(default)]
    pub sets: BTreeMap<String, BTreeMap<String, Member>>,
    /// The greatest that was written in each life.
    #[serde(default)]
    pub max: BTreeMap<String, BTreeMap<u64, Bound>>,
    /// The least that was written in each life.
    #[serde(default)]
    pub min: BTreeMap<String, BTreeMap<u64, Bound>>,
}

/// One write: the life that it belongs to, its number, its region. Their order is the order in which they win.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Stamp(pub u64, pub u64, pub String);

/// The last write that put an element in a set (1) or took it out (0): life, number, region, which of both.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Member(pub u64, pub u64, pub String, pub u8);

/// A value of a column that only rises or only falls. Numbers are below texts, as in SQLite.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Bound {
    /// A whole number.
    Number(i64),
    /// A text, by its bytes.
    Text(String),
}

impl Marks {
    /// Reads marks.
    ///
    /// # Errors
    /// When the text is none of them.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        let mut marks: Self = serde_json::from_str(text)?;
        marks.bury();
        Ok(marks)
    }

    /// Writes marks.
    ///
    /// # Errors
    /// Never, as far as is known.
    pub fn print(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self)
    }

    /// The marks of a row that has none, because it was there before its table had this rule: one write, of a life before all.
    #[must_use]
    pub fn of_unmarked(version: &Version, row: Option<&Columns>, rule: &ConflictRule) -> Self {
        let origin = version.origin.to_string();
        let seen = BTreeMap::from([(origin.clone(), version.v)]);
        let Some(row) = row else { return Self { dead: Some(version.v), seen, ..Self::default() } };
        let at = BTreeMap::from([(ROW.to_owned(), Stamp(0, version.v, origin))]);
        let marks = Self { seen, at, ..Self::default() };
        marks.complete(row, rule)
    }

    /// Adds what is missing of columns that got their rule after the row was marked: what is there counts as written with the row.
    #[must_use]
    pub fn complete(mut self, row: &Columns, rule: &ConflictRule) -> Self {
        let Some(Stamp(life, v, origin)) = self.at.get(ROW).cloned() else { return self };
        for (column, rule) in rule.columns() {
            let name = column.to_string();
            let value = row.get(&name).map_or("null", |value| value.get());
            let bound =
                || serde_json::from_str::<Bound>(value).ok().map(|bound| (life, bound)).into_iter().collect();
            match rule {
                ColumnRule::Counter => {
                    let whole = || (format!("{life}/"), (v, value.parse().unwrap_or_default()));
                    self.counts.entry(name).or_insert_with(|| BTreeMap::from([whole()]));
                }
                ColumnRule::Max => {
                    self.max.entry(name).or_insert_with(bound);
                }
                ColumnRule::Min => {
                    self.min.entry(name).or_insert_with(bound);
                }
                ColumnRule::SetUnion => {
                    let there = |element| (element, Member(life, v, origin.clone(), 1));
                    self.sets.entry(name).or_insert_with(|| elements(value).into_iter().map(there).collect());
                }
            }
        }
        self
    }

    /// Is there a row?
    #[must_use]
    pub fn alive(&self) -> bool {
        self.at.contains_key(ROW)
    }

    /// What both know together.
    #[must_use]
    pub fn join(&self, other: &Self) -> Self {
        let mut joined = self.clone();
        joined.dead = self.dead.max(other.dead);
        raise(&mut joined.seen, &other.seen);
        raise(&mut joined.at, &other.at);
        for (column, counts) in &other.counts {
            raise(joined.counts.entry(column.clone()).or_default(), counts);
        }
        for (column, members) in &other.sets {
            raise(joined.sets.entry(column.clone()).or_default(), members);
        }
        for (column, bounds) in &other.max {
            raise(joined.max.entry(column.clone()).or_default(), bounds);
        }
        for (column, bounds) in &other.min {
            lower(joined.min.entry(column.clone()).or_default(), bounds);
        }
        joined.bury();
        joined
    }

    /// The write that a column's value is of, unless it is merged by itself.
    #[must_use]
    pub fn stamp(&self, column: &str) -> Option<&Stamp> {
        self.at.get(column).max(self.at.get(ROW))
    }

    /// Is a write in this state, or was it?
    #[must_use]
    pub fn has_seen(&self, origin: &str, v: u64) -> bool {
        self.seen.get(origin).is_some_and(|seen| *seen >= v)
    }

    /// A counter's value.
    #[must_use]
    pub fn count(&self, column: &str) -> Option<i128> {
        let counts = self.counts.get(column)?;
        Some(counts.values().map(|(_, sum)| i128::from(*sum)).sum())
    }

    /// The elements of a set, in a fixed order.
    #[must_use]
    pub fn elements(&self, column: &str) -> Option<Vec<&str>> {
        let members = self.sets.get(column)?;
        Some(
            members.iter().filter(|(_, member)| member.3 == 1).map(|(element, _)| element.as_str()).collect(),
        )
    }

    /// The value of a column that only rises or only falls: none while nothing was written.
    #[must_use]
    pub fn bound(&self, column: &str) -> Option<Option<&Bound>> {
        let greatest = self.max.get(column).map(|bounds| bounds.values().max());
        greatest.or_else(|| self.min.get(column).map(|bounds| bounds.values().min()))
    }

    /// Drops what is dead, and marks of columns that a later write of the row has replaced.
    fn bury(&mut self) {
        let dead = self.dead;
        let lives = |born: u64| Some(born) > dead;
        self.at.retain(|_, stamp| lives(stamp.0));
        let Some(row) = self.at.get(ROW).cloned() else {
            *self = Self { dead, seen: std::mem::take(&mut self.seen), ..Self::default() };
            return;
        };
        self.at.retain(|column, stamp| column == ROW || *stamp > row);
        for counts in self.counts.values_mut() {
            counts.retain(|key, _| lives(life(key)));
        }
        for members in self.sets.values_mut() {
            members.retain(|_, member| lives(member.0));
        }
        for bounds in self.max.values_mut().chain(self.min.values_mut()) {
            bounds.retain(|born, _| lives(*born));
        }
    }

    /// Each write of a life, as life, number and region.
    pub(super) fn writes(&self) -> impl Iterator<Item = (u64, u64, &str)> {
        let at = self.at.values().map(|stamp| (stamp.0, stamp.1, stamp.2.as_str()));
        let members = self.sets.values().flatten();
        let members = members.map(|(_, member)| (member.0, member.1, member.2.as_str()));
        let counts = self.counts.values().flatten().filter_map(|(key, (v, _))| {
            let origin = key.split_once('/').map(|(_, origin)| origin).filter(|origin| !origin.is_empty());
            origin.map(|origin| (life(key), *v, origin))
        });
        at.chain(members).chain(counts)
    }
}

/// The life in a counter's key.
fn life(key: &str) -> u64 {
    key.split_once('/').and_then(|(life, _)| life.parse().ok()).unwrap_or_default()
}

/// The elements of an array, or of a text with one, by their JSON.
fn elements(value: &str) -> Vec<String> {
    let text: Option<String> = serde_json::from_str(value).ok();
    let array: Option<Vec<Box<RawValue>>> = serde_json::from_str(text.as_deref().unwrap_or(value)).ok();
    array.unwrap_or_default().iter().map(|element| element.get().to_owned()).collect()
}

fn raise<K: Ord + Clone, V: Ord + Clone>(ours: &mut BTreeMap<K, V>, theirs: &BTreeMap<K, V>) {
    for (key, value) in theirs {
        let there = ours.entry(key.clone()).or_insert_with(|| value.clone());
        if *there < *value {
            *there = value.clone();
        }
    }
}

fn lower<K: Ord + Clone, V: Ord + Clone>(ours: &mut BTreeMap<K, V>, theirs: &BTreeMap<K, V>) {
    for (key, value) in theirs {
        let there = ours.entry(key.clone()).or_insert_with(|| value.clone());
        if *there > *value {
            *there = value.clone();
        }
    }
}
