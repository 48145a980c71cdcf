//! From a draft to a plan: everything is checked, and all that is wrong is told at once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use portolan_core::balance::stable_hash;
use portolan_core::ids::RegionName;
use smallvec::SmallVec;

use super::choose::Compiled;
use super::draft::{Draft, NameDraft, Policy, State, ZoneDraft};
use super::geography::Geography;
use super::{
    Address, EPOCH_LABEL, Family, Invalid, Link, Managed, Node, Plan, RecordSet, Region, Regions, Zone,
};
use crate::defaults::{
    ADDRESSES_MAX, EXPIRE_S, NAMES_MAX, NEGATIVE_TTL_MAX_S, PREFIXES_MAX, REFRESH_S, REGIONS_MAX, RETRY_S,
    TTL_MAX_S, TTL_MIN_S, ZONE_TTL_S, ZONES_MAX,
};
use crate::name::Name;
use crate::wire::kind;

/// What is being checked.
struct Checker {
    indexes: BTreeMap<RegionName, u8>,
    managed: Vec<Managed>,
    next_set: u32,
    nodes: HashMap<Name, Node>,
    problems: Vec<String>,
    regions: Vec<Region>,
}

pub(super) fn plan(draft: Draft) -> Result<Plan, Invalid> {
    let mut checker = Checker {
        indexes: BTreeMap::new(),
        managed: Vec::new(),
        next_set: 0,
        nodes: HashMap::new(),
        problems: Vec::new(),
        regions: Vec::new(),
    };
    checker.regions(&draft);
    let geography = checker.geography(&draft);
    checker.nested(&draft);
    let mut zones = Vec::new();
    for (origin, zone) in draft.zones.iter().take(ZONES_MAX) {
        let index = u16::try_from(zones.len()).unwrap_or(u16::MAX);
        zones.extend(checker.zone(index, origin, zone, draft.number));
    }
    let digest = super::digest(&draft).map_err(|problem| Invalid(vec![problem]))?;
    if !checker.problems.is_empty() {
        return Err(Invalid(checker.problems));
    }
    for zone in &mut zones {
        zone.chain = chain(zone, &checker.nodes, &checker.managed);
    }
    let Checker { managed, nodes, regions, .. } = checker;
    Ok(Plan { digest, draft, geography, managed, nodes, regions, zones })
}

impl Checker {
    fn wrong(&mut self, problem: String) {
        self.problems.push(problem);
    }

    fn regions(&mut self, draft: &Draft) {
        if draft.regions.is_empty() {
            self.wrong("it has no region: name at least one".to_owned());
        }
        if draft.regions.len() > REGIONS_MAX {
            self.wrong(format!("it has {} regions: {REGIONS_MAX} are possible", draft.regions.len()));
        }
        for (index, (name, region)) in (0_u8..).zip(draft.regions.iter().take(REGIONS_MAX)) {
            self.indexes.insert(name.clone(), index);
            self.regions.push(Region {
                hash: stable_hash(name.as_str().as_bytes()),
                name: name.clone(),
                state: region.state,
                steady_until_ms: region.steady_until_ms,
            });
        }
    }

    fn geography(&mut self, draft: &Draft) -> Geography {
        if draft.geography.len() > PREFIXES_MAX {
            self.wrong(format!(
                "its geography has {} networks: {PREFIXES_MAX} are possible",
                draft.geography.len()
            ));
        }
        let mut seen = BTreeSet::new();
        let mut entries = Vec::new();
        for near in draft.geography.iter().take(PREFIXES_MAX) {
            if near.prefix.trunc() != near.prefix {
                self.wrong(format!(
                    "{} has bits behind its length: write {}",
                    near.prefix,
                    near.prefix.trunc()
                ));
            }
            if !seen.insert(near.prefix) {
                self.wrong(format!("the geography names {} twice: keep one", near.prefix));
            }
            let mut regions: SmallVec<[u8; 8]> = SmallVec::new();
            for name in &near.regions {
                regions.extend(self.region(name, &near.prefix));
            }
            entries.push((near.prefix, regions));
        }
        Geography::new(entries)
    }

    fn region(&mut self, name: &RegionName, whose: &dyn std::fmt::Display) -> Option<u8> {
        let index = self.indexes.get(name).copied();
        if index.is_none() {
            self.wrong(format!(
                "{whose} names the region `{name}`, which the plan does not have: add it, or take it off"
            ));
        }
        index
    }

