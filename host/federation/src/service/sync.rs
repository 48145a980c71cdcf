//! Has a share's target follow its source, where both are the same tenant's in this region: no byte moves but of what is masked, because chunks are the
//! tenant's, and each site's items have their own versions. What comes from other tenants (see [`super::borrow`]) is taken by the same rules.
//!
//! A mirror becomes what its source is, whatever was written to it; a fork gets the source's version beside its own edits, which are merged where
//! they can be; a copy is made once. Each item's mapping is written with its version, so that a run that was cut short goes on with another. What
//! the target has of its own is never written over.

use http::{Response, StatusCode};
use portolan_changelog::content::{Content, Listed, Mapping, Share};
use portolan_foundation::clock;
use portolan_foundation::endpoint::Body;
use serde_json::{Value, json};

use super::borrow;
use super::commit::{self, Standing, Target, Wanted};
use super::desk::Desk;
use super::intake::{Intake, Received};
use super::lend;
use super::load::Loaded;
use super::mask::Mask;
use super::path::parameter;
use super::problem::Problem;
use super::reply;
use super::settle;
use super::shares;
use super::show::page;
use super::vault::Vault;
use crate::defaults::{MASK_BYTES_MAX, PAGE_MAX};

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
    match (share.source_tenant.is_empty(), share.target_tenant.is_empty()) {
        (true, true) => {
            if let Err(problem) = may_come(desk, &share) {
                refused(desk, &share).await?;
                return Err(problem);
            }
            bring_up(desk, &share).await?.answer(&share)
        }
        (true, false) => borrow::pushed(desk, &share).await,
        (false, _) => borrow::pulled(desk, &share).await,
    }
}

/// May content come to the target now? What comes here comes to all regions that keep the shard.
pub(super) fn may_come(desk: &Desk, share: &Share) -> Result<(), Problem> {
    for region in desk.shared.homes.keepers(&desk.shard) {
        if let Err(why) = shares::permits(share, &region, clock::unix_ms()) {
            return Err(Problem::forbidden(format!(
                "the share does not let content into region `{region}` now, which keeps this tenant's shard: {why}"
            )));
        }
    }
    Ok(())
}

/// Brings the target up to the source, where both are the tenant's.
pub(super) async fn bring_up(desk: &Desk, share: &Share) -> Result<Ran, Problem> {
    let place = desk.intake()?;
    let (mut after, mut ran) = (String::new(), Ran::default());
    loop {
        let mut content = desk.look().await?;
        let listed = content.items(&share.source_site, &after, PAGE_MAX).await?;
        content.end().await?;
        for item in listed.iter().filter(|item| shares::covers(share, item)) {
            ran.count(Box::pin(follow(desk, share, item)).await?);
        }
        match listed.last() {
            Some(last) if listed.len() as u64 == PAGE_MAX => after.clone_from(&last.name),
            _ => break,
        }
    }
    drop(place);
    Ok(ran)
}

/// How many items came of what.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ran {
    /// Items of the target whose source is gone.
    pub(super) deleted: u64,
    refused: u64,
    unchanged: u64,
    written: u64,
}

impl Ran {
    pub(super) const fn count(&mut self, came: Came) {
        match came {
            Came::Done => self.written += 1,
            Came::Refused => self.refused += 1,
            Came::Same => self.unchanged += 1,
        }
    }

    pub(super) fn answer(self, share: &Share) -> Result<Response<Body>, Problem> {
        let Self { deleted, refused, unchanged, written } = self;
        let answer = json!({
            "share": share.share, "written": written, "unchanged": unchanged, "refused": refused, "deleted": deleted,
        });
        reply::json(StatusCode::OK, &answer)
    }
}

/// Notes that a share let nothing through.
pub(super) async fn refused(desk: &Desk, share: &Share) -> Result<(), Problem> {
    let mut content = desk.write().await?;
    content.note("share", shares::place(share), "refused", clock::unix_ms()).await?;
    desk.commit(content).await
}

/// What came of an item.
#[derive(Clone, Copy, Debug)]
pub(super) enum Came {
    Done,
    Refused,
    Same,
}

/// A source's item that is to come to its target.
pub(super) struct Coming {
    /// What names it for this share.
    pub(super) item: String,
    pub(super) media: String,
    pub(super) name: String,
    /// The version that is shown.
    pub(super) version: String,
}

