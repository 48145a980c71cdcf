//! What this region tells copies of the content that it writes: who may have it is looked at for each question, by the region of the asker's
//! certificate.
//!
//! A chunk is given through the list of a content that the asker names with its item, never by its own name.

use std::sync::Arc;

use portolan_changelog::content::{Change, Content, Part, Share, Span};
use portolan_core::ids::{RegionName, ShardName, TenantName};

use super::desk::{Desk, Shared};
use super::differ;
use super::follow::Followed;
use super::lend;
use super::load::location;
use super::problem::Problem;
use super::shares;
use crate::Error;
use crate::defaults::{ANSWER_BYTES, CHANGES_TOLD_MAX, MAPPING_BYTES, PAGE_MAX};
use crate::history;
use crate::seal::{self, Keyed};
use crate::wire::{Answer, Brought, Changes, Named, Question, Refused, Sent, Tenants, Told, What};

/// Answers a copy in another region.
pub(super) async fn answer(shared: &Arc<Shared>, from: &RegionName, question: Question) -> Answer {
    match Box::pin(give(shared, from, question)).await {
        Ok(answer) => answer,
        Err(problem) => {
            tracing::debug!(%from, "a copy of content is not answered: {}", problem.detail);
            let why = problem.detail;
            Answer::Refused(match problem.status {
                http::StatusCode::FORBIDDEN => Refused::Forbidden(why),
                http::StatusCode::NOT_FOUND => Refused::Gone(why),
                _ => Refused::Away(why),
            })
        }
    }
}

/// The same, for whoever asks in this node.
pub(super) async fn give(
    shared: &Arc<Shared>,
    from: &RegionName,
    question: Question,
) -> Result<Answer, Problem> {
    match question {
        Question::Tenants { shard, after, gathers } => tenants(shared, from, (&shard, gathers), &after).await,
        Question::Changes { shard, tenant, spans, gathers } => {
            let desk = desk(shared, from, (&shard, &tenant), gathers).await?;
            changes(&desk, &spans).await
        }
        Question::List { content, from: part } => {
            let desk = desk(shared, from, (&content.shard, &content.tenant), true).await?;
            list(&desk, &content, part).await
        }
        Question::Chunks { content, part, wanted } => {
            let desk = desk(shared, from, (&content.shard, &content.tenant), true).await?;
            chunks(&desk, &content, part, &wanted).await
        }
        Question::Patch { content, base, from: number } => {
            let desk = desk(shared, from, (&content.shard, &content.tenant), true).await?;
            differ::patch(&desk, &content, base, number).await
        }
        Question::Lent { lent, wish } => Box::pin(lend::answer(shared, from, lent, wish)).await,
    }
}

/// May a region ask about a shard?
fn keeps(shared: &Shared, from: &RegionName, shard: &ShardName) -> Result<(), Problem> {
    if shared.homes.keepers(shard).contains(from) {
        return Ok(());
    }
    Err(Problem::forbidden(format!("shard `{shard}` has no copy in `{from}`")))
}

/// Where a tenant's questions are answered. What happened is told by the region that writes alone, unless another is to begin to write; a
/// content does not change, and is given by copies as well.
async fn desk(
    shared: &Arc<Shared>,
    from: &RegionName,
    (shard, tenant): (&ShardName, &TenantName),
    copies: bool,
) -> Result<Desk, Problem> {
    keeps(shared, from, shard)?;
    let there = (Arc::clone(shared), tenant.clone(), shard.clone());
    if let Some(leased) = shared.homes.leased(shard) {
        return admitted(Desk::new(there.0, there.1, there.2, leased), from).await;
    }
    let followed = shared.homes.followed().into_iter().find(|one| copies && one.shard == *shard);
    let Followed { epoch, store, .. } = followed.ok_or_else(|| Problem::elsewhere(shard, &shared.local))?;
    admitted(Desk::of_copy(there.0, there.1, there.2, (store, epoch)), from).await
}

/// The desk, for a region that may have the tenant's content.
async fn admitted(desk: Desk, from: &RegionName) -> Result<Desk, Problem> {
    let tenant = &desk.tenant;
    if !desk.shared.homes.admits(tenant, from) {
        let detail = format!("content of tenant `{tenant}` may not be in `{from}`, by its residency");
        return Err(Problem::forbidden(detail));
    }
    match withheld(&desk, from).await? {
        None => Ok(desk),
        Some(share) => Err(Problem::forbidden(format!(
            "content of tenant `{tenant}` came by share `{}`, which does not let it into `{from}`: take the copy away, or share \
             it with that region",
            share.share
        ))),
    }
}

