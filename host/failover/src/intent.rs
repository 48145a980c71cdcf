//! What operators say: freezes, drains, maintenance, forced moves, broken glass, regions that are lost. Everything ends by itself.

use std::collections::{BTreeMap, BTreeSet};

use portolan_core::ids::RegionName;
use serde::{Deserialize, Serialize};

use crate::defaults::INTENT_MAX;
use crate::guards::Rule;
use crate::proposal::Proposal;

/// Something that holds for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    /// Who said it.
    pub by: String,
    /// Why.
    pub why: String,
    /// Until when, in milliseconds since 1970.
    pub until_ms: u64,
}

/// Rules that do not bar for a while. Exactly these, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokenGlass {
    rules: BTreeSet<Rule>,
    /// Who, why, until when.
    pub word: Word,
}

/// A region that a person says is gone for good, or will not write again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    region: RegionName,
    /// Who, why, until when.
    pub word: Word,
}

/// Something that a person wants done now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Force {
    /// What.
    pub proposal: Proposal,
    /// Rows that may be lost by it, where that is more than the shard's limit.
    pub accept_loss_rows: Option<u64>,
    /// Who, why, until when.
    pub word: Word,
}

/// All that holds of operators' words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intents {
    /// Nothing is changed automatically.
    pub freeze: Option<Word>,
    /// Regions whose shards go elsewhere in an orderly way, and that take none.
    pub drains: BTreeMap<RegionName, Word>,
    /// Regions that are worked at: whatever is seen of them, nothing follows from it.
    pub maintenance: BTreeMap<RegionName, Word>,
    /// Rules that do not bar.
    pub broken_glass: Option<BrokenGlass>,
    /// Regions that are lost.
    pub lost: BTreeMap<RegionName, Lost>,
    /// What is to be done now.
    pub force: Vec<Force>,
}

/// Why an operator's word is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It has no end, or one too far away.
    #[error("it would hold for {0} hours: say one of at most {max} hours, and say it again then", max = INTENT_MAX.as_secs() / 3_600)]
    Long(u64),
    /// A rule that keeps two regions from writing.
    #[error("rule {number} (`{name}`) keeps two regions from writing one shard and is not overridden: if `{name}` bars because a region is gone, `declare-lost` it", number = .0.number(), name = .0.as_str())]
    Never(Rule),
    /// The name was not typed.
    #[error("type the region's name, `{region}`, to declare it lost: `{typed}` is not it")]
    Typed {
        /// What was meant.
        region: RegionName,
        /// What was typed.
        typed: String,
    },
}

impl Word {
    /// A word that holds from now for a while.
    ///
    /// # Errors
    /// [`Refused::Long`].
    pub fn new(by: &str, why: &str, now_ms: u64, time: std::time::Duration) -> Result<Self, Refused> {
        if time > INTENT_MAX {
            return Err(Refused::Long(time.as_secs() / 3_600));
        }
        let until_ms = now_ms.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        Ok(Self { by: by.to_owned(), why: why.to_owned(), until_ms })
    }

    /// Does it hold still?
    #[must_use]
    pub const fn holds(&self, now_ms: u64) -> bool {
        now_ms < self.until_ms
    }
}

impl BrokenGlass {
    /// Overrides exactly these rules.
    ///
    /// # Errors
    /// [`Refused::Never`] for those that nobody overrides so.
    pub fn new(rules: impl IntoIterator<Item = Rule>, word: Word) -> Result<Self, Refused> {
        let rules: BTreeSet<Rule> = rules.into_iter().collect();
        match rules.iter().find(|rule| rule.is_absolute()) {
            Some(rule) => Err(Refused::Never(*rule)),
            None => Ok(Self { rules, word }),
        }
    }

    /// Which rules.
    #[must_use]
    pub const fn rules(&self) -> &BTreeSet<Rule> {
        &self.rules
    }
}

