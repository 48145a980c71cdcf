//! What goes over a link: frames, each a message of Protocol Buffers behind its length, batches packed by zstd.
//!
//! Fields are only ever added, under new numbers, and what a reader does not know it passes over: so two releases understand
//! each other. What changes the meaning of a field is a new protocol ([`PROTOCOL`](crate::defaults::PROTOCOL)), and an end that has none in
//! common with the other says so.

mod message;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use portolan_changelog::{Batch, Cut, Record, Report, RowId, Sealed, Term};
use portolan_core::ids::RegionName;
use portolan_core::log::{Epoch, Identity, Position};
use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::message::{
    WireAsk, WireBatch, WireBeat, WireHas, WireRefused, WireRows, WireSealed, WireTerms, WireWelcome,
};
use crate::audit::{Told, Wanted};
use crate::defaults::{FRAME_BYTES_MAX, UNPACKED_BYTES_MAX, ZSTD_LEVEL};

/// What one end says to the other.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// A follower asks for a log, or for rows.
    Ask(Ask),
    /// A follower says what it has.
    Has(Has),
    /// A source says what it will send.
    Welcome(Welcome),
    /// A source does not send, or no longer.
    Refused(Refused),
    /// A piece of the log.
    Batch(Batch),
    /// A piece of the rows as they are.
    Rows(Rows),
    /// Nothing happened; where the log is.
    Beat(Beat),
    /// A source has heard of more epochs.
    Terms(Vec<Term>),
    /// A copy has sealed an epoch.
    Sealed(Sealed),
    /// Digests, for a comparison.
    Told(Told),
    /// What a copy has.
    Report(Report),
}

/// What a follower asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The oldest and the newest protocol that it speaks.
    pub protocols: (u32, u32),
    /// The shard.
    pub shard: String,
    /// How many bytes of batches it takes before it says that it has applied some.
    pub credit_bytes: u64,
    /// What of it.
    pub what: What,
    /// The follower's own clock when it said so, in microseconds; 0 from one that does not say.
    pub said_us: u64,
}

/// A log, rows, or a promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The log after a position of that log, and up to where it has been applied.
    Log {
        /// Which log it followed; none when it begins with whichever there is.
        identity: Option<Identity>,
        /// What it has.
        after: Position,
        /// What of that it has applied.
        applied: Position,
        /// When the last record that it has was written, by that log; 0 when it does not know.
        seen_us: u64,
    },
    /// All rows after one, of the same log as before if it is named.
    Rows {
        /// Which log the rows before were of.
        identity: Option<Identity>,
        /// The last that it has.
        after: Option<RowId>,
    },
    /// These rows, tombstones among them; those of which nothing is known are left out.
    Named(Vec<RowId>),
    /// What has come to the source of another region's log, after a position of that log.
    Tail {
        /// Which region's.
        of: RegionName,
        /// Which log of it.
        identity: Identity,
        /// What the follower has.
        after: Position,
    },
    /// Nothing of an earlier epoch is taken any more, and how far it had come.
    Seal(Epoch),
    /// What a copy is to be compared with.
    Compare(Wanted),
    /// What it has of others' logs, and of its own: others sweep by that.
    Report,
}

/// What a follower has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Has {
    /// How many bytes of batches it has done with since it last said.
    pub bytes: u64,
    /// What it has received, for good.
    pub received: Position,
    /// What of that it has applied.
    pub applied: Position,
    /// The follower's own clock when it said so, in microseconds; 0 from one that does not say.
    pub said_us: u64,
}

/// What a source will send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The protocol from here on.
    pub protocol: u32,
    /// Which log.
    pub identity: Identity,
    /// For rows: follow the log from here. For a log: from where it comes. For rows by name: the newest record before them.
    pub from: Position,
    /// The version of the tenants' schema.
    pub schema: u64,
    /// The epochs that it knows of.
    pub terms: Vec<Term>,
    /// For rows: how far other regions' logs had come to it before the first of them.
    pub others: Vec<Cut>,
}

/// Why a source sends nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It speaks no protocol that the follower speaks.
    #[error("{0}")]
    Protocol(String),
    /// There is another log now, or the position is not in it, or no longer: rows first.
    #[error("{0}")]
    Snapshot(String),
    /// Not now: its database is away, or it has too many links.
    #[error("{0}")]
    Away(String),
    /// Not this follower: the shard is none of its, or may not be.
    #[error("{0}")]
    Forbidden(String),
}

/// A piece of a source's rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    /// The rows, in the order of their tables and keys, tombstones among them.
    pub records: Vec<Record>,
    /// No more come.
    pub ends: bool,
}

/// Where a source's log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    /// The source's database's clock, in microseconds.
    pub at_us: u64,
    /// All of its log up to here has been sent: the follower has come as far.
    pub through: Position,
    /// How long the oldest record that may not be read yet has been waiting for an open transaction, in microseconds.
    pub waiting_us: u64,
    /// Up to here all that follow it have applied its log.
    pub kept: Position,
    /// Nobody may write there under a lease at that moment: what is written may be written elsewhere.
    pub closed: bool,
    /// The last of the follower's moments that had come when the log was looked at ([`Has::said_us`]); 0 when none had.
    pub said_us: u64,
    /// How long before that look it had come, in microseconds.
    pub held_us: u64,
}

