//! A chunk that is damaged in a pack here comes again from another region that keeps the shard, and is found in another pack from then on.
//!
//! Who reads it finds it, and so does a look at one pack after another ([`scrub`]). The damaged pack stays until nothing of it is used.

use std::sync::Arc;

use portolan_changelog::content::{Chunk, Content, Item};
use portolan_core::ids::RegionName;
use portolan_foundation::clock;

use super::desk::Desk;
use super::follow::{ask, turn};
use super::load::location;
use super::packing::{Sealed, word};
use super::problem::Problem;
use super::vault::Vault;
use crate::Error;
use crate::defaults::{NODE_ENTRIES_MAX, PAGE_MAX};
use crate::id::{ChunkId, PackId};
use crate::manifest::Entry;
use crate::pack::Builder;
use crate::seal::{self, Keyed, Secret, System};
use crate::wire::{Answer, Named, Question, Sent};

/// Where a chunk stands in a list.
struct Place {
    at: u32,
    entry: Entry,
    named: Named,
    part: u32,
}

/// Is that what becomes of a chunk whose bytes are not what they were?
pub(super) const fn is_damage(error: &Error) -> bool {
    match error {
        Error::Corrupt(_) | Error::Malformed(_) | Error::Sealed(_) | Error::Zstd(_) => true,
        Error::Store(why) => {
            matches!(why, object_store::Error::NotFound { .. } | object_store::Error::Generic { .. })
        }
        _ => false,
    }
}

/// Opens a chunk by the key that is kept beside it.
pub(super) async fn opened(vault: &Vault, chunk: &Chunk) -> Result<Vec<u8>, Error> {
    let location = location(chunk)?;
    let entry = Entry { id: location.slot.id, bytes: location.slot.bytes };
    let key = vault.open_key(&entry.id, &chunk.key)?;
    vault.packs.chunk(&location, &Keyed { entry, key }, &vault.namer).await
}

/// Fetches a damaged chunk from another region, keeps it, and gives its bytes.
pub(super) async fn repaired(desk: &Desk, vault: &Arc<Vault>, chunk: &Chunk) -> Result<Vec<u8>, Problem> {
    let (shard, tenant, pack) = (&desk.shard, &desk.tenant, &chunk.pack);
    desk.shared.copies.found_damage();
    tracing::error!(
        %shard, %tenant, %pack, chunk = %chunk.chunk,
        "a chunk of content is damaged in its pack here, and is asked of other regions: see to the store of packs"
    );
    let place = place(desk, chunk).await?.ok_or_else(|| Problem::none("a list that has the chunk"))?;
    let mut last = Problem::none("another region that has the chunk");
    for region in desk.shared.homes.keepers(shard) {
        if region == desk.shared.local {
            continue;
        }
        match Box::pin(fetch(desk, vault, &region, &place)).await {
            Ok((sealed, bytes)) => {
                Box::pin(keep(desk, vault, chunk, sealed)).await?;
                desk.shared.copies.repaired();
                tracing::warn!(%shard, %tenant, chunk = %chunk.chunk, %region, "a damaged chunk of content was fetched again");
                return Ok(bytes);
            }
            Err(problem) => last = problem,
        }
    }
    let detail = format!("some of the content is damaged here, and no other region gave it: {}", last.detail);
    Err(Problem::new(http::StatusCode::SERVICE_UNAVAILABLE, "damaged", detail))
}

/// A list that has a chunk.
async fn place(desk: &Desk, chunk: &Chunk) -> Result<Option<Place>, Problem> {
    let id: ChunkId = chunk.chunk.parse()?;
    let mut content = desk.look().await?;
    for item in content.users_of(&chunk.chunk, PAGE_MAX).await? {
        let Some(item) = content.item_named(&item).await? else { continue };
        for (root, part) in content.parts_of(&item.item).await? {
            let list = list(desk, &mut content, &item, (&root, part)).await?;
            let found = (0_u32..).zip(&list).find(|(_, keyed)| keyed.entry.id == id);
            if let Some((at, keyed)) = found {
                let entry = keyed.entry;
                content.end().await?;
                let named = Named {
                    shard: desk.shard.clone(),
                    tenant: desk.tenant.clone(),
                    item: item.item.parse()?,
                    root: root.parse()?,
                };
                return Ok(Some(Place { at, entry, named, part: u32::try_from(part).unwrap_or(u32::MAX) }));
            }
        }
    }
    content.end().await?;
    Ok(None)
}

/// A part of a list, opened.
async fn list(
    desk: &Desk,
    content: &mut Content,
    item: &Item,
    (root, number): (&str, u64),
) -> Result<Vec<Keyed>, Problem> {
    let part = content.part(&item.item, root, number).await?.ok_or(Error::Corrupt("a content's list"))?;
    let (of_item, data_key) = sealing(desk, item, (root, number), part.term).await?;
    Ok(of_item.open(&part.sealed, &data_key)?)
}

async fn sealing(
    desk: &Desk,
    item: &Item,
    (root, number): (&str, u64),
    term: u64,
) -> Result<(seal::Part, Secret), Problem> {
    let data_key = desk.data_key(&Desk::keys(item)?, usize::try_from(term).unwrap_or(usize::MAX)).await?;
    let number = u32::try_from(number).unwrap_or(u32::MAX);
    Ok((seal::Part { item: item.item.parse()?, root: root.parse()?, number }, data_key))
}

