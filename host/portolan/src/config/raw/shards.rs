//! The sections `[shard.*]`, `[table.*]`, `[placement]` and `[place.*]` as they are written.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

/// A database of tenants' rows.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawShard {
    /// How many tenants it may have, as far as placement knows them by name (no limit).
    #[schemars(range(min = 1))]
    pub(in crate::config) capacity: Option<u64>,
    /// Takes no new tenants (false).
    #[serde(default)]
    pub(in crate::config) drain: bool,
    /// How old what no other region has received may become, such as `10s`, before writes are slowed or refused (no bound). Other regions
    /// must keep the shard then.
    pub(in crate::config) max_loss: Option<String>,
    /// What becomes of writes through the gateway beyond `max_loss` (slow).
    pub(in crate::config) past_max_loss: Option<RawPastMaxLoss>,
    /// The region that writes it, unless `[lease.*]` says otherwise: one of those in `store`.
    pub(in crate::config) primary: String,
    /// Who replicates and fences it (native).
    #[serde(default)]
    pub(in crate::config) replication: RawReplication,
    /// Its part of a region's `replication_bytes_per_second`, beside those of other shards (10).
    #[schemars(range(min = 1, max = 1000))]
    pub(in crate::config) replication_weight: Option<NonZeroU32>,
    /// The residency class of all its tenants. Each region that keeps it must lie inside.
    pub(in crate::config) residency: Option<String>,
    /// Where each region that keeps it has it.
    pub(in crate::config) store: BTreeMap<String, RawStore>,
}

/// Who replicates a shard between regions, and sees to it that one of them writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(in crate::config) enum RawReplication {
    /// Its engine: portolan sends requests where it is written, and says how far copies are behind. It holds none of its rows, moves no
    /// tenants there or away, and takes no backups of it.
    External,
    /// Portolan.
    #[default]
    Native,
}

/// What becomes of writes to a shard of which more would be lost than may.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(in crate::config) enum RawPastMaxLoss {
    /// They are refused, until another region has caught up.
    Refuse,
    /// Each waits the longer, the more would be lost, and two seconds at most.
    Slow,
}

/// Who writes a shard now. `portolan shard promote` writes this, and a failover.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawLease {
    /// Rises with each new lease.
    #[schemars(range(min = 1))]
    pub(in crate::config) epoch: u64,
    /// It begins with the rows that are there, whatever is missing among them: for when no region has all, and waiting brings none (false).
    #[serde(default)]
    pub(in crate::config) partial: bool,
    /// The region that writes it.
    pub(in crate::config) primary: String,
}

/// Where a region has a shard: one of `sqlite`, `postgres` and, with `replication = "external"`, `external`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawStore {
    /// A file (PEM) with certificates of authorities that vouch for the server, beside the public ones.
    pub(in crate::config) ca: Option<PathBuf>,
    /// The gateway's own certificate for the server, a file (PEM), with `key`. It is read with each new connection.
    pub(in crate::config) cert: Option<PathBuf>,
    /// An engine that replicates itself and speaks PostgreSQL's protocol.
    pub(in crate::config) external: Option<RawExternal>,
    /// How full it may be before writes are refused, in percent of the disk or of `max_bytes` (95).
    #[schemars(range(min = 1, max = 100))]
    pub(in crate::config) high_percent: Option<u8>,
    /// The key of `cert`, a file (PEM).
    pub(in crate::config) key: Option<PathBuf>,
    /// How changes come into the log that other regions follow (triggers). `logical` is for busy servers of PostgreSQL: see "Which log" in
    /// ARCHITECTURE.md.
    pub(in crate::config) log: Option<RawStoreLog>,
    /// Where writes are taken again, in percent, below `high_percent` (90).
    #[schemars(range(min = 0, max = 99))]
    pub(in crate::config) low_percent: Option<u8>,
    /// How many bytes the database may take. A file may take its disk when absent; a database of PostgreSQL is not watched then.
    pub(in crate::config) max_bytes: Option<NonZeroU64>,
    /// A database of PostgreSQL, 15 or later.
    pub(in crate::config) postgres: Option<RawPostgres>,
    /// A file, on a disk of the one machine that serves it. It is made when it is not there.
    pub(in crate::config) sqlite: Option<PathBuf>,
    /// What is asked of the server (verify-full; for a server on this machine, what the address says with `sslmode`).
    pub(in crate::config) tls: Option<RawStoreTls>,
}

