//! Sharding policies: where new tenants go, and what to change so that the shards stand better. Each question runs on a fresh
//! instance and a thread of its own, with the limits of a plan, and its answer is taken as a whole or not at all.
//!
//! [`Placer`] is a version with its configuration, [`PlacementSlot`] what runs in the operator's one slot for it: a new one takes
//! over when it is ready, and one that is refused leaves the one before.

use std::sync::Arc;
use std::time::{Duration, Instant};

use portolan_core::breaker::{Admission, Breaker};
use portolan_core::directory::ShardIndex;
use portolan_core::facts::Facts;
use portolan_core::ids::{Digest, PolicyName, TenantName};
use portolan_core::placement::{Known, Limits, Picture, Proposal, Rebalancing, View};
use portolan_core::plan::{Refusal, code};
use portolan_core::time::Moment;
use portolan_foundation::clock;
use serde::Serialize;
use wasmtime::Store;

use crate::bindings::exports::portolan::policy::placer;
use crate::bindings::portolan::policy::types;
use crate::defaults::REBALANCE_TRIES;
use crate::engine::{Engine, not_instantiated};
use crate::error::{Refused, Stage, printable};
use crate::guest::{self, Allowance, Placing, State};
use crate::log::{Line, Log};
use crate::plan::politely;
use crate::schema;
use crate::seat::{Seat, Wanted};
use crate::source::Source;
use crate::version::Version;

/// Bytes of a guest's refusal that are told.
const MESSAGE_BYTES_MAX: usize = 1_024;

/// A sharding policy, ready to be asked.
#[derive(Debug)]
pub struct Placer {
    breaker: Breaker,
    config: Arc<str>,
    engine: Engine,
    log: Arc<Log>,
    policy: PolicyName,
    version: Arc<Version>,
}

/// A checked plan of a policy, and what making it took.
#[derive(Clone, Debug)]
pub struct Proposed {
    /// Units of fuel of the last try.
    pub fuel_used: u64,
    /// The plan.
    pub rebalancing: Rebalancing,
    /// How long it took, in wall time.
    pub took: Duration,
}

/// What is wanted in the slot.
#[derive(Clone, Debug)]
pub struct PlacementSpec {
    /// The policy's configuration, a JSON object.
    pub config: Arc<str>,
    /// What the operator calls the policy.
    pub policy: PolicyName,
    /// The component, or why there is none.
    pub source: Result<Source, Refused>,
}

/// How the slot stands.
#[derive(Clone, Debug, Serialize)]
pub struct PlacementReport {
    /// The last lines of its log, oldest first.
    pub log: Vec<Line>,
    /// The policy that runs.
    pub policy: Option<PolicyName>,
    /// Why what is wanted does not run, or did not answer last.
    pub refused: Option<Refused>,
    /// The version that runs.
    pub version: Option<Digest>,
}

/// The slot for the operator's sharding policy.
#[derive(Debug)]
pub struct PlacementSlot {
    engine: Engine,
    seat: Seat<Placer>,
}

/// The two questions of the world.
enum Question<'q> {
    Place(&'q str),
    Rebalance,
}

/// What came of a question.
struct Answered {
    fuel_used: u64,
    /// The name of a shard; of a question where a tenant goes.
    place: Option<String>,
    proposal: Proposal,
}

impl Placer {
    /// Loads a component and checks the configuration against its schema. Blocks.
    ///
    /// # Errors
    /// [`Refused`] for a component that is refused, one of another world, and a configuration that does not fit.
    pub fn load(engine: &Engine, spec: &PlacementSpec) -> Result<Self, Refused> {
        Self::of(engine, spec.wanted())
    }

    fn of(engine: &Engine, Wanted { config, policy, source }: Wanted<'_>) -> Result<Self, Refused> {
        let limits = &engine.config().limits;
        let source = source.clone()?;
        let version = match engine.loaded(source.digest()) {
            Some(version) => version,
            None => engine.load(&source.read(limits.component_bytes_max)?)?,
        };
        if version.placer().is_none() {
            return Err(Refused::new(
                Stage::Exports,
                format!("`{policy}` exports no placer: it decides about something else"),
                "name a policy of the world `sharding`, such as `jump-hash`, `locality` or `pinned`",
            ));
        }
        schema::check(version.checker(), config, limits)?;
        Ok(Self {
            breaker: Breaker::default(),
            config: Arc::clone(config),
            engine: engine.clone(),
            log: Log::new(policy.clone(), limits.log_lines_per_second),
            policy: policy.clone(),
            version,
        })
    }

