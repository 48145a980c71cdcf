//! A plan: which addresses every managed name has, which regions take part, and how one is chosen for a client. It is checked as a
//! whole when it is made and never changes; [`answer`] is a pure function of it.
//!
//! An empty answer for a managed name cannot be written down: each name has an address, a family of addresses is had by all regions
//! of a name or by none, and where no region is in, those that were last answer, or all.

mod answer;
mod check;
mod choose;
mod draft;
mod export;
mod geography;

use std::collections::HashMap;
use std::net::IpAddr;

use portolan_core::ids::{Digest, RegionName};
use sha2::{Digest as _, Sha256};

pub use self::answer::{Answer, Client, Content, Picked, Question, answer};
pub use self::draft::{Draft, NameDraft, Near, Policy, RegionDraft, State, TtlBounds, ZoneDraft};
use self::geography::Geography;
pub use self::geography::Subnet;
use crate::name::Name;
use crate::wire::kind;

/// The name below a managed one whose text is the number of its plan.
pub const EPOCH_LABEL: &str = "_epoch";

/// What is wrong with a draft, all of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no plan: {}", .0.join("; "))]
pub struct Invalid(pub Vec<String>);

/// A set of a plan's regions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Regions(pub(crate) u64);

impl Regions {
    /// None.
    pub const NONE: Self = Self(0);

    pub(crate) const fn one(index: u8) -> Self {
        Self(1_u64.wrapping_shl(index as u32))
    }

    pub(crate) const fn with(self, index: u8) -> Self {
        Self(self.0 | Self::one(index).0)
    }

    pub(crate) const fn has(self, index: u8) -> bool {
        self.0 & Self::one(index).0 != 0
    }

    pub(crate) const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// A checked plan.
#[derive(Debug)]
pub struct Plan {
    pub(crate) digest: Digest,
    pub(crate) draft: Draft,
    pub(crate) geography: Geography,
    pub(crate) managed: Vec<Managed>,
    pub(crate) nodes: HashMap<Name, Node>,
    pub(crate) regions: Vec<Region>,
    pub(crate) zones: Vec<Zone>,
}

#[derive(Debug)]
pub(crate) struct Region {
    /// Places it among others by a hash, the same in every plan and on every node.
    pub(crate) hash: u64,
    pub(crate) name: RegionName,
    pub(crate) state: State,
    pub(crate) steady_until_ms: Option<u64>,
}

/// A zone that is answered for.
#[derive(Debug)]
pub(crate) struct Zone {
    /// All its names that have records, in the order of the standard, with what each has.
    pub(crate) chain: Vec<Link>,
    pub(crate) name_servers: RecordSet,
    pub(crate) negative_ttl_s: u32,
    pub(crate) origin: Name,
    pub(crate) soa: RecordSet,
}

/// A link of the chain that denies what is not there (NSEC).
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) data: Box<[u8]>,
    pub(crate) owner: Name,
}

/// A name that is there, also when it only leads to others.
#[derive(Debug, Default)]
pub(crate) struct Node {
    pub(crate) managed: Option<u32>,
    /// What does not depend on regions.
    pub(crate) sets: Vec<RecordSet>,
    pub(crate) zone: u16,
}

/// A managed name.
#[derive(Debug)]
pub(crate) struct Managed {
    pub(crate) answers: u8,
    /// Who answers now; never empty.
    pub(crate) candidates: Regions,
    pub(crate) hash: u64,
    /// Its place in the plan.
    pub(crate) index: u32,
    pub(crate) name: Name,
    pub(crate) policy: choose::Compiled,
    pub(crate) regions: Regions,
    pub(crate) ttl: TtlBounds,
    pub(crate) v4: Vec<Address>,
    pub(crate) v6: Vec<Address>,
    pub(crate) zone: u16,
}

/// An address, and whose it is.
#[derive(Debug)]
pub(crate) struct Address {
    pub(crate) data: Box<[u8]>,
    pub(crate) hash: u64,
    pub(crate) region: u8,
}

/// Addresses of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// `A`.
    V4,
    /// `AAAA`.
    V6,
}

impl Family {
    pub(crate) const fn kind(self) -> u16 {
        match self {
            Self::V4 => kind::A,
            Self::V6 => kind::AAAA,
        }
    }

    const fn of(address: &IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// Records that do not depend on regions.
#[derive(Clone, Debug)]
pub(crate) struct RecordSet {
    pub(crate) data: Vec<Box<[u8]>>,
    /// Names it among all sets of the plan.
    pub(crate) id: u32,
    pub(crate) kind: u16,
    pub(crate) owner: Name,
    pub(crate) ttl_s: u32,
}

impl Managed {
    pub(crate) const fn addresses(&self, family: Family) -> &Vec<Address> {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

impl Plan {
    /// Checks a draft and makes a plan of it.
    ///
    /// # Errors
    /// [`Invalid`] with all that is wrong.
    pub fn new(draft: Draft) -> Result<Self, Invalid> {
        check::plan(draft)
    }

    /// Its number.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.draft.number
    }

    /// The digest of all it says: two plans of one number must have the same.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// What it was made of.
    #[must_use]
    pub const fn draft(&self) -> &Draft {
        &self.draft
    }

    /// The regions of these names that the plan knows.
    #[must_use]
    pub fn regions<'a>(&self, names: impl IntoIterator<Item = &'a RegionName>) -> Regions {
        let mut regions = Regions::NONE;
        for name in names {
            let at = self.regions.iter().position(|region| region.name == *name);
            if let Some(index) = at.and_then(|at| u8::try_from(at).ok()) {
                regions = regions.with(index);
            }
        }
        regions
    }

    /// The zones that it answers for.
    pub fn zones(&self) -> impl Iterator<Item = &Name> {
        self.zones.iter().map(|zone| &zone.origin)
    }

    /// The zone's number on the wire: the plan's, of which 32 bits are told.
    #[must_use]
    pub const fn serial(&self) -> u32 {
        (self.draft.number & 0xffff_ffff) as u32
    }

    /// Where a zone is among the plan's.
    pub(crate) fn zone(&self, origin: &[u8]) -> Option<u16> {
        let node = self.nodes.get(origin)?;
        let zone = self.zones.get(usize::from(node.zone))?;
        (zone.origin.wire() == origin).then_some(node.zone)
    }
}

/// An address of its bytes on the wire.
pub(crate) fn address(data: &[u8]) -> Option<IpAddr> {
    if let Ok(bytes) = <[u8; 4]>::try_from(data) {
        return Some(IpAddr::from(bytes));
    }
    <[u8; 16]>::try_from(data).ok().map(IpAddr::from)
}

/// The digest of a draft's text, which has one form: all maps in it are sorted.
fn digest(draft: &Draft) -> Result<Digest, String> {
    let text = serde_json::to_vec(draft).map_err(|error| format!("it cannot be written down: {error}"))?;
    Ok(Digest(Sha256::digest(&text).into()))
}

#[cfg(test)]
mod tests;
