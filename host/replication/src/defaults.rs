//! The limits of replication, with their reasons.

use std::num::NonZeroU32;
use std::time::Duration;

/// The newest protocol between regions that this program speaks. What each brought:
///
/// 1. logs, rows, rows by name, tails, seals, comparisons;
/// 2. reports, by which tombstones are swept ([`PROTOCOL_OF_REPORTS`]).
pub const PROTOCOL: u32 = 2;
/// The oldest that it still speaks: one back, so that regions are upgraded one after the other.
pub const PROTOCOL_MIN: u32 = 1;
/// From here on regions say what they have.
pub const PROTOCOL_OF_REPORTS: u32 = 2;
/// Bytes of one frame on the link: a batch's rows, of which a single one may have more than a batch, and what stands around them.
pub const FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of a batch once it is unpacked. What unpacks to more is no batch of ours.
pub const UNPACKED_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Bytes of records that may be on their way to a follower that has not applied them. At 150 ms of round trip that is some 200 MB/s, and as
/// much memory for each shard and follower as anybody has to spare.
pub const CREDIT_BYTES: u64 = 32 * 1024 * 1024;
/// The least of it where a pace is set: less would let a link rest between two small batches.
pub const CREDIT_BYTES_MIN: u64 = 64 * 1024;
/// How often a follower whose pace is set looks whether more may come.
pub const PACE_TICK: Duration = Duration::from_millis(20);
/// Rows of a copy that is being made have this part of the weight of a log: who follows already is not held up by who begins.
pub const ROWS_PART: u32 = 4;
/// HTTP/2's windows, which have to let the credit pass.
pub const WINDOW_BYTES: u32 = 32 * 1024 * 1024;
/// How well batches are packed: zstd's level 1 takes a third of the processor time of its usual 3, and a few percent more bytes.
pub const ZSTD_LEVEL: i32 = 1;
/// From one word of a source that has nothing to send to the next: a follower's lag is known to that, also on an idle link.
pub const BEAT: Duration = Duration::from_millis(500);
/// How long a source that has sent all there was waits before it looks into the log again: each look that finds nothing doubles it, from
/// here.
pub const LOOK_MIN: Duration = Duration::from_millis(5);
/// And up to here: what an idle shard's first record waits, against a query a pause on every idle shard.
pub const LOOK_MAX: Duration = Duration::from_millis(160);
/// A batch of fewer records than this is not followed by another at once.
pub const FEW_RECORDS: usize = 100;
/// How long a source then lets records gather: each batch is some twenty statements at the copy, and this is the lag that it costs.
pub const GATHER: Duration = Duration::from_millis(10);
/// From one time that what a follower has is written down at its source to the next: its log is kept so much longer than it must be.
pub const NOTE: Duration = Duration::from_millis(500);
/// How long a follower hears nothing before it takes the link for dead.
pub const SILENCE: Duration = Duration::from_secs(5);
/// How long a link may take to be made.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The first pause after a link broke, and the longest.
pub const RETRY_MIN: Duration = Duration::from_millis(100);
/// As [`RETRY_MIN`] says.
pub const RETRY_MAX: Duration = Duration::from_secs(10);
/// How long a copy that seals waits for its writers before it ends them, and then again.
pub const SEAL_PATIENCE: Duration = Duration::from_secs(1);
/// How long whoever is to begin an epoch waits for a copy to seal: writers are ended twice in it, and a link is made.
pub const SEAL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long it takes what another copy has more: a lag that is larger is not caught up with before writers wait too long.
pub const PULL_TIMEOUT: Duration = Duration::from_secs(10);
/// From one try to apply what came of an epoch that is over, and whose cut is not told yet, to the next.
pub const SEALED_RETRY: Duration = Duration::from_millis(200);
/// How often it is tried before the link ends: as long as an epoch takes to begin.
pub const SEALED_TRIES: u32 = 150;
/// Into how many buckets a table's keys fall when copies are compared: of a million rows some hundreds are told again where one differs.
pub const AUDIT_BUCKETS: NonZeroU32 = NonZeroU32::new(4_096).unwrap();
/// Buckets whose rows are told at once.
pub const AUDIT_BUCKETS_MAX: usize = 1_024;
/// Rows that are looked at twice in one comparison of a table.
pub const AUDIT_ROWS_MAX: usize = 10_000;
/// Rows of one page of a comparison.
pub const AUDIT_PAGE: usize = 1_000;
/// How long a comparison waits for the copy to have what the primary had.
pub const AUDIT_CATCH_UP: Duration = Duration::from_secs(30);
/// From one try to take what another copy has more to the next.
pub const PULL_RETRY: Duration = Duration::from_millis(100);
/// Buckets that a region may ask for in a comparison.
pub const BUCKETS_MAX: u32 = 65_536;
/// Rows that a region may ask for by name at once.
pub const NAMED_MAX: usize = 1_000;
/// How long a feed waits for the rows that the primary's brings before it looks again.
pub const EARLY: Duration = Duration::from_millis(500);
/// Rows of one piece of a snapshot.
pub const PAGE_ROWS: usize = 1_000;
/// How long a region may take to say what it has, for a sweep of tombstones.
pub const REPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a sweep is repeated at once that has left something: others have their turn then.
pub const SWEEPS_IN_A_ROW: usize = 20;
/// Links that a node answers at once: shards times regions, with room for those that are being replaced.
pub const LINKS_MAX: usize = 4_096;
/// Links on one connection. A follower has one of its own for each shard, so that none waits behind another's bytes.
pub const STREAMS_MAX: u32 = 4;
/// Frames of a follower that wait to be read by its source.
pub const FRAMES_WAITING: usize = 4;
/// Bytes of a question or an answer between regions: what is said of ten thousand shards fits, and so do some chunks of contents.
pub const WORDS_BYTES_MAX: usize = 6 * 1024 * 1024;
