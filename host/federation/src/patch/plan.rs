//! The sender's part: which chunks the receiver has, and which old bytes are most like the others.

use std::ops::Range;

use super::{Op, compress};
use crate::Error;
use crate::defaults::{PREFIX_BYTES_MAX, PREFIX_PAD_BYTES, REGION_BYTES_MAX, REGION_GAP_CHUNKS_MAX};
use crate::manifest::{Entry, Manifest};

/// No chunk of the base.
const NONE: u32 = u32::MAX;

/// One step of a patch: an operation without its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Chunks of the base stay as they are.
    Copy {
        /// The first of them, counted from 0.
        from: u32,
        /// How many.
        chunks: u32,
    },
    /// Whole chunks are new.
    Delta {
        /// Bytes of the base that are near their place.
        prefix: Range<u64>,
        /// Their bytes in the new content.
        bytes: Range<u64>,
    },
}

impl Step {
    /// The operation. `prefix` and `bytes` are what a [`Step::Delta`] names, of the base and of the new content; a copy needs neither.
    ///
    /// # Errors
    /// When they are not as long as the step says, or zstd fails.
    pub fn encode(&self, prefix: &[u8], bytes: &[u8]) -> Result<Op, Error> {
        match self {
            Self::Copy { from, chunks } => Ok(Op::Copy { from: *from, chunks: *chunks }),
            Self::Delta { prefix: old, bytes: new } => {
                let right = |range: &Range<u64>, got: &[u8]| range.end - range.start == got.len() as u64;
                let (Ok(old_bytes), Ok(new_bytes), true) = (
                    u32::try_from(prefix.len()),
                    u32::try_from(bytes.len()),
                    right(old, prefix) && right(new, bytes),
                ) else {
                    return Err(Error::Corrupt("a region that was read"));
                };
                let frame = compress(prefix, bytes)?;
                Ok(Op::Delta { prefix: (old.start, old_bytes), bytes: new_bytes, frame })
            }
        }
    }
}

/// The steps from `base` to `new`: the same again for the same two, so that a patch goes on after any step.
///
/// One look-up for each chunk, so that no content makes it slow.
#[must_use]
pub fn plan(base: &Manifest, new: &Manifest) -> Vec<Step> {
    let mut matches = matches(base.entries(), new.entries());
    coalesce(&mut matches, new.entries());
    let starts = starts(base);
    let mut steps =
        Steps { starts: &starts, base_bytes: base.bytes(), new: new.entries(), steps: Vec::new() };
    let (mut at, mut place, mut old) = (0, 0_u64, 0_u64);
    while let Some(first) = matches.get(at) {
        let rest = matches.get(at..).unwrap_or_default();
        let run = if *first == NONE { unmatched(rest) } else { matched(rest) };
        let bytes = steps.bytes(at..at + run);
        if *first == NONE {
            let after = matches.get(at + run).map_or_else(|| base.bytes(), |next| steps.start(*next));
            steps.change(at..at + run, place, old..after);
        } else {
            steps.steps.push(Step::Copy { from: *first, chunks: u32::try_from(run).unwrap_or(NONE) });
            old = steps.start(first.saturating_add(u32::try_from(run).unwrap_or(NONE)));
        }
        (at, place) = (at + run, place + bytes);
    }
    steps.steps
}

/// For each new chunk, which one of the base it is. One that follows the match before it is preferred, so that runs are long.
fn matches(base: &[Entry], new: &[Entry]) -> Vec<u32> {
    let id = |place: &u32| base.get(*place as usize).map(|entry| entry.id);
    let mut order: Vec<u32> = (0..u32::try_from(base.len()).unwrap_or(NONE)).collect();
    order.sort_unstable_by_key(|place| (id(place), *place));
    let mut last = NONE;
    let find = |entry: &Entry| {
        let next = last.wrapping_add(1);
        last = if id(&next) == Some(entry.id) {
            next
        } else {
            let at = order.partition_point(|place| id(place) < Some(entry.id));
            order.get(at).copied().filter(|place| id(place) == Some(entry.id)).unwrap_or(NONE)
        };
        last
    };
    new.iter().map(find).collect()
}

