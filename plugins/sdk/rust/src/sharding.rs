//! Sharding policies: which shard a new tenant goes to, and what is to change so that the shards stand better.

use serde::de::DeserializeOwned;

use crate::draft::Refusal;
use crate::facts::Facts;
use crate::shard_host as host;

/// A policy that places tenants on shards. Both functions must be pure.
///
/// Whatever they say, the gateway holds to its own rules: every hash has exactly one owner, residency classes, capacities,
/// drained shards, and how much one plan may move.
pub trait Sharding {
    /// Its configuration, read from the slot's JSON object.
    type Config: DeserializeOwned;

    /// The shard for a new tenant; `None` to leave it to the rules.
    ///
    /// # Errors
    /// A refusal leaves the tenant to the rules, and is shown to the operator.
    fn place(
        config: Self::Config,
        tenant: &str,
        facts: &Facts,
        shards: &Shards,
    ) -> Result<Option<String>, Refusal>;

    /// Writes what is to change; nothing when all stands well.
    ///
    /// # Errors
    /// A refusal is shown to the operator, and there is no plan.
    fn rebalance(
        config: Self::Config,
        facts: &Facts,
        shards: &Shards,
        changes: &mut Changes,
    ) -> Result<(), Refusal>;
}

/// The shards, rules and tenants: one picture for the whole of a call. Names that do not exist have nothing.
#[derive(Debug)]
pub struct Shards(pub(crate) ());

/// What is to change. Every call is checked; a refused one changes nothing.
#[derive(Debug)]
pub struct Changes(pub(crate) ());

/// A part of the line of hashes, from the end of the one before to `last`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The last hash.
    pub last: u64,
    /// Whose it is.
    pub shard: String,
}

impl Shards {
    /// All shards, in the order of their names.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        host::shards()
    }

    /// The residency class of a shard.
    #[must_use]
    pub fn residency(&self, shard: &str) -> Option<String> {
        host::shard_residency(shard)
    }

    /// The regions that keep a shard; the first one writes it.
    #[must_use]
    pub fn regions(&self, shard: &str) -> Vec<String> {
        host::shard_regions(shard)
    }

    /// Does a shard take tenants?
    #[must_use]
    pub fn takes(&self, shard: &str) -> bool {
        host::shard_takes(shard)
    }

    /// The shards that take tenants of a residency class, in the order of their names.
    #[must_use]
    pub fn takers(&self, residency: Option<&str>) -> Vec<String> {
        let mut names = self.names();
        names.retain(|name| self.takes(name) && self.residency(name).as_deref() == residency);
        names
    }

    /// The classes that shards are for; `None` among them for tenants without one.
    #[must_use]
    pub fn classes(&self) -> Vec<Option<String>> {
        let mut classes: Vec<_> = self.names().iter().map(|shard| self.residency(shard)).collect();
        classes.sort();
        classes.dedup();
        classes
    }

    /// How many known tenants a shard has.
    #[must_use]
    pub fn tenants_of(&self, shard: &str) -> u64 {
        host::shard_tenants(shard)
    }

    /// How many it may have; `None` without a limit.
    #[must_use]
    pub fn capacity(&self, shard: &str) -> Option<u64> {
        host::shard_capacity(shard)
    }

    /// How much of what it can do it does, in thousandths.
    #[must_use]
    pub fn load(&self, shard: &str) -> u32 {
        host::shard_load(shard)
    }

    /// The rule for a residency class and location; empty when there is none.
    #[must_use]
    pub fn rule(&self, residency: Option<&str>, location: Option<&str>) -> Vec<Span> {
        host::rule(residency, location)
    }

    /// All known tenants, in the order of their names.
    pub fn tenants(&self) -> impl Iterator<Item = String> {
        let mut page: std::vec::IntoIter<String> = host::tenants("", u32::MAX).into_iter();
        let mut last = String::new();
        std::iter::from_fn(move || {
            if page.len() == 0 && !last.is_empty() {
                page = host::tenants(&last, u32::MAX).into_iter();
            }
            let next = page.next()?;
            last.clone_from(&next);
            Some(next)
        })
    }

    /// The shard that a tenant is on, or would be put on by the rules.
    #[must_use]
    pub fn of(&self, tenant: &str) -> Option<String> {
        host::tenant_shard(tenant)
    }

    /// The residency class of a tenant.
    #[must_use]
    pub fn tenant_residency(&self, tenant: &str) -> Option<String> {
        host::tenant_residency(tenant)
    }

    /// The region that a tenant works in.
    #[must_use]
    pub fn tenant_location(&self, tenant: &str) -> Option<String> {
        host::tenant_location(tenant)
    }

    /// Where a name lies on the line of hashes.
    #[must_use]
    pub fn hash(&self, tenant: &str) -> u64 {
        host::tenant_hash(tenant)
    }
}

