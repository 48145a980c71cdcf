//! Messages to a server, built field by field: an update whose condition is about another record than the one that it changes is what
//! no ready-made one offers.

use std::net::IpAddr;

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::{A, AAAA, TXT};
use hickory_proto::rr::{DNSClass, Name as TheirName, RData, Record, RecordType};
use hickory_proto::serialize::binary::BinDecodable as _;

use super::decide::Condition;
use super::{Found, Wanted};
use crate::name::Name;
use crate::plan::EPOCH_LABEL;

/// What one name adds to an update.
pub(super) struct Part {
    conditions: Vec<Record>,
    changes: Vec<Record>,
}

/// The name as hickory has it. None of a name that is no name, which there is not.
pub(super) fn their_name(name: &Name) -> Option<TheirName> {
    TheirName::from_bytes(name.wire()).ok()
}

/// The name beside a managed one that has the number.
pub(super) fn epoch_name(name: &Name) -> Option<Name> {
    name.under(EPOCH_LABEL).ok()
}

impl Part {
    pub(super) fn new(wanted: &Wanted, number: u64, condition: &Condition) -> Option<Self> {
        let name = their_name(&wanted.name)?;
        let epoch = their_name(&epoch_name(&wanted.name)?)?;
        // Beside an alias, addresses would be left out without a word (RFC 2136, section 3.4.2.2).
        let mut conditions = vec![absent(&name, RecordType::CNAME)];
        match condition {
            Condition::Fresh => {
                conditions.push(absent(&name, RecordType::A));
                conditions.push(absent(&name, RecordType::AAAA));
                conditions.push(absent(&epoch, RecordType::TXT));
            }
            Condition::Found(Found::Nothing) => conditions.push(absent(&epoch, RecordType::TXT)),
            Condition::Found(Found::Number(number)) => {
                conditions.push(text(&epoch, 0, number.to_string().as_bytes()));
            }
            Condition::Found(Found::Foreign(texts)) => {
                conditions.extend(texts.iter().map(|found| text(&epoch, 0, found)));
            }
        }
        let mut changes =
            vec![gone(&name, RecordType::A), gone(&name, RecordType::AAAA), gone(&epoch, RecordType::TXT)];
        for address in &wanted.addresses {
            let data = match address {
                IpAddr::V4(v4) => RData::A(A(*v4)),
                IpAddr::V6(v6) => RData::AAAA(AAAA(*v6)),
            };
            changes.push(Record::from_rdata(name.clone(), wanted.ttl_s, data));
        }
        changes.push(text(&epoch, wanted.ttl_s, number.to_string().as_bytes()));
        Some(Self { conditions, changes })
    }

    /// Bytes that it takes at most.
    pub(super) fn size(&self) -> usize {
        let records = self.conditions.iter().chain(&self.changes);
        // A record's head has ten bytes, and the longest data here are a text of twenty digits or an address.
        records.map(|record| record.name.len() + 10 + 32).sum()
    }
}

/// An update of a zone.
pub(super) fn update<'a>(id: u16, zone: &Name, parts: impl IntoIterator<Item = &'a Part>) -> Option<Vec<u8>> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Update);
    message.add_query(Query::query(their_name(zone)?, RecordType::SOA));
    for part in parts {
        message.add_answers(part.conditions.iter().cloned());
        message.add_authorities(part.changes.iter().cloned());
    }
    message.to_vec().ok()
}

/// A question.
pub(super) fn question(id: u16, name: &Name, kind: RecordType) -> Option<Vec<u8>> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(their_name(name)?, kind));
    message.to_vec().ok()
}

/// There are no such records.
fn absent(name: &TheirName, kind: RecordType) -> Record {
    let mut record = Record::update0(name.clone(), 0, kind);
    record.dns_class = DNSClass::NONE;
    record
}

/// All such records are deleted.
fn gone(name: &TheirName, kind: RecordType) -> Record {
    let mut record = Record::update0(name.clone(), 0, kind);
    record.dns_class = DNSClass::ANY;
    record
}

fn text(name: &TheirName, ttl_s: u32, text: &[u8]) -> Record {
    // A string of a text has at most 255 bytes; a longer one was several.
    let strings = if text.is_empty() { vec![text] } else { text.chunks(255).collect() };
    Record::from_rdata(name.clone(), ttl_s, RData::TXT(TXT::from_bytes(strings)))
}
