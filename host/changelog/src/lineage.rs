//! The end of an epoch, as a database keeps it: which terms are known, what came of others' logs lately, and which rows were taken past a
//! cut.
//!
//! Who is to begin an epoch has every other copy *seal* it first ([`Store::seal_epoch`]): from then on that copy takes nothing of an earlier
//! epoch whose cut it does not know, and says how far it had come. What another has more of is read from its tail ([`Store::tail`]), and
//! [`Store::begin_epoch`] writes down where it cuts. Others [`Store::learn`] of it, take out of their rows what lies past the cut, and
//! have the new primary say what those rows are ([`Store::stale`], [`Store::mend`]).

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use portolan_core::ids::RegionName;
use portolan_core::log::{Epoch, Identity, Position, Version};
use serde_json::json;

use crate::apply::{Counts, array, ground, leave_applying, lock, save_states, write};
use crate::audit::whole;
use crate::database::{Row, Session};
use crate::defaults::{CHUNK_RECORDS, STALE_MAX, TAIL_BATCHES, TERMS_MAX};
use crate::error::Error;
use crate::ledger::{Lost, keep, name};
use crate::model::copying::{Mending, is_whole, mending};
use crate::model::kind::ConflictKind;
use crate::model::learning::{Bearing, Hearing, Past};
use crate::model::lineage::{Cut, Lineage, Sifted, Term};
use crate::model::record::{Batch, Change, Record, RowId};
use crate::parked::unpark;
use crate::read::{record, version};
use crate::store::{
    FENCE, FENCE_LOCK, Role, Store, alone, changed, fence, identity, identity_now, tip, trimmed,
};

/// What a copy says when it has sealed an epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The epoch that its fence knew before.
    pub before: Epoch,
    /// How far it has come through each log, its own included unless that may have been cut.
    pub heads: Vec<Cut>,
    /// The epochs that it knows of.
    pub terms: Vec<Term>,
}

/// What came of having other copies seal an epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gathered {
    /// Where a copy has more of a log than this one could take, and why.
    pub left: Vec<String>,
    /// Regions that did not answer, or refused, and why.
    pub missing: BTreeMap<RegionName, String>,
    /// Copies that have sealed, and which epoch each of them knew before.
    pub sealed: BTreeMap<RegionName, Epoch>,
    /// Records that were taken of them.
    pub taken: u64,
}

/// What terms brought that were news.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Learned {
    /// Why the rows have to be copied anew; none when they need not be.
    pub anew: Option<String>,
    /// Records that had been taken and lie past a cut. Their rows are [stale](Store::stale).
    pub stranded: u64,
}

/// By which rule a record lost that lies past its epoch's cut.
const STRANDED: &str = "epoch";

/// What decides of the records of one log whether they count.
pub(crate) struct Sieve {
    fence: Epoch,
    identity: Identity,
    lineage: Lineage,
    source: RegionName,
}

impl Sieve {
    /// For the log of a region. No epoch may begin until the transaction ends.
    pub(crate) async fn of(
        session: &mut Session,
        source: &RegionName,
        identity: &Identity,
    ) -> Result<Self, Error> {
        let lineage = lineage(session).await?;
        let fence = Epoch(session.one("SELECT epoch FROM portolan_fence", &[]).await?.number(0)?);
        Ok(Self { fence, identity: identity.clone(), lineage, source: source.clone() })
    }

    /// For a copy where an epoch is to begin: nothing waits to be cut elsewhere.
    pub(crate) fn before_epoch(self) -> Self {
        Self { fence: Epoch(0), ..self }
    }

    pub(crate) const fn source(&self) -> &RegionName {
        &self.source
    }

    /// Those that count, and those that are stranded, with the terms that cut them off.
    pub(crate) fn sift<'a>(&'a self, records: &'a [Record]) -> Result<Sifted<'a>, Error> {
        let sifted = self.lineage.sift((&self.source, &self.identity), records, self.fence);
        sifted.map_err(|ended| Error::Sealed { ended, sealed: self.fence })
    }
}

