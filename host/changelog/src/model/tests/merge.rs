//! Rules of conflicts: all replicas end the same whatever they hear in which order, and nothing is lost silently.

use std::collections::BTreeSet;

use portolan_core::log::Version;
use portolan_core::tenant_table::{ConflictRule, Rest};

use super::super::gate::RowState;
use super::super::history::History as Past;
use super::super::marks::{Columns, Marks, ROW};
use super::super::record::{Change, Record, RowChange, RowId};
use super::rules::*;
use super::writer::elements;
use super::{Dice, broken, hold};

fn walk(seed: u64, rule: &ConflictRule, deletes: bool, take: Apply) -> Result<(), String> {
    let mut dice = Dice(seed);
    let history = History::draw(&mut dice, rule, deletes, take);
    let (one, other) = (history.feed(&mut dice, rule, take), history.feed(&mut dice, rule, take));
    if told(rule, &one) != told(rule, &other) {
        let all: Vec<&RowChange> = history.changes().collect();
        return Err(format!("{:#?}\ndiffer from\n{:#?}\nof\n{all:#?}", one.rows, other.rows));
    }
    let mut again = one.clone();
    take(rule, &mut again, &history.records);
    if told(rule, &again) != told(rule, &one) {
        return Err("the whole once more is not the same".into());
    }
    if one.parked + other.parked > 0 {
        return Err("something waits".into());
    }
    lost_silently(&history, &one)?;
    for (id, (state, row)) in &one.rows {
        match rule {
            ConflictRule::Columns { .. } => merged(&history, id, state, row.as_deref())?,
            ConflictRule::HomeWins => home_won(&history, id, state)?,
            ConflictRule::FirstWins => first_won(&history, id, state)?,
            ConflictRule::LastWriterWins | ConflictRule::Policy { .. } => {}
        }
    }
    Ok(())
}

/// Each text of a column is there, was replaced by someone who saw it, or is in a ledger.
fn lost_silently(history: &History, end: &Replica) -> Result<(), String> {
    let kept: Vec<&String> = history.ledger.iter().chain(&end.ledger).map(|(_, row)| row).collect();
    for change in history.changes() {
        let Some(row) = &change.row else { continue };
        let columns: Columns = serde_json::from_str(row).unwrap();
        let there = end.rows[&change.id].1.as_deref().unwrap_or_default();
        for text in ["name", "color"].map(|name| columns[name].get()) {
            let safe = there.contains(text)
                || history.known.contains(text)
                || kept.iter().any(|row| row.contains(text));
            if !safe {
                return Err(format!("{text} of {:?} was lost silently", change.id));
            }
        }
    }
    Ok(())
}

/// A row is what was written into the lives that are not over, to the last increment.
fn merged(history: &History, id: &RowId, state: &RowState, row: Option<&str>) -> Result<(), String> {
    let marks = Marks::parse(state.marks.as_deref().unwrap()).unwrap();
    let last = history.deletions.iter().filter(|(of, _)| of == id).map(|(_, at)| *at).max();
    if last != marks.dead {
        return Err(format!("{:?} is not the last deletion {last:?}", marks.dead));
    }
    let live = || history.added.iter().filter(|added| added.id == *id && Some(added.life) > last);
    let Some(row) = row else {
        return if live().next().is_none() { Ok(()) } else { Err("a life was ended too early".into()) };
    };
    let row: Columns = serde_json::from_str(row).unwrap();
    let sum: i64 = live().map(|added| added.stock).sum();
    if row["stock"].get() != sum.to_string() {
        return Err(format!("the stock is {}, and {sum} was added", row["stock"]));
    }
    let Some(most) = live().filter_map(|added| added.most).max() else {
        return Err("the row came back".into());
    };
    if row["most"].get() != most.to_string() {
        return Err(format!("the most is {}, and {most} was written", row["most"]));
    }
    let put: BTreeSet<String> = live().flat_map(|added| added.tags.clone()).collect();
    let put: BTreeSet<String> = put.difference(&history.removed).cloned().collect();
    if elements(row["tags"].get()) != put {
        return Err(format!("the tags are {}, and {put:?} were put in", row["tags"]));
    }
    for name in ["name", "color"] {
        let life = marks.stamp(name).unwrap().0;
        if Some(life) <= last {
            return Err(format!("{name} came back"));
        }
    }
    Ok(())
}

