//! Replicas that write, forget to talk, talk in any order and twice, and still show the same.

use proptest::prelude::*;

use super::*;
use crate::merge::{self, Next};
use crate::tests::namer;

fn actor(region: &str) -> Actor {
    Actor { region: region.parse().unwrap(), incarnation: 1 }
}

fn dot(region: &str, counter: u64) -> Dot {
    Dot { actor: actor(region), counter }
}

const ITEM: ItemId = ItemId([7; 16]);

/// A region: its heads, what it has heard of, all versions that it keeps, its clock.
struct Replica {
    actor: Actor,
    heads: Heads,
    known: Context,
    kept: BTreeMap<VersionId, Version>,
    clock: Hlc,
}

impl Replica {
    fn new(region: &str) -> Self {
        let (heads, known, kept) = <(Heads, Context, BTreeMap<_, _>)>::default();
        Self { actor: actor(region), heads, known, kept, clock: Hlc::default() }
    }

    fn take(&mut self, version: &Version) -> Put {
        self.clock = self.clock.hear(version.at, 1_000).unwrap();
        self.known.join(&version.seen);
        self.known.add(version.dot.clone());
        self.kept.insert(version.id(&namer(7)).unwrap(), version.clone());
        self.heads.put(version.clone()).unwrap()
    }

    /// A new version over the heads of `seen`, which may be what an editor read a while ago.
    fn write(&mut self, seen: &Heads, content: Option<Root>, now_ms: u64) -> Version {
        self.clock = self.clock.tick(now_ms);
        let draft =
            Draft { item: ITEM, actor: self.actor.clone(), at: self.clock, kind: Kind::Text, content };
        let version = seen.next(draft, &self.known, &namer(7)).unwrap();
        self.take(&version);
        version
    }
}

fn root(number: u8) -> Option<Root> {
    Some(Root([number; 32]))
}

#[test]
fn contexts_hold_exactly_what_was_added() {
    let mut context = Context::default();
    for counter in [3, 1, 5, 2] {
        context.add(dot("eu", counter));
    }
    let held: Vec<u64> =
        (0..8).filter(|counter| *counter > 0 && context.contains(&dot("eu", *counter))).collect();
    assert_eq!(held, [1, 2, 3, 5]);
    assert!(!context.contains(&dot("us", 1)));
    assert_eq!((context.upto(&actor("eu")), context.highest(&actor("eu"))), (3, 5));
}

#[test]
fn what_was_seen_is_replaced_and_what_was_not_stands_beside() {
    let (mut eu, mut us) = (Replica::new("eu"), Replica::new("us"));
    let first = eu.write(&Heads::default(), root(1), 10);
    assert_eq!(us.take(&first), Put::Forward);
    let (left, right) = (eu.write(&eu.heads.clone(), root(2), 20), us.write(&us.heads.clone(), root(3), 15));
    assert_eq!((eu.take(&right), us.take(&left)), (Put::Beside, Put::Beside));
    assert_eq!((eu.take(&right), eu.take(&first)), (Put::Known, Put::Known));
    assert!(eu.heads.is_conflict() && eu.heads == us.heads);
    assert_eq!(eu.heads.winner(EditOrDelete::Edit), Some(&left), "the later one");
    let find = |id: &VersionId| eu.kept.get(id).cloned();
    let merge =
        Next::Merge { base: Root([1; 32]), ours: Root([2; 32]), theirs: Root([3; 32]), kind: Kind::Text };
    assert_eq!(merge::next(&eu.heads, find), merge);
    assert_eq!(merge::next(&eu.heads, |_| None), Next::Keep, "without the ancestor nothing is guessed");
    let merged = eu.write(&eu.heads.clone(), root(4), 30);
    assert_eq!((us.take(&merged), us.heads.iter().count()), (Put::Forward, 1));
}

#[test]
fn two_editors_of_one_region_do_not_hide_each_other() {
    let mut eu = Replica::new("eu");
    let first = eu.write(&Heads::default(), root(1), 10);
    let read = eu.heads.clone();
    let (one, two) = (eu.write(&read, root(2), 20), eu.write(&read, root(3), 30));
    assert_eq!((one.dot.counter, two.dot.counter), (2, 3));
    assert_eq!(eu.heads.iter().count(), 2);
    // A third who had seen the second only leaves the first one be.
    let mut seen = Heads::default();
    seen.put(first).unwrap();
    seen.put(two).unwrap();
    let three = eu.write(&seen, root(4), 40);
    assert_eq!(eu.heads.iter().collect::<Vec<_>>(), [&one, &three]);
}

