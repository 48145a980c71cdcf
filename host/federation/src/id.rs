//! Names of items, and names of bytes that nobody can make for other bytes.
//!
//! Names of bytes are keyed BLAKE3 hashes (the BLAKE3 paper, section 2.3): without a tenant's key nobody can try which content has a
//! name, and two tenants' equal contents have different ones. Each kind of thing has a key of its own, so that no chunk
//! can pass for a node.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! hash_name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub [u8; 32]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = crate::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                read_hex(text).map(Self)
            }
        }
    };
}

/// The bytes that lower-case hexadecimal digits say: what [`fmt::Display`] writes, and nothing else.
fn read_hex<const BYTES: usize>(text: &str) -> Result<[u8; BYTES], crate::Error> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; BYTES];
    let pairs = text.as_bytes().chunks(2);
    if text.len() != 2 * BYTES {
        return Err(crate::Error::Malformed("a name of bytes"));
    }
    for (byte, pair) in bytes.iter_mut().zip(pairs) {
        let [high, low] = pair else { return Err(crate::Error::Malformed("a name of bytes")) };
        let both = digit(*high).zip(digit(*low)).ok_or(crate::Error::Malformed("a name of bytes"))?;
        *byte = both.0 << 4 | both.1;
    }
    Ok(bytes)
}

hash_name! {
    /// A chunk's name: of its bytes, before they are compressed or sealed.
    ChunkId
}
hash_name! {
    /// A node's name: of the list of entries in it.
    NodeId
}
hash_name! {
    /// The name of one content, whole: its recipe, its length and all its bytes.
    Root
}
hash_name! {
    /// A pack's name: of its sealed bytes. It is no keyed hash: whoever has the object can make it.
    PackId
}
hash_name! {
    /// A version's name: of its whole record.
    VersionId
}

/// An item: a piece of content through all its versions. Random, drawn once by the region that creates it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ItemId(pub [u8; 16]);

impl fmt::Display for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::str::FromStr for ItemId {
    type Err = crate::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        read_hex(text).map(Self)
    }
}

impl fmt::Debug for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A tenant's secret for names and cuts, the same in all its regions. Whoever has it can try contents against names.
#[derive(Clone)]
pub struct Namer {
    chunk: [u8; 32],
    cut: [u8; 32],
    node: [u8; 32],
    root: [u8; 32],
    version: [u8; 32],
}

impl fmt::Debug for Namer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Namer")
    }
}

impl Namer {
    /// The namer of a tenant's 32 secret bytes.
    #[must_use]
    pub fn new(secret: &[u8; 32]) -> Self {
        let key = |purpose: &str| blake3::derive_key(purpose, secret);
        Self {
            chunk: key("portolan content 2026-11 chunk"),
            cut: key("portolan content 2026-11 cut"),
            node: key("portolan content 2026-11 node"),
            root: key("portolan content 2026-11 root"),
            version: key("portolan content 2026-11 version"),
        }
    }

    /// The name of a chunk of these bytes.
    #[must_use]
    pub fn chunk(&self, bytes: &[u8]) -> ChunkId {
        ChunkId(*blake3::keyed_hash(&self.chunk, bytes).as_bytes())
    }

    /// The name of a version of this record.
    #[must_use]
    pub fn version(&self, record: &[u8]) -> VersionId {
        VersionId(*blake3::keyed_hash(&self.version, record).as_bytes())
    }

    pub(crate) fn node(&self, bytes: &[u8]) -> NodeId {
        NodeId(*blake3::keyed_hash(&self.node, bytes).as_bytes())
    }

    pub(crate) fn root(&self, bytes: &[u8]) -> Root {
        Root(*blake3::keyed_hash(&self.root, bytes).as_bytes())
    }

    /// 256 numbers of 64 bits for the cutter, which nobody without the secret can foresee.
    pub(crate) fn gear(&self) -> [u64; 256] {
        let mut bytes = [0; 8];
        let mut stream = blake3::Hasher::new_keyed(&self.cut).finalize_xof();
        std::array::from_fn(|_| {
            stream.fill(&mut bytes);
            u64::from_le_bytes(bytes)
        })
    }
}
