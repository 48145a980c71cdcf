//! Why a request was not done: RFC 9457, with a code for programs. No problem holds a value of a row that the request did
//! not bring itself.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use portolan_changelog::{Closed, Error, Rejection, Rule};
use serde::Serialize;

use crate::defaults::RETRY_AFTER_S;

/// Why, in one word: what programs look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// What is asked for is larger than an answer may be.
    AnswerTooLarge,
    /// The content is not what this request takes.
    BadContent,
    /// The cursor is not of this table and order.
    BadCursor,
    /// A filter that is none.
    BadFilter,
    /// A parameter or header field of the request that is none.
    BadRequest,
    /// The database is busy.
    Busy,
    /// A CHECK of the table refuses the row.
    CheckViolation,
    /// Another place has this tenant's rows now.
    Elsewhere,
    /// The shard's engine replicates itself, and its rows are not reached here.
    External,
    /// The shard's database fails, and is left alone for a moment.
    Failing,
    /// Many rows would be written, and the request does not say which.
    FilterRequired,
    /// The caller may not do this.
    Forbidden,
    /// A reference to a row that is not there, or of one that would go.
    ForeignKeyViolation,
    /// The tenant's writes are held while it moves.
    Held,
    /// The host failed.
    Internal,
    /// The path has no such method.
    MethodNotAllowed,
    /// A column that must have a value has none.
    MissingValue,
    /// The tenant is on no shard.
    NoShard,
    /// Nothing is there.
    NotFound,
    /// The column is not for clients to write.
    NotWritable,
    /// The row is said to be another tenant's.
    OtherTenant,
    /// Nobody knows whether it was written.
    OutcomeUnknown,
    /// The gateway has no memory left for it.
    Overloaded,
    /// Too much of the shard would be lost with its region.
    PastMaxLoss,
    /// What is there is not what the client saw.
    PreconditionFailed,
    /// A table that is everybody's is not written by tenants.
    ReadOnlyTable,
    /// A rule of the operator's in the database says no.
    Refused,
    /// The tables have changed since this gateway looked at them.
    SchemaChanged,
    /// The shard's disk is nearly full.
    StorageFull,
    /// The operator has suspended the tenant.
    Suspended,
    /// The tenant has all that one tenant may have at once.
    TenantBusy,
    /// The log has not come to the reader's token yet.
    TokenAhead,
    /// The reader's token is of another history.
    TokenUnknown,
    /// The content or path is too large.
    TooLarge,
    /// More rows or operations than one request may write.
    TooMany,
    /// Nobody knows who asks.
    Unauthentic,
    /// The database does not answer.
    Unavailable,
    /// It is written, and not enough other regions have received it in time.
    Unconfirmed,
    /// Another row has this already.
    UniqueViolation,
    /// There is no such column.
    UnknownColumn,
    /// There is no such table.
    UnknownTable,
    /// The content is of another type.
    UnsupportedType,
    /// The column cannot hold this value.
    ValueRefused,
    /// The value is not of the column's type.
    WrongType,
}

