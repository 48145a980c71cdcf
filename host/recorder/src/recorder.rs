//! Takes over what the data plane captured, without ever letting it wait, and keeps it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portolan_core::ids::{Generation, RegionName, TenantName};
use portolan_core::lane::{PERMILLE, Slot};
use portolan_core::recording::{Binding, Captured, DecisionId, Ran, Record, Recorded};
use portolan_core::snapshot::{Live, Policy, Snapshot};
use portolan_foundation::clock;
use portolan_foundation::seal::SealKey;
use serde::Serialize;

use crate::defaults;
use crate::entry::{self, Book, Names};
use crate::erase::Erased;
use crate::error::Error;
use crate::recording::{Recording, SegmentInfo};
use crate::redact::Rules;
use crate::ring::Ring;
use crate::shadow::Shadow;
use crate::spill::{Bounds, Spill};

/// What is kept, and how much of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Bytes of all segments on disk; 0 for none.
    pub disk_bytes_max: u64,
    /// Decisions of failed requests that are kept in a second, whatever is drawn.
    pub failures_per_second: u32,
    /// How long segments are kept.
    pub keep: Duration,
    /// Bytes of recent decisions in memory.
    pub memory_bytes_max: usize,
    /// Which values are hidden.
    pub rules: Rules,
    /// Of a thousand decisions, how many are kept.
    pub sample_permille: u32,
    /// Bytes of one segment.
    pub segment_bytes_max: u64,
    /// Of a thousand decisions, about how many candidates in the shadow are asked.
    pub shadow_permille: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            disk_bytes_max: defaults::DISK_BYTES_MAX,
            failures_per_second: defaults::FAILURES_PER_SECOND,
            keep: defaults::KEEP,
            memory_bytes_max: defaults::MEMORY_BYTES_MAX,
            rules: Rules::default(),
            sample_permille: defaults::SAMPLE_PERMILLE,
            segment_bytes_max: defaults::SEGMENT_BYTES_MAX,
            shadow_permille: defaults::SHADOW_PERMILLE,
        }
    }
}

/// What a recorder is made with.
#[derive(Debug)]
pub struct Start {
    /// Where segments are kept.
    pub folder: PathBuf,
    /// For hashes of hidden values.
    pub key: SealKey,
    /// Where the running snapshot hangs.
    pub live: Arc<Live>,
    /// The node's name.
    pub node: String,
    /// What is kept; nothing when absent.
    pub settings: Option<Settings>,
}

/// The recorder. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Recorder {
    folder: Arc<PathBuf>,
    gauges: Arc<Gauges>,
    queue: SyncSender<Message>,
    shadow: Shadow,
    state: Arc<Mutex<State>>,
}

/// What data threads look at.
#[derive(Debug, Default)]
struct Gauges {
    on: AtomicBool,
    sample_permille: AtomicU32,
    shadow_permille: AtomicU32,
    failures_per_second: AtomicU32,
    /// The second, and the failures kept within it.
    failures: AtomicU64,
    dropped: AtomicU64,
    kept: AtomicU64,
}

#[derive(Debug)]
enum Message {
    Captured(Box<Captured>),
    /// Write everything, then say so.
    Flush(SyncSender<()>),
}

#[derive(Debug)]
struct State {
    ring: Ring,
    settings: Option<Settings>,
    spill: Spill,
}

/// The state of a recorder at one moment. Numbers without another unit count since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Is anything kept?
    pub on: bool,
    /// Decisions that were kept.
    pub kept: u64,
    /// Decisions that found no place in the queue.
    pub dropped: u64,
    /// Decisions in memory now.
    pub in_memory: u64,
    /// Their bytes.
    pub memory_bytes: u64,
    /// Bytes of segments on disk.
    pub disk_bytes: u64,
    /// Failures of the disk.
    pub disk_failures: u64,
    /// The last of them.
    pub disk_failure: Option<String>,
    /// Decisions that were kept in memory only, because the disk had failed.
    pub disk_lost: u64,
    /// Comparisons that found no place in the shadow's queue.
    pub shadow_dropped: u64,
}

