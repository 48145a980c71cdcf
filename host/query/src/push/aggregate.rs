//! Groups on shards: each sends its part of every group, and the engine puts parts together. DISTINCT is a group without calls.
//!
//! Exact for counts; for sums of whole numbers, and of decimals where the engine has them; for the least and the greatest of what is ordered
//! alike; for averages as sum and count, of decimals there, and of whole numbers of at most 32 bits: the engine adds those up in 64-bit fractions, which is
//! exact as long as the sum is below 2^53; beyond, the shards' sum is the better one. Sums of fractions depend on their order and
//! are not pushed. Counts of distinct values are, where no value is on two shards: of the tenant's own column, or in groups that have a tenant each.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Column, Result, ScalarValue};
use datafusion::functions_aggregate::expr_fn::{max, min, sum};
use datafusion::logical_expr::expr::{AggregateFunction, AggregateFunctionParams};
use datafusion::logical_expr::logical_plan::Aggregate;
use datafusion::logical_expr::{Expr, LogicalPlan, cast, lit, when};

use super::filter::{self, Names};
use super::{Leaf, average, plain};
use crate::defaults::DECIMAL_DIGITS;
use crate::fragment::{Call, Field, Node, Of};
use crate::kind::Kind;

/// How parts become the answer.
enum Whole {
    /// The sum of the part at the first place, over the sum of the part at the second.
    Average(usize, usize),
    /// The same of decimals, of so many digits.
    DecimalAverage(usize, usize, u8, i8),
    /// A sum that is zero where there are no parts.
    Count(usize),
    Max(usize),
    Min(usize),
    Sum(usize),
}

pub(super) fn push(aggregate: &Aggregate) -> Result<Option<LogicalPlan>> {
    let Some(leaf) = Leaf::of(&aggregate.input).filter(|leaf| leaf.node.is_whole()) else { return Ok(None) };
    let fields = leaf.node.fields();
    let Some(keys) = keys(aggregate, &leaf, &fields) else { return Ok(None) };
    let Some((calls, wholes)) = calls(aggregate, &leaf, &fields, &keys) else { return Ok(None) };
    let group = Node::Group { input: Box::new(leaf.node.clone()), keys: keys.clone(), calls };
    together(aggregate, &leaf, group, keys.len(), &wholes).map(Some)
}

fn keys(aggregate: &Aggregate, leaf: &Leaf, fields: &[Field]) -> Option<Vec<usize>> {
    let key = |expr: &Expr| {
        let column = leaf.column(plain(expr)?)?;
        leaf.world.exact(fields.get(column)?.kind).then_some(column)
    };
    aggregate.group_expr.iter().map(key).collect()
}

/// What shards compute, and what becomes of it.
fn calls(
    aggregate: &Aggregate,
    leaf: &Leaf,
    fields: &[Field],
    keys: &[usize],
) -> Option<(Vec<Call>, Vec<Whole>)> {
    let column = |column: &Column| leaf.column(column);
    let names = Names { column: &column, fields, world: &leaf.world };
    let is_tenant = |column: usize| fields.get(column).is_some_and(|field| field.tenant);
    let apart = keys.iter().any(|key| is_tenant(*key));
    let (mut calls, mut wholes): (Vec<Call>, Vec<Whole>) = (Vec::new(), Vec::new());
    for expr in &aggregate.aggr_expr {
        let Expr::AggregateFunction(function) = unnamed(expr) else { return None };
        let params = &function.params;
        if !params.order_by.is_empty() || params.null_treatment.is_some() {
            return None;
        }
        let filter = match &params.filter {
            Some(filter) => Some(filter::test(filter, &names)?),
            None => None,
        };
        let at = calls.len();
        let mut call = |of, kind| calls.push(Call { of, filter: filter.clone(), kind });
        match what(function, &names, &|column| apart || is_tenant(column))? {
            What::Average(column) => {
                call(Of::Sum(column), Kind::Int64);
                call(Of::Count(column), Kind::Int64);
                wholes.push(Whole::Average(at, at + 1));
            }
            What::DecimalAverage(column, digits, scale) => {
                call(Of::Sum(column), Kind::Decimal(DECIMAL_DIGITS, scale));
                call(Of::Count(column), Kind::Int64);
                wholes.push(Whole::DecimalAverage(at, at + 1, digits, scale));
            }
            What::Call(of @ (Of::Count(_) | Of::CountDistinct(_) | Of::CountRows), kind) => {
                call(of, kind);
                wholes.push(Whole::Count(at));
            }
            What::Call(of, kind) => {
                call(of, kind);
                wholes.push(match of {
                    Of::Max(_) => Whole::Max(at),
                    Of::Min(_) => Whole::Min(at),
                    _ => Whole::Sum(at),
                });
            }
        }
    }
    Some((calls, wholes))
}

enum What {
    Average(usize),
    Call(Of, Kind),
    DecimalAverage(usize, u8, i8),
}

