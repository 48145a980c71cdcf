//! What happened to a tenant's content in the region that writes happens here: histories are made one, contents come, and then the changes are
//! taken in their order, some hundreds in one transaction. Taken twice they are there once.

use std::sync::Arc;

use portolan_changelog::content::{Change, Content, Item, NewVersion};
use portolan_foundation::clock;

use super::bring::bring;
use super::commit::{self, Standing, Target, keep, kind_word, shown_of};
use super::desk::Desk;
use super::follow::Source;
use super::intake::Received;
use super::mirrors;
use super::packing::Packing;
use super::path::{check_item, known_site};
use super::problem::Problem;
use super::reply::check_media;
use super::vault::Vault;
use crate::Error;
use crate::defaults::{PAGE_MAX, TAKE_CHUNKS_MAX};
use crate::id::Namer;
use crate::seal::Secret;
use crate::version::{Heads, Hlc, Version};
use crate::wire::{Brought, Changes, Told, What};

/// A change whose content has come.
struct Ready {
    told: Told,
    /// The content, unless it is here already.
    received: Option<Received>,
}

/// What is here of a tenant's log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// Is the last change here of an earlier epoch than the last one there?
    pub(super) is_older: bool,
    /// The number of the last change.
    pub(super) seq: u64,
}

/// What became of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// All are here.
    All,
    /// What was here and nowhere else is put aside: the source is asked again, from before it.
    Aside,
    /// They are of another history, and it is not known that theirs counts.
    Refused,
}

/// Takes changes.
pub(super) async fn take(
    source: &Source,
    desk: &Desk,
    known: Known,
    changes: Changes,
) -> Result<Taken, Problem> {
    if source.gathers && known.seq > 0 {
        // Of two histories that of the later epoch counts: whoever began it had, or cut off, what came before.
        let forked = changes.after < known.seq && !known.is_older;
        if forked || !has_names(desk, &changes.names).await? {
            return Ok(Taken::Refused);
        }
    }
    let vault = vault(desk, known.seq, &changes.names).await?;
    if changes.after < known.seq {
        turn_back(desk, &vault, changes.after).await?;
        stranded(source, desk, known.seq - changes.after);
        return Ok(Taken::Aside);
    }
    let mut packing = Packing::new(desk, &vault);
    let (mut at, mut ready, mut chunks) = (changes.after, Vec::new(), 0);
    for told in changes.told {
        let received = match Box::pin(come(source, &mut packing, (desk, &vault), &told)).await {
            Ok(received) => received,
            Err(problem) => {
                // What came before it is not asked for again.
                packing.write().await?;
                Box::pin(enter(desk, &vault, at, ready)).await?;
                return Err(problem);
            }
        };
        chunks += received.as_ref().map_or(0, |received| received.entries.len());
        ready.push(Ready { told, received });
        if chunks >= TAKE_CHUNKS_MAX {
            packing.write().await?;
            at = Box::pin(enter(desk, &vault, at, std::mem::take(&mut ready))).await?;
            chunks = 0;
        }
    }
    packing.write().await?;
    Box::pin(enter(desk, &vault, at, ready)).await?;
    Ok(Taken::All)
}

/// Has the tenant these names here?
async fn has_names(desk: &Desk, names: &Secret) -> Result<bool, Problem> {
    let mut content = desk.look().await?;
    let vault = desk.vault(&mut content).await;
    content.end().await?;
    Ok(vault.is_ok_and(|vault| vault.is_some_and(|vault| vault.names == *names)))
}

/// The vault with these names. What was written here under others is nobody's to take away: it was acknowledged, and is not elsewhere.
async fn vault(desk: &Desk, known: u64, names: &Secret) -> Result<Arc<Vault>, Problem> {
    let mut content = desk.look().await?;
    let there = desk.vault(&mut content).await;
    content.end().await?;
    match there? {
        Some(vault) if vault.names == *names => return Ok(vault),
        Some(_) if known > 0 => return Err(other_begin(desk, known)),
        _ => {}
    }
    let mut content = desk.write().await?;
    let taken = desk.shared.vaults.take(&desk.tenant, &mut content, names).await?;
    desk.commit(content).await?;
    Ok(taken)
}

fn other_begin(desk: &Desk, known: u64) -> Problem {
    let Desk { shard, shared, .. } = desk;
    Problem::busy(format!(
        "{known} changes were written here before another region began the tenant's content anew: they are nowhere else. Look whether somebody needs \
         them, then take this copy away and add it again (`portolan replica remove {shard} {0}`, `portolan replica add {shard} {0}`)",
        shared.local
    ))
}

fn stranded(source: &Source, desk: &Desk, changes: u64) {
    let (shard, tenant) = (&desk.shard, &desk.tenant);
    tracing::warn!(
        %shard, %tenant, changes,
        "content was written here that the region which writes now never had: it is kept as stranded, and shown by nobody"
    );
    source.shared.copies.count(shard, |counts| counts.stranded += changes);
}

