//! Columns of a table of SQLite. It would keep anything anywhere: what a column was declared as decides what it takes here.

use portolan_changelog::{Error, Transaction, Value};
use portolan_core::tenant_table::TenantTable;

use super::Column;
use crate::data::kind::Kind;

const COLUMNS: &str = "SELECT name, type, \"notnull\", dflt_value IS NOT NULL, hidden, pk, \
    (SELECT count(*) FROM pragma_table_info($1) WHERE pk > 0), \
    (SELECT count(*) FROM sqlite_schema WHERE name = $1 AND upper(sql) GLOB '*WITHOUT*ROWID*') \
    FROM pragma_table_xinfo($1) ORDER BY cid";

pub(super) async fn columns(
    transaction: &mut Transaction,
    table: &TenantTable,
) -> Result<Vec<Column>, Error> {
    let rows = transaction.fetch(COLUMNS, &[table.name.as_str().into()]).await?;
    let text = |value: &Value| if let Value::Text(text) = value { text.clone() } else { String::new() };
    let number = |value: &Value| if let Value::Int(number) = value { *number } else { 0 };
    let mut columns = Vec::new();
    for row in &rows {
        let (name, declared) = (text(row.value(0)), text(row.value(1)));
        let kind = kind(&declared).ok_or_else(|| Error::Table {
            table: table.name.to_string(),
            reason: format!(
                "has the column `{name}` of the type `{declared}`, which SQLite takes as a number or as anything: declare it \
                 as TEXT, INTEGER, REAL, BLOB, NUMERIC, BOOLEAN, DATE, TIMESTAMP, TIMESTAMPTZ, UUID or JSON"
            ),
        })?;
        // The number of a row, which SQLite gives.
        let numbered = number(row.value(5)) > 0
            && number(row.value(6)) == 1
            && declared.eq_ignore_ascii_case("INTEGER")
            && number(row.value(7)) == 0;
        columns.push(Column {
            name,
            kind,
            cast: String::new(),
            nullable: number(row.value(2)) == 0,
            defaulted: number(row.value(3)) == 1 || numbered,
            generated: number(row.value(4)) != 0,
        });
    }
    Ok(columns)
}

/// What a declared type means: names of PostgreSQL, and then what SQLite itself makes of a name, but for names that it takes as
/// numbers without saying so.
fn kind(declared: &str) -> Option<Kind> {
    let name = declared.split('(').next().unwrap_or_default().trim().to_ascii_uppercase();
    let holds = |words: &[&str]| words.iter().any(|word| name.contains(word));
    Some(match name.as_str() {
        "BOOL" | "BOOLEAN" => Kind::Boolean,
        "BYTEA" => Kind::Bytes,
        "DATE" => Kind::Date,
        "DATETIME" | "TIMESTAMP" | "TIMESTAMP WITHOUT TIME ZONE" => Kind::Local,
        "TIMESTAMPTZ" | "TIMESTAMP WITH TIME ZONE" => Kind::Moment,
        "INT2" | "SMALLINT" => Kind::Integer(16),
        "INT4" => Kind::Integer(32),
        "JSON" | "JSONB" => Kind::Json,
        "DECIMAL" | "NUMERIC" => Kind::Decimal,
        "UUID" => Kind::Uuid,
        _ if holds(&["INT"]) => Kind::Integer(64),
        _ if holds(&["CHAR", "CLOB", "TEXT"]) => Kind::Text,
        _ if holds(&["BLOB"]) => Kind::Bytes,
        _ if holds(&["REAL", "FLOA", "DOUB"]) => Kind::Float(64),
        _ => return None,
    })
}
