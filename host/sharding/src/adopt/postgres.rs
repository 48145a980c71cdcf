//! What is looked at in a database of PostgreSQL.

use portolan_changelog::defaults::POSTGRES_VERSION_MIN;
use portolan_changelog::{Capture, Error, PostgresConfig};
use portolan_core::tenant_table::{Tables, TenantTable};

use super::{Look, Severity, plain};

pub(super) async fn look(look: &mut Look, config: &PostgresConfig, tables: &Tables) -> Result<(), Error> {
    settings(look).await?;
    server(look).await?;
    slots(look, config).await?;
    for table in tables.iter() {
        if relation(look, table).await? {
            columns(look, table).await?;
            constraints(look, table, tables).await?;
            rules(look, table).await?;
        }
    }
    Ok(())
}

/// A setting that must not have a value: the value, the code, why, and what to do.
const SETTINGS: &[(&str, &str, &str, &str, &str)] = &[
    (
        "fsync",
        "off",
        "fsync-off",
        "after a power cut, what was committed is gone or damaged, and other regions have it",
        "set fsync = on and restart; if it ever ran without, restore or check the cluster",
    ),
    (
        "full_page_writes",
        "off",
        "full-page-writes-off",
        "a power cut within the write of a page damages it",
        "set full_page_writes = on and reload",
    ),
    (
        "synchronous_commit",
        "off",
        "synchronous-commit-off",
        "a client is told that its transaction is written before it is",
        "set synchronous_commit = on, also for roles and databases",
    ),
    (
        "session_replication_role",
        "replica",
        "replication-role",
        "triggers do not run then, and nothing is captured",
        "set session_replication_role = origin",
    ),
];

async fn settings(look: &mut Look) -> Result<(), Error> {
    for (setting, bad, code, why, advice) in SETTINGS {
        if look.text(&format!("SELECT current_setting('{setting}')")).await?.as_deref() == Some(bad) {
            look.found(Severity::Refuse, code, None, format!("{setting} is {bad}"), why, *advice);
        }
        // What is set for a role or a database holds for its applications alone.
        let sql = format!(
            "SELECT string_agg(coalesce(r.rolname, 'all roles') || ' in ' || coalesce(d.datname, 'all databases'), ', ') \
             FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole LEFT JOIN pg_database d ON d.oid = s.setdatabase \
             WHERE '{setting}={bad}' = ANY (s.setconfig) AND coalesce(d.datname, current_database()) = current_database()"
        );
        if let Some(who) = look.text(&sql).await? {
            look.found(Severity::Refuse, code, None, format!("{setting} is {bad} for {who}"), why, *advice);
        }
    }
    Ok(())
}

/// What a log needs that comes out of the write-ahead log, and slots that nobody reads, whoever left them.
async fn slots(look: &mut Look, config: &PostgresConfig) -> Result<(), Error> {
    let left = "SELECT string_agg(slot_name || ' in ' || database, ', ' ORDER BY slot_name) FROM pg_replication_slots \
        WHERE slot_name ~ '^portolan_' AND NOT active";
    if let Some(names) = look.text(left).await? {
        look.found(
            Severity::Warn,
            "slot-abandoned",
            None,
            format!("nobody reads the slot {names}"),
            "the server keeps its write-ahead log for a slot until the disk is full or `max_slot_wal_keep_size` is reached",
            "start the gateway that has this shard, or drop it with pg_drop_replication_slot",
        );
    }
    if config.capture == Capture::Triggers {
        return Ok(());
    }
    for wrong in look.inspection.lacks_for_decoding(config).await? {
        look.found(
            Severity::Refuse,
            "decoding",
            None,
            "its write-ahead log cannot be decoded",
            "`log = \"logical\"` takes records from there",
            wrong,
        );
    }
    if look.text("SELECT current_setting('max_slot_wal_keep_size')").await?.as_deref() == Some("-1") {
        look.found(
            Severity::Warn,
            "slot-unbounded",
            None,
            "max_slot_wal_keep_size is -1",
            "while no gateway ships, the server keeps its write-ahead log until the disk is full",
            "set max_slot_wal_keep_size to what the disk has to spare: past it, other regions copy rows anew",
        );
    }
    Ok(())
}

