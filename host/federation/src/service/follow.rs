//! A copy follows the content of a shard: it asks the region that writes what there is, and has each tenant's catch up, a few at a time.
//!
//! What wakes it: time. What it reads: answers of that region. What it writes: the copy's tables and packs, under the epoch of the region that it
//! asks, so that nothing comes into a copy that another region has taken over. What fails is told in the copy's report and tried again; all that
//! had come by then is kept.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use portolan_changelog::Store;
use portolan_core::ids::{RegionName, ShardName, TenantName};
use portolan_core::log::Epoch;
use portolan_core::time::Moment;
use portolan_foundation::shutdown::Shutdown;
use portolan_foundation::{clock, task};

use super::desk::{Desk, Shared};
use super::problem::Problem;
use super::taking::{self, Known, Taken};
use crate::defaults::{ANSWER_TIMEOUT, FOLLOW_EVERY, FOLLOW_LANES, FOLLOW_RETRY, PAGE_MAX};
use crate::wire::{Answer, Question, Refused, Tenants};

/// A copy that this node has follow.
#[derive(Clone, Debug)]
pub struct Followed {
    /// Under which the shard is written.
    pub epoch: Epoch,
    /// Where it is written.
    pub primary: RegionName,
    /// The shard.
    pub shard: ShardName,
    /// The copy.
    pub store: Store,
}

/// The way to other regions.
pub trait Regions: fmt::Debug + Send + Sync {
    /// Asks a region about a shard that it keeps.
    fn ask(&self, shard: &ShardName, region: &RegionName, question: Bytes) -> Asking;
}

/// An answer that is awaited: none from a region that does not speak of content, and why there is none at all.
pub type Asking = Pin<Box<dyn Future<Output = Result<Option<Bytes>, String>> + Send>>;

/// A copy that is being followed, until this goes.
struct Running {
    end: Shutdown,
    followed: Followed,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end.begin();
    }
}

/// Follows whatever this node is to follow, until shutdown.
pub(super) async fn run(shared: Arc<Shared>, regions: Arc<dyn Regions>, shutdown: Shutdown) {
    let mut running: BTreeMap<ShardName, Running> = BTreeMap::new();
    loop {
        let mut followed: BTreeMap<ShardName, Followed> =
            shared.homes.followed().into_iter().map(|one| (one.shard.clone(), one)).collect();
        running.retain(|shard, there| {
            let stays = followed.get(shard).is_some_and(|one| same(one, &there.followed));
            if stays {
                followed.remove(shard).is_some()
            } else {
                shared.copies.end(shard);
                false
            }
        });
        for (shard, one) in followed {
            let end = shutdown.child();
            let source = Source::new(one.clone(), Arc::clone(&regions), Arc::clone(&shared));
            task::spawn("follow content", Arc::new(source).run(end.clone()));
            running.insert(shard, Running { end, followed: one });
        }
        tokio::select! {
            () = tokio::time::sleep(FOLLOW_EVERY) => {}
            () = shutdown.begun() => return,
        }
    }
}

fn same(one: &Followed, other: &Followed) -> bool {
    (one.epoch, &one.primary) == (other.epoch, &other.primary) && one.store.is(&other.store)
}

/// The region that writes a shard, as its copy here asks it.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) followed: Followed,
    /// It is a copy, of which an epoch that begins here takes what it has more.
    pub(super) gathers: bool,
    regions: Arc<dyn Regions>,
    pub(super) shared: Arc<Shared>,
}

/// Whose content there is, as the source tells.
#[derive(Debug, Default)]
struct Listed {
    /// With the epoch of the last change there.
    behind: BTreeMap<TenantName, u64>,
    fresh: BTreeSet<TenantName>,
    withheld: u64,
}

/// A tenant that was to catch up, and whether it has.
type Lane = Pin<Box<dyn Future<Output = (TenantName, Result<(), Problem>)> + Send>>;

impl Source {
    pub(super) const fn new(followed: Followed, regions: Arc<dyn Regions>, shared: Arc<Shared>) -> Self {
        Self { followed, gathers: false, regions, shared }
    }

    /// Takes what a copy has more than this one, where an epoch is to begin.
    pub(super) async fn gather(self) -> Result<(), Problem> {
        let source = Self { gathers: true, ..self };
        let mut done = Ok(());
        for (tenant, epoch) in source.listed().await?.behind {
            // One whose content does not come keeps no other's from coming.
            if let Err(problem) = Box::pin(source.takes(&tenant, epoch)).await {
                done = Err(problem);
            }
        }
        done
    }

