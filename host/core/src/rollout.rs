//! How a version takes over a slot from another: as a shadow, then as a canary, then for all, and back at any time.
//!
//! A [`Rollout`] is the state of one slot; [`next`] says for each command what it becomes, or why it may not be. Nothing here
//! acts: nodes run what the state says, and [`judge`] says from numbers alone when a candidate has to go.

mod flat;
mod judge;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use self::judge::{Limits, Reason, Verdict, Window, judge};
use crate::balance::stable_hash;
use crate::ids::{Digest, PolicyName};
use crate::lane::{Affinity, PERMILLE, Part};

/// A whole, in percent.
pub const PERCENT: u32 = 100;
/// Bytes of a rollout's id.
const ID_BYTES_MAX: usize = 64;

/// What a slot runs of a plugin, and what is rolled out in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "flat::Flat", into = "flat::Flat")]
pub struct Rollout {
    /// What keeps to one side.
    pub affinity: Affinity,
    /// What is on trial, while something is.
    pub candidate: Option<Run>,
    /// The rollout's own name: another draws another part of all requests.
    pub id: String,
    /// When the candidate has to go.
    pub limits: Limits,
    /// The candidate's part as a canary; 0 for a shadow. Kept while it pauses, and when it is over.
    pub percent: u32,
    /// Where it stands.
    pub phase: Phase,
    /// May nothing else be rolled out?
    pub pinned: bool,
    /// Of which plugin the versions are.
    pub plugin: PolicyName,
    /// What ran before the stable version took over; none when that is not known.
    pub previous: Option<Run>,
    /// What answers, but for the candidate's part.
    pub stable: Run,
    /// How often the candidate's part has changed: evidence is counted anew for each.
    pub step: u32,
}

/// A version at work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// A configuration of its own, if it is not the slot's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<RunConfig>,
    /// A pushed version; none for the file of the plugin's name, or the bundled policy.
    pub version: Option<Digest>,
}

/// A configuration that came with a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunConfig {
    /// The JSON text.
    pub json: Arc<str>,
    /// The slot's own configuration as it was then. When the slot's is another since, whoever changed it meant that.
    pub replaces: Arc<str>,
}

/// Where a rollout stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// What was rolled out had to go; what ran before runs for all.
    Aborted,
    /// The candidate answers a part of all requests.
    Canary,
    /// The candidate waits: nothing reaches it.
    Paused,
    /// It is over: what was rolled out, or pinned, runs for all.
    Promoted,
    /// The candidate is asked after the response, and never heard.
    Shadow,
}

impl Phase {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Aborted => "aborted",
            Self::Canary => "canary",
            Self::Paused => "paused",
            Self::Promoted => "promoted",
            Self::Shadow => "shadow",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What can be asked of a slot. Whatever makes a new rollout brings an id that was never used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Drops the candidate.
    Abort,
    /// Takes the candidate off all requests until [`Command::Resume`].
    Pause,
    /// Runs a version for all at once, and refuses others.
    Pin {
        /// The new rollout's.
        id: String,
        /// Of which plugin.
        plugin: PolicyName,
        /// What is to run.
        run: Run,
    },
    /// Gives the candidate another part.
    Promote(Promotion),
    /// Lets the candidate have its part again.
    Resume,
    /// Runs at once what ran before: the stable version without the candidate, or else the one before the stable one.
    Rollback {
        /// The new rollout's.
        id: String,
        /// Another version that is to run.
        to: Option<Run>,
    },
    /// Puts a candidate beside what runs.
    Start(Start),
    /// Lets others be rolled out again.
    Unpin,
}

/// The candidate's next part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promotion {
    /// All: it is the stable version from now on.
    Full,
    /// From shadow to a canary of a tenth, from canary to all.
    Next,
    /// So many of a hundred requests; 0 makes it a shadow.
    Percent(u32),
}

