//! Runs a policy natively, against the gateway's own draft and table: what passes here is what the gateway will do.

mod fleet;
mod outage;

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use portolan_core::attribute::{Attribute, Attributes, Value};
use portolan_core::facts::{Facts, RegionFacts, Verdict};
use portolan_core::ids::{PoolName, RegionName, ResidencyName};
use portolan_core::plan::{self, Action, AnswerId, RuleId, Then};
use portolan_core::table::Table;

pub use self::fleet::Fleet;
pub use self::outage::Outage;
use crate::draft::Refusal;
use crate::host;
use crate::policy::{Decider, Policy, glue};
use crate::values::Values;

/// Made-up facts.
#[derive(Clone, Debug)]
pub struct World(Facts);

/// A made-up request. Attributes go by their names in the contract.
#[derive(Clone, Debug)]
pub struct Request {
    attributes: BTreeMap<String, String>,
    ip: IpAddr,
}

/// A plan that the gateway would accept.
#[derive(Debug)]
pub struct Plan {
    config: String,
    table: Table,
    /// What the policy logged while it planned, as level and text.
    pub lines: Vec<(u32, String)>,
}

#[expect(clippy::expect_used, reason = "a test that misspells a name is to fail")]
fn region_name(name: &str) -> RegionName {
    RegionName::new(name).expect("a region's name")
}

impl World {
    /// A world as seen from a node in this region. Add regions to it, this one too.
    #[must_use]
    pub fn new(local: &str) -> Self {
        Self(Facts {
            local: region_name(local),
            latency_us: BTreeMap::new(),
            now_ms: 1_800_000_000_000,
            regions: BTreeMap::new(),
            residencies: BTreeMap::new(),
            seed: 1,
        })
    }

    /// A healthy region with these pools.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a test that misspells a name is to fail")]
    pub fn region(mut self, name: &str, pools: &[&str]) -> Self {
        let pools = pools.iter().map(|pool| PoolName::new(pool).expect("a pool's name")).collect();
        self.0.regions.insert(region_name(name), RegionFacts { pools, verdict: Verdict::Healthy });
        self
    }

    /// The region is down.
    #[must_use]
    pub fn down(mut self, name: &str) -> Self {
        if let Some(region) = self.0.regions.get_mut(&region_name(name)) {
            region.verdict = Verdict::Down;
        }
        self
    }

    /// The latency between two regions, in both directions.
    #[must_use]
    pub fn latency_us(mut self, one: &str, other: &str, latency_us: u32) -> Self {
        let (one, other) = (region_name(one), region_name(other));
        self.0.latency_us.insert((one.clone(), other.clone()), latency_us);
        self.0.latency_us.insert((other, one), latency_us);
        self
    }

    /// A residency class.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a test that misspells a name is to fail")]
    pub fn residency(mut self, name: &str, regions: &[&str]) -> Self {
        let name = ResidencyName::new(name).expect("a residency class's name");
        self.0.residencies.insert(name, regions.iter().map(|region| region_name(region)).collect());
        self
    }

    /// Plans as the gateway would, with a configuration in JSON.
    ///
    /// # Errors
    /// The policy's refusal, or the gateway's refusal of the plan as a whole.
    pub fn plan<P: Policy>(&self, config: &str) -> Result<Plan, Refusal> {
        host::lend(plan::Draft::new(Arc::new(self.0.clone()), plan::Limits::STANDARD));
        let result = glue::plan::<P>(config);
        let draft = host::take();
        let lines = host::lines();
        result?;
        let finished = draft.map(plan::Draft::finish).transpose();
        let finished =
            finished.map_err(|refusal| Refusal { code: refusal.code, message: refusal.message })?;
        let (plan, _) = finished.unwrap_or_default();
        Ok(Plan { config: config.to_owned(), table: Table::compile(plan), lines })
    }
}

impl Request {
    /// A GET of this path.
    #[must_use]
    pub fn get(path: &str) -> Self {
        let attributes = BTreeMap::from([
            ("method".to_owned(), "GET".to_owned()),
            ("path".to_owned(), path.to_owned()),
            ("host".to_owned(), "example.com".to_owned()),
            ("scheme".to_owned(), "https".to_owned()),
        ]);
        Self { attributes, ip: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)) }
    }

    /// Sets an attribute.
    #[must_use]
    pub fn with(mut self, attribute: &str, value: &str) -> Self {
        self.attributes.insert(attribute.to_owned(), value.to_owned());
        self
    }

    /// The client's address.
    #[must_use]
    pub fn from(mut self, ip: IpAddr) -> Self {
        self.ip = ip;
        self
    }
}

impl Attributes for Request {
    fn value(&self, attribute: &Attribute) -> Value<'_> {
        self.attributes.get(&attribute.to_string()).map_or(Value::Absent, |text| Value::Text(text))
    }

    fn client_ip(&self) -> IpAddr {
        self.ip
    }
}

impl Plan {
    /// What becomes of a request: the answers in the order in which the gateway tries them. `region/pool`, `next`, or the
    /// status of a direct answer. Empty when no rule matches. Draws by weight as the request with seed 1 would.
    #[must_use]
    pub fn route(&self, request: &Request) -> Vec<String> {
        self.route_seeded(request, 1)
    }

    /// The same for the request with this random number.
    #[must_use]
    pub fn route_seeded(&self, request: &Request, seed: u64) -> Vec<String> {
        let Some(rule) = self.table.find(request) else { return Vec::new() };
        self.table.candidates(rule, request, seed).iter().map(|&answer| self.describe(answer)).collect()
    }

    /// The name of the rule that decides.
    #[must_use]
    pub fn rule(&self, request: &Request) -> Option<&str> {
        self.table.rule(self.table.find(request)?)?.name.as_deref()
    }

    /// How many rules there are.
    #[must_use]
    pub const fn rules(&self) -> usize {
        self.table.plan().rules.len()
    }

    /// Asks a fresh instance of the decider about a request, as the gateway would. `None` when no dynamic rule matches or
    /// the answer is out of range.
    ///
    /// # Errors
    /// The decider's own, from `start`.
    pub fn decide<P: Decider>(&self, request: &Request, seed: u64) -> Result<Option<String>, String> {
        let Some((RuleId(number), needs, among)) = self.dynamic(request) else { return Ok(None) };
        let cell = OnceCell::<P>::new();
        glue::start(&cell, &self.config, &self.table.plan().memo)?;
        let values: Vec<Option<&str>> = needs.iter().map(|need| request.value(need).text()).collect();
        let mut room = Vec::new();
        let values = Values::packed(&values, &mut room);
        let place = glue::decide(&cell, number, 1_800_000_000_000, seed, values);
        Ok(among.get(place as usize).map(|&answer| self.describe(answer)))
    }

    fn dynamic(&self, request: &Request) -> Option<(RuleId, &[Attribute], &[AnswerId])> {
        let id = self.table.find(request)?;
        match &self.table.rule(id)?.then {
            Then::Dynamic { needs, among } => Some((id, needs, among)),
            Then::Split { .. } => None,
        }
    }

    fn describe(&self, answer: AnswerId) -> String {
        match self.table.answer(answer).map(|answer| &answer.action) {
            Some(Action::Forward { region, pool }) => format!("{region}/{pool}"),
            Some(Action::Next) => "next".to_owned(),
            Some(Action::Redirect { status, .. } | Action::Respond { status, .. }) => status.to_string(),
            None => "nothing".to_owned(),
        }
    }
}
