//! Three regions that keep two shards, each with a gateway and databases of its own, and lines between them that can fail for each pair. With
//! `[failover]` each also has a voter of the control store, and a region can end as a whole.

mod faults;
mod look;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use portolan_foundation::task;
use portolan_test_postgres::Cluster;
use tempfile::TempDir;
use tokio::time::Instant;

pub use self::faults::For;
pub use self::look::Loss;
use crate::etcd;
use crate::line::{self, Line};
use crate::node::{self, Node, good};
use crate::until;
use crate::upstream::Upstream;

/// Longer than a lease that nobody gives back.
pub const LEASE: Duration = Duration::from_secs(60);
/// From one look to the next.
const LOOK: Duration = Duration::from_millis(50);
/// The regions.
pub const REGIONS: [&str; 3] = ["ap", "eu", "us"];
/// The region that writes all shards at first.
pub const HOME: &str = "us";
/// The shards, each with half of the tenants.
pub const SHARDS: [&str; 2] = ["s1", "s2"];
/// Tenants of both shards.
const TENANTS: usize = 4;
const SQLITE: &str = "CREATE TABLE orders (tenant text NOT NULL, id integer NOT NULL, note text, PRIMARY KEY (tenant, id)) STRICT;\n";
const POSTGRES: &str =
    "CREATE TABLE orders (tenant text NOT NULL, id bigint NOT NULL, note text, PRIMARY KEY (tenant, id));\n";

/// A gateway in a place of its own, which has a small disk as long as it runs.
const ON_A_SMALL_DISK: &str = "mount -t tmpfs -o size=12m disk \"$0\" && \"$1\" migrate apply && exec \"$@\"";

/// What the regions' databases are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Databases {
    /// Files of SQLite.
    Files,
    /// The same, those of the first region on a small disk.
    FilesOnASmallDisk,
    /// Databases of a cluster for each region.
    Postgres,
    /// The same, whose logs come out of the write-ahead log.
    PostgresDecoded,
}

impl Databases {
    /// Are they those of PostgreSQL?
    #[must_use]
    pub const fn is_postgres(self) -> bool {
        matches!(self, Self::Postgres | Self::PostgresDecoded)
    }
}

/// Three regions. Nodes come first: they end before their databases do.
#[derive(Debug)]
pub struct World {
    nodes: Vec<Node>,
    /// What leads to the regions' gateways for requests, for replication, and for who looks at their public ways in.
    gates: Vec<Line>,
    logs: Vec<Line>,
    ways_in: Vec<Line>,
    /// What leads to the regions' voters, for gateways and for each other.
    stores: Vec<Line>,
    voters: Vec<Line>,
    control: Option<etcd::Cluster>,
    /// Whose process works in which folder.
    places: Places,
    /// Where clients find the gateways.
    pub fronts: Arc<Mutex<Vec<SocketAddr>>>,
    clusters: Vec<Cluster>,
    databases: Databases,
    profile: Option<&'static str>,
    place: TempDir,
    upstream: Upstream,
}

/// The regions of those who use lines.
type Places = Arc<Mutex<Known>>;

#[derive(Debug, Default)]
struct Known {
    /// By the folders that they work in.
    folders: BTreeMap<PathBuf, String>,
    /// By the sockets that were seen and not asked for yet.
    sockets: BTreeMap<SocketAddr, String>,
    /// When that was looked at.
    seen: Option<Instant>,
}

impl World {
    /// Starts regions whose shards move by hand, and waits until all copies follow.
    ///
    /// # Panics
    /// When they do not come up.
    pub async fn start(databases: Databases) -> Self {
        let mut world = Self::prepared(databases, None).await;
        world.share().await;
        for region in REGIONS {
            let folder = world.folder(region);
            let node = if world.is_on_disk(at(region)) {
                let disk = world.disk();
                let command = ["unshare", "-m", "sh", "-c", ON_A_SMALL_DISK, disk.to_str().expect("a path")];
                Node::start_by(folder, &command).await
            } else {
                good(folder.path(), &["migrate", "apply"]).await;
                Node::start_in(folder).await
            };
            world.nodes.push(node);
            world.found(at(region));
            until("its databases are open", async || world.is_open(at(region)).await).await;
        }
        // It has started last: a shard's first epoch begins at once when its copies answer.
        for shard in SHARDS {
            world.leads(shard, HOME).await;
        }
        until("all copies follow", async || world.all_follow().await).await;
        world
    }

