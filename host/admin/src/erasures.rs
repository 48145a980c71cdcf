//! Erasing a tenant for good. `/tenants/{tenant}/erasure`.
//!
//! One change bars the tenant and takes its objects away, and makes an object of the erasure itself, which says what is left to do in
//! databases and on nodes. Those who have these do it, whenever they can, and write a receipt into the object. Each receipt has the
//! digest of the one before it in its own.

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use portolan_core::ids::TenantName;
use portolan_foundation::clock;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;
use utoipa_axum::routes;

use crate::api::Api;
use crate::backend::{Body, Intent, Object, ObjectFilter, Wish};
use crate::caller::{Caller, Scope};
use crate::claims;
use crate::extract::{Json, Names, Parameters};
use crate::objects::Meant;
use crate::problem::{Code, Problem};
use crate::routes::{Access, Routes};
use crate::tenancy::{self, key, table, wish};
use crate::token::TOKEN_KIND;

/// The kind of erasures' objects.
pub const ERASURE_KIND: &str = "erasure";

/// Who is to be erased, once more.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ErasureRequest {
    /// The tenant's name: nothing brings it back.
    confirm: String,
}

/// An erasure, as the control store has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Erasure {
    /// When it was begun, in milliseconds since 1970.
    pub began_at_ms: u64,
    /// Who began it.
    pub by: String,
    /// When nothing was left to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done_at_ms: Option<u64>,
    /// What is left: `shard/NAME/REGION` and `compact/NAME/REGION` for a node of the region, `node/NAME` for one node.
    pub pending: Vec<String>,
    /// What was done, in its order.
    pub receipts: Vec<Receipt>,
    /// Who.
    #[schema(value_type = String)]
    pub tenant: TenantName,
}

/// What was done at one place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Receipt {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// How many of what went.
    #[schema(value_type = Object)]
    pub counts: Value,
    /// The SHA-256 of all this, and of the digest of the receipt before it.
    pub digest: String,
    /// Which part it is of.
    pub part: String,
}

impl Erasure {
    /// A part is done: it is not pending any more, and what it leaves to others is. The last one ends the erasure.
    pub fn done(&mut self, part: &str, counts: Value, leaves: Option<String>, at_ms: u64) {
        let before = self.receipts.last().map_or("", |receipt| receipt.digest.as_str());
        // A map's keys are in order, so that it is the same text everywhere.
        let sum = Sha256::digest(json!([before, at_ms, counts, part]).to_string().as_bytes());
        let digest = sum.iter().map(|byte| format!("{byte:02x}")).collect();
        self.receipts.push(Receipt { at_ms, counts, digest, part: part.to_owned() });
        self.pending.retain(|pending| pending != part);
        self.pending.extend(leaves);
        self.done_at_ms = self.pending.is_empty().then_some(at_ms);
    }
}

/// An erasure that was begun.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
struct Begun {
    /// The name of its object, of kind `erasure`.
    id: String,
    /// What is known of it.
    erasure: Erasure,
}

pub(crate) fn add(routes: Routes) -> Routes {
    routes.add(Access::Write(Scope::ChangeWrite), routes!(erase_tenant))
}

/// Erases a tenant: bars it, takes its objects away, and has databases and nodes take away all else. Repeated, it shows how far it is.
#[utoipa::path(post, path = "/api/v1/tenants/{tenant}/erasure", tag = "tenants", request_body = ErasureRequest,
    params(Meant, ("tenant" = String, Path)),
    responses((status = 202, description = "It is begun, or has been", body = Begun)))]
async fn erase_tenant(
    State(api): State<Api>,
    caller: Caller,
    Names(tenant): Names<String>,
    Parameters(meant): Parameters<Meant>,
    Json(wanted): Json<ErasureRequest>,
) -> Result<Response, Problem> {
    let tenant = tenancy::own(&caller, &tenant)?;
    if wanted.confirm != tenant.as_str() {
        let detail = format!("nothing brings an erased tenant back: `confirm` is to be `{tenant}`");
        return Err(Problem::invalid(&*detail).at("/confirm", detail.clone()));
    }
    let nodes = api.backends().node.nodes().unwrap_or_default();
    let nodes: Vec<&str> = nodes.iter().filter_map(|node| node.get("name")?.as_str()).collect();
    let (id, author) = (tenancy::draw()?, caller.author());
    tenancy::change(&api, &caller, &meant, |intent| {
        if find(intent, &tenant)?.is_some() {
            return Ok(Vec::new());
        }
        begin(intent, &tenant, &id, &author, &nodes)
    })
    .await?;
    let begun = find(api.backends().intent.as_ref(), &tenant)?;
    match begun {
        Some((id, erasure)) => Ok((StatusCode::ACCEPTED, axum::Json(Begun { id, erasure })).into_response()),
        None if meant.dry_run => Err(Problem::new(Code::NotFound, "nothing was begun: it was only a trial")),
        None => Err(Problem::internal("an erasure was begun and is not there")),
    }
}

