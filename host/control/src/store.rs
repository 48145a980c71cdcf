//! The store of one process: follows the log, keeps the last generations on disk, makes changes.
//!
//! The follower: woken by the engine's watch, and every two seconds in case a watch is deaf. Reads what came after the state
//! that it has, applies it in order, publishes the new state, saves it. On failure it says so in [`Health`], keeps what it
//! has, and connects again with growing pauses. It never follows a log that does not continue its own history.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use portolan_core::evidence::Evidence;
use portolan_core::ids::{Digest, ShardName};
use portolan_core::recording::Report;
use portolan_foundation::shutdown::Shutdown;
use portolan_foundation::{clock, random};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use crate::change::{Change, Draft, digest};
use crate::defaults::{COMMIT_TRIES, PAGE_ENTRIES, REPORT_EVERY, RETRY_MAX, RETRY_MIN};
use crate::engine::{Appended, Connection, Engine};
use crate::error::{Away, Conflict, Damaged, Error};
use crate::saved::{Newest, Saved};
use crate::state::State;

/// Saves are at least so far apart: what is missing on disk meanwhile is in the store.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// A store, and all handles of it.
#[derive(Clone, Debug)]
pub struct Store(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Held by whoever applies entries, so that nobody applies one twice.
    applying: tokio::sync::Mutex<()>,
    connection: Mutex<Option<Connection>>,
    current: watch::Sender<Arc<State>>,
    engine: Engine,
    health: watch::Sender<Health>,
    nodes: Mutex<Vec<NodeReport>>,
    report: Mutex<Option<NodeReport>>,
    report_changed: tokio::sync::Notify,
    saved: Option<Saved>,
}

/// How it stands with the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
pub enum Health {
    /// It does not answer; the last good generation goes on.
    Away {
        /// What happened.
        reason: String,
        /// Since when, in milliseconds since 1970.
        since_ms: u64,
    },
    /// It answers.
    Connected,
    /// It holds what does not continue this node's history; the last good generation goes on.
    Damaged {
        /// What is wrong, and what to do.
        reason: String,
    },
}

/// What a node tells the others of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Its name, its own among all nodes.
    pub name: String,
    /// The number of problems that keep it from running what is wanted.
    pub problems: Vec<String>,
    /// Its region.
    pub region: String,
    /// What it counted of the rollouts that it takes part in; of many, the first ones.
    #[serde(default)]
    pub rollouts: Vec<RolloutReport>,
    /// The generation that it runs.
    pub running: u64,
    /// Which version of the tenants' schema each shard of its region has, as far as it knows.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub schemas: BTreeMap<ShardName, u64>,
    /// Its program's version.
    pub version: String,
}

/// What a node counted of one step of a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutReport {
    /// How a candidate in the shadow differs, and whom that would meet: the rows that matter most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub differences: Option<Box<Report>>,
    /// What was counted.
    pub evidence: Evidence,
    /// The rollout's id.
    pub id: String,
    /// The name of the rollout's object.
    pub name: String,
    /// Which step of it.
    pub step: u32,
    /// Why the node asks the candidate nothing any more, though it may be wanted.
    pub stopped: Option<String>,
}

/// What became of a draft.
#[derive(Clone, Debug, PartialEq)]
pub enum Committed {
    /// It made a generation.
    Changed(Box<Change>),
    /// All was as wished already, at this generation.
    Unchanged(u64),
}

/// How far the log is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Entries that were looked at and are good.
    pub entries: u64,
    /// The last good generation.
    pub generation: u64,
    /// Its entry's digest.
    pub head: Digest,
    /// The first entry that is not good.
    pub broken: Option<Damaged>,
    /// Do more entries follow that were not looked at?
    pub more: bool,
}

impl Verified {
    fn step(&mut self, generation: u64, entry: &[u8], followed: &State) -> Result<(), Damaged> {
        let damaged = |generation: u64, reason: &str| Damaged { generation, reason: reason.to_owned() };
        let next = self.generation.saturating_add(1);
        if generation != next {
            return Err(damaged(next, "is missing"));
        }
        let change = Change::decode(generation, entry)?;
        if change.generation != generation {
            return Err(damaged(generation, "says that it is another"));
        }
        if change.previous != self.head.to_string() {
            return Err(damaged(
                generation,
                "does not name the digest of the one before it: one of both was changed",
            ));
        }
        let own = digest(entry);
        if generation == followed.generation && own != followed.head {
            return Err(damaged(generation, "is not the one that this node has followed"));
        }
        (self.entries, self.generation, self.head) = (self.entries + 1, generation, own);
        Ok(())
    }
}

