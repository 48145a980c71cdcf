//! The log at its source: who follows it, what is kept for whom, and what goes.

use std::time::Duration;

use portolan_core::ids::{RegionName, TenantName};
use portolan_core::log::{Epoch, Identity, Position};

use super::capture::{notes_shard, read};
use super::place::{PATIENCE, Place};
use crate::defaults::PEERS_MAX;
use crate::{Closed, Error, Limits, PeerRefused, Reach, Reached, Retention, Store, Trimmed};

/// Keeps nothing that nobody waits for.
const AT_ONCE: Retention =
    Retention { age_min: Duration::ZERO, age_max: Duration::from_secs(3_600), bytes_max: 1 << 40 };

/// From one look to the next: what is waited for is other cases' work, which goes on meanwhile.
const LOOK: Duration = Duration::from_millis(20);

fn region(name: &str) -> RegionName {
    RegionName::new(name).unwrap()
}

/// Trims until it is so: cases beside this one have transactions that are open, and look at pieces that are to go.
async fn trim_until(store: &Store, limits: &Retention, done: impl Fn(&Trimmed) -> bool) -> Trimmed {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let trimmed = store.trim(limits).await.unwrap();
        if done(&trimmed) {
            return trimmed;
        }
        assert!(tokio::time::Instant::now() < deadline, "{trimmed:?}");
        tokio::time::sleep(LOOK).await;
    }
}

async fn refused(done: impl Future<Output = Result<(), Error>>) -> PeerRefused {
    match done.await {
        Err(Error::Peer(why)) => why,
        other => panic!("{other:?}"),
    }
}

pub(super) async fn a_log_goes_when_all_have_it(place: Place) {
    let shard = notes_shard(&place, "eu").await;
    let (store, us) = (&shard.store, region("us"));
    let identity = store.identity().await.unwrap();
    store.begin_peer(&us, &identity, Position::START).await.unwrap();
    let mut direct = place.direct(&shard, "acme").await;
    let many =
        "INSERT INTO notes WITH RECURSIVE n (at) AS (SELECT 1 UNION ALL SELECT at + 1 FROM n WHERE at < 6000)
        SELECT 'acme', at, 'many' FROM n";
    direct.ok(many).await;
    direct.ok("DELETE FROM notes WHERE id = 1").await;
    let first = read(store, Position::START).await.records[0].position;
    let tip = store.tip().await.unwrap();
    for _ in 0..3 {
        let trimmed = store.trim(&AT_ONCE).await.unwrap();
        assert_eq!(
            (trimmed.through, trimmed.marked),
            (Position::START, vec![]),
            "a peer waits for all of it"
        );
    }
    let behind = store.peers().await.unwrap().remove(0).behind_bytes;
    assert!(behind > 6_000 * 50, "{behind}");
    store.peer_acknowledges(&us, &identity, tip, tip).await.unwrap();
    let hour = Retention { age_min: Duration::from_secs(3_600), ..AT_ONCE };
    assert_eq!(store.trim(&hour).await.unwrap().through, Position::START, "it is young");
    let trimmed = trim_until(store, &AT_ONCE, |trimmed| trimmed.through == tip && !trimmed.more).await;
    assert!(trimmed.bytes < behind / 2, "{trimmed:?}");
    let table = if place.is_sqlite() { "portolan_log" } else { "portolan.log" };
    let count = format!("SELECT CAST(count(*) AS text) FROM {table}");
    assert_eq!(place.admin(&shard).await.texts(&count).await, ["0"]);
    // Who comes too late is told so; who has it goes on.
    let error = store.read(Position::START, Limits::default()).await.unwrap_err();
    assert!(matches!(error, Error::Trimmed { through, .. } if through == tip), "{error:?}");
    assert!(read(store, tip).await.records.is_empty());
    direct.ok("INSERT INTO notes VALUES ('acme', 1, 'again')").await;
    assert_eq!(read(store, tip).await.records.len(), 1);
    // What was there is known to have been: by tokens, by witnesses, by the row's next version.
    for position in [first, tip] {
        assert_eq!(store.reached(position).await.unwrap(), Reached::Here);
    }
    let beyond = Position { transaction: tip.transaction + 1_000_000, ..tip };
    assert!(matches!(store.reached(beyond).await.unwrap(), Reached::Ahead(_)));
    assert_eq!(store.count_tombstones().await.unwrap(), 0);
    assert!(store.peers().await.unwrap()[0].behind_bytes > 0);
}

