//! The keeper of one shard: opens its database, and holds its lease while this region is its primary.
//!
//! What wakes it: another task, other leave, the time of the next renewal, the end of a pause after a failure. What it reads: the
//! database's clock and fence, and what is intended. What it writes: the fence and the shard's [`Cell`]. On failure the lease
//! runs out by itself, here and in the database, and the report says why.
//!
//! # Why at most one region writes
//! A renewal reads the database's clock, then asks what is intended *now*, and only then extends the deadline to that
//! reading plus [`LEASE`](crate::defaults::LEASE). So a deadline never reaches further than that time past a moment at which the epoch was this
//! region's. A region that is given the next epoch begins it at once if it held the one before, because its own fence waits
//! for the writers of that, or if all other copies have sealed it, that of the one before among them; otherwise it waits for the lease's
//! time and a margin after it first saw the new epoch.
//!
//! Where regions have leases of their own, a shard's lasts no longer than its region's ([`Leave::until`]), and whoever gave the next epoch has
//! waited until that of the one before was over: then nobody waits here.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use portolan_changelog::{Error, Gathered, Lease, Lineage, Standing, Store};
use portolan_core::backoff::full_jitter;
use portolan_core::ids::{RegionName, ShardName};
use portolan_core::log::Epoch;
use portolan_core::tenant_table::Tables;
use portolan_core::time::Moment;
use portolan_foundation::shutdown::Shutdown;
use portolan_foundation::{clock, random, task};
use tokio::sync::watch;

use crate::config::Kept;
use crate::data::Catalogue;
use crate::defaults::{DEMOTION, LEASE, LEASE_MARGIN, LEFT_PATIENCE, RENEWAL, RETRY_MAX, RETRY_MIN};
use crate::shards::{Cell, Open, Role};
use crate::shipping::Shipping;
use crate::space::{self, Space};

/// The store of intent, asked at the moment of a renewal.
pub trait Intended: fmt::Debug + Send + Sync {
    /// Who is to write a shard, and under which epoch, as the store has it now; `None` when there is no such shard any more.
    fn lease(&self, shard: ShardName) -> Asking;
}

/// Leave to write a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leave {
    /// Under which epoch.
    pub epoch: Epoch,
    /// Which region has it.
    pub primary: RegionName,
    /// Until when its region's own lease lasts; none where regions have none. Then no lease of an earlier epoch lasts any more, because whoever gave
    /// this one has waited for that.
    pub until: Option<Moment>,
}

/// What is intended, once the store has answered, or why it does not.
pub type Asking = Pin<Box<dyn Future<Output = Result<Option<Leave>, String>> + Send>>;

/// The copies of a shard in other regions.
pub trait Others: fmt::Debug + Send + Sync {
    /// Has each of them seal an epoch that is to begin here, and takes into this copy what they have more.
    fn seal(&self, shard: ShardName, epoch: Epoch, copy: Store) -> Sealing;
}

/// What comes of it, or why this copy takes nothing.
pub type Sealing = Pin<Box<dyn Future<Output = Result<Gathered, Error>> + Send>>;

/// No other region has a copy.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Others for Alone {
    fn seal(&self, _: ShardName, _: Epoch, _: Store) -> Sealing {
        Box::pin(std::future::ready(Ok(Gathered::default())))
    }
}

/// What a keeper asks.
#[derive(Clone, Debug)]
pub(crate) struct Around {
    pub(crate) intended: Arc<dyn Intended>,
    pub(crate) others: Arc<dyn Others>,
    pub(crate) space: Arc<dyn Space>,
}

/// What a keeper is to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Task {
    pub(crate) kept: Kept,
    pub(crate) region: RegionName,
    pub(crate) tables: Tables,
}

/// A keeper at work. It ends with its handle.
#[derive(Debug)]
pub(crate) struct Handle {
    cell: Arc<Cell>,
    end: Shutdown,
    /// The shard is not this region's any more.
    leaves: Arc<AtomicBool>,
    task: watch::Sender<Task>,
}

