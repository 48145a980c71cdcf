//! One attempt: an endpoint is chosen, the request made ready and sent, the outcome booked.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, HeaderValue, UPGRADE};
use http::request::Parts;
use http::uri::{PathAndQuery, Scheme, Uri};
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use portolan_core::balance;
use portolan_core::endpoint::{Attempt, Outcome};
use portolan_core::ids::{PoolName, RegionName, ShardName};
use portolan_core::log::Epoch;
use portolan_core::plan::{Answer, Message, RetryClass};
use portolan_core::retry::is_idempotent;
use portolan_core::time::Moment;
use portolan_core::topology::{Endpoint, Pool, Protocol};
use portolan_foundation::endpoint::Work;
use portolan_foundation::{clock, random};

use crate::body::{Body, Upload};
use crate::defaults::ATTEMPTS_MAX;
use crate::error::Error;
use crate::headers;
use crate::inbound::Inbound;
use crate::peer::{GRANT, Grant, REFUSED};
use crate::pipeline::STALE;
use crate::resolve::Route;
use crate::server::Worker;
use crate::tunnel;

/// Picks an endpoint and takes a place at it. The outer `None` says that none is eligible, the inner one that its breaker
/// admitted another thread first. In panic what probes say does not count.
pub(crate) fn choose(
    pool: &Pool,
    tried: &[usize],
    (sticky, panics): (Option<u64>, bool),
    now: Moment,
) -> Option<Option<(usize, Arc<Endpoint>, Attempt)>> {
    let place = match sticky {
        _ if panics => balance::pick_any(&pool.endpoints, tried, now, random::u64()),
        Some(hash) => balance::stick(&pool.endpoints, tried, now, hash),
        None => balance::pick(&pool.endpoints, tried, now, random::u64()),
    }?;
    let endpoint = pool.endpoints.get(place)?;
    Some(endpoint.cell.start(now).map(|attempt| (place, Arc::clone(endpoint), attempt)))
}

/// What one attempt sends, and where.
pub(crate) struct Outbound<'a> {
    pub(crate) answer: Option<&'a Answer>,
    /// From 1, counted over regions.
    pub(crate) attempt: u32,
    pub(crate) endpoint: &'a Arc<Endpoint>,
    pub(crate) generation: u64,
    pub(crate) inbound: &'a Inbound,
    pub(crate) left: Duration,
    pub(crate) pool: &'a PoolName,
    pub(crate) region: &'a RegionName,
    pub(crate) request_id: &'a HeaderValue,
    pub(crate) route: &'a Route,
    pub(crate) sticky: Option<u64>,
    /// Attempts that are left, this one among them.
    pub(crate) tries: u32,
    /// What a service of the region is to do.
    pub(crate) work: Option<&'a Work>,
}

/// What came of an attempt.
pub(crate) enum Answered {
    /// No usable head, or one that may be worth another attempt.
    Bad {
        error: Error,
        /// The upstream's own answer, to give where no other attempt is made.
        response: Option<Box<Response<Body>>>,
        /// Did the upstream surely see nothing of the request?
        unseen: bool,
    },
    Good(Box<Response<Body>>),
}

/// The attempts of one request, and its content between them.
pub(crate) struct Attempts {
    parts: Parts,
    /// `None` once it has gone upstream and cannot be had back.
    body: Option<Upload>,
    replay: Option<Bytes>,
    pub(crate) count: u32,
    /// Attempts at most, those of other regions among them.
    max: u32,
}

impl Attempts {
    pub(crate) fn new(parts: Parts, body: Upload, tries: Option<u32>) -> Self {
        let replay = match &body {
            Upload::Full(bytes) => bytes.clone(),
            Upload::Empty | Upload::Stream { .. } => None,
        };
        let max = tries.map_or(ATTEMPTS_MAX, |tries| tries.min(ATTEMPTS_MAX));
        Self { parts, body: Some(body), replay, count: 0, max }
    }

    /// Sends the request once.
    pub(crate) async fn send(
        &mut self,
        worker: &Rc<Worker>,
        outbound: &Outbound<'_>,
        attempt: Attempt,
    ) -> Answered {
        self.count += 1;
        let place = Place {
            endpoint: Arc::clone(outbound.endpoint),
            pool: Arc::clone(outbound.route.pool()),
            attempt: Some(attempt),
            worker,
        };
        worker.shard.attempts.add(1);
        if self.count == 1 {
            worker.budget.borrow_mut().deposit(clock::now());
        } else {
            worker.shard.retries.add(1);
        }
        let body = self.body.take().unwrap_or(Upload::Empty);
        let Some(request) = self.request(outbound, body) else {
            return Answered::Bad { error: Error::NoAnswer, response: None, unseen: false };
        };
        let begun = clock::now();
        let pool = outbound.route.pool();
        match worker.upstreams.send(pool, outbound.endpoint, request, outbound.left).await {
            Ok((response, lease)) => {
                let took = clock::now().since(begun);
                self.judge(worker, outbound, place, response, lease, took)
            }
            Err(failure) => {
                place.end(if failure.error == Error::BodyBroken || failure.error == Error::BodyTooLarge {
                    Outcome::Neutral
                } else {
                    Outcome::Failure
                });
                let unseen = failure.unsent.is_some();
                self.body = failure.unsent.map(|request| request.into_body());
                Answered::Bad { error: failure.error, response: None, unseen }
            }
        }
    }

