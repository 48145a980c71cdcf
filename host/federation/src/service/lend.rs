//! The source's side of a share between two tenants. The row here decides each time: of an item, of a byte, of a region that keeps the target's shard.
//!
//! Whoever asks for what is not there, is not shared, or is shared with somebody else is answered the same. Items have names of their own for each
//! share, and places in lists are sealed, so that a target learns of nothing beside what it gets.

use std::sync::Arc;

use portolan_changelog::content::{Content, Item, Listed, Share};
use portolan_core::ids::{RegionName, TenantName};
use portolan_foundation::clock;

use super::commit::Standing;
use super::desk::{Desk, Shared};
use super::load::Loaded;
use super::mask::Mask;
use super::problem::Problem;
use super::shares::{covers, permits, reaches};
use super::vault::Vault;
use crate::defaults::{ANSWER_BYTES, LENT_ITEMS_MAX, MASK_BYTES_MAX, PAGE_MAX};
use crate::wire::{Answer, Lent, LentItem, Wish};

/// A share that was asked for, where its source is written.
struct Loan {
    desk: Desk,
    lent: Lent,
    /// Regions that keep the target's shard: what is shared comes to all of them.
    regions: Vec<RegionName>,
}

/// Answers a region that keeps the target's shard.
pub(super) async fn answer(
    shared: &Arc<Shared>,
    from: &RegionName,
    lent: Lent,
    wish: Wish,
) -> Result<Answer, Problem> {
    let loan = Loan::new(shared, from, lent)?;
    match wish {
        Wish::Accept => loan.accept().await,
        Wish::Bytes { name, version, at } => Box::pin(loan.bytes(&name, &version, at)).await,
        Wish::End => loan.end().await,
        Wish::Items { after } => Box::pin(loan.items(&after)).await,
        Wish::Word => {
            let mut content = loan.desk.look().await?;
            let share = loan.share(&mut content).await;
            content.end().await?;
            loan.desk.still()?;
            Ok(Answer::Share(Box::new(share?)))
        }
    }
}

