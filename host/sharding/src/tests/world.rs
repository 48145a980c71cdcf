//! A region's shards with a keeper each, a control store that says what it is told to, and requests to them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use portolan_changelog::{Engine, Store};
use portolan_core::ids::{RegionName, ShardName, TenantName};
use portolan_core::log::Epoch;
use portolan_core::loss::{Durability, LossLimit};
use portolan_core::tenant_table::{ConflictRule, Identifier, Tables, TenantTable, Writers};
use portolan_foundation::endpoint::{Body, Endpoint as _, Work, whole};
use portolan_foundation::shutdown::Shutdown;
use portolan_foundation::{clock, task};
use portolan_test_postgres::{Cluster, Database};
use tempfile::TempDir;

use crate::schema::tests::place::engine;
use crate::{
    Access, Alone, Asking, Authenticate, Intended, Intent, Kept, Leave, Limits, Service, ShardReport, Shards,
    Space, Unauthentic, Watermarks,
};

/// Longer than anything takes that works.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

const SCHEMA: &str =
    "CREATE TABLE notes (tenant text NOT NULL, id bigint NOT NULL, body text, PRIMARY KEY (tenant, id))";

/// The control store, and who may read what: everybody everything.
#[derive(Debug, Default)]
pub(super) struct Meant(Mutex<BTreeMap<ShardName, (Epoch, RegionName)>>);

impl Intended for Meant {
    fn lease(&self, shard: ShardName) -> Asking {
        let lease = self.0.lock().unwrap().get(&shard).cloned();
        let leave = lease.map(|(epoch, primary)| Leave { epoch, primary, until: None });
        Box::pin(std::future::ready(Ok(leave)))
    }
}

impl Authenticate for Meant {
    fn token(&self, _: &str) -> Result<Access, Unauthentic> {
        Ok(Access { read: true, tenant: None, write: true })
    }
}

/// A disk that is as full as it is told to be.
#[derive(Debug, Default)]
pub(super) struct Disk(pub(super) AtomicU8);

impl Space for Disk {
    fn used_percent(&self, _: &Path) -> std::io::Result<u8> {
        Ok(self.0.load(Ordering::Relaxed))
    }
}

pub(super) struct World {
    pub(super) disk: Arc<Disk>,
    folder: TempDir,
    intent: Mutex<Intent>,
    meant: Arc<Meant>,
    pub(super) service: Arc<Service>,
    pub(super) shards: Shards,
    shutdown: Shutdown,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) text: String,
}

impl World {
    pub(super) fn new(limits: Limits) -> Self {
        let (disk, meant) = (Arc::new(Disk::default()), Arc::new(Meant::default()));
        let shards = Shards::new(limits, Arc::clone(&disk) as Arc<dyn Space>);
        let (region, shutdown) = (region("eu"), Shutdown::new());
        let runtime = tokio::runtime::Handle::current();
        let callers = Arc::clone(&meant) as Arc<dyn Authenticate>;
        let service = Arc::new(Service::new(shards.clone(), region.clone(), callers, runtime));
        let intent = Intent { region, shards: BTreeMap::new(), tables: notes(Durability::Local) };
        let asked = Arc::clone(&meant) as Arc<dyn Intended>;
        task::spawn("shards", shards.clone().run(asked, Arc::new(Alone), shutdown.clone()));
        let folder = tempfile::tempdir().unwrap();
        Self { disk, folder, intent: Mutex::new(intent), meant, service, shards, shutdown }
    }

    pub(super) fn sqlite(&self, name: &str) -> Engine {
        Engine::Sqlite(self.folder.path().join(format!("{name}.db")))
    }

    /// Makes the tables, keeps the shard, and waits until it is written here.
    pub(super) async fn keep(&self, name: &str, engine: Engine, marks: Watermarks) {
        let store = Store::open(&engine, region("eu")).await.unwrap();
        let mut migration = store.maintain().await.unwrap();
        migration.execute(SCHEMA, &[]).await.unwrap();
        migration.finish().await.unwrap();
        store.declare(&notes(Durability::Local), 1).await.unwrap();
        let kept = Kept {
            engine,
            epoch: Epoch(1),
            loss: None,
            marks,
            others: BTreeSet::new(),
            partial: false,
            primary: region("eu"),
        };
        self.intend(name, kept);
        self.until(name, |report| report.lease_ms.is_some() && report.problem.is_none()).await;
    }

    /// From now on this is intended.
    pub(super) fn intend(&self, name: &str, kept: Kept) {
        let name = ShardName::new(name).unwrap();
        self.meant.0.lock().unwrap().insert(name.clone(), (kept.epoch, kept.primary.clone()));
        let mut intent = self.intent.lock().unwrap();
        intent.shards.insert(name, kept);
        self.shards.follow(intent.clone());
    }