    /// May the request be sent again? The content must still be there, the class and method allow it, and the budget
    /// have room.
    pub(crate) fn may_repeat(
        &mut self,
        worker: &Worker,
        class: RetryClass,
        inbound: &Inbound,
        unseen: bool,
    ) -> bool {
        if !self.can_repeat() {
            return false;
        }
        let allowed = match class {
            RetryClass::Never => false,
            RetryClass::Connect => unseen,
            RetryClass::Idempotent => unseen || is_idempotent(inbound.method.as_str()),
        };
        allowed && self.left() > 0 && worker.budget.borrow_mut().withdraw(clock::now())
    }

    /// Attempts that may still be made.
    pub(crate) const fn left(&self) -> u32 {
        self.max.saturating_sub(self.count)
    }

    /// Another region has made so many attempts of all for the request by now: they count as this node's own.
    pub(crate) fn spent(&mut self, attempts: u32) {
        self.count = self.count.max(attempts);
    }

    /// Is the content there, or to be had once more?
    pub(crate) fn can_repeat(&mut self) -> bool {
        if self.body.is_none() {
            self.body = match &self.replay {
                Some(bytes) => Some(Upload::Full(Some(bytes.clone()))),
                None if self.was_empty() => Some(Upload::Empty),
                None => None,
            };
        }
        self.body.is_some()
    }

    fn was_empty(&self) -> bool {
        self.parts.extensions.get::<Streamed>().is_none()
    }

    fn judge(
        &mut self,
        worker: &Rc<Worker>,
        outbound: &Outbound<'_>,
        place: Place<'_>,
        response: Response<Incoming>,
        lease: crate::upstream::Lease,
        took: Duration,
    ) -> Answered {
        let status = response.status();
        let gateway_error = matches!(
            status,
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
        );
        let remote = matches!(outbound.route, Route::Gateway(_));
        let stale = remote && status == STALE && response.headers().contains_key(REFUSED);
        // A gateway that answers has done its part: what its upstreams do is not its failure.
        place.end(if gateway_error && !remote { Outcome::Failure } else { Outcome::Success(took) });
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return tunnel::open(worker, &mut self.parts, outbound, response, lease);
        }
        let (mut head, incoming) = response.into_parts();
        headers::strip_hop_by_hop(&mut head.headers);
        if !remote {
            headers::strip_own(&mut head.headers);
        }
        if let Some(answer) = outbound.answer {
            headers::edit(&mut head.headers, &answer.edits, Message::Response);
        }
        let body = Body::upstream(incoming, lease, worker.applied().settings.limits.body_idle_timeout);
        let response = Box::new(Response::from_parts(head, body));
        if stale {
            return Answered::Bad { error: Error::Stale, response: None, unseen: true };
        }
        if gateway_error {
            return Answered::Bad { error: Error::UpstreamBroke, response: Some(response), unseen: false };
        }
        Answered::Good(response)
    }

    /// The request as this endpoint gets it.
    fn request(&mut self, outbound: &Outbound<'_>, body: Upload) -> Option<Request<Upload>> {
        let inbound = outbound.inbound;
        if matches!(body, Upload::Stream { .. }) {
            self.parts.extensions.insert(Streamed);
        }
        let upgrade = wants_upgrade(inbound).filter(|_| outbound.route.pool().protocol == Protocol::Http1);
        let mut fields = inbound.headers.clone();
        headers::strip_hop_by_hop(&mut fields);
        headers::add_forwarding(&mut fields, inbound, outbound.request_id);
        if outbound.route.pool().protocol == Protocol::Http1 {
            headers::connect(&mut fields, upgrade);
        }
        if let Some(answer) = outbound.answer {
            headers::edit(&mut fields, &answer.edits, Message::Request);
        }
        if let Some(tenant) = &inbound.tenant {
            headers::own(&mut fields, "portolan-tenant", tenant.as_str());
        }
        headers::own(&mut fields, "portolan-region", outbound.region.as_str());
        if let Some(home) = &inbound.home {
            headers::own(&mut fields, "portolan-shard", home.shard.as_str());
            headers::own(&mut fields, "portolan-epoch", &home.epoch.0.to_string());
            let role = if *outbound.region == home.primary { "primary" } else { "replica" };
            headers::own(&mut fields, "portolan-role", role);
        }
        if outbound.attempt > 1 {
            headers::own(&mut fields, "portolan-attempt", &outbound.attempt.to_string());
        }
        if let Route::Gateway(_) = outbound.route {
            fields.insert(GRANT, grant(outbound).encode()?);
        }
        let target = target(outbound)?;
        let protocol = outbound.route.pool().protocol;
        let mut request = Request::new(body);
        *request.method_mut() = inbound.method.clone();
        match protocol {
            Protocol::Http1 => {
                *request.version_mut() = Version::HTTP_11;
                headers::insert(&mut fields, &HOST, &inbound.authority);
                *request.uri_mut() = Uri::from(target);
            }
            Protocol::Http2 => {
                *request.version_mut() = Version::HTTP_2;
                fields.remove(HOST);
                let scheme = if outbound.route.pool().tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
                let uri = Uri::builder().scheme(scheme).authority(&*inbound.authority).path_and_query(target);
                *request.uri_mut() = uri.build().ok()?;
            }
        }
        *request.headers_mut() = fields;
        Some(request)
    }
}

