//! The plan tier: a fresh instance on a thread of its own, with much fuel, whose answers take effect as a whole or not
//! at all.

use std::sync::Arc;
use std::time::{Duration, Instant};

use portolan_core::bounds::Bounds;
use portolan_core::facts::{Fact, FactValue, Facts, Reads};
use portolan_core::plan::{Draft, Plan, Refusal, Then};

use crate::account::Account;
use crate::bindings::exports::portolan::policy::planner;
use crate::defaults::{PLAN_THREAD_NICE, PLAN_THREAD_STACK_BYTES};
use crate::engine::{Engine, not_instantiated};
use crate::error::{Refused, Stage, printable};
use crate::guest::{self, Allowance, Failure};
use crate::log::Log;
use crate::schema;
use crate::version::Version;

/// What the host's own plan hands to a policy that only decides.
const NEEDS: [&str; 6] = ["method", "host", "path", "tenant", "client.country", "client.region"];

/// What a plan is made from.
pub(crate) struct Asked<'a> {
    /// What its slot has used.
    pub(crate) account: &'a Account,
    /// What a tenant's policy may choose; none for the operator's.
    pub(crate) bounds: Option<Arc<Bounds>>,
    /// A JSON object.
    pub(crate) config: &'a str,
    /// What the policy may see.
    pub(crate) facts: Arc<Facts>,
    /// Where the guest writes.
    pub(crate) log: &'a Arc<Log>,
}

/// A plan and what making it took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Units of fuel; 0 when the host planned.
    pub fuel_used: u64,
    /// The checked plan.
    pub plan: Plan,
    /// The facts that it depends on.
    pub reads: Reads,
    /// How long it took, in wall time.
    pub took: Duration,
}

impl Engine {
    /// Asks a version for a plan. Blocks until it is there, on a thread of lower priority. `config` is a JSON object;
    /// it is checked against the version's schema before anything runs.
    ///
    /// # Errors
    /// [`Refused`] for a configuration that does not fit, a policy that fails or says no, and a plan with dynamic rules
    /// of a policy without decider.
    pub fn plan(
        &self,
        version: &Version,
        config: &str,
        facts: Arc<Facts>,
        log: &Arc<Log>,
    ) -> Result<Planned, Refused> {
        let account = Account::unbounded();
        self.plan_as(version, Asked { account: &account, bounds: None, config, facts, log })
    }

    /// The same, as a slot would ask.
    pub(crate) fn plan_as(&self, version: &Version, asked: Asked<'_>) -> Result<Planned, Refused> {
        politely(|| self.plan_here(version, asked))
    }

    /// The same on the caller's thread, which must be one of [`planning_thread`].
    pub(crate) fn plan_here(&self, version: &Version, asked: Asked<'_>) -> Result<Planned, Refused> {
        self.try_plan(version, asked).map_err(|refused| self.count(refused))
    }

    fn try_plan(&self, version: &Version, asked: Asked<'_>) -> Result<Planned, Refused> {
        let Asked { account, bounds, config, facts, log } = asked;
        let began = Instant::now();
        let limits = &self.config().limits;
        schema::check(version.checker(), config, limits)?;
        if version.about().placer {
            return Err(Refused::new(
                Stage::Plan,
                "the component places tenants (world `sharding`), and decides nothing about requests",
                "name it with `[placement] policy`, and another here",
            ));
        }
        if version.about().proposer {
            return Err(Refused::new(
                Stage::Plan,
                "the component answers when regions fail (world `failover`), and decides nothing about requests",
                "name it with `[failover] policy`, and another here",
            ));
        }
        if version.about().resolver {
            return Err(Refused::new(
                Stage::Plan,
                "the component merges versions (world `resolving`), and decides nothing about requests",
                "name it as a table's `conflict = { policy = ... }`, and another here",
            ));
        }
        let draft = match bounds {
            Some(bounds) => Draft::of_tenant(facts, limits.plan, bounds),
            None => Draft::new(facts, limits.plan),
        };
        let (draft, fuel_used) = match version.planner() {
            Some(planner) => self.ask(version, planner, config, draft, log, account)?,
            None => (host_plan(draft).map_err(|refusal| not_planned(&refusal))?, 0),
        };
        let (plan, reads) = draft.finish().map_err(|refusal| {
            Refused::new(
                Stage::Check,
                refusal.to_string(),
                "change the policy or its configuration, so that its plan is whole",
            )
        })?;
        if version.decider().is_none() && is_dynamic(&plan) {
            return Err(Refused::new(
                Stage::Check,
                "the plan has dynamic rules, and the component exports no decider",
                "export the interface `decider` (world `routing`) or `packed-decider` (world `routing-packed`), or use `split`",
            ));
        }
        Ok(Planned { fuel_used, plan, reads, took: began.elapsed() })
    }

