//! A node's own secrets: files of them, keyed hashes, and words that only a secret's holder can have signed and that expire.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;

/// Bytes of a secret.
pub const KEY_BYTES: usize = 32;
/// What sealed words begin with; another form gets another.
const FORM: &str = "p1";
/// The longest sealed word that is looked at: three names of 63 bytes, a digest, a time and a hash, with room.
const WORD_BYTES_MAX: usize = 512;

/// The secret. Whoever has it can sign; nodes that share it believe each other.
#[derive(Clone, Copy)]
pub struct SealKey([u8; KEY_BYTES]);

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey")
    }
}

/// What a sealed word says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// What it is about; nothing in particular when empty.
    pub about: String,
    /// For whom it is; for everybody when absent.
    pub tenant: Option<String>,
    /// Until when, in milliseconds since 1970-01-01T00:00:00Z.
    pub expires_ms: u64,
}

impl SealKey {
    /// A key from what is at hand.
    #[must_use]
    pub const fn new(secret: [u8; KEY_BYTES]) -> Self {
        Self(secret)
    }

    /// The key in a file that an operator may have put there; the first that comes makes it.
    ///
    /// # Errors
    /// As [`secret`].
    pub fn open(path: &Path) -> io::Result<Self> {
        secret(path, Keeper::Anybody).map(Self)
    }

    /// Another key that says nothing of this one, for one purpose.
    #[must_use]
    pub fn for_purpose(&self, purpose: &str) -> Self {
        Self(blake3::derive_key(purpose, &self.0))
    }

    /// A keyed hash: equal texts have equal ones, and without the key no text can be tried.
    #[must_use]
    pub fn hash(&self, text: &[u8]) -> String {
        let mut hex = blake3::keyed_hash(&self.0, text).to_hex().to_string();
        hex.truncate(32);
        hex
    }

    /// Signs a word for one use.
    #[must_use]
    pub fn seal(&self, usage: &str, tenant: Option<&str>, expires_ms: u64) -> String {
        self.seal_about(usage, tenant, "", expires_ms)
    }

    /// Signs a word for one use that is about something. A colon would end any part: it must be in none.
    #[must_use]
    pub fn seal_about(&self, usage: &str, tenant: Option<&str>, about: &str, expires_ms: u64) -> String {
        debug_assert!(!usage.contains(':') && !about.contains(':'), "parts are told apart by colons");
        let about = if about.is_empty() { String::new() } else { format!(":{about}") };
        let word = format!("{FORM}:{usage}:{}:{expires_ms:x}{about}", tenant.unwrap_or_default());
        let mac = blake3::keyed_hash(&self.0, word.as_bytes()).to_hex();
        format!("{word}:{mac}")
    }

    /// What a word says, when it is signed with this key for this use and has not expired.
    #[must_use]
    pub fn unseal(&self, text: &str, usage: &str, now_ms: u64) -> Option<Sealed> {
        if text.len() > WORD_BYTES_MAX {
            return None;
        }
        let (word, mac) = text.rsplit_once(':')?;
        // The comparison of hashes takes the same time wherever they differ.
        if blake3::keyed_hash(&self.0, word.as_bytes()) != blake3::Hash::from_hex(mac).ok()? {
            return None;
        }
        let mut parts = word.split(':');
        let (form, used, tenant, expires) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let expires_ms = u64::from_str_radix(expires, 16).ok()?;
        let about = parts.next().unwrap_or_default().to_owned();
        let good = form == FORM && used == usage && parts.next().is_none() && now_ms < expires_ms;
        good.then(|| Sealed { about, tenant: (!tenant.is_empty()).then(|| tenant.to_owned()), expires_ms })
    }
}

/// Who may have put a secret where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeper {
    /// Whoever can: it may be another user's, or a link to where secrets are kept.
    Anybody,
    /// This program alone: a plain file of its own user.
    Own,
}

