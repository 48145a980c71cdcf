//! A copy whose disk is full: it says so, who writes goes on, and it goes on itself when there is room.

use std::fs::File;
use std::io::Write as _;
use std::process::{Command, Stdio};

use bytes::Bytes;
use http::Request;
use portolan_tests::client::Client;
use portolan_tests::until;
use serde_json::json;

use super::world::{Databases, World, at};
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
    let (eu, us) = (at("eu"), at("us"));
    let front = world.fronts.lock().unwrap()[eu];
    let mut client = Client::connect(front, "shop.test").await.unwrap();
    let mut write = async |token: &str, id: usize| {
        let request = Request::post("/-/data/orders")
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json");
        let row = json!({ "id": id, "note": "x".repeat(ROW_BYTES) });
        let answer = client.send(request, Bytes::from(row.to_string())).await.unwrap();
        (answer.status == 201).then(|| answer.header("portolan-token").to_owned())
    };
    // A tenant of the shard that is written elsewhere than on the small disk.
    let mut tenant = String::new();
    for name in ["t0", "t1", "t2", "t3", "t4", "t5"] {
        tenant = token(world.folder_of(eu), name).await;
        if write(&tenant, 0).await.unwrap().starts_with("v1;s1=") {
            break;
        }
    }
    let is_alike = async || world.rows(us, "s1").await == world.rows(eu, "s1").await;
    until("the copy", async || is_alike().await).await;

    let mut ballast = File::create(world.ballast()).unwrap();
    while ballast.write_all(&[0; 4096]).is_ok() {}
    let mut next = 1;
    let mut told = String::new();
    while !told.contains("full") {
        assert!(next < 3_000, "the disk does not fill, or nobody tells: {told}");
        for _ in 0..20 {
            assert!(write(&tenant, next).await.is_some(), "who writes goes on");
            next += 1;
        }
        let (code, text) = says(world.folder_of(us), &["sync", "status"]).await;
        assert!(code == 0 || text.contains("s1 from eu"), "{text}");
        told = text;
    }
    assert!(!is_alike().await);
    let third = at("ap");
    until("the other copy", async || world.rows(third, "s1").await == world.rows(eu, "s1").await).await;

    std::fs::remove_file(world.ballast()).unwrap();
    drop(ballast);
    until("the copy when there is room", async || world.all_follow().await && is_alike().await).await;
    assert_eq!(world.rows(us, "s1").await.len(), next);
    let ledger = world.ledger().await;
    assert!(ledger.values.is_empty() && ledger.deletions.is_empty(), "{ledger:?}");
    assert!(!world.log(us).contains("begins anew"), "{}", world.log(us));
}
