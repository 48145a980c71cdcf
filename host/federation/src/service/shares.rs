//! Shares: a site offers another some of its content, the other accepts, and either ends it. What a share lets through is decided by
//! [`Share`]'s row alone, the same at each place that asks ([`permits`]); of two tenants' shares by the source's (see [`super::lend`] and
//! [`super::borrow`]).

use std::collections::BTreeSet;

use http::{Response, StatusCode};
use portolan_changelog::content::{Listed, Share};
use portolan_core::ids::{RegionName, TenantName};
use portolan_foundation::clock;
use portolan_foundation::endpoint::Body;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::borrow;
use super::desk::Desk;
use super::mirrors;
use super::path::{known_site, parameter};
use super::problem::Problem;
use super::reply;
use super::show::page;
use crate::Error;
use crate::defaults::{NAME_BYTES_MAX, PAGE_MAX};
use crate::seal::{Draw as _, System};

/// How a target has what is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    CopyOnce,
    ForkFollow,
    Mirror,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Direction {
    Both,
    Pull,
    Push,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Scope {
    All,
    /// Items whose name begins so.
    Collection,
    ContentType,
    Item,
}

/// What a client says of a share.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Offered {
    source_site: String,
    /// Left out where another tenant gets it, which says that itself.
    #[serde(default)]
    target_site: String,
    /// The tenant itself, when absent.
    target_tenant: Option<TenantName>,
    scope: Scope,
    #[serde(default)]
    scope_ref: String,
    mode: Mode,
    direction: Direction,
    #[serde(default)]
    can_update: bool,
    #[serde(default)]
    can_reshare: bool,
    #[serde(default)]
    can_export: bool,
    /// All regions, when absent.
    allowed_regions: Option<BTreeSet<RegionName>>,
    #[serde(default)]
    denied_regions: BTreeSet<RegionName>,
    #[serde(default)]
    eager: bool,
    #[serde(default)]
    max_bytes: u64,
    /// Members of JSON contents that the target does not see; they win over `fields`.
    #[serde(default)]
    field_mask: BTreeSet<String>,
    /// Members of JSON contents that it sees; all, when absent.
    fields: Option<BTreeSet<String>>,
    #[serde(default)]
    not_before_ms: u64,
    #[serde(default)]
    expires_ms: u64,
}

/// Offers a share.
pub(super) async fn offer(desk: &Desk, offered: Offered) -> Result<Response<Body>, Problem> {
    let source_site = known_site(&offered.source_site)?;
    let (target_tenant, target_site) = target(desk, &offered, &source_site)?;
    if (offered.scope == Scope::All) != offered.scope_ref.is_empty()
        || offered.scope_ref.len() > NAME_BYTES_MAX
    {
        return Err(Problem::bad("`scope_ref` names what is shared, and is left out where `scope` is `all`"));
    }
    if offered.expires_ms != 0 && offered.expires_ms <= offered.not_before_ms {
        return Err(Problem::bad("the share would end before it begins"));
    }
    let mut id = [0; 16];
    System.fill(&mut id)?;
    let list = |value: &Value| value.to_string();
    let share = Share {
        allowed_regions: list(&json!(offered.allowed_regions)),
        can: [true, offered.can_update, offered.can_reshare, offered.can_export],
        denied_regions: list(&json!(offered.denied_regions)),
        direction: word(&offered.direction),
        eager: offered.eager,
        expires_ms: offered.expires_ms,
        field_mask: list(&json!(offered.field_mask)),
        fields: list(&json!(offered.fields)),
        max_bytes: offered.max_bytes,
        mode: word(&offered.mode),
        not_before_ms: offered.not_before_ms,
        policy_epoch: 1,
        scope_kind: word(&offered.scope),
        scope_ref: offered.scope_ref,
        share: crate::id::ItemId(id).to_string(),
        source_site,
        source_tenant: String::new(),
        status: "offered".to_owned(),
        target_site,
        target_tenant,
    };
    desk.make_vault().await?;
    let mut content = desk.write().await?;
    if !content.put_share(&share).await? {
        content.end().await?;
        let detail = "a share of these sites with this scope is there: revoke it first";
        return Err(Problem::conflict("share-exists", detail));
    }
    content.note("share", place(&share), &share.status, clock::unix_ms()).await?;
    desk.commit(content).await?;
    reply::json(StatusCode::CREATED, &shown(&share)?)
}

