//! Who may write, and until when.

use std::time::Duration;

use portolan_core::ids::{RegionName, TenantName};
use portolan_core::log::{Continuity, Epoch, Position, Witness};
use portolan_core::tenant_table::Writers;
use portolan_core::time::Moment;

use super::capture::{NOTES, all, changes, notes, notes_shard, read};
use super::place::{Direct, Place, table};
use crate::defaults::{CONNECTIONS_MAX, STATEMENTS_MAX};
use crate::{Closed, Engine, Error, Lease, Limits, Reached, Refused, Store};

const INSERT: &str = "INSERT INTO notes VALUES ('acme', 1, 'one')";
/// A lease that ends during a case: long beside what a busy machine takes for the statements before its end.
const LEASE_US: u64 = 2_500_000;
const SOON: Duration = Duration::from_millis(300);

fn closed(error: Error, why: Closed) {
    assert!(matches!(error, Error::Closed(is) if is == why), "{error:?} is not {why:?}");
}

/// Until the database's clock has passed a time.
async fn after(store: &Store, deadline_us: u64) {
    while store.clock().await.unwrap() < deadline_us {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(super) async fn the_deadline_stops_direct_writers(place: Place) {
    let shard = place.replica("eu", NOTES, &[notes()]).await;
    let mut direct = place.direct(&shard, "acme").await;
    closed(direct.refused(INSERT).await, Closed::Expired);
    let deadline = shard.store.clock().await.unwrap() + LEASE_US;
    shard.store.begin_epoch(Epoch(7), deadline).await.unwrap();
    direct.ok(INSERT).await;
    after(&shard.store, deadline).await;
    for refused in [
        "UPDATE notes SET body = 'late'",
        "DELETE FROM notes",
        "INSERT INTO notes VALUES ('acme', 2, 'late')",
    ] {
        closed(direct.refused(refused).await, Closed::Expired);
    }
    // A writer's own words are not the fence's.
    let error = direct.refused("SELECT * FROM \"portolan:expired\"").await;
    assert!(matches!(error, Error::Rejected(_)), "{error:?}");
    // Reads go on.
    assert_eq!(direct.texts("SELECT body FROM notes").await, ["one"]);
    // The lease is renewed, and it may write again.
    shard.store.extend(Epoch(7), deadline + 3_600_000_000).await.unwrap();
    direct.ok("UPDATE notes SET body = 'renewed'").await;
    assert_eq!(shard.store.fence().await.unwrap().deadline_us, deadline + 3_600_000_000);
    // An answer that comes late takes nothing away.
    shard.store.extend(Epoch(7), deadline).await.unwrap();
    direct.ok("DELETE FROM notes").await;
}

pub(super) async fn the_deadline_holds_at_commit(place: Place) {
    if place.is_sqlite() {
        return;
    }
    let shard = place.replica("eu", NOTES, &[notes()]).await;
    let deadline = shard.store.clock().await.unwrap() + LEASE_US;
    shard.store.begin_epoch(Epoch(1), deadline).await.unwrap();
    let mut direct = place.direct(&shard, "acme").await;
    direct.ok("BEGIN").await;
    direct.ok(INSERT).await;
    after(&shard.store, deadline).await;
    closed(direct.refused("COMMIT").await, Closed::Expired);
    // The same where all but the first record was taken back.
    shard.store.extend(Epoch(1), deadline + LEASE_US).await.unwrap();
    direct.ok("BEGIN; SAVEPOINT a").await;
    direct.ok(INSERT).await;
    direct.ok("ROLLBACK TO a; INSERT INTO notes VALUES ('acme', 2, 'two')").await;
    after(&shard.store, deadline + LEASE_US).await;
    closed(direct.refused("COMMIT").await, Closed::Expired);
    // Who has it looked at early is still held to each statement.
    shard.store.extend(Epoch(1), deadline + 2 * LEASE_US).await.unwrap();
    direct.ok("BEGIN").await;
    direct.ok(INSERT).await;
    direct.ok("SET CONSTRAINTS ALL IMMEDIATE").await;
    after(&shard.store, deadline + 2 * LEASE_US).await;
    closed(direct.refused("INSERT INTO notes VALUES ('acme', 3, 'three')").await, Closed::Expired);
    direct.ok("ROLLBACK").await;
    assert!(all(&shard.store).await.is_empty());
}

pub(super) async fn old_snapshots_do_not_slip_through(place: Place) {
    if place.is_sqlite() {
        return;
    }
    let shard = notes_shard(&place, "eu").await;
    let hour = shard.store.clock().await.unwrap() + 3_600_000_000;
    let mut direct = place.direct(&shard, "acme").await;
    let mut begin = async |level: &str| {
        direct.run("ROLLBACK").await.ok();
        direct.ok(&format!("BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM notes")).await;
    };
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        begin(level).await;
        let Epoch(epoch) = shard.store.fence().await.unwrap().epoch;
        shard.store.begin_epoch(Epoch(epoch + 1), hour).await.unwrap();
    }
    // The snapshot knows epoch 2 alone.
    assert!(matches!(direct.refused(INSERT).await, Error::Busy(_)));
    direct.ok("ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM notes").await;
    shard.store.hold(&TenantName::new("acme").unwrap(), "move", SOON * 999, SOON).await.unwrap();
    assert!(matches!(direct.refused(INSERT).await, Error::Busy(_)));
    direct.ok("ROLLBACK").await;
    shard.store.release(&TenantName::new("acme").unwrap(), "move").await.unwrap();
    // Renewals disturb nobody.
    direct.ok("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM notes").await;
    shard.store.extend(Epoch(3), hour + 1_000_000).await.unwrap();
    direct.ok(INSERT).await;
    shard.store.extend(Epoch(3), hour + 2_000_000).await.unwrap();
    direct.ok("COMMIT").await;
    assert_eq!(changes(&shard.store).await.len(), 1);
}

pub(super) async fn epochs_only_rise(place: Place) {
    let shard = notes_shard(&place, "eu").await;
    let hour = shard.store.clock().await.unwrap() + 3_600_000_000;
    for epoch in [0, 1] {
        let error = shard.store.begin_epoch(Epoch(epoch), hour).await.unwrap_err();
        assert!(matches!(error, Error::Refused(Refused::Epoch { there: Epoch(1), .. })), "{error:?}");
    }
    let mut direct = place.direct(&shard, "acme").await;
    direct.ok(INSERT).await;
    shard.store.begin_epoch(Epoch(2), hour).await.unwrap();
    direct.ok("UPDATE notes SET body = 'two'").await;
    let records: Vec<_> = all(&shard.store).await.into_iter().flat_map(|batch| batch.records).collect();
    let epochs: Vec<u64> = records.iter().map(|record| record.position.epoch.0).collect();
    assert_eq!(epochs, [1, 2]);
    let error = shard.store.extend(Epoch(1), hour).await.unwrap_err();
    assert!(matches!(error, Error::Refused(Refused::Over { there: Epoch(2), .. })), "{error:?}");
    let error = shard.store.demote(Epoch(1), SOON).await.unwrap_err();
    assert!(matches!(error, Error::Refused(Refused::Over { .. })), "{error:?}");
    // Another region holds epoch 3.
    shard.store.begin_epoch(Epoch(3), 0).await.unwrap();
    closed(direct.refused("DELETE FROM notes").await, Closed::Expired);
    assert!(shard.store.extend(Epoch(3), hour).await.is_err());
}

pub(super) async fn demotion_waits_for_writers_and_ends_them(place: Place) {
    let shard = notes_shard(&place, "eu").await;
    let hour = shard.store.clock().await.unwrap() + 3_600_000_000;
    let mut direct = place.direct(&shard, "acme").await;
    direct.ok(INSERT).await;
    if !place.is_sqlite() {
        // Inside, and silent.
        direct.ok("BEGIN").await;
        direct.ok("UPDATE notes SET body = 'inside'").await;
    }
    let tip = shard.store.demote(Epoch(1), SOON).await.unwrap();
    let last = all(&shard.store).await.pop().unwrap();
    assert_eq!((last.through, last.records.len()), (tip, 1));
    if place.is_sqlite() {
        closed(direct.refused("DELETE FROM notes").await, Closed::Expired);
    } else {
        assert!(matches!(direct.refused("COMMIT").await, Error::Away(_)), "the connection is gone");
    }
    let mut again = place.direct(&shard, "acme").await;
    closed(again.refused("DELETE FROM notes").await, Closed::Expired);
    assert!(shard.store.extend(Epoch(1), hour).await.is_err(), "a late renewal opens nothing");
    shard.store.demote(Epoch(1), SOON).await.unwrap();
    shard.store.begin_epoch(Epoch(2), hour).await.unwrap();
    place.direct(&shard, "acme").await.ok("UPDATE notes SET body = 'again'").await;
}

pub(super) async fn members_write_without_the_lease(place: Place) {
    let members = table("notes", Some("tenant"), &["tenant", "id"], Writers::Members);
    let shard = place.replica("eu", NOTES, &[members]).await;
    let mut direct = place.direct(&shard, "acme").await;
    closed(direct.refused(INSERT).await, Closed::Member);
    shard.store.set_member(4).await.unwrap();
    shard.store.begin_epoch(Epoch(5), 0).await.unwrap();
    direct.ok(INSERT).await;
    let change = changes(&shard.store).await.remove(0);
    assert_eq!(change.version.epoch, Epoch(0), "no lease orders these");
    assert_eq!(all(&shard.store).await[0].through.epoch, Epoch(5), "the log has its epochs all the same");
    shard.store.set_member(0).await.unwrap();
    closed(direct.refused("DELETE FROM notes").await, Closed::Member);
}

pub(super) async fn the_loop_flag_is_the_appliers_alone(place: Place) {
    let shard = notes_shard(&place, "eu").await;
    let mut direct = place.direct(&shard, "acme").await;
    if place.is_sqlite() {
        // Whoever has the file can do anything, but not by accident: a flag is never left behind.
        direct.ok("BEGIN; INSERT INTO portolan_session (id, applying) VALUES (1, 1)").await;
        direct.ok(INSERT).await;
        assert!(matches!(direct.refused("COMMIT").await, Error::Rejected(_)));
        direct.ok("ROLLBACK").await;
    } else {
        direct.ok("SELECT set_config('portolan.applying', 'on', false), set_config('portolan.maintenance', 'on', false)").await;
        for refused in [
            "SELECT * FROM portolan.log",
            "DELETE FROM portolan.log",
            "UPDATE portolan.fence SET deadline_us = 9000000000000000000",
            "SELECT portolan.record('notes', true, 'acme', '[1]', NULL)",
            "SET session_replication_role = replica",
            "ALTER TABLE notes DISABLE TRIGGER ALL",
            "SET SESSION AUTHORIZATION put",
            "SET ROLE put",
        ] {
            assert!(matches!(direct.refused(refused).await, Error::Rejected(_)), "{refused}");
        }
    }
    direct.ok(INSERT).await;
    assert_eq!(changes(&shard.store).await.len(), 1);
}

pub(super) async fn roles_must_be_what_they_are_for(place: Place) {
    if place.is_sqlite() {
        return;
    }
    let shard = notes_shard(&place, "eu").await;
    let Engine::Postgres(good) = &shard.engine else { unreachable!() };
    place.cluster().admin("CREATE ROLE twofold LOGIN; GRANT put TO twofold; CREATE ROLE far LOGIN").await;
    let role = |url: &str, role: &str| url.replacen("//app@", &format!("//{role}@"), 1);
    for (writer, why) in [
        ("twofold", "past the fence"),
        ("far", "GRANT \"far\""),
        ("postgres", "past the fence"),
        ("own", "three roles"),
    ] {
        let config = crate::PostgresConfig { writer: role(&good.writer, writer), ..good.clone() };
        let error = Store::open(&Engine::Postgres(config), RegionName::new("eu").unwrap()).await.unwrap_err();
        assert!(error.to_string().contains(why), "{writer}: {error}");
    }
    let config = crate::PostgresConfig { owner: good.owner.replacen("own@", "postgres@", 1), ..good.clone() };
    let error =
        Store::open(&Engine::Postgres(config.clone()), RegionName::new("eu").unwrap()).await.unwrap_err();
    assert!(error.to_string().contains("superuser"), "{error}");
    assert!(!format!("{config:?}").contains("postgres@"), "what may hold a password is not printed");
}

pub(super) async fn a_commit_after_the_lease_is_unknown(place: Place) {
    let shard = notes_shard(&place, "eu").await;
    let tenant = TenantName::new("acme").unwrap();
    let lease = Lease { epoch: Epoch(1), until: Moment(1_000) };
    let error = shard.store.write(&tenant, &lease, Moment(1_000)).await.unwrap_err();
    closed(error, Closed::Expired);
    let mut write = shard.store.write(&tenant, &lease, Moment(10)).await.unwrap();
    write
        .execute("INSERT INTO notes VALUES ($1, $2, $3)", &["acme".into(), 1_i64.into(), "one".into()])
        .await
        .unwrap();
    let error = write.commit(&lease, || Moment(2_000)).await.unwrap_err();
    assert!(matches!(error, Error::Unknown(_)), "{error:?}");
    assert_eq!(changes(&shard.store).await.len(), 1, "it was written, and only nobody may rely on it");
}

pub(super) async fn a_rewound_log_is_closed(place: Place) {
    let shard = notes_shard(&place, "eu").await;
    let hour = shard.store.clock().await.unwrap() + 3_600_000_000;
    let mut direct = place.direct(&shard, "acme").await;
    direct.ok(INSERT).await;
    let before = Witness {
        identity: shard.store.identity().await.unwrap(),
        position: all(&shard.store).await.pop().unwrap().through,
    };
    assert_eq!(shard.store.verify(&before).await.unwrap(), Continuity::Continues);
    direct.ok("UPDATE notes SET body = 'two'").await;
    assert_eq!(shard.store.verify(&before).await.unwrap(), Continuity::Continues);
    // Somebody saw a record that is not there any more.
    let position =
        Position { sequence: before.position.sequence + 100, transaction: u64::MAX >> 1, ..before.position };
    let seen = Witness { position, ..before.clone() };
    assert_eq!(shard.store.verify(&seen).await.unwrap(), Continuity::Rewound);
    closed(direct.refused("DELETE FROM notes").await, Closed::Cut);
    closed(shard.store.read(Position::START, Limits::default()).await.unwrap_err(), Closed::Cut);
    closed(shard.store.extend(Epoch(1), hour).await.unwrap_err(), Closed::Cut);
    shard.store.begin_epoch(Epoch(2), hour).await.unwrap();
    direct.ok("DELETE FROM notes").await;
    let now = shard.store.identity().await.unwrap();
    assert!(now.incarnation != before.identity.incarnation && now.system == before.identity.system);
    assert_eq!(shard.store.verify(&seen).await.unwrap(), Continuity::Other);
}

pub(super) async fn a_copy_of_a_database_is_another_log(place: Place) {
    let shard = notes_shard(&place, "eu").await;
    place.direct(&shard, "acme").await.ok(INSERT).await;
    let identity = shard.store.identity().await.unwrap();
    let (engine, mut copy) = match &shard.engine {
        Engine::Sqlite(path) => {
            place.admin(&shard).await.ok("PRAGMA wal_checkpoint(TRUNCATE)").await;
            let copy = path.with_extension("copy");
            std::fs::copy(path, &copy).unwrap();
            let direct = Direct::sqlite(&copy.display().to_string(), true).await;
            (Engine::Sqlite(copy), direct)
        }
        Engine::Postgres(config) => {
            let name = config.owner.rsplit('/').find_map(|part| part.split_once("?host=")).unwrap().0;
            let cluster = place.cluster();
            shard.store.demote(Epoch(1), SOON).await.unwrap();
            let end =
                format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'");
            let copied = format!("{name}_copy");
            cluster.admin(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false; {end}")).await;
            let mut made = false;
            // Ended connections take a moment to go.
            while !made {
                let mut admin = Direct::Postgres(cluster.connect("postgres", "postgres").await);
                made =
                    admin.run(&format!("CREATE DATABASE {copied} TEMPLATE {name} OWNER own")).await.is_ok();
            }
            let direct = Direct::Postgres(cluster.connect("app", &copied).await);
            (super::place::engine(cluster, &copied), direct)
        }
    };
    let store = Store::open(&engine, RegionName::new("eu").unwrap()).await.unwrap();
    closed(store.identity().await.unwrap_err(), Closed::Cut);
    if !place.is_sqlite() {
        copy.ok("SELECT set_config('portolan.tenant', 'acme', false)").await;
    }
    closed(copy.refused("DELETE FROM notes").await, Closed::Cut);
    let hour = store.clock().await.unwrap() + 3_600_000_000;
    store.begin_epoch(Epoch(2), hour).await.unwrap();
    copy.ok("DELETE FROM notes").await;
    let now = store.identity().await.unwrap();
    assert!(now.system != identity.system && now.incarnation != identity.incarnation);
    let witness = Witness { identity, position: Position::START };
    assert_eq!(store.verify(&witness).await.unwrap(), Continuity::Other);
    // Opened again, it is what it was.
    let again = Store::open(&engine, RegionName::new("eu").unwrap()).await.unwrap();
    assert_eq!(again.identity().await.unwrap(), now);
}

/// A standby of the region takes over: the timeline moves, and writers must wait for a new epoch.
pub(super) async fn a_promotion_begins_another_log(place: Place) {
    let shard = notes_shard(&place, "eu").await;
    place.direct(&shard, "acme").await.ok(INSERT).await;
    let witness = Witness {
        identity: shard.store.identity().await.unwrap(),
        position: all(&shard.store).await.pop().unwrap().through,
    };
    place.cluster().admin("CHECKPOINT").await;
    place.cluster().down();
    place.cluster().promote().await;
    // Before any gateway has looked: the writer's trigger sees the timeline itself.
    let mut direct = place.direct(&shard, "acme").await;
    closed(direct.refused("DELETE FROM notes").await, Closed::Cut);
    // Whoever holds the lease finds out when it is renewed, over the connections that are there.
    let hour = after_a_break(&shard.store).await + 3_600_000_000;
    assert!(shard.store.standing().await.unwrap().cut);
    closed(shard.store.extend(Epoch(1), hour).await.unwrap_err(), Closed::Cut);
    let store = Store::open(&shard.engine, RegionName::new("eu").unwrap()).await.unwrap();
    closed(store.read(Position::START, Limits::default()).await.unwrap_err(), Closed::Cut);
    let hour = store.clock().await.unwrap() + 3_600_000_000;
    store.begin_epoch(Epoch(2), hour).await.unwrap();
    assert!(!shard.store.standing().await.unwrap().cut);
    assert_eq!(store.verify(&witness).await.unwrap(), Continuity::Other);
    let now = store.identity().await.unwrap();
    assert_eq!((now.timeline, &now.system), (witness.identity.timeline + 1, &witness.identity.system));
    direct.ok("DELETE FROM notes").await;
    let batch = read(&store, witness.position).await;
    assert_eq!((batch.records.len(), batch.through.epoch), (1, Epoch(2)));
}

/// The clock, once connections that the server has ended are noticed.
async fn after_a_break(store: &Store) -> u64 {
    loop {
        if let Ok(now) = store.clock().await {
            return now;
        }
    }
}

pub(super) async fn a_lease_is_renewed_while_writers_have_every_connection(place: Place) {
    let shard = notes_shard(&place, "eu").await;
    let tenant = TenantName::new("acme").unwrap();
    let mut looks = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        let mut look = shard.store.look(&tenant).await.unwrap();
        look.fetch("SELECT count(*) FROM notes", &[]).await.unwrap();
        looks.push(look);
    }
    let hour = shard.store.clock().await.unwrap() + 3_600_000_000;
    assert_eq!(shard.store.standing().await.unwrap().fence.epoch, Epoch(1));
    shard.store.extend(Epoch(1), hour).await.unwrap();
    shard.store.begin_epoch(Epoch(2), hour).await.unwrap();
    assert_eq!(looks.len(), CONNECTIONS_MAX as usize);
}

pub(super) async fn statements_end_in_time(place: Place) {
    let shard = notes_shard(&place, "eu").await;
    let tenant = TenantName::new("acme").unwrap();
    let slow = if place.is_sqlite() {
        "WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 100000000000) SELECT count(*) FROM c"
    } else {
        "SELECT pg_sleep(3600)::text"
    };
    // More than there are connections: one that is given up becomes free again.
    for _ in 0..CONNECTIONS_MAX + 2 {
        let mut look = shard.store.look_within(SOON / 6, &tenant).await.unwrap();
        let error = look.fetch(slow, &[]).await.unwrap_err();
        assert!(matches!(error, Error::Busy(_)), "{error:?}");
    }
    let mut look = shard.store.look(&tenant).await.unwrap();
    look.fetch("SELECT count(*) FROM notes", &[]).await.unwrap();
}

pub(super) async fn statements_are_kept_prepared_within_bounds(place: Place) {
    if place.is_sqlite() {
        return;
    }
    let shard = notes_shard(&place, "eu").await;
    let mut look = shard.store.look(&TenantName::new("acme").unwrap()).await.unwrap();
    let kept = "SELECT count(*) FROM pg_prepared_statements";
    let mut counts = Vec::new();
    for statement in 0..STATEMENTS_MAX + 50 {
        look.fetch(&format!("SELECT count(*) + {statement} FROM notes"), &[]).await.unwrap();
        counts.push(look.fetch(kept, &[]).await.unwrap()[0].number(0).unwrap());
    }
    assert!(counts[20] >= 20, "they are kept: {counts:?}");
    assert!(counts.iter().all(|count| *count <= STATEMENTS_MAX as u64), "and bounded: {counts:?}");
    let again = look.fetch(kept, &[]).await.unwrap()[0].number(0).unwrap();
    assert_eq!(Some(&again), counts.last(), "the same statement is not prepared again");
}

/// A dump, or a copy, of what another region holds.
pub(super) async fn another_regions_database_is_a_copy_here(place: Place) {
    let shard = notes_shard(&place, "eu").await;
    assert!(!shard.store.standing().await.unwrap().cut);
    let here = Store::open(&shard.engine, RegionName::new("us").unwrap()).await.unwrap();
    let standing = here.standing().await.unwrap();
    assert!(standing.cut && standing.fence.deadline_us > 0, "its fence says that it is held: {standing:?}");
    closed(here.extend(Epoch(1), standing.fence.deadline_us).await.unwrap_err(), Closed::Cut);
    closed(place.direct(&shard, "acme").await.refused(INSERT).await, Closed::Cut);
}

pub(super) async fn a_file_in_place_of_another_is_noticed(place: Place) {
    let shard = notes_shard(&place, "eu").await;
    let (Engine::Sqlite(path), store) = (&shard.engine, &shard.store) else { return };
    let hour = store.clock().await.unwrap() + 3_600_000_000;
    store.extend(Epoch(1), hour).await.unwrap();
    std::fs::rename(path, path.with_extension("before")).unwrap();
    std::fs::copy(path.with_extension("before"), path).unwrap();
    closed(store.extend(Epoch(1), hour).await.unwrap_err(), Closed::Cut);
}

pub(super) async fn a_log_knows_what_it_has_reached(place: Place) {
    let shard = notes_shard(&place, "eu").await;
    let hour = shard.store.clock().await.unwrap() + 3_600_000_000;
    assert_eq!(shard.store.reached(Position::new(1, 5, 5)).await.unwrap(), Reached::Ahead(Position::START));
    place.direct(&shard, "acme").await.ok(INSERT).await;
    let first = shard.store.tip().await.unwrap();
    let beyond = Position { transaction: first.transaction + 9, ..first };
    assert_eq!(shard.store.reached(first).await.unwrap(), Reached::Here);
    assert_eq!(shard.store.reached(beyond).await.unwrap(), Reached::Ahead(first));
    assert_eq!(shard.store.reached(Position::new(2, 0, 0)).await.unwrap(), Reached::Lost(first));
    shard.store.begin_epoch(Epoch(2), hour).await.unwrap();
    assert_eq!(shard.store.reached(first).await.unwrap(), Reached::Here);
    assert_eq!(
        shard.store.reached(beyond).await.unwrap(),
        Reached::Lost(first),
        "the epoch ended without it"
    );
    assert_eq!(shard.store.reached(Position::new(2, 0, 0)).await.unwrap(), Reached::Ahead(first));
}
