//! A request's query string as it is written: filters, `select`, `order`, `limit`, `after`, `all`. Text to plain data; what
//! the names mean is the plan's.

use super::filter::{self, Filter, short};
use super::percent;
use super::problem::{Code, Problem};
use crate::defaults::{CONDITIONS_MAX, CURSOR_BYTES_MAX, PAGE_ROWS_MAX, QUERY_BYTES_MAX, SELECT_COLUMNS_MAX};

/// A query string.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Query {
    pub(crate) filters: Vec<Filter>,
    pub(crate) select: Option<Vec<Wanted>>,
    pub(crate) order: Vec<Order>,
    pub(crate) limit: Option<u64>,
    pub(crate) after: Option<String>,
    /// Many rows are written without a filter, and that is meant.
    pub(crate) all: bool,
}

/// A column that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) column: String,
    /// `column::text`: as a string, for readers whose numbers are too small.
    pub(crate) text: bool,
}

/// A column by which is ordered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) column: String,
    pub(crate) descending: bool,
    /// Nulls are larger than all else unless this says otherwise.
    pub(crate) nulls_first: Option<bool>,
}

impl Query {
    /// Reads what stands behind the `?`.
    pub(crate) fn parse(text: &str) -> Result<Self, Problem> {
        let bad = |detail: String| Problem::new(Code::BadRequest, detail);
        // A page's cursor comes on top of what the first page's query had.
        let bytes =
            |cursor| text.split('&').filter(|part| is_cursor(part) == cursor).map(str::len).sum::<usize>();
        if bytes(false) > QUERY_BYTES_MAX || bytes(true) > CURSOR_BYTES_MAX {
            return Err(Problem::new(Code::TooLarge, format!("a query has at most {QUERY_BYTES_MAX} bytes")));
        }
        let mut query = Self::default();
        for part in text.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let decoded = |text| {
                percent::decode(text, true)
                    .ok_or_else(|| bad("the query is no percent-encoded UTF-8".to_owned()))
            };
            let (name, value) = (decoded(name)?, decoded(value)?);
            query.take(&name, value)?;
        }
        let conditions: usize = query.filters.iter().map(Filter::conditions).sum();
        if conditions > CONDITIONS_MAX {
            return Err(Problem::new(
                Code::BadFilter,
                format!("a filter has at most {CONDITIONS_MAX} conditions"),
            ));
        }
        Ok(query)
    }

    fn take(&mut self, name: &str, value: String) -> Result<(), Problem> {
        let bad = |detail: String| Problem::new(Code::BadRequest, detail);
        let twice = match name {
            "select" => self.select.replace(selected(&value).map_err(bad)?).is_some(),
            "order" => !std::mem::replace(&mut self.order, ordered(&value).map_err(bad)?).is_empty(),
            "limit" => {
                let limit = value.parse().ok().filter(|limit| *limit <= PAGE_ROWS_MAX);
                let limit =
                    limit.ok_or_else(|| bad(format!("`limit` is a number from 0 to {PAGE_ROWS_MAX}")))?;
                self.limit.replace(limit).is_some()
            }
            "after" => self.after.replace(value).is_some(),
            "all" => {
                if value != "true" {
                    return Err(bad("`all` is `true`, or not there".to_owned()));
                }
                std::mem::replace(&mut self.all, true)
            }
            "offset" => {
                return Err(bad(
                    "there is no `offset`, which reads again what it passes over; follow the answer's `Link` with rel=\"next\""
                        .to_owned(),
                ));
            }
            _ => {
                let filter = filter::parse(name, &value).map_err(|why| Problem::new(Code::BadFilter, why))?;
                self.filters.push(filter);
                false
            }
        };
        if twice { Err(bad(format!("`{name}` is there twice"))) } else { Ok(()) }
    }
}

/// The query of the next page: the same, after another cursor.
pub(crate) fn next(query: &str, cursor: &str) -> String {
    let mut parts: Vec<&str> = query.split('&').filter(|part| !part.is_empty() && !is_cursor(part)).collect();
    let after = format!("after={cursor}");
    parts.push(&after);
    parts.join("&")
}

fn is_cursor(part: &str) -> bool {
    let name = part.split_once('=').map_or(part, |(name, _)| name);
    percent::decode(name, true).is_some_and(|name| name == "after")
}

fn selected(text: &str) -> Result<Vec<Wanted>, String> {
    if text == "*" {
        return Err("`select` names columns; all are there without it".to_owned());
    }
    listed(text, "select", |part| {
        let (column, text) = part.strip_suffix("::text").map_or((part, false), |column| (column, true));
        plain(column).then(|| Wanted { column: column.to_owned(), text })
    })
}

fn ordered(text: &str) -> Result<Vec<Order>, String> {
    listed(text, "order", |part| {
        let mut words = part.split('.');
        let column = words.next().filter(|column| plain(column))?;
        let mut order = Order { column: column.to_owned(), descending: false, nulls_first: None };
        let mut next = words.next();
        if let Some("asc" | "desc") = next {
            order.descending = next == Some("desc");
            next = words.next();
        }
        if let Some("nullsfirst" | "nullslast") = next {
            order.nulls_first = Some(next == Some("nullsfirst"));
            next = words.next();
        }
        next.is_none().then_some(order)
    })
}

fn listed<T>(text: &str, what: &str, take: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, String> {
    let parts: Vec<&str> = text.split(',').collect();
    if parts.len() > SELECT_COLUMNS_MAX {
        return Err(format!("`{what}` has at most {SELECT_COLUMNS_MAX} columns"));
    }
    let shape = if what == "select" {
        "columns, each with `::text` behind it or not"
    } else {
        "columns, each with `.asc` or `.desc` and `.nullsfirst` or `.nullslast` behind it or not"
    };
    let parts = parts.into_iter();
    parts
        .map(|part| take(part).ok_or_else(|| format!("`{what}` is {shape}, not `{}`", short(part))))
        .collect()
}

/// What can be a column's name.
fn plain(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
