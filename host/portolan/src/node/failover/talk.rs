//! What regions tell each other beside their logs: what they see of all others, and how far their copies are.
//!
//! Each node asks each other region, at one of its nodes, as often as reports are made. How old an answer is follows without comparing clocks: the
//! one who answers says for how long the report has lain there, and the one who asks knows when it asked.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use portolan_core::ids::{RegionName, ShardName};
use portolan_core::log::Epoch;
use portolan_core::time::Moment;
use portolan_failover::agent::{Event, Word};
use portolan_failover::counter::{Outcome, Reason};
use portolan_failover::lease::{Incarnation, Round};
use portolan_failover::matrix::{Path, Report};
use portolan_failover::members::Members;
use portolan_foundation::shutdown::Shutdown;
use portolan_foundation::{clock, task};
use portolan_replication::{Asker, Gateways};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

/// Reports of which it is remembered when they were made: longer than any counts.
const SENT_MAX: usize = 64;

/// What is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "ask")]
pub(super) enum Question {
    /// Do you acknowledge that this region goes on, while the control store is away?
    Acknowledge {
        /// Under which incarnation of its lease.
        incarnation: Incarnation,
    },
    /// What do you see?
    Look,
}

/// What is answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "say")]
pub(super) enum Said {
    /// Is it acknowledged?
    Acknowledged {
        /// It is.
        yes: bool,
    },
    /// What is seen.
    Seen(Box<Seen>),
}

/// What a region sees.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Seen {
    /// How long ago it was put together, in milliseconds.
    pub(super) age_ms: u64,
    /// The report, as bytes.
    pub(super) report: Vec<u8>,
    /// Of its copies.
    pub(super) words: Vec<Word>,
    /// The epochs of shards that the node who answers goes by.
    #[serde(default)]
    pub(super) meant: BTreeMap<ShardName, Epoch>,
    /// The epochs under which it takes writes.
    #[serde(default)]
    pub(super) writes: BTreeMap<ShardName, Epoch>,
    /// The highest epochs under which other regions have told it that they do.
    #[serde(default)]
    pub(super) witnessed: BTreeMap<ShardName, Epoch>,
}

/// What is known of what other regions tell. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard(Arc<Mutex<BTreeMap<RegionName, (Moment, Seen)>>>);

impl Heard {
    fn note(&self, region: &RegionName, seen: Seen) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(region.clone(), (clock::now(), seen));
    }

    /// What regions said lately.
    pub(super) fn lately(&self, within: Duration) -> BTreeMap<RegionName, Seen> {
        let now = clock::now();
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = all.iter().filter(|(_, (at, _))| now.since(*at) <= within);
        fresh.map(|(region, (_, seen))| (region.clone(), seen.clone())).collect()
    }

    /// The highest epochs under which other regions said that they take writes.
    pub(super) fn witnessed(&self) -> BTreeMap<ShardName, Epoch> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut epochs: BTreeMap<ShardName, Epoch> = BTreeMap::new();
        for (shard, epoch) in all.values().flat_map(|(_, seen)| &seen.writes) {
            let known = epochs.entry(shard.clone()).or_default();
            *known = (*known).max(*epoch);
        }
        epochs
    }
}

/// One region that is asked.
pub(super) struct Other {
    pub(super) heard: Heard,
    pub(super) inbox: mpsc::Sender<Event>,
    pub(super) members: Members,
    pub(super) own: RegionName,
    pub(super) patience: Duration,
    pub(super) way: Gateways,
}

impl Other {
    /// Asks until the end, each time that a report was made.
    ///
    /// What wakes it: a report of this node's. What it reads: the answer. What it writes: events for the agent. What fails is an outcome.
    pub(super) async fn ask(self, mut reports: watch::Receiver<Option<(u64, Moment)>>, end: Shutdown) {
        let mut sent: VecDeque<(u64, Moment)> = VecDeque::with_capacity(SENT_MAX);
        let mut link: Option<(usize, Asker)> = None;
        let mut at = 0;
        loop {
            tokio::select! {
                // Cancel-safe: a report that was not seen is still marked.
                changed = reports.changed() => if changed.is_err() { return },
                () = end.begun() => return,
            }
            let Some(report) = *reports.borrow_and_update() else { continue };
            if sent.len() >= SENT_MAX {
                sent.pop_front();
            }
            sent.push_back(report);
            let asked = clock::now();
            let answered = tokio::time::timeout(self.patience, self.once(&mut link, at)).await;
            let outcome = match answered {
                Ok(Ok(seen)) => self.take(seen, report.0, asked, &sent).await,
                Ok(Err(error)) => {
                    tracing::debug!(region = %self.way.region(), "it does not tell what it sees: {error}");
                    (link, at) = (None, at.wrapping_add(1));
                    Outcome::Failed(Reason::Refused)
                }
                Err(_) => {
                    (link, at) = (None, at.wrapping_add(1));
                    Outcome::Failed(Reason::Timeout)
                }
            };
            let event = Event::Probed(self.way.region().clone(), Path::Replication, outcome);
            if self.inbox.send(event).await.is_err() {
                return;
            }
        }
    }

