//! `locality`: each tenant is on the shard of its class that is written nearest to the region that it works in; of equals, on the
//! one with the least load. A tenant that named no region goes where there is most room.
//!
//! Near is what the gateway measures between regions. A plan moves tenants off drained shards first, then those that a shard
//! nearer to them could take.

use std::collections::BTreeMap;

use portolan_plugin::{Changes, Facts, Refusal, Sharding, Shards, export};
use serde::Deserialize;

/// The code of a refusal that says that a plan has enough.
const LIMIT: u32 = 1;
/// Pieces in which the rule's line is given away by a drained shard.
const PIECE: u64 = 1 << 56;

/// The configuration; `config.schema.json` says the same to tools.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// A shard with this load or more gets no tenant while another has less, in thousandths.
    #[serde(default = "full")]
    pub full_permille: u64,
}

const fn full() -> u64 {
    900
}

/// The policy.
#[derive(Debug)]
pub struct Locality;

impl Sharding for Locality {
    type Config = Config;

    fn place(
        config: Config,
        tenant: &str,
        facts: &Facts,
        shards: &Shards,
    ) -> Result<Option<String>, Refusal> {
        let room = Room::of(shards, config);
        let class = shards.tenant_residency(tenant);
        Ok(room
            .best(facts, class.as_deref(), shards.tenant_location(tenant).as_deref())
            .map(|one| one.name.clone()))
    }

    fn rebalance(
        config: Config,
        facts: &Facts,
        shards: &Shards,
        changes: &mut Changes,
    ) -> Result<(), Refusal> {
        let mut room = Room::of(shards, config);
        for class in shards.classes() {
            let takers = shards.takers(class.as_deref());
            let emptiest = takers.iter().min_by_key(|shard| (shards.load(shard), shards.tenants_of(shard)));
            let rule = shards.rule(class.as_deref(), None);
            let wanted = |piece: u64| {
                // Only what a drained shard has is given away, and everything where there is no rule yet.
                let owner = rule.iter().find(|span| span.last / PIECE >= piece);
                emptiest.filter(|_| owner.is_none_or(|span| !shards.takes(&span.shard))).cloned()
            };
            changes.steer(shards, class.as_deref(), (PIECE, "its shard is drained"), wanted)?;
        }
        for only_drained in [true, false] {
            for tenant in shards.tenants() {
                let Some(now) = shards.of(&tenant).filter(|now| shards.takes(now) != only_drained) else {
                    continue;
                };
                let (class, location) = (shards.tenant_residency(&tenant), shards.tenant_location(&tenant));
                let Some(best) = room.best(facts, class.as_deref(), location.as_deref()) else { continue };
                let best = best.name.clone();
                let Some(reason) = reason(&now, &best, only_drained, location.as_deref(), |one| {
                    room.distance(facts, one, location.as_deref())
                }) else {
                    continue;
                };
                match changes.relocate(&tenant, &best, &reason) {
                    Ok(()) => room.moved(&now, &best),
                    Err(refusal) if refusal.code == LIMIT => return Ok(()),
                    // It is held, or suspended: the others can be moved all the same.
                    Err(_) => {}
                }
            }
        }
        Ok(())
    }
}

/// Why a tenant is to go from one shard to another, if it is.
fn reason(
    now: &str,
    best: &str,
    drained: bool,
    location: Option<&str>,
    distance: impl Fn(&str) -> u32,
) -> Option<String> {
    if now == best {
        return None;
    }
    if drained {
        return Some(format!("shard {now} is drained"));
    }
    let location = location.filter(|_| distance(best) < distance(now))?;
    Some(format!("it works in {location}, and {best} is written nearer"))
}

/// The shards with their tenants, as they would be after the moves so far.
struct Room {
    full_permille: u64,
    shards: BTreeMap<String, Shard>,
}

struct Shard {
    capacity: Option<u64>,
    class: Option<String>,
    name: String,
    region: String,
    takes: bool,
    tenants: u64,
}

impl Room {
    fn of(shards: &Shards, config: Config) -> Self {
        let shard = |name: String| {
            let shard = Shard {
                capacity: shards.capacity(&name),
                class: shards.residency(&name),
                region: shards.regions(&name).into_iter().next().unwrap_or_default(),
                takes: shards.takes(&name),
                tenants: shards.tenants_of(&name),
                name: name.clone(),
            };
            (name, shard)
        };
        Self { full_permille: config.full_permille, shards: shards.names().into_iter().map(shard).collect() }
    }

    /// The best shard for a tenant of a class that works in a region.
    fn best(&self, facts: &Facts, class: Option<&str>, location: Option<&str>) -> Option<&Shard> {
        let fits = |shard: &&Shard| {
            shard.takes
                && shard.class.as_deref() == class
                && shard.capacity.is_none_or(|capacity| shard.tenants < capacity)
        };
        self.shards.values().filter(fits).min_by_key(|shard| {
            let load = shard.load();
            (load >= self.full_permille, self.distance(facts, &shard.name, location), load, shard.tenants)
        })
    }

