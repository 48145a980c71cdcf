//! The target's side of a share between two tenants. What comes is cut, named and sealed anew with the target's own secrets: between tenants no chunk is
//! found again, and no content is the base of another.
//!
//! The source's row decides. The target has a copy of it with its own consent, and asks the region that writes the source's shard for its *word*: in
//! the same node at every read, elsewhere when the last one is some seconds old. A word that is older than [`SHARE_LEASE`] lets nothing be read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use http::{Response, StatusCode};
use portolan_changelog::content::Share;
use portolan_core::ids::TenantName;
use portolan_core::time::Moment;
use portolan_foundation::clock;
use portolan_foundation::endpoint::Body;
use serde_json::json;

use super::desk::{Desk, Shared};
use super::follow::{self, turn};
use super::intake::{Intake, Received};
use super::path::{check_item, known_site, parameter};
use super::problem::Problem;
use super::reply::{self, check_media};
use super::shares::{self, permits};
use super::sync::{self, Came, Coming, Ran, Step};
use super::vault::Vault;
use super::{give, lend, mirrors};
use crate::Error;
use crate::defaults::{SHARE_LEASE, UPLOAD_BYTES_MAX, WORD_FRESH, WORD_RETRY, WORD_TIMEOUT, WORDS_MAX};
use crate::wire::{Answer, Lent, LentItem, Question, Wish};

/// What sources elsewhere said last of shares, by target and share.
#[derive(Debug, Default)]
pub(super) struct Words(Mutex<BTreeMap<(TenantName, String), Heard>>);

#[derive(Clone, Debug)]
struct Heard {
    /// When it was asked for in vain, since the last word.
    failed: Option<Moment>,
    /// When it was asked for, and what was said: nothing of a share that is not there.
    word: Option<(Moment, Option<Share>)>,
}

impl Words {
    fn known(&self, name: &(TenantName, String)) -> Option<Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn put(&self, name: (TenantName, String), heard: Heard) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= WORDS_MAX && !all.contains_key(&name) {
            all.clear();
        }
        all.insert(name, heard);
    }
}

/// A share as its target asks for it.
struct Source<'a> {
    desk: &'a Desk,
    share: &'a str,
    tenant: TenantName,
}

impl<'a> Source<'a> {
    fn of(desk: &'a Desk, share: &'a Share) -> Result<Self, Problem> {
        let tenant = TenantName::new(&share.source_tenant).map_err(|_| Error::Corrupt("a share"))?;
        Ok(Self { desk, share: &share.share, tenant })
    }

    /// Is the source's shard written by this node?
    fn is_here(&self) -> bool {
        let homes = &self.desk.shared.homes;
        homes.placed(&self.tenant).is_some_and(|placed| homes.leased(&placed.shard).is_some())
    }

    /// Asks whoever writes the source's shard. Of a tenant that is nowhere nothing is known, neither that it is there nor that it is not.
    async fn ask(&self, wish: Wish) -> Result<Answer, Problem> {
        let shared = &self.desk.shared;
        let away = || Problem::busy("the share's source does not answer now: try again");
        let placed = shared.homes.placed(&self.tenant).ok_or_else(away)?;
        let lent = Lent {
            shard: placed.shard.clone(),
            source: self.tenant.clone(),
            target: self.desk.tenant.clone(),
            share: self.share.to_owned(),
        };
        let question = Question::Lent { lent, wish };
        if self.is_here() {
            return Box::pin(give::give(shared, &shared.local, question)).await;
        }
        Box::pin(follow::ask(shared, &placed.shard, &placed.primary, &question)).await
    }

    /// What the source says now; nothing of a share that it does not have.
    async fn word(&self) -> Result<Option<Share>, Problem> {
        match self.ask(Wish::Word).await {
            Ok(Answer::Share(share)) => Ok(Some(*share)),
            Ok(_) => Err(turn()),
            Err(problem) if problem.status == StatusCode::NOT_FOUND => Ok(None),
            Err(problem) => Err(problem),
        }
    }

    /// What the source said last, if that counts still.
    async fn last_word(&self, now: Moment) -> Result<Option<Share>, Problem> {
        if self.is_here() {
            return self.word().await;
        }
        let words = &self.desk.shared.words;
        let name = (self.desk.tenant.clone(), self.share.to_owned());
        let known = words.known(&name);
        let mut word = known.as_ref().and_then(|heard| heard.word.clone());
        let is_fresh = word.as_ref().is_some_and(|(at, _)| now.since(*at) < WORD_FRESH);
        let is_tried = known.as_ref().and_then(|heard| heard.failed);
        let is_tried = is_tried.is_some_and(|at| now.since(at) < WORD_RETRY);
        if !is_fresh && !is_tried {
            let said = tokio::time::timeout(WORD_TIMEOUT, self.word()).await;
            let failed = if let Ok(Ok(said)) = said {
                word = Some((now, said));
                None
            } else {
                Some(now)
            };
            words.put(name, Heard { failed, word: word.clone() });
        }
        match word {
            Some((at, said)) if now.since(at) <= SHARE_LEASE => Ok(said),
            _ => {
                let detail = "the share's source has not been heard for a while: try again";
                Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "share-lease", detail))
            }
        }
    }
}

