//! The configuration as it is written. These types are also the source of `portolan schema`; what cannot be said by a type
//! is checked in `build`.

mod admin;
mod cache;
mod dns;
mod failover;
mod geography;
mod shards;
mod steering;

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

pub(super) use self::admin::{RawAdmin, RawAdminTls, RawBinding, RawOidc};
pub(super) use self::cache::RawCache;
pub(super) use self::dns::{RawCloud, RawDns, RawName, RawProvider, RawZone};
pub(super) use self::failover::{RawFailover, RawProfile};
pub(super) use self::geography::{RawGeography, RawLocation};
pub(super) use self::shards::{
    RawAccess, RawColumnRule, RawConflict, RawConflictRule, RawDurability, RawLease, RawMigrations,
    RawPastMaxLoss, RawPlace, RawPlacement, RawReplication, RawResolver, RawRowRule, RawRule, RawShard,
    RawStore, RawStoreLog, RawStoreTls, RawTable, RawWriters,
};
pub(super) use self::steering::RawSteering;

/// Everything.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    /// Who may use the admin API, besides the node's own user on its socket and the holders of tokens.
    #[serde(default)]
    pub(super) admin: RawAdmin,
    /// Answers of applications that this node keeps and gives again. Without it nothing is kept.
    pub(super) cache: Option<RawCache>,
    /// Networks whose clients are known to be somewhere.
    #[serde(default)]
    pub(super) client_network: Vec<RawNetwork>,
    /// Where tenants' content is kept. Without it this node serves none.
    pub(super) content: Option<RawContent>,
    /// Where intent is kept. With a control store, regions, tenants and the like come from there, and `conf.d` is what
    /// `portolan apply` puts into it.
    pub(super) control: Option<RawControl>,
    /// Which names lead to which regions.
    pub(super) dns: Option<RawDns>,
    /// What is told to clients.
    #[serde(default)]
    pub(super) expose: RawExpose,
    /// What becomes of shards when their region fails. Without it people decide, with `portolan shard promote`.
    pub(super) failover: Option<RawFailover>,
    /// Where addresses are on earth.
    pub(super) geography: Option<RawGeography>,
    /// Round-trip times that are declared; measured ones win over them.
    #[serde(default)]
    pub(super) latency: Vec<RawLatency>,
    /// Who writes which shard now, by the shard's name, where that is not what the shard says.
    #[serde(default)]
    pub(super) lease: BTreeMap<String, RawLease>,
    /// Bounds on what clients may do.
    #[serde(default)]
    pub(super) limits: RawLimits,
    /// Addresses.
    pub(super) listen: RawListen,
    /// Migrations of the tenants' schema.
    #[serde(default)]
    pub(super) migrations: RawMigrations,
    /// What is written down.
    #[serde(default)]
    pub(super) log: RawLog,
    /// This node.
    pub(super) node: RawNode,
    /// Who this node is among regions.
    pub(super) peer: Option<RawPeer>,
    /// Tenants that are not where a rule of `[placement]` says.
    #[serde(default)]
    pub(super) place: BTreeMap<String, RawPlace>,
    /// Which shards new tenants are placed on.
    pub(super) placement: Option<RawPlacement>,
    /// Where policies come from.
    #[serde(default)]
    pub(super) policies: RawPolicies,
    /// The operator's routing policy. Without one, requests go to the local region, then to the nearest.
    pub(super) policy: Option<RawPolicy>,
    /// How much one query across shards may take.
    #[serde(default)]
    pub(super) query: RawQuery,
    /// Decisions that are kept, to be explained and decided again. Without this section none is.
    pub(super) recordings: Option<RawRecordings>,
    /// Regions by name.
    #[serde(default)]
    pub(super) region: BTreeMap<String, RawRegion>,
    /// Residency classes by name.
    #[serde(default)]
    pub(super) residency: BTreeMap<String, RawResidency>,
    /// Databases of tenants' rows by name.
    #[serde(default)]
    pub(super) shard: BTreeMap<String, RawShard>,
    /// Tenants by name that nobody serves. `portolan tenant suspend` writes this, and `portolan tenant erase`.
    #[serde(default)]
    pub(super) standing: BTreeMap<String, RawStanding>,
    /// How requests are steered among regions.
    #[serde(default)]
    pub(super) steering: RawSteering,
    /// Tables of the tenants' schema by name, as every shard has them.
    #[serde(default)]
    pub(super) table: BTreeMap<String, RawTable>,
    /// Tenants by name that have something of their own.
    #[serde(default)]
    pub(super) tenant: BTreeMap<String, RawTenant>,
    /// How tenants are recognised.
    #[serde(default)]
    pub(super) tenants: RawTenants,
    /// TLS on public listeners.
    #[serde(default)]
    pub(super) tls: RawTls,
    /// Whom to believe.
    #[serde(default)]
    pub(super) trust: RawTrust,
}

