//! What a local write makes of a row's marks: what the triggers of both engines do in SQL, said once more, so that walks and simulations
//! over the pure model rest on it and the triggers are held against it. No database asks here.

use std::collections::{BTreeMap, BTreeSet};

use portolan_core::log::Version;
use portolan_core::tenant_table::{ColumnRule, ConflictRule, Rest};

use super::history::History;
use super::marks::{Bound, Columns, Marks, Member, ROW, Stamp, elements};

/// A write: the row before and after, its version and the one that it replaces.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// The epoch under whose lease it is made, if it is.
    pub home: Option<u64>,
    /// The row; none when it is deleted.
    pub image: Option<&'a Columns>,
    /// The marks before.
    pub old: Option<&'a str>,
    /// The version that it replaces, of a row or of a tombstone.
    pub replaces: Option<&'a Version>,
    /// Its version.
    pub version: &'a Version,
    /// The row before; none when there was none.
    pub was: Option<&'a Columns>,
}

/// The marks after a write.
///
/// # Errors
/// When the marks before, or a value, are not what they must be.
pub fn marks(rule: &ConflictRule, write: Write<'_>) -> Result<Option<String>, serde_json::Error> {
    match rule {
        ConflictRule::LastWriterWins | ConflictRule::Policy { .. } => Ok(None),
        ConflictRule::FirstWins | ConflictRule::HomeWins => {
            let before = match (write.old, write.replaces) {
                (old, Some(replaces)) => History::parse(old, replaces)?,
                _ => History::default(),
            };
            serde_json::to_string(&before.next(rule, write.version, write.home)).map(Some)
        }
        ConflictRule::Columns { rest, .. } => columns(rule, *rest, write)?.print().map(Some),
    }
}

fn columns(rule: &ConflictRule, rest: Rest, write: Write<'_>) -> Result<Marks, serde_json::Error> {
    let (v, origin) = (write.version.v, write.version.origin.to_string());
    let before = match (write.old, write.replaces) {
        (Some(old), _) => Marks::parse(old)?,
        (None, Some(replaces)) if write.was.is_some() => Marks::of_unmarked(replaces, write.was, rule),
        _ => Marks::default(),
    };
    let mut seen = before.seen.clone();
    seen.insert(origin.clone(), v);
    let Some(image) = write.image else { return Ok(Marks { dead: Some(v), seen, ..Marks::default() }) };
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
        return Ok(marks);
    };
    let mut marks = Marks { seen, ..before.complete(was, rule) };
    let life = marks.at.get(ROW).map_or(0, |row| row.0);
    let own: BTreeSet<&str> = rule.columns().map(|(column, _)| column.as_str()).collect();
    for (name, value) in image {
        if !own.contains(name.as_str()) && was.get(name).map(|was| was.get()) != Some(value.get()) {
            let mark = if rest == Rest::Each { name.as_str() } else { ROW };
            marks.at.insert(mark.to_owned(), Stamp(life, v, origin.clone()));
        }
    }
    for (column, rule) in rule.columns() {
        let name = column.to_string();
        let (old, new) = (text(was, &name), text(image, &name));
        if old == new {
            continue;
        }
        match rule {
            ColumnRule::Counter => {
                let counts = marks.counts.entry(name).or_default();
                let count = counts.entry(format!("{life}/{origin}")).or_default();
                let added = new.parse::<i64>().unwrap_or_default() - old.parse::<i64>().unwrap_or_default();
                *count = (v, count.1 + added);
            }
            ColumnRule::Max | ColumnRule::Min => {
                let side = if rule == ColumnRule::Max { &mut marks.max } else { &mut marks.min };
                let bound: Bound = serde_json::from_str(new)?;
                side.entry(name).or_default().insert(life, bound);
            }
            ColumnRule::SetUnion => {
                let (old, new): (BTreeSet<String>, BTreeSet<String>) =
                    (elements(old).into_iter().collect(), elements(new).into_iter().collect());
                let members = marks.sets.entry(name).or_default();
                for (element, there) in
                    new.difference(&old).map(|e| (e, 1)).chain(old.difference(&new).map(|e| (e, 0)))
                {
                    members.insert(element.clone(), Member(life, v, origin.clone(), there));
                }
            }
        }
    }
    Ok(marks)
}

/// A column's value, as it is written.
fn text<'a>(row: &'a Columns, name: &str) -> &'a str {
    row.get(name).map_or("null", |value| value.get())
}
