//! Tokens: made, listed and revoked. `/tokens`.

use std::collections::BTreeSet;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use portolan_core::ids::TenantName;
use portolan_foundation::clock;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::routes;

use crate::api::Api;
use crate::backend::{Body, Key, Object, ObjectFilter, Outcome, Proposal, Wish};
use crate::caller::{Caller, Role, Scope};
use crate::defaults::{TOKEN_LIFE, TOKEN_LIFE_MAX, TOKEN_NAME_BYTES_MAX, TOKENS_OF_TENANT_MAX};
use crate::extract::{Json, Names, Parameters};
use crate::page::{self, Page, Paging};
use crate::problem::{Code, Problem};
use crate::routes::{Access, Routes};
use crate::token::{self, TOKEN_KIND, TokenRecord};

/// A token that is wanted.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TokenRequest {
    /// What people call it.
    #[schema(max_length = 100, min_length = 1)]
    name: String,
    /// What it is to be.
    role: Role,
    /// Whose it is to be; needed for a tenant's roles. A tenant's caller makes its own tenant's.
    #[serde(default)]
    tenant: Option<String>,
    /// What it is to be allowed, when that is less than its role.
    #[serde(default)]
    scopes: Option<BTreeSet<Scope>>,
    /// How long it lives, in seconds; 90 days when absent.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 31_622_400)]
    expires_in_s: Option<u64>,
}

/// A token, without its secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
struct Token {
    /// Its id.
    id: String,
    /// What people call it.
    name: String,
    /// What it is.
    role: Role,
    /// Whose it is; the platform's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    tenant: Option<TenantName>,
    /// What it may, when that is less than its role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scopes: Option<BTreeSet<Scope>>,
    /// By whom it was made.
    created_by: String,
    /// When it was made, in milliseconds since 1970.
    created_at_ms: u64,
    /// When it ends.
    expires_at_ms: u64,
    /// Has it ended?
    expired: bool,
    /// When it was last used on this node, since it started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_use_ms: Option<u64>,
}

/// A token that was made.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
struct Made {
    /// What it is.
    about: Token,
    /// The token itself, for its holder: it is never shown again.
    token: String,
    /// The generation that has it.
    generation: u64,
    /// The command that takes it back.
    undo: String,
}

pub(crate) fn add(routes: Routes) -> Routes {
    routes
        .add(Access::Read(Scope::TokenRead), routes!(list_tokens))
        .add(Access::Write(Scope::TokenWrite), routes!(create_token))
        .add(Access::Write(Scope::TokenWrite), routes!(revoke_token))
}

/// Lists tokens, without their secrets, which nobody has but their holders.
#[utoipa::path(get, path = "/api/v1/tokens", tag = "tokens", params(Paging),
    responses((status = 200, description = "Tokens", body = Page<Token>)))]
async fn list_tokens(
    State(api): State<Api>,
    caller: Caller,
    Parameters(paging): Parameters<Paging>,
) -> Result<axum::Json<Page<Token>>, Problem> {
    let (limit, mut after) = (page::limit(paging.limit)?, page::place(paging.cursor.as_deref())?);
    let filter = ObjectFilter { kind: Some(TOKEN_KIND.to_owned()), ..ObjectFilter::default() };
    let mut items = Vec::new();
    // Other tenants' tokens are passed over, page by page.
    while items.len() <= limit {
        let key = after.as_ref().map(|name| Key { kind: TOKEN_KIND.to_owned(), name: name.clone() });
        let page = api.backends().intent.objects(&filter, key.as_ref(), limit + 1)?;
        let Some(last) = page.last().map(|object| object.name.clone()) else { break };
        after = Some(last);
        let read = page.iter().filter_map(|object| read(&api, object));
        items.extend(read.filter(|token| caller.sees(token.tenant.as_ref())));
    }
    Ok(axum::Json(Page::of(items, limit, |token| token.id.clone())))
}

/// Makes a token. Its text is in the answer, and nowhere else, ever.
#[utoipa::path(post, path = "/api/v1/tokens", tag = "tokens", request_body = TokenRequest,
    responses((status = 201, description = "The token", body = Made)))]
async fn create_token(
    State(api): State<Api>,
    caller: Caller,
    Json(wanted): Json<TokenRequest>,
) -> Result<Response, Problem> {
    let tenant = whose(&api, &caller, &wanted)?;
    let name_is_good = (1..=TOKEN_NAME_BYTES_MAX).contains(&wanted.name.len())
        && !wanted.name.chars().any(|character| character.is_control() || matches!(character, '[' | ']'));
    if !name_is_good {
        let detail =
            format!("a token's name is 1 to {TOKEN_NAME_BYTES_MAX} bytes, in one line, without brackets");
        return Err(Problem::invalid(&*detail).at("/name", detail.clone()));
    }
    let seconds = wanted.expires_in_s.unwrap_or(TOKEN_LIFE.as_secs());
    if !(1..=TOKEN_LIFE_MAX.as_secs()).contains(&seconds) {
        let detail = format!("a token lives 1 to {} seconds", TOKEN_LIFE_MAX.as_secs());
        return Err(Problem::invalid(&*detail).at("/expires_in_s", detail.clone()));
    }
    let granted = wanted.role.scopes();
    if let Some(more) = wanted.scopes.iter().flatten().find(|scope| !granted.contains(scope)) {
        let detail = format!("`{more}` is more than the role {} may", wanted.role);
        return Err(Problem::invalid(&*detail).at("/scopes", detail.clone()));
    }
    // Nobody makes a token that may more than its maker.
    let asked = wanted.scopes.as_ref().unwrap_or(&granted);
    if let Some(more) = asked.iter().find(|scope| !caller.may(**scope)) {
        return Err(Problem::new(Code::Forbidden, format!("you may not `{more}`, so no token of yours may")));
    }
    let (id, text, hash) = token::draw()?;
    let now = clock::unix_ms();
    let record = TokenRecord {
        created_at_ms: now,
        created_by: caller.author(),
        // A token that was lent lends none that outlives it.
        expires_at_ms: caller.until_ms.unwrap_or(u64::MAX).min(now.saturating_add(seconds * 1_000)),
        hash,
        name: wanted.name,
        role: wanted.role,
        scopes: wanted.scopes,
        tenant,
    };
    let body = serde_json::to_value(&record).map_err(Problem::internal)?;
    let body: Body = serde_json::from_value(body).map_err(Problem::internal)?;
    let outcome =
        propose(&api, &caller, &id, Some(body), 0, format!("token {} is made", record.name)).await?;
    let about = shown(&api, id.clone(), record);
    let made = Made {
        about,
        token: text,
        generation: outcome.generation,
        undo: format!("portolan token revoke {id}"),
    };
    Ok((StatusCode::CREATED, axum::Json(made)).into_response())
}

