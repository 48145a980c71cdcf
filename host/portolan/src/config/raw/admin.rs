//! The section `[admin]` as it is written.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

/// Who may use the admin API.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawAdmin {
    /// What whoever shows a certificate is. Needs `[admin.tls]` with `client_ca`.
    #[serde(default)]
    pub(in crate::config) certificate: Vec<RawBinding>,
    /// Names by which the listener may be called, besides this machine's own; a browser's request by another is refused.
    #[serde(default)]
    pub(in crate::config) hosts: Vec<String>,
    /// An identity provider whose tokens are believed.
    pub(in crate::config) oidc: Option<RawOidc>,
    /// Origins of pages that may call, such as `https://console.example.com`, besides the listener's own.
    #[serde(default)]
    pub(in crate::config) origins: Vec<String>,
    /// TLS on the listener.
    pub(in crate::config) tls: Option<RawAdminTls>,
}

/// TLS on the admin listener.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawAdminTls {
    /// PEM file of the chain, the server's own first.
    pub(in crate::config) cert: PathBuf,
    /// PEM files of authorities of clients' certificates. Whoever shows none needs a token.
    #[serde(default)]
    pub(in crate::config) client_ca: Vec<PathBuf>,
    /// PEM file of the private key.
    pub(in crate::config) key: PathBuf,
}

/// What whoever shows a certificate is.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawBinding {
    /// An alternative name in it, such as `uri:spiffe://example.com/ops/alice`, `dns:ci.example.com` or
    /// `email:alice@example.com`.
    pub(in crate::config) name: String,
    /// `admin`, `auditor`, `operator`, `tenant-admin` or `tenant-dev`.
    pub(in crate::config) role: String,
    /// The tenant of a tenant's role.
    pub(in crate::config) tenant: Option<String>,
}

/// An identity provider.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawOidc {
    /// What its tokens must name as their audience.
    pub(in crate::config) audience: String,
    /// PEM file of the authorities of `keys`; the system's when absent.
    pub(in crate::config) ca: Option<PathBuf>,
    /// What its tokens must name as their issuer.
    pub(in crate::config) issuer: String,
    /// Its keys (a JWK set): an `https` URL, or a file.
    pub(in crate::config) keys: String,
    /// What claims make of their holder; the first that fits counts.
    #[serde(default)]
    pub(in crate::config) role: Vec<RawClaim>,
}

/// What a claim makes of its holder.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawClaim {
    /// Its name, such as `groups`.
    pub(in crate::config) claim: String,
    /// What it must be, or hold among its items.
    pub(in crate::config) is: String,
    /// `admin`, `auditor`, `operator`, `tenant-admin` or `tenant-dev`.
    pub(in crate::config) role: String,
    /// The claim that names the tenant, for a tenant's role.
    pub(in crate::config) tenant_claim: Option<String>,
}
