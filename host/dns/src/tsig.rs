//! Keys that servers share, and messages signed with them (TSIG, RFC 8945). The cryptography and the reading of foreign bytes are
//! hickory's; what is decided from them is here.

use std::fmt;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hickory_proto::rr::TSigner;
use hickory_proto::rr::rdata::tsig::{TsigAlgorithm, signed_bitmessage_to_buf};
use hickory_proto::serialize::binary::BinDecodable as _;

use crate::defaults::FUDGE_S;
use crate::name::Name;
use crate::wire::{class, kind};

/// A key file has one line.
const FILE_BYTES_MAX: u64 = 4_096;
/// A secret of fewer bytes can be tried out (RFC 8945, section 8, asks for the hash's length; 128 bits are out of reach).
const SECRET_BYTES_MIN: usize = 16;
/// Bytes of a signature's record beside its names: the record's head, and the longest MAC with what stands around it and a time.
const RECORD_BYTES: usize = 10 + 64 + 16 + 6;
/// RFC 8945, section 3.
pub(crate) const BAD_SIGNATURE: u16 = 16;
pub(crate) const BAD_KEY: u16 = 17;
pub(crate) const BAD_TIME: u16 = 18;

/// What is wrong with a shared key.
#[derive(Debug, thiserror::Error)]
pub enum SharedKeyError {
    /// The file cannot be read.
    #[error("the key file {0}: {1}")]
    File(String, std::io::Error),
    /// Others may read the file.
    #[error("others may read {0}: `chmod 600` it")]
    Open(String),
    /// It has another form.
    #[error(
        "write a shared key as `hmac-sha256:NAME:SECRET` with the secret in base64, at least {SECRET_BYTES_MIN} bytes of it; \
         hmac-sha384 and hmac-sha512 are possible too (`tsig-keygen` and `keymgr -t` make keys)"
    )]
    Form,
}

/// A key that we share with a server.
#[derive(Clone)]
pub struct SharedKey {
    algorithm: Name,
    name: Name,
    signer: TSigner,
}

impl fmt::Debug for SharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedKey({})", self.name)
    }
}

/// What a signature says that holds.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) mac: Vec<u8>,
}

/// Why a message is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// There is no signature, or none that can be read.
    Absent,
    /// Its time is too far from ours; it is what the sender's clock said.
    Clock(u64),
    /// It is of another key.
    Key,
    /// It is not the message's.
    Signature,
}

/// What a signature's record says of trouble.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Trouble {
    pub(crate) code: u16,
    /// Our clock, where that is the trouble.
    pub(crate) clock_s: Option<u64>,
}

/// Reads a file of secrets that nobody else may read.
///
/// # Errors
/// [`SharedKeyError::File`], [`SharedKeyError::Open`].
pub(crate) fn secret_file(path: &Path) -> Result<String, SharedKeyError> {
    let read = || {
        let mut text = String::new();
        let file = std::fs::File::open(path)?;
        let mode = file.metadata()?.mode();
        file.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
        Ok((mode, text))
    };
    let name = path.display().to_string();
    let (mode, text) = read().map_err(|error| SharedKeyError::File(name.clone(), error))?;
    if mode & 0o077 == 0 { Ok(text) } else { Err(SharedKeyError::Open(name)) }
}

impl SharedKey {
    /// Reads a key from text: `ALGORITHM:NAME:SECRET`.
    ///
    /// # Errors
    /// [`SharedKeyError::Form`].
    pub fn new(text: &str) -> Result<Self, SharedKeyError> {
        let mut parts = text.trim().splitn(3, ':');
        let (Some(algorithm), Some(name), Some(secret)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(SharedKeyError::Form);
        };
        let known = match algorithm {
            "hmac-sha256" => TsigAlgorithm::HmacSha256,
            "hmac-sha384" => TsigAlgorithm::HmacSha384,
            "hmac-sha512" => TsigAlgorithm::HmacSha512,
            _ => return Err(SharedKeyError::Form),
        };
        let form = |_| SharedKeyError::Form;
        let name = Name::new(name).map_err(form)?;
        let secret = STANDARD.decode(secret.trim()).ok().filter(|secret| secret.len() >= SECRET_BYTES_MIN);
        let their_name =
            hickory_proto::rr::Name::from_bytes(name.wire()).map_err(|_| SharedKeyError::Form)?;
        let signer = TSigner::new(secret.ok_or(SharedKeyError::Form)?, known, their_name, FUDGE_S)
            .map_err(|_| SharedKeyError::Form)?;
        Ok(Self { algorithm: Name::new(algorithm).map_err(form)?, name, signer })
    }

