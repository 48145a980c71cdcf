//! A holder and a challenger at one store, with clocks and a network between them.

use std::time::Duration;

use proptest::prelude::*;

use portolan_core::ids::ShardName;
use portolan_core::log::Epoch;
use portolan_core::time::Moment;

use super::*;
use crate::store::{Answer, Key, Request, Revision, Table, Transaction, Value};
use crate::timers::Profile;

fn region(name: &str) -> RegionName {
    RegionName::new(name).unwrap()
}

fn at(ms: u64) -> Moment {
    Moment(ms * 1_000)
}

fn holder(failsafe: bool) -> Holder {
    let timers = crate::timers::Lease { failsafe, ..Profile::Default.timers().lease };
    Holder::new(region("eu"), [region("us"), region("ap")].into(), timers)
}

/// Answers a request as the store would.
fn serve(table: &mut Table, request: &Request) -> Answer {
    match request {
        Request::Scan => Answer::Entries(table.clone()),
        Request::Commit(change) => table.commit(change).map_or(Answer::Conflict, Answer::Committed),
    }
}

/// Lets a holder do what it wants, each request being answered so long after it was sent.
fn turn(holder: &mut Holder, table: &mut Table, ms: u64, delay_ms: u64) {
    let mut now = ms;
    while let Some((number, request)) = holder.tick(at(now)) {
        let answer = serve(table, &request);
        now += delay_ms;
        holder.answered(number, &answer, at(now));
    }
}

fn challenger(table: &Table, ms: u64) -> Challenger {
    let mut challenger = Challenger::new(region("us"), region("eu"), Duration::from_millis(500));
    look(&mut challenger, table, ms);
    challenger
}

fn look(challenger: &mut Challenger, table: &Table, ms: u64) {
    challenger.observe(table.revision(&Key::Lease(region("eu"))), table.lease(&region("eu")), at(ms));
}

#[test]
fn a_lease_counts_from_when_it_was_asked_for() {
    let (mut holder, mut table) = (holder(false), Table::default());
    turn(&mut holder, &mut table, 1_000, 1_500);
    // A look first; the renewal was sent at 2,500 and lasts for 7,500 from then, whenever its answer came.
    assert_eq!(holder.until(), Some(at(10_000)));
    assert!(holder.allows(at(9_999)) && !holder.allows(at(10_000)));
    assert_eq!(holder.incarnation(), Some(Incarnation(1)));
    // An answer that never comes changes nothing, and what was asked is asked again.
    let (_, lost) = holder.tick(at(5_500)).unwrap();
    serve(&mut table, &lost);
    assert!(holder.tick(at(7_499)).is_none());
    turn(&mut holder, &mut table, 7_500, 10);
    assert_eq!((holder.until(), table.lease(&region("eu")).unwrap().renewals), (Some(at(15_010)), 2));
}

#[test]
fn a_clock_that_goes_back_ends_permission() {
    let (mut holder, mut table) = (holder(false), Table::default());
    turn(&mut holder, &mut table, 100_000, 1);
    assert!(holder.allows(at(100_500)));
    holder.tick(at(50_000));
    assert!(!holder.allows(at(50_001)));
    // One that jumps forward has used the time up.
    turn(&mut holder, &mut table, 60_000, 1);
    assert!(!holder.allows(at(160_000)));
}

#[test]
fn gateways_of_one_region_renew_the_same_lease() {
    let (mut one, mut other, mut table) = (holder(false), holder(false), Table::default());
    turn(&mut one, &mut table, 0, 1);
    turn(&mut other, &mut table, 1_000, 1);
    assert_eq!(other.incarnation(), Some(Incarnation(1)), "it is the region's");
    turn(&mut one, &mut table, 3_500, 1);
    assert!(
        one.until() > Some(at(10_900)),
        "a conflict is looked at and asked again at once: {:?}",
        one.until()
    );
    assert_eq!(table.lease(&region("eu")).unwrap().incarnation, Incarnation(1));
}

