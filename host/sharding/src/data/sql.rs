//! Statements of checked requests. Names are the catalogue's, in quotes; every value is a bound parameter; every statement
//! names the tenant. The text follows from the request's shape alone, so that databases prepare it once.
//!
//! On PostgreSQL every parameter is a text with a cast: a prepared statement keeps the types with which it was prepared.

use portolan_changelog::{Dialect, Value};
use portolan_core::ids::TenantName;

use super::catalogue::{Column, Table};
use super::filter::{Comparison, Is};
use super::kind::{Datum, Kind};
use super::plan::{Condition, Glyph, Page, Picked, Sort};

pub(crate) mod write;

/// A statement with its parameters.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Statement {
    pub(crate) sql: String,
    pub(crate) args: Vec<Value>,
    dialect: Dialect,
}

impl Statement {
    pub(super) fn new(dialect: Dialect, sql: &str) -> Self {
        Self { sql: sql.to_owned(), args: Vec::new(), dialect }
    }

    pub(super) fn push(&mut self, sql: &str) -> &mut Self {
        self.sql.push_str(sql);
        self
    }

    /// Items with a word between them.
    pub(super) fn list<T>(
        &mut self,
        items: impl IntoIterator<Item = T>,
        between: &str,
        mut each: impl FnMut(&mut Self, T),
    ) -> &mut Self {
        for (at, item) in items.into_iter().enumerate() {
            if at > 0 {
                self.push(between);
            }
            each(self, item);
        }
        self
    }

    /// A value of a column.
    pub(super) fn bind(&mut self, column: &Column, datum: &Datum) -> &mut Self {
        let value = value(self.dialect, &column.kind, datum);
        self.bind_as(&column.cast, value)
    }

    fn bind_as(&mut self, cast: &str, value: Value) -> &mut Self {
        self.args.push(value);
        let at = self.args.len();
        match self.dialect {
            Dialect::Postgres => self.push(&format!("CAST(${at} AS {cast})")),
            Dialect::Sqlite => self.push(&format!("${at}")),
        }
    }

    fn bind_number(&mut self, number: u64) -> &mut Self {
        let value = match self.dialect {
            Dialect::Postgres => Value::Text(number.to_string()),
            Dialect::Sqlite => number.into(),
        };
        self.bind_as("bigint", value)
    }

    /// The table's rows of this tenant that fulfil the condition.
    pub(super) fn of_tenant(
        &mut self,
        table: &Table,
        tenant: &TenantName,
        condition: &Condition<'_>,
    ) -> &mut Self {
        self.push(" WHERE ");
        match &table.tenant {
            Some(column) => {
                self.push(&column.own()).push(" = ");
                self.bind(column, &Datum::Text(tenant.as_str().to_owned()));
            }
            None => {
                self.push("1 = 1");
            }
        }
        if *condition != Condition::All(Vec::new()) {
            self.push(" AND ").condition(condition);
        }
        self
    }

    fn condition(&mut self, condition: &Condition<'_>) -> &mut Self {
        match condition {
            Condition::All(items) if items.is_empty() => self.push("1 = 1"),
            Condition::All(items) => self.group(items, " AND "),
            Condition::Any(items) => self.group(items, " OR "),
            Condition::Compare(column, comparison, datum) => {
                let operator = match comparison {
                    Comparison::Equal => " = ",
                    Comparison::Greater => " > ",
                    Comparison::GreaterOrEqual => " >= ",
                    Comparison::Less => " < ",
                    Comparison::LessOrEqual => " <= ",
                    Comparison::NotEqual => " <> ",
                };
                self.push(&column.own()).push(operator).bind(column, datum)
            }
            Condition::In(column, data) => self.one_of(column, data),
            Condition::Is(column, is) => {
                let is = match is {
                    Is::False => " IS FALSE",
                    Is::NotNull => " IS NOT NULL",
                    Is::Null => " IS NULL",
                    Is::True => " IS TRUE",
                };
                self.push(&column.own()).push(is)
            }
            Condition::Like { column, fold, pattern } => self.like(column, *fold, pattern),
            Condition::Not(inner) => self.push("NOT (").condition(inner).push(")"),
        }
    }

