//! A copy of another region's shard, as it begins: all its rows, page by page, and from when its log is followed.
//!
//! A page is all that its source has between two keys. What is here and not there goes when the last page is in, children before those that they
//! refer to; what is here in a higher version than there gives way at once, because it was written under a lease that the source's
//! outlived. Both are kept as losers, unless all that is here came from that very log: then the source has taken it away itself.

use portolan_core::ids::{RegionName, TenantName};
use portolan_core::log::{Epoch, Identity, Placement, Position, Version};
use serde_json::json;

use crate::apply::{Counts, array, leave_applying, lock_tables};
use crate::database::{Row, Session, Value};
use crate::defaults::CHUNK_RECORDS;
use crate::error::Error;
use crate::ledger::{Lost, keep, name};
use crate::lineage::own;
use crate::model::copying::{Told, Way, is_lost, told, way};
use crate::model::kind::ConflictKind;
use crate::model::lineage::{Cut, is_leased};
use crate::model::record::{Change, Record, RowId};
use crate::peers::hold_for;
use crate::read::{tenant_of, version};
use crate::store::{FENCE, FENCE_LOCK, Role, Store, alone, identity_now, tip, trimmed};
use crate::trim::note_trimmed;

/// How far another region's rows have been copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copying {
    /// The last row that is here; none before the first.
    pub after: Option<RowId>,
    /// From where the log is followed when all are here.
    pub from: Position,
    /// Of which log they are.
    pub identity: Identity,
    /// How many came.
    pub rows: u64,
}

/// By which rule a row lost that its source does not have.
const STRANDED: &str = "source";

/// A row that is here.
struct Here {
    deleted: bool,
    id: RowId,
    placement: Placement,
    tenant: Option<TenantName>,
    version: Version,
}

const COPYING: &str = "SELECT system, timeline, incarnation, epoch, tx, seq, table_name, key, rows, clean FROM portolan_copying \
    WHERE source = $1";
const FORGET_STATES: &str = "DELETE FROM portolan_row WHERE (table_name, key) IN \
    (SELECT each.value ->> 't', each.value ->> 'k' FROM {each})";

