//! What there is: a site's items, an item's versions and open heads, and what changed between two versions.

use http::{Response, StatusCode};
use portolan_changelog::content::{Content, Item, Stored};
use portolan_foundation::endpoint::Body;
use serde_json::{Value, json};

use super::commit::Standing;
use super::desk::Desk;
use super::load::Loaded;
use super::path::{number, parameter};
use super::problem::Problem;
use super::reply;
use crate::defaults::{DIFF_PLACES_MAX, PAGE, PAGE_MAX};
use crate::patch::{Step, plan};
use crate::version::Version;

/// How many entries a page is to have.
pub(super) fn page(query: Option<&str>) -> Result<u64, Problem> {
    let max = number(query, "limit")?.unwrap_or(PAGE);
    if (1..=PAGE_MAX).contains(&max) {
        Ok(max)
    } else {
        Err(Problem::bad(format!("`limit` is 1 to {PAGE_MAX}")))
    }
}

/// A site's items, by name. `next` is what to ask for `after` next.
pub(super) async fn items(desk: &Desk, site: &str, query: Option<&str>) -> Result<Response<Body>, Problem> {
    let (max, after) = (page(query)?, parameter(query, "after")?.unwrap_or_default());
    let mut content = desk.look().await?;
    let items = content.items(site, &after, max).await?;
    content.end().await?;
    desk.still()?;
    let next = if items.len() as u64 == max { items.last().map(|item| item.name.clone()) } else { None };
    let shown = items.iter().map(|item| {
        json!({
            "name": item.name, "media": item.media, "version": item.version, "root": item.root, "bytes": item.bytes,
            "at_ms": item.at_ms, "heads": item.heads,
        })
    });
    reply::json(StatusCode::OK, &json!({ "items": shown.collect::<Vec<Value>>(), "next": next }))
}

fn shown(stored: &Stored) -> Result<Value, Problem> {
    let version = Version::read(&stored.record)?;
    let parents: Vec<String> = version.parents.iter().map(ToString::to_string).collect();
    Ok(json!({
        "version": stored.version, "seq": stored.seq, "at_ms": stored.at_ms, "bytes": stored.bytes,
        "root": if stored.root.is_empty() { Value::Null } else { stored.root.as_str().into() },
        "deleted": stored.root.is_empty(), "head": stored.head, "shown": stored.shown, "parents": parents,
        "region": version.dot.actor.region,
    }))
}

async fn item(content: &mut Content, (site, name): (&str, &str)) -> Result<Item, Problem> {
    content.item(site, name).await?.ok_or_else(|| Problem::none("the item"))
}

/// An item's versions, newest first. `next` is what to ask for `before` next.
pub(super) async fn versions(
    desk: &Desk,
    place: (&str, &str),
    query: Option<&str>,
) -> Result<Response<Body>, Problem> {
    let (max, before) = (page(query)?, number(query, "before")?.unwrap_or(i64::MAX as u64));
    let mut content = desk.look().await?;
    let item = item(&mut content, place).await?;
    let stored = content.versions(&item.item, before, max).await?;
    content.end().await?;
    desk.still()?;
    let next = if stored.len() as u64 == max { stored.last().map(|stored| stored.seq) } else { None };
    let all = stored.iter().map(shown).collect::<Result<Vec<Value>, _>>()?;
    reply::json(StatusCode::OK, &json!({ "item": item.item, "versions": all, "next": next }))
}

/// An item's open heads: more than one of different contents is a conflict.
pub(super) async fn conflicts(desk: &Desk, place: (&str, &str)) -> Result<Response<Body>, Problem> {
    let mut content = desk.look().await?;
    let item = item(&mut content, place).await?;
    let standing = Standing::of(&mut content, &item.item).await?;
    content.end().await?;
    desk.still()?;
    let heads = standing.stored.iter().map(shown).collect::<Result<Vec<Value>, _>>()?;
    reply::json(StatusCode::OK, &json!({ "conflict": standing.heads.is_conflict(), "heads": heads }))
}

/// What changed from one version to another: how much stayed, and where the rest is in the newer.
pub(super) async fn diff(
    desk: &Desk,
    place: (&str, &str),
    query: Option<&str>,
) -> Result<Response<Body>, Problem> {
    let named = |name: &'static str| -> Result<String, Problem> {
        parameter(query, name)?.ok_or_else(|| {
            Problem::bad(format!("say which versions: `?from=VERSION&to=VERSION` lacks `{name}`"))
        })
    };
    let (from, to) = (named("from")?, named("to")?);
    let mut content = desk.look().await?;
    let item = item(&mut content, place).await?;
    let mut sides = Vec::new();
    for version in [&from, &to] {
        let stored = content.version(&item.item, version).await?;
        let stored = stored.filter(|stored| !stored.root.is_empty());
        let stored = stored.ok_or_else(|| Problem::none("a version with a content of that name"))?;
        sides.push(Loaded::find(desk, &mut content, item.clone(), &stored.root).await?);
    }
    content.end().await?;
    let [base, new] = sides.as_slice() else { return Err(Problem::none("the versions")) };
    let (changed, more) =
        if base.root == new.root { (Vec::new(), false) } else { changed(desk, base, new).await? };
    let replaced: u64 = changed.iter().map(|(_, bytes)| bytes).sum();
    let places: Vec<Value> = changed.iter().map(|(at, bytes)| json!({ "at": at, "bytes": bytes })).collect();
    desk.still()?;
    reply::json(
        StatusCode::OK,
        &json!({
            "from": { "version": from, "root": base.root, "bytes": base.bytes },
            "to": { "version": to, "root": new.root, "bytes": new.bytes },
            "replaced_bytes": replaced, "changed": places, "more": more,
        }),
    )
}

/// Places of the newer content that are not chunks of the older, and whether there are more than are told.
async fn changed(desk: &Desk, base: &Loaded, new: &Loaded) -> Result<(Vec<(u64, u64)>, bool), Problem> {
    let (old, fresh) = (base.manifest(desk).await?, new.manifest(desk).await?);
    if fresh.entries().is_empty() {
        return Ok((vec![(0, new.bytes)], false));
    }
    let steps = plan(&old, &fresh).into_iter();
    let mut places = steps.filter_map(|step| match step {
        Step::Copy { .. } => None,
        Step::Delta { bytes, .. } => Some((bytes.start, bytes.end - bytes.start)),
    });
    let told = places.by_ref().take(DIFF_PLACES_MAX).collect();
    Ok((told, places.next().is_some()))
}
