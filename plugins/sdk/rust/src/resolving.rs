//! Resolvers: what becomes of versions that were made apart.

use crate::draft::Refusal;

/// A policy that makes one version of two. Must be pure: nothing but its arguments may matter.
///
/// The gateway asks it in one place, the shard's primary, away from requests; until then the last writer's version stays, and what it
/// answers is a new version that all regions get. What it refuses stays as it is, and is shown to the operator.
pub trait Resolver {
    /// The merged version. `base` is what both began from, and empty where nobody knows it; `left` stays until this has an answer. Of a
    /// table's rows, see [`rows`].
    ///
    /// # Errors
    /// A refusal leaves `left`, and is noted beside what lost.
    fn resolve(base: &[u8], left: &[u8], right: &[u8]) -> Result<Vec<u8>, Refusal>;
}

/// Versions that are rows.
pub mod rows {
    pub use serde_json::Value;

    use super::Refusal;

    /// A row: its columns' values by their names.
    pub type Row = serde_json::Map<String, Value>;

    /// Answers [`Resolver::resolve`](super::Resolver::resolve) for rows. Columns that the answer leaves out stay as `left` has them; those of
    /// the key and of the tenant cannot change.
    ///
    /// # Errors
    /// Those of `merge`, and versions that are no rows.
    pub fn merge(
        (base, left, right): (&[u8], &[u8], &[u8]),
        merge: impl FnOnce(Option<Row>, Row, Row) -> Result<Row, Refusal>,
    ) -> Result<Vec<u8>, Refusal> {
        let row = |bytes: &[u8]| {
            serde_json::from_slice::<Row>(bytes)
                .map_err(|error| Refusal::value(format!("this is no row: {error}")))
        };
        let base = if base.is_empty() { None } else { Some(row(base)?) };
        let merged = merge(base, row(left)?, row(right)?)?;
        serde_json::to_vec(&merged).map_err(|error| Refusal::value(format!("this is no row: {error}")))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn rows_go_in_and_out_as_json() {
            let merged = merge((b"", br#"{"a": 1}"#, br#"{"a": 2, "b": 3}"#), |base, mut left, right| {
                assert!(base.is_none());
                left.extend(right);
                Ok(left)
            });
            assert_eq!(merged.unwrap(), br#"{"a":2,"b":3}"#);
            let none = merge((b"", b"[]", b"{}"), |_, left, _| Ok(left));
            assert!(none.unwrap_err().message.contains("no row"));
        }
    }
}
