//! Collection: packs that nothing uses any more go, tenant by tenant, where this region writes their shard, or has its copy follow.
//!
//! What wakes it: time. What it reads: the tables of content. What it writes: the packs' states, and the store of objects. What fails is told and
//! tried again at the next round; each step may be the last before a crash (see [`portolan_changelog::content`]).

use std::sync::Arc;

use portolan_core::ids::{ShardName, TenantName};
use portolan_foundation::clock;
use portolan_foundation::shutdown::Shutdown;

use super::desk::{Desk, Shared};
use super::load::location;
use super::problem::Problem;
use super::repair;
use super::vault::Vault;
use crate::defaults::{
    COLLECT_EVERY, COLLECT_PACKS_MAX, COLLECT_REPACKS_MAX, PAGE_MAX, QUARANTINE_MS, REPACK_PERCENT,
};
use crate::pack::Builder;
use crate::seal::System;

/// Collects until shutdown.
pub(super) async fn run(shared: Arc<Shared>, shutdown: Shutdown) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(COLLECT_EVERY) => {}
            () = shutdown.begun() => return,
        }
        for shard in shared.homes.shards() {
            if let Err(problem) = round(&shared, &shard).await {
                tracing::warn!(%shard, "content was not collected: {}", problem.detail);
            }
        }
    }
}

/// All tenants of a shard.
async fn round(shared: &Arc<Shared>, shard: &ShardName) -> Result<(), Problem> {
    let mut after = String::new();
    loop {
        let leased = shared.homes.leased(shard);
        let followed = shared.homes.followed().into_iter().find(|one| one.shard == *shard);
        let desk = |tenant: TenantName| {
            let (shared, shard) = (Arc::clone(shared), shard.clone());
            match (&leased, &followed) {
                (Some(leased), _) => Some(Desk::new(shared, tenant, shard, leased.clone())),
                (None, Some(one)) => {
                    Some(Desk::of_copy(shared, tenant, shard, (one.store.clone(), one.epoch)))
                }
                (None, None) => None,
            }
        };
        let store = leased.as_ref().map(|(store, _)| store);
        let store = store.or_else(|| followed.as_ref().map(|one| &one.store));
        let Some(store) = store else { return Ok(()) };
        let tenants = store.content_tenants(&after, PAGE_MAX).await?;
        for tenant in tenants.iter().filter_map(|tenant| TenantName::new(tenant).ok()) {
            let Some(desk) = desk(tenant) else { return Ok(()) };
            // One whose packs are damaged for good holds up no other.
            if let Err(problem) = collect(&desk, clock::unix_ms()).await {
                let tenant = &desk.tenant;
                tracing::warn!(%shard, %tenant, "a tenant's content was not collected: {}", problem.detail);
            }
        }
        match tenants.last() {
            Some(last) if tenants.len() as u64 == PAGE_MAX => after.clone_from(last),
            _ => return Ok(()),
        }
    }
}

/// One tenant's packs.
pub(super) async fn collect(desk: &Desk, now_ms: u64) -> Result<(), Problem> {
    let Found { doomed, vault, worn } = decide(desk, now_ms).await?;
    let Some(vault) = vault else { return Ok(()) };
    for pack in doomed {
        vault.packs.delete(&pack.parse()?).await?;
        let mut content = desk.write().await?;
        content.deleted(&pack).await?;
        desk.commit(content).await?;
    }
    let mut done = Ok(());
    for pack in worn {
        if let Err(problem) = repack(desk, &vault, &pack, now_ms).await {
            done = Err(problem);
        }
    }
    Box::pin(repair::scrub(desk, &vault)).await.and(done)
}

/// What is to be done with objects.
pub(super) struct Found {
    doomed: Vec<String>,
    vault: Option<Arc<Vault>>,
    worn: Vec<String>,
}

/// The steps that need no object, and what is to be done after them. Whoever stops here does it at the next round.
pub(super) async fn decide(desk: &Desk, now_ms: u64) -> Result<Found, Problem> {
    let mut content = desk.write().await?;
    content.expire_uploads(now_ms).await?;
    content.quarantine(now_ms).await?;
    content.doom(now_ms.saturating_sub(QUARANTINE_MS)).await?;
    let doomed = content.doomed(COLLECT_PACKS_MAX).await?;
    let worn = content.worn(REPACK_PERCENT, now_ms, COLLECT_REPACKS_MAX).await?;
    let vault = desk.vault(&mut content).await?;
    desk.commit(content).await?;
    Ok(Found { doomed, vault, worn })
}

/// Copies what is used of a pack into another. The worn one has nothing any more then, and goes as such; whoever reads from it meanwhile finishes.
async fn repack(desk: &Desk, vault: &Arc<Vault>, worn: &str, now_ms: u64) -> Result<(), Problem> {
    let mut content = desk.look().await?;
    let used = content.used_of(worn, now_ms).await?;
    content.end().await?;
    let mut copy = Builder::default();
    for chunk in &used {
        // What is damaged is not to look whole in a new pack.
        match repair::opened(vault, chunk).await {
            Err(error) if repair::is_damage(&error) => {
                Box::pin(repair::repaired(desk, vault, chunk)).await?;
                continue;
            }
            whole => drop(whole?),
        }
        let location = location(chunk)?;
        let sealed = vault.packs.sealed(&location).await?;
        copy.push(location.slot.id, location.slot.coding, location.slot.bytes, &sealed)?;
    }
    if copy.is_empty() {
        return Ok(());
    }
    let copy = vault.packs.seal(copy, &System)?;
    let name = copy.name.to_string();
    let mut content = desk.write().await?;
    content.note_pack(&name, copy.bytes.len() as u64, now_ms).await?;
    desk.commit(content).await?;
    vault.packs.put(&copy.name, copy.bytes).await?;
    let places: Vec<(String, u64)> =
        copy.slots.iter().map(|slot| (slot.id.to_string(), slot.at.into())).collect();
    let mut content = desk.write().await?;
    content.move_chunks(worn, &name, &places).await?;
    desk.commit(content).await
}
