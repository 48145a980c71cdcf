//! Changes: the log that is the audit trail, changes of many objects, files, and going back.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;

use crate::api::Api;
use crate::backend::{
    Application, Change, Edit, File, Intent, Key, Outcome, Proposal, Reversion, Verification, Wish,
};
use crate::caller::{Caller, Scope};
use crate::defaults::{FILES_MAX, PAGE_BYTES, SCAN_ENTRIES_MAX, WISHES_MAX};
use crate::extract::{Json, Names, Parameters, short};
use crate::objects::{hidden, key, may_change, may_write, message, redact, tell, visible};
use crate::page::{self, Page};
use crate::problem::Problem;
use crate::routes::{Access, Routes};

/// Entries that are read of the log at once.
const STEP: u64 = 32;

/// A change of many objects, all of it or nothing.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ChangeRequest {
    /// What is wanted, each object at most once.
    #[schema(max_items = 10_000, min_items = 1)]
    wishes: Vec<Wish>,
    /// The generation that it must follow; any when absent.
    #[serde(default)]
    generation: Option<u64>,
    /// Why.
    #[serde(default)]
    #[schema(max_length = 1024)]
    message: String,
}

/// Files whose objects are to be as they say: what `portolan apply` sends.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ApplyRequest {
    /// All files; what files said before and these do not say is gone.
    #[schema(max_items = 1_000)]
    files: Vec<File>,
    /// Leave objects alone whose files are gone.
    #[serde(default)]
    keep: bool,
    /// Why.
    #[serde(default)]
    #[schema(max_length = 1024)]
    message: String,
    /// Also take over objects that the API manages.
    #[serde(default)]
    take_over: bool,
}

/// Why someone goes back.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RevertRequest {
    /// Why.
    #[serde(default)]
    #[schema(max_length = 1024)]
    message: String,
}

#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct DryRun {
    /// Check everything and show what would change; change nothing.
    #[serde(default)]
    dry_run: bool,
}

#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Listed {
    /// Only by authors in whose name this text is.
    #[param(max_length = 200)]
    author: Option<String>,
    /// Only by this way: `api`, `apply`, `push`, `revert`, `rollout`.
    #[param(max_length = 200)]
    source: Option<String>,
    /// Only of this object, `KIND/NAME`, or of this kind.
    #[param(max_length = 401)]
    object: Option<String>,
    /// Where the page begins: `next` of the page before it.
    #[param(max_length = 1024)]
    cursor: Option<String>,
    /// How many items at most.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u16>,
}

#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct From {
    /// Where to go on: `next` of the answer before.
    #[param(max_length = 1024)]
    cursor: Option<String>,
}

pub(crate) fn add(routes: Routes) -> Routes {
    routes
        .add(Access::Read(Scope::ChangeRead), routes!(list_changes))
        .add(Access::Write(Scope::ChangeWrite), routes!(post_change))
        .add(Access::Write(Scope::ChangeWrite), routes!(apply_files))
        .add(Access::Read(Scope::ChangeRead), routes!(get_generation))
        .add(Access::Write(Scope::ChangeWrite), routes!(revert))
        .add(Access::Read(Scope::AuditRead), routes!(audit))
        .add(Access::Read(Scope::AuditRead), routes!(verify))
}

/// Lists changes, the newest first. A tenant's caller sees what concerns its own tenant.
#[utoipa::path(get, path = "/api/v1/changes", tag = "intent", params(Listed),
    responses((status = 200, description = "Changes; a page may be short though more follow", body = Page<Change>)))]
async fn list_changes(
    State(api): State<Api>,
    caller: Caller,
    Parameters(listed): Parameters<Listed>,
) -> Result<axum::Json<Page<Change>>, Problem> {
    list(&api, &caller, listed).await.map(axum::Json)
}

/// Lists the entries of the log, the newest first, as an auditor wants them: with digests.
#[utoipa::path(get, path = "/api/v1/audit", tag = "audit", params(Listed),
    responses((status = 200, description = "Entries; a page may be short though more follow", body = Page<Change>)))]
async fn audit(
    State(api): State<Api>,
    caller: Caller,
    Parameters(listed): Parameters<Listed>,
) -> Result<axum::Json<Page<Change>>, Problem> {
    list(&api, &caller, listed).await.map(axum::Json)
}

/// Walks through the log and checks that each entry names the digest of the one before it.
#[utoipa::path(get, path = "/api/v1/audit/verification", tag = "audit", params(From),
    responses((status = 200, description = "How far it is whole", body = Verification)))]
