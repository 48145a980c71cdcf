//! Trimming the log: what everybody has applied goes, piece by piece, and who is too far behind loses its place.
//!
//! What goes is decided by [`crate::model::retention`], in one transaction that notes up to where. From then on nobody reads
//! before that place, and only then are records taken away. So a reader that finds nothing where something was
//! knows it by looking at the note *after* it has read ([`Store::read`]).
//!
//! On PostgreSQL the log is a ring of partitions. A piece is emptied as a whole by TRUNCATE, which leaves nothing to be
//! vacuumed; its lock is only taken when nobody has one, so that no writer or reader ever waits behind it. The fence's row says
//! which piece is written: direct writers find it there, and a partition that somebody took away is replaced by the one for the rest.
//! On SQLite a piece is a measured range of the log, whose records are deleted some at a time.

use portolan_core::ids::RegionName;
use portolan_core::log::Position;

use crate::database::{Dialect, Row, Session};
use crate::defaults::{CHUNK_RECORDS, PIECE_RECORDS, PRUNE_SLICES, TRIM_SLICES};
use crate::error::Error;
use crate::model::retention::{Cut, Log, Piece, Retention};
use crate::moving::settled;
use crate::peers::{one_at_a_time, peers};
use crate::store::{Role, Store, identity_now, trimmed};

/// What a trim did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trimmed {
    /// Up to where the log has been trimmed, now or before.
    pub through: Position,
    /// About how many bytes the log takes now.
    pub bytes: u64,
    /// Peers that have lost their place now: each must begin anew from a snapshot.
    pub marked: Vec<RegionName>,
    /// Some of what may go is still there: somebody uses it, or it was too much for once. Trim again.
    pub more: bool,
}

/// The partition for what has no other.
const REST: &str = "log_rest";

impl Store {
    /// Takes away what of the log nobody needs any more, and the places of peers that are too far behind. A keeper calls it
    /// every so often, at the primary and at followers; twice at once does no harm.
    ///
    /// # Errors
    /// [`Closed::Cut`](crate::Closed::Cut) when the log may have been cut; otherwise when the database does not answer.
    ///
    /// # Cancel safety
    /// Cancel-safe: what was noted as trimmed goes with the next call.
    pub async fn trim(&self, limits: &Retention) -> Result<Trimmed, Error> {
        let mut more = self.measure().await?;
        let cut = self.note(limits).await?;
        more |= match self.dialect() {
            Dialect::Postgres => {
                let whole = self.empty_pieces().await?;
                self.turn(limits).await?;
                self.prune_inside().await?;
                whole
            }
            Dialect::Sqlite => self.delete_slices().await?,
        };
        let mut session = self.acquire(Role::Owner).await?;
        let through = trimmed(&mut session).await?;
        let bytes = look(&mut session).await?.bytes();
        Ok(Trimmed { through, bytes, marked: cut.marks, more })
    }

    /// Decides and notes what goes. Nobody begins to follow meanwhile.
    async fn note(&self, limits: &Retention) -> Result<Cut, Error> {
        let mut session = self.begin(Role::Owner).await?;
        one_at_a_time(&mut session).await?;
        let log = look(&mut session).await?;
        let cut = log.cut(&peers(&mut session).await?, limits);
        for name in &cut.marks {
            let sql = "UPDATE portolan_peer SET needs_snapshot_us = $2 WHERE name = $1";
            session.run(sql, &[name.as_str().into(), log.now_us.into()]).await?;
        }
        if let Some(through) = cut.through {
            note_trimmed(&mut session, through).await?;
        }
        session.commit().await?;
        Ok(cut)
    }

