//! The databases of both shards of a move, reached from this node by connections of the move's own, so that it never waits for those
//! of requests, nor they for its.

use std::collections::BTreeMap;

use portolan_admin::{Code, Problem};
use portolan_core::ids::{RegionName, ResidencyName, ShardName};
use portolan_core::log::Epoch;
use portolan_core::tenant_table::Tables;
use portolan_sharding::defaults::MOVE_REPLICAS;
use portolan_sharding::relocate::{Replicas, Seat};
use portolan_sharding::{Engine, Store};
use tokio::time::timeout;

use super::defaults::OPEN;
use crate::config::{Config, Moving, ShardConfig};

/// What moves know of the running configuration.
#[derive(Debug)]
pub(crate) struct Known {
    pub(super) local: RegionName,
    pub(super) moving: Moving,
    residency: BTreeMap<ShardName, Option<ResidencyName>>,
    pub(super) shards: BTreeMap<ShardName, ShardConfig>,
    tables: Tables,
}

impl Known {
    pub(crate) fn of(config: &Config) -> Self {
        let class = |shard: &portolan_core::directory::Shard| (shard.name.clone(), shard.residency.clone());
        Self {
            local: config.local.clone(),
            moving: config.moving,
            residency: config.directory.shards().iter().map(class).collect(),
            shards: config.shards.clone(),
            tables: config.tables.clone(),
        }
    }

    /// A shard of this name.
    pub(super) fn shard(&self, name: &ShardName) -> Result<&ShardConfig, Problem> {
        self.shards
            .get(name)
            .ok_or_else(|| Problem::not_found(format!(
                    "shard `{name}`, or its engine replicates itself and no tenant is moved there or away: `portolan shard list` shows them"
                )))
    }

    /// A shard that is written in this region.
    pub(super) fn own(&self, name: &ShardName) -> Result<&ShardConfig, Problem> {
        let shard = self.shard(name)?;
        if shard.primary == self.local {
            return Ok(shard);
        }
        let detail = format!(
            "shard `{name}` is written in region `{}`: ask a node there, with --api https://HOST:PORT",
            shard.primary
        );
        Err(Problem::new(Code::Conflict, detail))
    }

    /// Opens a shard where it is written, with the declared tables as they are there.
    pub(super) async fn seat(&self, name: &ShardName, epoch: Epoch) -> Result<Seat, Problem> {
        let shard = self.shard(name)?;
        let (primary, local) = (&shard.primary, &self.local);
        let unreachable = |why: &str| {
            Problem::new(
                Code::Unavailable,
                format!(
                    "the database of shard `{name}` cannot be used from here: {why}; {}",
                    advice(primary, local, name)
                ),
            )
        };
        let Some(engine) = shard.stores.get(primary) else {
            return Err(unreachable("the configuration does not say where it is"));
        };
        if matches!(engine, Engine::Sqlite(_)) && primary != local {
            return Err(unreachable(&format!("it is a file on a machine of region `{primary}`")));
        }
        let opened = timeout(OPEN, async {
            let store = Store::open(engine, primary.clone()).await?;
            let schema = store.schema().await?;
            store.declare(&self.tables, schema).await?;
            Ok::<_, portolan_sharding::relocate::Error>(store)
        });
        let opened = opened.await.map_err(|_| unreachable(&format!("no answer within {OPEN:?}")))?;
        let store = opened.map_err(|error| unreachable(&error.to_string()))?;
        let residency = self.residency.get(name).cloned().flatten();
        let regions = shard.stores.keys().filter(|region| *region != primary).cloned().collect();
        let replicas = shard.loss.map(|_| Replicas { patience: MOVE_REPLICAS, regions });
        Ok(Seat { epoch, replicas, residency, shard: name.clone(), store })
    }
}

/// What helps when a shard's database is not reached.
fn advice(primary: &RegionName, local: &RegionName, name: &ShardName) -> String {
    if primary == local {
        return "see `portolan shard list`".to_owned();
    }
    format!(
        "a move is carried out in `{local}`, where the tenant is, over the address that `[shard.{name}.store.{primary}]` names: let that \
         be reached from here, or bring the shard here for the move with `portolan shard promote {name} --to {local}`"
    )
}