/// Marks a request whose content was streamed away and cannot be sent again.
#[derive(Clone)]
struct Streamed;

/// The protocol that an HTTP/1.1 client asks to switch to.
fn wants_upgrade(inbound: &Inbound) -> Option<HeaderValue> {
    inbound.downstream.switch.as_ref()?;
    let lines = inbound.headers.get_all(CONNECTION).iter().filter_map(|line| line.to_str().ok());
    let asked =
        lines.flat_map(|line| line.split(',')).any(|option| option.trim().eq_ignore_ascii_case("upgrade"));
    let offer = inbound.headers.get(UPGRADE).filter(|_| asked)?;
    // Requests behind a switch to HTTP/2 would pass every rule unseen, and the offer is no more (RFC 9113, section 3.1).
    let h2c = |text: &str| text.split(',').any(|offer| offer.trim().to_ascii_lowercase().starts_with("h2"));
    (!h2c(offer.to_str().ok()?)).then(|| offer.clone())
}

fn target(outbound: &Outbound<'_>) -> Option<PathAndQuery> {
    let inbound = outbound.inbound;
    let rewritten =
        outbound.answer.and_then(|answer| answer.rewrite.as_ref()).and_then(|rule| rule.apply(&inbound.path));
    let path = rewritten.as_deref().unwrap_or(&inbound.path);
    match &inbound.query {
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")).ok(),
        None => PathAndQuery::try_from(path).ok(),
    }
}

fn grant(outbound: &Outbound<'_>) -> Grant {
    Grant {
        attempt: outbound.attempt,
        deadline: outbound.left,
        generation: outbound.generation,
        hops: headers::hops(&outbound.inbound.headers) + 1,
        pool: outbound.pool.clone(),
        region: outbound.region.clone(),
        service: outbound.work.is_some(),
        shard: shard(outbound),
        sticky: outbound.sticky,
        tenant: outbound.inbound.tenant.clone(),
        tries: outbound.tries,
    }
}

/// The shard that must be written there, and under which lease.
fn shard(outbound: &Outbound<'_>) -> Option<(ShardName, Epoch)> {
    if let Some(work) = outbound.work {
        return Some((work.shard.clone(), work.epoch));
    }
    let home = outbound.inbound.home.as_ref().filter(|home| home.primary == *outbound.region)?;
    outbound.inbound.written_at().map(|_| (home.shard.clone(), home.epoch))
}

/// A place at an endpoint, given back with what is known by then: nothing, when the client goes away.
struct Place<'a> {
    endpoint: Arc<Endpoint>,
    pool: Arc<Pool>,
    attempt: Option<Attempt>,
    worker: &'a Rc<Worker>,
}

impl Place<'_> {
    fn end(mut self, outcome: Outcome) {
        self.give_back(outcome);
    }

    fn give_back(&mut self, outcome: Outcome) {
        if let Some(attempt) = self.attempt.take()
            && self.endpoint.cell.finish(attempt, outcome, &self.pool.breaker, clock::now())
        {
            self.worker.shard.breakers_opened.add(1);
            tracing::warn!(
                endpoint = %self.endpoint.authority, pool = %self.pool.name, region = %self.pool.region,
                "too many failures in a row: the breaker opens"
            );
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.give_back(Outcome::Neutral);
    }
}
