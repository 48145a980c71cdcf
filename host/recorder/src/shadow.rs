//! Candidates in the shadow: asked about what was decided already, on a thread of their own, and compared. Their answers are
//! never used.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use portolan_core::decide::{Said, Undecided};
use portolan_core::evidence::Trial;
use portolan_core::lane::{Candidate, Side, Slot};
use portolan_core::recording::{
    Captured, DecisionId, Part, Picture, Report, SlotDecision, compare, evaluate,
};
use portolan_core::snapshot::Policy;

use crate::defaults::{SHADOW_NICE, SHADOW_PAUSE, SHADOW_QUEUE_MAX, SHADOW_TRIES, SHADOWS_MAX};
use crate::error::Error;

/// What came of slots' candidates, each with the trial that it was counted for.
type Reports = HashMap<Slot, (Arc<Trial>, Report)>;

/// The queue to the shadow's thread, and what came of it. Clones are the same.
#[derive(Clone, Debug)]
pub struct Shadow {
    all: Arc<Mutex<Reports>>,
    dropped: Arc<AtomicU64>,
    queue: SyncSender<Box<Work>>,
}

#[derive(Debug)]
struct Work {
    id: DecisionId,
    picture: Picture,
    parts: Vec<(Candidate, SlotDecision)>,
}

impl Shadow {
    /// Starts its thread, which ends when the last clone is gone.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start() -> Result<Self, Error> {
        let (queue, work) = sync_channel(SHADOW_QUEUE_MAX);
        let all = Arc::default();
        let shadow = Self { all: Arc::clone(&all), dropped: Arc::default(), queue };
        std::thread::Builder::new()
            .name("shadow".to_owned())
            .spawn(move || run(&work, &all))
            .map_err(Error::Thread)?;
        Ok(shadow)
    }

    /// Has the candidates of a decision asked, later. Never waits: what finds no place is dropped and counted.
    pub fn offer(&self, captured: &Captured) {
        let parts: Vec<_> = captured.parts.iter().filter_map(candidate).collect();
        if parts.is_empty() {
            return;
        }
        let work = Box::new(Work { id: captured.id, picture: captured.picture.clone(), parts });
        if let Err(TrySendError::Full(work) | TrySendError::Disconnected(work)) = self.queue.try_send(work) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            work.parts.iter().for_each(|(candidate, _)| candidate.trial.count_dropped(1));
        }
    }

    /// Comparisons that found no place in the queue.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// How a slot's candidate differed so far in one trial, and whom that would meet.
    #[must_use]
    pub fn report(&self, slot: &Slot, trial: &Arc<Trial>) -> Option<Report> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(slot).filter(|(counted, _)| Arc::ptr_eq(counted, trial)).map(|(_, report)| report.clone())
    }
}

/// The candidate that is to decide again, with what was said.
fn candidate(part: &Part) -> Option<(Candidate, SlotDecision)> {
    Some((part.lane.shadow()?.clone(), part.decision.clone()))
}

/// The shadow's thread. What wakes it: a decision to make again. What it writes: counts. A candidate that fails is counted, and
/// the next decision follows.
fn run(work: &Receiver<Box<Work>>, all: &Mutex<Reports>) {
    // Where it is not allowed, candidates are as eager as everything else.
    rustix::process::setpriority_process(None, SHADOW_NICE).ok();
    while let Ok(work) = work.recv() {
        for (Candidate { policy, trial, .. }, base) in &work.parts {
            let (other, took) = patiently(policy, base, &work.picture);
            let class = compare(base, &other);
            trial.count(Side::Candidate, other.said, took);
            trial.count_compared(class);
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            if all.len() >= SHADOWS_MAX && !all.contains_key(&base.slot) {
                // So many at once are leftovers: rollouts count anew.
                all.clear();
            }
            let (counted, report) =
                all.entry(base.slot.clone()).or_insert_with(|| (Arc::clone(trial), Report::default()));
            if !Arc::ptr_eq(counted, trial) {
                (*counted, *report) = (Arc::clone(trial), Report::default());
            }
            report.add(work.id, &work.picture, base, &other, class);
        }
    }
}

/// Asks a candidate; where it finds no time on this thread, again after a pause: nobody waits for it. Gives also how long the
/// answer took.
fn patiently(policy: &Policy, base: &SlotDecision, picture: &Picture) -> (SlotDecision, Duration) {
    let ask = || {
        let began = Instant::now();
        let said = evaluate(policy, base.slot.clone(), picture);
        (said, began.elapsed())
    };
    for _ in 0..SHADOW_TRIES {
        let answer = ask();
        if answer.0.said != Said::Undecided(Undecided::Busy) {
            return answer;
        }
        std::thread::park_timeout(SHADOW_PAUSE);
    }
    ask()
}
