//! The limits of DNS, with their reasons.

use std::time::Duration;

/// Regions of one plan: a set of them is one word.
pub const REGIONS_MAX: usize = 64;
/// Names of one plan. Each has a number, an entry of the denial chain, and signatures of its own.
pub const NAMES_MAX: usize = 10_000;
/// Zones of one plan: each is delegated by a human.
pub const ZONES_MAX: usize = 256;
/// Prefixes that say which regions are near. A table of countries has a tenth of a million.
pub const PREFIXES_MAX: usize = 1_000_000;
/// Addresses of one family of one name: where two are answered, each pair is signed, and pairs grow with the square.
pub const ADDRESSES_MAX: usize = 64;
/// The shortest time that a resolver may be told to keep an answer: below it, many ask more often than their own floor lets them.
pub const TTL_MIN_S: u32 = 5;
/// The longest: a failover waits for the last resolver that keeps the old answer.
pub const TTL_MAX_S: u32 = 300;
/// The longest that "there is nothing" may be kept: one such answer by mistake hides a name for that long.
pub const NEGATIVE_TTL_MAX_S: u32 = 30;
/// What is kept of the zone itself, its servers and keys: they change with the delegation, not with regions.
pub const ZONE_TTL_S: u32 = 3_600;
/// How often a secondary asks by itself whether there is another plan; NOTIFY tells it sooner.
pub const REFRESH_S: u32 = 60;
/// How long a secondary waits after it could not ask.
pub const RETRY_S: u32 = 15;
/// How long a secondary answers without having heard of us: two weeks, as long as signatures hold.
pub const EXPIRE_S: u32 = 1_209_600;
/// Bits of a client's IPv4 network that decide between regions: what resolvers tell of their clients.
pub const HASH_BITS_V4: u8 = 24;
/// And of IPv6: what one site is given.
pub const HASH_BITS_V6: u8 = 56;
/// What a client may be sent over UDP without saying that it takes more (RFC 1035, section 2.3.4).
pub const UDP_PLAIN_BYTES: usize = 512;
/// The most over UDP, whatever a client says: what passes without fragments (the value of the DNS flag day of 2020).
pub const UDP_BYTES_MAX: usize = 1_232;
/// The most over TCP: its length has 16 bits.
pub const TCP_BYTES_MAX: usize = 65_535;
/// Answers of one kind that a network is sent in a second over UDP. A resolver asks for a name once in a TTL for each network of its
/// clients: at 30 s that is enough for 30,000 networks. Whoever asks more is told to come by TCP.
pub const RESPONSES_PER_SECOND: u32 = 1_000;
/// How many of them may come at once: a resolver that starts with an empty memory.
pub const RESPONSES_BURST: u32 = 2_000;
/// Of so many answers that are held back, one is sent empty and truncated, so that a real resolver comes by TCP.
pub const SLIP: u64 = 2;
/// Places where networks' answers are counted: half a megabyte, so that two busy networks seldom share one.
pub const LIMIT_CELLS: usize = 65_536;
/// Connections over TCP at once, of all clients.
pub const CONNECTIONS_MAX: usize = 1_000;
/// Connections of one network: resolvers use a handful.
pub const CONNECTIONS_PER_NETWORK: usize = 50;
/// How long a connection may be silent (RFC 7766 asks for some seconds).
pub const IDLE: Duration = Duration::from_secs(10);
/// How long a client may take to take an answer.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Questions on one connection, so that nobody stays for ever.
pub const QUESTIONS_PER_CONNECTION: usize = 10_000;
/// Datagrams that are answered before another task has its turn.
pub const DATAGRAMS_AT_ONCE: usize = 64;
/// Records that a question may bring: its own extension and signature, and what an incremental transfer names.
pub const QUESTION_RECORDS_MAX: u16 = 8;
/// Bytes of one message of a transfer: room for its signature remains.
pub const TRANSFER_BYTES: usize = 16_384;
/// The largest plan that is read from disk.
pub const PLAN_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// How long signatures hold: a server that is cut off answers validly for so long.
pub const SIGNATURE_VALIDITY_S: u32 = 14 * 24 * 3_600;
/// How far back they begin, for resolvers whose clocks are behind.
pub const SIGNATURE_SKEW_S: u32 = 3_600;
/// How far a signed message's time may be off (RFC 8945, section 10).
pub const FUDGE_S: u16 = 300;
/// Bytes of one UPDATE: the servers' own buffers for it hold this, and a batch that fails is small.
pub const UPDATE_BYTES_MAX: usize = 16_384;
/// How long a server may take to answer an UPDATE: it writes its journal first.
pub const UPDATE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often an UPDATE is tried that did not arrive. Each try is another message with another signature.
pub const UPDATE_TRIES: u32 = 3;
/// The first pause between tries, and the longest.
pub const UPDATE_RETRY_MIN: Duration = Duration::from_millis(200);
/// As [`UPDATE_RETRY_MIN`] says.
pub const UPDATE_RETRY_MAX: Duration = Duration::from_secs(2);
/// How often it is looked whether a server still has what was written there.
pub const PUSH_LOOK: Duration = Duration::from_secs(60);
/// The first pause after a server could not be reached, and the longest: a failover may wait for it.
pub const PUSH_RETRY_MIN: Duration = Duration::from_millis(500);
/// As [`PUSH_RETRY_MIN`] says.
pub const PUSH_RETRY_MAX: Duration = Duration::from_secs(15);
/// Names of one batch of changes at a provider: both take several hundred records of one.
pub const CLOUD_NAMES_AT_ONCE: usize = 50;
/// Pages of records that a zone at a provider may have: some hundred records each, read once a minute.
pub const CLOUD_PAGES_MAX: usize = 100;
/// How often a secondary is told of a plan before it is left to ask by itself.
pub const NOTIFY_TRIES: u32 = 5;
/// How long it may take to say that it was told; doubled with each try.
pub const NOTIFY_TIMEOUT: Duration = Duration::from_secs(1);
