//! A database in which transactions overlap, and readers of its log.

use std::collections::BTreeMap;

use portolan_core::log::Position;

use super::super::reader::cut;
use super::{Dice, broken, hold};

/// Gives, of the records that are visible after a position, how many to take and whether the last ends its transaction.
type Cut = fn(&[(Position, bool)], u64) -> (usize, bool);

/// Transactions that take numbers when they begin to write, and become visible when they commit.
#[derive(Default)]
struct Database {
    epoch: u64,
    transaction: u64,
    sequence: u64,
    /// By number: what it has written, and under which epoch it found the fence with its first write.
    open: BTreeMap<u64, (Option<u64>, Vec<Position>)>,
    /// Visible records, in the order in which they became so.
    visible: Vec<Position>,
}

impl Database {
    fn begin(&mut self) -> u64 {
        self.transaction += 1;
        self.open.insert(self.transaction, (None, Vec::new()));
        self.transaction
    }

    fn write(&mut self, transaction: u64) {
        self.sequence += 1;
        let (epoch, records) = self.open.get_mut(&transaction).unwrap();
        let epoch = *epoch.get_or_insert(self.epoch);
        records.push(Position::new(epoch, transaction, self.sequence));
    }

    fn commit(&mut self, transaction: u64) -> Vec<Position> {
        let (_, records) = self.open.remove(&transaction).unwrap();
        self.visible.extend(&records);
        records
    }

    /// A new epoch begins when nobody writes under the one before: demotion waits for them, or ends them.
    fn begin_epoch(&mut self) {
        self.open.retain(|_, (epoch, _)| epoch.is_none());
        self.epoch += 1;
    }

    fn horizon(&self) -> u64 {
        self.open.keys().next().copied().unwrap_or(self.transaction + 1)
    }

    fn read(&self, after: Position, max: usize, cut: Cut) -> (Vec<Position>, bool) {
        let mut rest: Vec<Position> = self.visible.iter().copied().filter(|at| *at > after).collect();
        rest.sort();
        let next = rest.iter().skip(1).map(Some).chain([None]);
        let seen = rest
            .iter()
            .zip(next)
            .map(|(at, next)| (*at, next.is_none_or(|next| !at.same_transaction(*next))));
        let seen: Vec<_> = seen.take(max).collect();
        let (count, ends) = cut(&seen, self.horizon());
        (rest[..count].to_vec(), ends)
    }
}

#[test]
fn a_lower_sequence_that_commits_later_is_still_read() {
    let mut database = Database { epoch: 5, transaction: 728, ..Database::default() };
    let (first, second) = (database.begin(), database.begin());
    assert_eq!((first, second), (729, 730));
    // T2 takes sequence 1 and T1 sequence 2.
    database.write(second);
    database.write(first);
    database.commit(first);
    let (read, ends) = database.read(Position::START, 10, cut);
    assert_eq!((read.as_slice(), ends), ([Position::new(5, 729, 2)].as_slice(), true));
    database.commit(second);
    let (read, _) = database.read(read[0], 10, cut);
    assert_eq!(read, [Position::new(5, 730, 1)]);
    // The other way round, T2 waits for T1, whose number is lower.
    let (first, second) = (database.begin(), database.begin());
    database.write(first);
    database.write(second);
    database.commit(second);
    assert_eq!(database.read(read[0], 10, cut).0, []);
    database.commit(first);
    assert_eq!(database.read(read[0], 10, cut).0, [Position::new(5, 731, 3), Position::new(5, 732, 4)]);
}

#[test]
fn a_batch_ends_where_a_transaction_ends() {
    let at = |transaction, sequence| Position::new(1, transaction, sequence);
    let seen = [(at(1, 1), false), (at(1, 2), true), (at(2, 3), false), (at(2, 4), false)];
    assert_eq!(cut(&seen, 9), (2, true), "the second does not end within what was looked at");
    assert_eq!(cut(&seen[2..], 9), (2, false), "alone, it comes in parts");
    assert_eq!(cut(&seen, 2), (2, true));
    assert_eq!(cut(&seen, 1), (0, true));
    assert_eq!(cut(&[], 1), (0, true));
}

/// What is committed is read once, in order, and no batch ends within a transaction without saying so.
fn walk(seed: u64, cut: Cut, key: fn(Position) -> Position) -> Result<(), String> {
    let mut dice = Dice(seed);
    let mut database = Database { epoch: 1, ..Database::default() };
    let (mut committed, mut read, mut cursor) = (Vec::new(), Vec::new(), Position::START);
    for step in 0..120 {
        let open: Vec<u64> = database.open.keys().copied().collect();
        match dice.below(10) {
            0 | 1 if open.len() < 5 => drop(database.begin()),
            2..=5 if !open.is_empty() => database.write(*dice.pick(&open)),
            6 if !open.is_empty() => committed.extend(database.commit(*dice.pick(&open))),
            7 if !open.is_empty() && dice.one_in(2) => drop(database.open.remove(dice.pick(&open))),
            8 if dice.one_in(6) => database.begin_epoch(),
            _ => {}
        }
        if step == 119 {
            for transaction in database.open.keys().copied().collect::<Vec<_>>() {
                committed.extend(database.commit(transaction));
            }
        }
        while dice.below(3) == 0 || step == 119 {
            let max = usize::try_from(1 + dice.below(4)).unwrap();
            let (batch, ends) = database.read(key(cursor), max, cut);
            let Some(last) = batch.last().copied() else { break };
            let rest = committed.iter().any(|at| last < *at && at.same_transaction(last));
            if ends == rest {
                return Err(format!(
                    "step {step}: the batch through {last} says {ends}, and there is more: {rest}"
                ));
            }
            read.extend(batch);
            cursor = last;
        }
    }
    if !read.is_sorted_by(|a, b| a < b) {
        return Err(format!("out of order: {read:?}"));
    }
    committed.sort();
    if read == committed { Ok(()) } else { Err(format!("committed {committed:?}, read {read:?}")) }
}

#[test]
fn whatever_overlaps_is_read_once_and_in_order() {
    hold(20_000, |seed| walk(seed, cut, |cursor| cursor));
}

/// Takes whatever is visible.
fn without_horizon(seen: &[(Position, bool)], _: u64) -> (usize, bool) {
    cut(seen, u64::MAX)
}

/// Leaves out what lies beyond the horizon, and goes on behind it.
fn with_gaps(seen: &[(Position, bool)], horizon: u64) -> (usize, bool) {
    let last = seen.iter().rposition(|(at, ends)| at.transaction < horizon && *ends);
    last.map_or((0, true), |last| (last + 1, true))
}

/// Ends a batch wherever it is full.
fn anywhere(seen: &[(Position, bool)], horizon: u64) -> (usize, bool) {
    (seen.iter().take_while(|(at, _)| at.transaction < horizon).count(), true)
}

#[test]
fn readers_that_lose_records_are_found() {
    for (name, cut) in
        [("without horizon", without_horizon as Cut), ("with gaps", with_gaps), ("cut anywhere", anywhere)]
    {
        assert!(broken(500, |seed| walk(seed, cut, |cursor| cursor)) > 0, "{name} was not found");
    }
}
