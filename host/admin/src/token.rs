//! Portolan's own tokens: `ptl_ID_SECRET`. Only the secret's hash is kept, so that whoever reads the store can use none.

use std::collections::BTreeSet;

use portolan_core::ids::TenantName;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::backend::{Body, Key};
use crate::caller::{Role, Scope};
use crate::problem::Problem;

/// The kind of objects that tokens are.
pub const TOKEN_KIND: &str = "token";
/// What tokens begin with, so that they are recognised wherever they are found.
pub(crate) const PREFIX: &str = "ptl_";
/// Bytes of an id, before it is written in hexadecimal.
const ID_BYTES: usize = 8;
/// Bytes of a secret: nobody guesses one in the life of the sun, so that a plain hash is enough.
const SECRET_BYTES: usize = 32;

/// What is kept of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRecord {
    /// When it was made, in milliseconds since 1970.
    pub created_at_ms: u64,
    /// By whom.
    pub created_by: String,
    /// When it ends.
    pub expires_at_ms: u64,
    /// The SHA-256 of its secret, in hexadecimal.
    pub hash: String,
    /// What people call it.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// What it may, when that is less than its role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<BTreeSet<Scope>>,
    /// Whose it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantName>,
}

/// A token as its holder sends it.
#[derive(Debug)]
pub(crate) struct Presented<'t> {
    pub(crate) id: &'t str,
    secret: &'t str,
}

impl<'t> Presented<'t> {
    /// Takes a text apart; none when it is no token of portolan.
    pub(crate) fn parse(text: &'t str) -> Option<Self> {
        let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        let hexadecimal = |text: &str, bytes: usize| {
            text.len() == 2 * bytes && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        (hexadecimal(id, ID_BYTES) && hexadecimal(secret, SECRET_BYTES)).then_some(Self { id, secret })
    }

    /// Is it the one that is kept? Takes as long for a wrong secret as for the right one.
    pub(crate) fn is(&self, record: &TokenRecord) -> bool {
        hash(self.secret).as_bytes().ct_eq(record.hash.as_bytes()).into()
    }
}

/// A new token: its id, and the text for its holder, which is never seen again.
pub(crate) fn draw() -> Result<(String, String, String), Problem> {
    let mut bytes = [0; ID_BYTES + SECRET_BYTES];
    getrandom::fill(&mut bytes).map_err(|error| Problem::internal(format!("draw a token: {error}")))?;
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let (id, secret) = text.split_at_checked(2 * ID_BYTES).unwrap_or_default();
    Ok((id.to_owned(), format!("{PREFIX}{id}_{secret}"), hash(secret)))
}

/// The key of a token's object.
pub(crate) fn key(id: &str) -> Key {
    Key { kind: TOKEN_KIND.to_owned(), name: id.to_owned() }
}

/// What an object says of a token; none when it does not read, which is then no token.
#[must_use]
pub fn record(body: &Body) -> Option<TokenRecord> {
    serde_json::from_value(serde_json::Value::Object(body.clone())).ok()
}

fn hash(secret: &str) -> String {
    Sha256::digest(secret.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}
