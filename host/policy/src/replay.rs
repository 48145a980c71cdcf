//! Decides again what was decided: plans from recorded facts, asks about recorded pictures, and counts what differs. On as many
//! threads as it is given, with a bounded number of decisions in memory however long the recording is.

use std::collections::{BTreeMap, HashMap};
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use portolan_core::decide::{Decide, FailRule};
use portolan_core::facts::Facts;
use portolan_core::ids::PolicyName;
use portolan_core::recording::{Binding, Class, Recorded, Report, compare, evaluate};
use portolan_core::snapshot::Policy;
use portolan_core::table::Table;
use serde::{Deserialize, Serialize};

use crate::account::Account;
use crate::config::Config;
use crate::decider::{Start, Tier};
use crate::engine::Engine;
use crate::error::Refused;
use crate::log::Log;
use crate::plan::{be_polite, is_dynamic, planning_thread};
use crate::slots::Nobody;
use crate::version::Version;

/// Decisions that go to a thread at once.
const BATCH: usize = 256;
/// Batches that wait for a thread.
const BATCHES_MAX: usize = 4;
/// Plans that are remembered: those of a recording with ten thousand tenants are made again now and then.
const PLANS_MAX: usize = 4_096;
/// About one call in so many is repeated on a fresh instance: much more often than for live requests, because to know whether a
/// policy is pure is what a replay is for.
const PURITY_CHECK_EVERY: NonZeroU32 = NonZeroU32::new(64).expect("64 is not zero");
/// Reasons of refusals that are kept.
const REFUSALS_MAX: usize = 20;
/// Instances of a replay's engine: a few policies, warm, on each thread.
const POOL_SLOTS: NonZeroU32 = NonZeroU32::new(128).expect("128 is not zero");

impl Config {
    /// The same for an engine that only decides again: guests may use whole threads, and purity is checked more often.
    #[must_use]
    pub fn for_replay(mut self, threads: NonZeroUsize) -> Self {
        self.limits.guest_share_percent = 100;
        // A breaker's answers depend on what came before; each decision is to stand for itself.
        self.limits.breaker.failures = 0;
        self.limits.purity_check_every = PURITY_CHECK_EVERY;
        self.limits.log_lines_per_second = 1;
        self.data_threads = threads;
        self.pool_slots = POOL_SLOTS;
        self
    }
}

impl Engine {
    /// A policy as it is, or was, with a configuration and facts. For replays: nothing is kept of it.
    ///
    /// # Errors
    /// [`Refused`] as for a slot.
    pub fn policy(
        &self,
        version: &Arc<Version>,
        name: &PolicyName,
        config: &Arc<str>,
        facts: &Arc<Facts>,
        on_fail: FailRule,
    ) -> Result<Arc<Policy>, Refused> {
        let log = Log::new(name.clone(), self.config().limits.log_lines_per_second);
        let planned = self.plan(version, config, Arc::clone(facts), &log)?;
        let decider: Arc<dyn Decide> = if is_dynamic(&planned.plan) {
            // Warm instances, also for tenants: they are faster, and show what is not pure.
            let account = &Account::unbounded();
            let start = Start { account, config, log: &log, memo: &planned.plan.memo, tier: Tier::Operator };
            self.decider(version, start)?
        } else {
            Arc::new(Nobody)
        };
        Ok(Arc::new(Policy {
            config: Arc::clone(config),
            facts: Arc::clone(facts),
            name: name.clone(),
            digest: version.digest(),
            table: Table::compile(planned.plan),
            decider,
            on_fail,
        }))
    }
}

/// Who decides again.
#[derive(Clone, Debug)]
pub struct Again {
    /// The version; none for what the recording says.
    pub version: Option<Arc<Version>>,
    /// Its configuration; the recorded one when absent.
    pub config: Option<Arc<str>>,
}

/// A comparison of two policies over recorded decisions.
#[derive(Debug)]
pub struct Replay {
    /// Who decides in the place of what was recorded.
    pub base: Again,
    /// Who is compared with it.
    pub candidate: Again,
    /// Where. Made with [`Config::for_replay`].
    pub engine: Engine,
    /// Which policy's decisions.
    pub policy: PolicyName,
    /// On how many threads.
    pub threads: NonZeroUsize,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Replayed {
    /// The differences.
    #[serde(flatten)]
    pub report: Report,
    /// Decisions that were read.
    pub decisions: u64,
    /// Decisions in which the policy had no part.
    pub others: u64,
    /// Why policies could not be planned, with how many decisions that concerns; they count as errors.
    pub refusals: BTreeMap<String, u64>,
    /// Decisions whose recording does not say what they refer to; they are not comparable.
    pub unbound: u64,
}

impl Replayed {
    fn merge(&mut self, other: Self) {
        self.report.merge(other.report);
        self.decisions += other.decisions;
        self.others += other.others;
        self.unbound += other.unbound;
        for (reason, count) in other.refusals {
            self.refuse(&reason, count);
        }
    }

    fn refuse(&mut self, reason: &str, count: u64) {
        if let Some(known) = self.refusals.get_mut(reason) {
            *known += count;
        } else if self.refusals.len() < REFUSALS_MAX {
            self.refusals.insert(reason.to_owned(), count);
        }
    }
}

/// One decision on its way to a thread.
struct Job {
    recorded: Box<Recorded>,
    /// Which of its parts, and who decides it again.
    parts: Vec<(usize, Pair)>,
}

/// Who decides again, planned from what one binding says.
#[derive(Debug)]
struct Planned {
    /// None for what was recorded.
    base: Option<Arc<Policy>>,
    candidate: Arc<Policy>,
    /// The recorded configuration.
    config: Arc<str>,
}

/// That, or why there is none.
type Pair = Result<Arc<Planned>, Arc<str>>;

/// Where a replay's decisions are put in.
#[derive(Debug)]
pub struct Feed<'r> {
    batch: Vec<Job>,
    plans: HashMap<Box<str>, Pair>,
    /// None where no thread could be started: then this one works.
    queue: Option<SyncSender<Vec<Job>>>,
    replay: &'r Replay,
    result: Replayed,
    /// All policies that were made: whether they are pure is known in the end.
    used: Vec<Arc<Policy>>,
    impure: bool,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("id", &self.recorded.id).finish_non_exhaustive()
    }
}

