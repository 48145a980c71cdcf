//! How much one query may take.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::defaults;

/// How much one query may take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of its answer.
    pub answer_bytes: u64,
    /// Rows of its answer.
    pub answer_rows: u64,
    /// Statements to shards.
    pub fan_out: usize,
    /// Memory of the engine's operators, in bytes.
    pub memory_bytes: usize,
    /// Rows that shards may send, also as their own planners foresee it.
    pub scan_rows: u64,
    /// From its start to its last row, in milliseconds.
    pub time_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            answer_bytes: defaults::ANSWER_BYTES_MAX,
            answer_rows: defaults::ANSWER_ROWS_MAX,
            fan_out: defaults::FAN_OUT_MAX,
            memory_bytes: defaults::MEMORY_BYTES_MAX,
            scan_rows: defaults::SCAN_ROWS_MAX,
            time_ms: u64::try_from(defaults::TIME_MAX.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

impl Limits {
    /// From a query's start to its last row.
    #[must_use]
    pub const fn time(&self) -> Duration {
        Duration::from_millis(self.time_ms)
    }
}
