//! Peers at the source: who follows this log, how far each has come, and who has lost its place.
//!
//! A peer begins at a settled position, *before* it copies the first row: from then on the log keeps what it will ask for. What
//! may be said of a peer is [`crate::model::peer`]'s; here it is kept, and one at a time changes it.

use portolan_core::ids::RegionName;
use portolan_core::log::{Identity, Position};

use crate::database::{Dialect, Row, Session, Value};
use crate::defaults::PEERS_MAX;
use crate::error::Error;
use crate::model::peer::{Extent, Peer, PeerRefused};
use crate::moving::settled;
use crate::store::{FENCE, Role, Store, identity, identity_now, tip, trimmed};
use crate::trim;

/// A peer, and what it has before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Follower {
    /// What it has said, and whether it has lost its place.
    pub peer: Peer,
    /// About how many bytes of the log it has not applied.
    pub behind_bytes: u64,
}

impl Store {
    /// A peer begins to follow this log after a position, which was settled when it was read: the log keeps what lies after it.
    /// One that has lost its place, or follows another log, gets a new one so.
    ///
    /// # Errors
    /// [`Error::Peer`] when nobody can follow this log from there, or as many peers do as may.
    pub async fn begin_peer(
        &self,
        name: &RegionName,
        identity: &Identity,
        at: Position,
    ) -> Result<(), Error> {
        let mut session = self.begin(Role::Owner).await?;
        one_at_a_time(&mut session).await?;
        let peers = peers(&mut session).await?;
        if peers.len() >= PEERS_MAX && !peers.iter().any(|peer| peer.name == *name) {
            return Err(PeerRefused::Full { max: PEERS_MAX }.into());
        }
        let (log, now_us) = extent(&mut session).await?;
        save(&mut session, &Peer::begin(&log, name, identity, at, now_us)?).await?;
        self.unheard(name);
        session.commit().await
    }

    /// A peer says how far it has come through this log. The same may be said again.
    ///
    /// # Errors
    /// [`Error::Peer`] when that cannot be so, or when the peer has lost its place; then nothing has changed.
    pub async fn peer_acknowledges(
        &self,
        name: &RegionName,
        identity: &Identity,
        received: Position,
        applied: Position,
    ) -> Result<(), Error> {
        let mut session = self.begin(Role::Owner).await?;
        one_at_a_time(&mut session).await?;
        let peers = peers(&mut session).await?;
        let peer = peers.into_iter().find(|peer| peer.name == *name);
        let peer = peer.ok_or_else(|| PeerRefused::Unknown { peer: name.clone() })?;
        let (log, now_us) = extent(&mut session).await?;
        save(&mut session, &peer.acknowledge(&log, identity, (received, applied), now_us)?).await?;
        session.commit().await
    }

    /// Who follows this log, by name. What they are behind is an estimate.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn peers(&self) -> Result<Vec<Follower>, Error> {
        let mut session = self.acquire(Role::Owner).await?;
        let log = trim::look(&mut session).await?;
        let peers = peers(&mut session).await?;
        Ok(peers
            .into_iter()
            .map(|peer| Follower { behind_bytes: log.bytes_after(peer.applied), peer })
            .collect())
    }

    /// Up to here all peers have applied this log that have not lost their place; none while there are none.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn peers_have(&self) -> Result<Option<Position>, Error> {
        let mut session = self.acquire(Role::Owner).await?;
        let peers = peers(&mut session).await?;
        Ok(peers.iter().filter(|peer| peer.needs_snapshot_us.is_none()).map(|peer| peer.applied).min())
    }

    /// Has a peer lost its place in this log, so that it cannot be told what was written here?
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn has_lost(&self, name: &RegionName) -> Result<bool, Error> {
        let mut session = self.acquire(Role::Owner).await?;
        let row = session.one(FENCE, &[]).await?;
        let identity = identity(&row)?;
        let peers = peers(&mut session).await?;
        let lost = |peer: &Peer| peer.needs_snapshot_us.is_some() && peer.identity == identity;
        Ok(peers.iter().any(|peer| peer.name == *name && lost(peer)))
    }

    /// A peer will not come back: nothing waits for it any more. Returns whether there was one.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn drop_peer(&self, name: &RegionName) -> Result<bool, Error> {
        let mut session = self.begin(Role::Owner).await?;
        let gone = session.run("DELETE FROM portolan_peer WHERE name = $1", &[name.as_str().into()]).await?;
        session.commit().await?;
        self.unheard(name);
        Ok(gone == 1)
    }
}

