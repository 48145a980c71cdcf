//! Networks and what is near to them. A look-up also says how many bits of the client's address it took to know.

use std::net::IpAddr;

use ipnet::IpNet;
use smallvec::SmallVec;

/// A client's network, as a resolver told it or as its own address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// The address's bits from the left; all behind the prefix are zero.
    pub(crate) bits: u128,
    pub(crate) is_v6: bool,
    /// How many of the bits are known.
    pub(crate) length: u8,
}

impl Subnet {
    /// A network; bits behind its length are dropped.
    #[must_use]
    pub fn new(address: IpAddr, length: u8) -> Self {
        let (bits, is_v6, width) = match address {
            IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, false, 32),
            IpAddr::V6(v6) => (v6.to_bits(), true, 128),
        };
        let length = length.min(width);
        Self { bits: bits & mask(length), is_v6, length }
    }

    /// The network of exactly this address.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        // A resolver that comes by IPv4 over a socket of both families is where its IPv4 address is.
        Self::new(address.to_canonical(), 128)
    }

    /// Its first address.
    pub(crate) fn address(&self) -> IpAddr {
        if self.is_v6 {
            return IpAddr::V6(self.bits.into());
        }
        let [a, b, c, d, ..] = self.bits.to_be_bytes();
        IpAddr::from([a, b, c, d])
    }

    /// The bits of the network of at most `length`.
    pub(crate) fn truncated(&self, length: u8) -> u128 {
        self.bits & mask(length)
    }
}

/// As many bits from the left.
fn mask(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(length.min(128))).unwrap_or(0)
}

fn shared(one: u128, other: u128) -> u8 {
    u8::try_from((one ^ other).leading_zeros()).unwrap_or(128)
}

#[derive(Debug)]
struct Entry {
    bits: u128,
    length: u8,
    /// The entry around it.
    parent: Option<u32>,
    /// Regions by their places in the plan, the nearest first.
    regions: SmallVec<[u8; 8]>,
}

#[derive(Debug, Default)]
struct Table(Vec<Entry>);

/// The tables of both families.
#[derive(Debug, Default)]
pub(crate) struct Geography {
    v4: Table,
    v6: Table,
}

/// What is known of a client's place.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found<'a> {
    /// The nearest regions; none when the table does not say.
    pub(crate) regions: &'a [u8],
    /// All networks of this length around the client get the same.
    pub(crate) scope: u8,
}

impl Geography {
    /// Of distinct prefixes, with the regions of each.
    pub(crate) fn new(entries: impl IntoIterator<Item = (IpNet, SmallVec<[u8; 8]>)>) -> Self {
        let mut tables = Self::default();
        for (prefix, regions) in entries {
            let subnet = Subnet::new(prefix.network(), prefix.prefix_len());
            let table = if subnet.is_v6 { &mut tables.v6 } else { &mut tables.v4 };
            table.0.push(Entry { bits: subnet.bits, length: subnet.length, parent: None, regions });
        }
        tables.v4.order();
        tables.v6.order();
        tables
    }

    pub(crate) fn find(&self, client: &Subnet) -> Found<'_> {
        if client.is_v6 { self.v6.find(client.bits) } else { self.v4.find(client.bits) }
    }
}

impl Table {
    fn order(&mut self) {
        self.0.sort_by_key(|entry| (entry.bits, entry.length));
        let mut around: Vec<(u32, u128, u8)> = Vec::new();
        for (at, entry) in (0_u32..).zip(&mut self.0) {
            while around.last().is_some_and(|(_, bits, length)| entry.bits & mask(*length) != *bits) {
                around.pop();
            }
            entry.parent = around.last().map(|(parent, ..)| *parent);
            around.push((at, entry.bits, entry.length));
        }
    }

    /// The longest prefix around an address. Whether another is nearer is decided by the neighbours in the order: no other entry
    /// shares more bits with the address.
    fn find(&self, bits: u128) -> Found<'_> {
        let after = self.0.partition_point(|entry| entry.bits <= bits);
        let before = after.checked_sub(1).and_then(|at| self.0.get(at));
        let needed = |entry: Option<&Entry>| {
            entry.map_or(0, |entry| {
                let shared = shared(entry.bits, bits);
                if shared >= entry.length { entry.length } else { shared + 1 }
            })
        };
        let scope = needed(before).max(needed(self.0.get(after)));
        let mut around = before;
        while let Some(entry) = around {
            if bits & mask(entry.length) == entry.bits {
                return Found { regions: &entry.regions, scope };
            }
            around = entry.parent.and_then(|parent| self.0.get(usize::try_from(parent).ok()?));
        }
        Found { regions: &[], scope }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn table(prefixes: &[(&str, u8)]) -> Geography {
        Geography::new(
            prefixes
                .iter()
                .map(|(prefix, region)| (prefix.parse::<IpNet>().unwrap(), SmallVec::from_slice(&[*region]))),
        )
    }

    #[test]
    fn the_longest_prefix_says_it_and_the_scope_is_what_it_took() {
        let geography =
            table(&[("10.0.0.0/8", 1), ("10.0.0.0/24", 2), ("10.0.1.0/28", 3), ("2001:db8::/32", 4)]);
        let find = |address: &str| {
            let found = geography.find(&Subnet::host(address.parse().unwrap()));
            (found.regions.first().copied(), found.scope)
        };
        assert_eq!(find("10.0.0.7"), (Some(2), 24));
        assert_eq!(find("10.0.1.3"), (Some(3), 28));
        assert_eq!(find("10.0.1.200"), (Some(1), 25));
        assert_eq!(find("10.128.0.0"), (Some(1), 9));
        assert_eq!(find("11.0.0.0"), (None, 8));
        assert_eq!(find("192.0.2.1"), (None, 1));
        assert_eq!(find("2001:db8::1"), (Some(4), 32));
        assert_eq!(
            table(&[]).find(&Subnet::host(Ipv6Addr::LOCALHOST.into())),
            Found { regions: &[], scope: 0 }
        );
    }

    fn prefixes() -> impl Strategy<Value = Vec<(u32, u8)>> {
        // Few distinct addresses, so that prefixes lie within each other.
        prop::collection::vec(((0_u32..16).prop_map(|bits| bits << 26), 0_u8..=9), 0..20)
    }

    proptest! {
        #[test]
        fn all_of_a_scope_have_the_same_answer(prefixes in prefixes(), address: u32, other: u32) {
            let mut entries: Vec<(IpNet, SmallVec<[u8; 8]>)> = prefixes.into_iter().enumerate().map(|(at, (bits, length))| {
                let net = ipnet::Ipv4Net::new(Ipv4Addr::from_bits(bits), length).unwrap().trunc();
                (IpNet::V4(net), SmallVec::from_slice(&[u8::try_from(at).unwrap()]))
            }).collect();
            entries.sort_by_key(|(net, _)| *net);
            entries.dedup_by_key(|(net, _)| *net);
            let naive = |address: u32| {
                let around = entries.iter().filter(|(net, _)| net.contains(&IpAddr::V4(Ipv4Addr::from_bits(address))));
                around.max_by_key(|(net, _)| net.prefix_len()).map(|(_, regions)| regions.to_vec()).unwrap_or_default()
            };
            let geography = Geography::new(entries.clone());
            let found = geography.find(&Subnet::host(Ipv4Addr::from_bits(address).into()));
            prop_assert_eq!(found.regions, naive(address));
            let keep = u32::MAX.checked_shl(32 - u32::from(found.scope)).unwrap_or(0);
            prop_assert_eq!(found.regions, naive(address & keep | other & !keep));
        }
    }
}
