//! What of a log may go, and who has waited for too long.
//!
//! A log is trimmed in pieces, the oldest first. A piece goes when every peer has applied it, when it is settled (no
//! transaction may still commit a record within it), and when it is so old that no token, rewind or move looks there. A log
//! that is too large or too old although it may not go yet costs the peer that is furthest behind its place: it is marked,
//! and comes back by a snapshot. Nothing that an unmarked peer has not applied ever goes.

use std::time::Duration;

use portolan_core::ids::RegionName;
use portolan_core::log::{Identity, Position};

use super::peer::Peer;
use crate::defaults::{LOG_AGE_MAX, LOG_AGE_MIN, LOG_BYTES_MAX};

/// How much of a log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Records younger than this stay, unless the log has more bytes than it may.
    pub age_min: Duration,
    /// Peers that have not applied records older than this lose their place.
    pub age_max: Duration,
    /// Bytes that the log may take, apart from the piece that is being written.
    pub bytes_max: u64,
}

impl Default for Retention {
    /// What a keeper keeps unless it is told otherwise.
    fn default() -> Self {
        Self { age_min: LOG_AGE_MIN, age_max: LOG_AGE_MAX, bytes_max: LOG_BYTES_MAX }
    }
}

/// A piece of a log: all of it goes at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The sequence of its first record.
    pub first: u64,
    /// Its last record. Pieces are ordered by it, and may overlap where transactions last long.
    pub last: Position,
    /// What it takes.
    pub bytes: u64,
    /// When its last record was written, in microseconds of the database's clock.
    pub newest_us: u64,
}

/// A log as it is trimmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Which log.
    pub identity: Identity,
    /// The pieces that are not written any more, by their last records.
    pub closed: Vec<Piece>,
    /// The piece that is being written, if it holds records.
    pub open: Option<Piece>,
    /// All records that may still come lie after it.
    pub settled: Position,
    /// Since when a move reads the log, in microseconds of the database's clock.
    pub read_since_us: Option<u64>,
    /// The database's clock.
    pub now_us: u64,
}

/// What is to be done to a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// The last record that goes; all before it go too.
    pub through: Option<Position>,
    /// How many of the closed pieces go with it.
    pub pieces: usize,
    /// Peers that are marked, the furthest behind first.
    pub marks: Vec<RegionName>,
}

impl Log {
    /// Decides what goes.
    #[must_use]
    pub fn cut(&self, peers: &[Peer], limits: &Retention) -> Cut {
        let mut cut = Cut::default();
        // Positions of another log hold nothing here.
        let stale =
            peers.iter().filter(|peer| peer.needs_snapshot_us.is_none() && !peer.holds(&self.identity));
        cut.marks.extend(stale.map(|peer| peer.name.clone()));
        let mut holding: Vec<&Peer> = peers.iter().filter(|peer| peer.holds(&self.identity)).collect();
        holding.sort_by_key(|peer| peer.applied);
        let mut holding = holding.into_iter();
        loop {
            let slowest = holding.as_slice().first();
            let through = slowest.map_or(self.settled, |peer| peer.applied.min(self.settled));
            while self.closed.get(cut.pieces).is_some_and(|piece| piece.last <= through)
                && self.may_go(cut.pieces, limits)
            {
                cut.pieces += 1;
            }
            let Some(piece) = self.closed.get(cut.pieces).filter(|_| self.is_over(cut.pieces, limits)) else {
                break;
            };
            // Only a peer that stands in the way loses its place, and none for what it cannot have read yet.
            let in_the_way = |peer: &&&Peer| peer.applied < piece.last && piece.last <= self.settled;
            let Some(peer) = slowest.filter(in_the_way) else { break };
            cut.marks.push(peer.name.clone());
            holding.next();
        }
        cut.through =
            cut.pieces.checked_sub(1).and_then(|last| self.closed.get(last)).map(|piece| piece.last);
        cut
    }

    /// Is a piece old enough, or must it go because of the bytes that are there with it?
    fn may_go(&self, at: usize, limits: &Retention) -> bool {
        let Some(piece) = self.closed.get(at) else { return false };
        let age_min = micros(limits.age_min);
        let looked_at = self.read_since_us.map_or(self.now_us, |since| since.min(self.now_us));
        piece.newest_us < looked_at.saturating_sub(age_min) || self.bytes_from(at) > limits.bytes_max
    }

    /// Is the log too large or too old while this piece is its first?
    fn is_over(&self, at: usize, limits: &Retention) -> bool {
        let old = self.closed.get(at).map_or(self.now_us, |piece| piece.newest_us);
        self.bytes_from(at) > limits.bytes_max || old < self.now_us.saturating_sub(micros(limits.age_max))
    }

    fn bytes_from(&self, at: usize) -> u64 {
        self.closed.iter().skip(at).map(|piece| piece.bytes).sum()
    }

    /// Is the piece that is being written so large or so old that another should begin? The longer the log, the longer its
    /// pieces, so that a fixed number of them lasts.
    #[must_use]
    pub fn closes(&self, first_us: u64, limits: &Retention) -> bool {
        let Some(open) = &self.open else { return false };
        let oldest = self.closed.first().map_or(first_us, |piece| piece.newest_us.min(first_us));
        let age = |since: u64| self.now_us.saturating_sub(since);
        let lasts = micros(limits.age_min).max(age(oldest)) / PIECES_PER_LOG;
        open.bytes > limits.bytes_max / PIECES_PER_CAP || age(first_us) > lasts
    }

    /// About how many bytes of the log lie after a position: within a piece by its share of the sequence.
    #[must_use]
    pub fn bytes_after(&self, position: Position) -> u64 {
        let pieces = self.closed.iter().chain(&self.open);
        pieces.filter(|piece| piece.last > position).map(|piece| piece.after(position.sequence)).sum()
    }

    /// What the log takes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes_from(0).saturating_add(self.open.as_ref().map_or(0, |piece| piece.bytes))
    }
}

/// A piece lasts for a third of the log's time: what has been applied and is old enough waits for no more than that.
const PIECES_PER_LOG: u64 = 3;
/// A piece has at most an eighth of the bytes that the log may have: as many pieces as PostgreSQL's ring has.
const PIECES_PER_CAP: u64 = 8;

impl Piece {
    fn after(&self, sequence: u64) -> u64 {
        let records = self.last.sequence.saturating_sub(self.first).saturating_add(1);
        let rest = self.last.sequence.saturating_sub(sequence.max(self.first.saturating_sub(1))).min(records);
        let bytes = u128::from(self.bytes) * u128::from(rest) / u128::from(records);
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
