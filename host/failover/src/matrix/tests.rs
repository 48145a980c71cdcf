//! Three to five regions that tell each other what they see.

use proptest::prelude::*;

use portolan_core::ids::RegionName;

use super::*;
use crate::timers::Profile;

const SECOND: u64 = 1_000_000;

fn members(count: usize) -> Members {
    Members::new(["a", "b", "c", "d", "e"].iter().take(count).map(|name| RegionName::new(name).unwrap()))
        .unwrap()
}

/// A world in which `sees` says what comes of a probe; all reports arrive unless `cut` says otherwise.
struct World {
    nodes: Vec<Matrix>,
    now: Moment,
}

impl World {
    fn new(count: usize) -> Self {
        let members = members(count);
        let probe = Profile::Default.timers().probe;
        let nodes =
            members.seats().map(|seat| Matrix::new(members.clone(), seat, probe.clone(), 1)).collect();
        Self { nodes, now: Moment(0) }
    }

    fn run(
        &mut self,
        seconds: u64,
        sees: impl Fn(usize, usize, Path) -> Outcome,
        reaches: impl Fn(usize, usize) -> bool,
    ) {
        let count = self.nodes.len();
        for _ in 0..seconds * 2 {
            self.now = Moment(self.now.0 + SECOND / 2);
            for from in 0..count {
                if self.now.0.is_multiple_of(SECOND) {
                    for to in self.nodes[from].members.seats().filter(|to| to.index() != from) {
                        for path in [Path::Ingress, Path::Peer] {
                            self.nodes[from].observe(to, path, sees(from, to.index(), path), self.now);
                        }
                    }
                }
                let report = self.nodes[from].report(self.now);
                let bytes = report.to_bytes();
                assert_eq!(bytes.len(), REPORT_BYTES);
                for to in (0..count).filter(|to| *to != from && reaches(from, *to)) {
                    let read = Report::from_bytes(&bytes, &self.nodes[to].members).unwrap();
                    assert_eq!(read, report);
                    assert!(self.nodes[to].hear(read));
                }
            }
        }
    }

    /// What a node believes of all.
    fn told(&self, node: usize) -> Vec<String> {
        self.nodes[node].verdicts(self.now).iter().map(ToString::to_string).collect()
    }
}

const GONE: Outcome = Outcome::Failed(Reason::Timeout);

fn unless(gone: bool) -> Outcome {
    if gone { GONE } else { Outcome::Ok }
}

#[test]
fn a_dead_region_is_down_for_a_majority_of_the_others() {
    let mut world = World::new(3);
    world.run(10, |_, _, _| Outcome::Ok, |_, _| true);
    assert_eq!(world.told(1), ["healthy"; 3]);
    world.run(4, |_, to, _| unless(to == 0), |from, to| from != 0 && to != 0);
    assert_eq!(world.told(1), ["down (2 of 2)", "unknown", "unknown"], "of each other they hear from one");
    // Whoever is dead sees two others dead, and doubts itself.
    assert_eq!(world.told(0), ["unknown", "unknown", "unknown"]);
}

#[test]
fn five_regions_lose_two() {
    let mut world = World::new(5);
    world.run(10, |_, _, _| Outcome::Ok, |_, _| true);
    let gone = |at: usize| at < 2;
    world.run(6, |from, to, _| unless(gone(from) || gone(to)), |from, to| !gone(from) && !gone(to));
    assert_eq!(world.told(2), ["down (3 of 4)", "down (3 of 4)", "healthy", "healthy", "healthy"]);
}

#[test]
fn one_link_that_is_cut_is_a_partition() {
    let mut world = World::new(3);
    world.run(10, |_, _, _| Outcome::Ok, |_, _| true);
    let cut = |from: usize, to: usize| (from, to) == (0, 1) || (from, to) == (1, 0);
    world.run(43, |from, to, _| unless(cut(from, to)), |from, to| !cut(from, to));
    assert_eq!(world.told(2), ["partitioned", "partitioned", "healthy"]);
    // The two at its ends hear one observer less, and say nothing of each other.
    assert_eq!(world.told(0)[1], "partitioned");
}

#[test]
fn an_observer_that_is_alone_counts_for_nobody() {
    let mut world = World::new(5);
    world.run(10, |_, _, _| Outcome::Ok, |_, _| true);
    world.run(10, |from, _, _| unless(from == 4), |_, _| true);
    for node in 0..4 {
        assert_eq!(world.told(node), ["healthy"; 5], "as node {node} sees it");
    }
    assert_eq!(world.nodes[4].doubt(world.now), Some(Doubt::Unreachable));
    let mut late = World::new(3);
    late.run(10, |_, _, _| Outcome::Ok, |_, _| true);
    let now = late.now;
    late.nodes[1].late(std::time::Duration::from_secs(3), now);
    assert_eq!(late.nodes[1].doubt(now), Some(Doubt::Late));
}

