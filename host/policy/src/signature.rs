//! Signatures of components: Ed25519 over all bytes but the section that carries signatures.
//!
//! A signature is a line `ed25519 KEY SIGNATURE`: the first sixteen hexadecimal digits of the SHA-256 of the public key, and
//! the 64 bytes in base64. It stands in the component's section `portolan:signature`, or beside the component in a file of its
//! own (`FILE.sig`), which then is kept with the version. A signature says who made a component, and nothing else: what the
//! component may do is decided without it.

use std::collections::BTreeSet;
use std::fmt;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portolan_core::ids::TenantName;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::{Refused, Stage, printable};
use crate::section::{SIGNATURE_SECTION, with_section, without_section};
use crate::slots::Slot;

/// Bytes of a public key.
const PUBLIC_BYTES: usize = 32;
/// What an Ed25519 public key begins with in DER (RFC 8410).
const PUBLIC_DER: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// Lines of signatures that are looked at.
const LINES_MAX: usize = 8;
/// Bytes of all of them.
const TEXT_BYTES_MAX: usize = 4_096;
const ALGORITHM: &str = "ed25519";

/// How it stands with a component's signature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SignatureState {
    /// There is none.
    #[default]
    NotSigned,
    /// There is one, and none that holds.
    Failed,
    /// It is by a key that is trusted here.
    Verified,
}

impl fmt::Display for SignatureState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotSigned => "not signed",
            Self::Failed => "failed",
            Self::Verified => "verified",
        })
    }
}

/// What looking at a component's signatures gave.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// The name of the key that holds.
    pub key: Option<String>,
    /// Why none holds.
    pub reason: Option<String>,
    /// How it stands.
    pub state: SignatureState,
}

/// A public key that is trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedKey {
    /// What people call it.
    pub name: String,
    /// The key.
    pub public: PublicKey,
    /// Whose components it may sign; everybody's, and the operator's, when absent.
    pub tenants: Option<BTreeSet<TenantName>>,
}

/// An Ed25519 public key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; PUBLIC_BYTES]);

/// What is believed of signatures here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// The keys.
    pub keys: Vec<TrustedKey>,
    /// Must what the operator runs be verified?
    pub operator_verified: bool,
    /// Must what tenants run be verified?
    pub tenants_verified: bool,
}

/// A key pair that signs. The private half never leaves it but as a file.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    pkcs8: Vec<u8>,
}

impl PublicKey {
    /// Reads a key: PEM (`-----BEGIN PUBLIC KEY-----`), or base64 of the key's 32 bytes or of its DER.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "this is no Ed25519 public key: give PEM, or base64 of its 32 bytes".to_owned();
        let base64: String =
            text.lines().filter(|line| !line.starts_with("-----")).flat_map(str::split_whitespace).collect();
        let bytes = STANDARD.decode(base64).map_err(|_| wrong())?;
        let raw = bytes.strip_prefix(&PUBLIC_DER[..]).unwrap_or(&bytes);
        raw.try_into().map(Self).map_err(|_| wrong())
    }

    /// What signatures call it.
    #[must_use]
    pub fn id(&self) -> String {
        Sha256::digest(self.0).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    /// As PEM.
    #[must_use]
    pub fn to_pem(&self) -> String {
        pem("PUBLIC KEY", &[&PUBLIC_DER[..], &self.0].concat())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public().id())
    }
}

