//! The way of a component from bytes to a version, and what all versions share.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use portolan_core::ids::{Digest, PolicyName};
use wasmtime::component::{Component, InstancePre, Linker};

use crate::account::Account;
use crate::artefact::Artefact;
use crate::bindings::exports::portolan::policy::{placer, planner, proposer, resolver};
use crate::cache::{Cache, Found};
use crate::config::{Compile, Config};
use crate::confine::Confinement;
use crate::contract;
use crate::defaults::{COMPILES_MAX, TICK};
use crate::error::{Error, Refused, Stage};
use crate::face::Faces;
use crate::guest::{self, Allowance, Failure, State};
use crate::ledger::Ledger;
use crate::log::Log;
use crate::pipeline::{self, Journal};
use crate::schema::Schema;
use crate::screen::{self, Screened};
use crate::slots::Slot;
use crate::stats::{Counters, Stats};
use crate::thread::{self, ThreadShare};
use crate::version::{About, Exports, Version, wrong_export};
use crate::{compile, machine};

/// The engine. Clones are the same engine.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

pub(crate) struct Inner {
    accounts: Mutex<BTreeMap<Slot, Weak<Account>>>,
    cache: Option<Cache>,
    cache_off: Option<String>,
    compiles: Permits,
    config: Config,
    /// What held the last compiling child.
    confinement: Mutex<Option<Confinement>>,
    pub(crate) counters: Arc<Counters>,
    linker: Linker<State>,
    logs: Mutex<BTreeMap<Slot, Weak<Log>>>,
    pub(crate) machine: wasmtime::Engine,
    pool_slots: u32,
    /// Where guests write that run for no policy yet.
    nowhere: Arc<Log>,
    versions: Mutex<HashMap<Digest, Weak<Version>>>,
    pub(crate) warm_operator: Arc<Ledger>,
    pub(crate) warm_tenant: Arc<Ledger>,
}

impl Engine {
    /// Starts the engine and its clock.
    ///
    /// # Errors
    /// [`Error`] when the system does not give address space or a thread. A cache that cannot be used is no error: it
    /// is left out, and [`Stats::cache_off`] says why.
    pub fn new(config: Config) -> Result<Self, Error> {
        let limits = &config.limits;
        let (machine, pool_slots) = machine::runner(limits, config.pool_slots.get())?;
        start_clock(&machine)?;
        let linker = guest::linker(&machine)?;
        let (cache, cache_off) = match config.cache_dir.as_deref() {
            None => (None, None),
            Some(dir) => match Cache::open(dir, config.cache_bytes_max, limits.artefact_bytes_max) {
                Ok(cache) => (Some(cache), None),
                Err(reason) => {
                    tracing::warn!("policies are compiled anew at each start: {reason}");
                    (None, Some(reason))
                }
            },
        };
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        let nobody = PolicyName::new("unnamed").map_err(|error| Error::Setup(error.to_string()))?;
        // Half of the slots at most, so that fresh instances and plans always find some.
        let instances = limits.warm_instances_max.min(pool_slots as usize / 2);
        let reserve = |all: usize| all.saturating_mul(limits.operator_reserve_percent.min(100)) / 100;
        let (kept, bytes_kept) = (reserve(instances), reserve(limits.warm_bytes_max));
        Ok(Self(Arc::new(Inner {
            accounts: Mutex::default(),
            cache,
            cache_off,
            compiles: Permits::new(threads.min(COMPILES_MAX)),
            confinement: Mutex::new(None),
            counters: Arc::new(Counters::default()),
            linker,
            logs: Mutex::default(),
            machine,
            pool_slots,
            nowhere: Log::new(nobody, 0),
            versions: Mutex::new(HashMap::new()),
            warm_operator: Ledger::new(kept, bytes_kept),
            warm_tenant: Ledger::new(instances.saturating_sub(kept), limits.warm_bytes_max - bytes_kept),
            config,
        })))
    }

