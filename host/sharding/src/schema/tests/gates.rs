//! What is refused, what waits, what is taken back, what is planned.

use portolan_core::ids::{RegionName, ShardName};

use super::place::{Direct, NOTES, Place, Watcher, applied, apply, migrations, tables};
use crate::schema::{Error, Fleet, How, Lock, Locks, Mismatch, Options, Seen, baseline};

const TITLE: (&str, &str) = ("add_title", "ALTER TABLE notes ADD COLUMN title text");
const CONTRACT: (&str, &str) = ("drop_body", "-- portolan: contract\nALTER TABLE notes DROP COLUMN body");

pub(crate) async fn a_changed_file_is_refused(place: Place) {
    let shards = [place.primary().await];
    let tables = tables(&["notes"]);
    applied(&migrations(&[NOTES, TITLE]), &shards, &tables).await;
    let other = ("add_title", "ALTER TABLE notes ADD COLUMN title  text");
    let renamed = ("add_heading", TITLE.1);
    for (files, what) in [
        (vec![NOTES, other], "and its file is"),
        (vec![NOTES, renamed], "its file is not there"),
        (vec![NOTES], "its file is not there"),
    ] {
        let migrations = migrations(&files);
        let report = apply(&migrations, &shards, &tables).await;
        let error = report.shards[0].error.as_ref().unwrap();
        assert!(matches!(error, Error::Mismatch(all) if all.len() == 1), "{error:?}");
        assert!(error.to_string().contains(what), "{error}");
        let fleet = Fleet { elsewhere: &[], migrations: &migrations, shards: &shards, tables: &tables };
        let status = fleet.status().await.remove(0).1.unwrap();
        assert_eq!(status.mismatches.len(), 1);
        assert!(fleet.plan(false).await.is_err());
    }
    // Line ends do not matter.
    let windows = ("create_notes", NOTES.1);
    applied(&migrations(&[windows, TITLE]), &shards, &tables).await;
}

pub(crate) async fn a_contraction_waits_for_all(place: Place) {
    let shards = [place.primary().await, place.primary().await];
    let tables = tables(&["notes"]);
    let migrations = migrations(&[NOTES, TITLE, CONTRACT]);
    let seen = |version| Seen {
        region: RegionName::new("us").unwrap(),
        shard: ShardName::new("far").unwrap(),
        version,
    };
    let run = async |elsewhere: &[Seen]| {
        let fleet = Fleet { elsewhere, migrations: &migrations, shards: &shards, tables: &tables };
        fleet.apply(&Options::default(), &Watcher::default()).await.unwrap()
    };
    // A run never goes through an expansion and what takes away after it.
    let report = run(&[seen(2)]).await;
    let waits = report.waits.as_ref().unwrap();
    assert_eq!((waits.contract, waits.needs, waits.behind.len()), (3, 2, 2));
    assert!(report.shards.iter().all(|shard| shard.ran == [1, 2]) && !report.is_done());
    // Another region has not come as far.
    let report = run(&[seen(1)]).await;
    let waits = report.waits.unwrap();
    assert!(waits.to_string().contains("far in us (0001)"), "{waits}");
    assert!(report.shards.iter().all(|shard| shard.ran.is_empty()));
    let report = run(&[seen(2)]).await;
    assert!(report.is_done() && report.shards.iter().all(|shard| shard.ran == [3]), "{report:#?}");
    // A shard that comes later goes the whole way, and the contraction waits for it too.
    let late = [shards[0].clone(), place.primary().await];
    let report = apply(&migrations, &late, &tables).await;
    assert_eq!((report.shards[1].ran.as_slice(), report.waits.is_some()), ([1, 2].as_slice(), true));
    assert!(apply(&migrations, &late, &tables).await.is_done());
}

