//! Rows and migrations: what the log tells, what is refused, what stays captured.

use portolan_core::tenant_table::Tables;

use super::place::{Direct, NOTES, Place, Watcher, applied, apply, changes, migrations, tables};
use crate::schema::{Error, Fleet, How, Options, Seen};

const FILL: (&str, &str) =
    ("fill_notes", "INSERT INTO notes VALUES ('acme', 1, 'one'), ('acme', 2, 'two'), ('beta', 1, 'uno')");
const TITLE: (&str, &str) = ("add_title", "ALTER TABLE notes ADD COLUMN title text");
const BACKFILL: (&str, &str) = (
    "fill_title",
    "-- portolan: backfill repeated\nUPDATE notes SET title = upper(body) WHERE (tenant, id) IN \
     (SELECT tenant, id FROM notes WHERE title IS NULL LIMIT 2)",
);

pub(crate) async fn a_backfill_is_told_by_the_log(place: Place) {
    let shards = [place.primary().await];
    let tables = tables(&["notes"]);
    applied(&migrations(&[NOTES, FILL, TITLE]), &shards, &tables).await;
    assert_eq!(changes(&shards[0].store).await, []);
    applied(&migrations(&[NOTES, FILL, TITLE, BACKFILL]), &shards, &tables).await;
    let changes = changes(&shards[0].store).await;
    assert_eq!(changes.len(), 3);
    for change in &changes {
        // Rows of all tenants, each above the lowest version that it had.
        assert!(change.row.as_ref().unwrap().contains("title") && change.version.epoch.0 == 1, "{change:?}");
        assert_eq!(change.replaces.as_ref().map(|version| version.v), Some(0));
    }
    let titles = Direct::of(&shards[0]).await.texts("SELECT title FROM notes ORDER BY 1").await;
    assert_eq!(titles, ["ONE", "TWO", "UNO"]);
}

pub(crate) async fn a_backfill_runs_at_the_primary_alone(place: Place) {
    let shards = [place.replica().await];
    let tables = tables(&["notes"]);
    applied(&migrations(&[NOTES, TITLE]), &shards, &tables).await;
    let all = migrations(&[NOTES, TITLE, BACKFILL]);
    let run = async |version, copy| {
        let shard = crate::schema::Shard { copy, ..shards[0].clone() };
        let region = portolan_core::ids::RegionName::new("us").unwrap();
        let seen = [Seen { region, shard: shard.name.clone(), version }];
        let fleet = Fleet { elsewhere: &seen, migrations: &all, shards: &[shard], tables: &tables };
        fleet.apply(&Options::default(), &Watcher::default()).await.unwrap().shards.remove(0)
    };
    use crate::schema::Copy::{Primary, Replica};
    for (version, copy, why) in [(2, Replica, "primary first"), (3, Primary, "lease is not held here")] {
        let error = run(version, copy).await.error.unwrap();
        assert!(matches!(&error, Error::Backfill { version: 3, why: text } if text.contains(why)), "{error}");
    }
    let report = run(3, Replica).await;
    assert!(report.error.is_none() && report.ran == [3], "{report:?}");
    let history = Direct::of(&shards[0]).await.history().await;
    assert_eq!(history[2], format!("3 fill_title backfill {} 1", How::Log.as_str()));
}

pub(crate) async fn rows_are_not_changed_unseen(place: Place) {
    let shards = [place.primary().await];
    let tables = tables(&["notes"]);
    applied(&migrations(&[NOTES, FILL]), &shards, &tables).await;
    for sql in [
        "ALTER TABLE notes ADD COLUMN x text; UPDATE notes SET x = body",
        "DELETE FROM notes",
        "INSERT INTO notes VALUES ('acme', 9, 'nine')",
        place.pick(
            "DELETE FROM notes WHERE id = 1",
            "DO $$ BEGIN EXECUTE 'UPDATE notes SET body = '''''; END $$",
        ),
        place.pick("REPLACE INTO notes VALUES ('acme', 1, 'x')", "TRUNCATE notes"),
    ] {
        let all = migrations(&[NOTES, FILL, ("change_rows", sql)]);
        // PostgreSQL's texts are no texts of SQLite; each sees its own here.
        let report = apply(&all, &shards, &tables).await;
        let error = report.shards[0].error.as_ref().unwrap().to_string();
        assert!(error.contains("no backfill changes rows of notes"), "{sql}: {error}");
    }
    let mut direct = Direct::of(&shards[0]).await;
    assert_eq!(direct.texts("SELECT body FROM notes ORDER BY 1").await, ["one", "two", "uno"]);
    direct.ok("UPDATE notes SET body = 'new' WHERE id = 2").await;
    assert_eq!(changes(&shards[0].store).await.len(), 1);
}

