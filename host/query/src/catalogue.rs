//! The declared tables as shards have them: columns, and what they hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use portolan_core::tenant_table::TenantTable;

use crate::kind::Kind;

/// A table that may be asked for, with the columns that all shards have alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    /// Its name.
    pub(crate) name: String,
    /// Its columns, in the order of the first shard.
    pub(crate) columns: Vec<Column>,
    /// Whose a row is; none for a reference table, of which each shard has a whole copy.
    pub(crate) tenant: Option<String>,
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Column {
    /// Its name.
    pub(crate) name: String,
    /// What it holds.
    pub(crate) kind: Kind,
    /// By which rule PostgreSQL compares it, if it is a text; empty elsewhere, and when shards differ.
    pub(crate) collation: String,
    /// May it be NULL?
    pub(crate) nullable: bool,
}

/// What one shard has, by the tables' names.
pub(crate) type Found = BTreeMap<String, Vec<Column>>;

/// All tables, and those that cannot be asked for, with the reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Catalogue {
    /// By name.
    pub(crate) tables: BTreeMap<String, Arc<Table>>,
    /// Why a table is not among them.
    pub(crate) broken: BTreeMap<String, String>,
}

impl Catalogue {
    /// What several shards have in common. While a migration is on its way some have columns that others lack: those wait.
    pub(crate) fn merge(declared: &[TenantTable], shards: &[(String, Found)]) -> Self {
        let mut catalogue = Self::default();
        for table in declared {
            let name = table.name.as_str();
            match common(name, shards) {
                Ok(columns) => {
                    let tenant = table.tenant.as_ref().map(|column| column.as_str().to_owned());
                    let found = Table { name: name.to_owned(), columns, tenant };
                    catalogue.tables.insert(name.to_owned(), Arc::new(found));
                }
                Err(why) => {
                    catalogue.broken.insert(name.to_owned(), why);
                }
            }
        }
        catalogue
    }
}

fn common(table: &str, shards: &[(String, Found)]) -> Result<Vec<Column>, String> {
    let mut merged: Option<(&str, Vec<Column>)> = None;
    for (shard, found) in shards {
        let Some(columns) = found.get(table).filter(|columns| !columns.is_empty()) else {
            return Err(format!(
                "table `{table}` is not on shard `{shard}` yet: run `portolan migrate` first"
            ));
        };
        let Some((first, kept)) = &mut merged else {
            merged = Some((shard, columns.clone()));
            continue;
        };
        let names: BTreeSet<&str> = columns.iter().map(|column| column.name.as_str()).collect();
        kept.retain(|column| names.contains(column.name.as_str()));
        for column in kept {
            let Some(other) = columns.iter().find(|other| other.name == column.name) else { continue };
            if other.kind != column.kind {
                return Err(format!(
                    "column `{}` of `{table}` is {:?} on shard `{first}` and {:?} on `{shard}`: bring the schemas together",
                    column.name, column.kind, other.kind
                ));
            }
            column.nullable |= other.nullable;
            match (column.collation.is_empty(), other.collation.is_empty()) {
                (true, false) => column.collation.clone_from(&other.collation),
                (false, false) if column.collation != other.collation => column.collation.clear(),
                _ => {}
            }
        }
    }
    merged.map(|(_, columns)| columns).ok_or_else(|| format!("there is no shard that has table `{table}`"))
}
