//! Chunks on their way into a pack of the tenant's.

use std::collections::BTreeSet;
use std::sync::Arc;

use portolan_changelog::content::Chunk;
use portolan_foundation::clock;

use super::desk::Desk;
use super::problem::Problem;
use super::vault::Vault;
use crate::Error;
use crate::defaults::LEASE_MS;
use crate::id::ChunkId;
use crate::manifest::Entry;
use crate::pack::{Builder, Coding};
use crate::seal::{Secret, System};

/// A chunk, coded and sealed.
pub(super) struct Sealed {
    pub(super) entry: Entry,
    pub(super) coding: Coding,
    pub(super) bytes: Vec<u8>,
    /// Its key, as tables have it.
    pub(super) key: Vec<u8>,
}

impl Sealed {
    /// Codes and seals a chunk with a key of its own. It takes its time.
    pub(super) fn new(vault: &Vault, entry: Entry, chunk: &[u8]) -> Result<Self, Error> {
        let key = Secret::draw(&System)?;
        let (coding, coded) = Coding::encode(chunk)?;
        let bytes = key.seal_once(&entry.id.0, coded)?;
        Ok(Self { entry, coding, bytes, key: vault.seal_key(&entry.id, &key)? })
    }
}

/// A pack that is being filled, and written whenever it is full.
#[derive(Debug)]
pub(super) struct Packing<'a> {
    desk: &'a Desk,
    vault: &'a Arc<Vault>,
    pack: Builder,
    /// What is in the pack: names with sealed keys.
    packed: Vec<(ChunkId, Vec<u8>)>,
    names: BTreeSet<ChunkId>,
}

impl<'a> Packing<'a> {
    pub(super) fn new(desk: &'a Desk, vault: &'a Arc<Vault>) -> Self {
        Self { desk, vault, pack: Builder::default(), packed: Vec::new(), names: BTreeSet::new() }
    }

    /// Is a chunk in what is not written yet?
    pub(super) fn has(&self, chunk: &ChunkId) -> bool {
        self.names.contains(chunk)
    }

    /// Takes a chunk.
    pub(super) async fn push(&mut self, chunk: Sealed) -> Result<(), Problem> {
        let Sealed { entry, coding, bytes, key } = chunk;
        self.pack.push(entry.id, coding, entry.bytes, &bytes)?;
        self.packed.push((entry.id, key));
        self.names.insert(entry.id);
        if self.pack.is_full() { self.write().await } else { Ok(()) }
    }

    /// Notes the pack, writes it, and enters what is in it: in this order a crash leaves nothing that is not collected.
    pub(super) async fn write(&mut self) -> Result<(), Problem> {
        if self.pack.is_empty() {
            return Ok(());
        }
        let (pack, keys) = (std::mem::take(&mut self.pack), std::mem::take(&mut self.packed));
        self.names.clear();
        let pack = self.vault.packs.seal(pack, &System)?;
        let name = pack.name.to_string();
        let mut content = self.desk.write().await?;
        content.note_pack(&name, pack.bytes.len() as u64, clock::unix_ms()).await?;
        self.desk.commit(content).await?;
        self.vault.packs.put(&pack.name, pack.bytes).await?;
        let chunks = pack.slots.iter().zip(keys).map(|(slot, (_, key))| Chunk {
            at: slot.at.into(),
            bytes: slot.bytes.into(),
            chunk: slot.id.to_string(),
            coding: word(slot.coding).to_owned(),
            key,
            pack: name.clone(),
            sealed_bytes: slot.sealed_bytes.into(),
        });
        let chunks: Vec<Chunk> = chunks.collect();
        let until_ms = clock::unix_ms().saturating_add(LEASE_MS);
        let mut content = self.desk.write().await?;
        let is_there = content.fill_pack(&name, &chunks, until_ms).await?;
        self.desk.commit(content).await?;
        let late = "the store of contents was so slow that the pack is collected by now: send it again";
        if is_there { Ok(()) } else { Err(Problem::busy(late)) }
    }
}

/// A coding as tables have it.
pub(super) const fn word(coding: Coding) -> &'static str {
    match coding {
        Coding::Raw => "raw",
        Coding::Zstd => "zstd",
    }
}
