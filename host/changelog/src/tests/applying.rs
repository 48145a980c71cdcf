//! Batches at a follower.

use std::time::Duration;

use portolan_core::balance::splitmix;
use portolan_core::ids::{RegionName, TenantName};
use portolan_core::log::{Epoch, Placement, Position, Version};
use portolan_core::tenant_table::{Tables, Writers};
use tokio::time::timeout;

use super::capture::{NOTES, all, changes, notes, notes_shard, read, settled};
use super::place::{Place, Shard, table};
use crate::{Applied, Batch, Change, Conflicts, Limits, Record, RowChange, RowId, Store};

/// Brings a follower up to date; all must be applied.
pub(super) async fn follow(source: &Store, follower: &Store) {
    let name = source.origin().as_str();
    let identity = source.identity().await.unwrap();
    if follower.progress(name).await.unwrap().is_none_or(|progress| progress.identity != identity) {
        follower.follow(name, &identity, Position::START).await.unwrap();
    }
    settled(source).await;
    loop {
        let after = follower.progress(name).await.unwrap().unwrap().received();
        let batch = source.read(after, Limits::default()).await.unwrap();
        if batch.records.is_empty() {
            return;
        }
        match follower.apply(name, &batch).await.unwrap() {
            Applied::Done(counts) => assert_eq!(counts.parked, 0, "{:?}", follower.parked(9).await),
            Applied::Staged => {}
            other => panic!("{other:?}"),
        }
    }
}

const ROWS: &str =
    "SELECT tenant || '/' || CAST(id AS text) || '/' || coalesce(body, '-') FROM notes ORDER BY tenant, id";

async fn rows(place: &Place, shard: &Shard) -> Vec<String> {
    place.admin(shard).await.texts(ROWS).await
}

/// A change of a note, as another region might have made it.
fn change(
    id: u32,
    version: (u64, u64, &str),
    replaces: Option<(u64, u64, &str)>,
    body: Option<&str>,
    place: &Place,
) -> Record {
    let of = |(epoch, v, origin): (u64, u64, &str)| Version {
        epoch: Epoch(epoch),
        v,
        origin: RegionName::new(origin).unwrap(),
    };
    let blank = if place.is_sqlite() { "" } else { " " };
    Record {
        position: Position::new(1, u64::from(id), version.1),
        at_us: 1,
        tenant: Some(TenantName::new("acme").unwrap()),
        placement: Placement(0),
        schema: 1,
        change: Change::Row(RowChange {
            id: RowId { table: "notes".into(), key: format!("[\"acme\",{blank}{id}]") },
            row: body.map(|body| format!("{{\"tenant\":\"acme\",\"id\":{id},\"body\":\"{body}\"}}")),
            version: of(version),
            replaces: replaces.map(of),
            marks: None,
        }),
    }
}

pub(super) async fn a_batch_is_applied_once_and_never_echoes(place: Place) {
    let (source, follower) = (notes_shard(&place, "eu").await, notes_shard(&place, "us").await);
    let mut direct = place.direct(&source, "acme").await;
    direct.ok("INSERT INTO notes VALUES ('acme', 1, 'one')").await;
    let first = read(&source.store, Position::START).await;
    direct.ok("UPDATE notes SET body = 'uno'").await;
    let second = read(&source.store, first.through).await;
    assert_eq!(follower.store.apply("eu", &first).await.unwrap(), Applied::Other, "nothing is followed yet");
    follower.store.follow("eu", &first.identity, Position::START).await.unwrap();
    assert_eq!(follower.store.apply("eu", &second).await.unwrap(), Applied::Gap(Position::START));
    assert!(matches!(follower.store.apply("eu", &first).await.unwrap(), Applied::Done(_)));
    assert_eq!(follower.store.apply("eu", &first).await.unwrap(), Applied::Duplicate);
    assert!(
        matches!(follower.store.apply("eu", &second).await.unwrap(), Applied::Done(counts) if counts.written == 1)
    );
    assert_eq!(rows(&place, &follower).await, ["acme/1/uno"]);
    assert!(all(&follower.store).await.is_empty(), "what was applied is not this log's");
    assert_eq!(follower.store.progress("eu").await.unwrap().unwrap().applied, second.through);
    assert_eq!(follower.store.conflicts(&Conflicts::all(9)).await.unwrap(), []);
    // Another log under the same name.
    let identity = portolan_core::log::Identity { incarnation: "other".into(), ..second.identity.clone() };
    let other = Batch { identity, ..second };
    assert_eq!(follower.store.apply("eu", &other).await.unwrap(), Applied::Other);
    // The follower writes on, above what it was given; its own is captured.
    place.direct(&follower, "acme").await.ok("UPDATE notes SET body = 'eins'").await;
    let own = changes(&follower.store).await;
    assert_eq!(own.len(), 1);
    assert!(own[0].version > changes(&source.store).await[1].version);
}

