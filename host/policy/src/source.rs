//! Where a slot's component comes from: a handle that knows its digest, so that nobody hashes it twice.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use portolan_core::ids::Digest;
use sha2::{Digest as _, Sha256};

use crate::error::{Refused, Stage};
use crate::screen;
use crate::signature::Signature;

/// A component, by its bytes or by a file that holds them. Cheap to clone.
#[derive(Clone)]
pub struct Source {
    digest: Digest,
    place: Place,
    /// How it stands with its signature, where somebody looked.
    signature: Option<Arc<Signature>>,
}

#[derive(Clone)]
enum Place {
    Bytes(Arc<[u8]>),
    File(Arc<Path>),
}

impl Source {
    /// Bytes in memory; for bundled policies.
    #[must_use]
    pub fn bytes(bytes: impl Into<Arc<[u8]>>) -> Self {
        let bytes = bytes.into();
        Self { digest: screen::digest(&bytes), place: Place::Bytes(bytes), signature: None }
    }

    /// A file. It is read now for its digest, and once more when its version is made; nothing is kept in memory. When
    /// the file changes, make another source.
    ///
    /// # Errors
    /// [`Refused`] when it cannot be read, is no plain file, or is larger than `bytes_max`.
    pub fn file(path: impl Into<PathBuf>, bytes_max: usize) -> Result<Self, Refused> {
        let path: PathBuf = path.into();
        let mut hasher = Sha256::new();
        let mut rest = open(&path, bytes_max)?.take(bytes_max as u64 + 1);
        let mut piece = [0; 16 * 1024];
        loop {
            match rest.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => hasher.update(piece.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(unreadable(&path, &error)),
            }
        }
        Ok(Self {
            digest: Digest(hasher.finalize().into()),
            place: Place::File(path.into()),
            signature: None,
        })
    }

    /// The SHA-256 of the bytes.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// The same, with what was found of its signature.
    #[must_use]
    pub fn signed(self, signature: Signature) -> Self {
        Self { signature: Some(Arc::new(signature)), ..self }
    }

    /// How it stands with its signature; nothing when nobody looked.
    #[must_use]
    pub fn signature(&self) -> Option<&Signature> {
        self.signature.as_deref()
    }

    /// The bytes, which are those of the digest.
    ///
    /// # Errors
    /// [`Refused`] when they cannot be read, are too many, or have changed.
    pub fn read(&self, bytes_max: usize) -> Result<Arc<[u8]>, Refused> {
        let path = match &self.place {
            Place::Bytes(bytes) => return Ok(Arc::clone(bytes)),
            Place::File(path) => path,
        };
        let mut bytes = Vec::new();
        let mut file = open(path, bytes_max)?.take(bytes_max as u64 + 1);
        file.read_to_end(&mut bytes).map_err(|error| unreadable(path, &error))?;
        if screen::digest(&bytes) == self.digest {
            return Ok(bytes.into());
        }
        Err(Refused::passing(
            Stage::Read,
            format!("`{}` changed while it was read", path.display()),
            "write policies under another name and rename them into place; it is read again shortly",
        ))
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Bytes(bytes) => write!(f, "Source({}, {} bytes)", self.digest.short(), bytes.len()),
            Place::File(path) => write!(f, "Source({}, {})", self.digest.short(), path.display()),
        }
    }
}

fn open(path: &Path, bytes_max: usize) -> Result<File, Refused> {
    // Without waiting: the name may be one of a pipe that nobody writes to.
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = file.map_err(|error| unreadable(path, &error))?;
    let meta = file.metadata().map_err(|error| unreadable(path, &error))?;
    if !meta.is_file() {
        return Err(unreadable(path, &io::Error::other("not a plain file")));
    }
    if meta.len() > bytes_max as u64 {
        return Err(Refused::new(
            Stage::Size,
            format!("`{}` has {} bytes, {bytes_max} are allowed", path.display(), meta.len()),
            "build it smaller (release mode, stripped), or raise the engine's limit for components",
        ));
    }
    Ok(file)
}

fn unreadable(path: &Path, error: &io::Error) -> Refused {
    Refused::passing(
        Stage::Read,
        format!("read `{}`: {error}", path.display()),
        "give the path of a component that portolan may read",
    )
}