pub(crate) async fn captured_tables_stay_captured(place: Place) {
    let shards = [place.primary().await];
    let notes = tables(&["notes"]);
    applied(&migrations(&[NOTES, FILL]), &shards, &notes).await;
    // A column goes that the triggers name, one comes, the table is made anew, another comes later: all in one run.
    let rebuild = "CREATE TABLE notes_new (tenant text NOT NULL, id bigint NOT NULL, title text, PRIMARY KEY (tenant, id));
        INSERT INTO notes_new SELECT tenant, id, title FROM notes;
        INSERT INTO notes_new VALUES ('gamma', 7, 'new');
        DROP TABLE notes;
        ALTER TABLE notes_new RENAME TO notes";
    let all = [
        NOTES,
        FILL,
        ("change_columns", "ALTER TABLE notes ADD COLUMN title text; ALTER TABLE notes DROP COLUMN body"),
        ("rebuild_notes", rebuild),
        (
            "create_tags",
            "CREATE TABLE tags (tenant text NOT NULL, id bigint NOT NULL, PRIMARY KEY (tenant, id))",
        ),
    ];
    let both = tables(&["notes", "tags"]);
    let through = async |through| {
        let all = migrations(&all);
        let fleet = Fleet { elsewhere: &[], migrations: &all, shards: &shards, tables: &both };
        let options = Options { through: Some(through), ..Options::default() };
        let report = fleet.apply(&options, &Watcher::default()).await.unwrap();
        assert!(report.is_done(), "{report:#?}");
    };
    through(4).await;
    let mut direct = Direct::of(&shards[0]).await;
    assert_eq!(direct.texts("SELECT tenant FROM notes ORDER BY 1").await, ["acme", "acme", "beta", "gamma"]);
    direct.ok("UPDATE notes SET title = 't' WHERE tenant = 'acme' AND id = 1").await;
    direct.ok("UPDATE notes SET title = 't' WHERE tenant = 'gamma'").await;
    let told = changes(&shards[0].store).await;
    assert!(told.len() == 2 && told.iter().all(|change| change.replaces.is_some()), "{told:?}");
    assert!(told.iter().all(|change| !change.row.as_ref().unwrap().contains("body")));
    // All rows have versions, also those that the migration made.
    assert_eq!(shards[0].store.rows(None, None, 9).await.unwrap().len(), 4);
    // A run that does not declare a table, and stops before it is let go, leaves its triggers alone.
    let files = migrations(&all);
    let fleet = Fleet { elsewhere: &[], migrations: &files, shards: &shards, tables: &Tables::default() };
    let watcher = Watcher { stop_after: Some(5), ..Watcher::default() };
    let report = fleet.apply(&Options::default(), &watcher).await.unwrap();
    assert!(
        matches!(report.shards[0].error, Some(Error::Stopped)) && report.shards[0].ran == [5],
        "{report:?}"
    );
    direct.ok("DELETE FROM notes WHERE tenant = 'beta'").await;
    assert_eq!(changes(&shards[0].store).await.len(), 3);
    through(5).await;
    direct.ok("INSERT INTO tags VALUES ('acme', 1)").await;
    assert_eq!(changes(&shards[0].store).await.len(), 4);
    // No guard is left.
    let guards = "SELECT name FROM sqlite_schema WHERE name GLOB 'portolan_guard*'";
    assert!(place.is_postgres() || direct.texts(guards).await.is_empty());
    // A table that no migration makes.
    let report = apply(&files, &shards, &tables(&["notes", "tags", "nowhere"])).await;
    let error = report.shards[0].error.as_ref().unwrap().to_string();
    assert!(error.contains("`nowhere` is not there"), "{error}");
    // A captured table that is no longer as it is declared: nothing of the migration is kept.
    let key = place.pick(
        "CREATE TABLE t (tenant text NOT NULL, id bigint PRIMARY KEY); DROP TABLE tags; ALTER TABLE t RENAME TO tags",
        "ALTER TABLE tags DROP CONSTRAINT tags_pkey, ADD PRIMARY KEY (id)",
    );
    let all = [&all[..], &[("change_key", key)]].concat();
    let report = apply(&migrations(&all), &shards, &both).await;
    let error = report.shards[0].error.as_ref().unwrap();
    assert!(matches!(error, Error::Kept { version: 6, .. }), "{error}");
    direct.ok("INSERT INTO tags VALUES ('beta', 1)").await;
    assert_eq!(changes(&shards[0].store).await.len(), 5);
}
