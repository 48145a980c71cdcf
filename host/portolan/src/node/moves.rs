//! Moves of tenants between shards, as a node carries them out: those that are ordered from it, and those that somebody left.
//!
//! A move is carried out by a node of the region that writes the shard on which the tenant is: there is the note of it, there the
//! tenant's writes are held. The other shard's database is reached over the address that the configuration names. The
//! control store alone says where the tenant is ([`switch`]). What a mover leaves that dies is brought to its end by whoever keeps
//! the shard ([`keep`]).

mod defaults;
mod keep;
mod log;
mod seats;
mod switch;
mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use portolan_admin::backend::{MoveOrder, Moves as Backend, Ordered};
use portolan_admin::{Code, Events, Problem, Progress};
use portolan_control::{Manager, State, Store};
use portolan_core::ids::{ShardName, TenantName};
use portolan_core::log::Epoch;
use portolan_core::tenure::Tenure;
use portolan_foundation::shutdown::Shutdown;
use portolan_foundation::task;
use portolan_sharding::relocate::{self, Noted, Relocation, Report, Resumed, Seat, Step};
use serde_json::{Value, json};

use self::log::{End, Entry, Full, Log, Stand};
pub(crate) use self::seats::Known;
use self::switch::Directory;
use self::watch::Onlooker;
use super::changes;
use super::intent::Intent;
use super::shards::Shards;
use crate::leases;
use crate::rollout::act::Place;

/// The moves of this node. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Moves(Arc<Parts>);

/// What moves stand on.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) events: Events,
    pub(crate) intent: Intent,
    /// This node's own name among all nodes.
    pub(crate) name: String,
    /// How the configuration is read.
    pub(crate) place: Place,
    pub(crate) shards: Shards,
    pub(crate) shutdown: Shutdown,
    log: Log,
}

/// A move that can begin.
#[derive(Debug)]
struct Plan {
    directory: Directory,
    epochs: (Epoch, Epoch),
    from: ShardName,
    known: Arc<Known>,
    tenant: TenantName,
    to: ShardName,
    undo: bool,
}

impl Moves {
    pub(crate) fn new(
        events: Events,
        intent: Intent,
        name: String,
        place: Place,
        shards: Shards,
        shutdown: Shutdown,
    ) -> Self {
        Self(Arc::new(Parts { events, intent, name, place, shards, shutdown, log: Log::default() }))
    }

    /// Brings what others left to its end, until shutdown.
    pub(crate) fn start(&self) {
        task::spawn("moves-keeper", keep::run(self.clone()));
    }

    /// As Prometheus reads it.
    pub(super) fn metrics(&self, text: &mut String) {
        self.0.log.render(text);
    }

    fn store(&self) -> Result<Store, Problem> {
        self.0.intent.intended().store().cloned()
    }

    fn known(&self) -> Result<Arc<Known>, Problem> {
        let starts = || Problem::new(Code::Unavailable, "the node only starts: ask again in a moment");
        self.0.shards.known().ok_or_else(starts)
    }

    fn directory(&self, store: Store, author: &str, tenures: BTreeMap<ShardName, Tenure>) -> Directory {
        Directory::new(store, self.0.place.clone(), author.to_owned(), tenures)
    }

