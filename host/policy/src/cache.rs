//! Compiled code on disk. An entry is only ever a shortcut: one that is missing, damaged or not ours is made again, and
//! a disk that is full or read-only costs the shortcut and nothing else.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use portolan_foundation::seal::{self, Keeper};

use crate::artefact::{Artefact, Key, MAC_BYTES};

const KEY_FILE: &str = "key";
const SUFFIX: &str = ".artefact";
/// Files of writers that died are removed after this time.
const LEFTOVER_AGE: Duration = Duration::from_secs(3_600);

/// A folder of entries and the key that authenticates them.
#[derive(Debug)]
pub(crate) struct Cache {
    dir: PathBuf,
    key: Key,
    bytes_max: u64,
    artefact_bytes_max: usize,
}

/// What looking for an entry gave.
#[derive(Debug)]
pub(crate) enum Found {
    /// Ours.
    Hit(Artefact),
    /// Nothing.
    Miss,
    /// Something that is not ours, or not whole.
    Reject,
}

impl Cache {
    /// Opens or makes the folder, for this user alone.
    ///
    /// # Errors
    /// When it belongs to others, others may write into it, or the disk fails; the text says which.
    pub(crate) fn open(dir: &Path, bytes_max: u64, artefact_bytes_max: usize) -> Result<Self, String> {
        let failed = |what: &str, error: io::Error| format!("{what} {}: {error}", dir.display());
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|error| failed("make the compile cache", error))?;
        let meta = fs::metadata(dir).map_err(|error| failed("look at the compile cache", error))?;
        check_owner(dir, &meta)?;
        if meta.mode() & 0o077 != 0 {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
                .map_err(|error| failed("keep others out of the compile cache", error))?;
        }
        // The first node that comes makes it.
        let key = seal::secret(&dir.join(KEY_FILE), Keeper::Own)
            .map_err(|error| failed("read or make the key of the compile cache", error))?;
        let key = Key::new(key);
        Ok(Self { dir: dir.to_owned(), key, bytes_max, artefact_bytes_max })
    }

    /// Looks for an entry.
    pub(crate) fn find(&self, name: &str) -> Found {
        let path = self.path(name);
        let entry = match read(&path, self.artefact_bytes_max + MAC_BYTES) {
            Ok(entry) => entry,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Found::Miss,
            Err(error) => {
                tracing::debug!(path = %path.display(), "read a compiled policy: {error}");
                return Found::Reject;
            }
        };
        Artefact::unseal(&self.key, name, entry).map_or(Found::Reject, Found::Hit)
    }

    /// Writes an entry, or replaces it. A failure is told and otherwise ignored.
    pub(crate) fn keep(&self, name: &str, artefact: &Artefact) -> Result<(), String> {
        let path = self.path(name);
        let number = portolan_foundation::random::u64();
        let partial = self.dir.join(format!("{}-{number:x}.partial", std::process::id()));
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
            file.write_all(&artefact.seal(&self.key, name)?)?;
            file.write_all(&artefact.bytes()?)?;
            file.sync_all()?;
            fs::rename(&partial, &path)?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(|error| {
            // What cannot be removed now is removed by a later call of `trim`.
            drop(fs::remove_file(&partial));
            format!("keep a compiled policy in {}: {error}", self.dir.display())
        })?;
        self.trim(&path);
        Ok(())
    }

    /// Removes the oldest entries until the rest fits, and what dead writers left; never the entry just written.
    fn trim(&self, newest: &Path) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        let mut kept = Vec::new();
        let mut sum = 0_u64;
        for entry in entries.flatten() {
            let (path, Ok(meta)) = (entry.path(), entry.metadata()) else { continue };
            let age = meta.modified().ok().and_then(|at| at.elapsed().ok()).unwrap_or_default();
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.ends_with(".partial") && age > LEFTOVER_AGE {
                drop(fs::remove_file(&path));
            } else if name.ends_with(SUFFIX) {
                sum = sum.saturating_add(meta.len());
                kept.push((age, meta.len(), path));
            }
        }
        kept.sort_by_key(|(age, ..)| std::cmp::Reverse(*age));
        for (_, bytes, path) in kept {
            if sum <= self.bytes_max {
                break;
            }
            if path != newest && fs::remove_file(&path).is_ok() {
                sum = sum.saturating_sub(bytes);
            }
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}{SUFFIX}"))
    }
}

fn check_owner(path: &Path, meta: &fs::Metadata) -> Result<(), String> {
    let user = rustix::process::geteuid().as_raw();
    if meta.uid() == user {
        return Ok(());
    }
    Err(format!(
        "{} belongs to user {}, portolan runs as {user}: give it a folder of its own",
        path.display(),
        meta.uid()
    ))
}

/// Reads a file that must be a plain one and not larger than it may be.
fn read(path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).unwrap_or(0);
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() || meta.len() > bytes_max as u64 {
        return Err(io::Error::other("not a plain file of a sensible size"));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(meta.len()).unwrap_or(0));
    file.take(bytes_max as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}
