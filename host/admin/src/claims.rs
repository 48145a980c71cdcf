//! Claims: what belongs to at most one tenant of the whole platform, such as an address or a domain, and whose it is. `/claims`.
//!
//! A claim's key in the control store is a hash of its value in canonical form, and no store and no log of changes has the value
//! itself: who erases a tenant need not rewrite history. Making a claim is a change of intent as others are, which holds only while
//! nobody else has the key; so there is one holder, everywhere.

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use portolan_core::ids::{TenantName, check_name};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use unicode_normalization::UnicodeNormalization as _;
use utoipa::ToSchema;
use utoipa_axum::routes;

use crate::api::Api;
use crate::backend::{Body, Intent, Key, Object, ObjectFilter, Outcome, Wish};
use crate::caller::{Caller, Scope};
use crate::defaults::{CLAIM_BYTES_MAX, CLAIMS_OF_TENANT_MAX};
use crate::extract::{Json, Names, Parameters};
use crate::objects::Meant;
use crate::page::{self, Page, Paging};
use crate::problem::{Code, Problem};
use crate::routes::{Access, Routes};
use crate::tenancy;

/// The kind of claims' objects.
pub(crate) const CLAIM_KIND: &str = "claim";

/// A claim that is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClaimRequest {
    /// Of which kind: `email`, `domain`, or a name of the platform's own.
    #[schema(max_length = 63, min_length = 1)]
    pub(crate) kind: String,
    /// What is claimed. Case does not matter.
    #[schema(max_length = 320, min_length = 1)]
    pub(crate) value: String,
}

/// A claim that somebody holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
struct Held {
    /// Of which kind.
    kind: String,
    /// What is claimed, as far as it is kept: of an address, its first letter and its domain.
    shown: String,
    /// Whose it is.
    #[schema(value_type = String)]
    tenant: TenantName,
}

/// A claim in canonical form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    kind: String,
    name: String,
    shown: String,
}

pub(crate) fn add(routes: Routes) -> Routes {
    routes
        .add(Access::Read(Scope::TenantRead), routes!(find_claim))
        .add(Access::Write(Scope::ChangeWrite), routes!(release_claim))
        .add(Access::Read(Scope::TenantRead), routes!(list_claims))
        .add(Access::Write(Scope::ChangeWrite), routes!(add_claim))
}

/// Tells whose a claim is.
#[utoipa::path(get, path = "/api/v1/claims/{kind}/{value}", tag = "tenants",
    params(("kind" = String, Path, description = "Such as `email`"), ("value" = String, Path, description = "What is claimed")),
    responses((status = 200, description = "Who holds it", body = Held)))]
async fn find_claim(
    State(api): State<Api>,
    caller: Caller,
    Names((kind, value)): Names<(String, String)>,
) -> Result<axum::Json<Held>, Problem> {
    let claim = Claim::new(&kind, &value)?;
    let held = api.backends().intent.object(&claim.key())?.and_then(|object| held(&object));
    let held = held.filter(|held| caller.sees(Some(&held.tenant)));
    held.map(axum::Json).ok_or_else(|| Problem::not_found("tenant who claims this"))
}

/// Gives a claim up: another tenant may have it.
#[utoipa::path(delete, path = "/api/v1/claims/{kind}/{value}", tag = "tenants",
    params(Meant, ("kind" = String, Path, description = "Such as `email`"), ("value" = String, Path, description = "What is claimed")),
    responses((status = 200, description = "What became of it", body = Outcome)))]
async fn release_claim(
    State(api): State<Api>,
    caller: Caller,
    Names((kind, value)): Names<(String, String)>,
    Parameters(meant): Parameters<Meant>,
) -> Result<axum::Json<Outcome>, Problem> {
    let claim = Claim::new(&kind, &value)?;
    let outcome = tenancy::change(&api, &caller, &meant, |intent| {
        let there = intent.object(&claim.key())?;
        let there = there.ok_or_else(|| Problem::not_found("tenant who claims this"))?;
        Ok(vec![tenancy::wish(&claim.key(), None, there.revision)])
    });
    outcome.await.map(axum::Json)
}

