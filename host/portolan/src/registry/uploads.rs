//! Uploads: queued by owner, examined stage by stage, kept as versions, and remembered.
//!
//! Bytes are in the shared place before the store names them. Nothing of an upload ever runs in a slot by itself: a version
//! is put to work by what names it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use portolan_control::{Body, Committed, Components, Conflict, Draft, Expect, Manager, State, Store, Wish};
use portolan_core::bounds::Scope;
use portolan_core::facts::Facts;
use portolan_core::ids::{Digest, PolicyName, TenantName};
use portolan_foundation::{clock, task};
use portolan_policy::{
    Bound, Candidate, Engine, Examined, Refused, Signature, Slot, Stage, Step, StepState, Tier, TrialSlot,
};
use serde_json::json;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

use super::oci::{self, Reference};
use super::queue::{Full, Queue};
use super::record::{Record, Records, Refusal, UploadState};
use super::{KIND, key_of};
use crate::config::{self, Config, PolicySlot};

/// Uploads that are examined at the same time, each of another owner.
const WORKERS: usize = 2;
/// Where records are kept, in a node's folder.
pub(super) const FOLDER: &str = "uploads";

/// What is uploaded, by whom, and for whom.
#[derive(Clone, Debug)]
pub(crate) struct Upload {
    /// Does an operator approve of what it may newly do?
    pub(crate) approved: bool,
    /// Who sends it.
    pub(crate) author: String,
    /// Where the bytes come from.
    pub(crate) from: From,
    /// The digest that came with the bytes.
    pub(crate) declared: Option<Digest>,
    /// Signatures that came beside the bytes.
    pub(crate) detached: Option<String>,
    pub(crate) message: String,
    pub(crate) name: PolicyName,
    /// Whose it is.
    pub(crate) owner: Slot,
    /// A configuration to try it with where no slot uses the plugin.
    pub(crate) policy_config: Option<String>,
}

/// Where the bytes of an upload come from.
#[derive(Clone, Debug)]
pub(crate) enum From {
    /// They are here; the text says where they were.
    Bytes(Arc<[u8]>, String),
    /// A registry.
    Registry(String),
}

impl From {
    fn source(&self) -> &str {
        match self {
            Self::Bytes(_, source) | Self::Registry(source) => source,
        }
    }
}

/// What an upload is examined against.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    /// The configuration that is intended now; none when there is no whole one.
    pub(crate) config: Option<Arc<Config>>,
    /// What is believed of regions.
    pub(crate) facts: Option<Arc<Facts>>,
}

/// Gives the world of this moment. May block.
pub(crate) type Look = Arc<dyn Fn() -> World + Send + Sync>;

/// What uploads need.
pub(crate) struct Parts {
    pub(crate) components: Components,
    pub(crate) engine: Engine,
    pub(crate) handle: Handle,
    /// Docker's folder, for the passwords of registries.
    pub(crate) docker: Option<PathBuf>,
    pub(crate) look: Look,
    /// A configuration that holds when there is no whole one.
    pub(crate) settings: config::Uploads,
    pub(crate) state_folder: PathBuf,
    pub(crate) store: Store,
}

/// The uploads of this node. Clones are the same.
#[derive(Clone)]
pub(crate) struct Uploads(Arc<Inner>);

struct Inner {
    parts: Parts,
    queue: Mutex<Queue<Job>>,
    records: Records,
    wake: Notify,
}

struct Job {
    record: watch::Sender<Record>,
    upload: Upload,
}

impl std::fmt::Debug for Uploads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uploads").finish_non_exhaustive()
    }
}

impl Uploads {
    /// Reads what is remembered, and starts the workers on the runtime of `parts`.
    pub(crate) fn start(parts: Parts) -> Self {
        let records = Records::open(parts.state_folder.join(FOLDER));
        let (queue, wake) = (Mutex::new(Queue::default()), Notify::new());
        let uploads = Self(Arc::new(Inner { parts, queue, records, wake }));
        let _entered = uploads.0.parts.handle.enter();
        for _ in 0..WORKERS {
            let worker = uploads.clone();
            task::spawn("uploads", async move { worker.work().await });
        }
        uploads
    }

