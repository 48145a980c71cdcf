//! One state of a shard, read in pages: what a backup and an export are made of.
//!
//! All pages are of one transaction, so that they agree with each other, and with the position from which a log is to be followed
//! that goes on from them.

use portolan_core::ids::TenantName;
use portolan_core::log::{Epoch, Identity, Placement, Position};
use serde::{Deserialize, Serialize};

use crate::adopt;
use crate::database::{Dialect, Session, Value};
use crate::defaults::{BATCH_RECORDS_MAX, SNAPSHOT_IDLE};
use crate::error::Error;
use crate::ledger::{LOST, Lost, lost};
use crate::model::record::{Record, RowId};
use crate::moving::settled;
use crate::read::{copy, tenant_of};
use crate::store::{FENCE, Role, Store, fence, identity_now};

/// One state of a shard. Its connection is closed with it; while it is open, PostgreSQL keeps what is deleted meanwhile, and SQLite
/// the log beside its file.
#[derive(Debug)]
pub struct Snapshot {
    head: Head,
    session: Session,
    store: Store,
}

/// Which state it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// When, in microseconds of the database's clock.
    pub at_us: u64,
    /// Under which lease it was written last.
    pub epoch: Epoch,
    /// Of which log it is.
    pub identity: Identity,
    /// Whoever puts the rows somewhere else follows the log from here: some of what follows may be in them already.
    pub position: Position,
    /// Which version of the tenants' schema the rows are of.
    pub schema: u64,
    /// The newest record that was there just before.
    pub tip: Position,
}

/// A page of rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowPage {
    /// Where the next page begins; none after the last.
    pub next: Option<String>,
    /// The rows, by key.
    pub records: Vec<Record>,
}

impl Store {
    /// Takes hold of the state that the shard has now.
    ///
    /// # Errors
    /// [`Error::Busy`] while rows that were there before a declaration have no versions yet,
    /// [`Closed::Cut`](crate::Closed::Cut) when the log may have been cut.
    pub async fn snapshot(&self) -> Result<Snapshot, Error> {
        if self.dialect() == Dialect::Sqlite {
            self.end_transaction().await?;
        }
        // Asked before, over another connection: who looks at the log within a transaction keeps it from being trimmed until the end.
        let tip = self.tip().await?;
        let mut session = self.pool(Role::Applier).snapshot().await?;
        if session.dialect() == Dialect::Postgres {
            let idle = SNAPSHOT_IDLE.as_millis();
            session.execute(&format!("SET LOCAL idle_in_transaction_session_timeout = {idle}"), &[]).await?;
        }
        session.keep_alone();
        adopt::done(&mut session).await?;
        let position = settled(&mut session).await?;
        let identity = identity_now(&mut session).await?;
        let epoch = fence(&session.one(FENCE, &[]).await?)?.epoch;
        let row = session.one("SELECT schema, {now} FROM portolan_fence", &[]).await?;
        let (schema, at_us) = (row.number(0)?, row.number(1)?);
        let head = Head { at_us, epoch, identity, position, schema, tip };
        Ok(Snapshot { head, session, store: self.clone() })
    }

    /// Is there a record at just this position?
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn has_record(&self, at: Position) -> Result<bool, Error> {
        let sql = "SELECT 1 FROM portolan_log WHERE epoch = $1 AND tx = $2 AND seq = $3";
        let args = [at.epoch.0.into(), at.transaction.into(), at.sequence.into()];
        Ok(!self.acquire(Role::Applier).await?.query(sql, &args).await?.is_empty())
    }

    /// Does the shard have anything of tenants: a row, a version, a record?
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn is_empty(&self) -> Result<bool, Error> {
        let sql = "SELECT 1 WHERE EXISTS (SELECT 1 FROM portolan_row) OR EXISTS (SELECT 1 FROM portolan_log) \
            OR EXISTS (SELECT 1 FROM portolan_tenant)";
        Ok(self.acquire(Role::Applier).await?.query(sql, &[]).await?.is_empty())
    }

    /// How many changes wait, of one tenant or of all.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn count_parked(&self, tenant: Option<&TenantName>) -> Result<u64, Error> {
        let sql = "SELECT count(*) FROM portolan_parked WHERE $1 = '' OR tenant = $1";
        let args = [tenant.map_or("", TenantName::as_str).into()];
        self.acquire(Role::Applier).await?.one(sql, &args).await?.number(0)
    }

    /// Ends to follow a log: what is staged of it goes, too.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn unfollow(&self, source: &str) -> Result<(), Error> {
        let mut session = self.begin(Role::Applier).await?;
        session.run("DELETE FROM portolan_staged WHERE source = $1", &[source.into()]).await?;
        session.run("DELETE FROM portolan_progress WHERE source = $1", &[source.into()]).await?;
        session.commit().await
    }
}

