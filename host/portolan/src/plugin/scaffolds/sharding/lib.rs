//! `{{name}}`: a policy of portolan that decides on which shard tenants are.

use portolan_plugin::{Changes, Facts, Refusal, Sharding, Shards, export};
use serde::Deserialize;

/// The code of a refusal that says that a plan has enough.
const LIMIT: u32 = 1;

/// What the operator configures; `config.schema.json` says the same to tools.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// A shard with this load or more gets no tenant while another has less, in thousandths.
    pub full_permille: u32,
}

/// The policy.
#[derive(Debug)]
pub struct MyPolicy;

impl Sharding for MyPolicy {
    type Config = Config;

    /// A new tenant goes to the shard of its class that has the fewest.
    fn place(
        config: Config,
        tenant: &str,
        _: &Facts,
        shards: &Shards,
    ) -> Result<Option<String>, Refusal> {
        let takers = shards.takers(shards.tenant_residency(tenant).as_deref());
        Ok(fewest(&config, shards, &takers))
    }

    /// Tenants leave shards that are drained.
    fn rebalance(
        config: Config,
        _: &Facts,
        shards: &Shards,
        changes: &mut Changes,
    ) -> Result<(), Refusal> {
        for tenant in shards.tenants() {
            if shards.of(&tenant).is_none_or(|now| shards.takes(&now)) {
                continue;
            }
            let takers = shards.takers(shards.tenant_residency(&tenant).as_deref());
            let Some(to) = fewest(&config, shards, &takers) else { continue };
            match changes.relocate(&tenant, &to, "its shard is drained") {
                Err(refusal) if refusal.code == LIMIT => return Ok(()),
                done => done?,
            }
        }
        Ok(())
    }
}

fn fewest(config: &Config, shards: &Shards, takers: &[String]) -> Option<String> {
    let is_full = |shard: &String| shards.load(shard) >= config.full_permille;
    takers.iter().min_by_key(|shard| (is_full(shard), shards.tenants_of(shard))).cloned()
}

export!(MyPolicy, sharding, schema = "../config.schema.json");

#[cfg(test)]
mod tests {
    use portolan_plugin::testing::{Fleet, World};

    use super::*;

    #[test]
    fn a_new_tenant_goes_where_there_are_fewest() {
        let world = World::new("eu").region("eu", &["web"]);
        let fleet = Fleet::new(world).shard("a", None, &["eu"]).shard("b", None, &["eu"]);
        let fleet = fleet.rule(None, &[(u64::MAX, "a")]).tenant("acme", None, None);
        let place = fleet.place::<MyPolicy>(r#"{"full_permille": 900}"#, "globex", None, None);
        assert_eq!(place.unwrap().as_deref(), Some("b"));
    }
}
