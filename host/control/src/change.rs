//! Changes: what someone wants, and the entry of the log that it becomes.

use portolan_core::ids::Digest;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::defaults::{CHANGE_BYTES_MAX, MESSAGE_BYTES_MAX};
use crate::error::{Damaged, Error};
use crate::object::{Body, Key, Manager};

/// What someone wants to change, all of it or nothing.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Who wants it: a token's name, or a user of the machine.
    pub author: String,
    /// Why, in the author's words; cut at a kilobyte.
    pub message: String,
    /// By which way: `apply`, `api`, `rollout` ...
    pub source: String,
    /// The wishes, each object at most once.
    pub wishes: Vec<Wish>,
}

/// What is wanted of one object.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Which one.
    pub key: Key,
    /// What it is to be; none for nothing.
    pub body: Option<Body>,
    /// On which condition.
    pub expect: Expect,
    /// Who manages it from now on, and must have managed it before.
    pub manager: Manager,
    /// Takes the object over from whoever manages it.
    pub take_over: bool,
}

/// The condition of a wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Whatever is there.
    Any,
    /// Nothing is there.
    Absent,
    /// It is of this revision.
    Revision(u64),
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// When, in milliseconds since 1970, by the author's machine.
    pub at_ms: u64,
    /// By whom.
    pub author: String,
    /// What.
    pub edits: Vec<Edit>,
    /// The generation that it makes.
    pub generation: u64,
    /// A number of its own, by which an author knows it again.
    pub id: String,
    /// Why.
    pub message: String,
    /// The SHA-256 of the entry before it, in hexadecimal; zeros for the first.
    pub previous: String,
    /// By which way.
    pub source: String,
}

/// What became of one object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Edit {
    /// It is no more.
    Delete {
        /// Which one.
        key: Key,
    },
    /// It is this.
    Put {
        /// What it says.
        body: Body,
        /// Which one.
        key: Key,
        /// Who manages it.
        managed_by: Manager,
    },
}

impl Edit {
    /// Of which object.
    #[must_use]
    pub const fn key(&self) -> &Key {
        match self {
            Self::Delete { key } | Self::Put { key, .. } => key,
        }
    }
}

impl Change {
    /// Makes an entry of a draft whose wishes were granted.
    pub(crate) fn new(draft: &Draft, edits: Vec<Edit>, after: (u64, Digest), at_ms: u64, id: &str) -> Self {
        let mut message = draft.message.clone();
        let end = (0..=MESSAGE_BYTES_MAX).rev().find(|&end| message.is_char_boundary(end)).unwrap_or(0);
        message.truncate(end);
        Self {
            at_ms,
            author: draft.author.clone(),
            edits,
            generation: after.0.saturating_add(1),
            id: id.to_owned(),
            message,
            previous: after.1.to_string(),
            source: draft.source.clone(),
        }
    }

    /// Its bytes in the log.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, Error> {
        // Maps with keys of text always write.
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        if bytes.len() > CHANGE_BYTES_MAX {
            return Err(Error::TooLarge(bytes.len()));
        }
        Ok(bytes)
    }

    /// Reads an entry.
    pub(crate) fn decode(generation: u64, bytes: &[u8]) -> Result<Self, Damaged> {
        serde_json::from_slice(bytes).map_err(|error| Damaged {
            generation,
            reason: format!(
                "does not read ({error}); where a newer portolan wrote it, start that version here"
            ),
        })
    }
}

/// The digest by which the next entry names this one.
pub(crate) fn digest(entry: &[u8]) -> Digest {
    Digest(Sha256::digest(entry).into())
}
