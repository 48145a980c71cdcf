//! The life of a request, from top to bottom.
//!
//! validate → recognise the tenant → decide → ask the cache → (resolve → forward)* → respond. Each room takes what the former one made.
//! On the peer link the decision comes with the request, and the first three rooms are passed by.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use portolan_core::ids::{PoolName, RegionName};
use portolan_core::loss::Admission;
use portolan_core::plan::{Action, RetryClass};
use portolan_core::snapshot::Snapshot;
use portolan_core::steering::Gate;
use portolan_core::topology::Topology;
use portolan_foundation::endpoint::Work;
use portolan_foundation::{clock, random};

use crate::body::{Body, Busy, Patient, Upload};
use crate::cached::{self, Cached};
use crate::capture;
use crate::decide::{Choice, Decision, Draw, decide};
use crate::defaults;
use crate::error::Error;
use crate::forward::{Answered, Attempts, Outbound};
use crate::headers;
use crate::inbound::{Downstream, Home, Inbound};
use crate::peer::{GRANT, Grant};
use crate::preview;
use crate::resolve::{Route, resolve};
use crate::respond::{self, Told};
use crate::server::Worker;
use crate::service;
use crate::steer::{Step, Through, steer};

/// Answers one request.
pub(crate) async fn handle(
    worker: Rc<Worker>,
    downstream: Rc<Downstream>,
    request: Request<Incoming>,
) -> Response<Body> {
    let begun = clock::now();
    let snapshot = worker.snapshot();
    let busy = Busy::begin(&downstream.busy);
    let (mut parts, incoming) = request.into_parts();
    let applied = worker.applied();
    let trust = &applied.settings.trust;
    let limits = &applied.settings.limits.screen;
    let inbound = Inbound::read(&mut parts, &downstream, trust, limits, &snapshot.topology.local);
    let mut inbound = match inbound {
        Ok(inbound) => inbound,
        Err(error) => {
            let mut told = Told::nothing(begun, &snapshot);
            told.error = Some(error);
            let response = respond::finish(&worker, &downstream, told, error.respond("-", false));
            return response.map(|body| body.with_busy(busy));
        }
    };
    let snapshot =
        if inbound.downstream.peer.is_some() { caught_up(&worker, &inbound).await } else { snapshot };
    let mut told = Told::of(begun, &snapshot, &inbound);
    let answered = serve(&worker, &snapshot, &mut inbound, &mut told, parts, incoming).await;
    let response = match answered {
        Ok(response) => response,
        Err(error) => {
            told.error = Some(error);
            error.respond(told.request_id.to_str().unwrap_or("-"), inbound.is_grpc())
        }
    };
    respond::finish(&worker, &downstream, told, response).map(|body| body.with_busy(busy))
}