/// Who is to get it: another tenant by its name, or another site of this one. Whether there is such a tenant nobody is told.
fn target(desk: &Desk, offered: &Offered, source_site: &str) -> Result<(String, String), Problem> {
    let Some(tenant) = &offered.target_tenant else {
        let target_site = known_site(&offered.target_site)?;
        if source_site == target_site {
            return Err(Problem::bad("a site has its own content already: name another as `target_site`"));
        }
        return Ok((String::new(), target_site));
    };
    if *tenant == desk.tenant {
        return Err(Problem::bad(
            "leave `target_tenant` out to share with another site of the tenant itself",
        ));
    }
    if !offered.target_site.is_empty() {
        return Err(Problem::bad(
            "leave `target_site` out: the other tenant says into which site it takes it",
        ));
    }
    if offered.mode != Mode::Mirror && !offered.can_export {
        let detail = "a fork and a copy stay with the other tenant after the share's end: say `can_export`, or share a `mirror`";
        return Err(Problem::bad(detail));
    }
    Ok((tenant.to_string(), String::new()))
}

/// Of which site the changes of a share are told, and its name.
pub(super) fn place(share: &Share) -> (&str, &str) {
    let site = if share.source_tenant.is_empty() { &share.source_site } else { &share.target_site };
    (site, &share.share)
}

/// The target takes a share: one of another tenant's, which it names, or one between two sites of the tenant.
pub(super) async fn accept(desk: &Desk, id: &str, query: Option<&str>) -> Result<Response<Body>, Problem> {
    match parameter(query, "from")? {
        Some(from) => Box::pin(borrow::accept(desk, id, &from, query)).await,
        None => turn(desk, id, "accepted").await,
    }
}

/// The tenant's shares.
pub(super) async fn list(desk: &Desk, query: Option<&str>) -> Result<Response<Body>, Problem> {
    let (max, after) = (page(query)?, parameter(query, "after")?.unwrap_or_default());
    let mut content = desk.look().await?;
    let shares = content.shares(&after, max).await?;
    content.end().await?;
    let next = if shares.len() as u64 == max { shares.last().map(|share| share.share.clone()) } else { None };
    let all = shares.iter().map(shown).collect::<Result<Vec<Value>, _>>()?;
    reply::json(StatusCode::OK, &json!({ "shares": all, "next": next }))
}

/// One share.
pub(super) async fn one(desk: &Desk, id: &str) -> Result<Response<Body>, Problem> {
    reply::json(StatusCode::OK, &shown(&find(desk, id).await?)?)
}

/// A share has another status from now on, by the word of its tenant. What is revoked stays so.
pub(super) async fn turn(desk: &Desk, id: &str, status: &'static str) -> Result<Response<Body>, Problem> {
    let share = turned(desk, id, status).await?;
    if status == "revoked" && !share.source_tenant.is_empty() {
        borrow::tell_end(desk, &share).await;
    }
    if !share.target_tenant.is_empty() {
        borrow::told(desk, &share, status).await;
    }
    one(desk, id).await
}

/// Gives a share another status, with what follows from that here.
pub(super) async fn turned(desk: &Desk, id: &str, status: &'static str) -> Result<Share, Problem> {
    let mut content = desk.write().await?;
    let Some(share) = content.share(id).await? else {
        content.end().await?;
        return Err(Problem::none("the share"));
    };
    let may = match (share.status.as_str(), status) {
        (was, now) if was == now => {
            content.end().await?;
            return Ok(share);
        }
        // Consent is the other tenant's to give.
        ("offered", "accepted") if !share.target_tenant.is_empty() => false,
        ("offered" | "suspended", "accepted") | ("accepted", "suspended") => true,
        (was, "revoked") => was != "revoked",
        _ => false,
    };
    if !may {
        content.end().await?;
        let detail = format!("a share that is {} cannot be {status}: offer another one", share.status);
        return Err(Problem::conflict("share-status", detail));
    }
    content.turn_share(id, status).await?;
    content.note("share", place(&share), status, clock::unix_ms()).await?;
    if status == "revoked" {
        let ended = async {
            mirrors::delete(desk, &mut content, &share).await?;
            mirrors::purge(desk, &mut content, &share).await
        };
        if let Err(problem) = Box::pin(ended).await {
            content.end().await.ok();
            return Err(problem);
        }
    }
    desk.commit(content).await?;
    Ok(Share { status: status.to_owned(), ..share })
}

