//! `header-canary`: requests that carry a certain header or cookie go to the new version, all others to the stable one.
//!
//! When the new version cannot take a request, the stable one does. The answer says which one it was, in the response
//! header `x-served-by-pool`.

use portolan_plugin::{Draft, Facts, Policy, Refusal, Test, export};
use serde::Deserialize;

/// The configuration; `config.schema.json` says the same to tools.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The pool of the new version.
    pub canary: String,
    /// The header's name.
    #[serde(default = "Config::usual_header")]
    pub header: String,
    /// The region; the one where the request came in when absent.
    pub region: Option<String>,
    /// The pool of the stable version.
    pub stable: String,
    /// The value that the header must have; any when absent.
    pub value: Option<String>,
}

impl Config {
    fn usual_header() -> String {
        "x-canary".to_owned()
    }
}

/// The policy.
#[derive(Debug)]
pub struct HeaderCanary;

impl Policy for HeaderCanary {
    type Config = Config;

    fn plan(config: Config, facts: &Facts, draft: &mut Draft) -> Result<(), Refusal> {
        let region = config.region.unwrap_or_else(|| facts.local_region());
        let canary = draft.forward(&region, &config.canary)?;
        let stable = draft.forward(&region, &config.stable)?;
        draft.set_answer(canary, "response.header.set:x-served-by-pool", &config.canary)?;
        draft.set_answer(stable, "response.header.set:x-served-by-pool", &config.stable)?;
        let header = format!("header:{}", config.header);
        let rule = draft.rule().named("canary");
        let rule = match config.value {
            Some(value) => rule.is(header, value),
            None => rule.when(header, Test::Present, ""),
        };
        rule.first_of([canary, stable])?;
        draft.rule().named("stable").split([(stable, 1)])?;
        Ok(())
    }
}

export!(HeaderCanary, schema = "config.schema.json");

#[cfg(test)]
mod tests {
    use portolan_plugin::testing::{Request, World};

    use super::*;

    fn route(config: &str, request: &Request) -> Vec<String> {
        let world = World::new("eu").region("eu", &["web", "web-next"]);
        world.plan::<HeaderCanary>(config).unwrap().route(request)
    }

    #[test]
    fn only_requests_with_the_header_reach_the_new_version() {
        let config = r#"{"canary": "web-next", "stable": "web"}"#;
        assert_eq!(route(config, &Request::get("/")), ["eu/web"]);
        assert_eq!(route(config, &Request::get("/").with("header:x-canary", "")), ["eu/web-next", "eu/web"]);
    }

    #[test]
    fn a_value_can_be_asked_for() {
        let config = r#"{"canary": "web-next", "stable": "web", "header": "x-ring", "value": "inner"}"#;
        assert_eq!(route(config, &Request::get("/").with("header:x-ring", "outer")), ["eu/web"]);
        assert_eq!(
            route(config, &Request::get("/").with("header:x-ring", "inner")),
            ["eu/web-next", "eu/web"]
        );
    }

    #[test]
    fn a_header_that_cannot_exist_is_refused() {
        let world = World::new("eu").region("eu", &["web"]);
        let config = r#"{"canary": "web", "stable": "web", "header": "not a header"}"#;
        assert!(world.plan::<HeaderCanary>(config).is_err());
    }
}
