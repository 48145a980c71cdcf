//! What leads from a content that a receiver has to another: runs of chunks to keep, and for what is between them frames of zstd that
//! refer to the old bytes of that place.
//!
//! Data flow one way. The sender has both manifests: [`plan`] makes steps of them, and each step names the old and new bytes that it needs;
//! [`Step::encode`] makes an operation of them. The receiver has the base: [`Rebuild`] takes operations in order, names the old bytes
//! that each needs, cuts and names what comes out, and compares one root at the end. No name of a chunk travels. Both hold one region at
//! a time, whatever the size of the content, besides the manifests.
//!
//! Both ends must be allowed to read the base: sizes of frames tell what base and content have in common.

mod plan;
mod rebuild;
#[cfg(test)]
mod tests;

use std::io::{Read as _, Write as _};
use std::ops::Range;

use serde::{Deserialize, Serialize};
use zstd::zstd_safe::{CParameter, DParameter};

pub use self::plan::{Step, plan};
pub use self::rebuild::{Progress, Rebuild};
use crate::Error;
use crate::defaults::{
    CONTENT_BYTES_MAX, DELTA_WINDOW_LOG, FRAME_SLACK_BYTES, PREFIX_BYTES_MAX, REGION_BYTES_MAX,
};
use crate::id::Root;

/// What a patch leads from and to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The content that the receiver has; its root says how both are cut.
    pub base: Root,
    /// The content that comes of it.
    pub root: Root,
    /// Its length, in bytes.
    pub bytes: u64,
}

/// One operation of a patch, in the order of the new content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Chunks of the base stay as they are.
    Copy {
        /// The first of them, counted from 0.
        from: u32,
        /// How many.
        chunks: u32,
    },
    /// Whole chunks that are new.
    Delta {
        /// The old bytes that the frame refers to: from where, and how many.
        prefix: (u64, u32),
        /// How many bytes the frame holds.
        bytes: u32,
        /// A frame of zstd (RFC 8878) with those old bytes as its prefix.
        frame: Vec<u8>,
    },
}

impl Op {
    /// Reads an operation, and gives what follows it.
    ///
    /// # Errors
    /// When the bytes are no operation, or one beyond the limits.
    pub fn read(bytes: &[u8]) -> Result<(Self, &[u8]), Error> {
        let (op, rest): (Self, _) =
            postcard::take_from_bytes(bytes).map_err(|_| Error::Malformed("an operation of a patch"))?;
        op.check()?;
        Ok((op, rest))
    }

    /// Adds the form in which an operation travels.
    ///
    /// # Errors
    /// Never for operations of this crate.
    pub fn write(&self, out: Vec<u8>) -> Result<Vec<u8>, Error> {
        postcard::to_extend(self, out).map_err(|_| Error::Malformed("an operation of a patch"))
    }

    /// The old bytes that [`Rebuild::take`] needs for it.
    #[must_use]
    pub fn prefix(&self) -> Range<u64> {
        match self {
            Self::Copy { .. } => 0..0,
            Self::Delta { prefix: (from, bytes), .. } => *from..from.saturating_add(u64::from(*bytes)),
        }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        match self {
            Self::Copy { chunks: 0, .. } | Self::Delta { bytes: 0, .. } => {
                Err(Error::Malformed("an operation without effect"))
            }
            Self::Copy { .. } => Ok(()),
            Self::Delta { prefix, bytes, frame } => {
                let within = |size: usize, max: usize, what| {
                    if size <= max { Ok(()) } else { Err(Error::limit(what, max)) }
                };
                within(*bytes as usize, REGION_BYTES_MAX, "new bytes of a region")?;
                within(prefix.1 as usize, PREFIX_BYTES_MAX, "old bytes of a region")?;
                within(frame.len(), *bytes as usize + FRAME_SLACK_BYTES, "bytes of a frame")?;
                if prefix.0 > CONTENT_BYTES_MAX {
                    return Err(Error::Malformed("the place of a region's old bytes"));
                }
                Ok(())
            }
        }
    }
}

/// A frame of `bytes` that refers to `prefix`.
fn compress(prefix: &[u8], bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let frame = || {
        let mut encoder = zstd::stream::write::Encoder::with_ref_prefix(
            Vec::new(),
            level(prefix.len() + bytes.len()),
            prefix,
        )?;
        encoder.set_parameter(CParameter::WindowLog(DELTA_WINDOW_LOG))?;
        encoder.set_parameter(CParameter::EnableLongDistanceMatching(true))?;
        encoder.set_parameter(CParameter::LdmHashRateLog(4))?;
        encoder.include_contentsize(false)?;
        encoder.include_checksum(false)?;
        encoder.set_pledged_src_size(Some(bytes.len() as u64))?;
        encoder.write_all(bytes)?;
        encoder.finish()
    };
    frame().map_err(Error::Zstd)
}

/// How hard zstd tries: as long as a region is small, its best costs little.
const fn level(bytes: usize) -> i32 {
    if bytes <= 1 << 20 { 15 } else { 9 }
}

/// The `expected` bytes that a frame holds, and an error if it holds another number of them.
fn restore(prefix: &[u8], frame: &[u8], expected: u32) -> Result<Vec<u8>, Error> {
    let expected = expected as usize;
    let bytes = || {
        let mut decoder = zstd::stream::read::Decoder::with_ref_prefix(frame, prefix)?.single_frame();
        decoder.set_parameter(DParameter::WindowLogMax(DELTA_WINDOW_LOG))?;
        let mut bytes = Vec::with_capacity(expected);
        decoder.take(expected as u64 + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes: Vec<u8> = bytes().map_err(Error::Zstd)?;
    if bytes.len() == expected { Ok(bytes) } else { Err(Error::Malformed("the length of a frame")) }
}
