//! What a database says when it refuses a statement, in the same words for both engines. It holds names, never values: those
//! are in the message alone, which is not for clients.

use std::fmt;

use sqlx::error::DatabaseError;
use sqlx::postgres::PgDatabaseError;

/// What was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A CHECK.
    Check,
    /// The role may not: on PostgreSQL also a row that is another tenant's.
    Denied,
    /// A reference to a row that is not there, or of one that would go.
    ForeignKey,
    /// A table or column that is not there.
    Missing,
    /// A column that must have a value.
    NotNull,
    /// Something else: the statement is wrong.
    Other,
    /// A trigger of the operator's says no; the message is its own.
    Raised,
    /// A UNIQUE or a primary key.
    Unique,
    /// A value that its column cannot hold, or that is too large.
    Value,
}

/// Why a database refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// What was broken.
    pub rule: Rule,
    /// The name of the constraint, if it has one: SQLite names CHECKs alone.
    pub constraint: Option<String>,
    /// The columns, as far as the database names them: SQLite of UNIQUE and NOT NULL, PostgreSQL of NOT NULL.
    pub columns: Vec<String>,
    /// The database's own words, which may hold values.
    pub message: String,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Rejection {
    pub(crate) fn of(error: &dyn DatabaseError) -> Self {
        match error.try_downcast_ref::<PgDatabaseError>() {
            Some(error) => Self {
                rule: of_state(error.code()),
                constraint: error.constraint().map(str::to_owned),
                columns: error.column().map(str::to_owned).into_iter().collect(),
                message: error.message().to_owned(),
            },
            None => Self::of_sqlite(&error.code().unwrap_or_default(), error.message()),
        }
    }

    /// A statement that is wrong.
    pub(crate) const fn other(message: String) -> Self {
        Self { rule: Rule::Other, constraint: None, columns: Vec::new(), message }
    }

    /// Its messages end with the names: `UNIQUE constraint failed: notes.tenant, notes.id`.
    fn of_sqlite(code: &str, message: &str) -> Self {
        let rule = match code {
            "275" => Rule::Check,
            "787" => Rule::ForeignKey,
            "1299" => Rule::NotNull,
            "1811" => Rule::Raised,
            "1555" | "2067" | "2579" => Rule::Unique,
            "18" | "20" | "3091" => Rule::Value,
            "1" if message.starts_with("no such ") => Rule::Missing,
            _ => Rule::Other,
        };
        let names = message.split_once("constraint failed: ").map(|(_, names)| names);
        let column = |name: &str| name.rsplit('.').next().unwrap_or(name).to_owned();
        let columns = match (rule, names) {
            (Rule::NotNull | Rule::Unique, Some(names)) => names.split(", ").map(column).collect(),
            _ => Vec::new(),
        };
        let constraint = names.filter(|_| rule == Rule::Check).map(str::to_owned);
        Self { rule, constraint, columns, message: message.to_owned() }
    }
}

fn of_state(code: &str) -> Rule {
    match code {
        "23502" => Rule::NotNull,
        "23503" | "23001" => Rule::ForeignKey,
        "23505" | "23P01" => Rule::Unique,
        "23514" => Rule::Check,
        "42501" => Rule::Denied,
        "42703" | "42P01" => Rule::Missing,
        "P0001" => Rule::Raised,
        // A type that cannot be compared.
        "42883" => Rule::Value,
        code if code.starts_with("22") || code.starts_with("54") => Rule::Value,
        _ => Rule::Other,
    }
}
