//! Passwords of registries, as `docker login` keeps them: in `config.json`, or with a helper (`docker-credential-NAME`) that the
//! file names. The file is the user's own; what a helper may take of time and say is bounded.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

/// The file within docker's folder.
const FILE: &str = "config.json";
/// Bytes of it: some hundred registries.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// What helpers' programs are called, before their names.
const HELPER: &str = "docker-credential-";
/// Bytes of a helper's answer; tokens of clouds have some thousand.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
/// How long a helper may take: some ask their cloud.
const HELPER_TIMEOUT: Duration = Duration::from_secs(20);
/// The user that a helper names when the secret is a token.
const TOKEN_USER: &str = "<token>";
/// What helpers say of a registry that they do not know.
const NOT_FOUND: &str = "credentials not found";
/// Names of one registry, which keeps its passwords under a fourth one.
const HUB: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];
/// That one.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// What a registry is asked with.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credentials {
    /// A token by which others are had.
    Identity(String),
    /// Nothing: what is public can be read.
    None,
    /// User and password, as `Authorization: Basic` has them.
    Password(String),
    /// A token that the registry itself takes.
    Registry(String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Identity(_) => "Identity",
            Self::None => "None",
            Self::Password(_) => "Password",
            Self::Registry(_) => "Registry",
        })
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct File {
    auths: HashMap<String, Entry>,
    cred_helpers: HashMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    identitytoken: Option<String>,
    password: Option<String>,
    registrytoken: Option<String>,
    username: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Told {
    secret: String,
    username: String,
}

/// What is known of a registry in docker's folder. A registry that nobody logged in to has nothing.
///
/// # Errors
/// When the file or a helper cannot be used; then nobody knows whether something was meant.
pub(super) async fn find(folder: Option<&Path>, host: &str) -> Result<Credentials, String> {
    let Some(file) = folder.map(|folder| folder.join(FILE)).filter(|file| file.exists()) else {
        return Ok(Credentials::None);
    };
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    let mut text = Vec::new();
    std::fs::File::open(&file)
        .and_then(|opened| opened.take(FILE_BYTES_MAX).read_to_end(&mut text))
        .map_err(|error| named(&error))?;
    let known: File = serde_json::from_slice(&text).map_err(|error| named(&error))?;
    let keys = keys(host);
    let named = keys.iter().find_map(|key| known.cred_helpers.get(key));
    for helper in named.into_iter().chain(known.creds_store.as_ref().filter(|_| named.is_none())) {
        for key in &keys {
            let found = ask(helper, key).await?;
            if found != Credentials::None {
                return Ok(found);
            }
        }
    }
    keys.iter().find_map(|key| known.auths.get(key)).map_or(Ok(Credentials::None), Entry::read)
}

/// By which names a registry may stand in the file.
fn keys(host: &str) -> Vec<String> {
    if HUB.contains(&host) {
        return vec![HUB_KEY.to_owned()];
    }
    ["", "https://", "http://"]
        .iter()
        .flat_map(|scheme| ["", "/v1/", "/v2/"].map(|path| format!("{scheme}{host}{path}")))
        .filter(|key| !key.starts_with(host) || key == host)
        .collect()
}

impl Entry {
    fn read(&self) -> Result<Credentials, String> {
        let set = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = set(&self.identitytoken) {
            return Ok(Credentials::Identity(token));
        }
        if let Some(token) = set(&self.registrytoken) {
            return Ok(Credentials::Registry(token));
        }
        if let Some(auth) = set(&self.auth) {
            let pair = STANDARD.decode(&auth).ok().filter(|pair| pair.contains(&b':'));
            return match pair {
                Some(_) => Ok(Credentials::Password(auth)),
                None => Err("`auth` in docker's config.json is no user and password in base64".to_owned()),
            };
        }
        Ok(match (set(&self.username), set(&self.password)) {
            (Some(user), Some(password)) => Credentials::Password(basic(&user, &password)),
            _ => Credentials::None,
        })
    }
}

fn basic(user: &str, password: &str) -> String {
    STANDARD.encode(format!("{user}:{password}"))
}

/// Asks a helper for a registry.
async fn ask(helper: &str, key: &str) -> Result<Credentials, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if helper.is_empty() || helper.len() > 64 || !helper.bytes().all(plain) {
        return Err(format!("`{helper}` in docker's config.json is no name of a credential helper"));
    }
    let program = format!("{HELPER}{helper}");
    let asked = tokio::time::timeout(HELPER_TIMEOUT, run(&program, key)).await;
    match asked {
        Ok(answer) => answer.map_err(|why| format!("{program}: {why}")),
        Err(_) => Err(format!("{program}: no answer within {} s", HELPER_TIMEOUT.as_secs())),
    }
}

