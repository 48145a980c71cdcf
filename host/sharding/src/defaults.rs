//! Limits and times of shards, with their reasons.

use std::time::Duration;

use portolan_core::topology::BreakerLimits;

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
/// Bytes of its write-ahead log that a server of PostgreSQL may keep for a slot that cannot be read: some hours of a busy cluster, and less than a
/// small disk.
pub const SLOT_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;
/// How long a shard that leaves a region waits for its last records to be shipped.
pub const RELEASE: Duration = Duration::from_secs(30);
/// How long a demotion waits for writers before it ends their connections.
pub const DEMOTION: Duration = Duration::from_secs(2);
/// Requests at one shard at the same time: more than the connections of its database, so that some wait, but not so many that
/// one slow shard holds the gateway's memory.
pub const REQUESTS_MAX: usize = 64;
/// How long a request waits for its turn at a shard.
pub const TURN: Duration = Duration::from_secs(2);
/// Requests of one tenant at its shard: a quarter, so that one of many tenants cannot take all.
pub const TENANT_REQUESTS_MAX: usize = REQUESTS_MAX / 4;
/// Requests of one tenant in the database: half of its connections, so that others find some whatever one tenant's take.
pub const TENANT_WORK_MAX: usize = 4;
/// How long the statements of one request may take together: others wait for what it has locked. Longer than one statement may
/// take, and less than a lease lasts.
pub const TRANSACTION: Duration = Duration::from_secs(10);
/// When a shard counts as failing: its database was silent or gone so often in a row. The pause is short at first, because a
/// server that starts again is back in seconds.
pub const BREAKER: BreakerLimits =
    BreakerLimits { failures: 5, pause_min: Duration::from_secs(1), pause_max: Duration::from_secs(15) };
