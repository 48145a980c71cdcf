//! Tokens of an identity provider (OpenID Connect; JWT, RFC 7519): signature by its published keys, issuer, audience, times, then a
//! role by claims.
//!
//! The algorithm is never the token's choice: only those of public keys are taken, and only one that fits the key.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use portolan_core::ids::TenantName;
use rustls::ClientConfig;
use serde_json::{Map, Value};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::authentic::refused;
use crate::caller::{Caller, Role, Way};
use crate::defaults::{CLOCK_SKEW, KEYS_BYTES_MAX, KEYS_FRESH, KEYS_LIFE, KEYS_PAUSE, KEYS_TIMEOUT};
use crate::fetch;
use crate::problem::{Code, Problem};

/// Where the provider's keys are.
#[derive(Clone, Debug)]
pub enum Keys {
    /// A file, read again as it grows old.
    File(PathBuf),
    /// A URL, with what TLS to it believes.
    Url(Uri, Arc<ClientConfig>),
}

/// What a claim makes of whoever has it. The first that fits counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Its name.
    pub name: String,
    /// What it must be, or hold among its items.
    pub is: String,
    /// What its holder is.
    pub role: Role,
    /// The claim that names the tenant, for a tenant's roles.
    pub tenant_claim: Option<String>,
}

/// An identity provider.
#[derive(Debug)]
pub struct Oidc {
    audience: String,
    cache: Mutex<Cache>,
    claims: Vec<Claim>,
    issuer: String,
    keys: Keys,
}

/// What is wrong with the settings of a provider.
#[derive(Debug, thiserror::Error)]
pub enum OidcError {
    /// A tenant's role without a claim that names the tenant, or another's role with one.
    #[error("the claim {0}: a tenant's role needs `tenant_claim`, another role must not have it")]
    Tenant(String),
}

#[derive(Debug, Default)]
struct Cache {
    fetched: Option<(Instant, Arc<JwkSet>)>,
    tried: Option<Instant>,
}

impl Oidc {
    /// A provider.
    ///
    /// # Errors
    /// When claims do not fit together.
    pub fn new(issuer: String, audience: String, keys: Keys, claims: Vec<Claim>) -> Result<Self, OidcError> {
        if let Some(wrong) =
            claims.iter().find(|claim| claim.role.is_of_tenant() != claim.tenant_claim.is_some())
        {
            return Err(OidcError::Tenant(format!("{} = {}", wrong.name, wrong.is)));
        }
        Ok(Self { audience, cache: Mutex::default(), claims, issuer, keys })
    }

