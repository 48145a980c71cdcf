//! `jump-hash`: tenants are spread evenly over the shards of their residency class, and a shard that is added at the end of the
//! order, or drained, moves its own part of the tenants alone.
//!
//! The line of hashes is cut into [`SLICES`] equal slices; which shard has a slice is said by the jump consistent hash of Lamping
//! and Veach (arXiv:1406.2294). A slice of a shard that is drained or full goes on to another by a second hash, so that all others
//! take their share of it. The rules follow slice by slice, as much in one plan as it may move.

use portolan_plugin::{Changes, Facts, Refusal, Sharding, Shards, export};
use serde::Deserialize;

/// Slices of the line of hashes. A rule may have 1024 spans; the other half is for ends that an earlier rule left.
pub const SLICES: u64 = 512;
/// The length of a slice.
const STEP: u64 = (u64::MAX / SLICES) + 1;
/// How often a slice looks for another shard before it takes the first that is there.
const HOPS_MAX: u64 = 64;

/// The configuration; `config.schema.json` says the same to tools.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// All shards in the order in which they were added; by name when absent.
    #[serde(default)]
    pub shards: Vec<String>,
}

/// The policy.
#[derive(Debug)]
pub struct JumpHash;

impl Sharding for JumpHash {
    type Config = Config;

    fn place(
        config: Config,
        tenant: &str,
        _facts: &Facts,
        shards: &Shards,
    ) -> Result<Option<String>, Refusal> {
        let order = order(&config, shards, shards.tenant_residency(tenant).as_deref())?;
        let room = |shard: &str| {
            shards.takes(shard)
                && shards.capacity(shard).is_none_or(|capacity| shards.tenants_of(shard) < capacity)
        };
        Ok(owner(shards.hash(tenant) / STEP, &order, room))
    }

    fn rebalance(
        config: Config,
        _facts: &Facts,
        shards: &Shards,
        changes: &mut Changes,
    ) -> Result<(), Refusal> {
        for class in shards.classes() {
            let order = order(&config, shards, class.as_deref())?;
            let takes: Vec<&String> = order.iter().filter(|shard| shards.takes(shard)).collect();
            let wanted = |slice| owner(slice, &order, |shard| takes.iter().any(|taker| *taker == shard));
            changes.steer(shards, class.as_deref(), (STEP, "an even share for each shard"), wanted)?;
        }
        Ok(())
    }
}

/// The shards of a class in the order that counts.
fn order(config: &Config, shards: &Shards, class: Option<&str>) -> Result<Vec<String>, Refusal> {
    let mut order = shards.names();
    if !config.shards.is_empty() {
        if let Some(unknown) = config.shards.iter().find(|shard| !order.contains(shard)) {
            return Err(Refusal::value(format!("there is no shard `{unknown}`: take it out of `shards`")));
        }
        order.clone_from(&config.shards);
    }
    order.retain(|shard| shards.residency(shard).as_deref() == class);
    Ok(order)
}

/// The shard of a slice, of those that may have it.
fn owner(slice: u64, order: &[String], may: impl Fn(&str) -> bool) -> Option<String> {
    for hop in 0..HOPS_MAX {
        let shard = order.get(jump(mix(slice ^ (hop << 32)), order.len()))?;
        if may(shard) {
            return Some(shard.clone());
        }
    }
    order.iter().find(|shard| may(shard)).cloned()
}

/// The jump consistent hash: the bucket of a key among so many.
fn jump(mut key: u64, buckets: usize) -> usize {
    let (mut bucket, mut next) = (0_u64, 0_u64);
    while next < buckets as u64 {
        bucket = next;
        key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        // (bucket + 1) * 2^31 / ((key >> 33) + 1), in whole numbers, so that every machine says the same.
        next = ((bucket + 1) << 31) / ((key >> 33) + 1);
    }
    usize::try_from(bucket).unwrap_or(0)
}

