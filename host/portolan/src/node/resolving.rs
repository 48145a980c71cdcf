//! Rows that were written apart, in tables whose conflict rule is a policy: it is asked where the shard is written, and what it says is a
//! new version that all regions get.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use portolan_changelog::{Dispute, Error, Lease};
use portolan_core::ids::ShardName;
use portolan_core::tenant_table::{ConflictRule, Identifier};
use portolan_foundation::clock;
use portolan_foundation::shutdown::Shutdown;
use portolan_policy::Resolver;
use portolan_sharding::Store;

use super::shards::Shards;
use crate::merging::Merging;

/// From one look at the ledger to the next. The last writer's row stays meanwhile.
const EVERY: Duration = Duration::from_secs(1);
/// Rows that are asked about before others have their turn.
const AT_ONCE: usize = 64;
/// Bytes that are noted of a refusal.
const REASON_BYTES_MAX: usize = 512;

/// How often policies made one row of several, and how often they did not.
#[derive(Clone, Debug, Default)]
pub(super) struct Resolved(Arc<[AtomicU64; 2]>);

impl Resolved {
    /// As Prometheus reads it.
    pub(super) fn metrics(&self, text: &mut String) {
        let [merged, refused] = &*self.0;
        for (name, help, count) in [
            ("portolan_conflicts_merged_total", "Rows of which a policy made one of several.", merged),
            (
                "portolan_conflicts_unmerged_total",
                "Rows about which a policy gave no answer that can be written.",
                refused,
            ),
        ] {
            let count = count.load(Ordering::Relaxed);
            text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} counter\n{name} {count}\n"));
        }
    }

    fn count(&self, is_merged: bool) {
        let [merged, refused] = &*self.0;
        let count = if is_merged { merged } else { refused };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Asks until shutdown.
///
/// What wakes it: time. What it reads: the ledgers of shards that are written here. What it writes: rows of their tenants, and the ledgers.
/// What fails is told once, and tried again.
pub(super) async fn run(shards: Shards, merging: Merging, resolved: Resolved, shutdown: Shutdown) {
    let mut failed: BTreeMap<(ShardName, Identifier), String> = BTreeMap::new();
    loop {
        tokio::select! {
            // Both are cancel-safe.
            () = tokio::time::sleep(EVERY) => {}
            () = shutdown.begun() => return,
        }
        for shard in shards.names() {
            let (Some((_, tables)), Some((store, lease))) = (shards.open(&shard), shards.leased(&shard))
            else {
                continue;
            };
            for table in tables.iter() {
                let ConflictRule::Policy { policy, version } = &table.conflict else { continue };
                let Some(resolver) = merging.resolver(policy, *version) else { continue };
                let key = (shard.clone(), table.name.clone());
                match pass(&store, &lease, &table.name, &resolver, &resolved).await {
                    Ok(()) => _ = failed.remove(&key),
                    Err(error) => {
                        let why = error.to_string();
                        if failed.get(&key) != Some(&why) {
                            tracing::warn!(%shard, table = %table.name, %policy, "rows are not merged: {why}; it is tried again");
                            failed.insert(key, why);
                        }
                    }
                }
            }
        }
    }
}

/// Asks about what is open in one table.
async fn pass(
    store: &Store,
    lease: &Lease,
    table: &Identifier,
    resolver: &Arc<Resolver>,
    resolved: &Resolved,
) -> Result<(), Error> {
    let by = format!("{}@{}", resolver.policy(), resolver.version());
    for dispute in store.disputes(table, &by, AT_ONCE).await? {
        let (asked, about) = (Arc::clone(resolver), dispute.clone());
        let merged = tokio::task::spawn_blocking(move || merge(&asked, &about)).await;
        let merged = merged.unwrap_or_else(|_| Err("the host failed while the policy was asked".to_owned()));
        let written = match merged {
            Ok(row) => match store.resolve(&dispute, &row, lease, clock::now).await {
                Ok(true) => Ok(()),
                // Somebody wrote it meanwhile: the next look sees what there is then.
                Ok(false) => continue,
                Err(Error::Rejected(rejection)) => Err(format!("the row is not taken: {rejection}")),
                Err(error) => return Err(error),
            },
            Err(why) => Err(why),
        };
        resolved.count(written.is_ok());
        let what = match written {
            Ok(()) => "merged".to_owned(),
            Err(mut why) => {
                why.truncate(why.floor_char_boundary(REASON_BYTES_MAX));
                format!("refused: {why}")
            }
        };
        store.note_resolution(&dispute.losers, &by, &what).await?;
    }
    Ok(())
}

/// The row with all that lost to it, one after the other; or why there is none. Blocks.
fn merge(resolver: &Resolver, dispute: &Dispute) -> Result<String, String> {
    let mut losers = dispute.losers.iter().filter_map(|loser| loser.row.as_deref());
    losers.try_fold(dispute.row.clone(), |row, loser| {
        // What both began from is not kept.
        let answer = resolver.resolve(&[], row.as_bytes(), loser.as_bytes());
        let merged = answer.map_err(|unanswered| unanswered.to_string())?;
        dispute.with(&row, &merged.map_err(|refusal| refusal.to_string())?)
    })
}
