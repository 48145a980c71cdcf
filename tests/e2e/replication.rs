//! Replication between regions through running nodes: copies begin, follow, outlive cuts and promotions, and tell how they stand.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use portolan_test_postgres::Cluster;
use portolan_tests::client::{Answer, Client};
use portolan_tests::guests::resolving;
use portolan_tests::node::{self, Node, run};
use portolan_tests::until;
use portolan_tests::upstream::Upstream;
use rustix::process::Signal;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};
use tempfile::TempDir;

use super::shards::{POSTGRES, SQLITE, ask, says, token};

/// Longer than a lease that nobody gives back.
const LEASE: Duration = Duration::from_secs(60);
const REGIONS: [&str; 3] = ["ap", "eu", "us"];
const ROWS: &str =
    "SELECT CAST(id AS text) || '/' || CAST(coalesce(total, '0') AS text) FROM orders ORDER BY id";
/// PostgreSQL's numbers are no texts.
const POSTGRES_ROWS: &str =
    "SELECT CAST(id AS text) || '/' || coalesce(CAST(total AS text), '0') FROM orders ORDER BY id";

/// What all regions write.
const SQLITE_VISITS: &str = "CREATE TABLE visits (tenant text NOT NULL, id integer NOT NULL, note text, PRIMARY KEY (tenant, id)) STRICT;\n\
    CREATE TABLE remarks (tenant text NOT NULL, id integer NOT NULL, note text, PRIMARY KEY (tenant, id)) STRICT;\n";
const POSTGRES_VISITS: &str = "CREATE TABLE visits (tenant text NOT NULL, id bigint NOT NULL, note text, PRIMARY KEY (tenant, id));\n\
    CREATE TABLE remarks (tenant text NOT NULL, id bigint NOT NULL, note text, PRIMARY KEY (tenant, id));\n";
const VISITS: &str = "SELECT CAST(id AS text) || '/' || note FROM visits ORDER BY id";
const REMARKS: &str = "SELECT CAST(id AS text) || '/' || note FROM remarks ORDER BY id";

/// Three regions with one shard, written in `eu`.
struct World {
    acme: String,
    cluster: Option<Cluster>,
    nodes: Vec<Node>,
    place: TempDir,
    upstream: Upstream,
}

impl World {
    async fn start(cluster: Option<Cluster>) -> Self {
        let (place, upstream) = (tempfile::tempdir().unwrap(), Upstream::start("web").await);
        let certs = place.path().join("certs");
        let made =
            run(place.path(), &[&["pki", "trial", certs.to_str().unwrap()], REGIONS.as_slice()].concat())
                .await;
        assert!(made.status.success(), "{made:?}");
        if let Some(cluster) = &cluster {
            for region in REGIONS {
                cluster.admin(&format!("CREATE DATABASE {region} OWNER own")).await;
            }
        }
        let mut world = Self { acme: String::new(), cluster, nodes: Vec::new(), place, upstream };
        world.share().await;
        for region in REGIONS {
            let node = world.node(region).await;
            world.nodes.push(node);
        }
        world.share().await;
        world.acme = token(world.of("eu").folder(), "acme").await;
        until("the primary has its lease", async || {
            world.of("eu").status().await["shards"][0]["lease_ms"].is_u64()
        })
        .await;
        world
    }

    fn of(&self, region: &str) -> &Node {
        let at = REGIONS.iter().position(|name| *name == region).unwrap();
        &self.nodes[at]
    }

    /// Ends a region's node at once.
    fn kill(&self, region: &str) {
        let at = REGIONS.iter().position(|name| *name == region).unwrap();
        self.nodes[at].signal(Signal::KILL);
    }

