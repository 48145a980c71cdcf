//! Looks at good and bad databases, and large tables that are adopted.

use std::collections::BTreeSet;

use portolan_changelog::{Engine, Error, Store};
use portolan_core::ids::RegionName;
use portolan_core::tenant_table::{Identifier, Tables, TenantTable, Writers};

use super::{Severity, look};
use crate::schema::tests::place::{
    Direct, MOMENT, NOTES, Place, applied, changes, migrations, table, tables,
};

/// A database that is nobody's shard yet, with these tables, made by other means.
async fn existing(place: &Place, sql: &[&str]) -> Engine {
    let shard = place.database().await;
    let store = Store::open(&shard, RegionName::new("eu").unwrap()).await.unwrap();
    let mut made = store.maintain().await.unwrap();
    for statement in sql {
        made.execute(statement, &[]).await.unwrap();
    }
    // As if portolan had never been there.
    if place.is_postgres() {
        for statement in ["DROP SCHEMA portolan CASCADE", "DROP TABLE _sqlx_migrations"] {
            made.execute(statement, &[]).await.unwrap();
        }
    }
    made.finish().await.unwrap();
    drop(store);
    if let Engine::Sqlite(path) = &shard {
        // Closed connections take a moment to go. The last takes their files along, unless two go at once.
        let mut looks = 0;
        while path.with_extension("db-wal").exists() {
            tokio::time::sleep(MOMENT).await;
            looks += 1;
            if looks % 100 == 0 {
                drop(Store::open(&shard, RegionName::new("eu").unwrap()).await);
            }
        }
    }
    shard
}

/// The codes of what was found, with their tables.
async fn codes(engine: &Engine, tables: &Tables, severity: Severity) -> BTreeSet<String> {
    let found = look(engine, tables).await.unwrap();
    assert_eq!(found.may_go_on(), found.score() >= 50, "{found:?}");
    let findings = found.findings.into_iter().filter(|finding| finding.severity == severity);
    // The tests' cluster waits for no disk.
    let findings = findings.filter(|finding| finding.code != "fsync-off");
    findings
        .map(|finding| format!("{} {}", finding.table.unwrap_or_default(), finding.code).trim().to_owned())
        .collect()
}

fn set(codes: &[&str]) -> BTreeSet<String> {
    codes.iter().map(|code| (*code).to_owned()).collect()
}

pub(crate) async fn a_good_database_may_be_adopted(place: Place) {
    let engine =
        existing(&place, &[NOTES.1, "INSERT INTO notes VALUES ('acme', 1, 'one'), ('b-2.c', 1, NULL)"]).await;
    let tables = tables(&["notes"]);
    assert_eq!(codes(&engine, &tables, Severity::Refuse).await, set(&[]));
    assert_eq!(codes(&engine, &tables, Severity::Warn).await, set(&[]));
    let found = look(&engine, &tables).await.unwrap();
    if place.is_postgres() {
        let refused: Vec<_> =
            found.findings.iter().filter(|finding| finding.severity == Severity::Refuse).collect();
        assert!(refused.len() == 1 && refused[0].code == "fsync-off", "{refused:?}");
        assert!(!found.may_go_on() && found.score() < 50);
    } else {
        assert!(found.may_go_on() && found.score() > 95, "{found:?}");
    }
}

pub(crate) async fn a_look_leaves_no_trace(place: Place) {
    let engine = existing(&place, &[NOTES.1]).await;
    let mut inspection = portolan_changelog::Inspection::open(&engine).await.unwrap();
    for sql in ["INSERT INTO notes VALUES ('acme', 1, 'one')", "CREATE TABLE other (id int)"] {
        let error = inspection.fetch(sql, &[]).await.unwrap_err().to_string();
        assert!(error.contains("read") || error.contains("aborted"), "{error}");
    }
    drop(inspection);
    let Engine::Sqlite(path) = &engine else { return };
    let beside = |end: &str| path.with_extension(format!("db-{end}"));
    let before = std::fs::read(path).unwrap();
    assert!(before[18..20] == [2, 2]);
    look(&engine, &tables(&["notes"])).await.unwrap();
    assert!(!beside("wal").exists() && !beside("shm").exists());
    assert_eq!(std::fs::read(path).unwrap(), before);
    // Nor is a database made that was not there.
    let nowhere = Engine::Sqlite(path.with_file_name("nowhere.db"));
    assert!(matches!(look(&nowhere, &Tables::default()).await, Err(Error::Away(_))));
    assert!(!path.with_file_name("nowhere.db").exists());
}

