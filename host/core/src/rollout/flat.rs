//! A rollout as it is written down: versions side by side at the top, where people and other programs look for them.

use serde::{Deserialize, Serialize};

use super::{ID_BYTES_MAX, Limits, PERCENT, Phase, Rollout, Run, RunConfig};
use crate::ids::{Digest, PolicyName};
use crate::lane::Affinity;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Flat {
    affinity: Affinity,
    candidate: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    candidate_config: Option<RunConfig>,
    id: String,
    #[serde(default)]
    limits: Limits,
    percent: u32,
    phase: Phase,
    #[serde(default)]
    pinned: bool,
    plugin: PolicyName,
    #[serde(default)]
    previous: Option<Run>,
    stable: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stable_config: Option<RunConfig>,
    #[serde(default)]
    step: u32,
}

impl From<Rollout> for Flat {
    fn from(rollout: Rollout) -> Self {
        let Rollout {
            affinity,
            candidate,
            id,
            limits,
            percent,
            phase,
            pinned,
            plugin,
            previous,
            stable,
            step,
        } = rollout;
        let (candidate_config, candidate) = candidate.map_or((None, None), |run| (run.config, run.version));
        Self {
            affinity,
            candidate,
            candidate_config,
            id,
            limits,
            percent,
            phase,
            pinned,
            plugin,
            previous,
            stable: stable.version,
            stable_config: stable.config,
            step,
        }
    }
}

impl TryFrom<Flat> for Rollout {
    type Error = String;

    /// What no command could have made is not taken for a rollout.
    fn try_from(flat: Flat) -> Result<Self, String> {
        let live = matches!(flat.phase, Phase::Canary | Phase::Paused | Phase::Shadow);
        let candidate =
            if live { Some(Run { config: flat.candidate_config, version: flat.candidate }) } else { None };
        let part_fits = match flat.phase {
            Phase::Canary => (1..PERCENT).contains(&flat.percent),
            Phase::Shadow => flat.percent == 0,
            Phase::Aborted | Phase::Paused | Phase::Promoted => flat.percent < PERCENT,
        };
        if !part_fits {
            return Err(format!("{} with {} percent is no state of a rollout", flat.phase, flat.percent));
        }
        if flat.pinned && live {
            return Err("a pinned slot has nothing on trial".to_owned());
        }
        if flat.id.is_empty() || flat.id.len() > ID_BYTES_MAX {
            return Err(format!("a rollout's id has 1 to {ID_BYTES_MAX} bytes"));
        }
        Ok(Self {
            affinity: flat.affinity,
            candidate,
            id: flat.id,
            limits: flat.limits,
            percent: flat.percent,
            phase: flat.phase,
            pinned: flat.pinned,
            plugin: flat.plugin,
            previous: flat.previous,
            stable: Run { config: flat.stable_config, version: flat.stable },
            step: flat.step,
        })
    }
}
