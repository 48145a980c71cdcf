//! The one task that changes what runs.
//!
//! What wakes it: files that change, a new generation of the control store, SIGHUP, a verdict or latency that changes, a candidate that was taken off, the time of a retry. What it reads: all of
//! the configuration and what is observed. What it writes: the running snapshot, certificates, and its report. On
//! failure at any step what ran before goes on, and the report says why.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use portolan_control::NodeReport;
use portolan_core::backoff::full_jitter;
use portolan_core::decide::FailRule;
use portolan_core::geography::Geography;
use portolan_core::ids::Generation;
use portolan_core::snapshot::{Live, Snapshot};
use portolan_core::steering::Steering;
use portolan_core::time::Moment;
use portolan_core::topology::Topology;
use portolan_foundation::clock;
use portolan_foundation::random;
use portolan_foundation::shutdown::Shutdown;
use portolan_foundation::telemetry;
use portolan_foundation::tls::{CertificateStore, PeerIdentity};
use portolan_foundation::watch::Folders;
use portolan_policy::{Engine, Event, Refused, Slot, SlotReport, SlotSpec, Slots, Stage};
use portolan_proxy::LiveSettings;
use portolan_recorder::Recorder;
use tokio::sync::Notify;

use super::break_glass::{BreakGlass, Files, Freezer};
use super::dns::Dns;
use super::geography::Atlas;
use super::intent::Intent;
use super::policies::Sources;
use super::previews::Previews;
use super::recordings;
use super::rollouts::Rollouts;
use super::shards::Shards;
use super::starting::Waiting;
use super::status::Reconciled;
use super::topology::{self, Cells};
use crate::config::{self, Config, Loaded, Rejected, Source};
use crate::failing::Failing;
use crate::merging::Merging;
use crate::placement::Placing;

/// How long a node that lacks bytes asks for them before it ends (the operator's policy), or serves without (a tenant's).
const FETCH_WAIT: Duration = Duration::from_secs(60);
/// From one question for missing bytes to the next: the first pause at most, and the longest.
const FETCH_PAUSE_MIN: Duration = Duration::from_millis(250);
/// See [`FETCH_PAUSE_MIN`].
const FETCH_PAUSE_MAX: Duration = Duration::from_secs(5);
/// Problems of a node that others are told.
const PROBLEMS_TOLD: usize = 10;

/// Everything that is needed to change what runs. Its methods block.
#[derive(Debug)]
pub(crate) struct Reconciler {
    atlas: Atlas,
    begun: Moment,
    cells: Cells,
    certificates: Option<Arc<CertificateStore>>,
    config: Config,
    dns: Option<Dns>,
    environment: Vec<(String, String)>,
    freezer: Freezer,
    intent: Intent,
    live: Arc<Live>,
    path: PathBuf,
    peer: Option<PeerIdentity>,
    previews: Previews,
    recorder: Option<Recorder>,
    report: Report,
    rollouts: Rollouts,
    failing: Option<Failing>,
    merging: Option<Merging>,
    placing: Option<Placing>,
    shards: Option<Shards>,
    /// The generation of the control store that runs.
    running: u64,
    slots: Slots,
    sources: Sources,
    /// What every slot is to run, before break-glass.
    specs: Vec<SlotSpec>,
    /// What listeners and threads were made with.
    started: Config,
    topology: Arc<Topology>,
}

/// The report, shared with the admin listener.
pub(crate) type Report = Arc<Mutex<Reconciled>>;

/// The configuration that a node starts with, and where it comes from.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) certificates: Option<Arc<CertificateStore>>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) intent: Intent,
    pub(crate) loaded: Loaded,
    pub(crate) path: PathBuf,
    pub(crate) peer: Option<PeerIdentity>,
    pub(crate) previews: Previews,
    pub(crate) rollouts: Rollouts,
    pub(crate) sources: Sources,
    /// Where failover says which region's traffic goes elsewhere.
    pub(crate) steering: Arc<Steering>,
    /// Where it says what it waits for.
    pub(crate) waiting: Waiting,
}

