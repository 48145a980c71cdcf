//! What can go wrong with the server, by what the caller does about it.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::plan::Invalid;
use crate::sign::KeyError;

/// Why a server does not open, or does not take a plan.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder of plans cannot be used.
    #[error("the folder of DNS plans {}: {}", .0.display(), .1)]
    Disk(PathBuf, #[source] io::Error),
    /// The plan is wrong.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// It cannot be signed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// An address cannot be bound.
    #[error("answer DNS on {0}: {1}")]
    Listen(SocketAddr, #[source] io::Error),
    /// An older plan: somebody has published a newer one.
    #[error(
        "the DNS plan {stale} is older than {present}, which is answered from: read the newest plan and decide again"
    )]
    Stale {
        /// What is answered from.
        present: u64,
        /// What came.
        stale: u64,
    },
    /// A task did not end as it should.
    #[error("a task of the DNS server failed, please report it: {0}")]
    Task(String),
    /// Two plans have one number.
    #[error(
        "another DNS plan has the number {0} already: numbers are minted once; mint another, and find out who used this one"
    )]
    Twice(u64),
}