    fn nested(&mut self, draft: &Draft) {
        let origins: Vec<&Name> = draft.zones.keys().take(ZONES_MAX).collect();
        if draft.zones.len() > ZONES_MAX {
            self.wrong(format!("it has {} zones: {ZONES_MAX} are possible", draft.zones.len()));
        }
        for (at, one) in origins.iter().enumerate() {
            for other in origins.iter().skip(at + 1).filter(|other| one.covers(other)) {
                self.wrong(format!("the zone {other} lies within {one}: put its names into that"));
            }
        }
        let names: usize = draft.zones.values().map(|zone| zone.names.len()).sum();
        if names > NAMES_MAX {
            self.wrong(format!("it has {names} names: {NAMES_MAX} are possible"));
        }
    }

    fn zone(&mut self, index: u16, origin: &Name, draft: &ZoneDraft, number: u64) -> Option<Zone> {
        if draft.negative_ttl_s > NEGATIVE_TTL_MAX_S {
            self.wrong(format!(
                "{origin} lets \"there is nothing\" be kept for {} s: a wrong one would hide a name for so long, \
                 {NEGATIVE_TTL_MAX_S} are possible",
                draft.negative_ttl_s
            ));
        }
        let Some(primary) = draft.primary(origin) else {
            self.wrong(format!("{origin} has no name server: name those that its delegation names"));
            return None;
        };
        let soa = soa(primary, draft, number);
        let servers = draft.name_servers.keys().map(|name| name.wire().into()).collect();
        let zone = Zone {
            chain: Vec::new(),
            name_servers: self.set(origin, kind::NS, ZONE_TTL_S, servers),
            negative_ttl_s: draft.negative_ttl_s,
            origin: origin.clone(),
            soa: self.set(origin, kind::SOA, draft.negative_ttl_s, vec![soa]),
        };
        self.node(index, origin, origin).sets.extend([zone.soa.clone(), zone.name_servers.clone()]);
        for (server, addresses) in &draft.name_servers {
            self.name_server(index, origin, server, addresses, draft);
        }
        for (name, managed) in &draft.names {
            self.managed(index, origin, name, managed, draft, number);
        }
        Some(zone)
    }

    fn set(&mut self, owner: &Name, kind: u16, ttl_s: u32, data: Vec<Box<[u8]>>) -> RecordSet {
        self.next_set += 1;
        RecordSet { data, id: self.next_set, kind, owner: owner.clone(), ttl_s }
    }

    /// The node of a name, and nodes on the way to it.
    fn node(&mut self, zone: u16, origin: &Name, name: &Name) -> &mut Node {
        let mut above = name.parent();
        while let Some(name) = above.filter(|name| origin.covers(name)) {
            above = name.parent();
            self.nodes.entry(name).or_default().zone = zone;
        }
        let node = self.nodes.entry(name.clone()).or_default();
        node.zone = zone;
        node
    }

    fn name_server(
        &mut self,
        zone: u16,
        origin: &Name,
        server: &Name,
        addresses: &[IpAddr],
        draft: &ZoneDraft,
    ) {
        let inside = origin.covers(server);
        if inside && draft.names.contains_key(server) {
            self.wrong(format!(
                "{server} is a name server and a managed name: give the server a name of its own"
            ));
        } else if inside && addresses.is_empty() {
            self.wrong(format!("the name server {server} lies within {origin}: say its addresses"));
        } else if !inside && !addresses.is_empty() {
            self.wrong(format!(
                "the name server {server} lies outside of {origin}: its addresses are told there"
            ));
        }
        if !inside {
            return;
        }
        for family in [Family::V4, Family::V6] {
            let of_family = addresses.iter().filter(|address| Family::of(address) == family);
            let data: BTreeSet<Box<[u8]>> = of_family.map(bytes).collect();
            if !data.is_empty() {
                let set = self.set(server, family.kind(), ZONE_TTL_S, data.into_iter().collect());
                self.node(zone, origin, server).sets.push(set);
            }
        }
    }

