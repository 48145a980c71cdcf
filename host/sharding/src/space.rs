//! How full the place of a shard's database is. Writes end before the disk does: a database whose disk is full loses more than
//! the last write.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use portolan_changelog::{Engine, Store};

use crate::config::{Kept, Watermarks};

/// Who knows how full the file systems are.
pub trait Space: fmt::Debug + Send + Sync {
    /// How much of the file's file system is used, in percent.
    ///
    /// # Errors
    /// When the file system does not tell.
    fn used_percent(&self, file: &Path) -> std::io::Result<u8>;
}

/// The machine's own file systems.
#[derive(Clone, Copy, Debug)]
pub struct Disks;

impl Space for Disks {
    fn used_percent(&self, file: &Path) -> std::io::Result<u8> {
        let disk = rustix::fs::statvfs(file)?;
        // What is kept for the superuser is not to be had.
        let used = disk.f_blocks.saturating_sub(disk.f_bfree);
        Ok(percent(used, used.saturating_add(disk.f_bavail)))
    }
}

/// How full one shard's place is, as its keeper last saw it.
#[derive(Debug, Default)]
pub(crate) struct Fullness {
    full: AtomicBool,
    /// One more than the percents that are used; 0 when nobody knows.
    used: AtomicU8,
}

impl Fullness {
    /// Are writes refused?
    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    pub(crate) fn used_percent(&self) -> Option<u8> {
        self.used.load(Ordering::Relaxed).checked_sub(1)
    }

    /// Notes what was seen. Between the marks it stays as it was. Returns whether it has changed.
    pub(crate) fn note(&self, used: Option<u8>, marks: Watermarks) -> bool {
        self.used.store(used.map_or(0, |used| used.saturating_add(1)), Ordering::Relaxed);
        let before = self.is_full();
        let now = match used {
            Some(used) if used >= marks.high_percent => true,
            Some(used) if used <= marks.low_percent => false,
            Some(_) => before,
            None => false,
        };
        self.full.store(now, Ordering::Relaxed);
        now != before
    }
}

/// How much of a shard's place is used: of the disk for a file, of what its database may have where the operator says so.
///
/// # Errors
/// When the database or the file system does not tell.
pub(crate) async fn used(kept: &Kept, store: &Store, space: &dyn Space) -> Result<Option<u8>, String> {
    let disk = match &kept.engine {
        Engine::Sqlite(file) => Some(space.used_percent(file).map_err(|error| error.to_string())?),
        Engine::Postgres(_) => None,
    };
    let own = match kept.marks.max_bytes {
        Some(max) => {
            let size = store.size_bytes().await.map_err(|error| error.to_string())?;
            Some(percent(size, max.get()))
        }
        None => None,
    };
    Ok(disk.max(own))
}

fn percent(part: u64, whole: u64) -> u8 {
    let percent = u128::from(part) * 100 / u128::from(whole.max(1));
    u8::try_from(percent.min(254)).unwrap_or(u8::MAX)
}
