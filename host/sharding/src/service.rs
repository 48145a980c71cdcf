//! The tenants' data as a service of the gateway, below `/-/data`: recognises who asks, finds the shard, and answers where the
//! shard's primary is.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use portolan_changelog::Store;
use portolan_core::ids::{RegionName, ShardName, TenantName};
use portolan_core::loss::Admission;
use portolan_foundation::endpoint::{
    Answering, Body, BoxError, Endpoint, Head, Positions, Routed, Telling, Work, whole,
};
use portolan_foundation::{clock, task};
use tokio::time::Instant;

use crate::breaker::Attempt;
use crate::copies::Freshness;
use crate::data::{self, Code, Door, Need, PREFIX, Problem};
use crate::defaults::{EPOCH_BEGINS, HOLD_LOOK, MOVE_HOLD};
use crate::durable;
use crate::newest;
use crate::refuse;
use crate::room::{Awaiting, Late, Memory};
use crate::route::{self, CONSISTENCY, Consistency, TOKEN};
use crate::shards::{Cell, Shards};

/// The field of an answer from a copy that says how old what it shows may be, in seconds.
const STALENESS: HeaderName = HeaderName::from_static("portolan-staleness");

/// Who asks, by a token.
pub trait Authenticate: fmt::Debug + Send + Sync {
    /// What the holder of a token may do.
    ///
    /// # Errors
    /// When it is none of this installation's, or is none any more.
    fn token(&self, text: &str) -> Result<Access, Unauthentic>;
}

/// What a caller may do with rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// May it read?
    pub read: bool,
    /// Whose rows; the tenant that the request names, when absent.
    pub tenant: Option<TenantName>,
    /// May it write?
    pub write: bool,
}

/// Why a token is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unauthentic(pub String);

/// The service.
#[derive(Debug)]
pub struct Service {
    callers: Arc<dyn Authenticate>,
    local: RegionName,
    runtime: tokio::runtime::Handle,
    shards: Shards,
}

impl Service {
    /// A service over these shards, whose databases are spoken to on this runtime.
    #[must_use]
    pub fn new(
        shards: Shards,
        local: RegionName,
        callers: Arc<dyn Authenticate>,
        runtime: tokio::runtime::Handle,
    ) -> Self {
        Self { callers, local, runtime, shards }
    }

    /// Who asks, and for whose rows.
    fn admit(&self, head: &Head<'_>, writes: bool) -> Result<TenantName, Problem> {
        let access = match credential(head.headers)? {
            Some(token) => self.callers.token(token).map_err(|Unauthentic(why)| refuse::unauthentic(&why))?,
            None if head.certified => Access { read: true, tenant: head.tenant.cloned(), write: true },
            None => {
                return Err(refuse::unauthentic(
                    "send `Authorization: Bearer TOKEN`; `portolan token create --role tenant-app` makes one",
                ));
            }
        };
        if !(if writes { access.write } else { access.read }) {
            return Err(refuse::not_allowed(writes));
        }
        let tenant = match (access.tenant, head.tenant) {
            (Some(own), Some(named)) if own != *named => return Err(refuse::foreign_tenant()),
            (Some(own), _) => own,
            (None, Some(named)) => named.clone(),
            (None, None) => return Err(refuse::no_tenant()),
        };
        Ok(tenant)
    }

