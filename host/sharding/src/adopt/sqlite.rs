//! What is looked at in a file of SQLite.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use portolan_changelog::Error;
use portolan_changelog::defaults::SQLITE_VERSION_MIN;
use portolan_core::tenant_table::{Tables, TenantTable};

use super::network::network;
use super::{Look, Severity, plain};

pub(super) async fn look(look: &mut Look, path: &Path, tables: &Tables) -> Result<(), Error> {
    place(look, path);
    file(look).await?;
    for table in tables.iter() {
        if relation(look, table).await? {
            columns(look, table).await?;
            indexes(look, table).await?;
            references(look, table, tables).await?;
        }
    }
    Ok(())
}

fn place(look: &mut Look, path: &Path) {
    if let Some(kind) = network(path) {
        look.found(
            Severity::Refuse,
            "network-file-system",
            None,
            format!("the file lies on {kind}"),
            "SQLite's write-ahead log is memory that all its users share, on one machine",
            "put the file on a disk of this machine",
        );
    }
    let names = std::fs::metadata(path).map_or(1, |meta| meta.nlink());
    if names > 1 || path.is_symlink() {
        look.found(
            Severity::Refuse,
            "file-names",
            None,
            "the file has more than one name",
            "who opens it by another name has another write-ahead log, and damages it",
            "leave it one name, and no symbolic link",
        );
    }
}

async fn file(look: &mut Look) -> Result<(), Error> {
    if let Some(damage) =
        look.text("SELECT quick_check FROM pragma_quick_check WHERE quick_check <> 'ok' LIMIT 1").await?
    {
        look.found(
            Severity::Refuse,
            "damaged",
            None,
            format!("the file is damaged: {damage}"),
            "damage would be copied",
            "restore it from a backup, or take what `.recover` gives",
        );
    }
    let encoding = look.text("SELECT encoding FROM pragma_encoding").await?.unwrap_or_default();
    if encoding != "UTF-8" {
        look.found(
            Severity::Refuse,
            "encoding",
            None,
            format!("the file's encoding is {encoding}"),
            "rows travel as JSON, and sizes are counted in UTF-8",
            "dump it into a file with PRAGMA encoding = 'UTF-8'",
        );
    }
    let journal = look.text("SELECT journal_mode FROM pragma_journal_mode").await?.unwrap_or_default();
    // A file that is looked at without locks says `off`.
    if !matches!(journal.as_str(), "wal" | "off") {
        look.found(
            Severity::Note,
            "journal-mode",
            None,
            format!("its journal mode is {journal}"),
            "portolan sets WAL, which stays: readers and a writer do not wait for each other, and two files lie beside it",
            "let backups copy it by SQLite's own means alone",
        );
    }
    let dangling = look.count("SELECT count(*) FROM pragma_foreign_key_check").await?;
    if dangling > 0 {
        look.found(
            Severity::Warn,
            "dangling-references",
            None,
            format!("{dangling} rows refer to rows that are not there"),
            "portolan keeps references: followers do not take such rows",
            "correct them; PRAGMA foreign_key_check names them",
        );
    }
    let (major, minor, patch) = SQLITE_VERSION_MIN;
    look.found(
        Severity::Note,
        "direct-writers",
        None,
        "applications that open the file themselves bring a library and settings of their own, which nobody sees from here",
        "a writer without recursive triggers is refused, since what REPLACE deletes would be lost",
        format!(
            "let each connection say PRAGMA recursive_triggers = ON, foreign_keys = ON, synchronous = FULL, and a busy_timeout; \
             use SQLite {major}.{minor}.{patch} or later"
        ),
    );
    Ok(())
}

/// Is it a table? Returns whether it is.
async fn relation(look: &mut Look, table: &TenantTable) -> Result<bool, Error> {
    let sql = "SELECT type, wr FROM pragma_table_list WHERE schema = 'main' AND name = $1";
    let rows = look.inspection.fetch(sql, &[table.name.as_str().into()]).await?;
    let Some(row) = rows.first() else {
        look.missing(table);
        return Ok(false);
    };
    if row.text(0)? != "table" {
        look.found(
            Severity::Refuse,
            "no-table",
            Some(table),
            format!("it is a {} table, or a view", row.text(0)?),
            "only a table's own rows can be captured",
            "declare the tables below it",
        );
        return Ok(false);
    }
    if row.number(1)? == 1 {
        look.found(
            Severity::Note,
            "without-rowid",
            Some(table),
            "it is WITHOUT ROWID",
            "that is fine: rows are known by their keys",
            "nothing",
        );
    }
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = $1 AND name NOT GLOB 'portolan_*' ORDER BY 1";
    let triggers = look.names(sql, table).await?;
    look.triggers(table, &triggers);
    Ok(true)
}

async fn columns(look: &mut Look, table: &TenantTable) -> Result<(), Error> {
    let sql = "SELECT name, upper(type), \"notnull\", pk FROM pragma_table_xinfo($1) ORDER BY pk, cid";
    let rows = look.inspection.fetch(sql, &[table.name.as_str().into()]).await?;
    let (mut key, mut tenant) = (Vec::new(), None);
    for row in &rows {
        let name = row.text(0)?;
        if !plain(&name) {
            look.found(
                Severity::Refuse,
                "column-name",
                Some(table),
                format!("it has the column `{name}`"),
                "names of columns go into triggers",
                "use letters, digits and `_`",
            );
        }
        if row.number(3)? > 0 {
            key.push((name.clone(), row.text(1)?));
        }
        if table.tenant.as_ref().is_some_and(|tenant| tenant.as_str() == name) {
            tenant = Some(row.number(2)? > 0);
        }
    }
    let names: Vec<String> = key.iter().map(|(name, _)| name.clone()).collect();
    look.key(table, &names);
    if let [(name, kind)] = key.as_slice()
        && kind == "INTEGER"
    {
        look.found(
            Severity::Warn,
            "sequence",
            Some(table),
            format!("`{name}` is a number that SQLite draws"),
            "who becomes primary draws numbers again that are taken where it has not yet followed",
            "use UUIDs, or let the key begin with the tenant and number within it",
        );
    }
    nulls(look, table, &names).await?;
    tenant_column(look, table, tenant).await
}

