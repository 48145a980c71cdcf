//! What can go wrong, by what the caller will do.

use std::io;
use std::path::PathBuf;

/// Why recordings cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file that is none of ours.
    #[error("{} is no recording: it does not begin as one; `portolan recordings export` writes them", .0.display())]
    NoRecording(PathBuf),
    /// No thread.
    #[error("start a thread for recordings: {0}")]
    Thread(io::Error),
}
