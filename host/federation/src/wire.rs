//! What a region that keeps a copy asks the region that writes about content, or the target of a share between tenants its source's, and what it is
//! answered: one message each, in postcard's form.
//!
//! Who asks keeps nothing at the other end: each question says where its asker is, so that a link that breaks costs one answer. Numbers of kinds are
//! only ever added; another meaning is another [`MAGIC`]. What an answer holds is bounded, and so is what either end holds of it. Who is at the
//! other end, and what of it may be asked, is the link's business.
//!
//! Chunks go as they are kept, sealed; the lists that open them go within the link alone (TLS 1.3), and are sealed anew where they come to rest.

use portolan_changelog::content::{Change, Mapping, Share, Span};
use portolan_core::ids::{ShardName, TenantName};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::defaults::{
    ANSWER_BYTES, CHANGES_TOLD_MAX, INLINE_BYTES_MAX, LENT_ITEMS_MAX, MESSAGE_BYTES_MAX, NAME_BYTES_MAX,
    NODE_ENTRIES_MAX, PAGE_MAX, SPANS_MAX, VERSION_BYTES_MAX,
};
use crate::id::{ItemId, Root};
use crate::pack::Coding;
use crate::patch::{Head, Op};
use crate::seal::{Keyed, Secret};

/// What each question begins with: it shares its door with others' words.
const MAGIC: &[u8; 4] = b"PCQ1";

/// What a copy asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// Whose content is in a shard, by name, after a name?
    Tenants {
        /// The shard.
        shard: ShardName,
        /// After which name; '' for all.
        after: String,
        /// A copy answers as well: an epoch is to begin at the asker.
        gathers: bool,
    },
    /// What happened to a tenant's content, beyond what is here?
    Changes {
        /// The shard.
        shard: ShardName,
        /// Whose.
        tenant: TenantName,
        /// What of each epoch is here, the newest first.
        spans: Vec<Span>,
        /// A copy answers as well: an epoch is to begin at the asker.
        gathers: bool,
    },
    /// Which chunks make a content?
    List {
        /// Which.
        content: Named,
        /// From which part of the list.
        from: u32,
    },
    /// Some chunks of a part of a content's list.
    Chunks {
        /// Which content.
        content: Named,
        /// Which part.
        part: u32,
        /// Which of its chunks: one bit for each, from the lowest bit of the first byte.
        wanted: Vec<u8>,
    },
    /// What leads from a content that is here to another of the same item?
    Patch {
        /// To which.
        content: Named,
        /// From which.
        base: Root,
        /// Operations that are here already.
        from: u64,
    },
    /// Something about a share between two tenants, of the region that writes the source's shard.
    Lent {
        /// Which share.
        lent: Lent,
        /// What about it.
        wish: Wish,
    },
}

/// A share between two tenants, as its target names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lent {
    /// The source's shard.
    pub shard: ShardName,
    /// Whose content it is.
    pub source: TenantName,
    /// Who gets it.
    pub target: TenantName,
    /// The share.
    pub share: String,
}

/// What a target wants of a share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wish {
    /// It accepts what was offered.
    Accept,
    /// Some bytes of an item's shown version.
    Bytes {
        /// The item.
        name: String,
        /// The version, which must be shown still.
        version: String,
        /// From which byte on.
        at: u64,
    },
    /// It wants no more of it.
    End,
    /// What is shared, by name.
    Items {
        /// Where the last answer ended; empty for all.
        after: Vec<u8>,
    },
    /// What the source says of it now.
    Word,
}

/// A content of an item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// The shard.
    pub shard: ShardName,
    /// Whose.
    pub tenant: TenantName,
    /// The item.
    pub item: ItemId,
    /// The content.
    pub root: Root,
}

