//! `{{name}}`: a routing policy of portolan.

%%decider
use portolan_plugin::{Call, Decider, Draft, Facts, Policy, Refusal, export};
%%plan-only
use portolan_plugin::{Draft, Facts, Policy, Refusal, export};
%%end
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
%%decider
pub struct MyPolicy {
    regions: u32,
}
%%plan-only
pub struct MyPolicy;
%%end

impl Policy for MyPolicy {
    type Config = Config;

    fn plan(config: Config, facts: &Facts, draft: &mut Draft) -> Result<(), Refusal> {
        let pool = &config.pool;
        let regions = facts.nearest_first(&facts.local_region(), facts.regions_with(pool));
        if regions.is_empty() {
            return Err(Refusal::value(format!("no region has the pool {pool}")));
        }
        let mut answers = Vec::new();
        for region in &regions {
            answers.push(draft.forward(region, pool)?);
        }
%%decider
        // Who has a name stays in one region, whichever that is.
        draft.memo(&[u8::try_from(answers.len()).unwrap_or(u8::MAX)])?;
        draft.rule().named("by-user").has("header:x-user").dynamic(&["header:x-user"], answers.clone())?;
%%end
        draft.rule().named("everybody").first_of(answers)?;
        Ok(())
    }
}

%%decider
impl Decider for MyPolicy {
    fn start(_: Config, memo: &[u8]) -> Result<Self, String> {
        Ok(Self { regions: memo.first().copied().unwrap_or(1).max(1).into() })
    }

    fn decide(&self, call: &Call<'_>) -> u32 {
        hash(call.value(0).unwrap_or_default()) % self.regions
    }
}

/// FNV-1a.
fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

export!(MyPolicy, decider, schema = "../config.schema.json");
%%plan-only
export!(MyPolicy, schema = "../config.schema.json");
%%end

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
