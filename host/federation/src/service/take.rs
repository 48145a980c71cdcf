//! Contents that clients send: at once, or in parts that go on where the last one broke off.
//!
//! Parts follow the shape of the IETF's draft of resumable uploads: `POST` names the item and the length, `HEAD` tells the offset,
//! `PATCH` with `Upload-Offset` adds to it, and the last part commits the version. What was taken before a break is kept.

use std::sync::Arc;

use http::header::{IF_MATCH, IF_NONE_MATCH, LOCATION};
use http::{HeaderMap, HeaderName, Response, StatusCode};
use portolan_changelog::content::Upload;
use portolan_foundation::clock;
use portolan_foundation::endpoint::Body;
use serde::Deserialize;
use serde_json::json;

use super::commit::{self, Committed, Target, Wanted};
use super::desk::Desk;
use super::intake::{Intake, Received};
use super::mirrors;
use super::path::{check_item, known_site, parameter};
use super::problem::Problem;
use super::reply;
use super::settle;
use super::vault::Vault;
use crate::Error;
use crate::defaults::{TENANT_UPLOADS_MAX, UPLOAD_BYTES_MAX, UPLOAD_MS};
use crate::manifest::{Entry, Manifest};
use crate::seal::{Draw as _, System};

const OFFSET: HeaderName = HeaderName::from_static("upload-offset");
const LENGTH: HeaderName = HeaderName::from_static("upload-length");

/// What a client says of a content that it will send in parts.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Announced {
    site: String,
    name: String,
    /// How many bytes it has.
    bytes: u64,
    /// Its media type.
    #[serde(default)]
    media: Option<String>,
    /// The version that the client had seen.
    #[serde(default)]
    base: Option<String>,
}

/// What an item is to be, by the request's conditions.
fn wanted(headers: &HeaderMap, base: Option<String>) -> Result<Wanted, Problem> {
    let (matches, none) = (reply::tags(headers, &IF_MATCH)?, reply::tags(headers, &IF_NONE_MATCH)?);
    Ok(Wanted { base, matches, none, heads: None })
}

/// Takes a content at once.
pub(super) async fn put(
    desk: &Desk,
    (site, name): (String, String),
    (headers, query): (&HeaderMap, Option<&str>),
    mut body: Body,
) -> Result<Response<Body>, Problem> {
    let wanted = wanted(headers, parameter(query, "base")?)?;
    let target = Target { site, name, media: reply::media(headers)? };
    mirrors::may_write(desk, (&target.site, &target.name)).await?;
    let place = desk.intake()?;
    let vault = desk.make_vault().await?;
    let mut intake = Intake::new(desk, &vault);
    while let Some(part) = reply::next(&mut body).await? {
        if intake.bytes() + part.len() as u64 > UPLOAD_BYTES_MAX {
            return Err(too_large());
        }
        intake.push(&part).await?;
    }
    let received = intake.finish().await?;
    drop(place);
    finish(desk, &vault, &target, &received, &wanted).await
}

