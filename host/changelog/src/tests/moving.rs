//! A tenant on its way to another shard.

use std::time::Duration;

use portolan_core::ids::TenantName;
use portolan_core::log::{Epoch, Placement, Position};
use portolan_core::tenant_table::Writers;

use super::applying::follow;
use super::capture::{NOTES, notes, notes_shard};
use super::place::{Place, Shard, table};
use crate::{Change, Closed, Drained, Error, Limits, MoveNote, Reach, Record, Side, Stamp, Store};

const LONG: Duration = Duration::from_secs(3_600);
const SOON: Duration = Duration::from_millis(300);

fn acme() -> TenantName {
    TenantName::new("acme").unwrap()
}

async fn all_rows(store: &Store) -> Vec<Record> {
    let (mut after, mut all) = (None, Vec::new());
    loop {
        let page = store.tenant_rows(&acme(), after.as_ref(), 2).await.unwrap();
        let Some(last) = page.last() else { return all };
        let Change::Row(change) = &last.change else { unreachable!() };
        after = Some(change.id.clone());
        all.extend(page);
    }
}

async fn records(store: &Store, after: Position, reach: Reach) -> (usize, Position) {
    let passage = store.tenant_records(&acme(), after, Limits::default(), reach).await.unwrap();
    assert!(passage.whole);
    (passage.records.len(), passage.through)
}

pub(super) async fn what_is_open_lies_after_what_is_settled(place: Place) {
    let shard = notes_shard(&place, "eu").await;
    let mut bolt = place.direct(&shard, "bolt").await;
    let mut acme = place.direct(&shard, "acme").await;
    acme.ok("INSERT INTO notes VALUES ('acme', 1, 'before')").await;
    if place.is_sqlite() {
        let at = shard.store.settled().await.unwrap();
        assert_eq!(at, shard.store.tip().await.unwrap());
        acme.ok("INSERT INTO notes VALUES ('acme', 2, 'after')").await;
        bolt.ok("INSERT INTO notes VALUES ('bolt', 1, 'other')").await;
        assert_eq!(records(&shard.store, at, Reach::Settled).await.0, 1);
        return;
    }
    // It has a lower number than what is written and seen before it ends.
    acme.ok("BEGIN; INSERT INTO notes VALUES ('acme', 2, 'open')").await;
    bolt.ok("INSERT INTO notes VALUES ('bolt', 1, 'later')").await;
    let (tip, at) = (shard.store.tip().await.unwrap(), shard.store.settled().await.unwrap());
    assert_eq!(all_rows(&shard.store).await.len(), 1, "a copy does not have it");
    // Transactions of cases beside this one, which hold back what is settled too, may end meanwhile.
    assert!(
        records(&shard.store, at, Reach::Settled).await.1 < tip,
        "what is open holds back what came after it"
    );
    acme.ok("COMMIT").await;
    let passage =
        shard.store.tenant_records(&self::acme(), at, Limits::default(), Reach::Held).await.unwrap();
    let open = |record: &Record| matches!(&record.change, Change::Row(row) if row.row.as_ref().is_some_and(|row| row.contains("open")));
    // Other cases' transactions may hold back what is settled even more.
    assert!(passage.records.iter().any(open), "{passage:?}");
    assert_eq!(records(&shard.store, tip, Reach::Held).await.0, 0, "who follows from the tip loses it");
}

