//! Resolvers: they merge versions that were made apart. Each question runs on a fresh instance and a thread of its own, with the fuel,
//! memory and time of a plan.
//!
//! [`Resolver`] is a version, [`ResolverSlots`] what runs of those that are wanted: a new one takes over when it is ready, and one that
//! is refused leaves the one before.

use std::collections::BTreeMap;
use std::sync::Arc;

use portolan_core::ids::{Digest, PolicyName};
use portolan_core::plan::Refusal;
use portolan_core::time::Moment;

use crate::aside::{self, Unanswered};
use crate::defaults::{HOSTCALL_BYTES_MAX, MERGED_BYTES_MAX};
use crate::engine::{Engine, not_instantiated};
use crate::error::{Refused, Stage, printable};
use crate::guest::{self, Allowance, Failure};
use crate::log::Log;
use crate::seat::{Seat, Wanted};
use crate::source::Source;
use crate::version::Version;

/// Bytes of a guest's refusal that are told.
const MESSAGE_BYTES_MAX: usize = 1_024;

/// A resolver, ready to be asked.
#[derive(Debug)]
pub struct Resolver {
    engine: Engine,
    log: Arc<Log>,
    policy: PolicyName,
    version: Arc<Version>,
}

/// A resolver that is wanted.
#[derive(Clone, Debug)]
pub struct ResolverSpec {
    /// What the operator calls the policy.
    pub policy: PolicyName,
    /// The component, or why there is none.
    pub source: Result<Source, Refused>,
}

/// What runs of the resolvers that are wanted, by name and by the version that was asked for.
#[derive(Debug)]
pub struct ResolverSlots {
    /// They have no configuration.
    config: Arc<str>,
    engine: Engine,
    seats: BTreeMap<(PolicyName, Option<Digest>), Seat<Resolver>>,
}

impl Resolver {
    /// Loads a component. Blocks.
    ///
    /// # Errors
    /// [`Refused`] for a component that is refused, and one of another world.
    pub fn load(engine: &Engine, spec: &ResolverSpec) -> Result<Self, Refused> {
        let bytes = spec.source.clone()?.read(engine.config().limits.component_bytes_max)?;
        let version = engine.load(&bytes)?;
        if version.resolver().is_none() {
            return Err(Refused::new(
                Stage::Exports,
                format!("`{}` exports no resolver: it cannot merge rows", spec.policy),
                "name a policy of the world `resolving`",
            ));
        }
        let log = Log::new(spec.policy.clone(), engine.config().limits.log_lines_per_second);
        Ok(Self { engine: engine.clone(), log, policy: spec.policy.clone(), version })
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

    /// What it makes of two versions and what both began from, which may be unknown: then it is empty. A refusal is an answer. Blocks, no
    /// longer than a plan may take.
    ///
    /// # Errors
    /// [`Unanswered`] when there is no answer.
    pub fn resolve(
        &self,
        base: &[u8],
        left: &[u8],
        right: &[u8],
    ) -> Result<Result<Vec<u8>, Refusal>, Unanswered> {
        self.engine.aside("policy-resolver", || self.resolve_here(base, left, right))
    }

    fn resolve_here(
        &self,
        base: &[u8],
        left: &[u8],
        right: &[u8],
    ) -> Result<Result<Vec<u8>, Refusal>, Unanswered> {
        let (inner, limits) = (self.engine.inner(), &self.engine.config().limits);
        let memory = limits.plan_memory_bytes_max;
        let mut store = guest::store(&inner.machine, limits, memory, &self.log, &inner.counters);
        // What it answers may be as long as a row.
        store.set_hostcall_fuel(MERGED_BYTES_MAX + HOSTCALL_BYTES_MAX);
        guest::arm(&mut store, Allowance::to_start(limits)).map_err(|failure| aside::unanswered(&failure))?;
        let Some(indices) = self.version.resolver() else {
            return Err(Unanswered::Trap("the component exports no resolver".to_owned()));
        };
        let loaded = self
            .version
            .pre()
            .instantiate(&mut store)
            .and_then(|instance| indices.load(&mut store, &instance))
            .map_err(|error| guest::failure(&error, Some(&store)));
        let guest = loaded.map_err(|failure| match failure {
            Failure::Full(_) => aside::unanswered(&failure),
            other => Unanswered::Trap(not_instantiated(&other).reason),
        })?;
        guest::arm(&mut store, Allowance::to_plan(limits)).map_err(|failure| aside::unanswered(&failure))?;
        match guest.call_resolve(&mut store, base, left, right) {
            Ok(Ok(merged)) if merged.len() > MERGED_BYTES_MAX => {
                let bytes = merged.len();
                Err(Unanswered::Garbage(format!("it has {bytes} bytes, and {MERGED_BYTES_MAX} are read")))
            }
            Ok(Ok(merged)) => Ok(Ok(merged)),
            Ok(Err(refusal)) => {
                let message = printable(&refusal.message, MESSAGE_BYTES_MAX);
                Ok(Err(Refusal { code: refusal.code, message }))
            }
            Err(error) => Err(aside::broken(&error, &store)),
        }
    }
}

impl ResolverSlots {
    /// Nothing runs yet.
    #[must_use]
    pub fn new(engine: Engine) -> Self {
        Self { config: "{}".into(), engine, seats: BTreeMap::new() }
    }

    /// Brings what runs to what is wanted. Blocks while components are compiled. What is refused leaves what ran, and is tried again
    /// when it may pass, or when something about it changes.
    pub fn follow(&mut self, wanted: &BTreeMap<(PolicyName, Option<Digest>), ResolverSpec>, now: Moment) {
        self.seats.retain(|key, _| wanted.contains_key(key));
        for (key, spec) in wanted {
            let seat = self.seats.entry(key.clone()).or_insert_with(Seat::empty);
            let wanted = Wanted { config: &self.config, policy: &spec.policy, source: &spec.source };
            let load = |_: Wanted<'_>| Resolver::load(&self.engine, spec);
            seat.follow(Some(wanted), now, load, ("rows are merged", "the last writer's row stays"));
        }
    }

    /// What runs of this name and version.
    #[must_use]
    pub fn resolver(&self, policy: &PolicyName, version: Option<Digest>) -> Option<Arc<Resolver>> {
        self.seats.get(&(policy.clone(), version)).and_then(Seat::policy).cloned()
    }

    /// Why resolvers that are wanted do not run.
    #[must_use]
    pub fn refused(&self) -> Vec<(PolicyName, Refused)> {
        let refused = |((policy, _), seat): (&(PolicyName, Option<Digest>), &Seat<Resolver>)| {
            Some((policy.clone(), seat.refused()?.clone()))
        };
        self.seats.iter().filter_map(refused).collect()
    }
}
