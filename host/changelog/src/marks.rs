//! How triggers keep [`crate::model::marks`] and [`crate::model::history`] for local writes: what they are told of a table's rule, and for
//! SQLite, which has no functions of its own, the expressions.
//!
//! In SQLite the row of `portolan_row` already has its new version when the marks are made, and still the marks from before. Its
//! columns are named alone; `OLD` and `NEW` are the row of the table.

use portolan_core::tenant_table::{ColumnRule, ConflictRule, Rest};
use serde_json::json;

use crate::defaults::PATH_MAX;
use crate::table::Declared;

/// A table's rule as PostgreSQL's triggers are told it; empty when the higher version wins.
pub(crate) fn told(rule: &ConflictRule) -> String {
    let named = |wanted| {
        let named = rule.columns().filter(|(_, rule)| *rule == wanted);
        named.map(|(column, _)| column.as_str()).collect::<Vec<_>>()
    };
    match rule {
        ConflictRule::LastWriterWins | ConflictRule::Policy { .. } => String::new(),
        ConflictRule::FirstWins | ConflictRule::HomeWins => json!({ "rule": rule.word() }).to_string(),
        ConflictRule::Columns { rest, .. } => json!({
            "counter": named(ColumnRule::Counter),
            "max": named(ColumnRule::Max),
            "min": named(ColumnRule::Min),
            "own": rule.columns().map(|(column, _)| column.as_str()).collect::<Vec<_>>(),
            "rest": if *rest == Rest::Each { "each" } else { "together" },
            "set_union": named(ColumnRule::SetUnion),
        })
        .to_string(),
    }
}

/// What happens to a row, as SQLite's triggers see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Delete,
    Insert,
    Update,
}

/// The marks of a row after a write, as an expression of SQLite. `f` is the fence, as far as `home` needs it.
pub(crate) fn expression(table: &Declared, event: Event, now: &str) -> Option<String> {
    let stamp = "json_array(v, origin)";
    match &table.table.conflict {
        ConflictRule::LastWriterWins | ConflictRule::Policy { .. } => None,
        ConflictRule::HomeWins => Some(format!(
            "coalesce((SELECT json_object('home', json_array(f.epoch, v)) FROM portolan_fence f \
             WHERE f.epoch > 0 AND f.deadline_us > {now}), marks)"
        )),
        ConflictRule::FirstWins => Some(format!(
            "CASE WHEN marks IS NULL AND replaces_v IS NULL THEN json_object('round', 0, 'path', json_array({stamp})) \
             WHEN marks IS NULL THEN json_object('round', 0, 'path', json_array(json_array(replaces_v, replaces_origin), {stamp})) \
             WHEN json_array_length(marks, '$.path') >= {PATH_MAX} \
             THEN json_object('round', json_extract(marks, '$.round') + 1, 'path', json_array({stamp})) \
             ELSE json_object('round', json_extract(marks, '$.round'), \
             'path', json_insert(json(marks -> 'path'), '$[#]', {stamp})) END"
        )),
        ConflictRule::Columns { rest, .. } => Some(columns(table, *rest, event)),
    }
}

/// Before an update that took less or more than its rule allows, or a value that cannot be merged.
pub(crate) fn tests(table: &Declared, event: Event) -> String {
    let mut tests = String::new();
    for (column, rule) in table.table.conflict.columns() {
        let (old, new) = (format!("OLD.\"{column}\""), format!("NEW.\"{column}\""));
        let mut refuse = |what: &str, wrong: String| {
            tests += &format!(
                "SELECT RAISE(ABORT, 'portolan: the column {column} {what}: so says its conflict rule') WHERE {wrong}; "
            );
        };
        let falls = |one: &str, other: &str| {
            format!("{old} IS NOT NULL AND ({new} IS NULL OR {one} COLLATE BINARY > {other})")
        };
        let odd = format!("typeof({new}) NOT IN ('integer', 'text', 'null')");
        match rule {
            ColumnRule::Counter => {
                refuse("must hold a whole number", format!("typeof({new}) <> 'integer'"));
            }
            ColumnRule::Max | ColumnRule::Min => {
                refuse("must hold a whole number or a text", odd);
                if event == Event::Update {
                    let (what, wrong) = match rule {
                        ColumnRule::Max => ("only rises", falls(&old, &new)),
                        _ => ("only falls", falls(&new, &old)),
                    };
                    refuse(what, wrong);
                }
            }
            ColumnRule::SetUnion => {
                // What is no JSON at all is refused by the function itself.
                refuse("must hold an array of JSON", format!("json_type({new}) IS NOT 'array'"));
            }
        }
    }
    tests
}

/// The life that the row is in, and the write that made it, as the marks before say it.
const STAR: &str = "coalesce(marks -> '$.at.\"*\"', json_array(0, replaces_v, replaces_origin))";