/// Short matches between changes are taken into one region with them, as long as it stays one.
fn coalesce(matches: &mut [u32], new: &[Entry]) {
    let size = |entry: Option<&Entry>| entry.map_or(0, |entry| entry.bytes as usize);
    // The current region's bytes, and the matched chunks (with their bytes) since its last change.
    let (mut region, mut gap, mut gap_bytes) = (0_usize, 0_usize, 0_usize);
    for at in 0..matches.len() {
        let bytes = size(new.get(at));
        if matches.get(at) != Some(&NONE) {
            (gap, gap_bytes) = (gap + 1, gap_bytes + bytes);
            continue;
        }
        if region > 0 && gap <= REGION_GAP_CHUNKS_MAX && region + gap_bytes + bytes <= REGION_BYTES_MAX {
            matches.get_mut(at - gap..at).unwrap_or_default().fill(NONE);
            region += gap_bytes + bytes;
        } else {
            region = bytes;
        }
        (gap, gap_bytes) = (0, 0);
    }
}

fn unmatched(matches: &[u32]) -> usize {
    matches.iter().take_while(|place| **place == NONE).count()
}

fn matched(matches: &[u32]) -> usize {
    let first = matches.first().copied().unwrap_or(NONE);
    matches.iter().zip(first..NONE).take_while(|(place, expected)| **place == *expected).count()
}

/// Where each chunk of a content begins, and at last where it ends.
fn starts(manifest: &Manifest) -> Vec<u64> {
    let mut at = 0;
    let mut starts: Vec<u64> = Vec::with_capacity(manifest.entries().len() + 1);
    for entry in manifest.entries() {
        starts.push(at);
        at += u64::from(entry.bytes);
    }
    starts.push(at);
    starts
}

struct Steps<'a> {
    starts: &'a [u64],
    base_bytes: u64,
    new: &'a [Entry],
    steps: Vec<Step>,
}

impl Steps<'_> {
    fn start(&self, chunk: u32) -> u64 {
        self.starts.get(chunk as usize).copied().unwrap_or(self.base_bytes)
    }

    fn bytes(&self, chunks: Range<usize>) -> u64 {
        self.new.get(chunks).unwrap_or_default().iter().map(|entry| u64::from(entry.bytes)).sum()
    }

    /// A run of new chunks that begins at `place`, between whose neighbours the base has `old`, in regions.
    fn change(&mut self, chunks: Range<usize>, place: u64, old: Range<u64>) {
        let run = self.bytes(chunks.clone());
        // Neighbours that moved past each other say only where the old bytes begin.
        let old = if old.end < old.start { old.start..old.start.saturating_add(run) } else { old };
        let (mut done, mut region) = (0, 0);
        for entry in self.new.get(chunks).unwrap_or_default() {
            let bytes = u64::from(entry.bytes);
            if region + bytes > REGION_BYTES_MAX as u64 {
                self.region(place + done..place + done + region, run, done, &old);
                (done, region) = (done + region, 0);
            }
            region += bytes;
        }
        self.region(place + done..place + done + region, run, done, &old);
    }

    /// One region that begins `done` bytes into its `run`; the old bytes of the same share of `old` are its prefix.
    fn region(&mut self, bytes: Range<u64>, run: u64, done: u64, old: &Range<u64>) {
        let size = bytes.end - bytes.start;
        let share = |part: u64| {
            let share = u128::from(old.end - old.start) * u128::from(part) / u128::from(run.max(1));
            old.start + u64::try_from(share).unwrap_or(0)
        };
        // In a run of several regions the places are guesses, so that more is looked at.
        let pad = if size == run {
            PREFIX_PAD_BYTES
        } else {
            (PREFIX_BYTES_MAX as u64 - REGION_BYTES_MAX as u64) / 2
        };
        let from = share(done).saturating_sub(pad);
        let until = share(done + size).saturating_add(pad).min(self.base_bytes);
        let until = until.min(from + PREFIX_BYTES_MAX as u64);
        self.steps.push(Step::Delta { prefix: from.min(until)..until, bytes });
    }
}