    /// What an order comes to, before any database of a shard is opened.
    async fn plan(&self, order: &MoveOrder) -> Result<Plan, Problem> {
        let (store, known) = (self.store()?, self.known()?);
        let tenant = &order.tenant;
        let nowhere = self.directory(store.clone(), &order.author, BTreeMap::new());
        let there = nowhere.located(tenant).await.map_err(|error| problem(error.into()))?;
        let there = there.ok_or_else(|| {
            Problem::not_found(format!(
                "no shard has tenants such as `{tenant}`: `portolan shard list` shows the shards"
            ))
        })?;
        let state = store.state();
        mine(&state, tenant)?;
        let from = there.shard;
        known.own(&from)?;
        let to = match &order.to {
            Some(to) => to.clone(),
            None => self.keeper_of(&known, tenant, &from).await?,
        };
        known.shard(&to)?;
        // Its own rows are brought up to date where it keeps them: they need not be copied again.
        let undo = order.undo || self.keeps(&to, tenant, &from).await?;
        let (from_tenure, to_tenure) = (written_by(&state, &from)?, written_by(&state, &to)?);
        let epochs = (from_tenure.epoch, to_tenure.epoch);
        if self.0.shards.written(&from).is_none_or(|(_, epoch)| epoch != epochs.0) {
            let detail =
                format!("this node does not hold the lease of shard `{from}`: see `portolan shard list`");
            return Err(Problem::new(Code::Unavailable, detail));
        }
        let tenures = BTreeMap::from([(from.clone(), from_tenure), (to.clone(), to_tenure)]);
        let directory = self.directory(store, &order.author, tenures);
        Ok(Plan { directory, epochs, from, known, tenant: tenant.clone(), to, undo })
    }

    /// The shard of this region that still keeps a tenant's rows from before its last move.
    async fn keeper_of(
        &self,
        known: &Known,
        tenant: &TenantName,
        from: &ShardName,
    ) -> Result<ShardName, Problem> {
        for name in known.shards.keys() {
            if self.keeps(name, tenant, from).await? {
                return Ok(name.clone());
            }
        }
        let detail = format!(
            "no shard that is written here keeps rows of `{tenant}` from before a move to `{from}`: if one elsewhere does, name it with \
             `to`; else move the tenant there anew"
        );
        Err(Problem::new(Code::Conflict, detail))
    }

    /// Does a shard that is written here still keep a tenant's rows from before its move to another?
    async fn keeps(&self, name: &ShardName, tenant: &TenantName, from: &ShardName) -> Result<bool, Problem> {
        let Some((store, _)) = self.0.shards.written(name) else { return Ok(false) };
        let noted = relocate::noted(&store, Some(tenant)).await.map_err(problem)?;
        Ok(noted.iter().any(|noted| noted.step == Step::Kept && noted.moving.to.shard == *from))
    }

    fn enter(&self, plan: (&TenantName, &ShardName, &ShardName), resumed: bool) -> Result<Entry, Problem> {
        let (tenant, from, to) = plan;
        let stand = Stand {
            from: from.clone(),
            lag: 0,
            resumed,
            rows: 0,
            rows_of: 0,
            stage: "check",
            to: to.clone(),
        };
        self.0.log.enter(tenant, stand).map_err(|full| match full {
            Full::Running => Problem::new(
                Code::Conflict,
                format!("`{tenant}` is being moved already: `portolan shard moves` shows how far it is"),
            ),
            Full::TooMany => {
                Problem::new(Code::TooMany, "as many tenants as may are being moved: wait for one")
            }
        })
    }

    fn onlooker(&self, entry: Entry, known: &Known, progress: Option<Progress>) -> Onlooker {
        let rate = known.moving.rows_per_second;
        Onlooker::new(entry, self.0.name.clone(), progress, rate, self.0.shutdown.clone())
    }

    async fn look(&self, plan: &Plan, entry: Entry) -> Result<Value, Problem> {
        let watch = self.onlooker(entry, &plan.known, None);
        let (from, to) = plan.seats().await?;
        let found = plan.relocation(&from, &to, &watch).check(plan.undo).await.map_err(problem)?;
        Ok(json!({
            "tenant": plan.tenant, "from": plan.from, "to": plan.to, "undo": plan.undo, "rows": found.rows,
            "placement": found.placement.0,
            "copy_seconds_min": found.rows as f64 / f64::from(plan.known.moving.rows_per_second.get()),
        }))
    }

