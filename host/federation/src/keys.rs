//! Who can read an item: its data key, wrapped for each tenant and region that may.
//!
//! chunk ← its own key ← the sealed list of a content ← the item's data key ← a key-encryption key of one tenant in one region, which never
//! leaves its [`Kms`]. Rotation wraps data keys anew. Sharing adds a wrap. Revocation drops wraps and begins a new *term* with another data key,
//! because who could read may have kept the key: what was readable before may be known, what comes after is not. Erasure drops all
//! wraps, and the keys of chunks that no other item has ([`ChunkKeys`]); copies that nobody can reach are then noise.

mod keyring;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use portolan_core::ids::{RegionName, TenantName};
use serde::{Deserialize, Serialize};

pub use self::keyring::Keyring;
use crate::Error;
use crate::defaults::{HOLDERS_MAX, TERMS_MAX};
use crate::id::{ChunkId, ItemId};
use crate::manifest::Entry;
use crate::seal::{Draw, Keyed, Secret};

/// Whose key-encryption key: a tenant's in a region.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Holder {
    /// The tenant.
    pub tenant: TenantName,
    /// The region.
    pub region: RegionName,
}

/// A key that only a holder's key-encryption key opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wrapped {
    /// Which of the holder's keys, by number; higher ones are newer.
    pub generation: u32,
    /// The key, sealed.
    pub bytes: Vec<u8>,
}

/// Where key-encryption keys are kept. They never leave it.
#[async_trait]
pub trait Kms: std::fmt::Debug + Send + Sync {
    /// Wraps a key with the holder's newest key-encryption key, of which it makes the first. `about` must be given again.
    async fn wrap(&self, holder: &Holder, about: &[u8], key: &Secret) -> Result<Wrapped, Error>;

    /// Opens what was wrapped for a holder.
    async fn unwrap(&self, holder: &Holder, about: &[u8], wrapped: &Wrapped) -> Result<Secret, Error>;

    /// Makes a newer key-encryption key, and says its number. Older ones go on opening.
    async fn rotate(&self, holder: &Holder) -> Result<u32, Error>;

    /// Destroys all of a holder's key-encryption keys before a number: what still waits to be wrapped anew is lost.
    async fn retire(&self, holder: &Holder, before: u32) -> Result<(), Error>;
}

/// An item's data keys, as they may be kept and sent: the last one is used for what comes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemKeys {
    item: ItemId,
    terms: Vec<BTreeMap<Holder, Wrapped>>,
}

impl ItemKeys {
    /// The first data key of a new item.
    ///
    /// # Errors
    /// When the key is not drawn or wrapped.
    pub async fn create(item: ItemId, home: Holder, kms: &dyn Kms, draw: &dyn Draw) -> Result<Self, Error> {
        let mut keys = Self { item, terms: Vec::new() };
        keys.begin([home], kms, draw).await?;
        Ok(keys)
    }

    /// The number of the term whose data key seals what comes.
    #[must_use]
    pub fn term(&self) -> usize {
        self.terms.len().saturating_sub(1)
    }

    /// Who can read what comes.
    pub fn holders(&self) -> impl Iterator<Item = &Holder> {
        self.terms.last().into_iter().flat_map(BTreeMap::keys)
    }

    /// A term's data key.
    ///
    /// # Errors
    /// When the holder has no wrap of it, or the [`Kms`] does not open it.
    pub async fn open(&self, term: usize, holder: &Holder, kms: &dyn Kms) -> Result<Secret, Error> {
        let wrapped = self.terms.get(term).and_then(|wraps| wraps.get(holder)).ok_or(Error::NoKey)?;
        kms.unwrap(holder, &self.about(term), wrapped).await
    }

    /// Lets another holder read, as far as `from` can: all of it, or from `since` on.
    ///
    /// # Errors
    /// When `from` cannot read that itself. Nothing is shared then.
    pub async fn share(
        &mut self,
        from: &Holder,
        to: &Holder,
        since: usize,
        kms: &dyn Kms,
    ) -> Result<(), Error> {
        let mut fresh = Vec::new();
        for term in since..self.terms.len() {
            if self.terms.get(term).is_some_and(|wraps| wraps.len() >= HOLDERS_MAX) {
                return Err(Error::limit("holders of an item's key", HOLDERS_MAX));
            }
            let key = self.open(term, from, kms).await?;
            fresh.push((term, kms.wrap(to, &self.about(term), &key).await?));
        }
        for (term, wrapped) in fresh {
            if let Some(wraps) = self.terms.get_mut(term) {
                wraps.insert(to.clone(), wrapped);
            }
        }
        Ok(())
    }

