//! Feeds over real databases of both engines, each over a link within this process.

use std::collections::BTreeSet;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use portolan_changelog::{Change, ConflictKind, Conflicts, Error, Record, RowId, Store};
use portolan_core::balance::splitmix;
use portolan_core::ids::{RegionName, ShardName, TenantName};
use portolan_core::log::{Epoch, Position};
use portolan_core::pace::Pace;
use portolan_foundation::shutdown::Shutdown;
use portolan_foundation::{clock, task};
use portolan_test_postgres::Place;
use tokio::io::DuplexStream;

use self::shard::Shard;
use crate::audit::Comparison;
use crate::credit::{Credit, Shared};
use crate::defaults::PROTOCOL;
use crate::follower::{Connect, Feed};
use crate::gateway::answer;
use crate::link::{self, Broken, Ear, Mouth};
use crate::report::{Cell, State};
use crate::seal::gather;
use crate::source;
use crate::wall::Wall;
use crate::words::Silent;

mod losses;
mod shard;
mod sweeping;
mod upgrades;
mod walls;
mod wire;

/// Longer than anything takes that works.
const PATIENCE: Duration = Duration::from_secs(60);
/// From one look at what is waited for to the next.
const LOOK: Duration = Duration::from_millis(5);

fn region(name: &str) -> RegionName {
    RegionName::new(name).unwrap()
}

/// Links to one store, within this process; they can be cut.
#[derive(Clone, Debug)]
struct Near {
    cut: Arc<AtomicBool>,
    follower: RegionName,
    links: Arc<AtomicUsize>,
    shutdown: Arc<std::sync::Mutex<Shutdown>>,
    /// The newest protocol of the older end.
    speaks: Arc<AtomicU32>,
    store: Store,
    /// How fast the follower goes.
    pace: Option<(Shared, NonZeroU32)>,
    /// What the follower takes.
    takes: Confined,
    /// What the source sends.
    wall: Confined,
}

/// Tenants that may be in `eu` alone.
#[derive(Clone, Debug, Default)]
struct Confined(Arc<std::sync::Mutex<BTreeSet<TenantName>>>);

impl Wall for Confined {
    fn admits(&self, tenant: &TenantName, region: &RegionName) -> bool {
        region.as_str() == "eu" || !self.0.lock().unwrap().contains(tenant)
    }
}

impl Near {
    fn new(store: &Store) -> Self {
        Self::to(store, "us")
    }

    /// Links of a region's to a store.
    fn to(store: &Store, follower: &str) -> Self {
        Self {
            cut: Arc::default(),
            follower: region(follower),
            links: Arc::default(),
            shutdown: Arc::default(),
            speaks: Arc::new(AtomicU32::new(PROTOCOL)),
            store: store.clone(),
            pace: None,
            takes: Confined::default(),
            wall: Confined::default(),
        }
    }

    /// Ends the links that are there.
    fn breaks(&self) {
        std::mem::take(&mut *self.shutdown.lock().unwrap()).begin();
    }
}

impl Connect for Near {
    async fn connect(&self) -> Result<(Mouth, Ear), Broken> {
        if self.cut.load(Ordering::Relaxed) {
            return Err(Broken::Gone("cut".to_owned()));
        }
        self.links.fetch_add(1, Ordering::Relaxed);
        let (near, far): (DuplexStream, DuplexStream) = tokio::io::duplex(64 * 1024);
        let (store, shutdown) = (self.store.clone(), self.shutdown.lock().unwrap().clone());
        let (follower, wall) = (self.follower.clone(), self.wall.clone());
        let follower_name = follower.clone();
        let speaks = self.speaks.load(Ordering::Relaxed);
        task::spawn("far end", async move {
            let answer = move |mouth, mut ear| {
                let (store, follower, wall) = (store.clone(), follower.clone(), wall.clone());
                async move {
                    let Ok(mut ask) = source::asked(&mut ear).await else { return };
                    ask.protocols.1 = speaks.min(ask.protocols.1);
                    let _ended = answer(&store, &wall, &follower, ask, &mouth, &mut ear).await;
                }
            };
            let words = (follower_name, Arc::new(Silent) as _);
            link::answer(far, words, &shutdown, answer).await;
        });
        link::open(near).await
    }
}

/// A follower at work; it ends with its handle.
struct Follower {
    cell: Arc<Cell>,
    end: Shutdown,
}