    fn find(&self, head: &Head<'_>) -> Result<Routed, Problem> {
        let need = data::need(head.method, below(head.uri.path()))?;
        let tenant = self.admit(head, need.writes)?;
        let shard = route::shard(head.topology, &tenant, need.writes)?;
        let members = self.shards.is_of_members(&shard.name, below(head.uri.path()));
        let wanted = wanted(need.writes, members, head.headers)?;
        let copy = self.shards.freshness(&shard.name).filter(|_| shard.primary != self.local);
        let here =
            copy.is_some_and(|copy| need.writes && members || copy.serves(&shard.name, shard.epoch, &wanted));
        let work = Work { epoch: shard.epoch, shard: shard.name.clone(), tenant };
        if here {
            return Ok(Routed::Region { first: self.local.clone(), others: Vec::new(), work });
        }
        let leads = || self.shards.written(&shard.name, clock::now()).is_some();
        // A copy that is too old where nobody writes is not older than those of others.
        let too_old = copy.is_some() && matches!(wanted, Consistency::MaxStaleness(_));
        let others = if need.writes || too_old || shard.primary == self.local && leads() {
            Vec::new()
        } else {
            route::elsewhere(head.topology, shard, &wanted)
        };
        let mut regions = others.into_iter();
        let first = regions.next().unwrap_or_else(|| shard.primary.clone());
        Ok(Routed::Region { first, others: regions.collect(), work })
    }
}

impl Endpoint for Service {
    fn route(&self, head: &Head<'_>) -> Routed {
        self.find(head).unwrap_or_else(|problem| Routed::Answer(Box::new(problem.response().map(whole))))
    }

    fn answer(&self, work: Work, request: Request<Body>) -> Answering {
        let shards = self.shards.clone();
        let local = self.local.clone();
        let answer = async move {
            let answered = answer(&shards, &local, work, request).await;
            answered.unwrap_or_else(|problem| problem.response().map(whole))
        };
        // The database's connections live on this runtime, not on the data thread's.
        let entered = self.runtime.enter();
        let task = task::spawn("answer from a shard", answer);
        drop(entered);
        Box::pin(async move {
            match task.await {
                Ok(Some(response)) => response,
                // It panicked, or the node ends: whether it was written, nobody knows.
                Ok(None) | Err(_) => refuse::outcome_unknown().response().map(whole),
            }
        })
    }
}

impl Positions for Service {
    fn admits(&self, shard: &ShardName) -> Admission {
        self.shards.cell(shard).map_or(Admission::Pass, |cell| cell.exposure.admit(clock::now()))
    }

    fn newest(&self, shard: &ShardName) -> Telling {
        let cell = self.shards.cell(shard).filter(|cell| cell.lease(clock::now()).is_some());
        let Some(cell) = cell else { return Box::pin(std::future::ready(None)) };
        let entered = self.runtime.enter();
        let telling = newest::after_now(&cell);
        drop(entered);
        Box::pin(telling)
    }
}

async fn answer(
    shards: &Shards,
    local: &RegionName,
    work: Work,
    request: Request<Body>,
) -> Result<Response<Body>, Problem> {
    let (mut parts, body) = request.into_parts();
    let need = data::need(&parts.method, below(parts.uri.path()))?;
    let cell = shards.cell(&work.shard).ok_or_else(|| refuse::elsewhere(&work.shard, local))?;
    let members = shards.is_of_members(&work.shard, below(parts.uri.path()));
    let wanted = wanted(need.writes, members, &parts.headers)?;
    if !cell.breaker.admits(clock::now()) {
        return Err(failing(&cell, &work.shard));
    }
    let memory = cell.room.enter(&work.tenant);
    let place = if need.writes { may_write(&cell, &work.shard, &parts.method, &memory).await? } else { None };
    // Before its turn: a content that comes slowly holds up nobody else.
    let content = read(body, &need, &memory).await?;
    parts.uri = below_uri(&parts.uri)?;
    let request = Request::from_parts(parts, content);
    let asked = Asked {
        as_member: need.writes && members,
        cell: &cell,
        local,
        memory: &memory,
        shards,
        wanted,
        work: &work,
    };
    if need.writes {
        begins(shards, &cell, &work).await;
    }
    let until = Instant::now() + MOVE_HOLD;
    let mut done = asked.once(request.clone()).await?;
    // A tenant that moves is held for less than its clients notice, and nothing was written.
    while done.is_held() && Instant::now() < until {
        tokio::time::sleep(HOLD_LOOK).await;
        done = asked.once(request.clone()).await?;
    }
    let Done { copy, mut response, store } = done;
    if let Some(copy) = copy {
        let behind = format!("{:.3}", copy.behind.as_secs_f64());
        response.headers_mut().extend(HeaderValue::try_from(behind).ok().map(|behind| (STALENESS, behind)));
    } else if !need.writes && cell.lease(clock::now()).is_none() {
        return Err(refuse::no_lease(&work.shard));
    }
    drop(request);
    memory.shrink(response.body().len());
    let response = durable::confirmed(&cell, &store, response).await;
    drop(place);
    Ok(response.map(|content| Held { content: whole(content), _memory: memory }.boxed_unsync()))
}