    /// Starts regions that decide of each other by a profile's times, each with a cluster of PostgreSQL and a voter of etcd, and waits until
    /// all could take all shards over.
    ///
    /// # Panics
    /// When they do not come up.
    pub async fn start_with_failover(profile: &'static str) -> Self {
        let mut world = Self::prepared(Databases::Postgres, Some(profile)).await;
        world.share().await;
        let starting = REGIONS.map(|region| {
            let folder = world.folder(region);
            task::spawn("node", async move {
                good(folder.path(), &["migrate", "apply"]).await;
                Node::start_in(folder).await
            })
        });
        for node in join_all(starting).await {
            world.nodes.push(node.expect("no test failed").expect("the node starts"));
            world.found(world.nodes.len() - 1);
        }
        for shard in SHARDS {
            world.leads(shard, HOME).await;
        }
        until("all copies follow", async || world.all_follow().await).await;
        world.is_ready().await;
        world
    }

    async fn prepared(databases: Databases, profile: Option<&'static str>) -> Self {
        let (place, upstream) = (tempfile::tempdir().expect("a folder"), Upstream::start("web").await);
        let mut clusters = Vec::new();
        if databases.is_postgres() {
            let starting = REGIONS.map(|_| {
                task::spawn("cluster", async move {
                    match databases {
                        Databases::PostgresDecoded => Cluster::start_decoding().await,
                        _ => Cluster::start().await,
                    }
                })
            });
            for cluster in join_all(starting).await {
                clusters.push(cluster.expect("no test failed").expect("a cluster"));
            }
        }
        for (cluster, shard) in clusters.iter().flat_map(|cluster| SHARDS.map(|shard| (cluster, shard))) {
            cluster.database(shard).await;
        }
        good(place.path(), &[&["pki", "trial", "certs"], REGIONS.as_slice()].concat()).await;
        let places = Places::default();
        let lines = async || {
            let mut lines = Vec::new();
            for _ in REGIONS {
                let places = Arc::clone(&places);
                lines.push(Line::open_among(move |address| caller(address, &places)).await);
            }
            lines
        };
        let (gates, logs, ways_in, stores, voters) =
            (lines().await, lines().await, lines().await, lines().await, lines().await);
        let control = profile.is_some().then(|| etcd::Cluster::at_rest(3));
        let fronts = Arc::default();
        let mut world = Self {
            nodes: Vec::new(),
            gates,
            logs,
            ways_in,
            stores,
            voters,
            control,
            places,
            fronts,
            clusters,
            databases,
            profile,
            place,
            upstream,
        };
        std::fs::create_dir(world.disk()).expect("a folder");
        world.start_voters();
        world
    }

    fn start_voters(&mut self) {
        let Some(control) = &mut self.control else { return };
        for (number, region) in REGIONS.iter().enumerate() {
            let [client, peer] = control.listeners(number);
            self.stores[number].leads_to(client);
            self.voters[number].leads_to(peer);
            control.reach_at(number, self.voters[number].address);
            self.places
                .lock()
                .expect("no test failed")
                .folders
                .insert(control.folder(number), (*region).to_owned());
        }
        (0..REGIONS.len()).for_each(|number| control.revive(number));
    }

    /// Puts what all regions share into the control store. A cluster that has just begun elects first.
    async fn share(&self) {
        let folder = self.folder(REGIONS[0]);
        std::fs::write(folder.path().join("conf.d/all.toml"), self.shared()).expect("a file");
        until("what is shared is applied", async || {
            let (code, text) = node::says(folder.path(), &["apply"]).await;
            let electing = text.contains("does not answer") || text.contains("went away");
            assert!(code == 0 || electing, "{text}");
            code == 0
        })
        .await;
    }