    async fn run(self: Arc<Self>, end: Shutdown) {
        let shard = &self.followed.shard;
        let stranded = self.followed.store.content_stranded().await.unwrap_or_default();
        self.shared.copies.begin(shard, &self.followed.primary, stranded);
        let (mut lanes, mut busy) = (FuturesUnordered::<Lane>::new(), BTreeSet::new());
        let (mut resting, mut waiting) =
            (BTreeMap::<TenantName, Moment>::new(), VecDeque::<TenantName>::new());
        // What there is is asked for while lanes go on: they hold transactions.
        let mut looking = Box::pin(self.look(Duration::ZERO));
        loop {
            while lanes.len() < FOLLOW_LANES
                && let Some(tenant) = waiting.pop_front()
            {
                busy.insert(tenant.clone());
                lanes.push(Arc::clone(&self).lane(tenant));
            }
            tokio::select! {
                // Cancel-safe: lanes that have not ended stay, and so does the look.
                Some((tenant, done)) = lanes.next(), if !lanes.is_empty() => {
                    busy.remove(&tenant);
                    if self.ended(&tenant, done).is_err() {
                        resting.insert(tenant, clock::now().plus(FOLLOW_RETRY));
                    }
                }
                listed = &mut looking => {
                    resting.retain(|_, until| *until > clock::now());
                    waiting = match listed {
                        Ok(behind) => behind.into(),
                        Err(problem) => {
                            self.shared.copies.fails(shard, problem.detail);
                            VecDeque::new()
                        }
                    };
                    waiting.retain(|tenant| !busy.contains(tenant) && !resting.contains_key(tenant));
                    looking.set(self.look(FOLLOW_EVERY));
                }
                () = end.begun() => return,
            }
        }
    }

    /// Looks what there is, after a while.
    async fn look(&self, after: Duration) -> Result<Vec<TenantName>, Problem> {
        tokio::time::sleep(after).await;
        self.list().await
    }

    fn lane(self: Arc<Self>, tenant: TenantName) -> Lane {
        Box::pin(async move {
            let done = Box::pin(self.catch_up(&tenant)).await;
            (tenant, done)
        })
    }

    fn ended(&self, tenant: &TenantName, done: Result<(), Problem>) -> Result<(), ()> {
        let shard = &self.followed.shard;
        done.map_err(|problem| {
            tracing::warn!(%shard, %tenant, "content does not come: {}", problem.detail);
            self.shared.copies.fails(shard, format!("content of tenant `{tenant}`: {}", problem.detail));
        })?;
        self.shared.copies.caught_up(shard, tenant);
        Ok(())
    }

    /// Tenants that lack something here, by what the source tells; the copy's report says it, too.
    pub(super) async fn list(&self) -> Result<Vec<TenantName>, Problem> {
        let asked = clock::now();
        let Listed { behind, fresh, withheld } = self.listed().await?;
        let behind: BTreeSet<TenantName> = behind.into_keys().collect();
        let waiting = behind.iter().cloned().collect();
        self.shared.copies.heard(&self.followed.shard, asked, (fresh, behind), withheld);
        Ok(waiting)
    }

    async fn listed(&self) -> Result<Listed, Problem> {
        let (mut all, mut after) = (Listed::default(), String::new());
        loop {
            let (shard, gathers) = (self.followed.shard.clone(), self.gathers);
            let question = Question::Tenants { shard, after: after.clone(), gathers };
            let Answer::Tenants(Tenants { tenants, next, withheld }) = self.ask(&question).await? else {
                return Err(turn());
            };
            all.withheld += withheld;
            let here = self.here(&after, next.as_deref()).await?;
            for (tenant, epoch, seq) in tenants {
                let has = here.get(tenant.as_str()).is_some_and(|known| *known == (epoch, seq));
                if has {
                    all.fresh.insert(tenant);
                } else {
                    all.behind.insert(tenant, epoch);
                }
            }
            match next {
                Some(next) if next > after => after = next,
                _ => return Ok(all),
            }
        }
    }

