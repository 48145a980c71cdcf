//! What clients know: each write with what its writer had seen and what became of it, and each read with what was asked for and what was seen. By
//! that alone it is judged whether anything was lost, and whether anybody saw less than was promised.
//!
//! Each write has a value of its own, and names the one that it replaces by what the gateway holds it to (`If-Match`). No id is inserted twice.
//! So a row's history is a tree, and what a row shows at last stands for all on the way to it.

mod judge;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portolan_core::token::Token;
use tokio::time::Instant;

pub use self::judge::{Verdict, judge};

/// A row: its tenant and its id.
pub type Row = (String, u64);

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done, with the token that names it.
    Acknowledged(String),
    /// It is said that nothing was written.
    Refused(String),
    /// Nobody knows.
    Unknown,
}

/// What a reader asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Whatever the region has.
    Local,
    /// Nothing older than this.
    MaxStaleness(Duration),
    /// The primary's answer.
    Primary,
    /// At least what the token of a write names.
    Token(usize),
}

/// A write. Times are those since the history began.
#[derive(Clone, Debug)]
pub struct Write {
    /// Does it delete the row?
    pub deletes: bool,
    /// When it was sent.
    pub invoked: Duration,
    /// What became of it.
    pub outcome: Outcome,
    /// The write whose value was seen, and is replaced.
    pub parent: Option<usize>,
    /// Through which region.
    pub region: usize,
    /// When that was known.
    pub returned: Duration,
    /// The row.
    pub row: Row,
}

impl Write {
    /// The shard and the epoch in which it was written; none unless that was said.
    #[must_use]
    pub fn epoch(&self) -> Option<(String, u64)> {
        let Outcome::Acknowledged(token) = &self.outcome else { return None };
        let token: Token = token.parse().ok()?;
        let (shard, position) = token.entries().next()?;
        Some((shard.to_string(), position.epoch.0))
    }

    /// Was it acknowledged?
    #[must_use]
    pub const fn is_acknowledged(&self) -> bool {
        matches!(self.outcome, Outcome::Acknowledged(_))
    }
}

/// A read that was answered.
#[derive(Clone, Debug)]
pub struct Read {
    /// What was asked for.
    pub asked: Asked,
    /// Does the answer say that it is a copy's?
    pub by_copy: bool,
    /// When it was sent.
    pub invoked: Duration,
    /// Through which region.
    pub region: usize,
    /// When it was answered.
    pub returned: Duration,
    /// The row.
    pub row: Row,
    /// The write whose value was seen, or no row.
    pub saw: Option<usize>,
}

/// A read that was not answered.
#[derive(Clone, Debug)]
pub struct Missed {
    /// What was asked for.
    pub asked: Asked,
    /// When it was sent.
    pub invoked: Duration,
    /// Through which region.
    pub region: usize,
    /// What came instead.
    pub why: String,
}

/// All that clients did, in the order in which they began.
#[derive(Clone, Debug, Default)]
pub struct Operations {
    /// Reads that were not answered.
    pub missed: Vec<Missed>,
    /// Reads that were.
    pub reads: Vec<Read>,
    /// Writes.
    pub writes: Vec<Write>,
}

impl Operations {
    /// The longest time without an acknowledged write of a shard, from a moment on until the last one.
    #[must_use]
    pub fn pause(&self, shard: &str, from: Duration) -> Duration {
        let of_shard = |write: &&Write| write.epoch().is_some_and(|(name, _)| name == shard);
        let acknowledged = self.writes.iter().filter(of_shard).map(|write| write.returned);
        let mut times: Vec<Duration> = acknowledged.filter(|at| *at >= from).collect();
        times.push(from);
        times.sort_unstable();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// When the first write of a shard was acknowledged that was sent after a moment, by another region than this one.
    #[must_use]
    pub fn first_write(&self, shard: &str, after: Duration, but: usize) -> Option<Duration> {
        let late = |write: &&Write| write.invoked >= after && write.region != but;
        let late = self.writes.iter().filter(late);
        let of_shard = |write: &&Write| write.epoch().is_some_and(|(name, _)| name == shard);
        late.filter(of_shard).map(|write| write.returned).min()
    }

    /// When the first read was answered that was sent after a moment and may be older than the primary's, by another region than this one.
    #[must_use]
    pub fn first_read(&self, after: Duration, but: usize) -> Option<Duration> {
        let late = |read: &&Read| read.invoked >= after && read.region != but && read.asked != Asked::Primary;
        self.reads.iter().filter(late).map(|read| read.returned).min()
    }

    /// Writes of a shard up to an epoch that are not on the way to what is there: those that were acknowledged, and those of which nobody knows.
    #[must_use]
    pub fn strays(&self, found: &Found, shard: &str, through: u64) -> (u64, u64) {
        let kept = judge::kept(&self.writes, &found.rows, &Ledger::default());
        let mut strays = (0, 0);
        for (write, _) in self.writes.iter().zip(kept).filter(|(_, kept)| !kept) {
            match write.epoch() {
                Some((name, epoch)) => strays.0 += u64::from(name == shard && epoch <= through),
                None if matches!(write.outcome, Outcome::Unknown) => strays.1 += 1,
                // Somebody wrote past the gateway, and the database said that it is done.
                None => strays.1 += u64::from(write.is_acknowledged()),
            }
        }
        strays
    }
}

/// What lost and is kept.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Rows of which a deletion lost.
    pub deletions: BTreeSet<Row>,
    /// Writes whose values lost.
    pub values: BTreeSet<usize>,
}

