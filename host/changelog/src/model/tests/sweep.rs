//! Members that all write, delete, follow each other, and sweep their tombstones.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use portolan_core::ids::RegionName;
use portolan_core::log::{Identity, Position};

use super::super::sweep::*;
use super::{Dice, hold};

const MEMBERS: usize = 3;
const KEYS: u64 = 3;
/// How far clocks differ.
const SKEW: u64 = 30;

/// A row's version: clock, then who wrote it.
type Stamp = (u64, usize);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Change {
    key: u64,
    stamp: Stamp,
    deleted: bool,
}

#[derive(Clone, Copy, Debug)]
struct State {
    stamp: Stamp,
    /// Of a tombstone, its round.
    deleted: Option<u64>,
}

/// One member's database.
#[derive(Debug, Default)]
struct Database {
    rows: BTreeMap<u64, State>,
    log: Vec<Change>,
    applied: [usize; MEMBERS],
    parked: Vec<Change>,
    round: u64,
    sweep: Option<Sweep>,
}

/// How a member sweeps; each way but the first is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Right,
    /// When it has applied the deletion itself.
    Early,
    /// When all have applied it, whatever they wrote before.
    Unheard,
    /// Without a look at what waits here.
    ParkedIgnored,
    /// Members where deletions wait give their word too.
    ParkedElsewhereIgnored,
    /// When it is old, as clocks say.
    ByAge,
    /// Also one that is younger than what is written next.
    Young,
}

fn region(at: usize) -> RegionName {
    RegionName::new(["eu", "us", "ap"][at]).unwrap()
}

fn through(position: usize) -> Through {
    let identity = Identity { system: "7".into(), timeline: 1, incarnation: "a".into() };
    Through { identity, position: Position::new(1, position as u64, position as u64) }
}

fn member(at: usize) -> Member {
    Member { region: region(at), incarnation: 1 }
}

impl Database {
    fn known(&self, own: usize) -> Known {
        let of = |at: usize| if at == own { self.log.len() } else { self.applied[at] };
        Known((0..MEMBERS).map(|at| (region(at), through(of(at)))).collect())
    }

    fn put(&mut self, change: Change) {
        if self.rows.get(&change.key).is_none_or(|there| there.stamp < change.stamp) {
            let deleted = change.deleted.then_some(self.round);
            self.rows.insert(change.key, State { stamp: change.stamp, deleted });
        }
    }

    fn report(&self, own: usize, way: Way) -> Report {
        let holds = self.parked.iter().any(|change| change.deleted) && way != Way::ParkedElsewhereIgnored;
        Report { member: member(own), applied: self.known(own), written: through(self.log.len()), holds }
    }

    fn sweep(&mut self, own: usize, now: u64, way: Way) {
        let Some(sweep) = &self.sweep else { return };
        let passed = match way {
            Way::Early | Way::ByAge => true,
            Way::Unheard => sweep.waiting().next().is_none(),
            _ => sweep.may_go(&self.known(own)),
        };
        if !passed {
            return;
        }
        let before = sweep.mark().round;
        let waits: BTreeSet<u64> = self.parked.iter().map(|change| change.key).collect();
        self.rows.retain(|key, state| {
            let old = match way {
                Way::ByAge => state.stamp.0 + 20 < now,
                Way::Young => true,
                _ => state.stamp.0 < now,
            };
            let barred = way != Way::ParkedIgnored && waits.contains(key);
            !(state.deleted.is_some_and(|round| round < before) && old && !barred)
        });
        self.sweep = None;
    }
}

/// One in how many.
#[derive(Clone, Copy)]
struct Odds {
    /// Of changes waits where it arrives.
    parks: u64,
    /// Of deletions does.
    parks_deletion: u64,
    /// Of those that wait goes on when it is tried again.
    goes_on: u64,
}

