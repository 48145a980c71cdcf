//! The other end of a feed: follows a shard's log in another region, into this region's copy.
//!
//! What wakes it: the source's words, time. What it reads: how far it has come, which is in the copy's own database. What it writes: the
//! copy, with how far it has come, in one transaction each. On failure it pauses and asks again; what it has is never asked for twice in
//! vain, and what comes twice is taken once.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use portolan_changelog::{Applied, Change, Error, Progress, Record, RowId};
use portolan_core::backoff::full_jitter;
use portolan_core::ids::{RegionName, ShardName};
use portolan_core::log::{Epoch, Identity, Position};
use portolan_foundation::shutdown::Shutdown;
use portolan_foundation::{clock, random};

use crate::defaults::{CREDIT_BYTES, PROTOCOL, PROTOCOL_MIN, RETRY_MAX, RETRY_MIN, SILENCE};
use crate::ends::Replica;
use crate::link::{Broken, Ear, Mouth};
use crate::report::{Cell, State};
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
    /// The lease under which the source writes.
    pub epoch: Epoch,
    /// The copy.
    pub replica: R,
    /// The shard.
    pub shard: ShardName,
    /// The region whose log it is.
    pub source: RegionName,
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
}

impl<R: Replica, C: Connect> Feed<R, C> {
    /// Follows until the signal.
    pub async fn run(self, shutdown: Shutdown) {
        // How many links in a row brought nothing of the log.
        let mut failures = 0_u32;
        let mut anew = false;
        loop {
            let ended = tokio::select! {
                // Cancel-safe: each piece is taken as a whole or not at all.
                ended = self.link(&mut anew) => ended,
                () = shutdown.begun() => return,
            };
            if self.cell.has_moved() {
                failures = 0;
            }
            let pause = match ended {
                // All rows are here: the log comes next.
                Ok(()) => Duration::ZERO,
                Err(error) => {
                    anew |= matches!(error, Ended::Anew(_));
                    if self.cell.fail(error.to_string()) {
                        tracing::warn!(shard = %self.shard, source = %self.source, "{error}");
                    }
                    failures = failures.saturating_add(1);
                    full_jitter(failures, RETRY_MIN, RETRY_MAX, random::u64())
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.begun() => return,
            }
        }
    }

    /// Follows over one link, until it ends: well when all rows are copied, else for a reason.
    async fn link(&self, anew: &mut bool) -> Result<(), Ended> {
        let progress = if *anew { None } else { self.replica.progress(&self.source).await? };
        let (mouth, mut ear) = self.connect.connect().await?;
        match progress {
            Some(progress) => self.follow(progress, &mouth, &mut ear).await,
            None => self.copy(anew, &mouth, &mut ear).await,
        }
    }

    async fn ask(&self, what: What, mouth: &Mouth, ear: &mut Ear) -> Result<Welcome, Ended> {
        let ask = Ask {
            protocols: (PROTOCOL_MIN, PROTOCOL),
            shard: self.shard.as_str().to_owned(),
            credit_bytes: CREDIT_BYTES,
            what,
        };
        mouth.say(&Frame::Ask(ask)).await?;
        match self.hear(ear).await? {
            (Frame::Welcome(welcome), _) => Ok(welcome),
            _ => Err(Broken::Turn("something else than its welcome").into()),
        }
    }

    /// The next word, of a source that is not silent for long.
    async fn hear(&self, ear: &mut Ear) -> Result<(Frame, u64), Ended> {
        let heard = tokio::time::timeout(SILENCE, ear.hear()).await;
        let silent = || Broken::Gone(format!("nothing was heard for {SILENCE:?}"));
        let heard = heard.map_err(|_| silent())??;
        match heard.ok_or_else(|| Broken::Gone("the source ended it".to_owned()))? {
            (Frame::Refused(Refused::Snapshot(why)), _) => Err(Ended::Anew(why)),
            (Frame::Refused(why), _) => Err(Ended::Refused(self.source.clone(), why)),
            heard => Ok(heard),
        }
    }

    async fn copy(&self, anew: &mut bool, mouth: &Mouth, ear: &mut Ear) -> Result<(), Ended> {
        let before = if *anew { None } else { self.replica.copying(&self.source).await? };
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
            Some(_) => return Err(Ended::Anew("the source is another log now".to_owned())),
            None => {
                self.replica.begin_copy(&self.source, &welcome.identity, welcome.from).await?;
                self.cell.copied(0);
                // From here on the copy's own database says so.
                *anew = false;
            }
        }
        self.cell.turn(State::Copying);
        loop {
            match self.hear(ear).await? {
                (Frame::Rows(rows), bytes) => {
                    self.replica.copy(&self.source, after.as_ref(), &rows.records, rows.ends).await?;
                    after = last(&rows.records).or(after);
                    self.cell.copied_more(rows.records.len() as u64);
                    if rows.ends {
                        return Ok(());
                    }
                    mouth
                        .say(&Frame::Has(Has { bytes, received: Position::START, applied: Position::START }))
                        .await?;
                }
                (Frame::Beat(_), _) => {}
                _ => return Err(Broken::Turn("something else than rows").into()),
            }
        }
    }

    async fn follow(&self, progress: Progress, mouth: &Mouth, ear: &mut Ear) -> Result<(), Ended> {
        let Progress { identity, applied, .. } = progress.clone();
        let what = What::Log { identity, after: progress.received(), applied };
        let welcome = self.ask(what, mouth, ear).await?;
        self.same(&progress.identity, &welcome.identity)?;
        let mut has = (progress.received(), progress.applied);
        self.cell.turn(State::Following);
        loop {
            match self.hear(ear).await? {
                (Frame::Batch(batch), bytes) => {
                    match self.replica.apply(&self.source, self.epoch, &batch).await? {
                        Applied::Done(counts) => {
                            has = (batch.through, batch.through);
                            self.cell.applied(&batch, counts, bytes, clock::now());
                        }
                        Applied::Staged => has.0 = batch.through,
                        Applied::Duplicate => {}
                        // Somebody else of this region follows as well, and was faster.
                        Applied::Gap(_) => {
                            return Err(Broken::Gone("the copy has gone on without it".to_owned()).into());
                        }
                        Applied::Other => return Err(Ended::Anew("the copy follows another log".to_owned())),
                    }
                    mouth.say(&Frame::Has(Has { bytes, received: has.0, applied: has.1 })).await?;
                }
                (Frame::Beat(beat), _) => {
                    self.beat(&beat, has.1).await?;
                    mouth.say(&Frame::Has(Has { bytes: 0, received: has.0, applied: has.1 })).await?;
                }
                _ => return Err(Broken::Turn("something else than its log").into()),
            }
        }
    }

    /// Nothing came: what waits alone is tried again.
    async fn beat(&self, beat: &Beat, applied: Position) -> Result<(), Ended> {
        self.cell.beat(beat, applied, clock::now());
        if self.cell.parked() > 0 {
            self.cell.set_parked(self.replica.retry().await?);
        }
        Ok(())
    }

    fn same(&self, followed: &Identity, now: &Identity) -> Result<(), Ended> {
        if followed == now {
            return Ok(());
        }
        Err(Ended::Anew(format!("the log is {now}, and {followed} was followed")))
    }
}

/// The last row of a page.
fn last(records: &[Record]) -> Option<RowId> {
    match &records.last()?.change {
        Change::Row(change) => Some(change.id.clone()),
        Change::Forget => None,
    }
}