impl Reconciler {
    /// Makes the first snapshot.
    ///
    /// # Errors
    /// When the operator's policy is refused: a node does not start without what decides. A tenant's refused policy
    /// stops nobody.
    pub(crate) fn start(engine: Engine, start: Start) -> anyhow::Result<Self> {
        let Loaded { config, sources: files } = start.loaded;
        let mut sources = start.sources;
        let running = start.intent.state().map_or(0, |state| state.generation());
        let mut cells = Cells::new(Arc::clone(&start.steering));
        let topology = Arc::new(topology::build(&config, &mut cells));
        let mut slots = Slots::new(engine);
        let mut freezer = Freezer::new(Files::of(&config.state));
        freezer.files().create().context("create the folder of break-glass files")?;
        let (first, specs, glass) = first_pass(
            &mut slots,
            &mut sources,
            &mut freezer,
            &config,
            &topology,
            Follows { intent: &start.intent, rollouts: &start.rollouts, waiting: &start.waiting },
        )?;
        if let Some(facts) = slots.facts() {
            let mut enabled = specs.clone();
            glass.apply(&mut enabled);
            start.previews.follow(enabled, Arc::clone(facts), &config.uploads.trust);
        }
        let snapshot =
            Snapshot { generation: Generation(1), topology: Arc::clone(&topology), policies: first.policies };
        let slots_now = slots.reports(clock::now());
        let report = Reconciled {
            break_glass: glass,
            files: names(&files),
            loaded_at_ms: clock::unix_ms(),
            running,
            waits_for: lacking(&slots_now),
            slots: slots_now,
            ..Reconciled::default()
        };
        start.rollouts.look(&report.slots);
        Ok(Self {
            atlas: Atlas::default(),
            begun: clock::now(),
            cells,
            certificates: start.certificates,
            started: config.clone(),
            config,
            dns: None,
            environment: start.environment,
            freezer,
            intent: start.intent,
            live: Live::new(snapshot),
            path: start.path,
            peer: start.peer,
            previews: start.previews,
            failing: None,
            merging: None,
            placing: None,
            recorder: None,
            report: Arc::new(Mutex::new(report)),
            rollouts: start.rollouts,
            shards: None,
            running,
            slots,
            sources,
            specs,
            topology,
        })
    }

    /// Where the running snapshot hangs.
    pub(crate) const fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// From now on this recorder has the settings of the running configuration, and components of what is recorded are kept.
    pub(crate) fn record_with(&mut self, recorder: Recorder) -> Recorder {
        self.recorder = Some(recorder.clone());
        self.keep_components();
        recorder
    }

    /// From now on rows that were written apart are merged by the components of the running configuration, where it names some.
    pub(crate) fn merge_with(&mut self, merging: Merging) {
        self.merging = Some(merging);
    }

    /// From now on the component of the running configuration says what to do when regions fail, where it names one.
    pub(crate) fn fail_with(&mut self, failing: Failing) {
        self.failing = Some(failing);
    }

    /// From now on this table is that of the running configuration, and names are told by it as well.
    pub(crate) fn locate_with(&mut self, atlas: Atlas, dns: Dns) {
        self.atlas = atlas;
        self.dns = Some(dns);
    }

    /// From now on new tenants are placed by the policy of the running configuration.
    pub(crate) fn place_with(&mut self, placing: Placing) {
        self.placing = Some(placing);
    }

    /// From now on these shards are those of the running configuration.
    pub(crate) fn keep_with(&mut self, shards: Shards) {
        self.shards = Some(shards);
    }

    /// What is recorded is to be decided again when files are others.
    fn keep_components(&self) {
        let bytes_max = self.slots.engine().config().limits.component_bytes_max;
        if self.config.recordings.is_some()
            && let Err(error) = recordings::keep_components(&self.config, &self.specs, bytes_max)
        {
            tracing::warn!(
                "{error:#}; recorded decisions of these versions can be replayed only while their files last"
            );
        }
    }

