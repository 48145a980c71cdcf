//! A shard in a file of SQLite: how it is opened, and the triggers that capture and fence.
//!
//! SQLite has one writer at a time, so that sequences follow commits. It numbers no transactions: the fence's row has a
//! number, which each of the gateway's transactions and each reader that wants an end moves on. What direct writers wrote
//! between two such moves counts as one transaction.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use portolan_core::tenant_table::TenantTable;
use sqlx::ConnectOptions as _;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

use crate::database::{Pool, SQLITE_NOW, Session, Value};
use crate::defaults::{
    ANSWER_TIMEOUT, CONNECTIONS_MAX, KEEPER_LOCK, KEEPER_STATEMENT, SQLITE_BUSY, SQLITE_VERSION_MIN,
    STATEMENTS_MAX,
};
use crate::error::Error;
use crate::marks::{self, Event};
use crate::table::{Catalogue, Declared};

const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "create shard", include_str!("../../../migrations/shard/sqlite/0001_create_shard.sql")),
    (2, "create content", include_str!("../../../migrations/shard/sqlite/0002_create_content.sql")),
    (3, "follow content", include_str!("../../../migrations/shard/sqlite/0003_follow_content.sql")),
    (4, "add resolutions", include_str!("../../../migrations/shard/sqlite/0004_add_resolutions.sql")),
    (
        5,
        "share between tenants",
        include_str!("../../../migrations/shard/sqlite/0005_share_between_tenants.sql"),
    ),
];

pub(crate) fn migrator(migrations: &'static [(i64, &'static str, &'static str)]) -> Migrator {
    let migration = |(version, name, sql): &(i64, &'static str, &'static str)| {
        Migration::new(*version, (*name).into(), MigrationType::Simple, sqlx::SqlStr::from_static(sql), false)
    };
    Migrator::with_migrations(migrations.iter().map(migration).collect())
}

/// Connections to the file.
#[derive(Debug)]
pub(crate) struct Files {
    /// One of the lease's keeper alone, so that nobody's work stands in its way.
    pub(crate) keeper: Pool,
    pub(crate) pool: Pool,
}

/// Opens the file, brings portolan's tables up to date, and looks whether it is the file that it was.
pub(crate) async fn open(path: &Path) -> Result<Files, Error> {
    let at = |error: &dyn std::fmt::Display| Error::Away(format!("open {}: {error}", path.display()));
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .pragma("recursive_triggers", "ON")
        .busy_timeout(SQLITE_BUSY)
        .disable_statement_logging();
    let keeper = options.clone().busy_timeout(KEEPER_LOCK);
    let pool: SqlitePool = SqlitePoolOptions::new()
        .max_connections(CONNECTIONS_MAX)
        .acquire_timeout(ANSWER_TIMEOUT)
        .connect_with(options.statement_cache_capacity(STATEMENTS_MAX))
        .await
        .map_err(|error| at(&error))?;
    let sqlite = Pool::sqlite(pool.clone());
    check(&mut sqlite.acquire().await?).await?;
    migrator(MIGRATIONS).run(&pool).await.map_err(|error| at(&error))?;
    // A copy of the file is another file: what was written since it was made is not in it.
    let file = std::fs::metadata(path).map_err(|error| at(&error))?.ino().to_string();
    let mut session = sqlite.begin().await?;
    // Whoever made the first incarnation did not know the file's number: it is told once.
    session
        .execute(
            "UPDATE portolan_fence SET \
             cut = CASE WHEN instr(system, '-') AND system NOT LIKE '%-' || $1 THEN 1 ELSE cut END, \
             system = CASE WHEN instr(system, '-') THEN system ELSE system || '-' || $1 END",
            &[Value::Text(file)],
        )
        .await?;
    session.commit().await?;
    let keeper = SqlitePoolOptions::new()
        .max_connections(1)
        .acquire_timeout(KEEPER_STATEMENT)
        .connect_lazy_with(keeper);
    Ok(Files { keeper: Pool::sqlite(keeper).waits(KEEPER_STATEMENT), pool: sqlite })
}

