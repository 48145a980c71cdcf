//! Who moves when a shard is split or merged: the rules of placement before and after, and tenants by their hashes. Pure.
//!
//! The plan follows from the rules and from who is on the shard alone, so that a split or a merge that was broken off is simply begun
//! again: whoever has moved is not on the shard any more.

use anyhow::{Context as _, bail};
use portolan_core::directory::HashKey;
use portolan_core::ids::TenantName;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The key where no section `[placement]` is written: see the configuration.
const NO_KEY: &str = "00000000000000000000000000000000";

/// The object `settings/placement`, with all that is said in it besides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Placement {
    key: String,
    #[serde(default)]
    rule: Vec<Rule>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Rule {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    location: Option<String>,
    ranges: Vec<Range>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    residency: Option<String>,
}

/// A range of hashes: it begins after the one before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Range {
    last: String,
    shard: String,
}

/// A shard, as far as rules follow from it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Shard {
    pub(super) name: String,
    pub(super) residency: Option<String>,
    pub(super) takes_new: bool,
}

impl Placement {
    /// The rules that hold while none are written: each class has one shard that takes tenants.
    pub(super) fn implied(shards: &[Shard]) -> Self {
        let whole = |shard: &Shard| Rule {
            location: None,
            ranges: vec![Range { last: text(u64::MAX), shard: shard.name.clone() }],
            residency: shard.residency.clone(),
        };
        let rule = shards.iter().filter(|shard| shard.takes_new).map(whole).collect();
        Self { key: NO_KEY.to_owned(), rule, rest: Map::new() }
    }

    /// The same, with a part of each range of `shard` given to `to`: its upper part, `ratio` of it.
    pub(super) fn cut(&self, shard: &str, to: &str, ratio: f64) -> anyhow::Result<Self> {
        let mut next = self.clone();
        for rule in &mut next.rule {
            let mut ranges: Vec<Range> = Vec::new();
            let mut from = 0_u64;
            for range in &rule.ranges {
                let last = hash(&range.last)?;
                if range.shard == shard {
                    let length = last.saturating_sub(from);
                    // A float has fewer digits than a hash: no tenant minds where exactly the cut is, only that it stays there.
                    let taken = (length as f64 * ratio) as u64;
                    let middle = last.saturating_sub(taken.min(length));
                    if taken < length {
                        push(&mut ranges, middle, shard);
                    }
                    push(&mut ranges, last, to);
                } else {
                    push(&mut ranges, last, &range.shard);
                }
                from = last;
            }
            rule.ranges = ranges;
        }
        Ok(next)
    }

    /// Who has the tenants of a class by the rules: for each its shard.
    pub(super) fn owner(&self, residency: Option<&str>, tenant: &TenantName) -> anyhow::Result<Option<&str>> {
        let about = |rule: &&Rule| rule.location.is_none() && rule.residency.as_deref() == residency;
        let Some(rule) = self.rule.iter().find(about) else { return Ok(None) };
        let point = self.hash_key()?.of(tenant).point();
        for range in &rule.ranges {
            if point <= hash(&range.last)? {
                return Ok(Some(&range.shard));
            }
        }
        Ok(None)
    }

    /// The rules as they are written in a file.
    pub(super) fn written(&self) -> String {
        let range = |range: &Range| format!("{{ last = \"{}\", shard = \"{}\" }}", range.last, range.shard);
        let named = |name: &str, value: &Option<String>| {
            value.as_ref().map_or_else(String::new, |value| format!("{name} = \"{value}\", "))
        };
        let rule = |rule: &Rule| {
            let ranges: Vec<String> = rule.ranges.iter().map(range).collect();
            let (location, class) = (named("location", &rule.location), named("residency", &rule.residency));
            format!("  {{ {location}{class}ranges = [{}] }},\n", ranges.join(", "))
        };
        let rules: String = self.rule.iter().map(rule).collect();
        format!("[placement]\nkey = \"{}\"\nrule = [\n{rules}]", self.key)
    }

    fn hash_key(&self) -> anyhow::Result<HashKey> {
        let key = u128::from_str_radix(&self.key, 16).context("the key of `[placement]` does not read")?;
        Ok(HashKey::new(key.to_be_bytes()))
    }
}

