//! Looks at an existing database before portolan touches it: may it become a shard, and what would not be as it was?
//!
//! A look changes nothing: it is one read-only transaction, and on SQLite a file that is opened to be read only
//! ([`portolan_changelog::Inspection`]). What it finds is data: how bad, what, why, and what to do about it. Whether adoption may
//! go on is a matter of [`Severity::Refuse`] alone; the score is for people who compare databases.

mod network;
mod postgres;
mod sqlite;

use portolan_changelog::{Engine, Error, Inspection};
use portolan_core::tenant_table::{Tables, TenantTable};

use crate::defaults::OFFENDERS_MAX;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adoption {
    /// The worst first.
    pub findings: Vec<Finding>,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What to do.
    pub advice: String,
    /// A name for programs, such as `tenant-values`.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// The table; none when it is the server or the file.
    pub table: Option<String>,
    /// What there is.
    pub what: String,
    /// Why that matters.
    pub why: &'static str,
}

/// How bad something is; the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It cannot be adopted so.
    Refuse,
    /// It can, and something may go otherwise than expected.
    Warn,
    /// Good to know.
    Note,
}

impl Adoption {
    /// May the database be adopted?
    #[must_use]
    pub fn may_go_on(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity != Severity::Refuse)
    }

    /// From 100, of a database without findings, to 0. What refuses costs 25, a warning 5, a note 1; below 50 something
    /// refuses, and above nothing does.
    #[must_use]
    pub fn score(&self) -> u8 {
        let cost = |finding: &Finding| match finding.severity {
            Severity::Refuse => 25,
            Severity::Warn => 5,
            Severity::Note => 1,
        };
        let score = 100_usize.saturating_sub(self.findings.iter().map(cost).sum());
        let score = if self.may_go_on() { score.max(50) } else { score.min(49) };
        u8::try_from(score).unwrap_or(100)
    }
}

/// Looks at a database that is to become a shard with these tables.
///
/// # Errors
/// [`Error::Away`] when it is not there or does not answer, [`Error::Busy`] when it was written in a way that spoils the look.
pub async fn look(engine: &Engine, tables: &Tables) -> Result<Adoption, Error> {
    let mut look = Look { found: Adoption::default(), inspection: Inspection::open(engine).await? };
    match engine {
        Engine::Postgres(config) => postgres::look(&mut look, config, tables).await?,
        Engine::Sqlite(path) => sqlite::look(&mut look, path, tables).await?,
    }
    look.inspection.end()?;
    look.found.findings.sort_by(|a, b| (a.severity, &a.table, a.code).cmp(&(b.severity, &b.table, b.code)));
    Ok(look.found)
}

/// A look, and what it has found so far.
struct Look {
    found: Adoption,
    inspection: Inspection,
}

impl Look {
    fn found(
        &mut self,
        severity: Severity,
        code: &'static str,
        table: Option<&TenantTable>,
        what: impl Into<String>,
        why: &'static str,
        advice: impl Into<String>,
    ) {
        let table = table.map(|table| table.name.to_string());
        let (what, advice) = (what.into(), advice.into());
        self.found.findings.push(Finding { advice, code, severity, table, what, why });
    }

    /// A setting or a fact as text; none when there is no such row.
    async fn text(&mut self, sql: &str) -> Result<Option<String>, Error> {
        let rows = self.inspection.fetch(sql, &[]).await?;
        Ok(rows.first().map(|row| row.text_or_null(0)).transpose()?.flatten())
    }

    async fn count(&mut self, sql: &str) -> Result<u64, Error> {
        let rows = self.inspection.fetch(sql, &[]).await?;
        rows.first().map_or(Ok(0), |row| row.number(0))
    }

    /// Names in one text, from a query of one column.
    async fn names(&mut self, sql: &str, table: &TenantTable) -> Result<Vec<String>, Error> {
        let rows = self.inspection.fetch(sql, &[table.name.as_str().into()]).await?;
        rows.iter().map(|row| row.text(0)).collect()
    }