    /// Waits until a region writes the shard; a failed primary's lease has to run out first.
    async fn leads(&self, region: &str) {
        let node = self.of(region);
        let waited = tokio::time::timeout(LEASE, async {
            while !node.status().await["shards"][0]["lease_ms"].is_u64() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        assert!(waited.await.is_ok(), "{region} does not lead:\n{}", node.log());
    }

    /// Starts a region's node that has ended, and tells the others where it is now.
    async fn restart(&mut self, region: &str) {
        let at = REGIONS.iter().position(|name| *name == region).unwrap();
        let node = self.nodes.remove(at).restarted(&[]).await;
        self.nodes.insert(at, node);
        self.share().await;
    }

    fn store(&self, region: &str) -> String {
        match &self.cluster {
            None => format!("sqlite = {:?}", self.place.path().join(format!("{region}.db"))),
            Some(cluster) => {
                let [owner, writer, applier] = ["own", "app", "put"].map(|role| cluster.url(role, region));
                format!("postgres = {{ owner = {owner:?}, writer = {writer:?}, applier = {applier:?} }}")
            }
        }
    }

    /// What all regions share, with the addresses that are known by now.
    async fn share(&self) {
        let mut text = "[tenants]\nsources = [{ header = \"x-tenant\" }]\n[shard.s1]\nprimary = \"eu\"\n\
             [table.orders]\ntenant = \"tenant\"\nkey = [\"tenant\", \"id\"]\n\
             [table.visits]\ntenant = \"tenant\"\nkey = [\"tenant\", \"id\"]\nwriters = \"members\"\n\
             [table.remarks]\ntenant = \"tenant\"\nkey = [\"tenant\", \"id\"]\nwriters = \"members\"\nconflict = { policy = \"losers\" }\n"
            .to_owned();
        for (at, region) in REGIONS.iter().enumerate() {
            text.push_str(&format!("[shard.s1.store.{region}]\n{}\n[region.{region}]\n", self.store(region)));
            if let Some(node) = self.nodes.get(at) {
                let (peer, replication) = (node.listener(1), node.listener(2));
                text.push_str(&format!("gateways = [\"{peer}\"]\nreplication = [\"{replication}\"]\n"));
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
        self.folder_of(region, region)
    }

    fn folder_of(&self, name: &str, region: &str) -> TempDir {
        let certs = self.place.path().join("certs");
        node::folder(&format!(
            "[node]\nname = \"{name}\"\nregion = \"{region}\"\nthreads = 1\n\
             [listen]\npublic = [\"127.0.0.1:0\"]\npeer = [\"127.0.0.1:0\"]\nreplication = [\"127.0.0.1:0\"]\n\
             [policies]\ninstances = 100\n[peer]\ncert = {:?}\nkey = {:?}\nca = [{:?}]\n[control]\nsqlite = {:?}\n",
            certs.join(format!("{region}.crt")),
            certs.join(format!("{region}.key")),
            certs.join("ca.crt"),
            self.place.path().join("control.db")
        ))
    }

    /// A node of a region, with the tenants' schema in its database.
    async fn node(&self, region: &str) -> Node {
        self.node_of(region, region).await
    }

    async fn node_of(&self, name: &str, region: &str) -> Node {
        let folder = self.folder_of(name, region);
        for (engine, sql) in [
            ("sqlite", format!("{SQLITE}{SQLITE_VISITS}")),
            ("postgres", format!("{POSTGRES}{POSTGRES_VISITS}")),
        ] {
            let migrations = folder.path().join("migrations").join(engine);
            std::fs::create_dir_all(&migrations).unwrap();
            std::fs::write(migrations.join("0001_create_orders.sql"), sql).unwrap();
        }
        // A policy of which the row is made that would have lost.
        let losers = resolving("(call $ok (local.get $right) (local.get $right_bytes))");
        std::fs::write(folder.path().join("policies/losers.wasm"), losers).unwrap();
        let (code, text) = says(folder.path(), &["migrate", "apply"]).await;
        assert_eq!(code, 0, "{text}");
        Node::start_in(folder).await
    }

    /// Writes orders through a node, until each is taken.
    async fn write(&self, region: &str, ids: impl Iterator<Item = u64>) {
        for id in ids {
            until("a write is taken", async || {
                let order = json!({ "id": id, "total": format!("{id}.50") });
                ask(self.of(region), &self.acme, Method::POST, "/-/data/orders", order).await.status == 201
            })
            .await;
        }
    }

    async fn read(&self, region: &str, path: &str, fields: &[(&str, &str)]) -> Answer {
        self.read_at(self.of(region), path, fields).await
    }

    async fn read_at(&self, node: &Node, path: &str, fields: &[(&str, &str)]) -> Answer {
        let mut client = Client::connect(node.public(), "shop.test").await.unwrap();
        let mut request = Request::get(path).header("authorization", format!("Bearer {}", self.acme));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        client.send(request, Bytes::new()).await.unwrap()
    }

    /// A region's rows, straight from its database.
    async fn rows(&self, region: &str) -> Vec<String> {
        self.texts(region, if self.cluster.is_some() { POSTGRES_ROWS } else { ROWS }).await
    }

    async fn texts(&self, region: &str, sql: &'static str) -> Vec<String> {
        match &self.cluster {
            None => {
                let path = self.place.path().join(format!("{region}.db"));
                let mut store = SqliteConnection::connect(path.to_str().unwrap()).await.unwrap();
                sqlx::query_scalar(sql).fetch_all(&mut store).await.unwrap()
            }
            Some(cluster) => {
                let mut store = cluster.connect("postgres", region).await;
                sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut store).await.unwrap()
            }
        }
    }

    async fn are_alike(&self, what: &str) {
        until(what, async || {
            let eu = self.rows("eu").await;
            self.rows("us").await == eu && self.rows("ap").await == eu
        })
        .await;
    }
}

/// A table of all members is written and read in every region, also while there is no primary; and all come to the same rows.
async fn members_write_where_they_are(cluster: Option<Cluster>) {
    let mut world = World::start(cluster).await;
    world.write("eu", 1..=3).await;
    world.are_alike("the copies").await;
    let visit = async |world: &World, region: &str, id: u64| {
        let visit = json!({ "id": id, "note": region });
        ask(world.of(region), &world.acme, Method::POST, "/-/data/visits", visit).await
    };
    for (region, id) in REGIONS.iter().zip(1..) {
        until("a member's write", async || visit(&world, region, id).await.status == 201).await;
    }
    let alike = async |world: &World, regions: &[&str], wanted: &[&str]| {
        until("the same visits", async || {
            for region in regions {
                if world.texts(region, VISITS).await != wanted {
                    return false;
                }
            }
            true
        })
        .await;
    };
    alike(&world, &REGIONS, &["1/ap", "2/eu", "3/us"]).await;

    world.kill("eu");
    for (region, id) in [("us", 11), ("ap", 12)] {
        let answer = visit(&world, region, id).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        let read = world.read(region, &format!("/-/data/visits/{id}"), &[]).await;
        assert!(read.status == 200 && read.text().contains(region), "{}", read.text());
    }
    let noted = json!({ "note": "changed" });
    let answer = ask(world.of("us"), &world.acme, Method::PATCH, "/-/data/visits/2", noted).await;
    assert!(answer.status.is_success(), "{}", answer.text());
    let order = ask(world.of("us"), &world.acme, Method::POST, "/-/data/orders", json!({ "id": 9 })).await;
    assert!(matches!(order.status.as_u16(), 502 | 503), "one region writes this one: {}", order.text());
    let both = ["1/ap", "2/changed", "3/us", "11/us", "12/ap"];
    alike(&world, &["us", "ap"], &both).await;
    world.restart("eu").await;
    alike(&world, &REGIONS, &both).await;
    let deleted = ask(world.of("ap"), &world.acme, Method::DELETE, "/-/data/visits/3", Value::Null).await;
    assert!(deleted.status.is_success(), "{}", deleted.text());
    alike(&world, &REGIONS, &["1/ap", "2/changed", "11/us", "12/ap"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_write_where_they_are_on_sqlite() {
    members_write_where_they_are(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_write_where_they_are_on_postgres() {
    members_write_where_they_are(Some(Cluster::start().await)).await;
}

/// Two regions write one row before either has heard of the other's: the primary asks the table's policy, and all have what it says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_merges_what_regions_wrote_apart() {
    let world = World::start(None).await;
    world.write("eu", 1..=3).await;
    world.are_alike("the copies").await;
    let remark = async |region: &str, id: u64| {
        let remark = json!({ "id": id, "note": region });
        ask(world.of(region), &world.acme, Method::POST, "/-/data/remarks", remark).await.status.as_u16()
    };
    for (region, id) in REGIONS.iter().zip(1..) {
        until("a member's first write", async || remark(region, id).await == 201).await;
    }
    // Whoever has heard of the row says that it is there: then the next one is tried.
    let mut id = 10;
    while tokio::join!(remark("eu", id), remark("us", id)) != (201, 201) {
        id += 1;
        assert!(id < 1_000, "one is always told before it writes");
    }
    let lost = "SELECT json_extract(row, '$.note') FROM portolan_conflict WHERE resolution = 'merged'";
    until("one remark of both", async || {
        let lost = world.texts("eu", lost).await;
        let [lost] = lost.as_slice() else { return false };
        for region in REGIONS {
            if world.texts(region, REMARKS).await.last() != Some(&format!("{id}/{lost}")) {
                return false;
            }
        }
        true
    })
    .await;
    let (code, text) = says(world.of("eu").folder(), &["conflicts", "list", "s1"]).await;
    assert!(code == 0 && text.contains("by policy: lost") && text.contains("; merged by losers@"), "{text}");
}

async fn feeds(folder: &Path) -> Vec<Value> {
    let (_, text) = says(folder, &["sync", "status", "--json"]).await;
    let status: Value = serde_json::from_str(&text).unwrap_or_default();
    status["follows"].as_array().cloned().unwrap_or_default()
}

async fn copies_follow_and_change_sides(cluster: Option<Cluster>) {
    let world = World::start(cluster).await;
    world.write("eu", 1..=30).await;
    world.are_alike("the copies").await;
    // A region without the lease hands writes on, and gets them back as a copy.
    world.write("us", 31..=40).await;
    world.are_alike("what came by another region").await;
    let (code, text) = says(world.of("us").folder(), &["sync", "status"]).await;
    assert!(code == 0 && text.starts_with("s1 from eu: following, "), "{text}");
    until("the primary follows its copies as well", async || {
        let feeds = feeds(world.of("eu").folder()).await;
        feeds.len() == 2 && feeds.iter().all(|feed| feed["state"] == "following" && feed["primary"] == false)
    })
    .await;
    until("the primary knows who follows it", async || {
        let (_, text) = says(world.of("eu").folder(), &["sync", "status"]).await;
        ["ap", "us"].iter().all(|region| text.contains(&format!("s1 to {region}: has applied ")))
    })
    .await;

    // Who may see an old answer has it from the copy, and is told how old; who brings a token sees what it wrote.
    let order = json!({ "id": 60, "total": "60.50" });
    let written = ask(world.of("ap"), &world.acme, Method::POST, "/-/data/orders", order).await;
    let token = written.header("portolan-token").to_owned();
    let seen = world.read("us", "/-/data/orders/60", &[("portolan-token", &token)]).await;
    assert_eq!(seen.status, 200, "{}", seen.text());
    world.are_alike("what the token speaks of").await;
    for (name, value) in [
        ("portolan-consistency", "local"),
        ("portolan-consistency", "max-staleness=60"),
        ("portolan-token", token.as_str()),
    ] {
        until("the copy answers", async || {
            let seen = world.read("us", "/-/data/orders/60", &[(name, value)]).await;
            assert_eq!(seen.status, 200, "{}", seen.text());
            !seen.header("portolan-staleness").is_empty()
        })
        .await;
    }
    let strong = world.read("us", "/-/data/orders/60", &[]).await;
    assert_eq!((strong.status.as_u16(), strong.header("portolan-staleness")), (200, ""));

    // The other side writes now; what was its source is its copy.
    let (code, text) = says(world.of("us").folder(), &["shard", "promote", "s1", "--to", "us"]).await;
    assert_eq!(code, 0, "{text}");
    world.write("ap", 41..=50).await;
    world.are_alike("the copies of the new primary").await;
    until("the old primary follows", async || {
        let feeds = feeds(world.of("eu").folder()).await;
        let from_us = feeds.iter().find(|feed| feed["source"] == "us");
        from_us.is_some_and(|feed| feed["state"] == "following" && feed["primary"] == true)
    })
    .await;
    assert_eq!(world.rows("eu").await.len(), 51);
    // Everybody was there: nobody waited for a lease to run out, and nobody copied a row again.
    let log = world.of("us").log();
    assert!(log.contains("the copies in ap, eu have sealed") && !log.contains("will be lost"), "{log}");
    for region in REGIONS {
        let log = world.of(region).log();
        assert!(!log.contains("begins anew"), "{log}");
    }
}

/// A region is given a copy by one command, has it compared and put right, and gives it back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_joins_and_leaves() {
    let world = World::start(None).await;
    world.write("eu", 1..=40).await;
    // The shard is the API's from here on, and `ap` has no copy of it.
    let path = "/api/v1/objects/shard/s1";
    let shard = world.of("eu").ask_plain("GET", path, Value::Null).await.unwrap();
    let mut body = serde_json::from_slice::<Value>(&shard.body).unwrap()["body"].clone();
    body["store"].as_object_mut().unwrap().remove("ap");
    let seen = [("if-match", shard.header("etag"))];
    let taken = world.of("eu").ask_with("PUT", &format!("{path}?detach=true"), &seen, body).await.unwrap();
    assert_eq!(taken.status, 200, "{}", taken.text());
    let folder = world.of("ap").folder();
    until("the copy is let go", async || feeds(folder).await.is_empty()).await;

    let file = world.place.path().join("joined.db");
    let add = ["replica", "add", "s1", "ap", "--sqlite", file.to_str().unwrap()];
    let (code, text) = says(world.of("us").folder(), &add).await;
    assert!(code == 1 && text.contains("run it in `ap`"), "{text}");
    let (code, text) = says(folder, &add).await;
    assert_eq!(code, 0, "{text}");
    for said in ["1/4", "2/4 it has version 0001", "3/4", "4/4 compared with eu: alike"] {
        assert!(text.contains(said), "{said}: {text}");
    }
    world.write("us", 41..=45).await;
    let copied = async || {
        let mut store = SqliteConnection::connect(file.to_str().unwrap()).await.unwrap();
        sqlx::query_scalar::<_, String>(ROWS).fetch_all(&mut store).await.unwrap()
    };
    until("the new copy", async || copied().await == world.rows("eu").await).await;

    // Somebody writes past the log.
    let mut store = SqliteConnection::connect(file.to_str().unwrap()).await.unwrap();
    let tampered = "BEGIN IMMEDIATE; INSERT INTO portolan_session (id, applying) VALUES (1, 1); \
        UPDATE orders SET total = '6.66' WHERE id = 7; DELETE FROM portolan_session; COMMIT";
    sqlx::raw_sql(tampered).execute(&mut store).await.unwrap();
    let (code, text) = says(folder, &["sync", "audit", "s1"]).await;
    assert!(code == 1 && text.contains("orders [\"acme\",7]: different"), "{text}");
    let (code, text) = says(folder, &["sync", "repair", "s1", "--table", "orders"]).await;
    assert!(code == 0 && text.contains("1 rows were not as in eu, 1 put right"), "{text}");
    assert_eq!(copied().await, world.rows("eu").await);
    let (code, text) = says(folder, &["sync", "audit", "s1", "--tenant", "acme"]).await;
    assert!(code == 0 && text.contains("s1: this copy is as in eu"), "{text}");
    let (code, text) = says(world.of("eu").folder(), &["sync", "audit", "s1"]).await;
    assert!(code == 5 && text.contains("this region writes shard `s1`"), "{text}");

    for (region, why) in [("eu", "promote another first"), ("sa", "keeps no copy")] {
        let (code, text) = says(folder, &["replica", "remove", "s1", region]).await;
        assert!(code == 1 && text.contains(why), "{text}");
    }
    let (code, text) = says(folder, &["replica", "remove", "s1", "ap"]).await;
    assert_eq!(code, 0, "{text}");
    until("it follows no more", async || feeds(folder).await.is_empty()).await;
    until("nothing is kept for it", async || {
        let (_, text) = says(world.of("eu").folder(), &["sync", "status"]).await;
        text.contains("s1 to us") && !text.contains("s1 to ap")
    })
    .await;
    let (code, text) = says(folder, &["region", "remove", "us"]).await;
    assert!(code == 1 && text.contains("portolan replica remove s1 us"), "{text}");
}

/// Some of what a failed region wrote had reached one copy, and some nobody.
async fn what_a_failed_region_wrote_is_kept(cluster: Option<Cluster>) {
    let mut world = World::start(cluster).await;
    world.write("eu", 1..=10).await;
    world.are_alike("the copies").await;
    // From here on both have come by the log.
    world.write("eu", 11..=20).await;
    world.are_alike("what came by the log").await;
    world.kill("us");
    world.write("eu", 21..=25).await;
    until("one copy", async || world.rows("ap").await.len() == 25).await;
    world.kill("ap");
    world.write("eu", 26..=30).await;
    world.kill("eu");
    world.restart("us").await;
    world.restart("ap").await;
    let (code, text) = says(world.of("us").folder(), &["shard", "promote", "s1", "--to", "us"]).await;
    assert_eq!(code, 0, "{text}");
    world.leads("us").await;
    world.write("us", 41..=45).await;
    let rows = world.rows("us").await;
    let taken = rows.len() == 30 && rows.contains(&"25/25.50".to_owned());
    assert!(taken, "{rows:?}\n{}", world.of("us").log());
    until("the other copy", async || world.rows("ap").await == rows).await;

    // It comes back, gives way, and nothing that it wrote is gone for good.
    world.restart("eu").await;
    world.are_alike("the failed region's return").await;
    assert_eq!(world.rows("eu").await, rows);
    let list = ["conflicts", "list", "s1", "--json"];
    until("what was lost is known", async || {
        let (_, text) = says(world.of("us").folder(), &list).await;
        text.lines().count() == 5
    })
    .await;
    let (_, text) = says(world.of("us").folder(), &list).await;
    let lost: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lost.iter().all(|lost| lost["kind"] == "stranded" && lost["transaction"].is_string()), "{text}");
    let name = lost.iter().find(|lost| lost["lost"]["id"] == 27).unwrap()["conflict"].as_str().unwrap();
    let (code, text) = says(world.of("us").folder(), &["conflicts", "restore", "s1", name]).await;
    assert_eq!(code, 0, "{text}");
    until("the row that was put back", async || world.rows("eu").await.contains(&"27/27.50".to_owned()))
        .await;
    world.are_alike("the row that was put back").await;
    for region in REGIONS {
        let log = world.of(region).log();
        assert!(!log.contains("begins anew"), "{region} copies rows: {log}");
    }
}

/// Of a region's nodes one follows; the other answers from the copy all the same, and goes on when the first is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_of_a_region_follows() {
    let world = World::start(Some(Cluster::start().await)).await;
    world.write("eu", 1..=20).await;
    world.are_alike("the copies").await;
    let second = world.node_of("us-2", "us").await;
    let stands = async || second.ask("GET", "/api/v1/shards", Value::Null).await.unwrap()["items"][0].clone();
    until("the second knows who follows", async || stands().await["followed_by"] == "us").await;
    assert_eq!(stands().await["follows"], json!([]), "it follows nobody itself");
    until("it answers from the copy", async || {
        let seen = world
            .read_at(&second, "/-/data/orders/20", &[("portolan-consistency", "max-staleness=30")])
            .await;
        seen.status == 200 && !seen.header("portolan-staleness").is_empty()
    })
    .await;
    let told = run(second.folder(), &["sync", "status"]).await;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains("s1: node us of this region follows the others"), "{told}");
    world.kill("us");
    until("the second follows", async || {
        let stands = stands().await;
        stands["followed_by"].is_null() && stands["follows"].as_array().is_some_and(|feeds| feeds.len() == 2)
    })
    .await;
    world.write("eu", 21..=30).await;
    until("the rows come", async || world.rows("us").await == world.rows("eu").await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_failed_region_wrote_is_kept_on_sqlite() {
    what_a_failed_region_wrote_is_kept(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_failed_region_wrote_is_kept_on_postgres() {
    what_a_failed_region_wrote_is_kept(Some(Cluster::start().await)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_follow_and_change_sides_on_sqlite() {
    copies_follow_and_change_sides(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_follow_and_change_sides_on_postgres() {
    copies_follow_and_change_sides(Some(Cluster::start().await)).await;
}
