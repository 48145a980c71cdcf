//! The end of an epoch: whoever is to begin the next has all other copies seal it, and takes what they have more of any log.
//!
//! Nothing here decides that an epoch ends: that is the control store's. A copy that is not reached is not waited for; what only it has
//! is lost to the shard, and kept as stranded when it comes back.

use std::collections::BTreeMap;
use std::sync::Arc;

use portolan_changelog::{Applied, Cut, Error, Gathered, Progress, Record, Sealed};
use portolan_core::ids::{RegionName, ShardName};
use portolan_core::log::{Epoch, Position};
use tokio::task::JoinSet;

use crate::defaults::{PULL_RETRY, PULL_TIMEOUT, SEAL_TIMEOUT};
use crate::ends::Replica;
use crate::follower::{Connect, Ended, ask, hear, say};
use crate::link::Broken;
use crate::wire::{Frame, Has, Refused, What};

/// Why records may not be in the copy; none when they may.
pub type Admit<'a> = &'a (dyn Fn(&[Record]) -> Option<String> + Send + Sync);

/// How what is pulled is taken.
pub(crate) struct Applies<'a, R> {
    pub(crate) admit: Admit<'a>,
    /// An epoch is to begin here.
    pub(crate) begins: bool,
    /// What comes is kept for other copies.
    pub(crate) keeps: bool,
    pub(crate) replica: &'a R,
}

