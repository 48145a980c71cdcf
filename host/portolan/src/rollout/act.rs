//! Commands of operators and nodes, from the wish to the change of the store.

use std::path::PathBuf;

use portolan_control::{Committed, Conflict, Draft, Error, Expect, Key, Manager, State, Store, Wish};
use portolan_core::ids::PolicyName;
use portolan_core::rollout::{self, Command, Rollout, Run};
use portolan_foundation::{clock, random};
use portolan_policy::Slot;

use super::{Entry, Record, Sheet, key, name, record, words};
use crate::config::{self, Config, PolicySlot};
use crate::node::break_glass::FREEZE_KEY;

/// How often a command is tried again that others came before.
const TRIES: u32 = 5;

/// Who asks, and why.
#[derive(Clone, Debug)]
pub(crate) struct Author {
    pub(crate) message: String,
    pub(crate) name: String,
}

/// Where the configuration is that slots are looked up in.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) path: PathBuf,
}

/// What is asked of a slot.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) author: Author,
    pub(crate) command: Command,
    /// What is known of the candidate, for the history; by a verdict, the grounds.
    pub(crate) evidence: Option<Sheet>,
    /// The revision that the caller saw, if it insists on that.
    pub(crate) expect: Option<u64>,
    pub(crate) slot: Slot,
}

/// What became of it.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    pub(crate) after: Record,
    pub(crate) generation: u64,
    /// What is worth knowing besides.
    pub(crate) notes: Vec<String>,
    /// Commands that take it back, in order.
    pub(crate) undo: Vec<String>,
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    /// It is not as the caller saw it.
    #[error("{0}")]
    Changed(String),
    /// What is there stands against it.
    #[error("{0}")]
    Conflict(String),
    /// What is asked makes no sense here.
    #[error("{0}")]
    Invalid(String),
    /// What it needs is not there.
    #[error("{0}")]
    Missing(String),
    #[error(transparent)]
    Store(#[from] Error),
}

impl Place {
    /// The configuration of a state.
    pub(super) fn config(&self, state: &State) -> Result<Config, Problem> {
        let loaded = config::load_intended(&self.path, &self.environment, Some(state));
        loaded.map(|loaded| loaded.config).map_err(|rejected| {
            let lines = rejected.problems.iter().map(|problem| problem.line(&rejected.sources));
            Problem::Invalid(format!(
                "mend the configuration first: {}",
                lines.collect::<Vec<_>>().join("; ")
            ))
        })
    }
}

/// An id for a new rollout.
pub(crate) fn new_id() -> String {
    format!("r-{:016x}", random::u64())
}

/// Makes the change that a command asks for, or says why not. What takes a candidate away is tried again when others changed
/// the slot meanwhile; all else is for the caller to look at again.
///
/// # Errors
/// [`Problem`]; then nothing has changed.
pub(crate) async fn act(store: &Store, place: Option<&Place>, asked: &Asked) -> Result<Done, Problem> {
    let again = matches!(asked.command, Command::Abort | Command::Pause | Command::Rollback { .. });
    let mut tries = if again && asked.expect.is_none() { TRIES } else { 1 };
    loop {
        tries -= 1;
        let state = store.state();
        let (draft, mut done) = propose(&state, place, asked)?;
        match store.commit(&draft).await {
            Ok(Committed::Changed(change)) => {
                done.generation = change.generation;
                return Ok(done);
            }
            Ok(Committed::Unchanged(generation)) => {
                done.generation = generation;
                return Ok(done);
            }
            Err(Error::Conflict(Conflict::Stale { .. } | Conflict::Present { .. })) if tries > 0 => {}
            Err(Error::Conflict(conflict)) => return Err(Problem::Conflict(conflict.to_string())),
            Err(error) => return Err(error.into()),
        }
    }
}

/// What a command would change.
///
/// # Errors
/// [`Problem`].
pub(crate) fn propose(state: &State, place: Option<&Place>, asked: &Asked) -> Result<(Draft, Done), Problem> {
    let Asked { author, command, evidence, expect, slot } = asked;
    let before = record(state, slot).map_err(Problem::Invalid)?;
    let revision = before.as_ref().map(|(_, revision)| *revision);
    if expect.is_some() && *expect != revision {
        let seen = format!("{} has changed since: look again", name(slot));
        return Err(Problem::Changed(seen));
    }
    let before = before.map(|(record, _)| record);
    let now = before.as_ref().map(|record| &record.rollout);
    let notes = place.map(|place| check(state, &place.config(state)?, slot, now, command)).transpose()?;
    let after =
        rollout::next(now, command.clone()).map_err(|refused| Problem::Conflict(refused.to_string()))?;
    let undo = rollout::undo(now, &after, new_id);
    let undo = undo.iter().map(|command| words::line(slot, &after.plugin, command)).collect();
    let mut next = Record {
        // The grounds of the last verdict stay until another rollout begins.
        evidence: match command {
            Command::Start(_) => None,
            Command::Abort if evidence.is_some() => evidence.clone(),
            _ => before.as_ref().and_then(|before| before.evidence.clone()),
        },
        history: before.map(|before| before.history).unwrap_or_default(),
        message: author.message.clone(),
        slot: name(slot),
        rollout: after,
    };
    next.note(Entry {
        at_ms: clock::unix_ms(),
        author: author.name.clone(),
        candidate: next.rollout.candidate.as_ref().and_then(|run| run.version),
        evidence: evidence.clone(),
        id: next.rollout.id.clone(),
        message: author.message.clone(),
        percent: next.rollout.percent,
        phase: next.rollout.phase,
        stable: next.rollout.stable.version,
        what: words::verb(command).to_owned(),
    });
    let wish = Wish {
        key: key(slot).map_err(Problem::Invalid)?,
        body: Some(next.body()),
        expect: revision.map_or(Expect::Absent, Expect::Revision),
        manager: Manager::Api,
        take_over: false,
    };
    let draft = Draft {
        author: author.name.clone(),
        message: author.message.clone(),
        source: "rollout".to_owned(),
        wishes: vec![wish],
    };
    let done = Done { after: next, generation: state.generation(), notes: notes.unwrap_or_default(), undo };
    Ok((draft, done))
}

