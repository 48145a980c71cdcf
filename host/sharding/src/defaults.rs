//! Limits and times of shards, with their reasons.

use std::time::Duration;

/// How long a lease lasts from the database's clock before it was asked for. Longer than a statement may take
/// ([`portolan_changelog::defaults::ANSWER_TIMEOUT`]), and what a takeover waits when nobody gives the lease back.
pub const LEASE: Duration = Duration::from_secs(15);
/// What the gateway's own view of a lease ends before the database's: clocks run differently, at most by some per mille.
pub const LEASE_MARGIN: Duration = Duration::from_secs(1);
/// From one renewal to the next: two may fail before the lease is over.
pub const RENEWAL: Duration = Duration::from_secs(4);
/// The first pause after a failure, at most.
pub const RETRY_MIN: Duration = Duration::from_millis(100);
/// The longest pause after failures: as often as it is renewed.
pub const RETRY_MAX: Duration = RENEWAL;
/// How long a demotion waits for writers before it ends their connections.
pub const DEMOTION: Duration = Duration::from_secs(2);
/// Requests at one shard at the same time: more than the connections of its database, so that some wait, but not so many that
/// one slow shard holds the gateway's memory.
pub const REQUESTS_MAX: usize = 64;
/// How long a request waits for its turn at a shard.
pub const TURN: Duration = Duration::from_secs(2);
