//! Who follows a log, as the log itself knows it: how far each peer has come, and what it may say of that.
//!
//! A peer's word decides what of the log may go. So it is held against what the peer said before and against what the log
//! can have given: a follower that was put back from a backup, or follows another log, must not pass for one that is up to date.

use portolan_core::ids::RegionName;
use portolan_core::log::{Identity, Position};

/// A follower of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Which region.
    pub name: RegionName,
    /// Through which log its positions are.
    pub identity: Identity,
    /// What it has received for good; what of a transaction is only received is not applied. Nothing until it has said so: before all
    /// rows are copied it has none of what lies before its place.
    pub received: Position,
    /// What it has applied.
    pub applied: Position,
    /// When it was heard last, in microseconds of the database's clock.
    pub acknowledged_us: u64,
    /// Since when it must begin anew from a snapshot, in microseconds of the database's clock. It holds nothing of the log.
    pub needs_snapshot_us: Option<u64>,
}

/// A log as peers are held against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Which log.
    pub identity: Identity,
    /// Up to where it has been trimmed.
    pub trimmed: Position,
    /// The furthest position that a reader can have been given.
    pub end: Position,
}

/// Why a peer's word is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerRefused {
    /// It says that it has what the log does not.
    #[error(
        "the peer `{peer}` says {said}, and the log ends at {end}: it follows another log, or this one was put back"
    )]
    Ahead {
        /// Who.
        peer: RegionName,
        /// The position that it says.
        said: Position,
        /// Where the log ends.
        end: Position,
    },
    /// It says less than before.
    #[error("the peer `{peer}` goes back from {before} to {said}: it was put back, and must begin anew")]
    Back {
        /// Who.
        peer: RegionName,
        /// The position that it said before.
        before: Position,
        /// The position that it says now.
        said: Position,
    },
    /// It says that it has applied what it has not received.
    #[error("the peer `{peer}` says that it has applied {applied} and received only {received}")]
    Disorder {
        /// Who.
        peer: RegionName,
        /// What it says that it has received.
        received: Position,
        /// What it says that it has applied.
        applied: Position,
    },
    /// There are as many peers as there may be.
    #[error("{max} peers follow this log, which is as many as may: drop one that will not come back")]
    Full {
        /// How many there may be.
        max: usize,
    },
    /// It was away for too long.
    #[error("the peer `{peer}` holds nothing of this log any more: it must begin anew from a snapshot")]
    NeedsSnapshot {
        /// Who.
        peer: RegionName,
    },
    /// It speaks of another log.
    #[error("the peer `{peer}` follows the log {theirs}, and this one is {ours}: it must begin anew")]
    Other {
        /// Who.
        peer: RegionName,
        /// The log that it speaks of.
        theirs: Box<Identity>,
        /// This log.
        ours: Box<Identity>,
    },
    /// It would begin at what is gone.
    #[error("the log has been trimmed through {trimmed}: nobody can follow it from {at}; take a snapshot")]
    Trimmed {
        /// Where it would begin.
        at: Position,
        /// Up to where the log has been trimmed.
        trimmed: Position,
    },
    /// Nobody of this name has begun to follow the log.
    #[error("no peer `{peer}` follows this log: it must begin")]
    Unknown {
        /// Who.
        peer: RegionName,
    },
}

impl Peer {
    /// A peer that begins to follow a log after a position.
    ///
    /// # Errors
    /// [`PeerRefused`] when nobody can follow this log from there.
    pub fn begin(
        log: &Extent,
        name: &RegionName,
        identity: &Identity,
        at: Position,
        now_us: u64,
    ) -> Result<Self, PeerRefused> {
        log.admits(name, identity, at)?;
        if at < log.trimmed {
            return Err(PeerRefused::Trimmed { at, trimmed: log.trimmed });
        }
        Ok(Self {
            name: name.clone(),
            identity: identity.clone(),
            received: Position::START,
            applied: at,
            acknowledged_us: now_us,
            needs_snapshot_us: None,
        })
    }

    /// The peer after it said how far it has come. The same again is no news, and taken.
    ///
    /// # Errors
    /// [`PeerRefused`] when it cannot be so; what it said before stands.
    pub fn acknowledge(
        &self,
        log: &Extent,
        identity: &Identity,
        (received, applied): (Position, Position),
        now_us: u64,
    ) -> Result<Self, PeerRefused> {
        let peer = || self.name.clone();
        log.admits(&self.name, identity, received)?;
        if self.needs_snapshot_us.is_some() || self.identity != *identity {
            return Err(PeerRefused::NeedsSnapshot { peer: peer() });
        }
        if applied > received {
            return Err(PeerRefused::Disorder { peer: peer(), received, applied });
        }
        for (before, said) in [(self.received, received), (self.applied, applied)] {
            if said < before {
                return Err(PeerRefused::Back { peer: peer(), before, said });
            }
        }
        Ok(Self { received, applied, acknowledged_us: now_us, ..self.clone() })
    }

    /// Does it hold the log of this identity from being trimmed past it?
    #[must_use]
    pub fn holds(&self, identity: &Identity) -> bool {
        self.needs_snapshot_us.is_none() && self.identity == *identity
    }
}

impl Extent {
    /// Is it this log of which a peer speaks, and a position that it can have given?
    fn admits(&self, name: &RegionName, identity: &Identity, at: Position) -> Result<(), PeerRefused> {
        if *identity != self.identity {
            let (theirs, ours) = (Box::new(identity.clone()), Box::new(self.identity.clone()));
            return Err(PeerRefused::Other { peer: name.clone(), theirs, ours });
        }
        if at > self.end {
            return Err(PeerRefused::Ahead { peer: name.clone(), said: at, end: self.end });
        }
        Ok(())
    }
}
