//! A tenant on its way to another shard: its rows in the order in which others refer to them, its records alone, what
//! the target takes in, and the notes of the moves that have begun.
//!
//! The target stamps all that comes by one move alike: with a placement between the tenant's last and its next, so that what is
//! written after the move is above it, and with the lease under which the source is written, so that the source's order
//! stays. What it takes in stands in its own log, because its followers know no other.

use std::collections::HashMap;
use std::time::Duration;

use portolan_core::ids::TenantName;
use portolan_core::log::{Epoch, Placement, Position};
use portolan_core::tenant_table::TenantTable;
use serde::{Deserialize, Serialize};

use crate::adopt;
use crate::apply::{Counts, leave_applying};
use crate::database::{Dialect, Session};
use crate::defaults::{BATCH_RECORDS_MAX, CHUNK_RECORDS};
use crate::error::Error;
use crate::model::fence::Closed;
use crate::model::record::{Change, Record, RowId};
use crate::read::{Limits, copy, record, tenant_of};
use crate::store::{Role, Store, changed, enter_log, identity_now, newest, tenant_alone, tip};

/// How the target stamps what comes by a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The lease under which the target takes it in.
    pub lease: Epoch,
    /// Above all that was forgotten of the tenant at the target, and below its next placement.
    pub placement: Placement,
    /// The lease under which the source was written.
    pub source: Epoch,
}

/// How far a tenant's records are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// All that are there: right only while the tenant is held, because none can come before them any more.
    Held,
    /// Up to the horizon.
    Settled,
}

/// A tenant's records after a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passage {
    /// In order.
    pub records: Vec<Record>,
    /// From where to ask on.
    pub through: Position,
    /// Nothing came after these when they were read.
    pub whole: bool,
}

/// From which shard's side a move is noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The tenant comes here.
    In,
    /// The tenant leaves.
    Out,
}

/// A move that has begun, as a shard's database knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoveNote {
    /// What the mover wants to know of it later.
    pub detail: String,
    /// Which move.
    pub id: String,
    /// Does it leave or come?
    pub side: Side,
    /// How far it has come, in the mover's words.
    pub step: String,
    /// Who moves.
    pub tenant: TenantName,
}

impl Side {
    const fn word(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
        }
    }
}

impl Store {
    /// The declared tables with their columns, in the order of their declaration.
    #[must_use]
    pub fn shape(&self) -> Vec<(TenantTable, Vec<String>)> {
        self.declared().iter().map(|declared| (declared.table.clone(), declared.columns.clone())).collect()
    }

