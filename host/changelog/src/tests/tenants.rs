//! Tenants: their rows alone, held, moved, forgotten.

use std::time::Duration;

use portolan_core::ids::TenantName;
use portolan_core::log::{Epoch, Placement, Position};
use portolan_core::tenant_table::Writers;
use portolan_core::time::Moment;

use super::applying::follow;
use super::capture::{NOTES, all, notes, notes_shard, read};
use super::place::{Place, table, text};
use crate::{Change, Closed, Error, Lease, Record, Rule};

const SOON: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(3_600);

fn name(name: &str) -> TenantName {
    TenantName::new(name).unwrap()
}

fn count_of_acme(records: &[Record]) -> u64 {
    records.iter().filter(|record| record.tenant == Some(name("acme"))).count() as u64
}

fn lease() -> Lease {
    Lease { epoch: Epoch(1), until: Moment(u64::MAX) }
}

pub(super) async fn rows_are_reached_under_their_tenant_alone(place: Place) {
    let schema = format!("{NOTES}; CREATE TABLE plans (id bigint PRIMARY KEY, name text)");
    let tables = [notes(), table("plans", None, &["id"], Writers::Primary)];
    let shard = place.shard("eu", &schema, &tables).await;
    place.direct(&shard, "acme").await.ok("INSERT INTO notes VALUES ('acme', 1, 'a')").await;
    place.direct(&shard, "bolt").await.ok("INSERT INTO notes VALUES ('bolt', 1, 'b')").await;
    let mut write = shard.store.write(&name("acme"), &lease(), Moment(0)).await.unwrap();
    let error = write.execute("INSERT INTO notes VALUES ('bolt', 2, 'x')", &[]).await.unwrap_err();
    assert!(matches!(error, Error::Rejected(_)), "{error:?}");
    drop(write);
    let mut look = shard.store.look(&name("acme")).await.unwrap();
    let seen = look.fetch("SELECT CAST(count(*) AS text) FROM notes", &[]).await.unwrap();
    if place.is_sqlite() {
        assert_eq!(text(&seen), "2", "SQLite has no such thing: statements must name the tenant");
        drop(look);
        for sql in ["UPDATE notes SET body = 'x'", "DELETE FROM notes"] {
            let mut write = shard.store.write(&name("acme"), &lease(), Moment(0)).await.unwrap();
            assert!(matches!(write.execute(sql, &[]).await, Err(Error::Rejected(_))), "{sql}");
        }
    } else {
        assert_eq!(text(&seen), "1");
        drop(look);
        let mut write = shard.store.write(&name("acme"), &lease(), Moment(0)).await.unwrap();
        assert_eq!(write.execute("UPDATE notes SET body = 'x'", &[]).await.unwrap(), 1);
        drop(write);
        // Nobody's rows are nobody's to see: neither the writer's without a tenant, nor the owner's.
        for role in ["app", "own"] {
            let crate::Engine::Postgres(config) = &shard.engine else { unreachable!() };
            let database = config.owner.rsplit('/').find_map(|part| part.split_once("?host=")).unwrap().0;
            let mut nobody = super::place::Direct::Postgres(place.cluster().connect(role, database).await);
            assert_eq!(nobody.texts("SELECT body FROM notes").await, [""; 0], "{role}");
        }
    }
    // Reference tables are everybody's to read.
    let mut owner = shard.store.maintain().await.unwrap();
    owner.execute("INSERT INTO plans VALUES (1, 'free')", &[]).await.unwrap();
    owner.finish().await.unwrap();
    let mut look = shard.store.look(&name("bolt")).await.unwrap();
    assert_eq!(text(&look.fetch("SELECT name FROM plans", &[]).await.unwrap()), "free");
    let last = all(&shard.store).await.pop().unwrap().records.pop().unwrap();
    assert_eq!(last.tenant, None);
}

