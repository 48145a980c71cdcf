//! The costly part of reconciling: loads versions and makes plans, several at a time.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use portolan_core::decide::{Call, Decide, Undecided};
use portolan_core::facts::Facts;
use portolan_core::ids::Digest;
use portolan_core::lane::Lane;
use portolan_core::plan::{Action, Answer, AnswerId, Exchange, Plan, Rule, Then};
use portolan_core::snapshot::Policy;
use portolan_core::table::Table;
use portolan_foundation::clock;

use super::{Active, Seat, Slot, Wanted};
use crate::account::Account;
use crate::decider::{Decider, Start};
use crate::engine::Engine;
use crate::error::{Refused, Stage};
use crate::log::Log;
use crate::plan::{Asked, be_polite, is_dynamic, planning_thread};
use crate::source::Source;
use crate::version::Version;

/// One slot that needs a plan.
pub(super) struct Job {
    pub(super) account: Arc<Account>,
    /// What the policy may see.
    pub(super) facts: Arc<Facts>,
    /// The decider to keep if the new plan leaves it the same memo.
    pub(super) decider: Option<Arc<Decider>>,
    pub(super) log: Arc<Log>,
    pub(super) seat: Seat,
    pub(super) source: Source,
    /// The version, if it is known already.
    pub(super) version: Option<Arc<Version>>,
    pub(super) wanted: Wanted,
}

/// What became of a job.
pub(super) struct Made {
    pub(super) outcome: Result<Box<Active>, Refused>,
    pub(super) plan_calls: u64,
    pub(super) seat: Seat,
}

/// Does the jobs: versions first, each once however many slots want it, then plans.
pub(super) fn carry_out(engine: &Engine, jobs: Vec<Job>) -> Vec<Made> {
    let mut sources: HashMap<Digest, &Source> = HashMap::new();
    for job in jobs.iter().filter(|job| job.version.is_none()) {
        sources.insert(job.source.digest(), &job.source);
    }
    let sources: Vec<&Source> = sources.into_values().collect();
    let loaded = each(&sources, |source| load(engine, source));
    let versions: HashMap<Digest, Result<Arc<Version>, Refused>> =
        sources.iter().map(|source| source.digest()).zip(loaded).collect();
    let outcomes = each(&jobs, |job| {
        let version = match &job.version {
            Some(version) => Ok(Arc::clone(version)),
            None => versions.get(&job.source.digest()).cloned().unwrap_or_else(|| Err(host_failed())),
        };
        version.and_then(|version| plan(engine, job, version))
    });
    jobs.into_iter()
        .zip(outcomes)
        .map(|(job, outcome)| {
            let asked = |stage| matches!(stage, Stage::Plan | Stage::Check | Stage::Start);
            let plan_calls = match &outcome {
                Ok(active) => u64::from(active.version.about().planner),
                Err(refused) => u64::from(asked(refused.stage)),
            };
            Made { outcome, plan_calls, seat: job.seat }
        })
        .collect()
}

fn load(engine: &Engine, source: &Source) -> Result<Arc<Version>, Refused> {
    match engine.loaded(source.digest()) {
        Some(version) => Ok(version),
        None => engine.load(&source.read(engine.config().limits.component_bytes_max)?),
    }
}

fn plan(engine: &Engine, job: &Job, version: Arc<Version>) -> Result<Box<Active>, Refused> {
    let wanted = job.wanted.clone();
    let asked = Asked {
        account: &job.account,
        bounds: match job.seat.slot {
            Slot::Operator => None,
            Slot::Tenant(_) => Some(Arc::clone(&wanted.terms.scope.bounds)),
        },
        config: &wanted.config,
        facts: Arc::clone(&job.facts),
        log: &job.log,
    };
    let planned = engine.plan_here(&version, asked)?;
    let decider = if is_dynamic(&planned.plan) {
        let kept = job.decider.as_ref().filter(|decider| decider.memo() == planned.plan.memo);
        Some(match kept {
            Some(decider) => Arc::clone(decider),
            None => {
                let (config, memo) = (&*wanted.config, &*planned.plan.memo);
                let account = &job.account;
                let start = Start { account, config, log: &job.log, memo, tier: wanted.tier };
                engine.decider(&version, start)?
            }
        })
    } else {
        None
    };
    let answering: Arc<dyn Decide> = match &decider {
        Some(decider) => Arc::<Decider>::clone(decider),
        None => Arc::new(Nobody),
    };
    let policy = Policy {
        config: Arc::clone(&wanted.config),
        facts: Arc::clone(&job.facts),
        name: wanted.policy.clone(),
        digest: version.digest(),
        table: Table::compile(planned.plan),
        decider: answering,
        on_fail: wanted.terms.on_fail,
    };
    Ok(Box::new(Active {
        decider,
        fuel_used: planned.fuel_used,
        planned_at_ms: clock::unix_ms(),
        policy: Arc::new(policy),
        reads: planned.reads,
        signature: job.source.signature().cloned(),
        version,
        wanted,
    }))
}

/// What a slot has in which nothing runs and which lets nobody pass: one rule that nobody answers.
pub(super) fn closed(wanted: &Wanted, facts: &Arc<Facts>) -> Arc<Lane> {
    let answer = Answer { action: Action::Next, edits: Vec::new(), rewrite: None };
    let rule = Rule {
        name: Some("closed".into()),
        when: Vec::new(),
        then: Then::Dynamic { needs: Vec::new(), among: vec![AnswerId(0)] },
        exchange: Exchange::default(),
        bounds: None,
    };
    let plan = Plan { answers: vec![answer], memo: Vec::new(), rules: vec![rule] };
    Arc::new(Lane::stable(Arc::new(Policy {
        config: Arc::clone(&wanted.config),
        facts: Arc::clone(facts),
        name: wanted.policy.clone(),
        digest: wanted.digest.unwrap_or(Digest([0; 32])),
        table: Table::compile(plan),
        decider: Arc::new(Nobody),
        on_fail: wanted.terms.on_fail,
    })))
}

/// For plans without dynamic rules, and for slots without a policy.
#[derive(Debug)]
pub(crate) struct Nobody;

impl Decide for Nobody {
    fn decide(&self, _: &Call<'_>) -> Result<u32, Undecided> {
        Err(Undecided::Empty)
    }
}

pub(super) fn host_failed() -> Refused {
    Refused::passing(
        Stage::Plan,
        "the host failed over this policy",
        "please report this with the component and the lines of the log before it",
    )
}

/// Applies a function to each item on as many polite threads as there are processors.
fn each<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<R, Refused> + Sync,
) -> Vec<Result<R, Refused>> {
    let results: Vec<Mutex<Option<Result<R, Refused>>>> = items.iter().map(|_| Mutex::new(None)).collect();
    let next = AtomicUsize::new(0);
    let run = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let (Some(item), Some(slot)) = (items.get(index), results.get(index)) else { return };
            // One policy that brings the host down takes no other with it.
            let result = std::panic::catch_unwind(AssertUnwindSafe(|| work(item)));
            let result = result.unwrap_or_else(|_| Err(host_failed()));
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    std::thread::scope(|scope| {
        let mut started = 0;
        for _ in 0..threads.min(items.len()) {
            let polite = || {
                be_polite();
                run();
            };
            started += usize::from(planning_thread().spawn_scoped(scope, polite).is_ok());
        }
        if started == 0 {
            run();
        }
    });
    let taken = |slot: Mutex<Option<_>>| slot.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.into_iter().map(|slot| taken(slot).unwrap_or_else(|| Err(host_failed()))).collect()
}