impl Store {
    /// The epochs that are known to have begun.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn lineage(&self) -> Result<Lineage, Error> {
        lineage(&mut *self.acquire(Role::Applier).await?).await
    }

    /// How far this database has come through each region's log, its own included unless that may have been cut.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn heads(&self) -> Result<Vec<Cut>, Error> {
        self.caught_up().await?;
        let mut session = self.acquire(Role::Applier).await?;
        let mut heads = heads(&mut session).await?;
        match identity_now(&mut session).await {
            Ok(identity) => {
                let at = tip(&mut session).await?;
                heads.push(Cut { region: self.origin().clone(), identity, at });
            }
            // What it says of itself is worth nothing until it begins an epoch.
            Err(Error::Closed(_)) => {}
            Err(error) => return Err(error),
        }
        Ok(heads)
    }

    /// What was there when the last epoch that is known began, and is not here ([`Lineage::lacks`]). None while the last that is known is an
    /// earlier one than this.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn lacks(&self, epoch: Epoch) -> Result<Option<Vec<Cut>>, Error> {
        let mut session = self.acquire(Role::Applier).await?;
        let lineage = lineage(&mut session).await?;
        if lineage.epoch() < epoch {
            return Ok(None);
        }
        Ok(Some(lineage.lacks(self.origin(), &heads(&mut session).await?)))
    }

    /// From here on nothing of an earlier epoch is written here, or taken without being known to count, for good. When this returns, no
    /// writer and nobody who applies is inside any more. An epoch that is sealed already may be sealed again.
    ///
    /// # Errors
    /// [`Error::Refused`] when a later epoch is known, or this one has begun here; [`Error::Writers`] when writers are still inside after
    /// `patience`: the fence is closed, and this may be called again.
    pub async fn seal_epoch(&self, epoch: Epoch, patience: Duration) -> Result<Sealed, Error> {
        let there = self.fence().await?;
        if there.epoch < epoch && there.deadline_us > 0 {
            self.demote(there.epoch, patience).await?;
        }
        let mut session = self.begin(Role::Keeper).await?;
        alone(&mut session, FENCE_LOCK, Some(patience)).await?;
        let row = session.one(&format!("{FENCE} {{lock}}"), &[]).await?;
        let there = fence(&row)?;
        if let Err(refused) = there.seal(epoch) {
            session.rollback().await?;
            return Err(refused.into());
        }
        close_below(&mut session, there.epoch, epoch).await?;
        let mut heads = heads(&mut session).await?;
        if let Ok(identity) = identity(&row) {
            self.caught_up().await?;
            let at = tip(&mut session).await?;
            heads.push(Cut { region: self.origin().clone(), identity, at });
        }
        let terms = lineage(&mut session).await?.terms().to_vec();
        session.commit().await?;
        Ok(Sealed { before: there.epoch, heads, terms })
    }

    /// Writes down that an epoch begins here, and how far each log had come. Refuses for a copy that is not whole.
    pub(crate) async fn begin_term(&self, session: &mut Session, epoch: Epoch) -> Result<(), Error> {
        let copying = session.query("SELECT 1 FROM portolan_copying LIMIT 1", &[]).await?;
        if !copying.is_empty() {
            return Err(Error::Partial("rows of the region that wrote it last are still missing".to_owned()));
        }
        let stale = session.one("SELECT count(*) FROM portolan_stale", &[]).await?.number(0)?;
        if stale > 0 {
            let why = format!("{stale} rows were taken from an epoch past its cut, and not put right yet");
            return Err(Error::Partial(why));
        }
        self.caught_up().await?;
        let mut cuts = heads(session).await?;
        let (identity, at) = (identity_now(session).await?, tip(session).await?);
        cuts.push(Cut { region: self.origin().clone(), identity, at });
        let over = lineage(session).await?.epoch();
        let term = Term { epoch, region: self.origin().clone(), over, cuts };
        save_terms(session, &[term]).await
    }

    /// Hears of terms, of which some may be known. From here on their cuts hold: nothing of an earlier epoch is written here, what had
    /// been taken past a cut is kept as stranded, and its rows are stale.
    ///
    /// # Errors
    /// [`Error::Forked`] when an epoch is said to have begun otherwise than is known; [`Error::Writers`] when writers of an earlier epoch
    /// are still inside.
    ///
    /// # Cancel safety
    /// Cancel-safe: terms are known with all that follows from them, or not at all.
    pub async fn learn(&self, terms: &[Term]) -> Result<Learned, Error> {
        let known = self.lineage().await?;
        known.clone().with(terms.iter().cloned())?;
        if known.news(terms).is_empty() {
            return Ok(Learned::default());
        }
        let mut session = self.begin(Role::Owner).await?;
        alone(&mut session, FENCE_LOCK, None).await?;
        let before = lineage(&mut session).await?;
        let news = before.news(terms);
        let after = before.clone().with(terms.iter().cloned())?;
        let row = session.one(&format!("{FENCE} {{lock}}"), &[]).await?;
        close_below(&mut session, fence(&row)?.epoch, after.epoch()).await?;
        save_terms(&mut session, &news).await?;
        let mut logs = heads(&mut session).await?;
        if let Ok(identity) = identity(&row) {
            self.caught_up().await?;
            let at = tip(&mut session).await?;
            logs.push(Cut { region: self.origin().clone(), identity, at });
        }
        let mut learned = Learned::default();
        let cut = self.is_cut(&mut session, &row).await?;
        let hearing = Hearing { own: self.origin(), before: &before, after: &after, news: &news, cut };
        match hearing.bearing() {
            Bearing::Nothing => {
                session.commit().await?;
                return Ok(learned);
            }
            Bearing::Anew(why) => {
                learned.anew = Some(why);
                logs.clear();
            }
            Bearing::Logs => {}
        }
        for log in &logs {
            learned.anew = match hearing.past(log) {
                Past::Nothing => None,
                Past::Anew(why) => Some(why),
                Past::After(cut) => self.strand(&mut session, log, cut, &hearing, &mut learned).await?,
            };
            if learned.anew.is_some() {
                break;
            }
        }
        if learned.anew.is_some() {
            forget_place(&mut session).await?;
        }
        session.commit().await?;
        Ok(learned)
    }

    /// Are all rows here, so that logs are followed? If not, they are copied from the primary first. What may have been cut is not known to
    /// be here.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn is_complete(&self) -> Result<bool, Error> {
        let mut session = self.acquire(Role::Applier).await?;
        let fence = session.one(FENCE, &[]).await?;
        let copying = !session.query("SELECT 1 FROM portolan_copying LIMIT 1", &[]).await?.is_empty();
        let copying = copying || self.is_cut(&mut session, &fence).await?;
        let led = lineage(&mut session).await?.terms().iter().any(|term| term.region == *self.origin());
        Ok(is_whole(copying, led, !heads(&mut session).await?.is_empty()))
    }

    /// From here on the rows that are here are the shard's, whatever is missing among them: where no copy is whole, its operator says which one
    /// counts. What others have beyond it they keep as stranded when they hear of the epoch that begins here next. Returns whether anything
    /// was missing.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn take_as_whole(&self) -> Result<bool, Error> {
        let mut session = self.begin(Role::Owner).await?;
        alone(&mut session, FENCE_LOCK, None).await?;
        let mut missing = 0;
        for table in ["copying", "stale"] {
            missing += session.run(&format!("DELETE FROM portolan_{table}"), &[]).await?;
        }
        // What waited to be taken away stays: its source's rows are no longer what this copy is to be.
        session.run("DELETE FROM portolan_gone", &[]).await?;
        session.commit().await?;
        Ok(missing > 0)
    }

    /// Some of what another region wrote is not to be had any more: all rows are to be copied anew, from the primary. Returns whether that
    /// was noted: the primary has nobody to copy from.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn begin_anew(&self) -> Result<bool, Error> {
        let mut session = self.begin(Role::Owner).await?;
        alone(&mut session, FENCE_LOCK, None).await?;
        let lineage = lineage(&mut session).await?;
        if lineage.terms().last().is_some_and(|term| term.region == *self.origin()) {
            session.rollback().await?;
            return Ok(false);
        }
        forget_place(&mut session).await?;
        session.commit().await.map(|()| true)
    }

    /// Keeps what was taken of a log past its cut, and notes its rows as stale. Returns why it cannot be told, if it cannot.
    async fn strand(
        &self,
        session: &mut Session,
        log: &Cut,
        cut: Position,
        hearing: &Hearing<'_>,
        learned: &mut Learned,
    ) -> Result<Option<String>, Error> {
        let mut at = cut;
        while at < log.at {
            let records = if log.region == *self.origin() {
                own(session, at).await?
            } else {
                tail(session, &log.region, at)
                    .await?
                    .filter(|batch| batch.identity == log.identity)
                    .map(|batch| batch.records)
            };
            let Some(records) = records else {
                let why = format!(
                    "what came of `{}` after {at} is not kept any more, and some of it does not count",
                    log.region
                );
                return Ok(Some(why));
            };
            let Some(last) = records.last() else { break };
            at = last.position;
            let stranded = match hearing.stranded((&log.region, &log.identity, log.at), &records) {
                Ok(stranded) => stranded,
                Err(forgotten) => return Ok(Some(forgotten.to_string())),
            };
            learned.stranded += stranded.len() as u64;
            keep_stranded(session, &log.region, &stranded).await?;
            let records: Vec<Record> = stranded.iter().map(|(record, _)| (*record).clone()).collect();
            unpark(session, &records).await?;
            note_stale(session, &records).await?;
        }
        Ok(None)
    }

    /// Rows that are not what they were taken for, and must not be read, until [`Self::mend`] has put them right: some of them.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn stale(&self) -> Result<Vec<RowId>, Error> {
        let mut session = self.acquire(Role::Applier).await?;
        let sql = "SELECT table_name, key FROM portolan_stale ORDER BY table_name, key LIMIT $1";
        let rows = session.query(sql, &[(STALE_MAX as u64).into()]).await?;
        rows.iter().map(|row| Ok(RowId { table: row.text(0)?, key: row.text(1)? })).collect()
    }

    /// Puts stale rows right: they become what the primary has under their names ([`Store::records_named`]), and go where it has
    /// nothing. Those that have been written since stay, unless the primary's are above them.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the database does not take what the primary has. Otherwise as [`Store::apply`].
    ///
    /// # Cancel safety
    /// Cancel-safe: all are put right or none.
    pub async fn mend(&self, ids: &[RowId], records: &[Record]) -> Result<Counts, Error> {
        let mut session = self.begin(Role::Applier).await?;
        self.enter_applying(&mut session).await?;
        let declared = self.declared();
        let (records, named) = (by_id(records), names(ids));
        let all: Vec<&Record> = records.values().copied().collect();
        lock(&mut session, &declared, &all, false).await?;
        let mut there = states(&mut session, &named).await?;
        let (mut above, mut puts, mut gone) = (Vec::new(), BTreeMap::new(), Vec::new());
        for id in ids {
            let record = records.get(id);
            let state = there.remove(id);
            let stale = state.as_ref().map(|(stale, here)| (stale, here.as_ref()));
            match (mending(stale, record.is_some()), record) {
                (Mending::Put, Some(record)) => {
                    if let Change::Row(change) = &record.change {
                        puts.insert(id.clone(), whole(record, change));
                    }
                }
                (Mending::Gate, Some(record)) => above.push((*record).clone()),
                (Mending::Goes, _) => gone.push(id.clone()),
                (Mending::Nothing | Mending::Put | Mending::Gate, _) => {}
            }
        }
        for table in declared.iter().rev() {
            let of = gone.iter().filter(|id| id.table == table.table.name.as_str());
            let keys: Vec<String> = of.map(|id| id.key.clone()).collect();
            if !keys.is_empty() {
                session.execute(&table.delete(session.dialect()), &[array(&keys).into()]).await?;
            }
        }
        let forget = "DELETE FROM portolan_row WHERE (table_name, key) IN \
            (SELECT each.value ->> 't', each.value ->> 'k' FROM {each})";
        session.run(forget, &[names(&gone).into()]).await?;
        if let Some(why) = write(&mut session, &declared, &puts).await? {
            session.rollback().await?;
            return Err(Error::Damaged(format!("a stale row cannot be put right: {why}")));
        }
        save_states(&mut session, &puts).await?;
        let mut counts = Counts { written: (puts.len() + gone.len()) as u64, ..Counts::default() };
        self.absorb(&mut session, &above, &mut counts, false).await?;
        let done = forget.replace("portolan_row", "portolan_stale");
        session.run(&done, &[named.into()]).await?;
        leave_applying(&mut session).await?;
        session.commit().await?;
        Ok(counts)
    }

    /// What came here of another region's log after a position, as far as it has been applied: for a copy that lacks it. Nothing means that
    /// no more has.
    ///
    /// # Errors
    /// [`Error::Trimmed`] when that log is not the one that is followed here, or what came after the position is not kept any more.
    pub async fn tail(
        &self,
        source: &RegionName,
        identity: &Identity,
        after: Position,
    ) -> Result<Batch, Error> {
        let mut session = self.acquire(Role::Applier).await?;
        let there = heads(&mut session).await?.into_iter().find(|head| head.region == *source);
        let through = there.filter(|head| head.identity == *identity).map_or(Position::START, |head| head.at);
        let at_us = session.one("SELECT {now}", &[]).await?.number(0)?;
        if after == through {
            let identity = identity.clone();
            return Ok(Batch { identity, after, through, at_us, ends: true, records: Vec::new() });
        }
        let trimmed = || Error::Trimmed { after, through };
        let batch = tail(&mut session, source, after).await?.ok_or_else(trimmed)?;
        if batch.through > through || batch.identity != *identity {
            return Err(trimmed());
        }
        Ok(batch)
    }

    /// All copies have what lies up to here of a region's log, and it counts: nobody will ask for it.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn trim_tail(&self, source: &RegionName, through: Position) -> Result<(), Error> {
        let mut session = self.acquire(Role::Applier).await?;
        let sql = "DELETE FROM portolan_tail WHERE source = $1 AND (epoch, tx, seq) IN (SELECT epoch, tx, seq FROM portolan_tail \
            WHERE source = $1 AND (epoch, tx, seq) <= ($2, $3, $4) ORDER BY epoch, tx, seq LIMIT $5)";
        let [epoch, tx, seq] = [through.epoch.0, through.transaction, through.sequence].map(Into::into);
        session.run(sql, &[source.as_str().into(), epoch, tx, seq, TAIL_BATCHES.into()]).await.map(drop)
    }
}