    /// Takes an upload in, or refuses it at once. What becomes of it is told step by step; its last word is kept.
    ///
    /// # Errors
    /// [`Refusal`] when its owner has too much under way. Nothing is remembered of it.
    pub(crate) fn submit(&self, upload: Upload) -> Result<watch::Receiver<Record>, Refusal> {
        let inner = &*self.0;
        let Upload { name, owner, author, message, from, .. } = &upload;
        let mut record = Record::new(name.as_str(), owner, author, from.source(), message);
        if let From::Bytes(bytes, _) = from {
            record = record.of(digest_of(bytes), bytes.len());
        }
        let (sender, receiver) = watch::channel(record);
        // The operator bounds tenants, and nobody the operator, but that one upload is examined at a time.
        let quota = match owner {
            Slot::Operator => (usize::MAX, u32::MAX),
            Slot::Tenant(_) => {
                let quota = self.settings(&inner.world()).quota;
                (quota.queued, quota.compiles_per_minute)
            }
        };
        let owner = owner.clone();
        let job = Job { record: sender, upload };
        let pushed = {
            let mut queue = inner.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.push(owner, job, quota, clock::now())
        };
        if let Err(full) = pushed {
            return Err(busy(full, quota));
        }
        inner.records.keep(&receiver.borrow());
        // Each worker looks for itself whether there is something that it may take.
        inner.wake.notify_waiters();
        inner.wake.notify_one();
        Ok(receiver)
    }

    /// The last uploads that an owner may see, the newest first; of everybody when none is given.
    pub(crate) fn list(&self, owner: Option<&Slot>, max: usize) -> Vec<Record> {
        self.0.records.list(owner, max)
    }

    /// What a tenant has of its quota.
    pub(crate) async fn quota(&self, tenant: &TenantName) -> Option<serde_json::Value> {
        let inner = Arc::clone(&self.0);
        let world = tokio::task::spawn_blocking(move || inner.world()).await.ok()?;
        let quota = self.settings(&world).quota;
        let (versions, bytes) = kept_of(&self.0.parts.store.state(), &Slot::Tenant(tenant.clone()));
        Some(json!({
            "bytes": bytes,
            "bytes_max": quota.bytes,
            "uploads_per_minute": quota.compiles_per_minute,
            "uploads_waiting_max": quota.queued,
            "versions": versions,
            "versions_max": quota.versions,
        }))
    }

    fn settings(&self, world: &World) -> config::Uploads {
        world.config.as_ref().map_or_else(|| self.0.parts.settings.clone(), |config| config.uploads.clone())
    }

    /// Takes one upload after the other. Wakes when one comes or ends; what goes wrong with one ends none but it.
    async fn work(self) {
        loop {
            let next = {
                let mut queue = self.0.queue.lock().unwrap_or_else(PoisonError::into_inner);
                queue.next()
            };
            let Some((owner, job)) = next else {
                // A wake-up between the look above and here is not lost: `notify_one` leaves one behind.
                self.0.wake.notified().await;
                continue;
            };
            let Job { record, upload } = job;
            let last = record.borrow().clone();
            let sender = Arc::new(record);
            let ended = self.carry_out(upload, &sender).await;
            if let Err(error) = ended {
                tracing::error!("an upload could not be examined: {error:#}");
                let refused =
                    Refused::passing(Stage::Keep, format!("{error:#}"), "try again; look at the node's log");
                self.end(
                    &sender,
                    |record| record.refused = Some(Refusal::from(&refused)),
                    UploadState::Refused,
                );
            }
            tracing::debug!(id = last.id, "an upload is over");
            self.0.queue.lock().unwrap_or_else(PoisonError::into_inner).done(&owner);
            self.0.wake.notify_one();
        }
    }

    fn end(&self, sender: &watch::Sender<Record>, note: impl FnOnce(&mut Record), state: UploadState) {
        sender.send_modify(|record| {
            note(record);
            record.state = state;
        });
        self.0.records.keep(&sender.borrow());
    }