#[test]
fn a_challenger_waits_for_all_that_the_holder_may_have() {
    let (mut holder, mut table) = (holder(false), Table::default());
    turn(&mut holder, &mut table, 0, 1);
    let mut challenger = challenger(&table, 100);
    assert_eq!(challenger.wait(at(200)), Wait::Until(at(9_600)));
    assert_eq!(challenger.wait(at(9_599)), Wait::Until(at(9_600)));
    assert_eq!(challenger.wait(at(9_600)), Wait::Over);
    // A renewal that it had not heard of: the store does not take what it wants.
    let stale = challenger.take().unwrap();
    turn(&mut holder, &mut table, 4_000, 1);
    assert!(table.commit(&stale).is_err());
    look(&mut challenger, &table, 9_700);
    assert_eq!(challenger.wait(at(9_700)), Wait::Until(at(19_200)));
    // Seen late is waited for longer, never less; a clock that goes back begins anew.
    assert_eq!(challenger.wait(at(5_000)), Wait::Until(at(14_500)));
    assert_eq!(challenger.wait(at(14_500)), Wait::Over);
    table.commit(&challenger.take().unwrap()).unwrap();
    turn(&mut holder, &mut table, 20_000, 1);
    assert_eq!(holder.incarnation(), Some(Incarnation(2)), "whoever comes back begins anew");
}

#[test]
fn a_lease_that_is_made_shorter_is_waited_for_as_it_was() {
    let (mut holder, mut table) = (holder(false), Table::default());
    let long = crate::timers::Lease { ttl: Duration::from_secs(60), ..Profile::Default.timers().lease };
    let short = Profile::Default.timers().lease;
    holder.retime(long);
    turn(&mut holder, &mut table, 0, 1);
    assert!(holder.until() > Some(at(58_000)));
    let mut challenger = challenger(&table, 5);
    holder.retime(short);
    let (number, request) = holder.tick(at(4_000)).unwrap();
    assert_eq!(holder.until(), Some(at(11_500)), "already when it is sent");
    let answer = serve(&mut table, &request);
    holder.answered(number, &answer, at(4_005));
    look(&mut challenger, &table, 4_003);
    assert!(matches!(challenger.wait(at(20_000)), Wait::Until(_)));
}

#[test]
fn shards_fall_with_the_lease_that_they_cite_and_one_may_be_released_alone() {
    let (mut eu, mut table) = (holder(false), Table::default());
    turn(&mut eu, &mut table, 0, 1);
    let names = ["a", "b"].map(|name| ShardName::new(name).unwrap());
    for name in &names {
        let by = (&region("eu"), Incarnation(1), eu.revision().unwrap());
        let (change, owned) = acquire(&table, (name, Epoch(0)), by, None).unwrap();
        assert_eq!(owned.epoch, Epoch(1));
        table.commit(&change).unwrap();
    }
    let entry = Entry {
        incarnation: Incarnation(1),
        renewals: 0,
        ttl_ms: 9_000,
        standing: Standing::Held,
        failsafe: BTreeSet::new(),
    };
    table.commit(&Transaction::one(Key::Lease(region("us")), Revision(0), Value::Lease(entry))).unwrap();
    let revision = table.revision(&Key::Lease(region("us")));
    let by = (&region("us"), Incarnation(1), revision);
    assert_eq!(acquire(&table, (&names[0], Epoch(0)), by, None), Err(Stands::Held(region("eu"))));
    table.commit(&release(&table, &names[0], &region("eu"), Epoch(1)).unwrap()).unwrap();
    let (change, owned) = acquire(&table, (&names[0], Epoch(0)), by, None).unwrap();
    assert_eq!((owned.epoch, owned.primary), (Epoch(2), region("us")));
    table.commit(&change).unwrap();
    assert!(table.commit(&change).is_err(), "once");
    // The other one falls with the lease; a region that holds none acquires nothing.
    let mut challenger = challenger(&table, 0);
    assert_eq!(challenger.wait(at(9_500)), Wait::Over);
    let (taken, owned) = acquire(&table, (&names[1], Epoch(0)), by, Some(&region("eu"))).unwrap();
    table.commit(&challenger.take().unwrap().and(taken)).unwrap();
    assert_eq!(owned.epoch, Epoch(2));
    let by = (&region("eu"), Incarnation(1), table.revision(&Key::Lease(region("eu"))));
    assert_eq!(acquire(&table, (&names[1], Epoch(0)), by, None), Err(Stands::NoLease(region("eu"))));
    assert_eq!(mint(Epoch(u64::MAX)), Err(Stands::Exhausted(Epoch(u64::MAX))));
}