/// SQLite lets keys be NULL.
async fn nulls(look: &mut Look, table: &TenantTable, key: &[String]) -> Result<(), Error> {
    if key.is_empty() {
        return Ok(());
    }
    let null: Vec<String> = key.iter().map(|column| format!("\"{column}\" IS NULL")).collect();
    let rows =
        look.count(&format!("SELECT count(*) FROM \"{}\" WHERE {}", table.name, null.join(" OR "))).await?;
    if rows > 0 {
        look.found(
            Severity::Refuse,
            "key-null",
            Some(table),
            format!("{rows} rows have NULL in their keys"),
            "rows are known by their keys, and NULL is equal to nothing",
            "give them keys, and declare the columns NOT NULL",
        );
    }
    Ok(())
}

async fn tenant_column(look: &mut Look, table: &TenantTable, not_null: Option<bool>) -> Result<(), Error> {
    let Some(tenant) = &table.tenant else { return Ok(()) };
    match not_null {
        None => {
            look.found(
                Severity::Refuse,
                "tenant-missing",
                Some(table),
                format!("it has no column `{tenant}`"),
                "its rows would be nobody's",
                "add the column and fill it, or declare a reference table",
            );
            return Ok(());
        }
        Some(false) => look.found(
            Severity::Refuse,
            "tenant-nullable",
            Some(table),
            format!("`{tenant}` may be NULL"),
            "its rows would be nobody's",
            "make the table anew with the column NOT NULL",
        ),
        Some(true) => {}
    }
    look.tenant_values(table).await
}

async fn indexes(look: &mut Look, table: &TenantTable) -> Result<(), Error> {
    let sql = "SELECT DISTINCT x.name FROM pragma_index_list($1) l, pragma_index_xinfo(l.name) x \
        WHERE l.origin = 'pk' AND x.key = 1 AND x.coll <> 'BINARY'";
    let names = look.names(sql, table).await?;
    if !names.is_empty() {
        look.found(
            Severity::Refuse,
            "key-collation",
            Some(table),
            format!("collations of its key take different texts for one: {}", names.join(", ")),
            "rows are known by the text of their keys",
            "let the key's columns compare as BINARY",
        );
    }
    let Some(tenant) = &table.tenant else { return Ok(()) };
    let sql = format!(
        "SELECT l.name FROM pragma_index_list($1) l WHERE l.\"unique\" = 1 AND l.origin <> 'pk' \
         AND NOT EXISTS (SELECT 1 FROM pragma_index_info(l.name) i WHERE i.name = '{tenant}') ORDER BY 1"
    );
    let unique = look.names(&sql, table).await?;
    look.unique_over_tenants(table, &unique);
    Ok(())
}

async fn references(look: &mut Look, table: &TenantTable, tables: &Tables) -> Result<(), Error> {
    let sql = "SELECT 'to ' || \"table\" || ' ON DELETE ' || on_delete || ' ON UPDATE ' || on_update FROM pragma_foreign_key_list($1) \
        WHERE seq = 0 AND (on_delete IN ('CASCADE', 'SET NULL', 'SET DEFAULT') OR on_update IN ('CASCADE', 'SET NULL', 'SET DEFAULT')) \
        ORDER BY 1";
    let cascades = look.names(sql, table).await?;
    look.cascades(table, &cascades);
    let sql = "SELECT DISTINCT \"table\" FROM pragma_foreign_key_list($1) WHERE \"table\" <> $1 ORDER BY 1";
    for parent in look.names(sql, table).await? {
        reference(look, table, tables, &parent);
    }
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name = $1 AND sql LIKE '%INITIALLY%DEFERRED%'";
    if !look.names(sql, table).await?.is_empty() {
        look.found(
            Severity::Refuse,
            "deferred",
            Some(table),
            "it has a reference that is INITIALLY DEFERRED",
            "it would fail when a follower commits, and then no single change could wait for it",
            "let it be checked at once",
        );
    }
    Ok(())
}

/// A reference to another table: rows are put in the order in which tables are declared.
pub(super) fn reference(look: &mut Look, table: &TenantTable, tables: &Tables, parent: &str) {
    let place = |name: &str| tables.iter().position(|table| table.name.as_str() == name);
    match (place(parent), place(table.name.as_str())) {
        (None, _) => look.found(
            Severity::Refuse,
            "reference-undeclared",
            Some(table),
            format!("it refers to `{parent}`, which is not declared"),
            "other regions and shards have other rows there, or none, and do not take this table's rows then",
            format!("declare `{parent}` too, if need be as a reference table, or drop the reference"),
        ),
        (Some(parent_at), Some(at)) if parent_at > at => look.found(
            Severity::Warn,
            "reference-order",
            Some(table),
            format!("it refers to `{parent}`, which is declared after it"),
            "rows are put in the order of declarations: each batch is taken row by row then, which is slow",
            format!("declare `{parent}` before it"),
        ),
        _ => {}
    }
}
