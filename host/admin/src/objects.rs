//! Objects of intent one by one: `/objects`.

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, StatusCode};
use portolan_core::ids::TenantName;
use serde::Deserialize;
use serde_json::Value;
use utoipa::IntoParams;
use utoipa_axum::routes;

use crate::api::Api;
use crate::backend::{Body, Key, Object, ObjectFilter, Outcome, Proposal, Wish};
use crate::caller::{Caller, Scope};
use crate::extract::{Json, MergePatch, Names, Parameters, short};
use crate::page::{self, Page};
use crate::problem::{Code, Problem};
use crate::revision;
use crate::routes::{Access, Routes};
use crate::token::TOKEN_KIND;

/// Bytes of a kind or a name, as the store takes them.
const PART_BYTES_MAX: usize = 200;
/// Kinds that have routes of their own, which know what they mean; here they are only read.
const OWNED: [(&str, &str); 8] = [
    ("claim", "/api/v1/claims"),
    ("disable", "`portolan policy disable` and `enable`"),
    ("erasure", "`portolan tenant erase`"),
    ("freeze", "`portolan policy freeze` and `unfreeze`"),
    ("rollout", "/api/v1/rollouts"),
    ("standing", "`portolan tenant suspend` and `resume`"),
    (TOKEN_KIND, "/api/v1/tokens"),
    ("version", "/api/v1/plugins"),
];
/// What a tenant's caller may change of its own object. All else, limits and grants above all, is the operator's.
const TENANT_MAY: [&str; 3] = ["/policy/config", "/policy/use", "/policy/version"];
/// The kind of tenants' objects.
const TENANT_KIND: &str = "tenant";

#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Listed {
    /// Only of this kind.
    #[param(max_length = 200)]
    kind: Option<String>,
    /// Only managed by `api`, or by `file`.
    #[param(pattern = "^(api|file)$")]
    managed_by: Option<String>,
    /// Where the page begins: `next` of the page before it.
    #[param(max_length = 1024)]
    cursor: Option<String>,
    /// How many items at most.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u16>,
}

/// How a change is meant.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct Meant {
    /// Check everything and show what would change; change nothing.
    #[serde(default)]
    pub(crate) dry_run: bool,
    /// Take the object over from the file that manages it; the file's next application will then be refused it.
    #[serde(default)]
    pub(crate) detach: bool,
    /// Why, for the log of changes.
    #[serde(default)]
    #[param(max_length = 1024)]
    pub(crate) message: String,
}

pub(crate) fn add(routes: Routes) -> Routes {
    routes
        .add(Access::Read(Scope::ObjectRead), routes!(list_objects))
        .add(Access::Read(Scope::ObjectRead), routes!(get_object))
        .add(Access::Write(Scope::ObjectWrite), routes!(put_object))
        .add(Access::Write(Scope::ObjectWrite), routes!(patch_object))
        .add(Access::Write(Scope::ObjectWrite), routes!(delete_object))
}

/// Lists objects, by kind and name.
#[utoipa::path(get, path = "/api/v1/objects", tag = "intent", params(Listed),
    responses((status = 200, description = "Objects", body = Page<Object>)))]
async fn list_objects(
    State(api): State<Api>,
    caller: Caller,
    Parameters(listed): Parameters<Listed>,
) -> Result<axum::Json<Page<Object>>, Problem> {
    let limit = page::limit(listed.limit)?;
    short(&[("kind", &listed.kind, PART_BYTES_MAX)])?;
    if listed.managed_by.as_deref().is_some_and(|by| !matches!(by, "api" | "file")) {
        return Err(Problem::invalid("`managed_by` is `api` or `file`"));
    }
    let after = page::place(listed.cursor.as_deref())?;
    let after = after.as_deref().map(|place| {
        let (kind, name) = place.split_once('/').unwrap_or((place, ""));
        Key { kind: kind.to_owned(), name: name.to_owned() }
    });
    let mut filter = ObjectFilter { kind: listed.kind, name: None, managed_by: listed.managed_by };
    if let Some(tenant) = &caller.tenant {
        if filter.kind.as_deref().is_some_and(|kind| kind != TENANT_KIND) {
            return Ok(axum::Json(Page { items: Vec::new(), next: None }));
        }
        filter.kind = Some(TENANT_KIND.to_owned());
        filter.name = Some(tenant.to_string());
    }
    let mut items = api.backends().intent.objects(&filter, after.as_ref(), limit + 1)?;
    items.iter_mut().for_each(|object| redact(&object.kind, &mut object.body));
    Ok(axum::Json(Page::of(items, limit, |object| format!("{}/{}", object.kind, object.name))))
}

/// Shows an object, with its revision as the ETag.
#[utoipa::path(get, path = "/api/v1/objects/{kind}/{name}", tag = "intent",
    params(("kind" = String, Path, description = "Its kind", pattern = "^[!-.0-~]{1,200}$"),
        ("name" = String, Path, description = "Its name", pattern = "^[!-.0-~]{1,200}$")),
    responses((status = 200, description = "The object", body = Object,
        headers(("ETag" = String, description = "Its revision")))))]