async fn run(program: &str, key: &str) -> Result<Credentials, String> {
    let mut command = Command::new(program);
    // What is not waited for any more is ended.
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| format!("it does not start: {error}"))?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let told = async {
        if let Some(mut stdin) = stdin {
            // One that does not read what it is asked may know it otherwise.
            stdin.write_all(key.as_bytes()).await.ok();
        }
    };
    let heard = async {
        let mut answer = Vec::new();
        if let Some(stdout) = stdout {
            stdout.take(ANSWER_BYTES_MAX + 1).read_to_end(&mut answer).await?;
        }
        std::io::Result::Ok(answer)
    };
    let ((), answer) = tokio::join!(told, heard);
    let answer = answer.map_err(|error| format!("its answer cannot be read: {error}"))?;
    if answer.len() as u64 > ANSWER_BYTES_MAX {
        return Err(format!("its answer has more than {ANSWER_BYTES_MAX} bytes"));
    }
    let ended = child.wait().await.map_err(|error| format!("it cannot be waited for: {error}"))?;
    if !ended.success() {
        let text = String::from_utf8_lossy(&answer);
        // Helpers tell of failures on standard output.
        let first: String = text.lines().next().unwrap_or_default().chars().take(200).collect();
        return match first.contains(NOT_FOUND) {
            true => Ok(Credentials::None),
            false => Err(format!("it ends with {ended}: {}", first.escape_debug())),
        };
    }
    let told: Told = serde_json::from_slice(&answer).map_err(|_| "its answer does not read".to_owned())?;
    Ok(match told.username.as_str() {
        TOKEN_USER => Credentials::Identity(told.secret),
        user => Credentials::Password(basic(user, &told.secret)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn found(file: &str, host: &str) -> Result<Credentials, String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), file).unwrap();
        find(Some(folder.path()), host).await
    }

    #[tokio::test]
    async fn entries_read_as_docker_writes_them() {
        let auth = basic("alice", "secret:with:colons");
        let password = || Ok(Credentials::Password(auth.clone()));
        for key in [
            "r.example:5000",
            "https://r.example:5000",
            "https://r.example:5000/v1/",
            "http://r.example:5000/v2/",
        ] {
            let file = format!(r#"{{ "auths": {{ "{key}": {{ "auth": "{auth}" }} }}, "credsStore": null }}"#);
            assert_eq!(found(&file, "r.example:5000").await, password(), "{key}");
            assert_eq!(found(&file, "r.example").await, Ok(Credentials::None), "{key}");
        }
        let apart = r#"{ "auths": { "r": { "username": "alice", "password": "secret:with:colons" } } }"#;
        assert_eq!(found(apart, "r").await, password());
        let hub = format!(r#"{{ "auths": {{ "{HUB_KEY}": {{ "auth": "{auth}" }} }} }}"#);
        assert_eq!(found(&hub, "registry-1.docker.io").await, password());
        let tokens = r#"{ "auths": { "a": { "identitytoken": "i", "auth": "" }, "b": { "registrytoken": "r" }, "c": {} } }"#;
        assert_eq!(found(tokens, "a").await, Ok(Credentials::Identity("i".to_owned())));
        assert_eq!(found(tokens, "b").await, Ok(Credentials::Registry("r".to_owned())));
        assert_eq!(found(tokens, "c").await, Ok(Credentials::None));
        assert_eq!(find(None, "a").await, Ok(Credentials::None));
        for (bad, says) in [
            ("{", "config.json"),
            (r#"{ "auths": { "a": { "auth": "%%" } } }"#, "no user and password"),
            (r#"{ "credHelpers": { "a": "../x" } }"#, "no name of a credential helper"),
            (r#"{ "credsStore": "there-is-none-of-this-name" }"#, "it does not start"),
        ] {
            assert!(found(bad, "a").await.unwrap_err().contains(says), "{bad}");
        }
        assert!(!format!("{:?}", Credentials::Identity("secret".to_owned())).contains("secret"));
    }
}
