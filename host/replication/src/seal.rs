//! The end of an epoch: whoever is to begin the next has all other copies seal it, and takes what they have more of any log.
//!
//! Nothing here decides that an epoch ends: that is the control store's. A copy that is not reached is not waited for; what only it has
//! is lost to the shard, and kept as stranded when it comes back.

use std::collections::BTreeMap;
use std::sync::Arc;

use portolan_changelog::{Applied, Cut, Error, Gathered, Sealed};
use portolan_core::ids::{RegionName, ShardName};
use portolan_core::log::{Epoch, Position};
use tokio::task::JoinSet;

use crate::defaults::{PULL_TIMEOUT, SEAL_TIMEOUT};
use crate::ends::Replica;
use crate::follower::{Connect, Ended, ask, hear, say};
use crate::link::Broken;
use crate::wire::{Frame, Has, What};

/// Has other regions seal an epoch of a shard, and takes into this copy what they have more.
///
/// # Errors
/// When this copy's database does not take what they say.
pub async fn gather<R, C>(
    shard: &ShardName,
    epoch: Epoch,
    replica: &R,
    others: BTreeMap<RegionName, C>,
) -> Result<Gathered, Error>
where
    R: Replica,
    C: Connect + 'static,
{
    let mut asked = JoinSet::new();
    let others: BTreeMap<RegionName, Arc<C>> =
        others.into_iter().map(|(region, way)| (region, Arc::new(way))).collect();
    for (region, way) in &others {
        let (shard, region, way) = (shard.clone(), region.clone(), Arc::clone(way));
        asked.spawn(async move {
            let sealed = seal(&shard, epoch, &region, way.as_ref());
            let sealed = match tokio::time::timeout(SEAL_TIMEOUT, sealed).await {
                Ok(sealed) => sealed.map_err(|error| error.to_string()),
                Err(_) => Err(format!("no answer within {SEAL_TIMEOUT:?}")),
            };
            (region, sealed)
        });
    }
    let (mut gathered, mut answers) = (Gathered::default(), BTreeMap::new());
    while let Some(done) = asked.join_next().await {
        match done {
            Ok((region, Ok(sealed))) => {
                gathered.sealed.insert(region.clone(), sealed.before);
                answers.insert(region, sealed);
            }
            Ok((region, Err(why))) => {
                gathered.missing.insert(region, why);
            }
            Err(error) => tracing::error!("sealing ended early: {error}"),
        }
    }
    for answer in answers.values() {
        replica.learn(&answer.terms).await?;
    }
    for (at, head) in furthest(&answers, &replica.heads().await?) {
        let Some(way) = others.get(&at) else { continue };
        let pulled = tokio::time::timeout(PULL_TIMEOUT, pull(shard, replica, &at, way.as_ref(), &head)).await;
        match pulled {
            Ok(Ok(records)) => gathered.taken += records,
            Ok(Err(error)) => gathered.left.push(format!("of `{}`, from `{at}`: {error}", head.region)),
            Err(_) => {
                let why = format!("of `{}`, from `{at}`: not within {PULL_TIMEOUT:?}", head.region);
                gathered.left.push(why);
            }
        }
    }
    Ok(gathered)
}

async fn seal<C: Connect>(
    shard: &ShardName,
    epoch: Epoch,
    region: &RegionName,
    way: &C,
) -> Result<Sealed, Ended> {
    let (mouth, mut ear) = way.connect().await?;
    say(shard, What::Seal(epoch), &mouth).await?;
    match hear(region, &mut ear).await? {
        (Frame::Sealed(sealed), _) => Ok(sealed),
        _ => Err(Broken::Turn("something else than that it has sealed").into()),
    }
}

/// Who has more of which log, and how far: for each log the one that has most, and the log's own region before others.
fn furthest(answers: &BTreeMap<RegionName, Sealed>, here: &[Cut]) -> Vec<(RegionName, Cut)> {
    let more = |head: &Cut| {
        let known = answers.iter().flat_map(|(region, answer)| {
            let same = answer
                .heads
                .iter()
                .filter(|there| there.region == head.region && there.identity == head.identity);
            same.map(move |there| (there.at, *region == head.region, region, there))
        });
        let (at, _, region, there) = known.max_by_key(|(at, own, ..)| (*at, *own))?;
        (at > head.at).then(|| (region.clone(), there.clone()))
    };
    here.iter().filter_map(more).collect()
}

/// Takes of a log what a region has more of it.
async fn pull<R: Replica, C: Connect>(
    shard: &ShardName,
    replica: &R,
    at: &RegionName,
    way: &C,
    head: &Cut,
) -> Result<u64, Ended> {
    let mut taken = 0;
    let (mouth, mut ear) = way.connect().await?;
    let progress = replica.progress(&head.region).await?;
    let Some(progress) = progress.filter(|there| there.identity == head.identity) else { return Ok(0) };
    let (mut received, mut applied) = (progress.received(), progress.applied);
    let identity = head.identity.clone();
    let what = if *at == head.region {
        What::Log { identity: Some(identity), after: received, applied }
    } else {
        What::Tail { of: head.region.clone(), identity, after: received }
    };
    ask(at, shard, what, &mouth, &mut ear).await?;
    while applied < head.at {
        match hear(at, &mut ear).await? {
            (Frame::Batch(batch), bytes) => {
                match replica.apply(&head.region, &batch, true).await? {
                    Applied::Done(_) => (received, applied) = (batch.through, batch.through),
                    Applied::Staged => received = batch.through,
                    Applied::Duplicate => {}
                    // The feed of that log goes on beside this: from where it is, then.
                    Applied::Gap(_) | Applied::Other => {
                        let now = replica.progress(&head.region).await?;
                        applied = now.map_or(Position::START, |now| now.applied);
                        if applied < head.at {
                            return Err(Broken::Gone("the copy has gone on without it".to_owned()).into());
                        }
                    }
                }
                taken += batch.records.len() as u64;
                mouth.say(&Frame::Has(Has { bytes, received, applied })).await?;
            }
            // All that there is has come.
            (Frame::Beat(_), _) => break,
            (Frame::Terms(_), _) => {}
            _ => return Err(Broken::Turn("something else than the log").into()),
        }
    }
    Ok(taken)
}
