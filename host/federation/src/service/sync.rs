//! Has a share's target follow its source, where both are the same tenant's in this region: no byte moves, because chunks are the
//! tenant's, and each site's items have their own versions.
//!
//! A mirror becomes what its source is, whatever was written to it; a fork gets the source's version beside its own edits, which are merged where
//! they can be; a copy is made once. Each item's mapping is written with its version, so that a run that was cut short goes on with another. What
//! the target has of its own is never written over.

use http::{Response, StatusCode};
use portolan_changelog::content::{Listed, Mapping, Share};
use portolan_foundation::clock;
use portolan_foundation::endpoint::Body;
use serde_json::{Value, json};

use super::commit::{self, Target, Wanted};
use super::desk::Desk;
use super::load::Loaded;
use super::path::parameter;
use super::problem::Problem;
use super::reply;
use super::settle;
use super::shares;
use super::show::page;
use crate::defaults::PAGE_MAX;

/// How a share's items stand at their target.
pub(super) async fn state(desk: &Desk, id: &str, query: Option<&str>) -> Result<Response<Body>, Problem> {
    let (max, after) = (page(query)?, parameter(query, "after")?.unwrap_or_default());
    shares::find(desk, id).await?;
    let mut content = desk.look().await?;
    let mappings = content.mappings(id, &after, max).await?;
    content.end().await?;
    let next =
        if mappings.len() as u64 == max { mappings.last().map(|one| one.source_item.clone()) } else { None };
    let all: Vec<Value> = mappings.iter().map(shown).collect();
    reply::json(StatusCode::OK, &json!({ "share": id, "items": all, "next": next }))
}

fn shown(mapping: &Mapping) -> Value {
    json!({
        "source_item": mapping.source_item, "target_site": mapping.target_site, "target_item": mapping.target_item,
        "last_synced_version": mapping.last_synced_version, "state": mapping.state,
    })
}

/// Brings the target up to the source, item by item, and tells how many came of what.
pub(super) async fn run(desk: &Desk, id: &str) -> Result<Response<Body>, Problem> {
    let share = shares::find(desk, id).await?;
    // What comes here comes to all regions that keep the shard.
    for region in desk.shared.homes.keepers(&desk.shard) {
        if let Err(why) = shares::permits(&share, &region, clock::unix_ms()) {
            refused(desk, &share).await?;
            return Err(Problem::forbidden(format!(
                "the share does not let content into region `{region}` now, which keeps this tenant's shard: {why}"
            )));
        }
    }
    let place = desk.intake()?;
    let (mut after, mut done, mut same, mut refused) = (String::new(), 0_u64, 0_u64, 0_u64);
    loop {
        let mut content = desk.look().await?;
        let listed = content.items(&share.source_site, &after, PAGE_MAX).await?;
        content.end().await?;
        for item in listed.iter().filter(|item| shares::covers(&share, item)) {
            match Box::pin(follow(desk, &share, item)).await? {
                Came::Done => done += 1,
                Came::Same => same += 1,
                Came::Refused => refused += 1,
            }
        }
        match listed.last() {
            Some(last) if listed.len() as u64 == PAGE_MAX => after.clone_from(&last.name),
            _ => break,
        }
    }
    drop(place);
    reply::json(
        StatusCode::OK,
        &json!({ "share": id, "written": done, "unchanged": same, "refused": refused }),
    )
}

/// Notes that a share let nothing through.
async fn refused(desk: &Desk, share: &Share) -> Result<(), Problem> {
    let mut content = desk.write().await?;
    content.note("share", (&share.source_site, &share.share), "refused", clock::unix_ms()).await?;
    desk.commit(content).await
}

/// What came of an item.
enum Came {
    Done,
    Refused,
    Same,
}

async fn follow(desk: &Desk, share: &Share, listed: &Listed) -> Result<Came, Problem> {
    let mut content = desk.look().await?;
    let source = content.item(&share.source_site, &listed.name).await?;
    let source = source.ok_or_else(|| Problem::none("the item"))?;
    let mapping = content.mapping(&share.share, &source.item).await?;
    let is_known = mapping
        .as_ref()
        .is_some_and(|mapping| share.mode == "copy_once" || mapping.last_synced_version == listed.version);
    let is_too_large = share.max_bytes != 0 && listed.bytes > share.max_bytes;
    if is_known || is_too_large {
        content.end().await?;
        return Ok(if is_known { Came::Same } else { Came::Refused });
    }
    let theirs = content.item(&share.target_site, &listed.name).await?;
    if theirs.is_some() && mapping.is_none() {
        // An item of the target's own is not for others to write over.
        content.end().await?;
        return Ok(Came::Refused);
    }
    let loaded = Loaded::find(desk, &mut content, source.clone(), &listed.root).await?;
    content.end().await?;
    let received = settle::again(desk, loaded).await?;
    let vault = desk.make_vault().await?;
    let target =
        Target { site: share.target_site.clone(), name: listed.name.clone(), media: source.media.clone() };
    let base = mapping.as_ref().map(|mapping| mapping.base_version.clone());
    let wanted = Wanted { base: base.filter(|_| share.mode == "fork_follow"), ..Wanted::default() };
    let mut content = desk.write().await?;
    // The share may have been ended since the run began.
    let still = content.share(&share.share).await?.is_some_and(|now| now.policy_epoch == share.policy_epoch);
    if !still {
        content.end().await?;
        return Err(Problem::conflict("share-status", "the share has changed meanwhile: look at it again"));
    }
    let committed = commit::within(desk, &vault, &mut content, &target, Some(&received), &wanted).await;
    let committed = match committed {
        Ok(committed) => committed,
        Err(problem) => {
            content.end().await.ok();
            return Err(problem);
        }
    };
    let mapping = Mapping {
        base_version: committed.version.clone(),
        last_synced_version: listed.version.clone(),
        share: share.share.clone(),
        source_item: source.item,
        state: if committed.conflict { "forked" } else { "synced" }.to_owned(),
        target_item: committed.item.item.clone(),
        target_site: share.target_site.clone(),
    };
    content.put_mapping(&mapping).await?;
    desk.commit(content).await?;
    if committed.conflict {
        Box::pin(settle::merged(desk, committed)).await?;
    }
    Ok(Came::Done)
}
