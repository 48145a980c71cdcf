//! A shard's slot: what it asks of the server, how it begins and ends, and what becomes of the log when it is lost.
//!
//! A slot begins before the first record is emitted, and ends after the last has been shipped. Where it is lost (somebody dropped it, or the server
//! did, because it would have kept more than `max_slot_wal_keep_size`), records that were committed are in no log. Nobody can say which: so the log
//! gets another identity and is trimmed to its end, and all who follow it copy rows anew. Writers notice nothing.

use tokio::time::{Instant, sleep};

use super::Capture;
use super::pgoutput::Lsn;
use super::stream::PUBLICATION;
use crate::database::{Row, Session};
use crate::defaults::{CAUGHT_UP_HELP, CAUGHT_UP_LOOK, CAUGHT_UP_WAIT};
use crate::error::Error;
use crate::inspect::Inspection;
use crate::login;
use crate::postgres::PostgresConfig;
use crate::store::{FENCE, FENCE_LOCK, Role, Store, alone, changed, tip};
use crate::trim::note_trimmed;

/// A slot that can be read.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) slot: String,
    /// What messages of triggers begin with.
    pub(crate) word: String,
    /// All up to here has been shipped.
    pub(crate) after: Lsn,
}

/// A shard's slot, for people and alarms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its name in the cluster.
    pub name: String,
    /// Does somebody read it now?
    pub active: bool,
    /// Bytes of the write-ahead log that the server keeps for it.
    pub retained_bytes: u64,
    /// Bytes that may still be written before the server gives it up; none where nothing bounds it.
    pub left_bytes: Option<u64>,
    /// How old what has not been shipped may be, in microseconds.
    pub behind_us: u64,
}

/// How a slot and what was shipped of it stand.
#[derive(Debug)]
struct Found {
    name: String,
    exists: bool,
    active: bool,
    /// It has all that has not been shipped.
    whole: bool,
    word: Option<String>,
    after: Lsn,
}

const LOOK: &str = "SELECT n.name, s.slot_name IS NOT NULL, coalesce(s.active, false), \
    coalesce(s.plugin = 'pgoutput' AND s.wal_status <> 'lost' AND s.confirmed_flush_lsn <= h.lsn, false), f.emits, \
    coalesce(h.lsn - '0/0', 0)::bigint \
    FROM (SELECT 'portolan_' || oid AS name FROM pg_database WHERE datname = current_database()) n CROSS JOIN portolan.fence f \
    LEFT JOIN pg_replication_slots s ON s.slot_name = n.name LEFT JOIN portolan.shipped h ON h.id = 1";

/// What the server and the role that ships must be, as the applier sees it.
const NEEDS: &str = "SELECT current_setting('wal_level'), rolreplication, current_setting('max_wal_senders')::bigint, \
    current_setting('max_replication_slots')::bigint, rolname::text FROM pg_roles WHERE rolname = current_user";

impl Store {
    /// Captures as it is configured from now on. What was captured otherwise before stays in the log.
    ///
    /// # Errors
    /// [`Error::Damaged`] with what the server or the role lacks, [`Error::Busy`] and [`Error::Writers`] while transactions that are open stand in
    /// the way.
    pub(crate) async fn choose(&self) -> Result<(), Error> {
        let chosen = self.chosen();
        let found = found(&mut *self.acquire(Role::Owner).await?).await?;
        match (chosen, found.word.is_some()) {
            (Capture::Triggers, false) if !found.exists => Ok(()),
            (Capture::Triggers, true) => self.end_shipping().await,
            (Capture::Triggers, false) => self.drop_slot(&found.name).await,
            (Capture::Logical, true) if found.whole => Ok(()),
            (Capture::Logical, _) => self.begin_shipping().await,
        }
    }