fn what(function: &AggregateFunction, names: &Names<'_>, apart: &dyn Fn(usize) -> bool) -> Option<What> {
    let AggregateFunctionParams { args, distinct, .. } = &function.params;
    let [arg] = args.as_slice() else { return None };
    let kind = |column: usize| names.fields.get(column).map(|field| field.kind);
    match (function.func.name(), distinct) {
        ("count", false) => match arg {
            Expr::Literal(value, _) if *value != ScalarValue::Null && !value.is_null() => {
                Some(What::Call(Of::CountRows, Kind::Int64))
            }
            _ => Some(What::Call(Of::Count(filter::any(arg, names)?), Kind::Int64)),
        },
        ("count", true) => {
            let column = filter::exact(arg, names).filter(|column| apart(*column))?;
            Some(What::Call(Of::CountDistinct(column), Kind::Int64))
        }
        ("max" | "min", _) => {
            let column = plain_exact(arg, names)?;
            let kind = kind(column).filter(|kind| *kind != Kind::Boolean)?;
            // PostgreSQL has neither for UUIDs before its version 18.
            let kind = Some(kind).filter(|kind| *kind != Kind::Uuid)?;
            let of = if function.func.name() == "max" { Of::Max(column) } else { Of::Min(column) };
            Some(What::Call(of, kind))
        }
        ("sum", false) => {
            let column = filter::exact(arg, names)?;
            let whole = match kind(column)? {
                Kind::Decimal(digits, scale) => {
                    // As wide as the engine makes it: a cast before the sum would have made another.
                    plain_exact(arg, names)?;
                    Kind::Decimal(digits.saturating_add(10).min(DECIMAL_DIGITS), scale)
                }
                kind if kind.is_integer() => Kind::Int64,
                _ => return None,
            };
            Some(What::Call(Of::Sum(column), whole))
        }
        ("avg", false) => {
            let Expr::Cast(to) = arg else {
                let column = plain_exact(arg, names)?;
                let Kind::Decimal(digits, scale) = kind(column)? else { return None };
                return Some(What::DecimalAverage(column, digits, scale));
            };
            let column = plain_exact(&to.expr, names)?;
            let small = matches!(kind(column)?, Kind::Int16 | Kind::Int32);
            (small && *to.field.data_type() == DataType::Float64).then_some(What::Average(column))
        }
        _ => None,
    }
}

fn plain_exact(expr: &Expr, names: &Names<'_>) -> Option<usize> {
    plain(expr)?;
    filter::exact(expr, names)
}

fn unnamed(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => unnamed(&alias.expr),
        other => other,
    }
}

/// The plan that puts parts together, with the names and types of the one that it replaces.
fn together(
    aggregate: &Aggregate,
    leaf: &Leaf,
    group: Node,
    keys: usize,
    wholes: &[Whole],
) -> Result<LogicalPlan> {
    let (scan, columns) = Leaf::scan(&leaf.world, group)?;
    let part = |at: usize| {
        columns.get(keys + at).cloned().map(Expr::Column).unwrap_or_else(|| lit(ScalarValue::Null))
    };
    let mut sums = Vec::new();
    for whole in wholes {
        match whole {
            Whole::Average(one, other) | Whole::DecimalAverage(one, other, ..) => {
                sums.extend([sum(part(*one)), sum(part(*other))])
            }
            Whole::Count(at) | Whole::Sum(at) => sums.push(sum(part(*at))),
            Whole::Max(at) => sums.push(max(part(*at))),
            Whole::Min(at) => sums.push(min(part(*at))),
        }
    }
    // Two calls of one name are one to the engine.
    let sums = sums.into_iter().enumerate().map(|(at, sum)| sum.alias(format!("part{at}")));
    let group_by = columns.iter().take(keys).cloned().map(Expr::Column);
    let grouped = scan.aggregate(group_by.collect::<Vec<_>>(), sums.collect::<Vec<_>>())?;
    let mut found = grouped.schema().columns().into_iter().map(Expr::Column);
    let mut next = || found.next().unwrap_or_else(|| lit(ScalarValue::Null));
    let mut answer = Vec::new();
    for (at, (relation, field)) in aggregate.schema.iter().enumerate() {
        let value = match at.checked_sub(keys).and_then(|at| wholes.get(at)) {
            Some(Whole::Average(..)) => {
                let (sum, count) = (next(), next());
                cast(sum, DataType::Float64) / cast(count, DataType::Float64)
            }
            Some(Whole::DecimalAverage(_, _, digits, scale)) => {
                let (sum, count) = (next(), next());
                average::of(sum, count, *digits, *scale)
            }
            Some(Whole::Count(_)) => {
                let count = next();
                when(count.clone().is_null(), lit(0_i64)).otherwise(count)?
            }
            Some(Whole::Max(_) | Whole::Min(_) | Whole::Sum(_)) | None => next(),
        };
        let typed = cast_to(value, field.data_type(), &grouped)?;
        answer.push(typed.alias_qualified(relation.cloned(), field.name()));
    }
    grouped.project(answer)?.build()
}

fn cast_to(
    value: Expr,
    wanted: &DataType,
    below: &datafusion::logical_expr::LogicalPlanBuilder,
) -> Result<Expr> {
    use datafusion::logical_expr::ExprSchemable as _;
    let is = value.get_type(below.schema())?;
    Ok(if is == *wanted { value } else { cast(value, wanted.clone()) })
}
