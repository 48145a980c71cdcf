//! The life of a tenant: made, suspended, let go on. `/tenants`.

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use portolan_core::ids::{RegionName, ResidencyName, ShardName, TenantId, TenantName};
use portolan_foundation::clock;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::routes;

use crate::api::Api;
use crate::backend::{Body, Intent, Key, Outcome, Proposal, Wish};
use crate::caller::{Caller, Scope};
use crate::claims::{self, Claim, ClaimRequest};
use crate::defaults::CHANGE_TRIES;
use crate::extract::{Json, Names, Parameters};
use crate::objects::{self, Meant};
use crate::problem::{Code, Problem};
use crate::routes::{Access, Routes};

/// The kind of tenants' objects.
pub(crate) const TENANT_KIND: &str = "tenant";
/// The kind of objects that say where a tenant is.
const PLACE_KIND: &str = "place";
/// The kind of objects that say that a tenant is not served.
const STANDING_KIND: &str = "standing";

/// A tenant that is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TenantRequest {
    /// What it is called; its number when absent.
    #[schema(max_length = 63)]
    name: Option<String>,
    /// The region that it works in, for the rules of placement.
    location: Option<String>,
    /// Its residency class.
    residency: Option<String>,
    /// The shard that it is placed on, whatever the rules say.
    shard: Option<String>,
    /// What is its alone.
    #[serde(default)]
    #[schema(max_items = 100)]
    claims: Vec<ClaimRequest>,
}

/// A tenant that is there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
struct TenantMade {
    /// Its number: a UUID of version 7, and never another's.
    id: String,
    /// What it is called.
    #[schema(value_type = String)]
    name: TenantName,
    /// The generation that has it.
    generation: u64,
    /// Was it made now? Otherwise it was there, as it is wanted.
    changed: bool,
}

pub(crate) fn add(routes: Routes) -> Routes {
    routes
        .add(Access::Write(Scope::ChangeWrite), routes!(create_tenant))
        .add(Access::Write(Scope::ChangeWrite), routes!(suspend_tenant))
        .add(Access::Write(Scope::ChangeWrite), routes!(resume_tenant))
}

/// Makes a tenant, with its place and its claims, all or nothing. Repeated, it changes nothing.
#[utoipa::path(post, path = "/api/v1/tenants", tag = "tenants", request_body = TenantRequest, params(Meant),
    responses((status = 201, description = "It is made", body = TenantMade),
        (status = 200, description = "It is there, as it is wanted", body = TenantMade)))]
async fn create_tenant(
    State(api): State<Api>,
    caller: Caller,
    Parameters(meant): Parameters<Meant>,
    Json(wanted): Json<TenantRequest>,
) -> Result<Response, Problem> {
    let drawn = draw()?;
    let name = checked("name", wanted.name.as_deref(), TenantName::new)?;
    let name = name.map_or_else(|| TenantName::new(&drawn).map_err(Problem::internal), Ok)?;
    checked("location", wanted.location.as_deref(), RegionName::new)?;
    checked("residency", wanted.residency.as_deref(), ResidencyName::new)?;
    checked("shard", wanted.shard.as_deref(), ShardName::new)?;
    let claims = wanted.claims.iter().map(|claim| Claim::new(&claim.kind, &claim.value));
    let claims = claims.collect::<Result<Vec<_>, _>>()?;
    let made = |intent: &dyn Intent| make(intent, &name, &drawn, &wanted, &claims);
    let outcome = change(&api, &caller, &meant, made).await?;
    let there = api.backends().intent.object(&key(TENANT_KIND, name.as_str()))?;
    let id = there.and_then(|object| object.body.get("id")?.as_str().map(str::to_owned)).unwrap_or(drawn);
    let made = TenantMade { id, name, generation: outcome.generation, changed: outcome.changed };
    let status = if made.changed { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, axum::Json(made)).into_response())
}

/// What makes a tenant as it is wanted; nothing when it is so already.
fn make(
    intent: &dyn Intent,
    name: &TenantName,
    id: &str,
    wanted: &TenantRequest,
    claims: &[Claim],
) -> Result<Vec<Wish>, Problem> {
    not_erased(intent, name)?;
    let (own, place) = (key(TENANT_KIND, name.as_str()), key(PLACE_KIND, name.as_str()));
    let mut wishes = claims::wishes(intent, name, claims)?;
    let there = intent.object(&own)?;
    let mut body = there.as_ref().map_or_else(Body::new, |object| object.body.clone());
    for (part, value) in [("location", &wanted.location), ("residency", &wanted.residency)] {
        let value = value.as_ref().map(|text| Value::from(text.as_str()));
        match (&there, body.get(part).cloned()) {
            (Some(_), old) if old != value => return Err(differs(name, part)),
            _ => body.extend(value.map(|value| (part.to_owned(), value))),
        }
    }
    if !body.contains_key("id") {
        body.insert("id".to_owned(), id.into());
        wishes.push(wish(&own, Some(body), there.as_ref().map_or(0, |object| object.revision)));
    }
    if let Some(shard) = &wanted.shard {
        match intent.object(&place)? {
            Some(place) if place.body.get("shard").and_then(Value::as_str) == Some(shard) => {}
            Some(_) => return Err(differs(name, "shard")),
            // A tenant that was there may have rows where the rules say, and they would not be found.
            None if there.is_some() => return Err(differs(name, "shard")),
            None => wishes.push(wish(&place, table(json!({ "placement": 1, "shard": shard })), 0)),
        }
    }
    Ok(wishes)
}

