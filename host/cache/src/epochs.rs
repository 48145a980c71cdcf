//! Taking back, in constant time: a purge is one number beside a tag, and each entry is held against the numbers of its tags when it is
//! used. What is being filled meanwhile is held against them too, so that no purge is overtaken by an old answer.
//!
//! The table is bounded for each tenant: who purges more tags than it has room for takes all of its own back, nobody else's.

use std::collections::HashMap;
use std::sync::RwLock;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::tags::Tag;

/// Tags that one tenant may have taken back before all of it is.
const TAGS_MAX: usize = 4_096;
/// Tenants, by their hashes.
const TENANTS_MAX: usize = 65_536;
/// Places for resources that unsafe requests have changed. Two that share a place are both asked for again: that is all it costs.
const TOUCHED: usize = 65_536;

/// Whose entries they are: a hash of the tenant's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Scope(pub(crate) u64);

/// The number of a purge. Entries have that of the last one before they were asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Epoch(pub u64);

/// How much is taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strength {
    /// Nothing of it is given any more.
    Hard,
    /// It is stale: asked about before it is given, or after, where its origin allows that, and stands in where its origin fails.
    Soft,
}

/// What has become of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Gone,
    Stale,
    Valid,
}

/// One change, as it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) epoch: Epoch,
    pub(crate) what: What,
}

/// What is taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum What {
    /// Everything.
    All,
    /// Nothing: it says how far the numbers have come.
    Nothing,
    /// `tag` is `None` for all of the tenant.
    Purged { scope: Scope, tag: Option<Tag>, strength: Strength },
    /// What has this place in the table of changed resources.
    Touched(u16),
}

impl What {
    /// A resource that an unsafe request has changed (RFC 9111, section 4.4).
    pub(crate) fn touched(scope: Scope, url: Tag) -> Self {
        Self::Touched(place(scope, url))
    }
}

/// The place of a resource. Both numbers are hashes: their lowest bits are as good as any.
const fn place(scope: Scope, url: Tag) -> u16 {
    let [low, high, ..] = (scope.0.rotate_left(32) ^ url.0).to_le_bytes();
    u16::from_le_bytes([low, high])
}

#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    hard: Epoch,
    soft: Epoch,
}

impl Mark {
    fn raise(&mut self, epoch: Epoch, strength: Strength) {
        let known = match strength {
            Strength::Hard => &mut self.hard,
            Strength::Soft => &mut self.soft,
        };
        *known = (*known).max(epoch);
    }
}

#[derive(Debug, Default)]
struct Tenant {
    all: Mark,
    tags: HashMap<Tag, Mark>,
}

/// All numbers.
#[derive(Debug)]
pub(crate) struct Epochs {
    latest: AtomicU64,
    tenants: RwLock<HashMap<Scope, Tenant>>,
    /// Entries from before it are gone, whoever's they are.
    floor: AtomicU64,
    touched: Box<[AtomicU64]>,
}

impl Default for Epochs {
    fn default() -> Self {
        Self {
            latest: AtomicU64::default(),
            tenants: RwLock::default(),
            floor: AtomicU64::default(),
            touched: (0..TOUCHED).map(|_| AtomicU64::default()).collect(),
        }
    }
}

impl Epochs {
    /// The number of the last purge.
    pub(crate) fn latest(&self) -> Epoch {
        Epoch(self.latest.load(Ordering::Acquire))
    }

    /// Numbers a change, without any effect yet: whoever writes it down does so first. One caller at a time.
    pub(crate) fn next(&self, what: What) -> Record {
        Record { epoch: Epoch(self.latest.load(Ordering::Acquire) + 1), what }
    }

    /// Takes back. In any order, and repeatedly, with the same result.
    pub(crate) fn apply(&self, record: Record) {
        let Record { epoch, what } = record;
        match what {
            What::Nothing => {}
            What::All => _ = self.floor.fetch_max(epoch.0, Ordering::AcqRel),
            What::Purged { scope, tag, strength } => self.purge(epoch, scope, tag, strength),
            What::Touched(place) => {
                let place = self.touched.get(usize::from(place));
                place.into_iter().for_each(|place| _ = place.fetch_max(epoch.0, Ordering::AcqRel));
            }
        }
        // After the marks: who reads the number finds them.
        self.latest.fetch_max(epoch.0, Ordering::AcqRel);
    }

