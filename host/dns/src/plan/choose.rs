//! Choosing a name's addresses for a client: a race of regions that each client's network repeats in the same way, on every node and
//! in whatever order things are listed. A region that comes or goes moves only those clients that it takes or had.

use portolan_core::balance::splitmix;
use smallvec::SmallVec;

use super::answer::Client;
use super::geography::Subnet;
use super::{Address, Family, Managed, Plan, Regions};
use crate::defaults::{HASH_BITS_V4, HASH_BITS_V6};

/// Before any region that a policy does not name comes each that it names.
const UNNAMED: f64 = 1e6;

/// A policy whose regions are places in the plan.
#[derive(Debug)]
pub(crate) enum Compiled {
    Nearest,
    Ordered(SmallVec<[u8; 8]>),
    Weighted(SmallVec<[(u8, u32); 8]>),
}

/// The addresses of an answer, by their places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) first: usize,
    pub(crate) second: Option<usize>,
    /// How many bits of the client's address the answer depends on.
    pub(crate) scope: u8,
}

impl Compiled {
    /// Does a region take clients while others of the name are in?
    pub(crate) fn takes(&self, region: u8) -> bool {
        match self {
            Self::Weighted(weights) => weights.iter().any(|(at, weight)| *at == region && *weight > 0),
            Self::Nearest | Self::Ordered(_) => true,
        }
    }
}

/// A client as hashes see it: as much of its network as resolvers tell.
#[derive(Clone, Copy)]
struct Hashed {
    bits: u8,
    word: u64,
}

impl Hashed {
    fn new(name: u64, client: &Subnet) -> Self {
        let bits = if client.is_v6 { HASH_BITS_V6 } else { HASH_BITS_V4 };
        let network = client.truncated(bits);
        let (high, low) = ((network >> 64) as u64, network as u64);
        Self { bits, word: splitmix(splitmix(name ^ u64::from(bits) ^ high) ^ low) }
    }

    const fn with(self, other: u64) -> u64 {
        splitmix(self.word ^ other)
    }

    /// How late one of some weight is in the race (exponential variates: the chance to be first is the weight's share).
    fn lateness(self, other: u64, weight: u32) -> f64 {
        // The upper 53 bits, as an even draw from (0, 1).
        let even = ((self.with(other) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        if weight == 0 { UNNAMED - even.ln() } else { -even.ln() / f64::from(weight) }
    }
}

/// Chooses. `None` for a family that the name does not have.
pub(crate) fn choose(plan: &Plan, managed: &Managed, family: Family, client: Client<'_>) -> Option<Chosen> {
    let addresses = managed.addresses(family);
    let hashed = Hashed::new(managed.hash, &client.network);
    let near = match managed.policy {
        Compiled::Nearest => Some(Near::to(plan, client)),
        Compiled::Ordered(_) | Compiled::Weighted(_) => None,
    };
    let place = |listed: &[u8], region: u8| match (0_u32..).zip(listed).find(|(_, at)| **at == region) {
        Some((at, _)) => f64::from(at),
        None => UNNAMED + hashed.lateness(region_hash(plan, region), 1),
    };
    let lateness = |region: u8| match &managed.policy {
        Compiled::Ordered(order) => place(order, region),
        Compiled::Nearest => place(near.as_ref().map_or(&[][..], |near| &near.regions), region),
        Compiled::Weighted(weights) => {
            let weight = weights.iter().find(|(at, _)| *at == region).map_or(0, |(_, weight)| *weight);
            hashed.lateness(region_hash(plan, region), weight)
        }
    };
    let two = managed.answers > 1;
    let race = Race::run(managed.candidates, lateness);
    let (first_region, late) = race.first?;
    let inside = within(addresses, first_region, hashed);
    let first = inside.first?;
    let mut scope = if inside.count > 1 { hashed.bits } else { 0 };
    let mut second = None;
    let mut latest = late;
    if two {
        match race.second {
            Some((region, late)) => {
                let inside = within(addresses, region, hashed);
                second = inside.first;
                latest = late;
                scope = scope.max(if inside.count > 1 { hashed.bits } else { 0 });
            }
            None => second = inside.second,
        }
    }
    if race.second.is_some() {
        scope = scope.max(match &managed.policy {
            Compiled::Weighted(_) => hashed.bits,
            Compiled::Ordered(_) if latest < UNNAMED => 0,
            Compiled::Nearest if latest < UNNAMED => near.as_ref().map_or(0, |near| near.scope),
            Compiled::Ordered(_) | Compiled::Nearest => {
                near.as_ref().map_or(0, |near| near.scope).max(hashed.bits)
            }
        });
    }
    Some(Chosen { first, second, scope })
}

/// What is near to a client.
struct Near {
    /// Regions by their places in the plan, the nearest first; none when nothing is known.
    regions: SmallVec<[u8; 8]>,
    /// All networks of this length around the client have the same near to them.
    scope: u8,
}

impl Near {
    /// As the plan says of the client's network, else as its place on earth says.
    fn to(plan: &Plan, client: Client<'_>) -> Self {
        let told = plan.geography.find(&client.network);
        let Some(geography) = client.geography.filter(|_| told.regions.is_empty()) else {
            return Self { regions: told.regions.into(), scope: told.scope };
        };
        let located = geography.locate(client.network.address());
        let order = geography.order(&located.place);
        // The plan's regions are in the order of their names.
        let place = |name| plan.regions.binary_search_by(|region| region.name.cmp(name)).ok();
        let regions = order.into_iter().filter_map(|name| u8::try_from(place(name)?).ok()).collect();
        Self { regions, scope: told.scope.max(located.prefix_bits) }
    }
}

fn region_hash(plan: &Plan, region: u8) -> u64 {
    plan.regions.get(usize::from(region)).map_or(0, |region| region.hash)
}

/// The two that are first.
struct Race {
    first: Option<(u8, f64)>,
    second: Option<(u8, f64)>,
}

impl Race {
    fn run(regions: Regions, lateness: impl Fn(u8) -> f64) -> Self {
        let mut race = Self { first: None, second: None };
        let mut left = regions.0;
        while left != 0 {
            let region = u8::try_from(left.trailing_zeros()).unwrap_or(0);
            left &= left - 1;
            let late = lateness(region);
            if race.first.is_none_or(|(_, first)| late < first) {
                race.second = race.first;
                race.first = Some((region, late));
            } else if race.second.is_none_or(|(_, second)| late < second) {
                race.second = Some((region, late));
            }
        }
        race
    }
}

struct Within {
    count: usize,
    first: Option<usize>,
    second: Option<usize>,
}

/// The two addresses of a region that are first by hash.
fn within(addresses: &[Address], region: u8, hashed: Hashed) -> Within {
    let mut found = Within { count: 0, first: None, second: None };
    let (mut best, mut next) = (0, 0);
    for (at, address) in addresses.iter().enumerate().filter(|(_, address)| address.region == region) {
        let word = hashed.with(address.hash);
        if found.first.is_none() || word > best {
            (found.second, next) = (found.first, best);
            (found.first, best) = (Some(at), word);
        } else if found.second.is_none() || word > next {
            (found.second, next) = (Some(at), word);
        }
        found.count += 1;
    }
    found
}