impl Handle {
    /// The shard is kept here no longer, by nobody.
    pub(crate) fn leave(self) {
        self.leaves.store(true, Ordering::Release);
    }

    pub(crate) fn follow(&self, task: Task) {
        self.task.send_if_modified(|now| {
            let changed = *now != task;
            *now = task;
            changed
        });
    }

    pub(crate) const fn cell(&self) -> &Arc<Cell> {
        &self.cell
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.end.begin();
    }
}

impl Task {
    pub(crate) fn role(&self) -> Role {
        if self.kept.primary == self.region { Role::Primary } else { Role::Replica }
    }
}

/// Starts a keeper.
pub(crate) fn start(cell: Arc<Cell>, first: Task, around: Around, shutdown: &Shutdown) -> Handle {
    let shard = cell.name();
    let (task, tasks) = watch::channel(first);
    let (end, leaves) = (shutdown.child(), Arc::<AtomicBool>::default());
    let keeper = Keeper {
        around,
        cell: Arc::clone(&cell),
        demoted: None,
        end: end.clone(),
        failures: 0,
        first_seen: None,
        leaves: Arc::clone(&leaves),
        shard,
        shipping: None,
    };
    task::spawn("keep a shard", keeper.run(tasks, end.clone()));
    Handle { cell, end, leaves, task }
}

struct Keeper {
    around: Around,
    cell: Arc<Cell>,
    /// The epoch of another region for which what was held here is known to be over.
    demoted: Option<Epoch>,
    end: Shutdown,
    failures: u32,
    /// The newest epoch and its primary that were seen, and since when.
    first_seen: Option<(Epoch, RegionName, Moment)>,
    leaves: Arc<AtomicBool>,
    shard: ShardName,
    shipping: Option<Shipping>,
}

impl Keeper {
    async fn run(mut self, mut tasks: watch::Receiver<Task>, end: Shutdown) {
        let cell = Arc::clone(&self.cell);
        loop {
            let task = tasks.borrow_and_update().clone();
            let pause = self.pass(&task).await;
            tokio::select! {
                // All are cancel-safe: a change that was not seen is still marked, and so is a nudge.
                changed = tasks.changed() => {
                    if changed.is_err() { break }
                    let other = tasks.borrow().kept.engine != task.kept.engine;
                    if other {
                        self.close();
                    }
                }
                () = cell.nudge.notified() => {}
                () = tokio::time::sleep(pause) => {}
                () = end.begun() => break,
            }
        }
        let open = self.cell.open.load_full().filter(|_| self.leaves.load(Ordering::Acquire));
        let shipping = self.shipping.take();
        // Other gateways of the region go on under the lease; it is theirs as well.
        self.close();
        if let Some((open, shipping)) = open.zip(shipping) {
            shipping.release(&self.shard, &open.store).await;
        }
    }

    fn close(&mut self) {
        self.shipping = None;
        self.cell.end_lease(clock::now());
        self.cell.open.store(None);
    }

    /// One pass. Gives the pause to the next.
    async fn pass(&mut self, task: &Task) -> Duration {
        let kept = &task.kept;
        let same = |(epoch, primary, _): &(Epoch, RegionName, Moment)| {
            *epoch == kept.epoch && *primary == kept.primary
        };
        if !self.first_seen.as_ref().is_some_and(same) {
            self.first_seen = Some((kept.epoch, kept.primary.clone(), clock::now()));
        }
        let done = match self.open(task).await {
            Ok((open, lacks)) => {
                let done = match task.role() {
                    Role::Primary => self.renew(task, &open.store).await,
                    Role::Replica => self.yield_to(task, &open.store).await.map(|()| RENEWAL),
                };
                let looked = self.look_after(task, &open.store).await;
                let pause = done.as_ref().map_or(RENEWAL, |pause| *pause);
                done.and_then(|_| lacks.map_or(Ok(()), Err)).and(looked).map(|()| pause)
            }
            Err(error) => Err(error.into()),
        };
        if done.as_ref().is_err_and(|halt| halt.over) {
            self.cell.drop_lease();
        }
        let (problem, pause) = match done {
            Ok(pause) => {
                self.failures = 0;
                (None, pause)
            }
            Err(Halt { why, retry_after, .. }) => {
                self.failures = self.failures.saturating_add(1);
                let pause = full_jitter(self.failures, RETRY_MIN, RETRY_MAX, random::u64());
                (Some(why), retry_after.unwrap_or(pause))
            }
        };
        self.cell.note(|report| {
            if report.problem != problem
                && let Some(problem) = &problem
            {
                tracing::warn!(shard = %self.shard, "{problem}");
            }
            if report.problem.is_some() && problem.is_none() {
                tracing::info!(shard = %self.shard, epoch = task.kept.epoch.0, "the shard is open");
            }
            report.epoch = task.kept.epoch.0;
            report.failures = self.failures;
            report.role = task.role();
            report.problem = problem;
        });
        pause
    }

