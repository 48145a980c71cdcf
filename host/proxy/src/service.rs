//! Requests for services of the gateway itself, such as the tenants' data: recognise → route → answer here, or hand on to the
//! region that the service names. No policy is asked: where data are is not a matter of choice.

use std::rc::Rc;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderName, Request, Response, Uri};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use portolan_core::ids::{PoolName, RegionName};
use portolan_core::snapshot::Snapshot;
use portolan_foundation::endpoint::{Endpoint, Head, Routed, Work};

use crate::body::Body;
use crate::decide::{Choice, Decision};
use crate::error::Error;
use crate::forward::Attempts;
use crate::headers;
use crate::inbound::Inbound;
use crate::peer::Grant;
use crate::pipeline::{self, Halt, Trip};
use crate::resolve::Route;
use crate::respond::Told;
use crate::server::Worker;

/// Services by what their paths begin with.
#[derive(Clone, Debug, Default)]
pub struct Services(Vec<(&'static str, Arc<dyn Endpoint>)>);

impl Services {
    /// Mounts a service at a path and all below it.
    #[must_use]
    pub fn with(mut self, path: &'static str, service: Arc<dyn Endpoint>) -> Self {
        self.0.push((path, service));
        self
    }

    pub(crate) fn find(&self, path: &str) -> Option<&Arc<dyn Endpoint>> {
        let is_below = |prefix: &str| {
            path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.0.iter().find(|(prefix, _)| is_below(prefix)).map(|(_, service)| service)
    }
}

/// Answers a request for a service. `granted` is what another region decided.
pub(crate) async fn serve(
    worker: &Rc<Worker>,
    snapshot: &Arc<Snapshot>,
    inbound: &mut Inbound,
    told: &mut Told,
    (parts, incoming): (Parts, Incoming),
    granted: Option<Grant>,
    service: &Arc<dyn Endpoint>,
) -> Result<Response<Body>, Error> {
    let uri = uri(inbound).ok_or(Error::NoAnswer)?;
    let (region, work) = match &granted {
        Some(grant) => (grant.region.clone(), grant.work().ok_or(Error::Stale)?),
        None => {
            let tenants = &snapshot.topology.tenants;
            let certified = tenants.certified(inbound);
            let named = certified.clone().or_else(|| tenants.recognise(inbound).ok().flatten());
            let head = Head {
                certified: certified.is_some(),
                headers: &inbound.headers,
                method: &inbound.method,
                tenant: named.as_ref(),
                topology: &snapshot.topology,
                uri: &uri,
            };
            match service.route(&head) {
                Routed::Answer(response) => return Ok(response.map(Body::service)),
                Routed::Region(region, work) => (region, work),
            }
        }
    };
    inbound.tenant = Some(work.tenant.clone());
    inbound.settle(&snapshot.topology);
    let topology = &snapshot.topology;
    // Who sends it may go by an older picture: the tenant must be where it is here, and may be.
    let there = inbound.home.as_ref().is_some_and(|home| home.shard == work.shard);
    if granted.is_some() && !there {
        return Err(Error::Stale);
    }
    if region == topology.local && !topology.allows(inbound.residency.as_ref(), &region) {
        return Err(Error::NoAllowedRegion);
    }
    told.belongs(inbound);
    let decision = Decision::default();
    told.decided(worker, inbound, &decision);
    // What the client says to the service stays; nobody else speaks in the gateway's name.
    headers::strip_own_but(&mut inbound.headers, &SAID);
    let body = pipeline::take_body(worker, inbound, incoming).await?;
    told.receives(body.received());
    if region == snapshot.topology.local {
        let mut request = Request::new(body.map_err(Into::into).boxed_unsync());
        *request.method_mut() = inbound.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = std::mem::take(&mut inbound.headers);
        return Ok(service.answer(work, request).await.map(Body::service));
    }
    let gateways = gateways(snapshot, inbound, &region)?;
    let pool = PoolName::new("gateway").map_err(|_| Error::NoAnswer)?;
    let mut trip = Trip {
        worker,
        snapshot,
        inbound,
        told,
        decision: &decision,
        grant: granted.as_ref(),
        attempts: Attempts::new(parts, body),
        spare: None,
        work: Some(&work),
    };
    let choice = Choice::Own(region.clone(), pool.clone());
    match trip.attempt(&choice, &region, &pool, &Route::Gateway(gateways)).await {
        Ok(response) => Ok(response),
        Err(Halt::Final(error) | Halt::Next(error)) => trip.spare.take().map(|spare| *spare).ok_or(error),
    }
}

/// The fields by which clients speak to services.
const SAID: [HeaderName; 2] = [HeaderName::from_static("portolan-consistency"), headers::TOKEN];

fn gateways(
    snapshot: &Snapshot,
    inbound: &Inbound,
    region: &RegionName,
) -> Result<Arc<portolan_core::topology::Pool>, Error> {
    if !snapshot.topology.allows(inbound.residency.as_ref(), region) {
        return Err(Error::NoAllowedRegion);
    }
    let place = snapshot.topology.regions.get(region).ok_or(Error::NoEndpoint)?;
    place.gateways.clone().ok_or(Error::NoEndpoint)
}

fn uri(inbound: &Inbound) -> Option<Uri> {
    match &inbound.query {
        Some(query) => format!("{}?{query}", inbound.path).parse().ok(),
        None => inbound.path.parse().ok(),
    }
}

impl Grant {
    /// The work for a service, if the request is for one.
    fn work(&self) -> Option<Work> {
        let (shard, epoch) = self.shard.clone()?;
        Some(Work { epoch, shard, tenant: self.tenant.clone()? })
    }
}
