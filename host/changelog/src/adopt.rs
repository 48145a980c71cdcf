//! Adopting rows that were there before their table was declared: each gets the lowest version.
//!
//! A table may be larger than one statement can walk over, so it goes by the primary key, some thousands of rows in each
//! transaction. Triggers come first: a row that is written meanwhile has a version, and replaces the lowest as if it had
//! had it. How far it has come is kept in the database, so that whoever declares the table next goes on; several may do so
//! at once. Until the end, nobody copies rows or forgets a tenant, because both go by versions.

use portolan_core::tenant_table::Tables;

use crate::database::{Dialect, Session, Value};
use crate::defaults::{ADOPT_LOCK, ADOPT_ROWS, ADOPT_TRIES, EXAMPLES_MAX};
use crate::error::Error;
use crate::postgres;
use crate::store::{Role, Store};
use crate::table::Declared;

/// From here on, rows of a table may have no version.
pub(crate) async fn begin(session: &mut Session, table: &str) -> Result<(), Error> {
    let sql = "UPDATE portolan_declared SET adopting = '' WHERE table_name = $1";
    session.run(sql, &[table.into()]).await.map(drop)
}

/// Refuses while there may be rows without a version.
pub(crate) async fn done(session: &mut Session) -> Result<(), Error> {
    let sql = "SELECT table_name FROM portolan_declared WHERE adopting IS NOT NULL LIMIT 1";
    match session.query(sql, &[]).await?.first() {
        None => Ok(()),
        Some(row) => Err(Error::Busy(format!("rows of `{}` have no versions yet: wait", row.text(0)?))),
    }
}

impl Store {
    /// Looks for rows that cannot be adopted, in tables that are not captured yet: once triggers are there, nobody can mend them.
    pub(crate) async fn check_rows(&self, tables: &Tables) -> Result<(), Error> {
        for table in tables.iter() {
            let mut session = self.pool(Role::Owner).snapshot().await?;
            let sql = "SELECT 1 FROM portolan_declared WHERE table_name = $1";
            let captured = !session.query(sql, &[table.name.as_str().into()]).await?.is_empty();
            let table = self.find(&mut session, table).await?;
            let order = order(&mut session, &table).await?;
            session.rollback().await?;
            let mut after = (!captured).then(String::new);
            while let Some(from) = after {
                let mut session = self.pool(Role::Owner).snapshot().await?;
                let page = Page::find(&mut session, &table, &order, from).await?;
                page.check(&mut session).await?;
                session.rollback().await?;
                after = page.through;
            }
        }
        Ok(())
    }

