//! The cache as it is written.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

/// Answers that are kept. Only origins make them cacheable, by Cache-Control, CDN-Cache-Control or Expires.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawCache {
    /// Keep answers that set cookies, and answers to requests with cookies, although their origin does not say by `public`, `s-maxage` or
    /// `CDN-Cache-Control` that they are for all (false).
    #[serde(default)]
    pub(in crate::config) cookies: bool,
    /// Bytes on disk; 0 for memory alone (0).
    pub(in crate::config) disk_bytes: Option<u64>,
    /// The folder for them, which is the cache's own; `cache` in the state folder when absent.
    pub(in crate::config) folder: Option<PathBuf>,
    /// How long an answer without a lifetime is fresh, in percent of the time since its Last-Modified (0).
    #[schemars(range(min = 0, max = 100))]
    pub(in crate::config) heuristic_percent: Option<u8>,
    /// How long a request waits for the same one of another client (5s).
    pub(in crate::config) lock_timeout: Option<String>,
    /// Bytes in memory (268435456).
    #[schemars(range(min = 1_048_576))]
    pub(in crate::config) memory_bytes: Option<u64>,
    /// The longest time that errors are kept, where their origin wants them kept at all (5m).
    pub(in crate::config) negative: Option<String>,
    /// Bytes of the largest answer that is kept (16777216).
    #[schemars(range(min = 1_024))]
    pub(in crate::config) object_bytes: Option<u64>,
    /// The pools whose answers are kept.
    #[schemars(length(min = 1))]
    pub(in crate::config) pools: Vec<String>,
    /// How long a stale answer stands in for an application that fails, where that does not say it itself. Nothing stands in when absent.
    pub(in crate::config) stale_if_error: Option<String>,
}
