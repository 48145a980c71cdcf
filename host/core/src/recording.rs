//! A decision as it is kept, and as it is decided again: policies are pure, so what they said of the same input, they say
//! again, and what another policy would have said of it can be known.
//!
//! [`Picture`] is the input, [`SlotDecision`] what one policy said, [`Recorded`] both with what became of the request.
//! [`evaluate`] asks a policy about a picture, [`compare`] tells two answers apart, [`Report`] counts the differences. The
//! [`Record`] trait is the seam between the data plane, which captures, and whoever keeps.

mod decision;
mod picture;
mod report;
#[cfg(test)]
mod tests;

use std::fmt::{self, Debug};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use self::decision::{Class, Does, SlotDecision, Spoken, compare, evaluate};
pub use self::picture::{Held, Picture, View};
pub use self::report::{Counts, Report, SAMPLES_MAX};
use crate::decide::FailRule;
use crate::facts::Facts;
use crate::ids::{Digest, Generation, PolicyName, PoolName, RegionName};
use crate::lane::{Lane, Slot};
use crate::snapshot::Policy;

/// The name of one decision: when it was made, and a number that tells it from others of that millisecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DecisionId {
    /// Milliseconds since 1970-01-01T00:00:00Z; 48 bits of them.
    pub at_ms: u64,
    /// Drawn.
    pub number: u64,
}

/// A text that is no [`DecisionId`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no decision's id: it has 28 hexadecimal digits, as the header `portolan-decision` gives them"
)]
pub struct NotAnId(String);

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012x}{:016x}", self.at_ms & 0xffff_ffff_ffff, self.number)
    }
}

impl FromStr for DecisionId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let wrong = || NotAnId(text.chars().take(64).collect());
        let digits = text.len() == 28 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let (at_ms, number) = text.split_at_checked(12).filter(|_| digits).ok_or_else(wrong)?;
        let read = |part| u64::from_str_radix(part, 16).map_err(|_| wrong());
        Ok(Self { at_ms: read(at_ms)?, number: read(number)? })
    }
}

impl TryFrom<String> for DecisionId {
    type Error = NotAnId;
    fn try_from(text: String) -> Result<Self, NotAnId> {
        text.parse()
    }
}

impl From<DecisionId> for String {
    fn from(id: DecisionId) -> Self {
        id.to_string()
    }
}

/// What became of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The status that the client got.
    pub status: u16,
    /// The region that was tried last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<RegionName>,
    /// The pool that was tried last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolName>,
    /// How many attempts were made.
    #[serde(default)]
    pub attempts: u32,
    /// Why no upstream answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Box<str>>,
}

/// One decision as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// Its name.
    pub id: DecisionId,
    /// The snapshot that decided it, by its number on this node.
    pub generation: Generation,
    /// The input.
    pub picture: Picture,
    /// What each policy said, in the order in which they were asked.
    pub slots: Vec<SlotDecision>,
    /// What became of the request.
    pub outcome: Outcome,
}

/// What a policy was when it decided: all that is needed to plan again, but for the component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The name under which decisions refer to it: a hash of all the rest.
    pub name: Box<str>,
    /// Where it ran.
    pub slot: Slot,
    /// The policy's name.
    pub policy: PolicyName,
    /// Its version.
    pub digest: Digest,
    /// Its configuration, a JSON object.
    pub config: Arc<str>,
    /// What it knew when it planned.
    pub facts: Arc<Facts>,
    /// What became of requests when it failed.
    pub on_fail: FailRule,
}

/// What ran in the slots from some time on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ran {
    /// From when on, in milliseconds since 1970-01-01T00:00:00Z.
    pub at_ms: u64,
    /// The number of the snapshot on its node.
    pub generation: Generation,
    /// Slots with the names of their bindings. The operator's is always told; of tenants those that changed.
    pub slots: Vec<(Slot, Box<str>)>,
}

/// One policy's part of a decision, with all that is needed to ask it or its candidate again.
#[derive(Clone, Debug)]
pub struct Part {
    /// What ran in the slot.
    pub lane: Arc<Lane>,
    /// Which of its policies answered.
    pub policy: Arc<Policy>,
    /// What it said.
    pub decision: SlotDecision,
}

/// A decision as the data plane hands it over.
#[derive(Clone, Debug)]
pub struct Captured {
    /// Its name.
    pub id: DecisionId,
    /// The snapshot that decided it.
    pub generation: Generation,
    /// The input, with every value in clear.
    pub picture: Picture,
    /// What the policies said.
    pub parts: Vec<Part>,
    /// What became of the request.
    pub outcome: Outcome,
    /// Is it to be kept?
    pub keep: bool,
    /// Are candidates in the shadow to be compared on it?
    pub shadow: bool,
}

/// Who keeps decisions, and has candidates decide them again. The data plane asks on every request: each method is a few
/// loads and never waits.
pub trait Record: Debug + Send + Sync {
    /// Is anything to be captured at all?
    fn is_on(&self) -> bool;

    /// Is this decision to be kept, whatever becomes of it? `draw` is a random number.
    fn samples(&self, draw: u64) -> bool;

    /// Is this one to be kept, which went wrong?
    fn keeps_failures(&self) -> bool;

    /// Is a candidate in a shadow to be asked about this one? `draw` is a random number.
    fn shadows(&self, draw: u64) -> bool;

    /// Takes a decision over. One that finds no place is dropped and counted.
    fn take(&self, captured: Captured);
}

/// Nobody keeps anything.
#[derive(Clone, Copy, Debug)]
pub struct Nobody;

impl Record for Nobody {
    fn is_on(&self) -> bool {
        false
    }
    fn samples(&self, _: u64) -> bool {
        false
    }
    fn keeps_failures(&self) -> bool {
        false
    }
    fn shadows(&self, _: u64) -> bool {
        false
    }
    fn take(&self, _: Captured) {}
}
