//! Applying others' changes: one transaction for each batch, the gate for each row, sets of rows for each table.
//!
//! What a row becomes is decided by [`crate::model::gate`], the same over both engines. A change that the database does
//! not take (a constraint, a table or column that is not there yet) is parked on its own, and the rest goes on.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use portolan_core::ids::{RegionName, TenantName};
use portolan_core::log::{Identity, Placement, Position};
use portolan_core::tenant_table::ConflictRule;
use serde_json::json;

use crate::adopt;
use crate::copying::raise_placements;
use crate::database::{Dialect, Row, Session, Value};
use crate::defaults::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, CHUNK_RECORDS};
use crate::error::Error;
use crate::lineage::{Sieve, keep_stranded, keep_tail};
use crate::model::gate::{Ground, Plan, RowState, Why, Write};
use crate::model::marks::Columns;
use crate::model::progress::{Admission, Progress};
use crate::model::record::{Batch, Change, Record, RowId};
use crate::parked::{Obstacle, fits, park, refusal, unpark, waiting};
use crate::read::{tenant_of, version};
use crate::rejection::Rejection;
use crate::store::{Role, Store, enter_log};
use crate::table::Declared;

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It is applied.
    Done(Counts),
    /// It was before.
    Duplicate,
    /// It does not follow: ask again from there.
    Gap(Position),
    /// It is of another log than the one that is followed, or nothing is followed: compare rows, then [`Store::follow`].
    Other,
    /// It is kept until its transaction ends.
    Staged,
}

/// What a batch did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Losers that were kept.
    pub conflicts: u64,
    /// Changes that were dropped, because their tenant has moved away since.
    pub forgotten: u64,
    /// Changes that wait.
    pub parked: u64,
    /// Records past their epoch's cut, which were kept and not taken.
    pub stranded: u64,
    /// Rows that were put or deleted.
    pub written: u64,
}

/// What was taken of some records.
#[derive(Debug, Default)]
struct Taken {
    conflicts: u64,
    forgotten: u64,
    parked: Vec<(Record, Obstacle)>,
    /// This log tells what is taken.
    told: bool,
    written: u64,
}

/// How a region's log is taken.
#[derive(Clone, Copy, Debug)]
struct Under<'a> {
    /// An epoch is to begin here.
    begins: bool,
    /// What comes is kept for other copies.
    keeps: bool,
    source: &'a RegionName,
}

const PROGRESS: &str = "SELECT system, timeline, incarnation, epoch, tx, seq, staged_epoch, staged_tx, staged_seq, seen_us \
    FROM portolan_progress WHERE source = $1";

