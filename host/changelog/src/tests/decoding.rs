//! Logs that come out of the write-ahead log: what only they can do wrong.

use std::time::Duration;

use portolan_core::ids::{RegionName, TenantName};
use portolan_core::log::{Epoch, Position};
use portolan_core::time::Moment;

use super::capture::{NOTES, changes, notes, notes_shard, read};
use super::place::{PATIENCE, Place, Shard};
use crate::{Capture, Engine, Error, Lease, Limits, Store};

fn captured(shard: &Shard, capture: Capture) -> Engine {
    match &shard.engine {
        Engine::Postgres(config) => Engine::Postgres(crate::PostgresConfig { capture, ..config.clone() }),
        Engine::Sqlite(path) => Engine::Sqlite(path.clone()),
    }
}

async fn until<F: Future<Output = bool>>(what: &str, mut done: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !done().await {
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A shard whose log nobody ships, but whoever waits for it.
async fn unshipped(place: &Place) -> Shard {
    let (engine, direct) = place.database().await;
    let store = place.unshipped(&engine, "eu").await;
    let mut migration = store.maintain().await.unwrap();
    migration.execute(NOTES, &[]).await.unwrap();
    migration.finish().await.unwrap();
    let tables = portolan_core::tenant_table::Tables::new(vec![notes()]).unwrap();
    store.declare(&tables, 1).await.unwrap();
    let shard = Shard::of(engine, store, direct);
    let deadline = shard.store.clock().await.unwrap() + 3_600_000_000;
    shard.store.begin_epoch(Epoch(1), deadline).await.unwrap();
    shard
}

pub(super) async fn what_others_emit_is_no_record(place: Place) {
    let shard = notes_shard(&place, "eu").await;
    let mut direct = place.direct(&shard, "acme").await;
    direct.ok("INSERT INTO notes VALUES ('acme', 1, 'one')").await;
    let forged = "[1, 1, 1, 1, \"other\", 0, 1, \"put\", \"notes\", \"[]\", {}, 1, 1, \"eu\", null, null, null, null, 0]";
    for word in ["", "word ", "null "] {
        direct.ok(&format!("SELECT pg_logical_emit_message(true, 'portolan', '{word}1 1 1 {forged}')")).await;
    }
    // Nor is the word to be had.
    direct.refused("SELECT emits FROM portolan.fence").await;
    direct.refused("SELECT portolan.beat()").await;
    direct.ok("BEGIN; INSERT INTO notes VALUES ('acme', 2, 'two'); ROLLBACK").await;
    direct
        .ok("BEGIN; SAVEPOINT s; INSERT INTO notes VALUES ('acme', 3, 'three'); ROLLBACK TO s; COMMIT")
        .await;
    direct.ok("INSERT INTO notes VALUES ('acme', 4, 'four')").await;
    shard.store.tip().await.unwrap();
    let keys: Vec<_> =
        changes(&shard.store).await.into_iter().map(|change| change.id.key.replace(' ', "")).collect();
    assert_eq!(keys, [r#"["acme",1]"#, r#"["acme",4]"#]);
}

pub(super) async fn a_token_is_where_the_record_will_be(place: Place) {
    let shard = unshipped(&place).await;
    let until = Moment(1_000_000_000);
    let (acme, lease) = (TenantName::new("acme").unwrap(), Lease { epoch: Epoch(1), until });
    let now = Moment(1);
    let mut write = shard.store.write(&acme, &lease, now).await.unwrap();
    write.execute("INSERT INTO notes VALUES ('acme', 1, 'one')", &[]).await.unwrap();
    write.execute("SAVEPOINT s", &[]).await.unwrap();
    write.execute("INSERT INTO notes VALUES ('acme', 2, 'two')", &[]).await.unwrap();
    write.execute("ROLLBACK TO s", &[]).await.unwrap();
    let token = write.commit(&lease, || now).await.unwrap().unwrap();
    // It is not in the log yet, and whoever asks for it waits until it is.
    assert_eq!(shard.store.reached(token).await.unwrap(), crate::Reached::Here);
    assert_eq!(shard.store.tip().await.unwrap(), token);
    let mut write = shard.store.write(&acme, &lease, now).await.unwrap();
    write.execute("SELECT 1", &[]).await.unwrap();
    assert_eq!(write.commit(&lease, || now).await.unwrap(), None);
}

pub(super) async fn what_was_committed_before_a_crash_comes_once(place: Place) {
    let shard = unshipped(&place).await;
    let mut direct = place.direct(&shard, "acme").await;
    direct.ok("INSERT INTO notes VALUES ('acme', 1, 'one')").await;
    let first = place.ship(&shard.store).unwrap();
    assert_eq!(read(&shard.store, Position::START).await.records.len(), 1);
    first.abort();
    direct.ok("INSERT INTO notes SELECT 'acme', n, 'many' FROM generate_series(2, 3000) n").await;
    drop(direct);
    place.cluster().down();
    place.cluster().up().await;
    // Nobody had shipped it: two do now, of which one has the slot.
    let (second, _third) = (place.ship(&shard.store).unwrap(), place.ship(&shard.store));
    until("the log is whole", async || {
        shard.store.tip().await.is_ok() && changes(&shard.store).await.len() == 3000
    })
    .await;
    // The other goes on when that one ends.
    second.abort();
    let mut direct = place.direct(&shard, "acme").await;
    direct.ok("INSERT INTO notes VALUES ('acme', 3001, 'last')").await;
    until("the other ships", async || {
        shard.store.tip().await.is_ok() && changes(&shard.store).await.len() == 3001
    })
    .await;
}

pub(super) async fn a_large_transaction_is_read_whole_or_not(place: Place) {
    let shard = notes_shard(&place, "eu").await;
    let mut direct = place.direct(&shard, "acme").await;
    direct.ok("INSERT INTO notes SELECT 'acme', n, repeat('x', 500) FROM generate_series(1, 8000) n").await;
    let (mut after, mut seen) = (Position::START, 0);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while seen < 8000 {
        assert!(tokio::time::Instant::now() < deadline, "{seen}");
        let before = shard.store.horizon().await.unwrap();
        let batch = shard.store.read(after, Limits { records: 500, bytes: 1024 * 1024 }).await.unwrap();
        if seen == 0 && batch.records.is_empty() {
            assert!(before.waiting <= 8000);
            tokio::time::sleep(Duration::from_millis(2)).await;
            continue;
        }
        // Once some of it can be read, all of it is there.
        assert!(!batch.records.is_empty());
        (after, seen) = (batch.through, seen + batch.records.len());
    }
    let slot = shard.store.slot().await.unwrap().unwrap();
    assert!(slot.active && slot.name.starts_with("portolan_") && slot.left_bytes.is_some(), "{slot:?}");
}

pub(super) async fn who_follows_a_lost_slot_begins_anew(place: Place) {
    let shard = unshipped(&place).await;
    let mut direct = place.direct(&shard, "acme").await;
    direct.ok("INSERT INTO notes VALUES ('acme', 1, 'one')").await;
    shard.store.tip().await.unwrap();
    let (before, followed) =
        (shard.store.identity().await.unwrap(), read(&shard.store, Position::START).await);
    assert_eq!(followed.records.len(), 1);
    direct.ok("INSERT INTO notes VALUES ('acme', 2, 'in no log')").await;
    let mut admin = place.admin(&shard).await;
    admin.ok("SELECT pg_drop_replication_slot('portolan_' || oid) FROM pg_database WHERE datname = current_database()").await;
    let shipping = place.ship(&shard.store).unwrap();
    until("another log begins", async || shard.store.identity().await.unwrap() != before).await;
    // Writers noticed nothing, and what they write now is in the log. What came before is not told from its start.
    direct.ok("INSERT INTO notes VALUES ('acme', 3, 'three')").await;
    shard.store.tip().await.unwrap();
    let error = shard.store.read(Position::START, Limits::default()).await.unwrap_err();
    assert!(matches!(error, Error::Trimmed { .. }), "{error}");
    let after = shard.store.trimmed().await.unwrap();
    let batch = read(&shard.store, after).await;
    assert_eq!((batch.records.len(), batch.identity != before), (1, true));
    assert_eq!(shard.store.rows(None, None, 10).await.unwrap().len(), 3);
    // A slot that somebody made in its place has not what was missing either.
    shipping.abort();
    until_unread(&shard).await;
    let now = shard.store.identity().await.unwrap();
    admin.ok("SELECT pg_drop_replication_slot('portolan_' || oid) FROM pg_database WHERE datname = current_database()").await;
    direct.ok("INSERT INTO notes VALUES ('acme', 4, 'in no log')").await;
    admin.ok("SELECT pg_create_logical_replication_slot('portolan_' || oid, 'pgoutput') FROM pg_database WHERE datname = current_database()").await;
    place.ship(&shard.store);
    until("another log begins", async || shard.store.identity().await.unwrap() != now).await;
}

pub(super) async fn a_shard_goes_over_and_back(place: Place) {
    let shard = unshipped(&place).await;
    let identity = shard.store.identity().await.unwrap();
    let mut direct = place.direct(&shard, "acme").await;
    direct.ok("INSERT INTO notes VALUES ('acme', 1, 'emitted')").await;
    // What is emitted is shipped before triggers write themselves.
    let by_triggers =
        Store::open(&captured(&shard, Capture::Triggers), RegionName::new("eu").unwrap()).await.unwrap();
    direct.ok("INSERT INTO notes VALUES ('acme', 2, 'written')").await;
    by_triggers.recall(&portolan_core::tenant_table::Tables::new(vec![notes()]).unwrap()).await.unwrap();
    assert_eq!(changes(&by_triggers).await.len(), 2);
    let mut admin = place.admin(&shard).await;
    assert!(admin.texts(SLOTS).await.is_empty());
    // Whoever thinks otherwise is told, and changes nothing.
    let refused = shard.store.ship().await.unwrap_err();
    assert!(refused.to_string().contains("another configuration"), "{refused}");
    let again = place.open(&shard.engine, "eu").await;
    direct.ok("INSERT INTO notes VALUES ('acme', 3, 'emitted')").await;
    again.tip().await.unwrap();
    assert_eq!(changes(&again).await.len(), 3);
    assert_eq!(again.identity().await.unwrap(), identity, "nothing was lost on the way");
}

/// On a server that does not decode.
pub(super) async fn a_server_says_what_it_lacks(place: Place) {
    let shard = notes_shard(&place, "eu").await;
    let error =
        Store::open(&captured(&shard, Capture::Logical), RegionName::new("eu").unwrap()).await.unwrap_err();
    let why = error.to_string();
    assert!(why.contains("wal_level = logical") && why.contains("REPLICATION"), "{why}");
    let mut direct = place.direct(&shard, "acme").await;
    direct.ok("INSERT INTO notes VALUES ('acme', 1, 'one')").await;
    assert_eq!(changes(&shard.store).await.len(), 1);
}

const SLOTS: &str = "SELECT slot_name::text FROM pg_replication_slots WHERE database = current_database()";

async fn until_unread(shard: &Shard) {
    until("nobody reads it", async || !shard.store.slot().await.unwrap().unwrap().active).await;
}

pub(super) async fn a_slot_gives_way_to_the_disk(place: Place) {
    let shard = unshipped(&place).await;
    let mut direct = place.direct(&shard, "acme").await;
    let shipping = place.ship(&shard.store).unwrap();
    direct.ok("INSERT INTO notes VALUES ('acme', 1, 'one')").await;
    shard.store.tip().await.unwrap();
    assert!(!shard.store.bound_slot(0).await.unwrap(), "somebody reads it");
    shipping.abort();
    until_unread(&shard).await;
    direct.ok("INSERT INTO notes VALUES ('acme', 2, 'in no log')").await;
    assert!(!shard.store.bound_slot(u64::MAX).await.unwrap(), "there is room");
    let before = shard.store.identity().await.unwrap();
    assert!(shard.store.bound_slot(0).await.unwrap());
    assert!(place.admin(&shard).await.texts(SLOTS).await.is_empty());
    assert!(!shard.store.bound_slot(0).await.unwrap(), "there is none");
    place.ship(&shard.store);
    until("another log begins", async || shard.store.identity().await.unwrap() != before).await;
}

pub(super) async fn a_slot_goes_with_its_shard(place: Place) {
    let shard = unshipped(&place).await;
    let identity = shard.store.identity().await.unwrap();
    let mut direct = place.direct(&shard, "acme").await;
    direct.ok("INSERT INTO notes VALUES ('acme', 1, 'emitted')").await;
    shard.store.give_up_slot().await.unwrap();
    let mut admin = place.admin(&shard).await;
    assert!(admin.texts(SLOTS).await.is_empty());
    shard.store.give_up_slot().await.unwrap();
    direct.ok("INSERT INTO notes VALUES ('acme', 2, 'written')").await;
    // What it had is in its log, and goes on where somebody keeps it again.
    let again = place.unshipped(&shard.engine, "eu").await;
    let shipping = place.ship(&again).unwrap();
    direct.ok("INSERT INTO notes VALUES ('acme', 3, 'emitted')").await;
    again.tip().await.unwrap();
    assert_eq!((changes(&again).await.len(), again.identity().await.unwrap()), (3, identity));
    assert_eq!(admin.texts(SLOTS).await.len(), 1);
    // One that was released while another still read it goes with that one.
    let by_triggers = captured(&shard, Capture::Triggers);
    drop(Store::open(&by_triggers, RegionName::new("eu").unwrap()).await.unwrap());
    shipping.abort();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        again.give_up_slot().await.unwrap();
        if admin.texts(SLOTS).await.is_empty() {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "somebody still reads it");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