async fn verify(
    State(api): State<Api>,
    Parameters(from): Parameters<From>,
) -> Result<axum::Json<Verification>, Problem> {
    let place = page::place(from.cursor.as_deref())?;
    let from = place.as_deref().map(|place| {
        let (number, digest) = place.split_once(':').unwrap_or_default();
        let digest =
            Some(digest).filter(|digest| digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit()));
        number.parse().ok().zip(digest.map(str::to_owned))
    });
    let from = match from {
        Some(None) => return Err(Problem::invalid("`cursor` is none of this API's: begin without one")),
        Some(from) => from,
        None => None,
    };
    let mut found = api.backends().intent.verify(from).await?;
    found.next = found.next.map(|place| page::cursor(&place));
    if let Some(broken) = &found.broken {
        tracing::error!(generation = broken.generation, "the log of changes is broken: {}", broken.reason);
        let data = serde_json::json!({ "generation": broken.generation, "reason": broken.reason });
        api.events().tell("audit-broken", None, data);
    }
    Ok(axum::Json(found))
}

/// Makes one change of many objects, all of it or nothing. Checked by what a node would run before it is made.
#[utoipa::path(post, path = "/api/v1/changes", tag = "intent", params(DryRun), request_body = ChangeRequest,
    responses((status = 200, description = "What became of it", body = Outcome)))]
async fn post_change(
    State(api): State<Api>,
    caller: Caller,
    Parameters(meant): Parameters<DryRun>,
    Json(wanted): Json<ChangeRequest>,
) -> Result<axum::Json<Outcome>, Problem> {
    check_wishes(&api, &caller, &wanted.wishes)?;
    let proposal = Proposal {
        author: caller.author(),
        dry_run: meant.dry_run,
        generation: wanted.generation,
        message: message(&wanted.message)?,
        source: "api",
        tenant: caller.tenant.clone(),
        wishes: wanted.wishes,
    };
    let outcome = api.backends().intent.propose(proposal).await?;
    tell(&api, &caller, &outcome);
    Ok(axum::Json(outcome))
}

/// Makes objects be as files say, as one change. Problems name the file, the line and the column.
#[utoipa::path(post, path = "/api/v1/apply", tag = "intent", params(DryRun), request_body = ApplyRequest,
    responses((status = 200, description = "What became of it", body = Outcome)))]
async fn apply_files(
    State(api): State<Api>,
    caller: Caller,
    Parameters(meant): Parameters<DryRun>,
    Json(wanted): Json<ApplyRequest>,
) -> Result<axum::Json<Outcome>, Problem> {
    if wanted.files.len() > FILES_MAX {
        return Err(Problem::invalid(format!("send at most {FILES_MAX} files")).at("/files", "too many"));
    }
    for (place, file) in wanted.files.iter().enumerate() {
        let good =
            (1..=200).contains(&file.name.len()) && file.name.bytes().all(|byte| byte.is_ascii_graphic());
        if !good {
            let detail = "a file's name is 1 to 200 visible characters";
            return Err(Problem::invalid(detail).at(format!("/files/{place}/name"), detail));
        }
    }
    let application = Application {
        author: caller.author(),
        dry_run: meant.dry_run,
        files: wanted.files,
        keep: wanted.keep,
        message: message(&wanted.message)?,
        take_over: wanted.take_over,
    };
    let outcome = api.backends().intent.apply(application).await?;
    tell(&api, &caller, &outcome);
    Ok(axum::Json(outcome))
}

/// Shows the change that made a generation.
#[utoipa::path(get, path = "/api/v1/generations/{generation}", tag = "intent",
    params(("generation" = u64, Path, description = "Its number", minimum = 1)),
    responses((status = 200, description = "The change", body = Change)))]
async fn get_generation(
    State(api): State<Api>,
    caller: Caller,
    Names(generation): Names<u64>,
) -> Result<axum::Json<Change>, Problem> {
    let missing = || Problem::not_found(format!("generation {generation}"));
    let before = generation.checked_sub(1).filter(|_| generation <= i64::MAX as u64).ok_or_else(missing)?;
    let found = api.backends().intent.changes(before, 1).await?;
    let found = found.into_iter().find(|change| change.generation == generation);
    found.and_then(|change| shown(&caller, change)).map(axum::Json).ok_or_else(missing)
}

/// Makes a generation that says what an earlier one said. Tokens, versions of plugins and emergency switches stay as they are.
#[utoipa::path(post, path = "/api/v1/generations/{generation}/revert", tag = "intent",
    params(DryRun, ("generation" = u64, Path, description = "Which one", minimum = 1)), request_body = RevertRequest,
    responses((status = 200, description = "What became of it", body = Outcome)))]
