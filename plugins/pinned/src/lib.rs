//! `pinned`: tenants are on the shards that the configuration names; all others are where the rules say.

use std::collections::BTreeMap;

use portolan_plugin::{Changes, Facts, Level, Refusal, Sharding, Shards, export, log};
use serde::Deserialize;

/// The code of a refusal that says that a plan has enough.
const LIMIT: u32 = 1;

/// The configuration; `config.schema.json` says the same to tools.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Shards by tenants.
    pub tenants: BTreeMap<String, String>,
}

/// The policy.
#[derive(Debug)]
pub struct Pinned;

impl Sharding for Pinned {
    type Config = Config;

    fn place(
        config: Config,
        tenant: &str,
        _facts: &Facts,
        _shards: &Shards,
    ) -> Result<Option<String>, Refusal> {
        Ok(config.tenants.get(tenant).cloned())
    }

    fn rebalance(
        config: Config,
        _facts: &Facts,
        shards: &Shards,
        changes: &mut Changes,
    ) -> Result<(), Refusal> {
        for (tenant, shard) in &config.tenants {
            // Who is not there yet is placed when it comes.
            if shards.of(tenant).is_none_or(|now| now == *shard) {
                continue;
            }
            match changes.relocate(tenant, shard, "it is pinned there") {
                Ok(()) => {}
                Err(refusal) if refusal.code == LIMIT => return Ok(()),
                Err(refusal) => log(Level::Warning, &format!("{tenant} stays where it is: {refusal}")),
            }
        }
        Ok(())
    }
}

export!(Pinned, sharding, schema = "config.schema.json");

#[cfg(test)]
mod tests {
    use portolan_plugin::testing::{Fleet, World};

    use super::*;

    const CONFIG: &str = r#"{"tenants": {"acme": "b", "gone": "z", "later": "b"}}"#;

    fn fleet() -> Fleet {
        let world = World::new("eu").region("eu", &["web"]);
        let fleet = Fleet::new(world).shard("a", None, &["eu"]).shard("b", None, &["eu"]);
        fleet
            .rule(None, &[(u64::MAX, "a")])
            .tenant("acme", None, None)
            .tenant("gone", None, None)
            .tenant("other", None, None)
    }

    #[test]
    fn who_is_named_is_placed_and_all_others_are_left_to_the_rules() {
        let fleet = fleet();
        assert_eq!(fleet.place::<Pinned>(CONFIG, "later", None, None).unwrap().as_deref(), Some("b"));
        assert_eq!(fleet.place::<Pinned>(CONFIG, "somebody", None, None).unwrap(), None);
        let refused = fleet.drained("b").place::<Pinned>(CONFIG, "later", None, None).unwrap_err();
        assert!(refused.message.contains("is drained"), "{refused}");
    }

    #[test]
    fn who_is_elsewhere_is_moved_and_a_name_that_is_wrong_stops_nobody() {
        let plan = fleet().rebalance::<Pinned>(CONFIG, 10, 0).unwrap();
        let shown: Vec<_> =
            plan.moves.iter().map(|one| (one.tenant.as_str(), one.from.as_str(), one.to.as_str())).collect();
        assert_eq!(shown, [("acme", "a", "b")]);
        assert!(fleet().after(&plan).rebalance::<Pinned>(CONFIG, 10, 0).unwrap().is_empty());
        assert!(fleet().rebalance::<Pinned>(CONFIG, 0, 0).unwrap().is_empty(), "nothing may move");
    }
}
