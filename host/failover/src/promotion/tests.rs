//! Records that are resumed, repeated, and given up.

use proptest::prelude::*;

use super::*;
use crate::evidence::NONE;

fn region(name: &str) -> RegionName {
    RegionName::new(name).unwrap()
}

fn record(kind: Kind) -> Record {
    Record {
        number: 1,
        shard: ShardName::new("a").unwrap(),
        kind,
        automatic: true,
        from: region("eu"),
        to: region("us"),
        evidence: NONE,
        overridden: Vec::new(),
        before: Epoch(4),
        epoch: None,
        step: Step::Decided,
        decided_ms: 1,
        stepped_ms: 1,
        head_rows: 100,
        window_rows: Some(50),
        lagging: Vec::new(),
        plan: None,
        verified_by: None,
        ramp: 0,
        aborted: None,
        past: Vec::new(),
    }
}

fn sealed(rows: u64) -> Done {
    Done::Sealed(Sealed {
        epoch: Epoch(5),
        rows,
        head_rows: 0,
        age_ms: 900,
        missing: Vec::new(),
        with_primary: false,
    })
}

/// All that is done, in order.
fn all(kind: Kind) -> Vec<Done> {
    let drained = (kind == Kind::Switchover).then_some(Done::Drained(100));
    drained
        .into_iter()
        .chain([
            Done::Leased(Epoch(5)),
            sealed(100),
            Done::Fenced { epoch: Epoch(5), rows: 100 },
            Done::Opened(Epoch(5)),
            Done::Published(7),
            Done::Switched(vec![region("ap")]),
            Done::Planned(3),
            Done::Verified(region("ap")),
            Done::Ramped(5),
            Done::Ramped(25),
            Done::Ramped(50),
            Done::Ramped(100),
        ])
        .collect()
}

#[test]
fn a_promotion_goes_from_step_to_step_and_only_on() {
    for kind in [Kind::Failover, Kind::Reclaim, Kind::Switchover] {
        let mut now = record(kind);
        let mut before: Vec<Done> = Vec::new();
        for done in all(kind) {
            assert!(now.is_running() && now.work().is_some(), "{:?}", now.step);
            // What was said before says nothing new.
            for old in &before {
                assert_eq!(now.after(old, 9), Ok(None), "{old:?} at {:?}", now.step);
            }
            // What comes later is not believed.
            for later in
                all(kind).iter().skip(before.len() + 1).filter(|later| !matches!(later, Done::Ramped(_)))
            {
                assert!(now.after(later, 9).is_err(), "{later:?} at {:?}", now.step);
            }
            now = now.after(&done, 9).unwrap().unwrap();
            before.push(done);
            // Kept and read again, it goes on from there.
            now = serde_json::from_str(&serde_json::to_string(&now).unwrap()).unwrap();
        }
        assert_eq!((now.step, now.work(), now.ramp), (Step::Done, None, 100));
        assert_eq!((now.past.len(), now.lagging.len(), now.plan), (1, 1, Some(3)));
    }
}

#[test]
fn it_is_given_up_only_before_the_lease_has_moved() {
    let mut now = record(Kind::Switchover);
    for done in all(Kind::Switchover) {
        let aborted = now.after(&Done::Aborted("a drill".to_owned()), 2);
        if now.step < Step::Leased {
            let aborted = aborted.unwrap().unwrap();
            assert_eq!((aborted.step, aborted.is_running(), aborted.work()), (Step::Aborted, false, None));
            assert_eq!(aborted.after(&done, 3), Ok(None), "it does not go on");
        } else {
            assert_eq!(aborted, Err(Refused::Moved(Epoch(5))));
        }
        now = now.after(&done, 2).unwrap().unwrap();
    }
}

