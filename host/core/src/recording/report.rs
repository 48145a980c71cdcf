//! Differences counted: how many of which class, whom they would meet, and some to look at. Bounded, and mergeable, so that
//! parts can be counted on several threads.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Class, DecisionId, Picture, SlotDecision};

/// Ids that are kept of each class.
pub const SAMPLES_MAX: usize = 10;
/// Rows of each break-down; what comes after is counted together.
const ROWS_MAX: usize = 1_000;
/// Where those are counted.
const OTHERS: &str = "(others)";

/// How many of each class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Counts {
    /// [`Class::Same`]
    pub same: u64,
    /// [`Class::OtherTarget`]
    #[serde(alias = "other_target")]
    pub other_target: u64,
    /// [`Class::AllowToReject`]
    #[serde(alias = "allow_to_reject")]
    pub allow_to_reject: u64,
    /// [`Class::RejectToAllow`]
    #[serde(alias = "reject_to_allow")]
    pub reject_to_allow: u64,
    /// [`Class::Error`]
    pub error: u64,
    /// [`Class::Slower`]
    pub slower: u64,
    /// [`Class::NotComparable`]
    #[serde(alias = "not_comparable")]
    pub not_comparable: u64,
}

impl Counts {
    /// Counts one.
    pub const fn add(&mut self, class: Class) {
        *self.of_mut(class) += 1;
    }

    /// The same with another number of one class.
    #[must_use]
    pub const fn set(mut self, class: Class, number: u64) -> Self {
        *self.of_mut(class) = number;
        self
    }

    /// The number of one class.
    #[must_use]
    pub const fn of(&self, class: Class) -> u64 {
        match class {
            Class::AllowToReject => self.allow_to_reject,
            Class::Error => self.error,
            Class::NotComparable => self.not_comparable,
            Class::OtherTarget => self.other_target,
            Class::RejectToAllow => self.reject_to_allow,
            Class::Same => self.same,
            Class::Slower => self.slower,
        }
    }

    const fn of_mut(&mut self, class: Class) -> &mut u64 {
        match class {
            Class::AllowToReject => &mut self.allow_to_reject,
            Class::Error => &mut self.error,
            Class::NotComparable => &mut self.not_comparable,
            Class::OtherTarget => &mut self.other_target,
            Class::RejectToAllow => &mut self.reject_to_allow,
            Class::Same => &mut self.same,
            Class::Slower => &mut self.slower,
        }
    }

    /// All together.
    #[must_use]
    pub fn total(&self) -> u64 {
        Class::ALL.iter().map(|&class| self.of(class)).sum()
    }

    /// Those that clients would notice.
    #[must_use]
    pub fn divergences(&self) -> u64 {
        Class::ALL.iter().filter(|class| class.is_divergence()).map(|&class| self.of(class)).sum()
    }

    /// Those that say something.
    #[must_use]
    pub fn comparable(&self) -> u64 {
        self.total().saturating_sub(self.not_comparable)
    }

    /// Adds another count.
    pub fn merge(&mut self, other: &Self) {
        *self = self.with(other, u64::saturating_add);
    }

    /// Both, class by class.
    #[must_use]
    pub fn with(mut self, other: &Self, with: fn(u64, u64) -> u64) -> Self {
        for class in Class::ALL {
            let count = self.of_mut(class);
            *count = with(*count, other.of(class));
        }
        self
    }
}

/// A blast radius: what would change, and for whom.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Report {
    /// All comparisons.
    pub counts: Counts,
    /// By first segment of the path.
    pub routes: BTreeMap<String, Counts>,
    /// By the rule that decided before.
    pub rules: BTreeMap<String, Counts>,
    /// By tenant; `-` for none.
    pub tenants: BTreeMap<String, Counts>,
    /// By the region that took the request in.
    pub regions: BTreeMap<String, Counts>,
    /// Some decisions of each class but the same, the first ones.
    pub samples: BTreeMap<Class, Vec<DecisionId>>,
    /// What candidates asked for and recordings do not hold.
    pub missing: BTreeMap<String, u64>,
    /// Was a policy found that answers the same question in two ways? Then no difference means nothing.
    pub impure: bool,
}

