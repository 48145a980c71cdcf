//! What a node makes of rollouts: candidates beside stable policies, evidence, and verdicts.
//!
//! The judge: woken each second and by every new generation. It reads what the trials counted and what nodes told, and takes a
//! candidate that is found bad off all requests of this node at once, whoever else agrees. The clerk: woken by the judge, and
//! each second while something is owed. It writes the abort into the store, so that all nodes take it off; when the store is
//! away it goes on trying, and the node goes on without the candidate.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use portolan_control::{NodeReport, RolloutReport, State};
use portolan_core::evidence::{Counts, Evidence, Trial};
use portolan_core::recording::Report as Differences;
use portolan_core::rollout::{Command, Phase, Reason, Rollout, Verdict, Window, judge};
use portolan_core::snapshot::Live;
use portolan_foundation::clock;
use portolan_foundation::shutdown::Shutdown;
use portolan_policy::{Slot, SlotReport};
use portolan_recorder::Recorder;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};

use super::intent::Intent;
use crate::rollout::act::{Asked, Author, Problem, act};
use crate::rollout::{self, Sheet};

/// How often evidence is looked at.
const JUDGE_EVERY: Duration = Duration::from_secs(1);
/// Rollouts that metrics tell apart.
const ROLLOUTS_MEASURED: usize = 32;
/// Rollouts that other nodes are told of: a report is small.
const REPORTED_MAX: usize = 32;
/// Of those in the shadow, so many of which it is told how they differ, with so many rows of each kind and so many decisions to
/// look at.
const DIFFERENCES_MAX: usize = 8;
const DIFFERENCE_ROWS: usize = 8;
const DIFFERENCE_SAMPLES: usize = 3;
/// A candidate that might run later is given up after so many tries.
const CANDIDATE_TRIES: u32 = 3;

/// The rollouts that this node takes part in. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rollouts(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Who asks candidates in the shadow.
    recorder: OnceLock<Recorder>,
    /// Wakes the clerk.
    owed: Notify,
    /// Wakes the reconciler.
    taken_off: Arc<Notify>,
    watched: Mutex<Watched>,
}

#[derive(Debug, Default)]
struct Watched {
    /// Objects that were read, by their revisions: reading ten thousand takes its time.
    read: HashMap<Slot, (u64, Rollout)>,
    /// Candidates that were taken off here, for whoever tells of it.
    condemned: Vec<Condemned>,
    /// The newest generation that was followed.
    seen: u64,
    /// Live rollouts.
    trials: BTreeMap<Slot, Watch>,
}

/// One live rollout.
#[derive(Debug)]
struct Watch {
    /// Why the candidate had to go here; the store may not know yet.
    grounds: Option<Sheet>,
    rollout: Rollout,
    trial: Arc<Trial>,
    window: Window,
}

/// A candidate that this node asks nothing any more.
#[derive(Clone, Debug)]
pub(crate) struct Condemned {
    pub(crate) id: String,
    pub(crate) reason: String,
    pub(crate) slot: Slot,
    pub(crate) version: String,
}

/// What a slot is to run by its rollout.
#[derive(Clone, Debug)]
pub(crate) struct InSlot {
    pub(crate) rollout: Rollout,
    /// Where the candidate is counted; none where nothing is on trial.
    pub(crate) trial: Option<Arc<Trial>>,
}

/// A rollout as this node's status tells of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RolloutStatus {
    pub(crate) id: String,
    pub(crate) here: Sheet,
    pub(crate) percent: u32,
    pub(crate) phase: &'static str,
    pub(crate) slot: String,
    /// Why the candidate is asked nothing here, though the store may want it.
    pub(crate) stopped: Option<String>,
    pub(crate) version: String,
}

impl Rollouts {
    /// From now on it is known how candidates in the shadow differ.
    pub(crate) fn compare_with(&self, recorder: Recorder) {
        self.0.recorder.set(recorder).ok();
    }

    /// What is to wake the reconciler.
    pub(crate) fn taken_off(&self) -> Arc<Notify> {
        Arc::clone(&self.0.taken_off)
    }

    /// Takes over what a state says; gives what each slot is to run. A candidate that was found bad here is none any more.
    pub(crate) fn follow(&self, state: Option<&State>) -> HashMap<Slot, InSlot> {
        let mut watched = self.watched();
        if let Some(state) = state.filter(|state| state.generation() >= watched.seen) {
            watched.take(state);
        }
        let Watched { read, trials, .. } = &*watched;
        read.iter()
            .map(|(slot, (_, rollout))| {
                let watch = trials.get(slot).filter(|watch| watch.grounds.is_none());
                let trial = watch.map(|watch| Arc::clone(&watch.trial));
                (slot.clone(), InSlot { rollout: rollout.clone(), trial })
            })
            .collect()
    }

