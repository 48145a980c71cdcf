//! Which of a decision's targets a request tries first, and why: `core::steering` over what a node knows. Residency and the
//! tenant's bounds are checked before a region becomes a level, whoever names it: policy, traffic plan or replica.

use std::fmt;
use std::sync::Arc;

use http::HeaderMap;
use portolan_core::balance::{splitmix, stable_hash};
use portolan_core::ids::{PoolName, RegionName};
use portolan_core::steering::{Forwarded, Gate, Level, Loads, Pass, Traffic, WHOLE};
use portolan_core::time::Moment;
use portolan_core::topology::Topology;
use portolan_foundation::clock;
use smallvec::SmallVec;

use crate::decide::{Choice, Decision};
use crate::error::Error;
use crate::forward::Answered;
use crate::inbound::Inbound;
use crate::peer::FAILED;
use crate::server::Worker;

/// Why a region is among the targets of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The decision names it.
    Decided,
    /// The traffic plan sends a part of another region's traffic there.
    Moved,
    /// All that was decided is out, and it has a replica of the tenant's shard.
    Replica,
}

/// One target, in the order of trying.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step<'a> {
    pub(crate) choice: &'a Choice,
    pub(crate) level: Level,
    /// Is it used whatever probes say?
    pub(crate) panics: bool,
    /// The part of [`WHOLE`] of all such requests that it is the first for.
    pub(crate) part: u32,
    pub(crate) pool: &'a PoolName,
    pub(crate) reason: Reason,
    pub(crate) region: &'a RegionName,
}

/// All targets, and what remains without them.
#[derive(Debug, Default)]
pub(crate) struct Steered<'a> {
    /// An answer that needs no upstream, for when all targets fail.
    pub(crate) direct: Option<&'a Choice>,
    /// Targets that the tenant's residency class does not allow.
    pub(crate) forbidden: usize,
    /// Targets outside of what the operator allows the tenant.
    pub(crate) outside: usize,
    /// All targets that were decided.
    pub(crate) named: usize,
    pub(crate) steps: SmallVec<[Step<'a>; 4]>,
    /// Is the first target another than decided, or one in panic?
    pub(crate) why: Option<Why>,
}

/// Why a request goes first where it was not decided to go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// The traffic plan moves it.
    Moved,
    /// Too little is well: what probes say counts no more.
    Panic,
    /// Its region is out, and a replica answers.
    Replica,
    /// A region of higher priority cannot take all of its traffic.
    Spilled,
}

impl Why {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Moved => "moved",
            Self::Panic => "panic",
            Self::Replica => "replica",
            Self::Spilled => "spilled",
        }
    }
}

impl fmt::Display for Step<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Level { healthy, share } = self.level;
        let reason = match self.reason {
            Reason::Decided => "decided",
            Reason::Moved => "the traffic plan moves requests here",
            Reason::Replica => "it has a replica of the tenant's shard",
        };
        write!(
            f,
            "first for {} % of such requests: {reason}, {healthy} % healthy",
            self.part / (WHOLE / 100)
        )?;
        if share < 100 {
            write!(f, ", {share} % of its share")?;
        }
        if self.panics {
            f.write_str(", in panic: probes are not believed")?;
        }
        Ok(())
    }
}

/// Puts the targets of a decision in the order in which this request tries them.
pub(crate) fn steer<'a>(
    topology: &'a Topology,
    inbound: &'a Inbound,
    decision: &'a Decision,
    now: Moment,
) -> Steered<'a> {
    let traffic = topology.steering.load();
    let mut found = Find { topology, inbound, decision, now, traffic: &traffic, steered: Steered::default() };
    found.decided();
    if found.steered.direct.is_none() && found.steered.steps.iter().all(|step| bears(step) == 0) {
        found.replicas();
    }
    let mut steered = found.steered;
    let levels: SmallVec<[Level; 8]> = steered.steps.iter().map(|step| step.level).collect();
    let loads = Loads::of(&levels, topology.steering_limits.panic_percent);
    for ((step, part), panics) in steered.steps.iter_mut().zip(&loads.parts).zip(&loads.panics) {
        // Who changes something waits for a region that is there, instead of trying one that is not.
        step.panics = *panics && (*step.region == topology.local || inbound.written_at().is_none());
        step.part = *part;
    }
    let order = loads.order(hash(inbound, decision));
    let first = order.first().copied().unwrap_or(0);
    steered.why = steered.steps.get(first).and_then(|step| match step.reason {
        Reason::Moved => Some(Why::Moved),
        Reason::Replica => Some(Why::Replica),
        Reason::Decided if step.panics => Some(Why::Panic),
        Reason::Decided => (first > 0).then_some(Why::Spilled),
    });
    steered.steps = order.iter().filter_map(|level| steered.steps.get(*level).copied()).collect();
    steered
}