pub(super) async fn a_peer_that_is_too_far_behind_loses_its_place(place: Place) {
    let shard = notes_shard(&place, "eu").await;
    let (store, us, ap) = (&shard.store, region("us"), region("ap"));
    let identity = store.identity().await.unwrap();
    for peer in [&us, &ap] {
        store.begin_peer(peer, &identity, Position::START).await.unwrap();
    }
    place
        .direct(&shard, "acme")
        .await
        .ok("INSERT INTO notes VALUES ('acme', 1, 'a'), ('acme', 2, 'b')")
        .await;
    let tip = read(store, Position::START).await.through;
    store.peer_acknowledges(&us, &identity, tip, tip).await.unwrap();
    let small = Retention { bytes_max: 1, ..AT_ONCE };
    let trimmed = trim_until(store, &small, |trimmed| !trimmed.marked.is_empty()).await;
    assert_eq!((trimmed.marked, trimmed.through), (vec![ap.clone()], tip));
    let peers = store.peers().await.unwrap();
    let marked: Vec<_> = peers.iter().map(|peer| peer.peer.needs_snapshot_us.is_some()).collect();
    assert_eq!(marked, [true, false]);
    // It comes back by a new start alone, and not from what is gone.
    let why = refused(store.peer_acknowledges(&ap, &identity, tip, tip)).await;
    assert_eq!(why, PeerRefused::NeedsSnapshot { peer: ap.clone() });
    let why = refused(store.begin_peer(&ap, &identity, Position::START)).await;
    assert!(matches!(why, PeerRefused::Trimmed { trimmed, .. } if trimmed == tip), "{why:?}");
    store.begin_peer(&ap, &identity, tip).await.unwrap();
    store.peer_acknowledges(&ap, &identity, tip, tip).await.unwrap();
    assert!(store.drop_peer(&ap).await.unwrap() && !store.drop_peer(&ap).await.unwrap());
}

pub(super) async fn a_peers_word_is_held_against_the_log(place: Place) {
    let shard = notes_shard(&place, "eu").await;
    let (store, us) = (&shard.store, region("us"));
    let identity = store.identity().await.unwrap();
    place
        .direct(&shard, "acme")
        .await
        .ok("INSERT INTO notes VALUES ('acme', 1, 'a'), ('acme', 2, 'b')")
        .await;
    let tip = read(store, Position::START).await.through;
    let says = |identity: Identity, received, applied| {
        let us = us.clone();
        async move { store.peer_acknowledges(&us, &identity, received, applied).await }
    };
    assert!(matches!(refused(says(identity.clone(), tip, tip)).await, PeerRefused::Unknown { .. }));
    store.begin_peer(&us, &identity, Position::START).await.unwrap();
    let other = Identity { incarnation: "other".into(), ..identity.clone() };
    assert!(matches!(refused(says(other.clone(), tip, tip)).await, PeerRefused::Other { .. }));
    let beyond = Position { epoch: Epoch(9), ..tip };
    assert!(matches!(refused(says(identity.clone(), beyond, tip)).await, PeerRefused::Ahead { .. }));
    says(identity.clone(), tip, Position::START).await.unwrap();
    says(identity.clone(), tip, tip).await.unwrap();
    says(identity.clone(), tip, tip).await.unwrap();
    assert!(matches!(refused(says(identity.clone(), tip, Position::START)).await, PeerRefused::Back { .. }));
    let peer = store.peers().await.unwrap().remove(0);
    assert_eq!((peer.peer.applied, peer.behind_bytes), (tip, 0));
    assert!(peer.peer.acknowledged_us <= store.clock().await.unwrap());
    // What is settled need not be a record's position, and is no lie.
    let settled = store.settled().await.unwrap().max(tip);
    says(identity.clone(), settled, settled).await.unwrap();
    for number in 1..PEERS_MAX {
        store.begin_peer(&region(&format!("r{number}")), &identity, tip).await.unwrap();
    }
    let why = refused(store.begin_peer(&region("more"), &identity, tip)).await;
    assert_eq!(why, PeerRefused::Full { max: PEERS_MAX });
    store.begin_peer(&us, &identity, tip).await.unwrap();
}

