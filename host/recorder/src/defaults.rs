//! Values that hold unless the operator says otherwise, with their reasons.

use std::time::Duration;

/// One decision in a hundred is kept: a node with 10,000 requests a second writes about 80 KB/s.
pub const SAMPLE_PERMILLE: u32 = 10;
/// Candidates in the shadow are asked about every request; the queue bounds what that costs.
pub const SHADOW_PERMILLE: u32 = 1_000;
/// Decisions of failed requests that are kept in a second: enough to understand an outage, too few to add to it.
pub const FAILURES_PER_SECOND: u32 = 100;
/// Bytes of recent decisions in memory: about 40,000.
pub const MEMORY_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Bytes of all segments on disk.
pub const DISK_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Bytes of one segment, which is read and dropped as a whole.
pub const SEGMENT_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// How long segments are kept.
pub const KEEP: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Decisions that may wait to be kept; a second's worth at 4,000 a second.
pub(crate) const QUEUE_MAX: usize = 4_096;
/// Decisions that may wait for candidates.
pub(crate) const SHADOW_QUEUE_MAX: usize = 1_024;
/// Bytes of one value that are kept; longer ones are hidden. Heads of requests have 64 KiB in all.
pub(crate) const VALUE_BYTES_MAX: usize = 16 * 1024;
/// Bytes of one entry of a segment: the facts of a thousand regions, the largest configuration.
pub(crate) const ENTRY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long an entry may wait in memory before it is written.
pub(crate) const FLUSH_EVERY: Duration = Duration::from_millis(500);
/// Bytes of entries that are written at once.
pub(crate) const FLUSH_BYTES: usize = 64 * 1024;
/// From a failure of the disk to the next try.
pub(crate) const DISK_PAUSE: Duration = Duration::from_secs(10);
/// How politely candidates are asked: requests go first.
pub(crate) const SHADOW_NICE: i32 = 10;
/// From a candidate that finds no time on its thread to the next try.
pub(crate) const SHADOW_PAUSE: Duration = Duration::from_millis(10);
/// How often it is tried.
pub(crate) const SHADOW_TRIES: u32 = 20;
/// Candidates whose comparisons are remembered: more than slots can have at once on most nodes.
pub(crate) const SHADOWS_MAX: usize = 4_096;
/// Slots of tenants that are written down with a generation.
pub(crate) const SLOTS_WRITTEN_MAX: usize = 1_000;
