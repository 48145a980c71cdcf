//! What a promotion loses: an interval when it happens, a number once the lost region is back.

use portolan_core::ids::RegionName;
use portolan_core::log::Epoch;
use serde::{Deserialize, Serialize};

/// What came of sealing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// The epoch that is to begin.
    pub epoch: Epoch,
    /// Rows of the old primary's log that the candidate has now.
    pub rows: u64,
    /// Rows that it is known to have had.
    pub head_rows: u64,
    /// How long before now the last row was written that the candidate has, in milliseconds.
    pub age_ms: u64,
    /// Copies that did not answer: they may have more.
    pub missing: Vec<RegionName>,
    /// Did the old primary itself answer? Then nothing is lost.
    pub with_primary: bool,
}

/// What a promotion loses. Lost rows are not gone: the old primary has them, past the cut, and keeps them apart when it is back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// Rows that are known to have been written, and that the candidate does not have.
    pub at_least: u64,
    /// Rows that may have been, at most; none where nothing bounds them.
    pub at_most: Option<u64>,
    /// They were written in the last so many milliseconds before the promotion.
    pub span_ms: u64,
    /// Rows, once the lost region has counted them.
    pub exact: Option<u64>,
}

impl Loss {
    /// Nothing.
    #[must_use]
    pub const fn none() -> Self {
        Self { at_least: 0, at_most: Some(0), span_ms: 0, exact: Some(0) }
    }

    /// What follows from sealing. A primary with a window takes no write while more rows than that have not been received by another region; so where
    /// every other copy has answered, no more than the window is missing.
    #[must_use]
    pub fn estimate(head_rows: u64, window_rows: Option<u64>, sealed: &Sealed) -> Self {
        if sealed.with_primary {
            return Self::none();
        }
        let at_least = head_rows.saturating_sub(sealed.rows);
        let bound = window_rows.filter(|_| sealed.missing.is_empty());
        Self {
            at_least,
            at_most: bound.map(|window| window.max(at_least)),
            span_ms: sealed.age_ms,
            exact: None,
        }
    }

    /// Is this many what was told?
    #[must_use]
    pub fn holds(&self, rows: u64) -> bool {
        rows >= self.at_least
            && self.at_most.is_none_or(|most| rows <= most)
            && self.exact.is_none_or(|exact| exact == rows)
    }
}

impl std::fmt::Display for Loss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.exact, self.at_most) {
            (Some(0), _) => f.write_str("nothing"),
            (Some(rows), _) => write!(f, "{rows} rows"),
            (None, Some(most)) => {
                write!(f, "{} to {most} rows of the last {} ms", self.at_least, self.span_ms)
            }
            (None, None) => write!(f, "at least {} rows of the last {} ms", self.at_least, self.span_ms),
        }
    }
}
