//! A cluster of PostgreSQL of a test's own, that ends with it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's helper fails as tests do"
)]
#![allow(clippy::missing_panics_doc, reason = "a test's helper panics where a test would")]

use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use tempfile::TempDir;

/// Longer than anything takes that works.
const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster of PostgreSQL in a folder of its own, reached by its socket alone. Its roles are `own`, `app` and `put`, as a
/// shard's owner, writer and applier; it ends with its owner.
#[derive(Debug)]
pub struct Cluster {
    folder: TempDir,
    server: std::sync::Mutex<Option<Child>>,
    user: Option<(u32, u32)>,
}

impl Cluster {
    /// Makes a cluster and starts it.
    ///
    /// # Panics
    /// When PostgreSQL is not there, or does not start.
    pub async fn start() -> Self {
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
    pub async fn up(&self) {
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
    pub fn down(&self) {
        let server = self.server.lock().unwrap().take();
        if let Some(mut server) = server {
            self.run("pg_ctl", &["stop", "-D", &self.data(), "-m", "immediate"]);
            server.wait().unwrap();
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

    /// The address of a database, as a role.
    #[must_use]
    pub fn url(&self, role: &str, database: &str) -> String {
        format!("postgres://{role}@localhost/{database}?host={}", self.folder.path().display())
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
