//! Entity tags: what a client says that it saw (RFC 9110, section 13).

use http::HeaderMap;
use http::header::{HeaderName, IF_MATCH, IF_NONE_MATCH};

use super::problem::{Code, Problem};
use crate::defaults::ETAGS_MAX;

/// What a row must be before it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Not there.
    Absent,
    #[default]
    Anything,
    /// There.
    Present,
    /// One of these.
    Tags(Vec<String>),
}

/// What a request that writes wants: `If-Match`, or `If-None-Match: *`.
pub(crate) fn wanted(headers: &HeaderMap) -> Result<Wanted, Problem> {
    match (tags(headers, &IF_MATCH)?, tags(headers, &IF_NONE_MATCH)?) {
        (None, None) => Ok(Wanted::Anything),
        (Some(tags), None) => Ok(of(tags)),
        (None, Some(tags)) if tags == ["*"] => Ok(Wanted::Absent),
        _ => Err(Problem::new(Code::BadRequest, "a write takes `If-Match`, or `If-None-Match: *`")),
    }
}

/// What one `If-Match` wants.
pub(crate) fn of(tags: Vec<String>) -> Wanted {
    if tags == ["*"] { Wanted::Present } else { Wanted::Tags(tags) }
}

/// Does the client have this already?
pub(crate) fn is_known(headers: &HeaderMap, etag: &str) -> Result<bool, Problem> {
    let Some(tags) = tags(headers, &IF_NONE_MATCH)? else { return Ok(false) };
    Ok(tags.iter().any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag))
}

fn tags(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Vec<String>>, Problem> {
    let mut all = None;
    for value in headers.get_all(name) {
        let tags = value.to_str().ok().and_then(parse);
        let tags = tags.ok_or_else(|| {
            Problem::new(Code::BadRequest, format!("`{name}` is `*`, or tags in double quotes"))
        })?;
        all.get_or_insert_with(Vec::new).extend(tags);
    }
    if all.as_ref().is_some_and(|all| all.len() > ETAGS_MAX) {
        return Err(Problem::new(Code::BadRequest, format!("`{name}` has at most {ETAGS_MAX} tags")));
    }
    Ok(all)
}

/// `*`, or tags with commas between them; ours have none within.
pub(crate) fn parse(text: &str) -> Option<Vec<String>> {
    if text.trim() == "*" {
        return Some(vec!["*".to_owned()]);
    }
    let tag = |part: &str| {
        let part = part.trim();
        let inner = part.strip_prefix("W/").unwrap_or(part).strip_prefix('"')?.strip_suffix('"')?;
        (!inner.contains('"')).then(|| part.to_owned())
    };
    text.split(',').map(tag).collect()
}
