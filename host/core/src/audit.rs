//! Comparing what two databases hold without moving their rows: sums of rows' digests by buckets of keys, then the rows of
//! those buckets that differ.
//!
//! Owns what is compared and what a difference is called. A sum does not depend on the order of its rows, so that it is taken in pieces,
//! while others write. Tombstones are summed apart: each side forgets them in its own time, and one that is missing is no difference.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::Hasher as _;
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};
use siphasher::sip128::{Hasher128 as _, SipHasher24};

use crate::log::{Placement, Version};

/// How rows are written as text. Texts of two forms are never equal, whatever the rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// As PostgreSQL does.
    Postgres,
    /// As SQLite does.
    Sqlite,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Postgres => "PostgreSQL",
            Self::Sqlite => "SQLite",
        })
    }
}

/// A digest of a row, or the sum of several; 32 hexadecimal digits as text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Digest(pub u128);

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        format!("{:032x}", digest.0)
    }
}

impl TryFrom<String> for Digest {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        u128::from_str_radix(&text, 16).map(Self)
    }
}

/// A row, or a tombstone, as it is compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowDigest {
    /// Its key in canonical form.
    pub key: String,
    /// The tenant's placement when it was written.
    pub placement: Placement,
    /// Its version.
    pub version: Version,
    /// Is it a tombstone?
    pub deleted: bool,
    /// Of all that and of the row's text.
    pub digest: Digest,
}

impl RowDigest {
    /// A row with its text in canonical form; a row without one is a tombstone, or has been lost beside its version.
    #[must_use]
    pub fn new(
        key: String,
        placement: Placement,
        version: Version,
        deleted: bool,
        row: Option<&str>,
    ) -> Self {
        // Its key keeps buckets of other uses apart, and hides nothing.
        let mut hasher = SipHasher24::new_with_keys(0x706f_7274_6f6c_616e, 0x6175_6469_7400_0001);
        let mut text = |text: &str| {
            hasher.write_u64(text.len() as u64);
            hasher.write(text.as_bytes());
        };
        text(&key);
        text(version.origin.as_str());
        text(row.unwrap_or_default());
        for number in [placement.0, version.epoch.0, version.v, u64::from(deleted), u64::from(row.is_some())]
        {
            hasher.write_u64(number);
        }
        let hash = hasher.finish128();
        let digest = Digest(u128::from(hash.h1) << 64 | u128::from(hash.h2));
        Self { key, placement, version, deleted, digest }
    }
}

/// In which bucket a key is.
#[must_use]
pub fn bucket_of(key: &str, buckets: NonZeroU32) -> u32 {
    let mut hasher = SipHasher24::new_with_keys(0x706f_7274_6f6c_616e, 0x6275_636b_6574_0001);
    hasher.write(key.as_bytes());
    // What is left of a division by 32 bits has no more.
    u32::try_from(hasher.finish128().h1 % u64::from(buckets.get())).unwrap_or(0)
}

/// Some rows' digests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    /// How many.
    pub count: u64,
    /// Their sum.
    pub digest: Digest,
}

impl Sum {
    fn add(&mut self, other: Self) {
        self.count = self.count.saturating_add(other.count);
        self.digest.0 = self.digest.0.wrapping_add(other.digest.0);
    }
}

/// What is in one bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    /// Rows.
    pub rows: Sum,
    /// Tombstones.
    pub tombstones: Sum,
}

/// What a table holds, of one tenant or of all, by buckets of keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digests {
    /// How its rows are written.
    pub form: Form,
    /// Each bucket's sums.
    pub buckets: Vec<Bucket>,
}

/// Why digests say nothing about each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Incomparable {
    /// They have other buckets.
    #[error("{ours} buckets are not compared with {theirs}: ask both sides for as many")]
    Buckets {
        /// How many one side has.
        ours: usize,
        /// How many the other has.
        theirs: usize,
    },
    /// A replica of another engine writes the same rows in other words.
    #[error("rows in {ours} are not compared with rows in {theirs}: a shard's replicas must have its engine")]
    Form {
        /// One side's form.
        ours: Form,
        /// The other's.
        theirs: Form,
    },
}