pub(super) async fn any_order_gives_the_same_rows(place: Place) {
    let source = notes_shard(&place, "eu").await;
    let followers =
        [place.replica("us", NOTES, &[notes()]).await, place.replica("ap", NOTES, &[notes()]).await];
    for seed in [1_u64, 2] {
        let mut state = seed;
        let mut below = |bound: u64| {
            state = splitmix(state.wrapping_add(0x9e37_79b9_7f4a_7c15));
            state % bound
        };
        let mut direct = place.direct(&source, "acme").await;
        for step in 0..40 {
            let id = below(5);
            let sql = match below(4) {
                0 => format!("DELETE FROM notes WHERE id = {id}"),
                1 => format!(
                    "UPDATE notes SET id = id + 5 WHERE id = {id} AND NOT EXISTS (SELECT 1 FROM notes n WHERE n.id = {id} + 5)"
                ),
                _ => format!(
                    "INSERT INTO notes VALUES ('acme', {id}, 'b{step}') ON CONFLICT (tenant, id) DO UPDATE SET body = 'b{step}'"
                ),
            };
            direct.ok(&sql).await;
        }
        let records: Vec<Record> =
            all(&source.store).await.into_iter().flat_map(|batch| batch.records).collect();
        for follower in &followers {
            let mut shuffled: Vec<Record> = records.iter().chain(records.iter().take(20)).cloned().collect();
            for at in (1..shuffled.len()).rev() {
                shuffled.swap(at, usize::try_from(below(at as u64 + 1)).unwrap());
            }
            let mut rest = shuffled.as_slice();
            while !rest.is_empty() {
                let (batch, more) = rest.split_at(usize::try_from(below(rest.len() as u64) + 1).unwrap());
                follower.store.merge(batch).await.unwrap();
                rest = more;
            }
            assert_eq!(rows(&place, follower).await, rows(&place, &source).await, "seed {seed}");
            assert_eq!(
                follower.store.conflicts(&Conflicts::all(9)).await.unwrap(),
                [],
                "one lease writes one history"
            );
            assert_eq!(follower.store.parked(9).await.unwrap(), []);
        }
    }
}

pub(super) async fn a_lower_epoch_never_overwrites_a_higher(place: Place) {
    let follower = place.replica("us", NOTES, &[notes()]).await;
    follower.store.merge(&[change(1, (3, 100, "eu"), None, Some("three"), &place)]).await.unwrap();
    let counts = follower.store.merge(&[change(1, (2, 900, "ap"), None, Some("two"), &place)]).await.unwrap();
    assert_eq!((counts.written, counts.conflicts), (0, 1));
    assert_eq!(rows(&place, &follower).await, ["acme/1/three"]);
    follower.store.merge(&[change(1, (4, 50, "ap"), None, None, &place)]).await.unwrap();
    assert!(rows(&place, &follower).await.is_empty());
    // Below the tombstone.
    follower.store.merge(&[change(1, (3, 990, "eu"), None, Some("late"), &place)]).await.unwrap();
    assert!(rows(&place, &follower).await.is_empty());
}

