//! How others have lost rows, each as its bug was reported: none of it happens here.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use portolan_changelog::{Conflicts, Lease, Retention};
use portolan_core::ids::TenantName;
use portolan_core::log::Epoch;
use portolan_foundation::clock;
use portolan_test_postgres::Place;

use super::shard::Shard;
use super::{Follower, Near, region, until};
use crate::report::State;

/// Nothing stays because it is young.
const AT_ONCE: Retention =
    Retention { age_min: Duration::ZERO, age_max: Duration::from_hours(1), bytes_max: 1 << 40 };

/// Inserts, updates and deletes until it is to stop.
pub(super) async fn load(source: &Shard, stop: &AtomicBool) {
    for id in 100_000_u32.. {
        source.write(&format!("INSERT INTO notes VALUES ('acme', {id}, 'made {id}')")).await;
        source.write(&format!("UPDATE notes SET body = 'seen {id}' WHERE id % 97 = {}", id % 97)).await;
        if id % 3 == 0 {
            source.write(&format!("DELETE FROM notes WHERE id = {}", id - 50)).await;
        }
        if stop.load(Ordering::Relaxed) {
            return;
        }
    }
}

pub(super) async fn is_alike(source: &Shard, copy: &Shard) -> bool {
    copy.rows().await == source.rows().await
}