/// A new rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// What keeps to one side.
    pub affinity: Affinity,
    /// What is on trial.
    pub candidate: Run,
    /// Its name.
    pub id: String,
    /// When it has to go.
    pub limits: Limits,
    /// Its part; 0 for a shadow.
    pub percent: u32,
    /// Of which plugin.
    pub plugin: PolicyName,
}

/// The part of a first canary.
const FIRST_PERCENT: u32 = 10;

/// Why a command is refused. What to do about it is said with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// What would be rolled back to runs already. Whoever asks twice does not mean the opposite.
    #[error("it is rolled back already, {} runs for all: name the version to go to another", name(.stable))]
    Aborted {
        /// What runs.
        stable: Run,
    },
    /// The id has been used.
    #[error("the rollout {0} has been: a new one needs a name of its own")]
    Id(String),
    /// Another rollout is live.
    #[error("{} is on trial in this slot ({phase}): promote or abort it first", name(.candidate))]
    Live {
        /// What is on trial.
        candidate: Run,
        /// Where that stands.
        phase: Phase,
    },
    /// Nothing is rolled out.
    #[error("nothing is on trial in this slot: `start` a rollout first")]
    NotLive,
    /// It does not pause.
    #[error("the rollout does not pause: it is {0}")]
    NotPaused(Phase),
    /// It is not pinned.
    #[error("the slot is not pinned")]
    NotPinned,
    /// Nothing is known that ran before.
    #[error("no version is known that ran before in this slot: `start` or `pin` the one that is wanted")]
    NothingBefore,
    /// It pauses already.
    #[error("the rollout pauses already: `resume` it, or `abort` it")]
    Paused,
    /// A part beyond the whole.
    #[error("a canary has between 0 and 99 percent, not {0}; `--full` gives it all")]
    Percent(u32),
    /// The slot is pinned.
    #[error("the slot is pinned to {}: `unpin` it first", name(.0))]
    Pinned(Run),
    /// The very same runs already.
    #[error("{} runs in this slot already", name(.0))]
    Same(Run),
}

fn name(run: &Run) -> String {
    run.to_string()
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            Some(version) => write!(f, "version {}", version.short()),
            None => f.write_str("the plugin's own file"),
        }
    }
}

impl Rollout {
    /// Is something on trial?
    #[must_use]
    pub const fn is_live(&self) -> bool {
        self.candidate.is_some()
    }

    /// What the candidate does now. One that pauses stays ready, and is asked nothing.
    #[must_use]
    pub fn part(&self) -> Part {
        let permille = match self.phase {
            Phase::Shadow => return Part::Shadow,
            Phase::Canary => self.percent.saturating_mul(PERMILLE / PERCENT),
            Phase::Aborted | Phase::Paused | Phase::Promoted => 0,
        };
        Part::Canary { permille, affinity: self.affinity, salt: self.salt() }
    }

    /// What makes the sides of one rollout independent of another's: the same on every node, by the id alone.
    #[must_use]
    pub fn salt(&self) -> u64 {
        stable_hash(self.id.as_bytes())
    }
}

