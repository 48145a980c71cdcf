//! The packet path: from a stranger's bytes to ours. It does no I/O, and holds nothing between two packets but what it counts.

use std::net::IpAddr;
use std::sync::Arc;

use portolan_core::geography::Geography;
use portolan_core::time::Moment;

use super::limit::{Allowance, Limiter, Sort};
use super::report::Counters;
use crate::defaults::{TCP_BYTES_MAX, UDP_BYTES_MAX, UDP_PLAIN_BYTES, ZONE_TTL_S};
use crate::name::Name;
use crate::plan::{self, Answer, Client, Content, Plan, RecordSet, Regions, Subnet, Zone, answer};
use crate::sign::{Set, Signed};
use crate::wire::{Extension, Owner, Question, Reply, Section, Unread, code, kind};

/// What is answered from: one whole, swapped as one.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    /// Where addresses are on earth; nothing is known of that when absent.
    pub(crate) geography: Option<Arc<Geography>>,
    /// Who answers, and from which plan: what a client may ask for (NSID).
    pub(crate) nsid: Box<[u8]>,
    pub(crate) plan: Arc<Plan>,
    pub(crate) signed: Option<Arc<Signed>>,
    pub(crate) suspected: Regions,
}

/// How a packet came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Udp,
}

/// What is to be done with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nothing is sent.
    Dropped,
    /// It is signed, or asks for a whole zone: another path, for servers that we know.
    Guarded,
    /// The answer is in the buffer.
    Ready,
}

/// What a packet is answered with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Around<'a> {
    pub(crate) counters: &'a Counters,
    pub(crate) limiter: &'a Limiter,
    /// For counting, which must not follow a wall clock that is set.
    pub(crate) now: Moment,
    /// For what a plan says of times.
    pub(crate) now_ms: u64,
    pub(crate) served: &'a Served,
}

/// Answers a packet into `out`.
pub(crate) fn respond(
    around: Around<'_>,
    packet: &[u8],
    from: IpAddr,
    transport: Transport,
    out: &mut Vec<u8>,
) -> Outcome {
    let counters = around.counters;
    counters.packets.add();
    let allowed = |sort| match transport {
        Transport::Tcp => Allowance::Whole,
        Transport::Udp => around.limiter.ask(from, sort, around.now),
    };
    let question = match Question::read(packet) {
        Ok(question) => question,
        Err(Unread::Ignored) => {
            counters.ignored.add();
            return Outcome::Dropped;
        }
        Err(Unread::Wrong { code, flags, id }) => {
            counters.wrong.add();
            // What is wrong is small, and is not asked for by anybody who would come by TCP.
            if allowed(Sort::Wrong) != Allowance::Whole {
                counters.held_back.add();
                return Outcome::Dropped;
            }
            Reply::bare(out, id, flags).finish(code, None);
            return Outcome::Ready;
        }
    };
    if question.signed || matches!(question.kind, kind::AXFR | kind::IXFR) {
        // Anybody can write a signature that does not hold, and somebody else's address.
        if allowed(Sort::Guarded) != Allowance::Whole {
            counters.held_back.add();
            return Outcome::Dropped;
        }
        return Outcome::Guarded;
    }
    let asked = Asked::new(around, &question, from);
    let sort = match &asked.answer.content {
        Content::Refused => Sort::Wrong,
        Content::NoName(_) => Sort::Denied(asked.answer.zone.map_or(&[], |zone| zone.origin.wire())),
        _ => Sort::Given(question.name()),
    };
    match allowed(sort) {
        Allowance::Nothing => {
            counters.held_back.add();
            Outcome::Dropped
        }
        Allowance::Truncated => {
            counters.slipped.add();
            asked.write(transport, true, 0, out);
            Outcome::Ready
        }
        Allowance::Whole => {
            asked.write(transport, false, 0, out);
            Outcome::Ready
        }
    }
}

/// A question with its answer, before it is written.
pub(crate) struct Asked<'a> {
    pub(crate) answer: Answer<'a>,
    around: Around<'a>,
    question: &'a Question<'a>,
}

