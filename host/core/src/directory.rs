//! Which shard a tenant's data are on: rules first, exceptions listed.
//!
//! A tenant's name is hashed with a key of the installation, so that nobody can choose a name that lands on a shard of choice or
//! on another tenant's entry. A rule gives each range of hashes to one shard; an exception overrides it for one tenant that
//! was moved, pinned or suspended. Millions of tenants that no exception names cost nothing.
//!
//! One [`Directory`] is a part of a snapshot and never changes. A change makes another one that shares the big part of the
//! exceptions with it.

mod even;
mod exceptions;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher as _;
use std::sync::Arc;

use siphasher::sip128::{Hasher128 as _, SipHasher13};

pub use self::even::even;
pub use self::exceptions::Exceptions;
use crate::ids::{RegionName, ResidencyName, ShardName, TenantName};
use crate::log::Epoch;

/// Shards of a directory. Each has connections, a log reader and a fence of its own on every node.
pub const SHARDS_MAX: usize = 4096;
/// Rules of a directory, and ranges of one rule.
pub const RULES_MAX: usize = 1024;

/// The secret with which tenants' names are hashed. It must never change: every rule would mean other tenants.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashKey([u8; 16]);

impl HashKey {
    /// A key of 16 random bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The keyed hash of a tenant's name: SipHash-1-3 with 128 bits (Aumasson and Bernstein, 2012).
    #[must_use]
    pub fn of(&self, tenant: &TenantName) -> TenantHash {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        hasher.write(tenant.as_str().as_bytes());
        TenantHash(hasher.finish128().as_u128())
    }
}

impl std::fmt::Debug for HashKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashKey(..)")
    }
}

/// The keyed hash of a tenant's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantHash(pub u128);

impl TenantHash {
    /// The place on the line that rules divide: the upper half.
    #[must_use]
    pub const fn point(self) -> u64 {
        (self.0 >> 64) as u64
    }
}

/// The place of a shard in [`Directory::shards`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardIndex(pub u16);

/// How often a tenant was placed: rises by one with each move, so that a request that was routed by an older directory is told
/// apart (it is not the shard's epoch, which other tenants share).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Placement(pub u32);

/// What may be done with a tenant's data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Reads and writes.
    #[default]
    Open,
    /// Reads; writes wait for the end of a move.
    Held,
    /// Nothing: the operator suspended the tenant.
    Suspended,
}

/// Where a tenant is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// What may be done there.
    pub access: Access,
    /// How often the tenant was placed; 0 while a rule says where it is.
    pub placement: Placement,
    /// On which shard.
    pub shard: ShardIndex,
}

/// A shard, as far as placement is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Its name.
    pub name: ShardName,
    /// The lease under which it is written.
    pub epoch: Epoch,
    /// Does its engine replicate and fence itself? Then its rows are reached by applications alone.
    pub external: bool,
    /// Where it is written, unless a failover has moved that.
    pub primary: RegionName,
    /// Where else it is kept.
    pub replicas: BTreeSet<RegionName>,
    /// The class of all its tenants; `None` for tenants without one.
    pub residency: Option<ResidencyName>,
    /// Are new tenants placed here? Not while it is drained.
    pub takes_new: bool,
}

/// Whom a rule is about, and where they go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Tenants of this location only.
    pub location: Option<RegionName>,
    /// The ranges of [`TenantHash::point`], in rising order: each begins after the one before and includes its own `last`.
    pub ranges: Vec<Range>,
    /// Tenants of this class only; `None` for tenants without one.
    pub residency: Option<ResidencyName>,
}

/// A range of hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The last hash of the range.
    pub last: u64,
    /// Who has it.
    pub shard: ShardIndex,
}

/// What a tenant is known by.
#[derive(Clone, Copy, Debug)]
pub struct Tenant<'a> {
    /// Where it works, if it said so.
    pub location: Option<&'a RegionName>,
    /// Its name.
    pub name: &'a TenantName,
    /// Its class, if it has one.
    pub residency: Option<&'a ResidencyName>,
}

/// Which shard each tenant is on.
#[derive(Clone, Debug, PartialEq)]
pub struct Directory {
    exceptions: Exceptions,
    key: HashKey,
    names: Arc<BTreeMap<ShardName, ShardIndex>>,
    rules: Vec<Rule>,
    shards: Arc<[Shard]>,
}