    fn folder(&self, region: &str) -> TempDir {
        let certs = self.place.path().join("certs");
        let control = match &self.control {
            None => format!("sqlite = {:?}", self.place.path().join("control.db")),
            Some(_) => {
                // Its own voter first: that is the nearest.
                let own = at(region);
                let order = (own..REGIONS.len()).chain(0..own);
                let stores: Vec<String> =
                    order.map(|number| format!("http://{}", self.stores[number].address)).collect();
                format!("etcd = {{ endpoints = {stores:?} }}")
            }
        };
        let folder = node::folder(&format!(
            "[node]\nname = \"{region}\"\nregion = \"{region}\"\nthreads = 1\n\
             [listen]\npublic = [\"127.0.0.1:0\"]\npeer = [\"127.0.0.1:0\"]\nreplication = [\"127.0.0.1:0\"]\n\
             [policies]\ninstances = 100\n[peer]\ncert = {:?}\nkey = {:?}\nca = [{:?}]\n[control]\n{control}\n",
            certs.join(format!("{region}.crt")),
            certs.join(format!("{region}.key")),
            certs.join("ca.crt"),
        ));
        for (engine, sql) in [("sqlite", SQLITE), ("postgres", POSTGRES)] {
            let migrations = folder.path().join("migrations").join(engine);
            std::fs::create_dir_all(&migrations).expect("a folder");
            std::fs::write(migrations.join("0001_create_orders.sql"), sql).expect("a file");
        }
        let real = folder.path().canonicalize().expect("a folder");
        self.places.lock().expect("no test failed").folders.insert(real, region.to_owned());
        folder
    }

    /// What all regions share: half of the tenants are on each shard, and regions reach each other over the lines alone.
    fn shared(&self) -> String {
        let mut text = "[tenants]\nsources = [{ header = \"x-tenant\" }]\n\
             [table.orders]\ntenant = \"tenant\"\nkey = [\"tenant\", \"id\"]\n\
             [placement]\nkey = \"00112233445566778899aabbccddeeff\"\n\
             rule = [{ ranges = [{ last = \"7fffffffffffffff\", shard = \"s1\" }, { last = \"ffffffffffffffff\", shard = \"s2\" }] }]\n"
            .to_owned();
        text.extend(self.profile.map(|profile| format!("[failover]\nprofile = \"{profile}\"\n")));
        text.extend(SHARDS.map(|shard| format!("[shard.{shard}]\nprimary = \"{HOME}\"\n")));
        for (number, region) in REGIONS.iter().enumerate() {
            for shard in SHARDS {
                text.push_str(&format!("[shard.{shard}.store.{region}]\n{}\n", self.store(number, shard)));
            }
            text.push_str(&format!(
                "[region.{region}]\ngateways = [\"{}\"]\nreplication = [\"{}\"]\n",
                self.gates[number].address, self.logs[number].address
            ));
            if self.profile.is_some() {
                text.push_str(&format!("ingress = \"http://{}/\"\n", self.ways_in[number].address));
            }
            text.push_str(&format!(
                "[region.{region}.pool.web]\nendpoints = [\"{}\"]\n",
                self.upstream.address
            ));
        }
        text
    }

    fn store(&self, region: usize, shard: &str) -> String {
        match self.clusters.get(region) {
            None => format!("sqlite = {:?}", self.file(region, shard)),
            Some(cluster) => {
                let [owner, writer, applier] = ["own", "app", "put"].map(|role| cluster.url(role, shard));
                let log =
                    if self.databases == Databases::PostgresDecoded { "\nlog = \"logical\"" } else { "" };
                format!("postgres = {{ owner = {owner:?}, writer = {writer:?}, applier = {applier:?} }}{log}")
            }
        }
    }