    /// The position up to which nothing more can come: all that is not there to see lies after it. Who begins to follow
    /// reads it first, then copies rows, then reads records after it. [`Self::tip`] does not serve: a transaction that is
    /// still open may have a lower position.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn settled(&self) -> Result<Position, Error> {
        let mut session = self.pool(Role::Applier).snapshot().await?;
        let position = settled(&mut session).await?;
        session.rollback().await?;
        Ok(position)
    }

    /// A tenant's rows as they are now, those first that others refer to, after a row, up to so many. None means that no
    /// more come.
    ///
    /// # Errors
    /// [`Error::Busy`] while rows that were there before a declaration have no versions yet.
    pub async fn tenant_rows(
        &self,
        tenant: &TenantName,
        after: Option<&RowId>,
        max: usize,
    ) -> Result<Vec<Record>, Error> {
        let declared = self.declared();
        let first =
            after.and_then(|after| declared.iter().position(|own| own.table.name.as_str() == after.table));
        let mut session = self.pool(Role::Applier).snapshot().await?;
        adopt::done(&mut session).await?;
        let mut records = Vec::new();
        for table in declared.iter().skip(first.unwrap_or_default()) {
            let name = table.table.name.as_str();
            let mut key = after.filter(|after| after.table == name).map_or("", |after| &after.key).to_owned();
            // A page whose rows are all skipped is not the end.
            while records.is_empty() {
                let args = [
                    tenant.as_str().into(),
                    name.into(),
                    key.as_str().into(),
                    (max.clamp(1, BATCH_RECORDS_MAX) as u64).into(),
                ];
                let states = session.query(TENANT_ROWS, &args).await?;
                let Some(last) = states.last() else { break };
                key = last.text(1)?;
                let ids = states.iter().map(|row| Ok(RowId { table: row.text(0)?, key: row.text(1)? }));
                let ids = ids.collect::<Result<Vec<_>, Error>>()?;
                let mut images = self.images(&mut session, &ids).await?;
                for (row, id) in states.iter().zip(ids) {
                    if let Some(image) = images.remove(&id) {
                        records.push(copy(row, id, Some(image))?);
                    }
                }
            }
            if !records.is_empty() {
                break;
            }
        }
        session.rollback().await?;
        Ok(records)
    }

    /// Rows by their names, in canonical form; those that are not there are left out.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn rows_named(&self, ids: &[RowId]) -> Result<HashMap<RowId, String>, Error> {
        self.images(&mut *self.acquire(Role::Applier).await?, ids).await
    }

    /// Which rows a tenant has after one and up to another, in the order of [`Self::tenant_rows`]; up to `max` of each table.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn tenant_ids(
        &self,
        tenant: &TenantName,
        after: Option<&RowId>,
        through: Option<&RowId>,
        max: usize,
    ) -> Result<Vec<RowId>, Error> {
        let declared = self.declared();
        let place = |id: &RowId| declared.iter().position(|own| own.table.name.as_str() == id.table);
        let first = after.and_then(place).unwrap_or_default();
        let last = through.and_then(place).unwrap_or(usize::MAX);
        let mut session = self.pool(Role::Applier).snapshot().await?;
        let mut ids = Vec::new();
        let tables = declared.iter().enumerate().skip(first).take_while(|(at, _)| *at <= last);
        for (_, table) in tables {
            let name = table.table.name.as_str();
            let here =
                |id: Option<&RowId>| id.filter(|id| id.table == name).map_or("", |id| &id.key).to_owned();
            let args = [
                tenant.as_str().into(),
                name.into(),
                here(after).into(),
                here(through).into(),
                (max as u64).into(),
            ];
            let found = session.query(TENANT_IDS, &args).await?;
            for row in found {
                ids.push(RowId { table: name.to_owned(), key: row.text(0)? });
            }
        }
        session.rollback().await?;
        Ok(ids)
    }

    /// How many rows a tenant has.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn count_rows(&self, tenant: &TenantName) -> Result<u64, Error> {
        let sql = "SELECT count(*) FROM portolan_row WHERE tenant = $1 AND deleted = 0";
        self.acquire(Role::Applier).await?.one(sql, &[tenant.as_str().into()]).await?.number(0)
    }

    /// Tenants that have rows here and have not moved away, after one, by name, up to so many. One that has only just written may be
    /// passed over.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn tenants(&self, after: Option<&TenantName>, max: usize) -> Result<Vec<TenantName>, Error> {
        let mut session = self.acquire(Role::Applier).await?;
        let mut last = after.map_or("", TenantName::as_str).to_owned();
        let mut tenants = Vec::new();
        // A look into the index for each: to go through all rows of all tenants would take minutes.
        while tenants.len() < max {
            let rows = session.query(NEXT_TENANT, &[last.as_str().into()]).await?;
            let Some(row) = rows.first() else { break };
            last = row.text(0)?;
            if row.number(1)? == 0 {
                tenants.extend(tenant_of(row, 0)?);
            }
        }
        Ok(tenants)
    }

    /// A tenant's records after a position.
    ///
    /// # Errors
    /// [`Closed::Cut`] when the log may have been cut, [`Error::Trimmed`] when some of that is gone.
    ///
    /// # Cancel safety
    /// Nothing is lost: whoever reads keeps the position.
    pub async fn tenant_records(
        &self,
        tenant: &TenantName,
        after: Position,
        limits: Limits,
        reach: Reach,
    ) -> Result<Passage, Error> {
        if reach == Reach::Held {
            self.caught_up().await?;
        }
        let mut session = self.along_the_log().await?;
        identity_now(&mut session).await?;
        // What is committed in SQLite is there in its order.
        let horizon = match (session.dialect(), reach) {
            (Dialect::Postgres, Reach::Settled) => session.one("SELECT {horizon}", &[]).await?.number(0)?,
            _ => u64::MAX,
        };
        let settled = settled(&mut session).await?;
        let records_max = limits.records.clamp(1, BATCH_RECORDS_MAX) as u64;
        let args = [
            after.epoch.0.into(),
            after.transaction.into(),
            after.sequence.into(),
            records_max.into(),
            (limits.bytes as u64).into(),
            tenant.as_str().into(),
            horizon.into(),
        ];
        let rows = session.query(TENANT_RECORDS, &args).await?;
        session.rollback().await?;
        self.is_whole(after).await?;
        let records = rows.iter().map(record).collect::<Result<Vec<_>, _>>()?;
        let due = rows.first().map_or(Ok(0), |row| row.number(18))?;
        let whole = due < records_max && due == records.len() as u64;
        let last = records.last().map_or(after, |last| last.position);
        let through = if whole && reach == Reach::Settled { last.max(settled) } else { last };
        Ok(Passage { records, through, whole })
    }

    /// Takes in rows of a tenant that moves here, from [`Self::tenant_rows`] and [`Self::tenant_records`] of another shard,
    /// and tells them in this log. The tenant must be placed away here, with the stamp's placement: a later one bars the move.
    ///
    /// # Errors
    /// [`Closed::Moved`] and [`Closed::Expired`] unless this is written under the stamp's lease, [`Error::Busy`] when the move is
    /// barred; otherwise as [`Store::merge`].
    pub async fn take_in(
        &self,
        tenant: &TenantName,
        records: &[Record],
        stamp: &Stamp,
    ) -> Result<Counts, Error> {
        let stamped: Vec<Record> = records.iter().map(|record| stamp.put(record)).collect();
        let mut session = self.begin(Role::Applier).await?;
        self.enter_told(&mut session, tenant, stamp).await?;
        let mut counts = Counts::default();
        for chunk in stamped.chunks(CHUNK_RECORDS) {
            self.absorb(&mut session, chunk, &mut counts, true).await?;
        }
        leave_applying(&mut session).await?;
        session.commit().await?;
        Ok(counts)
    }

    /// Tries again what had to wait of a tenant that moves here: what it refers to may have come. Returns how many changes
    /// still wait.
    ///
    /// # Errors
    /// As [`Self::take_in`].
    pub async fn take_in_parked(&self, tenant: &TenantName, stamp: &Stamp) -> Result<u64, Error> {
        let mut session = self.begin(Role::Applier).await?;
        self.enter_told(&mut session, tenant, stamp).await?;
        let mut counts = Counts::default();
        self.retry(&mut session, Some(tenant), &mut counts).await?;
        leave_applying(&mut session).await?;
        session.commit().await?;
        Ok(counts.parked)
    }

    /// Why changes of a tenant wait: the first of them.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn why_parked(&self, tenant: &TenantName) -> Result<Option<String>, Error> {
        let sql = "SELECT table_name || ' ' || key || ': ' || why FROM portolan_parked WHERE tenant = $1 \
            ORDER BY at_us LIMIT 1";
        let mut session = self.acquire(Role::Applier).await?;
        let rows = session.query(sql, &[tenant.as_str().into()]).await?;
        rows.first().map(|row| row.text(0)).transpose()
    }

    async fn enter_told(
        &self,
        session: &mut Session,
        tenant: &TenantName,
        stamp: &Stamp,
    ) -> Result<(), Error> {
        enter_log(session).await?;
        // Whoever bars the move waits for this transaction, and then finds what it brought.
        let sql = "SELECT 1 FROM portolan_tenant WHERE tenant = $1 AND placement = $2 AND away = 1 {lock}";
        let args = [tenant.as_str().into(), stamp.placement.0.into()];
        if session.query(sql, &args).await?.is_empty() {
            return Err(Error::Busy("what this move brings is not taken in here any more".to_owned()));
        }
        let row = session.one("SELECT epoch, deadline_us, cut, {now} FROM portolan_fence", &[]).await?;
        let closed = if row.number(2)? == 1 {
            Some(Closed::Cut)
        } else if row.number(0)? != stamp.lease.0 {
            Some(Closed::Moved)
        } else {
            (row.number(3)? >= row.number(1)?).then_some(Closed::Expired)
        };
        match closed {
            Some(closed) => Err(closed.into()),
            None => self.enter_applying(session).await,
        }
    }

    /// Notes that a move has begun.
    ///
    /// # Errors
    /// [`Error::Busy`] when another is noted for the tenant.
    pub async fn note_move(&self, note: &MoveNote) -> Result<(), Error> {
        let mut session = self.begin(Role::Owner).await?;
        let done = session
            .run(
                "INSERT INTO portolan_move (tenant, side, id, step, detail, began_us) VALUES ($1, $2, $3, $4, $5, {now}) \
                 ON CONFLICT (tenant, side) DO NOTHING",
                &[
                    note.tenant.as_str().into(),
                    note.side.word().into(),
                    note.id.as_str().into(),
                    note.step.as_str().into(),
                    note.detail.as_str().into(),
                ],
            )
            .await?;
        session.commit().await?;
        if done == 1 {
            return Ok(());
        }
        Err(Error::Busy("another move of the tenant is noted".to_owned()))
    }

    /// The moves that are noted, of a tenant or of all.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn moves(&self, tenant: Option<&TenantName>) -> Result<Vec<MoveNote>, Error> {
        let sql = "SELECT tenant, side, id, step, detail FROM portolan_move WHERE $1 = '' OR tenant = $1 \
            ORDER BY tenant, side";
        let mut session = self.acquire(Role::Owner).await?;
        let rows = session.query(sql, &[tenant.map_or("", TenantName::as_str).into()]).await?;
        let note = |row: &crate::database::Row| {
            Ok(MoveNote {
                detail: row.text(4)?,
                id: row.text(2)?,
                side: if row.text(1)? == "in" { Side::In } else { Side::Out },
                step: row.text(3)?,
                tenant: tenant_of(row, 0)?
                    .ok_or_else(|| Error::Damaged("a move of nobody is noted".to_owned()))?,
            })
        };
        rows.iter().map(note).collect()
    }

    /// A move goes on from the step of its note to another. Returns whether it stood there: who goes on with another's move
    /// takes it over so.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn step_move(&self, note: &MoveNote, to: &str) -> Result<bool, Error> {
        let mut session = self.begin(Role::Owner).await?;
        let done = step(&mut session, note, to, &note.detail).await?;
        session.commit().await?;
        Ok(done)
    }

    /// A move is over here.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn drop_move(&self, tenant: &TenantName, side: Side, id: &str) -> Result<(), Error> {
        let mut session = self.begin(Role::Owner).await?;
        let sql = "DELETE FROM portolan_move WHERE tenant = $1 AND side = $2 AND id = $3";
        session.run(sql, &[tenant.as_str().into(), side.word().into(), id.into()]).await?;
        session.commit().await
    }

    /// Takes the end away from the hold of a move, whose note goes on to another step with another detail, if nothing has been
    /// written since: under this lease, the tenant has just `records` records after `base`, which was settled. From here
    /// on the tenant is held until [`Self::release`] or [`Self::place`]. Returns whether all that is so.
    ///
    /// # Errors
    /// [`Error::Busy`] when a writer whom the hold's end let in is still inside after `patience`.
    pub async fn seal(
        &self,
        note: &MoveNote,
        to: (&str, &str),
        drained: &Drained,
        patience: Duration,
    ) -> Result<bool, Error> {
        let mut session = self.begin(Role::Owner).await?;
        // The hold may have ended meanwhile, and writers may be inside: they are waited for, and what they wrote is counted.
        tenant_alone(&mut session, &note.tenant, patience).await?;
        self.caught_up().await?;
        let Drained { base, epoch, records } = drained;
        let tenant = note.tenant.as_str();
        let args = [
            tenant.into(),
            note.id.as_str().into(),
            epoch.0.into(),
            base.epoch.0.into(),
            base.transaction.into(),
            base.sequence.into(),
            (*records).into(),
        ];
        let sealed = "UPDATE portolan_tenant SET hold_until_us = NULL WHERE tenant = $1 AND hold = $2 AND away = 0 \
            AND EXISTS (SELECT 1 FROM portolan_fence WHERE epoch = $3 AND cut = 0) \
            AND NOT EXISTS (SELECT 1 FROM portolan_trimmed t WHERE (t.epoch, t.tx, t.seq) > ($4, $5, $6)) \
            AND (SELECT count(*) FROM portolan_log l WHERE (l.epoch, l.tx, l.seq) > ($4, $5, $6) AND l.tenant = $1) = $7";
        if session.run(sealed, &args).await? != 1 || !step(&mut session, note, to.0, to.1).await? {
            session.rollback().await?;
            return Ok(false);
        }
        changed(&mut session).await?;
        session.commit().await?;
        Ok(true)
    }
}

