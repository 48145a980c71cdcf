//! A small certificate authority for the peer link: for the demo and for trials. Production brings
//! its own; what matters is the URI `portolan://region/NAME` among a certificate's subject alternative names.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use portolan_core::ids::RegionName;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

/// An authority that can sign identities of regions.
#[derive(Debug)]
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// The files of one region's identity.
#[derive(Clone, Debug)]
pub(crate) struct IdentityFiles {
    /// Certificate chain, PEM.
    pub(crate) cert: PathBuf,
    /// Private key, PEM, readable by the owner alone.
    pub(crate) key: PathBuf,
    /// The authority, PEM.
    pub(crate) ca: PathBuf,
}

impl Authority {
    /// A new authority with a new key.
    ///
    /// # Errors
    /// When the cryptographic library refuses, which means that no randomness is to be had.
    pub(crate) fn create(name: &str) -> anyhow::Result<Self> {
        let key = KeyPair::generate().context("generate the authority's key")?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key).context("sign the authority's certificate")?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// Writes `REGION.crt`, `REGION.key` and `ca.crt` into a folder.
    ///
    /// # Errors
    /// When signing or writing fails; the message names the file.
    pub(crate) fn issue(&self, region: &RegionName, folder: &Path) -> anyhow::Result<IdentityFiles> {
        let key = KeyPair::generate().context("generate the region's key")?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, region.as_str());
        let uri = format!("portolan://region/{region}");
        params.subject_alt_names =
            vec![SanType::URI(uri.as_str().try_into().context("write the region's URI")?)];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer).context("sign the region's certificate")?;
        let files = IdentityFiles {
            cert: folder.join(format!("{region}.crt")),
            key: folder.join(format!("{region}.key")),
            ca: folder.join("ca.crt"),
        };
        write(&files.cert, &certificate.pem(), 0o644)?;
        write(&files.key, &key.serialize_pem(), 0o600)?;
        write(&files.ca, &self.pem, 0o644)?;
        Ok(files)
    }
}

/// `portolan pki`: one authority, and an identity for each region. The authority's key is not kept: run it again for all
/// regions to add one.
///
/// # Errors
/// When a name is no region's, or the folder cannot be written.
pub(crate) fn run(folder: &Path, regions: &[String]) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let authority = Authority::create("portolan trial authority")?;
    for region in regions {
        let files = authority.issue(&RegionName::new(region)?, folder)?;
        crate::print(&format!("{}, {}, {}", files.cert.display(), files.key.display(), files.ca.display()))?;
    }
    Ok(())
}

fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(mode);
    let mut file = options.open(path).with_context(|| format!("create {}", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("write {}", path.display()))
}
