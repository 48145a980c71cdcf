//! Compares a tenant's rows at both shards, most of them while it is written.
//!
//! All rows are compared once before the hold, each in its engine's one text. Those that differ then, and those that are written after that
//! began, are in *doubt*, and are compared within the hold; that the target has no others is told by how many it has. So the
//! hold does not last longer for a tenant with more rows.

use std::collections::BTreeSet;

use portolan_changelog::{Change, Record, RowId};
use portolan_foundation::clock;

use super::{Error, Relocation};
use crate::defaults::{MOVE_CHUNK_ROWS, MOVE_DOUBTS_MAX};

/// Rows that must be compared within the hold.
#[derive(Debug, Default)]
pub(super) struct Doubts(BTreeSet<RowId>);

impl Doubts {
    /// Rows that records name.
    pub(super) fn add(&mut self, records: &[Record]) -> Result<(), Error> {
        self.0.extend(records.iter().filter_map(id));
        if self.0.len() <= MOVE_DOUBTS_MAX {
            return Ok(());
        }
        Err(Error::Aborted(format!(
            "more than {MOVE_DOUBTS_MAX} rows are to be compared while the tenant is held: move it when it writes less"
        )))
    }
}

impl Relocation<'_> {
    /// Compares all rows, up to where the log has been taken over. Returns their bytes, and those that differ.
    pub(super) async fn compare_all(&self) -> Result<(u64, Doubts), Error> {
        let (mut after, mut bytes, mut doubts) = (None, 0, Doubts::default());
        loop {
            let begun = clock::now();
            let page = self.from.store.tenant_rows(self.tenant, after.as_ref(), MOVE_CHUNK_ROWS).await?;
            let ids: Vec<RowId> = page.iter().filter_map(id).collect();
            let Some(last) = ids.last() else { return Ok((bytes, doubts)) };
            after = Some(last.clone());
            let there = self.to.store.rows_named(&ids).await?;
            let mut differ = Vec::new();
            for record in page {
                let Change::Row(change) = &record.change else { continue };
                bytes += change.row.as_ref().map_or(0, String::len) as u64;
                if there.get(&change.id) != change.row.as_ref() {
                    differ.push(record);
                }
            }
            doubts.add(&differ)?;
            self.pace(ids.len(), begun).await;
        }
    }

    /// Compares what is in doubt, once the tenant is held and all that it wrote is at the target. Returns how many rows it has.
    pub(super) async fn compare_rest(&self, doubts: &Doubts) -> Result<u64, Error> {
        let (from, to) = (&self.from.store, &self.to.store);
        let ids: Vec<RowId> = doubts.0.iter().cloned().collect();
        for chunk in ids.chunks(MOVE_CHUNK_ROWS) {
            let (here, there) = tokio::try_join!(from.rows_named(chunk), to.rows_named(chunk))?;
            if let Some(id) = chunk.iter().find(|id| here.get(id) != there.get(id)) {
                let RowId { table, key } = id;
                return Err(Error::Aborted(format!("row {key} of `{table}` is not the same at both shards")));
            }
        }
        let (here, there) = tokio::try_join!(from.count_rows(self.tenant), to.count_rows(self.tenant))?;
        if here != there {
            return Err(Error::Aborted(format!("the target has {there} rows, and the source {here}")));
        }
        Ok(here)
    }
}

pub(super) fn id(record: &Record) -> Option<RowId> {
    match &record.change {
        Change::Row(change) => Some(change.id.clone()),
        Change::Forget => None,
    }
}
