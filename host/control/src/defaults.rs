//! The store's limits and times, with their reasons.

use std::time::Duration;

/// Bytes of one change. etcd takes requests of 1.5 MiB.
pub const CHANGE_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of one object.
pub const OBJECT_BYTES_MAX: usize = 256 * 1024;
/// Objects of a store: some for each of ten thousand tenants.
pub const OBJECTS_MAX: usize = 200_000;
/// Levels of arrays and tables in an object.
pub const OBJECT_DEPTH_MAX: usize = 32;
/// Bytes of a change's message.
pub const MESSAGE_BYTES_MAX: usize = 1_024;
/// Entries that are read at once: with the largest changes, 32 MiB.
pub const PAGE_ENTRIES: usize = 32;
/// Bytes of one answer of etcd.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of the registers that one change writes.
pub const REGISTER_BYTES_MAX: usize = 512 * 1024;
/// Registers that one change writes or rests on: etcd takes 128 operations at once.
pub const REGISTERS_AT_ONCE_MAX: usize = 100;
/// How often a change is tried again that others came before.
pub const COMMIT_TRIES: u32 = 32;
/// How long one question to the store may take.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// How long putting or fetching a component may take.
pub const COMPONENT_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a question to a bucket is asked again.
pub const COMPONENT_RETRIES_MAX: usize = 3;
/// Components that one sweep removes; the next one goes on.
pub const COMPONENTS_LISTED_MAX: usize = 10_000;
/// A component that nothing names is left alone for so long: whoever pushes it is about to name it.
pub const SWEEP_AGE_MIN: Duration = Duration::from_secs(3_600);
/// How often SQLite's followers look for a change: it costs one read of shared memory.
pub const SQLITE_POLL: Duration = Duration::from_millis(20);
/// How long SQLite waits for another process's write.
pub const SQLITE_BUSY: Duration = Duration::from_secs(2);
/// After the store went away: the first pause, and the longest.
pub const RETRY_MIN: Duration = Duration::from_millis(100);
/// See [`RETRY_MIN`].
pub const RETRY_MAX: Duration = Duration::from_secs(5);
/// How often a node reports of itself though nothing has changed.
pub const REPORT_EVERY: Duration = Duration::from_secs(2);
/// A node is away when it has not reported for so long.
pub const REPORT_TTL: Duration = Duration::from_secs(10);
/// Generations that are kept on a node's disk, to go back to without a store.
pub const SAVED_MAX: usize = 20;
