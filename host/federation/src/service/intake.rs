//! A content that comes: cut, named, looked up, sealed and packed, while no more of it is held than a batch and a pack.
//!
//! What is here already is leased, not written again. Chunks that no version comes to use go with their leases, which outlast the slowest upload.

use std::collections::BTreeSet;
use std::sync::Arc;

use portolan_foundation::clock;

use super::desk::Desk;
use super::packing::{Packing, Sealed};
use super::problem::Problem;
use super::vault::Vault;
use crate::cut::Recipe;
use crate::defaults::{BATCH_BYTES, CHUNK_BYTES_MAX, INLINE_BYTES_MAX, LEASE_MS};
use crate::id::{ChunkId, Root};
use crate::manifest::{Body, Entry, Manifest, Top};

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
    pack: Packing<'a>,
    /// Names of all that this content has brought.
    brought: BTreeSet<ChunkId>,
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
            pack: Packing::new(desk, vault),
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
        self.pack.write().await
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
            fresh
                .into_iter()
                .map(|(entry, chunk)| Sealed::new(&vault, entry, &chunk))
                .collect::<Result<Vec<_>, _>>()
        });
        let sealed = sealed.await.map_err(|_| Problem::busy("the gateway ends: send it again"))??;
        for chunk in sealed {
            self.pack.push(chunk).await?;
        }
        Ok(())
    }
}