    /// Reads a key from a file that nobody else may read.
    ///
    /// # Errors
    /// [`SharedKeyError`].
    pub fn read(path: &Path) -> Result<Self, SharedKeyError> {
        Self::new(&secret_file(path)?)
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &Name {
        &self.name
    }

    /// The most bytes that a signature adds.
    pub(crate) fn record_bytes(&self) -> usize {
        self.name.wire().len() + self.algorithm.wire().len() + RECORD_BYTES
    }

    /// Signs a message in place, after `previous` of the same exchange, and gives the MAC. `follows` is for messages of a
    /// transfer after the first one. None when the library does not sign.
    pub(crate) fn seal(
        &self,
        message: &mut Vec<u8>,
        previous: Option<&[u8]>,
        follows: bool,
        now_s: u64,
        trouble: Trouble,
    ) -> Option<Vec<u8>> {
        let mut text = Vec::with_capacity(message.len() + self.record_bytes());
        if let Some(previous) = previous {
            text.extend(u16::try_from(previous.len()).ok()?.to_be_bytes());
            text.extend_from_slice(previous);
        }
        text.extend_from_slice(message);
        let mut times = time(now_s).to_vec();
        times.extend(FUDGE_S.to_be_bytes());
        let rest = trouble.rest();
        if follows {
            text.extend_from_slice(&times);
        } else {
            text.extend_from_slice(self.name.wire());
            text.extend(class::ANY.to_be_bytes());
            text.extend([0; 4]);
            text.extend_from_slice(self.algorithm.wire());
            text.extend_from_slice(&times);
            text.extend_from_slice(&rest);
        }
        let mac = self.signer.sign(&text).ok()?;
        self.append(message, &times, &mac, &rest)?;
        Some(mac)
    }

    /// Adds a record without a signature that says what is wrong with theirs.
    pub(crate) fn complain(name: &[u8], message: &mut Vec<u8>, now_s: u64, code: u16) -> Option<()> {
        let algorithm = Name::new("hmac-sha256").ok()?;
        let mut times = time(now_s).to_vec();
        times.extend(FUDGE_S.to_be_bytes());
        append(name, &algorithm, message, &times, &[], &Trouble { code, clock_s: None }.rest())
    }

    fn append(&self, message: &mut Vec<u8>, times: &[u8], mac: &[u8], rest: &[u8]) -> Option<()> {
        append(self.name.wire(), &self.algorithm, message, times, mac, rest)
    }

    /// Checks a message's signature, after `previous` of the same exchange.
    pub(crate) fn check(&self, message: &[u8], previous: Option<&[u8]>, now_s: u64) -> Result<Held, Broken> {
        let (text, record) = signed_bitmessage_to_buf(message, previous, true).map_err(|_| Broken::Absent)?;
        let tsig = &record.data;
        if record.name != *self.signer.signer_name() || tsig.algorithm != *self.signer.algorithm() {
            return Err(Broken::Key);
        }
        self.signer.verify(&text, &tsig.mac).map_err(|_| Broken::Signature)?;
        // Only now the time is the sender's own word.
        if tsig.time.abs_diff(now_s) > u64::from(tsig.fudge.min(FUDGE_S)) {
            return Err(Broken::Clock(tsig.time));
        }
        Ok(Held { mac: tsig.mac.clone() })
    }
}

/// The name of the key that a message says it is signed with, and what its signature's record says of trouble.
pub(crate) fn named(message: &[u8]) -> Option<(Name, Trouble)> {
    let (_, record) = signed_bitmessage_to_buf(message, None, true).ok()?;
    let name = Name::new(&record.name.to_ascii()).ok()?;
    let code = record.data.error.map_or(0, u16::from);
    let other: Option<[u8; 6]> = record.data.other.as_slice().try_into().ok();
    let clock_s = other.map(|bytes| bytes.iter().fold(0, |time, byte| time << 8 | u64::from(*byte)));
    Some((name, Trouble { code, clock_s: clock_s.filter(|_| code == BAD_TIME) }))
}

impl Trouble {
    fn rest(self) -> Vec<u8> {
        let other = self.clock_s.map(time);
        let other: &[u8] = other.as_ref().map_or(&[], |bytes| bytes);
        let mut rest = self.code.to_be_bytes().to_vec();
        rest.extend(u16::try_from(other.len()).unwrap_or(0).to_be_bytes());
        rest.extend_from_slice(other);
        rest
    }
}

/// Seconds since 1970 in 48 bits.
fn time(now_s: u64) -> [u8; 6] {
    let [_, _, a, b, c, d, e, f] = now_s.to_be_bytes();
    [a, b, c, d, e, f]
}

fn append(
    name: &[u8],
    algorithm: &Name,
    message: &mut Vec<u8>,
    times: &[u8],
    mac: &[u8],
    rest: &[u8],
) -> Option<()> {
    let id: [u8; 2] = message.get(..2)?.try_into().ok()?;
    let mut data = algorithm.wire().to_vec();
    data.extend_from_slice(times);
    data.extend(u16::try_from(mac.len()).ok()?.to_be_bytes());
    data.extend_from_slice(mac);
    data.extend(id);
    data.extend_from_slice(rest);
    message.extend_from_slice(name);
    message.extend(kind::TSIG.to_be_bytes());
    message.extend(class::ANY.to_be_bytes());
    message.extend([0; 4]);
    message.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
    message.extend_from_slice(&data);
    let count: &mut [u8; 2] = message.get_mut(10..12)?.try_into().ok()?;
    *count = u16::from_be_bytes(*count).checked_add(1)?.to_be_bytes();
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Vec<u8> {
        b"\0\x07\0\0\0\x01\0\0\0\0\0\0\x03app\0\0\x06\0\x01".to_vec()
    }

    #[test]
    fn a_signature_holds_for_its_message_key_and_time() {
        let key = SharedKey::new("hmac-sha256:one:MDEyMzQ1Njc4OWFiY2RlZg==").unwrap();
        let other = SharedKey::new("hmac-sha256:other:MDEyMzQ1Njc4OWFiY2RlZg==").unwrap();
        let wrong = SharedKey::new("hmac-sha256:one:MDEyMzQ1Njc4OWFiY2RlZw==").unwrap();
        let mut sealed = message();
        let mac = key.seal(&mut sealed, None, false, 1_000_000, Trouble::default()).unwrap();
        assert_eq!(key.check(&sealed, None, 1_000_300).unwrap().mac, mac);
        assert_eq!(key.check(&sealed, None, 1_000_301).unwrap_err(), Broken::Clock(1_000_000));
        assert_eq!(other.check(&sealed, None, 1_000_000).unwrap_err(), Broken::Key);
        assert_eq!(wrong.check(&sealed, None, 1_000_000).unwrap_err(), Broken::Signature);
        assert_eq!(key.check(&sealed, Some(b"x"), 1_000_000).unwrap_err(), Broken::Signature);
        assert_eq!(key.check(&message(), None, 1_000_000).unwrap_err(), Broken::Absent);
        sealed[13] ^= 1;
        assert_eq!(key.check(&sealed, None, 1_000_000).unwrap_err(), Broken::Signature);
    }

    #[test]
    fn a_key_has_one_form() {
        for bad in
            ["", "one", "hmac-md5:one:MDEyMzQ1Njc4OWFiY2RlZg==", "hmac-sha256:one:MDEy", "hmac-sha256:one:%"]
        {
            assert!(SharedKey::new(bad).is_err(), "{bad}");
        }
        let key = SharedKey::new("hmac-sha512:One.example.:MDEyMzQ1Njc4OWFiY2RlZg==\n").unwrap();
        assert_eq!(format!("{key:?}"), "SharedKey(one.example.)");
    }
}
