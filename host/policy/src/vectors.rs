//! Golden vectors: questions with the answers that the author of a policy expects. A project keeps them in `vectors.json`, a
//! component carries them in the custom section `portolan:vectors`. Its author tries them at the desk, and a gateway at each
//! upload.
//!
//! They are a JSON list:
//!
//! ```json
//! [
//!   {
//!     "name": "the nearest region is tried first",
//!     "config": { "pool": "web" },
//!     "facts": {
//!       "local": "eu",
//!       "regions": { "eu": ["web"], "us": { "pools": ["web"], "verdict": "suspect" } },
//!       "latency_us": { "eu": { "us": 80000 } },
//!       "residencies": { "union": ["eu"] }
//!     },
//!     "request": { "path": "/orders", "header:x-user": "ada" },
//!     "seed": 1,
//!     "now_ms": 1800000000000,
//!     "expect": { "rule": "by-user", "answers": ["us/web", "eu/web"] }
//!   },
//!   { "name": "a pool is needed", "expect": { "refused": "no region has the pool" } }
//! ]
//! ```
//!
//! - `config` that is absent is `{}`; `facts` that are absent are one region `local` with the pool `web`.
//! - `request` gives attributes by the names that the contract has for them; what is not there is that of a GET of `/` at
//!   `example.com`. `seed` and `now_ms` are the request's random number and time.
//! - `expect.answers` are all answers in the order in which they are tried: `REGION/POOL`, `respond STATUS`,
//!   `redirect STATUS LOCATION` or `next`. `expect.rule` is a rule's name, or `#` and its number. `expect.refused` expects that
//!   there is no plan, and a part of the reason. What is absent is not compared. What a host then makes of an answer (health,
//!   residency) is the host's, and no vector's.
//!
//! Those of a failover policy have a `failover` in place of `facts` and `request`: regions, shards and what else the policy may
//! know, as [`Scene`] has it; what is absent is well. `expect.proposals` are all proposals in their order: `hold`,
//! `promote SHARD in REGION`, `read-only SHARD`, `drain REGION`, `shift PERCENT % of REGION to TARGET`.
//!
//! ```json
//! {
//!   "name": "the most advanced replica is promoted",
//!   "failover": {
//!     "local": "us",
//!     "regions": { "eu": { "verdict": "down", "down_ms": 9000 }, "us": {}, "ap": {} },
//!     "shards": { "a": { "primary": "eu", "replicas": [{ "region": "us" }, { "region": "ap", "behind_rows": 7 }] } }
//!   },
//!   "expect": { "proposals": ["promote a in us", "shift 100 % of eu to us"] }
//! }
//! ```

mod ready;
mod scene;
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

pub use self::ready::{Decided, MadeUp, Ready, describe};
pub use self::scene::{Happened, Held, Kept, Scene, There, Way};
pub use self::world::{Region, World};
use crate::defaults::{VECTORS_BYTES_MAX, VECTORS_MAX, VECTORS_WALL_MAX};
use crate::engine::Engine;
use crate::error::{Refused, Stage, printable};
use crate::log::Log;
use crate::schema;
use crate::section::VECTORS_SECTION;
use crate::version::Version;

/// The time of a request when a vector names none: 2027-01-15.
const NOW_MS: u64 = 1_800_000_000_000;
/// Failed vectors that a refusal tells.
const FAILURES_TOLD: usize = 5;
/// Bytes of a text that is told of a vector.
const TOLD_BYTES_MAX: usize = 512;

/// One question and its answer.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Vector {
    /// What it is about.
    pub name: String,
    /// The policy's configuration; empty when absent.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub config: serde_json::Map<String, serde_json::Value>,
    /// What the policy may know of the world.
    #[serde(default)]
    pub facts: World,
    /// What a failover policy may know; then nothing else is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failover: Option<Scene>,
    /// Attributes by their names in the contract: `path`, `tenant`, `header:x-user`.
    #[serde(default)]
    pub request: BTreeMap<String, String>,
    /// The request's random number; 1 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// The request's time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub now_ms: Option<u64>,
    /// What should come of it.
    pub expect: Expect,
}