async fn server(look: &mut Look) -> Result<(), Error> {
    let version = look.count("SELECT current_setting('server_version_num')::bigint").await?;
    if version < POSTGRES_VERSION_MIN.unsigned_abs() {
        look.found(
            Severity::Refuse,
            "version",
            None,
            format!("the server is PostgreSQL {}", version / 10_000),
            "portolan's functions need version 15",
            "upgrade it",
        );
    }
    let prepared = look.count("SELECT current_setting('max_prepared_transactions')::bigint").await?;
    if prepared > 0 {
        look.found(
            Severity::Refuse,
            "prepared-transactions",
            None,
            format!("max_prepared_transactions is {prepared}"),
            "what is prepared in time could be committed after the lease",
            "set max_prepared_transactions = 0 and restart",
        );
    }
    if look.count("SELECT pg_is_in_recovery()").await? == 1 {
        look.found(
            Severity::Refuse,
            "standby",
            None,
            "this server is a standby",
            "a shard's database is written",
            "name the primary",
        );
    }
    if let Some(encoding) = look.text("SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database() AND pg_encoding_to_char(encoding) <> 'UTF8'").await? {
        look.found(
            Severity::Refuse,
            "encoding",
            None,
            format!("the database's encoding is {encoding}"),
            "rows travel as JSON, which is Unicode",
            "dump it, and restore it into a database with the encoding UTF8",
        );
    }
    if look.count("SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user").await? == 1 {
        look.found(
            Severity::Refuse,
            "owner",
            None,
            "the owner's role is a superuser or exempt from row security",
            "it would write rows of all tenants without being told so",
            "give the tables to a role that is neither",
        );
    }
    let sql = "SELECT string_agg(subname::text, ', ') FROM pg_subscription \
        WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())";
    if let Some(names) = look.text(sql).await? {
        look.found(
            Severity::Refuse,
            "subscription",
            None,
            format!("subscriptions write here: {names}"),
            "what logical replication writes runs no triggers, and is not captured",
            "drop the subscription before the database is adopted",
        );
    }
    replication(look).await
}

async fn replication(look: &mut Look) -> Result<(), Error> {
    let sql = "SELECT string_agg(slot_name::text, ', ') FROM pg_replication_slots WHERE NOT active";
    if let Some(names) = look.text(sql).await? {
        look.found(
            Severity::Warn,
            "idle-slots",
            None,
            format!("replication slots that nobody reads: {names}"),
            "they keep the server's own log, until the disk is full",
            "drop them, or start who reads them",
        );
    }
    if look.text("SELECT current_setting('synchronous_standby_names')").await?.as_deref() == Some("") {
        look.found(
            Severity::Note,
            "no-synchronous-standby",
            None,
            "no standby must have a transaction before its client is told of it",
            "a promotion may lose the last transactions; portolan then closes the database until an epoch begins",
            "name a standby in synchronous_standby_names if that must not be",
        );
    }
    if look.text("SELECT current_setting('data_checksums')").await?.as_deref() == Some("off") {
        look.found(
            Severity::Note,
            "no-checksums",
            None,
            "the cluster keeps no checksums of its pages",
            "damage of the disk is noticed late, and copied",
            "run pg_checksums --enable while it is stopped",
        );
    }
    Ok(())
}

/// Is it a table, and whose? Returns whether it is there.
async fn relation(look: &mut Look, table: &TenantTable) -> Result<bool, Error> {
    let sql = "SELECT c.relkind::text, c.relpersistence::text, c.relispartition, \
        EXISTS (SELECT 1 FROM pg_inherits i WHERE c.oid IN (i.inhparent, i.inhrelid)), c.relowner = current_user::regrole, \
        c.relrowsecurity FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relname = $1";
    let rows = look.inspection.fetch(sql, &[table.name.as_str().into()]).await?;
    let Some(row) = rows.first() else {
        look.missing(table);
        return Ok(false);
    };
    let (kind, persistence) = (row.text(0)?, row.text(1)?);
    if kind == "p" || row.number(2)? == 1 {
        look.found(
            Severity::Refuse,
            "partitioned",
            Some(table),
            "it is partitioned, or a partition",
            "rows move between partitions without being written as the one table that is declared",
            "use a plain table",
        );
    } else if row.number(3)? == 1 {
        look.found(
            Severity::Refuse,
            "inherited",
            Some(table),
            "it inherits, or is inherited from",
            "rows of its children would seem to be its own, and are not captured",
            "use plain tables",
        );
    } else if kind != "r" {
        look.found(
            Severity::Refuse,
            "no-table",
            Some(table),
            "it is a view, or a table of another server",
            "only a table's own rows can be captured",
            "declare the tables below it",
        );
        return Ok(false);
    }
    if persistence != "p" {
        look.found(
            Severity::Refuse,
            "unlogged",
            Some(table),
            "it is unlogged or temporary",
            "a crash empties it, and nobody is told that its rows are gone",
            format!("ALTER TABLE \"{}\" SET LOGGED", table.name),
        );
    }
    if row.number(4)? == 0 {
        look.found(
            Severity::Refuse,
            "table-owner",
            Some(table),
            "it belongs to another role",
            "its owner makes triggers and row security",
            format!("ALTER TABLE \"{}\" OWNER TO the role that portolan has as the owner", table.name),
        );
    }
    if row.number(5)? == 1 {
        look.found(
            Severity::Note,
            "row-security",
            Some(table),
            "it has row security already",
            "portolan adds a policy that lets each tenant reach its own rows: policies of yours that allow more stay",
            "look whether your policies are still needed",
        );
    }
    Ok(true)
}