pub(super) async fn losers_are_kept(place: Place) {
    let members = table("notes", Some("tenant"), &["tenant", "id"], Writers::Members);
    let shard = place.replica("us", NOTES, &[members]).await;
    shard.store.set_member(1).await.unwrap();
    place.direct(&shard, "acme").await.ok("INSERT INTO notes VALUES ('acme', 1, 'mine')").await;
    let own = changes(&shard.store).await.remove(0).version;
    let theirs = (0, own.v + 5, "ap");
    // They did not know of ours, and are later.
    let counts = shard.store.merge(&[change(1, theirs, None, Some("theirs"), &place)]).await.unwrap();
    assert_eq!((counts.written, counts.conflicts), (1, 1));
    // Who knew is no conflict, nor who comes twice.
    let next = change(1, (0, own.v + 9, "ap"), Some(theirs), Some("next"), &place);
    shard.store.merge(&[next.clone(), next]).await.unwrap();
    // Comes late and loses; once is enough.
    for _ in 0..2 {
        shard.store.merge(&[change(1, (0, own.v + 3, "eu"), None, Some("late"), &place)]).await.unwrap();
    }
    let lost = shard.store.conflicts(&Conflicts::of(TenantName::new("acme").unwrap(), 9)).await.unwrap();
    let mut told: Vec<_> =
        lost.iter().map(|lost| (lost.version.v - own.v, lost.row.clone().unwrap())).collect();
    told.sort();
    assert_eq!(told.len(), 2, "{lost:?}");
    assert!(told[0].0 == 0 && told[0].1.contains("mine"), "{told:?}");
    assert!(told[1].0 == 3 && told[1].1.contains("late"), "{told:?}");
    assert_eq!(rows(&place, &shard).await, ["acme/1/next"]);
    assert!(
        shard.store.conflicts(&Conflicts::of(TenantName::new("bolt").unwrap(), 9)).await.unwrap().is_empty()
    );
}

pub(super) async fn a_change_that_the_database_refuses_waits_alone(place: Place) {
    let unique = "CREATE TABLE notes (tenant text NOT NULL, id bigint NOT NULL, body text UNIQUE, PRIMARY KEY (tenant, id))";
    let shard = place.replica("us", unique, &[notes()]).await;
    let records = [
        change(1, (1, 10, "eu"), None, Some("same"), &place),
        change(2, (1, 11, "eu"), None, Some("same"), &place),
        change(3, (1, 12, "eu"), None, Some("other"), &place),
    ];
    let counts = shard.store.merge(&records).await.unwrap();
    assert_eq!((counts.written, counts.parked), (2, 1));
    assert_eq!(rows(&place, &shard).await, ["acme/1/same", "acme/3/other"]);
    let parked = shard.store.parked(9).await.unwrap();
    assert!(parked.len() == 1 && parked[0].why.to_lowercase().contains("unique"), "{parked:?}");
    assert_eq!(parked[0].record, records[1]);
    assert_eq!(shard.store.retry_parked().await.unwrap(), 1);
    // What stands in the way goes, in the same batch as more of the same.
    shard.store.merge(&[change(1, (1, 13, "eu"), None, None, &place)]).await.unwrap();
    assert_eq!(shard.store.retry_parked().await.unwrap(), 0);
    assert_eq!(rows(&place, &shard).await, ["acme/2/same", "acme/3/other"]);
    // A later change makes what waits void.
    shard.store.merge(&[change(4, (1, 14, "eu"), None, Some("same"), &place)]).await.unwrap();
    shard.store.merge(&[change(4, (1, 15, "eu"), None, Some("free"), &place)]).await.unwrap();
    assert_eq!(shard.store.retry_parked().await.unwrap(), 0);
    assert_eq!(shard.store.parked(9).await.unwrap(), []);
    assert_eq!(rows(&place, &shard).await.last().unwrap(), "acme/4/free");
}