pub(super) async fn what_is_written_has_a_position(place: Place) {
    let shard = notes_shard(&place, "eu").await;
    let mut last = Position::START;
    for id in 1..4_i64 {
        let mut write = shard.store.write(&name("acme"), &lease(), Moment(0)).await.unwrap();
        let insert = "INSERT INTO notes VALUES ('acme', $1, 'x')";
        write.execute(insert, &[id.into()]).await.unwrap();
        write.execute(insert, &[(id + 10).into()]).await.unwrap();
        let position = write.commit(&lease(), || Moment(0)).await.unwrap().unwrap();
        assert!(position > last && !position.same_transaction(last));
        let batch = read(&shard.store, last).await;
        assert_eq!((batch.through, batch.records.len(), batch.ends), (position, 2, true));
        last = position;
    }
    let idle = shard.store.write(&name("acme"), &lease(), Moment(0)).await.unwrap();
    assert_eq!(idle.commit(&lease(), || Moment(0)).await.unwrap(), None);
    // One that is dropped was never there, and its connection is no danger to the next.
    let mut dropped = shard.store.write(&name("acme"), &lease(), Moment(0)).await.unwrap();
    dropped.execute("DELETE FROM notes", &[]).await.unwrap();
    drop(dropped);
    assert!(read(&shard.store, last).await.records.is_empty());
    assert_eq!(place.admin(&shard).await.texts("SELECT body FROM notes").await.len(), 6);
}

pub(super) async fn a_held_tenant_is_not_written(place: Place) {
    let shard = notes_shard(&place, "eu").await;
    let (mut acme, mut bolt) = (place.direct(&shard, "acme").await, place.direct(&shard, "bolt").await);
    acme.ok("INSERT INTO notes VALUES ('acme', 1, 'a')").await;
    if !place.is_sqlite() {
        // Who is inside is waited for.
        acme.ok("BEGIN; INSERT INTO notes VALUES ('acme', 2, 'inside')").await;
        assert!(matches!(shard.store.hold(&name("acme"), "move-1", LONG, SOON).await, Err(Error::Busy(_))));
        acme.ok("COMMIT").await;
    }
    let held = shard.store.hold(&name("acme"), "move-1", LONG, SOON).await.unwrap();
    assert_eq!(all(&shard.store).await.pop().unwrap().through, held);
    for sql in [
        "INSERT INTO notes VALUES ('acme', 3, 'x')",
        "UPDATE notes SET body = 'x' WHERE tenant = 'acme'",
        "DELETE FROM notes WHERE tenant = 'acme'",
    ] {
        let error = acme.refused(sql).await;
        assert!(matches!(error, Error::Closed(Closed::Held)), "{sql}: {error:?}");
    }
    let mut write = shard.store.write(&name("acme"), &lease(), Moment(0)).await.unwrap();
    let error = write.execute("INSERT INTO notes VALUES ('acme', 3, 'x')", &[]).await.unwrap_err();
    assert!(matches!(error, Error::Closed(Closed::Held)), "{error:?}");
    drop(write);
    bolt.ok("INSERT INTO notes VALUES ('bolt', 1, 'b')").await;
    assert!(
        matches!(shard.store.hold(&name("acme"), "move-2", LONG, SOON).await, Err(Error::Busy(_))),
        "another move holds it"
    );
    assert!(!shard.store.release(&name("acme"), "move-2").await.unwrap());
    assert!(shard.store.release(&name("acme"), "move-1").await.unwrap());
    acme.ok("INSERT INTO notes VALUES ('acme', 3, 'x')").await;
}

pub(super) async fn one_of_two_moves_holds(place: Place) {
    let shard = notes_shard(&place, "eu").await;
    for number in 0..8 {
        let tenant = name(&format!("acme-{number}"));
        let (one, two) = tokio::join!(
            shard.store.hold(&tenant, "move-1", LONG, SOON),
            shard.store.hold(&tenant, "move-2", LONG, SOON)
        );
        let holder = if one.is_ok() { "move-1" } else { "move-2" };
        let other = if one.is_ok() { two } else { one };
        assert!(matches!(other, Err(Error::Busy(_))), "{other:?}");
        assert_eq!(shard.store.tenant(&tenant).await.unwrap().hold.as_deref(), Some(holder));
    }
}

