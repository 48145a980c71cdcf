//! The tenants' data as a service of the gateway, below `/-/data`: recognises who asks, finds the shard, and answers where the
//! shard's primary is.

use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::AUTHORIZATION;
use http::{HeaderMap, Request, Response};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use portolan_core::ids::{RegionName, TenantName};
use portolan_foundation::endpoint::{Answering, Body, Endpoint, Head, Routed, Work, whole};
use portolan_foundation::{clock, task};

use crate::data::{self, Door, Need, PREFIX, Problem};
use crate::defaults;
use crate::refuse;
use crate::route::{self, Consistency};
use crate::shards::Shards;

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
        if !need.writes {
            // Copies are offered once they are known to follow; until then every reader gets the primary's answer.
            let _wanted = Consistency::of(head.headers)?;
        }
        let work = Work { epoch: shard.epoch, shard: shard.name.clone(), tenant };
        Ok(Routed::Region(shard.primary.clone(), work))
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
            answered.unwrap_or_else(|problem| problem.response()).map(whole)
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

async fn answer(
    shards: &Shards,
    local: &RegionName,
    work: Work,
    request: Request<Body>,
) -> Result<Response<Bytes>, Problem> {
    let (mut parts, body) = request.into_parts();
    let need = data::need(&parts.method, below(parts.uri.path()))?;
    let cell = shards.cell(&work.shard).ok_or_else(|| refuse::elsewhere(&work.shard, local))?;
    // Before its turn: a content that comes slowly holds up nobody else.
    let content = read(body, &need).await?;
    let turn = tokio::time::timeout(defaults::TURN, cell.turns.acquire()).await;
    let _turn = turn.map_err(|_| refuse::busy())?.map_err(|_| refuse::busy())?;
    let open = cell.open.load_full().ok_or_else(|| refuse::not_open(&work.shard))?;
    // Strong reads need the lease, too: without it another region may have written. One before the request's is over.
    let lease = cell.lease(clock::now()).filter(|lease| lease.epoch >= work.epoch);
    let lease = lease.ok_or_else(|| refuse::no_lease(&work.shard))?;
    if lease.epoch > work.epoch {
        return Err(refuse::elsewhere(&work.shard, local));
    }
    parts.uri = below_uri(&parts.uri)?;
    let door = Door {
        catalogue: Arc::clone(&open.catalogue),
        lease: Some(lease),
        shard: work.shard.clone(),
        store: open.store.clone(),
        tenant: work.tenant,
    };
    let response = data::answer(&door, Request::from_parts(parts, content), &clock::now).await;
    if !need.writes && cell.lease(clock::now()).is_none() {
        return Err(refuse::no_lease(&work.shard));
    }
    Ok(response)
}

async fn read(mut body: Body, need: &Need) -> Result<Bytes, Problem> {
    // Told before the client has sent any of it, where it waits for that (RFC 9110, section 10.1.1).
    if body.size_hint().lower() > need.content_bytes_max as u64 {
        return Err(refuse::too_large(need.content_bytes_max));
    }
    let mut content = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| refuse::broken_content())?;
        let Ok(data) = frame.into_data() else { continue };
        if content.len() + data.len() > need.content_bytes_max {
            return Err(refuse::too_large(need.content_bytes_max));
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
