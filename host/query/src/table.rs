//! A relation of shards as a table of the engine.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{Field as ArrowField, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Column, Result};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;

use crate::error::Error;
use crate::fragment::{Field, Node, Test};
use crate::push::filter::{self, Names};
use crate::scan::ShardScan;
use crate::world::World;

/// A relation of shards: a table, or what was pushed.
#[derive(Debug)]
pub(crate) struct Fragment {
    node: Node,
    schema: SchemaRef,
    world: Arc<World>,
}

impl Fragment {
    /// A table under its columns' names.
    pub(crate) fn new(node: Node, world: Arc<World>) -> Self {
        let schema = schema(&node.fields());
        Self { node, schema, world }
    }

    /// A relation whose columns are numbered: two of them may have one name.
    pub(crate) fn nameless(node: Node, world: Arc<World>) -> Self {
        let numbered = node.fields().into_iter().enumerate();
        let numbered: Vec<Field> =
            numbered.map(|(at, field)| Field { name: format!("c{at}"), ..field }).collect();
        Self { schema: schema(&numbered), node, world }
    }

    pub(crate) const fn world(&self) -> &Arc<World> {
        &self.world
    }

    /// This with fewer rows and columns. None when a filter is not pushed.
    pub(crate) fn narrowed(
        &self,
        projection: Option<&Vec<usize>>,
        filters: &[&Expr],
        limit: Option<usize>,
    ) -> Option<Node> {
        let fields = self.node.fields();
        let tests = filters.iter().map(|filter| self.test(filter, &fields)).collect::<Option<Vec<_>>>()?;
        let mut node = self.node.clone().filter(tests);
        if let Some(columns) = projection {
            node = node.pick(columns.clone());
        }
        if let Some(rows) = limit.filter(|_| self.world.pushes.limits) {
            node = node.top(Vec::new(), rows);
        }
        Some(node)
    }

    fn test(&self, expr: &Expr, fields: &[Field]) -> Option<Test> {
        if !self.world.pushes.filters {
            return None;
        }
        let column = |column: &Column| self.schema.index_of(column.name()).ok();
        let test = filter::test(expr, &Names { column: &column, fields, world: &self.world })?;
        self.node.takes_filter(&test.columns()).then_some(test)
    }
}

#[async_trait]
impl TableProvider for Fragment {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let fields = self.node.fields();
        let support = |filter: &&Expr| match self.test(filter, &fields) {
            Some(_) => TableProviderFilterPushDown::Exact,
            None => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(support).collect())
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let filters: Vec<&Expr> = filters.iter().collect();
        let node = self.narrowed(projection, &filters, limit);
        let node =
            node.ok_or_else(|| Error::Internal("a filter was pushed that cannot be".to_owned()).external())?;
        let schema = match projection {
            Some(columns) => Arc::new(self.schema.project(columns)?),
            None => Arc::clone(&self.schema),
        };
        let scan = ShardScan::new(node, schema, Arc::clone(&self.world)).map_err(Error::external)?;
        Ok(Arc::new(scan))
    }
}

fn schema(fields: &[Field]) -> SchemaRef {
    let fields = fields.iter().map(|field| ArrowField::new(&field.name, field.kind.arrow(), field.nullable));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}
