//! Regions of two releases beside each other.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use portolan_changelog::Conflicts;
use portolan_core::ids::{RegionName, ShardName};
use portolan_foundation::clock;
use portolan_test_postgres::Place;

use super::losses::{is_alike, load};
use super::shard::Shard;
use super::sweeping::sweep;
use super::{Follower, Near, region, until};
use crate::defaults::{PROTOCOL, PROTOCOL_MIN};
use crate::report::State;
use crate::sweeping::Sweeping;

/// Three regions, of which one writes without a pause, go from the protocol before to the present one, each with new links as a restart
/// makes them. Nothing is lost or late meanwhile, and what only the present one has begins when the last has it.
pub(super) async fn regions_are_upgraded_one_after_the_other(place: Place) {
    let eu = Shard::primary(&place, "eu").await;
    let (us, ap) = (Shard::replica(&place, "us").await, Shard::replica(&place, "ap").await);
    eu.fill(1..=500).await;
    eu.write("DELETE FROM notes WHERE id <= 10").await;
    let releases: BTreeMap<&str, std::cell::Cell<u32>> =
        ["ap", "eu", "us"].map(|region| (region, std::cell::Cell::new(PROTOCOL_MIN))).into();
    // What each has of `eu`, and what it says to it of itself.
    let logs = [("us", Near::to(&eu.store, "us")), ("ap", Near::to(&eu.store, "ap"))];
    let words: BTreeMap<RegionName, Near> =
        [(region("us"), Near::to(&us.store, "eu")), (region("ap"), Near::to(&ap.store, "eu"))].into();
    let speak = || {
        let older = |other: &str| releases["eu"].get().min(releases[other].get());
        logs.iter().for_each(|(other, near)| near.speaks.store(older(other), Ordering::Relaxed));
        words.iter().for_each(|(other, near)| near.speaks.store(older(other.as_str()), Ordering::Relaxed));
    };
    speak();
    let followers =
        [Follower::start(&logs[0].1, "eu", &us.store), Follower::start(&logs[1].1, "eu", &ap.store)];
    let (name, mut sweeping, stop) =
        (ShardName::new("s1").unwrap(), Sweeping::default(), AtomicBool::new(false));
    let upgrades = async {
        until("both copies", async || {
            let following = |follower: &Follower| {
                let report = follower.cell.report(clock::now());
                report.state == State::Following && report.records > 20
            };
            followers.iter().all(following)
        })
        .await;
        for upgraded in ["ap", "eu", "us"] {
            let swept = sweeping.step(&name, &eu.store, &words).await.unwrap();
            assert_eq!(swept.gone, 0);
            assert!(swept.waiting.contains(&region("us")), "before {upgraded}: {:?}", swept.waiting);
            releases[upgraded].set(PROTOCOL);
            speak();
            for (other, near) in logs.iter().filter(|(other, _)| upgraded == "eu" || upgraded == *other) {
                let links = near.links.load(Ordering::Relaxed);
                near.breaks();
                until(other, async || near.links.load(Ordering::Relaxed) > links).await;
            }
            let records: Vec<u64> =
                followers.iter().map(|follower| follower.cell.report(clock::now()).records).collect();
            until("records over the new links", async || {
                let now = |at: usize| followers[at].cell.report(clock::now()).records;
                (0..followers.len()).all(|at| now(at) > records[at] + 5)
            })
            .await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(load(&eu, &stop), upgrades);
    for copy in [&us, &ap] {
        until("the rest", async || is_alike(&eu, copy).await).await;
        assert_eq!(copy.store.conflicts(&Conflicts::all(10)).await.unwrap(), [], "one region writes");
    }
    eu.age_deletions().await;
    assert!(sweep(&mut sweeping, &eu, &words).await >= 10, "all speak of what they have now");
}

/// One that speaks only what nobody here does is refused with what to do, and is followed once it is upgraded.
pub(super) async fn who_speaks_nothing_that_is_known_here_is_told(place: Place) {
    let (eu, us) = (Shard::primary(&place, "eu").await, Shard::replica(&place, "us").await);
    eu.fill(1..=5).await;
    let near = Near::new(&eu.store);
    near.speaks.store(PROTOCOL_MIN - 1, Ordering::Relaxed);
    let follower = Follower::start(&near, "eu", &us.store);
    until("the refusal", async || {
        let problem = follower.cell.report(clock::now()).problem;
        problem.is_some_and(|problem| problem.contains("upgrade the older one"))
    })
    .await;
    assert_eq!(us.rows().await.len(), 0);
    near.speaks.store(PROTOCOL, Ordering::Relaxed);
    until("the copy", async || is_alike(&eu, &us).await).await;
}