/// Keeps a batch that is applied, or staged, in the same transaction.
pub(crate) async fn keep_tail(
    session: &mut Session,
    source: &RegionName,
    batch: &Batch,
) -> Result<(), Error> {
    let text = print(batch)?;
    let [epoch, tx, seq] =
        [batch.through.epoch.0, batch.through.transaction, batch.through.sequence].map(Into::into);
    let sql = "INSERT INTO portolan_tail (source, epoch, tx, seq, batch) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING";
    session.run(sql, &[source.as_str().into(), epoch, tx, seq, text.into()]).await.map(drop)
}

/// Keeps records that lie past the cut of a term in the ledger, under names that are the same everywhere.
pub(crate) async fn keep_stranded(
    session: &mut Session,
    source: &RegionName,
    stranded: &[(&Record, &Term)],
) -> Result<(), Error> {
    if stranded.is_empty() {
        return Ok(());
    }
    let at_us = session.one("SELECT {now}", &[]).await?.number(0)?;
    let records: Vec<&Record> = stranded.iter().map(|(record, _)| *record).collect();
    let forgotten = ground(session, &records).await?.forgotten;
    // Of a tenant that has gone nothing is kept.
    let gone = |record: &Record| {
        let forgotten = record.tenant.as_ref().and_then(|tenant| forgotten.get(tenant));
        forgotten.is_some_and(|forgotten| record.placement < *forgotten)
    };
    for (record, term) in stranded.iter().filter(|(record, _)| !gone(record)) {
        let Change::Row(change) = &record.change else { continue };
        let winner = Version { epoch: term.epoch, v: 0, origin: term.region.clone() };
        let at = record.position;
        let lost = Lost {
            at_us,
            conflict: name(&change.id, &change.version, &winner),
            id: change.id.clone(),
            kind: ConflictKind::Stranded,
            placement: record.placement,
            row: change.row.clone(),
            resolution: None,
            resolver: None,
            rule: STRANDED.to_owned(),
            tenant: record.tenant.clone(),
            transaction: Some(format!("{source}/{}.{}", at.epoch, at.transaction)),
            version: change.version.clone(),
            winner,
            winner_row: None,
        };
        keep(session, &lost).await?;
    }
    Ok(())
}