impl Code {
    /// All, for the description of the API.
    pub(crate) const ALL: &'static [Self] = &[
        Self::AnswerTooLarge,
        Self::BadContent,
        Self::BadCursor,
        Self::BadFilter,
        Self::BadRequest,
        Self::Busy,
        Self::CheckViolation,
        Self::Elsewhere,
        Self::External,
        Self::Failing,
        Self::FilterRequired,
        Self::ForeignKeyViolation,
        Self::Forbidden,
        Self::Held,
        Self::Internal,
        Self::MethodNotAllowed,
        Self::MissingValue,
        Self::NoShard,
        Self::NotFound,
        Self::NotWritable,
        Self::OtherTenant,
        Self::OutcomeUnknown,
        Self::Overloaded,
        Self::PastMaxLoss,
        Self::PreconditionFailed,
        Self::ReadOnlyTable,
        Self::Refused,
        Self::SchemaChanged,
        Self::StorageFull,
        Self::Suspended,
        Self::TenantBusy,
        Self::TokenAhead,
        Self::TokenUnknown,
        Self::TooLarge,
        Self::TooMany,
        Self::Unauthentic,
        Self::Unavailable,
        Self::Unconfirmed,
        Self::UniqueViolation,
        Self::UnknownColumn,
        Self::UnknownTable,
        Self::UnsupportedType,
        Self::ValueRefused,
        Self::WrongType,
    ];

    /// Word, status and title.
    const fn told(self) -> (&'static str, StatusCode, &'static str) {
        use StatusCode as S;
        match self {
            Self::AnswerTooLarge => {
                ("answer-too-large", S::UNPROCESSABLE_ENTITY, "The answer would be too large")
            }
            Self::BadContent => ("bad-content", S::BAD_REQUEST, "The content is not understood"),
            Self::BadCursor => ("bad-cursor", S::BAD_REQUEST, "The cursor is not of this query"),
            Self::BadFilter => ("bad-filter", S::BAD_REQUEST, "The filter is not understood"),
            Self::BadRequest => ("bad-request", S::BAD_REQUEST, "The request is not understood"),
            Self::Busy => ("busy", S::SERVICE_UNAVAILABLE, "The database is busy"),
            Self::CheckViolation => {
                ("check-violation", S::UNPROCESSABLE_ENTITY, "A rule of the table refuses the row")
            }
            Self::Elsewhere => ("elsewhere", S::MISDIRECTED_REQUEST, "This is not the place for it"),
            Self::External => ("external", S::NOT_IMPLEMENTED, "These rows are not reached here"),
            Self::Failing => ("failing", S::SERVICE_UNAVAILABLE, "The database fails"),
            Self::FilterRequired => ("filter-required", S::BAD_REQUEST, "Say which rows"),
            Self::ForeignKeyViolation => {
                ("foreign-key-violation", S::CONFLICT, "A reference would lead nowhere")
            }
            Self::Forbidden => ("forbidden", S::FORBIDDEN, "Not allowed"),
            Self::Held => ("held", S::SERVICE_UNAVAILABLE, "Writes are held for a moment"),
            Self::Internal => ("internal", S::INTERNAL_SERVER_ERROR, "The host failed"),
            Self::MethodNotAllowed => ("method-not-allowed", S::METHOD_NOT_ALLOWED, "No such method here"),
            Self::MissingValue => ("missing-value", S::UNPROCESSABLE_ENTITY, "A value is missing"),
            Self::NoShard => ("no-shard", S::NOT_FOUND, "The tenant has no rows here"),
            Self::NotFound => ("not-found", S::NOT_FOUND, "Not there"),
            Self::NotWritable => ("not-writable", S::UNPROCESSABLE_ENTITY, "Not for clients to write"),
            Self::OtherTenant => ("other-tenant", S::UNPROCESSABLE_ENTITY, "Not this tenant's"),
            Self::OutcomeUnknown => {
                ("outcome-unknown", S::INTERNAL_SERVER_ERROR, "Nobody knows whether it was written")
            }
            Self::Overloaded => ("overloaded", S::SERVICE_UNAVAILABLE, "Too much at once"),
            Self::PastMaxLoss => ("past-max-loss", S::SERVICE_UNAVAILABLE, "Too much would be lost"),
            Self::PreconditionFailed => ("precondition-failed", S::PRECONDITION_FAILED, "It has changed"),
            Self::ReadOnlyTable => ("read-only-table", S::FORBIDDEN, "This table is only read"),
            Self::Refused => ("refused", S::UNPROCESSABLE_ENTITY, "The database refuses"),
            Self::SchemaChanged => ("schema-changed", S::SERVICE_UNAVAILABLE, "The tables have just changed"),
            Self::StorageFull => ("storage-full", S::INSUFFICIENT_STORAGE, "No place is left"),
            Self::Suspended => ("suspended", S::FORBIDDEN, "The tenant is suspended"),
            Self::TenantBusy => ("tenant-busy", S::TOO_MANY_REQUESTS, "Too much of one tenant"),
            Self::TokenAhead => ("token-ahead", S::SERVICE_UNAVAILABLE, "Not there yet"),
            Self::TokenUnknown => ("token-unknown", S::CONFLICT, "Another history"),
            Self::TooLarge => ("too-large", S::PAYLOAD_TOO_LARGE, "Too large"),
            Self::TooMany => ("too-many", S::PAYLOAD_TOO_LARGE, "Too many at once"),
            Self::Unauthentic => ("unauthentic", S::UNAUTHORIZED, "Who asks?"),
            Self::Unavailable => ("unavailable", S::SERVICE_UNAVAILABLE, "The database does not answer"),
            // As of an outcome that is unknown: nobody on the way may send it again.
            Self::Unconfirmed => {
                ("unconfirmed", S::INTERNAL_SERVER_ERROR, "Written here, and not confirmed elsewhere")
            }
            Self::UniqueViolation => ("unique-violation", S::CONFLICT, "It is there already"),
            Self::UnknownColumn => ("unknown-column", S::UNPROCESSABLE_ENTITY, "No such column"),
            Self::UnknownTable => ("unknown-table", S::NOT_FOUND, "No such table"),
            Self::UnsupportedType => ("unsupported-type", S::UNSUPPORTED_MEDIA_TYPE, "Another content type"),
            Self::ValueRefused => ("value-refused", S::UNPROCESSABLE_ENTITY, "The column cannot hold it"),
            Self::WrongType => ("wrong-type", S::UNPROCESSABLE_ENTITY, "Another type of value"),
        }
    }

    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.told().0
    }

    /// The status that it is told with.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        self.told().1
    }
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// What.
    pub detail: String,
    /// Where in the content, as a JSON pointer (RFC 6901).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// Of which table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// Of which column.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// What would be taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
}

