//! Which answers a request may get, best first: the operator's table, then the tenant's within its bounds, then the host's
//! own rule.
//!
//! In a slot with a canary, who is asked is the lane's choice. A candidate that gives no usable answer costs nobody a request:
//! the stable policy is asked instead, and the failure is counted as evidence.

use std::sync::Arc;
use std::time::Instant;

use portolan_core::bounds::{Bounds, Breach};
use portolan_core::decide::{Asked, Fallback, Said, Undecided};
use portolan_core::ids::{PoolName, RegionName, TenantName};
use portolan_core::lane::{Chosen, Lane, Side};
use portolan_core::plan::{Action, Answer, AnswerId, Exchange, RuleId};
use portolan_core::snapshot::{Policy, Snapshot};
use portolan_core::topology::Topology;
use smallvec::SmallVec;

use crate::error::Error;
use crate::inbound::Inbound;
use crate::preview::Previewed;

/// A rule of a policy that had something to say.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// Is it the tenant's policy, which keeps to its bounds?
    pub(crate) of_tenant: bool,
    pub(crate) policy: Arc<Policy>,
    pub(crate) rule: RuleId,
    /// On which side of a rollout it stands, while one lasts in its slot.
    pub(crate) side: Option<Side>,
    pub(crate) sticky: Option<u64>,
}

impl Source {
    pub(crate) fn exchange(&self) -> Option<&Exchange> {
        self.policy.table.rule(self.rule).map(|rule| &rule.exchange)
    }

    /// What the rule lets the tenant's policy choose.
    fn bounds(&self) -> Option<&Bounds> {
        self.policy.table.rule(self.rule)?.bounds.as_deref()
    }

    /// The rule's name, or its number.
    pub(crate) fn rule_name(&self) -> String {
        let name = self.policy.table.rule(self.rule).and_then(|rule| rule.name.as_deref().map(str::to_owned));
        name.unwrap_or_else(|| format!("#{}", self.rule.0))
    }
}

/// One answer to try.
#[derive(Clone, Debug)]
pub(crate) enum Choice {
    /// The host's own.
    Own(RegionName, PoolName),
    /// A policy's, with the place of its source in [`Decision::sources`].
    Planned(usize, AnswerId),
}

/// Who was asked in a lane, and what it said if a rule of it matched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Note {
    pub(crate) side: Side,
    pub(crate) heard: Option<Heard>,
}

/// What one policy said.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heard {
    pub(crate) rule: RuleId,
    pub(crate) said: Said,
    pub(crate) fuel: u64,
}

/// What was decided.
#[derive(Clone, Debug, Default)]
pub(crate) struct Decision {
    /// What was said in each lane that was asked, in order.
    pub(crate) notes: SmallVec<[Note; 2]>,
    pub(crate) sources: SmallVec<[Source; 2]>,
    pub(crate) choices: SmallVec<[Choice; 8]>,
    /// Why dynamic rules were not answered by their policy.
    pub(crate) undecided: Option<Undecided>,
    /// Was a dynamic rule answered by its policy?
    pub(crate) asked: bool,
    /// What the tenant's policy may choose at all.
    pub(crate) bounds: Option<Arc<Bounds>>,
    /// Was a version asked that no slot runs?
    pub(crate) previewed: bool,
    /// Is a candidate to decide it again in the shadow?
    pub(crate) shadowed: bool,
    /// Why a candidate was not heard, and the stable policy answered for it.
    pub(crate) spared: Option<String>,
}

/// What a decision is made of besides the request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draw {
    /// Is it evidence for or against a policy on trial?
    pub(crate) counts: bool,
    /// The request's wall time.
    pub(crate) now_ms: u64,
    /// The request's random number.
    pub(crate) seed: u64,
}

impl Decision {
    pub(crate) fn source(&self, choice: &Choice) -> Option<&Source> {
        match choice {
            Choice::Own(..) => None,
            Choice::Planned(source, _) => self.sources.get(*source),
        }
    }

    pub(crate) fn answer(&self, choice: &Choice) -> Option<&Answer> {
        match choice {
            Choice::Own(..) => None,
            Choice::Planned(source, answer) => self.sources.get(*source)?.policy.table.answer(*answer),
        }
    }

