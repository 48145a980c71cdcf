//! Tombstones of several regions' copies: when they go, and what keeps them.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use portolan_core::ids::{RegionName, ShardName};
use portolan_test_postgres::Place;

use super::shard::Shard;
use super::{Follower, Near, region, until};
use crate::sweeping::{Sweeping, Swept};

type Ways = BTreeMap<RegionName, Near>;

/// Goes steps until one ends a round; gives how many tombstones went.
pub(super) async fn sweep(sweeping: &mut Sweeping, shard: &Shard, ways: &Ways) -> u64 {
    let (name, mut gone) = (ShardName::new("s1").unwrap(), None);
    until("the sweep", async || {
        let swept = sweeping.step(&name, &shard.store, ways).await.unwrap();
        gone = swept.ends.then_some(swept.gone);
        gone.is_some()
    })
    .await;
    gone.unwrap()
}

pub(super) async fn deletions_go_when_all_have_them(place: Place) {
    let (eu, us) = (Shard::primary(&place, "eu").await, Shard::replica(&place, "us").await);
    eu.fill(1..=20).await;
    let (to_us, to_eu) = (Near::to(&eu.store, "us"), Near::to(&us.store, "eu"));
    let follower = Follower::start(&to_us, "eu", &us.store);
    until("the copy", async || us.rows().await.len() == 20).await;
    let (ways_of_eu, ways_of_us): (Ways, Ways) =
        ([(region("us"), to_eu.clone())].into(), [(region("eu"), to_us.clone())].into());
    let name = ShardName::new("s1").unwrap();
    let (mut at_eu, mut at_us) = (Sweeping::default(), Sweeping::default());
    // Nothing was deleted: nobody is asked.
    assert_eq!(at_eu.step(&name, &eu.store, &ways_of_eu).await.unwrap(), Swept::default());
    eu.write("DELETE FROM notes WHERE id <= 15").await;
    until("the deletions", async || us.rows().await.len() == 5).await;
    // They are younger than a clock may be wrong by: the round ends, and they stay.
    assert_eq!(sweep(&mut at_eu, &eu, &ways_of_eu).await, 0);
    eu.age_deletions().await;
    us.age_deletions().await;
    assert_eq!(sweep(&mut at_eu, &eu, &ways_of_eu).await, 15);
    assert_eq!(eu.store.count_tombstones().await.unwrap(), 0);
    assert_eq!(us.store.count_tombstones().await.unwrap(), 15, "each sweeps its own");
    assert_eq!(sweep(&mut at_us, &us, &ways_of_us).await, 15);
    assert_eq!(us.store.count_tombstones().await.unwrap(), 0);
    eu.fill(1..=3).await;
    until("rows of the same names", async || us.rows().await == eu.rows().await).await;

    // One that is away has not said that it knows: nothing goes.
    drop(follower);
    to_eu.cut.store(true, Ordering::Relaxed);
    eu.write("DELETE FROM notes").await;
    eu.age_deletions().await;
    for _ in 0..3 {
        let swept = at_eu.step(&name, &eu.store, &ways_of_eu).await.unwrap();
        assert_eq!((swept.gone, swept.waiting), (0, vec![region("us")]));
    }
    // One that answers and has not applied them says no more.
    to_eu.cut.store(false, Ordering::Relaxed);
    for _ in 0..5 {
        let swept = at_eu.step(&name, &eu.store, &ways_of_eu).await.unwrap();
        assert_eq!((swept.gone, swept.waiting), (0, vec![region("us")]));
    }
    assert_eq!(eu.store.count_tombstones().await.unwrap(), 8);
    let _follower = Follower::start(&to_us, "eu", &us.store);
    assert_eq!(sweep(&mut at_eu, &eu, &ways_of_eu).await, 8);
}

/// A copy that is being made says nothing of itself.
pub(super) async fn who_has_no_rows_yet_bars(place: Place) {
    let (eu, us) = (Shard::primary(&place, "eu").await, Shard::replica(&place, "us").await);
    eu.fill(1..=4).await;
    eu.write("DELETE FROM notes WHERE id = 1").await;
    eu.age_deletions().await;
    let ways: Ways = [(region("us"), Near::to(&us.store, "eu"))].into();
    let (name, mut sweeping) = (ShardName::new("s1").unwrap(), Sweeping::default());
    for _ in 0..3 {
        let swept = sweeping.step(&name, &eu.store, &ways).await.unwrap();
        assert_eq!((swept.gone, swept.waiting), (0, vec![region("us")]));
    }
    // A region that keeps no copy any more is waited for no longer.
    assert_eq!(sweep(&mut sweeping, &eu, &Ways::new()).await, 1);
}
