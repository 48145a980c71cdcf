//! Where addresses are on earth, as a node knows it: the table of the configuration's file, read again when the file is another. What
//! cannot be read leaves the table that was read last.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use portolan_core::geography::{Geography, Locate};
use portolan_foundation::geography::Table;
use serde::Serialize;

use crate::config::Config;

/// The table that is asked, and the file that it is of.
#[derive(Debug, Default)]
pub(crate) struct Atlas {
    problem: Option<String>,
    seen: Option<(PathBuf, Option<Stamp>)>,
    table: Option<(PathBuf, Arc<Table>)>,
}

/// What tells a file from what it was before: device, inode, size, and nanoseconds of its last change.
type Stamp = (u64, u64, u64, i64, i64);

/// How it stands with the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct TableStatus {
    /// When it was made, in seconds since 1970-01-01T00:00:00Z.
    pub(crate) built_s: u64,
    /// The file that it is of.
    pub(crate) file: String,
    /// What its maker calls it.
    pub(crate) kind: String,
}

impl Atlas {
    /// Reads the configuration's file if it is not the one that was read. This blocks.
    pub(crate) fn follow(&mut self, config: &Config) -> Option<Arc<Geography>> {
        let Some(path) = &config.geography else {
            *self = Self::default();
            return None;
        };
        let seen = Some((path.clone(), stamp(path)));
        if self.seen != seen {
            self.read(path);
            self.seen = seen;
        }
        let (_, table) = self.table.as_ref()?;
        let places = config.regions.iter().filter(|(_, region)| region.location.is_known());
        let places = places.map(|(name, region)| (name.clone(), region.location)).collect();
        Some(Arc::new(Geography::new(Arc::clone(table) as Arc<dyn Locate>, places)))
    }

    /// What is wrong with the file.
    pub(crate) fn problem(&self) -> Option<&String> {
        self.problem.as_ref()
    }

    /// What is asked.
    pub(crate) fn status(&self) -> Option<TableStatus> {
        let (file, table) = self.table.as_ref()?;
        let (built_s, kind) = (table.built_s(), table.kind().to_owned());
        Some(TableStatus { built_s, file: file.display().to_string(), kind })
    }

    fn read(&mut self, path: &Path) {
        match Table::read(path) {
            Ok(table) => {
                let (kind, built_s) = (table.kind(), table.built_s());
                tracing::info!(kind, built_s, "where addresses are is known from {}", path.display());
                self.table = Some((path.to_owned(), Arc::new(table)));
                self.problem = None;
            }
            Err(error) => {
                let what = format!("the table of where addresses are, {}: {error}", path.display());
                self.problem = Some(what);
            }
        }
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let file = std::fs::metadata(path).ok()?;
    Some((file.dev(), file.ino(), file.size(), file.mtime(), file.mtime_nsec()))
}
