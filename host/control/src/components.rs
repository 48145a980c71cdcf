//! Components by their digest: one place that all nodes share, and each node's own copy.
//!
//! A component is put into the shared place before any change names it, and fetched into a node's own before the node runs
//! what names it. What is fetched is believed only by its digest, so the shared place is not trusted with anything; and
//! whether it honours conditions on a write makes no difference, because two writers of one name write the same bytes.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Place;
use object_store::prefix::PrefixStore;
use object_store::{
    ClientOptions, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, RetryConfig,
};
use portolan_core::ids::Digest;
use portolan_foundation::clock;
use tokio::time::timeout;

use crate::change::digest;
use crate::defaults::{COMPONENT_RETRIES_MAX, COMPONENT_TIMEOUT, COMPONENTS_LISTED_MAX, SWEEP_AGE_MIN};
use crate::error::Away;

/// A place that all nodes share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shared {
    /// A folder, for the processes of one machine or a shared file system.
    Folder(PathBuf),
    /// A bucket.
    S3(Box<S3Config>),
}

/// A bucket of a store that speaks S3's protocol.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct S3Config {
    /// Who asks. Without, it is found as Amazon's tools find it: the environment, a web identity, the machine's role.
    pub access_key: Option<(String, String)>,
    /// The bucket's name.
    pub bucket: String,
    /// Where it is, for stores that are not Amazon's: `http://` or `https://`, host and port.
    pub endpoint: Option<String>,
    /// What all names in it begin with.
    pub prefix: Option<String>,
    /// The region to sign for.
    pub region: Option<String>,
    /// A session's token, with the key.
    pub session_token: Option<String>,
}

impl fmt::Debug for S3Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { access_key: _, bucket, endpoint, prefix, region, session_token: _ } = self;
        let mut shown = f.debug_struct("S3Config");
        shown.field("bucket", bucket).field("endpoint", endpoint).field("prefix", prefix);
        shown.field("region", region).finish_non_exhaustive()
    }
}

impl fmt::Display for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => write!(f, "{}", folder.display()),
            Self::S3(s3) => write!(f, "s3://{}/{}", s3.bucket, s3.prefix.as_deref().unwrap_or_default()),
        }
    }
}

/// Both places.
#[derive(Clone, Debug)]
pub struct Components {
    own: PathBuf,
    shared: Opened,
}

/// The shared place. A folder is opened each time, because its disk may come and go.
#[derive(Clone, Debug)]
enum Opened {
    Bucket(Arc<dyn ObjectStore>),
    Folder(PathBuf),
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

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Swept {
    /// Bytes of what was removed.
    pub bytes: u64,
    /// Components that stay.
    pub kept: u64,
    /// Components that were removed.
    pub removed: u64,
    /// Components that nothing names, and that are too young to be removed.
    pub young: u64,
}

/// Opens a bucket, without asking it for anything.
///
/// # Errors
/// When what is said of it makes no sense.
pub fn bucket(config: &S3Config) -> Result<Arc<dyn ObjectStore>, Away> {
    let retry = RetryConfig {
        max_retries: COMPONENT_RETRIES_MAX,
        retry_timeout: COMPONENT_TIMEOUT,
        ..RetryConfig::default()
    };
    // What is not said is found as Amazon's tools find it.
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(&config.bucket)
        .with_client_options(ClientOptions::new().with_timeout(COMPONENT_TIMEOUT))
        .with_retry(retry);
    if let Some(region) = &config.region {
        builder = builder.with_region(region);
    }
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_endpoint(endpoint).with_allow_http(endpoint.starts_with("http://"));
    }
    if let Some((id, secret)) = &config.access_key {
        builder = builder.with_access_key_id(id).with_secret_access_key(secret);
    }
    if let Some(token) = &config.session_token {
        builder = builder.with_token(token);
    }
    let store =
        builder.build().map_err(|error| Away(format!("use the bucket {}: {error}", config.bucket)))?;
    Ok(match &config.prefix {
        Some(prefix) => Arc::new(PrefixStore::new(store, prefix.as_str())),
        None => Arc::new(store),
    })
}

impl Components {
    /// A place that all nodes share, which may be away until it is needed, and a node's own folder, which is made.
    ///
    /// # Errors
    /// When the node's own cannot be used, or what is said of the other makes no sense.
    pub fn open(shared: &Shared, own: &Path) -> Result<Self, Away> {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(own);
        made.map_err(|error| Away(format!("use {}: {error}", own.display())))?;
        let shared = match shared {
            Shared::Folder(folder) => Opened::Folder(folder.clone()),
            Shared::S3(s3) => Opened::Bucket(bucket(s3)?),
        };
        Ok(Self { own: own.to_owned(), shared })
    }