impl Digests {
    /// Of no rows.
    #[must_use]
    pub fn new(form: Form, buckets: NonZeroU32) -> Self {
        let buckets = usize::try_from(buckets.get()).unwrap_or(usize::MAX);
        Self { form, buckets: vec![Bucket::default(); buckets] }
    }

    /// Adds a row. Which come first does not matter.
    pub fn add(&mut self, row: &RowDigest) {
        let Some(buckets) = u32::try_from(self.buckets.len()).ok().and_then(NonZeroU32::new) else { return };
        let bucket =
            usize::try_from(bucket_of(&row.key, buckets)).ok().and_then(|at| self.buckets.get_mut(at));
        let Some(bucket) = bucket else { return };
        let sum = if row.deleted { &mut bucket.tombstones } else { &mut bucket.rows };
        sum.add(Sum { count: 1, digest: row.digest });
    }

    /// Adds what another piece of the same table holds.
    ///
    /// # Errors
    /// [`Incomparable`] when it is of another kind.
    pub fn join(&mut self, other: &Self) -> Result<(), Incomparable> {
        self.comparable(other)?;
        for (own, more) in self.buckets.iter_mut().zip(&other.buckets) {
            own.rows.add(more.rows);
            own.tombstones.add(more.tombstones);
        }
        Ok(())
    }

    /// The buckets whose rows are not the same on the other side.
    ///
    /// # Errors
    /// [`Incomparable`] when the sides say nothing about each other.
    pub fn differing(&self, other: &Self) -> Result<Vec<u32>, Incomparable> {
        self.comparable(other)?;
        let pairs = (0..).zip(self.buckets.iter().zip(&other.buckets));
        Ok(pairs.filter(|(_, (own, theirs))| own.rows != theirs.rows).map(|(at, _)| at).collect())
    }

    fn comparable(&self, other: &Self) -> Result<(), Incomparable> {
        if self.form != other.form {
            return Err(Incomparable::Form { ours: self.form, theirs: other.form });
        }
        let (ours, theirs) = (self.buckets.len(), other.buckets.len());
        if ours == theirs { Ok(()) } else { Err(Incomparable::Buckets { ours, theirs }) }
    }
}

/// How a row here stands to the same on the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Difference {
    /// The same version is another row: one side was written past the log.
    Different,
    /// The other side knows nothing of it.
    Extra,
    /// It is there, and not here.
    Missing,
    /// Here it is the later version: the other side has not got it yet, or lost it.
    Newer,
    /// Here it is the earlier version.
    Older,
}

