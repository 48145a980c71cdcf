//! A new version of an item: what was wanted of it is looked at, its list sealed, its heads settled, all in one transaction.
//!
//! Who writes says what it had seen. Without a word it has seen all heads, and its version replaces them. With a base it has seen that alone:
//! what came since stands beside it, and is merged where both can be kept in one (see [`super::settle`]).

use portolan_changelog::content::{Content, Item, NewVersion, Part, Stored};
use portolan_foundation::clock;

use super::desk::Desk;
use super::intake::Received;
use super::problem::Problem;
use super::vault::Vault;
use crate::Error;
use crate::defaults::NODE_ENTRIES_MAX;
use crate::id::{ItemId, Namer, Root, VersionId};
use crate::keys::ItemKeys;
use crate::manifest::Entry;
use crate::seal::{self, Draw as _, Keyed, Secret, System};
use crate::version::{Actor, Draft, EditOrDelete, Heads, Hlc, Kind, Version};

/// Of which item a version is to be.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) site: String,
    pub(super) name: String,
    /// Its media type; of an item that is there, it changes with this.
    pub(super) media: String,
}

/// What the item is to be for the version to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Wanted {
    /// The version that its writer had seen, if not all heads.
    pub(super) base: Option<String>,
    /// Entity tags of `If-Match`.
    pub(super) matches: Option<Vec<String>>,
    /// Entity tags of `If-None-Match`.
    pub(super) none: Option<Vec<String>>,
    /// The heads that its writer has seen and resolves, all of them.
    pub(super) heads: Option<Vec<String>>,
}

/// A version that is written.
#[derive(Clone, Debug)]
pub(super) struct Committed {
    pub(super) conflict: bool,
    pub(super) created: bool,
    pub(super) item: Item,
    pub(super) root: Option<Root>,
    pub(super) seq: u64,
    pub(super) version: String,
}

/// An item's heads, as records and as they are kept.
#[derive(Debug)]
pub(super) struct Standing {
    pub(super) heads: Heads,
    pub(super) stored: Vec<Stored>,
}

impl Standing {
    pub(super) async fn of(content: &mut Content, item: &str) -> Result<Self, Problem> {
        let stored = content.heads(item).await?;
        let mut heads = Heads::default();
        for head in &stored {
            heads.put(Version::read(&head.record)?)?;
        }
        Ok(Self { heads, stored })
    }

    /// The head that is shown.
    pub(super) fn shown(&self) -> Option<&Stored> {
        self.stored.iter().find(|head| head.shown)
    }

    /// Whether there is something to see.
    pub(super) fn is_there(&self) -> bool {
        self.shown().is_some_and(|head| !head.root.is_empty())
    }
}

impl Wanted {
    /// # Errors
    /// When the item is not as it is wanted.
    fn check(&self, standing: &Standing) -> Result<(), Problem> {
        let shown = standing.shown().filter(|head| !head.root.is_empty()).map(|head| head.root.as_str());
        let has =
            |tags: &[String]| shown.is_some_and(|root| tags.iter().any(|tag| tag == "*" || tag == root));
        if self.matches.as_ref().is_some_and(|tags| !has(tags)) {
            return Err(Problem::changed(
                "the item has other content than `If-Match` names: read it, and write again",
            ));
        }
        if self.none.as_ref().is_some_and(|tags| has(tags)) {
            return Err(Problem::changed(
                "the item is there already: leave `If-None-Match` out to write a new version",
            ));
        }
        if let Some(seen) = &self.heads {
            let all = standing.stored.len() == seen.len()
                && standing.stored.iter().all(|head| seen.contains(&head.version));
            if !all {
                return Err(Problem::changed("the item has other heads by now: look at them again"));
            }
        }
        Ok(())
    }

    /// What the writer had seen of the heads.
    async fn seen(&self, content: &mut Content, item: &Item, heads: &Heads) -> Result<Heads, Problem> {
        let Some(base) = &self.base else { return Ok(heads.clone()) };
        let base = content.version(&item.item, base).await?;
        let base = base.ok_or_else(|| Problem::none("the version that `base` names"))?;
        let mut seen = Heads::default();
        seen.put(Version::read(&base.record)?)?;
        Ok(seen)
    }
}

