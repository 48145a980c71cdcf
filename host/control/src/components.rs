//! Components by their digest: one place that all nodes share, and each node's own copy.
//!
//! A component is put into the shared place before any change names it, and fetched into a node's own before the node runs
//! what names it. What is fetched is believed only by its digest, so the shared place is not trusted with anything.

use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::local::LocalFileSystem;
use object_store::path::Path as Place;
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, PutOptions};
use portolan_core::ids::Digest;
use tokio::time::timeout;

use crate::change::digest;
use crate::defaults::COMPONENT_TIMEOUT;
use crate::error::Away;

/// Both places.
#[derive(Clone, Debug)]
pub struct Components {
    own: PathBuf,
    shared: Arc<dyn ObjectStore>,
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
    /// Opens a folder that all nodes share, and a node's own.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub fn open(shared: &Path, own: &Path) -> Result<Self, Away> {
        for folder in [shared, own] {
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
            made.map_err(|error| Away(format!("use {}: {error}", folder.display())))?;
        }
        let store = LocalFileSystem::new_with_prefix(shared)
            .map_err(|error| Away(format!("use {}: {error}", shared.display())))?;
        Ok(Self { own: own.to_owned(), shared: Arc::new(store.with_fsync(true)) })
    }

    /// Puts a component into the shared place; one that is there already is left alone.
    ///
    /// # Errors
    /// When the place does not take it.
    pub async fn put(&self, bytes: Vec<u8>) -> Result<Digest, Away> {
        let digest = digest(&bytes);
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let place = place(digest);
        let put = self.shared.put_opts(&place, bytes.into(), options);
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
            let size = self.shared.head(&place).await.map_err(|error| away(&error))?.size;
            if size > bytes_max as u64 {
                return Err(Missing::TooLarge(wanted.short(), size, bytes_max));
            }
            let got = self.shared.get(&place).await.map_err(|error| away(&error))?;
            got.bytes().await.map_err(|error| away(&error))
        };
        let bytes = timeout(COMPONENT_TIMEOUT, fetched).await.map_err(|_| away(&"no answer in time"))??;
        if digest(&bytes) == wanted { Ok(bytes.into()) } else { Err(Missing::Other(wanted.short())) }
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
