//! Share, revoke, rotate, erase and a patch, together, as the wire format has to carry them.

use super::*;
use crate::cut::Cutter;
use crate::id::Root;
use crate::manifest::Manifest;
use crate::patch::{Head, Progress, Rebuild, Step, plan};
use crate::seal::{Part, System};
use crate::tests::{manifest_of, namer, noise};

const ITEM: ItemId = ItemId([1; 16]);

fn holder(tenant: &str, region: &str) -> Holder {
    Holder { tenant: tenant.parse().unwrap(), region: region.parse().unwrap() }
}

/// What a region keeps: sealed chunks, and sealed lists by content with their term.
#[derive(Default)]
struct Region {
    keys: ChunkKeys,
    chunks: BTreeMap<ChunkId, Vec<u8>>,
    lists: BTreeMap<(ItemId, Root), (usize, Vec<u8>)>,
}

impl Region {
    fn keep(&mut self, item: ItemId, bytes: &[u8], term: usize, data_key: &Secret) -> Root {
        let manifest = manifest_of(7, bytes);
        let root = manifest.root(&namer(7)).unwrap();
        let keyed = self.keys.refer(item, manifest.entries(), &System).unwrap();
        for ((keyed, is_new), chunk) in keyed.iter().zip(Cutter::new(&namer(7)).chunks(bytes)) {
            if *is_new {
                let sealed = keyed.key.seal_once(&keyed.entry.id.0, chunk.to_vec()).unwrap();
                self.chunks.insert(keyed.entry.id, sealed);
            }
        }
        let list: Vec<Keyed> = keyed.into_iter().map(|(keyed, _)| keyed).collect();
        let sealed = Part { item, root, number: 0 }.seal(&list, data_key, &System).unwrap();
        self.lists.insert((item, root), (term, sealed));
        root
    }

    async fn read(
        &self,
        item: ItemId,
        root: Root,
        keys: &ItemKeys,
        holder: &Holder,
        kms: &dyn Kms,
    ) -> Result<Vec<u8>, Error> {
        let (term, sealed) = &self.lists[&(item, root)];
        let data_key = keys.open(*term, holder, kms).await?;
        let (mut bytes, mut manifest) = (Vec::new(), Manifest::default());
        for keyed in (Part { item, root, number: 0 }).open(sealed, &data_key)? {
            let chunk = keyed.key.open_once(&keyed.entry.id.0, self.chunks[&keyed.entry.id].clone())?;
            assert_eq!(namer(7).chunk(&chunk), keyed.entry.id);
            manifest.push(keyed.entry)?;
            bytes.extend(chunk);
        }
        assert_eq!(manifest.root(&namer(7))?, root);
        Ok(bytes)
    }
}

/// What comes of a patch from `old` to `new` at the other end.
fn travel(old: &[u8], new: &[u8]) -> Vec<u8> {
    let (namer, base, next) = (namer(7), manifest_of(7, old), manifest_of(7, new));
    let cutter = Cutter::new(&namer);
    let head =
        Head { base: base.root(&namer).unwrap(), root: next.root(&namer).unwrap(), bytes: next.bytes() };
    let mut rebuild = Rebuild::new(head, &base, &namer, &cutter, Progress::default()).unwrap();
    let mut rebuilt = Vec::new();
    for step in plan(&base, &next) {
        let (prefix, bytes) = match &step {
            Step::Copy { from, chunks } => {
                let lengths = |chunk: u32| {
                    base.entries().iter().take(chunk as usize).map(|entry| entry.bytes as usize).sum()
                };
                let end: usize = lengths(from + chunks);
                rebuilt.extend_from_slice(&old[lengths(*from)..end]);
                (&[][..], &[][..])
            }
            Step::Delta { prefix, bytes } => (
                &old[prefix.start as usize..prefix.end as usize],
                &new[bytes.start as usize..bytes.end as usize],
            ),
        };
        let op = step.encode(prefix, bytes).unwrap();
        rebuild
            .take(&op, prefix, |_, chunk| {
                rebuilt.extend_from_slice(chunk);
                Ok(())
            })
            .unwrap();
    }
    rebuild.finish().unwrap();
    rebuilt
}

