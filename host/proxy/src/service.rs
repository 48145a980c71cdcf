//! Requests for services of the gateway itself, such as the tenants' data: recognise → route → answer here, or hand on to the
//! region that the service names. No policy is asked: where data are is not a matter of choice.

use std::rc::Rc;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use portolan_core::ids::{PoolName, RegionName, ShardName};
use portolan_core::loss::Admission;
use portolan_core::snapshot::Snapshot;
use portolan_core::token::Token;
use portolan_core::topology::{Pool, Region};
use portolan_foundation::clock;
use portolan_foundation::endpoint::{Endpoint, Head, Positions, Routed, Work};

use crate::body::{Body, Upload};
use crate::decide::{Choice, Decision};
use crate::defaults;
use crate::error::Error;
use crate::forward::Attempts;
use crate::headers;
use crate::inbound::Inbound;
use crate::peer::Grant;
use crate::pipeline::{self, Halt, Trip};
use crate::resolve::Route;
use crate::respond::Told;
use crate::server::Worker;

/// Services by what their paths begin with, and who knows where shards' logs are.
#[derive(Clone, Debug, Default)]
pub struct Services {
    mounted: Vec<(&'static str, Arc<dyn Endpoint>)>,
    positions: Option<Arc<dyn Positions>>,
}

impl Services {
    /// Mounts a service at a path and all below it.
    #[must_use]
    pub fn with(mut self, path: &'static str, service: Arc<dyn Endpoint>) -> Self {
        self.mounted.push((path, service));
        self
    }

    /// Answers of pools that want it tell where the log of the tenant's shard is, as this one knows it.
    #[must_use]
    pub fn telling(mut self, positions: Arc<dyn Positions>) -> Self {
        self.positions = Some(positions);
        self
    }

    /// What an answer may tell of a shard that was written, if it is known soon.
    pub(crate) async fn token(&self, shard: &ShardName) -> Option<Token> {
        let newest = self.positions.as_ref()?.newest(shard);
        let position = tokio::time::timeout(defaults::TOKEN_TIMEOUT, newest).await.ok()??;
        let mut token = Token::default();
        token.add(shard.clone(), position).then_some(token)
    }

    /// What becomes of a request that may write a shard.
    pub(crate) fn admits(&self, shard: &ShardName) -> Admission {
        self.positions.as_ref().map_or(Admission::Pass, |positions| positions.admits(shard))
    }

    pub(crate) fn find(&self, path: &str) -> Option<&Arc<dyn Endpoint>> {
        let is_below = |prefix: &str| {
            path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.mounted.iter().find(|(prefix, _)| is_below(prefix)).map(|(_, service)| service)
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
    let routed = route(snapshot, inbound, &uri, granted.as_ref(), service)?;
    let (regions, work) = match routed {
        Routed::Answer(response) => {
            // Who is refused stands in the log as well, as nobody's.
            told.decided(worker, inbound, &Decision::default());
            return Ok(response.map(Body::service));
        }
        Routed::Here => {
            told.decided(worker, inbound, &Decision::default());
            let body = pipeline::take_body(worker, inbound, incoming).await?;
            told.receives(body.received());
            let came = inbound.headers.clone();
            let asked = Asked { came, worker, inbound, told, granted: None, parts, service, uri };
            return Ok(asked.here(body).await);
        }
        Routed::Region { first, others, work } => ((first, others), work),
    };
    inbound.tenant = Some(work.tenant.clone());
    inbound.settle(&snapshot.topology);
    pipeline::served(&snapshot.topology, inbound)?;
    // Who sends it may go by an older picture: the tenant must be where it is here, and may be.
    let there = inbound.home.as_ref().is_some_and(|home| home.shard == work.shard);
    if granted.is_some() && !there {
        return Err(Error::Stale);
    }
    told.belongs(inbound);
    told.reads_only(&snapshot.topology, inbound);
    told.decided(worker, inbound, &Decision::default());
    let body = pipeline::take_body(worker, inbound, incoming).await?;
    told.receives(body.received());
    let again = body.again();
    let came = inbound.headers.clone();
    let mut asked = Asked { came, worker, inbound, told, granted: granted.as_ref(), parts, service, uri };
    let answered = Box::pin(asked.first(snapshot, regions, work, body)).await;
    if granted.is_some() || !answered.as_ref().is_err_and(|error| *error == Error::Stale) {
        return answered;
    }
    let Some(body) = again else { return Err(Error::Settling) };
    let snapshot = pipeline::moved_on(worker, asked.inbound).await;
    asked.inbound.headers = asked.came.clone();
    let routed = route(&snapshot, asked.inbound, &asked.uri, None, service)?;
    match routed {
        Routed::Answer(response) => Ok(response.map(Body::service)),
        Routed::Here => Ok(asked.here(body).await),
        Routed::Region { first, others, work } => {
            let answered = Box::pin(asked.first(&snapshot, (first, others), work, body)).await;
            answered.map_err(Error::settled)
        }
    }
}

/// Where the request is answered: where its grant says, or the service.
fn route(
    snapshot: &Snapshot,
    inbound: &Inbound,
    uri: &Uri,
    granted: Option<&Grant>,
    service: &Arc<dyn Endpoint>,
) -> Result<Routed, Error> {
    if let Some(grant) = granted {
        let work = grant.work().ok_or(Error::Stale)?;
        return Ok(Routed::Region { first: grant.region.clone(), others: Vec::new(), work });
    }
    let tenants = &snapshot.topology.tenants;
    let certified = tenants.certified(inbound);
    let named = certified.clone().or_else(|| tenants.recognise(inbound).ok().flatten());
    Ok(service.route(&Head {
        certified: certified.is_some(),
        headers: &inbound.headers,
        method: &inbound.method,
        tenant: named.as_ref(),
        topology: &snapshot.topology,
        uri,
    }))
}

/// A request that a service of this region or another is asked.
struct Asked<'a> {
    /// The fields as they came.
    came: HeaderMap,
    granted: Option<&'a Grant>,
    inbound: &'a mut Inbound,
    parts: Parts,
    service: &'a Arc<dyn Endpoint>,
    told: &'a mut Told,
    uri: Uri,
    worker: &'a Rc<Worker>,
}

impl Asked<'_> {
    /// Has it answered by the first region that can. Of several, each has a copy of its own to answer from, and what one does not have is no news
    /// of another writer: only who asks the writer alone may wait for those.
    async fn first(
        &mut self,
        snapshot: &Arc<Snapshot>,
        (region, others): (RegionName, Vec<RegionName>),
        work: Work,
        body: Upload,
    ) -> Result<Response<Body>, Error> {
        let again = body.again().filter(|_| !others.is_empty());
        let mut answered = self.answer(snapshot, &region, work.clone(), body).await;
        let Some(again) = again else { return answered };
        for region in others {
            let cannot = match &answered {
                Ok(response) => response.status() == StatusCode::SERVICE_UNAVAILABLE,
                Err(error) => *error != Error::Timeout,
            };
            let Some(body) = again.again().filter(|_| cannot) else { break };
            self.inbound.headers = self.came.clone();
            answered = self.answer(snapshot, &region, work.clone(), body).await;
        }
        answered.map_err(Error::settled)
    }

