//! Shards whose engines replicate and fence themselves: this node looks at the one that its region reaches, says how far it is behind, and
//! follows it when it fails over.
//!
//! Nothing is fenced here: the engine decides who writes, and what is told to the store of intent is only where requests that change
//! something go. An engine that begins to take writes here while this node looks, at the same server and in the same epoch, has failed over
//! to here; one that takes writes everywhere begins nowhere, and goes by what its operator says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use futures_util::future::join_all;
use portolan_changelog::{External, Lookout, Seen};
use portolan_control::{Conflict, Draft, Error, Expect, Key, Manager, Store, Wish};
use portolan_core::ids::{RegionName, ShardName};
use portolan_core::log::Epoch;
use portolan_core::time::Moment;
use portolan_foundation::clock;
use portolan_foundation::shutdown::Shutdown;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::intent::Intent;
use crate::config::Config;
use crate::leases::{self, LEASE_KIND};

/// From one look at an engine to the next.
const EVERY: Duration = Duration::from_secs(1);
/// How long an engine may take to answer, and the store of intent.
const PATIENCE: Duration = Duration::from_secs(3);
/// How old a look may be that one is compared with: a server that starts again takes less.
const BEFORE_MAX: Duration = Duration::from_mins(2);
/// Looks in a row that must see the engine take writes here.
const RISEN: u8 = 2;
/// How often a lease is written again that another change came before.
const TRIES: usize = 10;

/// The shards of engines that replicate themselves. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Externals {
    intent: Intent,
    known: Arc<ArcSwap<BTreeMap<ShardName, Look>>>,
    meant: watch::Sender<BTreeMap<ShardName, Meant>>,
}

/// What this node is to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Meant {
    epoch: Epoch,
    external: External,
    local: RegionName,
    primary: RegionName,
}

/// What came of a look.
#[derive(Clone, Debug, Default)]
struct Look {
    problem: Option<String>,
    seen: Option<Seen>,
}

/// An engine that is being looked at.
struct Watched {
    /// The last look at which it answered, and the epoch then.
    before: Option<(Moment, Epoch, Seen)>,
    lookout: Lookout,
    /// In which epoch it began to take writes here, and how many looks have seen it do so.
    risen: Option<(Epoch, u8)>,
}

impl Externals {
    pub(super) fn new(intent: Intent) -> Self {
        Self { intent, known: Arc::default(), meant: watch::Sender::default() }
    }

    /// From now on they are those of this configuration.
    pub(super) fn follow(&self, config: &Config) {
        let local = &config.local;
        let here = config.externals.iter().filter_map(|(name, shard)| {
            let external = shard.stores.get(local)?.clone();
            let (epoch, primary) = (shard.epoch, shard.primary.clone());
            Some((name.clone(), Meant { epoch, external, local: local.clone(), primary }))
        });
        self.meant.send_replace(here.collect());
    }

    /// What is known of one; none where this region reaches no engine of it.
    pub(super) fn shown(&self, shard: &ShardName) -> Option<Value> {
        let known = self.known.load();
        let Look { problem, seen } = known.get(shard)?;
        let behind_ms = seen.as_ref().and_then(|seen| seen.behind).map(|behind| behind.as_millis());
        Some(
            json!({ "behind_ms": behind_ms, "problem": problem, "writes": seen.as_ref().map(|seen| seen.writes) }),
        )
    }