const fn bears(step: &Step<'_>) -> u32 {
    step.level.healthy * step.level.share
}

/// The hash by which shares move: a client of a tenant keeps its region, unless a rule keeps something else together.
fn hash(inbound: &Inbound, decision: &Decision) -> u64 {
    let sticky = decision.sources.first().and_then(|source| source.sticky);
    sticky.unwrap_or_else(|| {
        let tenant = inbound.tenant.as_ref().map_or("", |tenant| tenant.as_str());
        splitmix(stable_hash(inbound.client.to_string().as_bytes()) ^ stable_hash(tenant.as_bytes()))
    })
}

/// Looks for targets.
struct Find<'a, 't> {
    decision: &'a Decision,
    inbound: &'a Inbound,
    now: Moment,
    steered: Steered<'a>,
    topology: &'a Topology,
    traffic: &'t Traffic,
}

impl<'a> Find<'a, '_> {
    /// Those of the decision, each with where its traffic is moved to.
    fn decided(&mut self) {
        for choice in &self.decision.choices {
            let Some((region, pool)) = self.decision.target(choice) else {
                if self.decision.check(choice, self.topology, self.inbound).is_ok() {
                    self.steered.direct = Some(choice);
                    return;
                }
                self.steered.named += 1;
                self.steered.outside += 1;
                continue;
            };
            self.steered.named += 1;
            if self.decision.check(choice, self.topology, self.inbound).is_err() {
                self.steered.outside += 1;
                continue;
            }
            let stands = self.inbound.stands_at(self.topology, region, pool);
            if !self.topology.allows(self.inbound.residency.as_ref(), stands) {
                self.steered.forbidden += 1;
                continue;
            }
            self.add(choice, stands, pool, Reason::Decided);
            // A request that must stand where its shard is written is moved by nobody.
            let moved = self.traffic.target(stands).filter(|_| stands == region && !self.is_written(region));
            if let Some((target, _)) = moved.and_then(|target| self.topology.regions.get_key_value(target)) {
                self.offer(choice, target, pool, Reason::Moved);
            }
        }
    }

    /// Regions that keep a copy of the tenant's shard, for who only reads: nearest first.
    fn replicas(&mut self) {
        let Some(Step { choice, pool, .. }) = self.steered.steps.first().copied() else { return };
        let home = self.inbound.home.as_ref().filter(|_| self.inbound.written_at().is_none());
        let Some(shard) = home.and_then(|home| self.topology.directory.named(&home.shard)) else { return };
        let keepers = std::iter::once(&shard.primary).chain(&shard.replicas);
        let mut keepers: SmallVec<[(u32, &RegionName); 8]> = keepers
            .filter_map(|name| {
                let (name, region) = self.topology.regions.get_key_value(name)?;
                let near = if *name == self.topology.local { Some(0) } else { region.cell.latency_us() };
                Some((near.unwrap_or(u32::MAX), name))
            })
            .collect();
        keepers.sort();
        for (_, region) in keepers {
            self.offer(choice, region, pool, Reason::Replica);
        }
    }

    /// Adds a region that was not decided, where it has the pool and both residency and bounds allow it.
    fn offer(&mut self, choice: &'a Choice, region: &'a RegionName, pool: &'a PoolName, reason: Reason) {
        let exists = self.topology.pool(region, pool).is_some();
        let allowed = self.topology.allows(self.inbound.residency.as_ref(), region);
        if exists && allowed && self.decision.allows(choice, region) {
            self.add(choice, region, pool, reason);
        }
    }

    fn add(&mut self, choice: &'a Choice, region: &'a RegionName, pool: &'a PoolName, reason: Reason) {
        if self.steered.steps.iter().any(|step| step.region == region && step.pool == pool) {
            return;
        }
        let level = level(self.topology, self.traffic, region, pool, self.now);
        self.steered.steps.push(Step { choice, level, panics: false, part: 0, pool, reason, region });
    }

    fn is_written(&self, region: &RegionName) -> bool {
        self.inbound.written_at().is_some_and(|primary| primary == region)
    }
}

