//! A content comes from the region that writes: its list first, which must make the root that was announced, then the chunks that are not here. Each
//! is opened and named before it is kept.

use std::collections::BTreeSet;
use std::sync::Arc;

use portolan_foundation::clock;

use super::desk::Desk;
use super::follow::{Source, turn};
use super::give::is_wanted;
use super::intake::Received;
use super::packing::{Packing, Sealed};
use super::problem::Problem;
use super::rebuild::rebuild;
use super::vault::Vault;
use crate::Error;
use crate::cut::Recipe;
use crate::defaults::{CONTENT_CHUNKS_MAX, LEASE_MS};
use crate::id::{ChunkId, Root};
use crate::manifest::{Body, Manifest, Top};
use crate::seal::Keyed;
use crate::version::Version;
use crate::wire::{Answer, Brought, Named, Question, Sent};

/// Has the content of a version come. Its chunks are in packs, or in `packing`, and promised; nothing uses them yet.
pub(super) async fn bring(
    source: &Source,
    packing: &mut Packing<'_>,
    (desk, vault): (&Desk, &Arc<Vault>),
    brought: &Brought,
    version: &Version,
) -> Result<Received, Problem> {
    let root = version.content.ok_or(Error::Malformed("a version without content"))?;
    if let Some(small) = &brought.small {
        return inline(vault, root, small);
    }
    let named = Named { shard: desk.shard.clone(), tenant: desk.tenant.clone(), item: brought.item, root };
    let patched = rebuild(source, packing, (desk, vault), &named, (brought, version));
    if let Some(received) = Box::pin(patched).await? {
        return Ok(received);
    }
    let (parts, manifest) = list(source, vault, &named, brought.bytes).await?;
    if manifest.bytes() != brought.bytes {
        return Err(Error::Root.into());
    }
    let coming = Coming { source, desk, vault, named };
    let mut seen = BTreeSet::new();
    for (number, part) in (0_u32..).zip(&parts) {
        coming.part(packing, number, part, &mut seen).await?;
    }
    Ok(Received { bytes: manifest.bytes(), entries: manifest.entries().to_vec(), root, small: None })
}

/// A content that came with its version.
fn inline(vault: &Vault, root: Root, small: &[u8]) -> Result<Received, Problem> {
    let bytes = small.len() as u64;
    let top = Top { recipe: Recipe::FastCdc64K, bytes, body: Body::Inline(small.to_vec()) };
    if top.root(&vault.namer)? != root {
        return Err(Error::Root.into());
    }
    Ok(Received { bytes, entries: Vec::new(), root, small: Some(small.to_vec()) })
}

/// The list of a content, when it makes its root.
async fn list(
    source: &Source,
    vault: &Vault,
    named: &Named,
    brought_bytes: u64,
) -> Result<(Vec<Vec<Keyed>>, Manifest), Problem> {
    let (mut all, mut manifest) = (Vec::new(), Manifest::default());
    loop {
        let from = u32::try_from(all.len()).unwrap_or(u32::MAX);
        let question = Question::List { content: named.clone(), from };
        let Answer::List { parts, more } = source.ask(&question).await? else { return Err(turn()) };
        let is_empty = parts.is_empty();
        for part in parts {
            part.iter().try_for_each(|keyed| manifest.push(keyed.entry))?;
            all.push(part);
        }
        if manifest.bytes() > brought_bytes {
            return Err(Error::Root.into());
        }
        if manifest.entries().len() > CONTENT_CHUNKS_MAX {
            return Err(Error::limit("chunks of a content", CONTENT_CHUNKS_MAX).into());
        }
        if !more || is_empty {
            break;
        }
    }
    if manifest.root(&vault.namer)? == named.root { Ok((all, manifest)) } else { Err(Error::Root.into()) }
}

/// A content that is coming.
struct Coming<'a> {
    source: &'a Source,
    desk: &'a Desk,
    vault: &'a Arc<Vault>,
    named: Named,
}

impl Coming<'_> {
    /// Has all chunks of a part come that are not here. Those that are here are promised.
    async fn part(
        &self,
        packing: &mut Packing<'_>,
        number: u32,
        part: &[Keyed],
        seen: &mut BTreeSet<ChunkId>,
    ) -> Result<(), Problem> {
        let until_ms = clock::unix_ms().saturating_add(LEASE_MS);
        let mut wanted = vec![0_u8; part.len().div_ceil(8)];
        let mut content = self.desk.write().await?;
        for (at, keyed) in (0_u32..).zip(part) {
            let id = keyed.entry.id;
            if seen.insert(id) && !packing.has(&id) && !content.lease_chunk(&id.to_string(), until_ms).await?
            {
                set(&mut wanted, at, true);
            }
        }
        self.desk.commit(content).await?;
        while wanted.iter().any(|byte| *byte != 0) {
            let question =
                Question::Chunks { content: self.named.clone(), part: number, wanted: wanted.clone() };
            let Answer::Chunks(sent) = self.source.ask(&question).await? else { return Err(turn()) };
            if sent.is_empty() {
                return Err(Problem::busy(
                    "the other region has not all chunks of a content: it is asked again",
                ));
            }
            for one in sent {
                let keyed =
                    part.get(one.at as usize).filter(|_| is_wanted(&wanted, one.at)).ok_or_else(turn)?;
                set(&mut wanted, one.at, false);
                packing.push(self.opened(keyed, one)?).await?;
                self.source.shared.copies.count(&self.desk.shard, |counts| counts.chunks += 1);
            }
        }
        Ok(())
    }

    /// A chunk that came, when it is what its name says: as it is kept here.
    fn opened(&self, keyed: &Keyed, sent: Sent) -> Result<Sealed, Problem> {
        let Sent { coding, sealed, .. } = sent;
        let opened = keyed.key.open_once(&keyed.entry.id.0, sealed.clone());
        let chunk = opened.and_then(|coded| coding.decode(coded, keyed.entry.bytes));
        if !chunk.is_ok_and(|chunk| self.vault.namer.chunk(&chunk) == keyed.entry.id) {
            self.source.shared.copies.count(&self.desk.shard, |counts| counts.damaged += 1);
            let detail = format!(
                "a chunk came that is not what its name says: the store of packs in `{}` is damaged; it is asked again",
                self.source.followed.primary
            );
            return Err(Problem::new(http::StatusCode::BAD_GATEWAY, "damaged", detail));
        }
        let key = self.vault.seal_key(&keyed.entry.id, &keyed.key)?;
        Ok(Sealed { entry: keyed.entry, coding, bytes: sealed, key })
    }
}

/// Sets a bit.
pub(super) fn set(bits: &mut [u8], at: u32, to: bool) {
    if let Some(byte) = bits.get_mut(at as usize / 8) {
        let bit = 1 << (at % 8);
        *byte = if to { *byte | bit } else { *byte & !bit };
    }
}
