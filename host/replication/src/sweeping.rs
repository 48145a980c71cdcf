//! Sweeping tombstones by what the other regions that keep a shard say of themselves.
//!
//! Each region sweeps its own, in rounds ([`portolan_changelog::Sweep`] says when a round's may go). A region that is away, copies rows or
//! holds a deletion that waits says nothing, and nothing goes until it has. Only the numbers of rounds are in the database: a node that starts
//! begins another round, and several nodes of a region each have their own. A region of a release before reports says nothing either.

use std::collections::BTreeMap;

use portolan_changelog::{Error, Member, Report, Round, Store, Sweep};
use portolan_core::ids::{RegionName, ShardName};
use tokio::task::JoinSet;

use crate::defaults::{PROTOCOL_OF_REPORTS, REPORT_TIMEOUT, SWEEPS_IN_A_ROW};
use crate::follower::{Connect, Ended, hear, say};
use crate::link::{Broken, Ear, Mouth};
use crate::source;
use crate::wire::{Ask, Frame, Refused, What};

/// One shard's rounds, as this node has them.
#[derive(Debug, Default)]
pub struct Sweeping(State);

#[derive(Debug, Default)]
enum State {
    /// No round is under way.
    #[default]
    Idle,
    /// A round has begun; transactions from before it may be open.
    Begun(Round, Vec<Member>),
    /// Others are to say what they have.
    Asking(Sweep),
}

/// How a shard's sweep stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// A round has ended.
    pub ends: bool,
    /// How many tombstones went.
    pub gone: u64,
    /// For whom it waits.
    pub waiting: Vec<RegionName>,
}

impl Swept {
    fn waits(waiting: Vec<RegionName>) -> Self {
        Self { ends: false, gone: 0, waiting }
    }
}

impl Sweeping {
    /// Goes a step: hears the others, begins a round, or takes away what may go.
    ///
    /// # Errors
    /// When this copy's database does not answer, or its history may have been cut. The round is given up.
    ///
    /// # Cancel safety
    /// Cancel-safe: what is left goes with a later round.
    pub async fn step<C: Connect + Clone + 'static>(
        &mut self,
        shard: &ShardName,
        store: &Store,
        others: &BTreeMap<RegionName, C>,
    ) -> Result<Swept, Error> {
        let state = std::mem::take(&mut self.0);
        // What is on a page that was read before a deletion would come back without its tombstone.
        if !store.is_complete().await? {
            return Ok(Swept::default());
        }
        if matches!(state, State::Idle) && !store.has_tombstones().await? {
            return Ok(Swept::default());
        }
        let said = reports(shard, others).await;
        match state {
            State::Idle => {
                let silent: Vec<RegionName> =
                    others.keys().filter(|region| !said.contains_key(*region)).cloned().collect();
                if !silent.is_empty() {
                    return Ok(Swept::waits(silent));
                }
                let members = said.into_values().map(|report| report.member).collect();
                self.0 = State::Begun(store.begin_round().await?, members);
                Ok(Swept::waits(others.keys().cloned().collect()))
            }
            State::Begun(round, members) => {
                let waiting = others.keys().cloned().collect();
                self.0 = match store.mark(&round).await? {
                    Some(mark) => State::Asking(Sweep::begin(mark, members)),
                    None => State::Begun(round, members),
                };
                Ok(Swept::waits(waiting))
            }
            State::Asking(mut sweep) => {
                let members = |region: &RegionName| others.contains_key(region);
                let others_now = sweep.waiting().any(|member| {
                    let now = said.get(&member.region).map(|report| report.member.incarnation);
                    !members(&member.region) || now.is_some_and(|now| now != member.incarnation)
                });
                // One that has lost its place is another by now: what was known of it is not.
                if others_now {
                    return Ok(Swept::waits(others.keys().cloned().collect()));
                }
                said.values().for_each(|report| sweep.hear(report));
                if !sweep.may_go(&store.known().await?) {
                    let waiting = sweep.waiting().map(|member| member.region.clone()).collect();
                    self.0 = State::Asking(sweep);
                    return Ok(Swept::waits(waiting));
                }
                let mut gone = 0;
                for _ in 0..SWEEPS_IN_A_ROW {
                    let swept = store.sweep(&sweep).await?;
                    gone += swept.tombstones;
                    if !swept.more {
                        return Ok(Swept { ends: true, gone, waiting: Vec::new() });
                    }
                }
                self.0 = State::Asking(sweep);
                Ok(Swept { ends: false, gone, waiting: Vec::new() })
            }
        }
    }
}

/// What other regions say of themselves; of those that say nothing, nothing.
async fn reports<C: Connect + Clone + 'static>(
    shard: &ShardName,
    others: &BTreeMap<RegionName, C>,
) -> BTreeMap<RegionName, Report> {
    let mut asked = JoinSet::new();
    for (region, way) in others {
        let (shard, region, way) = (shard.clone(), region.clone(), way.clone());
        asked.spawn(async move {
            let said = tokio::time::timeout(REPORT_TIMEOUT, report(&shard, &region, &way)).await;
            match said {
                Ok(Ok(report)) => Some((region, report)),
                Ok(Err(error)) => {
                    tracing::debug!(%shard, %region, "it does not say what it has: {error}");
                    None
                }
                Err(_) => None,
            }
        });
    }
    let mut said = BTreeMap::new();
    while let Some(done) = asked.join_next().await {
        said.extend(done.ok().flatten());
    }
    said
}

async fn report<C: Connect>(shard: &ShardName, region: &RegionName, way: &C) -> Result<Report, Ended> {
    let (mouth, mut ear) = way.connect().await?;
    say(shard, What::Report, &mouth).await?;
    match hear(region, &mut ear).await? {
        // It speaks for its own region, as its certificate does.
        (Frame::Report(report), _) if report.member.region == *region => Ok(report),
        _ => Err(Broken::Turn("something else than what it has").into()),
    }
}

/// Says what this region's copy has.
///
/// # Errors
/// When the link breaks.
pub(crate) async fn serve(store: &Store, ask: &Ask, mouth: &Mouth, ear: &mut Ear) -> Result<(), Broken> {
    match source::agreed(ask) {
        Ok(PROTOCOL_OF_REPORTS..) => {}
        Ok(protocol) => {
            let why = format!("protocol {protocol} has no reports: upgrade the older of both regions");
            return source::refuse(mouth, Refused::Protocol(why)).await;
        }
        Err(why) => return source::refuse(mouth, why).await,
    }
    match store.report().await {
        Ok(report) if report.member.incarnation > 0 => {
            mouth.say(&Frame::Report(report)).await?;
            // Whoever asked has heard it, or has gone.
            ear.hear().await.map(drop)
        }
        Ok(_) => source::refuse(mouth, Refused::Away("this copy has no rows yet".to_owned())).await,
        Err(error) => source::refuse(mouth, Refused::Away(error.to_string())).await,
    }
}