async fn serve(
    worker: &Rc<Worker>,
    snapshot: &Arc<Snapshot>,
    inbound: &mut Inbound,
    told: &mut Told,
    parts: Parts,
    incoming: Incoming,
) -> Result<Response<Body>, Error> {
    if headers::hops(&inbound.headers) >= defaults::HOPS_MAX {
        return Err(Error::Loop);
    }
    if headers::is_last_hop(&inbound.method, &mut inbound.headers) {
        told.decided(worker, inbound, &Decision::default());
        return Ok(respond::options());
    }
    let granted = granted(snapshot, inbound)?;
    // What another region sends for a service says so; a path alone proves nothing, because policies rewrite paths.
    let meant = granted.as_ref().is_none_or(|grant| grant.service);
    let service = worker.services().find(&inbound.path).filter(|_| meant).cloned();
    if service.is_none() && granted.as_ref().is_some_and(|grant| grant.service) {
        return Err(Error::Stale);
    }
    if let Some(service) = service {
        let request = (parts, incoming);
        return Box::pin(service::serve(worker, snapshot, inbound, told, request, granted, &service)).await;
    }
    let mut draw = Draw { counts: true, now_ms: clock::unix_ms(), seed: random::u64() };
    let decision = match &granted {
        Some(grant) => Decision {
            choices: std::iter::once(Choice::Own(grant.region.clone(), grant.pool.clone())).collect(),
            ..Decision::default()
        },
        None => {
            recognise(snapshot, inbound)?;
            told.belongs(inbound);
            told.reads_only(&snapshot.topology, inbound);
            told.preview = preview::take(worker, inbound, draw.now_ms)?;
            // What an unpublished version says is nobody's evidence, and nothing that is decided again later.
            draw.counts = told.preview.is_none();
            let mut decision = Decision::default();
            let decided = decide(&mut decision, snapshot, inbound, draw, told.preview.as_ref());
            if draw.counts {
                told.captured =
                    capture::after_decision(worker, snapshot, inbound, &decision, draw, decided.is_err());
            }
            if let Err(Error::PolicyFailed(why)) = &decided {
                worker.shard.undecided(*why);
            }
            decided?;
            decision
        }
    };
    told.decided(worker, inbound, &decision);
    headers::strip_own(&mut inbound.headers);
    let body = take_body(worker, inbound, incoming).await?;
    told.receives(body.received());
    let question =
        match Box::pin(cached::find(worker, snapshot, inbound, (&decision, told), &parts, &body)).await {
            Cached::Answered(response) => return Ok(*response),
            Cached::Asks(question) => Some(question),
            Cached::Passed => None,
        };
    let mut trip = Trip {
        worker,
        snapshot,
        inbound,
        told,
        decision: &decision,
        grant: granted.as_ref(),
        attempts: Attempts::new(parts, body, granted.as_ref().map(|grant| grant.tries)),
        spare: None,
        work: None,
    };
    let mut answered = trip.run().await;
    if answered.as_ref().is_err_and(|error| *error == Error::Stale) && granted.is_none() {
        answered = Err(Error::Settling);
        if trip.inbound.home.is_some() && trip.attempts.can_repeat() {
            let attempts = trip.attempts;
            let snapshot = moved_on(worker, inbound).await;
            let (snapshot, decision) = (&snapshot, &decision);
            let (grant, spare, work) = (None, None, None);
            let mut trip = Trip { worker, snapshot, inbound, told, decision, grant, attempts, spare, work };
            answered = Box::pin(trip.run()).await.map_err(Error::settled);
        }
    }
    if let Some(question) = question {
        answered = cached::hear(question, told, answered);
    }
    if answered.is_err() && granted.is_none() && draw.counts && told.captured.is_none() {
        let captured = capture::after_failure(worker, snapshot, inbound, &decision, draw);
        told.captured = captured.map(|captured| (captured, false));
    }
    answered
}

/// The decision that came with the request, on the peer link.
fn granted(snapshot: &Snapshot, inbound: &mut Inbound) -> Result<Option<Grant>, Error> {
    if inbound.downstream.peer.is_none() {
        return Ok(None);
    }
    let grant = inbound.headers.get(GRANT).and_then(Grant::decode).ok_or(Error::Stale)?;
    let topology = &snapshot.topology;
    let known = grant.service || topology.pool(&grant.region, &grant.pool).is_some();
    if grant.region != topology.local || !known || grant.hops >= defaults::HOPS_MAX {
        return Err(Error::Stale);
    }
    inbound.tenant = grant.tenant.clone();
    inbound.settle(topology);
    served(topology, inbound)?;
    if !is_ours(&grant, topology) {
        return Err(Error::Stale);
    }
    Ok(Some(grant))
}

/// Is the shard that the request is to write written here, under the lease that its sender named? What one side alone knows of
/// is nobody's permission, whichever of them knows more. Of a service a copy may be asked as well: the service looks at its lease by itself.
pub(crate) fn is_ours(grant: &Grant, topology: &Topology) -> bool {
    let Some((shard, epoch)) = &grant.shard else { return true };
    let known = topology.directory.named(shard);
    known.is_some_and(|known| known.epoch == *epoch && (grant.service || known.primary == topology.local))
}

/// The snapshot that a request of another region goes by: where it names a later lease than this node knows, the news are on
/// their way.
async fn caught_up(worker: &Worker, inbound: &Inbound) -> Arc<Snapshot> {
    let grant =
        inbound.downstream.peer.as_ref().and_then(|_| inbound.headers.get(GRANT)).and_then(Grant::decode);
    let Some((shard, epoch)) = grant.and_then(|grant| grant.shard) else { return worker.snapshot() };
    let known = |snapshot: &Snapshot| {
        snapshot.topology.directory.named(&shard).is_some_and(|known| known.epoch >= epoch)
    };
    news(worker, known).await
}