/// Lists what a tenant claims.
#[utoipa::path(get, path = "/api/v1/tenants/{tenant}/claims", tag = "tenants",
    params(("tenant" = String, Path), Paging),
    responses((status = 200, description = "Its claims", body = Page<Held>)))]
async fn list_claims(
    State(api): State<Api>,
    caller: Caller,
    Names(tenant): Names<String>,
    Parameters(paging): Parameters<Paging>,
) -> Result<axum::Json<Page<Held>>, Problem> {
    let tenant = tenancy::own(&caller, &tenant)?;
    let (limit, after) = (page::limit(paging.limit)?, page::place(paging.cursor.as_deref())?);
    let all = of_tenant(api.backends().intent.as_ref(), &tenant)?;
    let comes = |object: &&Object| after.as_ref().is_none_or(|after| object.name > *after);
    let items = all.iter().filter(comes).filter_map(|object| Some((object.name.clone(), held(object)?)));
    let page = Page::of(items.take(limit + 1).collect(), limit, |(name, _)| name.clone());
    let items = page.items.into_iter().map(|(_, held)| held).collect();
    Ok(axum::Json(Page { items, next: page.next }))
}

/// Claims something for a tenant. What another has is refused; what it has already stays.
#[utoipa::path(post, path = "/api/v1/tenants/{tenant}/claims", tag = "tenants", request_body = ClaimRequest,
    params(Meant, ("tenant" = String, Path)),
    responses((status = 200, description = "It is claimed", body = Outcome)))]
async fn add_claim(
    State(api): State<Api>,
    caller: Caller,
    Names(tenant): Names<String>,
    Parameters(meant): Parameters<Meant>,
    Json(wanted): Json<ClaimRequest>,
) -> Result<Response, Problem> {
    let tenant = tenancy::own(&caller, &tenant)?;
    let claim = Claim::new(&wanted.kind, &wanted.value)?;
    let outcome = tenancy::change(&api, &caller, &meant, |intent| {
        tenancy::not_erased(intent, &tenant)?;
        if intent.object(&tenancy::key(tenancy::TENANT_KIND, tenant.as_str()))?.is_none() {
            let what = format!("tenant `{tenant}`: `portolan tenant create` makes one");
            return Err(Problem::not_found(what));
        }
        wishes(intent, &tenant, std::slice::from_ref(&claim))
    });
    Ok((StatusCode::OK, axum::Json(outcome.await?)).into_response())
}

/// What makes these claims a tenant's. Those that it has already are left out.
///
/// # Errors
/// [`Code::Conflict`] when another holds one, or they are too many.
pub(crate) fn wishes(
    intent: &dyn Intent,
    tenant: &TenantName,
    claims: &[Claim],
) -> Result<Vec<Wish>, Problem> {
    let mut wishes: Vec<Wish> = Vec::new();
    for (at, claim) in claims.iter().enumerate() {
        match intent.object(&claim.key())?.and_then(|object| held(&object)) {
            Some(held) if held.tenant == *tenant => {}
            Some(held) => {
                let detail =
                    format!("{} `{}` is claimed by tenant `{}`", claim.kind, claim.shown, held.tenant);
                return Err(
                    Problem::new(Code::Conflict, &*detail).at(format!("/claims/{at}"), detail.clone())
                );
            }
            None if wishes.iter().any(|wish| wish.name == claim.name) => {}
            None => wishes.push(tenancy::wish(&claim.key(), Some(claim.body(tenant)), 0)),
        }
    }
    if !wishes.is_empty() && of_tenant(intent, tenant)?.len() + wishes.len() > CLAIMS_OF_TENANT_MAX {
        let detail = format!("a tenant has at most {CLAIMS_OF_TENANT_MAX} claims: give some up");
        return Err(Problem::new(Code::Conflict, detail));
    }
    Ok(wishes)
}

/// The claims of a tenant.
pub(crate) fn of_tenant(intent: &dyn Intent, tenant: &TenantName) -> Result<Vec<Object>, Problem> {
    let filter = ObjectFilter { kind: Some(CLAIM_KIND.to_owned()), ..ObjectFilter::default() };
    let mut all = intent.objects(&filter, None, usize::MAX)?;
    all.retain(|object| object.body.get("tenant").and_then(Value::as_str) == Some(tenant.as_str()));
    Ok(all)
}