impl Follower {
    fn start(near: &Near, source: &str, replica: &Store) -> Self {
        Self::beside(near, source, replica, true, &Arc::default())
    }

    /// One of several feeds of a copy.
    fn beside(near: &Near, source: &str, replica: &Store, primary: bool, fit: &Arc<AtomicBool>) -> Self {
        Self::of(near, source, replica, (primary, false), fit)
    }

    /// A feed of the primary.
    fn leading(near: &Near, source: &str, replica: &Store) -> Self {
        Self::of(near, source, replica, (false, true), &Arc::default())
    }

    fn of(
        near: &Near,
        source: &str,
        replica: &Store,
        (primary, leads): (bool, bool),
        fit: &Arc<AtomicBool>,
    ) -> Self {
        let shard = ShardName::new("s1").unwrap();
        let cell = Arc::new(Cell::new(shard.clone(), region(source), primary));
        let end = Shutdown::new();
        let feed = Feed {
            cell: Arc::clone(&cell),
            connect: near.clone(),
            credit: Credit::new(near.pace.clone()),
            fit: Arc::clone(fit),
            keeps: true,
            leads,
            primary: primary.then_some(Epoch(1)),
            region: near.follower.clone(),
            replica: replica.clone(),
            shard,
            source: region(source),
            wall: Arc::new(near.takes.clone()),
        };
        task::spawn("follower", feed.run(end.clone()));
        Self { cell, end }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.end.begin();
    }
}

async fn until(what: &str, mut ready: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !ready().await {
            tokio::time::sleep(LOOK).await;
        }
    });
    assert!(waited.await.is_ok(), "{what} does not come");
}

async fn a_copy_begins_follows_and_goes_on_after_a_cut(place: Place) {
    let (source, copy) = (Shard::primary(&place, "eu").await, Shard::replica(&place, "us").await);
    source.fill(1..=2_500).await;
    let near = Near::new(&source.store);
    let follower = Follower::start(&near, "eu", &copy.store);
    until("the copy", async || copy.rows().await == source.rows().await).await;
    source.write("UPDATE notes SET body = 'seen' WHERE id <= 10").await;
    source.write("DELETE FROM notes WHERE id > 2400").await;
    until("the changes", async || copy.rows().await == source.rows().await).await;
    // What was written while the link is cut comes afterwards, and nothing twice.
    near.cut.store(true, Ordering::Relaxed);
    near.breaks();
    source.fill(3_000..=3_100).await;
    until("the failure", async || follower.cell.report(clock::now()).problem.is_some()).await;
    near.cut.store(false, Ordering::Relaxed);
    until("the rest", async || copy.rows().await == source.rows().await).await;
    until("no lag", async || {
        let report = follower.cell.report(clock::now());
        report.problem.is_none()
            && report.state == State::Following
            && report.lag_ms.is_some_and(|lag| lag < 60_000)
    })
    .await;
    let report = follower.cell.report(clock::now());
    assert_eq!((report.conflicts, report.parked, report.problem), (0, 0, None));
    assert!(near.links.load(Ordering::Relaxed) >= 3, "rows, log, and log again");
    // The copy tells nobody of what it took.
    assert_eq!(copy.records().await, 0);
}

async fn a_copy_that_is_cut_within_its_rows_goes_on(place: Place) {
    let (source, copy) = (Shard::primary(&place, "eu").await, Shard::replica(&place, "us").await);
    source.fill(1..=5_000).await;
    let near = Near::new(&source.store);
    let follower = Follower::start(&near, "eu", &copy.store);
    until("some rows", async || {
        copy.store.copying(&region("eu")).await.unwrap().is_some_and(|copying| copying.rows > 0)
    })
    .await;
    near.breaks();
    until("the copy", async || copy.rows().await == source.rows().await).await;
    until("the log", async || copy.store.progress("eu").await.unwrap().is_some()).await;
    assert_eq!(follower.cell.report(clock::now()).conflicts, 0);
}

