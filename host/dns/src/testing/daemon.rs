//! BIND, Knot, PowerDNS and NSD, as Debian has them: started for a test as the user who runs it, on a free port of the loopback, in a folder
//! of its own, and stopped by their process ids.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::ZONE;
use crate::SharedKey;

/// The secret that all tests share.
pub(crate) const SECRET: &str = "c2VjcmV0IG9mIHRoZSB0ZXN0cyBvZiBwb3J0b2xhbi4=";
/// And another.
pub(crate) const WRONG_SECRET: &str = "d3JvbmcgIG9mIHRoZSB0ZXN0cyBvZiBwb3J0b2xhbi4=";
/// How long anything is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// How often a daemon is started whose port somebody took.
const STARTS: u32 = 3;

/// What takes updates.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sort {
    Bind,
    Knot,
    PowerDns,
}

impl Sort {
    pub(crate) const ALL: [Self; 3] = [Self::Bind, Self::Knot, Self::PowerDns];
}

/// A daemon that runs; dropping it stops it.
pub(crate) struct Daemon {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) folder: TempDir,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _is_gone_already = self.child.kill();
        let _status = self.child.wait();
    }
}

pub(crate) fn key(name: &str) -> SharedKey {
    SharedKey::new(&format!("hmac-sha256:{name}:{SECRET}")).unwrap()
}

/// Waits until something is so.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited {PATIENCE:?} in vain until {what}");
}

/// An address that is free for TCP and UDP.
pub(crate) fn free() -> SocketAddr {
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        if UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
}

