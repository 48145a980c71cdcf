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
/// Peers that may follow one log: more regions than a platform has, and few enough to hold each record against.
pub const PEERS_MAX: usize = 64;
/// From one look at what peers have written down as received to the next, while somebody waits for it: less than a person notices, and ten
/// small queries a second at most, however many wait.
pub const RECEIPTS_LOOK: Duration = Duration::from_millis(100);
/// Records of one piece of SQLite's log: measured, and later forgotten, within some tens of milliseconds.
pub const PIECE_RECORDS: u64 = 5_000;
/// Slices that one trim measures or deletes in SQLite, each in a transaction of its own, so that writers get in between.
pub const TRIM_SLICES: usize = 20;
/// Slices of tombstones that go with one sweep, each in a transaction of its own.
pub const SWEEP_SLICES: usize = 20;
/// Records younger than this are kept although all have them: readers' tokens, rewinds and comparisons look there.
pub const LOG_AGE_MIN: Duration = Duration::from_secs(3_600);
/// A peer that is away for longer takes a snapshot, which costs less by then: a long week-end and its Tuesday.
pub const LOG_AGE_MAX: Duration = Duration::from_secs(4 * 24 * 3_600);
/// Bytes of a log beside the piece that is written: what a small machine's disk has to spare.
pub const LOG_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
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
/// A connection that was used later than this is taken for alive: asking it costs as much as a small statement.
pub const RESTED: Duration = Duration::from_secs(1);
/// A transaction that does not begin within this has no dead connection to blame, and is not begun on another.
pub const BEGIN_AGAIN: Duration = Duration::from_millis(200);
/// Statements that each connection keeps prepared, the oldest out: the data API makes some tens of shapes for a table.
pub const STATEMENTS_MAX: usize = 100;
/// How long one statement of a tenant may take: less than [`ANSWER_TIMEOUT`], so that a database that ends it in time is told from
/// one that is silent.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a tenant's answer is waited for beyond what its statement may take, before the database counts as silent.
pub const SILENCE: Duration = Duration::from_secs(2);
/// How long a statement of the lease's keeper may take. A renewal has five of them, and a lease outlasts two that fail.
pub const KEEPER_STATEMENT: Duration = Duration::from_secs(3);
/// How long the keeper waits for others' locks: less than its statement may take.
pub const KEEPER_LOCK: Duration = Duration::from_secs(2);
/// Steps of SQLite's machine between two looks at whether anybody still waits: some tens of microseconds.
pub const SQLITE_LOOK_STEPS: i32 = 10_000;
/// How long a connection that is refused for its password waits for the file of it to change, and tries again.
pub const PASSWORD_WAIT: Duration = Duration::from_secs(5);
/// From one such try to the next.
pub const PASSWORD_RETRY: Duration = Duration::from_millis(100);
/// How long records that come out of the write-ahead log are gathered before they are put into the log: a batch costs much the same, whatever is in
/// it, and a copy is some milliseconds away anyhow.
pub const SHIP_GATHER: Duration = Duration::from_millis(5);
/// From one look at whether another process still ships to the next.
pub const SHIP_LOOK: Duration = Duration::from_secs(1);
/// How long shipped records wait for the horizon before it is moved: writers who follow each other faster move it themselves.
pub const BEAT_FIRST: Duration = Duration::from_millis(10);
/// How long nothing comes before a beat: so far a slot falls behind while nobody writes, and so old is what a log says of its age.
pub const BEAT_IDLE: Duration = Duration::from_secs(1);
/// How long it is waited until all that was committed is shipped: shorter than a transaction may be idle.
pub const CAUGHT_UP_WAIT: Duration = Duration::from_secs(4);
/// After this nobody else seems to ship, and whoever waits does: longer than a batch takes.
pub const CAUGHT_UP_HELP: Duration = Duration::from_millis(300);
/// From one look at that to the next.
pub const CAUGHT_UP_LOOK: Duration = Duration::from_millis(2);
/// How long the server keeps a slot for a process that says nothing: until then no other ships.
pub const SENDER_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of one message of a slot: what PostgreSQL holds in one value.
pub const FRAME_BYTES_MAX: usize = 1024 * 1024 * 1024;
/// Bytes of a password's file.
pub const PASSWORD_BYTES_MAX: u64 = 4_096;
/// Parked changes that are tried again at once.
pub const RETRY_MAX: usize = 1_000;
/// The oldest SQLite that does not lose pages of its write-ahead log (its WAL-reset race is mended in 3.51.3).
pub const SQLITE_VERSION_MIN: (u32, u32, u32) = (3, 51, 3);
/// The oldest PostgreSQL, as `server_version_num` writes it: the first whose bodies of functions and row security do all that
/// is asked here, and which its makers still mend.
pub const POSTGRES_VERSION_MIN: i64 = 150_000;
/// How long one query of an inspection may take: it counts rows of whole tables, of a database that nobody follows yet.
pub const INSPECTION_TIMEOUT: Duration = Duration::from_secs(3_600);
/// How long a snapshot's connection may be silent between two pages: somebody writes them to a disk meanwhile.
pub const SNAPSHOT_IDLE: Duration = Duration::from_secs(600);
/// How long an erasure waits for the tenant's writers that are inside.
pub const ERASURE_PATIENCE: Duration = Duration::from_secs(5);
/// How long a database may take to write over what was deleted: SQLite makes the whole file anew.
pub const COMPACTION_TIMEOUT: Duration = Duration::from_secs(3_600);
/// Losers that are told at once: each has two rows.
pub const CONFLICTS_MAX: usize = 500;
/// Writes that a version of a table with the rule `first_wins` remembers of its history: more than regions write to one row before they
/// hear of each other, in about a kilobyte. Triggers have the same number.
pub const PATH_MAX: usize = 32;
/// Epochs that are remembered: more than begin while a copy is away that then goes on. One takes some hundred bytes for each region.
pub const TERMS_MAX: u64 = 128;
/// Stale rows that are asked for at once.
pub const STALE_MAX: usize = 200;
/// Batches of others' logs that are thrown away at once.
pub const TAIL_BATCHES: u64 = 200;
