//! How a server proves who it is, and passwords that change while others work.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use portolan_core::ids::{RegionName, TenantName};
use portolan_core::log::Epoch;
use portolan_core::tenant_table::Tables;
use portolan_core::time::Moment;
use portolan_test_postgres::Cluster;
use tokio::task::JoinSet;

use super::capture::{NOTES, notes};
use super::place::PATIENCE;
use crate::{Access, Capture, Engine, Error, Lease, Passwords, PostgresConfig, Store, Tls};

const ROLES: [&str; 3] = ["own", "app", "put"];

/// A secured database, and where its passwords and certificate are.
struct Secured {
    cluster: Cluster,
    folder: tempfile::TempDir,
}

impl Secured {
    async fn new() -> Self {
        let (cluster, folder) = (Cluster::start_secured().await, tempfile::tempdir().unwrap());
        cluster.database("shard").await;
        std::fs::write(folder.path().join("ca.pem"), cluster.certificate()).unwrap();
        let secured = Self { cluster, folder };
        for role in ROLES {
            secured.at_server(role, "first").await;
            secured.in_file(role, "first");
        }
        secured
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    async fn at_server(&self, role: &str, password: &str) {
        self.cluster.admin(&format!("ALTER ROLE {role} PASSWORD '{password}'")).await;
    }

    /// As editors do it: another file takes the name.
    fn in_file(&self, role: &str, password: &str) {
        let next = self.path("next");
        std::fs::write(&next, format!("{password}\n")).unwrap();
        std::fs::rename(next, self.path(role)).unwrap();
    }

    fn config(&self, ca: Option<&Path>, tls: Tls) -> PostgresConfig {
        let file = |role| Some(self.path(role));
        let url = |role| self.cluster.secured_url(role, "shard");
        let passwords = Passwords { applier: file("put"), owner: file("own"), writer: file("app") };
        let access = Access { ca: ca.map(Path::to_owned), passwords, tls: Some(tls), ..Access::default() };
        PostgresConfig {
            access,
            applier: url("put"),
            capture: Capture::default(),
            owner: url("own"),
            writer: url("app"),
        }
    }

    async fn open(&self, config: PostgresConfig) -> Result<Store, Error> {
        Store::open(&Engine::Postgres(config), RegionName::new("eu").unwrap()).await
    }
}

#[tokio::test]
async fn a_server_proves_who_it_is() {
    let secured = Secured::new().await;
    let ca = secured.path("ca.pem");
    secured.open(secured.config(Some(&ca), Tls::VerifyFull)).await.unwrap();
    secured.open(secured.config(None, Tls::Require)).await.unwrap();
    let unknown = secured.open(secured.config(None, Tls::VerifyFull)).await.unwrap_err();
    assert!(matches!(unknown, Error::Away(_)), "{unknown:?}");
    let plain = secured.open(secured.config(None, Tls::Disable)).await.unwrap_err().to_string();
    assert!(plain.contains("no encryption"), "{plain}");
    // Another machine proves it, unless the operator says otherwise; nothing is sent to one that does not.
    let far = |url: &str| url.replace("127.0.0.1", "portolan.invalid");
    let mut config = secured.config(Some(&ca), Tls::VerifyFull);
    config.access.tls = None;
    let asked = |url: &str| crate::login::options(url, "owner", &config.access).unwrap().get_ssl_mode();
    use sqlx::postgres::PgSslMode;
    assert!(matches!(asked(&far(&config.owner)), PgSslMode::VerifyFull));
    assert!(matches!(asked(&format!("{}?sslmode=require", far(&config.owner))), PgSslMode::Require));
    assert!(matches!(asked(&config.owner), PgSslMode::Prefer));
}

/// Writers go on while each role's password changes, once in the file first, once at the server first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passwords_change_under_load() {
    let secured = Secured::new().await;
    let store = secured.open(secured.config(Some(&secured.path("ca.pem")), Tls::VerifyFull)).await.unwrap();
    made(&store).await;

