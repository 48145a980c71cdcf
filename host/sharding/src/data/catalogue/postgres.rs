//! Columns of a table of PostgreSQL.

use portolan_changelog::{Error, Transaction, Value};
use portolan_core::tenant_table::TenantTable;

use super::Column;
use crate::data::kind::Kind;

/// Types without what stands in parentheses: a cast would cut what an assignment refuses. Domains count as what is under them.
const COLUMNS: &str = "SELECT a.attname::text, \
    CASE WHEN t.typtype = 'd' THEN b.typname ELSE t.typname END::text, \
    CASE WHEN t.typtype = 'd' THEN b.typtype ELSE t.typtype END::text, \
    format_type(CASE WHEN t.typtype = 'd' THEN b.oid ELSE t.oid END, NULL), \
    a.attnotnull, a.atthasdef OR a.attidentity = 'd' OR t.typdefault IS NOT NULL, \
    a.attgenerated <> '' OR a.attidentity = 'a' \
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
    JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_type b ON b.oid = t.typbasetype \
    WHERE n.nspname = 'public' AND c.relname = $1 AND c.relkind = 'r' ORDER BY a.attnum";

pub(super) async fn columns(
    transaction: &mut Transaction,
    table: &TenantTable,
) -> Result<Vec<Column>, Error> {
    let rows = transaction.fetch(COLUMNS, &[table.name.as_str().into()]).await?;
    let text = |value: &Value| if let Value::Text(text) = value { text.clone() } else { String::new() };
    let truth = |value: &Value| *value == Value::Bool(true);
    let column = |row: &portolan_changelog::Row| {
        let (kind, cast) = kind(&text(row.value(1)), text(row.value(3)));
        Column {
            name: text(row.value(0)),
            kind,
            cast,
            nullable: !truth(row.value(4)),
            defaulted: truth(row.value(5)),
            generated: truth(row.value(6)),
        }
    };
    Ok(rows.iter().map(column).collect())
}

/// What a type holds, and what a text is cast to for it.
fn kind(name: &str, whole: String) -> (Kind, String) {
    let kind = match name {
        "bool" => Kind::Boolean,
        "bytea" => Kind::Bytes,
        "date" => Kind::Date,
        "float4" => Kind::Float(32),
        "float8" => Kind::Float(64),
        "int2" => Kind::Integer(16),
        "int4" => Kind::Integer(32),
        "int8" => Kind::Integer(64),
        "json" | "jsonb" => Kind::Json,
        "numeric" => Kind::Decimal,
        "text" | "varchar" | "bpchar" => return (Kind::Text, "text".to_owned()),
        "timestamp" => Kind::Local,
        "timestamptz" => Kind::Moment,
        "uuid" => Kind::Uuid,
        _ => Kind::Other,
    };
    (kind, whole)
}