/// The secret in a file; the first that comes makes it.
///
/// # Errors
/// When the file cannot be made, is not what it must be, or others may read it.
pub fn secret(path: &Path, keeper: Keeper) -> io::Result<[u8; KEY_BYTES]> {
    match existing(path, keeper) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    let partial = path.with_extension(format!("{}-{:x}.partial", std::process::id(), crate::random::u64()));
    let make = || -> io::Result<()> {
        let mut secret = [0; KEY_BYTES];
        File::open("/dev/urandom")?.read_exact(&mut secret)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
        file.write_all(&secret)?;
        file.sync_all()?;
        // A link fails where another was faster; its secret is then taken.
        match fs::hard_link(&partial, path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    };
    let made = make();
    drop(fs::remove_file(&partial));
    made?;
    existing(path, keeper)
}

fn existing(path: &Path, keeper: Keeper) -> io::Result<[u8; KEY_BYTES]> {
    let mut options = OpenOptions::new();
    // What is not a file must not make this program wait.
    let flags = match keeper {
        Keeper::Anybody => OFlags::NONBLOCK,
        Keeper::Own => OFlags::NONBLOCK | OFlags::NOFOLLOW,
    };
    let flags = i32::try_from(flags.bits()).unwrap_or(0);
    let mut file = options.read(true).custom_flags(flags).open(path)?;
    let meta = file.metadata()?;
    let user = rustix::process::geteuid().as_raw();
    if keeper == Keeper::Own && (meta.uid() != user || !meta.is_file()) {
        let advice =
            format!("{} is no file of the user {user}: remove it, a new one is made", path.display());
        return Err(io::Error::other(advice));
    }
    if meta.mode() & 0o077 != 0 {
        let advice =
            format!("others may read {}: `chmod 600` it, or remove it for a new one", path.display());
        return Err(io::Error::other(advice));
    }
    let mut secret = [0; KEY_BYTES];
    let wrong = || {
        io::Error::other(format!(
            "{} has not {KEY_BYTES} bytes: remove it, a new one is made",
            path.display()
        ))
    };
    if !meta.is_file() || meta.len() != KEY_BYTES as u64 {
        return Err(wrong());
    }
    file.read_exact(&mut secret).map_err(|_| wrong())?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_holds_for_its_use_its_time_and_its_key() {
        let key = SealKey::new([7; 32]);
        let word = key.seal("debug", Some("acme"), 1_000);
        let sealed = Sealed { about: String::new(), tenant: Some("acme".into()), expires_ms: 1_000 };
        assert_eq!(key.unseal(&word, "debug", 999), Some(sealed));
        assert_eq!(key.unseal(&word, "debug", 1_000), None, "expired");
        assert_eq!(key.unseal(&word, "other", 0), None);
        assert_eq!(SealKey::new([8; 32]).unseal(&word, "debug", 0), None);
        assert_eq!(key.for_purpose("x").unseal(&word, "debug", 0), None);
        assert_eq!(key.unseal(&word.replace("acme", "evil"), "debug", 0), None);
        assert_eq!(key.unseal(&word.replace(":3e8:", ":ffff:"), "debug", 0), None);
        assert_eq!(key.unseal(&key.seal("debug", None, 9), "debug", 1).unwrap().tenant, None);
        let about = key.seal_about("preview", Some("acme"), "tenant.acme/mine@00ff", 1_000);
        let sealed = key.unseal(&about, "preview", 0).unwrap();
        assert_eq!(
            (sealed.about.as_str(), sealed.tenant.as_deref()),
            ("tenant.acme/mine@00ff", Some("acme"))
        );
        assert_eq!(key.unseal(&about.replace("00ff", "00fe"), "preview", 0), None);
        assert_eq!(key.unseal(&about, "debug", 0), None);
        for bad in ["", ":", "p1:debug::9", "p1:debug:::", &"x".repeat(1_000)] {
            assert_eq!(key.unseal(bad, "debug", 0), None);
        }
    }

    #[test]
    fn a_key_is_made_once_and_kept_from_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let key = SealKey::open(&path).unwrap();
        assert_eq!(SealKey::open(&path).unwrap().0, key.0);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        assert!(SealKey::open(&path).unwrap_err().to_string().contains("chmod 600"));
        // Where secrets are mounted, files are links; where only this program writes, a link is somebody else's.
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(secret(&link, Keeper::Anybody).unwrap(), key.0);
        assert!(secret(&link, Keeper::Own).is_err());
        fs::write(&path, "short").unwrap();
        assert!(secret(&path, Keeper::Own).unwrap_err().to_string().contains("has not 32 bytes"));
    }
}