/// Why bytes are no frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Garbled {
    /// It announces more bytes than a frame may have.
    #[error("a frame of {0} bytes, of at most {FRAME_BYTES_MAX}")]
    Long(usize),
    /// It is no message.
    #[error("a frame that is no message: {0}")]
    Message(String),
    /// A field has no meaning.
    #[error("a message without a valid {0}")]
    Field(&'static str),
}

const ASK: u8 = 1;
const HAS: u8 = 2;
const WELCOME: u8 = 3;
const REFUSED: u8 = 4;
const BATCH: u8 = 5;
const ROWS: u8 = 6;
const BEAT: u8 = 7;
const TERMS: u8 = 8;
const SEALED: u8 = 9;
const TOLD: u8 = 10;
const REPORT: u8 = 11;
/// The length, and what it is.
const HEAD_BYTES: usize = 5;

impl Frame {
    /// As bytes.
    ///
    /// # Errors
    /// When it is longer than a frame may be.
    pub fn encode(&self) -> Result<Bytes, Garbled> {
        let (kind, body) = match self {
            Self::Ask(ask) => (ASK, WireAsk::from(ask).encode_to_vec()),
            Self::Has(has) => (HAS, WireHas::from(has).encode_to_vec()),
            Self::Welcome(welcome) => (WELCOME, WireWelcome::from(welcome).encode_to_vec()),
            Self::Refused(refused) => (REFUSED, WireRefused::from(refused).encode_to_vec()),
            Self::Batch(batch) => (BATCH, pack(&WireBatch::from(batch).encode_to_vec())?),
            Self::Rows(rows) => (ROWS, pack(&WireRows::from(rows).encode_to_vec())?),
            Self::Beat(beat) => (BEAT, WireBeat::from(beat).encode_to_vec()),
            Self::Terms(terms) => (TERMS, WireTerms::from(terms.as_slice()).encode_to_vec()),
            Self::Sealed(sealed) => (SEALED, WireSealed::from(sealed).encode_to_vec()),
            Self::Told(told) => (TOLD, pack(&json(told)?)?),
            Self::Report(report) => (REPORT, pack(&json(report)?)?),
        };
        if body.len() > FRAME_BYTES_MAX {
            return Err(Garbled::Long(body.len()));
        }
        let mut bytes = BytesMut::with_capacity(HEAD_BYTES + body.len());
        bytes.put_u32(u32::try_from(body.len()).map_err(|_| Garbled::Long(body.len()))?);
        bytes.put_u8(kind);
        bytes.put_slice(&body);
        Ok(bytes.freeze())
    }

    /// Takes the first frame off, with how many bytes it had; none while it is not there as a whole. A frame that this release does not know is
    /// passed over.
    ///
    /// # Errors
    /// When it is none.
    pub fn decode(bytes: &mut BytesMut) -> Result<Option<(Self, u64)>, Garbled> {
        loop {
            let Some(head) = bytes.first_chunk::<HEAD_BYTES>() else { return Ok(None) };
            let [a, b, c, d, kind] = *head;
            let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
            if length > FRAME_BYTES_MAX {
                return Err(Garbled::Long(length));
            }
            if bytes.len() < HEAD_BYTES + length {
                return Ok(None);
            }
            bytes.advance(HEAD_BYTES);
            let body = bytes.split_to(length).freeze();
            let frame = match kind {
                ASK => Self::Ask(read::<WireAsk>(&body)?.try_into()?),
                HAS => Self::Has(read::<WireHas>(&body)?.try_into()?),
                WELCOME => Self::Welcome(read::<WireWelcome>(&body)?.try_into()?),
                REFUSED => Self::Refused(read::<WireRefused>(&body)?.into()),
                BATCH => Self::Batch(read::<WireBatch>(&unpack(&body)?)?.try_into()?),
                ROWS => Self::Rows(read::<WireRows>(&unpack(&body)?)?.try_into()?),
                BEAT => Self::Beat(read::<WireBeat>(&body)?.try_into()?),
                TERMS => Self::Terms(read::<WireTerms>(&body)?.try_into()?),
                SEALED => Self::Sealed(read::<WireSealed>(&body)?.try_into()?),
                TOLD => Self::Told(from_json(&unpack(&body)?)?),
                REPORT => Self::Report(from_json(&unpack(&body)?)?),
                _ => continue,
            };
            return Ok(Some((frame, (HEAD_BYTES + length) as u64)));
        }
    }
}

fn read<M: Message + Default>(body: &[u8]) -> Result<M, Garbled> {
    M::decode(body).map_err(|error| Garbled::Message(error.to_string()))
}

/// What is said seldom, as JSON.
fn json<T: Serialize>(said: &T) -> Result<Vec<u8>, Garbled> {
    serde_json::to_vec(said).map_err(|error| Garbled::Message(error.to_string()))
}

fn from_json<T: DeserializeOwned>(text: &[u8]) -> Result<T, Garbled> {
    serde_json::from_slice(text).map_err(|error| Garbled::Message(error.to_string()))
}

fn pack(body: &[u8]) -> Result<Vec<u8>, Garbled> {
    zstd::bulk::compress(body, ZSTD_LEVEL).map_err(|error| Garbled::Message(error.to_string()))
}

fn unpack(body: &[u8]) -> Result<Vec<u8>, Garbled> {
    let unpacked = zstd::bulk::Decompressor::upper_bound(body).unwrap_or(UNPACKED_BYTES_MAX);
    if unpacked > UNPACKED_BYTES_MAX {
        return Err(Garbled::Long(unpacked));
    }
    zstd::bulk::decompress(body, unpacked).map_err(|error| Garbled::Message(error.to_string()))
}