/// The erasure of a tenant.
fn find(intent: &dyn Intent, tenant: &TenantName) -> Result<Option<(String, Erasure)>, Problem> {
    let filter = ObjectFilter { kind: Some(ERASURE_KIND.to_owned()), ..ObjectFilter::default() };
    let all = intent.objects(&filter, None, usize::MAX)?;
    let read = all.into_iter().filter_map(|object| Some((object.name.clone(), read(&object.body)?)));
    Ok(read.into_iter().find(|(_, erasure)| erasure.tenant == *tenant))
}

/// An erasure of its object.
#[must_use]
pub fn read(body: &Body) -> Option<Erasure> {
    serde_json::from_value(Value::Object(body.clone())).ok()
}

fn begin(
    intent: &dyn Intent,
    tenant: &TenantName,
    id: &str,
    by: &str,
    nodes: &[&str],
) -> Result<Vec<Wish>, Problem> {
    let now = clock::unix_ms();
    let mut gone = claims::of_tenant(intent, tenant)?;
    for kind in ["place", tenancy::TENANT_KIND] {
        gone.extend(intent.object(&key(kind, tenant.as_str()))?);
    }
    gone.extend(intent.object(&key("rollout", &format!("tenant.{tenant}")))?);
    gone.extend(
        of_kind(intent, "version")?
            .into_iter()
            .filter(|object| object.name.split_once(':').is_some_and(|(owner, _)| owner == tenant.as_str())),
    );
    gone.extend(
        of_kind(intent, TOKEN_KIND)?
            .into_iter()
            .filter(|object| object.body.get("tenant").and_then(Value::as_str) == Some(tenant.as_str())),
    );
    let mut counts = serde_json::Map::new();
    for object in &gone {
        let count = counts.get(&object.kind).and_then(Value::as_u64).unwrap_or(0) + 1;
        counts.insert(object.kind.clone(), count.into());
    }
    let mut pending: Vec<String> = nodes.iter().map(|node| format!("node/{node}")).collect();
    let mut external = Vec::new();
    for shard in of_kind(intent, "shard")? {
        if shard.body.get("replication").and_then(Value::as_str) == Some("external") {
            external.push(shard.name);
            continue;
        }
        let stores = shard.body.get("store").and_then(Value::as_object).into_iter().flatten();
        pending.extend(stores.map(|(region, _)| format!("shard/{}/{region}", shard.name)));
    }
    let mut erasure = Erasure {
        began_at_ms: now,
        by: by.to_owned(),
        done_at_ms: None,
        pending,
        receipts: Vec::new(),
        tenant: tenant.clone(),
    };
    erasure.done("control", Value::Object(counts), None, now);
    for shard in external {
        // Its rows are nobody's here: who erases says so, rather than that they are gone.
        let note = json!({ "not_erased": "its engine replicates itself: its operator erases what it has of the tenant" });
        erasure.done(&format!("external/{shard}"), note, None, now);
    }
    let standing = key("standing", tenant.as_str());
    let revision = intent.object(&standing)?.map_or(0, |object| object.revision);
    let mut wishes = vec![
        wish(&standing, table(json!({ "is": "erased", "since_ms": now })), revision),
        wish(&key(ERASURE_KIND, id), table(serde_json::to_value(&erasure).map_err(Problem::internal)?), 0),
    ];
    wishes.extend(gone.into_iter().map(|object| Wish {
        // A file that names the tenant is not asked: it is barred whatever the file says.
        take_over: true,
        ..wish(&key(&object.kind, &object.name), None, object.revision)
    }));
    Ok(wishes)
}

fn of_kind(intent: &dyn Intent, kind: &str) -> Result<Vec<Object>, Problem> {
    let filter = ObjectFilter { kind: Some(kind.to_owned()), ..ObjectFilter::default() };
    intent.objects(&filter, None, usize::MAX)
}