/// This node.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNode {
    /// Its own name among all nodes; the region's when absent.
    pub(super) name: Option<String>,
    /// The region that it stands in; one of `[region.*]`.
    pub(super) region: String,
    /// A folder for the admin socket and compiled policies; `.portolan` beside the configuration when absent.
    pub(super) state: Option<PathBuf>,
    /// Data threads; one for each processor when absent.
    #[schemars(range(min = 1, max = 256))]
    pub(super) threads: Option<u16>,
}

/// Where tenants' content is kept, sealed, and where the keys are that open it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawContent {
    /// A folder that all nodes of this region share, of the keys that open everything; `content-keys` in the state folder when absent. Keep a
    /// copy of it elsewhere: without it, content is lost.
    pub(super) keyring: Option<PathBuf>,
    /// A bucket for packs of sealed chunks, instead of the folder.
    pub(super) s3: Option<RawS3>,
    /// A folder that all nodes of this region share, for packs of sealed chunks; `content` in the state folder when absent.
    pub(super) store: Option<PathBuf>,
}

/// Where intent is kept: one of both.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawControl {
    /// The folder, shared by all nodes, of plugins' components; `components` beside the file of SQLite when absent.
    pub(super) components: Option<PathBuf>,
    /// A cluster of etcd, for nodes on several machines.
    pub(super) etcd: Option<RawEtcd>,
    /// A bucket for plugins' components, instead of the folder.
    pub(super) s3: Option<RawS3>,
    /// A file, for the processes of one machine. It is made when it is not there.
    pub(super) sqlite: Option<PathBuf>,
}

/// A cluster of etcd.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEtcd {
    /// PEM file of the authorities of its members.
    pub(super) ca: Option<PathBuf>,
    /// PEM file of this node's certificate, with `key`.
    pub(super) cert: Option<PathBuf>,
    /// Its members, such as `https://10.0.0.1:2379`.
    pub(super) endpoints: Vec<String>,
    /// PEM file of the private key.
    pub(super) key: Option<PathBuf>,
    /// The password, with `user`. From the environment, better than from here: `PORTOLAN__CONTROL__ETCD__PASSWORD`.
    pub(super) password: Option<String>,
    /// What all keys begin with; `/portolan` when absent.
    pub(super) prefix: Option<String>,
    /// The user.
    pub(super) user: Option<String>,
}

/// A bucket of a store that speaks S3's protocol. Without a key here, one is found as Amazon's tools find it.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawS3 {
    /// The key's name, with `secret_access_key`.
    pub(super) access_key_id: Option<String>,
    /// The bucket.
    pub(super) bucket: String,
    /// A file with the key, as Amazon's tools read it.
    pub(super) credentials_file: Option<PathBuf>,
    /// Where the store is, such as `https://s3.example.com:9000`; Amazon's when absent.
    pub(super) endpoint: Option<String>,
    /// What all names in the bucket begin with.
    pub(super) prefix: Option<String>,
    /// The region to sign for, such as `eu-central-1`.
    pub(super) region: Option<String>,
    /// The key. From the environment, better than from here: `PORTOLAN__CONTROL__S3__SECRET_ACCESS_KEY`, or
    /// `PORTOLAN__CONTENT__S3__SECRET_ACCESS_KEY`.
    pub(super) secret_access_key: Option<String>,
}