    fn purge(&self, epoch: Epoch, scope: Scope, tag: Option<Tag>, strength: Strength) {
        let mut tenants = crate::locked(self.tenants.write());
        if tenants.len() >= TENANTS_MAX && !tenants.contains_key(&scope) {
            tenants.clear();
            self.floor.fetch_max(epoch.0, Ordering::AcqRel);
        }
        let tenant = tenants.entry(scope).or_default();
        match tag {
            None => tenant.all.raise(epoch, strength),
            Some(tag) if tenant.tags.len() < TAGS_MAX || tenant.tags.contains_key(&tag) => {
                tenant.tags.entry(tag).or_default().raise(epoch, strength);
            }
            Some(_) => {
                tenant.tags.clear();
                tenant.all.raise(epoch, Strength::Hard);
            }
        }
    }

    /// What has become of an entry that was asked for at `born`. `url` is one of its tags.
    pub(crate) fn standing(&self, scope: Scope, url: Tag, tags: &[Tag], born: Epoch) -> Standing {
        if born >= self.latest() {
            return Standing::Valid;
        }
        let touched = self.touched.get(usize::from(place(scope, url)));
        let is_touched = touched.is_some_and(|touched| touched.load(Ordering::Acquire) > born.0);
        if is_touched || born.0 < self.floor.load(Ordering::Acquire) {
            return Standing::Gone;
        }
        let tenants = crate::locked(self.tenants.read());
        let Some(tenant) = tenants.get(&scope) else { return Standing::Valid };
        let marks = std::iter::once(&tenant.all).chain(tags.iter().filter_map(|tag| tenant.tags.get(tag)));
        let (hard, soft) = marks
            .fold((false, false), |(hard, soft), mark| (hard || mark.hard > born, soft || mark.soft > born));
        match (hard, soft) {
            (true, _) => Standing::Gone,
            (false, true) => Standing::Stale,
            (false, false) => Standing::Valid,
        }
    }