    /// From a region to the one where a shard is written, in microseconds; the same for all when no region is named.
    fn distance(&self, facts: &Facts, shard: &str, location: Option<&str>) -> u32 {
        let (Some(shard), Some(location)) = (self.shards.get(shard), location) else { return 0 };
        facts.latency_us(location, &shard.region).unwrap_or(u32::MAX)
    }

    fn moved(&mut self, from: &str, to: &str) {
        self.shards
            .entry(from.to_owned())
            .and_modify(|shard| shard.tenants = shard.tenants.saturating_sub(1));
        self.shards.entry(to.to_owned()).and_modify(|shard| shard.tenants += 1);
    }
}

impl Shard {
    fn load(&self) -> u64 {
        self.capacity.map_or(0, |capacity| self.tenants.saturating_mul(1_000) / capacity.max(1))
    }
}

export!(Locality, sharding, schema = "config.schema.json");

#[cfg(test)]
mod tests {
    use portolan_plugin::testing::{Fleet, World};

    use super::*;

    const MAX: u64 = u64::MAX;

    fn fleet() -> Fleet {
        let world = World::new("eu")
            .region("eu", &["web"])
            .region("us", &["web"])
            .region("ap", &["web"])
            .latency_us("eu", "us", 80_000)
            .latency_us("eu", "ap", 150_000)
            .latency_us("us", "ap", 120_000)
            .residency("union", &["eu"]);
        Fleet::new(world)
            .shard("eu-1", None, &["eu", "us"])
            .shard("us-1", None, &["us", "eu"])
            .shard("union-1", Some("union"), &["eu"])
            .rule(None, &[(MAX, "eu-1")])
            .rule(Some("union"), &[(MAX, "union-1")])
    }

    fn place(fleet: &Fleet, residency: Option<&str>, location: Option<&str>) -> Option<String> {
        fleet.place::<Locality>("{}", "new", residency, location).unwrap()
    }

    #[test]
    fn a_tenant_goes_where_its_shard_is_written_nearest() {
        let fleet = fleet();
        assert_eq!(place(&fleet, None, Some("us")).as_deref(), Some("us-1"));
        assert_eq!(place(&fleet, None, Some("ap")).as_deref(), Some("us-1"));
        assert_eq!(place(&fleet, None, Some("eu")).as_deref(), Some("eu-1"));
        assert_eq!(
            place(&fleet, Some("union"), Some("us")).as_deref(),
            Some("union-1"),
            "the class comes first"
        );
    }

    #[test]
    fn without_a_region_there_is_most_room_and_full_shards_are_passed_by() {
        let fleet = fleet().capacity("eu-1", 10).capacity("us-1", 2).tenant("a", None, None).on("a", "eu-1");
        assert_eq!(place(&fleet, None, None).as_deref(), Some("us-1"));
        let fleet = fleet.tenant("b", None, None).on("b", "us-1").tenant("c", None, None).on("c", "us-1");
        assert_eq!(place(&fleet, None, Some("us")).as_deref(), Some("eu-1"));
        let alone = fleet.drained("eu-1");
        assert_eq!(place(&alone, None, None), None, "nobody has room: the rules decide");
    }

    #[test]
    fn tenants_leave_drained_shards_first_then_go_where_it_is_nearer() {
        let fleet = fleet().shard("eu-2", None, &["eu"]).drained("eu-2");
        let fleet = fleet
            .tenant("far", None, Some("us"))
            .on("far", "eu-1")
            .tenant("old", None, Some("eu"))
            .on("old", "eu-2");
        let plan = fleet.rebalance::<Locality>("{}", 1, 0).unwrap();
        let shown: Vec<_> = plan.moves.iter().map(|one| (one.tenant.as_str(), one.to.as_str())).collect();
        assert_eq!(shown, [("old", "eu-1")]);
        let fleet = fleet.after(&plan);
        let plan = fleet.rebalance::<Locality>("{}", 10, 0).unwrap();
        assert_eq!(plan.moves.len(), 1);
        assert_eq!((plan.moves[0].tenant.as_str(), plan.moves[0].to.as_str()), ("far", "us-1"));
        assert!(plan.moves[0].reason.contains("written nearer"), "{}", plan.moves[0].reason);
        assert!(fleet.after(&plan).rebalance::<Locality>("{}", 10, 1_000).unwrap().is_empty());
    }

    #[test]
    fn a_drained_shard_gives_its_part_of_the_line_away() {
        let fleet = fleet().shard("eu-2", None, &["eu"]).drained("eu-1");
        let plan = fleet.rebalance::<Locality>("{}", 0, 500).unwrap();
        assert!(plan.rules.is_some() && plan.line_permille <= 500, "{plan:?}");
        let fleet = fleet.after(&plan);
        let fleet = fleet.clone().after(&fleet.rebalance::<Locality>("{}", 0, 500).unwrap());
        assert!(fleet.rebalance::<Locality>("{}", 0, 500).unwrap().is_empty());
    }
}
