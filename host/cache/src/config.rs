//! What a cache is made with.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use portolan_core::ids::PoolName;

use crate::policy::Rules;

/// A cache of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where resources outlive the process, and how many bytes may lie there; `None` for memory alone.
    pub disk: Option<DiskConfig>,
    /// How long a request waits for the same one of another client before it goes on by itself.
    pub lock_timeout: Duration,
    /// Bytes of resources in memory.
    pub memory_bytes: u64,
    /// Bytes of one response; a larger one passes through.
    pub object_bytes_max: u64,
    /// The pools whose answers are stored.
    pub pools: BTreeSet<PoolName>,
    /// What may be done where origins do not say.
    pub rules: Rules,
}

/// A folder for a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskConfig {
    /// Bytes of its files.
    pub bytes: u64,
    /// The cache's own folder: what else lies there is removed.
    pub folder: PathBuf,
}