pub(crate) async fn bad_databases_are_told(place: Place) {
    let id = |name| TenantTable { key: vec![Identifier::new("id").unwrap()], ..table(name) };
    let members = TenantTable { writers: Writers::Members, ..id("children") };
    let declared = vec![
        table("notes"),
        members,
        id("parents"),
        id("odd"),
        table("nowhere"),
        table("keyless"),
        id("other"),
        id("keys"),
    ];
    let common = [
        "CREATE TABLE parents (tenant text NOT NULL, id text PRIMARY KEY, name text UNIQUE)",
        "CREATE TABLE outside (id text PRIMARY KEY)",
        "CREATE TABLE children (tenant text NOT NULL, id text PRIMARY KEY, parent text REFERENCES parents (id) ON DELETE CASCADE)",
        "CREATE TABLE keyless (tenant text NOT NULL, id text)",
        "CREATE TABLE other (tenant text NOT NULL, id text PRIMARY KEY, outside text REFERENCES outside (id))",
    ];
    let sqlite = [
        NOTES.1,
        "CREATE TABLE keys (tenant text NOT NULL, id text PRIMARY KEY)",
        "INSERT INTO notes VALUES ('ACME', 1, ''), ('ACME', 2, ''), ('', 1, ''), ('acme', 5, ''), ('good', 1, '')",
        "INSERT INTO keys VALUES ('acme', NULL)",
        "CREATE TABLE odd (tenant text, id text COLLATE NOCASE PRIMARY KEY, \"a-b\" text, up text REFERENCES odd (id) DEFERRABLE INITIALLY DEFERRED)",
        "CREATE TRIGGER mine AFTER INSERT ON notes BEGIN SELECT 1; END",
    ];
    let postgres = [
        "CREATE TABLE notes (tenant text NOT NULL, id bigserial, body json, PRIMARY KEY (tenant, id))",
        "INSERT INTO notes VALUES ('ACME', 1, '1'), ('ACME', 2, '1'), ('', 1, '1'), ('good', 1, '1')",
        "CREATE TABLE keys (tenant text NOT NULL, id text PRIMARY KEY)",
        "CREATE UNLOGGED TABLE odd (tenant jsonb, id float8 PRIMARY KEY DEFERRABLE, \"a-b\" text)",
        "CREATE RULE mine AS ON UPDATE TO notes DO INSTEAD NOTHING",
    ];
    let own = if place.is_postgres() { postgres.as_slice() } else { &sqlite };
    let engine = existing(&place, &[&common[..], own].concat()).await;
    let tables = Tables::new(declared).unwrap();
    let refused = [
        "children cascades",
        "keyless no-primary-key",
        "notes tenant-values",
        "nowhere table-missing",
        "odd column-name",
        "odd tenant-nullable",
        "other reference-undeclared",
    ];
    let more = if place.is_postgres() {
        ["notes rules", "odd key-deferrable", "odd tenant-type", "odd unlogged"].as_slice()
    } else {
        &["keys key-null", "odd deferred", "odd key-collation"]
    };
    assert_eq!(codes(&engine, &tables, Severity::Refuse).await, set(&[&refused[..], more].concat()));
    let warned = ["children reference-order", "parents unique-without-tenant"];
    let more = place.pick(["notes triggers"].as_slice(), &["notes sequence", "notes type", "odd key-type"]);
    assert_eq!(codes(&engine, &tables, Severity::Warn).await, set(&[&warned[..], more].concat()));
    let found = look(&engine, &tables).await.unwrap();
    assert_eq!((found.score(), found.may_go_on()), (0, false));
    let values = found.findings.iter().find(|finding| finding.code == "tenant-values").unwrap();
    assert!(values.what.contains("3 rows, with 2 values: `ACME` (2 rows), `` (1 rows)"), "{}", values.what);
    assert!(found.findings.is_sorted_by_key(|finding| finding.severity));
}

