//! Backups of shards: what is in one, how it is taken, looked at and put back.
//!
//! A backup is a follower on a disk. Its rows are one state of the shard, and after them comes the shard's log, so that putting it
//! back is following it: rows go through the same gate as a replica's, and the log is applied as far as is wanted, which is what
//! brings a shard back to a moment. It needs no superuser and no tool of the database, since nothing is read but declared tables and
//! portolan's own; it is the same for both engines; and a tenant can be taken out of it alone. What is in no declared table is not
//! in it.
//!
//! A backup *goes on* from another: it has the log from where the other ends, and no rows. All of them together, in
//! their order, are put back.
//!
//! A shard that was put back is another log than the one that was backed up, in an epoch of its own: who followed the old one, and
//! tokens of clients, notice.

mod folder;
mod put;
mod put_tenant;
mod sheet;
mod take;
mod verify;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use portolan_changelog::Head;
use portolan_core::ids::{Digest, RegionName, ShardName, TenantName};
use portolan_core::log::Position;
use serde::{Deserialize, Serialize};

pub use folder::{Folder, Opened};
pub use put::{Put, Putting, Until, put};
pub use put_tenant::{PutTenant, TenantPut, put_tenant};
pub use sheet::{Lines, Sheet};
pub use take::{From, Taking, take};
pub use verify::{Verified, verify};

/// The form of backups. A portolan reads its own and those before it.
pub const FORMAT: u32 = 1;
/// The file that says what is in a backup. It is written last: a folder without it is no backup.
pub const MANIFEST: &str = "manifest.json";

/// What is in a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Shards that another region writes: back them up there.
    pub elsewhere: Vec<ShardName>,
    /// All files but this one, by their paths within the folder.
    pub files: BTreeMap<String, FileSum>,
    /// Its form.
    pub format: u32,
    /// The generation of the control store that is in it; none without a control store.
    pub generation: Option<u64>,
    /// A number of its own.
    pub id: String,
    /// When it was begun, in milliseconds since 1970.
    pub made_at_ms: u64,
    /// The version of portolan that made it.
    pub portolan: String,
    /// The region that made it.
    pub region: RegionName,
    /// What is in it of each shard.
    pub shards: BTreeMap<ShardName, ShardPart>,
    /// The backup that this one goes on from.
    pub since: Option<String>,
    /// The tenant whom it is of alone.
    pub tenant: Option<TenantName>,
}

/// One file of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSum {
    /// How long it is.
    pub bytes: u64,
    /// How many lines it has; 0 for one that has none.
    pub lines: u64,
    /// The SHA-256 of it.
    pub sha256: Digest,
}

/// What is in a backup of one shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardPart {
    /// Was its database adopted? Then migrations alone do not make its tables.
    pub adopted: bool,
    /// The state that its rows are of; of a backup that goes on, the one of the first.
    pub head: Head,
    /// Which version of the tenants' schema it had when all was read.
    pub schema: u64,
    /// The last position of its log here.
    pub through: Position,
    /// The newest record when it was taken: a backup that goes on finds it, or records are missing between them.
    pub tip: Position,
    /// Its tables, those first that others refer to.
    pub tables: Vec<String>,
    /// All that was committed before this moment of the database's clock is in it, in microseconds since 1970.
    pub until_us: u64,
}

/// Why a backup is not taken, not good, or not put back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What is there is no backup, or not whole.
    #[error("{place}: {why}")]
    Bad {
        /// Which file or folder.
        place: String,
        /// What is wrong, and what to do.
        why: String,
    },
    /// A file.
    #[error("{place}: {source}")]
    File {
        /// Which.
        place: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// The database into which it is to be put is not fit for it.
    #[error("{0}")]
    Refused(String),
    /// The tenants' schema.
    #[error("make the tables: {0}")]
    Schema(#[from] crate::schema::Error),
    /// The database.
    #[error(transparent)]
    Store(#[from] portolan_changelog::Error),
}

/// Where the files of a shard are.
pub(crate) fn rows_file(shard: &ShardName, table: &str) -> String {
    format!("shards/{shard}/rows/{table}.ndjson.zst")
}

pub(crate) fn shard_file(shard: &ShardName, what: &str) -> String {
    format!("shards/{shard}/{what}.ndjson.zst")
}

#[cfg(test)]
mod tests;
