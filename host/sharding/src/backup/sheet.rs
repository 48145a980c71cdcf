//! Files of lines: a JSON value each, compressed, with the digest of what lies on the disk. They are written and read a line at a
//! time, however long they are.

use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Read as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use portolan_core::ids::Digest;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

use super::{Error, FileSum};
use crate::defaults::{COMPRESSION_LEVEL, LINE_BYTES_MAX};

/// A file that is being written. Without [`Self::finish`] it is no good.
pub struct Sheet {
    encoder: zstd::Encoder<'static, Summed>,
    lines: u64,
    place: PathBuf,
}

struct Summed {
    bytes: u64,
    file: BufWriter<File>,
    sum: Sha256,
}

/// The lines of a file.
pub struct Lines {
    line: u64,
    place: PathBuf,
    reader: BufReader<zstd::Decoder<'static, BufReader<File>>>,
}

impl std::fmt::Debug for Sheet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sheet")
            .field("place", &self.place)
            .field("lines", &self.lines)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lines").field("place", &self.place).field("line", &self.line).finish_non_exhaustive()
    }
}

impl Write for Summed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.sum.update(bytes.get(..count).unwrap_or_default());
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

impl Sheet {
    /// A new file, which only its owner reads.
    ///
    /// # Errors
    /// When it is there, or cannot be made.
    pub fn create(place: &Path) -> Result<Self, Error> {
        let file = File::options().write(true).create_new(true).mode(0o600).open(place);
        let file = file.map_err(|source| at(place, source))?;
        let summed = Summed { bytes: 0, file: BufWriter::new(file), sum: Sha256::new() };
        let encoder = zstd::Encoder::new(summed, COMPRESSION_LEVEL).map_err(|source| at(place, source))?;
        Ok(Self { encoder, lines: 0, place: place.to_owned() })
    }

    /// Adds a line.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn line(&mut self, value: &impl Serialize) -> Result<(), Error> {
        serde_json::to_writer(&mut self.encoder, value).map_err(|error| at(&self.place, error.into()))?;
        self.encoder.write_all(b"\n").map_err(|source| at(&self.place, source))?;
        self.lines += 1;
        Ok(())
    }

    /// The file is whole, and on the disk.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn finish(self) -> Result<FileSum, Error> {
        let Self { encoder, lines, place } = self;
        let done = || {
            let mut summed = encoder.finish()?;
            summed.flush()?;
            summed.file.get_ref().sync_all()?;
            Ok((summed.bytes, Digest(summed.sum.finalize().into())))
        };
        let (bytes, sha256) = done().map_err(|source| at(&place, source))?;
        Ok(FileSum { bytes, lines, sha256 })
    }
}

impl Lines {
    /// Opens a file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(place: &Path) -> Result<Self, Error> {
        let file = File::open(place).map_err(|source| at(place, source))?;
        let decoder = zstd::Decoder::new(file).map_err(|source| at(place, source))?;
        Ok(Self { line: 0, place: place.to_owned(), reader: BufReader::new(decoder) })
    }

    /// The next line; none after the last.
    ///
    /// # Errors
    /// [`Error::Bad`] with its number when it does not read.
    pub fn read<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Error> {
        let mut line = Vec::new();
        let mut bounded = (&mut self.reader).take(LINE_BYTES_MAX + 1);
        let read = bounded.read_until(b'\n', &mut line).map_err(|source| at(&self.place, source))?;
        if read == 0 {
            return Ok(None);
        }
        self.line += 1;
        let bad = |why: String| Error::Bad { place: format!("{}:{}", self.place.display(), self.line), why };
        if line.last() != Some(&b'\n') {
            return Err(bad(format!("the line does not end within {LINE_BYTES_MAX} bytes")));
        }
        serde_json::from_slice(&line).map(Some).map_err(|error| bad(error.to_string()))
    }

    /// Up to so many lines; none after the last.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn some<T: DeserializeOwned>(&mut self, max: usize) -> Result<Vec<T>, Error> {
        let mut all = Vec::new();
        while all.len() < max {
            let Some(line) = self.read()? else { break };
            all.push(line);
        }
        Ok(all)
    }
}

/// The length and digest of a file as it lies there.
pub(super) fn sum(place: &Path) -> Result<(u64, Digest), Error> {
    let mut file = File::open(place).map_err(|source| at(place, source))?;
    let (mut sum, mut bytes, mut piece) = (Sha256::new(), 0, vec![0; 64 * 1024]);
    loop {
        let count = file.read(&mut piece).map_err(|source| at(place, source))?;
        if count == 0 {
            return Ok((bytes, Digest(sum.finalize().into())));
        }
        sum.update(piece.get(..count).unwrap_or_default());
        bytes += count as u64;
    }
}

pub(super) fn at(place: &Path, source: std::io::Error) -> Error {
    Error::File { place: place.to_owned(), source }
}
