//! A content on its way to a reader: whole, or a range of it (RFC 9110, section 14), unless the reader has it.

use std::ops::Range;

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, IF_MATCH,
    IF_NONE_MATCH, IF_RANGE, RANGE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, Method, Response, StatusCode};
use portolan_changelog::content::{Content, Item, Share};
use portolan_foundation::endpoint::{Body, BoxError};
use portolan_foundation::task;
use tokio::sync::mpsc;

use super::commit::Standing;
use super::desk::Desk;
use super::load::Loaded;
use super::mirrors;
use super::path::parameter;
use super::problem::Problem;
use super::reply;
use crate::defaults::ALIKE_MAX;

/// Kept by a reader's cache, and asked for again each time: the item may have another version.
const POINTER: &str = "private, no-cache";
/// Kept for a year: a root never has other bytes.
const IMMUTABLE: &str = "private, max-age=31536000, immutable";

/// The content of an item's shown head, or of the version that is asked for.
pub(super) async fn item(
    desk: &Desk,
    (site, name): (&str, &str),
    request: (&Method, &HeaderMap, Option<&str>),
) -> Result<Response<Body>, Problem> {
    let none = || Problem::none("the item");
    let mut content = desk.look().await?;
    let item = content.item(site, name).await?.ok_or_else(none)?;
    let others = mirrors::serves(desk, &mut content, &item.item).await?;
    let stored = match parameter(request.2, "version")? {
        Some(version) => content.version(&item.item, &version).await?,
        None => Standing::of(&mut content, &item.item).await?.shown().cloned(),
    };
    let stored = stored.filter(|stored| !stored.root.is_empty()).ok_or_else(none)?;
    let media = item.media.clone();
    let loaded = Loaded::find(desk, &mut content, item, &stored.root).await?;
    content.end().await?;
    mirrors::hold(desk, &others).await?;
    desk.still()?;
    let response = answer(desk, loaded, &media, POINTER, request)?;
    Ok(reply::with(response, super::VERSION, &stored.version))
}

/// A content by its root.
pub(super) async fn root(
    desk: &Desk,
    root: &str,
    request: (&Method, &HeaderMap, Option<&str>),
) -> Result<Response<Body>, Problem> {
    let mut content = desk.look().await?;
    let (item, others) = readable(desk, &mut content, root).await?;
    let media = item.media.clone();
    let loaded = Loaded::find(desk, &mut content, item, root).await?;
    content.end().await?;
    mirrors::hold(desk, &others).await?;
    desk.still()?;
    answer(desk, loaded, &media, IMMUTABLE, request)
}

/// An item that has a content, and may be read: one that no other tenant has a say in, before one whose shares are to be asked.
async fn readable(desk: &Desk, content: &mut Content, root: &str) -> Result<(Item, Vec<Share>), Problem> {
    let mut found = Err(Problem::none("the content"));
    for item in content.items_with(root, ALIKE_MAX).await? {
        match mirrors::serves(desk, content, &item.item).await {
            Ok(others) if others.is_empty() => return Ok((item, others)),
            Ok(others) => found = Ok((item, others)),
            Err(problem) => found = found.or(Err(problem)),
        }
    }
    found
}

