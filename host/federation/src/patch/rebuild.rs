//! The receiver's part: operations become chunks, names and one root.

use super::{Head, Op, restore};
use crate::Error;
use crate::cut::Cutter;
use crate::defaults::CONTENT_BYTES_MAX;
use crate::id::Namer;
use crate::manifest::{Entry, Manifest};

/// How far a rebuilding has come: after a break it goes on from there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Operations that were taken; the sender leaves so many steps out.
    pub ops: u64,
    /// What they made.
    pub manifest: Manifest,
}

/// A content that is rebuilt from its base and a patch.
#[derive(Debug)]
pub struct Rebuild<'a> {
    head: Head,
    base: &'a Manifest,
    namer: &'a Namer,
    cutter: &'a Cutter,
    progress: Progress,
}

impl<'a> Rebuild<'a> {
    /// A rebuilding from `base`, which is the manifest of `head.base`.
    ///
    /// # Errors
    /// When the announced content is too long.
    pub fn new(
        head: Head,
        base: &'a Manifest,
        namer: &'a Namer,
        cutter: &'a Cutter,
        progress: Progress,
    ) -> Result<Self, Error> {
        if head.bytes > CONTENT_BYTES_MAX {
            return Err(Error::Limit { what: "bytes of content", max: CONTENT_BYTES_MAX });
        }
        Ok(Self { head, base, namer, cutter, progress })
    }

    /// Takes the next operation. `prefix` is what [`Op::prefix`] names of the base; `put` is given each chunk that the base does not
    /// have in that place, and must have kept all of them before the progress is.
    ///
    /// # Errors
    /// When the operation is beyond the base, the limits or the announced length; or what `put` says.
    pub fn take(
        &mut self,
        op: &Op,
        prefix: &[u8],
        mut put: impl FnMut(Entry, &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        op.check()?;
        match op {
            Op::Copy { from, chunks } => {
                let end = (*from as usize).saturating_add(*chunks as usize);
                let entries = self.base.entries().get(*from as usize..end);
                let entries = entries.ok_or(Error::Malformed("a run beyond the base"))?;
                entries.iter().try_for_each(|entry| self.push(*entry))?;
            }
            Op::Delta { bytes, frame, .. } => {
                let asked = op.prefix();
                if asked.end > self.base.bytes() || asked.end - asked.start != prefix.len() as u64 {
                    return Err(Error::Malformed("old bytes beyond the base"));
                }
                let region = restore(prefix, frame, *bytes)?;
                for chunk in self.cutter.chunks(&region) {
                    let entry =
                        Entry { id: self.namer.chunk(chunk), bytes: u32::try_from(chunk.len()).unwrap_or(0) };
                    self.push(entry)?;
                    put(entry, chunk)?;
                }
            }
        }
        self.progress.ops += 1;
        Ok(())
    }

    /// What was made so far.
    #[must_use]
    pub const fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The manifest, when it is that of the announced root.
    ///
    /// # Errors
    /// When it is not: nothing of it may be used.
    pub fn finish(self) -> Result<Manifest, Error> {
        let manifest = self.progress.manifest;
        if manifest.bytes() != self.head.bytes || manifest.root(self.namer)? != self.head.root {
            return Err(Error::Root);
        }
        Ok(manifest)
    }

    fn push(&mut self, entry: Entry) -> Result<(), Error> {
        if self.progress.manifest.bytes() + u64::from(entry.bytes) > self.head.bytes {
            return Err(Error::Malformed("more content than was announced"));
        }
        self.progress.manifest.push(entry)
    }
}
