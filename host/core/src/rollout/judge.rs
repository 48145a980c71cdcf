//! Verdicts: from what was counted and what is allowed, to whether a candidate may stay.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::evidence::Evidence;

/// What a candidate may do wrong. A share that is exactly at its limit is allowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Of a thousand comparable answers, how many may differ; none for all.
    pub divergence_permille: Option<u32>,
    /// Before so many decisions there is no verdict. A share of few requests says nothing.
    pub min_decisions: u64,
    /// Of a thousand calls, how many may run past their fuel or deadline.
    pub overruns_permille: u32,
    /// Within how many microseconds 99 of 100 decisions have to come; none for any time.
    pub p99_us: Option<u64>,
    /// Of a thousand decisions, how many may fail otherwise: traps, answers that do not exist, an open breaker.
    pub traps_permille: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // A new version is made to answer otherwise: how much is for whoever rolls it out to say.
            divergence_permille: None,
            // One failure in 500 is already twice the share that is allowed.
            min_decisions: 500,
            // Deadlines are also missed where the machine is busy with something else.
            overruns_permille: 5,
            p99_us: None,
            traps_permille: 1,
        }
    }
}

/// What is to be thought of a candidate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
pub enum Verdict {
    /// It has to go.
    Bad {
        /// Why.
        reasons: Vec<Reason>,
    },
    /// It keeps its limits.
    Good,
    /// Too few decisions to say.
    TooEarly {
        /// So many there are.
        decisions: u64,
        /// So many there have to be.
        needed: u64,
    },
}

/// Why a candidate has to go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "reason")]
pub enum Reason {
    /// It answers too much otherwise.
    Divergence {
        /// Answers that differ.
        diverged: u64,
        /// Comparable answers.
        compared: u64,
        /// The limit, in thousandths.
        limit_permille: u32,
    },
    /// Asked twice, it answered twice differently: nothing that was counted of it says what it will do.
    Impure,
    /// It takes too long.
    Latency {
        /// 99 of 100 decisions came within so many microseconds.
        p99_us: u64,
        /// The limit.
        limit_us: u64,
    },
    /// It misses its deadline.
    Overruns {
        /// Calls past fuel or deadline.
        overruns: u64,
        /// Of so many decisions.
        decisions: u64,
        /// The limit, in thousandths.
        limit_permille: u32,
    },
    /// A node cannot run it.
    Refused {
        /// What the node said.
        why: String,
    },
    /// It fails.
    Traps {
        /// Decisions that failed.
        failed: u64,
        /// Of so many.
        decisions: u64,
        /// The limit, in thousandths.
        limit_permille: u32,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Divergence { diverged, compared, limit_permille } => {
                write!(f, "{diverged} of {compared} answers differ; {limit_permille} of 1000 may")
            }
            Self::Impure => f.write_str("it is no pure function: asked again, it answers otherwise"),
            Self::Latency { p99_us, limit_us } => {
                write!(f, "99 of 100 decisions take up to {p99_us} us; {limit_us} us are allowed")
            }
            Self::Overruns { overruns, decisions, limit_permille } => {
                write!(
                    f,
                    "{overruns} of {decisions} decisions ran past their limit of time; {limit_permille} of 1000 may"
                )
            }
            Self::Refused { why } => write!(f, "it cannot run: {why}"),
            Self::Traps { failed, decisions, limit_permille } => {
                write!(f, "{failed} of {decisions} decisions failed; {limit_permille} of 1000 may")
            }
        }
    }
}

/// The verdict on what was counted.
#[must_use]
pub fn judge(evidence: &Evidence, limits: &Limits) -> Verdict {
    let Evidence { candidate, compared, .. } = evidence;
    // Where the machine had no time for it, nothing was learned.
    let decisions = candidate.asked();
    if decisions < limits.min_decisions.max(1) {
        return Verdict::TooEarly { decisions, needed: limits.min_decisions.max(1) };
    }
    let mut reasons = Vec::new();
    let (failed, limit_permille) = (candidate.failed(), limits.traps_permille);
    if is_over(failed, decisions, limit_permille) {
        reasons.push(Reason::Traps { failed, decisions, limit_permille });
    }
    let (overruns, limit_permille) = (candidate.overruns, limits.overruns_permille);
    if is_over(overruns, decisions, limit_permille) {
        reasons.push(Reason::Overruns { overruns, decisions, limit_permille });
    }
    let p99_us = candidate.latency.quantile_ns(990).map(|ns| ns / 1_000);
    if let (Some(p99_us), Some(limit_us)) = (p99_us, limits.p99_us)
        && p99_us > limit_us
    {
        reasons.push(Reason::Latency { p99_us, limit_us });
    }
    let (diverged, comparable) = (compared.classes.divergences(), compared.classes.comparable());
    if let Some(limit_permille) = limits.divergence_permille
        && comparable >= limits.min_decisions.max(1)
        && is_over(diverged, comparable, limit_permille)
    {
        reasons.push(Reason::Divergence { diverged, compared: comparable, limit_permille });
    }
    if reasons.is_empty() { Verdict::Good } else { Verdict::Bad { reasons } }
}

fn is_over(part: u64, whole: u64, permille: u32) -> bool {
    u128::from(part) * 1_000 > u128::from(whole) * u128::from(permille)
}

/// The latest evidence that is enough for a verdict: a candidate that has been good for long is not forgiven for that.
#[derive(Clone, Debug, Default)]
pub struct Window {
    base: Evidence,
    middle: Evidence,
}

impl Window {
    /// What is to be judged now, given all that was counted until now. Of decisions it has at least `min` as soon as there were
    /// as many, and no reading is passed over.
    pub fn slide(&mut self, now: &Evidence, min: u64) -> Evidence {
        if now.since(&self.middle).candidate.asked() >= min.max(1) {
            self.base = std::mem::replace(&mut self.middle, now.clone());
        }
        now.since(&self.base)
    }
}
