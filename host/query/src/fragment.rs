//! What one shard is asked: a small tree of relations over its tables. Pure data, the same for every engine; [`sql`] writes it
//! down for one.
//!
//! A node's columns go by their places. Each node keeps what must be known of them to push more: what they hold, and whether a column
//! still says whose a row is.

use std::sync::Arc;

use crate::catalogue::Table;
use crate::kind::Kind;

pub(crate) mod reach;
pub(crate) mod sql;

/// A relation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Node {
    /// Rows for which all tests hold.
    Filter { input: Box<Self>, tests: Vec<Test> },
    /// One row for each group, in parts that are put together afterwards: its keys, then its calls.
    Group { input: Box<Self>, keys: Vec<usize>, calls: Vec<Call> },
    /// Rows of both sides, or of the left one alone; the columns of the left side, then those of the right one.
    Join { join: Join, left: Box<Self>, right: Box<Self>, on: Vec<(usize, usize)>, tests: Vec<Test> },
    /// Some of the columns.
    Pick { input: Box<Self>, columns: Vec<usize> },
    /// A table's rows.
    Scan(Arc<Table>),
    /// The first rows by an order, or any.
    Top { input: Box<Self>, order: Vec<Order>, rows: usize },
}

/// Which rows of both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Join {
    /// Left rows that have no partner.
    Anti,
    /// Pairs.
    Inner,
    /// Pairs, and left rows that have no partner.
    Left,
    /// Left rows that have a partner.
    Semi,
}

/// A column of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) collation: String,
    pub(crate) kind: Kind,
    pub(crate) name: String,
    pub(crate) nullable: bool,
    /// Does it say whose the row is?
    pub(crate) tenant: bool,
}

/// A condition. As in SQL, it is true, false or unknown.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Test {
    All(Vec<Self>),
    Among { column: usize, values: Vec<Value>, not: bool },
    Any(Vec<Self>),
    Columns { left: usize, op: Op, right: usize },
    Known(Option<bool>),
    Not(Box<Self>),
    Null { column: usize, not: bool },
    True(usize),
    Value { column: usize, op: Op, value: Value },
}

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Above,
    AtLeast,
    AtMost,
    Below,
    Equal,
    Unequal,
}

/// A value of a statement. All but whole numbers and truth travel as texts, which PostgreSQL casts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Boolean(bool),
    Integer(i64),
    Text(Kind, String),
}

/// One aggregate, in a form whose parts can be put together.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Call {
    pub(crate) of: Of,
    pub(crate) filter: Option<Test>,
    /// What the part holds.
    pub(crate) kind: Kind,
}

/// What a call computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    Count(usize),
    CountDistinct(usize),
    CountRows,
    Max(usize),
    Min(usize),
    Sum(usize),
}

/// One column of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) ascending: bool,
    pub(crate) column: usize,
    pub(crate) nulls_first: bool,
}

impl Node {
    /// The columns.
    pub(crate) fn fields(&self) -> Vec<Field> {
        match self {
            Self::Filter { input, .. } | Self::Top { input, .. } => input.fields(),
            Self::Group { input, keys, calls } => {
                let fields = input.fields();
                let keys = keys.iter().filter_map(|key| fields.get(*key).cloned());
                keys.chain(calls.iter().map(|call| call.field(&fields))).collect()
            }
            Self::Join { join: Join::Anti | Join::Semi, left, .. } => left.fields(),
            Self::Join { join, left, right, .. } => {
                let mut fields = left.fields();
                let outer = *join == Join::Left;
                fields.extend(right.fields().into_iter().map(|field| Field {
                    nullable: field.nullable || outer,
                    tenant: field.tenant && !outer,
                    ..field
                }));
                fields
            }
            Self::Pick { input, columns } => {
                let fields = input.fields();
                columns.iter().filter_map(|column| fields.get(*column).cloned()).collect()
            }
            Self::Scan(table) => table
                .columns
                .iter()
                .map(|column| Field {
                    collation: column.collation.clone(),
                    kind: column.kind,
                    name: column.name.clone(),
                    nullable: column.nullable,
                    tenant: table.tenant.as_ref() == Some(&column.name),
                })
                .collect(),
        }
    }

