//! How a follower goes on through another's log.

use portolan_core::log::{Identity, Position};
use serde::{Deserialize, Serialize};

use super::record::Batch;

/// How far a follower has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Through which log. Positions of another mean nothing here.
    pub identity: Identity,
    /// What has been applied.
    pub applied: Position,
    /// What has been received of a transaction that has not ended, if there is one.
    pub staged: Option<Position>,
    /// When the last record that has been received was written, by its log, in microseconds; 0 while none has been. A log that has another
    /// record in its place was rewound, and has gone on otherwise.
    pub seen_us: u64,
}

/// What is to be done with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Apply it.
    Apply,
    /// Nothing: it has been applied or staged.
    Duplicate,
    /// Apply what is staged and this.
    Finish,
    /// Nothing: ask again from there.
    Gap(Position),
    /// Nothing: this is another log. Compare rows, then follow it from a new start.
    Other,
    /// Keep it until the rest is there.
    Stage,
}

impl Progress {
    /// Begins to follow a log after a position.
    #[must_use]
    pub const fn start(identity: Identity, at: Position) -> Self {
        Self { identity, applied: at, staged: None, seen_us: 0 }
    }

    /// From where to ask.
    #[must_use]
    pub fn received(&self) -> Position {
        self.staged.unwrap_or(self.applied)
    }

    /// Looks at a batch.
    #[must_use]
    pub fn admit(&self, batch: &Batch) -> Admission {
        let received = self.received();
        if batch.identity != self.identity {
            Admission::Other
        } else if batch.through <= received {
            Admission::Duplicate
        } else if batch.after != received {
            Admission::Gap(received)
        } else if !batch.ends {
            Admission::Stage
        } else if self.staged.is_some() {
            Admission::Finish
        } else {
            Admission::Apply
        }
    }

    /// The progress after a batch that was admitted.
    #[must_use]
    pub fn with(&self, batch: &Batch) -> Self {
        let (applied, staged) =
            if batch.ends { (batch.through, None) } else { (self.applied, Some(batch.through)) };
        let seen_us = batch.records.last().map_or(self.seen_us, |last| last.at_us);
        Self { identity: self.identity.clone(), applied, staged, seen_us }
    }
}
