//! Failover policies: what to do when regions fail. Each question runs on a fresh instance and a thread of its own, with little fuel
//! and memory and a deadline, because somebody waits for the answer; it is taken as a whole or not at all.
//!
//! [`Failover`] is a version with its configuration, [`FailoverSlot`] what runs in the operator's one slot for it: a new one takes
//! over when it is ready and its golden vectors pass, and one that is refused leaves the one before. Nothing is left alone for
//! a while here, as other policies are that fail: whoever asks decides what holds instead.

use std::sync::Arc;

use portolan_core::failover::{Answers, Picture, Proposed};
use portolan_core::ids::{Digest, PolicyName};
use portolan_core::plan::Refusal;
use portolan_core::time::Moment;
use serde::Serialize;
use wasmtime::Store;

use crate::aside::{self, Unanswered};
use crate::bindings::exports::portolan::policy::proposer;
use crate::config::Limits;
use crate::engine::{Engine, not_instantiated};
use crate::error::{Refused, Stage, printable};
use crate::guest::{self, Allowance, State};
use crate::log::{Line, Log};
use crate::schema;
use crate::seat::{Seat, Wanted};
use crate::section::{VECTORS_SECTION, without_section};
use crate::source::Source;
use crate::vectors;
use crate::version::Version;

/// Bytes of a guest's refusal that are told.
const MESSAGE_BYTES_MAX: usize = 1_024;

/// A failover policy, ready to be asked.
#[derive(Debug)]
pub struct Failover {
    config: Arc<str>,
    engine: Engine,
    log: Arc<Log>,
    policy: PolicyName,
    version: Arc<Version>,
}

/// What is wanted in the slot.
#[derive(Clone, Debug)]
pub struct FailoverSpec {
    /// The policy's configuration, a JSON object.
    pub config: Arc<str>,
    /// What the operator calls the policy.
    pub policy: PolicyName,
    /// The component, or why there is none.
    pub source: Result<Source, Refused>,
}

/// How the slot stands.
#[derive(Clone, Debug, Serialize)]
pub struct FailoverReport {
    /// The last lines of its log, oldest first.
    pub log: Vec<Line>,
    /// The policy that runs.
    pub policy: Option<PolicyName>,
    /// Why what is wanted does not run.
    pub refused: Option<Refused>,
    /// The version that runs.
    pub version: Option<Digest>,
}

/// The slot for the operator's failover policy.
#[derive(Debug)]
pub struct FailoverSlot {
    engine: Engine,
    seat: Seat<Failover>,
}

impl Failover {
    /// Loads a component, checks the configuration against its schema and tries its golden vectors. Blocks.
    ///
    /// # Errors
    /// [`Refused`] for a component that is refused, one of another world, a configuration that does not fit, and vectors that fail.
    pub fn load(engine: &Engine, spec: &FailoverSpec) -> Result<Self, Refused> {
        Self::of(engine, spec.wanted())
    }

    fn of(engine: &Engine, Wanted { config, policy, source }: Wanted<'_>) -> Result<Self, Refused> {
        let limits = &engine.config().limits;
        let bytes = source.clone()?.read(limits.component_bytes_max)?;
        let version = engine.load(&bytes)?;
        if version.proposer().is_none() {
            return Err(Refused::new(
                Stage::Exports,
                format!("`{policy}` exports no proposer: it has nothing to say when regions fail"),
                "name a policy of the world `failover`, such as `failover-conservative`, or one that is built in",
            ));
        }
        schema::check(version.checker(), config, limits)?;
        let log = Log::new(policy.clone(), limits.log_lines_per_second);
        // The last section of the name wins, as where components are screened.
        if let Some(text) = without_section(&bytes, VECTORS_SECTION).1.pop() {
            let text = String::from_utf8_lossy(&text);
            vectors::verdict(&engine.try_vectors(&version, &vectors::read(&text)?, &log)?)?;
        }
        let (config, policy) = (Arc::clone(config), policy.clone());
        Ok(Self { config, engine: engine.clone(), log, policy, version })
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

    /// What it proposes, in its order, and the fuel that it took. Blocks, no longer than [`Limits::propose_wall_max`] and starting an
    /// instance take.
    ///
    /// # Errors
    /// [`Unanswered`] when there is no answer.
    pub fn propose(&self, picture: &Arc<Picture>) -> Result<(Vec<Proposed>, u64), Unanswered> {
        self.engine.propose(&self.version, &self.config, picture, &self.log)
    }
}

impl Engine {
    /// Asks a version what it proposes, on a thread of its own: what waits for the answer is more than a request.
    pub(crate) fn propose(
        &self,
        version: &Version,
        config: &str,
        picture: &Arc<Picture>,
        log: &Arc<Log>,
    ) -> Result<(Vec<Proposed>, u64), Unanswered> {
        self.aside("policy-failover", || self.propose_here(version, config, picture, log))
    }