/// The rows that are not the same here and on the other side, by key. What one side deleted and the other knows nothing of is the
/// same. A side that only is behind has differences, too: those that are there again once it has caught up are real.
#[must_use]
pub fn differences(here: &[RowDigest], there: &[RowDigest]) -> BTreeMap<String, Difference> {
    let by_key = |rows: &'_ [RowDigest]| -> BTreeMap<String, RowDigest> {
        rows.iter().map(|row| (row.key.clone(), row.clone())).collect()
    };
    let (here, there) = (by_key(here), by_key(there));
    let keys = here.keys().chain(there.keys().filter(|key| !here.contains_key(*key)));
    let told = |key: &String| {
        let difference = match (here.get(key), there.get(key)) {
            (Some(own), Some(other)) if own.digest == other.digest => return None,
            (Some(own), Some(other)) => {
                match (own.placement, &own.version).cmp(&(other.placement, &other.version)) {
                    std::cmp::Ordering::Less => Difference::Older,
                    std::cmp::Ordering::Equal => Difference::Different,
                    std::cmp::Ordering::Greater => Difference::Newer,
                }
            }
            (Some(own), None) if !own.deleted => Difference::Extra,
            (None, Some(other)) if !other.deleted => Difference::Missing,
            _ => return None,
        };
        Some((key.clone(), difference))
    };
    keys.filter_map(told).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::RegionName;
    use crate::log::Epoch;

    fn row(key: &str, v: u64, text: Option<&str>) -> RowDigest {
        let version = Version { epoch: Epoch(1), v, origin: RegionName::new("eu").unwrap() };
        RowDigest::new(key.to_owned(), Placement(0), version, text.is_none(), text)
    }

    fn digests<'a>(form: Form, rows: impl IntoIterator<Item = &'a RowDigest>) -> Digests {
        let mut digests = Digests::new(form, NonZeroU32::new(8).unwrap());
        rows.into_iter().for_each(|row| digests.add(row));
        digests
    }

    #[test]
    fn differences_have_names() {
        let same = row("[1]", 5, Some("{}"));
        let here = [same.clone(), row("[2]", 5, Some("a")), row("[3]", 5, Some("a")), row("[4]", 6, None)];
        let there = [row("[2]", 6, Some("b")), row("[3]", 5, Some("b")), same, row("[5]", 7, Some("c"))];
        let named = |pairs: &[(&str, Difference)]| -> BTreeMap<String, Difference> {
            pairs.iter().map(|(key, difference)| ((*key).to_owned(), *difference)).collect()
        };
        use Difference::*;
        assert_eq!(
            differences(&here, &there),
            named(&[("[2]", Older), ("[3]", Different), ("[5]", Missing)])
        );
        assert_eq!(differences(&there, &here), named(&[("[2]", Newer), ("[3]", Different), ("[5]", Extra)]));
        let (gone, lives) = ([row("[1]", 6, None)], [row("[1]", 5, Some("a"))]);
        assert_eq!(differences(&lives, &gone), named(&[("[1]", Older)]), "a deletion has not come");
        assert_eq!(differences(&gone, &[]), named(&[]), "a tombstone that was swept is no difference");
    }

    #[test]
    fn a_row_that_was_lost_beside_its_version_is_another() {
        let version = || Version { epoch: Epoch(1), v: 5, origin: RegionName::new("eu").unwrap() };
        let lost = RowDigest::new("[1]".into(), Placement(0), version(), false, None);
        assert_ne!(lost.digest, row("[1]", 5, Some("")).digest);
        assert_ne!(lost.digest, row("[1]", 5, None).digest);
    }

    #[test]
    fn other_engines_and_other_buckets_are_not_compared() {
        let (one, other) = (digests(Form::Postgres, &[]), digests(Form::Sqlite, &[]));
        let error = one.differing(&other).unwrap_err();
        assert!(error.to_string().contains("must have its engine"), "{error}");
        let fewer = Digests::new(Form::Sqlite, NonZeroU32::MIN);
        assert_eq!(fewer.differing(&other), Err(Incomparable::Buckets { ours: 1, theirs: 8 }));
    }

    #[test]
    fn a_digest_has_one_text() {
        let digest = Digest(7);
        assert_eq!(Digest::try_from(String::from(digest)), Ok(digest));
        assert!(Digest::try_from("no digest".to_owned()).is_err());
    }

    proptest! {
        #[test]
        fn order_and_pieces_do_not_matter(
            rows in proptest::collection::vec((0_u8..40, 0_u64..4, any::<bool>()), 0..60),
            cut in 0_usize..60,
            changed in 0_usize..60,
        ) {
            let rows: Vec<RowDigest> =
                rows.iter().map(|(key, v, there)| row(&format!("[{key}]"), *v, there.then_some("{}"))).collect();
            let whole = digests(Form::Sqlite, &rows);
            let (left, right) = rows.split_at(cut.min(rows.len()));
            let mut pieces = digests(Form::Sqlite, right.iter().rev());
            pieces.join(&digests(Form::Sqlite, left)).unwrap();
            prop_assert_eq!(&whole, &pieces);
            let mut other = rows.clone();
            if let Some(one) = other.get_mut(changed).filter(|one| !one.deleted) {
                *one = row(&one.key, one.version.v + 9, Some("{}"));
                let bucket = bucket_of(&one.key, NonZeroU32::new(8).unwrap());
                prop_assert_eq!(whole.differing(&digests(Form::Sqlite, &other)), Ok(vec![bucket]));
            }
        }
    }
}