impl Snapshot {
    /// Which state it is.
    #[must_use]
    pub const fn head(&self) -> &Head {
        &self.head
    }

    /// Rows of a declared table, of one tenant or of all, after a key (`""` for the first), up to so many. Tombstones are among them.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn rows(
        &mut self,
        table: &str,
        tenant: Option<&TenantName>,
        after: &str,
        max: usize,
    ) -> Result<RowPage, Error> {
        let max = max.clamp(1, BATCH_RECORDS_MAX) as u64;
        let mut args: Vec<Value> = vec![table.into(), after.into(), max.into()];
        let of_tenant = if tenant.is_some() { "AND r.tenant = $4" } else { "" };
        args.extend(tenant.map(|tenant| tenant.as_str().into()));
        let sql = format!(
            "SELECT r.table_name, r.key, r.tenant, r.placement, r.deleted, r.epoch, r.v, r.origin, \
             r.replaces_epoch, r.replaces_v, r.replaces_origin, f.schema, CAST(r.marks AS TEXT) \
             FROM portolan_row r, portolan_fence f WHERE r.table_name = $1 AND r.key > $2 {of_tenant} ORDER BY r.key LIMIT $3"
        );
        let states = self.session.query(&sql, &args).await?;
        let ids = states.iter().map(|row| Ok(RowId { table: row.text(0)?, key: row.text(1)? }));
        let ids = ids.collect::<Result<Vec<_>, Error>>()?;
        let next = ids.last().filter(|_| states.len() as u64 == max).map(|last| last.key.clone());
        let mut images = self.store.images(&mut self.session, &ids).await?;
        let mut records = Vec::new();
        for (row, id) in states.iter().zip(ids) {
            let deleted = row.number(4)? == 1;
            let image = images.remove(&id).filter(|_| !deleted);
            // Only a tombstone says that a row is gone.
            if deleted || image.is_some() {
                records.push(copy(row, id, image)?);
            }
        }
        Ok(RowPage { next, records })
    }

    /// Losers that are kept, of one tenant or of all, in a fixed order, after so many.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn losers(
        &mut self,
        tenant: Option<&TenantName>,
        skip: usize,
        max: usize,
    ) -> Result<Vec<Lost>, Error> {
        let sql = format!(
            "SELECT {LOST} FROM portolan_conflict c WHERE $1 = '' OR c.tenant = $1 \
             ORDER BY c.table_name, c.key, c.lost_epoch, c.lost_v, c.lost_origin, c.won_epoch, c.won_v, c.won_origin \
             LIMIT $2 OFFSET $3"
        );
        let rows = self.session.query(&sql, &page(tenant, skip, max)).await?;
        rows.iter().map(lost).collect()
    }

    /// Changes that wait, of one tenant or of all, in a fixed order, after so many.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn parked(
        &mut self,
        tenant: Option<&TenantName>,
        skip: usize,
        max: usize,
    ) -> Result<Vec<Record>, Error> {
        let sql = "SELECT record FROM portolan_parked WHERE $1 = '' OR tenant = $1 \
            ORDER BY table_name, key, epoch, v, origin LIMIT $2 OFFSET $3";
        let rows = self.session.query(sql, &page(tenant, skip, max)).await?;
        rows.iter().map(|row| crate::apply::parse(&row.text(0)?)).collect()
    }

    /// Placements that are above none, of one tenant or of all: who was forgotten here must stay so.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn placements(
        &mut self,
        tenant: Option<&TenantName>,
    ) -> Result<Vec<(TenantName, Placement, bool)>, Error> {
        let sql = "SELECT tenant, placement, away FROM portolan_tenant WHERE placement > 0 AND ($1 = '' OR tenant = $1) \
            ORDER BY tenant";
        let args = [tenant.map_or("", TenantName::as_str).into()];
        let mut all = Vec::new();
        for row in self.session.query(sql, &args).await? {
            let tenant = tenant_of(&row, 0)?.ok_or_else(|| Error::Damaged("a place of nobody".to_owned()))?;
            all.push((tenant, Placement(row.number(1)?), row.number(2)? == 1));
        }
        Ok(all)
    }
}

fn page(tenant: Option<&TenantName>, skip: usize, max: usize) -> [Value; 3] {
    let max = max.clamp(1, BATCH_RECORDS_MAX);
    [tenant.map_or("", TenantName::as_str).into(), (max as u64).into(), (skip as u64).into()]
}