    fn file(&self, region: usize, shard: &str) -> String {
        let folder = if self.is_on_disk(region) { self.disk() } else { self.place.path().to_owned() };
        folder.join(format!("{}-{shard}.db", REGIONS[region])).to_str().expect("a path").to_owned()
    }

    fn disk(&self) -> PathBuf {
        self.place.path().join("disk")
    }

    fn is_on_disk(&self, region: usize) -> bool {
        self.databases == Databases::FilesOnASmallDisk && region == 0
    }

    /// The lines lead to a gateway that has started.
    fn found(&self, region: usize) {
        let node = &self.nodes[region];
        let mut fronts = self.fronts.lock().expect("no test failed");
        fronts.truncate(self.nodes.len());
        match fronts.get_mut(region) {
            Some(front) => *front = node.public(),
            None => fronts.push(node.public()),
        }
        drop(fronts);
        self.ways_in[region].leads_to(node.public());
        self.gates[region].leads_to(node.listener(1));
        self.logs[region].leads_to(node.listener(2));
    }

    /// A file that takes place on the small disk, as others than its gateway see it.
    #[must_use]
    pub fn ballast(&self) -> String {
        format!("/proc/{}/root{}/ballast", self.nodes[0].pid(), self.disk().display())
    }

    /// The folder of a region's gateway.
    #[must_use]
    pub fn folder_of(&self, region: usize) -> &Path {
        self.nodes[region].folder()
    }

    /// A region's gateway.
    #[must_use]
    pub fn node(&self, region: usize) -> &Node {
        &self.nodes[region]
    }

    /// Tenants of both shards in equal numbers, with a token of each.
    ///
    /// # Panics
    /// When nobody tells where they are.
    pub async fn tenants(&self) -> (Vec<String>, Vec<String>) {
        let (mut names, mut tokens) = (Vec::new(), Vec::new());
        let mut lack = [TENANTS / SHARDS.len(); SHARDS.len()];
        for number in 0.. {
            let name = format!("t{number}");
            let located = good(self.folder_of(0), &["shard", "locate", &name]).await;
            let shard = SHARDS.iter().position(|shard| located.contains(&format!("shard {shard},")));
            let shard = shard.expect("a tenant's shard");
            if lack[shard] > 0 {
                lack[shard] -= 1;
                let create = ["token", "create", &name, "--role", "tenant-app", "--tenant", &name];
                let output = node::run(self.folder_of(0), &create).await;
                assert!(output.status.success(), "{output:?}");
                tokens.push(String::from_utf8_lossy(&output.stdout).trim().to_owned());
                names.push(name);
            }
            if lack == [0; SHARDS.len()] {
                break;
            }
        }
        (names, tokens)
    }
}

/// The place of a region among all.
///
/// # Panics
/// When it is none of them.
#[must_use]
pub fn at(region: &str) -> usize {
    REGIONS.iter().position(|name| *name == region).expect("a region")
}

/// The region of the process that comes from an address. Each is asked for once: who waits while all are looked at has been seen by then.
fn caller(address: SocketAddr, places: &Mutex<Known>) -> String {
    let came = Instant::now();
    let mut known = places.lock().expect("no test failed");
    if let Some(region) = known.sockets.remove(&address) {
        return region;
    }
    if known.seen.is_some_and(|seen| seen > came) {
        // It has gone while it waited for the look.
        return String::new();
    }
    known.seen = Some(Instant::now());
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let ours = processes.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse::<u32>().ok()?;
        let region = known.folders.get(&std::fs::read_link(entry.path().join("cwd")).ok()?)?;
        Some((pid, region.clone()))
    });
    let ours: BTreeMap<u32, String> = ours.collect();
    let sockets = line::sockets(&ours.keys().copied().collect::<Vec<_>>());
    let sockets = sockets.into_iter().filter_map(|(at, pid)| Some((at, ours.get(&pid)?.clone())));
    known.sockets = sockets.collect();
    known.sockets.remove(&address).unwrap_or_default()
}