/// A follower that had come to a position goes on from there, and what comes after it is kept for it.
pub(crate) async fn hold_for(
    session: &mut Session,
    name: &RegionName,
    identity: &Identity,
    at: Position,
) -> Result<(), Error> {
    one_at_a_time(session).await?;
    let (log, now_us) = extent(session).await?;
    save(session, &Peer::begin(&log, name, identity, at, now_us)?).await
}

/// Nobody else changes peers, or what of the log is there for them, until the transaction ends.
pub(crate) async fn one_at_a_time(session: &mut Session) -> Result<(), Error> {
    if session.dialect() == Dialect::Sqlite {
        return Ok(());
    }
    session.execute("LOCK TABLE portolan.peer IN SHARE ROW EXCLUSIVE MODE", &[]).await.map(drop)
}

pub(crate) async fn peers(session: &mut Session) -> Result<Vec<Peer>, Error> {
    let sql = "SELECT name, system, timeline, incarnation, received_epoch, received_tx, received_seq, \
        applied_epoch, applied_tx, applied_seq, acknowledged_us, needs_snapshot_us FROM portolan_peer ORDER BY name";
    let peer = |row: &Row| {
        let name = RegionName::new(&row.text(0)?).map_err(|error| Error::Damaged(error.to_string()))?;
        Ok(Peer {
            name,
            identity: Identity { system: row.text(1)?, timeline: row.number(2)?, incarnation: row.text(3)? },
            received: Position::new(row.number(4)?, row.number(5)?, row.number(6)?),
            applied: Position::new(row.number(7)?, row.number(8)?, row.number(9)?),
            acknowledged_us: row.number(10)?,
            needs_snapshot_us: row.number_or_null(11)?,
        })
    };
    session.query(sql, &[]).await?.iter().map(peer).collect()
}

/// The log as peers are held against it, and the time.
async fn extent(session: &mut Session) -> Result<(Extent, u64), Error> {
    let identity = identity_now(session).await?;
    let end = tip(session).await?.max(settled(session).await?);
    let trimmed = trimmed(session).await?;
    let now_us = session.one("SELECT {now}", &[]).await?.number(0)?;
    Ok((Extent { identity, trimmed, end }, now_us))
}

async fn save(session: &mut Session, peer: &Peer) -> Result<(), Error> {
    let at =
        |position: Position| [position.epoch.0.into(), position.transaction.into(), position.sequence.into()];
    let mut args: Vec<Value> = vec![
        peer.name.as_str().into(),
        peer.identity.system.as_str().into(),
        peer.identity.timeline.into(),
        peer.identity.incarnation.as_str().into(),
        peer.acknowledged_us.into(),
    ];
    args.extend(at(peer.received));
    args.extend(at(peer.applied));
    let sql = "INSERT INTO portolan_peer (name, system, timeline, incarnation, acknowledged_us, received_epoch, received_tx, \
        received_seq, applied_epoch, applied_tx, applied_seq) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) \
        ON CONFLICT (name) DO UPDATE SET system = excluded.system, timeline = excluded.timeline, \
        incarnation = excluded.incarnation, acknowledged_us = excluded.acknowledged_us, \
        received_epoch = excluded.received_epoch, received_tx = excluded.received_tx, received_seq = excluded.received_seq, \
        applied_epoch = excluded.applied_epoch, applied_tx = excluded.applied_tx, applied_seq = excluded.applied_seq, \
        needs_snapshot_us = NULL";
    session.run(sql, &args).await.map(drop)
}