impl std::fmt::Debug for RawS3 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawS3").field("bucket", &self.bucket).finish_non_exhaustive()
    }
}

/// Addresses such as `0.0.0.0:8080` or `[::]:8443`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawListen {
    /// For the admin API over TCP; a loopback address, unless `[admin.tls]` is there. A token is always asked for.
    pub(super) admin: Option<String>,
    /// For DNS, over UDP and TCP: addresses of this machine, each by itself. Needs `[dns]`.
    #[serde(default)]
    pub(super) dns: Vec<String>,
    /// For Prometheus and load balancers: `/metrics`, `/ready`. Without a token, so keep it private.
    pub(super) metrics: Option<String>,
    /// For gateways of other regions. Needs `[peer]`.
    #[serde(default)]
    pub(super) peer: Vec<String>,
    /// Addresses of `public` and `public_tls` whose connections all begin with a header of the PROXY protocol, version 1 or 2, from
    /// load balancers in `trust.proxies`; others are turned away.
    #[serde(default)]
    pub(super) proxy_protocol: Vec<String>,
    /// HTTP/1.1 and HTTP/2 in cleartext.
    #[serde(default)]
    pub(super) public: Vec<String>,
    /// HTTP/1.1 and HTTP/2 over TLS. Needs `[[tls.certificate]]`.
    #[serde(default)]
    pub(super) public_tls: Vec<String>,
    /// For regions that keep copies of this region's shards. Needs `[peer]`.
    #[serde(default)]
    pub(super) replication: Vec<String>,
}

/// TLS on public listeners.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTls {
    /// Certificates; the one whose names fit is served.
    #[serde(default)]
    pub(super) certificate: Vec<RawCertificate>,
    /// Certificates of clients.
    pub(super) clients: Option<RawClients>,
}

/// One certificate. Its files are read again when they change.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCertificate {
    /// PEM file of the chain, the server's own first.
    pub(super) cert: PathBuf,
    /// PEM file of the private key.
    pub(super) key: PathBuf,
}

/// Certificates of clients.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawClients {
    /// PEM files of authorities.
    pub(super) ca: Vec<PathBuf>,
    /// Refuse clients without one.
    #[serde(default)]
    pub(super) required: bool,
}

/// Who this node is among regions.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPeer {
    /// PEM files of the authorities of all regions' gateways.
    pub(super) ca: Option<Vec<PathBuf>>,
    /// PEM file of this node's chain, with one URI among its names, `spiffe://DOMAIN/region/REGION/gateway/NAME`.
    pub(super) cert: Option<PathBuf>,
    /// PEM file of its private key.
    pub(super) key: Option<PathBuf>,
    /// In their place: the socket of an agent of SPIFFE's Workload API, SPIRE's for one, which issues such certificates and renews them.
    pub(super) spiffe: Option<PathBuf>,
}

/// Whom to believe.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTrust {
    /// The header in which a trusted proxy names the client's country.
    pub(super) country_header: Option<String>,
    /// Networks of proxies whose `X-Forwarded-*` and `Forwarded` are believed.
    #[serde(default)]
    pub(super) proxies: Vec<String>,
    /// The header in which a trusted proxy names the nearest region.
    pub(super) region_header: Option<String>,
}

/// Where the clients of a network are.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNetwork {
    /// ISO 3166-1 alpha-2 code.
    pub(super) country: Option<String>,
    /// Such as `10.20.0.0/16`.
    pub(super) network: String,
    /// The nearest region.
    pub(super) region: Option<String>,
}

