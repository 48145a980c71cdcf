//! What becomes of heads that did not know each other.
//!
//! [`next`] says what is to be done, [`merge`] does it for two contents and their common ancestor. Both are pure, and sides are ordered
//! alike everywhere; still a merge is written once, by the item's home region, as a version that has seen both. What cannot be
//! merged stays as it is: both heads are kept, and no marker of a conflict is ever part of a content.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::value::RawValue;

use crate::defaults::{JSON_DEPTH_MAX, MERGE_BYTES_MAX, MERGE_LINES_MAX, MERGE_WALK_MAX};
use crate::id::{Root, VersionId};
use crate::version::{Heads, Kind, Version};

/// What is to be done about an item's heads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Heads stay side by side until somebody resolves them.
    Keep,
    /// Try to merge two contents; if that gives nothing, keep both.
    Merge {
        /// The nearest version that both had seen.
        base: Root,
        /// The content of the head that comes first in order.
        ours: Root,
        /// The content of the head that follows it.
        theirs: Root,
        /// How.
        kind: Kind,
    },
    /// Nothing: there is one content.
    Settled,
}

/// What is to be done; `find` gives versions that were kept. An ancestor that is not kept, or is not the only nearest one, is none.
pub fn next(heads: &Heads, find: impl Fn(&VersionId) -> Option<Version>) -> Next {
    let mut sides: Vec<&Version> = Vec::new();
    for head in heads.iter() {
        if !sides.iter().any(|side| side.content == head.content) {
            sides.push(head);
        }
    }
    let (ours, theirs) = match sides.as_slice() {
        [] | [_] => return Next::Settled,
        [ours, theirs] => (*ours, *theirs),
        // More than two are for people: which pair is merged first would decide what comes out.
        _ => return Next::Keep,
    };
    let base = ancestor(ours, theirs, find).and_then(|version| version.content);
    match (base, ours.content, theirs.content) {
        (Some(base), Some(ours_content), Some(theirs_content)) if ours.kind == theirs.kind => {
            Next::Merge { base, ours: ours_content, theirs: theirs_content, kind: ours.kind }
        }
        _ => Next::Keep,
    }
}

/// The nearest version that both had seen, if there is one such alone.
fn ancestor(
    ours: &Version,
    theirs: &Version,
    find: impl Fn(&VersionId) -> Option<Version>,
) -> Option<Version> {
    let mut shared: Vec<Version> = Vec::new();
    let mut seen = BTreeSet::new();
    let mut ahead = ours.parents.clone();
    while let Some(id) = ahead.pop() {
        if !seen.insert(id) {
            continue;
        }
        if seen.len() > MERGE_WALK_MAX {
            return None;
        }
        let version = find(&id)?;
        if theirs.follows(&version) {
            shared.push(version);
        } else {
            ahead.extend_from_slice(&version.parents);
        }
    }
    let nearest = |version: &&Version| !shared.iter().any(|other| other.follows(version));
    let mut nearest = shared.iter().filter(nearest);
    let first = nearest.next()?;
    nearest.all(|other| other.content == first.content).then(|| first.clone())
}

/// What two contents become that came of one; nothing when both must be kept.
#[must_use]
pub fn merge(kind: Kind, base: &[u8], ours: &[u8], theirs: &[u8]) -> Option<Vec<u8>> {
    if ours == theirs || base == theirs {
        return Some(ours.to_vec());
    }
    if base == ours {
        return Some(theirs.to_vec());
    }
    let text = |bytes| std::str::from_utf8(bytes).ok().filter(|text| text.len() <= MERGE_BYTES_MAX);
    let (base, ours, theirs) = (text(base)?, text(ours)?, text(theirs)?);
    let merged = match kind {
        Kind::Binary => None,
        Kind::Json => fields(Some(base), Some(ours), Some(theirs), 0)?,
        Kind::Text => lines(base, ours, theirs),
    };
    merged.map(String::into_bytes)
}

/// Lines that only one side changed are taken from it (diff3; Khanna, Kunal and Pierce, 2007).
fn lines(base: &str, ours: &str, theirs: &str) -> Option<String> {
    let few = |text: &str| text.lines().nth(MERGE_LINES_MAX).is_none();
    if few(base) && few(ours) && few(theirs) { diffy::merge(base, ours, theirs).ok() } else { None }
}

