//! What a tenant's policy may choose and see: the operator's word, which no policy can widen.
//!
//! What a policy may not choose it does not see either: [`Facts::within`] leaves it out, so that it cannot be named. That
//! is checked three times: call by call while the plan is written, once as a whole, and again for each request, because
//! bounds may have become narrower than the last good plan.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use crate::facts::{Facts, RegionFacts};
use crate::ids::{PoolName, RegionName, ResidencyName};
use crate::plan::{Action, Answer};

/// The bounds of one tenant's policy. What is absent is not bounded.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bounds {
    /// Header fields that it may edit.
    pub headers: Option<Vec<FieldPattern>>,
    /// Header fields that nobody but the operator edits, whatever `headers` says: those that name tenants.
    pub kept_headers: BTreeSet<Box<str>>,
    /// Pools that it may forward to.
    pub pools: Option<BTreeSet<PoolName>>,
    /// Regions that it may forward to.
    pub regions: Option<BTreeSet<RegionName>>,
}

/// A field name in lower case, or the beginning of some.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FieldPattern {
    /// This one.
    Is(Box<str>),
    /// All that begin with this: written `x-shop-*`.
    Prefix(Box<str>),
}

/// What one tenant's policy may do and see: its bounds, within its residency class.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope {
    /// The operator's bounds.
    pub bounds: Arc<Bounds>,
    /// The tenant's residency class.
    pub residency: Option<ResidencyName>,
}

/// How an answer breaks its bounds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Breach {
    /// It edits a field that is not the tenant's to edit.
    #[error("it edits the header field `{0}`")]
    Header(Box<str>),
    /// It forwards to a pool outside.
    #[error("it forwards to the pool `{0}`")]
    Pool(PoolName),
    /// It forwards to a region outside.
    #[error("it forwards to the region `{0}`")]
    Region(RegionName),
    /// It rewrites the path into another tenant's.
    #[error("it rewrites the path into another tenant's")]
    Path,
}

impl FieldPattern {
    /// Reads `name` or `prefix*`; none for what can be no field's name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'+-.^_`|~".contains(&b);
        let (name, prefix) = text.strip_suffix('*').map_or((text, false), |name| (name, true));
        if name.len() > 128 || !name.bytes().all(token) || (name.is_empty() && !prefix) {
            return None;
        }
        let name = name.to_ascii_lowercase().into();
        Some(if prefix { Self::Prefix(name) } else { Self::Is(name) })
    }

    fn covers(&self, name: &str) -> bool {
        match self {
            Self::Is(this) => **this == *name,
            Self::Prefix(prefix) => name.starts_with(&**prefix),
        }
    }
}

impl fmt::Display for FieldPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Is(name) => f.write_str(name),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
        }
    }
}

impl Bounds {
    /// Does it bound anything?
    #[must_use]
    pub fn is_open(&self) -> bool {
        *self == Self::default()
    }

    /// May this region be chosen?
    #[must_use]
    pub fn allows_region(&self, region: &RegionName) -> bool {
        self.regions.as_ref().is_none_or(|regions| regions.contains(region))
    }

    /// May this pool be chosen?
    #[must_use]
    pub fn allows_pool(&self, pool: &PoolName) -> bool {
        self.pools.as_ref().is_none_or(|pools| pools.contains(pool))
    }

    /// May this field, in lower case, be edited?
    #[must_use]
    pub fn allows_header(&self, name: &str) -> bool {
        !self.kept_headers.contains(name)
            && self.headers.as_ref().is_none_or(|all| all.iter().any(|pattern| pattern.covers(name)))
    }

    /// Holds an answer against the bounds.
    ///
    /// # Errors
    /// The first [`Breach`].
    pub fn check(&self, answer: &Answer) -> Result<(), Breach> {
        if let Action::Forward { region, pool } = &answer.action {
            if !self.allows_region(region) {
                return Err(Breach::Region(region.clone()));
            }
            if !self.allows_pool(pool) {
                return Err(Breach::Pool(pool.clone()));
            }
        }
        match answer.edits.iter().find(|edit| !self.allows_header(&edit.name)) {
            Some(edit) => Err(Breach::Header(edit.name.clone())),
            None => Ok(()),
        }
    }
}