pub(super) async fn a_forgotten_tenant_leaves_nothing(place: Place) {
    let (shard, follower) = (notes_shard(&place, "eu").await, place.replica("us", NOTES, &[notes()]).await);
    let (mut acme, mut bolt) = (place.direct(&shard, "acme").await, place.direct(&shard, "bolt").await);
    acme.ok("INSERT INTO notes VALUES ('acme', 1, 'a'), ('acme', 2, 'a')").await;
    acme.ok("DELETE FROM notes WHERE tenant = 'acme' AND id = 2").await;
    bolt.ok("INSERT INTO notes VALUES ('bolt', 1, 'b')").await;
    follow(&shard.store, &follower.store).await;
    let earlier = all(&shard.store).await;
    assert!(
        matches!(shard.store.forget(&name("acme"), Placement(1)).await, Err(Error::Busy(_))),
        "it lives here"
    );
    shard.store.hold(&name("acme"), "move", LONG, SOON).await.unwrap();
    assert!(shard.store.place(&name("acme"), Placement(1), true).await.unwrap());
    assert!(!shard.store.place(&name("acme"), Placement(1), false).await.unwrap(), "placements rise");
    let error = acme.refused("INSERT INTO notes VALUES ('acme', 3, 'x')").await;
    assert!(matches!(error, Error::Closed(Closed::Away)), "{error:?}");
    shard.store.forget(&name("acme"), Placement(1)).await.unwrap();
    shard.store.forget(&name("acme"), Placement(1)).await.unwrap();
    let forgets = |batches: &[crate::Batch]| {
        batches
            .iter()
            .flat_map(|batch| &batch.records)
            .filter(|record| record.change == Change::Forget)
            .count()
    };
    assert_eq!(forgets(&all(&shard.store).await), 1);
    follow(&shard.store, &follower.store).await;
    for place_of in [&shard, &follower] {
        let rows = place.admin(place_of).await.texts("SELECT tenant FROM notes").await;
        assert_eq!(rows, ["bolt"]);
        assert_eq!(
            place_of.store.rows(Some(&name("acme")), None, 9).await.unwrap(),
            [],
            "not even tombstones"
        );
        assert_eq!(place_of.store.tenant(&name("acme")).await.unwrap().forgotten, Placement(1));
    }
    // What is left of the earlier stay on some link changes nothing.
    for batch in &earlier {
        let counts = follower.store.merge(&batch.records).await.unwrap();
        assert_eq!((counts.forgotten, counts.written), (count_of_acme(&batch.records), 0));
    }
    assert_eq!(place.admin(&follower).await.texts("SELECT tenant FROM notes").await, ["bolt"]);
    // It comes back, and an old word to forget it is not obeyed again.
    let forget = all(&shard.store)
        .await
        .into_iter()
        .flat_map(|batch| batch.records)
        .find(|record| record.change == Change::Forget);
    shard.store.place(&name("acme"), Placement(2), false).await.unwrap();
    acme.ok("INSERT INTO notes VALUES ('acme', 1, 'back')").await;
    follow(&shard.store, &follower.store).await;
    follower.store.merge(&[forget.unwrap()]).await.unwrap();
    let rows = place.admin(&follower).await.texts("SELECT tenant FROM notes ORDER BY tenant").await;
    assert_eq!(rows, ["acme", "bolt"]);
}

pub(super) async fn refusals_name_the_rule(place: Place) {
    let schema = "CREATE TABLE ones (tenant text NOT NULL, id bigint PRIMARY KEY, word text NOT NULL, \
                  CONSTRAINT few CHECK (id < 10), CONSTRAINT once UNIQUE (tenant, word)); \
                  CREATE TABLE twos (tenant text NOT NULL, id bigint PRIMARY KEY, one bigint, \
                  CONSTRAINT to_one FOREIGN KEY (one) REFERENCES ones (id))";
    let tables = [
        table("ones", Some("tenant"), &["id"], Writers::Primary),
        table("twos", Some("tenant"), &["id"], Writers::Primary),
    ];
    let shard = place.shard("eu", schema, &tables).await;
    place.direct(&shard, "acme").await.ok("INSERT INTO ones VALUES ('acme', 1, 'secret')").await;
    for (sql, rule, constraint) in [
        ("INSERT INTO ones VALUES ('acme', 2, 'secret')", Rule::Unique, "once"),
        ("INSERT INTO ones VALUES ('acme', 10, 'b')", Rule::Check, "few"),
        ("INSERT INTO ones VALUES ('acme', 3, NULL)", Rule::NotNull, ""),
        ("INSERT INTO twos VALUES ('acme', 1, 5)", Rule::ForeignKey, "to_one"),
        ("INSERT INTO gone VALUES (1)", Rule::Missing, ""),
    ] {
        let mut write = shard.store.write(&name("acme"), &lease(), Moment(0)).await.unwrap();
        let error = write.execute(sql, &[]).await.unwrap_err();
        let Error::Rejected(rejection) = error else { panic!("{sql}: {error:?}") };
        assert_eq!(rejection.rule, rule, "{sql}: {rejection:?}");
        assert!(!rejection.message.contains("secret"), "{rejection:?}");
        let named = rule == Rule::Check || !place.is_sqlite();
        assert_eq!(rejection.constraint.as_deref().unwrap_or_default(), if named { constraint } else { "" });
        if rule == Rule::NotNull {
            assert_eq!(rejection.columns, ["word"]);
        }
        // Its connection serves the next one.
        write.rollback().await.unwrap();
    }
}