    fn managed(
        &mut self,
        zone: u16,
        origin: &Name,
        name: &Name,
        draft: &NameDraft,
        around: &ZoneDraft,
        number: u64,
    ) {
        if !origin.covers(name) {
            self.wrong(format!("{name} does not lie within {origin}: put it into its zone"));
            return;
        }
        let Ok(epoch) = name.under(EPOCH_LABEL) else {
            self.wrong(format!("{name} is too long: {EPOCH_LABEL} must fit before it"));
            return;
        };
        self.bounds(name, draft, around);
        let (v4, v6) = (self.addresses(name, draft, Family::V4), self.addresses(name, draft, Family::V6));
        if v4.is_empty() && v6.is_empty() {
            self.wrong(format!("{name} has no address: an answer is never empty, so give each region one"));
        }
        let mut regions = Regions::NONE;
        for region in draft.addresses.keys() {
            regions = self.indexes.get(region).map_or(regions, |index| regions.with(*index));
        }
        let policy = self.policy(name, draft);
        let mut last_good = Regions::NONE;
        for region in &draft.last_good {
            last_good = self.indexes.get(region).map_or(last_good, |index| last_good.with(*index));
        }
        let candidates = self.candidates(&policy, regions, Regions(last_good.0 & regions.0));
        let index = u32::try_from(self.managed.len()).unwrap_or(u32::MAX);
        let managed = Managed {
            answers: draft.answers,
            candidates,
            hash: stable_hash(name.wire()),
            index,
            name: name.clone(),
            policy,
            regions,
            ttl: draft.ttl,
            v4,
            v6,
            zone,
        };
        self.managed.push(managed);
        self.node(zone, origin, name).managed = Some(index);
        let text = number.to_string();
        let mut data = vec![u8::try_from(text.len()).unwrap_or(u8::MAX)];
        data.extend_from_slice(text.as_bytes());
        let set = self.set(&epoch, kind::TXT, draft.ttl.min_s, vec![data.into()]);
        self.node(zone, origin, &epoch).sets.push(set);
    }

    fn bounds(&mut self, name: &Name, draft: &NameDraft, around: &ZoneDraft) {
        let ttl = draft.ttl;
        if !(TTL_MIN_S <= ttl.min_s && ttl.min_s <= ttl.max_s && ttl.max_s <= TTL_MAX_S) {
            self.wrong(format!(
                "{name} may be kept for {} to {} s: choose two times from {TTL_MIN_S} to {TTL_MAX_S}, the shorter first",
                ttl.min_s, ttl.max_s
            ));
        }
        if around.negative_ttl_s > ttl.max_s {
            self.wrong(format!(
                "{name} may be kept for less time than \"there is nothing\" in its zone: lower that"
            ));
        }
        if !(1..=2).contains(&draft.answers) {
            self.wrong(format!(
                "{name} is answered with {} addresses: one or two are possible",
                draft.answers
            ));
        }
        for region in &draft.last_good {
            self.region(region, name);
        }
        let families = |region: &[IpAddr]| {
            [Family::V4, Family::V6].map(|family| region.iter().any(|address| Family::of(address) == family))
        };
        let mut all = draft.addresses.values().map(|region| families(region));
        let first = all.next();
        if all.any(|other| Some(other) != first) {
            self.wrong(format!(
                "some regions of {name} have addresses of a family that others do not have: when they are out, the name would have \
                 none; give all regions addresses of both families, or of one"
            ));
        }
    }

    fn addresses(&mut self, name: &Name, draft: &NameDraft, family: Family) -> Vec<Address> {
        let mut found = BTreeSet::new();
        for (region, addresses) in &draft.addresses {
            let Some(index) = self.region(region, name) else { continue };
            for address in addresses.iter().filter(|address| Family::of(address) == family) {
                if address.is_unspecified() || address.is_multicast() {
                    self.wrong(format!("{name} has the address {address}, which nobody can connect to"));
                }
                if found.iter().any(|(_, other)| other == address) {
                    self.wrong(format!("{name} has the address {address} twice: keep one"));
                }
                found.insert((index, *address));
            }
        }
        if found.len() > ADDRESSES_MAX {
            self.wrong(format!(
                "{name} has {} addresses of a family: {ADDRESSES_MAX} are possible",
                found.len()
            ));
        }
        let address = |(region, address): (u8, IpAddr)| {
            let data = bytes(&address);
            Address { hash: stable_hash(&data), data, region }
        };
        found.into_iter().map(address).collect()
    }

