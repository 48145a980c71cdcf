//! What a sharding policy may know and say, and what the host holds it to. Pure: a policy's answers come in as texts and numbers,
//! and leave as checked moves and rules, or not at all.
//!
//! [`Picture`] is the world of one moment, [`View`] how a policy is asked over it, [`Proposal`] what it writes, and
//! [`Rebalancing`] what remains of that when every check has passed.

mod proposal;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use self::proposal::{Move, Proposal, Rebalancing, Stand};
use crate::directory::{Directory, Range, Rule, Shard, ShardIndex, Tenant};
use crate::ids::{RegionName, ResidencyName, ShardName, TenantName};
use crate::plan::{Refusal, code};

/// Names of tenants that one question gives.
pub const TENANTS_PER_PAGE: usize = 1_000;
/// All of a shard's capacity, or of a line of hashes, in the parts in which they are told.
pub const PERMILLE: u64 = 1_000;

/// What a tenant that is known by name is known by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The region that it works in, if that was said.
    pub location: Option<RegionName>,
    /// Its residency class, if it has one.
    pub residency: Option<ResidencyName>,
}

/// The shards, rules and tenants of one moment.
#[derive(Clone, Debug)]
pub struct Picture {
    capacities: BTreeMap<ShardName, u64>,
    /// Tenants of each shard, in the order of [`Directory::shards`].
    counts: Vec<u64>,
    directory: Arc<Directory>,
    indexes: BTreeMap<ShardName, ShardIndex>,
    residencies: BTreeMap<ResidencyName, BTreeSet<RegionName>>,
    tenants: BTreeMap<TenantName, Known>,
}

/// How much one plan may move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Of the line of one rule, in thousandths.
    pub line_permille_max: u32,
    /// Tenants.
    pub moves_max: u32,
}

/// A picture as a policy is asked over it. Names that do not exist have nothing.
#[derive(Clone, Debug)]
pub struct View {
    limits: Limits,
    newcomer: Option<(TenantName, Known)>,
    picture: Arc<Picture>,
}

impl Known {
    fn tenant<'a>(&'a self, name: &'a TenantName) -> Tenant<'a> {
        Tenant { location: self.location.as_ref(), name, residency: self.residency.as_ref() }
    }
}

impl Picture {
    /// The picture of a directory, with the tenants that are known by name, and how many tenants a shard may have where that is
    /// limited.
    #[must_use]
    pub fn new(
        directory: Arc<Directory>,
        tenants: BTreeMap<TenantName, Known>,
        capacities: BTreeMap<ShardName, u64>,
        residencies: BTreeMap<ResidencyName, BTreeSet<RegionName>>,
    ) -> Self {
        let indexes = (0..).map(ShardIndex).zip(directory.shards());
        let indexes = indexes.map(|(index, shard)| (shard.name.clone(), index)).collect();
        let counts = vec![0; directory.shards().len()];
        let mut picture =
            Self { capacities, counts, directory, indexes, residencies, tenants: BTreeMap::new() };
        for (name, known) in tenants {
            let shard = picture.directory.locate(&known.tenant(&name)).map(|place| place.shard);
            picture.add(name, known, shard);
        }
        picture
    }

    /// One more tenant, on this shard.
    pub fn add(&mut self, name: TenantName, known: Known, shard: Option<ShardIndex>) {
        let count = shard.and_then(|shard| self.counts.get_mut(usize::from(shard.0)));
        count.into_iter().for_each(|count| *count += 1);
        self.tenants.insert(name, known);
    }

    /// Which tenant is where.
    #[must_use]
    pub const fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    /// The tenants that are known by name.
    #[must_use]
    pub const fn tenants(&self) -> &BTreeMap<TenantName, Known> {
        &self.tenants
    }

    /// How many of them are on a shard.
    #[must_use]
    pub fn count(&self, shard: ShardIndex) -> u64 {
        self.counts.get(usize::from(shard.0)).copied().unwrap_or(0)
    }