    /// Has it answered. [`Error::Stale`] when whoever is asked knows of another writer.
    async fn answer(
        &mut self,
        snapshot: &Arc<Snapshot>,
        region: &RegionName,
        work: Work,
        body: Upload,
    ) -> Result<Response<Body>, Error> {
        if !snapshot.topology.allows(self.inbound.residency.as_ref(), region) {
            return Err(Error::NoAllowedRegion);
        }
        let writes_there = self.inbound.written_at() == Some(region);
        if writes_there && pipeline::is_changing(&snapshot.topology, self.inbound) {
            return Err(Error::Stale);
        }
        if *region == snapshot.topology.local {
            let answering = self.service.answer(work, self.request(body));
            let response = match self.granted {
                // Whoever sent it waits no longer than that.
                Some(grant) => {
                    tokio::time::timeout(grant.deadline, answering).await.map_err(|_| Error::Timeout)?
                }
                None => answering.await,
            };
            let elsewhere = response.status() == pipeline::STALE;
            return if elsewhere { Err(Error::Stale) } else { Ok(response.map(Body::service)) };
        }
        let place = snapshot.topology.regions.get(region).ok_or(Error::NoEndpoint)?;
        let is_write = self.inbound.written_at().is_some();
        if is_write && (pipeline::is_unwritten(&snapshot.topology, self.inbound) || !is_there(place)) {
            return Err(Error::NoPrimary);
        }
        let gateways = place.gateways.clone().ok_or(Error::NoEndpoint)?;
        let pool = PoolName::new("gateway").map_err(|_| Error::NoAnswer)?;
        self.inbound.headers = self.said();
        let decision = Decision::default();
        let mut trip = Trip {
            worker: self.worker,
            snapshot,
            inbound: self.inbound,
            told: self.told,
            decision: &decision,
            grant: self.granted,
            attempts: Attempts::new(self.parts.clone(), body, self.granted.map(|grant| grant.tries)),
            spare: None,
            work: Some(&work),
        };
        let choice = Choice::Own(region.clone(), pool.clone());
        match trip.attempt(&choice, region, &pool, (&Route::Gateway(gateways), false)).await {
            Ok(response) => Ok(response),
            Err(Halt::Final(error) | Halt::Next(error)) => trip.spare.take().map(|spare| *spare).ok_or(error),
        }
    }

    /// Has it answered by this node, for no tenant in particular.
    async fn here(&self, body: Upload) -> Response<Body> {
        self.service.answer_here(self.request(body)).await.map(Body::service)
    }

    /// The request as services see it.
    fn request(&self, body: Upload) -> Request<portolan_foundation::endpoint::Body> {
        let mut request = Request::new(body.map_err(Into::into).boxed_unsync());
        *request.method_mut() = self.inbound.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.said();
        request
    }

    /// What the client says to the service stays; nobody else speaks in the gateway's name.
    fn said(&self) -> HeaderMap {
        let mut headers = self.came.clone();
        headers::strip_own_but(&mut headers, &SAID);
        headers
    }
}

/// Does the region take requests that are handed on, by what probes and former requests say?
fn is_there(place: &Region) -> bool {
    let now = clock::now();
    let open = |gateways: &Arc<Pool>| !gateways.gate.admits(now);
    place.cell.verdict().takes_requests() && !place.gateways.as_ref().is_some_and(open)
}

/// The fields by which clients speak to services.
const SAID: [HeaderName; 2] = [HeaderName::from_static("portolan-consistency"), headers::TOKEN];

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