/// Why a request was not done. Small to hand on, because it is in the way of every result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(transparent)]
#[error("{}", .0.detail)]
pub struct Problem(Box<Told>);

/// What is told of a problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Told {
    /// `urn:portolan:problem:` and the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// In a few words, the same for each code.
    pub title: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong and what to do next.
    pub detail: String,
    /// For programs.
    pub code: Code,
    /// What is wrong, one by one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Fault>,
    /// Which constraint was broken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub constraint: Option<String>,
    /// Which of a transaction's operations failed, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<usize>,
    /// When to come again, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u64>,
    /// What is to be brought to read what was written, where the problem is not that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The methods that the path has.
    #[serde(skip)]
    allow: Option<&'static str>,
}

impl std::ops::Deref for Problem {
    type Target = Told;

    fn deref(&self) -> &Told {
        &self.0
    }
}

impl Problem {
    /// A problem. `detail` says what is wrong and what to do next.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let (word, status, title) = code.told();
        Self(Box::new(Told {
            kind: format!("urn:portolan:problem:{word}"),
            title,
            status: status.as_u16(),
            detail: detail.into(),
            code,
            errors: Vec::new(),
            constraint: None,
            operation: None,
            retry_after_s: matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS)
                .then_some(RETRY_AFTER_S),
            token: None,
            allow: None,
        }))
    }

    /// The path has other methods.
    pub(crate) fn method(allow: &'static str) -> Self {
        let mut problem = Self::new(Code::MethodNotAllowed, format!("this path has the methods {allow}"));
        problem.0.allow = Some(allow);
        problem
    }

    /// The same, and it is of no use to come again before.
    #[must_use]
    pub(crate) fn retry_after(mut self, left: Duration) -> Self {
        self.0.retry_after_s = Some(left.as_secs().saturating_add(1));
        self
    }

    /// The same, of something that is written: by this it is read.
    #[must_use]
    pub(crate) fn token(mut self, token: Option<&str>) -> Self {
        self.0.token = token.map(str::to_owned);
        self
    }

    /// The same, with one thing that is wrong.
    #[must_use]
    pub fn with(mut self, fault: Fault) -> Self {
        self.0.errors.push(fault);
        self
    }

    /// The same, of a row of the content: its faults' pointers begin there.
    #[must_use]
    pub(crate) fn under(mut self, pointer: &str) -> Self {
        for fault in &mut self.0.errors {
            fault.pointer = Some(format!("{pointer}{}", fault.pointer.as_deref().unwrap_or_default()));
        }
        if self.0.errors.is_empty() && !pointer.is_empty() {
            self = self.with(Fault { pointer: Some(pointer.to_owned()), ..Fault::default() });
            if let Some(fault) = self.0.errors.first_mut() {
                fault.detail.clone_from(&self.0.detail);
            }
        }
        self
    }

    /// The same, of one of a transaction's operations.
    #[must_use]
    pub(crate) fn of_operation(mut self, at: usize) -> Self {
        self.0.operation = Some(at);
        self.0.detail = format!("operation {at}: {}; nothing of the transaction was done", self.0.detail);
        self
    }

    /// What the database said over this table's rows. Its words may hold values of other rows, so that they are not told.
    pub(crate) fn of_database(error: Error, table: Option<&str>) -> Self {
        match error {
            Error::Busy(_) => Self::new(
                Code::Busy,
                "others stood in the way, or it took too long; nothing was written, try again",
            ),
            Error::Closed(closed) => Self::of_fence(closed),
            Error::Rejected(rejection) => Self::of_rejection(&rejection, table),
            Error::Unknown(_) => Self::new(
                Code::OutcomeUnknown,
                "the database took the request, but nobody knows whether it is written; read before you write again",
            ),
            Error::Away(why) => {
                tracing::warn!("a tenant's request found no database: {why}");
                Self::new(Code::Unavailable, "the database does not answer; nothing was written, try again")
            }
            other => {
                tracing::error!("a tenant's request failed: {other}");
                Self::new(Code::Internal, "the host failed over this request; its log says more")
            }
        }
    }

    fn of_fence(closed: Closed) -> Self {
        match closed {
            Closed::Held => Self::new(Code::Held, "the tenant moves; nothing was written, try again"),
            Closed::Moved => {
                Self::new(Code::Busy, "the shard's lease changed meanwhile; nothing was written, try again")
            }
            Closed::Cut => Self::new(
                Code::Unavailable,
                "the database goes on from an earlier state; nothing was written, and nothing is until its operator looks at it",
            ),
            Closed::Away | Closed::Expired | Closed::Member => {
                Self::new(Code::Elsewhere, format!("{closed}; nothing was written, ask another gateway"))
            }
        }
    }

    fn of_rejection(rejection: &Rejection, table: Option<&str>) -> Self {
        let name = rejection.constraint.as_ref().map_or(String::new(), |name| format!(" (`{name}`)"));
        let table = table.unwrap_or("the table");
        let problem = match rejection.rule {
            Rule::Missing | Rule::Raised if stale(rejection) => {
                tracing::warn!("a tenant's request names what is not there: {}", rejection.message);
                Self::new(Code::SchemaChanged, "the tables have changed; nothing was written, try again")
            }
            Rule::Check => {
                Self::new(Code::CheckViolation, format!("a check of `{table}`{name} refuses the row"))
            }
            Rule::ForeignKey => Self::new(
                Code::ForeignKeyViolation,
                format!("a reference{name} leads to a row that is not there, or a row is still referred to"),
            ),
            Rule::NotNull => {
                Self::new(Code::MissingValue, format!("`{table}` wants a value that is not null"))
            }
            Rule::Unique => {
                Self::new(Code::UniqueViolation, format!("a row of `{table}` has these values already{name}"))
            }
            Rule::Denied => {
                Self::new(Code::UniqueViolation, format!("a row of `{table}` has these values already"))
            }
            Rule::Value => Self::new(
                Code::ValueRefused,
                "a value is outside of what its column or its comparison can hold; send a smaller or another one",
            ),
            Rule::Raised => Self::new(Code::Refused, format!("the database refuses: {}", rejection.message)),
            Rule::Missing | Rule::Other => {
                tracing::warn!("the database refuses a tenant's statement: {}", rejection.message);
                Self::new(Code::Refused, "the database refuses; the gateway's log says why")
            }
        };
        problem.constraint(rejection, table)
    }

    fn constraint(mut self, rejection: &Rejection, table: &str) -> Self {
        self.0.constraint.clone_from(&rejection.constraint);
        for column in &rejection.columns {
            self.0.errors.push(Fault {
                detail: self.0.title.to_owned(),
                table: Some(table.to_owned()),
                column: Some(column.clone()),
                ..Fault::default()
            });
        }
        self
    }

    /// The problem as an answer.
    #[must_use]
    pub fn response(&self) -> Response<Bytes> {
        let mut response = Response::new(serde_json::to_vec(self).unwrap_or_default().into());
        *response.status_mut() = self.code.status();
        response.extensions_mut().insert(self.code);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.code == Code::Unauthentic {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after_s {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}

/// Was the statement made for tables as they were? Triggers of portolan's notice it too, when columns came or went.
fn stale(rejection: &Rejection) -> bool {
    rejection.rule == Rule::Missing || rejection.message.starts_with("portolan")
}
