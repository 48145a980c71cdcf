//! Golden vectors: questions with the answers that the author of a policy expects, shipped in the component. They are tried
//! at each upload, and again when a host that compiles anew takes the component over.
//!
//! The custom section `portolan:vectors` holds a JSON list:
//!
//! ```json
//! [
//!   {
//!     "name": "a tenant of the union stays there",
//!     "config": { "pool": "web" },
//!     "facts": {
//!       "local": "eu",
//!       "regions": { "eu": { "pools": ["web"] }, "us": { "pools": ["web"], "verdict": "down" } },
//!       "latency-us": [["eu", "us", 80000]],
//!       "residencies": { "union": ["eu"] },
//!       "seed": 7,
//!       "now-ms": 0
//!     },
//!     "request": { "host": "shop.example", "path": "/", "tenant": "acme", "header:x-beta": "1" },
//!     "seed": 1,
//!     "now-ms": 1700000000000,
//!     "expect": { "rule": "union", "answer": "forward eu/web" }
//!   },
//!   { "name": "everybody else too", "request": { "path": "/" }, "expect": { "answer": "forward eu/web" } }
//! ]
//! ```
//!
//! - `config` and `facts` that are absent are those of the vector before; at first `{}`, and one region `local` with the pool
//!   `web`. `verdict` is `unknown`, `healthy` (when absent), `suspect`, `down` or `draining`.
//! - `request` gives attributes by the names that the contract has for them; what is not there is absent. `seed` and `now-ms`
//!   are the request's random number and time, 0 when absent.
//! - `expect.answer` is the policy's first choice: `forward REGION/POOL`, `respond STATUS`, `redirect STATUS` or
//!   `redirect STATUS LOCATION`, `next`, or `none` where no rule matches. `expect.rule` is a rule's name, or `#` and its
//!   number. What a host then makes of it (health, residency) is the host's, and no vector's.
//!
//! A component has at most 256 vectors, of 256 KiB together.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use portolan_core::attribute::{Attribute, Attributes, Value};
use portolan_core::decide::{Call, Decide as _, Undecided};
use portolan_core::facts::{Facts, RegionFacts, Verdict};
use portolan_core::ids::{PoolName, RegionName, ResidencyName};
use portolan_core::plan::{Action, AnswerId, RuleId, Then};
use portolan_core::table::Table;
use serde::{Deserialize, Serialize};

use crate::account::Account;
use crate::decider::{Decider, Start, Tier};
use crate::defaults::{VECTORS_BYTES_MAX, VECTORS_MAX, VECTORS_WALL_MAX};
use crate::engine::Engine;
use crate::error::{Refused, Stage, printable};
use crate::log::Log;
use crate::plan::is_dynamic;
use crate::section::VECTORS_SECTION;
use crate::version::Version;

