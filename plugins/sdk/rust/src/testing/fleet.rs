//! Made-up shards and tenants, and a sharding policy over them, held to what the gateway holds it to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use portolan_core::directory::{
    Access, Directory, Exceptions, HashKey, Place, Placement, Range, Rule, Shard, ShardIndex, Tenant,
};
use portolan_core::ids::{RegionName, ResidencyName, ShardName, TenantName};
use portolan_core::log::Epoch;
use portolan_core::placement::{Known, Limits, Picture, Proposal, Rebalancing, View};
use portolan_core::plan;

use super::World;
use crate::draft::Refusal;
use crate::shard_host as host;
use crate::sharding::{Sharding, glue};

/// A rule: the class that it is about, and the last hash of each range with its shard.
type Written = (Option<ResidencyName>, Vec<(u64, ShardName)>);

/// Shards, rules and tenants in a world.
#[derive(Clone, Debug)]
pub struct Fleet {
    capacities: BTreeMap<ShardName, u64>,
    places: BTreeMap<TenantName, ShardName>,
    rules: Vec<Written>,
    shards: Vec<Shard>,
    tenants: BTreeMap<TenantName, Known>,
    world: World,
}

impl Fleet {
    /// No shard yet.
    #[must_use]
    pub fn new(world: World) -> Self {
        let (capacities, places, rules, shards, tenants) = Default::default();
        Self { capacities, places, rules, shards, tenants, world }
    }

    /// A shard that takes tenants of this class, with its regions; the first one writes it.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a test that misspells a name is to fail")]
    pub fn shard(mut self, name: &str, residency: Option<&str>, regions: &[&str]) -> Self {
        let mut regions = regions.iter().map(|region| RegionName::new(region).expect("a region's name"));
        self.shards.push(Shard {
            name: ShardName::new(name).expect("a shard's name"),
            epoch: Epoch(1),
            external: false,
            primary: regions.next().expect("a shard has a region"),
            replicas: regions.collect(),
            residency: residency.map(|class| ResidencyName::new(class).expect("a class's name")),
            takes_new: true,
        });
        self
    }

    /// The shard has so much room.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a test that misspells a name is to fail")]
    pub fn capacity(mut self, shard: &str, tenants: u64) -> Self {
        self.capacities.insert(ShardName::new(shard).expect("a shard's name"), tenants);
        self
    }

    /// The shard takes nobody any more.
    #[must_use]
    pub fn drained(mut self, shard: &str) -> Self {
        let drained = self.shards.iter_mut().filter(|known| known.name.as_str() == shard);
        drained.for_each(|shard| shard.takes_new = false);
        self
    }

    /// A rule for a class: the last hash of each span, and whose it is.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a test that misspells a name is to fail")]
    pub fn rule(mut self, residency: Option<&str>, spans: &[(u64, &str)]) -> Self {
        let span = |&(last, shard): &(u64, &str)| (last, ShardName::new(shard).expect("a shard's name"));
        let residency = residency.map(|class| ResidencyName::new(class).expect("a class's name"));
        self.rules.push((residency, spans.iter().map(span).collect()));
        self
    }

    /// A tenant that the gateway knows.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a test that misspells a name is to fail")]
    pub fn tenant(mut self, name: &str, residency: Option<&str>, location: Option<&str>) -> Self {
        let name = TenantName::new(name).expect("a tenant's name");
        self.tenants.insert(name, known(residency, location));
        self
    }

    /// The tenant is on this shard, whatever the rules say.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a test that misspells a name is to fail")]
    pub fn on(mut self, tenant: &str, shard: &str) -> Self {
        let shard = ShardName::new(shard).expect("a shard's name");
        self.places.insert(TenantName::new(tenant).expect("a tenant's name"), shard);
        self
    }

    /// Asks where a new tenant goes, as the gateway would: `None` when the policy leaves it to the rules.
    ///
    /// # Errors
    /// The policy's refusal, or the gateway's of the policy's answer.
    #[expect(clippy::expect_used, reason = "a test that misspells a name is to fail")]
    pub fn place<P: Sharding>(
        &self,
        config: &str,
        tenant: &str,
        residency: Option<&str>,
        location: Option<&str>,
    ) -> Result<Option<String>, Refusal> {
        let name = TenantName::new(tenant).expect("a tenant's name");
        let view = View::placing(Arc::new(self.picture()), name, known(residency, location));
        host::lend(Arc::new(self.world.0.clone()), Proposal::new(view.clone()));
        let placed = glue::place::<P>(config, tenant);
        host::take();
        let Some(shard) = placed? else { return Ok(None) };
        view.placed(&shard).map_err(refusal)?;
        Ok(Some(shard))
    }

