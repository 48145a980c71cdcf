//! A list of operations in one transaction: `POST /` with
//! `[{"do": "update", "table": "notes", "key": 7, "values": {"body": "x"}, "if_match": "\"...\""}, ...]`.
//!
//! `do` is `get`, `insert`, `upsert`, `put`, `update` or `delete`. `key` is a value, or a list of them for a key of several
//! columns. `query` is a query string as it stands behind a `?`. `return` is `representation` or `minimal`.

use portolan_changelog::Dialect;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::body;
use super::catalogue::Table;
use super::etag::{self, Wanted};
use super::kind::Datum;
use super::operation::{Maker, Manner};
use super::plan;
use super::problem::{Code, Problem};
use super::query::Query;
use super::run::{Conflict, Done, Operation};
use crate::defaults::OPERATIONS_MAX;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Item<'a> {
    #[serde(rename = "do")]
    action: Verb,
    table: String,
    #[serde(borrow)]
    key: Option<&'a RawValue>,
    #[serde(default)]
    query: String,
    #[serde(borrow)]
    values: Option<&'a RawValue>,
    if_match: Option<String>,
    if_none_match: Option<String>,
    #[serde(rename = "return", default)]
    returning: Returning,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Verb {
    Delete,
    Get,
    Insert,
    Put,
    Update,
    Upsert,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Returning {
    #[default]
    Minimal,
    Representation,
}

/// The operations of a content.
pub(crate) fn operations<'a>(maker: &Maker<'a>, content: &[u8]) -> Result<Vec<Operation<'a>>, Problem> {
    let items: Vec<Item<'_>> = body::json(content)?;
    if items.len() > OPERATIONS_MAX {
        let detail = format!("a transaction has at most {OPERATIONS_MAX} operations; send several");
        return Err(Problem::new(Code::TooMany, detail));
    }
    let one = |(at, item)| operation(maker, item).map_err(|problem| place(problem, at));
    items.iter().enumerate().map(one).collect()
}

/// The same problem, of one of a list of operations.
pub(crate) fn place(problem: Problem, at: usize) -> Problem {
    problem.under(&format!("/{at}")).of_operation(at)
}

fn operation<'a>(maker: &Maker<'a>, item: &Item<'_>) -> Result<Operation<'a>, Problem> {
    let table = maker.catalogue.table(&item.table)?;
    let query = Query::parse(&item.query)?;
    let key = item.key.map(|key| self::key(table, maker.dialect(), key)).transpose()?;
    let manner = || -> Result<Manner, Problem> {
        let returning = item.returning == Returning::Representation;
        Ok(Manner { wanted: item.wanted()?, returning, pointer: "/values" })
    };
    let values = || {
        let values = item.values.ok_or_else(|| Problem::new(Code::BadContent, "`values` are missing"))?;
        Ok(values.get().as_bytes())
    };
    let within =
        |problem: Problem| if problem.errors.is_empty() { problem } else { problem.under("/values") };
    item.fits()?;
    match item.action {
        Verb::Delete => maker.delete(table, key, &query, manner()?),
        Verb::Get => maker.get(table, key, &query),
        Verb::Insert => maker
            .insert(table, &query, values()?, Conflict::Fail, manner()?)
            .map(|done| done.0)
            .map_err(within),
        Verb::Put => {
            let key = key.ok_or_else(|| Problem::new(Code::BadContent, "`put` wants a `key`"))?;
            maker.put(table, key, &query, values()?, manner()?).map_err(within)
        }
        Verb::Update => maker.update(table, key, &query, values()?, manner()?).map_err(within),
        Verb::Upsert => maker
            .insert(table, &query, values()?, Conflict::Merge, manner()?)
            .map(|done| done.0)
            .map_err(within),
    }
}

impl Item<'_> {
    fn wanted(&self) -> Result<Wanted, Problem> {
        let bad = || {
            Problem::new(
                Code::BadRequest,
                "`if_match` is `*` or tags in double quotes, `if_none_match` is `*`",
            )
        };
        match (&self.if_match, self.if_none_match.as_deref()) {
            (None, None) => Ok(Wanted::Anything),
            (None, Some("*")) => Ok(Wanted::Absent),
            (Some(tags), None) => etag::parse(tags).map(etag::of).ok_or_else(bad),
            _ => Err(bad()),
        }
    }

    /// What an operation has no use for is a mistake.
    fn fits(&self) -> Result<(), Problem> {
        let of_values = !matches!(self.action, Verb::Delete | Verb::Get);
        let conditional = self.if_match.is_some() || self.if_none_match.is_some();
        let odd = if self.values.is_some() && !of_values {
            "values"
        } else if self.key.is_some() && matches!(self.action, Verb::Insert | Verb::Upsert) {
            "key"
        } else if conditional && self.action == Verb::Get {
            "if_match"
        } else {
            return Ok(());
        };
        Err(Problem::new(Code::BadContent, format!("this operation has no use for `{odd}`")))
    }
}

/// A key as JSON: one value, or a list.
fn key(table: &Table, dialect: Dialect, json: &RawValue) -> Result<Vec<Datum>, Problem> {
    let list: Vec<&RawValue> =
        if json.get().starts_with('[') { body::json(json.get().as_bytes())? } else { vec![json] };
    if list.len() != table.key.len() {
        return Err(plan::key_shape(table));
    }
    let value = |(column, json): (_, &&RawValue)| {
        let column: &super::catalogue::Column = column;
        let datum = column.kind.of_json(dialect, json).ok().filter(|datum| *datum != Datum::Null);
        let expected = super::kind::Expected(column.kind.expected().into());
        datum.ok_or_else(|| plan::wrong_type(table, column, &expected, "/key".to_owned()))
    };
    table.key().zip(&list).map(value).collect()
}

/// What was done, in the order of the operations.
pub(crate) fn results(done: &[Done<'_>], operations: &[Operation<'_>]) -> Vec<u8> {
    let mut out = b"[".to_vec();
    for (at, (done, operation)) in done.iter().zip(operations).enumerate() {
        if at > 0 {
            out.push(b',');
        }
        let status = if done.created { 201 } else { 200 };
        out.extend(format!("{{\"status\":{status},\"count\":{}", done.count).bytes());
        for (name, text) in [("etag", &done.etag), ("location", &done.location)] {
            if let Some(text) = text {
                let text = serde_json::to_string(text).unwrap_or_default();
                out.extend(format!(",\"{name}\":{text}").bytes());
            }
        }
        if operation.answers() {
            out.extend(b",\"rows\":");
            done.rows.array(&mut out);
        }
        out.push(b'}');
    }
    out.push(b']');
    out
}
