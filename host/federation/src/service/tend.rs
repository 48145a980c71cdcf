//! Shares that are looked after without being asked: eager ones, whose targets follow each change, and those of other tenants, whose sources may have
//! ended them.
//!
//! What wakes it: time, and changes on this node. What it reads: the shares of shards that this region writes, and words of their sources. What it
//! writes: what syncs and revocations write. What fails is told and tried again at the next look.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use portolan_core::ids::{ShardName, TenantName};
use portolan_foundation::clock;
use portolan_foundation::shutdown::Shutdown;

use super::borrow;
use super::desk::{Desk, Shared};
use super::problem::Problem;
use super::shares;
use super::sync;
use crate::defaults::{PAGE_MAX, TEND_AFTER, TEND_EVERY, TEND_REST};

/// How far the source of each share was when its target last had all of it, by target and share.
type Seen = BTreeMap<(String, String), u64>;

/// Looks until shutdown.
pub(super) async fn run(shared: Arc<Shared>, shutdown: Shutdown) {
    let (mut news, mut seen, mut took) = (shared.news.subscribe(), Seen::new(), Duration::ZERO);
    loop {
        tokio::select! {
            // Cancel-safe: news that came meanwhile is seen at the next look.
            _ = news.changed() => {}
            () = tokio::time::sleep(TEND_EVERY) => {}
            () = shutdown.begun() => return,
        }
        tokio::select! {
            () = tokio::time::sleep(TEND_AFTER.max(took * TEND_REST)) => {}
            () = shutdown.begun() => return,
        }
        news.mark_unchanged();
        let begun = clock::now();
        let mut now = Seen::new();
        for shard in shared.homes.shards() {
            if let Err(problem) = Box::pin(round(&shared, &shard, (&seen, &mut now))).await {
                tracing::warn!(%shard, "shares of content were not looked after: {}", problem.detail);
            }
        }
        (seen, took) = (now, clock::now().since(begun));
    }
}

/// All shares of a shard.
pub(super) async fn round(
    shared: &Arc<Shared>,
    shard: &ShardName,
    (seen, now): (&Seen, &mut Seen),
) -> Result<(), Problem> {
    let Some(leased) = shared.homes.leased(shard) else { return Ok(()) };
    let mut after = (String::new(), String::new());
    loop {
        let page = leased.0.content_tended((&after.0, &after.1), PAGE_MAX).await?;
        let is_last = (page.len() as u64) < PAGE_MAX;
        for name in page {
            after.clone_from(&name);
            let Ok(tenant) = TenantName::new(&name.0) else { continue };
            let desk = Desk::new(Arc::clone(shared), tenant, shard.clone(), leased.clone());
            match Box::pin(look_after(&desk, &name.1, seen.get(&name).copied())).await {
                Ok(Some(seq)) => drop(now.insert(name, seq)),
                Ok(None) => {}
                Err(problem) => {
                    tracing::debug!(tenant = %name.0, share = %name.1, "a share is looked after later: {}", problem.detail);
                }
            }
        }
        if is_last {
            return Ok(());
        }
    }
}

/// Looks after a share. Gives how far its source was before, where this node knows.
async fn look_after(desk: &Desk, id: &str, seen: Option<u64>) -> Result<Option<u64>, Problem> {
    let share = shares::find(desk, id).await?;
    if !share.target_tenant.is_empty() {
        // Its target looks after it.
        return Ok(None);
    }
    let seq = match share.source_tenant.as_str() {
        "" => seq(desk).await?,
        source => match borrow::here(&desk.shared, source) {
            Some(source) => seq(&source).await?,
            None => None,
        },
    };
    let is_new = seq.is_none() || seq != seen;
    if !share.source_tenant.is_empty() {
        Box::pin(borrow::tend(desk, id, share.eager && is_new)).await?;
    } else if is_new && sync::may_come(desk, &share).is_ok() {
        Box::pin(sync::bring_up(desk, &share)).await?;
    }
    Ok(seq)
}

/// The number of a tenant's last change.
async fn seq(desk: &Desk) -> Result<Option<u64>, Problem> {
    let mut content = desk.look().await?;
    let account = content.account().await?;
    content.end().await?;
    Ok(account.map(|account| account.seq))
}
