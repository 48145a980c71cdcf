//! Where addresses and regions are on earth, as it is written.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

/// Where addresses are on earth: what clients' countries and nearest regions are, where no proxy and no `client_network` says so.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawGeography {
    /// A table of countries or cities in MaxMind's format (.mmdb). It is read again when it is replaced; `portolan geography install`
    /// gets a free one.
    pub(in crate::config) file: PathBuf,
}

/// Where a region is. Its country alone is enough for its continent, and for about where it is.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawLocation {
    /// ISO 3166-1 alpha-2 code, such as `DE`.
    pub(in crate::config) country: Option<String>,
    /// In degrees, north of the equator; with `longitude`.
    #[schemars(range(min = -90, max = 90))]
    pub(in crate::config) latitude: Option<f64>,
    /// In degrees, east of Greenwich.
    #[schemars(range(min = -180, max = 180))]
    pub(in crate::config) longitude: Option<f64>,
}
