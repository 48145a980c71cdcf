//! This node's part in failover: its agent, and everything that carries out what the agent says.
//!
//! The agent (`portolan_failover::agent`) decides and does nothing; here its questions go to the control store, its reports to other regions, its steps
//! to shards, and what comes of all of it goes back as events. What others ask of it here is one thing: whether a shard may be written, and until when.

mod evidence;
mod look;
mod news;
mod operators;
mod registers;
mod run;
mod setup;
mod show;
mod talk;
mod words;
mod work;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use portolan_control::Store;
use portolan_core::ids::{RegionName, ShardName};
use portolan_core::steering::{Steering, Traffic};
use portolan_core::time::Moment;
use portolan_failover::agent::{Agent, Effect, Event, Now, TICK};
use portolan_failover::lease::{Incarnation, Permit};
use portolan_foundation::shutdown::Shutdown;
use portolan_foundation::tls::PeerIdentity;
use portolan_foundation::{clock, task};
use portolan_replication::{Answering, Answers};
use tokio::sync::{mpsc, oneshot, watch};

use self::evidence::Keep;
use self::run::Run;
use self::setup::Meant;
use self::talk::{Heard, Question, Said, Seen};
use super::contents::Contents;
use super::dns::{Dns, Standing};
use super::shards::Shards;
use crate::config::Config;
use crate::failing::Failing;

/// Events that wait for the agent. Whoever has one waits while it is behind.
const EVENTS: usize = 4_096;
/// How long after a fault of its own an agent begins anew.
const AGAIN: Duration = Duration::from_secs(1);
/// How long an agent may take to say whether it acknowledges.
const ACKNOWLEDGE: Duration = Duration::from_secs(1);
/// How often operators' words are looked for.
const WORDS: Duration = Duration::from_millis(250);
/// Ticks of the agent from one picture of it for whoever asks to the next.
const SHOW_EVERY: u64 = 5;

/// A node's part in failover. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Failover(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Regions that wait for an acknowledgement, by a number of this node's.
    asked: Mutex<BTreeMap<u64, oneshot::Sender<bool>>>,
    /// The store of what operators say; none while none is followed.
    control: Mutex<Option<Store>>,
    dns: ArcSwapOption<Dns>,
    failing: Failing,
    inbox: Mutex<Option<mpsc::Sender<Event>>>,
    heard: Heard,
    meant: watch::Sender<Option<Meant>>,
    next: AtomicU64,
    /// Shards that this region may write, and until when.
    permits: ArcSwap<BTreeMap<ShardName, Permit>>,
    /// What this node tells others, and when that was put together.
    report: Mutex<Option<(Moment, Seen)>>,
    shown: ArcSwap<show::Shown>,
    /// What gateways go by.
    steering: Arc<Steering>,
}

/// What the agent is carried out with.
struct Around {
    control: Store,
    identity: PeerIdentity,
    keep: Keep,
    shards: Shards,
}

impl Failover {
    /// The one of a node; where a component is asked, this asks it. What it says of traffic it writes into `steering`.
    pub(crate) fn new(failing: Failing, steering: Arc<Steering>) -> Self {
        Self(Arc::new(Inner {
            asked: Mutex::default(),
            control: Mutex::default(),
            dns: ArcSwapOption::empty(),
            failing,
            inbox: Mutex::default(),
            heard: Heard::default(),
            meant: watch::Sender::new(None),
            next: AtomicU64::new(1),
            permits: ArcSwap::default(),
            report: Mutex::default(),
            shown: ArcSwap::default(),
            steering,
        }))
    }

    /// From now on it is that of this configuration, and so are the names that lead to regions.
    pub(crate) fn follow(&self, config: &Config) {
        if let Some(dns) = self.0.dns.load().as_ref() {
            dns.follow(config);
        }
        let next = Meant::of(config);
        self.0.meant.send_if_modified(|now| {
            let same = match (&*now, &next) {
                (Some(now), Some(next)) => now.is_like(next),
                (None, None) => true,
                _ => false,
            };
            if !same {
                *now = next;
            }
            !same
        });
    }

    /// Does this installation have leases of regions? Then nobody writes a shard without one.
    pub(crate) fn is_on(&self) -> bool {
        self.0.meant.borrow().is_some()
    }

    /// Permission to write a shard; none while this region has none.
    pub(crate) fn permit(&self, shard: &ShardName) -> Option<Permit> {
        self.0.permits.load().get(shard).copied().filter(|permit| permit.allows(clock::now()))
    }

    /// How regions stand, for names.
    pub(super) fn standing(&self) -> Standing {
        let meant = self.0.meant.borrow();
        let all = meant.iter().flat_map(|meant| meant.setup.members.names()).cloned().collect();
        self.0.shown.load().standing(&all)
    }

