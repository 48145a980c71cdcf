//! Cursors: where a page ended, as an opaque text. One holds the order's columns of the last row, and which table and order
//! they are of.
//!
//! A cursor is not trusted: its values become bound parameters of a statement that names the tenant, so that one of another
//! tenant's, or one that was made up, is only a place in the own rows.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portolan_changelog::Dialect;
use sha2::{Digest as _, Sha256};

use super::kind::Datum;
use super::plan::{Page, Sort};
use super::problem::{Code, Problem};
use crate::defaults::CURSOR_BYTES_MAX;

/// The cursor after a row, by the values of its order's columns.
pub(crate) fn write(page: &Page<'_>, row: &[Datum]) -> Result<String, Problem> {
    let values: Vec<Option<String>> =
        std::iter::once(Some(shape(page))).chain(row.iter().map(print)).collect();
    let cursor = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&values).unwrap_or_default());
    // With its name it must still be taken as a parameter.
    if cursor.len() + "after=".len() > CURSOR_BYTES_MAX {
        let detail = "the last row's values are too long to go on after them; order by shorter columns, or ask for fewer rows";
        return Err(Problem::new(Code::AnswerTooLarge, detail));
    }
    Ok(cursor)
}

/// The values of a cursor of this page's table and order.
pub(crate) fn read(page: &Page<'_>, dialect: Dialect, cursor: &str) -> Result<Vec<Datum>, Problem> {
    take(page, dialect, cursor).ok_or_else(|| {
        Problem::new(
            Code::BadCursor,
            "`after` is a cursor of another query; take it from an answer's `Link`, or begin without it",
        )
    })
}

fn take(page: &Page<'_>, dialect: Dialect, cursor: &str) -> Option<Vec<Datum>> {
    let json = URL_SAFE_NO_PAD.decode(cursor).ok()?;
    let values: Vec<Option<String>> = serde_json::from_slice(&json).ok()?;
    let (first, values) = values.split_first()?;
    if first.as_deref() != Some(shape(page).as_str()) || values.len() != page.order.len() {
        return None;
    }
    page.order.iter().zip(values).map(|(sort, value)| parse(sort, dialect, value.as_deref())).collect()
}

/// Which table and order it is of, in a few bytes.
fn shape(page: &Page<'_>) -> String {
    let mut text = page.table.name.clone();
    for Sort { column, descending, nulls_first } in &page.order {
        text.push_str(&format!(",{},{descending},{nulls_first}", column.name));
    }
    URL_SAFE_NO_PAD.encode(Sha256::digest(text).get(..6).unwrap_or_default())
}

/// A value as it lies in the database: what SQLite keeps against a column's type has its place in the order too.
fn print(datum: &Datum) -> Option<String> {
    Some(match datum {
        Datum::Boolean(value) => format!("t{value}"),
        Datum::Bytes(bytes) => format!("b{}", URL_SAFE_NO_PAD.encode(bytes)),
        Datum::Float(number) => format!("f{number}"),
        Datum::Integer(number) => format!("i{number}"),
        Datum::Null => return None,
        Datum::Text(text) => format!("s{text}"),
    })
}

fn parse(sort: &Sort<'_>, dialect: Dialect, text: Option<&str>) -> Option<Datum> {
    let Some(text) = text else { return sort.column.nullable.then_some(Datum::Null) };
    let mark = text.get(..1)?;
    let rest = text.get(1..)?;
    let datum = match mark {
        "b" => Datum::Bytes(URL_SAFE_NO_PAD.decode(rest).ok()?),
        "f" => Datum::Float(rest.parse().ok()?),
        "i" => Datum::Integer(rest.parse().ok()?),
        "s" if !rest.contains('\0') => Datum::Text(rest.to_owned()),
        "t" => Datum::Boolean(rest.parse().ok()?),
        _ => return None,
    };
    // PostgreSQL keeps nothing against a column's type.
    let fits = dialect == Dialect::Sqlite || fits(sort, dialect, &datum);
    fits.then_some(datum)
}

fn fits(sort: &Sort<'_>, dialect: Dialect, datum: &Datum) -> bool {
    use super::kind::Kind;
    match (&sort.column.kind, datum) {
        (Kind::Boolean, Datum::Boolean(_))
        | (Kind::Bytes, Datum::Bytes(_))
        | (Kind::Float(_), Datum::Float(_))
        | (Kind::Integer(_), Datum::Integer(_)) => true,
        (Kind::Boolean | Kind::Bytes | Kind::Float(_) | Kind::Integer(_), _) => false,
        (kind, Datum::Text(text)) => {
            kind.of_text(dialect, text).is_ok()
                || matches!(kind, Kind::Decimal | Kind::Date | Kind::Local | Kind::Moment)
        }
        _ => false,
    }
}
