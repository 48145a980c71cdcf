//! From a question to what is answered. Pure: the plan, the client, what is suspected and the time are arguments.

use portolan_core::geography::Geography;

use super::choose::choose;
use super::geography::Subnet;
use super::{Family, Managed, Node, Plan, RecordSet, Regions, Zone};
use crate::name::{Name, canonical, suffixes};
use crate::wire::{class, kind};

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The name on the wire, in lower case and uncompressed.
    pub name: &'a [u8],
    /// The class: only `IN` and `ANY` have answers.
    pub class: u16,
    /// The type.
    pub kind: u16,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// Where addresses are on earth, for networks of which the plan says nothing.
    pub geography: Option<&'a Geography>,
    /// Its network.
    pub network: Subnet,
}

/// What is answered.
#[derive(Debug)]
pub struct Answer<'a> {
    /// What.
    pub content: Content<'a>,
    /// How many bits of the client's address it depends on; 0 when it is the same for all.
    pub scope: u8,
    /// How long it may be kept, in seconds.
    pub ttl_s: u32,
    pub(crate) zone: Option<&'a Zone>,
}

/// The sorts of answers.
#[derive(Debug)]
#[expect(private_interfaces, reason = "what they hold is written by this crate alone")]
pub enum Content<'a> {
    /// One address of a managed name, or two in order.
    Addresses(Picked<'a>),
    /// The zone's keys, if it is signed.
    Keys,
    /// The link of the chain that begins with the name, if the zone is signed.
    Link(usize),
    /// There is such a name, without records of this type.
    NoData,
    /// There is no such name; with its nearest ancestor that there is.
    NoName(&'a Name),
    /// It is not ours.
    Refused,
    /// Records that do not depend on regions.
    Records(&'a RecordSet),
}

/// Addresses of a managed name.
#[derive(Clone, Copy, Debug)]
pub struct Picked<'a> {
    pub(crate) family: Family,
    pub(crate) first: usize,
    pub(crate) managed: &'a Managed,
    pub(crate) second: Option<usize>,
}

impl From<Subnet> for Client<'_> {
    /// A client of whom no more is known than its network.
    fn from(network: Subnet) -> Self {
        Self { geography: None, network }
    }
}

impl Picked<'_> {
    /// The addresses as they are on the wire.
    pub fn addresses(&self) -> impl Iterator<Item = &[u8]> {
        let addresses = self.managed.addresses(self.family);
        std::iter::once(self.first)
            .chain(self.second)
            .filter_map(|at| addresses.get(at))
            .map(|found| &*found.data)
    }
}

/// Answers a question.
#[must_use]
pub fn answer<'a>(
    plan: &'a Plan,
    question: &Question<'_>,
    client: Client<'_>,
    suspected: Regions,
    now_ms: u64,
) -> Answer<'a> {
    let refused = Answer { content: Content::Refused, scope: 0, ttl_s: 0, zone: None };
    if !matches!(question.class, class::IN | class::ANY) {
        return refused;
    }
    let found = suffixes(question.name).find_map(|suffix| Some((suffix, plan.nodes.get_key_value(suffix)?)));
    let Some((suffix, (name, node))) = found else { return refused };
    let Some(zone) = plan.zones.get(usize::from(node.zone)) else { return refused };
    let plain = |content| Answer { content, scope: 0, ttl_s: zone.negative_ttl_s, zone: Some(zone) };
    if suffix.len() != question.name.len() {
        return plain(Content::NoName(name));
    }
    let records = |set: &'a RecordSet| Answer { ttl_s: set.ttl_s, ..plain(Content::Records(set)) };
    match question.kind {
        // One set of records is enough for whoever asks for any (RFC 8482), and none is added up to be sent to somebody else.
        kind::ANY | kind::RRSIG => any(plan, node, client, suspected, now_ms)
            .map(|(content, scope, ttl_s)| Answer { content, scope, ttl_s, zone: Some(zone) })
            .or_else(|| node.sets.first().map(records)),
        kind::A => addresses(plan, node, Family::V4, client, suspected, now_ms)
            .map(|(content, scope, ttl_s)| Answer { content, scope, ttl_s, zone: Some(zone) }),
        kind::AAAA => addresses(plan, node, Family::V6, client, suspected, now_ms)
            .map(|(content, scope, ttl_s)| Answer { content, scope, ttl_s, zone: Some(zone) }),
        kind::DNSKEY if zone.origin == *name => {
            Some(Answer { ttl_s: crate::defaults::ZONE_TTL_S, ..plain(Content::Keys) })
        }
        kind::NSEC => zone.link(question.name).map(|(at, _)| plain(Content::Link(at))),
        _ => None,
    }
    .or_else(|| node.sets.iter().find(|set| set.kind == question.kind).map(records))
    .unwrap_or_else(|| plain(Content::NoData))
}

type Given<'a> = (Content<'a>, u8, u32);

fn any<'a>(
    plan: &'a Plan,
    node: &Node,
    client: Client<'_>,
    suspected: Regions,
    now_ms: u64,
) -> Option<Given<'a>> {
    let of = |family| addresses(plan, node, family, client, suspected, now_ms);
    of(Family::V4).or_else(|| of(Family::V6))
}

fn addresses<'a>(
    plan: &'a Plan,
    node: &Node,
    family: Family,
    client: Client<'_>,
    suspected: Regions,
    now_ms: u64,
) -> Option<Given<'a>> {
    let managed = plan.managed.get(usize::try_from(node.managed?).ok()?)?;
    let chosen = choose(plan, managed, family, client)?;
    let picked = Picked { family, first: chosen.first, managed, second: chosen.second };
    Some((Content::Addresses(picked), chosen.scope, managed.ttl_s(plan, suspected, now_ms)))
}

impl Managed {
    /// The time until a region's state could change, within bounds. While one that answers is suspected it may change at any
    /// moment, and so it may when the time for which it was known has passed.
    pub(crate) fn ttl_s(&self, plan: &Plan, suspected: Regions, now_ms: u64) -> u32 {
        if suspected.meets(self.candidates) {
            return self.ttl.min_s;
        }
        let known = (0_u8..).zip(&plan.regions).filter(|(at, _)| self.regions.has(*at));
        let soonest = known.filter_map(|(_, region)| region.steady_until_ms).min();
        soonest.map_or(self.ttl.max_s, |at_ms| {
            let left_s = at_ms.saturating_sub(now_ms) / 1_000;
            u32::try_from(left_s).unwrap_or(u32::MAX).clamp(self.ttl.min_s, self.ttl.max_s)
        })
    }
}

impl Zone {
    /// The link that begins with a name.
    pub(crate) fn link(&self, name: &[u8]) -> Option<(usize, &super::Link)> {
        let at = self.covering(name)?;
        self.chain.get(at).filter(|link| link.owner.wire() == name).map(|link| (at, link))
    }

    /// The link that begins with a name or, if none does, the one that passes over it.
    pub(crate) fn covering(&self, name: &[u8]) -> Option<usize> {
        self.chain.partition_point(|link| canonical(link.owner.wire(), name).is_le()).checked_sub(1)
    }
}