    fn propose_here(
        &self,
        version: &Version,
        config: &str,
        picture: &Arc<Picture>,
        log: &Arc<Log>,
    ) -> Result<(Vec<Proposed>, u64), Unanswered> {
        let (inner, limits) = (self.inner(), &self.config().limits);
        inner.counters.plans.add(1);
        let memory = limits.propose_memory_bytes_max;
        let mut store = guest::store(&inner.machine, limits, memory, log, &inner.counters);
        let guest =
            instance(version, &mut store, limits).map_err(|refused| Unanswered::Trap(refused.reason))?;
        let allowance =
            Allowance::of_processor(limits.propose_fuel, limits.propose_deadline, limits.propose_wall_max);
        guest::arm(&mut store, allowance).map_err(|failure| aside::unanswered(&failure))?;
        guest::lend_answers(&mut store, Answers::new(Arc::clone(picture)));
        let called = guest.call_propose(&mut store, config);
        let answers = guest::take_answers(&mut store);
        let fuel = allowance.fuel.saturating_sub(store.get_fuel().unwrap_or(0));
        match (called, answers) {
            (Ok(Ok(())), Some(answers)) => {
                let proposed =
                    answers.finish().map_err(|refusal| Unanswered::Garbage(refusal.to_string()))?;
                Ok((proposed, fuel))
            }
            (Ok(Ok(())), None) => unreachable!("nobody takes the picture while the guest is asked"),
            (Ok(Err(refusal)), _) => {
                let message = printable(&refusal.message, MESSAGE_BYTES_MAX);
                let refusal = Refusal { code: refusal.code, message };
                Err(Unanswered::Garbage(format!("the policy says no: {refusal}")))
            }
            (Err(error), _) => Err(aside::broken(&error, &store)),
        }
    }
}

fn instance(
    version: &Version,
    store: &mut Store<State>,
    limits: &Limits,
) -> Result<proposer::Guest, Refused> {
    guest::arm(store, Allowance::to_start(limits)).map_err(|failure| not_instantiated(&failure))?;
    let Some(indices) = version.proposer() else {
        return Err(Refused::new(Stage::Exports, "the component exports no proposer", "use one that does"));
    };
    let loaded = version
        .pre()
        .instantiate(&mut *store)
        .and_then(|instance| indices.load(&mut *store, &instance))
        .map_err(|error| guest::failure(&error, Some(store)));
    loaded.map_err(|failure| not_instantiated(&failure))
}

impl FailoverSpec {
    const fn wanted(&self) -> Wanted<'_> {
        Wanted { config: &self.config, policy: &self.policy, source: &self.source }
    }
}

impl FailoverSlot {
    /// Nothing runs yet.
    #[must_use]
    pub const fn new(engine: Engine) -> Self {
        Self { engine, seat: Seat::empty() }
    }

    /// Brings what runs to what is wanted. Blocks while a component is compiled and its vectors are tried. What is refused leaves
    /// what ran, and is tried again when it may pass, or when something about it changes.
    pub fn follow(&mut self, spec: Option<&FailoverSpec>, now: Moment) {
        let load = |wanted: Wanted<'_>| Failover::of(&self.engine, wanted);
        let words = ("what is done when regions fail is proposed", "the built-in policy answers");
        self.seat.follow(spec.map(FailoverSpec::wanted), now, load, words);
    }

    /// What runs.
    #[must_use]
    pub fn failover(&self) -> Option<&Arc<Failover>> {
        self.seat.policy()
    }

    /// How it stands.
    #[must_use]
    pub fn report(&self) -> FailoverReport {
        let runs = self.seat.runs();
        FailoverReport {
            log: self.seat.policy().map(|policy| policy.lines()).unwrap_or_default(),
            policy: runs.map(|(name, _)| name.clone()),
            refused: self.seat.refused().cloned(),
            version: runs.map(|(_, version)| version),
        }
    }
}