    /// From now on promotions wait for the plans of these names.
    pub(super) fn plan_with(&self, dns: Dns) {
        self.0.dns.store(Some(Arc::new(dns)));
    }

    /// As Prometheus reads it.
    pub(crate) fn metrics(&self, text: &mut String) {
        if self.is_on() {
            self.0.shown.load().metrics(text);
        }
    }

    /// Runs it until shutdown.
    pub(crate) fn start(
        &self,
        control: Store,
        identity: PeerIdentity,
        state: PathBuf,
        shards: Shards,
        shutdown: &Shutdown,
    ) {
        *self.0.control.lock().unwrap_or_else(PoisonError::into_inner) = Some(control.clone());
        let keep = Keep::start(&state);
        let around = Around { control, identity, keep, shards };
        let (failover, shutdown) = (self.clone(), shutdown.clone());
        task::spawn("failover-guardian", async move {
            let around = Arc::new(around);
            loop {
                let run = failover.clone().run(Arc::clone(&around), shutdown.clone());
                match task::spawn("failover", run).await {
                    // It panicked, and has been told. What it held it takes up again.
                    Ok(None) => failover.0.permits.store(Arc::default()),
                    _ => return,
                }
                tokio::time::sleep(AGAIN).await;
            }
        });
    }

    /// What wakes it: another configuration. What it writes: nothing by itself; each configuration has an agent of its own, which takes up what the one
    /// before held.
    async fn run(self, around: Arc<Around>, shutdown: Shutdown) {
        let mut meant = self.0.meant.subscribe();
        loop {
            let now = meant.borrow_and_update().clone();
            let end = shutdown.child();
            match now {
                Some(now) => {
                    tokio::select! {
                        () = Box::pin(self.carry_out(now, &around, &end)) => {}
                        // Cancel-safe: a change that was not seen is still marked.
                        changed = meant.changed() => if changed.is_err() { return },
                        () = shutdown.begun() => return,
                    }
                }
                None => {
                    self.0.permits.store(Arc::default());
                    self.0.steering.publish(Traffic::default());
                    tokio::select! {
                        changed = meant.changed() => if changed.is_err() { return },
                        () = shutdown.begun() => return,
                    }
                }
            }
            end.begin();
        }
    }

