//! `residency`: each tenant's requests stay inside its residency class, in the region nearest to where they came in; when
//! none of the class's regions is left, the answer is 451 (RFC 7725) and says so.
//!
//! The gateway keeps every request inside its tenant's class whatever a policy says; this one gives that rule its order
//! and its words. Requests of tenants without a class are left to the next slot.

use portolan_plugin::{Answer, Draft, Facts, Level, Policy, Refusal, export, log};
use serde::Deserialize;

/// The configuration; `config.schema.json` says the same to tools.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The pool.
    pub pool: String,
}

/// The policy.
#[derive(Debug)]
pub struct Residency;

impl Policy for Residency {
    type Config = Config;

    fn plan(config: Config, facts: &Facts, draft: &mut Draft) -> Result<(), Refusal> {
        let local = facts.local_region();
        let having = facts.regions_with(&config.pool);
        for class in facts.residencies() {
            let mut regions = facts.residency_regions(&class);
            regions.retain(|region| having.contains(region));
            if regions.is_empty() {
                log(Level::Warning, &format!("no region of class `{class}` has a pool `{}`", config.pool));
            }
            let near = facts.nearest_first(&local, regions);
            let mut answers: Vec<Answer> =
                near.iter().map(|region| draft.forward(region, &config.pool)).collect::<Result<_, _>>()?;
            let body = format!("No region of the residency class {class} can take this request now.\n");
            answers.push(draft.respond(451, "text/plain; charset=utf-8", &body)?);
            draft.rule().is("tenant.residency", &class).named(format!("class-{class}")).first_of(answers)?;
        }
        let next = draft.leave();
        draft.rule().named("no-class").split([(next, 1)])?;
        Ok(())
    }
}

export!(Residency, schema = "config.schema.json");

#[cfg(test)]
mod tests {
    use portolan_plugin::testing::{Request, World};

    use super::*;

    fn world() -> World {
        World::new("us-east")
            .region("eu-west", &["web"])
            .region("eu-central", &["web"])
            .region("us-east", &["web"])
            .residency("eu", &["eu-west", "eu-central"])
            .latency_us("us-east", "eu-west", 80_000)
            .latency_us("us-east", "eu-central", 95_000)
    }

    #[test]
    fn a_class_is_never_left_and_ends_in_451() {
        let plan = world().plan::<Residency>(r#"{"pool": "web"}"#).unwrap();
        let request = Request::get("/").with("tenant.residency", "eu");
        assert_eq!(plan.route(&request), ["eu-west/web", "eu-central/web", "451"]);
        assert_eq!(plan.rule(&request), Some("class-eu"));
        assert_eq!(plan.route(&Request::get("/")), ["next"]);
    }

    #[test]
    fn a_class_without_the_pool_answers_451_at_once_and_is_logged() {
        let world = world().residency("moon", &[]);
        let plan = world.plan::<Residency>(r#"{"pool": "web"}"#).unwrap();
        assert_eq!(plan.route(&Request::get("/").with("tenant.residency", "moon")), ["451"]);
        assert!(plan.lines.iter().any(|(level, text)| *level == 2 && text.contains("moon")));
    }
}
