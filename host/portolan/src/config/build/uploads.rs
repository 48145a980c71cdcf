//! What uploads of plugins are held to: whose signatures count, how much a tenant may have, which registries may be named; and
//! the bucket of components.

use std::collections::BTreeSet;
use std::path::PathBuf;

use portolan_control::{S3Config, Shared};
use portolan_core::ids::TenantName;
use portolan_policy::{PublicKey, Trust, TrustedKey};

use super::{At, Builder};
use crate::config::defaults;
use crate::config::raw::{RawControl, RawKey, RawNeed, RawPolicies, RawQuota, RawS3};

/// What uploads are held to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Uploads {
    /// Registries that are spoken to without TLS.
    pub(crate) plain_http: Vec<String>,
    /// What one tenant may have.
    pub(crate) quota: Quota,
    /// Registries that tenants may name.
    pub(crate) registries: Vec<String>,
    /// Whose signatures count, and where they must.
    pub(crate) trust: Trust,
}

/// What one tenant may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quota {
    /// Bytes of all its versions.
    pub(crate) bytes: u64,
    /// Uploads that are compiled in a minute.
    pub(crate) compiles_per_minute: u32,
    /// Uploads that wait or are examined.
    pub(crate) queued: usize,
    /// Versions of all its plugins.
    pub(crate) versions: usize,
}

impl Default for Uploads {
    fn default() -> Self {
        Self {
            plain_http: Vec::new(),
            quota: Quota {
                bytes: defaults::QUOTA_BYTES,
                compiles_per_minute: defaults::QUOTA_COMPILES_PER_MINUTE,
                queued: defaults::QUOTA_QUEUED,
                versions: defaults::QUOTA_VERSIONS,
            },
            registries: Vec::new(),
            trust: Trust::default(),
        }
    }
}

impl Builder<'_> {
    pub(super) fn uploads(&mut self, raw: &RawPolicies) -> Uploads {
        let mut uploads = Uploads { quota: quota(&raw.quota), ..Uploads::default() };
        for (list, into) in [("registries", &raw.registries), ("plain_http", &raw.plain_http)] {
            for (index, host) in into.iter().enumerate() {
                if host.is_empty() || host.contains(['/', ' ', '@']) {
                    let help = "write a host as it stands in references: `ghcr.io`, `127.0.0.1:5000`";
                    self.problem(
                        &["policies", list, &index.to_string()],
                        format!("`{host}` is no registry"),
                        help,
                    );
                }
            }
        }
        uploads.registries.clone_from(&raw.registries);
        uploads.plain_http.clone_from(&raw.plain_http);
        uploads.trust.operator_verified = raw.require_signature.operator == RawNeed::Verified;
        uploads.trust.tenants_verified = raw.require_signature.tenants == RawNeed::Verified;
        for (index, key) in raw.key.iter().enumerate() {
            let index = index.to_string();
            let key = self.key(&["policies", "key", &index], key);
            uploads.trust.keys.extend(key);
        }
        if uploads.trust.keys.is_empty()
            && (uploads.trust.operator_verified || uploads.trust.tenants_verified)
        {
            let help =
                "add `[[policies.key]]` with `name` and `public`: `portolan plugin keygen` makes a pair";
            self.problem(
                &["policies", "require_signature"],
                "no key is trusted, so that nothing could ever run",
                help,
            );
        }
        uploads
    }

    fn key(&mut self, at: At<'_>, raw: &RawKey) -> Option<TrustedKey> {
        let public = PublicKey::parse(&raw.public);
        if let Err(error) = &public {
            self.problem(&[at, &["public"]].concat(), error, "`portolan plugin keygen` makes a pair of keys");
        }
        let tenants = raw.tenants.as_ref().map(|tenants| -> BTreeSet<TenantName> {
            let mut names = BTreeSet::new();
            for (index, name) in tenants.iter().enumerate() {
                let index = index.to_string();
                let at = [at, &["tenants", &index]].concat();
                names.extend(self.name(&at, name, TenantName::new));
            }
            names
        });
        Some(TrustedKey { name: raw.name.clone(), public: public.ok()?, tenants })
    }

    /// The place that all nodes share; `otherwise` when none is named.
    pub(super) fn shared(&mut self, raw: &RawControl, otherwise: Option<PathBuf>) -> Option<Shared> {
        match (&raw.components, &raw.s3) {
            (Some(_), Some(_)) => {
                let help = "name one: `components = \"FOLDER\"` or `[control.s3]`";
                self.problem(&["control", "s3"], "components are either in a folder or in a bucket", help);
                None
            }
            (Some(folder), None) => Some(Shared::Folder(self.folder.join(folder))),
            (None, Some(s3)) => self.s3("control", s3).map(|s3| Shared::S3(Box::new(s3))),
            (None, None) => otherwise.map(Shared::Folder),
        }
    }

    /// A bucket, of this section.
    pub(super) fn s3(&mut self, section: &str, raw: &RawS3) -> Option<S3Config> {
        let before = self.problems.len();
        if let Some(endpoint) = &raw.endpoint {
            let uri = endpoint.parse::<http::Uri>().ok();
            let good = uri.is_some_and(|uri| {
                matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some()
            });
            if !good {
                let help = "write `https://HOST:PORT`";
                self.problem(
                    &[section, "s3", "endpoint"],
                    format!("`{endpoint}` is no address of a store"),
                    help,
                );
            }
        }
        let file = raw.credentials_file.as_ref().map(|file| self.folder.join(file));
        let (mut access_key, mut session_token) = (None, None);
        match (&raw.access_key_id, &raw.secret_access_key, file) {
            (Some(id), Some(secret), None) => access_key = Some((id.clone(), secret.clone())),
            (None, None, None) => {}
            (None, None, Some(file)) => match std::fs::read_to_string(&file) {
                Ok(text) => {
                    let part = |name: &str| credential(&text, name);
                    access_key = part("aws_access_key_id").zip(part("aws_secret_access_key"));
                    session_token = part("aws_session_token");
                    if access_key.is_none() {
                        let help = "write `aws_access_key_id = ...` and `aws_secret_access_key = ...` into it, as Amazon's tools do";
                        self.problem(&[section, "s3", "credentials_file"], "the file has no key", help);
                    }
                }
                Err(error) => {
                    let message = format!("read {}: {error}", file.display());
                    self.problem(&[section, "s3", "credentials_file"], message, "let portolan read it");
                }
            },
            _ => {
                let help =
                    "give `access_key_id` and `secret_access_key`, or `credentials_file`, or none of them";
                self.problem(&[section, "s3"], "the key of the bucket is not whole", help);
            }
        }
        let config = S3Config {
            access_key,
            bucket: raw.bucket.clone(),
            endpoint: raw.endpoint.clone(),
            prefix: raw.prefix.clone(),
            region: raw.region.clone(),
            session_token,
        };
        (self.problems.len() == before).then_some(config)
    }
}

fn quota(raw: &RawQuota) -> Quota {
    let Quota { bytes, compiles_per_minute, queued, versions } = Uploads::default().quota;
    Quota {
        bytes: raw.bytes.unwrap_or(bytes),
        compiles_per_minute: raw.compiles_per_minute.unwrap_or(compiles_per_minute),
        queued: raw.queued.map_or(queued, |queued| queued as usize),
        versions: raw.versions.map_or(versions, |versions| versions as usize),
    }
}

/// A setting of a file as Amazon's tools read it; of the first profile that has it.
fn credential(text: &str, name: &str) -> Option<String> {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .find(|(key, _)| key.trim() == name)
        .map(|(_, value)| value.trim().to_owned())
}
