//! Rows become batches: a builder for each column, of its declared type. A value that is none of its column's type is an error, and
//! never another value.

use std::str::FromStr as _;
use std::sync::Arc;

use datafusion::arrow::array::timezone::Tz;
use datafusion::arrow::array::{
    ArrayRef, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Float32Builder,
    Float64Builder, Int16Builder, Int32Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder,
};
use datafusion::arrow::compute::kernels::cast_utils::{Parser as _, string_to_datetime};
use datafusion::arrow::datatypes::{Date32Type, SchemaRef};
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};

use super::{Batches, Failed};
use crate::defaults::{BATCH_BYTES, BATCH_ROWS};
use crate::error::Error;
use crate::kind::Kind;
use crate::world::World;

/// One value on its way, whatever engine it comes from.
pub(super) enum Cell<'a> {
    Boolean(bool),
    Bytes(&'a [u8]),
    /// Days since 1970.
    Days(i32),
    /// As many units as the column's scale says.
    Decimal(i128),
    Float32(f32),
    Float64(f64),
    Integer(i64),
    /// Microseconds since 1970.
    Moment(i64),
    Null,
    Text(&'a str),
}

/// A value is not of its column's type.
pub(super) struct Odd(pub(super) String);

enum Column {
    Boolean(BooleanBuilder),
    Bytes(BinaryBuilder),
    Date(Date32Builder),
    Decimal(Decimal128Builder, u8),
    Float32(Float32Builder),
    Float64(Float64Builder),
    Int16(Int16Builder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    Moment(TimestampMicrosecondBuilder),
    Text(StringBuilder),
}

/// Rows that wait to be handed on.
pub(super) struct Rows<'a> {
    batches: &'a Batches,
    bytes: usize,
    columns: Vec<Column>,
    rows: usize,
    schema: SchemaRef,
    world: &'a World,
}

impl<'a> Rows<'a> {
    pub(super) fn new(
        kinds: &[Kind],
        schema: SchemaRef,
        world: &'a World,
        batches: &'a Batches,
    ) -> Result<Self, Failed> {
        let columns = kinds.iter().map(|kind| Column::new(*kind)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { batches, bytes: 0, columns, rows: 0, schema, world })
    }

    /// Takes the value of a column.
    pub(super) fn put(&mut self, at: usize, cell: &Cell<'_>) -> Result<(), Odd> {
        let Some(column) = self.columns.get_mut(at) else { return Ok(()) };
        self.bytes += 16 + cell.bytes();
        column.put(cell).map_err(|Odd(why)| {
            let name = self.schema.fields().get(at).map_or("?", |field| field.name().as_str());
            Odd(format!("column `{name}` {why}"))
        })
    }

    /// A row is whole. Says whether anybody still takes rows.
    pub(super) async fn end_row(&mut self) -> Result<bool, Failed> {
        self.rows += 1;
        if self.rows >= BATCH_ROWS || self.bytes >= BATCH_BYTES { self.flush().await } else { Ok(true) }
    }

    /// Hands on what is there.
    pub(super) async fn flush(&mut self) -> Result<bool, Failed> {
        if self.rows == 0 {
            return Ok(true);
        }
        self.world.count(self.rows)?;
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        let columns: Vec<ArrayRef> = self.columns.iter_mut().map(Column::finish).collect();
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options);
        let batch = batch.map_err(|error| Error::Internal(error.to_string()))?;
        (self.rows, self.bytes) = (0, 0);
        Ok(self.batches.send(Ok(batch)).await.is_ok())
    }
}

impl Cell<'_> {
    const fn bytes(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Text(text) => text.len(),
            _ => 0,
        }
    }
}

impl Column {
    fn new(kind: Kind) -> Result<Self, Error> {
        Ok(match kind {
            Kind::Boolean => Self::Boolean(BooleanBuilder::new()),
            Kind::Bytes => Self::Bytes(BinaryBuilder::new()),
            Kind::Date => Self::Date(Date32Builder::new()),
            Kind::Decimal(digits, scale) => {
                let builder = Decimal128Builder::new().with_precision_and_scale(digits, scale);
                Self::Decimal(builder.map_err(|error| Error::Internal(error.to_string()))?, digits)
            }
            Kind::Float32 => Self::Float32(Float32Builder::new()),
            Kind::Float64 => Self::Float64(Float64Builder::new()),
            Kind::Int16 => Self::Int16(Int16Builder::new()),
            Kind::Int32 => Self::Int32(Int32Builder::new()),
            Kind::Int64 => Self::Int64(Int64Builder::new()),
            Kind::Local | Kind::Moment => {
                Self::Moment(TimestampMicrosecondBuilder::new().with_data_type(kind.arrow()))
            }
            Kind::Opaque | Kind::Text | Kind::Uuid => Self::Text(StringBuilder::new()),
        })
    }

