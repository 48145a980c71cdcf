//! Tenants move between shards by command, while gateways and applications write, and while nodes die.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use portolan_foundation::random;
use portolan_test_postgres::Cluster;
use portolan_tests::client::{Answer, Client};
use portolan_tests::node::{self, Node, run};
use portolan_tests::until;
use portolan_tests::upstream::Upstream;
use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, SqliteConnection};
use tempfile::TempDir;
use tokio::time::Instant;

use super::{good, says};

const SQLITE: &str = "CREATE TABLE orders (tenant text NOT NULL, id integer NOT NULL, total text, \
    PRIMARY KEY (tenant, id)) STRICT;\n";
const POSTGRES: &str = "CREATE TABLE orders (tenant text NOT NULL, id bigint NOT NULL, total text, \
    PRIMARY KEY (tenant, id));\n";
/// Rows that are there before anything moves.
const SEED: u64 = 2_000;

/// Two shards of one engine, reached by a node and by whoever knows their databases.
struct Shards {
    _place: TempDir,
    databases: Databases,
    upstream: Upstream,
}

enum Databases {
    Files([PathBuf; 2]),
    Postgres(Cluster),
}

/// A connection that no gateway knows of.
enum Direct {
    File(SqliteConnection),
    Postgres(PgConnection),
}

impl Shards {
    async fn files() -> Self {
        let place = tempfile::tempdir().unwrap();
        let files = ["s1.db", "s2.db"].map(|name| place.path().join(name));
        Self { _place: place, databases: Databases::Files(files), upstream: Upstream::start("web").await }
    }

    async fn postgres() -> Self {
        let cluster = Cluster::start().await;
        for name in ["s1", "s2"] {
            cluster.admin(&format!("CREATE DATABASE {name} OWNER own")).await;
        }
        let databases = Databases::Postgres(cluster);
        Self { _place: tempfile::tempdir().unwrap(), databases, upstream: Upstream::start("web").await }
    }

    fn store(&self, at: usize) -> String {
        match &self.databases {
            Databases::Files(files) => format!("sqlite = {:?}", files[at]),
            Databases::Postgres(cluster) => {
                let [owner, writer, applier] =
                    ["own", "app", "put"].map(|role| cluster.url(role, ["s1", "s2"][at]));
                format!("postgres = {{ owner = {owner:?}, writer = {writer:?}, applier = {applier:?} }}")
            }
        }
    }

    /// A node with both shards, whose tenants are on the first.
    async fn node(&self, rules: &str) -> Node {
        let folder = node::folder(
            "[node]\nname = \"one\"\nregion = \"here\"\nthreads = 1\n[listen]\npublic = [\"127.0.0.1:0\"]\n\
             [policies]\ninstances = 100\n[control]\nsqlite = \"control.db\"\n",
        );
        let shared = format!(
            "[tenants]\nsources = [{{ header = \"x-tenant\" }}]\n[region.here.pool.web]\nendpoints = [\"{}\"]\n\
             [shard.s1]\nprimary = \"here\"\n[shard.s1.store.here]\n{}\n\
             [shard.s2]\nprimary = \"here\"\ndrain = true\n[shard.s2.store.here]\n{}\n\
             [table.orders]\ntenant = \"tenant\"\nkey = [\"tenant\", \"id\"]\n{rules}",
            self.upstream.address,
            self.store(0),
            self.store(1)
        );
        std::fs::write(folder.path().join("conf.d/all.toml"), shared).unwrap();
        for (engine, sql) in [("sqlite", SQLITE), ("postgres", POSTGRES)] {
            let migrations = folder.path().join("migrations").join(engine);
            std::fs::create_dir_all(&migrations).unwrap();
            std::fs::write(migrations.join("0001_create_orders.sql"), sql).unwrap();
        }
        good(folder.path(), &["apply"]).await;
        good(folder.path(), &["migrate", "apply"]).await;
        let node = Node::start_in(folder).await;
        open(&node).await;
        node
    }

    async fn direct(&self, at: usize) -> Direct {
        match &self.databases {
            Databases::Files(files) => {
                let options = SqliteConnectOptions::new().filename(&files[at]);
                let options = options.busy_timeout(Duration::from_secs(5)).pragma("recursive_triggers", "on");
                Direct::File(SqliteConnection::connect_with(&options).await.unwrap())
            }
            Databases::Postgres(cluster) => {
                let mut connection = cluster.connect("app", ["s1", "s2"][at]).await;
                connection.execute("SET portolan.tenant = 'acme'").await.unwrap();
                Direct::Postgres(connection)
            }
        }
    }
}