impl Store {
    /// Opens a store, which may be away if there is a folder with the last generations.
    ///
    /// # Errors
    /// When the folder cannot be used, or the store is away and no generation is there: there is nothing to begin with.
    pub async fn open(engine: Engine, folder: Option<PathBuf>) -> Result<Self, Error> {
        let place = || folder.as_deref().unwrap_or_else(|| Path::new("")).display();
        let disk = |error: std::io::Error| Away(format!("use {}: {error}", place()));
        let saved = folder.as_deref().map(Saved::open).transpose().map_err(disk)?;
        let newest = saved.as_ref().map(Saved::newest).transpose().map_err(disk)?;
        let Newest { newer, state } = newest.unwrap_or_default();
        let fresh = state.is_none();
        let store = Self(Arc::new(Shared {
            applying: tokio::sync::Mutex::default(),
            connection: Mutex::default(),
            current: watch::Sender::new(Arc::new(state.unwrap_or_default())),
            engine,
            health: watch::Sender::new(Health::Connected),
            nodes: Mutex::default(),
            report: Mutex::default(),
            report_changed: tokio::sync::Notify::new(),
            saved,
        }));
        let begun = async {
            let connection = store.connect().await?;
            store.catch_up(&connection).await
        };
        match begun.await {
            Ok(()) => store.save().await,
            Err(away) if newer.is_some() => {
                return Err(Error::Newer { newer: newer.unwrap_or_default(), away: Box::new(away) });
            }
            Err(error) if fresh => return Err(error),
            Err(error) => store.ail(&error),
        }
        Ok(store)
    }

    /// The newest state, for a look: from the store, or if that is away from the folder of a node. Writes nothing.
    ///
    /// # Errors
    /// When neither has any.
    pub async fn peek(engine: &Engine, folder: &Path) -> Result<State, Error> {
        let read = async {
            let connection = Connection::open(engine, false).await?;
            let mut state = State::default();
            loop {
                let entries = connection.entries(state.generation, PAGE_ENTRIES).await?;
                for (generation, entry) in &entries {
                    state.apply(*generation, entry)?;
                }
                if entries.len() < PAGE_ENTRIES {
                    return Ok(state);
                }
            }
        };
        match read.await {
            Ok(state) => Ok(state),
            Err(error) => Saved::at(folder).newest().ok().and_then(|newest| newest.state).ok_or(error),
        }
    }

    /// The newest state that this process knows.
    #[must_use]
    pub fn state(&self) -> Arc<State> {
        Arc::clone(&self.0.current.borrow())
    }

    /// Told of each new state.
    #[must_use]
    pub fn follow(&self) -> watch::Receiver<Arc<State>> {
        self.0.current.subscribe()
    }

    /// How it stands with the store.
    #[must_use]
    pub fn health(&self) -> Health {
        self.0.health.borrow().clone()
    }

    /// A state of the past, from the folder of a node, without a store.
    ///
    /// # Errors
    /// When it is not there or does not read; the text names those that are there.
    pub fn saved(folder: &Path, generation: u64) -> Result<State, String> {
        let saved = Saved::at(folder);
        saved.load(generation).map_err(|error| {
            let there = saved.generations().unwrap_or_default();
            let there: Vec<String> = there.iter().map(ToString::to_string).collect();
            let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
            format!("generation {generation} is not on this node's disk ({error}); there are: {there}")
        })
    }

    /// The engine, connected where it is not.
    pub(crate) async fn reached(&self) -> Result<Connection, Error> {
        match self.connection() {
            Some(connection) => Ok(connection),
            None => self.connect().await,
        }
    }

    /// Catches up with the store: whoever is to change something looks at the newest state first.
    ///
    /// # Errors
    /// When the store is away, or holds what does not follow.
    pub async fn refresh(&self) -> Result<(), Error> {
        let connection = self.reached().await?;
        self.catch_up(&connection).await
    }

