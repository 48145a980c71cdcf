//! The certificates of public listeners, chosen by the name that a client asks for.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{Error, chain, file_error, key, provider};

/// Where one certificate lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, PEM, leaf first.
    pub cert: PathBuf,
    /// The private key, PEM.
    pub key: PathBuf,
}

/// What `status` tells of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateStatus {
    /// The DNS names in it.
    pub names: Vec<String>,
    /// Seconds since 1970 after which it is not valid.
    pub not_after: i64,
}

#[derive(Debug, Default)]
struct Loaded {
    by_name: HashMap<String, Arc<CertifiedKey>>,
    first: Option<Arc<CertifiedKey>>,
    status: Vec<CertificateStatus>,
}

/// The certificates of a node's listeners.
#[derive(Debug)]
pub struct CertificateStore {
    files: Vec<CertificateFiles>,
    loaded: ArcSwap<Loaded>,
}

impl CertificateStore {
    /// Reads all files.
    ///
    /// # Errors
    /// The first file that is bad, and why.
    pub fn load(files: Vec<CertificateFiles>) -> Result<Arc<Self>, Error> {
        let loaded = ArcSwap::from_pointee(Loaded::read(&files)?);
        Ok(Arc::new(Self { files, loaded }))
    }

    /// Reads all files again. New handshakes use them; connections keep what they began with.
    ///
    /// # Errors
    /// The first file that is bad; then the old certificates stay.
    pub fn reload(&self) -> Result<(), Error> {
        self.loaded.store(Arc::new(Loaded::read(&self.files)?));
        Ok(())
    }

    /// What is served now.
    #[must_use]
    pub fn status(&self) -> Vec<CertificateStatus> {
        self.loaded.load().status.clone()
    }

    /// The folders to watch for changes.
    #[must_use]
    pub fn folders(&self) -> Vec<PathBuf> {
        let files = self.files.iter().flat_map(|files| [&files.cert, &files.key]);
        let mut folders: Vec<PathBuf> = files.filter_map(|file| file.parent()).map(Into::into).collect();
        folders.sort();
        folders.dedup();
        folders
    }
}

impl ResolvesServerCert for CertificateStore {
    /// The certificate for the exact name, for a wildcard over its first label (RFC 6125, section 6.4.3), or the first.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let loaded = self.loaded.load();
        let named = hello.server_name().and_then(|name| {
            // Names of hosts are the same in capitals (RFC 4343).
            let name = name.to_ascii_lowercase();
            let exact = loaded.by_name.get(&name);
            exact.or_else(|| loaded.by_name.get(&format!("*.{}", name.split_once('.')?.1)))
        });
        named.or(loaded.first.as_ref()).cloned()
    }
}

impl Loaded {
    fn read(files: &[CertificateFiles]) -> Result<Self, Error> {
        let mut all = Self::default();
        for file in files {
            let chain = chain(&file.cert)?;
            let status = status(file, &chain)?;
            let key = CertifiedKey::from_der(chain, key(&file.key)?, &provider()).map_err(|error| {
                file_error(&file.key, format!("{error}; it must be the key of {}", file.cert.display()))
            })?;
            let key = Arc::new(key);
            for name in &status.names {
                all.by_name.entry(name.clone()).or_insert_with(|| Arc::clone(&key));
            }
            all.first.get_or_insert(key);
            all.status.push(status);
        }
        Ok(all)
    }
}

fn status(
    files: &CertificateFiles,
    chain: &[rustls::pki_types::CertificateDer<'_>],
) -> Result<CertificateStatus, Error> {
    let leaf = chain.first().ok_or_else(|| file_error(&files.cert, "holds no certificate"))?;
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(|error| file_error(&files.cert, error))?;
    let names = match leaf.subject_alternative_name() {
        Ok(Some(names)) => names
            .value
            .general_names
            .iter()
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    };
    Ok(CertificateStatus { names, not_after: leaf.validity().not_after.timestamp() })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn write(folder: &Path, stem: &str, names: &[&str]) -> CertificateFiles {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let files = CertificateFiles {
            cert: folder.join(format!("{stem}.crt")),
            key: folder.join(format!("{stem}.key")),
        };
        std::fs::write(&files.cert, made.cert.pem()).unwrap();
        std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
        files
    }

    #[test]
    fn a_bad_file_is_named_and_keeps_the_old_certificates() {
        let folder = tempfile::tempdir().unwrap();
        let one = write(folder.path(), "one", &["a.example.com"]);
        let two = write(folder.path(), "two", &["*.example.org"]);
        let store = CertificateStore::load(vec![one.clone(), two.clone()]).unwrap();
        assert_eq!(store.status().len(), 2);
        std::fs::copy(&two.key, &one.key).unwrap();
        let error = store.reload().unwrap_err().to_string();
        assert!(error.contains("one.key") && error.contains("must be the key of"), "{error}");
        assert_eq!(store.status().first().unwrap().names, ["a.example.com"]);
        write(folder.path(), "one", &["b.example.com"]);
        store.reload().unwrap();
        assert_eq!(store.status().first().unwrap().names, ["b.example.com"]);
        std::fs::write(&one.cert, "nothing").unwrap();
        assert!(store.reload().unwrap_err().to_string().contains("PEM"));
        std::fs::remove_file(&one.cert).unwrap();
        assert!(store.reload().is_err());
    }
}