    async fn carry_out(self, plan: Plan, entry: Entry, progress: Progress) {
        let watch = self.onlooker(entry, &plan.known, Some(progress));
        watch.stage("check");
        let done = match plan.seats().await {
            Ok((from, to)) => Box::pin(go(&plan, &from, &to, &watch)).await,
            Err(problem) => Err((End::TakenBack, problem)),
        };
        let progress = watch.into_progress();
        match done {
            Ok(report) => {
                let told = self.moved(&plan, &report);
                progress.into_iter().for_each(|progress| progress.succeed(told.clone()));
            }
            Err((end, problem)) => {
                self.0.log.end(end, None);
                let told =
                    json!({ "tenant": plan.tenant, "from": plan.from, "to": plan.to, "why": problem.detail });
                tracing::warn!(tenant = %plan.tenant, "a tenant was not moved: {}", problem.detail);
                self.0.events.tell("tenant-not-moved", Some(plan.tenant.clone()), told.clone());
                progress.into_iter().for_each(|progress| progress.refuse(problem.clone(), told.clone()));
            }
        }
    }

    /// A move is done: tells of it.
    fn moved(&self, plan: &Plan, report: &Report) -> Value {
        self.0.log.end(End::Moved, Some((&report.moving.id, report.pause)));
        let pause_ms = milliseconds(report.pause);
        let told = json!({
            "tenant": plan.tenant, "from": plan.from, "to": plan.to, "id": report.moving.id, "pause_ms": pause_ms,
            "placement": report.moving.to.placement.0, "rows": report.rows, "bytes": report.bytes,
            "chunks": report.chunks, "rounds": report.rounds, "undid": plan.undo,
            "kept_s": plan.known.moving.keep.as_secs(),
        });
        tracing::info!(tenant = %plan.tenant, from = %plan.from, to = %plan.to, pause_ms, "a tenant has moved");
        self.0.events.tell("tenant-moved", Some(plan.tenant.clone()), told.clone());
        told
    }
}

#[async_trait]
impl Backend for Moves {
    async fn order(&self, order: MoveOrder) -> Result<Ordered, Problem> {
        let plan = self.plan(&order).await?;
        let entry = self.enter((&plan.tenant, &plan.from, &plan.to), false)?;
        if order.dry_run {
            return self.look(&plan, entry).await.map(Ordered::Looked);
        }
        let moves = self.clone();
        Ok(Ordered::Ready(Box::new(move |progress| {
            task::spawn("move a tenant", moves.carry_out(plan, entry, progress));
        })))
    }

    async fn moves(&self) -> Result<Vec<Value>, Problem> {
        let known = self.known()?;
        let mut running = self.0.log.running();
        let mut all = Vec::new();
        for name in known.shards.keys() {
            let Some((store, _)) = self.0.shards.written(name) else { continue };
            for noted in relocate::noted(&store, None).await.map_err(problem)? {
                let stand = running.remove(&noted.moving.tenant);
                all.push(shown(&noted, stand.as_ref(), &self.0.log, &known));
            }
        }
        // Those that are only being looked at are noted nowhere yet.
        all.extend(running.iter().map(|(tenant, stand)| json!({ "tenant": tenant, "from": stand.from, "to": stand.to, "step": "check", "here": stand })));
        Ok(all)
    }

    async fn tenants_on(
        &self,
        shard: &ShardName,
        after: Option<&TenantName>,
        max: usize,
    ) -> Result<Vec<TenantName>, Problem> {
        self.known()?.own(shard)?;
        let closed = || {
            let detail = format!("shard `{shard}` is not open here: see `portolan shard list`");
            Problem::new(Code::Unavailable, detail)
        };
        let (store, _) = self.0.shards.written(shard).ok_or_else(closed)?;
        store.tenants(after, max).await.map_err(|error| problem(error.into()))
    }
}

impl Plan {
    async fn seats(&self) -> Result<(Seat, Seat), Problem> {
        let from = self.known.seat(&self.from, self.epochs.0).await?;
        Ok((from, self.known.seat(&self.to, self.epochs.1).await?))
    }

    fn relocation<'a>(&'a self, from: &'a Seat, to: &'a Seat, watch: &'a Onlooker) -> Relocation<'a> {
        Relocation { from, switch: &self.directory, tenant: &self.tenant, to, watch }
    }
}