/// Which decisions are wanted.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only this tenant's.
    pub tenant: Option<TenantName>,
    /// Only those taken in by this region.
    pub region: Option<RegionName>,
    /// Only those of which one slot's policy has this name.
    pub policy: Option<String>,
    /// Only those with this status, or of its hundred: 5 for 500 to 599.
    pub status: Option<u16>,
    /// Only those before this one.
    pub before: Option<DecisionId>,
}

impl Filter {
    /// Is it wanted?
    #[must_use]
    pub fn accepts(&self, recorded: &Recorded) -> bool {
        let status = recorded.outcome.status;
        self.before.is_none_or(|before| recorded.id < before)
            && self.status.is_none_or(|wanted| wanted == status || wanted == status / 100)
            && (self.tenant.is_none() || recorded.picture.tenant() == self.tenant)
            && (self.region.is_none() || recorded.picture.region() == self.region)
            && self
                .policy
                .as_ref()
                .is_none_or(|policy| recorded.slots.iter().any(|slot| slot.policy.as_str() == policy))
    }
}

impl Recorder {
    /// Starts the threads that keep and compare. They end when the last clone is gone.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub fn start(start: Start) -> Result<Self, Error> {
        let Start { folder, key, live, node, settings } = start;
        let (queue, messages) = sync_channel(defaults::QUEUE_MAX);
        let spill = Spill::new(folder.clone(), node);
        let state = Arc::new(Mutex::new(State { ring: Ring::default(), settings: None, spill }));
        let gauges = Arc::new(Gauges::default());
        let keeper = Keeper {
            gauges: Arc::clone(&gauges),
            key: key.for_purpose("portolan 2026 recordings' hidden values"),
            last: None,
            live,
            names: Names::default(),
            state: Arc::clone(&state),
            told: HashMap::new(),
        };
        std::thread::Builder::new()
            .name("recorder".to_owned())
            .spawn(move || keeper.run(&messages))
            .map_err(Error::Thread)?;
        let recorder = Self { folder: Arc::new(folder), gauges, queue, shadow: Shadow::start()?, state };
        recorder.apply(settings);
        Ok(recorder)
    }

    /// Makes other settings the running ones.
    pub fn apply(&self, settings: Option<Settings>) {
        let gauges = &*self.gauges;
        let of = |of: fn(&Settings) -> u32| settings.as_ref().map_or(0, of);
        gauges.sample_permille.store(of(|settings| settings.sample_permille), Ordering::Relaxed);
        gauges.failures_per_second.store(of(|settings| settings.failures_per_second), Ordering::Relaxed);
        // A rollout needs its comparisons, whether or not anything is kept.
        let shadow = settings.as_ref().map_or(defaults::SHADOW_PERMILLE, |settings| settings.shadow_permille);
        gauges.shadow_permille.store(shadow, Ordering::Relaxed);
        gauges.on.store(settings.is_some(), Ordering::Relaxed);
        let mut state = lock(&self.state);
        if settings.is_none() {
            state.ring = Ring::default();
            state.spill.flush();
            state.spill.close();
        }
        state.settings = settings;
    }

    /// Candidates in the shadow.
    #[must_use]
    pub const fn shadow(&self) -> &Shadow {
        &self.shadow
    }

    /// The state now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let gauges = &*self.gauges;
        let state = lock(&self.state);
        Stats {
            on: gauges.on.load(Ordering::Relaxed),
            kept: gauges.kept.load(Ordering::Relaxed),
            dropped: gauges.dropped.load(Ordering::Relaxed),
            in_memory: state.ring.len() as u64,
            memory_bytes: state.ring.bytes() as u64,
            disk_bytes: crate::spill::segments(&self.folder).iter().map(|segment| segment.bytes).sum(),
            disk_failures: state.spill.failures,
            disk_failure: state.spill.last_failure.clone(),
            disk_lost: state.spill.lost,
            shadow_dropped: self.shadow.dropped(),
        }
    }

    /// The newest decisions in memory that are wanted, at most so many.
    #[must_use]
    pub fn newest(&self, filter: &Filter, count: usize) -> Vec<Arc<Recorded>> {
        let state = lock(&self.state);
        state.ring.newest().filter(|recorded| filter.accepts(recorded)).take(count).cloned().collect()
    }

    /// A decision, from memory or from disk. Blocks while the disk is read.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn find(&self, id: DecisionId) -> Result<Option<Arc<Recorded>>, Error> {
        let in_memory = lock(&self.state).ring.find(id).cloned();
        if in_memory.is_some() || !self.folder.exists() {
            return Ok(in_memory);
        }
        Ok(self.recording().find(id)?.map(|(recorded, _)| Arc::new(recorded)))
    }

    /// The same with the book that says what it refers to, from disk.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn find_with_book(&self, id: DecisionId) -> Result<Option<(Recorded, Book)>, Error> {
        if self.folder.exists() { self.recording().find(id) } else { Ok(None) }
    }

    /// What is on disk, with everything that waited written.
    #[must_use]
    pub fn recording(&self) -> Recording {
        self.flush();
        Recording::at(&self.folder)
    }

    /// The segments on disk, the oldest first.
    #[must_use]
    pub fn segments(&self) -> Vec<SegmentInfo> {
        Recording::at(&self.folder).segments()
    }

    /// Takes a tenant out of all that is kept, in memory and on disk. It must not be served any more, or more comes. Blocks while the
    /// disk is written.
    ///
    /// # Errors
    /// When the disk cannot be read or written; what was done stays done.
    pub fn erase(&self, tenant: &TenantName) -> std::io::Result<Erased> {
        self.flush();
        let mut state = lock(&self.state);
        let in_memory = state.ring.retain(|recorded| !entry::is_of(recorded, tenant));
        // What comes from here on goes into a segment of its own.
        state.spill.flush();
        state.spill.close();
        drop(state);
        let erased = crate::erase::folder(&self.folder, tenant)?;
        Ok(Erased { in_memory: in_memory as u64, ..erased })
    }

    /// Does something while nothing can be kept.
    #[cfg(test)]
    pub(crate) fn while_held<R>(&self, act: impl FnOnce() -> R) -> R {
        let held = lock(&self.state);
        let result = act();
        drop(held);
        result
    }

    /// Writes all that waits. Blocks until it is done.
    pub fn flush(&self) {
        let (done, is_done) = sync_channel(1);
        if self.queue.send(Message::Flush(done)).is_ok() {
            // An end without an answer is an end all the same.
            is_done.recv().ok();
        }
    }
}