    /// A holder reads no more: its wraps go, and what comes is sealed with another key.
    ///
    /// # Errors
    /// When the new key is not drawn or wrapped. The holder's wraps are gone even then.
    pub async fn revoke(&mut self, holder: &Holder, kms: &dyn Kms, draw: &dyn Draw) -> Result<(), Error> {
        let remaining: Vec<Holder> = self.holders().filter(|other| *other != holder).cloned().collect();
        self.terms.iter_mut().for_each(|wraps| drop(wraps.remove(holder)));
        if remaining.is_empty() { Ok(()) } else { self.begin(remaining, kms, draw).await }
    }

    /// Wraps a holder's data keys with its newest key-encryption key. No chunk and no list is touched.
    ///
    /// # Errors
    /// When the [`Kms`] does not open or wrap one; the others are done, and doing it again goes on.
    pub async fn rewrap(&mut self, holder: &Holder, kms: &dyn Kms) -> Result<(), Error> {
        for term in 0..self.terms.len() {
            if !self.terms.get(term).is_some_and(|wraps| wraps.contains_key(holder)) {
                continue;
            }
            let key = self.open(term, holder, kms).await?;
            let wrapped = kms.wrap(holder, &self.about(term), &key).await?;
            if let Some(wraps) = self.terms.get_mut(term) {
                wraps.insert(holder.clone(), wrapped);
            }
        }
        Ok(())
    }

    /// Nobody reads it any more. Who held it must drop its copy of this record too, and is named for a receipt.
    pub fn erase(&mut self) -> BTreeSet<Holder> {
        std::mem::take(&mut self.terms).into_iter().flat_map(BTreeMap::into_keys).collect()
    }

    async fn begin(
        &mut self,
        holders: impl IntoIterator<Item = Holder>,
        kms: &dyn Kms,
        draw: &dyn Draw,
    ) -> Result<(), Error> {
        if self.terms.len() >= TERMS_MAX {
            return Err(Error::limit("data keys of an item", TERMS_MAX));
        }
        let (key, about) = (Secret::draw(draw)?, self.about(self.terms.len()));
        let mut wraps = BTreeMap::new();
        for holder in holders {
            let wrapped = kms.wrap(&holder, &about, &key).await?;
            wraps.insert(holder, wrapped);
        }
        self.terms.push(wraps);
        Ok(())
    }

    fn about(&self, term: usize) -> Vec<u8> {
        [&self.item.0[..], &(term as u64).to_be_bytes()].concat()
    }
}

/// The keys of a tenant's chunks in a region, by which equal chunks of its items are kept once. Its keeper seals it for the tenant.
#[derive(Clone, Debug, Default)]
pub struct ChunkKeys {
    keys: BTreeMap<ChunkId, (Secret, BTreeSet<ItemId>)>,
}

impl ChunkKeys {
    /// The chunks of an item with their keys; a chunk that no item had gets a fresh one. The flag says whether it is new.
    ///
    /// # Errors
    /// When `draw` gives nothing.
    pub fn refer(
        &mut self,
        item: ItemId,
        entries: &[Entry],
        draw: &dyn Draw,
    ) -> Result<Vec<(Keyed, bool)>, Error> {
        let mut keyed = Vec::with_capacity(entries.len());
        for entry in entries {
            let is_new = !self.keys.contains_key(&entry.id);
            if is_new {
                self.keys.insert(entry.id, (Secret::draw(draw)?, BTreeSet::new()));
            }
            if let Some((key, items)) = self.keys.get_mut(&entry.id) {
                items.insert(item);
                keyed.push((Keyed { entry: *entry, key: key.clone() }, is_new));
            }
        }
        Ok(keyed)
    }

    /// An item is erased: the chunks whose keys are gone with it, because no other item has them.
    pub fn erase(&mut self, item: &ItemId) -> Vec<ChunkId> {
        let gone = self.keys.extract_if(.., |_, (_, items)| items.remove(item) && items.is_empty());
        gone.map(|(id, _)| id).collect()
    }
}
