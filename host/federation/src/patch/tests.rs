//! Contents that are hard for deltas, what hostile senders do, and the sizes of patches.

use proptest::prelude::*;

use super::*;
use crate::cut::Cutter;
use crate::manifest::Manifest;
use crate::tests::{manifest_of, namer, noise};

fn slice(bytes: &[u8], range: &Range<u64>) -> Vec<u8> {
    bytes[range.start as usize..range.end as usize].to_vec()
}

/// The patch from old to new, as it travels.
fn patch(old: &[u8], new: &[u8]) -> (Head, Vec<Vec<u8>>) {
    let (base, next) = (manifest_of(7, old), manifest_of(7, new));
    let head = Head {
        base: base.root(&namer(7)).unwrap(),
        root: next.root(&namer(7)).unwrap(),
        bytes: new.len() as u64,
    };
    let encode = |step: Step| match &step {
        Step::Copy { .. } => step.encode(&[], &[]),
        Step::Delta { prefix, bytes } => step.encode(&slice(old, prefix), &slice(new, bytes)),
    };
    let write = |step| encode(step).unwrap().write(Vec::new()).unwrap();
    (head, plan(&base, &next).into_iter().map(write).collect())
}

/// What comes of a patch; it is broken off after every operation and goes on from what was kept.
fn rebuild(old: &[u8], head: Head, ops: &[Vec<u8>]) -> Result<(Manifest, Vec<u8>), Error> {
    let (namer, base) = (namer(7), manifest_of(7, old));
    let cutter = Cutter::new(&namer);
    let (mut progress, mut new) = (Progress::default(), Vec::new());
    for bytes in ops {
        let mut rebuild = Rebuild::new(head, &base, &namer, &cutter, progress)?;
        let (op, rest) = Op::read(bytes)?;
        assert!(rest.is_empty());
        if let Op::Copy { from, chunks } = op {
            let start = |chunk: u32| {
                base.entries().iter().take(chunk as usize).map(|entry| u64::from(entry.bytes)).sum()
            };
            let end: u64 = start(from.saturating_add(chunks));
            new.extend(slice(old, &(start(from)..end)));
        }
        let prefix = op.prefix();
        let prefix = if prefix.end <= old.len() as u64 { slice(old, &prefix) } else { Vec::new() };
        rebuild.take(&op, &prefix, |entry, chunk| {
            assert_eq!(entry.id, namer.chunk(chunk));
            new.extend_from_slice(chunk);
            Ok(())
        })?;
        progress = rebuild.progress().clone();
    }
    let manifest = Rebuild::new(head, &base, &namer, &cutter, progress)?.finish()?;
    Ok((manifest, new))
}

/// Bytes of the patch, after a look at what comes of it.
fn sent(old: &[u8], new: &[u8]) -> usize {
    let (head, ops) = patch(old, new);
    let (manifest, rebuilt) = rebuild(old, head, &ops).unwrap();
    assert!(rebuilt == new && manifest == manifest_of(7, new));
    ops.iter().map(Vec::len).sum()
}

fn changed(bytes: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    change(&mut bytes);
    bytes
}

#[test]
fn a_patch_is_about_as_large_as_the_change() {
    let old = noise(1, 6_000_000);
    let cases = [
        ("nothing", old.clone(), 10),
        ("a byte", changed(&old, |bytes| bytes[3_000_000] ^= 1), 120),
        ("13 bytes more", changed(&old, |bytes| drop(bytes.splice(1_000..1_000, [7; 13]))), 120),
        ("a megabyte less", changed(&old, |bytes| drop(bytes.drain(2_000_000..3_000_000))), 1_000),
        ("a half to the end", changed(&old, |bytes| bytes.rotate_left(3_000_000)), 900_000),
        ("the end is cut off", changed(&old, |bytes| bytes.truncate(1_234_567)), 300),
        ("all is gone", Vec::new(), 1),
        ("a megabyte twice", changed(&old, |bytes| bytes.extend_from_within(..1_000_000)), 900_000),
    ];
    for (what, new, most) in cases {
        let sent = sent(&old, &new);
        assert!(sent <= most, "{what}: {sent} bytes");
    }
}

#[test]
fn all_bytes_changed_by_place_are_still_sent() {
    let old = noise(1, 2_000_000);
    let new: Vec<u8> = old.iter().map(|byte| byte ^ 0x55).collect();
    let sent = sent(&old, &new);
    assert!((2_000_000..2_001_000).contains(&sent), "{sent}");
}