    /// Gives rows the lowest version that have none, one page after the other.
    pub(crate) async fn adopt(&self, table: &Declared) -> Result<(), Error> {
        let order = order(&mut *self.acquire(Role::Owner).await?, table).await?;
        let mut tries = 0;
        loop {
            match self.adopt_page(table, &order).await {
                Ok(true) => tries = 0,
                Ok(false) => return Ok(()),
                // A writer holds rows of the page for long.
                Err(Error::Busy(why)) if tries >= ADOPT_TRIES => return Err(Error::Busy(why)),
                Err(Error::Busy(_)) => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns whether there was one.
    async fn adopt_page(&self, table: &Declared, order: &[String]) -> Result<bool, Error> {
        let name = Value::from(table.table.name.as_str());
        let mut session = self.begin(Role::Owner).await?;
        if session.dialect() == Dialect::Postgres {
            postgres::one_at_a_time(&mut session).await?;
        }
        let sql = "SELECT adopting FROM portolan_declared WHERE table_name = $1";
        let rows = session.query(sql, std::slice::from_ref(&name)).await?;
        let Some(from) = rows.first().map(|row| row.text_or_null(0)).transpose()?.flatten() else {
            session.rollback().await?;
            return Ok(false);
        };
        let page = Page::find(&mut session, table, order, from).await?;
        page.check(&mut session).await?;
        page.adopt(&mut session, self.origin().as_str()).await?;
        let sql = "UPDATE portolan_declared SET adopting = $2 WHERE table_name = $1";
        session.run(sql, &[name, page.through.into()]).await?;
        session.commit().await?;
        Ok(true)
    }
}

/// Some rows of a table, in the order of its primary key.
struct Page<'a> {
    table: &'a Declared,
    /// The condition that a row is on it, with `$1` and `$2`.
    within: String,
    from: String,
    /// The last row's key; none on the last page.
    through: Option<String>,
}

impl<'a> Page<'a> {
    /// The page after a key, or the first after `''`.
    async fn find(
        session: &mut Session,
        table: &'a Declared,
        order: &[String],
        from: String,
    ) -> Result<Self, Error> {
        let dialect = session.dialect();
        if dialect == Dialect::Postgres {
            for setting in POSTGRES_SETTINGS {
                session.execute(setting, &[]).await?;
            }
        }
        let columns = order.iter().map(|column| format!("own.\"{column}\"")).collect::<Vec<_>>().join(", ");
        let bound = |argument: &str| {
            let value = |column: &String| table.key_value(dialect, argument, column);
            order.iter().map(value).collect::<Vec<_>>().join(", ")
        };
        // `$1` is named in any case: both engines want as many values as they are given.
        let first = match dialect {
            Dialect::Postgres => "$1::text IS NOT NULL".to_owned(),
            Dialect::Sqlite => "$1 IS NOT NULL".to_owned(),
        };
        let mut within = if from.is_empty() { first } else { format!("({columns}) > ({})", bound("$1")) };
        let sql = format!(
            "SELECT {} FROM {} own WHERE {within} ORDER BY {columns} LIMIT 1 OFFSET {}",
            table.key_text(dialect),
            table.name(dialect),
            ADOPT_ROWS - 1
        );
        let last = session.fetch(&sql, &[from.as_str().into()]).await?;
        let through = last.first().map(|row| row.text(0)).transpose()?;
        within += &match (dialect, &through) {
            (_, Some(_)) => format!(" AND ({columns}) <= ({})", bound("$2")),
            (Dialect::Postgres, None) => " AND $2::text IS NULL".to_owned(),
            (Dialect::Sqlite, None) => " AND $2 IS NULL".to_owned(),
        };
        Ok(Self { table, within, from, through })
    }

    fn args(&self) -> [Value; 2] {
        [self.from.as_str().into(), self.through.clone().into()]
    }

    /// Refuses rows whose tenant is no tenant's name, or whose key is none.
    async fn check(&self, session: &mut Session) -> Result<(), Error> {
        let (dialect, table) = (session.dialect(), &self.table.table);
        let mut rules = Vec::new();
        if let Some(tenant) = &table.tenant {
            let rule = names_tenant(dialect, &format!("own.\"{tenant}\""));
            let what = format!(
                "whose `{tenant}` names no tenant (a name is 1 to 63 lower-case letters, digits, `-`, `_` and `.`, with a \
                 letter or digit at both ends)"
            );
            rules.push((rule, what));
        }
        if dialect == Dialect::Sqlite {
            // SQLite lets keys be NULL.
            let rule = table.key.iter().map(|column| format!("own.\"{column}\" IS NOT NULL"));
            rules.push((
                format!("({})", rule.collect::<Vec<_>>().join(" AND ")),
                "whose key holds NULL".to_owned(),
            ));
        }
        for (rule, what) in rules {
            let sql = format!(
                "SELECT {} FROM {} own WHERE {} AND NOT {rule} LIMIT {EXAMPLES_MAX}",
                self.table.key_text(dialect),
                self.table.name(dialect),
                self.within,
            );
            let rows = session.fetch(&sql, &self.args()).await?;
            let examples = rows.iter().map(|row| row.text(0)).collect::<Result<Vec<_>, _>>()?;
            if !examples.is_empty() {
                let examples = examples.join(", ");
                let reason =
                    format!("has rows {what}: {examples}. Correct them, then declare the table again");
                return Err(Error::Table { table: table.name.to_string(), reason });
            }
        }
        Ok(())
    }

    async fn adopt(&self, session: &mut Session, origin: &str) -> Result<(), Error> {
        let dialect = session.dialect();
        let tenant = self.table.table.tenant.as_ref();
        let tenant = tenant.map_or_else(|| "NULL".to_owned(), |column| format!("own.\"{column}\""));
        // Names of tables may look like words of both engines: this is written for each.
        let rows = dialect.sql("portolan_row");
        let sql = format!(
            "INSERT INTO {rows} (table_name, key, tenant, placement, epoch, v, origin, deleted) \
             SELECT '{}', {}, CAST({tenant} AS TEXT), 0, 0, 0, $3, 0 FROM {} own WHERE {} ON CONFLICT DO NOTHING",
            self.table.table.name,
            self.table.key_text(dialect),
            self.table.name(dialect),
            self.within,
        );
        let [from, through] = self.args();
        if dialect == Dialect::Postgres {
            // A writer that holds one of these rows may come to want another: it is not the one to be ended then.
            let sql = format!("SET LOCAL lock_timeout = {}", ADOPT_LOCK.as_millis());
            session.execute(&sql, &[]).await?;
        }
        session.execute(&sql, &[from, through, origin.into()]).await.map(drop)
    }
}

/// The columns of a table's primary key, in the order of its index.
async fn order(session: &mut Session, table: &Declared) -> Result<Vec<String>, Error> {
    let sql = match session.dialect() {
        Dialect::Postgres => {
            "SELECT a.attname::text FROM pg_index i, unnest(i.indkey) WITH ORDINALITY k (attnum, at), pg_attribute a \
             WHERE i.indrelid = ('public.' || quote_ident($1))::regclass AND i.indisprimary \
             AND a.attrelid = i.indrelid AND a.attnum = k.attnum ORDER BY k.at"
        }
        Dialect::Sqlite => "SELECT name FROM pragma_table_info($1) WHERE pk > 0 ORDER BY pk",
    };
    let rows = session.fetch(sql, &[table.table.name.as_str().into()]).await?;
    rows.iter().map(|row| row.text(0)).collect()
}

/// The owner sees rows of all tenants, writes keys as the triggers do whatever its session says, and walks along the
/// primary key: what a page costs must not depend on statistics.
const POSTGRES_SETTINGS: &[&str] = &[
    "SELECT set_config('portolan.maintenance', 'on', true)",
    "SET LOCAL timezone = 'UTC'",
    "SET LOCAL datestyle = 'ISO, YMD'",
    "SET LOCAL intervalstyle = 'iso_8601'",
    "SET LOCAL bytea_output = 'hex'",
    "SET LOCAL extra_float_digits = 1",
    "SET LOCAL lc_monetary = 'C'",
    "SET LOCAL enable_seqscan = off",
    "SET LOCAL enable_bitmapscan = off",
    "SET LOCAL enable_sort = off",
];

/// Does a value name a tenant? The same rule as [`portolan_core::ids::check_name`].
pub(crate) fn names_tenant(dialect: Dialect, value: &str) -> String {
    match dialect {
        Dialect::Postgres => {
            format!("coalesce({value}::text ~ '^[a-z0-9]([a-z0-9._-]{{0,61}}[a-z0-9])?$', false)")
        }
        Dialect::Sqlite => format!(
            "(typeof({value}) = 'text' AND length({value}) BETWEEN 1 AND 63 AND {value} NOT GLOB '*[^a-z0-9._-]*' \
             AND {value} GLOB '[a-z0-9]*' AND {value} GLOB '*[a-z0-9]')"
        ),
    }
}
