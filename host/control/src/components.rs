//! Components by their digest: one place that all nodes share, and each node's own copy.
//!
//! A component is put into the shared place before any change names it, and fetched into a node's own before the node runs
//! what names it. What is fetched is believed only by its digest, so the shared place is not trusted with anything.

use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use object_store::local::LocalFileSystem;
use object_store::path::Path as Place;
use object_store::{ObjectStore as _, ObjectStoreExt as _, PutMode, PutOptions};
use portolan_core::ids::Digest;
use tokio::time::timeout;

use crate::change::digest;
use crate::defaults::COMPONENT_TIMEOUT;
use crate::error::Away;

/// Both places.
#[derive(Clone, Debug)]
pub struct Components {
    own: PathBuf,
    shared: PathBuf,
}

/// Why a component is not here.
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    /// The place does not answer, or does not have it.
    #[error("fetch component {0}: {1}")]
    Away(String, String),
    /// The shared place gave other bytes.
    #[error("the shared place holds other bytes under the name of component {0}: push it again")]
    Other(String),
    /// It is larger than this node takes.
    #[error("component {0} has {1} bytes; this node takes {2}")]
    TooLarge(String, u64, usize),
    /// The node's own disk.
    #[error("keep component {0}: {1}")]
    Disk(String, io::Error),
}

impl Components {
    /// A folder that all nodes share, which may be away until it is needed, and a node's own, which is made.
    ///
    /// # Errors
    /// When the node's own cannot be used.
    pub fn open(shared: &Path, own: &Path) -> Result<Self, Away> {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(own);
        made.map_err(|error| Away(format!("use {}: {error}", own.display())))?;
        Ok(Self { own: own.to_owned(), shared: shared.to_owned() })
    }

    /// Puts a component into the shared place; one that is there already is left alone.
    ///
    /// # Errors
    /// When the place does not take it.
    pub async fn put(&self, bytes: Vec<u8>) -> Result<Digest, Away> {
        let digest = digest(&bytes);
        // Only the folder itself: what it stands in may be a disk that is not mounted, and nobody looks for an empty one there.
        match std::fs::DirBuilder::new().mode(0o700).create(&self.shared) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Away(format!("make {}: {error}", self.shared.display())));
            }
            _ => {}
        }
        let store = self.store().map_err(Away)?;
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let place = place(digest);
        let put = store.put_opts(&place, bytes.into(), options);
        match timeout(COMPONENT_TIMEOUT, put).await {
            Ok(Ok(_) | Err(object_store::Error::AlreadyExists { .. })) => Ok(digest),
            Ok(Err(error)) => Err(Away(format!("keep component {}: {error}", digest.short()))),
            Err(_) => Err(Away(format!("keep component {}: no answer in time", digest.short()))),
        }
    }

    /// The file of a component on this node.
    ///
    /// # Errors
    /// [`Missing`], when it is not here and cannot be fetched.
    pub async fn file(&self, digest: Digest, bytes_max: usize) -> Result<PathBuf, Missing> {
        let path = self.own.join(name(digest));
        if path.is_file() {
            return Ok(path);
        }
        let bytes = self.fetch(digest, bytes_max).await?;
        self.keep(&path, &bytes).map_err(|error| Missing::Disk(digest.short(), error))?;
        Ok(path)
    }

    async fn fetch(&self, wanted: Digest, bytes_max: usize) -> Result<Vec<u8>, Missing> {
        let away = |reason: &dyn std::fmt::Display| Missing::Away(wanted.short(), reason.to_string());
        let place = place(wanted);
        let fetched = async {
            let store = self.store().map_err(|error| away(&error))?;
            let size = store.head(&place).await.map_err(|error| away(&error))?.size;
            if size > bytes_max as u64 {
                return Err(Missing::TooLarge(wanted.short(), size, bytes_max));
            }
            let got = store.get(&place).await.map_err(|error| away(&error))?;
            got.bytes().await.map_err(|error| away(&error))
        };
        let bytes = timeout(COMPONENT_TIMEOUT, fetched).await.map_err(|_| away(&"no answer in time"))??;
        if digest(&bytes) == wanted { Ok(bytes.into()) } else { Err(Missing::Other(wanted.short())) }
    }

    fn store(&self) -> Result<LocalFileSystem, String> {
        let store = LocalFileSystem::new_with_prefix(&self.shared);
        let store = store.map_err(|error| format!("use {}: {error}", self.shared.display()))?;
        Ok(store.with_fsync(true))
    }

    fn keep(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let partial = path.with_extension(format!("partial-{}", std::process::id()));
        let mut file = std::fs::File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&partial, path)?;
        std::fs::File::open(&self.own)?.sync_all()
    }
}

fn name(digest: Digest) -> String {
    format!("{digest}.wasm")
}

fn place(digest: Digest) -> Place {
    Place::from(name(digest))
}
