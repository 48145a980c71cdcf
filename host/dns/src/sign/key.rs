//! A zone's key: ECDSA on P-256 with SHA-256 (RFC 6605), one for all of the zone. It comes from a file that all regions share.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portolan_core::ids::Digest;
use sha2::{Digest as _, Sha256};

use crate::name::Name;

/// ECDSAP256SHA256.
pub(crate) const ALGORITHM: u8 = 13;
/// A zone's key that its parent points to.
const FLAGS: u16 = 257;
/// The one protocol that there is.
const PROTOCOL: u8 = 3;
/// SHA-256, among a parent's digests.
const DIGEST: u8 = 2;
/// What a file of a key has at most.
const FILE_BYTES_MAX: u64 = 16 * 1024;
const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const END: &str = "-----END PRIVATE KEY-----";

/// What is wrong with a key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or written.
    #[error("the key file {0}: {1}")]
    File(String, std::io::Error),
    /// Others may read the file.
    #[error("others may read {0}: `chmod 600` it")]
    Open(String),
    /// The file holds something else.
    #[error(
        "{0} holds no key of P-256 in PKCS #8: make one with `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`"
    )]
    Form(String),
    /// The library does not sign.
    #[error("the key does not sign: this is a fault of the machine or of the library; try another node")]
    Sign,
}

/// A zone's key.
pub struct Key {
    pair: EcdsaKeyPair,
    record: Box<[u8]>,
    tag: u16,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.tag)
    }
}

impl Key {
    /// Reads a key.
    ///
    /// # Errors
    /// [`KeyError`] when it cannot be read, others may read it, or it is something else.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let name = path.display().to_string();
        let read = || {
            let mut text = String::new();
            let file = std::fs::File::open(path)?;
            let mode = file.metadata()?.mode();
            file.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
            Ok((mode, text))
        };
        let (mode, text) = read().map_err(|error| KeyError::File(name.clone(), error))?;
        if mode & 0o077 != 0 {
            return Err(KeyError::Open(name));
        }
        let inner = text.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END));
        let inner: Option<String> = inner.map(|(inner, _)| inner.split_whitespace().collect());
        let bytes = inner.and_then(|inner| STANDARD.decode(inner).ok());
        bytes.and_then(|bytes| Self::of(&bytes)).ok_or(KeyError::Form(name))
    }

    /// Makes a key, in a file that nobody else may read and that is not there yet. All regions need the same one: carry it to the
    /// others, and do not make one in each.
    ///
    /// # Errors
    /// [`KeyError`] when it cannot be made or written.
    pub fn create(path: &Path) -> Result<Self, KeyError> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
            .map_err(|_| KeyError::Sign)?;
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            writeln!(file, "{BEGIN}")?;
            for line in STANDARD.encode(document.as_ref()).as_bytes().chunks(64) {
                file.write_all(line)?;
                file.write_all(b"\n")?;
            }
            writeln!(file, "{END}")?;
            file.sync_all()
        };
        write().map_err(|error| KeyError::File(path.display().to_string(), error))?;
        Self::read(path)
    }

    /// What the parent zone has to say of it (DS), as a line of a zone file.
    #[must_use]
    pub fn delegation(&self, zone: &Name) -> String {
        let mut hash = Sha256::new();
        hash.update(zone.wire());
        hash.update(&self.record);
        format!("{zone} IN DS {} {ALGORITHM} {DIGEST} {}", self.tag, Digest(hash.finalize().into()))
    }

    /// The number by which signatures name it.
    #[must_use]
    pub const fn tag(&self) -> u16 {
        self.tag
    }

    /// The data of its record (DNSKEY).
    pub(crate) const fn record(&self) -> &[u8] {
        &self.record
    }

    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let signature = self.pair.sign(&SystemRandom::new(), message).map_err(|_| KeyError::Sign)?;
        Ok(signature.as_ref().to_vec())
    }

    fn of(pkcs8: &[u8]) -> Option<Self> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8).ok()?;
        // The form with both coordinates begins with a byte that says so, which the record leaves out.
        let point = pair.public_key().as_ref().strip_prefix(&[4])?.to_vec();
        let mut record = FLAGS.to_be_bytes().to_vec();
        record.extend([PROTOCOL, ALGORITHM]);
        record.extend(point);
        let tag = tag(&record);
        Some(Self { pair, record: record.into(), tag })
    }
}

/// RFC 4034, appendix B.
fn tag(record: &[u8]) -> u16 {
    let sum = record.chunks(2).fold(0_u32, |sum, pair| {
        let high = pair.first().copied().unwrap_or(0);
        let low = pair.get(1).copied().unwrap_or(0);
        sum + u32::from(u16::from_be_bytes([high, low]))
    });
    ((sum + (sum >> 16)) & 0xffff) as u16
}
