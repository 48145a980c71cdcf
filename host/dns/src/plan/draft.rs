//! What a plan is made of, as it is written down. All maps are sorted, so that what says the same has the same digest.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use portolan_core::ids::RegionName;
use serde::{Deserialize, Serialize};

use crate::name::Name;

/// A plan before it is checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Draft {
    /// Its number, minted by the control store: one more than the one before, never used twice.
    pub number: u64,
    /// The regions, and which of them take part.
    pub regions: BTreeMap<RegionName, RegionDraft>,
    /// Which regions are near to whom, for names that are answered by geography.
    #[serde(default)]
    pub geography: Vec<Near>,
    /// The zones that are answered for.
    pub zones: BTreeMap<Name, ZoneDraft>,
}

/// A region's part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegionDraft {
    /// Does it take part?
    pub state: State,
    /// Until when that cannot change, in milliseconds since 1970: the end of a hold-down or of a maintenance. Unknown when absent.
    #[serde(default)]
    pub steady_until_ms: Option<u64>,
}

/// Does a region take part?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It takes clients.
    In,
    /// It still serves, but takes new clients only where no other region is in.
    Draining,
    /// It takes nobody.
    Out,
}

/// The regions that are near to a network, the nearest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Near {
    /// The network.
    pub prefix: IpNet,
    /// The regions.
    pub regions: Vec<RegionName>,
}

/// A zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZoneDraft {
    /// Whom to write to, as a name: `hostmaster.example` for `hostmaster@example`.
    pub mailbox: Name,
    /// The zone's name servers, with their addresses where they lie within the zone. The first of those is told to be the primary.
    pub name_servers: BTreeMap<Name, Vec<IpAddr>>,
    /// How long "there is nothing" may be kept, in seconds.
    pub negative_ttl_s: u32,
    /// The managed names.
    pub names: BTreeMap<Name, NameDraft>,
}

/// A managed name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NameDraft {
    /// How a region is chosen.
    pub policy: Policy,
    /// How many addresses an answer has: one, or two in order, the second of another region where there is one.
    #[serde(default = "one")]
    pub answers: u8,
    /// Each region's addresses. Either all regions have addresses of a family, or none has.
    pub addresses: BTreeMap<RegionName, Vec<IpAddr>>,
    /// The regions that were last in: who answers when none is.
    #[serde(default)]
    pub last_good: BTreeSet<RegionName>,
    /// How long an answer may be kept.
    pub ttl: TtlBounds,
}

/// How a region is chosen among those that take part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Policy {
    /// By a hash of the client's network, as often as the weights say. A region of weight 0 answers where no other of these is in.
    Weighted(BTreeMap<RegionName, u32>),
    /// The first that is in.
    Ordered(Vec<RegionName>),
    /// The nearest to the client, by the plan's geography; by a hash where that says nothing.
    Nearest,
}

/// How long an answer may be kept, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TtlBounds {
    /// The shortest; also while a region that answers is suspected.
    pub min_s: u32,
    /// The longest; while nothing says how soon a region's state could change.
    pub max_s: u32,
}

const fn one() -> u8 {
    1
}

impl ZoneDraft {
    /// The name server that is told to be the primary: the first within the zone, else the first. None without any.
    pub(super) fn primary(&self, origin: &Name) -> Option<&Name> {
        let mut servers = self.name_servers.keys();
        servers.clone().find(|server| origin.covers(server)).or_else(|| servers.next())
    }
}

impl Draft {
    /// Takes from the plan before who was last in, for names whose regions are all out in this one.
    pub fn remember(&mut self, before: &Self) {
        let of = |draft: &Self, zone: &Name, name: &Name| {
            draft.zones.get(zone).and_then(|zone| zone.names.get(name)).cloned()
        };
        let is_in = |draft: &Self, region: &RegionName| {
            draft.regions.get(region).is_some_and(|region| region.state == State::In)
        };
        let regions = &self.regions;
        for (zone, draft) in &mut self.zones {
            for (name, managed) in &mut draft.names {
                let now = |region: &&RegionName| {
                    regions.get(*region).is_some_and(|region| region.state == State::In)
                };
                let present: BTreeSet<RegionName> = managed.addresses.keys().filter(now).cloned().collect();
                if !present.is_empty() {
                    managed.last_good = present;
                    continue;
                }
                let Some(earlier) = of(before, zone, name) else { continue };
                let were: BTreeSet<RegionName> =
                    earlier.addresses.keys().filter(|region| is_in(before, region)).cloned().collect();
                let last = if were.is_empty() { earlier.last_good } else { were };
                managed.last_good =
                    last.into_iter().filter(|region| managed.addresses.contains_key(region)).collect();
            }
        }
    }
}
