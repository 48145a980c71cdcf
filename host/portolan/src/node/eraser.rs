//! Takes erased tenants out of what this node reaches: the databases of its region's shards, and what it recorded.
//!
//! What wakes it: each new generation, and half a minute. What it reads: the control store's erasures that are not done. What it
//! writes: the databases, its recordings, and a receipt into the erasure. What fails is told in the log and tried again; a database
//! that is away stays pending in the erasure.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context as _;
use portolan_admin::{ERASURE_KIND, Erasure, read_erasure};
use portolan_control::{Body, Conflict, Draft, Error, Expect, Key, Manager, Store, Wish};
use portolan_core::ids::{RegionName, ShardName};
use portolan_foundation::clock;
use portolan_foundation::shutdown::Shutdown;
use portolan_recorder::Recorder;
use serde_json::{Value, json};

use super::intent::Intent;
use super::shards::Shards;

/// From one look at what failed to the next.
const RETRY: Duration = Duration::from_secs(30);
/// How often a receipt is written again that another change came before.
const TRIES: usize = 10;

/// What erases.
#[derive(Debug)]
pub(super) struct Eraser {
    pub(super) intent: Intent,
    /// The node's name.
    pub(super) name: String,
    pub(super) recorder: Recorder,
    pub(super) region: RegionName,
    pub(super) shards: Shards,
}

impl Eraser {
    /// Erases until shutdown.
    pub(super) async fn run(self, shutdown: Shutdown) {
        let Intent::Following(store) = self.intent.clone() else { return };
        let (mut news, mut looked) = (self.intent.news(), BTreeSet::new());
        loop {
            if let Err(error) = self.pass(&store, &mut looked).await {
                tracing::warn!("erase tenants: {error:#}; it is tried again");
            }
            tokio::select! {
                // Both are cancel-safe.
                () = news.changed() => {}
                () = tokio::time::sleep(RETRY) => {}
                () = shutdown.begun() => return,
            }
        }
    }

    /// Does what is pending here. `looked` has the erasures after which this node's recordings were looked through.
    async fn pass(&self, store: &Store, looked: &mut BTreeSet<Key>) -> anyhow::Result<()> {
        let state = store.state();
        let erasures = state.of_kind(ERASURE_KIND);
        let erasures: Vec<(Key, Erasure)> =
            erasures.filter_map(|(key, object)| Some((key.clone(), read_erasure(&object.body)?))).collect();
        let mut failed = None;
        for (key, erasure) in erasures {
            // A node that was not known when the erasure began may have recorded all the same.
            let own = format!("node/{}", self.name);
            if looked.insert(key.clone()) || erasure.pending.contains(&own) {
                failed = self.recordings(store, &key, &erasure, &own).await.err().or(failed);
            }
            for part in erasure.pending.iter().filter(|part| **part != own) {
                let words: Vec<&str> = part.split('/').collect();
                if let [what, shard, region] = words.as_slice()
                    && *region == self.region.as_str()
                {
                    failed = self.shard(store, &key, &erasure, (part, what, shard)).await.err().or(failed);
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn recordings(
        &self,
        store: &Store,
        key: &Key,
        erasure: &Erasure,
        part: &str,
    ) -> anyhow::Result<()> {
        if erasure.receipts.iter().any(|receipt| receipt.part == part) {
            return Ok(());
        }
        let (recorder, tenant) = (self.recorder.clone(), erasure.tenant.clone());
        let erased = tokio::task::spawn_blocking(move || recorder.erase(&tenant)).await?;
        let erased = erased.with_context(|| format!("take tenant `{}` out of recordings", erasure.tenant))?;
        if erased.entries + erased.in_memory == 0 && !erasure.pending.iter().any(|pending| pending == part) {
            return Ok(());
        }
        let counts = serde_json::to_value(erased).context("write a receipt")?;
        receipt(store, key, part, counts, None).await
    }

    async fn shard(
        &self,
        store: &Store,
        key: &Key,
        erasure: &Erasure,
        (part, what, shard): (&str, &str, &str),
    ) -> anyhow::Result<()> {
        let name = ShardName::new(shard)?;
        // One that is not open yet is looked at again.
        let Some((database, tables)) = self.shards.open(&name) else { return Ok(()) };
        let doing = || format!("take tenant `{}` out of shard `{shard}`", erasure.tenant);
        if what == "compact" {
            database.compact().await.with_context(doing)?;
            return receipt(store, key, part, json!({}), None).await;
        }
        database.recall(&tables).await.with_context(doing)?;
        let erased = database.erase(&erasure.tenant).await.with_context(doing)?;
        let leaves = format!("compact/{shard}/{}", self.region);
        receipt(store, key, part, serde_json::to_value(erased)?, Some(leaves)).await
    }
}

/// Writes a receipt into an erasure, unless another node has done so.
async fn receipt(
    store: &Store,
    key: &Key,
    part: &str,
    counts: Value,
    leaves: Option<String>,
) -> anyhow::Result<()> {
    for _ in 0..TRIES {
        store.refresh().await?;
        let state = store.state();
        let Some(object) = state.get(key) else { return Ok(()) };
        let mut erasure = read_erasure(&object.body).context("read an erasure")?;
        if erasure.receipts.iter().any(|receipt| receipt.part == part) {
            return Ok(());
        }
        erasure.done(part, counts.clone(), leaves.clone(), clock::unix_ms());
        let body: Body =
            serde_json::from_value(serde_json::to_value(&erasure)?).context("write an erasure")?;
        let wish = Wish {
            key: key.clone(),
            body: Some(body),
            expect: Expect::Revision(object.revision),
            manager: Manager::Api,
            take_over: true,
        };
        let draft = Draft {
            author: "portolan".to_owned(),
            message: format!("erasure of tenant {}: {part} is done", erasure.tenant),
            source: "erasure".to_owned(),
            wishes: vec![wish],
        };
        match store.commit(&draft).await {
            Err(Error::Conflict(Conflict::Stale { .. })) => {}
            done => return Ok(done.map(drop)?),
        }
    }
    anyhow::bail!("others changed the erasure all the time")
}