/// Bounds on what clients may do. Times such as `10s` or `500ms`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLimits {
    /// The largest request content in bytes; any when absent.
    #[schemars(range(min = 0))]
    pub(super) body_bytes: Option<u64>,
    /// Time between two pieces of a content (60s).
    pub(super) body_idle: Option<String>,
    /// Client connections of one data thread (20000).
    #[schemars(range(min = 1))]
    pub(super) connections: Option<u32>,
    /// How long requests in flight may take to end after SIGTERM (30s).
    pub(super) drain: Option<String>,
    /// Header fields in one request (100).
    #[schemars(range(min = 1, max = 1000))]
    pub(super) header_fields: Option<u16>,
    /// Bytes of one request's head (65536).
    #[schemars(range(min = 1024, max = 1_048_576))]
    pub(super) head_bytes: Option<u32>,
    /// Time for a whole request head (10s).
    pub(super) header: Option<String>,
    /// Time without a request (75s).
    pub(super) idle: Option<String>,
}

/// How much one query across shards may take: what would take more is refused or ended, and says so.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawQuery {
    /// Bytes of an answer (536870912).
    #[schemars(range(min = 1))]
    pub(super) answer_bytes: Option<u64>,
    /// Rows of an answer (1000000).
    #[schemars(range(min = 1))]
    pub(super) answer_rows: Option<u64>,
    /// Memory of its operators in bytes (268435456).
    #[schemars(range(min = 1_048_576, max = 2_147_483_648_u64))]
    pub(super) memory_bytes: Option<u32>,
    /// Rows that all shards may send for it (5000000).
    #[schemars(range(min = 1))]
    pub(super) scan_rows: Option<u64>,
    /// Statements to shards (256).
    #[schemars(range(min = 1, max = 65_536))]
    pub(super) statements: Option<u32>,
    /// Time to its last row (60s).
    pub(super) time: Option<String>,
}

/// What is written down.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLog {
    /// The access log: `stdout` or a file; none when absent.
    pub(super) access: Option<String>,
    /// How lines of the node's own log look.
    pub(super) format: Option<RawFormat>,
    /// `error`, `warn`, `info`, `debug`, or directives such as `warn,portolan_policy=debug`.
    pub(super) level: Option<String>,
}

/// How lines look.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Decisions that are kept. Headers, cookies and queries are kept only where a policy can look at them.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRecordings {
    /// Attributes that are kept in clear although they are secret, such as `header:authorization`.
    #[serde(default)]
    pub(super) allow: Vec<String>,
    /// The file of the key that signs words for `portolan-debug`; nodes that share it believe each other's.
    /// `debug.key` in the state folder when absent.
    pub(super) debug_key: Option<PathBuf>,
    /// Bytes of all segments on disk; 0 for none (268435456).
    #[schemars(range(min = 0))]
    pub(super) disk_bytes: Option<u64>,
    /// Attributes that are dropped without a trace.
    #[serde(default)]
    pub(super) drop: Vec<String>,
    /// Decisions of failed requests that are kept in a second, whatever is drawn (100).
    pub(super) failures_per_second: Option<u32>,
    /// Attributes that are replaced by a keyed hash, such as `client.ip`.
    #[serde(default)]
    pub(super) hide: Vec<String>,
    /// How long segments are kept (7d).
    pub(super) keep: Option<String>,
    /// Bytes of recent decisions in memory (33554432).
    #[schemars(range(min = 65_536))]
    pub(super) memory_bytes: Option<u32>,
    /// Of a thousand decisions, how many are kept (10).
    #[schemars(range(min = 0, max = 1000))]
    pub(super) sample_permille: Option<u16>,
    /// Bytes of one segment, which is removed as a whole (8388608).
    #[schemars(range(min = 65_536))]
    pub(super) segment_bytes: Option<u32>,
    /// Of a thousand decisions, how many a candidate in the shadow is asked about (1000).
    #[schemars(range(min = 0, max = 1000))]
    pub(super) shadow_permille: Option<u16>,
}

/// What is told to clients.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawExpose {
    /// Response headers that name generation, policy, region and attempts.
    #[serde(default)]
    pub(super) decision: bool,
}

