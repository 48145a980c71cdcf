//! `failover-conservative`: the most advanced replica of each shard whose region is gone is promoted, what cannot be promoted is read
//! only, and the region's traffic goes to whoever has most room. The same as the policy `conservative` that is built in.

use portolan_plugin::{Answers, Failover, Refusal, Regions, export};
use serde::Deserialize;

/// The configuration: there is nothing to configure.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {}

/// The policy.
#[derive(Debug)]
pub struct Conservative;

impl Failover for Conservative {
    type Config = Config;

    fn propose(_: Config, regions: &Regions, answers: &mut Answers) -> Result<(), Refusal> {
        answers.move_on(regions, |_| false)?;
        answers.lead_away(regions, |_, _| 100)
    }
}

export!(Conservative, failover, schema = "config.schema.json");

#[cfg(test)]
mod tests {
    use portolan_plugin::testing::Outage;

    use super::*;

    fn outage() -> Outage {
        Outage::new(&["us", "eu", "ap"]).shard("a", "eu", &[("us", 0), ("ap", 7)]).shard(
            "b",
            "us",
            &[("eu", 0)],
        )
    }

    #[test]
    fn what_is_gone_is_promoted_and_nothing_else() {
        assert_eq!(outage().propose::<Conservative>("{}").unwrap(), [""; 0]);
        let gone = outage().down("eu").propose::<Conservative>("{}").unwrap();
        assert_eq!(gone, ["promote a in us", "shift 100 % of eu to us"]);
        assert_eq!(outage().gray("eu").propose::<Conservative>("{}").unwrap(), [""; 0]);
    }

    #[test]
    fn what_would_lose_too_much_is_read_only() {
        let outage = Outage::new(&["us", "eu", "ap"]).shard("a", "eu", &[("ap", 7)]).down("eu");
        let told = outage.propose::<Conservative>("{}").unwrap();
        assert_eq!(told.first().map(String::as_str), Some("read-only a"));
        let told = outage.loss_rows(7).propose::<Conservative>("{}").unwrap();
        assert_eq!(told.first().map(String::as_str), Some("promote a in ap"));
    }
}
