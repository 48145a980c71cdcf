//! Is a database free to be a shard? Looks at it without leaving a trace: whether it answers, which version of the tenants' schema it
//! has, and whether there are rows.

use portolan_changelog::{Engine, Error, Inspection};
use portolan_core::tenant_table::{Identifier, Tables};

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vacancy {
    /// Declared tables with rows.
    pub occupied: Vec<Identifier>,
    /// The version of the tenants' schema that portolan declared there; none where it never did.
    pub schema: Option<u64>,
}

impl Vacancy {
    /// Are there no rows?
    #[must_use]
    pub const fn is_vacant(&self) -> bool {
        self.occupied.is_empty()
    }
}

/// Looks at a database. A file of SQLite that is not there yet is vacant.
///
/// # Errors
/// [`Error::Away`] when it does not answer, [`Error::Busy`] when it was written in a way that spoils the look.
pub async fn look(engine: &Engine, tables: &Tables) -> Result<Vacancy, Error> {
    if let Engine::Sqlite(path) = engine
        && !path.exists()
    {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        return match folder.filter(|folder| !folder.is_dir()) {
            Some(folder) => Err(Error::Away(format!("{} is no folder", folder.display()))),
            None => Ok(Vacancy::default()),
        };
    }
    let mut inspection = Inspection::open(engine).await?;
    let mut found = Vacancy::default();
    // A look speaks each engine's own language, and names portolan's tables as they are there.
    let (fence, schema) = if inspection.is_postgres() {
        (
            "SELECT 1 FROM pg_class WHERE oid = to_regclass('portolan.fence')",
            "SELECT schema FROM portolan.fence",
        )
    } else {
        ("SELECT 1 FROM sqlite_schema WHERE name = 'portolan_fence'", "SELECT schema FROM portolan_fence")
    };
    if !inspection.fetch(fence, &[]).await?.is_empty() {
        let rows = inspection.fetch(schema, &[]).await?;
        found.schema = rows.first().map(|row| row.number(0)).transpose()?;
    }
    for table in tables.iter() {
        let name = table.name.as_str();
        if exists(&mut inspection, name).await?
            && !inspection.fetch(&format!("SELECT 1 FROM \"{name}\" LIMIT 1"), &[]).await?.is_empty()
        {
            found.occupied.push(table.name.clone());
        }
    }
    inspection.end()?;
    Ok(found)
}

async fn exists(inspection: &mut Inspection, table: &str) -> Result<bool, Error> {
    let sql = if inspection.is_postgres() {
        "SELECT 1 FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname = $1"
    } else {
        "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = $1"
    };
    Ok(!inspection.fetch(sql, &[table.into()]).await?.is_empty())
}

#[cfg(test)]
pub(crate) mod tests;