/// A region.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRegion {
    /// Its public addresses, which names of `[dns]` lead to.
    #[serde(default)]
    pub(super) addresses: Vec<std::net::IpAddr>,
    /// Requests per second that it can take; failover moves no more there. Without it nothing is said of that.
    #[schemars(range(min = 1))]
    pub(super) capacity: Option<NonZeroU64>,
    /// Its gateways' peer addresses, `host:port`. Without any, its pools are reached directly.
    #[serde(default)]
    pub(super) gateways: Vec<String>,
    /// Where clients come in, `http://HOST:PORT/PATH` or `https://…`: other regions look there, too, whether it lives.
    pub(super) ingress: Option<String>,
    /// Authorities by which `ingress` proves who it is, in a file; the system's when absent.
    pub(super) ingress_ca: Option<PathBuf>,
    /// Where it is on earth.
    pub(super) location: Option<RawLocation>,
    /// How its gateways are probed.
    pub(super) probe: Option<RawProbe>,
    /// Its pools by name.
    #[serde(default)]
    pub(super) pool: BTreeMap<String, RawPool>,
    /// Where its nodes listen for replication, `host:port`: regions that keep copies of its shards follow them there.
    #[serde(default)]
    pub(super) replication: Vec<String>,
    /// Bytes of its logs and rows, as they are on the wire, that each node elsewhere takes in a second (no bound).
    #[schemars(range(min = 16384))]
    pub(super) replication_bytes_per_second: Option<NonZeroU64>,
}

/// The endpoints of one application.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPool {
    /// When the breaker of an endpoint opens.
    #[serde(default)]
    pub(super) breaker: RawBreaker,
    /// Time to connect (2s).
    pub(super) connect_timeout: Option<String>,
    /// Connections of one data thread to one endpoint (256).
    #[schemars(range(min = 1))]
    pub(super) connections: Option<u32>,
    /// `host:port`. May be empty in a region with gateways.
    #[serde(default)]
    pub(super) endpoints: Vec<String>,
    /// How long an idle connection is kept (60s).
    pub(super) idle_timeout: Option<String>,
    /// How endpoints are probed; never when absent.
    pub(super) probe: Option<RawProbe>,
    /// What is spoken (http1).
    pub(super) protocol: Option<RawProtocol>,
    /// Time for a response head (30s).
    pub(super) response_timeout: Option<String>,
    /// Do its applications use no shard (false)? Other pools get the requests that change something of a tenant with rows in the
    /// region that writes them.
    #[serde(default)]
    pub(super) stateless: bool,
    /// TLS to the endpoints; cleartext when absent.
    pub(super) tls: Option<RawUpstreamTls>,
    /// Do answers to requests that may have changed something carry `portolan-token` (false)? It names where the log of the tenant's
    /// shard is after the answer, where that is known within 50 ms, so that a reader who brings it sees at least what was written.
    #[serde(default)]
    pub(super) token: bool,
}

/// What is spoken to an upstream.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawProtocol {
    /// HTTP/1.1
    Http1,
    /// HTTP/2; needed for gRPC.
    Http2,
}

/// TLS to an upstream.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawUpstreamTls {
    /// PEM file of authorities; the system's when absent.
    pub(super) ca: Option<PathBuf>,
    /// The name that the certificate must carry; the endpoint's host when absent.
    pub(super) server_name: Option<String>,
}

/// How something is probed.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawProbe {
    /// Bad probes in a row that take it down (3).
    #[schemars(range(min = 1, max = 100))]
    pub(super) fall: Option<u8>,
    /// From one probe to the next (5s).
    pub(super) interval: Option<String>,
    /// The path to GET; a 2xx is good (/).
    pub(super) path: Option<String>,
    /// Good probes in a row that bring it up (2).
    #[schemars(range(min = 1, max = 100))]
    pub(super) rise: Option<u8>,
    /// Time for one probe (2s).
    pub(super) timeout: Option<String>,
}

/// When a breaker opens.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBreaker {
    /// Failures in a row that open it (5); 0 for never.
    #[schemars(range(min = 0, max = 1000))]
    pub(super) failures: Option<u16>,
    /// The longest pause (30s).
    pub(super) pause_max: Option<String>,
    /// The first pause (1s); it doubles with each failed probe.
    pub(super) pause_min: Option<String>,
}

/// A declared round-trip time.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLatency {
    /// Two regions.
    pub(super) between: [String; 2],
    /// Such as `80ms`.
    pub(super) round_trip: String,
}

