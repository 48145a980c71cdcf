//! What holds whatever a policy says. Each rule is a function of the picture and of what is wanted, and says why it bars, for the operator.
//!
//! [`judge`] holds proposals against all of them. Four rules keep two regions from writing one shard; nobody overrides those but by declaring a
//! region lost. What they rest on at the last (leases, the control store's transactions, fences) does not ask a policy anything.

mod moving;
mod traffic;
mod writing;

use std::collections::{BTreeMap, BTreeSet};

use portolan_core::ids::{RegionName, ShardName};
use serde::{Deserialize, Serialize};

pub use self::moving::{anti_flap, copied, failed, lag_gate, no_failback, operator, rate, residency};
pub use self::traffic::{answers_stay, capacity, ramp};
pub use self::writing::{majority, no_takeover, no_write_without_lease, one_writer};
use crate::defaults::PROPOSALS_MAX;
use crate::matrix::Verdict;
use crate::picture::{Picture, Removal, Shard, Shift};
use crate::promotion::Kind;
use crate::proposal::{Origin, Proposal};

/// A rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// 1. At most one region writes a shard in an epoch, and epochs rise.
    OneWriter,
    /// 2. Nobody writes without a lease that lasts.
    LeaseToWrite,
    /// 3. Nobody takes over before it is certain that the lease is over.
    ProvenExpiry,
    /// 4. Nobody acquires anything without the control store's majority.
    Majority,
    /// 5. A candidate is known, close enough, and the most advanced.
    LagGate,
    /// 6. Automatic failovers have a rate, and wait for what ends by itself.
    AntiFlap,
    /// 7. Nothing goes back by itself.
    NoFailback,
    /// 8. Some region always answers, and few are removed at a time.
    AnswersStay,
    /// 9. Nobody gets more traffic than it can take, or faster.
    Capacity,
    /// 10. DNS plans have bounds, numbers and a rate.
    PlanBounds,
    /// 11. Data stay where they may be.
    Residency,
    /// 12. Operators' words hold.
    Operator,
    /// 13. Policies tighten times and never loosen them.
    TightenOnly,
}

/// Something that was barred.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bar {
    /// What.
    pub proposal: Proposal,
    /// By which rule.
    pub rule: Rule,
    /// Why, and what to do.
    pub why: String,
}

/// A promotion that nothing bars.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// The shard.
    pub shard: ShardName,
    /// Why.
    pub kind: Kind,
    /// Where it is written.
    pub from: RegionName,
    /// Where it is to be.
    pub to: RegionName,
    /// Whose proposal it is.
    pub origin: Origin,
    /// Rules that would have barred it, had glass not been broken.
    pub overridden: Vec<Rule>,
}

/// What remains of proposals.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Promotions.
    pub moves: Vec<Move>,
    /// Shards that nobody is to write.
    pub read_only: BTreeSet<ShardName>,
    /// The whole traffic plan.
    pub shifts: BTreeMap<RegionName, Shift>,
    /// Regions that it takes out of service.
    pub removals: Vec<Removal>,
    /// What was barred.
    pub barred: Vec<Bar>,
}

impl Rule {
    /// All of them, by number.
    pub const ALL: [Self; 13] = [
        Self::OneWriter,
        Self::LeaseToWrite,
        Self::ProvenExpiry,
        Self::Majority,
        Self::LagGate,
        Self::AntiFlap,
        Self::NoFailback,
        Self::AnswersStay,
        Self::Capacity,
        Self::PlanBounds,
        Self::Residency,
        Self::Operator,
        Self::TightenOnly,
    ];

    /// Its number, from 1.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8 + 1
    }

    /// Its name, as operators type it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OneWriter => "one-writer",
            Self::LeaseToWrite => "lease-to-write",
            Self::ProvenExpiry => "proven-expiry",
            Self::Majority => "majority",
            Self::LagGate => "lag-gate",
            Self::AntiFlap => "anti-flap",
            Self::NoFailback => "no-failback",
            Self::AnswersStay => "answers-stay",
            Self::Capacity => "capacity",
            Self::PlanBounds => "plan-bounds",
            Self::Residency => "residency",
            Self::Operator => "operator",
            Self::TightenOnly => "tighten-only",
        }
    }

    /// Does it keep two regions from writing? Then nobody overrides it.
    #[must_use]
    pub const fn is_absolute(self) -> bool {
        self.number() <= 4
    }
}

/// Whether something may be, or why not.
pub type Ruling = Result<(), String>;

/// Holds a policy's proposals, and what operators force, against all rules.
#[must_use]
pub fn judge(picture: &Picture, proposals: &[Proposal]) -> Decision {
    let mut decision = Decision { shifts: picture.shifts.clone(), ..Decision::default() };
    let is_done = |proposal: &Proposal| matches!(proposal, Proposal::Promote { shard, region } if picture.shards.get(shard).is_some_and(|shard| shard.primary == *region && !shard.void));
    let forced = picture.intents.force.iter().map(|force| (Origin::Operator, &force.proposal));
    let forced = forced.filter(|(_, proposal)| !is_done(proposal));
    let asked = proposals.iter().take(PROPOSALS_MAX).map(|proposal| (Origin::Policy, proposal));
    let mut wanted: BTreeMap<RegionName, (Origin, RegionName, u8)> = BTreeMap::new();
    let mut holds = false;
    for (origin, proposal) in forced.chain(asked) {
        match proposal {
            Proposal::Hold => holds = true,
            Proposal::Promote { shard, region } => {
                promote(picture, (origin, proposal), shard, region, &mut decision)
            }
            Proposal::Drain { region } => drain(picture, (origin, proposal), region, &mut decision),
            Proposal::ReadOnly { shard } => {
                let allowed = operator(picture, origin).and_then(|()| known(picture, shard));
                match allowed
                    .map_err(|why| (Rule::Operator, why))
                    .and_then(|()| stops(picture, shard, origin))
                {
                    Ok(()) => decision.read_only.extend([shard.clone()]),
                    Err((rule, why)) => decision.bar(proposal, rule, why),
                }
            }
            // What was said first holds: an operator's before a policy's.
            Proposal::Shift { region, target, percent } => {
                wanted.entry(region.clone()).or_insert_with(|| (origin, target.clone(), *percent));
            }
        }
    }
    for region in picture.intents.drains.keys() {
        let proposal = Proposal::Drain { region: region.clone() };
        drain(picture, (Origin::Operator, &proposal), region, &mut decision);
    }
    traffic::settle(picture, &wanted, holds, &mut decision);
    decision
}

