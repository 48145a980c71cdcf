//! A tenant is taken out of a shard for good: its rows, all that is kept beside them, and what its log tells of it.
//!
//! Each step is short and may be repeated; one that was cut short goes on where it was. The fence bars the tenant first, so that
//! nothing comes back. What stays is its name, with a placement: who follows this log forgets it too, and who writes for it is
//! refused.

use portolan_core::ids::TenantName;
use portolan_core::log::{Placement, Position};
use serde::{Deserialize, Serialize};

use crate::adopt;
use crate::apply::leave_applying;
use crate::content;
use crate::database::{Dialect, Row, Session, Value};
use crate::defaults::{CHUNK_RECORDS, COMPACTION_TIMEOUT, ERASURE_PATIENCE};
use crate::error::Error;
use crate::lineage::{kept, print};
use crate::model::record::{Batch, Change, Record};
use crate::store::{Role, Store, captured, enter_log, tenant_alone};

/// What was taken out, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erased {
    /// Losers that were kept.
    pub losers: u64,
    /// Notes of moves.
    pub moves: u64,
    /// Changes that waited, and parts of transactions that had not ended.
    pub parked: u64,
    /// Records of the log, and of others' logs as far as they are kept.
    pub records: u64,
    /// Rows, and tombstones of rows.
    pub rows: u64,
}

impl Store {
    /// Takes out all that the shard has of a tenant, and bars it for good. The bytes may still lie in the file until
    /// [`Self::compact`].
    ///
    /// # Errors
    /// [`Error::Busy`] while its writers are inside, or while rows that were there before a declaration have no versions yet;
    /// call it again, it goes on.
    pub async fn erase(&self, tenant: &TenantName) -> Result<Erased, Error> {
        let placement = self.bar(tenant).await?;
        let mut erased = Erased::default();
        let moves = "DELETE FROM portolan_move WHERE tenant = $1";
        erased.moves = self.delete(Role::Owner, moves, tenant).await?;
        erased.rows = self.erase_rows(tenant).await?;
        erased.losers =
            self.delete(Role::Applier, "DELETE FROM portolan_conflict WHERE tenant = $1", tenant).await?;
        erased.parked =
            self.delete(Role::Applier, "DELETE FROM portolan_parked WHERE tenant = $1", tenant).await?;
        let staged = match self.dialect() {
            Dialect::Postgres => "DELETE FROM portolan_staged WHERE record::jsonb ->> 'tenant' = $1",
            Dialect::Sqlite => "DELETE FROM portolan_staged WHERE json_extract(record, '$.tenant') = $1",
        };
        erased.parked += self.delete(Role::Applier, staged, tenant).await?;
        for table in ["gone", "stale"] {
            let names = format!("DELETE FROM portolan_{table} WHERE tenant = $1");
            self.delete(Role::Applier, &names, tenant).await?;
        }
        for table in content::TABLES {
            let gone = format!("DELETE FROM portolan_{table} WHERE tenant = $1");
            erased.rows += self.delete(Role::Applier, &gone, tenant).await?;
        }
        erased.records = self.erase_tail(tenant, placement).await?;
        self.forget(tenant, placement).await?;
        // What has come between is of a tenant that is forgotten by now, and comes no more.
        erased.losers +=
            self.delete(Role::Applier, "DELETE FROM portolan_conflict WHERE tenant = $1", tenant).await?;
        erased.records += self.erase_tail(tenant, placement).await?;
        erased.records += self.erase_records(tenant).await?;
        Ok(erased)
    }

    /// Nobody writes for the tenant here any more, and nobody is inside. Returns the placement with which it is barred.
    async fn bar(&self, tenant: &TenantName) -> Result<Placement, Error> {
        let there = self.tenant(tenant).await?;
        let barred = there.away && there.forgotten == there.placement && there.placement.0 > 0;
        let placement = if barred { there.placement } else { Placement(there.placement.0.saturating_add(1)) };
        self.place(tenant, placement, true).await?;
        let mut session = self.begin(Role::Owner).await?;
        tenant_alone(&mut session, tenant, ERASURE_PATIENCE).await?;
        session.rollback().await?;
        Ok(placement)
    }

    /// Rows with their versions, children before those that they refer to, some at a time.
    async fn erase_rows(&self, tenant: &TenantName) -> Result<u64, Error> {
        let mut gone = 0;
        for table in self.declared().iter().rev() {
            loop {
                let mut session = self.begin(Role::Applier).await?;
                adopt::done(&mut session).await?;
                enter_log(&mut session).await?;
                self.enter_applying(&mut session).await?;
                let next = "SELECT key FROM portolan_row WHERE tenant = $1 AND table_name = $2 ORDER BY key LIMIT $3";
                let name = Value::from(table.table.name.as_str());
                let args = [tenant.as_str().into(), name.clone(), (CHUNK_RECORDS as u64).into()];
                let keys = session.query(next, &args).await?;
                let keys = keys.iter().map(|row| row.text(0)).collect::<Result<Vec<_>, _>>()?;
                let Some(last) = keys.last() else {
                    session.rollback().await?;
                    break;
                };
                let all = Value::Text(format!("[{}]", keys.join(",")));
                session.execute(&table.delete(session.dialect()), &[all]).await?;
                let states = "DELETE FROM portolan_row WHERE tenant = $1 AND table_name = $2 AND key <= $3";
                let args = [tenant.as_str().into(), name, last.as_str().into()];
                gone += session.run(states, &args).await?;
                leave_applying(&mut session).await?;
                session.commit().await?;
            }
        }
        // Versions of tables that are not declared any more.
        Ok(gone + self.delete(Role::Applier, "DELETE FROM portolan_row WHERE tenant = $1", tenant).await?)
    }

