//! Services of the gateway itself behind its public listeners, such as the tenants' data. The data plane knows this face of
//! them alone: where a request is to be answered, and the answer.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use portolan_core::ids::{RegionName, ShardName, TenantName};
use portolan_core::log::{Epoch, Position};
use portolan_core::loss::Admission;
use portolan_core::topology::Topology;

/// A content on its way between the data plane and a service.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;
/// Why a content broke off.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// An answer that is still to come.
pub type Answering = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// What is known of a request before its content is read.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// Did the client's certificate name the tenant?
    pub certified: bool,
    /// Its fields.
    pub headers: &'a HeaderMap,
    /// Its method.
    pub method: &'a Method,
    /// The tenant that the request names, believed by nobody yet unless `certified`.
    pub tenant: Option<&'a TenantName>,
    /// What exists, in the generation that the request goes by.
    pub topology: &'a Topology,
    /// What it asks for.
    pub uri: &'a Uri,
}

/// Whose request it is, and under which lease it is to be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    /// The lease of the shard, as the accepting region knows it.
    pub epoch: Epoch,
    /// The shard.
    pub shard: ShardName,
    /// Whose it is: recognised, and allowed what it asks for.
    pub tenant: TenantName,
}

/// What is to become of a request.
#[derive(Debug)]
pub enum Routed {
    /// It has its answer.
    Answer(Box<Response<Body>>),
    /// This node answers it, for no tenant in particular.
    Here,
    /// A region answers it, this one or another: the first that can. Who may change something has no others.
    Region {
        /// Which one is asked first.
        first: RegionName,
        /// Which ones after it, in this order.
        others: Vec<RegionName>,
        /// Whose request it is.
        work: Work,
    },
}

/// A service of the gateway.
pub trait Endpoint: fmt::Debug + Send + Sync {
    /// Where a request is answered. Runs on a data thread: it neither waits nor computes much.
    fn route(&self, head: &Head<'_>) -> Routed;

    /// Answers a request in the region that [`Self::route`] named. Begins on a data thread, and runs on the service's own.
    ///
    /// 421 (RFC 9110, section 15.5.20) says that another region or a later lease answers it, and that nothing was done: the data
    /// plane asks again where that is.
    fn answer(&self, work: Work, request: Request<Body>) -> Answering;

    /// Answers a request that [`Self::route`] kept [`Routed::Here`], as [`Self::answer`] does. A service that keeps none has none.
    fn answer_here(&self, _request: Request<Body>) -> Answering {
        let mut response = Response::new(whole(Bytes::new()));
        *response.status_mut() = http::StatusCode::NOT_FOUND;
        Box::pin(std::future::ready(response))
    }
}

/// Who knows where the logs of shards are, and how they stand to those of other regions.
pub trait Positions: fmt::Debug + Send + Sync {
    /// What becomes of a request that may write a shard which this region writes.
    fn admits(&self, _shard: &ShardName) -> Admission {
        Admission::Pass
    }

    /// The newest record of a shard that this region writes, as it is some time after this was called; nothing when the region
    /// has not its lease, or its database does not tell.
    fn newest(&self, shard: &ShardName) -> Telling;
}

/// Where a log is, once that is known.
pub type Telling = Pin<Box<dyn Future<Output = Option<Position>> + Send>>;

/// A content that is there as a whole.
#[must_use]
pub fn whole(content: impl Into<Bytes>) -> Body {
    Full::new(content.into()).map_err(|never| match never {}).boxed_unsync()
}
