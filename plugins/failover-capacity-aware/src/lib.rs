//! `failover-capacity-aware`: as `failover-conservative`, and a region's traffic goes elsewhere only as far as there is room. The same as
//! the policy `capacity-aware` that is built in.

use portolan_plugin::{Answers, Failover, Refusal, Regions, export};
use serde::Deserialize;

/// The configuration: there is nothing to configure.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {}

/// The policy.
#[derive(Debug)]
pub struct CapacityAware;

impl Failover for CapacityAware {
    type Config = Config;

    fn propose(_: Config, regions: &Regions, answers: &mut Answers) -> Result<(), Refusal> {
        answers.move_on(regions, |_| false)?;
        answers.lead_away(regions, |region, target| fits(regions, region, target))
    }
}

/// How much of a region's traffic there is room for, in percent. What goes there already counts once.
fn fits(regions: &Regions, region: &str, target: &str) -> u32 {
    let held = regions.detour(region).filter(|detour| detour.target == target);
    let held = held.map_or(0, |detour| regions.load_part(region, detour.percent));
    let spare = regions.spare(target).saturating_add(held);
    let percent = spare.saturating_mul(100).checked_div(regions.load_part(region, 100)).unwrap_or(100);
    u32::try_from(percent.min(100)).unwrap_or(100)
}

export!(CapacityAware, failover, schema = "config.schema.json");

#[cfg(test)]
mod tests {
    use portolan_plugin::testing::Outage;

    use super::*;

    #[test]
    fn no_more_traffic_leaves_than_fits() {
        // 800 of 1,000 may be used, and 300 are.
        let outage = Outage::new(&["us", "eu"]).load("us", 300).load("eu", 1_000).down("eu");
        assert_eq!(outage.propose::<CapacityAware>("{}").unwrap(), ["shift 50 % of eu to us"]);
        let half = outage.clone().detour("eu", "us", 50).propose::<CapacityAware>("{}").unwrap();
        assert_eq!(half, ["shift 50 % of eu to us"], "what is there already counts once");
        assert_eq!(outage.load("eu", 0).propose::<CapacityAware>("{}").unwrap(), ["shift 100 % of eu to us"]);
    }
}
