//! Reading the log: batches for followers, rows for those who begin, the horizon's age for an alarm.

use std::collections::HashMap;

use portolan_core::ids::{RegionName, TenantName};
use portolan_core::log::{Epoch, Placement, Position, Version};

use crate::adopt;
use crate::database::{Dialect, Row, Session, Value};
use crate::defaults::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX};
use crate::error::Error;
use crate::lineage::{heads, lineage};
use crate::model::lineage::Reached;
use crate::model::reader::cut;
use crate::model::record::{Batch, Change, Record, RowChange, RowId};
use crate::store::{Role, Store, identity_now, trimmed};

/// How much one batch takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of rows; a single row may have more.
    pub bytes: usize,
    /// Records.
    pub records: usize,
}

impl Default for Limits {
    /// What an ordinary follower asks for: all that a batch may hold.
    fn default() -> Self {
        Self { bytes: BATCH_BYTES_MAX, records: BATCH_RECORDS_MAX }
    }
}

/// What readers have to wait for. A transaction that stays open holds all of them back, in PostgreSQL also one of another
/// database of the same cluster: alarm on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Horizon {
    /// Records that are there and cannot be read yet.
    pub waiting: u64,
    /// How long the oldest of them has been waiting, in microseconds.
    pub waiting_us: u64,
    /// Nobody may write here under a lease at that moment: others may, elsewhere.
    pub closed: bool,
    /// When that was looked at, by the database's clock, in microseconds: whatever is not among what waits and was done before can be read.
    pub at_us: u64,
    /// Transactions that have begun since the oldest that is open; in SQLite always 0.
    pub transactions: u64,
}

/// Which records fit is found by their rows' lengths alone, which are told without reading the rows: a thousand rows may be
/// gigabytes.
const BATCH: &str = "WITH due AS (SELECT epoch, tx, seq, {row_bytes} AS bytes{piece} FROM portolan_log \
    WHERE (epoch, tx, seq) > ($1, $2, $3) ORDER BY epoch, tx, seq LIMIT $4), \
    fit AS (SELECT epoch, tx, seq{piece}, \
    (lead(epoch) OVER w IS NULL OR lead(epoch) OVER w <> epoch OR lead(tx) OVER w <> tx) AS ends, \
    sum(bytes) OVER w AS bytes, count(*) OVER w AS records FROM due WINDOW w AS (ORDER BY epoch, tx, seq)) \
    SELECT s.epoch, s.tx, s.seq, s.at_us, s.tenant, s.placement, s.schema, s.kind, s.table_name, s.key, \
    CAST(s.row AS TEXT), s.version_epoch, s.v, s.origin, s.replaces_epoch, s.replaces_v, s.replaces_origin, \
    CAST(s.marks AS TEXT), fit.ends, {horizon} FROM fit CROSS JOIN portolan_log s \
    WHERE s.epoch = fit.epoch AND s.tx = fit.tx AND s.seq = fit.seq {same_piece} \
    AND fit.records < $4 AND (fit.bytes <= $5 OR fit.records = 1) ORDER BY fit.epoch, fit.tx, fit.seq";

