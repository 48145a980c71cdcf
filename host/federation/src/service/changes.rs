//! What happened to a tenant's content, from a number on: at once, with a wait for the next (long poll), or as server-sent events.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, Response, StatusCode};
use portolan_changelog::content::Change;
use portolan_foundation::endpoint::{Body, BoxError};
use portolan_foundation::task;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::desk::Desk;
use super::path::number;
use super::problem::Problem;
use super::reply;
use super::show::page;
use crate::defaults::{CHANGES_BEAT, CHANGES_LOOK, CHANGES_WAIT_MAX_S};

/// Changes after `since`. With `wait`, an answer without any comes after so many seconds at the latest.
pub(super) async fn changes(
    desk: &Desk,
    headers: &HeaderMap,
    query: Option<&str>,
) -> Result<Response<Body>, Problem> {
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok()?.parse().ok());
    let since = match last {
        Some(last) => last,
        None => number(query, "since")?.unwrap_or(0),
    };
    let max = page(query)?;
    let is_stream = headers.get(ACCEPT).and_then(|value| value.to_str().ok());
    if is_stream.is_some_and(|accept| accept.contains("text/event-stream")) {
        return stream(desk, since, max);
    }
    let wait = number(query, "wait")?.unwrap_or(0);
    if wait > CHANGES_WAIT_MAX_S {
        return Err(Problem::bad(format!(
            "`wait` is at most {CHANGES_WAIT_MAX_S} seconds: ask again after them"
        )));
    }
    let place = if wait > 0 { Some(desk.send()?) } else { None };
    let found = after(desk, since, max, Duration::from_secs(wait)).await?;
    drop(place);
    desk.still()?;
    let next = found.last().map_or(since, |change| change.seq);
    let all: Vec<Value> = found.iter().map(shown).collect();
    reply::json(StatusCode::OK, &json!({ "changes": all, "next": next }))
}

/// Changes after a number, which are waited for.
async fn after(desk: &Desk, since: u64, max: u64, wait: Duration) -> Result<Vec<Change>, Problem> {
    let until = Instant::now() + wait;
    let mut news = desk.shared.news.subscribe();
    loop {
        let mut content = desk.look().await?;
        let found = content.changes(since, max).await?;
        content.end().await?;
        let left = until.saturating_duration_since(Instant::now());
        if !found.is_empty() || left.is_zero() {
            return Ok(found);
        }
        // Other nodes' changes wake nobody here: they are looked for. Either way the next look tells.
        timeout(left.min(CHANGES_LOOK), news.changed()).await.ok();
        desk.still()?;
    }
}

fn shown(change: &Change) -> Value {
    json!({
        "seq": change.seq, "kind": change.kind, "site": change.site, "subject": change.subject, "detail": change.detail,
        "at_ms": change.at_ms, "digest": change.digest,
    })
}

fn stream(desk: &Desk, since: u64, max: u64) -> Result<Response<Body>, Problem> {
    let place = desk.send()?;
    let (sender, body) = reply::stream();
    let desk = desk.clone();
    task::spawn("send changes of content", async move {
        // The stream ends with the lease: its reader asks again, and finds who has it then.
        if let Err(problem) = tell(&desk, since, max, &sender).await {
            tracing::debug!("a stream of changes ended: {}", problem.detail);
        }
        drop(place);
    });
    let response = reply::with(reply::empty(StatusCode::OK), CONTENT_TYPE, "text/event-stream");
    Ok(reply::with(response, CACHE_CONTROL, "no-store").map(|_| body))
}

async fn tell(
    desk: &Desk,
    mut since: u64,
    max: u64,
    sender: &mpsc::Sender<Result<Bytes, BoxError>>,
) -> Result<(), Problem> {
    loop {
        let found = after(desk, since, max, CHANGES_BEAT).await?;
        let mut text = if found.is_empty() { ":\n\n".to_owned() } else { String::new() };
        for change in &found {
            text.push_str(&format!(
                "id: {}\nevent: {}\ndata: {}\n\n",
                change.seq,
                change.kind,
                shown(change)
            ));
            since = change.seq;
        }
        if sender.send(Ok(text.into())).await.is_err() {
            return Ok(());
        }
    }
}