/// The home's last write stays, or who knew it.
fn home_won(history: &History, id: &RowId, state: &RowState) -> Result<(), String> {
    let last = history.home.iter().filter(|(of, _)| of == id).map(|(_, version)| version).max();
    let Some(last) = last else { return Ok(()) };
    if *last == state.version || history.ancestors[&(id.clone(), state.version.clone())].contains(last) {
        return Ok(());
    }
    Err(format!("{:?} is over the home's {last:?}", state.version))
}

/// Of the winner and any other that part, the winner has the earliest write that not both know.
fn first_won(history: &History, id: &RowId, state: &RowState) -> Result<(), String> {
    let path = |version: &Version| {
        let mut path = history.ancestors[&(id.clone(), version.clone())].clone();
        path.insert(version.clone());
        path
    };
    // Another round goes before: that all agree is all that is promised.
    let round = |change: &RowChange| Past::parse(change.marks.as_deref(), &change.version).unwrap().round;
    if history.changes().any(|change| round(change) > 0) {
        return Ok(());
    }
    let won = path(&state.version);
    for change in history.changes().filter(|change| change.id == *id) {
        let other = path(&change.version);
        let first = won.symmetric_difference(&other).next();
        if first.is_some_and(|first| !won.contains(first)) {
            return Err(format!("{:?} came before all of {:?}", change.version, state.version));
        }
    }
    Ok(())
}

#[test]
fn columns_are_merged_whatever_the_order() {
    for rest in [Rest::Each, Rest::Together] {
        let rule = counting(rest);
        hold(400, |seed| walk(seed, &rule, false, apply));
        hold(1_000, |seed| walk(seed, &rule, true, apply));
    }
}

#[test]
fn the_home_wins_over_all_that_did_not_know_it() {
    hold(1_500, |seed| walk(seed, &ConflictRule::HomeWins, true, apply));
}

#[test]
fn the_first_of_two_branches_wins() {
    hold(1_500, |seed| walk(seed, &ConflictRule::FirstWins, true, apply));
}

#[test]
fn a_join_is_a_join() {
    let rule = counting(Rest::Each);
    hold(1_000, |seed| {
        let mut dice = Dice(seed);
        let history = History::draw(&mut dice, &rule, true, apply);
        let marks: Vec<Marks> = history
            .changes()
            .filter(|change| change.id.key == "[0]")
            .map(|change| Marks::parse(change.marks.as_deref().unwrap()).unwrap())
            .collect();
        if marks.is_empty() {
            return Ok(());
        }
        let (a, b, c) = (dice.pick(&marks), dice.pick(&marks), dice.pick(&marks));
        let same = a.join(a) == *a && a.join(b) == b.join(a) && a.join(b).join(c) == a.join(&b.join(c));
        let kept = Marks::parse(&a.join(b).print().unwrap()).unwrap() == a.join(b);
        if same && kept { Ok(()) } else { Err(format!("{a:?}\n{b:?}\n{c:?}")) }
    });
}

/// Each record on its own, with what was there before it.
fn each(
    rule: &ConflictRule,
    replica: &mut Replica,
    records: &[Record],
    then: impl Fn(&mut RowState, Option<&RowState>, &RowChange, &mut Option<String>),
) {
    for record in records {
        let Change::Row(change) = &record.change else { continue };
        let before = replica.rows.get(&change.id).map(|(state, _)| state.clone());
        apply(rule, replica, std::slice::from_ref(record));
        let (state, row) = replica.rows.get_mut(&change.id).unwrap();
        then(state, before.as_ref(), change, row);
    }
}

fn edit(state: &mut RowState, mut edit: impl FnMut(&mut Marks)) {
    let mut marks = Marks::parse(state.marks.as_deref().unwrap()).unwrap();
    edit(&mut marks);
    state.marks = marks.print().ok();
}