/// The tenants of a list, one in a line; lines of nothing and what begins with `#` are passed over.
pub(super) fn listed(text: &str) -> anyhow::Result<Vec<TenantName>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let names: Vec<TenantName> = lines
        .map(|line| TenantName::new(line).with_context(|| format!("`{line}` is no tenant's name")))
        .collect::<Result<_, _>>()?;
    if names.is_empty() {
        bail!("the list names no tenant");
    }
    Ok(names)
}

/// Adds a range; one of the same shard as the range before it goes on.
fn push(ranges: &mut Vec<Range>, last: u64, shard: &str) {
    match ranges.last_mut().filter(|before| before.shard == shard) {
        Some(before) => before.last = text(last),
        None => ranges.push(Range { last: text(last), shard: shard.to_owned() }),
    }
}

fn hash(text: &str) -> anyhow::Result<u64> {
    u64::from_str_radix(text, 16).with_context(|| format!("`{text}` of `[placement]` is no hash"))
}

fn text(hash: u64) -> String {
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shard(name: &str, residency: Option<&str>, takes_new: bool) -> Shard {
        Shard { name: name.to_owned(), residency: residency.map(str::to_owned), takes_new }
    }

    fn parts(placement: &Placement, rule: usize) -> Vec<(String, String)> {
        let ranges = placement.rule[rule].ranges.iter();
        ranges.map(|range| (range.last.clone(), range.shard.clone())).collect()
    }

    fn pair(last: &str, shard: &str) -> (String, String) {
        (last.to_owned(), shard.to_owned())
    }

    #[test]
    fn a_shard_is_split_in_each_of_its_ranges() {
        let shards = [shard("a", None, true), shard("b", None, false), shard("c", Some("eu"), true)];
        let whole = Placement::implied(&shards);
        let half = whole.cut("a", "b", 0.5).unwrap();
        assert_eq!(parts(&half, 0), [pair("7fffffffffffffff", "a"), pair("ffffffffffffffff", "b")]);
        assert_eq!(parts(&half, 1), [pair("ffffffffffffffff", "c")], "another class is left alone");
        let quarter = half.cut("a", "d", 0.5).unwrap();
        let wanted =
            [pair("3fffffffffffffff", "a"), pair("7fffffffffffffff", "d"), pair("ffffffffffffffff", "b")];
        assert_eq!(parts(&quarter, 0), wanted);
        // Merged again, neighbours become one.
        let back = quarter.cut("d", "b", 1.0).unwrap().cut("b", "a", 1.0).unwrap();
        assert_eq!(back, whole);
    }

    #[test]
    fn tenants_have_one_owner_and_only_those_of_the_part_get_another() {
        let shards = [shard("a", None, true), shard("b", None, false)];
        let (before, after) =
            (Placement::implied(&shards), Placement::implied(&shards).cut("a", "b", 0.3).unwrap());
        let tenants = (0..1_000).map(|number| TenantName::new(&format!("tenant-{number}")).unwrap());
        let mut moved = 0;
        for tenant in tenants {
            assert_eq!(before.owner(None, &tenant).unwrap(), Some("a"));
            moved += usize::from(after.owner(None, &tenant).unwrap() == Some("b"));
            assert_eq!(after.owner(Some("eu"), &tenant).unwrap(), None);
        }
        assert!((230..370).contains(&moved), "{moved}");
    }

    #[test]
    fn what_else_the_object_says_stays() {
        let body = json!({
            "key": "00112233445566778899aabbccddeeff", "keep_moved": "1h",
            "rule": [{ "residency": "eu", "ranges": [{ "last": "ffffffffffffffff", "shard": "a" }] }],
        });
        let placement: Placement = serde_json::from_value(body.clone()).unwrap();
        assert_eq!(serde_json::to_value(&placement).unwrap(), body);
        let next = placement.cut("a", "b", 0.5).unwrap();
        assert!(next.written().contains(
            "{ residency = \"eu\", ranges = [{ last = \"7fffffffffffffff\", shard = \"a\" }, { last = \"ffffffffffffffff\""
        ), "{}", next.written());
        assert_eq!(serde_json::to_value(&next).unwrap()["keep_moved"], "1h");
    }

    #[test]
    fn a_list_of_tenants_is_read_or_refused() {
        let names = listed("# the big ones\nacme\n\n  bolt \n").unwrap();
        assert_eq!(names.iter().map(TenantName::as_str).collect::<Vec<_>>(), ["acme", "bolt"]);
        assert!(listed("\n").is_err() && listed("no name\n").is_err());
    }
}