pub(crate) async fn lineage(session: &mut Session) -> Result<Lineage, Error> {
    let rows = session.query("SELECT term FROM portolan_term ORDER BY epoch", &[]).await?;
    let term = |row: &Row| {
        serde_json::from_str(&row.text(0)?).map_err(|error| Error::Damaged(format!("a term: {error}")))
    };
    Ok(Lineage::new(rows.iter().map(term).collect::<Result<Vec<Term>, _>>()?)?)
}

/// How far others' logs have been applied here. What is followed under another name than a region's is no log of a region.
pub(crate) async fn heads(session: &mut Session) -> Result<Vec<Cut>, Error> {
    let sql =
        "SELECT source, system, timeline, incarnation, epoch, tx, seq FROM portolan_progress ORDER BY source";
    let mut heads = Vec::new();
    for row in session.query(sql, &[]).await? {
        let Ok(region) = RegionName::new(&row.text(0)?) else { continue };
        let identity = Identity { system: row.text(1)?, timeline: row.number(2)?, incarnation: row.text(3)? };
        let at = Position::new(row.number(4)?, row.number(5)?, row.number(6)?);
        heads.push(Cut { region, identity, at });
    }
    Ok(heads)
}

/// The fence knows a later epoch, which is another's.
async fn close_below(session: &mut Session, there: Epoch, epoch: Epoch) -> Result<(), Error> {
    if there >= epoch {
        return Ok(());
    }
    session.run("UPDATE portolan_fence SET epoch = $1, deadline_us = 0", &[epoch.0.into()]).await?;
    changed(session).await
}