impl Replay {
    /// Runs `feed`, which puts in all decisions, and gives what came of them.
    ///
    /// # Errors
    /// What `feed` gives.
    pub fn run<E>(&self, feed: impl FnOnce(&mut Feed<'_>) -> Result<(), E>) -> Result<Replayed, E> {
        let (queue, batches) = sync_channel(BATCHES_MAX);
        let batches = Mutex::new(batches);
        std::thread::scope(|scope| {
            let work = || {
                be_polite();
                work(&batches)
            };
            let workers: Vec<_> = (0..self.threads.get())
                .filter_map(|_| planning_thread().spawn_scoped(scope, work).ok())
                .collect();
            let mut feeding = Feed {
                batch: Vec::new(),
                plans: HashMap::new(),
                queue: (!workers.is_empty()).then_some(queue),
                replay: self,
                result: Replayed::default(),
                used: Vec::new(),
                impure: false,
            };
            let fed = feed(&mut feeding);
            feeding.send();
            let Feed { queue, mut result, used, mut impure, .. } = feeding;
            drop(queue);
            for worker in workers {
                // A panic of the host over a policy: what it had counted is missing, so nothing follows from the rest.
                match worker.join() {
                    Ok(part) => result.merge(part),
                    Err(_) => impure = true,
                }
            }
            if impure || used.iter().any(|policy| policy.decider.is_impure()) {
                result.report.distrust();
            }
            fed.map(|()| result)
        })
    }

    fn pair(&self, binding: &Binding) -> Pair {
        let plan = |again: &Again| {
            let Some(version) = &again.version else { return Ok(None) };
            let config = again.config.as_ref().unwrap_or(&binding.config);
            let policy =
                self.engine.policy(version, &binding.policy, config, &binding.facts, binding.on_fail);
            policy.map(Some).map_err(|refused| Arc::from(format!("{}: {}", refused.stage, refused.reason)))
        };
        let Some(candidate) = plan(&self.candidate)? else { return Err("no candidate was named".into()) };
        Ok(Arc::new(Planned { base: plan(&self.base)?, candidate, config: Arc::clone(&binding.config) }))
    }
}

impl Feed<'_> {
    /// Puts in one decision. `binding` finds what it refers to. Waits while the threads have enough to do.
    pub fn put(&mut self, recorded: Box<Recorded>, binding: impl Fn(&str) -> Option<Arc<Binding>>) {
        self.result.decisions += 1;
        let mut parts = Vec::new();
        for (number, slot) in recorded.slots.iter().enumerate() {
            if slot.policy != self.replay.policy {
                continue;
            }
            let Some(binding) = binding(&slot.binding) else {
                self.result.unbound += 1;
                self.result.report.add(recorded.id, &recorded.picture, slot, slot, Class::NotComparable);
                continue;
            };
            parts.push((number, self.planned(&binding)));
        }
        if parts.is_empty() {
            self.result.others += 1;
            return;
        }
        self.batch.push(Job { recorded, parts });
        if self.batch.len() >= BATCH {
            self.send();
        }
    }

    fn planned(&mut self, binding: &Binding) -> Pair {
        if let Some(pair) = self.plans.get(&binding.name) {
            return pair.clone();
        }
        if self.plans.len() >= PLANS_MAX {
            self.impure |= self.used.iter().any(|policy| policy.decider.is_impure());
            self.plans.clear();
            self.used.clear();
        }
        let pair = self.replay.pair(binding);
        if let Ok(planned) = &pair {
            self.used.extend(planned.base.iter().chain([&planned.candidate]).cloned());
        }
        self.plans.insert(binding.name.clone(), pair.clone());
        pair
    }

    fn send(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        match &self.queue {
            // The receiver lives as long as the scope.
            Some(queue) => drop(queue.send(batch)),
            None => batch.iter().for_each(|job| again(job, &mut self.result)),
        }
    }
}

fn work(batches: &Mutex<Receiver<Vec<Job>>>) -> Replayed {
    let mut result = Replayed::default();
    loop {
        let next = batches.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(batch) = next else { return result };
        batch.iter().for_each(|job| again(job, &mut result));
    }
}

fn again(job: &Job, result: &mut Replayed) {
    let Job { recorded, parts } = job;
    let picture = &recorded.picture;
    for (number, pair) in parts {
        let Some(kept) = recorded.slots.get(*number) else { continue };
        let planned = match pair {
            Ok(planned) => planned,
            Err(reason) => {
                result.refuse(reason, 1);
                result.report.add(recorded.id, picture, kept, kept, Class::Error);
                continue;
            }
        };
        let ask = |policy: &Policy| {
            let mut said = evaluate(policy, kept.slot.clone(), picture);
            if policy.digest == kept.digest && policy.config == planned.config {
                said.binding = kept.binding.clone();
            }
            said
        };
        let base = planned.base.as_ref().map_or_else(|| kept.clone(), |policy| ask(policy));
        let other = ask(&planned.candidate);
        result.report.add(recorded.id, picture, &base, &other, compare(&base, &other));
    }
}
