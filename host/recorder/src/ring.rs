//! The newest decisions in memory, bounded in bytes; the oldest goes first.

use std::collections::VecDeque;
use std::sync::Arc;

use portolan_core::recording::{DecisionId, Recorded};

/// What a decision takes beside its text: about.
const OVERHEAD_BYTES: usize = 512;

#[derive(Debug, Default)]
pub(crate) struct Ring {
    bytes: usize,
    kept: VecDeque<(usize, Arc<Recorded>)>,
}

impl Ring {
    /// Adds one of about so many bytes, and lets the oldest go.
    pub(crate) fn push(&mut self, recorded: Arc<Recorded>, bytes: usize, bytes_max: usize) {
        let bytes = bytes.saturating_add(OVERHEAD_BYTES);
        self.bytes = self.bytes.saturating_add(bytes);
        self.kept.push_back((bytes, recorded));
        while self.bytes > bytes_max
            && let Some((bytes, _)) = self.kept.pop_front()
        {
            self.bytes = self.bytes.saturating_sub(bytes);
        }
    }

    /// Keeps those that fit, and says how many went.
    pub(crate) fn retain(&mut self, fits: impl Fn(&Recorded) -> bool) -> usize {
        let before = self.kept.len();
        self.kept.retain(|(_, recorded)| fits(recorded));
        self.bytes = self.kept.iter().map(|(bytes, _)| bytes).sum();
        before - self.kept.len()
    }

    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.kept.len()
    }

    pub(crate) fn find(&self, id: DecisionId) -> Option<&Arc<Recorded>> {
        self.newest().find(|recorded| recorded.id == id)
    }

    /// All of them, the newest first.
    pub(crate) fn newest(&self) -> impl Iterator<Item = &Arc<Recorded>> {
        self.kept.iter().rev().map(|(_, recorded)| recorded)
    }
}
