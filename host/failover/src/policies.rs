//! Built-in policies, and the seat that a policy has.
//!
//! A policy is a function of the picture. These are small and native: `conservative` serves where a policy from outside fails three times in a row, the
//! others are what policies of the same names from outside are held against.

mod native;

use portolan_core::ids::Digest;
use serde::{Deserialize, Serialize};

pub use self::native::{capacity_aware, conservative, fast, manual};
use crate::defaults::{PROPOSALS_MAX, TRAPS_MAX};
use crate::picture::Picture;
use crate::proposal::Proposal;

/// The policies that are always there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Native {
    /// As `conservative`, and spreads traffic by what regions can take.
    CapacityAware,
    /// Promotes the most advanced copy of a region that is gone; what cannot be promoted is read only.
    Conservative,
    /// The same, and leaves regions that do not do their work.
    Fast,
    /// Changes nothing; people do.
    Manual,
}

/// Why a policy gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Fault {
    /// Something that is no answer.
    #[error("its answer is no plan: {0}")]
    Garbage(String),
    /// It took too long, or too much.
    #[error("it used up its time, fuel or memory")]
    Overrun,
    /// It broke.
    #[error("it trapped: {0}")]
    Trap(String),
}

/// Whose answer a decision rests on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Author {
    /// The policy's name.
    pub name: String,
    /// The SHA-256 of its component; none for a built-in one.
    pub version: Option<Digest>,
    /// What it used.
    pub fuel: u64,
    /// Why the answer is not its own, when it is not.
    pub fault: Option<Fault>,
}

/// A policy's place: what becomes of its answers, and of their absence.
#[derive(Clone, Debug)]
pub struct Seat {
    name: String,
    version: Option<Digest>,
    faults: u32,
    /// The last answer that it gave.
    last: Vec<Proposal>,
}

/// Why another policy does not take the seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} promotions are under way, and their policy stays until they have ended: try again then")]
pub struct Busy(pub usize);

impl Native {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CapacityAware => "capacity-aware",
            Self::Conservative => "conservative",
            Self::Fast => "fast",
            Self::Manual => "manual",
        }
    }

    /// What it proposes.
    #[must_use]
    pub fn propose(self, picture: &Picture) -> Vec<Proposal> {
        match self {
            Self::CapacityAware => capacity_aware(picture),
            Self::Conservative => conservative(picture),
            Self::Fast => fast(picture),
            Self::Manual => manual(picture),
        }
    }
}

impl Seat {
    /// For a policy.
    #[must_use]
    pub fn new(name: &str, version: Option<Digest>) -> Self {
        Self { name: name.to_owned(), version, faults: 0, last: vec![Proposal::Hold] }
    }

    /// Another policy, or another version. Not while promotions run.
    ///
    /// # Errors
    /// [`Busy`].
    pub fn swap(&mut self, name: &str, version: Option<Digest>, running: usize) -> Result<(), Busy> {
        if running > 0 {
            return Err(Busy(running));
        }
        *self = Self::new(name, version);
        Ok(())
    }

    /// Takes what came of asking the policy. Without an answer its last one holds; after three times in a row the built-in `conservative` answers in its
    /// place, until it gives one again.
    pub fn answer(
        &mut self,
        asked: Result<(Vec<Proposal>, u64), Fault>,
        picture: &Picture,
    ) -> (Vec<Proposal>, Author) {
        let asked = asked.and_then(|(proposals, fuel)| {
            let count = proposals.len();
            if count > PROPOSALS_MAX {
                return Err(Fault::Garbage(format!("{count} proposals, at most {PROPOSALS_MAX} are read")));
            }
            Ok((proposals, fuel))
        });
        let author =
            |name: &str, version, fuel, fault| Author { name: name.to_owned(), version, fuel, fault };
        match asked {
            Ok((proposals, fuel)) => {
                self.faults = 0;
                self.last.clone_from(&proposals);
                (proposals, author(&self.name, self.version, fuel, None))
            }
            Err(fault) => {
                self.faults = self.faults.saturating_add(1);
                if self.faults >= TRAPS_MAX {
                    let native = Native::Conservative;
                    return (native.propose(picture), author(native.as_str(), None, 0, Some(fault)));
                }
                (self.last.clone(), author(&self.name, self.version, 0, Some(fault)))
            }
        }
    }
}

#[cfg(test)]
mod tests;