/// May what came by a share be read here and now, by its source's word?
pub(super) async fn holds(desk: &Desk, share: &Share, now: Moment) -> Result<(), Problem> {
    let word = Source::of(desk, share)?.last_word(now).await?;
    let may = match &word {
        Some(word) => permits(word, &desk.shared.local, clock::unix_ms()),
        None => Err("status"),
    };
    may.map_err(|why| mirrors::refused(desk, share, why))
}

/// Accepts what another tenant offered, into a site of this one. It names the share, which nobody guesses: there is no list of what others offer.
pub(super) async fn accept(
    desk: &Desk,
    id: &str,
    from: &str,
    query: Option<&str>,
) -> Result<Response<Body>, Problem> {
    let tenant = TenantName::new(from).map_err(|error| Problem::bad(format!("`from`: {error}")))?;
    if tenant == desk.tenant {
        return Err(Problem::bad("the tenant's own shares are accepted without `from`"));
    }
    let site = parameter(query, "site")?.unwrap_or_default();
    let target_site = known_site(&site)?;
    let mut content = desk.look().await?;
    let own = content.share(id).await?;
    content.end().await?;
    if own.is_some() {
        return Box::pin(shares::turn(desk, id, "accepted")).await;
    }
    if desk.shared.homes.placed(&tenant).is_none() {
        return Err(Problem::none("the share"));
    }
    let source = Source { desk, share: id, tenant };
    let Answer::Share(word) = source.ask(Wish::Accept).await? else { return Err(turn()) };
    let share = Share {
        policy_epoch: 1,
        source_tenant: source.tenant.to_string(),
        status: "accepted".to_owned(),
        target_site,
        target_tenant: String::new(),
        ..*word
    };
    if share.share != id {
        return Err(turn());
    }
    desk.make_vault().await?;
    let mut content = desk.write().await?;
    if !content.put_share(&share).await? {
        content.end().await?;
        let detail = "a share of these sites with this scope is there: revoke it first";
        return Err(Problem::conflict("share-exists", detail));
    }
    content.note("share", shares::place(&share), &share.status, clock::unix_ms()).await?;
    desk.commit(content).await?;
    shares::one(desk, id).await
}

/// Tells the source that its share is over. It need not hear it: nothing goes that is not fetched.
pub(super) async fn tell_end(desk: &Desk, share: &Share) {
    let told = match Source::of(desk, share) {
        Ok(source) => source.ask(Wish::End).await.map(drop),
        Err(problem) => Err(problem),
    };
    if let Err(problem) = told {
        tracing::debug!(share = %share.share, "the source of a share was not told its end: {}", problem.detail);
    }
}

/// Where a tenant's requests are answered, if this node writes its shard.
pub(super) fn here(shared: &Arc<Shared>, tenant: &str) -> Option<Desk> {
    let tenant = TenantName::new(tenant).ok()?;
    let placed = shared.homes.placed(&tenant)?;
    let leased = shared.homes.leased(&placed.shard)?;
    Some(Desk::new(Arc::clone(shared), tenant, placed.shard, leased))
}

/// The source has changed a share: what a target has of one that is over goes at once where that is written here, and at its next look elsewhere.
pub(super) async fn told(desk: &Desk, share: &Share, status: &str) {
    if status != "revoked" {
        return;
    }
    let Some(desk) = here(&desk.shared, &share.target_tenant) else { return };
    let ended = Box::pin(shares::turned(&desk, &share.share, "revoked")).await;
    if let Err(problem) = ended
        && problem.status != StatusCode::NOT_FOUND
    {
        tracing::info!(share = %share.share, "what a share gave is purged a little later: {}", problem.detail);
    }
}

/// Has a share's target fetch, because its source says so. What came of it is the target's to know.
pub(super) async fn pushed(desk: &Desk, share: &Share) -> Result<Response<Body>, Problem> {
    if share.direction == "pull" {
        return Err(Problem::forbidden("the share's direction is `pull`: its target fetches it"));
    }
    let Some(target) = here(&desk.shared, &share.target_tenant) else {
        let detail = "the share's target is written elsewhere, and fetches what is shared itself";
        return Err(Problem::conflict("fetched-elsewhere", detail));
    };
    if let Err(problem) = Box::pin(tend(&target, &share.share, true)).await {
        tracing::debug!(share = %share.share, "a share was not pushed: {}", problem.detail);
    }
    reply::json(StatusCode::OK, &json!({ "share": share.share }))
}

