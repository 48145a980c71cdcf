//! What becomes of shards when a region fails, as it is written.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

/// What becomes of shards when their region fails. Without this section people decide, with `portolan shard promote`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawFailover {
    /// The policy's configuration; the policy's own schema says what it may hold. Built-in policies have none.
    #[serde(default)]
    pub(in crate::config) config: BTreeMap<String, serde_json::Value>,
    /// May shards go back to their home by themselves, in an orderly way, once it is well again? (no)
    #[serde(default)]
    pub(in crate::config) failback: bool,
    /// Does a region go on writing while the control store is away, as long as every node of every other region acknowledges it? (no)
    #[serde(default)]
    pub(in crate::config) failsafe: bool,
    /// The policy that proposes what to do: built in are `conservative`, `fast`, `manual` and `capacity-aware`; another name is `NAME.wasm` in the
    /// folder of policies, or a bundled one (conservative).
    pub(in crate::config) policy: Option<String>,
    /// How fast regions are given up (default).
    pub(in crate::config) profile: Option<RawProfile>,
    /// The SHA-256 of a version that `portolan plugin push` put into the control store; `policy` is then the plugin's name.
    pub(in crate::config) version: Option<String>,
}

/// How fast regions are given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(in crate::config) enum RawProfile {
    /// Writes go on within about twelve seconds.
    Default,
    /// Within about eight, for regions that are near each other and links that are good.
    Fast,
}