    /// Looks at how candidates stand in their slots: one that cannot run here has to go.
    pub(crate) fn look(&self, reports: &[SlotReport]) {
        let mut watched = self.watched();
        let mut found = false;
        for report in reports {
            let Some(candidate) = report.candidate.as_ref() else { continue };
            let Some(refused) = &candidate.refused else { continue };
            let Some(watch) = watched.trials.get_mut(&report.slot) else { continue };
            let is_final = !refused.transient || candidate.refusals >= CANDIDATE_TRIES;
            if is_final && watch.grounds.is_none() {
                let why = format!("refused at {}: {}; {}", refused.stage, refused.reason, refused.fix);
                watch.condemn(Verdict::Bad { reasons: vec![Reason::Refused { why }] }, &report.slot, None);
                let condemned = watch.told(&report.slot);
                watched.note(condemned);
                found = true;
            }
        }
        drop(watched);
        if found {
            self.wake();
        }
    }

    /// Candidates that were taken off here since the last question.
    pub(crate) fn condemned(&self) -> Vec<Condemned> {
        std::mem::take(&mut self.watched().condemned)
    }

    /// What other nodes are told.
    pub(crate) fn reports(&self) -> Vec<RolloutReport> {
        let watched = self.watched();
        let reports = watched.trials.iter().take(REPORTED_MAX);
        let mut differing = 0;
        reports
            .map(|(slot, watch)| RolloutReport {
                differences: self.differences(slot, watch).filter(|_| {
                    differing += 1;
                    differing <= DIFFERENCES_MAX
                }),
                evidence: watch.trial.read(),
                id: watch.rollout.id.clone(),
                name: rollout::name(slot),
                step: watch.rollout.step,
                stopped: watch.grounds.as_ref().map(Sheet::reasons),
            })
            .collect()
    }

    /// How a candidate in the shadow differs here, in short.
    fn differences(&self, slot: &Slot, watch: &Watch) -> Option<Box<Differences>> {
        if watch.rollout.phase != Phase::Shadow {
            return None;
        }
        let report = self.0.recorder.get()?.shadow().report(slot, &watch.trial)?;
        Some(Box::new(report.shortened(DIFFERENCE_ROWS, DIFFERENCE_SAMPLES)))
    }

    /// How they stand here.
    pub(crate) fn status(&self, node: &str) -> Vec<RolloutStatus> {
        let watched = self.watched();
        let status = watched.trials.iter().map(|(slot, watch)| {
            let evidence = watch.trial.read();
            let verdict = judge(&evidence, &watch.rollout.limits);
            let Rollout { candidate, id, percent, phase, plugin, .. } = &watch.rollout;
            let version = candidate.as_ref().map_or_else(String::new, |run| format!("{plugin}, {run}"));
            RolloutStatus {
                id: id.clone(),
                here: Sheet::new(&evidence, &watch.rollout, verdict, vec![node.to_owned()], clock::unix_ms()),
                percent: *percent,
                phase: phase.as_str(),
                slot: rollout::name(slot),
                stopped: watch.grounds.as_ref().map(Sheet::reasons),
                version,
            }
        });
        status.collect()
    }

    /// Judges until the shutdown.
    pub(crate) async fn judge(self, live: Arc<Live>, intent: Intent, node: String, shutdown: Shutdown) {
        let mut news = intent.news();
        let mut ticks = interval(JUDGE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // All branches are cancel-safe: a notification that nobody took stays.
            tokio::select! {
                () = shutdown.begun() => return,
                () = news.changed() => {
                    // A candidate that is wanted no more is asked nothing from now on, whatever the reconciler is busy with.
                    self.follow(intent.state().as_deref());
                }
                _ = ticks.tick() => {
                    if self.judge_once(&live, &intent.nodes(), &node) {
                        self.wake();
                    }
                    intent.report_rollouts(|| self.reports());
                }
            }
        }
    }

    /// One look at all evidence; `true` when a candidate was found bad.
    fn judge_once(&self, live: &Live, nodes: &[NodeReport], node: &str) -> bool {
        let snapshot = live.load();
        let mut found = Vec::new();
        let mut watched = self.watched();
        for (slot, watch) in &mut watched.trials {
            if watch.grounds.is_some() {
                continue;
            }
            let policies = &snapshot.policies;
            let lane = match slot {
                Slot::Operator => policies.operator.as_ref(),
                Slot::Tenant(tenant) => policies.tenants.get(tenant),
            };
            let candidate = lane.and_then(|lane| lane.candidate.as_ref());
            let own = candidate.filter(|candidate| Arc::ptr_eq(&candidate.trial, &watch.trial));
            let impure = own.is_some_and(|candidate| candidate.policy.decider.is_impure());
            if watch.judge(slot, impure, nodes, node) {
                found.push(watch.told(slot));
            }
        }
        let any = !found.is_empty();
        found.into_iter().for_each(|condemned| watched.note(condemned));
        any
    }