impl Facts {
    /// The same picture as a tenant's policy sees it. Regions outside do not exist; of the local one the name alone stays,
    /// because each request carries it. Of residency classes there is the tenant's own.
    #[must_use]
    pub fn within(&self, scope: &Scope) -> Self {
        let Scope { bounds, residency } = scope;
        let class = residency.as_ref().map(|class| self.residencies.get(class));
        // A class that is not declared allows nothing.
        let resides = |region: &RegionName| {
            class.is_none_or(|regions| regions.is_some_and(|regions| regions.contains(region)))
        };
        let regions: BTreeMap<RegionName, RegionFacts> = self
            .regions
            .iter()
            .filter(|(name, _)| bounds.allows_region(name) && resides(name))
            .map(|(name, facts)| {
                let pools = facts.pools.iter().filter(|pool| bounds.allows_pool(pool)).cloned().collect();
                (name.clone(), RegionFacts { pools, verdict: facts.verdict })
            })
            .collect();
        let seen = |region: &RegionName| *region == self.local || regions.contains_key(region);
        let latency_us = self
            .latency_us
            .iter()
            .filter(|((from, to), _)| seen(from) && regions.contains_key(to))
            .map(|(pair, us)| (pair.clone(), *us))
            .collect();
        let own = residency.iter().filter_map(|name| Some((name, self.residencies.get(name)?)));
        let residencies = own
            .map(|(name, all)| {
                (name.clone(), all.iter().filter(|region| regions.contains_key(*region)).cloned().collect())
            })
            .collect();
        Self {
            local: self.local.clone(),
            latency_us,
            now_ms: self.now_ms,
            regions,
            residencies,
            seed: self.seed,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::facts::{Fact, FactValue, Verdict};
    use crate::plan::{EditKind, HeaderEdit, Message};

    fn region(text: &str) -> RegionName {
        RegionName::new(text).unwrap()
    }

    fn pool(text: &str) -> PoolName {
        PoolName::new(text).unwrap()
    }

    fn world() -> Facts {
        let pools = ["api", "web"].map(pool);
        let facts = RegionFacts { pools: BTreeSet::from(pools), verdict: Verdict::Healthy };
        let all = ["ap", "eu", "us"];
        Facts {
            local: region("us"),
            latency_us: all
                .iter()
                .flat_map(|from| all.map(|to| ((region(from), region(to)), 1_000)))
                .collect(),
            now_ms: 7,
            regions: all.iter().map(|name| (region(name), facts.clone())).collect(),
            residencies: BTreeMap::from([
                (ResidencyName::new("europe").unwrap(), BTreeSet::from([region("eu")])),
                (ResidencyName::new("secret").unwrap(), BTreeSet::from([region("ap"), region("us")])),
            ]),
            seed: 1,
        }
    }

    fn scope(regions: Option<&[&str]>, pools: Option<&[&str]>, residency: Option<&str>) -> Scope {
        let bounds = Bounds {
            regions: regions.map(|all| all.iter().map(|name| region(name)).collect()),
            pools: pools.map(|all| all.iter().map(|name| pool(name)).collect()),
            ..Bounds::default()
        };
        Scope { bounds: Arc::new(bounds), residency: residency.map(|name| ResidencyName::new(name).unwrap()) }
    }

    #[test]
    fn what_may_not_be_chosen_is_not_seen() {
        let seen = world().within(&scope(Some(&["eu", "us"]), Some(&["web"]), Some("europe")));
        let names = |fact| match seen.read(&fact) {
            FactValue::Names(names) => names,
            FactValue::Number(_) => Vec::new(),
        };
        assert_eq!(names(Fact::Regions), ["eu"]);
        assert_eq!(names(Fact::Pools("eu".into())), ["web"]);
        assert_eq!(names(Fact::Pools("us".into())), [""; 0]);
        assert_eq!(names(Fact::Residencies), ["europe"]);
        assert_eq!(names(Fact::ResidencyRegions("secret".into())), [""; 0]);
        assert_eq!(names(Fact::Local), ["us"], "each request carries it");
        assert_eq!(seen.read(&Fact::Verdict("ap".into())), FactValue::Number(Some(0)));
        assert_eq!(seen.read(&Fact::LatencyUs("us".into(), "eu".into())), FactValue::Number(Some(1_000)));
        for (from, to) in [("us", "ap"), ("ap", "eu"), ("eu", "us")] {
            assert_eq!(seen.read(&Fact::LatencyUs(from.into(), to.into())), FactValue::Number(None));
        }
        assert_eq!(world().within(&Scope::default()).residencies, BTreeMap::new());
        assert!(world().within(&scope(None, None, Some("not-declared"))).regions.is_empty());
    }

    #[test]
    fn an_answer_outside_is_named() {
        let answer = |region: &str, pool: &str, header: &str| Answer {
            action: Action::Forward { region: self::region(region), pool: self::pool(pool) },
            edits: vec![HeaderEdit {
                message: Message::Request,
                kind: EditKind::Set,
                name: header.into(),
                value: "".into(),
            }],
            rewrite: None,
        };
        let mut bounds = Arc::unwrap_or_clone(scope(Some(&["eu"]), Some(&["web"]), None).bounds);
        bounds.headers = Some(["x-shop-*", "accept"].map(|text| FieldPattern::parse(text).unwrap()).to_vec());
        bounds.kept_headers.insert("x-shop-tenant".into());
        for (answer, expected) in [
            (answer("eu", "web", "x-shop-a"), Ok(())),
            (answer("eu", "web", "accept"), Ok(())),
            (answer("us", "web", "accept"), Err(Breach::Region(region("us")))),
            (answer("eu", "api", "accept"), Err(Breach::Pool(pool("api")))),
            (answer("eu", "web", "accept-language"), Err(Breach::Header("accept-language".into()))),
            (answer("eu", "web", "x-shop-tenant"), Err(Breach::Header("x-shop-tenant".into()))),
        ] {
            assert_eq!(bounds.check(&answer), expected);
        }
        for bad in ["", "a b", "x-*-y", "**"] {
            assert_eq!(FieldPattern::parse(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_narrower_view_never_shows_more(regions in proptest::collection::btree_set(0..3_usize, 0..3), class in 0..3_usize) {
            let names = ["ap", "eu", "us"];
            let allowed: Vec<&str> = regions.iter().map(|at| names[*at]).collect();
            let class = [None, Some("europe"), Some("secret")][class];
            let world = world();
            let seen = world.within(&scope(Some(&allowed), None, class));
            for name in seen.regions.keys() {
                prop_assert!(allowed.contains(&name.as_str()));
            }
            for ((from, to), us) in &seen.latency_us {
                prop_assert_eq!(world.latency_us.get(&(from.clone(), to.clone())), Some(us));
            }
            prop_assert_eq!(seen.within(&scope(Some(&allowed), None, class)), seen);
        }
    }
}
