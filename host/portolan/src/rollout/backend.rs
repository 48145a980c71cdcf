//! Rollouts as the admin API asks for them.

use async_trait::async_trait;
use portolan_admin::backend::{self as admin, Order, RolloutCommand, RolloutDone, StartRollout, Which};
use portolan_admin::{Code, Problem as AdminProblem};
use portolan_control::{State, Store};
use portolan_core::lane::Affinity;
use portolan_core::rollout::{Command, Promotion, Run, RunConfig, Start};
use portolan_policy::Slot;
use serde_json::Value;

use super::act::{Asked, Author, Done, Place, Problem, act, in_slot, new_id, propose};
use super::{name, record, show, slot, words};
use crate::node::changes::Intended;

/// Rollouts over a control store.
#[derive(Clone, Debug)]
pub(crate) struct Orders {
    intended: Intended,
    place: Place,
}

impl Orders {
    pub(crate) const fn new(intended: Intended, place: Place) -> Self {
        Self { intended, place }
    }

    fn store(&self) -> Result<&Store, AdminProblem> {
        self.intended.store()
    }
}

#[async_trait]
impl admin::Rollouts for Orders {
    async fn rollouts(&self, only: Option<&str>) -> Result<Vec<admin::Rollout>, AdminProblem> {
        let store = self.store()?;
        let missing = |detail: String| AdminProblem::new(Code::NotFound, detail);
        let only = only.map(slot).transpose().map_err(missing)?;
        // What nodes tell is worth knowing, and nothing that the answer waits for.
        let nodes = store.look_at_nodes().await.unwrap_or_default();
        let views = show::views(&store.state(), &nodes, only.as_ref()).map_err(AdminProblem::internal)?;
        views
            .into_iter()
            .map(|view| match serde_json::to_value(&view) {
                Ok(Value::Object(stands)) => {
                    Ok(admin::Rollout { slot: view.record.slot, revision: view.revision, stands })
                }
                _ => Err(AdminProblem::internal("a rollout does not write")),
            })
            .collect()
    }

    async fn order(&self, order: Order) -> Result<RolloutDone, AdminProblem> {
        let store = self.store()?;
        let missing = |detail: String| AdminProblem::new(Code::NotFound, detail);
        let slot = slot(&order.slot).map_err(missing)?;
        let state = store.state();
        let command = self.command(&state, &slot, order.command)?;
        let evidence = evidence(store, &state, &slot).await;
        let asked = Asked {
            author: Author { message: order.message, name: order.author },
            command,
            evidence,
            expect: order.if_revision,
            slot,
        };
        let done = if order.dry_run {
            propose(&state, Some(&self.place), &asked).map(|(_, done)| done)
        } else {
            act(store, Some(&self.place), &asked).await
        };
        done.map(|done| told(done, order.dry_run)).map_err(problem)
    }
}

impl Orders {
    fn command(&self, state: &State, slot: &Slot, command: RolloutCommand) -> Result<Command, AdminProblem> {
        let version = |which: &Which| self.version(state, slot, which);
        Ok(match command {
            RolloutCommand::Abort => Command::Abort,
            RolloutCommand::Pause => Command::Pause,
            RolloutCommand::Pin(which) => {
                let (plugin, run) = version(&which)?;
                Command::Pin { id: new_id(), plugin, run }
            }
            RolloutCommand::Promote { full: true, .. } => Command::Promote(Promotion::Full),
            RolloutCommand::Promote { percent, .. } => {
                Command::Promote(percent.map_or(Promotion::Next, Promotion::Percent))
            }
            RolloutCommand::Resume => Command::Resume,
            RolloutCommand::Rollback(to) => {
                let to = to.map(|which| version(&which)).transpose()?;
                Command::Rollback { id: new_id(), to: to.map(|(_, run)| run) }
            }
            RolloutCommand::Start(StartRollout {
                version: wanted,
                affinity,
                config,
                limits,
                percent,
                ..
            }) => {
                let (plugin, candidate) = version(&Which { version: wanted, config })?;
                // All requests of a tenant's slot are one tenant's: its clients are told apart.
                let usual = if *slot == Slot::Operator { Affinity::Tenant } else { Affinity::Client };
                let affinity = affinity.unwrap_or(usual);
                Command::Start(Start {
                    affinity,
                    candidate,
                    id: new_id(),
                    limits: limits.into(),
                    percent,
                    plugin,
                })
            }
            RolloutCommand::Unpin => Command::Unpin,
        })
    }

    /// A version as it is written: `PLUGIN@VERSION`, or `VERSION` of the plugin that the slot runs.
    fn version(
        &self,
        state: &State,
        slot: &Slot,
        which: &Which,
    ) -> Result<(portolan_core::ids::PolicyName, Run), AdminProblem> {
        let config = self.place.config(state).ok();
        let of_slot = config.as_ref().and_then(|config| in_slot(config, slot));
        let text = which.version.as_str();
        let missing = |detail: String| AdminProblem::new(Code::NotFound, detail);
        let (plugin, version) = if text.contains('@') {
            words::split(text).map_err(missing)?
        } else {
            let known = record(state, slot).map_err(AdminProblem::internal)?;
            let plugin = known.map(|(record, _)| record.rollout.plugin);
            let plugin = plugin.or_else(|| of_slot.map(|policy| policy.name.clone()));
            let unknown = || missing(format!("the slot runs no plugin yet: write PLUGIN@{text}"));
            (plugin.ok_or_else(unknown)?, text)
        };
        let version = words::find(state, slot, &plugin, version);
        let version = version.map_err(missing)?;
        let config = which.config.as_ref().map(|table| {
            let replaces = of_slot.map_or_else(|| "{}".into(), |policy| policy.config.clone());
            RunConfig { json: Value::Object(table.clone()).to_string().into(), replaces }
        });
        Ok((plugin, Run { config, version }))
    }
}

/// What the nodes know of a candidate, for the history. Nothing waits for it.
async fn evidence(store: &Store, state: &State, slot: &Slot) -> Option<super::Sheet> {
    let (record, _) = record(state, slot).ok().flatten()?;
    record.rollout.candidate.as_ref()?;
    let nodes = store.look_at_nodes().await.ok()?;
    show::summed(&record.rollout, &name(slot), &nodes)
}

fn told(done: Done, dry_run: bool) -> RolloutDone {
    let rollout = done.after.rollout;
    let digest = |run: &Run| run.version.map(|version| version.to_string());
    RolloutDone {
        candidate: rollout.candidate.as_ref().and_then(digest),
        dry_run,
        generation: done.generation,
        id: rollout.id,
        notes: done.notes,
        percent: rollout.percent,
        phase: rollout.phase.to_string(),
        pinned: rollout.pinned,
        plugin: rollout.plugin.to_string(),
        slot: done.after.slot,
        stable: digest(&rollout.stable),
        undo: done.undo,
    }
}

fn problem(problem: Problem) -> AdminProblem {
    match problem {
        Problem::Changed(detail) => AdminProblem::new(Code::PreconditionFailed, detail),
        Problem::Conflict(detail) => AdminProblem::new(Code::Conflict, detail),
        Problem::Invalid(detail) => AdminProblem::invalid(detail),
        Problem::Missing(detail) => AdminProblem::new(Code::NotFound, detail),
        Problem::Store(error) => AdminProblem::new(Code::Unavailable, error.to_string()),
    }
}
