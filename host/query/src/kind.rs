//! The types of columns, what they are in Arrow, and what each engine does with them exactly as the query engine would.
//!
//! Nothing is pushed to a shard unless its answer is the engine's own to the last bit. What an engine does otherwise is
//! listed here, once: fractions (the order of additions, signed zeros, NaN), SQLite's decimals (binary fractions) and times
//! (texts of whatever form an application chose).

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use portolan_changelog::Dialect;

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Truth; in SQLite 1 and 0.
    Boolean,
    /// Bytes.
    Bytes,
    /// A day.
    Date,
    /// An exact number of so many digits, so many of them behind the point.
    Decimal(u8, i8),
    /// A binary fraction of 32 bits.
    Float32,
    /// A binary fraction of 64 bits.
    Float64,
    /// A whole number of 16 bits.
    Int16,
    /// A whole number of 32 bits.
    Int32,
    /// A whole number of 64 bits.
    Int64,
    /// Date and time without a zone, in microseconds.
    Local,
    /// A moment, in microseconds, UTC.
    Moment,
    /// What an engine compares by rules of its own (JSON, padded or case-insensitive texts, ranges ...), as its text.
    Opaque,
    /// Text, compared by its bytes.
    Text,
    /// A UUID, as a text in lower case.
    Uuid,
}

impl Kind {
    /// The type in Arrow.
    pub(crate) fn arrow(self) -> DataType {
        match self {
            Self::Boolean => DataType::Boolean,
            Self::Bytes => DataType::Binary,
            Self::Date => DataType::Date32,
            Self::Decimal(digits, scale) => DataType::Decimal128(digits, scale),
            Self::Float32 => DataType::Float32,
            Self::Float64 => DataType::Float64,
            Self::Int16 => DataType::Int16,
            Self::Int32 => DataType::Int32,
            Self::Int64 => DataType::Int64,
            Self::Local => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::Moment => DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::from("UTC"))),
            Self::Opaque | Self::Text | Self::Uuid => DataType::Utf8,
        }
    }

    /// Is it a whole number?
    pub(crate) const fn is_integer(self) -> bool {
        matches!(self, Self::Int16 | Self::Int32 | Self::Int64)
    }

    /// Does this engine compare and order its values exactly as the query engine does?
    pub(crate) const fn exact(self, dialect: Dialect) -> bool {
        match self {
            Self::Boolean | Self::Int16 | Self::Int32 | Self::Int64 | Self::Text | Self::Uuid => true,
            // Numbers without digits of their own may be NaN or longer than the engine keeps, but those are errors wherever they are read.
            Self::Date | Self::Decimal(..) | Self::Local | Self::Moment => {
                matches!(dialect, Dialect::Postgres)
            }
            Self::Bytes | Self::Float32 | Self::Float64 | Self::Opaque => false,
        }
    }

    /// Do both hold the same values, so that one may be compared with the other?
    pub(crate) fn alike(self, other: Self) -> bool {
        match (self, other) {
            (Self::Decimal(..), Self::Decimal(..)) => true,
            _ => self == other || (self.is_integer() && other.is_integer()),
        }
    }
}
