//! A cluster of PostgreSQL of a test's own, that ends with it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's helper fails as tests do"
)]
#![allow(clippy::missing_panics_doc, reason = "a test's helper panics where a test would")]

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use tempfile::TempDir;

/// Longer than anything takes that works.
const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster of PostgreSQL in a folder of its own, reached by its socket alone. Its roles are `own`, `app` and `put`, as a
/// shard's owner, writer and applier; it ends with its owner.
#[derive(Debug)]
pub struct Cluster {
    decodes: bool,
    folder: TempDir,
    port: Option<u16>,
    server: std::sync::Mutex<Option<Child>>,
    user: Option<(u32, u32)>,
}

/// Where a test makes its databases: files of SQLite in a folder, or databases of one cluster of PostgreSQL. Clones share it, and
/// the last takes all of it away.
#[derive(Clone, Debug)]
pub struct Place {
    cluster: Option<Arc<Cluster>>,
    folder: Arc<TempDir>,
    next: Arc<AtomicU32>,
}

/// A database that is there, or a file that is made when it is opened.
#[derive(Clone, Debug)]
pub enum Database {
    /// A database of PostgreSQL, by its name.
    Postgres(String, Addresses),
    /// A file of SQLite.
    Sqlite(PathBuf),
}

impl Place {
    /// A folder.
    #[must_use]
    pub fn sqlite() -> Self {
        Self { cluster: None, folder: Arc::new(tempfile::tempdir().unwrap()), next: Arc::default() }
    }

    /// A cluster of its own.
    pub async fn postgres() -> Self {
        Self { cluster: Some(Arc::new(Cluster::start().await)), ..Self::sqlite() }
    }

    /// A cluster of its own that decodes its write-ahead log: see [`Cluster::start_decoding`].
    pub async fn decoding() -> Self {
        Self { cluster: Some(Arc::new(Cluster::start_decoding().await)), ..Self::sqlite() }
    }

    /// The cluster, if it is one.
    #[must_use]
    pub fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_deref()
    }

    /// Where its files of SQLite are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Does it make files of SQLite?
    #[must_use]
    pub const fn is_sqlite(&self) -> bool {
        self.cluster.is_none()
    }

    /// A number that nobody else got.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// A fresh database, without any table.
    pub async fn database(&self) -> Database {
        let name = format!("shard_{}", self.number());
        match &self.cluster {
            None => Database::Sqlite(self.folder.path().join(format!("{name}.db"))),
            Some(cluster) => {
                let addresses = cluster.database(&name).await;
                Database::Postgres(name, addresses)
            }
        }
    }
}

/// The addresses of a database, one for each role of a shard.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// The applier's.
    pub applier: String,
    /// The owner's.
    pub owner: String,
    /// The writer's.
    pub writer: String,
}

impl Cluster {
    /// Makes a cluster and starts it.
    ///
    /// # Panics
    /// When PostgreSQL is not there, or does not start.
    pub async fn start() -> Self {
        Self::make(false, false).await
    }

