//! Packs: many sealed chunks in one object, so that a bucket holds few large ones and learns no chunk's length.
//!
//! `PPK1`, sealed chunks one after another, their sealed index, the index's length (4 bytes, little endian), `PPK1`. A pack is never changed; it is
//! named by the hash of its bytes, so that to write it twice is to write it once.

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::defaults::{CHUNK_BYTES_MAX, CHUNK_ZSTD_LEVEL, PACK_BYTES_MAX, PACK_BYTES_MIN, PACK_CHUNKS_MAX};
use crate::id::{ChunkId, PackId};
use crate::seal::{Draw, Secret, TAG_BYTES};

const MAGIC: [u8; 4] = *b"PPK1";
const ABOUT: &[u8] = b"portolan pack 1 index";
/// What follows the index: its length and the magic.
pub const TAIL_BYTES: usize = 8;

/// How a chunk's bytes are before they are sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Coding {
    /// As they are.
    Raw,
    /// A frame of zstd (RFC 8878).
    Zstd,
}

impl Coding {
    /// The smaller form of a chunk.
    ///
    /// # Errors
    /// When zstd fails.
    pub fn encode(chunk: &[u8]) -> Result<(Self, Vec<u8>), Error> {
        let frame = zstd::bulk::compress(chunk, CHUNK_ZSTD_LEVEL).map_err(Error::Zstd)?;
        Ok(if frame.len() < chunk.len() { (Self::Zstd, frame) } else { (Self::Raw, chunk.to_vec()) })
    }

    /// The chunk again; it must have `bytes` bytes.
    ///
    /// # Errors
    /// When it has not, or is larger than a chunk.
    pub fn decode(self, coded: Vec<u8>, bytes: u32) -> Result<Vec<u8>, Error> {
        let bytes = bytes as usize;
        if bytes > CHUNK_BYTES_MAX {
            return Err(Error::limit("bytes of a chunk", CHUNK_BYTES_MAX));
        }
        let chunk = match self {
            Self::Raw => coded,
            Self::Zstd => zstd::bulk::decompress(&coded, bytes).map_err(Error::Zstd)?,
        };
        if chunk.len() == bytes { Ok(chunk) } else { Err(Error::Malformed("the length of a chunk")) }
    }
}

/// Where a chunk is in its pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// The chunk.
    pub id: ChunkId,
    /// Where its sealed bytes begin.
    pub at: u32,
    /// How many there are.
    pub sealed_bytes: u32,
    /// How many bytes the chunk has.
    pub bytes: u32,
    /// How it is coded.
    pub coding: Coding,
}

/// A pack that is being filled.
#[derive(Debug)]
pub struct Builder {
    body: Vec<u8>,
    slots: Vec<Slot>,
}

impl Default for Builder {
    fn default() -> Self {
        Self { body: MAGIC.to_vec(), slots: Vec::new() }
    }
}

impl Builder {
    /// Adds a chunk, coded and sealed with its key.
    ///
    /// # Errors
    /// When the pack is full; see [`Builder::is_full`].
    pub fn push(&mut self, id: ChunkId, coding: Coding, bytes: u32, sealed: &[u8]) -> Result<(), Error> {
        if sealed.len() > CHUNK_BYTES_MAX + TAG_BYTES || bytes as usize > CHUNK_BYTES_MAX {
            return Err(Error::limit("bytes of a chunk", CHUNK_BYTES_MAX));
        }
        if self.slots.len() >= PACK_CHUNKS_MAX || self.body.len() + sealed.len() > PACK_BYTES_MAX {
            return Err(Error::limit("bytes of a pack", PACK_BYTES_MAX));
        }
        let number = |size: usize| u32::try_from(size).unwrap_or(u32::MAX);
        let (at, sealed_bytes) = (number(self.body.len()), number(sealed.len()));
        self.slots.push(Slot { id, at, sealed_bytes, bytes, coding });
        self.body.extend_from_slice(sealed);
        Ok(())
    }

    /// Whether it is time to write it.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.body.len() >= PACK_BYTES_MIN || self.slots.len() >= PACK_CHUNKS_MAX
    }

    /// Whether nothing is in it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The pack's name, its index and its bytes. `key` is the tenant's for indexes in this region.
    ///
    /// # Errors
    /// When `draw` gives nothing.
    pub fn finish(mut self, key: &Secret, draw: &dyn Draw) -> Result<(PackId, Vec<Slot>, Vec<u8>), Error> {
        let index = postcard::to_allocvec(&self.slots).map_err(|_| Error::Malformed("an index"))?;
        let sealed = key.seal(ABOUT, index, draw)?;
        let length =
            u32::try_from(sealed.len()).map_err(|_| Error::limit("bytes of a pack", PACK_BYTES_MAX))?;
        self.body.extend_from_slice(&sealed);
        self.body.extend_from_slice(&length.to_le_bytes());
        self.body.extend_from_slice(&MAGIC);
        Ok((PackId(*blake3::hash(&self.body).as_bytes()), self.slots, self.body))
    }
}

/// How many bytes before the tail the index has; `tail` is the last [`TAIL_BYTES`] of a pack.
///
/// # Errors
/// When it is no pack's.
pub fn index_bytes(tail: &[u8]) -> Result<usize, Error> {
    match tail {
        [a, b, c, d, magic @ ..] if *magic == MAGIC => {
            let length = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
            // An entry has 44 bytes at most: a name, three numbers, a coding.
            if length > PACK_CHUNKS_MAX * 48 {
                Err(Error::limit("chunks of a pack", PACK_CHUNKS_MAX))
            } else {
                Ok(length)
            }
        }
        _ => Err(Error::Malformed("the end of a pack")),
    }
}

/// A pack's index.
///
/// # Errors
/// When it was sealed with another key, or names what no pack has.
pub fn read_index(sealed: &[u8], key: &Secret) -> Result<Vec<Slot>, Error> {
    let slots: Vec<Slot> =
        postcard::from_bytes(&key.open(ABOUT, sealed)?).map_err(|_| Error::Malformed("an index"))?;
    let fits = |slot: &Slot| {
        slot.bytes as usize <= CHUNK_BYTES_MAX
            && slot.sealed_bytes as usize <= CHUNK_BYTES_MAX + TAG_BYTES
            && slot.at as usize <= PACK_BYTES_MAX
    };
    if slots.len() <= PACK_CHUNKS_MAX && slots.iter().all(fits) {
        Ok(slots)
    } else {
        Err(Error::Malformed("an index"))
    }
}
