//! How requests are steered among regions, as it is written.

use schemars::JsonSchema;
use serde::Deserialize;

use super::RawBreaker;

/// How requests are steered among regions that their policies name.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawSteering {
    /// When forwarding to a region is given up for a while.
    #[serde(default)]
    pub(in crate::config) breaker: RawBreaker,
    /// Below so many percent of endpoints that are well, probes are not believed while no other region can take the traffic (50);
    /// 0 for never.
    #[schemars(range(min = 0, max = 100))]
    pub(in crate::config) panic_percent: Option<u8>,
    /// How long a region that recovered takes until it has all of its traffic again (30s).
    pub(in crate::config) ramp: Option<String>,
}
