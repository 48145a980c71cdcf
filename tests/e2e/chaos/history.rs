//! What clients know: each write with what its writer had seen, and what became of it. By that alone it is judged whether anything was lost,
//! and whether a reader with a token saw less than it names.
//!
//! Each write has a value of its own, and names the one that it replaces by what the gateway holds it to (`If-Match`). No id is inserted twice.
//! So a row's history is a tree, and what a row shows at last stands for all on the way to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

/// A row: its tenant and its id.
pub(super) type Row = (String, u64);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Done, with the token that names it.
    Acknowledged(String),
    /// It is said that nothing was written.
    Refused(String),
    /// Nobody knows.
    Unknown,
}

#[derive(Clone, Debug)]
pub(super) struct Write {
    deletes: bool,
    outcome: Outcome,
    /// The write whose value was seen.
    parent: Option<usize>,
    row: Row,
}

/// What a reader with the token of a write saw of its row: the write whose value that is, or no row.
#[derive(Clone, Copy, Debug)]
struct Read {
    of: usize,
    saw: Option<usize>,
}

#[derive(Debug, Default)]
pub(super) struct History {
    reads: Mutex<Vec<Read>>,
    writes: Mutex<Vec<Write>>,
}

/// What lost and is kept.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Rows of which a deletion lost.
    pub(super) deletions: BTreeSet<Row>,
    /// Writes whose values lost.
    pub(super) values: BTreeSet<usize>,
}

/// The value of a write.
pub(super) fn value(write: usize) -> String {
    format!("w{write}")
}

/// The write whose value it is.
pub(super) fn named(value: &str) -> usize {
    value.strip_prefix('w').and_then(|number| number.parse().ok()).unwrap()
}

impl History {
    /// A write is about to be sent. Gives its number.
    pub(super) fn begins(&self, row: Row, parent: Option<usize>, deletes: bool) -> usize {
        let mut writes = self.writes.lock().unwrap();
        writes.push(Write { deletes, outcome: Outcome::Unknown, parent, row });
        writes.len() - 1
    }

    pub(super) fn ends(&self, write: usize, outcome: Outcome) {
        self.writes.lock().unwrap()[write].outcome = outcome;
    }

    pub(super) fn saw(&self, of: usize, saw: Option<usize>) {
        self.reads.lock().unwrap().push(Read { of, saw });
    }

    pub(super) fn row(&self, write: usize) -> Row {
        self.writes.lock().unwrap()[write].row.clone()
    }

    /// One of the last writes that were acknowledged, counted back, with its token.
    pub(super) fn acknowledged(&self, back: usize) -> Option<(usize, String)> {
        let writes = self.writes.lock().unwrap();
        let mut acknowledged =
            writes.iter().enumerate().rev().filter_map(|(number, write)| match &write.outcome {
                Outcome::Acknowledged(token) => Some((number, token.clone())),
                Outcome::Refused(_) | Outcome::Unknown => None,
            });
        acknowledged.nth(back)
    }

    /// How many writes were acknowledged, how many nobody knows of, and how many reads with tokens were answered.
    pub(super) fn counts(&self) -> (usize, usize, usize) {
        let writes = self.writes.lock().unwrap();
        let acknowledged =
            writes.iter().filter(|write| matches!(write.outcome, Outcome::Acknowledged(_))).count();
        let unknown = writes.iter().filter(|write| write.outcome == Outcome::Unknown).count();
        (acknowledged, unknown, self.reads.lock().unwrap().len())
    }

    /// How many writes of a shard were acknowledged, as their tokens say.
    pub(super) fn of_shard(&self, shard: &str) -> usize {
        let named = format!(";{shard}=");
        let writes = self.writes.lock().unwrap();
        let is_of =
            |write: &&Write| matches!(&write.outcome, Outcome::Acknowledged(token) if token.contains(&named));
        writes.iter().filter(is_of).count()
    }

    /// Why writes were refused, and how often.
    pub(super) fn refusals(&self) -> BTreeMap<String, usize> {
        let mut refusals = BTreeMap::new();
        for write in self.writes.lock().unwrap().iter() {
            if let Outcome::Refused(why) = &write.outcome {
                *refusals.entry(why.clone()).or_default() += 1;
            }
        }
        refusals
    }

