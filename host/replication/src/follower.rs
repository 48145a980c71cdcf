//! The other end of a feed: follows a shard's log in another region, into this region's copy.
//!
//! What wakes it: the source's words, time. What it reads: how far it has come, which is in the copy's own database. What it writes: the
//! copy, with how far it has come, in one transaction each. On failure it pauses and asks again; what it has is never asked for twice in
//! vain, and what comes twice is taken once.
//!
//! A copy follows the logs of all regions that have the shard. The primary's feed alone brings rows, when all of them are missing, and
//! puts those right that were taken past a cut; the others wait until the rows are there. It also brings what the primary had of earlier
//! epochs when its own began, and is not here: whoever wrote it may be gone.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use portolan_changelog::{Applied, Batch, Change, Cut, Error, Progress, Record, RowId, Term};
use portolan_core::backoff::full_jitter;
use portolan_core::ids::{RegionName, ShardName};
use portolan_core::log::{Epoch, Identity, Position};
use portolan_foundation::shutdown::Shutdown;
use portolan_foundation::{clock, random};

use crate::credit::{Credit, Lane};
use crate::defaults::{
    CREDIT_BYTES, EARLY, PACE_TICK, PROTOCOL, PROTOCOL_MIN, RETRY_MAX, RETRY_MIN, ROWS_PART, SEALED_RETRY,
    SEALED_TRIES, SILENCE,
};
use crate::ends::Replica;
use crate::link::{Broken, Ear, Mouth};
use crate::report::{Cell, State};
use crate::seal::{Applies, pull_some};
use crate::wall::{self, Wall};
use crate::wire::{Ask, Beat, Frame, Has, Refused, Welcome, What};

/// Opens links to a source.
pub trait Connect: Send + Sync {
    /// A link to a gateway of the source's region.
    fn connect(&self) -> impl Future<Output = Result<(Mouth, Ear), Broken>> + Send;
}

/// One shard's way from one region to this one.
#[derive(Debug)]
pub struct Feed<R, C> {
    /// How it stands.
    pub cell: Arc<Cell>,
    /// How the source is reached.
    pub connect: C,
    /// How fast it may send.
    pub(crate) credit: Credit,
    /// May all rows of the copy be read? One of all feeds of a shard.
    pub fit: Arc<AtomicBool>,
    /// What comes is kept for other copies, which may lack it when the source is gone.
    pub keeps: bool,
    /// This region is the shard's primary.
    pub leads: bool,
    /// Its source is the shard's primary, in this epoch.
    pub primary: Option<Epoch>,
    /// The region of the copy.
    pub region: RegionName,
    /// The copy.
    pub replica: R,
    /// The shard.
    pub shard: ShardName,
    /// The region whose log it is.
    pub source: RegionName,
    /// Whose rows may be in the copy.
    pub wall: Arc<dyn Wall>,
}

/// Why a link ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    /// It broke.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// The copy's database does not take what came.
    #[error("the copy does not take it: {0}")]
    Copy(#[from] Error),
    /// The source does not send.
    #[error("`{0}` does not send it: {1}")]
    Refused(RegionName, Refused),
    /// The log has to be followed anew.
    #[error("the copy begins anew: {0}")]
    Anew(String),
    /// It is sent what may not be here.
    #[error("it is not taken: {0}")]
    Walled(String),
    /// Rows come first, from the primary.
    #[error("the rows of the shard's primary come first")]
    Early,
}

/// Before anything has come.
const NOTHING: Has = Has { bytes: 0, received: Position::START, applied: Position::START, said_us: 0 };

/// What a link is for.
enum Turn {
    CatchUp(Cut),
    Copy,
    Mend(Vec<RowId>),
    Follow(Option<Progress>),
}

