//! `{{name}}`: a policy of portolan that says what to do when regions fail.

use portolan_plugin::{Answers, Failover, Level, Refusal, Regions, export, log};
use serde::Deserialize;

/// What the operator configures; `config.schema.json` says the same to tools.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Regions that traffic of others goes to only when no other can take it.
    pub avoid: Vec<String>,
}

/// The policy.
#[derive(Debug)]
pub struct MyPolicy;

impl Failover for MyPolicy {
    type Config = Config;

    fn propose(config: Config, regions: &Regions, answers: &mut Answers) -> Result<(), Refusal> {
        // Shards: the most advanced replica takes over, and what nobody can take over is read only.
        answers.move_on(regions, |_| false)?;
        // Traffic: of regions that are gone, or that an operator drains.
        for region in regions.all() {
            if !region.is_drained && !regions.is_gone(&region.name) {
                continue;
            }
            match target(&config, regions, &region.name) {
                Some(target) => answers.shift(&region.name, &target, 100)?,
                None => log(Level::Warning, &format!("no region can take the traffic of {}", region.name)),
            }
        }
        Ok(())
    }
}

/// Whoever has most room, of those that are not avoided if there are any. Traffic stays where it goes already.
fn target(config: &Config, regions: &Regions, from: &str) -> Option<String> {
    if let Some(detour) = regions.detour(from).filter(|detour| regions.is_fit(&detour.target)) {
        return Some(detour.target.clone());
    }
    let fit = regions.all().iter().filter(|region| region.name != from && regions.is_fit(&region.name));
    let best = fit.max_by_key(|region| (!config.avoid.contains(&region.name), regions.spare(&region.name)));
    best.map(|region| region.name.clone())
}

export!(MyPolicy, failover, schema = "../config.schema.json");

#[cfg(test)]
mod tests {
    use portolan_plugin::testing::Outage;

    use super::*;

    #[test]
    fn traffic_goes_where_it_is_not_avoided_while_there_is_a_choice() {
        let outage = Outage::new(&["us", "eu", "ap"]).shard("a", "eu", &[("us", 0)]).down("eu");
        let told = outage.propose::<MyPolicy>(r#"{"avoid": ["us"]}"#).unwrap();
        assert_eq!(told, ["promote a in us", "shift 100 % of eu to ap"]);
        let told = outage.down("ap").propose::<MyPolicy>(r#"{"avoid": ["us"]}"#).unwrap();
        assert_eq!(told, ["promote a in us", "shift 100 % of ap to us", "shift 100 % of eu to us"]);
    }
}
