//! `failover-fast`: as `failover-conservative`, and shards also leave a region that answers and does not do its work, as long as its
//! databases can be asked to stop. The same as the policy `fast` that is built in.

use portolan_plugin::{Answers, Failover, Health, Refusal, Region, Regions, export};
use serde::Deserialize;

/// The configuration: there is nothing to configure.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {}

/// The policy.
#[derive(Debug)]
pub struct Fast;

impl Failover for Fast {
    type Config = Config;

    fn propose(_: Config, regions: &Regions, answers: &mut Answers) -> Result<(), Refusal> {
        let gray = |region: &Region| region.health == Health::Gray && region.database;
        answers.move_on(regions, gray)?;
        answers.lead_away(regions, |_, _| 100)
    }
}

export!(Fast, failover, schema = "config.schema.json");

#[cfg(test)]
mod tests {
    use portolan_plugin::testing::Outage;

    use super::*;

    #[test]
    fn what_does_not_do_its_work_is_left() {
        let outage =
            Outage::new(&["us", "eu", "ap"]).shard("a", "eu", &[("us", 0)]).shard("b", "eu", &[("us", 9)]);
        assert_eq!(outage.propose::<Fast>("{}").unwrap(), [""; 0]);
        // `b` would lose something, and is written where it is.
        assert_eq!(outage.gray("eu").propose::<Fast>("{}").unwrap(), ["promote a in us"]);
    }
}