pub(crate) async fn a_compensation_takes_a_version_back(place: Place) {
    let shards = [place.primary().await, place.primary().await];
    let tables = tables(&["notes"]);
    let before = migrations(&[NOTES, TITLE]);
    applied(&before, &shards, &tables).await;
    let fleet = |migrations| Fleet { elsewhere: &[], migrations, shards: &shards, tables: &tables };
    let error = fleet(&before).rollback(2, &Options::default(), &Watcher::default()).await.unwrap_err();
    assert!(error.to_string().contains("-- portolan: compensates 0002"), "{error}");
    let undo = ("drop_title", "-- portolan: compensates 0002\nALTER TABLE notes DROP COLUMN title");
    let after = migrations(&[NOTES, TITLE, undo, ("add_other", "ALTER TABLE notes ADD COLUMN other text")]);
    let report = fleet(&after).rollback(2, &Options::default(), &Watcher::default()).await.unwrap();
    assert!(report.is_done() && report.shards.iter().all(|shard| shard.ran == [3]), "{report:#?}");
    let mut direct = Direct::of(&shards[0]).await;
    assert_eq!(direct.history().await[2], "3 drop_title expand ran 1");
    assert_eq!(
        direct.texts("SELECT CAST(compensates AS TEXT) FROM portolan_schema WHERE version = 3").await,
        ["2"]
    );
    direct.ok("INSERT INTO notes (tenant, id, body) VALUES ('acme', 1, 'one')").await;
    // What would come along is named first.
    let along = migrations(&[
        NOTES,
        TITLE,
        undo,
        ("add_other", "ALTER TABLE notes ADD COLUMN other text"),
        ("drop_all", "-- portolan: compensates 0001\nDROP TABLE notes"),
    ]);
    let error = fleet(&along).rollback(1, &Options::default(), &Watcher::default()).await.unwrap_err();
    assert!(error.to_string().starts_with("0004 comes before 0005"), "{error}");
}

pub(crate) async fn a_baseline_is_noted_and_not_run(place: Place) {
    let shard = place.primary().await;
    let tables = tables(&["notes"]);
    let migrations = migrations(&[NOTES, TITLE]);
    // An existing database, as it was declared before there were migrations.
    let mut tables_made = shard.store.maintain().await.unwrap();
    tables_made.execute(NOTES.1, &[]).await.unwrap();
    tables_made.finish().await.unwrap();
    shard.store.declare(&tables, 1).await.unwrap();
    let shards = [shard];
    let report = apply(&migrations, &shards, &tables).await;
    assert!(matches!(report.shards[0].error, Some(Error::NoRecord { declared: 1 })), "{report:?}");
    assert!(baseline(&shards[0], &migrations, 3).await.is_err());
    baseline(&shards[0], &migrations, 1).await.unwrap();
    // What was captured still is.
    Direct::of(&shards[0]).await.ok("INSERT INTO notes VALUES ('acme', 1, 'one')").await;
    assert_eq!(super::place::changes(&shards[0].store).await.len(), 1);
    assert!(baseline(&shards[0], &migrations, 1).await.is_err());
    applied(&migrations, &shards, &tables).await;
    let history = Direct::of(&shards[0]).await.history().await;
    assert_eq!(history, ["1 create_notes expand adopted 1", "2 add_title expand ran 1"]);
    assert_eq!(How::Adopted.as_str(), "adopted");
}

pub(crate) async fn plans_say_what_is_locked(place: Place) {
    let shards = [place.primary().await];
    let tables = tables(&["notes"]);
    applied(&migrations(&[NOTES]), &shards, &tables).await;
    let migrations = migrations(&[
        NOTES,
        ("add_title", "ALTER TABLE notes ADD COLUMN title text; CREATE TABLE tags (id bigint PRIMARY KEY)"),
        ("add_index", "-- portolan: no-transaction\nCREATE INDEX CONCURRENTLY notes_body ON notes (body)"),
        ("fill_title", "-- portolan: backfill\nUPDATE notes SET title = body"),
        ("break_it", "ALTER TABLE nothing ADD COLUMN x text; SELECT 1"),
    ]);
    let fleet = Fleet { elsewhere: &[], migrations: &migrations, shards: &shards, tables: &tables };
    let plan = fleet.plan(true).await.unwrap().remove(0);
    assert_eq!((plan.version, plan.steps.len()), (1, 4));
    let locks: Vec<_> =
        plan.steps.iter().flat_map(|step| &step.statements).map(|planned| &planned.locks).collect();
    if !place.is_postgres() {
        assert!(locks.iter().all(|locks| **locks == Locks::File));
        return;
    }
    let held = vec![Lock { mode: "AccessExclusiveLock".to_owned(), table: "notes".to_owned() }];
    assert_eq!((locks[0], locks[1]), (&Locks::Held(held), &Locks::Held(Vec::new())));
    for (locks, why) in
        locks[2..].iter().zip(["cannot be tried", "rows that it changes", "failed when", "before it failed"])
    {
        assert!(matches!(locks, Locks::Untried(text) if text.contains(why)), "{locks:?}");
    }
    // Nothing has changed.
    assert_eq!(fleet.plan(false).await.unwrap()[0].version, 1);
    assert_eq!(shards[0].store.missing(&super::place::tables(&["tags"])).await.unwrap().len(), 1);
    let nothing: Vec<Mismatch> = fleet.status().await.remove(0).1.unwrap().mismatches;
    assert_eq!(nothing, []);
}
