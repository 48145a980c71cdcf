//! A policy that has planned, and can be asked about requests that are made up.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use portolan_core::attribute::{Attribute, Attributes, Value};
use portolan_core::decide::{Call, Decide as _, Undecided};
use portolan_core::facts::Facts;
use portolan_core::plan::{Action, Answer, AnswerId, RuleId, Then};
use portolan_core::table::Table;
use serde::Serialize;

use super::{NOW_MS, TOLD_BYTES_MAX};
use crate::account::Account;
use crate::decider::{Decider, Start, Tier};
use crate::engine::Engine;
use crate::error::{Refused, printable};
use crate::log::Log;
use crate::plan::{Planned, is_dynamic};
use crate::version::Version;

/// From one try to the next, when the decider's share of the thread is used up.
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// A request that is only attributes.
#[derive(Clone, Debug)]
pub struct MadeUp {
    attributes: BTreeMap<Attribute, String>,
    client: IpAddr,
}

impl MadeUp {
    /// A GET of `/` from nowhere in particular, but for these attributes.
    ///
    /// # Errors
    /// The reason, when a name is no attribute's or the client's address is none.
    pub fn new(given: &BTreeMap<String, String>) -> Result<Self, String> {
        let mut attributes = BTreeMap::from([
            (Attribute::Method, "GET".to_owned()),
            (Attribute::Path, "/".to_owned()),
            (Attribute::Host, "example.com".to_owned()),
            (Attribute::Scheme, "https".to_owned()),
        ]);
        for (name, value) in given {
            attributes.insert(Attribute::parse(name).map_err(|error| error.to_string())?, value.clone());
        }
        let client = match attributes.get(&Attribute::ClientIp) {
            Some(text) => text.parse().map_err(|_| format!("`{}` is no address", printable(text, 64)))?,
            None => IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        };
        attributes.insert(Attribute::ClientIp, client.to_string());
        Ok(Self { attributes, client })
    }
}

impl Attributes for MadeUp {
    fn value(&self, attribute: &Attribute) -> Value<'_> {
        self.attributes.get(attribute).map_or(Value::Absent, |text| Value::Text(text))
    }

    fn client_ip(&self) -> IpAddr {
        self.client
    }
}

/// A policy with a configuration and facts, ready to be asked.
#[derive(Debug)]
pub struct Ready {
    /// What decides its dynamic rules, if it has any.
    pub decider: Option<Arc<Decider>>,
    /// Fuel that the plan took.
    pub fuel_used: u64,
    /// Facts that the plan read.
    pub facts_read: usize,
    /// How long it took to start the decider.
    pub start_took: Duration,
    /// How long the plan took.
    pub plan_took: Duration,
    /// The plan.
    pub table: Table,
}

/// What a policy says to a request.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Decided {
    /// The rule that decides, by name, or by `#` and its number; none when no rule matches.
    pub rule: Option<String>,
    /// The number of the rule.
    #[serde(skip)]
    pub number: Option<u32>,
    /// The answers, in the order in which they are tried.
    pub answers: Vec<String>,
    /// Why its decider gave no answer, where the rule is dynamic and it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub undecided: Option<String>,
}

impl Ready {
    /// Plans, and starts the decider if the plan has dynamic rules.
    ///
    /// # Errors
    /// As the gateway would refuse it.
    pub fn new(
        engine: &Engine,
        version: &Arc<Version>,
        config: &str,
        facts: Facts,
        log: &Arc<Log>,
    ) -> Result<Self, Refused> {
        let Planned { fuel_used, plan, reads, took } = engine.plan(version, config, Arc::new(facts), log)?;
        let began = Instant::now();
        let decider = if is_dynamic(&plan) {
            let account = Account::unbounded();
            let start = Start { account: &account, config, log, memo: &plan.memo, tier: Tier::Operator };
            Some(engine.decider(version, start)?)
        } else {
            None
        };
        let start_took = began.elapsed();
        Ok(Self {
            decider,
            fuel_used,
            facts_read: reads.len(),
            start_took,
            plan_took: took,
            table: Table::compile(plan),
        })
    }

    /// Asks; where the decider's share of the thread is used up, again until a time.
    #[must_use]
    pub fn decide(&self, request: &MadeUp, seed: u64, now_ms: u64, until: Instant) -> Decided {
        let Some(id) = self.table.find(request) else {
            return Decided { rule: None, number: None, answers: Vec::new(), undecided: None };
        };
        let mut order = self.table.candidates(id, request, seed);
        let mut undecided = None;
        let chosen = loop {
            match self.ask(id, request, seed, now_ms) {
                // Guests have a part of a thread's time; here nobody else wants the rest, but it is counted all the same.
                Some(Err(Undecided::Busy)) if Instant::now() < until => std::thread::park_timeout(BUSY_PAUSE),
                other => break other,
            }
        };
        match chosen {
            Some(Ok(chosen)) => {
                order.retain(|answer| *answer != chosen);
                order.insert(0, chosen);
            }
            Some(Err(why)) => undecided = Some(self.why(&why)),
            None => {}
        }
        let name = self.table.rule(id).and_then(|rule| rule.name.as_deref());
        let rule = Some(name.map_or_else(|| format!("#{}", id.0), |name| printable(name, TOLD_BYTES_MAX)));
        let answers = order.iter().map(|&answer| self.describe(answer)).collect();
        Decided { rule, number: Some(id.0), answers, undecided }
    }

    /// Only the decider's choice, once, for measurements.
    #[must_use]
    pub fn ask_only(&self, request: &MadeUp) -> Option<Result<AnswerId, Undecided>> {
        self.ask(self.table.find(request)?, request, 1, NOW_MS)
    }

    /// The decider's choice, where the rule is dynamic.
    fn ask(
        &self,
        id: RuleId,
        request: &MadeUp,
        seed: u64,
        now_ms: u64,
    ) -> Option<Result<AnswerId, Undecided>> {
        let Then::Dynamic { needs, among } = &self.table.rule(id)?.then else { return None };
        let decider = self.decider.as_ref()?;
        let values: Vec<Option<&str>> = needs.iter().map(|need| request.value(need).text()).collect();
        let count = u32::try_from(among.len()).unwrap_or(u32::MAX);
        let call = Call { rule: id, now_ms, seed, values: &values, among: count };
        let chosen = decider.decide(&call);
        Some(chosen.and_then(|index| among.get(index as usize).copied().ok_or(Undecided::OutOfRange)))
    }

    fn why(&self, undecided: &Undecided) -> String {
        let told = self.decider.as_ref().and_then(|decider| decider.stats().last_failure);
        match told {
            Some(told) if !told.is_empty() => format!("{undecided}: {told}"),
            _ => undecided.to_string(),
        }
    }

    /// An answer in words.
    #[must_use]
    pub fn describe(&self, id: AnswerId) -> String {
        self.table.answer(id).map_or_else(|| "nothing".to_owned(), describe)
    }
}

/// An answer in words.
#[must_use]
pub fn describe(answer: &Answer) -> String {
    match &answer.action {
        Action::Forward { region, pool } => format!("{region}/{pool}"),
        Action::Next => "next".to_owned(),
        Action::Redirect { status, location } => {
            format!("redirect {status} {}", printable(location, TOLD_BYTES_MAX))
        }
        Action::Respond { status, .. } => format!("respond {status}"),
    }
}