async fn columns(look: &mut Look, table: &TenantTable) -> Result<(), Error> {
    let sql = "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), t.typname::text, a.attnotnull, \
        coalesce(a.attnum = ANY (i.indkey), false), coalesce(l.collisdeterministic, true), \
        t.typtype = 'd' AND t.typnotnull, a.attidentity <> '' OR coalesce(pg_get_expr(d.adbin, d.adrelid) LIKE 'nextval(%', false) \
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
        JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_collation l ON l.oid = a.attcollation \
        LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary \
        LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum \
        WHERE c.relnamespace = 'public'::regnamespace AND c.relname = $1 ORDER BY a.attnum";
    let rows = look.inspection.fetch(sql, &[table.name.as_str().into()]).await?;
    let (mut key, mut tenant) = (Vec::new(), None);
    for row in &rows {
        let (name, shown, kind) = (row.text(0)?, row.text(1)?, row.text(2)?);
        let in_key = row.number(4)? == 1;
        if in_key {
            key.push(name.clone());
        }
        if table.tenant.as_ref().is_some_and(|tenant| tenant.as_str() == name) {
            tenant = Some((shown.clone(), kind.clone(), row.number(3)? == 1));
        }
        column(look, table, &name, &shown, &kind, in_key);
        if in_key && row.number(5)? == 0 {
            look.found(
                Severity::Refuse,
                "key-collation",
                Some(table),
                format!("`{name}` is in the key, and its collation takes different texts for one"),
                "rows are known by the text of their keys",
                "use a deterministic collation",
            );
        }
        if row.number(6)? == 1 {
            look.found(
                Severity::Warn,
                "type-domain",
                Some(table),
                format!("`{name}` is of the domain {shown}, which is NOT NULL"),
                "rows that come from others are taken apart column by column, and such a domain may refuse that",
                "put NOT NULL at the column",
            );
        }
        if row.number(7)? == 1 {
            look.found(
                Severity::Warn,
                "sequence",
                Some(table),
                format!("`{name}` takes its values from a sequence"),
                "sequences are not replicated: who becomes primary gives numbers again that are taken",
                "use UUIDs, or set the sequence above the highest value after each failover",
            );
        }
    }
    look.key(table, &key);
    tenant_column(look, table, tenant).await
}

/// Types whose values do not travel as they are: the type, why, what to do, and is it only a warning?
const TYPES: &[(&str, Severity, &str, &str)] = &[
    ("json", Severity::Warn, "its text is not kept: blanks, order and repeated keys go", "use jsonb"),
    ("lo", Severity::Refuse, "large objects are not captured", "use bytea"),
    ("money", Severity::Warn, "its text depends on each session's lc_monetary", "use numeric"),
    (
        "oid",
        Severity::Warn,
        "numbers of objects differ between databases, and large objects are not captured",
        "use bytea or text",
    ),
    ("pg_lsn", Severity::Warn, "places in a server's log mean nothing elsewhere", "use bigint"),
    ("regclass", Severity::Warn, "names of objects depend on the search path", "use text"),
    ("regproc", Severity::Warn, "names of objects depend on the search path", "use text"),
    ("regtype", Severity::Warn, "names of objects depend on the search path", "use text"),
    ("xid", Severity::Warn, "numbers of transactions mean nothing elsewhere", "use bigint"),
    ("xid8", Severity::Warn, "numbers of transactions mean nothing elsewhere", "use bigint"),
];

fn column(look: &mut Look, table: &TenantTable, name: &str, shown: &str, kind: &str, in_key: bool) {
    if !plain(name) {
        look.found(
            Severity::Refuse,
            "column-name",
            Some(table),
            format!("it has the column `{name}`"),
            "names of columns go into triggers",
            "use letters, digits and `_`",
        );
    }
    // An array of a type is named with a `_` before it.
    if let Some((_, severity, why, advice)) =
        TYPES.iter().find(|(bad, ..)| kind.trim_start_matches('_') == *bad)
    {
        look.found(*severity, "type", Some(table), format!("`{name}` is of the type {shown}"), why, *advice);
    }
    if in_key && matches!(kind, "citext" | "float4" | "float8" | "jsonb") {
        look.found(
            Severity::Warn,
            "key-type",
            Some(table),
            format!("`{name}` is in the key, and of the type {shown}"),
            "rows are known by the text of their keys, and equal values of this type have several texts",
            "use whole numbers, texts or UUIDs in keys",
        );
    }
}

