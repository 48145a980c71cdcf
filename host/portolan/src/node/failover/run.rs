//! One agent's hands: who looks, asks and tells for it, and how its steps are begun.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use portolan_core::ids::ShardName;
use portolan_core::time::Moment;
use portolan_failover::agent::{Agent, Event};
use portolan_failover::picture::Picture;
use portolan_failover::policies::{Fault, Native};
use portolan_failover::promotion::{Done, Work};
use portolan_failover::proposal::Proposal;
use portolan_foundation::shutdown::Shutdown;
use portolan_foundation::task;
use portolan_replication::Gateways;
use tokio::sync::{mpsc, watch};

use super::evidence::Keep;
use super::registers::Registers;
use super::setup::Meant;
use super::talk::Other;
use super::work::{Case, Hands};
use super::{Around, Failover, look, news};
use crate::config::FailoverPolicy;
use crate::failing::Failing;

/// One agent's hands.
pub(super) struct Run {
    hands: Hands,
    pub(super) inbox: mpsc::Sender<Event>,
    pub(super) keep: Keep,
    pub(super) patience: Duration,
    failing: Failing,
    policy: FailoverPolicy,
    pub(super) registers: Registers,
    pub(super) reports: watch::Sender<Option<(u64, Moment)>>,
    /// Steps that are being done.
    under_way: Arc<Mutex<BTreeSet<(ShardName, u64, String)>>>,
    pub(super) ways: Vec<Gateways>,
}

impl Run {
    pub(super) fn start(
        failover: &Failover,
        meant: &Meant,
        around: &Around,
        (inbox, reports): (mpsc::Sender<Event>, watch::Sender<Option<(u64, Moment)>>),
        end: &Shutdown,
    ) -> Self {
        let (setup, timers) = (&meant.setup, &meant.setup.timers);
        let mut ways = Vec::new();
        for (region, way) in &meant.ways {
            let gateways = Gateways::new(around.identity.clone(), region.clone(), way.words.clone());
            ways.push(gateways.clone());
            let other = Other {
                heard: failover.0.heard.clone(),
                inbox: inbox.clone(),
                members: setup.members.clone(),
                own: setup.own.clone(),
                patience: timers.probe.timeout,
                way: gateways,
            };
            task::spawn("failover-words", other.ask(reports.subscribe(), end.clone()));
            let with = (around.identity.clone(), timers.probe.clone());
            let look = look::look_at(region.clone(), way.clone(), with, inbox.clone(), end.clone());
            task::spawn("failover-probe", look);
        }
        task::spawn("failover-news", news::hear(around.control.clone(), inbox.clone(), end.clone()));
        let kept = setup.shards.iter().filter(|(_, shard)| shard.regions.contains(&setup.own));
        let names = kept.map(|(name, _)| name.clone()).collect();
        let (every, shards) = (timers.probe.exchange, around.shards.clone());
        task::spawn(
            "failover-copies",
            look::look_here(setup.own.clone(), names, every, shards.clone(), inbox.clone(), end.clone()),
        );
        let hands = Hands {
            control: around.control.clone(),
            dns: failover.0.dns.load_full(),
            heard: failover.0.heard.clone(),
            others: meant.ways.keys().cloned().collect(),
            own: setup.own.clone(),
            shards,
        };
        Self {
            hands,
            inbox,
            keep: around.keep.clone(),
            patience: timers.lease.rpc_timeout,
            failing: failover.0.failing.clone(),
            policy: meant.policy.clone(),
            registers: Registers::new(around.control.clone()),
            reports,
            under_way: Arc::default(),
            ways,
        }
    }

    /// Asks the policy, which may take a while.
    pub(super) fn propose(&self, picture: Picture) {
        let (policy, failing, inbox) = (self.policy.clone(), self.failing.clone(), self.inbox.clone());
        task::spawn("failover-policy", async move {
            let asked = tokio::task::spawn_blocking(move || {
                let answer = propose(&policy, &failing, &picture);
                (picture, answer)
            });
            match asked.await {
                Ok((picture, answer)) => drop(inbox.send(Event::Planned(Box::new(picture), answer)).await),
                Err(error) => tracing::error!("the policy was not asked: {error}"),
            }
        });
    }

    /// Does a step, unless it is being done.
    pub(super) fn work(&self, agent: &Agent, shard: ShardName, number: u64, work: Work) {
        let Some(record) = agent.table().promotion(&shard) else { return };
        let past = record.past.iter().find(|past| past.number == number);
        // What is counted may be of a promotion before this one.
        let (from, to) = match (&work, past) {
            (Work::Count { .. }, Some(past)) => (past.from.clone(), past.to.clone()),
            _ => (record.from.clone(), record.to.clone()),
        };
        let case = Case { from, to, shard: shard.clone() };
        let key = (shard.clone(), number, format!("{work:?}"));
        if !self.under_way.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone()) {
            return;
        }
        let (hands, inbox, under_way) = (self.hands.clone(), self.inbox.clone(), Arc::clone(&self.under_way));
        task::spawn("failover-step", async move {
            let told = work.clone();
            let done = Box::pin(hands.work(case, work)).await;
            under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            match done {
                Ok(done) => {
                    let done = match done {
                        Done::Counted { rows, .. } => Done::Counted { number, rows },
                        done => done,
                    };
                    tracing::info!(%shard, step = ?told, "{done:?}");
                    drop(inbox.send(Event::Worked(shard, number, done)).await);
                }
                Err(error) => tracing::warn!(%shard, step = ?told, "it is tried again: {error:#}"),
            }
        });
    }
}

/// What a policy proposes.
pub(super) fn propose(
    policy: &FailoverPolicy,
    failing: &Failing,
    picture: &Picture,
) -> Result<(Vec<Proposal>, u64), Fault> {
    match policy {
        FailoverPolicy::Native(name) => {
            let native = [Native::CapacityAware, Native::Conservative, Native::Fast, Native::Manual];
            let native = native.into_iter().find(|native| native.as_str() == *name);
            Ok((native.unwrap_or(Native::Conservative).propose(picture), 0))
        }
        FailoverPolicy::Component(_) => failing.propose(picture),
    }
}