/// How changes come into a shard's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(in crate::config) enum RawStoreLog {
    /// Triggers emit them, and they are shipped from the write-ahead log: `wal_level = logical`, and REPLICATION for the applier.
    Logical,
    /// Triggers write them into it: nothing is asked of the server.
    Triggers,
}

/// What a connection asks of a server.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(in crate::config) enum RawStoreTls {
    /// Nothing: what goes over the network can be read.
    Disable,
    /// That it encrypts; who it is, nobody knows.
    Require,
    /// A certificate of a known authority.
    VerifyCa,
    /// A certificate of a known authority for the name of the address.
    VerifyFull,
}

/// Where a region reaches an engine that replicates itself.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawExternal {
    /// `postgres://ROLE@HOST:PORT/DATABASE`, for a role that may connect; only members of `pg_monitor` are told how far a copy is behind.
    pub(in crate::config) address: String,
    /// A file with its password, in place of that of the address. It is read with each new connection.
    pub(in crate::config) password_file: Option<PathBuf>,
}

/// A database of PostgreSQL, and the three roles that reach it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawPostgres {
    /// Puts what other regions wrote: `postgres://ROLE@HOST:PORT/DATABASE`.
    pub(in crate::config) applier: String,
    /// A file with the applier's password, in place of that of the address. It is read again when it changes, without a restart.
    pub(in crate::config) applier_password_file: Option<PathBuf>,
    /// Owns tables, moves the fence; neither a superuser nor exempt from row security, and a member of the writer's role.
    pub(in crate::config) owner: String,
    /// A file with the owner's password, as `applier_password_file`.
    pub(in crate::config) owner_password_file: Option<PathBuf>,
    /// Writes for gateways and applications.
    pub(in crate::config) writer: String,
    /// A file with the writer's password, as `applier_password_file`.
    pub(in crate::config) writer_password_file: Option<PathBuf>,
}

/// Migrations of the tenants' schema.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawMigrations {
    /// The folder with `sqlite` and `postgres` in it; `migrations` beside the configuration when absent.
    pub(in crate::config) folder: Option<PathBuf>,
}

/// A table of the tenants' schema.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawTable {
    /// What happens when two regions wrote one row and neither knew of the other (lww): a rule, or several, of which one at most is
    /// for whole rows. What is lost is kept. Only a table that all `members` write may have another rule than `lww`.
    #[serde(default)]
    pub(in crate::config) conflict: RawConflict,
    /// Who must have received a write of the data API before it is answered as done (local). Whoever writes to the database past the
    /// gateway waits for nobody.
    #[serde(default)]
    pub(in crate::config) durability: RawDurability,
    /// The columns of its primary key.
    pub(in crate::config) key: Vec<String>,
    /// Everybody's, and read-only for tenants (false). Such a table has no `tenant`.
    #[serde(default)]
    pub(in crate::config) reference: bool,
    /// The column that says whose a row is.
    pub(in crate::config) tenant: Option<String>,
    /// Who writes it (primary).
    #[serde(default)]
    pub(in crate::config) writers: RawWriters,
}

/// Who must have received a write.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(in crate::config) enum RawDurability {
    /// Nobody but the region that writes it.
    #[default]
    Local,
    /// So many other regions that they are, with the one that writes it, a majority of those that keep the shard.
    Majority,
    /// One other region.
    OneRegion,
}

/// What happens in a conflict.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(in crate::config) enum RawConflict {
    /// Several rules.
    Many(Vec<RawConflictRule>),
    /// One rule.
    One(RawConflictRule),
}

impl Default for RawConflict {
    fn default() -> Self {
        Self::One(RawConflictRule::Whole(RawRowRule::Lww))
    }
}

/// One rule.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(in crate::config) enum RawConflictRule {
    /// For the columns that it names.
    Columns(RawColumns),
    /// For the row: a policy makes one of two.
    Policy(RawResolver),
    /// For the row, or what other rules leave of it.
    Whole(RawRowRule),
}

