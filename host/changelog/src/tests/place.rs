//! Places for shards: a folder with files of SQLite, and a cluster of PostgreSQL of this test's own, that ends with it.

use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use portolan_core::ids::RegionName;
use portolan_core::log::Epoch;
use portolan_core::tenant_table::{ConflictRule, Identifier, Tables, TenantTable, Writers};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, SqliteConnection};
use tempfile::TempDir;

use crate::database::{Dialect, Value};
use crate::{Engine, Error, PostgresConfig, Row, Store};

/// Longer than anything takes that works.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Where shards of one engine are made.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) dialect: Dialect,
    cluster: Option<Arc<Cluster>>,
    folder: Arc<TempDir>,
    next: Arc<AtomicU32>,
}

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

impl Place {
    pub(super) fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { dialect: Dialect::Sqlite, cluster: None, folder: Arc::new(folder), next: Arc::default() }
    }

    pub(super) async fn postgres() -> Self {
        let cluster = Some(Arc::new(Cluster::start().await));
        let folder = Arc::new(tempfile::tempdir().unwrap());
        Self { dialect: Dialect::Postgres, cluster, folder, next: Arc::default() }
    }

    /// A fresh database, without any table, and its superuser's or file's address.
    pub(super) async fn database(&self) -> (Engine, String) {
        let name = format!("shard_{}", self.next.fetch_add(1, Ordering::Relaxed));
        match &self.cluster {
            None => {
                let path = self.folder.path().join(format!("{name}.db"));
                (Engine::Sqlite(path.clone()), path.display().to_string())
            }
            Some(cluster) => {
                cluster.admin(&format!("CREATE DATABASE {name} OWNER own")).await;
                (cluster.engine(&name), name)
            }
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
        let store = Store::open(&engine, RegionName::new(region).unwrap()).await.unwrap();
        let mut migration = store.maintain().await.unwrap();
        for statement in schema.split(';').filter(|statement| !statement.trim().is_empty()) {
            migration.execute(statement, &[]).await.unwrap();
        }
        migration.finish().await.unwrap();
        store.declare(&Tables::new(tables.to_vec()).unwrap(), 1).await.unwrap();
        Shard { engine, store, direct }
    }

    /// An application's connection, as the tenant of this name.
    pub(super) async fn direct(&self, shard: &Shard, tenant: &str) -> Direct {
        match &self.cluster {
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
        match &self.cluster {
            None => Direct::sqlite(&shard.direct, true).await,
            Some(cluster) => Direct::Postgres(cluster.connect("postgres", &shard.direct).await),
        }
    }

    pub(super) fn cluster(&self) -> &Cluster {
        self.cluster.as_ref().unwrap()
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

/// A cluster of PostgreSQL in a folder of its own, reached by its socket alone.
pub(super) struct Cluster {
    folder: TempDir,
    server: std::sync::Mutex<Option<Child>>,
    user: Option<(u32, u32)>,
}

impl Cluster {
    pub(super) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // PostgreSQL never runs as root.
        let root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
        let user =
            root.then(|| user("postgres").or_else(|| user("nobody")).expect("a user that is not root"));
        if let Some((uid, gid)) = user {
            std::os::unix::fs::chown(folder.path(), Some(uid), Some(gid)).unwrap();
        }
        let cluster = Self { folder, server: std::sync::Mutex::new(None), user };
        cluster.run(
            "initdb",
            &[
                "-D",
                &cluster.data(),
                "-U",
                "postgres",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C",
                "--no-sync",
            ],
        );
        cluster.up().await;
        for statement in [
            "CREATE ROLE own LOGIN NOSUPERUSER",
            "CREATE ROLE app LOGIN NOSUPERUSER",
            "CREATE ROLE put LOGIN NOSUPERUSER",
            "GRANT app TO own",
        ] {
            cluster.admin(statement).await;
        }
        cluster
    }

    fn data(&self) -> String {
        self.folder.path().join("data").display().to_string()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(programs().join(program));
        command.current_dir(self.folder.path()).env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null());
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    fn run(&self, program: &str, args: &[&str]) {
        let output = self.command(program).args(args).output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Starts the server, and waits until it answers.
    pub(super) async fn up(&self) {
        let socket = self.folder.path().display().to_string();
        let log =
            std::fs::File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let server = self
            .command("postgres")
            .args(["-D", &self.data(), "-k", &socket, "-c", "listen_addresses=", "-c", "fsync=off"])
            .args(["-c", "max_connections=250", "-c", "shared_buffers=32MB"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        *self.server.lock().unwrap() = Some(server);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while self.try_connect("postgres", "postgres").await.is_err() {
            let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(tokio::time::Instant::now() < deadline, "the server does not start: {log}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Stops the server as a power cut would.
    pub(super) fn down(&self) {
        let server = self.server.lock().unwrap().take();
        if let Some(mut server) = server {
            self.run("pg_ctl", &["stop", "-D", &self.data(), "-m", "immediate"]);
            server.wait().unwrap();
        }
    }

    /// Makes the stopped server's data a standby's, and promotes it: a new timeline begins.
    pub(super) async fn promote(&self) {
        let signal = Path::new(&self.data()).join("standby.signal");
        std::fs::write(&signal, "").unwrap();
        if let Some((uid, gid)) = self.user {
            std::os::unix::fs::chown(signal, Some(uid), Some(gid)).unwrap();
        }
        self.up().await;
        self.admin("SELECT pg_promote()").await;
    }

    async fn try_connect(&self, role: &str, database: &str) -> Result<PgConnection, sqlx::Error> {
        PgConnection::connect(&self.url(role, database)).await
    }

    pub(super) async fn connect(&self, role: &str, database: &str) -> PgConnection {
        self.try_connect(role, database).await.unwrap()
    }

    pub(super) async fn admin(&self, sql: &str) {
        let mut connection = self.connect("postgres", "postgres").await;
        connection.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await.unwrap();
        connection.close().await.unwrap();
    }

    fn url(&self, role: &str, database: &str) -> String {
        format!("postgres://{role}@localhost/{database}?host={}", self.folder.path().display())
    }

    pub(super) fn engine(&self, database: &str) -> Engine {
        Engine::Postgres(PostgresConfig {
            applier: self.url("put", database),
            owner: self.url("own", database),
            writer: self.url("app", database),
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.down();
    }
}

/// The newest PostgreSQL that Debian has installed here.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .expect("PostgreSQL 15 or later: `apt-get install postgresql`");
    let newest =
        versions.flatten().filter_map(|version| version.file_name().to_str()?.parse::<u32>().ok()).max();
    PathBuf::from(format!("/usr/lib/postgresql/{}/bin", newest.expect("a version of PostgreSQL")))
}

/// The numbers of a user and its group.
fn user(name: &str) -> Option<(u32, u32)> {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

pub(super) fn table(name: &str, tenant: Option<&str>, key: &[&str], writers: Writers) -> TenantTable {
    TenantTable {
        name: Identifier::new(name).unwrap(),
        tenant: tenant.map(|column| Identifier::new(column).unwrap()),
        key: key.iter().map(|column| Identifier::new(column).unwrap()).collect(),
        conflict: ConflictRule::LastWriterWins,
        writers,
    }
}

/// The first value of the first row, as text.
pub(super) fn text(rows: &[Row]) -> String {
    match rows.first().map(|row| row.value(0)) {
        Some(Value::Text(text)) => text.clone(),
        other => panic!("{other:?}"),
    }
}