/// Failed vectors that a refusal tells.
const FAILURES_TOLD: usize = 5;
/// From one try to the next, when the decider's share of the thread is used up.
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// What became of a vector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tried {
    /// What was expected.
    pub expected: String,
    /// What came.
    pub got: String,
    /// The vector's name.
    pub name: String,
    /// Is it what was expected?
    pub passed: bool,
    /// The rule that matched, by its name or number.
    pub rule: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Vector {
    name: String,
    config: Option<serde_json::Map<String, serde_json::Value>>,
    facts: Option<World>,
    #[serde(default)]
    request: BTreeMap<String, String>,
    #[serde(default)]
    seed: u64,
    #[serde(default)]
    now_ms: u64,
    expect: Expected,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    answer: String,
    rule: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct World {
    local: String,
    regions: BTreeMap<String, WorldRegion>,
    #[serde(default)]
    latency_us: Vec<(String, String, u32)>,
    #[serde(default)]
    residencies: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    seed: u64,
    #[serde(default)]
    now_ms: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WorldRegion {
    pools: Vec<String>,
    verdict: Option<String>,
}

impl Engine {
    /// Tries all vectors of a text on a version; gives what became of each, in order. Blocks while policies plan and decide.
    ///
    /// # Errors
    /// [`Refused`] when the text is not one of vectors, or a plan for one of them does not come about.
    pub fn try_vectors(
        &self,
        version: &Arc<Version>,
        text: &str,
        log: &Arc<Log>,
    ) -> Result<Vec<Tried>, Refused> {
        let deadline = Instant::now() + VECTORS_WALL_MAX;
        let vectors = parse(text)?;
        let mut tried = Vec::with_capacity(vectors.len());
        let mut config = "{}".to_owned();
        let mut facts = Arc::new(World::small().facts().map_err(|reason| wrong(&reason))?);
        let mut asked: Option<Asked> = None;
        for vector in vectors {
            let of = |reason: String| wrong(&format!("vector `{}`: {reason}", printable(&vector.name, 64)));
            if let Some(given) = &vector.config {
                config = serde_json::to_string(given).unwrap_or_default();
                asked = None;
            }
            if let Some(world) = &vector.facts {
                facts = Arc::new(world.facts().map_err(of)?);
                asked = None;
            }
            let request = Request::of(&vector.request).map_err(of)?;
            let policy = match &asked {
                Some(policy) => policy,
                None => asked.insert(
                    self.asked(version, &config, &facts, log).map_err(|refused| of(refused.to_string()))?,
                ),
            };
            tried.push(policy.try_one(&vector, &request, deadline));
            if Instant::now() > deadline {
                return Err(wrong(&format!("all of them took longer than {VECTORS_WALL_MAX:?}")));
            }
        }
        Ok(tried)
    }

    fn asked(
        &self,
        version: &Arc<Version>,
        config: &str,
        facts: &Arc<Facts>,
        log: &Arc<Log>,
    ) -> Result<Asked, Refused> {
        let planned = self.plan(version, config, Arc::clone(facts), log)?;
        let decider = if is_dynamic(&planned.plan) {
            let memo = &planned.plan.memo;
            Some(self.decider(
                version,
                Start { account: &Account::unbounded(), config, log, memo, tier: Tier::Operator },
            )?)
        } else {
            None
        };
        Ok(Asked { decider, table: Table::compile(planned.plan) })
    }
}

/// Refuses when a vector failed.
///
/// # Errors
/// [`Refused`] with the first that failed.
pub(crate) fn verdict(tried: &[Tried]) -> Result<(), Refused> {
    let failed: Vec<&Tried> = tried.iter().filter(|one| !one.passed).collect();
    if failed.is_empty() {
        return Ok(());
    }
    let told: Vec<String> = failed
        .iter()
        .take(FAILURES_TOLD)
        .map(|one| format!("`{}`: {}, expected {}", one.name, one.got, one.expected))
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

/// A policy that was asked for a plan.
struct Asked {
    decider: Option<Arc<Decider>>,
    table: Table,
}

impl Asked {
    fn try_one(&self, vector: &Vector, request: &Request, deadline: Instant) -> Tried {
        let (rule, got) = self.answer(vector, request, deadline);
        let Expected { answer, rule: expected_rule } = &vector.expect;
        // A redirect's place need not be written down.
        let answer_fits = got == *answer
            || answer.starts_with("redirect ")
                && got.strip_prefix(answer).is_some_and(|rest| rest.starts_with(' '));
        let number = rule.map(|id| format!("#{}", id.0));
        let name = rule.and_then(|id| self.table.rule(id)?.name.as_deref().map(str::to_owned));
        let rule_fits = expected_rule
            .as_ref()
            .is_none_or(|expected| name.as_ref() == Some(expected) || number.as_ref() == Some(expected));
        let rule = name.or(number);
        let by = |rule: Option<&String>| {
            rule.map_or_else(String::new, |rule| format!(" by rule {}", printable(rule, 64)))
        };
        Tried {
            expected: format!("{}{}", printable(answer, 256), by(expected_rule.as_ref())),
            got: format!("{}{}", printable(&got, 256), by(rule.as_ref())),
            name: printable(&vector.name, 128),
            passed: answer_fits && rule_fits,
            rule,
        }
    }

    fn answer(&self, vector: &Vector, request: &Request, deadline: Instant) -> (Option<RuleId>, String) {
        let Some(id) = self.table.find(request) else { return (None, "none".to_owned()) };
        let chosen = match self.table.rule(id).map(|rule| &rule.then) {
            Some(Then::Dynamic { needs, among }) => {
                match self.decide(id, needs, among.len(), vector, request, deadline) {
                    Ok(index) => among.get(index as usize).copied(),
                    Err(undecided) => return (Some(id), format!("no answer: {undecided}")),
                }
            }
            _ => self.table.candidates(id, request, vector.seed).first().copied(),
        };
        (Some(id), chosen.map_or_else(|| "none".to_owned(), |answer| self.text(answer)))
    }

    fn decide(
        &self,
        rule: RuleId,
        needs: &[Attribute],
        among: usize,
        vector: &Vector,
        request: &Request,
        deadline: Instant,
    ) -> Result<u32, Undecided> {
        let values: Vec<Option<&str>> = needs.iter().map(|need| request.value(need).text()).collect();
        let among = u32::try_from(among).unwrap_or(u32::MAX);
        let call = Call { rule, now_ms: vector.now_ms, seed: vector.seed, values: &values, among };
        loop {
            match self.decider.as_ref().map_or(Err(Undecided::Broken), |decider| decider.decide(&call)) {
                // Guests have a part of a thread's time; here nobody else wants the rest, but it is counted all the same.
                Err(Undecided::Busy) if Instant::now() < deadline => std::thread::park_timeout(BUSY_PAUSE),
                other => return other,
            }
        }
    }

    fn text(&self, answer: AnswerId) -> String {
        match self.table.answer(answer).map(|answer| &answer.action) {
            Some(Action::Forward { region, pool }) => format!("forward {region}/{pool}"),
            Some(Action::Next) => "next".to_owned(),
            Some(Action::Redirect { status, location }) => format!("redirect {status} {location}"),
            Some(Action::Respond { status, .. }) => format!("respond {status}"),
            None => "none".to_owned(),
        }
    }
}

/// A request that is only its attributes.
struct Request {
    client: IpAddr,
    values: BTreeMap<Attribute, String>,
}

impl Request {
    fn of(given: &BTreeMap<String, String>) -> Result<Self, String> {
        let mut values = BTreeMap::new();
        for (name, value) in given {
            values.insert(Attribute::parse(name).map_err(|error| error.to_string())?, value.clone());
        }
        let client = match values.get(&Attribute::ClientIp) {
            Some(text) => text.parse().map_err(|_| format!("`{}` is no address", printable(text, 64)))?,
            None => IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        Ok(Self { client, values })
    }
}

impl Attributes for Request {
    fn value(&self, attribute: &Attribute) -> Value<'_> {
        self.values.get(attribute).map_or(Value::Absent, |text| Value::Text(text))
    }

    fn client_ip(&self) -> IpAddr {
        self.client
    }
}

impl World {
    fn small() -> Self {
        let region = WorldRegion { pools: vec!["web".to_owned()], verdict: None };
        Self {
            local: "local".to_owned(),
            regions: BTreeMap::from([("local".to_owned(), region)]),
            latency_us: Vec::new(),
            residencies: BTreeMap::new(),
            seed: 0,
            now_ms: 0,
        }
    }

    fn facts(&self) -> Result<Facts, String> {
        let region = |name: &str| RegionName::new(name).map_err(|error| error.to_string());
        let mut regions = BTreeMap::new();
        for (name, given) in &self.regions {
            let pools: Result<BTreeSet<PoolName>, _> =
                given.pools.iter().map(|pool| PoolName::new(pool)).collect();
            let facts = RegionFacts {
                pools: pools.map_err(|error| error.to_string())?,
                verdict: verdict_of(given.verdict.as_deref().unwrap_or("healthy"))?,
            };
            regions.insert(region(name)?, facts);
        }
        let local = region(&self.local)?;
        if !regions.contains_key(&local) {
            return Err(format!("`local` is `{local}`, which is none of the regions"));
        }
        let mut latency_us = BTreeMap::new();
        for (one, other, time) in &self.latency_us {
            latency_us.insert((region(one)?, region(other)?), *time);
            latency_us.insert((region(other)?, region(one)?), *time);
        }
        let mut residencies = BTreeMap::new();
        for (class, allowed) in &self.residencies {
            let allowed: Result<BTreeSet<RegionName>, String> =
                allowed.iter().map(|name| region(name)).collect();
            residencies.insert(ResidencyName::new(class).map_err(|error| error.to_string())?, allowed?);
        }
        Ok(Facts { local, latency_us, now_ms: self.now_ms, regions, residencies, seed: self.seed })
    }
}

fn verdict_of(text: &str) -> Result<Verdict, String> {
    let all = [Verdict::Unknown, Verdict::Healthy, Verdict::Suspect, Verdict::Down, Verdict::Draining];
    let found = all.into_iter().find(|verdict| verdict.as_str() == text);
    found.ok_or_else(|| {
        format!("`{}` is no verdict: unknown, healthy, suspect, down or draining", printable(text, 32))
    })
}

fn parse(text: &str) -> Result<Vec<Vector>, Refused> {
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

fn wrong(reason: &str) -> Refused {
    Refused::new(
        Stage::Vectors,
        format!("the golden vectors are not usable: {reason}"),
        format!("mend the section `{VECTORS_SECTION}`: `portolan plugin test` tries it at your desk"),
    )
}