const ODDS: [Odds; 4] = [
    Odds { parks: 6, parks_deletion: 1_000, goes_on: 12 },
    Odds { parks: 1_000, parks_deletion: 4, goes_on: 12 },
    Odds { parks: 20, parks_deletion: 20, goes_on: 3 },
    Odds { parks: 1_000, parks_deletion: 1_000, goes_on: 1 },
];

struct Platform {
    now: u64,
    skew: [u64; MEMBERS],
    members: [Database; MEMBERS],
    /// Reports on their way.
    reports: VecDeque<(usize, Report)>,
    written: BTreeMap<u64, Change>,
    odds: Odds,
}

impl Platform {
    fn write(&mut self, at: usize, dice: &mut Dice) {
        let (now, member) = (self.now + self.skew[at], &mut self.members[at]);
        let key = dice.below(KEYS);
        let there = member.rows.get(&key);
        let lives = there.is_some_and(|state| state.deleted.is_none());
        let stamp = (now.max(there.map_or(0, |state| state.stamp.0 + 1)), at);
        let change = Change { key, stamp, deleted: lives && dice.one_in(2) };
        member.put(change);
        member.log.push(change);
        let newest = self.written.entry(key).or_insert(change);
        if newest.stamp < stamp {
            *newest = change;
        }
    }

    fn apply(&mut self, at: usize, from: usize, mut parks: impl FnMut(&Change) -> bool) -> bool {
        let Some(change) = self.members[from].log.get(self.members[at].applied[from]).copied() else {
            return false;
        };
        let member = &mut self.members[at];
        member.applied[from] += 1;
        if parks(&change) {
            member.parked.push(change)
        } else {
            member.put(change)
        }
        true
    }

    fn step(&mut self, dice: &mut Dice, way: Way) {
        let draw = |dice: &mut Dice| usize::try_from(dice.below(MEMBERS as u64)).unwrap();
        let (at, from) = (draw(dice), draw(dice));
        self.now += u64::from(dice.one_in(12));
        match dice.below(20) {
            0 => self.write(at, dice),
            1..=5 if at != from => {
                for _ in 0..dice.below(8) {
                    let Odds { parks, parks_deletion, .. } = self.odds;
                    self.apply(at, from, |change| {
                        dice.one_in(if change.deleted { parks_deletion } else { parks })
                    });
                }
            }
            6 => {
                // What waits may wait for long.
                for change in std::mem::take(&mut self.members[at].parked) {
                    let member = &mut self.members[at];
                    if dice.one_in(self.odds.goes_on) {
                        member.put(change)
                    } else {
                        member.parked.push(change)
                    }
                }
            }
            7 | 8 => {
                let member = &mut self.members[at];
                if member.sweep.is_none() {
                    member.round += 1;
                    let mark = Mark { round: member.round, known: member.known(at) };
                    let others = (0..MEMBERS).filter(|other| *other != at).map(self::member);
                    member.sweep = Some(Sweep::begin(mark, others));
                }
            }
            9 | 10 => {
                let report = self.members[at].report(at, way);
                self.reports.extend((0..MEMBERS).filter(|to| *to != at).map(|to| (to, report.clone())));
            }
            11..=14 => {
                for _ in 0..dice.below(8) {
                    if let Some((to, report)) = self.reports.pop_front()
                        && let Some(sweep) = &mut self.members[to].sweep
                    {
                        sweep.hear(&report);
                    }
                }
            }
            _ => {
                let now = self.now + self.skew[at];
                self.members[at].sweep(at, now, way);
            }
        }
    }

    /// Everything arrives, and all that waits is tried again.
    fn end(&mut self) {
        for at in 0..MEMBERS {
            for from in (0..MEMBERS).filter(|from| *from != at) {
                while self.apply(at, from, |_| false) {}
            }
            let waiting = std::mem::take(&mut self.members[at].parked);
            waiting.into_iter().for_each(|change| self.members[at].put(change));
        }
    }
}