    /// Acknowledged writes that are neither on the way to what is there, nor to anything that is kept as lost.
    pub(super) fn lost(&self, rows: &BTreeMap<Row, usize>, ledger: &Ledger) -> Vec<String> {
        let writes = self.writes.lock().unwrap();
        let mut kept = vec![false; writes.len()];
        let mut keep = |head: usize| {
            let mut next = Some(head);
            while let Some(at) = next.filter(|at| !std::mem::replace(&mut kept[*at], true)) {
                next = writes[at].parent;
            }
        };
        rows.values().chain(&ledger.values).for_each(|head| keep(*head));
        for (number, write) in writes.iter().enumerate() {
            // A row that is gone was deleted by any of those who wanted that.
            let gone = !rows.contains_key(&write.row) || ledger.deletions.contains(&write.row);
            if write.deletes && gone && !matches!(write.outcome, Outcome::Refused(_)) {
                keep(number);
            }
        }
        let lost = writes
            .iter()
            .enumerate()
            .filter(|(number, write)| matches!(write.outcome, Outcome::Acknowledged(_)) && !kept[*number]);
        lost.map(|(number, write)| {
            format!("{}: {write:?}, the row is {:?}", value(number), rows.get(&write.row))
        })
        .collect()
    }

    /// Values that are somewhere, although it was said that they were not written.
    pub(super) fn refused(&self, rows: &BTreeMap<Row, usize>, ledger: &Ledger) -> Vec<String> {
        let writes = self.writes.lock().unwrap();
        let reads = self.reads.lock().unwrap();
        let seen: BTreeSet<usize> = rows
            .values()
            .chain(&ledger.values)
            .copied()
            .chain(reads.iter().filter_map(|read| read.saw))
            .collect();
        let refused = seen.into_iter().filter(|seen| matches!(writes[*seen].outcome, Outcome::Refused(_)));
        refused.map(|seen| format!("{}: {:?}", value(seen), writes[seen])).collect()
    }

    /// Reads that saw less than their token names.
    pub(super) fn stale(&self) -> Vec<String> {
        let writes = self.writes.lock().unwrap();
        let comes_after = |late: usize, early: usize| {
            let mut next = Some(late);
            while let Some(at) = next.filter(|at| *at != early) {
                next = writes[at].parent;
            }
            next.is_some()
        };
        let may_delete = |early: usize| {
            let row = &writes[early].row;
            let mut deletions = writes.iter().enumerate().filter(|(_, write)| {
                write.deletes && write.row == *row && !matches!(write.outcome, Outcome::Refused(_))
            });
            deletions.any(|(number, _)| comes_after(number, early))
        };
        let reads = self.reads.lock().unwrap();
        let stale = reads.iter().filter(|read| match read.saw {
            Some(saw) => !comes_after(saw, read.of),
            None => !may_delete(read.of),
        });
        let told = |read: &Read| {
            let saw = read.saw.map(|saw| (value(saw), &writes[saw]));
            format!("with the token of {}: {:?}, it saw {saw:?}", value(read.of), writes[read.of])
        };
        stale.map(told).collect()
    }
}

#[test]
fn what_is_nowhere_is_lost_and_what_is_older_is_stale() {
    let history = History::default();
    let row = |id| ("acme".to_owned(), id);
    let done = |id, parent, deletes| {
        let write = history.begins(row(id), parent, deletes);
        history.ends(write, Outcome::Acknowledged(String::new()));
        write
    };
    let first = done(1, None, false);
    let [second, beside] = [done(1, Some(first), false), done(1, Some(first), false)];
    let gone = done(2, None, false);
    done(2, Some(gone), true);
    let rows = BTreeMap::from([(row(1), second)]);
    assert_eq!(history.lost(&rows, &Ledger { values: [beside].into(), ..Ledger::default() }), [""; 0]);
    let lost = history.lost(&rows, &Ledger::default());
    assert!(lost.len() == 1 && lost[0].starts_with(&value(beside)), "{lost:?}");
    let never = BTreeMap::from([(row(1), second), (row(2), gone)]);
    assert_eq!(
        history.lost(&never, &Ledger { values: [beside].into(), ..Ledger::default() }).len(),
        1,
        "the deletion"
    );
    history.ends(beside, Outcome::Refused(String::new()));
    assert_eq!(history.refused(&rows, &Ledger { values: [beside].into(), ..Ledger::default() }).len(), 1);
    for (of, saw, is_stale) in [
        (first, Some(second), false),
        (second, Some(second), false),
        (second, Some(first), true),
        (gone, None, false),
        (first, None, true),
    ] {
        let before = history.stale().len();
        history.saw(of, saw);
        assert_eq!(history.stale().len() > before, is_stale, "{of} {saw:?}");
    }
}