/// What a slot becomes by a command. A slot without a rollout runs its plugin's own file.
///
/// # Errors
/// [`Refused`]; then nothing has changed.
pub fn next(now: Option<&Rollout>, command: Command) -> Result<Rollout, Refused> {
    let is_new = |id: &str| now.is_none_or(|now| now.id != id) && id.len() <= ID_BYTES_MAX;
    let unpinned =
        now.map_or(Ok(()), |now| if now.pinned { Err(Refused::Pinned(now.stable.clone())) } else { Ok(()) });
    let unused = now.map_or(Ok(()), |now| match &now.candidate {
        Some(candidate) => Err(Refused::Live { candidate: candidate.clone(), phase: now.phase }),
        None => Ok(()),
    });
    match command {
        Command::Start(start) => {
            unpinned?;
            unused?;
            if !is_new(&start.id) {
                return Err(Refused::Id(start.id));
            }
            begin(now, start)
        }
        Command::Pin { id, plugin, run } => {
            unused?;
            if !is_new(&id) {
                return Err(Refused::Id(id));
            }
            pin(now, id, plugin, run)
        }
        Command::Abort => {
            let (now, _) = live(now)?;
            Ok(Rollout {
                candidate: None,
                phase: Phase::Aborted,
                step: now.step.saturating_add(1),
                ..now.clone()
            })
        }
        Command::Pause => {
            let (now, _) = live(now)?;
            if now.phase == Phase::Paused {
                return Err(Refused::Paused);
            }
            Ok(Rollout { phase: Phase::Paused, ..now.clone() })
        }
        Command::Resume => {
            let (now, _) = live(now)?;
            if now.phase != Phase::Paused {
                return Err(Refused::NotPaused(now.phase));
            }
            Ok(Rollout { phase: phase_of(now.percent), ..now.clone() })
        }
        Command::Promote(promotion) => {
            let (now, candidate) = live(now)?;
            promote(now, candidate, promotion)
        }
        Command::Rollback { id, to } => {
            unpinned?;
            let now = now.ok_or(Refused::NothingBefore)?;
            if !is_new(&id) {
                return Err(Refused::Id(id));
            }
            roll_back(now, id, to)
        }
        Command::Unpin => {
            let now = now.filter(|now| now.pinned).ok_or(Refused::NotPinned)?;
            Ok(Rollout { pinned: false, ..now.clone() })
        }
    }
}

fn live(now: Option<&Rollout>) -> Result<(&Rollout, &Run), Refused> {
    now.and_then(|now| Some((now, now.candidate.as_ref()?))).ok_or(Refused::NotLive)
}

const fn phase_of(percent: u32) -> Phase {
    if percent == 0 { Phase::Shadow } else { Phase::Canary }
}

/// What is known of a plugin in the slot. Another plugin's versions say nothing of this one's.
fn known<'r>(now: Option<&'r Rollout>, plugin: &PolicyName) -> Option<&'r Rollout> {
    now.filter(|now| now.plugin == *plugin)
}

fn begin(now: Option<&Rollout>, start: Start) -> Result<Rollout, Refused> {
    let known = known(now, &start.plugin);
    let stable = known.map(|known| known.stable.clone()).unwrap_or_default();
    if start.candidate == stable {
        return Err(Refused::Same(stable));
    }
    if start.percent >= PERCENT {
        return Err(Refused::Percent(start.percent));
    }
    Ok(Rollout {
        affinity: start.affinity,
        candidate: Some(start.candidate),
        id: start.id,
        limits: start.limits,
        percent: start.percent,
        phase: phase_of(start.percent),
        pinned: false,
        plugin: start.plugin,
        previous: known.and_then(|known| known.previous.clone()),
        stable,
        step: 0,
    })
}

fn pin(now: Option<&Rollout>, id: String, plugin: PolicyName, run: Run) -> Result<Rollout, Refused> {
    let known = known(now, &plugin);
    let stable = known.map(|known| known.stable.clone()).unwrap_or_default();
    if known.is_some_and(|known| known.pinned) && stable == run {
        return Err(Refused::Pinned(run));
    }
    let previous = if stable == run { known.and_then(|known| known.previous.clone()) } else { Some(stable) };
    Ok(settled(now, id, plugin, run, previous, true))
}

/// A slot without a candidate, as a new rollout.
fn settled(
    now: Option<&Rollout>,
    id: String,
    plugin: PolicyName,
    stable: Run,
    previous: Option<Run>,
    pinned: bool,
) -> Rollout {
    Rollout {
        affinity: now.map_or(Affinity::Tenant, |now| now.affinity),
        candidate: None,
        id,
        limits: now.map(|now| now.limits.clone()).unwrap_or_default(),
        percent: now.map_or(0, |now| now.percent),
        phase: Phase::Promoted,
        pinned,
        plugin,
        previous,
        stable,
        step: 0,
    }
}

