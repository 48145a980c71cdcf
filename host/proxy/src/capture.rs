//! Which decisions are handed over to be kept or compared, and what of them.

use std::sync::Arc;

use http::HeaderName;
use portolan_core::attribute::Attribute;
use portolan_core::decide::Asked;
use portolan_core::lane::{Candidate, Lane, Part as Plays, Slot};
use portolan_core::recording::{Captured, DecisionId, Does, Outcome, Part, Picture, SlotDecision};
use portolan_core::snapshot::{Policy, Snapshot};
use portolan_foundation::random;

use crate::decide::{Decision, Note, lanes};
use crate::inbound::Inbound;
use crate::server::Worker;

/// What words in `portolan-debug` are signed for.
pub const DEBUG_USE: &str = "debug";
/// The request header with a signed word: its sender is told the decision's id.
static DEBUG: HeaderName = HeaderName::from_static("portolan-debug");

/// When and by what chance a request is decided.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chance {
    pub(crate) seed: u64,
    pub(crate) now_ms: u64,
}

/// Looks at what was decided, before anything of the request is changed. `failed` when it could not be decided.
pub(crate) fn after_decision(
    worker: &Worker,
    snapshot: &Snapshot,
    inbound: &Inbound,
    decision: &Decision,
    chance: Chance,
    failed: bool,
) -> Option<(Box<Captured>, bool)> {
    let recorder = &worker.recorder;
    let shadow = decision.shadowed && recorder.shadows(chance.seed);
    let (mut keep, mut told) = (false, false);
    if recorder.is_on() {
        told = is_granted(worker, inbound, chance.now_ms);
        keep = told
            || recorder.samples(chance.seed)
            || ((failed || decision.undecided.is_some()) && recorder.keeps_failures());
    }
    if !keep && !shadow {
        return None;
    }
    let mut captured = capture(snapshot, inbound, decision, chance);
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
    chance: Chance,
) -> Option<Box<Captured>> {
    if !worker.recorder.is_on() || !worker.recorder.keeps_failures() {
        return None;
    }
    let mut captured = capture(snapshot, inbound, decision, chance);
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

fn capture(snapshot: &Snapshot, inbound: &Inbound, decision: &Decision, chance: Chance) -> Captured {
    let tenant = inbound.tenant.as_ref();
    let looked_at = lanes(snapshot, tenant).flat_map(|lane| {
        let candidate = lane.candidate.iter().map(|candidate| &candidate.policy);
        std::iter::once(&lane.stable).chain(candidate).flat_map(|policy| policy.table.attributes())
    });
    // What the gateway itself strips is gone where a request failed later.
    let looked_at = looked_at
        .filter(|attribute| !matches!(attribute, Attribute::Header(name) if name.starts_with("portolan-")));
    let picture = Picture::take(inbound, looked_at, chance.now_ms, chance.seed);
    let mut parts = Vec::with_capacity(2);
    for (number, lane) in lanes(snapshot, tenant).enumerate() {
        let policy = lane.choose(tenant, &snapshot.topology.local, inbound.client);
        let slot = match tenant {
            Some(tenant) if number > 0 || snapshot.policies.operator.is_none() => {
                Slot::Tenant(tenant.clone())
            }
            _ => Slot::Operator,
        };
        let asked = asked(decision, number, policy, inbound, chance.seed);
        let decision = SlotDecision::of(policy, slot, asked.as_ref());
        let ends = decision.answers.last().is_none_or(|last| last.does != Does::Next);
        parts.push(Part { lane: Arc::clone(lane), policy: Arc::clone(policy), decision });
        if ends {
            break;
        }
    }
    let id = DecisionId { at_ms: chance.now_ms, number: random::u64() };
    let outcome = Outcome::default();
    Captured { id, generation: snapshot.generation, picture, parts, outcome, keep: false, shadow: false }
}

/// What a policy said, from what was noted of it; none where no rule matched.
fn asked(decision: &Decision, number: usize, policy: &Policy, inbound: &Inbound, seed: u64) -> Option<Asked> {
    let Note { rule, said, fuel, .. } = *decision.notes.iter().find(|note| note.lane == number)?;
    let order = portolan_core::decide::order(&policy.table, rule, inbound, seed, said);
    Some(Asked { rule, order, said, fuel })
}

/// Is a candidate of the lane to decide again in the shadow?
pub(crate) const fn is_shadowed(lane: &Lane) -> bool {
    matches!(lane.candidate, Some(Candidate { part: Plays::Shadow, .. }))
}
