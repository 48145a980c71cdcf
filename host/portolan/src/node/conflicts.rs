//! What lost in this region's shards and is kept: read from their ledgers, and written back on demand.

use async_trait::async_trait;
use portolan_admin::backend::{Conflicts, WantedConflicts};
use portolan_admin::{Code, Problem};
use portolan_changelog::{Cursor, Error, Lost};
use portolan_core::ids::ShardName;
use portolan_core::tenant_table::Identifier;
use portolan_foundation::clock;
use portolan_sharding::Store;
use serde_json::{Value, json};

use super::shards::Shards;

impl Shards {
    /// A shard's database, as this region keeps it.
    fn kept(&self, shard: &ShardName) -> Result<Store, Problem> {
        let open = self.open(shard).map(|(store, _)| store);
        open.ok_or_else(|| Problem::not_found(format!("this node does not keep shard `{shard}`, or has not opened it: `portolan shard list` shows who does")))
    }
}

#[async_trait]
impl Conflicts for Shards {
    async fn conflicts(&self, wanted: WantedConflicts) -> Result<Vec<Value>, Problem> {
        let after = wanted.after.as_deref().map(serde_json::from_str::<Cursor>).transpose();
        let after = after.map_err(|_| Problem::invalid("this cursor is of another list"))?;
        let table = wanted.table.as_deref().map(Identifier::new).transpose();
        let table = table.map_err(|error| Problem::invalid(error.to_string()))?;
        let store = self.kept(&wanted.shard)?;
        let asked = portolan_changelog::Conflicts {
            after,
            max: wanted.max,
            since_us: wanted.since_us,
            table,
            tenant: wanted.tenant,
        };
        let found = store.conflicts(&asked).await.map_err(|error| problem(&error))?;
        Ok(found.iter().map(show).collect())
    }

    async fn conflict(&self, shard: &ShardName, id: &str) -> Result<Option<Value>, Problem> {
        let found = self.kept(shard)?.conflict(id).await.map_err(|error| problem(&error))?;
        Ok(found.as_ref().map(show))
    }

    async fn restore(&self, shard: &ShardName, id: &str) -> Result<Value, Problem> {
        let Some((store, lease)) = self.leased(shard) else {
            let detail = format!(
                "this node does not write shard `{shard}`: ask one of the region that does (`portolan shard list`)"
            );
            return Err(Problem::new(Code::Unavailable, detail));
        };
        let position = store.restore(id, &lease, clock::now).await.map_err(|error| problem(&error))?;
        Ok(json!({ "conflict": id, "position": position.map(|position| position.to_string()) }))
    }
}

/// An entry as people and programs read it.
fn show(lost: &Lost) -> Value {
    let image = |row: &Option<String>| {
        row.as_deref().map(|row| serde_json::from_str::<Value>(row).unwrap_or_else(|_| row.into()))
    };
    let key = serde_json::from_str::<Value>(&lost.id.key).unwrap_or_else(|_| lost.id.key.as_str().into());
    let version = |version: &portolan_core::log::Version| json!({ "epoch": version.epoch, "v": version.v, "origin": version.origin });
    json!({
        "conflict": lost.conflict, "at_us": lost.at_us, "kind": lost.kind, "rule": lost.rule, "table": lost.id.table,
        "key": key, "tenant": lost.tenant, "lost": image(&lost.row), "won": image(&lost.winner_row),
        "resolver": lost.resolver, "resolution": lost.resolution, "transaction": lost.transaction, "lost_version": version(&lost.version), "won_version": version(&lost.winner),
        "cursor": serde_json::to_string(&lost.cursor()).unwrap_or_default(),
    })
}

fn problem(error: &Error) -> Problem {
    match error {
        Error::Restore { .. } => Problem::not_found(error.to_string()),
        Error::Closed(_) | Error::Rejected(_) => Problem::new(Code::Conflict, error.to_string()),
        _ => Problem::new(Code::Unavailable, error.to_string()),
    }
}