/// A residency class.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawResidency {
    /// The regions that it allows.
    pub(super) regions: Vec<String>,
}

/// How tenants are recognised.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTenants {
    /// What tenants' policies may choose, unless `[tenant.NAME.bounds]` says otherwise.
    #[serde(default)]
    pub(super) bounds: RawBounds,
    /// Refuse names that have no `[tenant.NAME]`.
    #[serde(default)]
    pub(super) known_only: bool,
    /// Where to look for the tenant's name; the first that names one decides.
    #[serde(default)]
    pub(super) sources: Vec<RawSource>,
    /// What becomes of requests without a tenant (anonymous).
    pub(super) unrecognised: Option<RawUnrecognised>,
}

/// One place to look at; exactly one of its keys.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSource {
    /// The rest of a URI in the client's certificate after this prefix, such as `spiffe://example.com/tenant/`.
    pub(super) client_certificate: Option<String>,
    /// The value of this header.
    pub(super) header: Option<String>,
    /// The label before this suffix of the host, such as `.apps.example.com`.
    pub(super) host_suffix: Option<String>,
    /// The segment after this prefix of the path, such as `/t/`.
    pub(super) path_prefix: Option<String>,
}

/// What becomes of requests without a tenant.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawUnrecognised {
    /// They are served without one.
    Anonymous,
    /// They are answered 404.
    Refuse,
}

/// What a tenant has of its own.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTenant {
    /// What its policy may choose; each key wins over the one in `[tenants.bounds]`.
    #[serde(default)]
    pub(super) bounds: RawBounds,
    /// What its policy may use on each node; each key wins over the one in `[policies.tenant]`.
    #[serde(default)]
    pub(super) budget: RawBudget,
    /// Its number, which `portolan tenant create` draws: a UUID of version 7.
    pub(super) id: Option<String>,
    /// The region that it works in: its shard is chosen by that where a rule or policy of placement looks at it.
    pub(super) location: Option<String>,
    /// Its own routing policy, asked after the operator's.
    pub(super) policy: Option<RawPolicy>,
    /// Its residency class.
    pub(super) residency: Option<String>,
}

/// Why a tenant is not served.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStanding {
    /// What holds.
    pub(super) is: RawBarred,
    /// Since when, in milliseconds since 1970.
    #[serde(default)]
    #[expect(dead_code, reason = "people read it")]
    pub(super) since_ms: u64,
}

/// How a tenant that is not served stands.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawBarred {
    /// What it had is taken away; its name is never another's.
    Erased,
    /// Its requests are refused, its policy rests, its data stay.
    Suspended,
}

/// What a tenant's policy may choose, and see. What is absent is not bounded; an empty list allows nothing.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBounds {
    /// Header fields that it may edit: names, or beginnings such as `x-shop-*`. Never those that name tenants.
    pub(super) headers: Option<Vec<String>>,
    /// Pools that it may forward to.
    pub(super) pools: Option<Vec<String>>,
    /// Regions that it may forward to, within the tenant's residency class.
    pub(super) regions: Option<Vec<String>>,
}

/// What a tenant's policy may use on a node. Fuel is the engine's measure of work: two thousand million units are about a
/// second of straight code.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBudget {
    /// Fuel that may be used at once, after a time of rest (1000000000).
    #[schemars(range(min = 1))]
    pub(super) fuel_burst: Option<u64>,
    /// Fuel that comes back in a second, over all data threads (200000000).
    #[schemars(range(min = 1))]
    pub(super) fuel_per_second: Option<u64>,
    /// Bytes of all its warm instances, and of any one (67108864).
    #[schemars(range(min = 65_536))]
    pub(super) memory_bytes: Option<u64>,
    /// Plans that may be made at once, after a time of rest (30).
    #[schemars(range(min = 1))]
    pub(super) plan_burst: Option<u32>,
    /// Fuel that plans may use in a minute (10000000000).
    #[schemars(range(min = 1))]
    pub(super) plan_fuel_per_minute: Option<u64>,
    /// Plans in a minute (60).
    #[schemars(range(min = 1))]
    pub(super) plans_per_minute: Option<u32>,
    /// Warm instances (64).
    #[schemars(range(min = 0, max = 100_000))]
    pub(super) warm_instances: Option<u32>,
}

