//! Compares a tenant's rows at both shards, most of them while it is written.
//!
//! All rows are compared once before the hold, each in its engine's one text. Those that differ then, those that the target has and the source
//! has not, and those that are written after that began, are in *doubt*. What is in doubt is compared again and again while the tenant is
//! written, until it is little or does not get less, and the rest within the hold. So the hold does not last longer for a tenant with more
//! rows, nor for one whose move takes longer.

use std::collections::BTreeSet;

use portolan_changelog::{Change, Record, RowId};
use portolan_core::log::Position;
use portolan_foundation::clock;

use super::run::{Course, Done};
use super::{Error, Relocation};
use crate::defaults::{
    MOVE_CHUNK_ROWS, MOVE_COMPARED_PAGES, MOVE_DOUBTS_FEW, MOVE_DOUBTS_MAX, MOVE_OTHERS_MAX,
};

/// Rows that are to be compared again.
#[derive(Debug, Default)]
pub(super) struct Doubts(BTreeSet<RowId>);

impl Doubts {
    /// Rows that records name.
    pub(super) fn add(&mut self, records: &[Record]) {
        self.0.extend(records.iter().filter_map(id));
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Relocation<'_> {
    /// Compares all rows. What is written meanwhile is taken over, and is in doubt. Returns how far the log has been taken over.
    pub(super) async fn compare_all(
        &self,
        course: &Course,
        mut base: Position,
        done: &mut Done,
    ) -> Result<Position, Error> {
        done.doubts = Some(Doubts::default());
        let mut after = None;
        for number in 1_usize.. {
            after = self.compare_page(after.as_ref(), done).await?;
            if after.is_none() {
                break;
            }
            // A target that is far behind differs in all that was written.
            if number.is_multiple_of(MOVE_COMPARED_PAGES) {
                base = self.catch_up(course, base, done).await?;
            }
        }
        Ok(base)
    }

    /// Compares the rows after one. Gives the last of them, if there are any.
    pub(super) async fn compare_page(
        &self,
        after: Option<&RowId>,
        done: &mut Done,
    ) -> Result<Option<RowId>, Error> {
        let begun = clock::now();
        let page = self.from.store.tenant_rows(self.tenant, after, MOVE_CHUNK_ROWS).await?;
        let ids: Vec<RowId> = page.iter().filter_map(id).collect();
        let (there, others) = tokio::try_join!(
            self.to.store.rows_named(&ids),
            self.to.store.tenant_ids(self.tenant, after, ids.last(), MOVE_OTHERS_MAX),
        )?;
        // What the target alone has. A source row that is newer than the page is in the log as well.
        let known: BTreeSet<&RowId> = ids.iter().collect();
        let others: Vec<RowId> = others.into_iter().filter(|id| !known.contains(id)).collect();
        let mut differ = Vec::new();
        for record in page {
            let Change::Row(change) = &record.change else { continue };
            done.bytes += change.row.as_ref().map_or(0, String::len) as u64;
            if there.get(&change.id) != change.row.as_ref() {
                differ.push(record);
            }
        }
        done.rows += ids.len() as u64;
        done.doubts.iter_mut().for_each(|doubts| doubts.0.extend(others.iter().cloned()));
        self.doubt(done, &differ).await?;
        self.pace(ids.len(), begun).await;
        Ok(ids.into_iter().next_back())
    }

    /// These rows are in doubt from now on, once there is something to doubt. When they become many, those that are alike by now are not.
    pub(super) async fn doubt(&self, done: &mut Done, records: &[Record]) -> Result<(), Error> {
        let Some(doubts) = &mut done.doubts else { return Ok(()) };
        doubts.add(records);
        if doubts.len() <= MOVE_DOUBTS_MAX {
            return Ok(());
        }
        self.thin(doubts).await?;
        if doubts.len() <= MOVE_DOUBTS_MAX / 2 {
            return Ok(());
        }
        Err(Error::Aborted(format!(
            "more than {} rows differ at once, {} among them: the tenant writes faster than it is followed, or the target changes what it is \
             given; look at that row at both, or move the tenant when it writes less",
            MOVE_DOUBTS_MAX / 2,
            doubts.0.first().map_or_else(String::new, |RowId { table, key }| format!("{key} of `{table}`"))
        )))
    }

    /// Compares what is in doubt until it is little, or does not get less. Returns how far the log has been taken over.
    pub(super) async fn narrow(
        &self,
        course: &Course,
        mut base: Position,
        done: &mut Done,
    ) -> Result<Position, Error> {
        let mut before = usize::MAX;
        loop {
            base = self.catch_up(course, base, done).await?;
            let Some(doubts) = done.doubts.as_mut().filter(|doubts| doubts.len() > MOVE_DOUBTS_FEW) else {
                return Ok(base);
            };
            if doubts.len() >= before {
                return Ok(base);
            }
            before = doubts.len();
            self.thin(doubts).await?;
        }
    }

    /// Takes away what is alike at both shards now: whoever writes it once more has it in doubt again.
    pub(super) async fn thin(&self, doubts: &mut Doubts) -> Result<(), Error> {
        let ids: Vec<RowId> = std::mem::take(&mut doubts.0).into_iter().collect();
        for chunk in ids.chunks(MOVE_CHUNK_ROWS) {
            let begun = clock::now();
            doubts.0.extend(self.unlike(chunk).await?);
            self.pace(chunk.len(), begun).await;
        }
        Ok(())
    }

    /// Which of these rows are not the same at both shards.
    async fn unlike(&self, ids: &[RowId]) -> Result<Vec<RowId>, Error> {
        let (here, there) = tokio::try_join!(self.from.store.rows_named(ids), self.to.store.rows_named(ids))?;
        Ok(ids.iter().filter(|id| here.get(id) != there.get(id)).cloned().collect())
    }

    /// Compares what is in doubt, once the tenant is held and all that it wrote is at the target.
    pub(super) async fn compare_rest(&self, doubts: &Doubts) -> Result<(), Error> {
        let ids: Vec<RowId> = doubts.0.iter().cloned().collect();
        for chunk in ids.chunks(MOVE_CHUNK_ROWS) {
            if let Some(RowId { table, key }) = self.unlike(chunk).await?.first() {
                return Err(Error::Aborted(format!("row {key} of `{table}` is not the same at both shards")));
            }
        }
        Ok(())
    }
}

pub(super) fn id(record: &Record) -> Option<RowId> {
    match &record.change {
        Change::Row(change) => Some(change.id.clone()),
        Change::Forget => None,
    }
}