/// A share by which something came that may not be in a region; none when all may.
async fn withheld(desk: &Desk, region: &RegionName) -> Result<Option<Share>, Problem> {
    let mut content = desk.look().await?;
    let mut after = String::new();
    let found = loop {
        let page = content.shares(&after, PAGE_MAX).await?;
        let mut found = None;
        for share in page.iter().filter(|share| !may_be_in(desk, share, region)) {
            if !content.mappings(&share.share, "", 1).await?.is_empty() {
                found = Some(share.clone());
                break;
            }
        }
        match page.last() {
            Some(last) if found.is_none() && page.len() as u64 == PAGE_MAX => after.clone_from(&last.share),
            _ => break found,
        }
    };
    content.end().await?;
    Ok(found)
}

/// May what came by a share be in a region, by the share and by the residency of the tenant whose content it is?
fn may_be_in(desk: &Desk, share: &Share, region: &RegionName) -> bool {
    let source = TenantName::new(&share.source_tenant);
    let is_admitted = source.is_ok_and(|source| desk.shared.homes.admits(&source, region));
    shares::reaches(share, region).is_ok() && (share.source_tenant.is_empty() || is_admitted)
}

async fn tenants(
    shared: &Arc<Shared>,
    from: &RegionName,
    (shard, gathers): (&ShardName, bool),
    after: &str,
) -> Result<Answer, Problem> {
    keeps(shared, from, shard)?;
    let elsewhere = || Problem::elsewhere(shard, &shared.local);
    let leased = || shared.homes.leased(shard).map(|(store, _)| store);
    let copy = || shared.homes.followed().into_iter().find(|one| gathers && one.shard == *shard);
    let store = leased().or_else(|| copy().map(|one| one.store)).ok_or_else(elsewhere)?;
    let known = store.content_known(after, PAGE_MAX).await?;
    if !gathers && leased().is_none() {
        // Another region may have written while it was read.
        return Err(elsewhere());
    }
    let next = known.last().filter(|_| known.len() as u64 == PAGE_MAX).map(|last| last.tenant.clone());
    let (mut tenants, mut withheld) = (Vec::new(), 0);
    for one in known {
        let Ok(tenant) = TenantName::new(&one.tenant) else { continue };
        if shared.homes.admits(&tenant, from) {
            tenants.push((tenant, one.epoch, one.seq));
        } else {
            withheld += 1;
        }
    }
    Ok(Answer::Tenants(Tenants { tenants, next, withheld }))
}

async fn changes(desk: &Desk, spans: &[Span]) -> Result<Answer, Problem> {
    let mut content = desk.look().await?;
    let vault = desk.vault(&mut content).await?.ok_or_else(|| Problem::none("the tenant's content"))?;
    let after = history::common(spans, &content.spans().await?);
    let listed = content.changes(after, CHANGES_TOLD_MAX).await?;
    let full = listed.len() as u64 == CHANGES_TOLD_MAX;
    let (mut told, mut bytes, mut left) = (Vec::new(), 0, listed.into_iter());
    for change in left.by_ref() {
        let what = what(desk, &mut content, &change).await?;
        if let What::Version(brought) = &what {
            let small = brought.small.as_ref().map_or(0, Vec::len);
            bytes += brought.record.len() + small + brought.follows.len() * MAPPING_BYTES;
        }
        told.push(Told { change, what });
        if bytes >= ANSWER_BYTES {
            break;
        }
    }
    content.end().await?;
    desk.still()?;
    let more = full || left.next().is_some();
    let (epoch, names) = (desk.epoch().0, vault.names.clone());
    Ok(Answer::Changes(Box::new(Changes { epoch, names, after, told, more })))
}

