//! Declarations of the operator's tables that a shard holds: what is captured, replicated and moved with a tenant.
//!
//! Plain data, checked: names of tables and columns go into SQL, so that only plain ones are taken.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::{Digest, PolicyName};
use crate::loss::Durability;

/// The longest name of a table or column: PostgreSQL cuts identifiers at 63 bytes.
pub const IDENTIFIER_BYTES_MAX: usize = 63;
/// Columns of a primary key; SQLite and PostgreSQL take more, nobody needs more.
pub const KEY_COLUMNS_MAX: usize = 8;
/// Tables that one shard declares.
pub const TABLES_MAX: usize = 1_000;

/// The name of a table or column: lower-case letters, digits and `_`, not with a digit first. Needs no quoting in either
/// engine but for reserved words, and is quoted anyway.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Identifier(Arc<str>);

impl Identifier {
    /// Takes a text as an identifier.
    ///
    /// # Errors
    /// When it is none, or begins as portolan's own tables do.
    pub fn new(text: &str) -> Result<Self, BadTable> {
        let bytes = text.as_bytes();
        let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'_';
        let good = bytes.first().is_some_and(|first| !first.is_ascii_digit())
            && bytes.len() <= IDENTIFIER_BYTES_MAX
            && bytes.iter().all(plain);
        let own = ["portolan", "sqlite_", "pg_", "_sqlx"].iter().any(|prefix| text.starts_with(prefix));
        if good && !own { Ok(Self(text.into())) } else { Err(BadTable::Identifier(text.to_owned())) }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Identifier {
    type Error = BadTable;
    fn try_from(text: String) -> Result<Self, BadTable> {
        Self::new(&text)
    }
}

impl From<Identifier> for String {
    fn from(name: Identifier) -> Self {
        name.0.as_ref().to_owned()
    }
}

/// What happens when two regions wrote one row and neither knew of the other. What is lost by it is kept.
///
/// All rules but the first are for tables that all members write. Whatever the order in which changes arrive, all regions end
/// with the same rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConflictRule {
    /// Columns are merged. A row that was deleted is gone, also for who updated it meanwhile; it may be inserted again.
    Columns {
        /// Columns with a rule of their own.
        rules: BTreeMap<Identifier, ColumnRule>,
        /// What happens to the others.
        rest: Rest,
    },
    /// The earlier of two versions that did not know each other stays; one that knew it replaces it.
    FirstWins,
    /// A version that the shard's primary wrote under its lease wins; among others, the higher.
    HomeWins,
    /// The higher version wins.
    #[default]
    LastWriterWins,
    /// The higher version wins, until a policy has made one row of both: the shard's primary asks it, and what it says is a new version.
    Policy {
        /// Which policy, of those that merge.
        policy: PolicyName,
        /// A version in the control store; none for the folder of policies.
        version: Option<Digest>,
    },
}

/// How a column is merged by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnRule {
    /// A whole number: the sum of what all regions have added to it.
    Counter,
    /// The greatest of what was written; it never falls.
    Max,
    /// The least of what was written; it never rises.
    Min,
    /// An array of JSON: what any region has put in, but for what was taken out later.
    SetUnion,
}

/// What happens to the columns that have no rule of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rest {
    /// Each has a version: updates of different columns both stay (`column_lww`).
    Each,
    /// They stay together, as whoever changed one of them last wrote them (`lww`).
    #[default]
    Together,
}

impl ConflictRule {
    /// The name under which losers are kept.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Columns { rest: Rest::Each, .. } => "column_lww",
            Self::Columns { .. } | Self::LastWriterWins => "lww",
            Self::FirstWins => "first_wins",
            Self::HomeWins => "home_wins",
            Self::Policy { .. } => "policy",
        }
    }

    /// Do whole rows win by their versions alone, so that nothing need be known beside them?
    #[must_use]
    pub const fn is_by_version(&self) -> bool {
        matches!(self, Self::LastWriterWins | Self::Policy { .. })
    }

    /// The columns that have a rule of their own.
    pub fn columns(&self) -> impl Iterator<Item = (&Identifier, ColumnRule)> {
        let rules = match self {
            Self::Columns { rules, .. } => Some(rules),
            _ => None,
        };
        rules.into_iter().flatten().map(|(column, rule)| (column, *rule))
    }
}

/// Who may write a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Writers {
    /// The shard's primary, under its lease.
    Primary,
    /// Every member region, under its membership: the table converges by its conflict rule.
    Members,
}

/// One declared table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantTable {
    /// Its name.
    pub name: Identifier,
    /// The column that says whose a row is; none for a reference table, which is everybody's and read-only for tenants.
    pub tenant: Option<Identifier>,
    /// The columns of its primary key.
    pub key: Vec<Identifier>,
    /// What happens in a conflict.
    pub conflict: ConflictRule,
    /// Who writes it.
    pub writers: Writers,
    /// Who must have received a write of the data API before it is answered as done.
    #[serde(default)]
    pub durability: Durability,
}