    /// The database, opened where it is not, with what it has of the tables.
    async fn open(&mut self, task: &Task) -> Result<(Arc<Open>, Option<Halt>), Error> {
        let before = self.cell.open.load_full();
        let first = before.is_none();
        let store = match &before {
            Some(open) => open.store.clone(),
            None => Store::open(&task.kept.engine, task.region.clone()).await?,
        };
        let schema = store.schema().await?;
        self.cell.note(|report| report.schema = Some(schema));
        if let Some(open) = before.clone().filter(|open| open.schema == schema && open.tables == task.tables)
        {
            return Ok((open, None));
        }
        // A table that is declared before it is made takes nothing from the others: what was there before is served, under the
        // lease, and what is wrong is told.
        let (read, tables, lacks) = match Catalogue::read(&store, &task.tables).await {
            Ok(catalogue) => (Arc::new(catalogue), task.tables.clone(), None),
            Err(error @ Error::Table { .. }) => match before {
                Some(open) => return Ok((open, Some(error.into()))),
                None => {
                    let none = Tables::default();
                    (Arc::new(Catalogue::read(&store, &none).await?), none, Some(error.into()))
                }
            },
            Err(error) => return Err(error),
        };
        // Replication and moves know the tables by the store.
        store.recall(&tables).await?;
        if first {
            self.shipping = Shipping::start(&self.shard, &store, &self.end);
        }
        let open = Arc::new(Open { catalogue: read, schema, store, tables });
        self.cell.open.store(Some(Arc::clone(&open)));
        Ok((open, lacks))
    }

    /// Holds the lease for another while. Gives the pause to the next time.
    async fn renew(&mut self, task: &Task, store: &Store) -> Result<Duration, Halt> {
        let (mut term, mut leave) = self.ask(task, store).await?;
        let there = store.standing().await?;
        if there.fence.epoch < leave.epoch {
            self.may_begin(task, &there, leave.until.is_some(), store).await?;
            // That may have taken a while, in which the epoch may have become another's.
            (term, leave) = self.ask(task, store).await?;
            store.begin_epoch(leave.epoch, term.deadline_us).await?;
            tracing::info!(shard = %self.shard, epoch = leave.epoch.0, "a new epoch begins here");
        } else {
            store.extend(leave.epoch, term.deadline_us).await?;
        }
        self.demoted = None;
        self.cell.hold(Lease { epoch: leave.epoch, until: term.until });
        // A region's lease may be shorter than what a renewal here is usually good for.
        Ok(RENEWAL.min(term.until.since(clock::now()) / 3))
    }

    /// Asks for leave, and says until when that is good, here and by the database's clock.
    async fn ask(&self, task: &Task, store: &Store) -> Result<(Term, Leave), Halt> {
        let sent = clock::now();
        let reading_us = store.clock().await?;
        // The database's clock was read before this: what is counted from here ends there no later than here.
        let read = clock::now();
        let leave = self.confirm(task).await?;
        let time = leave.until.map_or(LEASE, |until| until.since(read).min(LEASE));
        if time.is_zero() {
            return Err(Halt::of("the region's lease is over before this one could begin".to_owned()));
        }
        let own = sent.plus(LEASE.saturating_sub(LEASE_MARGIN));
        let until = leave.until.map_or(own, |until| until.min(own));
        Ok((Term { deadline_us: reading_us.saturating_add(micros(time)), until }, leave))
    }

