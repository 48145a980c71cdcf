//! Tenants' content on this node: where packs and keys are, over which shards, and how it is mounted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use portolan_changelog::{Lease, Store};
use portolan_control::{Shared, bucket};
use portolan_core::directory::Access;
use portolan_core::ids::{RegionName, ShardName, TenantName};
use portolan_core::log::Epoch;
use portolan_core::snapshot::Live;
use portolan_federation::{
    Asking, CONTENT_PATH, CopyReport, Damage, Followed, Homes, Placed, Places, Regions, Service,
};
use portolan_foundation::shutdown::Shutdown;
use portolan_proxy::Services;
use portolan_replication::{Asker, Gateways, Wall as _};
use serde::Serialize;

use super::shards::Shards;
use crate::config::Config;

/// How long a connection to another region may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The service, where the configuration has content.
#[derive(Clone, Debug)]
pub(crate) struct Contents(Option<Arc<Service>>);

/// How tenants' content stands on a node.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Content {
    /// The copies that it has follow the regions that write.
    copies: Vec<CopyReport>,
    /// What was damaged in its packs since it started.
    damage: Damage,
}

/// The shards of this region, and where tenants may be.
#[derive(Debug)]
struct Here {
    live: Arc<Live>,
    shards: Shards,
}

/// The way to other regions' gateways, over connections that stay.
#[derive(Debug)]
struct Ways {
    askers: Arc<Mutex<BTreeMap<RegionName, Asker>>>,
    shards: Shards,
}

impl Contents {
    /// # Errors
    /// When the store of packs makes no sense, or its folder cannot be made.
    pub(super) fn open(
        config: &Config,
        shards: &Shards,
        live: &Arc<Live>,
        runtime: &tokio::runtime::Handle,
    ) -> anyhow::Result<Self> {
        let Some(content) = &config.content else { return Ok(Self(None)) };
        let keyring = content.keyring.clone();
        let places = match &content.store {
            Shared::Folder(folder) => Places::local(folder, keyring)
                .with_context(|| format!("use {} for content", folder.display()))?,
            Shared::S3(s3) => Places { objects: bucket(s3).context("use the bucket of content")?, keyring },
        };
        let homes = Here { live: Arc::clone(live), shards: shards.clone() };
        let (local, callers) = (config.local.clone(), Arc::new(shards.callers()));
        let service = Service::new(Arc::new(homes), &places, local, callers, runtime.clone());
        Ok(Self(Some(Arc::new(service))))
    }

    /// Other services, and this one beside them.
    pub(super) fn beside(&self, services: Services) -> Services {
        match &self.0 {
            Some(service) => services.with(CONTENT_PATH, Arc::clone(service) as _),
            None => services,
        }
    }

    /// Collects what nothing uses, and has copies follow the regions that write, until shutdown.
    pub(super) fn start(&self, shards: &Shards, shutdown: &Shutdown) {
        if let Some(service) = &self.0 {
            let ways = Ways { askers: Arc::default(), shards: shards.clone() };
            service.start(Arc::new(ways), shutdown);
        }
    }

    /// Answers another region, if this is a question about content.
    pub(super) async fn tell(&self, from: &RegionName, question: &[u8]) -> Option<Bytes> {
        self.0.as_ref()?.tell(from, question).await
    }

    /// Takes into a copy, where an epoch is to begin, what copies in other regions have more.
    pub(super) async fn gather(
        &self,
        (shard, local, store): (ShardName, RegionName, Store),
        epoch: Epoch,
        others: Vec<RegionName>,
    ) {
        if let Some(service) = &self.0 {
            let copy = Followed { epoch, primary: local, shard, store };
            Box::pin(service.gather(&copy, others)).await;
        }
    }

    /// How tenants' content stands here; none where the configuration has none.
    pub(super) fn report(&self) -> Option<Content> {
        let service = self.0.as_ref()?;
        Some(Content { copies: service.copies(), damage: service.damage() })
    }