/// What of a held tenant's log has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// A settled position.
    pub base: Position,
    /// Under which lease.
    pub epoch: Epoch,
    /// How many records of the tenant lie after it.
    pub records: u64,
}

impl Stamp {
    fn put(&self, record: &Record) -> Record {
        let mut record = record.clone();
        record.placement = self.placement;
        if let Change::Row(change) = &mut record.change {
            change.version.epoch = self.source;
            if let Some(replaces) = &mut change.replaces {
                replaces.epoch = self.source;
            }
        }
        record
    }
}

const TENANT_ROWS: &str = "SELECT r.table_name, r.key, r.tenant, r.placement, r.deleted, r.epoch, r.v, r.origin, \
    r.replaces_epoch, r.replaces_v, r.replaces_origin, f.schema, CAST(r.marks AS TEXT) FROM portolan_row r, portolan_fence f \
    WHERE r.tenant = $1 AND r.table_name = $2 AND r.key > $3 AND r.deleted = 0 ORDER BY r.key LIMIT $4";

/// No key is empty.
const TENANT_IDS: &str = "SELECT r.key FROM portolan_row r WHERE r.tenant = $1 AND r.table_name = $2 AND r.key > $3 \
    AND ($4 = '' OR r.key <= $4) AND r.deleted = 0 ORDER BY r.key LIMIT $5";