    /// Makes a change; returns when this process has it too.
    ///
    /// # Errors
    /// [`Error`]; after [`Error::Unknown`] nobody knows whether it was made.
    pub async fn commit(&self, draft: &Draft) -> Result<Committed, Error> {
        self.commit_after(draft, None).await
    }

    /// The same, if this generation is still the newest: for a change that was checked against it.
    ///
    /// # Errors
    /// [`Conflict::Moved`](crate::Conflict::Moved) when another came before; as [`Store::commit`].
    pub async fn commit_on(&self, draft: &Draft, generation: u64) -> Result<Committed, Error> {
        self.commit_after(draft, Some(generation)).await
    }

    async fn commit_after(&self, draft: &Draft, wanted: Option<u64>) -> Result<Committed, Error> {
        let connection = self.reached().await?;
        let id = format!("{:016x}{:016x}", random::u64(), random::u64());
        self.catch_up(&connection).await?;
        for _ in 0..COMMIT_TRIES {
            let state = self.state();
            if let Some(wanted) = wanted.filter(|wanted| *wanted != state.generation) {
                return Err(Conflict::Moved { newest: state.generation, wanted }.into());
            }
            let edits = state.grant(draft)?;
            if edits.is_empty() {
                return Ok(Committed::Unchanged(state.generation));
            }
            let change = Change::new(draft, edits, (state.generation, state.head), clock::unix_ms(), &id);
            let entry = change.encode()?;
            match self.append(&connection, &change, &entry).await? {
                Appended::Done => {
                    // It is made, whatever becomes of reading it.
                    if let Err(error) = self.catch_up(&connection).await {
                        self.ail(&error);
                    }
                    return Ok(Committed::Changed(Box::new(change)));
                }
                Appended::Taken => self.catch_up(&connection).await?,
            }
        }
        Err(Error::Crowded(COMMIT_TRIES))
    }

    /// Adds an entry, and finds out what became of it when the answer is lost: an entry with the same number and bytes may be
    /// added again without harm.
    async fn append(
        &self,
        connection: &Connection,
        change: &Change,
        entry: &[u8],
    ) -> Result<Appended, Error> {
        let mut lost: Option<Away> = None;
        let mut pause = RETRY_MIN;
        for _ in 0..5 {
            match connection.append(change.generation, entry).await {
                Ok(Appended::Done) => return Ok(Appended::Done),
                Ok(Appended::Taken) if lost.is_none() => return Ok(Appended::Taken),
                Ok(Appended::Taken) => {
                    let there = connection.entries(change.generation - 1, 1).await;
                    if let Ok(there) = there {
                        let own = there.first().is_some_and(|(_, bytes)| bytes == entry);
                        return Ok(if own { Appended::Done } else { Appended::Taken });
                    }
                }
                Err(away) => lost = Some(away),
            }
            sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
        let away = lost.unwrap_or_else(|| Away("no answer".to_owned()));
        Err(Error::Unknown { generation: change.generation, away })
    }

    /// Changes after a generation, in order: the audit trail.
    ///
    /// # Errors
    /// When the store is away, or holds what does not read.
    pub async fn changes(&self, after: u64, max: usize) -> Result<Vec<Change>, Error> {
        let connection = self.connection().ok_or_else(|| Away("not connected".to_owned()))?;
        let entries = connection.entries(after, max.min(PAGE_ENTRIES)).await?;
        entries.iter().map(|(number, bytes)| Ok(Change::decode(*number, bytes)?)).collect()
    }

    /// Entries of the log after a generation, in order, each with its digest.
    ///
    /// # Errors
    /// As [`Store::changes`].
    pub async fn log(&self, after: u64, max: usize) -> Result<Vec<(Change, Digest)>, Error> {
        let connection = self.connection().ok_or_else(|| Away("not connected".to_owned()))?;
        let entries = connection.entries(after, max.min(PAGE_ENTRIES)).await?;
        entries.iter().map(|(number, bytes)| Ok((Change::decode(*number, bytes)?, digest(bytes)))).collect()
    }

    /// Walks through the log after an entry whose digest is known, and looks whether each entry follows from the one before
    /// it, and whether it is the log that this process has followed.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn verify(&self, from: (u64, Digest), entries_max: u64) -> Result<Verified, Error> {
        let connection = self.connection().ok_or_else(|| Away("not connected".to_owned()))?;
        let followed = self.state();
        let mut walked = Verified { entries: 0, generation: from.0, head: from.1, broken: None, more: false };
        while walked.entries < entries_max {
            let entries = connection.entries(walked.generation, PAGE_ENTRIES).await?;
            if entries.is_empty() {
                if walked.generation < followed.generation {
                    let reason = "is missing, and this node has followed it".to_owned();
                    walked.broken = Some(Damaged { generation: walked.generation + 1, reason });
                }
                return Ok(walked);
            }
            for (generation, bytes) in &entries {
                if let Err(damaged) = walked.step(*generation, bytes, &followed) {
                    walked.broken = Some(damaged);
                    return Ok(walked);
                }
            }
        }
        walked.more = true;
        Ok(walked)
    }

