//! Items that mirror a share's source: told while the share lets them be, and gone in all regions when it is revoked.

use std::collections::BTreeSet;

use http::StatusCode;
use portolan_changelog::content::{Content, Mapping, Share};
use portolan_foundation::clock;

use super::borrow;
use super::commit::{self, Standing, Target, Wanted};
use super::desk::Desk;
use super::problem::Problem;
use super::shares::permits;
use super::vault::Vault;
use crate::defaults::{PAGE_MAX, SHARE_LEASE};

/// What mirrors a share's source is deleted at its target.
pub(super) async fn delete(desk: &Desk, content: &mut Content, share: &Share) -> Result<(), Problem> {
    let Some(vault) = desk.vault(content).await?.filter(|_| share.mode == "mirror") else { return Ok(()) };
    let mut after = String::new();
    loop {
        let page = content.mappings(&share.share, &after, PAGE_MAX).await?;
        for mapping in &page {
            delete_one(desk, &vault, content, mapping).await?;
        }
        match page.last() {
            Some(last) if page.len() as u64 == PAGE_MAX => after.clone_from(&last.source_item),
            _ => return Ok(()),
        }
    }
}

/// Deletes an item that mirrors another. Says whether it was there.
async fn delete_one(
    desk: &Desk,
    vault: &Vault,
    content: &mut Content,
    mapping: &Mapping,
) -> Result<bool, Problem> {
    let Some(item) = content.item_named(&mapping.target_item).await? else { return Ok(false) };
    let standing = Standing::of(content, &item.item).await?;
    if !standing.is_there() {
        return Ok(false);
    }
    let heads = standing.stored.iter().map(|head| head.version.clone()).collect();
    let target = Target { site: item.site, name: item.name, media: String::new() };
    let wanted = Wanted { heads: Some(heads), ..Wanted::default() };
    Box::pin(commit::within(desk, vault, content, &target, None, &wanted)).await?;
    Ok(true)
}

/// What mirrors an item that is not among these is deleted: its source is gone, or is shared no more. Says how many went.
pub(super) async fn bury(desk: &Desk, share: &Share, seen: &BTreeSet<String>) -> Result<u64, Problem> {
    let (mut after, mut gone) = (String::new(), 0);
    loop {
        let mut content = desk.look().await?;
        let page = content.mappings(&share.share, &after, PAGE_MAX).await?;
        content.end().await?;
        let lost: Vec<&Mapping> =
            page.iter().filter(|mapping| !seen.contains(&mapping.source_item)).collect();
        if !lost.is_empty() {
            let vault = desk.make_vault().await?;
            let mut content = desk.write().await?;
            for mapping in lost {
                match delete_one(desk, &vault, &mut content, mapping).await {
                    Ok(was_there) => gone += u64::from(was_there),
                    Err(problem) => {
                        content.end().await.ok();
                        return Err(problem);
                    }
                }
            }
            desk.commit(content).await?;
        }
        match page.last() {
            Some(last) if page.len() as u64 == PAGE_MAX => after.clone_from(&last.source_item),
            _ => return Ok(gone),
        }
    }
}

/// What mirrors the source of a share that is over goes for good: its lists, and the keys that opened them. A fork and a copy are their target's own.
pub(super) async fn purge(desk: &Desk, content: &mut Content, share: &Share) -> Result<(), Problem> {
    if share.mode == "mirror" {
        purge_mirrors(desk, content, share).await?;
    }
    Ok(content.forget_mappings(&share.share).await?)
}

async fn purge_mirrors(desk: &Desk, content: &mut Content, share: &Share) -> Result<(), Problem> {
    let mut after = String::new();
    loop {
        let page = content.mappings(&share.share, &after, PAGE_MAX).await?;
        for mapping in &page {
            let keys = commit::fresh_keys(desk, mapping.target_item.parse()?).await?;
            content.purge_item(&mapping.target_item, &keys).await?;
        }
        match page.last() {
            Some(last) if page.len() as u64 == PAGE_MAX => after.clone_from(&last.source_item),
            _ => return Ok(()),
        }
    }
}

/// May the contents of an item be told here and now? What mirrors a share's source is, while the share lets it, and no longer than a while after the
/// region that decides of it was last heard. Gives the shares of other tenants that are to be asked as well ([`hold`]), once the transaction is over.
pub(super) async fn serves(desk: &Desk, content: &mut Content, item: &str) -> Result<Vec<Share>, Problem> {
    let mut others = Vec::new();
    for mapping in content.mappings_to(item, PAGE_MAX).await? {
        let Some(share) = content.share(&mapping.share).await?.filter(|share| share.mode == "mirror") else {
            continue;
        };
        if let Err(why) = permits(&share, &desk.shared.local, clock::unix_ms()) {
            return Err(refused(desk, &share, why));
        }
        if desk.behind() > SHARE_LEASE {
            let detail = "this region has not heard for a while whether the share still holds: ask the region that writes the shard";
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "share-lease", detail));
        }
        if !share.source_tenant.is_empty() {
            others.push(share);
        }
    }
    Ok(others)
}

/// Do other tenants' shares let contents be told, by the words of their sources?
pub(super) async fn hold(desk: &Desk, others: &[Share]) -> Result<(), Problem> {
    for share in others {
        Box::pin(borrow::holds(desk, share, clock::now())).await?;
    }
    Ok(())
}

/// Why a share does not let something be told.
pub(super) fn refused(desk: &Desk, share: &Share, why: &str) -> Problem {
    let (share, region) = (&share.share, &desk.shared.local);
    Problem::forbidden(format!("share `{share}` does not let this be read in `{region}` now: {why}"))
}

/// May the tenant write an item? What mirrors another tenant's is that one's to write, unless the share says otherwise.
pub(super) async fn may_write(desk: &Desk, (site, name): (&str, &str)) -> Result<(), Problem> {
    let mut content = desk.look().await?;
    let mirrored = mirrored(&mut content, (site, name)).await;
    content.end().await?;
    match mirrored? {
        None => Ok(()),
        Some(share) => Err(Problem::forbidden(format!(
            "the item mirrors another tenant's by share `{share}`, which does not let it be written"
        ))),
    }
}

/// The share by which an item mirrors another tenant's, and may not be written.
async fn mirrored(content: &mut Content, (site, name): (&str, &str)) -> Result<Option<String>, Problem> {
    let Some(item) = content.item(site, name).await? else { return Ok(None) };
    for mapping in content.mappings_to(&item.item, PAGE_MAX).await? {
        let share = content.share(&mapping.share).await?;
        let [_, can_update, ..] = share.as_ref().map_or([true; 4], |share| share.can);
        if let Some(share) = share
            && share.mode == "mirror"
            && !share.source_tenant.is_empty()
            && !can_update
        {
            return Ok(Some(share.share));
        }
    }
    Ok(None)
}