const NEXT_TENANT: &str = "SELECT r.tenant, coalesce((SELECT t.away FROM portolan_tenant t WHERE t.tenant = r.tenant), 0) \
    FROM portolan_row r WHERE r.tenant > $1 AND r.deleted = 0 ORDER BY r.tenant LIMIT 1";

/// As all records are read, with one tenant's alone, and how many were due.
const TENANT_RECORDS: &str = "WITH due AS (SELECT epoch, tx, seq, {row_bytes} AS bytes{piece} FROM portolan_log \
    WHERE (epoch, tx, seq) > ($1, $2, $3) AND tenant = $6 AND tx < $7 ORDER BY epoch, tx, seq LIMIT $4), \
    fit AS (SELECT epoch, tx, seq{piece}, sum(bytes) OVER w AS bytes, count(*) OVER w AS records FROM due \
    WINDOW w AS (ORDER BY epoch, tx, seq)) \
    SELECT s.epoch, s.tx, s.seq, s.at_us, s.tenant, s.placement, s.schema, s.kind, s.table_name, s.key, \
    CAST(s.row AS TEXT), s.version_epoch, s.v, s.origin, s.replaces_epoch, s.replaces_v, s.replaces_origin, \
    CAST(s.marks AS TEXT), (SELECT count(*) FROM due) FROM fit CROSS JOIN portolan_log s \
    WHERE s.epoch = fit.epoch AND s.tx = fit.tx AND s.seq = fit.seq {same_piece} \
    AND (fit.bytes <= $5 OR fit.records = 1) ORDER BY fit.epoch, fit.tx, fit.seq";

/// The last record before which nothing comes any more, or up to where the log was trimmed. Two that ask while nothing is written are told
/// the same, so that each can go on from where the other is.
pub(crate) async fn settled(session: &mut Session) -> Result<Position, Error> {
    if session.dialect() == Dialect::Sqlite {
        return tip(session).await;
    }
    let sql = "SELECT t.epoch, t.tx, t.seq FROM (SELECT epoch, tx, seq FROM portolan_log WHERE tx < {horizon} \
        ORDER BY epoch DESC, tx DESC, seq DESC LIMIT 1) t UNION ALL SELECT epoch, tx, seq FROM portolan_trimmed";
    newest(&session.query(sql, &[]).await?)
}

async fn step(session: &mut Session, note: &MoveNote, to: &str, detail: &str) -> Result<bool, Error> {
    let sql = "UPDATE portolan_move SET step = $1, detail = $2 WHERE tenant = $3 AND side = $4 AND id = $5 AND step = $6";
    let args = [
        to.into(),
        detail.into(),
        note.tenant.as_str().into(),
        note.side.word().into(),
        note.id.as_str().into(),
        note.step.as_str().into(),
    ];
    Ok(session.run(sql, &args).await? == 1)
}