    /// The records of the tenant, but for those that say that it is forgotten. The log is walked through in parts: it may be long.
    async fn erase_records(&self, tenant: &TenantName) -> Result<u64, Error> {
        self.caught_up().await?;
        let (mut after, mut gone) = (Position::START, 0);
        loop {
            let mut session = self.begin(Role::Owner).await?;
            let end = "SELECT epoch, tx, seq FROM portolan_log WHERE (epoch, tx, seq) > ($1, $2, $3) \
                ORDER BY epoch, tx, seq LIMIT 1 OFFSET $4";
            let from = [after.epoch.0.into(), after.transaction.into(), after.sequence.into()];
            let skip = [Value::from(CHUNK_RECORDS as u64 * 5)];
            let rows = session.query(end, &[from.as_slice(), &skip].concat()).await?;
            let last = rows.first().map(position).transpose()?;
            let through = last.unwrap_or(Position::new(i64::MAX as u64, i64::MAX as u64, i64::MAX as u64));
            let to = [through.epoch.0.into(), through.transaction.into(), through.sequence.into()];
            let sql = "DELETE FROM portolan_log WHERE (epoch, tx, seq) > ($1, $2, $3) AND (epoch, tx, seq) <= ($4, $5, $6) \
                AND tenant = $7 AND kind <> 'forget'";
            gone += session.run(sql, &[from.as_slice(), &to, &[tenant.as_str().into()]].concat()).await?;
            session.commit().await?;
            match last {
                Some(last) => after = last,
                None => return Ok(gone),
            }
        }
    }

    /// What is kept of others' logs tells of the tenant only that it is forgotten. Positions stay: others may ask for what lies between.
    async fn erase_tail(&self, tenant: &TenantName, placement: Placement) -> Result<u64, Error> {
        let (mut source, mut after, mut gone) = (String::new(), Position::START, 0);
        loop {
            let mut session = self.begin(Role::Applier).await?;
            let next = "SELECT source, epoch, tx, seq, batch FROM portolan_tail WHERE (source, epoch, tx, seq) > ($1, $2, $3, $4) \
                ORDER BY source, epoch, tx, seq LIMIT 1";
            let at = |at: Position| [at.epoch.0.into(), at.transaction.into(), at.sequence.into()];
            let args = [&[source.as_str().into()], at(after).as_slice()].concat();
            let rows = session.query(next, &args).await?;
            let Some(row) = rows.first() else {
                session.rollback().await?;
                return Ok(gone);
            };
            (source, after) = (row.text(0)?, Position::new(row.number(1)?, row.number(2)?, row.number(3)?));
            let mut batch: Batch = kept(&row.text(4)?)?;
            let of = |record: &&mut Record| {
                record.tenant.as_ref() == Some(tenant) && record.change != Change::Forget
            };
            let mut erased = 0;
            for record in batch.records.iter_mut().filter(of) {
                (record.change, record.placement) = (Change::Forget, placement);
                erased += 1;
            }
            if erased > 0 {
                let sql = "UPDATE portolan_tail SET batch = $5 WHERE source = $1 AND epoch = $2 AND tx = $3 AND seq = $4";
                let here =
                    [&[source.as_str().into()], at(after).as_slice(), &[print(&batch)?.into()]].concat();
                session.run(sql, &here).await?;
            }
            session.commit().await?;
            gone += erased;
        }
    }

    async fn delete(&self, role: Role, sql: &str, tenant: &TenantName) -> Result<u64, Error> {
        let mut session = self.begin(role).await?;
        let gone = session.run(sql, &[tenant.as_str().into()]).await?;
        session.commit().await?;
        Ok(gone)
    }

    /// Has the database write over what was deleted: SQLite makes its file anew, and PostgreSQL frees dead rows (their bytes stay in
    /// its write-ahead log and in older backups, which are its operator's).
    ///
    /// # Errors
    /// [`Error::Busy`] while readers of SQLite keep the log beside the file in use: call it again.
    pub async fn compact(&self) -> Result<(), Error> {
        let mut session = self.acquire(Role::Owner).await?;
        session.keep(COMPACTION_TIMEOUT);
        match session.dialect() {
            Dialect::Sqlite => {
                session.execute("VACUUM", &[]).await?;
                let done = session.one("PRAGMA wal_checkpoint(TRUNCATE)", &[]).await?;
                if done.number(0)? == 1 {
                    return Err(Error::Busy("a reader keeps the file's log in use".to_owned()));
                }
                Ok(())
            }
            Dialect::Postgres => vacuum(&mut session).await,
        }
    }
}

async fn vacuum(session: &mut Session) -> Result<(), Error> {
    let limit = COMPACTION_TIMEOUT.as_millis();
    session.execute(&format!("SET statement_timeout = {limit}"), &[]).await?;
    let own = ["log", "row", "conflict", "parked", "staged", "tail", "move"];
    let own = own.into_iter().chain(content::TABLES).map(|name| format!("portolan.{name}"));
    let captured = captured(session).await?.into_iter().map(|name| format!("public.\"{name}\""));
    for table in own.chain(captured) {
        session.execute(&format!("VACUUM {table}"), &[]).await?;
    }
    Ok(())
}

fn position(row: &Row) -> Result<Position, Error> {
    Ok(Position::new(row.number(0)?, row.number(1)?, row.number(2)?))
}