fn held(object: &Object) -> Option<Held> {
    serde_json::from_value(Value::Object(object.body.clone())).ok()
}

impl Claim {
    /// A claim of this kind and value.
    pub(crate) fn new(kind: &str, value: &str) -> Result<Self, Problem> {
        check_name(kind).map_err(|error| Problem::invalid(format!("a claim's kind: {error}")))?;
        let value = value.trim();
        let bad = |why: &str| Problem::invalid(format!("this is no {kind} to be claimed: {why}"));
        if value.is_empty() || value.len() > CLAIM_BYTES_MAX || value.chars().any(char::is_control) {
            return Err(bad(&format!("give 1 to {CLAIM_BYTES_MAX} bytes in one line")));
        }
        let (canonical, shown) = match kind {
            "domain" => {
                let domain =
                    domain(value).ok_or_else(|| bad("write a host's name, such as `shop.example`"))?;
                (domain.clone(), domain)
            }
            "email" => {
                let parts = value.rsplit_once('@').filter(|(local, _)| !local.is_empty());
                let (local, host) = parts.ok_or_else(|| bad("write `NAME@DOMAIN`"))?;
                let host = domain(host).ok_or_else(|| bad("what stands after `@` is no domain"))?;
                let local = folded(local);
                let first: String = local.chars().take(1).collect();
                (format!("{local}@{host}"), format!("{first}…@{host}"))
            }
            _ => {
                let folded = folded(value);
                let first: String = folded.chars().take(1).collect();
                (folded, format!("{first}…"))
            }
        };
        let digest = Sha256::digest(format!("portolan claim\0{kind}\0{canonical}").as_bytes());
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { kind: kind.to_owned(), name: format!("{kind}:{digest}"), shown })
    }

    fn key(&self) -> Key {
        tenancy::key(CLAIM_KIND, &self.name)
    }

    fn body(&self, tenant: &TenantName) -> Body {
        let Value::Object(body) = json!({ "kind": self.kind, "shown": self.shown, "tenant": tenant }) else {
            return Body::new();
        };
        body
    }
}

/// Composed and in lower case (Unicode Standard Annex 15, form C): what people see as the same is the same.
fn folded(text: &str) -> String {
    text.nfc().collect::<String>().to_lowercase().nfc().collect()
}

/// A domain as the name system has it (Unicode Technical Standard 46), without the dot at its end.
fn domain(text: &str) -> Option<String> {
    let name = idna::domain_to_ascii_strict(text.trim_end_matches('.')).ok()?;
    (name.len() <= 253 && name.contains('.')).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(kind: &str, value: &str) -> Option<String> {
        Claim::new(kind, value).ok().map(|claim| claim.name)
    }

    #[test]
    fn what_people_see_as_the_same_is_claimed_once() {
        for (kind, one, other) in [
            ("email", "Ada@Shop.Example", " ada@shop.example. "),
            ("email", "jose\u{301}@shop.example", "JOS\u{c9}@shop.example"),
            ("domain", "B\u{fc}cher.example", "xn--bcher-kva.example"),
            ("handle", "Ada", "aDA"),
        ] {
            assert!(name(kind, one).is_some(), "{one}");
            assert_eq!(name(kind, one), name(kind, other), "{one} and {other}");
        }
        assert_ne!(name("email", "ada@shop.example"), name("email", "bob@shop.example"));
        assert_ne!(name("handle", "shop.example"), name("domain", "shop.example"));
    }

    #[test]
    fn what_is_kept_does_not_tell_an_address() {
        let claim = Claim::new("email", "ada.lovelace@shop.example").unwrap();
        assert_eq!(claim.shown, "a…@shop.example");
        assert!(!claim.name.contains("ada"), "{}", claim.name);
    }

    #[test]
    fn what_is_no_claim_is_refused() {
        for (kind, value) in [
            ("", "x"),
            ("E Mail", "x"),
            ("email", "shop.example"),
            ("email", "@shop.example"),
            ("email", "ada@"),
            ("domain", "localhost"),
            ("domain", "a b.example"),
            ("handle", "  "),
            ("handle", "a\nb"),
            ("handle", &"x".repeat(321)),
        ] {
            assert!(Claim::new(kind, value).is_err(), "{kind} {value}");
        }
    }
}
