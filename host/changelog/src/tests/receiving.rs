//! What other regions have received of a log, and what none has.

use std::collections::BTreeSet;
use std::time::Duration;

use portolan_core::ids::RegionName;
use portolan_core::log::Position;
use portolan_core::time::Moment;

use super::capture::{notes_shard, read, settled};
use super::place::Place;
use crate::Retention;
use crate::defaults::{LOG_AGE_MIN, RECEIPTS_LOOK};

fn region(name: &str) -> RegionName {
    RegionName::new(name).unwrap()
}

pub(super) async fn what_others_have_is_heard_or_read(place: Place) {
    let shard = notes_shard(&place, "eu").await;
    let (store, us, ap) = (&shard.store, region("us"), region("ap"));
    let identity = store.identity().await.unwrap();
    let mut watching = store.watch_receipts();
    for peer in [&us, &ap] {
        store.begin_peer(peer, &identity, Position::START).await.unwrap();
    }
    place.direct(&shard, "acme").await.ok("INSERT INTO notes VALUES ('acme', 1, 'a')").await;
    let tip = store.tip().await.unwrap();
    store.heard(&us, &identity, tip);
    watching.changed().await;
    assert_eq!(watching.now().0, [(us.clone(), tip)].into());
    // What another node has heard is in the database, which is looked at now and then.
    store.peer_acknowledges(&ap, &identity, tip, tip).await.unwrap();
    let first = Moment(1_000_000);
    store.look_at_receipts(first).await.unwrap();
    watching.changed().await;
    assert_eq!(watching.now().0, [(ap.clone(), tip), (us.clone(), tip)].into());
    store.unheard(&us);
    assert_eq!(watching.now().0[&us], Position::START);
    store.peer_acknowledges(&us, &identity, tip, tip).await.unwrap();
    store.look_at_receipts(first.plus(RECEIPTS_LOOK / 2)).await.unwrap();
    assert_eq!(watching.now().0[&us], Position::START, "somebody looked a moment ago");
    store.look_at_receipts(first.plus(RECEIPTS_LOOK)).await.unwrap();
    assert_eq!(watching.now().0[&us], tip);
    // Who begins anew has nothing again.
    store.heard(&us, &identity, tip);
    store.begin_peer(&us, &identity, tip).await.unwrap();
    store.look_at_receipts(first.plus(RECEIPTS_LOOK * 2)).await.unwrap();
    assert_eq!(watching.now().0[&us], Position::START);
}

pub(super) async fn what_nobody_has_received_is_as_old_as_its_oldest(place: Place) {
    let shard = notes_shard(&place, "eu").await;
    let (store, us, ap) = (&shard.store, region("us"), region("ap"));
    let identity = store.identity().await.unwrap();
    let others: BTreeSet<RegionName> = [us.clone(), ap.clone()].into();
    let exposed = async || store.look_at_exposure(&others).await.unwrap().exposed();
    assert_eq!(exposed().await, Duration::ZERO, "there is nothing to lose");
    let mut direct = place.direct(&shard, "acme").await;
    direct.ok("INSERT INTO notes VALUES ('acme', 1, 'a')").await;
    settled(store).await;
    let first = read(store, Position::START).await.records[0].clone();
    let look = store.look_at_exposure(&others).await.unwrap();
    assert_eq!((look.oldest_us, look.trimmed_age), (Some(first.at_us), None), "nobody follows");
    for peer in [&us, &ap] {
        store.begin_peer(peer, &identity, store.tip().await.unwrap()).await.unwrap();
    }
    assert_eq!(
        store.look_at_exposure(&others).await.unwrap().oldest_us,
        Some(first.at_us),
        "they only copy rows"
    );
    store.peer_acknowledges(&us, &identity, first.position, Position::START).await.unwrap_err();
    store.peer_acknowledges(&us, &identity, first.position, first.position).await.unwrap();
    assert_eq!(exposed().await, Duration::ZERO);
    direct.ok("INSERT INTO notes VALUES ('acme', 2, 'b')").await;
    direct.ok("INSERT INTO notes VALUES ('acme', 3, 'c')").await;
    settled(store).await;
    let rest = read(store, first.position).await.records;
    let oldest = async || store.look_at_exposure(&others).await.unwrap().oldest_us;
    assert_eq!(oldest().await, Some(rest[0].at_us));
    // The best of them counts, and at once where it is heard here.
    store.heard(&ap, &identity, rest[0].position);
    assert_eq!(oldest().await, Some(rest[1].at_us));
    store.heard(&ap, &identity, rest[1].position);
    assert_eq!(oldest().await, None);
    assert_eq!(store.look_at_exposure(&[us.clone()].into()).await.unwrap().oldest_us, Some(rest[0].at_us));
    // What went unreceived was kept for that long at least.
    for peer in [&us, &ap] {
        assert!(store.drop_peer(peer).await.unwrap());
    }
    let at_once =
        Retention { age_min: Duration::ZERO, age_max: Duration::from_secs(3_600), bytes_max: 1 << 40 };
    let deadline = tokio::time::Instant::now() + super::place::PATIENCE;
    while store.trim(&at_once).await.unwrap().through == Position::START {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(exposed().await >= LOG_AGE_MIN);
}
