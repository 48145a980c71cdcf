//! Copies that are compared with their primaries on demand.

use async_trait::async_trait;
use portolan_admin::backend::{AuditOrder, Audits};
use portolan_admin::{Code, Problem, Progress};
use portolan_core::ids::{RegionName, ShardName, TenantName};
use portolan_foundation::task;
use portolan_replication::{Comparison, Gateways};
use portolan_sharding::Store;
use serde_json::{Map, Value, json};

use super::shards::Shards;

/// A comparison that can begin.
struct Work {
    copy: Store,
    primary: RegionName,
    repair: bool,
    shard: ShardName,
    tables: Vec<String>,
    tenant: Option<TenantName>,
    way: Gateways,
}

#[async_trait]
impl Audits for Shards {
    async fn audit(&self, order: AuditOrder) -> Result<Box<dyn FnOnce(Progress) + Send>, Problem> {
        let AuditOrder { repair, shard, table, tenant } = order;
        let none = || {
            let detail = format!(
                "this node does not keep shard `{shard}`, or has not opened it: `portolan shard list` shows who does"
            );
            Problem::not_found(detail)
        };
        let (copy, tables) = self.open(&shard).ok_or_else(none)?;
        let Some((primary, way)) = self.way_to_primary(&shard) else {
            let detail = format!(
                "this region writes shard `{shard}`: ask a node of a region that keeps a copy (`--node URL`)"
            );
            return Err(Problem::new(Code::Conflict, detail));
        };
        let named = |name: &str| table.as_ref().is_none_or(|table| table.as_str() == name);
        let tables: Vec<String> =
            tables.iter().map(|table| table.name.to_string()).filter(|name| named(name)).collect();
        if let (Some(table), true) = (&table, tables.is_empty()) {
            return Err(Problem::not_found(format!("table `{table}`, which no `[table.NAME]` declares")));
        }
        let work = Work { copy, primary, repair, shard, tables, tenant, way };
        Ok(Box::new(move |progress| drop(task::spawn("audit", work.run(progress)))))
    }
}

impl Work {
    async fn run(self, progress: Progress) {
        let compared =
            Comparison { copy: &self.copy, primary: &self.primary, shard: &self.shard, way: &self.way };
        let (mut found, mut faults, mut mended) = (Map::new(), 0, 0);
        for table in &self.tables {
            progress.stage(table);
            let audited = match compared.run(table, self.tenant.as_ref(), self.repair).await {
                Ok(audited) => audited,
                Err(error) => return progress.fail(Problem::new(Code::Unavailable, error.to_string())),
            };
            faults += audited.faults.len();
            mended += audited.mended;
            progress.note(format!(
                "{} rows, {} of them not as in `{}`{}",
                audited.rows,
                audited.faults.len(),
                self.primary,
                if audited.more { ", and more" } else { "" }
            ));
            found.insert(table.clone(), serde_json::to_value(&audited).unwrap_or_default());
        }
        let result = json!({
            "shard": self.shard, "primary": self.primary, "faults": faults, "mended": mended, "tables": Value::Object(found),
        });
        if faults > 0 && !self.repair {
            let detail = format!(
                "{faults} rows are not as in `{}`: put them right with `portolan sync repair {}`",
                self.primary, self.shard
            );
            return progress.refuse(Problem::new(Code::Conflict, detail), result);
        }
        progress.succeed(result);
    }
}