/// Deletes an item: a version without a content.
pub(super) async fn delete(
    desk: &Desk,
    (site, name): (String, String),
    (headers, query): (&HeaderMap, Option<&str>),
) -> Result<Response<Body>, Problem> {
    let wanted = wanted(headers, parameter(query, "base")?)?;
    let vault = desk.make_vault().await?;
    let target = Target { site, name, media: String::new() };
    mirrors::may_write(desk, (&target.site, &target.name)).await?;
    commit::commit(desk, &vault, &target, None, &wanted).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

async fn finish(
    desk: &Desk,
    vault: &Vault,
    target: &Target,
    received: &Received,
    wanted: &Wanted,
) -> Result<Response<Body>, Problem> {
    let committed = commit::commit(desk, vault, target, Some(received), wanted).await?;
    told(desk, committed, received.bytes).await
}

async fn told(desk: &Desk, committed: Committed, bytes: u64) -> Result<Response<Body>, Problem> {
    let committed =
        if committed.conflict { Box::pin(settle::merged(desk, committed)).await? } else { committed };
    let status = if committed.created { StatusCode::CREATED } else { StatusCode::OK };
    let root = committed.root.map(|root| root.to_string()).unwrap_or_default();
    let answer = json!({
        "site": committed.item.site, "name": committed.item.name, "version": committed.version, "root": root,
        "seq": committed.seq, "conflict": committed.conflict, "sent_bytes": bytes,
    });
    Ok(reply::tagged(reply::json(status, &answer)?, &root))
}

/// Begins an upload in parts.
pub(super) async fn begin(
    desk: &Desk,
    headers: &HeaderMap,
    announced: Announced,
) -> Result<Response<Body>, Problem> {
    let (site, name) = (known_site(&announced.site)?, check_item(announced.name)?);
    if announced.bytes > UPLOAD_BYTES_MAX {
        return Err(too_large());
    }
    let media = reply::check_media(announced.media.as_deref().unwrap_or("application/octet-stream"))?;
    let wanted = wanted(headers, announced.base)?;
    let wanted = serde_json::to_string(&wanted).map_err(|_| Problem::bad("the conditions are none"))?;
    let mut id = [0; 16];
    System.fill(&mut id)?;
    let id = crate::id::ItemId(id).to_string();
    let vault = desk.make_vault().await?;
    let upload = Upload {
        chunks: 0,
        expires_ms: clock::unix_ms().saturating_add(UPLOAD_MS),
        media,
        name,
        received: 0,
        site,
        tail: vault.seal_tail(&id, Vec::new())?,
        total: announced.bytes,
        upload: id.clone(),
        wanted,
    };
    let mut content = desk.write().await?;
    if content.uploads().await? >= TENANT_UPLOADS_MAX {
        content.end().await?;
        return Err(Problem::conflict(
            "too-many",
            format!("{TENANT_UPLOADS_MAX} uploads are open: end some first"),
        ));
    }
    content.put_upload(&upload).await?;
    desk.commit(content).await?;
    let answer =
        reply::json(StatusCode::CREATED, &json!({ "upload": id, "offset": 0, "bytes": upload.total }))?;
    Ok(reply::with(offset(answer, &upload), LOCATION, &format!("{}/uploads/{id}", super::CONTENT_PATH)))
}

/// How far an upload is.
pub(super) async fn state(desk: &Desk, id: &str) -> Result<Response<Body>, Problem> {
    let mut content = desk.look().await?;
    let upload = content.upload(id).await?;
    content.end().await?;
    let upload = upload.ok_or_else(|| Problem::none("the upload"))?;
    let answer = json!({ "upload": id, "offset": upload.received, "bytes": upload.total });
    Ok(offset(reply::json(StatusCode::OK, &answer)?, &upload))
}

/// Ends an upload without a version.
pub(super) async fn cancel(desk: &Desk, id: &str) -> Result<Response<Body>, Problem> {
    let mut content = desk.write().await?;
    let was_there = content.end_upload(id).await?;
    desk.commit(content).await?;
    if was_there { Ok(reply::empty(StatusCode::NO_CONTENT)) } else { Err(Problem::none("the upload")) }
}

/// Takes the next part of an upload; the last one commits the version. What came before a break is kept.
pub(super) async fn append(
    desk: &Desk,
    id: &str,
    headers: &HeaderMap,
    mut body: Body,
) -> Result<Response<Body>, Problem> {
    let said = headers.get(&OFFSET).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let said = said.ok_or_else(|| Problem::bad("send `Upload-Offset`: where this part begins, in bytes"))?;
    let place = desk.intake()?;
    let vault = desk.make_vault().await?;
    let mut content = desk.look().await?;
    let upload = content.upload(id).await?.ok_or_else(|| Problem::none("the upload"))?;
    let manifest = manifest(content.upload_entries(id).await?)?;
    content.end().await?;
    if said != upload.received {
        let detail = format!("the upload is at {}: go on there", upload.received);
        return Ok(offset(Problem::conflict("offset", detail).response(), &upload));
    }
    let tail = vault.open_tail(id, &upload.tail)?;
    let mut intake = Intake::resume(desk, &vault, manifest, tail);
    let mut broke = None;
    loop {
        match reply::next(&mut body).await {
            Ok(Some(part)) if intake.bytes() + part.len() as u64 > upload.total => {
                return Err(Problem::too_large(format!(
                    "the upload was announced with {} bytes",
                    upload.total
                )));
            }
            Ok(Some(part)) => intake.push(&part).await?,
            Ok(None) => break,
            Err(problem) => {
                broke = Some(problem);
                break;
            }
        }
    }
    if intake.bytes() == upload.total && broke.is_none() {
        let received = intake.finish().await?;
        drop(place);
        return complete(desk, &vault, &upload, &received).await;
    }
    let now = keep(desk, &vault, &upload, intake).await?;
    match broke {
        Some(problem) => Err(problem),
        None => Ok(offset(reply::empty(StatusCode::NO_CONTENT), &now)),
    }
}

/// Keeps how far an upload is.
async fn keep(desk: &Desk, vault: &Arc<Vault>, was: &Upload, intake: Intake<'_>) -> Result<Upload, Problem> {
    let received = intake.bytes();
    let (manifest, tail) = intake.pause().await?;
    let now = Upload {
        chunks: manifest.entries().len() as u64,
        expires_ms: clock::unix_ms().saturating_add(UPLOAD_MS),
        received,
        tail: vault.seal_tail(&was.upload, tail)?,
        ..was.clone()
    };
    let before = usize::try_from(was.chunks).unwrap_or(usize::MAX);
    let fresh: Vec<Entry> = manifest.entries().iter().skip(before).copied().collect();
    let entries = postcard::to_allocvec(&fresh).map_err(|_| Error::Malformed("an upload's chunks"))?;
    let mut content = desk.write().await?;
    let is_next = content.grow_upload(was, &now, &entries).await?;
    desk.commit(content).await?;
    let twice = || Problem::conflict("offset", "another part of the upload came meanwhile: ask where it is");
    if is_next { Ok(now) } else { Err(twice()) }
}

/// All of an upload is here: it becomes a version, and is over.
async fn complete(
    desk: &Desk,
    vault: &Vault,
    upload: &Upload,
    received: &Received,
) -> Result<Response<Body>, Problem> {
    let wanted: Wanted =
        serde_json::from_str(&upload.wanted).map_err(|_| Error::Malformed("an upload's conditions"))?;
    let target = Target { site: upload.site.clone(), name: upload.name.clone(), media: upload.media.clone() };
    mirrors::may_write(desk, (&target.site, &target.name)).await?;
    let mut content = desk.write().await?;
    let committed = if content.end_upload(&upload.upload).await? {
        commit::within(desk, vault, &mut content, &target, Some(received), &wanted).await
    } else {
        Err(Problem::none("the upload"))
    };
    match committed {
        Ok(committed) => {
            desk.commit(content).await?;
            told(desk, committed, received.bytes).await
        }
        Err(problem) => {
            content.end().await.ok();
            Err(problem)
        }
    }
}

/// The chunks of an upload so far.
fn manifest(lists: Vec<Vec<u8>>) -> Result<Manifest, Error> {
    let mut manifest = Manifest::default();
    for list in lists {
        let entries: Vec<Entry> =
            postcard::from_bytes(&list).map_err(|_| Error::Malformed("an upload's chunks"))?;
        entries.into_iter().try_for_each(|entry| manifest.push(entry))?;
    }
    Ok(manifest)
}

fn offset(response: Response<Body>, upload: &Upload) -> Response<Body> {
    let response = reply::with(response, OFFSET, &upload.received.to_string());
    reply::with(response, LENGTH, &upload.total.to_string())
}

fn too_large() -> Problem {
    Problem::too_large(format!("a content has at most {UPLOAD_BYTES_MAX} bytes: divide it"))
}