impl Store {
    /// How far a region's rows have been copied; none when they are not being.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn copying(&self, source: &RegionName) -> Result<Option<Copying>, Error> {
        let mut session = self.acquire(Role::Applier).await?;
        Ok(copying(&mut session, source, COPYING).await?.map(|(copying, _)| copying))
    }

    /// Begins to copy a region's rows, of this log, which is followed from a position when they are here; the `others`' logs from where
    /// that region had come. Nothing is followed until then.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn begin_copy(
        &self,
        source: &RegionName,
        identity: &Identity,
        from: Position,
        others: &[Cut],
    ) -> Result<(), Error> {
        let mut session = self.begin(Role::Owner).await?;
        alone(&mut session, FENCE_LOCK, None).await?;
        let name = source.as_str();
        let same = "SELECT 1 FROM portolan_progress WHERE source = $1 AND system = $2 AND timeline = $3 AND incarnation = $4 \
            UNION ALL SELECT 1 FROM portolan_copying WHERE source = $1 AND system = $2 AND timeline = $3 AND incarnation = $4 AND clean = 1";
        let log: [Value; 4] = [
            name.into(),
            identity.system.as_str().into(),
            identity.timeline.into(),
            identity.incarnation.as_str().into(),
        ];
        let clean = !session.query(same, &log).await?.is_empty();
        for table in ["progress", "staged", "copying", "gone", "tail"] {
            session.run(&format!("DELETE FROM portolan_{table}"), &[]).await?;
        }
        match self.told_there(&mut session, others).await? {
            // What it writes as a member and its source lacks comes to it by the log, of which nothing may go.
            Told::Through(at) => {
                let log = identity_now(&mut session).await?;
                hold_for(&mut session, source, &log, at).await?;
            }
            Told::Nothing => self.begin_log_anew(&mut session).await?,
            Told::All => {}
        }
        session.run("UPDATE portolan_fence SET member = 0", &[]).await?;
        let others = serde_json::to_string(others)
            .map_err(|error| Error::Damaged(format!("how far others' logs had come: {error}")))?;
        let rest: [Value; 5] = [
            from.epoch.0.into(),
            from.transaction.into(),
            from.sequence.into(),
            u64::from(clean).into(),
            others.into(),
        ];
        let sql = "INSERT INTO portolan_copying (source, system, timeline, incarnation, epoch, tx, seq, clean, others, table_name, key, \
            rows) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, '', '', 0)";
        session.run(sql, &[log.as_slice(), &rest].concat()).await?;
        session.commit().await
    }

    /// Takes the rows that come after one, in the order of their tables and keys; with the last, what is not among them goes, and the log is
    /// followed from where [`Self::begin_copy`] said.
    ///
    /// # Errors
    /// [`Error::Busy`] when no copy has begun or has come to another row, or others stand in the way; [`Error::Empty`] when the
    /// source has no rows at all, and nobody knows why those go that are here. Nothing has changed then.
    ///
    /// # Cancel safety
    /// Cancel-safe: a page is taken with how far the copy has come, or not at all.
    pub async fn copy(
        &self,
        source: &RegionName,
        after: Option<&RowId>,
        records: &[Record],
        ends: bool,
    ) -> Result<Counts, Error> {
        let mut session = self.begin(Role::Applier).await?;
        let begun = copying(&mut session, source, &format!("{COPYING} {{lock}}")).await?;
        // What does not come next would pass for all that there is between two other rows.
        let Some((before, clean)) = begun.filter(|(copying, _)| copying.after.as_ref() == after) else {
            session.rollback().await?;
            return Err(Error::Busy(format!(
                "the copy of the rows of `{source}` has not begun, or come to another row"
            )));
        };
        if ends && records.is_empty() && before.rows == 0 && !clean {
            let rows =
                session.one("SELECT count(*) FROM portolan_row WHERE deleted = 0", &[]).await?.number(0)?;
            if rows > 0 {
                session.rollback().await?;
                return Err(Error::Empty { rows, source_region: source.clone() });
            }
        }
        self.enter_applying(&mut session).await?;
        let last = records.iter().rev().find_map(row_of);
        let through = if ends { None } else { last.or(before.after.as_ref()) };
        self.make_way(&mut session, source, (before.after.as_ref(), through), records, clean).await?;
        let mut counts = Counts::default();
        for chunk in records.chunks(CHUNK_RECORDS) {
            self.absorb(&mut session, chunk, &mut counts, false).await?;
        }
        raise_placements(&mut session, records).await?;
        if ends {
            self.take_gone(&mut session, source).await?;
            if !self.take_back(&mut session, source, &mut counts).await? {
                session.rollback().await?;
                self.begin_anew().await?;
                let why = "what was written here is kept no longer, and its source has not heard of it: its rows come anew";
                return Err(Error::Busy(why.to_owned()));
            }
            self.retry(&mut session, None, &mut counts).await?;
            follow_from(&mut session, source, self.origin()).await?;
        } else if let Some(last) = last {
            let rows = before.rows.saturating_add(records.len() as u64);
            let sql = "UPDATE portolan_copying SET table_name = $2, key = $3, rows = $4 WHERE source = $1";
            let args =
                [source.as_str().into(), last.table.as_str().into(), last.key.as_str().into(), rows.into()];
            session.run(sql, &args).await?;
        }
        leave_applying(&mut session).await?;
        session.commit().await?;
        Ok(counts)
    }

    /// Takes rows away of which the primary knows nothing, and keeps them as losers. Those that members wrote, and tombstones, stay.
    /// Returns how many went.
    ///
    /// # Errors
    /// As [`Store::apply`].
    pub async fn withdraw(&self, rows: &[(RowId, Version)], primary: &RegionName) -> Result<u64, Error> {
        if rows.is_empty() {
            return Ok(0);
        }
        let mut session = self.begin(Role::Applier).await?;
        self.enter_applying(&mut session).await?;
        let sql = "SELECT r.table_name, r.key, r.tenant, r.placement, r.deleted, r.epoch, r.v, r.origin FROM {each} \
            JOIN portolan_row r ON r.table_name = each.value ->> 't' AND r.key = each.value ->> 'k' \
            WHERE r.deleted = 0 AND r.epoch > 0";
        let declared = self.declared();
        let named: std::collections::BTreeSet<&str> = rows.iter().map(|(id, _)| id.table.as_str()).collect();
        lock_tables(&mut session, &declared, |table| named.contains(table)).await?;
        let found = session.query(sql, &[ids(rows.iter().map(|(id, _)| id)).into()]).await?;
        let mut found = found.iter().map(state_here).collect::<Result<Vec<_>, _>>()?;
        // What has been written since is another row.
        found.retain(|own| rows.iter().any(|(id, version)| *id == own.id && *version == own.version));
        self.keep_stranded(&mut session, &found.iter().collect::<Vec<_>>(), primary).await?;
        for table in declared.iter().rev() {
            let of = found.iter().filter(|own| own.id.table == table.table.name.as_str());
            let keys: Vec<String> = of.map(|own| own.id.key.clone()).collect();
            if !keys.is_empty() {
                session.execute(&table.delete(session.dialect()), &[array(&keys).into()]).await?;
            }
        }
        session.run(FORGET_STATES, &[ids(found.iter().map(|own| &own.id)).into()]).await?;
        leave_applying(&mut session).await?;
        session.commit().await?;
        Ok(found.len() as u64)
    }

    /// What is here between two rows and is not on the page, or is there in a lower version.
    async fn make_way(
        &self,
        session: &mut Session,
        source: &RegionName,
        (after, through): (Option<&RowId>, Option<&RowId>),
        records: &[Record],
        clean: bool,
    ) -> Result<(), Error> {
        let there: std::collections::HashMap<&RowId, (Placement, &Version)> = records
            .iter()
            .filter_map(|record| match &record.change {
                Change::Row(change) => Some((&change.id, (record.placement, &change.version))),
                Change::Forget => None,
            })
            .collect();
        let mut next = after.cloned().unwrap_or_else(|| RowId { table: String::new(), key: String::new() });
        loop {
            let page = here(session, &next, through).await?;
            let Some(last) = page.last() else { return Ok(()) };
            next = last.id.clone();
            let (mut gone, mut lower) = (Vec::new(), Vec::new());
            for own in page {
                match way((own.placement, &own.version), there.get(&own.id).copied()) {
                    Way::Gone => gone.push(own),
                    Way::Lower => lower.push(own),
                    Way::Stays => {}
                }
            }
            let lost = |way| move |own: &&Here| is_lost(way, own.deleted, clean);
            let lower_lost = lower.iter().filter(lost(Way::Lower));
            let lost: Vec<&Here> = lower_lost.chain(gone.iter().filter(lost(Way::Gone))).collect();
            self.keep_stranded(session, &lost, source).await?;
            session.run(FORGET_STATES, &[ids(lower.iter().map(|own| &own.id)).into()]).await?;
            let sql = "INSERT INTO portolan_gone (source, table_name, key, tenant) \
                SELECT $2, each.value ->> 't', each.value ->> 'k', r.tenant FROM {each} LEFT JOIN portolan_row r \
                ON r.table_name = each.value ->> 't' AND r.key = each.value ->> 'k' WHERE true ON CONFLICT DO NOTHING";
            session.run(sql, &[ids(gone.iter().map(|own| &own.id)).into(), source.as_str().into()]).await?;
        }
    }

    /// Keeps what gives way to a source that does not have it.
    async fn keep_stranded(
        &self,
        session: &mut Session,
        rows: &[&Here],
        source: &RegionName,
    ) -> Result<(), Error> {
        let wanted: Vec<RowId> = rows.iter().filter(|own| !own.deleted).map(|own| own.id.clone()).collect();
        let mut images = self.images(session, &wanted).await?;
        let at_us = session.one("SELECT {now}", &[]).await?.number(0)?;
        for own in rows {
            let image = images.remove(&own.id);
            if image.is_none() && !own.deleted {
                continue;
            }
            // Won by none: the source has no version of it, or a lower one.
            let winner = Version { epoch: Epoch(0), v: 0, origin: source.clone() };
            let lost = Lost {
                at_us,
                conflict: name(&own.id, &own.version, &winner),
                id: own.id.clone(),
                kind: ConflictKind::Stranded,
                placement: own.placement,
                row: image,
                resolution: None,
                resolver: None,
                rule: STRANDED.to_owned(),
                tenant: own.tenant.clone(),
                transaction: None,
                version: own.version.clone(),
                winner,
                winner_row: None,
            };
            keep(session, &lost).await?;
        }
        Ok(())
    }

    /// What this region has written as a member and its source had not taken yet when it began to tell its rows comes there by the log: it is
    /// no loser, and is here again. Returns whether that is known.
    async fn take_back(
        &self,
        session: &mut Session,
        source: &RegionName,
        counts: &mut Counts,
    ) -> Result<bool, Error> {
        let others = others(session, source).await?;
        let mut at = match self.told_there(session, &others).await? {
            Told::Through(at) => at,
            Told::Nothing => return Ok(false),
            Told::All => return Ok(true),
        };
        while let Some(records) = own(session, at).await? {
            let Some(last) = records.last() else { break };
            at = last.position;
            let written: Vec<Record> = records.into_iter().filter(|record| !is_leased(record)).collect();
            self.absorb(session, &written, counts, false).await?;
            let changes = written.iter().filter_map(|record| match &record.change {
                Change::Row(change) => Some(change),
                Change::Forget => None,
            });
            let taken = changes.map(
                |change| json!({ "t": change.id.table.as_str(), "k": change.id.key, "v": change.version.v }),
            );
            let taken: Vec<_> = taken.collect();
            let sql = "DELETE FROM portolan_conflict WHERE rule = $2 AND lost_epoch = 0 AND lost_origin = $3 \
                AND (table_name, key, lost_v) IN \
                (SELECT each.value ->> 't', each.value ->> 'k', CAST(each.value ->> 'v' AS BIGINT) FROM {each})";
            let args = [
                serde_json::Value::from(taken).to_string().into(),
                STRANDED.into(),
                self.origin().as_str().into(),
            ];
            session.run(sql, &args).await?;
        }
        Ok(true)
    }

    /// How much of this region's own log a source knows that has come so far through others'.
    async fn told_there(&self, session: &mut Session, others: &[Cut]) -> Result<Told, Error> {
        self.caught_up().await?;
        let fence = session.one(FENCE, &[]).await?;
        let identity =
            if self.is_cut(session, &fence).await? { None } else { Some(identity_now(session).await?) };
        let extent = (trimmed(session).await?, tip(session).await?);
        Ok(told(self.origin(), identity.as_ref(), extent, others))
    }

    /// What it told before was of a history that is no longer its own: the log that begins now is empty.
    async fn begin_log_anew(&self, session: &mut Session) -> Result<(), Error> {
        self.caught_up().await?;
        let told = tip(session).await?;
        self.renew_identity(session).await?;
        note_trimmed(session, told).await
    }

    /// What was not among the source's rows goes, those first that refer to others.
    async fn take_gone(&self, session: &mut Session, source: &RegionName) -> Result<(), Error> {
        let next = "SELECT key FROM portolan_gone WHERE source = $1 AND table_name = $2 AND key > $3 ORDER BY key LIMIT $4";
        for table in self.declared().iter().rev() {
            let name = table.table.name.as_str();
            let mut after = String::new();
            loop {
                let limit = (CHUNK_RECORDS as u64).into();
                let args = [source.as_str().into(), name.into(), after.as_str().into(), limit];
                let rows = session.query(next, &args).await?;
                let keys = rows.iter().map(|row| row.text(0)).collect::<Result<Vec<_>, _>>()?;
                let Some(last) = keys.last() else { break };
                after = last.clone();
                session.execute(&table.delete(session.dialect()), &[array(&keys).into()]).await?;
            }
        }
        // A tombstone bars what waits for its row, which is older.
        let sql = "DELETE FROM portolan_row WHERE (table_name, key) IN \
            (SELECT g.table_name, g.key FROM portolan_gone g WHERE g.source = $1) \
            AND (deleted = 0 OR (table_name, key) NOT IN (SELECT p.table_name, p.key FROM portolan_parked p))";
        session.run(sql, &[source.as_str().into()]).await?;
        session.run("DELETE FROM portolan_gone WHERE source = $1", &[source.as_str().into()]).await.map(drop)
    }
}