    /// Holds a choice of the tenant's policy against what the operator allows: in general, and by the rule that left the
    /// request to it.
    ///
    /// # Errors
    /// How it is broken.
    pub(crate) fn check(
        &self,
        choice: &Choice,
        topology: &Topology,
        request: &Inbound,
    ) -> Result<(), Breach> {
        if !self.source(choice).is_some_and(|source| source.of_tenant) {
            return Ok(());
        }
        let Some(answer) = self.answer(choice) else { return Ok(()) };
        if let Some(bounds) = &self.bounds {
            bounds.check(answer)?;
        }
        let operators = self.sources.iter().filter(|source| !source.of_tenant);
        for bounds in operators.filter_map(Source::bounds) {
            bounds.check(answer)?;
        }
        let rewritten = answer.rewrite.as_ref().and_then(|rule| rule.apply(&request.path));
        match rewritten {
            Some(path) if topology.tenants.is_anothers(&path, request.tenant.as_ref()) => Err(Breach::Path),
            _ => Ok(()),
        }
    }

    /// May a choice be carried out in another region than it names?
    pub(crate) fn allows(&self, choice: &Choice, region: &RegionName) -> bool {
        let Some(source) = self.source(choice).filter(|source| source.of_tenant) else { return true };
        let answer = source.policy.table.answer(match choice {
            Choice::Own(..) => return true,
            Choice::Planned(_, answer) => *answer,
        });
        let Some(mut there) = answer.cloned() else { return false };
        if let Action::Forward { region: named, .. } = &mut there.action {
            named.clone_from(region);
        }
        let operators = self.sources.iter().filter(|source| !source.of_tenant);
        let mut bounds =
            self.bounds.iter().map(|bounds| &**bounds).chain(operators.filter_map(Source::bounds));
        bounds.all(|bounds| bounds.check(&there).is_ok())
    }

    /// Where a choice sends the request, if it sends it anywhere.
    pub(crate) fn target<'a>(&'a self, choice: &'a Choice) -> Option<(&'a RegionName, &'a PoolName)> {
        match choice {
            Choice::Own(region, pool) => Some((region, pool)),
            Choice::Planned(..) => match &self.answer(choice)?.action {
                Action::Forward { region, pool } => Some((region, pool)),
                Action::Next | Action::Redirect { .. } | Action::Respond { .. } => None,
            },
        }
    }
}

/// Decides. What was found out before an error stays in `decision`. In its slot a preview decides alone, within the bounds of
/// the slot, whatever runs there.
///
/// # Errors
/// [`Error::NotUtf8`] when a dynamic rule declares a value that is not text, [`Error::PolicyFailed`] when a policy failed
/// whose slot is closed then.
pub(crate) fn decide(
    decision: &mut Decision,
    snapshot: &Snapshot,
    request: &Inbound,
    draw: Draw,
    preview: Option<&Previewed>,
) -> Result<(), Error> {
    let tenants = &snapshot.topology.tenants;
    let tenant = request.tenant.as_ref();
    let tenants_lane = tenant.and_then(|tenant| snapshot.policies.tenants.get(tenant));
    for (of_tenant, lane) in [(false, snapshot.policies.operator.as_ref()), (true, tenants_lane)] {
        let preview = preview.filter(|preview| preview.is_in(of_tenant));
        if of_tenant && (lane.is_some() || preview.is_some()) {
            decision.bounds = tenants.of(tenant).map(|tenant| Arc::clone(&tenant.bounds));
        }
        let (chosen, asked) = match (preview, lane) {
            (Some(Previewed { policy, .. }), _) => {
                decision.previewed = true;
                let chosen = Chosen { policy, side: Side::Stable, trial: None };
                (chosen, ask(chosen, request, draw))
            }
            (None, Some(lane)) => {
                decision.shadowed |= draw.counts && lane.shadow().is_some();
                let chosen = lane.choose(tenant, &snapshot.topology.local, request.client);
                hear(decision, lane, chosen, request, draw)
            }
            (None, None) => continue,
        };
        let heard =
            asked.as_ref().map(|asked| Heard { rule: asked.rule, said: asked.said, fuel: asked.fuel });
        decision.notes.push(Note { side: chosen.side, heard });
        let Some(asked) = asked else { continue };
        if !follow(decision, chosen, asked, of_tenant, request)? {
            return Ok(());
        }
    }
    own(decision, &snapshot.topology);
    Ok(())
}