/// Is what a command names there, and may it run in this slot? Gives what is worth knowing besides.
fn check(
    state: &State,
    config: &Config,
    slot: &Slot,
    now: Option<&Rollout>,
    command: &Command,
) -> Result<Vec<String>, Problem> {
    let (plugin, run) = match command {
        Command::Start(start) => (&start.plugin, &start.candidate),
        Command::Pin { plugin, run, .. } => (plugin, run),
        Command::Rollback { to: Some(run), .. } => match now {
            Some(now) => (&now.plugin, run),
            None => return Ok(Vec::new()),
        },
        _ => return Ok(Vec::new()),
    };
    known(state, slot, plugin, run)?;
    let frozen = Key::new(FREEZE_KEY.0, FREEZE_KEY.1).ok().and_then(|key| state.get(&key));
    if frozen.is_some() && matches!(command, Command::Start(_)) {
        let frozen = "policies are frozen, no node would take it up: `portolan policy thaw` first";
        return Err(Problem::Conflict(frozen.to_owned()));
    }
    let in_slot = in_slot(config, slot);
    let section = match slot {
        Slot::Operator => "policy".to_owned(),
        Slot::Tenant(tenant) => format!("tenant.{tenant}.policy"),
    };
    let starts = matches!(command, Command::Start(_));
    match in_slot {
        None if starts => Err(Problem::Missing(format!(
            "no policy is configured in this slot: write `[{section}]` with `use = \"{plugin}\"` in conf.d and apply it"
        ))),
        Some(policy) if starts && policy.name != *plugin => Err(Problem::Conflict(format!(
            "the slot runs the plugin {}, not {plugin}: write `use = \"{plugin}\"` in `[{section}]` and apply it",
            policy.name
        ))),
        Some(PolicySlot { version: Some(version), .. }) => {
            let pinned =
                format!("`version` of `[{section}]` is {} {}", version.short(), written(state, slot));
            if starts {
                return Err(Problem::Conflict(format!(
                    "{pinned}, which excludes a rollout: `portolan rollout pin {} {plugin}@{version}` keeps what runs, then remove \
                     `version` there, apply, and `unpin`",
                    name(slot)
                )));
            }
            Ok(vec![format!("{pinned}: that runs until it is removed there")])
        }
        Some(policy) if policy.name == *plugin => Ok(Vec::new()),
        Some(policy) => Ok(vec![format!(
            "the slot runs the plugin {}: this takes effect when `use` of `[{section}]` is {plugin}",
            policy.name
        )]),
        None => Ok(vec![format!("this takes effect when `[{section}]` has `use = \"{plugin}\"`")]),
    }
}

/// Is the version there, and may the slot run it?
fn known(state: &State, slot: &Slot, plugin: &PolicyName, run: &Run) -> Result<(), Problem> {
    let Some(version) = run.version else { return Ok(()) };
    if crate::registry::find(state, slot, plugin, version).is_some() {
        return Ok(());
    }
    Err(Problem::Missing(format!(
        "the store has no version {} of {plugin} that {} may run: `portolan plugin push {plugin} FILE` puts it there",
        version.short(),
        name(slot)
    )))
}

/// What the configuration has in a slot.
pub(crate) fn in_slot<'c>(config: &'c Config, slot: &Slot) -> Option<&'c PolicySlot> {
    match slot {
        Slot::Operator => config.policy.as_ref(),
        Slot::Tenant(name) => config.tenants.get(name).and_then(|tenant| tenant.policy.as_ref()),
    }
}

/// Where a slot's configuration is written.
fn written(state: &State, slot: &Slot) -> String {
    let key = match slot {
        Slot::Operator => Key::new("settings", "policy"),
        Slot::Tenant(tenant) => Key::new("tenant", tenant.as_str()),
    };
    let object = key.ok().and_then(|key| state.get(&key).cloned());
    object.map_or_else(String::new, |object| format!("by {}", object.managed_by))
}
