//! Sweeping tombstones: rounds, what this member says of itself to others, and the sweep itself.
//!
//! When a round's tombstones may go is [`crate::model::sweep`]'s. Here it is kept in which round each came: a round's number
//! is in the fence's row, where whoever writes or applies a deletion finds it, and once all transactions that may have found
//! the number before have ended, what is known then holds for all tombstones of earlier rounds.
//!
//! Whoever is copying rows from a snapshot does not sweep until it has caught up: a page that was read before a deletion
//! would bring the row back. Repairs notice it by themselves ([`Store::repair`]).

use portolan_core::ids::RegionName;
use portolan_core::log::{AHEAD_US_MAX, Identity, Position};

use crate::database::{Dialect, Row, Session, Value};
use crate::defaults::{CHUNK_RECORDS, SWEEP_SLICES};
use crate::error::Error;
use crate::model::sweep::{Known, Mark, Member, Report, Sweep, Through};
use crate::store::{Role, Store, changed, identity_now, tip};

/// Repairs and sweeps wait for each other: "sweep" as a number.
const SWEEP_LOCK: i64 = 0x0073_7765_6570;

/// A round that has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round {
    /// Its number: tombstones of earlier rounds are meant.
    pub number: u64,
    /// All transactions below this one must end first; 0 in SQLite, which has none beside each other.
    pub after: u64,
}

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Some that may go are still there: sweep again.
    pub more: bool,
    /// Tombstones that went.
    pub tombstones: u64,
}

impl Store {
    /// Begins a round of tombstones: those that are there belong to earlier ones. Old snapshots of writers fail once, as they do
    /// when a tenant is held.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn begin_round(&self) -> Result<Round, Error> {
        let mut session = self.begin(Role::Owner).await?;
        session.run("UPDATE portolan_fence SET round = round + 1", &[]).await?;
        changed(&mut session).await?;
        let number = session.one("SELECT round FROM portolan_fence", &[]).await?.number(0)?;
        session.commit().await?;
        let after = match self.dialect() {
            Dialect::Sqlite => 0,
            Dialect::Postgres => {
                let sql = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint";
                self.acquire(Role::Owner).await?.one(sql, &[]).await?.number(0)?
            }
        };
        Ok(Round { number, after })
    }

    /// What is known of the tombstones of rounds before this one; none while a transaction from before it is open: ask again.
    ///
    /// # Errors
    /// As [`Self::known`].
    pub async fn mark(&self, round: &Round) -> Result<Option<Mark>, Error> {
        if self.dialect() == Dialect::Postgres {
            let horizon = self.acquire(Role::Applier).await?.one("SELECT {horizon}", &[]).await?.number(0)?;
            if horizon < round.after {
                return Ok(None);
            }
        }
        Ok(Some(Mark { round: round.number, known: self.known().await? }))
    }

    /// How far this member has come through the logs that it follows, and its own.
    ///
    /// # Errors
    /// [`Closed::Cut`](crate::Closed::Cut) when its own log may have been cut.
    pub async fn known(&self) -> Result<Known, Error> {
        self.caught_up().await?;
        let mut session = self.acquire(Role::Applier).await?;
        let mut known = applied(&mut session).await?;
        known.0.insert(self.origin().clone(), written(&mut session).await?);
        Ok(known)
    }

    /// What this member says of itself to the others. It may be said late, and again.
    ///
    /// # Errors
    /// As [`Self::known`].
    pub async fn report(&self) -> Result<Report, Error> {
        let mut session = self.acquire(Role::Applier).await?;
        // In this order: what is applied, whether a deletion of that waits, and only then what was written here meanwhile.
        let applied = applied(&mut session).await?;
        let waits = match session.dialect() {
            Dialect::Postgres => {
                "SELECT 1 FROM portolan_parked WHERE record::jsonb #> '{change,row,row}' = 'null'::jsonb LIMIT 1"
            }
            Dialect::Sqlite => {
                "SELECT 1 FROM portolan_parked WHERE json_extract(record, '$.change.row.row') IS NULL LIMIT 1"
            }
        };
        let holds = !session.query(waits, &[]).await?.is_empty();
        let incarnation = session.one("SELECT member FROM portolan_fence", &[]).await?.number(0)?;
        self.caught_up().await?;
        let written = written(&mut session).await?;
        let member = Member { region: self.origin().clone(), incarnation };
        Ok(Report { member, applied, written, holds })
    }

    /// Takes away the tombstones of earlier rounds, some at a time, if their time has come here. One over whose row a change
    /// waits stays, and so does one that is not older than what a clock may be wrong by: whoever writes the row next must be above it.
    ///
    /// # Errors
    /// [`Error::Busy`] when it has not: others have not said enough, or their changes have not been applied here.
    ///
    /// # Cancel safety
    /// Cancel-safe: what is left goes with the next sweep.
    pub async fn sweep(&self, sweep: &Sweep) -> Result<Swept, Error> {
        if !sweep.may_go(&self.known().await?) {
            return Err(Error::Busy("older changes may still come: sweep later".to_owned()));
        }
        let mut swept = Swept { more: true, tombstones: 0 };
        for _ in 0..SWEEP_SLICES {
            let mut session = self.begin(Role::Owner).await?;
            alone(&mut session).await?;
            let round = Value::from(sweep.mark().round);
            let note = "UPDATE portolan_fence SET swept = $1 WHERE swept < $1";
            session.run(note, std::slice::from_ref(&round)).await?;
            let args = [round, AHEAD_US_MAX.into(), (CHUNK_RECORDS as u64).into()];
            let gone = session.run(SWEEP, &args).await?;
            session.commit().await?;
            swept.tombstones += gone;
            swept.more = gone == CHUNK_RECORDS as u64;
            if !swept.more {
                break;
            }
        }
        Ok(swept)
    }

    /// Are there tombstones?
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn has_tombstones(&self) -> Result<bool, Error> {
        let sql = "SELECT 1 FROM portolan_row WHERE deleted = 1 LIMIT 1";
        Ok(!self.acquire(Role::Applier).await?.query(sql, &[]).await?.is_empty())
    }

    /// How many tombstones there are.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn count_tombstones(&self) -> Result<u64, Error> {
        let sql = "SELECT count(*) FROM portolan_row WHERE deleted = 1";
        self.acquire(Role::Applier).await?.one(sql, &[]).await?.number(0)
    }
}