pub(crate) async fn rows_of_no_tenant_are_refused(place: Place) {
    let shard = place.primary().await;
    applied(&migrations(&[NOTES]), std::slice::from_ref(&shard), &Tables::default()).await;
    let mut direct = Direct::of(&shard).await;
    direct.ok("INSERT INTO notes VALUES ('good', 1, 'one'), ('No Body', 2, 'two')").await;
    let error = shard.store.declare(&tables(&["notes"]), 1).await.unwrap_err();
    assert!(matches!(error, Error::Table { .. }), "{error:?}");
    assert!(error.to_string().contains("No Body"), "{error}");
    // Nothing stands in the way of mending it.
    direct.ok("UPDATE notes SET tenant = 'somebody' WHERE id = 2").await;
    shard.store.declare(&tables(&["notes"]), 1).await.unwrap();
    assert_eq!(shard.store.rows(None, None, 9).await.unwrap().len(), 2);
}

pub(crate) async fn large_tables_are_adopted_while_others_write(place: Place) {
    const ROWS: u64 = 200_000;
    let shard = place.primary().await;
    applied(&migrations(&[NOTES]), std::slice::from_ref(&shard), &Tables::default()).await;
    let mut direct = Direct::of(&shard).await;
    let fill = place.pick(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200000) \
         INSERT INTO notes SELECT 't' || (i % 7), i, 'body' FROM n",
        "INSERT INTO notes SELECT 't' || i % 7, i, 'body' FROM generate_series(1, 200000) i",
    );
    direct.ok(fill).await;
    // Who declares is stopped in its middle, as by a crash.
    let begun = "SELECT adopting FROM portolan_declared WHERE adopting <> ''";
    let declared = tables(&["notes"]);
    {
        let mut declare = std::pin::pin!(shard.store.declare(&declared, 1));
        let mut looks = std::pin::pin!(async {
            while direct.peek(begun).await.is_empty() {
                tokio::time::sleep(MOMENT).await;
            }
        });
        tokio::select! {
            biased;
            () = &mut looks => {}
            done = &mut declare => panic!("{done:?}"),
        }
    }
    // Triggers are there, and a row that has no version yet had the lowest.
    let mut writer = Direct::of(&shard).await;
    writer.ok("UPDATE notes SET body = 'new' WHERE tenant = 't6' AND id = 199996").await;
    writer.ok("DELETE FROM notes WHERE tenant = 't6' AND id = 199989").await;
    writer.ok("INSERT INTO notes VALUES ('t6', 300000, 'more')").await;
    let told = changes(&shard.store).await;
    let known: Vec<_> = told.iter().map(|change| change.replaces.as_ref().map(|version| version.v)).collect();
    assert_eq!(known, [Some(0), Some(0), None]);
    // The next one goes on, with others beside it that write.
    let (declared, ()) = tokio::join!(
        shard.store.declare(&declared, 1),
        writer.ok("UPDATE notes SET body = 'newer' WHERE tenant = 't5' AND id = 199995")
    );
    declared.unwrap();
    let count =
        |condition: &str| format!("SELECT CAST(count(*) AS TEXT) FROM portolan_row WHERE {condition}");
    for (condition, expected) in [
        ("deleted = 0", ROWS),
        ("deleted = 1", 1),
        ("v = 0 AND epoch = 0 AND placement = 0", ROWS - 3),
        ("tenant = 't3' AND table_name = 'notes'", ROWS.div_ceil(7)),
    ] {
        assert_eq!(direct.texts(&count(condition)).await, [expected.to_string()], "{condition}");
    }
    assert_eq!(shard.store.rows(None, None, 9).await.unwrap().len(), 9);
    assert_eq!(changes(&shard.store).await.len(), 4);
    // While rows have no versions, nobody copies them.
    let mut owner = Direct::of(&shard).await;
    owner.0.run("UPDATE portolan_declared SET adopting = ''", &[]).await.unwrap();
    let error = shard.store.rows(None, None, 9).await.unwrap_err();
    assert!(matches!(&error, Error::Busy(why) if why.contains("notes")), "{error:?}");
}