/// There was no room.
struct Overflow;

impl<'a> Asked<'a> {
    pub(crate) fn new(around: Around<'a>, question: &'a Question<'a>, from: IpAddr) -> Self {
        let told = question.edns.as_ref().and_then(|edns| edns.subnet);
        let client = told.map(|subnet| subnet.network).filter(|network| network.length > 0);
        // A resolver that keeps its client to itself is its own client.
        let network = client.unwrap_or_else(|| Subnet::host(from));
        let client = Client { geography: around.served.geography.as_deref(), network };
        let asked = plan::Question { class: question.class, kind: question.kind, name: question.name() };
        let answer = answer(&around.served.plan, &asked, client, around.served.suspected, around.now_ms);
        Self { answer, around, question }
    }

    /// Writes the answer, with `kept` bytes left free behind it.
    pub(crate) fn write(&self, transport: Transport, truncated: bool, kept: usize, out: &mut Vec<u8>) {
        let edns = self.question.edns;
        let served = self.around.served;
        let extension = edns.map(|edns| Extension {
            dnssec_ok: edns.dnssec_ok,
            nsid: edns.wants_nsid.then_some(&*served.nsid),
            payload: u16::try_from(UDP_BYTES_MAX).unwrap_or(u16::MAX),
            subnet: edns.subnet.map(|subnet| {
                let scope = if subnet.network.length == 0 { 0 } else { self.answer.scope };
                (subnet, scope)
            }),
        });
        let limit = match transport {
            Transport::Tcp => TCP_BYTES_MAX,
            Transport::Udp => edns.map_or(UDP_PLAIN_BYTES, |edns| {
                usize::from(edns.payload).clamp(UDP_PLAIN_BYTES, UDP_BYTES_MAX)
            }),
        };
        let reserved = kept + extension.as_ref().map_or(0, Extension::size);
        let mut reply = Reply::new(out, self.question, limit, reserved);
        if edns.is_some_and(|edns| edns.version != 0) {
            self.around.counters.wrong.add();
            reply.finish(code::BAD_VERSION, extension.as_ref());
            return;
        }
        let counters = self.around.counters;
        let code = match self.answer.content {
            Content::Refused => {
                counters.refused.add();
                code::REFUSED
            }
            Content::NoName(_) => {
                counters.denied.add();
                code::NO_NAME
            }
            _ => {
                counters.answered.add();
                code::NO_ERROR
            }
        };
        if let Some(zone) = self.answer.zone {
            reply.authoritative();
            let signed = served.signed.as_deref().filter(|_| edns.is_some_and(|edns| edns.dnssec_ok));
            if truncated || self.records(&mut reply, zone, signed).is_err() {
                counters.truncated.add();
                reply.truncate();
            }
        }
        reply.finish(code, extension.as_ref());
    }

    fn records(&self, reply: &mut Reply<'_>, zone: &Zone, signed: Option<&Signed>) -> Result<(), Overflow> {
        let Answer { content, ttl_s, .. } = &self.answer;
        let served = self.around.served;
        match content {
            Content::Refused => Ok(()),
            Content::Addresses(picked) => {
                for data in picked.addresses() {
                    room(reply.record(Section::Answer, Owner::Asked, picked.family.kind(), *ttl_s, &[data]))?;
                }
                sign(reply, signed, Section::Answer, Owner::Asked, *ttl_s, &Set::picked(picked))
            }
            Content::Records(set) => {
                put(reply, signed, Section::Answer, Owner::Asked, set)?;
                if set.kind == kind::NS {
                    servers(reply, &served.plan, set);
                }
                Ok(())
            }
            Content::Keys => {
                let index = served.plan.zone(zone.origin.wire());
                let key = index.and_then(|index| Some((index, served.signed.as_ref()?.key(index)?)));
                let Some((index, key)) = key else { return self.denial(reply, zone, signed, &[]) };
                room(reply.record(Section::Answer, Owner::Asked, kind::DNSKEY, ZONE_TTL_S, &[key]))?;
                sign(reply, signed, Section::Answer, Owner::Asked, ZONE_TTL_S, &Set::Keys { zone: index })
            }
            Content::Link(at) => {
                // Without keys there is no chain.
                let Some(signed) = self.chained(zone) else { return self.denial(reply, zone, None, &[]) };
                link(reply, &served.plan, zone, signed, Section::Answer, *at)
            }
            Content::NoData => {
                let covering = zone.covering(self.question.name());
                self.denial(reply, zone, signed, &[covering])
            }
            Content::NoName(encloser) => {
                let itself = zone.covering(self.question.name());
                let wildcard = zone.covering(&Name::wildcard(encloser.wire()));
                let wildcard = if wildcard == itself { None } else { wildcard };
                self.denial(reply, zone, signed, &[itself, wildcard])
            }
        }
    }