/// How a target stands.
pub(crate) fn level(
    topology: &Topology,
    traffic: &Traffic,
    region: &RegionName,
    pool: &PoolName,
    now: Moment,
) -> Level {
    let known = topology.regions.get(region).and_then(|place| Some((place, place.pools.get(pool)?)));
    let Some((place, direct)) = known else { return Level { healthy: 0, share: 0 } };
    let gateways = place.gateways.as_ref().filter(|_| *region != topology.local);
    let endpoints = &gateways.unwrap_or(direct).endpoints;
    let eligible = endpoints.iter().filter(|endpoint| endpoint.cell.is_eligible(now)).count();
    let healthy =
        (eligible * 100).checked_div(endpoints.len()).and_then(|percent| u32::try_from(percent).ok());
    let mut share = traffic.share(region);
    if *region != topology.local {
        let ramp = topology.steering_limits.ramp;
        let gate = gateways.map_or(100, |_| direct.gate.share(ramp, now));
        // Probes and the gate see one recovery: it is ramped up once, by whoever saw it last.
        share = share * place.cell.share(ramp, now).min(gate) / 100;
    }
    Level { healthy: healthy.unwrap_or(0), share }
}

/// A request on its way through a region's gate, given back with what came of it: nothing, when the client goes away.
pub(crate) struct Through<'a> {
    gate: Arc<Gate>,
    pass: Option<Pass>,
    region: &'a RegionName,
    topology: &'a Topology,
    worker: &'a Worker,
}

impl<'a> Through<'a> {
    /// Takes a place; none while the region's breaker is open.
    pub(crate) fn start(
        worker: &'a Worker,
        topology: &'a Topology,
        region: &'a RegionName,
        gate: &Arc<Gate>,
    ) -> Option<Self> {
        let pass = Some(gate.start(clock::now())?);
        Some(Self { gate: Arc::clone(gate), pass, region, topology, worker })
    }

    pub(crate) fn end(mut self, answered: &Answered) {
        self.give_back(forwarded(answered));
    }

    fn give_back(&mut self, forwarded: Forwarded) {
        let limits = &self.topology.steering_limits.breaker;
        if let Some(pass) = self.pass.take()
            && self.gate.finish(pass, forwarded, limits, clock::now())
        {
            self.worker.shard.region_breakers_opened.add(1);
            tracing::warn!(region = %self.region, "forwarding there fails: requests go elsewhere until a probe gets through");
        }
    }
}

impl Drop for Through<'_> {
    fn drop(&mut self) {
        self.give_back(Forwarded::Neutral);
    }
}

/// What an answer over the peer link says of the region: what its applications answer is not its failure, what its gateway says of
/// itself is.
fn forwarded(answered: &Answered) -> Forwarded {
    let failed = |headers: &HeaderMap| headers.contains_key(FAILED);
    match answered {
        Answered::Good(_) | Answered::Bad { error: Error::Stale, .. } => Forwarded::Served,
        Answered::Bad { error: Error::BodyBroken | Error::BodyTooLarge, .. } => Forwarded::Neutral,
        Answered::Bad { response: Some(response), .. } if !failed(response.headers()) => Forwarded::Served,
        Answered::Bad { .. } => Forwarded::Failed,
    }
}
