//! What tests of several modules use: contents that a seed decides, and their manifests.

use crate::cut::Cutter;
use crate::id::Namer;
use crate::manifest::{Entry, Manifest};

pub(crate) fn namer(seed: u64) -> Namer {
    Namer::new(&std::array::from_fn(|place| seed.to_le_bytes()[place % 8]))
}

/// Bytes that nothing compresses, the same for the same seed.
pub(crate) fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

pub(crate) fn manifest_of(tenant: u64, bytes: &[u8]) -> Manifest {
    let (namer, mut manifest) = (namer(tenant), Manifest::default());
    for chunk in Cutter::new(&namer).chunks(bytes) {
        manifest.push(Entry { id: namer.chunk(chunk), bytes: chunk.len() as u32 }).unwrap();
    }
    manifest
}
