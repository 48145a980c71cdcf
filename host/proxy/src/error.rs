//! What can go wrong with a request, whose fault it is, and what the client is told.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use portolan_core::decide::Undecided;
use portolan_core::screen::Violation;
use portolan_foundation::clock;

use crate::body::Body;

/// Where the fault lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    Downstream,
    Gateway,
    Policy,
    Upstream,
}

/// Why a word in `portolan-preview` does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Word {
    #[error("it was not signed by this gateway, or has expired")]
    Bad,
    #[error("the slot that it names may not run its version, or not any more")]
    Gone,
    #[error("it is for requests of another tenant")]
    OtherTenant,
    #[error("its version is refused in its slot; ask for the word again to be told why")]
    Refused,
    #[error("there are several, and one is read")]
    Several,
}

/// A request that got no answer from an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error("the content broke off or was malformed")]
    BodyBroken,
    #[error("the content is larger than this gateway takes")]
    BodyTooLarge,
    #[error("no endpoint could be reached")]
    Connect,
    #[error("the request came back to this gateway")]
    Loop,
    #[error("no region that this tenant may use can take the request")]
    NoAllowedRegion,
    #[error("the policy's answer does not exist")]
    NoAnswer,
    #[error("no endpoint can take the request now")]
    NoEndpoint,
    #[error(
        "nobody writes the tenant's data now, and reads are served: send the request again after Retry-After"
    )]
    NoPrimary,
    #[error("a value that the policy asks for is not UTF-8")]
    NotUtf8,
    #[error("the tenant's policy answers only what its operator does not allow")]
    OutOfBounds,
    #[error(
        "the shard's log is in no other region for longer than it may be: send the request again in a while"
    )]
    PastMaxLoss,
    #[error("the policy failed, and nobody passes without it")]
    PolicyFailed(Undecided),
    #[error("the word in portolan-preview does not hold: {0}")]
    Preview(Word),
    #[error("the version that portolan-preview names is not planned here yet")]
    PreviewSoon,
    #[error("who writes the tenant's data is changing: send the request again")]
    Settling,
    #[error("the gateway that sent this request works with another topology")]
    Stale,
    #[error("the request is malformed: {0}")]
    Malformed(Violation),
    #[error("the operator serves this tenant no more")]
    Suspended,
    #[error("the time for the answer is over")]
    Timeout,
    #[error("the request names no tenant of this platform")]
    UnknownTenant,
    #[error("the upstream broke off before it answered")]
    UpstreamBroke,
}

impl Error {
    pub(crate) const fn source(self) -> Source {
        match self {
            Self::BodyBroken
            | Self::BodyTooLarge
            | Self::Malformed(_)
            | Self::NotUtf8
            | Self::Preview(_)
            | Self::UnknownTenant => Source::Downstream,
            Self::Loop
            | Self::NoPrimary
            | Self::PastMaxLoss
            | Self::PreviewSoon
            | Self::Settling
            | Self::Stale => Source::Gateway,
            Self::NoAllowedRegion
            | Self::NoAnswer
            | Self::OutOfBounds
            | Self::PolicyFailed(_)
            | Self::Suspended => Source::Policy,
            Self::Connect | Self::NoEndpoint | Self::Timeout | Self::UpstreamBroke => Source::Upstream,
        }
    }