impl Changes {
    /// How many tenants the plan may move.
    #[must_use]
    pub fn moves_max(&self) -> u32 {
        host::moves_max()
    }

    /// How much of one rule's line the plan may give to other shards, in thousandths.
    #[must_use]
    pub fn line_permille_max(&self) -> u32 {
        host::line_permille_max()
    }

    /// Moves a known tenant. The reason is one line for people.
    ///
    /// # Errors
    /// When a name does not exist, the shard may not have the tenant, or it is one move too many (code 1).
    pub fn relocate(&mut self, tenant: &str, to: &str, reason: &str) -> Result<(), Refusal> {
        host::relocate(tenant, to, reason)
    }

    /// Replaces or adds the rule for a residency class and location. Known tenants that it puts elsewhere are moved.
    ///
    /// # Errors
    /// When a hash has no owner, a shard may not have the tenants, or too much of the line moves (code 1).
    pub fn set_rule(
        &mut self,
        residency: Option<&str>,
        location: Option<&str>,
        spans: &[Span],
        reason: &str,
    ) -> Result<(), Refusal> {
        host::set_rule(residency, location, spans, reason)
    }

    /// Gives each piece of the rule for a class the owner that `wanted` says, as much as this plan may move: first pieces of
    /// shards that take nobody, then the others from the beginning of the line. `step` is the length of a piece; `wanted` is
    /// asked for the place of each, and `None` leaves it where it is. Without a rule, all of it is given.
    ///
    /// # Errors
    /// As [`Changes::set_rule`].
    pub fn steer(
        &mut self,
        shards: &Shards,
        residency: Option<&str>,
        (step, reason): (u64, &str),
        wanted: impl Fn(u64) -> Option<String>,
    ) -> Result<(), Refusal> {
        let now = shards.rule(residency, None);
        let mut pieces = pieces(&now, step);
        let mut left = (1_u128 << 64) * u128::from(self.line_permille_max()) / 1_000;
        let mut changed = false;
        for only_drained in [true, false] {
            for piece in &mut pieces {
                let Some(owner) = wanted(piece.last / step).filter(|owner| *owner != piece.shard) else {
                    continue;
                };
                let free = now.is_empty();
                if only_drained && (free || shards.takes(&piece.shard)) || !free && piece.length > left {
                    continue;
                }
                left -= if free { 0 } else { piece.length };
                piece.shard = owner;
                changed = true;
            }
        }
        if !changed { Ok(()) } else { self.set_rule(residency, None, &merged(pieces), reason) }
    }
}

/// A part of the line with its length.
struct Piece {
    last: u64,
    length: u128,
    shard: String,
}

/// A rule cut at its own ends and after each step.
fn pieces(rule: &[Span], step: u64) -> Vec<Piece> {
    let step = step.max(1);
    let mut ends: Vec<u64> = rule.iter().map(|span| span.last).collect();
    ends.extend((0..=u64::MAX / step).map(|number| (number * step).saturating_add(step - 1)));
    ends.sort_unstable();
    ends.dedup();
    let mut begin = 0_u128;
    let piece = |last: u64| {
        let length = u128::from(last) + 1 - begin;
        begin = u128::from(last) + 1;
        let owner = rule.iter().find(|span| last <= span.last);
        Piece { last, length, shard: owner.map(|span| span.shard.clone()).unwrap_or_default() }
    };
    ends.into_iter().map(piece).collect()
}

/// Pieces side by side with one owner are one span.
fn merged(pieces: Vec<Piece>) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for Piece { last, shard, .. } in pieces {
        match spans.last_mut().filter(|span| span.shard == shard) {
            Some(span) => span.last = last,
            None => spans.push(Span { last, shard }),
        }
    }
    spans
}

/// What `export!` calls.
#[doc(hidden)]
pub mod glue {
    use super::{Changes, Facts, Refusal, Sharding, Shards};

    fn config<P: Sharding>(text: &str) -> Result<P::Config, Refusal> {
        serde_json::from_str(text)
            .map_err(|error| Refusal::value(format!("the configuration does not fit: {error}")))
    }

    /// Reads the configuration and places.
    ///
    /// # Errors
    /// Those of the policy, and a configuration that does not read.
    pub fn place<P: Sharding>(text: &str, tenant: &str) -> Result<Option<String>, Refusal> {
        P::place(config::<P>(text)?, tenant, &Facts(()), &Shards(()))
    }

    /// Reads the configuration and rebalances.
    ///
    /// # Errors
    /// Those of the policy, and a configuration that does not read.
    pub fn rebalance<P: Sharding>(text: &str) -> Result<(), Refusal> {
        P::rebalance(config::<P>(text)?, &Facts(()), &Shards(()), &mut Changes(()))
    }
}