async fn get_object(
    State(api): State<Api>,
    caller: Caller,
    Names((kind, name)): Names<(String, String)>,
) -> Result<Response, Problem> {
    let key = key(kind, name)?;
    let found = visible(&api, &caller, &key)?;
    let mut object = found.ok_or_else(|| Problem::not_found(format!("object {}/{}", key.kind, key.name)))?;
    redact(&object.kind, &mut object.body);
    Ok((revision::header(object.revision), axum::Json(object)).into_response())
}

/// Makes an object say this, new or instead of what it says. Checked by what a node would run before it is made.
#[utoipa::path(put, path = "/api/v1/objects/{kind}/{name}", tag = "intent", request_body = Object,
    params(Meant, ("kind" = String, Path, description = "Its kind", pattern = "^[!-.0-~]{1,200}$"),
        ("name" = String, Path, description = "Its name", pattern = "^[!-.0-~]{1,200}$"),
        ("If-Match" = Option<String>, Header, description = "The ETag of what is there"),
        ("If-None-Match" = Option<String>, Header, description = "`*` for a new object")),
    responses((status = 200, description = "What became of it", body = Outcome)))]
async fn put_object(
    State(api): State<Api>,
    caller: Caller,
    Names((kind, name)): Names<(String, String)>,
    Parameters(meant): Parameters<Meant>,
    headers: HeaderMap,
    Json(body): Json<Body>,
) -> Result<Response, Problem> {
    let key = key(kind, name)?;
    change(&api, &caller, key, &meant, &headers, |_| Ok(Some(body))).await
}

/// Changes parts of an object, by a merge patch (RFC 7396).
#[utoipa::path(patch, path = "/api/v1/objects/{kind}/{name}", tag = "intent",
    request_body(content = Object, content_type = "application/merge-patch+json"),
    params(Meant, ("kind" = String, Path, description = "Its kind", pattern = "^[!-.0-~]{1,200}$"),
        ("name" = String, Path, description = "Its name", pattern = "^[!-.0-~]{1,200}$"),
        ("If-Match" = String, Header, description = "The ETag of what is there")),
    responses((status = 200, description = "What became of it", body = Outcome)))]
async fn patch_object(
    State(api): State<Api>,
    caller: Caller,
    Names((kind, name)): Names<(String, String)>,
    Parameters(meant): Parameters<Meant>,
    headers: HeaderMap,
    MergePatch(patch): MergePatch,
) -> Result<Response, Problem> {
    let key = key(kind, name)?;
    change(&api, &caller, key, &meant, &headers, |there| {
        let there =
            there.ok_or_else(|| Problem::new(Code::NotFound, "there is nothing to patch: PUT it first"))?;
        let mut body = there.body.clone();
        merge(&mut body, patch);
        Ok(Some(body))
    })
    .await
}

/// Takes an object away.
#[utoipa::path(delete, path = "/api/v1/objects/{kind}/{name}", tag = "intent",
    params(Meant, ("kind" = String, Path, description = "Its kind", pattern = "^[!-.0-~]{1,200}$"),
        ("name" = String, Path, description = "Its name", pattern = "^[!-.0-~]{1,200}$"),
        ("If-Match" = String, Header, description = "The ETag of what is there")),
    responses((status = 200, description = "What became of it", body = Outcome)))]
async fn delete_object(
    State(api): State<Api>,
    caller: Caller,
    Names((kind, name)): Names<(String, String)>,
    Parameters(meant): Parameters<Meant>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let key = key(kind, name)?;
    change(&api, &caller, key, &meant, &headers, |_| Ok(None)).await
}

async fn change(
    api: &Api,
    caller: &Caller,
    key: Key,
    meant: &Meant,
    headers: &HeaderMap,
    make: impl FnOnce(Option<&Object>) -> Result<Option<Body>, Problem> + Send,
) -> Result<Response, Problem> {
    let seen = revision::seen(headers)?;
    may_write(&key.kind)?;
    if hidden(caller, &key) {
        // In the words of an object that is not there.
        return Err(Problem::not_found(format!("object {}/{}", key.kind, key.name)));
    }
    let there = visible(api, caller, &key)?;
    let body = make(there.as_ref())?;
    if body.is_none() && there.is_none() {
        return Err(Problem::not_found(format!("object {}/{}", key.kind, key.name)));
    }
    let if_revision = Some(seen.check(there.as_ref().map(|object| object.revision))?);
    may_change(caller, &key, there.as_ref(), body.as_ref(), meant.detach)?;
    let wish =
        Wish { kind: key.kind.clone(), name: key.name.clone(), body, if_revision, take_over: meant.detach };
    let proposal = Proposal {
        author: caller.author(),
        dry_run: meant.dry_run,
        generation: None,
        message: message(&meant.message)?,
        source: "api",
        tenant: caller.tenant.clone(),
        wishes: vec![wish],
    };
    let outcome = api.backends().intent.propose(proposal).await?;
    tell(api, caller, &outcome);
    let object = visible(api, caller, &key)?.filter(|_| !outcome.dry_run);
    let tag = object.map(|object| revision::header(object.revision));
    Ok(match tag {
        Some(tag) => (StatusCode::OK, tag, axum::Json(outcome)).into_response(),
        None => (StatusCode::OK, axum::Json(outcome)).into_response(),
    })
}

