//! Merging two states of a row whose columns are merged, and what is lost by it.
//!
//! The row is what its marks say. What one of both sides has is taken as it stands there; a row that neither side has is put together
//! from both, and has the higher of both versions, so that every region names it alike and nobody has to tell of it.

use portolan_core::log::Version;
use portolan_core::tenant_table::ConflictRule;
use serde_json::value::{RawValue, to_raw_value};

use super::kind::ConflictKind;
use super::marks::{Columns, Marks, ROW};

/// A state of a row.
#[derive(Clone, Debug)]
pub struct Side {
    /// Its columns; none when it is deleted.
    pub columns: Option<Columns>,
    /// Its marks.
    pub marks: Marks,
    /// The row as it was written.
    pub row: Option<String>,
}

/// What becomes of two states.
#[derive(Clone, Debug)]
pub struct Merged {
    /// Of what came, the kind of conflict in which something of it was lost.
    pub came_loses: Option<ConflictKind>,
    /// Has anything come that was not there?
    pub changes: bool,
    /// The marks.
    pub marks: Marks,
    /// The row; none when it is deleted.
    pub row: Option<String>,
    /// Of what was there, the kind of conflict in which something of it was lost.
    pub there_loses: Option<ConflictKind>,
}

impl Side {
    /// Reads a state: its row, its marks if it has any, its version, the table's rule.
    ///
    /// # Errors
    /// When row or marks are not what they must be.
    pub fn read(
        row: Option<String>,
        marks: Option<&str>,
        version: &Version,
        rule: &ConflictRule,
    ) -> Result<Self, serde_json::Error> {
        let columns: Option<Columns> = row.as_deref().map(serde_json::from_str).transpose()?;
        let marks = match (marks.map(Marks::parse).transpose()?, &columns) {
            (Some(marks), Some(columns)) if marks.alive() => marks.complete(columns, rule),
            // A row that was there when its table got another rule, or a deletion before that.
            (Some(marks), None) if !marks.alive() => marks,
            _ => Marks::of_unmarked(version, columns.as_ref(), rule),
        };
        Ok(Self { columns, marks, row })
    }
}

/// Merges what came into what was there.
///
/// # Errors
/// When a row cannot be put together.
pub fn merge(there: &Side, came: &Side) -> Result<Merged, serde_json::Error> {
    let marks = there.marks.join(&came.marks);
    let row = if marks == there.marks {
        there.row.clone()
    } else if marks == came.marks {
        came.row.clone()
    } else {
        compose(&marks, there, came)?
    };
    let result: Option<Columns> = row.as_deref().map(serde_json::from_str).transpose()?;
    let inserts = there.marks.at.get(ROW).map(|stamp| stamp.0) != came.marks.at.get(ROW).map(|stamp| stamp.0);
    let kind = |loss, deletes| match loss {
        Loss::Buried if marks.alive() => ConflictKind::UpdateMissing,
        Loss::Buried => deletes,
        Loss::Overwritten if inserts => ConflictKind::InsertExists,
        Loss::Overwritten => ConflictKind::UpdateOriginChange,
    };
    let came_loses = loss(&marks, result.as_ref(), came, there);
    let there_loses = loss(&marks, result.as_ref(), there, came);
    Ok(Merged {
        came_loses: came_loses.map(|loss| kind(loss, ConflictKind::UpdateRecentlyDeleted)),
        changes: marks != there.marks,
        there_loses: there_loses.map(|loss| kind(loss, ConflictKind::DeleteRecentlyUpdated)),
        marks,
        row,
    })
}

/// Puts a row together that neither side has.
fn compose(marks: &Marks, one: &Side, other: &Side) -> Result<Option<String>, serde_json::Error> {
    if !marks.alive() {
        return Ok(None);
    }
    let mut row = Columns::new();
    let sides = [one, other];
    let names = sides.iter().filter_map(|side| side.columns.as_ref()).flat_map(Columns::keys);
    for name in names {
        if !row.contains_key(name)
            && let Some(value) = value(marks, sides, name)?
        {
            row.insert(name.clone(), value);
        }
    }
    serde_json::to_string(&row).map(Some)
}

fn value(marks: &Marks, sides: [&Side; 2], name: &str) -> Result<Option<Box<RawValue>>, serde_json::Error> {
    let texts = || sides.iter().filter_map(|side| side.columns.as_ref()?.get(name));
    if let Some(count) = marks.count(name) {
        return RawValue::from_string(count.to_string()).map(Some);
    }
    if let Some(elements) = marks.elements(name) {
        let array = format!("[{}]", elements.join(","));
        // SQLite has arrays as text.
        let quoted = texts().any(|text| text.get().starts_with('"'));
        return if quoted { to_raw_value(&array) } else { RawValue::from_string(array) }.map(Some);
    }
    if let Some(bound) = marks.bound(name) {
        return to_raw_value(&bound).map(Some);
    }
    let wanted = marks.stamp(name);
    let writer = sides.iter().find(|side| side.marks.stamp(name) == wanted);
    let written = writer.and_then(|side| side.columns.as_ref()?.get(name));
    Ok(written.or_else(|| texts().next()).cloned())
}

/// How something of a state is lost.
#[derive(Clone, Copy)]
enum Loss {
    /// Its life was over when it was written.
    Buried,
    /// Another write of the same column stays.
    Overwritten,
}

/// What of a state does not stay, though the other did not know it.
fn loss(marks: &Marks, result: Option<&Columns>, loser: &Side, other: &Side) -> Option<Loss> {
    let columns = loser.columns.as_ref()?;
    let dead = |life: u64| Some(life) <= marks.dead;
    let news = || loser.marks.seen.iter().any(|(origin, v)| !other.marks.has_seen(origin, *v));
    let row = loser.marks.at.get(ROW);
    let mut writes = loser.marks.writes();
    if row.is_some_and(|row| dead(row.0)) && news()
        || writes.any(|(life, v, origin)| dead(life) && !other.marks.has_seen(origin, v))
    {
        return Some(Loss::Buried);
    }
    let overwritten = |name: &String| {
        let merged = marks.counts.contains_key(name)
            || marks.sets.contains_key(name)
            || marks.max.contains_key(name)
            || marks.min.contains_key(name);
        let own = loser.marks.stamp(name);
        let unseen = own.is_some_and(|stamp| !other.marks.has_seen(&stamp.2, stamp.1));
        let stays = |text: &RawValue| columns.get(name).is_some_and(|own| own.get() == text.get());
        !merged
            && unseen
            && own < marks.stamp(name)
            && !result.and_then(|row| row.get(name)).is_some_and(|text| stays(text))
    };
    columns.keys().any(overwritten).then_some(Loss::Overwritten)
}