    fn put(&mut self, cell: &Cell<'_>) -> Result<(), Odd> {
        let narrow = || Odd("holds a number that is too large for its type".to_owned());
        match (self, cell) {
            (Self::Boolean(column), Cell::Boolean(value)) => column.append_value(*value),
            (Self::Boolean(column), Cell::Null) => column.append_null(),
            (Self::Bytes(column), Cell::Bytes(bytes)) => column.append_value(bytes),
            (Self::Bytes(column), Cell::Null) => column.append_null(),
            (Self::Date(column), Cell::Days(days)) => column.append_value(*days),
            (Self::Date(column), Cell::Null) => column.append_null(),
            (Self::Decimal(column, digits), Cell::Decimal(value)) => {
                let largest = 10_u128.checked_pow(u32::from(*digits)).ok_or_else(narrow)?;
                if value.unsigned_abs() >= largest {
                    return Err(narrow());
                }
                column.append_value(*value);
            }
            (Self::Decimal(column, _), Cell::Null) => column.append_null(),
            (Self::Float32(column), Cell::Float32(value)) => column.append_value(*value),
            (Self::Float32(column), Cell::Null) => column.append_null(),
            (Self::Float64(column), Cell::Float64(value)) => column.append_value(*value),
            (Self::Float64(column), Cell::Null) => column.append_null(),
            (Self::Int16(column), Cell::Integer(number)) => {
                column.append_value(i16::try_from(*number).map_err(|_| narrow())?);
            }
            (Self::Int16(column), Cell::Null) => column.append_null(),
            (Self::Int32(column), Cell::Integer(number)) => {
                column.append_value(i32::try_from(*number).map_err(|_| narrow())?);
            }
            (Self::Int32(column), Cell::Null) => column.append_null(),
            (Self::Int64(column), Cell::Integer(number)) => column.append_value(*number),
            (Self::Int64(column), Cell::Null) => column.append_null(),
            (Self::Moment(column), Cell::Moment(us)) => column.append_value(*us),
            (Self::Moment(column), Cell::Null) => column.append_null(),
            (Self::Text(column), Cell::Text(text)) => column.append_value(text),
            (Self::Text(column), Cell::Null) => column.append_null(),
            _ => return Err(Odd("holds a value that is none of its type".to_owned())),
        }
        Ok(())
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Boolean(column) => Arc::new(column.finish()),
            Self::Bytes(column) => Arc::new(column.finish()),
            Self::Date(column) => Arc::new(column.finish()),
            Self::Decimal(column, _) => Arc::new(column.finish()),
            Self::Float32(column) => Arc::new(column.finish()),
            Self::Float64(column) => Arc::new(column.finish()),
            Self::Int16(column) => Arc::new(column.finish()),
            Self::Int32(column) => Arc::new(column.finish()),
            Self::Int64(column) => Arc::new(column.finish()),
            Self::Moment(column) => Arc::new(column.finish()),
            Self::Text(column) => Arc::new(column.finish()),
        }
    }
}

/// A decimal's digits at a scale, if it has no more.
pub(super) fn scaled(digits: i128, exponent: i32, scale: i8) -> Option<i128> {
    let shift = exponent.checked_add(i32::from(scale))?;
    let unit = 10_i128.checked_pow(shift.unsigned_abs());
    if digits == 0 {
        return Some(0);
    }
    if shift >= 0 {
        return digits.checked_mul(unit?);
    }
    let unit = unit?;
    (digits % unit == 0).then_some(digits / unit)
}

/// A decimal from its text, at a scale.
pub(super) fn decimal(text: &str, scale: i8) -> Option<i128> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    scaled(digits, exponent.checked_sub(i32::try_from(fraction.len()).ok()?)?, scale)
}

/// A day from its text.
pub(super) fn day(text: &str) -> Option<i32> {
    Date32Type::parse(text)
}

/// A point in time from its text, in microseconds since 1970; UTC where it names no zone.
pub(super) fn moment(text: &str) -> Option<i64> {
    let utc = Tz::from_str("+00:00").ok()?;
    string_to_datetime(&utc, text).ok().map(|moment| moment.timestamp_micros())
}
