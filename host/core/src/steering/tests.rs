//! Envoy's published tables, and what holds for all levels.

use proptest::prelude::*;

use super::*;

const BREAKER: BreakerLimits =
    BreakerLimits { failures: 2, pause_min: Duration::from_secs(1), pause_max: Duration::from_secs(4) };
const RAMP: Duration = Duration::from_secs(30);

fn at(millis: u64) -> Moment {
    Moment(millis * 1_000)
}

fn levels(healthy: &[u32]) -> Vec<Level> {
    healthy.iter().map(|&healthy| Level { healthy, share: 100 }).collect()
}

/// Envoy rounds to whole percents and down: one percent of difference is that.
fn check(healthy: &[u32], percents: &[u32], panics: &[bool]) {
    let loads = Loads::of(&levels(healthy), 50);
    for (part, percent) in loads.parts.iter().zip(percents) {
        assert!(part.abs_diff(percent * 100) <= 100, "{healthy:?}: {:?} is not {percents:?}", loads.parts);
    }
    assert_eq!(loads.panics.as_slice(), panics, "{healthy:?}");
}

/// Envoy, "Priority levels": two and three levels.
#[test]
fn the_published_table_of_priorities_holds() {
    let calm = [false; 3];
    for (healthy, percents) in [
        ([100, 100, 100], [100, 0, 0]),
        ([72, 72, 100], [100, 0, 0]),
        ([71, 71, 100], [99, 1, 0]),
        ([50, 50, 100], [70, 30, 0]),
        ([25, 100, 100], [35, 65, 0]),
        ([25, 25, 100], [35, 35, 30]),
    ] {
        check(&healthy, &percents, &calm);
    }
    check(&[25, 25, 20], &[36, 36, 28], &[true; 3]);
    check(&[0, 100], &[0, 100], &[false; 2]);
}

/// Envoy, "Panic threshold": two levels with the threshold at 50 %.
#[test]
fn the_published_table_of_panic_holds() {
    check(&[72, 72], &[100, 0], &[false, false]);
    check(&[71, 71], &[99, 1], &[false, false]);
    check(&[50, 60], &[70, 30], &[false, false]);
    check(&[25, 100], &[35, 65], &[false, false]);
    check(&[25, 25], &[50, 50], &[true, true]);
    check(&[5, 65], &[7, 93], &[true, false]);
}

#[test]
fn with_nothing_well_the_wish_stands_and_all_panic() {
    let loads = Loads::of(&levels(&[0, 0]), 50);
    assert_eq!(loads.parts.as_slice(), [WHOLE, 0]);
    assert_eq!(loads.panics.as_slice(), [true, true]);
    assert_eq!(Loads::of(&[], 50).order(7).len(), 0);
}

#[test]
fn a_region_that_is_out_takes_what_no_other_can() {
    let out = Level { healthy: 100, share: 0 };
    let loads = Loads::of(&[out, Level { healthy: 100, share: 100 }], 50);
    assert_eq!(
        (loads.parts.as_slice(), loads.order(1).as_slice()),
        ([0, WHOLE].as_slice(), [1, 0].as_slice())
    );
    assert_eq!(Loads::of(&[out], 50).parts.as_slice(), [WHOLE]);
}

#[test]
fn a_gate_opens_lets_one_probe_pass_and_ramps_up() {
    let gate = Gate::default();
    let run = |forwarded, now| gate.start(now).map(|pass| gate.finish(pass, forwarded, &BREAKER, now));
    assert_eq!(run(Forwarded::Failed, at(0)), Some(false));
    assert_eq!(run(Forwarded::Failed, at(0)), Some(true));
    assert_eq!((gate.share(RAMP, at(999)), run(Forwarded::Served, at(999))), (0, None));
    assert_eq!(gate.share(RAMP, at(1_000)), 100, "for whoever takes the probe");
    let probe = gate.start(at(1_000)).unwrap();
    assert!(gate.start(at(1_000)).is_none() && gate.share(RAMP, at(1_000)) == 0, "one at a time");
    assert!(!gate.finish(probe, Forwarded::Served, &BREAKER, at(1_000)));
    assert_eq!(
        [0, 15_000, 29_000, 30_000].map(|later| gate.share(RAMP, at(1_000 + later))),
        [5, 52, 96, 100]
    );
    assert_eq!(gate.share(Duration::ZERO, at(1_000)), 100, "without a ramp it is all back at once");
    let away = gate.start(at(2_000)).unwrap();
    assert!(!gate.finish(away, Forwarded::Neutral, &BREAKER, at(2_000)) && !gate.is_open());
}

#[test]
fn a_plan_says_what_regions_keep() {
    let name = |text| RegionName::new(text).unwrap();
    let detour = Detour { percent: 25, target: name("us") };
    let traffic = Traffic {
        changing: BTreeMap::new(),
        detours: BTreeMap::from([(name("eu"), detour)]),
        out: BTreeSet::from([name("ap")]),
        unwritten: BTreeSet::new(),
    };
    assert_eq!(["eu", "us", "ap"].map(|region| traffic.share(&name(region))), [75, 100, 0]);
    assert_eq!((traffic.target(&name("eu")), traffic.target(&name("ap"))), (Some(&name("us")), None));
    let steering = Steering::default();
    assert!(steering.publish(traffic.clone()) && !steering.publish(traffic.clone()));
    assert_eq!(**steering.load(), traffic);
}

fn some_levels() -> impl Strategy<Value = Vec<Level>> {
    let level = (0_u32..=100, 0_u32..=100).prop_map(|(healthy, share)| Level { healthy, share });
    prop::collection::vec(level, 1..8)
}

proptest! {
    #[test]
    fn all_of_the_traffic_goes_somewhere_and_every_level_is_in_the_order(levels in some_levels(), hash: u64) {
        let loads = Loads::of(&levels, 50);
        prop_assert_eq!(loads.parts.iter().sum::<u32>(), WHOLE);
        let mut order = loads.order(hash);
        prop_assert!(loads.parts[order[0]] > 0);
        order.sort_unstable();
        prop_assert_eq!(order.into_vec(), (0..levels.len()).collect::<Vec<_>>());
    }

    /// While others can take what a level gives up, only that moves: nobody else's request changes its region.
    #[test]
    fn only_the_share_that_moves_moves(before in 0_u32..=100, after in 0_u32..=100, hash: u64) {
        let with = |share| Loads::of(&[Level { healthy: 100, share }, Level { healthy: 100, share: 100 }], 50);
        let (one, other) = (with(before.max(after)).order(hash)[0], with(before.min(after)).order(hash)[0]);
        prop_assert!(one == other || (one == 0 && other == 1));
        let moved = (0..100_u64).filter(|step| {
            let hash = step * 100;
            with(before).order(hash)[0] != with(after).order(hash)[0]
        });
        prop_assert_eq!(u32::try_from(moved.count()).unwrap(), before.abs_diff(after));
    }

    #[test]
    fn more_health_never_brings_a_level_less(levels in some_levels(), more in 0_u32..=100) {
        let mut better = levels.clone();
        better[0].healthy = (better[0].healthy + more).min(100);
        prop_assert!(Loads::of(&better, 50).parts[0] + 8 >= Loads::of(&levels, 50).parts[0]);
    }
}
