//! The end of a request: answers made here, fields of the gateway's own, and the books.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, LOCATION};
use http::{Response, StatusCode};
use portolan_core::ids::{PoolName, RegionName};
use portolan_core::lane::Side;
use portolan_core::plan::{RuleId, fill_location};
use portolan_core::recording::{Captured, Outcome};
use portolan_core::snapshot::{Policy, Snapshot};
use portolan_core::time::Moment;
use portolan_core::topology::Topology;
use portolan_foundation::clock;

use crate::access::Line;
use crate::body::Body;
use crate::decide::{self, Decision};
use crate::error::{Error, Source};
use crate::headers;
use crate::inbound::{Downstream, Inbound};
use crate::metrics::{Payer, Received, Ticket};
use crate::peer::{FAILED, REFUSED};
use crate::pipeline::is_unwritten;
use crate::preview::{Part, Previewed};
use crate::server::Worker;
use crate::steer::Why;

/// Who answers a request.
#[derive(Debug)]
struct Answerer {
    policy: Arc<Policy>,
    rule: RuleId,
    side: Option<Side>,
}

/// What is told of a request: to its client, to the log.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) begun: Moment,
    pub(crate) request_id: HeaderValue,
    pub(crate) error: Option<Error>,
    /// On whose account the request goes.
    pub(crate) payer: Option<Payer>,
    answerer: Option<Answerer>,
    generation: u64,
    region: Option<RegionName>,
    attempts: u32,
    line: Option<Box<Line>>,
    /// What is to be kept or compared of the decision, and whether the client is told its id.
    pub(crate) captured: Option<(Box<Captured>, bool)>,
    pool: Option<PoolName>,
    /// Does nobody write the tenant's shard now?
    read_only: bool,
    /// Why the request went first where it was not decided to go first.
    why: Option<Why>,
    /// The version that decides it although no slot runs it, by its client's word.
    pub(crate) preview: Option<Previewed>,
    /// What it did.
    part: Part,
}

impl Told {
    /// Of a request that could not be read.
    pub(crate) fn nothing(begun: Moment, snapshot: &Snapshot) -> Self {
        Self {
            begun,
            request_id: HeaderValue::from_static("-"),
            error: None,
            payer: None,
            answerer: None,
            generation: snapshot.generation.0,
            region: None,
            attempts: 0,
            line: None,
            captured: None,
            pool: None,
            read_only: false,
            why: None,
            preview: None,
            part: Part::NotAsked,
        }
    }

    pub(crate) fn of(begun: Moment, snapshot: &Snapshot, inbound: &Inbound) -> Self {
        Self { request_id: headers::request_id(inbound), ..Self::nothing(begun, snapshot) }
    }

    /// Writes down whose request it is.
    pub(crate) fn belongs(&mut self, inbound: &Inbound) {
        self.payer = Some(Payer { tenant: inbound.tenant.clone(), received: Received::Nothing });
    }

    /// Writes down whether the tenant's rows are only read now.
    pub(crate) fn reads_only(&mut self, topology: &Topology, inbound: &Inbound) {
        self.read_only = is_unwritten(topology, inbound);
    }

    /// Writes down why the request goes first where it was not decided to go first.
    pub(crate) fn steered(&mut self, worker: &Worker, why: Option<Why>) {
        self.why = why;
        why.into_iter().for_each(|why| worker.shard.steered(why));
        if let Some(line) = &mut self.line {
            line.steered = why.map(Why::as_str);
        }
    }

    /// Writes down how the content comes in.
    pub(crate) fn receives(&mut self, received: Received) {
        if let Some(payer) = &mut self.payer {
            payer.received = received;
        }
    }

    /// Writes down what was decided.
    pub(crate) fn decided(&mut self, worker: &Worker, inbound: &Inbound, decision: &Decision) {
        if decision.asked {
            worker.shard.decided.add(1);
        }
        decision.undecided.into_iter().for_each(|why| worker.shard.undecided(why));
        if decision.previewed {
            self.part = Part::Passed;
        }
        if worker.applied().log.is_some() || worker.taps.want(inbound.tenant.as_ref()) {
            self.line = Some(Box::new(Line {
                at_ms: clock::unix_ms(),
                request_id: self.request_id.to_str().unwrap_or_default().to_owned(),
                client: inbound.client.to_string(),
                method: inbound.method.to_string(),
                host: inbound.host.to_string(),
                path: inbound.path.to_string(),
                tenant: inbound.tenant.as_ref().map(ToString::to_string),
                generation: self.generation,
                ..Line::default()
            }));
        }
        self.names(decision.sources.first());
    }

    /// Writes down whose answer is given.
    pub(crate) fn answers(&mut self, source: Option<&decide::Source>) {
        if let Some(preview) = self.preview.as_ref().filter(|_| self.part != Part::NotAsked) {
            let is_its = source.is_some_and(|source| Arc::ptr_eq(&source.policy, &preview.policy));
            self.part = if is_its { Part::Answered } else { Part::Passed };
        }
        self.names(source);
    }

    /// The host's own answer is given where no policy has one: then it is the policy that said so.
    fn names(&mut self, source: Option<&decide::Source>) {
        let Some(source) = source else { return };
        let is_known =
            |known: &Answerer| Arc::ptr_eq(&known.policy, &source.policy) && known.rule == source.rule;
        if self.answerer.as_ref().is_some_and(is_known) {
            return;
        }
        let policy = Arc::clone(&source.policy);
        if let Some(line) = &mut self.line {
            line.policy = Some(format!("{}@{}", policy.name, policy.digest.short()));
            line.rule = Some(source.rule_name());
            line.side = source.side;
        }
        self.answerer = Some(Answerer { policy, rule: source.rule, side: source.side });
    }