impl Store {
    /// Is what lies at a position here? Of an epoch that began elsewhere, what its cut lets count is.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn reached(&self, wanted: Position) -> Result<Reached, Error> {
        match self.reached_in_log(wanted).await? {
            Reached::Ahead(_) if self.ships() => {
                self.caught_up().await?;
                self.reached_in_log(wanted).await
            }
            reached => Ok(reached),
        }
    }

    async fn reached_in_log(&self, wanted: Position) -> Result<Reached, Error> {
        let mut session = self.acquire(Role::Applier).await?;
        if let Some(reached) = self.reached_elsewhere(&mut session, wanted).await? {
            return Ok(reached);
        }
        let sql = "SELECT f.epoch, l.epoch, l.tx, l.seq FROM portolan_fence f LEFT JOIN (SELECT epoch, tx, seq FROM \
            (SELECT epoch, tx, seq FROM portolan_log WHERE epoch <= $1 ORDER BY epoch DESC, tx DESC, seq DESC LIMIT 1) there \
            UNION ALL SELECT epoch, tx, seq FROM portolan_trimmed WHERE epoch <= $1 \
            ORDER BY epoch DESC, tx DESC, seq DESC LIMIT 1) l ON f.id = 1";
        let row = session.one(sql, &[wanted.epoch.0.into()]).await?;
        let epoch = row.number(0)?;
        let newest = match row.number_or_null(1)? {
            Some(epoch) => Position::new(epoch, row.number(2)?, row.number(3)?),
            // Nothing of that time is known: it is from before this database, which was put back, and goes on from it.
            None if wanted.epoch.0 < epoch => return Ok(Reached::Here),
            None => Position::START,
        };
        Ok(if wanted.epoch.0 <= epoch && newest >= wanted {
            Reached::Here
        } else if wanted.epoch.0 == epoch {
            Reached::Ahead(newest)
        } else {
            Reached::Lost(newest)
        })
    }

    /// The same of a position in another region's log; none when it is of this one, or of an epoch of which nothing is known.
    async fn reached_elsewhere(
        &self,
        session: &mut Session,
        wanted: Position,
    ) -> Result<Option<Reached>, Error> {
        let lineage = lineage(session).await?;
        Ok(lineage.reached(self.origin(), &heads(session).await?, wanted))
    }

    /// Reads what comes after a position. An empty batch says that nothing does yet.
    ///
    /// # Errors
    /// [`Error::Trimmed`] when some of that is gone: begin anew from a snapshot. [`crate::Closed::Cut`] when the log may have been
    /// cut; compare witnesses, and begin an epoch.
    ///
    /// # Cancel safety
    /// Nothing is lost: whoever reads keeps the position.
    pub async fn read(&self, after: Position, limits: Limits) -> Result<Batch, Error> {
        if self.dialect() == Dialect::Sqlite {
            self.end_transaction().await?;
        }
        let mut session = self.along_the_log().await?;
        let identity = identity_now(&mut session).await?;
        let records_max = limits.records.clamp(1, BATCH_RECORDS_MAX);
        let args = [
            after.epoch.0.into(),
            after.transaction.into(),
            after.sequence.into(),
            (records_max as u64 + 1).into(),
            (limits.bytes as u64).into(),
        ];
        // What was done before then is seen below; what is done after the state that is read must not count as seen. SQLite takes its state with the
        // first table that is read.
        let at_us = session.one("SELECT {began}", &[]).await?.number(0)?;
        let rows = session.query(BATCH, &args).await?;
        session.rollback().await?;
        self.is_whole(after).await?;
        let horizon = rows.first().map_or(Ok(0), |row| row.number(19))?;
        let mut records = rows.iter().map(record).collect::<Result<Vec<_>, _>>()?;
        let ends = rows.iter().map(|row| Ok(row.number(18)? == 1)).collect::<Result<Vec<_>, Error>>()?;
        let seen: Vec<_> = records.iter().map(|record| record.position).zip(ends).collect();
        let (count, ends) = cut(&seen, horizon);
        records.truncate(count);
        let through = records.last().map_or(after, |last| last.position);
        Ok(Batch { identity, after, through, at_us, ends, records })
    }

    /// One state of the log, which is read along its order: whatever statistics say of its pieces, what lies behind a batch is not
    /// looked at to find the batch.
    pub(crate) async fn along_the_log(&self) -> Result<Session, Error> {
        let mut session = self.pool(Role::Applier).snapshot().await?;
        if session.dialect() == Dialect::Postgres {
            session.execute("SET LOCAL enable_sort = off", &[]).await?;
        }
        Ok(session)
    }

    /// Refuses a reading that began before what is there of the log. What was trimmed meanwhile leaves no trace in what was read, so
    /// that this comes *after* the reading, and sees what was noted before anything went.
    pub(crate) async fn is_whole(&self, after: Position) -> Result<(), Error> {
        let through = trimmed(&mut *self.acquire(Role::Applier).await?).await?;
        if after < through { Err(Error::Trimmed { after, through }) } else { Ok(()) }
    }

    /// Ends what SQLite counts as one transaction, if anything was written in it. A busy writer ends it in its own time.
    pub(crate) async fn end_transaction(&self) -> Result<(), Error> {
        let open =
            "SELECT 1 FROM portolan_log l, portolan_fence f WHERE l.epoch = f.epoch AND l.tx = f.tx LIMIT 1";
        let mut session = self.acquire(Role::Owner).await?;
        if session.query(open, &[]).await?.is_empty() {
            return Ok(());
        }
        match session.execute("UPDATE portolan_fence SET tx = tx + 1", &[]).await {
            Err(Error::Busy(_)) => Ok(()),
            done => done.map(drop),
        }
    }

    /// Is the record at a position the one that was written then? One that has been trimmed, and none at all, is taken on trust.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn has_written(&self, at: Position, at_us: u64) -> Result<bool, Error> {
        if at == Position::START || at_us == 0 {
            return Ok(true);
        }
        let args = [at.epoch.0.into(), at.transaction.into(), at.sequence.into()];
        let mut session = self.acquire(Role::Applier).await?;
        let found = session
            .query("SELECT at_us FROM portolan_log WHERE epoch = $1 AND tx = $2 AND seq = $3", &args)
            .await?;
        match found.first() {
            Some(row) => Ok(row.number(0)? == at_us),
            // What was trimmed leaves its place; what is missing beyond that was never written in this history.
            None => Ok(at <= trimmed(&mut session).await?),
        }
    }

    /// Has a tenant rows here?
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn has_rows(&self, tenant: &TenantName) -> Result<bool, Error> {
        let sql = "SELECT 1 FROM portolan_row WHERE tenant = $1 AND deleted = 0 LIMIT 1";
        let mut session = self.acquire(Role::Applier).await?;
        Ok(!session.query(sql, &[tenant.as_str().into()]).await?.is_empty())
    }

    /// What readers have to wait for.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn horizon(&self) -> Result<Horizon, Error> {
        let mut session = self.acquire(Role::Applier).await?;
        let waiting = "SELECT count(*), coalesce(min(at_us), 0), {began}, (SELECT deadline_us FROM portolan_fence) FROM portolan_log \
            WHERE epoch = (SELECT epoch FROM portolan_fence) AND tx >= {horizon}";
        let row = session.one(waiting, &[]).await?;
        let (waiting, since, at_us) = (row.number(0)?, row.number(1)?, row.number(2)?);
        let closed = row.number(3)? <= at_us;
        let transactions = match session.dialect() {
            Dialect::Sqlite => 0,
            Dialect::Postgres => {
                let sql = "SELECT pg_snapshot_xmax(s)::text::bigint - pg_snapshot_xmin(s)::text::bigint \
                    FROM pg_current_snapshot() s";
                session.one(sql, &[]).await?.number(0)?
            }
        };
        let waiting_us = if waiting == 0 { 0 } else { at_us.saturating_sub(since) };
        Ok(Horizon { waiting, waiting_us, closed, at_us, transactions })
    }

    /// Rows of declared tables as they are now, for who begins to follow: of one tenant or of all, after a row, up to so many.
    /// Tombstones are among them. None means that no more come. Follow the log from a position that was read *before* the first of them; what comes twice does not matter.
    ///
    /// # Errors
    /// [`Error::Busy`] while rows that were there before a declaration have no versions yet.
    pub async fn rows(
        &self,
        tenant: Option<&TenantName>,
        after: Option<&RowId>,
        max: usize,
    ) -> Result<Vec<Record>, Error> {
        let declared = self.declared();
        if declared.is_empty() || max == 0 {
            return Ok(Vec::new());
        }
        // Of a table that is no longer declared there are versions and no images: its rows are not gone.
        let names: Vec<String> = declared.iter().map(|table| format!("'{}'", table.table.name)).collect();
        let sql = format!(
            "SELECT r.table_name, r.key, r.tenant, r.placement, r.deleted, r.epoch, r.v, r.origin, \
             r.replaces_epoch, r.replaces_v, r.replaces_origin, f.schema, CAST(r.marks AS TEXT) \
             FROM portolan_row r, portolan_fence f \
             WHERE (r.table_name, r.key) > ($1, $2) AND ($3 = '' OR r.tenant = $3) AND r.table_name IN ({}) \
             ORDER BY r.table_name, r.key LIMIT $4",
            names.join(", ")
        );
        let mut session = self.pool(Role::Applier).snapshot().await?;
        adopt::done(&mut session).await?;
        let mut after = after.cloned().unwrap_or_else(|| RowId { table: String::new(), key: String::new() });
        let mut records = Vec::new();
        // A page whose rows are all skipped is not the end.
        while records.is_empty() {
            let args = [
                after.table.as_str().into(),
                after.key.as_str().into(),
                tenant.map_or("", TenantName::as_str).into(),
                (max.min(BATCH_RECORDS_MAX) as u64).into(),
            ];
            let states = session.query(&sql, &args).await?;
            let ids = states.iter().map(|row| Ok(RowId { table: row.text(0)?, key: row.text(1)? }));
            let ids = ids.collect::<Result<Vec<_>, Error>>()?;
            let Some(last) = ids.last() else { break };
            after = last.clone();
            let mut images = self.images(&mut session, &ids).await?;
            for (row, id) in states.iter().zip(ids) {
                let deleted = row.number(4)? == 1;
                let image = images.remove(&id).filter(|_| !deleted);
                // Only a tombstone says that a row is gone.
                if !deleted && image.is_none() {
                    continue;
                }
                records.push(copy(row, id, image)?);
            }
        }
        session.rollback().await?;
        Ok(records)
    }

    /// The images of rows that are there.
    pub(crate) async fn images(
        &self,
        session: &mut Session,
        ids: &[RowId],
    ) -> Result<HashMap<RowId, String>, Error> {
        let mut images = HashMap::new();
        for table in self.declared().iter() {
            let name = table.table.name.as_str();
            let keys: Vec<&str> =
                ids.iter().filter(|id| id.table == name).map(|id| id.key.as_str()).collect();
            if keys.is_empty() {
                continue;
            }
            let keys = Value::Text(format!("[{}]", keys.join(",")));
            for row in session.fetch(&table.images(session.dialect()), &[keys]).await? {
                images.insert(RowId { table: name.to_owned(), key: row.text(0)? }, row.text(1)?);
            }
        }
        Ok(images)
    }
}