impl Direct {
    /// Runs a statement, or gives the database's word against it.
    async fn run(&mut self, sql: String) -> Result<(), String> {
        let sql = sqlx::raw_sql(AssertSqlSafe(sql));
        let done = match self {
            Self::File(connection) => connection.execute(sql).await.map(drop),
            Self::Postgres(connection) => connection.execute(sql).await.map(drop),
        };
        done.map_err(|error| error.to_string())
    }

    async fn insert(&mut self, id: u64) -> Result<(), String> {
        self.run(format!("INSERT INTO orders (tenant, id) VALUES ('acme', {id})")).await
    }
}

/// Waits until the node holds both leases.
async fn open(node: &Node) {
    until("both shards are open", async || {
        let status = node.status().await;
        let shards = status["shards"].as_array().cloned().unwrap_or_default();
        shards.len() == 2
            && shards.iter().all(|shard| shard["problem"].is_null() && shard["lease_ms"].is_u64())
    })
    .await;
}

async fn token(folder: &Path, tenant: &str) -> String {
    let output = run(folder, &["token", "create", tenant, "--role", "tenant-app", "--tenant", tenant]).await;
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

async fn send(client: &mut Client, token: &str, method: Method, path: &str, body: Value) -> Option<Answer> {
    let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    let request = request.header("authorization", format!("Bearer {token}"));
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    client.send(request, body).await.ok()
}

async fn ask(node: &Node, token: &str, method: Method, path: &str, body: Value) -> Answer {
    let mut client = Client::connect(node.public(), "shop.test").await.unwrap();
    send(&mut client, token, method, path, body).await.unwrap()
}

/// All ids of a tenant's orders, by the gateway.
async fn ids(node: &Node, token: &str) -> Vec<u64> {
    let (mut all, mut last) = (Vec::new(), -1_i64);
    loop {
        let path = format!("/-/data/orders?select=id&id=gt.{last}&order=id&limit=1000");
        let answer = ask(node, token, Method::GET, &path, Value::Null).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        let page: Vec<Value> = serde_json::from_slice(&answer.body).unwrap();
        all.extend(page.iter().map(|row| row["id"].as_u64().unwrap()));
        if page.is_empty() {
            return all;
        }
        last = i64::try_from(*all.last().unwrap()).unwrap();
    }
}

async fn seed(node: &Node, token: &str, rows: u64) {
    for first in (0..rows).step_by(500) {
        let batch: Vec<Value> =
            (first..rows.min(first + 500)).map(|id| json!({ "id": id, "total": "12.50" })).collect();
        let answer = ask(node, token, Method::POST, "/-/data/orders", json!(batch)).await;
        assert!(answer.status.is_success(), "{}", answer.text());
    }
}

async fn shard_of(node: &Node, tenant: &str) -> String {
    let place = node.ask("GET", &format!("/api/v1/tenants/{tenant}/place"), Value::Null).await.unwrap();
    place["shard"].as_str().unwrap().to_owned()
}

async fn moves(node: &Node) -> Vec<Value> {
    let told = node.ask("GET", "/api/v1/moves", Value::Null).await.unwrap();
    told["items"].as_array().unwrap().clone()
}

/// What a writer was told is written, and when.
#[derive(Default)]
struct Written {
    ids: BTreeSet<u64>,
    /// The longest time between two acknowledged writes.
    pause: Duration,
}

/// What writers share.
#[derive(Clone, Default)]
struct Bell {
    count: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Bell {
    async fn after(&self, more: u64) {
        let wanted = self.count.load(Ordering::Relaxed) + more;
        until("writes go on", async || self.count.load(Ordering::Relaxed) >= wanted).await;
    }
}

impl Written {
    fn acknowledge(&mut self, id: u64, last: &mut Instant, bell: &Bell) {
        self.ids.insert(id);
        let now = Instant::now();
        self.pause = self.pause.max(now - *last);
        *last = now;
        bell.count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Writes one order after the other through the gateway, each until it is acknowledged.
async fn through_gateway(address: std::net::SocketAddr, token: String, first: u64, bell: Bell) -> Written {
    let mut client = Client::connect(address, "shop.test").await.unwrap();
    let (mut written, mut id, mut last) = (Written::default(), first, Instant::now());
    while !bell.over.load(Ordering::Relaxed) {
        let answer = send(&mut client, &token, Method::POST, "/-/data/orders", json!({ "id": id })).await;
        let answer = answer.unwrap();
        match answer.status.as_u16() {
            // That it is there already means that an answer was not certain.
            201 | 409 => {
                written.acknowledge(id, &mut last, &bell);
                id += 1;
            }
            // Routed by a picture that was right a moment ago. A hold is waited for, and nobody hears of it.
            421 | 429 | 503 => {
                assert!(!answer.text().contains("\"held\""), "{}", answer.text());
                tokio::task::yield_now().await;
            }
            status => assert_eq!(status, 0, "{}", answer.text()),
        }
    }
    written
}

/// Writes one order after the other past all gateways, at the shard that takes them.
async fn past_gateways(mut shards: [Direct; 2], first: u64, bell: Bell) -> Written {
    let (mut written, mut id, mut at, mut last) = (Written::default(), first, 0, Instant::now());
    while !bell.over.load(Ordering::Relaxed) {
        match shards[at].insert(id).await {
            Ok(()) => {
                written.acknowledge(id, &mut last, &bell);
                id += 1;
            }
            Err(why) if why.contains("portolan:away") => at = 1 - at,
            Err(why) if why.contains("portolan:held") || why.contains("locked") => {
                tokio::task::yield_now().await
            }
            Err(why) => assert_eq!(why, "", "the database refuses"),
        }
    }
    written
}

/// A move there and an undoing, while others write.
async fn under_load(shards: Shards) {
    let node = shards.node("").await;
    let acme = token(node.folder(), "acme").await;
    seed(&node, &acme, SEED).await;
    let text = good(node.folder(), &["shard", "move", "acme", "--to", "s2", "--dry-run"]).await;
    assert!(text.contains("can be moved from s1 to s2: 2000 rows"), "{text}");
    let (bell, begun) = (Bell::default(), Instant::now());
    let mut writers = tokio::task::JoinSet::new();
    for number in 1..=4 {
        let (token, bell) = (acme.clone(), bell.clone());
        writers.spawn(through_gateway(node.public(), token, number * 1_000_000, bell));
    }
    let direct = [shards.direct(0).await, shards.direct(1).await];
    writers.spawn(past_gateways(direct, 9_000_000, bell.clone()));
    bell.after(200).await;
    let there = good(node.folder(), &["shard", "move", "acme", "--to", "s2"]).await;
    assert!(
        there.contains("tenant acme: from s1 to s2") && there.contains("writes were held for"),
        "{there}"
    );
    bell.after(200).await;
    assert_eq!(shard_of(&node, "acme").await, "s2");
    let listed = good(node.folder(), &["shard", "moves"]).await;
    assert!(
        listed.contains("acme: s1 -> s2, kept") && listed.contains("rows are kept for another"),
        "{listed}"
    );
    let back = good(node.folder(), &["shard", "move", "acme", "--undo", "--json"]).await;
    let back: Value = serde_json::from_str(&back).unwrap();
    assert_eq!(
        (&back["to"], &back["chunks"], &back["undid"]),
        (&json!("s1"), &json!(0), &json!(true)),
        "{back}"
    );
    bell.after(200).await;
    bell.over.store(true, Ordering::Relaxed);
    let written = writers.join_all().await;
    let took = begun.elapsed();
    let found: BTreeSet<u64> = ids(&node, &acme).await.into_iter().collect();
    let acknowledged: BTreeSet<u64> =
        written.iter().flat_map(|written| written.ids.iter().copied()).collect();
    let lost: Vec<&u64> = acknowledged.difference(&found).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    let wanted = acknowledged.len() + usize::try_from(SEED).unwrap();
    assert_eq!(found.len(), wanted, "none doubled, none from nowhere");
    let rate = acknowledged.len() as f64 / took.as_secs_f64();
    let pause = written.iter().map(|written| written.pause).max().unwrap();
    eprintln!(
        "two moves at {rate:.0} writes/s: {there}  undone with {} ms; longest pause of a client {pause:?}",
        back["pause_ms"]
    );
    assert!(shards.direct(1).await.insert(9_999_999).await.unwrap_err().contains("portolan:away"));
    let metrics = node.ask_plain("GET", "/api/v1/metrics", Value::Null).await.unwrap().text();
    assert!(metrics.contains("portolan_moves_total{end=\"moved\"} 2\n"), "{metrics}");
    assert!(metrics.contains("portolan_move_pause_seconds_count 2\n"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_moves_between_files_while_all_write() {
    under_load(Shards::files().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_moves_between_databases_of_postgresql_while_all_write() {
    under_load(Shards::postgres().await).await;
}

/// Waits until no move is under way; gives the shard on which the tenant is written, and is refused at the other.
async fn settled(shards: &Shards, node: &Node, acme: &str, id: u64) -> usize {
    until("the move is at its end", async || moves(node).await.iter().all(|one| one["step"] == "kept")).await;
    let at = usize::from(shard_of(node, "acme").await == "s2");
    let written = ask(node, acme, Method::POST, "/-/data/orders", json!({ "id": id })).await;
    assert_eq!(written.status, StatusCode::CREATED, "{}", written.text());
    shards.direct(at).await.insert(id + 1).await.unwrap();
    let refused = shards.direct(1 - at).await.insert(id + 2).await.unwrap_err();
    assert!(refused.contains("portolan:away"), "{refused}");
    at
}

/// The only node dies in the middle of moves, at moments that a seed names.
async fn killed(shards: Shards) {
    let seed_of_kills = random::u64();
    eprintln!("seed {seed_of_kills}");
    let rules = "[placement]\nkey = \"00112233445566778899aabbccddeeff\"\nmove_rows_per_second = 4000\n\
                 rule = [{ ranges = [{ last = \"ffffffffffffffff\", shard = \"s1\" }] }]\n";
    let mut node = shards.node(rules).await;
    let acme = token(node.folder(), "acme").await;
    seed(&node, &acme, SEED).await;
    let mut wanted = SEED;
    let order = |to: &str| json!({ "to": to });
    let mut at = 0;
    for kill in 0..3_u64 {
        let to = ["s2", "s1"][at];
        node.ask("POST", "/api/v1/tenants/acme/moves", order(to)).await.unwrap();
        // The first while rows are copied; the others some looks after all are, where it goes fast.
        let looks = if kill == 0 { 0 } else { (seed_of_kills >> (8 * kill)) % 12 };
        until("rows are copied", async || {
            let all = moves(&node).await;
            let one = all.iter().find(|one| !one["here"].is_null());
            let enough = if kill == 0 { 1 } else { SEED };
            one.is_none_or(|one| {
                let copied = one["here"]["rows"].as_u64() >= Some(enough);
                copied || !["check", "copy"].contains(&one["here"]["stage"].as_str().unwrap())
            })
        })
        .await;
        for _ in 0..looks {
            moves(&node).await;
        }
        node = node.restarted(&[]).await;
        open(&node).await;
        let id = 1_000_000 + 10 * kill;
        at = settled(&shards, &node, &acme, id).await;
        eprintln!("kill {kill} after {looks} looks: at s{}", at + 1);
        wanted += 2;
        assert_eq!(ids(&node, &acme).await.len() as u64, wanted, "kill {kill}");
        if kill == 0 {
            assert_eq!(at, 0, "nothing had switched, so it was taken back");
        }
    }
    let to = ["s2", "s1"][at];
    let text = good(node.folder(), &["shard", "move", "acme", "--to", to]).await;
    assert!(text.contains("writes were held for"), "{text}");
    assert_eq!(settled(&shards, &node, &acme, 2_000_000).await, 1 - at);
    assert_eq!(ids(&node, &acme).await.len() as u64, wanted + 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_outlives_its_gateway_over_files() {
    killed(Shards::files().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_outlives_its_gateway_over_postgresql() {
    killed(Shards::postgres().await).await;
}

/// A split and a merge move tenants by the rules, and end with other rules.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_is_split_and_merged() {
    let shards = Shards::files().await;
    let node = shards.node("").await;
    let mut tokens = Vec::new();
    for number in 0..8 {
        let token = token(node.folder(), &format!("t{number}")).await;
        seed(&node, &token, 3).await;
        tokens.push(token);
    }
    let look = good(node.folder(), &["shard", "split", "s1", "--to", "s2", "--dry-run", "--json"]).await;
    let look: Value = serde_json::from_str(&look).unwrap();
    let leaving: Vec<String> =
        look["tenants"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect();
    assert!(!leaving.is_empty() && leaving.len() < 8, "{look}");
    // One goes ahead, so that the split has only the others to move.
    good(node.folder(), &["shard", "move", &leaving[0], "--to", "s2"]).await;
    let split = good(node.folder(), &["shard", "split", "s1", "--to", "s2", "--beside", "2"]).await;
    let count = format!("{} tenants moved from s1 to s2, 0 not", leaving.len() - 1);
    assert!(split.contains(&count) && split.contains("the rules of placement send them to s2"), "{split}");
    for (number, token) in tokens.iter().enumerate() {
        let name = format!("t{number}");
        let wanted = if leaving.contains(&name) { "s2" } else { "s1" };
        assert_eq!(shard_of(&node, &name).await, wanted, "{name}");
        assert_eq!(ids(&node, token).await, [0, 1, 2], "{name}");
        let written = ask(&node, token, Method::POST, "/-/data/orders", json!({ "id": 3 })).await;
        assert_eq!(written.status, StatusCode::CREATED, "{}", written.text());
    }
    // Tenants that are new go by the new rules: some of many to each shard.
    let mut new = BTreeSet::new();
    for number in 0..40 {
        new.insert(shard_of(&node, &format!("new{number}")).await);
    }
    assert_eq!(new.len(), 2);
    let merged = good(node.folder(), &["shard", "merge", "s2", "--into", "s1", "--json"]).await;
    let merged: Value = serde_json::from_str(&merged).unwrap();
    assert_eq!(merged["moved"].as_array().unwrap().len(), leaving.len(), "{merged}");
    assert!(merged["moved"].as_array().unwrap().iter().all(|one| one["undid"] == true), "{merged}");
    for (number, token) in tokens.iter().enumerate() {
        assert_eq!(shard_of(&node, &format!("t{number}")).await, "s1");
        assert_eq!(ids(&node, token).await, [0, 1, 2, 3]);
    }
    for (arguments, words) in [
        (["shard", "split", "s1", "--to", "s1"], "both are shard `s1`"),
        (["shard", "move", "t0", "--to", "s9"], "there is no shard `s9`"),
        (["shard", "move", "t0", "--to", "s1"], "are the same shard"),
    ] {
        let (code, text) = says(node.folder(), &arguments).await;
        assert!(code != 0 && text.contains(words), "{text}");
    }
}

/// What files manage is theirs to change: it is said what to write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_files_manage_is_left_to_them() {
    let shards = Shards::files().await;
    let rules = "[placement]\nkey = \"00112233445566778899aabbccddeeff\"\nkeep_moved = \"1s\"\n\
                 rule = [{ ranges = [{ last = \"ffffffffffffffff\", shard = \"s1\" }] }]\n\
                 [place.fixed]\nshard = \"s1\"\nplacement = 1\n";
    let node = shards.node(rules).await;
    let acme = token(node.folder(), "acme").await;
    seed(&node, &acme, 2).await;
    let (code, text) = says(node.folder(), &["shard", "move", "fixed", "--to", "s2"]).await;
    assert!(code != 0 && text.contains("`place/fixed` is managed by"), "{text}");
    let (code, text) = says(node.folder(), &["shard", "split", "s1", "--to", "s2", "--ratio", "1"]).await;
    assert!(code == 2 && text.contains("1 tenants moved from s1 to s2"), "{code} {text}");
    let told = text.contains("last = \"ffffffffffffffff\", shard = \"s2\"");
    assert!(told && text.contains("write this there"), "{text}");
    assert_eq!(shard_of(&node, "acme").await, "s2");
    // The source forgets its rows in time, and the tenant can be moved there anew.
    until("the source has forgotten", async || moves(&node).await.is_empty()).await;
    let (code, text) = says(node.folder(), &["shard", "move", "acme", "--undo"]).await;
    assert!(code != 0 && text.contains("keeps rows"), "{text}");
    let anew = good(node.folder(), &["shard", "move", "acme", "--to", "s1", "--json"]).await;
    let anew: Value = serde_json::from_str(&anew).unwrap();
    assert_eq!((&anew["chunks"], &anew["undid"]), (&json!(1), &json!(false)), "{anew}");
    assert_eq!(ids(&node, &acme).await, [0, 1]);
}