/// Opens the file to look at it. When nobody uses it, nothing is locked, and no file is made beside it.
pub(crate) async fn look(path: &Path, quiet: bool) -> Result<Pool, Error> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .read_only(true)
        .immutable(quiet)
        .busy_timeout(SQLITE_BUSY)
        .disable_statement_logging();
    let pool = SqlitePoolOptions::new().max_connections(1).acquire_timeout(ANSWER_TIMEOUT);
    let pool = pool.connect_with(options).await;
    pool.map(Pool::sqlite).map_err(|error| Error::Away(format!("open {}: {error}", path.display())))
}

/// The library and each setting that safety rests on, as they are, not as they were asked for.
async fn check(session: &mut Session) -> Result<(), Error> {
    let text = session.one("SELECT sqlite_version()", &[]).await?.text(0)?;
    let mut numbers = text.split('.').map(|number| number.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    if (next(), next(), next()) < SQLITE_VERSION_MIN {
        return Err(Error::Damaged(format!(
            "SQLite {text} can lose committed pages; 3.51.3 is the first that does not"
        )));
    }
    for (pragma, wanted) in [("synchronous", 2), ("foreign_keys", 1), ("recursive_triggers", 1)] {
        let is = session.one(&format!("PRAGMA {pragma}"), &[]).await?.number(0)?;
        if is != wanted {
            return Err(Error::Damaged(format!("SQLite did not set {pragma} to {wanted}: it is {is}")));
        }
    }
    let journal = session.one("PRAGMA journal_mode", &[]).await?.text(0)?;
    if journal != "wal" {
        return Err(Error::Damaged(format!(
            "SQLite keeps the journal mode {journal}: the file system must allow WAL"
        )));
    }
    Ok(())
}

/// The identity's part that belongs to this file, drawn anew.
pub(crate) fn place(path: &Path) -> Result<String, Error> {
    let meta = std::fs::metadata(path)
        .map_err(|error| Error::Away(format!("look at {}: {error}", path.display())))?;
    Ok(meta.ino().to_string())
}

/// Finds a declared table.
pub(crate) async fn find(session: &mut Session, table: &TenantTable) -> Result<Declared, Error> {
    let rows = session
        .query(
            "SELECT name, pk, \"notnull\", hidden, type FROM pragma_table_xinfo($1) ORDER BY cid",
            &[table.name.as_str().into()],
        )
        .await?;
    let mut found = Catalogue::default();
    for row in &rows {
        let name = row.text(0)?;
        if row.number(1)? > 0 {
            found.key.push(name.clone());
        }
        if row.number(2)? > 0 {
            found.not_null.insert(name.clone());
        }
        let kind = row.text(4)?.to_ascii_lowercase();
        if kind.is_empty() || kind.contains("text") || kind.contains("json") {
            found.arrays.insert(name.clone());
        }
        found.types.insert(name.clone(), kind);
        // 1 is hidden for good, 2 and 3 are generated.
        if row.number(3)? == 0 { found.columns.push(name) } else { found.generated.push(name) }
    }
    // What is deferred fails at commit, and a change that the database does not take could not wait alone.
    let sql =
        "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = $1 AND sql LIKE '%INITIALLY%DEFERRED%'";
    if !session.query(sql, &[table.name.as_str().into()]).await?.is_empty() {
        let reason = "has a reference that is INITIALLY DEFERRED: SQLite's followers need it checked at once";
        return Err(Error::Table { table: table.name.to_string(), reason: reason.to_owned() });
    }
    Declared::check(table, found)
}

/// The statements that make a table's triggers, for the columns that it has.
pub(crate) fn capture(table: &Declared) -> Vec<String> {
    let make =
        |(name, body)| [format!("DROP TRIGGER IF EXISTS {name}"), format!("CREATE TRIGGER {name} {body}")];
    triggers(table).into_iter().flat_map(make).collect()
}

/// The statements that take a table's triggers away.
pub(crate) fn release(table: &str) -> Vec<String> {
    let events = ["insert", "update", "delete"].into_iter();
    let names = events.flat_map(|event| [format!("before_{event}"), event.to_owned()]);
    names.map(|name| format!("DROP TRIGGER IF EXISTS \"portolan_{name}_{table}\"")).collect()
}

/// How many of a table's triggers are there.
pub(crate) const TRIGGERS: (&str, u64) = (
    "SELECT count(*) FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = $1 AND name GLOB 'portolan_*' \
     AND name NOT GLOB 'portolan_guard_*'",
    6,
);

const NOT_APPLYING: &str = "WHEN NOT EXISTS (SELECT 1 FROM portolan_session WHERE applying = 1)";

/// The event stands before the table's name: after it, a table `notes_before` would take away what holds `notes`.
fn triggers(table: &Declared) -> Vec<(String, String)> {
    let name = &table.table.name;
    let on = table.name(crate::database::Dialect::Sqlite);
    let mut triggers = Vec::new();
    for (event, rows) in [("INSERT", ["NEW"].as_slice()), ("UPDATE", &["OLD", "NEW"]), ("DELETE", &["OLD"])] {
        let lower = event.to_ascii_lowercase();
        let mut tests: String = rows.iter().map(|row| tenant_tests(table, row)).collect();
        match event {
            "INSERT" => tests += &marks::tests(table, Event::Insert),
            "UPDATE" => tests += &marks::tests(table, Event::Update),
            _ => {}
        }
        triggers.push((
            format!("portolan_before_{lower}_{name}"),
            format!("BEFORE {event} ON {on} {NOT_APPLYING} BEGIN {}{tests} END", fence_tests(table)),
        ));
        let body = match event {
            "INSERT" => record(table, "NEW", Image::Put { was: "false", event: Event::Insert }, "true"),
            "DELETE" => record(table, "OLD", Image::Gone, "true"),
            _ => update(table),
        };
        triggers.push((
            format!("portolan_{lower}_{name}"),
            format!("AFTER {event} ON {on} {NOT_APPLYING} BEGIN {body} END"),
        ));
    }
    triggers
}

/// The fence, for each row. A fence that is not there is closed. RAISE holds whatever `OR` the outer statement has.
fn fence_tests(table: &Declared) -> String {
    let refuse = |word: &str, open: &str| {
        format!(
            "SELECT RAISE(ABORT, 'portolan:{word}') WHERE NOT EXISTS (SELECT 1 FROM portolan_fence WHERE {open}); "
        )
    };
    let columns = table.columns.len() + table.generated.len();
    let lease = if table.leased() {
        refuse("expired", &format!("deadline_us > {SQLITE_NOW}"))
    } else {
        refuse("member", "member > 0")
    };
    // A connection without recursive triggers would lose what REPLACE deletes; a table that has changed since its triggers were
    // made would lose columns.
    format!(
        "SELECT RAISE(ABORT, 'portolan wants PRAGMA recursive_triggers = ON on this connection') \
         WHERE (SELECT recursive_triggers FROM pragma_recursive_triggers) IS NOT 1; \
         SELECT RAISE(ABORT, 'portolan: the columns of {name} have changed; declare the table again') \
         WHERE (SELECT count(*) FROM pragma_table_xinfo('{name}')) IS NOT {columns}; \
         {}{lease}",
        refuse("cut", "cut = 0"),
        name = table.table.name,
    )
}

fn tenant_tests(table: &Declared, row: &str) -> String {
    let Some(tenant) = &table.table.tenant else { return String::new() };
    let value = format!("{row}.\"{tenant}\"");
    format!(
        "SELECT RAISE(ABORT, 'portolan: this names no tenant') WHERE NOT (typeof({value}) = 'text' \
         AND length({value}) BETWEEN 1 AND 63 AND {value} NOT GLOB '*[^a-z0-9._-]*' \
         AND {value} GLOB '[a-z0-9]*' AND {value} GLOB '*[a-z0-9]'); \
         SELECT RAISE(ABORT, 'portolan:away') FROM portolan_tenant WHERE tenant = {value} AND away = 1; \
         SELECT RAISE(ABORT, 'portolan:held') FROM portolan_tenant WHERE tenant = {value} AND hold IS NOT NULL \
         AND (hold_until_us IS NULL OR hold_until_us > {SQLITE_NOW}); \
         SELECT RAISE(ABORT, 'portolan: the row is of another tenant') FROM portolan_session \
         WHERE tenant IS NOT NULL AND tenant IS NOT {value}; "
    )
}

/// A row under another key or of another tenant is another row. What is not changed is not recorded.
fn update(table: &Declared) -> String {
    let tenant = table.table.tenant.as_ref();
    let moved = tenant.map_or(String::new(), |column| {
        format!(" OR OLD.\"{column}\" COLLATE BINARY IS NOT NEW.\"{column}\"")
    });
    let other = format!("({} IS NOT {}{moved})", table.key("OLD"), table.key("NEW"));
    let changed: Vec<String> = table.columns.iter().map(|column| marks::changed(column)).collect();
    let changed = format!("({})", changed.join(" OR "));
    if table.table.conflict.is_by_version() {
        let put = Image::Put { was: &format!("NOT {other}"), event: Event::Update };
        return record(table, "OLD", Image::Gone, &other) + &record(table, "NEW", put, &changed);
    }
    // What is known beside a row begins anew with another row.
    let insert = Image::Put { was: "false", event: Event::Insert };
    let put = Image::Put { was: "true", event: Event::Update };
    record(table, "OLD", Image::Gone, &other)
        + &record(table, "NEW", insert, &other)
        + &record(table, "NEW", put, &format!("NOT {other} AND {changed}"))
}

/// What a record says of a row.
#[derive(Clone, Copy)]
enum Image<'a> {
    Gone,
    Put {
        /// The condition says whether the row was there before.
        was: &'a str,
        /// To the row's marks.
        event: Event,
    },
}

