//! What becomes of shards when their region fails.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use portolan_control::Engine;
use portolan_core::ids::RegionName;

use super::{Builder, PolicySlot, RegionConfig};
use crate::config::raw::{RawFailover, RawPolicy, RawProfile};

/// Policies that are always there.
pub(crate) const NATIVE: [&str; 4] = ["capacity-aware", "conservative", "fast", "manual"];
/// The one that proposes where no other is named.
const USUAL: &str = "conservative";
/// Regions that can decide of one of theirs: two others agree on its death, and a control store has a voter in each.
const REGIONS_MIN: usize = 3;
/// Regions that look at each other.
const REGIONS_MAX: usize = 9;

/// Who proposes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum FailoverPolicy {
    /// A component.
    Component(PolicySlot),
    /// One of [`NATIVE`].
    Native(&'static str),
}

impl FailoverPolicy {
    /// The component, where it is one.
    pub(crate) const fn component(&self) -> Option<&PolicySlot> {
        match self {
            Self::Component(slot) => Some(slot),
            Self::Native(_) => None,
        }
    }
}

/// What becomes of shards when their region fails.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FailoverConfig {
    pub(crate) failback: bool,
    pub(crate) failsafe: bool,
    pub(crate) fast: bool,
    pub(crate) policy: FailoverPolicy,
}

impl Builder<'_> {
    pub(super) fn failover(&mut self, raw: RawFailover) -> Option<FailoverConfig> {
        let name = raw.policy.unwrap_or_else(|| USUAL.to_owned());
        let native = NATIVE.into_iter().find(|native| *native == name);
        let policy = match native {
            Some(native) => {
                if raw.version.is_some() || !raw.config.is_empty() {
                    let help = "leave out `version` and `config`, or name a component";
                    self.problem(&["failover", "policy"], format!("`{native}` is built in"), help);
                }
                FailoverPolicy::Native(native)
            }
            None => {
                let (config, version) = (raw.config, raw.version);
                let raw = RawPolicy { config, dynamic_granted: false, on_fail: None, name, version };
                FailoverPolicy::Component(self.policy(&["failover"], raw)?)
            }
        };
        let fast = raw.profile == Some(RawProfile::Fast);
        Some(FailoverConfig { failback: raw.failback, failsafe: raw.failsafe, fast, policy })
    }

    /// Is everything there that deciding about regions rests on?
    pub(super) fn check_failover(
        &mut self,
        regions: &BTreeMap<RegionName, RegionConfig>,
        control: Option<&Engine>,
        has_identity: bool,
    ) {
        let at = ["failover"];
        match control {
            None => {
                let help = "add `[control]`: leases of regions are there";
                self.problem(&at, "failover needs a control store", help);
            }
            Some(Engine::Sqlite(_)) => {
                let hosts: BTreeSet<&str> = regions
                    .values()
                    .flat_map(|region| region.gateways.iter().chain(&region.replication))
                    .map(|at| at.host.as_str())
                    .collect();
                let near = |host: &&str| {
                    **host == *"localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
                };
                if let Some(host) = hosts.iter().find(|host| !near(host)) {
                    let what = format!(
                        "a control store in a file is of one machine, and a region is at `{host}`: with that machine, all regions would be without it"
                    );
                    self.problem(
                        &["control"],
                        what,
                        "use `[control.etcd]`, with one voter in each of three regions",
                    );
                }
            }
            Some(_) => {}
        }
        if !has_identity {
            let help = "add `[peer]`: regions tell each other what they see";
            self.problem(&at, "failover needs this node's identity", help);
        }
        if regions.len() < REGIONS_MIN {
            let help = "declare three, of which one may keep no shard: two alone cannot tell a dead region from a cut link";
            self.problem(&at, format!("{} regions cannot decide of one of theirs", regions.len()), help);
        }
        if regions.len() > REGIONS_MAX {
            let what = format!("{} regions would all look at each other", regions.len());
            self.problem(&at, what, format!("declare at most {REGIONS_MAX}"));
        }
        for (name, region) in regions {
            for (key, none) in
                [("gateways", region.gateways.is_empty()), ("replication", region.replication.is_empty())]
            {
                if none {
                    let what = format!("region `{name}` cannot be looked at without `{key}`");
                    let help = "write `host:port` of each of its nodes";
                    self.problem(&["region", name.as_str(), key], what, help);
                }
            }
        }
    }
}