    /// The same, with slots of logical decoding, which the applier may read.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub async fn start_decoding() -> Self {
        Self::make(false, true).await
    }

    /// The same, and reached over the network of this machine too, with TLS and passwords alone: as [`Self::secured_url`] says.
    /// A role has no password until it is given one.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub async fn start_secured() -> Self {
        Self::make(true, true).await
    }

    /// A cluster that follows another by the server's own replication, and can be read meanwhile.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub async fn standby_of(primary: &Self) -> Self {
        let cluster = Self::empty(None, primary.decodes);
        let (data, host) = (cluster.data(), primary.folder().display().to_string());
        cluster.run(
            "pg_basebackup",
            &["-D", &data, "-h", &host, "-U", "postgres", "-R", "-X", "stream", "-c", "fast"],
        );
        cluster.up().await;
        cluster
    }

    /// A folder of the user under which servers run.
    fn empty(port: Option<u16>, decodes: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // PostgreSQL never runs as root.
        let root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
        let user =
            root.then(|| user("postgres").or_else(|| user("nobody")).expect("a user that is not root"));
        if let Some((uid, gid)) = user {
            std::os::unix::fs::chown(folder.path(), Some(uid), Some(gid)).unwrap();
        }
        Self { decodes, folder, port, server: std::sync::Mutex::new(None), user }
    }

    async fn make(secured: bool, decodes: bool) -> Self {
        let cluster = Self::empty(secured.then(free_port), decodes);
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
        if secured {
            cluster.secure();
        }
        cluster.up().await;
        for statement in [
            "CREATE ROLE own LOGIN NOSUPERUSER",
            "CREATE ROLE app LOGIN NOSUPERUSER",
            "CREATE ROLE put LOGIN NOSUPERUSER",
            "GRANT app TO own",
        ] {
            cluster.admin(statement).await;
        }
        if decodes {
            cluster.admin("ALTER ROLE put REPLICATION").await;
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

    /// Gives the server a certificate of its own, and wants passwords of those who come over the network.
    fn secure(&self) {
        let names = ["localhost", "127.0.0.1"].map(str::to_owned).to_vec();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        self.put("data/server.crt", &made.cert.pem());
        self.put("data/server.key", &made.signing_key.serialize_pem());
        self.put("data/pg_hba.conf", "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n");
    }

    /// Writes a file that the server alone reads.
    fn put(&self, name: &str, text: &str) {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        if let Some((uid, gid)) = self.user {
            std::os::unix::fs::chown(&path, Some(uid), Some(gid)).unwrap();
        }
    }

    /// A certificate that vouches for the secured server, as PEM.
    #[must_use]
    pub fn certificate(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("data/server.crt")).unwrap()
    }

    /// The address of a database over the network, without a password.
    #[must_use]
    pub fn secured_url(&self, role: &str, database: &str) -> String {
        format!("postgres://{role}@127.0.0.1:{}/{database}", self.port.expect("a secured cluster"))
    }

    /// Starts the server, and waits until it answers.
    pub async fn up(&self) {
        let socket = self.folder.path().display().to_string();
        let log =
            std::fs::File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let server = self
            .command("postgres")
            .args(["-D", &self.data(), "-k", &socket, "-c", "fsync=off"])
            .args(self.network())
            .args(["-c", "max_connections=250", "-c", "shared_buffers=32MB"])
            .args(self.decoding())
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

    /// Slots for as many databases as a suite makes, and one that is behind by this much is lost with the next checkpoint.
    fn decoding(&self) -> &'static [&'static str] {
        if !self.decodes {
            return &[];
        }
        &[
            "-c",
            "wal_level=logical",
            "-c",
            "max_replication_slots=120",
            "-c",
            "max_wal_senders=120",
            "-c",
            "max_slot_wal_keep_size=1GB",
        ]
    }

    fn network(&self) -> Vec<String> {
        let settings = match self.port {
            None => vec!["listen_addresses=".to_owned()],
            Some(port) => {
                vec!["listen_addresses=127.0.0.1".to_owned(), format!("port={port}"), "ssl=on".to_owned()]
            }
        };
        settings.into_iter().flat_map(|setting| ["-c".to_owned(), setting]).collect()
    }

    /// Stops the server as a power cut would.
    pub fn down(&self) {
        let server = self.server.lock().unwrap().take();
        if let Some(mut server) = server {
            self.run("pg_ctl", &["stop", "-D", &self.data(), "-m", "immediate"]);
            server.wait().unwrap();
        }
    }

    /// Ends the server and all its processes at once, with SIGKILL.
    pub async fn kill(&self) {
        let server = self.server.lock().unwrap().take();
        if let Some(mut server) = server {
            // Its children notice that it has gone only when they look, and its memory is free when the last has ended.
            let children = children(server.id());
            server.kill().unwrap();
            server.wait().unwrap();
            for child in &children {
                drop(Command::new("kill").args(["-KILL", &child.to_string()]).stderr(Stdio::null()).status());
            }
            let deadline = tokio::time::Instant::now() + PATIENCE;
            while children.iter().any(|child| Path::new(&format!("/proc/{child}/exe")).exists()) {
                assert!(tokio::time::Instant::now() < deadline, "processes of the server stay");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    /// Makes the stopped server's data a standby's, and promotes it: a new timeline begins.
    pub async fn promote(&self) {
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

    /// The server's first process, whose children serve connections.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.server.lock().unwrap().as_ref().expect("a running server").id()
    }

    /// Where its socket is.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A connection as a role.
    pub async fn connect(&self, role: &str, database: &str) -> PgConnection {
        self.try_connect(role, database).await.unwrap()
    }

    /// Runs statements as the superuser.
    pub async fn admin(&self, sql: &str) {
        let mut connection = self.connect("postgres", "postgres").await;
        connection.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await.unwrap();
        connection.close().await.unwrap();
    }

    /// A connection that has run these statements, and stays open until it is dropped.
    pub async fn hold(&self, role: &str, database: &str, sql: &str) -> PgConnection {
        let mut connection = self.connect(role, database).await;
        connection.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await.unwrap();
        connection
    }

    /// Makes a database, and tells its addresses.
    pub async fn database(&self, name: &str) -> Addresses {
        self.admin(&format!("CREATE DATABASE {name} OWNER own")).await;
        self.addresses(name)
    }

    /// The addresses of a database.
    #[must_use]
    pub fn addresses(&self, database: &str) -> Addresses {
        let url = |role| self.url(role, database);
        Addresses { applier: url("put"), owner: url("own"), writer: url("app") }
    }

    /// The address of a database, as a role.
    #[must_use]
    pub fn url(&self, role: &str, database: &str) -> String {
        let port = self.port.unwrap_or(5432);
        format!("postgres://{role}@localhost:{port}/{database}?host={}", self.folder.path().display())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.down();
    }
}

/// The processes that another one has started.
fn children(of: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let parent = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // After the name, which may hold anything: the state, then the parent.
        stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse::<u32>().ok()
    };
    numbers.filter(|pid| parent(pid) == Some(of)).collect()
}

/// A port that nobody listens on.
fn free_port() -> u16 {
    std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
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
