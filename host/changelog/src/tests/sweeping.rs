//! Tombstones of two members that both write, and what bars that they go.

use portolan_core::ids::{RegionName, TenantName};
use portolan_core::log::{Epoch, Placement, Position, Version};
use portolan_core::tenant_table::Writers;

use super::applying::follow;
use super::capture::NOTES;
use super::place::{PATIENCE, Place, Shard, table};
use crate::{Change, Error, Mark, Record, RowChange, RowId, Store, Sweep};

async fn member(place: &Place, region: &str) -> Shard {
    let notes = table("notes", Some("tenant"), &["tenant", "id"], Writers::Members);
    let shard = place.shard(region, NOTES, &[notes]).await;
    shard.store.set_member(1).await.unwrap();
    shard
}

/// Begins a round, and waits for transactions of cases beside this one.
async fn mark(store: &Store) -> Mark {
    let round = store.begin_round().await.unwrap();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(mark) = store.mark(&round).await.unwrap() {
            return mark;
        }
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// Makes tombstones as old as they must be.
async fn age(place: &Place, shard: &Shard) {
    let rows = if place.is_sqlite() { "portolan_row" } else { "portolan.row" };
    place.admin(shard).await.ok(&format!("UPDATE {rows} SET v = v - 3600000000 WHERE deleted = 1")).await;
}

/// A change from a clock that is far ahead, which has to wait.
fn waiting(id: u32, row: bool, now_us: u64, place: &Place) -> Record {
    let blank = if place.is_sqlite() { "" } else { " " };
    Record {
        position: Position::new(1, 1, 1),
        at_us: 1,
        tenant: Some(TenantName::new("acme").unwrap()),
        placement: Placement(0),
        schema: 1,
        change: Change::Row(RowChange {
            id: RowId { table: "notes".into(), key: format!("[\"acme\",{blank}{id}]") },
            row: row.then(|| format!("{{\"tenant\":\"acme\",\"id\":{id},\"body\":\"late\"}}")),
            version: Version {
                epoch: Epoch(0),
                v: now_us + 3_600_000_000,
                origin: RegionName::new("us").unwrap(),
            },
            replaces: None,
            marks: None,
        }),
    }
}

pub(super) async fn tombstones_go_when_all_have_heard(place: Place) {
    let (eu, us) = (member(&place, "eu").await, member(&place, "us").await);
    let (mut here, mut there) = (place.direct(&eu, "acme").await, place.direct(&us, "acme").await);
    here.ok(
        "INSERT INTO notes VALUES ('acme', 1, 'a'), ('acme', 2, 'b'), ('acme', 3, 'c'), ('acme', 4, 'd')",
    )
    .await;
    follow(&eu.store, &us.store).await;
    here.ok("DELETE FROM notes WHERE id < 4").await;
    let mut sweep = Sweep::begin(mark(&eu.store).await, [us.store.report().await.unwrap().member]);
    here.ok("DELETE FROM notes WHERE id = 4").await;
    age(&place, &eu).await;
    // The other has not applied the deletions, and writes.
    there.ok("UPDATE notes SET body = 'older' WHERE id = 1").await;
    sweep.hear(&us.store.report().await.unwrap());
    assert_eq!(sweep.waiting().count(), 1);
    let swept = eu.store.sweep(&sweep).await;
    assert!(matches!(swept, Err(Error::Busy(_))), "{swept:?}");
    follow(&eu.store, &us.store).await;
    // A deletion waits there: it gives no word.
    let now_us = us.store.clock().await.unwrap();
    us.store.merge(&[waiting(9, false, now_us, &place)]).await.unwrap();
    let report = us.store.report().await.unwrap();
    assert!(report.holds);
    sweep.hear(&report);
    assert_eq!(sweep.waiting().count(), 1);
    let parked = if place.is_sqlite() { "portolan_parked" } else { "portolan.parked" };
    place.admin(&us).await.ok(&format!("DELETE FROM {parked}")).await;
    sweep.hear(&us.store.report().await.unwrap());
    assert_eq!(sweep.waiting().count(), 0);
    let swept = eu.store.sweep(&sweep).await;
    assert!(matches!(swept, Err(Error::Busy(_))), "what it wrote before has not come: {swept:?}");
    follow(&us.store, &eu.store).await;
    // A change of row 3 waits here, and row 1 has been written again.
    eu.store.merge(&[waiting(3, true, now_us, &place)]).await.unwrap();
    let rows = async |shard: &Shard| {
        let sql = "SELECT CAST(id AS text) || body FROM notes ORDER BY id";
        place.admin(shard).await.texts(sql).await
    };
    let before = rows(&eu).await;
    let swept = eu.store.sweep(&sweep).await.unwrap();
    let left = if before.is_empty() { 2 } else { 1 };
    assert_eq!((swept.tombstones, swept.more), (left, false), "{before:?}");
    assert_eq!(
        eu.store.count_tombstones().await.unwrap(),
        2,
        "that of the later round and that over what waits"
    );
    assert_eq!(rows(&eu).await, before);
}

pub(super) async fn a_young_tombstone_stays(place: Place) {
    let eu = member(&place, "eu").await;
    let mut direct = place.direct(&eu, "acme").await;
    direct.ok("INSERT INTO notes VALUES ('acme', 1, 'a'), ('acme', 2, 'b')").await;
    direct.ok("DELETE FROM notes").await;
    let alone = Sweep::begin(mark(&eu.store).await, []);
    assert_eq!(eu.store.sweep(&alone).await.unwrap().tombstones, 0, "a clock may be set back by that much");
    age(&place, &eu).await;
    direct.ok("INSERT INTO notes VALUES ('acme', 2, 'again')").await;
    assert_eq!(eu.store.sweep(&alone).await.unwrap().tombstones, 1);
    assert_eq!(place.admin(&eu).await.texts("SELECT body FROM notes").await, ["again"]);
    assert_eq!(eu.store.count_tombstones().await.unwrap(), 0);
}
