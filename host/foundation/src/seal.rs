//! A node's own secret: keyed hashes, and words that only its holder can have signed and that expire.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

const KEY_BYTES: usize = 32;
/// What sealed words begin with; another form gets another.
const FORM: &str = "p1";
/// The longest sealed word that is looked at: two names of 63 bytes, a time and a hash, with room.
const WORD_BYTES_MAX: usize = 256;

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

    /// The key in a file; the first that comes makes it.
    ///
    /// # Errors
    /// When the file cannot be made, has another size, or others may read it.
    pub fn open(path: &Path) -> io::Result<Self> {
        match existing(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let partial =
            path.with_extension(format!("{}-{:x}.partial", std::process::id(), crate::random::u64()));
        let make = || -> io::Result<()> {
            let mut secret = [0; KEY_BYTES];
            File::open("/dev/urandom")?.read_exact(&mut secret)?;
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
            file.write_all(&secret)?;
            file.sync_all()?;
            // A link fails where another was faster; its key is then taken.
            match fs::hard_link(&partial, path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
                _ => Ok(()),
            }
        };
        let made = make();
        drop(fs::remove_file(&partial));
        made?;
        existing(path)
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
        let word = format!("{FORM}:{usage}:{}:{expires_ms:x}", tenant.unwrap_or_default());
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
        let good = form == FORM && used == usage && parts.next().is_none() && now_ms < expires_ms;
        good.then(|| Sealed { tenant: (!tenant.is_empty()).then(|| tenant.to_owned()), expires_ms })
    }
}

fn existing(path: &Path) -> io::Result<SealKey> {
    let mut file = File::open(path)?;
    let meta = file.metadata()?;
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
    if meta.len() != KEY_BYTES as u64 {
        return Err(wrong());
    }
    file.read_exact(&mut secret).map_err(|_| wrong())?;
    Ok(SealKey(secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_holds_for_its_use_its_time_and_its_key() {
        let key = SealKey::new([7; 32]);
        let word = key.seal("debug", Some("acme"), 1_000);
        let sealed = Sealed { tenant: Some("acme".into()), expires_ms: 1_000 };
        assert_eq!(key.unseal(&word, "debug", 999), Some(sealed));
        assert_eq!(key.unseal(&word, "debug", 1_000), None, "expired");
        assert_eq!(key.unseal(&word, "other", 0), None);
        assert_eq!(SealKey::new([8; 32]).unseal(&word, "debug", 0), None);
        assert_eq!(key.for_purpose("x").unseal(&word, "debug", 0), None);
        assert_eq!(key.unseal(&word.replace("acme", "evil"), "debug", 0), None);
        assert_eq!(key.unseal(&word.replace(":3e8:", ":ffff:"), "debug", 0), None);
        assert_eq!(key.unseal(&key.seal("debug", None, 9), "debug", 1).unwrap().tenant, None);
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
    }
}