/// May an item that came by shares go on by another one? Only where each of them says so, and lets it be read.
pub(super) async fn may_go_on(desk: &Desk, content: &mut Content, item: &str) -> Result<bool, Problem> {
    for mapping in content.mappings_to(item, PAGE_MAX).await? {
        let Some(share) = content.share(&mapping.share).await? else { continue };
        let [_, _, can_reshare, _] = share.can;
        if !can_reshare || permits(&share, &desk.shared.local, clock::unix_ms()).is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Loan {
    fn new(shared: &Arc<Shared>, from: &RegionName, lent: Lent) -> Result<Self, Problem> {
        let away = || Problem::busy("where one of the two tenants is has changed: it is asked again");
        let target = shared.homes.placed(&lent.target).ok_or_else(away)?;
        if !target.regions.contains(from) {
            return Err(Problem::forbidden(format!("content of that tenant has no copy in `{from}`")));
        }
        let source = shared.homes.placed(&lent.source).filter(|source| source.shard == lent.shard);
        source.ok_or_else(away)?;
        let leased = shared.homes.leased(&lent.shard);
        let leased = leased.ok_or_else(|| Problem::elsewhere(&lent.shard, &shared.local))?;
        let desk = Desk::new(Arc::clone(shared), lent.source.clone(), lent.shard.clone(), leased);
        Ok(Self { desk, lent, regions: target.regions })
    }

    /// The share, if it is this target's.
    async fn share(&self, content: &mut Content) -> Result<Share, Problem> {
        let share = content.share(&self.lent.share).await?;
        let own = share.filter(|share| share.target_tenant == self.lent.target.as_str());
        own.ok_or_else(|| Problem::none("the share"))
    }

    /// May content go by a share, to all regions where it would come?
    fn admits(
        &self,
        share: &Share,
        may: impl Fn(&RegionName) -> Result<(), &'static str>,
    ) -> Result<(), Problem> {
        admits(&self.desk, &self.lent.source, &self.regions, |region| {
            if share.mode == "co_edit" { Err("mode") } else { may(region) }
        })
    }

    async fn accept(&self) -> Result<Answer, Problem> {
        let mut content = self.desk.write().await?;
        match self.accepted(&mut content).await {
            Ok((share, true)) => {
                self.desk.commit(content).await?;
                Ok(Answer::Share(Box::new(share)))
            }
            Ok((share, false)) => {
                content.end().await?;
                Ok(Answer::Share(Box::new(share)))
            }
            Err(problem) => {
                content.end().await.ok();
                Err(problem)
            }
        }
    }

    /// The share, and whether it changed. Accepted twice it is accepted once.
    async fn accepted(&self, content: &mut Content) -> Result<(Share, bool), Problem> {
        let share = self.share(content).await?;
        match share.status.as_str() {
            "offered" | "accepted" => {}
            "revoked" => return Err(Problem::none("the share")),
            status => return Err(Problem::forbidden(format!("the share is {status} by its source"))),
        }
        let now_ms = clock::unix_ms();
        if share.expires_ms != 0 && now_ms >= share.expires_ms {
            return Err(Problem::none("the share"));
        }
        self.admits(&share, |region| reaches(&share, region))?;
        if share.status == "accepted" {
            return Ok((share, false));
        }
        content.turn_share(&share.share, "accepted").await?;
        content.note("share", (&share.source_site, &share.share), "accepted", now_ms).await?;
        Ok((self.share(content).await?, true))
    }

    /// The target has ended the share.
    async fn end(&self) -> Result<Answer, Problem> {
        let mut content = self.desk.write().await?;
        let share = match self.share(&mut content).await {
            Ok(share) if share.status != "revoked" => share,
            done => {
                content.end().await?;
                return done.map(|share| Answer::Share(Box::new(share)));
            }
        };
        content.turn_share(&share.share, "revoked").await?;
        content.note("share", (&share.source_site, &share.share), "revoked", clock::unix_ms()).await?;
        let share = self.share(&mut content).await?;
        self.desk.commit(content).await?;
        Ok(Answer::Share(Box::new(share)))
    }

    /// The share, when content may go by it now.
    async fn open(&self, content: &mut Content) -> Result<(Share, Arc<Vault>), Problem> {
        let share = self.share(content).await?;
        let now_ms = clock::unix_ms();
        self.admits(&share, |region| permits(&share, region, now_ms))?;
        let vault = self.desk.vault(content).await?.ok_or_else(|| Problem::none("the share"))?;
        Ok((share, vault))
    }

    async fn items(&self, after: &[u8]) -> Result<Answer, Problem> {
        let mut content = self.desk.look().await?;
        let listed = self.listed(&mut content, after).await;
        content.end().await?;
        self.desk.still()?;
        listed
    }

    async fn listed(&self, content: &mut Content, after: &[u8]) -> Result<Answer, Problem> {
        let (share, vault) = self.open(content).await?;
        let mask = Mask::of(&share)?;
        let place = format!("lent {}", share.share);
        let mut after = match after {
            [] => String::new(),
            // Places are this region's: another one that writes by now does not know them.
            sealed => vault
                .open_tail(&place, sealed)
                .ok()
                .and_then(|place| String::from_utf8(place).ok())
                .ok_or_else(|| Problem::busy("the list began elsewhere: it is asked for again"))?,
        };
        let mut items = Vec::new();
        loop {
            let page = content.items(&share.source_site, &after, PAGE_MAX).await?;
            for listed in &page {
                after.clone_from(&listed.name);
                if !goes(&share, mask.is_some(), listed) {
                    continue;
                }
                let Some(item) = content.item(&share.source_site, &listed.name).await? else { continue };
                if may_go_on(&self.desk, content, &item.item).await? {
                    items.push(LentItem {
                        bytes: if mask.is_some() { 0 } else { listed.bytes },
                        item: vault.alias(&share.share, &item.item),
                        media: listed.media.clone(),
                        name: listed.name.clone(),
                        version: listed.version.clone(),
                    });
                }
                if items.len() == LENT_ITEMS_MAX {
                    let next = Some(vault.seal_tail(&place, after.into_bytes())?);
                    return Ok(Answer::Items { items, next });
                }
            }
            if (page.len() as u64) < PAGE_MAX {
                return Ok(Answer::Items { items, next: None });
            }
        }
    }

    async fn bytes(&self, name: &str, version: &str, at: u64) -> Result<Answer, Problem> {
        let mut content = self.desk.look().await?;
        let found = self.found(&mut content, name, version).await;
        content.end().await?;
        let (share, loaded) = found?;
        let answer = match Mask::of(&share)? {
            Some(mask) => {
                let whole = loaded.whole(&self.desk, MASK_BYTES_MAX).await?;
                let shown = mask.apply(&whole).ok_or_else(|| Problem::none("the item"))?;
                let from = usize::try_from(at).unwrap_or(usize::MAX).min(shown.len());
                let bytes = shown.iter().skip(from).take(ANSWER_BYTES).copied().collect();
                Answer::Bytes { total: shown.len() as u64, bytes }
            }
            None => {
                let end = at.saturating_add(ANSWER_BYTES as u64).min(loaded.bytes);
                let bytes = loaded.read(&self.desk, &(at.min(end)..end)).await?;
                Answer::Bytes { total: loaded.bytes, bytes }
            }
        };
        self.desk.still()?;
        Ok(answer)
    }

    /// An item's shown version, if that is what is wanted of it: older ones are nobody else's.
    async fn found(
        &self,
        content: &mut Content,
        name: &str,
        version: &str,
    ) -> Result<(Share, Loaded), Problem> {
        let (share, _) = self.open(content).await?;
        let none = || Problem::none("the item");
        let item = content.item(&share.source_site, name).await?.ok_or_else(none)?;
        let shown = Standing::of(content, &item.item).await?.shown().cloned();
        let shown = shown.filter(|shown| !shown.root.is_empty() && shown.version == version);
        let shown = shown.ok_or_else(none)?;
        let listed = listed(&item, &shown);
        let is_masked = Mask::of(&share)?.is_some();
        if !goes(&share, is_masked, &listed) || !may_go_on(&self.desk, content, &item.item).await? {
            return Err(none());
        }
        let loaded = Loaded::find(&self.desk, content, item, &shown.root).await?;
        Ok((share, loaded))
    }
}

/// May content of a tenant be in all these regions, by its residency and by what `may` says of each?
///
/// # Errors
/// With the first region that says no, and why.
pub(super) fn admits(
    desk: &Desk,
    source: &TenantName,
    regions: &[RegionName],
    may: impl Fn(&RegionName) -> Result<(), &'static str>,
) -> Result<(), Problem> {
    for region in regions {
        let is_admitted = desk.shared.homes.admits(source, region);
        if let Err(why) = if is_admitted { may(region) } else { Err("residency") } {
            return Err(Problem::forbidden(format!(
                "the share does not let content into region `{region}` now, which keeps the target's shard: {why}"
            )));
        }
    }
    Ok(())
}

/// Does a share let an item through?
fn goes(share: &Share, is_masked: bool, item: &Listed) -> bool {
    let fits = share.max_bytes == 0 || item.bytes <= share.max_bytes;
    covers(share, item) && fits && (!is_masked || Mask::takes(&item.media, item.bytes))
}

/// An item with the version of it that is shown.
fn listed(item: &Item, shown: &portolan_changelog::content::Stored) -> Listed {
    Listed {
        at_ms: shown.at_ms,
        bytes: shown.bytes,
        heads: 1,
        media: item.media.clone(),
        name: item.name.clone(),
        root: shown.root.clone(),
        version: shown.version.clone(),
    }
}
