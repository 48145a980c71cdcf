//! The last plans on this node's own disk: what it answers from when it starts and nobody can be asked.
//!
//! A file holds one plan, and begins with the digest of the rest. It is put into place as a whole; one that does not read is passed over
//! for the one before it.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use portolan_core::ids::Digest;
use sha2::{Digest as _, Sha256};

use crate::defaults::PLAN_BYTES_MAX;
use crate::plan::{Draft, Plan};

/// How many are kept: one may be broken by the disk, and another by the plan itself.
const KEPT: usize = 3;

/// The folder.
#[derive(Clone, Debug)]
pub(crate) struct Saved {
    folder: PathBuf,
}

impl Saved {
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        Ok(Self::at(folder))
    }

    /// A folder that is only read.
    pub(crate) fn at(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Puts a plan on disk, and lets go of the oldest.
    pub(crate) fn save(&self, draft: &Draft) -> io::Result<()> {
        let text = serde_json::to_vec(draft).map_err(io::Error::other)?;
        let partial = self.folder.join("partial");
        let mut file = File::create(&partial)?;
        writeln!(file, "{}", Digest(Sha256::digest(&text).into()))?;
        file.write_all(&text)?;
        file.sync_all()?;
        std::fs::rename(&partial, self.path(draft.number))?;
        File::open(&self.folder)?.sync_all()?;
        for old in self.numbers()?.iter().rev().skip(KEPT) {
            std::fs::remove_file(self.path(*old))?;
        }
        Ok(())
    }

    /// Lets go of all, so that a plan with a lower number is the newest afterwards.
    pub(crate) fn forget(&self) {
        for number in self.numbers().unwrap_or_default() {
            if let Err(error) = std::fs::remove_file(self.path(number)) {
                tracing::warn!(number, %error, "an old DNS plan stays on disk; remove its file");
            }
        }
    }

    /// The newest plan that reads; what does not is told.
    pub(crate) fn newest(&self) -> io::Result<Option<Plan>> {
        for number in self.numbers()?.into_iter().rev() {
            match self.load(number) {
                Ok(plan) => return Ok(Some(plan)),
                Err(error) => {
                    tracing::error!(number, %error, "a DNS plan on disk does not read; the one before it is tried");
                }
            }
        }
        Ok(None)
    }

    fn load(&self, number: u64) -> io::Result<Plan> {
        let mut bytes = Vec::new();
        File::open(self.path(number))?.take(PLAN_BYTES_MAX).read_to_end(&mut bytes)?;
        let broken = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let at = bytes.iter().position(|byte| *byte == b'\n').ok_or_else(|| broken("it has no digest"))?;
        let (digest, text) = bytes.split_at_checked(at + 1).ok_or_else(|| broken("it has no digest"))?;
        let actual = Digest(Sha256::digest(text).into()).to_string();
        if digest.trim_ascii_end() != actual.as_bytes() {
            return Err(broken("its bytes are not those that were written"));
        }
        let draft: Draft = serde_json::from_slice(text).map_err(io::Error::other)?;
        Plan::new(draft).map_err(io::Error::other)
    }

    fn numbers(&self) -> io::Result<Vec<u64>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let name = entry?.file_name();
            found.extend(
                name.to_string_lossy().strip_suffix(".json").and_then(|number| number.parse::<u64>().ok()),
            );
        }
        found.sort_unstable();
        Ok(found)
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{number}.json"))
    }
}