/// What runs in the slots that a request is asked in, in order.
pub(crate) fn lanes<'s>(
    snapshot: &'s Snapshot,
    tenant: Option<&TenantName>,
) -> impl Iterator<Item = &'s Arc<Lane>> {
    let of_tenant = tenant.and_then(|tenant| snapshot.policies.tenants.get(tenant));
    snapshot.policies.operator.iter().chain(of_tenant)
}

/// Asks the chosen policy, and instead of a candidate that has no answer the stable one.
fn hear<'l>(
    decision: &mut Decision,
    lane: &'l Lane,
    chosen: Chosen<'l>,
    request: &Inbound,
    draw: Draw,
) -> (Chosen<'l>, Option<Asked>) {
    let asked = ask(chosen, request, draw);
    let why = match asked.as_ref().map(|asked| asked.said) {
        _ if chosen.side == Side::Stable => None,
        Some(Said::Undecided(why)) => Some(why.to_string()),
        Some(Said::NotText) => Some(Error::NotUtf8.to_string()),
        Some(Said::Index(_) | Said::Table) | None => None,
    };
    if why.is_none() {
        return (chosen, asked);
    }
    decision.spared = why;
    let stable = Chosen { policy: &lane.stable, side: Side::Stable, ..chosen };
    (stable, ask(stable, request, draw))
}

/// Asks a policy, and counts what it did while a rollout lasts in its slot; none when no rule of it matches.
fn ask(chosen: Chosen<'_>, request: &Inbound, draw: Draw) -> Option<Asked> {
    let Policy { table, decider, .. } = &**chosen.policy;
    let ask = || portolan_core::decide::ask(table, &**decider, request, draw.seed, draw.now_ms);
    let Some(trial) = chosen.trial.filter(|_| draw.counts) else { return ask() };
    let begun = Instant::now();
    let asked = ask();
    trial.count(chosen.side, asked.as_ref().map_or(Said::Table, |asked| asked.said), begun.elapsed());
    asked
}

/// Adds one policy's choices; `true` when the request goes on to the next slot behind them.
fn follow(
    decision: &mut Decision,
    chosen: Chosen<'_>,
    asked: Asked,
    of_tenant: bool,
    request: &Inbound,
) -> Result<bool, Error> {
    let Asked { rule, order, said, .. } = asked;
    let Chosen { policy, side, trial } = chosen;
    match said {
        Said::Index(_) => decision.asked = true,
        Said::NotText => return Err(Error::NotUtf8),
        Said::Table => {}
        Said::Undecided(why) => {
            decision.undecided = Some(why);
            match policy.on_fail.after(why) {
                Fallback::Close => return Err(Error::PolicyFailed(why)),
                Fallback::Pass => return Ok(true),
                Fallback::Table => {}
            }
        }
    }
    let source = decision.sources.len();
    let sticky = policy.table.rule(rule).and_then(|rule| policy.table.sticky_hash(rule, request));
    let side = trial.map(|_| side);
    decision.sources.push(Source { of_tenant, policy: Arc::clone(policy), rule, side, sticky });
    for answer in order {
        let next = policy.table.answer(answer).is_none_or(|answer| answer.action == Action::Next);
        if next {
            return Ok(true);
        }
        decision.choices.push(Choice::Planned(source, answer));
    }
    Ok(false)
}

/// The host's own rule: the first pool of the local region, then the same pool elsewhere, nearest first.
fn own(decision: &mut Decision, topology: &Topology) {
    let local = topology.regions.get(&topology.local);
    let Some(pool) = local.and_then(|region| region.pools.keys().next()) else { return };
    let mut others: SmallVec<[(u32, &RegionName); 8]> = topology
        .regions
        .values()
        .filter(|region| region.pools.contains_key(pool))
        .map(|region| {
            let declared = topology.latency_us.get(&(topology.local.clone(), region.name.clone())).copied();
            let latency = region.cell.latency_us().or(declared).unwrap_or(u32::MAX);
            (if region.name == topology.local { 0 } else { latency.max(1) }, &region.name)
        })
        .collect();
    others.sort();
    decision.choices.extend(others.into_iter().map(|(_, region)| Choice::Own(region.clone(), pool.clone())));
}