/// The chunk as another region has it, when it is what its name says.
async fn fetch(
    desk: &Desk,
    vault: &Vault,
    region: &RegionName,
    place: &Place,
) -> Result<((Sealed, Secret), Vec<u8>), Problem> {
    let question = Question::List { content: place.named.clone(), from: place.part };
    let Answer::List { parts, .. } = ask(&desk.shared, &desk.shard, region, &question).await? else {
        return Err(turn());
    };
    // Its list says which key it has for the chunk, and not which chunk that is.
    let keyed = parts.first().and_then(|part| part.get(place.at as usize));
    let keyed = keyed.filter(|keyed| keyed.entry == place.entry).ok_or_else(turn)?;
    let mut wanted = vec![0_u8; NODE_ENTRIES_MAX / 8];
    super::bring::set(&mut wanted, place.at, true);
    let question = Question::Chunks { content: place.named.clone(), part: place.part, wanted };
    let Answer::Chunks(sent) = ask(&desk.shared, &desk.shard, region, &question).await? else {
        return Err(turn());
    };
    let sent = sent.into_iter().find(|sent| sent.at == place.at).ok_or_else(turn)?;
    let Sent { coding, sealed, .. } = sent;
    let coded = keyed.key.open_once(&keyed.entry.id.0, sealed.clone())?;
    let bytes = coding.decode(coded, keyed.entry.bytes)?;
    if vault.namer.chunk(&bytes) != keyed.entry.id {
        return Err(Problem::busy(format!("region `{region}` has a damaged chunk, too")));
    }
    let key = vault.seal_key(&keyed.entry.id, &keyed.key)?;
    Ok(((Sealed { entry: keyed.entry, coding, bytes: sealed, key }, keyed.key.clone()), bytes))
}

/// Writes the chunk into a pack of its own, and has it found there; lists that name another key for it are sealed anew.
async fn keep(
    desk: &Desk,
    vault: &Vault,
    chunk: &Chunk,
    (sealed, key): (Sealed, Secret),
) -> Result<(), Problem> {
    let mut pack = Builder::default();
    pack.push(sealed.entry.id, sealed.coding, sealed.entry.bytes, &sealed.bytes)?;
    let pack = vault.packs.seal(pack, &System)?;
    let name = pack.name.to_string();
    let mut content = desk.write().await?;
    content.note_pack(&name, pack.bytes.len() as u64, clock::unix_ms()).await?;
    desk.commit(content).await?;
    let at = pack.slots.first().map_or(0, |slot| slot.at);
    vault.packs.put(&pack.name, pack.bytes).await?;
    let fresh = Chunk {
        at: at.into(),
        coding: word(sealed.coding).to_owned(),
        key: sealed.key,
        pack: name,
        sealed_bytes: sealed.bytes.len() as u64,
        ..chunk.clone()
    };
    let mut content = desk.write().await?;
    let is_there = content.replace_chunk(&fresh).await?;
    if is_there {
        for item in content.users_of(&chunk.chunk, PAGE_MAX).await? {
            rekey(desk, &mut content, &item, (&sealed.entry.id, &key)).await?;
        }
    }
    desk.commit(content).await?;
    if is_there { Ok(()) } else { Err(Problem::busy("the pack is collected by now: read it again")) }
}

/// All lists of an item name a chunk with this key.
async fn rekey(
    desk: &Desk,
    content: &mut Content,
    item: &str,
    (chunk, key): (&ChunkId, &Secret),
) -> Result<(), Problem> {
    let Some(item) = content.item_named(item).await? else { return Ok(()) };
    for (root, number) in content.parts_of(&item.item).await? {
        let mut list = list(desk, content, &item, (&root, number)).await?;
        let others = list.iter_mut().filter(|keyed| keyed.entry.id == *chunk && keyed.key != *key);
        let changed = others.map(|keyed| keyed.key = key.clone()).count();
        let part = content.part(&item.item, &root, number).await?;
        if let (Some(mut part), true) = (part, changed > 0) {
            let (of_item, data_key) = sealing(desk, &item, (&root, number), part.term).await?;
            part.sealed = of_item.seal(&list, &data_key, &System)?;
            content.reseal_part(&item.item, &root, &part).await?;
        }
    }
    Ok(())
}

/// Looks whether the next pack of a tenant is what its name says, and has what is damaged of it fetched again.
pub(super) async fn scrub(desk: &Desk, vault: &Arc<Vault>) -> Result<(), Problem> {
    let after = desk.shared.copies.scrubbed(&desk.shard, &desk.tenant);
    let mut content = desk.look().await?;
    let next = content.packs(&after, 1).await?;
    content.end().await?;
    let Some(pack) = next.into_iter().next() else {
        // All have been looked at: the first is the next.
        desk.shared.copies.scrub_from(&desk.shard, &desk.tenant, String::new());
        return Ok(());
    };
    desk.shared.copies.scrub_from(&desk.shard, &desk.tenant, pack.clone());
    let name: PackId = pack.parse()?;
    if vault.packs.is_whole(&name).await? {
        return Ok(());
    }
    let mut content = desk.look().await?;
    let used = content.used_of(&pack, clock::unix_ms()).await?;
    content.end().await?;
    let mut done = Ok(());
    for chunk in used {
        match opened(vault, &chunk).await {
            // What nobody gives keeps no other chunk from being asked for.
            Err(error) if is_damage(&error) => match repaired(desk, vault, &chunk).await {
                Ok(_) => {}
                Err(problem) => done = Err(problem),
            },
            outcome => drop(outcome?),
        }
    }
    done
}