/// What becomes of a slot's requests when its policy fails.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawFailRule {
    /// They go on as if the slot had no policy.
    Bypass,
    /// They are answered 503.
    Closed,
    /// The last good version and table go on; where there is none, they go on to the next slot.
    Previous,
}

/// A policy in a slot.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPolicy {
    /// The policy's configuration; the policy's own schema says what it may hold.
    #[serde(default)]
    pub(super) config: BTreeMap<String, serde_json::Value>,
    /// May a tenant's large component answer dynamic rules?
    #[serde(default)]
    pub(super) dynamic_granted: bool,
    /// What becomes of requests when the policy fails (previous).
    pub(super) on_fail: Option<RawFailRule>,
    /// `NAME` for `NAME.wasm` in the folder of policies, or a bundled policy.
    #[serde(rename = "use")]
    pub(super) name: String,
    /// The SHA-256 of a version that `portolan plugin push` put into the control store; `use` is then the plugin's name.
    pub(super) version: Option<String>,
}

/// Where policies come from.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPolicies {
    /// Bytes of the largest component (8388608).
    #[schemars(range(min = 1024, max = 134_217_728))]
    pub(super) component_bytes: Option<u32>,
    /// Seconds that compiling one may take: of processor time over all its threads, and of wall time (60).
    #[schemars(range(min = 1, max = 3600))]
    pub(super) compile_seconds: Option<u32>,
    /// The folder of components; `policies` beside the configuration when absent.
    pub(super) folder: Option<PathBuf>,
    /// Instances that may exist at the same time (10000).
    #[schemars(range(min = 16, max = 100_000))]
    pub(super) instances: Option<u32>,
    /// Keys whose signatures of components count.
    #[serde(default)]
    pub(super) key: Vec<RawKey>,
    /// Registries that are spoken to without TLS, such as `registry.internal:5000`; those on this machine are so anyway.
    #[serde(default)]
    pub(super) plain_http: Vec<String>,
    /// What one tenant may have of uploads.
    #[serde(default)]
    pub(super) quota: RawQuota,
    /// Registries that tenants may name when they upload; none when empty. Operators name any.
    #[serde(default)]
    pub(super) registries: Vec<String>,
    /// Where signatures are demanded.
    #[serde(default)]
    pub(super) require_signature: RawRequired,
    /// What each tenant's policy may use on this node, unless `[tenant.NAME.budget]` says otherwise.
    #[serde(default)]
    pub(super) tenant: RawBudget,
}

/// A key whose signatures count.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawKey {
    /// What people call it.
    pub(super) name: String,
    /// The Ed25519 public key: PEM, or base64 of its 32 bytes.
    pub(super) public: String,
    /// The tenants whose components it may sign; all of them, and the operator's, when absent.
    pub(super) tenants: Option<Vec<String>>,
}

/// Where signatures are demanded.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRequired {
    /// Of what the operator runs (none).
    #[serde(default)]
    pub(super) operator: RawNeed,
    /// Of what tenants run (none).
    #[serde(default)]
    pub(super) tenants: RawNeed,
}

/// What is demanded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawNeed {
    /// Nothing.
    #[default]
    None,
    /// A signature by a key that counts.
    Verified,
}

/// What one tenant may have of uploads.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawQuota {
    /// Bytes of all its versions (268435456).
    #[schemars(range(min = 0))]
    pub(super) bytes: Option<u64>,
    /// Uploads that are compiled in a minute (20).
    #[schemars(range(min = 1, max = 10_000))]
    pub(super) compiles_per_minute: Option<u32>,
    /// Uploads that wait or are examined (8).
    #[schemars(range(min = 1, max = 1_000))]
    pub(super) queued: Option<u32>,
    /// Versions of all its plugins (100).
    #[schemars(range(min = 0, max = 100_000))]
    pub(super) versions: Option<u32>,
}
