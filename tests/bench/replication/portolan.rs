//! Portolan's regions: a gateway and a cluster each, one shard that the first region writes and the others keep copies of.

use std::path::Path;

use portolan_test_postgres::Cluster;
use portolan_tests::line::Line;
use portolan_tests::node::{self, Node, run};
use portolan_tests::until;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::side::{DATABASE, Kind, Side, Spent, TABLE, WRITERS, cluster};

const REGIONS: [&str; 3] = ["eu", "us", "ap"];

/// The gateways, the one that writes first, and what they share.
pub(crate) struct Regions {
    pub(crate) nodes: Vec<Node>,
    /// What leads to the copies' gateways.
    lines: Vec<Line>,
    place: TempDir,
    shared: String,
}

/// `log` is how changes come into the shard's log.
pub(crate) async fn open(log: &str, peers: usize) -> Side {
    let place = tempfile::tempdir().unwrap();
    let names = &REGIONS[..=peers];
    says(place.path(), &[&["pki", "trial", "certs"], names].concat()).await;
    let (mut clusters, mut lines) = (Vec::new(), Vec::new());
    for _ in names {
        let cluster = cluster().await;
        cluster.admin(&format!("CREATE DATABASE {DATABASE} OWNER own")).await;
        clusters.push(cluster);
        lines.push(Line::open().await);
    }
    let shared = shared(log, names, &clusters, &lines);
    let line = lines.remove(0);
    let mut regions = Regions { nodes: Vec::new(), lines, place, shared };
    for number in 0..names.len() {
        let node = regions.start(number).await;
        if number == 0 {
            line.leads_to(node.listener(2));
        }
        regions.nodes.push(node);
    }
    let primary = &regions.nodes[0];
    until("the primary has its lease", async || primary.status().await["shards"][0]["lease_ms"].is_u64())
        .await;
    let source = clusters.remove(0);
    let kind = Kind::Portolan(regions);
    let name = if log == "logical" { "decoded" } else { "portolan" };
    Side { name, kind, copies: clusters, line, source, written: [0; WRITERS] }
}

pub(crate) async fn copy_anew(side: &mut Side) -> (Spent, Instant) {
    let Kind::Portolan(regions) = &mut side.kind else { unreachable!("it is asked of regions alone") };
    drop(regions.nodes.remove(1));
    let to = side.line.cut().expect("it led to the source");
    side.copies[0].admin(&format!("DROP DATABASE {DATABASE} WITH (FORCE)")).await;
    side.copies[0].admin(&format!("CREATE DATABASE {DATABASE} OWNER own")).await;
    let node = regions.start(1).await;
    regions.nodes.insert(1, node);
    // The gateway has started by then: what that takes is not the copy's.
    let before = side.spent();
    side.line.leads_to(to);
    (before, side.line.used().await)
}

impl Regions {
    /// Starts a region's gateway, with the tenants' schema in its database.
    async fn start(&self, number: usize) -> Node {
        let folder = self.folder(REGIONS[number]);
        says(folder.path(), &["apply"]).await;
        says(folder.path(), &["migrate", "apply"]).await;
        let node = Node::start_in(folder).await;
        if let Some(line) = number.checked_sub(1).and_then(|copy| self.lines.get(copy)) {
            line.leads_to(node.listener(2));
        }
        node
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
        std::fs::write(folder.path().join("conf.d/all.toml"), &self.shared).unwrap();
        let migrations = folder.path().join("migrations/postgres");
        std::fs::create_dir_all(&migrations).unwrap();
        std::fs::write(migrations.join("0001_create_orders.sql"), TABLE).unwrap();
        folder
    }
}

/// The configuration of all regions, with their logs at the ends of their lines.
fn shared(log: &str, names: &[&str], clusters: &[Cluster], lines: &[Line]) -> String {
    let mut text = "[tenants]\nsources = [{ header = \"x-tenant\" }]\n[shard.s1]\nprimary = \"eu\"\n\
         [table.orders]\ntenant = \"tenant\"\nkey = [\"tenant\", \"id\"]\n"
        .to_owned();
    for ((name, cluster), line) in names.iter().zip(clusters).zip(lines) {
        let [owner, writer, applier] = ["own", "app", "put"].map(|role| cluster.url(role, DATABASE));
        text.push_str(&format!(
            "[shard.s1.store.{name}]\npostgres = {{ owner = {owner:?}, writer = {writer:?}, applier = {applier:?} }}\nlog = {log:?}\n\
             [region.{name}]\nreplication = [\"{}\"]\n[region.{name}.pool.web]\nendpoints = [\"127.0.0.1:9\"]\n",
            line.address
        ));
    }
    text
}

/// Runs a command that is to succeed.
async fn says(folder: &Path, arguments: &[&str]) {
    let output = run(folder, arguments).await;
    assert!(output.status.success(), "{arguments:?}: {output:?}");
}
