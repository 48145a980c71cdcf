//! The types of columns, and their values as they come from clients: as a JSON text or as a part of a path or query.
//!
//! A value that is taken has the column's type on either engine: SQLite would take any. Texts of one value are one text
//! (`2026-01-01T01:00:00+01:00` and `2026-01-01T00:00:00Z`, `A0EE…` and `a0ee…`), so that comparing them is comparing values.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use portolan_changelog::Dialect;
use serde_json::value::RawValue;

use super::time;

/// What a column holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` and `false`; in SQLite 1 and 0.
    Boolean,
    /// Bytes; in JSON base64.
    Bytes,
    /// A day, `2026-11-26`.
    Date,
    /// A number of exact digits; in JSON a string, because most readers of JSON numbers round.
    Decimal,
    /// A binary fraction of so many bits.
    Float(u8),
    /// A whole number of so many bits.
    Integer(u8),
    /// JSON itself.
    Json,
    /// Date and time without a zone, `2026-11-26T19:15:40.000000`.
    Local,
    /// Date and time, always UTC: `2026-11-26T19:15:40.000000Z` (RFC 3339).
    Moment,
    /// Any other type of PostgreSQL, as the text that it reads and writes.
    Other,
    /// Text.
    Text,
    /// A UUID, in lower case.
    Uuid,
}

/// A value. `Text` holds the texts of all kinds that have one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Datum {
    Boolean(bool),
    Bytes(Vec<u8>),
    Float(f64),
    Integer(i64),
    Null,
    Text(String),
}

/// A value is not of its column's type; this says what would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expected(pub(crate) Cow<'static, str>);

/// Digits that a fraction of SQLite keeps.
const SQLITE_DIGITS: usize = 15;
/// Digits of a decimal on either side of its point: PostgreSQL keeps more, nobody writes them.
const DECIMAL_DIGITS_MAX: usize = 1_000;

impl Kind {
    /// What is taken, in words.
    pub(crate) const fn expected(&self) -> &'static str {
        match self {
            Self::Boolean => "true or false",
            Self::Bytes => "bytes as a base64 string",
            Self::Date => "a date such as \"2026-11-26\"",
            Self::Decimal => "a decimal number, best as a string such as \"12.50\"",
            Self::Float(_) => "a number",
            Self::Integer(16) => "a whole number from -32768 to 32767",
            Self::Integer(32) => "a whole number from -2147483648 to 2147483647",
            Self::Integer(_) => "a whole number from -9223372036854775808 to 9223372036854775807",
            Self::Json => "JSON, at most 128 deep and without \\u0000",
            Self::Local => "a date and time without a zone, such as \"2026-11-26T19:15:40\"",
            Self::Moment => "a date and time with a zone (RFC 3339), such as \"2026-11-26T19:15:40Z\"",
            Self::Other => "a string as PostgreSQL reads this type",
            Self::Text => "a string without \\u0000",
            Self::Uuid => "a UUID such as \"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11\"",
        }
    }

    /// Can rows be ordered and compared by it, alike on both engines?
    pub(crate) const fn ordered(&self) -> bool {
        !matches!(self, Self::Json)
    }

    /// Do its values have at most some dozens of bytes?
    pub(crate) const fn small(&self) -> bool {
        !matches!(self, Self::Bytes | Self::Decimal | Self::Json | Self::Other | Self::Text)
    }

    /// Takes a value as JSON writes it. Numbers are read from their digits, so that none is rounded on the way.
    pub(crate) fn of_json(&self, dialect: Dialect, json: &RawValue) -> Result<Datum, Expected> {
        let raw = json.get().trim();
        if raw == "null" {
            return Ok(Datum::Null);
        }
        let wrong = || Expected(self.expected().into());
        match self {
            Self::Boolean => match raw {
                "true" => Ok(Datum::Boolean(true)),
                "false" => Ok(Datum::Boolean(false)),
                _ => Err(wrong()),
            },
            Self::Json => json_text(raw).map(Datum::Text).ok_or_else(wrong),
            _ if raw.starts_with('"') => {
                let text: String = serde_json::from_str(raw).map_err(|_| wrong())?;
                self.of_text(dialect, &text)
            }
            Self::Decimal | Self::Float(_) | Self::Integer(_)
                if raw.starts_with(|c: char| c == '-' || c.is_ascii_digit()) =>
            {
                self.of_text(dialect, raw)
            }
            _ => Err(wrong()),
        }
    }

    /// Takes a value as a part of a path or query.
    pub(crate) fn of_text(&self, dialect: Dialect, text: &str) -> Result<Datum, Expected> {
        let taken = match self {
            Self::Boolean => match text {
                "true" => Some(Datum::Boolean(true)),
                "false" => Some(Datum::Boolean(false)),
                _ => None,
            },
            Self::Bytes => {
                let bytes =
                    if text.contains(['-', '_']) { URL_SAFE.decode(text) } else { STANDARD.decode(text) };
                bytes.ok().map(Datum::Bytes)
            }
            Self::Date => infinite(dialect, text).or_else(|| time::date(text)).map(Datum::Text),
            Self::Decimal => return decimal(dialect, text).map(Datum::Text),
            Self::Float(bits) => float(dialect, *bits, text).map(Datum::Float),
            Self::Integer(bits) => integer(*bits, text).map(Datum::Integer),
            Self::Json => json_text(text).map(Datum::Text),
            Self::Local => infinite(dialect, text).or_else(|| time::local(text)).map(Datum::Text),
            Self::Moment => infinite(dialect, text).or_else(|| time::zoned(text)).map(Datum::Text),
            Self::Other | Self::Text => (!text.contains('\0')).then(|| Datum::Text(text.to_owned())),
            Self::Uuid => uuid(text).map(Datum::Text),
        };
        taken.ok_or_else(|| Expected(self.expected().into()))
    }
}