/// Nothing is known of how far others' logs have come, and rows are missing.
async fn forget_place(session: &mut Session) -> Result<(), Error> {
    for table in ["progress", "staged", "copying", "gone", "tail"] {
        session.run(&format!("DELETE FROM portolan_{table}"), &[]).await?;
    }
    let sql = "INSERT INTO portolan_copying (source, system, timeline, incarnation, epoch, tx, seq, clean, table_name, key, rows, others) \
        VALUES ('', '', 0, '', 0, 0, 0, 0, '', '', 0, '[]')";
    session.run(sql, &[]).await?;
    // Nobody writes here meanwhile: what is written would be lost among the rows that come.
    session.run("UPDATE portolan_fence SET member = 0", &[]).await.map(drop)
}

async fn save_terms(session: &mut Session, terms: &[Term]) -> Result<(), Error> {
    for term in terms {
        let text = serde_json::to_string(term).map_err(|error| Error::Damaged(format!("a term: {error}")))?;
        let sql = "INSERT INTO portolan_term (epoch, term) VALUES ($1, $2)";
        session.run(sql, &[term.epoch.0.into(), text.into()]).await?;
    }
    let sql = "DELETE FROM portolan_term WHERE epoch <= \
        (SELECT epoch FROM portolan_term ORDER BY epoch DESC LIMIT 1 OFFSET $1)";
    session.run(sql, &[TERMS_MAX.into()]).await.map(drop)
}

