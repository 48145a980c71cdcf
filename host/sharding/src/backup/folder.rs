//! A backup's folder: as it is written, and as it is read again.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};

use portolan_core::ids::Digest;
use sha2::{Digest as _, Sha256};

use super::sheet::{self, at};
use super::{Error, FORMAT, FileSum, Lines, MANIFEST, Manifest, Sheet};
use crate::defaults::MANIFEST_BYTES_MAX;

/// A folder that is being written. It is a backup once [`Self::finish`] has written its manifest.
#[derive(Debug)]
pub struct Folder {
    files: BTreeMap<String, FileSum>,
    root: PathBuf,
}

/// A backup that is there.
#[derive(Clone, Debug)]
pub struct Opened {
    manifest: Manifest,
    root: PathBuf,
}

impl Folder {
    /// A new folder, which only its owner enters.
    ///
    /// # Errors
    /// When something is there already.
    pub fn create(root: &Path) -> Result<Self, Error> {
        let there = fs::read_dir(root).is_ok_and(|mut entries| entries.next().is_some());
        if there {
            let why = "is not empty: name a folder that is not there yet".to_owned();
            return Err(Error::Bad { place: root.display().to_string(), why });
        }
        make(root)?;
        Ok(Self { files: BTreeMap::new(), root: root.to_owned() })
    }

    /// Begins a file of lines.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn sheet(&self, name: &str) -> Result<Sheet, Error> {
        Sheet::create(&self.place(name)?)
    }

    /// A file of lines is whole.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn close(&mut self, name: &str, sheet: Sheet) -> Result<FileSum, Error> {
        let sum = sheet.finish()?;
        self.files.insert(name.to_owned(), sum);
        Ok(sum)
    }

    /// Adds a file as it is.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn add(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let place = self.place(name)?;
        write(&place, bytes)?;
        let sum =
            FileSum { bytes: bytes.len() as u64, lines: 0, sha256: Digest(Sha256::digest(bytes).into()) };
        self.files.insert(name.to_owned(), sum);
        Ok(())
    }

    /// Says what is in it: from here on it is a backup. Returns the digest of the manifest, which stands for all of it.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn finish(self, manifest: Manifest) -> Result<Digest, Error> {
        let manifest = Manifest { files: self.files, format: FORMAT, ..manifest };
        let place = self.root.join(MANIFEST);
        let text = serde_json::to_vec_pretty(&manifest).map_err(|error| at(&place, error.into()))?;
        write(&place, &text)?;
        Ok(Digest(Sha256::digest(&text).into()))
    }

    fn place(&self, name: &str) -> Result<PathBuf, Error> {
        let place = self.root.join(name);
        place.parent().map_or(Ok(()), make)?;
        Ok(place)
    }
}

impl Opened {
    /// Opens a backup and reads what it says of itself.
    ///
    /// # Errors
    /// When it is none, or a later portolan made it.
    pub fn open(root: &Path) -> Result<Self, Error> {
        let place = root.join(MANIFEST);
        let bad = |why: String| Error::Bad { place: place.display().to_string(), why };
        let long = fs::metadata(&place).map_err(|source| at(&place, source))?.len();
        if long > MANIFEST_BYTES_MAX {
            return Err(bad(format!("has more than {MANIFEST_BYTES_MAX} bytes")));
        }
        let text = fs::read(&place).map_err(|source| at(&place, source))?;
        let said: serde_json::Value =
            serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
        let format = said.get("format").and_then(serde_json::Value::as_u64);
        if format != Some(u64::from(FORMAT)) {
            let format = format.unwrap_or_default();
            return Err(bad(format!(
                "is of form {format}, and this portolan reads form {FORMAT}: use the one that made it"
            )));
        }
        let manifest: Manifest = serde_json::from_value(said).map_err(|error| bad(error.to_string()))?;
        // Names are joined to the folder: none leads out of it.
        let plain =
            |name: &String| Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
        if let Some(odd) = manifest.files.keys().find(|name| !plain(name)) {
            return Err(bad(format!("names the file `{odd}`, which is none of the folder's")));
        }
        Ok(Self { manifest, root: root.to_owned() })
    }

    /// What it says of itself.
    #[must_use]
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Where a file of it lies.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The lines of a file; none when the backup has no such file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn lines(&self, name: &str) -> Result<Option<Lines>, Error> {
        if !self.manifest.files.contains_key(name) {
            return Ok(None);
        }
        Lines::open(&self.path(name)).map(Some)
    }

    /// Holds every file against its digest.
    ///
    /// # Errors
    /// The first that is not as it was written.
    pub fn check_files(&self) -> Result<(), Error> {
        for (name, wanted) in &self.manifest.files {
            let place = self.path(name);
            let (bytes, sha256) = sheet::sum(&place)?;
            if (bytes, sha256) != (wanted.bytes, wanted.sha256) {
                let why = format!(
                    "has {bytes} bytes with SHA-256 {sha256}, not {} with {}: take another copy of the backup",
                    wanted.bytes, wanted.sha256
                );
                return Err(Error::Bad { place: place.display().to_string(), why });
            }
        }
        Ok(())
    }
}

fn make(folder: &Path) -> Result<(), Error> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|source| at(folder, source))
}

fn write(place: &Path, bytes: &[u8]) -> Result<(), Error> {
    let file = fs::File::options().write(true).create_new(true).mode(0o600).open(place);
    let written = file.and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    written.map_err(|source| at(place, source))
}
