//! A shard as it is read: connections that cannot write, in transactions that see one tenant or all, ended when nobody waits any more.

use std::path::PathBuf;
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use portolan_changelog::{Access, Dialect, reader};
use portolan_core::tenant_table::TenantTable;
use serde::{Deserialize, Serialize};
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgPool;
use sqlx::sqlite::SqlitePool;
use tokio::sync::mpsc::Sender;

use crate::catalogue::Found;
use crate::error::Error;
use crate::fragment::Node;
use crate::fragment::sql::Statement;
use crate::world::World;

mod batch;
mod postgres;
mod sqlite;

/// Where a shard is read. It may hold a password: it is handed over by a pipe alone, and never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Address {
    /// A database of PostgreSQL, as the role that reads: the applier for all tenants, the writer for one.
    Postgres {
        /// How server and gateway prove who they are.
        access: Access,
        /// The file with the role's password, if it is not in the address.
        password: Option<PathBuf>,
        /// The address, as that role.
        url: String,
    },
    /// A file of SQLite.
    Sqlite(PathBuf),
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Postgres { .. } => f.write_str("Postgres"),
            Self::Sqlite(path) => f.debug_tuple("Sqlite").field(path).finish(),
        }
    }
}

/// A shard's connections. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    name: Arc<str>,
    pool: Pool,
}

#[derive(Clone, Debug)]
enum Pool {
    Postgres(PgPool),
    Sqlite(SqlitePool),
}

/// Where batches of one statement go.
pub(crate) type Batches = Sender<datafusion::common::Result<RecordBatch>>;

/// A connection in use. One that is dropped within a statement is closed, and never goes back among the others.
struct Held<D: sqlx::Database> {
    clean: bool,
    connection: PoolConnection<D>,
}

impl<D: sqlx::Database> Held<D> {
    const fn new(connection: PoolConnection<D>) -> Self {
        Self { clean: false, connection }
    }
}

impl<D: sqlx::Database> Drop for Held<D> {
    fn drop(&mut self) {
        if !self.clean {
            self.connection.close_on_drop();
        }
    }
}

impl Source {
    /// Connects to a shard, and reads which columns its tables have.
    ///
    /// # Errors
    /// What the shard says, without its address.
    pub(crate) async fn open(
        name: &str,
        address: &Address,
        tables: &[TenantTable],
    ) -> Result<(Self, Found), String> {
        let (pool, found) = match address {
            Address::Postgres { access, password, url } => {
                let options = reader(url, password.as_deref(), access).map_err(|error| error.to_string())?;
                let pool = postgres::connect(options).await?;
                let found = postgres::columns(&pool, tables).await.map_err(|error| brief(&error))?;
                (Pool::Postgres(pool), found)
            }
            Address::Sqlite(path) => {
                let pool = sqlite::connect(path).await?;
                let found = sqlite::columns(&pool, tables).await?;
                (Pool::Sqlite(pool), found)
            }
        };
        Ok((Self { name: name.into(), pool }, found))
    }

    pub(crate) const fn dialect(&self) -> Dialect {
        match self.pool {
            Pool::Postgres(_) => Dialect::Postgres,
            Pool::Sqlite(_) => Dialect::Sqlite,
        }
    }

    /// Runs a statement, and hands its rows on as they come. Ends early when nobody takes them.
    ///
    /// # Errors
    /// [`Error::Shard`] when the shard refuses or goes away, or holds what is not of its column's type; [`Error::Limit`] and
    /// [`Error::Time`].
    ///
    /// # Cancel safety
    /// When it is dropped, the connection is closed, and the shard ends what it is at.
    pub(crate) async fn read(
        &self,
        statement: &Statement,
        schema: SchemaRef,
        world: &World,
        batches: Batches,
    ) -> Result<(), Error> {
        let read = match &self.pool {
            Pool::Postgres(pool) => postgres::read(pool, statement, schema, world, &batches).await,
            Pool::Sqlite(pool) => sqlite::read(pool, statement, schema, world, &batches).await,
        };
        read.map_err(|failed| self.failed(failed))
    }

    fn failed(&self, failed: Failed) -> Error {
        match failed {
            Failed::Own(error) => error,
            Failed::Shard(why) => Error::shard(&self.name, why),
        }
    }

    /// How many rows a statement will have, by the shard's own planner, or none when the shard cannot tell without running it.
    ///
    /// # Errors
    /// When the shard does not answer.
    pub(crate) async fn foresee(
        &self,
        node: &Node,
        statement: &Statement,
        world: &World,
    ) -> Result<Option<u64>, Error> {
        let rows = match &self.pool {
            Pool::Postgres(pool) => postgres::foresee(pool, statement, world).await.map(Some),
            Pool::Sqlite(pool) => sqlite::foresee(pool, node).await,
        };
        rows.map_err(|failed| self.failed(failed))
    }
}

/// Why a statement was not read to its end.
enum Failed {
    Own(Error),
    Shard(String),
}

impl From<sqlx::Error> for Failed {
    fn from(error: sqlx::Error) -> Self {
        Self::Shard(brief(&error))
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Own(error)
    }
}

/// What a database says, without values and addresses.
fn brief(error: &sqlx::Error) -> String {
    match error.as_database_error() {
        Some(database) => database.message().to_owned(),
        None => match error {
            sqlx::Error::PoolTimedOut => "it does not answer".to_owned(),
            sqlx::Error::Io(error) => format!("the connection broke: {error}"),
            _ => "the connection broke".to_owned(),
        },
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use sqlx::postgres::PgPool;

    /// Connections as queries have them.
    pub(crate) async fn postgres(url: &str) -> PgPool {
        super::postgres::connect(url.parse().unwrap()).await.unwrap()
    }
}