    async fn carry_out(&self, meant: Meant, around: &Around, end: &Shutdown) {
        let (sender, mut inbox) = mpsc::channel::<Event>(EVENTS);
        *self.0.inbox.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender.clone());
        let mut agent = match Agent::new(meant.setup.clone()) {
            Ok(agent) => agent,
            Err(error) => {
                tracing::error!("nobody decides of regions here: {error}");
                end.begun().await;
                return;
            }
        };
        let (reports, _) = watch::channel(None);
        let run = Run::start(self, &meant, around, (sender, reports), end);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let (mut ticks, mut generation) = (0_u64, None);
        let mut looked = Moment(0);
        loop {
            let event = tokio::select! {
                // Renewals come before everything else.
                biased;
                _ = tick.tick() => Event::Tick,
                event = inbox.recv() => match event {
                    Some(event) => event,
                    None => return,
                },
            };
            let ticked = matches!(event, Event::Tick);
            let decides = matches!(event, Event::Intents(_) | Event::Planned(..) | Event::Stored(..));
            self.handle(&mut agent, &run, event);
            if decides {
                self.publish(&agent, &meant, &around.shards);
                self.0.steering.publish(show::traffic(&agent, &meant, present()));
            }
            if !ticked {
                continue;
            }
            let now = clock::now();
            if now.since(looked) >= WORDS {
                looked = now;
                let state = around.control.state();
                if generation.replace(state.generation()) != Some(state.generation()) {
                    self.handle(&mut agent, &run, Event::Intents(words::of(&state)));
                }
            }
            self.publish(&agent, &meant, &around.shards);
            ticks += 1;
            if ticks % SHOW_EVERY == 0 {
                let shown = show::Shown::of(&agent, &meant, &self.0.failing, present());
                self.0.steering.publish(show::traffic(&agent, &meant, present()));
                self.0.shown.store(Arc::new(shown));
            }
        }
    }

    /// Gives the agent an event, and everything that follows from it at once.
    fn handle(&self, agent: &mut Agent, run: &Run, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for effect in agent.handle(event, present()) {
                events.extend(self.carry(effect, agent, run));
            }
        }
    }

    /// Carries out what the agent says. Gives what it is to know at once.
    fn carry(&self, effect: Effect, agent: &Agent, run: &Run) -> Option<Event> {
        match effect {
            Effect::Acknowledge { number, yes, .. } => {
                let asked = self.0.asked.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
                // Whoever asked may have gone.
                asked.map(|asked| asked.send(yes).is_ok());
            }
            Effect::AskAll(round) => talk::ask_all(&round, &run.ways, run.patience, &run.inbox),
            Effect::Evidence(bundle) => {
                for there in &bundle.decision.moves {
                    tracing::warn!(shard = %there.shard, from = %there.from, to = %there.to, "it is decided that the shard moves");
                }
                for bar in &bundle.decision.barred {
                    tracing::info!(rule = bar.rule.as_str(), "what was proposed is barred: {}", bar.why);
                }
                run.keep.put(*bundle);
            }
            Effect::Plan(picture) => run.propose(*picture),
            Effect::ReadOnly(shards) => {
                tracing::warn!(?shards, "nobody writes these shards now");
            }
            Effect::Send(report, words) => {
                let (now, number) = (clock::now(), report.sequence);
                let seen = Seen { report: report.to_bytes(), words, ..Seen::default() };
                *self.0.report.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, seen));
                run.reports.send_replace(Some((number, now)));
            }
            Effect::Store(number, request) => {
                // What is answered later is not waited for any more; the next question goes to another member then.
                let (registers, inbox, patience) = (run.registers.clone(), run.inbox.clone(), run.patience);
                task::spawn("failover-store", async move {
                    let answer = registers.ask(request, patience).await;
                    drop(inbox.send(Event::Stored(number, answer)).await);
                });
            }
            Effect::Traffic(shifts) => {
                tracing::warn!(?shifts, "traffic of regions goes elsewhere");
            }
            Effect::Work(shard, number, work) => run.work(agent, shard, number, work),
        }
        None
    }

    /// What each write path goes by from now on. Who has leave to begin an epoch begins it at once.
    fn publish(&self, agent: &Agent, meant: &Meant, shards: &Shards) {
        let now = clock::now();
        let permits = meant.setup.shards.keys();
        let permits = permits.filter_map(|shard| Some((shard.clone(), agent.permit(shard, now)?)));
        let permits: BTreeMap<ShardName, Permit> = permits.collect();
        let before = self.0.permits.load_full();
        if *before == permits {
            return;
        }
        let permits = Arc::new(permits);
        self.0.permits.store(Arc::clone(&permits));
        let is_new = |(shard, permit): &(&ShardName, &Permit)| {
            before.get(*shard).is_none_or(|before| before.epoch != permit.epoch)
        };
        permits.iter().filter(is_new).for_each(|(shard, _)| shards.look_again(shard));
    }

    /// What this node says of what it sees.
    fn seen(&self, shards: &Shards) -> Option<Seen> {
        let (at, seen) = self.0.report.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let age_ms = u64::try_from(clock::now().since(at).as_millis()).unwrap_or(u64::MAX);
        let meant = shards.meant_all();
        let writes = meant.keys().filter_map(|shard| Some((shard.clone(), shards.written(shard)?.1)));
        let writes = writes.collect();
        Some(Seen { age_ms, meant, writes, witnessed: self.0.heard.witnessed(), ..seen })
    }
}

impl Failover {
    /// Does this node acknowledge that a region goes on without the control store? Silence is a no.
    async fn acknowledges(&self, region: RegionName, incarnation: Incarnation) -> bool {
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.0.asked.lock().unwrap_or_else(PoisonError::into_inner).insert(number, sender);
        let inbox = self.0.inbox.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let asked = async {
            let event = Event::AskedToAcknowledge { region, incarnation, number };
            inbox?.send(event).await.ok()?;
            answer.await.ok()
        };
        let yes = tokio::time::timeout(ACKNOWLEDGE, asked).await;
        self.0.asked.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        yes.is_ok_and(|yes| yes == Some(true))
    }
}

/// What answers other regions' words.
#[derive(Debug)]
pub(super) struct Speaker {
    pub(super) contents: Contents,
    pub(super) failover: Failover,
    pub(super) shards: Shards,
}

impl Answers for Speaker {
    fn answer(&self, from: RegionName, question: Bytes) -> Answering {
        let (contents, failover, shards) =
            (self.contents.clone(), self.failover.clone(), self.shards.clone());
        Box::pin(async move {
            if let Some(told) = contents.tell(&from, &question).await {
                return Some(told);
            }
            let said = match serde_json::from_slice(&question) {
                Ok(Question::Look) => Said::Seen(Box::new(failover.seen(&shards)?)),
                Ok(Question::Acknowledge { incarnation }) => {
                    Said::Acknowledged { yes: failover.acknowledges(from, incarnation).await }
                }
                Err(error) => {
                    tracing::debug!(%from, "what it asks is not understood: {error}");
                    return None;
                }
            };
            serde_json::to_vec(&said).ok().map(Bytes::from)
        })
    }
}

fn present() -> Now {
    Now { moment: clock::now(), unix_ms: clock::unix_ms() }
}
