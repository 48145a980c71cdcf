//! Sizes and limits, each with its reason. What is marked *wire* is part of the format: another value is another recipe.

/// *Wire.* No chunk but the last of its content is smaller. Below it, a list of chunks costs more than it saves.
pub const CHUNK_BYTES_MIN: usize = 16 << 10;
/// *Wire.* About what a chunk has. Deltas do the fine work, so that smaller chunks would only make longer lists.
pub const CHUNK_BYTES_AVERAGE: usize = 64 << 10;
/// *Wire.* No chunk is larger, so that one can always be held in memory.
pub const CHUNK_BYTES_MAX: usize = 256 << 10;
/// *Wire.* How strongly sizes are drawn to the average: bits more in the mask before it, bits less after it.
pub const CUT_NORMALISATION: usize = 2;

/// *Wire.* A node of a manifest has no fewer entries but the last, so that each level is a small part of the one below.
pub const NODE_ENTRIES_MIN: usize = 32;
/// *Wire.* About how many entries follow the least before a node ends: one identity in so many ends it.
pub const NODE_ENTRIES_PERIOD: u16 = 128;
/// *Wire.* A node has no more entries: a root or node is read at once, in 20 KiB.
pub const NODE_ENTRIES_MAX: usize = 512;

/// *Wire.* Content up to this stays in the version's record: a chunk of its own would cost more than it holds.
pub const INLINE_BYTES_MAX: usize = 16 << 10;
/// The largest content: its manifest, its index and those of its base fit into a quarter of a gibibyte.
pub const CONTENT_BYTES_MAX: u64 = 64 << 30;
/// Chunks of one content: those of [`CONTENT_BYTES_MAX`] as the cutter leaves them, with room.
pub const CONTENT_CHUNKS_MAX: usize = 1 << 20;

/// New bytes of one region of a patch: both ends hold so many at a time, and a break loses so much work.
pub const REGION_BYTES_MAX: usize = 4 << 20;
/// Matched chunks between two changes that do not end a region: naming both frames would cost more than a match of zstd's.
pub const REGION_GAP_CHUNKS_MAX: usize = 2;
/// Old bytes on each side of what a region replaces, for what moved a little.
pub const PREFIX_PAD_BYTES: u64 = 64 << 10;
/// Old bytes that a region may refer to.
pub const PREFIX_BYTES_MAX: usize = 12 << 20;
/// The window of a delta, as a power of two: it covers the most that a prefix and a region have.
pub const DELTA_WINDOW_LOG: u32 = 24;
/// What one frame can have beyond its content, when nothing in it gets smaller.
pub const FRAME_SLACK_BYTES: usize = 64 << 10;

/// A message between regions: an operation of a patch that did not get smaller, with room for what stands around it.
pub const MESSAGE_BYTES_MAX: usize = REGION_BYTES_MAX + (1 << 20);
/// What an answer is filled up to: whole chunks, and one more than that at most.
pub const ANSWER_BYTES: usize = 3 << 20;
/// Operations of a patch in one answer.
pub const PATCH_OPS_MAX: usize = 8_192;
/// New bytes of a patch that are compressed in any case. Of more they are where they are less than half of the content.
pub const PATCH_WHOLE_BYTES: u64 = 8 << 20;
/// Plans of patches that are kept for the next answer: each has the places of a content's changes.
pub const PLANS_MAX: usize = 16;
/// Changes of one answer: they are taken in one transaction.
pub const CHANGES_TOLD_MAX: u64 = 256;
/// About what is told of an item that another follows: names of versions, items, a share and a site.
pub const MAPPING_BYTES: usize = 512;
/// Epochs that a copy names: more have not been since it was asked last.
pub const SPANS_MAX: usize = 64;
/// Chunks of versions that are taken in one transaction.
pub const TAKE_CHUNKS_MAX: usize = 4_096;
/// From one look at what happened in the region that writes to the next.
pub const FOLLOW_EVERY: std::time::Duration = std::time::Duration::from_millis(500);
/// How long another region may take over one answer, of which it reads some megabytes from its store of packs.
pub const ANSWER_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(60);
/// How long a region that is to write takes of one copy what that has more: what is on its way otherwise waits.
pub const GATHER_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);
/// Tenants of a shard whose content comes at a time: one with much holds up nobody else.
pub const FOLLOW_LANES: usize = 4;
/// How long a copy answers by a share after it has last heard from the region that decides of it.
pub const SHARE_LEASE: std::time::Duration = std::time::Duration::from_secs(60);
/// How long a word of another tenant's share is taken without asking again, where its source is written elsewhere: a revocation is seen this soon.
pub const WORD_FRESH: std::time::Duration = std::time::Duration::from_secs(5);
/// How long a reader waits for the word of a share's source, before the last one counts.
pub const WORD_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);
/// From one try to hear a share's source to the next.
pub const WORD_RETRY: std::time::Duration = std::time::Duration::from_secs(1);
/// Words of shares' sources that a node holds, before it begins anew.
pub const WORDS_MAX: usize = 4_096;
/// From one look at eager shares, and at those that another tenant may have ended, to the next.
pub const TEND_EVERY: std::time::Duration = std::time::Duration::from_secs(5);
/// How long after a change eager shares are looked at: several changes are one look.
pub const TEND_AFTER: std::time::Duration = std::time::Duration::from_millis(200);
/// How many times as long as the last look took is waited for the next: many shares do not keep a node busy.
pub const TEND_REST: u32 = 4;
/// Items of a share in one answer: each costs its source some looks.
pub const LENT_ITEMS_MAX: usize = 256;
/// A JSON content that goes with some members left out: it is held whole, some times over.
pub const MASK_BYTES_MAX: usize = 4 << 20;
/// How long a tenant is left alone after its content could not be taken.
pub const FOLLOW_RETRY: std::time::Duration = std::time::Duration::from_secs(2);