    /// The state at a generation, made again from the log.
    ///
    /// # Errors
    /// When the store is away, or holds what does not follow.
    pub async fn state_at(&self, generation: u64) -> Result<State, Error> {
        let connection = self.connection().ok_or_else(|| Away("not connected".to_owned()))?;
        let mut state = State::default();
        while state.generation < generation {
            let entries = connection.entries(state.generation, PAGE_ENTRIES).await?;
            if entries.is_empty() {
                let reason = "is not there".to_owned();
                return Err(Damaged { generation, reason }.into());
            }
            for (number, entry) in entries.iter().take_while(|(number, _)| *number <= generation) {
                state.apply(*number, entry)?;
            }
        }
        Ok(state)
    }

    /// Tells the others of this node from now on, at once and every two seconds.
    pub fn report(&self, report: NodeReport) {
        let mut own = self.0.report.lock().unwrap_or_else(PoisonError::into_inner);
        if own.as_ref() != Some(&report) {
            *own = Some(report);
            drop(own);
            self.0.report_changed.notify_one();
        }
    }

    /// Changes what the others are told of this node's rollouts, if they are told of it at all.
    pub fn report_rollouts(&self, rollouts: Vec<RolloutReport>) {
        let mut own = self.0.report.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(report) = own.as_mut().filter(|report| report.rollouts != rollouts) {
            report.rollouts = rollouts;
            drop(own);
            self.0.report_changed.notify_one();
        }
    }

    /// Changes what the others are told of this node's shards, if they are told of it at all.
    pub fn report_schemas(&self, schemas: BTreeMap<ShardName, u64>) {
        let mut own = self.0.report.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(report) = own.as_mut().filter(|report| report.schemas != schemas) {
            report.schemas = schemas;
            drop(own);
            self.0.report_changed.notify_one();
        }
    }

