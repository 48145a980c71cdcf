//! Three regions that keep two shards, each with a gateway and databases of its own, and lines between them that can fail for each pair.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use portolan_foundation::task;
use portolan_test_postgres::Cluster;
use portolan_tests::line::{self, Line, Weather};
use portolan_tests::node::{self, Node};
use portolan_tests::until;
use portolan_tests::upstream::Upstream;
use rustix::process::Signal;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, SqliteConnection};
use tempfile::TempDir;
use tokio::time::Instant;

use super::history::{Ledger, Row, named};
use crate::good;

/// Longer than a lease that nobody gives back.
pub(super) const LEASE: Duration = Duration::from_secs(60);
/// From one look to the next.
const LOOK: Duration = Duration::from_millis(50);
pub(super) const REGIONS: [&str; 3] = ["ap", "eu", "us"];
pub(super) const SHARDS: [&str; 2] = ["s1", "s2"];
const SQLITE: &str = "CREATE TABLE orders (tenant text NOT NULL, id integer NOT NULL, note text, PRIMARY KEY (tenant, id)) STRICT;\n";
const POSTGRES: &str =
    "CREATE TABLE orders (tenant text NOT NULL, id bigint NOT NULL, note text, PRIMARY KEY (tenant, id));\n";
/// Rows, with the versions that the gateways gave them.
const ROWS: &str = "SELECT o.tenant || ' ' || CAST(o.id AS text) || ' ' || o.note || ' ' || CAST(r.epoch AS text) || ' ' || \
    CAST(r.v AS text) || ' ' || r.origin FROM orders AS o JOIN portolan_row AS r ON r.table_name = 'orders' AND r.deleted = 0 \
    AND replace(r.key, ' ', '') = '[\"' || o.tenant || '\",' || CAST(o.id AS text) || ']' ORDER BY o.tenant, o.id";

/// A gateway in a place of its own, which has a small disk as long as it runs.
const ON_A_SMALL_DISK: &str = "mount -t tmpfs -o size=12m disk \"$0\" && \"$1\" migrate apply && exec \"$@\"";

/// What the regions' databases are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Databases {
    /// Files of SQLite.
    Files,
    /// The same, those of the first region on a small disk.
    FilesOnASmallDisk,
    /// Databases of a cluster for each region.
    Postgres,
}

/// Nodes come first: they end before their databases do.
pub(super) struct World {
    nodes: Vec<Node>,
    /// What leads to the regions' gateways for requests, and for replication.
    gates: Vec<Line>,
    logs: Vec<Line>,
    pids: Arc<Mutex<BTreeMap<String, u32>>>,
    /// Where clients find the gateways.
    pub(super) fronts: Arc<Mutex<Vec<SocketAddr>>>,
    clusters: Vec<Cluster>,
    databases: Databases,
    place: TempDir,
    upstream: Upstream,
}

impl World {
    pub(super) async fn start(databases: Databases) -> Self {
        let (place, upstream) = (tempfile::tempdir().unwrap(), Upstream::start("web").await);
        let mut clusters = Vec::new();
        if databases == Databases::Postgres {
            let starting = REGIONS.map(|_| task::spawn("cluster", Cluster::start()));
            for cluster in join_all(starting).await {
                clusters.push(cluster.unwrap().unwrap());
            }
        }
        for (cluster, shard) in clusters.iter().flat_map(|cluster| SHARDS.map(|shard| (cluster, shard))) {
            cluster.database(shard).await;
        }
        good(place.path(), &[&["pki", "trial", "certs"], REGIONS.as_slice()].concat()).await;
        let pids = Arc::<Mutex<BTreeMap<String, u32>>>::default();
        let (mut gates, mut logs) = (Vec::new(), Vec::new());
        for lines in [&mut gates, &mut logs] {
            for _ in REGIONS {
                let pids = Arc::clone(&pids);
                lines.push(Line::open_among(move |address| caller(address, &pids)).await);
            }
        }
        let fronts = Arc::default();
        let mut world =
            Self { nodes: Vec::new(), gates, logs, pids, fronts, clusters, databases, place, upstream };
        std::fs::create_dir(world.disk()).unwrap();
        for region in REGIONS {
            let folder = world.folder(region);
            if region == REGIONS[0] {
                std::fs::write(folder.path().join("conf.d/all.toml"), world.shared()).unwrap();
                good(folder.path(), &["apply"]).await;
                std::fs::remove_file(folder.path().join("conf.d/all.toml")).unwrap();
            }
            let node = if world.is_on_disk(at(region)) {
                let disk = world.disk();
                let command = ["unshare", "-m", "sh", "-c", ON_A_SMALL_DISK, disk.to_str().unwrap()];
                Node::start_by(folder, &command).await
            } else {
                good(folder.path(), &["migrate", "apply"]).await;
                Node::start_in(folder).await
            };
            world.nodes.push(node);
            world.fronts.lock().unwrap().push(world.nodes[world.nodes.len() - 1].public());
            world.found(at(region));
            until("its databases are open", async || {
                let status = world.nodes[at(region)].status().await;
                let shards = status["shards"].as_array().cloned().unwrap_or_default();
                shards.len() == SHARDS.len() && shards.iter().all(|shard| shard["schema"].is_u64())
            })
            .await;
        }
        // It has started last: a shard's first epoch begins at once when its copies answer.
        for shard in SHARDS {
            world.leads(shard, "us").await;
        }
        until("all copies follow", async || world.all_follow().await).await;
        world
    }