    fn ask(
        &self,
        version: &Version,
        planner: &planner::GuestIndices,
        config: &str,
        draft: Draft,
        log: &Arc<Log>,
        account: &Account,
    ) -> Result<(Draft, u64), Refused> {
        let inner = self.inner();
        let limits = &self.config().limits;
        inner.counters.plans.add(1);
        let memory = limits.plan_memory_bytes_max;
        let mut store = guest::store(&inner.machine, limits, memory, log, &inner.counters);
        guest::arm(&mut store, Allowance::to_start(limits)).map_err(|failure| not_instantiated(&failure))?;
        let loaded = version
            .pre()
            .instantiate(&mut store)
            .and_then(|instance| planner.load(&mut store, &instance))
            .map_err(|error| guest::failure(&error, Some(&store)));
        let guest = loaded.map_err(|failure| not_instantiated(&failure))?;

        let allowance = Allowance::to_plan(limits);
        guest::arm(&mut store, allowance).map_err(|failure| self.failed(&failure))?;
        guest::lend_draft(&mut store, draft);
        let called = guest.call_plan(&mut store, config);
        let draft = guest::take_draft(&mut store);
        let fuel_used = allowance.fuel.saturating_sub(store.get_fuel().unwrap_or(0));
        // Also of plans that come to nothing.
        account.planned(fuel_used);
        match (called, draft) {
            (Ok(Ok(())), Some(draft)) => Ok((draft, fuel_used)),
            (Ok(Ok(())), None) => unreachable!("nobody takes the draft while the guest plans"),
            (Ok(Err(refusal)), _) => {
                let message = printable(&refusal.message, 1_024);
                Err(not_planned(&Refusal { code: refusal.code, message }))
            }
            (Err(error), _) => Err(self.failed(&guest::failure(&error, Some(&store)))),
        }
    }

    pub(crate) fn failed(&self, failure: &Failure) -> Refused {
        let counters = &self.inner().counters;
        let reason = format!("`plan` failed: {}", failure.text());
        match failure {
            Failure::Full(_) => {
                Refused::passing(Stage::Plan, reason, "wait until policies end, or give the pool more slots")
            }
            Failure::Overrun(_) => {
                counters.overruns.add(1);
                Refused::passing(
                    Stage::Plan,
                    reason,
                    "do less in `plan`, or raise the engine's limits for it",
                )
            }
            Failure::Trapped(_) => {
                counters.traps.add(1);
                Refused::passing(
                    Stage::Plan,
                    reason,
                    "run `portolan plugin check` on the component to see it fail at your desk",
                )
            }
        }
    }
}

/// The policy said no, or the host's own plan did not fit.
fn not_planned(refusal: &Refusal) -> Refused {
    Refused::passing(
        Stage::Plan,
        format!("the policy made no plan: {refusal}"),
        "do what the message says; the policy is asked again when facts change",
    )
}

/// A policy that only decides is asked about everything, with all pools of all regions to choose from, the local region
/// first.
fn host_plan(mut draft: Draft) -> Result<Draft, Refusal> {
    let names = |value| match value {
        FactValue::Names(names) => names,
        FactValue::Number(_) => Vec::new(),
    };
    let mut regions = names(draft.read(Fact::Local)?);
    let local = regions.first().cloned().unwrap_or_default();
    regions.extend(names(draft.read(Fact::Regions)?).into_iter().filter(|region| *region != local));
    let mut among = Vec::new();
    for region in &regions {
        for pool in names(draft.read(Fact::Pools(region.clone()))?) {
            among.push(draft.forward(region, &pool)?.0);
        }
    }
    draft.dynamic(&[], &NEEDS.map(str::to_owned), &among)?;
    Ok(draft)
}

/// Does anything in the plan ask the decider?
pub(crate) fn is_dynamic(plan: &Plan) -> bool {
    plan.rules.iter().any(|rule| matches!(rule.then, Then::Dynamic { .. }))
}

/// Does the work of a plan on a thread of its own, of lower priority. Blocks until it is done.
pub(crate) fn politely<T: Send>(work: impl FnOnce() -> Result<T, Refused> + Send) -> Result<T, Refused> {
    std::thread::scope(|scope| {
        let planning = || {
            be_polite();
            work()
        };
        match planning_thread().spawn_scoped(scope, planning).map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(planned)) => planned,
            Ok(Err(_)) => Err(Refused::passing(
                Stage::Plan,
                "the host failed while the policy planned",
                "please report this with the component",
            )),
            Err(error) => Err(Refused::passing(
                Stage::Plan,
                format!("start a thread to plan: {error}"),
                "raise the limit of processes and threads (`ulimit -u`)",
            )),
        }
    })
}

/// Threads that plan.
pub(crate) fn planning_thread() -> std::thread::Builder {
    std::thread::Builder::new().name("policy-plan".to_owned()).stack_size(PLAN_THREAD_STACK_BYTES)
}

/// Lets requests go first. On Linux the priority is the calling thread's, not the process's. Where it is not
/// allowed, plans are as eager as everything else.
pub(crate) fn be_polite() {
    rustix::process::setpriority_process(None, PLAN_THREAD_NICE).ok();
}
