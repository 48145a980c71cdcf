//! A copy whose disk is full: it says so, who writes goes on, and it goes on itself when there is room.

use std::fs::File;
use std::io::Write as _;
use std::process::{Command, Stdio};

use bytes::Bytes;
use http::Request;
use portolan_tests::client::Client;
use portolan_tests::regions::{Databases, World, at};
use portolan_tests::until;
use serde_json::json;

use crate::says;
use crate::shards::token;

/// Bytes of a row: larger than pages of SQLite, so that each takes some.
const ROW_BYTES: usize = 8 * 1024;

/// May this process give a child a disk of its own? Not in every container.
fn may_mount() -> bool {
    let mut command = Command::new("unshare");
    command.args(["-m", "mount", "-t", "tmpfs", "-o", "size=1m", "disk", "/mnt"]).stdin(Stdio::null());
    command.output().is_ok_and(|output| output.status.success())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_whose_disk_is_full_goes_on_when_there_is_room() {
    if !may_mount() {
        eprintln!("this process may not mount a disk (it needs CAP_SYS_ADMIN): nothing is tried");
        return;
    }
    let world = World::start(Databases::FilesOnASmallDisk).await;
    let (full, writes) = (at("ap"), at("us"));
    let tenant = token(world.folder_of(writes), "acme").await;
    let front = world.fronts.lock().unwrap()[writes];
    let mut client = Client::connect(front, "shop.test").await.unwrap();
    let mut write = async |id: usize| {
        let request = Request::post("/-/data/orders")
            .header("authorization", format!("Bearer {tenant}"))
            .header("content-type", "application/json");
        let row = json!({ "id": id, "note": "x".repeat(ROW_BYTES) });
        let answer = client.send(request, Bytes::from(row.to_string())).await.unwrap();
        assert_eq!(answer.status, 201, "who writes goes on: {}", answer.text());
        answer.header("portolan-token").split([';', '=']).nth(1).unwrap().to_owned()
    };
    let shard = write(0).await;
    // Its files are in a place that this process does not see.
    let is_alike = async || {
        let (code, text) = says(world.folder_of(full), &["sync", "audit", &shard]).await;
        code == 0 && text.contains("this copy is as in us")
    };
    until("the copy", async || is_alike().await).await;

    let mut ballast = File::create(world.ballast()).unwrap();
    while ballast.write_all(&[0; 4096]).is_ok() {}
    let mut next = 1;
    let mut told = String::new();
    while !told.contains("full") {
        assert!(next < 3_000, "the disk does not fill, or nobody tells: {told}");
        for _ in 0..20 {
            write(next).await;
            next += 1;
        }
        told = says(world.folder_of(full), &["sync", "status"]).await.1;
    }
    assert!(told.contains(&format!("{shard} from us")), "{told}");
    let rows = async |region: &str| world.rows(at(region), &shard).await;
    until("the other copy", async || rows("eu").await == rows("us").await).await;

    std::fs::remove_file(world.ballast()).unwrap();
    drop(ballast);
    until("the copy when there is room", async || world.all_follow().await && is_alike().await).await;
    assert_eq!(rows("us").await.len(), next);
    let ledger = world.ledger().await;
    assert!(ledger.values.is_empty() && ledger.deletions.is_empty(), "{ledger:?}");
    assert!(!world.log(full).contains("begins anew"), "{}", world.log(full));
}
