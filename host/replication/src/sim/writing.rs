//! Writing a database in memory: what triggers do of the fence, of versions and of marks, and transactions that commit late or never.

use std::collections::{BTreeMap, BTreeSet};

use portolan_changelog::model::gate::RowState;
use portolan_changelog::model::marks::Columns;
use portolan_changelog::model::writer::{self, Write};
use portolan_changelog::{Change, Closed, Record, RowChange, RowId};
use portolan_core::ids::TenantName;
use portolan_core::log::{Epoch, Placement, Position, Version};
use portolan_core::tenant_table::{ColumnRule, ConflictRule, Identifier, Rest};

use super::database::{Database, Row, change, named};

/// The table that the primary writes.
pub(super) const NOTES: &str = "notes";
/// A table that all regions write, in which the higher version wins.
pub(super) const DRAFTS: &str = "drafts";
/// A table that all regions write, whose columns are merged.
pub(super) const STOCK: &str = "stock";

/// The rule of [`STOCK`].
pub(super) fn merged() -> ConflictRule {
    let rules = [("count", ColumnRule::Counter), ("tags", ColumnRule::SetUnion)];
    let rules: BTreeMap<Identifier, ColumnRule> =
        rules.map(|(name, rule)| (Identifier::new(name).unwrap(), rule)).into();
    ConflictRule::Columns { rules, rest: Rest::Together }
}

/// A transaction that has not ended.
#[derive(Clone, Debug)]
pub(super) struct Open {
    epoch: Epoch,
    /// It writes tables of all members, and not the primary's.
    member: bool,
    pub(super) records: Vec<Record>,
}

/// A row as a transaction sees it.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) marks: Option<String>,
    pub(super) row: Option<String>,
    pub(super) version: Version,
}

impl Database {
    /// The lowest number that a transaction may still have whose records are not there yet.
    pub(super) fn lowest(&self) -> u64 {
        self.open.first_key_value().map_or(self.next, |(open, _)| *open)
    }

    /// Begins a transaction of the primary, if the fence lets it.
    pub(super) fn begin(&mut self, now_us: u64) -> Result<u64, Closed> {
        if self.cut.is_some() {
            return Err(Closed::Cut);
        }
        self.fence.check(self.fence.epoch, now_us)?;
        Ok(self.begin_any(false))
    }

    /// Begins a transaction of a member, if this region is one.
    pub(super) fn begin_as_member(&mut self) -> Result<u64, Closed> {
        if self.cut.is_some() {
            return Err(Closed::Cut);
        }
        self.fence.check_member()?;
        Ok(self.begin_any(true))
    }

    fn begin_any(&mut self, member: bool) -> u64 {
        let number = self.next;
        self.next += 1;
        self.open.insert(number, Open { epoch: self.fence.epoch, member, records: Vec::new() });
        number
    }

    /// A row, or its tombstone, as a transaction sees it.
    pub(super) fn see(&self, number: u64, id: &RowId) -> Option<Seen> {
        let earlier = self.open.get(&number)?.records.iter().rev().find(|record| named(record) == Some(id));
        if let Some(change) = earlier.and_then(change) {
            let (marks, row, version) = (change.marks.clone(), change.row.clone(), change.version.clone());
            return Some(Seen { marks, row, version });
        }
        let row = self.rows.get(id)?;
        let (marks, version) = (row.state.marks.clone(), row.state.version.clone());
        Some(Seen { marks, row: row.image.clone(), version })
    }

    /// Writes a row, or deletes it, unless another transaction has it. Gives what it wrote.
    pub(super) fn write(
        &mut self,
        number: u64,
        id: &RowId,
        (tenant, row): (&TenantName, Option<String>),
        now_us: u64,
    ) -> Option<Record> {
        let held = |open: &Open| open.records.iter().any(|record| named(record) == Some(id));
        if self.open.iter().any(|(other, open)| *other != number && held(open)) || self.stale.contains_key(id)
        {
            return None;
        }
        let before = self.see(number, id);
        let open = self.open.get_mut(&number)?;
        if row.is_none() && before.as_ref().is_none_or(|before| before.row.is_none()) {
            return None;
        }
        self.sequence += 1;
        let under = if open.member { Epoch(0) } else { open.epoch };
        let replaces = before.as_ref().map(|before| before.version.clone());
        let version = Version::after(replaces.as_ref(), under, now_us, self.own.clone());
        let marks = (id.table == STOCK).then(|| marks(before.as_ref(), row.as_deref(), &version)).flatten();
        let record = Record {
            position: Position { epoch: open.epoch, transaction: number, sequence: self.sequence },
            at_us: now_us,
            tenant: Some(tenant.clone()),
            placement: Placement(0),
            schema: 1,
            change: Change::Row(RowChange { id: id.clone(), row, version, replaces, marks }),
        };
        open.records.push(record.clone());
        Some(record)
    }

    /// Commits, if the fence still lets it. Gives what is written.
    pub(super) fn commit(&mut self, number: u64, now_us: u64) -> Option<Vec<Record>> {
        let open = self.open.remove(&number)?;
        let may = if open.member { self.fence.check_member() } else { self.fence.check(open.epoch, now_us) };
        if self.cut.is_some() || may.is_err() {
            return None;
        }
        for record in &open.records {
            let Some(change) = change(record) else { continue };
            let state = RowState {
                tenant: record.tenant.clone(),
                placement: record.placement,
                version: change.version.clone(),
                replaces: change.replaces.clone(),
                deleted: change.row.is_none(),
                marks: change.marks.clone(),
            };
            let row = Row { image: change.row.clone(), round: self.round, state };
            self.rows.insert(change.id.clone(), row);
            self.log.insert(record.position, record.clone());
        }
        Some(open.records)
    }

    /// Nobody's transaction goes on: a gateway has gone, or a lease.
    pub(super) fn end_writers(&mut self) {
        self.open.clear();
    }

    /// Does an open transaction write one of these rows?
    pub(super) fn is_written(&self, records: &[Record]) -> bool {
        let written = self.open.values().flat_map(|open| &open.records).filter_map(named);
        let names: BTreeSet<&RowId> = records.iter().filter_map(named).collect();
        written.into_iter().any(|id| names.contains(id))
    }

    /// This region is a member from now on, if it is none and all rows are here.
    pub(super) fn join(&mut self, now_us: u64) {
        if self.fence.member == 0 && self.copy.is_none() {
            self.fence.member = self.incarnation(now_us);
        }
    }
}

/// What is known beside a row of [`STOCK`] once it is written.
fn marks(before: Option<&Seen>, row: Option<&str>, version: &Version) -> Option<String> {
    let columns = |row: &str| serde_json::from_str::<Columns>(row).unwrap();
    let (image, was) = (row.map(columns), before.and_then(|before| before.row.as_deref()).map(columns));
    let write = Write {
        home: None,
        image: image.as_ref(),
        old: before.and_then(|before| before.marks.as_deref()),
        replaces: before.map(|before| &before.version),
        version,
        was: was.as_ref(),
    };
    writer::marks(&merged(), write).unwrap()
}
