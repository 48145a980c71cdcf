//! What became of uploads: a file each in the node's folder, so that a refusal can be looked at later. Bounded in number and
//! bytes, for each owner and in all; the oldest goes first.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use portolan_core::ids::{Digest, TenantName};
use portolan_foundation::{clock, random};
use portolan_policy::{Signature, Slot, Step, StepState, Tried};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Records of one owner.
const OF_OWNER_MAX: usize = 100;
/// Records of all.
const RECORDS_MAX: usize = 2_000;
/// Bytes of one record: its steps, and what golden vectors said. A larger one loses those.
const RECORD_BYTES_MAX: usize = 64 * 1024;

/// An upload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    /// When it came, in milliseconds since 1970.
    pub(crate) at_ms: u64,
    /// Who sent it.
    pub(crate) author: String,
    /// The component, once it is known.
    pub(crate) digest: Option<String>,
    /// What the version newly may do; approved of.
    #[serde(default)]
    pub(crate) gained: Vec<String>,
    /// The generation of the store that has the version.
    pub(crate) generation: Option<u64>,
    pub(crate) id: String,
    /// What the policy wrote into its log while it was tried.
    #[serde(default)]
    pub(crate) log: Vec<String>,
    pub(crate) message: String,
    pub(crate) plugin: String,
    /// Why it was refused.
    pub(crate) refused: Option<Refusal>,
    /// How it stands with its signature.
    pub(crate) signature: Option<Signature>,
    pub(crate) size_bytes: Option<u64>,
    /// Where it came from.
    pub(crate) source: String,
    pub(crate) state: UploadState,
    pub(crate) steps: Vec<Step>,
    /// Whose it is; the operator's when absent.
    pub(crate) tenant: Option<TenantName>,
    /// What became of golden vectors.
    #[serde(default)]
    pub(crate) vectors: Vec<VectorTold>,
}

/// A refusal, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refusal {
    pub(crate) fix: String,
    pub(crate) reason: String,
    /// Seconds until another try makes sense.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) retry_after_s: Option<u64>,
    pub(crate) stage: String,
    /// May the same succeed later, although nobody changes it?
    pub(crate) transient: bool,
}

/// A golden vector, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VectorTold {
    pub(crate) name: String,
    pub(crate) passed: bool,
    pub(crate) told: String,
}

/// How an upload stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum UploadState {
    /// It waits for its turn.
    Queued,
    /// It is examined.
    Running,
    /// It is a version now.
    Done,
    /// It was one already.
    Known,
    /// A stage refused it.
    Refused,
    /// The node ended meanwhile.
    Interrupted,
}

impl UploadState {
    pub(crate) const fn is_over(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Known => "known",
            Self::Refused => "refused",
            Self::Interrupted => "interrupted",
        }
    }
}

impl From<&portolan_policy::Refused> for Refusal {
    fn from(refused: &portolan_policy::Refused) -> Self {
        Self {
            fix: refused.fix.clone(),
            reason: refused.reason.clone(),
            retry_after_s: None,
            stage: refused.stage.as_str().to_owned(),
            transient: refused.transient,
        }
    }
}

impl From<&Tried> for VectorTold {
    fn from(tried: &Tried) -> Self {
        let told = match (&tried.decided, &tried.refused) {
            _ if !tried.passed => tried.problems.join("; "),
            (Some(decided), _) => decided.answers.join(", "),
            (None, refused) => refused.clone().unwrap_or_default(),
        };
        Self { name: tried.name.clone(), passed: tried.passed, told }
    }
}

impl Record {
    pub(super) fn new(plugin: &str, owner: &Slot, author: &str, source: &str, message: &str) -> Self {
        let at_ms = clock::unix_ms();
        Self {
            at_ms,
            author: author.to_owned(),
            digest: None,
            gained: Vec::new(),
            generation: None,
            id: format!("{at_ms:013}-{:08x}", random::u64() >> 32),
            log: Vec::new(),
            message: message.to_owned(),
            plugin: plugin.to_owned(),
            refused: None,
            signature: None,
            size_bytes: None,
            source: source.to_owned(),
            state: UploadState::Queued,
            steps: Vec::new(),
            tenant: match owner {
                Slot::Operator => None,
                Slot::Tenant(tenant) => Some(tenant.clone()),
            },
            vectors: Vec::new(),
        }
    }

    /// For machines: all of it, with its outcome in plain words.
    pub(crate) fn told(&self) -> Value {
        let mut told = serde_json::to_value(self).unwrap_or_default();
        if let Some(told) = told.as_object_mut() {
            told.insert("ok".to_owned(), json!(self.refused.is_none()));
            told.insert("version".to_owned(), json!(self.digest));
            told.insert("new".to_owned(), json!(self.state == UploadState::Done));
            if let Some(refused) = &self.refused {
                told.insert("stage".to_owned(), json!(refused.stage));
                told.insert("reason".to_owned(), json!(refused.reason));
                told.insert("fix".to_owned(), json!(refused.fix));
            }
        }
        told
    }

    pub(super) fn owner(&self) -> Slot {
        self.tenant.clone().map_or(Slot::Operator, Slot::Tenant)
    }

