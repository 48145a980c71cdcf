//! Content in two regions: what is written in one is read in the other, comes through a break, outlives the region that wrote it, and is healed by the
//! other where a disk damages it.

use portolan_tests::{node, until};
use rustix::process::Signal;

use super::*;
use crate::shards::SQLITE;

const REGIONS: [&str; 2] = ["eu", "us"];
/// What one region takes of the other in a second, while a break is to come in the middle.
const SLOWLY: u64 = 8_000_000;

/// Two regions that keep a shard, and one of which a tenant may not leave.
struct World {
    acme: String,
    homely: String,
    nodes: Vec<Node>,
    place: TempDir,
    upstream: Upstream,
}

impl World {
    async fn start() -> Self {
        let (place, upstream) = (tempfile::tempdir().unwrap(), Upstream::start("web").await);
        good(place.path(), &[&["pki", "trial", "certs"], REGIONS.as_slice()].concat()).await;
        let (acme, homely) = (String::new(), String::new());
        let mut world = Self { acme, homely, nodes: Vec::new(), place, upstream };
        world.share(None).await;
        for region in REGIONS {
            let folder = world.folder(region);
            good(folder.path(), &["migrate", "apply"]).await;
            world.nodes.push(Node::start_in(folder).await);
        }
        world.share(None).await;
        world.acme = token(world.of("eu").folder(), "acme").await;
        world.homely = token(world.of("eu").folder(), "homely").await;
        world.leads("eu").await;
        world
    }

    fn of(&self, region: &str) -> &Node {
        &self.nodes[REGIONS.iter().position(|name| *name == region).unwrap()]
    }

    /// Waits until a region writes both shards that it may.
    async fn leads(&self, region: &str) {
        until("it leads", async || {
            let status = self.of(region).status().await;
            status["shards"].as_array().unwrap().iter().all(|shard| shard["lease_ms"].is_u64())
        })
        .await;
    }

    /// Starts a region's node that has ended, and tells the other where it is now.
    async fn restart(&mut self, region: &str) {
        let at = REGIONS.iter().position(|name| *name == region).unwrap();
        let node = self.nodes.remove(at).restarted(&[]).await;
        self.nodes.insert(at, node);
        self.share(Some(SLOWLY)).await;
    }

    /// What both share, with the addresses that are known by now, and how fast content may come.
    async fn share(&self, rate: Option<u64>) {
        let mut text = "[tenants]\nsources = [{ header = \"x-tenant\" }]\n[residency.home]\nregions = [\"eu\"]\n\
             [tenant.homely]\nresidency = \"home\"\n[table.orders]\ntenant = \"tenant\"\nkey = [\"tenant\", \"id\"]\n\
             [placement]\nkey = \"00112233445566778899aabbccddeeff\"\n\
             rule = [{ residency = \"home\", ranges = [{ last = \"ffffffffffffffff\", shard = \"s2\" }] },\n\
             { ranges = [{ last = \"ffffffffffffffff\", shard = \"s1\" }] }]\n\
             [shard.s1]\nprimary = \"eu\"\n[shard.s2]\nprimary = \"eu\"\nresidency = \"home\"\n"
            .to_owned();
        for (shard, regions) in [("s1", REGIONS.as_slice()), ("s2", &["eu"])] {
            for region in regions {
                let file = self.place.path().join(format!("{region}-{shard}.db"));
                text.push_str(&format!("[shard.{shard}.store.{region}]\nsqlite = {file:?}\n"));
            }
        }
        for (at, region) in REGIONS.iter().enumerate() {
            text.push_str(&format!("[region.{region}]\n"));
            if let Some(node) = self.nodes.get(at) {
                let (peer, replication) = (node.listener(1), node.listener(2));
                text.push_str(&format!("gateways = [\"{peer}\"]\nreplication = [\"{replication}\"]\n"));
            }
            if let Some(rate) = rate {
                text.push_str(&format!("replication_bytes_per_second = {rate}\n"));
            }
            text.push_str(&format!(
                "[region.{region}.pool.web]\nendpoints = [\"{}\"]\n",
                self.upstream.address
            ));
        }
        let folder = self.folder("eu");
        std::fs::write(folder.path().join("conf.d/all.toml"), text).unwrap();
        let (code, text) = says(folder.path(), &["apply"]).await;
        assert_eq!(code, 0, "{text}");
    }

    fn folder(&self, region: &str) -> TempDir {
        let (certs, own) = (self.place.path().join("certs"), self.place.path().join(region));
        let folder = node::folder(&format!(
            "[node]\nname = \"{region}\"\nregion = \"{region}\"\nthreads = 1\n\
             [listen]\npublic = [\"127.0.0.1:0\"]\npeer = [\"127.0.0.1:0\"]\nreplication = [\"127.0.0.1:0\"]\n\
             [policies]\ninstances = 100\n[peer]\ncert = {:?}\nkey = {:?}\nca = [{:?}]\n[control]\nsqlite = {:?}\n\
             [content]\nstore = {:?}\nkeyring = {:?}\n",
            certs.join(format!("{region}.crt")),
            certs.join(format!("{region}.key")),
            certs.join("ca.crt"),
            self.place.path().join("control.db"),
            own.join("packs"),
            own.join("keys"),
        ));
        let migrations = folder.path().join("migrations/sqlite");
        std::fs::create_dir_all(&migrations).unwrap();
        std::fs::write(migrations.join("0001_create_orders.sql"), SQLITE).unwrap();
        folder
    }