#[test]
fn an_edit_wins_over_a_deletion_unless_it_is_told_otherwise() {
    let (mut eu, mut us) = (Replica::new("eu"), Replica::new("us"));
    let first = eu.write(&Heads::default(), root(1), 10);
    us.take(&first);
    let (edit, delete) = (eu.write(&eu.heads.clone(), root(2), 20), us.write(&us.heads.clone(), None, 90));
    eu.take(&delete);
    assert_eq!(eu.heads.winner(EditOrDelete::Edit), Some(&edit));
    assert_eq!(eu.heads.winner(EditOrDelete::Delete), Some(&delete));
    assert_eq!(merge::next(&eu.heads, |_| None), Next::Keep);
}

#[test]
fn equal_contents_are_no_conflict() {
    let (mut eu, mut us) = (Replica::new("eu"), Replica::new("us"));
    eu.write(&Heads::default(), root(1), 10);
    let other = us.write(&Heads::default(), root(1), 10);
    eu.take(&other);
    assert_eq!((eu.heads.iter().count(), eu.heads.is_conflict()), (2, false));
    assert_eq!(merge::next(&eu.heads, |_| None), Next::Settled);
}

#[test]
fn hostile_versions_are_refused() {
    let mut eu = Replica::new("eu");
    let version = eu.write(&Heads::default(), root(1), 10);
    let bytes = version.bytes().unwrap();
    assert_eq!(Version::read(&bytes).unwrap(), version);
    let mut saw_itself = version.clone();
    saw_itself.seen.add(version.dot.clone());
    let mut twice = version.clone();
    twice.content = root(9);
    let last = Version { dot: dot("eu", u64::MAX), ..version.clone() };
    let other = Version { item: ItemId([8; 16]), dot: dot("us", 1), ..version.clone() };
    for bad in [saw_itself, twice, last, other] {
        assert!(eu.heads.put(bad).is_err());
    }
    assert_eq!(eu.heads.iter().collect::<Vec<_>>(), [&version]);
    assert!(Version::read(&[bytes, vec![0]].concat()).is_err());
    assert!(matches!(Hlc::default().hear(Hlc { ms: 70_000, count: 0 }, 1_000), Err(Error::Drift { .. })));
    for number in 0..HEADS_MAX as u64 - 1 {
        let head = Version { dot: dot("us", number + 1), ..version.clone() };
        eu.heads.put(head).unwrap();
    }
    let one_more = Version { dot: dot("us", 999), ..version };
    assert!(matches!(eu.heads.put(one_more), Err(Error::Limit { .. })));
}

/// What happens: who writes (or merges), whether over what was read long ago, and who hears of which version.
type Event = (usize, u8, bool, prop::sample::Index);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_order_converges(
        events in prop::collection::vec((0_usize..3, 0_u8..6, any::<bool>(), any::<prop::sample::Index>()), 0..40),
        orders in prop::array::uniform3(any::<u64>()),
    ) {
        let events: Vec<Event> = events;
        let mut replicas = ["ap", "eu", "us"].map(Replica::new);
        let mut read = [Heads::default(), Heads::default(), Heads::default()];
        let mut all: Vec<Version> = Vec::new();
        for (time, (who, what, late, which)) in (1..).zip(events) {
            let replica = &mut replicas[who];
            if what < 3 && replica.heads.iter().count() < 10 {
                let seen = if late { read[who].clone() } else { replica.heads.clone() };
                all.push(replica.write(&seen, (what > 0).then_some(Root([what; 32])), time));
            } else if what == 3 {
                read[who] = replica.heads.clone();
            } else if !all.is_empty() {
                let version = all[which.index(all.len())].clone();
                prop_assume!(replica.heads.iter().count() < HEADS_MAX);
                replica.take(&version);
            }
        }
        prop_assume!(all.len() < HEADS_MAX);
        for (replica, order) in replicas.iter_mut().zip(orders) {
            // Everything once more, in an order of its own.
            let mut shuffled = all.clone();
            shuffled.sort_by_key(|version| blake3::hash(&[version.bytes().unwrap(), order.to_le_bytes().to_vec()].concat()).to_hex());
            for version in &shuffled {
                replica.take(version);
            }
        }
        let [ap, eu, us] = &replicas;
        prop_assert_eq!(&ap.heads, &eu.heads);
        prop_assert_eq!(&eu.heads, &us.heads);
        for rule in [EditOrDelete::Edit, EditOrDelete::Delete] {
            prop_assert_eq!(ap.heads.winner(rule), us.heads.winner(rule));
        }
        let kept = |id: &VersionId| eu.kept.get(id).cloned();
        prop_assert_eq!(merge::next(&ap.heads, kept), merge::next(&us.heads, kept));
        // Nothing is lost: what is no head, a head's writer had seen.
        for version in &all {
            prop_assert!(eu.heads.iter().any(|head| head == version || head.follows(version)));
        }
        let mut dots: Vec<&Dot> = all.iter().map(|version| &version.dot).collect();
        let written = dots.len();
        dots.sort();
        dots.dedup();
        prop_assert_eq!(dots.len(), written, "no number is given twice");
    }
}
