//! The end of an epoch: three copies, one of which loses what the others had not heard.

use std::time::Duration;

use portolan_core::ids::RegionName;
use portolan_core::log::{Epoch, Position};

use super::applying::follow;
use super::capture::{NOTES, notes, settled};
use super::place::{Place, Shard};
use crate::{
    Applied, ConflictKind, Conflicts, Cut, Error, Limits, Lost, Reached, RowId, Sealed, Store, Term,
};

const HOUR_US: u64 = 3_600_000_000;
const SOON: Duration = Duration::from_secs(1);

const ROWS: &str =
    "SELECT tenant || '/' || CAST(id AS text) || '/' || coalesce(body, '-') FROM notes ORDER BY tenant, id";

async fn rows(place: &Place, shard: &Shard) -> Vec<String> {
    place.admin(shard).await.texts(ROWS).await
}

fn region(name: &str) -> RegionName {
    RegionName::new(name).unwrap()
}

/// The next of a log, as far as it counts, with what is kept for others.
async fn take(source: &Store, copy: &Store) -> Result<u64, Error> {
    let (name, identity) = (source.origin(), source.identity().await.unwrap());
    copy.learn(source.lineage().await.unwrap().terms()).await.unwrap();
    if copy.progress(name.as_str()).await.unwrap().is_none() {
        copy.follow(name.as_str(), &identity, Position::START).await.unwrap();
    }
    settled(source).await;
    let mut stranded = 0;
    loop {
        let after = copy.progress(name.as_str()).await.unwrap().unwrap().received();
        let batch = source.read(after, Limits { records: 2, ..Limits::default() }).await.unwrap();
        if batch.records.is_empty() {
            return Ok(stranded);
        }
        match copy.apply_under(name, &batch, true).await? {
            Applied::Done(counts) => stranded += counts.stranded,
            Applied::Staged => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Three regions: `eu` writes some notes, which `us` and `ap` have; then one that `ap` has as well, and one that nobody has.
async fn three(place: &Place) -> [Shard; 3] {
    let eu = place.shard("eu", NOTES, &[notes()]).await;
    let [us, ap] =
        [place.replica("us", NOTES, &[notes()]).await, place.replica("ap", NOTES, &[notes()]).await];
    let mut direct = place.direct(&eu, "acme").await;
    for id in 1..=4 {
        direct.ok(&format!("INSERT INTO notes VALUES ('acme', {id}, 'all have it')")).await;
    }
    take(&eu.store, &us.store).await.unwrap();
    take(&eu.store, &ap.store).await.unwrap();
    direct.ok("UPDATE notes SET body = 'two have it' WHERE id = 2").await;
    take(&eu.store, &ap.store).await.unwrap();
    direct.ok("UPDATE notes SET body = 'one has it' WHERE id <= 3").await;
    direct.ok("INSERT INTO notes VALUES ('acme', 9, 'one has it')").await;
    direct.ok("DELETE FROM notes WHERE id = 4").await;
    [eu, us, ap]
}

async fn begin(shard: &Shard, epoch: u64) {
    let deadline = shard.store.clock().await.unwrap() + HOUR_US;
    shard.store.begin_epoch(Epoch(epoch), deadline).await.unwrap();
}

async fn terms(shard: &Shard) -> Vec<Term> {
    shard.store.lineage().await.unwrap().terms().to_vec()
}

async fn lost(shard: &Shard) -> Vec<Lost> {
    let mut lost = shard.store.conflicts(&Conflicts::all(99)).await.unwrap();
    lost.sort_by(|one, other| one.conflict.cmp(&other.conflict));
    lost
}

/// Puts the rows of a copy right that are stale, with the primary's.
async fn mend(copy: &Store, primary: &Store) -> usize {
    let stale = copy.stale().await.unwrap();
    let records = primary.records_named(&stale).await.unwrap();
    copy.mend(&stale, &records).await.unwrap();
    assert_eq!(copy.stale().await.unwrap(), Vec::<RowId>::new());
    stale.len()
}

pub(super) async fn what_only_a_dead_primary_had_is_stranded_and_kept(place: Place) {
    let [eu, us, ap] = three(&place).await;
    // `us` is to write. What `ap` has more is taken first.
    let Sealed { before, heads, terms: known } = ap.store.seal_epoch(Epoch(2), SOON).await.unwrap();
    assert_eq!((before, known), (Epoch(1), terms(&eu).await));
    let head = heads.into_iter().find(|head| head.region == region("eu")).unwrap();
    let had = us.store.progress("eu").await.unwrap().unwrap().applied;
    assert!(head.at > had, "{head:?}");
    let tail = ap.store.tail(&region("eu"), &head.identity, had).await.unwrap();
    assert!(matches!(us.store.apply_under(&region("eu"), &tail, true).await.unwrap(), Applied::Done(_)));
    assert!(ap.store.tail(&region("eu"), &head.identity, head.at).await.unwrap().records.is_empty());
    begin(&us, 2).await;
    assert_eq!(rows(&place, &us).await[..2], ["acme/1/all have it", "acme/2/two have it"]);
    place.direct(&us, "acme").await.ok("UPDATE notes SET body = 'after' WHERE id = 1").await;

    // The copy that has sealed takes nothing more of the old primary until it knows where that was cut.
    assert!(matches!(take(&eu.store, &ap.store).await, Err(Error::Sealed { .. })));
    let learned = ap.store.learn(&terms(&us).await).await.unwrap();
    assert_eq!((learned.anew, learned.stranded), (None, 0));
    assert_eq!(take(&eu.store, &ap.store).await.unwrap(), 5);
    take(&us.store, &ap.store).await.unwrap();
    assert_eq!(rows(&place, &ap).await, rows(&place, &us).await);

    // The old primary comes back: it writes no more, keeps what only it had, and has the others' rows.
    let learned = eu.store.learn(&terms(&us).await).await.unwrap();
    assert_eq!((learned.anew, learned.stranded), (None, 5));
    assert!(matches!(place.direct(&eu, "acme").await.refused("DELETE FROM notes").await, Error::Closed(_)));
    assert_eq!(eu.store.learn(&terms(&us).await).await.unwrap().stranded, 0, "twice is once");
    assert!(matches!(eu.store.begin_epoch(Epoch(3), 1).await, Err(Error::Partial(_))));
    assert_eq!(mend(&eu.store, &us.store).await, 5);
    take(&us.store, &eu.store).await.unwrap();
    assert_eq!(rows(&place, &eu).await, rows(&place, &us).await);
    assert_eq!(take(&eu.store, &us.store).await.unwrap(), 5);
    assert_eq!(rows(&place, &eu).await, rows(&place, &us).await);

    // All regions have kept the same, under the same names, and what one transaction wrote is found together.
    let kept = lost(&eu).await;
    let names = |kept: &[Lost]| kept.iter().map(|lost| lost.conflict.clone()).collect::<Vec<_>>();
    for other in [&us, &ap] {
        assert_eq!(names(&lost(other).await), names(&kept));
    }
    let stranded: Vec<_> = kept.iter().filter(|lost| lost.kind == ConflictKind::Stranded).collect();
    assert_eq!(stranded.len(), 5);
    assert_eq!(stranded.iter().filter(|lost| lost.row.is_none()).count(), 1, "a deletion is kept as well");
    let transactions: std::collections::BTreeSet<_> = stranded.iter().map(|lost| &lost.transaction).collect();
    // What SQLite wrote between two looks counts as one.
    let wanted = if place.is_sqlite() { 1 } else { 3 };
    assert!(transactions.len() == wanted && !transactions.contains(&None), "{transactions:?}");

    // Tokens of the old epoch say what became of their writes.
    let newest = stranded.iter().map(|lost| lost.version.v).max().unwrap();
    assert!(newest > 0);
    assert_eq!(us.store.reached(head.at).await.unwrap(), Reached::Here);
    let beyond = Position { sequence: head.at.sequence + 1, ..head.at };
    assert_eq!(us.store.reached(beyond).await.unwrap(), Reached::Lost(head.at));
}

pub(super) async fn a_copy_that_had_more_takes_it_back(place: Place) {
    let [eu, us, ap] = three(&place).await;
    take(&eu.store, &ap.store).await.unwrap();
    // `us` reaches nobody: what `ap` has more is lost to the shard.
    begin(&us, 2).await;
    let learned = ap.store.learn(&terms(&us).await).await.unwrap();
    assert_eq!((learned.anew, learned.stranded), (None, 6));
    // A row that is written anew meanwhile is not put back.
    place.direct(&us, "acme").await.ok("UPDATE notes SET body = 'after' WHERE id = 3").await;
    take(&us.store, &ap.store).await.unwrap();
    assert_eq!(mend(&ap.store, &us.store).await, 5);
    assert_eq!(rows(&place, &ap).await, rows(&place, &us).await);
    assert_eq!(rows(&place, &us).await[2], "acme/3/after");
    assert_eq!(rows(&place, &us).await.len(), 4);
    // The second of a row's lost versions is kept as the first is.
    let stranded = lost(&ap).await.into_iter().filter(|lost| lost.kind == ConflictKind::Stranded).count();
    assert_eq!(stranded, 6);
    // Whoever lets the epoch after that begin has it all.
    begin(&ap, 3).await;
    assert_eq!(us.store.learn(&terms(&ap).await).await.unwrap().stranded, 0);
}

/// A row that two logs wrote past their cuts is what the primary has, whichever of both was heard of last.
pub(super) async fn what_two_lost_epochs_wrote_goes_back(place: Place) {
    let [eu, us, ap] = three(&place).await;
    take(&eu.store, &us.store).await.unwrap();
    begin(&us, 2).await;
    let mut direct = place.direct(&us, "acme").await;
    direct.ok("INSERT INTO notes VALUES ('acme', 20, 'all have it')").await;
    take(&us.store, &ap.store).await.unwrap();
    direct.ok("UPDATE notes SET body = 'second'").await;
    eu.store.learn(&terms(&us).await).await.unwrap();
    take(&us.store, &eu.store).await.unwrap();
    assert_eq!(rows(&place, &eu).await, rows(&place, &us).await);
    // `ap` reaches neither any more: what it has not of both is lost.
    begin(&ap, 3).await;
    let learned = eu.store.learn(&terms(&ap).await).await.unwrap();
    assert_eq!((learned.anew, learned.stranded), (None, 10), "five of its own, and five of `us`");
    mend(&eu.store, &ap.store).await;
    take(&ap.store, &eu.store).await.unwrap();
    assert_eq!(rows(&place, &eu).await, rows(&place, &ap).await);
}

pub(super) async fn what_is_not_kept_any_more_is_copied_anew(place: Place) {
    let [eu, us, ap] = three(&place).await;
    take(&eu.store, &ap.store).await.unwrap();
    let had = ap.store.progress("eu").await.unwrap().unwrap().applied;
    ap.store.trim_tail(&region("eu"), had).await.unwrap();
    let identity = eu.store.identity().await.unwrap();
    let begun = us.store.progress("eu").await.unwrap().unwrap().applied;
    let tail = ap.store.tail(&region("eu"), &identity, begun).await;
    assert!(matches!(tail, Err(Error::Trimmed { .. })), "{tail:?}");
    begin(&us, 2).await;
    assert!(ap.store.is_complete().await.unwrap());
    let learned = ap.store.learn(&terms(&us).await).await.unwrap();
    assert!(learned.anew.is_some(), "{learned:?}");
    // Also when whoever heard it was cut short: the copy knows.
    assert!(!ap.store.is_complete().await.unwrap());
    assert!(matches!(ap.store.begin_epoch(Epoch(3), 1).await, Err(Error::Partial(_))));
    let (us_name, from) = (region("us"), us.store.settled().await.unwrap());
    let others = us.store.heads().await.unwrap();
    ap.store.begin_copy(&us_name, &us.store.identity().await.unwrap(), from, &others).await.unwrap();
    let page = us.store.rows(None, None, 100).await.unwrap();
    ap.store.copy(&us_name, None, &page, true).await.unwrap();
    assert!(ap.store.is_complete().await.unwrap());
    assert_eq!(rows(&place, &ap).await, rows(&place, &us).await);
    let there = ap.store.progress("eu").await.unwrap().unwrap();
    assert_eq!(there.applied, begun, "the others' logs go on from where the source had come");
    assert_eq!(take(&eu.store, &ap.store).await.unwrap(), 6);
    assert_eq!(rows(&place, &ap).await, rows(&place, &us).await);
    // Where no copy is whole, an operator says whose rows count.
    assert!(!ap.store.take_as_whole().await.unwrap(), "it has all");
    assert!(ap.store.begin_anew().await.unwrap() && !ap.store.is_complete().await.unwrap());
    let had = rows(&place, &ap).await;
    assert!(matches!(ap.store.begin_epoch(Epoch(3), 1).await, Err(Error::Partial(_))));
    assert!(ap.store.take_as_whole().await.unwrap());
    begin(&ap, 3).await;
    assert!(ap.store.is_complete().await.unwrap());
    assert_eq!(rows(&place, &ap).await, had);
}

pub(super) async fn an_epoch_that_is_given_out_twice_is_told(place: Place) {
    let [_, us, ap] = three(&place).await;
    begin(&us, 2).await;
    begin(&ap, 2).await;
    let forked = us.store.learn(&terms(&ap).await).await;
    assert!(matches!(&forked, Err(Error::Forked(forked)) if forked.epoch == Epoch(2)), "{forked:?}");
}

pub(super) async fn a_sealed_primary_writes_no_more(place: Place) {
    let eu = place.shard("eu", NOTES, &[notes()]).await;
    let mut direct = place.direct(&eu, "acme").await;
    direct.ok("INSERT INTO notes VALUES ('acme', 1, 'before')").await;
    let sealed = eu.store.seal_epoch(Epoch(2), SOON).await.unwrap();
    assert_eq!(sealed.before, Epoch(1));
    assert_eq!(sealed.terms.iter().map(|term| term.epoch).collect::<Vec<_>>(), [Epoch(1)]);
    let tip = eu.store.tip().await.unwrap();
    assert_eq!(
        sealed.heads,
        [Cut { region: region("eu"), identity: eu.store.identity().await.unwrap(), at: tip }]
    );
    let refused =
        place.direct(&eu, "acme").await.refused("INSERT INTO notes VALUES ('acme', 2, 'after')").await;
    assert!(matches!(refused, Error::Closed(_)), "{refused}");
    assert!(matches!(eu.store.extend(Epoch(1), HOUR_US).await, Err(Error::Refused(_))));
    // It may be asked again, and for later epochs, and never for earlier ones.
    assert_eq!(eu.store.seal_epoch(Epoch(2), SOON).await.unwrap().heads, sealed.heads);
    assert!(matches!(eu.store.seal_epoch(Epoch(1), SOON).await, Err(Error::Refused(_))));
    let us = place.shard("us", NOTES, &[notes()]).await;
    assert!(matches!(us.store.seal_epoch(Epoch(1), SOON).await, Err(Error::Refused(_))), "it is open");
    follow(&eu.store, &us.store).await;
}
