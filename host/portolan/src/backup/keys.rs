//! The node's own files in a backup: its configuration, certificates and keys, sealed for whoever is to restore them.
//!
//! HPKE (RFC 9180, base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM): a machine that takes backups has the public key alone,
//! and cannot open what it took before. The backup's number is authenticated with the files, so that those of another backup do
//! not pass for its own.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use portolan_sharding::backup::{Folder, Opened};
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256 as SUITE;
use rustls::crypto::hpke::{EncapsulatedSecret, Hpke as _, HpkePrivateKey, HpkePublicKey};
use serde::{Deserialize, Serialize};

use crate::config::{Loaded, Source, intent};
use crate::{node, print};

/// Where they are in a backup: the encapsulated key, then the sealed files.
const SEALED: &str = "keys.hpke";
/// What a key is for is a part of what it seals.
const INFO: &[u8] = b"portolan backup keys 1";
/// Bytes of an X25519 key (RFC 7748), and so of an encapsulated one (RFC 9180, section 7.1).
const KEY_BYTES: usize = 32;
const SECRET_PREFIX: &str = "portolan-backup-secret-1:";
const PUBLIC_PREFIX: &str = "portolan-backup-1:";
/// Bytes of one file, and of all.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
const FILES_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Settings that name files of secrets and what belongs to them, beside those that end with `_file`.
const SETTINGS: [&str; 5] = ["ca", "cert", "client_ca", "debug_key", "key"];
/// What tenants may say: no file of the node's is named there.
const TENANTS: &str = "tenant";
/// Where files come back that lay outside the configuration's folder.
const ELSEWHERE: &str = "elsewhere";

/// What is sealed: files by their paths, as the configuration names them.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Files {
    files: BTreeMap<PathBuf, String>,
}

/// `portolan backup-key`: makes the pair of keys.
///
/// # Errors
/// When the file is there already, or cannot be written.
pub(crate) fn make(file: &Path) -> anyhow::Result<()> {
    let (public, secret) = SUITE.generate_key_pair().context("make a pair of keys")?;
    let public = format!("{PUBLIC_PREFIX}{}", BASE64.encode(public.0));
    let text = format!("# {public}\n{SECRET_PREFIX}{}\n", BASE64.encode(secret.secret_bytes()));
    write(file, text.as_bytes()).context("choose another name: a key is never written over")?;
    print(&format!(
        "wrote {}, which opens the keys of backups: keep it away from what is backed up\nseal with\n\n  \
         portolan backup --to FOLDER --keys {public}",
        file.display()
    ))
}

/// Adds the files of a node to a backup that becomes one.
pub(super) fn seal(
    recipient: &str,
    id: &str,
    loaded: &Loaded,
    config: &Path,
    folder: &mut Folder,
) -> anyhow::Result<Vec<PathBuf>> {
    let public = recipient.strip_prefix(PUBLIC_PREFIX).and_then(|text| BASE64.decode(text).ok());
    let public = public.filter(|key| key.len() == KEY_BYTES).with_context(|| {
        format!("`{recipient}` is no key of `portolan backup-key`, which begins with `{PUBLIC_PREFIX}`")
    })?;
    let files = gather(loaded, config)?;
    let text = serde_json::to_vec(&files).context("write down the files")?;
    let sealed = SUITE.seal(INFO, id.as_bytes(), &text, &HpkePublicKey(public));
    let (EncapsulatedSecret(key), sealed) = sealed.context("seal the keys")?;
    folder.add(SEALED, &[key, sealed].concat())?;
    Ok(files.files.into_keys().collect())
}