/// Whether a tombstone is one still is looked at again when it goes: its row may have been written meanwhile. Where a rule goes by the row's
/// history, whoever began the row anew without the tombstone would be behind those that still have it: they stay.
const SWEEP: &str = "DELETE FROM portolan_row WHERE deleted = 1 AND round < $1 AND (table_name, key) IN \
    (SELECT r.table_name, r.key FROM portolan_row r WHERE r.deleted = 1 AND r.round < $1 AND r.v < {now} - $2 \
    AND (r.marks IS NULL OR r.marks ->> 'dead' IS NOT NULL) AND NOT EXISTS (SELECT 1 FROM portolan_parked p WHERE p.table_name = r.table_name AND p.key = r.key) LIMIT $3)";

/// Nobody repairs or sweeps beside this transaction.
pub(crate) async fn alone(session: &mut Session) -> Result<(), Error> {
    if session.dialect() == Dialect::Sqlite {
        return Ok(());
    }
    session.execute("SELECT pg_advisory_xact_lock($1)", &[SWEEP_LOCK.into()]).await.map(drop)
}

/// Up to which round tombstones have been swept here.
pub(crate) async fn swept(session: &mut Session) -> Result<u64, Error> {
    session.one("SELECT swept FROM portolan_fence", &[]).await?.number(0)
}

/// What has been applied of others' logs. What is followed under another name than a region's is no member's.
async fn applied(session: &mut Session) -> Result<Known, Error> {
    let sql = "SELECT source, system, timeline, incarnation, epoch, tx, seq FROM portolan_progress";
    let through = |row: &Row| {
        let identity = Identity { system: row.text(1)?, timeline: row.number(2)?, incarnation: row.text(3)? };
        let position = Position::new(row.number(4)?, row.number(5)?, row.number(6)?);
        Ok(RegionName::new(&row.text(0)?).ok().map(|region| (region, Through { identity, position })))
    };
    let rows = session.query(sql, &[]).await?;
    let known = rows.iter().map(through).collect::<Result<Vec<_>, Error>>()?;
    Ok(Known(known.into_iter().flatten().collect()))
}

async fn written(session: &mut Session) -> Result<Through, Error> {
    Ok(Through { identity: identity_now(session).await?, position: tip(session).await? })
}