    /// Recognises the holder of a token.
    pub(crate) async fn recognise(&self, token: &str) -> Result<Caller, Problem> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| refused())?;
        if !is_of_public_keys(header.alg) {
            return Err(refused());
        }
        let kid = header.kid.as_deref();
        let key = match self.key(kid, header.alg, false).await? {
            Some(key) => key,
            // The provider may have changed its keys since.
            None => self.key(kid, header.alg, true).await?.ok_or_else(refused)?,
        };
        let claims = self.check(token, header.alg, &key)?;
        self.caller(&claims)
    }

    fn check(&self, token: &str, algorithm: Algorithm, key: &Jwk) -> Result<Map<String, Value>, Problem> {
        let key = DecodingKey::from_jwk(key).map_err(|_| refused())?;
        let mut validation = Validation::new(algorithm);
        validation.set_audience(&[&self.audience]);
        validation.set_issuer(&[&self.issuer]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.leeway = CLOCK_SKEW.as_secs();
        validation.validate_nbf = true;
        let decoded = jsonwebtoken::decode::<Map<String, Value>>(token, &key, &validation);
        decoded.map(|decoded| decoded.claims).map_err(|error| {
            tracing::debug!("a token of the identity provider is refused: {error}");
            refused()
        })
    }

    fn caller(&self, claims: &Map<String, Value>) -> Result<Caller, Problem> {
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        let holds = |claim: &&Claim| match claims.get(&claim.name) {
            Some(Value::String(text)) => *text == claim.is,
            Some(Value::Array(items)) => items.iter().any(|item| item.as_str() == Some(&claim.is)),
            _ => false,
        };
        let nothing = || {
            Problem::new(
                Code::Unauthenticated,
                "your identity is known, and no claim of it has a role here: ask the operator",
            )
        };
        let claim = self.claims.iter().find(holds).ok_or_else(nothing)?;
        let tenant = match &claim.tenant_claim {
            None => None,
            Some(name) => Some(text(name).and_then(|name| TenantName::new(name).ok()).ok_or_else(nothing)?),
        };
        let subject = text("sub").filter(|subject| !subject.is_empty()).ok_or_else(refused)?;
        let subject: String = subject.chars().filter(|character| !character.is_control()).take(200).collect();
        let shown = text("email").or_else(|| text("preferred_username")).unwrap_or(&subject);
        let shown: String = shown.chars().filter(|character| !character.is_control()).take(100).collect();
        let until_ms = claims.get("exp").and_then(Value::as_u64);
        let skew_ms = u64::try_from(CLOCK_SKEW.as_millis()).unwrap_or(0);
        Ok(Caller {
            id: format!("oidc/{subject}"),
            name: format!("{shown} [oidc {subject}]"),
            role: claim.role,
            scopes: claim.role.scopes(),
            tenant,
            way: Way::Oidc,
            until_ms: until_ms.map(|until| until.saturating_mul(1_000).saturating_add(skew_ms)),
        })
    }

    /// The key that a token names, or the only one that fits when it names none.
    async fn key(&self, kid: Option<&str>, algorithm: Algorithm, anew: bool) -> Result<Option<Jwk>, Problem> {
        let keys = self.keys(anew).await?;
        let fitting = keys.keys.iter().filter(|key| fits(key, algorithm));
        Ok(match kid {
            Some(kid) => fitting.clone().find(|key| key.common.key_id.as_deref() == Some(kid)).cloned(),
            None => {
                let mut fitting = fitting;
                fitting.next().filter(|_| fitting.next().is_none()).cloned()
            }
        })
    }

    /// The provider's keys. Whoever waits for them waits for one fetch, not for each its own.
    async fn keys(&self, anew: bool) -> Result<Arc<JwkSet>, Problem> {
        let away = || {
            Problem::new(
                Code::Unavailable,
                "the identity provider's keys cannot be fetched: come again later",
            )
        };
        let mut cache = self.cache.lock().await;
        let age = |at: Instant| at.elapsed();
        if let Some((at, keys)) = &cache.fetched
            && age(*at) < KEYS_FRESH
            && !anew
        {
            return Ok(Arc::clone(keys));
        }
        // Unknown keys are cheap to name: nobody makes this node ask the provider all the time.
        let pause = if cache.fetched.is_some() { KEYS_PAUSE } else { Duration::from_secs(1) };
        if cache.tried.is_none_or(|at| age(at) >= pause) {
            cache.tried = Some(Instant::now());
            match self.read().await {
                Ok(keys) => {
                    let keys = Arc::new(keys);
                    cache.fetched = Some((Instant::now(), Arc::clone(&keys)));
                    return Ok(keys);
                }
                Err(error) => tracing::warn!("the identity provider's keys: {error}"),
            }
        }
        let kept = cache.fetched.as_ref().filter(|(at, _)| age(*at) < KEYS_LIFE);
        kept.map(|(_, keys)| Arc::clone(keys)).ok_or_else(away)
    }

    async fn read(&self) -> Result<JwkSet, String> {
        let bytes = match &self.keys {
            Keys::File(path) => {
                let path = path.clone();
                let read = move || read_file(&path);
                tokio::task::spawn_blocking(read).await.map_err(|error| error.to_string())??
            }
            Keys::Url(uri, tls) => {
                let fetched = timeout(KEYS_TIMEOUT, fetch::get(uri, tls, KEYS_BYTES_MAX)).await;
                fetched.map_err(|_| "no answer in time".to_owned())??.to_vec()
            }
        };
        serde_json::from_slice(&bytes).map_err(|error| format!("they are no set of keys: {error}"))
    }
}

fn read_file(path: &std::path::Path) -> Result<Vec<u8>, String> {
    use std::io::Read as _;
    let named = |error: std::io::Error| format!("read {}: {error}", path.display());
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(KEYS_BYTES_MAX as u64).read_to_end(&mut bytes))
        .map_err(named)?;
    Ok(bytes)
}

/// Algorithms whose checking key is no secret. With any other, whoever knows the public key could sign.
fn is_of_public_keys(algorithm: Algorithm) -> bool {
    !matches!(algorithm, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512)
}

/// May this key check this algorithm?
fn fits(key: &Jwk, algorithm: Algorithm) -> bool {
    let by_kind = match (&key.algorithm, algorithm) {
        (
            AlgorithmParameters::RSA(_),
            Algorithm::RS256
            | Algorithm::RS384
            | Algorithm::RS512
            | Algorithm::PS256
            | Algorithm::PS384
            | Algorithm::PS512,
        ) => true,
        (AlgorithmParameters::EllipticCurve(key), Algorithm::ES256) => key.curve == EllipticCurve::P256,
        (AlgorithmParameters::EllipticCurve(key), Algorithm::ES384) => key.curve == EllipticCurve::P384,
        (AlgorithmParameters::OctetKeyPair(key), Algorithm::EdDSA) => key.curve == EllipticCurve::Ed25519,
        _ => false,
    };
    let by_name =
        key.common.key_algorithm.as_ref().is_none_or(|named| named.to_string() == format!("{algorithm:?}"));
    let for_signatures = !matches!(key.common.public_key_use, Some(PublicKeyUse::Encryption));
    let operations = key.common.key_operations.as_ref();
    by_kind
        && by_name
        && for_signatures
        && operations.is_none_or(|operations| operations.contains(&KeyOperations::Verify))
}
