//! From the configuration to what exists, with the cells that outlive it.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use portolan_core::balance::stable_hash;
use portolan_core::endpoint::{EndpointCell, RegionCell};
use portolan_core::facts::Verdict;
use portolan_core::ids::{PoolName, RegionName};
use portolan_core::steering::{Gate, Steering};
use portolan_core::tenant::{Tenant, Tenants};
use portolan_core::topology::{Endpoint, Pool, Protocol, Region, Topology, UpstreamTls};
use portolan_foundation::clock;

use crate::config::{Authority, Config, PoolConfig, RegionConfig, defaults};

/// What is observed, by identity. A cell lives as long as some snapshot holds it.
#[derive(Debug, Default)]
pub(crate) struct Cells {
    gates: HashMap<(RegionName, PoolName), Weak<Gate>>,
    steering: Arc<Steering>,
    endpoints: HashMap<(RegionName, PoolName, String), Weak<EndpointCell>>,
    regions: HashMap<RegionName, Weak<RegionCell>>,
}

impl Cells {
    /// Those of a node whose failover says where traffic goes.
    pub(crate) fn new(steering: Arc<Steering>) -> Self {
        Self { steering, ..Self::default() }
    }

    fn gate(&mut self, region: &RegionName, pool: &PoolName) -> Arc<Gate> {
        let key = (region.clone(), pool.clone());
        if let Some(gate) = self.gates.get(&key).and_then(Weak::upgrade) {
            return gate;
        }
        let gate = Arc::default();
        self.gates.insert(key, Arc::downgrade(&gate));
        gate
    }

    fn endpoint(&mut self, region: &RegionName, pool: &PoolName, authority: &Authority) -> Arc<EndpointCell> {
        let key = (region.clone(), pool.clone(), authority.text.clone());
        if let Some(cell) = self.endpoints.get(&key).and_then(Weak::upgrade) {
            return cell;
        }
        // Until the first probe an endpoint is believed to be up: after a start all of them are in that state, and
        // refusing everything would be worse than finding out.
        let cell = Arc::new(EndpointCell::new(true));
        self.endpoints.insert(key, Arc::downgrade(&cell));
        cell
    }

    fn region(&mut self, name: &RegionName) -> Arc<RegionCell> {
        if let Some(cell) = self.regions.get(name).and_then(Weak::upgrade) {
            return cell;
        }
        let cell = Arc::new(RegionCell::default());
        self.regions.insert(name.clone(), Arc::downgrade(&cell));
        cell
    }

    fn forget_gone(&mut self) {
        self.endpoints.retain(|_, cell| cell.strong_count() > 0);
        self.gates.retain(|_, gate| gate.strong_count() > 0);
        self.regions.retain(|_, cell| cell.strong_count() > 0);
    }
}

/// Builds the topology of one configuration.
pub(crate) fn build(config: &Config, cells: &mut Cells) -> Topology {
    cells.forget_gone();
    let known = config.tenants.iter().map(|(name, tenant)| {
        let policy = tenant.policy.as_ref().map(|policy| policy.name.clone());
        (
            name.clone(),
            Tenant {
                bounds: Arc::clone(&tenant.bounds),
                location: tenant.location.clone(),
                policy,
                residency: tenant.residency.clone(),
            },
        )
    });
    Topology {
        directory: Arc::clone(&config.directory),
        local: config.local.clone(),
        latency_us: config.latency_us.clone(),
        regions: config
            .regions
            .iter()
            .map(|(name, region)| (name.clone(), self::region(config, name, region, cells)))
            .collect(),
        residencies: config.residencies.clone(),
        seed: stable_hash(format!("{:?} {:?}", config.regions.keys(), config.residencies).as_bytes()),
        steering: Arc::clone(&cells.steering),
        steering_limits: config.steering,
        tenants: Tenants {
            barred: config.barred.iter().map(|(name, why)| (name.clone(), *why)).collect(),
            known: known.collect(),
            sources: config.tenant_sources.clone(),
            unrecognised: config.unrecognised,
            known_only: config.known_tenants_only,
        },
    }
}

fn region(config: &Config, name: &RegionName, region: &RegionConfig, cells: &mut Cells) -> Arc<Region> {
    let cell = cells.region(name);
    let local = *name == config.local;
    if local {
        // This node stands in it, and serves.
        cell.set_verdict(Verdict::Healthy, clock::now());
    }
    let gateways = (!local && !region.gateways.is_empty()).then(|| gateways(name, region, cells)).flatten();
    let pools =
        region.pools.iter().map(|(pool, settings)| (pool.clone(), self::pool(name, pool, settings, cells)));
    Arc::new(Region { name: name.clone(), gateways, pools: pools.collect(), cell })
}

fn gateways(region: &RegionName, config: &RegionConfig, cells: &mut Cells) -> Option<Arc<Pool>> {
    let name = PoolName::new("gateway").ok()?;
    Some(Arc::new(Pool {
        endpoints: endpoints(region, &name, &config.gateways, cells),
        gate: cells.gate(region, &name),
        name,
        region: region.clone(),
        protocol: Protocol::Http2,
        tls: Some(UpstreamTls::Peer),
        probe: Some(config.probe.clone()),
        breaker: portolan_core::topology::BreakerLimits {
            failures: defaults::BREAKER_FAILURES,
            pause_min: defaults::BREAKER_PAUSE_MIN,
            pause_max: defaults::BREAKER_PAUSE_MAX,
        },
        connections_max: defaults::CONNECTIONS_MAX,
        connect_timeout: defaults::CONNECT_TIMEOUT,
        idle_timeout: defaults::IDLE_TIMEOUT,
        response_timeout: defaults::RESPONSE_TIMEOUT,
        stateless: false,
        token: false,
    }))
}

fn pool(region: &RegionName, name: &PoolName, config: &PoolConfig, cells: &mut Cells) -> Arc<Pool> {
    Arc::new(Pool {
        name: name.clone(),
        region: region.clone(),
        endpoints: endpoints(region, name, &config.endpoints, cells),
        gate: cells.gate(region, name),
        protocol: config.protocol,
        tls: config.tls.clone(),
        probe: config.probe.clone(),
        breaker: config.breaker,
        connections_max: config.connections_max,
        connect_timeout: config.connect_timeout,
        idle_timeout: config.idle_timeout,
        response_timeout: config.response_timeout,
        stateless: config.stateless,
        token: config.token,
    })
}

fn endpoints(
    region: &RegionName,
    pool: &PoolName,
    all: &[Authority],
    cells: &mut Cells,
) -> Vec<Arc<Endpoint>> {
    all.iter()
        .map(|authority| {
            Arc::new(Endpoint {
                authority: authority.text.as_str().into(),
                host: authority.host.as_str().into(),
                port: authority.port,
                cell: cells.endpoint(region, pool, authority),
            })
        })
        .collect()
}
