//! A tenant is taken out of what is kept: decisions, what its slot ran, and the names of both.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use portolan_core::ids::TenantName;
use serde::Serialize;

use crate::entry;
use crate::frame::{self, Frames, HEAD};
use crate::spill::segments;

/// What was taken out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Erased {
    /// Entries of segments.
    pub entries: u64,
    /// Decisions in memory.
    pub in_memory: u64,
    /// Segments that were written anew.
    pub segments: u64,
}

/// Writes the segments of a folder anew that have something of a tenant. What is damaged in them goes as well: whose it is, nobody
/// knows.
pub(crate) fn folder(folder: &Path, tenant: &TenantName) -> io::Result<Erased> {
    let mut erased = Erased::default();
    for segment in segments(folder) {
        let bytes = match fs::read(&segment.path) {
            // Old segments go by themselves.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            bytes => bytes?,
        };
        let Some((kept, gone)) = without(&bytes, tenant) else { continue };
        let beside = segment.path.with_extension("erasing");
        let file = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&beside);
        let mut file = file?;
        file.write_all(&kept)?;
        file.sync_all()?;
        fs::rename(&beside, &segment.path)?;
        fs::File::open(folder)?.sync_all()?;
        erased.entries += gone;
        erased.segments += 1;
    }
    Ok(erased)
}

/// A segment's bytes without a tenant, and how many entries went; none when it has nothing of it.
fn without(bytes: &[u8], tenant: &TenantName) -> Option<(Vec<u8>, u64)> {
    let body = bytes.strip_prefix(HEAD)?;
    let (mut kept, mut gone) = (HEAD.to_vec(), 0);
    let mut frames = Frames::last(body);
    for found in frames.by_ref() {
        match entry::without(found, tenant) {
            entry::Left::All => _ = frame::write(&mut kept, found),
            entry::Left::Nothing => gone += 1,
            entry::Left::Part(part) => {
                gone += 1;
                frame::write(&mut kept, &part);
            }
        }
    }
    (gone > 0 || frames.damaged > 0).then_some((kept, gone))
}
