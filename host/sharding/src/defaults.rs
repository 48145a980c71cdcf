//! The crate's limits and times, with their reasons.

use std::time::Duration;

/// Migrations of one folder: their numbers have four digits.
pub const MIGRATIONS_MAX: u64 = 9_999;
/// Bytes of one migration's file: people write them.
pub const MIGRATION_BYTES_MAX: u64 = 1024 * 1024;
/// How long a statement of a migration may take. An index of a large table takes long; one that takes longer is stuck.
pub const MIGRATION_STATEMENT: Duration = Duration::from_secs(3_600);
/// How long a migration waits for locks, at its first try and at each that follows, and how long it then leaves them to others.
/// Whoever waits for a table's lock keeps all others from the table, so that waiting is short.
pub const MIGRATION_LOCKS: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];
/// Shards that are migrated beside each other, after the canary.
pub const MIGRATIONS_BESIDE: usize = 4;
/// How often one statement of a repeated backfill is repeated: one that does not come to an end is wrong.
pub const BACKFILL_ROUNDS_MAX: u64 = 1_000_000;
/// How long a try of a migration waits for locks, and how long a statement of it may take: a try may disturb nobody.
pub const TRIAL: Duration = Duration::from_secs(1);
/// Tenants with odd names that a report of an adoption names.
pub const OFFENDERS_MAX: usize = 5;
