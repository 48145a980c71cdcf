//! Where a node's intent comes from: its own files, a control store, or one generation from its own disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use portolan_control::{Health, NodeReport, RolloutReport, State, Store};
use portolan_core::ids::ShardName;
use portolan_foundation::shutdown::Shutdown;
use portolan_foundation::task;
use serde::Serialize;

use super::changes::Intended;
use crate::config::Local;

/// Where intent comes from.
#[derive(Clone, Debug)]
pub(crate) enum Intent {
    /// `conf.d`.
    Files,
    /// A control store.
    Following(Store),
    /// One generation, for good.
    Pinned(Arc<State>),
}

/// How it stands with intent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Control {
    /// How long after it was written the running generation took effect here, in milliseconds.
    pub(crate) applied_after_ms: Option<u64>,
    /// How it stands with the store; none for a pinned generation.
    pub(crate) health: Option<Health>,
    /// The generation that runs.
    pub(crate) running: u64,
    /// The newest that is known.
    pub(crate) wanted: u64,
}

impl Intent {
    /// Opens what the node's file names.
    ///
    /// # Errors
    /// When there is nothing to begin with.
    pub(crate) async fn open(local: &Local, generation: Option<u64>) -> anyhow::Result<Self> {
        if let Some(generation) = generation {
            let state = Store::saved(&local.generations(), generation).map_err(|reason| anyhow!(reason))?;
            return Ok(Self::Pinned(Arc::new(state)));
        }
        let Some(engine) = &local.control else { return Ok(Self::Files) };
        let store = Store::open(engine.clone(), Some(local.generations())).await;
        Ok(Self::Following(store.context("open the control store")?))
    }

    /// All that is intended; none when files say it.
    pub(crate) fn state(&self) -> Option<Arc<State>> {
        match self {
            Self::Files => None,
            Self::Following(store) => Some(store.state()),
            Self::Pinned(state) => Some(Arc::clone(state)),
        }
    }

    /// What the nodes told of themselves.
    pub(crate) fn nodes(&self) -> Vec<NodeReport> {
        match self {
            Self::Following(store) => store.nodes(),
            Self::Files | Self::Pinned(_) => Vec::new(),
        }
    }

    /// How it stands, with the generation that runs.
    pub(crate) fn control(&self, running: u64, applied_after_ms: Option<u64>) -> Option<Control> {
        let wanted = self.state()?.generation();
        let health = match self {
            Self::Following(store) => Some(store.health()),
            Self::Files | Self::Pinned(_) => None,
        };
        Some(Control { applied_after_ms, health, running, wanted })
    }

    /// The same as the admin API sees it.
    pub(crate) fn intended(&self) -> Intended {
        match self {
            Self::Files => Intended::Files,
            Self::Following(store) => Intended::Following(store.clone()),
            Self::Pinned(state) => Intended::Pinned(state.generation()),
        }
    }

    /// Says what an empty store wants.
    pub(crate) fn hint(&self) {
        if self.state().is_some_and(|state| state.generation() == 0) {
            eprintln!("the control store is empty: `portolan apply` puts conf.d into it");
        }
    }

    /// Starts what follows the store.
    pub(crate) fn start(&self, shutdown: &Shutdown) {
        if let Self::Following(store) = self {
            task::spawn("control-store", store.clone().run(shutdown.clone()));
        }
    }

    /// Tells the other nodes.
    pub(crate) fn report(&self, report: impl FnOnce() -> NodeReport) {
        if let Self::Following(store) = self {
            store.report(report());
        }
    }

    /// Tells the other nodes of this one's rollouts.
    pub(crate) fn report_rollouts(&self, rollouts: impl FnOnce() -> Vec<RolloutReport>) {
        if let Self::Following(store) = self {
            store.report_rollouts(rollouts());
        }
    }

    /// Tells the other nodes which versions this region's shards have.
    pub(crate) fn report_schemas(&self, schemas: BTreeMap<ShardName, u64>) {
        if let Self::Following(store) = self {
            store.report_schemas(schemas);
        }
    }

    /// What wakes the reconciler when the store has something new. Never ends for the others.
    pub(crate) fn news(&self) -> News {
        match self {
            Self::Following(store) => News(Some(store.follow())),
            Self::Files | Self::Pinned(_) => News(None),
        }
    }
}

/// New generations.
#[derive(Debug)]
pub(crate) struct News(Option<tokio::sync::watch::Receiver<Arc<State>>>);

impl News {
    /// Waits for the next one.
    ///
    /// # Cancel safety
    /// None is lost when the future is dropped.
    pub(crate) async fn changed(&mut self) {
        let ended = match &mut self.0 {
            Some(states) => states.changed().await.is_err(),
            None => true,
        };
        if ended {
            std::future::pending::<()>().await;
        }
    }
}