pub(super) async fn rows_come_in_the_order_of_their_tables(place: Place) {
    let schema =
        format!("{NOTES}; CREATE TABLE lines (tenant text NOT NULL, id bigint PRIMARY KEY, note bigint)");
    let lines = table("lines", Some("tenant"), &["id"], Writers::Primary);
    let shard = place.shard("eu", &schema, &[notes(), lines]).await;
    let mut direct = place.direct(&shard, "acme").await;
    direct.ok("INSERT INTO lines VALUES ('acme', 1, 1), ('acme', 2, 1), ('acme', 3, 1)").await;
    direct.ok("INSERT INTO notes VALUES ('acme', 1, 'a'), ('acme', 2, 'b'), ('acme', 3, 'c')").await;
    direct.ok("DELETE FROM notes WHERE id = 2").await;
    place.direct(&shard, "bolt").await.ok("INSERT INTO notes VALUES ('bolt', 1, 'b')").await;
    let tables: Vec<String> = all_rows(&shard.store)
        .await
        .into_iter()
        .filter_map(|record| match record.change {
            Change::Row(change) => Some(change.id.table),
            Change::Forget => None,
        })
        .collect();
    assert_eq!(tables, ["notes", "notes", "lines", "lines", "lines"], "without tombstones");
}

fn note() -> MoveNote {
    MoveNote {
        detail: "{}".to_owned(),
        id: "move-1".to_owned(),
        side: Side::Out,
        step: "holding".to_owned(),
        tenant: acme(),
    }
}

pub(super) async fn a_hold_ends_by_itself_unless_it_is_sealed(place: Place) {
    let shard = notes_shard(&place, "eu").await;
    let store = &shard.store;
    let mut direct = place.direct(&shard, "acme").await;
    direct.ok("INSERT INTO notes VALUES ('acme', 1, 'before')").await;
    store.note_move(&note()).await.unwrap();
    assert!(matches!(store.note_move(&note()).await, Err(Error::Busy(_))), "one at a time");
    let base = store.settled().await.unwrap();
    store.hold(&acme(), "move-1", Duration::ZERO, SOON).await.unwrap();
    let drained = |records| Drained { base, epoch: Epoch(1), records };
    // It has ended: who wrote meanwhile is seen, whatever any clock says, and not sealed over.
    direct.ok("INSERT INTO notes VALUES ('acme', 2, 'meanwhile')").await;
    let before = records(store, base, Reach::Held).await.0 as u64 - 1;
    let seal = async |epoch, records| {
        let drained = Drained { epoch: Epoch(epoch), ..drained(records) };
        store.seal(&note(), ("switching", "{}"), &drained, SOON).await.unwrap()
    };
    assert!(!seal(1, before).await);
    if !place.is_sqlite() {
        direct.ok("BEGIN; INSERT INTO notes VALUES ('acme', 3, 'inside')").await;
        let inside = store.seal(&note(), ("switching", "{}"), &drained(before + 1), SOON).await;
        assert!(matches!(inside, Err(Error::Busy(_))), "{inside:?}");
        direct.ok("ROLLBACK").await;
    }
    // Another may hold it now; nobody seals another's hold.
    store.hold(&acme(), "move-2", Duration::ZERO, SOON).await.unwrap();
    assert!(!seal(1, before + 1).await);
    store.hold(&acme(), "move-1", Duration::ZERO, SOON).await.unwrap();
    assert!(!seal(2, before + 1).await, "another lease");
    assert!(seal(1, before + 1).await);
    let error = direct.refused("INSERT INTO notes VALUES ('acme', 4, 'x')").await;
    assert!(matches!(error, Error::Closed(Closed::Held)), "{error:?}");
    assert!(matches!(store.hold(&acme(), "move-2", LONG, SOON).await, Err(Error::Busy(_))));
    assert_eq!(store.moves(None).await.unwrap().remove(0).step, "switching");
    assert!(!store.step_move(&note(), "aborting").await.unwrap(), "it does not stand there any more");
    assert!(!seal(1, before + 1).await, "once");
    assert!(store.release(&acme(), "move-1").await.unwrap());
    direct.ok("INSERT INTO notes VALUES ('acme', 4, 'x')").await;
    store.drop_move(&acme(), Side::Out, "move-2").await.unwrap();
    assert_eq!(store.moves(Some(&acme())).await.unwrap().len(), 1, "another's note stays");
    store.drop_move(&acme(), Side::Out, "move-1").await.unwrap();
    assert_eq!(store.moves(None).await.unwrap(), []);
}

