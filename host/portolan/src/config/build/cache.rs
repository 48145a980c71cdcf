//! What is kept of applications' answers.

use std::path::Path;
use std::time::Duration;

use portolan_cache::{Config, DiskConfig, Rules};
use portolan_core::ids::PoolName;

use super::Builder;
use crate::config::raw::RawCache;

/// Bytes in memory.
const MEMORY_BYTES: u64 = 256 << 20;
/// Bytes of one answer: it takes a sixteenth of the memory at most.
const OBJECT_BYTES: u64 = 16 << 20;
/// An application that has not begun to answer by then is asked by each request itself.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
/// A page that is missing, or broken, and comes back is seen after that time, whatever its error said.
const NEGATIVE: Duration = Duration::from_secs(300);
/// A response that nobody gave a lifetime is fresh for a day at most (RFC 9111, section 4.2.2).
const HEURISTIC_MAX_S: u64 = 86_400;

impl Builder<'_> {
    pub(super) fn cache(&mut self, raw: RawCache, state: &Path) -> Config {
        let mut pools = std::collections::BTreeSet::new();
        for (index, name) in raw.pools.iter().enumerate() {
            pools.extend(self.name(&["cache", "pools", &index.to_string()], name, PoolName::new));
        }
        if raw.pools.is_empty() {
            self.problem(&["cache", "pools"], "no pool is named", "write `pools = [\"app\"]`");
        }
        let memory_bytes = raw.memory_bytes.unwrap_or(MEMORY_BYTES);
        let object_bytes_max = raw.object_bytes.unwrap_or_else(|| OBJECT_BYTES.min(memory_bytes / 16));
        if object_bytes_max > memory_bytes / 16 {
            self.problem(
                &["cache", "object_bytes"],
                format!("{object_bytes_max} bytes are more than a sixteenth of the memory"),
                format!("write {} at most, or give the cache more `memory_bytes`", memory_bytes / 16),
            );
        }
        let folder = raw.folder.map_or_else(|| state.join("cache"), |folder| self.folder.join(folder));
        let disk = raw.disk_bytes.filter(|bytes| *bytes > 0).map(|bytes| DiskConfig { bytes, folder });
        let negative = self.time(&["cache", "negative"], raw.negative).unwrap_or(NEGATIVE);
        let stale_if_error = self.time(&["cache", "stale_if_error"], raw.stale_if_error).unwrap_or_default();
        Config {
            disk,
            lock_timeout: self.time(&["cache", "lock_timeout"], raw.lock_timeout).unwrap_or(LOCK_TIMEOUT),
            memory_bytes,
            object_bytes_max,
            pools,
            rules: Rules {
                cookies: raw.cookies,
                heuristic_max_s: HEURISTIC_MAX_S,
                heuristic_percent: raw.heuristic_percent.map_or(0, u64::from),
                negative_max_s: negative.as_secs(),
                stale_if_error_s: stale_if_error.as_secs(),
            },
        }
    }
}
