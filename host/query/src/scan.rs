//! The operator that asks shards: one partition for each, one read-only transaction for each partition.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::Result;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, EmptyRecordBatchStream, ExecutionPlan, PlanProperties,
    ReplaceChildrenOptions,
};
use portolan_changelog::Dialect;

use crate::defaults::BATCHES_WAITING;
use crate::error::Error;
use crate::fragment::Node;
use crate::fragment::sql::{Statement, statement};
use crate::world::World;

/// A relation that shards are asked for.
#[derive(Debug)]
pub(crate) struct ShardScan {
    asked: Vec<usize>,
    node: Node,
    properties: Arc<PlanProperties>,
    schema: SchemaRef,
    world: Arc<World>,
}

impl ShardScan {
    /// Decides which shards are asked.
    ///
    /// # Errors
    /// When one of them does not answer.
    pub(crate) fn new(node: Node, schema: SchemaRef, world: Arc<World>) -> Result<Self, Error> {
        let asked = world.asked(&node)?;
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            // With no shard to ask there is one partition without rows.
            Partitioning::UnknownPartitioning(asked.len().max(1)),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(Self { asked, node, properties: Arc::new(properties), schema, world })
    }

    /// The shards that are asked, by their places, and what each is asked.
    pub(crate) fn statements(&self) -> impl Iterator<Item = (usize, Statement)> {
        self.asked.iter().filter_map(|at| {
            let source = self.world.source(*at).ok()?;
            Some((*at, statement(&self.node, source.dialect(), &self.world.scope)))
        })
    }

    /// What it asks for.
    pub(crate) const fn node(&self) -> &Node {
        &self.node
    }
}

impl DisplayAs for ShardScan {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.asked.iter().filter_map(|at| self.world.shards.get(*at));
        let names: Vec<&str> = names.map(|shard| shard.name.as_str()).collect();
        write!(f, "ShardScan: shards=[{}]", names.join(", "))?;
        for (dialect, name) in [(Dialect::Postgres, "postgres"), (Dialect::Sqlite, "sqlite")] {
            let asked = |at: &usize| self.world.source(*at).is_ok_and(|source| source.dialect() == dialect);
            if self.asked.iter().any(asked) {
                let statement = statement(&self.node, dialect, &self.world.scope);
                write!(f, ", {name}={}", statement.text)?;
                if !statement.values.is_empty() {
                    let values: Vec<String> = statement.values.iter().map(ToString::to_string).collect();
                    write!(f, ", values=[{}]", values.join(", "))?;
                }
            }
        }
        Ok(())
    }
}

impl ExecutionPlan for ShardScan {
    fn name(&self) -> &'static str {
        "ShardScan"
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    /// Reads one shard. The stream's end, or its being dropped, ends the transaction, and what the shard is at within it.
    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let Some(at) = self.asked.get(partition) else {
            return Ok(Box::pin(EmptyRecordBatchStream::new(Arc::clone(&self.schema))));
        };
        let source = self.world.source(*at).map_err(Error::external)?.clone();
        let statement = statement(&self.node, source.dialect(), &self.world.scope);
        let mut builder = RecordBatchReceiverStreamBuilder::new(Arc::clone(&self.schema), BATCHES_WAITING);
        let (batches, schema, world) = (builder.tx(), Arc::clone(&self.schema), Arc::clone(&self.world));
        builder.spawn(async move {
            source.read(&statement, schema, &world, batches).await.map_err(Error::external)
        });
        Ok(builder.build())
    }
}