/// What it is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Nothing, and why.
    Refused(Refused),
    /// Whose content there is.
    Tenants(Tenants),
    /// What happened.
    Changes(Box<Changes>),
    /// Parts of a list, in order.
    List {
        /// For each part its chunks, with what opens them.
        parts: Vec<Vec<Keyed>>,
        /// There are more.
        more: bool,
    },
    /// Chunks, in order; as many as an answer holds.
    Chunks(Vec<Sent>),
    /// Operations of a patch, in order.
    Patch {
        /// What it leads from and to.
        head: Head,
        /// As many as an answer holds.
        ops: Vec<Op>,
        /// There are more.
        more: bool,
    },
    /// Some bytes of what is shared.
    Bytes {
        /// How many all of it has.
        total: u64,
        /// As many as an answer holds, from where they were wanted.
        bytes: Vec<u8>,
    },
    /// What is shared.
    Items {
        /// In the order of their names.
        items: Vec<LentItem>,
        /// Where to go on, in a form that says nothing; none at the end.
        next: Option<Vec<u8>>,
    },
    /// A share, as its source has it.
    Share(Box<Share>),
}

/// Why nothing is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refused {
    /// Not now, or not here.
    Away(String),
    /// Not to that region.
    Forbidden(String),
    /// It is not there any more.
    Gone(String),
}

/// Whose content is in a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenants {
    /// Tenants with the epoch and the number of their last changes.
    pub tenants: Vec<(TenantName, u64, u64)>,
    /// Ask again after this name for more; none when there are none.
    pub next: Option<String>,
    /// Tenants that were left out, because they may not be in that region.
    pub withheld: u64,
}

/// What happened to a tenant's content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// The epoch under which it is told.
    pub epoch: u64,
    /// The secret of the tenant's names.
    pub names: Secret,
    /// The last change that both have.
    pub after: u64,
    /// Those that follow it, in order.
    pub told: Vec<Told>,
    /// There are more.
    pub more: bool,
}

/// A change, and what it brought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The change.
    pub change: Change,
    /// What it brought, as it is now.
    pub what: What,
}

/// What a change brought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// Nothing that is still there.
    Nothing,
    /// A share.
    Share(Box<Share>),
    /// A version.
    Version(Box<Brought>),
}

/// A version of an item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Brought {
    /// The item.
    pub item: ItemId,
    /// Its media type.
    pub media: String,
    /// The version, as [`crate::version::Version::bytes`] gives it.
    pub record: Vec<u8>,
    /// How many bytes its content has.
    pub bytes: u64,
    /// Its content is kept: it has not been purged since.
    pub kept: bool,
    /// The content, when it is small.
    pub small: Option<Vec<u8>>,
    /// Which items the item follows.
    pub follows: Vec<Mapping>,
}

/// An item that is shared with another tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LentItem {
    /// How many bytes it has; 0 where some of them are masked.
    pub bytes: u64,
    /// What names it for this share, and says nothing to another one's target.
    pub item: ItemId,
    /// Its media type.
    pub media: String,
    /// Its name within its site.
    pub name: String,
    /// The version that is shown.
    pub version: String,
}

/// A chunk that was wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// Its place in the part.
    pub at: u32,
    /// How it is coded.
    pub coding: Coding,
    /// Its sealed bytes.
    pub sealed: Vec<u8>,
}

impl Question {
    /// Is this a question of this kind?
    #[must_use]
    pub fn is(bytes: &[u8]) -> bool {
        bytes.starts_with(MAGIC)
    }

    /// As it is sent.
    ///
    /// # Errors
    /// When it is beyond the limits.
    pub fn bytes(&self) -> Result<Vec<u8>, Error> {
        self.check()?;
        encode(self, MAGIC.to_vec())
    }

    /// A question that came.
    ///
    /// # Errors
    /// When it is of another form, or beyond the limits.
    pub fn read(bytes: &[u8]) -> Result<Self, Error> {
        let body = bytes.strip_prefix(MAGIC).ok_or(Error::Malformed("a question"))?;
        let question: Self = decode(body)?;
        question.check()?;
        Ok(question)
    }