/// Adds what comes to what is there, also when it comes twice.
fn counts_twice(rule: &ConflictRule, replica: &mut Replica, records: &[Record]) {
    each(rule, replica, records, |state, before, change, row| {
        let came = Marks::parse(change.marks.as_deref().unwrap()).unwrap();
        let twice = before.is_some() && came.alive();
        edit(state, |marks| {
            for (column, counts) in marks.counts.iter_mut().filter(|_| twice) {
                for (key, (_, sum)) in counts.iter_mut() {
                    *sum += came.counts[column].get(key).map_or(0, |(_, sum)| *sum);
                }
            }
            if let (Some(sum), Some(row)) = (marks.count("stock"), row.as_mut()) {
                let mut columns: Columns = serde_json::from_str(row).unwrap();
                columns.insert("stock".into(), serde_json::value::to_raw_value(&sum).unwrap());
                *row = serde_json::to_string(&columns).unwrap();
            }
        });
    });
}

/// Forgets elements that the other side does not have.
fn union_forgets(rule: &ConflictRule, replica: &mut Replica, records: &[Record]) {
    for record in records {
        if let Change::Row(change) = &record.change
            && let Some((state, _)) = replica.rows.get_mut(&change.id)
        {
            let came = Marks::parse(change.marks.as_deref().unwrap()).unwrap();
            edit(state, |marks| {
                for (column, members) in &mut marks.sets {
                    let theirs = came.sets.get(column);
                    members.retain(|element, _| theirs.is_some_and(|theirs| theirs.contains_key(element)));
                }
            });
        }
        apply(rule, replica, std::slice::from_ref(record));
    }
}

/// Deletes, and does not remember when.
fn deletion_forgets(rule: &ConflictRule, replica: &mut Replica, records: &[Record]) {
    each(rule, replica, records, |state, _, _, _| edit(state, |marks| marks.dead = None));
}

/// Lets a deletion end what was inserted after it, or not end what was inserted before it.
fn lives_are_one(rule: &ConflictRule, replica: &mut Replica, records: &[Record]) {
    each(rule, replica, records, |state, _, _, _| {
        edit(state, |marks| {
            if let Some(row) = marks.at.get_mut(ROW) {
                row.0 = u64::MAX;
            }
        });
    });
}

/// Names what is merged by what came last.
fn last_names(rule: &ConflictRule, replica: &mut Replica, records: &[Record]) {
    each(rule, replica, records, |state, _, change, _| state.version = change.version.clone());
}

/// Keeps nothing.
fn no_ledger(rule: &ConflictRule, replica: &mut Replica, records: &[Record]) {
    apply(rule, replica, records);
    replica.ledger.clear();
}

/// What came first stays, unless it was known.
fn first_arrival(rule: &ConflictRule, replica: &mut Replica, records: &[Record]) {
    for record in records {
        let Change::Row(change) = &record.change else { continue };
        let past = Past::parse(change.marks.as_deref(), &change.version).unwrap();
        if replica.rows.get(&change.id).is_none_or(|(state, _)| past.holds(&state.version)) {
            replica.rows.remove(&change.id);
            apply(rule, replica, std::slice::from_ref(record));
        }
    }
}

/// The higher version wins, wherever it is from.
fn by_version(_: &ConflictRule, replica: &mut Replica, records: &[Record]) {
    apply(&ConflictRule::LastWriterWins, replica, records);
}

#[test]
fn rules_that_diverge_or_lose_are_found() {
    let columns = counting(Rest::Each);
    for (name, rule, take) in [
        ("a counter is added twice", &columns, counts_twice as Apply),
        ("a union forgets", &columns, union_forgets),
        ("a deletion is forgotten", &columns, deletion_forgets),
        ("lives are one", &columns, lives_are_one),
        ("the last to come gives its name", &columns, last_names),
        ("no ledger", &columns, no_ledger),
        ("no ledger of whole rows", &ConflictRule::FirstWins, no_ledger),
        ("first by arrival", &ConflictRule::FirstWins, first_arrival),
        ("the later of two stays", &ConflictRule::FirstWins, by_version),
        ("the home is as others", &ConflictRule::HomeWins, by_version),
    ] {
        // Some break so much that nobody can write any more.
        let walk = |seed| {
            std::panic::catch_unwind(|| walk(seed, rule, true, take)).unwrap_or_else(|_| Err(String::new()))
        };
        assert!(broken(150, walk) > 0, "{name} was not found");
    }
}