/// Revokes a token: from now on, on every node, nobody gets in by it.
#[utoipa::path(delete, path = "/api/v1/tokens/{id}", tag = "tokens",
    params(("id" = String, Path, description = "Its id")),
    responses((status = 200, description = "What became of it", body = Outcome)))]
async fn revoke_token(
    State(api): State<Api>,
    caller: Caller,
    Names(id): Names<String>,
) -> Result<axum::Json<Outcome>, Problem> {
    let missing = || Problem::not_found("such token: `portolan token list` shows them");
    if id.len() > 64 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(missing());
    }
    let there = api.backends().intent.object(&token::key(&id))?;
    // One that does not read is the platform's own to take away.
    let owner =
        there.as_ref().and_then(|object| token::record(&object.body)).and_then(|record| record.tenant);
    let there = there.filter(|_| caller.sees(owner.as_ref())).ok_or_else(missing)?;
    let mut outcome =
        propose(&api, &caller, &id, None, there.revision, format!("token {id} is revoked")).await?;
    // Whoever wants it back makes a new one: nobody has the old one's secret but its holder.
    outcome.undo = None;
    Ok(axum::Json(outcome))
}

/// Whose the token is to be, if the caller may make one of that role for that tenant.
fn whose(api: &Api, caller: &Caller, wanted: &TokenRequest) -> Result<Option<TenantName>, Problem> {
    let tenant = wanted.tenant.as_deref().map(TenantName::new).transpose();
    let tenant =
        tenant.map_err(|error| Problem::invalid("no name of a tenant").at("/tenant", error.to_string()))?;
    if let Some(own) = &caller.tenant {
        if !wanted.role.is_of_tenant() {
            return Err(Problem::new(Code::Forbidden, "you make tokens of your tenant's roles")
                .at("/role", "not yours"));
        }
        if tenant.as_ref().is_some_and(|tenant| tenant != own) {
            return Err(Problem::new(Code::Forbidden, "you make tokens of your own tenant")
                .at("/tenant", "not yours"));
        }
        let filter = ObjectFilter { kind: Some(TOKEN_KIND.to_owned()), ..ObjectFilter::default() };
        let all = api.backends().intent.objects(&filter, None, usize::MAX)?;
        let records = all.iter().filter_map(|object| token::record(&object.body));
        if records.filter(|record| record.tenant.as_ref() == Some(own)).count() >= TOKENS_OF_TENANT_MAX {
            let detail = format!(
                "your tenant has {TOKENS_OF_TENANT_MAX} tokens, which is what one may have: revoke some"
            );
            return Err(Problem::new(Code::Conflict, detail));
        }
        return Ok(Some(own.clone()));
    }
    match (wanted.role.is_of_tenant(), tenant) {
        (true, None) => Err(Problem::invalid("a tenant's role needs a tenant").at("/tenant", "missing")),
        (false, Some(_)) => Err(Problem::invalid(format!("{} is no role of a tenant", wanted.role))
            .at("/tenant", "not for this role")),
        (_, tenant) => Ok(tenant),
    }
}

async fn propose(
    api: &Api,
    caller: &Caller,
    id: &str,
    body: Option<Body>,
    revision: u64,
    message: String,
) -> Result<Outcome, Problem> {
    let key = token::key(id);
    let wish = Wish { kind: key.kind, name: key.name, body, if_revision: Some(revision), take_over: false };
    let proposal = Proposal {
        author: caller.author(),
        dry_run: false,
        generation: None,
        message,
        source: "token",
        tenant: caller.tenant.clone(),
        wishes: vec![wish],
    };
    let mut outcome = api.backends().intent.propose(proposal).await?;
    crate::objects::tell(api, caller, &outcome);
    for difference in &mut outcome.differences {
        difference.parts.clear();
    }
    Ok(outcome)
}

fn read(api: &Api, object: &Object) -> Option<Token> {
    Some(shown(api, object.name.clone(), token::record(&object.body)?))
}

fn shown(api: &Api, id: String, record: TokenRecord) -> Token {
    Token {
        last_use_ms: api.last_use(&id),
        id,
        name: record.name,
        role: record.role,
        tenant: record.tenant,
        scopes: record.scopes,
        created_by: record.created_by,
        created_at_ms: record.created_at_ms,
        expires_at_ms: record.expires_at_ms,
        expired: record.expires_at_ms <= clock::unix_ms(),
    }
}
