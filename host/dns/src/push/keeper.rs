//! Keeps servers at the newest plan.
//!
//! Each server has a task of its own, so that a dead one holds up no other. What wakes it: another plan, a nudge, the time of the next
//! look, the end of a pause after a failure. What it reads: the plan, and what stands on the server. What it writes: the server's
//! records, as long as nobody with a higher number has written them, and its report. On failure the report says why, and it tries again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use portolan_core::backoff::{full_jitter, jittered};
use portolan_foundation::shutdown::Shutdown;
use portolan_foundation::{clock, random, task};
use tokio::sync::{Notify, watch};

use super::{Change, Destination, Mode, Outcomes, Server};
use crate::defaults::{PUSH_LOOK, PUSH_RETRY_MAX, PUSH_RETRY_MIN};
use crate::name::Name;
use crate::plan::{Plan, Regions};

/// The plans that are to be pushed, the newest at any time.
pub type Plans = watch::Receiver<Option<Arc<Plan>>>;

/// What a server was last found to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetReport {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// Does it compare the plan's number by itself?
    pub guarded: bool,
    /// The number of the plan that was pushed.
    pub number: u64,
    /// What became of each name.
    pub outcomes: Outcomes,
}

/// Tells how servers do, and has them looked at. Clones are of the same keeper.
#[derive(Clone, Debug, Default)]
pub struct Pushed(Arc<Told>);

#[derive(Debug, Default)]
struct Told {
    nudge: Notify,
    reports: Mutex<BTreeMap<(Server, Name), TargetReport>>,
}

/// Keeps servers at the newest plan, while it runs.
#[derive(Debug)]
pub struct Keeper {
    plans: Plans,
    pushed: Pushed,
    targets: Vec<Destination>,
}

impl Pushed {
    /// Has every server looked at now.
    pub fn nudge(&self) {
        self.0.nudge.notify_waiters();
    }

    /// How servers did, by server and zone; those that were not looked at yet are missing.
    #[must_use]
    pub fn reports(&self) -> BTreeMap<(Server, Name), TargetReport> {
        self.0.reports.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes how a server did, and gives how it did before.
    fn note(&self, target: &Destination, report: TargetReport) -> Option<TargetReport> {
        let key = (target.server(), target.zone().clone());
        self.0.reports.lock().unwrap_or_else(PoisonError::into_inner).insert(key, report)
    }
}

impl Keeper {
    /// Of these servers, each with the zone that it has.
    #[must_use]
    pub fn new(targets: Vec<Destination>, plans: Plans) -> Self {
        Self { plans, pushed: Pushed::default(), targets }
    }

    /// Tells how servers do.
    #[must_use]
    pub fn pushed(&self) -> Pushed {
        self.pushed.clone()
    }

    /// Pushes until the end.
    pub async fn run(self, shutdown: Shutdown) {
        let one = |target: Destination| {
            let keeping = keep(target, self.plans.clone(), self.pushed.clone(), shutdown.clone());
            task::spawn("keep a DNS server at the newest plan", keeping)
        };
        let tasks: Vec<_> = self.targets.into_iter().map(one).collect();
        for task in tasks {
            // A panic was told by the task itself.
            drop(task.await);
        }
    }
}

async fn keep(target: Destination, mut plans: Plans, pushed: Pushed, shutdown: Shutdown) {
    let mut failures: u32 = 0;
    loop {
        let nudged = pushed.0.nudge.notified();
        tokio::pin!(nudged);
        // From here on a nudge counts, also one that comes while the server is written.
        nudged.as_mut().enable();
        let plan = plans.borrow_and_update().clone();
        let change = plan.and_then(|plan| Change::of(&plan, target.zone(), Regions::NONE, clock::unix_ms()));
        let mut pause = jittered(PUSH_LOOK, random::u64());
        if let Some(change) = change {
            // A plan that comes meanwhile has its turn next; what is under way ends by itself, in bounded time.
            let outcomes = target.push(&change, Mode::Newer).await;
            let passing =
                outcomes.values().any(|outcome| outcome.as_ref().is_err_and(|failure| failure.is_passing()));
            failures = if passing { failures.saturating_add(1) } else { 0 };
            if passing {
                pause = full_jitter(failures, PUSH_RETRY_MIN, PUSH_RETRY_MAX, random::u64());
            }
            let (at_ms, guarded) = (clock::unix_ms(), target.is_guarded());
            let report = TargetReport { at_ms, guarded, number: change.number, outcomes };
            let before = pushed.note(&target, report.clone());
            tell(&target, &report, before.as_ref());
        }
        // All are cancel-safe: a plan that was not seen is still marked.
        tokio::select! {
            changed = plans.changed() => if changed.is_err() { return },
            () = nudged => {}
            () = tokio::time::sleep(pause) => {}
            () = shutdown.begun() => return,
        }
    }
}

/// Says what is new about a server.
fn tell(target: &Destination, report: &TargetReport, before: Option<&TargetReport>) {
    for (name, outcome) in &report.outcomes {
        if before.and_then(|before| before.outcomes.get(name)) == Some(outcome) {
            continue;
        }
        let server = target.server();
        match outcome {
            Ok(outcome) => tracing::info!(%server, %name, number = report.number, ?outcome, "DNS push"),
            Err(failure) if failure.is_passing() => {
                tracing::warn!(%server, %name, number = report.number, %failure, "DNS push");
            }
            Err(failure) => tracing::error!(%server, %name, number = report.number, %failure, "DNS push"),
        }
    }
}
