//! What a crash leaves, and how the next run goes on.

use super::place::{Direct, NOTES, Place, Watcher, migrations, tables};
use crate::schema::{Error, Event, Fleet, Options};

/// One of each kind.
const FILES: &[(&str, &str)] = &[
    NOTES,
    (
        "fill_notes",
        "INSERT INTO notes VALUES ('acme', 1, 'one'); INSERT INTO notes VALUES ('beta', 2, 'two')",
    ),
    ("add_title", "ALTER TABLE notes ADD COLUMN title text"),
    ("add_index", "-- portolan: no-transaction\nCREATE INDEX CONCURRENTLY notes_body ON notes (body)"),
];

pub(crate) async fn a_crash_at_any_point_is_gone_on_from(place: Place) {
    let backfill = (
        "fill_title",
        "-- portolan: backfill repeated\nUPDATE notes SET title = body WHERE (tenant, id) IN \
         (SELECT tenant, id FROM notes WHERE title IS NULL ORDER BY id LIMIT 1);\n\
         UPDATE notes SET title = 'two!' WHERE title = 'two'",
    );
    let first = migrations(FILES);
    let second = migrations(&[FILES, &[backfill]].concat());
    let tables = tables(&["notes"]);
    let mut stop_at = 0;
    let mut whole = None;
    loop {
        let shards = [place.primary().await];
        let (mut stopped, mut left) = (false, stop_at);
        // The backfill comes when the tables are captured, in a run of its own.
        for migrations in [&first, &second] {
            let fleet = Fleet { elsewhere: &[], migrations, shards: &shards, tables: &tables };
            let taken = if stopped { None } else { Some(left) };
            let watcher = Watcher { stop_at: taken, ..Watcher::default() };
            let report = fleet.apply(&Options::default(), &watcher).await.unwrap();
            match &report.shards[0].error {
                None => {
                    left = left.saturating_sub(watcher.passed());
                    continue;
                }
                Some(Error::Stopped) => stopped = true,
                Some(error) => panic!("{stop_at}: {error}"),
            }
            let report = fleet.apply(&Options::default(), &Watcher::default()).await.unwrap();
            assert!(report.is_done(), "{stop_at}: {report:#?}");
        }
        let mut direct = Direct::of(&shards[0]).await;
        let end = (
            direct.history().await,
            direct.texts("SELECT body || ' ' || title FROM notes ORDER BY id").await,
            direct
                .texts(place.pick(
                    "SELECT name FROM sqlite_schema WHERE name NOT GLOB '*portolan*' ORDER BY 1",
                    "SELECT c.relname || coalesce(i.indisvalid::text, '') FROM pg_class c LEFT JOIN pg_index i \
                     ON i.indexrelid = c.oid WHERE c.relnamespace = 'public'::regnamespace ORDER BY 1",
                ))
                .await,
            super::place::changes(&shards[0].store).await.len(),
            shards[0].store.schema().await.unwrap(),
        );
        assert_eq!((end.1.clone(), end.3, end.4), (vec!["one one".to_owned(), "two two!".to_owned()], 3, 5));
        assert_eq!(*whole.get_or_insert_with(|| end.clone()), end, "stopped at {stop_at}");
        if !stopped {
            assert!(stop_at > 12, "{stop_at}");
            return;
        }
        stop_at += 1;
    }
}

pub(crate) async fn an_invalid_index_is_made_again(place: Place) {
    if !place.is_postgres() {
        return;
    }
    let shards = [place.primary().await];
    let index = (
        "add_unique",
        "-- portolan: no-transaction\nCREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS \"Notes\" ON notes (body)",
    );
    let twice = ("fill_notes", "INSERT INTO notes VALUES ('acme', 1, 'one'), ('acme', 2, 'one')");
    let migrations = migrations(&[NOTES, twice, index]);
    let tables = tables(&["notes"]);
    let fleet = Fleet { elsewhere: &[], migrations: &migrations, shards: &shards, tables: &tables };
    let report = fleet.apply(&Options::default(), &Watcher::default()).await.unwrap();
    assert!(matches!(report.shards[0].error, Some(Error::Statement { line: 2, .. })), "{report:?}");
    assert_eq!(report.shards[0].ran, [1, 2]);
    let status = fleet.status().await.remove(0).1.unwrap();
    let half = status.half_done.unwrap();
    assert_eq!((half.version, half.statements, half.of), (3, 0, 1));
    assert_eq!((half.invalid_indexes, status.pending), (vec!["Notes".to_owned()], vec![3]));
    Direct::of(&shards[0]).await.ok("UPDATE notes SET body = 'two' WHERE id = 2").await;
    let watcher = Watcher::default();
    let report = fleet.apply(&Options::default(), &watcher).await.unwrap();
    assert!(report.is_done(), "{report:#?}");
    let repaired = Event::Repaired { index: "Notes".to_owned(), version: 3 };
    assert!(watcher.events().contains(&repaired), "{:?}", watcher.events());
    assert_eq!(fleet.status().await.remove(0).1.unwrap().half_done, None);
    // An index that somebody else made is not taken for the migration's.
    let other = [place.primary().await];
    let made = ("make_other", "CREATE INDEX \"Notes\" ON notes (id)");
    let migrations = super::place::migrations(&[NOTES, made, index]);
    let report = super::place::apply(&migrations, &other, &tables).await;
    assert!(matches!(report.shards[0].error, Some(Error::Index { version: 3, .. })), "{report:?}");
}