    /// How many a shard may have; none without a limit.
    #[must_use]
    pub fn capacity(&self, shard: &ShardName) -> Option<u64> {
        self.capacities.get(shard).copied()
    }

    /// Where the rules, or an exception, put a tenant.
    #[must_use]
    pub fn locate(&self, name: &TenantName, known: &Known) -> Option<ShardIndex> {
        self.directory.locate(&known.tenant(name)).map(|place| place.shard)
    }

    fn find(&self, shard: &str) -> Option<(ShardIndex, &Shard)> {
        let index = *self.indexes.get(shard)?;
        Some((index, self.directory.shard(index)?))
    }

    /// A shard that may take one tenant of this class.
    fn taker(&self, shard: &str, residency: Option<&ResidencyName>) -> Result<ShardIndex, Refusal> {
        let Some((index, found)) = self.find(shard) else { return refuse_unknown("shard", shard) };
        if !found.takes_new {
            return refuse(code::FORBIDDEN, format!("shard `{shard}` is drained and takes no tenants"));
        }
        if found.residency.as_ref() != residency {
            let (has, wants) = (class(found.residency.as_ref()), class(residency));
            return refuse(
                code::FORBIDDEN,
                format!("shard `{shard}` is for {has}, the tenant is one of {wants}"),
            );
        }
        Ok(index)
    }

    fn rule(&self, residency: Option<&ResidencyName>, location: Option<&RegionName>) -> Option<&Rule> {
        let mut rules = self.directory.rules().iter();
        rules.find(|rule| rule.residency.as_ref() == residency && rule.location.as_ref() == location)
    }
}

impl View {
    /// For the question where a new tenant goes.
    #[must_use]
    pub fn placing(picture: Arc<Picture>, name: TenantName, known: Known) -> Self {
        Self { limits: Limits::default(), newcomer: Some((name, known)), picture }
    }

    /// For the question what is to change.
    #[must_use]
    pub const fn rebalancing(picture: Arc<Picture>, limits: Limits) -> Self {
        Self { limits, newcomer: None, picture }
    }

    /// What it is a view of.
    #[must_use]
    pub const fn picture(&self) -> &Arc<Picture> {
        &self.picture
    }

    /// How much may be moved.
    #[must_use]
    pub const fn limits(&self) -> Limits {
        self.limits
    }

    /// Takes the answer to the question where the new tenant goes: the shard, if it may have it.
    ///
    /// # Errors
    /// [`Refusal`] for a shard that does not exist, is drained or full, or has another residency class.
    pub fn placed(&self, shard: &str) -> Result<ShardIndex, Refusal> {
        let Some((name, known)) = &self.newcomer else {
            return refuse(code::SENSELESS, "nobody asked where a tenant goes");
        };
        let index = self.picture.taker(shard, known.residency.as_ref())?;
        let (count, capacity) = (self.picture.count(index), self.picture.capacities.get(shard));
        if capacity.is_some_and(|capacity| count >= *capacity) {
            return refuse(
                code::LIMIT,
                format!("shard `{shard}` is full: it has {count} tenants, without `{name}`"),
            );
        }
        Ok(index)
    }

    /// All shards, in the order of their names.
    #[must_use]
    pub fn shards(&self) -> Vec<String> {
        self.picture.indexes.keys().map(ToString::to_string).collect()
    }

    /// The residency class of a shard.
    #[must_use]
    pub fn shard_residency(&self, shard: &str) -> Option<String> {
        self.picture.find(shard)?.1.residency.as_ref().map(ToString::to_string)
    }

    /// The regions of a shard, the primary's first.
    #[must_use]
    pub fn shard_regions(&self, shard: &str) -> Vec<String> {
        let found = self.picture.find(shard).into_iter();
        found.flat_map(|(_, shard)| shard.regions()).map(ToString::to_string).collect()
    }

    /// Does a shard take tenants?
    #[must_use]
    pub fn shard_takes(&self, shard: &str) -> bool {
        self.picture.find(shard).is_some_and(|(_, shard)| shard.takes_new)
    }

