//! Answers as HTTP has them, and what requests prefer of them (RFC 7240).

use bytes::Bytes;
use http::header::{CONTENT_TYPE, ETAG, HeaderName, LINK, LOCATION};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use portolan_core::ids::ShardName;
use portolan_core::log::Position;
use portolan_core::loss::Durability;
use portolan_core::token::Token;

use super::PREFIX;
use super::run::{Conflict, Done};
use crate::durable::Awaited;

const COUNT: HeaderName = HeaderName::from_static("portolan-count");
const PREFER: HeaderName = HeaderName::from_static("prefer");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
const TOKEN: HeaderName = HeaderName::from_static("portolan-token");

/// What a request prefers. What is not known is passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prefer {
    /// All rows are counted.
    pub(crate) count: bool,
    pub(crate) conflict: Conflict,
    /// Rows that were written are answered.
    pub(crate) returning: bool,
}

impl Prefer {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut prefer = Self { count: false, conflict: Conflict::Fail, returning: false };
        let values = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
        for word in values.flat_map(|value| value.split([',', ';'])).map(str::trim) {
            match word {
                "count=exact" => prefer.count = true,
                "resolution=ignore-duplicates" => prefer.conflict = Conflict::Ignore,
                "resolution=merge-duplicates" => prefer.conflict = Conflict::Merge,
                "return=minimal" => prefer.returning = false,
                "return=representation" => prefer.returning = true,
                _ => {}
            }
        }
        prefer
    }

    /// Those that were followed, of a read or a write.
    fn applied(self, write: bool) -> String {
        let resolution = match self.conflict {
            Conflict::Ignore => Some("resolution=ignore-duplicates"),
            Conflict::Merge => Some("resolution=merge-duplicates"),
            Conflict::Fail | Conflict::Replace => None,
        };
        let words = [
            (self.count && !write).then_some("count=exact"),
            resolution.filter(|_| write),
            (self.returning && write).then_some("return=representation"),
        ];
        words.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

/// An answer while it is made.
#[derive(Debug)]
pub(crate) struct Reply(Response<Bytes>);

impl Reply {
    pub(crate) fn new(status: StatusCode) -> Self {
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = status;
        Self(response)
    }

    pub(crate) fn json(mut self, content: Vec<u8>) -> Self {
        *self.0.body_mut() = content.into();
        self.header(CONTENT_TYPE, "application/json")
    }

    pub(crate) fn header(mut self, name: HeaderName, value: &str) -> Self {
        // All values are made of visible characters, or of a URI's.
        if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
            self.0.headers_mut().insert(name, value);
        }
        self
    }

    pub(crate) fn count(self, count: u64) -> Self {
        self.header(COUNT, &count.to_string())
    }

    pub(crate) fn preferred(self, prefer: Prefer, write: bool) -> Self {
        let applied = prefer.applied(write);
        if applied.is_empty() { self } else { self.header(PREFERENCE_APPLIED, &applied) }
    }

    /// Where the next page is. The path is from the root, so that it means the same wherever the answer is kept.
    pub(crate) fn next(self, table: &str, query: &str) -> Self {
        self.header(LINK, &format!("<{PREFIX}/{table}?{query}>; rel=\"next\""))
    }

    pub(crate) fn token(self, shard: &ShardName, position: Option<Position>) -> Self {
        let mut token = Token::default();
        match position {
            Some(position) if token.add(shard.clone(), position) => self.header(TOKEN, &token.to_string()),
            _ => self,
        }
    }

    /// It is given only when others have what was written.
    pub(crate) fn awaiting(mut self, durability: Durability, position: Option<Position>) -> Self {
        if let Some(position) = position.filter(|_| durability > Durability::Local) {
            self.0.extensions_mut().insert(Awaited { durability, position });
        }
        self
    }

    /// Entity tag and place of what was done.
    pub(crate) fn of(mut self, done: &Done<'_>) -> Self {
        if let Some(etag) = &done.etag {
            self = self.header(ETAG, etag);
        }
        if let Some(location) = &done.location {
            self = self.header(LOCATION, &format!("{PREFIX}/{location}"));
        }
        self
    }

    pub(crate) fn end(self) -> Response<Bytes> {
        self.0
    }
}