/// Carries a plan out, or says how it ended instead.
async fn go(plan: &Plan, from: &Seat, to: &Seat, watch: &Onlooker) -> Result<Report, (End, Problem)> {
    use relocate::Error;
    let relocation = plan.relocation(from, to, watch);
    let found = relocation.check(plan.undo).await.map_err(|error| (End::TakenBack, problem(error)))?;
    watch.expect_rows(found.rows);
    let done = if plan.undo { relocation.undo().await } else { relocation.run().await };
    done.map_err(|error| {
        let left = matches!(error, Error::Overtaken | Error::Stopped | Error::Unsettled(_));
        (if left { End::Left } else { End::TakenBack }, problem(error))
    })
}

/// Who writes a shard, as the control store has it.
fn written_by(state: &State, shard: &ShardName) -> Result<Tenure, Problem> {
    leases::tenure(state, shard.as_str()).ok_or_else(|| {
        Problem::not_found(format!("shard `{shard}` with a lease: `portolan shard list` shows them"))
    })
}

/// A move may write where the tenant is only if no file does: the next `apply` would take it back, without the rows.
fn mine(state: &State, tenant: &TenantName) -> Result<(), Problem> {
    let object = switch::key(tenant).ok().and_then(|key| state.get(&key));
    match object.map(|object| &object.managed_by) {
        Some(Manager::File(file)) => {
            let detail = format!(
                "`place/{tenant}` is managed by {file}, whose next `apply` would undo the move without the tenant's rows: take \
                 `[place.{tenant}]` out of it, apply with `--keep`, and take the object over with `PUT /api/v1/objects/place/{tenant}?detach=true`"
            );
            Err(Problem::new(Code::ManagedElsewhere, detail))
        }
        _ => Ok(()),
    }
}

fn shown(noted: &Noted, stand: Option<&Stand>, log: &Log, known: &Known) -> Value {
    let moving = &noted.moving;
    let kept = noted.sealed_ms.filter(|_| noted.step == Step::Kept);
    let keep_ms = u64::try_from(known.moving.keep.as_millis()).unwrap_or(u64::MAX);
    json!({
        "tenant": moving.tenant, "id": moving.id, "from": moving.from.shard, "to": moving.to.shard,
        "step": noted.step.word(), "undoes": noted.undoes, "mover": noted.mover, "here": stand,
        "pause_ms": log.pause(&moving.id).map(milliseconds),
        "kept_until_ms": kept.map(|sealed| sealed.saturating_add(keep_ms)),
    })
}

fn milliseconds(time: std::time::Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}

/// Why a move did not go as it was asked, with what to do.
fn problem(error: relocate::Error) -> Problem {
    use relocate::Error;
    let shows = "`portolan shard moves` shows how far it is";
    match &error {
        Error::Aborted(_) | Error::Unfit(_) => Problem::new(Code::Conflict, error.to_string()),
        Error::Underway { from, to } => Problem::new(
            Code::Conflict,
            format!(
                "a move of the tenant from `{from}` to `{to}` is under way, or its source still keeps rows: {shows}"
            ),
        ),
        Error::Overtaken | Error::Stopped | Error::Unsettled(_) => {
            Problem::new(Code::Unavailable, format!("{error}. It is brought to its end by itself: {shows}"))
        }
        Error::Store(why) => Problem::new(Code::Unavailable, format!("a shard's database: {why}; try again")),
        Error::Switch(_) => Problem::new(Code::Unavailable, format!("{error}; nothing was done, try again")),
    }
}

/// How a move ended that another began.
fn resumed(end: Resumed) -> Option<(End, &'static str)> {
    match end {
        Resumed::Moved => Some((End::Moved, "tenant-moved")),
        Resumed::TakenBack => Some((End::TakenBack, "tenant-not-moved")),
        Resumed::Nothing => None,
    }
}

/// What the store of intent says, as a problem.
fn away(error: portolan_control::Error) -> Problem {
    changes::problem(error)
}