    /// All that has to be kept to know it again.
    pub(crate) fn records(&self) -> Vec<Record> {
        let floor = Epoch(self.floor.load(Ordering::Acquire));
        let mut all = vec![
            Record { epoch: floor, what: What::All },
            Record { epoch: self.latest(), what: What::Nothing },
        ];
        let touched = (0..=u16::MAX).zip(&*self.touched);
        all.extend(touched.map(|(place, epoch)| Record {
            epoch: Epoch(epoch.load(Ordering::Acquire)),
            what: What::Touched(place),
        }));
        let tenants = crate::locked(self.tenants.read());
        for (scope, tenant) in tenants.iter() {
            let marks = tenant.tags.iter().map(|(tag, mark)| (Some(*tag), mark));
            for (tag, mark) in marks.chain([(None, &tenant.all)]) {
                for (epoch, strength) in [(mark.hard, Strength::Hard), (mark.soft, Strength::Soft)] {
                    all.push(Record { epoch, what: What::Purged { scope: *scope, tag, strength } });
                }
            }
        }
        all.retain(|record| record.epoch > Epoch::default());
        all
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tags::Target;

    const ACME: Scope = Scope(1);
    const OTHER: Scope = Scope(2);
    const URL: Tag = Tag(77);

    fn tag(number: usize) -> Tag {
        Target::Tag(number.to_string()).tag().unwrap()
    }

    fn purge(epochs: &Epochs, scope: Scope, tag: Option<Tag>, strength: Strength) {
        epochs.apply(epochs.next(What::Purged { scope, tag, strength }));
    }

    #[test]
    fn what_was_there_before_is_taken_back_and_what_comes_later_is_not() {
        let epochs = Epochs::default();
        let before = epochs.latest();
        purge(&epochs, ACME, Some(tag(1)), Strength::Soft);
        assert_eq!(epochs.standing(ACME, URL, &[tag(1), tag(2)], before), Standing::Stale);
        assert_eq!(epochs.standing(ACME, URL, &[tag(2)], before), Standing::Valid);
        assert_eq!(epochs.standing(OTHER, URL, &[tag(1)], before), Standing::Valid);
        purge(&epochs, ACME, None, Strength::Hard);
        assert_eq!(epochs.standing(ACME, URL, &[tag(2)], before), Standing::Gone);
        assert_eq!(epochs.standing(ACME, URL, &[tag(1)], epochs.latest()), Standing::Valid);
    }

    #[test]
    fn a_tenant_that_purges_too_much_loses_its_own_alone() {
        let epochs = Epochs::default();
        let before = epochs.latest();
        for number in 0..=TAGS_MAX {
            purge(&epochs, ACME, Some(tag(number)), Strength::Soft);
        }
        assert_eq!(epochs.standing(ACME, URL, &[], before), Standing::Gone);
        assert_eq!(epochs.standing(OTHER, URL, &[tag(0)], before), Standing::Valid);
    }

    #[test]
    fn what_is_not_known_is_taken_back() {
        let epochs = Epochs::default();
        let before = epochs.latest();
        epochs.apply(epochs.next(What::All));
        assert_eq!(epochs.standing(OTHER, URL, &[], before), Standing::Gone);
        assert_eq!(epochs.standing(OTHER, URL, &[], epochs.latest()), Standing::Valid);
    }

    #[test]
    fn what_an_unsafe_request_changed_is_gone() {
        let epochs = Epochs::default();
        let before = epochs.latest();
        epochs.apply(epochs.next(What::touched(ACME, URL)));
        assert_eq!(epochs.standing(ACME, URL, &[], before), Standing::Gone);
        assert_eq!(epochs.standing(ACME, Tag(78), &[], before), Standing::Valid);
        let again = Epochs::default();
        epochs.records().into_iter().for_each(|record| again.apply(record));
        assert_eq!(again.standing(ACME, URL, &[], before), Standing::Gone);
        assert_eq!(again.latest(), epochs.latest());
    }

    proptest! {
        /// A naive model keeps every purge and looks through all of them; order and repetition do not matter, and what is
        /// kept of the table says the same again.
        #[test]
        fn the_table_says_what_a_list_of_all_purges_says(
            purges in proptest::collection::vec((0_u64..2, proptest::option::of(0_usize..4), any::<bool>()), 0..20),
            born in 0_u64..20, tags in proptest::collection::vec(0_usize..4, 0..3), scope in 0_u64..2,
        ) {
            let all: Vec<(Epoch, u64, Option<Tag>, Strength)> = purges.iter().zip(1..).map(|(&(scope, number, hard), epoch)| {
                (Epoch(epoch), scope, number.map(tag), if hard { Strength::Hard } else { Strength::Soft })
            }).collect();
            let records: Vec<Record> = all.iter().map(|&(epoch, scope, tag, strength)| {
                Record { epoch, what: What::Purged { scope: Scope(scope), tag, strength } }
            }).collect();
            let tags: Vec<Tag> = tags.into_iter().map(tag).collect();
            let met: Vec<Strength> = all.iter().filter(|(epoch, whose, tag, _)| {
                *whose == scope && *epoch > Epoch(born) && tag.is_none_or(|tag| tags.contains(&tag))
            }).map(|(.., strength)| *strength).collect();
            let expected = if met.contains(&Strength::Hard) { Standing::Gone }
                else if met.is_empty() { Standing::Valid } else { Standing::Stale };
            let epochs = Epochs::default();
            records.iter().rev().chain(&records).for_each(|record| epochs.apply(*record));
            prop_assert_eq!(epochs.standing(Scope(scope), URL, &tags, Epoch(born)), expected);
            let again = Epochs::default();
            epochs.records().into_iter().for_each(|record| again.apply(record));
            prop_assert_eq!(again.standing(Scope(scope), URL, &tags, Epoch(born)), expected);
        }
    }
}
