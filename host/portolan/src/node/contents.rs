//! Tenants' content on this node: where packs and keys are, over which shards, and how it is mounted.

use std::sync::Arc;

use anyhow::Context as _;
use portolan_changelog::{Lease, Store};
use portolan_control::{Shared, bucket};
use portolan_core::ids::{RegionName, ShardName, TenantName};
use portolan_core::snapshot::Live;
use portolan_federation::{CONTENT_PATH, Homes, Places, Service};
use portolan_foundation::shutdown::Shutdown;
use portolan_proxy::Services;
use portolan_replication::Wall as _;

use super::shards::Shards;
use crate::config::Config;

/// The service, where the configuration has content.
#[derive(Clone, Debug)]
pub(super) struct Contents(Option<Arc<Service>>);

/// The shards of this region, and where tenants may be.
#[derive(Debug)]
struct Here {
    live: Arc<Live>,
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

    /// Collects what nothing uses, until shutdown.
    pub(super) fn start(&self, shutdown: &Shutdown) {
        if let Some(service) = &self.0 {
            service.start(shutdown);
        }
    }
}

impl Homes for Here {
    fn admits(&self, tenant: &TenantName, region: &RegionName) -> bool {
        self.shards.admits(tenant, region)
    }

    fn leased(&self, shard: &ShardName) -> Option<(Store, Lease)> {
        self.shards.leased(shard)
    }

    fn regions(&self) -> Vec<RegionName> {
        self.live.load().topology.regions.keys().cloned().collect()
    }

    fn shards(&self) -> Vec<ShardName> {
        self.shards.names()
    }
}
