//! Moves that go well, or are taken back in time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use portolan_changelog::{Change, Closed, Error as StoreError, Limits, Maintenance, Purpose, Reach};
use portolan_core::log::{Placement, Position};
use portolan_core::tenant_table::Tables;

use super::world::{Watcher, World, acme, direct, lives, rows, set, write};
use crate::relocate::compare::Doubts;
use crate::relocate::run::Done;
use crate::relocate::{Error, Event, Seat};
use crate::schema::tests::place::{PATIENCE, Place};

/// Writes on and on, wherever the tenant is, and keeps what was acknowledged.
async fn gateway(seats: [Seat; 2], over: Arc<AtomicBool>, written: Arc<AtomicU32>) -> Vec<i64> {
    let (mut acknowledged, mut id, mut at) = (Vec::new(), 1_000_000, 0);
    let mut after = 0;
    while after < 5 {
        after += usize::from(over.load(Ordering::Relaxed));
        match write(&seats[at], id).await {
            Ok(()) => {
                acknowledged.push(id);
                written.fetch_add(1, Ordering::Relaxed);
                id += 1;
            }
            Err(StoreError::Closed(Closed::Held | Closed::Away)) => at = 1 - at,
            // SQLite has one writer at a time.
            Err(StoreError::Busy(_)) => {}
            Err(error) => panic!("{error:?}"),
        }
        tokio::task::yield_now().await;
    }
    acknowledged
}

/// Writes at one shard until it is refused for good.
async fn application(mut connection: Maintenance, written: Arc<AtomicU32>) -> Vec<i64> {
    let (mut acknowledged, mut id) = (Vec::new(), 2_000_000);
    loop {
        connection.begin(Purpose::Rows).await.unwrap();
        let sql = format!("INSERT INTO notes VALUES ('acme', {id}, 'direct')");
        match connection.execute(&sql, &[]).await {
            Ok(_) => {
                connection.commit(&Tables::default()).await.unwrap();
                acknowledged.push(id);
                written.fetch_add(1, Ordering::Relaxed);
                id += 1;
            }
            Err(error) => {
                connection.rollback().await.unwrap();
                match error {
                    StoreError::Closed(Closed::Away) => return acknowledged,
                    StoreError::Closed(Closed::Held) | StoreError::Busy(_) => {}
                    error => panic!("{error:?}"),
                }
            }
        }
        tokio::task::yield_now().await;
    }
}

