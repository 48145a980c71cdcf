//! Break-glass: holding policies as they are, and taking tenants' policies away, without the control store and without
//! the admin API. Each is a file on the node's own disk, or an object in the store for all nodes; both count.
//!
//! *Frozen*: every slot keeps the version, configuration and terms that it had when the node first saw the freeze. Plans
//! still follow facts, so that health and latency are not ignored; a *hard* freeze stops that too. What was frozen is
//! written beside the freeze, so that a restart goes on with it. *Disabled*: requests of the tenant are served as if its slot
//! had no policy.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use portolan_control::{Body, Key, State};
use portolan_core::ids::{Digest, TenantName};
use portolan_foundation::clock;
use portolan_policy::{Slot, SlotSpec};
use serde::{Deserialize, Serialize};

/// The folder below a node's own.
const FOLDER: &str = "break-glass";
const FREEZE_FILE: &str = "freeze.json";
const DISABLE_FILE: &str = "disable.json";
/// What was running when the freeze was first seen.
const FROZEN_FILE: &str = "frozen.json";
/// The keys of the same in the control store.
pub(crate) const FREEZE_KEY: (&str, &str) = ("freeze", "policies");
/// See [`FREEZE_KEY`].
pub(crate) const DISABLE_KEY: (&str, &str) = ("disable", "tenants");

/// Who did it, when and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Deed {
    /// Milliseconds since 1970-01-01T00:00:00Z.
    #[serde(default)]
    pub(crate) at_ms: u64,
    #[serde(default)]
    pub(crate) by: String,
    #[serde(default)]
    pub(crate) why: String,
}

/// Policies are held as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Freeze {
    #[serde(flatten)]
    pub(crate) deed: Deed,
    /// Do plans not follow facts either?
    #[serde(default)]
    pub(crate) hard: bool,
}

/// Tenants without their policies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Disable {
    /// All of them.
    #[serde(default)]
    pub(crate) all: Option<Deed>,
    /// Those by name.
    #[serde(default)]
    pub(crate) tenants: BTreeMap<TenantName, Deed>,
}

/// What is broken glass on this node, as status tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct BreakGlass {
    /// Tenants without policies: by this node's own disk, by the store.
    pub(crate) disabled: Sides<Disable>,
    /// Policies are held.
    pub(crate) frozen: Sides<Freeze>,
    /// Files that do not read, a line each. What they wanted is not known, so it does not hold.
    pub(crate) problems: Vec<String>,
}

/// The same, said in two places.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Sides<T> {
    /// On this node's own disk.
    pub(crate) here: Option<T>,
    /// In the control store, for all nodes.
    pub(crate) everywhere: Option<T>,
}

impl<T> Default for Sides<T> {
    fn default() -> Self {
        Self { here: None, everywhere: None }
    }
}

impl<T> Sides<T> {
    fn iter(&self) -> impl Iterator<Item = &T> {
        self.here.iter().chain(&self.everywhere)
    }
}

/// One slot as it was frozen.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Held {
    config: String,
    /// In hexadecimal.
    digest: Option<String>,
}

impl BreakGlass {
    /// Reads what is said here and everywhere.
    pub(crate) fn read(folder: &Files, state: Option<&State>) -> Self {
        let mut problems = Vec::new();
        let frozen = Sides {
            here: folder.read(FREEZE_FILE).unwrap_or_else(|problem| {
                problems.push(problem);
                None
            }),
            everywhere: object(state, FREEZE_KEY).unwrap_or_else(|problem| {
                problems.push(problem);
                None
            }),
        };
        let disabled = Sides {
            here: folder.read(DISABLE_FILE).unwrap_or_else(|problem| {
                problems.push(problem);
                None
            }),
            everywhere: object(state, DISABLE_KEY).unwrap_or_else(|problem| {
                problems.push(problem);
                None
            }),
        };
        Self { disabled, frozen, problems }
    }