    async fn carry_out(&self, upload: Upload, sender: &Arc<watch::Sender<Record>>) -> anyhow::Result<()> {
        self.end(sender, |_| {}, UploadState::Running);
        let carried = self.stages(&upload, sender).await?;
        match carried {
            Ok(Kept { digest, generation, is_new }) => {
                let state = if is_new { UploadState::Done } else { UploadState::Known };
                let note = |record: &mut Record| {
                    record.digest = Some(digest.to_string());
                    record.generation = Some(generation);
                };
                tracing::info!(plugin = %upload.name, version = digest.short(), new = is_new, "a version was uploaded");
                self.end(sender, note, state);
            }
            Err(refused) => {
                tracing::info!(plugin = %upload.name, stage = %refused.stage, "an upload was refused: {}", refused.reason);
                self.end(
                    sender,
                    |record| record.refused = Some(Refusal::from(&refused)),
                    UploadState::Refused,
                );
            }
        }
        Ok(())
    }

    async fn stages(
        &self,
        upload: &Upload,
        sender: &Arc<watch::Sender<Record>>,
    ) -> anyhow::Result<Result<Kept, Refused>> {
        let inner = &self.0;
        let looking = Arc::clone(inner);
        let world =
            tokio::task::spawn_blocking(move || looking.world()).await.context("look at what runs")?;
        let settings = self.settings(&world);
        let (bytes, source) = match self.bytes(upload, &settings, sender).await {
            Ok(found) => found,
            Err(refused) => return Ok(Err(refused)),
        };
        let digest = digest_of(&bytes);
        sender.send_modify(|record| {
            *record = record.clone().of(digest, bytes.len());
            record.source.clone_from(&source);
        });
        let state = inner.parts.store.state();
        if let Some(known) = known(&state, upload, digest) {
            return self.known_already(upload, &bytes, digest, known, sender).await.map(Ok);
        }
        let quota = match &upload.owner {
            Slot::Operator => None,
            Slot::Tenant(_) => Some(settings.quota),
        };
        let within = stage(sender, Stage::Quota, || match quota {
            None => Ok("the operator's own".to_owned()),
            Some(quota) => check_quota(&state, &upload.owner, bytes.len() as u64, quota),
        });
        if let Err(refused) = within {
            return Ok(Err(refused));
        }
        let examining = {
            let (inner, upload, bytes, sender) =
                (Arc::clone(inner), upload.clone(), Arc::clone(&bytes), Arc::clone(sender));
            move || inner.examine(&upload, &bytes, &world, &settings, &state, &sender)
        };
        match tokio::task::spawn_blocking(examining).await.context("the host failed over this component")? {
            Ok(examined) => self.keep(upload, &source, &bytes, &examined, sender).await,
            Err(refused) => Ok(Err(refused)),
        }
    }

    async fn bytes(
        &self,
        upload: &Upload,
        settings: &config::Uploads,
        sender: &Arc<watch::Sender<Record>>,
    ) -> Result<(Arc<[u8]>, String), Refused> {
        let reference = match &upload.from {
            From::Bytes(bytes, source) => return Ok((Arc::clone(bytes), source.clone())),
            From::Registry(reference) => reference,
        };
        let began = clock::now();
        let pulled = async {
            let wrong =
                |why: String| Refused::new(Stage::Read, why, "write the reference as registries have it");
            let reference = Reference::parse(reference).map_err(wrong)?;
            let host = &reference.host;
            // A node asks nobody on a tenant's word whom its operator does not know.
            if matches!(upload.owner, Slot::Tenant(_)) && !settings.registries.contains(host) {
                let unknown = format!("{host} is no registry that tenants may name");
                let fix = "push the file, or have an operator add it to `registries` of `[policies]`";
                return Err(Refused::new(Stage::Read, unknown, fix));
            }
            let is_here = ["127.0.0.1", "[::1]", "localhost"];
            let name = host.rsplit_once(':').map_or(host.as_str(), |(name, _)| name);
            let plain = is_here.contains(&name) || settings.plain_http.contains(host);
            let bytes_max = self.0.parts.engine.config().limits.component_bytes_max;
            oci::pull(&reference, plain, self.0.parts.docker.as_deref(), bytes_max).await
        };
        let pulled = pulled.await;
        let ms = u64::try_from(clock::now().since(began).as_millis()).unwrap_or(u64::MAX);
        match pulled {
            Ok((bytes, source)) => {
                let digest = portolan_policy::digest(&bytes);
                sender.send_modify(|record| *record = record.clone().of(digest, bytes.len()));
                tell(sender, Stage::Read, StepState::Passed, source.clone(), ms);
                Ok((bytes.into(), source))
            }
            Err(refused) => {
                refuse(sender, &refused, ms);
                Err(refused)
            }
        }
    }

