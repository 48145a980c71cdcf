//! A query from its text to the stream of its rows: what it may be, what it sees, what it costs, and then its run.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex};

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{
    CatalogProvider as _, MemoryCatalogProvider, MemorySchemaProvider, SchemaProvider as _,
};
use datafusion::config::Dialect as SqlDialect;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, TrackConsumersPool};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SendableRecordBatchStream, SessionState, SessionStateBuilder};
use datafusion::optimizer::Optimizer;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::{SQLOptions, SessionConfig};
use futures_util::future::join_all;
use portolan_changelog::Dialect;
use portolan_core::tenant_table::TenantTable;
use portolan_foundation::clock;
use serde::{Deserialize, Serialize};

use crate::answer::Format;
use crate::catalogue::Catalogue;
use crate::cost;
use crate::defaults::{BATCH_ROWS, PARTITIONS};
use crate::error::Error;
use crate::fragment::Node;
use crate::fragment::sql::Scope;
use crate::limits::Limits;
use crate::push::{PushToShards, Pushes};
use crate::source::{Address, Source};
use crate::statement;
use crate::table::Fragment;
use crate::world::{Shard, World};

/// A query with all that its worker must know. It holds addresses with passwords, and travels by a pipe alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    /// How the answer is written.
    pub format: Format,
    /// On which shard each tenant is that the statement names; none for one that is on no shard. Tenants that are not here are looked
    /// for everywhere.
    pub homes: BTreeMap<String, Option<String>>,
    /// How much it may take.
    pub limits: Limits,
    /// May shards that do not answer be left out?
    pub partial: bool,
    /// The shards, by name.
    pub shards: BTreeMap<String, Place>,
    /// The statement.
    pub sql: String,
    /// The declared tables.
    pub tables: Vec<TenantTable>,
    /// Whose rows are seen; all tenants', when absent.
    pub tenant: Option<String>,
}

/// Where a shard is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// Here.
    At(Address),
    /// Not here; why.
    Away(String),
}

/// The rows of an answer, and what is to be known of them.
pub struct Rows {
    /// Shards that were left out.
    pub missing: Vec<String>,
    /// What the columns are.
    pub schema: SchemaRef,
    /// The rows, as they come.
    pub stream: SendableRecordBatchStream,
    pub(crate) world: Arc<World>,
}

impl std::fmt::Debug for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rows")
            .field("missing", &self.missing)
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

/// Runs a query. Its rows come while they are taken; when the stream is dropped, shards end what they are at.
///
/// # Errors
/// As [`Error`] says. Nothing that writes is begun.
///
/// # Cancel safety
/// Nothing is left behind when it is dropped.
pub async fn run(query: &Query, pushes: Pushes) -> Result<Rows, Error> {
    statement::parse(&query.sql)?;
    let opening = tokio::time::timeout(query.limits.time(), open(query)).await;
    let opened = opening.map_err(|_| Error::Time(query.limits.time_ms))??;
    run_on(query, &opened, pushes).await
}

/// Shards that are connected to, with what they have.
pub(crate) struct Opened {
    catalogue: Catalogue,
    shards: Arc<[Shard]>,
}

/// The same over shards that are open.
pub(crate) async fn run_on(query: &Query, opened: &Opened, pushes: Pushes) -> Result<Rows, Error> {
    let parsed = statement::parse(&query.sql)?;
    let deadline = clock::now().plus(query.limits.time());
    let Opened { catalogue, shards } = opened;
    let planned = async {
        let scope = query.tenant.clone().map_or(Scope::All, Scope::Tenant);
        let dialects = shards.iter().filter_map(|shard| shard.source.as_ref().ok().map(Source::dialect));
        let world = Arc::new(World {
            deadline,
            dialects: both(dialects),
            homes: query.homes.clone(),
            limits: query.limits.clone(),
            missing: Mutex::new(BTreeSet::new()),
            partial: query.partial,
            pushes,
            scope,
            shards: Arc::clone(shards),
            names: AtomicUsize::new(0),
            rows: AtomicU64::new(0),
        });
        let state = state(&query.limits, pushes)?;
        register(&state, catalogue, &world)?;
        let plan = plan(&state, parsed, catalogue).await?;
        cost::check(&plan, &world).await?;
        Ok((state, plan, world))
    };
    let planned = tokio::time::timeout(query.limits.time(), planned).await;
    let (state, plan, world) = planned.map_err(|_| Error::Time(query.limits.time_ms))??;
    let schema = plan.schema();
    let stream = execute_stream(plan, state.task_ctx()).map_err(|error| Error::of(&error))?;
    Ok(Rows { missing: world.missing(), schema, stream, world })
}

