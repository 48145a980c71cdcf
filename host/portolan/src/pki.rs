//! A certificate authority for gateways (`portolan pki`), for those who have none: SPIFFE identities of regions' gateways, whose URI is
//! `spiffe://DOMAIN/region/REGION/gateway/NAME`. Whoever has an authority brings its files instead.
//!
//! A folder has `authority.pem`, the key and its certificate, which never leaves the place where certificates are issued, and `ca.crt`, the
//! authorities that gateways believe. Rotation puts a new authority in front of `ca.crt`; gateways believe both, until the old one is
//! taken out of it. Nothing restarts for any of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use portolan_core::ids::RegionName;
use portolan_foundation::clock;
use portolan_foundation::tls::{GatewayId, uris_of, validity_of};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use time::OffsetDateTime;

use crate::cli::Pki;

/// The key of an authority, and its certificate.
const AUTHORITY: &str = "authority.pem";
/// The authorities that gateways believe.
const BUNDLE: &str = "ca.crt";
/// The gateway of a region that is not named.
const GATEWAY: &str = "1";
/// How long certificates of trials and of the demo are valid.
const TRIAL_DAYS: u32 = 365;
/// By how much other machines' clocks may be behind.
const EARLY: Duration = Duration::from_hours(1);
/// The trust domain of trials and of the demo.
const TRIAL_DOMAIN: &str = "portolan.test";

/// An authority that can sign identities of gateways.
#[derive(Debug)]
pub(crate) struct Authority {
    domain: String,
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate.
    pem: String,
    /// The second since 1970 after which it is believed by nobody.
    until: i64,
}

/// The files of one gateway's identity.
#[derive(Clone, Debug)]
pub(crate) struct IdentityFiles {
    /// Certificate chain, PEM.
    pub(crate) cert: PathBuf,
    /// Private key, PEM, readable by the owner alone.
    pub(crate) key: PathBuf,
    /// The authorities, PEM.
    pub(crate) ca: PathBuf,
}

impl Authority {
    /// A new authority for trials, with a new key that is nowhere else.
    ///
    /// # Errors
    /// When the cryptographic library refuses, which means that no randomness is to be had.
    pub(crate) fn trial() -> anyhow::Result<Self> {
        Self::create(TRIAL_DOMAIN, TRIAL_DAYS)
    }

    fn create(domain: &str, days: u32) -> anyhow::Result<Self> {
        let region = RegionName::new("any").context("name a region")?;
        GatewayId::new(domain, &region, GATEWAY).map_err(|_| {
            anyhow::anyhow!("`{domain}` is no trust domain: lower-case letters, digits, `.`, `-` and `_`, as in `gateways.example.net`")
        })?;
        let key = KeyPair::generate().context("generate the authority's key")?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("portolan {domain}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        // Whose it is, without a path (X509-SVID, section 3.2).
        let uri = format!("spiffe://{domain}");
        params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().context("write its URI")?)];
        let until = valid(&mut params, days)?;
        let pem = params.self_signed(&key).context("sign the authority's certificate")?.pem();
        Ok(Self { domain: domain.to_owned(), issuer: Issuer::new(params, key), pem, until })
    }

    /// Reads the one of a folder.
    fn read(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(AUTHORITY);
        let pem = std::fs::read_to_string(&path)
            .with_context(|| format!("read {}: `portolan pki init` makes one", path.display()))?;
        let bad = || format!("{} has not the key of an authority and its certificate", path.display());
        let key = KeyPair::from_pem(&pem).with_context(bad)?;
        let certificate = certificates(&pem).with_context(bad)?.into_iter().next().with_context(bad)?;
        let domain = domain(&certificate).with_context(bad)?;
        let (_, until) = validity_of(&certificate)?;
        let begin = pem.find("-----BEGIN CERTIFICATE-----").with_context(bad)?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).with_context(bad)?;
        Ok(Self { domain, issuer, pem: pem.split_at(begin).1.to_owned(), until })
    }

    fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let text = format!("{}{}", self.issuer.key().serialize_pem(), self.pem);
        write(&folder.join(AUTHORITY), &text, 0o600)
    }

    /// Writes certificate, key and this authority into a folder, for a region's one gateway.
    ///
    /// # Errors
    /// When signing or writing fails; the message names the file.
    pub(crate) fn issue(&self, region: &RegionName, folder: &Path) -> anyhow::Result<IdentityFiles> {
        self.issue_for(region, GATEWAY, TRIAL_DAYS, (folder, &self.pem))
    }

    fn issue_for(
        &self,
        region: &RegionName,
        gateway: &str,
        days: u32,
        (folder, bundle): (&Path, &str),
    ) -> anyhow::Result<IdentityFiles> {
        let id = GatewayId::new(&self.domain, region, gateway).map_err(|_| {
            anyhow::anyhow!("`{gateway}` is no name of a gateway: letters, digits, `.`, `-` and `_`")
        })?;
        ensure!(
            region.as_str() != "ca",
            "a region `ca` would be given the file of the authorities: name it otherwise"
        );
        let now = i64::try_from(clock::unix_ms() / 1_000).context("read the clock")?;
        ensure!(self.until > now, "the authority has ended: `portolan pki rotate` makes another");
        let key = KeyPair::generate().context("generate the gateway's key")?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("{region} {gateway}"));
        params.subject_alt_names =
            vec![SanType::URI(id.to_string().as_str().try_into().context("write the gateway's URI")?)];
        // Said, not left out: X.509-SVID, section 4.1, and those who hold to it.
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        if valid(&mut params, days)? > self.until {
            params.not_after = OffsetDateTime::from_unix_timestamp(self.until).context("read a time")?;
        }
        let certificate = params.signed_by(&key, &self.issuer).context("sign the gateway's certificate")?;
        let name = if gateway == GATEWAY { region.to_string() } else { format!("{region}@{gateway}") };
        let files = IdentityFiles {
            cert: folder.join(format!("{name}.crt")),
            key: folder.join(format!("{name}.key")),
            ca: folder.join(BUNDLE),
        };
        // A gateway that reads between two of them keeps what it has.
        write(&files.ca, bundle, 0o644)?;
        write(&files.key, &key.serialize_pem(), 0o600)?;
        write(&files.cert, &certificate.pem(), 0o644)?;
        Ok(files)
    }
}