    /// The bytes are put there again, in case somebody removed them; nothing else happens, unless a signature came.
    async fn known_already(
        &self,
        upload: &Upload,
        bytes: &Arc<[u8]>,
        digest: Digest,
        (generation, mut body): (u64, Body),
        sender: &Arc<watch::Sender<Record>>,
    ) -> anyhow::Result<Kept> {
        let parts = &self.0.parts;
        parts.components.put(bytes.to_vec()).await?;
        tell(sender, Stage::Keep, StepState::Passed, format!("known since generation {generation}"), 0);
        let looking = Arc::clone(&self.0);
        let world =
            tokio::task::spawn_blocking(move || looking.world()).await.context("look at what runs")?;
        let signature = self.settings(&world).trust.judge(bytes, upload.detached.as_deref(), &upload.owner);
        let signed_now = upload.detached.is_some()
            && signature.state == portolan_policy::SignatureState::Verified
            && body.get("signature").and_then(|there| there.get("state")) != Some(&json!("verified"));
        if !signed_now {
            return Ok(Kept { digest, generation, is_new: false });
        }
        body.insert("signature".to_owned(), signed(&signature, upload));
        let generation = match parts.store.commit(&self.draft(upload, digest, body, Expect::Any)?).await? {
            Committed::Changed(change) => change.generation,
            Committed::Unchanged(generation) => generation,
        };
        Ok(Kept { digest, generation, is_new: false })
    }

    async fn keep(
        &self,
        upload: &Upload,
        source: &str,
        bytes: &Arc<[u8]>,
        examined: &Examined,
        sender: &Arc<watch::Sender<Record>>,
    ) -> anyhow::Result<Result<Kept, Refused>> {
        let parts = &self.0.parts;
        sender.send_modify(|record| {
            record.gained.clone_from(&examined.gained);
            record.log = examined.log.iter().map(|line| format!("[{}] {}", line.level, line.text)).collect();
            record.signature = Some(examined.signature.clone());
            record.vectors = examined.vectors.iter().map(Into::into).collect();
        });
        tell(sender, Stage::Keep, StepState::Running, String::new(), 0);
        let began = clock::now();
        let digest = examined.version.digest();
        let kept = async {
            let put = || parts.components.put(bytes.to_vec());
            put().await?;
            let draft = self.draft(upload, digest, body(upload, source, examined)?, Expect::Absent)?;
            let (generation, is_new) = match parts.store.commit(&draft).await {
                Ok(Committed::Changed(change)) => (change.generation, true),
                Ok(Committed::Unchanged(generation)) => (generation, false),
                // Somebody was faster with the same bytes.
                Err(portolan_control::Error::Conflict(Conflict::Present { revision, .. })) => {
                    (revision, false)
                }
                Err(error) => return Err(anyhow::Error::new(error)),
            };
            // A sweep that began before the store named it may have taken it for nobody's.
            if !parts.components.is_there(digest).await? {
                put().await?;
            }
            Ok(Kept { digest, generation, is_new })
        };
        let kept = kept.await;
        let ms = u64::try_from(clock::now().since(began).as_millis()).unwrap_or(u64::MAX);
        match kept {
            Ok(kept) => {
                tell(sender, Stage::Keep, StepState::Passed, format!("generation {}", kept.generation), ms);
                Ok(Ok(kept))
            }
            Err(error) => {
                let fix =
                    "look whether the control store and the place of components answer, then push it again";
                let refused = Refused::passing(Stage::Keep, format!("{error:#}"), fix);
                refuse(sender, &refused, ms);
                Ok(Err(refused))
            }
        }
    }

    fn draft(&self, upload: &Upload, digest: Digest, body: Body, expect: Expect) -> anyhow::Result<Draft> {
        Ok(Draft {
            author: upload.author.clone(),
            message: upload.message.clone(),
            source: "push".to_owned(),
            wishes: vec![Wish {
                key: key_of(&upload.owner, &upload.name, digest)?,
                body: Some(body),
                expect,
                manager: Manager::Api,
                take_over: false,
            }],
        })
    }
}

impl Inner {
    fn world(&self) -> World {
        (self.parts.look)()
    }