fn both(dialects: impl Iterator<Item = Dialect>) -> Vec<Dialect> {
    let mut both = Vec::new();
    for dialect in dialects {
        if !both.contains(&dialect) {
            both.push(dialect);
        }
    }
    both
}

/// Connects to all shards at once.
pub(crate) async fn open(query: &Query) -> Result<Opened, Error> {
    let opening = query.shards.iter().map(|(name, place)| async move {
        match place {
            Place::At(address) => (name, Source::open(name, address, &query.tables).await),
            Place::Away(why) => (name, Err(why.clone())),
        }
    });
    let (mut shards, mut found) = (Vec::new(), Vec::new());
    for (name, opened) in join_all(opening).await {
        let source = opened.map(|(source, columns)| {
            found.push((name.clone(), columns));
            source
        });
        shards.push(Shard { name: name.clone(), source });
    }
    if found.is_empty() {
        return Err(match shards.into_iter().next() {
            Some(Shard { name, source: Err(why) }) => Error::shard(&name, why),
            _ => Error::Statement("there is no shard: declare one with `[shard.NAME]`".to_owned()),
        });
    }
    Ok(Opened { catalogue: Catalogue::merge(&query.tables, &found), shards: shards.into() })
}

/// The engine, without anything that reads or writes elsewhere.
pub(crate) fn state(limits: &Limits, pushes: Pushes) -> Result<SessionState, Error> {
    let mut config = SessionConfig::new()
        .with_batch_size(BATCH_ROWS)
        .with_target_partitions(PARTITIONS)
        .with_information_schema(false)
        .with_default_catalog_and_schema("portolan", "public");
    let options = config.options_mut();
    // As PostgreSQL has it: 1.5 is exact, and moments are told in UTC.
    options.sql_parser.parse_float_as_decimal = true;
    options.sql_parser.dialect = SqlDialect::PostgreSQL;
    options.execution.time_zone = Some("+00:00".to_owned());
    let pool = FairSpillPool::new(limits.memory_bytes);
    let pool = TrackConsumersPool::new(pool, NonZeroUsize::MIN);
    // Tenants' rows are on no disk but the shards'.
    let disk = DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled);
    let runtime = RuntimeEnvBuilder::new().with_memory_pool(Arc::new(pool)).with_disk_manager_builder(disk);
    let runtime = runtime.build_arc().map_err(|error| Error::of(&error))?;
    Ok(SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_default_features()
        .with_optimizer_rules(rules(pushes))
        .build())
}

/// The engine's rules, then ours, then the one that takes distinct counts apart: some of those are pushed as they are.
fn rules(pushes: Pushes) -> Vec<Arc<dyn datafusion::optimizer::OptimizerRule + Send + Sync>> {
    let (apart, mut rules): (Vec<_>, Vec<_>) = Optimizer::new()
        .rules
        .into_iter()
        .partition(|rule| rule.name() == "single_distinct_aggregation_to_group_by");
    rules.push(Arc::new(PushToShards(pushes)));
    rules.extend(apart);
    rules
}

fn register(state: &SessionState, catalogue: &Catalogue, world: &Arc<World>) -> Result<(), Error> {
    let failed = |error: datafusion::error::DataFusionError| Error::of(&error);
    let schema = Arc::new(MemorySchemaProvider::new());
    for (name, table) in &catalogue.tables {
        let fragment = Fragment::new(Node::Scan(Arc::clone(table)), Arc::clone(world));
        schema.register_table(name.clone(), Arc::new(fragment)).map_err(failed)?;
    }
    let catalog = Arc::new(MemoryCatalogProvider::new());
    catalog.register_schema("public", schema).map_err(failed)?;
    state.catalog_list().register_catalog("portolan".to_owned(), catalog);
    Ok(())
}

async fn plan(
    state: &SessionState,
    parsed: datafusion::sql::parser::Statement,
    catalogue: &Catalogue,
) -> Result<Arc<dyn ExecutionPlan>, Error> {
    let failed = |error: datafusion::error::DataFusionError| Error::of(&error);
    for table in state.resolve_table_references(&parsed).map_err(failed)? {
        if let Some(why) = catalogue.broken.get(table.table()) {
            return Err(Error::Statement(why.clone()));
        }
    }
    let plan = state.statement_to_plan(parsed).await.map_err(failed)?;
    let only_reads =
        SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    only_reads.verify_plan(&plan).map_err(|error| Error::Writes(error.strip_backtrace()))?;
    state.create_physical_plan(&plan).await.map_err(failed)
}