async fn tenant_column(
    look: &mut Look,
    table: &TenantTable,
    found: Option<(String, String, bool)>,
) -> Result<(), Error> {
    let Some(tenant) = &table.tenant else { return Ok(()) };
    let Some((shown, kind, not_null)) = found else {
        look.found(
            Severity::Refuse,
            "tenant-missing",
            Some(table),
            format!("it has no column `{tenant}`"),
            "its rows would be nobody's",
            "add the column and fill it, or declare a reference table",
        );
        return Ok(());
    };
    if !not_null {
        look.found(
            Severity::Refuse,
            "tenant-nullable",
            Some(table),
            format!("`{tenant}` may be NULL"),
            "its rows would be nobody's",
            format!("fill it, then ALTER TABLE \"{}\" ALTER COLUMN \"{tenant}\" SET NOT NULL", table.name),
        );
    }
    match kind.as_str() {
        "text" | "varchar" | "uuid" | "name" | "int2" | "int4" | "int8" => look.tenant_values(table).await,
        _ => {
            look.found(
                Severity::Refuse,
                "tenant-type",
                Some(table),
                format!("`{tenant}` is of the type {shown}"),
                "its text must be the tenant's name, always the same",
                "use text, varchar, uuid or a whole number",
            );
            Ok(())
        }
    }
}

async fn constraints(look: &mut Look, table: &TenantTable, tables: &Tables) -> Result<(), Error> {
    let here = "FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid \
        WHERE c.relnamespace = 'public'::regnamespace AND c.relname = $1";
    let deferrable = look
        .names(&format!("SELECT k.conname::text {here} AND k.condeferrable AND k.contype = 'p'"), table)
        .await?;
    if !deferrable.is_empty() {
        look.found(
            Severity::Refuse,
            "key-deferrable",
            Some(table),
            "its primary key is deferrable",
            "rows cannot be put by a key that is looked at only later",
            "make the key again without DEFERRABLE",
        );
    }
    let deferrable = look
        .names(
            &format!("SELECT k.conname::text {here} AND k.condeferrable AND k.contype <> 'p' ORDER BY 1"),
            table,
        )
        .await?;
    if !deferrable.is_empty() {
        look.found(
            Severity::Note,
            "deferrable",
            Some(table),
            format!("constraints are deferrable: {}", deferrable.join(", ")),
            "followers look at them with each batch: a change that breaks one waits alone",
            "nothing, if applications end their transactions whole",
        );
    }
    let actions = "SELECT k.conname || CASE WHEN k.confdeltype IN ('c', 'n', 'd') THEN ' ON DELETE' ELSE ' ON UPDATE' END \
        || CASE WHEN 'c' IN (k.confdeltype, k.confupdtype) THEN ' CASCADE' ELSE ' SET' END";
    let acting = "AND k.contype = 'f' AND (k.confdeltype IN ('c', 'n', 'd') OR k.confupdtype IN ('c', 'n', 'd')) ORDER BY 1";
    let cascades = look.names(&format!("{actions} {here} {acting}"), table).await?;
    look.cascades(table, &cascades);
    let sql = "SELECT DISTINCT p.relname::text FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid \
        JOIN pg_class p ON p.oid = k.confrelid WHERE c.relnamespace = 'public'::regnamespace AND c.relname = $1 \
        AND k.contype = 'f' AND p.oid <> c.oid ORDER BY 1";
    for parent in look.names(sql, table).await? {
        super::sqlite::reference(look, table, tables, &parent);
    }
    if let Some(tenant) = &table.tenant {
        let sql = format!(
            "SELECT x.relname::text FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_class x ON x.oid = i.indexrelid \
             WHERE c.relnamespace = 'public'::regnamespace AND c.relname = $1 AND i.indisunique AND NOT i.indisprimary \
             AND NOT EXISTS (SELECT 1 FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = ANY (i.indkey) \
             AND a.attname = '{tenant}') ORDER BY 1"
        );
        let unique = look.names(&sql, table).await?;
        look.unique_over_tenants(table, &unique);
    }
    Ok(())
}

async fn rules(look: &mut Look, table: &TenantTable) -> Result<(), Error> {
    let sql = "SELECT t.tgname::text FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid WHERE NOT t.tgisinternal \
        AND c.relnamespace = 'public'::regnamespace AND c.relname = $1 AND t.tgname NOT LIKE 'portolan\\_%' ORDER BY 1";
    let triggers = look.names(sql, table).await?;
    look.triggers(table, &triggers);
    let sql = "SELECT r.rulename::text FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class WHERE r.ev_type <> '1' \
        AND c.relnamespace = 'public'::regnamespace AND c.relname = $1 ORDER BY 1";
    let rules = look.names(sql, table).await?;
    if !rules.is_empty() {
        look.found(
            Severity::Refuse,
            "rules",
            Some(table),
            format!("rules rewrite its statements: {}", rules.join(", ")),
            "what is written then is not what is said, at followers too",
            "use triggers instead",
        );
    }
    Ok(())
}