    /// The shard may be so full from now on.
    pub(super) fn keep_marks(&self, name: &str, marks: Watermarks) {
        let kept = self.intent.lock().unwrap().shards[&ShardName::new(name).unwrap()].clone();
        self.intend(name, Kept { marks, ..kept });
    }

    /// From now on other regions keep the shard, and writes of its table wait for them so.
    pub(super) async fn keep_elsewhere(
        &self,
        name: &str,
        others: &[&str],
        loss: Option<LossLimit>,
        durability: Durability,
    ) -> Store {
        let shard = ShardName::new(name).unwrap();
        let kept = {
            let mut intent = self.intent.lock().unwrap();
            intent.tables = notes(durability);
            intent.shards[&shard].clone()
        };
        self.intend(name, Kept { loss, others: others.iter().map(|name| region(name)).collect(), ..kept });
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let there = self.shards.open(&shard).filter(|(_, tables)| *tables == notes(durability));
            if let Some((store, _)) = there {
                return store;
            }
            assert!(tokio::time::Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// How often it was read where the shard's log is.
    pub(super) fn reads(&self, name: &str) -> u64 {
        self.shards.cell(&ShardName::new(name).unwrap()).unwrap().newest.count()
    }

    /// The lease is another from now on.
    pub(super) fn promote(&self, name: &str, epoch: u64, primary: &str) {
        let kept = self.intent.lock().unwrap().shards[&ShardName::new(name).unwrap()].clone();
        self.intend(name, Kept { epoch: Epoch(epoch), primary: region(primary), ..kept });
    }

    /// The lease is over, and cannot be renewed.
    pub(super) fn lose(&self, name: &str) {
        let name = ShardName::new(name).unwrap();
        self.meant.0.lock().unwrap().remove(&name);
        self.shards.cell(&name).unwrap().end_lease(clock::now());
    }

    /// Waits until the shard stands so.
    pub(super) async fn until(&self, name: &str, so: impl Fn(&ShardReport) -> bool) -> ShardReport {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let reports = self.shards.reports(clock::now());
            let report = reports.into_iter().find(|report| report.name.as_str() == name);
            if let Some(report) = report.clone().filter(&so) {
                return report;
            }
            assert!(tokio::time::Instant::now() < deadline, "{report:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Sends `METHOD PATH`, and then header fields, each after ` | `.
    pub(super) async fn send(&self, shard: &str, tenant: &str, request: &str, content: &str) -> Answer {
        let response = self.begin(shard, tenant, request, whole(content.to_owned())).await;
        let (parts, body) = response.into_parts();
        let content = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(content.to_vec()).unwrap();
        Answer { status: parts.status, headers: parts.headers, text }
    }

    /// The answer, none of whose content is read yet.
    pub(super) async fn begin(
        &self,
        shard: &str,
        tenant: &str,
        request: &str,
        content: Body,
    ) -> http::Response<Body> {
        let mut fields = request.split(" | ");
        let (method, path) = fields.next().unwrap().split_once(' ').unwrap();
        let mut builder = Request::builder().method(method).uri(format!("/-/data{path}"));
        for field in fields {
            let (name, value) = field.split_once(": ").unwrap();
            builder = builder.header(name, value);
        }
        let shard = ShardName::new(shard).unwrap();
        let epoch = self.intent.lock().unwrap().shards[&shard].epoch;
        let work = Work { epoch, shard, tenant: TenantName::new(tenant).unwrap() };
        self.service.answer(work, builder.body(content).unwrap()).await
    }

    /// Sends a request, and wants this status and this code or part of the content.
    pub(super) async fn check(
        &self,
        shard: &str,
        request: &str,
        content: &str,
        status: u16,
        part: &str,
    ) -> Answer {
        let answer = self.send(shard, "acme", request, content).await;
        let same = answer.status.as_u16() == status && answer.text.contains(part);
        assert!(same, "{request}\nwanted {status} {part}\nwas {answer:?}");
        answer
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.begin();
    }
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(super) fn code(&self) -> String {
        let json: serde_json::Value = serde_json::from_str(&self.text).unwrap_or_default();
        json["code"].as_str().unwrap_or_default().to_owned()
    }
}

pub(super) fn region(name: &str) -> RegionName {
    RegionName::new(name).unwrap()
}

pub(super) async fn postgres(cluster: &Cluster, name: &str) -> Engine {
    engine(Database::Postgres(name.to_owned(), cluster.database(name).await))
}

fn notes(durability: Durability) -> Tables {
    let notes = TenantTable {
        name: Identifier::new("notes").unwrap(),
        tenant: Some(Identifier::new("tenant").unwrap()),
        key: ["tenant", "id"].map(|column| Identifier::new(column).unwrap()).to_vec(),
        conflict: ConflictRule::LastWriterWins,
        writers: Writers::Primary,
        durability,
    };
    Tables::new(vec![notes]).unwrap()
}
