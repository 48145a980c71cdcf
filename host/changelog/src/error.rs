//! What can go wrong, by what the caller will do about it.

use portolan_core::ids::RegionName;
use portolan_core::log::{Epoch, Position};

use crate::model::fence::{Closed, Refused};
use crate::model::lineage::Forked;
use crate::model::peer::PeerRefused;
use crate::model::record::BadBatch;
use crate::rejection::Rejection;

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database does not answer: try again later, or elsewhere.
    #[error("the shard's database does not answer: {0}")]
    Away(String),
    /// A batch that is none: its sender is broken.
    #[error(transparent)]
    Batch(#[from] BadBatch),
    /// Others stood in the way: try again.
    #[error("the shard's database is busy: {0}")]
    Busy(String),
    /// The fence is closed: write where it is open.
    #[error(transparent)]
    Closed(#[from] Closed),
    /// The database holds what portolan never wrote, or is set up otherwise than it must be: a person must look.
    #[error("the shard's database is not as it must be: {0}")]
    Damaged(String),
    /// A source without any rows would take away all that a copy has, and nobody knows that it meant to.
    #[error(
        "`{source_region}` has no rows at all, and this copy has {rows}: if its database was lost, make this region the primary \
         (`portolan shard promote`); if the rows are to go, delete them here first"
    )]
    Empty {
        /// How many rows the copy has.
        rows: u64,
        /// The region that has none.
        source_region: RegionName,
    },
    /// Two regions say that one epoch began in them: somebody gave it out twice.
    #[error("{0}: a person must look, and find which of them the control store names")]
    Forked(#[from] Forked),
    /// This copy cannot become the primary.
    #[error(
        "this copy is not whole, and cannot be the primary: {0}; promote another region, or wait until it is whole"
    )]
    Partial(String),
    /// A peer's word is not taken: the peer must begin anew, or somebody must look.
    #[error(transparent)]
    Peer(#[from] PeerRefused),
    /// The fence does not move this way: another lease has come.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The database refuses the statement: the statement is wrong.
    #[error("the shard's database refuses: {0}")]
    Rejected(Box<Rejection>),
    /// A loser that cannot be written back.
    #[error("conflict {conflict} {why}")]
    Restore {
        /// Its name.
        conflict: String,
        /// Why not, and what to do instead.
        why: String,
    },
    /// A table is not as it is declared: change one of them.
    #[error("table `{table}` {reason}")]
    Table {
        /// Which table.
        table: String,
        /// What is not so.
        reason: String,
    },
    /// Records of an epoch that is over, and nobody has told yet where it was cut: ask again when a later epoch has begun.
    #[error("epoch {ended} is over, and where it was cut is known when an epoch from {sealed} on has begun")]
    Sealed {
        /// The records' epoch.
        ended: Epoch,
        /// The epoch that the fence knows.
        sealed: Epoch,
    },
    /// Some of what was asked for is gone from the log: begin anew from a snapshot.
    #[error(
        "the log has been trimmed through {through}, and what comes after {after} is not whole any more: take a snapshot"
    )]
    Trimmed {
        /// After which position was asked.
        after: Position,
        /// Up to where the log has been trimmed.
        through: Position,
    },
    /// Nobody knows whether the transaction was written: read before writing again.
    #[error("the transaction may or may not be written: {0}")]
    Unknown(String),
    /// Writers are still inside: whoever takes over must not count on their silence.
    #[error("writers of the old lease are still connected: {0}")]
    Writers(String),
}

impl Error {
    /// From what sqlx says of a statement.
    pub(crate) fn of(error: &sqlx::Error) -> Self {
        let Some(database) = error.as_database_error() else {
            return Self::Away(error.to_string());
        };
        let (message, code) = (database.message(), database.code().unwrap_or_default());
        // Others' words may hold a writer's own values. What triggers raise has one of these codes and is the whole message.
        if let "25006" | "1811" = code.as_ref()
            && let Some(closed) = message.strip_prefix("portolan:").and_then(closed)
        {
            return Self::Closed(closed);
        }
        match code.as_ref() {
            // Deadlocks, old snapshots, locks that were not to be had, statements that took too long; SQLite's BUSY, LOCKED and INTERRUPT.
            "40001" | "40P01" | "55P03" | "57014" | "5" | "6" | "9" | "261" | "517" | "773" => {
                Self::Busy(message.to_owned())
            }
            // A password that has changed, or a role that is gone.
            "28P01" | "28000" => Self::Away(message.to_owned()),
            // The server stops, starts or ends the connection; SQLite's input and output errors, a full disk.
            code if code.starts_with("57P") || code.starts_with("08") || code.starts_with("53") => {
                Self::Away(message.to_owned())
            }
            code if code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, 10 | 13 | 14))
                && code.len() < 5 =>
            {
                Self::Away(message.to_owned())
            }
            "11" | "26" | "XX001" | "XX002" => Self::Damaged(message.to_owned()),
            _ => Self::Rejected(Box::new(Rejection::of(database))),
        }
    }
}

/// The words with which triggers refuse.
fn closed(word: &str) -> Option<Closed> {
    Some(match word {
        "away" => Closed::Away,
        "cut" => Closed::Cut,
        "expired" => Closed::Expired,
        "held" => Closed::Held,
        "member" => Closed::Member,
        "moved" => Closed::Moved,
        _ => return None,
    })
}
