//! Components in registries of images, as the OCI distribution specification 1.1 has them.
//!
//! Read are the layout of the CNCF's working group (one layer `application/wasm`), the two before it that name the layer for
//! Wasm, and images whose only layer is an archive with `plugin.wasm`. A tag is resolved once, when it is pushed: what is kept
//! says the digest of the manifest.

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use portolan_policy::{Refused, Stage};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode, Url};
use serde::Deserialize;
use serde_json::Value;

use super::credentials::{self, Credentials};

/// How registries are named to be told from files.
pub(crate) const SCHEME: &str = "oci://";
/// What manifests may be asked for.
const MANIFESTS: &str =
    "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";
/// Layers that are a component, newest layout first.
const COMPONENTS: [&str; 3] = [
    "application/wasm",
    "application/vnd.wasm.content.layer.v1+wasm",
    "application/vnd.module.wasm.content.layer.v1+wasm",
];
/// Layers that are archives.
const ARCHIVES: [&str; 2] =
    ["application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.docker.image.rootfs.diff.tar.gzip"];
/// The component in an archive.
const IN_ARCHIVE: &str = "plugin.wasm";
/// Bytes of a manifest, as registries bound them.
const MANIFEST_BYTES_MAX: usize = 4 << 20;
/// Bytes of a token's answer.
const TOKEN_BYTES_MAX: usize = 64 * 1024;
/// How long one answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// As what this program asks for tokens.
const CLIENT_ID: &str = "portolan";

/// What a reference names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(crate) host: String,
    repository: String,
    /// A tag, or `sha256:` and a digest.
    version: String,
}

impl Reference {
    /// Reads `oci://HOST/REPOSITORY:TAG`, or `...@sha256:DIGEST`.
    ///
    /// # Errors
    /// What a reference is.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is no reference: write {SCHEME}HOST/REPOSITORY:TAG, or @sha256:DIGEST");
        let rest = text.strip_prefix(SCHEME).ok_or_else(wrong)?;
        let (host, path) = rest.split_once('/').ok_or_else(wrong)?;
        let (repository, version) = match path.split_once('@') {
            Some((repository, digest)) => (repository, digest),
            None => path.rsplit_once(':').ok_or_else(wrong)?,
        };
        let plain = |text: &str, more: &str, max: usize| {
            let good = |byte: char| byte.is_ascii_alphanumeric() || more.contains(byte);
            !text.is_empty() && text.len() <= max && text.chars().all(good)
        };
        // Parts of a path are never `.` or `..`: the name would leave its place on the server.
        let of_path = |part: &str| plain(part, "._-", 128) && !part.chars().all(|byte| byte == '.');
        let digest = version.strip_prefix("sha256:");
        let versioned = match digest {
            Some(digest) => digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()),
            None => of_path(version),
        };
        let whole =
            plain(host, ".-:[]", 255) && repository.len() <= 255 && repository.split('/').all(of_path);
        if !whole || !versioned {
            return Err(wrong());
        }
        Ok(Self { host: host.to_owned(), repository: repository.to_owned(), version: version.to_owned() })
    }

    fn with(&self, digest: &str) -> String {
        format!("{SCHEME}{}/{}@{digest}", self.host, self.repository)
    }
}

#[derive(Debug, Deserialize)]
struct Manifest {
    #[serde(default)]
    layers: Vec<Layer>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layer {
    digest: String,
    media_type: String,
    size: u64,
}

/// A registry, and what it is asked with.
struct Asking<'r> {
    authorization: Option<String>,
    client: Client,
    /// Docker's folder.
    docker: Option<&'r Path>,
    plain: bool,
    reference: &'r Reference,
    /// For requests that bring passwords: it follows nobody elsewhere.
    tokens: Client,
}