    /// Measures what SQLite's log has got since the last time. Returns whether some is left for the next.
    async fn measure(&self) -> Result<bool, Error> {
        if self.dialect() == Dialect::Postgres {
            return Ok(false);
        }
        for _ in 0..TRIM_SLICES {
            let mut session = self.begin(Role::Owner).await?;
            let done = session.run(MEASURE, &[PIECE_RECORDS.into(), RECORD_BYTES.into()]).await?;
            session.commit().await?;
            if done == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Deletes some of what is noted as trimmed. Returns whether some is left.
    async fn delete_slices(&self) -> Result<bool, Error> {
        let delete = "DELETE FROM portolan_log WHERE seq IN (SELECT seq FROM portolan_log WHERE (epoch, tx, seq) <= ($1, $2, $3) \
            ORDER BY epoch, tx, seq LIMIT $4)";
        for _ in 0..TRIM_SLICES {
            let mut session = self.begin(Role::Owner).await?;
            let through = trimmed(&mut session).await?;
            let [epoch, tx, seq] = [through.epoch.0, through.transaction, through.sequence].map(Into::into);
            let gone = session.run(delete, &[epoch, tx, seq, (CHUNK_RECORDS as u64).into()]).await?;
            let pieces = "DELETE FROM portolan_piece WHERE seq <= $1";
            session.run(pieces, &[through.sequence.into()]).await?;
            session.commit().await?;
            if gone < CHUNK_RECORDS as u64 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Empties the pieces that are trimmed as a whole. Returns whether one is left, because somebody uses it.
    async fn empty_pieces(&self) -> Result<bool, Error> {
        let mut session = self.acquire(Role::Owner).await?;
        let through = trimmed(&mut session).await?;
        let open = session.one("SELECT piece FROM portolan_fence", &[]).await?.number(0)?;
        let mut due = Vec::new();
        for (name, number) in leaves(&mut session).await? {
            let last = last(&mut session, &name).await?.map(|(last, _)| last);
            if number != Some(open) && last.is_some_and(|last| last <= through) {
                due.push(name);
            }
        }
        drop(session);
        let mut used = false;
        for name in due {
            used |= !self.empty_piece(&name, through).await?;
        }
        Ok(used)
    }

    /// Empties a piece if nobody uses it at this moment, and if it holds nothing that is not trimmed.
    async fn empty_piece(&self, name: &str, through: Position) -> Result<bool, Error> {
        let mut session = self.begin(Role::Owner).await?;
        let lock = format!("LOCK TABLE portolan.{name} IN ACCESS EXCLUSIVE MODE NOWAIT");
        match session.execute(&lock, &[]).await {
            Err(Error::Busy(_)) => {
                session.rollback().await?;
                return Ok(false);
            }
            done => done.map(drop)?,
        }
        // A writer who found the fence before it turned may have come since.
        let whole = last(&mut session, name).await?.is_none_or(|(last, _)| last <= through);
        if whole {
            session.execute(&format!("TRUNCATE portolan.{name}"), &[]).await?;
        }
        session.commit().await?;
        Ok(true)
    }

    /// Has writers go on in another piece, if it is time and one is empty.
    async fn turn(&self, limits: &Retention) -> Result<(), Error> {
        let mut session = self.begin(Role::Owner).await?;
        let log = look(&mut session).await?;
        let open = session.one("SELECT piece FROM portolan_fence", &[]).await?.number(0)?;
        let there: Vec<u64> =
            leaves(&mut session).await?.into_iter().filter_map(|(_, number)| number).collect();
        // One that somebody took away is left at once.
        let mut closes = !there.contains(&open);
        if !closes {
            let first = format!("SELECT at_us FROM portolan.log_{open} ORDER BY epoch, tx, seq LIMIT 1");
            let first = session.fetch(&first, &[]).await?;
            let first_us = first.first().map(|row| row.number(0)).transpose()?;
            closes = first_us.is_some_and(|first_us| log.closes(first_us, limits));
        }
        for next in there.iter().copied().filter(|next| closes && *next != open) {
            if last(&mut session, &format!("log_{next}")).await?.is_none() {
                let sql = "UPDATE portolan_fence SET piece = CAST($1 AS smallint) WHERE piece = $2";
                session.run(sql, &[next.into(), open.into()]).await?;
                break;
            }
        }
        session.commit().await
    }

    /// Of transactions that have ended nothing is looked at any more. Some slices of them go, each on its own: a backlog
    /// must not take longer than a statement may.
    async fn prune_inside(&self) -> Result<(), Error> {
        let sql = "DELETE FROM portolan.inside WHERE (tx, epoch, leased) IN (SELECT tx, epoch, leased FROM portolan.inside \
            WHERE tx < pg_snapshot_xmin(pg_current_snapshot())::text::bigint ORDER BY tx, epoch, leased LIMIT $1)";
        for _ in 0..PRUNE_SLICES {
            let mut session = self.begin(Role::Owner).await?;
            let gone = session.execute(sql, &[(CHUNK_RECORDS as u64).into()]).await?;
            session.commit().await?;
            if gone < CHUNK_RECORDS as u64 {
                break;
            }
        }
        Ok(())
    }
}

/// The log as it is trimmed.
pub(crate) async fn look(session: &mut Session) -> Result<Log, Error> {
    let identity = identity_now(session).await?;
    let settled = settled(session).await?;
    let now_us = session.one("SELECT {now}", &[]).await?.number(0)?;
    // A move out of here goes on from where it began.
    let sql = "SELECT min(began_us) FROM portolan_move WHERE side = 'out'";
    let read_since_us = session.one(sql, &[]).await?.number_or_null(0)?;
    let (closed, open) = match session.dialect() {
        Dialect::Postgres => partitions(session).await?,
        Dialect::Sqlite => ranges(session).await?,
    };
    Ok(Log { identity, closed, open, settled, read_since_us, now_us })
}

/// Notes up to where the log is trimmed, with the last record of each epoch that ends before: what was reached then stays known.
pub(crate) async fn note_trimmed(session: &mut Session, through: Position) -> Result<(), Error> {
    let mut last = Some(through);
    while let Some(at) = last {
        let [epoch, tx, seq] = [at.epoch.0, at.transaction, at.sequence].map(Into::into);
        let note = "INSERT INTO portolan_trimmed (epoch, tx, seq) VALUES ($1, $2, $3) \
            ON CONFLICT (epoch) DO UPDATE SET tx = excluded.tx, seq = excluded.seq \
            WHERE (portolan_trimmed.tx, portolan_trimmed.seq) < (excluded.tx, excluded.seq)";
        session.run(note, &[epoch, tx, seq]).await?;
        let before = "SELECT epoch, tx, seq FROM portolan_log WHERE epoch < $1 ORDER BY epoch DESC, tx DESC, seq DESC LIMIT 1";
        last = session.query(before, &[at.epoch.0.into()]).await?.first().map(position).transpose()?;
    }
    Ok(())
}

/// The partitions that are there, by name, with their numbers in the ring.
async fn leaves(session: &mut Session) -> Result<Vec<(String, Option<u64>)>, Error> {
    let sql = "SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
        WHERE i.inhparent = 'portolan.log'::regclass ORDER BY c.relname";
    let name = |row: &Row| {
        let name = row.text(0)?;
        let number = name.strip_prefix("log_").and_then(|number| number.parse().ok());
        if number.is_none() && name != REST {
            return Err(Error::Damaged(format!(
                "the log has a partition `{name}` that portolan did not make"
            )));
        }
        Ok((name, number))
    };
    session.fetch(sql, &[]).await?.iter().map(name).collect()
}

/// The last record of a partition, and when it was written.
async fn last(session: &mut Session, leaf: &str) -> Result<Option<(Position, u64)>, Error> {
    let sql = format!(
        "SELECT epoch, tx, seq, at_us FROM portolan.{leaf} ORDER BY epoch DESC, tx DESC, seq DESC LIMIT 1"
    );
    let rows = session.fetch(&sql, &[]).await?;
    rows.first().map(|row| Ok((position(row)?, row.number(3)?))).transpose()
}

/// PostgreSQL's pieces: partitions that hold records.
async fn partitions(session: &mut Session) -> Result<(Vec<Piece>, Option<Piece>), Error> {
    let open = session.one("SELECT piece FROM portolan_fence", &[]).await?.number(0)?;
    let (mut closed, mut written) = (Vec::new(), None);
    for (name, number) in leaves(session).await? {
        let Some((last, newest_us)) = last(session, &name).await? else { continue };
        let sql = format!(
            "SELECT seq, pg_total_relation_size('portolan.{name}') FROM portolan.{name} ORDER BY epoch, tx, seq LIMIT 1"
        );
        let rows = session.fetch(&sql, &[]).await?;
        let Some(row) = rows.first() else { continue };
        let piece = Piece { first: row.number(0)?, last, bytes: row.number(1)?, newest_us };
        if number == Some(open) { written = Some(piece) } else { closed.push(piece) }
    }
    closed.sort_by_key(|piece| piece.last);
    Ok((closed, written))
}

/// SQLite's pieces: ranges that have been measured, and the rest.
async fn ranges(session: &mut Session) -> Result<(Vec<Piece>, Option<Piece>), Error> {
    let sql = "SELECT epoch, tx, seq, first_seq, bytes, newest_us FROM portolan_piece ORDER BY seq";
    let piece = |row: &Row| {
        Ok(Piece {
            first: row.number(3)?,
            last: position(row)?,
            bytes: row.number(4)?,
            newest_us: row.number(5)?,
        })
    };
    let closed = session.query(sql, &[]).await?.iter().map(piece).collect::<Result<Vec<_>, Error>>()?;
    let rest = "SELECT l.epoch, l.tx, l.seq, r.first_seq, r.bytes, l.at_us FROM (SELECT min(seq) AS first_seq, max(seq) AS seq, \
        sum(coalesce(octet_length(row), 0) + $1) AS bytes FROM portolan_log \
        WHERE seq > coalesce((SELECT max(seq) FROM portolan_piece), (SELECT max(seq) FROM portolan_trimmed), 0)) r \
        JOIN portolan_log l ON l.seq = r.seq";
    let open = session.query(rest, &[RECORD_BYTES.into()]).await?.first().map(piece).transpose()?;
    Ok((closed, open))
}

fn position(row: &Row) -> Result<Position, Error> {
    Ok(Position::new(row.number(0)?, row.number(1)?, row.number(2)?))
}

/// About what SQLite's log takes for a record beside its row, with its place in the index.
const RECORD_BYTES: u64 = 200;

/// The next piece: some records after the last that was measured. SQLite's sequences follow its positions.
const MEASURE: &str = "INSERT INTO portolan_piece (seq, epoch, tx, first_seq, bytes, newest_us) \
    SELECT l.seq, l.epoch, l.tx, r.first_seq, r.bytes, l.at_us FROM (SELECT min(seq) AS first_seq, max(seq) AS seq, \
    sum(coalesce(octet_length(row), 0) + $2) AS bytes FROM (SELECT seq, row FROM portolan_log \
    WHERE seq > coalesce((SELECT max(seq) FROM portolan_piece), (SELECT max(seq) FROM portolan_trimmed), 0) \
    ORDER BY seq LIMIT $1)) r JOIN portolan_log l ON l.seq = r.seq";
