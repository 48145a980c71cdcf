//! Segments on disk: written by one thread, bounded in bytes and age, the oldest removed first.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use portolan_core::time::Moment;
use portolan_foundation::clock;

use crate::defaults::{DISK_PAUSE, FLUSH_BYTES, FLUSH_EVERY};
use crate::entry::{Begin, Pen};

/// What segments' names end with.
pub(crate) const SUFFIX: &str = ".rec";

/// The writer's end of a folder of segments.
#[derive(Debug)]
pub(crate) struct Spill {
    file: Option<Open>,
    flushed: Moment,
    folder: PathBuf,
    node: String,
    pub(crate) pen: Pen,
    /// The disk failed: not before then.
    paused_until: Option<Moment>,
    pub(crate) failures: u64,
    pub(crate) last_failure: Option<String>,
    pub(crate) lost: u64,
}

#[derive(Debug)]
struct Open {
    bytes: u64,
    file: File,
}

/// Bounds on what is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) disk_bytes_max: u64,
    pub(crate) keep: Duration,
    pub(crate) segment_bytes_max: u64,
}

impl Spill {
    pub(crate) fn new(folder: PathBuf, node: String) -> Self {
        Self {
            file: None,
            flushed: clock::now(),
            folder,
            node,
            pen: Pen::default(),
            paused_until: None,
            failures: 0,
            last_failure: None,
            lost: 0,
        }
    }

    /// Is a segment open, so that entries may be added? Begins one where it can; `true` with one that is new.
    pub(crate) fn ready(&mut self, bounds: &Bounds) -> Option<bool> {
        if bounds.disk_bytes_max == 0 {
            self.close();
            return None;
        }
        if self.paused_until.is_some_and(|until| clock::now() < until) {
            self.lost += 1;
            return None;
        }
        let waiting = self.pen.out.len() as u64;
        let full = self.file.as_ref().is_some_and(|open| open.bytes + waiting >= bounds.segment_bytes_max);
        if full {
            self.flush();
            self.close();
        }
        if self.file.is_some() {
            return Some(false);
        }
        match self.begin(bounds) {
            Ok(()) => Some(true),
            Err(error) => {
                self.fail(&error);
                None
            }
        }
    }

    fn begin(&mut self, bounds: &Bounds) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        self.trim(bounds);
        let at_ms = clock::unix_ms();
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        // Two segments within one millisecond have another number.
        let file = (0..100).find_map(|number| {
            match options.open(self.folder.join(format!("{at_ms:013}-{number:02}{SUFFIX}"))) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => None,
                other => Some(other),
            }
        });
        let file = file.ok_or_else(|| io::Error::other("no free name for a segment"))??;
        self.pen.out.clear();
        let version = env!("CARGO_PKG_VERSION").into();
        self.pen.begin(&Begin { node: self.node.as_str().into(), at_ms, version });
        self.file = Some(Open { bytes: 0, file });
        Ok(())
    }

    /// Writes what waits, if it is much or has waited long.
    pub(crate) fn flush_if_due(&mut self) {
        let waited = clock::now().since(self.flushed) >= FLUSH_EVERY;
        if !self.pen.out.is_empty() && (waited || self.pen.out.len() >= FLUSH_BYTES) {
            self.flush();
        }
    }

    /// Writes what waits.
    pub(crate) fn flush(&mut self) {
        self.flushed = clock::now();
        let Some(open) = &mut self.file else { return self.pen.out.clear() };
        match open.file.write_all(&self.pen.out) {
            Ok(()) => {
                open.bytes += self.pen.out.len() as u64;
                self.pen.out.clear();
            }
            // What stands half-written is a torn end.
            Err(error) => self.fail(&error),
        }
    }

    pub(crate) fn close(&mut self) {
        self.file = None;
    }

    fn fail(&mut self, error: &io::Error) {
        self.failures += 1;
        self.pen.out.clear();
        self.close();
        self.paused_until = Some(clock::now().plus(DISK_PAUSE));
        let text = format!("write recordings to {}: {error}", self.folder.display());
        if self.last_failure.as_ref() != Some(&text) {
            tracing::warn!("{text}; decisions stay in memory only until it works again");
        }
        self.last_failure = Some(text);
    }

    /// Removes the oldest segments until the rest, and one more, fits.
    pub(crate) fn trim(&self, bounds: &Bounds) {
        let mut segments = segments(&self.folder);
        let oldest_ms =
            clock::unix_ms().saturating_sub(u64::try_from(bounds.keep.as_millis()).unwrap_or(u64::MAX));
        let mut sum: u64 = segments.iter().map(|segment| segment.bytes).sum();
        let room = bounds.disk_bytes_max.saturating_sub(bounds.segment_bytes_max.min(bounds.disk_bytes_max));
        segments.sort_by(|one, other| one.path.cmp(&other.path));
        // A segment's last entry is about as old as the next one's first.
        for pair in 0..segments.len() {
            let Some(segment) = segments.get(pair) else { return };
            let ended_ms = segments.get(pair + 1).map_or(u64::MAX, |next| next.begun_ms);
            if (sum > room || ended_ms < oldest_ms) && fs::remove_file(&segment.path).is_ok() {
                sum = sum.saturating_sub(segment.bytes);
            }
        }
    }
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) begun_ms: u64,
    pub(crate) bytes: u64,
    pub(crate) path: PathBuf,
}

/// The segments of a folder, the oldest first.
pub(crate) fn segments(folder: &Path) -> Vec<Segment> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut segments: Vec<Segment> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let begun_ms = name.strip_suffix(SUFFIX)?.split('-').next()?.parse().ok()?;
            Some(Segment { begun_ms, bytes: entry.metadata().ok()?.len(), path: entry.path() })
        })
        .collect();
    segments.sort_by(|one, other| one.path.cmp(&other.path));
    segments
}
