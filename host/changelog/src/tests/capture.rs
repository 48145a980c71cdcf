//! What triggers write into the log, for applications that know no gateway.

use std::time::Duration;

use portolan_core::log::{Epoch, Position};
use portolan_core::tenant_table::{Tables, TenantTable, Writers};

use super::place::{Direct, Place, Shard, table};
use crate::{Batch, Change, Error, Limits, RowChange, Store};

pub(super) const NOTES: &str =
    "CREATE TABLE notes (tenant text NOT NULL, id bigint NOT NULL, body text, PRIMARY KEY (tenant, id))";

pub(super) fn notes() -> TenantTable {
    table("notes", Some("tenant"), &["tenant", "id"], Writers::Primary)
}

pub(super) async fn notes_shard(place: &Place, region: &str) -> Shard {
    place.shard(region, NOTES, &[notes()]).await
}

/// Waits until all that is committed can be read: cases beside this one have transactions of their own in the cluster.
pub(super) async fn settled(store: &Store) {
    if store.ships() {
        store.tip().await.unwrap();
    }
    let deadline = tokio::time::Instant::now() + super::place::PATIENCE;
    while store.horizon().await.unwrap().waiting > 0 && !store.is_sqlite() {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// What comes after a position, when all that is committed can be read.
pub(super) async fn read(store: &Store, after: Position) -> Batch {
    settled(store).await;
    store.read(after, Limits::default()).await.unwrap()
}

/// All that is there to read, in one batch after the other.
pub(super) async fn all(store: &Store) -> Vec<Batch> {
    settled(store).await;
    let (mut after, mut batches) = (Position::START, Vec::new());
    loop {
        let batch = store.read(after, Limits::default()).await.unwrap();
        if batch.records.is_empty() {
            return batches;
        }
        after = batch.through;
        batches.push(batch);
    }
}

/// Row changes of all that is there.
pub(super) async fn changes(store: &Store) -> Vec<RowChange> {
    let records = all(store).await.into_iter().flat_map(|batch| batch.records);
    records
        .filter_map(|record| match record.change {
            Change::Row(change) => Some(change),
            Change::Forget => None,
        })
        .collect()
}

/// Each change as `table key row`, without blanks.
async fn told(store: &Store) -> Vec<String> {
    let tell = |change: RowChange| {
        let row = change.row.unwrap_or_else(|| "gone".into());
        format!("{} {} {row}", change.id.table, change.id.key).replace(": ", ":").replace(", ", ",")
    };
    changes(store).await.into_iter().map(tell).collect()
}

pub(super) async fn direct_writers_are_captured(place: Place) {
    let shard = notes_shard(&place, "eu").await;
    let mut direct = place.direct(&shard, "acme").await;
    direct.ok("INSERT INTO notes VALUES ('acme', 1, 'one')").await;
    direct.ok("BEGIN; INSERT INTO notes VALUES ('acme', 2, 'two'); ROLLBACK").await;
    direct.ok("UPDATE notes SET body = body").await;
    direct.ok("UPDATE notes SET body = 'uno'").await;
    direct.ok("INSERT INTO notes VALUES ('acme', 1, 'other') ON CONFLICT DO NOTHING").await;
    direct.ok("INSERT INTO notes VALUES ('acme', 1, 'ein') ON CONFLICT (tenant, id) DO UPDATE SET body = excluded.body").await;
    direct.ok("DELETE FROM notes").await;
    let batches = all(&shard.store).await;
    let records: Vec<_> = batches.iter().flat_map(|batch| &batch.records).collect();
    assert!(records.is_sorted_by(|a, b| a.position < b.position));
    assert!(records.iter().all(|record| record.position.epoch == Epoch(1) && record.schema == 1));
    assert!(
        records.iter().all(|record| record.tenant.as_ref().is_some_and(|tenant| tenant.as_str() == "acme"))
    );
    let changes = changes(&shard.store).await;
    let bodies: Vec<_> =
        changes.iter().map(|change| change.row.as_deref().map(|row| row.replace(' ', ""))).collect();
    let row = |body: &str| Some(format!("{{\"id\":1,\"body\":\"{body}\",\"tenant\":\"acme\"}}"));
    let sorted = |body: &str| Some(format!("{{\"tenant\":\"acme\",\"id\":1,\"body\":\"{body}\"}}"));
    let row = |body| if place.is_sqlite() { sorted(body) } else { row(body) };
    assert_eq!(bodies, [row("one"), row("uno"), row("ein"), None]);
    assert!(changes.iter().all(|change| change.id.key.replace(' ', "") == r#"["acme",1]"#));
    // Each knows the one before it, and the versions rise.
    assert_eq!(changes[0].replaces, None);
    for pair in changes.windows(2) {
        assert_eq!(pair[1].replaces.as_ref(), Some(&pair[0].version));
        assert!(pair[1].version > pair[0].version && pair[1].version.origin.as_str() == "eu");
    }
    assert_eq!(shard.store.tip().await.unwrap(), batches.last().unwrap().through);
}

pub(super) async fn a_lower_sequence_that_commits_later_is_still_read(place: Place) {
    let shard = notes_shard(&place, "eu").await;
    let mut first = place.direct(&shard, "acme").await;
    let mut second = place.direct(&shard, "acme").await;
    let read = async |after| shard.store.read(after, Limits::default()).await.unwrap();
    if place.is_sqlite() {
        // One writes at a time: what is uncommitted is not seen, and nothing overtakes it.
        first.ok("BEGIN IMMEDIATE; INSERT INTO notes VALUES ('acme', 1, 'one')").await;
        assert!(read(Position::START).await.records.is_empty());
        first.ok("COMMIT").await;
        let one = read(Position::START).await;
        second.ok("INSERT INTO notes VALUES ('acme', 2, 'two')").await;
        let two = read(one.through).await;
        assert_eq!((one.records.len(), two.records.len()), (1, 1));
        assert!(two.through > one.through && !two.through.same_transaction(one.through));
        return;
    }
    // T1 has the lower number, T2 the lower sequence.
    first.ok("BEGIN; SELECT pg_current_xact_id()").await;
    second.ok("BEGIN; SELECT pg_current_xact_id()").await;
    second.ok("INSERT INTO notes VALUES ('acme', 2, 'two')").await;
    first.ok("INSERT INTO notes VALUES ('acme', 1, 'one')").await;
    assert!(read(Position::START).await.records.is_empty());
    first.ok("COMMIT").await;
    let one = self::read(&shard.store, Position::START).await;
    assert_eq!(one.records.len(), 1);
    second.ok("COMMIT").await;
    let two = self::read(&shard.store, one.through).await;
    assert_eq!(two.records.len(), 1);
    assert!(two.through > one.through && two.through.sequence < one.through.sequence);
    // The other way round: T2 waits for T1; a transaction in another database of the cluster does the same.
    let mut elsewhere = Direct::Postgres(place.cluster().connect("postgres", "postgres").await);
    elsewhere.ok("BEGIN; SELECT pg_current_xact_id()").await;
    second.ok("INSERT INTO notes VALUES ('acme', 3, 'three')").await;
    shard.store.tip().await.unwrap();
    assert!(read(two.through).await.records.is_empty());
    let horizon = shard.store.horizon().await.unwrap();
    assert!(horizon.waiting == 1 && horizon.transactions >= 1, "{horizon:?}");
    elsewhere.ok("COMMIT").await;
    assert_eq!(self::read(&shard.store, two.through).await.records.len(), 1);
}

pub(super) async fn a_reinserted_row_is_above_its_tombstone(place: Place) {
    let shard = notes_shard(&place, "eu").await;
    let mut direct = place.direct(&shard, "acme").await;
    direct.ok("INSERT INTO notes VALUES ('acme', 1, 'one')").await;
    direct.ok("DELETE FROM notes").await;
    // The clock was an hour ahead when the tombstone was made.
    let (own, table) = if place.is_sqlite() { ("", "portolan_row") } else { ("", "portolan.row") };
    let mut admin = place.admin(&shard).await;
    admin.ok(&format!("{own}UPDATE {table} SET v = v + 3600000000")).await;
    direct.ok("INSERT INTO notes VALUES ('acme', 1, 'again')").await;
    let changes = changes(&shard.store).await;
    let last = changes.last().unwrap();
    assert_eq!(last.version.v, last.replaces.as_ref().unwrap().v + 1);
    assert!(last.version.v > changes[1].version.v + 3_000_000_000);
}

pub(super) async fn cascades_are_captured(place: Place) {
    let schema = "CREATE TABLE parents (tenant text NOT NULL, id bigint PRIMARY KEY);
        CREATE TABLE children (tenant text NOT NULL, id bigint PRIMARY KEY, parent bigint
            REFERENCES parents (id) ON DELETE CASCADE ON UPDATE CASCADE)";
    let tables = ["parents", "children"].map(|name| table(name, Some("tenant"), &["id"], Writers::Primary));
    let shard = place.shard("eu", schema, &tables).await;
    let mut direct = place.direct(&shard, "acme").await;
    direct.ok("INSERT INTO parents VALUES ('acme', 1); INSERT INTO children VALUES ('acme', 7, 1)").await;
    direct.ok("UPDATE parents SET id = 2").await;
    direct.ok("DELETE FROM parents").await;
    let mut told = told(&shard.store).await;
    let last = told.split_off(told.len() - 2);
    assert!(
        last.contains(&"parents [2] gone".to_owned()) && last.contains(&"children [7] gone".to_owned()),
        "{last:?}"
    );
    let moved: Vec<_> = told.iter().filter(|text| text.starts_with("children [7]")).collect();
    assert_eq!(moved.len(), 2, "{told:?}");
    assert!(moved[1].contains("\"parent\":2"), "{told:?}");
    assert!(told.contains(&"parents [1] gone".to_owned()));
}

pub(super) async fn moved_keys_are_two_rows(place: Place) {
    let shard = notes_shard(&place, "eu").await;
    let mut direct = place.direct(&shard, "acme").await;
    direct.ok("INSERT INTO notes VALUES ('acme', 1, 'one')").await;
    direct.ok("UPDATE notes SET id = 2").await;
    let changes = changes(&shard.store).await;
    let keys: Vec<_> =
        changes.iter().map(|change| (change.id.key.replace(' ', ""), change.row.is_some())).collect();
    let key = |id: u8| format!("[\"acme\",{id}]");
    assert_eq!(keys, [(key(1), true), (key(1), false), (key(2), true)]);
    assert_eq!(all(&shard.store).await.last().unwrap().records.last().unwrap().position.epoch, Epoch(1));
}

pub(super) async fn emptied_and_replaced_tables_are_captured(place: Place) {
    let schema = "CREATE TABLE names (tenant text NOT NULL, id bigint PRIMARY KEY, name text UNIQUE)";
    let shard = place.shard("eu", schema, &[table("names", Some("tenant"), &["id"], Writers::Primary)]).await;
    let mut direct = place.direct(&shard, "acme").await;
    direct.ok("INSERT INTO names VALUES ('acme', 1, 'a'), ('acme', 2, 'b')").await;
    if place.is_sqlite() {
        // Takes the key of one row and the name of another: both go.
        direct.ok("INSERT OR REPLACE INTO names VALUES ('acme', 1, 'b')").await;
        let told = told(&shard.store).await;
        assert_eq!(told[2..].iter().filter(|text| text.ends_with("gone")).count(), 2, "{told:?}");
        assert!(told.last().unwrap().ends_with(r#"{"tenant":"acme","id":1,"name":"b"}"#));
        direct.ok("INSERT OR IGNORE INTO names VALUES ('acme', 3, 'b')").await;
        direct.ok("UPDATE OR REPLACE names SET name = 'c'; DELETE FROM names").await;
        assert_eq!(self::told(&shard.store).await.len(), told.len() + 2);
        // A name that is no tenant's is refused, however the statement wants its conflicts solved.
        direct.refused("INSERT OR IGNORE INTO names VALUES ('No Tenant', 4, 'd')").await;
        // Who would lose deletions is refused.
        let mut careless = Direct::sqlite(&direct_path(&shard), false).await;
        let error = careless.refused("INSERT OR REPLACE INTO names VALUES ('acme', 9, 'x')").await;
        assert!(error.to_string().contains("recursive_triggers"), "{error}");
    } else {
        assert!(matches!(direct.refused("TRUNCATE names").await, Error::Rejected(_)));
        let mut other = place.direct(&shard, "bolt").await;
        other.ok("INSERT INTO names VALUES ('bolt', 3, 'c')").await;
        direct.refused("INSERT INTO names VALUES ('No Tenant', 4, 'd')").await;
        let mut owner = Direct::Postgres(place.cluster().connect("own", &shard_name(&shard)).await);
        owner.ok("TRUNCATE names").await;
        let told = told(&shard.store).await;
        assert_eq!(told[3..], ["names [1] gone", "names [2] gone", "names [3] gone"], "{told:?}");
    }
}

fn direct_path(shard: &Shard) -> String {
    match &shard.engine {
        crate::Engine::Sqlite(path) => path.display().to_string(),
        crate::Engine::Postgres(_) => unreachable!(),
    }
}

fn shard_name(shard: &Shard) -> String {
    match &shard.engine {
        crate::Engine::Sqlite(_) => unreachable!(),
        crate::Engine::Postgres(config) => {
            config.owner.rsplit('/').find_map(|part| part.split_once("?host=")).unwrap().0.to_owned()
        }
    }
}

pub(super) async fn generated_columns_stay_out(place: Place) {
    let stored = "tenant text NOT NULL, id bigint PRIMARY KEY, n bigint, twice bigint GENERATED ALWAYS AS (n * 2) STORED";
    let schema = format!("CREATE TABLE sums ({stored})");
    let sums = table("sums", Some("tenant"), &["id"], Writers::Primary);
    let (shard, replica) = (
        place.shard("eu", &schema, std::slice::from_ref(&sums)).await,
        place.replica("us", &schema, &[sums]).await,
    );
    let mut direct = place.direct(&shard, "acme").await;
    direct.ok("INSERT INTO sums (tenant, id, n) VALUES ('acme', 1, 21)").await;
    let changes = changes(&shard.store).await;
    assert!(!changes[0].row.as_ref().unwrap().contains("twice"), "{changes:?}");
    super::applying::follow(&shard.store, &replica.store).await;
    let sql = "SELECT CAST(twice AS text) FROM sums";
    assert_eq!(place.admin(&replica).await.texts(sql).await, ["42"]);
}

pub(super) async fn large_values_stay_whole(place: Place) {
    let (shard, replica) = (notes_shard(&place, "eu").await, place.replica("us", NOTES, &[notes()]).await);
    let mut direct = place.direct(&shard, "acme").await;
    // Kept out of line in PostgreSQL, in overflow pages in SQLite; hard to compress.
    let large: String = (0..60_000_u64)
        .map(|at| char::from(b'a' + u8::try_from(portolan_core::balance::splitmix(at) % 26).unwrap()))
        .collect();
    direct.ok(&format!("INSERT INTO notes VALUES ('acme', 1, '{large}')")).await;
    direct.ok("UPDATE notes SET id = 2").await;
    super::applying::follow(&shard.store, &replica.store).await;
    let there = place.admin(&replica).await.texts("SELECT body FROM notes WHERE id = 2").await;
    assert!(there == [large], "the value was lost");
    // A batch takes a row that is larger than it wants, and no more.
    let limits = Limits { bytes: 10, records: 100 };
    let batch = shard.store.read(Position::START, limits).await.unwrap();
    assert_eq!(batch.records.len(), 1);
    // The next is a deletion, and the one after it is large again.
    for (bytes, fit) in [(10, 1), (59_999, 1), (100_000, 2)] {
        let batch = shard.store.read(batch.through, Limits { bytes, records: 100 }).await.unwrap();
        assert_eq!(batch.records.len(), fit, "{bytes}");
    }
}

pub(super) async fn tables_of_like_names_are_captured_each(place: Place) {
    let (mut schema, mut tables) = (Vec::new(), Vec::new());
    for name in ["notes", "notes_before", "before_notes", "insert_notes"] {
        schema.push(NOTES.replacen("notes", name, 1));
        tables.push(table(name, Some("tenant"), &["tenant", "id"], Writers::Primary));
    }
    let shard = place.shard("eu", &schema.join(";"), &tables).await;
    let mut direct = place.direct(&shard, "acme").await;
    for table in &tables {
        direct.ok(&format!("INSERT INTO {} VALUES ('acme', 1, 'one')", table.name)).await;
    }
    let seen: Vec<_> = changes(&shard.store).await.into_iter().map(|change| change.id.table).collect();
    assert_eq!(seen, tables.iter().map(|table| table.name.to_string()).collect::<Vec<_>>());
    shard.store.demote(Epoch(1), Duration::from_secs(1)).await.unwrap();
    let mut direct = place.direct(&shard, "acme").await;
    for table in &tables {
        let error = direct.refused(&format!("DELETE FROM {}", table.name)).await;
        assert!(matches!(error, Error::Closed(crate::Closed::Expired)), "{}: {error:?}", table.name);
    }
}

pub(super) async fn rows_that_were_there_before_are_adopted(place: Place) {
    let shard = place.shard("eu", NOTES, &[]).await;
    let mut admin = place.admin(&shard).await;
    admin.ok("INSERT INTO notes VALUES ('acme', 1, 'old')").await;
    shard.store.declare(&Tables::new(vec![notes()]).unwrap(), 2).await.unwrap();
    let mut direct = place.direct(&shard, "acme").await;
    direct.ok("UPDATE notes SET body = 'new'").await;
    let changes = changes(&shard.store).await;
    let replaced = changes[0].replaces.as_ref().unwrap();
    assert_eq!((changes.len(), replaced.v, replaced.epoch), (1, 0, Epoch(0)));
    // Who is no longer declared is no longer captured.
    shard.store.declare(&Tables::default(), 3).await.unwrap();
    admin.ok("UPDATE notes SET body = 'newer'").await;
    assert_eq!(self::changes(&shard.store).await, changes);
    // Nor is it told to who begins: that its row is gone would be a lie.
    assert_eq!(shard.store.rows(None, None, 9).await.unwrap(), []);
}

pub(super) async fn tables_must_be_as_they_are_declared(place: Place) {
    let shard = place.shard("eu", NOTES, &[notes()]).await;
    for (wrong, why) in [
        (table("other", Some("tenant"), &["id"], Writers::Primary), "is not there"),
        (table("notes", Some("tenant"), &["id"], Writers::Primary), "primary key"),
        (table("notes", Some("body"), &["tenant", "id"], Writers::Primary), "NOT NULL"),
    ] {
        let error = shard.store.declare(&Tables::new(vec![wrong]).unwrap(), 2).await.unwrap_err();
        assert!(matches!(&error, Error::Table { reason, .. } if reason.contains(why)), "{error}");
    }
    let error = shard.store.declare(&Tables::default(), 0).await.unwrap_err();
    assert!(matches!(error, Error::Damaged(_)), "a gateway with an older schema: {error:?}");
    // What was declared before still holds.
    let mut direct = place.direct(&shard, "acme").await;
    direct.ok("INSERT INTO notes VALUES ('acme', 1, 'one')").await;
    assert_eq!(changes(&shard.store).await.len(), 1);
    // A column that came without a declaration: SQLite's triggers would not know it, and refuse.
    place.admin(&shard).await.ok("ALTER TABLE notes ADD COLUMN extra text").await;
    let insert = "INSERT INTO notes (tenant, id, extra) VALUES ('acme', 2, 'more')";
    if place.is_sqlite() {
        let error = direct.refused(insert).await;
        assert!(error.to_string().contains("columns of notes have changed"), "{error}");
        shard.store.declare(&Tables::new(vec![notes()]).unwrap(), 2).await.unwrap();
    }
    direct.ok(insert).await;
    let last = changes(&shard.store).await.pop().unwrap();
    assert!(last.row.unwrap().contains("more"));
}

pub(super) async fn triggers_are_made_when_they_must_be(place: Place) {
    let shard = place.shard("eu", NOTES, &[notes()]).await;
    let mut direct = place.direct(&shard, "acme").await;
    let again = async || shard.store.declare(&Tables::new(vec![notes()]).unwrap(), 1).await;
    if !place.is_sqlite() {
        // A reader that stays does not keep gateways from starting, since nothing is made anew.
        direct.ok("BEGIN; SELECT count(*) FROM notes").await;
        again().await.unwrap();
        direct.ok("COMMIT").await;
    }
    // Somebody took one away.
    let drop = if place.is_sqlite() {
        "DROP TRIGGER portolan_insert_notes"
    } else {
        "DROP TRIGGER portolan_capture ON notes"
    };
    place.admin(&shard).await.ok(drop).await;
    direct.ok("INSERT INTO notes VALUES ('acme', 1, 'unseen')").await;
    again().await.unwrap();
    direct.ok("INSERT INTO notes VALUES ('acme', 2, 'seen')").await;
    assert_eq!(changes(&shard.store).await.len(), 1);
    // Gateways that start together.
    let mut together = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let engine = shard.engine.clone();
        together.spawn(async move {
            let store = Store::open(&engine, portolan_core::ids::RegionName::new("eu").unwrap()).await?;
            store.declare(&Tables::new(vec![notes()]).unwrap(), 1).await
        });
    }
    for done in together.join_all().await {
        done.unwrap();
    }
}

pub(super) async fn statements_outlive_a_change_of_columns(place: Place) {
    let shard = notes_shard(&place, "eu").await;
    place.direct(&shard, "acme").await.ok("INSERT INTO notes VALUES ('acme', 1, 'one')").await;
    let acme = portolan_core::ids::TenantName::new("acme").unwrap();
    let look = async || {
        let mut look = shard.store.look(&acme).await?;
        look.fetch("SELECT * FROM notes WHERE tenant = 'acme'", &[]).await
    };
    assert_eq!(look().await.unwrap()[0].0.len(), 3);
    // Keeps its connection, and what that one has prepared.
    let mut kept = shard.store.acquire(crate::store::Role::Writer).await.unwrap();
    let select = "SELECT * FROM notes";
    kept.fetch(select, &[]).await.unwrap();
    let mut migration = shard.store.maintain().await.unwrap();
    migration.execute("ALTER TABLE notes ADD COLUMN more text DEFAULT 'x'", &[]).await.unwrap();
    migration.finish().await.unwrap();
    shard.store.declare(&Tables::new(vec![notes()]).unwrap(), 2).await.unwrap();
    // The others' connections have prepared it too.
    let mut rows = look().await;
    while let (Err(Error::Busy(_)), false) = (&rows, place.is_sqlite()) {
        rows = look().await;
    }
    assert_eq!(rows.unwrap()[0].0.len(), 4);
    match kept.fetch(select, &[]).await {
        Err(Error::Busy(_)) if !place.is_sqlite() => {}
        rows => assert!(rows.is_ok(), "{rows:?}"),
    }
    let rows = kept.fetch(select, &[]).await.unwrap();
    assert!(rows.iter().all(|row| row.0.len() == 4));
}

pub(super) async fn values_have_one_text(place: Place) {
    let kinds = table("kinds", Some("tenant"), &["tenant", "id"], Writers::Primary);
    let sqlite = "CREATE TABLE kinds (tenant text NOT NULL, id, value, PRIMARY KEY (tenant, id))";
    let postgres = "CREATE TABLE kinds (tenant text NOT NULL, id numeric NOT NULL, at timestamptz, doc jsonb, amount numeric(12, 3),
        bytes bytea, span interval, real double precision, list text[], day date, yes boolean, PRIMARY KEY (tenant, id))";
    let schema = if place.is_sqlite() { sqlite } else { postgres };
    let (shard, replica) = (
        place.shard("eu", schema, std::slice::from_ref(&kinds)).await,
        place.replica("us", schema, &[kinds]).await,
    );
    let mut direct = place.direct(&shard, "acme").await;
    let all = if place.is_sqlite() {
        for (id, value) in [
            ("1", "9223372036854775807"),
            ("2", "0.1"),
            ("3", "1e300"),
            ("4", "9e999"),
            ("5", "-9e999"),
            ("6", "x'00ff'"),
            ("7", "'{\"a\": 1}'"),
            ("8", "'quote '' \" \\ ' || char(10) || char(0) || 'end'"),
            ("9", "NULL"),
            ("10", "2.0"),
            ("x'beef'", "1.0000000000000002"),
            ("0.1", "-9223372036854775808"),
            ("'\"key\"'", "''"),
        ] {
            direct.ok(&format!("INSERT INTO kinds VALUES ('acme', {id}, {value})")).await;
        }
        for at in 0..500_u64 {
            let real = f64::from_bits(portolan_core::balance::splitmix(at));
            if real.is_finite() {
                direct
                    .bind(
                        "INSERT INTO kinds VALUES ('acme', $1, $2)",
                        i64::try_from(1_000 + at).unwrap(),
                        real,
                    )
                    .await;
            }
        }
        "SELECT typeof(id) || quote(id) || typeof(value) || quote(value) || coalesce(hex(value), '') FROM kinds ORDER BY id"
    } else {
        // Sessions write their texts as they like; the log does not.
        direct.ok("SET timezone = 'Asia/Kolkata'; SET datestyle = 'German'; SET intervalstyle = 'postgres_verbose';
            SET bytea_output = 'escape'; SET extra_float_digits = -10").await;
        direct.ok(r#"INSERT INTO kinds VALUES ('acme', 1.50, '2026-02-03 04:05:06.789012+00', '{"b": 1.10, "a": [1, null]}', 12.5,
            '\x00ff', '1 month 2 days 3 hours', 0.1, '{a,"b c",NULL}', '2026-02-03', true)"#).await;
        direct.ok("INSERT INTO kinds (tenant, id, real, at) VALUES ('acme', 123456789012345678901234567890.5, 'Infinity', 'infinity')").await;
        direct.ok("INSERT INTO kinds (tenant, id, real) VALUES ('acme', 'NaN', 'NaN')").await;
        let first = changes(&shard.store).await.remove(0);
        assert_eq!(first.id.key, r#"["acme", 1.50]"#);
        let row = first.row.unwrap();
        for part in [
            r#""at": "2026-02-03T04:05:06.789012+00:00""#,
            r#""doc": {"a": [1, null], "b": 1.10}"#,
            r#""amount": 12.500"#,
            r#""bytes": "\\x00ff""#,
            r#""span": "P1M2DT3H""#,
            r#""real": 0.1"#,
            r#""list": ["a", "b c", null]"#,
            r#""day": "2026-02-03""#,
        ] {
            assert!(row.contains(part), "{part} is not in {row}");
        }
        "SELECT kinds::text FROM kinds ORDER BY id"
    };
    super::applying::follow(&shard.store, &replica.store).await;
    let (here, there) =
        (place.admin(&shard).await.texts(all).await, place.admin(&replica).await.texts(all).await);
    assert_eq!(here, there);
    // And deleted by the same keys.
    direct.ok("DELETE FROM kinds").await;
    super::applying::follow(&shard.store, &replica.store).await;
    assert!(place.admin(&replica).await.texts(all).await.is_empty());
}

pub(super) async fn a_full_disk_is_an_error_and_nothing_else(place: Place) {
    let shard = notes_shard(&place, "eu").await;
    if !place.is_sqlite() {
        return;
    }
    let mut direct = place.direct(&shard, "acme").await;
    direct.ok("PRAGMA max_page_count = 60").await;
    let mut written = 0;
    let error = loop {
        let insert = format!("INSERT INTO notes VALUES ('acme', {written}, '{}')", "x".repeat(9_000));
        match direct.run(&insert).await {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 1_000);
    };
    assert!(matches!(error, Error::Away(_)), "{error:?}");
    // Rows and records fit each other.
    assert_eq!(changes(&shard.store).await.len(), written);
    assert_eq!(place.admin(&shard).await.texts("SELECT body FROM notes").await.len(), written);
}
