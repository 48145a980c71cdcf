//! Whether a target can take a request now: the invariants that no policy can break, and what is observed.

use std::sync::Arc;

use portolan_core::ids::{PoolName, RegionName, ResidencyName};
use portolan_core::time::Moment;
use portolan_core::topology::{Endpoint, Pool, Topology};

/// Why a target cannot take the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejection {
    NoEndpoint,
    RegionBroken,
    RegionDown,
    Residency,
    Unknown,
}

impl Rejection {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::NoEndpoint => "no endpoint is up with a closed breaker",
            Self::RegionBroken => "forwarding to the region failed lately, and its breaker is open",
            Self::RegionDown => "the region is down or draining",
            Self::Residency => "the tenant's residency class does not allow the region",
            Self::Unknown => "there is no such region or pool",
        }
    }
}

/// How a target is reached.
#[derive(Clone, Debug)]
pub(crate) enum Route {
    /// Its endpoints are spoken to from here.
    Direct(Arc<Pool>),
    /// A gateway of its region takes over.
    Gateway(Arc<Pool>),
}

impl Route {
    pub(crate) const fn pool(&self) -> &Arc<Pool> {
        match self {
            Self::Direct(pool) | Self::Gateway(pool) => pool,
        }
    }
}

/// Finds the way to a target. In panic what probes say does not count, but breakers do: they have seen requests fail.
///
/// # Errors
/// The first [`Rejection`] in the order of their weight: permission before existence before health.
pub(crate) fn resolve(
    topology: &Topology,
    residency: Option<&ResidencyName>,
    region: &RegionName,
    (pool, panics): (&PoolName, bool),
    now: Moment,
) -> Result<Route, Rejection> {
    if !topology.allows(residency, region) {
        return Err(Rejection::Residency);
    }
    let place = topology.regions.get(region).ok_or(Rejection::Unknown)?;
    let direct = place.pools.get(pool).ok_or(Rejection::Unknown)?;
    let remote = *region != topology.local;
    if remote && !panics && !place.cell.verdict().takes_requests() {
        return Err(Rejection::RegionDown);
    }
    let route = match &place.gateways {
        Some(_) if remote && !direct.gate.admits(now) => return Err(Rejection::RegionBroken),
        Some(gateways) if remote => Route::Gateway(Arc::clone(gateways)),
        _ => Route::Direct(Arc::clone(direct)),
    };
    let takes = |endpoint: &Endpoint| {
        if panics { endpoint.cell.admits(now) } else { endpoint.cell.is_eligible(now) }
    };
    let eligible = route.pool().endpoints.iter().any(|endpoint| takes(endpoint));
    if eligible { Ok(route) } else { Err(Rejection::NoEndpoint) }
}