/// At the end each row is what was written last of it, everywhere. Returns how many tombstones went on the way.
fn walk(seed: u64, way: Way) -> Result<u64, String> {
    let mut dice = Dice(seed);
    let mut platform = Platform {
        now: 1,
        skew: [0; MEMBERS].map(|_| dice.below(SKEW)),
        members: Default::default(),
        reports: VecDeque::new(),
        written: BTreeMap::new(),
        odds: *dice.pick(&ODDS),
    };
    let mut swept = 0;
    for _ in 0..600 {
        let before: usize = platform.members.iter().map(|member| member.rows.len()).sum();
        platform.step(&mut dice, way);
        let after: usize = platform.members.iter().map(|member| member.rows.len()).sum();
        swept += before.saturating_sub(after) as u64;
    }
    platform.end();
    for (at, member) in platform.members.iter().enumerate() {
        for (key, last) in &platform.written {
            let there = member.rows.get(key);
            let lives = there.is_some_and(|state| state.deleted.is_none());
            if lives == last.deleted || lives && there.is_some_and(|state| state.stamp != last.stamp) {
                return Err(format!("row {key} at {at} is {there:?}, and was last {last:?}"));
            }
        }
    }
    Ok(swept)
}

#[test]
fn nothing_that_was_deleted_comes_back() {
    hold(1_500, |seed| walk(seed, Way::Right).map(drop));
    let swept: u64 = (0..500).filter_map(|seed| walk(seed, Way::Right).ok()).sum();
    assert!(swept > 300, "a sweep that takes nothing proves nothing: {swept}");
}

#[test]
fn sweeps_that_bring_rows_back_are_found() {
    let ways =
        [Way::Early, Way::Unheard, Way::ParkedIgnored, Way::ParkedElsewhereIgnored, Way::ByAge, Way::Young];
    for way in ways {
        assert!((0..4_000).any(|seed| walk(seed, way).is_err()), "{way:?} was not found");
    }
}

#[test]
fn a_sweep_waits_for_each_member_and_for_what_it_wrote() {
    let known = |positions: &[(usize, usize)]| {
        Known(positions.iter().map(|(at, position)| (region(*at), through(*position))).collect())
    };
    let mark = Mark { round: 2, known: known(&[(0, 5), (1, 3), (2, 0)]) };
    let report = |at: usize, applied: &[(usize, usize)], written| Report {
        member: member(at),
        applied: known(applied),
        written: through(written),
        holds: false,
    };
    let mut sweep = Sweep::begin(mark, [member(1), member(2)]);
    sweep.hear(&report(1, &[(0, 4), (2, 0)], 9));
    assert_eq!(sweep.waiting().count(), 2, "it has not applied all of it");
    sweep.hear(&Report { holds: true, ..report(1, &[(0, 5), (2, 0)], 9) });
    assert_eq!(sweep.waiting().count(), 2, "a deletion waits there");
    sweep.hear(&report(1, &[(0, 5), (2, 0)], 9));
    sweep.hear(&report(1, &[(0, 9), (2, 9)], 99));
    let returned =
        Report { member: Member { incarnation: 2, ..member(2) }, ..report(2, &[(0, 9), (1, 9)], 1) };
    sweep.hear(&returned);
    assert_eq!(sweep.waiting().collect::<Vec<_>>(), [&member(2)], "another incarnation is another member");
    sweep.hear(&report(2, &[(0, 5), (1, 3)], 4));
    assert!(!sweep.may_go(&known(&[(1, 8), (2, 4)])), "it wrote more before it said so");
    assert!(sweep.may_go(&known(&[(1, 9), (2, 4)])), "what it wrote after it said so does not matter");
    let mut other = known(&[(1, 9), (2, 4)]);
    other.0.get_mut(&region(2)).unwrap().identity.incarnation = "b".into();
    assert!(!sweep.may_go(&other), "positions of another log mean nothing");
}
