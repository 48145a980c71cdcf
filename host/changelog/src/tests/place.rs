//! Places for shards: a folder with files of SQLite, and a cluster of PostgreSQL of this test's own, that ends with it.

use std::sync::Mutex;
use std::time::Duration;

use portolan_core::ids::RegionName;
use portolan_core::log::Epoch;
use portolan_core::loss::Durability;
use portolan_core::tenant_table::{ConflictRule, Identifier, Tables, TenantTable, Writers};
use portolan_test_postgres::{Addresses, Cluster, Database};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, SqliteConnection};
use tokio::task::{AbortHandle, JoinSet};

use crate::database::{Dialect, Value};
use crate::{Access, Capture, Engine, Error, PostgresConfig, Row, Store};

/// Longer than anything takes that works.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Where shards of one engine are made.
pub(super) struct Place {
    pub(super) dialect: Dialect,
    pub(super) capture: Capture,
    shipping: Shipping,
    made: portolan_test_postgres::Place,
}

/// Those who ship logs, until a case ends: each has a place of its own in the same cluster.
type Shipping = Mutex<JoinSet<()>>;

/// One shard's database.
pub(super) struct Shard {
    pub(super) engine: Engine,
    pub(super) store: Store,
    direct: String,
}

/// A connection of an application that knows no gateway.
pub(super) enum Direct {
    Postgres(PgConnection),
    Sqlite(SqliteConnection),
}

impl Clone for Place {
    fn clone(&self) -> Self {
        Self {
            dialect: self.dialect,
            capture: self.capture,
            shipping: Shipping::default(),
            made: self.made.clone(),
        }
    }
}

impl Place {
    pub(super) fn sqlite() -> Self {
        Self {
            dialect: Dialect::Sqlite,
            capture: Capture::Triggers,
            made: portolan_test_postgres::Place::sqlite(),
            shipping: Shipping::default(),
        }
    }

    pub(super) async fn postgres() -> Self {
        let made = portolan_test_postgres::Place::postgres().await;
        Self { dialect: Dialect::Postgres, capture: Capture::Triggers, made, shipping: Shipping::default() }
    }

    /// The same, where logs come out of the write-ahead log.
    pub(super) async fn logical() -> Self {
        let made = portolan_test_postgres::Place::decoding().await;
        Self { dialect: Dialect::Postgres, capture: Capture::Logical, made, shipping: Shipping::default() }
    }

    /// Opens a shard's database as a gateway of `eu` or another region does: where somebody must ship its log, this store does.
    pub(super) async fn open(&self, engine: &Engine, region: &str) -> Store {
        let store = self.unshipped(engine, region).await;
        self.ship(&store);
        store
    }