    /// Notes a step; one that ends takes the place of the one that began.
    pub(super) fn step(&mut self, step: Step) {
        if self.steps.last().is_some_and(|last| last.state == StepState::Running) {
            self.steps.pop();
        }
        self.steps.push(step);
    }

    pub(super) fn of(mut self, digest: Digest, size_bytes: usize) -> Self {
        self.digest = Some(digest.to_string());
        self.size_bytes = Some(size_bytes as u64);
        self
    }
}

/// All records of this node.
#[derive(Debug)]
pub(super) struct Records {
    folder: PathBuf,
    /// By id, which is by time.
    all: Mutex<BTreeMap<String, Record>>,
}

impl Records {
    /// Reads what is there. What was under way when the node ended is so no longer.
    pub(super) fn open(folder: PathBuf) -> Self {
        let mut all = BTreeMap::new();
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(id) = name.strip_suffix(".json") else { continue };
            let Some(mut record) = read(&entry.path()) else {
                // Half a file of a disk that was full; there is nothing to learn from it.
                std::fs::remove_file(entry.path()).ok();
                continue;
            };
            if !record.state.is_over() && is_left_behind(&record) {
                record.state = UploadState::Interrupted;
            }
            all.insert(id.to_owned(), record);
        }
        Self { folder, all: Mutex::new(all) }
    }

    /// Keeps a record as it is now. One that cannot be written is kept in memory.
    pub(super) fn keep(&self, record: &Record) {
        let mut gone = Vec::new();
        {
            let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
            all.insert(record.id.clone(), record.clone());
            let owner = record.owner();
            let own: Vec<String> = all
                .values()
                .filter(|one| one.owner() == owner && one.state.is_over())
                .map(|one| one.id.clone())
                .collect();
            gone.extend(own.iter().take(own.len().saturating_sub(OF_OWNER_MAX)).cloned());
            gone.extend(all.keys().take(all.len().saturating_sub(RECORDS_MAX)).cloned());
            gone.iter().for_each(|id| _ = all.remove(id));
        }
        for id in gone {
            std::fs::remove_file(self.path(&id)).ok();
        }
        if let Err(error) = self.write(record) {
            tracing::info!(id = record.id, "keep what became of an upload: {error}");
        }
    }

    #[cfg(test)]
    fn get(&self, id: &str) -> Option<Record> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// Those that an owner may see, the newest first; all when there is none.
    pub(super) fn list(&self, owner: Option<&Slot>, max: usize) -> Vec<Record> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = all.values().rev().filter(|record| owner.is_none_or(|owner| record.owner() == *owner));
        seen.take(max).cloned().collect()
    }

    fn write(&self, record: &Record) -> std::io::Result<()> {
        use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let mut bytes = serde_json::to_vec(record)?;
        if bytes.len() > RECORD_BYTES_MAX {
            let short = Record { log: Vec::new(), vectors: Vec::new(), ..record.clone() };
            bytes = serde_json::to_vec(&short)?;
        }
        let path = self.path(&record.id);
        let partial = path.with_extension("partial");
        let mut file =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
        file.write_all(&bytes)?;
        std::fs::rename(&partial, &path)
    }

    fn path(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }
}

fn read(path: &Path) -> Option<Record> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(2 * RECORD_BYTES_MAX as u64).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Another process, such as a command beside the node, may be at it just now; but nothing takes an hour.
fn is_left_behind(record: &Record) -> bool {
    record.state == UploadState::Running || clock::unix_ms().saturating_sub(record.at_ms) > 3_600_000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(owner: &Slot, number: usize) -> Record {
        let mut record = Record::new("mine", owner, "me", "file", "");
        record.id = format!("{number:013}-00000000");
        record.state = UploadState::Refused;
        record
    }

    #[test]
    fn records_outlive_a_restart_and_nobodys_flood_pushes_out_anothers() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(folder.path().join("uploads"));
        let (flood, calm) = (Slot::Tenant(TenantName::new("flood").unwrap()), Slot::Operator);
        records.keep(&record(&calm, 0));
        for number in 1..=OF_OWNER_MAX + 10 {
            records.keep(&record(&flood, number));
        }
        let mut running = record(&calm, 5_000);
        running.state = UploadState::Running;
        running.step(Step {
            detail: String::new(),
            fix: None,
            ms: 0,
            stage: "size".to_owned(),
            state: StepState::Running,
        });
        records.keep(&running);
        std::fs::write(folder.path().join("uploads/broken.json"), "{").unwrap();

        let again = Records::open(folder.path().join("uploads"));
        assert_eq!(again.list(Some(&flood), usize::MAX).len(), OF_OWNER_MAX);
        let calm: Vec<UploadState> = again.list(Some(&calm), 9).iter().map(|record| record.state).collect();
        assert_eq!(calm, [UploadState::Interrupted, UploadState::Refused]);
        assert!(again.get(&running.id).is_some_and(|record| record.steps.len() == 1));
        assert_eq!(std::fs::read_dir(folder.path().join("uploads")).unwrap().count(), OF_OWNER_MAX + 2);
    }
}