pub(super) async fn a_piece_that_is_missing_stops_nobody(place: Place) {
    if place.is_sqlite() {
        return;
    }
    let shard = notes_shard(&place, "eu").await;
    let (store, mut admin) = (&shard.store, place.admin(&shard).await);
    let mut direct = place.direct(&shard, "acme").await;
    // Open from before the piece was taken away, and after.
    direct.ok("INSERT INTO notes VALUES ('acme', 1, 'a')").await;
    trim_until(store, &AT_ONCE, |trimmed| trimmed.through > Position::START && !trimmed.more).await;
    let piece = "SELECT piece::text FROM portolan.fence";
    let open = admin.texts(piece).await.remove(0);
    admin.ok(&format!("DROP TABLE portolan.log_{open}")).await;
    let before = store.tip().await.unwrap();
    direct.ok("INSERT INTO notes VALUES ('acme', 2, 'b')").await;
    place.direct(&shard, "acme").await.ok("INSERT INTO notes VALUES ('acme', 3, 'c')").await;
    assert_eq!(read(store, before).await.records.len(), 2);
    assert_eq!(
        admin.texts("SELECT key FROM portolan.log_rest ORDER BY seq").await,
        [r#"["acme", 2]"#, r#"["acme", 3]"#]
    );
    // The next trim goes on in a piece that is there, and what lies in the wrong place goes in its time.
    let tip = store.tip().await.unwrap();
    trim_until(store, &AT_ONCE, |trimmed| trimmed.through == tip && !trimmed.more).await;
    assert_ne!(admin.texts(piece).await, [open]);
    assert_eq!(admin.texts("SELECT key FROM portolan.log_rest").await, [""; 0]);
    direct.ok("INSERT INTO notes VALUES ('acme', 4, 'd')").await;
    assert_eq!(read(store, tip).await.records.len(), 1);
    assert_eq!(admin.texts("SELECT key FROM portolan.log_rest").await, [""; 0]);
}

pub(super) async fn nobody_waits_for_a_trim(place: Place) {
    if place.is_sqlite() {
        return;
    }
    let shard = notes_shard(&place, "eu").await;
    let store = &shard.store;
    let (mut direct, mut reader) = (place.direct(&shard, "acme").await, place.admin(&shard).await);
    // A transaction whose first record lies in one piece, and whose last lies in the next.
    let mut slow = place.direct(&shard, "acme").await;
    slow.ok("BEGIN; INSERT INTO notes VALUES ('acme', 1, 'a')").await;
    direct.ok("INSERT INTO notes VALUES ('acme', 2, 'b')").await;
    let mut admin = place.admin(&shard).await;
    let piece = "SELECT piece::text FROM portolan.fence";
    let open = admin.texts(piece).await;
    while admin.texts(piece).await == open {
        store.trim(&AT_ONCE).await.unwrap();
    }
    slow.ok("INSERT INTO notes VALUES ('acme', 3, 'c'); COMMIT").await;
    let batch = read(store, Position::START).await;
    assert!(batch.records.len() == 3 && batch.records.is_sorted_by(|a, b| a.position < b.position));
    assert!(
        batch.records[0].position.same_transaction(batch.records[1].position),
        "the order is the transactions'"
    );
    // Somebody looks at the log for long: it is trimmed for all that ask, and goes when that ends.
    reader.ok("BEGIN; SELECT 1 FROM portolan.log LIMIT 1").await;
    let trimmed = trim_until(store, &AT_ONCE, |trimmed| trimmed.through > Position::START).await;
    assert!(trimmed.more, "{trimmed:?}");
    direct.ok("INSERT INTO notes VALUES ('acme', 4, 'd')").await;
    let error = store.read(Position::START, Limits::default()).await.unwrap_err();
    assert!(matches!(error, Error::Trimmed { .. }), "{error:?}");
    reader.ok("COMMIT").await;
    let tip = store.tip().await.unwrap();
    trim_until(store, &AT_ONCE, |trimmed| trimmed.through == tip && !trimmed.more).await;
    // Of transactions that have ended nothing is left, either.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while admin.texts("SELECT tx::text FROM portolan.inside").await != [""; 0] {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(LOOK).await;
        store.trim(&AT_ONCE).await.unwrap();
    }
}

pub(super) async fn what_was_trimmed_of_other_epochs_and_logs_is_told_apart(place: Place) {
    let shard = notes_shard(&place, "eu").await;
    let (store, us) = (&shard.store, region("us"));
    let before = store.identity().await.unwrap();
    store.begin_peer(&us, &before, Position::START).await.unwrap();
    let mut direct = place.direct(&shard, "acme").await;
    direct.ok("INSERT INTO notes VALUES ('acme', 1, 'a')").await;
    let first = read(store, Position::START).await.through;
    let beyond = Position { transaction: first.transaction + 9, ..first };
    let fence = if place.is_sqlite() { "portolan_fence" } else { "portolan.fence" };
    place.admin(&shard).await.ok(&format!("UPDATE {fence} SET cut = 1")).await;
    assert!(
        matches!(store.trim(&AT_ONCE).await, Err(Error::Closed(Closed::Cut))),
        "nobody knows whose log it is"
    );
    let hour = store.clock().await.unwrap() + 3_600_000_000;
    store.begin_epoch(Epoch(2), hour).await.unwrap();
    direct.ok("INSERT INTO notes VALUES ('acme', 2, 'b')").await;
    let tip = store.tip().await.unwrap();
    // Who followed the log that this one was holds nothing of it.
    trim_until(store, &AT_ONCE, |trimmed| trimmed.through == tip && !trimmed.more).await;
    assert!(store.peers().await.unwrap()[0].peer.needs_snapshot_us.is_some());
    assert!(matches!(
        refused(store.peer_acknowledges(&us, &before, tip, tip)).await,
        PeerRefused::Other { .. }
    ));
    store.begin_peer(&us, &store.identity().await.unwrap(), tip).await.unwrap();
    for position in [first, tip] {
        assert_eq!(store.reached(position).await.unwrap(), Reached::Here);
    }
    assert_eq!(store.reached(beyond).await.unwrap(), Reached::Lost(first), "its epoch ended without it");
    let acme = TenantName::new("acme").unwrap();
    let passage = store.tenant_records(&acme, first, Limits::default(), Reach::Held).await;
    assert!(matches!(passage, Err(Error::Trimmed { .. })), "{passage:?}");
}