    /// As Prometheus reads it.
    pub(super) fn metrics(&self, text: &mut String) {
        let known = self.known.load();
        type Gauge<'a> = (&'a str, &'a str, &'a dyn Fn(&Seen) -> Option<f64>);
        let gauges: [Gauge<'_>; 2] = [
            ("behind_seconds", "How old what the engine shows here may be.", &|seen| {
                Some(seen.behind?.as_secs_f64())
            }),
            ("writes", "Does the engine take writes here?", &|seen| Some(f64::from(u8::from(seen.writes)))),
        ];
        if known.is_empty() {
            return;
        }
        let head = |text: &mut String, name: &str, help: &str| {
            text.push_str(&format!(
                "# HELP portolan_external_{name} {help}\n# TYPE portolan_external_{name} gauge\n"
            ));
        };
        head(text, "up", "Is the engine reached from here?");
        for (shard, look) in known.iter() {
            let up = u8::from(look.seen.is_some());
            text.push_str(&format!("portolan_external_up{{shard=\"{shard}\"}} {up}\n"));
        }
        for (name, help, value) in gauges {
            head(text, name, help);
            for (shard, look) in known.iter() {
                if let Some(value) = look.seen.as_ref().and_then(value) {
                    text.push_str(&format!("portolan_external_{name}{{shard=\"{shard}\"}} {value}\n"));
                }
            }
        }
    }

    /// Looks at them until shutdown.
    ///
    /// What wakes it: time, another configuration. What it reads: the engines. What it writes: what is known of them, and the lease of
    /// one that has failed over to here. What fails is told once, and tried again.
    pub(super) async fn run(self, shutdown: Shutdown) {
        let mut meant = self.meant.subscribe();
        let mut watched: BTreeMap<ShardName, Watched> = BTreeMap::new();
        loop {
            let now = meant.borrow_and_update().clone();
            watched.retain(|name, there| {
                now.get(name).is_some_and(|meant| meant.external == *there.lookout.external())
            });
            for (name, meant) in &now {
                watched.entry(name.clone()).or_insert_with(|| Watched::new(meant.external.clone()));
            }
            let (this, now) = (&self, &now);
            let looks = watched.iter_mut().map(|(name, there)| async move {
                (name.clone(), this.look(name, there, now.get(name)).await)
            });
            let known = tokio::select! {
                known = join_all(looks) => known.into_iter().collect(),
                () = shutdown.begun() => return,
            };
            self.known.store(Arc::new(known));
            tokio::select! {
                // Cancel-safe: a change that was not seen is still marked.
                changed = meant.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(EVERY) => {}
                () = shutdown.begun() => return,
            }
        }
    }

    async fn look(&self, name: &ShardName, there: &mut Watched, meant: Option<&Meant>) -> Look {
        let seen = match tokio::time::timeout(PATIENCE, there.lookout.look()).await {
            Ok(Ok(seen)) => Ok(seen),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("the engine does not answer within {PATIENCE:?}")),
        };
        let look = match (seen, meant) {
            (Ok(seen), Some(meant)) => {
                let risen = there.sees(&seen, meant);
                let problem = self.differs(name, &seen, risen, meant).await;
                Look { problem, seen: Some(seen) }
            }
            (Ok(seen), None) => Look { problem: None, seen: Some(seen) },
            (Err(why), _) => Look { problem: Some(why), seen: None },
        };
        let known = self.known.load();
        let before = known.get(name).and_then(|look| look.problem.as_ref());
        if let Some(problem) = look.problem.as_ref().filter(|problem| before != Some(*problem)) {
            tracing::warn!(shard = %name, "{problem}");
        }
        look
    }

    /// What is wrong with where requests go, if anything; an engine that has risen here is followed.
    async fn differs(&self, name: &ShardName, seen: &Seen, risen: bool, meant: &Meant) -> Option<String> {
        let Meant { local, primary, .. } = meant;
        let here = primary == local;
        if seen.writes == here {
            return None;
        }
        if here {
            return Some(format!(
                "requests that change something come to `{local}`, and the engine takes no writes here: if it has failed over, and no node \
                 there says so, run `portolan shard promote {name} --to REGION`"
            ));
        }
        let help = format!("`portolan shard promote {name} --to {local}` sends them here");
        let Intent::Following(store) = &self.intent else {
            return risen.then(|| {
                format!("the engine has begun to take writes here, and files say `{primary}`: {help}")
            });
        };
        if !risen {
            // It may take writes everywhere, which is nothing to mend.
            return None;
        }
        let taken = tokio::time::timeout(PATIENCE, take(store, name, meant)).await;
        match taken.unwrap_or_else(|_| Err(anyhow::anyhow!("the store of intent does not answer"))) {
            Ok(()) => None,
            Err(error) => Some(format!(
                "the engine has begun to take writes here, and requests still go to `{primary}`: {error:#}: {help}"
            )),
        }
    }
}

impl Watched {
    const fn new(external: External) -> Self {
        Self { before: None, lookout: Lookout::new(external), risen: None }
    }

    /// Has it begun to take writes here, in this epoch and at this server?
    fn sees(&mut self, seen: &Seen, meant: &Meant) -> bool {
        let now = clock::now();
        let before = self.before.replace((now, meant.epoch, seen.clone()));
        let rises = before.is_some_and(|(at, epoch, before)| {
            let same =
                before.session == seen.session || before.server.is_some() && before.server == seen.server;
            same && epoch == meant.epoch && !before.writes && now.since(at) < BEFORE_MAX
        });
        self.risen = match self.risen {
            _ if !seen.writes || meant.primary == meant.local => None,
            Some((epoch, looks)) if epoch == meant.epoch => Some((epoch, looks.saturating_add(1))),
            _ => rises.then_some((meant.epoch, 1)),
        };
        self.risen.is_some_and(|(_, looks)| looks >= RISEN)
    }
}

/// Says in the store of intent that a shard is written here from now on.
async fn take(store: &Store, shard: &ShardName, meant: &Meant) -> anyhow::Result<()> {
    let key = Key::new(LEASE_KIND, shard.as_str()).context("name the lease")?;
    for _ in 0..TRIES {
        store.refresh().await?;
        let state = store.state();
        let tenure = leases::tenure(&state, shard.as_str()).context("there is no such shard any more")?;
        if tenure.primary == meant.local {
            return Ok(());
        }
        // What is to follow is judged by the configuration that says so.
        anyhow::ensure!(tenure.epoch == meant.epoch, "epoch {} has begun meanwhile", tenure.epoch.0);
        let Value::Object(body) = json!({ "epoch": tenure.epoch.0 + 1, "primary": meant.local }) else {
            return Ok(());
        };
        let expect = state.get(&key).map_or(Expect::Absent, |object| Expect::Revision(object.revision));
        let wish =
            Wish { key: key.clone(), body: Some(body), expect, manager: Manager::Api, take_over: true };
        let draft = Draft {
            author: "portolan".to_owned(),
            message: format!("the engine of shard {shard} takes writes in {}", meant.local),
            source: "failover".to_owned(),
            wishes: vec![wish],
        };
        match store.commit(&draft).await {
            Err(Error::Conflict(Conflict::Stale { .. })) => {}
            done => {
                done?;
                tracing::info!(%shard, region = %meant.local, "the engine has failed over to here, and requests follow");
                return Ok(());
            }
        }
    }
    anyhow::bail!("others changed the lease all the time")
}
