//! A content that comes: cut, named, looked up, sealed and packed, while no more of it is held than a batch and a pack.
//!
//! What is here already is leased, not written again. Chunks that no version comes to use go with their leases, which outlast the slowest upload.

use std::collections::BTreeSet;
use std::sync::Arc;

use portolan_changelog::content::Chunk;
use portolan_foundation::clock;

use super::desk::Desk;
use super::problem::Problem;
use super::vault::Vault;
use crate::Error;
use crate::cut::Recipe;
use crate::defaults::{BATCH_BYTES, CHUNK_BYTES_MAX, INLINE_BYTES_MAX, LEASE_MS};
use crate::id::{ChunkId, Root};
use crate::manifest::{Body, Entry, Manifest, Top};
use crate::pack::{Builder, Coding};
use crate::seal::{Secret, System};

/// A content that has come.
#[derive(Clone, Debug)]
pub(super) struct Received {
    pub(super) bytes: u64,
    /// Its chunks; none of a small one.
    pub(super) entries: Vec<Entry>,
    pub(super) root: Root,
    /// All of it, when it is small.
    pub(super) small: Option<Vec<u8>>,
}

/// A content that is coming.
#[derive(Debug)]
pub(super) struct Intake<'a> {
    desk: &'a Desk,
    vault: &'a Arc<Vault>,
    /// Bytes since the last cut.
    held: Vec<u8>,
    manifest: Manifest,
    /// Chunks that are not looked up yet.
    batch: Vec<(Entry, Vec<u8>)>,
    batch_bytes: usize,
    pack: Builder,
    /// What is in the pack: names with sealed keys.
    packed: Vec<(ChunkId, Vec<u8>)>,
    /// Names of all that this content has brought.
    brought: BTreeSet<ChunkId>,
}

/// A chunk, coded and sealed.
struct Sealed {
    entry: Entry,
    coding: Coding,
    bytes: Vec<u8>,
    key: Vec<u8>,
}

impl<'a> Intake<'a> {
    pub(super) fn new(desk: &'a Desk, vault: &'a Arc<Vault>) -> Self {
        Self::resume(desk, vault, Manifest::default(), Vec::new())
    }

    /// Goes on after chunks that came before, with the bytes since the last of them.
    pub(super) fn resume(desk: &'a Desk, vault: &'a Arc<Vault>, manifest: Manifest, held: Vec<u8>) -> Self {
        Self {
            desk,
            vault,
            held,
            manifest,
            batch: Vec::new(),
            batch_bytes: 0,
            pack: Builder::default(),
            packed: Vec::new(),
            brought: BTreeSet::new(),
        }
    }

    /// How many bytes have come.
    pub(super) const fn bytes(&self) -> u64 {
        self.manifest.bytes() + self.held.len() as u64
    }

    /// Takes the next bytes.
    pub(super) async fn push(&mut self, part: &[u8]) -> Result<(), Problem> {
        self.held.extend_from_slice(part);
        while self.held.len() > CHUNK_BYTES_MAX {
            let length = self.vault.cutter.first(&self.held);
            let chunk: Vec<u8> = self.held.drain(..length).collect();
            self.take(chunk).await?;
        }
        Ok(())
    }

    /// All has come.
    pub(super) async fn finish(mut self) -> Result<Received, Problem> {
        let bytes = self.bytes();
        if self.manifest.entries().is_empty() && self.held.len() <= INLINE_BYTES_MAX {
            let body = Body::Inline(self.held.clone());
            let root = Top { recipe: Recipe::FastCdc64K, bytes, body }.root(&self.vault.namer)?;
            return Ok(Received { bytes, entries: Vec::new(), root, small: Some(self.held) });
        }
        let rest = std::mem::take(&mut self.held);
        let chunks: Vec<Vec<u8>> = self.vault.cutter.chunks(&rest).map(<[u8]>::to_vec).collect();
        for chunk in chunks {
            self.take(chunk).await?;
        }
        self.settle().await?;
        let root = self.manifest.root(&self.vault.namer)?;
        Ok(Received { bytes, entries: self.manifest.entries().to_vec(), root, small: None })
    }

    /// No more comes for now: what came is in packs, but for the bytes since the last cut, which are returned with the chunks.
    pub(super) async fn pause(mut self) -> Result<(Manifest, Vec<u8>), Problem> {
        self.settle().await?;
        Ok((self.manifest, self.held))
    }

    async fn take(&mut self, chunk: Vec<u8>) -> Result<(), Problem> {
        let bytes = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
        let entry = Entry { id: self.vault.namer.chunk(&chunk), bytes };
        self.manifest.push(entry)?;
        if !self.brought.insert(entry.id) {
            return Ok(());
        }
        self.batch_bytes += chunk.len();
        self.batch.push((entry, chunk));
        if self.batch_bytes >= BATCH_BYTES { self.seal().await } else { Ok(()) }
    }

    /// All that was taken is in packs.
    async fn settle(&mut self) -> Result<(), Problem> {
        self.seal().await?;
        self.write().await
    }

    /// Looks the batch up, and packs what is not here.
    async fn seal(&mut self) -> Result<(), Problem> {
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        if batch.is_empty() {
            return Ok(());
        }
        let until_ms = clock::unix_ms().saturating_add(LEASE_MS);
        let mut content = self.desk.write().await?;
        let mut fresh = Vec::new();
        for (entry, chunk) in batch {
            if !content.lease_chunk(&entry.id.to_string(), until_ms).await? {
                fresh.push((entry, chunk));
            }
        }
        self.desk.commit(content).await?;
        let vault = Arc::clone(self.vault);
        // Compressing takes its time, and others wait for this thread.
        let sealed = tokio::task::spawn_blocking(move || {
            fresh.into_iter().map(|(entry, chunk)| seal(&vault, entry, &chunk)).collect::<Result<Vec<_>, _>>()
        });
        let sealed = sealed.await.map_err(|_| Problem::busy("the gateway ends: send it again"))??;
        for Sealed { entry, coding, bytes, key } in sealed {
            self.pack.push(entry.id, coding, entry.bytes, &bytes)?;
            self.packed.push((entry.id, key));
            if self.pack.is_full() {
                self.write().await?;
            }
        }
        Ok(())
    }

    /// Notes the pack, writes it, and enters what is in it: in this order a crash leaves nothing that is not collected.
    async fn write(&mut self) -> Result<(), Problem> {
        if self.pack.is_empty() {
            return Ok(());
        }
        let (pack, keys) = (std::mem::take(&mut self.pack), std::mem::take(&mut self.packed));
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

fn seal(vault: &Vault, entry: Entry, chunk: &[u8]) -> Result<Sealed, Error> {
    let key = Secret::draw(&System)?;
    let (coding, coded) = Coding::encode(chunk)?;
    let bytes = key.seal_once(&entry.id.0, coded)?;
    Ok(Sealed { entry, coding, bytes, key: vault.seal_key(&entry.id, &key)? })
}

/// A coding as tables have it.
const fn word(coding: Coding) -> &'static str {
    match coding {
        Coding::Raw => "raw",
        Coding::Zstd => "zstd",
    }
}