    fn policy(&mut self, name: &Name, draft: &NameDraft) -> Compiled {
        let mut index = |region: &RegionName| {
            if !draft.addresses.contains_key(region) && self.indexes.contains_key(region) {
                self.wrong(format!(
                    "{name} prefers the region `{region}`, where it has no address: give it one"
                ));
            }
            self.region(region, name)
        };
        match &draft.policy {
            Policy::Nearest => Compiled::Nearest,
            Policy::Ordered(order) => Compiled::Ordered(order.iter().filter_map(index).collect()),
            Policy::Weighted(weights) => Compiled::Weighted(
                weights.iter().filter_map(|(region, weight)| Some((index(region)?, *weight))).collect(),
            ),
        }
    }

    /// Who answers: those that are in and take clients, else all that are in, else those that drain, else those that were last
    /// good, else all: what may be dead is better than what is surely nothing.
    fn candidates(&self, policy: &Compiled, regions: Regions, last_good: Regions) -> Regions {
        let of = |state: State, taking: bool| {
            let mut found = Regions::NONE;
            for (index, region) in (0_u8..).zip(&self.regions) {
                let fits = region.state == state && (!taking || policy.takes(index));
                if fits && regions.has(index) {
                    found = found.with(index);
                }
            }
            found
        };
        let tiers = [of(State::In, true), of(State::In, false), of(State::Draining, false), last_good];
        tiers.into_iter().find(|tier| !tier.is_empty()).unwrap_or(regions)
    }
}

fn bytes(address: &IpAddr) -> Box<[u8]> {
    match address {
        IpAddr::V4(v4) => v4.octets().into(),
        IpAddr::V6(v6) => v6.octets().into(),
    }
}

fn soa(primary: &Name, draft: &ZoneDraft, number: u64) -> Box<[u8]> {
    let mut data = primary.wire().to_vec();
    data.extend_from_slice(draft.mailbox.wire());
    let serial = (number & 0xffff_ffff) as u32;
    for field in [serial, REFRESH_S, RETRY_S, EXPIRE_S, draft.negative_ttl_s] {
        data.extend_from_slice(&field.to_be_bytes());
    }
    data.into()
}

/// All names that have records, each with the next one and the types that it has (RFC 4034, section 4.1).
fn chain(zone: &Zone, nodes: &HashMap<Name, Node>, managed: &[Managed]) -> Vec<Link> {
    let mut owners: BTreeMap<&Name, BTreeSet<u16>> = BTreeMap::new();
    for (name, node) in nodes.iter().filter(|(name, _)| zone.origin.covers(name)) {
        let mut kinds: BTreeSet<u16> = node.sets.iter().map(|set| set.kind).collect();
        let of_node = node.managed.and_then(|at| managed.get(usize::try_from(at).ok()?));
        for family in [Family::V4, Family::V6] {
            if of_node.is_some_and(|managed| !managed.addresses(family).is_empty()) {
                kinds.insert(family.kind());
            }
        }
        if kinds.is_empty() {
            continue;
        }
        kinds.extend([kind::RRSIG, kind::NSEC]);
        if *name == zone.origin {
            kinds.insert(kind::DNSKEY);
        }
        owners.insert(name, kinds);
    }
    let next = owners.keys().copied().skip(1).chain(owners.keys().copied().take(1));
    let link = |((owner, kinds), next): ((&&Name, &BTreeSet<u16>), &Name)| {
        let mut data = next.wire().to_vec();
        data.extend(bitmap(kinds));
        Link { data: data.into(), owner: (*owner).clone() }
    };
    owners.iter().zip(next).map(link).collect()
}

/// Types as windows of bits (RFC 4034, section 4.1.2).
fn bitmap(kinds: &BTreeSet<u16>) -> Vec<u8> {
    let mut windows: BTreeMap<u8, [u8; 32]> = BTreeMap::new();
    for kind in kinds {
        let [window, low] = kind.to_be_bytes();
        let bits = windows.entry(window).or_insert([0; 32]);
        if let Some(byte) = bits.get_mut(usize::from(low / 8)) {
            *byte |= 0x80 >> (low % 8);
        }
    }
    let mut data = Vec::new();
    for (window, bits) in windows {
        let length = bits.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        data.extend([window, u8::try_from(length).unwrap_or(32)]);
        data.extend(bits.iter().take(length));
    }
    data
}