    fn group(&mut self, items: &[Condition<'_>], between: &str) -> &mut Self {
        self.push("(").list(items, between, |sql, item| {
            sql.condition(item);
        });
        self.push(")")
    }

    /// The last value fills up to a power of two, so that lists have few shapes.
    fn one_of(&mut self, column: &Column, data: &[Datum]) -> &mut Self {
        let Some(last) = data.last() else {
            // Nothing is one of nothing, and what is null is not even asked.
            return self.push("1 = 0");
        };
        let filled = data.iter().chain(std::iter::repeat(last)).take(data.len().next_power_of_two());
        self.push(&column.own()).push(" IN (").list(filled, ", ", |sql, datum| {
            sql.bind(column, datum);
        });
        self.push(")")
    }

    fn like(&mut self, column: &Column, fold: bool, pattern: &[Glyph]) -> &mut Self {
        // SQLite's LIKE knows no case of ASCII letters, its GLOB does.
        let glob = self.dialect == Dialect::Sqlite && !fold;
        let text: String =
            pattern.iter().map(|glyph| if glob { glyph.glob() } else { glyph.like() }).collect();
        let (operator, escape) = match (self.dialect, fold) {
            (Dialect::Postgres, true) => (" ILIKE ", " ESCAPE '\\'"),
            (Dialect::Postgres, false) => (" LIKE ", " ESCAPE '\\'"),
            (Dialect::Sqlite, true) => (" LIKE ", " ESCAPE '\\'"),
            (Dialect::Sqlite, false) => (" GLOB ", ""),
        };
        self.push(&column.own()).push(operator).bind_as("text", Value::Text(text)).push(escape)
    }

    /// What comes after a row.
    fn after(&mut self, order: &[Sort<'_>], row: &[Datum]) -> &mut Self {
        let same = |a: &Sort<'_>, b: &Sort<'_>| a.descending == b.descending;
        let plain = !order.is_empty() && order.iter().all(|sort| !sort.column.nullable);
        if plain && order.windows(2).all(|pair| matches!(pair, [a, b] if same(a, b))) {
            // Indexes serve this, and the form below only with luck.
            let descending = order.first().is_some_and(|sort| sort.descending);
            self.push("(").list(order, ", ", |sql, sort| {
                sql.push(&sort.column.own());
            });
            self.push(if descending { ") < (" } else { ") > (" }).list(
                order.iter().zip(row),
                ", ",
                |sql, (sort, datum)| {
                    sql.bind(sort.column, datum);
                },
            );
            return self.push(")");
        }
        self.after_nulls(order, row)
    }

    /// It is after by this column, or equal in it and after by those that follow.
    fn after_nulls(&mut self, order: &[Sort<'_>], row: &[Datum]) -> &mut Self {
        let (Some((sort, order)), Some((datum, row))) = (order.split_first(), row.split_first()) else {
            return self.push("1 = 0");
        };
        let own = sort.column.own();
        self.push("(");
        match datum {
            Datum::Null if sort.nulls_first => {
                self.push(&own).push(" IS NOT NULL");
            }
            Datum::Null => {
                self.push("1 = 0");
            }
            datum => {
                self.push(&own).push(if sort.descending { " < " } else { " > " }).bind(sort.column, datum);
                let nulls = sort.column.nullable && !sort.nulls_first;
                if nulls {
                    self.push(" OR ").push(&own).push(" IS NULL");
                }
            }
        }
        self.push(" OR (").push(&own);
        match datum {
            Datum::Null => self.push(" IS NULL"),
            datum => self.push(" = ").bind(sort.column, datum),
        };
        self.push(" AND ").after_nulls(order, row).push("))")
    }

    fn order(&mut self, order: &[Sort<'_>]) -> &mut Self {
        if order.is_empty() {
            return self;
        }
        self.push(" ORDER BY ").list(order, ", ", |sql, sort| {
            sql.push(&sort.column.own()).push(if sort.descending { " DESC" } else { " ASC" });
            if sort.column.nullable {
                sql.push(if sort.nulls_first { " NULLS FIRST" } else { " NULLS LAST" });
            }
        })
    }

    fn page(&mut self, page: &Page<'_>, tenant: &TenantName, rows: u64) -> &mut Self {
        self.push(&format!(" FROM {} own", page.table.quoted(self.dialect)));
        self.of_tenant(page.table, tenant, &page.condition);
        if let Some(row) = &page.after {
            self.push(" AND ").after(&page.order, row);
        }
        self.order(&page.order).push(" LIMIT ").bind_number(rows)
    }
}

/// The first rows of a page: what is picked, and then the order's columns.
pub(crate) fn rows(dialect: Dialect, page: &Page<'_>, tenant: &TenantName, rows: u64) -> Statement {
    let mut sql = Statement::new(dialect, "SELECT ");
    sql.list(answered(page), ", ", |sql, column| {
        sql.push(&shown(dialect, column, &column.own()));
    });
    sql.page(page, tenant, rows);
    sql
}

/// How large each of the first rows of a page is.
pub(crate) fn sizes(
    dialect: Dialect,
    page: &Page<'_>,
    tenant: &TenantName,
    rows: u64,
    lock: bool,
) -> Statement {
    let mut sql = Statement::new(dialect, "SELECT ");
    sql.list(answered(page), " + ", |sql, column| {
        let own = column.own();
        // Neither engine reads a text or bytes for this.
        let value = match (dialect, &column.kind) {
            (Dialect::Postgres, Kind::Bytes | Kind::Text) | (Dialect::Sqlite, _) => own,
            (Dialect::Postgres, _) => format!("CAST({own} AS text)"),
        };
        sql.push(&format!("coalesce(octet_length({value}), 0)"));
    });
    sql.page(page, tenant, rows);
    if lock && dialect == Dialect::Postgres {
        sql.push(" FOR UPDATE");
    }
    sql
}

/// How many rows there are.
pub(crate) fn count(dialect: Dialect, page: &Page<'_>, tenant: &TenantName) -> Statement {
    let mut sql = Statement::new(dialect, "SELECT count(*)");
    sql.push(&format!(" FROM {} own", page.table.quoted(dialect)));
    sql.of_tenant(page.table, tenant, &page.condition);
    sql
}

/// The columns that a page's statement answers.
pub(crate) fn answered<'a>(page: &'a Page<'_>) -> impl Iterator<Item = &'a Column> {
    let picked = page.select.iter().map(|Picked { column, .. }| *column);
    picked.chain(page.order.iter().map(|sort| sort.column))
}

/// A column as the driver reads it: on PostgreSQL, what it has no type for as a text of one form.
pub(super) fn shown(dialect: Dialect, column: &Column, own: &str) -> String {
    if dialect == Dialect::Sqlite {
        return own.to_owned();
    }
    let time = |at: &str, form: &str| {
        format!("CASE WHEN isfinite({own}) THEN to_char({at}, '{form}') ELSE CAST({own} AS text) END")
    };
    match column.kind {
        Kind::Boolean | Kind::Bytes | Kind::Float(_) | Kind::Integer(_) => own.to_owned(),
        Kind::Date => time(own, "YYYY-MM-DD"),
        Kind::Decimal | Kind::Json | Kind::Other | Kind::Text | Kind::Uuid => format!("CAST({own} AS text)"),
        Kind::Local => time(own, "YYYY-MM-DD\"T\"HH24:MI:SS.US"),
        Kind::Moment => time(&format!("{own} AT TIME ZONE 'UTC'"), "YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\""),
    }
}

/// A value as its engine takes it.
fn value(dialect: Dialect, kind: &Kind, datum: &Datum) -> Value {
    match (dialect, datum) {
        (_, Datum::Null) => Value::Null,
        (_, Datum::Text(text)) => Value::Text(text.clone()),
        (Dialect::Postgres, Datum::Boolean(value)) => Value::Text(value.to_string()),
        (Dialect::Postgres, Datum::Bytes(bytes)) => Value::Text(hex(bytes)),
        (Dialect::Postgres, Datum::Float(number)) if *kind == Kind::Float(32) => {
            #[expect(clippy::cast_possible_truncation, reason = "the column's values have no more bits")]
            let number = *number as f32;
            Value::Text(number.to_string())
        }
        (Dialect::Postgres, Datum::Float(number)) => Value::Text(number.to_string()),
        (Dialect::Postgres, Datum::Integer(number)) => Value::Text(number.to_string()),
        (Dialect::Sqlite, Datum::Boolean(value)) => Value::Int((*value).into()),
        (Dialect::Sqlite, Datum::Bytes(bytes)) => Value::Blob(bytes.clone()),
        (Dialect::Sqlite, Datum::Float(number)) => Value::Real(*number),
        (Dialect::Sqlite, Datum::Integer(number)) => Value::Int(*number),
    }
}

/// Bytes as PostgreSQL reads them.
fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    let digit = |half: u8| DIGITS.get(usize::from(half)).copied().unwrap_or('0');
    let mut text = String::with_capacity(2 + 2 * bytes.len());
    text.push_str("\\x");
    for byte in bytes {
        text.extend([digit(byte >> 4), digit(byte & 15)]);
    }
    text
}

impl Glyph {
    fn like(self) -> String {
        match self {
            Self::Any => "%".to_owned(),
            Self::One => "_".to_owned(),
            Self::Itself(c @ ('%' | '_' | '\\')) => format!("\\{c}"),
            Self::Itself(c) => c.to_string(),
        }
    }

    fn glob(self) -> String {
        match self {
            Self::Any => "*".to_owned(),
            Self::One => "?".to_owned(),
            Self::Itself(c @ ('*' | '?' | '[')) => format!("[{c}]"),
            Self::Itself(c) => c.to_string(),
        }
    }
}
