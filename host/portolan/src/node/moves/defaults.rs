//! Limits and times of moves, with their reasons.

use std::time::Duration;

/// Moves that one node carries out at the same time: each copies with its own rate, and all share the databases.
pub(super) const RUNNING_MAX: usize = 4;
/// Moves that have ended and are remembered with their pause.
pub(super) const ENDED_MAX: usize = 1_000;
/// How often a change of a tenant's place is tried again that other changes came before. Each try is one look at the store.
pub(super) const SWITCH_TRIES: usize = 20;
/// How long a shard's database may take to be opened.
pub(super) const OPEN: Duration = Duration::from_secs(10);
/// From one look at the noted moves to the next: a tenant whose mover has died waits that long at most, where its mover is known to be
/// gone.
pub(super) const ROUND: Duration = Duration::from_secs(2);