pub(super) async fn a_change_that_lies_is_not_applied(place: Place) {
    let shard = place.replica("us", NOTES, &[notes()]).await;
    let good = change(1, (1, 10, "eu"), None, Some("acme's"), &place);
    shard.store.merge(std::slice::from_ref(&good)).await.unwrap();
    let edit = |edit: &dyn Fn(&mut Record, &mut RowChange)| {
        let mut record = change(2, (1, 20, "eu"), None, Some("lie"), &place);
        let Change::Row(mut change) = record.change.clone() else { unreachable!() };
        edit(&mut record, &mut change);
        Record { change: Change::Row(change), ..record }
    };
    let key_of_one = match &good.change {
        Change::Row(change) => change.id.key.clone(),
        Change::Forget => unreachable!(),
    };
    let lies = [
        ("of another tenant", edit(&|record, _| record.tenant = TenantName::new("bolt").ok())),
        ("of another key", edit(&|_, change| change.id.key = key_of_one.clone())),
        ("is not declared here", edit(&|_, change| change.id.table = "secrets".into())),
        ("no array", edit(&|_, change| change.id.key = "1".into())),
        ("another number of columns", edit(&|_, change| change.id.key = "[1]".into())),
        ("no object", edit(&|_, change| change.row = Some("[]".into()))),
        (
            "no column `extra`",
            edit(&|_, change| {
                change.row = change.row.as_ref().map(|row| row.replace("\"body\"", "\"extra\""))
            }),
        ),
        (
            "from the future",
            edit(&|_, change| (change.version.epoch, change.version.v) = (Epoch(0), u64::MAX >> 1)),
        ),
        // Deletes acme's row in bolt's name.
        (
            "another tenant's row",
            edit(&|record, change| {
                record.tenant = TenantName::new("bolt").ok();
                change.id.key = key_of_one.clone();
                change.row = None;
            }),
        ),
    ];
    for ((why, mut lie), at) in lies.into_iter().zip(0..) {
        if let Change::Row(change) = &mut lie.change {
            change.version.v += at;
        }
        let counts = shard.store.merge(&[lie.clone()]).await.unwrap();
        assert_eq!((counts.written, counts.parked), (0, 1), "{why}");
        let parked = shard.store.parked(99).await.unwrap();
        assert!(
            parked.iter().any(|parked| parked.record == lie && parked.why.contains(why)),
            "{why}: {parked:?}"
        );
    }
    assert_eq!(rows(&place, &shard).await, ["acme/1/acme's"]);
    // A column that comes with a later schema lets its rows in.
    place.admin(&shard).await.ok("ALTER TABLE notes ADD COLUMN extra text").await;
    shard.store.declare(&Tables::new(vec![notes()]).unwrap(), 2).await.unwrap();
    shard.store.retry_parked().await.unwrap();
    assert_eq!(rows(&place, &shard).await, ["acme/1/acme's", "acme/2/-"]);
}