impl SigningKey {
    /// A new one.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn generate() -> Result<Self, String> {
        let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
        let made = made.map_err(|_| "the system gives no random numbers for a key".to_owned())?;
        Self::of(made.as_ref())
    }

    /// Reads one from PEM (PKCS #8), as [`SigningKey::to_pem`] and `openssl genpkey -algorithm ed25519` write it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let base64: String =
            text.lines().filter(|line| !line.starts_with("-----")).flat_map(str::split_whitespace).collect();
        let bytes = STANDARD.decode(base64).map_err(|_| "the private key is not PEM".to_owned())?;
        Self::of(&bytes)
    }

    fn of(pkcs8: &[u8]) -> Result<Self, String> {
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|_| {
            "this is no Ed25519 private key in PKCS #8: `portolan plugin keygen` makes one".to_owned()
        })?;
        Ok(Self { pair, pkcs8: pkcs8.to_vec() })
    }

    /// As PEM; whoever has it signs in its owner's name.
    #[must_use]
    pub fn to_pem(&self) -> String {
        pem("PRIVATE KEY", &self.pkcs8)
    }

    /// Its public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        let mut raw = [0; PUBLIC_BYTES];
        raw.iter_mut().zip(self.pair.public_key().as_ref()).for_each(|(to, from)| *to = *from);
        PublicKey(raw)
    }

    /// The line that signs a component, for a file beside it.
    #[must_use]
    pub fn sign(&self, component: &[u8]) -> String {
        let (message, _) = without_section(component, SIGNATURE_SECTION);
        let signature = self.pair.sign(&message);
        format!("{ALGORITHM} {} {}\n", self.public().id(), STANDARD.encode(signature.as_ref()))
    }

    /// The component with this key's signature in it, behind those that are there.
    #[must_use]
    pub fn embed(&self, component: &[u8]) -> Vec<u8> {
        let (bare, sections) = without_section(component, SIGNATURE_SECTION);
        let line = self.sign(&bare);
        let mut text: Vec<u8> = sections.concat();
        if !text.windows(line.len()).any(|found| found == line.as_bytes()) {
            text.extend(line.as_bytes());
        }
        with_section(&bare, SIGNATURE_SECTION, &text)
    }
}

impl Trust {
    /// Looks at a component's signatures: those in it, and those beside it.
    #[must_use]
    pub fn judge(&self, component: &[u8], detached: Option<&str>, owner: &Slot) -> Signature {
        let (message, sections) = without_section(component, SIGNATURE_SECTION);
        let mut text = String::from_utf8_lossy(&sections.concat()).into_owned();
        text.push('\n');
        text.push_str(detached.unwrap_or_default());
        if text.len() > TEXT_BYTES_MAX {
            let reason = Some(format!("its signatures have more than {TEXT_BYTES_MAX} bytes"));
            return Signature { key: None, reason, state: SignatureState::Failed };
        }
        let mut reason = None;
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()).take(LINES_MAX) {
            match self.holds(&message, line, owner) {
                Ok(key) => {
                    return Signature { key: Some(key), reason: None, state: SignatureState::Verified };
                }
                Err(why) => reason = Some(why),
            }
        }
        let state = if reason.is_some() { SignatureState::Failed } else { SignatureState::NotSigned };
        Signature { key: None, reason, state }
    }

    /// Does a slot demand more than that?
    ///
    /// # Errors
    /// [`Refused`] when it demands a signature that holds.
    pub fn check(&self, signature: &Signature, slot: &Slot) -> Result<(), Refused> {
        if signature.state == SignatureState::Verified || !self.demands(slot) {
            return Ok(());
        }
        let reason = match &signature.reason {
            Some(reason) => format!("the signature does not hold: {reason}"),
            None => "the component is not signed, and must be here".to_owned(),
        };
        let fix = "sign it with a key of `[[policies.key]]`: `portolan plugin sign FILE --key KEY.pem`";
        Err(Refused::new(Stage::Signature, reason, fix))
    }

    /// Must what runs there be verified?
    #[must_use]
    pub const fn demands(&self, slot: &Slot) -> bool {
        match slot {
            Slot::Operator => self.operator_verified,
            Slot::Tenant(_) => self.tenants_verified,
        }
    }

    fn holds(&self, message: &[u8], line: &str, owner: &Slot) -> Result<String, String> {
        let mut words = line.split_whitespace();
        let (Some(ALGORITHM), Some(id), Some(signature), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err("a line is not `ed25519 KEY SIGNATURE`".to_owned());
        };
        let shown = printable(id, 32);
        let signature =
            STANDARD.decode(signature).map_err(|_| format!("the signature by {shown} is not base64"))?;
        let mut known = self.keys.iter().filter(|key| key.public.id() == id).peekable();
        if known.peek().is_none() {
            return Err(format!("it is by key {shown}, which is not trusted here"));
        }
        let Some(key) = known.find(|key| key.may_sign_for(owner)) else {
            return Err(format!("key {shown} may not sign for {owner}"));
        };
        let public = UnparsedPublicKey::new(&ED25519, key.public.0);
        match public.verify(message, &signature) {
            Ok(()) => Ok(key.name.clone()),
            Err(_) => Err(format!("the signature by {} is not of these bytes", key.name)),
        }
    }
}