/// What should come of a vector. What is absent is not compared.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// The name of the rule that decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// All answers, in the order in which they are tried: `eu/web`, `respond 403`, `redirect 308 LOCATION`, `next`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answers: Option<Vec<String>>,
    /// All proposals of a failover policy, in their order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proposals: Option<Vec<String>>,
    /// There is no plan, and the reason contains this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// What became of a vector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tried {
    /// The vector's name.
    pub name: String,
    /// Is it as it should be?
    pub passed: bool,
    /// What is wrong, a line each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// What the policy said, unless there is no plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decided: Option<Decided>,
    /// What a failover policy proposed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proposed: Option<Vec<String>>,
    /// Why there is no plan, where that is as it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// Reads vectors.
///
/// # Errors
/// [`Refused`] when the text is none, or too much.
pub fn read(text: &str) -> Result<Vec<Vector>, Refused> {
    if text.len() > VECTORS_BYTES_MAX {
        return Err(wrong(&format!("they have {} bytes, {VECTORS_BYTES_MAX} are allowed", text.len())));
    }
    let vectors: Vec<Vector> =
        serde_json::from_str(text).map_err(|error| wrong(&format!("they do not read: {error}")))?;
    if vectors.len() > VECTORS_MAX {
        return Err(wrong(&format!("there are {}, {VECTORS_MAX} are allowed", vectors.len())));
    }
    Ok(vectors)
}

impl Engine {
    /// Tries vectors on a version; gives what became of each, in order. One plan serves neighbours that share a configuration
    /// and facts. Blocks while the policy plans and decides.
    ///
    /// # Errors
    /// [`Refused`] when all of them together take too long.
    pub fn try_vectors(
        &self,
        version: &Arc<Version>,
        vectors: &[Vector],
        log: &Arc<Log>,
    ) -> Result<Vec<Tried>, Refused> {
        let until = Instant::now() + VECTORS_WALL_MAX;
        // The last one only: instances of all of them would be more than an engine may have.
        let mut last: Option<(String, Result<Ready, String>)> = None;
        let mut tried = Vec::with_capacity(vectors.len());
        for vector in vectors {
            let config = serde_json::Value::Object(vector.config.clone()).to_string();
            if let Some(scene) = &vector.failover {
                tried.push(vector.proposed(&self.proposals(version, &config, scene, log)));
                in_time(until)?;
                continue;
            }
            let world = serde_json::to_string(&vector.facts).unwrap_or_default();
            let key = format!("{config}\n{world}");
            last = last.filter(|(known, _)| *known == key);
            let (_, ready) =
                last.get_or_insert_with(|| (key, self.ready(version, &config, &vector.facts, log)));
            tried.push(vector.tried(ready, until));
            in_time(until)?;
        }
        Ok(tried)
    }

    /// What a failover policy proposes over a scene, in words.
    fn proposals(
        &self,
        version: &Version,
        config: &str,
        scene: &Scene,
        log: &Arc<Log>,
    ) -> Result<Vec<String>, String> {
        if version.proposer().is_none() {
            return Err(
                "the vector asks what to do when regions fail, and the component exports no proposer"
                    .to_owned(),
            );
        }
        let picture = scene.picture().map_err(|reason| format!("the vector's `failover`: {reason}"))?;
        schema::check(version.checker(), config, &self.config().limits)
            .map_err(|refused| format!("{}: {}", refused.stage, refused.reason))?;
        let asked = self.propose(version, config, &Arc::new(picture), log);
        let (proposed, _) = asked.map_err(|unanswered| unanswered.to_string())?;
        Ok(proposed.iter().map(ToString::to_string).collect())
    }

    fn ready(
        &self,
        version: &Arc<Version>,
        config: &str,
        world: &World,
        log: &Arc<Log>,
    ) -> Result<Ready, String> {
        let facts = world.facts().map_err(|reason| format!("the vector's facts: {reason}"))?;
        Ready::new(self, version, config, facts, log)
            .map_err(|refused| format!("{}: {}", refused.stage, refused.reason))
    }
}

/// Refuses when a vector failed.
///
/// # Errors
/// [`Refused`] with the first ones that failed.
pub(crate) fn verdict(tried: &[Tried]) -> Result<(), Refused> {
    let failed: Vec<&Tried> = tried.iter().filter(|one| !one.passed).collect();
    if failed.is_empty() {
        return Ok(());
    }
    let told: Vec<String> = failed
        .iter()
        .take(FAILURES_TOLD)
        .map(|one| format!("`{}`: {}", one.name, one.problems.join("; ")))
        .collect();
    let more = failed.len().saturating_sub(told.len());
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    Err(Refused::new(
        Stage::Vectors,
        format!("{} of {} golden vectors fail: {}{more}", failed.len(), tried.len(), told.join("; ")),
        format!(
            "change the policy, or what the section `{VECTORS_SECTION}` expects: `portolan plugin test` tries it"
        ),
    ))
}