impl<R: Replica, C: Connect> Feed<R, C> {
    /// Follows until the signal.
    pub async fn run(self, shutdown: Shutdown) {
        // How many links in a row brought nothing of the log.
        let mut failures = 0_u32;
        loop {
            let ended = tokio::select! {
                biased;
                () = shutdown.begun() => return,
                // Cancel-safe: each piece is taken as a whole or not at all.
                ended = self.link() => ended,
            };
            if self.cell.has_moved() {
                failures = 0;
            }
            let pause = match ended {
                // What was to be done before the log is followed is done.
                Ok(()) => Duration::ZERO,
                // That is no failure: another feed brings the rows.
                Err(Ended::Early) => {
                    self.cell.turn(State::Seeking);
                    EARLY
                }
                Err(error) => {
                    if self.cell.fail(error.to_string()) {
                        tracing::warn!(shard = %self.shard, source = %self.source, "{error}");
                    }
                    failures = failures.saturating_add(1);
                    full_jitter(failures, RETRY_MIN, RETRY_MAX, random::u64())
                }
            };
            tokio::select! {
                biased;
                () = shutdown.begun() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Does over one link what comes next. Ends well when something else does then.
    async fn link(&self) -> Result<(), Ended> {
        let turn = self.turn().await?;
        let followed = matches!(&turn, Turn::Follow(Some(_)));
        match self.take(turn).await {
            // It is another log by now, or has lost sight of this one, which nobody brings rows: what it has is taken from its start, and what
            // comes twice once.
            Err(Ended::Refused(_, Refused::Snapshot(_))) if followed && self.leads => {
                let (mouth, mut ear) = self.connect.connect().await?;
                match self.follow(None, &mouth, &mut ear).await {
                    Err(Ended::Refused(source, Refused::Snapshot(why))) => self.anew(source, why).await,
                    done => done,
                }
            }
            // Some of its log is gone. What has become of the epochs is heard first: it says what of this one's rows is to be kept.
            Err(Ended::Refused(source, Refused::Snapshot(why))) => {
                if self.primary.is_some() && !self.leads {
                    let (mouth, mut ear) = self.connect.connect().await?;
                    self.ask(What::Named(Vec::new()), &mouth, &mut ear).await?;
                }
                self.anew(source, why).await
            }
            done => done,
        }
    }

    async fn take(&self, turn: Turn) -> Result<(), Ended> {
        if let Turn::CatchUp(cut) = turn {
            return self.catch_up(&cut).await;
        }
        let (mouth, mut ear) = self.connect.connect().await?;
        match turn {
            Turn::CatchUp(_) | Turn::Copy => self.copy(&mouth, &mut ear).await,
            Turn::Mend(ids) => self.mend(ids, &mouth, &mut ear).await,
            Turn::Follow(progress) => self.follow(progress, &mouth, &mut ear).await,
        }
    }

    /// Takes what the primary has of the log of a region that led before.
    async fn catch_up(&self, cut: &Cut) -> Result<(), Ended> {
        self.cell.turn(State::CatchingUp);
        if self.replica.progress(&cut.region).await?.is_none() {
            self.replica.follow(&cut.region, &cut.identity, Position::START).await?;
        }
        let Some(before) = self.replica.progress(&cut.region).await? else { return Ok(()) };
        let admit = |records: &[Record]| wall::refusal(self.wall.as_ref(), &self.region, records);
        let applies = Applies { admit: &admit, begins: false, keeps: self.keeps, replica: &self.replica };
        pull_some(&self.shard, &applies, &self.source, &self.connect, (cut, &before)).await?;
        let now = self.replica.progress(&cut.region).await?;
        // Others bring it, too.
        if now.is_some_and(|now| now.identity != before.identity || now.received() > before.received()) {
            return Ok(());
        }
        let Cut { region, at, .. } = cut;
        Err(Broken::Gone(format!("what it has of the log of `{region}` ends before {at}")).into())
    }

    /// What was done before the primary's epoch and is not here; none while that epoch is not known to have begun.
    async fn lacks(&self) -> Result<Option<Vec<Cut>>, Error> {
        match self.primary {
            Some(epoch) => self.replica.lacks(epoch).await,
            None => Ok(None),
        }
    }

    /// All rows come anew, unless this region is the one that others copy.
    async fn anew(&self, source: RegionName, why: String) -> Result<(), Ended> {
        if self.leads || !self.replica.begin_anew().await? {
            return Err(Ended::Refused(source, Refused::Snapshot(why)));
        }
        self.fit.store(false, Ordering::Release);
        Err(Ended::Anew(why))
    }

    async fn turn(&self) -> Result<Turn, Ended> {
        match (self.replica.is_whole().await?, self.primary.is_some()) {
            (false, true) => return Ok(Turn::Copy),
            (false, false) => return Err(Ended::Early),
            (true, false) => {}
            (true, true) => {
                let stale = self.replica.stale().await?;
                if !stale.is_empty() {
                    self.fit.store(false, Ordering::Release);
                    return Ok(Turn::Mend(stale));
                }
                if let Some(cut) = self.lacks().await?.and_then(|lacks| lacks.into_iter().next()) {
                    return Ok(Turn::CatchUp(cut));
                }
            }
        }
        Ok(Turn::Follow(self.replica.progress(&self.source).await?))
    }

    async fn ask(&self, what: What, mouth: &Mouth, ear: &mut Ear) -> Result<Welcome, Ended> {
        let credit_bytes = self.credit.first_bytes();
        let welcome = ask_within(&self.source, &self.shard, what, credit_bytes, (mouth, ear)).await?;
        // Before anything of it is taken: what lies past a cut does not count.
        self.learn(&welcome.terms).await?;
        Ok(welcome)
    }

    /// Hears of epochs. Returns whether rows are stale since.
    async fn learn(&self, terms: &[Term]) -> Result<bool, Ended> {
        let learned = self.replica.learn(terms).await?;
        if learned.stranded > 0 || learned.anew.is_some() {
            self.fit.store(false, Ordering::Release);
        }
        match learned.anew {
            Some(why) => Err(Ended::Anew(why)),
            None => Ok(learned.stranded > 0),
        }
    }

    async fn copy(&self, mouth: &Mouth, ear: &mut Ear) -> Result<(), Ended> {
        let before = self.replica.copying(&self.source).await?;
        // Before the first row is before all.
        let before = before.filter(|copying| copying.after.is_some());
        let what = What::Rows {
            identity: before.as_ref().map(|copying| copying.identity.clone()),
            after: before.as_ref().and_then(|copying| copying.after.clone()),
        };
        let mut after = before.as_ref().and_then(|copying| copying.after.clone());
        let welcome = self.ask(what, mouth, ear).await?;
        match before {
            Some(before) if before.identity == welcome.identity => self.cell.copied(before.rows),
            // The rows that come are those after the last of another log: from the first, then.
            Some(_) => {
                let why = "the source is another log now".to_owned();
                return Err(Ended::Refused(self.source.clone(), Refused::Snapshot(why)));
            }
            None => {
                let Welcome { identity, from, others, .. } = &welcome;
                self.replica.begin_copy(&self.source, identity, *from, others).await?;
                self.cell.copied(0);
            }
        }
        self.cell.turn(State::Copying);
        let lane = self.credit.lane(ROWS_PART);
        loop {
            match self.hear(&lane, NOTHING, mouth, ear).await? {
                (Frame::Rows(rows), bytes) => {
                    self.admit(&rows.records)?;
                    self.replica.copy(&self.source, after.as_ref(), &rows.records, rows.ends).await?;
                    after = last(&rows.records).or(after);
                    self.cell.copied_more(rows.records.len() as u64);
                    if rows.ends {
                        return Ok(());
                    }
                    mouth.say(&Frame::Has(Has { bytes: lane.done(bytes), ..NOTHING })).await?;
                }
                (Frame::Beat(_), _) => {}
                _ => return Err(Broken::Turn("something else than rows").into()),
            }
        }
    }

    async fn mend(&self, ids: Vec<RowId>, mouth: &Mouth, ear: &mut Ear) -> Result<(), Ended> {
        self.cell.turn(State::Mending);
        self.ask(What::Named(ids.clone()), mouth, ear).await?;
        let (Frame::Rows(rows), _) = hear(&self.source, ear).await? else {
            return Err(Broken::Turn("something else than rows").into());
        };
        self.admit(&rows.records)?;
        match self.replica.mend(&ids, &rows.records).await {
            // Some of them cannot be put right without others.
            Err(error @ (Error::Damaged(_) | Error::Rejected(_))) => {
                self.anew(self.source.clone(), error.to_string()).await
            }
            done => Ok(done.map(drop)?),
        }
    }

    async fn follow(&self, progress: Option<Progress>, mouth: &Mouth, ear: &mut Ear) -> Result<(), Ended> {
        let mut has = progress
            .as_ref()
            .map_or((Position::START, Position::START), |there| (there.received(), there.applied));
        let seen_us = progress.as_ref().map_or(0, |there| there.seen_us);
        let identity = progress.map(|progress| progress.identity);
        let what = What::Log { identity: identity.clone(), after: has.0, applied: has.1, seen_us };
        let welcome = self.ask(what, mouth, ear).await?;
        if self.is_unheard().await? {
            return self
                .anew(self.source.clone(), "it cannot be told any more what was written here".to_owned())
                .await;
        }
        match identity {
            None => {
                has = (welcome.from, welcome.from);
                self.replica.follow(&self.source, &welcome.identity, welcome.from).await?;
            }
            Some(followed) => self.same(&followed, &welcome.identity)?,
        }
        if self.primary.is_some() && !self.is_fit().await? {
            return Ok(());
        }
        if self.primary.is_some() {
            self.replica.join().await?;
        }
        self.cell.turn(State::Following);
        // What waits alone may wait since before this node started.
        self.cell.set_parked(self.replica.retry().await?);
        let (mut trimmed, lane) = (Position::START, self.credit.lane(1));
        loop {
            let now = says(0, has);
            match self.hear(&lane, now, mouth, ear).await? {
                (Frame::Batch(batch), bytes) => {
                    // What it takes to apply it makes the copy no fresher.
                    let came = clock::now();
                    self.admit(&batch.records)?;
                    match self.apply(&batch).await? {
                        Applied::Done(counts) => {
                            has = (batch.through, batch.through);
                            self.cell.applied(&batch, counts, bytes, came);
                        }
                        Applied::Staged => has.0 = batch.through,
                        Applied::Duplicate => {}
                        // Somebody else of this region follows as well, and was faster.
                        Applied::Gap(_) => {
                            return Err(Broken::Gone("the copy has gone on without it".to_owned()).into());
                        }
                        Applied::Other => {
                            return Err(Broken::Gone("the copy follows another log by now".to_owned()).into());
                        }
                    }
                    let bytes = lane.done(bytes);
                    mouth.say(&Frame::Has(says(bytes, has))).await?;
                }
                (Frame::Beat(beat), _) => {
                    // Another node of this region may have found rows that must not be read.
                    if self.primary.is_some() && !self.is_fit().await? || self.is_unheard().await? {
                        return Ok(());
                    }
                    let lacks = self.lacks().await?;
                    if lacks.as_ref().is_some_and(|lacks| !lacks.is_empty()) {
                        return Ok(());
                    }
                    self.beat(&beat, (has.1, lacks.is_some()), &mut trimmed).await?;
                    mouth.say(&Frame::Has(says(0, has))).await?;
                }
                (Frame::Terms(terms), _) => {
                    if self.learn(&terms).await? {
                        return Ok(());
                    }
                }
                _ => return Err(Broken::Turn("something else than its log").into()),
            }
        }
    }

    /// May these be here?
    fn admit(&self, records: &[Record]) -> Result<(), Ended> {
        match wall::refusal(self.wall.as_ref(), &self.region, records) {
            Some(why) => Err(Ended::Walled(why)),
            None => Ok(()),
        }
    }

    /// The next word of the source. While it is held back by the pace it is given room as its turn comes, and is no sign of death if it is silent.
    async fn hear(&self, lane: &Lane, has: Has, mouth: &Mouth, ear: &mut Ear) -> Result<(Frame, u64), Ended> {
        while lane.owes() {
            let bytes = lane.done(0);
            if bytes > 0 {
                mouth.say(&Frame::Has(Has { bytes, ..has })).await?;
            }
            // Cancel-safe: what came of a frame is kept.
            if let Ok(heard) = tokio::time::timeout(PACE_TICK, hear(&self.source, ear)).await {
                return heard;
            }
        }
        hear(&self.source, ear).await
    }

    /// May all rows of the copy be read, as its database has it now?
    async fn is_fit(&self) -> Result<bool, Error> {
        let fit = self.replica.is_whole().await? && self.replica.stale().await?.is_empty();
        self.fit.store(fit, Ordering::Release);
        Ok(fit)
    }

    /// Can the primary not be told any more what was written here?
    async fn is_unheard(&self) -> Result<bool, Error> {
        Ok(self.primary.is_some() && !self.leads && self.replica.has_lost(&self.source).await?)
    }

    /// Applies what came. While an epoch is over and nobody has told where it was cut, it waits for a while: that is told by whoever
    /// begins the next.
    async fn apply(&self, batch: &Batch) -> Result<Applied, Error> {
        for _ in 0..SEALED_TRIES {
            match self.replica.apply(&self.source, batch, self.keeps).await {
                Err(Error::Sealed { .. }) => tokio::time::sleep(SEALED_RETRY).await,
                done => return done,
            }
        }
        self.replica.apply(&self.source, batch, self.keeps).await
    }

    /// All is here that was there: what waits alone is tried again, and what all have is kept no longer.
    async fn beat(
        &self,
        beat: &Beat,
        (applied, stands): (Position, bool),
        trimmed: &mut Position,
    ) -> Result<(), Ended> {
        self.cell.beat(beat, (applied, stands), clock::now());
        if self.cell.parked() > 0 {
            self.cell.set_parked(self.replica.retry().await?);
        }
        let kept = beat.kept.min(applied);
        if self.keeps && kept > *trimmed {
            self.replica.trim_tail(&self.source, kept).await?;
            *trimmed = kept;
        }
        Ok(())
    }

    fn same(&self, followed: &Identity, now: &Identity) -> Result<(), Ended> {
        if followed == now {
            return Ok(());
        }
        let why = format!("the log is {now}, and {followed} was followed");
        Err(Ended::Refused(self.source.clone(), Refused::Snapshot(why)))
    }
}

/// Asks a region for something of a shard.
pub(crate) async fn ask(
    source: &RegionName,
    shard: &ShardName,
    what: What,
    mouth: &Mouth,
    ear: &mut Ear,
) -> Result<Welcome, Ended> {
    ask_within(source, shard, what, CREDIT_BYTES, (mouth, ear)).await
}

/// The same with so much room for its answer.
async fn ask_within(
    source: &RegionName,
    shard: &ShardName,
    what: What,
    credit_bytes: u64,
    (mouth, ear): (&Mouth, &mut Ear),
) -> Result<Welcome, Ended> {
    say_within(shard, what, credit_bytes, mouth).await?;
    match hear(source, ear).await? {
        (Frame::Welcome(welcome), _) => Ok(welcome),
        _ => Err(Broken::Turn("something else than its welcome").into()),
    }
}

/// Says what is wanted of a shard.
pub(crate) async fn say(shard: &ShardName, what: What, mouth: &Mouth) -> Result<(), Broken> {
    say_within(shard, what, CREDIT_BYTES, mouth).await
}

async fn say_within(shard: &ShardName, what: What, credit_bytes: u64, mouth: &Mouth) -> Result<(), Broken> {
    let (protocols, shard) = ((PROTOCOL_MIN, PROTOCOL), shard.as_str().to_owned());
    let ask = Ask { protocols, shard, credit_bytes, what, said_us: clock::now().0 };
    mouth.say(&Frame::Ask(ask)).await.map(drop)
}

/// The next word, of a source that is not silent for long.
pub(crate) async fn hear(source: &RegionName, ear: &mut Ear) -> Result<(Frame, u64), Ended> {
    let heard = tokio::time::timeout(SILENCE, ear.hear()).await;
    let silent = || Broken::Gone(format!("nothing was heard for {SILENCE:?}"));
    let heard = heard.map_err(|_| silent())??;
    match heard.ok_or_else(|| Broken::Gone("the source ended it".to_owned()))? {
        (Frame::Refused(why), _) => Err(Ended::Refused(source.clone(), why)),
        heard => Ok(heard),
    }
}

/// What is here of a log by now: what was received, and applied.
fn says(bytes: u64, (received, applied): (Position, Position)) -> Has {
    Has { bytes, received, applied, said_us: clock::now().0 }
}

/// The last row of a page.
fn last(records: &[Record]) -> Option<RowId> {
    match &records.last()?.change {
        Change::Row(change) => Some(change.id.clone()),
        Change::Forget => None,
    }
}
