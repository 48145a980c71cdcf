//! The steps of promotions, as this node carries them out. Each may be asked for again, and does nothing twice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use portolan_changelog::{Limits, Store};
use portolan_control::{Conflict, Draft, Error, Expect, Key, Manager, Wish};
use portolan_core::ids::{RegionName, ShardName};
use portolan_core::log::{Epoch, Position};
use portolan_failover::promotion::{Done, Sealed, Work};
use portolan_foundation::clock;
use portolan_sharding::Others as _;
use serde_json::{Value, json};

use super::talk::Heard;
use crate::leases::{self, LEASE_KIND};
use crate::node::dns::Dns;
use crate::node::shards::Shards;

/// From one look at what is waited for to the next.
const LOOK: Duration = Duration::from_millis(20);
/// How long one step is tried before it is asked for anew.
const STEP_MAX: Duration = Duration::from_secs(10);
/// How long gateways of other regions are waited for: those that have not heard by then ask this region anyhow, and are told.
const SWITCH: Duration = Duration::from_secs(3);
/// How long writers that are inside may take to end, in a handover.
const HANDOVER: Duration = Duration::from_secs(1);
/// How far a copy may be behind when a handover begins.
const NEAR: Duration = Duration::from_secs(1);
/// How often a lease is written again that another change came before.
const TRIES: usize = 10;
/// What other regions said counts for so long.
const LATELY: Duration = Duration::from_secs(2);

/// What steps need.
#[derive(Clone, Debug)]
pub(super) struct Hands {
    pub(super) control: portolan_control::Store,
    pub(super) dns: Option<Arc<Dns>>,
    pub(super) heard: Heard,
    pub(super) others: Arc<[RegionName]>,
    pub(super) own: RegionName,
    pub(super) shards: Shards,
}

/// A promotion as its record says.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) from: RegionName,
    pub(super) to: RegionName,
    pub(super) shard: ShardName,
}

impl Hands {
    /// Does a step. Gives what came of it.
    ///
    /// # Errors
    /// Why it is not done; it is asked for again.
    pub(super) async fn work(&self, case: Case, work: Work) -> anyhow::Result<Done> {
        let done = tokio::time::timeout(STEP_MAX, Box::pin(self.step(&case, work)));
        done.await.unwrap_or_else(|_| Err(anyhow!("it was not done within {STEP_MAX:?}")))
    }

    async fn step(&self, case: &Case, work: Work) -> anyhow::Result<Done> {
        match work {
            Work::Acquire => Err(anyhow!("the control store gives leases, and nobody else")),
            Work::Drain(epoch) => self.drain(case, epoch).await,
            Work::Seal(epoch) => self.seal(case, epoch).await,
            Work::Fence(epoch) => self.fence(case, epoch).await,
            Work::Open(epoch) => {
                self.until_written(case, epoch).await;
                Ok(Done::Opened(epoch))
            }
            Work::Publish(epoch) => {
                let state = self.control.state();
                let tenure = leases::tenure(&state, case.shard.as_str()).context("there is no such shard")?;
                ensure!(tenure.epoch >= epoch, "epoch {epoch} is not in the control store yet");
                Ok(Done::Published(state.generation()))
            }
            Work::Switch(epoch) => Ok(Done::Switched(self.lagging(&case.shard, epoch).await)),
            // Where no names are managed, there is no plan.
            Work::Plan => Ok(Done::Planned(self.dns.as_ref().and_then(|dns| dns.number()).unwrap_or(0))),
            Work::Verify(epoch) => self.verify(&case.shard, epoch).await,
            Work::Ramp(percent) => Ok(Done::Ramped(percent)),
            Work::Count { epoch, .. } => self.count(case, epoch).await,
        }
    }

    fn store(&self, shard: &ShardName) -> anyhow::Result<Store> {
        self.shards.open(shard).map(|(store, _)| store).context("this node has not opened the shard yet")
    }

    /// The old primary stops, and the candidate comes to its very last row.
    async fn drain(&self, case: &Case, epoch: Epoch) -> anyhow::Result<Done> {
        let store = self.store(&case.shard)?;
        let has = |watching: &mut portolan_changelog::Watching| watching.now().0.get(&case.to).copied();
        let mut watching = store.watch_receipts();
        // Few rows may be missing when writes stop: what is far behind is waited for while they go on.
        let behind = self.heard.lately(LATELY).get(&case.to).and_then(|seen| {
            let word = seen.words.iter().find(|word| word.shard == case.shard)?;
            Some(Duration::from_millis(word.behind_ms))
        });
        let behind = behind.with_context(|| format!("`{}` does not say how its copy stands", case.to))?;
        ensure!(behind <= NEAR, "the copy in `{}` is {behind:?} behind: it catches up first", case.to);
        let tip = store.demote(epoch, HANDOVER).await?;
        tracing::info!(shard = %case.shard, %epoch, to = %case.to, "writes have stopped here, for a handover");
        store.wake_readers();
        while has(&mut watching).is_none_or(|received| received < tip) {
            let applied = self.applied(&case.to, &case.shard);
            if applied.is_some_and(|applied| applied >= tip) {
                break;
            }
            tokio::select! {
                () = watching.changed() => {}
                () = tokio::time::sleep(LOOK) => store.look_at_receipts(clock::now()).await?,
            }
        }
        Ok(Done::Drained(tip.sequence))
    }

    fn applied(&self, region: &RegionName, shard: &ShardName) -> Option<Position> {
        let heard = self.heard.lately(LATELY);
        heard.get(region)?.words.iter().find(|word| word.shard == *shard).map(|word| word.position)
    }