/// Fetches what is shared, because its target says so.
pub(super) async fn pulled(desk: &Desk, share: &Share) -> Result<Response<Body>, Problem> {
    if share.direction == "push" {
        return Err(Problem::forbidden("the share's direction is `push`: its source sends it"));
    }
    if let Err(problem) = may_come(desk, share) {
        sync::refused(desk, share).await?;
        return Err(problem);
    }
    Box::pin(run(desk, share)).await?.answer(share)
}

/// What would come by a share.
pub(super) async fn preview(desk: &Desk, share: &Share) -> Result<Response<Body>, Problem> {
    let (mut items, mut bytes, mut after) = (0_u64, 0_u64, Vec::new());
    loop {
        let (page, next) = Source::of(desk, share)?.items(after).await?;
        items += page.len() as u64;
        bytes += page.iter().map(|item| item.bytes).sum::<u64>();
        match next {
            Some(next) => after = next,
            None => break,
        }
    }
    reply::json(StatusCode::OK, &json!({ "share": share.share, "items": items, "bytes": bytes }))
}

/// Looks after a share without being asked: one that its source has ended goes, and what is new comes when it is `wanted`.
pub(super) async fn tend(desk: &Desk, id: &str, wanted: bool) -> Result<(), Problem> {
    let share = shares::find(desk, id).await?;
    let word = Source::of(desk, &share)?.word().await?;
    let now_ms = clock::unix_ms();
    let is_over = word
        .as_ref()
        .is_none_or(|word| word.status == "revoked" || (word.expires_ms != 0 && now_ms >= word.expires_ms));
    if is_over {
        return Box::pin(shares::turned(desk, id, "revoked")).await.map(drop);
    }
    let may = word.is_some_and(|word| permits(&word, &desk.shared.local, now_ms).is_ok());
    if wanted && may && may_come(desk, &share).is_ok() {
        Box::pin(run(desk, &share)).await?;
    }
    Ok(())
}

/// May content come to the target now, by what it knows itself? Its source has its own say with each answer.
fn may_come(desk: &Desk, share: &Share) -> Result<(), Problem> {
    let source = Source::of(desk, share)?;
    let (regions, now_ms) = (desk.shared.homes.keepers(&desk.shard), clock::unix_ms());
    lend::admits(desk, &source.tenant, &regions, |region| permits(share, region, now_ms))
}

/// Brings the target up to its source.
async fn run(desk: &Desk, share: &Share) -> Result<Ran, Problem> {
    let source = Source::of(desk, share)?;
    let place = desk.intake()?;
    let (mut ran, mut seen, mut after) = (Ran::default(), BTreeSet::new(), Vec::new());
    loop {
        let (items, next) = source.items(after).await?;
        for item in &items {
            seen.insert(item.item.to_string());
            ran.count(Box::pin(source.follow(share, item)).await?);
        }
        match next {
            Some(next) => after = next,
            None => break,
        }
    }
    if share.mode == "mirror" {
        ran.deleted = Box::pin(mirrors::bury(desk, share, &seen)).await?;
    }
    drop(place);
    Ok(ran)
}

impl Source<'_> {
    async fn items(&self, after: Vec<u8>) -> Result<(Vec<LentItem>, Option<Vec<u8>>), Problem> {
        match self.ask(Wish::Items { after }).await? {
            Answer::Items { items, next } => Ok((items, next)),
            _ => Err(turn()),
        }
    }

    async fn follow(&self, share: &Share, item: &LentItem) -> Result<Came, Problem> {
        let coming = Coming {
            item: item.item.to_string(),
            media: check_media(&item.media)?,
            name: check_item(item.name.clone())?,
            version: item.version.clone(),
        };
        let mut content = self.desk.look().await?;
        let step = coming.step(&mut content, share).await;
        content.end().await?;
        let mapping = match step? {
            Step::Come(mapping) => mapping,
            Step::Stay(came) => return Ok(came),
        };
        let vault = self.desk.make_vault().await?;
        match Box::pin(self.fetch(&vault, item)).await {
            Ok(received) => coming.take(self.desk, &vault, share, mapping, &received).await,
            // It has changed since it was listed, or cannot be masked: what it is then comes with another run.
            Err(problem) if problem.status == StatusCode::NOT_FOUND => Ok(Came::Refused),
            Err(problem) => Err(problem),
        }
    }

    async fn fetch(&self, vault: &Arc<Vault>, item: &LentItem) -> Result<Received, Problem> {
        let mut intake = Intake::new(self.desk, vault);
        loop {
            let at = intake.bytes();
            let wish = Wish::Bytes { name: item.name.clone(), version: item.version.clone(), at };
            let Answer::Bytes { total, bytes } = self.ask(wish).await? else { return Err(turn()) };
            let after = at + bytes.len() as u64;
            if total > UPLOAD_BYTES_MAX || after > total || (bytes.is_empty() && after < total) {
                return Err(turn());
            }
            intake.push(&bytes).await?;
            if after == total {
                return intake.finish().await;
            }
        }
    }
}