fn promote(now: &Rollout, candidate: &Run, promotion: Promotion) -> Result<Rollout, Refused> {
    let percent = match promotion {
        Promotion::Percent(percent) => percent,
        Promotion::Next if now.percent == 0 => FIRST_PERCENT,
        Promotion::Full | Promotion::Next => {
            return Ok(Rollout {
                candidate: None,
                phase: Phase::Promoted,
                previous: Some(now.stable.clone()),
                stable: candidate.clone(),
                step: now.step.saturating_add(1),
                ..now.clone()
            });
        }
    };
    if percent >= PERCENT {
        return Err(Refused::Percent(percent));
    }
    Ok(Rollout { percent, phase: phase_of(percent), step: now.step.saturating_add(1), ..now.clone() })
}

fn roll_back(now: &Rollout, id: String, to: Option<Run>) -> Result<Rollout, Refused> {
    let stable = match to {
        Some(to) if to == now.stable && !now.is_live() => return Err(Refused::Same(to)),
        Some(to) => to,
        None if now.is_live() => now.stable.clone(),
        None if now.phase == Phase::Aborted => return Err(Refused::Aborted { stable: now.stable.clone() }),
        None => now.previous.clone().ok_or(Refused::NothingBefore)?,
    };
    let previous = if stable == now.stable { now.previous.clone() } else { Some(now.stable.clone()) };
    let back = settled(Some(now), id, now.plugin.clone(), stable, previous, false);
    Ok(Rollout { phase: Phase::Aborted, ..back })
}

/// The commands that take back what a command did: afterwards the same versions run for the same parts. A version that was
/// promoted for all is taken back for all. New rollouts take their names from `id`.
#[must_use]
pub fn undo(before: Option<&Rollout>, after: &Rollout, mut id: impl FnMut() -> String) -> Vec<Command> {
    let was_live = before.filter(|before| before.is_live());
    match (was_live, &after.candidate) {
        // Begun.
        (None, Some(_)) => vec![Command::Abort],
        // Another part, or a pause.
        (Some(before), Some(_)) => match (before.phase, after.phase) {
            (Phase::Paused, Phase::Paused) => Vec::new(),
            (_, Phase::Paused) => vec![Command::Resume],
            (Phase::Paused, _) if before.percent == after.percent => vec![Command::Pause],
            (Phase::Paused, _) => vec![Command::Promote(Promotion::Percent(before.percent)), Command::Pause],
            _ => vec![Command::Promote(Promotion::Percent(before.percent))],
        },
        // Promoted for all.
        (Some(before), None) if after.stable != before.stable => {
            vec![Command::Rollback { id: id(), to: Some(before.stable.clone()) }]
        }
        // Dropped.
        (Some(before), None) => {
            let start = before.candidate.clone().map(|candidate| {
                Command::Start(Start {
                    affinity: before.affinity,
                    candidate,
                    id: id(),
                    limits: before.limits.clone(),
                    percent: before.percent,
                    plugin: before.plugin.clone(),
                })
            });
            let pause = (before.phase == Phase::Paused).then_some(Command::Pause);
            start.into_iter().chain(pause).collect()
        }
        // Pinned, unpinned, rolled back.
        (None, None) => undo_settled(before, after, id),
    }
}

fn undo_settled(before: Option<&Rollout>, after: &Rollout, mut id: impl FnMut() -> String) -> Vec<Command> {
    let known = known(before, &after.plugin);
    let ran = known.map(|known| known.stable.clone()).unwrap_or_default();
    let was_pinned = known.is_some_and(|known| known.pinned);
    let pin = |id| Command::Pin { id, plugin: after.plugin.clone(), run: ran.clone() };
    match (was_pinned, after.pinned) {
        (true, _) => vec![pin(id())],
        (false, true) if ran == after.stable => vec![Command::Unpin],
        (false, true) => vec![Command::Unpin, Command::Rollback { id: id(), to: Some(ran) }],
        (false, false) => vec![Command::Rollback { id: id(), to: Some(ran) }],
    }
}
