//! Heads that did not know each other: merged where both can be kept in one content, kept side by side otherwise, and resolved by people.

use std::collections::BTreeMap;

use http::{Response, StatusCode};
use portolan_foundation::endpoint::Body;
use serde::Deserialize;
use serde_json::json;

use super::commit::{self, Committed, Standing, Target, Wanted};
use super::desk::Desk;
use super::intake::{Intake, Received};
use super::load::Loaded;
use super::mirrors;
use super::problem::Problem;
use super::reply;
use crate::defaults::{CONTENT_BYTES_MAX, MERGE_BYTES_MAX, MERGE_WALK_MAX};
use crate::id::{Root, VersionId};
use crate::merge::{self, Next, merge};
use crate::version::Version;

/// What a client says to resolve a conflict.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Resolution {
    /// The head whose content, or deletion, is kept.
    keep: String,
    /// All heads, as the client has seen them.
    heads: Vec<String>,
}

/// Merges an item's heads, if they are two that can be. What cannot be merged stays as it is.
pub(super) async fn merged(desk: &Desk, committed: Committed) -> Result<Committed, Problem> {
    let item = &committed.item;
    let mut content = desk.look().await?;
    let standing = Standing::of(&mut content, &item.item).await?;
    let mut known: BTreeMap<VersionId, Version> = BTreeMap::new();
    for stored in content.versions(&item.item, i64::MAX as u64, MERGE_WALK_MAX as u64).await? {
        known.insert(stored.version.parse()?, Version::read(&stored.record)?);
    }
    let next = merge::next(&standing.heads, |id| known.get(id).cloned());
    let Next::Merge { base, ours, theirs, kind } = next else {
        content.end().await?;
        return Ok(committed);
    };
    let mut sides = Vec::new();
    for root in [base, ours, theirs] {
        sides.push(Loaded::find(desk, &mut content, item.clone(), &root.to_string()).await?);
    }
    content.end().await?;
    if sides.iter().any(|side| side.bytes > MERGE_BYTES_MAX as u64) {
        return Ok(committed);
    }
    let mut contents = Vec::new();
    for side in &sides {
        contents.push(side.whole(desk, MERGE_BYTES_MAX).await?);
    }
    let [base, ours, theirs] = contents.as_slice() else { return Ok(committed) };
    let Some(bytes) = merge(kind, base, ours, theirs) else { return Ok(committed) };
    let vault = desk.make_vault().await?;
    let mut intake = Intake::new(desk, &vault);
    intake.push(&bytes).await?;
    let received = intake.finish().await?;
    let target = Target { site: item.site.clone(), name: item.name.clone(), media: item.media.clone() };
    let heads = standing.stored.iter().map(|head| head.version.clone()).collect();
    let wanted = Wanted { heads: Some(heads), ..Wanted::default() };
    match commit::commit(desk, &vault, &target, Some(&received), &wanted).await {
        Ok(merged) => Ok(Committed { created: committed.created, ..merged }),
        // Somebody wrote meanwhile, and merges what stands then.
        Err(problem) if problem.status == StatusCode::PRECONDITION_FAILED => Ok(committed),
        Err(problem) => Err(problem),
    }
}

/// Writes a version that has seen all heads, with the content of one of them.
pub(super) async fn resolve(
    desk: &Desk,
    (site, name): (&str, &str),
    resolution: Resolution,
) -> Result<Response<Body>, Problem> {
    mirrors::may_write(desk, (site, name)).await?;
    let mut content = desk.look().await?;
    let item = content.item(site, name).await?.ok_or_else(|| Problem::none("the item"))?;
    let standing = Standing::of(&mut content, &item.item).await?;
    let kept = standing.stored.iter().find(|head| head.version == resolution.keep).cloned();
    let kept = kept.ok_or_else(|| Problem::none("the head that `keep` names"))?;
    if standing.stored.len() < 2 {
        content.end().await?;
        return Err(Problem::conflict("no-conflict", "the item has one head: there is nothing to resolve"));
    }
    let received = match kept.root.as_str() {
        "" => None,
        root => Some(again(desk, Loaded::find(desk, &mut content, item.clone(), root).await?).await?),
    };
    content.end().await?;
    let vault = desk.make_vault().await?;
    let target = Target { site: item.site, name: item.name, media: item.media };
    let wanted = Wanted { heads: Some(resolution.heads), ..Wanted::default() };
    let committed = commit::commit(desk, &vault, &target, received.as_ref(), &wanted).await?;
    reply::json(
        StatusCode::OK,
        &json!({ "version": committed.version, "seq": committed.seq, "root": committed.root }),
    )
}

/// A content that is here, as one that has come.
pub(super) async fn again(desk: &Desk, loaded: Loaded) -> Result<Received, Problem> {
    let manifest = loaded.manifest(desk).await?;
    let (bytes, root): (u64, Root) = (loaded.bytes, loaded.root);
    debug_assert!(bytes <= CONTENT_BYTES_MAX, "what is kept was within the limits");
    let small =
        if manifest.entries().is_empty() { Some(loaded.whole(desk, MERGE_BYTES_MAX).await?) } else { None };
    Ok(Received { bytes, entries: manifest.entries().to_vec(), root, small })
}
