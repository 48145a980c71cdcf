//! Packs in a directory: what is written is read, also after a start, and what nothing refers to goes from the disk.

use super::*;
use crate::defaults::{LEASE_MS, QUARANTINE_MS};
use crate::id::Namer;
use crate::manifest::Entry;
use crate::pack::Coding;
use crate::seal::System;
use crate::tests::{namer, noise};

const KEY: Secret = Secret::new([3; 32]);

fn store(folder: &Folder) -> Store {
    Store::local(folder, &"acme".parse().unwrap(), KEY).unwrap()
}

/// Chunks of text or noise, sealed each with a key of its own.
fn filled(namer: &Namer, numbers: std::ops::Range<u64>) -> (Builder, Vec<(Keyed, Vec<u8>)>) {
    let (mut pack, mut chunks) = (Builder::default(), Vec::new());
    for number in numbers {
        let bytes = if number % 2 == 0 {
            noise(number, 50_000)
        } else {
            format!("{number} ").repeat(9_000).into_bytes()
        };
        let entry = Entry { id: namer.chunk(&bytes), bytes: bytes.len() as u32 };
        let key = Secret::draw(&System).unwrap();
        let (coding, coded) = Coding::encode(&bytes).unwrap();
        pack.push(entry.id, coding, entry.bytes, &key.seal_once(&entry.id.0, coded).unwrap()).unwrap();
        chunks.push((Keyed { entry, key }, bytes));
    }
    (pack, chunks)
}

fn files(folder: &Folder) -> usize {
    let count = |kind: &str| std::fs::read_dir(folder.join("acme").join(kind)).map_or(0, Iterator::count);
    count("pack") + count("mark")
}

#[tokio::test]
async fn chunks_are_read_again_after_a_start_and_go_when_nothing_refers_to_them() {
    let folder = tempfile::tempdir().unwrap();
    let (store, namer) = (store(folder.path()), namer(7));
    let mut catalog = store.open([], &System, 0).await.unwrap();
    let (pack, chunks) = filled(&namer, 0..10);
    store.write(pack, &mut catalog, &System, 0).await.unwrap();
    let ids: Vec<ChunkId> = chunks.iter().map(|(keyed, _)| keyed.entry.id).collect();
    catalog.commit(&ids[..3]).unwrap();

    let mut catalog = store.open([ids[..3].to_vec()], &System, 1_000).await.unwrap();
    for (keyed, bytes) in &chunks {
        let location = catalog.locate(&keyed.entry.id).unwrap();
        assert_eq!(store.chunk(&location, keyed, &namer).await.unwrap(), *bytes);
    }
    // Three of ten are used: they are copied, and the worn pack goes in its steps.
    let mut now_ms = 1_000;
    for _ in 0..6 {
        now_ms += LEASE_MS + QUARANTINE_MS;
        for action in catalog.collect(now_ms) {
            store.perform(action, &mut catalog, &System, now_ms).await.unwrap();
        }
    }
    assert_eq!(files(folder.path()), 1);
    let (keyed, bytes) = &chunks[2];
    let location = catalog.locate(&keyed.entry.id).unwrap();
    assert_eq!(store.chunk(&location, keyed, &namer).await.unwrap(), *bytes);
    assert!(catalog.locate(&ids[3]).is_none());
    catalog.release(&ids[..3]);
    for _ in 0..6 {
        now_ms += LEASE_MS + QUARANTINE_MS;
        for action in catalog.collect(now_ms) {
            store.perform(action, &mut catalog, &System, now_ms).await.unwrap();
        }
    }
    assert_eq!(files(folder.path()), 0);
}

#[tokio::test]
async fn a_broken_disk_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let (store, namer) = (store(folder.path()), namer(7));
    let mut catalog = store.open([], &System, 0).await.unwrap();
    let (pack, chunks) = filled(&namer, 0..3);
    let name = store.write(pack, &mut catalog, &System, 0).await.unwrap();
    let path = folder.path().join("acme/pack").join(name.to_string());
    let good = std::fs::read(&path).unwrap();
    let (keyed, _) = &chunks[0];
    let location = catalog.locate(&keyed.entry.id).unwrap();
    let mut bad = good.clone();
    bad[100] ^= 1;
    std::fs::write(&path, &bad).unwrap();
    assert!(matches!(store.chunk(&location, keyed, &namer).await, Err(Error::Sealed(_))));
    for length in [0, 7, good.len() / 2, good.len() - 1] {
        std::fs::write(&path, &good[..length]).unwrap();
        assert!(store.open([], &System, 0).await.is_err(), "{length} bytes");
    }
    std::fs::write(&path, &good).unwrap();
    let other = Store::local(folder.path(), &"acme".parse().unwrap(), Secret::new([4; 32])).unwrap();
    assert!(other.open([], &System, 0).await.is_err(), "another key");
    assert!(store.open([], &System, 0).await.unwrap().locate(&keyed.entry.id).is_some());
    // A mark without its pack is what a crash leaves behind.
    std::fs::create_dir_all(folder.path().join("acme/mark")).unwrap();
    std::fs::write(folder.path().join("acme/mark").join(PackId([9; 32]).to_string()), "").unwrap();
    store.open([], &System, 0).await.unwrap();
    assert_eq!(files(folder.path()), 1);
}

#[test]
fn a_pack_has_limits() {
    let mut pack = Builder::default();
    let id = ChunkId([1; 32]);
    assert!(pack.push(id, Coding::Raw, u32::MAX, &[]).is_err());
    assert!(pack.push(id, Coding::Raw, 1, &vec![0; 300_000]).is_err());
    let sealed = vec![0; 250_000];
    while pack.push(id, Coding::Raw, 1, &sealed).is_ok() {}
    let (_, slots, bytes) = pack.finish(&KEY, &System).unwrap();
    assert!(bytes.len() < (64 << 20) + (64 << 10) && slots.len() > 200);
    assert!(Coding::Zstd.decode(zstd::bulk::compress(&[0; 5_000], 3).unwrap(), 4_000).is_err());
    assert!(Coding::Zstd.decode(zstd::bulk::compress(&[0; 5_000], 3).unwrap(), u32::MAX).is_err());
}

#[tokio::test]
async fn what_is_still_needed_of_a_pack_with_a_mark_moves_into_another() {
    let folder = tempfile::tempdir().unwrap();
    let (store, namer) = (store(folder.path()), namer(7));
    let mut catalog = store.open([], &System, 0).await.unwrap();
    let (pack, chunks) = filled(&namer, 0..4);
    let name = store.write(pack, &mut catalog, &System, 0).await.unwrap();
    let ids: Vec<ChunkId> = chunks.iter().map(|(keyed, _)| keyed.entry.id).collect();
    // Whoever wanted to mark it was held up until something referred to it again.
    store.perform(Action::Mark(name), &mut catalog, &System, 0).await.unwrap();
    let catalog = store.open([ids[..2].to_vec()], &System, 0).await.unwrap();
    for (keyed, bytes) in &chunks[..2] {
        let location = catalog.locate(&keyed.entry.id).unwrap();
        assert_ne!(location.pack, name);
        assert_eq!(store.chunk(&location, keyed, &namer).await.unwrap(), *bytes);
    }
    assert_eq!(catalog.locate(&ids[2]), None, "it goes with its pack");
}