    fn examine(
        &self,
        upload: &Upload,
        bytes: &[u8],
        world: &World,
        settings: &config::Uploads,
        state: &State,
        sender: &watch::Sender<Record>,
    ) -> Result<Examined, Refused> {
        let slots = slots(world, state, upload);
        let bound = bound(&slots, state, upload);
        let trials = trials(&slots, world, upload);
        let candidate = Candidate {
            approved: upload.approved,
            bound: &bound,
            bytes,
            declared: upload.declared,
            detached: upload.detached.as_deref(),
            name: &upload.name,
            owner: &upload.owner,
            trials: &trials,
            trust: &settings.trust,
        };
        self.parts.engine.examine(&candidate, &mut |step| sender.send_modify(|record| record.step(step)))
    }
}

/// A version that was kept.
struct Kept {
    digest: Digest,
    generation: u64,
    is_new: bool,
}

/// The slots that use the plugin, and see this owner's.
fn slots(world: &World, _state: &State, upload: &Upload) -> Vec<(Slot, PolicySlot)> {
    let Some(config) = &world.config else { return Vec::new() };
    let operator = config.policy.iter().map(|policy| (Slot::Operator, policy));
    let tenants = config.tenants.iter().filter_map(|(name, tenant)| {
        tenant.policy.as_ref().map(|policy| (Slot::Tenant(name.clone()), policy))
    });
    operator
        .chain(tenants)
        .filter(|(slot, policy)| {
            policy.name == upload.name && (upload.owner == Slot::Operator || *slot == upload.owner)
        })
        .map(|(slot, policy)| (slot, policy.clone()))
        .collect()
}

/// What runs there now, as far as the store knows it.
fn bound(slots: &[(Slot, PolicySlot)], state: &State, upload: &Upload) -> Vec<Bound> {
    let of = |(slot, policy): &(Slot, PolicySlot)| {
        let version = policy.version?;
        let object = super::find(state, slot, &upload.name, version)?;
        let imports = object.body.get("imports")?.as_array()?;
        let imports = imports.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect();
        Some(Bound { imports, slot: slot.clone(), version })
    };
    slots.iter().filter_map(of).collect()
}

/// Where it is tried: as each slot that uses it would have it, or as one that is made up.
fn trials(slots: &[(Slot, PolicySlot)], world: &World, upload: &Upload) -> Vec<TrialSlot> {
    let Some(facts) = &world.facts else { return Vec::new() };
    let tier = |slot: &Slot, granted: bool| match slot {
        Slot::Operator => Tier::Operator,
        Slot::Tenant(_) => Tier::Tenant { granted },
    };
    let scope = |slot: &Slot| match slot {
        Slot::Operator => Scope::default(),
        Slot::Tenant(name) => {
            let tenant = world.config.as_ref().and_then(|config| config.tenants.get(name));
            let scope = tenant.map(|tenant| Scope {
                bounds: Arc::clone(&tenant.bounds),
                residency: tenant.residency.clone(),
            });
            scope.unwrap_or_default()
        }
    };
    if slots.is_empty() || upload.policy_config.is_some() {
        return vec![TrialSlot {
            config: upload.policy_config.as_deref().unwrap_or("{}").into(),
            facts: Arc::clone(facts),
            made_up: upload.policy_config.is_none(),
            scope: scope(&upload.owner),
            slot: upload.owner.clone(),
            tier: tier(&upload.owner, false),
        }];
    }
    slots
        .iter()
        .map(|(slot, policy)| TrialSlot {
            config: Arc::clone(&policy.config),
            facts: Arc::clone(facts),
            made_up: false,
            scope: scope(slot),
            slot: slot.clone(),
            tier: tier(slot, policy.dynamic_granted),
        })
        .collect()
}

/// The version, if the store has it already: since when, and what it says.
fn known(state: &State, upload: &Upload, digest: Digest) -> Option<(u64, Body)> {
    let key = key_of(&upload.owner, &upload.name, digest).ok()?;
    state.get(&key).map(|object| (object.revision, object.body.clone()))
}

/// How many versions somebody has, and how many bytes they have together.
fn kept_of(state: &State, owner: &Slot) -> (usize, u64) {
    let mut digests = BTreeSet::new();
    let (mut versions, mut sum) = (0_usize, 0_u64);
    for (_, object) in state.of_kind(KIND).filter(|(key, _)| super::owner_of(key) == *owner) {
        versions += 1;
        if digests.insert(object.body.get("digest").and_then(|digest| digest.as_str())) {
            let bytes = object.body.get("size_bytes").and_then(serde_json::Value::as_u64);
            sum = sum.saturating_add(bytes.unwrap_or(0));
        }
    }
    (versions, sum)
}