#[test]
fn epochs_rise_and_nobody_speaks_of_another() {
    let first = record(Kind::Failover);
    assert!(matches!(first.after(&Done::Leased(Epoch(4)), 2), Err(Refused::Stale { .. })));
    let leased = first.after(&Done::Leased(Epoch(5)), 2).unwrap().unwrap();
    let other = Sealed {
        epoch: Epoch(6),
        rows: 1,
        head_rows: 1,
        age_ms: 0,
        missing: Vec::new(),
        with_primary: false,
    };
    assert!(matches!(leased.after(&Done::Sealed(other), 2), Err(Refused::Stale { .. })));
    let sealed = leased.after(&sealed(100), 2).unwrap().unwrap();
    assert!(matches!(
        sealed.after(&Done::Fenced { epoch: Epoch(9), rows: 1 }, 2),
        Err(Refused::Stale { .. })
    ));
}

#[test]
fn a_loss_is_an_interval_and_then_a_number() {
    let leased = record(Kind::Failover).after(&Done::Leased(Epoch(5)), 2).unwrap().unwrap();
    let loss = |sealed: Sealed| {
        let next = leased.after(&Done::Sealed(sealed), 2).unwrap().unwrap();
        (next.past[0].loss.clone().unwrap(), next)
    };
    let plain = Sealed {
        epoch: Epoch(5),
        rows: 90,
        head_rows: 95,
        age_ms: 900,
        missing: Vec::new(),
        with_primary: false,
    };
    let (told, next) = loss(plain.clone());
    assert_eq!((told.at_least, told.at_most, told.span_ms), (10, Some(50), 900));
    assert_eq!(told.to_string(), "10 to 50 rows of the last 900 ms");
    assert!(told.holds(10) && told.holds(50) && !told.holds(9) && !told.holds(51));
    // Another copy that does not answer may have more, and then nothing bounds it.
    let (open, _) = loss(Sealed { missing: vec![region("ap")], ..plain });
    assert_eq!((open.at_least, open.at_most), (10, None));
    let (none, _) = loss(Sealed { with_primary: true, ..plain });
    assert_eq!(none, Loss::none());
    let eu = region("eu");
    assert_eq!(next.uncounted(&eu).count(), 1);
    let counted = next.after(&Done::Counted { number: 1, rows: 12 }, 3).unwrap().unwrap();
    assert_eq!(counted.past[0].loss.as_ref().unwrap().to_string(), "12 rows");
    assert_eq!(counted.uncounted(&eu).count(), 0);
    assert_eq!(counted.after(&Done::Counted { number: 1, rows: 13 }, 3), Ok(None), "once");
    // What came after all, before the epoch began, is not lost.
    let began = next.after(&Done::Fenced { epoch: Epoch(5), rows: 93 }, 3).unwrap().unwrap();
    assert_eq!(began.past[0].loss.as_ref().map(|loss| (loss.at_least, loss.at_most)), Some((7, Some(50))));
    assert_eq!(began.past[0].cut_rows, Some(93));
    assert_eq!(counted.step, Step::Sealed, "the promotion itself goes on as it was");
}

#[test]
fn a_planned_switchover_loses_nothing() {
    let drained = record(Kind::Switchover).after(&Done::Drained(120), 2).unwrap().unwrap();
    let leased = drained.after(&Done::Leased(Epoch(5)), 2).unwrap().unwrap();
    assert_eq!(leased.after(&sealed(119), 3), Err(Refused::Rows { has: 119, wanted: 120 }));
    let next = leased.after(&sealed(120), 3).unwrap().unwrap();
    assert_eq!(next.past[0].loss, Some(Loss::none()));
}

proptest! {
    /// Whatever is said in whatever order, steps only rise, and the epoch never changes once it is there.
    #[test]
    fn nothing_goes_back(said in prop::collection::vec(0..14_usize, 0..200), kind in 0..3_usize) {
        let kind = [Kind::Failover, Kind::Reclaim, Kind::Switchover][kind];
        let mut possible = all(kind);
        possible.push(Done::Aborted("a drill".to_owned()));
        let mut now = record(kind);
        for which in said {
            let Ok(Some(next)) = now.after(&possible[which % possible.len()], 2) else { continue };
            prop_assert!(next.step >= now.step && next.ramp >= now.ramp);
            prop_assert!(now.epoch.is_none() || next.epoch == now.epoch);
            prop_assert!(next.step != Step::Aborted || now.epoch.is_none());
            now = next;
        }
    }
}
