//! A content is made from one that is here and the difference to it: of a change of some bytes in a large file, some bytes come.
//!
//! The base is a content of a version that the new one replaces. Whatever does not work out with it, the other region is asked for the chunks.

use std::sync::Arc;

use portolan_changelog::content::{Content, Item};
use portolan_foundation::clock;

use super::desk::Desk;
use super::follow::{Source, turn};
use super::intake::Received;
use super::load::Loaded;
use super::packing::{Packing, Sealed};
use super::problem::Problem;
use super::vault::Vault;
use crate::Error;
use crate::defaults::LEASE_MS;
use crate::id::Root;
use crate::manifest::{Entry, Manifest};
use crate::patch::{Head, Op, Progress, Rebuild};
use crate::version::Version;
use crate::wire::{Answer, Brought, Named, Question};

/// Rebuilds the content of a version from one that is here; none where none is of use.
pub(super) async fn rebuild(
    source: &Source,
    packing: &mut Packing<'_>,
    (desk, vault): (&Desk, &Arc<Vault>),
    named: &Named,
    (brought, version): (&Brought, &Version),
) -> Result<Option<Received>, Problem> {
    let mut content = desk.look().await?;
    let base = match content.item_named(&brought.item.to_string()).await? {
        Some(item) => base(desk, &mut content, item, version).await?,
        None => None,
    };
    content.end().await?;
    let Some(base) = base else { return Ok(None) };
    let Ok(old) = base.manifest(desk).await else { return Ok(None) };
    if old.entries().is_empty() {
        return Ok(None);
    }
    let coming = Coming { source, desk, vault, named, base: &base };
    let head = Head { base: base.root, root: named.root, bytes: brought.bytes };
    let made = match coming.all(packing, head, &old).await {
        Ok(made) => made,
        // It has not the base, or the base is damaged here or there, or it takes too long: whole chunks need none of that.
        Err(problem) => {
            let (shard, tenant) = (&desk.shard, &desk.tenant);
            tracing::debug!(%shard, %tenant, "a difference of content does not come: {}", problem.detail);
            None
        }
    };
    Ok(made.map(|manifest| {
        source.shared.copies.count(&desk.shard, |counts| counts.patched_bytes += manifest.bytes());
        let entries = manifest.entries().to_vec();
        Received { bytes: manifest.bytes(), entries, root: named.root, small: None }
    }))
}

/// The content of a version that is replaced, or of another head of the item.
async fn base(
    desk: &Desk,
    content: &mut Content,
    item: Item,
    version: &Version,
) -> Result<Option<Loaded>, Problem> {
    let mut roots = Vec::new();
    for parent in &version.parents {
        roots.extend(content.version(&item.item, &parent.to_string()).await?.map(|stored| stored.root));
    }
    roots.extend(content.heads(&item.item).await?.into_iter().map(|stored| stored.root));
    for root in roots.into_iter().filter(|root| !root.is_empty()) {
        if let Ok(loaded) = Loaded::find(desk, content, item.clone(), &root).await {
            return Ok(Some(loaded));
        }
    }
    Ok(None)
}

/// A content that is coming as a difference.
struct Coming<'a> {
    source: &'a Source,
    desk: &'a Desk,
    vault: &'a Arc<Vault>,
    named: &'a Named,
    base: &'a Loaded,
}

impl Coming<'_> {
    /// Takes all operations. None when they do not make what was announced.
    async fn all(
        &self,
        packing: &mut Packing<'_>,
        head: Head,
        old: &Manifest,
    ) -> Result<Option<Manifest>, Problem> {
        let (namer, cutter) = (&self.vault.namer, &self.vault.cutter);
        let mut rebuild = Rebuild::new(head, old, namer, cutter, Progress::default())?;
        loop {
            let from = rebuild.progress().ops;
            let question = Question::Patch { content: self.named.clone(), base: self.base.root, from };
            let Answer::Patch { head: told, ops, more } = self.source.ask(&question).await? else {
                return Err(turn());
            };
            if told != head || ops.is_empty() && more {
                return Err(turn());
            }
            for op in &ops {
                if !self.operation(packing, &mut rebuild, op).await? {
                    return Ok(None);
                }
            }
            if !more {
                break;
            }
        }
        match rebuild.finish() {
            Ok(manifest) => Ok(Some(manifest)),
            Err(error) => {
                self.useless(&error);
                Ok(None)
            }
        }
    }

    /// Takes an operation: its new chunks are packed, unless they are here. Returns whether it is one for this base.
    async fn operation(
        &self,
        packing: &mut Packing<'_>,
        rebuild: &mut Rebuild<'_>,
        op: &Op,
    ) -> Result<bool, Problem> {
        let prefix = self.base.read(self.desk, &op.prefix()).await?;
        let mut fresh = Vec::new();
        let taken = rebuild.take(op, &prefix, |entry, chunk| {
            fresh.push((entry, chunk.to_vec()));
            Ok(())
        });
        if let Err(error) = taken {
            self.useless(&error);
            return Ok(false);
        }
        let missing = self.missing(packing, fresh).await?;
        let vault = Arc::clone(self.vault);
        // Compressing takes its time, and others wait for this thread.
        let sealed = tokio::task::spawn_blocking(move || {
            missing
                .into_iter()
                .map(|(entry, chunk)| Sealed::new(&vault, entry, &chunk))
                .collect::<Result<Vec<_>, _>>()
        });
        for chunk in sealed.await.map_err(|_| Problem::busy("the gateway ends: it is asked again"))?? {
            packing.push(chunk).await?;
        }
        Ok(true)
    }

    /// Those of some chunks that are not here; the others are promised.
    async fn missing(
        &self,
        packing: &Packing<'_>,
        fresh: Vec<(Entry, Vec<u8>)>,
    ) -> Result<Vec<(Entry, Vec<u8>)>, Problem> {
        let mut missing: Vec<(Entry, Vec<u8>)> = Vec::new();
        if fresh.is_empty() {
            return Ok(missing);
        }
        let until_ms = clock::unix_ms().saturating_add(LEASE_MS);
        let mut content = self.desk.write().await?;
        for (entry, chunk) in fresh {
            let comes = packing.has(&entry.id) || missing.iter().any(|(other, _)| other.id == entry.id);
            if !comes && !content.lease_chunk(&entry.id.to_string(), until_ms).await? {
                missing.push((entry, chunk));
            }
        }
        self.desk.commit(content).await?;
        Ok(missing)
    }

    fn useless(&self, error: &Error) {
        let (shard, tenant, root): (_, _, &Root) = (&self.desk.shard, &self.desk.tenant, &self.named.root);
        tracing::warn!(%shard, %tenant, %root, "a difference of content is of no use, all chunks are asked for: {error}");
    }
}