pub(super) async fn children_and_parents_find_each_other(place: Place) {
    let schema = "CREATE TABLE parents (tenant text NOT NULL, id bigint PRIMARY KEY, name text UNIQUE);
        CREATE TABLE children (tenant text NOT NULL, id bigint PRIMARY KEY, parent bigint NOT NULL REFERENCES parents (id))";
    let tables = ["parents", "children"].map(|name| table(name, Some("tenant"), &["id"], Writers::Primary));
    let (source, follower) =
        (place.shard("eu", schema, &tables).await, place.replica("us", schema, &tables).await);
    let mut direct = place.direct(&source, "acme").await;
    direct
        .ok("INSERT INTO parents VALUES ('acme', 1, 'a'); INSERT INTO children VALUES ('acme', 7, 1)")
        .await;
    follow(&source.store, &follower.store).await;
    // A name moves to a new parent, the child with it, and the old one goes: whatever order the follower takes.
    direct.ok("BEGIN; INSERT INTO parents VALUES ('acme', 2, 'b'); UPDATE children SET parent = 2; DELETE FROM parents WHERE id = 1;
        UPDATE parents SET name = 'a'; COMMIT").await;
    follow(&source.store, &follower.store).await;
    let sql = "SELECT CAST(p.id AS text) || p.name || CAST(c.parent AS text) FROM parents p, children c ORDER BY p.id";
    assert_eq!(place.admin(&follower).await.texts(sql).await, ["2a2"]);
    // A child that comes before its parent waits for it.
    let mut changes: Vec<Record> =
        all(&source.store).await.into_iter().flat_map(|batch| batch.records).collect();
    changes
        .sort_by_key(|record| matches!(&record.change, Change::Row(change) if change.id.table == "parents"));
    let other = place.replica("ap", schema, &tables).await;
    for record in &changes {
        other.store.merge(std::slice::from_ref(record)).await.unwrap();
    }
    assert_eq!(other.store.retry_parked().await.unwrap(), 0);
    assert_eq!(place.admin(&other).await.texts(sql).await, ["2a2"]);
}

pub(super) async fn what_is_deferred_waits_alone_too(place: Place) {
    let reference = "CREATE TABLE pairs (tenant text NOT NULL, id bigint PRIMARY KEY, other bigint NOT NULL
        REFERENCES pairs (id) DEFERRABLE INITIALLY DEFERRED)";
    let pairs = table("pairs", Some("tenant"), &["id"], Writers::Primary);
    if place.is_sqlite() {
        let shard = place.replica("us", reference, &[]).await;
        let error = shard.store.declare(&Tables::new(vec![pairs]).unwrap(), 2).await.unwrap_err();
        assert!(error.to_string().contains("INITIALLY DEFERRED"), "{error}");
        return;
    }
    let (source, follower) = (
        place.shard("eu", reference, std::slice::from_ref(&pairs)).await,
        place.replica("us", reference, &[pairs]).await,
    );
    let mut direct = place.direct(&source, "acme").await;
    direct
        .ok("BEGIN; INSERT INTO pairs VALUES ('acme', 1, 2); INSERT INTO pairs VALUES ('acme', 2, 1); COMMIT")
        .await;
    follow(&source.store, &follower.store).await;
    let sql = "SELECT id::text FROM pairs ORDER BY id";
    assert_eq!(place.admin(&follower).await.texts(sql).await, ["1", "2"]);
    // Half of a pair waits, and its batch goes on.
    direct
        .ok("BEGIN; INSERT INTO pairs VALUES ('acme', 3, 4); INSERT INTO pairs VALUES ('acme', 4, 3),
        ('acme', 5, 1); COMMIT")
        .await;
    let mut rest = source.store.rows(None, None, 9).await.unwrap();
    rest.retain(|record| !matches!(&record.change, Change::Row(change) if change.id.key == "[4]"));
    let counts = follower.store.merge(&rest).await.unwrap();
    assert_eq!((counts.written, counts.parked), (1, 1));
    follow(&source.store, &follower.store).await;
    assert_eq!(place.admin(&follower).await.texts(sql).await, ["1", "2", "3", "4", "5"]);
}

pub(super) async fn a_large_transaction_becomes_visible_at_once(place: Place) {
    let (source, follower) = (notes_shard(&place, "eu").await, place.replica("us", NOTES, &[notes()]).await);
    let mut direct = place.direct(&source, "acme").await;
    direct.ok("INSERT INTO notes VALUES ('acme', 0, 'before')").await;
    follow(&source.store, &follower.store).await;
    let many =
        "INSERT INTO notes WITH RECURSIVE n (at) AS (SELECT 1 UNION ALL SELECT at + 1 FROM n WHERE at < 2500)
        SELECT 'acme', at, 'many' FROM n";
    direct.ok(many).await;
    let mut parts = 0;
    loop {
        let after = follower.store.progress("eu").await.unwrap().unwrap();
        let batch = read(&source.store, after.received()).await;
        if batch.records.is_empty() {
            break;
        }
        // Each comes twice, as after a broken link; the second is known.
        let applied = follower.store.apply("eu", &batch).await.unwrap();
        assert_eq!(follower.store.apply("eu", &batch).await.unwrap(), Applied::Duplicate);
        match applied {
            Applied::Staged => {
                parts += 1;
                assert_eq!(rows(&place, &follower).await.len(), 1);
                assert_eq!(follower.store.progress("eu").await.unwrap().unwrap().applied, after.applied);
            }
            Applied::Done(counts) => assert_eq!(counts.written, 2_500),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((parts, rows(&place, &follower).await.len()), (2, 2_501));
    assert_eq!(follower.store.progress("eu").await.unwrap().unwrap().staged, None);
    // Parts by bytes: each has its own, and nothing of them stays behind.
    let large = "x".repeat(400_000);
    direct.ok(&format!("UPDATE notes SET body = '{large}' WHERE id < 7")).await;
    follow(&source.store, &follower.store).await;
    let (ours, theirs) = (rows(&place, &source).await, rows(&place, &follower).await);
    assert!(ours == theirs && ours.iter().filter(|row| row.len() > large.len()).count() == 7);
    let staged = if place.is_sqlite() { "portolan_staged" } else { "portolan.staged" };
    assert_eq!(place.admin(&follower).await.texts(&format!("SELECT source FROM {staged}")).await, [""; 0]);
}

pub(super) async fn a_dropped_application_leaves_nothing(place: Place) {
    let (source, follower) = (notes_shard(&place, "eu").await, place.replica("us", NOTES, &[notes()]).await);
    let mut direct = place.direct(&source, "acme").await;
    for id in 0..20 {
        direct.ok(&format!("INSERT INTO notes VALUES ('acme', {id}, 'x')")).await;
    }
    let batch = read(&source.store, Position::START).await;
    follower.store.follow("eu", &batch.identity, Position::START).await.unwrap();
    // Dropped at many places of its way.
    for step in 0..30_u64 {
        let cut = timeout(Duration::from_micros(200 * step), follower.store.apply("eu", &batch)).await;
        // One state of the database, since a commit may still be under way.
        let table = if place.is_sqlite() { "portolan_progress" } else { "portolan.progress" };
        let sql = format!(
            "SELECT CAST((SELECT count(*) FROM notes) AS text) || '/' || CAST(seq AS text) FROM {table}"
        );
        let there = place.admin(&follower).await.texts(&sql).await.remove(0);
        assert!(there == "0/0" || there == format!("20/{}", batch.through.sequence), "{there}");
        if cut.is_ok_and(|done| done.is_ok()) {
            break;
        }
    }
    while rows(&place, &follower).await.is_empty() {
        follower.store.apply("eu", &batch).await.ok();
    }
    assert_eq!(rows(&place, &follower).await.len(), 20);
}

pub(super) async fn who_begins_copies_rows_and_follows(place: Place) {
    let (source, follower) = (notes_shard(&place, "eu").await, place.replica("us", NOTES, &[notes()]).await);
    let mut direct = place.direct(&source, "acme").await;
    for id in 0..30 {
        direct.ok(&format!("INSERT INTO notes VALUES ('acme', {id}, 'x')")).await;
    }
    direct.ok("DELETE FROM notes WHERE id = 3").await;
    place.direct(&source, "bolt").await.ok("INSERT INTO notes VALUES ('bolt', 1, 'y')").await;
    let tip = read(&source.store, Position::START).await.through;
    let (mut after, tenant, mut tombstones) = (None, TenantName::new("acme").unwrap(), 0);
    loop {
        let rows = source.store.rows(Some(&tenant), after.as_ref(), 7).await.unwrap();
        let Some(last) = rows.last() else { break };
        after = match &last.change {
            Change::Row(change) => Some(change.id.clone()),
            Change::Forget => unreachable!(),
        };
        tombstones += rows
            .iter()
            .filter(|row| matches!(&row.change, Change::Row(change) if change.row.is_none()))
            .count();
        // It is written while it is copied.
        direct.ok("UPDATE notes SET body = body || 'x' WHERE id < 5 AND tenant = 'acme'").await;
        follower.store.merge(&rows).await.unwrap();
    }
    assert_eq!(tombstones, 1);
    assert!(
        rows(&place, &follower).await.iter().all(|row| row.starts_with("acme")),
        "only this tenant was asked for"
    );
    follower.store.follow("eu", &source.store.identity().await.unwrap(), tip).await.unwrap();
    follow(&source.store, &follower.store).await;
    let expected: Vec<_> =
        rows(&place, &source).await.into_iter().filter(|row| row.starts_with("acme")).collect();
    assert_eq!(rows(&place, &follower).await, expected);
}
