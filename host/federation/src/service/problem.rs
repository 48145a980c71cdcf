//! Why a request for content was not done, as a problem (RFC 9457) with a word for programs. None holds more than the request brought itself.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use portolan_changelog::Closed;
use portolan_core::ids::{RegionName, ShardName};
use portolan_core::tenant::Barred;
use portolan_foundation::endpoint::{Body, whole};

use crate::Error;

/// Why a request was not done: status, word, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) detail: String,
    /// The methods that the path has, where that is what is wrong.
    pub(super) allow: Option<&'static str>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), allow: None }
    }

    pub(super) fn bad(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", detail)
    }

    pub(super) fn none(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", format!("{what} is not here: list what there is first"))
    }

    pub(super) fn method(allow: &'static str) -> Self {
        let detail = format!("this path has the methods {allow}");
        Self { allow: Some(allow), ..Self::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail) }
    }

    pub(super) fn conflict(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, detail)
    }

    pub(super) fn changed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PRECONDITION_FAILED, "precondition-failed", detail)
    }

    pub(super) fn too_large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", detail)
    }

    pub(super) fn busy(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail)
    }

    pub(super) fn tenant_busy() -> Self {
        let detail = "the tenant has as many transfers as one tenant may have at once: wait for some to end";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "tenant-busy", detail)
    }

    pub(super) fn unauthentic(why: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthentic", why)
    }

    pub(super) fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", detail)
    }

    pub(super) fn barred(why: Barred) -> Self {
        let why = match why {
            Barred::Erased => "the tenant is erased: nothing is kept of it any more",
            Barred::Suspended => "the operator has suspended the tenant",
        };
        Self::new(StatusCode::FORBIDDEN, "suspended", why)
    }

    /// Another region or lease answers this: the data plane asks there.
    pub(super) fn elsewhere(shard: &ShardName, local: &RegionName) -> Self {
        let detail = format!("region `{local}` does not write shard `{shard}`: nothing was done");
        Self::new(StatusCode::MISDIRECTED_REQUEST, "elsewhere", detail)
    }

    pub(super) fn response(&self) -> Response<Body> {
        let title = self.status.canonical_reason().unwrap_or_default();
        let problem = serde_json::json!({
            "type": format!("urn:portolan:problem:{}", self.code), "title": title,
            "status": self.status.as_u16(), "code": self.code, "detail": self.detail,
        });
        let mut response = Response::new(whole(Bytes::from(problem.to_string())));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        match self.status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}

impl From<portolan_changelog::Error> for Problem {
    fn from(error: portolan_changelog::Error) -> Self {
        use portolan_changelog::Error as Database;
        match error {
            Database::Busy(_) => Self::busy("others stood in the way; nothing was written, try again"),
            Database::Closed(Closed::Held) => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "held",
                "the tenant moves; nothing was written, try again",
            ),
            Database::Closed(Closed::Moved) => {
                Self::busy("the shard's lease changed meanwhile; nothing was written, try again")
            }
            Database::Closed(closed) => {
                let detail = format!("{closed}; nothing was written, ask another gateway");
                Self::new(StatusCode::MISDIRECTED_REQUEST, "elsewhere", detail)
            }
            Database::Unknown(_) => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "outcome-unknown",
                "nobody knows whether it is written; read before you write again",
            ),
            Database::Away(why) => {
                tracing::warn!("a request for content found no database: {why}");
                let detail = "the database does not answer; nothing was written, try again";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail)
            }
            other => Self::from(Error::Database(other)),
        }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::Database(
                error @ (portolan_changelog::Error::Busy(_)
                | portolan_changelog::Error::Closed(_)
                | portolan_changelog::Error::Unknown(_)
                | portolan_changelog::Error::Away(_)),
            ) => Self::from(error),
            Error::Limit { .. } => Self::too_large(error.to_string()),
            Error::NoKey => Self::new(StatusCode::GONE, "no-key", error.to_string()),
            Error::Store(why) => {
                tracing::warn!("a request for content found no store of packs: {why}");
                let detail = "the store of contents does not answer; try again";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail)
            }
            other => {
                tracing::error!("a request for content failed: {other}");
                let detail = "the host failed over this request; its log says more";
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
            }
        }
    }
}
