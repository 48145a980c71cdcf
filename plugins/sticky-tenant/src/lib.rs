//! `sticky-tenant`: keeps each tenant in one region, spread evenly over the regions that have the pool.
//!
//! When a tenant's region cannot take its requests, they go to another one, the same for all of them; when a region is
//! added, only the tenants that move to it move. Requests without a tenant are left to the next slot.

use portolan_plugin::{Draft, Facts, Policy, Refusal, export};
use serde::Deserialize;

/// The configuration; `config.schema.json` says the same to tools.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The pool.
    pub pool: String,
    /// The regions to spread over; all that have the pool when absent.
    pub regions: Option<Vec<String>>,
}

/// The policy.
#[derive(Debug)]
pub struct StickyTenant;

impl Policy for StickyTenant {
    type Config = Config;

    fn plan(config: Config, facts: &Facts, draft: &mut Draft) -> Result<(), Refusal> {
        let regions = config.regions.unwrap_or_else(|| facts.regions_with(&config.pool));
        let mut to = Vec::new();
        for region in &regions {
            to.push((draft.forward(region, &config.pool)?, 1));
        }
        if to.is_empty() {
            return Err(Refusal::value(format!("no region has a pool `{}`", config.pool)));
        }
        draft.rule().has("tenant").sticky("tenant").named("sticky-tenant").split(to)?;
        let next = draft.leave();
        draft.rule().named("no-tenant").split([(next, 1)])?;
        Ok(())
    }
}

export!(StickyTenant, schema = "config.schema.json");

#[cfg(test)]
mod tests {
    use portolan_plugin::testing::{Request, World};

    use super::*;

    fn homes(world: &World) -> Vec<Vec<String>> {
        let plan = world.plan::<StickyTenant>(r#"{"pool": "web"}"#).unwrap();
        (0..300)
            .map(|number| plan.route(&Request::get("/").with("tenant", &format!("tenant-{number}"))))
            .collect()
    }

    #[test]
    fn tenants_spread_evenly_and_stay() {
        let world = World::new("a").region("a", &["web"]).region("b", &["web"]).region("c", &["web"]);
        let homes = homes(&world);
        for region in ["a/web", "b/web", "c/web"] {
            let count = homes.iter().filter(|home| home.first().is_some_and(|at| at == region)).count();
            assert!((60..140).contains(&count), "{region}: {count} of 300");
        }
        assert!(homes.iter().all(|home| home.len() == 3), "every region is a fall-back");
    }

    #[test]
    fn requests_without_a_tenant_are_left_to_the_next_slot() {
        let world = World::new("a").region("a", &["web"]);
        let plan = world.plan::<StickyTenant>(r#"{"pool": "web"}"#).unwrap();
        assert_eq!(plan.route(&Request::get("/")), ["next"]);
        assert!(world.plan::<StickyTenant>(r#"{"pool": "gone"}"#).is_err());
        let named = world.plan::<StickyTenant>(r#"{"pool": "web", "regions": ["nowhere"]}"#);
        assert_eq!(named.unwrap_err().code, 2);
    }
}