    /// The same, and nobody ships its log. A slot begins only when what other cases have open has ended.
    pub(super) async fn unshipped(&self, engine: &Engine, region: &str) -> Store {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            match Store::open(engine, RegionName::new(region).unwrap()).await {
                Err(Error::Busy(_)) if tokio::time::Instant::now() < deadline => {}
                opened => return opened.unwrap(),
            }
        }
    }

    /// A fresh database, without any table, and its superuser's or file's address.
    pub(super) async fn database(&self) -> (Engine, String) {
        match self.made.database().await {
            Database::Sqlite(path) => (Engine::Sqlite(path.clone()), path.display().to_string()),
            Database::Postgres(name, _) => (captured(self.cluster(), &name, self.capture), name),
        }
    }

    /// A shard of region `eu` or another, with these tables, writable under epoch 1 for long.
    pub(super) async fn shard(&self, region: &str, schema: &str, tables: &[TenantTable]) -> Shard {
        let shard = self.replica(region, schema, tables).await;
        let deadline = shard.store.clock().await.unwrap() + 3_600_000_000;
        shard.store.begin_epoch(Epoch(1), deadline).await.unwrap();
        shard
    }

    /// The same, but not writable.
    pub(super) async fn replica(&self, region: &str, schema: &str, tables: &[TenantTable]) -> Shard {
        let (engine, direct) = self.database().await;
        let store = self.open(&engine, region).await;
        let mut migration = store.maintain().await.unwrap();
        for statement in schema.split(';').filter(|statement| !statement.trim().is_empty()) {
            migration.execute(statement, &[]).await.unwrap();
        }
        migration.finish().await.unwrap();
        store.declare(&Tables::new(tables.to_vec()).unwrap(), 1).await.unwrap();
        Shard { engine, store, direct }
    }

    /// Ships a store's log as gateways do: what fails is tried again. It can be ended before the place is.
    pub(super) fn ship(&self, store: &Store) -> Option<AbortHandle> {
        let store = store.clone();
        store.ships().then(|| {
            self.shipping.lock().unwrap().spawn(async move {
                loop {
                    if let Err(error) = store.ship().await {
                        eprintln!("ships again: {error}");
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            })
        })
    }

    /// An application's connection, as the tenant of this name.
    pub(super) async fn direct(&self, shard: &Shard, tenant: &str) -> Direct {
        match self.made.cluster() {
            None => Direct::sqlite(&shard.direct, true).await,
            Some(cluster) => {
                let mut direct = Direct::Postgres(cluster.connect("app", &shard.direct).await);
                direct.ok(&format!("SELECT set_config('portolan.tenant', '{tenant}', false)")).await;
                direct
            }
        }
    }

    /// A connection that may look at everything and is held by nothing but triggers.
    pub(super) async fn admin(&self, shard: &Shard) -> Direct {
        match self.made.cluster() {
            None => Direct::sqlite(&shard.direct, true).await,
            Some(cluster) => Direct::Postgres(cluster.connect("postgres", &shard.direct).await),
        }
    }

    pub(super) fn cluster(&self) -> &Cluster {
        self.made.cluster().unwrap()
    }

    pub(super) fn is_sqlite(&self) -> bool {
        self.dialect == Dialect::Sqlite
    }
}

impl Store {
    pub(super) fn is_sqlite(&self) -> bool {
        self.dialect() == Dialect::Sqlite
    }
}

impl Shard {
    pub(super) const fn of(engine: Engine, store: Store, direct: String) -> Self {
        Self { engine, store, direct }
    }
}

impl Direct {
    pub(super) async fn sqlite(path: &str, recursive_triggers: bool) -> Self {
        let options = sqlx::sqlite::SqliteConnectOptions::new()
            .filename(path)
            .busy_timeout(Duration::from_secs(20))
            .pragma("recursive_triggers", if recursive_triggers { "ON" } else { "OFF" });
        Self::Sqlite(SqliteConnection::connect_with(&options).await.unwrap())
    }

    pub(super) async fn run(&mut self, sql: &str) -> Result<(), Error> {
        let sql = AssertSqlSafe(sql.to_owned());
        match self {
            Self::Postgres(connection) => connection.execute(sqlx::raw_sql(sql)).await.map(drop),
            Self::Sqlite(connection) => connection.execute(sqlx::raw_sql(sql)).await.map(drop),
        }
        .map_err(|error| Error::of(&error))
    }

    /// Runs what must be taken.
    pub(super) async fn ok(&mut self, sql: &str) {
        if let Err(error) = self.run(sql).await {
            panic!("{sql}: {error}");
        }
    }

    /// Runs what must be refused, and says with which words.
    pub(super) async fn refused(&mut self, sql: &str) -> Error {
        self.run(sql).await.expect_err(sql)
    }

    /// Runs a statement with a number and a fraction.
    pub(super) async fn bind(&mut self, sql: &'static str, number: i64, real: f64) {
        match self {
            Self::Postgres(connection) => {
                sqlx::query(sql).bind(number).bind(real).execute(connection).await.map(drop).unwrap();
            }
            Self::Sqlite(connection) => {
                sqlx::query(sql).bind(number).bind(real).execute(connection).await.map(drop).unwrap();
            }
        }
    }

    /// All rows of one text column, in order.
    pub(super) async fn texts(&mut self, sql: &str) -> Vec<String> {
        let sql = AssertSqlSafe(sql.to_owned());
        match self {
            Self::Postgres(connection) => sqlx::query_scalar(sql).fetch_all(connection).await.unwrap(),
            Self::Sqlite(connection) => sqlx::query_scalar(sql).fetch_all(connection).await.unwrap(),
        }
    }
}

/// A database of a cluster, with its roles.
pub(super) fn engine(cluster: &Cluster, database: &str) -> Engine {
    captured(cluster, database, Capture::Triggers)
}

fn captured(cluster: &Cluster, database: &str, capture: Capture) -> Engine {
    let Addresses { applier, owner, writer } = cluster.addresses(database);
    Engine::Postgres(PostgresConfig { access: Access::default(), applier, capture, owner, writer })
}

pub(super) fn table(name: &str, tenant: Option<&str>, key: &[&str], writers: Writers) -> TenantTable {
    TenantTable {
        name: Identifier::new(name).unwrap(),
        tenant: tenant.map(|column| Identifier::new(column).unwrap()),
        key: key.iter().map(|column| Identifier::new(column).unwrap()).collect(),
        conflict: ConflictRule::LastWriterWins,
        writers,
        durability: Durability::Local,
    }
}

/// The first value of the first row, as text.
pub(super) fn text(rows: &[Row]) -> String {
    match rows.first().map(|row| row.value(0)) {
        Some(Value::Text(text)) => text.clone(),
        other => panic!("{other:?}"),
    }
}