/// A source sends no faster than its follower takes, and is not taken for dead meanwhile.
async fn a_copy_comes_at_its_pace(place: Place) {
    const RATE: NonZeroU64 = NonZeroU64::new(64 * 1024).unwrap();
    let (source, copy) = (Shard::primary(&place, "eu").await, Shard::replica(&place, "us").await);
    // Nothing that packs well, so that the pace is felt.
    for id in 1..=100_u64 {
        let body: String = (0..125).map(|at| format!("{:016x}", splitmix(id * 1_000 + at))).collect();
        source.write(&format!("INSERT INTO notes VALUES ('acme', {id}, '{body}')")).await;
    }
    let mut near = Near::new(&source.store);
    let pace: Shared = Arc::new(std::sync::Mutex::new(Pace::new(RATE, clock::now())));
    near.pace = Some((Arc::clone(&pace), NonZeroU32::MIN));
    let begun = clock::now();
    let follower = Follower::start(&near, "eu", &copy.store);
    until("the copy", async || copy.rows().await == source.rows().await).await;
    source.write("UPDATE notes SET body = body || '.'").await;
    until("the log", async || copy.rows().await == source.rows().await).await;
    let report = follower.cell.report(clock::now());
    assert_eq!((report.problem, report.failures), (None, 0));
    assert_eq!(near.links.load(Ordering::Relaxed), 2, "rows, and the log");
    // What came beyond the first credit came at the pace, however fast the machine is.
    let beyond = report.bytes.saturating_sub(2 * RATE.get());
    let least = Duration::from_millis(beyond * 1_000 / RATE.get());
    assert!(
        clock::now().since(begun) >= least / 2,
        "{} bytes in {:?}",
        report.bytes,
        clock::now().since(begun)
    );
}

/// A log that was rewound behind everybody's back, and went on, is found by the first follower that asks it.
async fn a_log_that_was_rewound_is_found(place: Place) {
    let (source, copy) = (Shard::primary(&place, "eu").await, Shard::replica(&place, "us").await);
    source.fill(1..=20).await;
    let near = Near::new(&source.store);
    let follower = Follower::start(&near, "eu", &copy.store);
    until("the copy", async || copy.rows().await.len() == 20).await;
    source.fill(21..=21).await;
    until("the log", async || {
        copy.store.progress("eu").await.unwrap().is_some_and(|progress| progress.seen_us > 0)
    })
    .await;
    let before = copy.store.progress("eu").await.unwrap().unwrap();
    // One that breaks off and comes back finds what it knows.
    near.breaks();
    source.fill(22..=22).await;
    until("the next record", async || copy.rows().await.len() == 22).await;
    assert_eq!(near.links.load(Ordering::Relaxed), 3, "rows, the log, and the log again");
    drop(follower);
    source.forget_last_record().await;
    source.fill(30..=31).await;
    let _follower = Follower::start(&near, "eu", &copy.store);
    until("all rows anew", async || {
        near.links.load(Ordering::Relaxed) >= 6 && copy.rows().await == source.rows().await
    })
    .await;
    let after = copy.store.progress("eu").await.unwrap();
    assert!(after.is_none_or(|after| after.applied > before.applied));
}

/// What a source does not have goes, and is kept where nobody knows why.
async fn another_log_is_copied_anew(place: Place) {
    let (old, mut new) = (Shard::primary(&place, "eu").await, Shard::replica(&place, "ap").await);
    new.begin(2).await;
    let copy = Shard::replica(&place, "us").await;
    old.fill(1..=1_200).await;
    let follower = Follower::start(&Near::new(&old.store), "eu", &copy.store);
    until("the old rows", async || copy.rows().await == old.rows().await).await;
    drop(follower);
    new.fill(1_100..=2_000).await;
    let _follower = Follower::start(&Near::new(&new.store), "ap", &copy.store);
    until("the new rows", async || copy.rows().await == new.rows().await).await;
    let (mut lost, mut wanted) = (Vec::new(), Conflicts::all(500));
    loop {
        let page = copy.store.conflicts(&wanted).await.unwrap();
        let Some(last) = page.last() else { break };
        wanted.after = Some(last.cursor());
        lost.extend(page);
    }
    // The last hundred are at both, and those of the new source are later.
    assert_eq!(lost.iter().filter(|lost| lost.kind == ConflictKind::Stranded).count(), 1_099);
}

/// A source that took its rows away itself leaves no losers.
async fn a_copy_of_the_same_log_begins_anew_without_losers(place: Place) {
    let (source, copy) = (Shard::primary(&place, "eu").await, Shard::replica(&place, "us").await);
    source.fill(1..=1_500).await;
    let near = Near::new(&source.store);
    let follower = Follower::start(&near, "eu", &copy.store);
    until("the copy", async || copy.rows().await == source.rows().await).await;
    until("the log", async || copy.store.progress("eu").await.unwrap().is_some()).await;
    drop(follower);
    source.write("DELETE FROM notes WHERE id % 3 = 0").await;
    source.forget_deletions().await;
    assert!(source.store.drop_peer(&region("us")).await.unwrap());
    source.fill(2_000..=2_050).await;
    let follower = Follower::start(&near, "eu", &copy.store);
    until("the rows that are left", async || {
        follower.cell.report(clock::now()).problem.is_none() && copy.rows().await == source.rows().await
    })
    .await;
    assert_eq!(copy.store.conflicts(&Conflicts::all(10)).await.unwrap(), []);
}