/// Why a declaration is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTable {
    /// A rule names a column that cannot have one.
    #[error(
        "table `{table}`: `{column}` is of its key or says whose a row is, and has one value: it cannot be merged"
    )]
    Column {
        /// Which column.
        column: Identifier,
        /// Of which table.
        table: Identifier,
    },
    /// Declared twice.
    #[error("`{0}` is declared twice")]
    Double(String),
    /// No identifier.
    #[error(
        "`{0}` names no table or column: use up to {IDENTIFIER_BYTES_MAX} lower-case letters, digits and `_`, not a digit \
         first; `portolan`, `pg_`, `sqlite_` and `_sqlx` are taken"
    )]
    Identifier(String),
    /// No key, one that is too long, or one with a column twice.
    #[error("table `{0}`: its primary key has 1 to {KEY_COLUMNS_MAX} columns, each once")]
    Key(Identifier),
    /// A rule for what cannot happen.
    #[error(
        "table `{0}` is written under the lease by one region at a time, so that only `lww` is meant: leave `conflict` out, or \
         say `writers = \"members\"`"
    )]
    OneWriter(Identifier),
    /// Too many.
    #[error("a shard declares at most {TABLES_MAX} tables, not {0}")]
    TooMany(usize),
}

impl TenantTable {
    fn check(&self) -> Result<(), BadTable> {
        let twice = (1..)
            .zip(&self.key)
            .any(|(next, column)| self.key.iter().skip(next).any(|other| other == column));
        if self.key.is_empty() || self.key.len() > KEY_COLUMNS_MAX || twice {
            return Err(BadTable::Key(self.name.clone()));
        }
        if self.writers == Writers::Primary && self.conflict != ConflictRule::LastWriterWins {
            return Err(BadTable::OneWriter(self.name.clone()));
        }
        let fixed = |column: &Identifier| self.key.contains(column) || self.tenant.as_ref() == Some(column);
        match self.conflict.columns().find(|(column, _)| fixed(column)) {
            None => Ok(()),
            Some((column, _)) => Err(BadTable::Column { column: column.clone(), table: self.name.clone() }),
        }
    }
}

/// All declared tables of a shard, those that others refer to first: rows are put in this order and deleted in the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables(Vec<TenantTable>);

impl Tables {
    /// Takes declarations.
    ///
    /// # Errors
    /// The first that is not as it must be.
    pub fn new(tables: Vec<TenantTable>) -> Result<Self, BadTable> {
        if tables.len() > TABLES_MAX {
            return Err(BadTable::TooMany(tables.len()));
        }
        for (next, table) in (1..).zip(&tables) {
            table.check()?;
            if tables.iter().skip(next).any(|other| other.name == table.name) {
                return Err(BadTable::Double(table.name.to_string()));
            }
        }
        Ok(Self(tables))
    }

    /// The table of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&TenantTable> {
        self.0.iter().find(|table| table.name.as_str() == name)
    }

    /// In the order of their declaration.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &TenantTable> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str, key: &[&str]) -> Result<TenantTable, BadTable> {
        Ok(TenantTable {
            name: Identifier::new(name)?,
            tenant: Some(Identifier::new("tenant")?),
            key: key.iter().map(|column| Identifier::new(column)).collect::<Result<_, _>>()?,
            conflict: ConflictRule::default(),
            writers: Writers::Primary,
            durability: Durability::Local,
        })
    }

    fn ruled(name: &str, writers: Writers, counter: &str) -> TenantTable {
        let rules = [(Identifier::new(counter).unwrap(), ColumnRule::Counter)].into();
        let conflict = ConflictRule::Columns { rules, rest: Rest::Together };
        TenantTable { conflict, writers, ..table(name, &["id"]).unwrap() }
    }

    #[test]
    fn only_plain_names_reach_sql() {
        for good in ["a", "order", "notes_2", "_x"] {
            assert!(Identifier::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "2a",
            "A",
            "a-b",
            "a\"b",
            "a;b",
            "é",
            "portolan_log",
            "sqlite_x",
            "pg_class",
            &"x".repeat(64),
        ] {
            assert_eq!(Identifier::new(bad), Err(BadTable::Identifier(bad.to_owned())));
        }
    }

    #[test]
    fn declarations_are_checked() {
        let notes = table("notes", &["tenant", "id"]).unwrap();
        let tables = Tables::new(vec![notes.clone(), table("tags", &["id"]).unwrap()]).unwrap();
        assert_eq!(tables.find("notes"), Some(&notes));
        assert_eq!(tables.find("other"), None);
        assert_eq!(tables.iter().count(), 2);
        assert!(Tables::new(vec![ruled("a", Writers::Members, "stock")]).is_ok());
        for (bad, why) in [
            (vec![notes.clone(), notes.clone()], BadTable::Double("notes".into())),
            (vec![table("a", &[]).unwrap()], BadTable::Key(Identifier::new("a").unwrap())),
            (vec![table("a", &["x", "y", "x"]).unwrap()], BadTable::Key(Identifier::new("a").unwrap())),
            (vec![ruled("a", Writers::Primary, "x")], BadTable::OneWriter(Identifier::new("a").unwrap())),
            (
                vec![ruled("a", Writers::Members, "id")],
                BadTable::Column {
                    column: Identifier::new("id").unwrap(),
                    table: Identifier::new("a").unwrap(),
                },
            ),
            (vec![notes; TABLES_MAX + 1], BadTable::TooMany(TABLES_MAX + 1)),
        ] {
            assert_eq!(Tables::new(bad), Err(why));
        }
    }
}
