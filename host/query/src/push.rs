//! What may be pushed to shards: one module for each kind, with the rule of when it is exact. They rewrite the engine's plan after its own
//! rules have run, so that all that they look at is simplified, and typed, already.
//!
//! Each recognises a shape over a [`Leaf`], a scan of shards below renamed columns, and puts a scan of more in its place. What
//! is not recognised stays as it is: the engine answers it from plain rows.

use std::sync::Arc;

use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, DFSchema, DFSchemaRef, Result};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

use crate::fragment::Node;
use crate::table::Fragment;
use crate::world::World;

mod aggregate;
mod average;
pub(crate) mod filter;
mod join;
mod top;

/// What is pushed; all of it, but for tests, which compare with what is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pushes {
    /// Groups, as parts.
    pub aggregates: bool,
    /// Conditions.
    pub filters: bool,
    /// Joins of rows that lie together.
    pub joins: bool,
    /// `LIMIT`, and the first rows of an order.
    pub limits: bool,
}

impl Pushes {
    /// All that is proved.
    pub const ALL: Self = Self { aggregates: true, filters: true, joins: true, limits: true };
    /// Plain scans of some columns.
    pub const NONE: Self = Self { aggregates: false, filters: false, joins: false, limits: false };
}

/// The rule of the engine's optimiser that pushes.
#[derive(Debug)]
pub(crate) struct PushToShards(pub(crate) Pushes);

impl OptimizerRule for PushToShards {
    fn name(&self) -> &'static str {
        "push_to_shards"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let pushed = match &plan {
            LogicalPlan::Aggregate(node) if self.0.aggregates => aggregate::push(node)?,
            LogicalPlan::Join(node) if self.0.joins => join::push(node)?,
            LogicalPlan::Sort(node) if self.0.limits => top::push(node)?,
            _ => None,
        };
        Ok(pushed.map_or_else(|| Transformed::no(plan), Transformed::yes))
    }
}

/// A scan of shards, with its columns as the plan above calls them.
pub(crate) struct Leaf {
    pub(crate) node: Node,
    /// Its columns' names, one for each of the node's.
    pub(crate) schema: DFSchemaRef,
    pub(crate) world: Arc<World>,
}

impl Leaf {
    /// Looks through names and choices of columns.
    pub(crate) fn of(plan: &LogicalPlan) -> Option<Self> {
        match plan {
            LogicalPlan::Projection(projection) => {
                let below = Self::of(&projection.input)?;
                let columns = projection.expr.iter().map(|expr| below.column(plain(expr)?));
                let columns = columns.collect::<Option<Vec<_>>>()?;
                Some(Self { node: below.node.pick(columns), schema: Arc::clone(&projection.schema), ..below })
            }
            LogicalPlan::SubqueryAlias(alias) => {
                let below = Self::of(&alias.input)?;
                Some(Self { schema: Arc::clone(&alias.schema), ..below })
            }
            LogicalPlan::TableScan(scan) => {
                let provider = source_as_provider(&scan.source).ok()?;
                let fragment = provider.downcast_ref::<Fragment>()?;
                let filters: Vec<&Expr> = scan.filters.iter().collect();
                let node = fragment.narrowed(scan.projection.as_ref(), &filters, scan.fetch)?;
                let world = Arc::clone(fragment.world());
                Some(Self { node, schema: Arc::clone(&scan.projected_schema), world })
            }
            _ => None,
        }
    }

    /// The place of a column.
    pub(crate) fn column(&self, column: &Column) -> Option<usize> {
        self.schema.maybe_index_of_column(column)
    }

    /// A plan that scans this, whose columns have the names of a schema.
    pub(crate) fn plan(world: &Arc<World>, node: Node, schema: &DFSchema) -> Result<LogicalPlan> {
        let (scan, columns) = Self::scan(world, node)?;
        let named = columns.into_iter().zip(schema.iter()).map(|(column, (relation, field))| {
            Expr::Column(column).alias_qualified(relation.cloned(), field.name())
        });
        scan.project(named.collect::<Vec<_>>())?.build()
    }

    /// A plan that scans this, with names of its own.
    pub(crate) fn scan(world: &Arc<World>, node: Node) -> Result<(LogicalPlanBuilder, Vec<Column>)> {
        let name = world.name();
        let fragment = Arc::new(Fragment::nameless(node, Arc::clone(world)));
        let scan = LogicalPlanBuilder::scan(name, provider_as_source(fragment), None)?;
        let columns = scan.schema().columns();
        Ok((scan, columns))
    }
}

/// The column that an expression is, under whatever name.
pub(crate) fn plain(expr: &Expr) -> Option<&Column> {
    match expr {
        Expr::Alias(alias) => plain(&alias.expr),
        Expr::Column(column) => Some(column),
        _ => None,
    }
}
