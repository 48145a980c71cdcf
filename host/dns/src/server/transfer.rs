//! Whole zones for secondaries, and questions that servers sign (TSIG). Without the key, or from elsewhere, nothing is handed out.

use std::net::IpAddr;

use super::Secondary;
use super::respond::{Around, Asked, Transport};
use crate::defaults::TRANSFER_BYTES;
use crate::plan::{Family, Plan, RecordSet, Zone};
use crate::sign::{Set, Signed};
use crate::tsig::{BAD_KEY, BAD_SIGNATURE, BAD_TIME, Broken, SharedKey, Trouble, named};
use crate::wire::{Owner, Question, Reply, Section, code, kind};

/// Answers a message that is signed or asks for a zone, in as many messages as it takes.
pub(super) fn respond(
    around: Around<'_>,
    secondaries: &[Secondary],
    packet: &[u8],
    from: IpAddr,
    transport: Transport,
    now_s: u64,
) -> Vec<Vec<u8>> {
    let Ok(question) = Question::read(packet) else { return Vec::new() };
    let refused = |code: u16| {
        around.counters.transfers_refused.add();
        let mut message = Vec::new();
        Reply::new(&mut message, &question, usize::MAX, 0).finish(code, None);
        message
    };
    if !question.signed {
        return vec![refused(code::REFUSED)];
    }
    let (secondary, mac) = match admit(secondaries, packet, now_s) {
        Ok(admitted) => admitted,
        Err(Refusal { broken, key, name }) => {
            let mut message = refused(code::NOT_AUTH);
            let signed = match (broken, key) {
                // A wrong clock is told under a signature that holds, so that it can be believed.
                (Broken::Clock(_), Some((key, mac))) => {
                    let trouble = Trouble { code: BAD_TIME, clock_s: Some(now_s) };
                    key.seal(&mut message, Some(&mac), false, now_s, trouble).map(|_| ())
                }
                (Broken::Signature, _) => SharedKey::complain(&name, &mut message, now_s, BAD_SIGNATURE),
                _ => SharedKey::complain(&name, &mut message, now_s, BAD_KEY),
            };
            return if signed.is_some() { vec![message] } else { Vec::new() };
        }
    };
    let key = &secondary.key;
    let mut exchange = Exchange { key, now_s, previous: mac, sealed: Vec::new() };
    let is_transfer = matches!(question.kind, kind::AXFR | kind::IXFR);
    if !is_transfer {
        let mut message = Vec::new();
        Asked::new(around, &question, from).write(transport, false, key.record_bytes(), &mut message);
        return exchange.only(message);
    }
    if !secondary.from.contains(&from.to_canonical()) {
        tracing::warn!(%from, key = ?key, "a zone is asked for from where no secondary with this key is");
        return exchange.only(refused(code::REFUSED));
    }
    let plan = &*around.served.plan;
    let zone =
        plan.zone(question.name()).and_then(|index| Some((index, plan.zones.get(usize::from(index))?)));
    let Some((index, zone)) = zone else { return exchange.only(refused(code::NOT_AUTH)) };
    let whole = transport == Transport::Tcp && !(question.kind == kind::IXFR && knows(packet, plan.serial()));
    if question.kind == kind::AXFR && transport == Transport::Udp {
        return exchange.only(refused(code::FORMAT));
    }
    let signed = around.served.signed.as_deref().filter(|signed| signed.key(index).is_some());
    if whole {
        around.counters.transfers.add();
    }
    Writer { exchange: &mut exchange, question: &question, message: Vec::new(), size: 0 }
        .zone(plan, zone, index, signed, whole);
    exchange.sealed
}

/// Why a message is not taken, and what can be said about it.
struct Refusal<'a> {
    broken: Broken,
    key: Option<(&'a SharedKey, Vec<u8>)>,
    name: Vec<u8>,
}

/// Whose message it is, with its MAC.
fn admit<'a>(
    secondaries: &'a [Secondary],
    packet: &[u8],
    now_s: u64,
) -> Result<(&'a Secondary, Vec<u8>), Refusal<'a>> {
    let Some((name, _)) = named(packet) else {
        return Err(Refusal { broken: Broken::Absent, key: None, name: vec![0] });
    };
    let wire = name.wire().to_vec();
    let Some(secondary) = secondaries.iter().find(|secondary| *secondary.key.name() == name) else {
        return Err(Refusal { broken: Broken::Key, key: None, name: wire });
    };
    match secondary.key.check(packet, None, now_s) {
        Ok(held) => Ok((secondary, held.mac)),
        Err(broken) => {
            // At the sender's own time its signature holds, which gives the MAC that the answer follows.
            let key = match broken {
                Broken::Clock(their_s) => secondary.key.check(packet, None, their_s).ok(),
                Broken::Absent | Broken::Key | Broken::Signature => None,
            };
            Err(Refusal { broken, key: key.map(|held| (&secondary.key, held.mac)), name: wire })
        }
    }
}

/// Does an incremental question come from somebody who has this serial?
fn knows(packet: &[u8], serial: u32) -> bool {
    let Ok(message) = hickory_proto::op::Message::from_vec(packet) else { return false };
    message.authorities.iter().any(|record| match &record.data {
        hickory_proto::rr::RData::SOA(soa) => soa.serial == serial,
        _ => false,
    })
}

/// Messages of one exchange, each signed after the one before.
struct Exchange<'a> {
    key: &'a SharedKey,
    now_s: u64,
    previous: Vec<u8>,
    sealed: Vec<Vec<u8>>,
}