/// Why parts make no directory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Two shards of one name.
    #[error("two shards have the name `{0}`: give one of them another")]
    Duplicate(ShardName),
    /// A range that ends before it begins.
    #[error("rule {rule}: range {range} ends at {last}, which is not after the range before it")]
    Order {
        /// The number of the rule.
        rule: usize,
        /// The number of the range.
        range: usize,
        /// Where it ends.
        last: u64,
    },
    /// Hashes that nobody has.
    #[error("rule {rule}: no shard has the hashes after {last}: the last range must end at {}", u64::MAX)]
    Open {
        /// The number of the rule.
        rule: usize,
        /// Where the last range ends.
        last: u64,
    },
    /// A region of a shard lies outside its class.
    #[error("shard `{shard}` is in `{region}`, which the residency class `{residency}` does not allow")]
    Outside {
        /// The shard.
        shard: ShardName,
        /// Its region.
        region: RegionName,
        /// Its class.
        residency: ResidencyName,
    },
    /// A rule leads tenants of one class to a shard of another.
    #[error("rule {rule}: shard `{shard}` is for {}, the rule for {}", class(.has), class(.wants))]
    Residency {
        /// The number of the rule.
        rule: usize,
        /// The shard.
        shard: ShardName,
        /// The class of the shard.
        has: Option<ResidencyName>,
        /// The class of the rule.
        wants: Option<ResidencyName>,
    },
    /// More than there may be.
    #[error("there are {count} {what}, at most {max} are allowed")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// The limit.
        max: usize,
    },
    /// A number of a shard that is none.
    #[error("there is no shard number {}", .0.0)]
    Unknown(ShardIndex),
    /// A class that is not declared.
    #[error("shard `{shard}` is for the residency class `{residency}`, which is not declared")]
    UnknownResidency {
        /// The shard.
        shard: ShardName,
        /// Its class.
        residency: ResidencyName,
    },
}

fn class(residency: &Option<ResidencyName>) -> String {
    residency
        .as_ref()
        .map_or_else(|| "tenants without a residency class".to_owned(), |name| format!("the class `{name}`"))
}

/// How much of the line of hashes has another owner in another directory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Movement {
    /// The largest part of any rule that moves, from 0 to 1.
    pub largest: f64,
    /// Are there rules that only one of them has?
    pub rules_differ: bool,
}

impl Directory {
    /// Puts a directory together.
    ///
    /// # Errors
    /// [`Invalid`] when a rule leaves a hash without an owner, or leads out of a residency class.
    pub fn new(
        key: HashKey,
        shards: Vec<Shard>,
        rules: Vec<Rule>,
        exceptions: Exceptions,
        residencies: &BTreeMap<ResidencyName, BTreeSet<RegionName>>,
    ) -> Result<Self, Invalid> {
        few("shards", shards.len(), SHARDS_MAX)?;
        few("rules", rules.len(), RULES_MAX)?;
        let mut names = BTreeMap::new();
        for (shard, index) in shards.iter().zip(0_u16..) {
            if names.insert(shard.name.clone(), ShardIndex(index)).is_some() {
                return Err(Invalid::Duplicate(shard.name.clone()));
            }
            shard.check(residencies)?;
        }
        for (number, rule) in rules.iter().enumerate() {
            rule.check(number, &shards)?;
        }
        if let Some(index) = exceptions.shards().find(|index| usize::from(index.0) >= shards.len()) {
            return Err(Invalid::Unknown(index));
        }
        Ok(Self { exceptions, key, names: Arc::new(names), rules, shards: shards.into() })
    }

    /// A directory of nothing.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            exceptions: Exceptions::default(),
            key: HashKey::new([0; 16]),
            names: Arc::default(),
            rules: Vec::new(),
            shards: Arc::default(),
        }
    }

    /// Where a tenant is; `None` when no rule is about it.
    #[must_use]
    pub fn locate(&self, tenant: &Tenant<'_>) -> Option<Place> {
        let hash = self.key.of(tenant.name);
        if let Some(place) = self.exceptions.get(hash) {
            return Some(place);
        }
        let rule = self.rules.iter().find(|rule| rule.is_about(tenant))?;
        let shard = rule.owner(hash.point())?;
        Some(Place { access: Access::Open, placement: Placement(0), shard })
    }

    /// The same directory with one tenant elsewhere.
    ///
    /// # Errors
    /// [`Invalid`] when there is no such shard.
    pub fn with(&self, tenant: &TenantName, place: Place) -> Result<Self, Invalid> {
        if self.shard(place.shard).is_none() {
            return Err(Invalid::Unknown(place.shard));
        }
        let exceptions = self.exceptions.with(self.key.of(tenant), Some(place));
        Ok(Self { exceptions, ..self.clone() })
    }

    /// The same directory with one tenant left to the rules again.
    #[must_use]
    pub fn without(&self, tenant: &TenantName) -> Self {
        Self { exceptions: self.exceptions.with(self.key.of(tenant), None), ..self.clone() }
    }

    /// A shard by its number.
    #[must_use]
    pub fn shard(&self, index: ShardIndex) -> Option<&Shard> {
        self.shards.get(usize::from(index.0))
    }

    /// A shard by its name.
    #[must_use]
    pub fn named(&self, name: &ShardName) -> Option<&Shard> {
        self.names.get(name).and_then(|index| self.shard(*index))
    }

    /// All shards, by number.
    #[must_use]
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// The rules, in their order.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The exceptions.
    #[must_use]
    pub const fn exceptions(&self) -> &Exceptions {
        &self.exceptions
    }

    /// The key of the hash.
    #[must_use]
    pub const fn key(&self) -> &HashKey {
        &self.key
    }

    /// What becomes different by other rules: shards are compared by name.
    #[must_use]
    pub fn movement(&self, other: &Self) -> Movement {
        let mut largest = 0.0_f64;
        let mut found = 0;
        for rule in &self.rules {
            let same = |with: &&Rule| with.residency == rule.residency && with.location == rule.location;
            if let Some(with) = other.rules.iter().find(same) {
                found += 1;
                largest = largest.max(self.moved(rule, other, with));
            }
        }
        Movement { largest, rules_differ: found != self.rules.len() || found != other.rules.len() }
    }

    /// The part of the line that has another owner.
    fn moved(&self, rule: &Rule, other: &Self, with: &Rule) -> f64 {
        let mut ends: Vec<u64> = rule.ranges.iter().chain(&with.ranges).map(|range| range.last).collect();
        ends.sort_unstable();
        ends.dedup();
        let mut moved = 0_u128;
        let mut begin = 0_u128;
        for end in ends {
            let name = |directory: &Self, rule: &Rule| {
                let shard = rule.owner(end).and_then(|index| directory.shard(index))?;
                Some(shard.name.clone())
            };
            let next = u128::from(end) + 1;
            if name(self, rule) != name(other, with) {
                moved += next - begin;
            }
            begin = next;
        }
        #[expect(clippy::cast_precision_loss, reason = "a part of the line needs no more than 53 bits")]
        let part = moved as f64 / (u128::from(u64::MAX) + 1) as f64;
        part
    }
}