    /// What it was given.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// The counters now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let inner = &*self.0;
        let counters = &*inner.counters;
        let (operator, tenant) = (&inner.warm_operator, &inner.warm_tenant);
        Stats {
            busy: counters.busy.read(),
            cache_off: inner.cache_off.clone(),
            cache_hits: counters.cache_hits.read(),
            cache_rejects: counters.cache_rejects.read(),
            compiler_held_by: *inner.confinement.lock().unwrap_or_else(PoisonError::into_inner),
            compiles: counters.compiles.read(),
            evictions: operator.evictions() + tenant.evictions(),
            impure: counters.impure.read(),
            log_lines_dropped: counters.log_lines_dropped.read(),
            out_of_range: counters.out_of_range.read(),
            overruns: counters.overruns.read(),
            plans: counters.plans.read(),
            pool_slots: inner.pool_slots,
            purity_checks: counters.purity_checks.read(),
            refused: counters.refused.read(),
            stores: counters.stores.read(),
            traps: counters.traps.read(),
            versions: counters.versions.read(),
            warm_bytes: (operator.bytes() + tenant.bytes()) as u64,
            warm_instances: (operator.count() + tenant.count()) as u64,
        }
    }

    /// Makes a version of a component: screens, compiles or takes from the cache, links, instantiates once. Blocks for
    /// as long as compiling takes. Equal bytes give the same version as long as one is held.
    ///
    /// # Errors
    /// [`Refused`] with the stage, the reason and the fix.
    pub fn load(&self, bytes: &[u8]) -> Result<Arc<Version>, Refused> {
        screen::check_size(bytes.len() as u64, &self.0.config.limits)
            .map_err(|refused| self.count(refused))?;
        let digest = screen::digest(bytes);
        if let Some(version) = self.loaded(digest) {
            return Ok(version);
        }
        self.make(bytes, digest).map_err(|refused| self.count(refused))
    }

    /// The version of this name, if somebody holds it.
    pub(crate) fn loaded(&self, digest: Digest) -> Option<Arc<Version>> {
        let versions = self.0.versions.lock().unwrap_or_else(PoisonError::into_inner);
        versions.get(&digest).and_then(Weak::upgrade)
    }

    /// What each slot has used and may use, as of now.
    #[must_use]
    pub fn accounts(&self) -> Vec<(Slot, Arc<Account>)> {
        let mut accounts = self.0.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        accounts.retain(|_, account| account.strong_count() > 0);
        accounts.iter().filter_map(|(slot, account)| Some((slot.clone(), account.upgrade()?))).collect()
    }

    /// The log of a slot, as it is written.
    #[must_use]
    pub fn log(&self, slot: &Slot) -> Option<Arc<Log>> {
        self.0.logs.lock().unwrap_or_else(PoisonError::into_inner).get(slot)?.upgrade()
    }

    /// A new log for a slot.
    pub(crate) fn open_log(&self, slot: &Slot, policy: PolicyName) -> Arc<Log> {
        let log = Log::new(policy, self.0.config.limits.log_lines_per_second);
        let mut logs = self.0.logs.lock().unwrap_or_else(PoisonError::into_inner);
        logs.insert(slot.clone(), Arc::downgrade(&log));
        log
    }

    /// Forgets the log of a slot that is no more.
    pub(crate) fn close_log(&self, slot: &Slot) {
        self.0.logs.lock().unwrap_or_else(PoisonError::into_inner).remove(slot);
    }

    /// How much of each thread that asks deciders their guests take.
    #[must_use]
    pub fn thread_shares(&self) -> Vec<ThreadShare> {
        thread::shares()
    }

    /// The account of a slot, the same one as long as somebody holds it.
    pub(crate) fn account(&self, slot: &Slot) -> Arc<Account> {
        let mut accounts = self.0.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(account) = accounts.get(slot).and_then(Weak::upgrade) {
            return account;
        }
        let account = Account::unbounded();
        accounts.insert(slot.clone(), Arc::downgrade(&account));
        account
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.0
    }

    pub(crate) fn count(&self, refused: Refused) -> Refused {
        self.0.counters.refused.add(1);
        refused
    }

    fn make(&self, bytes: &[u8], digest: Digest) -> Result<Arc<Version>, Refused> {
        let mut journal = Journal::silent();
        let screened = pipeline::screened(bytes, &self.0.config.limits, &mut journal)?;
        let schema = pipeline::schema(&screened, &mut journal)?;
        self.made(bytes, digest, &screened, schema, &mut journal)
    }

    /// Compiles, links and instantiates what was screened.
    pub(crate) fn made(
        &self,
        bytes: &[u8],
        digest: Digest,
        screened: &Screened,
        schema: Option<Schema>,
        journal: &mut Journal<'_>,
    ) -> Result<Arc<Version>, Refused> {
        let inner = &*self.0;
        let compile = || self.code(bytes, digest, screened);
        let code = journal.stage(Stage::Compile, compile, |code| {
            let from = if code.compile_time.is_none() { ", kept from an earlier time" } else { "" };
            format!("{} bytes of code{from}", code.bytes)
        })?;
        let link = || {
            let linked = inner.linker.instantiate_pre(&code.component);
            linked.map_err(|error| {
                let fix = format!(
                    "build the component against wit/policy/v{} of this portolan or older",
                    contract::KNOWN
                );
                Refused::new(Stage::Link, format!("{error:#}"), fix)
            })
        };
        let pre = journal.stage(Stage::Link, link, |_| "all imports are there".to_owned())?;
        let probe = || self.probe(&pre, screened);
        let (exports, memory_bytes) =
            journal.stage(Stage::Instantiate, probe, |(_, bytes)| format!("{bytes} bytes of memory"))?;
        let about = About {
            artefact_bytes: code.bytes,
            compile_time: code.compile_time,
            contract: screened.contract,
            decider: screened.offers.decides(),
            digest,
            from_cache: code.compile_time.is_none(),
            imports: screened.imports.iter().cloned().collect(),
            memory_bytes,
            placer: screened.offers.placer,
            planner: screened.offers.planner,
            proposer: screened.offers.proposer,
            resolver: screened.offers.resolver,
            size_bytes: bytes.len(),
        };
        let version = Arc::new(Version::new(about, pre, exports, schema, &inner.counters));
        Ok(self.known(version))
    }

    /// Lets equal bytes find this version as long as one is held; gives the one that was faster, if another thread was.
    fn known(&self, version: Arc<Version>) -> Arc<Version> {
        let mut versions = self.0.versions.lock().unwrap_or_else(PoisonError::into_inner);
        versions.retain(|_, version| version.strong_count() > 0);
        if let Some(faster) = versions.get(&version.digest()).and_then(Weak::upgrade) {
            return faster;
        }
        versions.insert(version.digest(), Arc::downgrade(&version));
        version
    }

    /// The machine code, from the cache or from the compiler.
    fn code(&self, bytes: &[u8], digest: Digest, screened: &Screened) -> Result<Code, Refused> {
        let inner = &*self.0;
        let name = inner.cache.as_ref().map(|_| self.cache_name(digest, screened));
        if let (Some(cache), Some(name)) = (&inner.cache, &name) {
            match cache.find(name) {
                Found::Hit(artefact) => match artefact.load(&inner.machine) {
                    Ok(component) => {
                        inner.counters.cache_hits.add(1);
                        return Ok(Code { component, bytes: artefact.len(), compile_time: None });
                    }
                    Err(error) => {
                        inner.counters.cache_rejects.add(1);
                        tracing::debug!(%digest, "compile a policy again: {error:#}");
                    }
                },
                Found::Miss => {}
                Found::Reject => {
                    inner.counters.cache_rejects.add(1);
                    tracing::info!(%digest, "compile a policy again: its cached code is damaged or not ours");
                }
            }
        }
        let began = Instant::now();
        let artefact = self.compile(bytes)?;
        let compile_time = began.elapsed();
        let component = artefact.load(&inner.machine).map_err(|error| {
            Refused::passing(
                Stage::Compile,
                format!("take the compiler's code: {error:#}"),
                "use fewer memories, tables and core instances; and compile with the portolan that serves",
            )
        })?;
        if let (Some(cache), Some(name)) = (&inner.cache, &name)
            && let Err(error) = cache.keep(name, &artefact)
        {
            tracing::info!("{error}; the policy runs, and will be compiled again at the next start");
        }
        Ok(Code { component, bytes: artefact.len(), compile_time: Some(compile_time) })
    }

    fn compile(&self, bytes: &[u8]) -> Result<Artefact, Refused> {
        let inner = &*self.0;
        let permit = inner.compiles.take();
        inner.counters.compiles.add(1);
        let artefact = match &inner.config.compile {
            Compile::Child { program, args } => compile::in_child(program, args, bytes, &inner.config.limits)
                .map(|(artefact, confinement)| {
                    self.note(confinement);
                    artefact
                }),
            Compile::InProcess => compile::in_process(bytes),
        };
        drop(permit);
        artefact
    }

    /// Remembers what held the compiler, and tells once what did not.
    fn note(&self, confinement: Confinement) {
        let mut known = self.0.confinement.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != Some(confinement) {
            let missing = confinement.missing();
            if !missing.is_empty() {
                tracing::info!(
                    "this system does not hold the compiler of policies by {}; its limits hold",
                    missing.join(", ")
                );
            }
            *known = Some(confinement);
        }
    }

    /// Everything that the code depends on: the component, what it may import, the contract's version, and the engine
    /// with its settings.
    fn cache_name(&self, digest: Digest, screened: &Screened) -> String {
        let mut hasher =
            NameHasher(blake3::Hasher::new_derive_key("portolan 2026 policy compile cache name"));
        hasher.0.update(&digest.0);
        for import in &screened.imports {
            hasher.0.update(import.as_bytes()).update(b"\n");
        }
        hasher.0.update(screened.contract.to_string().as_bytes());
        std::hash::Hash::hash(&self.0.machine.precompile_compatibility_hash(), &mut hasher);
        hasher.0.finalize().to_hex().to_string()
    }

    /// Finds the exports, and whether an instance comes about at all.
    fn probe(&self, pre: &InstancePre<State>, screened: &Screened) -> Result<(Exports, usize), Refused> {
        let inner = &*self.0;
        let limits = &inner.config.limits;
        let planner = screened.offers.planner.then(|| planner::GuestIndices::new(pre)).transpose();
        let planner = planner.map_err(|error| wrong_export(pre, contract::PLANNER, &error))?;
        let placer = screened.offers.placer.then(|| placer::GuestIndices::new(pre)).transpose();
        let placer = placer.map_err(|error| wrong_export(pre, contract::PLACER, &error))?;
        let proposer = screened.offers.proposer.then(|| proposer::GuestIndices::new(pre)).transpose();
        let proposer = proposer.map_err(|error| wrong_export(pre, contract::PROPOSER, &error))?;
        let resolver = screened.offers.resolver.then(|| resolver::GuestIndices::new(pre)).transpose();
        let resolver = resolver.map_err(|error| wrong_export(pre, contract::RESOLVER, &error))?;
        let decider = Faces::find(pre, screened.offers)?;

        let mut store = guest::store(
            &inner.machine,
            limits,
            limits.plan_memory_bytes_max,
            &inner.nowhere,
            &inner.counters,
        );
        guest::arm(&mut store, Allowance::to_start(limits)).map_err(|failure| not_instantiated(&failure))?;
        let instance = pre.instantiate(&mut store).map_err(|error| {
            let failure = guest::failure(&error, Some(&store));
            not_instantiated(&failure)
        })?;
        if let Some(planner) = &planner {
            planner
                .load(&mut store, &instance)
                .map_err(|error| wrong_export(pre, contract::PLANNER, &error))?;
        }
        if let Some(placer) = &placer {
            placer
                .load(&mut store, &instance)
                .map_err(|error| wrong_export(pre, contract::PLACER, &error))?;
        }
        if let Some(proposer) = &proposer {
            proposer
                .load(&mut store, &instance)
                .map_err(|error| wrong_export(pre, contract::PROPOSER, &error))?;
        }
        if let Some(resolver) = &resolver {
            resolver
                .load(&mut store, &instance)
                .map_err(|error| wrong_export(pre, contract::RESOLVER, &error))?;
        }
        if let Some(decider) = &decider {
            decider.check(pre, &mut store, &instance)?;
        }
        let exports = Exports { decider, placer, planner, proposer, resolver };
        Ok((exports, store.data().limiter.memory_bytes()))
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("config", &self.0.config).finish_non_exhaustive()
    }
}