/// spock#392, spock#416: where the log is followed from was read after the rows had been copied, and what was written between was lost.
pub(super) async fn a_node_that_joins_under_load_lacks_rows(place: Place) {
    let (source, copy) = (Shard::primary(&place, "eu").await, Shard::replica(&place, "us").await);
    source.fill(1..=4_000).await;
    let near = Near::new(&source.store);
    let (stop, follower) = (AtomicBool::new(false), Follower::start(&near, "eu", &copy.store));
    let joins = async {
        until("the log", async || {
            let report = follower.cell.report(clock::now());
            report.state == State::Following && report.records > 20
        })
        .await;
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(load(&source, &stop), joins);
    until("the copy", async || is_alike(&source, &copy).await).await;
    assert_eq!(copy.store.conflicts(&Conflicts::all(10)).await.unwrap(), [], "one region writes");
}

/// spock#466, spock#520: a link that ended, or a subscription that was switched off and on, went on after what it had not applied yet.
pub(super) async fn a_link_that_comes_back_under_load_skips_a_transaction(place: Place) {
    let (source, copy) = (Shard::primary(&place, "eu").await, Shard::replica(&place, "us").await);
    source.fill(1..=200).await;
    let near = Near::new(&source.store);
    let mut follower = Follower::start(&near, "eu", &copy.store);
    until("the copy", async || is_alike(&source, &copy).await).await;
    let stop = AtomicBool::new(false);
    let cuts = async {
        for cut in 0..12 {
            let links = near.links.load(Ordering::Relaxed);
            if cut % 4 == 3 {
                follower = Follower::start(&near, "eu", &copy.store);
            } else {
                near.breaks();
            }
            until("another link", async || near.links.load(Ordering::Relaxed) > links).await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(load(&source, &stop), cuts);
    until("the rest", async || is_alike(&source, &copy).await).await;
    assert_eq!(copy.store.conflicts(&Conflicts::all(10)).await.unwrap(), [], "one region writes");
    drop(follower);
}

/// supabase/etl#429: while nothing was written nobody said how far they were, so that the log was kept for ever, or the place in it lost.
pub(super) async fn an_idle_shard_keeps_its_log_or_loses_its_place(place: Place) {
    let (source, copy) = (Shard::primary(&place, "eu").await, Shard::replica(&place, "us").await);
    source.fill(1..=300).await;
    let near = Near::new(&source.store);
    let follower = Follower::start(&near, "eu", &copy.store);
    source.write("UPDATE notes SET body = 'seen' WHERE id <= 20").await;
    until("the copy", async || {
        follower.cell.report(clock::now()).state == State::Following && is_alike(&source, &copy).await
    })
    .await;
    until("the log to go", async || {
        source.store.trim(&AT_ONCE).await.unwrap();
        source.records().await == 0
    })
    .await;
    let links = near.links.load(Ordering::Relaxed);
    source.write("UPDATE notes SET body = 'later' WHERE id <= 10").await;
    until("what came after the pause", async || is_alike(&source, &copy).await).await;
    // Its place was kept over an idle log, and is found again by another link.
    near.breaks();
    source.write("UPDATE notes SET body = 'last' WHERE id <= 5").await;
    until("what came over another link", async || is_alike(&source, &copy).await).await;
    assert_eq!(follower.cell.report(clock::now()).copied_rows, None);
    assert_eq!(near.links.load(Ordering::Relaxed), links + 1);
    assert!(source.store.peers().await.unwrap().iter().all(|there| there.peer.needs_snapshot_us.is_none()));
}

/// An outbox that is read by its own numbers: one that was taken first and committed last was passed over, or a number that nobody
/// committed was waited for.
pub(super) async fn a_transaction_that_commits_late_is_passed_over(place: Place) {
    let (source, copy) = (Shard::primary(&place, "eu").await, Shard::replica(&place, "us").await);
    source.fill(1..=10).await;
    let near = Near::new(&source.store);
    let follower = Follower::start(&near, "eu", &copy.store);
    until("the copy", async || is_alike(&source, &copy).await).await;
    let (now, acme) = (clock::now(), TenantName::new("acme").unwrap());
    let lease = Lease::granted(Epoch(1), now, Duration::from_hours(1), Duration::ZERO);
    // Numbers that are taken and given back.
    let mut aborted = source.store.write(&acme, &lease, now).await.unwrap();
    aborted.execute("UPDATE notes SET body = 'never' WHERE id <= 5", &[]).await.unwrap();
    aborted.rollback().await.unwrap();
    source.write("UPDATE notes SET body = 'after a gap' WHERE id = 6").await;
    until("what came after a gap", async || is_alike(&source, &copy).await).await;
    // SQLite has one writer at a time.
    if place.is_sqlite() {
        return;
    }
    let mut late = source.store.write(&acme, &lease, now).await.unwrap();
    late.execute("UPDATE notes SET body = 'late' WHERE id = 1", &[]).await.unwrap();
    source.write("UPDATE notes SET body = 'early' WHERE id = 2").await;
    until("the source to wait", async || follower.cell.report(clock::now()).waiting_ms > 0).await;
    assert_eq!(copy.rows().await[1], "2/note 2", "it may not pass the one that is open");
    late.commit(&lease, clock::now).await.unwrap();
    until("both", async || is_alike(&source, &copy).await).await;
    assert_eq!((&*copy.rows().await[0], &*copy.rows().await[1]), ("1/late", "2/early"));
}

/// spock#557, spock#610: after a change that could not be replayed the next ones were taken for replayed too, and an update of a row that
/// was not there ended it.
pub(super) async fn a_change_that_fails_spoils_the_next(place: Place) {
    let (source, mut copy) = (Shard::primary(&place, "eu").await, Shard::replica(&place, "us").await);
    source.fill(1..=10).await;
    let near = Near::new(&source.store);
    let follower = Follower::start(&near, "eu", &copy.store);
    until("the copy", async || is_alike(&source, &copy).await).await;
    let only_here = async |sql: &str| {
        let mut owner = copy.store.maintain().await.unwrap();
        owner.execute(sql, &[]).await.unwrap();
        owner.finish().await.unwrap();
    };
    only_here("CREATE UNIQUE INDEX notes_body ON notes (body)").await;
    source.write("UPDATE notes SET body = 'note 2' WHERE id = 1").await;
    source.write("UPDATE notes SET body = 'healthy' WHERE id = 3").await;
    copy.forget(4).await;
    source.write("UPDATE notes SET body = 'missing' WHERE id = 4").await;
    until("the healthy ones", async || {
        let rows = copy.rows().await;
        rows.contains(&"3/healthy".to_owned()) && rows.contains(&"4/missing".to_owned())
    })
    .await;
    assert_eq!(copy.store.parked(10).await.unwrap().len(), 1);
    only_here("DROP INDEX notes_body").await;
    until("the one that waited", async || is_alike(&source, &copy).await).await;
    drop(follower);
    assert_eq!(copy.records().await, 0);
    assert!(copy.store.progress(region("eu").as_str()).await.unwrap().is_some());
    copy.begin(2).await;
    copy.write("UPDATE notes SET body = 'its own' WHERE id = 1").await;
    assert_eq!(copy.records().await, 1, "what it writes itself is captured");
}