    /// As Prometheus reads it.
    pub(super) fn metrics(&self, text: &mut String) {
        type Value = (&'static str, &'static str, &'static str, fn(&CopyReport) -> Option<f64>);
        let values: [Value; 8] = [
            ("behind", "gauge", "Tenants that lack something.", |copy| Some(copy.behind as f64)),
            ("behind_seconds", "gauge", "How old what is shown of the others may be.", |copy| {
                copy.behind_ms.map(|behind| behind as f64 / 1e3)
            }),
            ("bytes_total", "counter", "Bytes that came.", |copy| Some(copy.bytes as f64)),
            ("changes_total", "counter", "Changes that were taken.", |copy| Some(copy.changes as f64)),
            ("chunks_total", "counter", "Chunks that came whole.", |copy| Some(copy.chunks as f64)),
            ("damaged_total", "counter", "Chunks that came and were not what their names say.", |copy| {
                Some(copy.damaged as f64)
            }),
            ("stranded", "gauge", "Changes that the region which writes never had.", |copy| {
                Some(copy.stranded as f64)
            }),
            ("withheld", "gauge", "Tenants whose content may not be here.", |copy| {
                Some(copy.withheld as f64)
            }),
        ];
        let Some(Content { copies, damage }) = self.report() else { return };
        for (name, help, value) in [
            ("damage_found", "Chunks that were damaged in their packs here.", damage.found),
            ("damage_repaired", "Damaged chunks that another region gave again.", damage.repaired),
        ] {
            text.push_str(&format!(
                "# HELP portolan_content_{name}_total {help}\n# TYPE portolan_content_{name}_total counter\n\
                 portolan_content_{name}_total {value}\n"
            ));
        }
        if copies.is_empty() {
            return;
        }
        for (name, kind, help, value) in values {
            text.push_str(&format!(
                "# HELP portolan_content_{name} {help}\n# TYPE portolan_content_{name} {kind}\n"
            ));
            for copy in &copies {
                if let Some(value) = value(copy) {
                    let (shard, source) = (&copy.shard, &copy.source);
                    text.push_str(&format!(
                        "portolan_content_{name}{{shard=\"{shard}\",source=\"{source}\"}} {value}\n"
                    ));
                }
            }
        }
    }
}

impl Regions for Ways {
    fn ask(&self, shard: &ShardName, region: &RegionName, question: Bytes) -> Asking {
        let way = self.shards.ways(shard).remove(region).or_else(|| self.shards.way(region));
        let lane = self.shards.lane(shard, region);
        let (askers, region) = (Arc::clone(&self.askers), region.clone());
        Box::pin(async move {
            let (Some(way), Some(lane)) = (way, lane) else {
                return Err("no way leads there: set `[peer]`, and region.NAME.replication".to_owned());
            };
            let answer = asked(&askers, &region, &way, question).await?;
            lane.pass(answer.as_ref().map_or(0, |answer| answer.len() as u64)).await;
            Ok(answer)
        })
    }
}

/// Asks over the connection that is there, else over another one, which stays.
async fn asked(
    askers: &Mutex<BTreeMap<RegionName, Asker>>,
    region: &RegionName,
    way: &Gateways,
    question: Bytes,
) -> Result<Option<Bytes>, String> {
    let known = askers.lock().unwrap_or_else(PoisonError::into_inner).get(region).cloned();
    if let Some(mut asker) = known {
        match asker.ask(question.clone()).await {
            Ok(answer) => return Ok(answer),
            // It may have ended since: another is tried before this counts.
            Err(_) => drop(askers.lock().unwrap_or_else(PoisonError::into_inner).remove(region)),
        }
    }
    let mut asker = connected(way).await?;
    let answer = asker.ask(question).await.map_err(|error| error.to_string())?;
    askers.lock().unwrap_or_else(PoisonError::into_inner).insert(region.clone(), asker);
    Ok(answer)
}

/// A connection to any of a region's gateways.
async fn connected(way: &Gateways) -> Result<Asker, String> {
    let mut last = "it has no address".to_owned();
    for address in way.addresses() {
        match tokio::time::timeout(CONNECT_TIMEOUT, way.asker(address)).await {
            Ok(Ok(asker)) => return Ok(asker),
            Ok(Err(error)) => last = format!("{address}: {error}"),
            Err(_) => last = format!("{address}: no answer"),
        }
    }
    Err(last)
}

impl Homes for Here {
    fn admits(&self, tenant: &TenantName, region: &RegionName) -> bool {
        self.shards.admits(tenant, region)
    }

    fn followed(&self) -> Vec<Followed> {
        let held = self.shards.held().into_iter();
        let followed = held.filter_map(|(shard, store)| {
            let (epoch, primary) = self.shards.meant(&shard)?;
            let leads = self.shards.local().is_some_and(|local| local == primary);
            (!leads).then_some(Followed { epoch, primary, shard, store })
        });
        followed.collect()
    }

    fn keepers(&self, shard: &ShardName) -> Vec<RegionName> {
        self.shards.followers_of(shard)
    }

    fn leased(&self, shard: &ShardName) -> Option<(Store, Lease)> {
        self.shards.leased(shard)
    }

    fn placed(&self, tenant: &TenantName) -> Option<Placed> {
        let topology = &self.live.load().topology;
        let (place, shard) = topology.shard_of(tenant)?;
        let is_served = place.access != Access::Suspended && topology.tenants.barred(Some(tenant)).is_none();
        let regions = shard.replicas.iter().cloned().chain([shard.primary.clone()]).collect();
        (is_served && !shard.external).then(|| Placed {
            primary: shard.primary.clone(),
            regions,
            shard: shard.name.clone(),
        })
    }

    fn regions(&self) -> Vec<RegionName> {
        self.live.load().topology.regions.keys().cloned().collect()
    }

    fn shards(&self) -> Vec<ShardName> {
        self.shards.names()
    }
}
