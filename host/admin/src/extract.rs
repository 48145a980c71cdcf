//! What handlers take out of a request; whatever does not fit is told as a problem, with a pointer to it.

use axum::extract::{FromRequest, FromRequestParts, OptionalFromRequestParts, Path, Query, Request};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use serde::de::DeserializeOwned;

use crate::caller::Caller;
use crate::problem::{Code, Problem};

/// A content in JSON.
#[derive(Debug)]
pub(crate) struct Json<T>(pub(crate) T);

/// A merge patch (RFC 7396).
#[derive(Debug)]
pub(crate) struct MergePatch(pub(crate) serde_json::Map<String, serde_json::Value>);

/// Parameters after the `?`.
#[derive(Debug)]
pub(crate) struct Parameters<T>(pub(crate) T);

/// Parts of the path.
#[derive(Debug)]
pub(crate) struct Names<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        content_type(&request, &["application/json"])?;
        read(&content(request, state).await?).map(Self)
    }
}

impl<S: Send + Sync> FromRequest<S> for MergePatch {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        content_type(&request, &["application/merge-patch+json", "application/json"])?;
        read(&content(request, state).await?).map(Self)
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Parameters<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let read = <Query<T> as FromRequestParts<S>>::from_request_parts(parts, state).await;
        let Query(parameters) = read
            .map_err(|error| Problem::invalid(format!("the parameters after `?`: {}", error.body_text())))?;
        Ok(Self(parameters))
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Names<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let read = <Path<T> as FromRequestParts<S>>::from_request_parts(parts, state).await;
        let Path(names) =
            read.map_err(|error| Problem::invalid(format!("the path: {}", error.body_text())))?;
        Ok(Self(names))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        // The guard has put it there before any route was looked for.
        let caller = parts.extensions.get::<Self>().cloned();
        caller.ok_or_else(|| Problem::new(Code::Unauthenticated, "this route is asked without a caller"))
    }
}

impl<S: Send + Sync> OptionalFromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Problem> {
        Ok(parts.extensions.get::<Self>().cloned())
    }
}

/// Reads JSON; the problem points to what does not fit.
pub(crate) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value: T = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let pointer = pointer(error.path());
        let reason = error.inner().to_string();
        Problem::invalid(format!("the content is not what is asked for: {reason}")).at(pointer, reason)
    })?;
    reader.end().map_err(|error| Problem::invalid(format!("the content goes on after its end: {error}")))?;
    Ok(value)
}

/// Parameters that are texts are no longer than their description says.
pub(crate) fn short(parameters: &[(&str, &Option<String>, usize)]) -> Result<(), Problem> {
    let long = parameters
        .iter()
        .find(|(_, value, max)| value.as_ref().is_some_and(|text| text.chars().count() > *max));
    match long {
        None => Ok(()),
        Some((name, _, max)) => Err(Problem::invalid(format!("`{name}` has more than {max} characters"))),
    }
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let part = |segment: &Segment| match segment {
        Segment::Seq { index } => Some(index.to_string()),
        Segment::Map { key } => Some(key.replace('~', "~0").replace('/', "~1")),
        Segment::Enum { .. } | Segment::Unknown => None,
    };
    path.iter().filter_map(part).map(|part| format!("/{part}")).collect()
}

fn content_type(request: &Request, wanted: &[&str]) -> Result<(), Problem> {
    let given = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim();
    if wanted.iter().any(|wanted| essence.eq_ignore_ascii_case(wanted)) {
        return Ok(());
    }
    let given = if given.is_empty() { "nothing" } else { essence };
    Err(Problem::new(
        Code::UnsupportedType,
        format!("`Content-Type` says {given}; send {}", wanted.first().unwrap_or(&"application/json")),
    ))
}

async fn content<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Problem> {
    // The route has read it already, within its limits of size and time.
    let read = Bytes::from_request(request, state).await;
    read.map_err(|error| Problem::invalid(format!("the content could not be read: {}", error.body_text())))
}