/// Records of this database's own log after a position, a chunk of them; none when some are not there any more.
pub(crate) async fn own(session: &mut Session, after: Position) -> Result<Option<Vec<Record>>, Error> {
    if after < trimmed(session).await? {
        return Ok(None);
    }
    let sql = "SELECT epoch, tx, seq, at_us, tenant, placement, schema, kind, table_name, key, CAST(row AS TEXT), version_epoch, v, \
        origin, replaces_epoch, replaces_v, replaces_origin, CAST(marks AS TEXT) FROM portolan_log \
        WHERE (epoch, tx, seq) > ($1, $2, $3) ORDER BY epoch, tx, seq LIMIT $4";
    let [epoch, tx, seq] = [after.epoch.0, after.transaction, after.sequence].map(Into::into);
    let rows = session.query(sql, &[epoch, tx, seq, (CHUNK_RECORDS as u64).into()]).await?;
    rows.iter().map(record).collect::<Result<_, _>>().map(Some)
}

/// What is kept of a log after a position, up to the end of the batch in which it lies; none when it is not.
async fn tail(session: &mut Session, source: &RegionName, after: Position) -> Result<Option<Batch>, Error> {
    let sql = "SELECT batch FROM portolan_tail WHERE source = $1 AND (epoch, tx, seq) > ($2, $3, $4) \
        ORDER BY epoch, tx, seq LIMIT 1";
    let [epoch, tx, seq] = [after.epoch.0, after.transaction, after.sequence].map(Into::into);
    let rows = session.query(sql, &[source.as_str().into(), epoch, tx, seq]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let batch = kept(&row.text(0)?)?;
    if batch.after > after {
        return Ok(None);
    }
    let records = batch.records.into_iter().filter(|record| record.position > after).collect();
    Ok(Some(Batch { after, records, ..batch }))
}

/// A batch as it is kept.
pub(crate) fn print(batch: &Batch) -> Result<String, Error> {
    serde_json::to_string(batch).map_err(|error| Error::Damaged(format!("a batch: {error}")))
}

/// A batch that is kept.
pub(crate) fn kept(text: &str) -> Result<Batch, Error> {
    serde_json::from_str(text).map_err(|error| Error::Damaged(format!("a batch that is kept: {error}")))
}

async fn note_stale(session: &mut Session, records: &[Record]) -> Result<(), Error> {
    for record in records {
        let Change::Row(change) = &record.change else { continue };
        // Several logs may have written the row past their cuts: what counts is whether that which is here is one of those.
        let sql = "INSERT INTO portolan_stale (table_name, key, tenant, epoch, v, origin) VALUES ($1, $2, $3, $4, $5, $6) \
            ON CONFLICT (table_name, key) DO UPDATE SET epoch = excluded.epoch, v = excluded.v, origin = excluded.origin \
            WHERE EXISTS (SELECT 1 FROM portolan_row r WHERE r.table_name = excluded.table_name AND r.key = excluded.key \
            AND r.epoch = excluded.epoch AND r.v = excluded.v AND r.origin = excluded.origin)";
        let tenant = record.tenant.as_ref().map(portolan_core::ids::TenantName::as_str);
        let version = &change.version;
        let args = [
            change.id.table.as_str().into(),
            change.id.key.as_str().into(),
            tenant.into(),
            version.epoch.0.into(),
            version.v.into(),
            version.origin.as_str().into(),
        ];
        session.run(sql, &args).await?;
    }
    Ok(())
}

/// Of stale rows the version that does not count, and the one that is there.
async fn states(
    session: &mut Session,
    named: &str,
) -> Result<HashMap<RowId, (Version, Option<Version>)>, Error> {
    let sql = "SELECT s.table_name, s.key, s.epoch, s.v, s.origin, r.epoch, r.v, r.origin FROM {each} \
        JOIN portolan_stale s ON s.table_name = each.value ->> 't' AND s.key = each.value ->> 'k' \
        LEFT JOIN portolan_row r ON r.table_name = s.table_name AND r.key = s.key";
    let state = |row: &Row| {
        let stale =
            version(row, 2)?.ok_or_else(|| Error::Damaged("a stale row without a version".to_owned()))?;
        Ok((RowId { table: row.text(0)?, key: row.text(1)? }, (stale, version(row, 5)?)))
    };
    session.query(sql, &[named.into()]).await?.iter().map(state).collect()
}

fn by_id(records: &[Record]) -> HashMap<&RowId, &Record> {
    let named = records.iter().filter_map(|record| match &record.change {
        Change::Row(change) => Some((&change.id, record)),
        Change::Forget => None,
    });
    named.collect()
}

/// Names of rows as `{each}` reads them.
fn names(ids: &[RowId]) -> String {
    let ids: Vec<_> = ids.iter().map(|id| json!({ "t": id.table, "k": id.key })).collect();
    serde_json::Value::from(ids).to_string()
}