/// Numbers of slices lie close together; the hash wants keys that do not (splitmix64).
const fn mix(number: u64) -> u64 {
    let mut word = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

export!(JumpHash, sharding, schema = "config.schema.json");

#[cfg(test)]
mod tests {
    use portolan_plugin::testing::{Fleet, World};

    use super::*;

    const MAX: u64 = u64::MAX;

    fn fleet(shards: &[&str]) -> Fleet {
        let world = World::new("eu").region("eu", &["web"]).residency("union", &["eu"]);
        shards.iter().fold(Fleet::new(world), |fleet, shard| fleet.shard(shard, None, &["eu"]))
    }

    /// Tenants by number.
    fn with_tenants(fleet: Fleet, count: u32) -> Fleet {
        (0..count).fold(fleet, |fleet, number| fleet.tenant(&format!("t{number}"), None, None))
    }

    fn counts(fleet: &Fleet, shards: &[&str], count: u32) -> Vec<usize> {
        let of = |shard: &&str| {
            (0..count).filter(|n| fleet.shard_of(&format!("t{n}")).as_deref() == Some(*shard)).count()
        };
        shards.iter().map(of).collect()
    }

    #[test]
    fn a_shard_more_takes_its_part_from_all_and_nothing_else_moves() {
        for buckets in 1..40 {
            for key in (0..2_000).map(mix) {
                let (before, after) = (jump(key, buckets), jump(key, buckets + 1));
                assert!(before == after || after == buckets);
            }
        }
    }

    #[test]
    fn a_fleet_without_rules_gets_them_and_a_new_tenant_goes_where_they_say() {
        let fleet = with_tenants(fleet(&["a", "b", "c"]), 300);
        let plan = fleet.rebalance::<JumpHash>("{}", 0, 0).unwrap();
        assert!(plan.moves.is_empty(), "there was nobody to move: {:?}", plan.moves);
        let fleet = fleet.after(&plan);
        assert!(counts(&fleet, &["a", "b", "c"], 300).into_iter().all(|count| count > 60));
        for number in 300..340 {
            let name = format!("t{number}");
            let placed = fleet.place::<JumpHash>("{}", &name, None, None).unwrap();
            assert_eq!(placed, fleet.clone().tenant(&name, None, None).shard_of(&name));
        }
        assert!(fleet.rebalance::<JumpHash>("{}", 100, 1_000).unwrap().is_empty());
    }

    #[test]
    fn a_shard_that_is_added_fills_step_by_step_from_all_others() {
        let fleet = with_tenants(fleet(&["a", "b"]), 400);
        let mut fleet = fleet.clone().after(&fleet.rebalance::<JumpHash>("{}", 0, 0).unwrap());
        fleet = fleet.shard("c", None, &["eu"]);
        let mut steps = 0;
        loop {
            let plan = fleet.rebalance::<JumpHash>("{}", 400, 100).unwrap();
            if plan.is_empty() {
                break;
            }
            assert!(
                plan.line_permille <= 100 && plan.moves.iter().all(|one| one.to.as_str() == "c"),
                "{plan:?}"
            );
            fleet = fleet.after(&plan);
            steps += 1;
        }
        assert!((3..=6).contains(&steps), "{steps}");
        assert!(counts(&fleet, &["a", "b", "c"], 400).into_iter().all(|count| count > 80));
    }

    #[test]
    fn a_drained_shard_is_left_and_a_full_one_gets_no_new_tenant() {
        let fleet = with_tenants(fleet(&["a", "b", "c"]), 90);
        let fleet = fleet.clone().after(&fleet.rebalance::<JumpHash>("{}", 0, 0).unwrap()).drained("b");
        let plan = fleet.rebalance::<JumpHash>("{}", 90, 1_000).unwrap();
        assert!(!plan.moves.is_empty() && plan.moves.iter().all(|one| one.from.as_str() == "b"), "{plan:?}");
        assert_eq!(counts(&fleet.clone().after(&plan), &["b"], 90), [0]);

        let full = fleet.capacity("a", 1);
        for number in 100..120 {
            assert_eq!(
                full.place::<JumpHash>("{}", &format!("t{number}"), None, None).unwrap().as_deref(),
                Some("c")
            );
        }
    }

    #[test]
    fn classes_keep_to_their_shards_and_an_order_is_held_to() {
        let fleet = fleet(&["a"]).shard("u", Some("union"), &["eu"]).rule(None, &[(MAX, "a")]);
        assert_eq!(fleet.place::<JumpHash>("{}", "new", Some("union"), None).unwrap().as_deref(), Some("u"));
        assert_eq!(fleet.place::<JumpHash>("{}", "new", None, None).unwrap().as_deref(), Some("a"));
        let refused = fleet.place::<JumpHash>(r#"{"shards": ["z"]}"#, "new", None, None).unwrap_err();
        assert!(refused.message.contains("no shard `z`"), "{refused}");
    }
}
