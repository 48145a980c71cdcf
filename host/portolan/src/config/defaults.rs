//! Defaults of the configuration, with their reasons. Limits of the data plane and of the policy engine are in their own
//! crates.

use std::num::NonZeroU32;
use std::time::Duration;

/// An application in the same region answers the handshake within a millisecond; two seconds survive one lost packet with
/// its retransmission after one.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A shard's part of a pace that shards share; whole numbers around it leave room for more and for less.
pub(crate) const REPLICATION_WEIGHT: NonZeroU32 = NonZeroU32::new(10).unwrap();
/// Connections of one data thread to one endpoint.
pub(crate) const CONNECTIONS_MAX: u32 = 256;
/// Shorter than the 75 s after which nginx and Node's successors close idle connections, so that we close first.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Time for a response head.
pub(crate) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// Failures in a row that open an endpoint's breaker.
pub(crate) const BREAKER_FAILURES: u32 = 5;
/// The breaker's first pause.
pub(crate) const BREAKER_PAUSE_MIN: Duration = Duration::from_secs(1);
/// Its longest.
pub(crate) const BREAKER_PAUSE_MAX: Duration = Duration::from_secs(30);
/// From one probe to the next.
pub(crate) const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// Time for one probe.
pub(crate) const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// Good probes in a row that bring an endpoint up: one may be luck.
pub(crate) const PROBE_RISE: u32 = 2;
/// Bad probes in a row that take it down: two may be a lost packet each.
pub(crate) const PROBE_FALL: u32 = 3;
/// Gateways of other regions are probed more often, because a region's verdict rests on it.
pub(crate) const GATEWAY_PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// Time for one such probe.
pub(crate) const GATEWAY_PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Below so many percent of endpoints that are well, probes are doubted instead of believed (Envoy's default).
pub(crate) const PANIC_PERCENT: u32 = 50;
/// A region that recovered has all of its traffic again after this: caches and pools of connections fill within seconds.
pub(crate) const REGION_RAMP: Duration = Duration::from_secs(30);
/// The node's own log.
pub(crate) const LOG_LEVEL: &str = "info";
/// Where a node keeps its own, beside its configuration.
pub(crate) const STATE_FOLDER: &str = ".portolan";
/// Where plugins' components are kept, beside a control store in a file; and below a node's own folder.
pub(crate) const COMPONENTS_FOLDER: &str = "components";
/// What keys in etcd begin with.
pub(crate) const ETCD_PREFIX: &str = "/portolan";
/// How long a shard keeps the rows of a tenant that moved away: whoever finds out the next morning can still undo it.
pub(crate) const KEEP_MOVED: Duration = Duration::from_secs(24 * 3_600);
/// Rows that a move copies or compares in a second: some tenth of what a small database reads and writes.
pub(crate) const MOVE_ROWS_PER_SECOND: NonZeroU32 = NonZeroU32::MIN.saturating_add(9_999);
/// Versions of all plugins of one tenant: some plugins with the versions that anybody would go back to.
pub(crate) const QUOTA_VERSIONS: usize = 100;
/// Bytes of those: two hundred JavaScript policies.
pub(crate) const QUOTA_BYTES: u64 = 256 * 1024 * 1024;
/// Uploads of one tenant that are compiled in a minute: more than a person sends, and a third of a processor at most.
pub(crate) const QUOTA_COMPILES_PER_MINUTE: u32 = 20;
/// Uploads of one tenant that wait or are examined.
pub(crate) const QUOTA_QUEUED: usize = 8;

/// The least that a shard may be allowed to lose: followers say what they have at least twice a second, and looks divide this.
pub(crate) const MAX_LOSS_MIN: Duration = Duration::from_secs(1);
/// How much of the line of hashes one plan of placement may give to other shards, in thousandths: a plan is a step, and the next one
/// is made when its tenants have moved.
pub(crate) const LINE_PERMILLE_MAX: u32 = 100;
/// How many tenants one plan of placement may move: each is copied while it is written, one after the other.
pub(crate) const MOVES_MAX: u32 = 100;
/// The most that anybody may let one plan move: it is one object of the control store.
pub(crate) const MOVES_MOST: u32 = 500;
/// Packs of tenants' content, in the state folder of a node that is alone in its region.
pub(crate) const CONTENT_FOLDER: &str = "content";
/// The keys that open them.
pub(crate) const KEYRING_FOLDER: &str = "content-keys";