impl Store {
    /// How far another's log has been applied here.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn progress(&self, source: &str) -> Result<Option<Progress>, Error> {
        let mut session = self.acquire(Role::Applier).await?;
        progress(&mut session, source, PROGRESS).await
    }

    /// Begins to follow a log after a position; what was staged of the one before is dropped.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn follow(&self, source: &str, identity: &Identity, at: Position) -> Result<(), Error> {
        let mut session = self.begin(Role::Applier).await?;
        session.run("DELETE FROM portolan_staged WHERE source = $1", &[source.into()]).await?;
        session.run("DELETE FROM portolan_progress WHERE source = $1", &[source.into()]).await?;
        session
            .run(
                "INSERT INTO portolan_progress (source, system, timeline, incarnation, epoch, tx, seq) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7)",
                &[
                    source.into(),
                    identity.system.as_str().into(),
                    identity.timeline.into(),
                    identity.incarnation.as_str().into(),
                    at.epoch.0.into(),
                    at.transaction.into(),
                    at.sequence.into(),
                ],
            )
            .await?;
        session.commit().await
    }

    /// Applies a batch of another's log, in one transaction with the progress through it.
    ///
    /// # Errors
    /// [`Error::Busy`] when others stand in the way; nothing has changed then. [`Error::Unknown`] when the commit was not
    /// answered: ask for the progress.
    ///
    /// # Cancel safety
    /// Cancel-safe: a batch is applied with its progress or not at all, and twice is once.
    pub async fn apply(&self, source: &str, batch: &Batch) -> Result<Applied, Error> {
        self.apply_in(source, batch, None).await
    }

    /// Applies a batch of another region's log as [`Self::apply`] does, but for what lies past its epoch's cut: that is kept as stranded.
    /// `keeps`: what comes is kept for other copies, until [`Self::trim_tail`].
    ///
    /// # Errors
    /// As [`Self::apply`]; [`Error::Sealed`] when an epoch is over, and where it was cut is not known here yet.
    ///
    /// # Cancel safety
    /// As [`Self::apply`].
    pub async fn apply_under(
        &self,
        source: &RegionName,
        batch: &Batch,
        keeps: bool,
    ) -> Result<Applied, Error> {
        self.apply_in(source.as_str(), batch, Some(Under { source, keeps, begins: false })).await
    }

    /// Applies a batch of another region's log where an epoch is to begin, as [`Self::apply_under`] does, and keeps it. What is of an epoch
    /// that is over, and whose cut nobody has told, counts: this copy is about to cut it.
    ///
    /// # Errors
    /// As [`Self::apply`].
    ///
    /// # Cancel safety
    /// As [`Self::apply`].
    pub async fn apply_before_epoch(&self, source: &RegionName, batch: &Batch) -> Result<Applied, Error> {
        self.apply_in(source.as_str(), batch, Some(Under { source, keeps: true, begins: true })).await
    }

    async fn apply_in(
        &self,
        source: &str,
        batch: &Batch,
        under: Option<Under<'_>>,
    ) -> Result<Applied, Error> {
        batch.check(BATCH_RECORDS_MAX)?;
        let mut session = self.begin(Role::Applier).await?;
        if under.is_some() {
            // No epoch begins, and none is heard of, while this is held: it comes before all other locks.
            enter_log(&mut session).await?;
            if !session.query("SELECT 1 FROM portolan_copying LIMIT 1", &[]).await?.is_empty() {
                session.rollback().await?;
                return Err(Error::Busy("rows are being copied, and come first".to_owned()));
            }
        }
        let before = progress(&mut session, source, &format!("{PROGRESS} {{lock}}")).await?;
        let admission = before.as_ref().map_or(Admission::Other, |before| before.admit(batch));
        let (Some(before), Admission::Apply | Admission::Finish | Admission::Stage) = (before, admission)
        else {
            session.rollback().await?;
            return Ok(match admission {
                Admission::Duplicate => Applied::Duplicate,
                Admission::Gap(position) => Applied::Gap(position),
                _ => Applied::Other,
            });
        };
        let mut sieve = None;
        if let Some(Under { source, keeps, begins }) = under {
            let of = Sieve::of(&mut session, source, &batch.identity).await?;
            sieve = Some(if begins { of.before_epoch() } else { of });
            if keeps {
                keep_tail(&mut session, source, batch).await?;
            }
        }
        self.enter_applying(&mut session).await?;
        let mut counts = Counts::default();
        if admission == Admission::Stage {
            stage(&mut session, source, &batch.records).await?;
        } else {
            if admission == Admission::Finish {
                self.absorb_staged(&mut session, source, sieve.as_ref(), &mut counts).await?;
            }
            self.absorb_sifted(&mut session, &batch.records, sieve.as_ref(), &mut counts).await?;
        }
        advance(&mut session, source, &before, &before.with(batch)).await?;
        leave_applying(&mut session).await?;
        session.commit().await?;
        Ok(if admission == Admission::Stage { Applied::Staged } else { Applied::Done(counts) })
    }

    /// Merges rows of another, as [`Store::rows`] gives them, without any progress.
    ///
    /// # Errors
    /// As [`Store::apply`].
    pub async fn merge(&self, records: &[Record]) -> Result<Counts, Error> {
        let mut session = self.begin(Role::Applier).await?;
        self.enter_applying(&mut session).await?;
        let mut counts = Counts::default();
        for chunk in records.chunks(CHUNK_RECORDS) {
            self.absorb(&mut session, chunk, &mut counts, false).await?;
        }
        leave_applying(&mut session).await?;
        session.commit().await?;
        Ok(counts)
    }

    /// Forgets a tenant that has moved away with this placement: its rows, their versions, tombstones, losers. One record
    /// tells followers to do the same.
    ///
    /// # Errors
    /// [`Error::Busy`] unless the tenant has been placed elsewhere with this placement or a later one, or while rows that were
    /// there before a declaration have no versions yet.
    pub async fn forget(&self, tenant: &TenantName, placement: Placement) -> Result<(), Error> {
        let mut session = self.begin(Role::Applier).await?;
        let there = crate::store::tenant_state(&mut session, tenant).await?;
        if there.placement < placement || !there.away {
            session.rollback().await?;
            return Err(Error::Busy("the tenant has not been placed elsewhere".to_owned()));
        }
        if there.forgotten >= placement {
            return session.rollback().await;
        }
        adopt::done(&mut session).await?;
        enter_log(&mut session).await?;
        self.enter_applying(&mut session).await?;
        self.forget_rows(&mut session, tenant, placement).await?;
        let sql = match session.dialect() {
            Dialect::Postgres => {
                "INSERT INTO portolan.log (epoch, tx, at_us, tenant, placement, schema, kind, piece) \
                 SELECT epoch, pg_current_xact_id()::text::bigint, portolan.now_us(), $1, $2, schema, 'forget', piece \
                 FROM portolan.fence"
            }
            Dialect::Sqlite => {
                "INSERT INTO portolan_log (epoch, tx, at_us, tenant, placement, schema, kind) \
                 SELECT epoch, tx, {now}, $1, $2, schema, 'forget' FROM portolan_fence"
            }
        };
        session.run(sql, &[tenant.as_str().into(), placement.0.into()]).await?;
        leave_applying(&mut session).await?;
        session.commit().await
    }

    /// What follows is the applier's, until [`leave_applying`] or the end of the transaction.
    pub(crate) async fn enter_applying(&self, session: &mut Session) -> Result<(), Error> {
        let sql = match session.dialect() {
            Dialect::Postgres => "SELECT set_config('portolan.applying', 'on', true)",
            Dialect::Sqlite => "INSERT INTO portolan_session (id, applying) VALUES (1, 1)",
        };
        session.execute(sql, &[]).await.map(drop)
    }

    /// Lets those records through that count.
    async fn absorb_sifted(
        &self,
        session: &mut Session,
        records: &[Record],
        sieve: Option<&Sieve>,
        counts: &mut Counts,
    ) -> Result<(), Error> {
        let Some(sieve) = sieve else { return self.absorb(session, records, counts, false).await };
        let sifted = sieve.sift(records)?;
        counts.stranded += sifted.stranded.len() as u64;
        keep_stranded(session, sieve.source(), &sifted.stranded).await?;
        raise_placements(session, &sifted.count).await?;
        self.absorb(session, &sifted.count, counts, false).await
    }

    async fn absorb_staged(
        &self,
        session: &mut Session,
        source: &str,
        sieve: Option<&Sieve>,
        counts: &mut Counts,
    ) -> Result<(), Error> {
        // Bytes limit a chunk as they limit a batch; what was taken before is not walked over again.
        let next = "WITH due AS (SELECT epoch, tx, seq, octet_length(record) AS bytes FROM portolan_staged \
            WHERE source = $1 AND (epoch, tx, seq) > ($2, $3, $4) ORDER BY epoch, tx, seq LIMIT $5), \
            fit AS (SELECT epoch, tx, seq, sum(bytes) OVER w AS bytes, count(*) OVER w AS records FROM due \
            WINDOW w AS (ORDER BY epoch, tx, seq)) \
            SELECT s.record, s.epoch, s.tx, s.seq FROM fit CROSS JOIN portolan_staged s \
            WHERE s.source = $1 AND s.epoch = fit.epoch AND s.tx = fit.tx AND s.seq = fit.seq \
            AND (fit.bytes <= $6 OR fit.records = 1) ORDER BY fit.epoch, fit.tx, fit.seq";
        let delete = "DELETE FROM portolan_staged WHERE source = $1 \
            AND (epoch, tx, seq) > ($2, $3, $4) AND (epoch, tx, seq) <= ($5, $6, $7)";
        let mut after = [Value::Int(0), Value::Int(0), Value::Int(0)];
        loop {
            let mut args = vec![Value::from(source)];
            args.extend(after.clone());
            let limits = [(CHUNK_RECORDS as u64).into(), (BATCH_BYTES_MAX as u64).into()];
            let rows = session.query(next, &[args.as_slice(), &limits].concat()).await?;
            let Some(last) = rows.last() else { return Ok(()) };
            let records = rows.iter().map(|row| parse(&row.text(0)?)).collect::<Result<Vec<Record>, _>>()?;
            self.absorb_sifted(session, &records, sieve, counts).await?;
            after = [last.value(1).clone(), last.value(2).clone(), last.value(3).clone()];
            session.run(delete, &[args.as_slice(), &after].concat()).await?;
        }
    }

    /// Lets records through the gate, and does what it says.
    ///
    /// All at once if the database takes them so. If not, one after the other as they were written, because that order kept
    /// every constraint where they come from; and what came before its time once more at the end. What is refused even
    /// then is parked. What is taken stands in this log too, if it is to be `told`. What waited for the same rows is judged again: a newer
    /// version may have made it void, and then it waits no longer.
    pub(crate) async fn absorb(
        &self,
        session: &mut Session,
        records: &[Record],
        counts: &mut Counts,
        told: bool,
    ) -> Result<(), Error> {
        let declared = self.declared();
        let (mut good, mut parked) = (Vec::new(), Vec::new());
        let waiting = waiting(session, records).await?;
        for record in records.iter().chain(&waiting) {
            match fits(&declared, record) {
                Ok(()) => good.push(record),
                Err(obstacle) => parked.push((record.clone(), obstacle)),
            }
        }
        lock(session, &declared, &good, told).await?;
        let mut taken = Taken { told, ..Taken::default() };
        if !self.take(session, &declared, &good, &mut taken).await?.is_empty() {
            let mut early = Vec::new();
            for record in &good {
                early.extend(self.take(session, &declared, &[record], &mut taken).await?);
            }
            for (record, _) in early {
                parked.extend(self.take(session, &declared, &[&record], &mut taken).await?);
            }
        }
        parked.extend(taken.parked);
        let waits = |record: &Record| parked.iter().any(|(parked, _)| parked == record);
        let void: Vec<Record> = waiting.iter().filter(|record| !waits(record)).cloned().collect();
        unpark(session, &void).await?;
        park(session, &parked).await?;
        // Those that waited before are counted already.
        parked.retain(|(record, _)| !waiting.contains(record));
        counts.conflicts += taken.conflicts;
        counts.forgotten += taken.forgotten;
        counts.written += taken.written;
        counts.parked += parked.len() as u64;
        Ok(())
    }

    /// Takes records as one set, or leaves no trace and returns those that it would have written, with the database's words.
    async fn take(
        &self,
        session: &mut Session,
        declared: &[Declared],
        records: &[&Record],
        taken: &mut Taken,
    ) -> Result<Vec<(Record, Obstacle)>, Error> {
        session.execute("SAVEPOINT portolan_take", &[]).await?;
        let now = session.one("SELECT {now}", &[]).await?.number(0)?;
        let mut ground = self.ground(session, declared, records).await?;
        let plan = Plan::make(&mut ground, records.iter().copied(), now);
        for (tenant, placement) in &plan.forgets {
            self.forget_rows(session, tenant, *placement).await?;
        }
        self.keep_conflicts(session, &plan).await?;
        if let Some(why) = write(session, declared, &plan.writes).await? {
            session.execute("ROLLBACK TO portolan_take", &[]).await?;
            session.execute("RELEASE portolan_take", &[]).await?;
            let obstacle = |write: Write| {
                let kind = refusal(declared, &write, &why);
                (write.record, Obstacle { kind, why: why.message.clone() })
            };
            return Ok(plan.writes.into_values().map(obstacle).collect());
        }
        save_states(session, &plan.writes).await?;
        if taken.told {
            tell(session, &plan.writes).await?;
        }
        session.execute("RELEASE portolan_take", &[]).await?;
        taken.conflicts += plan.conflicts.len() as u64;
        taken.forgotten += plan.forgotten;
        let obstacle = |why: Why| Obstacle { kind: why.kind(), why: why.text().to_owned() };
        taken.parked.extend(plan.parked.into_iter().map(|(record, why)| (record, obstacle(why))));
        taken.written += plan.writes.len() as u64;
        Ok(Vec::new())
    }

    /// What the database knows that bears on records.
    async fn ground(
        &self,
        session: &mut Session,
        declared: &[Declared],
        records: &[&Record],
    ) -> Result<Ground, Error> {
        let mut ground = ground(session, records).await?;
        for Declared { table, .. } in declared {
            if table.conflict != ConflictRule::LastWriterWins {
                ground.rules.insert(table.name.to_string(), table.conflict.clone());
            }
        }
        let merged = |table: &str| matches!(ground.rules.get(table), Some(ConflictRule::Columns { .. }));
        let there = ground.rows.iter().filter(|(id, state)| !state.deleted && merged(&id.table));
        let there: Vec<RowId> = there.map(|(id, _)| id.clone()).collect();
        ground.images = self.images(session, &there).await?;
        Ok(ground)
    }

    /// All of a tenant that is of an earlier placement goes, without tombstones.
    async fn forget_rows(
        &self,
        session: &mut Session,
        tenant: &TenantName,
        placement: Placement,
    ) -> Result<(), Error> {
        let args: [Value; 2] = [tenant.as_str().into(), placement.0.into()];
        for table in self.declared().iter().rev() {
            let mut after = String::new();
            loop {
                let next = "SELECT key FROM portolan_row WHERE tenant = $1 AND placement < $2 AND table_name = $3 \
                    AND key > $4 ORDER BY key LIMIT $5";
                let [tenant, placement] = args.clone();
                let name = table.table.name.as_str().into();
                let limit = (CHUNK_RECORDS as u64).into();
                let rows =
                    session.query(next, &[tenant, placement, name, after.as_str().into(), limit]).await?;
                let Some(last) = rows.last() else { break };
                after = last.text(0)?;
                let keys = rows.iter().map(|row| row.text(0)).collect::<Result<Vec<_>, _>>()?;
                session.execute(&table.delete(session.dialect()), &[array(&keys).into()]).await?;
                let ids: Vec<_> =
                    keys.iter().map(|key| json!({ "t": table.table.name.as_str(), "k": key })).collect();
                session
                    .run(
                        "DELETE FROM portolan_row WHERE (table_name, key) IN \
                         (SELECT each.value ->> 't', each.value ->> 'k' FROM {each})",
                        &[serde_json::Value::from(ids).to_string().into()],
                    )
                    .await?;
            }
        }
        for table in ["portolan_row", "portolan_conflict", "portolan_parked"] {
            session.run(&format!("DELETE FROM {table} WHERE tenant = $1 AND placement < $2"), &args).await?;
        }
        session
            .run(
                "INSERT INTO portolan_tenant (tenant, placement, forgotten, away) VALUES ($1, $2, $2, 1) \
                 ON CONFLICT (tenant) DO UPDATE SET forgotten = excluded.forgotten, \
                 away = CASE WHEN portolan_tenant.placement <= excluded.placement THEN 1 ELSE portolan_tenant.away END, \
                 placement = CASE WHEN portolan_tenant.placement < excluded.placement THEN excluded.placement \
                 ELSE portolan_tenant.placement END",
                &args,
            )
            .await
            .map(drop)
    }
}