fn columns(table: &Declared, rest: Rest, event: Event) -> String {
    let seen = "json_set(coalesce(json(marks -> 'seen'), CASE WHEN replaces_v IS NULL THEN json('{}') \
        ELSE json_object(replaces_origin, replaces_v) END), '$.\"' || origin || '\"', v)";
    if event == Event::Delete {
        return format!("json_object('dead', v, 'seen', {seen})");
    }
    let life = if event == Event::Insert { "v".to_owned() } else { format!("json_extract({STAR}, '$[0]')") };
    let stamp = format!("json_array({life}, v, origin)");
    let at =
        if event == Event::Insert { format!("json_object('*', {stamp})") } else { at(table, rest, &stamp) };
    let each = |wanted, make: &dyn Fn(&str) -> String| {
        let named = table.table.conflict.columns().filter(|(_, rule)| *rule == wanted);
        let made = named.map(|(column, _)| format!("'{column}', json({})", make(column.as_str())));
        format!("json_object({})", made.collect::<Vec<_>>().join(", "))
    };
    let max = each(ColumnRule::Max, &|column| bounds(column, "max", event, &life));
    let min = each(ColumnRule::Min, &|column| bounds(column, "min", event, &life));
    let counters = each(ColumnRule::Counter, &|column| count(column, event));
    let sets = each(ColumnRule::SetUnion, &|column| set(column, event));
    format!(
        "json_object('dead', json_extract(marks, '$.dead'), 'seen', {seen}, 'at', {at}, 'counts', {counters}, \
         'sets', {sets}, 'max', {max}, 'min', {min})"
    )
}

/// The marks of columns without a rule of their own.
fn at(table: &Declared, rest: Rest, stamp: &str) -> String {
    let own = |name: &&String| table.table.conflict.columns().any(|(column, _)| column.as_str() == **name);
    let others = || table.columns.iter().filter(move |name| !own(name));
    let before = format!("json_patch(coalesce(marks -> 'at', '{{}}'), json_object('*', json({STAR})))");
    if rest == Rest::Together {
        let changed: Vec<String> = others().map(|name| changed(name)).collect();
        let changed = if changed.is_empty() { "false".to_owned() } else { changed.join(" OR ") };
        return format!(
            "json_set({before}, '$.\"*\"', json(CASE WHEN {changed} THEN {stamp} ELSE {STAR} END))"
        );
    }
    let each = |name: &String| {
        format!(
            "'{name}', json(CASE WHEN {} THEN {stamp} ELSE marks -> '$.at.\"{name}\"' END)",
            changed(name)
        )
    };
    let each: Vec<String> = others().map(each).collect();
    format!("json(json_patch({before}, json_object({})))", each.join(", "))
}

/// Is a column another than before?
pub(crate) fn changed(column: &str) -> String {
    format!(
        "OLD.\"{column}\" COLLATE BINARY IS NOT NEW.\"{column}\" OR typeof(OLD.\"{column}\") IS NOT typeof(NEW.\"{column}\")"
    )
}

/// What each region has added.
fn count(column: &str, event: Event) -> String {
    if event == Event::Insert {
        return format!("json_object(v || '/' || origin, json_array(v, NEW.\"{column}\"))");
    }
    let life = format!("json_extract({STAR}, '$[0]')");
    let before = format!(
        "coalesce(marks -> '$.counts.\"{column}\"', json_object({life} || '/', \
         json_array(json_extract({STAR}, '$[1]'), OLD.\"{column}\")))"
    );
    let own = format!("'$.\"' || {life} || '/' || origin || '\"'");
    let sum =
        format!("coalesce(json_extract({before}, {own} || '[1]'), 0) + NEW.\"{column}\" - OLD.\"{column}\"");
    format!(
        "CASE WHEN NEW.\"{column}\" <> OLD.\"{column}\" THEN json_set({before}, {own}, json_array(v, {sum})) \
         ELSE {before} END"
    )
}

/// The elements that were ever there. Those that came or went have this write.
fn set(column: &str, event: Event) -> String {
    let elements = |row: &str| {
        format!("SELECT DISTINCT {row}.\"{column}\" -> e.key AS k FROM json_each({row}.\"{column}\") e")
    };
    if event == Event::Insert {
        return format!(
            "(SELECT json_group_object(k, json_array(v, v, origin, 1)) FROM ({}))",
            elements("NEW")
        );
    }
    let (old, new) = (elements("OLD"), elements("NEW"));
    let part = |at: u8| format!("json_extract({STAR}, '$[{at}]')");
    let before = format!(
        "coalesce(marks -> '$.sets.\"{column}\"', \
         (SELECT json_group_object(k, json_array({}, {}, {}, 1)) FROM ({old})))",
        part(0),
        part(1),
        part(2),
    );
    let stamp = |there: u8| format!("json_array({}, v, origin, {there})", part(0));
    format!(
        "(SELECT json_group_object(k, json(m)) FROM ( \
         SELECT b.key AS k, b.value AS m FROM json_each({before}) b \
         WHERE (b.key IN ({old})) = (b.key IN ({new})) \
         UNION ALL SELECT k, {} FROM ({new}) WHERE k NOT IN ({old}) \
         UNION ALL SELECT k, {} FROM ({old}) WHERE k NOT IN ({new})))",
        stamp(1),
        stamp(0),
    )
}

/// The greatest or least in each life.
fn bounds(column: &str, of: &str, event: Event, life: &str) -> String {
    let life = format!("CAST({life} AS TEXT)");
    let one = |row: &str| {
        format!(
            "CASE WHEN {row}.\"{column}\" IS NULL THEN json('{{}}') ELSE json_object({life}, {row}.\"{column}\") END"
        )
    };
    if event == Event::Insert {
        return one("NEW");
    }
    let before = format!("coalesce(marks -> '$.{of}.\"{column}\"', {})", one("OLD"));
    format!("json_patch({before}, {})", one("NEW"))
}