/// Runs a program of a test and gives what it says.
pub(crate) async fn run(program: &str, arguments: &[&str]) -> String {
    let output = tokio::process::Command::new(program).args(arguments).stdin(Stdio::null()).output().await;
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", missing(program)));
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Asks with `dig`.
pub(crate) async fn dig(server: SocketAddr, arguments: &[&str]) -> String {
    let (at, port) = (format!("@{}", server.ip()), server.port().to_string());
    let mut all = vec![at.as_str(), "-p", &port, "+time=2", "+tries=2", "+nocookie"];
    all.extend(arguments);
    run("dig", &all).await
}

fn missing(program: &str) -> String {
    format!("{program} is not installed: `cargo xtask test` installs it, or see `host/xtask/src/tools.rs`")
}

impl Daemon {
    /// A primary that takes updates of the zone, signed with the key `writer`.
    pub(crate) async fn primary(sort: Sort) -> Self {
        match sort {
            Sort::Bind => Self::start(bind).await,
            Sort::Knot => Self::start(|folder, at| knot(folder, at, "    acl: writer\n", true)).await,
            Sort::PowerDns => Self::start(power_dns).await,
        }
    }

    /// Knot as a secondary of our server, with the key `copies`.
    pub(crate) async fn knot_secondary(primary: SocketAddr) -> Self {
        let zone = "    master: primary\n    acl: notify\n";
        let start = move |folder: &Path, at: SocketAddr| {
            let command = knot(folder, at, zone, false);
            let config = folder.join("knot.conf");
            let text = std::fs::read_to_string(&config).unwrap();
            let remote = format!(
                "remote:\n  - id: primary\n    address: {}@{}\n    key: copies\nzone:\n",
                primary.ip(),
                primary.port()
            );
            std::fs::write(&config, text.replacen("zone:\n", &remote, 1)).unwrap();
            command
        };
        Self::start(start).await
    }

    /// NSD as a secondary of our server, with the key `copies`.
    pub(crate) async fn nsd_secondary(primary: SocketAddr) -> Self {
        Self::start(move |folder, at| nsd(folder, at, primary)).await
    }

    async fn start(configure: impl Fn(&Path, SocketAddr) -> Command) -> Self {
        let mut log = String::new();
        for _ in 0..STARTS {
            let folder = tempfile::tempdir().unwrap();
            let address = free();
            let mut command = configure(folder.path(), address);
            let path = folder.path().join("log");
            let file = std::fs::File::create(&path).unwrap();
            command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
            let program = command.get_program().to_string_lossy().into_owned();
            let child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", missing(&program)));
            let mut daemon = Self { child, address, folder };
            let ready = tokio::time::timeout(PATIENCE, async {
                loop {
                    if daemon.child.try_wait().unwrap().is_some() {
                        return false;
                    }
                    if tokio::net::TcpStream::connect(address).await.is_ok() {
                        return true;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            });
            if ready.await == Ok(true) {
                return daemon;
            }
            log = std::fs::read_to_string(&path).unwrap_or_default();
        }
        panic!("a daemon does not start: {log}");
    }
}

fn zone_file(folder: &Path) -> PathBuf {
    let text = format!(
        "{ZONE}. 30 IN SOA ns.{ZONE}. host.{ZONE}. 1 60 15 600 20\n{ZONE}. 30 IN NS ns.{ZONE}.\nns.{ZONE}. 30 IN A 127.0.0.1\n"
    );
    let path = folder.join("zone");
    std::fs::write(&path, text).unwrap();
    path
}

fn bind(folder: &Path, at: SocketAddr) -> Command {
    zone_file(folder);
    let text = format!(
        "options {{ directory \"{}\"; pid-file none; session-keyfile none; listen-on port {} {{ 127.0.0.1; }};\n\
         listen-on-v6 {{ none; }}; recursion no; notify no; dnssec-validation no; }};\ncontrols {{}};\n\
         key \"writer\" {{ algorithm hmac-sha256; secret \"{SECRET}\"; }};\n\
         zone \"{ZONE}\" {{ type primary; file \"zone\"; allow-update {{ key writer; }}; }};\n",
        folder.display(),
        at.port(),
    );
    std::fs::write(folder.join("named.conf"), text).unwrap();
    let mut command = Command::new("/usr/sbin/named");
    command.args(["-g", "-n", "1", "-c"]).arg(folder.join("named.conf"));
    command
}

fn knot(folder: &Path, at: SocketAddr, zone: &str, has_zone: bool) -> Command {
    if has_zone {
        zone_file(folder);
    }
    std::fs::create_dir(folder.join("db")).unwrap();
    let folder_text = folder.display();
    let text = format!(
        "server:\n    rundir: {folder_text}\n    listen: 127.0.0.1@{}\n    udp-workers: 1\n    tcp-workers: 1\n    background-workers: 1\n\
         log:\n  - target: stderr\n    any: info\n\
         database:\n    storage: {folder_text}/db\n    journal-db-max-size: 20M\n    kasp-db-max-size: 5M\n    timer-db-max-size: 5M\n\
         key:\n  - id: writer\n    algorithm: hmac-sha256\n    secret: {SECRET}\n  - id: copies\n    algorithm: hmac-sha256\n    \
         secret: {SECRET}\n\
         acl:\n  - id: writer\n    key: writer\n    action: update\n  - id: notify\n    key: copies\n    action: notify\n\
         zone:\n  - domain: {ZONE}\n    storage: {folder_text}\n    file: zone\n{zone}",
        at.port(),
    );
    std::fs::write(folder.join("knot.conf"), text).unwrap();
    let mut command = Command::new("/usr/sbin/knotd");
    command.arg("-c").arg(folder.join("knot.conf"));
    command
}

fn nsd(folder: &Path, at: SocketAddr, primary: SocketAddr) -> Command {
    let folder_text = folder.display();
    let text = format!(
        "server:\n  ip-address: 127.0.0.1@{}\n  username: \"\"\n  chroot: \"\"\n  zonesdir: \"{folder_text}\"\n  \
         database: \"\"\n  pidfile: \"{folder_text}/pid\"\n  xfrdfile: \"{folder_text}/xfrd\"\n  xfrdir: \"{folder_text}\"\n  \
         zonelistfile: \"{folder_text}/zones\"\n  server-count: 1\n  verbosity: 2\n\
         remote-control:\n  control-enable: no\n\
         key:\n  name: \"copies\"\n  algorithm: hmac-sha256\n  secret: \"{SECRET}\"\n\
         zone:\n  name: \"{ZONE}\"\n  zonefile: \"zone\"\n  allow-notify: 127.0.0.1 copies\n  request-xfr: AXFR {}@{} copies\n",
        at.port(),
        primary.ip(),
        primary.port(),
    );
    std::fs::write(folder.join("nsd.conf"), text).unwrap();
    let mut command = Command::new("/usr/sbin/nsd");
    command.args(["-d", "-c"]).arg(folder.join("nsd.conf"));
    command
}

/// The tables that PowerDNS expects of SQLite.
const TABLES: &str = "
CREATE TABLE domains (id INTEGER PRIMARY KEY, name TEXT UNIQUE, master TEXT, last_check INTEGER, type TEXT,
  notified_serial INTEGER, account TEXT, options TEXT, catalog TEXT);
CREATE TABLE records (id INTEGER PRIMARY KEY, domain_id INTEGER, name TEXT, type TEXT, content TEXT, ttl INTEGER,
  prio INTEGER, disabled BOOLEAN DEFAULT 0, ordername TEXT, auth BOOL DEFAULT 1);
CREATE TABLE comments (id INTEGER PRIMARY KEY, domain_id INTEGER, name TEXT, type TEXT, modified_at INTEGER,
  account TEXT, comment TEXT);
CREATE TABLE domainmetadata (id INTEGER PRIMARY KEY, domain_id INTEGER, kind TEXT, content TEXT);
CREATE TABLE cryptokeys (id INTEGER PRIMARY KEY, domain_id INTEGER, flags INTEGER, active BOOL,
  published BOOL DEFAULT 1, content TEXT);
CREATE TABLE tsigkeys (id INTEGER PRIMARY KEY, name TEXT, algorithm TEXT, secret TEXT);
CREATE TABLE supermasters (ip TEXT, nameserver TEXT, account TEXT);
";

fn power_dns(folder: &Path, at: SocketAddr) -> Command {
    let rows = format!(
        "{TABLES}INSERT INTO domains (id, name, type) VALUES (1, '{ZONE}', 'NATIVE');
         INSERT INTO records (domain_id, name, type, content, ttl) VALUES
           (1, '{ZONE}', 'SOA', 'ns.{ZONE} host.{ZONE} 1 60 15 600 20', 30), (1, '{ZONE}', 'NS', 'ns.{ZONE}', 30),
           (1, 'ns.{ZONE}', 'A', '127.0.0.1', 30);
         INSERT INTO domainmetadata (domain_id, kind, content) VALUES
           (1, 'ALLOW-DNSUPDATE-FROM', '127.0.0.0/8'), (1, 'TSIG-ALLOW-DNSUPDATE', 'writer');
         INSERT INTO tsigkeys (name, algorithm, secret) VALUES ('writer', 'hmac-sha256', '{SECRET}');"
    );
    let mut sqlite = Command::new("sqlite3");
    let made = sqlite.arg(folder.join("pdns.db")).arg(rows).status();
    assert!(made.unwrap_or_else(|error| panic!("{}: {error}", missing("sqlite3"))).success());
    let text = format!(
        "launch=gsqlite3\ngsqlite3-database={0}/pdns.db\nlocal-address=127.0.0.1\nlocal-port={1}\ndnsupdate=yes\nsocket-dir={0}\n\
         daemon=no\nguardian=no\ncache-ttl=0\nquery-cache-ttl=0\nnegquery-cache-ttl=0\nzone-cache-refresh-interval=0\n\
         receiver-threads=1\ndistributor-threads=2\n",
        folder.display(),
        at.port(),
    );
    std::fs::write(folder.join("pdns.conf"), text).unwrap();
    let mut command = Command::new("/usr/sbin/pdns_server");
    command.arg(format!("--config-dir={}", folder.display()));
    command
}