    /// What it tells.
    pub(crate) fn report(&self) -> Report {
        Arc::clone(&self.report)
    }

    /// One pass. Gives the time at which to come again even if nothing happens.
    fn pass(&mut self, settings: &LiveSettings) -> Option<Moment> {
        let mut problems = self.reload_certificates();
        // Present when what is on disk reads, whatever becomes of it.
        let mut files: Option<Vec<String>> = None;
        let state = self.intent.state();
        let loaded = config::load_intended(&self.path, &self.environment, state.as_deref());
        let (config, topology) = match loaded {
            Ok(Loaded { config, sources }) => {
                files = Some(names(&sources));
                if config == self.config {
                    (config, Arc::clone(&self.topology))
                } else {
                    let topology = Arc::new(topology::build(&config, &mut self.cells));
                    (config, topology)
                }
            }
            Err(rejected) => {
                let Rejected { problems: found, sources } = *rejected;
                problems.extend(found.iter().map(|problem| problem.line(&sources)));
                (self.config.clone(), Arc::clone(&self.topology))
            }
        };
        let (now, mut made_at_ms) = (clock::now(), 0);
        let in_slots = self.rollouts.follow(state.as_deref());
        let bytes_max = self.slots.engine().config().limits.component_bytes_max;
        let wanted = self.sources.specs(&config, state.as_deref(), &in_slots, bytes_max);
        let glass = BreakGlass::read(self.freezer.files(), state.as_deref());
        problems.extend(glass.problems.iter().cloned());
        self.specs = self.freezer.hold(glass.is_frozen(), wanted, Some(&self.specs));
        let mut enabled = self.specs.clone();
        glass.apply(&mut enabled);
        let facts = match self.slots.facts().filter(|_| glass.is_hard()) {
            Some(facts) => Arc::clone(facts),
            None => Arc::new(topology.facts(clock::unix_ms())),
        };
        let result = self.slots.reconcile(&enabled, &facts, now);
        result.events.iter().for_each(tell);
        self.previews.follow(enabled, facts, &config.uploads.trust);
        let slots = self.slots.reports(now);
        self.rollouts.look(&slots);
        let operator = slots.iter().find(|report| report.slot == Slot::Operator);
        // Where nothing runs and the operator says what requests get then, there is nothing to wait for.
        let operator =
            operator.filter(|report| report.running.is_some() || report.on_fail == FailRule::Previous);
        let refused = operator.and_then(|report| report.refused.as_ref());
        // A new picture of the world takes effect with the policy that plans over it, or not at all.
        let new_topology = !Arc::ptr_eq(&topology, &self.topology) && refused.is_none();
        if let Some(refused) = refused.filter(|_| config != self.config) {
            // The slot's report has the whole reason.
            problems.push(format!(
                "the new configuration waits: the operator's policy is refused at {}",
                refused.stage
            ));
        }
        if refused.is_none() {
            // Also when nothing changed on disk: what failed before may succeed now.
            let geography = self.atlas.follow(&config);
            if let Some(dns) = &self.dns {
                dns.locate(geography.as_ref());
            }
            problems.extend(apply(settings, &self.config, &config, geography).err());
            if let Some(recorder) =
                self.recorder.as_ref().filter(|_| config.recordings != self.config.recordings)
            {
                recorder.apply(config.recordings.clone());
            }
            let placing = self.placing.as_ref().map(|placing| placing.follow(&config, state.as_deref()));
            problems.extend(placing.and_then(Result::err).map(|error| format!("place tenants: {error:#}")));
            let component = config.failover.as_ref().and_then(|failover| failover.policy.component());
            let failing = self.failing.as_ref();
            let failing = failing.map(|failing| failing.follow(&config, component, state.as_deref()));
            problems
                .extend(failing.and_then(Result::err).map(|error| format!("decide of regions: {error:#}")));
            let merging = self.merging.as_ref().map(|merging| merging.follow(&config, state.as_deref()));
            problems.extend(merging.and_then(Result::err).map(|error| format!("merge rows: {error:#}")));
        }
        problems.extend(self.atlas.problem().cloned());
        // Who writes a shard waits for no policy: a lease that has gone elsewhere ends here whatever else is refused.
        if let Some(shards) = &self.shards {
            shards.follow(&config);
        }
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        if report.break_glass != glass {
            tracing::warn!(glass = %serde_json::to_string(&glass).unwrap_or_default(), "break-glass has changed");
        }
        report.break_glass = glass;
        if problems != report.problems {
            problems.iter().for_each(|problem| {
                tracing::warn!("{problem}; what ran before goes on");
            });
        }
        if let Some(files) = files.filter(|_| refused.is_none()) {
            report.restart_needed = needs_restart(&self.started, &config);
            if config != self.config {
                tracing::info!("the configuration has changed");
                report.loaded_at_ms = clock::unix_ms();
                if !report.restart_needed.is_empty() {
                    let settings = report.restart_needed.join(", ");
                    tracing::warn!("these settings take effect at the next start: {settings}");
                }
            }
            report.files = files;
            self.config = config;
            made_at_ms = state
                .as_ref()
                .filter(|state| state.generation() != self.running)
                .map_or(0, |state| state.made_at_ms());
            self.running = state.map_or(0, |state| state.generation());
        }
        report.problems = problems;
        if report.waits_for.is_some() {
            // Once ready it stays so; and what cannot be had within the time does not keep the rest from being served.
            let patient = now.since(self.begun) < FETCH_WAIT;
            report.waits_for = lacking(&slots).filter(|_| patient);
        }
        report.slots = slots;
        report.geography = self.atlas.status();
        drop(report);
        if result.changed {
            self.keep_components();
        }
        if new_topology || result.changed {
            if new_topology {
                self.topology = topology;
            }
            let generation = self.live.load().generation.next();
            let topology = Arc::clone(&self.topology);
            self.live.swap(Snapshot { generation, topology, policies: result.policies });
            tracing::info!(generation = generation.0, "a new generation runs");
        }
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.running = self.running;
        if made_at_ms > 0 {
            report.applied_after_ms = Some(clock::unix_ms().saturating_sub(made_at_ms));
        }
        drop(report);
        self.tell_others();
        result.retry_at
    }

