//! Who asks: the machine's own people by their socket, tokens, an identity provider's tokens, certificates. Whatever is sent
//! as a credential must be good: a bad token is never passed over for another way in.

use std::net::SocketAddr;
use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use portolan_core::ids::TenantName;
use portolan_foundation::clock;

use crate::api::Api;
use crate::caller::{Caller, Role, Way};
use crate::defaults::CREDENTIAL_BYTES_MAX;
use crate::oidc::Oidc;
use crate::problem::{Code, Problem};
use crate::token::{self, Presented, TokenRecord};

/// How callers are recognised, other than by portolan's own tokens.
#[derive(Clone, Debug, Default)]
pub struct Bindings {
    /// Names in clients' certificates, and what whoever shows one is.
    pub certificates: Vec<(String, Role, Option<TenantName>)>,
    /// An identity provider.
    pub oidc: Option<Arc<Oidc>>,
}

/// The other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A process of this machine, over the node's socket.
    Unix {
        /// Is it of the node's own user, or of root?
        own: bool,
        /// What its user is called.
        user: String,
    },
    /// Someone over TCP.
    Tcp {
        /// The address of the listener.
        local: SocketAddr,
        /// The names in its certificate, which was checked; none without one.
        names: Vec<String>,
    },
}

/// Recognises the caller.
pub(crate) async fn authenticate(api: &Api, peer: &Peer, headers: &HeaderMap) -> Result<Caller, Problem> {
    let mut credentials = headers.get_all(AUTHORIZATION).iter();
    if let Some(credential) = credentials.next() {
        if credentials.next().is_some() {
            return Err(unknown("send one `Authorization`, not several"));
        }
        let text = credential.to_str().unwrap_or_default();
        let bearer = text.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let bearer =
            bearer.map(|(_, token)| token.trim()).filter(|token| token.len() <= CREDENTIAL_BYTES_MAX);
        let bearer = bearer.ok_or_else(|| unknown("`Authorization` is to say `Bearer` and a token"))?;
        if bearer.starts_with(token::PREFIX) {
            return by_token(api, bearer);
        }
        return match &api.settings().bindings.oidc {
            Some(oidc) => oidc.recognise(bearer).await,
            None => Err(refused()),
        };
    }
    match peer {
        Peer::Unix { own: true, user } => Ok(Caller {
            id: format!("socket/{user}"),
            name: user.clone(),
            role: Role::Admin,
            scopes: Role::Admin.scopes(),
            tenant: None,
            way: Way::Socket,
            until_ms: None,
        }),
        Peer::Unix { own: false, .. } => Err(unknown("this socket belongs to another user: send a token")),
        Peer::Tcp { names, .. } => by_certificate(api, names),
    }
}

/// Is the token that a caller was recognised by still good?
pub(crate) fn still_there(api: &Api, caller: &Caller) -> bool {
    let Some(id) = caller.id.strip_prefix("token/") else { return false };
    find(api, id).is_some_and(|record| record.role == caller.role && record.tenant == caller.tenant)
}

fn by_token(api: &Api, text: &str) -> Result<Caller, Problem> {
    let caller = of_token(text, |id| find(api, id))?;
    if let Some(id) = caller.id.strip_prefix("token/") {
        api.used(id);
    }
    Ok(caller)
}

/// Recognises the holder of a portolan token, with what is kept of the token of this id.
///
/// # Errors
/// [`Problem`] when it is none, or is none any more.
pub fn of_token(text: &str, find: impl FnOnce(&str) -> Option<TokenRecord>) -> Result<Caller, Problem> {
    let presented = Presented::parse(text).ok_or_else(refused)?;
    let record = find(presented.id).filter(|record| presented.is(record)).ok_or_else(refused)?;
    // The holder of the right secret may know why it is not taken.
    if record.expires_at_ms <= clock::unix_ms() {
        return Err(unknown("the token has expired: ask for a new one (`portolan token create`)"));
    }
    if record.role.is_of_tenant() != record.tenant.is_some() {
        return Err(refused());
    }
    let granted = record.role.scopes();
    let scopes = match record.scopes {
        Some(own) => own.intersection(&granted).copied().collect(),
        None => granted,
    };
    Ok(Caller {
        id: format!("token/{}", presented.id),
        name: format!("{} [token {}]", record.name, presented.id),
        role: record.role,
        scopes,
        tenant: record.tenant,
        way: Way::Token,
        until_ms: Some(record.expires_at_ms),
    })
}

fn find(api: &Api, id: &str) -> Option<TokenRecord> {
    let object = api.backends().intent.object(&token::key(id)).ok().flatten()?;
    token::record(&object.body)
}

fn by_certificate(api: &Api, names: &[String]) -> Result<Caller, Problem> {
    let bound = api.settings().bindings.certificates.iter().find(|(name, ..)| names.contains(name));
    let (name, role, tenant) = bound.ok_or_else(|| {
        let with = if names.is_empty() { "" } else { "; no name in your certificate is bound to a role" };
        unknown(&format!("send a token: `Authorization: Bearer ptl_...`{with}"))
    })?;
    Ok(Caller {
        id: format!("certificate/{name}"),
        name: name.clone(),
        role: *role,
        scopes: role.scopes(),
        tenant: tenant.clone(),
        way: Way::Certificate,
        until_ms: None,
    })
}

/// The same words for whatever is wrong with a credential, so that they help nobody to find a good one.
pub(crate) fn refused() -> Problem {
    unknown("the token is not known, or not any more: `portolan token create` makes one")
}

pub(crate) fn unknown(detail: &str) -> Problem {
    Problem::new(Code::Unauthenticated, detail)
}
