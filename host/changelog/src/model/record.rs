//! What a log holds: records, and batches of them on their way.

use portolan_core::ids::TenantName;
use portolan_core::log::{Identity, Placement, Position, Version};
use serde::{Deserialize, Serialize};

/// One record of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Where it lies.
    pub position: Position,
    /// When it was written, in microseconds of the database's clock.
    pub at_us: u64,
    /// Whose it is; nobody's in reference tables.
    pub tenant: Option<TenantName>,
    /// The tenant's placement when it was written.
    pub placement: Placement,
    /// The version of the tenants' schema that the row's columns are of.
    pub schema: u64,
    /// What happened.
    pub change: Change,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// The tenant has moved away: all that is of an earlier placement goes, without tombstones.
    Forget,
    /// A row was written or deleted.
    Row(RowChange),
}

/// A row that was written or deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowChange {
    /// Which row.
    pub id: RowId,
    /// The whole row as a JSON object in canonical form, without generated columns; none when it was deleted. Whole, so
    /// that the newest version alone says what the row is, in whatever order versions arrive.
    pub row: Option<String>,
    /// Its version.
    pub version: Version,
    /// The version that it replaced, of a row or of a tombstone.
    pub replaces: Option<Version>,
    /// What the table's conflict rule must know beside the row, as JSON: [`super::marks`] or [`super::history`]. None of tables
    /// whose rule needs nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marks: Option<String>,
}

/// Names one row of a shard.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RowId {
    /// Its table.
    pub table: String,
    /// The values of its primary key, as a JSON array in canonical form.
    pub key: String,
}

/// A piece of a log, from one position (which it does not hold) to another (which it does).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Of which log.
    pub identity: Identity,
    /// What the follower has before it.
    pub after: Position,
    /// What the follower has with it.
    pub through: Position,
    /// When it was read, in microseconds of the database's clock: how old its records are by the clock that wrote them.
    pub at_us: u64,
    /// Does the last transaction end here? One that is too large for a batch comes in several, and becomes visible with
    /// the last.
    pub ends: bool,
    /// The records, in order.
    pub records: Vec<Record>,
}

/// Why a batch is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a batch from {after} through {through} {reason}")]
pub struct BadBatch {
    after: Position,
    through: Position,
    reason: &'static str,
}

impl Batch {
    /// Holds it against its own form, since it may come from elsewhere.
    ///
    /// # Errors
    /// [`BadBatch`] says what is wrong.
    pub fn check(&self, records_max: usize) -> Result<(), BadBatch> {
        let bad = |reason| Err(BadBatch { after: self.after, through: self.through, reason });
        let mut last = self.after;
        for record in &self.records {
            if record.position <= last {
                return bad("has records out of order");
            }
            if matches!(record.change, Change::Forget) && record.tenant.is_none() {
                return bad("forgets nobody");
            }
            last = record.position;
        }
        if self.records.len() > records_max {
            bad("has too many records")
        } else if last != self.through {
            bad("does not end with its last record")
        } else if self.records.is_empty() && !self.ends {
            bad("is a part of a transaction without a record")
        } else {
            Ok(())
        }
    }
}