    async fn once(&self, link: &mut Option<(usize, Asker)>, at: usize) -> Result<Seen, String> {
        let addresses = self.way.addresses();
        if link.is_none() {
            let at = at.checked_rem(addresses.len()).ok_or("it has no address")?;
            let address = addresses.get(at).ok_or("it has no address")?;
            *link = Some((at, self.way.asker(address).await.map_err(|error| error.to_string())?));
        }
        let Some((_, asker)) = link else { return Err("there is no link".to_owned()) };
        match ask(asker, &Question::Look).await? {
            Some(Said::Seen(seen)) => Ok(*seen),
            _ => Err("it sees nothing yet".to_owned()),
        }
    }

    async fn take(&self, seen: Seen, number: u64, asked: Moment, sent: &VecDeque<(u64, Moment)>) -> Outcome {
        let mut report = match Report::from_bytes(&seen.report, &self.members) {
            Ok(report) => report,
            Err(error) => {
                tracing::warn!(region = %self.way.region(), "what it tells is not understood: {error}");
                return Outcome::Failed(Reason::Other);
            }
        };
        if self.members.name(report.vantage) != Some(self.way.region()) {
            tracing::warn!(region = %self.way.region(), "it speaks for another region, and is not believed");
            return Outcome::Failed(Reason::Other);
        }
        // It is as old as it says, before it was asked for: the last report of this node's that was made before it is the one that it can have known.
        let age = Duration::from_millis(seen.age_ms);
        let made = |at: &Moment| asked.since(*at) >= age;
        let known = sent.iter().rev().find(|(_, at)| made(at)).map_or(0, |(number, _)| *number);
        report.sequence = number;
        if let Some(own) = self.members.seat(&self.own).and_then(|own| report.heard.get_mut(own.index())) {
            *own = known;
        }
        let words = seen.words.clone();
        self.heard.note(self.way.region(), seen);
        drop(self.inbox.send(Event::Heard(Box::new(report), words)).await);
        Outcome::Ok
    }
}

/// Asks all nodes of all regions whether they acknowledge that this one goes on.
pub(super) fn ask_all(round: &Round, ways: &[Gateways], patience: Duration, inbox: &mpsc::Sender<Event>) {
    for way in ways {
        let (way, inbox, number) = (way.clone(), inbox.clone(), round.number);
        let question = Question::Acknowledge { incarnation: round.incarnation };
        task::spawn("failsafe", async move {
            // Any of its nodes may be the one that takes over.
            let asked = way.addresses().iter().map(async |address| {
                let mut asker = way.asker(address).await.ok()?;
                match ask(&mut asker, &question).await {
                    Ok(Some(Said::Acknowledged { yes })) => Some(yes),
                    _ => None,
                }
            });
            let answers = tokio::time::timeout(patience, futures_util::future::join_all(asked)).await;
            let answers = answers.unwrap_or_else(|_| vec![None]);
            let region = way.region().clone();
            if answers.contains(&Some(false)) {
                drop(inbox.send(Event::Acknowledged { region, number, yes: false }).await);
            } else if answers.iter().all(|answer| *answer == Some(true)) {
                drop(inbox.send(Event::Acknowledged { region, number, yes: true }).await);
            }
        });
    }
}

async fn ask(asker: &mut Asker, question: &Question) -> Result<Option<Said>, String> {
    let question = serde_json::to_vec(question).map_err(|error| error.to_string())?;
    let answer = asker.ask(Bytes::from(question)).await.map_err(|error| error.to_string())?;
    let Some(answer) = answer else { return Ok(None) };
    serde_json::from_slice(&answer).map(Some).map_err(|error| error.to_string())
}
