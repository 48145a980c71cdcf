//! What a policy writes down: bounded in length, per call and per second, kept for status and passed on to the node's
//! log. What was dropped is counted. Beside it what went wrong lately: faults with their frames, and refusals.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use portolan_core::ids::PolicyName;
use portolan_foundation::clock;
use serde::Serialize;

use crate::bucket::Bucket;
use crate::defaults::{FAULTS_KEPT, LOG_LINE_BYTES_MAX, LOG_LINES_KEPT, REFUSALS_KEPT};
use crate::error::{Refused, printable};

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

/// One call that ended badly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// Where the guest was, the innermost function first, by the names that the component carries.
    pub frames: Vec<String>,
    /// What happened.
    pub text: String,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub time_ms: u64,
}

/// One refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PastRefusal {
    /// Why, and what to do.
    pub refused: Refused,
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
    faults: VecDeque<Fault>,
    refusals: VecDeque<PastRefusal>,
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
            inner: Mutex::new(Inner {
                faults: VecDeque::new(),
                refusals: VecDeque::new(),
                lines: VecDeque::new(),
                rate,
            }),
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
        self.lock().lines.iter().cloned().collect()
    }

    /// The last calls that ended badly, oldest first.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        self.lock().faults.iter().cloned().collect()
    }

    /// The last refusals, oldest first.
    #[must_use]
    pub fn refusals(&self) -> Vec<PastRefusal> {
        self.lock().refusals.iter().cloned().collect()
    }

    /// How many lines were dropped because they came too fast.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Takes a line; `false` when it was dropped.
    pub(crate) fn write(&self, level: u32, text: &str) -> bool {
        let now = Instant::now();
        let mut inner = self.lock();
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
        inner.keep(Line { level, text: text.clone(), time_ms: clock::unix_ms() });
        drop(inner);
        // Whatever a guest calls an error is not one of the node: nobody is to be woken by a tenant's choice of words.
        if level == "debug" {
            tracing::debug!(policy = %self.policy, level, "{text}");
        } else {
            tracing::info!(policy = %self.policy, level, "{text}");
        }
        true
    }

    /// Writes what the host has to say to the policy's owner. Never dropped, because the host does not flood.
    pub(crate) fn note(&self, text: &str) {
        self.lock().keep(Line { level: "host", text: text.to_owned(), time_ms: clock::unix_ms() });
        tracing::info!(policy = %self.policy, "{text}");
    }

    /// Keeps a call that ended badly. Breakers bound how many there are.
    pub(crate) fn fault(&self, text: &str, frames: Vec<String>) {
        push(
            &mut self.lock().faults,
            FAULTS_KEPT,
            Fault { frames, text: text.to_owned(), time_ms: clock::unix_ms() },
        );
    }

    /// Keeps a refusal.
    pub(crate) fn refusal(&self, refused: Refused) {
        push(&mut self.lock().refusals, REFUSALS_KEPT, PastRefusal { refused, time_ms: clock::unix_ms() });
    }

    /// Counts a line that was not even looked at.
    pub(crate) fn drop_line(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn keep(&mut self, line: Line) {
        push(&mut self.lines, LOG_LINES_KEPT, line);
    }
}

fn push<T>(ring: &mut VecDeque<T>, kept: usize, item: T) {
    if ring.len() >= kept {
        ring.pop_front();
    }
    ring.push_back(item);
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