#[test]
fn the_failsafe_rule_takes_all_regions_and_binds_them() {
    let (mut eu, mut table) = (holder(true), Table::default());
    turn(&mut eu, &mut table, 0, 1);
    let mut us = challenger(&table, 10);
    let round = eu.ask_all(at(5_000)).unwrap();
    assert!(us.acknowledge(round.incarnation, at(5_100)));
    eu.acknowledged(&region("us"), round.number, at(5_200));
    assert_eq!(eu.until(), Some(at(7_501)), "a majority is not enough");
    eu.acknowledged(&region("ap"), round.number, at(5_300));
    assert_eq!(eu.until(), Some(at(12_500)));
    assert_eq!(us.wait(at(10_000)), Wait::Until(at(14_600)), "and who has acknowledged waits");
    assert!(!us.acknowledge(Incarnation(2), at(10_000)), "of what it does not know it acknowledges nothing");
    // Whoever was not asked never takes it.
    let mut sa = Challenger::new(region("sa"), region("eu"), Duration::from_millis(500));
    look(&mut sa, &table, 0);
    assert!(matches!(sa.wait(at(600_000)), Wait::Barred(_)));
    let mut off = holder(false);
    turn(&mut off, &mut table, 0, 1);
    assert_eq!(off.ask_all(at(5_000)), None, "it is off by default");
}

#[test]
fn a_region_that_leaves_stops_before_it_says_so() {
    let (mut eu, mut table) = (holder(false), Table::default());
    turn(&mut eu, &mut table, 0, 1);
    let (_, request) = eu.release().unwrap();
    assert_eq!(eu.until(), None);
    serve(&mut table, &request);
    assert_eq!(challenger(&table, 10).wait(at(10)), Wait::Free);
    assert!(eu.tick(at(60_000)).is_none(), "it does not come back by itself");
}

proptest! {
    /// Whatever is delayed or lost, and however clocks run within what they may, the holder has stopped when the challenger's change is taken.
    #[test]
    fn no_two_at_one_instant(
        delays in prop::collection::vec((0..2_500_u64, 0..2_500_u64, any::<bool>()), 1..30),
        (ppm_holder, ppm_challenger) in (-200..=200_i64, -200..=200_i64),
        looks in 50..1_500_u64,
    ) {
        let clock = |true_ms: u64, ppm: i64| {
            Moment(u64::try_from(i128::from(true_ms) * i128::from(1_000_000 + ppm) / 1_000).unwrap() + 77)
        };
        let (mut holder, mut table) = (holder(false), Table::default());
        let mut challenger = Challenger::new(region("us"), region("eu"), Duration::from_millis(500));
        // Requests under way: when they come to the store, and their answers to the holder.
        let mut under_way: Vec<(u64, u64, bool, u64, Request)> = Vec::new();
        let mut answers: Vec<(u64, u64, Answer)> = Vec::new();
        let (mut delays, mut taken) = (delays.into_iter(), None);
        for now in (0..90_000).step_by(10) {
            if let Some((number, request)) = holder.tick(clock(now, ppm_holder)) {
                // When no more delays are drawn, nothing arrives any more.
                if let Some((there, back, lost)) = delays.next() {
                    under_way.push((now + there, now + there + back, lost, number, request));
                }
            }
            for (at, back, lost, number, request) in std::mem::take(&mut under_way) {
                if at > now {
                    under_way.push((at, back, lost, number, request));
                    continue;
                }
                let answer = serve(&mut table, &request);
                if !lost {
                    answers.push((back, number, answer));
                }
            }
            for (at, number, answer) in std::mem::take(&mut answers) {
                if at > now {
                    answers.push((at, number, answer));
                } else {
                    holder.answered(number, &answer, clock(now, ppm_holder));
                }
            }
            if taken.is_none() && now % looks < 10 {
                challenger.observe(table.revision(&Key::Lease(region("eu"))), table.lease(&region("eu")), clock(now, ppm_challenger));
                if challenger.wait(clock(now, ppm_challenger)) == Wait::Over && table.commit(&challenger.take().unwrap()).is_ok() {
                    taken = Some(now);
                    prop_assert!(!holder.allows(clock(now, ppm_holder)), "at {now}");
                }
            }
        }
        prop_assert!(taken.is_some() || table.lease(&region("eu")).is_none(), "nothing arrives any more, and nobody takes it");
    }
}
