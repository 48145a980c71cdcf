//! A content that is kept: its list, opened, and its chunks from the packs, each named again before a byte of it is given.

use std::ops::Range;
use std::sync::Arc;

use portolan_changelog::content::{Chunk, Content, Item, Part};

use super::desk::Desk;
use super::problem::Problem;
use super::repair;
use super::vault::Vault;
use crate::Error;
use crate::id::Root;
use crate::manifest::Manifest;
use crate::pack::{Coding, Slot};
use crate::seal::{self, Keyed};
use crate::store::Location;

/// A content, and what opens it.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) bytes: u64,
    item: Item,
    parts: Vec<Part>,
    pub(super) root: Root,
    vault: Arc<Vault>,
}

/// A piece of a content: a chunk with where it begins, or all of a small one.
pub(super) enum Piece {
    Chunk(u64, Keyed),
    Small(Vec<u8>),
}

impl Loaded {
    /// Finds a content of an item.
    ///
    /// # Errors
    /// When it is not here.
    pub(super) async fn find(
        desk: &Desk,
        content: &mut Content,
        item: Item,
        root: &str,
    ) -> Result<Self, Problem> {
        let gone = || Problem::none("the content");
        let vault = desk.vault(content).await?.ok_or_else(gone)?;
        let parts = content.parts(&item.item, root).await?;
        if parts.is_empty() {
            return Err(gone());
        }
        let bytes = parts.iter().map(|part| part.bytes).sum();
        Ok(Self { bytes, item, parts, root: root.parse()?, vault })
    }

    /// How many parts its list has.
    pub(super) fn parts(&self) -> usize {
        self.parts.len()
    }

    /// What of a part of the list lies in a range of the content.
    pub(super) async fn pieces(
        &self,
        desk: &Desk,
        number: usize,
        range: &Range<u64>,
    ) -> Result<Vec<Piece>, Problem> {
        let Some(part) = self.parts.get(number) else { return Ok(Vec::new()) };
        let mut at: u64 = self.parts.iter().take(number).map(|part| part.bytes).sum();
        if !overlaps(range, at, part.bytes) {
            return Ok(Vec::new());
        }
        let mut content = desk.look().await?;
        let kept = content.part(&self.item.item, &self.root.to_string(), part.part).await?;
        content.end().await?;
        let kept = kept.ok_or(Error::Corrupt("a content's list"))?;
        let term = usize::try_from(kept.term).unwrap_or(usize::MAX);
        let data_key = desk.data_key(&Desk::keys(&self.item)?, term).await?;
        let number = u32::try_from(kept.part).unwrap_or(u32::MAX);
        let of_item = seal::Part { item: self.item.item.parse()?, root: self.root, number };
        if kept.small {
            return Ok(vec![Piece::Small(of_item.open_small(&kept.sealed, &data_key)?)]);
        }
        let mut pieces = Vec::new();
        for keyed in of_item.open(&kept.sealed, &data_key)? {
            let length = u64::from(keyed.entry.bytes);
            if overlaps(range, at, length) {
                pieces.push(Piece::Chunk(at, keyed));
            }
            at += length;
        }
        Ok(pieces)
    }

    /// The bytes of a piece, as far as they lie in a range of the content.
    pub(super) async fn bytes(
        &self,
        desk: &Desk,
        piece: &Piece,
        range: &Range<u64>,
    ) -> Result<Vec<u8>, Problem> {
        let (at, whole) = match piece {
            Piece::Small(bytes) => (0, bytes.clone()),
            Piece::Chunk(at, keyed) => (*at, self.chunk(desk, keyed).await?),
        };
        let place =
            |offset: u64| usize::try_from(offset.saturating_sub(at)).unwrap_or(usize::MAX).min(whole.len());
        Ok(whole.get(place(range.start)..place(range.end)).unwrap_or_default().to_vec())
    }

    /// The bytes of a range.
    pub(super) async fn read(&self, desk: &Desk, range: &Range<u64>) -> Result<Vec<u8>, Problem> {
        let mut bytes = Vec::new();
        for number in 0..self.parts() {
            for piece in self.pieces(desk, number, range).await? {
                bytes.extend(self.bytes(desk, &piece, range).await?);
            }
        }
        Ok(bytes)
    }

    async fn chunk(&self, desk: &Desk, keyed: &Keyed) -> Result<Vec<u8>, Problem> {
        let mut content = desk.look().await?;
        let chunk = content.chunk(&keyed.entry.id.to_string()).await?;
        content.end().await?;
        let chunk = chunk.ok_or(Error::Corrupt("a chunk's place"))?;
        let read = self.vault.packs.chunk(&location(&chunk)?, keyed, &self.vault.namer).await;
        match read {
            Err(error) if repair::is_damage(&error) => {}
            read => return Ok(read?),
        }
        // It may have come again since its list was read, with another key.
        match repair::opened(&self.vault, &chunk).await {
            Err(error) if repair::is_damage(&error) => repair::repaired(desk, &self.vault, &chunk).await,
            read => Ok(read?),
        }
    }

    /// All of it.
    ///
    /// # Errors
    /// When it has more than `max` bytes.
    pub(super) async fn whole(&self, desk: &Desk, max: usize) -> Result<Vec<u8>, Problem> {
        if self.bytes > max as u64 {
            return Err(Problem::too_large(format!("contents of up to {max} bytes are taken here")));
        }
        self.read(desk, &(0..self.bytes)).await
    }

    /// Its chunks; none of a small one.
    pub(super) async fn manifest(&self, desk: &Desk) -> Result<Manifest, Problem> {
        let (all, mut manifest) = (0..self.bytes, Manifest::default());
        for number in 0..self.parts() {
            for piece in self.pieces(desk, number, &all).await? {
                if let Piece::Chunk(_, keyed) = piece {
                    manifest.push(keyed.entry)?;
                }
            }
        }
        Ok(manifest)
    }
}

/// Where a chunk is, as its row says.
pub(super) fn location(chunk: &Chunk) -> Result<Location, Error> {
    let number = |number: u64| u32::try_from(number).map_err(|_| Error::Corrupt("a chunk's place"));
    let slot = Slot {
        id: chunk.chunk.parse()?,
        at: number(chunk.at)?,
        sealed_bytes: number(chunk.sealed_bytes)?,
        bytes: number(chunk.bytes)?,
        coding: if chunk.coding == "zstd" { Coding::Zstd } else { Coding::Raw },
    };
    Ok(Location { pack: chunk.pack.parse()?, slot })
}

fn overlaps(range: &Range<u64>, at: u64, bytes: u64) -> bool {
    at < range.end && range.start < at.saturating_add(bytes)
}