    /// Tells the other nodes how it stands here.
    fn tell_others(&self) {
        self.intent.report(|| {
            let report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
            let refused = report.slots.iter().filter(|slot| slot.refused.is_some());
            let refused = refused.map(|slot| format!("{}: the policy is refused", slot.slot));
            NodeReport {
                name: self.config.name.clone(),
                problems: report.problems.iter().cloned().chain(refused).take(PROBLEMS_TOLD).collect(),
                region: self.config.local.to_string(),
                rollouts: self.rollouts.reports(),
                running: self.running,
                schemas: self.shards.as_ref().map(Shards::schemas).unwrap_or_default(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
            }
        });
    }

    /// Certificates are read again on each pass: they are few, and a renewal is not to be missed.
    fn reload_certificates(&self) -> Vec<String> {
        let store = self.certificates.as_ref().and_then(|store| store.reload().err());
        let peer = self.peer.as_ref().and_then(|peer| peer.reload().err());
        store.into_iter().chain(peer).map(|error| format!("read certificates: {error}")).collect()
    }

    /// The folders that are to be watched.
    fn folders(&self) -> Vec<PathBuf> {
        let parent = |path: &PathBuf| path.parent().map(PathBuf::from);
        let mut folders: BTreeSet<PathBuf> = BTreeSet::new();
        folders.extend(parent(&self.path));
        if self.intent.state().is_none() {
            folders.insert(config::conf_d(&self.path));
        }
        folders.extend(self.config.geography.as_ref().and_then(parent));
        folders.insert(self.config.policies_folder.clone());
        folders.insert(self.freezer.files().folder().to_owned());
        folders.extend(self.certificates.iter().flat_map(|store| store.folders()));
        folders.extend(self.peer.iter().flat_map(PeerIdentity::folders));
        // `portolan.toml` given as a bare name has the empty path as its parent.
        folders
            .into_iter()
            .map(|folder| if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder })
            .collect()
    }
}