fn differs(name: &TenantName, part: &str) -> Problem {
    let detail = format!("tenant `{name}` is there with another {part}: nothing was changed");
    Problem::new(Code::Conflict, detail).at(format!("/{part}"), "not as it is")
}

/// Suspends a tenant: every node refuses its requests and lets its policy rest. What it has stays.
#[utoipa::path(put, path = "/api/v1/tenants/{tenant}/suspension", tag = "tenants", params(Meant, ("tenant" = String, Path)),
    responses((status = 200, description = "It is suspended", body = Outcome)))]
async fn suspend_tenant(
    State(api): State<Api>,
    caller: Caller,
    Names(tenant): Names<String>,
    Parameters(meant): Parameters<Meant>,
) -> Result<axum::Json<Outcome>, Problem> {
    let tenant = own(&caller, &tenant)?;
    let standing = key(STANDING_KIND, tenant.as_str());
    let outcome = change(&api, &caller, &meant, |intent| {
        not_erased(intent, &tenant)?;
        if intent.object(&standing)?.is_some() {
            return Ok(Vec::new());
        }
        let body = json!({ "is": "suspended", "since_ms": clock::unix_ms() });
        Ok(vec![wish(&standing, table(body), 0)])
    });
    outcome.await.map(axum::Json)
}

/// Serves a suspended tenant again.
#[utoipa::path(delete, path = "/api/v1/tenants/{tenant}/suspension", tag = "tenants", params(Meant, ("tenant" = String, Path)),
    responses((status = 200, description = "It is served", body = Outcome)))]
async fn resume_tenant(
    State(api): State<Api>,
    caller: Caller,
    Names(tenant): Names<String>,
    Parameters(meant): Parameters<Meant>,
) -> Result<axum::Json<Outcome>, Problem> {
    let tenant = own(&caller, &tenant)?;
    let standing = key(STANDING_KIND, tenant.as_str());
    let outcome = change(&api, &caller, &meant, |intent| {
        not_erased(intent, &tenant)?;
        let there = intent.object(&standing)?;
        Ok(there.map(|object| wish(&standing, None, object.revision)).into_iter().collect())
    });
    outcome.await.map(axum::Json)
}

/// Makes a change of what `make` wishes for what it sees, and looks again when another change came between. Nothing wished is
/// nothing changed.
pub(crate) async fn change(
    api: &Api,
    caller: &Caller,
    meant: &Meant,
    make: impl Fn(&dyn Intent) -> Result<Vec<Wish>, Problem> + Send + Sync,
) -> Result<Outcome, Problem> {
    let intent = api.backends().intent.as_ref();
    let message = objects::message(&meant.message)?;
    for _ in 0..CHANGE_TRIES {
        // Read first: what is seen after it may be newer, and is then refused.
        let generation = intent.generation()?;
        let wishes = make(intent)?;
        if wishes.is_empty() {
            let differences = Vec::new();
            return Ok(Outcome {
                generation,
                changed: false,
                dry_run: meant.dry_run,
                differences,
                undo: None,
            });
        }
        let proposal = Proposal {
            author: caller.author(),
            dry_run: meant.dry_run,
            generation: Some(generation),
            message: message.clone(),
            source: "api",
            tenant: None,
            wishes,
        };
        match intent.propose(proposal).await {
            Err(problem) if problem.code == Code::PreconditionFailed => {}
            Ok(mut outcome) => {
                objects::tell(api, caller, &outcome);
                // Going back leaves these kinds as they are.
                outcome.undo = None;
                return Ok(outcome);
            }
            Err(problem) => return Err(problem),
        }
    }
    Err(Problem::new(Code::Unavailable, "others changed the store all the time: try again"))
}

/// The tenant, if the caller may see it. Whoever may not is not told whether there is one.
pub(crate) fn own(caller: &Caller, tenant: &str) -> Result<TenantName, Problem> {
    let name = TenantName::new(tenant).ok().filter(|name| caller.sees(Some(name)));
    name.ok_or_else(|| Problem::not_found("such a tenant of yours"))
}

/// Nobody does anything for a tenant that was erased.
pub(crate) fn not_erased(intent: &dyn Intent, tenant: &TenantName) -> Result<(), Problem> {
    let standing = intent.object(&key(STANDING_KIND, tenant.as_str()))?;
    let is = standing.as_ref().and_then(|object| object.body.get("is")?.as_str());
    if is == Some("erased") {
        let detail = format!("tenant `{tenant}` was erased, and its name is never another's: choose another");
        return Err(Problem::new(Code::Conflict, detail));
    }
    Ok(())
}

/// A number that nothing else has.
pub(crate) fn draw() -> Result<String, Problem> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(Problem::internal)?;
    Ok(TenantId::new(clock::unix_ms(), u128::from_le_bytes(random)).to_string())
}

pub(crate) fn key(kind: &str, name: &str) -> Key {
    Key { kind: kind.to_owned(), name: name.to_owned() }
}

/// A wish for an object of this revision; 0 for one that is not there.
pub(crate) fn wish(key: &Key, body: Option<Body>, revision: u64) -> Wish {
    let (kind, name) = (key.kind.clone(), key.name.clone());
    Wish { kind, name, body, if_revision: Some(revision), take_over: false }
}

pub(crate) fn table(value: Value) -> Option<Body> {
    if let Value::Object(body) = value { Some(body) } else { None }
}

fn checked<T, E: std::fmt::Display>(
    part: &str,
    text: Option<&str>,
    read: impl Fn(&str) -> Result<T, E>,
) -> Result<Option<T>, Problem> {
    let wrong =
        |error: E| Problem::invalid(format!("`{part}`: {error}")).at(format!("/{part}"), error.to_string());
    text.map(read).transpose().map_err(wrong)
}