impl Exchange<'_> {
    fn add(&mut self, mut message: Vec<u8>) {
        let follows = !self.sealed.is_empty();
        let mac = self.key.seal(&mut message, Some(&self.previous), follows, self.now_s, Trouble::default());
        if let Some(mac) = mac {
            self.previous = mac;
            self.sealed.push(message);
        }
    }

    fn only(mut self, message: Vec<u8>) -> Vec<Vec<u8>> {
        self.add(message);
        self.sealed
    }
}

/// Writes a zone into messages.
struct Writer<'a, 'b> {
    exchange: &'a mut Exchange<'b>,
    /// The records that were written and not yet put into a message.
    message: Vec<Written>,
    question: &'a Question<'a>,
    /// Their bytes.
    size: usize,
}

/// A record.
struct Written {
    data: Box<[u8]>,
    kind: u16,
    owner: Box<[u8]>,
    ttl_s: u32,
}

impl Written {
    fn size(&self) -> usize {
        self.owner.len() + 10 + self.data.len()
    }
}

impl Writer<'_, '_> {
    /// The zone between two copies of its head, or the head alone.
    fn zone(mut self, plan: &Plan, zone: &Zone, index: u16, signed: Option<&Signed>, whole: bool) {
        self.records(&zone.soa, signed);
        if whole {
            self.body(plan, zone, index, signed);
            // The head closes the transfer without its signature, which came with the first.
            self.records(&zone.soa, None);
        }
        self.flush();
    }

    fn body(&mut self, plan: &Plan, zone: &Zone, index: u16, signed: Option<&Signed>) {
        if let Some((signed, key)) = signed.and_then(|signed| Some((signed, signed.key(index)?))) {
            let set = Set::Keys { zone: index };
            self.set(
                zone.origin.wire(),
                kind::DNSKEY,
                crate::defaults::ZONE_TTL_S,
                [key],
                Some(signed),
                &set,
            );
        }
        for (at, link) in zone.chain.iter().enumerate() {
            let owner = link.owner.wire();
            if let Some(signed) = signed {
                let set = Set::Link { at, zone: index };
                self.set(owner, kind::NSEC, zone.negative_ttl_s, [&*link.data], Some(signed), &set);
            }
            let Some(node) = plan.nodes.get(owner) else { continue };
            for set in node.sets.iter().filter(|set| set.kind != kind::SOA) {
                self.records(set, signed);
            }
            let managed = node.managed.and_then(|at| plan.managed.get(usize::try_from(at).ok()?));
            for (family, managed) in
                [Family::V4, Family::V6].into_iter().filter_map(|family| Some((family, managed?)))
            {
                let set = Set::All { family, managed: managed.index };
                self.set(owner, family.kind(), managed.ttl.max_s, managed.present(family), signed, &set);
            }
        }
    }

    fn records(&mut self, set: &RecordSet, signed: Option<&Signed>) {
        let data = set.data.iter().map(|data| &**data);
        self.set(set.owner.wire(), set.kind, set.ttl_s, data, signed, &Set::Records { id: set.id });
    }

    fn set<'d>(
        &mut self,
        owner: &[u8],
        kind: u16,
        ttl_s: u32,
        data: impl IntoIterator<Item = &'d [u8]>,
        signed: Option<&Signed>,
        set: &Set,
    ) {
        let mut some = false;
        for data in data {
            some = true;
            self.put(Written { data: data.into(), kind, owner: owner.into(), ttl_s });
        }
        if let Some(signature) = signed.filter(|_| some).and_then(|signed| signed.signature(set)) {
            self.put(Written { data: signature.into(), kind: kind::RRSIG, owner: owner.into(), ttl_s });
        }
    }

    fn put(&mut self, record: Written) {
        if self.size + record.size() > TRANSFER_BYTES {
            self.flush();
        }
        self.size += record.size();
        self.message.push(record);
    }

    fn flush(&mut self) {
        let records = std::mem::take(&mut self.message);
        self.size = 0;
        if records.is_empty() {
            return;
        }
        let mut message = Vec::with_capacity(TRANSFER_BYTES + 512);
        let mut reply = Reply::new(&mut message, self.question, usize::MAX, 0);
        reply.authoritative();
        for record in &records {
            // There is no limit here that it could meet.
            let _fits = reply.record(
                Section::Answer,
                Owner::Named(&record.owner),
                record.kind,
                record.ttl_s,
                &[&record.data],
            );
        }
        reply.finish(code::NO_ERROR, None);
        self.exchange.add(message);
    }
}