#[tokio::test]
async fn share_patch_revoke_rotate_and_erase() {
    let folder = tempfile::tempdir().unwrap();
    let kms = Keyring::new(folder.path());
    let (eu, us, other) = (holder("acme", "eu"), holder("acme", "us"), holder("other", "us"));
    let (mut here, mut there) = (Region::default(), Region::default());
    let mut keys = ItemKeys::create(ITEM, eu.clone(), &kms, &System).await.unwrap();
    let first = noise(1, 400_000);
    let data_key = keys.open(0, &eu, &kms).await.unwrap();
    let one = here.keep(ITEM, &first, 0, &data_key);

    // Shared: the other region reads, and a patch leads it to the next version.
    assert!(matches!(keys.open(0, &us, &kms).await, Err(Error::NoKey)));
    keys.share(&eu, &us, 0, &kms).await.unwrap();
    let shared = keys.open(0, &us, &kms).await.unwrap();
    assert_eq!(there.keep(ITEM, &first, 0, &shared), one);
    let mut second = first.clone();
    second.splice(100_000..100_000, *b"more");
    let two = here.keep(ITEM, &second, 0, &data_key);
    assert_eq!(there.keep(ITEM, &travel(&first, &second), 0, &shared), two);
    assert_eq!(there.read(ITEM, two, &keys, &us, &kms).await.unwrap(), second);

    // Rotated: only wraps change, and the old key-encryption key may go.
    let newest = kms.rotate(&eu).await.unwrap();
    keys.rewrap(&eu, &kms).await.unwrap();
    kms.retire(&eu, newest).await.unwrap();
    assert_eq!(here.read(ITEM, one, &keys, &eu, &kms).await.unwrap(), first);

    // Revoked: nothing is opened there, and what comes has another key than was known.
    keys.revoke(&us, &kms, &System).await.unwrap();
    assert!(matches!(there.read(ITEM, two, &keys, &us, &kms).await, Err(Error::NoKey)));
    let next_key = keys.open(keys.term(), &eu, &kms).await.unwrap();
    assert_ne!(next_key, shared);
    let three = here.keep(ITEM, b"after", keys.term(), &next_key);
    let (_, sealed) = &here.lists[&(ITEM, three)];
    assert!((Part { item: ITEM, root: three, number: 0 }).open(sealed, &shared).is_err());
    assert!(keys.share(&us, &other, 0, &kms).await.is_err(), "who cannot read cannot share");

    // Erased: chunks of its own are noise, those of another item are not.
    let copy = ItemId([2; 16]);
    let copy_keys = ItemKeys::create(copy, eu.clone(), &kms, &System).await.unwrap();
    let copied = here.keep(copy, &first, 0, &copy_keys.open(0, &eu, &kms).await.unwrap());
    let gone = here.keys.erase(&ITEM);
    assert_eq!(keys.erase(), BTreeSet::from([eu.clone()]));
    let stays: BTreeSet<ChunkId> = manifest_of(7, &first).entries().iter().map(|entry| entry.id).collect();
    assert!(!gone.is_empty() && gone.iter().all(|id| !stays.contains(id)));
    assert!(here.read(ITEM, two, &keys, &eu, &kms).await.is_err());
    assert_eq!(here.read(copy, copied, &copy_keys, &eu, &kms).await.unwrap(), first);
}

#[tokio::test]
async fn a_wrap_is_for_its_holder_its_item_and_its_term() {
    let folder = tempfile::tempdir().unwrap();
    let kms = Keyring::new(folder.path());
    let (eu, us) = (holder("acme", "eu"), holder("acme", "us"));
    let key = Secret::draw(&System).unwrap();
    let wrapped = kms.wrap(&eu, b"item", &key).await.unwrap();
    kms.wrap(&us, b"item", &key).await.unwrap();
    assert_eq!(kms.unwrap(&eu, b"item", &wrapped).await.unwrap(), key);
    assert!(kms.unwrap(&us, b"item", &wrapped).await.is_err());
    assert!(kms.unwrap(&eu, b"other", &wrapped).await.is_err());
    assert!(matches!(kms.unwrap(&holder("new", "eu"), b"item", &wrapped).await, Err(Error::NoKey)));
    kms.retire(&eu, 2).await.unwrap();
    assert!(
        matches!(kms.unwrap(&eu, b"item", &wrapped).await, Err(Error::NoKey)),
        "destroyed, and not made again"
    );
}

#[test]
fn what_is_changed_or_exchanged_is_not_opened() {
    let key = Secret::draw(&System).unwrap();
    let sealed = key.seal(b"about", b"bytes".to_vec(), &System).unwrap();
    assert_eq!(key.open(b"about", &sealed).unwrap(), b"bytes");
    assert_ne!(sealed, key.seal(b"about", b"bytes".to_vec(), &System).unwrap());
    assert!(key.open(b"other", &sealed).is_err());
    for place in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[place] ^= 1;
        assert!(key.open(b"about", &changed).is_err(), "byte {place}");
        assert!(key.open(b"about", &sealed[..place]).is_err());
    }
    let part = Part { item: ITEM, root: Root([2; 32]), number: 0 };
    let sealed = part.seal(&[], &key, &System).unwrap();
    assert!(part.open(&sealed, &key).unwrap().is_empty());
    assert!(Part { number: 1, ..part }.open(&sealed, &key).is_err());
}