/// What is to be done about an item.
pub(super) enum Step {
    /// Its content is to come, after the version that came last.
    Come(Option<Mapping>),
    /// Nothing.
    Stay(Came),
}

async fn follow(desk: &Desk, share: &Share, listed: &Listed) -> Result<Came, Problem> {
    let mut content = desk.look().await?;
    let found = find(desk, &mut content, share, listed).await;
    content.end().await?;
    let (coming, mapping, loaded) = match found? {
        Ok(found) => found,
        Err(came) => return Ok(came),
    };
    let vault = desk.make_vault().await?;
    let received = match Mask::of(share)? {
        None => settle::again(desk, loaded).await?,
        Some(mask) => {
            let whole = loaded.whole(desk, MASK_BYTES_MAX).await?;
            let Some(shown) = mask.apply(&whole) else { return Ok(Came::Refused) };
            let mut intake = Intake::new(desk, &vault);
            intake.push(&shown).await?;
            intake.finish().await?
        }
    };
    coming.take(desk, &vault, share, mapping, &received).await
}

/// What is to come of an item, or why nothing does.
async fn find(
    desk: &Desk,
    content: &mut Content,
    share: &Share,
    listed: &Listed,
) -> Result<Result<(Coming, Option<Mapping>, Loaded), Came>, Problem> {
    let source = content.item(&share.source_site, &listed.name).await?;
    let source = source.ok_or_else(|| Problem::none("the item"))?;
    let coming = Coming {
        item: source.item.clone(),
        media: source.media.clone(),
        name: listed.name.clone(),
        version: listed.version.clone(),
    };
    let mapping = match coming.step(content, share).await? {
        Step::Come(mapping) => mapping,
        Step::Stay(came) => return Ok(Err(came)),
    };
    let fits = share.max_bytes == 0 || listed.bytes <= share.max_bytes;
    let may_be_masked = Mask::of(share)?.is_none() || Mask::takes(&listed.media, listed.bytes);
    if !fits || !may_be_masked || !lend::may_go_on(desk, content, &source.item).await? {
        return Ok(Err(Came::Refused));
    }
    let loaded = Loaded::find(desk, content, source, &listed.root).await?;
    Ok(Ok((coming, mapping, loaded)))
}

impl Coming {
    /// Whether it is to come, by what the target has.
    pub(super) async fn step(&self, content: &mut Content, share: &Share) -> Result<Step, Problem> {
        let mapping = content.mapping(&share.share, &self.item).await?;
        if mapping
            .as_ref()
            .is_some_and(|mapping| share.mode == "copy_once" || mapping.last_synced_version == self.version)
        {
            return Ok(Step::Stay(Came::Same));
        }
        if let (Some(theirs), None) = (content.item(&share.target_site, &self.name).await?, &mapping)
            && Standing::of(content, &theirs.item).await?.is_there()
        {
            // An item of the target's own is not for others to write over.
            return Ok(Step::Stay(Came::Refused));
        }
        Ok(Step::Come(mapping))
    }

    /// Writes what came as a version of the target's item, and how far that follows, at once.
    pub(super) async fn take(
        self,
        desk: &Desk,
        vault: &Vault,
        share: &Share,
        mapping: Option<Mapping>,
        received: &Received,
    ) -> Result<Came, Problem> {
        let target = Target { site: share.target_site.clone(), name: self.name, media: self.media };
        let base = mapping.map(|mapping| mapping.base_version).filter(|_| share.mode == "fork_follow");
        let wanted = Wanted { base, ..Wanted::default() };
        let mut content = desk.write().await?;
        // The share may have been ended since the run began.
        let now = content.share(&share.share).await?;
        if now.is_none_or(|now| now.policy_epoch != share.policy_epoch) {
            content.end().await?;
            return Err(Problem::conflict(
                "share-status",
                "the share has changed meanwhile: look at it again",
            ));
        }
        let committed = commit::within(desk, vault, &mut content, &target, Some(received), &wanted).await;
        let committed = match committed {
            Ok(committed) => committed,
            Err(problem) => {
                content.end().await.ok();
                return Err(problem);
            }
        };
        let mapping = Mapping {
            base_version: committed.version.clone(),
            last_synced_version: self.version,
            share: share.share.clone(),
            source_item: self.item,
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
}