/// PostgreSQL has times before and after all others; where they are told, they are taken.
fn infinite(dialect: Dialect, text: &str) -> Option<String> {
    (dialect == Dialect::Postgres && matches!(text, "infinity" | "-infinity")).then(|| text.to_owned())
}

fn integer(bits: u8, text: &str) -> Option<i64> {
    // Rust would take a plus sign and leading zeros; JSON has neither.
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let plain = plain && (digits == "0" || !digits.starts_with('0'));
    let number: i64 = text.parse().ok().filter(|_| plain)?;
    match bits {
        16 => i16::try_from(number).is_ok(),
        32 => i32::try_from(number).is_ok(),
        _ => true,
    }
    .then_some(number)
}

/// Words for what JSON cannot write are taken where the engine keeps them.
fn float(dialect: Dialect, bits: u8, text: &str) -> Option<f64> {
    match text {
        "Infinity" => return Some(f64::INFINITY),
        "-Infinity" => return Some(f64::NEG_INFINITY),
        "NaN" => return (dialect == Dialect::Postgres).then_some(f64::NAN),
        _ => {}
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E')) {
        return None;
    }
    let number: f64 = if bits == 32 { text.parse::<f32>().ok()?.into() } else { text.parse().ok()? };
    // PostgreSQL refuses what is too large, and what is too small to be told from nothing.
    let nothing = number == 0.0
        && text
            .bytes()
            .take_while(|byte| !matches!(byte, b'e' | b'E'))
            .any(|byte| (b'1'..=b'9').contains(&byte));
    (number.is_finite() && !nothing).then_some(number)
}

/// Digits with a point and no exponent. SQLite keeps fifteen digits, and would lose the rest without a word.
fn decimal(dialect: Dialect, text: &str) -> Result<String, Expected> {
    let wrong = || Expected(Kind::Decimal.expected().into());
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().map_err(|_| wrong())?),
        None => (text, 0),
    };
    let (sign, digits) = mantissa.strip_prefix('-').map_or(("", mantissa), |digits| ("-", digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let plain = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let small = usize::try_from(exponent.unsigned_abs())
        .is_ok_and(|shift| digits.len().saturating_add(shift) <= DECIMAL_DIGITS_MAX);
    if !plain(whole) || !plain(fraction) || !small {
        return Err(wrong());
    }
    let fraction = if digits.contains('.') { fraction } else { "" };
    let text = shift(whole, fraction, exponent);
    if dialect == Dialect::Sqlite {
        let significant = text.replace('.', "");
        let significant = significant.trim_matches('0').len();
        if significant > SQLITE_DIGITS {
            return Err(Expected("a decimal number of at most 15 digits: SQLite keeps no more".into()));
        }
    }
    Ok(format!("{sign}{text}"))
}

/// Moves the point by the exponent.
fn shift(whole: &str, fraction: &str, exponent: i32) -> String {
    let digits = format!("{whole}{fraction}");
    let point = i64::try_from(whole.len()).unwrap_or(i64::MAX).saturating_add(exponent.into());
    let zeros = |count: i64| "0".repeat(usize::try_from(count).unwrap_or(0));
    let length = i64::try_from(digits.len()).unwrap_or(i64::MAX);
    let text = if point <= 0 {
        format!("0.{}{digits}", zeros(-point))
    } else if point >= length {
        format!("{digits}{}", zeros(point - length))
    } else {
        let at = usize::try_from(point).unwrap_or(0);
        let (whole, fraction) = digits.split_at_checked(at).unwrap_or((&digits, ""));
        format!("{whole}.{fraction}")
    };
    let text = text.trim_start_matches('0');
    if text.is_empty() || text.starts_with('.') { format!("0{text}") } else { text.to_owned() }
}

/// JSON as it was sent, if both engines take it.
fn json_text(raw: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(raw).ok()?;
    (!holds_nul(&value)).then(|| raw.to_owned())
}

fn holds_nul(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::String(text) => text.contains('\0'),
        serde_json::Value::Array(values) => values.iter().any(holds_nul),
        serde_json::Value::Object(fields) => {
            fields.iter().any(|(name, value)| name.contains('\0') || holds_nul(value))
        }
        _ => false,
    }
}

