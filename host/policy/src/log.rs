//! What a policy writes down: bounded in length, per call and per second, kept for status and passed on to the node's
//! log. What was dropped is counted.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use portolan_core::ids::PolicyName;
use serde::Serialize;

use crate::bucket::Bucket;
use crate::defaults::{LOG_LINE_BYTES_MAX, LOG_LINES_KEPT};
use crate::error::printable;

/// One line of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// The level by its name.
    pub level: &'static str,
    /// The text, at most 1 KiB, without control characters.
    pub text: String,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub time_ms: u64,
}

/// The log of one slot; it outlives the versions in it.
#[derive(Debug)]
pub struct Log {
    policy: PolicyName,
    dropped: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    lines: VecDeque<Line>,
    rate: Bucket,
}

impl Log {
    /// An empty one. `lines_per_second` bounds what it takes.
    #[must_use]
    pub fn new(policy: PolicyName, lines_per_second: u32) -> Arc<Self> {
        let rate = Bucket::full(Duration::from_secs(1), lines_per_second, Instant::now());
        Arc::new(Self {
            policy,
            dropped: AtomicU64::new(0),
            inner: Mutex::new(Inner { lines: VecDeque::new(), rate }),
        })
    }

    /// Whose log it is.
    #[must_use]
    pub const fn policy(&self) -> &PolicyName {
        &self.policy
    }

    /// The last lines, oldest first.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).lines.iter().cloned().collect()
    }

    /// How many lines were dropped because they came too fast.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Takes a line; `false` when it was dropped.
    pub(crate) fn write(&self, level: u32, text: &str) -> bool {
        let now = Instant::now();
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if !inner.rate.take_one(now) {
            drop(inner);
            self.drop_line();
            return false;
        }
        let level = match level {
            1 => "error",
            2 => "warning",
            4 => "debug",
            _ => "info",
        };
        let text = printable(text, LOG_LINE_BYTES_MAX).replace('\n', "\\n");
        if inner.lines.len() >= LOG_LINES_KEPT {
            inner.lines.pop_front();
        }
        let line = Line { level, text: text.clone(), time_ms: portolan_foundation::clock::unix_ms() };
        inner.lines.push_back(line);
        drop(inner);
        // Whatever a guest calls an error is not one of the node: nobody is to be woken by a tenant's choice of words.
        if level == "debug" {
            tracing::debug!(policy = %self.policy, level, "{text}");
        } else {
            tracing::info!(policy = %self.policy, level, "{text}");
        }
        true
    }

    /// Counts a line that was not even looked at.
    pub(crate) fn drop_line(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let log = Log::new(PolicyName::new("noisy").unwrap(), 10);
        let taken = (0..10_000).filter(|number| log.write(3, &format!("line {number}"))).count();
        assert!((10..10_000).contains(&taken), "{taken}");
        assert_eq!(log.dropped() as usize, 10_000 - taken);
        assert!(log.lines().len() <= LOG_LINES_KEPT);
        assert!(log.write(1, &"x".repeat(1 << 20)) || log.dropped() > 0);
        assert!(log.lines().iter().all(|line| line.text.len() <= LOG_LINE_BYTES_MAX + 4));
    }
}
