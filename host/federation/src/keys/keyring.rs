//! Key-encryption keys in files, for development and for single machines: whoever reads the folder reads everything.
//!
//! `FOLDER/TENANT/REGION.NUMBER.key`, each with 32 random bytes and readable by its user alone. Names have no separators (see
//! [`portolan_core::ids::check_name`]), so that none leads out of the folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use portolan_foundation::seal::{Keeper, secret};

use super::{Holder, Kms, Wrapped};
use crate::Error;
use crate::seal::{Secret, System};

/// A folder of key-encryption keys.
#[derive(Clone, Debug)]
pub struct Keyring {
    folder: PathBuf,
}

impl Keyring {
    /// The keyring in a folder, which is made when the first key is.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    fn path(&self, holder: &Holder, generation: u32) -> PathBuf {
        self.folder.join(holder.tenant.as_str()).join(format!("{}.{generation}.key", holder.region))
    }

    /// The numbers of a holder's keys, lowest first.
    fn generations(&self, holder: &Holder) -> io::Result<Vec<u32>> {
        let entries = match fs::read_dir(self.folder.join(holder.tenant.as_str())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut generations = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let number: Option<u32> = name.to_str().and_then(|name| {
                name.strip_prefix(holder.region.as_str())?
                    .strip_prefix('.')?
                    .strip_suffix(".key")?
                    .parse()
                    .ok()
            });
            generations.extend(number);
        }
        generations.sort_unstable();
        Ok(generations)
    }

    fn make(&self, holder: &Holder, generation: u32) -> io::Result<Secret> {
        fs::create_dir_all(self.folder.join(holder.tenant.as_str()))?;
        secret(&self.path(holder, generation), Keeper::Own).map(Secret::new)
    }

    fn read(&self, holder: &Holder, generation: u32) -> Result<Secret, Error> {
        let path = self.path(holder, generation);
        // A key that is gone must not be made again: what it wrapped is lost, and is to be said so.
        if !path.try_exists().map_err(Error::Keyring)? {
            return Err(Error::NoKey);
        }
        secret(&path, Keeper::Own).map(Secret::new).map_err(Error::Keyring)
    }
}

fn about(holder: &Holder, about: &[u8]) -> Vec<u8> {
    [holder.tenant.as_str().as_bytes(), b"/", holder.region.as_str().as_bytes(), b"/", about].concat()
}

#[async_trait]
impl Kms for Keyring {
    async fn wrap(&self, holder: &Holder, context: &[u8], key: &Secret) -> Result<Wrapped, Error> {
        let newest = self.generations(holder).map_err(Error::Keyring)?.last().copied();
        let generation = newest.unwrap_or(1);
        let wrapping = self.make(holder, generation).map_err(Error::Keyring)?;
        let bytes = wrapping.seal(&about(holder, context), key.bytes().to_vec(), &System)?;
        Ok(Wrapped { generation, bytes })
    }

    async fn unwrap(&self, holder: &Holder, context: &[u8], wrapped: &Wrapped) -> Result<Secret, Error> {
        let opened = self.read(holder, wrapped.generation)?.open(&about(holder, context), &wrapped.bytes)?;
        opened.try_into().map(Secret::new).map_err(|_| Error::Malformed("a wrapped key"))
    }

    async fn rotate(&self, holder: &Holder) -> Result<u32, Error> {
        let newest = self.generations(holder).map_err(Error::Keyring)?.last().copied().unwrap_or(0);
        let next = newest.saturating_add(1);
        self.make(holder, next).map_err(Error::Keyring)?;
        Ok(next)
    }

    async fn retire(&self, holder: &Holder, before: u32) -> Result<(), Error> {
        for generation in self.generations(holder).map_err(Error::Keyring)? {
            if generation < before {
                fs::remove_file(self.path(holder, generation)).map_err(Error::Keyring)?;
            }
        }
        Ok(())
    }
}