fn answer(
    desk: &Desk,
    loaded: Loaded,
    media: &str,
    cache: &str,
    (method, headers, _): (&Method, &HeaderMap, Option<&str>),
) -> Result<Response<Body>, Problem> {
    let (root, bytes) = (loaded.root.to_string(), loaded.bytes);
    let has = |tags: &[String]| tags.iter().any(|tag| tag == "*" || *tag == root);
    if reply::tags(headers, &IF_MATCH)?.is_some_and(|tags| !has(&tags)) {
        return Err(Problem::changed("the content is another one than `If-Match` names"));
    }
    let dressed = |response| {
        let response = reply::tagged(response, &root);
        reply::with(response, CACHE_CONTROL, cache)
    };
    if reply::tags(headers, &IF_NONE_MATCH)?.is_some_and(|tags| has(&tags)) {
        return Ok(dressed(reply::empty(StatusCode::NOT_MODIFIED)));
    }
    let (wanted, status) = match range(headers, &root, bytes) {
        Wanted::All => (0..bytes, StatusCode::OK),
        Wanted::Part(part) => (part, StatusCode::PARTIAL_CONTENT),
        Wanted::None => {
            let response = Problem::new(
                StatusCode::RANGE_NOT_SATISFIABLE,
                "range-not-satisfiable",
                format!("the content has {bytes} bytes: ask for some of them"),
            );
            return Ok(reply::with(response.response(), CONTENT_RANGE, &format!("bytes */{bytes}")));
        }
    };
    let length = wanted.end.saturating_sub(wanted.start);
    let mut response = dressed(reply::empty(status));
    for (name, value) in [
        (CONTENT_TYPE, media),
        (CONTENT_LENGTH, length.to_string().as_str()),
        (ACCEPT_RANGES, "bytes"),
        // What a tenant stored is never a page of this gateway's origin.
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CONTENT_DISPOSITION, "attachment"),
    ] {
        response = reply::with(response, name, value);
    }
    if status == StatusCode::PARTIAL_CONTENT {
        let part = format!("bytes {}-{}/{bytes}", wanted.start, wanted.end.saturating_sub(1));
        response = reply::with(response, CONTENT_RANGE, &part);
    }
    if *method == Method::HEAD || length == 0 {
        return Ok(response);
    }
    let place = desk.send()?;
    let (sender, body) = reply::stream();
    let desk = desk.clone();
    task::spawn("send a content", async move {
        let sent = Box::pin(send(&desk, &loaded, wanted, &sender)).await;
        if let Err(problem) = sent {
            tracing::warn!("a content was not sent to its end: {}", problem.detail);
            let why: BoxError = problem.detail.into();
            // Who no longer listens needs no reason.
            sender.send(Err(why)).await.ok();
        }
        drop(place);
    });
    Ok(response.map(|_| body))
}

async fn send(
    desk: &Desk,
    loaded: &Loaded,
    wanted: Range<u64>,
    sender: &mpsc::Sender<Result<Bytes, BoxError>>,
) -> Result<(), Problem> {
    for number in 0..loaded.parts() {
        for piece in loaded.pieces(desk, number, &wanted).await? {
            let bytes = loaded.bytes(desk, &piece, &wanted).await?;
            if sender.send(Ok(bytes.into())).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Which bytes are wanted.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    All,
    /// Some that are not there.
    None,
    Part(Range<u64>),
}

/// One range is answered; several, and what is no range of bytes, are answered with everything, as the RFC allows.
fn range(headers: &HeaderMap, root: &str, bytes: u64) -> Wanted {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(spec) = text(RANGE).and_then(|text| text.strip_prefix("bytes=")) else { return Wanted::All };
    if text(IF_RANGE).is_some_and(|tag| tag != format!("\"{root}\"")) {
        return Wanted::All;
    }
    let Some((first, last)) = spec.trim().split_once('-') else { return Wanted::All };
    let number = |text: &str| {
        text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten()
    };
    let part = match (first, last) {
        ("", last) => match number(last) {
            Some(count) => bytes.saturating_sub(count)..bytes,
            None => return Wanted::All,
        },
        (first, "") => match number(first) {
            Some(first) => first..bytes,
            None => return Wanted::All,
        },
        (first, last) => match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(bytes),
            _ => return Wanted::All,
        },
    };
    if part.start < part.end { Wanted::Part(part) } else { Wanted::None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_rfc_says() {
        let ask = |range: &str, held: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RANGE, range.parse().unwrap());
            if !held.is_empty() {
                headers.insert(IF_RANGE, held.parse().unwrap());
            }
            super::range(&headers, "r", 10)
        };
        for (text, wanted) in [
            ("bytes=0-0", Wanted::Part(0..1)),
            ("bytes=3-", Wanted::Part(3..10)),
            ("bytes=-4", Wanted::Part(6..10)),
            ("bytes=-40", Wanted::Part(0..10)),
            ("bytes=5-99", Wanted::Part(5..10)),
            ("bytes=10-", Wanted::None),
            ("bytes=-0", Wanted::None),
            ("bytes=4-3", Wanted::All),
            ("bytes=0-1,3-4", Wanted::All),
            ("bytes=+1-2", Wanted::All),
            ("lines=1-2", Wanted::All),
        ] {
            assert_eq!(ask(text, ""), wanted, "{text}");
        }
        assert_eq!(ask("bytes=0-0", "\"r\""), Wanted::Part(0..1));
        assert_eq!(ask("bytes=0-0", "\"other\""), Wanted::All);
    }
}
