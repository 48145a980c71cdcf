//! The regional cache as the data plane sees it: it is asked before a request goes on, and told what came of that. What may be stored,
//! and for whom, is the cache's own business.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use http::{HeaderMap, Method, Response, response};
use portolan_core::ids::{PoolName, TenantName};

use crate::endpoint::Body;

/// A request, as far as a cache must know it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The host with its port, as it came.
    pub authority: &'a str,
    /// What the decision makes of the request and its answer, apart from where it goes: requests that differ in it have nothing in common.
    pub edits: u64,
    /// Has it a content?
    pub has_content: bool,
    /// Its fields.
    pub headers: &'a HeaderMap,
    /// Its method.
    pub method: &'a Method,
    /// Where it is decided to go first.
    pub pool: &'a PoolName,
    /// Came it over TLS?
    pub secure: bool,
    /// Path and query.
    pub target: &'a str,
    /// Whose it is.
    pub tenant: Option<&'a TenantName>,
}

/// What is to become of a request.
#[derive(Debug)]
pub enum Found {
    /// It has its answer. With a fill, the origin is to be asked as well, behind the client's back.
    Answer(Box<Response<Body>>, Option<Box<dyn Fill>>),
    /// The origin is asked, and the cache told of its answer.
    Ask(Box<dyn Fill>),
    /// The cache has no part in it.
    Pass,
}

/// What the cache says of an origin's answer.
#[derive(Debug)]
pub enum Heard {
    /// The client gets this instead.
    Answer(Box<Response<Body>>),
    /// The client gets it as it came; its head may have been changed.
    Pass,
    /// It is kept: the content goes into the sink, and the client reads what comes out.
    Store(Box<dyn Sink>, Body),
}

/// A question to an origin.
pub trait Fill: fmt::Debug + Send {
    /// Makes the request such as the cache needs it.
    fn prepare(&self, request: &mut HeaderMap);

    /// The origin has answered. `length` is that of its content, where it is known.
    fn answered(self: Box<Self>, head: &mut response::Parts, length: Option<u64>) -> Heard;

    /// The origin has failed. What is given in its place, if anything is.
    fn failed(self: Box<Self>) -> Option<Response<Body>>;
}

/// Where the content of an answer goes that is kept. Dropped before its end, it forgets what came.
pub trait Sink: fmt::Debug + Send {
    /// Takes the next piece, and waits while readers are too far behind; `false` once nobody wants more.
    fn push(&mut self, piece: Bytes) -> Pushing<'_>;

    /// All has come.
    fn end(self: Box<Self>);
}

/// A piece on its way in.
pub type Pushing<'a> = Pin<Box<dyn Future<Output = bool> + Send + 'a>>;
/// An answer of the cache that is still to come.
pub type Finding<'a> = Pin<Box<dyn Future<Output = Found> + Send + 'a>>;

/// A cache of responses.
pub trait Cache: fmt::Debug + Send + Sync {
    /// What is to become of a request. Waits while the same is being asked for another client.
    fn find<'a>(&'a self, asked: Asked<'a>) -> Finding<'a>;
}