    /// Is the epoch still this region's, by the store of intent?
    async fn confirm(&self, task: &Task) -> Result<Leave, Halt> {
        let intended = self.around.intended.lease(self.shard.clone()).await;
        let intended = intended
            .map_err(|why| Halt::of(format!("the store of intent does not confirm the lease: {why}")))?;
        match intended {
            Some(leave) if leave.epoch == task.kept.epoch && leave.primary == task.region => Ok(leave),
            _ => Err(Halt::of(
                "the store of intent has another epoch or primary; it is being followed".to_owned(),
            )),
        }
    }

    /// Has other copies seal a later epoch, and takes what they have more. May it begin already?
    async fn may_begin(
        &self,
        task: &Task,
        there: &Standing,
        waited_for: bool,
        store: &Store,
    ) -> Result<(), Halt> {
        let (epoch, before) = (task.kept.epoch, there.fence.epoch);
        // Whoever gave the epoch has had the others seal it.
        let gathered = if waited_for {
            Gathered::default()
        } else {
            self.around.others.seal(self.shard.clone(), epoch, store.clone()).await?
        };
        tell(&self.shard, epoch, &gathered);
        let lineage = store.lineage().await?;
        if task.kept.partial {
            // Its operator has looked, and nothing better is to come.
            if store.take_as_whole().await? {
                tracing::warn!(shard = %self.shard, epoch = epoch.0, "rows are missing here, and the shard goes on without them");
            }
        } else if epoch.0 > 1 && before.0 == 0 && !task.kept.others.is_empty() && !store.is_complete().await?
        {
            return Err(Halt::of(
                "this copy has nothing of the shard yet: promote a region that has, or wait until its rows are copied"
                    .to_owned(),
            ));
        }
        // The fence of a copy speaks of another database, which may still be written.
        let mine = !there.cut && there.fence.deadline_us > 0 && epoch.0 == before.0 + 1;
        let alone = before.0 == 0 && epoch.0 == 1 && task.kept.others.is_empty();
        let first = alone || !there.cut && nobody_else_can_write(task, &lineage, &gathered);
        // What a copy that answers has more is taken first, within reason.
        let patient = !task.kept.partial && self.waited() < LEFT_PATIENCE;
        if let Some(left) = gathered.left.first().filter(|_| patient) {
            let why = format!("epoch {} begins when what another copy has more is here: {left}", epoch.0);
            return Err(Halt::of(why));
        }
        let waited = self.waited();
        let wait = LEASE + LEASE_MARGIN;
        if waited_for || mine || first || waited >= wait {
            return Ok(());
        }
        let left = wait.saturating_sub(waited);
        Err(Halt {
            over: false,
            why: format!("epoch {} begins in {left:.1?}, when no other region's lease can last", epoch.0),
            // A copy that was away may be back before, and then nobody waits.
            retry_after: Some(left.min(RETRY_MAX)),
        })
    }

    /// How long ago the epoch that is meant was first seen.
    fn waited(&self) -> Duration {
        self.first_seen.as_ref().map_or(Duration::ZERO, |(.., since)| clock::now().since(*since))
    }

    /// Another region writes: what this one held is over. Until that is certain, it is tried again.
    async fn yield_to(&mut self, task: &Task, store: &Store) -> Result<(), Halt> {
        self.cell.end_lease(clock::now());
        let (fence, next) = (store.standing().await?.fence, task.kept.epoch);
        if fence.epoch >= next || fence.epoch.0 == 0 {
            return Ok(());
        }
        let closed = fence.deadline_us == 0;
        if closed && self.demoted == Some(next) {
            return Ok(());
        }
        // Whoever closed it may have gone before the writers had: they are looked for once, and ended if one is inside.
        if !(closed && store.drain(DEMOTION).await.is_ok()) {
            self.demoted = None;
            store.demote(fence.epoch, DEMOTION).await?;
            tracing::info!(shard = %self.shard, epoch = fence.epoch.0, "the epoch is over here");
        }
        self.demoted = Some(next);
        Ok(())
    }