    fn check(&self) -> Result<(), Error> {
        match self {
            Self::Changes { spans, .. } => most(spans.len(), SPANS_MAX, "epochs of a question"),
            Self::Chunks { wanted, .. } => most(wanted.len(), NODE_ENTRIES_MAX / 8, "bytes of a want"),
            Self::Lent { lent, wish } => {
                most(lent.share.len(), NAME_BYTES_MAX, "bytes of a share's name")?;
                match wish {
                    Wish::Bytes { name, version, .. } => {
                        most(name.len().max(version.len()), NAME_BYTES_MAX, "bytes of a name")
                    }
                    Wish::Items { after } => most(after.len(), 2 * NAME_BYTES_MAX, "bytes of a place"),
                    Wish::Accept | Wish::End | Wish::Word => Ok(()),
                }
            }
            Self::List { .. } | Self::Patch { .. } | Self::Tenants { .. } => Ok(()),
        }
    }
}

impl Answer {
    /// As it is sent.
    ///
    /// # Errors
    /// When it is beyond the limits.
    pub fn bytes(&self) -> Result<Vec<u8>, Error> {
        self.check()?;
        encode(self, Vec::new())
    }

    /// An answer that came.
    ///
    /// # Errors
    /// When it is of another form, or beyond the limits.
    pub fn read(bytes: &[u8]) -> Result<Self, Error> {
        let answer: Self = decode(bytes)?;
        answer.check()?;
        Ok(answer)
    }

    fn check(&self) -> Result<(), Error> {
        match self {
            Self::Refused(_) | Self::Share(_) => Ok(()),
            Self::Bytes { bytes, .. } => most(bytes.len(), 2 * ANSWER_BYTES, "bytes of an answer"),
            Self::Items { items, .. } => most(items.len(), LENT_ITEMS_MAX, "items of an answer"),
            Self::Tenants(told) => most(told.tenants.len(), PAGE_MAX as usize, "tenants of an answer"),
            Self::Changes(changes) => {
                most(changes.told.len(), CHANGES_TOLD_MAX as usize, "changes of an answer")?;
                changes.told.iter().try_for_each(|told| match &told.what {
                    What::Version(brought) => brought.check(),
                    What::Nothing | What::Share(_) => Ok(()),
                })
            }
            Self::List { parts, .. } => {
                parts.iter().try_for_each(|part| most(part.len(), NODE_ENTRIES_MAX, "chunks of a part"))
            }
            Self::Chunks(sent) => most(sent.len(), NODE_ENTRIES_MAX, "chunks of an answer"),
            Self::Patch { ops, .. } => ops.iter().try_for_each(Op::check),
        }
    }
}

impl Brought {
    fn check(&self) -> Result<(), Error> {
        most(self.record.len(), VERSION_BYTES_MAX, "bytes of a version's record")?;
        let small = self.small.as_ref().map_or(0, Vec::len);
        most(small, INLINE_BYTES_MAX, "bytes of content in its record")?;
        most(self.follows.len(), PAGE_MAX as usize, "items that an item follows")
    }
}

const fn most(size: usize, max: usize, what: &'static str) -> Result<(), Error> {
    if size <= max { Ok(()) } else { Err(Error::limit(what, max)) }
}

fn encode<T: Serialize>(message: &T, head: Vec<u8>) -> Result<Vec<u8>, Error> {
    let bytes = postcard::to_extend(message, head).map_err(|_| Error::Malformed("a message"))?;
    most(bytes.len(), MESSAGE_BYTES_MAX, "bytes of a message")?;
    Ok(bytes)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    most(bytes.len(), MESSAGE_BYTES_MAX, "bytes of a message")?;
    let (message, after) = postcard::take_from_bytes(bytes).map_err(|_| Error::Malformed("a message"))?;
    if after.is_empty() { Ok(message) } else { Err(Error::Malformed("the length of a message")) }
}

#[cfg(test)]
mod tests;
