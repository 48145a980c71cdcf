//! Answers, and the contents that come with requests.

use bytes::{Bytes, BytesMut};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderName};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use portolan_foundation::endpoint::{Body, BoxError, whole};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::problem::Problem;
use crate::defaults::{MEDIA_BYTES_MAX, REQUEST_BYTES_MAX, SEND_AHEAD};

/// An answer in JSON.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Result<Response<Body>, Problem> {
    let text = serde_json::to_vec(value).map_err(|_| Problem::busy("the answer could not be written"))?;
    let mut response = Response::new(whole(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// An answer without a content.
pub(super) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(whole(Bytes::new()));
    *response.status_mut() = status;
    response
}

/// Adds a field; a value that is none is left out.
pub(super) fn with(mut response: Response<Body>, name: HeaderName, value: &str) -> Response<Body> {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
    response
}

/// The entity tag of a content (RFC 9110, section 8.8.3).
pub(super) fn tagged(response: Response<Body>, root: &str) -> Response<Body> {
    with(response, ETAG, &format!("\"{root}\""))
}

/// A content that is sent as it is made: where its pieces go, and the content.
pub(super) fn stream() -> (mpsc::Sender<Result<Bytes, BoxError>>, Body) {
    let (sender, receiver) = mpsc::channel::<Result<Bytes, BoxError>>(SEND_AHEAD);
    let frames = futures_util::stream::unfold(receiver, |mut receiver| async move {
        let piece = receiver.recv().await?;
        Some((piece.map(http_body::Frame::data), receiver))
    });
    (sender, StreamBody::new(frames).boxed_unsync())
}

/// The next bytes of a request's content; none at its end.
pub(super) async fn next(body: &mut Body) -> Result<Option<Bytes>, Problem> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| broken())?;
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

/// A request's content, which is JSON.
pub(super) async fn read<T: DeserializeOwned>(mut body: Body) -> Result<T, Problem> {
    let mut content = BytesMut::new();
    while let Some(data) = next(&mut body).await? {
        if content.len() + data.len() > REQUEST_BYTES_MAX {
            return Err(Problem::too_large(format!(
                "a request has at most {REQUEST_BYTES_MAX} bytes of JSON"
            )));
        }
        content.extend_from_slice(&data);
    }
    let bad = |error| Problem::new(StatusCode::BAD_REQUEST, "bad-content", format!("the content: {error}"));
    serde_json::from_slice(&content).map_err(bad)
}

/// A content that broke off.
pub(super) fn broken() -> Problem {
    Problem::new(
        StatusCode::BAD_REQUEST,
        "bad-content",
        "the content broke off: go on where it was, or send it again",
    )
}

/// The entity tags of a field; `*` stands for itself. Tags that are weak match as well: a root is the content.
pub(super) fn tags(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Vec<String>>, Problem> {
    if !headers.contains_key(name) {
        return Ok(None);
    }
    let bad = || Problem::bad(format!("`{name}` is a list of entity tags, or `*`"));
    let mut all = Vec::new();
    for value in headers.get_all(name) {
        for tag in value.to_str().map_err(|_| bad())?.split(',') {
            let tag = tag.trim();
            let strong = tag.strip_prefix("W/").unwrap_or(tag);
            let inner = strong.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
            all.push(if tag == "*" { tag.to_owned() } else { inner.ok_or_else(bad)?.to_owned() });
        }
    }
    Ok(Some(all))
}

/// The media type of what comes.
pub(super) fn media(headers: &HeaderMap) -> Result<String, Problem> {
    let media = headers.get(CONTENT_TYPE).map_or(Ok("application/octet-stream"), |media| media.to_str());
    check_media(media.unwrap_or_default())
}

/// A media type.
pub(super) fn check_media(text: &str) -> Result<String, Problem> {
    let essence = text.split(';').next().unwrap_or_default().trim();
    let token = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&byte))
    };
    let is_good = text.len() <= MEDIA_BYTES_MAX
        && text.bytes().all(|byte| (0x20..0x7f).contains(&byte))
        && essence.split_once('/').is_some_and(|(kind, sub)| token(kind) && token(sub));
    if is_good {
        Ok(text.to_owned())
    } else {
        Err(Problem::bad("`content-type` is a media type such as `text/plain`"))
    }
}