impl TrustedKey {
    fn may_sign_for(&self, owner: &Slot) -> bool {
        match (&self.tenants, owner) {
            (None, _) => true,
            (Some(_), Slot::Operator) => false,
            (Some(tenants), Slot::Tenant(tenant)) => tenants.contains(tenant),
        }
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    let mut rest = base64.as_str();
    while let Some((line, after)) = rest.split_at_checked(64) {
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    if !rest.is_empty() {
        text.push_str(rest);
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component() -> Vec<u8> {
        wat::parse_str(r#"(component (@custom "a" "b"))"#).unwrap()
    }

    fn trust(key: &SigningKey, tenants: Option<&str>) -> Trust {
        let tenants = tenants.map(|name| BTreeSet::from([TenantName::new(name).unwrap()]));
        Trust {
            keys: vec![TrustedKey { name: "release".to_owned(), public: key.public(), tenants }],
            operator_verified: true,
            tenants_verified: false,
        }
    }

    fn state(trust: &Trust, component: &[u8], detached: Option<&str>) -> SignatureState {
        trust.judge(component, detached, &Slot::Operator).state
    }

    #[test]
    fn a_signature_holds_for_its_bytes_and_a_trusted_key_alone() {
        let (key, other) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        let trust = trust(&key, None);
        let bare = component();
        let signed = key.embed(&bare);
        assert_eq!(state(&trust, &bare, None), SignatureState::NotSigned);
        assert_eq!(state(&trust, &signed, None), SignatureState::Verified);
        assert_eq!(state(&trust, &bare, Some(&key.sign(&bare))), SignatureState::Verified);
        assert_eq!(key.embed(&signed), signed, "once is enough");
        assert_eq!(
            state(&trust, &key.embed(&other.embed(&bare)), None),
            SignatureState::Verified,
            "one of two"
        );
        assert_eq!(state(&trust, &other.embed(&bare), None), SignatureState::Failed);
        assert_eq!(state(&Trust::default(), &signed, None), SignatureState::Failed, "no key is trusted");
        let mut changed = signed;
        changed[12] ^= 1;
        assert_eq!(state(&trust, &changed, None), SignatureState::Failed);
        for nonsense in ["ed25519", "rsa a b", "ed25519 a !", &"x\n".repeat(4_000)] {
            assert_eq!(state(&trust, &bare, Some(nonsense)), SignatureState::Failed, "{nonsense:.20}");
        }
    }

    #[test]
    fn a_tenants_key_signs_for_that_tenant() {
        let key = SigningKey::generate().unwrap();
        let (trust, signed) = (trust(&key, Some("acme")), key.embed(&component()));
        let tenant = |name: &str| Slot::Tenant(TenantName::new(name).unwrap());
        assert_eq!(trust.judge(&signed, None, &tenant("acme")).state, SignatureState::Verified);
        for other in [Slot::Operator, tenant("evil")] {
            let judged = trust.judge(&signed, None, &other);
            assert_eq!(judged.state, SignatureState::Failed);
            assert_eq!(
                trust.check(&judged, &other).is_err(),
                other == Slot::Operator,
                "what each slot demands"
            );
        }
    }

    #[test]
    fn keys_go_to_files_and_back() {
        let key = SigningKey::generate().unwrap();
        let again = SigningKey::parse(&key.to_pem()).unwrap();
        assert_eq!(again.public(), key.public());
        assert_eq!(PublicKey::parse(&key.public().to_pem()), Ok(key.public()));
        assert_eq!(PublicKey::parse(&key.public().to_string()), Ok(key.public()));
        for wrong in ["", "AAAA", "-----BEGIN PUBLIC KEY-----\n!\n"] {
            assert!(PublicKey::parse(wrong).is_err() && SigningKey::parse(wrong).is_err());
        }
        // RFC 8410, section 10.1, as other tools write it.
        let public = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----";
        assert_eq!(
            PublicKey::parse(public).unwrap().to_string(),
            "Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE="
        );
        let private = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----";
        assert_eq!(SigningKey::parse(private).unwrap().public(), PublicKey::parse(public).unwrap());
    }
}