/// What would move by a share, where to, and what stands in its way.
pub(super) async fn preview(desk: &Desk, id: &str) -> Result<Response<Body>, Problem> {
    let share = find(desk, id).await?;
    if !share.source_tenant.is_empty() {
        return borrow::preview(desk, &share).await;
    }
    let (mut after, mut items, mut bytes, mut left_out) = (String::new(), 0_u64, 0_u64, 0_u64);
    loop {
        let mut content = desk.look().await?;
        let page = content.items(&share.source_site, &after, PAGE_MAX).await?;
        content.end().await?;
        for item in page.iter().filter(|item| covers(&share, item)) {
            if share.max_bytes != 0 && item.bytes > share.max_bytes {
                left_out += 1;
            } else {
                (items, bytes) = (items + 1, bytes + item.bytes);
            }
        }
        match page.last() {
            Some(last) if page.len() as u64 == PAGE_MAX => after.clone_from(&last.name),
            _ => break,
        }
    }
    let now_ms = clock::unix_ms();
    let regions = desk.shared.homes.regions();
    let regions = regions.iter().map(|region| {
        let is_admitted = desk.shared.homes.admits(&desk.tenant, region);
        let why = if is_admitted { permits(&share, region, now_ms).err() } else { Some("residency") };
        json!({ "region": region, "permitted": why.is_none(), "violates": why })
    });
    let answer = json!({
        "share": id, "items": items, "bytes": bytes, "too_large": left_out, "regions": regions.collect::<Vec<Value>>(),
    });
    reply::json(StatusCode::OK, &answer)
}

/// May content go to a region by a share, by what the share says? The tenant's residency is another question.
///
/// # Errors
/// In one word, what says no.
pub(super) fn permits(share: &Share, region: &RegionName, now_ms: u64) -> Result<(), &'static str> {
    let reached = reaches(share, region);
    if reached == Err("damaged") {
        return reached;
    }
    if share.status != "accepted" {
        return Err("status");
    }
    reached?;
    if now_ms < share.not_before_ms {
        return Err("not-before");
    }
    if share.expires_ms != 0 && now_ms >= share.expires_ms {
        return Err("expired");
    }
    Ok(())
}

/// Does a share let content into a region at all, whatever its status?
///
/// # Errors
/// In one word, what says no.
pub(super) fn reaches(share: &Share, region: &RegionName) -> Result<(), &'static str> {
    let list = |text: &str| serde_json::from_str::<Option<BTreeSet<RegionName>>>(text).map_err(|_| "damaged");
    let (allowed, denied) = (list(&share.allowed_regions)?, list(&share.denied_regions)?);
    if denied.is_some_and(|denied| denied.contains(region)) {
        return Err("denied-region");
    }
    if allowed.is_some_and(|allowed| !allowed.contains(region)) {
        return Err("region-not-allowed");
    }
    Ok(())
}

/// Is an item what a share is about?
pub(super) fn covers(share: &Share, item: &Listed) -> bool {
    match share.scope_kind.as_str() {
        "all" => true,
        "collection" => item.name.starts_with(&share.scope_ref),
        "content_type" => {
            item.media.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(&share.scope_ref)
        }
        _ => item.name == share.scope_ref,
    }
}

/// A share by its name.
pub(super) async fn find(desk: &Desk, id: &str) -> Result<Share, Problem> {
    let mut content = desk.look().await?;
    let share = content.share(id).await?;
    content.end().await?;
    desk.still()?;
    share.ok_or_else(|| Problem::none("the share"))
}