/// The first snapshot that has come to what others know already, or the newest after a while.
async fn news(worker: &Worker, come: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
    let until = clock::now().plus(defaults::NEWS_WAIT);
    loop {
        let snapshot = worker.snapshot();
        if come(&snapshot) || clock::now() >= until {
            return snapshot;
        }
        tokio::time::sleep(defaults::NEWS_PAUSE).await;
    }
}

/// After a refusal by who knows more: waits until this node knows of another writer of the tenant's rows, too.
pub(crate) async fn moved_on(worker: &Worker, inbound: &mut Inbound) -> Arc<Snapshot> {
    let before = inbound.home.clone();
    let snapshot = news(worker, |snapshot| inbound.home_in(&snapshot.topology) != before).await;
    inbound.settle(&snapshot.topology);
    snapshot
}

fn recognise(snapshot: &Snapshot, inbound: &mut Inbound) -> Result<(), Error> {
    let tenants = &snapshot.topology.tenants;
    inbound.tenant = tenants.recognise(inbound).map_err(|_| Error::UnknownTenant)?;
    inbound.settle(&snapshot.topology);
    served(&snapshot.topology, inbound)
}

/// Is the tenant served? Permission ends at every node by its own picture, whoever decided the request.
pub(crate) fn served(topology: &Topology, inbound: &Inbound) -> Result<(), Error> {
    match topology.tenants.barred(inbound.tenant.as_ref()) {
        Some(_) => Err(Error::Suspended),
        None => Ok(()),
    }
}

/// The request's content: kept whole when it is small, so that it can be sent again; streamed otherwise.
pub(crate) async fn take_body(
    worker: &Worker,
    inbound: &Inbound,
    incoming: Incoming,
) -> Result<Upload, Error> {
    let limits = worker.applied().settings.limits;
    let max = limits.body_bytes_max.unwrap_or(u64::MAX);
    if incoming.is_end_stream() {
        return Ok(Upload::Empty);
    }
    let declared = incoming.size_hint().exact();
    if declared.is_some_and(|bytes| bytes > max) {
        return Err(Error::BodyTooLarge);
    }
    let body = Patient::new(incoming, limits.body_idle_timeout);
    let small = declared.is_some_and(|bytes| bytes <= defaults::REPLAY_BYTES_MAX);
    let stream = Upload::Stream { body, left: max, passed: Arc::default() };
    // What goes to a shard's primary may be refused by who knows of a newer one, and is sent there then.
    let repeats =
        portolan_core::retry::is_idempotent(inbound.method.as_str()) || inbound.written_at().is_some();
    if small && repeats {
        let whole = stream.collect().await.map_err(|_| Error::BodyBroken)?;
        return Ok(Upload::Full(Some(whole.to_bytes())));
    }
    Ok(stream)
}

/// One request on its way through its choices.
pub(crate) struct Trip<'a> {
    pub(crate) worker: &'a Rc<Worker>,
    pub(crate) snapshot: &'a Arc<Snapshot>,
    pub(crate) inbound: &'a Inbound,
    pub(crate) told: &'a mut Told,
    pub(crate) decision: &'a Decision,
    pub(crate) grant: Option<&'a Grant>,
    pub(crate) attempts: Attempts,
    /// The last upstream's own answer of failure, which the client gets where nobody has a better one.
    pub(crate) spare: Option<Box<Response<Body>>>,
    /// What a service of another region is to do.
    pub(crate) work: Option<&'a Work>,
}

