//! Made-up facts, as an author writes them down.

use std::collections::{BTreeMap, BTreeSet};

use portolan_core::facts::{Facts, RegionFacts, Verdict};
use portolan_core::ids::{PoolName, RegionName, ResidencyName};
use serde::{Deserialize, Serialize};

use super::NOW_MS;
use crate::error::printable;

/// Made-up facts. None at all stand for one region `local` with the pool `web`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct World {
    /// Where the node stands; the first region when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<String>,
    /// By name.
    #[serde(default)]
    pub regions: BTreeMap<String, Region>,
    /// Microseconds between two regions, in both directions unless the other one is named too.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub latency_us: BTreeMap<String, BTreeMap<String, u32>>,
    /// Regions of each class.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub residencies: BTreeMap<String, Vec<String>>,
    /// When the plan is made, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now_ms: Option<u64>,
    /// The plan's random number; 1 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

/// A region of a [`World`]: its pools, or more.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(untagged)]
pub enum Region {
    /// A healthy one with these pools.
    Pools(Vec<String>),
    /// All that can be said.
    Full {
        /// Its pools.
        pools: Vec<String>,
        /// `unknown`, `healthy`, `suspect`, `down` or `draining`.
        verdict: String,
    },
}

impl World {
    /// The facts that a policy is given.
    ///
    /// # Errors
    /// The reason, when a name is none, or a verdict is not known.
    pub fn facts(&self) -> Result<Facts, String> {
        let mut regions = BTreeMap::new();
        for (name, facts) in &self.regions {
            regions.insert(region(name)?, facts.facts()?);
        }
        if regions.is_empty() {
            let pools = BTreeSet::from([pool("web")?]);
            regions.insert(region("local")?, RegionFacts { pools, verdict: Verdict::Healthy });
        }
        let local = match &self.local {
            Some(name) => region(name)?,
            None => regions.keys().next().cloned().ok_or("there is no region")?,
        };
        if !regions.contains_key(&local) {
            return Err(format!("`local` is `{local}`, which is none of the regions"));
        }
        let mut latency_us = BTreeMap::new();
        for (from, targets) in &self.latency_us {
            for (to, &latency) in targets {
                let (from, to) = (region(from)?, region(to)?);
                latency_us.entry((to.clone(), from.clone())).or_insert(latency);
                latency_us.insert((from, to), latency);
            }
        }
        let mut residencies = BTreeMap::new();
        for (class, allowed) in &self.residencies {
            let allowed = allowed.iter().map(|name| region(name)).collect::<Result<_, _>>()?;
            residencies.insert(ResidencyName::new(class).map_err(|error| error.to_string())?, allowed);
        }
        let (now_ms, seed) = (self.now_ms.unwrap_or(NOW_MS), self.seed.unwrap_or(1));
        Ok(Facts { local, latency_us, now_ms, regions, residencies, seed })
    }
}

impl Region {
    fn facts(&self) -> Result<RegionFacts, String> {
        let (pools, verdict) = match self {
            Self::Pools(pools) => (pools, Verdict::Healthy.as_str()),
            Self::Full { pools, verdict } => (pools, verdict.as_str()),
        };
        let known = [Verdict::Unknown, Verdict::Healthy, Verdict::Suspect, Verdict::Down, Verdict::Draining];
        let found = known.into_iter().find(|known| known.as_str() == verdict).ok_or_else(|| {
            format!("`{}` is no verdict: unknown, healthy, suspect, down or draining", printable(verdict, 32))
        })?;
        let pools = pools.iter().map(|name| pool(name)).collect::<Result<_, _>>()?;
        Ok(RegionFacts { pools, verdict: found })
    }
}

fn region(name: &str) -> Result<RegionName, String> {
    RegionName::new(name).map_err(|error| error.to_string())
}

fn pool(name: &str) -> Result<PoolName, String> {
    PoolName::new(name).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_world_becomes_facts() {
        let world: World = serde_json::from_str(
            r#"{"local": "us", "regions": {"eu": ["web"], "us": {"pools": [], "verdict": "down"}},
                "latency_us": {"us": {"eu": 80000}}, "residencies": {"gdpr": ["eu"]}}"#,
        )
        .unwrap();
        let facts = world.facts().unwrap();
        let (eu, us) = (RegionName::new("eu").unwrap(), RegionName::new("us").unwrap());
        assert_eq!((facts.local.as_str(), facts.regions[&us].verdict), ("us", Verdict::Down));
        assert_eq!(facts.latency_us[&(eu, us)], 80_000);
        assert_eq!(World::default().facts().unwrap().local.as_str(), "local");
    }
}
