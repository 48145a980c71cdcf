//! Checked requests: names are columns, values have their types, orders are total. Pure; SQL is made of this and of nothing
//! else that came from outside.

use portolan_changelog::Dialect;

use super::catalogue::{Column, Table};
use super::filter::{Comparison, Filter, Is, Test};
use super::kind::{Datum, Expected, Kind};
use super::problem::{Code, Fault, Problem};
use super::query::{Order, Query, Wanted};
use crate::defaults::{PAGE_ROWS, PATTERN_BYTES_MAX, WILDCARDS_MAX};

/// Which rows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Condition<'a> {
    All(Vec<Self>),
    Any(Vec<Self>),
    Compare(&'a Column, Comparison, Datum),
    In(&'a Column, Vec<Datum>),
    Is(&'a Column, Is),
    Like { column: &'a Column, fold: bool, pattern: Vec<Glyph> },
    Not(Box<Self>),
}

/// A part of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Glyph {
    Any,
    Itself(char),
    One,
}

/// A page of rows.
#[derive(Clone, Debug)]
pub(crate) struct Page<'a> {
    pub(crate) table: &'a Table,
    pub(crate) condition: Condition<'a>,
    pub(crate) order: Vec<Sort<'a>>,
    pub(crate) limit: u64,
    pub(crate) select: Vec<Picked<'a>>,
    /// The order's columns of the last row before the page.
    pub(crate) after: Option<Vec<Datum>>,
}

/// A column by which is ordered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sort<'a> {
    pub(crate) column: &'a Column,
    pub(crate) descending: bool,
    pub(crate) nulls_first: bool,
}

/// A column that is answered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Picked<'a> {
    pub(crate) column: &'a Column,
    pub(crate) text: bool,
}

impl<'a> Page<'a> {
    /// What a query asks of a table, from its first page on.
    pub(crate) fn new(table: &'a Table, dialect: Dialect, query: &Query) -> Result<Self, Problem> {
        Ok(Self {
            table,
            condition: Condition::of(table, dialect, &query.filters)?,
            order: order(table, &query.order)?,
            limit: query.limit.unwrap_or(PAGE_ROWS),
            select: select(table, query.select.as_deref())?,
            after: None,
        })
    }

    /// The row of this key.
    pub(crate) fn of_key(table: &'a Table, key: Vec<Datum>) -> Self {
        let (order, select) = (key_order(table).collect(), all(table));
        Self { table, condition: Condition::of_key(table, key), order, limit: 1, select, after: None }
    }
}

/// The columns that a query selects, or all.
pub(crate) fn select<'a>(table: &'a Table, wanted: Option<&[Wanted]>) -> Result<Vec<Picked<'a>>, Problem> {
    let Some(wanted) = wanted else { return Ok(all(table)) };
    wanted
        .iter()
        .map(|wanted| Ok(Picked { column: table.column(&wanted.column)?, text: wanted.text }))
        .collect()
}

fn all(table: &Table) -> Vec<Picked<'_>> {
    table.columns.iter().map(|column| Picked { column, text: false }).collect()
}

/// An order that tells every two rows apart: the key follows what was asked for.
fn order<'a>(table: &'a Table, wanted: &[Order]) -> Result<Vec<Sort<'a>>, Problem> {
    let mut order: Vec<Sort<'a>> = Vec::new();
    for Order { column, descending, nulls_first } in wanted {
        let (column, descending) = (table.column(column)?, *descending);
        if !column.kind.ordered() {
            let detail = format!(
                "`{}` of `{}` is JSON, which has no order; order by another column",
                column.name, table.name
            );
            return Err(Problem::new(Code::BadRequest, detail));
        }
        let sort = Sort { column, descending, nulls_first: nulls_first.unwrap_or(descending) };
        if !order.iter().any(|before| before.column.name == column.name) {
            order.push(sort);
        }
    }
    let rest: Vec<Sort<'a>> = key_order(table)
        .filter(|key| !order.iter().any(|sort| sort.column.name == key.column.name))
        .collect();
    order.extend(rest);
    Ok(order)
}

fn key_order(table: &Table) -> impl Iterator<Item = Sort<'_>> {
    table.key().map(|column| Sort { column, descending: false, nulls_first: false })
}

impl<'a> Condition<'a> {
    /// All of these filters.
    pub(crate) fn of(table: &'a Table, dialect: Dialect, filters: &[Filter]) -> Result<Self, Problem> {
        let items = filters.iter().map(|filter| Self::one(table, dialect, filter));
        items.collect::<Result<_, _>>().map(Self::All)
    }

    /// The row of this key.
    pub(crate) fn of_key(table: &'a Table, key: Vec<Datum>) -> Self {
        Self::All(
            table
                .key()
                .zip(key)
                .map(|(column, value)| Self::Compare(column, Comparison::Equal, value))
                .collect(),
        )
    }

