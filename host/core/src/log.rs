//! The words of a shard's change log: epochs, positions, the identity of a log, versions of rows.
//!
//! Owns their order and their text. How a log is read and applied is the business of `portolan-changelog`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::RegionName;

/// How far a row's version may run ahead of the clock that looks at it: a minute of skew between two databases is a fault
/// already, and a version from the far future would win for ever.
pub const AHEAD_US_MAX: u64 = 60_000_000;

/// The number of a shard's lease. It rises with each new holder and with each new start of a log, and never falls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a tenant's placement: rises with each move, also with one that failed, so that what is left of an earlier stay is known as such.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Placement(pub u64);

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a record lies in a log. Compared as a whole, never by the sequence alone: a transaction that takes a lower
/// sequence may commit after one that took a higher.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Under which lease it was written.
    pub epoch: Epoch,
    /// By which transaction of the database.
    pub transaction: u64,
    /// Which of its records.
    pub sequence: u64,
}

impl Position {
    /// Before every record.
    pub const START: Self = Self { epoch: Epoch(0), transaction: 0, sequence: 0 };

    /// A position from its three numbers.
    #[must_use]
    pub const fn new(epoch: u64, transaction: u64, sequence: u64) -> Self {
        Self { epoch: Epoch(epoch), transaction, sequence }
    }

    /// Do both lie in one transaction?
    #[must_use]
    pub fn same_transaction(self, other: Self) -> bool {
        (self.epoch, self.transaction) == (other.epoch, other.transaction)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.epoch, self.transaction, self.sequence)
    }
}

/// A text that is no position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a position is three whole numbers with dots between them: epoch.transaction.sequence")]
pub struct NotAPosition;

impl std::str::FromStr for Position {
    type Err = NotAPosition;

    fn from_str(text: &str) -> Result<Self, NotAPosition> {
        let mut numbers = text.split('.').map(number);
        let mut next = || numbers.next().flatten().ok_or(NotAPosition);
        let position = Self { epoch: Epoch(next()?), transaction: next()?, sequence: next()? };
        if numbers.next().is_some() { Err(NotAPosition) } else { Ok(position) }
    }
}

/// One way to write each number, and none that a database's signed integer does not hold.
fn number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let plain = digits && (text.len() == 1 || !text.starts_with('0'));
    let number: u64 = if plain { text.parse().ok()? } else { return None };
    i64::try_from(number).is_ok().then_some(number)
}

/// Which log this is. Two logs whose positions can be compared have equal identities.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// The database cluster or file: PostgreSQL's system identifier, or a number that the file was made with.
    pub system: String,
    /// PostgreSQL's timeline, which a promotion inside the region or a recovery to an earlier point moves.
    pub timeline: u64,
    /// Drawn anew whenever an epoch is begun in a database whose history may have been cut.
    pub incarnation: String,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.system, self.timeline, self.incarnation)
    }
}

/// What somebody outside of a database remembers of its log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Witness {
    /// Which log.
    pub identity: Identity,
    /// The newest record that was seen of it.
    pub position: Position,
}

/// How a log stands to what a witness remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Continuity {
    /// It goes on: whoever followed it resumes.
    Continues,
    /// It is another log. Whoever followed the one before compares rows, and follows from a new start.
    Other,
    /// It has lost records that were seen: a backup was restored, or a disk lied. Only a new epoch may write here.
    Rewound,
}

impl Witness {
    /// Compares what was seen with the log as it is now, of which `tip` is the newest record.
    #[must_use]
    pub fn compare(&self, now: &Identity, tip: Position) -> Continuity {
        if self.identity != *now {
            Continuity::Other
        } else if self.position > tip {
            Continuity::Rewound
        } else {
            Continuity::Continues
        }
    }
}

/// The version of a row. The derived order is the order in which versions win: a lower epoch never overwrites a higher.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version {
    /// The lease that it was written under; 0 in multi-writer tables, which no lease orders.
    pub epoch: Epoch,
    /// Microseconds of the database's clock, and always more than the version before it had.
    pub v: u64,
    /// The region that wrote it: decides between equals.
    pub origin: RegionName,
}

impl Version {
    /// The version of a write at `now_us` over `before`, which is the row's version or its tombstone's.
    #[must_use]
    pub fn after(before: Option<&Self>, epoch: Epoch, now_us: u64, origin: RegionName) -> Self {
        let least = before.map_or(0, |before| before.v.saturating_add(1));
        Self { epoch, v: now_us.max(least), origin }
    }

    /// Is it from further in the future than clocks differ?
    #[must_use]
    pub const fn is_ahead(&self, now_us: u64) -> bool {
        self.v > now_us.saturating_add(AHEAD_US_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn positions_compare_by_epoch_then_transaction_then_sequence() {
        let rising = [(1, 9, 9), (2, 1, 9), (2, 2, 1), (2, 2, 2)];
        let rising = rising.map(|(epoch, transaction, sequence)| Position::new(epoch, transaction, sequence));
        assert!(rising.is_sorted_by(|a, b| a < b));
        assert!(rising[2].same_transaction(rising[3]) && !rising[1].same_transaction(rising[2]));
    }

    #[test]
    fn a_position_has_one_text() {
        for bad in ["", "1", "1.2", "1.2.3.4", "01.2.3", "1.+2.3", "1..3", "1.2.9223372036854775808", "a.b.c"]
        {
            assert_eq!(bad.parse::<Position>(), Err(NotAPosition), "{bad}");
        }
        assert_eq!("1.0.9223372036854775807".parse(), Ok(Position::new(1, 0, i64::MAX as u64)));
    }

    #[test]
    fn a_witness_tells_a_rewind_from_another_log() {
        let identity = Identity { system: "7".into(), timeline: 1, incarnation: "a".into() };
        let witness = Witness { identity: identity.clone(), position: Position::new(3, 20, 4) };
        assert_eq!(witness.compare(&identity, Position::new(3, 20, 4)), Continuity::Continues);
        assert_eq!(witness.compare(&identity, Position::new(3, 20, 3)), Continuity::Rewound);
        // A promotion inside the region: transactions lost with the old primary have their numbers used again.
        let promoted = Identity { timeline: 2, ..identity.clone() };
        assert_eq!(witness.compare(&promoted, Position::new(3, 25, 1)), Continuity::Other);
        let restored = Identity { incarnation: "b".into(), ..identity };
        assert_eq!(witness.compare(&restored, Position::new(4, 1, 1)), Continuity::Other);
    }

    proptest! {
        #[test]
        fn positions_print_and_read(epoch in 0..=i64::MAX as u64, transaction in 0..=i64::MAX as u64, sequence in 0_u64..9) {
            let position = Position::new(epoch, transaction, sequence);
            prop_assert_eq!(position.to_string().parse(), Ok(position));
        }

        #[test]
        fn a_write_is_above_what_it_replaces(epoch in 0_u64..3, before in any::<u64>(), now in any::<u64>(), same in any::<bool>()) {
            prop_assume!(before < u64::MAX);
            let region = |name| RegionName::new(name).unwrap();
            let old = Version { epoch: Epoch(epoch), v: before, origin: region("b") };
            let origin = region(if same { "b" } else { "a" });
            // Under the same lease or a later one, whatever the clock says and whoever writes.
            for later in [epoch, epoch + 1] {
                prop_assert!(Version::after(Some(&old), Epoch(later), now, origin.clone()) > old);
            }
        }
    }
}
