//! Conditions on shards: comparisons of a column with a value or with another column, `IN`, `IS NULL`, and what `AND`, `OR` and `NOT`
//! make of them.
//!
//! Exact where each of a fragment's engines orders the column's values as the query engine does ([`Kind::exact`]). Arithmetic is not
//! pushed: engines overflow and divide each in their own way. Neither are patterns: SQLite's ignore case.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::temporal_conversions::{date32_to_datetime, timestamp_us_to_datetime};
use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};

use crate::defaults::VALUES_MAX;
use crate::fragment::{Field, Op, Test, Value};
use crate::kind::Kind;
use crate::world::World;

/// What conditions are translated with.
pub(crate) struct Names<'a> {
    /// The place of a column.
    pub(crate) column: &'a dyn Fn(&Column) -> Option<usize>,
    /// What is known of columns.
    pub(crate) fields: &'a [Field],
    /// The engines that must agree.
    pub(crate) world: &'a Arc<World>,
}

/// A condition as shards have it, if all of it is exact there.
pub(crate) fn test(expr: &Expr, names: &Names<'_>) -> Option<Test> {
    match expr {
        Expr::Alias(alias) => test(&alias.expr, names),
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => {
            Some(Test::All(vec![test(left, names)?, test(right, names)?]))
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => {
            Some(Test::Any(vec![test(left, names)?, test(right, names)?]))
        }
        Expr::BinaryExpr(binary) => compare(binary, names),
        Expr::Between(between) if !between.negated => {
            let column = exact(&between.expr, names)?;
            let low = value(&between.low, kind(column, names)?)?;
            let high = value(&between.high, kind(column, names)?)?;
            Some(Test::All(vec![
                Test::Value { column, op: Op::AtLeast, value: low },
                Test::Value { column, op: Op::AtMost, value: high },
            ]))
        }
        Expr::Column(_) => boolean(expr, names).map(Test::True),
        Expr::InList(list) if !list.list.is_empty() && list.list.len() <= VALUES_MAX => {
            let column = exact(&list.expr, names)?;
            let kind = kind(column, names)?;
            let values = list.list.iter().map(|item| value(item, kind)).collect::<Option<Vec<_>>>()?;
            Some(Test::Among { column, values, not: list.negated })
        }
        Expr::IsNotNull(of) => any(of, names).map(|column| Test::Null { column, not: true }),
        Expr::IsNull(of) => any(of, names).map(|column| Test::Null { column, not: false }),
        Expr::Literal(ScalarValue::Boolean(truth), _) => Some(Test::Known(*truth)),
        Expr::Not(of) => Some(Test::Not(Box::new(test(of, names)?))),
        _ => None,
    }
}

fn compare(binary: &BinaryExpr, names: &Names<'_>) -> Option<Test> {
    let op = match binary.op {
        Operator::Eq => Op::Equal,
        Operator::Gt => Op::Above,
        Operator::GtEq => Op::AtLeast,
        Operator::Lt => Op::Below,
        Operator::LtEq => Op::AtMost,
        Operator::NotEq => Op::Unequal,
        _ => return None,
    };
    match (exact(&binary.left, names), exact(&binary.right, names)) {
        (Some(column), None) => {
            let value = value(&binary.right, kind(column, names)?)?;
            Some(Test::Value { column, op, value })
        }
        (None, Some(column)) => {
            let value = value(&binary.left, kind(column, names)?)?;
            Some(Test::Value { column, op: op.turned(), value })
        }
        (Some(left), Some(right)) => {
            kind(left, names)?.alike(kind(right, names)?).then_some(Test::Columns { left, op, right })
        }
        (None, None) => None,
    }
}

/// A column that is compared exactly, as it is or in a wider type of the same values.
pub(crate) fn exact(expr: &Expr, names: &Names<'_>) -> Option<usize> {
    let column = match expr {
        Expr::Cast(cast) => {
            let column = any(&cast.expr, names)?;
            widens(kind(column, names)?, cast.field.data_type()).then_some(column)?
        }
        _ => any(expr, names)?,
    };
    let kind = kind(column, names)?;
    names.world.exact(kind).then_some(column)
}

fn widens(from: Kind, to: &DataType) -> bool {
    match (from, to) {
        (Kind::Int16, DataType::Int32 | DataType::Int64) | (Kind::Int32, DataType::Int64) => true,
        (Kind::Decimal(digits, scale), DataType::Decimal128(more, behind)) => {
            let before = |digits: u8, scale: i8| i16::from(digits) - i16::from(scale);
            *behind >= scale && before(*more, *behind) >= before(digits, scale)
        }
        _ => false,
    }
}

/// Any column; of one that is not compared exactly it is still known whether it is NULL.
pub(crate) fn any(expr: &Expr, names: &Names<'_>) -> Option<usize> {
    (names.column)(super::plain(expr)?)
}

fn boolean(expr: &Expr, names: &Names<'_>) -> Option<usize> {
    let column = any(expr, names)?;
    (kind(column, names)? == Kind::Boolean).then_some(column)
}

fn kind(column: usize, names: &Names<'_>) -> Option<Kind> {
    names.fields.get(column).map(|field| field.kind)
}

/// A value that is compared with a column of a kind. NULL is none: such comparisons were simplified away, or say so elsewhere.
fn value(expr: &Expr, kind: Kind) -> Option<Value> {
    let Expr::Literal(scalar, _) = expr else { return None };
    let text = |text: String| Some(Value::Text(kind, text));
    match (kind, scalar) {
        (Kind::Boolean, ScalarValue::Boolean(Some(truth))) => Some(Value::Boolean(*truth)),
        (Kind::Int16 | Kind::Int32 | Kind::Int64, _) => integer(scalar).map(Value::Integer),
        (Kind::Text, _) => {
            scalar.try_as_str()?.filter(|text| !text.contains('\0')).map(str::to_owned).and_then(text)
        }
        // A UUID in any other form than its own is a text that no UUID is equal to, and lies elsewhere in the order.
        (Kind::Uuid, _) => {
            scalar.try_as_str()?.filter(|text| is_uuid(text)).map(str::to_owned).and_then(text)
        }
        (Kind::Date, ScalarValue::Date32(Some(days))) => date32_to_datetime(*days)
            .map(|date| date.format("%Y-%m-%d").to_string())
            .filter(|date| four(date))
            .and_then(text),
        (Kind::Local, ScalarValue::TimestampMicrosecond(Some(us), None)) => moment(*us).and_then(text),
        (Kind::Moment, ScalarValue::TimestampMicrosecond(Some(us), Some(zone)))
            if matches!(zone.as_ref(), "UTC" | "+00:00" | "Z") =>
        {
            moment(*us).map(|moment| format!("{moment}+00")).and_then(text)
        }
        (Kind::Decimal(..), ScalarValue::Decimal128(Some(digits), _, scale)) => {
            text(decimal(*digits, u32::try_from(*scale).ok()?))
        }
        _ => None,
    }
}

fn integer(scalar: &ScalarValue) -> Option<i64> {
    match scalar {
        ScalarValue::Int8(number) => number.map(i64::from),
        ScalarValue::Int16(number) => number.map(i64::from),
        ScalarValue::Int32(number) => number.map(i64::from),
        ScalarValue::Int64(number) => *number,
        _ => None,
    }
}

fn moment(us: i64) -> Option<String> {
    let moment = timestamp_us_to_datetime(us)?.format("%Y-%m-%d %H:%M:%S%.6f").to_string();
    four(&moment).then_some(moment)
}

/// Has the year four digits? Others are written by each in its own way.
fn four(date: &str) -> bool {
    date.split_once('-').is_some_and(|(year, _)| year.len() == 4 && year != "0000")
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

fn decimal(digits: i128, scale: u32) -> String {
    let sign = if digits < 0 { "-" } else { "" };
    let Some(unit) = 10_u128.checked_pow(scale).filter(|_| scale > 0) else {
        return format!("{sign}{}", digits.unsigned_abs());
    };
    let (whole, fraction) = (digits.unsigned_abs() / unit, digits.unsigned_abs() % unit);
    let width = usize::try_from(scale).unwrap_or(0);
    format!("{sign}{whole}.{fraction:0width$}")
}