    /// Asks what is to change, and checks it as the gateway would: at most so many moves, and so many thousandths of a rule's line.
    ///
    /// # Errors
    /// The policy's refusal, or the gateway's of the plan.
    pub fn rebalance<P: Sharding>(
        &self,
        config: &str,
        moves_max: u32,
        line_permille_max: u32,
    ) -> Result<Rebalancing, Refusal> {
        let view = View::rebalancing(Arc::new(self.picture()), Limits { line_permille_max, moves_max });
        host::lend(Arc::new(self.world.0.clone()), Proposal::new(view));
        let said = glue::rebalance::<P>(config);
        let proposal = host::take();
        said?;
        let proposal = proposal.ok_or_else(|| Refusal::value("the policy took its own proposal"))?;
        proposal.finish().map_err(refusal)
    }

    /// The fleet after a plan was carried out.
    #[must_use]
    pub fn after(mut self, plan: &Rebalancing) -> Self {
        let moved = plan.moves.iter().map(|moved| (moved.tenant.clone(), moved.to.clone()));
        self.places.extend(moved);
        if let Some(rules) = &plan.rules {
            let name =
                |range: &Range| self.shards.get(usize::from(range.shard.0)).map(|shard| shard.name.clone());
            let spans = |rule: &Rule| {
                rule.ranges.iter().filter_map(|range| Some((range.last, name(range)?))).collect::<Vec<_>>()
            };
            self.rules = rules.iter().map(|rule| (rule.residency.clone(), spans(rule))).collect();
        }
        self
    }

    /// The shard of a known tenant.
    #[must_use]
    pub fn shard_of(&self, tenant: &str) -> Option<String> {
        let picture = self.picture();
        let (name, known) = self.tenants.get_key_value(tenant)?;
        let tenant = Tenant { location: known.location.as_ref(), name, residency: known.residency.as_ref() };
        let place = picture.directory().locate(&tenant)?;
        picture.directory().shard(place.shard).map(|shard| shard.name.to_string())
    }

    #[expect(clippy::expect_used, reason = "a test whose fleet makes no sense is to fail")]
    fn picture(&self) -> Picture {
        let index = |name: &ShardName| {
            let at = self.shards.iter().position(|shard| shard.name == *name).expect("a shard of the fleet");
            ShardIndex(u16::try_from(at).expect("few shards"))
        };
        let key = HashKey::new([7; 16]);
        let rule = |(residency, spans): &Written| Rule {
            location: None,
            ranges: spans.iter().map(|(last, shard)| Range { last: *last, shard: index(shard) }).collect(),
            residency: residency.clone(),
        };
        let place = |(tenant, shard): (&TenantName, &ShardName)| {
            let place = Place { access: Access::Open, placement: Placement(1), shard: index(shard) };
            (key.of(tenant), place)
        };
        let exceptions: Vec<_> = self.places.iter().map(place).collect();
        let classes: BTreeMap<ResidencyName, BTreeSet<RegionName>> = self.world.0.residencies.clone();
        let directory = Directory::new(
            key,
            self.shards.clone(),
            self.rules.iter().map(rule).collect(),
            Exceptions::from_all(exceptions.into_iter()),
            &classes,
        );
        let directory = Arc::new(directory.expect("a fleet that holds"));
        Picture::new(directory, self.tenants.clone(), self.capacities.clone(), classes)
    }
}

#[expect(clippy::expect_used, reason = "a test that misspells a name is to fail")]
fn known(residency: Option<&str>, location: Option<&str>) -> Known {
    Known {
        location: location.map(|name| RegionName::new(name).expect("a region's name")),
        residency: residency.map(|name| ResidencyName::new(name).expect("a class's name")),
    }
}

fn refusal(refusal: plan::Refusal) -> Refusal {
    Refusal { code: refusal.code, message: refusal.message }
}