pub(super) async fn a_tenant_moves_while_it_is_written(place: Place) {
    let world = World::new(&place).await;
    direct(&world.one)
        .await
        .ok("WITH RECURSIVE n (i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < 3009) \
             INSERT INTO notes SELECT 'acme', i, 'seed' FROM n")
        .await;
    let (over, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let seats = [world.one.clone(), world.two.clone()];
    let mut writers = tokio::task::JoinSet::new();
    writers.spawn(gateway(seats, Arc::clone(&over), Arc::clone(&written)));
    let connection = world.one.store.maintenance(PATIENCE).await.unwrap();
    writers.spawn(application(connection, Arc::clone(&written)));
    while written.load(Ordering::Relaxed) < 10 {
        tokio::task::yield_now().await;
    }
    let report = world.there().await.unwrap();
    over.store(true, Ordering::Relaxed);
    let acknowledged = writers.join_all().await;
    assert!(report.chunks >= 4 && report.rounds >= 2 && report.bytes > report.rows, "{report:?}");
    let at_source = set(&direct(&world.one)
        .await
        .texts("SELECT CAST(id AS text) FROM notes WHERE tenant = 'acme'")
        .await);
    let there =
        direct(&world.two).await.texts("SELECT CAST(id AS text) FROM notes WHERE tenant = 'acme'").await;
    let there = set(&there);
    let acknowledged = acknowledged.iter().flatten().map(ToString::to_string);
    let wanted: Vec<String> = acknowledged.chain((1..3).chain(10..3_010).map(|id| id.to_string())).collect();
    assert_eq!(there, set(&wanted), "none lost, none doubled");
    let after = there.difference(&at_source).count();
    assert!(after > 0 && at_source.is_subset(&there), "what came after the switch is at the target alone");
    assert_eq!(report.rows as usize, at_source.len() + 2, "with two lines");
    lives(&world.two, &world.one, 9).await;
    world.bolt_is_untouched().await;
}

pub(super) async fn many_rows_go_in_parts(place: Place) {
    let world = World::new(&place).await;
    direct(&world.one)
        .await
        .ok("WITH RECURSIVE n (i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < 20009) \
             INSERT INTO notes SELECT 'acme', i, 'body of ' || i FROM n")
        .await;
    let report = world.there().await.unwrap();
    assert_eq!((report.rows, report.chunks), (20_004, 22));
    assert_eq!(rows(&world.two).await, rows(&world.one).await);
    // The target's followers know no other log than its own.
    let reach = Reach::Held;
    let (mut after, mut told) = (Position::START, 0);
    loop {
        let passage = world.two.store.tenant_records(&acme(), after, Limits::default(), reach).await.unwrap();
        told += passage.records.len();
        after = passage.through;
        if passage.whole {
            break;
        }
    }
    assert_eq!(told, 20_004);
}

pub(super) async fn rows_that_refer_to_later_ones_wait(place: Place) {
    let world = World::new(&place).await;
    // In the order of their keys as texts, the first refers to one of the next part.
    direct(&world.one)
        .await
        .ok("WITH RECURSIVE n (i) AS (SELECT 1000 UNION ALL SELECT i + 1 FROM n WHERE i < 2050) \
             INSERT INTO lines SELECT 'acme', i, 1, CASE WHEN i = 1000 THEN 2050 END FROM n")
        .await;
    let report = world.there().await.unwrap();
    assert_eq!(report.rows, 2 + 2 + 1_051);
    let next = "SELECT CAST(next AS text) FROM lines WHERE tenant = 'acme' AND id = 1000";
    assert_eq!(direct(&world.two).await.texts(next).await, ["2050"]);
    assert_eq!(world.two.store.why_parked(&acme()).await.unwrap(), None);
    // The target's followers are told of the one that waited, too.
    let records = crate::schema::tests::place::changes(&world.two.store).await;
    let waited =
        |row: &&portolan_changelog::RowChange| row.row.as_ref().is_some_and(|row| row.contains("2050"));
    assert_eq!(records.iter().filter(waited).count(), 2);
}

pub(super) async fn open_transactions_of_others_do_not_matter(place: Place) {
    let world = World::new(&place).await;
    if !place.is_postgres() {
        return;
    }
    // What another tenant has open holds the horizon back, and has a lower number than what comes after it.
    let mut open = world.one.store.maintenance(PATIENCE).await.unwrap();
    open.begin(Purpose::Rows).await.unwrap();
    open.execute("UPDATE notes SET body = 'open' WHERE tenant = 'bolt'", &[]).await.unwrap();
    write(&world.one, 50).await.unwrap();
    world.there().await.unwrap();
    assert_eq!(rows(&world.two).await, rows(&world.one).await);
    open.commit(&Tables::default()).await.unwrap();
}

pub(super) async fn a_long_hold_ends_by_itself(place: Place) {
    let world = World::new(&place).await;
    for event in [Event::Held, Event::Drained, Event::Compared] {
        let watcher = Watcher { late_at: Some(event), ..Watcher::default() };
        let error = world.relocation(&world.one, &world.two, &watcher).run().await.unwrap_err();
        let Error::Aborted(why) = &error else { panic!("{event:?}: {error:?}") };
        assert!(why.contains("held for 5s"), "{why}");
        write(&world.one, 10).await.unwrap();
        direct(&world.one).await.ok("DELETE FROM notes WHERE tenant = 'acme' AND id = 10").await;
        assert_eq!(rows(&world.two).await, [""; 0], "nothing is left of it");
        assert_eq!(world.one.store.moves(None).await.unwrap(), []);
        assert_eq!(world.two.store.moves(None).await.unwrap(), []);
    }
    let before = rows(&world.one).await;
    world.there().await.unwrap();
    assert_eq!(rows(&world.two).await, before);
}

pub(super) async fn a_move_is_undone(place: Place) {
    let world = World::new(&place).await;
    world.there().await.unwrap();
    let mut two = direct(&world.two).await;
    two.ok("UPDATE notes SET body = 'new' WHERE tenant = 'acme' AND id = 1").await;
    two.ok("DELETE FROM lines WHERE tenant = 'acme' AND id = 2").await;
    write(&world.two, 7).await.unwrap();
    let watcher = Watcher::default();
    assert!(
        matches!(world.relocation(&world.two, &world.one, &watcher).run().await, Err(Error::Unfit(_))),
        "rows are kept there"
    );
    // One that is taken back leaves the kept rows fit for the next.
    let late = Watcher { late_at: Some(Event::Compared), ..Watcher::default() };
    let error = world.relocation(&world.two, &world.one, &late).undo().await.unwrap_err();
    assert!(matches!(error, Error::Aborted(_)), "{error:?}");
    two.ok("UPDATE notes SET body = 'newer' WHERE tenant = 'acme' AND id = 2").await;
    let report = world.relocation(&world.two, &world.one, &Watcher::default()).undo().await.unwrap();
    assert_eq!((report.chunks, report.rows), (0, 4), "nothing is copied again");
    assert_eq!(rows(&world.one).await, ["line 1 2", "note 1 new", "note 2 newer", "note 7 written"]);
    lives(&world.one, &world.two, 8).await;
    // Undone again, from what the second keeps.
    world.relocation(&world.one, &world.two, &Watcher::default()).undo().await.unwrap();
    lives(&world.two, &world.one, 9).await;
    assert_eq!(rows(&world.two).await.len(), 6);
    world.relocation(&world.one, &world.two, &Watcher::default()).forget().await.unwrap();
    assert_eq!(rows(&world.one).await, [""; 0]);
    let error = world.relocation(&world.two, &world.one, &Watcher::default()).undo().await.unwrap_err();
    assert!(matches!(error, Error::Unfit(_)), "{error:?}");
    world.bolt_is_untouched().await;
}

pub(super) async fn what_differs_is_noticed(place: Place) {
    let world = World::new(&place).await;
    world.there().await.unwrap();
    let watcher = Watcher::default();
    let relocation = world.relocation(&world.one, &world.two, &watcher);
    let compared = async || {
        let (mut done, mut after) = (Done::default(), None);
        done.doubts = Some(Doubts::default());
        loop {
            after = relocation.compare_page(after.as_ref(), &mut done).await.unwrap();
            if after.is_none() {
                return (done.bytes, done.doubts.unwrap());
            }
        }
    };
    let (bytes, doubts) = compared().await;
    assert!(bytes > 0);
    assert_eq!(doubts.len(), 0);
    relocation.compare_rest(&doubts).await.unwrap();
    for (change, words) in [
        ("UPDATE notes SET body = 'bent' WHERE tenant = 'acme' AND id = 2", "of `notes` is not the same"),
        ("DELETE FROM lines WHERE tenant = 'acme' AND id = 2", "of `lines` is not the same"),
        ("INSERT INTO notes VALUES ('acme', 9, 'more')", "9] of `notes` is not the same"),
        ("INSERT INTO notes VALUES ('acme', 0, 'more')", "0] of `notes` is not the same"),
        ("INSERT INTO lines VALUES ('acme', 9, 1, 1)", "9] of `lines` is not the same"),
    ] {
        let mut two = direct(&world.two).await;
        two.ok(change).await;
        let (_, mut doubts) = compared().await;
        // Who looks again finds no less.
        let before = doubts.len();
        relocation.thin(&mut doubts).await.unwrap();
        assert_eq!(doubts.len(), before);
        let error = relocation.compare_rest(&doubts).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        two.ok("DELETE FROM lines WHERE tenant = 'acme' AND id = 9").await;
        two.ok("DELETE FROM notes WHERE tenant = 'acme' AND id IN (0, 9)").await;
        two.ok("UPDATE notes SET body = 'two' WHERE tenant = 'acme' AND id = 2").await;
        two.ok("INSERT INTO lines VALUES ('acme', 2, 1, 1) ON CONFLICT (tenant, id) DO NOTHING").await;
        relocation.thin(&mut doubts).await.unwrap();
        assert_eq!(doubts.len(), 0, "what is alike by now is in doubt no more");
    }
}

/// Of a tenant of which much is written while its rows are compared, little is left to the hold.
pub(super) async fn what_is_written_while_rows_are_compared_is_compared_before_the_hold(place: Place) {
    let world = World::new(&place).await;
    let mut one = direct(&world.one).await;
    for first in [1_000, 2_000, 3_000] {
        let rows: Vec<String> = (first..first + 1_000).map(|id| format!("('acme', {id}, 'many')")).collect();
        one.ok(&format!("INSERT INTO notes VALUES {}", rows.join(", "))).await;
    }
    let watcher = Watcher::default();
    let relocation = world.relocation(&world.one, &world.two, &watcher);
    let course = relocation.begin(false).await.unwrap();
    relocation.announce(&course).await.unwrap();
    let mut done = Done::default();
    let base = relocation.copy(&course, &mut done).await.unwrap();
    let base = relocation.catch_up(&course, base, &mut done).await.unwrap();
    let base = relocation.compare_all(&course, base, &mut done).await.unwrap();
    // What is written can be read once nobody in the cluster has an older transaction.
    let settles = async || {
        let (store, last) = (&world.one.store, world.one.store.tip().await.unwrap());
        let settled = async {
            while store.settled().await.unwrap() < last {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, settled).await.expect("the log settles");
    };
    one.ok("UPDATE notes SET body = 'written' WHERE tenant = 'acme' AND id >= 1000").await;
    settles().await;
    let base = relocation.narrow(&course, base, &mut done).await.unwrap();
    assert_eq!(done.doubts.as_ref().unwrap().len(), 0, "3,000 rows were written, and are alike");
    one.ok("UPDATE notes SET body = 'again' WHERE tenant = 'acme' AND id < 1010").await;
    settles().await;
    relocation.narrow(&course, base, &mut done).await.unwrap();
    let left = done.doubts.unwrap();
    assert!((10..=20).contains(&left.len()), "{} are few enough for the hold", left.len());
    relocation.compare_rest(&left).await.unwrap();
    assert!(done.rows >= 3_000);
}

pub(super) async fn there_and_back_again(place: Place) {
    let world = World::new(&place).await;
    let (mut here, mut there) = (&world.one, &world.two);
    for id in 20..24 {
        let watcher = Watcher::default();
        let relocation = world.relocation(here, there, &watcher);
        // Rows that are never written again go along each time; one is written at each place, one deleted.
        let report = relocation.run().await.unwrap();
        assert_eq!(report.moving.to.placement, Placement((id as u64 - 19) * 2));
        lives(there, here, id).await;
        direct(there)
            .await
            .ok(&format!("UPDATE notes SET body = 'at {id}' WHERE tenant = 'acme' AND id = 2"))
            .await;
        direct(there).await.ok(&format!("DELETE FROM notes WHERE tenant = 'acme' AND id = {}", id - 1)).await;
        assert_eq!(
            rows(there).await,
            [
                "line 1 2".to_owned(),
                "line 2 1".to_owned(),
                "note 1 one".to_owned(),
                format!("note 2 at {id}"),
                format!("note {id} written"),
            ]
        );
        relocation.forget().await.unwrap();
        assert_eq!(rows(here).await, [""; 0]);
        (here, there) = (there, here);
    }
    for seat in [here, there] {
        assert_eq!(seat.store.conflicts(&portolan_changelog::Conflicts::all(9)).await.unwrap(), []);
        let log = crate::schema::tests::place::changes(&seat.store).await;
        assert!(log.iter().all(|change| !matches!(Change::Row(change.clone()), Change::Forget)));
    }
    world.bolt_is_untouched().await;
}

pub(super) async fn a_look_changes_nothing(place: Place) {
    let world = World::new(&place).await;
    let watcher = Watcher::default();
    let there = world.relocation(&world.one, &world.two, &watcher);
    let outlook = there.check(false).await.unwrap();
    assert_eq!((outlook.placement, outlook.rows), (Placement(0), 4));
    assert!(matches!(there.check(true).await, Err(Error::Unfit(_))), "nothing is kept to go back to");
    assert_eq!(*watcher.seen.lock().unwrap(), []);
    assert_eq!(world.two.store.moves(None).await.unwrap(), []);
    world.there().await.unwrap();
    let back = world.relocation(&world.two, &world.one, &watcher);
    assert!(back.check(true).await.is_ok() && matches!(back.check(false).await, Err(Error::Unfit(_))));
    assert!(matches!(there.check(false).await, Err(Error::Underway { .. } | Error::Unfit(_))));
}