    fn wake(&self) {
        self.0.taken_off.notify_one();
        self.0.owed.notify_one();
    }

    /// Writes verdicts into the store until the shutdown.
    pub(crate) async fn write_down(self, intent: Intent, node: String, shutdown: Shutdown) {
        let Intent::Following(store) = &intent else { return };
        let mut told = false;
        loop {
            let owed = self.owed();
            let pause = async {
                if owed.is_empty() {
                    std::future::pending().await
                } else {
                    tokio::time::sleep(JUDGE_EVERY).await
                }
            };
            let mut failed = false;
            for (slot, id, sheet) in &owed {
                // Only the rollout that was judged: another may have begun meanwhile.
                let current = rollout::record(&store.state(), slot).ok().flatten();
                let is_same = |record: &rollout::Record| record.rollout.id == *id && record.rollout.is_live();
                let Some((_, revision)) = current.filter(|(record, _)| is_same(record)) else { continue };
                let asked = Asked {
                    author: Author { message: sheet.reasons(), name: format!("node {node}") },
                    command: Command::Abort,
                    evidence: Some(sheet.clone()),
                    expect: Some(revision),
                    slot: slot.clone(),
                };
                match act(store, None, &asked).await {
                    Ok(done) => {
                        tracing::warn!(%slot, generation = done.generation, "the rollout is taken back: {}", sheet.reasons());
                    }
                    // Another node was faster, or an operator.
                    Err(Problem::Changed(_) | Problem::Conflict(_)) => {}
                    Err(problem) => {
                        if !told {
                            tracing::warn!(%slot, "the verdict waits for the store, the candidate is off here: {problem}");
                        }
                        failed = true;
                    }
                }
            }
            told = failed;
            // Both branches are cancel-safe.
            tokio::select! {
                () = shutdown.begun() => return,
                () = self.0.owed.notified() => {}
                () = pause => {}
            }
        }
    }

    /// Verdicts that the store may not know: those of rollouts that are still live.
    fn owed(&self) -> Vec<(Slot, String, Sheet)> {
        let watched = self.watched();
        let owed = watched.trials.iter();
        owed.filter_map(|(slot, watch)| {
            Some((slot.clone(), watch.rollout.id.clone(), watch.grounds.clone()?))
        })
        .collect()
    }

    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.0.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    /// Keeps for whoever tells of it; of more than anybody reads, the first ones.
    fn note(&mut self, condemned: Condemned) {
        if self.condemned.len() < REPORTED_MAX {
            self.condemned.push(condemned);
        }
    }

    fn take(&mut self, state: &State) {
        self.seen = state.generation();
        let mut last = std::mem::take(&mut self.read);
        for (key, object) in state.of_kind(rollout::KIND) {
            let Ok(slot) = rollout::slot(key.name()) else { continue };
            let known = last.remove(&slot).filter(|(revision, _)| *revision == object.revision);
            let read = match known {
                Some(known) => known,
                None => match rollout::Record::read(&object.body) {
                    Ok(record) => (object.revision, record.rollout),
                    Err(error) => {
                        tracing::warn!(%key, "does not read, and is left alone: {error}");
                        continue;
                    }
                },
            };
            self.read.insert(slot, read);
        }
        let Self { read, trials, .. } = self;
        trials.retain(|slot, watch| {
            let goes_on = read
                .get(slot)
                .is_some_and(|(_, rollout)| rollout.is_live() && rollout.id == watch.rollout.id);
            if !goes_on {
                watch.trial.stop();
            }
            goes_on
        });
        for (slot, (_, rollout)) in read.iter().filter(|(_, (_, rollout))| rollout.is_live()) {
            match trials.get_mut(slot) {
                Some(watch) => watch.go_on(rollout),
                None => _ = trials.insert(slot.clone(), Watch::new(rollout)),
            }
        }
    }
}

impl Watch {
    fn new(rollout: &Rollout) -> Self {
        Self { grounds: None, rollout: rollout.clone(), trial: Arc::default(), window: Window::default() }
    }

    /// The same rollout in another state. Another step is counted anew; a verdict stays.
    fn go_on(&mut self, rollout: &Rollout) {
        if self.rollout.step != rollout.step && self.grounds.is_none() {
            // Requests that are under way count for the step that they began in.
            *self = Self::new(rollout);
        }
        self.rollout = rollout.clone();
    }

