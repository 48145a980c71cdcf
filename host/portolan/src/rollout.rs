//! Rollouts: which versions the slots run, as objects of the control store.
//!
//! `rollout/operator` and `rollout/tenant.NAME` say which version of its plugin a slot runs, and which one is on trial beside it;
//! the rules are [`portolan_core::rollout`]'s. This module reads and writes the objects; what a node makes of them is
//! `node/rollouts.rs`.

pub(crate) mod act;
pub(crate) mod backend;
mod command;
mod show;
pub(crate) mod words;

use std::collections::BTreeMap;
use std::sync::Arc;

use portolan_control::{Body, Key, Object, State};
use portolan_core::evidence::{Compared, Counts, Evidence};
use portolan_core::ids::{Digest, TenantName};
use portolan_core::rollout::{Limits, Phase, Rollout, Run, Verdict};
use portolan_policy::Slot;
use serde::{Deserialize, Serialize};

pub(crate) use self::command::run;
pub(crate) use self::words::permille;

/// The kind of objects that rollouts are.
pub(crate) const KIND: &str = "rollout";
/// The name of the operator's slot.
const OPERATOR: &str = "operator";
/// What comes before a tenant's name in the name of its slot.
const TENANT: &str = "tenant.";
/// Changes of a slot that are kept in its object; older ones are in the store's log.
const HISTORY_MAX: usize = 50;

/// The object of one slot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// On what grounds the last rollout was ended, if it was by a verdict.
    #[serde(default)]
    pub(crate) evidence: Option<Sheet>,
    /// What was done, the newest last.
    #[serde(default)]
    pub(crate) history: Vec<Entry>,
    /// Why it is as it is, in the words of whoever did it.
    #[serde(default)]
    pub(crate) message: String,
    #[serde(flatten)]
    pub(crate) rollout: Rollout,
    /// The slot's name.
    pub(crate) slot: String,
}

/// One change of a slot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) at_ms: u64,
    pub(crate) author: String,
    pub(crate) candidate: Option<Digest>,
    /// What was known of the candidate then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) evidence: Option<Sheet>,
    pub(crate) id: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) message: String,
    pub(crate) percent: u32,
    pub(crate) phase: Phase,
    pub(crate) stable: Option<Digest>,
    /// The command.
    pub(crate) what: String,
}

/// What a verdict rests on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sheet {
    pub(crate) at_ms: u64,
    pub(crate) candidate: Summary,
    pub(crate) compared: Compared,
    /// The thresholds.
    pub(crate) limits: Limits,
    /// The nodes whose counts these are.
    pub(crate) nodes: Vec<String>,
    pub(crate) stable: Summary,
    pub(crate) step: u32,
    pub(crate) verdict: Verdict,
}

/// What was counted of one policy, short enough to be kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) broken: u64,
    pub(crate) busy: u64,
    pub(crate) decisions: u64,
    pub(crate) out_of_range: u64,
    pub(crate) overruns: u64,
    pub(crate) p50_ns: Option<u64>,
    pub(crate) p99_ns: Option<u64>,
    pub(crate) traps: u64,
    pub(crate) unreadable: u64,
}

impl Record {
    /// Reads an object.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn read(body: &Body) -> Result<Self, String> {
        serde_json::from_value(serde_json::Value::Object(body.clone())).map_err(|error| error.to_string())
    }

    /// The object's body.
    pub(crate) fn body(&self) -> Body {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::Object(body)) => body,
            // A struct with keys of text always writes.
            _ => Body::default(),
        }
    }

    /// Notes what was done; the oldest make room.
    pub(crate) fn note(&mut self, entry: Entry) {
        self.history.push(entry);
        let more = self.history.len().saturating_sub(HISTORY_MAX);
        self.history.drain(..more);
    }
}

impl Sheet {
    /// What is to be kept of evidence.
    pub(crate) fn new(
        evidence: &Evidence,
        rollout: &Rollout,
        verdict: Verdict,
        nodes: Vec<String>,
        at_ms: u64,
    ) -> Self {
        Self {
            at_ms,
            candidate: Summary::of(&evidence.candidate),
            compared: evidence.compared.clone(),
            limits: rollout.limits.clone(),
            nodes,
            stable: Summary::of(&evidence.stable),
            step: rollout.step,
            verdict,
        }
    }

    /// Why the candidate has to go, in words; empty when it may stay.
    pub(crate) fn reasons(&self) -> String {
        match &self.verdict {
            Verdict::Bad { reasons } => {
                reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
            }
            Verdict::Good | Verdict::TooEarly { .. } => String::new(),
        }
    }
}

impl Summary {
    fn of(counts: &Counts) -> Self {
        Self {
            broken: counts.broken,
            busy: counts.busy,
            decisions: counts.decisions,
            out_of_range: counts.out_of_range,
            overruns: counts.overruns,
            p50_ns: counts.latency.quantile_ns(500),
            p99_ns: counts.latency.quantile_ns(990),
            traps: counts.traps,
            unreadable: counts.unreadable,
        }
    }

    /// Decisions that the policy owed and did not give, deadlines aside.
    pub(crate) const fn failed(&self) -> u64 {
        self.traps
            .saturating_add(self.out_of_range)
            .saturating_add(self.broken)
            .saturating_add(self.unreadable)
    }
}

/// The name of a slot, which is its object's too.
pub(crate) fn name(slot: &Slot) -> String {
    match slot {
        Slot::Operator => OPERATOR.to_owned(),
        Slot::Tenant(tenant) => format!("{TENANT}{tenant}"),
    }
}

/// The slot of a name.
///
/// # Errors
/// What a slot is called.
pub(crate) fn slot(name: &str) -> Result<Slot, String> {
    let wrong = || format!("`{name}` is no slot: it is `{OPERATOR}`, or `{TENANT}NAME` for a tenant's");
    if name == OPERATOR {
        return Ok(Slot::Operator);
    }
    let tenant = name.strip_prefix(TENANT).ok_or_else(wrong)?;
    TenantName::new(tenant).map(Slot::Tenant).map_err(|error| format!("{}: {error}", wrong()))
}

/// The key of a slot's object.
pub(crate) fn key(slot: &Slot) -> Result<Key, String> {
    Key::new(KIND, &name(slot)).map_err(|error| error.to_string())
}

/// The object of a slot, with its revision.
///
/// # Errors
/// When it does not read.
pub(crate) fn record(state: &State, slot: &Slot) -> Result<Option<(Record, u64)>, String> {
    let key = key(slot)?;
    let read = |object: &Arc<Object>| {
        let record = Record::read(&object.body);
        let record =
            record.map_err(|error| format!("{key} does not read: {error}; `portolan revert` goes back"))?;
        Ok((record, object.revision))
    };
    state.get(&key).map(read).transpose()
}

/// All rollouts of a state that read, by slot.
pub(crate) fn all(state: &State) -> BTreeMap<Slot, Rollout> {
    let records = state
        .of_kind(KIND)
        .filter_map(|(key, object)| Some((slot(key.name()).ok()?, Record::read(&object.body).ok()?.rollout)));
    records.collect()
}

/// The configuration that a version runs with: the slot's, or its own where it came with one that nobody has changed since.
pub(crate) fn config_of(run: &Run, of_slot: &Arc<str>) -> Arc<str> {
    match &run.config {
        Some(own) if own.replaces == *of_slot => Arc::clone(&own.json),
        _ => Arc::clone(of_slot),
    }
}
