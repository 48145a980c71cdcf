//! What can go wrong, by what the caller will do about it.

use crate::defaults::{CHANGE_BYTES_MAX, OBJECTS_MAX, REGISTER_BYTES_MAX, REGISTERS_AT_ONCE_MAX};
use crate::object::{Key, Manager};

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody knows whether the store took it: look at the newest generation before trying again.
    #[error(
        "the store went away while the change was written; look whether generation {generation} has it, then try again: {away}"
    )]
    Unknown {
        /// The generation that it would have made.
        generation: u64,
        /// What happened.
        away: Away,
    },
    /// The store does not answer.
    #[error(transparent)]
    Away(#[from] Away),
    /// What is there stands against it.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// The store holds what it never wrote.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// What is there was written by a newer program, and there is nothing else to begin with.
    #[error("{newer}. The store cannot be asked: {away}")]
    Newer {
        /// What is there, and what to do.
        newer: String,
        /// Why the store does not help.
        away: Box<Self>,
    },
    /// An object that no store takes.
    #[error("{key}: {reason}")]
    Object {
        /// Which one.
        key: Key,
        /// What is wrong.
        reason: String,
    },
    /// More registers than one change takes, or one twice.
    #[error(
        "the change has {count} names of registers and {bytes} bytes; one may have {REGISTERS_AT_ONCE_MAX} and {REGISTER_BYTES_MAX}, each \
         name once"
    )]
    Registers {
        /// Names that it rests on or writes.
        count: usize,
        /// Bytes that it writes.
        bytes: usize,
    },
    /// A name that no register has.
    #[error("`{0}` names no register: letters, digits, `/`, `-`, `.` and `_` do")]
    Register(String),
    /// More than one change may hold.
    #[error("the change has {0} bytes; one may have {CHANGE_BYTES_MAX}: apply it in parts")]
    TooLarge(usize),
    /// More than a store may hold.
    #[error("the store would have {0} objects; it may have {OBJECTS_MAX}")]
    TooMany(usize),
    /// Others were always faster.
    #[error("others changed the store {0} times meanwhile: try again")]
    Crowded(u32),
}

/// The store does not answer, or not as a store does.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the control store does not answer: {0}")]
pub struct Away(pub String);

/// A wish that what is there stands against.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// Another manages the object.
    #[error("{key} is managed by {manager}: change it there, or take it over")]
    Managed {
        /// Which object.
        key: Key,
        /// By whom.
        manager: Manager,
    },
    /// Another change came before.
    #[error("another change came before: generation {newest} is the newest, not {wanted}")]
    Moved {
        /// The newest generation.
        newest: u64,
        /// The one that the change was to follow.
        wanted: u64,
    },
    /// It was to be new, and is there.
    #[error("{key} is there already, since generation {revision}")]
    Present {
        /// Which object.
        key: Key,
        /// Since when it is as it is.
        revision: u64,
    },
    /// It is not as the caller saw it.
    #[error("{key} has changed: it is of generation {revision:?}, not {expected}")]
    Stale {
        /// Which object.
        key: Key,
        /// Its revision; none when it is gone.
        revision: Option<u64>,
        /// The one that the caller saw.
        expected: u64,
    },
}

/// An entry of the log that does not follow from those before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("generation {generation} of the store {reason}")]
pub struct Damaged {
    /// Of which entry.
    pub generation: u64,
    /// What is wrong with it.
    pub reason: String,
}