/// Gives the row its next version, keeps what the table's rule must know, and writes the log record, if the condition holds. A row
/// that was there before and has no version yet had the lowest.
fn record(table: &Declared, row: &str, change: Image<'_>, condition: &str) -> String {
    let name = &table.table.name;
    let key = table.key(row);
    let tenant =
        table.table.tenant.as_ref().map_or_else(|| "NULL".to_owned(), |column| format!("{row}.\"{column}\""));
    let epoch = if table.leased() { "f.epoch" } else { "0" };
    let (kind, image, deleted, was, event) = match change {
        Image::Gone => ("delete", "NULL".to_owned(), 1, "true", Event::Delete),
        Image::Put { was, event } => ("put", table.image(row), 0, was, event),
    };
    let marks = marks::expression(table, event, SQLITE_NOW).map_or_else(String::new, |marks| {
        format!(
            "UPDATE portolan_row SET marks = {marks} WHERE table_name = '{name}' AND key = {key} AND {condition}; "
        )
    });
    format!(
        "INSERT INTO portolan_row (table_name, key, tenant, placement, epoch, v, origin, deleted, round, \
         replaces_epoch, replaces_v, replaces_origin) \
         SELECT '{name}', {key}, {tenant}, \
         coalesce((SELECT placement FROM portolan_tenant WHERE tenant = {tenant}), 0), \
         {epoch}, {SQLITE_NOW}, f.origin, {deleted}, {deleted} * f.round, \
         CASE WHEN {was} THEN 0 END, CASE WHEN {was} THEN 0 END, CASE WHEN {was} THEN f.origin END \
         FROM portolan_fence f WHERE {condition} \
         ON CONFLICT (table_name, key) DO UPDATE SET \
         tenant = excluded.tenant, placement = excluded.placement, epoch = excluded.epoch, \
         v = max(excluded.v, v + 1, coalesce(json_extract(marks, '$.top'), 0) + 1), origin = excluded.origin, deleted = excluded.deleted, \
         round = excluded.round, replaces_epoch = epoch, replaces_v = v, replaces_origin = origin; {marks}\
         INSERT INTO portolan_log (epoch, tx, at_us, tenant, placement, schema, kind, table_name, key, row, \
         version_epoch, v, origin, replaces_epoch, replaces_v, replaces_origin, marks) \
         SELECT f.epoch, f.tx, {SQLITE_NOW}, r.tenant, r.placement, f.schema, '{kind}', r.table_name, r.key, {image}, \
         r.epoch, r.v, r.origin, r.replaces_epoch, r.replaces_v, r.replaces_origin, r.marks \
         FROM portolan_fence f, portolan_row r WHERE r.table_name = '{name}' AND r.key = {key} AND {condition}; "
    )
}