    /// Puts a component into the shared place. One that is there already is left alone, unless it is not what its name says,
    /// or so old that a sweep may be about to remove it.
    ///
    /// # Errors
    /// When the place does not take it.
    pub async fn put(&self, bytes: Vec<u8>) -> Result<Digest, Away> {
        let (digest, place) = (digest(&bytes), place(digest(&bytes)));
        if let Opened::Folder(folder) = &self.shared {
            // Only the folder itself: what it stands in may be a disk that is not mounted, and nobody looks for an empty one there.
            match std::fs::DirBuilder::new().mode(0o700).create(folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(Away(format!("make {}: {error}", folder.display())));
                }
                _ => {}
            }
        }
        let store = self.store().map_err(Away)?;
        let bytes = object_store::PutPayload::from(bytes);
        let put = async {
            let with = |mode| PutOptions { mode, ..PutOptions::default() };
            match store.put_opts(&place, bytes.clone(), with(PutMode::Create)).await {
                Ok(_) => return Ok(()),
                Err(object_store::Error::AlreadyExists { .. }) => {
                    let there = store.head(&place).await?;
                    if is_young(&there, SWEEP_AGE_MIN / 2) && self.holds(digest, bytes.content_length()).await
                    {
                        return Ok(());
                    }
                }
                // Some stores know no conditions.
                Err(
                    object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. },
                ) => {}
                Err(error) => return Err(error),
            }
            store.put_opts(&place, bytes, with(PutMode::Overwrite)).await.map(drop)
        };
        match timeout(COMPONENT_TIMEOUT, put).await {
            Ok(Ok(())) => Ok(digest),
            Ok(Err(error)) => Err(Away(format!("keep component {}: {error}", digest.short()))),
            Err(_) => Err(Away(format!("keep component {}: no answer in time", digest.short()))),
        }
    }

    /// Does the shared place have the bytes of this name?
    pub async fn holds(&self, digest: Digest, bytes_max: usize) -> bool {
        self.fetch(digest, bytes_max).await.is_ok()
    }

    /// Is something of this name in the shared place?
    ///
    /// # Errors
    /// When the place does not answer.
    pub async fn is_there(&self, digest: Digest) -> Result<bool, Away> {
        let store = self.store().map_err(Away)?;
        match timeout(COMPONENT_TIMEOUT, store.head(&place(digest))).await {
            Ok(Ok(_)) => Ok(true),
            Ok(Err(object_store::Error::NotFound { .. })) => Ok(false),
            Ok(Err(error)) => Err(Away(format!("look for component {}: {error}", digest.short()))),
            Err(_) => Err(Away(format!("look for component {}: no answer in time", digest.short()))),
        }
    }

    /// Removes components that nothing names from the shared place, but for young ones: whoever pushes puts the bytes there
    /// first and names them then. `age_min` below half an hour is taken as half an hour by everybody who pushes, so that
    /// nothing that is about to be named is lost; only tests and their like go below.
    ///
    /// # Errors
    /// When the place does not answer. What was removed before stays so.
    pub async fn sweep(
        &self,
        named: &BTreeSet<Digest>,
        age_min: Duration,
        dry_run: bool,
    ) -> Result<Swept, Away> {
        let away = |error: object_store::Error| Away(format!("list components: {error}"));
        let mut swept = Swept::default();
        let store = self.store().map_err(Away)?;
        let mut listed = store.list(None);
        let mut gone = Vec::new();
        while let Some(meta) = listed.try_next().await.map_err(away)? {
            // What is no component is somebody else's.
            let Some(digest) = digest_of(&meta.location) else { continue };
            if named.contains(&digest) {
                swept.kept += 1;
            } else if is_young(&meta, age_min) || gone.len() >= COMPONENTS_LISTED_MAX {
                swept.young += 1;
            } else {
                swept.bytes += meta.size;
                gone.push(meta.location);
            }
        }
        for location in gone {
            swept.removed += 1;
            if !dry_run {
                store.delete(&location).await.map_err(away)?;
            }
        }
        Ok(swept)
    }

    /// Removes from this node's own folder what nothing names.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn sweep_own(&self, named: &BTreeSet<Digest>, age_min: Duration, dry_run: bool) -> io::Result<Swept> {
        let mut swept = Swept::default();
        for entry in std::fs::read_dir(&self.own)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let (Some(digest), Ok(meta)) = (digest_of(&Place::from(name)), entry.metadata()) else {
                continue;
            };
            let age = meta.modified().ok().and_then(|at| at.elapsed().ok()).unwrap_or_default();
            if named.contains(&digest) {
                swept.kept += 1;
            } else if age < age_min {
                swept.young += 1;
            } else if dry_run || std::fs::remove_file(entry.path()).is_ok() {
                swept.removed += 1;
                swept.bytes += meta.len();
            }
        }
        Ok(swept)
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
        let away = |reason: &dyn fmt::Display| Missing::Away(wanted.short(), reason.to_string());
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

    fn store(&self) -> Result<Arc<dyn ObjectStore>, String> {
        match &self.shared {
            Opened::Bucket(bucket) => Ok(Arc::clone(bucket)),
            Opened::Folder(folder) => {
                let store = LocalFileSystem::new_with_prefix(folder);
                let store = store.map_err(|error| format!("use {}: {error}", folder.display()))?;
                Ok(Arc::new(store.with_fsync(true)))
            }
        }
    }

    fn keep(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let number = portolan_foundation::random::u64();
        let partial = path.with_extension(format!("partial-{}-{number:x}", std::process::id()));
        let mut file = std::fs::File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&partial, path)?;
        std::fs::File::open(&self.own)?.sync_all()
    }
}

fn is_young(meta: &ObjectMeta, age_min: Duration) -> bool {
    let at_ms = u64::try_from(meta.last_modified.timestamp_millis()).unwrap_or(0);
    u128::from(clock::unix_ms().saturating_sub(at_ms)) < age_min.as_millis()
}

fn digest_of(place: &Place) -> Option<Digest> {
    place.filename()?.strip_suffix(".wasm")?.parse().ok()
}

fn name(digest: Digest) -> String {
    format!("{digest}.wasm")
}

fn place(digest: Digest) -> Place {
    Place::from(name(digest))
}