/// Two followers of one region share a copy, and neither loses a row of the other's.
async fn a_page_that_does_not_come_next_is_not_taken(place: Place) {
    let (source, copy) = (Shard::primary(&place, "eu").await, Shard::replica(&place, "us").await);
    source.fill(1..=30).await;
    let (eu, store) = (region("eu"), &copy.store);
    store
        .begin_copy(&eu, &source.store.identity().await.unwrap(), source.store.settled().await.unwrap(), &[])
        .await
        .unwrap();
    let page = async |after: Option<&RowId>| source.store.rows(None, after, 10).await.unwrap();
    let id = |record: &Record| match &record.change {
        Change::Row(change) => change.id.clone(),
        Change::Forget => panic!("a row"),
    };
    let first = page(None).await;
    let tenth = id(first.last().unwrap());
    let second = page(Some(&tenth)).await;
    store.copy(&eu, None, &first, false).await.unwrap();
    assert!(matches!(store.copy(&eu, None, &first, false).await, Err(Error::Busy(_))));
    let twentieth = id(second.last().unwrap());
    assert!(matches!(
        store.copy(&eu, Some(&twentieth), &page(Some(&twentieth)).await, true).await,
        Err(Error::Busy(_))
    ));
    store.copy(&eu, Some(&tenth), &second, false).await.unwrap();
    store.copy(&eu, Some(&twentieth), &page(Some(&twentieth)).await, true).await.unwrap();
    assert_eq!(copy.rows().await, source.rows().await);
}

async fn a_source_without_rows_takes_none_away(place: Place) {
    let (old, mut empty) = (Shard::primary(&place, "eu").await, Shard::replica(&place, "ap").await);
    empty.begin(2).await;
    let copy = Shard::replica(&place, "us").await;
    old.fill(1..=20).await;
    let follower = Follower::start(&Near::new(&old.store), "eu", &copy.store);
    until("the rows", async || copy.rows().await == old.rows().await).await;
    drop(follower);
    let follower = Follower::start(&Near::new(&empty.store), "ap", &copy.store);
    until("the refusal", async || {
        let problem = follower.cell.report(clock::now()).problem;
        problem.is_some_and(|problem| problem.contains("has no rows at all"))
    })
    .await;
    assert_eq!(copy.rows().await, old.rows().await);
}

