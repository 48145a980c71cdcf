//! Names and numbers that identify things. Each is its own type, so that none is taken for another.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest name accepted anywhere, in bytes. DNS labels stop at 63 octets (RFC 1035, section 2.3.4); names of
/// regions, pools and tenants appear in host names, certificates and metrics, so they stop there too.
pub const NAME_BYTES_MAX: usize = 63;

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// A character outside `a-z`, `0-9`, `-`, `_` and `.`, or a first or last character that is not a letter or digit.
    #[error(
        "`{0}` is not a name: use lower-case letters, digits, `-`, `_` and `.`, with a letter or digit at both ends"
    )]
    Character(String),
    /// Nothing at all.
    #[error("a name cannot be empty")]
    Empty,
    /// More than [`NAME_BYTES_MAX`] bytes.
    #[error("a name has at most {NAME_BYTES_MAX} bytes, this one has {0}")]
    Long(usize),
}

/// Checks the rule that all names share: 1 to [`NAME_BYTES_MAX`] bytes of `a-z`, `0-9`, `-`, `_`, `.`, with a letter
/// or digit at both ends.
///
/// # Errors
/// [`NameError`] says which part of the rule is broken.
pub fn check_name(text: &str) -> Result<(), NameError> {
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return Err(NameError::Empty);
    };
    if bytes.len() > NAME_BYTES_MAX {
        return Err(NameError::Long(bytes.len()));
    }
    let edge = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let inner = |b: &u8| edge(b) || matches!(b, b'-' | b'_' | b'.');
    if edge(first) && edge(last) && bytes.iter().all(inner) {
        Ok(())
    } else {
        Err(NameError::Character(text.to_owned()))
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes a text as a name.
            ///
            /// # Errors
            /// [`NameError`] when the text breaks the rule of [`check_name`].
            pub fn new(text: &str) -> Result<Self, NameError> {
                check_name(text)?;
                Ok(Self(text.into()))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }
    };
}

name! {
    /// A region: a place with its own gateways, upstreams and, later, data. Example: `eu-west`.
    RegionName
}
name! {
    /// A pool: the upstream endpoints of one application in one region. Example: `app`.
    PoolName
}
name! {
    /// A shard: a database with its replicas, where tenants' rows live. Example: `eu-1`.
    ShardName
}
name! {
    /// A tenant of the platform. Example: `acme`.
    TenantName
}
name! {
    /// A residency class: a set of regions that tenants' requests and data may not leave. Example: `eu`.
    ResidencyName
}
name! {
    /// A policy: the role that a plugin plays in a slot, under the name the operator gave it. Example: `nearest-region`.
    PolicyName
}

/// The number of a tenant: a UUID of version 7 (RFC 9562, section 5.7). Its first 48 bits are the time at which it was drawn,
/// in milliseconds since 1970, so that numbers sort by age. It says nothing of the tenant, and is never given to another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(u128);

impl TenantId {
    /// A number of a moment in milliseconds since 1970, and of random bits, of which 74 are used.
    #[must_use]
    pub const fn new(at_ms: u64, random: u128) -> Self {
        const RANDOM: u128 = 0xfff_3fff_ffff_ffff_ffff;
        let time = (at_ms as u128 & 0xffff_ffff_ffff) << 80;
        Self(time | 0x7 << 76 | 0b10 << 62 | (random & RANDOM))
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |shift: u32, bits: u32| (self.0 >> shift) & ((1 << bits) - 1);
        let (time, low, version) = (part(96, 32), part(80, 16), part(64, 16));
        write!(f, "{time:08x}-{low:04x}-{version:04x}-{:04x}-{:012x}", part(48, 16), part(0, 48))
    }
}

impl fmt::Debug for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for TenantId {
    type Err = NotATenantId;

    fn from_str(text: &str) -> Result<Self, NotATenantId> {
        let digits: String = text.chars().filter(|character| *character != '-').collect();
        let read = Self(u128::from_str_radix(&digits, 16).map_err(|_| NotATenantId)?);
        let is_ours = read.0 >> 76 & 0xf == 7 && read.0 >> 62 & 0b11 == 0b10;
        // Written again, it must be the same: one number has one text.
        if is_ours && read.to_string() == text { Ok(read) } else { Err(NotATenantId) }
    }
}

/// A text that is no number of a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no UUID of version 7 in lower case, such as `019ac1d3-2a40-7c3e-9d6b-0b6a2f1f4e55`")]
pub struct NotATenantId;

/// The number of a snapshot on one node: 1 for the first, then one more for each swap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The SHA-256 of a component's bytes: the name of an immutable policy version.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The first twelve hexadecimal digits, enough for people to tell versions apart.
    #[must_use]
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(12);
        text
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::str::FromStr for Digest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(NotADigest);
        }
        for (at, byte) in bytes.iter_mut().enumerate() {
            let digits = text.get(at * 2..at * 2 + 2).ok_or(NotADigest)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| NotADigest)?;
        }
        Ok(Self(bytes))
    }
}

/// A text that is no SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotADigest;

impl fmt::Display for NotADigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a SHA-256 has 64 hexadecimal digits")
    }
}

impl std::error::Error for NotADigest {}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_rule() {
        for good in ["a", "eu-west", "tenant_7", "a.b", &"x".repeat(63)] {
            assert_eq!(RegionName::new(good).map(|name| name.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", "-a", "a-", "A", "a b", "é", "a/b", &"x".repeat(64)] {
            assert!(RegionName::new(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_tenants_number_is_a_uuid_that_sorts_by_age() {
        let ids =
            [(0, 0), (1, u128::MAX), (0xffff_ffff_ffff, 5)].map(|(at, random)| TenantId::new(at, random));
        assert!(ids.is_sorted());
        assert_eq!(ids[1].to_string(), "00000000-0001-7fff-bfff-ffffffffffff");
        for id in ids {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        for bad in ["", "00000000-0001-4fff-bfff-ffffffffffff", "000000000001-7fff-bfff-ffffffffffff", "é"] {
            assert_eq!(bad.parse::<TenantId>(), Err(NotATenantId), "{bad}");
        }
    }

    #[test]
    fn a_digest_prints_and_reads_as_hexadecimal() {
        let digest = Digest([0xab; 32]);
        assert_eq!(digest.to_string(), "ab".repeat(32));
        assert_eq!(digest.short(), "abababababab");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        for bad in ["", "ab", &"ag".repeat(32), &"é".repeat(32)] {
            assert_eq!(bad.parse::<Digest>(), Err(NotADigest));
        }
    }
}