fn shown(share: &Share) -> Result<Value, Problem> {
    let list = |text: &str| -> Result<Value, Problem> {
        Ok(serde_json::from_str(text).map_err(|_| Error::Malformed("a share"))?)
    };
    let other = |tenant: &str| if tenant.is_empty() { Value::Null } else { tenant.into() };
    let [read, update, reshare, export] = share.can;
    Ok(json!({
        "share": share.share, "source_site": share.source_site, "target_site": share.target_site,
        "scope": share.scope_kind, "scope_ref": share.scope_ref, "mode": share.mode, "direction": share.direction,
        "can_read": read, "can_update": update, "can_reshare": reshare, "can_export": export,
        "allowed_regions": list(&share.allowed_regions)?, "denied_regions": list(&share.denied_regions)?,
        "eager": share.eager, "max_bytes": share.max_bytes, "field_mask": list(&share.field_mask)?,
        "fields": list(&share.fields)?, "source_tenant": other(&share.source_tenant), "target_tenant": other(&share.target_tenant),
        "status": share.status, "not_before_ms": share.not_before_ms, "expires_ms": share.expires_ms,
        "policy_epoch": share.policy_epoch,
    }))
}

/// A word as it is written in JSON.
fn word(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(status: &str) -> Share {
        Share {
            allowed_regions: r#"["eu","us"]"#.to_owned(),
            can: [true, false, false, false],
            denied_regions: r#"["us"]"#.to_owned(),
            direction: "push".to_owned(),
            eager: false,
            expires_ms: 200,
            field_mask: "[]".to_owned(),
            fields: "null".to_owned(),
            max_bytes: 0,
            mode: "mirror".to_owned(),
            not_before_ms: 100,
            policy_epoch: 1,
            scope_kind: "collection".to_owned(),
            scope_ref: "news/".to_owned(),
            share: "s".to_owned(),
            source_site: "a".to_owned(),
            source_tenant: String::new(),
            status: status.to_owned(),
            target_site: "b".to_owned(),
            target_tenant: String::new(),
        }
    }

    #[test]
    fn deny_wins_and_times_and_status_hold() {
        let region = |name: &str| RegionName::new(name).unwrap();
        let ask = |status: &str, name: &str, now_ms| permits(&share(status), &region(name), now_ms);
        assert_eq!(ask("accepted", "eu", 150), Ok(()));
        assert_eq!(ask("accepted", "us", 150), Err("denied-region"));
        assert_eq!(ask("accepted", "ap", 150), Err("region-not-allowed"));
        assert_eq!(ask("accepted", "eu", 99), Err("not-before"));
        assert_eq!(ask("accepted", "eu", 200), Err("expired"));
        for status in ["offered", "suspended", "revoked"] {
            assert_eq!(ask(status, "eu", 150), Err("status"));
        }
        let broken = Share { denied_regions: "eu".to_owned(), ..share("accepted") };
        assert_eq!(permits(&broken, &region("eu"), 150), Err("damaged"), "in doubt nothing goes");
    }

    #[test]
    fn a_scope_covers_what_it_names() {
        let item = |name: &str, media: &str| Listed {
            at_ms: 0,
            bytes: 0,
            heads: 1,
            media: media.to_owned(),
            name: name.to_owned(),
            root: "r".to_owned(),
            version: "v".to_owned(),
        };
        let of = |kind: &str, named: &str| Share {
            scope_kind: kind.to_owned(),
            scope_ref: named.to_owned(),
            ..share("accepted")
        };
        let news = item("news/1", "text/html; charset=utf-8");
        assert!(covers(&of("collection", "news/"), &news) && !covers(&of("collection", "old/"), &news));
        assert!(
            covers(&of("content_type", "text/html"), &news) && !covers(&of("content_type", "text"), &news)
        );
        assert!(covers(&of("item", "news/1"), &news) && !covers(&of("item", "news"), &news));
        assert!(covers(&of("all", ""), &news));
    }
}
