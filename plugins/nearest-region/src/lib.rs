//! `nearest-region`: each client goes to the region nearest to it, and on to the next nearest when that one fails.
//!
//! Near is what the gateway measures between regions. A client whose region is not known is treated as if it were where
//! its request came in. Regions in trouble come last; those that cannot take a request are skipped by the gateway.

use portolan_plugin::{Answer, Draft, Facts, Policy, Refusal, export};
use serde::Deserialize;

/// The configuration; `config.schema.json` says the same to tools.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The pool that every region has under the same name.
    pub pool: String,
}

/// The policy.
#[derive(Debug)]
pub struct NearestRegion;

impl Policy for NearestRegion {
    type Config = Config;

    fn plan(config: Config, facts: &Facts, draft: &mut Draft) -> Result<(), Refusal> {
        let regions = facts.regions_with(&config.pool);
        if regions.is_empty() {
            return Err(Refusal::value(format!("no region has a pool `{}`", config.pool)));
        }
        let order = |origin: &str, draft: &mut Draft| -> Result<Vec<Answer>, Refusal> {
            let near = facts.nearest_first(origin, regions.clone());
            near.iter().map(|region| draft.forward(region, &config.pool)).collect()
        };
        for origin in facts.regions() {
            let answers = order(&origin, draft)?;
            draft.rule().is("client.region", &origin).named(format!("near-{origin}")).first_of(answers)?;
        }
        let answers = order(&facts.local_region(), draft)?;
        draft.rule().named("local").first_of(answers)?;
        Ok(())
    }
}

export!(NearestRegion, schema = "config.schema.json");

#[cfg(test)]
mod tests {
    use portolan_plugin::testing::{Request, World};

    use super::*;

    fn world() -> World {
        World::new("eu-west")
            .region("eu-west", &["web"])
            .region("eu-central", &["web"])
            .region("us-east", &["web", "batch"])
            .latency_us("eu-west", "eu-central", 20_000)
            .latency_us("eu-west", "us-east", 80_000)
            .latency_us("eu-central", "us-east", 95_000)
    }

    fn route(world: &World, region: Option<&str>) -> Vec<String> {
        let plan = world.plan::<NearestRegion>(r#"{"pool": "web"}"#).unwrap();
        let request = Request::get("/");
        plan.route(&region.map_or(request.clone(), |region| request.with("client.region", region)))
    }

    #[test]
    fn clients_go_to_their_nearest_region_first() {
        assert_eq!(route(&world(), Some("us-east")), ["us-east/web", "eu-west/web", "eu-central/web"]);
        assert_eq!(route(&world(), Some("eu-central")), ["eu-central/web", "eu-west/web", "us-east/web"]);
        assert_eq!(route(&world(), None), ["eu-west/web", "eu-central/web", "us-east/web"]);
        assert_eq!(route(&world(), Some("ap-south")), ["eu-west/web", "eu-central/web", "us-east/web"]);
    }

    #[test]
    fn a_region_in_trouble_comes_last() {
        let world = world().down("eu-west");
        assert_eq!(route(&world, Some("eu-west")), ["eu-central/web", "us-east/web", "eu-west/web"]);
    }

    #[test]
    fn regions_without_the_pool_are_left_out_and_a_pool_nobody_has_is_refused() {
        let plan = world().plan::<NearestRegion>(r#"{"pool": "batch"}"#).unwrap();
        assert_eq!(plan.route(&Request::get("/")), ["us-east/batch"]);
        let refused = world().plan::<NearestRegion>(r#"{"pool": "nowhere"}"#).unwrap_err();
        assert!(refused.message.contains("no region has a pool `nowhere`"));
        assert!(world().plan::<NearestRegion>(r#"{"pool": "web", "extra": 1}"#).is_err());
    }
}