    let (done, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let mut writers = JoinSet::new();
    for writer in 0..4_i64 {
        let (store, done, over) = (store.clone(), Arc::clone(&done), Arc::clone(&over));
        writers.spawn(async move {
            let mut number = writer << 32;
            while !over.load(Ordering::Relaxed) {
                number += 1;
                write(&store, number).await.unwrap();
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let more = async |count: u64| {
        let wanted = done.load(Ordering::Relaxed) + count;
        while done.load(Ordering::Relaxed) < wanted {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let change = async {
        more(50).await;
        // The file first: the keeper finds that the server does not take it yet, and goes on with the one before.
        ROLES.iter().for_each(|role| secured.in_file(role, "second"));
        store.refresh().await.unwrap_err();
        more(50).await;
        for role in ROLES {
            secured.at_server(role, "second").await;
        }
        store.refresh().await.unwrap();
        more(50).await;
        // The server first, which also ends the connections: those that come wait for the file.
        for role in ROLES {
            secured.at_server(role, "third").await;
        }
        more(20).await;
        ROLES.iter().for_each(|role| secured.in_file(role, "third"));
        store.refresh().await.unwrap();
        more(50).await;
        store.clock().await.unwrap();
        store.tip().await.unwrap();
    };
    tokio::time::timeout(PATIENCE, change).await.unwrap();
    over.store(true, Ordering::Relaxed);
    while let Some(writer) = writers.join_next().await {
        writer.unwrap();
    }
    // No connection of a password before is left.
    let fresh = secured.open(secured.config(Some(&secured.path("ca.pem")), Tls::VerifyFull)).await.unwrap();
    assert!(fresh.tip().await.unwrap().sequence >= 200);
}

/// A log is shipped over TLS, with a password that changes meanwhile.
#[tokio::test]
async fn a_log_is_shipped_in_secret() {
    let secured = Secured::new().await;
    let config = secured.config(Some(&secured.path("ca.pem")), Tls::VerifyFull);
    let store = secured.open(PostgresConfig { capture: Capture::Logical, ..config }).await.unwrap();
    made(&store).await;
    let ships = async {
        loop {
            let error = store.ship().await.unwrap_err();
            eprintln!("ships again: {error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let senders = "SELECT count(*) FROM pg_stat_replication JOIN pg_stat_ssl USING (pid) WHERE ssl AND version >= 'TLSv1.2'";
    let mut admin = secured.cluster.connect("postgres", "shard").await;
    let mut ships_in_secret = async |number: i64| {
        write(&store, number).await.unwrap();
        let shipped = async {
            while store.tip().await.unwrap().sequence < u64::try_from(number).unwrap() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            loop {
                let count: i64 = sqlx::query_scalar(senders).fetch_one(&mut admin).await.unwrap();
                if count == 1 {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, shipped).await.unwrap();
    };
    let used = async {
        ships_in_secret(1).await;
        for role in ROLES {
            secured.at_server(role, "second").await;
            secured.in_file(role, "second");
        }
        store.refresh().await.unwrap();
        secured.cluster.admin("SELECT pg_terminate_backend(pid) FROM pg_stat_replication").await;
        ships_in_secret(2).await;
    };
    tokio::select! {
        () = ships => unreachable!("it ships for ever"),
        () = used => {}
    }
}

/// The table of notes, in a shard that may be written.
async fn made(store: &Store) {
    let mut migration = store.maintain().await.unwrap();
    migration.execute(NOTES, &[]).await.unwrap();
    migration.finish().await.unwrap();
    store.declare(&Tables::new(vec![notes()]).unwrap(), 1).await.unwrap();
    store.begin_epoch(Epoch(1), store.clock().await.unwrap() + 3_600_000_000).await.unwrap();
}

async fn write(store: &Store, number: i64) -> Result<(), Error> {
    let lease = Lease { epoch: Epoch(1), until: Moment(u64::MAX) };
    let mut write = store.write(&TenantName::new("acme").unwrap(), &lease, Moment(0)).await?;
    write.execute("INSERT INTO notes VALUES ('acme', $1, 'written')", &[number.into()]).await?;
    write.commit(&lease, || Moment(0)).await.map(drop)
}
