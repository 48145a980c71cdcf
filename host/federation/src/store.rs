//! A tenant's packs in an object store: a local directory, or a bucket.
//!
//! What a pack is named after is its content, so that a write may be repeated; nothing here needs a conditional write. In a directory a pack is on
//! the disk, and its name with it, before a write is answered. Which packs there are, and what is in them, its keeper knows: it notes a pack before
//! it writes one, so that none is ever forgotten.

use std::path::Path as Folder;
use std::sync::Arc;

use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use portolan_core::ids::TenantName;

use crate::Error;
use crate::id::{Namer, PackId};
use crate::pack::{Builder, Slot};
use crate::seal::{Draw, Keyed, Secret};

/// Where a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// The pack.
    pub pack: PackId,
    /// The place in it.
    pub slot: Slot,
}

/// A pack that is whole, and not written yet.
#[derive(Debug)]
pub struct Sealed {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its name.
    pub name: PackId,
    /// What is in it.
    pub slots: Vec<Slot>,
}

/// A tenant's packs in one region.
#[derive(Clone, Debug)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    place: Path,
    key: Secret,
}

impl Store {
    /// The tenant's packs in a store of objects; `key` seals their indexes.
    #[must_use]
    pub fn new(objects: Arc<dyn ObjectStore>, tenant: &TenantName, key: Secret) -> Self {
        Self { objects, place: Path::from(tenant.as_str()), key }
    }

    /// A directory of packs, which is made.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn local(folder: &Folder) -> Result<Arc<dyn ObjectStore>, Error> {
        std::fs::create_dir_all(folder).map_err(Error::Keyring)?;
        Ok(Arc::new(LocalFileSystem::new_with_prefix(folder)?.with_fsync(true)))
    }

    /// Ends a pack. Its name is known from here on.
    ///
    /// # Errors
    /// When `draw` gives nothing.
    pub fn seal(&self, pack: Builder, draw: &dyn Draw) -> Result<Sealed, Error> {
        let (name, slots, bytes) = pack.finish(&self.key, draw)?;
        Ok(Sealed { bytes, name, slots })
    }

    /// Writes a pack.
    ///
    /// # Errors
    /// The store's.
    pub async fn put(&self, name: &PackId, bytes: Vec<u8>) -> Result<(), Error> {
        self.objects.put(&self.path(name), bytes.into()).await?;
        Ok(())
    }

    /// A chunk's sealed bytes.
    ///
    /// # Errors
    /// The store's, or when fewer bytes are there.
    pub async fn sealed(&self, location: &Location) -> Result<Vec<u8>, Error> {
        let Slot { at, sealed_bytes, .. } = location.slot;
        let range = u64::from(at)..u64::from(at) + u64::from(sealed_bytes);
        let bytes = self.objects.get_range(&self.path(&location.pack), range).await?;
        Ok(bytes.into())
    }

    /// A chunk, opened, restored, and named again.
    ///
    /// # Errors
    /// The store's, or [`Error::Corrupt`] when it is not that chunk.
    pub async fn chunk(&self, location: &Location, keyed: &Keyed, namer: &Namer) -> Result<Vec<u8>, Error> {
        let coded = keyed.key.open_once(&keyed.entry.id.0, self.sealed(location).await?)?;
        let chunk = location.slot.coding.decode(coded, keyed.entry.bytes)?;
        if namer.chunk(&chunk) == keyed.entry.id { Ok(chunk) } else { Err(Error::Corrupt("a chunk")) }
    }

    /// Is a pack, read as a whole, what its name says?
    ///
    /// # Errors
    /// The store's, unless the pack is not there.
    pub async fn is_whole(&self, pack: &PackId) -> Result<bool, Error> {
        match self.objects.get(&self.path(pack)).await {
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            found => Ok(blake3::hash(&found?.bytes().await?).as_bytes() == &pack.0),
        }
    }

    /// Deletes a pack; one that is gone is gone.
    ///
    /// # Errors
    /// The store's.
    pub async fn delete(&self, pack: &PackId) -> Result<(), Error> {
        match self.objects.delete(&self.path(pack)).await {
            Err(object_store::Error::NotFound { .. }) => Ok(()),
            outcome => Ok(outcome?),
        }
    }

    fn path(&self, pack: &PackId) -> Path {
        self.place.clone().join("pack").join(pack.to_string())
    }
}

#[cfg(test)]
mod tests;