pub(crate) fn parse(text: &str) -> Result<Record, Error> {
    serde_json::from_str(text).map_err(|error| Error::Damaged(format!("a kept record: {error}")))
}

pub(crate) fn print(record: &Record) -> Result<String, Error> {
    serde_json::to_string(record).map_err(|error| Error::Damaged(format!("a record: {error}")))
}

/// Texts that are JSON each, as one array.
pub(crate) fn array(texts: &[String]) -> String {
    format!("[{}]", texts.join(","))
}

async fn progress(session: &mut Session, source: &str, sql: &str) -> Result<Option<Progress>, Error> {
    let rows = session.query(sql, &[source.into()]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let staged = match row.number_or_null(6)? {
        Some(epoch) => Some(Position::new(epoch, row.number(7)?, row.number(8)?)),
        None => None,
    };
    Ok(Some(Progress {
        identity: Identity { system: row.text(0)?, timeline: row.number(1)?, incarnation: row.text(2)? },
        applied: Position::new(row.number(3)?, row.number(4)?, row.number(5)?),
        staged,
        seen_us: row.number(9)?,
    }))
}

/// Moves the progress on, from just where it was seen.
async fn advance(
    session: &mut Session,
    source: &str,
    before: &Progress,
    after: &Progress,
) -> Result<(), Error> {
    let (was, now) = (before.applied, after.applied);
    let done = session
        .run(
            "UPDATE portolan_progress SET epoch = $1, tx = $2, seq = $3, \
             staged_epoch = CAST($4 AS BIGINT), staged_tx = CAST($5 AS BIGINT), staged_seq = CAST($6 AS BIGINT), seen_us = $12 \
             WHERE source = $7 AND epoch = $8 AND tx = $9 AND seq = $10 AND incarnation = $11",
            &[
                now.epoch.0.into(),
                now.transaction.into(),
                now.sequence.into(),
                after.staged.map(|staged| staged.epoch.0.to_string()).into(),
                after.staged.map(|staged| staged.transaction.to_string()).into(),
                after.staged.map(|staged| staged.sequence.to_string()).into(),
                source.into(),
                was.epoch.0.into(),
                was.transaction.into(),
                was.sequence.into(),
                before.identity.incarnation.as_str().into(),
                after.seen_us.into(),
            ],
        )
        .await?;
    if done == 1 { Ok(()) } else { Err(Error::Busy("another applies the same log".to_owned())) }
}

async fn stage(session: &mut Session, source: &str, records: &[Record]) -> Result<(), Error> {
    for record in records {
        let at = record.position;
        session
            .run(
                "INSERT INTO portolan_staged (source, epoch, tx, seq, record) VALUES ($1, $2, $3, $4, $5)",
                &[
                    source.into(),
                    at.epoch.0.into(),
                    at.transaction.into(),
                    at.sequence.into(),
                    print(record)?.into(),
                ],
            )
            .await?;
    }
    Ok(())
}

pub(crate) async fn leave_applying(session: &mut Session) -> Result<(), Error> {
    match session.dialect() {
        Dialect::Postgres => Ok(()),
        Dialect::Sqlite => session.execute("DELETE FROM portolan_session", &[]).await.map(drop),
    }
}

pub(crate) fn columns(row: &str) -> Result<Columns, serde_json::Error> {
    serde_json::from_str(row)
}

/// Nobody else writes these tables until the batch is in: a local writer and the applier would not see each other. All
/// appliers take the tables in one order. A tenant that moves here has no local writer, so that others are kept out only where its
/// keys might be theirs.
pub(crate) async fn lock(
    session: &mut Session,
    declared: &[Declared],
    records: &[&Record],
    moves: bool,
) -> Result<(), Error> {
    if session.dialect() == Dialect::Sqlite {
        return Ok(());
    }
    let forgets = records.iter().any(|record| record.change == Change::Forget);
    let named: BTreeSet<&str> = records
        .iter()
        .filter_map(|record| match &record.change {
            Change::Row(change) => Some(change.id.table.as_str()),
            Change::Forget => None,
        })
        .collect();
    let wanted = |name: &str| forgets || named.contains(name);
    let moved = |table: &Declared| {
        moves && table.table.tenant.as_ref().is_some_and(|tenant| table.table.key.contains(tenant))
    };
    let fixed: Vec<Declared> = declared.iter().filter(|table| !moved(table)).cloned().collect();
    let all = if forgets { declared } else { &fixed };
    lock_tables(session, all, wanted).await
}

/// Nobody else writes these tables until the transaction ends. All take them in one order.
pub(crate) async fn lock_tables(
    session: &mut Session,
    declared: &[Declared],
    wanted: impl Fn(&str) -> bool,
) -> Result<(), Error> {
    if session.dialect() == Dialect::Sqlite {
        return Ok(());
    }
    for table in declared.iter().filter(|table| wanted(table.table.name.as_str())) {
        let sql = format!("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE", table.name(Dialect::Postgres));
        session.execute(&sql, &[]).await?;
    }
    Ok(())
}

/// What the database knows that bears on records.
pub(crate) async fn ground(session: &mut Session, records: &[&Record]) -> Result<Ground, Error> {
    let mut ids = BTreeSet::new();
    let mut tenants = BTreeSet::new();
    for record in records {
        tenants.extend(record.tenant.as_ref().map(TenantName::as_str));
        if let Change::Row(change) = &record.change {
            ids.insert((change.id.table.as_str(), change.id.key.as_str()));
        }
    }
    let ids: Vec<_> = ids.into_iter().map(|(table, key)| json!({ "t": table, "k": key })).collect();
    let rows = session
        .query(
            "SELECT r.table_name, r.key, r.tenant, r.placement, r.deleted, r.epoch, r.v, r.origin, \
             r.replaces_epoch, r.replaces_v, r.replaces_origin, CAST(r.marks AS TEXT) FROM {each} \
             JOIN portolan_row r ON r.table_name = each.value ->> 't' AND r.key = each.value ->> 'k'",
            &[serde_json::Value::from(ids).to_string().into()],
        )
        .await?;
    let mut ground = Ground::default();
    for row in &rows {
        let state = RowState {
            tenant: tenant_of(row, 2)?,
            placement: Placement(row.number(3)?),
            deleted: row.number(4)? == 1,
            version: version(row, 5)?.ok_or_else(|| Error::Damaged("a row without a version".to_owned()))?,
            replaces: version(row, 8)?,
            marks: row.text_or_null(11)?,
        };
        ground.rows.insert(RowId { table: row.text(0)?, key: row.text(1)? }, state);
    }
    let tenants: Vec<_> = tenants.into_iter().map(|tenant| json!({ "n": tenant })).collect();
    let rows = session
        .query(
            "SELECT t.tenant, t.forgotten FROM {each} JOIN portolan_tenant t ON t.tenant = each.value ->> 'n'",
            &[serde_json::Value::from(tenants).to_string().into()],
        )
        .await?;
    let forgotten = |row: &Row| Ok(Some((tenant_of(row, 0)?, Placement(row.number(1)?))));
    let forgotten = rows.iter().map(forgotten).collect::<Result<Vec<_>, Error>>()?;
    ground.forgotten = forgotten
        .into_iter()
        .flatten()
        .filter_map(|(tenant, placement)| Some((tenant?, placement)))
        .collect();
    Ok(ground)
}

/// Puts and deletes rows: deletions first, children before those they refer to, then the others the other way round.
/// Returns why the database refuses, if it does.
pub(crate) async fn write(
    session: &mut Session,
    declared: &[Declared],
    writes: &BTreeMap<RowId, Write>,
) -> Result<Option<Box<Rejection>>, Error> {
    let of = |table: &Declared, deleted: bool| {
        let name = table.table.name.as_str().to_owned();
        let of = writes.iter().filter(move |(id, write)| id.table == name && write.row.is_none() == deleted);
        of.collect::<Vec<_>>()
    };
    let mut sets = Vec::new();
    for table in declared.iter().rev() {
        sets.push((table, of(table, true)));
    }
    for table in declared {
        let mut alike: HashMap<BTreeSet<String>, Vec<(&RowId, &Write)>> = HashMap::new();
        for (id, write) in of(table, false) {
            alike.entry(names(table, write)).or_default().push((id, write));
        }
        sets.extend(alike.into_values().map(|rows| (table, rows)));
    }
    for (table, rows) in sets {
        let Some((_, first)) = rows.first() else { continue };
        let (sql, texts) = statement(session.dialect(), table, first, &rows);
        match session.attempt(&sql, &[texts.into()]).await {
            Err(Error::Rejected(why)) => return Ok(Some(why)),
            done => done.map(drop)?,
        }
    }
    deferred(session).await
}

/// Has what is deferred looked at now, because at commit no single change could wait for it any more.
async fn deferred(session: &mut Session) -> Result<Option<Box<Rejection>>, Error> {
    if session.dialect() == Dialect::Sqlite {
        return Ok(None);
    }
    match session.attempt("SET CONSTRAINTS ALL IMMEDIATE", &[]).await {
        Err(Error::Rejected(why)) => Ok(Some(why)),
        Err(error) => Err(error),
        Ok(_) => session.execute("SET CONSTRAINTS ALL DEFERRED", &[]).await.map(|_| None),
    }
}

/// The columns that a row has and that can be written.
pub(crate) fn names(table: &Declared, write: &Write) -> BTreeSet<String> {
    let row = write.row.as_deref().and_then(|row| columns(row).ok()).unwrap_or_default();
    row.into_keys().filter(|name| table.columns.contains(name)).collect()
}

fn statement(
    dialect: Dialect,
    table: &Declared,
    first: &Write,
    rows: &[(&RowId, &Write)],
) -> (String, String) {
    if first.row.is_none() {
        let keys: Vec<String> = rows.iter().map(|(id, _)| id.key.clone()).collect();
        return (table.delete(dialect), array(&keys));
    }
    let texts: Vec<String> = rows.iter().filter_map(|(_, write)| write.row.clone()).collect();
    (table.put(dialect, &names(table, first)), array(&texts))
}

pub(crate) async fn save_states(session: &mut Session, writes: &BTreeMap<RowId, Write>) -> Result<(), Error> {
    if writes.is_empty() {
        return Ok(());
    }
    let state = |(id, write): (&RowId, &Write)| {
        let state = &write.state;
        let replaces = state.replaces.as_ref();
        json!({
            "t": id.table, "k": id.key, "n": state.tenant, "p": state.placement, "d": u8::from(state.deleted),
            "e": state.version.epoch, "v": state.version.v, "o": state.version.origin,
            "re": replaces.map(|old| old.epoch), "rv": replaces.map(|old| old.v), "ro": replaces.map(|old| &old.origin),
            "m": state.marks,
        })
    };
    let states: Vec<_> = writes.iter().map(state).collect();
    let number = |name: &str| format!("CAST(each.value ->> '{name}' AS BIGINT)");
    let marks = match session.dialect() {
        Dialect::Postgres => "(each.value ->> 'm')::jsonb",
        Dialect::Sqlite => "each.value ->> 'm'",
    };
    let sql = format!(
        "INSERT INTO portolan_row (table_name, key, tenant, placement, deleted, round, epoch, v, origin, \
         replaces_epoch, replaces_v, replaces_origin, marks) \
         SELECT each.value ->> 't', each.value ->> 'k', each.value ->> 'n', {}, {deleted}, {deleted} * f.round, \
         {}, {}, each.value ->> 'o', {}, {}, each.value ->> 'ro', {marks} FROM {{each}} CROSS JOIN portolan_fence f WHERE true \
         ON CONFLICT (table_name, key) DO UPDATE SET tenant = excluded.tenant, placement = excluded.placement, \
         deleted = excluded.deleted, round = excluded.round, epoch = excluded.epoch, v = excluded.v, origin = excluded.origin, \
         replaces_epoch = excluded.replaces_epoch, replaces_v = excluded.replaces_v, \
         replaces_origin = excluded.replaces_origin, marks = excluded.marks",
        number("p"),
        number("e"),
        number("v"),
        number("re"),
        number("rv"),
        deleted = number("d"),
    );
    session.run(&sql, &[serde_json::Value::from(states).to_string().into()]).await.map(drop)
}

/// Has this log tell of rows that were taken, so that its followers take them too.
async fn tell(session: &mut Session, writes: &BTreeMap<RowId, Write>) -> Result<(), Error> {
    if writes.is_empty() {
        return Ok(());
    }
    let told = |(id, write): (&RowId, &Write)| {
        json!({
            "t": id.table, "k": id.key, "row": write.row, "kind": if write.row.is_some() { "put" } else { "delete" },
        })
    };
    let told: Vec<_> = writes.iter().map(told).collect();
    let (number, row, column, piece) = match session.dialect() {
        Dialect::Postgres => {
            ("pg_current_xact_id()::text::bigint", "(each.value ->> 'row')::jsonb", ", piece", ", f.piece")
        }
        Dialect::Sqlite => ("f.tx", "each.value ->> 'row'", "", ""),
    };
    let sql = format!(
        "INSERT INTO portolan_log (epoch, tx, at_us, tenant, placement, schema, kind, table_name, key, row, \
         version_epoch, v, origin, replaces_epoch, replaces_v, replaces_origin, marks{column}) \
         SELECT f.epoch, {number}, {{now}}, r.tenant, r.placement, f.schema, each.value ->> 'kind', r.table_name, r.key, \
         {row}, r.epoch, r.v, r.origin, r.replaces_epoch, r.replaces_v, r.replaces_origin, r.marks{piece} \
         FROM {{each}} JOIN portolan_row r ON r.table_name = each.value ->> 't' AND r.key = each.value ->> 'k' \
         CROSS JOIN portolan_fence f"
    );
    session.run(&sql, &[serde_json::Value::from(told).to_string().into()]).await.map(drop)
}