/// Regions in all their incarnations that wrote one item.
pub const ACTORS_MAX: usize = 64;
/// Single dots beyond what a version has seen whole: writers of one region that did not know each other.
pub const DOTS_MAX: usize = 256;
/// Heads of one item: more are refused until some are resolved, so that a loop of conflicts ends.
pub const HEADS_MAX: usize = 32;
/// Heads that one version replaces.
pub const PARENTS_MAX: usize = HEADS_MAX;
/// A version's record: what it may have seen and replaced, with room.
pub const VERSION_BYTES_MAX: usize = 64 << 10;
/// How far ahead another region's clock may be. Machines with NTP differ by milliseconds; a minute is a broken one.
pub const CLOCK_DRIFT_MAX_MS: u64 = 60_000;
/// A side of a merge: comparing lines takes time with the square of what differs.
pub const MERGE_BYTES_MAX: usize = 256 << 10;
/// Lines of a side of a merge.
pub const MERGE_LINES_MAX: usize = 8_192;
/// Versions that are looked at for a common ancestor.
pub const MERGE_WALK_MAX: usize = 1_024;
/// Objects within objects that are merged field by field; deeper ones are one value.
pub const JSON_DEPTH_MAX: usize = 64;

/// Bytes of a salt: with 128 random bits none comes twice.
pub const SALT_BYTES: usize = 16;
/// Data keys that an item had: one more for each revocation.
pub const TERMS_MAX: usize = 1_024;
/// Tenants and regions that read one item.
pub const HOLDERS_MAX: usize = 1_024;

/// How hard zstd tries for what is kept: the level after which it takes longer than the disk.
pub const CHUNK_ZSTD_LEVEL: i32 = 3;
/// A pack is written once it has so much: fewer requests than chunks by hundreds.
pub const PACK_BYTES_MIN: usize = 16 << 20;
/// No pack is larger: it is held in memory while it is filled.
pub const PACK_BYTES_MAX: usize = 64 << 20;
/// Chunks of one pack, so that its index stays small when chunks do.
pub const PACK_CHUNKS_MAX: usize = 8_192;
/// How long a promise about a chunk holds: twice as long as an upload waits for its next part.
pub const LEASE_MS: u64 = 2 * UPLOAD_MS;
/// How long a pack without use is still found: longer than any read takes.
pub const QUARANTINE_MS: u64 = 600_000;
/// A pack of which less than so many percent are used is written anew: the rest costs more than the copy.
pub const REPACK_PERCENT: u64 = 60;

/// One content that a client sends. Its commit is one transaction, which takes seconds for so much.
pub const UPLOAD_BYTES_MAX: u64 = 8 << 30;
/// Contents that one tenant sends in parts at a time: each may leave chunks that nothing uses yet.
pub const TENANT_UPLOADS_MAX: u64 = 256;
/// How long an upload waits for its next part: a night.
pub const UPLOAD_MS: u64 = 43_200_000;
/// Contents that a node takes in at a time: each holds a pack and [`BATCH_BYTES`] in memory.
pub const INTAKES_MAX: usize = 6;
/// Of those, one tenant's.
pub const TENANT_INTAKES_MAX: usize = 3;
/// Bytes that are looked up, compressed and sealed together: enough chunks for one transaction, little enough to hold.
pub const BATCH_BYTES: usize = 4 << 20;
/// Contents that a node sends at a time: each holds a few chunks.
pub const SENDS_MAX: usize = 256;
/// Of those, one tenant's.
pub const TENANT_SENDS_MAX: usize = 64;
/// Pieces of an answer that wait for a slow reader.
pub const SEND_AHEAD: usize = 2;
/// Entries of one page of any list.
pub const PAGE_MAX: u64 = 1_000;
/// Entries of a page where nothing is asked for.
pub const PAGE: u64 = 100;
/// Items of one content that are looked at for one whose reader may have it.
pub const ALIKE_MAX: u64 = 64;
/// Changed places that one comparison tells.
pub const DIFF_PLACES_MAX: usize = 1_000;
/// What a request may say in JSON.
pub const REQUEST_BYTES_MAX: usize = 64 << 10;
/// An item's name, in bytes: as long as a path's part may be on most file systems, four times.
pub const NAME_BYTES_MAX: usize = 1_024;
/// A media type, in bytes.
pub const MEDIA_BYTES_MAX: usize = 255;
/// How long a reader of changes may wait for the next: shorter than proxies' patience.
pub const CHANGES_WAIT_MAX_S: u64 = 50;
/// From one look at the log of changes to the next, for changes of other nodes.
pub const CHANGES_LOOK: std::time::Duration = std::time::Duration::from_millis(500);
/// From one sign of life to the next on a stream of changes.
pub const CHANGES_BEAT: std::time::Duration = std::time::Duration::from_secs(15);
/// From one round of collection to the next.
pub const COLLECT_EVERY: std::time::Duration = std::time::Duration::from_secs(60);
/// Worn packs that one round writes anew for a tenant: each is held in memory.
pub const COLLECT_REPACKS_MAX: u64 = 4;
/// Packs that one round deletes for a tenant.
pub const COLLECT_PACKS_MAX: u64 = 256;
/// Tenants whose secrets a node holds, before it begins anew.
pub const VAULTS_MAX: usize = 4_096;
