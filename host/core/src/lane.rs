//! What runs in a slot: one policy, and while a rollout lasts a candidate beside it. At most two, never more.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::balance::{splitmix, stable_hash};
use crate::evidence::Trial;
use crate::ids::{RegionName, TenantName};
use crate::snapshot::Policy;

/// All parts of a whole, in which a canary's part is counted.
pub const PERMILLE: u32 = 1_000;

/// A place for a policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Slot {
    /// The operator's, which is asked first.
    Operator,
    /// A tenant's.
    Tenant(TenantName),
}

impl Slot {
    /// The tenant whose it is; none for the operator's.
    #[must_use]
    pub const fn tenant(&self) -> Option<&TenantName> {
        match self {
            Self::Operator => None,
            Self::Tenant(tenant) => Some(tenant),
        }
    }
}

impl std::fmt::Display for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Operator => f.write_str("operator"),
            Self::Tenant(tenant) => write!(f, "tenant {tenant}"),
        }
    }
}

/// The policies of a slot.
#[derive(Clone, Debug)]
pub struct Lane {
    /// What answers, but for the candidate's part.
    pub stable: Arc<Policy>,
    /// What is rolled out.
    pub candidate: Option<Candidate>,
}

/// A policy on trial.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The policy.
    pub policy: Arc<Policy>,
    /// What it does.
    pub part: Part,
    /// What is counted of it and of the stable policy beside it.
    pub trial: Arc<Trial>,
}

/// One of the two places in a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// What is on trial.
    Candidate,
    /// What runs.
    Stable,
}

impl Side {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Candidate => "candidate",
            Self::Stable => "stable",
        }
    }
}

/// The policy that a lane gives a request.
#[derive(Clone, Copy, Debug)]
pub struct Chosen<'l> {
    /// Who answers.
    pub policy: &'l Arc<Policy>,
    /// In which place.
    pub side: Side,
    /// Where that is counted, while a rollout lasts.
    pub trial: Option<&'l Arc<Trial>>,
}

/// A candidate's part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// It answers for a part of the requests.
    Canary {
        /// How many of a thousand.
        permille: u32,
        /// What keeps to one side.
        affinity: Affinity,
        /// The rollout's own number: another rollout draws another part.
        salt: u64,
    },
    /// It is asked after the response, and its answer is compared, never used.
    Shadow,
}

/// What keeps to one side of a canary, on every node, after every restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Affinity {
    /// A client's address.
    Client,
    /// The region that takes the request in.
    Region,
    /// A tenant; requests of none keep together.
    Tenant,
}

impl Lane {
    /// A slot without a rollout.
    #[must_use]
    pub const fn stable(policy: Arc<Policy>) -> Self {
        Self { stable: policy, candidate: None }
    }

    /// The policy that answers a request.
    #[must_use]
    pub fn choose(&self, tenant: Option<&TenantName>, region: &RegionName, client: IpAddr) -> Chosen<'_> {
        let Some(Candidate { policy, part, trial }) = &self.candidate else {
            return Chosen { policy: &self.stable, side: Side::Stable, trial: None };
        };
        let on_trial = match *part {
            Part::Shadow => false,
            Part::Canary { .. } if trial.is_stopped() => false,
            Part::Canary { permille, affinity, salt } => {
                let who = match affinity {
                    Affinity::Client => hash_of(client),
                    Affinity::Region => stable_hash(region.as_str().as_bytes()),
                    Affinity::Tenant => stable_hash(tenant.map_or("", TenantName::as_str).as_bytes()),
                };
                is_on_trial(who, salt, permille)
            }
        };
        let (policy, side) = if on_trial { (policy, Side::Candidate) } else { (&self.stable, Side::Stable) };
        Chosen { policy, side, trial: Some(trial) }
    }

    /// The candidate, if it is to be asked after the response.
    #[must_use]
    pub fn shadow(&self) -> Option<&Candidate> {
        self.candidate
            .as_ref()
            .filter(|candidate| candidate.part == Part::Shadow && !candidate.trial.is_stopped())
    }
}

/// Whoever is in a small part is also in every larger one of the same rollout, so that a growing canary takes no one back.
fn is_on_trial(who: u64, salt: u64, permille: u32) -> bool {
    splitmix(who ^ salt) % u64::from(PERMILLE) < u64::from(permille)
}

fn hash_of(client: IpAddr) -> u64 {
    match client {
        IpAddr::V4(address) => stable_hash(&address.octets()),
        IpAddr::V6(address) => stable_hash(&address.octets()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_growing_canary_takes_no_one_back(who: u64, salt: u64, one in 0..=PERMILLE, other in 0..=PERMILLE) {
            let (small, large) = (one.min(other), one.max(other));
            prop_assert!(!is_on_trial(who, salt, small) || is_on_trial(who, salt, large));
            prop_assert!(is_on_trial(who, salt, PERMILLE) && !is_on_trial(who, salt, 0));
        }
    }

    #[test]
    fn the_part_is_about_what_was_asked_for_and_differs_by_rollout() {
        let part =
            |salt| (0..10_000_u64).filter(move |who| is_on_trial(stable_hash(&who.to_be_bytes()), salt, 100));
        let count = part(1).count();
        assert!((800..1_200).contains(&count), "{count} of 10000");
        let both = part(1).filter(|who| part(2).any(|other| other == *who)).count();
        assert!(both < 200, "{both} are in both rollouts' parts");
    }
}