    async fn put(&self, region: &str, token: &str, path: &str, body: &[u8]) -> Answer {
        send(self.of(region), token, Request::put(path), body.to_vec()).await
    }

    /// Waits until a region answers with a content by itself.
    async fn has(&self, region: &str, path: &str, body: &[u8]) {
        until("the copy has it", async || {
            let request = Request::get(path).header("portolan-consistency", "max-staleness=30");
            let answer = send(self.of(region), &self.acme, request, "").await;
            answer.status == 200 && answer.body == body && !answer.header("portolan-staleness").is_empty()
        })
        .await;
    }

    /// How a region's copy of the shard follows.
    async fn copy(&self, region: &str) -> Value {
        self.of(region).status().await["content"]["copies"][0].clone()
    }
}

/// Changes a byte in the middle of each pack.
fn damage(folder: &Path) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            damage(&entry.path());
        } else {
            let mut bytes = std::fs::read(entry.path()).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(entry.path(), bytes).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_outlives_the_region_that_wrote_it() {
    let mut world = World::start().await;
    let (picture, film) = ("/-/content/items/docs/picture", "/-/content/items/docs/film");
    let (first, large) = (noise(11, 1_000_000), noise(12, 26_000_000));

    // Written in either region it is written where the shard is, and read in both.
    assert_eq!(world.put("us", &world.acme, picture, &first).await.status, 201);
    world.has("us", picture, &first).await;
    let secret = [CANARY, &noise(13, 300_000)].concat();
    let homely = "/-/content/items/docs/secret";
    assert_eq!(world.put("eu", &world.homely, homely, &secret).await.status, 201);

    // A region ends in the middle of a transfer, after a pack of it was written, and asks only for the rest.
    world.share(Some(SLOWLY)).await;
    assert_eq!(world.put("eu", &world.acme, film, &large).await.status, 201);
    // With the picture, and the answer that is not packed yet, a pack of 16 MiB is written by then.
    until("some has come", async || world.copy("us").await["bytes"].as_u64() > Some(22_500_000)).await;
    assert_eq!(world.copy("us").await["behind"], 1);
    world.of("us").signal(Signal::KILL);
    world.restart("us").await;
    world.has("us", film, &large).await;
    let came = world.copy("us").await;
    assert!(came["bytes"].as_u64() < Some(14_000_000), "{came}");

    // A disk changes a byte of each pack: whoever reads it finds it, and has it from the other region.
    damage(&world.place.path().join("us/packs"));
    world.has("us", film, &large).await;
    world.has("us", picture, &first).await;
    let status = world.of("us").status().await;
    let damage = &status["content"]["damage"];
    assert!(damage["found"].as_u64() >= Some(1) && damage["found"] == damage["repaired"], "{damage}");
    assert!(world.of("us").log().contains("damaged in its pack"));

    // The region that wrote all of it is lost. The other goes on with all of it, and shows it when it comes back.
    world.of("eu").signal(Signal::KILL);
    good(world.of("us").folder(), &["shard", "promote", "s1", "--to", "us"]).await;
    until("the other region writes", async || {
        world.of("us").status().await["shards"][0]["lease_ms"].is_u64()
    })
    .await;
    for (path, body) in [(picture, &first), (film, &large)] {
        let answer = send(world.of("us"), &world.acme, Request::get(path), "").await;
        assert!(answer.status == 200 && answer.body == *body, "{path}: {}", answer.status);
    }
    let mut second = first.clone();
    second[500_000] ^= 1;
    assert_eq!(world.put("us", &world.acme, picture, &second).await.status, 200);
    world.restart("eu").await;
    world.has("eu", picture, &second).await;
    let came = world.copy("eu").await;
    assert!(
        came["source"] == "us" && came["stranded"] == 0 && came["bytes"].as_u64() < Some(100_000),
        "{came}"
    );

    // What may not be in a region is not there, by no name.
    let there = send(world.of("eu"), &world.homely, Request::get(homely), "").await;
    assert_eq!((there.status.as_u16(), there.body.as_ref()), (200, secret.as_slice()));
    assert!(
        !world.place.path().join("us/packs/homely").exists()
            && !world.place.path().join("us/keys/homely").exists()
    );
    for folder in [world.place.path().join("us"), world.of("us").folder().to_owned()] {
        assert!(!stands_in(&folder, CANARY), "{}", folder.display());
    }
    let metrics = world.of("eu").ask_plain("GET", "/api/v1/metrics", json!(null)).await.unwrap().text();
    assert!(metrics.contains("portolan_content_behind{shard=\"s1\",source=\"us\"} 0"), "{metrics}");
}