/// What is there when all is calm.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// What lost and is kept.
    pub ledger: Ledger,
    /// Who wrote in which epoch of which shard, as the databases have it.
    pub origins: BTreeMap<(String, u64), BTreeSet<String>>,
    /// All rows, each with the write whose value it has.
    pub rows: BTreeMap<Row, usize>,
}

/// The value of a write.
#[must_use]
pub fn value(write: usize) -> String {
    format!("w{write}")
}

/// The write whose value it is.
///
/// # Panics
/// When it is none.
#[must_use]
pub fn named(value: &str) -> usize {
    value.strip_prefix('w').and_then(|number| number.parse().ok()).expect("the value of a write")
}

/// Takes down what clients do.
#[derive(Debug)]
pub struct History {
    begun: Instant,
    operations: Mutex<Operations>,
}

impl Default for History {
    fn default() -> Self {
        Self { begun: Instant::now(), operations: Mutex::default() }
    }
}

impl History {
    /// Since it began.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// A write is about to be sent through a region. Gives its number.
    pub fn begins(&self, row: Row, region: usize, parent: Option<usize>, deletes: bool) -> usize {
        let invoked = self.now();
        let write = Write {
            deletes,
            invoked,
            outcome: Outcome::Unknown,
            parent,
            region,
            returned: Duration::MAX,
            row,
        };
        let writes = &mut self.lock().writes;
        writes.push(write);
        writes.len() - 1
    }

    /// It is known what became of it.
    pub fn ends(&self, write: usize, outcome: Outcome) {
        let returned = self.now();
        let write = &mut self.lock().writes[write];
        (write.outcome, write.returned) = (outcome, returned);
    }

    /// A read was answered.
    pub fn saw(&self, read: Read) {
        self.lock().reads.push(read);
    }

    /// A read was not.
    pub fn missed(&self, missed: Missed) {
        self.lock().missed.push(missed);
    }

    /// The row of a write.
    pub fn row(&self, write: usize) -> Row {
        self.lock().writes[write].row.clone()
    }

    /// One of the last writes that were acknowledged, counted back, with its token.
    pub fn acknowledged(&self, back: usize) -> Option<(usize, String)> {
        let operations = self.lock();
        let acknowledged = operations.writes.iter().enumerate().rev();
        let mut acknowledged = acknowledged.filter_map(|(number, write)| match &write.outcome {
            Outcome::Acknowledged(token) if !token.is_empty() => Some((number, token.clone())),
            _ => None,
        });
        acknowledged.nth(back)
    }

    /// How many writes were acknowledged, how many nobody knows of, and how many reads were answered.
    pub fn counts(&self) -> (usize, usize, usize) {
        let operations = self.lock();
        let acknowledged = operations.writes.iter().filter(|write| write.is_acknowledged()).count();
        let unknown = operations.writes.iter().filter(|write| write.outcome == Outcome::Unknown).count();
        (acknowledged, unknown, operations.reads.len())
    }

    /// How many writes of a shard were acknowledged, as their tokens say.
    pub fn of_shard(&self, shard: &str) -> usize {
        let named = format!(";{shard}=");
        let is_of =
            |write: &&Write| matches!(&write.outcome, Outcome::Acknowledged(token) if token.contains(&named));
        self.lock().writes.iter().filter(is_of).count()
    }

    /// Why writes were refused, and how often.
    pub fn refusals(&self) -> BTreeMap<String, usize> {
        let mut refusals = BTreeMap::new();
        for write in &self.lock().writes {
            if let Outcome::Refused(why) = &write.outcome {
                *refusals.entry(why.clone()).or_default() += 1;
            }
        }
        refusals
    }

    /// All of it so far.
    pub fn operations(&self) -> Operations {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Operations> {
        self.operations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
