//! A replica is compared with its source, and put right.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use portolan_core::audit::{Difference, Digests, RowDigest, differences};
use portolan_core::ids::TenantName;

use super::applying::follow;
use super::capture::{NOTES, notes, notes_shard};
use super::place::{Place, Shard};
use crate::{Error, RowId, Scope, Store};

const ALL: Scope<'_> = Scope { table: "notes", tenant: None };

fn buckets() -> NonZeroU32 {
    NonZeroU32::new(8).unwrap()
}

async fn digests(store: &Store, scope: &Scope<'_>) -> Digests {
    let (mut sum, mut after) = (Digests::new(store.form(), buckets()), Some(String::new()));
    while let Some(from) = after {
        let page = store.digests(scope, buckets(), &from, 7).await.unwrap();
        sum.join(&page.digests).unwrap();
        after = page.next;
    }
    sum
}

async fn rows(store: &Store, bucket: u32) -> Vec<RowDigest> {
    let (mut rows, mut after) = (Vec::new(), Some(String::new()));
    while let Some(from) = after {
        let page = store.bucket_rows(&ALL, (&[bucket].into(), buckets()), &from, 7).await.unwrap();
        rows.extend(page.rows);
        after = page.next;
    }
    rows
}

/// What is not the same at the first, by keys.
async fn compare(here: &Store, there: &Store) -> BTreeMap<String, Difference> {
    let mut found = BTreeMap::new();
    let (ours, theirs) = (digests(here, &ALL).await, digests(there, &ALL).await);
    for bucket in ours.differing(&theirs).unwrap() {
        found.extend(differences(&rows(here, bucket).await, &rows(there, bucket).await));
    }
    found
}

/// Writes past triggers.
async fn tamper(place: &Place, shard: &Shard, sql: &str) {
    let sql = if place.is_sqlite() {
        format!(
            "BEGIN; INSERT INTO portolan_session (id, applying) VALUES (1, 1); {sql}; DELETE FROM portolan_session; COMMIT"
        )
    } else {
        format!("BEGIN; SET LOCAL session_replication_role = replica; {sql}; COMMIT")
            .replace("portolan_row", "portolan.row")
    };
    place.admin(shard).await.ok(&sql).await;
}

pub(super) async fn what_differs_is_found_and_put_right(place: Place) {
    let (source, replica) = (notes_shard(&place, "eu").await, place.replica("us", NOTES, &[notes()]).await);
    let (eu, us) = (&source.store, &replica.store);
    let mut direct = place.direct(&source, "acme").await;
    for id in 0..30 {
        direct.ok(&format!("INSERT INTO notes VALUES ('acme', {id}, 'x')")).await;
    }
    direct.ok("DELETE FROM notes WHERE id = 1").await;
    place.direct(&source, "bolt").await.ok("INSERT INTO notes VALUES ('bolt', 1, 'y')").await;
    follow(eu, us).await;
    assert_eq!(digests(eu, &ALL).await, digests(us, &ALL).await);
    assert_eq!(compare(us, eu).await, BTreeMap::new());
    let bolt = TenantName::new("bolt").unwrap();
    let of_bolt = digests(us, &Scope { tenant: Some(&bolt), ..ALL }).await;
    assert_eq!(of_bolt.buckets.iter().map(|bucket| bucket.rows.count).sum::<u64>(), 1);
    let key = |id: u32| RowId {
        table: "notes".into(),
        key: if place.is_sqlite() { format!("[\"acme\",{id}]") } else { format!("[\"acme\", {id}]") },
    };
    let old = eu.records_named(&[key(9)]).await.unwrap();
    // Each is wrong in another way.
    tamper(&place, &replica, "UPDATE notes SET body = 'bad' WHERE tenant = 'acme' AND id = 3").await;
    tamper(&place, &replica, "DELETE FROM notes WHERE id = 5").await;
    let lost =
        format!("DELETE FROM notes WHERE id = 7; DELETE FROM portolan_row WHERE key = '{}'", key(7).key);
    tamper(&place, &replica, &lost).await;
    direct.ok("UPDATE notes SET body = 'later' WHERE id = 9").await;
    direct.ok("DELETE FROM notes WHERE id = 11").await;
    let expected = [
        (3, Difference::Different),
        (5, Difference::Different),
        (7, Difference::Missing),
        (9, Difference::Older),
        (11, Difference::Older),
    ];
    let expected: BTreeMap<String, Difference> =
        expected.into_iter().map(|(id, difference)| (key(id).key, difference)).collect();
    let found = compare(us, eu).await;
    assert_eq!(found, expected);
    // From the side that is right, and nothing that is below what is there.
    let repair = us.begin_repair().await.unwrap();
    let ids: Vec<RowId> = found.into_keys().map(|key| RowId { table: "notes".into(), key }).collect();
    let records = eu.records_named(&ids).await.unwrap();
    assert_eq!(records.len(), 5);
    let counts = us.repair(&repair, &records).await.unwrap();
    assert_eq!((counts.written, counts.parked), (5, 0));
    assert_eq!(us.repair(&repair, &[&records[..], &old].concat()).await.unwrap().written, 0);
    assert_eq!(compare(us, eu).await, BTreeMap::new());
    assert_eq!(digests(eu, &ALL).await, digests(us, &ALL).await);
    // A sweep may have taken away what bars an older row.
    let fence = if place.is_sqlite() { "portolan_fence" } else { "portolan.fence" };
    place.admin(&replica).await.ok(&format!("UPDATE {fence} SET swept = swept + 1")).await;
    let error = us.repair(&repair, &records).await.unwrap_err();
    assert!(matches!(error, Error::Busy(_)), "{error:?}");
    let error = us.digests(&Scope { table: "plans", tenant: None }, buckets(), "", 9).await.unwrap_err();
    assert!(matches!(error, Error::Table { .. }), "{error:?}");
}