    /// The slot, once nobody else reads it. A lost one is begun anew.
    pub(crate) async fn ready_to_ship(&self) -> Result<Option<Ready>, Error> {
        let found = found(&mut *self.acquire(Role::Owner).await?).await?;
        let Some(word) = found.word else {
            let why =
                "its triggers write into the log themselves, as another configuration says: open it anew";
            return Err(Error::Busy(why.to_owned()));
        };
        if found.active {
            return Ok(None);
        }
        if !found.whole {
            self.begin_shipping().await?;
            return Ok(None);
        }
        Ok(Some(Ready { slot: found.name, word, after: found.after }))
    }

    /// Waits until all that was committed before now is in the log. Where nobody ships, this does meanwhile.
    ///
    /// # Errors
    /// [`Error::Busy`] when it does not come in time, and whatever keeps it from being shipped.
    pub(crate) async fn caught_up(&self) -> Result<(), Error> {
        if self.ships() { self.until_shipped_by_somebody().await } else { Ok(()) }
    }

    async fn until_shipped_by_somebody(&self) -> Result<(), Error> {
        let helps = async {
            sleep(CAUGHT_UP_HELP).await;
            self.ship_on().await
        };
        tokio::select! {
            caught_up = self.until_shipped() => caught_up,
            shipped = Box::pin(helps) => shipped,
        }
    }

    async fn until_shipped(&self) -> Result<(), Error> {
        let mut session = self.acquire(Role::Applier).await?;
        // A log that was cut is another's, which nobody ships.
        let beat = "SELECT CASE WHEN emits IS NOT NULL AND cut = 0 THEN (portolan.beat() - '0/0')::bigint END FROM portolan.fence";
        let Some(end) = session.one(beat, &[]).await?.number_or_null(0)? else { return Ok(()) };
        let deadline = Instant::now() + CAUGHT_UP_WAIT;
        loop {
            let shipped = session.one("SELECT (lsn - '0/0')::bigint FROM portolan.shipped", &[]).await?;
            if shipped.number(0)? >= end {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let why =
                    "what was committed has not been shipped into its log yet: look what its slot waits for";
                return Err(Error::Busy(why.to_owned()));
            }
            sleep(CAUGHT_UP_LOOK).await;
        }
    }

