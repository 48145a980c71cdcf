//! What exists: regions, pools and endpoints, as the operator declared them. Intent only; what is observed of them
//! lives in the cells that they hold handles to, and outlives every topology.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::directory::{Directory, Place, Shard, Tenant};
use crate::endpoint::{EndpointCell, RegionCell};
use crate::facts::{Facts, RegionFacts};
use crate::ids::{PoolName, RegionName, ResidencyName, TenantName};
use crate::steering::{Gate, Limits, Steering};
use crate::tenant::Tenants;

/// Everything that one node knows to exist.
#[derive(Clone, Debug)]
pub struct Topology {
    /// Which tenant is on which shard.
    pub directory: Arc<Directory>,
    /// The region of this node.
    pub local: RegionName,
    /// Round-trip times in microseconds that the operator declared; measured ones win over them.
    pub latency_us: BTreeMap<(RegionName, RegionName), u32>,
    /// All regions, the local one among them.
    pub regions: BTreeMap<RegionName, Arc<Region>>,
    /// The regions that each residency class allows.
    pub residencies: BTreeMap<ResidencyName, BTreeSet<RegionName>>,
    /// The number that [`Facts::seed`] carries.
    pub seed: u64,
    /// The traffic plan of failover.
    pub steering: Arc<Steering>,
    /// How requests are steered among regions.
    pub steering_limits: Limits,
    /// Who the tenants are and how they are recognised.
    pub tenants: Tenants,
}

/// A region.
#[derive(Clone, Debug)]
pub struct Region {
    /// Its name.
    pub name: RegionName,
    /// The gateways of a remote region, which take over requests that were decided here. Empty for the local region,
    /// and for remote ones whose pools are reached directly.
    pub gateways: Option<Arc<Pool>>,
    /// Its pools.
    pub pools: BTreeMap<PoolName, Arc<Pool>>,
    /// What is observed of it.
    pub cell: Arc<RegionCell>,
}

/// The endpoints of one application in one region, and how to speak to them.
#[derive(Clone, Debug)]
pub struct Pool {
    /// Its name; for gateways of a region, `gateway`.
    pub name: PoolName,
    /// Where it is.
    pub region: RegionName,
    /// Its endpoints; may be empty in a remote region that has gateways.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// What is known of forwarding its requests to gateways of its region.
    pub gate: Arc<Gate>,
    /// HTTP/1.1 or HTTP/2.
    pub protocol: Protocol,
    /// TLS to its endpoints; `None` for cleartext.
    pub tls: Option<UpstreamTls>,
    /// How endpoints are probed; `None` for never.
    pub probe: Option<Probe>,
    /// When the breaker of an endpoint opens.
    pub breaker: BreakerLimits,
    /// How many connections each data thread opens to one endpoint, at most.
    pub connections_max: u32,
    /// Time to connect, TLS included.
    pub connect_timeout: Duration,
    /// How long an idle connection is kept.
    pub idle_timeout: Duration,
    /// Time for a response head, unless the rule says otherwise.
    pub response_timeout: Duration,
    /// Do its applications use no shard? Then requests that change something go where they are sent, not to the shard's primary.
    pub stateless: bool,
    /// Do answers to requests that may have changed something of a tenant tell where its shard's log is then?
    pub token: bool,
}

/// The protocol spoken to an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1 (RFC 9112).
    Http1,
    /// HTTP/2 (RFC 9113): by prior knowledge over cleartext, by ALPN over TLS.
    Http2,
}

/// Which identity an upstream must prove, and which one is shown to it. The files behind it are the proxy's matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamTls {
    /// A gateway of another region: mutual TLS 1.3 with this node's own identity, and the region of the peer in its
    /// certificate.
    Peer,
    /// A server with a certificate for `server_name`, signed by an authority of `ca_file` or, without one, of the
    /// system.
    Server {
        /// PEM file of authorities.
        ca_file: Option<Arc<std::path::Path>>,
        /// The name that the certificate must carry; the endpoint's host when absent.
        server_name: Option<Arc<str>>,
    },
}

/// How an endpoint is probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The path to GET.
    pub path: Arc<str>,
    /// From one probe to the next, before jitter of 15 % either way.
    pub interval: Duration,
    /// Time for one probe.
    pub timeout: Duration,
    /// How many good probes in a row bring an endpoint up.
    pub rise: u32,
    /// How many bad probes in a row take it down.
    pub fall: u32,
}

/// When an endpoint's breaker opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerLimits {
    /// So many failures in a row open it; 0 keeps it closed for ever.
    pub failures: u32,
    /// The first pause; it doubles with each failed probe.
    pub pause_min: Duration,
    /// The longest pause.
    pub pause_max: Duration,
}

/// One upstream address.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// `host:port` as declared; the identity under which its cell lives on over generations.
    pub authority: Arc<str>,
    /// The host part, without brackets.
    pub host: Arc<str>,
    /// The port part.
    pub port: u16,
    /// What is observed of it.
    pub cell: Arc<EndpointCell>,
}

impl Topology {
    /// A pool by name.
    #[must_use]
    pub fn pool(&self, region: &RegionName, pool: &PoolName) -> Option<&Arc<Pool>> {
        self.regions.get(region)?.pools.get(pool)
    }

    /// Where a tenant's rows are, and the shard that has them; `None` when no rule is about it.
    #[must_use]
    pub fn shard_of(&self, tenant: &TenantName) -> Option<(Place, &Shard)> {
        let known = self.tenants.of(Some(tenant));
        let residency = known.and_then(|tenant| tenant.residency.as_ref());
        let location = known.and_then(|tenant| tenant.location.as_ref());
        let place = self.directory.locate(&Tenant { location, name: tenant, residency })?;
        Some((place, self.directory.shard(place.shard)?))
    }

    /// The picture that policies plan from, with the verdicts and latencies observed by now.
    #[must_use]
    pub fn facts(&self, now_ms: u64) -> Facts {
        let mut latency_us = self.latency_us.clone();
        for (name, region) in &self.regions {
            if let Some(measured) = region.cell.latency_us() {
                latency_us.insert((self.local.clone(), name.clone()), measured);
            }
        }
        let picture = |region: &Arc<Region>| RegionFacts {
            pools: region.pools.keys().cloned().collect(),
            verdict: region.cell.verdict(),
        };
        Facts {
            local: self.local.clone(),
            latency_us,
            now_ms,
            regions: self.regions.iter().map(|(name, region)| (name.clone(), picture(region))).collect(),
            residencies: self.residencies.clone(),
            seed: self.seed,
        }
    }

    /// Does the residency class allow the region? A class that is not declared allows none: permission is never
    /// guessed.
    #[must_use]
    pub fn allows(&self, class: Option<&ResidencyName>, region: &RegionName) -> bool {
        class.is_none_or(|class| self.residencies.get(class).is_some_and(|regions| regions.contains(region)))
    }
}