async fn copying(
    session: &mut Session,
    source: &RegionName,
    sql: &str,
) -> Result<Option<(Copying, bool)>, Error> {
    let rows = session.query(sql, &[source.as_str().into()]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let after = RowId { table: row.text(6)?, key: row.text(7)? };
    let copying = Copying {
        after: (!after.table.is_empty()).then_some(after),
        from: Position::new(row.number(3)?, row.number(4)?, row.number(5)?),
        identity: Identity { system: row.text(0)?, timeline: row.number(1)?, incarnation: row.text(2)? },
        rows: row.number(8)?,
    };
    Ok(Some((copying, row.number(9)? == 1)))
}

/// Rows and tombstones after one and up to another, or to the end, a chunk of them.
async fn here(session: &mut Session, after: &RowId, through: Option<&RowId>) -> Result<Vec<Here>, Error> {
    let mut args: Vec<Value> =
        vec![after.table.as_str().into(), after.key.as_str().into(), (CHUNK_RECORDS as u64).into()];
    let bound = match through {
        None => "",
        Some(through) => {
            args.extend([through.table.as_str().into(), through.key.as_str().into()]);
            "AND (table_name, key) <= ($4, $5)"
        }
    };
    let sql = format!(
        "SELECT table_name, key, tenant, placement, deleted, epoch, v, origin FROM portolan_row \
         WHERE (table_name, key) > ($1, $2) {bound} ORDER BY table_name, key LIMIT $3"
    );
    session.query(&sql, &args).await?.iter().map(state_here).collect()
}

fn state_here(row: &Row) -> Result<Here, Error> {
    Ok(Here {
        deleted: row.number(4)? == 1,
        id: RowId { table: row.text(0)?, key: row.text(1)? },
        placement: Placement(row.number(3)?),
        tenant: tenant_of(row, 2)?,
        version: version(row, 5)?.ok_or_else(|| Error::Damaged("a row without a version".to_owned()))?,
    })
}

/// How far others' logs had come at a source when it began to tell its rows.
async fn others(session: &mut Session, source: &RegionName) -> Result<Vec<Cut>, Error> {
    let others = "SELECT others FROM portolan_copying WHERE source = $1";
    let others = session.one(others, &[source.as_str().into()]).await?.text(0)?;
    serde_json::from_str(&others)
        .map_err(|error| Error::Damaged(format!("how far others' logs had come: {error}")))
}

/// The copy is over: its log is followed.
async fn follow_from(session: &mut Session, source: &RegionName, here: &RegionName) -> Result<(), Error> {
    let others = others(session, source).await?;
    for Cut { region, identity, at } in others.iter().filter(|cut| ![source, here].contains(&&cut.region)) {
        let sql = "INSERT INTO portolan_progress (source, system, timeline, incarnation, epoch, tx, seq) \
            VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (source) DO UPDATE SET system = excluded.system, \
            timeline = excluded.timeline, incarnation = excluded.incarnation, epoch = excluded.epoch, tx = excluded.tx, seq = excluded.seq, \
            seen_us = 0";
        let args = [
            region.as_str().into(),
            identity.system.as_str().into(),
            identity.timeline.into(),
            identity.incarnation.as_str().into(),
            at.epoch.0.into(),
            at.transaction.into(),
            at.sequence.into(),
        ];
        session.run(sql, &args).await?;
    }
    // All rows have been compared.
    session.run("DELETE FROM portolan_stale", &[]).await?;
    let sql = "INSERT INTO portolan_progress (source, system, timeline, incarnation, epoch, tx, seq) \
        SELECT source, system, timeline, incarnation, epoch, tx, seq FROM portolan_copying WHERE source = $1";
    session.run(sql, &[source.as_str().into()]).await?;
    session.run("DELETE FROM portolan_copying WHERE source = $1", &[source.as_str().into()]).await.map(drop)
}

/// Tenants are where their newest records say: whoever becomes the primary writes under their placements.
pub(crate) async fn raise_placements(session: &mut Session, records: &[Record]) -> Result<(), Error> {
    let mut newest = std::collections::BTreeMap::new();
    for record in records.iter().filter(|record| matches!(record.change, Change::Row(_))) {
        if let Some(tenant) = record.tenant.as_ref().filter(|_| record.placement.0 > 0) {
            let placement: &mut Placement = newest.entry(tenant).or_default();
            *placement = (*placement).max(record.placement);
        }
    }
    if newest.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> =
        newest.into_iter().map(|(tenant, placement)| json!({ "n": tenant, "p": placement })).collect();
    let sql = "INSERT INTO portolan_tenant (tenant, placement) \
        SELECT each.value ->> 'n', CAST(each.value ->> 'p' AS BIGINT) FROM {each} WHERE true \
        ON CONFLICT (tenant) DO UPDATE SET placement = excluded.placement, away = 0 \
        WHERE portolan_tenant.placement < excluded.placement";
    session.run(sql, &[serde_json::Value::from(rows).to_string().into()]).await.map(drop)
}

fn row_of(record: &Record) -> Option<&RowId> {
    match &record.change {
        Change::Row(change) => Some(&change.id),
        Change::Forget => None,
    }
}

fn ids<'a>(ids: impl Iterator<Item = &'a RowId>) -> String {
    let ids: Vec<_> = ids.map(|id| json!({ "t": id.table, "k": id.key })).collect();
    serde_json::Value::from(ids).to_string()
}