/// Fetches a component; gives also where it is, with its manifest's digest. Passwords are those of `docker login`, in docker's
/// folder.
///
/// # Errors
/// [`Refused`] at [`Stage::Read`].
pub(crate) async fn pull(
    reference: &Reference,
    plain: bool,
    docker: Option<&Path>,
    bytes_max: usize,
) -> Result<(Vec<u8>, String), Refused> {
    // Blobs may lie elsewhere, but nothing that was asked for over TLS is fetched without.
    let client = |redirects| {
        let client = Client::builder().timeout(ANSWER_TIMEOUT).https_only(!plain).redirect(redirects);
        client.build().map_err(|error| refused(reference, &error.to_string(), "report this, please"))
    };
    let (client, tokens) = (client(Policy::default())?, client(Policy::none())?);
    let mut asking = Asking { authorization: None, client, docker, plain, reference, tokens };
    let answer = asking.get(&format!("manifests/{}", reference.version), MANIFESTS).await?;
    let text = asking.read(answer, MANIFEST_BYTES_MAX).await?;
    let digest = format!("sha256:{}", portolan_policy::digest(&text));
    if reference.version.starts_with("sha256:") && !reference.version.eq_ignore_ascii_case(&digest) {
        let other = "the registry gives another manifest than was asked for";
        return Err(refused(reference, other, "ask whoever keeps the registry"));
    }
    let layer = layer(reference, &text)?;
    if layer.size > bytes_max as u64 && COMPONENTS.contains(&layer.media_type.as_str()) {
        let large = format!("the component has {} bytes; {bytes_max} are allowed", layer.size);
        return Err(refused(reference, &large, "make it smaller, or have an operator raise component_bytes"));
    }
    let answer = asking.get(&format!("blobs/{}", layer.digest), "*/*").await?;
    let bytes = asking.read(answer, bytes_max).await?;
    if format!("sha256:{}", portolan_policy::digest(&bytes)) != layer.digest {
        let broken = "the bytes are not those that the manifest names";
        return Err(refused(reference, broken, "push the image to its registry again"));
    }
    let component = if ARCHIVES.contains(&layer.media_type.as_str()) {
        unpacked(&bytes, bytes_max)
            .map_err(|why| refused(reference, &why, "push a layer `application/wasm`"))?
    } else {
        bytes
    };
    Ok((component, reference.with(&digest)))
}

/// The one layer that holds the component.
fn layer(reference: &Reference, text: &[u8]) -> Result<Layer, Refused> {
    let manifest: Manifest = serde_json::from_slice(text).map_err(|error| {
        refused(
            reference,
            &format!("its manifest does not read: {error}"),
            "name an image, not a list of them",
        )
    })?;
    let found: Vec<&str> = manifest.layers.iter().map(|layer| layer.media_type.as_str()).collect();
    let layout = format!(
        "one layer of {} is expected, and the image has [{}]",
        [&COMPONENTS[..], &ARCHIVES].concat().join(", "),
        found.join(", ")
    );
    let is_known = |layer: &Layer| {
        let kind = layer.media_type.as_str();
        COMPONENTS.contains(&kind) || ARCHIVES.contains(&kind)
    };
    let fix = "push it as the CNCF's Wasm layout says: `wkg oci push`, or `oras push` with application/wasm";
    match <[Layer; 1]>::try_from(manifest.layers) {
        Ok([layer]) if is_known(&layer) => Ok(layer),
        _ => Err(refused(reference, &layout, fix)),
    }
}

fn unpacked(bytes: &[u8], bytes_max: usize) -> Result<Vec<u8>, String> {
    // What it grows to is bounded, whatever the archive says.
    let bound = (bytes_max as u64).saturating_add(1 << 20);
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(bytes).take(bound));
    let entries = archive.entries().map_err(|error| format!("its archive does not read: {error}"))?;
    for entry in entries {
        let entry = entry.map_err(|error| format!("its archive does not read: {error}"))?;
        let is_it = entry.path().is_ok_and(|path| path.file_name().is_some_and(|name| name == IN_ARCHIVE));
        if is_it && entry.header().entry_type().is_file() {
            let mut component = Vec::new();
            let read = entry.take(bytes_max as u64 + 1).read_to_end(&mut component);
            read.map_err(|error| format!("its archive does not read: {error}"))?;
            if component.len() > bytes_max {
                return Err(format!("its {IN_ARCHIVE} has more than {bytes_max} bytes"));
            }
            return Ok(component);
        }
    }
    Err(format!("its archive has no {IN_ARCHIVE} within {bound} bytes"))
}