    /// What else is to be looked at: whether passwords have changed, and how full the shard's place is.
    async fn look_after(&self, task: &Task, store: &Store) -> Result<(), Halt> {
        let used = space::used(&task.kept, store, self.around.space.as_ref()).await;
        let used = used.map_err(|why| Halt::of(format!("how full its place is, nobody knows: {why}")))?;
        if self.cell.fullness.note(used, task.kept.marks) {
            let (full, used) = (self.cell.fullness.is_full(), used.unwrap_or_default());
            tracing::warn!(shard = %self.shard, full, used_percent = used, "the shard's place has passed a mark");
        }
        store.refresh().await?;
        if self.cell.fullness.is_full() {
            let help = "make place, or give it more: rows are read and deleted, and nothing else is written";
            return Err(Halt::of(format!("its place is used to {} %: {help}", used.unwrap_or_default())));
        }
        Ok(())
    }
}

/// Is it known that no lease of another region lasts? So it is when all copies have sealed, and among them the one whose epoch was the
/// last: whoever comes back later finds that it is over.
fn nobody_else_can_write(task: &Task, lineage: &Lineage, gathered: &Gathered) -> bool {
    let Task { kept, region, .. } = task;
    let sealed = |region: &RegionName| gathered.sealed.contains_key(region);
    if kept.others.is_empty() || !kept.others.iter().all(sealed) {
        return false;
    }
    let before = Epoch(kept.epoch.0.saturating_sub(1));
    match lineage.term(before) {
        Some(term) => term.region == *region || sealed(&term.region),
        None => before == Epoch(0) && gathered.sealed.values().all(|before| *before == Epoch(0)),
    }
}

fn tell(shard: &ShardName, epoch: Epoch, gathered: &Gathered) {
    if !gathered.sealed.is_empty() || gathered.taken > 0 {
        let sealed: Vec<_> = gathered.sealed.keys().map(RegionName::as_str).collect();
        let (epoch, taken) = (epoch.0, gathered.taken);
        tracing::info!(%shard, epoch, taken, "the copies in {} have sealed", sealed.join(", "));
    }
    for (region, why) in &gathered.missing {
        if epoch == Epoch(1) {
            tracing::info!(%shard, %region, "its copy is not reached yet: {why}");
            continue;
        }
        tracing::warn!(%shard, epoch = epoch.0, %region, "what only it has will be lost to the shard: {why}");
    }
    for left in &gathered.left {
        tracing::warn!(%shard, epoch = epoch.0, "some of a log will be lost to the shard: {left}");
    }
}

/// How long a lease is good for.
struct Term {
    /// By the database's clock.
    deadline_us: u64,
    /// By this machine's.
    until: Moment,
}

/// Why a pass did not do what it is for.
struct Halt {
    /// The lease is over at once, whatever time it had.
    over: bool,
    retry_after: Option<Duration>,
    why: String,
}

impl Halt {
    fn of(why: String) -> Self {
        Self { over: false, retry_after: None, why }
    }
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        use portolan_changelog::{Closed, Refused};
        let help = match &error {
            Error::Closed(Closed::Cut) => {
                ": its history may have been cut; look at it, then begin a new epoch with `portolan shard promote`"
            }
            Error::Refused(Refused::Over { .. }) => ": begin a new epoch with `portolan shard promote`",
            Error::Table { .. } => ": run `portolan migrate apply`",
            _ => "",
        };
        let over = matches!(error, Error::Closed(Closed::Cut) | Error::Refused(_));
        Self { over, ..Self::of(format!("{error}{help}")) }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
