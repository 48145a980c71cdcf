//! Queries as a service of the gateway, at `/-/query`: recognises who asks, and has a worker answer. One tenant's queries are answered
//! where its shard is written; who may see all tenants asks the shards of the region that the request came to.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt as _;
use http::header::{
    ACCEPT, ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use portolan_core::directory::Access as Open;
use portolan_core::ids::TenantName;
use portolan_core::tenant::Barred;
use portolan_core::tenant_table::TenantTable;
use portolan_foundation::endpoint::{self, Answering, Body, Head, Routed, Work, whole};
use portolan_foundation::task;
use serde::Deserialize;
use tokio::task::JoinHandle;

use crate::answer::{Answer, Format};
use crate::defaults::SQL_BYTES_MAX;
use crate::engine::{Place, Query};
use crate::error::Error;
use crate::limits::Limits;
use crate::statement;
use crate::worker::Workers;

/// Where queries are asked.
pub const QUERY_PATH: &str = "/-/query";
/// The field of an answer that names shards that were left out.
const MISSING: HeaderName = HeaderName::from_static("portolan-missing-shards");

/// Who asks, by a token.
pub trait Authenticate: fmt::Debug + Send + Sync {
    /// What the holder of a token may see.
    ///
    /// # Errors
    /// When it is none of this installation's, or is none any more.
    fn token(&self, text: &str) -> Result<Asked, Unauthentic>;
}

/// What a caller may see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// May it read rows at all?
    pub reads: bool,
    /// Whose; all tenants', when absent.
    pub tenant: Option<TenantName>,
}

/// Why a token is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unauthentic(pub String);

/// What there is to ask.
pub trait Sources: fmt::Debug + Send + Sync {
    /// The shards, with the roles that see one tenant's rows or all, and where the tenants live that a statement names.
    fn picture(&self, tenant: Option<&TenantName>, named: &BTreeSet<TenantName>) -> Picture;
}

/// What there is to ask, as of now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picture {
    /// As [`Query::homes`].
    pub homes: BTreeMap<String, Option<String>>,
    /// As [`Query::limits`].
    pub limits: Limits,
    /// As [`Query::shards`].
    pub shards: BTreeMap<String, Place>,
    /// As [`Query::tables`].
    pub tables: Vec<TenantTable>,
}

/// The service.
#[derive(Clone, Debug)]
pub struct Service {
    callers: Arc<dyn Authenticate>,
    runtime: tokio::runtime::Handle,
    sources: Arc<dyn Sources>,
    workers: Workers,
}

/// What a client sends as JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sent {
    #[serde(default)]
    partial: bool,
    sql: String,
}

