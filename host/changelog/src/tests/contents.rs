//! A copy takes a log of content, goes back to where it is the writer's, and begins anew under other names.

use std::time::Duration;

use portolan_core::ids::TenantName;
use portolan_core::log::Epoch;
use portolan_core::time::Moment;

use super::place::{Place, Shard};
use crate::content::{Change, Content, Item, Mapping, NewVersion, Share, Span};
use crate::model::fence::Lease;
use crate::{Error, Store};

fn acme() -> TenantName {
    TenantName::new("acme").unwrap()
}

fn item(name: &str) -> Item {
    Item {
        item: format!("item-{name}"),
        keys: vec![1],
        kind: "binary".to_owned(),
        media: "text/plain".to_owned(),
        name: name.to_owned(),
        site: "docs".to_owned(),
    }
}

fn version(name: &str) -> NewVersion {
    NewVersion {
        at_ms: 1,
        bytes: 3,
        clock: (7, 1),
        record: name.as_bytes().to_vec(),
        root: format!("root-{name}"),
        version: name.to_owned(),
    }
}

fn share(status: &str) -> Share {
    Share {
        allowed_regions: "null".to_owned(),
        can: [true, false, false, false],
        denied_regions: "[]".to_owned(),
        direction: "push".to_owned(),
        eager: false,
        expires_ms: 0,
        field_mask: "[]".to_owned(),
        max_bytes: 0,
        mode: "mirror".to_owned(),
        not_before_ms: 0,
        policy_epoch: 1,
        scope_kind: "all".to_owned(),
        scope_ref: String::new(),
        share: "share".to_owned(),
        source_site: "docs".to_owned(),
        status: status.to_owned(),
        target_site: "help".to_owned(),
    }
}

/// Takes a version as a copy does, under an epoch.
async fn take(content: &mut Content, (seq, epoch): (u64, u64), item: &Item, name: &str) {
    content.put_item(item).await.unwrap();
    let heads = [(name.to_owned(), true)];
    content.take_version(item, &version(name), seq, &heads).await.unwrap();
    let change = Change {
        at_ms: 1,
        detail: name.to_owned(),
        digest: String::new(),
        epoch,
        kind: "version".to_owned(),
        seq,
        site: item.site.clone(),
        subject: item.name.clone(),
    };
    content.take_change(&change).await.unwrap();
}

async fn taking(store: &Store, epoch: u64) -> Content {
    store.take_content(&acme(), Epoch(epoch)).await.unwrap()
}

async fn copy(place: &Place) -> Shard {
    let shard = place.replica("us", "", &[]).await;
    let mut content = taking(&shard.store, 1).await;
    content.open_account(b"secret").await.unwrap();
    for (seq, name) in [(1, "a1"), (2, "b1")] {
        take(&mut content, (seq, 1), &item(name.get(..1).unwrap()), name).await;
    }
    content.taken().await.unwrap();
    shard
}