    /// How many known tenants a shard has.
    #[must_use]
    pub fn shard_tenants(&self, shard: &str) -> u64 {
        self.picture.find(shard).map_or(0, |(index, _)| self.picture.count(index))
    }

    /// How many it may have.
    #[must_use]
    pub fn shard_capacity(&self, shard: &str) -> Option<u64> {
        self.picture.capacities.get(shard).copied()
    }

    /// The part of its capacity that is used, in thousandths; 0 without a capacity.
    #[must_use]
    pub fn shard_load(&self, shard: &str) -> u32 {
        let Some(capacity) = self.shard_capacity(shard) else { return 0 };
        let load = self.shard_tenants(shard).saturating_mul(PERMILLE) / capacity.max(1);
        u32::try_from(load).unwrap_or(u32::MAX)
    }

    /// The rule for a residency class and a location: the last hash of each span, and whose it is.
    #[must_use]
    pub fn rule(&self, residency: Option<&str>, location: Option<&str>) -> Vec<(u64, String)> {
        let rules = self.picture.directory.rules().iter();
        let text = |rule: &&Rule| {
            rule.residency.as_ref().map(ResidencyName::as_str) == residency
                && rule.location.as_ref().map(RegionName::as_str) == location
        };
        let Some(rule) = rules.into_iter().find(text) else { return Vec::new() };
        let span = |range: &Range| {
            let shard = self.picture.directory.shard(range.shard)?;
            Some((range.last, shard.name.to_string()))
        };
        rule.ranges.iter().filter_map(span).collect()
    }

    /// Names of known tenants after one, at most so many.
    #[must_use]
    pub fn tenants(&self, after: &str, max: u32) -> Vec<String> {
        use std::ops::Bound::{Excluded, Unbounded};
        let max = usize::try_from(max).unwrap_or(usize::MAX).min(TENANTS_PER_PAGE);
        let range = self.picture.tenants.range::<str, _>((Excluded(after), Unbounded));
        range.take(max).map(|(name, _)| name.to_string()).collect()
    }

    /// Where a tenant is, or where the rules would put a new one.
    #[must_use]
    pub fn tenant_shard(&self, tenant: &str) -> Option<String> {
        let (name, known) = self.known(tenant)?;
        let shard = self.picture.directory.shard(self.picture.locate(name, known)?)?;
        Some(shard.name.to_string())
    }

    /// The residency class of a tenant.
    #[must_use]
    pub fn tenant_residency(&self, tenant: &str) -> Option<String> {
        self.known(tenant)?.1.residency.as_ref().map(ToString::to_string)
    }

    /// Where a tenant works.
    #[must_use]
    pub fn tenant_location(&self, tenant: &str) -> Option<String> {
        self.known(tenant)?.1.location.as_ref().map(ToString::to_string)
    }

    /// Where a name lies on the line of hashes; 0 for what is no name.
    #[must_use]
    pub fn tenant_hash(&self, tenant: &str) -> u64 {
        let key = self.picture.directory.key();
        TenantName::new(tenant).map_or(0, |name| key.of(&name).point())
    }

    fn known(&self, tenant: &str) -> Option<(&TenantName, &Known)> {
        match &self.newcomer {
            Some((name, known)) if name.as_str() == tenant => Some((name, known)),
            _ => self.picture.tenants.get_key_value(tenant),
        }
    }
}

fn class(residency: Option<&ResidencyName>) -> String {
    residency
        .map_or_else(|| "tenants without a residency class".to_owned(), |name| format!("the class `{name}`"))
}

fn refuse<T>(code: u32, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { code, message: message.into() })
}

fn refuse_unknown<T>(what: &str, name: &str) -> Result<T, Refusal> {
    let shown: String = name.chars().take(80).filter(|character| !character.is_control()).collect();
    refuse(code::UNKNOWN, format!("there is no {what} `{shown}`"))
}

#[cfg(test)]
mod tests;