impl Asking<'_> {
    async fn get(&mut self, what: &str, accept: &str) -> Result<Response, Refused> {
        let Reference { host, repository, .. } = self.reference;
        let scheme = if self.plain { "http" } else { "https" };
        let url = format!("{scheme}://{host}/v2/{repository}/{what}");
        let mut answer = self.once(&url, accept).await?;
        if answer.status() == StatusCode::UNAUTHORIZED && self.authorization.is_none() {
            let challenges = answer.headers().get_all(WWW_AUTHENTICATE).iter();
            let challenges: Vec<String> =
                challenges.filter_map(|value| value.to_str().ok().map(str::to_owned)).collect();
            self.authorization = self.authorize(&challenges).await?;
            answer = self.once(&url, accept).await?;
        }
        match answer.status() {
            status if status.is_success() => Ok(answer),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let fix = format!("`docker login {host}` as the user of the node, or make the image public");
                Err(self.refused("the registry wants a password that it was not given", &fix))
            }
            StatusCode::NOT_FOUND => {
                Err(self.refused("the registry does not have it", "look at the name and the tag"))
            }
            status => Err(self.later(&format!("the registry answers {status}"))),
        }
    }

    async fn once(&self, url: &str, accept: &str) -> Result<Response, Refused> {
        let mut request = self.client.get(url).header(ACCEPT, accept);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        request.send().await.map_err(|error| self.later(&chain(&error)))
    }

    /// Answers a challenge (RFC 9110, section 11.6.1; the token's way is the distribution project's). Of several, the one for a
    /// token is answered: it says less of the password.
    async fn authorize(&self, challenges: &[String]) -> Result<Option<String>, Refused> {
        let is = |kind: &str| {
            let mut split =
                challenges.iter().map(|challenge| challenge.split_once(' ').unwrap_or((challenge, "")));
            split.find(|(named, _)| named.eq_ignore_ascii_case(kind)).map(|(_, rest)| rest)
        };
        let found = credentials::find(self.docker, &self.reference.host).await.map_err(|why| {
            let fix = format!(
                "mend docker's config.json of the user of the node, or `docker login {}`",
                self.reference.host
            );
            self.refused(&format!("its password cannot be had: {why}"), &fix)
        })?;
        if let Credentials::Registry(token) = &found {
            return Ok(Some(format!("Bearer {token}")));
        }
        match (is("bearer").and_then(|rest| Some((parameter(rest, "realm")?, rest))), found) {
            (Some((realm, rest)), found) => self.token(&realm, rest, found).await,
            (None, Credentials::Password(basic)) if is("basic").is_some() => {
                Ok(Some(format!("Basic {basic}")))
            }
            _ => Ok(None),
        }
    }

    /// Asks for a token where the registry says that it is given.
    async fn token(&self, realm: &str, rest: &str, found: Credentials) -> Result<Option<String>, Refused> {
        let mut realm = Url::parse(realm).map_err(|error| {
            self.refused(&format!("its realm `{realm}` is no URL: {error}"), "ask its keeper")
        })?;
        if realm.scheme() != "https" && !self.plain {
            return Err(
                self.refused("it sends its callers' passwords over plain HTTP", "use another registry")
            );
        }
        let reads = || format!("repository:{}:pull", self.reference.repository);
        let mut asked = vec![("scope", parameter(rest, "scope").unwrap_or_else(reads))];
        asked.extend(parameter(rest, "service").map(|service| ("service", service)));
        let request = if let Credentials::Identity(token) = found {
            asked.extend([("client_id", CLIENT_ID.to_owned()), ("grant_type", "refresh_token".to_owned())]);
            asked.push(("refresh_token", token));
            let mut form = Url::clone(&realm);
            form.query_pairs_mut().clear().extend_pairs(&asked);
            let content = form.query().unwrap_or_default().to_owned();
            self.tokens.post(realm).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(content)
        } else {
            realm.query_pairs_mut().extend_pairs(&asked);
            let request = self.tokens.get(realm);
            match found {
                Credentials::Password(basic) => request.header(AUTHORIZATION, format!("Basic {basic}")),
                _ => request,
            }
        };
        let answer = request.send().await.map_err(|error| self.later(&chain(&error)))?;
        match answer.status() {
            status if status.is_success() => {}
            status if status.is_server_error() => {
                return Err(self.later(&format!("where its tokens are given, the answer is {status}")));
            }
            status => {
                let fix = format!("`docker login {}` as the user of the node", self.reference.host);
                return Err(self.refused(&format!("no token is given: {status}"), &fix));
            }
        }
        let told = self.read(answer, TOKEN_BYTES_MAX).await?;
        let told: Value = serde_json::from_slice(&told)
            .map_err(|error| self.refused(&format!("its token does not read: {error}"), "ask its keeper"))?;
        let token = told.get("token").or_else(|| told.get("access_token")).and_then(Value::as_str);
        Ok(token.map(|token| format!("Bearer {token}")))
    }

    async fn read(&self, mut answer: Response, bytes_max: usize) -> Result<Vec<u8>, Refused> {
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| self.later(&chain(&error)))? {
            if bytes.len() + chunk.len() > bytes_max {
                let large = format!("it has more than {bytes_max} bytes");
                return Err(
                    self.refused(&large, "make it smaller, or have an operator raise component_bytes")
                );
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    fn refused(&self, why: &str, fix: &str) -> Refused {
        refused(self.reference, why, fix)
    }

    fn later(&self, why: &str) -> Refused {
        let mut refused = self.refused(why, "look whether the registry is up and can be reached; push again");
        refused.transient = true;
        refused
    }
}

/// A parameter of a challenge.
fn parameter(challenge: &str, name: &str) -> Option<String> {
    let (_, rest) = challenge.split_once(&format!("{name}=\""))?;
    rest.split_once('"').map(|(value, _)| value.to_owned())
}

fn refused(reference: &Reference, why: &str, fix: &str) -> Refused {
    let Reference { host, repository, version } = reference;
    Refused::new(Stage::Read, format!("{SCHEME}{host}/{repository}, {version}: {why}"), fix)
}

/// An error with its causes, without the address that is told anyway.
fn chain(error: &reqwest::Error) -> String {
    use std::error::Error as _;
    let mut text = String::from("it cannot be asked");
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_name_host_repository_and_version() {
        let good = |text: &str| Reference::parse(text).unwrap();
        let tagged = good("oci://ghcr.io/acme/policies/canary:1.2");
        assert_eq!(
            (tagged.host.as_str(), tagged.repository.as_str(), tagged.version.as_str()),
            ("ghcr.io", "acme/policies/canary", "1.2")
        );
        let digest = "ab".repeat(32);
        assert_eq!(good(&format!("oci://[::1]:5000/a@sha256:{digest}")).version, format!("sha256:{digest}"));
        for wrong in [
            "ghcr.io/acme:1",
            "oci://ghcr.io",
            "oci://ghcr.io/acme",
            "oci:///acme:1",
            "oci://ghcr.io/../acme:1",
            "oci://ghcr.io/acme:1/..",
            "oci://ghcr.io/acme@sha256:12",
            "oci://user@ghcr.io/acme:1",
            "oci://ghcr.io/acme:1?x=y",
            "oci://ghcr.io/acme:",
        ] {
            assert!(Reference::parse(wrong).unwrap_err().contains("is no reference"), "{wrong}");
        }
    }

    #[test]
    fn an_archive_that_grows_is_cut_off() {
        let mut builder =
            tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best()));
        let mut header = tar::Header::new_gnu();
        header.set_size(8 << 20);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, IN_ARCHIVE, &vec![0; 8 << 20][..]).unwrap();
        let bytes = builder.into_inner().unwrap().finish().unwrap();
        assert_eq!(unpacked(&bytes, 8 << 20).unwrap().len(), 8 << 20);
        assert!(unpacked(&bytes, 1 << 20).unwrap_err().contains("has more than 1048576 bytes"));
        assert!(unpacked(&bytes[..bytes.len() / 2], 8 << 20).is_err());
    }
}