    /// What the nodes that are there told last, for a process that does not follow.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn look_at_nodes(&self) -> Result<Vec<NodeReport>, Error> {
        let connection = self.connection().ok_or_else(|| Away("not connected".to_owned()))?;
        let reports = connection.reports(clock::unix_ms()).await?;
        Ok(reports.iter().filter_map(|(_, report)| serde_json::from_slice(report).ok()).collect())
    }

    /// What the nodes that are there told, some seconds ago at most while the store answers.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeReport> {
        self.0.nodes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Follows the log until the shutdown.
    pub async fn run(self, shutdown: Shutdown) {
        let mut pause = RETRY_MIN;
        loop {
            let begun = Instant::now();
            let followed = tokio::select! {
                () = shutdown.begun() => break,
                followed = self.follow_once() => followed,
            };
            self.set_connection(None);
            if let Err(error) = followed {
                if begun.elapsed() > RETRY_MAX {
                    // A member of many may have ended: the store is away when the next try says so too.
                    tracing::debug!("the control store is lost, another try: {error}");
                    pause = RETRY_MIN;
                    continue;
                }
                self.ail(&error);
            }
            pause = (pause * 2).min(RETRY_MAX);
            tokio::select! {
                () = shutdown.begun() => break,
                () = sleep(pause) => {}
            }
        }
        self.save().await;
    }

    /// Follows until something fails.
    async fn follow_once(&self) -> Result<(), Error> {
        let connection = self.reached().await?;
        let mut watcher = connection.watch().await?;
        let mut ticks = interval(REPORT_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut saved, mut save_at) = (0, Instant::now());
        loop {
            self.catch_up(&connection).await?;
            let newest = self.state().generation;
            if newest != saved && Instant::now() >= save_at {
                self.save().await;
                (saved, save_at) = (newest, Instant::now() + SAVE_EVERY);
            }
            let save = async {
                if newest == saved { std::future::pending().await } else { sleep_until(save_at).await }
            };
            // All branches are cancel-safe: the next round reads whatever there is.
            tokio::select! {
                changed = watcher.changed() => changed?,
                () = save => {}
                _ = ticks.tick() => self.exchange(&connection).await?,
                () = self.0.report_changed.notified() => self.exchange(&connection).await?,
            }
        }
    }

    /// Tells of this node, and asks for the others.
    async fn exchange(&self, connection: &Connection) -> Result<(), Away> {
        let report = self.0.report.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let now_ms = clock::unix_ms();
        if let Some(report) = report {
            let bytes = serde_json::to_vec(&report).unwrap_or_default();
            connection.report(&report.name, now_ms, &bytes).await?;
        }
        let reports = connection.reports(now_ms).await?;
        let nodes = reports.iter().filter_map(|(_, report)| serde_json::from_slice(report).ok()).collect();
        *self.0.nodes.lock().unwrap_or_else(PoisonError::into_inner) = nodes;
        Ok(())
    }

    /// Applies what came after the state that is there, and publishes the outcome.
    async fn catch_up(&self, connection: &Connection) -> Result<(), Error> {
        let _applying = self.0.applying.lock().await;
        loop {
            let state = self.state();
            let entries = connection.entries(state.generation, PAGE_ENTRIES).await?;
            let whole = entries.len() < PAGE_ENTRIES;
            if !entries.is_empty() {
                let mut next = (*state).clone();
                for (generation, entry) in &entries {
                    next.apply(*generation, entry)?;
                }
                self.0.current.send_replace(Arc::new(next));
            }
            if whole {
                self.0.health.send_if_modified(|health| {
                    let changed = *health != Health::Connected;
                    *health = Health::Connected;
                    changed
                });
                return Ok(());
            }
        }
    }

    /// Connects, and makes sure that the log there is the one that this node has followed.
    async fn connect(&self) -> Result<Connection, Error> {
        let state = self.state();
        // Whoever has seen a store does not take an empty one for it.
        let connection = Connection::open(&self.0.engine, state.generation == 0).await?;
        if state.generation > 0 {
            let generation = state.generation;
            let there = connection.entries(generation - 1, 1).await?;
            if there.first().is_none_or(|(_, entry)| digest(entry) != state.head) {
                return Err(Error::Damaged(Damaged {
                    generation,
                    reason: "is not the one that this node has seen: was the store restored or replaced? If it is the right one, \
                             remove the folder of saved generations and start the node again"
                        .to_owned(),
                }));
            }
        }
        self.set_connection(Some(connection.clone()));
        Ok(connection)
    }

    fn connection(&self) -> Option<Connection> {
        self.0.connection.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_connection(&self, connection: Option<Connection>) {
        *self.0.connection.lock().unwrap_or_else(PoisonError::into_inner) = connection;
    }

    fn ail(&self, error: &Error) {
        let since_ms = match &*self.0.health.borrow() {
            Health::Away { since_ms, .. } => *since_ms,
            Health::Connected | Health::Damaged { .. } => clock::unix_ms(),
        };
        let next = match error {
            Error::Damaged(damaged) => Health::Damaged { reason: damaged.to_string() },
            other => Health::Away { reason: other.to_string(), since_ms },
        };
        self.0.health.send_if_modified(|health| {
            let changed = std::mem::discriminant(health) != std::mem::discriminant(&next);
            if changed {
                let generation = self.state().generation;
                tracing::warn!(generation, "the last good generation goes on: {error}");
            }
            *health = next;
            changed
        });
    }

    /// Saves the state. A disk that does not take it is told, and stops nobody.
    async fn save(&self) {
        let state = self.state();
        let generation = state.generation;
        let Some(saved) = self.0.saved.clone().filter(|_| generation > 0) else { return };
        let done = tokio::task::spawn_blocking(move || saved.save(&state)).await;
        if let Err(error) = done.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
            tracing::error!(generation, "the generation could not be saved on this node's disk: {error}");
        }
    }
}
