//! Names of DNS as they are on the wire, in lower case. What is looked up and what is written are the same bytes.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

/// Bytes of a name with the lengths of its labels (RFC 1035, section 2.3.4).
pub const BYTES_MAX: usize = 255;
/// Bytes of a label.
const LABEL_BYTES_MAX: usize = 63;
/// Labels of a name: each has at least two bytes.
const LABELS_MAX: usize = 128;

/// Why a text is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a DNS name: write labels of 1 to 63 letters, digits, `-` and `_`, joined by dots, at most 253 characters"
)]
pub struct NotAName(String);

/// A name on the wire: labels with their lengths, in lower case, and the root's empty one.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Box<[u8]>);

impl Name {
    /// Takes a text as a name. A dot at the end changes nothing.
    ///
    /// # Errors
    /// [`NotAName`].
    pub fn new(text: &str) -> Result<Self, NotAName> {
        let wrong = || NotAName(text.to_owned());
        let mut wire = Vec::with_capacity(text.len() + 2);
        let inner = text.strip_suffix('.').unwrap_or(text);
        if inner.is_empty() {
            return Err(wrong());
        }
        for label in inner.split('.') {
            let good = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
            let length = u8::try_from(label.len())
                .ok()
                .filter(|len| (1..=LABEL_BYTES_MAX).contains(&usize::from(*len)));
            let (true, Some(length)) = (good, length) else { return Err(wrong()) };
            wire.push(length);
            wire.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
        }
        wire.push(0);
        if wire.len() > BYTES_MAX {
            return Err(wrong());
        }
        Ok(Self(wire.into()))
    }

    /// Its bytes on the wire, uncompressed.
    #[must_use]
    pub const fn wire(&self) -> &[u8] {
        &self.0
    }

    /// The name with one more label before it.
    ///
    /// # Errors
    /// [`NotAName`] when it would be too long.
    pub fn under(&self, label: &str) -> Result<Self, NotAName> {
        Self::new(&format!("{label}.{self}"))
    }

    /// Is it this name, or one below it?
    #[must_use]
    pub fn covers(&self, name: &Self) -> bool {
        suffixes(name.wire()).any(|suffix| suffix == self.wire())
    }

    /// How many labels it has, without the root's.
    #[must_use]
    pub fn labels(&self) -> u8 {
        u8::try_from(suffixes(self.wire()).count().saturating_sub(1)).unwrap_or(u8::MAX)
    }

    /// The name without its first label; none of the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        suffixes(self.wire()).nth(1).map(|suffix| Self(suffix.into()))
    }

    /// The name of the wildcard below this one.
    #[must_use]
    pub(crate) fn wildcard(parent: &[u8]) -> SmallVec<[u8; 64]> {
        let mut wire: SmallVec<[u8; 64]> = SmallVec::from_slice(b"\x01*");
        wire.extend_from_slice(parent);
        wire
    }
}

/// A name on the wire, then what remains of it without its first label, and so on down to the root.
pub(crate) fn suffixes(wire: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(wire);
    std::iter::from_fn(move || {
        let now = rest?;
        let length = usize::from(*now.first()?);
        rest = if length == 0 { None } else { now.get(length + 1..) };
        Some(now)
    })
}

fn labels(wire: &[u8]) -> SmallVec<[&[u8]; 16]> {
    let label = |suffix| {
        let (length, rest): (&u8, &[u8]) = <[u8]>::split_first(suffix)?;
        rest.get(..usize::from(*length)).filter(|label| !label.is_empty())
    };
    suffixes(wire).take(LABELS_MAX).filter_map(label).collect()
}

/// The order of names in a zone (RFC 4034, section 6.1): by their labels from the last to the first.
pub(crate) fn canonical(one: &[u8], other: &[u8]) -> Ordering {
    labels(one).iter().rev().cmp(labels(other).iter().rev())
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        canonical(&self.0, &other.0)
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for label in labels(&self.0) {
            write!(f, "{}.", label.escape_ascii())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Name {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        Self::new(text)
    }
}

impl TryFrom<String> for Name {
    type Error = NotAName;

    fn try_from(text: String) -> Result<Self, NotAName> {
        Self::new(&text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_whatever_its_case_and_last_dot() {
        let name = Name::new("App.Example").unwrap();
        assert_eq!(name, Name::new("app.example.").unwrap());
        assert_eq!(name.to_string(), "app.example.");
        assert_eq!(name.wire(), b"\x03app\x07example\0");
        assert_eq!(name.labels(), 2);
        for bad in ["", ".", "a..b", "-é", "a b", &"x".repeat(64), &"x.".repeat(130)] {
            assert!(Name::new(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_zone_covers_what_is_below_it() {
        let name = |text| Name::new(text).unwrap();
        assert!(name("example").covers(&name("a.b.example")));
        assert!(name("example").covers(&name("example")));
        assert!(!name("example").covers(&name("anexample")));
        assert!(!name("a.example").covers(&name("example")));
        assert_eq!(name("a.b.c").parent(), Some(name("b.c")));
    }

    #[test]
    fn names_are_in_the_order_of_the_standard() {
        let sorted =
            ["example", "a.example", "yljkjljk.a.example", "z.a.example", "zabc.a.example", "z.example"];
        let names: Vec<Name> = sorted.iter().map(|name| Name::new(name).unwrap()).collect();
        assert!(names.is_sorted());
    }
}