impl Vector {
    fn proposed(&self, asked: &Result<Vec<String>, String>) -> Tried {
        let (problems, refused) = match (asked, &self.expect.refused) {
            (Err(refused), Some(expected)) if refused.contains(expected.as_str()) => {
                (Vec::new(), Some(printable(refused, TOLD_BYTES_MAX)))
            }
            (Err(refused), Some(expected)) => {
                (vec![format!("expected a refusal with `{expected}`, got: {refused}")], None)
            }
            (Err(refused), None) => (vec![format!("there is no answer: {refused}")], None),
            (Ok(_), Some(expected)) => {
                (vec![format!("expected a refusal with `{expected}`, got an answer")], None)
            }
            (Ok(proposed), None) => match &self.expect.proposals {
                Some(expected) if expected != proposed => {
                    let words = |all: &[String]| {
                        if all.is_empty() { "nothing".to_owned() } else { all.join(", ") }
                    };
                    (vec![format!("expected {}, got {}", words(expected), words(proposed))], None)
                }
                _ => (Vec::new(), None),
            },
        };
        Tried {
            name: printable(&self.name, 128),
            passed: problems.is_empty(),
            problems: problems.iter().map(|problem| printable(problem, TOLD_BYTES_MAX)).collect(),
            decided: None,
            proposed: asked.as_ref().ok().cloned(),
            refused,
        }
    }

    fn tried(&self, ready: &Result<Ready, String>, until: Instant) -> Tried {
        let (problems, decided, refused) = match (ready, &self.expect.refused) {
            (Err(refused), Some(expected)) if refused.contains(expected.as_str()) => {
                (Vec::new(), None, Some(printable(refused, TOLD_BYTES_MAX)))
            }
            (Err(refused), Some(expected)) => {
                (vec![format!("expected a refusal with `{expected}`, got: {refused}")], None, None)
            }
            (Err(refused), None) => (vec![format!("there is no plan: {refused}")], None, None),
            (Ok(_), Some(expected)) => {
                (vec![format!("expected a refusal with `{expected}`, got a plan")], None, None)
            }
            (Ok(ready), None) => match MadeUp::new(&self.request) {
                Ok(request) => {
                    let (seed, now_ms) = (self.seed.unwrap_or(1), self.now_ms.unwrap_or(NOW_MS));
                    let decided = ready.decide(&request, seed, now_ms, until);
                    (self.expect.problems(&decided), Some(decided), None)
                }
                Err(reason) => (vec![format!("the vector's request: {reason}")], None, None),
            },
        };
        Tried {
            name: printable(&self.name, 128),
            passed: problems.is_empty(),
            problems: problems.iter().map(|problem| printable(problem, TOLD_BYTES_MAX)).collect(),
            decided,
            proposed: None,
            refused,
        }
    }
}

impl Expect {
    fn problems(&self, decided: &Decided) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some(expected) = &self.rule
            && decided.rule.as_ref() != Some(expected)
            && decided.number.map(|number| format!("#{number}")).as_ref() != Some(expected)
        {
            let got = decided.rule.as_deref().unwrap_or("none");
            problems.push(format!("expected rule {expected}, got {got}"));
        }
        if let Some(expected) = &self.answers
            && decided.answers != *expected
        {
            let (expected, got) = (expected.join(", "), decided.answers.join(", "));
            problems
                .push(format!("expected {expected}, got {}", if got.is_empty() { "nothing" } else { &got }));
        }
        if let Some(why) = &decided.undecided {
            problems.push(format!("the decider gave no answer: {why}"));
        }
        problems
    }
}

fn in_time(until: Instant) -> Result<(), Refused> {
    if Instant::now() > until {
        return Err(wrong(&format!("all of them took longer than {VECTORS_WALL_MAX:?}")));
    }
    Ok(())
}

fn wrong(reason: &str) -> Refused {
    Refused::new(
        Stage::Vectors,
        format!("the golden vectors are not usable: {reason}"),
        "vectors are a JSON list of {name, config, facts, request, seed, now_ms, expect}, or {name, config, failover, expect}: `portolan plugin test` tries them",
    )
}