    fn folder(&self, region: &str) -> TempDir {
        let certs = self.place.path().join("certs");
        let folder = node::folder(&format!(
            "[node]\nname = \"{region}\"\nregion = \"{region}\"\nthreads = 1\n\
             [listen]\npublic = [\"127.0.0.1:0\"]\npeer = [\"127.0.0.1:0\"]\nreplication = [\"127.0.0.1:0\"]\n\
             [policies]\ninstances = 100\n[peer]\ncert = {:?}\nkey = {:?}\nca = [{:?}]\n[control]\nsqlite = {:?}\n",
            certs.join(format!("{region}.crt")),
            certs.join(format!("{region}.key")),
            certs.join("ca.crt"),
            self.place.path().join("control.db")
        ));
        for (engine, sql) in [("sqlite", SQLITE), ("postgres", POSTGRES)] {
            let migrations = folder.path().join("migrations").join(engine);
            std::fs::create_dir_all(&migrations).unwrap();
            std::fs::write(migrations.join("0001_create_orders.sql"), sql).unwrap();
        }
        folder
    }

    /// What all regions share: half of the tenants are on each shard, and regions reach each other over the lines alone.
    fn shared(&self) -> String {
        let mut text = "[tenants]\nsources = [{ header = \"x-tenant\" }]\n\
             [table.orders]\ntenant = \"tenant\"\nkey = [\"tenant\", \"id\"]\n\
             [placement]\nkey = \"00112233445566778899aabbccddeeff\"\n\
             rule = [{ ranges = [{ last = \"7fffffffffffffff\", shard = \"s1\" }, { last = \"ffffffffffffffff\", shard = \"s2\" }] }]\n\
             [shard.s1]\nprimary = \"us\"\n[shard.s2]\nprimary = \"us\"\n"
            .to_owned();
        for (number, region) in REGIONS.iter().enumerate() {
            for shard in SHARDS {
                text.push_str(&format!("[shard.{shard}.store.{region}]\n{}\n", self.store(number, shard)));
            }
            text.push_str(&format!(
                "[region.{region}]\ngateways = [\"{}\"]\nreplication = [\"{}\"]\n[region.{region}.pool.web]\nendpoints = [\"{}\"]\n",
                self.gates[number].address, self.logs[number].address, self.upstream.address
            ));
        }
        text
    }

    fn store(&self, region: usize, shard: &str) -> String {
        match self.clusters.get(region) {
            None => format!("sqlite = {:?}", self.file(region, shard)),
            Some(cluster) => {
                let [owner, writer, applier] = ["own", "app", "put"].map(|role| cluster.url(role, shard));
                format!("postgres = {{ owner = {owner:?}, writer = {writer:?}, applier = {applier:?} }}")
            }
        }
    }

    fn file(&self, region: usize, shard: &str) -> String {
        let folder = if self.is_on_disk(region) { self.disk() } else { self.place.path().to_owned() };
        folder.join(format!("{}-{shard}.db", REGIONS[region])).to_str().unwrap().to_owned()
    }

    fn disk(&self) -> PathBuf {
        self.place.path().join("disk")
    }

    fn is_on_disk(&self, region: usize) -> bool {
        self.databases == Databases::FilesOnASmallDisk && region == 0
    }

    /// A file that takes place on the small disk, as others than its gateway see it.
    pub(super) fn ballast(&self) -> String {
        format!("/proc/{}/root{}/ballast", self.nodes[0].pid(), self.disk().display())
    }

    /// The lines lead to a gateway that has started.
    fn found(&self, region: usize) {
        let node = &self.nodes[region];
        self.pids.lock().unwrap().insert(REGIONS[region].to_owned(), node.pid());
        self.fronts.lock().unwrap()[region] = node.public();
        self.gates[region].leads_to(node.listener(1));
        self.logs[region].leads_to(node.listener(2));
    }

    pub(super) fn folder_of(&self, region: usize) -> &Path {
        self.nodes[region].folder()
    }

    pub(super) fn log(&self, region: usize) -> String {
        self.nodes[region].log()
    }

    pub(super) fn is_postgres(&self) -> bool {
        self.databases == Databases::Postgres
    }

