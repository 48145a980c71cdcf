//! What a local write makes of a row's marks: what the triggers of both engines do in SQL, said once more, so that walks over the pure
//! model rest on it and the triggers are held against it.

use std::collections::{BTreeMap, BTreeSet};

use portolan_core::log::Version;
use portolan_core::tenant_table::{ColumnRule, ConflictRule, Rest};

use super::super::history::History;
use super::super::marks::{Bound, Columns, Marks, Member, ROW, Stamp};

/// A write: the row before and after, its version and the one that it replaces.
#[derive(Clone, Copy)]
pub(crate) struct Write<'a> {
    pub(crate) home: Option<u64>,
    pub(crate) image: Option<&'a Columns>,
    pub(crate) old: Option<&'a str>,
    pub(crate) replaces: Option<&'a Version>,
    pub(crate) version: &'a Version,
    pub(crate) was: Option<&'a Columns>,
}

pub(crate) fn marks(rule: &ConflictRule, write: Write<'_>) -> Option<String> {
    match rule {
        ConflictRule::LastWriterWins | ConflictRule::Policy { .. } => None,
        ConflictRule::FirstWins | ConflictRule::HomeWins => {
            let before = match (write.old, write.replaces) {
                (old, Some(replaces)) => History::parse(old, replaces).unwrap(),
                _ => History::default(),
            };
            let next = before.next(rule, write.version, write.home);
            Some(serde_json::to_string(&next).unwrap())
        }
        ConflictRule::Columns { rest, .. } => Some(columns(rule, *rest, write).print().unwrap()),
    }
}

fn columns(rule: &ConflictRule, rest: Rest, write: Write<'_>) -> Marks {
    let (v, origin) = (write.version.v, write.version.origin.to_string());
    let before = match (write.old, write.replaces) {
        (Some(old), _) => Marks::parse(old).unwrap(),
        (None, Some(replaces)) if write.was.is_some() => Marks::of_unmarked(replaces, write.was, rule),
        _ => Marks::default(),
    };
    let mut seen = before.seen.clone();
    seen.insert(origin.clone(), v);
    let Some(image) = write.image else { return Marks { dead: Some(v), seen, ..Marks::default() } };
    let Some(was) = write.was else {
        let inserted = Marks {
            dead: before.dead,
            seen,
            at: BTreeMap::from([(ROW.to_owned(), Stamp(v, v, origin.clone()))]),
            ..Marks::default()
        };
        let mut marks = inserted.complete(image, rule);
        for counts in marks.counts.values_mut() {
            *counts =
                std::mem::take(counts).into_values().map(|count| (format!("{v}/{origin}"), count)).collect();
        }
        return marks;
    };
    let mut marks = Marks { seen, ..before.complete(was, rule) };
    let life = marks.at[ROW].0;
    let own: BTreeSet<&str> = rule.columns().map(|(column, _)| column.as_str()).collect();
    for (name, value) in image {
        if !own.contains(name.as_str()) && was.get(name).map(|was| was.get()) != Some(value.get()) {
            let mark = if rest == Rest::Each { name.as_str() } else { ROW };
            marks.at.insert(mark.to_owned(), Stamp(life, v, origin.clone()));
        }
    }
    for (column, rule) in rule.columns() {
        let name = column.to_string();
        let (old, new) = (was[&name].get(), image[&name].get());
        if old == new {
            continue;
        }
        match rule {
            ColumnRule::Counter => {
                let counts = marks.counts.get_mut(&name).unwrap();
                let sum = counts.get(&format!("{life}/{origin}")).map_or(0, |(_, sum)| *sum);
                let added = new.parse::<i64>().unwrap_or_default() - old.parse::<i64>().unwrap_or_default();
                counts.insert(format!("{life}/{origin}"), (v, sum + added));
            }
            ColumnRule::Max | ColumnRule::Min => {
                let side = if rule == ColumnRule::Max { &mut marks.max } else { &mut marks.min };
                let bound: Bound = serde_json::from_str(new).unwrap();
                side.get_mut(&name).unwrap().insert(life, bound);
            }
            ColumnRule::SetUnion => {
                let (old, new) = (elements(old), elements(new));
                let members = marks.sets.get_mut(&name).unwrap();
                for (element, there) in
                    new.difference(&old).map(|e| (e, 1)).chain(old.difference(&new).map(|e| (e, 0)))
                {
                    members.insert(element.clone(), Member(life, v, origin.clone(), there));
                }
            }
        }
    }
    marks
}

/// The elements of an array, or of a text with one.
pub(crate) fn elements(value: &str) -> BTreeSet<String> {
    let value: serde_json::Value = serde_json::from_str(value).unwrap();
    let array = match value {
        serde_json::Value::String(text) => serde_json::from_str(&text).unwrap(),
        other => other,
    };
    array.as_array().unwrap().iter().map(ToString::to_string).collect()
}