/// Writes a version: this content, or a deletion.
pub(super) async fn commit(
    desk: &Desk,
    vault: &Vault,
    target: &Target,
    received: Option<&Received>,
    wanted: &Wanted,
) -> Result<Committed, Problem> {
    let mut content = desk.write().await?;
    let committed = within(desk, vault, &mut content, target, received, wanted).await;
    match committed {
        Ok(committed) => {
            desk.commit(content).await?;
            Ok(committed)
        }
        Err(problem) => {
            content.end().await.ok();
            Err(problem)
        }
    }
}

/// The same within a transaction, which its caller commits.
pub(super) async fn within(
    desk: &Desk,
    vault: &Vault,
    content: &mut Content,
    target: &Target,
    received: Option<&Received>,
    wanted: &Wanted,
) -> Result<Committed, Problem> {
    let found = content.item(&target.site, &target.name).await?;
    let standing = match &found {
        Some(item) => Standing::of(content, &item.item).await?,
        None => Standing { heads: Heads::default(), stored: Vec::new() },
    };
    wanted.check(&standing)?;
    if received.is_none() && !standing.is_there() && wanted.heads.is_none() {
        return Err(Problem::none("the item"));
    }
    let created = !standing.is_there();
    let root = received.map(|received| received.root);
    let media = if received.is_some() { target.media.clone() } else { String::new() };
    let same_media = found.as_ref().is_some_and(|item| media.is_empty() || item.media == media);
    let item = place(desk, content, found, target, &media).await?;
    if let (true, Some(shown), None, None) = (same_media, standing.shown(), &wanted.base, &wanted.heads)
        && standing.stored.len() == 1
        && shown.root == root.map(|root| root.to_string()).unwrap_or_default()
    {
        // Nothing has changed: whoever repeats a request finds what it did.
        let (seq, version) = (shown.seq, shown.version.clone());
        return Ok(Committed { conflict: false, created: false, item, root, seq, version });
    }
    if let Some(received) = received {
        keep(desk, vault, content, &item, received).await?;
    }
    let seen = wanted.seen(content, &item, &standing.heads).await?;
    let account = content.account().await?.ok_or(Error::NoKey)?;
    let at = Hlc { ms: account.clock.0, count: account.clock.1 }.tick(clock::unix_ms());
    let draft = Draft {
        item: item.item.parse()?,
        actor: Actor { region: desk.shared.local.clone(), incarnation: desk.epoch().0 },
        at,
        kind: kind(&item.kind),
        content: root,
    };
    let version = seen.next(draft, &standing.heads.context(), &vault.namer)?;
    let (record, name) = (version.bytes()?, version.id(&vault.namer)?.to_string());
    let mut heads = standing.heads;
    heads.put(version)?;
    let conflict = heads.is_conflict();
    let new = NewVersion {
        at_ms: at.ms,
        bytes: received.map_or(0, |received| received.bytes),
        clock: (at.ms, at.count),
        record,
        root: root.map(|root| root.to_string()).unwrap_or_default(),
        version: name.clone(),
    };
    let seq = content.put_version(&item, &new, &shown_of(&heads, &vault.namer)?).await?;
    Ok(Committed { conflict, created, item, root, seq, version: name })
}

/// Names of heads, with which of them is shown.
pub(super) fn shown_of(heads: &Heads, namer: &Namer) -> Result<Vec<(String, bool)>, Error> {
    let winner: Option<VersionId> =
        heads.winner(EditOrDelete::Edit).map(|version| version.id(namer)).transpose()?;
    heads.iter().map(|head| head.id(namer).map(|id| (id.to_string(), Some(id) == winner))).collect()
}