/// Runs the reconciler until the shutdown.
///
/// # Errors
/// When its blocking part panicked: then nothing would ever change again, and the node must say so.
pub(crate) async fn run(
    mut reconciler: Reconciler,
    settings: Arc<LiveSettings>,
    nudges: Arc<Notify>,
    observations: Arc<Notify>,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let mut news = reconciler.intent.news();
    let taken_off = reconciler.rollouts.taken_off();
    let mut folders = reconciler.folders();
    let mut identities = identities(&folders);
    let mut watched = Folders::watch(folders.clone());
    // What changed between the first look and the watch is found by one pass at once.
    let mut retry_at: Option<Moment> = Some(clock::now());
    loop {
        let retry = async {
            match retry_at {
                Some(at) => tokio::time::sleep(at.since(clock::now())).await,
                None => std::future::pending().await,
            }
        };
        // All branches are cancel-safe: a notification that nobody took stays.
        tokio::select! {
            () = shutdown.begun() => return Ok(()),
            () = nudges.notified() => {}
            () = observations.notified() => {}
            () = taken_off.notified() => {}
            () = news.changed() => {}
            () = watched.changed() => {}
            () = retry => {}
        }
        let settings = Arc::clone(&settings);
        let pass = tokio::task::spawn_blocking(move || {
            let retry_at = reconciler.pass(&settings);
            (reconciler, retry_at)
        });
        (reconciler, retry_at) =
            pass.await.context("the reconciler panicked; please report this with the lines before it")?;
        folders = reconciler.folders();
        let now = self::identities(&folders);
        if now != identities {
            // A folder that came to be, or is another under the same name, is not watched yet. What was put into it before
            // the new watch is found by one more pass.
            watched = Folders::watch(folders.clone());
            identities = now;
            retry_at = Some(clock::now());
        }
    }
}

/// What the first pass follows, and where it says what it waits for.
#[derive(Clone, Copy)]
struct Follows<'a> {
    intent: &'a Intent,
    rollouts: &'a Rollouts,
    waiting: &'a Waiting,
}

/// The first pass: everything that the operator's slot names is here before anything is served. Bytes that cannot be fetched
/// now are asked for again, for some time.
///
/// # Errors
/// When the operator's policy is refused: a node does not start without what decides. A tenant's refused policy stops nobody.
fn first_pass(
    slots: &mut Slots,
    sources: &mut Sources,
    freezer: &mut Freezer,
    config: &Config,
    topology: &Topology,
    follows: Follows<'_>,
) -> anyhow::Result<(portolan_policy::Reconciled, Vec<SlotSpec>, BreakGlass)> {
    let Follows { intent, rollouts, waiting } = follows;
    let (begun, bytes_max) = (clock::now(), slots.engine().config().limits.component_bytes_max);
    // Where the operator says what becomes of requests without the policy, that is what they get.
    let stated = config.policy.as_ref().is_some_and(|policy| policy.on_fail != FailRule::Previous);
    let mut attempt = 0;
    loop {
        let state = intent.state();
        let in_slots = rollouts.follow(state.as_deref());
        let wanted = sources.specs(config, state.as_deref(), &in_slots, bytes_max);
        let glass = BreakGlass::read(freezer.files(), state.as_deref());
        let specs = freezer.hold(glass.is_frozen(), wanted, None);
        let mut enabled = specs.clone();
        glass.apply(&mut enabled);
        let facts = Arc::new(topology.facts(clock::unix_ms()));
        let first = slots.reconcile(&enabled, &facts, clock::now());
        first.events.iter().for_each(tell);
        let reports = slots.reports(clock::now());
        let operator = reports.iter().find(|report| report.slot == Slot::Operator);
        let refused = operator.and_then(|report| report.refused.clone()).filter(|_| !stated);
        let Some(refused) = refused else { return Ok((first, specs, glass)) };
        if !is_fetched_later(&refused) || clock::now().since(begun) >= FETCH_WAIT {
            return Err(anyhow::Error::new(refused).context("the operator's policy is refused"));
        }
        *waiting.lock().unwrap_or_else(PoisonError::into_inner) = lacking(&reports);
        attempt += 1;
        std::thread::park_timeout(
            full_jitter(attempt, FETCH_PAUSE_MIN, FETCH_PAUSE_MAX, random::u64()).max(FETCH_PAUSE_MIN),
        );
    }
}