    /// Holds the declared key against the one that is there.
    fn key(&mut self, table: &TenantTable, there: &[String]) {
        let mut declared: Vec<&str> = table.key.iter().map(|column| column.as_str()).collect();
        let mut found: Vec<&str> = there.iter().map(String::as_str).collect();
        declared.sort_unstable();
        found.sort_unstable();
        if found.is_empty() {
            self.found(
                Severity::Refuse,
                "no-primary-key",
                Some(table),
                "it has no primary key",
                "a row is known by its key in every region",
                "add a primary key, and declare it",
            );
        } else if declared != found {
            self.found(
                Severity::Refuse,
                "key-differs",
                Some(table),
                format!(
                    "its primary key is ({}), and ({}) is declared",
                    there.join(", "),
                    declared.join(", ")
                ),
                "a row is known by its key in every region",
                "declare the key that it has",
            );
        } else if let Some(tenant) = &table.tenant
            && !table.key.contains(tenant)
        {
            self.found(
                Severity::Note,
                "key-without-tenant",
                Some(table),
                format!("its primary key does not hold `{tenant}`"),
                "a tenant that is moved here cannot bring a row whose key another tenant has",
                "use keys that are unique everywhere, such as UUIDs, or let the key begin with the tenant",
            );
        }
    }

    /// Rows whose tenant names none, with examples.
    async fn tenant_values(&mut self, table: &TenantTable) -> Result<(), Error> {
        let Some(tenant) = &table.tenant else { return Ok(()) };
        let good = self.inspection.names_tenant(&format!("\"{tenant}\""));
        let sql = format!(
            "SELECT coalesce(CAST(\"{tenant}\" AS TEXT), 'NULL'), CAST(count(*) AS BIGINT), \
             CAST(sum(count(*)) OVER () AS BIGINT), CAST(count(*) OVER () AS BIGINT) FROM \"{}\" WHERE NOT {good} \
             GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {OFFENDERS_MAX}",
            table.name
        );
        let rows = self.inspection.fetch(&sql, &[]).await?;
        let Some(first) = rows.first() else { return Ok(()) };
        let offender = |row: &portolan_changelog::Row| {
            Ok::<_, Error>(format!("`{}` ({} rows)", row.text(0)?.escape_debug(), row.number(1)?))
        };
        let offenders = rows.iter().map(offender).collect::<Result<Vec<_>, _>>()?.join(", ");
        let what = format!(
            "`{tenant}` names no tenant in {} rows, with {} values: {offenders}",
            first.number(2)?,
            first.number(3)?
        );
        self.found(
            Severity::Refuse,
            "tenant-values",
            Some(table),
            what,
            "a tenant's name is 1 to 63 lower-case letters, digits, `-`, `_` and `.`, with a letter or digit at both ends",
            "rename these tenants here and wherever they are known, or give the rows to a tenant",
        );
        Ok(())
    }

    /// Uniqueness that reaches over tenants: names of constraints or indexes.
    fn unique_over_tenants(&mut self, table: &TenantTable, names: &[String]) {
        if names.is_empty() {
            return;
        }
        self.found(
            Severity::Warn,
            "unique-without-tenant",
            Some(table),
            format!("{} hold over all tenants", names.join(", ")),
            "it holds within a shard alone: tenants on two shards may use one value, and then cannot be moved together",
            "put the tenant into the index, or claim such values in the directory",
        );
    }

    fn triggers(&mut self, table: &TenantTable, names: &[String]) {
        if names.is_empty() {
            return;
        }
        self.found(
            Severity::Warn,
            "triggers",
            Some(table),
            format!("it has triggers: {}", names.join(", ")),
            "they run at followers too, where the rows that they write come by the log as well",
            "on PostgreSQL, let them ask `current_setting('portolan.applying', true)`; elsewhere, let them write what is there \
             already",
        );
    }

    /// References with consequences, as `name ON DELETE CASCADE`.
    fn cascades(&mut self, table: &TenantTable, names: &[String]) {
        if names.is_empty() {
            return;
        }
        let members = table.writers == portolan_core::tenant_table::Writers::Members;
        self.found(
            if members { Severity::Refuse } else { Severity::Warn },
            "cascades",
            Some(table),
            format!("references change or delete its rows: {}", names.join(", ")),
            "at followers they run as well, and take along rows that another region has written",
            if members {
                "declare none on tables that all members write: let the application delete"
            } else {
                "expect that a cascade also takes rows which have not come by the log yet"
            },
        );
    }

    fn missing(&mut self, table: &TenantTable) {
        self.found(
            Severity::Refuse,
            "table-missing",
            Some(table),
            "it is not there",
            "tables are declared as they are",
            "create it, or do not declare it",
        );
    }
}

/// Whether a name of a column can be used as it is.
fn plain(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
pub(crate) mod tests;