/// Bytes of contents and answers in memory, of all requests of a node: some tens of the largest.
pub const NODE_BYTES_MAX: usize = 512 * 1024 * 1024;
/// Those of one shard's requests: half, so that one that is slow leaves enough to the others.
pub const SHARD_BYTES_MAX: usize = NODE_BYTES_MAX / 2;
/// Those of one tenant's requests: some of the largest.
pub const TENANT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What a row that is answered counts for, in times of its bytes: as the database sent it, as values, and as JSON.
pub const ANSWER_COPIES: u64 = 3;
/// How much of its place a shard may use before writes are refused, in percent: what is left takes what is being written, the
/// log of deletions, and the vacuum that makes place.
pub const DISK_HIGH_PERCENT: u8 = 95;
/// Where writes go on, in percent: far enough below, so that it does not change with each pass.
pub const DISK_LOW_PERCENT: u8 = 90;
/// How long a write waits for other regions to receive it, where its table asks for that: a link that was cut is given up and made again
/// in that time, and a person still waits.
pub const CONFIRM_WAIT: Duration = Duration::from_secs(5);
/// Writes at one shard that wait for other regions: they hold a few kilobytes each, no connection and no turn.
pub const AWAITING_MAX: usize = 1_024;
/// Of those of one tenant: a quarter, as of requests.
pub const TENANT_AWAITING_MAX: usize = AWAITING_MAX / 4;
/// From one look at what no other region has received to the next, at least: some small queries.
pub const EXPOSURE_LOOK: Duration = Duration::from_millis(100);
/// And at most; a look that takes longer has failed.
pub const EXPOSURE_LOOK_MAX: Duration = Duration::from_secs(1);
/// Into how many parts looks divide the time for which a shard may be exposed: what is told between two of them is more than is so by one.
pub const EXPOSURE_PART: u32 = 10;
/// How long a read waits for a log that has not reached the reader's token.
pub const TOKEN_WAIT: Duration = Duration::from_millis(500);
/// From one look at the log to the next meanwhile.
pub const TOKEN_LOOK: Duration = Duration::from_millis(25);
/// Rows of one page, when the request does not say.
pub const PAGE_ROWS: u64 = 100;
/// Rows of one page: a few milliseconds of work for a database.
pub const PAGE_ROWS_MAX: u64 = 1_000;
/// Bytes of the rows of one answer, as they lie in the database. As JSON they may be some more, never without bound: a byte
/// is at most six (`\u0001`).
pub const ANSWER_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Bytes of a request's content.
pub const CONTENT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes of a request's path, and of its query: what servers take as one line.
pub const QUERY_BYTES_MAX: usize = 8 * 1024;
/// Rows that one request writes, in a list or by a filter: each is a record of the log, and all are one transaction, which
/// others wait for.
pub const WRITE_ROWS_MAX: u64 = 1_000;
/// Conditions of one filter.
pub const CONDITIONS_MAX: usize = 50;
/// Values of one `in`.
pub const IN_VALUES_MAX: usize = 128;
/// How deep `and`, `or` and `not` stand in each other.
pub const NESTING_MAX: usize = 8;
/// Columns of `select`, and of `order`.
pub const SELECT_COLUMNS_MAX: usize = 200;
/// Operations of one transaction.
pub const OPERATIONS_MAX: usize = 100;
/// Wildcards of one pattern: each may go through the whole text again.
pub const WILDCARDS_MAX: usize = 8;
/// Bytes of one pattern.
pub const PATTERN_BYTES_MAX: usize = 1_000;
/// Bytes of a cursor: it stands in a header field, whose lines others cut at 8 KiB.
pub const CURSOR_BYTES_MAX: usize = 3 * 1024;
/// Names that are suggested for one that is not there.
pub const SUGGESTIONS_MAX: usize = 3;
/// Entity tags of one `If-Match` or `If-None-Match`.
pub const ETAGS_MAX: usize = 16;
/// When to come again while a tenant is held or the database is busy, in seconds: moves hold for less.
pub const RETRY_AFTER_S: u64 = 1;
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
/// Rows that a move copies or compares at once: some milliseconds of work for each database.
pub const MOVE_CHUNK_ROWS: usize = 1_000;
/// Rows of a target that are looked for in a page of the source: as many again, and room for those that the source has lost meanwhile.
pub const MOVE_OTHERS_MAX: usize = 2 * MOVE_CHUNK_ROWS;
/// Records that may be left to a move's hold: they are taken over in a few milliseconds.
pub const MOVE_LAG_RECORDS: usize = 200;
/// Parts of the log that a move takes over before it gives up: a tenant that writes faster than it is followed cannot be moved.
pub const MOVE_ROUNDS_MAX: u64 = 10_000;
/// Rows that a move remembers to compare again: some tens of megabytes of names. Beyond it those that are alike by now are forgotten.
pub const MOVE_DOUBTS_MAX: usize = 100_000;
/// Rows that may be left to compare while the tenant is held: some milliseconds of work.
pub const MOVE_DOUBTS_FEW: usize = 1_000;
/// Pages of rows that a move compares before it takes over what was written meanwhile.
pub const MOVE_COMPARED_PAGES: usize = 20;
/// How long a move holds the tenant's writes at most, until the control store is asked.
pub const MOVE_HOLD: Duration = Duration::from_secs(5);
/// How long a write waits for an epoch that begins: about what a handover may take.
pub const EPOCH_BEGINS: Duration = Duration::from_secs(2);
/// From one look whether a tenant that is held may be written to the next.
pub const HOLD_LOOK: Duration = Duration::from_millis(20);
/// How long a move's hold waits for the tenant's writers that are inside.
pub const MOVE_WRITERS: Duration = Duration::from_secs(2);
/// How long a move waits, before it holds the tenant, for a replica of the target to receive what was copied. One that follows is less than
/// a second behind; rows that came in bulk take some more.
pub const MOVE_REPLICAS: Duration = Duration::from_secs(30);
/// How long it waits for that once more while the tenant is held, for the little that came since: what is written down of a replica is up
/// to half a second old, and the rest of the hold is for the others.
pub const MOVE_REPLICAS_HELD: Duration = Duration::from_secs(2);
/// How long a move waits for the control store's answer, before it asks for the move to be closed.
pub const MOVE_SWITCH: Duration = Duration::from_secs(2);
/// How often whoever resumes a move looks at its note again when another has changed it.
pub const MOVE_RESUMES_MAX: u64 = 3;
/// Rows that a backup reads, or puts back, at once.
pub const BACKUP_ROWS: usize = 1_000;
/// Bytes of one line of a backup, unpacked: a batch of the log, or one row as large as a database holds.
pub const LINE_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Bytes of a backup's manifest: some hundred for each file, of which each shard has one for each table.
pub const MANIFEST_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// How hard backups are compressed: zstd's own middle way, faster than disks.
pub const COMPRESSION_LEVEL: i32 = 3;
/// How long a backup waits for transactions that are open while it reads the last of the log. What is open for longer is not in it.
pub const BACKUP_SETTLE: Duration = Duration::from_secs(10);
/// From one look at them to the next.
pub const BACKUP_LOOK: Duration = Duration::from_millis(50);
/// How long an epoch waits for what another copy has more, before writers have waited long enough.
pub const LEFT_PATIENCE: Duration = Duration::from_secs(60);