/// Has other regions seal an epoch of a shard, and takes into this copy what they have more.
///
/// # Errors
/// When this copy's database does not take what they say.
pub async fn gather<R, C>(
    shard: &ShardName,
    epoch: Epoch,
    (replica, admit): (&R, Admit<'_>),
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
    let mut here = replica.heads().await?;
    let whole = replica.is_whole().await?;
    if whole {
        // What was written elsewhere and never heard of here counts as well.
        let unheard = unheard(&answers, &here);
        for log in &unheard {
            replica.follow(&log.region, &log.identity, Position::START).await?;
        }
        here.extend(unheard);
    }
    // By whose log it is of, so that each is told once.
    let mut left = BTreeMap::new();
    for (at, head) in furthest(&answers, &here) {
        let Some(way) = others.get(&at) else { continue };
        let pulling = pull(shard, (replica, admit), &at, way.as_ref(), &head);
        let pulled = tokio::time::timeout(PULL_TIMEOUT, pulling).await;
        match pulled {
            Ok(Ok(records)) => gathered.taken += records,
            // Asking again does not help: it is not kept there any more.
            Ok(Err(error @ (Ended::Refused(..) | Ended::Walled(_)))) => {
                gathered.missing.insert(at, format!("what it has more of `{}`: {error}", head.region));
            }
            Ok(Err(error)) => {
                left.insert(head.region.clone(), format!("of `{}`, from `{at}`: {error}", head.region));
            }
            Err(_) => {
                let why = format!("of `{}`, from `{at}`: not within {PULL_TIMEOUT:?}", head.region);
                left.insert(head.region.clone(), why);
            }
        }
    }
    for (log, why) in lacking(&answers, &replica.heads().await?) {
        left.entry(log).or_insert(why);
    }
    gathered.left.extend(left.into_values());
    let has_more =
        |(_, answer): &(&RegionName, &Sealed)| answer.heads.iter().any(|head| head.at > Position::START);
    if let Some((region, _)) = answers.iter().find(has_more).filter(|_| !whole) {
        let why = "this copy was put back, or never had all rows";
        gathered.left.push(format!("of what `{region}` has: {why}; promote `{region}`"));
    }
    Ok(gathered)
}

/// What counts of a log, by whoever began the last epoch, and is not here: that log may be another by now, and its records nobody's.
fn lacking(answers: &BTreeMap<RegionName, Sealed>, here: &[Cut]) -> Vec<(RegionName, String)> {
    let last = answers.values().flat_map(|answer| &answer.terms).max_by_key(|term| term.epoch);
    let lacks = |cut: &&Cut| {
        here.iter().any(|head| head.region == cut.region && head.identity == cut.identity && head.at < cut.at)
    };
    let cuts = last.into_iter().flat_map(|term| term.cuts.iter().filter(lacks).map(move |cut| (term, cut)));
    cuts.map(|(term, cut)| {
        let why = format!(
            "of `{}` through {}, which `{}` had when it began epoch {}",
            cut.region, cut.at, term.region, term.epoch
        );
        (cut.region.clone(), why)
    })
    .collect()
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

/// Logs of which a region that has written tells, and nothing is known here.
fn unheard(answers: &BTreeMap<RegionName, Sealed>, here: &[Cut]) -> Vec<Cut> {
    let own = |(region, answer): (&RegionName, &Sealed)| {
        let log = answer.heads.iter().find(|head| head.region == *region && head.at > Position::START)?;
        let known = here.iter().any(|head| head.region == *region);
        (!known).then(|| Cut { at: Position::START, ..log.clone() })
    };
    answers.iter().filter_map(own).collect()
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

/// Takes of a log what a region has more of it. The feed of that log may go on beside this, and links may break: it ends when all is here.
async fn pull<R: Replica, C: Connect>(
    shard: &ShardName,
    (replica, admit): (&R, Admit<'_>),
    at: &RegionName,
    way: &C,
    head: &Cut,
) -> Result<u64, Ended> {
    let mut taken = 0;
    loop {
        let progress = replica.progress(&head.region).await?;
        let Some(progress) = progress.filter(|there| there.identity == head.identity) else {
            return Ok(taken);
        };
        if progress.applied >= head.at {
            return Ok(taken);
        }
        let applies = Applies { admit, begins: true, keeps: true, replica };
        match pull_some(shard, &applies, at, way, (head, &progress)).await {
            Ok(records) => taken += records,
            // It has it no more.
            Err(
                error @ (Ended::Refused(_, Refused::Snapshot(_) | Refused::Forbidden(_)) | Ended::Walled(_)),
            ) => {
                return Err(error);
            }
            Err(error) => tracing::debug!(%shard, %at, "what it has more is asked for again: {error}"),
        }
        tokio::time::sleep(PULL_RETRY).await;
    }
}

/// The same over one link, until there is no more, or another was faster.
///
/// # Errors
/// [`Refused::Snapshot`] when it is not kept there any more.
pub(crate) async fn pull_some<R: Replica, C: Connect>(
    shard: &ShardName,
    applies: &Applies<'_, R>,
    at: &RegionName,
    way: &C,
    (head, progress): (&Cut, &Progress),
) -> Result<u64, Ended> {
    let (mut received, mut applied, mut taken) = (progress.received(), progress.applied, 0);
    let (mouth, mut ear) = way.connect().await?;
    let identity = head.identity.clone();
    let what = if *at == head.region {
        What::Log { identity: Some(identity), after: received, applied, seen_us: progress.seen_us }
    } else {
        What::Tail { of: head.region.clone(), identity, after: received }
    };
    let welcome = ask(at, shard, what, &mouth, &mut ear).await?;
    if welcome.from != received {
        let why = format!("what came before {} is kept no longer", welcome.from);
        return Err(Ended::Refused(at.clone(), Refused::Snapshot(why)));
    }
    while applied < head.at {
        match hear(at, &mut ear).await? {
            (Frame::Batch(batch), bytes) => {
                if let Some(why) = (applies.admit)(&batch.records) {
                    return Err(Ended::Walled(why));
                }
                let done = if applies.begins {
                    applies.replica.apply_before_epoch(&head.region, &batch).await?
                } else {
                    applies.replica.apply(&head.region, &batch, applies.keeps).await?
                };
                match done {
                    Applied::Done(_) => (received, applied) = (batch.through, batch.through),
                    Applied::Staged => received = batch.through,
                    Applied::Duplicate | Applied::Gap(_) | Applied::Other => return Ok(taken),
                }
                taken += batch.records.len() as u64;
                mouth.say(&Frame::Has(Has { bytes, received, applied, said_us: 0 })).await?;
            }
            // All that may be read by now has come.
            (Frame::Beat(_), _) => return Ok(taken),
            (Frame::Terms(_), _) => {}
            _ => return Err(Broken::Turn("something else than the log").into()),
        }
    }
    Ok(taken)
}
