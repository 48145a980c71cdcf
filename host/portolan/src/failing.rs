//! Who says what to do when regions fail: the component that `[failover] policy` names, as a node keeps it.
//!
//! Two services meet here that do not know each other: `portolan-failover`, which decides from a picture and holds everybody to its
//! guards, and `portolan-policy`, which runs components. The picture goes over into the words of `core::failover`, and the
//! proposals come back. A policy that gives no answer is no answer: the seat of `portolan-failover` decides what holds then.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use portolan_control::State;
use portolan_core::failover::{
    Cells, Detour, Event, Intent, Picture, Proposed, Region, Replica, Shard, Sight, Verdict,
};
use portolan_core::ids::{Digest, PolicyName, RegionName};
use portolan_failover::counter;
use portolan_failover::intent::Intents;
use portolan_failover::picture::{self, Limits};
use portolan_failover::policies::Fault;
use portolan_failover::proposal::Proposal;
use portolan_failover::{matrix, store};
use portolan_foundation::clock;
use portolan_policy::{Engine, Failover, FailoverReport, FailoverSlot, Refused, Unanswered};
use tokio::runtime::Handle;

use crate::config::{self, Config, PolicySlot};
use crate::node::policies::Sources;
use crate::placement;

/// The slot. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Failing(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The node's; none where no node runs.
    engine: Option<Engine>,
    handle: Handle,
    slot: Mutex<Option<(FailoverSlot, Sources)>>,
}

impl Failing {
    /// Of a node, or of a command of its own, which makes an engine only when there is a policy to run.
    pub(crate) fn new(engine: Option<Engine>, handle: Handle) -> Self {
        Self(Arc::new(Inner { engine, handle, slot: Mutex::default() }))
    }

    /// Runs this policy from now on, or goes on with what ran; none is for a policy that is built in. Blocks while a component is compiled
    /// and its golden vectors are tried. Not to be called while a promotion is under way: its policy stays until it has ended.
    ///
    /// # Errors
    /// When there can be no engine.
    pub(crate) fn follow(
        &self,
        config: &Config,
        policy: Option<&PolicySlot>,
        state: Option<&State>,
    ) -> anyhow::Result<()> {
        let mut slot = self.0.slot.lock().unwrap_or_else(PoisonError::into_inner);
        if policy.is_none() && slot.is_none() {
            return Ok(());
        }
        let (slot, sources) = match &mut *slot {
            Some(both) => both,
            empty => {
                let engine = match &self.0.engine {
                    Some(engine) => engine.clone(),
                    None => placement::engine(config)?,
                };
                let components = config::components(config.components.as_ref(), &config.state)?;
                let sources = Sources::with_components(components, &self.0.handle);
                empty.insert((FailoverSlot::new(engine), sources))
            }
        };
        let bytes_max = placement::component_bytes_max(config);
        let spec = policy.map(|policy| sources.failover(config, policy, state, bytes_max));
        slot.follow(spec.as_ref(), clock::now());
        Ok(())
    }

    /// What it proposes, and the fuel that it took. Blocks, for some 20 ms of a processor at most: not on a thread of the data plane.
    ///
    /// # Errors
    /// [`Fault`] when there is no answer, also where no component runs.
    pub(crate) fn propose(&self, picture: &picture::Picture) -> Result<(Vec<Proposal>, u64), Fault> {
        let Some(policy) = self.running() else {
            let refused = self.report().and_then(|report| report.refused);
            let why = refused.map_or_else(|| "none was named".to_owned(), |refused| refused.to_string());
            return Err(Fault::Trap(format!("no component runs: {why}")));
        };
        match policy.propose(&Arc::new(told(picture))) {
            Ok((proposed, fuel)) => Ok((proposed.into_iter().map(wanted).collect(), fuel)),
            Err(unanswered) => Err(fault(unanswered)),
        }
    }

    /// What runs: what its operator calls it, and its version.
    pub(crate) fn runs(&self) -> Option<(PolicyName, Digest)> {
        self.running().map(|policy| (policy.policy().clone(), policy.version()))
    }

    /// How the slot stands; none where no component was ever named.
    pub(crate) fn report(&self) -> Option<FailoverReport> {
        let slot = self.0.slot.lock().unwrap_or_else(PoisonError::into_inner);
        slot.as_ref().map(|(slot, _)| slot.report())
    }

    fn running(&self) -> Option<Arc<Failover>> {
        let slot = self.0.slot.lock().unwrap_or_else(PoisonError::into_inner);
        slot.as_ref().and_then(|(slot, _)| slot.failover().cloned())
    }
}

/// Why a policy would not run; none when it would. Blocks.
///
/// # Errors
/// When that cannot be found out.
pub(crate) fn refused(
    config: &Config,
    policy: &PolicySlot,
    state: Option<&State>,
    engine: Option<Engine>,
) -> anyhow::Result<Option<Refused>> {
    let engine = match engine {
        Some(engine) => engine,
        None => placement::engine(config)?,
    };
    let runtime = crate::node::control_runtime()?;
    let components = config::components(config.components.as_ref(), &config.state)?;
    let mut sources = Sources::with_components(components, runtime.handle());
    let spec = sources.failover(config, policy, state, placement::component_bytes_max(config));
    Ok(Failover::load(&engine, &spec).err())
}

