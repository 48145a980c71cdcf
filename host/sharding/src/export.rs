//! A tenant's rows for somebody else: plain rows, table by table, with what they are, of one state.
//!
//! Unlike a backup it has no versions and no log, and says of itself all that a reader needs. What is exported is written into a
//! folder of files first; whoever asks packs it.

use portolan_changelog::{Change, Store};
use portolan_core::ids::{ShardName, TenantName};
use portolan_core::tenant_table::Tables;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::backup::{Error, FileSum, Folder};
use crate::data::{Catalogue, Column, Kind};
use crate::defaults::BACKUP_ROWS;

/// How values stand in rows where JSON has no word for them.
const SQLITE_VALUES: &str = "a row is a JSON object by column; bytes are {\"blob\": HEX}, and a fraction that does not read back as it is \
    written is {\"real\": [A, B]}, the sum of both";
const POSTGRES_VALUES: &str = "a row is a JSON object by column, as PostgreSQL's to_jsonb writes it";

/// What is exported.
#[derive(Clone, Copy, Debug)]
pub struct Exporting<'a> {
    /// The shard that the tenant is on.
    pub shard: &'a ShardName,
    /// Its database, with its tables known.
    pub store: &'a Store,
    /// The declared tables.
    pub tables: &'a Tables,
    /// Who.
    pub tenant: &'a TenantName,
}

/// What an export says of its rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Exported {
    /// When, in microseconds of the database's clock since 1970.
    pub at_us: u64,
    /// Which state of the shard's log.
    pub position: String,
    /// Which version of the tenants' schema.
    pub schema: u64,
    /// The shard.
    pub shard: ShardName,
    /// The tables, those first that others refer to.
    pub tables: Vec<ExportedTable>,
    /// How rows are written.
    pub values: &'static str,
}

/// A table of an export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExportedTable {
    /// Its columns, the tenant's own first.
    pub columns: Vec<ExportedColumn>,
    /// Where its rows are: a JSON object a line, compressed with zstd.
    pub file: String,
    /// The columns of its key.
    pub key: Vec<String>,
    /// Its name.
    pub name: String,
    /// Its file's length, lines (which are its rows) and digest.
    pub sum: FileSum,
}

/// A column of an export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExportedColumn {
    /// Its name.
    pub name: String,
    /// May it be absent?
    pub nullable: bool,
    /// What its values are: PostgreSQL's own word where there is one.
    #[serde(rename = "type")]
    pub kind: String,
}

/// Writes a tenant's rows into a folder. Tables that are everybody's are left out.
///
/// # Errors
/// When the database does not answer, or the disk does not take it.
pub async fn export(exporting: Exporting<'_>, folder: &mut Folder) -> Result<Exported, Error> {
    let Exporting { shard, store, tables, tenant } = exporting;
    let catalogue = Catalogue::read(store, tables).await?;
    let mut snapshot = store.snapshot().await?;
    let mut exported = Vec::new();
    for (table, _) in store.shape() {
        let name = table.name.as_str();
        let found = catalogue.tables().find(|found| found.name == name);
        let (Some(_), Some(found)) = (&table.tenant, found) else { continue };
        let file = format!("tables/{name}.ndjson.zst");
        let mut sheet = folder.sheet(&file)?;
        let mut after = Some(String::new());
        while let Some(key) = after {
            let page = snapshot.rows(name, Some(tenant), &key, BACKUP_ROWS).await?;
            for record in page.records {
                // A tombstone is no row.
                let Change::Row(change) = record.change else { continue };
                let Some(row) = change.row else { continue };
                let bad =
                    |error: serde_json::Error| Error::Bad { place: file.clone(), why: error.to_string() };
                sheet.line(&RawValue::from_string(row).map_err(bad)?)?;
            }
            after = page.next;
        }
        let sum = folder.close(&file, sheet)?;
        let columns = found.tenant.iter().chain(&found.columns).map(column).collect();
        let key = table.key.iter().map(ToString::to_string).collect();
        exported.push(ExportedTable { columns, file, key, name: name.to_owned(), sum });
    }
    let head = snapshot.head();
    Ok(Exported {
        at_us: head.at_us,
        position: head.position.to_string(),
        schema: head.schema,
        shard: shard.clone(),
        tables: exported,
        values: if store.is_postgres() { POSTGRES_VALUES } else { SQLITE_VALUES },
    })
}

fn column(column: &Column) -> ExportedColumn {
    let kind = if column.cast.is_empty() { word(&column.kind).to_owned() } else { column.cast.clone() };
    ExportedColumn { name: column.name.clone(), nullable: column.nullable, kind }
}

const fn word(kind: &Kind) -> &'static str {
    match kind {
        Kind::Boolean => "boolean",
        Kind::Bytes => "bytes",
        Kind::Date => "date",
        Kind::Decimal => "decimal",
        Kind::Float(_) => "float",
        Kind::Integer(_) => "integer",
        Kind::Json => "json",
        Kind::Local => "local time",
        Kind::Moment => "moment",
        Kind::Other => "text of its own type",
        Kind::Text => "text",
        Kind::Uuid => "uuid",
    }
}