    /// The same with fewer rows.
    pub(crate) fn filter(self, tests: Vec<Test>) -> Self {
        if tests.is_empty() { self } else { Self::Filter { input: Box::new(self), tests } }
    }

    /// The same with some columns.
    pub(crate) fn pick(self, columns: Vec<usize>) -> Self {
        Self::Pick { input: Box::new(self), columns }
    }

    /// The same with the first rows.
    pub(crate) fn top(self, order: Vec<Order>, rows: usize) -> Self {
        Self::Top { input: Box::new(self), order, rows }
    }

    /// Are these rows of the whole, each on one shard or alike on all? Then more may be pushed on top. The first rows or a group of one
    /// shard are only a part of what is meant.
    pub(crate) fn is_whole(&self) -> bool {
        match self {
            Self::Filter { input, .. } | Self::Pick { input, .. } => input.is_whole(),
            Self::Group { .. } | Self::Top { .. } => false,
            Self::Join { left, right, .. } => left.is_whole() && right.is_whole(),
            Self::Scan(_) => true,
        }
    }

    /// Has it the same rows on every shard?
    pub(crate) fn is_reference(&self) -> bool {
        match self {
            Self::Filter { input, .. }
            | Self::Group { input, .. }
            | Self::Pick { input, .. }
            | Self::Top { input, .. } => input.is_reference(),
            Self::Join { left, right, .. } => left.is_reference() && right.is_reference(),
            Self::Scan(table) => table.tenant.is_none(),
        }
    }

    /// May a filter on these columns go below what is here already?
    pub(crate) fn takes_filter(&self, columns: &[usize]) -> bool {
        match self {
            // A condition on keys leaves groups away, and does not change the others.
            Self::Group { input, keys, .. } => {
                input.is_whole() && columns.iter().all(|column| *column < keys.len())
            }
            Self::Pick { input, columns: picked } => {
                let below: Vec<usize> =
                    columns.iter().filter_map(|column| picked.get(*column).copied()).collect();
                below.len() == columns.len() && input.takes_filter(&below)
            }
            Self::Filter { input, .. } => input.takes_filter(columns),
            Self::Top { .. } => false,
            Self::Join { .. } | Self::Scan(_) => self.is_whole(),
        }
    }
}

impl Call {
    fn field(&self, input: &[Field]) -> Field {
        let of = |column: usize| input.get(column).map_or("?", |field| field.name.as_str());
        let name = match self.of {
            Of::Count(column) => format!("count({})", of(column)),
            Of::CountDistinct(column) => format!("count(distinct {})", of(column)),
            Of::CountRows => "count(*)".to_owned(),
            Of::Max(column) => format!("max({})", of(column)),
            Of::Min(column) => format!("min({})", of(column)),
            Of::Sum(column) => format!("sum({})", of(column)),
        };
        let collation = match self.of {
            Of::Max(column) | Of::Min(column) => input.get(column).map(|field| field.collation.clone()),
            _ => None,
        };
        Field {
            collation: collation.unwrap_or_default(),
            kind: self.kind,
            name,
            nullable: true,
            tenant: false,
        }
    }
}

impl Test {
    /// All columns that it looks at.
    pub(crate) fn columns(&self) -> Vec<usize> {
        match self {
            Self::All(tests) | Self::Any(tests) => tests.iter().flat_map(Self::columns).collect(),
            Self::Among { column, .. } | Self::Null { column, .. } | Self::True(column) => vec![*column],
            Self::Columns { left, right, .. } => vec![*left, *right],
            Self::Known(_) => Vec::new(),
            Self::Not(test) => test.columns(),
            Self::Value { column, .. } => vec![*column],
        }
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Boolean(truth) => truth.fmt(f),
            Self::Integer(number) => number.fmt(f),
            Self::Text(_, text) => write!(f, "'{}'", text.replace('\'', "''")),
        }
    }
}

impl Op {
    /// With its sides exchanged.
    pub(crate) const fn turned(self) -> Self {
        match self {
            Self::Above => Self::Below,
            Self::AtLeast => Self::AtMost,
            Self::AtMost => Self::AtLeast,
            Self::Below => Self::Above,
            Self::Equal | Self::Unequal => self,
        }
    }
}
