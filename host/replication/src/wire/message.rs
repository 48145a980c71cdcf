//! The messages of Protocol Buffers that stand for [frames](super::Frame): both ways between them and what they mean.

use portolan_changelog::{Batch, Change, Cut, Record, RowChange, RowId, Sealed, Term};
use portolan_core::ids::{RegionName, TenantName};
use portolan_core::log::{Epoch, Identity, Placement, Position, Version};
use prost::Message;

use super::{Ask, Beat, Garbled, Has, Refused, Rows, Welcome, What};

#[derive(Clone, PartialEq, Message)]
pub(super) struct WirePosition {
    #[prost(uint64, tag = "1")]
    epoch: u64,
    #[prost(uint64, tag = "2")]
    transaction: u64,
    #[prost(uint64, tag = "3")]
    sequence: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireIdentity {
    #[prost(string, tag = "1")]
    system: String,
    #[prost(uint64, tag = "2")]
    timeline: u64,
    #[prost(string, tag = "3")]
    incarnation: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireVersion {
    #[prost(uint64, tag = "1")]
    epoch: u64,
    #[prost(uint64, tag = "2")]
    v: u64,
    #[prost(string, tag = "3")]
    origin: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireRowId {
    #[prost(string, tag = "1")]
    table: String,
    #[prost(string, tag = "2")]
    key: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireRecord {
    #[prost(message, optional, tag = "1")]
    position: Option<WirePosition>,
    #[prost(uint64, tag = "2")]
    at_us: u64,
    #[prost(string, optional, tag = "3")]
    tenant: Option<String>,
    #[prost(uint64, tag = "4")]
    placement: u64,
    #[prost(uint64, tag = "5")]
    schema: u64,
    /// None: the tenant is forgotten.
    #[prost(message, optional, tag = "6")]
    id: Option<WireRowId>,
    #[prost(string, optional, tag = "7")]
    row: Option<String>,
    #[prost(message, optional, tag = "8")]
    version: Option<WireVersion>,
    #[prost(message, optional, tag = "9")]
    replaces: Option<WireVersion>,
    #[prost(string, optional, tag = "10")]
    marks: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireAsk {
    #[prost(uint32, tag = "1")]
    protocol_min: u32,
    #[prost(uint32, tag = "2")]
    protocol_max: u32,
    #[prost(string, tag = "3")]
    shard: String,
    #[prost(uint64, tag = "4")]
    credit_bytes: u64,
    #[prost(message, optional, tag = "5")]
    identity: Option<WireIdentity>,
    #[prost(message, optional, tag = "6")]
    after: Option<WirePosition>,
    #[prost(message, optional, tag = "7")]
    applied: Option<WirePosition>,
    #[prost(bool, tag = "8")]
    rows: bool,
    #[prost(message, optional, tag = "9")]
    after_row: Option<WireRowId>,
    /// Another region, whose log is meant.
    #[prost(string, optional, tag = "10")]
    of: Option<String>,
    #[prost(uint64, optional, tag = "11")]
    seal: Option<u64>,
    #[prost(message, repeated, tag = "12")]
    named: Vec<WireRowId>,
    /// What is wanted for a comparison, as JSON.
    #[prost(string, optional, tag = "13")]
    compare: Option<String>,
    /// What the copy has.
    #[prost(bool, tag = "14")]
    report: bool,
    /// When the last record that the follower has was written.
    #[prost(uint64, tag = "15")]
    seen_us: u64,
    /// The follower's clock.
    #[prost(uint64, tag = "16")]
    said_us: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireCut {
    #[prost(string, tag = "1")]
    region: String,
    #[prost(message, optional, tag = "2")]
    identity: Option<WireIdentity>,
    #[prost(message, optional, tag = "3")]
    at: Option<WirePosition>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireTerm {
    #[prost(uint64, tag = "1")]
    epoch: u64,
    #[prost(string, tag = "2")]
    region: String,
    #[prost(message, repeated, tag = "3")]
    cuts: Vec<WireCut>,
    #[prost(uint64, tag = "4")]
    over: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireTerms {
    #[prost(message, repeated, tag = "1")]
    terms: Vec<WireTerm>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireSealed {
    #[prost(uint64, tag = "1")]
    before: u64,
    #[prost(message, repeated, tag = "2")]
    heads: Vec<WireCut>,
    #[prost(message, repeated, tag = "3")]
    terms: Vec<WireTerm>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireHas {
    #[prost(uint64, tag = "1")]
    bytes: u64,
    #[prost(message, optional, tag = "2")]
    received: Option<WirePosition>,
    #[prost(message, optional, tag = "3")]
    applied: Option<WirePosition>,
    #[prost(uint64, tag = "4")]
    said_us: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireWelcome {
    #[prost(uint32, tag = "1")]
    protocol: u32,
    #[prost(message, optional, tag = "2")]
    identity: Option<WireIdentity>,
    #[prost(message, optional, tag = "3")]
    from: Option<WirePosition>,
    #[prost(uint64, tag = "4")]
    schema: u64,
    #[prost(message, repeated, tag = "5")]
    terms: Vec<WireTerm>,
    #[prost(message, repeated, tag = "6")]
    others: Vec<WireCut>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireRefused {
    #[prost(uint32, tag = "1")]
    code: u32,
    #[prost(string, tag = "2")]
    why: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireBatch {
    #[prost(message, optional, tag = "1")]
    identity: Option<WireIdentity>,
    #[prost(message, optional, tag = "2")]
    after: Option<WirePosition>,
    #[prost(message, optional, tag = "3")]
    through: Option<WirePosition>,
    #[prost(uint64, tag = "4")]
    at_us: u64,
    #[prost(bool, tag = "5")]
    ends: bool,
    #[prost(message, repeated, tag = "6")]
    records: Vec<WireRecord>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireRows {
    #[prost(message, repeated, tag = "1")]
    records: Vec<WireRecord>,
    #[prost(bool, tag = "2")]
    ends: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireBeat {
    #[prost(uint64, tag = "1")]
    at_us: u64,
    #[prost(message, optional, tag = "2")]
    through: Option<WirePosition>,
    #[prost(uint64, tag = "3")]
    waiting_us: u64,
    #[prost(message, optional, tag = "4")]
    kept: Option<WirePosition>,
    #[prost(bool, tag = "5")]
    closed: bool,
    #[prost(uint64, tag = "6")]
    said_us: u64,
    #[prost(uint64, tag = "7")]
    held_us: u64,
}

impl From<Position> for WirePosition {
    fn from(position: Position) -> Self {
        Self { epoch: position.epoch.0, transaction: position.transaction, sequence: position.sequence }
    }
}

/// What is not there is the start: a message of zeros is empty.
fn position(wire: Option<WirePosition>) -> Position {
    wire.map_or(Position::START, |wire| Position::new(wire.epoch, wire.transaction, wire.sequence))
}

impl From<&Identity> for WireIdentity {
    fn from(identity: &Identity) -> Self {
        Self {
            system: identity.system.clone(),
            timeline: identity.timeline,
            incarnation: identity.incarnation.clone(),
        }
    }
}

impl From<WireIdentity> for Identity {
    fn from(wire: WireIdentity) -> Self {
        Self { system: wire.system, timeline: wire.timeline, incarnation: wire.incarnation }
    }
}

fn region(name: &str) -> Result<RegionName, Garbled> {
    RegionName::new(name).map_err(|_| Garbled::Field("region"))
}

fn terms(wire: Vec<WireTerm>) -> Result<Vec<Term>, Garbled> {
    wire.into_iter().map(TryInto::try_into).collect()
}

fn cuts(wire: Vec<WireCut>) -> Result<Vec<Cut>, Garbled> {
    wire.into_iter().map(TryInto::try_into).collect()
}

impl From<&Cut> for WireCut {
    fn from(cut: &Cut) -> Self {
        let region = cut.region.as_str().to_owned();
        Self { region, identity: Some((&cut.identity).into()), at: Some(cut.at.into()) }
    }
}

impl TryFrom<WireCut> for Cut {
    type Error = Garbled;

    fn try_from(wire: WireCut) -> Result<Self, Garbled> {
        let identity = wire.identity.ok_or(Garbled::Field("identity"))?.into();
        Ok(Self { region: region(&wire.region)?, identity, at: position(wire.at) })
    }
}

impl From<&Term> for WireTerm {
    fn from(term: &Term) -> Self {
        let region = term.region.as_str().to_owned();
        let cuts = term.cuts.iter().map(Into::into).collect();
        Self { epoch: term.epoch.0, region, cuts, over: term.over.0 }
    }
}

impl TryFrom<WireTerm> for Term {
    type Error = Garbled;

    fn try_from(wire: WireTerm) -> Result<Self, Garbled> {
        let (epoch, over) = (Epoch(wire.epoch), Epoch(wire.over));
        Ok(Self { epoch, region: region(&wire.region)?, over, cuts: cuts(wire.cuts)? })
    }
}

impl From<&[Term]> for WireTerms {
    fn from(terms: &[Term]) -> Self {
        Self { terms: terms.iter().map(Into::into).collect() }
    }
}

impl TryFrom<WireTerms> for Vec<Term> {
    type Error = Garbled;

    fn try_from(wire: WireTerms) -> Result<Self, Garbled> {
        terms(wire.terms)
    }
}

impl From<&Sealed> for WireSealed {
    fn from(sealed: &Sealed) -> Self {
        Self {
            before: sealed.before.0,
            heads: sealed.heads.iter().map(Into::into).collect(),
            terms: sealed.terms.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<WireSealed> for Sealed {
    type Error = Garbled;

    fn try_from(wire: WireSealed) -> Result<Self, Garbled> {
        Ok(Self { before: Epoch(wire.before), heads: cuts(wire.heads)?, terms: terms(wire.terms)? })
    }
}

impl From<&Version> for WireVersion {
    fn from(version: &Version) -> Self {
        Self { epoch: version.epoch.0, v: version.v, origin: version.origin.as_str().to_owned() }
    }
}

impl TryFrom<WireVersion> for Version {
    type Error = Garbled;

    fn try_from(wire: WireVersion) -> Result<Self, Garbled> {
        let origin = region(&wire.origin)?;
        Ok(Self { epoch: Epoch(wire.epoch), v: wire.v, origin })
    }
}

impl From<&RowId> for WireRowId {
    fn from(id: &RowId) -> Self {
        Self { table: id.table.clone(), key: id.key.clone() }
    }
}

impl From<WireRowId> for RowId {
    fn from(wire: WireRowId) -> Self {
        Self { table: wire.table, key: wire.key }
    }
}

impl From<&Record> for WireRecord {
    fn from(record: &Record) -> Self {
        let row = match &record.change {
            Change::Row(change) => Some(change),
            Change::Forget => None,
        };
        Self {
            position: Some(record.position.into()),
            at_us: record.at_us,
            tenant: record.tenant.as_ref().map(|tenant| tenant.as_str().to_owned()),
            placement: record.placement.0,
            schema: record.schema,
            id: row.map(|row| (&row.id).into()),
            row: row.and_then(|row| row.row.clone()),
            version: row.map(|row| (&row.version).into()),
            replaces: row.and_then(|row| row.replaces.as_ref().map(Into::into)),
            marks: row.and_then(|row| row.marks.clone()),
        }
    }
}

impl TryFrom<WireRecord> for Record {
    type Error = Garbled;

    fn try_from(wire: WireRecord) -> Result<Self, Garbled> {
        let change = match (wire.id, wire.version) {
            (None, None) => Change::Forget,
            (Some(id), Some(version)) => Change::Row(RowChange {
                id: id.into(),
                row: wire.row,
                version: version.try_into()?,
                replaces: wire.replaces.map(TryInto::try_into).transpose()?,
                marks: wire.marks,
            }),
            _ => return Err(Garbled::Field("row")),
        };
        let tenant = wire.tenant.map(|name| TenantName::new(&name)).transpose();
        Ok(Self {
            position: position(wire.position),
            at_us: wire.at_us,
            tenant: tenant.map_err(|_| Garbled::Field("tenant"))?,
            placement: Placement(wire.placement),
            schema: wire.schema,
            change,
        })
    }
}

fn records(wire: Vec<WireRecord>) -> Result<Vec<Record>, Garbled> {
    wire.into_iter().map(TryInto::try_into).collect()
}

impl From<&Ask> for WireAsk {
    fn from(ask: &Ask) -> Self {
        let (protocol_min, protocol_max) = ask.protocols;
        let base = Self {
            protocol_min,
            protocol_max,
            shard: ask.shard.clone(),
            credit_bytes: ask.credit_bytes,
            said_us: ask.said_us,
            ..Self::default()
        };
        match &ask.what {
            What::Log { identity, after, applied, seen_us } => Self {
                seen_us: *seen_us,
                identity: identity.as_ref().map(Into::into),
                after: Some((*after).into()),
                applied: Some((*applied).into()),
                ..base
            },
            What::Rows { identity, after } => Self {
                rows: true,
                identity: identity.as_ref().map(Into::into),
                after_row: after.as_ref().map(Into::into),
                ..base
            },
            What::Named(ids) => Self { rows: true, named: ids.iter().map(Into::into).collect(), ..base },
            What::Tail { of, identity, after } => Self {
                of: Some(of.as_str().to_owned()),
                identity: Some(identity.into()),
                after: Some((*after).into()),
                ..base
            },
            What::Seal(epoch) => Self { seal: Some(epoch.0), ..base },
            What::Compare(wanted) => Self { compare: serde_json::to_string(wanted).ok(), ..base },
            What::Report => Self { report: true, ..base },
        }
    }
}

impl TryFrom<WireAsk> for Ask {
    type Error = Garbled;

    fn try_from(wire: WireAsk) -> Result<Self, Garbled> {
        let what = if let Some(epoch) = wire.seal {
            What::Seal(Epoch(epoch))
        } else if let Some(wanted) = wire.compare {
            What::Compare(serde_json::from_str(&wanted).map_err(|_| Garbled::Field("comparison"))?)
        } else if wire.report {
            What::Report
        } else if let Some(of) = wire.of {
            let identity = wire.identity.ok_or(Garbled::Field("identity"))?.into();
            What::Tail { of: region(&of)?, identity, after: position(wire.after) }
        } else if !wire.named.is_empty() {
            What::Named(wire.named.into_iter().map(Into::into).collect())
        } else if wire.rows {
            What::Rows { identity: wire.identity.map(Into::into), after: wire.after_row.map(Into::into) }
        } else {
            let identity = wire.identity.map(Into::into);
            let (after, applied) = (position(wire.after), position(wire.applied));
            What::Log { identity, after, applied, seen_us: wire.seen_us }
        };
        let protocols = (wire.protocol_min, wire.protocol_max);
        let (credit_bytes, said_us) = (wire.credit_bytes, wire.said_us);
        Ok(Self { protocols, shard: wire.shard, credit_bytes, what, said_us })
    }
}

impl From<&Has> for WireHas {
    fn from(has: &Has) -> Self {
        let (received, applied) = (Some(has.received.into()), Some(has.applied.into()));
        Self { bytes: has.bytes, received, applied, said_us: has.said_us }
    }
}

impl TryFrom<WireHas> for Has {
    type Error = Garbled;

    fn try_from(wire: WireHas) -> Result<Self, Garbled> {
        let (received, applied) = (position(wire.received), position(wire.applied));
        Ok(Self { bytes: wire.bytes, received, applied, said_us: wire.said_us })
    }
}

impl From<&Welcome> for WireWelcome {
    fn from(welcome: &Welcome) -> Self {
        Self {
            protocol: welcome.protocol,
            identity: Some((&welcome.identity).into()),
            from: Some(welcome.from.into()),
            schema: welcome.schema,
            terms: welcome.terms.iter().map(Into::into).collect(),
            others: welcome.others.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<WireWelcome> for Welcome {
    type Error = Garbled;

    fn try_from(wire: WireWelcome) -> Result<Self, Garbled> {
        let identity = wire.identity.ok_or(Garbled::Field("identity"))?.into();
        Ok(Self {
            protocol: wire.protocol,
            identity,
            from: position(wire.from),
            schema: wire.schema,
            terms: terms(wire.terms)?,
            others: cuts(wire.others)?,
        })
    }
}

impl From<&Refused> for WireRefused {
    fn from(refused: &Refused) -> Self {
        let code = match refused {
            Refused::Protocol(_) => 1,
            Refused::Snapshot(_) => 2,
            Refused::Away(_) => 3,
            Refused::Forbidden(_) => 4,
        };
        Self { code, why: refused.to_string() }
    }
}

impl From<WireRefused> for Refused {
    fn from(wire: WireRefused) -> Self {
        match wire.code {
            1 => Self::Protocol(wire.why),
            2 => Self::Snapshot(wire.why),
            4 => Self::Forbidden(wire.why),
            // What a later release may say as well: it is tried again.
            _ => Self::Away(wire.why),
        }
    }
}

impl From<&Batch> for WireBatch {
    fn from(batch: &Batch) -> Self {
        Self {
            identity: Some((&batch.identity).into()),
            after: Some(batch.after.into()),
            through: Some(batch.through.into()),
            at_us: batch.at_us,
            ends: batch.ends,
            records: batch.records.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<WireBatch> for Batch {
    type Error = Garbled;

    fn try_from(wire: WireBatch) -> Result<Self, Garbled> {
        Ok(Self {
            identity: wire.identity.ok_or(Garbled::Field("identity"))?.into(),
            after: position(wire.after),
            through: position(wire.through),
            at_us: wire.at_us,
            ends: wire.ends,
            records: records(wire.records)?,
        })
    }
}

impl From<&Rows> for WireRows {
    fn from(rows: &Rows) -> Self {
        Self { records: rows.records.iter().map(Into::into).collect(), ends: rows.ends }
    }
}

impl TryFrom<WireRows> for Rows {
    type Error = Garbled;

    fn try_from(wire: WireRows) -> Result<Self, Garbled> {
        Ok(Self { records: records(wire.records)?, ends: wire.ends })
    }
}

impl From<&Beat> for WireBeat {
    fn from(beat: &Beat) -> Self {
        Self {
            at_us: beat.at_us,
            through: Some(beat.through.into()),
            waiting_us: beat.waiting_us,
            kept: Some(beat.kept.into()),
            closed: beat.closed,
            said_us: beat.said_us,
            held_us: beat.held_us,
        }
    }
}

impl TryFrom<WireBeat> for Beat {
    type Error = Garbled;

    fn try_from(wire: WireBeat) -> Result<Self, Garbled> {
        Ok(Self {
            at_us: wire.at_us,
            through: position(wire.through),
            waiting_us: wire.waiting_us,
            kept: position(wire.kept),
            closed: wire.closed,
            said_us: wire.said_us,
            held_us: wire.held_us,
        })
    }
}