fn uuid(text: &str) -> Option<String> {
    let good = text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
    good.then(|| text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    #[test]
    fn values_of_json_keep_every_digit() {
        let text = |text: &str| Some(Datum::Text(text.to_owned()));
        let (sqlite, postgres) = (Dialect::Sqlite, Dialect::Postgres);
        for (kind, dialect, json, wanted) in [
            (Kind::Integer(64), sqlite, "9223372036854775807", Some(Datum::Integer(i64::MAX))),
            (Kind::Integer(64), sqlite, "\"9007199254740993\"", Some(Datum::Integer(9_007_199_254_740_993))),
            (Kind::Integer(64), sqlite, "9223372036854775808", None),
            (Kind::Integer(32), sqlite, "2147483648", None),
            (Kind::Integer(16), sqlite, "-32768", Some(Datum::Integer(-32_768))),
            (Kind::Integer(64), sqlite, "1.0", None),
            (Kind::Integer(64), sqlite, "\"+1\"", None),
            (Kind::Integer(64), sqlite, "true", None),
            (Kind::Integer(64), sqlite, "null", Some(Datum::Null)),
            (Kind::Boolean, sqlite, "1", None),
            (Kind::Boolean, sqlite, "true", Some(Datum::Boolean(true))),
            (
                Kind::Decimal,
                postgres,
                "12345678901234567890.123456789",
                text("12345678901234567890.123456789"),
            ),
            (Kind::Decimal, sqlite, "12345678901234567890.123456789", None),
            (Kind::Decimal, sqlite, "\"12.50\"", text("12.50")),
            (Kind::Decimal, sqlite, "-1.5e3", text("-1500")),
            (Kind::Decimal, sqlite, "1.5e-3", text("0.0015")),
            (Kind::Decimal, sqlite, "1e999999999", None),
            (Kind::Decimal, sqlite, "\"NaN\"", None),
            (Kind::Decimal, sqlite, "\"1.\"", None),
            (Kind::Float(64), sqlite, "0.1", Some(Datum::Float(0.1))),
            (Kind::Float(64), sqlite, "1e999", None),
            (Kind::Float(64), sqlite, "1e-999", None),
            (Kind::Float(64), sqlite, "0e5", Some(Datum::Float(0.0))),
            (Kind::Float(64), sqlite, "\"inf\"", None),
            (Kind::Text, sqlite, "\"a\\u0000b\"", None),
            (Kind::Text, sqlite, "\"\\ud800\"", None),
            (Kind::Text, sqlite, "5", None),
            (Kind::Bytes, sqlite, "\"AP8=\"", Some(Datum::Bytes(vec![0, 255]))),
            (Kind::Bytes, sqlite, "\"AP8\"", None),
            (Kind::Json, sqlite, "{\"a\": [1, \"\\u0000\"]}", None),
            (Kind::Json, sqlite, "{\"a\": 12345678901234567890}", text("{\"a\": 12345678901234567890}")),
            (
                Kind::Uuid,
                sqlite,
                "\"A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11\"",
                text("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
            ),
            (Kind::Uuid, sqlite, "\"a0eebc999c0b4ef8bb6d6bb9bd380a11\"", None),
            (Kind::Moment, sqlite, "\"2026-01-01T01:00:00+01:00\"", text("2026-01-01T00:00:00.000000Z")),
            (Kind::Moment, sqlite, "\"infinity\"", None),
        ] {
            assert_eq!(kind.of_json(dialect, &raw(json)).ok(), wanted, "{kind:?} {json}");
        }
        let deep = "[".repeat(200) + &"]".repeat(200);
        assert!(Kind::Json.of_json(sqlite, &raw(&deep)).is_err());
    }
}
