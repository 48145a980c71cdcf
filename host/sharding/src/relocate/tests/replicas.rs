//! Moves to a shard that may lose only so much.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use portolan_changelog::Store;
use portolan_core::ids::RegionName;
use portolan_core::log::Position;
use portolan_foundation::task;

use super::world::{Watcher, World, acme, lives, rows};
use crate::relocate::{Error, Event, Replicas, Seat};
use crate::schema::tests::place::{PATIENCE, Place};

/// Receives all that a shard has, in another region, until it is over.
async fn replica(store: Store, over: Arc<AtomicBool>) {
    let (us, identity) = (RegionName::new("us").unwrap(), store.identity().await.unwrap());
    while !over.load(Ordering::Relaxed) {
        let tip = store.tip().await.unwrap();
        store.peer_acknowledges(&us, &identity, tip, tip).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(super) async fn a_target_that_may_lose_little_is_copied_first(place: Place) {
    let world = World::new(&place).await;
    let (us, ap) = (RegionName::new("us").unwrap(), RegionName::new("ap").unwrap());
    let replicas = Replicas { patience: Duration::from_millis(300), regions: [ap, us.clone()].into() };
    let two = Seat { replicas: Some(replicas), ..world.two.clone() };
    let identity = two.store.identity().await.unwrap();
    // It copies rows, and has none of them for good.
    two.store.begin_peer(&us, &identity, Position::START).await.unwrap();
    let watcher = Watcher::default();
    let error = world.relocation(&world.one, &two, &watcher).run().await.unwrap_err();
    let Error::Aborted(why) = &error else { panic!("{error:?}") };
    assert!(why.contains("`ap` has received nothing, `us` has received 0.0.0"), "{why}");
    assert!(!watcher.seen.lock().unwrap().contains(&Event::Held), "nobody was held for it");
    lives(&world.one, &two, 20).await;

    let replicas = Replicas { patience: PATIENCE, regions: [us.clone()].into() };
    let two = Seat { replicas: Some(replicas), ..two };
    let over = Arc::new(AtomicBool::new(false));
    let following = task::spawn("a replica", replica(two.store.clone(), Arc::clone(&over)));
    let before = rows(&world.one).await;
    let watcher = Watcher::default();
    let pause = world.relocation(&world.one, &two, &watcher).run().await.unwrap().pause;
    over.store(true, Ordering::Relaxed);
    following.await.unwrap();
    assert!(watcher.seen.lock().unwrap().contains(&Event::Replicated) && pause < Duration::from_secs(5));
    assert_eq!(rows(&two).await, before);
    assert!(two.store.tenant(&acme()).await.unwrap().hold.is_none());
    lives(&two, &world.one, 21).await;
}