impl Shard {
    fn check(&self, residencies: &BTreeMap<ResidencyName, BTreeSet<RegionName>>) -> Result<(), Invalid> {
        let Some(residency) = &self.residency else { return Ok(()) };
        let Some(allowed) = residencies.get(residency) else {
            return Err(Invalid::UnknownResidency { shard: self.name.clone(), residency: residency.clone() });
        };
        match self.regions().find(|region| !allowed.contains(*region)) {
            Some(region) => Err(Invalid::Outside {
                shard: self.name.clone(),
                region: region.clone(),
                residency: residency.clone(),
            }),
            None => Ok(()),
        }
    }

    /// The primary's region, then those of the replicas.
    pub fn regions(&self) -> impl Iterator<Item = &RegionName> {
        std::iter::once(&self.primary).chain(self.replicas.iter().filter(|region| **region != self.primary))
    }
}

impl Rule {
    /// All tenants of a class in equal shares.
    #[must_use]
    pub fn even(
        residency: Option<ResidencyName>,
        location: Option<RegionName>,
        shards: &[ShardIndex],
    ) -> Self {
        let count = u128::try_from(shards.len()).unwrap_or(u128::MAX).max(1);
        let whole = u128::from(u64::MAX) + 1;
        let ranges = shards.iter().zip(1_u128..).map(|(&shard, number)| Range {
            last: u64::try_from(whole * number / count - 1).unwrap_or(u64::MAX),
            shard,
        });
        Self { location, ranges: ranges.collect(), residency }
    }

    fn check(&self, number: usize, shards: &[Shard]) -> Result<(), Invalid> {
        few("ranges of a rule", self.ranges.len(), RULES_MAX)?;
        let mut before = None;
        for (place, range) in self.ranges.iter().enumerate() {
            if before.is_some_and(|before| range.last <= before) {
                return Err(Invalid::Order { rule: number, range: place, last: range.last });
            }
            before = Some(range.last);
            let shard = shards.get(usize::from(range.shard.0)).ok_or(Invalid::Unknown(range.shard))?;
            if shard.residency != self.residency {
                return Err(Invalid::Residency {
                    rule: number,
                    shard: shard.name.clone(),
                    has: shard.residency.clone(),
                    wants: self.residency.clone(),
                });
            }
        }
        match before {
            Some(u64::MAX) => Ok(()),
            last => Err(Invalid::Open { rule: number, last: last.unwrap_or(0) }),
        }
    }

    fn is_about(&self, tenant: &Tenant<'_>) -> bool {
        self.residency.as_ref() == tenant.residency
            && self.location.as_ref().is_none_or(|location| tenant.location == Some(location))
    }

    /// Who has a hash.
    #[must_use]
    pub fn owner(&self, point: u64) -> Option<ShardIndex> {
        let at = self.ranges.partition_point(|range| range.last < point);
        self.ranges.get(at).map(|range| range.shard)
    }
}

const fn few(what: &'static str, count: usize, max: usize) -> Result<(), Invalid> {
    if count > max { Err(Invalid::TooMany { what, count, max }) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