pub(super) async fn a_copy_goes_back_to_where_it_is_the_writers(place: Place) {
    let Shard { store, .. } = copy(&place).await;
    let mut content = taking(&store, 2).await;
    content.take_share(&share("accepted")).await.unwrap();
    let mapping = Mapping {
        base_version: "a2".to_owned(),
        last_synced_version: "b1".to_owned(),
        share: "share".to_owned(),
        source_item: "item-b".to_owned(),
        state: "synced".to_owned(),
        target_item: "item-a".to_owned(),
        target_site: "help".to_owned(),
    };
    content.put_mapping(&mapping).await.unwrap();
    assert_eq!(content.mappings_to("item-a", 9).await.unwrap(), [mapping]);
    for (seq, name) in [(3, "a2"), (4, "c1")] {
        take(&mut content, (seq, 2), &item(name.get(..1).unwrap()), name).await;
    }
    content.take_share(&share("revoked")).await.unwrap();
    content.taken().await.unwrap();
    assert_eq!(store.content_known("", 9).await.unwrap()[0].seq, 4);

    let mut content = taking(&store, 3).await;
    let spans = content.spans().await.unwrap();
    assert_eq!(spans, [Span { epoch: 2, last: 4 }, Span { epoch: 1, last: 2 }]);
    let mut touched = content.turn_back(2).await.unwrap();
    touched.sort();
    assert_eq!(touched, ["item-a", "item-c"]);
    content.put_heads("item-a", &[("a1".to_owned(), true)]).await.unwrap();
    content.taken().await.unwrap();
    assert_eq!(store.content_stranded().await.unwrap(), 2);

    // What lost a version is told again, from the last change of it that both have.
    let mut content = taking(&store, 3).await;
    assert_eq!(content.account().await.unwrap().unwrap().seq, 0);
    assert_eq!(content.spans().await.unwrap(), []);
    assert!(content.item("docs", "c").await.unwrap().is_none(), "another item may have its name");
    let other = Item { item: "other".to_owned(), ..item("c") };
    for (seq, item, name) in [(1, item("a"), "a1"), (2, item("b"), "b1"), (3, other, "c9")] {
        take(&mut content, (seq, if seq == 3 { 3 } else { 1 }), &item, name).await;
    }
    content.taken().await.unwrap();
    let mut content = store.content(&acme()).await.unwrap();
    assert_eq!(content.item("docs", "c").await.unwrap().unwrap().item, "other");
    let shown: Vec<String> =
        content.items("docs", "", 9).await.unwrap().into_iter().map(|item| item.version).collect();
    assert_eq!(shown, ["a1", "b1", "c9"]);
    content.end().await.unwrap();

    let mut content = taking(&store, 3).await;
    content.begin_content_anew(b"others").await.unwrap();
    let account = content.account().await.unwrap().unwrap();
    assert_eq!((account.secret.as_slice(), account.seq), (b"others".as_slice(), 0));
    content.taken().await.unwrap();
    assert_eq!(store.content_stranded().await.unwrap(), 5);
}

pub(super) async fn nothing_of_content_comes_where_it_is_written_or_sealed(place: Place) {
    let Shard { store, .. } = copy(&place).await;
    store.seal_epoch(Epoch(2), Duration::from_secs(5)).await.unwrap();
    assert!(matches!(store.take_content(&acme(), Epoch(1)).await, Err(Error::Closed(_))));
    let mut content = taking(&store, 2).await;
    content.purge_item("item-a", b"keys").await.unwrap();
    assert_eq!(content.item_named("item-a").await.unwrap().unwrap().keys, b"keys");
    content.taken().await.unwrap();

    let writer = place.shard("eu", "", &[]).await.store;
    assert!(matches!(writer.take_content(&acme(), Epoch(9)).await, Err(Error::Closed(_))));
    let now = Moment(1_000_000);
    let lease = Lease::granted(Epoch(1), now, Duration::from_secs(3_600), Duration::ZERO);
    let mut content = writer.write_content(&acme(), &lease, now).await.unwrap();
    content.open_account(b"secret").await.unwrap();
    for status in ["offered", "accepted"] {
        content.note("share", ("docs", "share"), status, 1).await.unwrap();
    }
    assert_eq!(content.spans().await.unwrap(), [Span { epoch: 1, last: 2 }]);
    let decided = content.changes(0, 9).await.unwrap();
    content.commit(&lease, || now).await.unwrap();

    // A copy takes what was decided as it was decided, and nothing else.
    let reader = place.replica("us", "", &[]).await.store;
    let mut content = taking(&reader, 1).await;
    content.open_account(b"secret").await.unwrap();
    content.take_change(&decided[0]).await.unwrap();
    let other = Change { detail: "revoked".to_owned(), ..decided[1].clone() };
    assert!(matches!(content.take_change(&other).await, Err(Error::Damaged(_))));
    content.take_change(&decided[1]).await.unwrap();
    assert_eq!(content.changes(0, 9).await.unwrap(), decided);
    content.taken().await.unwrap();
}