    /// How far tenants' logs go here, of those between two names.
    async fn here(&self, after: &str, until: Option<&str>) -> Result<BTreeMap<String, (u64, u64)>, Problem> {
        let (mut all, mut after) = (BTreeMap::new(), after.to_owned());
        loop {
            let page = self.followed.store.content_known(&after, PAGE_MAX).await?;
            let is_last = (page.len() as u64) < PAGE_MAX;
            let last = page.last().map(|known| known.tenant.clone());
            all.extend(page.into_iter().map(|known| (known.tenant, (known.epoch, known.seq))));
            match last {
                Some(last) if !is_last && until.is_none_or(|until| last.as_str() < until) => after = last,
                _ => return Ok(all),
            }
        }
    }

    /// Takes what a tenant lacks, until there is nothing more.
    pub(super) async fn catch_up(&self, tenant: &TenantName) -> Result<(), Problem> {
        self.takes(tenant, 0).await
    }

    /// The same; the last change there is of this epoch, as far as it has been told.
    async fn takes(&self, tenant: &TenantName, last_epoch: u64) -> Result<(), Problem> {
        let Followed { epoch, shard, store, .. } = &self.followed;
        if !self.shared.homes.admits(tenant, &self.shared.local) {
            let detail = format!("its residency does not let it into `{}`", self.shared.local);
            return Err(Problem::forbidden(detail));
        }
        let desk =
            Desk::of_copy(Arc::clone(&self.shared), tenant.clone(), shard.clone(), (store.clone(), *epoch));
        loop {
            let mut content = desk.look().await?;
            let spans = content.spans().await?;
            let seq = content.account().await?.map_or(0, |account| account.seq);
            content.end().await?;
            let own = spans.iter().map(|span| span.epoch).max().unwrap_or(0);
            let known = Known { is_older: own < last_epoch, seq };
            let question = Question::Changes {
                shard: shard.clone(),
                tenant: tenant.clone(),
                spans,
                gathers: self.gathers,
            };
            let Answer::Changes(changes) = self.ask(&question).await? else { return Err(turn()) };
            if !self.gathers && changes.epoch != epoch.0 {
                return Err(Problem::busy(
                    "the region that writes has another lease by now: it is asked again",
                ));
            }
            let (more, had) = (changes.more, changes.told.len() as u64);
            if had == 0 && more {
                return Err(turn());
            }
            let taken = Box::pin(taking::take(self, &desk, known, *changes)).await?;
            self.shared.copies.count(shard, |counts| counts.changes += had);
            if taken == Taken::Refused || taken == Taken::All && !more {
                return Ok(());
            }
        }
    }

    /// Asks the region that writes.
    pub(super) async fn ask(&self, question: &Question) -> Result<Answer, Problem> {
        let Followed { primary, shard, .. } = &self.followed;
        let (bytes, answer) = exchange(self.regions.as_ref(), (shard, primary), question).await?;
        self.shared.copies.count(shard, |counts| counts.bytes += bytes);
        Ok(answer)
    }
}

/// Asks any region that keeps a shard.
pub(super) async fn ask(
    shared: &Shared,
    shard: &ShardName,
    region: &RegionName,
    question: &Question,
) -> Result<Answer, Problem> {
    let regions = shared.regions.get().ok_or_else(|| away(region, "no way leads there yet"))?;
    exchange(regions.as_ref(), (shard, region), question).await.map(|(_, answer)| answer)
}

/// An answer, and how many bytes it had.
async fn exchange(
    regions: &dyn Regions,
    (shard, region): (&ShardName, &RegionName),
    question: &Question,
) -> Result<(u64, Answer), Problem> {
    let asking = regions.ask(shard, region, question.bytes()?.into());
    let answered = tokio::time::timeout(ANSWER_TIMEOUT, asking).await;
    let answered = answered.map_err(|_| away(region, "it does not answer in time"))?;
    let Some(bytes) = answered.map_err(|why| away(region, &why))? else {
        return Err(away(region, "it does not speak of content: update it, and set `[content]` there"));
    };
    match Answer::read(&bytes)? {
        Answer::Refused(Refused::Away(why)) => Err(away(region, &why)),
        Answer::Refused(Refused::Forbidden(why)) => Err(Problem::forbidden(why)),
        Answer::Refused(Refused::Gone(why)) => {
            Err(Problem::new(http::StatusCode::NOT_FOUND, "not-found", why))
        }
        answer => Ok((bytes.len() as u64, answer)),
    }
}

fn away(region: &RegionName, why: &str) -> Problem {
    Problem::busy(format!("region `{region}`: {why}"))
}

/// The other end answered what was not asked.
pub(super) fn turn() -> Problem {
    Problem::busy("the other region answers something else than it was asked: update the older gateway")
}