    /// The slot from which the log is shipped; none where triggers write into it.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn slot(&self) -> Result<Option<Slot>, Error> {
        if !self.ships() {
            return Ok(None);
        }
        let mut session = self.acquire(Role::Owner).await?;
        let sql = "SELECT s.slot_name::text, s.active, coalesce(pg_current_wal_lsn() - s.restart_lsn, 0)::bigint, s.safe_wal_size, \
            greatest(portolan.now_us() - h.at_us, 0) FROM pg_replication_slots s CROSS JOIN portolan.shipped h \
            WHERE s.slot_name = 'portolan_' || (SELECT oid FROM pg_database WHERE datname = current_database())";
        let slot = |row: &Row| {
            Ok(Slot {
                name: row.text(0)?,
                active: row.number(1)? == 1,
                retained_bytes: row.number(2)?,
                // Once it is negative, the slot is given up with the next checkpoint.
                left_bytes: if *row.value(3) == crate::Value::Null {
                    None
                } else {
                    Some(row.number(3).unwrap_or(0))
                },
                behind_us: row.number(4)?,
            })
        };
        session.fetch(sql, &[]).await?.first().map(slot).transpose()
    }

    /// Gives up a slot that nobody reads, once the server keeps more than so many bytes of its write-ahead log for it: a disk that is full stops all
    /// writers, and copies can begin anew. Returns whether it did.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn bound_slot(&self, bytes_max: u64) -> Result<bool, Error> {
        let Some(slot) = self.slot().await? else { return Ok(false) };
        if slot.active || slot.retained_bytes <= bytes_max {
            return Ok(false);
        }
        self.drop_slot(&slot.name).await.map(|()| true)
    }

    /// Nobody will ship this database's log any more: what was emitted is shipped, triggers write into the log themselves again, and the server keeps
    /// nothing for it. Whoever opens it as a shard whose log is shipped begins that again.
    ///
    /// # Errors
    /// When the database does not answer, or what was emitted cannot be shipped.
    pub async fn give_up_slot(&self) -> Result<(), Error> {
        if !self.ships() {
            return Ok(());
        }
        let found = found(&mut *self.acquire(Role::Owner).await?).await?;
        if found.word.is_some() {
            self.end_shipping().await?;
        }
        self.drop_slot_when_unread(&found.name).await
    }

    /// Makes a slot, and has triggers emit. Where they did already, what is missing between is a hole.
    async fn begin_shipping(&self) -> Result<(), Error> {
        lacks(&mut *self.acquire(Role::Applier).await?).await?;
        // It has no number of its own yet, for which the new slot would wait.
        let mut session = self.begin(Role::Owner).await?;
        one_at_a_time(&mut session).await?;
        let found = found(&mut session).await?;
        if found.word.is_some() && found.whole {
            return session.rollback().await;
        }
        let published = format!("SELECT 1 FROM pg_publication WHERE pubname = '{PUBLICATION}'");
        if session.fetch(&published, &[]).await?.is_empty() {
            let mut owner = self.acquire(Role::Owner).await?;
            owner.execute(&format!("CREATE PUBLICATION {PUBLICATION}"), &[]).await?;
        }
        self.drop_slot(&found.name).await?;
        let after = self.make_slot(&found.name).await?;
        alone(&mut session, FENCE_LOCK, None).await?;
        let row = session.one(&format!("{FENCE} {{lock}}"), &[]).await?;
        // What was cut has no followers, and gets another identity when an epoch begins.
        if found.word.is_some() && !self.is_cut(&mut session, &row).await? {
            let told = tip(&mut session).await?;
            self.renew_identity(&mut session).await?;
            note_trimmed(&mut session, told).await?;
        }
        let emit = "UPDATE portolan.fence SET emits = portolan.draw() || portolan.draw()";
        session.execute(emit, &[]).await?;
        let shipped = "INSERT INTO portolan.shipped (id, lsn, horizon, at_us) VALUES (1, '0/0'::pg_lsn + $1::numeric, \
            pg_snapshot_xmin(pg_current_snapshot())::text::bigint, portolan.now_us()) ON CONFLICT (id) DO UPDATE SET \
            lsn = excluded.lsn, horizon = excluded.horizon, at_us = excluded.at_us";
        session.execute(shipped, &[after.0.into()]).await?;
        changed(&mut session).await?;
        session.commit().await
    }

    /// Has triggers write into the log again, when all that they emitted is there.
    async fn end_shipping(&self) -> Result<(), Error> {
        let mut session = self.begin(Role::Owner).await?;
        one_at_a_time(&mut session).await?;
        alone(&mut session, FENCE_LOCK, None).await?;
        let found = found(&mut session).await?;
        let row = session.one(&format!("{FENCE} {{lock}}"), &[]).await?;
        let cut = self.is_cut(&mut session, &row).await?;
        if found.word.is_some() && found.whole && !cut {
            self.until_shipped_by_somebody().await?;
        } else if found.word.is_some() && !cut {
            let told = tip(&mut session).await?;
            self.renew_identity(&mut session).await?;
            note_trimmed(&mut session, told).await?;
        }
        session.execute("UPDATE portolan.fence SET emits = NULL", &[]).await?;
        session.execute("DELETE FROM portolan.shipped", &[]).await?;
        changed(&mut session).await?;
        session.commit().await?;
        // One that another process goes on reading goes when that one has ended, and this database is opened again.
        if found.exists { self.drop_slot_when_unread(&found.name).await } else { Ok(()) }
    }

    async fn make_slot(&self, name: &str) -> Result<Lsn, Error> {
        let mut session = self.acquire(Role::Applier).await?;
        let sql = "SELECT (lsn - '0/0')::bigint FROM pg_create_logical_replication_slot($1, 'pgoutput')";
        match session.fetch(sql, &[name.into()]).await {
            Ok(rows) => Ok(Lsn(rows.first().map_or(Ok(0), |row| row.number(0))?)),
            Err(Error::Busy(why)) => {
                let help = "a slot begins when all transactions have ended that were open before";
                Err(Error::Busy(format!("{why}: {help}")))
            }
            Err(error) => Err(error),
        }
    }

    /// Takes a slot away that nobody reads, or soon nobody: whoever read it a moment ago still does, for the server.
    async fn drop_slot_when_unread(&self, name: &str) -> Result<(), Error> {
        let deadline = Instant::now() + CAUGHT_UP_WAIT;
        loop {
            self.drop_slot(name).await?;
            let there = "SELECT 1 FROM pg_replication_slots WHERE slot_name = $1";
            let left = self.acquire(Role::Applier).await?.fetch(there, &[name.into()]).await?;
            if left.is_empty() || Instant::now() >= deadline {
                return Ok(());
            }
            sleep(CAUGHT_UP_LOOK).await;
        }
    }

    /// Takes a slot away that nobody reads.
    async fn drop_slot(&self, name: &str) -> Result<(), Error> {
        let mut session = self.acquire(Role::Applier).await?;
        let sql = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1 AND NOT active";
        session.execute(sql, &[name.into()]).await.map(drop)
    }
}