/// Why a request has no answer, before any query.
struct Refused(StatusCode, &'static str, String);

impl Service {
    /// A service whose workers are started from this runtime.
    #[must_use]
    pub fn new(
        sources: Arc<dyn Sources>,
        callers: Arc<dyn Authenticate>,
        workers: Workers,
        runtime: tokio::runtime::Handle,
    ) -> Self {
        Self { callers, runtime, sources, workers }
    }

    /// Whose rows the caller may see, of those that it asks for.
    fn admit(&self, head: &Head<'_>) -> Result<Option<TenantName>, Refused> {
        let asked = match credential(head.headers)? {
            Some(token) => self.callers.token(token).map_err(|Unauthentic(why)| unauthentic(why))?,
            None if head.certified => Asked { reads: true, tenant: head.tenant.cloned() },
            None => return Err(unauthentic("send `Authorization: Bearer TOKEN`".to_owned())),
        };
        if !asked.reads {
            let why = "the token may not read rows: it lacks the scope `data:read`".to_owned();
            return Err(Refused(StatusCode::FORBIDDEN, "forbidden", why));
        }
        match (asked.tenant, head.tenant) {
            (Some(own), Some(named)) if own != *named => {
                let why = "the token is another tenant's than the one that the request names".to_owned();
                Err(Refused(StatusCode::FORBIDDEN, "forbidden", why))
            }
            (Some(own), _) => Ok(Some(own)),
            (None, named) => Ok(named.cloned()),
        }
    }

    fn find(&self, head: &Head<'_>) -> Result<Routed, Refused> {
        if head.method != Method::POST {
            let why =
                "queries are sent with POST: the statement as text, or as JSON `{\"sql\": \"SELECT ...\"}`"
                    .to_owned();
            return Err(Refused(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", why));
        }
        format(head.headers)?;
        let Some(tenant) = self.admit(head)? else { return Ok(Routed::Here) };
        if let Some(why) = head.topology.tenants.barred(Some(&tenant)) {
            return Err(barred(why));
        }
        let (place, shard) = head.topology.shard_of(&tenant).ok_or_else(|| {
            let why = "the tenant is on no shard: its operator declares one with `[shard.NAME]`".to_owned();
            Refused(StatusCode::NOT_FOUND, "no-shard", why)
        })?;
        if place.access == Open::Suspended {
            return Err(barred(Barred::Suspended));
        }
        let work = Work { epoch: shard.epoch, shard: shard.name.clone(), tenant };
        Ok(Routed::Region { first: shard.primary.clone(), others: Vec::new(), work })
    }

    fn begin(&self, tenant: Option<TenantName>, request: Request<Body>) -> Answering {
        let service = self.clone();
        let answer = async move {
            match service.ask(tenant, request).await {
                Ok(answer) => stream(answer),
                Err(refused) => refused.response(),
            }
        };
        // Workers and their pipes belong to this runtime, not to the data thread's.
        let entered = self.runtime.enter();
        let task = Ended(task::spawn("answer a query", answer));
        drop(entered);
        Box::pin(task.wait())
    }

    async fn ask(&self, tenant: Option<TenantName>, request: Request<Body>) -> Result<Answer, Refused> {
        let format = format(request.headers())?;
        let (sql, partial) = sent(request).await?;
        let picture = self.sources.picture(tenant.as_ref(), &statement::tenants(&sql));
        let query = Query {
            format,
            homes: picture.homes,
            limits: picture.limits,
            partial,
            shards: picture.shards,
            sql,
            tables: picture.tables,
            tenant: tenant.map(|tenant| tenant.as_str().to_owned()),
        };
        Ok(self.workers.ask(&query).await?)
    }
}

impl endpoint::Endpoint for Service {
    fn route(&self, head: &Head<'_>) -> Routed {
        self.find(head).unwrap_or_else(|refused| Routed::Answer(Box::new(refused.response())))
    }

    fn answer(&self, work: Work, request: Request<Body>) -> Answering {
        self.begin(Some(work.tenant), request)
    }

    fn answer_here(&self, request: Request<Body>) -> Answering {
        self.begin(None, request)
    }
}

/// A task that ends when nobody waits for it: a client that goes takes its query along.
struct Ended(JoinHandle<Option<Response<Body>>>);

impl Ended {
    async fn wait(mut self) -> Response<Body> {
        let failed = || Refused::from(Error::Internal("the query's task ended".to_owned())).response();
        (&mut self.0).await.ok().flatten().unwrap_or_else(failed)
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn format(headers: &HeaderMap) -> Result<Format, Refused> {
    let accept = headers.get(ACCEPT).map_or(Some(""), |accept| accept.to_str().ok());
    accept.and_then(Format::accepted).ok_or_else(|| {
        let why = "an answer is `application/json`, `application/x-ndjson`, `application/vnd.apache.arrow.stream` or `text/csv`".to_owned();
        Refused(StatusCode::NOT_ACCEPTABLE, "not-acceptable", why)
    })
}

/// The statement, and whether a partial answer will do.
async fn sent(request: Request<Body>) -> Result<(String, bool), Refused> {
    let bad = |why: String| Refused(StatusCode::BAD_REQUEST, "bad-content", why);
    let (parts, mut body) = request.into_parts();
    let mut content = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| bad("the content broke off: send it again".to_owned()))?;
        let Ok(data) = frame.into_data() else { continue };
        // JSON may need several bytes for one.
        if content.len() + data.len() > 2 * SQL_BYTES_MAX {
            let why = format!("a statement has at most {SQL_BYTES_MAX} bytes");
            return Err(Refused(StatusCode::PAYLOAD_TOO_LARGE, "too-large", why));
        }
        content.extend_from_slice(&data);
    }
    let kind = parts.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
        let sent: Sent = serde_json::from_slice(&content).map_err(|error| {
            bad(format!("send `{{\"sql\": \"SELECT ...\", \"partial\": false}}`: {error}"))
        })?;
        return Ok((sent.sql, sent.partial));
    }
    let partial = parts.uri.query().is_some_and(|query| query.split('&').any(|part| part == "partial=true"));
    let sql =
        String::from_utf8(content.to_vec()).map_err(|_| bad("the statement is not UTF-8".to_owned()))?;
    Ok((sql, partial))
}

fn stream(answer: Answer) -> Response<Body> {
    let kind = HeaderValue::from_static(answer.head.format.media_type());
    let missing = HeaderValue::from_str(&answer.head.missing.join(", ")).ok();
    let frames = answer.body.map_ok(Frame::data).map_err(|error| Box::new(error) as endpoint::BoxError);
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(missing) = missing.filter(|_| !answer.head.missing.is_empty()) {
        response.headers_mut().insert(MISSING, missing);
    }
    response
}

fn credential(headers: &HeaderMap) -> Result<Option<&str>, Refused> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let Some(first) = all.next() else { return Ok(None) };
    let bearer = first.to_str().ok().and_then(|text| text.split_once(' '));
    let bearer =
        bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim());
    match (bearer, all.next()) {
        (Some(token), None) => Ok(Some(token)),
        _ => Err(unauthentic("send one `Authorization: Bearer TOKEN`".to_owned())),
    }
}

fn barred(why: Barred) -> Refused {
    let why = match why {
        Barred::Erased => "the tenant is erased: nothing is kept of it any more",
        Barred::Suspended => "the operator has suspended the tenant",
    };
    Refused(StatusCode::FORBIDDEN, "suspended", why.to_owned())
}

const fn unauthentic(why: String) -> Refused {
    Refused(StatusCode::UNAUTHORIZED, "unauthentic", why)
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self(error.status(), error.code(), error.to_string())
    }
}

impl Refused {
    /// As a problem (RFC 9457).
    fn response(&self) -> Response<Body> {
        let Self(status, code, detail) = self;
        let title = status.canonical_reason().unwrap_or_default();
        let problem = serde_json::json!({
            "type": "about:blank", "title": title, "status": status.as_u16(), "code": code, "detail": detail,
        });
        let mut response = Response::new(whole(Bytes::from(problem.to_string())));
        *response.status_mut() = *status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        match *status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::METHOD_NOT_ALLOWED => {
                headers.insert(ALLOW, HeaderValue::from_static("POST"));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}