    /// The plan's signatures, if the zone is signed.
    fn chained(&self, zone: &Zone) -> Option<&Signed> {
        let served = self.around.served;
        let index = served.plan.zone(zone.origin.wire())?;
        served.signed.as_deref().filter(|signed| signed.key(index).is_some())
    }

    /// What vouches for there being nothing: how long that holds, and the links that pass over it.
    fn denial(
        &self,
        reply: &mut Reply<'_>,
        zone: &Zone,
        signed: Option<&Signed>,
        links: &[Option<usize>],
    ) -> Result<(), Overflow> {
        put(reply, signed, Section::Authority, Owner::Named(zone.origin.wire()), &zone.soa)?;
        let Some(signed) = signed.and_then(|_| self.chained(zone)) else { return Ok(()) };
        for at in links.iter().flatten() {
            link(reply, &self.around.served.plan, zone, signed, Section::Authority, *at)?;
        }
        Ok(())
    }
}

const fn room(fits: bool) -> Result<(), Overflow> {
    if fits { Ok(()) } else { Err(Overflow) }
}

fn put(
    reply: &mut Reply<'_>,
    signed: Option<&Signed>,
    section: Section,
    owner: Owner<'_>,
    set: &RecordSet,
) -> Result<(), Overflow> {
    for data in &set.data {
        room(reply.record(section, owner, set.kind, set.ttl_s, &[data]))?;
    }
    sign(reply, signed, section, owner, set.ttl_s, &Set::Records { id: set.id })
}

fn sign(
    reply: &mut Reply<'_>,
    signed: Option<&Signed>,
    section: Section,
    owner: Owner<'_>,
    ttl_s: u32,
    set: &Set,
) -> Result<(), Overflow> {
    match signed.and_then(|signed| signed.signature(set)) {
        Some(signature) => room(reply.record(section, owner, kind::RRSIG, ttl_s, &[signature])),
        None => Ok(()),
    }
}

fn link(
    reply: &mut Reply<'_>,
    plan: &Plan,
    zone: &Zone,
    signed: &Signed,
    section: Section,
    at: usize,
) -> Result<(), Overflow> {
    let (Some(link), Some(index)) = (zone.chain.get(at), plan.zone(zone.origin.wire())) else {
        return Ok(());
    };
    let owner = Owner::Named(link.owner.wire());
    room(reply.record(section, owner, kind::NSEC, zone.negative_ttl_s, &[&link.data]))?;
    sign(reply, Some(signed), section, owner, zone.negative_ttl_s, &Set::Link { at, zone: index })
}

/// The addresses of name servers of the zone itself, as far as there is room: they help, and nobody needs them.
fn servers(reply: &mut Reply<'_>, plan: &Plan, set: &RecordSet) {
    for server in &set.data {
        let sets = plan.nodes.get(&**server).map_or(&[][..], |node| &node.sets);
        for set in sets.iter().filter(|set| matches!(set.kind, kind::A | kind::AAAA)) {
            for data in &set.data {
                let owner = Owner::Named(server);
                if !reply.record(Section::Additional, owner, set.kind, set.ttl_s, &[data]) {
                    return;
                }
            }
        }
    }
}