/// Are bytes missing that may be there soon?
fn is_fetched_later(refused: &Refused) -> bool {
    refused.transient && refused.stage == Stage::Read
}

/// What slots lack that run nothing, for want of bytes.
fn lacking(slots: &[SlotReport]) -> Option<String> {
    let lacks = slots.iter().find_map(|slot| {
        let refused =
            slot.refused.as_ref().filter(|refused| slot.running.is_none() && is_fetched_later(refused))?;
        Some(format!("slot {}: {}", slot.slot, refused.reason))
    })?;
    Some(format!("waiting for components: {lacks}"))
}

fn names(sources: &[Source]) -> Vec<String> {
    sources.iter().map(|source| source.path.display().to_string()).collect()
}

/// What tells one folder from another of the same name; none for one that does not exist.
fn identities(folders: &[PathBuf]) -> Vec<Option<(u64, u64)>> {
    use std::os::unix::fs::MetadataExt as _;
    folders.iter().map(|folder| std::fs::metadata(folder).ok().map(|meta| (meta.dev(), meta.ino()))).collect()
}

fn tell(event: &Event) {
    match event {
        Event::Applied { side, slot, policy, digest, rules } => {
            tracing::info!(%slot, side = side.as_str(), %policy, version = digest.short(), rules, "a policy's plan took effect");
        }
        Event::Refused { side, slot, refused, kept } => {
            let goes_on = kept
                .map_or_else(|| "nothing runs there".to_owned(), |kept| format!("{} goes on", kept.short()));
            tracing::warn!(%slot, side = side.as_str(), stage = %refused.stage, "policy refused: {}; {}; {goes_on}", refused.reason, refused.fix);
        }
        Event::Removed { side, slot } => {
            tracing::info!(%slot, side = side.as_str(), "the policy is no longer wanted");
        }
    }
}

/// Changes what needs neither a snapshot nor a restart.
fn apply(
    settings: &LiveSettings,
    old: &Config,
    new: &Config,
    geography: Option<Arc<Geography>>,
) -> Result<(), String> {
    if old.log_level != new.log_level {
        telemetry::refilter(&new.log_level)?;
    }
    let applied = settings.apply(super::settings(new, geography));
    applied.map_err(|error| format!("these settings of the data plane wait: {error}"))
}

/// Settings that the running listeners and threads were made with.
fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let mut settings = Vec::new();
    let mut check = |same: bool, name: &'static str| {
        if !same {
            settings.push(name);
        }
    };
    check(old.admin == new.admin, "admin");
    check(old.cache == new.cache, "cache");
    check(old.listen == new.listen, "listen");
    check(old.certificates == new.certificates && old.client_authority == new.client_authority, "tls");
    check(old.control == new.control && old.components == new.components, "control");
    check(
        old.local == new.local
            && old.name == new.name
            && old.state == new.state
            && old.threads == new.threads,
        "node",
    );
    check(old.peer == new.peer, "peer");
    check(old.log_format == new.log_format, "log.format");
    check(old.debug_key == new.debug_key, "recordings.debug_key");
    check(
        old.instances_max == new.instances_max && old.components_at_most == new.components_at_most,
        "policies",
    );
    settings
}