impl Trip<'_> {
    pub(crate) async fn run(&mut self) -> Result<Response<Body>, Error> {
        if self.decision.choices.is_empty() {
            return Err(Error::NoAnswer);
        }
        let (inbound, snapshot, decision) = (self.inbound, self.snapshot, self.decision);
        let topology = &snapshot.topology;
        let steered = steer(topology, inbound, decision, clock::now());
        self.told.steered(self.worker, steered.why);
        let mut last = Error::NoEndpoint;
        for Step { choice, panics, pool, region, .. } in &steered.steps {
            self.told.answers(decision.source(choice));
            let pinned = self.pinned(region, pool);
            if pinned && is_changing(topology, inbound) {
                return Err(Error::Stale);
            }
            if pinned && is_unwritten(topology, inbound) {
                return Err(Error::NoPrimary);
            }
            let now = clock::now();
            match resolve(topology, inbound.residency.as_ref(), region, (pool, *panics), now) {
                Err(_) if pinned && **region != topology.local => last = Error::NoPrimary,
                Err(_) => {}
                Ok(route) => match self.admitted(choice, region, pool, (&route, *panics)).await {
                    Ok(response) => return Ok(self.with_token(response, region, pool).await),
                    Err(Halt::Final(error)) => return Err(error),
                    Err(Halt::Next(error)) => last = error,
                },
            }
        }
        if let Some(choice) = steered.direct {
            self.told.answers(decision.source(choice));
            return self.answer(choice);
        }
        match self.spare.take() {
            Some(response) => Ok(*response),
            None if steered.outside == steered.named => Err(Error::OutOfBounds),
            None if steered.forbidden + steered.outside == steered.named => Err(Error::NoAllowedRegion),
            None => Err(last),
        }
    }

    /// Must the request reach the region because its shard is written there?
    fn pinned(&self, region: &RegionName, pool: &PoolName) -> bool {
        let stateless = self.snapshot.topology.pool(region, pool).is_none_or(|pool| pool.stateless);
        !stateless && self.inbound.written_at() == Some(region)
    }

    /// Tries a target, once its shard may be written.
    async fn admitted(
        &mut self,
        choice: &Choice,
        region: &RegionName,
        pool: &PoolName,
        way: (&Route, bool),
    ) -> Result<Response<Body>, Halt> {
        let admission = self
            .written_here(region, pool)
            .map_or(Admission::Pass, |home| self.worker.services().admits(&home.shard));
        match admission {
            Admission::Pass => {}
            Admission::Refuse => return Err(Halt::Final(Error::PastMaxLoss)),
            Admission::Slow(delay) => tokio::time::sleep(delay).await,
        }
        self.attempt(choice, region, pool, way).await
    }

    /// The shard that the request may write through this target, where this region writes it.
    fn written_here(&self, region: &RegionName, pool: &PoolName) -> Option<&Home> {
        let here = *region == self.snapshot.topology.local && self.pinned(region, pool);
        self.inbound.home.as_ref().filter(|_| here)
    }

    /// Tells whoever may have written where its shard's log is now, where that is this region's to know.
    async fn with_token(
        &self,
        mut response: Response<Body>,
        region: &RegionName,
        pool: &PoolName,
    ) -> Response<Body> {
        let topology = &self.snapshot.topology;
        let wanted = topology.pool(region, pool).is_some_and(|pool| pool.token);
        let home = self.written_here(region, pool).filter(|_| wanted);
        // An application that knows its own position knows it better.
        let Some(home) = home.filter(|_| !response.headers().contains_key(headers::TOKEN)) else {
            return response;
        };
        if let Some(token) = self.worker.services().token(&home.shard).await {
            headers::own(response.headers_mut(), "portolan-token", &token.to_string());
        }
        response
    }

    /// An answer that needs no upstream.
    fn answer(&self, choice: &Choice) -> Result<Response<Body>, Error> {
        let answer = self.decision.answer(choice).ok_or(Error::NoAnswer)?;
        let mut response = match &answer.action {
            Action::Respond { status, content_type, body } => respond::direct(*status, content_type, body),
            Action::Redirect { status, location } => respond::redirect(*status, location, self.inbound),
            Action::Forward { .. } | Action::Next => return Err(Error::NoAnswer),
        };
        headers::edit(response.headers_mut(), &answer.edits, portolan_core::plan::Message::Response);
        Ok(response)
    }

    /// Tries one target until it answers, fails for good, or the next one should be tried.
    pub(crate) async fn attempt(
        &mut self,
        choice: &Choice,
        region: &RegionName,
        pool: &PoolName,
        (route, panics): (&Route, bool),
    ) -> Result<Response<Body>, Halt> {
        let source = self.decision.source(choice);
        let exchange = source.and_then(crate::decide::Source::exchange);
        // What a service was asked may have been done; its caller alone knows whether to ask again.
        let usual = if self.work.is_some() { RetryClass::Connect } else { RetryClass::default() };
        let retry = exchange.map_or(usual, |exchange| exchange.retry);
        let limit = exchange.and_then(|exchange| exchange.timeout).unwrap_or(route.pool().response_timeout);
        let limit = self.grant.map_or(limit, |grant| grant.deadline.min(limit));
        let sticky =
            source.and_then(|source| source.sticky).or_else(|| self.grant.and_then(|grant| grant.sticky));
        let gate = matches!(route, Route::Gateway(_)).then(|| self.gate(region, pool, route));
        let mut tried = smallvec::SmallVec::<[usize; 4]>::new();
        loop {
            let left = self.time_left(limit)?;
            let now = clock::now();
            let (worker, snapshot) = (self.worker, self.snapshot);
            let through = gate.as_ref().map(|gate| Through::start(worker, &snapshot.topology, region, gate));
            if matches!(through, Some(None)) {
                return Err(Halt::Next(Error::NoEndpoint));
            }
            let Some(endpoint) = crate::forward::choose(route.pool(), &tried, (sticky, panics), now) else {
                return Err(Halt::Next(Error::NoEndpoint));
            };
            let Some((place, endpoint, attempt)) = endpoint else {
                // The breaker's probe was taken by another thread a moment ago.
                return Err(Halt::Next(Error::NoEndpoint));
            };
            tried.push(place);
            let request_id = self.told.request_id.clone();
            let outbound = Outbound {
                answer: self.decision.answer(choice),
                attempt: self.attempts.count + self.grant.map_or(1, |grant| grant.attempt),
                endpoint: &endpoint,
                generation: self.snapshot.generation.0,
                inbound: self.inbound,
                left,
                pool,
                region,
                request_id: &request_id,
                route,
                sticky,
                tries: self.attempts.left(),
                work: self.work,
            };
            self.told.went(region, pool, &endpoint.authority, outbound.attempt);
            let sent = self.attempts.send(self.worker, &outbound, attempt).await;
            if let Some(through) = through.flatten() {
                through.end(&sent);
                let before = self.grant.map_or(0, |grant| grant.attempt.saturating_sub(1));
                self.attempts.spent(spent(&sent).saturating_sub(before));
            }
            match sent {
                Answered::Good(response) => return Ok(*response),
                Answered::Bad { response, error, unseen } => {
                    let again = self.attempts.may_repeat(self.worker, retry, self.inbound, unseen);
                    match (again, response) {
                        (true, spare) => self.spare = spare,
                        (false, Some(response)) => return Ok(*response),
                        (false, None) => return Err(Halt::Final(error)),
                    }
                    let left_here = route.pool().endpoints.len() > tried.len();
                    if !left_here {
                        return Err(Halt::Next(error));
                    }
                }
            }
        }
    }

    /// What is known of forwarding to this pool; what services are asked goes by the gateways themselves.
    fn gate(&self, region: &RegionName, pool: &PoolName, route: &Route) -> Arc<Gate> {
        let direct = self.snapshot.topology.pool(region, pool).unwrap_or_else(|| route.pool());
        Arc::clone(&direct.gate)
    }

    fn time_left(&self, limit: Duration) -> Result<Duration, Halt> {
        let left = limit.saturating_sub(clock::now().since(self.told.begun));
        if left.is_zero() { Err(Halt::Final(Error::Timeout)) } else { Ok(left) }
    }
}

