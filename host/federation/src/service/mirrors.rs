//! Items that mirror a share's source: told while the share lets them be, and gone in all regions when it is revoked.

use http::StatusCode;
use portolan_changelog::content::{Content, Share};
use portolan_foundation::clock;

use super::commit::{self, Standing, Target, Wanted};
use super::desk::Desk;
use super::problem::Problem;
use super::shares::permits;
use crate::defaults::{PAGE_MAX, SHARE_LEASE};

/// What mirrors a share's source is deleted at its target.
pub(super) async fn delete(desk: &Desk, content: &mut Content, share: &Share) -> Result<(), Problem> {
    let Some(vault) = desk.vault(content).await?.filter(|_| share.mode == "mirror") else { return Ok(()) };
    let mut after = String::new();
    loop {
        let page = content.mappings(&share.share, &after, PAGE_MAX).await?;
        for mapping in &page {
            let Some(item) = content.item_named(&mapping.target_item).await? else { continue };
            let standing = Standing::of(content, &item.item).await?;
            if !standing.is_there() {
                continue;
            }
            let heads = standing.stored.iter().map(|head| head.version.clone()).collect();
            let target = Target { site: item.site, name: item.name, media: String::new() };
            let wanted = Wanted { heads: Some(heads), ..Wanted::default() };
            Box::pin(commit::within(desk, &vault, content, &target, None, &wanted)).await?;
        }
        match page.last() {
            Some(last) if page.len() as u64 == PAGE_MAX => after.clone_from(&last.source_item),
            _ => return Ok(()),
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
/// region that decides of it was last heard.
pub(super) async fn serves(desk: &Desk, content: &mut Content, item: &str) -> Result<(), Problem> {
    for mapping in content.mappings_to(item, PAGE_MAX).await? {
        let Some(share) = content.share(&mapping.share).await?.filter(|share| share.mode == "mirror") else {
            continue;
        };
        if let Err(why) = permits(&share, &desk.shared.local, clock::unix_ms()) {
            let detail = format!(
                "share `{}` does not let this be read in `{}` now: {why}",
                share.share, desk.shared.local
            );
            return Err(Problem::forbidden(detail));
        }
        if desk.behind() > SHARE_LEASE {
            let detail = "this region has not heard for a while whether the share still holds: ask the region that writes the shard";
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "share-lease", detail));
        }
    }
    Ok(())
}
