//! Comparing a shard with its replica while both are used, and mending what is not the same.
//!
//! Both sides tell digests of a table in pages ([`Store::digests`]), the rows of buckets that differ ([`Store::bucket_rows`]), and
//! [`portolan_core::audit`] names what is not the same. A replica that is behind differs, too: what is still so when it has applied what the
//! other side had written is a fault. It is mended at the side that is wrong, with rows of the other ([`Store::records_named`],
//! [`Store::repair`]). Rows that have no version at all, because somebody wrote past the triggers, are not seen by this.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

use portolan_core::audit::{Digests, Form, RowDigest, bucket_of};
use portolan_core::ids::TenantName;
use portolan_core::log::Placement;

use crate::adopt;
use crate::apply::{Counts, ground, leave_applying, save_states, write};
use crate::database::{Dialect, Row, Value};
use crate::defaults::{BATCH_RECORDS_MAX, CHUNK_RECORDS};
use crate::error::Error;
use crate::model::gate::{RowState, Write};
use crate::model::record::{Change, Record, RowChange, RowId};
use crate::read::{copy, version};
use crate::store::{Role, Store};
use crate::sweep::{alone, swept};

/// Which rows are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope<'a> {
    /// Of which declared table.
    pub table: &'a str,
    /// Of one tenant, or of all.
    pub tenant: Option<&'a TenantName>,
}

/// Digests of some rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DigestPage {
    /// To be joined with those of the other pages.
    pub digests: Digests,
    /// Where the next page begins; none after the last.
    pub next: Option<String>,
}

/// Rows of some buckets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketPage {
    /// Where the next page begins; none after the last.
    pub next: Option<String>,
    /// By key, tombstones among them. There may be none on a page that is not the last.
    pub rows: Vec<RowDigest>,
}

/// Leave to mend rows with what is read of the other side from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repair {
    swept: u64,
}

impl Store {
    /// How this database writes rows: only replicas of the same form are compared.
    #[must_use]
    pub fn form(&self) -> Form {
        match self.dialect() {
            Dialect::Postgres => Form::Postgres,
            Dialect::Sqlite => Form::Sqlite,
        }
    }

    /// Digests of the next rows after a key (`""` for the first), by buckets: up to `max` of them are looked at, in one state.
    ///
    /// # Errors
    /// [`Error::Busy`] while rows that were there before a declaration have no versions yet, [`Error::Table`] for a table that is not
    /// declared.
    pub async fn digests(
        &self,
        scope: &Scope<'_>,
        buckets: NonZeroU32,
        after: &str,
        max: usize,
    ) -> Result<DigestPage, Error> {
        let (rows, next) = self.row_digests(scope, after, max).await?;
        let mut digests = Digests::new(self.form(), buckets);
        rows.iter().for_each(|row| digests.add(row));
        Ok(DigestPage { digests, next })
    }

    /// The rows of some of so many buckets, among the next after a key (`""` for the first): up to `max` are looked at, in one state.
    ///
    /// # Errors
    /// As [`Self::digests`].
    pub async fn bucket_rows(
        &self,
        scope: &Scope<'_>,
        (wanted, buckets): (&BTreeSet<u32>, NonZeroU32),
        after: &str,
        max: usize,
    ) -> Result<BucketPage, Error> {
        let (mut rows, next) = self.row_digests(scope, after, max).await?;
        rows.retain(|row| wanted.contains(&bucket_of(&row.key, buckets)));
        Ok(BucketPage { next, rows })
    }

    async fn row_digests(
        &self,
        scope: &Scope<'_>,
        after: &str,
        max: usize,
    ) -> Result<(Vec<RowDigest>, Option<String>), Error> {
        if !self.declared().iter().any(|table| table.table.name.as_str() == scope.table) {
            let (table, reason) = (scope.table.to_owned(), "is not declared here".to_owned());
            return Err(Error::Table { table, reason });
        }
        let max = max.clamp(1, BATCH_RECORDS_MAX) as u64;
        let mut args: Vec<Value> = vec![scope.table.into(), after.into(), max.into()];
        args.extend(scope.tenant.map(|tenant| tenant.as_str().into()));
        let of_tenant = if scope.tenant.is_some() { "AND r.tenant = $4" } else { "" };
        let sql = format!(
            "SELECT r.key, r.placement, r.deleted, r.epoch, r.v, r.origin FROM portolan_row r \
             WHERE r.table_name = $1 AND r.key > $2 {of_tenant} ORDER BY r.key LIMIT $3"
        );
        let mut session = self.pool(Role::Applier).snapshot().await?;
        adopt::done(&mut session).await?;
        let states = session.query(&sql, &args).await?;
        let id = |row: &Row| Ok(RowId { table: scope.table.to_owned(), key: row.text(0)? });
        let ids = states.iter().map(id).collect::<Result<Vec<_>, Error>>()?;
        let images = self.images(&mut session, &ids).await?;
        session.rollback().await?;
        let next = ids.last().filter(|_| states.len() as u64 == max).map(|last| last.key.clone());
        let digest = |(row, id): (&Row, RowId)| {
            let deleted = row.number(2)? == 1;
            let none = || Error::Damaged("a row without a version".to_owned());
            let version = version(row, 3)?.ok_or_else(none)?;
            // A row that is there beside its tombstone is a fault as one that is not there beside its version.
            let image = images.get(&id).map(String::as_str);
            Ok(RowDigest::new(id.key, Placement(row.number(1)?), version, deleted && image.is_none(), image))
        };
        let rows = states.iter().zip(ids).map(digest).collect::<Result<_, Error>>()?;
        Ok((rows, next))
    }