/// A row as it is now, with its state in the order of [`Store::rows`].
pub(crate) fn copy(row: &Row, id: RowId, image: Option<String>) -> Result<Record, Error> {
    let none = || Error::Damaged("a row without a version".to_owned());
    let change = RowChange {
        id,
        row: image,
        version: version(row, 5)?.ok_or_else(none)?,
        replaces: version(row, 8)?,
        marks: row.text_or_null(12)?,
    };
    Ok(Record {
        position: Position::START,
        at_us: 0,
        tenant: tenant_of(row, 2)?,
        placement: Placement(row.number(3)?),
        schema: row.number(11)?,
        change: Change::Row(change),
    })
}

/// The record in the first columns of a row, in the order of [`BATCH`].
pub(crate) fn record(row: &Row) -> Result<Record, Error> {
    let damaged = |what: &str| Error::Damaged(format!("the log holds a record without {what}"));
    let kind = row.text(7)?;
    let change = if kind == "forget" {
        Change::Forget
    } else {
        Change::Row(RowChange {
            id: RowId { table: row.text(8)?, key: row.text(9)? },
            row: row.text_or_null(10)?,
            version: version(row, 11)?.ok_or_else(|| damaged("a version"))?,
            replaces: version(row, 14)?,
            marks: row.text_or_null(17)?,
        })
    };
    Ok(Record {
        position: Position::new(row.number(0)?, row.number(1)?, row.number(2)?),
        at_us: row.number(3)?,
        tenant: tenant_of(row, 4)?,
        placement: Placement(row.number(5)?),
        schema: row.number(6)?,
        change,
    })
}

pub(crate) fn tenant_of(row: &Row, at: usize) -> Result<Option<TenantName>, Error> {
    let text = row.text_or_null(at)?;
    text.map(|text| TenantName::new(&text)).transpose().map_err(|error| Error::Damaged(error.to_string()))
}

/// Three columns: epoch, v and origin.
pub(crate) fn version(row: &Row, at: usize) -> Result<Option<Version>, Error> {
    let Some(epoch) = row.number_or_null(at)? else { return Ok(None) };
    let origin = RegionName::new(&row.text(at + 2)?).map_err(|error| Error::Damaged(error.to_string()))?;
    Ok(Some(Version { epoch: Epoch(epoch), v: row.number(at + 1)?, origin }))
}
