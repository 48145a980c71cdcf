//! The last generations on this node's own disk: what it starts with when the store is away, and what an operator can go
//! back to without one.
//!
//! A file holds one whole state, and begins with the digest of the rest. It is put into place as a whole; one that does not
//! read is passed over for the one before it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use portolan_core::ids::Digest;
use serde::{Deserialize, Serialize};

use crate::change::digest;
use crate::defaults::SAVED_MAX;
use crate::object::{Key, Object};
use crate::state::State;

/// The layout of a file.
const FORMAT: u32 = 1;

/// The folder.
#[derive(Clone, Debug)]
pub(crate) struct Saved {
    folder: PathBuf,
}

#[derive(Serialize)]
struct Written<'a> {
    format: u32,
    generation: u64,
    head: String,
    made_at_ms: u64,
    objects: BTreeMap<&'a Key, &'a Object>,
}

/// What every layout begins with.
#[derive(Deserialize)]
struct Formed {
    format: u32,
}

/// What a folder has to begin with.
#[derive(Debug, Default)]
pub(crate) struct Newest {
    /// Why the newest generation is not `state`, when a newer program wrote it: its intent is not to be lost without a word.
    pub(crate) newer: Option<String>,
    /// The newest state that reads.
    pub(crate) state: Option<State>,
}

#[derive(Deserialize)]
struct Read {
    generation: u64,
    head: String,
    #[serde(default)]
    made_at_ms: u64,
    objects: BTreeMap<Key, Object>,
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

    /// Puts a state on disk, and lets go of the oldest.
    pub(crate) fn save(&self, state: &State) -> io::Result<()> {
        let objects = state.objects.iter().map(|(key, object)| (key, &**object)).collect();
        let written = Written {
            format: FORMAT,
            generation: state.generation,
            head: state.head.to_string(),
            made_at_ms: state.made_at_ms,
            objects,
        };
        let text = serde_json::to_vec(&written).map_err(io::Error::other)?;
        let partial = self.folder.join("partial");
        let mut file = File::create(&partial)?;
        writeln!(file, "{}", digest(&text))?;
        file.write_all(&text)?;
        file.sync_all()?;
        std::fs::rename(&partial, self.path(state.generation))?;
        File::open(&self.folder)?.sync_all()?;
        for old in self.generations()?.iter().rev().skip(SAVED_MAX) {
            std::fs::remove_file(self.path(*old))?;
        }
        Ok(())
    }

    /// The generations that are there, in order.
    pub(crate) fn generations(&self) -> io::Result<Vec<u64>> {
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

    /// The newest state that reads; what does not is told.
    pub(crate) fn newest(&self) -> io::Result<Newest> {
        let mut newest = Newest::default();
        for generation in self.generations()?.into_iter().rev() {
            match self.load(generation) {
                Ok(state) => {
                    newest.state = Some(state);
                    return Ok(newest);
                }
                Err(error) => {
                    if error.kind() == io::ErrorKind::Unsupported && newest.newer.is_none() {
                        newest.newer = Some(format!("generation {generation} on this node's disk {error}"));
                    }
                    let path = self.path(generation);
                    tracing::warn!(path = %path.display(), "a saved generation does not read, an older one is taken: {error}");
                }
            }
        }
        Ok(newest)
    }

    /// One state.
    pub(crate) fn load(&self, generation: u64) -> io::Result<State> {
        let bytes = std::fs::read(self.path(generation))?;
        let bad = |reason: &str| io::Error::new(io::ErrorKind::InvalidData, reason.to_owned());
        let cut = bytes.iter().position(|byte| *byte == b'\n').ok_or_else(|| bad("it is cut off"))?;
        let (sum, text) = bytes.split_at_checked(cut + 1).ok_or_else(|| bad("it is cut off"))?;
        if sum != format!("{}\n", digest(text)).as_bytes() {
            return Err(bad("its digest is another"));
        }
        let Formed { format } = serde_json::from_slice(text)?;
        if format > FORMAT {
            let newer = format!(
                "is of format {format}, and this program reads {FORMAT}: a newer portolan wrote it. Start that version, or \
                 let this one reach the control store, or name an older generation (`portolan serve --generation N`)"
            );
            return Err(io::Error::new(io::ErrorKind::Unsupported, newer));
        }
        let read: Read = serde_json::from_slice(text)?;
        if format != FORMAT || read.generation != generation {
            return Err(bad("it is of another format or generation"));
        }
        let head: Digest = read.head.parse().map_err(|_| bad("its head is no digest"))?;
        let objects = read.objects.into_iter().map(|(key, object)| (key, object.into())).collect();
        Ok(State { generation, head, made_at_ms: read.made_at_ms, objects })
    }

    fn path(&self, generation: u64) -> PathBuf {
        self.folder.join(format!("{generation:020}.json"))
    }
}