/// Does nobody write the tenant's shard now?
pub(crate) fn is_unwritten(topology: &Topology, inbound: &Inbound) -> bool {
    inbound.home.as_ref().is_some_and(|home| topology.steering.load().unwritten.contains(&home.shard))
}

/// Is the tenant's shard handed over just now, from the region that is taken for its writer? Who is next is known in a moment.
pub(crate) fn is_changing(topology: &Topology, inbound: &Inbound) -> bool {
    inbound.home.as_ref().is_some_and(|home| {
        let traffic = topology.steering.load();
        traffic.changing.get(&home.shard).is_some_and(|over| home.epoch <= *over)
    })
}

/// How many attempts were made of all, as the other region tells.
fn spent(answered: &Answered) -> u32 {
    let response = match answered {
        Answered::Good(response) => Some(response),
        Answered::Bad { response, .. } => response.as_ref(),
    };
    let told = response.and_then(|response| response.headers().get("portolan-attempts")?.to_str().ok());
    told.and_then(|told| told.parse().ok()).unwrap_or(0)
}

/// Why a target gave no answer, and what follows.
pub(crate) enum Halt {
    Final(Error),
    Next(Error),
}

/// The status that tells the sender of a grant to try elsewhere.
pub(crate) const STALE: StatusCode = StatusCode::MISDIRECTED_REQUEST;