/// Waits for the lease of an epoch that is this region's and begins just now: whoever sends writes may know of it a moment sooner.
async fn begins(shards: &Shards, cell: &Cell, work: &Work) {
    let until = Instant::now() + EPOCH_BEGINS;
    while shards.is_to_begin(cell, &work.shard, work.epoch) && Instant::now() < until {
        tokio::time::sleep(HOLD_LOOK).await;
    }
}

/// How fresh an answer must be. A table that all members write is as fresh here as its writers here have made it.
fn wanted(writes: bool, members: bool, headers: &HeaderMap) -> Result<Consistency, Problem> {
    let said = headers.contains_key(CONSISTENCY) || headers.contains_key(TOKEN);
    match (writes, members && !said) {
        (true, _) => Ok(Consistency::Primary),
        (false, true) => Ok(Consistency::Local),
        (false, false) => Consistency::of(headers),
    }
}

/// What a request needs at its shard.
struct Asked<'a> {
    /// It writes a table that all members write.
    as_member: bool,
    cell: &'a Cell,
    local: &'a RegionName,
    memory: &'a Memory,
    shards: &'a Shards,
    wanted: Consistency,
    work: &'a Work,
}

/// What came of it.
struct Done {
    /// Of which copy, unless it is the primary's answer.
    copy: Option<Freshness>,
    response: Response<Bytes>,
    store: Store,
}

impl Done {
    fn is_held(&self) -> bool {
        self.response.extensions().get() == Some(&Code::Held)
    }
}

impl Asked<'_> {
    /// Has the database answer, in its turn. Others have it afterwards.
    async fn once(&self, request: Request<Bytes>) -> Result<Done, Problem> {
        let Self { cell, work, .. } = *self;
        let limits = *self.shards.limits();
        let turn = self.memory.turn().await;
        let attempt = Attempt::begin(&cell.breaker, limits.breaker, clock::now())
            .ok_or_else(|| failing(cell, &work.shard))?;
        let turn = match turn {
            Ok(turn) => turn,
            Err(Late::Tenant) => return Err(refuse::tenant_busy()),
            Err(Late::Shard) => {
                // Several tenants have all of its turns, and none came free in time.
                told(&work.shard, attempt.end(Some(Code::Unavailable)));
                return Err(refuse::busy());
            }
        };
        let open = cell.open.load_full().ok_or_else(|| refuse::not_open(&work.shard))?;
        // Strong reads need the lease, too: without it another region may have written. One before the request's is over.
        let lease = cell.lease(clock::now()).filter(|lease| lease.epoch >= work.epoch);
        let copy = self.shards.freshness(&work.shard);
        let copy = copy.or_else(|| cell.outlived(work.epoch, clock::now())).filter(|copy| {
            lease.is_none() && (self.as_member || copy.serves(&work.shard, work.epoch, &self.wanted))
        });
        if lease.is_none() && copy.is_none() {
            return Err(refuse::no_lease(&work.shard));
        }
        if lease.is_some_and(|lease| lease.epoch > work.epoch) {
            return Err(refuse::elsewhere(&work.shard, self.local));
        }
        let door = Door {
            catalogue: Arc::clone(&open.catalogue),
            lease,
            limits,
            memory: self.memory.clone(),
            shard: work.shard.clone(),
            store: open.store.clone(),
            tenant: work.tenant.clone(),
        };
        // A copy that serves has what is wanted.
        let reached = if copy.is_some() { Ok(()) } else { self.wanted.reached(&door).await };
        let response = match reached {
            Ok(()) => data::answer(&door, request, &clock::now).await,
            Err(problem) => problem.response(),
        };
        told(&work.shard, attempt.end(response.extensions().get::<Code>().copied()));
        drop(turn);
        Ok(Done { copy, response, store: door.store })
    }
}

