//! Queries across this region's shards: which there are, by which role each is read, and where tenants live.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use portolan_core::ids::{RegionName, ShardName, TenantName};
use portolan_core::snapshot::Live;
use portolan_core::tenant_table::Tables;
use portolan_core::topology::Topology;
use portolan_query::{Address, Limits, Picture, Place, Sources, worker::Workers};
use portolan_sharding::Engine;

use crate::cli::QUERY_WORKER;
use crate::config::{Config, QueryConfig};

/// Workers are this very program, whatever has become of its file since.
pub(crate) fn workers() -> anyhow::Result<Workers> {
    let link = PathBuf::from("/proc/self/exe");
    let program =
        if link.exists() { link } else { std::env::current_exe().context("find the program's own file")? };
    Ok(Workers::new(program, vec![QUERY_WORKER.into()]))
}

/// The shards' databases in this region, and the declared tables.
#[derive(Clone, Debug, Default)]
pub(crate) struct Databases {
    /// Where each is, or the region that has it.
    engines: Vec<(ShardName, Result<Engine, RegionName>)>,
    /// Those that are no database of portolan's.
    externals: Vec<ShardName>,
    limits: Limits,
    tables: Tables,
}

impl Databases {
    pub(crate) fn of(config: &Config) -> Self {
        let engines = config.shards.iter().map(|(name, shard)| {
            // The primary alone surely has what was written: a copy may be behind.
            let here = shard.primary == config.local;
            let engine = shard.stores.get(&config.local).filter(|_| here).cloned();
            (name.clone(), engine.ok_or_else(|| shard.primary.clone()))
        });
        Self {
            engines: engines.collect(),
            externals: config.externals.keys().cloned().collect(),
            limits: limits(&config.query),
            tables: config.tables.clone(),
        }
    }
}

/// Databases and tenants' homes, as of one moment.
#[derive(Clone, Debug)]
pub(crate) struct Stores {
    pub(crate) databases: Arc<Databases>,
    pub(crate) topology: Arc<Topology>,
}

impl Sources for Stores {
    fn picture(&self, tenant: Option<&TenantName>, named: &BTreeSet<TenantName>) -> Picture {
        let place = |engine: &Result<Engine, RegionName>| match engine {
            Ok(Engine::Postgres(config)) => {
                // The writer sees the rows of the tenant that it names, by row security; the applier sees all.
                let passwords = &config.access.passwords;
                let (url, password) = match tenant {
                    Some(_) => (&config.writer, &passwords.writer),
                    None => (&config.applier, &passwords.applier),
                };
                let (access, password, url) = (config.access.clone(), password.clone(), url.clone());
                Place::At(Address::Postgres { access, password, url })
            }
            Ok(Engine::Sqlite(path)) => Place::At(Address::Sqlite(path.clone())),
            Err(primary) => Place::Away(format!("it is written in `{primary}`: ask there")),
        };
        let engines = &self.databases.engines;
        let shards = engines.iter().map(|(name, engine)| (name.as_str().to_owned(), place(engine)));
        let external = |name: &ShardName| {
            let why = "its engine replicates itself: ask that one";
            (name.as_str().to_owned(), Place::Away(why.to_owned()))
        };
        let shards = shards.chain(self.databases.externals.iter().map(external));
        let homes = named.iter().chain(tenant).map(|tenant| {
            let home = self.topology.shard_of(tenant).map(|(_, shard)| shard.name.as_str().to_owned());
            (tenant.as_str().to_owned(), home)
        });
        Picture {
            homes: homes.collect(),
            limits: self.databases.limits.clone(),
            shards: shards.collect(),
            tables: self.databases.tables.iter().cloned().collect(),
        }
    }
}

/// The shards of the running configuration.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) databases: Arc<ArcSwap<Databases>>,
    pub(crate) live: Arc<Live>,
}

impl Sources for Running {
    fn picture(&self, tenant: Option<&TenantName>, named: &BTreeSet<TenantName>) -> Picture {
        let topology = Arc::clone(&self.live.load().topology);
        Stores { databases: self.databases.load_full(), topology }.picture(tenant, named)
    }
}

/// How much one query may take.
fn limits(config: &QueryConfig) -> Limits {
    let usual = Limits::default();
    let time_ms = config.time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    Limits {
        answer_bytes: config.answer_bytes.unwrap_or(usual.answer_bytes),
        answer_rows: config.answer_rows.unwrap_or(usual.answer_rows),
        fan_out: config.statements.unwrap_or(usual.fan_out),
        memory_bytes: config.memory_bytes.unwrap_or(usual.memory_bytes),
        scan_rows: config.scan_rows.unwrap_or(usual.scan_rows),
        time_ms: time_ms.unwrap_or(usual.time_ms),
    }
}
