//! ETags: what a caller saw, and what is there (RFC 9110, section 13).

use http::header::{ETAG, IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::problem::{Code, Problem};

/// What a caller says of what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It is there, whatever it says.
    Any,
    /// It is not there.
    Nothing,
    /// It is of this revision.
    Revision(u64),
}

/// The ETag of a revision, strong.
pub(crate) fn etag(revision: u64) -> String {
    format!("\"{revision}\"")
}

/// The header of a revision.
pub(crate) fn header(revision: u64) -> [(HeaderName, HeaderValue); 1] {
    // Digits between quotes are a value of a header.
    [(ETAG, HeaderValue::try_from(etag(revision)).unwrap_or(HeaderValue::from_static("\"0\"")))]
}

/// What the caller saw, which it must say before it changes an object.
pub(crate) fn seen(headers: &HeaderMap) -> Result<Seen, Problem> {
    let text = |name: HeaderName| {
        let value = headers.get(&name);
        value.map(|value| {
            value.to_str().map(str::trim).map_err(|_| Problem::invalid(format!("`{name}` is no ETag")))
        })
    };
    match (text(IF_MATCH).transpose()?, text(IF_NONE_MATCH).transpose()?) {
        (Some(_), Some(_)) => Err(Problem::invalid("say either `If-Match` or `If-None-Match`, not both")),
        (None, Some("*")) => Ok(Seen::Nothing),
        (None, Some(_)) => Err(Problem::invalid("`If-None-Match` may say `*`: nothing is to be there")),
        (Some("*"), None) => Ok(Seen::Any),
        (Some(tag), None) => {
            let number = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
            let number = number.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            let number = number.and_then(|text| text.parse().ok());
            number.map(Seen::Revision).ok_or_else(|| {
                Problem::invalid(
                    "`If-Match` is no ETag of this API: send the one that GET gave, such as `\"42\"`",
                )
            })
        }
        (None, None) => Err(Problem::new(
            Code::PreconditionRequired,
            "say what you saw: `If-Match` with the ETag that GET gave, or `If-None-Match: *` for a new object",
        )),
    }
}

impl Seen {
    /// Compares with what is there; gives the revision that a change must find, 0 for none.
    pub(crate) fn check(self, there: Option<u64>) -> Result<u64, Problem> {
        let stale = |detail: String| {
            let problem = Problem::new(Code::PreconditionFailed, detail);
            match there {
                Some(revision) => problem.current(etag(revision)),
                None => problem,
            }
        };
        match (self, there) {
            (Self::Any, Some(revision)) => Ok(revision),
            (Self::Nothing, None) => Ok(0),
            (Self::Revision(seen), Some(revision)) if seen == revision => Ok(revision),
            (Self::Nothing, Some(revision)) => Err(stale(format!(
                "it is there already, since generation {revision}: GET it, then send `If-Match`"
            ))),
            (Self::Any | Self::Revision(_), None) => {
                Err(stale("it is not there: create it with `If-None-Match: *`".to_owned()))
            }
            (Self::Revision(seen), Some(revision)) => Err(stale(format!(
                "it has changed: it is of generation {revision}, you saw {seen}; GET it again and repeat your change"
            ))),
        }
    }
}