/// Three regions, each following both others: the primary goes with what only it has, another takes over from the furthest copy, and the
/// first comes back.
async fn an_epoch_ends(place: Place) {
    let eu = Shard::primary(&place, "eu").await;
    let (mut us, ap) = (Shard::replica(&place, "us").await, Shard::replica(&place, "ap").await);
    eu.fill(1..=30).await;
    let [from_eu_to_us, from_eu_to_ap] = [Near::to(&eu.store, "us"), Near::to(&eu.store, "ap")];
    let fit = Arc::default();
    let to_us = Follower::beside(&from_eu_to_us, "eu", &us.store, true, &fit);
    let to_ap = Follower::start(&from_eu_to_ap, "eu", &ap.store);
    until("the copies", async || us.rows().await.len() == 30 && ap.rows().await.len() == 30).await;
    let tip = eu.store.tip().await.unwrap();
    let has =
        async |copy: &Shard| copy.store.progress("eu").await.unwrap().is_some_and(|at| at.applied >= tip);
    until("the logs", async || has(&us).await && has(&ap).await).await;
    drop(to_us);
    eu.write("UPDATE notes SET body = 'in two' WHERE id <= 10").await;
    until("what two have", async || ap.rows().await == eu.rows().await).await;
    drop(to_ap);
    eu.write("UPDATE notes SET body = 'in one' WHERE id <= 5").await;
    eu.fill(90..=99).await;

    let shard = ShardName::new("s1").unwrap();
    let cut = Near::to(&eu.store, "us");
    cut.cut.store(true, Ordering::Relaxed);
    let ways = [(region("eu"), cut), (region("ap"), Near::to(&ap.store, "us"))].into();
    let gathered = gather(&shard, Epoch(2), (&us.store, &|_| None), ways).await.unwrap();
    assert_eq!(gathered.sealed.keys().collect::<Vec<_>>(), [&region("ap")]);
    assert!(gathered.missing.contains_key(&region("eu")) && gathered.left.is_empty(), "{gathered:?}");
    assert_eq!(gathered.taken, 10);
    us.begin(2).await;
    assert_eq!(us.rows().await.iter().filter(|row| row.ends_with("/in two")).count(), 10);
    us.write("UPDATE notes SET body = 'after' WHERE id = 1").await;

    // The others follow the new primary without copying a row.
    let (us_to_ap, us_to_eu) = (Near::to(&us.store, "ap"), Near::to(&us.store, "eu"));
    let to_ap = Follower::start(&us_to_ap, "us", &ap.store);
    until("the new primary's", async || ap.rows().await == us.rows().await).await;
    let to_eu = Follower::start(&us_to_eu, "us", &eu.store);
    until("the old primary's return", async || eu.rows().await == us.rows().await).await;
    for follower in [&to_ap, &to_eu] {
        assert_eq!(follower.cell.report(clock::now()).copied_rows, None);
    }
    assert_eq!(eu.rows().await.len(), 30);
    // What only it had is kept by all that hear of it.
    let _back = Follower::beside(&Near::to(&eu.store, "us"), "eu", &us.store, false, &fit);
    until("what was lost", async || us.stranded().await == 15).await;
    assert_eq!((eu.stranded().await, ap.stranded().await), (15, 0));
    assert_eq!(us.rows().await, eu.rows().await);
}

/// Who begins an epoch takes a log that it has never followed from its start; and goes on with one of which the start is gone.
async fn what_nobody_followed_counts(place: Place) {
    let (mut eu, mut us) = (Shard::primary(&place, "eu").await, Shard::replica(&place, "us").await);
    eu.fill(1..=5).await;
    let (to_us, to_eu) = (Near::to(&eu.store, "us"), Near::to(&us.store, "eu"));
    let follower = Follower::start(&to_us, "eu", &us.store);
    let tip = eu.store.tip().await.unwrap();
    until("the log", async || us.store.progress("eu").await.unwrap().is_some_and(|at| at.applied >= tip))
        .await;
    drop(follower);
    let shard = ShardName::new("s1").unwrap();
    gather(&shard, Epoch(2), (&us.store, &|_| None), [(region("eu"), to_us)].into()).await.unwrap();
    us.begin(2).await;
    us.fill(10..=19).await;
    let gathered = gather(&shard, Epoch(3), (&eu.store, &|_| None), [(region("us"), to_eu.clone())].into())
        .await
        .unwrap();
    assert_eq!((gathered.taken, gathered.left.len(), gathered.missing.len()), (10, 0, 0), "{gathered:?}");
    eu.begin(3).await;
    assert_eq!(eu.rows().await, us.rows().await);

    // The log of a copy is trimmed past where the primary was, which has nobody to copy rows from.
    let to_us = Near::to(&eu.store, "us");
    let _follower = Follower::start(&to_us, "eu", &us.store);
    until("the new epoch", async || us.store.lineage().await.unwrap().epoch() == Epoch(3)).await;
    eu.store.follow("us", &us.store.identity().await.unwrap(), Position::START).await.unwrap();
    us.forget_log().await;
    let back = Follower::leading(&to_eu, "us", &eu.store);
    let trimmed = us.store.tip().await.unwrap();
    until("the log of the copy", async || {
        eu.store.progress("us").await.unwrap().is_some_and(|at| at.applied == trimmed)
    })
    .await;
    until("that all is well", async || {
        let report = back.cell.report(clock::now());
        report.state == State::Following && report.problem.is_none()
    })
    .await;
}