    /// What the operator calls it.
    #[must_use]
    pub const fn policy(&self) -> &PolicyName {
        &self.policy
    }

    /// The SHA-256 of its component.
    #[must_use]
    pub fn version(&self) -> Digest {
        self.version.digest()
    }

    /// The last lines of its log, oldest first.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        self.log.lines()
    }

    /// The shard for a new tenant; none when the policy leaves it to the rules. Blocks.
    ///
    /// # Errors
    /// [`Refused`] when the policy fails or says no, or names a shard that may not have the tenant; the rules stand then.
    pub fn place(
        &self,
        picture: &Arc<Picture>,
        facts: &Arc<Facts>,
        (name, known): (&TenantName, &Known),
    ) -> Result<Option<ShardIndex>, Refused> {
        let view = View::placing(Arc::clone(picture), name.clone(), known.clone());
        let answered = self.ask(&view, facts, &Question::Place(name.as_str()))?;
        let Some(shard) = answered.place else { return Ok(None) };
        view.placed(&printable(&shard, MESSAGE_BYTES_MAX)).map(Some).map_err(|refusal| {
            let fix = "change the policy or its configuration; the tenant is where the rules say";
            Refused::passing(Stage::Check, format!("the policy places `{name}` wrongly: {refusal}"), fix)
        })
    }

    /// A plan of what to change, checked. Blocks. A plan that moves more tenants than it may is asked for again with less of
    /// the line to give away, a few times.
    ///
    /// # Errors
    /// [`Refused`] when the policy fails or says no, or its plan does not hold.
    pub fn rebalance(
        &self,
        picture: &Arc<Picture>,
        facts: &Arc<Facts>,
        mut limits: Limits,
    ) -> Result<Proposed, Refused> {
        let began = Instant::now();
        for left in (0..REBALANCE_TRIES).rev() {
            let view = View::rebalancing(Arc::clone(picture), limits);
            let answered = self.ask(&view, facts, &Question::Rebalance)?;
            match answered.proposal.finish() {
                Ok(rebalancing) => {
                    return Ok(Proposed {
                        fuel_used: answered.fuel_used,
                        rebalancing,
                        took: began.elapsed(),
                    });
                }
                Err(refusal) if refusal.code == code::LIMIT && left > 0 && limits.line_permille_max > 1 => {
                    limits.line_permille_max /= 2;
                }
                Err(refusal) => return Err(unfit(&refusal)),
            }
        }
        Err(unfit(&Refusal { code: code::LIMIT, message: "no plan fits its limits".to_owned() }))
    }

    fn ask(&self, view: &View, facts: &Arc<Facts>, question: &Question<'_>) -> Result<Answered, Refused> {
        let admission = self.breaker.admit(clock::now());
        if admission == Admission::Refused {
            return Err(Refused::passing(
                Stage::Plan,
                format!("`{}` failed several times in a row and is left alone for a moment", self.policy),
                "look at its log in `portolan status`, and change the policy",
            ));
        }
        let probe = admission == Admission::Probe;
        let asked =
            politely(|| self.ask_here(view, facts, question)).map_err(|refused| self.engine.count(refused));
        match &asked {
            // A policy that says no is well.
            Ok(_) => self.breaker.succeed(probe),
            Err(_) => {
                self.breaker.fail(probe, &self.engine.config().limits.breaker, clock::now());
            }
        }
        asked?.map_err(|refusal| said_no(&refusal))
    }

    fn ask_here(
        &self,
        view: &View,
        facts: &Arc<Facts>,
        question: &Question<'_>,
    ) -> Result<Result<Answered, types::Refusal>, Refused> {
        let (inner, limits) = (self.engine.inner(), &self.engine.config().limits);
        inner.counters.plans.add(1);
        let memory = limits.plan_memory_bytes_max;
        let mut store = guest::store(&inner.machine, limits, memory, &self.log, &inner.counters);
        let guest = self.instance(&mut store)?;
        let allowance = Allowance::to_plan(limits);
        guest::arm(&mut store, allowance).map_err(|failure| self.engine.failed(&failure))?;
        let placing = Placing {
            facts: Arc::clone(facts),
            proposal: Proposal::new(view.clone()),
            writes: matches!(question, Question::Rebalance),
        };
        guest::lend_placing(&mut store, placing);
        let called = match question {
            Question::Place(tenant) => guest.call_place(&mut store, &self.config, tenant),
            Question::Rebalance => {
                guest.call_rebalance(&mut store, &self.config).map(|said| said.map(|()| None))
            }
        };
        let proposal = guest::take_placing(&mut store);
        let fuel_used = allowance.fuel.saturating_sub(store.get_fuel().unwrap_or(0));
        match (called, proposal) {
            (Ok(Ok(place)), Some(proposal)) => Ok(Ok(Answered { fuel_used, place, proposal })),
            (Ok(Ok(_)), None) => unreachable!("nobody takes the picture while the guest is asked"),
            (Ok(Err(refusal)), _) => Ok(Err(refusal)),
            (Err(error), _) => Err(self.engine.failed(&guest::failure(&error, Some(&store)))),
        }
    }

    fn instance(&self, store: &mut Store<State>) -> Result<placer::Guest, Refused> {
        let limits = &self.engine.config().limits;
        guest::arm(store, Allowance::to_start(limits)).map_err(|failure| not_instantiated(&failure))?;
        let Some(indices) = self.version.placer() else {
            return Err(Refused::new(Stage::Exports, "the component exports no placer", "use one that does"));
        };
        let loaded = self
            .version
            .pre()
            .instantiate(&mut *store)
            .and_then(|instance| indices.load(&mut *store, &instance))
            .map_err(|error| guest::failure(&error, Some(store)));
        loaded.map_err(|failure| not_instantiated(&failure))
    }
}

