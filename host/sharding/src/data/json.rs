//! Rows of a database as values of their columns' kinds, and those as JSON.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use portolan_changelog::Value;
use sha2::{Digest as _, Sha256};

use super::catalogue::{Column, Table};
use super::kind::{Datum, Kind};
use super::percent;
use super::plan::Picked;
use super::time;

/// What lies in a column. What a direct writer of SQLite put there against the column's type is told as it is.
pub(crate) fn datum(kind: &Kind, value: &Value) -> Datum {
    match (kind, value) {
        (_, Value::Null) => Datum::Null,
        (_, Value::Bool(value)) => Datum::Boolean(*value),
        (Kind::Boolean, Value::Int(number @ (0 | 1))) => Datum::Boolean(*number == 1),
        (Kind::Decimal, Value::Int(number)) => Datum::Text(number.to_string()),
        (Kind::Decimal, Value::Real(number)) => Datum::Text(number.to_string()),
        (_, Value::Int(number)) => Datum::Integer(*number),
        (_, Value::Real(number)) => Datum::Float(*number),
        (_, Value::Text(text)) => Datum::Text(text.clone()),
        (_, Value::Blob(bytes)) => Datum::Bytes(bytes.clone()),
    }
}

/// Rows, and what of them is answered. A row has at least the picked columns' values, in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rows<'a> {
    pub(crate) picked: Vec<Picked<'a>>,
    pub(crate) rows: Vec<Vec<Datum>>,
}

impl<'a> Rows<'a> {
    /// None yet, of all columns of a table.
    pub(crate) fn of(table: &'a Table) -> Self {
        let picked = table.columns.iter().map(|column| Picked { column, text: false }).collect();
        Self { picked, rows: Vec::new() }
    }

    /// All as a JSON array.
    pub(crate) fn array(&self, out: &mut Vec<u8>) {
        out.push(b'[');
        for (at, row) in self.rows.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            self.object(row, out);
        }
        out.push(b']');
    }

    /// The first as a JSON object.
    pub(crate) fn first(&self, out: &mut Vec<u8>) {
        if let Some(row) = self.rows.first() {
            self.object(row, out);
        }
    }

    fn object(&self, row: &[Datum], out: &mut Vec<u8>) {
        out.push(b'{');
        for (at, (Picked { column, text }, datum)) in self.picked.iter().zip(row).enumerate() {
            if at > 0 {
                out.push(b',');
            }
            string(&column.name, out);
            out.push(b':');
            if *text { as_text(column, datum, out) } else { print(&column.kind, datum, out) }
        }
        out.push(b'}');
    }

    /// The entity tag of the first row, which has all its columns: the same row has the same one, on any replica.
    pub(crate) fn etag(&self) -> String {
        let mut json = Vec::new();
        self.first(&mut json);
        let digest = Sha256::digest(&json);
        format!("\"{}\"", URL_SAFE_NO_PAD.encode(digest.get(..16).unwrap_or_default()))
    }
}

/// The path of a row, whose values are those of all its table's columns.
pub(crate) fn path(table: &Table, row: &[Datum]) -> String {
    let value = |at: &usize| {
        let column = table.columns.get(*at)?;
        let mut text = Vec::new();
        as_text(column, row.get(*at)?, &mut text);
        let text: String = serde_json::from_slice(&text).ok()?;
        Some(percent::encode(&text))
    };
    let key: Vec<String> = table.key.iter().filter_map(value).collect();
    format!("{}/{}", table.name, key.join(","))
}

fn as_text(column: &Column, datum: &Datum, out: &mut Vec<u8>) {
    let mut json = Vec::new();
    print(&column.kind, datum, &mut json);
    // A string is one already, but of JSON.
    if *datum == Datum::Null || (json.starts_with(b"\"") && column.kind != Kind::Json) {
        out.extend(json);
    } else {
        string(&String::from_utf8_lossy(&json), out);
    }
}

fn print(kind: &Kind, datum: &Datum, out: &mut Vec<u8>) {
    match datum {
        Datum::Null => out.extend(b"null"),
        Datum::Boolean(value) => out.extend(value.to_string().bytes()),
        Datum::Bytes(bytes) => string(&STANDARD.encode(bytes), out),
        Datum::Float(number) if *number == f64::INFINITY => string("Infinity", out),
        Datum::Float(number) if *number == f64::NEG_INFINITY => string("-Infinity", out),
        Datum::Float(number) if number.is_nan() => string("NaN", out),
        Datum::Float(number) => float(*kind == Kind::Float(32), *number, out),
        Datum::Integer(number) => out.extend(number.to_string().bytes()),
        Datum::Text(text) => match kind {
            Kind::Json if serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() => {
                out.extend(text.bytes())
            }
            Kind::Date => string(time::date(text).as_ref().unwrap_or(text), out),
            Kind::Local => string(time::local(text).as_ref().unwrap_or(text), out),
            Kind::Moment => {
                // SQLite's own clock tells no zone, and is UTC.
                let told = time::zoned(text).or_else(|| time::zoned(&format!("{text}Z")));
                string(told.as_ref().unwrap_or(text), out);
            }
            _ => string(text, out),
        },
    }
}

fn float(short: bool, number: f64, out: &mut Vec<u8>) {
    #[expect(clippy::cast_possible_truncation, reason = "the column's values have no more bits")]
    let json = if short { serde_json::to_vec(&(number as f32)) } else { serde_json::to_vec(&number) };
    out.extend(json.unwrap_or_default());
}

fn string(text: &str, out: &mut Vec<u8>) {
    out.extend(serde_json::to_vec(text).unwrap_or_default());
}