/// A value that one side changed is taken from it, as it was written; objects are looked into. The outer `None` is a conflict,
/// the inner one a field that is gone. Arrays are one value: which element of one is which of another is not known.
fn fields(
    base: Option<&str>,
    ours: Option<&str>,
    theirs: Option<&str>,
    depth: usize,
) -> Option<Option<String>> {
    if ours == theirs || base == theirs {
        return Some(ours.map(str::to_owned));
    }
    if base == ours {
        return Some(theirs.map(str::to_owned));
    }
    if depth >= JSON_DEPTH_MAX {
        return None;
    }
    let object = |text| serde_json::from_str::<BTreeMap<String, &RawValue>>(text).ok();
    let (ours, theirs) = (object(ours?)?, object(theirs?)?);
    // Both may have added an object where there was none.
    let base = base.map_or_else(|| Some(BTreeMap::new()), object)?;
    let names: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let mut merged: Vec<String> = Vec::new();
    for name in names {
        let side = |side: &BTreeMap<String, &RawValue>| side.get(name).map(|value| value.get().to_owned());
        let (base, ours, theirs) = (side(&base), side(&ours), side(&theirs));
        if let Some(value) = fields(base.as_deref(), ours.as_deref(), theirs.as_deref(), depth + 1)? {
            merged.push(format!("{}:{value}", serde_json::to_string(name).ok()?));
        }
    }
    Some(Some(format!("{{{}}}", merged.join(","))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(base: &str, ours: &str, theirs: &str) -> Option<String> {
        merge(Kind::Json, base.as_bytes(), ours.as_bytes(), theirs.as_bytes())
            .map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn fields_merge_one_by_one() {
        let base = r#"{"title":"a","n":12345678901234567890123,"tags":["x"],"seo":{"d":1,"k":2}}"#;
        let check = |ours: &str, theirs: &str, expected: Option<&str>| {
            assert_eq!(json(base, ours, theirs).as_deref(), expected, "{ours} {theirs}");
            assert_eq!(json(base, theirs, ours).as_deref(), expected, "{theirs} {ours}");
        };
        check(
            r#"{"title":"b","n":12345678901234567890123,"tags":["x"],"seo":{"d":1,"k":2}}"#,
            r#"{"title":"a","n":12345678901234567890123,"tags":["x"],"seo":{"d":3,"k":2}}"#,
            Some(r#"{"n":12345678901234567890123,"seo":{"d":3,"k":2},"tags":["x"],"title":"b"}"#),
        );
        check(
            r#"{"title":"a","n":12345678901234567890123,"tags":["x"],"seo":{"k":4}}"#,
            r#"{"title":"a","tags":["x","y"],"seo":{"d":1,"k":2},"new":{"a":1}}"#,
            Some(r#"{"new":{"a":1},"seo":{"k":4},"tags":["x","y"],"title":"a"}"#),
        );
        check(r#"{"title":"b"}"#, r#"{"title":"c"}"#, None);
        check(r#"{"tags":["x","y"]}"#, r#"{"tags":["y"]}"#, None);
        check(r#"{"seo":{"d":1}}"#, r#"{"seo":7}"#, None);
        check("no object", "[]", None);
        assert_eq!(json("{}", r#"{"a":{"x":1}}"#, r#"{"a":{"y":2}}"#).unwrap(), r#"{"a":{"x":1,"y":2}}"#);
        let deep = |value: &str| format!("{}{value}{}", "{\"a\":".repeat(500), "}".repeat(500));
        assert_eq!(json(&deep("1"), &deep("2"), &deep("3")), None);
    }

    #[test]
    fn lines_merge_and_markers_never_come_out() {
        let text = |base: &str, ours: &str, theirs: &str| {
            merge(Kind::Text, base.as_bytes(), ours.as_bytes(), theirs.as_bytes())
                .map(|bytes| String::from_utf8(bytes).unwrap())
        };
        assert_eq!(text("a\nb\nc\nd\ne\n", "A\nb\nc\nd\ne\n", "a\nb\nc\nd\nE\n").unwrap(), "A\nb\nc\nd\nE\n");
        assert_eq!(text("a\nb\n", "x\nb\n", "y\nb\n"), None);
        assert_eq!(merge(Kind::Text, b"\xff", b"a\n", b"b\n"), None);
        assert_eq!(merge(Kind::Binary, b"a", b"b", b"c"), None);
        assert_eq!(merge(Kind::Binary, b"a", b"a", b"c").unwrap(), b"c");
        let many = |line: &str| line.repeat(MERGE_LINES_MAX + 1);
        assert_eq!(text(&many("a\n"), &many("b\n"), &many("c\n")), None);
    }
}
