//! Statements that write rows of a tenant.

use portolan_changelog::Dialect;
use portolan_core::ids::TenantName;

use super::{Statement, shown};
use crate::data::body::Fields;
use crate::data::catalogue::{Column, Table};
use crate::data::kind::Datum;
use crate::data::plan::Condition;

/// What an insert does with a row that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conflict {
    /// It is a problem.
    Fail,
    /// The row stays as it is.
    Ignore,
    /// The columns that were sent are put.
    Merge,
    /// All columns are put: those that were not sent as in a new row.
    Replace,
}

/// Inserts one row. A row of another tenant's stays as it is: then nothing is written, or PostgreSQL refuses.
pub(crate) fn insert(
    dialect: Dialect,
    table: &Table,
    tenant: &TenantName,
    fields: &Fields<'_>,
    conflict: Conflict,
    returning: bool,
) -> Statement {
    let mut sql = Statement::new(dialect, "INSERT INTO ");
    let own = Datum::Text(tenant.as_str().to_owned());
    let tenant = table.tenant.iter().map(|column| (column, &own));
    let fields: Vec<(&Column, &Datum)> =
        tenant.chain(fields.iter().map(|(column, datum)| (*column, datum))).collect();
    sql.push(&table.quoted(dialect)).push(" AS own (").list(&fields, ", ", |sql, (column, _)| {
        sql.push(&format!("\"{}\"", column.name));
    });
    sql.push(") VALUES (").list(&fields, ", ", |sql, (column, datum)| {
        sql.bind(column, datum);
    });
    sql.push(")").on_conflict(table, &fields, conflict);
    if returning {
        sql.returning(table);
    }
    sql
}

/// Updates the rows of the condition.
pub(crate) fn update(
    dialect: Dialect,
    table: &Table,
    tenant: &TenantName,
    condition: &Condition<'_>,
    changes: &Fields<'_>,
    returning: bool,
) -> Statement {
    let mut sql = Statement::new(dialect, "UPDATE ");
    sql.push(&table.quoted(dialect)).push(" AS own SET ").list(changes, ", ", |sql, (column, datum)| {
        sql.push(&format!("\"{}\" = ", column.name)).bind(column, datum);
    });
    sql.of_tenant(table, tenant, condition);
    if returning {
        sql.returning(table);
    }
    sql
}

/// Deletes the rows of the condition.
pub(crate) fn delete(
    dialect: Dialect,
    table: &Table,
    tenant: &TenantName,
    condition: &Condition<'_>,
    returning: bool,
) -> Statement {
    let mut sql = Statement::new(dialect, "DELETE FROM ");
    sql.push(&table.quoted(dialect)).push(" AS own").of_tenant(table, tenant, condition);
    if returning {
        sql.returning(table);
    }
    sql
}

impl Statement {
    fn on_conflict(&mut self, table: &Table, sent: &[(&Column, &Datum)], conflict: Conflict) -> &mut Self {
        let of_key = |column: &Column| table.conflict.contains(&column.name);
        let put: Vec<&Column> = match conflict {
            Conflict::Fail => return self,
            Conflict::Ignore => Vec::new(),
            Conflict::Merge => {
                sent.iter().map(|(column, _)| *column).filter(|column| !of_key(column)).collect()
            }
            Conflict::Replace => {
                table.columns.iter().filter(|column| !of_key(column) && !column.generated).collect()
            }
        };
        let tenant = table.tenant.as_ref().map_or("", |tenant| tenant.name.as_str());
        let put: Vec<&Column> = put.into_iter().filter(|column| column.name != tenant).collect();
        self.push(" ON CONFLICT (").list(&table.conflict, ", ", |sql, name| {
            sql.push(&format!("\"{name}\""));
        });
        if put.is_empty() {
            return self.push(") DO NOTHING");
        }
        self.push(") DO UPDATE SET ").list(put, ", ", |sql, column| {
            sql.push(&format!("\"{0}\" = excluded.\"{0}\"", column.name));
        });
        self.push(&format!(" WHERE own.\"{tenant}\" = excluded.\"{tenant}\""))
    }

    fn returning(&mut self, table: &Table) -> &mut Self {
        let dialect = self.dialect;
        self.push(" RETURNING ").list(&table.columns, ", ", |sql, column| {
            // SQLite knows no name of the table here.
            sql.push(&shown(dialect, column, &format!("\"{}\"", column.name)));
        })
    }
}
