//! `weighted`: splits requests between pools and regions by percent.
//!
//! A share without a region stays where its request came in. Where a share cannot take a request, the others do, by their
//! weights. With `sticky`, requests with the same value of that attribute stay with one share.

use portolan_plugin::{Draft, Facts, Policy, Refusal, export};
use serde::Deserialize;

/// The configuration; `config.schema.json` says the same to tools.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Only paths below this one; all when absent.
    pub below: Option<String>,
    /// What the split is made of; the percents add up to 100.
    pub shares: Vec<Share>,
    /// The attribute whose values stay with one share, such as `cookie:session`.
    pub sticky: Option<String>,
}

/// One part of the split.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// The pool.
    pub pool: String,
    /// How much of the requests, 0 to 100. A share of 0 is used when no other can take a request.
    pub percent: u32,
    /// The region; the one where the request came in when absent.
    pub region: Option<String>,
}

/// The policy.
#[derive(Debug)]
pub struct Weighted;

impl Policy for Weighted {
    type Config = Config;

    fn plan(config: Config, facts: &Facts, draft: &mut Draft) -> Result<(), Refusal> {
        let sum: u32 = config.shares.iter().map(|share| share.percent.min(1_000)).sum();
        if sum != 100 {
            return Err(Refusal::value(format!("the percents of `shares` add up to {sum}, not to 100")));
        }
        let local = facts.local_region();
        let mut to = Vec::new();
        for share in &config.shares {
            to.push((draft.forward(share.region.as_deref().unwrap_or(&local), &share.pool)?, share.percent));
        }
        let mut rule = draft.rule().named("weighted");
        if let Some(path) = config.below {
            rule = rule.below(path);
        }
        if let Some(attribute) = config.sticky {
            rule = rule.sticky(attribute);
        }
        rule.split(to)?;
        Ok(())
    }
}

export!(Weighted, schema = "config.schema.json");

#[cfg(test)]
mod tests {
    use portolan_plugin::testing::{Request, World};

    use super::*;

    fn world() -> World {
        World::new("eu").region("eu", &["web", "web-next"]).region("us", &["web"])
    }

    #[test]
    fn requests_are_split_by_percent_and_the_others_are_fall_backs() {
        let config = r#"{"shares": [{"pool": "web", "percent": 90}, {"pool": "web-next", "percent": 10}]}"#;
        let plan = world().plan::<Weighted>(config).unwrap();
        let count = |target: &str| {
            (0..10_000)
                .filter(|seed| {
                    plan.route_seeded(&Request::get("/"), *seed).first().is_some_and(|at| at == target)
                })
                .count()
        };
        let next = count("eu/web-next");
        assert!((900..1_100).contains(&next), "{next} of 10000");
        assert_eq!(plan.route(&Request::get("/")).len(), 2);
    }

    #[test]
    fn a_sticky_value_stays_with_its_share() {
        let config = r#"{"shares": [{"pool": "web", "percent": 50}, {"pool": "web", "region": "us", "percent": 50}],
            "sticky": "cookie:session", "below": "/shop"}"#;
        let plan = world().plan::<Weighted>(config).unwrap();
        for session in ["a", "b", "c"] {
            let request = Request::get("/shop/cart").with("cookie:session", session);
            let first = plan.route_seeded(&request, 0);
            assert!((1..100).all(|seed| plan.route_seeded(&request, seed) == first));
        }
        assert!(plan.route(&Request::get("/other")).is_empty(), "left to the next slot");
    }

    #[test]
    fn percents_that_do_not_add_up_are_refused() {
        let refused =
            world().plan::<Weighted>(r#"{"shares": [{"pool": "web", "percent": 90}]}"#).unwrap_err();
        assert!(refused.message.contains("add up to 90"));
        assert!(world().plan::<Weighted>(r#"{"shares": []}"#).is_err());
        let refused =
            world().plan::<Weighted>(r#"{"shares": [{"pool": "gone", "percent": 100}]}"#).unwrap_err();
        assert_eq!(refused.code, 2, "the gateway names the pool that does not exist");
    }
}
