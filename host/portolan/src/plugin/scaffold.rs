//! `SCAFFOLD`: a routing policy of portolan.

use portolan_plugin::{Draft, Facts, Policy, Refusal, export};
use serde::Deserialize;

/// What the operator configures; `config.schema.json` says the same to tools.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The pool.
    pub pool: String,
}

/// The policy.
#[derive(Debug)]
pub struct MyPolicy;

impl Policy for MyPolicy {
    type Config = Config;

    fn plan(config: Config, facts: &Facts, draft: &mut Draft) -> Result<(), Refusal> {
        let regions = facts.nearest_first(&facts.local_region(), facts.regions_with(&config.pool));
        let mut answers = Vec::new();
        for region in &regions {
            answers.push(draft.forward(region, &config.pool)?);
        }
        draft.rule().named("everything").first_of(answers)?;
        Ok(())
    }
}

export!(MyPolicy, schema = "config.schema.json");

#[cfg(test)]
mod tests {
    use portolan_plugin::testing::{Request, World};

    use super::*;

    #[test]
    fn requests_stay_here_while_they_can() {
        let world = World::new("eu").region("eu", &["web"]).region("us", &["web"]);
        let plan = world.plan::<MyPolicy>(r#"{"pool": "web"}"#).unwrap();
        assert_eq!(plan.route(&Request::get("/")), ["eu/web", "us/web"]);
    }
}