impl Lost {
    /// Declares a region lost, whose name was typed.
    ///
    /// # Errors
    /// [`Refused::Typed`].
    pub fn new(region: RegionName, typed: &str, word: Word) -> Result<Self, Refused> {
        if region.as_str() != typed {
            return Err(Refused::Typed { region, typed: typed.to_owned() });
        }
        Ok(Self { region, word })
    }

    /// Which one.
    #[must_use]
    pub const fn region(&self) -> &RegionName {
        &self.region
    }
}

impl Intents {
    /// What of it holds now.
    #[must_use]
    pub fn at(&self, now_ms: u64) -> Self {
        let words = |all: &BTreeMap<RegionName, Word>| {
            all.iter()
                .filter(|(_, word)| word.holds(now_ms))
                .map(|(name, word)| (name.clone(), word.clone()))
                .collect()
        };
        // A record that came from a store is not trusted to be well made.
        let sound = |(name, lost): &(&RegionName, &Lost)| lost.word.holds(now_ms) && lost.region == **name;
        let glass = self.broken_glass.clone().filter(|glass| glass.word.holds(now_ms));
        Self {
            freeze: self.freeze.clone().filter(|word| word.holds(now_ms)),
            drains: words(&self.drains),
            maintenance: words(&self.maintenance),
            broken_glass: glass.filter(|glass| !glass.rules.iter().any(|rule| rule.is_absolute())),
            lost: self.lost.iter().filter(sound).map(|(name, lost)| (name.clone(), lost.clone())).collect(),
            force: self.force.iter().filter(|force| force.word.holds(now_ms)).cloned().collect(),
        }
    }

    /// Does anything of it ask for something to be done?
    #[must_use]
    pub fn is_active(&self) -> bool {
        !self.drains.is_empty() || !self.force.is_empty() || !self.lost.is_empty()
    }

    /// Is a rule overridden?
    #[must_use]
    pub fn overrides(&self, rule: Rule) -> bool {
        self.broken_glass.as_ref().is_some_and(|glass| glass.rules.contains(&rule))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn word() -> Word {
        Word::new("ann", "a drill", 1_000, Duration::from_secs(60)).unwrap()
    }

    #[test]
    fn words_end_by_themselves() {
        let eu = RegionName::new("eu").unwrap();
        let intents = Intents {
            freeze: Some(word()),
            drains: BTreeMap::from([(eu.clone(), word())]),
            maintenance: BTreeMap::from([(eu, word())]),
            ..Intents::default()
        };
        assert_eq!(intents.at(60_999), intents);
        assert_eq!(intents.at(61_000), Intents::default());
        assert_eq!(Word::new("ann", "for ever", 0, Duration::from_hours(169)), Err(Refused::Long(169)));
    }

    #[test]
    fn glass_is_broken_by_name_and_never_for_rules_that_keep_two_from_writing() {
        let glass = BrokenGlass::new([Rule::AntiFlap, Rule::Capacity], word()).unwrap();
        let intents = Intents { broken_glass: Some(glass), ..Intents::default() };
        for rule in Rule::ALL {
            assert_eq!(intents.overrides(rule), matches!(rule, Rule::AntiFlap | Rule::Capacity), "{rule:?}");
        }
        for rule in Rule::ALL.into_iter().filter(|rule| rule.number() <= 4) {
            assert_eq!(BrokenGlass::new([Rule::LagGate, rule], word()), Err(Refused::Never(rule)));
        }
        // Nor if somebody writes it into the store.
        let forged = serde_json::json!({ "rules": ["majority"], "word": word() });
        let forged = Intents { broken_glass: serde_json::from_value(forged).unwrap(), ..Intents::default() };
        assert!(forged.overrides(Rule::Majority) && !forged.at(1_000).overrides(Rule::Majority));
    }

    #[test]
    fn a_region_is_declared_lost_by_its_name() {
        let eu = RegionName::new("eu").unwrap();
        assert!(Lost::new(eu.clone(), "eu", word()).is_ok());
        let refused = Lost::new(eu, "yes", word()).unwrap_err();
        assert!(refused.to_string().contains("type the region's name, `eu`"));
    }
}