    /// Ends a region's gateway at once.
    pub(super) fn kill(&self, region: usize) {
        self.nodes[region].signal(Signal::KILL);
    }

    pub(super) async fn restart(&mut self, region: usize) {
        let node = self.nodes.remove(region).restarted(&[]).await;
        self.nodes.insert(region, node);
        self.found(region);
    }

    /// Ends a region's server of databases at once, as a power cut would.
    pub(super) fn kill_database(&self, region: usize) {
        self.clusters[region].down();
    }

    pub(super) async fn restart_database(&self, region: usize) {
        self.clusters[region].up().await;
    }

    /// How one region is reached by another for replication.
    pub(super) fn weather(&self, of: usize, by: usize, weather: Weather) {
        self.logs[of].weather(REGIONS[by], weather);
    }

    /// The same for requests.
    pub(super) fn weather_of_requests(&self, of: usize, by: usize, weather: Weather) {
        self.gates[of].weather(REGIONS[by], weather);
    }

    /// All lines carry all, at once.
    pub(super) fn heal(&self) {
        for (of, by) in (0..REGIONS.len()).flat_map(|of| (0..REGIONS.len()).map(move |by| (of, by))) {
            self.weather(of, by, Weather::default());
            self.weather_of_requests(of, by, Weather::default());
        }
    }

    pub(super) async fn promote(&self, shard: &str, to: usize, by: usize) {
        good(self.folder_of(by), &["shard", "promote", shard, "--to", REGIONS[to]]).await;
    }

    /// Does a region write a shard?
    pub(super) async fn is_led(&self, shard: &str, region: usize) -> bool {
        let Ok(status) = self.nodes[region].ask("GET", "/api/v1/status", Value::Null).await else {
            return false;
        };
        let shards = status["shards"].as_array().cloned().unwrap_or_default();
        shards.iter().any(|there| there["name"] == shard && there["lease_ms"].is_u64())
    }

    pub(super) async fn leads(&self, shard: &str, region: &str) {
        let deadline = Instant::now() + LEASE;
        while !self.is_led(shard, at(region)).await {
            assert!(Instant::now() < deadline, "{region} does not write {shard}:\n{}", self.log(at(region)));
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Do all copies follow all others, without any problem, and have what there is?
    pub(super) async fn all_follow(&self) -> bool {
        for node in &self.nodes {
            let Ok(told) = node.ask("GET", "/api/v1/shards", Value::Null).await else { return false };
            let feeds: Vec<Value> = told["items"]
                .as_array()
                .into_iter()
                .flatten()
                .flat_map(|shard| shard["follows"].as_array().cloned().unwrap_or_default())
                .collect();
            let follows = |feed: &Value| {
                feed["state"] == "following" && feed["problem"].is_null() && feed["parked"] == 0
            };
            if feeds.len() != SHARDS.len() * (REGIONS.len() - 1) || !feeds.iter().all(follows) {
                return false;
            }
        }
        true
    }

    /// All rows of a shard in a region, with their versions, straight from its database.
    pub(super) async fn rows(&self, region: usize, shard: &str) -> Vec<String> {
        match self.clusters.get(region) {
            None => {
                let mut store = SqliteConnection::connect(&self.file(region, shard)).await.unwrap();
                sqlx::query_scalar(ROWS).fetch_all(&mut store).await.unwrap()
            }
            Some(cluster) => {
                let mut store: PgConnection = cluster.connect("postgres", shard).await;
                let sql = ROWS.replace("portolan_row", "portolan.row");
                sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut store).await.unwrap()
            }
        }
    }

    /// What any region keeps of what lost.
    pub(super) async fn ledger(&self) -> Ledger {
        let mut ledger = Ledger::default();
        for (region, shard) in (0..REGIONS.len()).flat_map(|region| SHARDS.map(|shard| (region, shard))) {
            let text = good(self.folder_of(region), &["conflicts", "list", shard, "--json"]).await;
            for entry in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
                match entry["lost"]["note"].as_str() {
                    Some(note) => ledger.values.insert(named(note)),
                    None => ledger.deletions.insert(row(&entry["key"])),
                };
            }
        }
        ledger
    }
}

/// A row by its key.
fn row(key: &Value) -> Row {
    (key[0].as_str().unwrap().to_owned(), key[1].as_u64().unwrap())
}

/// The place of a region among all.
pub(super) fn at(region: &str) -> usize {
    REGIONS.iter().position(|name| *name == region).unwrap()
}

/// The region whose gateway comes from an address.
fn caller(address: SocketAddr, pids: &Mutex<BTreeMap<String, u32>>) -> String {
    let pids = pids.lock().unwrap().clone();
    let among: Vec<u32> = pids.values().copied().collect();
    let pid = line::process(address, &among);
    pids.into_iter().find(|(_, there)| Some(*there) == pid).map(|(region, _)| region).unwrap_or_default()
}
