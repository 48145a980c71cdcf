//! The log's limits and times, with their reasons.

use std::time::Duration;

/// Records of one batch: some milliseconds of work for a database.
pub const BATCH_RECORDS_MAX: usize = 1_000;
/// Bytes of one batch's rows, unless a single row has more.
pub const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// Records that are applied with one set of statements: what is held in memory of a transaction that came in parts.
pub const CHUNK_RECORDS: usize = 1_000;
/// Slices of ended transactions' marks that go with one slice of records: more than come with one, so that a backlog shrinks.
pub const PRUNE_SLICES: usize = 4;
/// Rows that are given versions at once when a table is adopted: some tens of milliseconds, so that writers hardly wait.
pub const ADOPT_ROWS: u64 = 5_000;
/// How long a page of rows waits for a writer: less than PostgreSQL waits before it ends one of two that wait for each other.
pub const ADOPT_LOCK: Duration = Duration::from_millis(300);
/// How often a page is tried again while a writer holds rows of it.
pub const ADOPT_TRIES: u32 = 30;
/// Rows that are named as examples of what is wrong.
pub const EXAMPLES_MAX: u64 = 3;
/// How long one statement may take, and how long an answer is waited for. Less than a lease lasts.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);
/// How long a statement waits for others' locks.
pub const LOCK_TIMEOUT: Duration = Duration::from_secs(3);
/// How long SQLite waits for another's transaction.
pub const SQLITE_BUSY: Duration = Duration::from_secs(3);
/// Connections of one role or file: the log's own work is few statements at a time, and writers come from many requests.
pub const CONNECTIONS_MAX: u32 = 8;
/// Parked changes that are tried again at once.
pub const RETRY_MAX: usize = 1_000;
/// The oldest SQLite that does not lose pages of its write-ahead log (its WAL-reset race is mended in 3.51.3).
pub const SQLITE_VERSION_MIN: (u32, u32, u32) = (3, 51, 3);
/// The oldest PostgreSQL, as `server_version_num` writes it: the first whose bodies of functions and row security do all that
/// is asked here, and which its makers still mend.
pub const POSTGRES_VERSION_MIN: i64 = 150_000;
/// How long one query of an inspection may take: it counts rows of whole tables, of a database that nobody follows yet.
pub const INSPECTION_TIMEOUT: Duration = Duration::from_secs(3_600);
