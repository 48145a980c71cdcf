//! Brings moves to their end whose mover has died, and forgets what sources kept for long enough.
//!
//! What wakes it: time. What it reads: the notes of moves in the databases that this node writes, and which nodes live. What it
//! writes: the ends of moves; a source's rows go. What fails is told, and tried again in the next round.

use std::collections::BTreeSet;
use std::sync::Arc;

use portolan_admin::Problem;
use portolan_control::Store;
use portolan_core::ids::{ShardName, TenantName};
use portolan_core::log::Epoch;
use portolan_foundation::{clock, task};
use portolan_sharding::relocate::{self, Noted, Relocation, Step};
use serde_json::json;

use super::defaults::ROUND;
use super::{Known, Moves, away, problem, resumed};

/// What goes by the rounds.
#[derive(Debug, Default)]
struct Rounds {
    /// What was told and has not been mended, so that it is told once.
    told: BTreeSet<String>,
}

/// Looks after the notes until shutdown.
pub(super) async fn run(moves: Moves) {
    let mut rounds = Rounds::default();
    loop {
        let mut found = BTreeSet::new();
        if let (Ok(store), Ok(known)) = (moves.store(), moves.known()) {
            for name in known.shards.keys() {
                if let Err(problem) = moves.attend(&store, &known, name).await {
                    found.insert(format!("moves of shard `{name}`: {}", problem.detail));
                }
            }
        }
        found.difference(&rounds.told).for_each(|line| tracing::warn!("{line}; tried again"));
        rounds.told = found;
        // Both are cancel-safe.
        tokio::select! {
            () = tokio::time::sleep(ROUND) => {}
            () = moves.0.shutdown.begun() => return,
        }
    }
}

impl Moves {
    /// Looks at the notes of one shard, if it is written here.
    async fn attend(&self, store: &Store, known: &Arc<Known>, name: &ShardName) -> Result<(), Problem> {
        let Some((own, epoch)) = self.0.shards.written(name) else { return Ok(()) };
        let running = self.0.log.running();
        let mut living = None;
        for noted in relocate::noted(&own, None).await.map_err(problem)? {
            if running.contains_key(&noted.moving.tenant) {
                continue;
            }
            if noted.step == Step::Kept {
                self.forget_in_time(known, name, epoch, &noted).await?;
                continue;
            }
            if noted.mover != self.0.name {
                if living.is_none() {
                    let nodes = store.look_at_nodes().await.map_err(away)?;
                    living = Some(nodes.into_iter().map(|node| node.name).collect::<BTreeSet<_>>());
                }
                // A mover that reports is at work. If it does not report and is at work all the same, it finds its note changed.
                if living.as_ref().is_some_and(|living| living.contains(&noted.mover)) {
                    continue;
                }
            }
            self.resume(store, known, noted);
        }
        for other in known.shards.keys().filter(|other| *other != name) {
            let Some((target, _)) = self.0.shards.written(other) else { continue };
            let left = relocate::abandoned(&own, &target).await.map_err(problem)?;
            let from_here = left.into_iter().filter(|noted| noted.moving.from.shard == *name);
            from_here.filter(|noted| !running.contains_key(&noted.moving.tenant)).for_each(|noted| {
                self.resume(store, known, noted);
            });
        }
        Ok(())
    }

    /// Brings a move to its end beside the others.
    fn resume(&self, store: &Store, known: &Arc<Known>, noted: Noted) {
        let moving = &noted.moving;
        let Ok(entry) = self.enter((&moving.tenant, &moving.from.shard, &moving.to.shard), true) else {
            return;
        };
        let (moves, store, known) = (self.clone(), store.clone(), Arc::clone(known));
        task::spawn("bring a move to its end", async move {
            let watch = moves.onlooker(entry, &known, None);
            watch.stage("settle");
            let tenant = noted.moving.tenant.clone();
            match Box::pin(moves.settle(store, &known, &noted, &watch)).await {
                Ok(Some((end, kind))) => {
                    moves.0.log.end(end, None);
                    let (from, to) = (&noted.moving.from.shard, &noted.moving.to.shard);
                    tracing::info!(%tenant, %from, %to, "a move that was left is at its end: {kind}");
                    let told = json!({ "tenant": tenant, "from": from, "to": to, "id": noted.moving.id, "resumed": true });
                    moves.0.events.tell(kind, Some(tenant), told);
                }
                Ok(None) => {}
                Err(problem) => {
                    tracing::warn!(%tenant, "a move that was left is not at its end yet: {}", problem.detail)
                }
            }
        });
    }

    async fn settle(
        &self,
        store: Store,
        known: &Known,
        noted: &Noted,
        watch: &super::Onlooker,
    ) -> Result<Option<(super::End, &'static str)>, Problem> {
        let moving = &noted.moving;
        let from = known.seat(&moving.from.shard, moving.from.epoch).await?;
        let to = known.seat(&moving.to.shard, moving.to.epoch).await?;
        let author = format!("node {}", self.0.name);
        // It is only asked to close the move, for which it matters to nobody who writes the shards.
        let directory = self.directory(store, &author, std::collections::BTreeMap::new());
        let relocation =
            Relocation { from: &from, switch: &directory, tenant: &moving.tenant, to: &to, watch };
        Ok(resumed(relocation.resume().await.map_err(problem)?))
    }

    /// Forgets the rows of a tenant that moved away long enough ago.
    async fn forget_in_time(
        &self,
        known: &Known,
        name: &ShardName,
        epoch: Epoch,
        noted: &Noted,
    ) -> Result<(), Problem> {
        let keep_ms = u64::try_from(known.moving.keep.as_millis()).unwrap_or(u64::MAX);
        let tenant: &TenantName = &noted.moving.tenant;
        if noted.sealed_ms.unwrap_or(0).saturating_add(keep_ms) > clock::unix_ms() {
            return Ok(());
        }
        let seat = known.seat(name, epoch).await?;
        relocate::forget(&seat.store, name, tenant).await.map_err(problem)?;
        tracing::info!(%tenant, shard = %name, "the rows that were kept after a move are forgotten");
        self.0.events.tell(
            "tenant-forgotten",
            Some(tenant.clone()),
            json!({ "tenant": tenant, "shard": name }),
        );
        Ok(())
    }
}
