//! How far a log may be read, and where a batch is cut.
//!
//! A transaction is in the log when it commits, not when it takes its number. So a reader stops at the *horizon*: the lowest
//! number that a transaction may still have that is not yet seen. In PostgreSQL this is the snapshot's xmin, in SQLite the
//! number that is being written. Records are read in the order of their positions, and reading stops at the first that
//! lies at the horizon or beyond; those behind it wait even if their own number is below it, which can only be so in a
//! later epoch.

use portolan_core::log::Position;

/// What of a log's visible records, in order, a batch takes. Of each record the position, and whether the record
/// after it is of another transaction.
///
/// Returns how many records, and whether the last ends its transaction. A batch ends where a transaction ends, unless
/// its only transaction is larger than what was looked at.
#[must_use]
pub fn cut(seen: &[(Position, bool)], horizon: u64) -> (usize, bool) {
    let settled = seen.iter().take_while(|(position, _)| position.transaction < horizon).count();
    let ended = seen.iter().take(settled).rposition(|(_, ends)| *ends);
    ended.map_or((settled, settled == 0), |last| (last + 1, true))
}