    /// All copies that answer take nothing of an earlier epoch any more, and this one has what they had more.
    async fn seal(&self, case: &Case, epoch: Epoch) -> anyhow::Result<Done> {
        let store = self.store(&case.shard)?;
        let before = self.shards.freshness(&case.shard).map(|fresh| fresh.behind);
        let gathered = self.shards.seal(case.shard.clone(), epoch, store.clone()).await?;
        ensure!(gathered.left.is_empty(), "another copy has more: {}", gathered.left.join("; "));
        let rows = self.rows(case, &store).await?;
        let own = case.from == self.own;
        let sealed = Sealed {
            epoch,
            rows,
            head_rows: rows,
            age_ms: before.map_or(0, |behind| u64::try_from(behind.as_millis()).unwrap_or(u64::MAX)),
            missing: gathered.missing.keys().filter(|region| **region != case.from).cloned().collect(),
            with_primary: own || gathered.sealed.contains_key(&case.from),
        };
        Ok(Done::Sealed(sealed))
    }

    /// How far this copy is in the old primary's log.
    async fn rows(&self, case: &Case, store: &Store) -> anyhow::Result<u64> {
        if case.from == self.own {
            return Ok(store.tip().await?.sequence);
        }
        let progress = store.progress(case.from.as_str()).await?;
        Ok(progress.map_or(0, |progress| progress.staged.unwrap_or(progress.applied).sequence))
    }

    /// The epoch is told to all in the control store, and begins in this region's database: its keepers see to that.
    async fn fence(&self, case: &Case, epoch: Epoch) -> anyhow::Result<Done> {
        self.publish(&case.shard, epoch).await?;
        let store = self.store(&case.shard)?;
        while store.standing().await?.fence.epoch < epoch || self.lacks_term(&store, epoch).await? {
            tokio::time::sleep(LOOK).await;
        }
        Ok(Done::Fenced { epoch, rows: self.rows(case, &store).await? })
    }

    async fn lacks_term(&self, store: &Store, epoch: Epoch) -> anyhow::Result<bool> {
        Ok(store.lineage().await?.term(epoch).is_none())
    }

    async fn until_written(&self, case: &Case, epoch: Epoch) {
        while self.shards.written(&case.shard).is_none_or(|(_, there)| there < epoch) {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Says in the store of intent that this region writes a shard.
    async fn publish(&self, shard: &ShardName, epoch: Epoch) -> anyhow::Result<()> {
        let key = Key::new(LEASE_KIND, shard.as_str()).context("name the lease")?;
        for _ in 0..TRIES {
            let state = self.control.state();
            let tenure = leases::tenure(&state, shard.as_str()).context("there is no such shard any more")?;
            if tenure.epoch == epoch && tenure.primary == self.own {
                return Ok(());
            }
            ensure!(tenure.epoch < epoch, "epoch {} has begun meanwhile", tenure.epoch);
            let Value::Object(body) = json!({ "epoch": epoch, "primary": self.own }) else {
                return Ok(());
            };
            let expect = state.get(&key).map_or(Expect::Absent, |object| Expect::Revision(object.revision));
            let wish =
                Wish { key: key.clone(), body: Some(body), expect, manager: Manager::Api, take_over: true };
            let draft = Draft {
                author: "portolan".to_owned(),
                message: format!("shard {shard} is written in {} from epoch {epoch} on", self.own),
                source: "failover".to_owned(),
                wishes: vec![wish],
            };
            match self.control.commit(&draft).await {
                Err(Error::Conflict(Conflict::Stale { .. })) => self.control.refresh().await?,
                done => return done.map(drop).map_err(Into::into),
            }
        }
        Err(anyhow!("others changed the lease all the time"))
    }

    /// Waits for other regions' gateways; gives those that had not switched.
    async fn lagging(&self, shard: &ShardName, epoch: Epoch) -> Vec<RegionName> {
        let begun = clock::now();
        loop {
            let heard = self.heard.lately(LATELY);
            let knows = |region: &&RegionName| {
                heard.get(*region).and_then(|seen| seen.meant.get(shard)).is_some_and(|meant| *meant >= epoch)
            };
            let lagging: Vec<RegionName> =
                self.others.iter().filter(|region| !knows(region)).cloned().collect();
            let silent = lagging.iter().all(|region| !heard.contains_key(region));
            if lagging.is_empty() || silent || clock::now().since(begun) >= SWITCH {
                return lagging;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until another region says that it has seen writes being taken here.
    async fn verify(&self, shard: &ShardName, epoch: Epoch) -> anyhow::Result<Done> {
        loop {
            let heard: BTreeMap<_, _> = self.heard.lately(LATELY);
            let saw = |(_, seen): &(&RegionName, &super::talk::Seen)| {
                seen.witnessed.get(shard).is_some_and(|there| *there >= epoch)
            };
            if let Some((region, _)) = heard.iter().find(saw) {
                return Ok(Done::Verified(region.clone()));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Counts what this region's log has past where an epoch cut it.
    async fn count(&self, case: &Case, epoch: Epoch) -> anyhow::Result<Done> {
        let store = self.store(&case.shard)?;
        let (lineage, identity) = (store.lineage().await?, store.identity().await?);
        let term = lineage.term(epoch).with_context(|| format!("epoch {epoch} is not known here yet"))?;
        let mut after = term.cut(&self.own, &identity);
        let mut rows = 0;
        loop {
            let batch = store.read(after, Limits::default()).await?;
            let lost = batch.records.iter().filter(|record| record.position.epoch < epoch);
            rows += lost.count() as u64;
            if batch.through <= after || batch.records.is_empty() {
                break;
            }
            after = batch.through;
        }
        Ok(Done::Counted { number: 0, rows })
    }
}