/// Tells of a change that was made.
pub(crate) fn tell(api: &Api, caller: &Caller, outcome: &Outcome) {
    if outcome.changed {
        let objects: Vec<String> =
            outcome.differences.iter().take(20).map(|one| format!("{}/{}", one.kind, one.name)).collect();
        let data = serde_json::json!({ "generation": outcome.generation, "by": caller.author(), "objects": objects });
        api.events().tell("change", caller.tenant.clone(), data);
    }
}

/// A key that the store takes.
pub(crate) fn key(kind: String, name: String) -> Result<Key, Problem> {
    let good = |part: &str| {
        (1..=PART_BYTES_MAX).contains(&part.len())
            && part.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/')
    };
    if good(&kind) && good(&name) {
        return Ok(Key { kind, name });
    }
    Err(Problem::invalid("kind and name of an object are 1 to 200 visible characters without `/`"))
}

/// A message that the log takes.
pub(crate) fn message(text: &str) -> Result<String, Problem> {
    if text.len() > crate::defaults::MESSAGE_BYTES_MAX || text.chars().any(char::is_control) {
        return Err(Problem::invalid("`message` is to be a line of at most 1024 bytes"));
    }
    Ok(text.to_owned())
}

/// Objects of some kinds change by routes of their own.
pub(crate) fn may_write(kind: &str) -> Result<(), Problem> {
    match OWNED.iter().find(|(owned, _)| *owned == kind) {
        None => Ok(()),
        Some((_, by)) => Err(Problem::new(
            Code::ManagedElsewhere,
            format!("objects of kind `{kind}` are changed by {by}, which knows what they mean"),
        )),
    }
}

/// May the caller make this of what is there? A tenant's may change a few parts of its own object.
pub(crate) fn may_change(
    caller: &Caller,
    key: &Key,
    there: Option<&Object>,
    body: Option<&Body>,
    take_over: bool,
) -> Result<(), Problem> {
    let Some(tenant) = &caller.tenant else { return Ok(()) };
    let forbidden = |detail: &str| Problem::new(Code::Forbidden, detail);
    let (Some(there), Some(body)) = (there.filter(|_| is_of(key, tenant)), body) else {
        return Err(forbidden("only the operator makes and removes tenants"));
    };
    if take_over {
        return Err(
            forbidden("only the operator takes an object over from a file").at("/detach", "not yours")
        );
    }
    let (old, new) = (Value::Object(there.body.clone()), Value::Object(body.clone()));
    let mut others = Vec::new();
    foreign_parts("", Some(&old), Some(&new), &mut others);
    if others.is_empty() {
        return Ok(());
    }
    let detail =
        format!("you may change {} of your tenant; all else is the operator's", TENANT_MAY.join(", "));
    Err(others.into_iter().fold(forbidden(&detail), |problem, pointer| problem.at(pointer, "the operator's")))
}

/// Is it out of the caller's sight, whether it is there or not?
pub(crate) fn hidden(caller: &Caller, key: &Key) -> bool {
    caller.tenant.as_ref().is_some_and(|tenant| !is_of(key, tenant))
}

/// An object, if the caller may see it.
pub(crate) fn visible(api: &Api, caller: &Caller, key: &Key) -> Result<Option<Object>, Problem> {
    if hidden(caller, key) { Ok(None) } else { api.backends().intent.object(key) }
}

/// Takes out what nobody is shown.
pub(crate) fn redact(kind: &str, body: &mut Body) {
    if kind == TOKEN_KIND {
        body.remove("hash");
    }
}

fn is_of(key: &Key, tenant: &TenantName) -> bool {
    key.kind == TENANT_KIND && key.name == tenant.as_str()
}

/// Pointers to parts that differ and are not the tenant's.
fn foreign_parts(at: &str, old: Option<&Value>, new: Option<&Value>, found: &mut Vec<String>) {
    if old == new || TENANT_MAY.contains(&at) {
        return;
    }
    let above = TENANT_MAY.iter().any(|part| part.strip_prefix(at).is_some_and(|rest| rest.starts_with('/')));
    let table = |value: Option<&Value>| match value {
        None => Some(Body::new()),
        Some(Value::Object(table)) => Some(table.clone()),
        Some(_) => None,
    };
    match (above, table(old), table(new)) {
        (true, Some(old), Some(new)) => {
            let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for name in names {
                let part = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
                foreign_parts(&part, old.get(name), new.get(name), found);
            }
        }
        _ => found.push(at.to_owned()),
    }
}

/// RFC 7396.
fn merge(target: &mut Body, patch: Body) {
    for (name, value) in patch {
        match value {
            Value::Null => {
                target.remove(&name);
            }
            Value::Object(patch) => {
                let below = target.entry(name).or_insert_with(|| Value::Object(Body::new()));
                if !below.is_object() {
                    *below = Value::Object(Body::new());
                }
                if let Value::Object(below) = below {
                    merge(below, patch);
                }
            }
            other => {
                target.insert(name, other);
            }
        }
    }
}