/// What a change brought, as it is now.
async fn what(desk: &Desk, content: &mut Content, change: &Change) -> Result<What, Problem> {
    if change.kind == "share" {
        let share = content.share(&change.subject).await?;
        return Ok(share.map_or(What::Nothing, |share| What::Share(Box::new(share))));
    }
    let Some(item) = content.item(&change.site, &change.subject).await? else { return Ok(What::Nothing) };
    let Some(stored) = content.version(&item.item, &change.detail).await? else { return Ok(What::Nothing) };
    let small = small(desk, content, &item, &stored.root).await?;
    Ok(What::Version(Box::new(Brought {
        bytes: stored.bytes,
        follows: content.mappings_to(&item.item, PAGE_MAX).await?,
        item: item.item.parse()?,
        kept: !content.parts(&item.item, &stored.root).await?.is_empty(),
        media: item.media,
        record: stored.record,
        small,
    })))
}

/// A content that is small; none where it is not.
async fn small(
    desk: &Desk,
    content: &mut Content,
    item: &portolan_changelog::content::Item,
    root: &str,
) -> Result<Option<Vec<u8>>, Problem> {
    let Some(part) = content.part(&item.item, root, 0).await?.filter(|part| part.small) else {
        return Ok(None);
    };
    let data_key = data_key(desk, item, &part).await?;
    let of_item = seal::Part { item: item.item.parse()?, root: root.parse()?, number: 0 };
    Ok(Some(of_item.open_small(&part.sealed, &data_key)?))
}

async fn data_key(
    desk: &Desk,
    item: &portolan_changelog::content::Item,
    part: &Part,
) -> Result<seal::Secret, Problem> {
    let term = usize::try_from(part.term).unwrap_or(usize::MAX);
    Ok(desk.data_key(&Desk::keys(item)?, term).await?)
}

/// A part of a content's list, opened; none after the last.
async fn part(
    desk: &Desk,
    content: &mut Content,
    named: &Named,
    number: u32,
) -> Result<Option<Vec<Keyed>>, Problem> {
    let item = content.item_named(&named.item.to_string()).await?.ok_or_else(|| Problem::none("the item"))?;
    let Some(part) = content.part(&item.item, &named.root.to_string(), number.into()).await? else {
        return Ok(None);
    };
    if part.small {
        return Ok(None);
    }
    let data_key = data_key(desk, &item, &part).await?;
    let of_item = seal::Part { item: named.item, root: named.root, number };
    Ok(Some(of_item.open(&part.sealed, &data_key)?))
}

async fn list(desk: &Desk, named: &Named, from: u32) -> Result<Answer, Problem> {
    let mut content = desk.look().await?;
    let (mut parts, mut bytes, mut number, mut more) = (Vec::new(), 0, from, false);
    while let Some(part) = part(desk, &mut content, named, number).await? {
        bytes += part.len() * size_of::<Keyed>();
        parts.push(part);
        number = number.saturating_add(1);
        if bytes >= ANSWER_BYTES {
            more = true;
            break;
        }
    }
    content.end().await?;
    desk.still()?;
    if parts.is_empty() && from == 0 {
        Err(Problem::none("the content"))
    } else {
        Ok(Answer::List { parts, more })
    }
}

async fn chunks(desk: &Desk, named: &Named, number: u32, wanted: &[u8]) -> Result<Answer, Problem> {
    let mut content = desk.look().await?;
    let part = part(desk, &mut content, named, number).await?.ok_or_else(|| Problem::none("the content"))?;
    let vault = desk.vault(&mut content).await?.ok_or_else(|| Problem::none("the tenant's content"))?;
    let (mut sent, mut bytes) = (Vec::new(), 0);
    for (at, keyed) in (0_u32..).zip(&part) {
        if !is_wanted(wanted, at) {
            continue;
        }
        let chunk =
            content.chunk(&keyed.entry.id.to_string()).await?.ok_or(Error::Corrupt("a chunk's place"))?;
        let location = location(&chunk)?;
        let sealed = vault.packs.sealed(&location).await?;
        bytes += sealed.len();
        sent.push(Sent { at, coding: location.slot.coding, sealed });
        if bytes >= ANSWER_BYTES {
            break;
        }
    }
    content.end().await?;
    desk.still()?;
    Ok(Answer::Chunks(sent))
}

/// Is a bit set?
pub(super) fn is_wanted(wanted: &[u8], at: u32) -> bool {
    wanted.get(at as usize / 8).is_some_and(|byte| byte >> (at % 8) & 1 == 1)
}
