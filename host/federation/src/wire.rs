//! What one region says to another about content: frames behind their length (4 bytes, little endian), in postcard's form.
//!
//! Numbers of kinds are only ever added. A frame holds an operation of a patch at most; what is larger comes in several, so that an end holds
//! [`FRAME_BYTES_MAX`] of what it has not looked at. Who is at the other end, and what of it may be asked, is the link's business.

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::defaults::{FRAME_BYTES_MAX, VERSION_BYTES_MAX, WANT_CHUNKS_MAX};
use crate::id::{ItemId, VersionId};
use crate::manifest::Entry;
use crate::pack::Coding;
use crate::patch::{Head, Op};

/// Bytes before each frame.
const LENGTH_BYTES: usize = 4;

/// What one end says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frame {
    /// A version is there: its record, as [`crate::version::Version::bytes`] gives it.
    Version(Vec<u8>),
    /// A version is committed here.
    Ack {
        /// The item.
        item: ItemId,
        /// The version.
        version: VersionId,
    },
    /// A patch follows, from its operation number `from` on.
    Patch {
        /// The item.
        item: ItemId,
        /// What it leads from and to.
        head: Head,
        /// How many operations are left out, because they were taken before a break.
        from: u64,
    },
    /// The next operation of the patch.
    Op(Op),
    /// The base is not here, or not all of it came: what is wanted of a list of chunks, one bit for each, from the lowest bit of the first byte.
    Want {
        /// The item.
        item: ItemId,
        /// The version.
        version: VersionId,
        /// Which of its chunks, in order.
        chunks: Vec<u8>,
    },
    /// A chunk that was wanted.
    Chunk {
        /// Which, and how long.
        entry: Entry,
        /// How it is coded.
        coding: Coding,
        /// Its coded bytes.
        bytes: Vec<u8>,
    },
}

impl Frame {
    /// Adds the frame to what is sent.
    ///
    /// # Errors
    /// When it is beyond the limits.
    pub fn write(&self, mut out: Vec<u8>) -> Result<Vec<u8>, Error> {
        self.check()?;
        let body = postcard::to_allocvec(self).map_err(|_| Error::Malformed("a frame"))?;
        if body.len() > FRAME_BYTES_MAX {
            return Err(Error::limit("bytes of a frame", FRAME_BYTES_MAX));
        }
        out.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(&body);
        Ok(out)
    }

    /// The first frame of what came, and how many bytes it had; nothing until all of it is there.
    ///
    /// # Errors
    /// When it is beyond the limits or of another form: the link is of no more use.
    pub fn read(bytes: &[u8]) -> Result<Option<(Self, usize)>, Error> {
        let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(Error::limit("bytes of a frame", FRAME_BYTES_MAX));
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let (frame, after): (Self, _) =
            postcard::take_from_bytes(body).map_err(|_| Error::Malformed("a frame"))?;
        if !after.is_empty() {
            return Err(Error::Malformed("the length of a frame"));
        }
        frame.check()?;
        Ok(Some((frame, LENGTH_BYTES + length)))
    }

    fn check(&self) -> Result<(), Error> {
        let most =
            |size: usize, max: usize, what| if size <= max { Ok(()) } else { Err(Error::limit(what, max)) };
        match self {
            Self::Ack { .. } | Self::Patch { .. } => Ok(()),
            Self::Chunk { entry, bytes, .. } => {
                most(bytes.len(), entry.bytes as usize, "bytes of a coded chunk")
            }
            Self::Op(op) => op.check(),
            Self::Version(record) => most(record.len(), VERSION_BYTES_MAX, "bytes of a version's record"),
            Self::Want { chunks, .. } => most(chunks.len(), WANT_CHUNKS_MAX / 8, "bytes of a want"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::{ChunkId, Root};

    fn frames() -> Vec<Frame> {
        let (item, version) = (ItemId([1; 16]), VersionId([2; 32]));
        let head = Head { base: Root([3; 32]), root: Root([4; 32]), bytes: 5 };
        let entry = Entry { id: ChunkId([6; 32]), bytes: 3 };
        vec![
            Frame::Version(vec![1, 2]),
            Frame::Ack { item, version },
            Frame::Patch { item, head, from: 7 },
            Frame::Op(Op::Copy { from: 1, chunks: 2 }),
            Frame::Op(Op::Delta { prefix: (1, 2), bytes: 3, frame: vec![4] }),
            Frame::Want { item, version, chunks: vec![0b101] },
            Frame::Chunk { entry, coding: Coding::Raw, bytes: vec![1, 2, 3] },
        ]
    }

    #[test]
    fn frames_are_read_as_they_were_written_in_any_parts() {
        let sent = frames().iter().fold(Vec::new(), |out, frame| frame.write(out).unwrap());
        let (mut held, mut read) = (Vec::new(), Vec::new());
        for byte in sent {
            held.push(byte);
            if let Some((frame, used)) = Frame::read(&held).unwrap() {
                held.drain(..used);
                read.push(frame);
            }
        }
        assert_eq!((read, held.len()), (frames(), 0));
    }

    #[test]
    fn what_is_too_large_is_refused_before_it_is_there() {
        assert!(matches!(Frame::read(&u32::MAX.to_le_bytes()), Err(Error::Limit { .. })));
        let entry = Entry { id: ChunkId([6; 32]), bytes: 3 };
        let more = Frame::Chunk { entry, coding: Coding::Raw, bytes: vec![0; 4] };
        assert!(more.write(Vec::new()).is_err());
        assert!(Frame::Version(vec![0; VERSION_BYTES_MAX + 1]).write(Vec::new()).is_err());
    }

    proptest! {
        #[test]
        fn strange_bytes_are_refused(mut bytes: Vec<u8>, flip: prop::sample::Index) {
            drop(Frame::read(&bytes));
            bytes.splice(0..0, u32::try_from(bytes.len()).unwrap().to_le_bytes());
            if let Ok(Some((frame, used))) = Frame::read(&bytes) {
                prop_assert!(used == bytes.len() && frame.write(Vec::new()).is_ok());
            }
            for frame in frames() {
                let mut sent = frame.write(Vec::new()).unwrap();
                let place = flip.index(sent.len());
                sent[place] ^= 0x10;
                drop(Frame::read(&sent));
            }
        }
    }
}
