//! What a share shows of a JSON content: some of its top-level members, named as shown or as hidden. Hidden wins, and what cannot be masked does not
//! go at all.

use std::collections::BTreeSet;

use portolan_changelog::content::Share;
use serde_json::{Map, Value};

use super::commit::kind_word;
use super::problem::Problem;
use crate::Error;
use crate::defaults::MASK_BYTES_MAX;

/// Which members of a content its reader sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mask {
    hidden: BTreeSet<String>,
    /// All, when absent.
    shown: Option<BTreeSet<String>>,
}

impl Mask {
    /// The mask of a share; none where everything is shown.
    ///
    /// # Errors
    /// When the share's row is damaged: in doubt nothing goes.
    pub(super) fn of(share: &Share) -> Result<Option<Self>, Problem> {
        let damaged = || Problem::from(Error::Corrupt("a share's mask"));
        let hidden: BTreeSet<String> = serde_json::from_str(&share.field_mask).map_err(|_| damaged())?;
        let shown: Option<BTreeSet<String>> = serde_json::from_str(&share.fields).map_err(|_| damaged())?;
        Ok((!hidden.is_empty() || shown.is_some()).then_some(Self { hidden, shown }))
    }

    /// May contents of this media type and size go with a mask?
    pub(super) fn takes(media: &str, bytes: u64) -> bool {
        kind_word(media) == "json" && bytes <= MASK_BYTES_MAX as u64
    }

    /// A content as its reader sees it; none when it is no JSON object. It is written anew, so that nothing of what is left out stays between the rest.
    pub(super) fn apply(&self, content: &[u8]) -> Option<Vec<u8>> {
        let members: Map<String, Value> = serde_json::from_slice(content).ok()?;
        let is_shown = |name: &String| {
            !self.hidden.contains(name) && self.shown.as_ref().is_none_or(|shown| shown.contains(name))
        };
        let shown: Map<String, Value> = members.into_iter().filter(|(name, _)| is_shown(name)).collect();
        serde_json::to_vec(&shown).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(hidden: &[&str], shown: Option<&[&str]>) -> Mask {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Mask { hidden: set(hidden), shown: shown.map(set) }
    }

    #[test]
    fn what_is_hidden_is_nowhere_in_what_is_shown() {
        let content = br#"{"title":"a", "price" : 3,"\u0063ost":1,"cost":2, "deep":{"cost":4}}"#;
        let apply = |mask: Mask| String::from_utf8(mask.apply(content).unwrap()).unwrap();
        assert_eq!(apply(mask(&["cost"], None)), r#"{"deep":{"cost":4},"price":3,"title":"a"}"#);
        assert_eq!(apply(mask(&[], Some(&["title", "none"]))), r#"{"title":"a"}"#);
        assert_eq!(apply(mask(&["title"], Some(&["title", "price"]))), r#"{"price":3}"#, "hidden wins");
        for bad in [&b"[1]"[..], b"1", b"", b"{", b"\xff"] {
            assert_eq!(mask(&["cost"], None).apply(bad), None);
        }
    }

    #[test]
    fn only_json_of_a_bounded_size_is_masked() {
        assert!(Mask::takes("application/json", 1) && Mask::takes("application/ld+json; charset=utf-8", 1));
        assert!(
            !Mask::takes("text/plain", 1) && !Mask::takes("application/json", (MASK_BYTES_MAX + 1) as u64)
        );
    }
}