    /// The pool that the last attempt went to.
    pub(crate) const fn pool(&self) -> Option<&PoolName> {
        self.pool.as_ref()
    }

    /// Writes down where an attempt went.
    pub(crate) fn went(&mut self, region: &RegionName, pool: &PoolName, endpoint: &str, attempt: u32) {
        self.region = Some(region.clone());
        self.attempts = attempt;
        self.pool = Some(pool.clone());
        if let Some(line) = &mut self.line {
            line.region = Some(region.to_string());
            line.pool = Some(pool.to_string());
            line.endpoint = Some(endpoint.to_owned());
            line.attempts = attempt;
        }
    }
}

/// The answer to OPTIONS that may go no further: what the gateway serves.
pub(crate) fn options() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    headers::insert(response.headers_mut(), &ALLOW, crate::error::METHODS);
    response
}

/// A direct answer of a policy.
pub(crate) fn direct(status: u16, content_type: &str, body: &str) -> Response<Body> {
    let mut response = Response::new(Body::full(Bytes::copy_from_slice(body.as_bytes())));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    if !content_type.is_empty() {
        headers::insert(response.headers_mut(), &CONTENT_TYPE, content_type);
    }
    response
}

/// A redirect of a policy.
pub(crate) fn redirect(status: u16, location: &str, inbound: &Inbound) -> Response<Body> {
    let query = inbound.query.as_deref().map(|query| format!("?{query}")).unwrap_or_default();
    let location = fill_location(location, &inbound.authority, &inbound.path, &query);
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::FOUND);
    headers::insert(response.headers_mut(), &LOCATION, &location);
    response
}

/// Adds the gateway's own fields and opens the books that the last byte closes.
pub(crate) fn finish(
    worker: &Rc<Worker>,
    downstream: &Downstream,
    mut told: Told,
    mut response: Response<Body>,
) -> Response<Body> {
    // The gateway's own version, whatever the upstream speaks (RFC 9112, section 2.3).
    *response.version_mut() = http::Version::HTTP_11;
    let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if let Some(switch) = &downstream.switch
        && !upgraded
    {
        switch.decline();
    }
    let empty = response.status() == StatusCode::NO_CONTENT;
    let fields = response.headers_mut();
    if empty {
        // It has no content, and must not speak of any (RFC 9110, section 8.6).
        fields.remove(CONTENT_LENGTH);
    }
    if downstream.peer.is_some() {
        // The origin tells the client; it needs to know which attempt succeeded, and why a grant was refused.
        if told.attempts > 1 {
            headers::own(fields, "portolan-attempts", &told.attempts.to_string());
        }
        if let Some(error) = told.error.filter(|error| error.source() == Source::Gateway) {
            headers::own(fields, REFUSED, error.as_str());
        }
        if let Some(error) = told.error.filter(|error| error.source() == Source::Upstream) {
            headers::own(fields, FAILED, error.as_str());
        }
    } else {
        tell_client(worker, &told, fields);
    }
    if let Some(error) = told.error {
        tracing::debug!(error = error.as_str(), source = ?error.source(), request_id = ?told.request_id, "request not served");
    }
    if let Some((captured, _)) = told.captured.take() {
        hand_over(worker, &told, *captured, response.status());
    }
    let line = told.line.map(|mut line| {
        line.error = told.error.map(Error::as_str);
        line
    });
    let ticket = Ticket {
        shard: Arc::clone(&worker.shard),
        account: told.payer,
        begun: told.begun,
        status: response.status(),
        sent_bytes: 0,
        broken: None,
        line: line.map(|line| (worker.applied(), worker.taps.clone(), line)),
        switch: downstream.switch.clone(),
    };
    response.map(|body| body.with_ticket(ticket))
}

/// Gives the decision to whoever keeps it, with what became of the request.
fn hand_over(worker: &Worker, told: &Told, mut captured: Captured, status: StatusCode) {
    captured.outcome = Outcome {
        status: status.as_u16(),
        region: told.region.clone(),
        pool: told.pool.clone(),
        attempts: told.attempts,
        error: told.error.map(|error| error.as_str().into()),
    };
    worker.recorder.take(captured);
}

fn tell_client(worker: &Worker, told: &Told, fields: &mut http::HeaderMap) {
    let attempts = fields
        .get("portolan-attempts")
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .unwrap_or(0)
        .max(told.attempts);
    headers::strip_own_but(fields, &headers::TOLD);
    if !fields.contains_key(&headers::REQUEST_ID) {
        fields.insert(&headers::REQUEST_ID, told.request_id.clone());
    }
    if attempts > 1 {
        headers::own(fields, "portolan-attempts", &attempts.to_string());
    }
    if let Some((captured, true)) = &told.captured {
        headers::own(fields, "portolan-decision", &captured.id.to_string());
    }
    if told.read_only || told.error == Some(Error::NoPrimary) {
        headers::own(fields, "portolan-mode", "read-only");
    }
    if let Some(preview) = &told.preview {
        preview.tell(told.part, fields);
    }
    if worker.applied().settings.expose_decision {
        headers::own(fields, "portolan-generation", &told.generation.to_string());
        let answerer = told.answerer.as_ref();
        let policy = answerer.map_or("-", |answerer| answerer.policy.name.as_str());
        headers::own(fields, "portolan-policy", policy);
        if let Some(answerer) = answerer {
            headers::own(fields, "portolan-policy-version", &answerer.policy.digest.short());
            if let Some(side) = answerer.side {
                headers::own(fields, "portolan-policy-side", side.as_str());
            }
        }
        if let Some(why) = told.why {
            headers::own(fields, "portolan-steered", why.as_str());
        }
        if let Some(region) = &told.region {
            headers::own(fields, "portolan-region", region.as_str());
        }
    }
}
