//! Which decisions are handed over to be kept or compared, and what of them.

use std::sync::Arc;

use http::HeaderName;
use portolan_core::attribute::Attribute;
use portolan_core::decide::Asked;
use portolan_core::lane::{Side, Slot};
use portolan_core::recording::{Captured, DecisionId, Does, Outcome, Part, Picture, SlotDecision};
use portolan_core::snapshot::{Policy, Snapshot};
use portolan_foundation::random;

use crate::decide::{Decision, Draw, Heard, Note, lanes};
use crate::inbound::Inbound;
use crate::server::Worker;

/// What words in `portolan-debug` are signed for.
pub const DEBUG_USE: &str = "debug";
/// The request header with a signed word: its sender is told the decision's id.
static DEBUG: HeaderName = HeaderName::from_static("portolan-debug");

/// Looks at what was decided, before anything of the request is changed. `failed` when it could not be decided.
pub(crate) fn after_decision(
    worker: &Worker,
    snapshot: &Snapshot,
    inbound: &Inbound,
    decision: &Decision,
    draw: Draw,
    failed: bool,
) -> Option<(Box<Captured>, bool)> {
    let recorder = &worker.recorder;
    let shadow = decision.shadowed && recorder.shadows(draw.seed);
    let (mut keep, mut told) = (false, false);
    if recorder.is_on() {
        told = is_granted(worker, inbound, draw.now_ms);
        keep = told
            || recorder.samples(draw.seed)
            || ((failed || decision.undecided.is_some()) && recorder.keeps_failures());
    }
    if !keep && !shadow {
        return None;
    }
    let mut captured = capture(snapshot, inbound, decision, draw);
    captured.keep = keep;
    captured.shadow = shadow;
    Some((Box::new(captured), told))
}

/// The same for a request that went wrong later.
pub(crate) fn after_failure(
    worker: &Worker,
    snapshot: &Snapshot,
    inbound: &Inbound,
    decision: &Decision,
    draw: Draw,
) -> Option<Box<Captured>> {
    if !worker.recorder.is_on() || !worker.recorder.keeps_failures() {
        return None;
    }
    let mut captured = capture(snapshot, inbound, decision, draw);
    captured.keep = true;
    Some(Box::new(captured))
}

/// May the sender be told the decision's id? Only a signed word says so, never where it comes from.
fn is_granted(worker: &Worker, inbound: &Inbound, now_ms: u64) -> bool {
    let word = || inbound.headers.get(&DEBUG)?.to_str().ok();
    let sealed = || worker.debug.as_ref()?.unseal(word()?, DEBUG_USE, now_ms);
    sealed().is_some_and(|sealed| {
        let own = inbound.tenant.as_ref().map(|tenant| tenant.as_str());
        sealed.tenant.is_none() || sealed.tenant.as_deref() == own
    })
}

fn capture(snapshot: &Snapshot, inbound: &Inbound, decision: &Decision, draw: Draw) -> Captured {
    let tenant = inbound.tenant.as_ref();
    let looked_at = lanes(snapshot, tenant).flat_map(|lane| {
        let candidate = lane.candidate.iter().map(|candidate| &candidate.policy);
        std::iter::once(&lane.stable).chain(candidate).flat_map(|policy| policy.table.attributes())
    });
    // What the gateway itself strips is gone where a request failed later.
    let looked_at = looked_at
        .filter(|attribute| !matches!(attribute, Attribute::Header(name) if name.starts_with("portolan-")));
    let picture = Picture::take(inbound, looked_at, draw.now_ms, draw.seed);
    let mut parts = Vec::with_capacity(2);
    for ((number, lane), note) in lanes(snapshot, tenant).enumerate().zip(&decision.notes) {
        let policy = match (note.side, &lane.candidate) {
            (Side::Candidate, Some(candidate)) => &candidate.policy,
            _ => &lane.stable,
        };
        let slot = match tenant {
            Some(tenant) if number > 0 || snapshot.policies.operator.is_none() => {
                Slot::Tenant(tenant.clone())
            }
            _ => Slot::Operator,
        };
        let asked = asked(note, policy, inbound, draw.seed);
        let decision = SlotDecision::of(policy, slot, asked.as_ref());
        let ends = decision.answers.last().is_none_or(|last| last.does != Does::Next);
        parts.push(Part { lane: Arc::clone(lane), policy: Arc::clone(policy), decision });
        if ends {
            break;
        }
    }
    let id = DecisionId { at_ms: draw.now_ms, number: random::u64() };
    let outcome = Outcome::default();
    Captured { id, generation: snapshot.generation, picture, parts, outcome, keep: false, shadow: false }
}

/// What a policy said, from what was noted of it; none where no rule matched.
fn asked(note: &Note, policy: &Policy, inbound: &Inbound, seed: u64) -> Option<Asked> {
    let Heard { rule, said, fuel } = note.heard?;
    let order = portolan_core::decide::order(&policy.table, rule, inbound, seed, said);
    Some(Asked { rule, order, said, fuel })
}
