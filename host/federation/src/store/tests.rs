//! Packs in a directory: what is written is read, and what is not as it was written is noticed.

use super::*;
use crate::id::ChunkId;
use crate::manifest::Entry;
use crate::pack::{Coding, TAIL_BYTES, index_bytes, read_index};
use crate::seal::System;
use crate::tests::{namer, noise};

const KEY: Secret = Secret::new([3; 32]);

fn store(folder: &Folder) -> Store {
    Store::new(Store::local(folder).unwrap(), &"acme".parse().unwrap(), KEY)
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

async fn written(store: &Store, pack: Builder) -> (PackId, Vec<Location>) {
    let Sealed { bytes, name, slots } = store.seal(pack, &System).unwrap();
    store.put(&name, bytes).await.unwrap();
    (name, slots.into_iter().map(|slot| Location { pack: name, slot }).collect())
}

#[tokio::test]
async fn chunks_are_read_and_a_pack_that_is_gone_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let (store, namer) = (store(folder.path()), namer(7));
    let (pack, chunks) = filled(&namer, 0..10);
    let (name, locations) = written(&store, pack).await;
    for ((keyed, bytes), location) in chunks.iter().zip(&locations) {
        assert_eq!(store.chunk(location, keyed, &namer).await.unwrap(), *bytes);
    }
    assert!(store.chunk(&locations[1], &chunks[0].0, &namer).await.is_err(), "another chunk's place");
    store.delete(&name).await.unwrap();
    store.delete(&name).await.unwrap();
    assert!(store.sealed(&locations[0]).await.is_err());
}

#[tokio::test]
async fn a_broken_disk_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let (store, namer) = (store(folder.path()), namer(7));
    let (pack, chunks) = filled(&namer, 0..3);
    let (name, locations) = written(&store, pack).await;
    let path = folder.path().join("acme/pack").join(name.to_string());
    let good = std::fs::read(&path).unwrap();
    let mut bad = good.clone();
    bad[100] ^= 1;
    std::fs::write(&path, &bad).unwrap();
    let read = store.chunk(&locations[0], &chunks[0].0, &namer).await;
    assert!(matches!(read, Err(Error::Sealed(_))));
    std::fs::write(&path, &good[..20]).unwrap();
    assert!(store.chunk(&locations[0], &chunks[0].0, &namer).await.is_err());
}

#[test]
fn a_pack_says_what_is_in_it_to_whom_has_the_key() {
    let (pack, chunks) = filled(&namer(7), 0..3);
    let (_, slots, bytes) = pack.finish(&KEY, &System).unwrap();
    let tail = bytes.len() - TAIL_BYTES;
    let start = tail - index_bytes(&bytes[tail..]).unwrap();
    assert_eq!(read_index(&bytes[start..tail], &KEY).unwrap(), slots);
    assert_eq!(slots.len(), chunks.len());
    assert!(read_index(&bytes[start..tail], &Secret::new([4; 32])).is_err());
    assert!(index_bytes(&bytes[tail - 1..bytes.len() - 1]).is_err());
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
