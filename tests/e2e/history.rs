//! The checker of histories finds what it is there for: broken histories of each kind, and what chance makes of sound ones.

use std::collections::BTreeMap;
use std::time::Duration;

use portolan_foundation::random;
use portolan_tests::clients::Dice;
use portolan_tests::history::{Asked, Found, Operations, Outcome, Read, Row, Write, judge, value};

fn row(id: u64) -> Row {
    ("acme".to_owned(), id)
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Operations, each a second after the one before.
#[derive(Default)]
struct Told(Operations);

impl Told {
    fn write(&mut self, id: u64, parent: Option<usize>, outcome: Outcome) -> usize {
        let invoked = at(10 * self.0.writes.len() as u64);
        let (returned, row) = (invoked + at(1), row(id));
        self.0.writes.push(Write { deletes: false, invoked, outcome, parent, region: 0, returned, row });
        self.0.writes.len() - 1
    }

    fn done(&mut self, id: u64, parent: Option<usize>) -> usize {
        self.in_epoch(id, parent, 1)
    }

    fn in_epoch(&mut self, id: u64, parent: Option<usize>, epoch: u64) -> usize {
        self.write(id, parent, Outcome::Acknowledged(format!("v1;s1={epoch}.1.1")))
    }

    fn deleted(&mut self, id: u64, parent: usize) -> usize {
        let write = self.done(id, Some(parent));
        self.0.writes[write].deletes = true;
        write
    }

    /// A read a moment before another write would begin; gives whether it is stale, and whether its token was not kept.
    fn read(&self, id: u64, asked: Asked, saw: Option<usize>, found: &Found) -> (bool, bool) {
        let mut operations = self.0.clone();
        let invoked = at(10 * operations.writes.len() as u64 - 1);
        let (returned, row) = (invoked, row(id));
        operations.reads.push(Read { asked, by_copy: false, invoked, region: 0, returned, row, saw });
        let verdict = judge(&operations, found);
        (!verdict.stale.is_empty(), !verdict.tokens.is_empty())
    }
}

fn found(rows: &[(u64, usize)]) -> Found {
    let rows = rows.iter().map(|(id, write)| (row(*id), *write)).collect();
    Found { rows, ..Found::default() }
}

#[test]
fn what_is_acknowledged_and_nowhere_is_lost() {
    let mut told = Told::default();
    let first = told.done(1, None);
    let [second, beside] = [told.done(1, Some(first)), told.done(1, Some(first))];
    let gone = told.done(2, None);
    told.deleted(2, gone);
    let mut there = found(&[(1, second)]);
    let verdict = judge(&told.0, &there);
    assert!(verdict.lost.len() == 1 && verdict.lost[0].starts_with(&value(beside)), "{verdict:?}");
    assert_eq!(told.0.strays(&there, "s1", 1), (1, 0));
    there.ledger.values.insert(beside);
    assert_eq!(judge(&told.0, &there).problems(), "");
    // A deletion that was not done is lost as well, unless that it lost is known.
    there.rows.insert(row(2), gone);
    assert_eq!(judge(&told.0, &there).lost.len(), 1);
    there.ledger.deletions.insert(row(2));
    assert_eq!(judge(&told.0, &there).problems(), "");
    // What nobody acknowledged may be lost.
    let mut told = Told::default();
    told.write(1, None, Outcome::Unknown);
    assert_eq!(judge(&told.0, &found(&[])).problems(), "");
    assert_eq!(told.0.strays(&found(&[]), "s1", 1), (0, 1));
}

#[test]
fn what_was_refused_is_nowhere() {
    let mut told = Told::default();
    let first = told.done(1, None);
    let refused = told.write(1, Some(first), Outcome::Refused("409".to_owned()));
    assert_eq!(judge(&told.0, &found(&[(1, first)])).problems(), "");
    assert_eq!(judge(&told.0, &found(&[(1, refused)])).refused.len(), 1);
}

#[test]
fn a_read_with_a_token_sees_what_it_names_or_what_came_after() {
    let mut told = Told::default();
    let first = told.done(1, None);
    let second = told.done(1, Some(first));
    let gone = told.done(2, None);
    told.deleted(2, gone);
    let there = found(&[(1, second)]);
    for (id, of, saw, kept) in [
        (1, first, Some(second), true),
        (1, second, Some(second), true),
        (1, second, Some(first), false),
        (2, gone, None, true),
        (1, first, None, false),
    ] {
        assert_eq!(told.read(id, Asked::Token(of), saw, &there), (false, !kept), "{of} {saw:?}");
    }
}

#[test]
fn a_read_is_not_older_than_its_bound() {
    let mut told = Told::default();
    // Known at seconds 1, 11, 21 and 31; reads begin at 39 or later.
    let first = told.done(1, None);
    let second = told.done(1, Some(first));
    let third = told.done(1, Some(second));
    let lost = told.done(1, Some(second));
    let mut there = found(&[(1, third)]);
    there.ledger.values.insert(lost);
    let old = |seconds| Asked::MaxStaleness(at(seconds));
    for (asked, saw, stale) in [
        (Asked::Primary, Some(third), false),
        (Asked::Primary, Some(second), true),
        (Asked::Primary, Some(lost), true),
        (Asked::Primary, None, true),
        (old(17), Some(second), true),
        (old(19), Some(second), false),
        (old(19), Some(lost), false),
        (old(19), Some(first), true),
        (old(29), Some(first), false),
        (old(37), None, true),
        (old(39), None, false),
        (Asked::Local, None, false),
    ] {
        assert_eq!(told.read(1, asked, saw, &there), (stale, false), "{asked:?} {saw:?}");
    }
    let gone = told.done(2, None);
    told.deleted(2, gone);
    assert_eq!(told.read(2, Asked::Primary, None, &there), (false, false));
    assert_eq!(told.read(2, Asked::Primary, Some(gone), &there), (true, false), "it was deleted before");
}

#[test]
fn an_epoch_has_one_writer_and_ends_with_the_next() {
    let mut told = Told::default();
    let first = told.in_epoch(1, None, 1);
    let second = told.in_epoch(1, Some(first), 2);
    let mut there = found(&[(1, second)]);
    there.origins = [(1, "us"), (2, "eu")]
        .map(|(epoch, region)| (("s1".to_owned(), epoch), [region.to_owned()].into()))
        .into();
    assert_eq!(judge(&told.0, &there).problems(), "");
    let late = told.in_epoch(1, Some(second), 1);
    there.rows.insert(row(1), late);
    assert_eq!(judge(&told.0, &there).writers.len(), 1, "epoch 1 goes on after epoch 2 has begun");
    // What was under way when the next epoch began may be answered after that.
    told.0.writes[late].invoked = told.0.writes[second].returned;
    assert_eq!(judge(&told.0, &there).problems(), "");
    there.origins.entry(("s1".to_owned(), 2)).or_default().insert("us".to_owned());
    assert_eq!(judge(&told.0, &there).writers.len(), 1, "two regions in epoch 2");
}

/// Sound histories are called sound, and one thing that is changed is found, in histories of many operations.
#[test]
fn chance_breaks_histories_and_is_found() {
    let seed = random::u64();
    eprintln!("seed {seed}");
    let mut dice = Dice::new(seed);
    let (mut told, mut heads) = (Told::default(), BTreeMap::<u64, usize>::new());
    for number in 0..100_000 {
        let id = dice.below(20_000) as u64;
        let write = told.done(id, heads.get(&id).copied());
        heads.insert(id, write);
        if number % 3 == 0 {
            let (row, invoked) = (row(id), told.0.writes[write].returned + at(1));
            let (asked, saw) = (Asked::Primary, Some(write));
            told.0.reads.push(Read {
                asked,
                by_copy: false,
                invoked,
                region: 0,
                returned: invoked,
                row,
                saw,
            });
        }
    }
    let there = found(&heads.iter().map(|(id, write)| (*id, *write)).collect::<Vec<_>>());
    assert_eq!(judge(&told.0, &there).problems(), "");
    let (id, head) = heads.iter().find(|(_, head)| told.0.writes[**head].parent.is_some()).unwrap();
    let mut broken = there.clone();
    broken.rows.insert(row(*id), told.0.writes[*head].parent.unwrap());
    assert_eq!(judge(&told.0, &broken).lost.len(), 1);
    let mut broken = told.0.clone();
    let read =
        broken.reads.iter_mut().find(|read| told.0.writes[read.saw.unwrap()].parent.is_some()).unwrap();
    read.saw = told.0.writes[read.saw.unwrap()].parent;
    assert_eq!(judge(&broken, &there).stale.len(), 1);
}