fn check_quota(state: &State, owner: &Slot, bytes: u64, quota: config::Quota) -> Result<String, Refused> {
    let (versions, sum) = kept_of(state, owner);
    let fix = "remove versions that nothing runs (`portolan plugin remove`), or have the operator raise policies.quota";
    if versions >= quota.versions {
        let reason = format!("{owner} has {versions} versions, {} are allowed", quota.versions);
        return Err(Refused::new(Stage::Quota, reason, fix));
    }
    let after = sum.saturating_add(bytes);
    if after > quota.bytes {
        let reason = format!("the versions of {owner} would have {after} bytes, {} are allowed", quota.bytes);
        return Err(Refused::new(Stage::Quota, reason, fix));
    }
    Ok(format!("{} of {} versions, {after} of {} bytes", versions + 1, quota.versions, quota.bytes))
}

fn body(upload: &Upload, source: &str, examined: &Examined) -> anyhow::Result<Body> {
    let about = examined.version.about();
    let mut body = json!({
        "author": upload.author,
        "contract": about.contract,
        "decider": about.decider,
        "digest": about.digest,
        "imports": about.imports,
        "message": upload.message,
        "planner": about.planner,
        "plugin": upload.name.as_str(),
        "schema": examined.version.schema(),
        "signature": signed(&examined.signature, upload),
        "size_bytes": about.size_bytes,
        "source": source,
        "uploaded_ms": clock::unix_ms(),
        "vectors": examined.vectors.len(),
    });
    if let (Some(body), Slot::Tenant(tenant)) = (body.as_object_mut(), &upload.owner) {
        body.insert("tenant".to_owned(), json!(tenant.as_str()));
    }
    if let (Some(body), false) = (body.as_object_mut(), examined.gained.is_empty()) {
        body.insert("approved".to_owned(), json!({ "by": upload.author, "capabilities": examined.gained }));
    }
    serde_json::from_value(body).context("write the version down")
}

/// How it stood with the signature at the upload. Nodes judge for themselves; for that, what came beside the bytes is kept.
fn signed(signature: &Signature, upload: &Upload) -> serde_json::Value {
    json!({ "key": signature.key, "reason": signature.reason, "state": signature.state, "text": upload.detached })
}

fn digest_of(bytes: &[u8]) -> Digest {
    portolan_policy::digest(bytes)
}

fn busy(full: Full, (queued_max, per_minute): (usize, u32)) -> Refusal {
    let (reason, fix, wait) = match full {
        Full::Waiting => (
            format!("{queued_max} uploads of yours wait already"),
            "wait until one is through, then send it again",
            5,
        ),
        Full::Rate(wait) => (
            format!("{per_minute} uploads of yours came within a minute, and more are not taken"),
            "wait, then send it again; or have the operator raise policies.quota",
            wait,
        ),
    };
    Refusal {
        fix: fix.to_owned(),
        reason,
        retry_after_s: Some(wait),
        stage: Stage::Quota.as_str().to_owned(),
        transient: true,
    }
}

fn stage(
    sender: &watch::Sender<Record>,
    stage: Stage,
    work: impl FnOnce() -> Result<String, Refused>,
) -> Result<(), Refused> {
    match work() {
        Ok(detail) => {
            tell(sender, stage, StepState::Passed, detail, 0);
            Ok(())
        }
        Err(refused) => {
            refuse(sender, &refused, 0);
            Err(refused)
        }
    }
}

fn tell(sender: &watch::Sender<Record>, stage: Stage, state: StepState, detail: String, ms: u64) {
    let stage = stage.as_str().to_owned();
    sender.send_modify(|record| record.step(Step { detail, fix: None, ms, stage, state }));
}

fn refuse(sender: &watch::Sender<Record>, refused: &Refused, ms: u64) {
    let step = Step {
        detail: refused.reason.clone(),
        fix: Some(refused.fix.clone()),
        ms,
        stage: refused.stage.as_str().to_owned(),
        state: StepState::Refused,
    };
    sender.send_modify(|record| record.step(step));
}