struct Code {
    component: Component,
    bytes: usize,
    compile_time: Option<Duration>,
}

/// The refusal for a guest of which no instance came about.
pub(crate) fn not_instantiated(failure: &Failure) -> Refused {
    let reason = format!("no instance came about: {}", failure.text());
    match failure {
        Failure::Full(_) => Refused::passing(
            Stage::Instantiate,
            reason,
            "wait until policies end, or give the pool more slots",
        ),
        Failure::Overrun(_) => Refused::passing(
            Stage::Instantiate,
            reason,
            "do less when the module starts; a policy has a fraction of a second for it",
        ),
        Failure::Trapped(_) => Refused::new(
            Stage::Instantiate,
            reason,
            "a policy must start without calling the host and within its limits of memory and tables",
        ),
    }
}

/// Advances the epoch, by which guests that overrun are stopped. An own thread, because a runtime's timers may hang on
/// the very thread that a guest holds. Wakes each millisecond, reads nothing, and ends with the last user of the engine.
fn start_clock(machine: &wasmtime::Engine) -> Result<(), Error> {
    const NAME: &str = "policy-clock";
    let weak = machine.weak();
    let tick = move || {
        while let Some(machine) = weak.upgrade() {
            machine.increment_epoch();
            drop(machine);
            std::thread::park_timeout(TICK);
        }
    };
    let started = std::thread::Builder::new().name(NAME.to_owned()).spawn(tick);
    started.map(drop).map_err(|source| Error::Thread { name: NAME, source })
}

/// So many at the same time; others wait.
struct Permits {
    left: Mutex<usize>,
    returned: Condvar,
}

struct Permit<'p>(&'p Permits);

impl Permits {
    fn new(count: usize) -> Self {
        Self { left: Mutex::new(count.max(1)), returned: Condvar::new() }
    }

    fn take(&self) -> Permit<'_> {
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left =
            self.returned.wait_while(left, |left| *left == 0).unwrap_or_else(PoisonError::into_inner);
        *left -= 1;
        drop(left);
        Permit(self)
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *self.0.left.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.returned.notify_one();
    }
}

/// Lets wasmtime hash its settings into a name that is stable over processes.
struct NameHasher(blake3::Hasher);

impl std::hash::Hasher for NameHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let hash = self.0.finalize();
        hash.as_bytes().iter().take(8).fold(0, |word, byte| word << 8 | u64::from(*byte))
    }
}
