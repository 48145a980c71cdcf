//! Disks that fill up.

use std::num::NonZeroU64;
use std::sync::atomic::Ordering;

use portolan_test_postgres::Cluster;

use super::world::{World, postgres};
use crate::{Limits, Watermarks};

#[tokio::test]
async fn a_full_disk_ends_writes_and_nothing_else() {
    let world = World::new(Limits::default());
    world.keep("a", world.sqlite("a"), Watermarks::default()).await;
    let row = r#"{"id": 1, "body": "one"}"#;
    world.check("a", "POST /notes", row, 201, "").await;
    world.disk.0.store(96, Ordering::Relaxed);
    let report = world.until("a", |report| report.full).await;
    assert_eq!(report.used_percent, Some(96));
    assert!(report.problem.as_ref().is_some_and(|problem| problem.contains("96 %")), "{report:?}");
    world.check("a", "POST /notes", r#"{"id": 2}"#, 507, "storage-full").await;
    world.check("a", "PATCH /notes/1", r#"{"body": "two"}"#, 507, "storage-full").await;
    world.check("a", "GET /notes/1", "", 200, "one").await;
    world.check("a", "DELETE /notes/1", "", 204, "").await;
    // Between the marks it stays as it was.
    world.disk.0.store(92, Ordering::Relaxed);
    world.until("a", |report| report.used_percent == Some(92)).await;
    world.check("a", "POST /notes", row, 507, "storage-full").await;
    world.disk.0.store(90, Ordering::Relaxed);
    world.until("a", |report| !report.full && report.problem.is_none()).await;
    world.check("a", "POST /notes", row, 201, "").await;
}

#[tokio::test]
async fn a_database_has_what_its_operator_gives_it() {
    let cluster = Cluster::start().await;
    let world = World::new(Limits::default());
    world.keep("b", postgres(&cluster, "b").await, Watermarks::default()).await;
    world.until("b", |report| report.used_percent.is_none()).await;
    // A database of PostgreSQL has some megabytes before anything is in it.
    let marks = Watermarks { max_bytes: NonZeroU64::new(1024 * 1024), ..Watermarks::default() };
    world.keep_marks("b", marks);
    world.until("b", |report| report.full).await;
    world.check("b", "POST /notes", r#"{"id": 1}"#, 507, "storage-full").await;
    world.keep_marks("b", Watermarks { max_bytes: NonZeroU64::new(1024 * 1024 * 1024), ..marks });
    world.until("b", |report| !report.full && report.used_percent.is_some()).await;
    world.check("b", "POST /notes", r#"{"id": 1}"#, 201, "").await;
}