async fn revert(
    State(api): State<Api>,
    caller: Caller,
    Names(generation): Names<u64>,
    Parameters(meant): Parameters<DryRun>,
    Json(wanted): Json<RevertRequest>,
) -> Result<axum::Json<Outcome>, Problem> {
    let reversion = Reversion {
        author: caller.author(),
        dry_run: meant.dry_run,
        generation,
        message: message(&wanted.message)?,
    };
    let outcome = api.backends().intent.revert(reversion).await?;
    tell(&api, &caller, &outcome);
    Ok(axum::Json(outcome))
}

fn check_wishes(api: &Api, caller: &Caller, wishes: &[Wish]) -> Result<(), Problem> {
    if wishes.is_empty() || wishes.len() > WISHES_MAX {
        return Err(Problem::invalid(format!("wish for 1 to {WISHES_MAX} objects"))
            .at("/wishes", "too few or too many"));
    }
    let mut seen = std::collections::HashSet::new();
    for (place, wish) in wishes.iter().enumerate() {
        let at = |problem: Problem| {
            let detail = problem.detail.clone();
            problem.at(format!("/wishes/{place}"), detail)
        };
        let key: Key = key(wish.kind.clone(), wish.name.clone()).map_err(at)?;
        may_write(&key.kind).map_err(at)?;
        if hidden(caller, &key) {
            return Err(at(Problem::not_found(format!("object {}/{}", key.kind, key.name))));
        }
        if !seen.insert((&wish.kind, &wish.name)) {
            return Err(at(Problem::invalid(format!("{}/{} is wished for twice", key.kind, key.name))));
        }
        let there = visible(api, caller, &key)?;
        may_change(caller, &key, there.as_ref(), wish.body.as_ref(), wish.take_over).map_err(at)?;
    }
    Ok(())
}

/// A page of the log: read backwards in steps, so far as one question may look.
async fn list(api: &Api, caller: &Caller, listed: Listed) -> Result<Page<Change>, Problem> {
    let limit = page::limit(listed.limit)?;
    short(&[
        ("author", &listed.author, 200),
        ("source", &listed.source, 200),
        ("object", &listed.object, 401),
    ])?;
    let intent: &dyn Intent = &*api.backends().intent;
    let newest = intent.generation()?;
    let bad = || Problem::invalid("`cursor` is none of this API's: begin without one");
    // The newest entry of the page at most.
    let mut until = match page::place(listed.cursor.as_deref())? {
        Some(place) => place.parse::<u64>().map_err(|_| bad())?.min(newest),
        None => newest,
    };
    let mut items: Vec<Change> = Vec::new();
    let (mut looked, mut bytes) = (0, 0_usize);
    while until > 0 && looked < SCAN_ENTRIES_MAX {
        let after = until.saturating_sub(STEP);
        let entries = intent.changes(after, usize::try_from(until - after).unwrap_or(usize::MAX)).await?;
        for change in entries.into_iter().rev().filter(|change| change.generation <= until) {
            if items.len() == limit || bytes > PAGE_BYTES {
                return Ok(Page { items, next: Some(page::cursor(&change.generation.to_string())) });
            }
            // By what the caller may see alone, so that filters tell nothing of what it may not.
            if let Some(change) = shown(caller, change).filter(|change| matches(&listed, change)) {
                bytes = bytes.saturating_add(serde_json::to_vec(&change).map_or(0, |text| text.len()));
                items.push(change);
            }
        }
        looked += until - after;
        until = after;
    }
    let next = (until > 0).then(|| page::cursor(&until.to_string()));
    Ok(Page { items, next })
}

fn matches(listed: &Listed, change: &Change) -> bool {
    let of = |edit: &Edit, wanted: &str| match wanted.split_once('/') {
        Some((kind, name)) => edit.kind == kind && edit.name == name,
        None => edit.kind == wanted,
    };
    listed.author.as_deref().is_none_or(|wanted| change.author.contains(wanted))
        && listed.source.as_deref().is_none_or(|wanted| change.source == wanted)
        && listed.object.as_deref().is_none_or(|wanted| change.edits.iter().any(|edit| of(edit, wanted)))
}

/// What the caller may see of a change; none when that is nothing.
fn shown(caller: &Caller, mut change: Change) -> Option<Change> {
    for edit in &mut change.edits {
        if let Some(body) = &mut edit.body {
            redact(&edit.kind, body);
        }
    }
    if caller.tenant.is_none() {
        return Some(change);
    }
    change.edits.retain(|edit| !hidden(caller, &Key { kind: edit.kind.clone(), name: edit.name.clone() }));
    if change.edits.is_empty() {
        return None;
    }
    let author = caller.shown_author(&change.author);
    if author != change.author {
        // What the operator says of its change is not meant for tenants.
        change.message = String::new();
        change.author = author;
    }
    Some(change)
}