    fn one(table: &'a Table, dialect: Dialect, filter: &Filter) -> Result<Self, Problem> {
        let items = |items: &[Filter]| {
            items.iter().map(|item| Self::one(table, dialect, item)).collect::<Result<Vec<_>, _>>()
        };
        match filter {
            Filter::All(filters) => items(filters).map(Self::All),
            Filter::Any(filters) => items(filters).map(Self::Any),
            Filter::Not(filter) => Ok(Self::Not(Box::new(Self::one(table, dialect, filter)?))),
            Filter::Test { column, test } => Self::test(table, dialect, table.column(column)?, test),
        }
    }

    fn test(table: &Table, dialect: Dialect, column: &'a Column, test: &Test) -> Result<Self, Problem> {
        let value = |text: &str| {
            column
                .kind
                .of_text(dialect, text)
                .map_err(|expected| wrong_type(table, column, &expected, String::new()))
        };
        let refuse = |what: &str| {
            let detail = format!(
                "`{}` of `{}` cannot be asked with `{what}`: it is {}",
                column.name,
                table.name,
                column.kind.expected()
            );
            Err(Problem::new(Code::BadFilter, detail))
        };
        match test {
            Test::Compare(..) | Test::In(_) if !column.kind.ordered() => refuse("eq, lt, in and the like"),
            Test::Compare(comparison, text) => Ok(Self::Compare(column, *comparison, value(text)?)),
            Test::In(texts) => {
                Ok(Self::In(column, texts.iter().map(|text| value(text)).collect::<Result<_, _>>()?))
            }
            Test::Is(Is::False | Is::True) if column.kind != Kind::Boolean => refuse("is.true or is.false"),
            Test::Is(is) => Ok(Self::Is(column, *is)),
            Test::Like { .. } if column.kind != Kind::Text => refuse("like or ilike"),
            Test::Like { fold, pattern } => {
                let pattern = glyphs(pattern).map_err(|why| Problem::new(Code::BadFilter, why))?;
                Ok(Self::Like { column, fold: *fold, pattern })
            }
        }
    }
}

/// A value is not of its column's type.
pub(crate) fn wrong_type(table: &Table, column: &Column, expected: &Expected, pointer: String) -> Problem {
    let detail = format!("`{}` of `{}` wants {}", column.name, table.name, expected.0);
    let fault = Fault {
        detail: detail.clone(),
        pointer: (!pointer.is_empty()).then_some(pointer),
        table: Some(table.name.clone()),
        column: Some(column.name.clone()),
        expected: Some(expected.0.to_string()),
    };
    Problem::new(Code::WrongType, detail).with(fault)
}

fn glyphs(pattern: &str) -> Result<Vec<Glyph>, String> {
    if pattern.len() > PATTERN_BYTES_MAX || pattern.contains('\0') {
        return Err(format!("a pattern has at most {PATTERN_BYTES_MAX} bytes and no \\u0000"));
    }
    let mut glyphs = Vec::new();
    let mut rest = pattern.chars();
    while let Some(next) = rest.next() {
        let glyph = match next {
            '*' | '%' => Glyph::Any,
            '_' => Glyph::One,
            '\\' => {
                Glyph::Itself(rest.next().ok_or("a pattern does not end with `\\`; write `\\\\` for it")?)
            }
            other => Glyph::Itself(other),
        };
        // Two of them are one.
        if !(glyph == Glyph::Any && glyphs.last() == Some(&Glyph::Any)) {
            glyphs.push(glyph);
        }
    }
    if glyphs.iter().filter(|glyph| **glyph == Glyph::Any).count() > WILDCARDS_MAX {
        return Err(format!("a pattern has at most {WILDCARDS_MAX} times `*` or `%`"));
    }
    Ok(glyphs)
}

/// A key as a path writes it: its values with `,` between them, percent-encoded each.
pub(crate) fn key_of_path(table: &Table, dialect: Dialect, path: &str) -> Result<Vec<Datum>, Problem> {
    let texts: Option<Vec<String>> =
        path.split(',').map(|part| super::percent::decode(part, false)).collect();
    let texts =
        texts.ok_or_else(|| Problem::new(Code::BadRequest, "the path is no percent-encoded UTF-8"))?;
    if texts.len() != table.key.len() {
        return Err(key_shape(table));
    }
    let value = |(column, text): (&Column, &String)| {
        column
            .kind
            .of_text(dialect, text)
            .map_err(|expected| wrong_type(table, column, &expected, String::new()))
    };
    table.key().zip(&texts).map(value).collect()
}

/// A key has other columns.
pub(crate) fn key_shape(table: &Table) -> Problem {
    let columns: Vec<&str> = table.key().map(|column| column.name.as_str()).collect();
    let detail = if columns.is_empty() {
        format!("`{}` has one row of each tenant, and no key; ask it without one", table.name)
    } else {
        format!(
            "a key of `{}` is {}, with `,` between them and each percent-encoded",
            table.name,
            columns.join(",")
        )
    };
    Problem::new(Code::BadRequest, detail)
}