/// What came after a change goes, and items are shown as they were then.
async fn turn_back(desk: &Desk, vault: &Vault, to: u64) -> Result<(), Problem> {
    let mut content = desk.write().await?;
    for item in content.turn_back(to).await? {
        let (mut heads, mut before) = (Heads::default(), i64::MAX as u64);
        loop {
            let page = content.versions(&item, before, PAGE_MAX).await?;
            for stored in &page {
                heads.put(Version::read(&stored.record)?)?;
            }
            match page.last() {
                Some(last) if page.len() as u64 == PAGE_MAX => before = last.seq,
                _ => break,
            }
        }
        content.put_heads(&item, &shown_of(&heads, &vault.namer)?).await?;
    }
    desk.commit(content).await
}

/// Has the content of a change come, if it has one that is not here.
async fn come(
    source: &Source,
    packing: &mut Packing<'_>,
    (desk, vault): (&Desk, &Arc<Vault>),
    told: &Told,
) -> Result<Option<Received>, Problem> {
    let What::Version(brought) = &told.what else { return Ok(None) };
    let version = checked(&told.change, brought, &vault.namer)?;
    let Some(root) = version.content.filter(|_| brought.kept) else { return Ok(None) };
    let mut content = desk.look().await?;
    let is_here = !content.parts(&brought.item.to_string(), &root.to_string()).await?.is_empty();
    content.end().await?;
    if is_here {
        return Ok(None);
    }
    bring(source, packing, (desk, vault), brought, &version).await.map(Some)
}

/// A version, when it is the one that the change names.
fn checked(change: &Change, brought: &Brought, namer: &Namer) -> Result<Version, Problem> {
    let version = Version::read(&brought.record)?;
    if version.item != brought.item || version.id(namer)?.to_string() != change.detail {
        return Err(Error::Malformed("a change: its version has another name").into());
    }
    known_site(&change.site)?;
    check_item(change.subject.clone())?;
    check_media(&brought.media)?;
    Ok(version)
}

/// Takes changes that follow `at`, whose contents are here. Gives the number of the last.
async fn enter(desk: &Desk, vault: &Vault, at: u64, ready: Vec<Ready>) -> Result<u64, Problem> {
    if ready.is_empty() {
        return Ok(at);
    }
    let mut content = desk.write().await?;
    let entered = within(desk, vault, &mut content, at, ready).await;
    match entered {
        Ok(last) => desk.commit(content).await.map(|()| last),
        Err(problem) => {
            content.end().await.ok();
            Err(problem)
        }
    }
}

async fn within(
    desk: &Desk,
    vault: &Vault,
    content: &mut Content,
    mut at: u64,
    ready: Vec<Ready>,
) -> Result<u64, Problem> {
    let account = content.account().await?.ok_or(Error::NoKey)?;
    if account.seq != at {
        return Err(Problem::busy(
            "another node of this region takes the same changes: it goes on after them",
        ));
    }
    let mut clock = Hlc { ms: account.clock.0, count: account.clock.1 };
    for Ready { told: Told { change, what }, received } in ready {
        if change.seq != at + 1 {
            return Err(Error::Malformed("a log: a number is missing").into());
        }
        match &what {
            What::Nothing => {}
            What::Share(share) => {
                content.take_share(share).await?;
                if share.status == "revoked" {
                    mirrors::purge(desk, content, share).await?;
                }
            }
            What::Version(brought) => {
                let version = checked(&change, brought, &vault.namer)?;
                // Who wrote it had a clock that was far ahead: it was committed there, and is no time to go on from.
                clock = clock.hear(version.at, clock::unix_ms()).unwrap_or(clock);
                let came = (brought.as_ref(), version, received.as_ref());
                Box::pin(take_version(desk, vault, content, &change, came, clock)).await?;
            }
        }
        content.take_change(&change).await?;
        at = change.seq;
    }
    Ok(at)
}

async fn take_version(
    desk: &Desk,
    vault: &Vault,
    content: &mut Content,
    change: &Change,
    (brought, version, received): (&Brought, Version, Option<&Received>),
    clock: Hlc,
) -> Result<(), Problem> {
    let item = item(desk, content, change, brought).await?;
    if let Some(received) = received {
        keep(desk, vault, content, &item, received).await?;
    }
    let root = version.content.map(|root| root.to_string()).unwrap_or_default();
    let at_ms = version.at.ms;
    let mut standing = Standing::of(content, &item.item).await?;
    standing.heads.put(version)?;
    let new = NewVersion {
        at_ms,
        bytes: brought.bytes,
        clock: (clock.ms, clock.count),
        record: brought.record.clone(),
        root,
        version: change.detail.clone(),
    };
    content.take_version(&item, &new, change.seq, &shown_of(&standing.heads, &vault.namer)?).await?;
    for mapping in &brought.follows {
        content.put_mapping(mapping).await?;
    }
    Ok(())
}

/// The item of a change, as it is in the region that writes but for its keys.
async fn item(
    desk: &Desk,
    content: &mut Content,
    change: &Change,
    brought: &Brought,
) -> Result<Item, Problem> {
    let item = match content.item_named(&brought.item.to_string()).await? {
        Some(item) if item.media == brought.media => return Ok(item),
        Some(item) => {
            Item { kind: kind_word(&brought.media).to_owned(), media: brought.media.clone(), ..item }
        }
        None => {
            let target = Target {
                site: change.site.clone(),
                name: change.subject.clone(),
                media: brought.media.clone(),
            };
            commit::create(desk, brought.item, &target, &brought.media).await?
        }
    };
    content.put_item(&item).await?;
    Ok(item)
}
