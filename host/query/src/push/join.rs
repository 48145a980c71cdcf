//! Joins on shards: of rows that lie together because both sides' tenant is the same, and with reference tables, of which each shard has
//! a whole copy. Semi-joins and anti-joins (`IN`, `EXISTS`) as well.
//!
//! Exact where every partner of a row is on the row's own shard, and each pair comes from one shard alone. So a reference table may
//! not be the side whose rows come without partners: they would come from each shard.

use datafusion::common::{Column, DFSchema, JoinType, NullEquality, Result};
use datafusion::logical_expr::LogicalPlan;
use datafusion::logical_expr::logical_plan::Join as Joined;
use datafusion::logical_expr::utils::split_conjunction;

use super::Leaf;
use super::filter::{self, Names};
use crate::fragment::{Field, Join, Node};

pub(super) fn push(join: &Joined) -> Result<Option<LogicalPlan>> {
    let Some((kind, left, right)) = sides(join) else { return Ok(None) };
    let Some(on) = pairs(join, &left, &right) else { return Ok(None) };
    if !lies_together(kind, &left, &right, &on) {
        return Ok(None);
    }
    let mut fields = left.node.fields();
    fields.extend(right.node.fields());
    let both = left.schema.join(&right.schema)?;
    let Some(tests) = tests(join, &left, &both, &fields) else { return Ok(None) };
    let node = Node::Join { join: kind, left: Box::new(left.node), right: Box::new(right.node), on, tests };
    Leaf::plan(&left.world, node, &join.schema).map(Some)
}

fn sides(join: &Joined) -> Option<(Join, Leaf, Leaf)> {
    let kind = match join.join_type {
        JoinType::Inner => Join::Inner,
        JoinType::Left => Join::Left,
        JoinType::LeftAnti => Join::Anti,
        JoinType::LeftSemi => Join::Semi,
        _ => return None,
    };
    // NOT IN with NULL, and NULL that equals NULL, are other questions.
    if join.null_aware || join.null_equality != NullEquality::NullEqualsNothing || join.on.is_empty() {
        return None;
    }
    let (left, right) = (Leaf::of(&join.left)?, Leaf::of(&join.right)?);
    (left.node.is_whole() && right.node.is_whole()).then_some((kind, left, right))
}

/// The columns that must be equal, by their places on each side.
fn pairs(join: &Joined, left: &Leaf, right: &Leaf) -> Option<Vec<(usize, usize)>> {
    let (lefts, rights) = (left.node.fields(), right.node.fields());
    let pair = |one: usize, other: usize| {
        lefts.get(one)?.kind.alike(rights.get(other)?.kind).then_some((one, other))
    };
    let pairs = join.on.iter().map(|(one, other)| {
        let one = filter::exact(one, &names(left, &lefts, &|column| left.column(column)))?;
        let other = filter::exact(other, &names(right, &rights, &|column| right.column(column)))?;
        pair(one, other)
    });
    pairs.collect()
}

fn lies_together(kind: Join, left: &Leaf, right: &Leaf, on: &[(usize, usize)]) -> bool {
    let (lefts, rights) = (left.node.fields(), right.node.fields());
    let is_tenant = |fields: &[Field], at: usize| fields.get(at).is_some_and(|field| field.tenant);
    let by_tenant = on.iter().any(|(one, other)| is_tenant(&lefts, *one) && is_tenant(&rights, *other));
    match (left.node.is_reference(), right.node.is_reference()) {
        (_, true) => true,
        (true, false) => kind == Join::Inner,
        (false, false) => by_tenant,
    }
}

/// The join's other conditions.
fn tests(
    join: &Joined,
    left: &Leaf,
    both: &DFSchema,
    fields: &[Field],
) -> Option<Vec<crate::fragment::Test>> {
    let Some(filter) = &join.filter else { return Some(Vec::new()) };
    let column = |column: &Column| both.maybe_index_of_column(column);
    let names = names(left, fields, &column);
    split_conjunction(filter).into_iter().map(|part| filter::test(part, &names)).collect()
}

fn names<'a>(leaf: &'a Leaf, fields: &'a [Field], column: &'a dyn Fn(&Column) -> Option<usize>) -> Names<'a> {
    Names { column, fields, world: &leaf.world }
}
