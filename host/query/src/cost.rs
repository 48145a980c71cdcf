//! What a plan costs, before it is run: how many statements it sends, and how many rows shards will send back, as their own planners
//! foresee it. What is too dear is refused with the reason.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::physical_plan::ExecutionPlan;
use futures_util::future::join_all;

use crate::defaults::STATEMENTS_PER_SHARD_MAX;
use crate::error::Error;
use crate::scan::ShardScan;
use crate::world::World;

/// Refuses a plan that is too dear.
pub(crate) async fn check(plan: &Arc<dyn ExecutionPlan>, world: &World) -> Result<(), Error> {
    let mut scans = Vec::new();
    find(plan, &mut scans);
    fan_out(&scans, world)?;
    let mut asking = Vec::new();
    for scan in &scans {
        for (at, statement) in scan.statements() {
            asking.push(async move { world.source(at)?.foresee(scan.node(), &statement, world).await });
        }
    }
    let mut rows: u64 = 0;
    for foreseen in join_all(asking).await {
        rows = rows.saturating_add(foreseen?.unwrap_or(0));
    }
    if rows > world.limits.scan_rows {
        return Err(Error::Limit(format!(
            "the query would fetch about {rows} rows from its shards, more than its limit of {}: name a tenant, narrow it with \
             WHERE, or aggregate what shards can add up (`EXPLAIN` shows what is pushed)",
            world.limits.scan_rows
        )));
    }
    Ok(())
}

fn fan_out(scans: &[&ShardScan], world: &World) -> Result<(), Error> {
    let mut each: BTreeMap<usize, usize> = BTreeMap::new();
    for (at, _) in scans.iter().flat_map(|scan| scan.statements()) {
        *each.entry(at).or_default() += 1;
    }
    let all: usize = each.values().sum();
    let most = each.values().max().copied().unwrap_or(0);
    if all > world.limits.fan_out {
        return Err(Error::Limit(format!(
            "the query would send {all} statements to shards, more than its limit of {}: name a tenant, so that only its shard is \
             asked, or read fewer tables at once",
            world.limits.fan_out
        )));
    }
    if most > STATEMENTS_PER_SHARD_MAX {
        return Err(Error::Limit(format!(
            "the query would send {most} statements to one shard, more than the {STATEMENTS_PER_SHARD_MAX} that are allowed: read \
             fewer tables at once"
        )));
    }
    Ok(())
}

/// All scans of a plan, as often as they are run.
fn find<'a>(plan: &'a Arc<dyn ExecutionPlan>, scans: &mut Vec<&'a ShardScan>) {
    if let Some(scan) = plan.downcast_ref::<ShardScan>() {
        scans.push(scan);
    }
    for child in plan.children() {
        find(child, scans);
    }
}