    /// Are policies held?
    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen.iter().next().is_some()
    }

    /// Do plans not follow facts either?
    pub(crate) fn is_hard(&self) -> bool {
        self.frozen.iter().any(|freeze| freeze.hard)
    }

    /// Is any tenant without its policy?
    pub(crate) fn disables(&self) -> bool {
        self.disabled.iter().any(|disable| disable.all.is_some() || !disable.tenants.is_empty())
    }

    fn takes_away(&self, slot: &Slot) -> bool {
        let Slot::Tenant(name) = slot else { return false };
        self.disabled.iter().any(|disable| disable.all.is_some() || disable.tenants.contains_key(name))
    }

    /// Marks what is disabled.
    pub(crate) fn apply(&self, specs: &mut [SlotSpec]) {
        specs.iter_mut().for_each(|spec| spec.terms.disabled = self.takes_away(&spec.slot));
    }
}

fn object<T: for<'de> Deserialize<'de>>(
    state: Option<&State>,
    key: (&str, &str),
) -> Result<Option<T>, String> {
    let found = state.and_then(|state| state.get(&Key::new(key.0, key.1).ok()?).cloned());
    let Some(object) = found else { return Ok(None) };
    let value = serde_json::to_value(&object.body).and_then(serde_json::from_value);
    value.map(Some).map_err(|error| format!("the object {}/{} does not read: {error}", key.0, key.1))
}

/// As the body of an object.
pub(crate) fn body(of: &impl Serialize) -> Option<Body> {
    serde_json::from_value(serde_json::to_value(of).ok()?).ok()
}

/// The files of one node.
#[derive(Clone, Debug)]
pub(crate) struct Files(PathBuf);

impl Files {
    /// Those below a node's own folder.
    pub(crate) fn of(state: &Path) -> Self {
        Self(state.join(FOLDER))
    }

    /// Where they are.
    pub(crate) fn folder(&self) -> &Path {
        &self.0
    }