/// Rows that somebody wrote past the log are found while both sides are written, and put right.
async fn a_copy_is_compared_and_put_right(place: Place) {
    let (source, copy) = (Shard::primary(&place, "eu").await, Shard::replica(&place, "us").await);
    source.fill(1..=3_000).await;
    let near = Near::new(&source.store);
    let _follower = Follower::start(&near, "eu", &copy.store);
    until("the log", async || copy.store.progress("eu").await.unwrap().is_some()).await;
    let (shard, primary) = (ShardName::new("s1").unwrap(), region("eu"));
    let compared = Comparison { copy: &copy.store, primary: &primary, shard: &shard, way: &near };
    let alike = compared.run("notes", None, true).await.unwrap();
    assert_eq!((alike.rows, alike.faults.len(), alike.mended, alike.more), (3_000, 0, 0, false));
    copy.tamper("UPDATE notes SET body = 'bad' WHERE id IN (6, 7)").await;
    copy.tamper("DELETE FROM notes WHERE id = 8").await;
    copy.forget(12).await;
    source.forget(10).await;
    source.write("UPDATE notes SET body = 'later' WHERE id % 2 = 1 AND id < 600").await;
    let found = compared.run("notes", None, false).await.unwrap();
    let faults: Vec<String> =
        found.faults.values().map(|fault| format!("{fault:?}").to_lowercase()).collect();
    assert_eq!(found.faults.len(), 4, "{found:?}: the seventh was written anew, and is right by that");
    assert!(faults.contains(&"extra".to_owned()) && faults.contains(&"different".to_owned()), "{faults:?}");
    let mended = compared.run("notes", None, true).await.unwrap();
    assert_eq!(mended.mended, 4);
    assert_eq!(compared.run("notes", None, false).await.unwrap().faults.len(), 0);
    assert_eq!(copy.rows().await, source.rows().await);
    assert_eq!(copy.stranded().await, 1, "what the primary knew nothing of is kept");
    let refused = compared.run("plans", None, false).await.unwrap_err().to_string();
    assert!(refused.contains("plans"), "{refused}");
}

/// Whoever waits for the follower hears it at once, and no more when its link is gone.
async fn what_a_follower_has_is_heard_at_once(place: Place) {
    let (source, copy) = (Shard::primary(&place, "eu").await, Shard::replica(&place, "us").await);
    source.fill(1..=3).await;
    let near = Near::new(&source.store);
    let _follower = Follower::start(&near, "eu", &copy.store);
    let mut watching = source.store.watch_receipts();
    for id in 10..=20 {
        source.fill(id..=id).await;
        let tip = source.store.tip().await.unwrap();
        until("the receipt", async || watching.now().0.get(&region("us")).is_some_and(|has| *has >= tip))
            .await;
        assert_eq!(copy.rows().await, source.rows().await, "what is received is there for good");
    }
    near.cut.store(true, Ordering::Relaxed);
    near.breaks();
    until("the silence", async || watching.now().0.is_empty()).await;
}

async fn run(place: Place) {
    a_copy_begins_follows_and_goes_on_after_a_cut(place.clone()).await;
    a_copy_comes_at_its_pace(place.clone()).await;
    a_copy_is_compared_and_put_right(place.clone()).await;
    a_copy_of_the_same_log_begins_anew_without_losers(place.clone()).await;
    a_log_that_was_rewound_is_found(place.clone()).await;
    a_copy_that_is_cut_within_its_rows_goes_on(place.clone()).await;
    a_page_that_does_not_come_next_is_not_taken(place.clone()).await;
    a_source_without_rows_takes_none_away(place.clone()).await;
    another_log_is_copied_anew(place.clone()).await;
    an_epoch_ends(place.clone()).await;
    sweeping::deletions_go_when_all_have_them(place.clone()).await;
    sweeping::who_has_no_rows_yet_bars(place.clone()).await;
    upgrades::regions_are_upgraded_one_after_the_other(place.clone()).await;
    upgrades::who_speaks_nothing_that_is_known_here_is_told(place.clone()).await;
    walls::a_confined_tenant_goes_nowhere(place.clone()).await;
    what_a_follower_has_is_heard_at_once(place.clone()).await;
    what_nobody_followed_counts(place).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn feeds_on_sqlite() {
    run(Place::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn feeds_on_postgres() {
    run(Place::postgres().await).await;
}

/// Bugs that others had.
async fn losses(place: Place) {
    losses::a_change_that_fails_spoils_the_next(place.clone()).await;
    losses::a_link_that_comes_back_under_load_skips_a_transaction(place.clone()).await;
    losses::a_node_that_joins_under_load_lacks_rows(place.clone()).await;
    losses::a_transaction_that_commits_late_is_passed_over(place.clone()).await;
    losses::an_idle_shard_keeps_its_log_or_loses_its_place(place).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn known_losses_on_sqlite() {
    losses(Place::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn known_losses_on_postgres() {
    losses(Place::postgres().await).await;
}