/// The picture, as policies see it.
fn told(picture: &picture::Picture) -> Picture {
    let regions = picture.regions.iter();
    let shards = picture.shards.iter();
    let mut sights: BTreeMap<(RegionName, RegionName), Cells> = BTreeMap::new();
    for seen in &picture.sights {
        let cells = seen.cells.iter().map(|(path, state)| (path.as_str(), sight(*state)));
        sights.entry((seen.region.clone(), seen.vantage.clone())).or_default().extend(cells);
    }
    let detour = |(region, shift): (&RegionName, &picture::Shift)| {
        let detour =
            Detour { percent: shift.percent, since_ms: shift.since_ms, target: shift.target.clone() };
        (region.clone(), detour)
    };
    let failure = |one: &store::Failure| Event { at_ms: one.at_ms, region: one.region.clone() };
    let removal = |one: &picture::Removal| Event { at_ms: one.at_ms, region: one.region.clone() };
    Picture {
        control: picture.control,
        detours: picture.shifts.iter().map(detour).collect(),
        failures: picture.failures.iter().map(failure).collect(),
        frozen: picture.intents.freeze.is_some(),
        limits: limits(&picture.limits),
        local: picture.local.clone(),
        now_ms: picture.now_ms,
        regions: regions.map(|(name, there)| (name.clone(), region(name, there, &picture.intents))).collect(),
        removals: picture.removals.iter().map(removal).collect(),
        shards: shards.map(|(name, there)| (name.clone(), shard(there))).collect(),
        sights,
    }
}

fn region(name: &RegionName, there: &picture::Region, intents: &Intents) -> Region {
    let said = [
        (Intent::Drain, intents.drains.contains_key(name)),
        (Intent::Lost, intents.lost.contains_key(name)),
        (Intent::Maintenance, intents.maintenance.contains_key(name)),
    ];
    Region {
        answers: there.answers,
        capacity: there.capacity,
        database: there.database,
        down_ms: there.down_ms,
        intents: said.into_iter().filter_map(|(intent, is_said)| is_said.then_some(intent)).collect(),
        load: there.load,
        verdict: match there.verdict {
            matrix::Verdict::Down { .. } => Verdict::Down,
            matrix::Verdict::Gray => Verdict::Gray,
            matrix::Verdict::Healthy => Verdict::Healthy,
            matrix::Verdict::Partitioned => Verdict::Partitioned,
            matrix::Verdict::Suspect => Verdict::Suspect,
            matrix::Verdict::Unknown => Verdict::Unknown,
        },
        well_ago_ms: there.well_ago_ms,
    }
}

fn shard(there: &picture::Shard) -> Shard {
    let mut replicas: Vec<_> = there.replicas.iter().collect();
    // The sort is stable, and regions come in the order of their names.
    replicas.sort_by_key(|(_, replica)| Reverse(replica.position));
    let replica = |(region, replica): (&RegionName, &picture::Replica)| Replica {
        ago_ms: replica.ago_ms,
        behind_bytes: replica.behind_bytes,
        behind_ms: replica.behind_ms,
        behind_rows: replica.behind_rows,
        current: replica.epoch == there.epoch,
        region: region.clone(),
        rows: replica.rows,
        whole: replica.whole,
    };
    Shard {
        allowed: there.allowed.clone(),
        home: there.home.clone(),
        loss_bytes_max: there.max_loss.bytes,
        loss_ms_max: there.max_loss.ms,
        loss_rows_max: there.max_loss.rows,
        primary: there.primary.clone(),
        replicas: replicas.into_iter().map(replica).collect(),
        running: there.running.is_some(),
        void: there.void,
    }
}

const fn sight(state: counter::State) -> Sight {
    match state {
        counter::State::Down => Sight::Down,
        counter::State::Identity => Sight::Identity,
        counter::State::Suspect => Sight::Suspect,
        counter::State::Unknown => Sight::Unknown,
        counter::State::Up => Sight::Up,
    }
}

fn limits(limits: &Limits) -> BTreeMap<&'static str, u64> {
    BTreeMap::from([
        ("failback", u64::from(limits.failback)),
        ("headroom-percent", u64::from(limits.headroom_percent)),
        ("interval-ms", limits.interval_ms),
        ("lag-age-ms", limits.lag_age_ms),
        ("outage-ms", limits.outage_ms),
        ("per-day", u64::from(limits.per_day)),
        ("ramp-step-ms", limits.ramp_step_ms),
        ("removal-window-ms", limits.removal_window_ms),
    ])
}

/// A proposal, as guards judge it.
fn wanted(proposed: Proposed) -> Proposal {
    match proposed {
        Proposed::Drain { region } => Proposal::Drain { region },
        Proposed::Hold => Proposal::Hold,
        Proposed::Promote { shard, region } => Proposal::Promote { shard, region },
        Proposed::ReadOnly { shard } => Proposal::ReadOnly { shard },
        Proposed::Shift { region, target, percent } => Proposal::Shift { region, target, percent },
    }
}

fn fault(unanswered: Unanswered) -> Fault {
    match unanswered {
        Unanswered::Garbage(why) => Fault::Garbage(why),
        Unanswered::Overrun(_) => Fault::Overrun,
        Unanswered::Trap(why) | Unanswered::Unavailable(why) => Fault::Trap(why),
    }
}

#[cfg(test)]
mod tests;
