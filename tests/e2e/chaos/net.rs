//! Two regions in networks of their own, with a cable between them that is pulled: here the kernel alone says what becomes of connections
//! and of what was sent.

use std::path::Path;
use std::process::{Command, Stdio};

use portolan_tests::node::{self, Node};
use portolan_tests::until;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, SqliteConnection};
use tempfile::TempDir;

use crate::shards::SQLITE;
use crate::{good, says};

const REGIONS: [&str; 2] = ["eu", "us"];
/// A network of its own, whose cable somebody else brings: the gateway starts when it has its address.
const IN_A_NETWORK: &str = "ip link set lo up && echo $$ > \"$0\".part && mv \"$0\".part \"$0\" && \
    until ip -4 addr show dev r0 2>/dev/null | grep -q inet; do sleep 0.05; done && exec \"$@\"";
const SHARED: &str = "[tenants]\nsources = [{ header = \"x-tenant\" }]\n[shard.s1]\nprimary = \"eu\"\n\
    [table.orders]\ntenant = \"tenant\"\nkey = [\"tenant\", \"id\"]\n";

/// May this process give children networks of their own, with cables? Not in every container.
fn may_wire() -> bool {
    let mut command = Command::new("unshare");
    command
        .args(["-n", "ip", "link", "add", "r0", "type", "veth", "peer", "name", "r1"])
        .stdin(Stdio::null());
    command.output().is_ok_and(|output| output.status.success())
}

/// Runs a command in the network of a process.
fn within(pid: u32, command: &str) {
    let pid = pid.to_string();
    let output =
        Command::new("nsenter").args(["-t", &pid, "-n", "sh", "-ec", command]).stdin(Stdio::null()).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

fn folder(place: &Path, number: usize) -> TempDir {
    let (region, certs, address) = (REGIONS[number], place.join("certs"), address(number));
    let folder = node::folder(&format!(
        "[node]\nname = \"{region}\"\nregion = \"{region}\"\nthreads = 1\n\
         [listen]\npublic = [\"127.0.0.1:0\"]\npeer = [\"{address}:7001\"]\nreplication = [\"{address}:7002\"]\n\
         [policies]\ninstances = 100\n[peer]\ncert = {:?}\nkey = {:?}\nca = [{:?}]\n[control]\nsqlite = {:?}\n",
        certs.join(format!("{region}.crt")),
        certs.join(format!("{region}.key")),
        certs.join("ca.crt"),
        place.join("control.db")
    ));
    let migrations = folder.path().join("migrations/sqlite");
    std::fs::create_dir_all(&migrations).unwrap();
    std::fs::write(migrations.join("0001_create_orders.sql"), SQLITE).unwrap();
    folder
}

fn address(number: usize) -> String {
    format!("10.77.0.{}", number + 1)
}

async fn start(folder: TempDir, pid: &Path) -> Node {
    let command = ["unshare", "-n", "sh", "-c", IN_A_NETWORK, pid.to_str().unwrap()];
    Node::start_by(folder, &command).await
}

/// Waits for both networks, and lays the cable.
async fn wire(pids: &[std::path::PathBuf]) {
    let known = |path: &Path| std::fs::read_to_string(path).ok()?.trim().parse::<u32>().ok();
    until("both networks", async || pids.iter().all(|pid| known(pid).is_some())).await;
    let pids: Vec<u32> = pids.iter().filter_map(|pid| known(pid)).collect();
    within(pids[0], &format!("ip link add r0 type veth peer name r0 netns {}", pids[1]));
    for (number, pid) in pids.iter().enumerate() {
        within(*pid, &format!("ip addr add {}/24 dev r0 && ip link set r0 up", address(number)));
    }
}

/// An application that knows no gateway: it has no need of a network.
async fn write(file: &Path, ids: std::ops::Range<u32>) {
    let options = SqliteConnectOptions::new().filename(file).pragma("recursive_triggers", "on");
    let mut store = SqliteConnection::connect_with(&options).await.unwrap();
    for id in ids {
        let sql = format!("INSERT INTO orders (tenant, id, total) VALUES ('acme', {id}, 'total {id}')");
        store.execute(AssertSqlSafe(sql)).await.unwrap();
    }
}

async fn rows(file: &Path) -> Vec<String> {
    let mut store = SqliteConnection::connect(file.to_str().unwrap()).await.unwrap();
    sqlx::query_scalar("SELECT id || total FROM orders ORDER BY id").fetch_all(&mut store).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cable_that_is_pulled_and_plugged_in_again() {
    if !may_wire() {
        eprintln!(
            "this process may not make networks (it needs CAP_NET_ADMIN, `ip` and `unshare`): nothing is tried"
        );
        return;
    }
    let place = tempfile::tempdir().unwrap();
    good(place.path(), &[&["pki", "trial", "certs"], REGIONS.as_slice()].concat()).await;
    let files = REGIONS.map(|region| place.path().join(format!("{region}.db")));
    let pids = REGIONS.map(|region| place.path().join(format!("{region}.pid")));
    let mut shared = SHARED.to_owned();
    for (number, region) in REGIONS.iter().enumerate() {
        let at = address(number);
        shared.push_str(&format!(
            "[shard.s1.store.{region}]\nsqlite = {:?}\n[region.{region}]\ngateways = [\"{at}:7001\"]\nreplication = [\"{at}:7002\"]\n\
             [region.{region}.pool.web]\nendpoints = [\"127.0.0.1:9\"]\n",
            files[number]
        ));
    }
    let folders = [folder(place.path(), 0), folder(place.path(), 1)];
    std::fs::write(folders[0].path().join("conf.d/all.toml"), shared).unwrap();
    good(folders[0].path(), &["apply"]).await;
    for folder in &folders {
        good(folder.path(), &["migrate", "apply"]).await;
    }
    let [eu, us] = folders;
    let (eu, us, ()) = tokio::join!(start(eu, &pids[0]), start(us, &pids[1]), wire(&pids));
    let is_alike = async || rows(&files[0]).await == rows(&files[1]).await;
    until("the lease", async || eu.status().await["shards"][0]["lease_ms"].is_u64()).await;
    write(&files[0], 0..50).await;
    until("the copy", async || is_alike().await).await;

    // Shorter than anybody waits: what was sent is sent again by the kernel, over the same connections.
    for turn in 1..4 {
        within(us.pid(), "ip link set r0 down");
        write(&files[0], turn * 50..turn * 50 + 50).await;
        within(us.pid(), "ip link set r0 up");
    }
    until("what was written meanwhile", async || is_alike().await).await;
    // And longer: nobody is told that the connection has ended.
    within(us.pid(), "ip link set r0 down");
    write(&files[0], 1_000..1_050).await;
    until("the silence", async || {
        let (code, text) = says(us.folder(), &["sync", "status"]).await;
        code == 1 && text.contains("s1 from eu")
    })
    .await;
    write(&files[0], 2_000..2_050).await;
    within(us.pid(), "ip link set r0 up");
    until("all that was written", async || {
        is_alike().await && says(us.folder(), &["sync", "status"]).await.0 == 0
    })
    .await;
    assert_eq!(rows(&files[1]).await.len(), 300);
    assert!(!us.log().contains("begins anew"), "{}", us.log());
}