#[test]
fn certificates_that_expire_everywhere_kill_nobody() {
    let mut world = World::new(3);
    world.run(10, |_, _, _| Outcome::Ok, |_, _| true);
    let expired = |_, _, path| if path == Path::Peer { Outcome::Identity } else { Outcome::Ok };
    world.run(60, expired, |_, _| true);
    assert_eq!(world.told(0), ["gray"; 3], "reports still come another way");
    // Over the peer link none come.
    world.run(60, expired, |_, _| false);
    assert_eq!(world.told(0), ["unknown"; 3]);
}

#[test]
fn a_region_that_answers_on_one_path_is_gray() {
    let mut world = World::new(3);
    world.run(10, |_, _, _| Outcome::Ok, |_, _| true);
    world.run(10, |_, to, path| unless(to == 0 && path == Path::Ingress), |_, _| true);
    assert_eq!(world.told(1), ["gray", "healthy", "healthy"]);
    let mut world = World::new(3);
    let seat = world.nodes[0].members.seats().next().unwrap();
    for _ in 0..5 {
        let now = world.now;
        world.nodes[0].observe(seat, Path::Database, GONE, now);
        world.run(1, |_, _, _| Outcome::Ok, |_, _| true);
    }
    world.run(5, |_, _, _| Outcome::Ok, |_, _| true);
    assert_eq!(world.told(1), ["gray", "healthy", "healthy"], "it says so itself");
}

#[test]
fn reports_that_are_old_count_for_nothing() {
    let mut world = World::new(3);
    world.run(10, |_, _, _| Outcome::Ok, |_, _| true);
    let old = world.nodes[2].report(world.now);
    world.run(5, |_, _, _| Outcome::Ok, |_, _| true);
    assert!(!world.nodes[0].hear(old), "a newer one is there");
    // Nobody hears `a` any more, so what `c` says names nothing that `a` has sent lately.
    world.run(5, |_, to, _| unless(to == 0), |from, _| from != 0);
    assert_eq!(world.told(0), ["unknown"; 3]);
    assert_eq!(world.told(1), ["down (2 of 2)", "unknown", "unknown"]);
}

#[test]
fn what_is_no_report_is_refused() {
    let mut world = World::new(3);
    let bytes = world.nodes[0].report(Moment(1)).to_bytes();
    assert_eq!(Report::from_bytes(&bytes[1..], &members(3)), Err(Malformed::Size(REPORT_BYTES - 1)));
    assert_eq!(Report::from_bytes(&bytes, &members(4)), Err(Malformed::Members));
    for (at, value) in [(0, 9), (1, 7), (2, 9), (REPORT_BYTES - 6, 77)] {
        let mut odd = bytes.clone();
        odd[at] = value;
        assert_eq!(Report::from_bytes(&odd, &members(3)), Err(Malformed::Byte(at)));
    }
}

proptest! {
    #[test]
    fn no_bytes_break_a_reader(bytes in prop::collection::vec(any::<u8>(), REPORT_BYTES), valid in any::<bool>()) {
        let mut bytes = bytes;
        if valid {
            bytes[0] = 1;
            bytes[3..11].copy_from_slice(&members(3).digest().to_be_bytes());
        }
        let _read = Report::from_bytes(&bytes, &members(3));
    }

    /// Less than a majority never takes a region down, whatever anybody sees.
    #[test]
    fn a_minority_takes_nobody_down(blind in prop::collection::vec((0..5_usize, 0..5_usize), 0..12), count in 3..6_usize) {
        let mut world = World::new(count);
        world.run(6, |_, _, _| Outcome::Ok, |_, _| true);
        let sees = |from: usize, to: usize| !blind.contains(&(from, to));
        world.run(6, |from, to, _| unless(!sees(from, to)), |_, _| true);
        for node in 0..count {
            for (region, verdict) in world.nodes[node].verdicts(world.now).into_iter().enumerate() {
                let dead = (0..count).filter(|from| *from != region && !sees(*from, region)).count();
                if verdict.is_down() {
                    prop_assert!(dead * 2 > count - 1 && dead >= 2, "{dead} of {count}");
                }
            }
        }
    }
}
