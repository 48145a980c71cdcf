//! A tenant's packs in an object store: a local directory, or a bucket.
//!
//! What a pack is named after is its content, so that a write may be repeated; nothing here needs a conditional write. In a directory a pack is on
//! the disk, and its name with it, before a write is answered.

use std::collections::BTreeSet;
use std::path::Path as Folder;
use std::sync::Arc;

use futures_util::TryStreamExt as _;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use portolan_core::ids::TenantName;

use crate::Error;
use crate::catalog::{Action, Catalog, Location};
use crate::id::{ChunkId, PackId};
use crate::pack::{Builder, Slot, TAIL_BYTES, index_bytes, read_index};
use crate::seal::{Draw, Keyed, Secret};

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

    /// The tenant's packs in a directory, which is made.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn local(folder: &Folder, tenant: &TenantName, key: Secret) -> Result<Self, Error> {
        std::fs::create_dir_all(folder).map_err(Error::Keyring)?;
        let objects = LocalFileSystem::new_with_prefix(folder)?.with_fsync(true);
        Ok(Self::new(Arc::new(objects), tenant, key))
    }

    /// Writes a pack, and enters it once it is there.
    ///
    /// # Errors
    /// The store's; nothing is entered then.
    pub async fn write(
        &self,
        pack: Builder,
        catalog: &mut Catalog,
        draw: &dyn Draw,
        now_ms: u64,
    ) -> Result<PackId, Error> {
        let (name, slots, bytes) = pack.finish(&self.key, draw)?;
        self.objects.put(&self.pack(&name), bytes.into()).await?;
        catalog.add(name, slots, now_ms)?;
        Ok(name)
    }

    /// A chunk's sealed bytes.
    ///
    /// # Errors
    /// The store's, or when fewer bytes are there.
    pub async fn sealed(&self, location: &Location) -> Result<Vec<u8>, Error> {
        let Slot { at, sealed_bytes, .. } = location.slot;
        let range = u64::from(at)..u64::from(at) + u64::from(sealed_bytes);
        let bytes = self.objects.get_range(&self.pack(&location.pack), range).await?;
        Ok(bytes.into())
    }

    /// A chunk, opened, restored, and named again.
    ///
    /// # Errors
    /// The store's, or [`Error::Corrupt`] when it is not that chunk.
    pub async fn chunk(
        &self,
        location: &Location,
        keyed: &Keyed,
        namer: &crate::id::Namer,
    ) -> Result<Vec<u8>, Error> {
        let coded = keyed.key.open_once(&keyed.entry.id.0, self.sealed(location).await?)?;
        let chunk = location.slot.coding.decode(coded, keyed.entry.bytes)?;
        if namer.chunk(&chunk) == keyed.entry.id { Ok(chunk) } else { Err(Error::Corrupt("a chunk")) }
    }

    /// The catalog after a start: of the chunks of each version, and of the packs that are here.
    ///
    /// # Errors
    /// The store's, or that of a pack's index: nothing is collected without all of them.
    pub async fn open(
        &self,
        versions: impl IntoIterator<Item = Vec<ChunkId>>,
        draw: &dyn Draw,
        now_ms: u64,
    ) -> Result<Catalog, Error> {
        let mut catalog = Catalog::new(now_ms);
        versions.into_iter().for_each(|chunks| catalog.refer(&chunks));
        let marks: BTreeSet<PackId> = self.names("mark").await?.into_iter().map(|(name, _)| name).collect();
        let packs = self.names("pack").await?;
        let (marked, plain): (Vec<_>, Vec<_>) =
            packs.iter().copied().partition(|(name, _)| marks.contains(name));
        for (name, bytes) in plain {
            let slots = self.index(&name, bytes).await?;
            catalog.load(name, slots, false);
        }
        for (name, bytes) in marked {
            let keep = match self.index(&name, bytes).await {
                Ok(slots) => catalog.load(name, slots, true),
                // Whoever began to delete it before this start has come to it now.
                Err(Error::Store(object_store::Error::NotFound { .. })) => continue,
                Err(error) => return Err(error),
            };
            self.copy(&name, keep, &mut catalog, draw, now_ms).await?;
        }
        for name in marks.iter().filter(|name| !packs.iter().any(|(pack, _)| pack == *name)) {
            self.unmark(name).await?;
        }
        Ok(catalog)
    }

    /// Copies chunks of a pack into another one, as far as they are there.
    async fn copy(
        &self,
        pack: &PackId,
        keep: Vec<Slot>,
        catalog: &mut Catalog,
        draw: &dyn Draw,
        now_ms: u64,
    ) -> Result<(), Error> {
        let mut copy = Builder::default();
        for slot in keep {
            match self.sealed(&Location { pack: *pack, slot }).await {
                Ok(sealed) => copy.push(slot.id, slot.coding, slot.bytes, &sealed)?,
                Err(Error::Store(object_store::Error::NotFound { .. })) => {}
                Err(error) => return Err(error),
            }
        }
        if copy.is_empty() {
            return Ok(());
        }
        self.write(copy, catalog, draw, now_ms).await.map(drop)
    }

    /// Does one step of collection. After an error, or a crash, it is asked for again.
    ///
    /// # Errors
    /// The store's.
    pub async fn perform(
        &self,
        action: Action,
        catalog: &mut Catalog,
        draw: &dyn Draw,
        now_ms: u64,
    ) -> Result<(), Error> {
        match action {
            Action::Mark(pack) => {
                self.objects.put(&self.mark(&pack), Vec::new().into()).await?;
                catalog.marked(&pack);
            }
            Action::Delete(pack) => {
                absent(self.objects.delete(&self.pack(&pack)).await)?;
                self.unmark(&pack).await?;
                catalog.deleted(&pack);
            }
            Action::Repack { pack, keep } => {
                self.copy(&pack, keep, catalog, draw, now_ms).await?;
            }
        }
        Ok(())
    }

    async fn index(&self, pack: &PackId, bytes: u64) -> Result<Vec<Slot>, Error> {
        let path = self.pack(pack);
        let tail = bytes.checked_sub(TAIL_BYTES as u64).ok_or(Error::Malformed("the end of a pack"))?;
        let length = index_bytes(&self.objects.get_range(&path, tail..bytes).await?)? as u64;
        let start = tail.checked_sub(length).ok_or(Error::Malformed("the end of a pack"))?;
        read_index(&self.objects.get_range(&path, start..tail).await?, &self.key)
    }

    /// Names and sizes of what is kept under a prefix; what has no name of a pack is somebody else's and left alone.
    async fn names(&self, kind: &str) -> Result<Vec<(PackId, u64)>, Error> {
        let place = self.place.clone().join(kind);
        let objects: Vec<_> = self.objects.list(Some(&place)).try_collect().await?;
        let name = |meta: object_store::ObjectMeta| {
            Some((PackId(*blake3::Hash::from_hex(meta.location.filename()?).ok()?.as_bytes()), meta.size))
        };
        Ok(objects.into_iter().filter_map(name).collect())
    }

    async fn unmark(&self, pack: &PackId) -> Result<(), Error> {
        absent(self.objects.delete(&self.mark(pack)).await)
    }

    fn pack(&self, pack: &PackId) -> Path {
        self.place.clone().join("pack").join(pack.to_string())
    }

    fn mark(&self, pack: &PackId) -> Path {
        self.place.clone().join("mark").join(pack.to_string())
    }
}

/// What is gone already is gone.
fn absent(outcome: object_store::Result<()>) -> Result<(), Error> {
    match outcome {
        Err(object_store::Error::NotFound { .. }) => Ok(()),
        outcome => Ok(outcome?),
    }
}

#[cfg(test)]
mod tests;
