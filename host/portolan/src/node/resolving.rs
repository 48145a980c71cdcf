//! Rows that were written apart, in tables whose conflict rule is a policy: it is asked where the shard is written, and what it says is a
//! new version that all regions get.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use portolan_changelog::{Closed, Dispute, Error, Lease};
use portolan_core::ids::ShardName;
use portolan_core::log::Epoch;
use portolan_core::tenant_table::{ConflictRule, Identifier};
use portolan_foundation::clock;
use portolan_foundation::shutdown::Shutdown;
use portolan_policy::{Resolver, Unanswered};
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
            let (Some((_, tables)), Some((_, lease))) = (shards.open(&shard), shards.leased(&shard)) else {
                continue;
            };
            for table in tables.iter() {
                let ConflictRule::Policy { policy, version } = &table.conflict else { continue };
                let Some(resolver) = merging.resolver(policy, *version) else { continue };
                let key = (shard.clone(), table.name.clone());
                match pass(&shards, (&shard, lease.epoch), &table.name, &resolver, &resolved).await {
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

/// Asks about what is open in one table, while this node writes its shard under this epoch.
async fn pass(
    shards: &Shards,
    (shard, epoch): (&ShardName, Epoch),
    table: &Identifier,
    resolver: &Arc<Resolver>,
    resolved: &Resolved,
) -> Result<(), Error> {
    let by = format!("{}@{}", resolver.policy(), resolver.version());
    // The tables are all members' and know no lease: who gave it up asks about nothing more.
    let leased = || shards.leased(shard).filter(|(_, lease)| lease.epoch == epoch);
    let (mut after, mut failed) = (String::new(), Ok(()));
    loop {
        let Some((store, _)) = leased() else { return failed };
        let (disputes, more) = store.disputes(table, &by, &after, AT_ONCE).await?;
        for dispute in disputes {
            let Some((store, lease)) = leased() else { return failed };
            match one(&store, &lease, &dispute, (resolver, &by), resolved).await {
                Ok(()) => {}
                // A tenant that is moved, or a row that somebody holds, keeps no other from its turn.
                Err(error @ (Error::Busy(_) | Error::Closed(Closed::Away | Closed::Held))) => {
                    failed = Err(error)
                }
                Err(error) => return Err(error),
            }
        }
        match more {
            Some(more) => after = more,
            None => return failed,
        }
    }
}

/// Asks about one row, and writes what comes of it.
async fn one(
    store: &Store,
    lease: &Lease,
    dispute: &Dispute,
    (resolver, by): (&Arc<Resolver>, &str),
    resolved: &Resolved,
) -> Result<(), Error> {
    let (asked, about) = (Arc::clone(resolver), dispute.clone());
    let merged = tokio::task::spawn_blocking(move || merge(&asked, &about)).await;
    let written = match merged {
        Ok(Ok(row)) => match store.resolve(dispute, &row, lease, clock::now).await {
            Ok(true) => Ok(()),
            // Somebody wrote it meanwhile: the next look sees what there is then.
            Ok(false) => return Ok(()),
            Err(Error::Rejected(rejection)) => Err(format!("the row is not taken: {rejection}")),
            Err(error) => return Err(error),
        },
        Ok(Err(NotMerged::Refused(why))) => Err(why),
        Ok(Err(NotMerged::Later(why))) => return Err(Error::Busy(why)),
        Err(_) => return Err(Error::Busy("the host failed while the policy was asked".to_owned())),
    };
    resolved.count(written.is_ok());
    let what = match written {
        Ok(()) => "merged".to_owned(),
        Err(mut why) => {
            why.truncate(why.floor_char_boundary(REASON_BYTES_MAX));
            format!("refused: {why}")
        }
    };
    store.note_resolution(&dispute.losers, by, &what).await
}

/// Why there is no row.
enum NotMerged {
    /// Nobody could be asked: it is tried again.
    Later(String),
    /// Asked again, it says the same.
    Refused(String),
}

/// The row with all that lost to it, one after the other. Blocks.
fn merge(resolver: &Resolver, dispute: &Dispute) -> Result<String, NotMerged> {
    let mut losers = dispute.losers.iter().filter_map(|loser| loser.row.as_deref());
    losers.try_fold(dispute.row.clone(), |row, loser| {
        // What both began from is not kept.
        let answer = resolver.resolve(&[], row.as_bytes(), loser.as_bytes());
        let merged = answer.map_err(|unanswered| match unanswered {
            Unanswered::Unavailable(why) => NotMerged::Later(why),
            other => NotMerged::Refused(other.to_string()),
        })?;
        let merged = merged.map_err(|refusal| NotMerged::Refused(refusal.to_string()))?;
        dispute.with(&row, &merged).map_err(NotMerged::Refused)
    })
}