    /// What a client is told of a refusal among gateways: that it may ask again, not that it asked the wrong one.
    pub(crate) const fn settled(self) -> Self {
        match self {
            Self::Stale => Self::Settling,
            other => other,
        }
    }

    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::BodyBroken | Self::NotUtf8 => StatusCode::BAD_REQUEST,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Connect | Self::UpstreamBroke => StatusCode::BAD_GATEWAY,
            Self::Loop => StatusCode::LOOP_DETECTED,
            Self::Malformed(violation) => {
                StatusCode::from_u16(violation.status()).unwrap_or(StatusCode::BAD_REQUEST)
            }
            Self::NoAllowedRegion => StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS,
            Self::NoAnswer
            | Self::NoEndpoint
            | Self::NoPrimary
            | Self::OutOfBounds
            | Self::PastMaxLoss
            | Self::PolicyFailed(_)
            | Self::PreviewSoon
            | Self::Settling => StatusCode::SERVICE_UNAVAILABLE,
            Self::Preview(_) | Self::Suspended => StatusCode::FORBIDDEN,
            Self::Stale => StatusCode::MISDIRECTED_REQUEST,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Self::UnknownTenant => StatusCode::NOT_FOUND,
        }
    }

    /// A word for metrics, logs and the problem's type.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::BodyBroken => "body-broken",
            Self::BodyTooLarge => "body-too-large",
            Self::Connect => "connect",
            Self::Loop => "loop",
            Self::Malformed(_) => "malformed",
            Self::NoAllowedRegion => "no-allowed-region",
            Self::NoAnswer => "no-answer",
            Self::NoEndpoint => "no-endpoint",
            Self::NoPrimary => "no-primary",
            Self::NotUtf8 => "not-utf8",
            Self::OutOfBounds => "out-of-bounds",
            Self::PastMaxLoss => "past-max-loss",
            Self::PolicyFailed(_) => "policy-failed",
            Self::Preview(_) => "preview-refused",
            Self::PreviewSoon => "preview-soon",
            Self::Settling => "settling",
            Self::Stale => "stale",
            Self::Suspended => "suspended",
            Self::Timeout => "timeout",
            Self::UnknownTenant => "unknown-tenant",
            Self::UpstreamBroke => "upstream-broke",
        }
    }

    /// The answer to the client (RFC 9457): what is wrong and the request's id, nothing of the inside. gRPC clients get
    /// a status in headers alone ("trailers-only" in the gRPC protocol).
    pub(crate) fn respond(self, request_id: &str, grpc: bool) -> Response<Body> {
        let status = self.status();
        if grpc {
            let mut response = Response::new(Body::empty());
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-status", HeaderValue::from_static(self.grpc_code()));
            headers.insert("grpc-message", HeaderValue::from_static(self.as_str()));
            return response;
        }
        let mut response =
            Response::new(Body::full(problem(status.as_u16(), self.as_str(), &self.to_string(), request_id)));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::METHOD_NOT_ALLOWED {
            response.headers_mut().insert(http::header::ALLOW, HeaderValue::from_static(METHODS));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            // A lease that is lost is taken over within several seconds; all else may be over at once.
            let after = if self == Self::NoPrimary { "5" } else { "1" };
            response.headers_mut().insert(http::header::RETRY_AFTER, HeaderValue::from_static(after));
        }
        response
    }

    /// The code for gRPC clients (gRPC, "Mapping HTTP status codes to gRPC status codes").
    const fn grpc_code(self) -> &'static str {
        match self {
            Self::BodyTooLarge => "8",
            Self::NoAllowedRegion | Self::Preview(_) | Self::Suspended => "7",
            Self::Timeout => "4",
            Self::UnknownTenant => "5",
            Self::Connect
            | Self::NoEndpoint
            | Self::UpstreamBroke
            | Self::NoAnswer
            | Self::NoPrimary
            | Self::OutOfBounds
            | Self::PastMaxLoss
            | Self::PolicyFailed(_)
            | Self::PreviewSoon
            | Self::Settling => "14",
            _ => "13",
        }
    }
}

/// A whole response of HTTP/1.1 for who is told goodbye with it, without a request that the HTTP library knows of.
pub(crate) fn raw(status: StatusCode, kind: &str, detail: &str) -> Vec<u8> {
    let body = problem(status.as_u16(), kind, detail, "-");
    let reason = status.canonical_reason().unwrap_or("Bad Request");
    let date = httpdate::fmt_http_date(clock::from_unix_ms(clock::unix_ms()));
    // Required beside 405 (RFC 9110, section 15.5.6).
    let allow = match status {
        StatusCode::METHOD_NOT_ALLOWED => format!("allow: {METHODS}\r\n"),
        _ => String::new(),
    };
    let head = format!(
        "HTTP/1.1 {} {reason}\r\ndate: {date}\r\n{allow}content-type: application/problem+json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        status.as_u16(),
        body.len()
    );
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(&body);
    bytes
}

/// Methods that may be served; which of them are is the upstreams' to say.
pub(crate) const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// A problem's JSON (RFC 9457, section 3).
pub(crate) fn problem(status: u16, kind: &str, title: &str, request_id: &str) -> Bytes {
    let problem = serde_json::json!({
        "type": format!("urn:portolan:problem:{kind}"),
        "title": title,
        "status": status,
        "request-id": request_id,
    });
    Bytes::from(problem.to_string())
}