/// Runs `portolan pki`.
///
/// # Errors
/// When a name is none, a file cannot be read or written, or something is there already.
pub(crate) fn run(command: &Pki) -> anyhow::Result<()> {
    match command {
        Pki::Init { folder, domain, days } => {
            make(folder)?;
            let path = folder.join(AUTHORITY);
            ensure!(
                !path.exists(),
                "{} is there: `portolan pki rotate` makes another beside it",
                path.display()
            );
            let bundle = folder.join(BUNDLE);
            ensure!(
                !bundle.exists(),
                "{} is there, and would be lost: take another folder",
                bundle.display()
            );
            let authority = Authority::create(domain, *days)?;
            write(&folder.join(BUNDLE), &authority.pem, 0o644)?;
            authority.write(folder)?;
            crate::print(&format!(
                "{} signs for spiffe://{domain} and stays here; {} goes to every gateway, and `portolan pki issue {} REGION` makes \
                 certificates",
                path.display(),
                folder.join(BUNDLE).display(),
                folder.display()
            ))
        }
        Pki::Issue { folder, regions, gateway, days, to } => {
            let authority = Authority::read(folder)?;
            let bundle = read(&folder.join(BUNDLE))?;
            let target = to.as_ref().unwrap_or(folder);
            make(target)?;
            for region in regions {
                let region = RegionName::new(region)?;
                told(&authority.issue_for(&region, gateway, *days, (target, &bundle))?)?;
            }
            Ok(())
        }
        Pki::Rotate { folder, finish: false, days } => {
            let before = Authority::read(folder)?;
            let next = Authority::create(&before.domain, *days)?;
            let bundle = folder.join(BUNDLE);
            // Believed before it signs.
            write(&bundle, &format!("{}{}", next.pem, read(&bundle)?), 0o644)?;
            next.write(folder)?;
            crate::print(&format!(
                "a new authority signs from now on. Give {} to every gateway, then issue their certificates anew, then run `portolan pki \
                 rotate {} --finish`",
                bundle.display(),
                folder.display()
            ))
        }
        Pki::Rotate { folder, finish: true, .. } => {
            let authority = Authority::read(folder)?;
            let bundle = folder.join(BUNDLE);
            let gone = certificates(&read(&bundle)?)?.len().saturating_sub(1);
            write(&bundle, &authority.pem, 0o644)?;
            crate::print(&format!(
                "{} has one authority, and {gone} fewer than before. Give it to every gateway: those whose certificates are of an earlier one \
                 are cut off then",
                bundle.display()
            ))
        }
        Pki::Show { file } => {
            for certificate in certificates(&read(file)?)? {
                let names = uris_of(&certificate);
                let (from, until) = validity_of(&certificate)?;
                let time = |seconds: i64| {
                    let ms = u64::try_from(seconds).unwrap_or_default().saturating_mul(1_000);
                    humantime::format_rfc3339_seconds(clock::from_unix_ms(ms))
                };
                let name = names.first().map_or("no URI", String::as_str);
                crate::print(&format!("{name}: from {} until {}", time(from), time(until)))?;
            }
            Ok(())
        }
        Pki::Trial { folder, regions } => {
            make(folder)?;
            let kept = folder.join(AUTHORITY);
            ensure!(!kept.exists(), "{} is no authority for trials: take another folder", kept.display());
            let authority = Authority::trial()?;
            for region in regions {
                told(&authority.issue(&RegionName::new(region)?, folder)?)?;
            }
            Ok(())
        }
    }
}

fn told(files: &IdentityFiles) -> anyhow::Result<()> {
    crate::print(&format!("{}, {}, {}", files.cert.display(), files.key.display(), files.ca.display()))
}

/// From a moment ago until so many days from now; gives the second of its end.
fn valid(params: &mut CertificateParams, days: u32) -> anyhow::Result<i64> {
    let now = i64::try_from(clock::unix_ms() / 1_000).context("read the clock")?;
    let until = now + i64::from(days) * 24 * 60 * 60;
    let at = |seconds: i64| OffsetDateTime::from_unix_timestamp(seconds).context("that is too many days");
    params.not_before = at(now - EARLY.as_secs().cast_signed())?;
    params.not_after = at(until)?;
    Ok(until)
}

fn certificates(pem: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|error| anyhow::anyhow!("{error}"))?;
    ensure!(!found.is_empty(), "no certificate is in it");
    Ok(found)
}

/// The trust domain of an authority.
fn domain(certificate: &CertificateDer<'_>) -> Option<String> {
    let uris = uris_of(certificate);
    let [uri] = uris.as_slice() else { return None };
    uri.strip_prefix("spiffe://").filter(|domain| !domain.contains('/')).map(str::to_owned)
}

fn make(folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

/// Puts a file in the place of another, whole.
fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    let written = || -> std::io::Result<()> {
        std::fs::remove_file(&new).or_else(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })?;
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    };
    written().with_context(|| format!("write {}", path.display()))
}
