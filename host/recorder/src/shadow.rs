//! Candidates in the shadow: asked about what was decided already, on a thread of their own, and compared. Their answers are
//! never used.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use portolan_core::decide::{Said, Undecided};
use portolan_core::ids::Digest;
use portolan_core::lane::{Candidate, Part as Plays, Slot};
use portolan_core::recording::{
    Captured, DecisionId, Part, Picture, Report, SlotDecision, compare, evaluate,
};
use portolan_core::snapshot::Policy;
use serde::Serialize;

use crate::defaults::{SHADOW_NICE, SHADOW_PAUSE, SHADOW_QUEUE_MAX, SHADOW_TRIES, SHADOWS_MAX};
use crate::error::Error;

/// Buckets of times: the first up to a microsecond, each next up to twice as long, the last for all the rest.
pub const LATENCY_BUCKETS: usize = 24;

/// What comparisons of one candidate gave.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// All comparisons, by class and by whom they would meet.
    pub report: Report,
    /// Calls of the candidate that trapped, or answered what their rule does not have.
    pub traps: u64,
    /// Calls that ran past their limits.
    pub overruns: u64,
    /// Calls that found no time at all.
    pub busy: u64,
    /// How long decisions took, in buckets by microseconds.
    pub latency: [u64; LATENCY_BUCKETS],
}

impl Compared {
    /// The time within which so many of a thousand decisions were made, in microseconds; the upper end of its bucket.
    #[must_use]
    pub fn latency_us(&self, permille: u64) -> Option<u64> {
        let total: u64 = self.latency.iter().sum();
        let wanted = total.saturating_mul(permille).div_ceil(1_000).max(1);
        let mut seen = 0;
        let bucket = self.latency.iter().position(|count| {
            seen += count;
            seen >= wanted
        })?;
        Some(1 << bucket)
    }

    fn note(&mut self, took_us: u64, said: Said) {
        let bucket = (64 - took_us.leading_zeros()) as usize;
        if let Some(count) = self.latency.get_mut(bucket.min(LATENCY_BUCKETS - 1)) {
            *count += 1;
        }
        match said {
            Said::Undecided(Undecided::Trapped | Undecided::OutOfRange) => self.traps += 1,
            Said::Undecided(Undecided::Overrun) => self.overruns += 1,
            Said::Undecided(Undecided::Broken | Undecided::Busy | Undecided::Demoted | Undecided::Empty) => {
                self.busy += 1;
            }
            Said::Index(_) | Said::NotText | Said::Table => {}
        }
    }
}

/// Who runs where: a slot and its candidate's version.
type Key = (Slot, Digest);

/// The queue to the shadow's thread, and what came of it. Clones are the same.
#[derive(Clone, Debug)]
pub struct Shadow {
    all: Arc<Mutex<HashMap<Key, Compared>>>,
    dropped: Arc<AtomicU64>,
    queue: SyncSender<Box<Work>>,
}

#[derive(Debug)]
struct Work {
    id: DecisionId,
    picture: Picture,
    parts: Vec<(Arc<Policy>, SlotDecision)>,
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
        if self.queue.try_send(work).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Comparisons that found no place in the queue.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// What came of a slot's candidate so far.
    #[must_use]
    pub fn compared(&self, slot: &Slot, candidate: Digest) -> Option<Compared> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&(slot.clone(), candidate)).cloned()
    }

    /// Forgets what came of a slot's candidate: its rollout has ended, or begins anew.
    pub fn forget(&self, slot: &Slot, candidate: Digest) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&(slot.clone(), candidate));
    }
}

/// The candidate that is to decide again, with what was said.
fn candidate(part: &Part) -> Option<(Arc<Policy>, SlotDecision)> {
    match &part.lane.candidate {
        Some(Candidate { policy, part: Plays::Shadow }) => Some((Arc::clone(policy), part.decision.clone())),
        _ => None,
    }
}

/// The shadow's thread. What wakes it: a decision to make again. What it writes: counts. A candidate that fails is counted, and
/// the next decision follows.
fn run(work: &Receiver<Box<Work>>, all: &Mutex<HashMap<Key, Compared>>) {
    // Where it is not allowed, candidates are as eager as everything else.
    rustix::process::setpriority_process(None, SHADOW_NICE).ok();
    while let Ok(work) = work.recv() {
        for (policy, base) in &work.parts {
            let (other, took_us) = patiently(policy, base, &work.picture);
            let class = compare(base, &other);
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            let key = (base.slot.clone(), policy.digest);
            if all.len() >= SHADOWS_MAX && !all.contains_key(&key) {
                // So many at once are leftovers: rollouts count anew.
                all.clear();
            }
            let compared = all.entry(key).or_default();
            compared.note(took_us, other.said);
            compared.report.add(work.id, &work.picture, base, &other, class);
        }
    }
}

/// Asks a candidate; where it finds no time on this thread, again after a pause: nobody waits for it. Gives also how long the
/// answer took, in microseconds.
fn patiently(policy: &Policy, base: &SlotDecision, picture: &Picture) -> (SlotDecision, u64) {
    let ask = || {
        let began = Instant::now();
        let said = evaluate(policy, base.slot.clone(), picture);
        (said, u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX))
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
