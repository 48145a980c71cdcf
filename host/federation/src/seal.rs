//! Sealing: nobody reads what is kept without its key, and nobody changes or exchanges it unseen.
//!
//! AES-256-GCM (NIST SP 800-38D). No key seals twice: a chunk's key is its own, and a key that seals many things makes one for each of them
//! from a salt, so that there is no nonce to repeat. What is opened is named again by who asked for it, which also
//! commits to the key: no second key gives bytes of the same name.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::cut::Recipe;
use crate::defaults::{NODE_ENTRIES_MAX, SALT_BYTES};
use crate::id::{ItemId, Root};
use crate::manifest::Entry;

/// Bytes that sealing adds: the tag.
pub const TAG_BYTES: usize = 16;

/// Where keys and salts come from. The core draws nothing itself.
pub trait Draw: Send + Sync {
    /// Fills `bytes` with what nobody can foresee.
    ///
    /// # Errors
    /// When there is no source of randomness: nothing may be sealed then.
    fn fill(&self, bytes: &mut [u8]) -> Result<(), Error>;
}

/// The operating system's randomness.
#[derive(Clone, Copy, Debug, Default)]
pub struct System;

impl Draw for System {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), Error> {
        aws_lc_rs::rand::fill(bytes).map_err(|_| Error::Sealed("randomness of the operating system"))
    }
}

/// A key of 256 bits.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret([u8; 32]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// A key from what is at hand.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A fresh key.
    ///
    /// # Errors
    /// When `draw` gives nothing.
    pub fn draw(draw: &dyn Draw) -> Result<Self, Error> {
        let mut bytes = [0; 32];
        draw.fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// Seals the one thing that this key is for. `about` must be given again to open it.
    ///
    /// # Errors
    /// When there is more than the cipher takes, which no chunk is.
    pub fn seal_once(&self, about: &[u8], mut bytes: Vec<u8>) -> Result<Vec<u8>, Error> {
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        self.cipher()?
            .seal_in_place_append_tag(nonce, Aad::from(about), &mut bytes)
            .map_err(|_| Error::Sealed("what was to be sealed"))?;
        Ok(bytes)
    }

    /// Opens what [`Secret::seal_once`] sealed.
    ///
    /// # Errors
    /// When it is not what this key sealed about this.
    pub fn open_once(&self, about: &[u8], mut sealed: Vec<u8>) -> Result<Vec<u8>, Error> {
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        let opened = self.cipher()?.open_in_place(nonce, Aad::from(about), &mut sealed);
        let length = opened.map_err(|_| Error::Sealed("what was kept"))?.len();
        sealed.truncate(length);
        Ok(sealed)
    }

    /// Seals one of many things, with a key of its own that is made from a salt; the salt goes before it.
    ///
    /// # Errors
    /// When `draw` gives nothing.
    pub fn seal(&self, about: &[u8], bytes: Vec<u8>, draw: &dyn Draw) -> Result<Vec<u8>, Error> {
        let mut salt = [0; SALT_BYTES];
        draw.fill(&mut salt)?;
        let sealed = self.salted(&salt).seal_once(about, bytes)?;
        Ok([salt.as_slice(), &sealed].concat())
    }

    /// Opens what [`Secret::seal`] sealed.
    ///
    /// # Errors
    /// When it is not what this key sealed about this.
    pub fn open(&self, about: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Error> {
        let (salt, sealed) =
            sealed.split_first_chunk::<SALT_BYTES>().ok_or(Error::Malformed("what was sealed"))?;
        self.salted(salt).open_once(about, sealed.to_vec())
    }

    pub(crate) const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn salted(&self, salt: &[u8; SALT_BYTES]) -> Self {
        Self(*blake3::keyed_hash(&self.0, salt).as_bytes())
    }

    fn cipher(&self) -> Result<LessSafeKey, Error> {
        let key = UnboundKey::new(&AES_256_GCM, &self.0).map_err(|_| Error::Sealed("a key"))?;
        Ok(LessSafeKey::new(key))
    }
}

/// A chunk in its place, with its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keyed {
    /// The chunk.
    pub entry: Entry,
    /// What opens it.
    pub key: Secret,
}

/// Which part of which content's list is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The item.
    pub item: ItemId,
    /// The content.
    pub root: Root,
    /// Which part of the list, from 0.
    pub number: u32,
}

impl Part {
    fn about(&self) -> Vec<u8> {
        let recipe = u8::from(Recipe::FastCdc64K);
        [&self.item.0[..], &self.root.0, &self.number.to_be_bytes(), &[recipe]].concat()
    }

    fn about_small(&self) -> Vec<u8> {
        [b"small", self.about().as_slice()].concat()
    }

    /// Seals a part of a content's list with the item's data key.
    ///
    /// # Errors
    /// Past [`NODE_ENTRIES_MAX`] chunks, or when `draw` gives nothing.
    pub fn seal(&self, chunks: &[Keyed], data_key: &Secret, draw: &dyn Draw) -> Result<Vec<u8>, Error> {
        if chunks.len() > NODE_ENTRIES_MAX {
            return Err(Error::limit("chunks of a sealed part", NODE_ENTRIES_MAX));
        }
        let list = postcard::to_allocvec(chunks).map_err(|_| Error::Malformed("a list of chunks"))?;
        data_key.seal(&self.about(), list, draw)
    }

    /// Seals a content that is small, instead of a list of chunks.
    ///
    /// # Errors
    /// When `draw` gives nothing.
    pub fn seal_small(&self, content: &[u8], data_key: &Secret, draw: &dyn Draw) -> Result<Vec<u8>, Error> {
        data_key.seal(&self.about_small(), content.to_vec(), draw)
    }

    /// Opens what [`Part::seal_small`] sealed.
    ///
    /// # Errors
    /// When it was sealed with another key, or is another content.
    pub fn open_small(&self, sealed: &[u8], data_key: &Secret) -> Result<Vec<u8>, Error> {
        data_key.open(&self.about_small(), sealed)
    }

    /// Opens it.
    ///
    /// # Errors
    /// When it was sealed with another key, or is another part.
    pub fn open(&self, sealed: &[u8], data_key: &Secret) -> Result<Vec<Keyed>, Error> {
        let list = data_key.open(&self.about(), sealed)?;
        let chunks: Vec<Keyed> =
            postcard::from_bytes(&list).map_err(|_| Error::Malformed("a list of chunks"))?;
        if chunks.len() > NODE_ENTRIES_MAX {
            return Err(Error::limit("chunks of a sealed part", NODE_ENTRIES_MAX));
        }
        Ok(chunks)
    }
}
