//! What fuzzers do with any bytes: whatever comes is refused or read, never believed, and what was read is written as it was.

use crate::cut::Cutter;
use crate::id::{Namer, Root};
use crate::manifest::{Child, Entry, Manifest, Node, Top};
use crate::patch::{Head, Op, Progress, Rebuild};
use crate::version::Version;
use crate::wire::{Answer, Question};

/// Bytes of the content that patches are tried on: a few chunks.
const BASE_BYTES: usize = 400_000;

/// Messages between regions, and records of versions.
///
/// # Panics
/// When what was read is not written as it was.
pub fn frames(bytes: &[u8]) {
    if let Ok(question) = Question::read(bytes) {
        assert!(question.bytes().is_ok(), "{question:?}");
    }
    if let Ok(answer) = Answer::read(bytes) {
        assert!(answer.bytes().is_ok(), "{answer:?}");
    }
    if let Ok(version) = Version::read(bytes) {
        assert_eq!(version.bytes().ok().as_deref(), Some(bytes));
    }
}

/// Roots and nodes of manifests that have the right name, so that their form alone is in question.
///
/// # Panics
/// When what was read is not written as it was.
pub fn manifests(bytes: &[u8]) {
    let namer = Namer::new(&[7; 32]);
    if let Ok(top) = Top::read(bytes, &namer.root(bytes), &namer) {
        assert_eq!(top.bytes().ok().as_deref(), Some(bytes));
    }
    let Some((length, node)) = bytes.split_first_chunk::<8>() else { return };
    let child = Child { id: namer.node(node).0, bytes: u64::from_le_bytes(*length) };
    for level in 0..4 {
        if let Ok(read) = Node::read(node, &child, level, &namer) {
            assert_eq!(read.bytes().ok().as_deref(), Some(node));
            assert!(read.entries().is_err() || level == 0);
        }
    }
}

/// Operations of a patch on a content that is here.
///
/// # Panics
/// When a patch makes what was not announced.
pub fn patches(bytes: &[u8]) {
    let namer = Namer::new(&[7; 32]);
    let cutter = Cutter::new(&namer);
    let mut content = vec![0; BASE_BYTES];
    blake3::Hasher::new().finalize_xof().fill(&mut content);
    let mut base = Manifest::default();
    for chunk in cutter.chunks(&content) {
        let entry = Entry { id: namer.chunk(chunk), bytes: u32::try_from(chunk.len()).unwrap_or(0) };
        assert!(base.push(entry).is_ok());
    }
    let Ok(known) = base.root(&namer) else { return };
    let head = Head { base: known, root: Root([0; 32]), bytes: BASE_BYTES as u64 };
    let Ok(mut rebuild) = Rebuild::new(head, &base, &namer, &cutter, Progress::default()) else { return };
    let mut rest = bytes;
    while let Ok((op, after)) = Op::read(rest) {
        rest = after;
        let asked = op.prefix();
        let place = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
        let prefix = content.get(place(asked.start)..place(asked.end)).unwrap_or_default();
        if rebuild.take(&op, prefix, |_, _| Ok(())).is_err() {
            return;
        }
    }
    assert!(rebuild.finish().is_err(), "nothing has the root of zeros");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{manifest_of, namer, noise};

    /// What the fuzzers begin with, changed at random: nothing panics.
    #[test]
    fn changed_bytes_are_refused_or_read() {
        let op = Op::Copy { from: 0, chunks: 2 }.write(Vec::new()).unwrap();
        let shard = portolan_core::ids::ShardName::new("s1").unwrap();
        let frame = Question::Tenants { shard, after: "acme".to_owned(), gathers: false }.bytes().unwrap();
        let top = manifest_of(7, &noise(1, 300_000)).top(&namer(7), &mut |_, _| Ok(())).unwrap();
        let (top, version) = (top.bytes().unwrap(), noise(2, 64));
        let seeds: [&[u8]; 4] = [&op, &frame, &top, &version];
        portolan_core::exercise::mutated(&seeds, 2_000, |bytes| {
            frames(bytes);
            manifests(bytes);
            patches(bytes.get(..64).unwrap_or(bytes));
        });
    }
}