impl PlacementSpec {
    const fn wanted(&self) -> Wanted<'_> {
        Wanted { config: &self.config, policy: &self.policy, source: &self.source }
    }
}

impl PlacementSlot {
    /// Nothing runs yet.
    #[must_use]
    pub const fn new(engine: Engine) -> Self {
        Self { engine, seat: Seat::empty() }
    }

    /// Brings what runs to what is wanted. Blocks while a component is compiled. What is refused leaves what ran, and is tried
    /// again when it may pass, or when something about it changes.
    pub fn follow(&mut self, spec: Option<&PlacementSpec>, now: Moment) {
        let load = |wanted: Wanted<'_>| Placer::of(&self.engine, wanted);
        let words = ("tenants are placed", "the rules stand alone");
        self.seat.follow(spec.map(PlacementSpec::wanted), now, load, words);
    }

    /// What runs.
    #[must_use]
    pub fn placer(&self) -> Option<&Arc<Placer>> {
        self.seat.policy()
    }

    /// How it stands.
    #[must_use]
    pub fn report(&self) -> PlacementReport {
        let runs = self.seat.runs();
        PlacementReport {
            log: self.seat.policy().map(|placer| placer.lines()).unwrap_or_default(),
            policy: runs.map(|(name, _)| name.clone()),
            refused: self.seat.refused().cloned(),
            version: runs.map(|(_, version)| version),
        }
    }
}

fn said_no(refusal: &types::Refusal) -> Refused {
    let message = printable(&refusal.message, MESSAGE_BYTES_MAX);
    Refused::passing(
        Stage::Plan,
        format!("the policy says no: {}", Refusal { code: refusal.code, message }),
        "do what the message says, and ask again",
    )
}

/// The plan does not hold.
fn unfit(refusal: &Refusal) -> Refused {
    Refused::passing(
        Stage::Check,
        format!("the policy's plan does not hold: {refusal}"),
        "change the policy or its configuration, or allow more with `--max-moves`; nothing was changed",
    )
}
