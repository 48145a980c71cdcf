//! The section `[admin]`: from what is written to what is meant.

use std::path::PathBuf;

use http::Uri;
use portolan_admin::{Claim, Role};
use portolan_core::ids::TenantName;

use super::{At, Builder, Listen};
use crate::config::raw::{RawAdmin, RawAdminTls, RawBinding, RawOidc};

/// Who may use the admin API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AdminConfig {
    pub(crate) certificates: Vec<(String, Role, Option<TenantName>)>,
    pub(crate) hosts: Vec<String>,
    pub(crate) oidc: Option<OidcConfig>,
    pub(crate) origins: Vec<String>,
    pub(crate) tls: Option<AdminTls>,
}

/// The files of the admin listener's TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AdminTls {
    pub(crate) cert: PathBuf,
    pub(crate) client_ca: Vec<PathBuf>,
    pub(crate) key: PathBuf,
}

/// An identity provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OidcConfig {
    pub(crate) audience: String,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) claims: Vec<Claim>,
    pub(crate) issuer: String,
    pub(crate) keys: OidcKeys,
}

/// Where its keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OidcKeys {
    File(PathBuf),
    Url(Uri),
}

impl Builder<'_> {
    pub(super) fn admin(&mut self, raw: RawAdmin, listen: &Listen) -> AdminConfig {
        let tls = raw.tls.map(|RawAdminTls { cert, client_ca, key }| AdminTls {
            cert: self.folder.join(cert),
            client_ca: client_ca.into_iter().map(|path| self.folder.join(path)).collect(),
            key: self.folder.join(key),
        });
        if tls.is_none() && listen.admin.is_some_and(|address| !address.ip().is_loopback()) {
            let help = "add `[admin.tls]` with `cert` and `key`, or listen on 127.0.0.1";
            self.problem(&["listen", "admin"], "tokens would cross the network in cleartext", help);
        }
        if !raw.certificate.is_empty() && tls.as_ref().is_none_or(|tls| tls.client_ca.is_empty()) {
            let help = "add `[admin.tls]` with `client_ca`";
            self.problem(&["admin", "certificate"], "no client's certificate would ever be checked", help);
        }
        for (index, origin) in raw.origins.iter().enumerate() {
            let uri = origin.parse::<Uri>().ok();
            let good =
                uri.is_some_and(|uri| uri.scheme().is_some() && uri.path() == "/" && !origin.ends_with('/'));
            if !good {
                let at = ["admin", "origins", &index.to_string()];
                self.problem(&at, format!("`{origin}` is no origin"), "write `https://console.example.com`");
            }
        }
        let bindings = (0_usize..).zip(raw.certificate);
        AdminConfig {
            certificates: bindings.filter_map(|(index, one)| self.binding(&index.to_string(), one)).collect(),
            hosts: raw.hosts,
            oidc: raw.oidc.and_then(|oidc| self.oidc(oidc)),
            origins: raw.origins,
            tls,
        }
    }

    fn binding(&mut self, index: &str, raw: RawBinding) -> Option<(String, Role, Option<TenantName>)> {
        let at = ["admin", "certificate", index];
        if !["dns:", "email:", "uri:"]
            .iter()
            .any(|kind| raw.name.len() > kind.len() && raw.name.starts_with(kind))
        {
            let help = "begin it with its kind: `uri:`, `dns:` or `email:`";
            self.problem(&[&at[..], &["name"]].concat(), format!("`{}` is no name", raw.name), help);
        }
        let role = self.role(&[&at[..], &["role"]].concat(), &raw.role)?;
        let tenant =
            raw.tenant.and_then(|name| self.name(&[&at[..], &["tenant"]].concat(), &name, TenantName::new));
        if role.is_of_tenant() != tenant.is_some() {
            self.problem(&at, "a tenant's role needs a `tenant`, another has none", "add or remove `tenant`");
            return None;
        }
        Some((raw.name, role, tenant))
    }

    fn oidc(&mut self, raw: RawOidc) -> Option<OidcConfig> {
        let claims = (0_usize..).zip(raw.role).filter_map(|(index, claim)| {
            let index = index.to_string();
            let at = ["admin", "oidc", "role", &index];
            let role = self.role(&[&at[..], &["role"]].concat(), &claim.role)?;
            if role.is_of_tenant() != claim.tenant_claim.is_some() {
                let help = "add or remove `tenant_claim`";
                self.problem(&at, "a tenant's role needs a `tenant_claim`, another has none", help);
            }
            Some(Claim { name: claim.claim, is: claim.is, role, tenant_claim: claim.tenant_claim })
        });
        let claims: Vec<Claim> = claims.collect();
        if claims.is_empty() {
            let help = "add `[[admin.oidc.role]]` with `claim`, `is` and `role`";
            self.problem(&["admin", "oidc"], "nobody would have a role", help);
        }
        let keys = if raw.keys.contains("://") {
            let uri = raw.keys.parse::<Uri>().ok();
            let Some(uri) = uri.filter(|uri| uri.scheme_str() == Some("https") && uri.host().is_some())
            else {
                let help = "write an `https://` URL, or the name of a file";
                self.problem(&["admin", "oidc", "keys"], format!("`{}` is no place of keys", raw.keys), help);
                return None;
            };
            OidcKeys::Url(uri)
        } else {
            OidcKeys::File(self.folder.join(raw.keys))
        };
        let ca = raw.ca.map(|path| self.folder.join(path));
        Some(OidcConfig { audience: raw.audience, ca, claims, issuer: raw.issuer, keys })
    }

    fn role(&mut self, at: At<'_>, text: &str) -> Option<Role> {
        match text.parse() {
            Ok(role) => Some(role),
            Err(error) => {
                let error: String = error;
                self.problem(at, format!("this is no role: {error}"), "name one of them");
                None
            }
        }
    }
}