async fn found(session: &mut Session) -> Result<Found, Error> {
    let rows = session.fetch(LOOK, &[]).await?;
    let row = rows.first().ok_or_else(|| Error::Damaged("it has no fence".to_owned()))?;
    Ok(Found {
        name: row.text(0)?,
        exists: row.number(1)? == 1,
        active: row.number(2)? == 1,
        whole: row.number(3)? == 1,
        word: row.text_or_null(4)?,
        after: Lsn(row.number(5)?),
    })
}

/// What is missing for a slot.
async fn lacks(session: &mut Session) -> Result<(), Error> {
    let row = session.fetch(NEEDS, &[]).await?.into_iter().next();
    let row = row.ok_or_else(|| Error::Damaged("its roles are gone".to_owned()))?;
    match needs(&row)?.as_slice() {
        [] => Ok(()),
        wrong => Err(Error::Damaged(format!("`log = \"logical\"` needs more: {}", wrong.join("; ")))),
    }
}

/// What of a row of [`NEEDS`] must change, in words for an operator.
fn needs(row: &Row) -> Result<Vec<String>, Error> {
    let (wal_level, replicates, role) = (row.text(0)?, row.number(1)? == 1, row.text(4)?);
    let (senders, slots) = (row.number(2)?, row.number(3)?);
    let mut missing = Vec::new();
    if wal_level != "logical" {
        missing.push(format!("set `wal_level = logical` (it is `{wal_level}`) and restart the server"));
    }
    if senders == 0 || slots == 0 {
        missing.push(
            "set `max_wal_senders` and `max_replication_slots` above 0 and restart the server".to_owned(),
        );
    }
    if !replicates {
        missing.push(format!("`ALTER ROLE \"{role}\" REPLICATION`: the applier reads the slot"));
    }
    Ok(missing)
}

impl Inspection {
    /// What a server of PostgreSQL and the applier's role lack for [`Capture::Logical`], each with what to do.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn lacks_for_decoding(&mut self, config: &PostgresConfig) -> Result<Vec<String>, Error> {
        let options = login::options(&config.applier, "applier", &config.access)?;
        let sql = NEEDS.replace("current_user", "$1");
        let rows = self.fetch(&sql, &[options.get_username().into()]).await?;
        match rows.first() {
            Some(row) => needs(row),
            None => Ok(vec![format!("make the role `{}`, with REPLICATION", options.get_username())]),
        }
    }
}

/// Of those who begin and end slots.
async fn one_at_a_time(session: &mut Session) -> Result<(), Error> {
    session.execute("SELECT pg_advisory_xact_lock(1886351988, 1)", &[]).await.map(drop)
}
