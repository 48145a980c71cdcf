//! What can go wrong, by what the caller will do.

/// Why something of content federation did not happen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A base is not here: ask for the content without one.
    #[error("the base {0} is not here: ask again with another base, or for all chunks")]
    BaseUnknown(String),
    /// Bytes that are not what their name says: ask another copy.
    #[error("{0} does not match its name: drop it and fetch it again, from another region if it stays so")]
    Corrupt(&'static str),
    /// The database of the tenant's shard.
    #[error(transparent)]
    Database(#[from] portolan_changelog::Error),
    /// A clock that is ahead.
    #[error(
        "a version comes from {ahead_ms} ms in the future: set the clock of the region that wrote it; it is taken \
         once that time has come"
    )]
    Drift {
        /// By how many milliseconds.
        ahead_ms: u64,
    },
    /// A folder of keys or packs cannot be used.
    #[error("use a folder of keys or packs: {0}; see to its owner, mode and space")]
    Keyring(#[source] std::io::Error),
    /// More than a limit.
    #[error("{what} may have {max}, and not more: send less at a time, or divide the content")]
    Limit {
        /// What is limited, with its unit.
        what: &'static str,
        /// The most that is allowed.
        max: u64,
    },
    /// Bytes that are not of the format: a peer's error, or an attack.
    #[error("{0} is not of this format: the peer must speak the same version; close the connection")]
    Malformed(&'static str),
    /// A key that was never given, or was taken back or destroyed.
    #[error("there is no key for this here: have the item shared with this region, or shared again")]
    NoKey,
    /// A recipe of another version.
    #[error("content cut by recipe {0} is unknown here: update this gateway before the one that sends")]
    Recipe(u8),
    /// What was rebuilt is not what was announced.
    #[error("what was rebuilt has another root than was announced: drop it, and ask for all chunks")]
    Root,
    /// A seal that does not hold.
    #[error(
        "{0} cannot be sealed or opened: the key is another one, or bytes were changed; fetch it from another region"
    )]
    Sealed(&'static str),
    /// The object store's error.
    #[error("the store of packs: {0}; it is asked again at the next round")]
    Store(#[from] object_store::Error),
    /// The compressor's error.
    #[error("compress or restore a frame: {0}; fetch it again")]
    Zstd(#[source] std::io::Error),
}

impl Error {
    pub(crate) const fn limit(what: &'static str, max: usize) -> Self {
        Self::Limit { what, max: max as u64 }
    }
}
