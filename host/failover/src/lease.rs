//! Leases: which region lives, and which region writes a shard.
//!
//! # One lease for each region
//! A region has one entry in the control store. Each of its gateways renews it by a transaction that names the revision it knows, and may write from
//! the moment at which it *sent* the last renewal that was acknowledged until the lease's time less a margin ([`Holder`]). Whoever wants to take
//! it waits until the entry has not changed for the lease's time and a drift, by its own clock from its own look ([`Challenger`]), and then sets it to
//! *broken*, on that revision. So no renewal can have been acknowledged that the challenger has not waited for, whatever was delayed, and no clock is
//! compared with another.
//!
//! # Shards cite it
//! A shard's [`Ownership`] names an epoch, a region and the *incarnation* of that region's lease. It is void as soon as the lease is broken,
//! released or has another incarnation. So 10,000 shards cost a region one renewal, and one shard can be released alone. A lease that ran out and that
//! nobody has broken is renewed as it is: nobody can have written meanwhile.

mod challenger;
mod failsafe;
mod holder;
mod ownership;

use std::collections::BTreeSet;

use portolan_core::ids::RegionName;
use serde::{Deserialize, Serialize};

pub use self::challenger::{Challenger, Wait};
pub use self::failsafe::Round;
pub use self::holder::{Holder, Permit};
pub use self::ownership::{Ownership, Stands, Title, acquire, mint, release, retitle};

/// How often a region's lease has been acquired. Rises by one each time, and is never used again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

/// How a lease stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// Another region has taken it: what cites it is void.
    Broken {
        /// Who.
        by: RegionName,
    },
    /// The region holds it, as long as it renews it.
    Held,
    /// The region has given it back.
    Released,
}

/// The lease of a region, as the control store has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// How often it has been acquired.
    pub incarnation: Incarnation,
    /// How often it has been renewed, so that each renewal is a change.
    pub renewals: u64,
    /// How long it lasts, in milliseconds: what its holder counts with, and therefore what a challenger waits, whatever that is configured with.
    pub ttl_ms: u64,
    /// How it stands.
    pub standing: Standing,
    /// The regions whose acknowledgement its holder takes for a renewal while the store is away; none where it does not. Nobody else may
    /// break it.
    pub failsafe: BTreeSet<RegionName>,
}

impl Entry {
    /// Does this incarnation hold?
    #[must_use]
    pub fn holds(&self, incarnation: Incarnation) -> bool {
        self.incarnation == incarnation && self.standing == Standing::Held
    }
}

#[cfg(test)]
mod tests;
