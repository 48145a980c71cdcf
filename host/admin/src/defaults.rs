//! Limits and times of the admin API, with their reasons.

use std::time::Duration;

/// Connections over TCP at the same time; more wait. The Unix socket has as many of its own, so that nobody on the
/// network can keep the machine's own people out.
pub const CONNECTIONS_MAX: usize = 128;
/// Time for a request's head, and between two requests of a connection.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for a TLS handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// From one failed accept to the next try.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Bytes of a request's head.
pub const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Bytes of a question's content: the largest object and what is around it.
pub const QUESTION_BYTES_MAX: usize = 512 * 1024;
/// Bytes of a change's content: what the store takes in one change, written generously.
pub const CHANGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of an answer that is read as a whole within the process.
pub const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Time for a whole small content to arrive: slow senders keep nobody waiting.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(20);
/// Time for an answer to a question.
pub const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for a change: it compiles and plans what it names before it is made.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(180);
/// Time for an upload with its first checks.
pub const UPLOAD_TIMEOUT: Duration = Duration::from_secs(300);

/// Items of a page when nothing is asked.
pub const PAGE_ITEMS: usize = 100;
/// Items of a page at most.
pub const PAGE_ITEMS_MAX: usize = 500;
/// Bytes of a cursor: the longest key, encoded.
pub const CURSOR_BYTES_MAX: usize = 1_024;
/// Entries of the log that one question looks through.
pub const SCAN_ENTRIES_MAX: u64 = 4_096;
/// Wishes of one change.
pub const WISHES_MAX: usize = 10_000;
/// Files of one application.
pub const FILES_MAX: usize = 1_000;
/// Bytes of a message.
pub const MESSAGE_BYTES_MAX: usize = 1_024;

/// Events that are kept for whoever comes again.
pub const EVENTS_MAX: usize = 1_024;
/// Bytes of one event's data.
pub const EVENT_BYTES_MAX: usize = 16 * 1024;
/// Events of refused access in a second; more are only counted, so that a flood does not drive out what matters.
pub const DENIALS_TOLD: u32 = 10;
/// Requests of one caller at the same time.
pub const REQUESTS_OF_ONE_MAX: usize = 32;
/// Bytes of a page's items: large objects make short pages.
pub const PAGE_BYTES: usize = 8 * 1024 * 1024;
/// Streams at the same time, all callers together.
pub const STREAMS_MAX: usize = 64;
/// Streams of one caller.
pub const STREAMS_OF_ONE_MAX: usize = 8;
/// How often a silent stream says that it lives, and looks whether its caller may still listen.
pub const STREAM_BEAT: Duration = Duration::from_secs(15);
/// How long a stream lasts; whoever wants more comes again with the last id.
pub const STREAM_LIFE: Duration = Duration::from_secs(3_600);
/// Lines that may wait for one listener of the tail.
pub const TAIL_QUEUE_MAX: usize = 1_024;

/// Answers that are kept for repeated keys.
pub const KEPT_ANSWERS_MAX: usize = 1_024;
/// Of one caller.
pub const KEPT_ANSWERS_OF_ONE_MAX: usize = 128;
/// Bytes of an answer that is kept.
pub const KEPT_ANSWER_BYTES_MAX: usize = 64 * 1024;
/// How long an answer is kept.
pub const KEPT_ANSWER_LIFE: Duration = Duration::from_secs(24 * 3_600);
/// Bytes of an idempotency key.
pub const KEY_BYTES_MAX: usize = 200;

/// Operations that are kept.
pub const OPERATIONS_MAX: usize = 1_024;
/// Running operations of one tenant.
pub const OPERATIONS_OF_TENANT_MAX: usize = 8;
/// Stages of one operation.
pub const STAGES_MAX: usize = 64;

/// How long a token lives when nothing is asked.
pub const TOKEN_LIFE: Duration = Duration::from_secs(90 * 24 * 3_600);
/// How long at most.
pub const TOKEN_LIFE_MAX: Duration = Duration::from_secs(366 * 24 * 3_600);
/// Bytes of a token's name.
pub const TOKEN_NAME_BYTES_MAX: usize = 100;
/// Tokens of one tenant.
pub const TOKENS_OF_TENANT_MAX: usize = 100;
/// Bytes of a credential: tokens of identity providers have some kilobytes.
pub const CREDENTIAL_BYTES_MAX: usize = 16 * 1024;

/// How far the clocks of the identity provider and of this node may be apart.
pub const CLOCK_SKEW: Duration = Duration::from_secs(60);
/// How old keys of the identity provider may be before they are fetched again.
pub const KEYS_FRESH: Duration = Duration::from_secs(600);
/// How old they may be when they cannot be fetched: longer outages close this way in.
pub const KEYS_LIFE: Duration = Duration::from_secs(24 * 3_600);
/// From one fetch for an unknown key to the next.
pub const KEYS_PAUSE: Duration = Duration::from_secs(30);
/// Bytes of a set of keys.
pub const KEYS_BYTES_MAX: usize = 256 * 1024;
/// Time to fetch it.
pub const KEYS_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a word for `portolan-preview` holds: one look at a version, and some more after mending it.
pub const PREVIEW_TIME: Duration = Duration::from_secs(600);
/// The longest: it cannot be taken back.
pub const PREVIEW_TIME_MAX: Duration = Duration::from_secs(3_600);

/// Bytes of what is claimed: the longest address of electronic mail (RFC 3696, erratum 1690, allows fewer).
pub const CLAIM_BYTES_MAX: usize = 320;
/// Claims of one tenant: each is an object of the control store.
pub const CLAIMS_OF_TENANT_MAX: usize = 100;
/// How often a change is made of what is seen anew, when others come between.
pub const CHANGE_TRIES: usize = 5;