    /// Rows and tombstones by their names, as [`Self::repair`] takes them at the other side. Those of which nothing is known are left
    /// out.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn records_named(&self, ids: &[RowId]) -> Result<Vec<Record>, Error> {
        let mut session = self.pool(Role::Applier).snapshot().await?;
        let mut records = Vec::new();
        for ids in ids.chunks(CHUNK_RECORDS) {
            let named: Vec<_> =
                ids.iter().map(|id| serde_json::json!({ "t": id.table, "k": id.key })).collect();
            let sql = "SELECT r.table_name, r.key, r.tenant, r.placement, r.deleted, r.epoch, r.v, r.origin, \
                r.replaces_epoch, r.replaces_v, r.replaces_origin, f.schema, CAST(r.marks AS TEXT) FROM {each} \
                JOIN portolan_row r ON r.table_name = each.value ->> 't' AND r.key = each.value ->> 'k' \
                CROSS JOIN portolan_fence f";
            let states = session.query(sql, &[serde_json::Value::from(named).to_string().into()]).await?;
            let mut images = self.images(&mut session, ids).await?;
            for row in &states {
                let id = RowId { table: row.text(0)?, key: row.text(1)? };
                let (deleted, image) = (row.number(4)? == 1, images.remove(&id));
                // What does not fit its version is no help to anybody.
                if deleted == image.is_none() {
                    records.push(copy(row, id, image)?);
                }
            }
        }
        session.rollback().await?;
        Ok(records)
    }

    /// Begins to mend: what is read of the other side *after* this may be given to [`Self::repair`].
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn begin_repair(&self) -> Result<Repair, Error> {
        Ok(Repair { swept: swept(&mut *self.acquire(Role::Applier).await?).await? })
    }

    /// Takes the other side's rows where they are above what is here, and puts a row right of which the same version is another row
    /// here. A lower version never wins, so that what has been written meanwhile stays. This log does not tell it.
    ///
    /// # Errors
    /// [`Error::Busy`] when tombstones have been swept since the repair began, which might have barred one of these rows: begin again.
    /// [`Error::Damaged`] when the database does not take what the other has. Otherwise as [`Store::apply`].
    pub async fn repair(&self, repair: &Repair, records: &[Record]) -> Result<Counts, Error> {
        let mut session = self.begin(Role::Applier).await?;
        alone(&mut session).await?;
        if swept(&mut session).await? != repair.swept {
            session.rollback().await?;
            let why = "tombstones have been swept since the rows were read: begin the repair again";
            return Err(Error::Busy(why.to_owned()));
        }
        self.enter_applying(&mut session).await?;
        let mut counts = Counts::default();
        for chunk in records.chunks(CHUNK_RECORDS) {
            self.absorb(&mut session, chunk, &mut counts, false).await?;
            let refs: Vec<&Record> = chunk.iter().collect();
            let ground = ground(&mut session, &refs).await?;
            let same = |record: &&Record| {
                let Change::Row(change) = &record.change else { return false };
                let there = ground.rows.get(&change.id);
                there.is_some_and(|there| {
                    there.version == change.version && there.placement == record.placement
                })
            };
            let refs: Vec<&Record> = refs.into_iter().filter(same).collect();
            let ids: Vec<RowId> =
                refs.iter().filter_map(|record| row_change(record)).map(|change| change.id.clone()).collect();
            let images = self.images(&mut session, &ids).await?;
            let mut writes = BTreeMap::new();
            for record in refs {
                let Some(change) =
                    row_change(record).filter(|change| images.get(&change.id) != change.row.as_ref())
                else {
                    continue;
                };
                writes.insert(change.id.clone(), whole(record, change));
            }
            if let Some(why) = write(&mut session, &self.declared(), &writes).await? {
                session.rollback().await?;
                return Err(Error::Damaged(format!("a row cannot be put right: {why}")));
            }
            save_states(&mut session, &writes).await?;
            counts.written += writes.len() as u64;
        }
        leave_applying(&mut session).await?;
        session.commit().await?;
        Ok(counts)
    }
}

fn row_change(record: &Record) -> Option<&RowChange> {
    match &record.change {
        Change::Row(change) => Some(change),
        Change::Forget => None,
    }
}

/// A row as it is on the other side.
pub(crate) fn whole(record: &Record, change: &RowChange) -> Write {
    let state = RowState {
        tenant: record.tenant.clone(),
        placement: record.placement,
        version: change.version.clone(),
        replaces: change.replaces.clone(),
        deleted: change.row.is_none(),
        marks: change.marks.clone(),
    };
    Write { record: record.clone(), row: change.row.clone(), state }
}