impl Decision {
    fn bar(&mut self, proposal: &Proposal, rule: Rule, why: String) {
        self.barred.push(Bar { proposal: proposal.clone(), rule, why });
    }

    /// Is there anything in it that is not as it was?
    #[must_use]
    pub fn is_change(&self, picture: &Picture) -> bool {
        !self.moves.is_empty() || !self.read_only.is_empty() || self.shifts != picture.shifts
    }
}

fn known(picture: &Picture, shard: &ShardName) -> Ruling {
    let known = picture.shards.contains_key(shard);
    if known { Ok(()) } else { Err(format!("there is no shard `{shard}`: `portolan shard list` shows them")) }
}

/// 8. Writes to a shard whose primary works stop only because a person says so.
fn stops(picture: &Picture, name: &ShardName, origin: Origin) -> Result<(), (Rule, String)> {
    let works = picture.shards.get(name).filter(|shard| !shard.void).is_some_and(|shard| {
        // Whoever reaches its database and the store knows better than others what it can do.
        let here = shard.primary == picture.local && picture.control;
        let here = here && picture.regions.get(&shard.primary).is_some_and(|region| region.database);
        here || verdict(picture, &shard.primary) == Verdict::Healthy
    });
    if works && origin == Origin::Policy {
        let why = format!("the primary of shard `{name}` works: its writes stop only if an operator says so");
        return Err((Rule::AnswersStay, why));
    }
    Ok(())
}

/// What a move would be, as things are.
fn kind(picture: &Picture, shard: &Shard) -> Kind {
    if shard.void || picture.is_gone(&shard.primary) || verdict(picture, &shard.primary).is_down() {
        Kind::Failover
    } else {
        Kind::Switchover
    }
}

fn verdict(picture: &Picture, region: &RegionName) -> Verdict {
    picture.regions.get(region).map_or(Verdict::Unknown, |region| region.verdict)
}

fn promote(
    picture: &Picture,
    (origin, proposal): (Origin, &Proposal),
    name: &ShardName,
    to: &RegionName,
    decision: &mut Decision,
) {
    let Some(shard) = picture.shards.get(name) else {
        return decision.bar(proposal, Rule::OneWriter, known(picture, name).err().unwrap_or_default());
    };
    let kind = kind(picture, shard);
    let absolute = [
        (Rule::OneWriter, one_writer(name, shard, to, &decision.moves)),
        (Rule::Majority, majority(picture)),
        (Rule::LagGate, copied(name, shard, to)),
    ];
    if let Some((rule, why)) = absolute.into_iter().find_map(|(rule, ruling)| Some((rule, ruling.err()?))) {
        return decision.bar(proposal, rule, why);
    }
    let rulings = [
        (Rule::LagGate, lag_gate(picture, name, to, kind)),
        (Rule::AntiFlap, anti_flap(picture, name, kind, origin)),
        (Rule::NoFailback, no_failback(picture, name, to, kind, origin)),
        (Rule::Residency, residency(shard, to)),
        (Rule::Operator, operator(picture, origin).and_then(|()| fit(picture, to))),
    ];
    let mut overridden = Vec::new();
    for (rule, ruling) in rulings {
        match ruling {
            Err(_) if picture.intents.overrides(rule) => overridden.push(rule),
            Err(why) => return decision.bar(proposal, rule, why),
            Ok(()) => {}
        }
    }
    let (shard, from, to) = (name.clone(), shard.primary.clone(), to.clone());
    decision.moves.push(Move { shard, kind, from, to, origin, overridden });
}

fn fit(picture: &Picture, region: &RegionName) -> Ruling {
    if picture.is_fit(region) {
        return Ok(());
    }
    Err(match picture.regions.get(region) {
        None => format!("there is no region `{region}`: see `portolan failover status`"),
        Some(there) => {
            format!("`{region}` takes nothing over: it is {}, drained, or worked at", there.verdict)
        }
    })
}

fn drain(
    picture: &Picture,
    (origin, proposal): (Origin, &Proposal),
    region: &RegionName,
    decision: &mut Decision,
) {
    if !picture.regions.contains_key(region) {
        return decision.bar(proposal, Rule::Operator, fit(picture, region).err().unwrap_or_default());
    }
    let shards =
        picture.shards.iter().filter(|(_, shard)| shard.primary == *region && shard.running.is_none());
    for (name, shard) in shards {
        if decision.moves.iter().any(|there| there.shard == *name) {
            continue;
        }
        match picture.candidates(shard).first() {
            Some(to) => promote(picture, (origin, proposal), name, &to.clone(), decision),
            None => decision.bar(
                proposal,
                Rule::LagGate,
                format!("no region can take shard `{name}` over: it stays in `{region}` until a copy is whole and its region answers"),
            ),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
