//! The limits of queries across shards, with their reasons.

use std::time::Duration;

/// Bytes of a statement: more than people write, less than a parser takes long for.
pub const SQL_BYTES_MAX: usize = 64 * 1024;
/// Memory that the engine's operators may hold, in bytes.
pub const MEMORY_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Address space of a worker, in bytes: the engine's memory, the batches on their way, the program itself and the reserve that allocators
/// and threads take without using it. What the engine did not count ends the worker here, and not the node.
pub const ADDRESS_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// Rows that a query may fetch from all its shards together.
pub const SCAN_ROWS_MAX: u64 = 5_000_000;
/// Rows of an answer.
pub const ANSWER_ROWS_MAX: u64 = 1_000_000;
/// Bytes of an answer.
pub const ANSWER_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// From the start of a query to its last row.
pub const TIME_MAX: Duration = Duration::from_secs(60);
/// Statements that one query may send to shards, over all of them.
pub const FAN_OUT_MAX: usize = 256;
/// Statements that one query may send to one shard. Each has a connection of its own, because one that waits for another would wait for ever.
pub const STATEMENTS_PER_SHARD_MAX: usize = 16;
/// How long a shard's first answer is waited for.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Rows of one batch, as the engine's own default.
pub const BATCH_ROWS: usize = 8_192;
/// Bytes after which a batch is handed on with fewer rows.
pub const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// Batches of one statement that wait to be taken.
pub const BATCHES_WAITING: usize = 2;
/// Values of an `IN` that is pushed; longer ones are looked up by the engine.
pub const VALUES_MAX: usize = 1_000;
/// Rows of a top-N that is pushed: what each shard sorts and sends.
pub const TOP_MAX: usize = 100_000;
/// Digits behind the point of a `numeric` that was declared without any. A value with more is an error, never rounded.
pub const DECIMAL_SCALE: i8 = 10;
/// Digits of a decimal that the engine keeps.
pub const DECIMAL_DIGITS: u8 = 38;
/// Partitions of the engine's own operators. Queries share the machine with the gateway.
pub const PARTITIONS: usize = 2;
/// How often the program of a SQLite statement is interrupted to see whether anybody still waits for it, in its instructions: some tens of
/// microseconds.
pub const SQLITE_INSTRUCTIONS: i32 = 20_000;
/// How often PostgreSQL looks whether the one who asked is still there, in milliseconds.
pub const CONNECTION_CHECK_MS: u64 = 500;
/// Queries that run at once on a node.
pub const QUERIES_MAX: usize = 4;
/// How long a query waits for its turn.
pub const TURN: Duration = Duration::from_secs(5);
/// Bytes of one frame between a worker and its node.
pub const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How much longer than its limit a worker may take to say so, before it is ended.
pub const GRACE: Duration = Duration::from_secs(2);
/// The stack of a worker's threads: plans are trees, and planners walk them.
pub const STACK_BYTES: usize = 8 * 1024 * 1024;
