//! The first rows of an order: each shard sends its own first rows, and the engine takes the first of those.
//!
//! Exact where every column of the order is ordered alike ([`crate::kind::Kind::exact`]), with the place of NULL said. Among rows that the order does
//! not tell apart, which ones come is nobody's promise, on one database neither.

use std::sync::Arc;

use datafusion::common::{Column, Result};
use datafusion::logical_expr::LogicalPlan;
use datafusion::logical_expr::logical_plan::Sort;

use super::{Leaf, plain};
use crate::defaults::TOP_MAX;
use crate::fragment::Order;

/// One column of an order: its name at some height of the plan, ascending, NULL first.
type By = (Column, bool, bool);

pub(super) fn push(sort: &Sort) -> Result<Option<LogicalPlan>> {
    let Some(rows) = sort.fetch.filter(|rows| *rows <= TOP_MAX) else { return Ok(None) };
    let by = sort.expr.iter().map(|by| Some((plain(&by.expr)?.clone(), by.asc, by.nulls_first)));
    let Some(by) = by.collect::<Option<Vec<By>>>() else { return Ok(None) };
    let Some(input) = below(&sort.input, &by, rows)? else { return Ok(None) };
    Ok(Some(LogicalPlan::Sort(Sort { input: Arc::new(input), ..sort.clone() })))
}

/// Finds the scan below projections, which change columns and no rows.
fn below(plan: &LogicalPlan, by: &[By], rows: usize) -> Result<Option<LogicalPlan>> {
    if let Some(leaf) = Leaf::of(plan) {
        return at(&leaf, by, rows);
    }
    let LogicalPlan::Projection(projection) = plan else { return Ok(None) };
    let renamed = by.iter().map(|(column, ascending, nulls_first)| {
        let at = projection.schema.maybe_index_of_column(column)?;
        Some((plain(projection.expr.get(at)?)?.clone(), *ascending, *nulls_first))
    });
    let Some(renamed) = renamed.collect::<Option<Vec<By>>>() else { return Ok(None) };
    let Some(input) = below(&projection.input, &renamed, rows)? else { return Ok(None) };
    plan.with_new_exprs(projection.expr.clone(), vec![input]).map(Some)
}

fn at(leaf: &Leaf, by: &[By], rows: usize) -> Result<Option<LogicalPlan>> {
    if !leaf.node.is_whole() {
        return Ok(None);
    }
    let fields = leaf.node.fields();
    let order = by.iter().map(|(name, ascending, nulls_first)| {
        let column = leaf.column(name)?;
        let exact = leaf.world.exact(fields.get(column)?.kind);
        exact.then_some(Order { ascending: *ascending, column, nulls_first: *nulls_first })
    });
    let Some(order) = order.collect::<Option<Vec<_>>>() else { return Ok(None) };
    Leaf::plan(&leaf.world, leaf.node.clone().top(order, rows), &leaf.schema).map(Some)
}
