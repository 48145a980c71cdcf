//! Cutting content into chunks where the content itself says so, so that a change moves only the cuts beside it.
//!
//! FastCDC with normalised sizes (Xia et al., "The Design of Fast Content-Defined Chunking for Data Deduplication Based
//! Storage Systems", IEEE TPDS 2020), with a gear table per tenant: whoever does not have the tenant's secret cannot foresee
//! cuts. That hides little from one who sees sizes and can have content stored; sizes are therefore also kept within sealed packs.
//!
//! A cut depends only on bytes since the cut before it. So a run of whole chunks that is cut again alone gives the same chunks, and
//! a receiver needs no list of them.

use fastcdc::v2020::{MASKS, cut_gear};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::defaults::{CHUNK_BYTES_AVERAGE, CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, CUT_NORMALISATION};
use crate::id::Namer;

/// How content is cut and listed; named in each root, because all of it is a wire format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub enum Recipe {
    /// FastCDC of 16, 64 and 256 KiB with two bits of normalisation and a keyed gear table; nodes of 32 to 512 entries.
    FastCdc64K,
}

impl From<Recipe> for u8 {
    fn from(recipe: Recipe) -> Self {
        match recipe {
            Recipe::FastCdc64K => 1,
        }
    }
}

impl TryFrom<u8> for Recipe {
    type Error = Error;

    fn try_from(number: u8) -> Result<Self, Error> {
        match number {
            1 => Ok(Self::FastCdc64K),
            other => Err(Error::Recipe(other)),
        }
    }
}

/// A tenant's cutter. It holds tables of 4 KiB: make one and keep it.
#[derive(Clone, Debug)]
pub struct Cutter {
    gear: Box<[u64; 256]>,
    shifted: Box<[u64; 256]>,
    strict: u64,
    loose: u64,
}

impl Cutter {
    /// The cutter of a tenant.
    #[must_use]
    pub fn new(namer: &Namer) -> Self {
        let gear = Box::new(namer.gear());
        let mask = |bits: usize| MASKS.get(bits).copied().unwrap_or(u64::MAX);
        let average = CHUNK_BYTES_AVERAGE.ilog2() as usize;
        Self {
            shifted: Box::new(gear.map(|number| number << 1)),
            gear,
            strict: mask(average + CUT_NORMALISATION),
            loose: mask(average - CUT_NORMALISATION),
        }
    }

    /// The length of the first chunk of `bytes`, in bytes. It is final if `bytes` has more than [`CHUNK_BYTES_MAX`], or is all
    /// that comes.
    #[must_use]
    pub fn first(&self, bytes: &[u8]) -> usize {
        let (strict, loose) = (self.strict, self.loose);
        let (low, middle, high) = (CHUNK_BYTES_MIN, CHUNK_BYTES_AVERAGE, CHUNK_BYTES_MAX);
        let (gear, shifted) = (self.gear.as_slice(), self.shifted.as_slice());
        cut_gear(bytes, low, middle, high, strict, loose, strict << 1, loose << 1, gear, shifted).1
    }

    /// The chunks of content that is at hand, in order.
    pub fn chunks<'a>(&'a self, bytes: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let mut rest = bytes;
        std::iter::from_fn(move || {
            let (chunk, after) = rest.split_at_checked(self.first(rest))?;
            rest = after;
            (!chunk.is_empty()).then_some(chunk)
        })
    }
}

/// Cuts content that comes in parts, and holds [`CHUNK_BYTES_MAX`] of it, and one part more, at most.
#[derive(Debug)]
pub struct Stream<'a> {
    cutter: &'a Cutter,
    held: Vec<u8>,
}

impl<'a> Stream<'a> {
    /// An empty stream.
    #[must_use]
    pub const fn new(cutter: &'a Cutter) -> Self {
        Self { cutter, held: Vec::new() }
    }

    /// Takes the next part, and hands on each chunk that is whole.
    ///
    /// # Errors
    /// Whatever `take` says; the stream is then of no more use.
    pub fn push<E>(&mut self, part: &[u8], mut take: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        self.held.extend_from_slice(part);
        let mut rest = self.held.as_slice();
        while rest.len() > CHUNK_BYTES_MAX {
            let Some((chunk, after)) = rest.split_at_checked(self.cutter.first(rest)) else { break };
            take(chunk)?;
            rest = after;
        }
        let done = self.held.len() - rest.len();
        self.held.drain(..done);
        Ok(())
    }

    /// Hands on what is left, as nothing more comes.
    ///
    /// # Errors
    /// Whatever `take` says.
    pub fn finish<E>(self, mut take: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        self.cutter.chunks(&self.held).try_for_each(&mut take)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tests::{namer, noise};

    fn lengths(cutter: &Cutter, bytes: &[u8]) -> Vec<usize> {
        cutter.chunks(bytes).map(<[u8]>::len).collect()
    }

    /// Cuts are a wire format: what is sent between two versions of portolan must be cut alike for ever.
    #[test]
    fn cuts_are_what_they_always_were() {
        let cutter = Cutter::new(&namer(7));
        assert_eq!(lengths(&cutter, &noise(1, 700_001)), GOLDEN);
        assert_eq!(lengths(&cutter, &vec![0; 600_000]), [262_144, 262_144, 75_712]);
        assert_eq!(lengths(&cutter, b""), [0; 0]);
        assert_ne!(
            lengths(&Cutter::new(&namer(8)), &noise(1, 700_001)),
            GOLDEN,
            "another tenant's are others"
        );
    }

    const GOLDEN: [usize; 10] = [67122, 96966, 91399, 86575, 66637, 71099, 79577, 67476, 67737, 5413];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn parts_do_not_matter(seed: u64, size in 0_usize..1_500_000, part in 1_usize..400_000) {
            let cutter = Cutter::new(&namer(seed));
            let bytes = noise(seed, size);
            let (mut stream, mut streamed) = (Stream::new(&cutter), Vec::new());
            let mut take = |chunk: &[u8]| { streamed.push(chunk.len()); Ok::<(), ()>(()) };
            for part in bytes.chunks(part) {
                stream.push(part, &mut take).unwrap();
            }
            stream.finish(&mut take).unwrap();
            prop_assert_eq!(streamed, lengths(&cutter, &bytes));
        }

        #[test]
        fn whole_chunks_cut_again_alone_stay_as_they_are(seed: u64, size in 0_usize..1_500_000, from in 0_usize..8, run in 1_usize..8) {
            let cutter = Cutter::new(&namer(seed));
            let bytes = noise(seed, size);
            let all = lengths(&cutter, &bytes);
            let some: Vec<usize> = all.iter().copied().skip(from).take(run).collect();
            let start: usize = all.iter().take(from).sum();
            let end = start + some.iter().sum::<usize>();
            prop_assert_eq!(lengths(&cutter, &bytes[start..end]), some);
        }
    }
}