    fn judge(&mut self, slot: &Slot, impure: bool, nodes: &[NodeReport], node: &str) -> bool {
        let limits = self.rollout.limits.clone();
        let total = self.trial.read();
        let latest = self.window.slide(&total, limits.min_decisions);
        let own =
            if impure { Verdict::Bad { reasons: vec![Reason::Impure] } } else { judge(&latest, &limits) };
        if matches!(own, Verdict::Bad { .. }) {
            self.condemn(own, slot, Some((&latest, vec![node.to_owned()])));
            return true;
        }
        // Where each node has seen little, all together may have seen enough.
        let (mut all, mut names) = (total, vec![node.to_owned()]);
        for other in nodes.iter().filter(|other| other.name != node) {
            let name = rollout::name(slot);
            let of_this = |report: &&RolloutReport| {
                report.name == name && report.id == self.rollout.id && report.step == self.rollout.step
            };
            if let Some(report) = other.rollouts.iter().find(of_this) {
                all.add(&report.evidence);
                names.push(other.name.clone());
            }
        }
        let verdict = judge(&all, &limits);
        let bad = matches!(verdict, Verdict::Bad { .. });
        if bad {
            self.condemn(verdict, slot, Some((&all, names)));
        }
        bad
    }

    /// What is told of a candidate that was taken off.
    fn told(&self, slot: &Slot) -> Condemned {
        let Rollout { candidate, id, plugin, .. } = &self.rollout;
        Condemned {
            id: id.clone(),
            reason: self.grounds.as_ref().map(Sheet::reasons).unwrap_or_default(),
            slot: slot.clone(),
            version: candidate.as_ref().map_or_else(String::new, |run| format!("{plugin}, {run}")),
        }
    }

    /// The candidate is asked nothing any more on this node, from this moment on.
    fn condemn(&mut self, verdict: Verdict, slot: &Slot, by: Option<(&Evidence, Vec<String>)>) {
        self.trial.stop();
        let own = self.trial.read();
        let (evidence, nodes) = by.unwrap_or((&own, Vec::new()));
        let sheet = Sheet::new(evidence, &self.rollout, verdict, nodes, clock::unix_ms());
        let Counts { broken, out_of_range, overruns, traps, unreadable, .. } = evidence.candidate;
        tracing::warn!(
            %slot, rollout = self.rollout.id, traps, out_of_range, unreadable, overruns, broken,
            "the candidate is taken off on this node: {}", sheet.reasons()
        );
        self.grounds = Some(sheet);
    }
}

/// What is on trial, as Prometheus reads it.
pub(super) fn metrics(text: &mut String, rollouts: &[RolloutStatus]) {
    use std::fmt::Write as _;
    type Row = (&'static str, &'static str, &'static str, fn(&RolloutStatus) -> u64);
    const ROWS: [Row; 6] = [
        ("weight", "gauge", "Percent of requests that a candidate answers.", |rollout| match rollout.phase {
            "canary" if rollout.stopped.is_none() => u64::from(rollout.percent),
            _ => 0,
        }),
        ("candidate_decisions", "counter", "Decisions of a candidate.", |rollout| {
            rollout.here.candidate.decisions
        }),
        ("candidate_traps", "counter", "Decisions that a candidate owed and did not give.", |rollout| {
            rollout.here.candidate.failed()
        }),
        (
            "candidate_overruns",
            "counter",
            "Decisions of a candidate past their fuel or deadline.",
            |rollout| rollout.here.candidate.overruns,
        ),
        ("divergence", "counter", "Answers of a shadow that differ from those given.", |rollout| {
            rollout.here.compared.classes.divergences()
        }),
        ("shadow_dropped", "counter", "Requests that found no place in a shadow's queue.", |rollout| {
            rollout.here.compared.dropped
        }),
    ];
    // Writing to a string cannot fail.
    writeln!(
        text,
        "# HELP portolan_rollout_lanes Slots with a candidate.\n# TYPE portolan_rollout_lanes gauge\nportolan_rollout_lanes {}",
        rollouts.len()
    )
    .ok();
    for (name, kind, help, value) in ROWS {
        writeln!(text, "# HELP portolan_rollout_{name} {help}\n# TYPE portolan_rollout_{name} {kind}").ok();
        // A label for each of ten thousand tenants would be more than anybody scrapes.
        for rollout in rollouts.iter().take(ROLLOUTS_MEASURED) {
            let (slot, id) = (&rollout.slot, &rollout.id);
            writeln!(text, "portolan_rollout_{name}{{slot=\"{slot}\",rollout=\"{id}\"}} {}", value(rollout))
                .ok();
        }
    }
}
