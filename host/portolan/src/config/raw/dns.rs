//! Which names lead to which regions, as it is written.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

/// Which names lead to which regions. Nodes with `[listen] dns` answer them; other servers are kept up to date.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawDns {
    /// Answers over UDP that one network is sent in a second (1000); whoever asks more is told to come by TCP.
    pub(in crate::config) answers_per_second: Option<NonZeroU32>,
    /// Zones of yours at a provider that are kept up to date. Weaker than `push`: no provider compares the plan's number in a change.
    #[serde(default)]
    pub(in crate::config) cloud: Vec<RawCloud>,
    /// Which regions are near to which networks, the nearest first, for names with `nearest = true`.
    #[serde(default)]
    pub(in crate::config) near: Vec<RawNear>,
    /// Servers of yours that are kept up to date (RFC 2136).
    #[serde(default)]
    pub(in crate::config) push: Vec<RawPush>,
    /// Servers of yours that take whole zones from here (AXFR), and are told when to.
    #[serde(default)]
    pub(in crate::config) secondary: Vec<RawSecondary>,
    /// Zones by name.
    pub(in crate::config) zone: BTreeMap<String, RawZone>,
}

/// A zone at a provider.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawCloud {
    /// The file of keys, which nobody else may read and which is read anew each time: for Route 53 `aws_access_key_id = ...` and
    /// `aws_secret_access_key = ...`, and `aws_session_token = ...` of temporary ones; for Cloudflare a token.
    pub(in crate::config) credentials: PathBuf,
    /// Another place of the API than the provider's own.
    pub(in crate::config) endpoint: Option<String>,
    /// The zone's id at the provider.
    pub(in crate::config) id: String,
    /// Whose it is.
    pub(in crate::config) provider: RawProvider,
    /// The zone.
    pub(in crate::config) zone: String,
}

/// A provider.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(in crate::config) enum RawProvider {
    /// Cloudflare.
    Cloudflare,
    /// Amazon Route 53.
    Route53,
}

/// The regions that are near to a network.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawNear {
    /// The network.
    pub(in crate::config) network: String,
    /// The regions, the nearest first.
    pub(in crate::config) regions: Vec<String>,
}

/// A server that takes updates.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawPush {
    /// The file of the key that updates are signed with, as `tsig-keygen` makes it.
    pub(in crate::config) key: PathBuf,
    /// The server.
    pub(in crate::config) server: SocketAddr,
    /// The zone.
    pub(in crate::config) zone: String,
}

/// A server that takes zones.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawSecondary {
    /// The network that it comes from.
    pub(in crate::config) from: String,
    /// The file of the key that both sign with.
    pub(in crate::config) key: PathBuf,
    /// Where it is told of news; without it, it asks by itself.
    pub(in crate::config) notify: Option<SocketAddr>,
}

/// A zone.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawZone {
    /// The file of the key that it is signed with (DNSSEC), the same in all regions; `portolan dns key` makes one.
    pub(in crate::config) key: Option<PathBuf>,
    /// Whom to write to, as a name: `hostmaster.example.net` for hostmaster@example.net; `hostmaster` within the zone when absent.
    pub(in crate::config) mailbox: Option<String>,
    /// Names that lead to regions.
    pub(in crate::config) name: BTreeMap<String, RawName>,
    /// The zone's name servers, with their addresses where they lie within it.
    pub(in crate::config) name_servers: BTreeMap<String, Vec<IpAddr>>,
    /// How long it may be kept that there is nothing, in seconds (30).
    #[schemars(range(min = 1, max = 30))]
    pub(in crate::config) negative_ttl: Option<u32>,
}

/// A name.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawName {
    /// Each region's addresses for this name; those of `[region.*] addresses` when absent.
    pub(in crate::config) addresses: Option<BTreeMap<String, Vec<IpAddr>>>,
    /// How many addresses an answer has, one or two (1).
    #[schemars(range(min = 1, max = 2))]
    pub(in crate::config) answers: Option<u8>,
    /// The region that is nearest to the client answers.
    #[serde(default)]
    pub(in crate::config) nearest: bool,
    /// The first of these regions that is in answers.
    #[serde(default)]
    pub(in crate::config) order: Vec<String>,
    /// The longest that an answer may be kept, in seconds (60).
    #[schemars(range(min = 5, max = 300))]
    pub(in crate::config) ttl_max: Option<u32>,
    /// The shortest, in seconds (5).
    #[schemars(range(min = 5, max = 300))]
    pub(in crate::config) ttl_min: Option<u32>,
    /// How often each region answers; equally when nothing is said.
    #[serde(default)]
    pub(in crate::config) weights: BTreeMap<String, u32>,
}