/// The item, which is made when it is not there.
async fn place(
    desk: &Desk,
    content: &mut Content,
    found: Option<Item>,
    target: &Target,
    media: &str,
) -> Result<Item, Problem> {
    let item = match found {
        Some(item) if media.is_empty() || item.media == media => return Ok(item),
        Some(item) => Item { media: media.to_owned(), kind: kind_word(media).to_owned(), ..item },
        None => {
            let mut id = [0; 16];
            System.fill(&mut id)?;
            create(desk, ItemId(id), target, media).await?
        }
    };
    content.put_item(&item).await?;
    Ok(item)
}

/// An item that is not here yet, with a data key of this region's own.
pub(super) async fn create(desk: &Desk, id: ItemId, target: &Target, media: &str) -> Result<Item, Problem> {
    Ok(Item {
        item: id.to_string(),
        keys: fresh_keys(desk, id).await?,
        kind: kind_word(media).to_owned(),
        media: media.to_owned(),
        name: target.name.clone(),
        site: target.site.clone(),
    })
}

/// Data keys for an item that has no contents yet, or none any more.
pub(super) async fn fresh_keys(desk: &Desk, id: ItemId) -> Result<Vec<u8>, Problem> {
    let vaults = &desk.shared.vaults;
    let keys = ItemKeys::create(id, vaults.holder(&desk.tenant), vaults.kms(), &System).await?;
    Ok(postcard::to_allocvec(&keys).map_err(|_| Error::Malformed("an item's keys"))?)
}

/// Keeps the list of a content, and has the item use its chunks.
pub(super) async fn keep(
    desk: &Desk,
    vault: &Vault,
    content: &mut Content,
    item: &Item,
    received: &Received,
) -> Result<(), Problem> {
    let root = received.root.to_string();
    if !content.parts(&item.item, &root).await?.is_empty() {
        return Ok(());
    }
    let keys = Desk::keys(item)?;
    let term = keys.term();
    let data_key = desk.data_key(&keys, term).await?;
    let of_item = seal::Part { item: item.item.parse()?, root: received.root, number: 0 };
    if let Some(small) = &received.small {
        let sealed = of_item.seal_small(small, &data_key, &System)?;
        let kept = Part { bytes: received.bytes, part: 0, sealed, small: true, term: term as u64 };
        content.put_parts(&item.item, &root, &[kept]).await?;
        return Ok(());
    }
    for (number, entries) in (0_u32..).zip(received.entries.chunks(NODE_ENTRIES_MAX)) {
        let keyed = keyed(vault, content, item, entries).await?;
        let sealed = seal::Part { number, ..of_item }.seal(&keyed, &data_key, &System)?;
        let bytes = entries.iter().map(|entry| u64::from(entry.bytes)).sum();
        let kept = Part { bytes, part: number.into(), sealed, small: false, term: term as u64 };
        content.put_parts(&item.item, &root, &[kept]).await?;
    }
    Ok(())
}

/// Chunks with their keys, which the item uses from now on.
async fn keyed(
    vault: &Vault,
    content: &mut Content,
    item: &Item,
    entries: &[Entry],
) -> Result<Vec<Keyed>, Problem> {
    let mut all = Vec::with_capacity(entries.len());
    for entry in entries {
        let name = entry.id.to_string();
        let chunk = content.chunk(&name).await?;
        let (Some(chunk), true) = (chunk, content.use_chunk(&item.item, &name).await?) else {
            return Err(Problem::busy(
                "some of the content is gone, because it came too slowly: send it again",
            ));
        };
        let key: Secret = vault.open_key(&entry.id, &chunk.key)?;
        all.push(Keyed { entry: *entry, key });
    }
    Ok(all)
}

/// How contents of a media type are merged.
pub(super) fn kind_word(media: &str) -> &'static str {
    let essence = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        json if json == "application/json" || json.ends_with("+json") => "json",
        text if text.starts_with("text/") => "text",
        _ => "binary",
    }
}

fn kind(word: &str) -> Kind {
    match word {
        "json" => Kind::Json,
        "text" => Kind::Text,
        _ => Kind::Binary,
    }
}
