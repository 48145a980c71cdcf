//! The regions of the platform, in one order that all of them have, so that a place in it is a name.

use portolan_core::ids::{Digest, RegionName};
use sha2::{Digest as _, Sha256};

use crate::defaults::REGIONS_MAX;

/// A region's place in [`Members`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seat(u8);

/// The regions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    names: Vec<RegionName>,
    digest: Digest,
}

/// Why regions cannot watch over each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there are {0} regions, and at most {REGIONS_MAX} watch over each other: run two platforms")]
pub struct TooMany(pub usize);

impl Seat {
    /// Its number.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl Members {
    /// Regions in any order, each once or more.
    ///
    /// # Errors
    /// [`TooMany`].
    pub fn new(names: impl IntoIterator<Item = RegionName>) -> Result<Self, TooMany> {
        let mut names: Vec<RegionName> = names.into_iter().collect();
        names.sort();
        names.dedup();
        if names.len() > REGIONS_MAX {
            return Err(TooMany(names.len()));
        }
        let mut hash = Sha256::new();
        for name in &names {
            hash.update(name.as_str());
            hash.update([0]);
        }
        Ok(Self { names, digest: Digest(hash.finalize().into()) })
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// None?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Their names, in order.
    #[must_use]
    pub fn names(&self) -> &[RegionName] {
        &self.names
    }

    /// A region's place.
    #[must_use]
    pub fn seat(&self, name: &RegionName) -> Option<Seat> {
        let at = self.names.binary_search(name).ok()?;
        u8::try_from(at).ok().map(Seat)
    }

    /// All places.
    pub fn seats(&self) -> impl Iterator<Item = Seat> + use<> {
        (0..u8::try_from(self.names.len()).unwrap_or(u8::MAX)).map(Seat)
    }

    /// Who has a place.
    #[must_use]
    pub fn name(&self, seat: Seat) -> Option<&RegionName> {
        self.names.get(seat.index())
    }

    /// A number of the whole: two regions whose numbers differ mean different regions by one place.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut first = [0; 8];
        first.iter_mut().zip(self.digest.0).for_each(|(to, from)| *to = from);
        u64::from_be_bytes(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_name_for_all() {
        let name = |text: &str| RegionName::new(text).unwrap();
        let (one, other) = (
            Members::new(["us", "eu", "ap"].map(name)).unwrap(),
            Members::new(["ap", "us", "eu", "eu"].map(name)).unwrap(),
        );
        assert_eq!(one, other);
        assert_eq!(one.seat(&name("eu")).map(Seat::index), Some(1));
        assert_eq!(one.seat(&name("sa")), None);
        assert_ne!(one.digest(), Members::new(["us", "eu"].map(name)).unwrap().digest());
        let many = (0..=REGIONS_MAX).map(|number| name(&format!("r{number}")));
        assert_eq!(Members::new(many), Err(TooMany(REGIONS_MAX + 1)));
    }
}