impl Record for Recorder {
    fn is_on(&self) -> bool {
        self.gauges.on.load(Ordering::Relaxed)
    }

    fn samples(&self, draw: u64) -> bool {
        is_drawn(draw, self.gauges.sample_permille.load(Ordering::Relaxed))
    }

    fn keeps_failures(&self) -> bool {
        let most = u64::from(self.gauges.failures_per_second.load(Ordering::Relaxed));
        let second = (clock::unix_ms() / 1_000) & 0xffff_ffff;
        let count = |before: u64| {
            let within = if before >> 32 == second { before & 0xffff_ffff } else { 0 };
            (within < most).then_some((second << 32) | (within + 1))
        };
        most > 0 && self.gauges.failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count).is_ok()
    }

    fn shadows(&self, draw: u64) -> bool {
        is_drawn(draw, self.gauges.shadow_permille.load(Ordering::Relaxed))
    }

    fn take(&self, captured: Captured) {
        if captured.shadow {
            self.shadow.offer(&captured);
        }
        if captured.keep && self.queue.try_send(Message::Captured(Box::new(captured))).is_err() {
            self.gauges.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Other bits of the draw than those that order shares by weight.
const fn is_drawn(draw: u64, permille: u32) -> bool {
    (draw >> 20) % (PERMILLE as u64) < permille as u64
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread that keeps. What wakes it: a decision, or half a second. What it reads: the queue, and the running snapshot. What
/// it writes: the ring and the segments. When the disk fails, the ring goes on alone, and the disk is tried again later.
struct Keeper {
    gauges: Arc<Gauges>,
    key: SealKey,
    /// The snapshot that was written down last.
    last: Option<Generation>,
    live: Arc<Live>,
    names: Names,
    state: Arc<Mutex<State>>,
    /// The names of bindings that were written down with snapshots.
    told: HashMap<Slot, Box<str>>,
}

impl Keeper {
    fn run(mut self, messages: &Receiver<Message>) {
        loop {
            let first = match messages.recv_timeout(defaults::FLUSH_EVERY) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let state = Arc::clone(&self.state);
            let mut done = Vec::new();
            // The lock is given back in between, so that questions wait for a hundred decisions at most.
            for message in first.into_iter().chain(messages.try_iter().take(100)) {
                match message {
                    Message::Captured(captured) => self.keep(&mut lock(&state), *captured),
                    Message::Flush(sender) => done.push(sender),
                }
            }
            let mut state = lock(&state);
            self.note_snapshot(&mut state);
            if done.is_empty() {
                state.spill.flush_if_due();
            } else {
                state.spill.flush();
            }
            drop(state);
            // Whoever asked may have gone.
            done.into_iter().for_each(|sender| _ = sender.try_send(()));
        }
        lock(&self.state).spill.flush();
    }

    fn keep(&mut self, state: &mut State, captured: Captured) {
        let Some(settings) = &state.settings else { return };
        let Captured { id, generation, mut picture, parts, outcome, .. } = captured;
        settings.rules.apply(&self.key, &mut picture);
        let (memory, bounds) = (settings.memory_bytes_max, bounds(settings));
        let mut bindings = Vec::with_capacity(parts.len());
        let slots = parts.into_iter().map(|part| {
            let binding = self.names.binding(&part.policy, &part.decision.slot);
            let mut decision = part.decision;
            decision.binding = binding.name.clone();
            bindings.push(binding);
            decision
        });
        let recorded = Recorded { id, generation, picture, slots: slots.collect(), outcome };
        let begun = state.spill.ready(&bounds);
        if begun == Some(true) {
            // Each segment stands for itself.
            self.told.clear();
            self.last = None;
        }
        self.note_snapshot(state);
        let before = state.spill.pen.out.len();
        let bytes = if begun.is_some() {
            state.spill.pen.decision(&recorded, &bindings);
            state.spill.pen.out.len().saturating_sub(before)
        } else {
            1_024
        };
        state.spill.flush_if_due();
        state.ring.push(Arc::new(recorded), bytes, memory);
        self.gauges.kept.fetch_add(1, Ordering::Relaxed);
    }

    /// Writes down what runs, when it is another than before.
    fn note_snapshot(&mut self, state: &mut State) {
        let Some(settings) = &state.settings else { return };
        let snapshot = self.live.load();
        if self.last == Some(snapshot.generation) {
            return;
        }
        match state.spill.ready(&bounds(settings)) {
            None => return,
            Some(true) => self.told.clear(),
            Some(false) => {}
        }
        self.last = Some(snapshot.generation);
        let bindings = self.changed(&snapshot);
        let slots = bindings.iter().map(|binding| (binding.slot.clone(), binding.name.clone())).collect();
        let ran = Ran { at_ms: clock::unix_ms(), generation: snapshot.generation, slots };
        state.spill.pen.ran(&ran, &bindings);
    }

    /// The operator's binding, and those of tenants that are others than were told.
    fn changed(&mut self, snapshot: &Snapshot) -> Vec<Arc<Binding>> {
        let policies = &snapshot.policies;
        let operator = policies.operator.iter().map(|lane| (Slot::Operator, &lane.stable));
        let tenants = policies.tenants.iter().map(|(name, lane)| (Slot::Tenant(name.clone()), &lane.stable));
        let mut bindings = Vec::new();
        for (slot, policy) in operator.chain(tenants) {
            let policy: &Arc<Policy> = policy;
            let binding = self.names.binding(policy, &slot);
            let known = self.told.get(&slot) == Some(&binding.name);
            if slot == Slot::Operator || !known && bindings.len() < defaults::SLOTS_WRITTEN_MAX {
                self.told.insert(slot, binding.name.clone());
                bindings.push(binding);
            }
        }
        bindings
    }
}

const fn bounds(settings: &Settings) -> Bounds {
    Bounds {
        disk_bytes_max: settings.disk_bytes_max,
        keep: settings.keep,
        segment_bytes_max: settings.segment_bytes_max,
    }
}