/// The shard's breaker is open.
fn failing(cell: &Cell, shard: &ShardName) -> Problem {
    let ends = cell.breaker.pause_ends().map_or(Duration::ZERO, |ends| ends.since(clock::now()));
    refuse::failing(shard, ends)
}

/// May the shard be written now? Writes that are slowed wait here. Where they may have to wait for other regions, they have a place for that.
async fn may_write(
    cell: &Cell,
    shard: &ShardName,
    method: &Method,
    memory: &Memory,
) -> Result<Option<Awaiting>, Problem> {
    if method != Method::DELETE && cell.fullness.is_full() {
        return Err(refuse::storage_full(shard));
    }
    match cell.exposure.admit(clock::now()) {
        Admission::Pass => {}
        Admission::Refuse => return Err(refuse::past_max_loss(shard)),
        Admission::Slow(delay) => tokio::time::sleep(delay).await,
    }
    let awaits = cell.open.load().as_ref().is_some_and(|open| open.catalogue.awaits());
    if awaits { memory.await_others().map(Some) } else { Ok(None) }
}

/// Says that a shard's breaker has opened.
fn told(shard: &ShardName, opened: bool) {
    if opened {
        tracing::warn!(%shard, "the shard's database was silent or gone too often: requests to it are refused for a while");
    }
}

/// An answer that counts against its budget until its last byte is sent, or nobody wants it any more.
struct Held {
    content: Body,
    _memory: Memory,
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.content).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.content.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.content.size_hint()
    }
}

async fn read(mut body: Body, need: &Need, memory: &Memory) -> Result<Bytes, Problem> {
    // Told before the client has sent any of it, where it waits for that (RFC 9110, section 10.1.1).
    let size = body.size_hint();
    if size.lower() > need.content_bytes_max as u64 {
        return Err(refuse::too_large(need.content_bytes_max));
    }
    let known = size.exact();
    memory.grow(known.unwrap_or(0))?;
    let mut content = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| refuse::broken_content())?;
        let Ok(data) = frame.into_data() else { continue };
        if content.len() + data.len() > need.content_bytes_max {
            return Err(refuse::too_large(need.content_bytes_max));
        }
        if known.is_none() {
            memory.grow(data.len() as u64)?;
        }
        content.extend_from_slice(&data);
    }
    Ok(content.freeze())
}

fn credential(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let Some(first) = all.next() else { return Ok(None) };
    let bearer = first.to_str().ok().and_then(|text| text.split_once(' '));
    let bearer =
        bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim());
    match (bearer, all.next()) {
        (Some(token), None) => Ok(Some(token)),
        _ => Err(refuse::unauthentic("send one `Authorization: Bearer TOKEN`")),
    }
}

/// A path without what all paths of this service begin with.
fn below(path: &str) -> &str {
    path.strip_prefix(PREFIX).filter(|rest| !rest.is_empty()).unwrap_or("/")
}

fn below_uri(uri: &http::Uri) -> Result<http::Uri, Problem> {
    let rest = below(uri.path());
    let text = uri.query().map_or_else(|| rest.to_owned(), |query| format!("{rest}?{query}"));
    text.parse().map_err(|_| refuse::no_such_path())
}
