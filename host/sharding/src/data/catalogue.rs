//! The declared tables as clients see them: columns, types, keys. What a request may name is here, and nothing else reaches SQL
//! as a name.
//!
//! A catalogue is read once after each change of the tenants' schema; nothing is read of it for a request.

use std::collections::BTreeMap;

use portolan_changelog::{Dialect, Error, Store};
use portolan_core::loss::Durability;
use portolan_core::tenant_table::{Tables, TenantTable, Writers};

use super::kind::Kind;
use super::problem::{Code, Fault, Problem};
use crate::defaults::SUGGESTIONS_MAX;

mod postgres;
mod sqlite;

/// All tables that a shard declares, as its database has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catalogue {
    dialect: Dialect,
    tables: BTreeMap<String, Table>,
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub(crate) name: String,
    /// Who must have received a write before it is done.
    pub(crate) durability: Durability,
    /// All members write it, each in its own region.
    pub(crate) members: bool,
    /// The column that says whose a row is, and its type; none for a table that is everybody's.
    pub(crate) tenant: Option<Column>,
    /// The others, in the table's order.
    pub(crate) columns: Vec<Column>,
    /// Where the key's columns are among them, in the order of their declaration, without the tenant's.
    pub(crate) key: Vec<usize>,
    /// The key's columns as the database has them, with the tenant's.
    pub(crate) conflict: Vec<String>,
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// What a text is cast to in PostgreSQL.
    pub(crate) cast: String,
    pub(crate) nullable: bool,
    /// A row without it gets a value nevertheless.
    pub(crate) defaulted: bool,
    /// The database alone gives it a value.
    pub(crate) generated: bool,
}

impl Catalogue {
    /// Reads the declared tables' columns from the database.
    ///
    /// # Errors
    /// [`Error::Table`] when a table is not there, or a column is of a type that could not be told apart from others;
    /// else when the database does not answer.
    pub async fn read(store: &Store, tables: &Tables) -> Result<Self, Error> {
        let mut transaction = store.maintain().await?;
        let dialect = store.dialect();
        let mut found = BTreeMap::new();
        for table in tables.iter() {
            let columns = match dialect {
                Dialect::Postgres => postgres::columns(&mut transaction, table).await?,
                Dialect::Sqlite => sqlite::columns(&mut transaction, table).await?,
            };
            found.insert(table.name.to_string(), Table::new(table, columns)?);
        }
        transaction.finish().await?;
        Ok(Self { dialect, tables: found })
    }

    /// How the database is spoken to that this was read from.
    pub(crate) const fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Do writes of any table wait for other regions?
    pub(crate) fn awaits(&self) -> bool {
        self.tables().any(|table| table.durability > Durability::Local)
    }

    /// All tables, by name.
    pub(crate) fn tables(&self) -> impl Iterator<Item = &Table> {
        self.tables.values()
    }

    /// The table of this name.
    pub(crate) fn table(&self, name: &str) -> Result<&Table, Problem> {
        self.tables.get(name).ok_or_else(|| {
            let like = suggest(name, self.tables.keys().map(String::as_str));
            let detail = format!("there is no table `{}`{like}", super::filter::short(name));
            Problem::new(Code::UnknownTable, detail)
        })
    }
}

impl Table {
    fn new(table: &TenantTable, mut columns: Vec<Column>) -> Result<Self, Error> {
        let bad = |reason: String| Error::Table { table: table.name.to_string(), reason };
        if columns.is_empty() {
            return Err(bad("is not there: run the migrations of the tenants' schema first".to_owned()));
        }
        let place = |columns: &[Column], name: &str| columns.iter().position(|column| column.name == name);
        let missing = |name: &str| bad(format!("has no column `{name}`, which its declaration names"));
        let tenant = match &table.tenant {
            Some(name) => {
                let at = place(&columns, name.as_str()).ok_or_else(|| missing(name.as_str()))?;
                Some(columns.remove(at))
            }
            None => None,
        };
        if columns.is_empty() {
            return Err(bad("has no column but the tenant's: there is nothing to keep in it".to_owned()));
        }
        let mut key = Vec::new();
        for name in table.key.iter().filter(|name| table.tenant.as_ref() != Some(name)) {
            let at = place(&columns, name.as_str()).ok_or_else(|| missing(name.as_str()))?;
            if let Some(column) = columns.get_mut(at) {
                column.nullable = false;
                if !column.kind.ordered() {
                    return Err(bad(format!("has the key column `{name}`, by which rows cannot be ordered")));
                }
            }
            key.push(at);
        }
        let conflict = table.key.iter().map(ToString::to_string).collect();
        Ok(Self {
            name: table.name.to_string(),
            durability: table.durability,
            members: table.writers == Writers::Members,
            tenant,
            columns,
            key,
            conflict,
        })
    }

    /// The column of this name. The tenant's is none for clients.
    pub(crate) fn column(&self, name: &str) -> Result<&Column, Problem> {
        self.columns.iter().find(|column| column.name == name).ok_or_else(|| {
            let like = suggest(name, self.columns.iter().map(|column| column.name.as_str()));
            let name = super::filter::short(name);
            let detail = if self.tenant.as_ref().is_some_and(|tenant| tenant.name == name) {
                format!(
                    "`{name}` of `{}` is the tenant's, which each request has already; leave it out",
                    self.name
                )
            } else {
                format!("there is no column `{name}` in `{}`{like}", self.name)
            };
            let fault = Fault {
                detail: detail.clone(),
                table: Some(self.name.clone()),
                column: Some(name),
                ..Fault::default()
            };
            Problem::new(Code::UnknownColumn, detail).with(fault)
        })
    }

    /// The key's columns without the tenant's.
    pub(crate) fn key(&self) -> impl Iterator<Item = &Column> {
        self.key.iter().filter_map(|at| self.columns.get(*at))
    }

    /// Is it one of the key's?
    pub(crate) fn in_key(&self, column: &Column) -> bool {
        self.key().any(|key| key.name == column.name)
    }

    /// May tenants write it?
    pub(crate) const fn writable(&self) -> bool {
        self.tenant.is_some()
    }

    /// Its name as SQL wants it.
    pub(crate) fn quoted(&self, dialect: Dialect) -> String {
        match dialect {
            Dialect::Postgres => format!("public.\"{}\"", self.name),
            Dialect::Sqlite => format!("\"{}\"", self.name),
        }
    }
}

impl Column {
    /// Must a row that is written anew have it?
    pub(crate) const fn required(&self) -> bool {
        !self.nullable && !self.defaulted && !self.generated
    }

    /// Its name as SQL wants it, within a statement where the table is `own`.
    pub(crate) fn own(&self) -> String {
        format!("own.\"{}\"", self.name)
    }
}

/// `; did you mean ...?`, or nothing when no name is near.
fn suggest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> String {
    let name = super::filter::short(name);
    let near = |other: &str| strsim::damerau_levenshtein(&name, other);
    let mut names: Vec<(usize, &str)> =
        names.map(|other| (near(other), other)).filter(|(far, other)| *far <= 1 + other.len() / 3).collect();
    names.sort_unstable();
    let names: Vec<String> =
        names.iter().take(SUGGESTIONS_MAX).map(|(_, name)| format!("`{name}`")).collect();
    if names.is_empty() { String::new() } else { format!("; did you mean {}?", names.join(" or ")) }
}
