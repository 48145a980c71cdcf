//! What is told when something is not done: RFC 9457, with a code for programs and a pointer to what is wrong.

use std::fmt;

use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, ETAG, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// Why, in one word: what programs look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// Something stands against it that the caller can see and change.
    Conflict,
    /// The caller is known and may not.
    Forbidden,
    /// The request's `Host` is not one of this listener's.
    HostRefused,
    /// The idempotency key was used for another request.
    IdempotencyReused,
    /// The request with this idempotency key still runs.
    IdempotencyRunning,
    /// The host failed; its log says more.
    Internal,
    /// What was sent does not say what it must.
    Invalid,
    /// Another manages the object.
    ManagedElsewhere,
    /// The path has no such method.
    MethodNotAllowed,
    /// This node has no control store, so that nothing can be changed through it.
    NoStore,
    /// It is not there, or not for this caller.
    NotFound,
    /// The page that made the request is not one of this listener's.
    OriginRefused,
    /// What is there is not what the caller saw.
    PreconditionFailed,
    /// The caller does not say what it saw.
    PreconditionRequired,
    /// A check of what would run refuses it.
    Refused,
    /// It took too long.
    Timeout,
    /// The content is too large.
    TooLarge,
    /// Too many at the same time, or too much in a while.
    TooMany,
    /// Nobody knows who asks.
    Unauthenticated,
    /// The store or another part does not answer.
    Unavailable,
    /// The content is of another type.
    UnsupportedType,
}

impl Code {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Conflict => "conflict",
            Self::Forbidden => "forbidden",
            Self::HostRefused => "host-refused",
            Self::IdempotencyReused => "idempotency-reused",
            Self::IdempotencyRunning => "idempotency-running",
            Self::Internal => "internal",
            Self::Invalid => "invalid",
            Self::ManagedElsewhere => "managed-elsewhere",
            Self::MethodNotAllowed => "method-not-allowed",
            Self::NoStore => "no-store",
            Self::NotFound => "not-found",
            Self::OriginRefused => "origin-refused",
            Self::PreconditionFailed => "precondition-failed",
            Self::PreconditionRequired => "precondition-required",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::TooLarge => "too-large",
            Self::TooMany => "too-many",
            Self::Unauthenticated => "unauthenticated",
            Self::Unavailable => "unavailable",
            Self::UnsupportedType => "unsupported-type",
        }
    }

    /// The status that it is told with, and its title.
    const fn told(self) -> (StatusCode, &'static str) {
        match self {
            Self::Conflict => (StatusCode::CONFLICT, "Something stands against it"),
            Self::Forbidden => (StatusCode::FORBIDDEN, "Not allowed"),
            Self::HostRefused => (StatusCode::MISDIRECTED_REQUEST, "Not a name of this listener"),
            Self::IdempotencyReused => (StatusCode::UNPROCESSABLE_ENTITY, "Key used for another request"),
            Self::IdempotencyRunning => (StatusCode::CONFLICT, "The first request still runs"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "The host failed"),
            Self::Invalid => (StatusCode::BAD_REQUEST, "Not understood"),
            Self::ManagedElsewhere => (StatusCode::CONFLICT, "Managed elsewhere"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "No such method here"),
            Self::NoStore => (StatusCode::CONFLICT, "No control store"),
            Self::NotFound => (StatusCode::NOT_FOUND, "Not there"),
            Self::OriginRefused => (StatusCode::FORBIDDEN, "Not a page of this listener"),
            Self::PreconditionFailed => (StatusCode::PRECONDITION_FAILED, "It has changed"),
            Self::PreconditionRequired => (StatusCode::PRECONDITION_REQUIRED, "Say what you saw"),
            Self::Refused => (StatusCode::UNPROCESSABLE_ENTITY, "No node would run this"),
            Self::Timeout => (StatusCode::SERVICE_UNAVAILABLE, "It took too long"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "Too large"),
            Self::TooMany => (StatusCode::TOO_MANY_REQUESTS, "Too many"),
            Self::Unauthenticated => (StatusCode::UNAUTHORIZED, "Who asks?"),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "Away for now"),
            Self::UnsupportedType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "Another content type"),
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Fault {
    /// What.
    pub detail: String,
    /// Where in the content, as a JSON pointer (RFC 6901).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// Where in a file that was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Place>,
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Place {
    /// Its name, as it was sent.
    pub file: String,
    /// From 1.
    pub line: u32,
    /// From 1.
    pub column: u32,
}

/// Why something was not done. Small to hand on, because it is in the way of every result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(transparent)]
#[error("{}", .0.detail)]
pub struct Problem(Box<Told>);

/// What is told of a problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Told {
    /// `urn:portolan:problem:` and the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// In a few words, the same for each code.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong and what to do next.
    pub detail: String,
    /// For programs.
    pub code: Code,
    /// What is wrong, one by one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Fault>,
    /// The ETag of what is there, when another was expected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// When to come again, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u64>,
    /// The command that takes back what was done before it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<String>,
}

impl std::ops::Deref for Problem {
    type Target = Told;

    fn deref(&self) -> &Told {
        &self.0
    }
}

impl PartialSchema for Problem {
    fn schema() -> RefOr<Schema> {
        Told::schema()
    }
}

impl ToSchema for Problem {
    fn name() -> std::borrow::Cow<'static, str> {
        "Problem".into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        Told::schemas(schemas);
    }
}

impl Problem {
    /// A problem. `detail` says what is wrong and what to do next.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let (status, title) = code.told();
        Self(Box::new(Told {
            kind: format!("urn:portolan:problem:{code}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            code,
            errors: Vec::new(),
            current: None,
            retry_after_s: (matches!(code, Code::TooMany | Code::Unavailable)).then_some(1),
            undo: None,
        }))
    }

    /// What was sent does not say what it must.
    #[must_use]
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(Code::Invalid, detail)
    }

    /// It is not there, or not for this caller: both are told in the same words.
    #[must_use]
    pub fn not_found(what: impl fmt::Display) -> Self {
        Self::new(Code::NotFound, format!("there is no {what}"))
    }

    /// The host failed; what is told is for its log alone.
    #[must_use]
    pub fn internal(error: impl fmt::Display) -> Self {
        tracing::error!("an admin request failed, please report this: {error}");
        Self::new(Code::Internal, "the host failed over this request; its log says more")
    }

    /// The same, with one thing that is wrong at a pointer into the content.
    #[must_use]
    pub fn at(mut self, pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        self.0.errors.push(Fault { detail: detail.into(), pointer: Some(pointer.into()), source: None });
        self
    }

    /// The same, with more things that are wrong.
    #[must_use]
    pub fn with(mut self, errors: impl IntoIterator<Item = Fault>) -> Self {
        self.0.errors.extend(errors);
        self
    }

    /// The same, with the ETag of what is there.
    #[must_use]
    pub fn current(mut self, etag: impl Into<String>) -> Self {
        self.0.current = Some(etag.into());
        self
    }

    /// The same, with the time after which another try makes sense.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.0.retry_after_s = Some(seconds);
        self
    }

    /// The same, with the command that takes back what was done before it failed.
    #[must_use]
    pub fn undo(mut self, command: impl Into<String>) -> Self {
        self.0.undo = Some(command.into());
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, serde_json::to_vec(&self).unwrap_or_default()).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(etag) = self.current.as_deref().and_then(|etag| HeaderValue::try_from(etag).ok()) {
            headers.insert(ETAG, etag);
        }
        if let Some(seconds) = self.retry_after_s {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if self.code == Code::Unauthenticated {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"portolan\""));
        }
        response
    }
}