/// Writes the files of the newest backup that has some into a folder.
///
/// # Errors
/// When the key is another one, the backup has none, or something is there already.
pub(super) fn open(backups: &[Opened], identity: &Path, to: &Path) -> anyhow::Result<ExitCode> {
    let text =
        std::fs::read_to_string(identity).with_context(|| format!("read the key {}", identity.display()))?;
    let secret = text.lines().find_map(|line| line.trim().strip_prefix(SECRET_PREFIX));
    let secret = secret.and_then(|text| BASE64.decode(text).ok()).filter(|key| key.len() == KEY_BYTES);
    let secret = secret
        .with_context(|| format!("{} is no key that `portolan backup-key` wrote", identity.display()))?;
    let sealed = backups.iter().rev().find(|backup| backup.manifest().files.contains_key(SEALED));
    let backup = sealed.context("there are no keys in it: it was taken without --keys")?;
    let place = backup.path(SEALED);
    let bytes = std::fs::read(&place).with_context(|| format!("read {}", place.display()))?;
    let (key, sealed) = bytes.split_at_checked(KEY_BYTES).context("the sealed keys are cut off")?;
    let key = EncapsulatedSecret(key.to_vec());
    let id = &backup.manifest().id;
    let opened = SUITE.open(&key, INFO, id.as_bytes(), sealed, &HpkePrivateKey::from(secret));
    let opened = opened.ok().with_context(|| {
        format!(
            "{} does not open them: they were sealed for another key, or changed since",
            identity.display()
        )
    })?;
    let files: Files = serde_json::from_slice(&opened).context("read the opened files")?;
    for (path, content) in &files.files {
        let content = BASE64.decode(content).with_context(|| format!("read {}", path.display()))?;
        let place = to.join(inside(path));
        write(&place, &content)?;
        print(&format!("wrote {}", place.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The files that the node reads, as they are now.
fn gather(loaded: &Loaded, config: &Path) -> anyhow::Result<Files> {
    let folder = config.parent().unwrap_or_else(|| Path::new(""));
    let mut paths: Vec<PathBuf> = vec![config.to_owned(), node::recordings::key_path(&loaded.config)];
    let on_disk = |source: &&Source| intent::key_of(&source.path.to_string_lossy()).is_none();
    for source in loaded.sources.iter().filter(on_disk) {
        paths.push(source.path.clone());
    }
    // Intent, too, may name files of nodes.
    for source in &loaded.sources {
        let value: toml::Value = toml::from_str(&source.text).context("read the configuration again")?;
        named_by_operator(&value, &mut |text| paths.push(folder.join(text)));
    }
    let (mut files, mut bytes) = (Files::default(), 0);
    for path in paths {
        let Ok(about) = std::fs::metadata(&path) else { continue };
        if !about.is_file() {
            continue;
        }
        if about.len() > FILE_BYTES_MAX {
            bail!("{} has more than {FILE_BYTES_MAX} bytes, and should be a key", path.display());
        }
        let content = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        bytes += content.len();
        if bytes > FILES_BYTES_MAX {
            bail!("certificates and keys have more than {FILES_BYTES_MAX} bytes");
        }
        let name = path.strip_prefix(folder).unwrap_or(&path).to_owned();
        files.files.insert(name, BASE64.encode(content));
    }
    Ok(files)
}

/// Calls for each text of a setting that names a file.
fn named(value: &toml::Value, is_file: bool, found: &mut impl FnMut(&str)) {
    match value {
        toml::Value::String(text) if is_file => found(text),
        toml::Value::Array(values) => values.iter().for_each(|value| named(value, is_file, found)),
        toml::Value::Table(table) => {
            // What a policy is configured with is its own matter.
            let configures = table.contains_key("use") || table.contains_key("policy");
            for (name, value) in table.iter().filter(|(name, _)| !(configures && *name == "config")) {
                named(value, SETTINGS.contains(&name.as_str()) || name.ends_with("_file"), found);
            }
        }
        _ => {}
    }
}

/// The same for a whole configuration, but for what tenants may say.
fn named_by_operator(value: &toml::Value, found: &mut impl FnMut(&str)) {
    for (_, value) in value.as_table().into_iter().flatten().filter(|(name, _)| *name != TENANTS) {
        named(value, false, found);
    }
}

/// A path that leads out of no folder.
fn inside(path: &Path) -> PathBuf {
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    let parts = path.components().filter(|part| matches!(part, Component::Normal(_)));
    if plain { parts.collect() } else { Path::new(ELSEWHERE).join(parts.collect::<PathBuf>()) }
}

/// A new file that only its owner reads.
fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.with_context(|| format!("create {}", folder.display()))?;
    }
    let file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    written.with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_name_files_are_found_wherever_they_are() {
        let text = r#"
            [listen]
            certificates = [{ cert = "a.crt", key = "a.key" }]
            [listen.clients]
            ca = ["one.pem", "two.pem"]
            [placement]
            policy = "pinned"
            config = { key = "/etc/passwd" }
            [shard.tenant.store.eu]
            key = "tenant.key"
            [shard.config.store.eu.external]
            password_file = "pw"
            [tenant.acme.policy]
            config = { cert = "/etc/shadow" }
            [node]
            state = "state"
            [shard.s1.store.eu.postgres]
            owner = "postgres://own@db/shop"
            owner_password_file = "secrets/own"
        "#;
        let (value, mut all) = (toml::from_str(text).unwrap(), Vec::new());
        named_by_operator(&value, &mut |text| all.push(text.to_owned()));
        all.sort();
        assert_eq!(all, ["a.crt", "a.key", "one.pem", "pw", "secrets/own", "tenant.key", "two.pem"]);
    }

    #[test]
    fn no_path_leads_out_of_the_folder() {
        for (path, wanted) in [
            ("portolan.toml", "portolan.toml"),
            ("tls/a.key", "tls/a.key"),
            ("/etc/ssl/a.key", "elsewhere/etc/ssl/a.key"),
            ("../a.key", "elsewhere/a.key"),
            ("tls/../../a.key", "elsewhere/tls/a.key"),
        ] {
            assert_eq!(inside(Path::new(path)), Path::new(wanted), "{path}");
        }
    }
}
