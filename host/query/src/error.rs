//! What can go wrong, by what the caller will do about it. Errors cross the pipe between a worker and its node.

use std::error::Error as StdError;

use datafusion::error::DataFusionError;
use serde::{Deserialize, Serialize};

/// Why a query has no answer, or none that is whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "code", content = "detail", rename_all = "kebab-case")]
pub enum Error {
    /// A fault of portolan's own: report it.
    #[error("the query failed within portolan: {0}; report this with the statement")]
    Internal(String),
    /// It would take, or took, more than is allowed: ask for less.
    #[error("{0}")]
    Limit(String),
    /// A shard does not answer, or holds what cannot be read: mend it, or ask for a partial answer.
    #[error("shard `{shard}`: {why}")]
    Shard {
        /// Which.
        shard: String,
        /// What it said.
        why: String,
    },
    /// The statement is wrong.
    #[error("{0}")]
    Statement(String),
    /// It took too long.
    #[error(
        "the query took longer than its limit of {0} ms: name a tenant, narrow it with WHERE, or aggregate"
    )]
    Time(u64),
    /// Too many queries run: ask again in a while.
    #[error("{0}")]
    Busy(String),
    /// The statement is no query. Nothing was done.
    #[error("{0}")]
    Writes(String),
}

impl Error {
    /// The code of the problem that a client sees.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Busy(_) => "busy",
            Self::Internal(_) => "internal",
            Self::Limit(_) => "limit",
            Self::Shard { .. } => "shard-unavailable",
            Self::Statement(_) => "bad-statement",
            Self::Time(_) => "time-limit",
            Self::Writes(_) => "read-only",
        }
    }

    /// The status of the answer that a client gets (RFC 9110).
    #[must_use]
    pub const fn status(&self) -> http::StatusCode {
        match self {
            Self::Busy(_) | Self::Shard { .. } => http::StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal(_) => http::StatusCode::INTERNAL_SERVER_ERROR,
            Self::Limit(_) => http::StatusCode::UNPROCESSABLE_ENTITY,
            Self::Statement(_) => http::StatusCode::BAD_REQUEST,
            Self::Time(_) => http::StatusCode::GATEWAY_TIMEOUT,
            Self::Writes(_) => http::StatusCode::METHOD_NOT_ALLOWED,
        }
    }

    /// A shard's failure.
    pub(crate) fn shard(shard: &str, why: impl std::fmt::Display) -> Self {
        Self::Shard { shard: shard.to_owned(), why: why.to_string() }
    }

    /// As the engine passes it on.
    pub(crate) fn external(self) -> DataFusionError {
        DataFusionError::External(Box::new(self))
    }

    /// What the engine says, or what it passed on of ours.
    pub(crate) fn of(error: &DataFusionError) -> Self {
        let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
        while let Some(now) = cause {
            if let Some(own) = now.downcast_ref::<Self>() {
                return own.clone();
            }
            cause = now.source();
        }
        match error.find_root() {
            DataFusionError::ResourcesExhausted(why) => Self::Limit(format!(
                "the query needs more memory than its limit: {}; narrow it with WHERE, aggregate, or sort less",
                why.lines().next().unwrap_or_default()
            )),
            DataFusionError::Internal(why) => Self::Internal(why.clone()),
            root => Self::Statement(root.strip_backtrace()),
        }
    }
}