    /// Makes the folder, so that it can be watched.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub(crate) fn create(&self) -> io::Result<()> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0)
    }

    /// Holds policies.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub(crate) fn freeze(&self, freeze: &Freeze) -> io::Result<()> {
        self.write(FREEZE_FILE, freeze)
    }

    /// Lets them go; `false` when they were not held here.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub(crate) fn thaw(&self) -> io::Result<bool> {
        self.remove(FREEZE_FILE)
    }

    /// Who is disabled here.
    ///
    /// # Errors
    /// A line for a person.
    pub(crate) fn disabled(&self) -> Result<Disable, String> {
        Ok(self.read(DISABLE_FILE)?.unwrap_or_default())
    }

    /// Says who is disabled here.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub(crate) fn disable(&self, disable: &Disable) -> io::Result<()> {
        if *disable == Disable::default() {
            return self.remove(DISABLE_FILE).map(drop);
        }
        self.write(DISABLE_FILE, disable)
    }

    fn read<T: for<'de> Deserialize<'de>>(&self, name: &str) -> Result<Option<T>, String> {
        let path = self.0.join(name);
        match std::fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(value) => Ok(Some(value)),
                Err(error) => Err(format!("{} does not read: {error}; write it anew", path.display())),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("read {}: {error}", path.display())),
        }
    }

    fn write(&self, name: &str, value: &impl Serialize) -> io::Result<()> {
        self.create()?;
        let partial = self.0.join(format!("{name}.partial"));
        std::fs::write(&partial, serde_json::to_vec_pretty(value).map_err(io::Error::other)?)?;
        std::fs::File::open(&partial)?.sync_all()?;
        std::fs::rename(&partial, self.0.join(name))
    }

    fn remove(&self, name: &str) -> io::Result<bool> {
        match std::fs::remove_file(self.0.join(name)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// What slots are held at.
#[derive(Debug)]
pub(crate) struct Freezer {
    files: Files,
    /// What every slot is to run while policies are held.
    held: Option<Vec<SlotSpec>>,
}

impl Freezer {
    /// Nothing is held yet.
    pub(crate) const fn new(files: Files) -> Self {
        Self { files, held: None }
    }

    /// Where break-glass files are.
    pub(crate) const fn files(&self) -> &Files {
        &self.files
    }

    /// What the slots are to run: what is wanted, or what is held. `before` is what ran until now; none at a start.
    pub(crate) fn hold(
        &mut self,
        frozen: bool,
        wanted: Vec<SlotSpec>,
        before: Option<&[SlotSpec]>,
    ) -> Vec<SlotSpec> {
        if !frozen {
            if self.held.take().is_some() {
                // It may lie there for ever without harm, but for a freeze to come.
                self.files.remove(FROZEN_FILE).ok();
                tracing::info!("policies are held no longer: what is wanted now is planned");
            }
            return wanted;
        }
        if let Some(held) = &self.held {
            return held.clone();
        }
        let held = match before {
            Some(before) => before.to_vec(),
            // The node starts frozen: what it ran is on its disk.
            None => self.restored(wanted),
        };
        self.keep(&held);
        tracing::warn!("policies are held: no new version or configuration of one takes effect");
        self.held.insert(held).clone()
    }

    fn keep(&self, held: &[SlotSpec]) {
        let written: BTreeMap<String, Held> = held
            .iter()
            .map(|spec| {
                let digest = spec.source.as_ref().ok().map(|source| source.digest().to_string());
                (spec.slot.to_string(), Held { config: spec.config.to_string(), digest })
            })
            .collect();
        if let Err(error) = self.files.write(FROZEN_FILE, &written) {
            tracing::warn!(%error, "cannot write down what is held: a restart would take what is wanted then");
        }
    }

    /// What was held before the restart, as far as its versions are still here. A slot whose version is another now has
    /// none to run, rather than one that nobody released.
    fn restored(&self, wanted: Vec<SlotSpec>) -> Vec<SlotSpec> {
        let written: BTreeMap<String, Held> = match self.files.read(FROZEN_FILE) {
            Ok(Some(written)) => written,
            Ok(None) => return wanted,
            Err(problem) => {
                tracing::warn!("{problem}; what is wanted now is held");
                return wanted;
            }
        };
        let restore = |mut spec: SlotSpec| {
            let held = written.get(&spec.slot.to_string())?;
            spec.config = held.config.as_str().into();
            let now = spec.source.as_ref().ok().map(portolan_policy::Source::digest);
            if let Some(digest) = held.digest.as_deref().and_then(|text| text.parse::<Digest>().ok())
                && now != Some(digest)
            {
                spec.source = Err(portolan_policy::Refused::new(
                    portolan_policy::Stage::Read,
                    format!(
                        "policies are frozen, and the version {} that was held is no longer wanted",
                        digest.short()
                    ),
                    "put that version back, or thaw: `portolan policy thaw`",
                ));
            }
            Some(spec)
        };
        wanted.into_iter().filter_map(restore).collect()
    }
}

/// Somebody's deed, now.
pub(crate) fn deed(by: String, why: &str) -> Deed {
    Deed { at_ms: clock::unix_ms(), by, why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_damaged_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::of(folder.path());
        assert_eq!(BreakGlass::read(&files, None), BreakGlass::default());
        files.freeze(&Freeze { deed: deed("me".into(), "trial"), hard: true }).unwrap();
        let mut disable = Disable::default();
        disable.tenants.insert(TenantName::new("acme").unwrap(), deed("me".into(), ""));
        files.disable(&disable).unwrap();
        let read = BreakGlass::read(&files, None);
        assert!(read.is_frozen() && read.is_hard());
        assert!(read.takes_away(&Slot::Tenant(TenantName::new("acme").unwrap())));
        assert!(!read.takes_away(&Slot::Tenant(TenantName::new("other").unwrap())));
        assert!(!read.takes_away(&Slot::Operator), "the operator's own policy is never taken away");
        assert!(files.thaw().unwrap() && !files.thaw().unwrap());
        files.disable(&Disable { all: Some(deed("me".into(), "")), ..Disable::default() }).unwrap();
        let read = BreakGlass::read(&files, None);
        assert!(!read.is_frozen() && read.takes_away(&Slot::Tenant(TenantName::new("other").unwrap())));
        std::fs::write(files.folder().join(DISABLE_FILE), "{").unwrap();
        let read = BreakGlass::read(&files, None);
        assert!(read.problems[0].contains("does not read"), "{read:?}");
        files.disable(&Disable::default()).unwrap();
        assert_eq!(BreakGlass::read(&files, None), BreakGlass::default());
    }
}