#[test]
fn monotonous_contents_stay_quick_and_small() {
    let zeros = vec![0; 40_000_000];
    let periodic: Vec<u8> = noise(3, 1_009).into_iter().cycle().take(40_000_000).collect();
    for (what, old, most) in [("zeros", zeros, 4_000), ("periods", periodic, 40_000)] {
        let new = changed(&old, |bytes| drop(bytes.splice(11_111_111..11_111_111, noise(4, 100))));
        let (there, back) = (sent(&old, &new), sent(&new, &old));
        assert!(there <= most && back <= most, "{what}: {there} and {back} bytes");
    }
}

#[test]
fn what_is_announced_is_what_comes_or_nothing() {
    let old = noise(1, 1_000_000);
    let new = changed(&old, |bytes| bytes[500_000] ^= 1);
    let (head, ops) = patch(&old, &new);
    assert!(rebuild(&old, head, &ops).is_ok());
    let other = noise(2, 1_000_000);
    assert!(rebuild(&other, head, &ops).is_err(), "another base");
    assert!(matches!(rebuild(&old, head, &ops[..ops.len() - 1]), Err(Error::Root)), "cut short");
    let long = [ops.clone(), ops.clone()].concat();
    assert!(matches!(rebuild(&old, head, &long), Err(Error::Malformed(_))), "twice");
    let shorter = Head { bytes: 10, ..head };
    assert!(rebuild(&old, shorter, &ops).is_err(), "less announced");
    assert!(matches!(rebuild(&old, Head { bytes: u64::MAX, ..head }, &ops), Err(Error::Limit { .. })));
}

#[test]
fn a_frame_that_holds_more_than_it_says_is_stopped() {
    let frame = compress(&[], &vec![0; 3_000_000]).unwrap();
    for (bytes, fits) in [(3_000_000, true), (2_999_999, false), (3_000_001, false), (1, false)] {
        assert_eq!(restore(&[], &frame, bytes).is_ok(), fits, "{bytes}");
    }
    let delta = |prefix, bytes, frame| Op::Delta { prefix, bytes, frame };
    let bad = [
        delta((0, 0), u32::MAX, Vec::new()),
        delta((0, u32::MAX), 1, Vec::new()),
        delta((u64::MAX, 1), 1, Vec::new()),
        delta((0, 0), 0, Vec::new()),
        delta((0, 0), 1, vec![0; FRAME_SLACK_BYTES + 2]),
        Op::Copy { from: 0, chunks: 0 },
    ];
    for op in bad {
        assert!(Op::read(&op.write(Vec::new()).unwrap()).is_err(), "{op:?}");
    }
}

/// A content is made of pieces: of noise, zeros, periods, text.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    (0_u8..4, 0_u64..6, 1_usize..300_000).prop_map(|(kind, seed, size)| match kind {
        0 => noise(seed, size),
        1 => vec![0; size],
        2 => noise(seed, 1 + seed as usize * 37).into_iter().cycle().take(size).collect(),
        _ => format!("line {seed} of the text\n").repeat(size / 20 + 1).into_bytes(),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_content_leads_to_any_other(
        pieces in prop::collection::vec(piece(), 0..10),
        order in prop::collection::vec(0_usize..10, 0..10),
        flips in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
    ) {
        let old = pieces.concat();
        let picked: Vec<Vec<u8>> = order.iter().filter_map(|place| pieces.get(*place).cloned()).collect();
        let new = changed(&picked.concat(), |bytes| {
            for flip in flips {
                if !bytes.is_empty() {
                    let place = flip.index(bytes.len());
                    bytes[place] ^= 0xff;
                }
            }
        });
        sent(&old, &new);
    }

    #[test]
    fn strange_operations_are_refused(bytes: Vec<u8>, flip: prop::sample::Index, bit in 0_u8..8) {
        drop(Op::read(&bytes));
        let old = noise(1, 300_000);
        let new = changed(&old, |bytes| drop(bytes.splice(9..9, noise(2, 2_000))));
        let (head, ops) = patch(&old, &new);
        let mut joined = ops;
        let op = flip.index(joined.len());
        let place = flip.index(joined[op].len());
        joined[op][place] ^= 1 << bit;
        // Whatever is changed, what was announced comes, or an error.
        let sound = Op::read(&joined[op]).is_ok_and(|(_, rest)| rest.is_empty());
        if sound && let Ok((_, rebuilt)) = rebuild(&old, head, &joined) {
            prop_assert!(rebuilt == new);
        }
    }
}