/// A rule for columns.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawColumns {
    /// Which columns.
    pub(in crate::config) columns: Vec<String>,
    /// What happens to them.
    pub(in crate::config) rule: RawColumnRule,
}

/// A policy that merges rows. The last writer's row stays until the shard's primary has asked it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawResolver {
    /// `NAME` for `NAME.wasm` in the folder of policies: a component of the world `resolving`.
    pub(in crate::config) policy: String,
    /// A version in the control store, as `portolan plugin push` tells it.
    pub(in crate::config) version: Option<String>,
}

/// How a column is merged.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum RawColumnRule {
    /// A whole number: the sum of what all regions have added to it.
    Counter,
    /// The greatest of what was written; it never falls.
    Max,
    /// The least of what was written; it never rises.
    Min,
    /// An array of JSON: what any region has put in, but for what was taken out later.
    SetUnion,
}

/// What happens to rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum RawRowRule {
    /// Each column has a version: updates of different columns both stay.
    ColumnLww,
    /// The earlier version stays; one that knew it replaces it.
    FirstWins,
    /// A version that the shard's primary wrote under its lease wins.
    HomeWins,
    /// The higher version wins.
    Lww,
}

/// Who writes a table.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum RawWriters {
    /// The shard's primary region, under its lease.
    #[default]
    Primary,
    /// Every region that keeps the shard.
    Members,
}

/// Which shards new tenants are placed on. Without this section, each residency class has at most one shard that takes any.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawPlacement {
    /// The policy's configuration; the policy's own schema says what it may hold.
    #[serde(default)]
    pub(in crate::config) config: BTreeMap<String, serde_json::Value>,
    /// The secret with which tenants' names are hashed, 32 hexadecimal digits. It must never change.
    pub(in crate::config) key: String,
    /// How long a shard keeps the rows of a tenant that moved away, so that the move can be undone (24h).
    pub(in crate::config) keep_moved: Option<String>,
    /// Rows that a move copies or compares in a second while the tenant is written (10000).
    pub(in crate::config) move_rows_per_second: Option<NonZeroU32>,
    /// How much of the line of hashes one plan may give to other shards, in thousandths (100).
    #[schemars(range(min = 0, max = 1000))]
    pub(in crate::config) line_permille_max: Option<u32>,
    /// How many tenants one plan may move (100).
    #[schemars(range(min = 0, max = 500))]
    pub(in crate::config) moves_max: Option<u32>,
    /// The policy that places new tenants and proposes what to move: `NAME` for `NAME.wasm` in the folder of policies, or a bundled
    /// one: `jump-hash`, `locality`, `pinned`. Without one, the rules place all.
    pub(in crate::config) policy: Option<String>,
    /// The first rule that is about a tenant says where it is.
    #[serde(default)]
    pub(in crate::config) rule: Vec<RawRule>,
    /// The SHA-256 of a version that `portolan plugin push` put into the control store; `policy` is then the plugin's name.
    pub(in crate::config) version: Option<String>,
}

/// Whom a rule is about, and where they go.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawRule {
    /// Tenants of this location only.
    pub(in crate::config) location: Option<String>,
    /// The line of hashes, divided, in rising order.
    pub(in crate::config) ranges: Vec<RawRange>,
    /// Tenants of this residency class only; without it, tenants that have none.
    pub(in crate::config) residency: Option<String>,
}

/// A range of hashes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawRange {
    /// The last hash of the range, 16 hexadecimal digits; that of the last range is `ffffffffffffffff`.
    pub(in crate::config) last: String,
    /// Who has it.
    pub(in crate::config) shard: String,
}

/// Where a tenant is that no rule says right.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawPlace {
    /// What may be done with its data (open).
    #[serde(default)]
    pub(in crate::config) access: RawAccess,
    /// How often it was placed; each move makes it one more.
    #[schemars(range(min = 1))]
    pub(in crate::config) placement: u32,
    /// On which shard it is.
    pub(in crate::config) shard: String,
}

/// What may be done with a tenant's data.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum RawAccess {
    /// It is read; writes wait for the end of a move.
    Held,
    /// It is read and written.
    #[default]
    Open,
    /// Nothing.
    Suspended,
}