pub(super) async fn a_tenant_is_taken_in_under_its_stamp(place: Place) {
    let (source, target) = (notes_shard(&place, "eu").await, notes_shard(&place, "us").await);
    let follower = place.replica("ap", NOTES, &[notes()]).await;
    // The source's lease has a higher number than the target's.
    let deadline = source.store.clock().await.unwrap() + 3_600_000_000;
    source.store.begin_epoch(Epoch(7), deadline).await.unwrap();
    place
        .direct(&source, "acme")
        .await
        .ok("INSERT INTO notes VALUES ('acme', 1, 'one'), ('acme', 2, 'two')")
        .await;
    let rows = all_rows(&source.store).await;
    // The tenant was here before, with placement 1, and moves back after placement 2.
    target.store.place(&acme(), Placement(2), true).await.unwrap();
    target.store.forget(&acme(), Placement(2)).await.unwrap();
    let stamp = Stamp { lease: Epoch(1), placement: Placement(3), source: Epoch(7) };
    let refused = target.store.take_in(&acme(), &rows, &stamp).await;
    assert!(matches!(refused, Err(Error::Busy(_))), "it is not expected: {refused:?}");
    target.store.place(&acme(), Placement(3), true).await.unwrap();
    let other = Stamp { lease: Epoch(2), ..stamp };
    let refused = target.store.take_in(&acme(), &rows, &other).await;
    assert!(matches!(refused, Err(Error::Closed(Closed::Moved))), "{refused:?}");
    for written in [2, 0] {
        let counts = target.store.take_in(&acme(), &rows, &stamp).await.unwrap();
        assert_eq!((counts.written, counts.forgotten, counts.conflicts), (written, 0, 0), "twice is once");
    }
    // What is written after the move is above what came with it, for followers too.
    target.store.place(&acme(), Placement(4), false).await.unwrap();
    let mut direct = place.direct(&target, "acme").await;
    direct.ok("UPDATE notes SET body = 'uno' WHERE id = 1").await;
    follow(&target.store, &follower.store).await;
    for shard in [&target, &follower] {
        assert_eq!(bodies(&place, shard).await, ["uno", "two"]);
        assert_eq!(shard.store.conflicts(&crate::Conflicts::all(9)).await.unwrap(), []);
    }
    let refused = target.store.take_in(&acme(), &rows, &stamp).await;
    assert!(matches!(refused, Err(Error::Busy(_))), "it is over: {refused:?}");
}

async fn bodies(place: &Place, shard: &Shard) -> Vec<String> {
    place.admin(shard).await.texts("SELECT body FROM notes ORDER BY id").await
}

pub(super) async fn tenants_are_listed_where_they_live(place: Place) {
    let shard = notes_shard(&place, "eu").await;
    let store = &shard.store;
    let name = |text: &str| TenantName::new(text).unwrap();
    for tenant in ["acme", "bolt", "corp", "dune"] {
        let sql = format!("INSERT INTO notes VALUES ('{tenant}', 1, 'one'), ('{tenant}', 2, 'two')");
        place.direct(&shard, tenant).await.ok(&sql).await;
    }
    place.direct(&shard, "bolt").await.ok("DELETE FROM notes WHERE tenant = 'bolt'").await;
    store.place(&name("corp"), Placement(2), true).await.unwrap();
    let all = store.tenants(None, 10).await.unwrap();
    assert_eq!(all, [name("acme"), name("dune")], "neither one without rows nor one that is away");
    assert_eq!(store.tenants(None, 1).await.unwrap(), [name("acme")]);
    assert_eq!(store.tenants(Some(&name("acme")), 10).await.unwrap(), [name("dune")]);
    store.place(&name("corp"), Placement(4), false).await.unwrap();
    assert_eq!(store.tenants(Some(&name("acme")), 1).await.unwrap(), [name("corp")]);
}