impl Report {
    /// Counts one comparison.
    pub fn add(
        &mut self,
        id: DecisionId,
        picture: &Picture,
        base: &SlotDecision,
        other: &SlotDecision,
        class: Class,
    ) {
        self.counts.add(class);
        count(&mut self.routes, picture.segment(), class);
        count(&mut self.rules, &base.rule_text(), class);
        count(&mut self.tenants, picture.tenant().as_ref().map_or("-", |tenant| tenant.as_str()), class);
        count(&mut self.regions, picture.region().as_ref().map_or("-", |region| region.as_str()), class);
        if class != Class::Same {
            let samples = self.samples.entry(class).or_default();
            if samples.len() < SAMPLES_MAX {
                samples.push(id);
            }
        }
        for attribute in base.missing.iter().chain(&other.missing) {
            if self.missing.len() < ROWS_MAX {
                *self.missing.entry(attribute.to_string()).or_default() += 1;
            }
        }
    }

    /// Adds another report.
    pub fn merge(&mut self, other: Self) {
        self.counts.merge(&other.counts);
        merge(&mut self.routes, other.routes);
        merge(&mut self.rules, other.rules);
        merge(&mut self.tenants, other.tenants);
        merge(&mut self.regions, other.regions);
        for (class, more) in other.samples {
            let samples = self.samples.entry(class).or_default();
            samples.extend(more);
            samples.sort_unstable();
            samples.truncate(SAMPLES_MAX);
        }
        for (attribute, number) in other.missing {
            *self.missing.entry(attribute).or_default() += number;
        }
        self.impure |= other.impure;
    }

    /// An impure policy was found: what looked the same may have been luck.
    pub fn distrust(&mut self) {
        self.impure = true;
        let rows = [&mut self.routes, &mut self.rules, &mut self.tenants, &mut self.regions];
        let all = rows.into_iter().flat_map(BTreeMap::values_mut).chain(std::iter::once(&mut self.counts));
        for counts in all {
            counts.not_comparable += std::mem::take(&mut counts.same);
        }
    }

    /// The same with so many rows of each break-down: those of most divergences, and what else there is counted together. For
    /// telling others.
    #[must_use]
    pub fn shortened(&self, rows_max: usize, samples_max: usize) -> Self {
        let rows = |rows: &BTreeMap<String, Counts>| shortened(rows, rows_max);
        let samples = |(class, ids): (&Class, &Vec<DecisionId>)| {
            (*class, ids.iter().take(samples_max).copied().collect())
        };
        Self {
            counts: self.counts,
            routes: rows(&self.routes),
            rules: rows(&self.rules),
            tenants: rows(&self.tenants),
            regions: rows(&self.regions),
            samples: self.samples.iter().map(samples).collect(),
            missing: self.missing.iter().take(rows_max).map(|(name, count)| (name.clone(), *count)).collect(),
            impure: self.impure,
        }
    }

    /// Are more than so many of a thousand comparisons divergences, or does nothing follow from the report?
    #[must_use]
    pub fn exceeds(&self, permille: u32) -> bool {
        let divergences = self.counts.divergences();
        self.impure || divergences.saturating_mul(1_000) > u64::from(permille) * self.counts.total()
    }
}

fn count(rows: &mut BTreeMap<String, Counts>, name: &str, class: Class) {
    if let Some(counts) = rows.get_mut(name) {
        return counts.add(class);
    }
    let name = if rows.len() < ROWS_MAX { name } else { OTHERS };
    rows.entry(name.to_owned()).or_default().add(class);
}

fn shortened(rows: &BTreeMap<String, Counts>, max: usize) -> BTreeMap<String, Counts> {
    let mut all: Vec<(&String, &Counts)> = rows.iter().collect();
    all.sort_by_key(|(name, counts)| {
        (name.as_str() == OTHERS, Reverse(counts.divergences()), Reverse(counts.total()))
    });
    let mut few: BTreeMap<String, Counts> =
        all.iter().take(max).map(|(name, counts)| ((*name).clone(), **counts)).collect();
    for (_, counts) in all.iter().skip(max) {
        few.entry(OTHERS.to_owned()).or_default().merge(counts);
    }
    few
}

fn merge(rows: &mut BTreeMap<String, Counts>, more: BTreeMap<String, Counts>) {
    for (name, counts) in more {
        let known = rows.contains_key(&name) || rows.len() < ROWS_MAX;
        rows.entry(if known { name } else { OTHERS.to_owned() }).or_default().merge(&counts);
    }
}
