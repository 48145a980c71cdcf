//! `failover-manual`: changes nothing. What operators force, drain or declare lost is done all the same. The same as the policy `manual`
//! that is built in.

use portolan_plugin::{Answers, Failover, Refusal, Regions, export};
use serde::Deserialize;

/// The configuration: there is nothing to configure.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {}

/// The policy.
#[derive(Debug)]
pub struct Manual;

impl Failover for Manual {
    type Config = Config;

    fn propose(_: Config, _: &Regions, answers: &mut Answers) -> Result<(), Refusal> {
        answers.hold()
    }
}

export!(Manual, failover, schema = "config.schema.json");

#[cfg(test)]
mod tests {
    use portolan_plugin::testing::Outage;

    use super::*;

    #[test]
    fn nothing_is_done() {
        let outage = Outage::new(&["us", "eu"]).shard("a", "eu", &[("us", 0)]).down("eu");
        assert_eq!(outage.propose::<Manual>("{}").unwrap(), ["hold"]);
        assert!(outage.propose::<Manual>(r#"{"speed": 9}"#).is_err());
    }
}
